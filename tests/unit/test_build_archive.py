"""``gantry build`` from a tar: the image is the one that a directory unpacked from it would give."""

from __future__ import annotations

import gzip
import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.support.aci import (
    Entry,
    compress,
    device,
    directory,
    fifo,
    file,
    hardlink,
    manifest,
    symlink,
    tar_bytes,
)

from gantry.build import BuildError, Built, build_archive, build_image
from gantry.errors import GantryError, UsageError
from gantry.images import validate
from gantry.images.errors import LimitError
from gantry.images.limits import Limits

M = manifest()
ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="owners and devices need root")


def build(tmp_path: Path, entries: list[Entry], **options: Any) -> Built:
    (tmp_path / "r.tar").write_bytes(tar_bytes(entries))
    return build_archive(str(tmp_path / "r.tar"), M, str(tmp_path / "o.aci"), overwrite=True, **options)


def content(tmp_path: Path) -> dict[str, tuple[Any, ...]]:
    """The entries of the image by name: kind, mode, owner, time, link and bytes."""
    assert validate(str(tmp_path / "o.aci")) == []
    found: dict[str, tuple[Any, ...]] = {}
    with tarfile.open(tmp_path / "o.aci") as archive:
        for member in archive:
            body = archive.extractfile(member)
            data = body.read() if body is not None and member.isreg() else b""
            found[member.name] = (member.type, member.mode, member.uid, member.mtime, member.linkname, data)
    return found


def messy_tree(top: Path) -> None:
    (top / "bin").mkdir(parents=True)
    (top / "bin/a").write_text("one")
    os.link(top / "bin/a", top / "bin/z")
    os.link(top / "bin/a", top / "a-first")
    (top / "bin.d").mkdir()  # sorts between bin and its content, byte by byte
    (top / "bin.d/x").write_bytes(os.urandom(1500))
    (top / ("d" * 120)).mkdir()
    (top / ("d" * 120) / ("n" * 200)).write_text("long")
    (top / os.fsdecode(b"\xff\xfe")).write_text("not UTF-8")
    (top / "link").symlink_to("/nowhere/" + "x" * 150)
    os.mkfifo(top / "pipe", 0o640)
    with (top / "sparse").open("wb") as sparse:
        sparse.truncate(3_000_001)
        sparse.seek(1_000_000)
        sparse.write(b"data")
    os.chmod(top / "bin/a", 0o4755)
    os.setxattr(top / "bin/a", "user.note", b"\0\n=\xff")
    os.setxattr(top / "bin", "user.dir", b"d")
    if os.geteuid() == 0:
        os.mknod(top / "null", 0o20666, os.makedev(1, 3))
        os.chown(top / "bin.d/x", 3_000_000, 2_999_999)
        os.setxattr(top / "bin.d/x", "security.capability", bytes.fromhex("0100000200040000") + bytes(12))
    for number, path in enumerate(sorted(top.rglob("*"))):
        os.utime(path, ns=(0, (1_600_000_000 + number) * 10**9 + 123_456_789), follow_symlinks=False)
    os.utime(top, (0, 1_500_000_000))


