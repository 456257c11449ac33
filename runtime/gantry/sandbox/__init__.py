"""What the apps of a pod share: network, IPC, UTS and PID namespaces, held by the pause process.

The pause process (catatonit, 0.2 MB) is process 1 of the pod. It lives exactly as long as the pod and so
keeps two descriptors that must live as long:

- 0: the metadata listening socket, or ``/dev/null``. Requests wait in its backlog while the service is away,
  and the service takes it again with pidfd_getfd(2) when it comes back;
- 1: the pod's lock file. Its flock is what "the pod is running" means.

(It closes all others itself.) It runs as an unprivileged user that no image uses, with an empty file system
for a root: whoever reaches it through ``/proc/1`` of the pod finds nothing of the host.

On the launch path: imports almost nothing.
"""

from __future__ import annotations

import fcntl
import os
import signal
import socket

from gantry.errors import HostError
from gantry.linux import cgroups, namespaces, syscalls
from gantry.linux.netlink import Netlink
from gantry.linux.programs import RESET

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

METADATA_ADDRESS = "169.254.169.254"
METADATA_PORT = 18112
LISTEN_FD = 0
LOCK_FD = 1
#: Neither a system user nor one that images or user namespaces hand out.
PAUSE_ID = 2147418112
_BACKLOG = 512


