"""Files and directories as the kernel offers them: safe resolution, durable writes, removal without space.

Everything is thin over system calls; names may be ``str`` or ``bytes``. Used by rooms that handle trees made
by strangers, so the rules are:

- a path below a root that somebody else filled is opened with :func:`open_beneath` only;
- a file that must survive a power cut is written with :func:`atomic_write`;
- removal (:func:`remove_tree`) needs no free byte and follows no link.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import stat
from typing import TYPE_CHECKING

from gantry.errors import NotFoundError, UsageError
from gantry.linux.syscalls import (
    RESOLVE_BENEATH,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
    RESOLVE_NO_XDEV,
    openat2,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    StrOrBytes = str | bytes

#: No component may be a link, lead out of the root, or cross a mount.
RESOLVE_STRICT = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV

_AT_FDCWD = -100
_RENAME_NOREPLACE = 1
_RENAME_EXCHANGE = 2
_DEEP = 128
_LARGEST_NAMED = 16 * 1024 * 1024


_libc = ctypes.CDLL(None, use_errno=True)


def _fail(path: StrOrBytes) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), path)


def open_beneath(dir_fd: int, path: StrOrBytes, flags: int, *, mode: int = 0) -> int:
    """Open *path* below the directory *dir_fd*: no links, no way out, no other mount; close-on-exec.

    ``EAGAIN``, which the kernel gives when a rename raced with the resolution, is tried again.

    Raises:
        OSError: ``EXDEV`` or ``ELOOP`` where the path tries any of these.
    """
    for _ in range(64):
        try:
            return openat2(dir_fd, path, flags, mode, RESOLVE_STRICT)
        except BlockingIOError:
            continue
    return openat2(dir_fd, path, flags, mode, RESOLVE_STRICT)


def open_directory(path: StrOrBytes, *, dir_fd: int | None = None) -> int:
    """A descriptor of a directory, whose last component must not be a link."""
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)


def _renameat2(source: StrOrBytes, target: StrOrBytes, flags: int) -> None:
    result = _libc.renameat2(
        ctypes.c_int(_AT_FDCWD),
        ctypes.c_char_p(os.fsencode(source)),
        ctypes.c_int(_AT_FDCWD),
        ctypes.c_char_p(os.fsencode(target)),
        ctypes.c_uint(flags),
    )
    if result != 0:
        raise _fail(target)


def rename_noreplace(source: StrOrBytes, target: StrOrBytes) -> None:
    """Rename unless *target* exists, atomically.

    Raises:
        FileExistsError: *target* exists.
    """
    _renameat2(source, target, _RENAME_NOREPLACE)


def rename_exchange(one: StrOrBytes, other: StrOrBytes) -> None:
    """Swap two existing names, atomically; works for directories that are not empty."""
    _renameat2(one, other, _RENAME_EXCHANGE)


def syncfs(fd: int) -> None:
    """Write everything of the file system that *fd* lies on to the disk."""
    if _libc.syncfs(ctypes.c_int(fd)) != 0:
        raise _fail("")


def fsync_directory(path: StrOrBytes) -> None:
    """Make the names in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_all(fd: int, data: bytes | memoryview) -> None:
    """Write all of *data*; one write(2) may take less."""
    done = os.write(fd, data)
    if done == len(data):
        return
    view = memoryview(data)
    while done < len(view):
        done += os.write(fd, view[done:])


def remove_acls(file: StrOrBytes | int) -> None:
    """Take the access lists away that a file or directory has, or passes on to what is made in it."""
    for name in ("system.posix_acl_access", "system.posix_acl_default"):
        with contextlib.suppress(OSError):  # there is none, or the file system knows none
            os.removexattr(file, name)


def atomic_write(path: StrOrBytes, data: bytes, mode: int = 0o644, *, durable: bool = True) -> None:
    """Replace *path* by a file with exactly *data*, so that readers see the old or the new content.

    Args:
        path: The file; its directory exists.
        data: The content.
        mode: The permission bits, whatever the umask is.
        durable: Wait for the disk, so that a power cut leaves the old or the new content too.

    Raises:
        OSError: As the kernel says; nothing is left behind.
    """
    name = os.fsdecode(path)
    temporary = f"{name}.{os.getpid():x}.{os.urandom(4).hex()}.tmp"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        try:
            write_all(fd, data)
            os.fchmod(fd, mode)
            if durable:
                os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(temporary, name)
    except BaseException:
        os.unlink(temporary)
        raise
    if durable:
        fsync_directory(os.path.dirname(name) or ".")


