"""Decompression by content, to the last byte, within bounds."""

from __future__ import annotations

import gzip
import random
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.aci import compress, file, tar_bytes

from gantry.images.compression import decompress, sniff
from gantry.images.errors import ArchiveError, LimitError
from gantry.images.limits import Limits

KINDS = ["none", "gzip", "bzip2", "xz", "zstd"]
TAR = tar_bytes(
    [file("manifest", b"{}"), file("rootfs/f", random.Random(3).randbytes(700_000) + bytes(900_000))]
)


def pieces(data: bytes, size: int) -> list[bytes]:
    return [data[i : i + size] for i in range(0, len(data), size)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1000, 65536, 10_000_000])
def test_ACI_17_every_kind_in_pieces_of_any_size(kind: str, size: int) -> None:
    assert b"".join(decompress(pieces(compress(TAR, kind), size))) == TAR


def test_single_bytes() -> None:
    small = tar_bytes([file("manifest", b"{}")])
    for kind in KINDS:
        assert b"".join(decompress(pieces(compress(small, kind), 1))) == small


@pytest.mark.parametrize("kind", KINDS)
def test_ACI_18_the_kind_is_told_by_content(kind: str) -> None:
    assert sniff(compress(TAR, kind)[:512]) == kind


@pytest.mark.parametrize("kind", KINDS[1:])
def test_several_members_are_one_stream(kind: str) -> None:
    data = compress(TAR[:1000], kind) + compress(TAR[1000:], kind)
    assert b"".join(decompress(pieces(data, 999))) == TAR


@pytest.mark.parametrize("kind", KINDS[1:])
def test_zeros_after_the_stream_are_padding(kind: str) -> None:
    assert b"".join(decompress(pieces(compress(TAR, kind) + bytes(1024), 777))) == TAR


@pytest.mark.parametrize("kind", KINDS[1:])
@pytest.mark.parametrize("extra", [b"x", b"garbage", b"\0\0\0x"])
def test_anything_else_after_the_stream_is_refused(kind: str, extra: bytes) -> None:
    with pytest.raises(ArchiveError):
        list(decompress([compress(TAR, kind), extra]))


