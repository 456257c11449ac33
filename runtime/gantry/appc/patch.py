"""Change some of an image manifest and leave the rest as it is: unknown keys, their order, every number."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, cast

from gantry.appc import document
from gantry.appc.errors import AppcError, ManifestError
from gantry.appc.image_manifest import ImageManifest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gantry.appc.document import JsonObject
    from gantry.appc.parts import MountPoint, Port

RETAIN_CAPABILITIES = "os/linux/capabilities-retain-set"
REMOVE_CAPABILITIES = "os/linux/capabilities-remove-set"
RETAIN_SECCOMP = "os/linux/seccomp-retain-set"
REMOVE_SECCOMP = "os/linux/seccomp-remove-set"
_RIVALS = ((RETAIN_CAPABILITIES, REMOVE_CAPABILITIES), (RETAIN_SECCOMP, REMOVE_SECCOMP))


class PatchError(AppcError):
    """The changes cannot be made."""

    code = "patch"


class ManifestPatch(NamedTuple):
    """What to change; ``None`` leaves a field as it is.

    In the mappings, a value of ``None`` takes the entry away (which need not be there), and any other takes
    the place of the old one, or the last place.

    Attributes:
        name: The image's name (MAN-04).
        labels: By name (MAN-08); new ones are sorted (MAN-42).
        annotations: By name (MAN-37).
        exec: The command's words (MAN-18). It gives an image that has no app one, which root runs.
        user: Who runs the app (MAN-19).
        group: Likewise.
        supplementary_gids: All of them (MAN-20).
        working_directory: Absolute (MAN-23).
        environment: By name (MAN-24).
        mount_points: All of them (MAN-27).
        ports: All of them (MAN-28).
        isolators: Their ``value`` by name (MAN-34).
        only_isolators: Whether all others are taken away.
        event_handlers: Their ``exec`` by name (MAN-21).
        dependencies: All of them, as JSON objects (MAN-35).
        path_whitelist: All of it (MAN-36).
    """

    name: str | None = None
    labels: Mapping[str, str | None] | None = None
    annotations: Mapping[str, str | None] | None = None
    exec: Sequence[str] | None = None
    user: str | None = None
    group: str | None = None
    supplementary_gids: Sequence[int] | None = None
    working_directory: str | None = None
    environment: Mapping[str, str | None] | None = None
    mount_points: Sequence[MountPoint] | None = None
    ports: Sequence[Port] | None = None
    isolators: Mapping[str, object] | None = None
    only_isolators: bool = False
    event_handlers: Mapping[str, Sequence[str] | None] | None = None
    dependencies: Sequence[JsonObject] | None = None
    path_whitelist: Sequence[str] | None = None


def patch_image_manifest(manifest: bytes, patch: ManifestPatch) -> bytes:
    """The manifest with the changes made; unchanged to the byte if there are none.

    Args:
        manifest: An image manifest that parses, forgivingly.
        patch: The changes.

    Raises:
        ManifestError: The manifest is refused.
        PatchError: What became of it, held to what a writer must observe, is refused, and the message says
            where; or a change belongs to an app, and the image has none.
    """
    data = ImageManifest.parse(manifest).data
    if patch == ManifestPatch():
        return manifest
    if patch.name is not None:
        data["name"] = patch.name
    _merge(data, "labels", patch.labels, "value")
    _merge(data, "annotations", patch.annotations, "value")
    if patch.dependencies is not None:
        _replace(data, "dependencies", patch.dependencies)
    if patch.path_whitelist is not None:
        _replace(data, "pathWhitelist", patch.path_whitelist)
    changed = [field for field in _OF_APP if getattr(patch, field) is not None]
    if changed or patch.only_isolators:
        app = data.get("app")
        if app is None and patch.exec is None:
            what = (changed or ["isolators"])[0].replace("_", " ")
            raise PatchError(
                f"the image has no app whose {what} could be changed",
                hint="give it one: set what to execute, too",
            )
        if app is None:
            app = data["app"] = {"exec": [], "user": "0", "group": "0"}
        _patch_app(cast("JsonObject", app), patch)
    try:
        changed_manifest = document.dump(data)
    except ValueError as error:
        raise PatchError(f"a change cannot be written as JSON: {error}", rule="TYP-23,TYP-24") from None
    problem = _problem(changed_manifest)
    if problem is None:
        return changed_manifest
    before = _problem(manifest)
    if before is not None and before.message == problem.message:
        raise PatchError(
            f"the manifest already says what is read, but not written: {problem.message}",
            hint="change that, too",
            rule=problem.rule,
        )
    raise PatchError(
        f"the changed manifest is refused: {problem.message}", hint=problem.hint, rule=problem.rule
    )


def _problem(manifest: bytes) -> ManifestError | None:
    try:
        ImageManifest.parse(manifest, strict=True)
    except ManifestError as error:
        return error
    return None


_OF_APP = (
    "exec",
    "user",
    "group",
    "supplementary_gids",
    "working_directory",
    "environment",
    "mount_points",
    "ports",
    "isolators",
    "event_handlers",
)


def _patch_app(app: JsonObject, patch: ManifestPatch) -> None:
    for key, text in (
        ("user", patch.user),
        ("group", patch.group),
        ("workingDirectory", patch.working_directory),
    ):
        if text is not None:
            app[key] = text
    if patch.exec is not None:
        app["exec"] = list(patch.exec)
    if patch.supplementary_gids is not None:
        _replace(app, "supplementaryGIDs", patch.supplementary_gids)
    _merge(app, "environment", patch.environment, "value")
    _merge(app, "eventHandlers", patch.event_handlers, "exec")
    if patch.mount_points is not None:
        _replace(app, "mountPoints", [_mount_point(each) for each in patch.mount_points])
    if patch.ports is not None:
        _replace(app, "ports", [_port(each) for each in patch.ports])
    if patch.only_isolators:
        _replace(app, "isolators", [])
    _merge(app, "isolators", _with_rivals(patch.isolators or {}), "value")


def _replace(owner: JsonObject, key: str, items: Sequence[object]) -> None:
    """An empty list is no list: the key goes."""
    if items:
        owner[key] = list(items)
    else:
        owner.pop(key, None)


def _merge(owner: JsonObject, key: str, changes: Mapping[str, object] | None, value_key: str) -> None:
    """Change entries of a list of objects that have a ``name``."""
    if not changes:
        return
    kept: list[object] = []
    missing = dict(changes)
    for entry in cast("list[JsonObject]", owner.get(key) or []):
        name = cast("str", entry.get("name"))
        if name not in changes:
            kept.append(entry)
        elif name in missing:  # a second entry of the name goes: the first has the new value
            value = missing.pop(name)
            if value is not None:
                entry[value_key] = _listed(value)
                kept.append(entry)
    for name, value in sorted(missing.items()) if key == "labels" else missing.items():  # MAN-42
        if value is not None:
            kept.append({"name": name, value_key: _listed(value)})
    _replace(owner, key, kept)


def _listed(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def _with_rivals(isolators: Mapping[str, object]) -> Mapping[str, object]:
    """What is set takes the place of what cannot stand beside it (ISO-22, ISO-33)."""
    gone = {
        rival: None
        for pair in _RIVALS
        for name, rival in (pair, pair[::-1])
        if isolators.get(name) is not None and rival not in isolators
    }
    return {**isolators, **gone}


def _mount_point(point: MountPoint) -> JsonObject:
    made: JsonObject = {"name": point.name, "path": point.path}
    if point.read_only:
        made["readOnly"] = True
    return made


def _port(port: Port) -> JsonObject:
    made: JsonObject = {"name": port.name, "protocol": port.protocol, "port": port.port}
    if port.count != 1:
        made["count"] = port.count
    if port.socket_activated:
        made["socketActivated"] = True
    return made
