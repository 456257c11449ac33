"""A cgroup of the fleet's own in every hierarchy: what is in it is ours, whatever its name or parent.

Membership is the record of processes that cannot be lost: it is inherited by every child and outlives a
creator that was killed. Nothing outside these groups is ever signalled.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from testhosts.errors import HostsError

MOUNT = Path("/sys/fs/cgroup")
PREFIX = "testhosts-"


def hierarchies() -> list[Path]:
    """The root of every cgroup hierarchy of this machine: v1 controllers, named ones, and v2."""
    with Path("/proc/self/mountinfo").open() as table:
        rows = [line.split() for line in table]
    found = [Path(row[4]) for row in rows if row[row.index("-") + 1] in {"cgroup", "cgroup2"}]
    ours = [path for path in found if path == MOUNT or MOUNT in path.parents]
    return sorted(set(ours))


def groups(fleet: str) -> list[Path]:
    """Where the cgroups of *fleet* are, or would be, in each hierarchy."""
    return [root / f"{PREFIX}{fleet}" for root in hierarchies()]


def make(fleet: str, host: str) -> list[Path]:
    """Make the cgroups of one host and return them: a process is to join every one."""
    made = []
    for group in groups(fleet):
        unified = (group.parent / "cgroup.controllers").exists()
        for path in (group, group / host):
            path.mkdir(exist_ok=True)
            if unified:
                continue
            if (path / "cpuset.cpus").exists():
                # A v1 cpuset accepts no process until it has processors and memory nodes.
                for name in ("cpuset.cpus", "cpuset.mems"):
                    (path / name).write_text((path.parent / name).read_text())
                (path / "cgroup.clone_children").write_text("1")
        if unified:
            for path in (group.parent, group):
                _delegate(path)
        made.append(group / host)
    return made


def _delegate(path: Path) -> None:
    """Pass every v2 controller that *path* has on to its children; those in use by v1 are not among them."""
    for controller in (path / "cgroup.controllers").read_text().split():
        try:
            (path / "cgroup.subtree_control").write_text(f"+{controller}")
        except OSError:
            continue  # not available here (a real-time group, for one); the hosts do without it


def processes(fleet: str) -> set[int]:
    """The processes that are in any cgroup of *fleet*, zombies aside."""
    found: set[int] = set()
    for group in groups(fleet):
        for path in _tree(group):
            try:
                found.update(int(line) for line in (path / "cgroup.procs").read_text().split())
            except OSError:
                continue  # the group went away, or is a threaded one
    return {pid for pid in found if pid and _alive(pid)}


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in {"Z", "X"}
    except OSError:
        return False


def _signal(fleet: str, pid: int, number: int) -> None:
    """Send a signal to *pid* if, with the process pinned by a descriptor, it is still in our cgroups."""
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        return
    try:
        with Path(f"/proc/{pid}/cgroup").open() as table:
            if any(
                f"/{PREFIX}{fleet}/" in line or line.rstrip().endswith(f"/{PREFIX}{fleet}") for line in table
            ):
                signal.pidfd_send_signal(descriptor, number)
    except OSError:
        pass
    finally:
        os.close(descriptor)


def _thaw(fleet: str) -> None:
    """Let frozen groups run: the v1 freezer keeps even SIGKILL waiting."""
    for group in groups(fleet):
        for name, value in (("freezer.state", "THAWED"), ("cgroup.freeze", "0")):
            for path in _tree(group):
                try:
                    if (path / name).exists():
                        (path / name).write_text(value)
                except OSError:
                    continue


def kill(fleet: str, *, seconds: float = 30) -> None:
    """End every process of *fleet*.

    Raises:
        HostsError: Some are still there after *seconds*.
    """
    deadline = time.monotonic() + seconds
    pause = 0.01
    while left := processes(fleet):
        if time.monotonic() > deadline:
            raise HostsError(f"processes {sorted(left)} of the fleet do not end", hint="run destroy again")
        _thaw(fleet)
        for pid in left:
            _signal(fleet, pid, signal.SIGKILL)
        time.sleep(pause)
        pause = min(pause * 2, 0.2)


def remove(fleet: str, *, seconds: float = 10) -> None:
    """Remove the cgroups of *fleet*, the deepest first; they may stay busy for a moment after a kill.

    Raises:
        HostsError: One is still busy after *seconds*.
    """
    deadline = time.monotonic() + seconds
    while True:
        stuck: OSError | None = None
        for group in groups(fleet):
            for path in reversed(_tree(group)):
                try:
                    path.rmdir()
                except FileNotFoundError:
                    continue
                except OSError as error:
                    stuck = error
        if stuck is None:
            return
        if time.monotonic() > deadline:
            raise HostsError(f"cgroup {stuck.filename} is still busy", hint="run destroy again")
        time.sleep(0.05)


def _tree(group: Path) -> list[Path]:
    """*group* and every group in it, parents first; what vanishes meanwhile is left out."""
    return [Path(path) for path, _directories, _files in os.walk(group)]