def read_named(path: str, *, hint: str = "give a file that exists and may be read") -> bytes:
    """All of a file that a user has named, which may be a pipe.

    Raises:
        NotFoundError: It cannot be read; with *hint*.
        UsageError: It is larger than any file that is read whole, or has no end.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(_LARGEST_NAMED + 1)
    except OSError as error:
        raise NotFoundError(f"cannot read {path}: {error.strerror}", hint=hint) from error
    if len(data) > _LARGEST_NAMED:
        raise UsageError(f"{path} has more than {_LARGEST_NAMED} bytes", hint="it is not what belongs here")
    return data


def make_directory(path: StrOrBytes, mode: int) -> bool:
    """Make one directory with exactly *mode*; True if it was not there."""
    try:
        os.mkdir(path, mode)  # right at once, unless the umask is strict: a killed process does not come back
    except FileExistsError:
        return False
    os.chmod(path, mode)
    return True


def free_bytes(path: StrOrBytes) -> int:
    """Bytes that may be written to the file system of *path*, what is reserved for root not counted."""
    info = os.statvfs(path)
    return info.f_bavail * info.f_frsize


def free_inodes(path: StrOrBytes) -> int | None:
    """How many more files the file system of *path* takes; ``None`` where there is no such number."""
    info = os.statvfs(path)
    return info.f_favail if info.f_files else None


def used_bytes(path: StrOrBytes) -> int:
    """Disk space of a file or tree in bytes; every inode once, no links followed.

    What vanishes meanwhile is not counted.
    """
    seen: set[tuple[int, int]] = set()
    total = 0
    for info in _stats(path):
        key = (info.st_dev, info.st_ino)
        if key not in seen:
            seen.add(key)
            total += info.st_blocks * 512
    return total


def _stats(path: StrOrBytes) -> Iterator[os.stat_result]:
    waiting = [path]
    while waiting:
        current = waiting.pop()
        try:
            info = os.lstat(current)
            yield info
            if stat.S_ISDIR(info.st_mode):
                with os.scandir(current) as entries:
                    for entry in entries:
                        if entry.is_dir(follow_symlinks=False):
                            waiting.append(entry.path)
                        else:
                            yield entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            continue


def mount_at_or_below(path: str) -> str | None:
    """A mount point that is *path*, a real path, or lies below it; ``None``: there is none."""
    with open("/proc/self/mountinfo", "rb") as file:
        for line in file:
            point = os.fsdecode(line.split(b" ")[4].decode("unicode_escape").encode("latin-1"))
            if point == path or point.startswith(f"{path.rstrip('/')}/"):
                return point
    return None


def remove_tree(path: StrOrBytes) -> None:
    """Remove a file or a whole tree; nothing there is success.

    Follows no link, enters nothing that is mounted (``EXDEV``), needs no free space, and opens up
    directories that their owner may not write. Several processes may remove the same tree at once, and
    whoever exchanges one thing in it for another meanwhile has that removed, too.

    Raises:
        OSError: What could not be removed, named in ``filename``.
    """
    try:
        os.unlink(path)
        return
    except FileNotFoundError:
        return
    except (IsADirectoryError, PermissionError):
        try:
            if not stat.S_ISDIR(os.lstat(path).st_mode):
                raise
        except FileNotFoundError:
            return
    above = os.path.dirname(os.fsencode(path).rstrip(b"/")) or b"."
    try:
        parent = os.open(above, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        _remove_directory(parent, os.path.basename(os.fsencode(path).rstrip(b"/")))
    finally:
        os.close(parent)


def _open_for_removal(parent: int, name: bytes) -> int:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = openat2(parent, name, flags | os.O_PATH, 0, RESOLVE_NO_XDEV)
    try:
        if os.geteuid() != 0:
            os.chmod(f"/proc/self/fd/{fd}", 0o700)
        return os.open(b".", flags, dir_fd=fd)
    finally:
        os.close(fd)


def _remove_directory(parent: int, name: bytes) -> None:
    # A stack instead of recursion: depth is the stranger's choice. Each level holds one descriptor, so what
    # lies very deep is first moved up.
    stack: list[tuple[int, bytes, int]] = []

    def enter(above: int, child: bytes) -> None:
        try:
            stack.append((above, child, _open_for_removal(above, child)))
        except FileNotFoundError:
            return
        except NotADirectoryError:  # it is something else by now
            _unlink(above, child)

    enter(parent, name)
    try:
        while stack:
            above, own_name, fd = stack[-1]
            below = _remove_leaves(fd)
            if below is not None and len(stack) < _DEEP:
                enter(fd, below)
                continue
            if below is not None:
                with contextlib.suppress(FileNotFoundError):
                    moved = b".deep." + os.urandom(8).hex().encode()
                    os.rename(below, moved, src_dir_fd=fd, dst_dir_fd=stack[0][2])
                continue
            stack.pop()
            os.close(fd)
            try:
                os.rmdir(own_name, dir_fd=above)
            except FileNotFoundError:
                continue
            except NotADirectoryError:
                _unlink(above, own_name)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise OSError(error.errno, error.strerror, os.fsdecode(own_name)) from error
                enter(above, own_name)  # somebody added a file meanwhile
    finally:
        for _, _, fd in stack:
            os.close(fd)


def _remove_leaves(fd: int) -> bytes | None:
    """Unlink all but directories; the name of one directory that is left, or None."""
    below: bytes | None = None
    with os.scandir(fd) as entries:
        for entry in entries:
            name = os.fsencode(entry.name)
            if entry.is_dir(follow_symlinks=False):
                below = name
                continue
            if not _unlink(fd, name):
                below = name
    return below


def _unlink(parent: int, name: bytes) -> bool:
    """Unlink what is no directory; False: it is one by now."""
    try:
        os.unlink(name, dir_fd=parent)
    except FileNotFoundError:
        return True
    except IsADirectoryError:
        return False
    return True
