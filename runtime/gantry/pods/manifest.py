"""From a request to a pod manifest, and from a manifest to a reified one (POD-05). Pure."""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING, NamedTuple

from gantry import APPC_VERSION
from gantry.appc.isolators import IsolatorList
from gantry.appc.manifest import PodManifest
from gantry.appc.names import ac_name, default_app_name
from gantry.appc.parts import Volume
from gantry.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gantry.appc.manifest import App, ImageManifest, Mount, MountPoint, RuntimeApp
    from gantry.pods.request import AppRequest, JsonObject, PodRequest, PortForward

MUTABLE = "coreos.com/rkt/stage1/mutable"


class AppMount(NamedTuple):
    """A volume in an app.

    Attributes:
        volume: What is mounted.
        key: Name of the directory of an empty volume; the same for all apps that share it.
        path: Where, as written.
        read_only: Whether this mount is (VOL-10, VOL-11).
        implicit: Made for a mount point that nothing satisfied: begins as a copy of what the image has there.
    """

    volume: Volume
    key: str
    path: str
    read_only: bool
    implicit: bool


class AppInPod:
    """An app of a reified pod with everything that belongs to it.

    Attributes:
        name: In the pod.
        image_id: Full.
        image_name: Of the image, with its version if it has one.
        image: The image's manifest.
        app: What is executed: the pod's override, or the image's.
        read_only: Whether its root is.
        mounts: Every mount, those of mount points included.
        annotations: Image's and pod's merged (MDS-10, MDS-23).
    """

    __slots__ = ("annotations", "app", "image", "image_id", "image_name", "mounts", "name", "read_only")

    def __init__(self, runtime: RuntimeApp, image: ImageManifest, app: App) -> None:
        self.name = runtime.name
        self.image_id = str(runtime.image.id)
        self.image = image
        version = image.label("version")
        self.image_name = f"{image.name}:{version}" if version else image.name
        self.app = app
        self.read_only = runtime.read_only_rootfs
        self.mounts: list[AppMount] = []
        self.annotations = {**image.annotations, **runtime.annotations}

    @property
    def from_docker(self) -> bool:
        """Whether the image was converted from a Docker image."""
        return "appc.io/docker/repository" in self.image.annotations


def build(request: PodRequest, images: Mapping[str, ImageManifest]) -> JsonObject:
    """The manifest of a request, not yet reified.

    Args:
        request: What was asked for.
        images: Image manifests by image ID.

    Raises:
        UsageError: The request contradicts itself.
    """
    apps = [_app(app, images[str(app.image.id)]) for app in request.apps]
    names = [entry["name"] for entry in apps]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"multiple apps with name {name}", hint="give each app a --name of its own")
    return {
        "acVersion": APPC_VERSION,
        "acKind": "PodManifest",
        "apps": apps,
        "volumes": [volume.as_object() for volume in request.volumes],
        "isolators": [item.data for item in request.isolators],
        "annotations": _pairs({**request.annotations, MUTABLE: "false"}),
        "ports": [_port(port) for port in request.ports],
        "userAnnotations": dict(request.user_annotations),
        "userLabels": dict(request.user_labels),
    }


def _pairs(values: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"name": name, "value": value} for name, value in values.items()]


def _app(request: AppRequest, image: ImageManifest) -> JsonObject:
    name = ac_name(request.name, what="app name") if request.name else default_app_name(image.name)
    entry: JsonObject = {
        "name": name,
        "image": {"name": image.name, "id": str(request.image.id), "labels": _pairs(image.labels)},
        "app": _override(request, image),
        "readOnlyRootFS": request.read_only_rootfs,
        "mounts": [{"volume": mount.volume, "path": mount.path} for mount in request.mounts],
        "annotations": _pairs(request.annotations),
    }
    for mount, written in zip(request.mounts, entry["mounts"], strict=True):
        if mount.read_only:
            written["readOnly"] = True  # ours; others ignore it
    return entry


