"""Sign an image: only what is one, and only where those who fetch it look for the signature.

Signing says "I vouch for this". Whoever signs a torn download or the wrong file has made a mistake that every
host would find out; so the file is read first as a host would read it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from gantry.appc.errors import AppcError
from gantry.appc.manifest import ImageManifest
from gantry.build.patching import read_manifest
from gantry.errors import UsageError
from gantry.images.errors import ImageError, explained
from gantry.images.limits import DEFAULT_LIMITS, Limits
from gantry.linux.fs import write_all
from gantry.linux.newfile import new_file, refuse_existing
from gantry.trust.signing import SigningError

if TYPE_CHECKING:
    from collections.abc import Callable

_SUFFIX = ".aci.asc"


def sign_image(
    path: str,
    make: Callable[[str], str],
    *,
    output: str = "",
    overwrite: bool = False,
    force: bool = False,
    limits: Limits = DEFAULT_LIMITS,
) -> tuple[str, str]:
    """Write the detached signature of an image file (SIG-05 ... SIG-08).

    Args:
        path: The image as it is distributed.
        make: Makes the armored signature of a file.
        output: Where it goes; ``PATH.asc`` by default.
        overwrite: Replace it if it exists.
        force: Sign the file even if it is no valid image.
        limits: The bounds on the image.

    Returns:
        Where the signature is, and the signature.

    Raises:
        UsageError: The signature exists, or nobody would look for it under that name (SIG-07).
        SigningError: The file is no valid image, or it could not be signed.
        HostError: The kernel refuses.
    """
    target = output or f"{path}.asc"
    if not target.endswith(_SUFFIX):
        raise UsageError(
            f"nobody looks for a signature under the name {target}",
            hint=f"SIG-07: name the image SOMETHING.aci, or give --output=SOMETHING{_SUFFIX}",
        )
    refuse_existing(target, overwrite=overwrite, what="signature file")
    before = _identity(path)
    if not force:
        try:
            ImageManifest.parse(read_manifest(path, limits))
        except (ImageError, AppcError) as error:
            raise SigningError(
                f"{path} was not signed: it is no valid image: {error.message}",
                hint="build or fetch it again; --force signs it as it is",
            ) from error
    signature = make(path)
    if _identity(path) != before:
        raise SigningError(f"{path} was not signed: it changed meanwhile", hint="sign it when it is complete")
    with explained(f"write {target}"), new_file(target, overwrite=overwrite) as fd:
        write_all(fd, signature.encode("ascii"))
    return target, signature


def _identity(path: str) -> tuple[int, int, int]:
    try:
        info = os.stat(path)
    except OSError as error:
        raise SigningError(
            f"{path} was not signed: {error.strerror}", hint="give an image file that may be read"
        ) from error
    return info.st_ino, info.st_size, info.st_mtime_ns
