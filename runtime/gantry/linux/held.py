"""A lock that can be looked at without being taken, for the launch path.

``F_OFD_SETLK`` (fcntl(2)): the lock belongs to the open file like one of flock(2), so children inherit it and
it ends with the last copy of the descriptor. Two things differ, and both are why it is used here:

- ``F_OFD_GETLK`` tells whether it is held without taking it even for an instant. Testing a flock means to
  take it, and whoever tries to take it in that instant believes that somebody holds it;
- it can only be taken by who may write to the file.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct

# struct flock: type, whence, start, length (0: to the end), pid (0 for these commands).
_LAYOUT = "hhqqi4x"
_ALL = (os.SEEK_SET, 0, 0, 0)


def take(fd: int) -> bool:
    """Take the lock of the file behind *fd*, which is open for writing; false when another has it.

    Raises:
        OSError: The file system has no locks.
    """
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, struct.pack(_LAYOUT, fcntl.F_WRLCK, *_ALL))
    except OSError as error:
        if error.errno not in {errno.EAGAIN, errno.EACCES}:
            raise
        return False
    return True


def is_taken(fd: int) -> bool:
    """Whether another open file has the lock of the file behind *fd*; only looks.

    Raises:
        OSError: The file system has no locks.
    """
    answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, struct.pack(_LAYOUT, fcntl.F_WRLCK, *_ALL))
    return bool(struct.unpack(_LAYOUT, answer)[0] != fcntl.F_UNLCK)
