"""The end of a pod, whoever meets it: its launcher, systemd's unit, the next start, gc or rm.

On the launch path.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time

from gantry import audit
from gantry.errors import GantryError
from gantry.linux import cgroups, namespaces
from gantry.pods import state
from gantry.stage1.flavor import NAMES as FLAVORS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_PATIENCE = 10.0  # seconds for killed processes to go


def clean(data: str, run: str, uuid: str, layout: cgroups.Layout, group: str) -> None:
    """Give back everything a pod held outside of its own directory. Nothing of it runs any more.

    Harmless when done already. Never raises: what fails is left for gc, with a warning.
    """
    for step in (_release_network, _unregister):
        try:
            step(data, run, uuid)
        except (GantryError, OSError) as error:
            warn(f"pod {uuid}: {error}; gc will do it")
    try:
        _remove_files(data, run, uuid, layout, group)
    except OSError as error:
        warn(f"pod {uuid}: {error}; gc will do it")


def warn(text: str) -> None:
    """Say something that changes nothing, in one line."""
    sys.stderr.write(f"gantry: warning: {text}\n")


def _release_network(data: str, run: str, uuid: str) -> None:
    path = state.directory(data, state.find(data, uuid) or "run", uuid)
    if os.path.exists(f"{path}/cni.json") or os.path.exists(f"{run}/net/ns/{uuid}"):
        from gantry.network import cni  # noqa: PLC0415 - likewise

        cni.leave(run, path, uuid)
    if os.path.isdir(f"{run}/net/default"):
        from gantry.network.wire import release  # noqa: PLC0415 - pods without a network do not pay for it

        release(run, uuid)


def _unregister(data: str, run: str, uuid: str) -> None:
    socket = f"{run}/metadata-svc.sock"
    if os.path.exists(socket) and os.path.exists(f"{state.directory(data, 'run', uuid)}/sandbox.json"):
        from gantry.metadata import client  # noqa: PLC0415 - only where there is a metadata service

        with contextlib.suppress(GantryError, OSError):  # it forgets pods that do not run by itself
            client.unregister(socket, uuid, timeout=0.5)


def _remove_files(data: str, run: str, uuid: str, layout: cgroups.Layout, group: str) -> None:
    # The runtime's own way to forget a container costs as much as starting one, and there is nothing to undo.
    if os.path.isdir(f"{run}/stage1/{uuid}"):
        from gantry.stage1 import external  # noqa: PLC0415 - only after flavors of somebody else

        try:
            external.clean(f"{run}/stage1/{uuid}", uuid)
        except GantryError as error:
            warn(str(error))
    for flavor in FLAVORS:
        remove_flat(f"{run}/{flavor}/{uuid}")
        with contextlib.suppress(OSError):  # others' state is there
            os.rmdir(f"{run}/{flavor}")
    if group.startswith(f"{cgroups.ROOT}/"):
        _remove_group(layout, group)
    elif group:
        for name in _groups_of(data, uuid):
            _remove_group(layout, f"{group}/{name}")
    remove_flat(f"{run}/pods/{uuid}")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(f"{run}/pods/{uuid}.pid")


def _remove_group(layout: cgroups.Layout, path: str) -> None:
    """Remove a control group of ours: a pod's lock is free an instant before its last process is gone."""
    deadline = time.monotonic() + _PATIENCE
    while not cgroups.remove(layout, path) and time.monotonic() < deadline:
        cgroups.kill(layout, path)
        time.sleep(0.002)


def _groups_of(data: str, uuid: str) -> list[str]:
    """Names of the groups a pod may have below a unit's; not ``sandbox``, the caller may live there."""
    try:
        apps = os.listdir(f"{state.directory(data, 'run', uuid)}/apps")
    except OSError:
        apps = []
    return [f"{app}{suffix}" for app in apps for suffix in ("", ".pre-start", ".post-stop")] + ["apps"]


