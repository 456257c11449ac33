"""Say what is wrong with an image file or an image layout, without storing anything."""

from __future__ import annotations

import os

from gantry.appc.errors import AppcError
from gantry.appc.manifest import ImageManifest
from gantry.images.errors import ImageError
from gantry.images.limits import DEFAULT_LIMITS, Limits
from gantry.images.reading import file_chunks, reading

#: A repeated key, a key in another case: accepted, but another reader may take another one.
_AMBIGUOUS = ("TYP-26", "TYP-29")


def validate(path: str, limits: Limits = DEFAULT_LIMITS) -> list[str]:
    """What keeps a file from being a valid image (ACI-01 ... ACI-19); empty: nothing.

    Args:
        path: The image file.
        limits: The bounds.
    """
    problems = [] if path.endswith(".aci") else [f"{path}: the file name does not end in .aci (ACI-01)"]
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        return [f"{path}: {error.strerror}"]
    try:
        with reading(file_chunks(fd), limits) as reader:
            for _ in reader.layout:
                pass
            manifest = reader.layout.manifest
        problems += [
            f"{path}: manifest: {note.path}: {note.message} ({note.rule})"
            for note in ImageManifest.parse(manifest).notes
            if note.rule in _AMBIGUOUS
        ]
    except (ImageError, AppcError) as error:
        problems.append(f"{path}: {error}")
    except OSError as error:
        problems.append(f"{path}: {error.strerror}")
    finally:
        os.close(fd)
    return problems


def validate_layout(directory: str) -> list[str]:
    """What keeps a directory from being an image layout: ``manifest``, ``rootfs``, nothing else (ACI-22)."""
    try:
        names = set(os.listdir(directory))
    except OSError as error:
        return [f"{directory}: {error.strerror}"]
    problems = [
        f"{directory}: {name!r} does not belong into an image layout"
        for name in sorted(names - {"manifest", "rootfs"})
    ]
    manifest = os.path.join(directory, "manifest")
    rootfs = os.path.join(directory, "rootfs")
    if "rootfs" not in names:
        problems.append(f"{directory}: there is no 'rootfs'")
    elif os.path.islink(rootfs) or not os.path.isdir(rootfs):
        problems.append(f"{directory}: 'rootfs' is not a directory")
    if "manifest" not in names:
        problems.append(f"{directory}: there is no 'manifest'")
    elif os.path.islink(manifest) or not os.path.isfile(manifest):
        problems.append(f"{directory}: 'manifest' is not a regular file")
    else:
        try:
            with open(manifest, "rb") as file:
                ImageManifest.parse(file.read(), strict=True)
        except AppcError as error:
            problems.append(f"{manifest}: {error}")
    return problems
