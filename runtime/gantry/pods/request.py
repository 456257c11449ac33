"""What a caller asks for: a pod before it exists. Plain values, checked by ``prepare``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from gantry.appc.isolators import Isolator
    from gantry.appc.parts import Volume
    from gantry.config import Paths
    from gantry.images import Image, Store


def _ignore(_message: str) -> None:
    return


@dataclass(frozen=True, slots=True)
class PodContext:
    """What the room needs of its surroundings.

    Attributes:
        paths: Where things are.
        store: The image store.
        warn: Told what deserves a warning, one line each.
        by: Who asks, for the audit record, when the caller knows better than the process's user.
    """

    paths: Paths
    store: Store
    warn: Callable[[str], None] = _ignore
    by: str | None = None


@dataclass(frozen=True, slots=True)
class MountRequest:
    """A volume mounted into an app.

    Attributes:
        volume: The volume's name.
        path: Where, in the app.
        read_only: Forbid writing; ``None``: what volume and mount point say.
    """

    volume: str
    path: str
    read_only: bool | None = None


class Creation(NamedTuple):
    """What is made where the source of a host volume is missing; not what leads there.

    Attributes:
        kind: ``directory`` or ``file``, an empty one.
        mode: Its mode.
        uid: Its owner.
        gid: Its group.
    """

    kind: str
    mode: int = 0o755
    uid: int = 0
    gid: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class AppRequest:
    """An app: an image, and what differs from what the image says.

    Attributes:
        image: From the store.
        name: AC Name; from the image's name when ``None`` (POD-35).
        exec: Replaces the whole command line; the image's when ``None``.
        args: Appended to the command line.
        user: Replaces the image's; likewise ``group``.
        supplementary_gids: Replaces the image's.
        working_directory: Replaces the image's.
        environment: Over the image's.
        inherited_environment: Under the image's.
        mounts: Volumes and where they go.
        isolators: Each replaces the image's of its kind (ISO-58).
        read_only_rootfs: The app cannot write to its root.
        annotations: Override the image's of the same name.
        user_annotations: Added to the image's; likewise ``user_labels``.
    """

    image: Image
    name: str | None = None
    exec: Sequence[str] | None = None
    args: Sequence[str] = ()
    user: str | None = None
    group: str | None = None
    supplementary_gids: Sequence[int] | None = None
    working_directory: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    inherited_environment: Mapping[str, str] = field(default_factory=dict)
    mounts: Sequence[MountRequest] = ()
    isolators: Sequence[Isolator] = ()
    read_only_rootfs: bool = False
    annotations: Mapping[str, str] = field(default_factory=dict)
    user_annotations: Mapping[str, str] = field(default_factory=dict)
    user_labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class PortForward:
    """A port of the host that leads into the pod; by *name* of an app's port, or by number.

    Attributes:
        host_port: First port on the host, 1 ... 65535.
        name: AC Name of a port that an app declares.
        pod_port: Port in the pod, instead of the name or over what it says.
        protocol: ``tcp`` or ``udp``; of the declared port, or tcp, when ``None``.
        host_ip: IPv4 address of the host; every one when ``None``.
    """

    host_port: int
    name: str | None = None
    pod_port: int | None = None
    protocol: str | None = None
    host_ip: str | None = None


#: A pod ends when any app has ended; when one has failed, or all have ended; or only when all have ended.
EXIT_POLICIES = ("any", "any-failure", "all")
#: Instead of name servers: the host's own ``resolv.conf``; none that a network brings.
HOST, NONE = "host", "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lookup:
    """How apps find names: what goes into ``resolv.conf`` and ``hosts`` over what their network brings.

    Attributes:
        servers: Addresses of name servers; or :data:`HOST` or :data:`NONE` alone.
        search: Domains in which names without dots are looked for.
        options: Of the resolver.
        domain: The local domain.
        hosts: Address and name.
        hosts_of_host: Apps see the host's ``hosts``.
    """

    servers: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    domain: str | None = None
    hosts: tuple[tuple[str, str], ...] = ()
    hosts_of_host: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PodRequest:
    """A pod.

    Attributes:
        apps: At least one.
        volumes: Of the pod.
        create: By the name of a host volume, what to make where its source is missing.
        ports: Of the host that lead into it.
        networks: ``["default"]``, ``["none"]`` or ``["host"]``.
        hostname: ``gantry-UUID``, or the host's own with its network, when ``None``.
        lookup: How its apps find names.
        pod_name: The stable name it runs under, if it is a named pod's release.
        isolators: Limits of the pod as a whole.
        annotations: Of the pod.
        user_annotations: Of the pod; likewise ``user_labels``.
        restartable: When it ends it is prepared again, with the same UUID and identity.
        stop_timeout: Seconds between SIGTERM and SIGKILL.
        flavor: How apps are isolated: ``oci``, ``fly``, or the name of a flavor that is installed.
        strict: Refuse the pod unless every isolator is enforced as it stands (ISO-05).
        exit_policy: Which app's end ends the pod, see :data:`EXIT_POLICIES`.
        interactive: Its one app has the launcher's terminal, or input.
        manifest: A pod manifest to run instead of *apps*, *volumes*, *ports* and what else it says; every
            app names its image by ID.
    """

    apps: Sequence[AppRequest] = ()
    volumes: Sequence[Volume] = ()
    create: Mapping[str, Creation] = field(default_factory=dict)
    ports: Sequence[PortForward] = ()
    networks: Sequence[str] = ("default",)
    hostname: str | None = None
    lookup: Lookup = Lookup()
    pod_name: str | None = None
    isolators: Sequence[Isolator] = ()
    annotations: Mapping[str, str] = field(default_factory=dict)
    user_annotations: Mapping[str, str] = field(default_factory=dict)
    user_labels: Mapping[str, str] = field(default_factory=dict)
    restartable: bool = False
    stop_timeout: float = 10.0
    flavor: str = "oci"
    strict: bool = False
    exit_policy: str = "any-failure"
    interactive: bool = False
    manifest: bytes | None = None


JsonObject = dict[str, Any]
