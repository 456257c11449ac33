"""Start a pod of one app and hand the app to systemd: ``run-prepared --leave`` in a unit of ``Type=notify``.

systemd takes a process for a unit's main process without reservation only if it is alive and its own child.
(A PID file that names a dead process makes it wait for its start timeout; of a process that is somebody
else's child it says that it will not notice its end, and it kills it without waiting for an orderly one.) So
there are two of us:

1. the *worker*, a fork of this process, launches the pod; the app is its child. It stops the app (SIGSTOP)
   and waits until it has stopped or ended. An app that has ended cannot be handed over: its status becomes
   ours, and what is left of the pod is ended;
2. the worker ends: the app, stopped, is now systemd's child and cannot end;
3. this process, the unit's main process so far, sends ``MAINPID`` and ``READY``, and a barrier: when it
   opens, systemd has read them;
4. the app is let go (SIGCONT), and this process ends.

On the launch path: imports nothing that the launcher has not imported.
"""

from __future__ import annotations

import array
import os
import select
import signal
import socket
import sys
import time

from gantry.errors import GantryError, HostError
from gantry.linux import cgroups
from gantry.linux.programs import exit_code
from gantry.pods import launch
from gantry.pods.ending import end_leftovers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_HELD, _ENDED = b"h", b"e"
_PATIENCE = 5000  # milliseconds for systemd to read
_HOLD_PATIENCE = 10.0  # seconds for the app to stop
_RESEND = 0.02  # seconds after which a stop counts as lost
_LOOK = 0.0005  # seconds between two looks


def run(words: list[str], address: str) -> int:
    """Launch a pod and hand it over; the exit status: 0, the app's that ended at once, or the launcher's.

    Args:
        words: The command line of the launcher.
        address: What ``NOTIFY_SOCKET`` was.
    """
    go, tell = os.pipe2(os.O_CLOEXEC)
    held, hold = os.pipe2(os.O_CLOEXEC)
    worker = os.fork()
    if worker == 0:
        os.close(tell)
        os._exit(_told(lambda: _work(words, go, hold)))
    os.close(go)
    os.close(hold)
    return _told(lambda: _hand_over(words, address, worker, tell, held))


def _told(step: Callable[[], int]) -> int:
    """The status of *step*; the journal is told of whatever it raises, as nobody else would tell."""
    try:
        return step()
    except (GantryError, OSError) as error:
        shown = error if isinstance(error, GantryError) else f"the kernel refused: {error}"
        sys.stderr.write(f"run-prepared: {shown}\n")
    except BaseException:  # noqa: BLE001 - a defect must be seen, also in a process that ends by _exit
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stderr.flush()
    return launch.TOOL_FAILURE


def _work(words: list[str], go: int, hold: int) -> int:
    """The worker's part."""
    os.read(go, 1)  # ends when the other side is closed
    return launch.main(words) or _hold(words, hold)


def _hand_over(words: list[str], address: str, worker: int, tell: int, held: int) -> int:
    """The part of the process that systemd started."""
    # On v2 the unit's own group must be empty before it can have controllers for the app's group.
    try:
        layout = cgroups.layout()
        group = cgroups.delegated(layout)
        if group:
            cgroups.join(layout, f"{group}/sandbox")
    except BaseException:
        os.kill(worker, signal.SIGKILL)  # it has not begun
        os.waitpid(worker, 0)
        raise
    os.close(tell)
    status = exit_code(os.waitpid(worker, 0)[1])
    found = os.read(held, 1)
    if found == _HELD:
        pid = _app(words)
        try:
            _notify(address, f"MAINPID={pid}\nREADY=1")
        finally:
            os.kill(pid, signal.SIGCONT)
    elif found == _ENDED:
        # Only now: the worker had the pod's lock.
        end_leftovers(*_places(words))
        if status == 0:
            _notify(address, "READY=1")  # a job that has done its work already was started all the same
    return status


def _hold(words: list[str], marker: int) -> int:
    """Stop the app; 0, or the status of an app that has ended already. *marker* is told which it was."""
    try:
        seen = _stopped_or_ended(_app(words))
    except GantryError:
        os.write(marker, _ENDED)  # what is left of the pod is to be ended
        raise
    if seen.si_code not in {os.CLD_EXITED, os.CLD_KILLED, os.CLD_DUMPED}:
        os.write(marker, _HELD)
        return 0
    os.write(marker, _ENDED)
    return seen.si_status if seen.si_code == os.CLD_EXITED else 128 + seen.si_status


def _stopped_or_ended(pid: int) -> os.waitid_result:
    """Stop a child and wait until it has stopped or ended; the news stays to be waited for.

    The stop is sent until it holds. The runtime returns while its own program, which has several threads,
    still turns into the app: a thread that goes away in that execve may have taken the signal with it.

    Raises:
        HostError: It does neither.
    """
    deadline = time.monotonic() + _HOLD_PATIENCE
    while time.monotonic() < deadline:
        os.kill(pid, signal.SIGSTOP)
        again = time.monotonic() + _RESEND
        while time.monotonic() < again:
            seen = os.waitid(os.P_PID, pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT | os.WNOHANG)
            if seen is not None:
                return seen
            time.sleep(_LOOK)
    raise HostError(f"the app (process {pid}) can neither be stopped nor has it ended", hint="try again")


def _app(words: list[str]) -> int:
    _, run_dir, uuid = _places(words)
    with open(f"{run_dir}/pods/{uuid}.pid", encoding="ascii") as f:
        return int(f.read())


def _places(words: list[str]) -> tuple[str, str, str]:
    """Data directory, run directory, and the pod."""
    places = {"--dir": "/var/lib/gantry", "--run-dir": "/run/gantry"}
    for word in words:
        flag, _, value = word.partition("=")
        if flag in places:
            places[flag] = os.path.realpath(value)
    return places["--dir"], places["--run-dir"], next(w for w in reversed(words) if not w.startswith("-"))


def _notify(address: str, state: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as s:
        s.connect("\0" + address[1:] if address.startswith("@") else address)
        s.sendall(state.encode())
        readable, writable = os.pipe2(os.O_CLOEXEC)
        # systemd closes the descriptor when it has read everything that was sent before.
        s.sendmsg([b"BARRIER=1"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [writable]))])
        os.close(writable)
        poll = select.poll()
        poll.register(readable, 0)
        poll.poll(_PATIENCE)
        os.close(readable)
