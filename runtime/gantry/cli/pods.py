"""``list``, ``status``, ``stop``, ``rm``, ``gc``, ``cat-manifest``."""

from __future__ import annotations

import contextlib
import os
import time
from typing import Any

from gantry import pods
from gantry.cli.context import Context
from gantry.cli.output import FAILURE, indented, long_time, short_id, short_time
from gantry.cli.values import format_duration
from gantry.errors import BusyError, GantryError, UsageError
from gantry.pods import PodInfo

_POLL_SECONDS = 0.1
# States in which rkt tells how the apps have ended.
_WITH_EXIT = frozenset({"running", "deleting", "exited deleting", "exited", "exited garbage"})


class StillRunningError(BusyError):
    """The pod did not end in the time that was given."""

    code = "timeout"


class OwnedError(UsageError):
    """The pod belongs to a unit of systemd."""

    code = "named-pod"


def list_pods(context: Context) -> int:
    """List pods."""
    _refuse_unreadable(context.paths.data)
    found = pods.list_pods(context.paths)
    if context.output.form:
        context.output.json([_as_dict(p) for p in found])
        return 0
    full = context.values.flag("full")
    header = ["UUID", "APP", "IMAGE NAME", "STATE", "CREATED", "STARTED", "NETWORKS"]
    if full:
        header.insert(3, "IMAGE ID")
    rows = [row for pod in found for row in _rows(pod, full=full)]
    context.output.table(header, rows, legend=not context.values.flag("no-legend"))
    errors = [f"{p.uuid}: {p.error}" for p in found if p.error]
    if errors:
        context.output.notice(f"{len(errors)} error(s) encountered when listing pods:")
        for error in errors:
            context.output.notice(error)
    return 0


def _refuse_unreadable(data: str) -> None:
    """Raises OSError where pods are that the caller may not see: no pods and none to be seen differ."""
    with contextlib.suppress(FileNotFoundError):
        for entry in os.scandir(f"{data}/pods"):
            if entry.is_dir(follow_symlinks=False):
                os.listdir(entry.path)


def _rows(pod: PodInfo, *, full: bool) -> list[list[str]]:
    """One row an app; what is the pod's stands in the first only."""
    moment = long_time if full else short_time
    of_pod = [pod.state, moment(pod.created_at), moment(pod.started_at), networks_cell(pod)]
    uuid = pod.uuid if full else pod.uuid[:8]
    if not pod.apps:
        return [[uuid, "-", "-", *(["-"] if full else []), *of_pod]]
    rows = []
    for i, app in enumerate(pod.apps):
        image = [app.name, app.image_name or "--", *([short_id(app.image_id)] if full else [])]
        rows.append([uuid, *image, *of_pod] if i == 0 else ["", *image, "", "", "", ""])
    return rows


def networks_cell(pod: PodInfo) -> str:
    """``default:ip4=172.16.28.2``, several joined by a comma."""
    return ", ".join(f"{n.get('netName')}:ip4={n.get('ip')}" for n in pod.networks)


def _as_dict(pod: PodInfo) -> dict[str, Any]:
    """As rkt prints it: what is not known is left out, and so are empty maps."""
    shown = pod.as_dict()
    optional = ("user_annotations", "user_labels", "error", "pid", "started_at", "finished_at")
    return {k: v for k, v in shown.items() if not (k in optional and not v)}


def status(context: Context) -> int:
    """Show the state of one pod, perhaps after waiting for its end."""
    reference = context.pod_reference()
    pod = pods.get(context.paths, reference)
    wait = context.values["wait"]
    if wait is not None:
        pod = _wait(context, pod, None if wait is True else float(str(wait)))
    if context.output.form:
        context.output.json(_as_dict(pod))
        return 0
    for line in _status_lines(pod):
        context.output.line(line)
    return 0


def _status_lines(pod: PodInfo) -> list[str]:
    lines = [f"state={pod.state}", f"created={long_time(pod.created_at)}"]
    if pod.started_at:
        lines.append(f"started={long_time(pod.started_at)}")
    if pod.state in {"running", "exited"}:
        lines.append(f"networks={networks_cell(pod)}")
    if pod.state in _WITH_EXIT:
        if pod.pid:
            lines.append(f"pid={pod.pid}")
        ended = pod.state in {"exited", "exited garbage"}
        lines.append(f"exited={'true' if ended else 'false'}")
        if pod.state != "running":
            lines.extend(f"app-{a.name}={a.exit_code}" for a in pod.apps if a.exit_code is not None)
    lines.extend(f"signed-{a.name}={_signed(a.verification)}" for a in pod.apps)
    return lines


def _signed(verification: dict[str, Any] | None) -> str:
    """Who signed, when, and when that was verified."""
    if verification is None:
        return "not verified"
    users = ", ".join(verification.get("user_ids") or [])
    return (
        f"{verification.get('key')} {users} at {verification.get('signed_at')}, "
        f"verified at {verification.get('verified_at')}"
    )


