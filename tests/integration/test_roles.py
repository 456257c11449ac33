"""Roles on a bare host: what is missing is installed, and what is taken off a list goes away."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gantry.trust import signing
from testhosts import cache, fleet, ssh
from testhosts.spec import parse

pytestmark = [pytest.mark.root, pytest.mark.machines, pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
MISSING = ("runc", "catatonit")
FETCHED = (*MISSING, "python3-apt", "python-apt-common")
"""What a bare Debian has not, and Ansible's apt module then needs; nothing else depends on any of them."""

PLAY = """\
- hosts: all
  gather_facts: false
  roles:
    - appc.gantry.runtime
    - appc.gantry.trust
"""


def suite() -> str:
    """This machine's Debian: its apt fetches the packages that the host is given."""
    release = dict(
        line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line
    )
    return release.get("VERSION_CODENAME", "").strip('"')


@dataclass(frozen=True)
class Site:
    """One machine, and a control node whose collection was installed from the artifact.

    Attributes:
        place: The control node's directory.
        made: The fleet.
    """

    place: Path
    made: fleet.Fleet

    def run(self, script: str) -> str:
        """The output of a line of shell on the host."""
        done = ssh.run(self.made.ssh_config, "bare", script)
        assert done.returncode == 0, f"{script}: {done.stderr or done.stdout}"
        return done.stdout.strip()

    def play(self, variables: dict[str, Any], *options: str) -> tuple[int, str]:
        """Run the playbook: how many tasks changed something, and everything that was printed."""
        playbook = self.place / "play.yml"
        playbook.write_text(PLAY)
        given = self.place / "variables.json"
        given.write_text(
            json.dumps({"gantry_runtime_build_directory": str(cache.directory() / "runtime"), **variables})
        )
        done = subprocess.run(
            [BIN / "ansible-playbook", "-i", self.made.inventory, "-e", f"@{given}", *options, playbook],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            env=ansible(self.place),
        )
        assert done.returncode == 0, done.stdout + done.stderr
        found = re.search(r"^bare\s*:.*\bchanged=(\d+)", done.stdout, re.MULTILINE)
        assert found, done.stdout
        return int(found.group(1)), done.stdout


def ansible(place: Path) -> dict[str, str]:
    (place / "ansible.cfg").write_text("[defaults]\n")
    return {
        **os.environ,
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "ANSIBLE_CONFIG": str(place / "ansible.cfg"),
        "ANSIBLE_HOME": str(place / "ansible"),
        "ANSIBLE_COLLECTIONS_PATH": str(place / "collections"),
        "ANSIBLE_NOCOLOR": "1",
    }


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    if suite() not in {"bookworm", "trixie"}:
        pytest.skip("this machine's apt cannot fetch packages for the host")
    place = tmp_path_factory.mktemp("roles")
    built = cache.run(
        [sys.executable, str(ROOT / "scripts/build_collection.py"), "--out", str(place / "build")]
    )
    install = [str(BIN / "ansible-galaxy"), "collection", "install", "--offline", built.split()[0]]
    cache.run([*install, "-p", str(place / "collections")], env=ansible(place))
    made = fleet.create(parse({"hosts": [{"name": "bare", "suite": suite()}]}), place / "fleet", print)
    try:
        yield Site(place, made)
    finally:
        fleet.destroy(place / "fleet")


