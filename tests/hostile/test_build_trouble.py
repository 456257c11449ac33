"""Building under trouble: what is read changes, the disk is full, the builder is killed; nothing stays."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.support.aci import file, make_aci, manifest, tar_bytes

from gantry.build import BuildError, build_archive, build_directory, build_image, packing
from gantry.build.patching import patch_archive
from gantry.errors import GantryError, HostError, UsageError
from gantry.images import validate
from gantry.images.errors import NoSpaceError
from gantry.linux import newfile

M = manifest()
ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="mounting and becoming another user need root")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    top = tmp_path / "tree"
    top.mkdir()
    for name in "abc":
        (top / name).write_bytes(os.urandom(300_000))
    return top


@pytest.fixture
def out(tmp_path: Path) -> Path:
    place = tmp_path / "out"
    place.mkdir()
    return place


def when_packed(monkeypatch: pytest.MonkeyPatch, name: bytes, action: Callable[[], object]) -> None:
    """Do *action* once the entry of that name has been packed, while its content has not."""
    add = packing.Packer.add

    def intercepted(self: packing.Packer, entry: packing.Entry) -> None:
        add(self, entry)
        if entry.name == name:
            action()

    monkeypatch.setattr(packing.Packer, "add", intercepted)


TROUBLE: dict[str, tuple[bytes, Callable[[Path], object]]] = {
    "shrinks": (b"rootfs/a", lambda tree: os.truncate(tree / "a", 10)),
    "grows": (b"rootfs/a", lambda tree: os.truncate(tree / "a", 300_001)),
    "is written to": (b"rootfs/a", lambda tree: (tree / "a").write_bytes(os.urandom(300_000))),
    "vanishes": (b"rootfs/a", lambda tree: (tree / "b").unlink()),
    "becomes a link to nothing": (
        b"rootfs/d",
        lambda tree: ((tree / "d/e").unlink(), (tree / "d").rmdir(), (tree / "d").symlink_to("gone")),
    ),
}


@pytest.mark.parametrize("case", TROUBLE)
def test_a_source_that_changes_is_noticed(
    tree: Path, out: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    (tree / "d").mkdir()
    (tree / "d/e").write_text("e")
    when, change = TROUBLE[case]
    when_packed(monkeypatch, when, lambda: change(tree))
    with pytest.raises(BuildError, match="changed while it was read"):
        build_image(str(tree), M, str(out / "o.aci"))
    assert os.listdir(out) == []


def test_a_file_that_becomes_a_link_is_not_followed(
    tree: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lstat = os.lstat

    def swapping(path: bytes, **more: int) -> os.stat_result:
        info = lstat(path, **more)
        if path == os.fsencode(tree / "b"):
            (tree / "b").unlink()
            (tree / "b").symlink_to("/etc/passwd")
        return info

    monkeypatch.setattr(os, "lstat", swapping)
    with pytest.raises(BuildError, match="changed while it was read"):
        build_image(str(tree), M, str(out / "o.aci"))
    assert os.listdir(out) == []


def test_a_tar_that_changes_is_noticed(tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "r.tar"
    for change in (
        lambda: os.truncate(source, 2000),
        lambda: source.write_bytes(source.read_bytes() + bytes(9)),
    ):
        source.write_bytes(tar_bytes([file("a", os.urandom(300_000)), file("b", b"b")]))
        with monkeypatch.context() as patch:
            when_packed(patch, b"rootfs/a", change)
            with pytest.raises(BuildError, match="changed while it was read"):
                build_archive(str(source), M, str(out / "o.aci"))
    assert os.listdir(out) == []


def test_an_image_that_changes_while_it_is_patched_is_noticed(tmp_path: Path, out: Path) -> None:
    image = make_aci(tmp_path / "i.aci", files={"a": "one"}, compression="none")

    def change(old: bytes) -> bytes:
        image.path.write_bytes(make_aci(tmp_path / "j.aci", files={"a": "two"}, compression="none").data)
        return old

    with pytest.raises(BuildError, match="changed while it was read"):
        patch_archive(str(image.path), str(out / "o.aci"), change)
    assert os.listdir(out) == []


@ROOT
def test_what_may_not_be_read_is_named(tree: Path, out: Path) -> None:
    (tree / "b").chmod(0o000)
    (tree / "closed").mkdir(0o700)
    out.chmod(0o777)
    for path in (tree, *tree.parents):
        if str(path).startswith("/tmp/"):
            path.chmod(path.stat().st_mode | 0o555)
    for closed in ("b", "closed"):
        code = (
            "import os, sys\n"
            "sys.argv.append('')\n"
            "from gantry.build import build_image\n"
            "from gantry.errors import GantryError\n"
            "import gantry.images.compressing, gantry.build.tree\n"
            "os.setgid(65534); os.setuid(65534)\n"
            f"try: build_image({str(tree)!r}, {M!r}, {str(out / 'o.aci')!r})\n"
            "except GantryError as error: print(error.message)\n"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout == f"{tree / closed} cannot be read: Permission denied\n", done.stderr
        assert os.listdir(out) == []
        (tree / "b").chmod(0o644)


@contextlib.contextmanager
def small_disk(place: Path, size: int) -> Iterator[Path]:
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


@ROOT
@pytest.mark.parametrize("way", ["directory", "tar", "compressed tar", "patch"])
def test_a_full_disk_leaves_nothing(tmp_path: Path, tree: Path, way: str) -> None:
    source = tmp_path / "r.tar"
    tar = tar_bytes([file(name, os.urandom(300_000)) for name in "abc"])
    source.write_bytes(tar)
    if way == "compressed tar":
        source.write_bytes(subprocess.run(["gzip"], input=tar, capture_output=True, check=True).stdout)
    image = make_aci(tmp_path / "i.aci", files={"a": os.urandom(900_000)})
    with small_disk(tmp_path / "small", 512 * 1024) as place:
        (place / "o.aci").write_text("mine")
        target = str(place / "o.aci")
        ways = {
            "directory": lambda: build_image(str(tree), M, target, overwrite=True),
            "patch": lambda: patch_archive(str(image.path), target, lambda old: old, overwrite=True),
        }
        with pytest.raises(NoSpaceError, match="no space left on the device to") as refused:
            ways.get(way, lambda: build_archive(str(source), M, target, overwrite=True))()
        assert "\n" not in refused.value.message
        assert os.listdir(place) == ["o.aci"]
        assert (place / "o.aci").read_text() == "mine"
        assert os.statvfs(place).f_bavail * 4096 > 400 * 1024  # no nameless file holds on to space


def test_outputs_that_cannot_be(tree: Path, out: Path) -> None:
    with pytest.raises(HostError, match=r"No such file or directory \(.*/missing\)"):
        build_image(str(tree), M, str(out / "missing/o.aci"))
    (out / "file").touch()
    with pytest.raises(HostError, match="Not a directory"):
        build_image(str(tree), M, str(out / "file/o.aci"))
    for inside in (tree / "o.aci", tree / ".." / "tree" / "o.aci"):
        with pytest.raises(UsageError, match="lies inside"):
            build_image(str(tree), M, str(inside))
    (out / "d.aci").mkdir()
    with pytest.raises(UsageError, match="is a directory"):
        build_image(str(tree), M, str(out / "d.aci"), overwrite=True)
    (out / "link").symlink_to(tree)
    with pytest.raises(UsageError, match="lies inside"):
        build_image(str(tree), M, str(out / "link/o.aci"))
    assert sorted(os.listdir(tree)) == ["a", "b", "c"]


KILLED = """
import os, signal, sys
from gantry.build import build_image, packing
where, tree, target, overwrite = sys.argv[1:]
def die(*_, **__): os.kill(os.getpid(), signal.SIGKILL)
if where == "inside":
    packing.Packer.finish = die
