"""Stop, remove and collect pods: whatever state they are in, whoever else does so at the same time.

Losing a race is silent success. Every state that the design knows is left through here or through the
launcher.
"""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from gantry import audit
from gantry.errors import BusyError, GantryError
from gantry.linux import cgroups, namespaces
from gantry.linux.fs import fsync_directory, mount_at_or_below, remove_tree
from gantry.linux.pidfd import Process
from gantry.pods import state
from gantry.pods.ending import back_to_prepared, clean, end_leftovers, record_exit, warn
from gantry.pods.info import PodInfo, find_uuid, load
from gantry.stage1.flavor import NAMES as FLAVORS

if TYPE_CHECKING:
    from collections.abc import Callable

    from gantry.config import Paths

#: Seconds that making a pod's directory may take at most; an older one is nobody's.
EMBRYO_AGE = 60.0
_START_PATIENCE = 30.0


def stop(
    paths: Paths, reference: str, *, force: bool = False, timeout: float | None = None, wait: bool = False
) -> tuple[str, bool]:
    """Ask a pod to end: SIGTERM to its apps, SIGKILL to those that have not ended in time (EXE-26).

    Args:
        paths: Where pods are.
        reference: UUID prefix or pod name.
        force: SIGKILL at once.
        timeout: With *wait*, seconds until everything is killed; without a supervisor also otherwise.
        wait: Return when it has ended.

    Returns:
        Its UUID, and whether there was anything to stop.

    Raises:
        PodStateError: It does not run and never did.
        BusyError: It did not end although it was killed.
    """
    uuid = find_uuid(paths, reference)
    pod = load(paths, uuid)
    if pod is None or pod.exited or (pod.state == "prepared" and pod.exit_status is not None):
        return uuid, False
    if pod.state != "running":
        raise state.PodStateError(f'pod "{uuid}" is not running', hint=f"it is {pod.state}")
    pause = _of_sandbox(pod.path)
    if force and pause:
        pause.signal(signal.SIGKILL)
    else:
        _ask(pod)
    pod = load(paths, uuid)  # a launcher that was to leave has left by now
    if pod and pod.state == "running" and (wait or (force and pod.launcher is None)):
        _await_end(paths, pod, pause or _of_sandbox(pod.path), timeout)
    return uuid, True


def _of_sandbox(path: str) -> Process | None:
    sandbox = state.try_json(f"{path}/sandbox.json")
    if not sandbox or sandbox.get("boot_id") != namespaces.boot_id():
        return None
    return Process(sandbox["pause_pid"], sandbox["pause_start"])


def _ask(pod: PodInfo) -> None:
    launched = state.try_json(f"{pod.path}/launch.json") or {}
    launcher = launched.get("launcher")
    if pod.launcher and launcher:
        process = Process(launcher["pid"], launcher["start"])
        if not launched.get("leaving"):
            process.signal(signal.SIGTERM)
            return
        # It ends by itself, as soon as there is an app that can be asked, or none.
        if not process.ended(_START_PATIENCE):
            raise BusyError(f'pod "{pod.uuid}" is still starting', hint="try again, or stop it with --force")
        launched = state.try_json(f"{pod.path}/launch.json") or {}
    for app in launched.get("apps", {}).values():
        Process(app["pid"], app["start"]).signal(signal.SIGTERM)


def _await_end(paths: Paths, pod: PodInfo, pause: Process | None, timeout: float | None) -> None:
    launched = state.try_json(f"{pod.path}/launch.json") or {}
    launcher = launched.get("launcher") or {}
    supervisor = Process(launcher["pid"], launcher["start"]) if pod.launcher else None
    patience = time.monotonic() + (10.0 if timeout is None else timeout)
    if supervisor:
        if not supervisor.ended(patience - time.monotonic()):
            if pause:
                pause.signal(signal.SIGKILL)
            if not supervisor.ended(10.0):
                raise BusyError(f'pod "{pod.uuid}" does not end', hint=f"look at process {pod.launcher}")
        return
    for app in launched.get("apps", {}).values():
        if not Process(app["pid"], app["start"]).ended(patience - time.monotonic()):
            break
    # systemd watches the app of a named pod and cleans up; where nobody does, we do.
    if not _settled(pod, patience):
        settle(paths, pod.uuid)


def _settled(pod: PodInfo, patience: float) -> bool:
    """Wait a moment for the unit's own clean-up of a pod that systemd runs."""
    if not os.path.exists("/run/systemd/system"):
        return False
    while time.monotonic() < patience:
        if not os.path.isdir(pod.path) or not state.is_held(pod.path):
            return True
        time.sleep(0.02)
    return False


