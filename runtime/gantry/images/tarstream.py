"""A tar reader for images: one pass over a stream, no seeking, nothing trusted.

Reads ustar (with its name prefix), GNU (long names and links, base-256 numbers, old sparse maps) and PAX
(paths, sizes, times, owners, extended attributes, the three GNU sparse maps). Names stay bytes: a tar has no
encoding, and neither has a file system.

Why not the standard library's: it costs twice the time per entry, decodes names, and drops extended
attributes' bytes (case 16).

Rules:

- every header's checksum is verified; a damaged one ends the reading, for what follows has no known place;
- bodies follow regular files only; a size in the header of a link, directory or device means nothing;
- an archive may end without an end-of-archive block, but not inside an entry;
- what the archive says is bounded before it is stored (:class:`gantry.images.limits.Limits`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from gantry.images.errors import ArchiveError, LimitError
from gantry.images.limits import DEFAULT_LIMITS, Limits
from gantry.images.tarfields import (
    check_sum,
    decimal_record,
    digits,
    number_field,
    pax_records,
    show,
    text_field,
    time_record,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

BLOCK = 512

FILE = b"0"
HARDLINK = b"1"
SYMLINK = b"2"
CHARDEV = b"3"
BLOCKDEV = b"4"
DIRECTORY = b"5"
FIFO = b"6"

KIND_NAMES = {
    FILE: "a file",
    HARDLINK: "a hard link",
    SYMLINK: "a symbolic link",
    CHARDEV: "a character device",
    BLOCKDEV: "a block device",
    DIRECTORY: "a directory",
    FIFO: "a named pipe",
}

_ZERO_BLOCK = bytes(BLOCK)
_NO_XATTRS: dict[bytes, bytes] = {}
_MAX_SEGMENTS = 1_000_000
_TIME_BOUND = (1 << 55) * 1_000_000_000


class Entry(NamedTuple):
    """One member of the archive.

    Attributes:
        name: The name as written, except that a directory's trailing slashes are still there.
        kind: One of the constants of this module.
        mode: Permission bits, setuid, setgid and sticky included.
        uid: Owner's number.
        gid: Group's number.
        size: Size of the file's content in bytes (holes included); 0 for everything else.
        mtime_ns: Modification time in nanoseconds since 1970.
        linkname: A link's target as written.
        devmajor: Major device number.
        devminor: Minor device number.
        xattrs: Extended attributes by name.
        offset: Where the entry's own header starts in the uncompressed archive.
        segments: For a sparse file, where data lies: (offset, length) in order; else ``None``.
    """

    name: bytes
    kind: bytes
    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    linkname: bytes
    devmajor: int
    devminor: int
    xattrs: dict[bytes, bytes]
    offset: int
    segments: list[tuple[int, int]] | None


class BlockReader:
    """Exact reads over an iterator of byte blocks of any size."""

    def __init__(self, blocks: Iterable[bytes]) -> None:
        self._blocks = iter(blocks)
        self._block = b""
        self._at = 0
        self._before = 0

    @property
    def position(self) -> int:
        """Bytes read so far."""
        return self._before + self._at

    def _next(self) -> bool:
        self._before += len(self._block)
        self._at = 0
        for block in self._blocks:
            if block:
                self._block = block
                return True
        self._block = b""
        return False

    def read(self, size: int) -> bytes:
        """Exactly *size* bytes, or fewer at the end of the stream."""
        at = self._at
        end = at + size
        if end <= len(self._block):
            self._at = end
            return self._block[at:end]
        return b"".join(self.pieces(size))

    def pieces(self, size: int) -> Iterator[bytes]:
        """The next *size* bytes in the pieces they come in; stops early at the end of the stream."""
        left = size
        while left > 0:
            if self._at >= len(self._block) and not self._next():
                return
            at = self._at
            piece = self._block if not at and len(self._block) <= left else self._block[at : at + left]
            self._at += len(piece)
            left -= len(piece)
            yield piece

    def skip(self, size: int) -> bool:
        """Pass over *size* bytes; False if the stream ended before."""
        left = size
        while True:
            here = len(self._block) - self._at
            if left <= here:
                self._at += left
                return True
            left -= here
            if not self._next():
                return False

    def drain(self) -> None:
        """Read to the end: every byte counts for the image ID (SIG-02)."""
        while self._next():
            pass


class TarStream:
    """Iterate over an archive's entries; :meth:`content` gives the current one's bytes.

    Args:
        blocks: The uncompressed archive in blocks of any size.
        limits: The bounds.
    """

    def __init__(self, blocks: Iterable[bytes], limits: Limits = DEFAULT_LIMITS) -> None:
        self._reader = BlockReader(blocks)
        self._limits = limits
        self._entry: Entry | None = None
        self._stored = 0
        self._padding = 0

    def __iter__(self) -> Iterator[Entry]:
        """Every entry in order.

        Raises:
            ArchiveError: The archive is damaged.
            LimitError: Something in it is larger than a bound.
        """
        count = 0
        while True:
            self._finish_entry()
            entry = self._next_entry()
            if entry is None:
                return
            count += 1
            if count > self._limits.entries:
                raise LimitError(f"the archive has more than {self._limits.entries} entries (bound: entries)")
            self._entry = entry
            yield entry

    @property
    def position(self) -> int:
        """Bytes of the archive read so far."""
        return self._reader.position

    def content(self) -> Iterator[bytes]:
        """The stored bytes of the current entry: for a sparse file its segments one after the other."""
        stored, self._stored = self._stored, 0
        got = 0
        for piece in self._reader.pieces(stored):
            got += len(piece)
            yield piece
        if got < stored:
            raise self._cut()

    def read(self) -> bytes:
        """The stored bytes of the current entry at once; for entries known to be small."""
        stored, self._stored = self._stored, 0
        data = self._reader.read(stored)
        if len(data) < stored:
            raise self._cut()
        return data

    def drain(self) -> None:
        """Read what follows the archive's end to the end of the stream."""
        self._reader.drain()

    def _cut(self) -> ArchiveError:
        where = f"inside {show(self._entry.name)!r}" if self._entry else "inside a header"
        return ArchiveError(f"the archive ends {where}", hint="the image is incomplete")

    def _finish_entry(self) -> None:
        left = self._stored + self._padding
        self._stored = self._padding = 0
        if left and not self._reader.skip(left):
            raise self._cut()

    def _header(self) -> bytes | None:
        self._entry = None
        header = self._reader.read(BLOCK)
        if not header:
            return None
        if header == _ZERO_BLOCK:
            following = self._reader.read(BLOCK)
            if following.strip(b"\0"):
                raise ArchiveError(
                    f"data after an empty block at byte {self.position - BLOCK} of the archive"
                )
            return None
        if len(header) < BLOCK:
            raise self._cut()
        return header

    def _extended(self, header: bytes) -> bytes:
        size = number_field(header[124:136], "size")
        if size > self._limits.header:
            raise LimitError(
                f"an extended header at byte {self.position - BLOCK} of the archive has {size} bytes, "
                f"more than {self._limits.header} (bound: header)"
            )
        data = self._reader.read(size)
        if len(data) < size or not self._reader.skip(-size % BLOCK):
            raise self._cut()
        return data

    def _next_entry(self) -> Entry | None:
        records: dict[bytes, bytes] = {}
        long_name: bytes | None = None
        long_link: bytes | None = None
        extended = 0
        while True:
            header = self._header()
            if header is None:
                if extended:
                    raise self._cut()
                return None
            check_sum(header, self.position - BLOCK)
            flag = header[156:157]
            if flag not in b"xgXLK":
                break
            extended += 1
            if extended > 16:
                raise ArchiveError(
                    f"more than 16 extended headers in a row at byte {self.position} of the archive"
                )
            data = self._extended(header)
            if flag in b"xX":
                records.update(pax_records(data))
            elif flag == b"L":
                long_name = data.split(b"\0", 1)[0]
            elif flag == b"K":
                long_link = data.split(b"\0", 1)[0]
            else:
                self._refuse_global(pax_records(data))
        return self._make(header, records, long_name, long_link)

    @staticmethod
    def _refuse_global(records: dict[bytes, bytes]) -> None:
        # A comment (git archive writes one) is harmless. Anything that would change every later entry is
        # what no image builder writes and two readers would understand differently.
        for key in records:
            if key not in (b"comment", b"hdrcharset"):
                raise ArchiveError(f"the archive sets {show(key)!r} for all its entries")

    def _make(
        self, header: bytes, records: dict[bytes, bytes], long_name: bytes | None, long_link: bytes | None
    ) -> Entry:
        offset = self.position - BLOCK
        name = text_field(header[0:100])
        magic = header[257:263]
        if magic == b"ustar\0" and header[345]:
            name = text_field(header[345:500]) + b"/" + name
        if long_name is not None:
            name = long_name
        link = text_field(header[157:257]) if long_link is None else long_link
        size = number_field(header[124:136], "size", name)
        kind = header[156:157]
        segments: list[tuple[int, int]] | None = None
        stored = size
        if kind == b"S":
            segments, size = self._old_sparse(header, name)
            kind = FILE
        elif kind in b"\x007":
            kind = DIRECTORY if name.endswith(b"/") else FILE
        elif kind not in KIND_NAMES:
            raise ArchiveError(
                f"{show(name)!r} at byte {offset} is of a kind that images do not have ({show(kind)!r})"
            )
        mtime_ns = number_field(header[136:148], "time", name, signed=True) * 1_000_000_000
        uid, gid = number_field(header[108:116], "owner", name), number_field(header[116:124], "group", name)
        xattrs = _NO_XATTRS
        if records:
            name = records.get(b"path", name)
            link = records.get(b"linkpath", link)
            uid = decimal_record(records, b"uid", uid)
            gid = decimal_record(records, b"gid", gid)
            stored = decimal_record(records, b"size", stored)
            if segments is None:
                size = stored
            if b"mtime" in records:
                mtime_ns = time_record(records[b"mtime"])
            xattrs = self._xattrs(records, name)
        if kind != FILE:
            size = stored = 0
        self._stored, self._padding = stored, -stored % BLOCK
        if records and kind == FILE and any(key.startswith(b"GNU.sparse.") for key in records):
            name = records.get(b"GNU.sparse.name", name)
            segments, size = self._pax_sparse(records, name)
        if segments is not None:
            _check_segments(segments, size, self._stored, name)
        if not -_TIME_BOUND < mtime_ns < _TIME_BOUND:
            raise ArchiveError(f"{show(name)!r} has a time out of range")
        if max(uid, gid) > 0xFFFFFFFE:
            raise ArchiveError(f"{show(name)!r} has an owner or group out of range")
        if size > self._limits.unpacked:
            raise LimitError(
                f"{show(name)!r} has {size} bytes, more than {self._limits.unpacked} (bound: unpacked)"
            )
        is_device = kind in (CHARDEV, BLOCKDEV)
        return Entry(
            name,
            kind,
            number_field(header[100:108], "mode", name) & 0o7777,
            uid,
            gid,
            size,
            mtime_ns,
            link if kind in (SYMLINK, HARDLINK) else b"",
            number_field(header[329:337], "device", name) if is_device else 0,
            number_field(header[337:345], "device", name) if is_device else 0,
            xattrs,
            offset,
            segments,
        )

    def _xattrs(self, records: dict[bytes, bytes], name: bytes) -> dict[bytes, bytes]:
        found = {key[13:]: value for key, value in records.items() if key.startswith(b"SCHILY.xattr.")}
        if not found:
            return _NO_XATTRS
        size = sum(len(key) + len(value) for key, value in found.items())
        if size > self._limits.xattrs:
            raise LimitError(
                f"the extended attributes of {show(name)!r} have {size} bytes, more than "
                f"{self._limits.xattrs} (bound: xattrs)"
            )
        return found

    def _old_sparse(self, header: bytes, name: bytes) -> tuple[list[tuple[int, int]], int]:
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
            area = self._reader.read(BLOCK)
            if len(area) < BLOCK:
                raise self._cut()
            count, more = 21, area[504]

    def _pax_sparse(self, records: dict[bytes, bytes], name: bytes) -> tuple[list[tuple[int, int]], int]:
        real = records.get(b"GNU.sparse.realsize", records.get(b"GNU.sparse.size"))
        if real is None:
            raise ArchiveError(f"{show(name)!r} is sparse but has no size")
        size = digits(real, name)
        if b"GNU.sparse.map" in records:
            numbers = [digits(part, name) for part in records[b"GNU.sparse.map"].split(b",") if part]
        elif records.get(b"GNU.sparse.major") == b"1":
            numbers = self._stored_map(name)
        else:
            numbers = []
            for key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):
                if key in records:  # version 0.0 repeats the keys; only maps of one segment survive a dict
                    numbers.append(digits(records[key], name))
            if records.get(b"GNU.sparse.numblocks", b"1") not in (b"0", b"1"):
                raise ArchiveError(f"{show(name)!r} uses a sparse map of the obsolete version 0.0")
        if len(numbers) % 2:
            raise ArchiveError(f"{show(name)!r} has a sparse map with half a segment")
        return list(zip(numbers[::2], numbers[1::2], strict=True)), size

    def _stored_map(self, name: bytes) -> list[int]:
        """Version 1.0: decimal lines in whole blocks before the data."""
        text = b""
        wanted = 1
        while text.count(b"\n") < wanted:
            block = self._reader.read(BLOCK) if self._stored >= BLOCK else b""
            if len(block) < BLOCK:
                raise ArchiveError(f"{show(name)!r} has a sparse map without an end")
            self._stored -= BLOCK
            text += block
            if wanted == 1 and b"\n" in text:
                count = digits(text.split(b"\n", 1)[0], name)
                if count > self._limits.header // 4:
                    raise LimitError(f"{show(name)!r} has more than {self._limits.header // 4} segments")
                wanted = 1 + 2 * count
            if len(text) > 8 * self._limits.header:
                raise LimitError(f"the sparse map of {show(name)!r} is too long")
        lines = text.split(b"\n", wanted)
        return [digits(line, name) for line in lines[1:wanted]]


def _check_segments(segments: list[tuple[int, int]], size: int, stored: int, name: bytes) -> None:
    end = total = 0
    for offset, length in segments:
        if offset < end or offset + length > size:
            raise ArchiveError(f"{show(name)!r} has a sparse map whose segments overlap or leave the file")
        end = offset + length
        total += length
    if total != stored:
        raise ArchiveError(f"{show(name)!r} has a sparse map of {total} bytes and {stored} bytes of data")
