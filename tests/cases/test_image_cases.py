"""Field cases of groups A and B that need a file system or a network of their own.

Cases 1, 4 and 6 have more tests in tests/integration/test_fetch.py, cases 8, 11, 13, 15 and 16 in
tests/conformance and tests/hostile, cases 4 and 48 in tests/unit/test_images_store.py.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.aci import directory, file, make_aci, make_raw, manifest, symlink
from tests.support.store import paths_in, put, put_new, sizes

from gantry.config import Paths
from gantry.errors import GantryError
from gantry.images import Store, fetch, render
from gantry.images.pins import USER
from gantry.linux.fs import free_bytes
from gantry.trust import KeyStore

RUNTIME = str(Path(__file__).resolve().parents[2] / "runtime")

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounts file systems")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MB, nothing reserved."""
    image = tmp_path / "disk.img"
    with image.open("wb") as out:
        out.truncate(16 * 1024 * 1024)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", "-O", "^has_journal", image], check=True)
    mountpoint = tmp_path / "disk"
    mountpoint.mkdir()
    done = subprocess.run(["mount", "-o", "loop", image, mountpoint], check=False, capture_output=True)
    if done.returncode:
        pytest.skip(f"loop mounts do not work here: {done.stderr.decode().strip()}")
    try:
        yield mountpoint
    finally:
        subprocess.run(["umount", mountpoint], check=True)


def fill(directory_: Path) -> None:
    """Use the last block of the file system; reservations may be given back meanwhile, so more than once."""
    for _ in range(10):
        for size in (1 << 20, 1 << 12, 1):
            with (directory_ / f"filler{size}").open("ab", buffering=0) as out:
                try:
                    while True:
                        out.write(bytes(size))
                except OSError:
                    continue
        os.sync()
        if free_bytes(str(directory_)) == 0:
            return
    pytest.fail("the file system does not get full")


@pytest.mark.root
@needs_root
def test_case_5_removal_and_gc_work_with_no_byte_free(small_disk: Path, tmp_path: Path) -> None:
    store = Store(paths_in(small_disk))
    blob = random.Random(1).randbytes(300_000)
    one = put_new(store, tmp_path, "example.com/one", files={"blob": blob})
    two = put_new(store, tmp_path, "example.com/two", files={"blob": blob + b"2"})
    three = put_new(store, tmp_path, "example.com/three", files={"blob": blob + b"3"})
    render(store, two.id)
    tree = render(store, three.id, ref="00000000-0000-4000-8000-000000000000")
    (small_disk / "data/images/incoming" / ("a" * 64 + ".part")).write_bytes(blob)
    fill(small_disk)
    store.remove(one.id)
    assert free_bytes(str(small_disk)) >= 300_000
    fill(small_disk)
    result = store.gc(grace_period=-1)
    assert result.images == [two.id]
    assert len(result.trees) == 1
    assert len(result.debris) == 1
    assert free_bytes(str(small_disk)) >= 900_000
    assert [image.id for image in store.list()] == [three.id]
    assert store.refs(tree.id)


@pytest.mark.root
@needs_root
def test_case_5_an_older_store_is_brought_forward_and_unpinned_with_no_byte_free(
    small_disk: Path, tmp_path: Path
) -> None:
    store = Store(paths_in(small_disk))
    image = put_new(store, tmp_path, "example.com/one")
    other = put_new(store, tmp_path, "example.com/two")
    store.pin(USER, image.id, [image.id])
    Path(store.path("pins", "web")).write_text(f"{other.id}\n")
    Path(store.path("format")).write_bytes(b"gantry-images 1\n")
    Path(store.path("pins", f"user:{image.id}")).rename(store.path("pins", "api"))
    fill(small_disk)
    opened = Store(store.paths)
    assert [(pin.kind, pin.name) for pin in opened.pins()] == [("pod", "api"), ("pod", "web")]
    assert opened.gc(grace_period=-1).images == []
    opened.unpin("pod", "api")
    assert opened.gc(grace_period=-1).images == [image.id]


