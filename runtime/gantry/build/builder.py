"""Pack a manifest and a root file system into an image file.

Rules (ACI-01, ACI-12 ... ACI-16, ACI-21 ... ACI-23):

- entries in the order of their names, ``rootfs`` first, the manifest last as the reference tool writes it;
- times in whole seconds, no later than ``SOURCE_DATE_EPOCH`` if that is given; the manifest's own time is
  that, or 0: nothing depends on when or where the image is built;
- a second name of the same file becomes a hard link; sockets are left out; everything else is kept, with
  mode, owner, ``security.capability`` and ``user.*`` attributes; a hole in a file becomes zeros, for where
  the holes are is no property of the content;
- everything that can be checked is checked before the output is made (:mod:`gantry.linux.newfile`).
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, NamedTuple

from gantry.appc.errors import AppcError
from gantry.appc.manifest import ImageManifest
from gantry.build.archive import Archive
from gantry.build.packing import BuildError, Packer
from gantry.build.tree import Tree
from gantry.errors import UsageError
from gantry.images.compression import KINDS
from gantry.images.errors import LimitError, explained
from gantry.images.limits import DEFAULT_LIMITS, Limits
from gantry.images.validation import merged_warning, validate_layout
from gantry.linux.fs import read_named
from gantry.linux.newfile import new_file, refuse_existing

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from gantry.appc.imageid import ImageID


_LONGEST_EPOCH = 11  # digits: until the year 5138


class Built(NamedTuple):
    """A built image.

    Attributes:
        path: The file.
        image_id: The image ID.
        name: The name in its manifest.
        size: Bytes of the file.
        entries: Entries of the root file system.
        skipped: Sockets that were left out.
        warnings: What deserves to be said, one line each.
    """

    path: str
    image_id: ImageID
    name: str
    size: int
    entries: int
    skipped: list[str]
    warnings: list[str]


def build_directory(
    layout: str,
    output: str,
    *,
    compression: str = "gzip",
    owner_root: bool = False,
    overwrite: bool = False,
    epoch: int | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> Built:
    """Build an image from an image layout.

    Args:
        layout: A directory with ``manifest``, ``rootfs`` and nothing else (ACI-22).
        output: The image file; ends in ``.aci``.
        compression: ``gzip``, ``bzip2``, ``xz``, ``zstd`` or ``none``.
        owner_root: Write 0:0 as the owner of everything (ACI-16).
        overwrite: Replace the output if it exists.
        epoch: No time in the image is later, in seconds since 1970; by default ``SOURCE_DATE_EPOCH`` of the
            environment, else times stay as they are.
        limits: The bounds that hosts put on images.

    Raises:
        BuildError: The layout is not valid, or changed while it was read; nothing is left behind.
        UsageError: The output's name, or the compression, cannot be.
        HostError: The kernel refuses.
    """
    problems = validate_layout(layout, limits)
    if problems:
        raise BuildError(
            "; ".join(problems),
            hint="an image layout holds 'manifest' and 'rootfs'; a root file system alone needs --manifest",
        )
    if _lies_in(output, layout):
        raise UsageError(
            f"the output {output} lies inside the layout that it is made from", hint="write it elsewhere"
        )
    manifest = read_named(os.path.join(layout, "manifest"))
    return build_image(
        os.path.join(layout, "rootfs"),
        manifest,
        output,
        compression=compression,
        owner_root=owner_root,
        overwrite=overwrite,
        epoch=epoch,
        limits=limits,
    )


def build_image(
    rootfs: str,
    manifest: bytes,
    output: str,
    *,
    compression: str = "gzip",
    owner_root: bool = False,
    overwrite: bool = False,
    epoch: int | None = None,
    limits: Limits = DEFAULT_LIMITS,
    without: Collection[str] = (),
    instead: Mapping[str, str] | None = None,
    upon_base: bool = False,
) -> Built:
    """Build an image from a root file system and a manifest; otherwise as :func:`build_directory`.

    *without* and *instead* are those of :class:`gantry.build.tree.Tree`. *upon_base*: the files lie upon what
    the image depends on, whose links they follow, so that none of those can be in their way (TRAP-09).
    """
    if os.path.islink(rootfs) or not os.path.isdir(rootfs):
        raise BuildError(f"{rootfs} is not a directory", hint="give the directory that becomes the root")
    if _lies_in(output, rootfs):
        raise UsageError(
            f"the output {output} lies inside the root file system that it is made from",
            hint="write it elsewhere",
        )

    def pack(packer: Packer) -> tuple[list[str], list[str]]:
        tree = Tree(rootfs, packer, limits, without=without, instead=instead)
        tree.pack()
        if upon_base:
            packer.merged.clear()
        return tree.skipped, _left_out(tree.access_lists)

    return _build(pack, manifest, output, compression, owner_root, overwrite, epoch, limits)


def _lies_in(path: str, directory: str) -> bool:
    """Whether a file would lie in a directory, whatever ways lead to either."""
    top, above = os.stat(directory), os.path.dirname(os.path.realpath(path))
    while True:
        with contextlib.suppress(OSError):
            if os.path.samestat(os.stat(above), top):
                return True
        if above == "/":
            return False
        above = os.path.dirname(above)


def build_archive(
    archive: str,
    manifest: bytes,
    output: str,
    *,
    compression: str = "gzip",
    owner_root: bool = False,
    overwrite: bool = False,
    epoch: int | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> Built:
    """Build an image from a tar of a root file system, compressed or not.

    Args:
        archive: The tar, or ``-`` for standard input.
        manifest: The image manifest.
        output: As for :func:`build_directory`, like the rest.
        compression: Of the output; the tar's own does not matter.
        owner_root: See there.
        overwrite: See there.
        epoch: See there.
        limits: The bounds on the tar.

    Raises:
        BuildError: It is no tar, or cannot become a root file system (:mod:`gantry.build.archive`).
        LimitError: It exceeds a bound.
    """

    def pack(packer: Packer) -> tuple[list[str], list[str]]:
        Archive(archive, os.path.dirname(os.path.abspath(output)), limits).pack(packer)
        return [], []

    return _build(pack, manifest, output, compression, owner_root, overwrite, epoch, limits)


def _build(  # noqa: PLR0917 - what the three ways have in common
    pack: Callable[[Packer], tuple[list[str], list[str]]],
    manifest: bytes,
    output: str,
    compression: str,
    owner_root: bool,
    overwrite: bool,
    epoch: int | None,
    limits: Limits,
) -> Built:
    check_output(output, compression, overwrite=overwrite)
    try:
        parsed = ImageManifest.parse(manifest, strict=True)
    except AppcError as error:
        raise BuildError(f"the manifest is refused: {error.message}", hint=error.hint) from error
    check_size(manifest, limits)
    latest = chosen_epoch(epoch)
    with (
        explained(f"build {output}"),
        new_file(output, overwrite=overwrite) as fd,
        Packer(fd, compression, owner_root=owner_root, epoch=latest) as packer,
    ):
        skipped, warnings = pack(packer)
        if packer.entries > limits.entries:
            raise LimitError(
                f"the image has {packer.entries} entries, more than {limits.entries} (bound: entries)",
                hint="no host would take it",
            )
        packer.manifest(manifest)
        image_id = packer.finish()
        size = os.fstat(fd).st_size
    if parsed.dependencies and packer.merged:
        warnings.append(f"the image {merged_warning(packer.merged)}")
    return Built(output, image_id, parsed.name, size, packer.entries, skipped, warnings)


def _left_out(access_lists: list[str]) -> list[str]:
    if not access_lists:
        return []
    more = f" and {len(access_lists) - 1} more" if len(access_lists) > 1 else ""
    return [
        f"access lists were left out, of {access_lists[0]}{more}: an image has owner, group and others only"
    ]


def check_output(output: str, compression: str, *, overwrite: bool) -> None:
    """Refuse an output before anything is done for it.

    Raises:
        UsageError: Its name or the compression cannot be, or it exists.
    """
    if not output.endswith(".aci"):
        raise UsageError(f'the output "{output}" does not end in .aci', hint="ACI-01: name it SOMETHING.aci")
    if compression not in KINDS:
        raise UsageError(f'"{compression}" is no compression', hint=f"one of {', '.join(KINDS)}")
    refuse_existing(output, overwrite=overwrite)


def check_size(manifest: bytes, limits: Limits) -> None:
    """Refuse a manifest that is larger than any that would be read.

    Raises:
        LimitError: It is.
    """
    if len(manifest) > limits.manifest:
        raise LimitError(
            f"the manifest has {len(manifest)} bytes, more than {limits.manifest} (bound: manifest)",
            hint="no host would take the image",
        )


def chosen_epoch(given: int | None) -> int | None:
    """The latest time in an image: as *given*, or as ``SOURCE_DATE_EPOCH`` says; ``None``: neither does.

    Raises:
        UsageError: The variable is no number.
    """
    if given is not None:
        return given
    text = os.environ.get("SOURCE_DATE_EPOCH")
    if not text:
        return None
    if not text.isdecimal() or not text.isascii() or len(text) > _LONGEST_EPOCH:
        raise UsageError(f'SOURCE_DATE_EPOCH is "{text}"', hint="give seconds since 1970")
    return int(text)
