"""What is known about pods, for anybody who may read their directories; nothing is changed."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gantry.errors import NotFoundError, UsageError
from gantry.linux import namespaces
from gantry.pods import state

if TYPE_CHECKING:
    from gantry.config import Paths

_LISTED = ("prepare", "prepared", "run", "exited-garbage")
#: Directory, and whether the lock is held: the word that is printed.
_WORDS = {
    ("embryo", True): "embryo",
    ("embryo", False): "embryo",
    ("prepare", True): "preparing",
    ("prepare", False): "aborted prepare",
    ("prepared", True): "prepared",
    ("prepared", False): "prepared",
    ("run", True): "running",
    ("run", False): "exited",
    ("exited-garbage", True): "exited deleting",
    ("exited-garbage", False): "exited garbage",
    ("garbage", True): "deleting",
    ("garbage", False): "garbage",
}
_HEX = frozenset("0123456789abcdef-")


@dataclass(frozen=True, slots=True)
class AppInfo:
    """An app of a pod.

    Attributes:
        name: In the pod.
        state: ``unknown``, ``created``, ``running`` or ``exited``.
        image_id: Full.
        image_name: With its version.
        created_at: Nanoseconds since 1970, or ``None``; likewise ``started_at`` and ``finished_at``.
        exit_code: As a shell counts: 128 plus the signal for an app that was killed.
        signal: The signal that killed it.
        mounts: ``name``, ``container_path``, ``host_path``, ``read_only`` of each.
        user_annotations: From the manifest; likewise ``user_labels``.
        pid: Its process, while it runs.
        verification: Who signed the image, when, and when that was verified
            (:class:`gantry.trust.Verification`); ``None``: nobody looked, or it is not known.
    """

    name: str
    state: str
    image_id: str
    image_name: str
    created_at: int | None = None
    started_at: int | None = None
    finished_at: int | None = None
    exit_code: int | None = None
    signal: int | None = None
    mounts: list[dict[str, Any]] = field(default_factory=list)
    user_annotations: dict[str, str] = field(default_factory=dict)
    user_labels: dict[str, str] = field(default_factory=dict)
    pid: int | None = None
    verification: dict[str, Any] | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON (RKT-INVENTORY 4.7); what is unknown is left out."""
        result: dict[str, Any] = {"name": self.name, "state": self.state, "image_id": self.image_id}
        result["image_name"] = self.image_name
        for key in ("created_at", "started_at", "finished_at", "exit_code", "signal", "pid"):
            value = getattr(self, key)
            if value is not None:
                result[key] = value
        return result | {
            "mounts": self.mounts,
            "verification": self.verification,
            "user_annotations": self.user_annotations,
            "user_labels": self.user_labels,
        }


