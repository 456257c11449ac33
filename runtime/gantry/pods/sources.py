"""What volumes show of the host: walked to anew at every start, and held while it is bound.

A pod may be started months after it was prepared, and another pod may write where the path of one of its
sources leads. So the OCI runtime is never given such a path, which it would follow through any link: the
launcher walks to the source without following links and binds what it has got hold of to a place of the
pod's own, in the launcher's mount namespace. That place is what the OCI configuration names.

The places lie in a file system of their own, so that they go with the mount and nothing on the disk has to be
removed that something of the host's may be mounted on.

On the launch path.
"""

from __future__ import annotations

import errno
import os
import stat

from gantry.errors import GantryError, NotFoundError
from gantry.linux import syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_AT_FDCWD = -100
_KINDS = {
    stat.S_IFREG: "a file",
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
}


class VolumeError(GantryError):
    """A volume cannot be mounted as asked."""

    code = "volume"


def kind(status: os.stat_result) -> str:
    """What a source is, in words; of a device also which one."""
    mode = status.st_mode
    if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
        word = "character" if stat.S_ISCHR(mode) else "block"
        return f"the {word} device {os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
    return _KINDS.get(stat.S_IFMT(mode), "something else")


def check(sources: Sequence[Sequence[str]]) -> None:
    """Refuse what cannot be bound, before anything is made.

    Args:
        sources: Path and kind (:func:`kind`) of each, as they were when the pod was prepared.

    Raises:
        NotFoundError: One is missing.
        VolumeError: One has become something else, or a part of its path a symbolic link.
    """
    for path, expected in sources:
        os.close(_walk(path, expected))


def bind(path: str, sources: Sequence[Sequence[str]]) -> None:
    """Bind the sources to ``sources/NUMBER`` in the pod's directory *path*, for this mount namespace.

    Raises:
        GantryError: As of :func:`check`.
        OSError: The kernel refused.
    """
    if not sources:
        return
    flags = syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC
    syscalls.mount("sources", f"{path}/sources", "tmpfs", flags, "mode=0700,size=64k")
    for number, (source, expected) in enumerate(sources):
        place = f"{path}/sources/{number}"
        # Opened here and not earlier: only what is of this mount namespace can be bound.
        fd = _walk(source, expected)
        try:
            if stat.S_ISDIR(os.fstat(fd).st_mode):
                os.mkdir(place, 0o700)
            else:
                os.close(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            syscalls.mount(f"/proc/self/fd/{fd}", place, None, syscalls.MS_BIND | syscalls.MS_REC)
        finally:
            os.close(fd)


def release(path: str) -> None:
    """Let go of what :func:`bind` has bound; nothing bound is no error."""
    try:
        syscalls.umount(f"{path}/sources", syscalls.MNT_DETACH)
    except OSError:
        return


def _walk(path: str, expected: str) -> int:
    try:
        fd = syscalls.openat2(_AT_FDCWD, path, os.O_PATH, resolve=syscalls.RESOLVE_NO_SYMLINKS)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise VolumeError(
                f'volume source "{path}" leads through a symbolic link by now',
                hint="find out who put it there; a source is named by its real path",
            ) from error
        if error.errno in {errno.ENOENT, errno.ENOTDIR}:
            raise NotFoundError(
                f'volume source "{path}" does not exist', hint="create it, or prepare a pod without it"
            ) from error
        raise VolumeError(
            f'volume source "{path}" cannot be opened: {os.strerror(error.errno or 0)}',
            hint="mend that, or prepare a pod without it",
        ) from error
    found = kind(os.fstat(fd))
    if found != expected:
        os.close(fd)
        raise VolumeError(
            f'volume source "{path}" was {expected} when the pod was prepared and is {found} now',
            hint="put back what was there, or prepare the pod again",
        )
    return fd
