"""Record how a pod ended that systemd ran (``pod-stopped``), and clean up after it.

Loaded by the launcher when it is asked for that, in a process of its own.
"""

from __future__ import annotations

import os
import signal
import sys
import time

from gantry.errors import BusyError, GantryError
from gantry.linux import cgroups, namespaces
from gantry.pods import launch, mounting, state
from gantry.pods.ending import back_to_prepared, clean, end_leftovers, record_exit
from gantry.sandbox import start as start_sandbox

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def pod_stopped(data: str, run: str, uuid: str) -> None:
    """Do so; harmless when it is already done.

    systemd tells the end in ``SERVICE_RESULT``, ``EXIT_CODE`` and ``EXIT_STATUS``.

    Raises:
        BusyError: The pod still runs.
    """
    path = state.directory(data, "run", uuid)
    if not os.path.isdir(path):
        return
    end_leftovers(data, run, uuid)
    lock = state.hold(path)
    if lock is None:
        if not os.path.isdir(path):
            return  # another process was faster
        raise BusyError(f'pod "{uuid}" still runs', hint=f"gantry stop {uuid}")
    plan = state.read_json(f"{path}/plan.json")
    launched = state.try_json(f"{path}/launch.json") or {}
    status, number = told_by_systemd()
    results: dict[str, dict[str, Any]] = {}
    for name, app in launched.get("apps", {}).items():
        if os.path.exists(f"{path}/status/{name}"):
            continue
        results[name] = {"exit_code": status, "started_at": app["started_at"], "finished_at": time.time_ns()}
        if number:
            results[name]["signal"] = number
        os.makedirs(f"{path}/status", 0o750, exist_ok=True)
        state.write_json(f"{path}/status/{name}", results[name])
    if results:
        try:
            _run_post_stop(launch.Launch(data, run, uuid), lock)
        except GantryError as error:
            sys.stderr.write(f"pod-stopped: {error}\n")
    result = os.environ.get("SERVICE_RESULT")
    record_exit(data, uuid, {"status": status, "reason": f"systemd: {result}" if result else None}, results)
    if plan["restartable"]:
        back_to_prepared(data, uuid)
    os.close(lock)


def _run_post_stop(pod: launch.Launch, lock: int) -> None:
    """Run the post-stop handlers of a pod that was left (``--leave``) and whose sandbox is gone."""
    pod.lock = lock
    pod.plan = state.read_json(f"{pod.path}/plan.json")
    if not pod.handlers("post-stop"):
        return
    pod.group = f"{cgroups.ROOT}/{pod.uuid}"
    cgroups.make(pod.layout, pod.group)
    os.makedirs(pod.place, 0o700, exist_ok=True)
    pod.sandbox = start_sandbox(
        program=pod.plan["pause"],
        title="gantry-pause",
        hostname=pod.hostname(),
        host_network=pod.plan["network"]["mode"] == "host",
        listen=False,
        sysctl=pod.plan["sysctl"],
        directory=pod.run,
        lock=lock,
        bound=True,
        layout=pod.layout,
        group=f"{pod.group}/sandbox",
    )
    try:
        namespaces.private_mounts()
        mounting.mount(pod.path, pod.plan, fresh=False)
        pod.sandbox.network_ready()
        pod.sandbox.ready()
        pod.flavor = pod.find_flavor()
        pod.post_stop(metadata=False)  # the listening socket went with the pod's own sandbox
    finally:
        pod.sandbox.end()
        mounting.unmount(pod.path, pod.plan)
        clean(pod.data, pod.run, pod.uuid, pod.layout, pod.group)


def told_by_systemd() -> tuple[int | None, int | None]:
    """Exit status (as a shell counts) and signal of the unit's main process; ``None`` for unknown."""
    kind, value = os.environ.get("EXIT_CODE"), os.environ.get("EXIT_STATUS", "")
    if kind == "exited" and value.isdigit():
        return int(value), None
    if kind in {"killed", "dumped"}:
        number = int(value) if value.isdigit() else getattr(signal, f"SIG{value}", None)
        if number:
            return 128 + int(number), int(number)
    return None, None
