"""The flavor *fly*: an app in its own root and nothing more, as rkt's flavor of that name.

The app sees the host's processes, network, devices and control groups. It has a mount namespace, so that its
volumes are its own, and a control group, by which its processes are ended. No isolator is enforced.

The bundle is the same as every flavor's: of its configuration the process, the root and the pod's own mounts
are used (annotation :data:`gantry.stage1.flavor.OWN_MOUNTS`), nothing of the rest.

On the launch path of fly pods only.
"""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import struct
import termios

from gantry.errors import HostError
from gantry.linux import cgroups, namespaces, syscalls
from gantry.linux.lean import loads
from gantry.linux.programs import RESET, exit_code
from gantry.stage1.flavor import OWN_MOUNTS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

_HOSTS = ("/proc", "/sys", "/dev")
_O_PATH = os.O_PATH | os.O_CLOEXEC


class Fly:
    """The flavor for one pod, see :class:`gantry.stage1.flavor.Flavor`.

    Args:
        root: The directory for its state, this pod's own.
        bound: Apps die when their launcher dies.
    """

    __slots__ = ("_bound", "_root")

    def __init__(self, root: str, *, bound: bool) -> None:
        self._root = root
        self._bound = bound

    def start(
        self,
        app: str,
        bundle: str,
        *,
        own_input: bool = False,
        console: str | None = None,
        streams: tuple[int, int] | None = None,
    ) -> int:
        """See :class:`gantry.stage1.flavor.Flavor`."""
        with open(f"{bundle}/config.json", "rb") as file:
            config = loads(file.read())
        pid = self._fork(
            lambda parent: _become(config, parent),
            config["process"],
            own_input=own_input,
            console=console,
            streams=streams,
        )
        os.makedirs(self._root, 0o700, exist_ok=True)
        with open(f"{self._root}/{app}", "w", encoding="ascii") as out:
            out.write(f"{pid} {namespaces.start_time(pid) or 0} {config['linux']['cgroupsPath']}")
        return pid

    def run(self, name: str, bundle: str, *, streams: tuple[int, int] | None = None) -> int:
        """See :class:`gantry.stage1.flavor.Flavor`."""
        return exit_code(os.waitpid(self.start(name, bundle, streams=streams), 0)[1])

    def enter(self, app: str, process: str, *, place: str, console: str | None = None) -> int:
        """See :class:`gantry.stage1.flavor.Flavor`."""
        with open(f"{self._root}/{app}", encoding="ascii") as file:
            pid, started, group = file.read().split(" ", 2)
        if not namespaces.is_same_process(int(pid), int(started)):
            raise HostError(f'app "{app}" runs no more')
        with open(process, "rb") as raw:
            described = loads(raw.read())
        mounts = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        root = os.open(f"/proc/{pid}/root", _O_PATH)

        def join() -> None:
            _join_group(group)
            syscalls.setns(mounts, syscalls.CLONE_NEWNS)
            os.fchdir(root)
            os.chroot(".")

        try:
            entered = self._fork(
                lambda parent: _execute(described, join, parent),
                described,
                own_input=True,
                console=console,
                streams=None,
            )
        finally:
            os.close(mounts)
            os.close(root)
        with open(f"{place}/pid", "w", encoding="ascii") as out:
            out.write(str(entered))
        return entered

    def _fork(
        self,
        become: Callable[[int], NoReturn],
        process: dict[str, Any],
        *,
        own_input: bool,
        console: str | None,
        streams: tuple[int, int] | None,
    ) -> int:
        """A child that *become*s a program; its number, once it is one."""
        reader, writer = os.pipe2(os.O_CLOEXEC)
        terminal = _terminal(process, console) if console is not None else None
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            try:
                _streams(own_input=own_input, terminal=terminal, streams=streams)
                for number in RESET:
                    signal.signal(number, signal.SIG_DFL)
                become(parent if self._bound else 0)
            except BaseException as error:  # noqa: BLE001 - told to the parent, whatever it is
                os.write(writer, f"{type(error).__name__}: {error}".encode())
            finally:
                os._exit(127)
        os.close(writer)
        if terminal is not None:
            os.close(terminal)
        said = b""
        while chunk := os.read(reader, 4096):
            said += chunk
        os.close(reader)
        if said:
            os.waitpid(pid, 0)
            raise HostError(
                f"cannot start {process['args'][0]}: {said.decode('utf-8', 'replace')}",
                hint="mend what it names and start the pod again",
            )
        return pid


