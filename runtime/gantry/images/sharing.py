"""What the members of the group ``gantry`` may do with a host's store: read it, and hand images over.

Drawn in :mod:`gantry.images.members`.
"""

from __future__ import annotations

import contextlib
import grp
import os

from gantry.images.errors import explained

GROUP = "gantry"
#: Below ``incoming``: what members have brought, each in a directory of their own.
HANDED = "handed"

_READABLE = ("image", "names", "urls", "pins")
_DIRECTORY, _FILE = 0o2750, 0o640


def group_id() -> int | None:
    """The group's number; ``None``: this host has no such group."""
    try:
        return grp.getgrnam(GROUP).gr_gid
    except KeyError:
        return None


def open_to(group: int, root: str) -> None:
    """Let a group read the store at *root* and hand images over. Called as root; what is done stays done.

    Raises:
        HostError: The kernel refuses.
    """
    incoming = os.path.join(root, "incoming")
    handed = os.path.join(incoming, HANDED)
    with explained("open the image store to the group"):
        if os.path.isdir(handed) and os.lstat(handed).st_gid == group:
            return
        for name in _READABLE:
            _share(os.path.join(root, name), group)
        os.chown(incoming, 0, group)
        os.chmod(incoming, 0o710)  # noqa: S103 - to pass through it
        with contextlib.suppress(FileExistsError):
            os.mkdir(handed, 0o700)
        os.chmod(handed, 0o1770)  # noqa: S103 - members make their own, and nobody removes another's
        os.chown(handed, 0, group)  # last: it says that all of this is done


def _share(top: str, group: int) -> None:
    for directory, _, files in os.walk(top):
        os.chown(directory, 0, group)
        os.chmod(directory, _DIRECTORY)
        for file in files:
            path = os.path.join(directory, file)
            os.chown(path, 0, group, follow_symlinks=False)
            os.chmod(path, _FILE)
