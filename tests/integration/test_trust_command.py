"""``gantry trust`` as it is typed: the review on a terminal, what a merge tells, a user's own keys."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.command import Site
from tests.support.https_server import Reply, Request
from tests.support.openpgp import GnuPG, make_key

NOW, DAY = int(time.time()), 86400
NOBODY = 65534


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with Site(tmp_path) as made:
        yield made


@pytest.fixture(scope="module")
def gpg() -> Iterator[GnuPG]:
    with GnuPG() as made:
        yield made


class Terminal:
    """The command with a terminal of its own, and somebody at it."""

    def __init__(self, site: Site, *words: str) -> None:
        argv = site.argv(*words)
        self.process, self._terminal = pty.fork()
        if self.process == 0:
            os.execve(argv[0], argv, site.environment)
        self.shown = ""

    def read_until(self, text: str) -> None:
        deadline = time.monotonic() + 60
        while text not in self.shown:
            assert time.monotonic() < deadline, self.shown
            self._read(1)

    def _read(self, seconds: float) -> bool:
        if not select.select([self._terminal], [], [], seconds)[0]:
            return True
        try:
            piece = os.read(self._terminal, 4096)
        except OSError:  # the command has ended
            return False
        self.shown += piece.decode().replace("\r\n", "\n")
        return bool(piece)

    def type(self, keys: str) -> None:
        os.write(self._terminal, keys.encode())

    def end(self) -> int:
        """The exit status, negative for a signal."""
        while self._read(60):
            pass
        os.close(self._terminal)
        return os.waitstatus_to_exitcode(os.waitpid(self.process, 0)[1])


def keys(site: Site) -> list[str]:
    return [found["fingerprint"] for found in site.json("trust", "list")]


QUESTION = "Are you sure you want to trust this key (yes/no)?\n"


def test_the_review_shows_who_until_when_and_what_speaks_against_it(site: Site, gpg: GnuPG) -> None:
    weak = ("--cert-digest-algo", "SHA1", "--allow-weak-digest-algos", "--allow-weak-key-signatures")
    key = gpg.make_key("Weak <w@example.com>", algorithm="rsa2048", at=NOW - 100 * DAY, options=weak)
    file = site.directory / "weak.asc"
    file.write_bytes(gpg.export(key))
    with_subkeys = gpg.make_key("Two <t@example.com>", usage="cert", expires="3y", at=NOW - 100 * DAY)
    gpg.add_subkey(with_subkeys, expires="30d", at=NOW - 99 * DAY)
    subkey = gpg.add_subkey(with_subkeys, expires="1y", at=NOW - 99 * DAY)
    both = site.directory / "both.asc"
    both.write_bytes(gpg.export(with_subkeys))

    terminal = Terminal(site, "trust", "--prefix=example.com", str(file))
    terminal.read_until(QUESTION)
    assert "Weak <w@example.com>" in terminal.shown
    assert re.search(r"warning: .*own self-signature uses SHA-1", terminal.shown)
    terminal.type("no\n")
    assert terminal.end() == 254
    terminal = Terminal(site, "trust", "--prefix=example.com", str(both))
    terminal.read_until(QUESTION)
    shown = terminal.shown
    digits = shown.replace(" ", "").lower()
    assert with_subkeys in digits
    assert subkey in digits
    day = "[0-9]{4}-[0-9]{2}-[0-9]{2}"
    assert re.search(f"does not sign, expired {day}\n", shown), shown
    assert re.search(f"signs, expires {day}\n", shown), shown
    assert re.search(f"made {day}, expires {day}\n", shown), shown
    terminal.type("no\n")
    assert terminal.end() == 254
    assert keys(site) == []


def test_only_yes_is_a_yes(site: Site) -> None:
    words = ("trust", "--prefix=example.com", str(site.key_file))
    for typed, told in (("no\n", "not trusting"), ("\x04", "the question was not answered")):
        terminal = Terminal(site, *words)
        terminal.read_until(QUESTION)
        terminal.type(typed)
        assert terminal.end() == 254
        assert told in terminal.shown
        assert keys(site) == []
    terminal = Terminal(site, *words)
    terminal.read_until(QUESTION)
    terminal.type("\x03")
    assert terminal.end() == -signal.SIGINT
    assert keys(site) == []
    terminal = Terminal(site, *words)
    terminal.read_until(QUESTION)
    terminal.type("y\n")
    terminal.read_until("Please enter 'yes' or 'no'\n")
    terminal.type("YES\n")
    terminal.read_until(QUESTION)
    terminal.type("yes\n")
    assert terminal.end() == 0
    assert keys(site) == [site.key.fingerprint]


def test_without_a_terminal_only_a_named_fingerprint_will_do(site: Site) -> None:
    done = site.gantry("trust", "--prefix=example.com", str(site.key_file))
    assert done.returncode == 254
    assert "unable to ask user to review fingerprint due to lack of tty (name the key with" in done.stderr
    other = make_key("Other <o@example.com>").fingerprint
    done = site.gantry("trust", "--prefix=example.com", f"--fingerprint={other}", str(site.key_file))
    assert done.returncode == 254
    assert keys(site) == []


def test_case_24_a_merge_tells_the_old_and_the_new_end(site: Site, gpg: GnuPG) -> None:
    key = gpg.make_key("Renew <n@example.com>", usage="cert", expires="200d", at=NOW - 100 * DAY)
    subkey = gpg.add_subkey(key, expires="150d", at=NOW - 99 * DAY)
    file = site.directory / "key.asc"
    words = ("trust", "--prefix=example.com", f"--fingerprint={key}", str(file))
    file.write_bytes(gpg.export(key))
    assert site.gantry(*words).stdout.startswith("Added key")
    assert site.gantry(*words).stdout.count("\n") == 1
    gpg.run("--quick-set-expire", key, "2y", at=NOW - 50 * DAY)
    gpg.run("--quick-set-expire", key, "3y", subkey, at=NOW - 50 * DAY)
    more = gpg.add_subkey(key, at=NOW - 10 * DAY)
    file.write_bytes(gpg.export(key))
    first, *lines = site.gantry(*words).stdout.splitlines()
    assert first.startswith("Renewed key")
    moment = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"
    expected = [
        rf"  expires: {moment} -> {moment}",
        rf"  subkey {subkey}: expires: {moment} -> {moment}",
        rf"  subkey {more}: new, never expires",
    ]
    assert len(lines) == len(expected), lines
    for pattern in expected:
        assert any(re.fullmatch(pattern, line) for line in lines), (pattern, lines)
    gpg.revoke(key, reason="2", at=NOW - DAY)
    file.write_bytes(gpg.export(key))
    [result] = site.json(*words)
    assert (result["before"]["revoked"], result["after"]["revoked"]) == (False, True)
    assert result["action"] == "merge"


def test_days_and_weeks_are_durations(site: Site, gpg: GnuPG) -> None:
    key = gpg.make_key("Soon <s@example.com>", expires="10d", at=NOW - DAY)
    file = site.directory / "key.asc"
    file.write_bytes(gpg.export(key))
    site.gantry("trust", "--prefix=example.com", f"--fingerprint={key}", str(file))
    for within, status in (("1w", 0), ("8d", 0), ("30d", 1), ("2w", 1), ("1d12h", 0)):
        assert site.gantry("trust", "check", f"--within={within}").returncode == status, within
    assert site.gantry("trust", "check", "--within=30x").returncode == 254


# -- a user's own keys --------------------------------------------------------------------------------


def test_the_users_layer_beats_the_others(site: Site) -> None:
    made = site.publish()
    own = f"--user-config={site.directory}/own"
    words = ("--prefix=example.com", f"--fingerprint={site.key.fingerprint}", str(site.key_file))
    assert site.gantry(own, "trust", *words).returncode == 0
    assert keys(site) == []
    [listed] = json.loads(site.gantry("--format=json", own, "trust", "list").stdout)
    assert listed["path"].startswith(f"{site.directory}/own/trustedkeys/prefix.d/example.com/")
    assert site.gantry("fetch", "example.com/web:1.0").returncode == 254
    done = site.gantry(own, "fetch", "example.com/web:1.0")
    assert done.returncode == 0, done.stderr
    assert site.json("image", "list")[0]["id"] == made.id
    site.gantry("image", "rm", "example.com/web")
    # An empty file of the user's takes away what the administrator trusts, for this user only.
    site.trust()
    assert site.gantry(own, "trust", "mask", "--prefix=example.com", site.key.fingerprint).returncode == 0
    assert site.gantry(own, "fetch", "example.com/web:1.0").returncode == 254
    assert site.gantry("fetch", "example.com/web:1.0").returncode == 0
    done = site.gantry(own, "trust", "rm", "--prefix=example.com", site.key.fingerprint)
    assert "to trust it again: gantry trust --prefix=example.com KEYFILE" in done.stderr
    assert site.gantry(own, "trust", *words).returncode == 0
    assert site.gantry(own, "fetch", "--no-cache", "example.com/web:1.0").returncode == 0
    assert keys(site) == [site.key.fingerprint]


def test_removing_a_key_that_the_administrator_trusts_masks_it_for_the_user(site: Site) -> None:
    site.trust()
    own = f"--user-config={site.directory}/own"
    assert site.gantry(own, "trust", "rm", site.key.fingerprint).returncode == 0
    site.publish()
    assert site.gantry(own, "fetch", "example.com/web:1.0").returncode == 254
    assert keys(site) == [site.key.fingerprint]


@pytest.mark.parametrize("layer", ["user", "local", "system"])
def test_a_layer_that_is_no_directory_is_refused(site: Site, layer: str) -> None:
    """A mask in it would be overlooked."""
    for words in (("trust", "list"), ("list",)):
        done = site.gantry(f"--{layer}-config={site.key_file}", *words)
        assert done.returncode == 254
        assert done.stderr.startswith(f'{" ".join(words)}: expected "{site.key_file}" to be a directory (')
        assert done.stderr.count("\n") == 1


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize("variable", ["HOME", "XDG_CONFIG_HOME"])
def test_an_ordinary_users_keys_are_in_their_home(variable: str) -> None:
    place = Path(tempfile.mkdtemp(prefix="gantry-user-", dir="/tmp"))
    place.chmod(0o755)
    try:
        with Site(place) as site:
            keys_of_a_user(site, variable)
    finally:
        shutil.rmtree(place)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize("mode", [0o700, 0o755])
@pytest.mark.parametrize("variable", ["HOME", "XDG_CONFIG_HOME"])
def test_a_home_that_is_somebody_elses_counts_for_nothing(variable: str, mode: int) -> None:
    """``setpriv`` and some ``sudo`` leave the variables of the user before: not their keys, no refusal."""
    place = Path(tempfile.mkdtemp(prefix="gantry-user-", dir="/tmp"))
    place.chmod(0o755)
    try:
        with Site(place) as site:
            home = site.directory / "home"
            keys = (
                home / (".config/" if variable == "HOME" else "") / "gantry/trustedkeys/prefix.d/example.com"
            )
            keys.mkdir(parents=True)
            shutil.copy(site.key_file, keys / site.key.fingerprint)
            home.chmod(mode)
            done = as_user(site, {variable: str(home)}, "--format=json", "trust", "list")
            assert (done.returncode, done.stderr) == (0, "")
            assert json.loads(done.stdout) == []
    finally:
        shutil.rmtree(place)


def as_user(site: Site, environment: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            site.argv(*words),
            env={**site.environment, "HOME": "/nonexistent", **environment},
            user=NOBODY,
            group=NOBODY,
            extra_groups=[],
            capture_output=True,
            text=True,
            check=False,
            cwd="/",
        )

    if run("version").returncode:
        pytest.skip("this checkout cannot be read by ordinary users")
    return run(*words)


def keys_of_a_user(site: Site, variable: str) -> None:
    home = site.directory / "home"
    home.mkdir()
    os.chown(home, NOBODY, NOBODY)
    its = {variable: str(home)}
    named = f"--fingerprint={site.key.fingerprint}"
    done = as_user(site, its, "trust", "--prefix=example.com", named, str(site.key_file))
    assert done.returncode == 0, done.stderr
    top = home / ".config" if variable == "HOME" else home
    assert (top / "gantry/trustedkeys/prefix.d/example.com" / site.key.fingerprint).is_file()
    [listed] = json.loads(as_user(site, its, "--format=json", "trust", "list").stdout)
    assert listed["fingerprint"] == site.key.fingerprint
    assert keys(site) == []


def test_of_several_announced_keys_the_one_that_is_named_is_trusted(site: Site) -> None:
    """As after a publisher's change of keys, which ``gantry push`` announces both of."""
    several = [make_key(f"{name} <{name}@example.com>") for name in ("one", "two", "three")]
    tag = '<meta name="ac-discovery-pubkeys" content="example.com https://example.com/keys/{}.asc">'

    announced: list[object] = ["missing", 0, 1]

    def answer(request: Request) -> Reply | bytes:
        name = request.bare_path.rpartition("/")[2].removesuffix(".asc")
        if not request.bare_path.startswith("/keys/"):
            return "".join(tag.format(name) for name in announced).encode()
        return Reply(404) if name == "missing" else several[int(name)].public

    site.server.routes = answer
    ask = ["trust", "--prefix=example.com/app"]
    for key in several[1::-1]:
        done = site.gantry(f"--ca-file={site.server.ca_file}", *ask, f"--fingerprint={key.fingerprint}")
        assert done.returncode == 0, done.stderr
    assert keys(site) == sorted(key.fingerprint for key in several[:2])
    done = site.gantry(f"--ca-file={site.server.ca_file}", *ask, f"--fingerprint={several[2].fingerprint}")
    assert done.returncode == 254
    announced[:] = [0, 1]
    done = site.gantry(f"--ca-file={site.server.ca_file}", *ask, f"--fingerprint={several[2].fingerprint}")
    assert "none of the keys is" in done.stderr
    assert "nothing was trusted" in done.stderr
    assert len(keys(site)) == 2
    files = [site.directory / f"{number}.asc" for number in range(2)]
    for number, file in enumerate(files):
        file.write_bytes(several[number + 1].public)
    done = site.gantry(*ask, f"--fingerprint={several[2].fingerprint}", *map(str, files))
    assert done.returncode == 0, done.stderr
    assert len(keys(site)) == 3