def _wait(context: Context, pod: PodInfo, seconds: float | None) -> PodInfo:
    """The pod once it has ended; a negative time waits for ever."""
    deadline = None if seconds is None or seconds < 0 else time.monotonic() + seconds
    while not _ended(pod):
        if deadline is not None and time.monotonic() >= deadline:
            raise StillRunningError(
                f'pod "{pod.uuid}" is still {pod.state} after {format_duration(seconds or 0)}',
                hint="wait longer, or stop it",
            )
        time.sleep(_POLL_SECONDS)
        pod = pods.get(context.paths, pod.uuid)
    return pod


def _ended(pod: PodInfo) -> bool:
    return pod.exited or (pod.state == "prepared" and pod.exit_status is not None)


def _refuse_named(context: Context, reference: str, verb: str) -> None:
    """Refuse what systemd would undo: the pod of a unit.

    Raises:
        UsageError: The pod belongs to a named pod.
    """
    pod = pods.get(context.paths, reference)
    owner = f"{context.paths.data}/releases/{pod.pod_name}/current/uuid"
    if pod.pod_name and _first_word(owner) == pod.uuid:
        raise OwnedError(
            f'pod "{pod.uuid}" is the named pod "{pod.pod_name}", which systemd runs',
            hint=f"gantry pod {verb} {pod.pod_name}",
        )


def _first_word(path: str) -> str:
    try:
        with open(path, encoding="ascii") as f:
            return f.read(64).strip()
    except (OSError, ValueError):
        return ""


def stop(context: Context) -> int:
    """Stop pods."""
    values, output = context.values, context.output
    results: list[dict[str, Any]] = []
    failed = 0
    for reference in context.pod_references():
        try:
            _refuse_named(context, reference, "stop")
            uuid, stopped = pods.stop(
                context.paths,
                reference,
                force=values.flag("force"),
                wait=values.flag("wait"),
                timeout=values.seconds("timeout"),
            )
        except GantryError as e:
            failed += 1
            output.failed(e)
            results.append({"pod": reference, "error": e.as_dict()})
            continue
        results.append({"pod": reference, "uuid": uuid, "stopped": stopped})
        if not output.form:
            output.line(f'"{uuid}"' if stopped else f'pod "{uuid}" is already stopped')
    if output.form:
        output.json(results)
    elif failed:
        output.notice(f"failed to stop {failed} pod(s)")
    return FAILURE if failed else 0


def remove(context: Context) -> int:
    """Remove pods that do not run."""
    output = context.output
    results: list[dict[str, Any]] = []
    failed = False
    for reference in context.pod_references():
        try:
            _refuse_named(context, reference, "rm")
            uuid = pods.remove(context.paths, reference)
        except GantryError as e:
            failed = True
            output.failed(e)
            results.append({"pod": reference, "error": e.as_dict()})
            continue
        results.append({"pod": reference, "uuid": uuid})
        if not output.form:
            output.line(f'"{uuid}"')
    if output.form:
        output.json(results)
    elif failed:
        output.notice("failed to remove one or more pods")
    return FAILURE if failed else 0


def collect(context: Context) -> int:
    """Remove what pods have left behind."""
    values, output = context.values, context.output
    grace = values.seconds("grace-period")
    done = pods.collect(
        context.paths,
        grace_period=grace,
        expire_prepared=values.seconds("expire-prepared"),
        mark_only=values.flag("mark-only"),
        dry_run=values.flag("dry-run"),
    )
    if output.form:
        output.json(
            {
                "marked": [{"uuid": u, "what": w} for u, w in done.marked],
                "removed": done.removed,
                "kept": [{"uuid": u, "seconds_left": int(s)} for u, s in done.kept],
                "recovered": done.recovered,
                "keys": done.keys,
                "network": done.network,
                "errors": done.errors,
            }
        )
        return FAILURE if done.errors else 0
    if values.flag("dry-run"):
        for uuid, what in done.marked:
            output.line(f'would move {what} "{uuid}" to garbage')
        for uuid in done.removed:
            output.line(f'would remove pod "{uuid}"')
        output.line(f"{len(done.marked)} to mark, {len(done.removed)} to remove, {len(done.kept)} kept")
        return FAILURE if done.errors else 0
    for uuid, what in done.marked:
        output.notice(f'moving {what} "{uuid}" to garbage')
    for uuid in done.recovered:
        output.notice(f'pod "{uuid}" is ready to be started again')
    for uuid in done.keys:
        output.notice(f'deleted the signing key of pod "{uuid}", which is gone')
    for line in done.network:
        output.notice(line)
    for uuid in done.removed:
        output.line(f'Garbage collecting pod "{uuid}"')
    for uuid, _ in done.kept:
        output.debug(f'pod "{uuid}" not removed: still within grace period ({format_duration(grace)})')
    for error in done.errors:
        output.notice(error)
    output.line(f"{len(done.marked)} marked, {len(done.removed)} removed, {len(done.kept)} kept")
    return FAILURE if done.errors else 0


def cat_manifest(context: Context) -> int:
    """Show the manifest of a pod."""
    raw = pods.manifest_bytes(context.paths, context.pod_reference())
    if context.values.flag("pretty-print"):
        context.output.line(indented(raw))
    else:
        context.output.line(raw.decode("utf-8", "replace"))
    return 0
