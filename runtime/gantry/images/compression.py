"""The compressions of an image, told apart by content (ACI-17, ACI-18), and bounded.

The specification has four; zstd is our extension (docs/extensions.md). Every decompressor here yields blocks
of at most :data:`BLOCK_SIZE` bytes, so a bomb meets the bounds before it meets the memory.
"""

from __future__ import annotations

import bz2
import lzma
from typing import TYPE_CHECKING, Any, Protocol

from gantry.images.errors import ArchiveError, LimitError
from gantry.images.limits import DEFAULT_LIMITS, Limits
from gantry.images.zstdframes import ZSTD_MAGIC, ZSTD_SKIPPABLE, ZstdFrame

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

KINDS = ("none", "gzip", "bzip2", "xz", "zstd")

BLOCK_SIZE = 256 * 1024
_XZ_MEMORY = 128 * 1024 * 1024
_SNIFF = 512
_FLAGS_AT, _RESERVED_FLAGS = 3, 0xE0

_MAGIC = ((b"\x1f\x8b", "gzip"), (b"BZh", "bzip2"), (b"\xfd7zXZ\0", "xz"), (ZSTD_MAGIC, "zstd"))
# What may follow a whole stream: another one; in zstd also a skippable frame, but none may come first.
_FOLLOWING = {
    kind: tuple(magic for magic, name in _MAGIC if name == kind) + (ZSTD_SKIPPABLE if kind == "zstd" else ())
    for kind in KINDS
}
_PGP_SYMMETRIC = (b"\x8c", b"\xc3", b"-----BEGIN PGP MESSAGE")


def sniff(start: bytes) -> str:
    """The compression of a file that begins with *start* (its first 512 bytes).

    Implements ACI-17, ACI-18; an encrypted image (ACI-19) is named as such.

    Raises:
        ArchiveError: It is no image.
    """
    for magic, kind in _MAGIC:
        if start.startswith(magic):
            return kind
    if start[257:262] == b"ustar":
        return "none"
    if start.startswith(_PGP_SYMMETRIC):
        raise ArchiveError(
            "the image is encrypted, which is not supported", hint="decrypt it and sign it anew"
        )
    if not start:
        raise ArchiveError("the image is empty")
    raise ArchiveError(
        "this is neither a tar nor one compressed by gzip, bzip2, xz or zstd",
        hint="check that the address serves the image itself",
    )


class _Decompressor(Protocol):
    """What bz2's and lzma's decompressors have in common."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


class _Gzip:
    """A gzip decompressor with the interface of the other two.

    ISA-L's: it takes less than half of zlib's time, which most of a fetch would be (docs/decisions/0019).
    """

    def __init__(self) -> None:
        from isal import igzip_lib  # noqa: PLC0415 - what is not compressed needs none

        self._inner = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)
        self._error: Any = igzip_lib.error
        self._head: bytes | None = b""

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def needs_input(self) -> bool:
        return self._inner.needs_input

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        if self._head is not None:
            self._check_head(data)
        try:
            return self._inner.decompress(data, max_length)
        except self._error as error:
            raise ValueError(str(error).partition(" ")[2].partition(" ")[2].lower() or "bad data") from error

    def _check_head(self, data: bytes) -> None:
        """Refuse undefined flags, as the format demands and other readers do (RFC 1952, 2.3.1.2)."""
        self._head = (self._head or b"") + data[: _FLAGS_AT + 1]
        if len(self._head) > _FLAGS_AT:
            if self._head[_FLAGS_AT] & _RESERVED_FLAGS:
                raise ValueError("its header has flags that are not defined")
            self._head = None


def _new(kind: str) -> _Decompressor:
    if kind == "gzip":
        return _Gzip()
    if kind == "bzip2":
        return bz2.BZ2Decompressor()
    if kind == "zstd":
        return ZstdFrame()
    return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY)


def decompress(chunks: Iterable[bytes], limits: Limits = DEFAULT_LIMITS) -> Iterator[bytes]:
    """The uncompressed bytes of an image that comes in *chunks*.

    Members or streams that follow one another are one (as the tools do it); zero padding after the last is
    passed over; anything else there is refused.

    Raises:
        ArchiveError: It is no image, is damaged, or ends too early.
        LimitError: More comes out than :class:`Limits` allows.
    """
    source = (chunk for chunk in chunks if chunk)
    start = b""
    for chunk in source:
        start += chunk
        if len(start) >= _SNIFF:
            break
    kind = sniff(start[:_SNIFF])
    bound = _Bound(limits)
    if kind == "none":
        yield from bound.plain(start, source)
        return
    try:
        yield from _inflate(kind, start, source, bound)
    except (OSError, lzma.LZMAError, EOFError, ValueError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the chunks' own trouble, not the decompressor's
        raise ArchiveError(
            f"the image's {kind} data is damaged: {error}", hint="fetch the image again"
        ) from error


class _Bound:
    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.taken = 0
        self.given = 0

    def give(self, size: int) -> None:
        self.given += size
        if self.given > self.limits.unpacked:
            raise LimitError(f"the image unpacks to more than {self.limits.unpacked} bytes (bound: unpacked)")
        if self.given > self.limits.ratio_from and self.given > self.limits.ratio * max(self.taken, 1):
            raise LimitError(
                f"the image unpacks to more than {self.limits.ratio} times its size (bound: ratio)",
                hint="this is what a decompression bomb looks like",
            )

    def plain(self, start: bytes, source: Iterator[bytes]) -> Iterator[bytes]:
        self.taken = self.limits.unpacked  # nothing is unpacked, so no ratio applies
        if start:
            self.give(len(start))
            yield start
        for chunk in source:
            self.give(len(chunk))
            yield chunk


#: So many members or frames may have so few bytes each: every one costs time, whatever is in it.
_SMALL, _MANY_SMALL = 1024, 10_000


def _inflate(kind: str, start: bytes, source: Iterator[bytes], bound: _Bound) -> Iterator[bytes]:
    machine = _new(kind)
    data = start
    bound.taken = len(start)
    small = before = 0
    while True:
        block = machine.decompress(data, BLOCK_SIZE)
        data = b""
        if block:
            bound.give(len(block))
            yield block
        if machine.eof:
            data, padded = _skip_padding(machine.unused_data, source, bound)
            if not data:
                return
            if padded or not data.startswith(_FOLLOWING[kind]):
                raise ArchiveError(f"there is other data after the image's {kind} data")
            small += bound.given - before < _SMALL
            before = bound.given
            if small > _MANY_SMALL:
                raise LimitError(f"the image has more than {_MANY_SMALL} nearly empty pieces of {kind}")
            machine = _new(kind)
        elif machine.needs_input:
            data = next(source, b"")
            bound.taken += len(data)
            if not data:
                raise ArchiveError("the image is cut short", hint="fetch the image again")


def _skip_padding(data: bytes, source: Iterator[bytes], bound: _Bound) -> tuple[bytes, bool]:
    """What follows a compressed stream, a magic number's length of it; whether zeros came first."""
    padded = data[:1] == b"\0"
    data = data.lstrip(b"\0")
    while len(data) < 6:
        more = next(source, b"")
        if not more:
            break
        bound.taken += len(more)
        padded = padded or (not data and more[:1] == b"\0")
        data = data + more if data else more.lstrip(b"\0")
    return data, padded
