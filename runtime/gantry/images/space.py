"""Room on a disk, looked at before anything is written to it.

Two kinds of room. Who lays down what is known (a render, an export) needs that much: :func:`require`. A
stranger who sends bytes and may lie about how many must leave a reserve free: :class:`Room`.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from gantry.images.errors import no_space
from gantry.linux.fs import free_bytes, free_inodes

if TYPE_CHECKING:
    from gantry.images.limits import Limits

# A file's own record, and its share of the directories, where no file system says more exactly.
_ENTRY = 1024
_RESERVE = 1024 * 1024
_SHARE = 20


def require(directory: str, size: int, what: str, *, entries: int = 0) -> None:
    """Look whether something fits into a directory's file system, with a megabyte to spare.

    Args:
        directory: Where it will be; as much of the path as exists is looked at.
        size: Bytes of its files.
        what: What is being done, for the message.
        entries: How many files, directories and so on it has.

    Raises:
        NoSpaceError: It does not fit; the message says how much is missing.
    """
    place = existing(directory)
    needed, free = size + entries * _ENTRY + _RESERVE, free_bytes(place)
    if needed > free:
        raise no_space(what, f"{needed} bytes are needed, {free} are free below {place}")
    inodes = free_inodes(place)
    if inodes is not None and entries > inodes:
        raise no_space(what, f"{entries} files are to be made, {inodes} more are possible below {place}")


def existing(path: str) -> str:
    """The nearest directory above *path*, or itself, that exists."""
    path = os.path.abspath(path)
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    return path


class Room:
    """The free space of a file system while a stranger's bytes are written to it.

    Args:
        directory: Where they are written.
        what: What is being done, for the message.
        limits: How much has to stay free.
    """

    def __init__(self, directory: str, what: str, limits: Limits) -> None:
        self._directory = directory
        self._what = what
        info = os.statvfs(directory)
        self._reserve = min(limits.reserve, info.f_blocks * info.f_frsize // _SHARE)

    def need(self, size: int) -> None:
        """Look whether there is room for *size* bytes more, and a reserve.

        Raises:
            NoSpaceError: There is not.
        """
        free = free_bytes(self._directory)
        if size + self._reserve > free:
            detail = f"{size} bytes are needed and {self._reserve} have to stay free, {free} are free"
            raise no_space(self._what, detail)
