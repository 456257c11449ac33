"""What can go wrong with images, each with its own code."""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING

from gantry.errors import GantryError, HostError, NotFoundError, one_line

if TYPE_CHECKING:
    from collections.abc import Iterator


_LONGEST = 1200  # a message quotes names, and a stranger's may be a whole file


def _shortened(message: str) -> str:
    """*message* without its middle, if it is too long: what was refused is in front, why at the end."""
    return message if len(message) <= _LONGEST else f"{message[:600]}...{message[-500:]}"


class ImageError(GantryError):
    """Something is wrong with an image.

    Attributes:
        remedy: What can usually be done about errors of this class; an error's own hint is better.
    """

    code = "image"
    remedy = ""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(_shortened(one_line(message)), hint=hint or self.remedy)


class ArchiveError(ImageError):
    """The archive is damaged, or holds entries that an image may not hold."""

    code = "archive"
    remedy = "its publisher has to build it anew; 'gantry image validate FILE' tells the same"


class LimitError(ImageError):
    """The image exceeds a bound (TRAP-33)."""

    code = "limit"
    remedy = "ask its publisher for a smaller one, or raise that bound in limits.d of the local settings"


class NameMismatchError(ImageError):
    """The image is not the one that was asked for: its name or a label differs (DSC-26, DSC-27)."""

    code = "name-mismatch"
    remedy = "check the name and the labels; else its publisher has put another image there"


class DigestMismatchError(ImageError):
    """The bytes are not those of the image ID (SIG-12, DEP-29)."""

    code = "digest-mismatch"


class DependencyError(ImageError):
    """The dependencies cannot be resolved: a cycle, a wrong ID, too many passes (DEP-02, DEP-10)."""

    code = "dependency"
    remedy = "its publisher has to fix that"


class FetchError(ImageError):
    """The image could not be fetched, and nothing is wrong with what it is."""

    code = "fetch"
    remedy = "try again, or see whether it is where it should be"


class AmbiguousError(ImageError):
    """A prefix of an image ID fits several images."""

    code = "ambiguous"


class StoreFormatError(ImageError):
    """The image store has a format that this version of Gantry does not know."""

    code = "store-format"


class ImageNotFoundError(NotFoundError):
    """No image in the store fits."""


class NoSpaceError(HostError):
    """The disk is full, or would be."""

    code = "no-space"


@contextlib.contextmanager
def explained(what: str) -> Iterator[None]:
    """Turn the kernel's refusals inside the block into one line that says what was being done.

    Raises:
        NoSpaceError: The disk or the quota is full.
        HostError: Anything else.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise no_space(what) from error
        where = f" ({os.fsdecode(error.filename)})" if isinstance(error.filename, (str, bytes)) else ""
        raise HostError(f"cannot {what}: {error.strerror or error}{where}") from error


def no_space(what: str, detail: str = "") -> NoSpaceError:
    """The error for a full disk."""
    return NoSpaceError(
        f"no space left on the device to {what}" + (f": {detail}" if detail else ""),
        hint="free some space, for example with 'gantry gc' and 'gantry image gc'",
    )
