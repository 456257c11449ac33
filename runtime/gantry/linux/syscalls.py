"""System calls that Python 3.11 has no name for, with errors that say which call failed on what.

On the launch path of pods: imports ``ctypes`` and ``os`` and nothing else. One function a call, the kernel's
own argument order, bytes or text paths, :class:`OSError` on failure. Numbers are given only for calls that
libc does not wrap; from 424 on they are the same on every architecture.
"""

from __future__ import annotations

import ctypes
import os

_libc = ctypes.CDLL(None, use_errno=True)

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_REMOUNT = 0x20
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MNT_DETACH = 2

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38

RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10

MOUNT_ATTR_RDONLY = 0x1
MOUNT_ATTR_NOSUID = 0x2
MOUNT_ATTR_NODEV = 0x4

_AT_EMPTY_PATH = 0x1000
_AT_RECURSIVE = 0x8000
_FSCONFIG_SET_STRING = 1
_FSCONFIG_CMD_CREATE = 6
_CAPABILITY_VERSION_3 = 0x20080522
_SYS_FSOPEN = 430
_SYS_FSCONFIG = 431
_SYS_FSMOUNT = 432
_SYS_OPENAT2 = 437
_SYS_MOUNT_SETATTR = 442
_SYS_PIDFD_GETFD = 438
_SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41, "armv7l": 218, "i686": 217, "ppc64le": 203, "s390x": 217}


def _path(value: str | bytes | None) -> bytes | None:
    return os.fsencode(value) if value is not None else None


def _check(result: int, call: str, *about: str | bytes | None) -> int:
    if result < 0:
        number = ctypes.get_errno()
        names = " ".join(os.fsdecode(item) for item in about if item)
        raise OSError(number, f"{call}: {os.strerror(number)}", names or None)
    return result


def mount(
    source: str | None, target: str, fstype: str | None = None, flags: int = 0, data: str | None = None
) -> None:
    """Mount a file system.

    Raises:
        OSError: The kernel refused.
    """
    result = _libc.mount(_path(source), _path(target), _path(fstype), ctypes.c_ulong(flags), _path(data))
    _check(result, "mount", target)


def umount(target: str, flags: int = 0) -> None:
    """umount2(2).

    Raises:
        OSError: The kernel refused.
    """
    _check(_libc.umount2(_path(target), flags), "umount", target)


def mount_detached(fstype: str, options: dict[str, str], attributes: int) -> int:
    """Make a mount that no namespace has: it is reached by the descriptor and ends with it.

    Args:
        fstype: The kind of file system.
        options: Its options.
        attributes: ``MOUNT_ATTR_...``.

    Returns:
        The descriptor of its root.

    Raises:
        OSError: The kernel refused; ``ENOSYS`` before Linux 5.2.
    """
    context = _libc.syscall(ctypes.c_long(_SYS_FSOPEN), _path(fstype), ctypes.c_uint(1))
    _check(context, "fsopen", fstype)
    try:
        for name, value in options.items():
            set_string = (ctypes.c_uint(_FSCONFIG_SET_STRING), _path(name), _path(value), ctypes.c_int(0))
            result = _libc.syscall(ctypes.c_long(_SYS_FSCONFIG), ctypes.c_int(context), *set_string)
            _check(result, "fsconfig", fstype, name, value)
        create = (ctypes.c_uint(_FSCONFIG_CMD_CREATE), None, None, ctypes.c_int(0))
        result = _libc.syscall(ctypes.c_long(_SYS_FSCONFIG), ctypes.c_int(context), *create)
        _check(result, "fsconfig", fstype)
        flags = (ctypes.c_uint(1), ctypes.c_uint(attributes))  # 1: FSMOUNT_CLOEXEC
        result = _libc.syscall(ctypes.c_long(_SYS_FSMOUNT), ctypes.c_int(context), *flags)
        return _check(result, "fsmount", fstype)
    finally:
        os.close(context)