def _override(request: AppRequest, image: ImageManifest) -> JsonObject:
    if image.app is None and request.exec is None:
        raise UsageError(
            f'image "{image.name}" has no app section: there is nothing to run (try --exec=BINARY)',
            hint="give --exec, --user and --group",
        )
    data: JsonObject = dict(image.app.data) if image.app else {"user": "0", "group": "0"}
    words = list(request.exec) if request.exec is not None else list(data.get("exec") or [])
    data["exec"] = [*words, *request.args]
    for key, value in (
        ("user", request.user),
        ("group", request.group),
        ("workingDirectory", request.working_directory),
    ):
        if value is not None:
            data[key] = value
    if request.supplementary_gids is not None:
        data["supplementaryGIDs"] = list(request.supplementary_gids)
    environment = dict(request.inherited_environment)
    if image.app:
        environment |= dict(image.app.environment)
    environment |= request.environment
    if environment:
        data["environment"] = _pairs(environment)
    if request.isolators:
        isolators = image.app.isolators if image.app else IsolatorList()
        for item in request.isolators:
            isolators = isolators.override(item)
        data["isolators"] = [item.data for item in isolators]
    for key, added in (("userAnnotations", request.user_annotations), ("userLabels", request.user_labels)):
        if added:
            data[key] = {**(data.get(key) or {}), **added}
    return data


def _port(port: PortForward) -> JsonObject:
    entry: JsonObject = {"hostPort": port.host_port}
    if port.host_ip:
        entry["hostIP"] = port.host_ip
    if port.pod_port is not None:
        protocol = port.protocol or "tcp"
        entry["name"] = port.name or f"{protocol}-{port.pod_port}"
        entry["podPort"] = {"name": entry["name"], "protocol": protocol, "port": port.pod_port}
    elif port.name:
        entry["name"] = port.name
    else:
        raise UsageError(
            f"the forward of host port {port.host_port} names no port of the pod",
            hint="give its name or number",
        )
    return entry


def reify(
    data: JsonObject, images: Mapping[str, ImageManifest], *, warn: Callable[[str], None]
) -> tuple[PodManifest, list[AppInPod]]:
    """Satisfy every mount point and check the result (POD-05, VOL-13 ... VOL-16).

    A mount point that nothing satisfies gets an empty volume of its own, as in rkt, with a warning.

    Args:
        data: The manifest; completed in place.
        images: Image manifests by image ID.
        warn: Told what was added.

    Raises:
        ManifestError: The manifest is malformed.
        UsageError: A mount names no volume, or there is nothing to run.
    """
    manifest = PodManifest.from_object(data, strict=False)
    manifest.check_reified()
    apps: list[AppInPod] = []
    for runtime, entry in zip(manifest.apps, data["apps"], strict=True):
        image = images[str(runtime.image.id)]
        app = runtime.app or image.app
        if app is None or not app.exec:
            raise UsageError(f'image "{image.name}" has an empty "exec" (try --exec=BINARY)')
        found = AppInPod(runtime, image, app)
        points = {posixpath.normpath(point.path): point for point in app.mount_points}
        written = entry.get("mounts") or []
        for mount, raw in zip(runtime.mounts, written, strict=True):
            found.mounts.append(_explicit(manifest, runtime.name, mount, raw, points))
        explicit = {posixpath.normpath(mount.path) for mount in found.mounts}
        for path, point in points.items():
            if path in explicit:
                continue
            volume = manifest.volume(point.name)
            implicit = volume is None
            if volume is None:
                volume = _implicit(data, runtime.name, point.name)
                entry["mounts"] = [*(entry.get("mounts") or []), {"volume": volume.name, "path": point.path}]
                warn(
                    f'mount point "{point.name}" ({point.path}) of app "{runtime.name}" has no volume: '
                    "an empty one is made"
                )
            read_only = bool(volume.read_only or point.read_only)
            found.mounts.append(AppMount(volume, volume.name, point.path, read_only, implicit))
        apps.append(found)
    return PodManifest.from_object(data, strict=False), apps


def _explicit(
    manifest: PodManifest, app: str, mount: Mount, raw: JsonObject, points: Mapping[str, MountPoint]
) -> AppMount:
    volume = mount.app_volume or manifest.volume(mount.volume)
    if volume is None:
        raise UsageError(
            f'dangling mount point "{mount.path}": volume "{mount.volume}" not found',
            hint=f"define it: --volume {mount.volume},kind=host,source=/PATH",
        )
    point = points.get(posixpath.normpath(mount.path))
    read_only = bool(volume.read_only or raw.get("readOnly") or (point and point.read_only))
    # An AC Name has no point in it: an app's own volume never meets one of the pod's.
    key = volume.name if mount.app_volume is None else f"{app}.{volume.name}"
    return AppMount(volume, key, mount.path, read_only, implicit=False)


def _implicit(data: JsonObject, app: str, point: str) -> Volume:
    volume = Volume(f"{app}-{point}", "empty")
    data["volumes"] = [*(data.get("volumes") or []), volume.as_object()]
    return volume
