"""Read an image's bytes: decompress, hash and parse, once, from front to end."""

from __future__ import annotations

import contextlib
import hashlib
import os
from typing import TYPE_CHECKING

from gantry.appc.imageid import ImageID
from gantry.images.channel import Channel, Stage, pump
from gantry.images.compression import decompress
from gantry.images.errors import DigestMismatchError
from gantry.images.layout import Layout
from gantry.images.limits import DEFAULT_LIMITS, Limits
from gantry.images.tarstream import TarStream

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_READ = 256 * 1024


class Counted:
    """Blocks that are hashed and counted on their way."""

    def __init__(self, blocks: Iterable[bytes]) -> None:
        self._blocks = blocks
        self._digest = hashlib.sha512()
        self.size = 0

    def __iter__(self) -> Iterator[bytes]:
        update = self._digest.update
        for block in self._blocks:
            update(block)
            self.size += len(block)
            yield block

    @property
    def image_id(self) -> ImageID:
        """The image ID, once everything has passed (SIG-01, SIG-02)."""
        return ImageID.from_digest(self._digest.digest())


class ImageReader:
    """The entries and bytes of one image; made by :func:`reading`.

    Iterate over :attr:`layout` to the end, then ask for :meth:`image_id`.

    Attributes:
        stream: The current entry's content.
        layout: The checked entries.
    """

    def __init__(self, counted: Counted, blocks: Iterable[bytes], limits: Limits) -> None:
        self._counted = counted
        self.stream = TarStream(blocks, limits)
        self.layout = Layout(self.stream, limits)

    @property
    def unpacked(self) -> int:
        """Bytes of the uncompressed tar, once everything has been read."""
        return self._counted.size

    def image_id(self) -> ImageID:
        """The ID of what was read."""
        return self._counted.image_id

    def expect(self, image_id: str) -> None:
        """Compare with the ID that these bytes must have (SIG-12, DEP-29).

        Raises:
            DigestMismatchError: They are others.
        """
        found = self.image_id()
        if found != image_id:
            raise DigestMismatchError(
                f"the bytes of image {ImageID.parse(image_id).short()} are another's: {found.short()}",
                hint="remove the image and fetch it again",
            )


def file_chunks(fd: int) -> Iterator[bytes]:
    """A file's bytes from its current position."""
    while chunk := os.read(fd, _READ):
        yield chunk


@contextlib.contextmanager
def reading(
    chunks: Iterable[bytes], limits: Limits = DEFAULT_LIMITS, *, threads: bool = True
) -> Iterator[ImageReader]:
    """Read an image as distributed.

    Args:
        chunks: The image as distributed.
        limits: The bounds.
        threads: Decompress and hash in threads of their own; for a small image they cost more than they save.

    Raises:
        ArchiveError: While iterating: it is no image, or damaged.
        LimitError: While iterating: a bound is exceeded.
    """
    if not threads:
        alone = Counted(decompress(chunks, limits))
        yield ImageReader(alone, alone, limits)
        return
    raw, hashed = Channel(), Channel()
    unpacker = Stage("unpack", lambda: pump(decompress(chunks, limits), raw))
    counted = Counted(raw)
    hasher = Stage("hash", lambda: pump(counted, hashed))
    try:
        yield ImageReader(counted, hashed, limits)
    finally:
        hashed.abandon()
        raw.abandon()
        hasher.join()
        unpacker.join()
