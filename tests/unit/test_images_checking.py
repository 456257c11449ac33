"""Whatever is changed in a rendered tree is found and repaired."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.support.aci import (
    device,
    directory,
    fifo,
    file,
    hardlink,
    image_entries,
    make_raw,
    manifest,
    symlink,
)
from tests.support.acl import access_list, set_or_skip
from tests.support.store import paths_in, put

from gantry.errors import BusyError
from gantry.images import DigestMismatchError, ImageError, ImageNotFoundError, Store, checking, render
from gantry.images.checking import Verdict, verify
from gantry.images.records import Image
from gantry.linux.locks import locked

root = pytest.mark.skipif(os.geteuid() != 0, reason="owners and devices need root")
# Changes no bit of mode 4755.
LIST = access_list(7, 5, 5, users={1000: 5}, mask=5)
POD = "11111111-2222-3333-4444-555555555555"
CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(paths_in(tmp_path))


@pytest.fixture
def image(store: Store, tmp_path: Path) -> Image:
    base = image_entries(
        manifest("example.com/base"),
        tree=[
            directory("etc", mode=0o755),
            file("etc/motd", "hello", mode=0o640),
            file("etc/attr", "x", pax_headers={"SCHILY.xattr.user.note": "kept"}),
            hardlink("etc/again", "etc/motd"),
            file("etc/big", os.urandom(600_000)),
        ],
    )
    put(store, make_raw(tmp_path / "base.aci", base, fmt=tarfile.PAX_FORMAT))
    top = image_entries(
        manifest("example.com/app", dependencies=[{"imageName": "example.com/base"}]),
        tree=[
            file("bin/su", "s", mode=0o4755, uid=0, gid=7),
            symlink("link", "etc/motd"),
            fifo("pipe"),
            device("null", 1, 3, mode=0o666),
            directory("empty", mode=0o1777),
        ],
    )
    return put(store, make_raw(tmp_path / "app.aci", top))


def run(*words: str | Path) -> None:
    subprocess.run(words, check=True)


def swap(path: Path, make: Callable[[Path], object]) -> None:
    """Put something else where *path* is, in a directory whose time stays."""
    info = path.parent.stat()
    path.unlink()
    make(path)
    os.utime(path.parent, ns=(info.st_atime_ns, info.st_mtime_ns))


def keeping_time(path: Path, change: Callable[[Path], object]) -> None:
    info = path.lstat()
    change(path)
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns), follow_symlinks=False)


def set_byte(path: Path, at: int) -> None:
    with path.open("r+b") as opened:
        opened.seek(at)
        old = opened.read(1)
        opened.seek(at)
        opened.write(bytes([old[0] ^ 1]))


TAMPERINGS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a byte": (lambda t: keeping_time(t / "etc/motd", lambda p: set_byte(p, 1)), "etc/motd: its content"),
    "the last byte": (
        lambda t: keeping_time(t / "etc/big", lambda p: set_byte(p, 599_999)),
        "etc/big: its content",
    ),
    "longer": (
        lambda t: keeping_time(t / "etc/big", lambda p: os.truncate(p, 600_001)),
        "etc/big: 600000 bytes",
    ),
    "shorter": (
        lambda t: keeping_time(t / "etc/big", lambda p: os.truncate(p, 5)),
        "etc/big: 600000 bytes",
    ),
    "a mode": (lambda t: (t / "bin/su").chmod(0o755), "bin/su: mode 4755 expected, 0755 found"),
    "a directory's mode": (lambda t: (t / "empty").chmod(0o777), "empty: mode 1777 expected"),
    "the root's mode": (lambda t: t.chmod(0o700), "/: mode 0755 expected"),
    "an owner": (lambda t: os.chown(t / "etc/motd", 5, 5), "owner 0:0 expected, 5:5 found"),
    "a link's owner": (
        lambda t: os.chown(t / "link", 1, 0, follow_symlinks=False),
        "link: owner 0:0 expected",
    ),
    "a time": (
        lambda t: os.utime(t / "etc/motd", (0, 0)),
        "2017-07-14 02:40:00.000000000 UTC expected, 1970-01-01 00:00:00.0",
    ),
    "a nanosecond": (
        lambda t: os.utime(t / "pipe", ns=(0, 1_500_000_000_000_000_001)),
        "UTC expected, 2017-07-14 02:40:00.000000001",
    ),
    "a link's target": (
        lambda t: swap(t / "link", lambda p: p.symlink_to("etc/passwd")),
        "link: link to etc/motd expected, to etc/passwd found",
    ),
    "another kind": (lambda t: swap(t / "pipe", Path.touch), "pipe: a named pipe expected, a file found"),
    "a link for a file": (
        lambda t: swap(t / "etc/big", lambda p: p.symlink_to("/etc/passwd")),
        "etc/big: a file expected",
    ),
    "another device": (
        lambda t: swap(t / "null", lambda p: os.mknod(p, 0o020666, os.makedev(1, 5))),
        "null: device 1:3 expected",
    ),
    "an attribute": (lambda t: os.setxattr(t / "etc/attr", "user.note", b"lost"), "user.note is changed"),
    "no attribute": (lambda t: os.removexattr(t / "etc/attr", "user.note"), "user.note is missing"),
    "one more": (lambda t: os.setxattr(t / "empty", "user.new", b""), "user.new is not of the image"),
    "an access list": (
        lambda t: set_or_skip(t / "bin/su", "system.posix_acl_access", LIST),
        "bin/su: attribute system.posix_acl_access is not of the image",
    ),
    "a default access list": (
        lambda t: set_or_skip(t / "empty", "system.posix_acl_default", LIST),
        "empty: attribute system.posix_acl_default is not of the image",
    ),
    "what overlays read": (
        lambda t: os.setxattr(t / "empty", "trusted.overlay.opaque", b"y"),
        "empty: attribute trusted.overlay.opaque is not of the image",
    ),
    "a link's attribute": (
        lambda t: os.setxattr(t / "link", "trusted.note", b"", follow_symlinks=False),
        "link: attribute trusted.note is not of the image",
    ),
    "a capability": (
        lambda t: os.setxattr(t / "bin/su", "security.capability", CAPABILITY),
        "security.capability is not of the image",
    ),
    "a missing file": (lambda t: (t / "bin/su").unlink(), "bin/su: is missing"),
    "an added file": (lambda t: (t / "etc/new").write_text("x"), "etc/new: is not of the image"),
    "an added directory": (lambda t: (t / "new/deep").mkdir(parents=True), "new/deep: is not of the image"),
    "a missing tree": (lambda t: run("rm", "-r", t / "etc"), "etc/motd: is missing"),
    "links no longer one": (
        lambda t: swap(t / "etc/again", lambda p: run("cp", "-a", t / "etc/motd", p)),
        "is no longer one file with",
    ),
    "one name more outside": (
        lambda t: os.link(t / "etc/big", t.parent / "kept"),
        "1 names expected, 2 found",
    ),
}


@root
@pytest.mark.parametrize("name", TAMPERINGS)
def test_every_change_is_found_and_repaired(store: Store, image: Image, name: str) -> None:
    change, told = TAMPERINGS[name]
    tree = render(store, image.id)
    change(Path(tree.rootfs))
    (verdict,) = verify(store, image, repair=False)
    assert any(told in line for line in verdict.differences), verdict.differences
    assert not verdict.repaired
    (verdict,) = verify(store, image)
    assert verdict.repaired
    (verdict,) = verify(store, image)
    assert verdict.differences == []
    assert [each for each in store.entries("tree") if each.startswith(".")] == []


def test_DEP_29_an_untouched_tree_has_no_differences(store: Store, image: Image) -> None:
    assert verify(store, image) == []
    tree = render(store, image.id)
    (verdict,) = verify(store, image)
    assert (verdict.tree, verdict.differences, verdict.repaired) == (tree.id, [], False)


def test_pods_keep_the_old_copy_until_they_end(store: Store, image: Image) -> None:
    tree = render(store, image.id, ref=POD)
    changed = Path(tree.rootfs, "etc/motd")
    changed.write_text("changed")
    with changed.open() as held:
        (verdict,) = verify(store, image)
        assert verdict.repaired
        assert held.read() == "changed"
    assert changed.read_text() == "hello"
    assert store.refs(tree.id) == [POD]
    (old,) = (each for each in store.entries("tree") if each.startswith(".damaged-"))
    store.gc()
    assert old in store.entries("tree")
    store.drop_ref(tree.id, POD)
    store.pin("user", "keeper", [image.id])
    store.gc()
    assert old not in store.entries("tree")
    assert verify(store, image)[0].differences == []


def test_a_tree_is_compared_with_what_it_was_made_from(store: Store, image: Image, tmp_path: Path) -> None:
    """Its dependency's name means another image by now; a pod that was prepared starts on the old one."""
    rootfs = Path(render(store, image.id, ref=POD).rootfs)
    newer = image_entries(manifest("example.com/base"), tree=[file("etc/motd", "newer")])
    put(store, make_raw(tmp_path / "newer.aci", newer), latest=True)
    [verdict] = verify(store, store.find(image.id))
    assert (verdict.differences, verdict.repaired) == ([], False)
    (rootfs / "etc/motd").write_text("tampered")
    [verdict] = verify(store, store.find(image.id))
    assert verdict.repaired
    assert (rootfs / "etc/motd").read_text() == "hello"
    [verdict] = verify(store, store.find(image.id))
    assert verdict.differences == []
    assert Path(render(store, image.id).rootfs, "etc/motd").read_text() == "newer"


