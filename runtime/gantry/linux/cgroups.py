"""Control groups: where a pod's groups go, making and removing them, on v1, hybrid and v2.

The rules:

- A *path* here is what follows a hierarchy's mount point (``/gantry/UUID/APP``), the same in all of them.
- In a group that systemd delegated to us (``Delegate=yes``), everything stays below that group. On v2 a group
  with controllers for its children may hold no process itself, so the launcher moves to a child group first.
- Elsewhere pods live below ``/gantry``. Whoever makes ``/gantry/UUID`` makes it before the OCI runtime does,
  and removes it after; ``/gantry`` goes when the last pod has gone.

On the launch path: imports nothing but ``os``.
"""

from __future__ import annotations

import os

ROOT = "/gantry"
_NO_CONTROLLERS = frozenset({"rw", "ro", "xattr", "clone_children", "noprefix", "none", "cpuset_v2_mode"})


class Layout:
    """How control groups are mounted here.

    Attributes:
        unified: Mount point of the v2 hierarchy, also a hybrid's without controllers, or ``None``.
        controllers: Mount point of each v1 controller; ``name=systemd`` is one. Empty on pure v2.
    """

    __slots__ = ("controllers", "unified")

    def __init__(self, unified: str | None, controllers: dict[str, str]) -> None:
        self.unified = unified
        self.controllers = controllers

    @property
    def pure(self) -> bool:
        """Whether this is v2 alone."""
        return self.unified is not None and not self.controllers

    def mounts(self) -> list[str]:
        """Every hierarchy's mount point, each once."""
        every = list(dict.fromkeys(self.controllers.values()))
        return [*every, self.unified] if self.unified else every

    def available(self) -> set[str]:
        """Names of the controllers that can be used here, as v1 calls them (``cpu``, ``memory``)."""
        found = {name for name in self.controllers if not name.startswith("name=")}
        if self.pure:
            found.update(_read(f"{self.unified}/cgroup.controllers").split())
        return found


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except OSError:
        return ""


