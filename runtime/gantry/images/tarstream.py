"""A tar reader for images: one pass over a stream, no seeking, nothing trusted.

Reads ustar (with its name prefix), GNU (long names and links, base-256 numbers, old sparse maps) and PAX
(paths, sizes, times, owners, extended attributes, the three GNU sparse maps). Names stay bytes: a tar has no
encoding, and neither has a file system.

Why not the standard library's: it costs twice the time per entry, decodes names, and drops extended
attributes' bytes (case 16).

Rules:

- every header's checksum is verified; a damaged one ends the reading, for what follows has no known place;
- bodies follow regular files only; a size in the header of a link, directory or device means nothing;
- what two readers would understand differently is refused: two headers that name one entry, a size in the
  header and another in the extended header, a directory of the oldest kind that has a size;
- an archive may end without an end-of-archive block, but not inside an entry; after such a block there is
  nothing but zeros;
- what the archive says is bounded before it is stored (:class:`gantry.images.limits.Limits`), each name by
  itself and all of them together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from gantry.images.errors import ArchiveError, ImageError, LimitError
from gantry.images.limits import DEFAULT_LIMITS, Limits
from gantry.images.tarfields import (
    check_sum,
    decimal_record,
    number_field,
    pax_records,
    show,
    text_field,
    time_record,
)
from gantry.images.tarsparse import check_segments, extended_map, old_map

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

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
_FITS_OCTAL = 1 << 33  # sizes from here on do not fit into a header as the standard writes it
_TWICE = {b"L": "name", b"K": "link target", b"x": "extended header", b"X": "extended header"}
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd")
_MAX_ID = 0xFFFFFFFE
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

    def drain(self, passed: Callable[[], object]) -> bool:
        """Read to the end, for every byte counts for the image ID (SIG-02); False unless all were zeros.

        Args:
            passed: Called each time some more has been read.
        """
        clean = not self._block[self._at :].strip(b"\0")
        while self._next():
            passed()
            if self._block.strip(b"\0"):
                clean = False
        return clean


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
        self._names = 0
        self._marked = False
        #: Where in the archive what describes the current entry alone begins: after headers that are for all.
        self.begins = 0

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
            self._names += len(entry.name) + len(entry.linkname)
            if entry.xattrs:
                self._names += sum(len(key) + len(value) for key, value in entry.xattrs.items())
            if self._names > self._limits.names:
                raise LimitError(
                    f"the names, link targets and extended attributes in the archive have more than "
                    f"{self._limits.names} bytes (bound: names)"
                )
            self._entry = entry
            yield entry

    @property
    def position(self) -> int:
        """Bytes of the archive read so far."""
        return self._reader.position

    @property
    def marked(self) -> bool:
        """Whether the archive's end was marked as such, and was not just where the bytes ended."""
        return self._marked

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

    def drain(self, passed: Callable[[], object] = bool) -> None:
        """Read what follows the archive's end to the end of the stream.

        Args:
            passed: Called each time some more has been read.

        Raises:
            ArchiveError: Something does.
        """
        end = self.position
        if not self._reader.drain(passed):
            raise ArchiveError(
                f"other data follows the end of the archive at byte {end}",
                hint="only zeros may follow; whoever put it there has to build the image anew",
            )

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
            self._marked = True
            return None
        if self._reader.position <= BLOCK and header.startswith(_COMPRESSED):
            raise ArchiveError("the image is compressed twice", hint="its publisher has to compress it once")
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
        seen: tuple[str, ...] = ()
        self.begins = -1
        while True:
            header = self._header()
            if header is None:
                if extended:
                    raise self._cut()
                return None
            check_sum(header, self.position - BLOCK)
            flag = header[156:157]
            if flag == b"g" and not seen:
                self.begins = -1
            elif self.begins < 0:
                self.begins = self.position - BLOCK
            if flag not in b"xgXLK":
                break
            extended += 1
            if extended > 16:
                raise ArchiveError(
                    f"more than 16 extended headers in a row at byte {self.position} of the archive"
                )
            if flag != b"g":
                what = _TWICE[flag]
                if what in seen:
                    raise ArchiveError(
                        f"an entry with a second {what} at byte {self.position - BLOCK} of the archive"
                    )
                seen += (what,)
            data = self._extended(header)
            if flag in b"xX":
                records.update(pax_records(data))
            elif flag == b"L":
                long_name = data.split(b"\0", 1)[0]
            elif flag == b"K":
                long_link = data.split(b"\0", 1)[0]
            else:
                self._refuse_global(pax_records(data))
        if records:
            _refuse_contradiction(records.get(b"GNU.sparse.name", records.get(b"path")), long_name)
            _refuse_contradiction(records.get(b"linkpath"), long_link)
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
        size = written = number_field(header[124:136], "size", name)
        kind = header[156:157]
        segments: list[tuple[int, int]] | None = None
        stored = size
        if kind == b"S":
            segments, size = old_map(header, self._block_of_map, name)
            kind = FILE
        elif kind in b"\x007":
            full = size or records.get(b"size", b"0").strip(b"0")
            kind = _oldest_kind(records.get(b"path", name), has_content=bool(full))
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
            if kind == FILE:
                _refuse_two_sizes(name, written, stored)
            if segments is None:
                size = stored
            if b"mtime" in records:
                mtime_ns = time_record(records[b"mtime"])
            xattrs = self._xattrs(records, name)
        if kind != FILE:
            size = stored = 0
        self._stored, self._padding = stored, -stored % BLOCK
        if records and any(key.startswith(b"GNU.sparse.") for key in records):
            if kind != FILE or segments is not None:
                raise ArchiveError(f"{show(name)!r} has a sparse map that does not belong to it")
            name = records.get(b"GNU.sparse.name", name)
            segments, size = extended_map(records, self._block_of_body, name, self._limits.header)
        if segments is not None:
            check_segments(segments, size, self._stored, name)
        if (
            size > self._limits.unpacked
            or uid > _MAX_ID
            or gid > _MAX_ID
            or not -_TIME_BOUND < mtime_ns < _TIME_BOUND
        ):
            raise self._out_of_range(name, size, mtime_ns)
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

    def _out_of_range(self, name: bytes, size: int, mtime_ns: int) -> ImageError:
        if size > self._limits.unpacked:
            return LimitError(
                f"{show(name)!r} has {size} bytes, more than {self._limits.unpacked} (bound: unpacked)"
            )
        what = "an owner or group" if -_TIME_BOUND < mtime_ns < _TIME_BOUND else "a time"
        return ArchiveError(f"{show(name)!r} has {what} out of range")

    def _block_of_map(self) -> bytes:
        """The next block of what follows a header that says so."""
        block = self._reader.read(BLOCK)
        if len(block) < BLOCK:
            raise self._cut()
        return block

    def _block_of_body(self) -> bytes:
        """The next block of the current entry's body, taken from it; short at its end."""
        if self._stored < BLOCK:
            return b""
        self._stored -= BLOCK
        return self._block_of_map()

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


def _oldest_kind(name: bytes, *, has_content: bool) -> bytes:
    """What a header is about that says no kind; a slash made a directory before there were kinds."""
    if not name.endswith(b"/"):
        return FILE
    if has_content:
        raise ArchiveError(f"{show(name)!r} is a directory or a file, depending on who reads it")
    return DIRECTORY


def _refuse_two_sizes(name: bytes, written: int, stored: int) -> None:
    # A size that fits into the header stands there, too, whoever writes the archive.
    if stored != written and stored < _FITS_OCTAL:
        raise ArchiveError(
            f"{show(name)!r} has the size {written} and the size {stored}, depending on who reads it"
        )


def _refuse_contradiction(record: bytes | None, long: bytes | None) -> None:
    if record is not None and long is not None and record != long:
        raise ArchiveError(f"an entry that is called {show(record[:200])!r} and {show(long[:200])!r}")
