"""Bounds on images from strangers; the specification sets none (TRAP-33).

They are far above what real images need. An image that exceeds one is refused, and the message names the
bound and the field here, so that an operator who needs more knows what to raise: the settings of kind
``limits`` (docs/settings.md).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from gantry.config import SettingsError, settings

if TYPE_CHECKING:
    from gantry.config import Paths

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB


class Limits(NamedTuple):
    """The bounds.

    Attributes:
        download: Bytes of an image as distributed.
        unpacked: Bytes of the uncompressed tar.
        ratio: Uncompressed bytes per compressed byte, looked at once ``ratio_from`` bytes are out.
        ratio_from: See ``ratio``; small images of zeros are no attack.
        manifest: Bytes of the manifest.
        entries: Entries in the archive; directories that they imply have the same bound.
        names: Bytes of all paths, link targets and extended attributes in the archive: what a reader keeps
            in memory.
        path: Bytes of one path.
        component: Bytes of one component of a path.
        depth: Components of a path.
        header: Bytes of one extended header (PAX or GNU long name).
        xattrs: Bytes of all extended attributes of one entry.
        xattr: Bytes of one extended attribute's value; Linux takes no more.
        signature: Bytes of a signature file.
        settling: Bytes of an image that are still received, and kept nowhere, when its archive is refused
            already: its signature may be bad, too, and that would be the truer reason.
        reserve: Bytes of free space that no image may use up; on a small file system a twentieth of it.
        passes: Images laid down, repetitions included, to render one image with dependencies (TRAP-05).
        nesting: Length of a chain of dependencies.
    """

    download: int = 32 * GIB
    unpacked: int = 64 * GIB
    ratio: int = 400
    ratio_from: int = 512 * MIB
    manifest: int = 1 * MIB
    entries: int = 1_000_000
    names: int = 256 * MIB
    path: int = 4095
    component: int = 255
    depth: int = 200
    header: int = 1 * MIB
    xattrs: int = 128 * KIB
    xattr: int = 64 * KIB
    signature: int = 256 * KIB
    settling: int = 64 * MIB
    reserve: int = 256 * MIB
    passes: int = 512
    nesting: int = 64


DEFAULT_LIMITS = Limits()

# What no setting can change: Linux, or this program's own stack, takes no more.
_HIGHEST = {"path": 4095, "component": 255, "xattr": 64 * KIB, "nesting": 256}
_MAY_BE_ZERO = ("settling", "reserve")
_ANY = 1 << 62


def configured(paths: Paths) -> Limits:
    """The bounds of this host: the defaults, changed by the settings of kind ``limits``.

    Raises:
        SettingsError: A file is malformed, names an unknown bound, or a value that cannot be one.
    """
    chosen: dict[str, int] = {}
    for field, (value, file) in settings(paths, "limits").items():
        if field not in Limits._fields:
            raise SettingsError(
                f'"{file}" sets "{field}", which is no limit', hint=f"one of {', '.join(Limits._fields)}"
            )
        lowest, highest = 0 if field in _MAY_BE_ZERO else 1, _HIGHEST.get(field, _ANY)
        if not isinstance(value, int) or isinstance(value, bool) or not lowest <= value <= highest:
            raise SettingsError(
                f'the limit "{field}" in "{file}" has to be a whole number from {lowest} to {highest}'
            )
        chosen[field] = value
    return DEFAULT_LIMITS._replace(**chosen)
