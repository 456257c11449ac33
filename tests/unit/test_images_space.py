"""Free space is looked at before anything is written, and what does not fit leaves nothing behind."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.support.store import paths_in, put_new

from gantry.build.export import export_rendered
from gantry.images import NoSpaceError, Store, export, render, render_directory, space
from gantry.images.limits import Limits
from gantry.images.space import Room, existing, require

MIB = 1 << 20
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounts file systems")


class Disk(NamedTuple):
    """What statvfs(3) says."""

    f_bavail: int
    f_favail: int = 1000
    f_files: int = 10_000
    f_frsize: int = 1
    f_blocks: int = 1 << 40


@pytest.mark.parametrize(
    ("disk", "size", "entries", "told"),
    [
        (Disk(3 * MIB), 2 * MIB, 0, None),
        (Disk(3 * MIB), 2 * MIB + 1, 0, "3145729 bytes are needed, 3145728 are free"),
        (Disk(3 * MIB), MIB, 1025, "3146752 bytes are needed"),
        (Disk(9 * MIB), 0, 1000, None),
        (Disk(9 * MIB), 0, 1001, "1001 files are to be made, 1000 more are possible"),
        (Disk(9 * MIB, 0, 0), 0, 5000, None),  # a file system that makes inodes as it needs them
    ],
)
def test_what_is_required(
    monkeypatch: pytest.MonkeyPatch, disk: Disk, size: int, entries: int, told: str | None
) -> None:
    monkeypatch.setattr(os, "statvfs", lambda _: disk)
    if told is None:
        require("/", size, "write x", entries=entries)
        return
    with pytest.raises(NoSpaceError, match=f"no space left on the device to write x: {told}") as caught:
        require("/", size, "write x", entries=entries)
    assert "gantry image gc" in str(caught.value.hint)
    assert str(caught.value).isprintable()


def test_what_is_looked_at_is_what_exists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def disk(path: str) -> Disk:
        asked.append(path)
        return Disk(1 << 40)

    monkeypatch.setattr(os, "statvfs", disk)
    require(str(tmp_path / "a/b/c"), 1, "write x")
    assert set(asked) == {str(tmp_path)}
    monkeypatch.chdir(tmp_path)
    assert existing("") == str(tmp_path)
    assert existing("a/b") == str(tmp_path)


def test_a_stranger_leaves_a_reserve(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "statvfs", lambda _: Disk(1000, f_blocks=2000))
    room = Room(str(tmp_path), "download x", Limits(reserve=1 << 30))  # a twentieth of a small disk
    room.need(900)
    with pytest.raises(NoSpaceError, match="901 bytes are needed and 100 have to stay free, 1000 are free"):
        room.need(901)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of two megabytes and forty files."""
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m,nr_inodes=40", "tmpfs", str(place)]
    if subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("mounting is not possible here")
    yield place
    subprocess.run(["umount", place], check=True)


WAYS: dict[str, Callable[[Store, str, str], object]] = {
    "render": render_directory,
    "extract": lambda store, image, to: render_directory(store, image, to, alone=True),
    "export": export,
    "export_compressed": lambda store, image, to: export(store, image, to, compressed=True),
    "export_rendered": lambda store, image, to: export_rendered(store, image, f"{to}.aci"),
}


@needs_root
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("much", ["bytes", "files"])
def test_nothing_is_written_of_what_does_not_fit(way: str, much: str, tmp_path: Path, small: Path) -> None:
    store = Store(paths_in(tmp_path))
    noise = random.Random(1).randbytes(3 * MIB)
    files = {"blob": noise} if much == "bytes" else {f"f{n}": "x" for n in range(60)}
    image = put_new(store, tmp_path, files=files)
    if much == "files" and way.startswith("export"):
        WAYS[way](store, image.id, str(small / "out"))  # it is one file
        return
    with pytest.raises(NoSpaceError, match="are needed" if much == "bytes" else "are to be made"):
        WAYS[way](store, image.id, str(small / "out"))
    assert os.listdir(small) == []


@needs_root
@pytest.mark.parametrize("way", WAYS)
def test_what_the_look_did_not_foresee_leaves_nothing_either(
    way: str, tmp_path: Path, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(paths_in(tmp_path))
    image = put_new(store, tmp_path, files={"blob": random.Random(1).randbytes(3 * MIB)})
    render(store, image.id)
    monkeypatch.setattr(space, "free_bytes", lambda _: 1 << 40)
    with pytest.raises(NoSpaceError):
        WAYS[way](store, image.id, str(small / "out"))
    assert os.listdir(small) == []