@dataclass(frozen=True, slots=True)
class PodInfo:
    """A pod.

    Attributes:
        uuid: Whole.
        pod_name: The name it runs under, or ``None``.
        state: A word of RKT-INVENTORY 7.1.
        path: Its directory.
        created_at: Seconds since 1970, or ``None``; likewise ``started_at`` and ``finished_at``.
        networks: As in ``net-info.json``; kept after the end.
        apps: In the manifest's order.
        pid: Of the pod's first process, while it runs.
        launcher: Of its supervisor, while there is one.
        exit_status: Of the pod's last run, or ``None``.
        exit_reason: Why it ended, where that is known.
        flavor: How its apps are isolated.
        isolators: What became of each (ISO-04).
        warnings: From prepare and launch.
        restartable: Whether it is prepared again when it ends.
        user_annotations: From the manifest; likewise ``user_labels``.
        error: What is wrong with its directory, or ``None``.
    """

    uuid: str
    pod_name: str | None
    state: str
    path: str
    created_at: float | None
    started_at: float | None
    finished_at: float | None
    networks: list[dict[str, Any]]
    apps: list[AppInfo]
    pid: int | None
    launcher: int | None
    exit_status: int | None
    exit_reason: str | None
    flavor: str
    isolators: list[dict[str, Any]]
    warnings: list[str]
    restartable: bool
    user_annotations: dict[str, str]
    user_labels: dict[str, str]
    error: str | None = None

    @property
    def exited(self) -> bool:
        """Whether it has run and ended, and was not made ready again."""
        return self.state in {"exited", "exited garbage", "exited deleting"}

    def as_dict(self) -> dict[str, Any]:
        """For JSON: rkt's fields (``name`` is the UUID) and ours."""
        return {
            "name": self.uuid,
            "uuid": self.uuid,
            "pod_name": self.pod_name,
            "state": self.state,
            "networks": self.networks,
            "app_names": [app.name for app in self.apps],
            "apps": [app.as_dict() for app in self.apps],
            "created_at": int(self.created_at) if self.created_at else None,
            "started_at": int(self.started_at) if self.started_at else None,
            "finished_at": int(self.finished_at) if self.finished_at else None,
            "pid": self.pid,
            "exit_status": self.exit_status,
            "exit_reason": self.exit_reason,
            "flavor": self.flavor,
            "isolators": self.isolators,
            "warnings": self.warnings,
            "restartable": self.restartable,
            "user_annotations": self.user_annotations,
            "user_labels": self.user_labels,
            "error": self.error,
        }


def list_pods(paths: Paths) -> list[PodInfo]:
    """Every pod, ordered by UUID; those that are being made or deleted included, garbage not."""
    state.check_format(paths.data)
    found: dict[str, PodInfo] = {}
    for name in _LISTED:
        for uuid in _uuids(paths.data, name):
            pod = load(paths, uuid)
            if pod:
                found[uuid] = pod
    return [found[uuid] for uuid in sorted(found)]


def get(paths: Paths, reference: str) -> PodInfo:
    """The pod that *reference* means: a prefix of its UUID, or its name when that is no hex prefix.

    Raises:
        UsageError: It is empty or means several pods.
        NotFoundError: There is none.
    """
    state.check_format(paths.data)
    uuid = find_uuid(paths, reference)
    pod = load(paths, uuid)
    if pod is None:
        raise NotFoundError(f'no matches found for "{reference}"', hint="gantry list shows all pods")
    return pod


def find_uuid(paths: Paths, reference: str) -> str:
    """Like :func:`get`, only the UUID."""
    wanted = reference.strip().lower()
    if not wanted:
        raise UsageError("UUID cannot be empty", hint="gantry list shows all pods")
    if _HEX.issuperset(wanted):
        found = {uuid for name in _LISTED for uuid in _uuids(paths.data, name) if uuid.startswith(wanted)}
        if len(found) > 1:
            raise UsageError(f"ambiguous uuid, {len(found)} matches", hint="give more of it")
        if found:
            return found.pop()
    named = [pod for pod in list_pods(paths) if pod.pod_name == reference.strip()]
    if not named:
        raise NotFoundError(f'no matches found for "{reference}"', hint="gantry list shows all pods")
    named.sort(key=lambda pod: (pod.state == "running", pod.created_at or 0.0))
    return named[-1].uuid


def _uuids(data: str, name: str) -> list[str]:
    try:
        return [uuid for uuid in os.listdir(f"{data}/pods/{name}") if len(uuid) == 36]
    except OSError:
        return []


def load(paths: Paths, uuid: str) -> PodInfo | None:
    """Read one pod; ``None`` when it is nowhere (any more). A damaged one has ``error`` set."""
    for _ in range(3):  # it may move while we read
        name = state.find(paths.data, uuid)
        if name is None:
            return None
        path = state.directory(paths.data, name, uuid)
        pod = _read(uuid, path, name)
        if os.path.isdir(path):
            return pod
    return None


