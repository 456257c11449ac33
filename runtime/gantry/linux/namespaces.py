"""Namespaces and the identity of processes: what survives the reuse of a process number.

On the launch path: imports nothing but ``os`` and the system calls.
"""

from __future__ import annotations

import os

from gantry.linux import syscalls

OWN_PID = "/proc/self/ns/pid"
OWN_NET = "/proc/self/ns/net"


def boot_id() -> str:
    """The kernel's identifier of this boot: state of another boot is stale, whatever it says."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def start_time(pid: int) -> int | None:
    """When process *pid* started, in clock ticks since boot; ``None`` when it is gone or only a zombie.

    A process is known by its number *and* this: numbers are used again.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[0] in {b"Z", b"X"} else int(fields[19])


def is_same_process(pid: int, started: int) -> bool:
    """Whether *pid* still is the process that started at *started* (:func:`start_time`)."""
    return pid > 0 and start_time(pid) == started


def same_namespace(pid: int, other: int, kind: str) -> bool:
    """Whether two processes share their namespace of *kind* (``net``, ``pid``, ...); false if one is gone."""
    try:
        one, two = os.stat(f"/proc/{pid}/ns/{kind}"), os.stat(f"/proc/{other}/ns/{kind}")
    except OSError:
        return False
    return (one.st_dev, one.st_ino) == (two.st_dev, two.st_ino)


def private_mounts() -> None:
    """Take a mount namespace of our own: nothing mounted from here on is seen outside.

    Mounts that the host makes still arrive (slave), so that a volume may be unmounted there.

    Raises:
        OSError: The kernel refused.
    """
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_SLAVE)


def empty_root(at: str) -> None:
    """Make an empty, read-only, memory-backed root the only thing this process can see.

    The caller has its own mount namespace by now. Whoever gets hold of the process (``/proc/PID/root``) finds
    nothing: unlike after chroot(2), there is no parent directory that leads out.

    Args:
        at: Any directory; used as the place of the mount for an instant.

    Raises:
        OSError: The kernel refused.
    """
    syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
    flags = syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC | syscalls.MS_RDONLY
    syscalls.mount("none", at, "tmpfs", flags, "size=4k,mode=0555")
    os.chdir(at)
    syscalls.pivot_root(".", ".")
    syscalls.umount(".", syscalls.MNT_DETACH)
    os.chdir("/")


def fork_into_new_pid_namespace() -> int:
    """fork(2) whose child is process 1 of a new PID namespace; the parent's later children are not in it.

    Returns:
        Like :func:`os.fork`: 0 in the child.

    Raises:
        OSError: The kernel refused.
    """
    own = os.open(OWN_PID, os.O_RDONLY | os.O_CLOEXEC)
    try:
        syscalls.unshare(syscalls.CLONE_NEWPID)
        pid = os.fork()
        if pid:
            syscalls.setns(own, syscalls.CLONE_NEWPID)
        return pid
    finally:
        os.close(own)