@pytest.mark.parametrize("kind", ["none", "gzip", "bzip2", "xz", "zstd"])
@pytest.mark.parametrize("style", [("--format=posix",), ("--format=gnu",), ("--format=posix", "--sparse")])
@pytest.mark.parametrize("listed", ["dot", "names"])
def test_the_same_tree_gives_the_same_image(
    tmp_path: Path, kind: str, style: tuple[str, ...], listed: str
) -> None:
    tree = tmp_path / "tree"
    messy_tree(tree)
    names = (
        ["."] if listed == "dot" else ["--no-recursion", ".", "--recursion", *sorted(os.listdir(tree))[::-1]]
    )
    attributes = ["--xattrs", "--xattrs-include=*"] if "posix" in style[0] else []
    if not attributes:  # GNU's own format cannot hold them
        for name in ("bin/a", "bin", "bin.d/x"):
            for key in os.listxattr(tree / name):
                os.removexattr(tree / name, key)
    made = subprocess.run(
        ["tar", "-C", tree, *style, *attributes, "-c", *names], check=True, capture_output=True
    )
    (tmp_path / "r.tar").write_bytes(compress(made.stdout, kind))
    of_tree = build_image(str(tree), M, str(tmp_path / "1.aci"))
    of_tar = build_archive(str(tmp_path / "r.tar"), M, str(tmp_path / "2.aci"))
    assert of_tar.entries == of_tree.entries
    assert (tmp_path / "1.aci").read_bytes() == (tmp_path / "2.aci").read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["1.aci", "2.aci", "r.tar", "tree"]


@pytest.mark.parametrize("as_pipe", [True, False])
def test_from_standard_input(tmp_path: Path, as_pipe: bool) -> None:
    tar = tar_bytes([directory("./"), file("./bin/sh", b"#!", 0o755), file("x", bytes(700_000))])
    (tmp_path / "in").write_bytes(b"skipped" + tar)
    (tmp_path / "m").write_bytes(M)
    code = (
        "import sys; from gantry.build import build_archive; "
        "print(build_archive('-', open(sys.argv[1], 'rb').read(), sys.argv[2]).image_id)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "m"), str(tmp_path / "o.aci")]
    if as_pipe:
        done = subprocess.run(command, input=tar, capture_output=True, check=True)
    else:
        with (tmp_path / "in").open("rb") as given:  # from where it stands, not from its start
            os.lseek(given.fileno(), 7, os.SEEK_SET)
            done = subprocess.run(command, stdin=given, capture_output=True, check=True)
    (tmp_path / "r.tar").write_bytes(tar)
    again = build_archive(str(tmp_path / "r.tar"), M, str(tmp_path / "p.aci"))
    assert done.stdout.decode().strip() == str(again.image_id)
    assert set(content(tmp_path)) == {"rootfs", "rootfs/bin", "rootfs/bin/sh", "rootfs/x", "manifest"}


def test_directories_that_are_only_implied(tmp_path: Path) -> None:
    build(tmp_path, [file("usr/bin/sh", b"x")])
    found = content(tmp_path)
    for name in ("rootfs", "rootfs/usr", "rootfs/usr/bin"):
        assert found[name][:4] == (tarfile.DIRTYPE, 0o755, 0, 0)
    build(tmp_path, [file("usr/bin/sh", b"x"), directory("./usr", mode=0o700), directory(".", mode=0o711)])
    assert content(tmp_path)["rootfs/usr"][1] == 0o700
    assert content(tmp_path)["rootfs"][1] == 0o711


def test_the_last_of_a_name_counts(tmp_path: Path) -> None:
    build(
        tmp_path,
        [
            file("a", b"first"),
            hardlink("b", "a"),
            file("./a", b"second", 0o600),
            symlink("c", "a"),
            file("c", b"a file"),
            file("d", b"now a directory"),
            directory("d"),
            file("d/e", b"below"),
            directory("d/", mode=0o750),
            directory("empty"),
            symlink("empty", "a"),
        ],
    )
    found = content(tmp_path)
    assert found["rootfs/a"][-1] == b"second"
    assert found["rootfs/b"][0] == tarfile.REGTYPE
    assert found["rootfs/b"][-1] == b"first"
    assert found["rootfs/c"][-1] == b"a file"
    assert found["rootfs/d"][1] == 0o750
    assert found["rootfs/d/e"][-1] == b"below"
    assert found["rootfs/empty"][4] == "a"


def test_ACI_13_hard_links_stay_links_to_the_first_name(tmp_path: Path) -> None:
    build(
        tmp_path,
        [
            file("z", b"content", 0o755),
            hardlink("a", "./z"),
            hardlink("m", "a"),
            symlink("s", "z"),
            hardlink("t", "s"),
            fifo("p"),
            hardlink("q", "p"),
        ],
    )
    found = content(tmp_path)
    assert found["rootfs/a"][-1] == b"content"
    assert found["rootfs/m"][0] == found["rootfs/z"][0] == tarfile.LNKTYPE
    assert found["rootfs/m"][4] == found["rootfs/z"][4] == "rootfs/a"
    for first, second in ("s", "t"), ("p", "q"):  # of every kind of thing, as the peer does
        assert found[f"rootfs/{second}"][0] == tarfile.LNKTYPE
        assert found[f"rootfs/{second}"][4] == f"rootfs/{first}"


def test_whiteouts_and_the_names_of_an_image_are_ordinary_files(tmp_path: Path) -> None:
    build(tmp_path, [file("etc/.wh.passwd"), file("manifest", b"mine"), file("rootfs/x", b"y")])
    found = content(tmp_path)
    assert {"rootfs/etc/.wh.passwd", "rootfs/manifest", "rootfs/rootfs/x", "manifest"} <= set(found)
    assert found["manifest"][-1] == M


def test_ACI_14_devices_keep_their_numbers_without_root(tmp_path: Path) -> None:
    build(tmp_path, [device("dev/null", 1, 3, mode=0o666), device("dev/loop", 7, 4095, block=True)])
    with tarfile.open(tmp_path / "o.aci") as archive:
        null, loop = archive.getmember("rootfs/dev/null"), archive.getmember("rootfs/dev/loop")
    assert (null.type, null.devmajor, null.devminor) == (tarfile.CHRTYPE, 1, 3)
    assert (loop.type, loop.devmajor, loop.devminor) == (tarfile.BLKTYPE, 7, 4095)


def test_owners_times_and_attributes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    headers = {
        "SCHILY.xattr.user.a": "b",
        "SCHILY.xattr.security.selinux": "host",
        "mtime": "1600000000.9",
    }
    entries = [file("f", b"", uid=7, gid=8, uname="daemon", pax_headers=headers)]
    (tmp_path / "r.tar").write_bytes(tar_bytes(entries, fmt=tarfile.PAX_FORMAT))
    source, target = str(tmp_path / "r.tar"), str(tmp_path / "o.aci")
    build_archive(source, M, target)
    with tarfile.open(target) as archive:
        member = archive.getmember("rootfs/f")
    assert (member.uid, member.gid, member.uname, member.mtime) == (7, 8, "", 1_600_000_000)
    assert member.pax_headers == {"SCHILY.xattr.user.a": "b"}
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "5")
    build_archive(source, M, target, overwrite=True, owner_root=True)
    with tarfile.open(target) as archive:
        member = archive.getmember("rootfs/f")
    assert (member.uid, member.gid, member.uname, member.mtime) == (0, 0, "root", 5)


