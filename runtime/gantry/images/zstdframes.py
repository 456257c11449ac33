"""Take zstd frames apart (RFC 8878, section 3.1), so that their decompression is bounded.

The library decompresses all that it is given at once, and four bytes can stand for 128 KiB. So the frames'
own structure is read here and the library is given a block at a time, none of which yields more than
128 KiB. By the way it becomes known where a frame ends, whether it is whole, and how much memory it asks for
before it gets any.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gantry.images.errors import ArchiveError, LimitError

if TYPE_CHECKING:
    from types import ModuleType

    from zstandard import ZstdDecompressionObj

ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
ZSTD_SKIPPABLE = tuple(bytes((0x50 + number, 0x2A, 0x4D, 0x18)) for number in range(16))

#: Bytes that a frame may ask to keep for looking back: what ``zstd --long`` writes can be read.
ZSTD_WINDOW = 128 * 1024 * 1024
_BLOCK = 128 * 1024
_RLE = 1
_COMPRESSED_OR_RAW = (0, 2)


class ZstdFrame:
    """One frame; has the interface of the standard library's decompressors.

    :meth:`decompress` yields one block at a time, whatever it is given. A skippable frame is passed over.
    """

    def __init__(self) -> None:
        self._data = b""
        self._at = 0
        self._library: ModuleType
        self._machine: ZstdDecompressionObj | None = None
        self._skip = 0
        self._checksum = False
        self._last = False
        self._starved = True
        self.eof = False

    @property
    def needs_input(self) -> bool:
        """Whether nothing can be done before more bytes come."""
        return self._starved

    @property
    def unused_data(self) -> bytes:
        """What follows the frame."""
        return self._data[self._at :] if self.eof else b""

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:  # noqa: ARG002 - blocks are small
        """Take *data*; the next block's content, or nothing.

        Raises:
            ArchiveError: The frame is damaged, or needs a dictionary.
            LimitError: It asks for too much memory.
        """
        if data:
            self._data = self._data[self._at :] + data
            self._at = 0
        self._starved = False
        if self._skip:
            return self._pass_over()
        unit = self._header() if self._machine is None else self._block()
        if unit is None:
            self._starved = not self.eof
            return b""
        assert self._machine is not None
        try:
            content = self._machine.decompress(unit)
        except self._library.ZstdError as error:
            raise ArchiveError(
                f"the image's zstd data is damaged: {error}", hint="fetch the image again"
            ) from error
        if self._last and not self._checksum:
            self.eof = True
        return content

    def _take(self, size: int) -> bytes | None:
        end = self._at + size
        if end > len(self._data):
            return None
        unit = self._data[self._at : end]
        self._at = end
        return unit

    def _pass_over(self) -> bytes:
        step = min(self._skip, len(self._data) - self._at)
        self._skip -= step
        self._at += step
        self.eof = not self._skip
        self._starved = not self.eof
        return b""

    def _header(self) -> bytes | None:
        """The frame's header, once it is whole; makes the machine."""
        start = self._data[self._at : self._at + 18]
        if start.startswith(ZSTD_SKIPPABLE):
            if len(start) < 8:
                return None
            self._at += 8
            self._skip = int.from_bytes(start[4:8], "little")
            self._pass_over()
            return None
        if len(start) < 6:
            return None
        descriptor = start[4]
        single = bool(descriptor & 0x20)
        dictionary = (0, 1, 2, 4)[descriptor & 3]
        size_field = (1 if single else 0, 2, 4, 8)[descriptor >> 6]
        length = 5 + (not single) + dictionary + size_field
        if len(start) < length:
            return None
        if dictionary and any(start[5 + (not single) : 5 + (not single) + dictionary]):
            raise ArchiveError(
                "the image's zstd data needs a dictionary",
                hint="its publisher has to compress it without one",
            )
        if single:
            window = int.from_bytes(start[length - size_field : length], "little") + 256 * (size_field == 2)
        else:
            base = 1 << (10 + (start[5] >> 3))
            window = base + (base >> 3) * (start[5] & 7)
        if window > ZSTD_WINDOW:
            raise LimitError(
                f"the image's zstd data asks for {window} bytes of memory, more than {ZSTD_WINDOW}",
                hint="its publisher has to compress it with a smaller window (zstd --long=27 at most)",
            )
        self._checksum = bool(descriptor & 4)
        import zstandard  # noqa: PLC0415 - only where it is used: it costs 10 ms

        self._library = zstandard
        self._machine = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW).decompressobj()
        return self._take(length)

    def _block(self) -> bytes | None:
        """The next block, or the checksum after the last, once it is whole."""
        if self._last:
            unit = self._take(4)
            if unit is not None:
                self._checksum = False
            return unit
        header = self._data[self._at : self._at + 3]
        if len(header) < 3:
            return None
        value = int.from_bytes(header, "little")
        kind, size = value >> 1 & 3, value >> 3
        if size > _BLOCK or kind not in (_RLE, *_COMPRESSED_OR_RAW):
            raise ArchiveError(
                "the image's zstd data is damaged: a block that cannot be", hint="fetch the image again"
            )
        unit = self._take(3 + (1 if kind == _RLE else size))
        if unit is not None:
            self._last = bool(value & 1)
        return unit