@pytest.mark.root
@needs_root
def test_case_4_a_full_disk_is_one_line_and_keeps_nothing(small_disk: Path, tmp_path: Path) -> None:
    store = Store(paths_in(small_disk))
    store.ensure()
    keystore = KeyStore(store.paths)
    blob = random.Random(1).randbytes(2_000_000)
    made = make_aci(tmp_path / "big.aci", files={"blob": blob})
    before = sizes(store)
    with (small_disk / "ballast").open("wb") as out:
        out.write(bytes(free_bytes(str(small_disk)) - 3_200_000))
    # It fits, but not twice: the file, then its rendered tree.
    image = fetch(store, keystore, str(made.path), insecure=["image"]).image
    with pytest.raises(GantryError) as caught:
        render(store, image.id)
    assert caught.value.code == "no-space"
    assert os.listdir(store.path("tree")) == []
    other = make_aci(tmp_path / "other.aci", "example.com/other", files={"blob": blob[::-1]})
    with pytest.raises(GantryError) as caught:
        fetch(store, keystore, str(other.path), insecure=["image"])
    assert caught.value.code == "no-space"
    assert str(caught.value).isprintable()
    assert os.listdir(store.path("incoming")) == []
    store.remove(image.id)
    assert sizes(store)["incoming"] == before["incoming"]
    assert sizes(store)["image"] <= before["image"] + 4096


@pytest.mark.root
@needs_root
def test_case_4_the_disk_fills_up_in_the_middle(
    small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check beforehand saw enough, and then somebody else took it."""
    store = Store(paths_in(small_disk))
    store.ensure()
    blob = random.Random(1).randbytes(3_000_000)
    made = make_aci(tmp_path / "big.aci", files={"blob": blob})
    with (small_disk / "ballast").open("wb") as out:
        out.write(bytes(free_bytes(str(small_disk)) - 1_500_000))
    monkeypatch.setattr("gantry.images.space.free_bytes", lambda _: 1 << 40)
    with pytest.raises(GantryError) as caught:
        fetch(store, KeyStore(store.paths), str(made.path), insecure=["image"])
    assert caught.value.code == "no-space"
    assert os.listdir(store.path("incoming")) == os.listdir(store.path("image")) == []


OFFLINE = """
import os, socket, sys
sys.path[:0] = [sys.argv[1]]
from gantry.config import Paths
from gantry.images import Store, fetch, render
from gantry.trust import KeyStore
assert {name for _, name in socket.if_nameindex()} <= {"lo"}
paths = Paths(*sys.argv[2:6])
store = Store(paths)
result = fetch(store, KeyStore(paths), sys.argv[6])
assert not result.fetched
print(render(store, result.image.id).rootfs)
"""


@pytest.mark.root
@needs_root
@pytest.mark.parametrize("argument", ["example.com/app:1.0", "ID"])
def test_case_6_an_image_that_is_here_needs_no_network(tmp_path: Path, argument: str) -> None:
    paths: Paths = paths_in(tmp_path)
    store = Store(paths)
    put_new(store, tmp_path, "example.com/base", files={"b": "1"})
    image = put_new(store, tmp_path, version="1.0", dependencies=[{"imageName": "example.com/base"}])
    what = image.id if argument == "ID" else argument
    done = subprocess.run(
        ["unshare", "--net", sys.executable, "-c", OFFLINE, RUNTIME, *map(str, paths[:4]), what],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert os.path.isfile(os.path.join(done.stdout.strip(), "b"))


@pytest.mark.parametrize(
    "entries",
    [
        [directory("rootfs/d"), directory("rootfs/d")],
        [symlink("rootfs/lib", "usr/lib"), directory("rootfs/lib")],
        [file("rootfs/f", "one"), file("rootfs/f", "two")],
    ],
    ids=["directory twice", "directory over symlink", "file twice"],
)
def test_case_13_repeated_entries_are_refused_with_name_and_offset(
    tmp_path: Path, entries: list[tuple[object, bytes]]
) -> None:
    made = make_raw(tmp_path / "a.aci", [directory("rootfs"), *entries, file("manifest", manifest())])  # type: ignore[list-item]
    store = Store(paths_in(tmp_path))
    with pytest.raises(GantryError, match=r"'rootfs/\w+/?' is in the archive twice \(again at byte \d+\)"):
        put(store, made)
    assert store.list() == []
    assert store.trees() == {}
