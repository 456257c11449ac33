"""What of the user's may be replaced when an image is unpacked or written."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from gantry.errors import UsageError
from gantry.linux.fs import mount_at_or_below

if TYPE_CHECKING:
    from collections.abc import Callable

_DEEP_ENOUGH = 2  # slashes: what lies directly below the root is never replaced


def refuse_replacing(target: str, shown: str, *, rootfs_only: bool, top: Callable[[], set[str]]) -> None:
    """Refuse to replace a directory that nobody can mean.

    Args:
        target: The directory.
        shown: What the user called it.
        rootfs_only: Whether it will hold the files of the root themselves.
        top: The names at the root of what will be laid down.

    Raises:
        UsageError: Something is mounted in it, or somebody works in it, or it is not what we unpacked.
    """
    if not os.path.isdir(target):
        raise UsageError(f"{shown} exists and is no directory", hint="name a new directory")
    point = mount_at_or_below(target)
    if point is not None:
        raise UsageError(f"refused to replace {shown}: {point} is a mount point", hint="name a new directory")
    if os.path.commonpath([os.getcwd(), target]) == target or target.count("/") < _DEEP_ENOUGH:
        raise UsageError(f"refused to replace {shown}", hint="name a new directory")
    if not rootfs_only and not set(os.listdir(target)) <= {"manifest", "rootfs"}:
        raise UsageError(
            f"refused to replace {shown}: it holds more than a manifest and a rootfs",
            hint="remove it first, if that is meant",
        )
    there = set(os.listdir(target))
    if not there <= {"manifest", "rootfs"} and (own := there - top()):
        raise UsageError(
            f'refused to replace {shown}: it holds "{min(own)}", which the image does not have',
            hint="remove it first, if that is meant",
        )


def is_empty(target: str) -> bool:
    """Whether *target* is a directory with nothing in it."""
    return os.path.isdir(target) and not os.listdir(target)


def refuse_own(data: str, target: str) -> None:
    """Refuse to write over what is Gantry's own.

    Raises:
        UsageError: *target*, a real path, is in the data directory *data*, or holds it.
    """
    data = os.path.realpath(data)
    if os.path.commonpath([data, target]) in (data, target):
        raise UsageError(
            f"refused to write to {target}: the data directory {data} is there", hint="name another place"
        )