@pytest.mark.parametrize("kind", KINDS[1:])
def test_a_cut_stream_is_refused(kind: str) -> None:
    data = compress(TAR, kind)
    for length in (len(data) - 1, len(data) - 4, len(data) - 8, len(data) // 2):
        with pytest.raises(ArchiveError):
            list(decompress([data[:length]]))


@pytest.mark.parametrize("kind", KINDS[1:])
def test_a_flipped_byte_is_refused(kind: str) -> None:
    data = bytearray(compress(TAR, kind))
    data[len(data) // 2] ^= 0x55
    with pytest.raises(ArchiveError):
        list(decompress([bytes(data)]))


@pytest.mark.parametrize("data", [b"", b"x", b"PK\3\4" + bytes(600), b"<html>" * 200, bytes(1024)])
def test_what_is_no_image_is_refused(data: bytes) -> None:
    with pytest.raises(ArchiveError):
        list(decompress([data]))


def test_ACI_19_an_encrypted_image_is_named_as_such() -> None:
    with pytest.raises(ArchiveError, match="encrypted"):
        sniff(b"\x8c\x0d\x04\x09\x03\x0a" + bytes(100))


def test_a_bomb_meets_the_bounds() -> None:
    bomb = gzip.compress(TAR[:512] + bytes(20_000_000))
    with pytest.raises(LimitError, match="ratio"):
        list(decompress([bomb], Limits(ratio=100, ratio_from=1_000_000)))
    with pytest.raises(LimitError, match="unpacked"):
        list(decompress([bomb], Limits(unpacked=5_000_000)))
    assert sum(map(len, decompress([bomb]))) == 20_000_512


def test_blocks_are_bounded() -> None:
    for kind in KINDS[1:]:
        bomb = compress(bytes(30_000_000), kind)
        assert max(map(len, decompress([bomb]))) <= 256 * 1024


def test_errors_of_the_source_stay_what_they_are() -> None:
    def broken() -> object:
        yield compress(TAR)[:1000]
        raise OSError(5, "input/output error")

    with pytest.raises(OSError, match="input/output"):
        list(decompress(broken()))  # type: ignore[arg-type]


def by_zlib(data: bytes) -> bytes | None:
    """What zlib makes of gzip members, one after the other; ``None`` if it refuses."""
    found = b""
    while data:
        machine = zlib.decompressobj(wbits=31)
        try:
            found += machine.decompress(data) + machine.flush()
        except zlib.error:
            return None
        if not machine.eof:
            return None
        data = machine.unused_data.lstrip(b"\0")
    return found


SMALL = tar_bytes([file("manifest", b"{}"), file("rootfs/f", b"text " * 400)])


@settings(max_examples=400)
@given(data=st.data(), level=st.integers(0, 9))
def test_what_is_taken_for_gzip_is_gzip_to_other_readers_too(data: st.DataObject, level: int) -> None:
    """The decompressor is not the one that everybody has: what it takes, they take, and read the same."""
    changed = bytearray(gzip.compress(SMALL, level, mtime=0))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(changed) - 1))
        kind = data.draw(st.sampled_from(["flip", "cut", "insert", "delete"]))
        if kind == "flip":
            changed[at] ^= 1 << data.draw(st.integers(0, 7))
        elif kind == "cut":
            del changed[max(at, 1) :]
        elif kind == "insert":
            changed[at:at] = data.draw(st.binary(min_size=1, max_size=4))
        else:
            del changed[at : at + 3]
        if not changed:
            return
    size = data.draw(st.sampled_from([1, 7, 1000]))
    try:
        found = b"".join(decompress(pieces(bytes(changed), size)))
    except (ArchiveError, LimitError):
        return
    if changed.startswith(b"\x1f\x8b"):
        assert found == by_zlib(bytes(changed))


@pytest.mark.parametrize("flag", [0x20, 0x40, 0x80])
@pytest.mark.parametrize("member", [0, 1])
def test_flags_that_nobody_has_defined_are_refused(flag: int, member: int) -> None:
    members = [bytearray(gzip.compress(TAR[:1000])), bytearray(gzip.compress(TAR[1000:]))]
    members[member][3] |= flag
    for size in (1, 2, 1000):
        with pytest.raises(ArchiveError, match="flags that are not defined"):
            list(decompress(pieces(b"".join(members), size)))


@pytest.mark.parametrize("kind", ["gzip", "bzip2", "xz", "zstd"])
def test_zeros_are_padding_at_the_very_end_only(kind: str) -> None:
    """Where they are followed by more, some readers stop at them and others do not."""
    one = compress(b"one", kind)
    assert b"".join(decompress([one, bytes(700)])) == b"one"
    for chunks in ([one + bytes(7) + one], [one, bytes(7), one], [one + b"\0", one]):
        with pytest.raises(ArchiveError, match=f"other data after the image's {kind} data"):
            b"".join(decompress(chunks))
    assert b"".join(decompress([one, one])) == b"oneone"


@pytest.mark.parametrize("kind", ["gzip", "bzip2", "zstd"])
def test_endless_empty_pieces_are_refused(kind: str) -> None:
    empty = compress(b"", kind)
    assert b"".join(decompress([empty * 100])) == b""
    with pytest.raises(LimitError, match=f"nearly empty pieces of {kind}"):
        b"".join(decompress([empty * 20_000]))


@pytest.mark.parametrize("size", range(1, 12))
def test_a_skippable_frame_is_one_however_it_arrives(size: int) -> None:
    skippable = b"\x50\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"12345"
    data = compress(b"one", "zstd") + skippable + compress(b"two", "zstd")
    chunks = [data[at : at + size] for at in range(0, len(data), size)]
    assert b"".join(decompress(chunks)) == b"onetwo"