def layout() -> Layout:
    """Read the layout from this process's mounts."""
    unified: str | None = None
    controllers: dict[str, str] = {}
    for line in _read("/proc/self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.partition(" ")
        point = before.split(" ")[4]
        if kind == "cgroup2":
            unified = unified or point
        elif kind == "cgroup":
            for name in options.rpartition(" ")[2].split(","):
                if name not in _NO_CONTROLLERS and not name.startswith("release_agent="):
                    controllers.setdefault(name, point)
    return Layout(unified, controllers)


def own(where: Layout) -> dict[str, str]:
    """This process's group in every hierarchy: mount point to path."""
    found: dict[str, str] = {}
    for line in _read("/proc/self/cgroup").splitlines():
        _, names, path = line.split(":", 2)
        if not names and where.unified:
            found[where.unified] = path
        for name in names.split(","):
            if name in where.controllers:
                found[where.controllers[name]] = path
    return found


def delegated(where: Layout) -> str | None:
    """The path of this process's group if systemd handed it to us, else ``None``."""
    mine = own(where)
    for point in (where.unified, where.controllers.get("name=systemd")):
        # A control process of the unit sits one level deeper; the unit's group is its parent.
        path = mine.get(point, "/").removesuffix("/.control") if point else "/"
        if not point or path == "/":
            continue
        for mark in ("trusted.delegate", "user.delegate"):
            try:
                if os.getxattr(point + path, mark) == b"1":
                    return path
            except OSError:
                continue
    return None


def make(where: Layout, path: str) -> None:
    """Make the group *path* in every hierarchy, parents included; groups that exist are fine.

    Raises:
        OSError: The kernel refused.
    """
    for point in where.mounts():
        parent = os.path.dirname(path)
        for _ in range(100):
            if parent != "/":
                _mkdir(point + parent)
            try:
                _mkdir(point + path)
            except FileNotFoundError:
                continue  # the last pod's end has just removed the parent
            break


def _mkdir(path: str) -> None:
    try:
        os.mkdir(path, 0o755)
    except FileExistsError:
        return


def join(where: Layout, path: str) -> None:
    """Make the v2 group *path* and move this process there; on v1 nothing has to move.

    Raises:
        OSError: The kernel refused.
    """
    if where.pure and where.unified:
        parent = where.unified
        for part in path.strip("/").split("/"):
            parent = f"{parent}/{part}"
            _mkdir(parent)
        _write(f"{where.unified}{path}/cgroup.procs", "0")


def adopt(where: Layout, path: str) -> None:
    """Move this process to the group *path*, which exists, in every hierarchy that lets it in.

    Raises:
        OSError: None does.
    """
    refusal: OSError | None = None
    joined = False
    for point in where.mounts():
        try:
            _write(f"{point}{path}/cgroup.procs", "0")
            joined = True
        except OSError as error:  # one without processors, for instance, takes nobody in
            refusal = error
    if not joined and refusal:
        raise refusal


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def limit(where: Layout, path: str, *, memory: int | None, cpu_milli: int | None) -> None:
    """Bound everything in and below the group *path*, which exists.

    Args:
        where: The layout.
        path: The group.
        memory: Bytes.
        cpu_milli: Thousandths of a core.

    Raises:
        OSError: The controller is missing or refused.
    """
    if where.pure and where.unified:
        wanted = [name for name, value in (("memory", memory), ("cpu", cpu_milli)) if value is not None]
        above = where.unified
        for part in path.strip("/").split("/"):
            for name in wanted:
                _write(f"{above}/cgroup.subtree_control", f"+{name}")
            above = f"{above}/{part}"
        if memory is not None:
            _write(f"{above}/memory.max", str(memory))
        if cpu_milli is not None:
            _write(f"{above}/cpu.max", f"{cpu_milli * 100} 100000")
        return
    if memory is not None:
        _write(f"{where.controllers['memory']}{path}/memory.limit_in_bytes", str(memory))
    if cpu_milli is not None:
        _write(f"{where.controllers['cpu']}{path}/cpu.cfs_period_us", "100000")
        _write(f"{where.controllers['cpu']}{path}/cpu.cfs_quota_us", str(cpu_milli * 100))


def remove(where: Layout, path: str) -> bool:
    """Remove the group *path* and those below it, everywhere; true when none is left.

    Groups that still hold processes stay: whoever asks has ended them or will ask again.
    """
    gone = True
    for point in where.mounts():
        gone = _remove_tree(point + path) and gone
    if path.startswith(f"{ROOT}/"):
        for point in where.mounts():
            try:
                os.rmdir(point + ROOT)
            except OSError:
                continue  # other pods live there
    return gone


def _remove_tree(top: str) -> bool:
    try:
        below = [entry.path for entry in os.scandir(top) if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return not os.path.lexists(top)
    for path in below:
        _remove_tree(path)
    try:
        os.rmdir(top)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def processes(where: Layout, path: str) -> set[int]:
    """Numbers of the processes in and below the group *path*."""
    found: set[int] = set()
    for point in where.mounts():
        for top, _, files in os.walk(point + path):
            if "cgroup.procs" in files:
                found.update(int(line) for line in _read(f"{top}/cgroup.procs").split())
    return found


def kill(where: Layout, path: str) -> None:
    """SIGKILL every process in and below the group *path*, also those it makes meanwhile."""
    if where.unified:
        try:
            _write(f"{where.unified}{path}/cgroup.kill", "1")
        except OSError:
            pass  # an old kernel, or a hybrid whose v2 hierarchy has no such group
        else:
            if where.pure:
                return
    for _ in range(100):
        found = processes(where, path)
        if not found:
            return
        for pid in found:
            try:
                os.kill(pid, 9)
            except ProcessLookupError:
                continue