def given_packages(site: Site) -> None:
    """Take from the host what a bare Debian has not, and give it an index that has just these packages."""
    repository = site.place / "repository"
    repository.mkdir()
    fetch = ["apt-get", "download", "-q", "-o", "APT::Sandbox::User=root", *FETCHED]
    subprocess.run(fetch, cwd=repository, check=True, stdout=subprocess.DEVNULL)
    entries = []
    for path in sorted(repository.glob("*.deb")):
        control = subprocess.run(["dpkg-deb", "-f", path], check=True, capture_output=True, text=True).stdout
        digest = subprocess.run(
            ["sha256sum", path], check=True, capture_output=True, text=True
        ).stdout.split()[0]
        entries.append(f"{control}Filename: ./{path.name}\nSize: {path.stat().st_size}\nSHA256: {digest}\n")
    (repository / "Packages").write_text("\n".join(entries))
    copy = ["scp", "-q", "-r", "-F", str(site.made.ssh_config), str(repository), "bare:/srv/repository"]
    subprocess.run(copy, check=True)
    site.run(f"dpkg --purge {' '.join(FETCHED)} crun 2>&1")
    site.run("rm -rf /etc/apt/sources.list.d/* /var/lib/apt/lists/*")
    site.run("echo 'deb [trusted=yes] file:/srv/repository ./' > /etc/apt/sources.list")


def installed(site: Site) -> set[str]:
    return set(
        site.run("dpkg-query -W -f '${Package} ${db:Status-Status}\\n' | sed -n 's/ installed$//p'").split()
    )


def test_case_33_what_a_fresh_host_lacks_is_predicted_and_installed(site: Site) -> None:
    given_packages(site)
    bare = installed(site)
    assert not bare & set(FETCHED)

    changed, told = site.play({}, "--check")
    assert changed > 0
    assert "would install runc, catatonit" in told
    assert installed(site) == bare
    # On a machine /var/lib/gantry is a mount of the test's own, and there from the beginning.
    assert site.run("ls -A /var/lib/gantry; ls -d /opt/gantry /etc/gantry 2>/dev/null || true") == ""

    changed, _told = site.play({})
    assert changed > 0
    # python3-apt is what the apt module brings for itself; nothing else comes with them.
    assert installed(site) - bare == set(FETCHED)
    assert site.run("gantry version --format=json")
    changed, told = site.play({})
    assert changed == 0, told


def test_a_missing_package_that_may_not_be_installed_is_refused(site: Site) -> None:
    wanted = {
        "gantry_runtime_packages": ["runc", "no-such-package"],
        "gantry_runtime_install_packages": False,
    }
    with pytest.raises(AssertionError, match=r"bare lacks no-such-package"):
        site.play(wanted)


def trusted(site: Site) -> set[str]:
    names = site.run("find /etc/gantry/trustedkeys -type f ! -name '.*'").split()
    return {Path(name).name.lower() for name in names}


def test_a_key_that_is_taken_off_the_list_is_trusted_no_more(site: Site) -> None:
    keys = [signing.make_key(f"{name} <{name}@example.com>") for name in ("one", "two", "hand")]
    (_, first, one), (_, second, two), (_, by_hand, hand) = keys
    (one, two, hand) = (name.lower() for name in (one, two, hand))

    def listed(*wanted: tuple[str, str]) -> dict[str, Any]:
        entries = [{"prefix": "example.com", "fingerprint": f, "key": text} for f, text in wanted]
        return {"gantry_trusted_keys": entries}

    site.play({})
    (site.place / "hand.asc").write_text(by_hand)
    copy = ["scp", "-q", "-F", str(site.made.ssh_config), str(site.place / "hand.asc"), "bare:/root/"]
    subprocess.run(copy, check=True)
    site.run(f"gantry trust --prefix=example.com --fingerprint={hand} /root/hand.asc")

    assert site.play(listed((one, first), (two, second)))[0] == 1
    assert trusted(site) == {one, two, hand}
    assert site.play(listed((one, first)), "--check")[0] == 1
    assert trusted(site) == {one, two, hand}
    changed, told = site.play({**listed((one, first)), "gantry_trust_prune": False})
    assert (changed, trusted(site)) == (0, {one, two, hand}), told

    assert site.play(listed((one, first)))[0] == 1
    assert trusted(site) == {one, hand}
    assert site.play(listed((one, first)))[0] == 0

    # The administrator's own key: listed for a while, then no more. It was there before, so it stays.
    assert site.play(listed((one, first), (hand, by_hand)))[0] == 0
    assert site.play(listed())[0] == 1
    assert trusted(site) == {hand}
    assert site.play(listed())[0] == 0
