"""Output files that appear whole or not at all.

The file is made without a name and gets its own when it is complete. Where the file system cannot do that,
and for the instant in which an existing file is replaced, it has a temporary name beside its own; the file is
locked then, so that whoever writes there next knows what a killed process has left, and removes it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import stat
from typing import TYPE_CHECKING

from gantry.errors import UsageError
from gantry.linux.fs import fsync_directory

if TYPE_CHECKING:
    from collections.abc import Iterator

_HINT = "use --overwrite to replace it"


def refuse_existing(path: str, *, overwrite: bool, what: str = "output") -> None:
    """Say early that *path* exists.

    Raises:
        UsageError: It does, and may not be replaced; or it can never be.
    """
    if os.path.isdir(path) and not os.path.islink(path):
        raise UsageError(f"the {what} {path} is a directory", hint="name a file")
    if os.path.exists(path) and not os.path.isfile(path):
        raise UsageError(f"the {what} {path} is no regular file", hint="name a new file")
    if os.path.lexists(path) and not overwrite:
        raise UsageError(f"the {what} {path} exists", hint=_HINT)


@contextlib.contextmanager
def new_file(
    path: str, *, overwrite: bool, mode: int = 0o644, like: os.stat_result | None = None
) -> Iterator[int]:
    """A file that appears as *path*, on the disk, when the block ends well, and otherwise never does.

    Args:
        path: The file; its directory exists.
        overwrite: Replace what has that name.
        mode: Its permission bits, whatever the umask is.
        like: Whose bits, and whose owner as far as this user may give it, it has instead.

    Yields:
        A descriptor to write to.

    Raises:
        UsageError: It exists and may not be replaced.
        OSError: As the kernel says.
    """
    directory, name = os.path.split(os.path.abspath(path))
    _remove_remains(directory, name)
    temporary = os.path.join(directory, f".{_short(name)}.{os.urandom(4).hex()}.tmp")
    fd, named = _open(directory, temporary)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield fd
        if like is not None:
            mode = stat.S_IMODE(like.st_mode)
            with contextlib.suppress(PermissionError):
                os.fchown(fd, like.st_uid, like.st_gid)
        os.fchmod(fd, mode)
        os.fsync(fd)
        if overwrite:
            if not named:
                _link(fd, temporary)
                named = True
            os.rename(temporary, path)
            named = False
        else:
            # link(2) replaces nothing, so whoever came first keeps the name.
            try:
                if named:
                    os.link(temporary, path)
                else:
                    _link(fd, path)
            except FileExistsError:
                raise UsageError(f"{path} exists", hint=_HINT) from None
        fsync_directory(directory)
    finally:
        if named:
            os.unlink(temporary)
        os.close(fd)


def _short(name: str) -> str:
    """As much of a name as leaves room for what is put around it."""
    return os.fsdecode(os.fsencode(name)[:200])


def _open(directory: str, temporary: str) -> tuple[int, bool]:
    """A new file in *directory* and whether it has the name *temporary*."""
    try:
        return os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600), False
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR):
            raise
    return os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), True


def _link(fd: int, path: str) -> None:
    # Python follows the link in /proc only if it has to call linkat(2): any src_dir_fd sees to that.
    os.link(f"/proc/self/fd/{fd}", path, src_dir_fd=fd, follow_symlinks=True)


def _remove_remains(directory: str, name: str) -> None:
    """Remove what killed processes have left of earlier outputs of this name."""
    ours = re.compile(re.escape(f".{_short(name)}.") + r"[0-9a-f]{8}\.tmp")
    try:
        names = os.listdir(directory)
    except PermissionError:  # a directory that may be written and not read is enough to build in
        return
    for found in names:
        if not ours.fullmatch(found):
            continue
        path = os.path.join(directory, found)
        with contextlib.suppress(OSError):  # somebody else's, or gone: no reason not to build
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(path)
            finally:
                os.close(fd)
