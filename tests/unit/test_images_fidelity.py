"""What an image says of a file is what lies on the disk, where the file system can have it; else it is told.

The whole way: taken in, rendered, compared, extracted, exported again.
"""

from __future__ import annotations

import os
import shutil
import stat
import struct
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.aci import Entry, device, directory, fifo, file, hardlink, make_raw, manifest, symlink
from tests.support.acl import access_list, set_or_skip
from tests.support.store import paths_in, put, put_new

from gantry.build.export import export_rendered
from gantry.build.packing import BuildError
from gantry.images import Store, render, render_directory, rendering
from gantry.images.checking import verify
from gantry.images.validation import examine

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="owners, devices and mounts take root"),
]
S = 1_000_000_000


@pytest.fixture(params=["here", "ext4", "tmpfs"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A directory on a file system of a kind."""
    point = tmp_path / "place"
    point.mkdir()
    if request.param == "here":
        yield point
        return
    source: list[str | Path] = ["-t", "tmpfs", "tmpfs"]
    if request.param == "ext4":
        disk = tmp_path / "disk"
        subprocess.run(["truncate", "-s", "96M", disk], check=True)
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", disk], check=True)
        source = ["-o", "loop", disk]
    if subprocess.run(["mount", *source, point], check=False, capture_output=True).returncode != 0:
        pytest.skip(f"a {request.param} cannot be mounted here")
    yield point
    subprocess.run(["umount", point], check=True)


def taken(place: Path, tree: list[Entry]) -> tuple[Store, str]:
    """A store there with an image of these entries."""
    entries = [directory("rootfs"), *tree, file("manifest", manifest("example.com/a"))]
    store = Store(paths_in(place))
    return store, put(store, make_raw(place / "a.aci", entries, fmt=tarfile.PAX_FORMAT)).id


def whole(store: Store, ident: str, place: Path) -> Path:
    """Go the whole way; nothing may be lost. The rendered tree."""
    tree = render(store, ident)
    assert tree.downgrades == {}
    [verdict] = verify(store, store.find(ident))
    assert verdict.differences == []
    render_directory(store, ident, str(place / "out"), alone=True)
    assert described(place / "out/rootfs") == described(Path(tree.rootfs))
    export_rendered(store, ident, str(place / "one.aci"))
    again = put(store, place / "one.aci")
    export_rendered(store, again.id, str(place / "two.aci"))
    assert (place / "one.aci").read_bytes() == (place / "two.aci").read_bytes()
    coarse = [(*entry[:6], entry[6] // S, *entry[7:]) for entry in described(Path(tree.rootfs))]
    rendered = described(Path(render(store, again.id).rootfs))
    assert [(*entry[:6], entry[6] // S, *entry[7:]) for entry in rendered] == coarse
    return Path(tree.rootfs)


def described(root: Path) -> list[tuple[Any, ...]]:
    found: list[tuple[Any, ...]] = []
    for path, directories, files in os.walk(os.fsencode(root)):
        for name in [b".", *directories, *files]:
            full = os.path.join(path, name)
            info = os.lstat(full)
            body = b""
            if stat.S_ISREG(info.st_mode):
                body = Path(os.fsdecode(full)).read_bytes()
            elif stat.S_ISLNK(info.st_mode):
                body = os.readlink(full)
            xattrs = {
                each: os.getxattr(full, each, follow_symlinks=False)
                for each in os.listxattr(full, follow_symlinks=False)
            }
            inside = os.path.relpath(full, os.fsencode(root))
            numbers = (info.st_mode, info.st_uid, info.st_gid, info.st_nlink, info.st_rdev, info.st_mtime_ns)
            found.append((inside, *numbers, body, xattrs))
    return sorted(found, key=lambda entry: entry[0])


def xattrs(**values: bytes) -> dict[str, Any]:
    pax = {
        f"SCHILY.xattr.{name.replace('__', '.')}": value.decode("utf-8", "surrogateescape")
        for name, value in values.items()
    }
    return {"pax_headers": pax}


def test_kinds_owners_modes_links(place: Path) -> None:
    tree = [
        directory("rootfs/set", 0o2775, uid=5, gid=6),
        directory("rootfs/sticky", 0o1777),
        directory("rootfs/closed", 0o000, uid=7),
        file("rootfs/closed/in", "x", 0o000),
        file("rootfs/setuid", "x" * 5000, 0o4755, uid=1000, gid=1001),
        file("rootfs/huge-owner", "x", uid=2_000_000_000, gid=2_000_000_001),
        hardlink("rootfs/set/same", "rootfs/setuid"),
        hardlink("rootfs/same", "rootfs/setuid"),
        symlink("rootfs/dangling", "../../../nowhere", uid=3),
        hardlink("rootfs/dangling-too", "rootfs/dangling"),
        fifo("rootfs/pipe", 0o622, uid=4),
        device("rootfs/null", 1, 3, mode=0o666),
        device("rootfs/disk", 8, 1, block=True, mode=0o660, gid=6),
        hardlink("rootfs/null-too", "rootfs/null"),
        directory("rootfs/empty"),
    ]
    root = whole(*taken(place, tree), place)
    assert (root / "same").stat().st_nlink == 3
    assert (root / "setuid").stat().st_mode & 0o7777 == 0o4755
    assert os.lstat(root / "dangling").st_uid == 3
    assert os.lstat(root / "null-too").st_rdev == os.makedev(1, 3)
    assert (root / "set").stat().st_mode & 0o7777 == 0o2775
    assert (root / "set/same").stat().st_gid == 1001  # not inherited from the directory


def test_names(place: Path) -> None:
    names = ["e\u0301", "\u00e9", "\udcff\udcfe", "new\nline", "tab\t", "*", " ", "-rf", "a" * 255, "\\x"]
    names += ["d/" * 60 + "deep"]
    root = whole(
        *taken(
            place, [file(f"rootfs/{name}", name[:3].encode("utf-8", "surrogateescape")) for name in names]
        ),
        place,
    )
    for name in names:
        assert os.path.exists(os.path.join(os.fsencode(root), name.encode("utf-8", "surrogateescape")))


def test_times(place: Path) -> None:
    times = {
        "now": 1_700_000_000.123456789,
        "old": -1,
        "older": -2_000_000_000,
        "then": 2_147_483_648,
        "later": 4_000_000_000,
    }
    tree = [
        file(
            f"rootfs/{name}",
            "x",
            pax_headers={"mtime": "1700000000.123456789" if name == "now" else str(time)},
        )
        for name, time in times.items()
    ]
    tree += [symlink("rootfs/link", "x", pax_headers={"mtime": "12.000000001"})]
    root = whole(*taken(place, tree), place)
    assert os.lstat(root / "now").st_mtime_ns == 1_700_000_000_123_456_789
    assert os.lstat(root / "link").st_mtime_ns == 12_000_000_001
    assert os.lstat(root / "older").st_mtime_ns == -2_000_000_000 * S


def test_a_time_that_the_file_system_does_not_know_is_told(place: Path) -> None:
    far = 20_000_000_000  # in 2603
    tree = [
        directory("rootfs/d", pax_headers={"mtime": str(far)}),
        file("rootfs/d/f", "x", pax_headers={"mtime": str(far)}),
        symlink("rootfs/d/l", "x", pax_headers={"mtime": str(far)}),
        fifo("rootfs/d/p", pax_headers={"mtime": str(far)}),
    ]
    store, ident = taken(place, tree)
    tree_made = render(store, ident)
    root = Path(tree_made.rootfs)
    kept = os.lstat(root / "d/f").st_mtime_ns == far * S
    assert (tree_made.downgrades == {}) == kept
    [verdict] = verify(store, store.find(ident))
    assert verdict.differences == []
    if not kept:
        assert sorted(tree_made.downgrades["times"]) == ["d", "d/f", "d/l", "d/p"]
        assert any("the time of d/f is not kept" in note for note in tree_made.notes)
        with pytest.raises(BuildError, match="times were lost"):
            export_rendered(store, ident, str(place / "one.aci"))
        os.utime(root / "d/f", (1, 1))  # what was lost is not lost again
        os.chmod(root / "d/p", 0o600)
        [verdict] = verify(store, store.find(ident), repair=False)
        assert [each.partition(":")[0] for each in verdict.differences] == ["d/p"]


REVISION_2 = struct.pack("<5I", 0x02000001, 1 << 10, 0, 0, 0)
REVISION_3 = struct.pack("<6I", 0x03000001, 1 << 13, 0, 0, 0, 100_000)


def test_attributes_and_capabilities(place: Path) -> None:
    tree = [
        file("rootfs/two", "x", 0o755, **xattrs(security__capability=REVISION_2)),
        file("rootfs/three", "x", 0o755, **xattrs(security__capability=REVISION_3)),
        file("rootfs/owned", "x", 0o755, uid=9, **xattrs(security__capability=REVISION_2)),
        file(
            "rootfs/user", "x", 0o444, **xattrs(user__a=b"one", user__empty=b"", user__b=bytes(range(1, 128)))
        ),
        directory("rootfs/d", **xattrs(user__note=b"of a directory")),
    ]
    try:
        os.setxattr(place, "user.probe", b"x")
    except OSError:
        pytest.skip("this kernel keeps no user attributes here")
    root = whole(*taken(place, tree), place)
    assert os.getxattr(root / "two", "security.capability") == REVISION_2
    assert os.getxattr(root / "owned", "security.capability") == REVISION_2  # set after the owner
    assert len(os.getxattr(root / "three", "security.capability")) == 24


def test_an_attribute_that_is_too_large_for_the_file_system_is_no_full_disk(place: Path) -> None:
    tree = [file("rootfs/f", "x", **xattrs(user__large=b"x" * 60_000, user__small=b"y"))]
    store, ident = taken(place, tree)
    made = render(store, ident)
    names = os.listxattr(Path(made.rootfs) / "f")
    if "user.large" not in names:
        assert made.downgrades["xattrs"] == [
            f"{name} on f" for name in ("user.large", "user.small") if name not in names
        ]
    [verdict] = verify(store, store.find(ident))
    assert verdict.differences == []


def test_holes_stay_holes_and_zeros_take_no_room(place: Path) -> None:
    mib = 1 << 20
    contents = {
        "begin": bytes(4 * mib) + b"end",
        "end": b"begin" + bytes(4 * mib),
        "whole": bytes(8 * mib),
        "between": b"".join(bytes(mib) + bytes([n]) * 4096 for n in range(1, 5)),
        "odd": b"x" + bytes(3 * mib + 17) + b"y" + bytes(5),
        "small": bytes(100),
        "none": b"",
    }
    tree = [file(f"rootfs/{name}", data) for name, data in contents.items()]
    root = whole(*taken(place, tree), place)
    for name, data in contents.items():
        assert (root / name).read_bytes() == data
    allocated = {name: (root / name).stat().st_blocks * 512 for name in contents}
    assert allocated["whole"] < mib
    assert allocated["begin"] < 2 * mib
    assert allocated["end"] < 2 * mib


def test_what_is_not_an_images_to_say_is_left_out_and_told_by_validate(place: Path) -> None:
    acl = struct.pack("<I4HI", 2, 1, 7, 0xFFFF, 0xFFFF, 0)
    tree = [
        file("rootfs/f", "x", **xattrs(security__selinux=b"label", system__posix_acl_access=acl)),
        file("rootfs/g", "x", **xattrs(user__overlay__opaque=b"y")),
        file("rootfs/h", "x", **xattrs(trusted__x=b"1", security__ima=b"1")),
    ]
    store, ident = taken(place, tree)
    root = Path(render(store, ident).rootfs)
    assert [os.listxattr(root / name) for name in "fgh"] == [[], [], []]
    [warning] = [line for line in examine(str(place / "a.aci")).warnings if "attributes" in line]
    assert (
        "security.ima, security.selinux, system.posix_acl_access, trusted.x, user.overlay.opaque" in warning
    )


def test_nothing_is_inherited_from_the_directory_above(place: Path) -> None:
    """A default ACL of the place gives nobody rights to the files of an image."""
    acl = access_list(6, 4, 0, users={1000: 7}, mask=7)
    store, ident = taken(place, [directory("rootfs/d"), file("rootfs/d/f", "x", 0o640), fifo("rootfs/p")])
    (place / "below").mkdir()
    for each in (place / "below", Path(store.path("tree"))):
        set_or_skip(each, "system.posix_acl_default", acl)
    render_directory(store, ident, str(place / "below/one"))
    render_directory(store, ident, str(place / "below/two"), rootfs_only=True)
    for root in (place / "below/one/rootfs", place / "below/two", Path(render(store, ident).rootfs)):
        assert [os.listxattr(root / name) for name in (".", "d", "d/f", "p")] == [[], [], [], []]
        assert (root / "d/f").stat().st_mode & 0o7777 == 0o640


def test_a_hole_needs_no_room(tmp_path: Path) -> None:
    """A sparse file that is larger than the disk, in an image alone and in one with a dependency."""
    if shutil.which("tar") is None:
        pytest.skip("GNU tar makes the archive")
    (tmp_path / "root/rootfs").mkdir(parents=True)
    with (tmp_path / "root/rootfs/sparse").open("wb") as file:
        file.seek(48 << 30)
        file.write(b"end")
    (tmp_path / "root/manifest").write_bytes(manifest("example.com/a"))
    sparse = ["tar", "--sparse", "--format=gnu", "-C", tmp_path / "root", "-cf", tmp_path / "a.aci"]
    subprocess.run([*sparse, "rootfs", "manifest"], check=True)
    store = Store(paths_in(tmp_path / "host"))
    image = put(store, tmp_path / "a.aci")
    assert image.content > 48 << 30
    top = put_new(store, tmp_path, "example.com/top", dependencies=[{"imageName": "example.com/a"}])
    asked: list[int] = []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(rendering, "require", lambda _place, size, _what, **_: asked.append(size))
        for each in (image, top):
            root = Path(render(store, each.id).rootfs)
            assert (root / "sparse").stat().st_size == (48 << 30) + 3
            assert (root / "sparse").stat().st_blocks * 512 < 1 << 20
        render_directory(store, image.id, str(tmp_path / "out"))
    assert max(asked) < 1 << 20