def test_without_what_it_was_made_from_a_tree_is_left_as_it_is(store: Store, image: Image) -> None:
    tree = render(store, image.id, ref=POD)
    (Path(tree.rootfs) / "etc/motd").write_text("tampered")
    store.remove("example.com/base")
    with pytest.raises(ImageNotFoundError, match="not in the store any more"):
        verify(store, image)
    assert (Path(tree.rootfs) / "etc/motd").read_text() == "tampered"


def test_a_record_that_names_other_images_is_not_believed(store: Store, image: Image, tmp_path: Path) -> None:
    tree = render(store, image.id, ref=POD)
    newer = image_entries(manifest("example.com/base"), tree=[file("etc/motd", "newer")])
    other = put(store, make_raw(tmp_path / "newer.aci", newer))
    record = Path(store.path("tree", tree.id, "tree.json"))
    text = json.loads(record.read_text())
    record.write_text(json.dumps({**text, "images": [str(other.id), str(image.id)]}))
    with pytest.raises(DigestMismatchError, match="was changed"):
        verify(store, image)
    assert (Path(tree.rootfs) / "etc/motd").read_text() == "hello"


def test_repair_and_render_do_not_wait_for_each_other(
    store: Store, image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who renders holds the store and waits for the tree's lock: nobody does it the other way round."""
    tree = render(store, image.id)
    (Path(tree.rootfs) / "etc/motd").write_text("tampered")
    entered = threading.Event()
    got: list[str] = []

    def renders() -> None:
        with store.hold():
            entered.set()
            with contextlib.suppress(BusyError), locked(store.path("tree-locks", tree.id), timeout=10):
                got.append(tree.id)

    thread = threading.Thread(target=renders)

    def composed(*args: Any, **kwargs: Any) -> None:
        compose(*args, **kwargs)
        thread.start()
        assert entered.wait(10)

    compose = checking.compose
    monkeypatch.setattr(checking, "compose", composed)
    [verdict] = verify(store, image)
    thread.join()
    assert verdict.repaired
    assert got == [tree.id]


def test_a_tree_is_made_anew_once(store: Store, image: Image, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two that repair it the second finds it done; the pods' old copy is kept once."""
    tree = render(store, image.id, ref=POD)
    (Path(tree.rootfs) / "etc/motd").write_text("tampered")

    both = threading.Barrier(2)
    verdicts: list[Verdict] = []

    def composed(*args: Any, **kwargs: Any) -> None:
        compose(*args, **kwargs)
        both.wait(20)

    compose = checking.compose
    monkeypatch.setattr(checking, "compose", composed)
    threads = [threading.Thread(target=lambda: verdicts.extend(verify(store, image))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [verdict.repaired for verdict in verdicts] == [True, True]
    kept, found = sorted(os.listdir(store.path("tree")))
    assert (kept.startswith(".damaged-"), found) == (True, tree.id)


@root
def test_attributes_that_links_and_pipes_cannot_have_are_recorded(store: Store, tmp_path: Path) -> None:
    headers = {"SCHILY.xattr.user.note": "lost"}
    entries = image_entries(
        manifest("example.com/app"),
        tree=[symlink("link", "x", pax_headers=headers), fifo("pipe", pax_headers=headers)],
    )
    image = put(store, make_raw(tmp_path / "app.aci", entries, fmt=tarfile.PAX_FORMAT))
    tree = render(store, image.id)
    assert sorted(tree.downgrades["xattrs"]) == ["user.note on link", "user.note on pipe"]
    [verdict] = verify(store, image)
    assert verdict.differences == []


def test_changed_bytes_of_the_image_itself_cannot_be_repaired(store: Store, image: Image) -> None:
    render(store, image.id)
    set_byte(Path(image.path), os.stat(image.path).st_size // 2)
    with pytest.raises(ImageError):
        verify(store, image)


def test_a_changed_manifest_is_found(store: Store, image: Image) -> None:
    kept = Path(image.directory, "manifest")
    kept.write_bytes(kept.read_bytes() + b"\n")
    with pytest.raises(DigestMismatchError, match="manifest"):
        verify(store, image)


def test_the_command(store: Store, image: Image) -> None:
    def gantry(*words: str) -> subprocess.CompletedProcess[str]:
        program = "import sys; from gantry.cli import main; sys.exit(main())"
        command = [sys.executable, "-c", program, f"--dir={store.paths.data}", "image", "verify", *words]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    name = "example.com/app"
    assert gantry(name).stdout == f'image "{name}" not rendered; no verification needed\n'
    tree = render(store, image.id)
    right = f'successfully verified checksum for image: "{name}" ("{image.id}")\n'
    assert gantry(name).stdout == right
    Path(tree.rootfs, "etc/motd").write_text("changed")
    checked = gantry("--check", name)
    assert checked.returncode == 254
    assert f"tree cache verification failed for image {name}: not rebuilt" in checked.stderr
    assert "etc/motd: " in checked.stderr
    repaired = gantry(name)
    assert (repaired.returncode, "rebuilt" in repaired.stderr) == (0, True)
    assert gantry(name).stdout == right
    assert right in gantry().stdout.replace("example.com/app:1.0", name)
    assert gantry("example.com/none").returncode == 254