def settle(paths: Paths, uuid: str) -> None:
    """Clean up after a pod in ``run`` that nobody supervises; record its end if nobody has."""
    data = paths.data
    path = state.directory(data, "run", uuid)
    end_leftovers(data, paths.run, uuid)
    lock = state.hold(path)
    if lock is None:
        return
    try:
        info = state.try_json(f"{path}/info.json") or {}
        if not os.path.exists(f"{path}/last-exit.json") or info.get("restartable"):
            record_exit(data, uuid, {"status": None, "reason": "its supervisor went away"}, _results(path))
        if info.get("restartable"):
            back_to_prepared(data, uuid)
    finally:
        os.close(lock)


def _results(path: str) -> dict[str, dict[str, Any]]:
    try:
        names = [name for name in os.listdir(f"{path}/status") if not name.endswith(".new")]
    except OSError:
        return {}
    return {name: result for name in names if (result := state.try_json(f"{path}/status/{name}"))}


def remove(paths: Paths, reference: str, *, by: str | None = None) -> str:
    """Remove a pod that does not run, with everything it left behind (RKT-INVENTORY 4.5).

    Returns:
        Its UUID.

    Raises:
        BusyError: It runs, or somebody else is at it.
    """
    uuid = find_uuid(paths, reference)
    for _ in range(4):  # it may move on while we look
        name = state.find(paths.data, uuid)
        if name is None:
            return uuid  # somebody else was faster
        path = state.directory(paths.data, name, uuid)
        lock = state.hold(path)
        if lock is None:
            if not os.path.isdir(path) or state.find(paths.data, uuid) != name:
                continue
            if name == "run":
                raise BusyError(f'pod "{uuid}" is currently running', hint=f"gantry stop {uuid}")
            if name in {"garbage", "exited-garbage"}:
                raise BusyError(f'pod "{uuid}" is currently being deleted')
            if os.path.exists(f"{path}/lock"):
                raise BusyError(f'pod "{uuid}" is being prepared', hint="wait for it")
            _delete(paths, uuid, name, by)  # never got as far as a lock
            return uuid
        try:
            _delete(paths, uuid, name, by)
        finally:
            os.close(lock)
        return uuid
    raise BusyError(f'pod "{uuid}" keeps moving', hint="try again")


def _delete(paths: Paths, uuid: str, name: str, by: str | None) -> None:
    """Delete a pod in state *name*; its lock is held. A failed attempt can be repeated."""
    data = paths.data
    path = state.directory(data, name, uuid)
    info = state.try_json(f"{path}/info.json") or {}
    plan = state.try_json(f"{path}/plan.json") or {}
    launched = state.try_json(f"{path}/launch.json") or {}
    clean(data, paths.run, uuid, cgroups.layout(), launched.get("group", f"{cgroups.ROOT}/{uuid}"))
    _forget_identity(paths, uuid)
    if name not in {"garbage", "exited-garbage"}:
        path = state.move(data, uuid, name, "exited-garbage" if name == "run" else "garbage")
    point = mount_at_or_below(path)
    if point:  # removing would go on in what is mounted, which may be the host's own
        raise BusyError(f"{point} is still mounted", hint=f"umount {point}")
    if plan.get("trees"):
        from gantry.images import Store  # noqa: PLC0415 - rm of half-made pods works without a store

        store = Store(paths)
        for tree in plan["trees"]:
            store.drop_ref(tree, uuid)
    for part in ("overlay", "sharedVolumes"):
        remove_tree(f"{path}/{part}")
    remove_tree(path)
    audit.record(data, "pod.remove", by=by, uuid=uuid, name=info.get("pod_name"))


def _forget_identity(paths: Paths, uuid: str) -> None:
    """The pod's key goes with the pod; while the signer is away it stays, for :func:`collect`."""
    socket = f"{paths.run}/signer.sock"
    if os.path.exists(socket):
        from gantry.signer import client  # noqa: PLC0415 - only where there is a signer

        try:
            client.delete(socket, uuid)
        except GantryError as error:
            warn(f"the key of pod {uuid} is still there: {error}; gc will delete it")