def _terminal(process: dict[str, Any], console: str) -> int:
    """Make a terminal of the size that is asked for, hand it to *console*; the app's side of it."""
    master, slave = os.openpty()
    size = process.get("consoleSize") or {}
    if size:
        packed = struct.pack("HHHH", size["height"], size["width"], 0, 0)
        fcntl.ioctl(slave, termios.TIOCSWINSZ, packed)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.connect(console)
        socket.send_fds(connection, [b"/dev/pts"], [master])
    os.close(master)
    return slave


def _streams(*, own_input: bool, terminal: int | None, streams: tuple[int, int] | None) -> None:
    os.setsid()
    if terminal is not None:
        fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
        for number in (0, 1, 2):
            os.dup2(terminal, number)
        return
    if not own_input:
        null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        os.dup2(null, 0)
    if streams is not None:
        os.dup2(streams[0], 1)
        os.dup2(streams[1], 2)


def _become(config: dict[str, Any], parent: int) -> NoReturn:
    root = config["root"]["path"]
    own = int(config["annotations"][OWN_MOUNTS])
    mounts = config["mounts"][len(config["mounts"]) - own :] if own else []

    def enter() -> None:
        _join_group(config["linux"]["cgroupsPath"])
        syscalls.unshare(syscalls.CLONE_NEWNS)
        syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_SLAVE)
        for path in _HOSTS:
            os.close(_bind(path, root, path, recursive=True))
        for mount in mounts:
            options = mount["options"]
            target = _bind(mount["source"], root, mount["destination"], recursive="rbind" in options)
            if "ro" in options or "rro" in options:
                syscalls.make_read_only(target, recursive=True)
            os.close(target)
        if config["root"].get("readonly"):
            top = os.open(root, _O_PATH)
            syscalls.make_read_only(top, recursive=False)
            os.close(top)
        os.chroot(root)

    _execute(config["process"], enter, parent)


def _bind(source: str, root: str, destination: str, *, recursive: bool) -> int:
    """Bind *source* at *destination* in *root*, and never outside; a descriptor of what is there then."""
    top = os.open(root, _O_PATH)
    try:
        point = _target(top, destination, directory=os.path.isdir(source))
        flags = syscalls.MS_BIND | (syscalls.MS_REC if recursive else 0)
        syscalls.mount(source, f"/proc/self/fd/{point}", None, flags)
        os.close(point)
        return _open(top, destination)
    finally:
        os.close(top)


def _open(top: int, path: str) -> int:
    return syscalls.openat2(top, path.lstrip("/") or ".", _O_PATH, resolve=syscalls.RESOLVE_IN_ROOT)


def _target(top: int, path: str, *, directory: bool) -> int:
    """Open *path* below *top*; what is missing on the way there is made."""
    parts = [part for part in path.split("/") if part]
    for length in range(1, len(parts) + 1):
        here = "/".join(parts[:length])
        try:
            os.close(_open(top, here))
        except FileNotFoundError:
            parent = _open(top, "/".join(parts[: length - 1]))
            try:
                if directory or length < len(parts):
                    os.mkdir(parts[length - 1], 0o755, dir_fd=parent)
                else:
                    made = os.open(
                        parts[length - 1], os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644, dir_fd=parent
                    )
                    os.close(made)
            finally:
                os.close(parent)
    return _open(top, path)


def _join_group(path: str) -> None:
    """Be in the control group *path* of one hierarchy at least: it ends the app, it does not limit it."""
    layout = cgroups.layout()
    cgroups.make(layout, path)
    cgroups.adopt(layout, path)


def _execute(process: dict[str, Any], enter: Callable[[], None], parent: int) -> NoReturn:
    """Become what *process* describes; it dies with *parent*, unless that is 0."""
    enter()
    os.chdir(process["cwd"])
    os.umask(0o022)
    user = process["user"]
    os.setgroups(user.get("additionalGids") or [])
    os.setresgid(user["gid"], user["gid"], user["gid"])
    os.setresuid(user["uid"], user["uid"], user["uid"])
    if parent:  # only now: becoming another user makes the kernel forget it
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(128 + signal.SIGKILL)
    environment = dict(entry.partition("=")[::2] for entry in process["env"])
    os.execve(process["args"][0], process["args"], environment)  # noqa: S606 - what the app is