REFUSED: dict[str, tuple[list[Entry], str]] = {
    "absolute": ([file("/etc/passwd")], "absolute"),
    "dotdot": ([file("a/../../b")], r"\.\."),
    "below a symlink": ([symlink("l", "/etc"), file("l/passwd")], "lies below 'l', which is a symbolic link"),
    "below a file": ([file("f"), file("f/g/h")], "lies below 'f', which is a file"),
    "a file over a full directory": ([file("d/x"), file("d")], "directory with something in it"),
    "a file over a full directory that was named again": (
        [directory("d"), file("d/x"), directory("d"), file("d")],
        "directory with something in it",
    ),
    "a link over the root": ([symlink(".", "/")], "directory with something in it"),
    "a hard link to nothing": ([hardlink("a", "b")], "does not come before it"),
    "a hard link to a directory": ([directory("d"), hardlink("a", "d")], "a directory"),
    "a hard link out": ([hardlink("a", "../etc/shadow")], r"\.\."),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(tmp_path: Path, case: str) -> None:
    entries, told = REFUSED[case]
    with pytest.raises(BuildError, match=told) as refused:
        build(tmp_path, entries)
    assert refused.value.message.startswith(f"{tmp_path}/r.tar: ")
    assert "tar -tvf" in refused.value.hint
    assert os.listdir(tmp_path) == ["r.tar"]


@pytest.mark.parametrize("data", [b"", b"hello", b"PK\3\4" + bytes(1000), bytes(20_000)])
def test_what_is_no_tar_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "r.tar").write_bytes(data)
    with pytest.raises(BuildError, match=r"r\.tar: "):
        build_archive(str(tmp_path / "r.tar"), M, str(tmp_path / "o.aci"))
    assert os.listdir(tmp_path) == ["r.tar"]


