"""Processes that a demonstration has started, found again after the demonstration itself was killed.

Ansible starts workers, ssh and modules on this machine, each in a session of its own, and they outlive a
driver that gets SIGKILL. What they cannot lose is their environment: each inherits a mark that names the
demonstration's place.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from gantry.errors import GantryError

VARIABLE = "GANTRY_DEMO_PLACE"


class LeftoverError(GantryError):
    """A process of an earlier run does not end."""

    code = "leftover"


def mark(place: Path) -> dict[str, str]:
    """The environment variable that processes of the demonstration in *place* carry."""
    return {VARIABLE: str(place)}


def processes(place: Path) -> list[int]:
    """Living processes with the mark of *place*, this one aside."""
    pids = (int(path.name) for path in Path("/proc").glob("[0-9]*"))
    return sorted(pid for pid in pids if pid != os.getpid() and _marked(pid, place))


def _marked(pid: int, place: Path) -> bool:
    wanted = f"{VARIABLE}={place}".encode()
    try:
        # Empty once the process is a zombie.
        return wanted in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False


def end(place: Path, *, seconds: float = 30) -> int:
    """End every process with the mark of *place* and return how many there were.

    Raises:
        LeftoverError: Some are still there after *seconds*.
    """
    deadline = time.monotonic() + seconds
    ended: set[int] = set()
    while left := processes(place):
        if time.monotonic() > deadline:
            raise LeftoverError(f"processes {left} of {place} do not end", hint="run this again")
        for pid in left:
            _kill(pid, place)
        ended.update(left)
        time.sleep(0.02)
    return len(ended)


def _kill(pid: int, place: Path) -> None:
    """SIGKILL for *pid* if, with the process pinned by a descriptor, it still carries the mark."""
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        return
    try:
        if _marked(pid, place):
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    except OSError:
        pass
    finally:
        os.close(descriptor)
