"""Members of the group fetch without root; root judges again what they hand over."""

from __future__ import annotations

import grp
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.support.aci import make_aci
from tests.support.command import Site
from tests.support.https_server import Reply
from tests.support.openpgp import make_key

from gantry import audit
from gantry.errors import HostError
from gantry.images import Store, sharing
from gantry.images.members import adopt, open_to_group
from gantry.trust import KeyStore

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else"),
]
#: Users and a group that need no entry anywhere.
MEMBER, OTHER, GROUP = 61234, 61235, 61236


class Host:
    """A host with a site behind it; its members reach both."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.store = Store(site.paths)
        self.keys = KeyStore(site.paths)

    def fetch(
        self, *words: str, uid: int = MEMBER, groups: tuple[int, ...] = (GROUP,), status: int = 0
    ) -> subprocess.CompletedProcess[str]:
        command = self.site.argv(f"--ca-file={self.site.server.ca_file}", *words)
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            env={**self.site.environment, "HOME": "/"},
            cwd="/",
            check=False,
            user=uid,
            group=uid,
            extra_groups=list(groups),
        )
        assert done.returncode == status, done.stderr
        assert "Traceback" not in done.stderr
        return done

    def ids(self) -> list[str]:
        return [str(image.id) for image in Store(self.site.paths).list()]

    def handed(self, uid: int = MEMBER) -> Path:
        return Path(self.store.path("incoming", "handed", str(uid), "images", "image"))


def is_reachable(path: Path) -> bool:
    return all(parent.stat().st_mode & 0o005 == 0o005 for parent in [path, *path.parents])


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    import gantry  # noqa: PLC0415

    runtime, interpreter = Path(gantry.__file__).parent, Path(os.path.realpath(sys.executable))
    if not (is_reachable(runtime) and is_reachable(interpreter.parent)):
        pytest.skip("this checkout cannot be read by ordinary users")
    place = Path(tempfile.mkdtemp(prefix="gantry-members-", dir="/tmp"))
    place.chmod(0o755)

    class Group:
        gr_gid = GROUP

    def named(name: str) -> object:
        assert name == "gantry"
        return Group

    monkeypatch.setattr(sharing.grp, "getgrnam", named)
    with Site(place) as site:
        for top in (Path(site.server.ca_file).parent, Path(site.server.ca_file)):
            top.chmod(top.stat().st_mode | 0o055)
        site.trust()
        yield Host(site)
    shutil.rmtree(place)


def test_a_member_fetches_and_root_takes_in(host: Host) -> None:
    host.store.ensure()  # the group is there: its members may hand over at once
    made = host.site.publish(exec_=["/bin/true"])
    done = host.fetch("fetch", "example.com/web:1.0")
    assert done.stdout.strip() == made.id[:39]
    assert "signature verified: Test Maker" in done.stderr
    assert "handed over: 1 image(s)" in done.stderr
    assert host.ids() == []
    [result] = adopt(host.store, host.keys)
    assert (result.image_id, result.error) == (made.id, None)
    assert host.ids() == [made.id]
    image = host.store.find(made.id)
    assert image.verification is not None
    assert image.source_url == f"handed over by {MEMBER} ({MEMBER})"
    assert not image.latest
    assert os.listdir(host.handed()) == []
    assert list(audit.entries(host.site.paths.data, event="image.fetch"))[-1]["image_id"] == made.id
    assert adopt(host.store, host.keys) == []


def test_members_read_the_store_and_do_not_fetch_what_is_there(host: Host) -> None:
    made = host.site.publish(exec_=["/bin/true"])
    assert host.site.gantry("fetch", "example.com/web:1.0").returncode == 0
    assert open_to_group(host.store)
    later = host.site.publish(version="2.0", exec_=["/bin/true"])
    assert host.site.gantry("fetch", "example.com/web:2.0").returncode == 0
    listed = json.loads(host.fetch("image", "list", "--format=json").stdout)
    assert {image["id"] for image in listed} == {made.id, later.id}
    asked = list(host.site.proxy.connections)
    for version in ("1.0", "2.0"):
        done = host.fetch("fetch", "--pull-policy=new", f"example.com/web:{version}")
        assert "handed over" not in done.stderr
    assert host.site.proxy.connections == asked
    assert host.fetch("image", "cat-manifest", "example.com/web:2.0").stdout.startswith("{")


def test_dependencies_come_along(host: Host) -> None:
    open_to_group(host.store)
    base = host.site.publish("example.com/base", "1.0")
    dependency = {"imageName": "example.com/base", "labels": [{"name": "version", "value": "1.0"}]}
    top = host.site.publish(dependencies=[dependency])
    host.fetch("fetch", "example.com/web:1.0")
    assert {each.image_id for each in adopt(host.store, host.keys)} == {base.id, top.id}
    assert set(host.ids()) == {base.id, top.id}


def test_nobody_else_may(host: Host) -> None:
    open_to_group(host.store)
    host.site.publish()
    done = host.fetch("fetch", "example.com/web:1.0", uid=OTHER, groups=(), status=254)
    assert done.stderr.count("\n") == 1
    assert "group" in done.stderr
    assert os.listdir(host.store.path("incoming", "handed")) == []


def test_members_do_not_reach_each_other(host: Host) -> None:
    open_to_group(host.store)
    host.site.publish()
    host.fetch("fetch", "example.com/web:1.0")
    place = str(host.store.path("incoming", "handed", str(MEMBER)))
    for words in (["mv", place, f"{place}-mine"], ["rm", "-r", place], ["ls", host.store.path("incoming")]):
        done = subprocess.run(
            words, user=OTHER, group=OTHER, extra_groups=[GROUP], capture_output=True, check=False
        )
        assert done.returncode != 0, words
    assert len(os.listdir(host.handed())) == 1


def test_a_cut_fetch_of_a_member_is_seen_and_continued(host: Host) -> None:
    open_to_group(host.store)
    made = host.site.publish(files={"blob": os.urandom(2_000_000)})
    [path] = [each for each in host.site.files if each.endswith(".aci")]
    whole, answers = host.site.files[path], host.site.server.routes
    cut = Reply(body=whole, etag='"e"', ranges=True, cut_after=900_000)
    replies = [cut, Reply(503, headers={"Retry-After": "3600"}), Reply(body=whole, etag='"e"', ranges=True)]
    host.site.server.routes = lambda request: (
        replies.pop(0) if request.bare_path == path else answers(request)  # type: ignore[operator]
    )
    assert "asked again in 3600 seconds" in host.fetch("fetch", "example.com/web:1.0", status=254).stderr
    usage = host.site.json("image", "usage")
    [part] = [part for part in usage["parts"] if part["path"].startswith("incoming/")]
    assert part["about"] == f"brought by user {MEMBER}, not taken in yet"
    assert part["size"] > 800_000
    host.fetch("fetch", "example.com/web:1.0")
    ranges = [request.headers.get("range") for request in host.site.server.requests if request.path == path]
    assert ranges[-1] is not None
    assert adopt(host.store, host.keys)[0].image_id == made.id


def replace(path: Path, name: str, content: bytes) -> None:
    (path / name).unlink()
    (path / name).write_bytes(content)
    os.chown(path / name, MEMBER, MEMBER)


def other_image(host: Host, path: Path) -> None:
    """A well-formed image under a signature of another."""
    made = make_aci(host.site.directory / "forged.aci", "example.com/web", labels={"version": "1.0"})
    replace(path, "image.aci", made.data)


def strangers(host: Host, path: Path) -> None:
    data = (path / "image.aci").read_bytes()
    replace(path, "image.aci.asc", make_key("Stranger <s@example.org>").sign(data))


def another_name(host: Host, path: Path) -> None:
    made = make_aci(host.site.directory / "other.aci", "example.org/other")
    replace(path, "image.aci", made.data)
    replace(path, "image.aci.asc", host.site.key.sign(made.data))


def a_link(host: Host, path: Path) -> None:
    target = host.site.directory / "kept.aci"
    shutil.copy(path / "image.aci", target)
    (path / "image.aci").unlink()
    (path / "image.aci").symlink_to(target)


def a_hard_link(host: Host, path: Path) -> None:
    os.link(path / "image.aci", host.handed().parent / "second-name")


def roots_file(host: Host, path: Path) -> None:
    os.chown(path / "image.aci", 0, 0)


def a_pipe(host: Host, path: Path) -> None:
    (path / "image.aci").unlink()
    os.mkfifo(path / "image.aci")
    os.chown(path / "image.aci", MEMBER, MEMBER)


def a_file(_host: Host, path: Path) -> None:
    shutil.rmtree(path)
    path.write_text("no directory")


def a_link_to_another(host: Host, path: Path) -> None:
    path.rename(host.site.directory / "moved")
    path.symlink_to(host.site.directory / "moved")


def deep(_host: Host, path: Path) -> None:
    (path / "a/b/c").mkdir(parents=True)
    (path / "a/b/c/link").symlink_to("/etc")
    (path / "image.aci.asc").unlink()


ATTACKS: dict[str, tuple[Callable[[Host, Path], object], str]] = {
    "no signature": (lambda _host, path: (path / "image.aci.asc").unlink(), "unsigned"),
    "no image": (lambda _host, path: (path / "image.aci").unlink(), "archive"),
    "an empty image": (lambda _host, path: replace(path, "image.aci", b""), "bad-signature"),
    "a changed image": (other_image, "bad-signature"),
    "a stranger's signature": (strangers, "unknown-key"),
    "a name that the key does not sign": (another_name, "untrusted-for-name"),
    "garbage for a signature": (
        lambda _host, path: replace(path, "image.aci.asc", b"garbage"),
        "signature-format",
    ),
    "a link": (a_link, "archive"),
    "a second name": (a_hard_link, "archive"),
    "root's own file": (roots_file, "archive"),
    "a pipe": (a_pipe, "archive"),
    "a file for the directory": (a_file, "archive"),
    "a link for the directory": (a_link_to_another, "archive"),
    "more than there should be": (deep, "unsigned"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_a_member_says_counts_for_nothing(host: Host, attack: str) -> None:
    open_to_group(host.store)
    made = host.site.publish()
    host.fetch("fetch", "example.com/web:1.0")
    change, code = ATTACKS[attack]
    change(host, host.handed() / made.id)
    [result] = adopt(host.store, host.keys)
    assert result.error is not None
    assert result.error.code == code
    assert f"handed over by {MEMBER}" in result.error.message or code != "archive"
    assert host.ids() == []
    assert os.listdir(host.handed()) == []
    assert os.listdir(host.store.path("incoming")) == ["handed"]


def test_what_is_not_a_members_directory_is_passed_over(host: Host, tmp_path: Path) -> None:
    open_to_group(host.store)
    host.site.publish()
    host.fetch("fetch", "example.com/web:1.0")
    handed = Path(host.store.path("incoming", "handed"))
    (handed / str(MEMBER)).rename(tmp_path / "elsewhere")
    (handed / str(MEMBER)).symlink_to(tmp_path / "elsewhere")
    (handed / str(OTHER)).mkdir()
    (handed / str(OTHER) / "images").symlink_to(tmp_path / "elsewhere/images")
    shutil.copytree(tmp_path / "elsewhere", handed / "61237")
    (handed / "name").mkdir()
    (handed / "file").touch()
    assert adopt(host.store, host.keys) == []
    assert host.ids() == []
    assert len(os.listdir(tmp_path / "elsewhere/images/image")) == 1


def test_a_member_moves_no_name_back(host: Host) -> None:
    """Freshness is the host's: an older signature is refused, and the latest of a name is nobody's word."""
    from gantry.trust.freshness import Accepted, Freshness, series_of  # noqa: PLC0415

    open_to_group(host.store)
    made = host.site.publish()
    host.fetch("fetch", "example.com/web:1.0")
    labels = {"version": "1.0", "os": "linux", "arch": "amd64"}
    series = series_of("example.com/web", labels, labels, latest=False)
    newer = Accepted("2099-01-01T00:00:00Z", "sha512-" + "0" * 128, host.site.key.fingerprint)
    Freshness(host.site.paths.data).accept(series, newer, back=False)
    [result] = adopt(host.store, host.keys)
    assert result.error is not None
    assert (result.error.code, result.image_id) == ("downgrade", made.id)


def test_what_there_is_no_room_for_stops_nobody_else(host: Host) -> None:
    open_to_group(host.store)
    made = host.site.publish()
    host.fetch("fetch", "example.com/web:1.0", uid=OTHER)
    host.fetch("fetch", "example.com/web:1.0")
    [first] = host.handed(MEMBER).iterdir()
    os.truncate(first / "image.aci", 1 << 42)  # costs its member nothing
    short, full = adopt(host.store, host.keys)
    assert isinstance(short.error, HostError)
    assert (full.image_id, full.error) == (made.id, None)
    assert host.ids() == [made.id]
    assert [path.name for path in host.handed(MEMBER).iterdir()] == [first.name]  # it waits on


def test_gc_removes_what_nobody_comes_back_for(host: Host) -> None:
    open_to_group(host.store)
    host.site.publish()
    host.fetch("fetch", "example.com/web:1.0")
    assert host.store.gc(grace_period=3600).debris == []
    assert len(os.listdir(host.handed())) == 1
    assert host.store.gc(grace_period=-1).debris == [f"incoming/handed/{MEMBER}"]
    assert os.listdir(host.store.path("incoming", "handed")) == []


@pytest.mark.skipif(
    any(entry.gr_name == "gantry" for entry in grp.getgrall()), reason="this machine has the group gantry"
)
def test_the_command_without_the_group(host: Host) -> None:
    done = host.site.gantry("image", "adopt")
    assert done.returncode == 254
    assert done.stderr == (
        'image adopt: there is no group "gantry" on this host (groupadd --system gantry)\n'
    )
