"""The four ways to write where a sparse file's data lies (GNU tar; formats old, 0.0, 0.1 and 1.0).

What comes out is the same: pairs of offset and length, in order. Numbers come from strangers: negative,
overlapping, endless and huge ones are refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gantry.images.errors import ArchiveError, LimitError
from gantry.images.tarfields import SPARSE_MAP, digits, number_field, show

if TYPE_CHECKING:
    from collections.abc import Callable

BLOCK = 512

_MAX_SEGMENTS = 100_000


def old_map(header: bytes, block: Callable[[], bytes], name: bytes) -> tuple[list[tuple[int, int]], int]:
    """The map and the size of a file in GNU's first form: in the header and in blocks after it.

    Args:
        header: The header.
        block: Gives the next block of the archive.
        name: For messages.

    Raises:
        ArchiveError: It is damaged.
        LimitError: It has too many segments.
    """
    if header[257:263] == b"ustar\0":  # the standard's format has a name where the map would be
        raise ArchiveError(f"{show(name)!r} is sparse in a way that its header's format does not have")
    segments: list[tuple[int, int]] = []
    area, count, more = header[386:482], 4, header[482]
    real = number_field(header[483:495], "size", name)
    while True:
        for index in range(count):
            at = index * 24
            if not area[at]:
                break
            segments.append(
                (
                    number_field(area[at : at + 12], "map", name),
                    number_field(area[at + 12 : at + 24], "map", name),
                )
            )
        if not more:
            return segments, real
        if len(segments) > _MAX_SEGMENTS:
            raise LimitError(f"{show(name)!r} has more than {_MAX_SEGMENTS} segments")
        area = block()
        count, more = 21, area[504]


def extended_map(
    records: dict[bytes, bytes], block: Callable[[], bytes], name: bytes, bound: int
) -> tuple[list[tuple[int, int]], int]:
    """The map and the size of a file in one of the three forms that use extended headers.

    Args:
        records: The extended header; :func:`gantry.images.tarfields.pax_records` has made the first form
            the second.
        block: Gives and takes away the next block of the file's body, where the third form has its map.
        name: For messages.
        bound: Bytes of an extended header.

    Raises:
        ArchiveError: It is damaged.
        LimitError: It is too long.
    """
    sizes = {
        digits(records[each], name)
        for each in (b"GNU.sparse.realsize", b"GNU.sparse.size")
        if each in records
    }
    if len(sizes) != 1:
        raise ArchiveError(f"{show(name)!r} is sparse but has {'two sizes' if sizes else 'no size'}")
    (size,) = sizes
    version = (records.get(b"GNU.sparse.major", b"0"), records.get(b"GNU.sparse.minor", b"0"))
    if version not in {(b"0", b"0"), (b"0", b"1"), (b"1", b"0")} or (
        version == (b"1", b"0") and SPARSE_MAP in records
    ):
        raise ArchiveError(f"{show(name)!r} is sparse in a way that readers do not agree on")
    if version == (b"1", b"0"):
        numbers = _stored_map(block, name, bound)
    else:
        numbers = [digits(part, name) for part in records.get(SPARSE_MAP, b"").split(b",") if part]
    if len(numbers) % 2:
        raise ArchiveError(f"{show(name)!r} has a sparse map with half a segment")
    return list(zip(numbers[::2], numbers[1::2], strict=True)), size


def _stored_map(block: Callable[[], bytes], name: bytes, bound: int) -> list[int]:
    """Version 1.0: decimal lines in whole blocks before the data."""
    text = bytearray()
    lines_read = 0
    wanted = 1
    while lines_read < wanted:
        piece = block()
        if len(piece) < BLOCK:
            raise ArchiveError(f"{show(name)!r} has a sparse map without an end")
        text += piece
        lines_read += piece.count(b"\n")
        if wanted == 1 and lines_read:
            count = digits(bytes(text[: text.index(b"\n")]), name)
            if count > bound // 4:
                raise LimitError(f"{show(name)!r} has more than {bound // 4} segments (bound: header)")
            wanted = 1 + 2 * count
        if len(text) > 8 * bound:
            raise LimitError(f"the sparse map of {show(name)!r} is too long (bound: header)")
    lines = bytes(text).split(b"\n", wanted)
    return [digits(line, name) for line in lines[1:wanted]]


def check_segments(segments: list[tuple[int, int]], size: int, stored: int, name: bytes) -> None:
    """A map has to be in order, inside the file, and of as many bytes as there are.

    Raises:
        ArchiveError: It is not.
    """
    end = total = 0
    for offset, length in segments:
        if offset < end or offset + length > size:
            raise ArchiveError(f"{show(name)!r} has a sparse map whose segments overlap or leave the file")
        end = offset + length
        total += length
    if total != stored:
        raise ArchiveError(f"{show(name)!r} has a sparse map of {total} bytes and {stored} bytes of data")