def remove_flat(path: str) -> None:
    """Remove a directory of ours in the run directory, with what is in it."""
    try:
        entries = list(os.scandir(path))
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            remove_flat(entry.path)
        else:
            os.unlink(entry.path)
    os.rmdir(path)


def end_leftovers(data: str, run: str, uuid: str) -> None:
    """Kill what is left of a pod that has no supervisor any more, and clean up after it.

    A pod whose supervisor lives is left alone. A launcher that was to leave and is still at it is none.
    """
    from gantry.linux.pidfd import Process  # noqa: PLC0415 - not on the way to a running app

    path = state.directory(data, "run", uuid)
    launched = state.try_json(f"{path}/launch.json") or {}
    sandbox = state.try_json(f"{path}/sandbox.json") or {}
    if launched.get("boot_id", sandbox.get("boot_id")) == namespaces.boot_id():
        launcher = launched.get("launcher")
        if launcher and launcher["pid"] != os.getpid():
            process = Process(launcher["pid"], launcher["start"])
            if not launched.get("leaving") and not process.ended(0):
                return
            process.signal(signal.SIGKILL)
            process.ended(_PATIENCE)
            sandbox = state.try_json(f"{path}/sandbox.json") or {}
        Process(sandbox.get("pause_pid", 0), sandbox.get("pause_start", 0)).signal(signal.SIGKILL)
        deadline = time.monotonic() + _PATIENCE
        while state.is_held(path) and time.monotonic() < deadline:
            time.sleep(0.005)
    if not state.is_held(path):
        clean(data, run, uuid, cgroups.layout(), launched.get("group", f"{cgroups.ROOT}/{uuid}"))


def record_exit(
    data: str, uuid: str, outcome: dict[str, Any], apps: dict[str, dict[str, Any]] | None = None
) -> None:
    """Write down how the pod ended: in its directory, and in the audit record; before anything is undone.

    Never raises: a disk that is full must not keep the pod from ending, nor its status from the caller.

    Args:
        data: The data directory.
        uuid: The pod, in ``run``.
        outcome: ``status`` (``None``: nobody knows) and ``reason``.
        apps: What is known of each app.
    """
    path = state.directory(data, "run", uuid)
    plan = state.try_json(f"{path}/plan.json") or {}
    entry = {**outcome, "finished_at": time.time(), "apps": apps or {}}
    try:
        state.write_json(f"{path}/last-exit.json", entry)
        audit.record(
            data,
            "pod.exit",
            uuid=uuid,
            name=plan.get("pod_name"),
            status=outcome.get("status"),
            reason=outcome.get("reason"),
            apps=apps or None,
        )
    except (GantryError, OSError) as error:
        warn(f"pod {uuid} ended with {outcome.get('status')}, which cannot be recorded: {error}")


def recover(data: str, run: str, uuid: str, layout: cgroups.Layout) -> int | None:
    """Clean up after a restartable pod whose last run was cut off (power, kill -9), and take it.

    Returns:
        Its lock; ``None``: it is none, or runs.
    """
    path = state.directory(data, "run", uuid)
    plan = state.try_json(f"{path}/plan.json")
    if not plan or not plan.get("restartable"):
        return None
    lock = state.hold(path)
    if lock is None:
        return None
    launched = state.try_json(f"{path}/launch.json") or {}
    record_exit(data, uuid, {"status": None, "reason": "the host or its supervisor went away"})
    clean(data, run, uuid, layout, launched.get("group", f"{cgroups.ROOT}/{uuid}"))
    back_to_prepared(data, uuid)
    return lock


def back_to_prepared(data: str, uuid: str) -> None:
    """Make a pod in ``run`` ready to be started again: layers, statuses and records of the run go."""
    from gantry.linux.fs import fsync_directory, remove_tree  # noqa: PLC0415 - not on the way to a running app

    path = state.directory(data, "run", uuid)
    for name in ("overlay", "status", "launch.json", "sandbox.json", "net-info.json", "shm"):
        remove_tree(f"{path}/{name}")
    state.move(data, uuid, "run", "prepared")
    fsync_directory(f"{data}/pods/prepared")