elif where == "before its name":
    os.link = die
elif where == "named":
    os.rename = die
elif where == "without O_TMPFILE":
    os.O_TMPFILE = os.O_DIRECTORY | os.O_PATH
    opened = os.open
    def refuse(path, flags, *more, **and_more):
        if flags & os.O_RDWR and os.path.isdir(path): raise OSError(95, "Operation not supported")
        return opened(path, flags, *more, **and_more)
    os.open = refuse
    packing.Packer.finish = die
build_image(tree, MANIFEST, target, overwrite=bool(overwrite))
"""


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("where", ["inside", "before its name", "named", "without O_TMPFILE"])
def test_a_killed_build_leaves_nothing_that_the_next_does_not_remove(
    tree: Path, out: Path, where: str, overwrite: bool
) -> None:
    target = out / "o.aci"
    if overwrite:
        target.write_text("mine")
    code = KILLED.replace("MANIFEST", repr(M))
    arguments = [where, str(tree), str(target), "yes" if overwrite else ""]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )
    named = where == "without O_TMPFILE" or (where == "named" and overwrite)
    if where == "named" and not overwrite:  # there is no such moment: link(2) is the last step
        assert done.returncode == 0, done.stderr
        assert os.listdir(out) == ["o.aci"]
        return
    assert done.returncode == -signal.SIGKILL, done.stderr
    left = set(os.listdir(out)) - {"o.aci"}
    assert len(left) == named
    assert target.exists() == overwrite
    assert not overwrite or target.read_text() == "mine"
    build_image(str(tree), M, str(target), overwrite=overwrite)
    assert os.listdir(out) == ["o.aci"]
    assert validate(str(target)) == []


def test_a_builder_at_work_keeps_its_file(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two at once, on a file system that has no nameless files: neither removes the other's."""
    opened = os.open

    def refuse(path: str, flags: int, *more: int, **and_more: int) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(95, "Operation not supported")
        return opened(path, flags, *more, **and_more)

    monkeypatch.setattr(os, "open", refuse)
    target = str(out / "o.aci")
    with newfile.new_file(target, overwrite=True) as first:
        with newfile.new_file(target, overwrite=True) as second:
            assert len(os.listdir(out)) == 2
            os.write(second, b"second")
        os.write(first, b"first")
    assert os.listdir(out) == ["o.aci"]
    assert (out / "o.aci").read_text() == "first"