class Sandbox:
    """A sandbox that is starting or running.

    Attributes:
        pid: The pause process.
        started: Its start time, so that its number cannot be mistaken for another's.
    """

    __slots__ = ("_pipe", "pid", "started")

    def __init__(self, pid: int, pipe: int) -> None:
        self.pid = pid
        self.started = namespaces.start_time(pid) or 0
        self._pipe = pipe

    def network_ready(self) -> None:
        """Wait until the network namespace exists and its loopback is up.

        Raises:
            HostError: The sandbox could not be made.
        """
        self._expect(b"n")

    def ready(self) -> None:
        """Wait until everything is in place and the pause program runs.

        Raises:
            HostError: The sandbox could not be made.
        """
        try:
            self._expect(b"")
        finally:
            os.close(self._pipe)
            self._pipe = -1

    def _expect(self, step: bytes) -> None:
        got = os.read(self._pipe, 1)
        while got == b"p" and step == b"":
            got = os.read(self._pipe, 1)
        if got != step:
            rest = b""
            while chunk := os.read(self._pipe, 4096):
                rest += chunk
            why = rest.decode("utf-8", "replace") or "its process ended"
            raise HostError(
                f"cannot make the pod's sandbox: {why}",
                hint="does the kernel allow more namespaces (sysctl user.max_net_namespaces and its like)?",
            )

    def namespace(self, kind: str) -> int:
        """A descriptor of the pod's namespace of *kind*; the caller closes it."""
        return os.open(f"/proc/{self.pid}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC)

    def listening_socket(self) -> int:
        """A copy of the metadata listening socket's descriptor; the caller closes it.

        Raises:
            OSError: The pause process is gone.
        """
        pidfd = os.pidfd_open(self.pid)
        try:
            return syscalls.pidfd_getfd(pidfd, LISTEN_FD)
        finally:
            os.close(pidfd)

    def end(self) -> None:
        """Kill the pause process, with it everything that still runs in the pod, and wait for it.

        Other children of the caller that have ended are collected, too: what a runtime that failed has left
        in the pod falls to us, and the pause process does not end before each of these is collected.
        """
        if self._pipe >= 0:
            os.close(self._pipe)
            self._pipe = -1
        try:
            os.kill(self.pid, signal.SIGKILL)
            while os.waitpid(-1, 0)[0] != self.pid:
                continue
        except (ProcessLookupError, ChildProcessError):
            return


def start(
    *,
    program: str,
    title: str,
    hostname: str,
    host_network: bool,
    listen: bool,
    sysctl: dict[str, str],
    directory: str,
    lock: int,
    bound: bool,
    layout: cgroups.Layout,
    group: str,
) -> Sandbox:
    """Begin to make a sandbox; returns at once, see :meth:`Sandbox.network_ready` and :meth:`Sandbox.ready`.

    Args:
        program: The pause program (catatonit).
        title: What process lists show for it.
        hostname: Of the pod.
        host_network: Stay in the caller's network namespace.
        listen: Make the metadata address and listening socket (with a network namespace of its own only).
        sysctl: Settings of the new namespaces, names with dots.
        directory: Any directory that exists.
        lock: Descriptor that holds the pod's lock.
        bound: Die when the calling process dies.
        layout: Of control groups.
        group: v2 control group for the pause process.

    Raises:
        HostError: The pause program is missing or the kernel has no such namespaces.
    """
    try:
        binary = os.open(program, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise HostError(
            f"cannot start the pause program {program}: {error.strerror}", hint="install catatonit"
        ) from error
    reader, writer = os.pipe2(os.O_CLOEXEC)
    try:
        pid = namespaces.fork_into_new_pid_namespace()
    except OSError as error:
        os.close(reader)
        raise HostError(f"cannot make a PID namespace: {error}") from error
    else:
        if pid == 0:
            os.close(reader)  # or writing to a launcher that has died would succeed
            # Out of the way of what becomes 0 to 2: any may be one of these, if it was free at our start.
            binary, writer, lock = (_above_standard(fd) for fd in (binary, writer, lock))
            try:
                cgroups.join(layout, group)
                _become_pause(
                    binary,
                    writer,
                    title=title,
                    hostname=hostname,
                    host_network=host_network,
                    listen=listen,
                    sysctl=sysctl,
                    directory=directory,
                    lock=lock,
                    bound=bound,
                )
            except BaseException as error:  # noqa: BLE001 - told to the parent, whatever it is
                os.write(writer, b"!" + f"{type(error).__name__}: {error}".encode())
            finally:
                os._exit(70)
        return Sandbox(pid, reader)
    finally:
        os.close(writer)
        os.close(binary)


def _become_pause(
    binary: int,
    pipe: int,
    *,
    title: str,
    hostname: str,
    host_network: bool,
    listen: bool,
    sysctl: dict[str, str],
    directory: str,
    lock: int,
    bound: bool,
) -> NoReturn:
    flags = syscalls.CLONE_NEWIPC | syscalls.CLONE_NEWUTS | syscalls.CLONE_NEWNS
    syscalls.unshare(flags if host_network else flags | syscalls.CLONE_NEWNET)
    syscalls.sethostname(hostname)
    null = os.open("/dev/null", os.O_RDWR)
    listener = null
    if not host_network:
        with Netlink() as netlink:
            loopback = netlink.index("lo")
            netlink.up(loopback)
            if listen:
                netlink.add_address(loopback, METADATA_ADDRESS, 32)
                listener = _listener()
    os.write(pipe, b"n")
    for name, value in sysctl.items():
        with open(f"/proc/sys/{name.replace('.', '/')}", "w", encoding="ascii") as file:
            file.write(value)
    namespaces.empty_root(directory)
    for target, source in enumerate([_above_standard(fd) for fd in (listener, lock, null)]):
        os.dup2(source, target)
    for number in RESET:
        signal.signal(number, signal.SIG_DFL)
    os.setgroups([])
    os.setresgid(PAUSE_ID, PAUSE_ID, PAUSE_ID)
    os.setresuid(PAUSE_ID, PAUSE_ID, PAUSE_ID)
    syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
    if bound:
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
        os.write(pipe, b"p")  # fails if the launcher died before the line above took effect
    os.execve(binary, [title, "-P"], {})  # noqa: S606


def _above_standard(fd: int) -> int:
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)


def _listener() -> int:
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind((METADATA_ADDRESS, METADATA_PORT))
    made.listen(_BACKLOG)
    return made.detach()
