"""The tar reader against archives of other writers, and against damage."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from pathlib import Path

import pytest
from tests.support.aci import device, directory, fifo, file, hardlink, symlink, tar_bytes

from gantry.images.errors import ArchiveError, LimitError
from gantry.images.layout import Layout
from gantry.images.limits import Limits
from gantry.images.tarstream import DIRECTORY, FILE, HARDLINK, SYMLINK, BlockReader, Entry, TarStream

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def read(data: bytes, block: int = 1000, limits: Limits | None = None) -> list[tuple[Entry, bytes]]:
    blocks = [data[i : i + block] for i in range(0, len(data), block)]
    stream = TarStream(blocks, limits or Limits())
    return [(entry, b"".join(stream.content())) for entry in stream]


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("block", [1, 511, 512, 100_000])
def test_reads_what_the_standard_library_writes(fmt: str, block: int) -> None:
    body = bytes(range(256)) * 5
    made = [
        directory("rootfs", 0o1777, uid=5, gid=6),
        file("rootfs/f", body, 0o4755, uid=1000, gid=1001, mtime=1234567890),
        symlink("rootfs/l", "../x"),
        hardlink("rootfs/h", "rootfs/f"),
        fifo("rootfs/p"),
        device("rootfs/d", 8, 17, block=True),
        file("rootfs/after", b"z"),
    ]
    got = read(tar_bytes(made, fmt=FORMATS[fmt]), block)
    assert [entry.name.rstrip(b"/") for entry, _ in got] == [info.name.encode() for info, _ in made]
    by_name = {entry.name.rstrip(b"/"): (entry, content) for entry, content in got}
    entry, content = by_name[b"rootfs/f"]
    assert (entry.mode, entry.uid, entry.gid, entry.mtime_ns) == (0o4755, 1000, 1001, 1234567890 * 10**9)
    assert content == body
    assert by_name[b"rootfs"][0].kind == DIRECTORY
    assert by_name[b"rootfs"][0].mode == 0o1777
    assert by_name[b"rootfs/l"][0].kind == SYMLINK
    assert by_name[b"rootfs/l"][0].linkname == b"../x"
    assert by_name[b"rootfs/h"][0].kind == HARDLINK
    assert by_name[b"rootfs/h"][0].linkname == b"rootfs/f"
    assert (by_name[b"rootfs/d"][0].devmajor, by_name[b"rootfs/d"][0].devminor) == (8, 17)
    assert by_name[b"rootfs/after"][1] == b"z"


@pytest.mark.parametrize(
    ("fmt", "name"),
    [
        ("gnu", "rootfs/" + "a" * 200 + "/" + "b" * 200 + "/" + "c" * 200),
        ("pax", "rootfs/" + "x" * 150 + "/" + "y" * 149),
        ("pax", "rootfs/" + "ü" * 90 + "/日本"),
        ("ustar", "rootfs/" + "d" * 100 + "/" + "e" * 90),
    ],
)
def test_case_15_long_names_are_exact(fmt: str, name: str) -> None:
    target = "t/" * 100 + "end"
    made = [file(name, b"1")] + ([symlink("rootfs/l", target)] if fmt != "ustar" else [])
    got = read(tar_bytes(made, fmt=FORMATS[fmt]))
    assert got[0][0].name == name.encode()
    if fmt != "ustar":
        assert got[1][0].linkname == target.encode()


def test_case_16_extended_attributes_keep_every_byte() -> None:
    value = b"\x01\x00\x00\x02\x00\x20\x00\x00\n=\xff" + bytes(8)
    info, body = file("rootfs/f", b"1")
    header = b""
    for key, val in ((b"SCHILY.xattr.security.capability", value), (b"mtime", b"1.000000005"), (b"x", b"y")):
        rest = b" " + key + b"=" + val + b"\n"
        length = len(rest) + 2
        length += len(str(length)) - 2
        header += str(length).encode() + rest
    pax = tarfile.TarInfo("PaxHeader")
    pax.type = tarfile.XHDTYPE
    pax.size = len(header)
    [(entry, _)] = read(tar_bytes([(pax, header), (info, body)]))
    assert entry.xattrs == {b"security.capability": value}
    assert entry.mtime_ns == 1_000_000_005


@pytest.mark.parametrize(
    "options",
    [
        ["--format=gnu"],
        ["--format=posix"],
        ["--format=posix", "--sparse-version=0.0"],
        ["--format=posix", "--sparse-version=0.1"],
    ],
)
def test_sparse_files_of_gnu_tar(tmp_path: Path, options: list[str]) -> None:
    source = tmp_path / "sparse"
    with source.open("wb") as out:
        for index in range(40):  # more segments than one header of the old format holds
            out.seek(index * 100_000)
            out.write(b"%03d" % index)
        out.truncate(5_000_000)
    done = subprocess.run(
        ["tar", "-C", tmp_path, "-c", "-S", *options, "sparse"], check=True, capture_output=True
    )
    [(entry, content)] = read(done.stdout)
    assert entry.size == 5_000_000
    assert entry.name == b"sparse"
    assert entry.segments is not None
    whole = bytearray(entry.size)
    at = 0
    for offset, length in entry.segments:
        whole[offset : offset + length] = content[at : at + length]
        at += length
    assert bytes(whole) == source.read_bytes()


@pytest.mark.parametrize("fmt", ["v7", "oldgnu", "gnu", "ustar", "posix"])
def test_what_gnu_tar_writes_of_an_odd_tree_is_an_image(tmp_path: Path, fmt: str) -> None:
    """Refusing what two readers understand differently must not refuse what tools write."""
    root = tmp_path / "rootfs"
    (root / "d/e").mkdir(parents=True)
    (root / "d/f").write_bytes(b"1" * 3000)
    os.link(root / "d/f", root / "h")
    os.symlink("../x", root / "d/l")
    if fmt != "v7":
        os.mkfifo(root / "p")
    (root / ("n" * 80)).touch()
    (root / "\udcff").write_text("x")
    os.utime(root / "d/f", ns=(0, -1_500_000_000 if fmt not in ("v7", "ustar") else 1_500_000_000))
    if fmt in ("oldgnu", "gnu", "posix"):
        (root / "d" / ("m" * 200)).write_text("y")
        os.symlink("t/" * 150, root / "long")
        os.setxattr(root / "d/f", "user.a", b"\0\n=")
    with (root / "sparse").open("wb") as out:
        out.truncate(1_000_000)
    (tmp_path / "manifest").write_text("{}")
    options = {"v7": [], "ustar": [], "posix": ["-S", "--xattrs"]}.get(fmt, ["-S"])
    made = subprocess.run(
        ["tar", "-C", tmp_path, "-c", f"--format={fmt}", *options, "rootfs", "manifest"],
        check=True,
        capture_output=True,
    )
    found = {member.path: member for member in Layout(TarStream([made.stdout]))}
    here = {os.fsencode(path.relative_to(root)) for path in root.rglob("*")}
    assert set(found) == here | {b""}
    assert found[b"d/f"].entry.kind == FILE or found[b"h"].entry.kind == FILE
    assert found[b"sparse"].entry.size == 1_000_000


def test_large_numbers_are_base_256() -> None:
    info, body = file("rootfs/f", b"1", uid=3_000_000_000, gid=0o7777777, mtime=1 << 34)
    [(entry, _)] = read(tar_bytes([(info, body)], fmt=tarfile.GNU_FORMAT))
    assert (entry.uid, entry.gid, entry.mtime_ns) == (3_000_000_000, 0o7777777, (1 << 34) * 10**9)


def test_a_time_before_1970_is_kept() -> None:
    for fmt in ("gnu", "pax"):
        [(entry, _)] = read(tar_bytes([file("f", b"", mtime=-5)], fmt=FORMATS[fmt]))
        assert entry.mtime_ns == -5 * 10**9


def test_an_archive_may_end_without_its_end_blocks() -> None:
    data = tar_bytes([file("a", b"1"), file("b", b"2")])
    assert [entry.name for entry, _ in read(data[:2048])] == [b"a", b"b"]


@pytest.mark.parametrize("length", [100, 512, 700, 1024 + 100])
def test_an_archive_that_ends_inside_an_entry_is_refused(length: int) -> None:
    data = tar_bytes([file("a", b"1" * 600), file("b", b"2")])
    with pytest.raises(ArchiveError, match="ends"):
        read(data[:length])


def test_a_damaged_header_is_refused() -> None:
    data = bytearray(tar_bytes([file("a", b"1"), file("b", b"2")]))
    data[1024 + 3] ^= 1
    with pytest.raises(ArchiveError, match="checksum"):
        read(bytes(data))


def test_data_after_one_empty_block_is_refused() -> None:
    one, two = (tar_bytes([file(name, b"1")]) for name in "ab")
    with pytest.raises(ArchiveError, match="after an empty block"):
        read(one[:1024] + bytes(512) + two)


def test_a_global_header_that_changes_entries_is_refused() -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"path": "x"}) as archive:
        archive.addfile(tarfile.TarInfo("a"))
    with pytest.raises(ArchiveError, match="all its entries"):
        read(out.getvalue())


@pytest.mark.parametrize(
    ("limits", "word"),
    [
        (Limits(entries=2), "entries"),
        (Limits(header=100), "header"),
        (Limits(xattrs=10), "xattrs"),
        (Limits(unpacked=100), "unpacked"),
    ],
)
def test_TRAP_33_bounds_name_themselves(limits: Limits, word: str) -> None:
    made = [
        file("a", b"1"),
        file("b", b"2" * 101),
        file("c" * 300, b"", pax_headers={"SCHILY.xattr.user.x": "y" * 100}),
    ]
    with pytest.raises(LimitError, match=word):
        read(tar_bytes(made, fmt=tarfile.PAX_FORMAT), limits=limits)


def test_block_reader_reads_across_blocks() -> None:
    reader = BlockReader([b"ab", b"", b"cdef", b"g"])
    assert reader.read(3) == b"abc"
    assert reader.skip(2)
    assert reader.position == 5
    assert list(reader.pieces(9)) == [b"f", b"g"]
    assert reader.read(1) == b""
    assert not reader.skip(1)


def test_kinds_of_old_archives() -> None:
    old_file, old_directory = file("f", b"1"), file("d/")
    old_file[0].type = old_directory[0].type = tarfile.AREGTYPE
    kinds = [entry.kind for entry, _ in read(tar_bytes([old_file, old_directory]))]
    assert kinds == [FILE, DIRECTORY]
