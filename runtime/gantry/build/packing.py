"""The stream of one image: entries become a tar, which is hashed, compressed and written."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from gantry.appc.imageid import ImageID
from gantry.build import tarwriter
from gantry.errors import GantryError
from gantry.images.compressing import compressor
from gantry.images.tarstream import FILE, Entry
from gantry.images.validation import below_merged
from gantry.linux.fs import write_all

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

_PIECE = 256 * 1024


class BuildError(GantryError):
    """An image cannot be built."""

    code = "build"


class Packer:
    """Writes one image to a descriptor. Leave its block, so that the threads end.

    Times are written in whole seconds.

    Args:
        fd: Where it goes.
        compression: One of :data:`gantry.images.compression.KINDS`.
        owner_root: Everything belongs to 0:0 (ACI-16).
        epoch: No time is later, in seconds since 1970; ``None``: times stay.
        threads: To compress with; by default one for each processor. It changes no byte.

    Attributes:
        entries: Entries of the root file system so far.
        merged: Names at its top that many bases have as links, and below which there are entries.

    Raises:
        UsageError: There is no such compression.
    """

    def __init__(
        self, fd: int, compression: str, *, owner_root: bool, epoch: int | None, threads: int | None = None
    ) -> None:
        self._fd = fd
        self._compressor = compressor(compression, self._store, threads=threads)
        self._owner_root = owner_root
        # The names of owners belong to the host the image is built on; numbers are what counts.
        self._names = (b"root", b"root") if owner_root else (b"", b"")
        self._epoch = epoch
        self._latest = None if epoch is None else epoch * 1_000_000_000
        self._digest = hashlib.sha512()
        self._pending: list[bytes] = []
        self._pending_size = 0
        self.entries = 0
        self.merged: set[bytes] = set()

    def __enter__(self) -> Self:
        self._compressor.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._compressor.__exit__(kind, value, trace)

    def add(self, entry: Entry) -> None:
        """The headers of an entry of the root file system.

        A file's content and :meth:`pad` follow.
        """
        self.entries += 1
        if top := below_merged(entry.name[len(b"rootfs/") :]):
            self.merged.add(top)
        if self._latest is not None and entry.mtime_ns > self._latest:
            entry = entry._replace(mtime_ns=self._latest)
        if self._owner_root:
            entry = entry._replace(uid=0, gid=0)
        self.write(tarwriter.headers(entry, *self._names))

    def pad(self, size: int) -> None:
        """Fill up the last block of a content of *size* bytes."""
        if size % tarwriter.BLOCK:
            self.write(bytes(-size % tarwriter.BLOCK))

    def manifest(self, manifest: bytes) -> None:
        """The manifest (ACI-15), the last entry."""
        self.write(manifest_entry(manifest, self._epoch or 0))

    def finish(self) -> ImageID:
        """The end of the archive; the image ID."""
        self.write(tarwriter.END)
        return self.close()

    def close(self) -> ImageID:
        """Write out what is pending; the image ID of all that was written."""
        self._flush()
        self._compressor.finish()
        return ImageID.from_digest(self._digest.digest())

    def write(self, data: bytes) -> None:
        """Bytes of the tar as they are."""
        self._pending.append(data)
        self._pending_size += len(data)
        if self._pending_size >= _PIECE:
            self._flush()

    def _flush(self) -> None:
        data = b"".join(self._pending)
        self._pending, self._pending_size = [], 0
        self._digest.update(data)
        self._compressor.write(data)

    def _store(self, data: bytes) -> None:
        if data:
            write_all(self._fd, data)


def manifest_entry(manifest: bytes, seconds: int) -> bytes:
    """The manifest's entry with its content, as blocks of a tar (ACI-15)."""
    entry = Entry(
        b"manifest", FILE, 0o644, 0, 0, len(manifest), seconds * 1_000_000_000, b"", 0, 0, {}, 0, None
    )
    return tarwriter.headers(entry, b"root", b"root") + manifest + bytes(-len(manifest) % tarwriter.BLOCK)
