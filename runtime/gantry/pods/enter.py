"""Run a program in a running app, with every isolator of that app (RKT-INVENTORY 4.9, section 21).

The program gets exactly what the app's own process got: its OCI *process* with other words. The runtime puts
it into the app's namespaces and control group, under its filter. It ends with the pod, with its own last
process, and with its caller: a small process of ours waits for the caller to go, however it goes.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import select
import signal
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

from gantry.errors import GantryError, HostError, NotFoundError, UsageError
from gantry.linux import syscalls
from gantry.pods import info, state, users
from gantry.pods.ending import remove_flat
from gantry.pods.rootview import RootView
from gantry.pods.terminal import Terminal, available, size
from gantry.stage1 import flavor

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import FrameType

    from gantry.config import Paths

SHELLS = ("/bin/bash", "/bin/sh")
_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
_PATIENCE = 10000  # milliseconds for a runtime whose caller was killed


class NotRunningError(GantryError):
    """The pod, or the app, does not run."""

    code = "not-running"


class Target(NamedTuple):
    """A running app.

    Attributes:
        uuid: The pod.
        app: The app's name.
        pid: Its process, as the host counts.
        plan: The pod's plan.
        process: The OCI process of the app.
    """

    uuid: str
    app: str
    pid: int
    plan: dict[str, Any]
    process: dict[str, Any]

    @property
    def view(self) -> RootView:
        """What the app sees, volumes included."""
        return RootView(f"/proc/{self.pid}/root")


def find(paths: Paths, reference: str, app: str | None) -> Target:
    """The app that is meant: the pod's only one when *app* is ``None``.

    Raises:
        NotFoundError: There is no such pod, or no such app in it.
        NotRunningError: It does not run.
        UsageError: The pod has several apps and none is named.
    """
    pod = info.get(paths, reference)
    if pod.state != "running":
        raise NotRunningError(
            f'pod "{pod.uuid}" isn\'t currently running', hint=f"it is {pod.state}; gantry run starts another"
        )
    names = [each.name for each in pod.apps]
    if app is None and len(names) != 1:
        raise UsageError(
            f"pod contains multiple apps: {', '.join(names)}", hint=f"say which: --app={names[0]}"
        )
    chosen = next((each for each in pod.apps if app is None or each.name == app), None)
    if chosen is None:
        raise NotFoundError(f'pod "{pod.uuid}" has no app "{app}"', hint=f"it has {', '.join(names)}")
    if chosen.pid is None:
        raise NotRunningError(
            f'app "{chosen.name}" of pod "{pod.uuid}" isn\'t currently running',
            hint="gantry app status tells how it ended",
        )
    plan = state.read_json(f"{pod.path}/plan.json")
    if plan.get("format") != state.FORMAT:
        raise HostError(
            f'pod "{pod.uuid}" was started by another version of gantry', hint="start it anew to enter it"
        )
    config = state.read_json(f"{paths.run}/pods/{pod.uuid}/{chosen.name}/config.json")
    return Target(pod.uuid, chosen.name, chosen.pid, plan, config["process"])


def default_shell(target: Target) -> str:
    """The shell to run when no command is given.

    Raises:
        NotFoundError: The image has none.
    """
    for path in SHELLS:
        found = target.view.resolve(path)
        if found.host is not None and os.access(found.host, os.X_OK):
            return path
    raise NotFoundError(
        f'app "{target.app}" has no shell ({" or ".join(SHELLS)})', hint="give a command that its image has"
    )


def enter(
    paths: Paths,
    target: Target,
    words: Sequence[str],
    *,
    environment: Mapping[str, str],
    user: str | None = None,
    group: str | None = None,
    working_directory: str | None = None,
) -> int:
    """Run *words* in the app; our standard streams are theirs, by way of a terminal where ours are one.

    Args:
        paths: Where things are.
        target: The app.
        words: What to run; the first is looked up as the app would.
        environment: Ours, of which only ``TERM`` goes along.
        user: As whom, instead of the app's user; likewise *group*.
        group: See there.
        working_directory: Where, instead of the app's.

    Returns:
        The exit status; negative: the signal that killed it.

    Raises:
        GantryError: It cannot be started.
    """
    has_terminal = available()
    process = _process(target, words, user=user, group=group, working_directory=working_directory)
    process["terminal"] = has_terminal
    if has_terminal:
        rows, columns = size()
        process["consoleSize"] = {"height": rows, "width": columns}
        process["env"] = [entry for entry in process["env"] if not entry.startswith("TERM=")]
        process["env"].append(f"TERM={environment.get('TERM') or 'vt100'}")
    place = f"{paths.run}/pods/{target.uuid}/enter-{os.getpid()}-{secrets.token_hex(4)}"
    try:
        os.mkdir(place, 0o700)
    except FileNotFoundError:
        raise NotRunningError(f'pod "{target.uuid}" isn\'t currently running') from None
    try:
        return _run(paths, target, process, place, terminal=has_terminal)
    finally:
        remove_flat(place)


def _process(
    target: Target,
    words: Sequence[str],
    *,
    user: str | None,
    group: str | None,
    working_directory: str | None,
) -> dict[str, Any]:
    process = dict(target.process)
    view = target.view
    variables = dict(entry.partition("=")[::2] for entry in process["env"])
    cwd = view.directory(working_directory) if working_directory is not None else process["cwd"]
    program = view.executable(words[0], search=variables.get("PATH"), working_directory=cwd)
    process |= {"args": [program, *words[1:]], "cwd": cwd}
    if user is not None or group is not None:
        was = process["user"]
        # Names are the image's: a running app might lead us anywhere.
        lower = next(each["lower"] for each in target.plan["apps"] if each["name"] == target.app)
        identity = users.resolve(
            RootView(lower),
            str(was["uid"]) if user is None else user,
            str(was["gid"]) if group is None else group,
        )
        process["user"] = {**was, "uid": identity.uid, "gid": identity.gid}
        # Like the app itself: what may be had at most is the same, and root has it (EXE-08).
        bounding = process["capabilities"].get("bounding", [])
        held = bounding if identity.uid == 0 else []
        process["capabilities"] = {"bounding": bounding, "effective": held, "permitted": held}
    return process


def _run(paths: Paths, target: Target, process: dict[str, Any], place: str, *, terminal: bool) -> int:
    with open(os.open(f"{place}/process.json", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump(process, file)
    syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
    chosen = flavor.find(
        target.plan["flavor"], runtime=target.plan["runtime"], run=paths.run, uuid=target.uuid, lock=None
    )
    running = _Running()
    before = {number: signal.signal(number, running.forward) for number in _FORWARDED}
    guard = _guard(place, os.readlink(f"/proc/{target.pid}/ns/pid"))
    console = Terminal(place) if terminal else None
    try:
        running.begin(
            chosen.enter(
                target.app,
                f"{place}/process.json",
                place=place,
                console=console.address if console else None,
            ),
            terminal=terminal,
        )
        if console:
            console.take()
        return os.waitstatus_to_exitcode(_wait_for(running.pid))
    finally:
        if console:
            console.close()
        running.pid = 0
        for number, handler in before.items():
            signal.signal(number, handler)
        guard.dismiss()


def _wait_for(pid: int) -> int:
    """The status of *pid*; others that have fallen to us are collected, too."""
    while True:
        found, status = os.waitpid(-1, 0)
        if found == pid:
            return status


class _Running:
    """The process that signals are passed on to, once there is one."""

    def __init__(self) -> None:
        self.pid = 0
        self._terminal = False
        self._pending: list[int] = []

    def begin(self, pid: int, *, terminal: bool) -> None:
        self.pid, self._terminal = pid, terminal
        for number in self._pending:
            self._pass_on(number)

    def forward(self, number: int, _frame: FrameType | None) -> None:
        if self.pid:
            self._pass_on(number)
        else:
            self._pending.append(number)

    def _pass_on(self, number: int) -> None:
        # A shell in a terminal ignores SIGTERM, but not that its terminal goes.
        if self._terminal and number == signal.SIGTERM:
            number = signal.SIGHUP
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)


class _Guard(NamedTuple):
    """A process of ours that ends the program when we are gone, and the pipe by which it notices."""

    pid: int
    pipe: int

    def dismiss(self) -> None:
        with contextlib.suppress(BrokenPipeError):  # somebody has killed it
            os.write(self.pipe, b"!")
        os.close(self.pipe)
        with contextlib.suppress(ChildProcessError):  # it may have been collected beside the program
            os.waitpid(self.pid, 0)


def _guard(place: str, namespace: str) -> _Guard:
    reader, writer = os.pipe2(os.O_CLOEXEC)
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        os.close(reader)
        return _Guard(pid, writer)
    try:
        os.close(writer)
        for number in _FORWARDED:  # a terminal sends them to all of its processes
            signal.signal(number, signal.SIG_IGN)
        if not os.read(reader, 1):
            _end(place, namespace)
    finally:
        os._exit(0)


def _end(place: str, namespace: str) -> None:
    """Kill what was started, or is still being started."""
    poll = select.poll()
    waited = 0
    while waited < _PATIENCE:
        with contextlib.suppress(OSError, ValueError):
            with open(f"{place}/pid", encoding="ascii") as file:
                pid = int(file.read())
            handle = os.pidfd_open(pid)
            if os.readlink(f"/proc/{pid}/ns/pid") == namespace:  # and not somebody's who got the number since
                signal.pidfd_send_signal(handle, signal.SIGKILL)
            break
        poll.poll(20)
        waited += 20
    remove_flat(place)
