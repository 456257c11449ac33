"""A pod's state is the directory it is in, and whether its lock is held.

On disk, below the data directory::

    pods/format                      the version of this layout
    pods/STATE/UUID/                 STATE: embryo prepare prepared run exited-garbage garbage
        lock                         held by the preparer, then by the pod itself for its life (0600)
        pod                          pod manifest, reified
        pod-created                  empty; its time is the pod's
        plan.json                    what the launcher does (secrets: 0600)
        info.json                    the part of it that everybody who may list pods may read
        metadata.json                what the metadata service tells (0600)
        apps/APP/{config,pre-start,post-stop}.json    OCI configurations with places to fill in
        apps/APP/image-manifest      as it is in the image
        files/APP/{hosts,...}        what of /etc the app gets
        apps/APP/rootfs/             where the launcher mounts; empty for everybody else
        overlay/APP/{upper,work}     what the app wrote
        closed/                      empty, mode 000: hides what apps may not see
        sources/                     empty: where the launcher binds what volumes show of the host
        sharedVolumes/NAME/          empty volumes
        status/APP                   how the app ended
        launch.json sandbox.json net-info.json        written by the launcher
        last-exit.json               how the pod ended the last time (restartable pods)

========== ===================== ====================
state      directory             lock
========== ===================== ====================
embryo     embryo                no meaning
preparing  prepare               held
aborted    prepare               free
prepared   prepared              no meaning
running    run                   held
exited     run                   free
garbage    (exited-)garbage      free
deleting   (exited-)garbage      held
========== ===================== ====================

Transitions are rename(2) by whoever holds the lock; the loser of a race finds nothing and says so. The lock
is a file and not the directory itself: the pause process of the pod holds it, and a descriptor of a
directory would lead whoever gets hold of that process out into the host.

On the launch path.
"""

from __future__ import annotations

import os

from gantry.errors import BusyError, GantryError, HostError, NotFoundError
from gantry.linux import held as held_lock
from gantry.linux import lean, namespaces

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

FORMAT = 1
STATES = ("embryo", "prepare", "prepared", "run", "exited-garbage", "garbage")


class PodStateError(GantryError):
    """A pod is not in the state that was asked for."""

    code = "pod-state"


class HandlerError(GantryError):
    """An event handler of an app failed."""

    code = "handler"


def directory(data: str, state: str, uuid: str) -> str:
    """Where pod *uuid* is while it is in *state*."""
    return f"{data}/pods/{state}/{uuid}"


def check_format(data: str) -> None:
    """Refuse a layout that this runtime cannot read.

    Raises:
        HostError: It is another version.
    """
    try:
        with open(f"{data}/pods/format", encoding="ascii") as file:
            found = file.read(16).strip()
    except FileNotFoundError:
        return
    if found != str(FORMAT):
        raise HostError(
            f"{data}/pods has format {found}, this runtime reads {FORMAT}",
            hint="use the version of gantry that made it",
        )


def find(data: str, uuid: str) -> str | None:
    """The state (directory) that pod *uuid*, a whole UUID, is in; ``None`` when it is nowhere."""
    for _ in range(3):  # it may move on between two looks
        for state in STATES:
            if os.path.isdir(directory(data, state, uuid)):
                return state
    return None


def hold(path: str) -> int | None:
    """Take the lock of the pod directory *path*; ``None`` when another holds it or the pod has moved on.

    Returns:
        The descriptor that holds it until it, and every copy of it, is closed.
    """
    name = f"{path}/lock"
    try:
        fd = os.open(name, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    held = False
    try:
        held = held_lock.take(fd) and os.path.samestat(os.fstat(fd), os.stat(name))
    except FileNotFoundError:
        held = False  # it has moved on
    finally:
        if not held:
            os.close(fd)
    return fd if held else None


def is_held(path: str) -> bool:
    """Whether somebody holds the lock of the pod directory *path*; false when it is gone. Only looks.

    Only root may open the lock, or others could hold it. Who may list pods but is not root is told what the
    pod's first process says.
    """
    try:
        fd = os.open(f"{path}/lock", os.O_RDONLY | os.O_CLOEXEC)
    except PermissionError:
        sandbox = try_json(f"{path}/sandbox.json")
        if sandbox is None:
            return True  # being prepared or started
        same_boot = sandbox.get("boot_id") == namespaces.boot_id()
        return same_boot and namespaces.is_same_process(
            sandbox.get("pause_pid", 0), sandbox.get("pause_start", 0)
        )
    except OSError:
        return False
    try:
        return held_lock.is_taken(fd)
    finally:
        os.close(fd)


def move(data: str, uuid: str, source: str, target: str) -> str:
    """Move pod *uuid* between states; the caller holds its lock. Returns the new path.

    Raises:
        BusyError: It is no longer in *source*: another process was faster.
    """
    path = directory(data, target, uuid)
    try:
        os.rename(directory(data, source, uuid), path)
    except FileNotFoundError as error:
        raise BusyError(f'pod "{uuid}" has been moved by another process', hint="look again") from error
    return path


def write_json(path: str, value: Any, mode: int = 0o640) -> None:
    """Replace the file *path* with *value* as JSON: a reader sees the old or the new one, whole."""
    temporary = f"{path}.new"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        os.fchmod(fd, mode)
        data = memoryview(lean.dumps(value).encode())
        while data:
            data = data[os.write(fd, data) :]
    finally:
        os.close(fd)
    os.rename(temporary, path)


def read_json(path: str) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        NotFoundError: There is no such file.
        HostError: It is not what we wrote.
    """
    try:
        with open(path, "rb") as file:
            value = lean.loads(file.read())
    except FileNotFoundError as error:
        raise NotFoundError(f"{path} does not exist") from error
    except ValueError as error:
        raise HostError(f"{path} is damaged: {error}", hint="remove the pod with gantry rm") from error
    if not isinstance(value, dict):
        raise HostError(f"{path} is damaged: not an object", hint="remove the pod with gantry rm")
    return value


def try_json(path: str) -> dict[str, Any] | None:
    """Like :func:`read_json`, ``None`` when the file is missing, damaged or unreadable."""
    try:
        return read_json(path)
    except (GantryError, OSError):
        return None