class _MountAttributes(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint64) for name in ("set", "clear", "propagation", "userns"))


def make_read_only(fd: int, *, recursive: bool) -> None:
    """Let nobody write through the mount whose root is open as *fd*; *recursive*: nor through those below it.

    Raises:
        OSError: The kernel refused; ``ENOSYS`` before Linux 5.12.
    """
    wanted = _MountAttributes(MOUNT_ATTR_RDONLY, 0, 0, 0)
    result = _libc.syscall(
        ctypes.c_long(_SYS_MOUNT_SETATTR),
        ctypes.c_int(fd),
        b"",
        ctypes.c_uint(_AT_EMPTY_PATH | (_AT_RECURSIVE if recursive else 0)),
        ctypes.byref(wanted),
        ctypes.c_size_t(ctypes.sizeof(wanted)),
    )
    _check(result, "mount_setattr")


def unshare(flags: int) -> None:
    """Leave the namespaces in *flags* (``CLONE_NEW...``) for new ones.

    Raises:
        OSError: The kernel refused.
    """
    _check(_libc.unshare(flags), "unshare")


def setns(fd: int, kind: int) -> None:
    """Join the namespace behind *fd*, which must be of *kind* (``CLONE_NEW...``, 0 for any).

    Raises:
        OSError: The kernel refused.
    """
    _check(_libc.setns(fd, kind), "setns")


def prctl(option: int, value: int) -> None:
    """Set one thing about this process.

    Raises:
        OSError: The kernel refused.
    """
    _check(_libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0), "prctl")


def clear_capabilities() -> None:
    """Leave this thread no capability: neither effective, nor permitted, nor inheritable.

    Raises:
        OSError: The kernel refused.
    """
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    _check(_libc.capset(header, (ctypes.c_uint32 * 6)()), "capset")


def sethostname(name: str) -> None:
    """Name the host of this UTS namespace.

    Raises:
        OSError: The kernel refused.
    """
    raw = os.fsencode(name)
    _check(_libc.sethostname(raw, len(raw)), "sethostname", name)


def pivot_root(new_root: str, put_old: str) -> None:
    """Make another mount the root.

    Raises:
        OSError: The kernel refused, or the number of this call is not known for the machine.
    """
    machine = os.uname().machine
    if machine not in _SYS_PIVOT_ROOT:
        raise OSError(38, f"pivot_root: unknown machine {machine}")
    result = _libc.syscall(ctypes.c_long(_SYS_PIVOT_ROOT[machine]), _path(new_root), _path(put_old))
    _check(result, "pivot_root", new_root)


def pidfd_getfd(pidfd: int, target_fd: int) -> int:
    """Get a copy of descriptor *target_fd* of the process behind *pidfd*, close-on-exec.

    Raises:
        OSError: No such descriptor or process, or no right to it.
    """
    result = _libc.syscall(
        ctypes.c_long(_SYS_PIDFD_GETFD), ctypes.c_int(pidfd), ctypes.c_int(target_fd), ctypes.c_uint(0)
    )
    return _check(result, "pidfd_getfd")


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def openat2(dir_fd: int, path: str | bytes, flags: int, mode: int = 0, resolve: int = 0) -> int:
    """Open with rules for the way there; always close-on-exec.

    Args:
        dir_fd: Where *path* begins.
        path: What to open.
        flags: ``os.O_...``.
        mode: For ``O_CREAT``.
        resolve: ``RESOLVE_...``: how the path may be walked.

    Raises:
        OSError: The kernel refused; ``EXDEV`` or ``ELOOP`` when *resolve* forbade a step.
    """
    how = _OpenHow(flags | os.O_CLOEXEC, mode, resolve)
    result = _libc.syscall(
        ctypes.c_long(_SYS_OPENAT2),
        ctypes.c_int(dir_fd),
        _path(path),
        ctypes.byref(how),
        ctypes.c_size_t(ctypes.sizeof(how)),
    )
    return _check(result, "openat2", path)