@pytest.mark.parametrize("kind", ["none", "gzip"])
def test_a_cut_tar_is_refused(tmp_path: Path, kind: str) -> None:
    data = compress(tar_bytes([file("a", os.urandom(50_000))]), kind)
    (tmp_path / "r.tar").write_bytes(data[:40_000])
    with pytest.raises(BuildError, match=r"cut short|ends inside"):
        build_archive(str(tmp_path / "r.tar"), M, str(tmp_path / "o.aci"))
    assert os.listdir(tmp_path) == ["r.tar"]


def test_what_follows_the_end_of_the_tar_is_read_too(tmp_path: Path) -> None:
    """The compression's own checksum comes last: without it, the tar may be another."""
    data = compress(tar_bytes([file("a", b"a")]) + bytes(900_000), "gzip")
    (tmp_path / "r.tar").write_bytes(data[:-4])
    with pytest.raises(BuildError, match="cut short"):
        build_archive(str(tmp_path / "r.tar"), M, str(tmp_path / "o.aci"))


@pytest.mark.parametrize("kind", ["none", "gzip"])
def test_holes_become_zeros(tmp_path: Path, kind: str) -> None:
    headers = {"GNU.sparse.map": "1000,3,600000,2", "GNU.sparse.realsize": "900001"}
    data = tar_bytes([file("s", b"abcde", pax_headers=headers), file("t", b"t")], fmt=tarfile.PAX_FORMAT)
    (tmp_path / "r.tar").write_bytes(compress(data, kind))
    build_archive(str(tmp_path / "r.tar"), M, str(tmp_path / "o.aci"))
    dense = bytes(1000) + b"abc" + bytes(598_997) + b"de" + bytes(299_999)
    assert content(tmp_path)["rootfs/s"][-1] == dense
    assert content(tmp_path)["rootfs/t"][-1] == b"t"


def test_bounds_count(tmp_path: Path) -> None:
    for limits, entries in (
        (Limits(entries=3), [file(str(number)) for number in range(4)]),
        (Limits(depth=3), [file("a/b/c/d")]),
        (Limits(unpacked=10_000), [file("a", bytes(20_000))]),
    ):
        with pytest.raises(LimitError, match="bound: "):
            build(tmp_path, entries, limits=limits)
    assert os.listdir(tmp_path) == ["r.tar"]


def test_an_output_of_another_name_or_that_exists_is_refused_before_the_tar_is_read(tmp_path: Path) -> None:
    (tmp_path / "o.aci").write_text("mine")
    for output, told in (("o.aci", "exists"), ("o.tar", "ACI-01"), (".", "ACI-01")):
        with pytest.raises(UsageError) as refused:
            build_archive("/nonexistent", M, str(tmp_path / output))
        assert told in refused.value.message + refused.value.hint
    with pytest.raises(GantryError, match=r"No such file.*nonexistent"):
        build_archive("/nonexistent", M, str(tmp_path / "p.aci"))


