"""Write images of the store to files of the user's."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from gantry.errors import UsageError
from gantry.images.compression import decompress
from gantry.images.errors import explained
from gantry.images.reading import Counted, ImageReader, file_chunks
from gantry.images.rendering import scan
from gantry.images.space import require
from gantry.images.targets import refuse_own
from gantry.linux.fs import write_all
from gantry.linux.newfile import new_file, refuse_existing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gantry.images.records import Image
    from gantry.images.store import Store

_READ = 1 << 20


def export(
    store: Store, image_id: str, target: str, *, overwrite: bool = False, compressed: bool = False
) -> None:
    """Write an image to a file of the user's.

    Args:
        store: The store.
        image_id: As for :meth:`gantry.images.store.Store.find`.
        target: The file.
        overwrite: Replace it if it exists; with *compressed* its signature, too.
        compressed: The bytes as distributed, the signature beside them as ``TARGET.asc`` if there is one.
            Without it the uncompressed tar, whose SHA-512 is the image ID.

    Raises:
        UsageError: The file exists, or another image's signature would stand beside it.
        DigestMismatchError: The bytes in the store are not what they were; nothing is written.
    """
    if not target:
        raise UsageError("no file is named", hint="give a new one")
    if target == "-":
        raise UsageError("an image is not written to standard output", hint="name a file; ./- is one")
    refuse_existing(target, overwrite=overwrite, what="output ACI file")
    refuse_own(store.paths.data, os.path.realpath(target))
    signature = f"{target}.asc"
    if compressed:
        refuse_existing(signature, overwrite=overwrite, what="signature file")
    with store.hold(), explained(f"write {target}"):
        image = store.find(image_id)
        require(os.path.dirname(target), image.size if compressed else image.unpacked, f"write {target}")
        with contextlib.ExitStack() as stack:
            fd = stack.enter_context(new_file(target, overwrite=overwrite))
            if compressed:
                scan(store, image)
                _copy(image.path, fd)
            else:
                _write_tar(store, image, fd)
            if compressed and image.signature_path:  # there before the image is, which is of no use without
                with new_file(signature, overwrite=overwrite) as beside:
                    _copy(image.signature_path, beside)
            elif compressed:
                with contextlib.suppress(FileNotFoundError):  # of the image that is replaced
                    os.unlink(signature)


def _copy(source: str, fd: int) -> None:
    for block in _blocks(source):
        write_all(fd, block)


def _blocks(path: str) -> Iterator[bytes]:
    with open(path, "rb", buffering=0) as file:
        while block := file.read(_READ):
            yield block


def _write_tar(store: Store, image: Image, target: int) -> None:
    fd = os.open(image.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        counted = Counted(decompress(file_chunks(fd), store.limits))
        for block in counted:
            write_all(target, block)
        ImageReader(counted, (), store.limits).expect(image.id)
    finally:
        os.close(fd)
