"""Copy an image with another manifest: every other entry keeps every byte, its headers included.

The image is read twice: first it is checked like any other, then copied with the manifest's entry exchanged.
What changed between the two would change the image ID, so that is noticed.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from typing import TYPE_CHECKING

from gantry.appc.errors import AppcError
from gantry.appc.imageid import ImageID
from gantry.appc.manifest import ImageManifest
from gantry.build.builder import Built, check_output, check_size
from gantry.build.packing import BuildError, Packer, manifest_entry
from gantry.build.tarwriter import BLOCK
from gantry.errors import NotFoundError
from gantry.images.compression import decompress, sniff
from gantry.images.errors import explained
from gantry.images.layout import MANIFEST, clean
from gantry.images.limits import DEFAULT_LIMITS, Limits
from gantry.images.reading import file_chunks, reading
from gantry.images.space import require
from gantry.images.tarstream import TarStream
from gantry.linux.newfile import new_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_SNIFF = 512


def read_manifest(path: str, limits: Limits = DEFAULT_LIMITS) -> bytes:
    """The manifest of an image file, all of which is checked.

    Raises:
        ImageError: It is no image, or not a valid one.
        NotFoundError: There is no such file, or it may not be read.
    """
    fd = _open(path)
    try:
        return _check(fd, limits)[0]
    finally:
        os.close(fd)


def patch_archive(
    source: str,
    output: str,
    change: Callable[[bytes], bytes],
    *,
    compression: str | None = None,
    overwrite: bool = False,
    limits: Limits = DEFAULT_LIMITS,
) -> Built:
    """Write *source* to *output* with another manifest.

    Args:
        source: An image file.
        output: The new one; may be *source* itself with ``overwrite``, and is replaced when it is complete.
        change: Makes the new manifest from the old one.
        compression: Of the output; by default the input's.
        overwrite: Replace the output if it exists.
        limits: The bounds on the input.

    Raises:
        ImageError: The input is no image, or not a valid one.
        AppcError: The new manifest is none.
        LimitError: The new manifest is too large.
        UsageError: The output cannot be.
        HostError: The kernel refuses.
    """
    check_output(output, compression or "none", overwrite=overwrite)
    fd = _open(source)
    try:
        sniffed = sniff(os.pread(fd, _SNIFF, 0))
        kind = compression or sniffed
        info = os.fstat(fd)
        old, image_id = _check(fd, limits)
        manifest = change(old)
        if compression in (None, sniffed):
            require(os.path.dirname(os.path.abspath(output)), info.st_size, f"write {output}")
        try:
            name = ImageManifest.parse(manifest, strict=True).name
        except AppcError as error:
            raise BuildError(f"the new manifest is refused: {error.message}", hint=error.hint) from error
        os.lseek(fd, 0, os.SEEK_SET)
        check_size(manifest, limits)
        # An image that is changed in its place stays its owner's, readable by whom it was.
        like = info if os.path.exists(output) and os.path.samestat(info, os.stat(output)) else None
        with (
            explained(f"write {output}"),
            new_file(output, overwrite=overwrite, like=like) as target,
            Packer(target, kind, owner_root=False, epoch=None) as packer,
        ):
            copied = _Copied(decompress(file_chunks(fd), limits))
            entries = _copy(copied, packer, manifest, limits)
            new_id = packer.close()
            if copied.image_id != image_id:
                raise BuildError(f"{source} changed while it was read", hint="try again")
            size = os.fstat(target).st_size
    finally:
        os.close(fd)
    return Built(output, new_id, name, size, entries, [], [])


def _open(path: str) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise NotFoundError(
            f"cannot read {path}: {error.strerror}", hint="give an image file that exists and may be read"
        ) from error


def _check(fd: int, limits: Limits) -> tuple[bytes, ImageID]:
    """The manifest and the ID of a valid image."""
    with reading(file_chunks(fd), limits) as reader:
        for _ in reader.layout:
            pass
        return reader.layout.manifest, reader.image_id()


class _Copied:
    """Blocks on their way to a reader, kept until it is known what becomes of them."""

    def __init__(self, blocks: Iterable[bytes]) -> None:
        self._blocks = blocks
        self._kept: deque[bytes] = deque()
        self._at = 0
        self._from = 0
        self._digest = hashlib.sha512()

    def __iter__(self) -> Iterator[bytes]:
        for block in self._blocks:
            self._digest.update(block)
            self._kept.append(block)
            yield block

    @property
    def image_id(self) -> ImageID:
        """The ID of what has passed."""
        return ImageID.from_digest(self._digest.digest())

    def skip(self, end: int) -> None:
        """Nothing before the byte *end* of the stream is wanted any more."""
        self._from = end

    def take(self, end: int, *, cut: bool) -> Iterator[bytes]:
        """What is wanted before *end*, as far as it is there; it is kept no longer.

        A block that goes on after *end* is cut there, or kept as a whole.
        """
        while self._kept and self._at < end:
            block = self._kept[0]
            over = self._at + len(block) - end
            if over > 0 and not cut:
                return
            self._kept.popleft()
            if over > 0:
                self._kept.appendleft(block[-over:])
                block = block[:-over]
            wanted = block[max(0, self._from - self._at) :]
            self._at += len(block)
            if wanted:
                yield wanted


def _copy(copied: _Copied, packer: Packer, manifest: bytes, limits: Limits) -> int:
    """Copy the archive with its manifest exchanged; the number of entries of the root file system."""

    def write(end: int, *, cut: bool = False) -> None:
        for block in copied.take(end, cut=cut):
            packer.write(block)

    stream = TarStream(copied, limits)
    end = entries = 0  # where the blocks of the last entry end, and those of the next begin
    for entry in stream:
        path = clean(entry.name, limits=limits)
        if path == MANIFEST:
            write(stream.begins, cut=True)
            stream.read()
            end = _padded(stream.position)
            packer.write(manifest_entry(manifest, max(0, entry.mtime_ns // 1_000_000_000)))
            copied.skip(end)
            continue
        for _ in stream.content():
            write(stream.position)
        end = _padded(stream.position)
        write(stream.position)
        entries += bool(path)
    stream.drain(lambda: write(stream.position))
    write(stream.position)
    return entries


def _padded(position: int) -> int:
    return -(-position // BLOCK) * BLOCK