NAMES = st.lists(st.sampled_from("abc"), min_size=1, max_size=3).map("/".join)
ENTRIES = st.lists(
    st.one_of(
        st.builds(file, NAMES, st.binary(max_size=600), st.sampled_from([0o644, 0o600])),
        st.builds(directory, NAMES, st.sampled_from([0o755, 0o700])),
        st.builds(symlink, NAMES, NAMES),
        st.builds(hardlink, NAMES, NAMES),
    ),
    max_size=12,
)


@ROOT
@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(ENTRIES)
def test_the_peer_makes_the_same_tree(tmp_path_factory: pytest.TempPathFactory, entries: list[Entry]) -> None:
    """Whatever we accept, GNU tar unpacks to the same tree, and without a complaint."""
    place = tmp_path_factory.mktemp("t")
    try:
        built = build(place, [directory("."), *entries])
    except GantryError:
        return
    (place / "x").mkdir()
    subprocess.run(["tar", "-C", place / "x", "-xpf", place / "r.tar"], check=True, capture_output=True)
    for path in [*(place / "x").rglob("*")]:
        if path.is_dir() and not path.is_symlink():  # the peer's times of implied directories are now
            os.utime(path, (0, 0))
    os.utime(place / "x", (0, 0))
    peer = build_image(str(place / "x"), M, str(place / "p.aci"), epoch=0)
    build(place, [directory("."), *entries], epoch=0)
    assert peer.entries == built.entries
    assert described(place / "o.aci") == described(place / "p.aci")


def described(path: Path) -> list[tuple[Any, ...]]:
    with tarfile.open(fileobj=io.BytesIO(path.read_bytes())) as archive:
        return [
            (m.name, m.type, m.mode, m.size, m.linkname, m.isreg() and archive.extractfile(m).read())  # type: ignore[union-attr]
            for m in archive
        ]


def test_what_a_tar_says_is_what_its_unpacked_tree_would(tmp_path: Path) -> None:
    """Directories as the oldest tars write them, links of every mode, no magic number, nothing at all."""
    old = tarfile.TarInfo("d/")
    old.type, old.mode = tarfile.REGTYPE, 0o755
    link = tarfile.TarInfo("l")
    link.type, link.linkname, link.mode = tarfile.SYMTYPE, "d", 0o644
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        tar.addfile(old)
        tar.addfile(link)
    without_magic = bytearray(made.getvalue())
    for at in (0, 512):
        without_magic[at + 257 : at + 265] = bytes(8)
        without_magic[at + 148 : at + 156] = b" " * 8
        without_magic[at + 148 : at + 156] = b"%06o\0 " % sum(without_magic[at : at + 512])
    ids = set()
    for name, data in {"ustar": made.getvalue(), "v7": bytes(without_magic)}.items():
        for packed in (data, gzip.compress(data)):
            (tmp_path / "t.tar").write_bytes(packed)
            built = build_archive(
                str(tmp_path / "t.tar"), manifest(), str(tmp_path / f"{name}.aci"), overwrite=True
            )
            ids.add(built.image_id)
    assert len(ids) == 1
    with tarfile.open(tmp_path / "v7.aci") as image:
        found = {member.name: (member.type, member.mode) for member in image}
    assert found["rootfs/d"] == (tarfile.DIRTYPE, 0o755)
    assert found["rootfs/l"] == (tarfile.SYMTYPE, 0o777)
    for packed in (bytes(10240), gzip.compress(bytes(10240))):
        (tmp_path / "empty.tar").write_bytes(packed)
        with pytest.raises(BuildError):
            build_archive(str(tmp_path / "empty.tar"), manifest(), str(tmp_path / "e.aci"))
    old.size = 3
    with tarfile.open(tmp_path / "body.tar", "w") as tar:
        tar.addfile(old, io.BytesIO(b"abc"))
    with pytest.raises(BuildError, match="'d/' is a file and is not"):
        build_archive(str(tmp_path / "body.tar"), manifest(), str(tmp_path / "b.aci"))
