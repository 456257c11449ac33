"""The pod manifest (POD-05 ... POD-31)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gantry.appc import document, version
from gantry.appc.app import App, read_app
from gantry.appc.document import JsonObject, Note
from gantry.appc.errors import ManifestError
from gantry.appc.image_manifest import check_kind, read_image_id
from gantry.appc.isolators import IsolatorList, read_list
from gantry.appc.names import ac_identifier, ac_name
from gantry.appc.parts import MAX_PORT, Port, Volume, read_annotations, read_labels, read_port, read_volume
from gantry.appc.reading import Obj, Reading

if TYPE_CHECKING:
    from gantry.appc.imageid import ImageID
    from gantry.appc.version import AcVersion

KIND = "PodManifest"


@dataclass(frozen=True, slots=True)
class RuntimeImage:
    """The image of an app in a pod (POD-13, POD-14).

    Attributes:
        id: Its ID (may be rkt's half form), or ``None`` in a template.
        name: Its name, or ``None``.
        labels: Its labels.
    """

    id: ImageID | None
    name: str | None
    labels: dict[str, str]


@dataclass(frozen=True, slots=True)
class Mount:
    """A volume mounted into an app (POD-17, POD-18).

    Attributes:
        volume: The volume's name.
        path: Where in the app's root.
        app_volume: A volume that replaces the lookup by name, or ``None``.
    """

    volume: str
    path: str
    app_volume: Volume | None


@dataclass(frozen=True, slots=True)
class RuntimeApp:
    """An app of a pod.

    Attributes:
        name: AC Name, unique in the pod.
        image: What it runs.
        app: Replaces the image's ``app`` as a whole, or ``None`` (POD-15).
        read_only_rootfs: Whether its root is read-only.
        mounts: Volumes and where they go.
        annotations: Override the image's of the same name (POD-20).
        data: The JSON object.
    """

    name: str
    image: RuntimeImage
    app: App | None
    read_only_rootfs: bool
    mounts: tuple[Mount, ...]
    annotations: dict[str, str]
    data: JsonObject = field(compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class ExposedPort:
    """A port of the pod that is reachable on the host (POD-22 ... POD-27).

    Attributes:
        name: Key of a port of one of the apps.
        host_port: First port on the host.
        host_ip: IPv4 address to listen on; ``None`` for all.
        pod_port: Replaces the lookup by name, or ``None``.
    """

    name: str
    host_port: int
    host_ip: str | None
    pod_port: Port | None


@dataclass(frozen=True, slots=True)
class PodManifest:
    """A pod manifest: typed fields over the JSON it came from. Do not change :attr:`data`.

    Attributes:
        raw: The bytes it was read from, unchanged.
        data: The JSON object, unknown keys and order kept, keys in the specification's spelling.
        notes: What was odd but acceptable.
        ac_version: The version it names; rkt wrote its own one here (POD-09).
        apps: The apps in their order.
        volumes: The volumes in their order.
        isolators: Limits of the pod as a whole.
        annotations: Annotations of the pod.
        ports: Ports exposed on the host.
        user_annotations: Free text; never changes how anything runs.
        user_labels: Likewise.
    """

    raw: bytes = field(repr=False)
    data: JsonObject = field(compare=False, repr=False)
    notes: tuple[Note, ...] = field(compare=False, repr=False)
    ac_version: AcVersion
    apps: tuple[RuntimeApp, ...]
    volumes: tuple[Volume, ...]
    isolators: IsolatorList
    annotations: dict[str, str]
    ports: tuple[ExposedPort, ...]
    user_annotations: dict[str, str]
    user_labels: dict[str, str]

    @classmethod
    def parse(cls, raw: bytes, *, strict: bool = False, max_bytes: int = document.MAX_BYTES) -> PodManifest:
        """Read a pod manifest or a template of one.

        Args:
            raw: The document.
            strict: Hold it to what a *writer* must observe; for manifests that we make.
            max_bytes: The bound on its size (TRAP-33).

        Raises:
            ManifestError: It is no pod manifest, or malformed; carries path or line and column, and rule.
        """
        data, notes = document.load(raw, max_bytes=max_bytes)
        root = Obj(data, "$", Reading(strict=strict, notes=notes))
        check_kind(root, KIND, "POD-08")
        found = root.checked("acVersion", "POD-09", lambda text: version.parse(text, strict=strict))
        if found.newer_than_ours:
            root.reading.note("$.acVersion", f"acVersion {found.text} is newer than Gantry's", "POD-09")
        root.require("apps", "POD-10")
        manifest = cls(
            raw=raw,
            data=data,
            notes=(),
            ac_version=found,
            apps=_read_apps(root),
            volumes=_read_volumes(root),
            isolators=read_list(root, "isolators", "pod"),
            annotations=read_annotations(root),
            ports=tuple(_read_exposed_port(each) for each in root.objects("ports", "POD-23")),
            user_annotations=root.string_map("userAnnotations", "POD-29"),
            user_labels=root.string_map("userLabels", "POD-29"),
        )
        object.__setattr__(manifest, "notes", tuple(root.reading.notes))
        return manifest

    @classmethod
    def from_object(cls, data: JsonObject, *, strict: bool = True) -> PodManifest:
        """Check a manifest that a program made; *data* itself is not changed.

        Raises:
            ManifestError: It is malformed.
        """
        return cls.parse(document.dump(data), strict=strict)

    def dump(self) -> bytes:
        """The manifest as compact JSON; everything that was read is in it, repeated keys excepted."""
        return document.dump(self.data)

    def app(self, name: str) -> RuntimeApp | None:
        """The app called *name*, or ``None``."""
        return next((app for app in self.apps if app.name == name), None)

    def volume(self, name: str) -> Volume | None:
        """The volume called *name*, or ``None``."""
        return next((volume for volume in self.volumes if volume.name == name), None)

    def check_reified(self) -> None:
        """Refuse a template: every app must name its image by its full ID, and there must be one (POD-05).

        Whether mount points are satisfied depends on the images and is checked by whoever has them.

        Raises:
            ManifestError: Something is still open (TRAP-07), or an ID is rkt's half form (SIG-04).
        """
        if not self.apps:
            raise ManifestError("the pod has no apps", path="$.apps", rule="POD-10")
        for index, app in enumerate(self.apps):
            path = f"$.apps[{index}].image.id"
            if app.image.id is None:
                raise ManifestError(
                    f'the image of app "{app.name}" has no ID', path=path, rule="POD-13,TRAP-07",
                    hint="this is a template; prepare it first",
                )  # fmt: skip
            if not app.image.id.is_full:
                raise ManifestError(
                    f'the image ID of app "{app.name}" is only half a digest', path=path, rule="SIG-04"
                )


def _read_apps(root: Obj) -> tuple[RuntimeApp, ...]:
    apps: dict[str, RuntimeApp] = {}
    for node in root.objects("apps", "POD-10"):
        app = _read_runtime_app(node)
        if app.name in apps:
            node.fail(f'there are two apps called "{app.name}"', key="name", rule="POD-11")
        apps[app.name] = app
    return tuple(apps.values())


def _read_runtime_app(node: Obj) -> RuntimeApp:
    strict = node.reading.strict
    name = node.checked("name", "POD-11", lambda text: ac_name(text, what="app name", strict=strict))
    image = node.child("image", "POD-13")
    if image is None:
        node.fail('"image" is required and missing', rule="POD-13")
    override = node.child("app", "POD-15")
    return RuntimeApp(
        name=name,
        image=RuntimeImage(
            id=read_image_id(image, "id", "POD-13"),
            name=image.optional_checked(
                "name", "POD-14", lambda text: ac_identifier(text, what="image name", strict=strict)
            ),
            labels=read_labels(image),
        ),
        app=None if override is None else read_app(override),
        read_only_rootfs=node.boolean("readOnlyRootFS", "POD-16") or False,
        mounts=tuple(_read_mount(each) for each in node.objects("mounts", "POD-17")),
        annotations=read_annotations(node),
        data=node.data,
    )


def _read_mount(node: Obj) -> Mount:
    strict = node.reading.strict
    volume = node.checked("volume", "POD-17", lambda text: ac_name(text, what="volume name", strict=strict))
    path = node.string("path", "POD-17")
    if not path:
        node.fail('"path" is empty', key="path", rule="POD-17")
    own = node.child("appVolume", "POD-18")
    return Mount(volume, path, None if own is None else read_volume(own))


def _read_volumes(root: Obj) -> tuple[Volume, ...]:
    volumes: dict[str, Volume] = {}
    for node in root.objects("volumes", "VOL-02"):
        volume = read_volume(node)
        if volume.name in volumes:
            node.fail(f'there are two volumes called "{volume.name}"', key="name", rule="POD-30")
        volumes[volume.name] = volume
    return tuple(volumes.values())


def _read_exposed_port(node: Obj) -> ExposedPort:
    strict = node.reading.strict
    name = node.checked("name", "POD-23", lambda text: ac_name(text, what="port name", strict=strict))
    node.require("hostPort", "POD-25")
    host_port = node.integer("hostPort", "POD-25", low=1, high=MAX_PORT) or 0
    pod_port = node.child("podPort", "POD-27")
    host_ip = node.optional_string("hostIP", "POD-26") or None
    if host_ip is not None and not _is_ipv4(host_ip):
        node.fail(f'"{host_ip}" is not an IPv4 address', key="hostIP", rule="POD-26")
    return ExposedPort(name, host_port, host_ip, None if pod_port is None else read_port(pod_port))


def _is_ipv4(text: str) -> bool:
    parts = text.split(".")
    return len(parts) == 4 and all(
        part.isascii() and part.isdigit() and len(part) <= 3 and int(part) <= 255 and str(int(part)) == part
        for part in parts
    )