def _read(uuid: str, path: str, directory: str) -> PodInfo:
    held = state.is_held(path)
    word = _WORDS[directory, held]
    info = state.try_json(f"{path}/info.json")
    # A prepared pod may have one of a start that was cut off before it began.
    launched = (state.try_json(f"{path}/launch.json") or {}) if directory != "prepared" else {}
    sandbox = state.try_json(f"{path}/sandbox.json") or {}
    last = state.try_json(f"{path}/last-exit.json") or {}
    networks = (state.try_json(f"{path}/net-info.json") or {}).get("networks", [])
    manifest = state.try_json(f"{path}/pod") or {}
    error = None
    if info is None and directory != "prepare":
        error = f"{path}/info.json is missing or damaged"
    info = info or {}
    running = word == "running"
    launcher = launched.get("launcher") or {}
    alive = running and namespaces.is_same_process(launcher.get("pid", 0), launcher.get("start", 0))
    ended = last if not running else {}
    return PodInfo(
        uuid=uuid,
        pod_name=info.get("pod_name"),
        state=word,
        path=path,
        created_at=_mtime(f"{path}/pod-created"),
        started_at=launched.get("started_at"),
        finished_at=ended.get("finished_at"),
        networks=networks,
        apps=[
            _app(app, path, word, {"launch": launched, "last": ended, "manifest": manifest})
            for app in info.get("apps", [])
        ],
        pid=sandbox.get("pause_pid") if running else None,
        launcher=launcher.get("pid") if alive else None,
        exit_status=ended.get("status"),
        exit_reason=ended.get("reason"),
        flavor=info.get("flavor", "oci"),
        isolators=info.get("isolators", []),
        warnings=[*info.get("warnings", []), *launched.get("warnings", [])],
        restartable=bool(info.get("restartable")),
        user_annotations=manifest.get("userAnnotations") or {},
        user_labels=manifest.get("userLabels") or {},
        error=error,
    )


def _app(app: dict[str, Any], path: str, word: str, known: dict[str, dict[str, Any]]) -> AppInfo:
    name = app["name"]
    launched, last, manifest = known["launch"], known["last"], known["manifest"]
    started = launched.get("apps", {}).get(name) or {}
    result = state.try_json(f"{path}/status/{name}") or last.get("apps", {}).get(name) or {}
    running = word == "running" and namespaces.is_same_process(started.get("pid", 0), started.get("start", 0))
    if running:
        shown = "running"
    elif "exit_code" in result or word in {"exited", "exited garbage", "exited deleting"}:
        shown = "exited" if result or started else "unknown"
    elif word == "running":
        shown = "exited" if started else "created"
    else:
        shown = "created" if word == "prepared" else "unknown"
    created = _mtime(f"{path}/pod-created")
    entry: dict[str, Any] = next((each for each in manifest.get("apps", []) if each.get("name") == name), {})
    section = entry.get("app") or {}
    return AppInfo(
        name=name,
        state=shown,
        image_id=app["image_id"],
        image_name=app["image_name"],
        created_at=int(created * 1e9) if created else None,
        started_at=started.get("started_at") or result.get("started_at"),
        finished_at=result.get("finished_at"),
        exit_code=result.get("exit_code"),
        signal=result.get("signal"),
        mounts=app["mounts"],
        verification=app.get("verification"),
        user_annotations=section.get("userAnnotations") or {},
        user_labels=section.get("userLabels") or {},
        pid=started.get("pid") if running else None,
    )


def _mtime(path: str) -> float | None:
    try:
        return os.stat(path).st_mtime
    except OSError:
        return None


def manifest_bytes(paths: Paths, reference: str) -> bytes:
    """The reified pod manifest, as it was written.

    Raises:
        NotFoundError: No such pod, or it has none (yet).
    """
    pod = get(paths, reference)
    try:
        with open(f"{pod.path}/pod", "rb") as file:
            content = file.read()
        json.loads(content)
    except (OSError, ValueError) as error:
        raise NotFoundError(f'pod "{pod.uuid}" has no readable manifest: {error}') from error
    return content
