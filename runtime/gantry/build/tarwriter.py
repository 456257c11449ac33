"""Write tar headers: ustar, with a PAX header before it where ustar cannot say it, as with attributes.

Names are bytes. A header depends on nothing but the entry, so equal entries give equal bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gantry.images.tarstream import Entry

BLOCK = 512
END = bytes(2 * BLOCK)

# The checksum is made with blanks in its place.
_USTAR = (
    b"%b%07o\0%07o\0%07o\0%011o\0%011o\0" + b" " * 8 + b"%b%bustar\x0000%b%b%07o\0%07o\0" + bytes(155 + 12)
)
_EMPTY = bytes(32)

_MAX_NAME = 100
_MAX_OCTAL_7 = 0o7777777
_MAX_OCTAL_11 = 0o77777777777


def headers(entry: Entry, user: bytes = b"", group: bytes = b"") -> bytes:
    """The header blocks of an entry; its content follows, padded to :data:`BLOCK`.

    Args:
        entry: What to write; directories' names end in a slash or not, as they come.
        user: The owner's name; what does not fit is left out.
        group: The group's name.
    """
    records: dict[bytes, bytes] = {}
    name, link = entry.name, entry.linkname
    seconds = entry.mtime_ns // 1_000_000_000
    if len(name) > _MAX_NAME or not name.isascii():
        records[b"path"] = name
        name = name[:_MAX_NAME]
    if len(link) > _MAX_NAME or not link.isascii():
        records[b"linkpath"] = link
        link = link[:_MAX_NAME]
    for key, value, bound in ((b"uid", entry.uid, _MAX_OCTAL_7), (b"gid", entry.gid, _MAX_OCTAL_7)):
        if value > bound:
            records[key] = b"%d" % value
    if entry.size > _MAX_OCTAL_11:
        records[b"size"] = b"%d" % entry.size
    if not 0 <= seconds <= _MAX_OCTAL_11:
        records[b"mtime"] = b"%d" % seconds
    for key in sorted(entry.xattrs):
        records[b"SCHILY.xattr." + key] = entry.xattrs[key]
    out = b""
    if records:
        body = _pax_body(records)
        padded = body + bytes(-len(body) % BLOCK)
        out = _ustar(b"././@PaxHeader", b"x", len(body), 0o644, 0, 0, 0, b"", 0, 0, b"", b"") + padded
    return out + _ustar(
        name,
        entry.kind,
        entry.size if entry.size <= _MAX_OCTAL_11 else 0,
        entry.mode,
        entry.uid if entry.uid <= _MAX_OCTAL_7 else 0,
        entry.gid if entry.gid <= _MAX_OCTAL_7 else 0,
        seconds if 0 <= seconds <= _MAX_OCTAL_11 else 0,
        link,
        entry.devmajor,
        entry.devminor,
        user,
        group,
    )


def _pax_body(records: Mapping[bytes, bytes]) -> bytes:
    out = b""
    # Says that what follows is bytes, not UTF-8; readers that do not know it take them as they are anyway.
    if not all(_is_utf8(value) for key, value in records.items() if key in (b"path", b"linkpath")):
        out = _record(b"hdrcharset", b"BINARY")
    return out + b"".join(_record(key, value) for key, value in records.items())


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _record(key: bytes, value: bytes) -> bytes:
    rest = b" " + key + b"=" + value + b"\n"
    length = len(rest) + 1
    while length != len(rest) + len(b"%d" % length):
        length = len(rest) + len(b"%d" % length)
    return b"%d" % length + rest


def _ustar(  # noqa: PLR0917 - the fields in the order of the header
    name: bytes,
    kind: bytes,
    size: int,
    mode: int,
    uid: int,
    gid: int,
    mtime: int,
    link: bytes,
    devmajor: int,
    devminor: int,
    user: bytes,
    group: bytes,
) -> bytes:
    header = _USTAR % (
        name.ljust(100, b"\0"),
        mode,
        uid,
        gid,
        size,
        mtime,
        kind,
        link.ljust(100, b"\0"),
        _field(user),
        _field(group),
        devmajor,
        devminor,
    )
    return header[:148] + b"%06o\0 " % sum(header) + header[156:]


def _field(text: bytes) -> bytes:
    return text.ljust(32, b"\0") if len(text) < 32 else _EMPTY