@dataclass(slots=True)
class Collected:
    """What a garbage collection did.

    Attributes:
        marked: Pods moved to garbage, with the reason.
        removed: Pods deleted.
        kept: Pods still within their grace period, with the seconds left.
        recovered: Restartable pods made ready again after their supervisor had died.
        keys: Pods that are gone and whose keys were deleted now.
        network: What of the network was removed or mended, one line each.
        errors: What could not be done, one line each.
    """

    marked: list[tuple[str, str]] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    kept: list[tuple[str, float]] = field(default_factory=list)
    recovered: list[str] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    network: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


def collect(
    paths: Paths,
    *,
    grace_period: float = 1800.0,
    expire_prepared: float = 86400.0,
    mark_only: bool = False,
    dry_run: bool = False,
    by: str | None = None,
) -> Collected:
    """Garbage collection (RKT-INVENTORY section 16). One faulty pod does not stop the others.

    Args:
        paths: Where pods are.
        grace_period: Seconds an exited pod is kept.
        expire_prepared: Seconds a prepared pod is kept; those of named pods always are.
        mark_only: Only move exited and aborted pods to garbage.
        dry_run: Only say which pods would be marked and removed.
        by: Who asked, for the audit record.
    """
    state.check_format(paths.data)
    done = Collected()
    if dry_run:
        _foresee(paths, done, grace_period, expire_prepared, mark_only=mark_only)
        return done
    for uuid in _in_state(paths, "run"):
        _guarded(done, uuid, partial(_mark_exited, paths, uuid, done))
    for uuid in _in_state(paths, "prepare"):
        _guarded(done, uuid, partial(_mark, paths, uuid, "prepare", "failed prepare", done))
    if mark_only:
        return done
    now = time.time()
    for uuid in _in_state(paths, "prepared"):
        path = state.directory(paths.data, "prepared", uuid)
        info = state.try_json(f"{path}/info.json") or {}
        if not info.get("restartable") and _age(path, now) > expire_prepared:
            _guarded(done, uuid, partial(_mark, paths, uuid, "prepared", "expired prepared pod", done))
    for uuid in _in_state(paths, "embryo"):
        if _age(state.directory(paths.data, "embryo", uuid), now) > EMBRYO_AGE:
            _guarded(done, uuid, partial(collect_one, paths, uuid, "embryo", done, by))
    for uuid in _in_state(paths, "exited-garbage"):
        left = grace_period - _age(state.directory(paths.data, "exited-garbage", uuid), now)
        if left > 0:
            done.kept.append((uuid, left))
        else:
            _guarded(done, uuid, partial(collect_one, paths, uuid, "exited-garbage", done, by))
    for uuid in _in_state(paths, "garbage"):
        _guarded(done, uuid, partial(collect_one, paths, uuid, "garbage", done, by))
    sweep(paths, done)
    return done


def sweep(paths: Paths, done: Collected) -> None:
    """Give back what pods that are gone have left outside of the pods' directories; told in *done*."""
    _guarded(done, "the run directory", partial(_sweep_run, paths))
    _guarded(done, "the run directory", partial(_sweep_namespaces, paths))
    _guarded(done, "the host's network", partial(_sweep_network, paths, done))
    _guarded(done, "the signer's keys", partial(_sweep_keys, paths, done))


def _foresee(
    paths: Paths, done: Collected, grace_period: float, expire_prepared: float, *, mark_only: bool
) -> None:
    """What :func:`collect` would do to pods now; nothing is touched."""
    now = time.time()

    def in_state(name: str) -> list[tuple[str, str]]:
        return [(uuid, state.directory(paths.data, name, uuid)) for uuid in _in_state(paths, name)]

    for uuid, path in in_state("run"):
        if not state.is_held(path):
            info = state.try_json(f"{path}/info.json") or {}
            if info.get("restartable"):
                done.recovered.append(uuid)
            else:
                done.marked.append((uuid, "pod"))
    for uuid, path in in_state("prepare"):
        if not state.is_held(path):
            done.marked.append((uuid, "failed prepare"))
    if mark_only:
        return
    for uuid, path in in_state("prepared"):
        info = state.try_json(f"{path}/info.json") or {}
        if not info.get("restartable") and _age(path, now) > expire_prepared:
            done.marked.append((uuid, "expired prepared pod"))
    done.removed += [uuid for uuid, path in in_state("embryo") if _age(path, now) > EMBRYO_AGE]
    for uuid, path in in_state("exited-garbage"):
        left = grace_period - _age(path, now)
        if left > 0:
            done.kept.append((uuid, left))
        else:
            done.removed.append(uuid)
    done.removed += [uuid for uuid, _ in in_state("garbage")]
    # What is marked in the same run has just begun its grace period, and what never ran has none.
    for uuid, what in done.marked:
        if what != "pod" or grace_period <= 0:
            done.removed.append(uuid)
        else:
            done.kept.append((uuid, grace_period))


