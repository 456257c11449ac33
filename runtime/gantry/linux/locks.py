"""Locks between processes: flock(2) on files that a killed process cannot leave locked.

A lock belongs to the open file, so it ends with the last descriptor: kill -9 frees it. Lock files that are
made per key are removed by their holder (``remove=True``); whoever waited on the removed file notices that
its name now means another inode, and starts again.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from typing import TYPE_CHECKING

from gantry.errors import BusyError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_POLL_SECONDS = 0.02


@contextlib.contextmanager
def locked(
    path: str,
    *,
    shared: bool = False,
    timeout: float | None = None,
    create: bool = True,
    remove: bool = False,
    what: str = "",
    on_wait: Callable[[], None] | None = None,
) -> Iterator[int]:
    """Hold the lock on *path* while the block runs; yields its descriptor.

    Args:
        path: The lock file, or a directory that is its own lock.
        shared: Share it with other sharers instead of excluding everybody.
        timeout: Seconds to wait; ``None`` waits for ever, 0 does not wait.
        create: Make the file if it is missing. A lock that must work on a full disk exists beforehand.
        remove: Unlink the file at the end; only for exclusive locks on files made per key.
        what: What is locked, for the message.
        on_wait: Called once when the lock is held by somebody else and waiting begins.

    Raises:
        BusyError: The time is up.
        OSError: The file cannot be opened.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    operation = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    told = False
    while True:
        fd = _open(path, create=create)
        try:
            try:
                fcntl.flock(fd, operation | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in (errno.EWOULDBLOCK, errno.EINTR):
                    raise
                if not told and on_wait is not None:
                    on_wait()
                told = True
                _wait(fd, operation, deadline, what or path)
            if not remove or _names(path, fd):
                break
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)
    try:
        yield fd
    finally:
        if remove:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        os.close(fd)


def _open(path: str, *, create: bool) -> int:
    flags = os.O_RDONLY | os.O_CLOEXEC
    try:
        return os.open(path, flags)
    except FileNotFoundError:
        if not create:
            raise
        return os.open(path, flags | os.O_CREAT, 0o640)


def _wait(fd: int, operation: int, deadline: float | None, what: str) -> None:
    if deadline is None:
        fcntl.flock(fd, operation)
        return
    while True:
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            raise BusyError(f"{what} is in use by another process", hint="try again when that has finished")
        time.sleep(min(_POLL_SECONDS, remaining))
        try:
            fcntl.flock(fd, operation | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno != errno.EWOULDBLOCK:
                raise
        else:
            return


def _names(path: str, fd: int) -> bool:
    try:
        there = os.stat(path)
    except FileNotFoundError:
        return False
    mine = os.fstat(fd)
    return (there.st_dev, there.st_ino) == (mine.st_dev, mine.st_ino)
