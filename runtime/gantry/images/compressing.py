"""Compress a stream on all processors; the bytes do not depend on how many there are (ACI-17, ACI-21).

The stream is cut into blocks of a fixed size, threads compress them (the libraries release the interpreter's
lock), and the results are written in order. Each kind has its own way to make one valid file of them:

- gzip: one member. Every block but the last ends in an empty stored block, which ends on a whole byte, and
  begins with the 32 KiB before it as its dictionary: the cuts cost a few bytes each;
- bzip2 and xz: one stream a block; their readers take several in a row as one;
- zstd: one frame a block, likewise.

No more than a few blocks per thread are in memory. docs/decisions/0011 has the sizes and what they cost.
"""

from __future__ import annotations

import bz2
import contextlib
import lzma
import os
import threading
import zlib
from collections import deque
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, NamedTuple, Protocol

from gantry.errors import UsageError
from gantry.images.compression import KINDS

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

_MIB = 1024 * 1024
_GZIP_LEVEL = 6
_ZSTD_LEVEL = 3
_WINDOW = 32 * 1024
# Method deflate, no flags, no time, no level, Unix: nothing that depends on when and how it was made.
_GZIP_HEADER = b"\x1f\x8b\x08\0\0\0\0\0\0\x03"


class Compressor(Protocol):
    """Takes a stream piece by piece; give it :meth:`finish` at the end, and leave its block."""

    def write(self, data: bytes) -> None:
        """Take *data*; what is ready goes to the sink."""

    def finish(self) -> None:
        """Hand everything that is left to the sink."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class _Family(NamedTuple):
    """How one kind is compressed.

    Attributes:
        pack: One block, given the bytes before it and whether it is the last.
        block: Bytes of a block.
        threads: The most that are used; each needs memory.
        header: What stands before all blocks.
        trailer: Whether gzip's checksum and size follow all blocks.
    """

    pack: Callable[[bytes, bytes, bool], bytes]
    block: int
    threads: int
    header: bytes = b""
    trailer: bool = False


def compressor(kind: str, sink: Callable[[bytes], None], *, threads: int | None = None) -> Compressor:
    """A compressor whose output goes to *sink*, always called by the thread that writes.

    Args:
        kind: One of :data:`gantry.images.compression.KINDS`.
        sink: Takes the compressed bytes.
        threads: How many to use; by default one for each processor this process may use. The bytes do not
            depend on it.

    Raises:
        UsageError: There is no such kind.
    """
    if kind == "none":
        return _Plain(sink)
    if kind not in _FAMILIES:
        raise UsageError(f'"{kind}" is no compression', hint=f"one of {', '.join(KINDS)}")
    family = _FAMILIES[kind]
    return _Blocks(family, sink, min(threads or len(os.sched_getaffinity(0)), family.threads))


def _gzip(block: bytes, before: bytes, last: bool) -> bytes:
    machine = (
        zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, -15, zdict=before)
        if before
        else zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, -15)
    )
    return machine.compress(block) + machine.flush(zlib.Z_FINISH if last else zlib.Z_SYNC_FLUSH)


def _bzip2(block: bytes, before: bytes, last: bool) -> bytes:  # noqa: ARG001
    return bz2.compress(block)


def _xz(block: bytes, before: bytes, last: bool) -> bytes:  # noqa: ARG001
    return lzma.compress(block, lzma.FORMAT_XZ, lzma.CHECK_CRC64, preset=6)


def _zstd(block: bytes, before: bytes, last: bool) -> bytes:  # noqa: ARG001
    import zstandard  # noqa: PLC0415 - only where it is used: it costs 10 ms

    return zstandard.ZstdCompressor(level=_ZSTD_LEVEL, write_checksum=True).compress(block)


_FAMILIES = {
    "gzip": _Family(_gzip, _MIB // 4, 64, _GZIP_HEADER, trailer=True),
    "bzip2": _Family(_bzip2, 900_000, 16),
    "xz": _Family(_xz, 8 * _MIB, 4),
    "zstd": _Family(_zstd, 8 * _MIB, 8),
}


class _Plain:
    def __init__(self, sink: Callable[[bytes], None]) -> None:
        self._sink = sink

    def write(self, data: bytes) -> None:
        self._sink(data)

    def finish(self) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class _Job:
    """One block on its way through a thread."""

    __slots__ = ("before", "block", "done", "error", "last", "result")

    def __init__(self, block: bytes, before: bytes, last: bool) -> None:
        self.block = block
        self.before = before
        self.last = last
        self.done = threading.Lock()  # held until the result is there: cheaper than an event
        self.done.acquire()
        self.result = b""
        self.error: BaseException | None = None


class _Blocks:
    """Blocks in, compressed blocks out, in the same order."""

    def __init__(self, family: _Family, sink: Callable[[bytes], None], threads: int) -> None:
        self._family = family
        self._sink = sink
        self._pieces: list[bytes] = []
        self._size = 0
        self._before = b""
        self._checksum = 0
        self._taken = 0
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._waiting: deque[_Job] = deque()
        self._room = threads + 1
        self._started = False
        self._threads = [
            threading.Thread(target=self._work, name="compress", daemon=True) for _ in range(threads)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(Empty):  # after a failure: what nobody has begun is not begun
            while True:
                self._jobs.get_nowait()
        for _thread in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()

    def write(self, data: bytes) -> None:
        if self._family.trailer:
            self._checksum = zlib.crc32(data, self._checksum)
            self._taken += len(data)
        self._pieces.append(data)
        self._size += len(data)
        # More than a block, not just one: the last block must be known to be it, and not be empty.
        if self._size > self._family.block:
            self._cut()

    def finish(self) -> None:
        self._cut()
        self._submit(b"".join(self._pieces), last=True)
        self._pieces = []
        while self._waiting:
            self._collect()
        if self._family.trailer:
            self._sink(
                self._checksum.to_bytes(4, "little") + (self._taken & 0xFFFFFFFF).to_bytes(4, "little")
            )

    def _cut(self) -> None:
        size = self._family.block
        data = b"".join(self._pieces)
        at = 0
        while len(data) - at > size:
            self._submit(data[at : at + size], last=False)
            at += size
        self._pieces = [data[at:]]
        self._size = len(data) - at

    def _submit(self, block: bytes, *, last: bool) -> None:
        if not self._started:
            self._started = True
            if self._family.header:
                self._sink(self._family.header)
        job = _Job(block, self._before, last)
        if self._family.trailer:
            self._before = block[-_WINDOW:]
        self._jobs.put(job)
        self._waiting.append(job)
        while len(self._waiting) > self._room:
            self._collect()

    def _collect(self) -> None:
        job = self._waiting.popleft()
        with job.done:
            if job.error is not None:
                raise job.error
            self._sink(job.result)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                job.result = self._family.pack(job.block, job.before, job.last)
            except BaseException as error:  # noqa: BLE001 - the writing thread raises it
                job.error = error
            finally:
                job.done.release()