def _guarded(done: Collected, what: str, action: Callable[[], object]) -> None:
    try:
        action()
    except (GantryError, OSError) as error:
        done.errors.append(f"{what}: {error}")


def _in_state(paths: Paths, name: str) -> list[str]:
    try:
        return sorted(os.listdir(f"{paths.data}/pods/{name}"))
    except FileNotFoundError:
        return []


def _age(path: str, now: float) -> float:
    try:
        return now - os.stat(path).st_ctime
    except FileNotFoundError:
        return -1.0


def _mark_exited(paths: Paths, uuid: str, done: Collected) -> None:
    data = paths.data
    path = state.directory(data, "run", uuid)
    if state.is_held(path):
        pod = load(paths, uuid)
        orphaned = (
            pod and pod.launcher is None and pod.apps and all(app.state == "exited" for app in pod.apps)
        )
        if not orphaned or os.path.exists("/run/systemd/system"):
            return  # it runs; or systemd is about to clean up
        end_leftovers(data, paths.run, uuid)
    restartable = (state.try_json(f"{path}/info.json") or {}).get("restartable")
    settle(paths, uuid)
    if restartable:
        if not os.path.isdir(path):
            done.recovered.append(uuid)
        return
    _mark(paths, uuid, "run", "pod", done)


def _mark(paths: Paths, uuid: str, name: str, what: str, done: Collected) -> None:
    lock = state.hold(state.directory(paths.data, name, uuid))
    if lock is None:
        return
    try:
        target = "exited-garbage" if name == "run" else "garbage"
        path = state.move(paths.data, uuid, name, target)
        os.utime(path)  # the mark's time
        fsync_directory(os.path.dirname(path))
        done.marked.append((uuid, what))
    finally:
        os.close(lock)


def collect_one(paths: Paths, uuid: str, name: str, done: Collected, by: str | None) -> None:
    """Delete a pod that nobody is at, in state *name*, whatever is there of it; told in *done*."""
    path = state.directory(paths.data, name, uuid)
    lock = state.hold(path)
    if lock is None and os.path.exists(f"{path}/lock"):
        return  # another collection is at it
    try:
        _delete(paths, uuid, name, by)
        done.removed.append(uuid)
    finally:
        if lock is not None:
            os.close(lock)


def _sweep_run(paths: Paths) -> None:
    """What pods of another life left in the run directory."""
    for place in ("pods", *FLAVORS):
        try:
            names = os.listdir(f"{paths.run}/{place}")
        except FileNotFoundError:
            continue
        for name in names:
            if not starts_or_runs(paths.data, name.removesuffix(".pid")):
                remove_tree(f"{paths.run}/{place}/{name}")


def _sweep_namespaces(paths: Paths) -> None:
    """Network namespaces that are kept for pods that are gone."""
    for uuid in _names(f"{paths.run}/net/ns"):
        if not starts_or_runs(paths.data, uuid) and state.find(paths.data, uuid) is None:
            from gantry.network import cni  # noqa: PLC0415 - hardly ever

            cni.leave(paths.run, paths.data, uuid)


def _names(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except FileNotFoundError:
        return []


def starts_or_runs(data: str, uuid: str) -> bool:
    """Whether what is there of pod *uuid* outside of its directory may be in use."""
    running = state.directory(data, "run", uuid)
    # Again at the end: it may have been moved, or prepared again, while we looked.
    return (
        os.path.isdir(running)
        or state.is_held(state.directory(data, "prepared", uuid))
        or os.path.isdir(running)
    )


def _sweep_network(paths: Paths, done: Collected) -> None:
    if os.path.isdir(f"{paths.run}/net/default"):
        from gantry.network.inspect import sweep  # noqa: PLC0415 - only where there ever was a network

        done.network += sweep(paths.run, state.is_held)


def _sweep_keys(paths: Paths, done: Collected) -> None:
    """Delete keys of pods that were removed while the signer was away."""
    socket = f"{paths.run}/signer.sock"
    if not os.path.exists(socket):
        return
    from gantry.signer import client  # noqa: PLC0415 - only where there is a signer

    for uuid in client.uuids(socket):
        if state.find(paths.data, uuid) is None and client.delete(socket, uuid):
            done.keys.append(uuid)