def test_of_two_at_once_one_gets_the_name(tree: Path, out: Path) -> None:
    """Without --overwrite, whoever comes second is told, and what is there is whole."""
    results: list[str] = []

    def attempt() -> None:
        try:
            build_image(str(tree), M, str(out / "o.aci"))
            results.append("built")
        except GantryError as error:
            results.append(error.message)

    threads = [threading.Thread(target=attempt) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results.count("built") == 1
    assert all("exists" in result for result in results if result != "built")
    assert os.listdir(out) == ["o.aci"]
    assert validate(str(out / "o.aci")) == []


def test_a_pipe_in_the_place_of_a_file_does_not_stop_the_build(
    tree: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lstat = os.lstat

    def swapping(path: bytes, **more: int) -> os.stat_result:
        info = lstat(path, **more)
        if path == os.fsencode(tree / "b"):
            (tree / "b").unlink()
            os.mkfifo(tree / "b")
        return info

    monkeypatch.setattr(os, "lstat", swapping)
    with pytest.raises(BuildError, match="changed while it was read"):
        build_image(str(tree), M, str(out / "o.aci"))


def test_the_output_does_not_become_part_of_the_layout(tmp_path: Path) -> None:
    """Built into the layout it would spoil it for the next build."""
    layout = tmp_path / "layout"
    (layout / "rootfs").mkdir(parents=True)
    (layout / "manifest").write_bytes(manifest("example.com/x"))
    (tmp_path / "way").symlink_to(layout)
    for target in (layout / "x.aci", tmp_path / "way/x.aci"):
        with pytest.raises(UsageError, match="lies inside"):
            build_directory(str(layout), str(target))
    assert sorted(os.listdir(layout)) == ["manifest", "rootfs"]


@pytest.mark.parametrize(
    "words",
    [
        ("build", "--manifest=/dev/zero", "rootfs", "x.aci"),
        ("build", "zero.toml", "x.aci"),
        ("sign", "--key=/dev/zero", "good.aci"),
        ("image", "patch-manifest", "--manifest=/dev/zero", "good.aci", "x.aci"),
    ],
)
def test_a_file_without_an_end_is_refused(tmp_path: Path, words: tuple[str, ...]) -> None:
    (tmp_path / "rootfs").mkdir()
    (tmp_path / "zero.toml").symlink_to("/dev/zero")
    build_image(str(tmp_path / "rootfs"), manifest("example.com/x"), str(tmp_path / "good.aci"))
    program = "import resource, sys; resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30)); "
    program += "from gantry.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", program, f"--dir={tmp_path}/data", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 254
    assert "zero has more than 16777216 bytes" in done.stderr or "zero.toml has more" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "x.aci").exists()
