"""What a named pod should be: the part of a desired-state document that describes one pod.

The types are checked by msgspec (unknown fields are refused, an error names the JSON path) and then by
:func:`check`, for what types cannot say. A spec is written to disk with its environment values, so everything
that shows one to a person goes through :func:`masked`.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any, Literal

import msgspec

from gantry.errors import UsageError
from gantry.http import public_url
from gantry.pods.etc import is_address, is_word
from gantry.pods.request import HOST, NONE

NAME = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")
_HOSTNAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_NETWORK = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
MASK = "********"

Restart = Literal["always", "on-failure", "never"]
ExitPolicy = Literal["any", "any-failure", "all"]


class SpecError(UsageError):
    """A desired state that cannot be meant."""

    code = "document"


class _Strict(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    pass


class Mount(_Strict):
    """Where a volume appears inside an app.

    Attributes:
        volume: Name of a volume of the pod.
        path: Absolute path inside the app.
        read_only: Forbid writing there; what the volume says when absent.
    """

    volume: str
    path: str
    read_only: bool | None = None


class Volume(_Strict):
    """A volume of the pod.

    Attributes:
        name: What mounts call it.
        kind: ``host`` (a path of the host) or ``empty`` (lives as long as the pod).
        source: For ``host``: absolute path on the host.
        read_only: Forbid writing.
        recursive: For ``host``: with everything mounted below the source.
        create: For ``host``: make a source that is missing; ``directory`` or ``file``.
        mode: For ``empty`` and what is made: octal text.
        uid: For ``empty`` and what is made: owner.
        gid: For ``empty`` and what is made: group.
    """

    name: str
    kind: Literal["host", "empty"]
    source: str | None = None
    read_only: bool = False
    recursive: bool = True
    create: Literal["directory", "file"] | None = None
    mode: str = "0755"
    uid: int = 0
    gid: int = 0


class Port(_Strict):
    """A port of the host that leads into the pod.

    Attributes:
        name: Name of a port that an app's image declares; or
        pod_port: its number.
        host_port: Port on the host.
        host_ip: Address on the host; every address when absent.
        protocol: For ``pod_port``: ``tcp`` or ``udp``.
    """

    host_port: int
    name: str | None = None
    pod_port: int | None = None
    host_ip: str | None = None
    protocol: Literal["tcp", "udp"] | None = None


class App(_Strict):
    """One app of the pod.

    Attributes:
        image: Image name (``example.com/app:1.0``), image ID, absolute path or https URL.
        name: Name of the app; the last part of the image's name when absent.
        exec: Replaces the image's command line.
        args: Appended to the command line.
        user: Name, number, or path of a file in the image whose owner it is.
        group: Likewise.
        supplementary_gids: Further groups.
        working_directory: Absolute path inside the app.
        environment: Variables, over the image's. Never shown in results.
        mounts: Where volumes appear.
        memory: Limit, as a quantity (``64Mi``).
        cpu: Limit in cores, as a quantity (``500m``).
        cpu_shares: Relative weight.
        caps_retain: Keep only these capabilities; or
        caps_remove: take these away.
        oom_score_adj: -1000 to 1000.
        read_only_rootfs: The app cannot write to its root.
        annotations: Of the app in this pod.
        user_annotations: Of the app.
        user_labels: Of the app.
    """

    image: str
    name: str | None = None
    exec: list[str] | None = None
    args: list[str] = []
    user: str | None = None
    group: str | None = None
    supplementary_gids: list[int] = []
    working_directory: str | None = None
    environment: dict[str, Any] = {}
    mounts: list[Mount] = []
    memory: str | None = None
    cpu: str | None = None
    cpu_shares: int | None = None
    caps_retain: list[str] | None = None
    caps_remove: list[str] | None = None
    oom_score_adj: int | None = None
    read_only_rootfs: bool = False
    annotations: dict[str, Any] = {}
    user_annotations: dict[str, Any] = {}
    user_labels: dict[str, Any] = {}


class PodSpec(_Strict):
    """A named pod.

    Attributes:
        name: Lower-case letters, digits and single hyphens; the unit is ``gantry-NAME.service``.
        apps: The apps; at least one.
        net: ``default``, ``none`` or ``host``; or networks that are configured on the host.
        ports: Ports of the host that lead into the pod.
        volumes: Volumes of the pod.
        hostname: Inside the pod.
        dns: Addresses of name servers; or ``host`` alone, the host's own file; or ``none``.
        dns_search: Domains in which names without dots are looked for.
        dns_options: Of the resolver.
        dns_domain: The local domain.
        etc_hosts: Address by name, in ``/etc/hosts`` of the apps.
        annotations: Of the pod.
        user_labels: Of the pod.
        flavor: How apps are isolated: ``oci``, ``fly``, or one that is installed.
        strict: Refuse the pod unless every isolator is enforced as it stands.
        exit_policy: Which app's end ends the pod: ``any``, ``any-failure`` or ``all``.
        restart: When systemd starts the pod again by itself.
        restart_delay: Seconds before it does.
        stop_timeout: Seconds that the apps have to end when asked to.
        settle: Seconds for which a new release must keep running before the old one is given up.
    """

    name: str
    apps: list[App]
    net: list[str] = msgspec.field(default_factory=lambda: ["default"])
    ports: list[Port] = []
    volumes: list[Volume] = []
    hostname: str | None = None
    dns: list[str] = []
    dns_search: list[str] = []
    dns_options: list[str] = []
    dns_domain: str | None = None
    etc_hosts: dict[str, str] = {}
    annotations: dict[str, Any] = {}
    user_labels: dict[str, Any] = {}
    flavor: str = "oci"
    strict: bool = False
    exit_policy: ExitPolicy = "any-failure"
    restart: Restart = "always"
    restart_delay: float = 1.0
    stop_timeout: float = 10.0
    settle: float = 1.0


# What changes how the unit is written but not what runs: a new value needs no new pod.
_UNIT_FIELDS = ("restart", "restart_delay", "stop_timeout", "settle")


def check_name(name: str) -> str:
    """*name*, when a pod can be called that.

    Raises:
        SpecError: It cannot.
    """
    if not NAME.fullmatch(name) or len(name) > 63:
        raise SpecError(
            f'"{name}" cannot be the name of a pod',
            hint="use lower-case letters, digits and single hyphens, at most 63 characters",
        )
    return name


def check(spec: PodSpec, where: str = "$") -> PodSpec:
    """*spec*, when it can be meant.

    Args:
        spec: The pod.
        where: JSON path of the pod in its document, for messages.

    Raises:
        SpecError: It cannot; the message begins with the JSON path.
    """
    _that(bool(NAME.fullmatch(spec.name)) and len(spec.name) <= 63, f"{where}.name", _NAME_RULE)
    _that(bool(spec.apps), f"{where}.apps", "a pod needs at least one app")
    for i, app in enumerate(spec.apps):
        _check_app(app, {v.name for v in spec.volumes}, f"{where}.apps[{i}]")
    for i, volume in enumerate(spec.volumes):
        _check_volume(volume, f"{where}.volumes[{i}]")
    _unique([v.name for v in spec.volumes], f"{where}.volumes", "volume")
    _that(
        spec.hostname is None or bool(_HOSTNAME.fullmatch(spec.hostname)),
        f"{where}.hostname",
        "must be letters, digits, hyphens and dots, at most 64",
    )
    _unique([a.name for a in spec.apps if a.name], f"{where}.apps", "app")
    _check_network(spec, where)
    _check_lookup(spec, where)
    _check_texts(spec.annotations, f"{where}.annotations")
    _check_texts(spec.user_labels, f"{where}.user_labels")
    for field in ("restart_delay", "stop_timeout", "settle"):
        _that(0 <= getattr(spec, field) <= 86400, f"{where}.{field}", "must be between 0 and 86400 seconds")
    return spec


def _check_lookup(spec: PodSpec, where: str) -> None:
    if spec.dns not in ([HOST], [NONE]):
        for i, server in enumerate(spec.dns):
            _that(is_address(server), f"{where}.dns[{i}]", "must be an IP address; or alone, host or none")
    said = bool(spec.dns_search or spec.dns_options or spec.dns_domain)
    _that(spec.dns != [HOST] or not said, f"{where}.dns", "is the host's own file, to which nothing is added")
    for field in ("dns_search", "dns_options"):
        for i, word in enumerate(getattr(spec, field)):
            _that(is_word(word), f"{where}.{field}[{i}]", "must be one word without blanks")
    _that(spec.dns_domain is None or is_word(spec.dns_domain), f"{where}.dns_domain", "must be one word")
    for name, address in spec.etc_hosts.items():
        _that(is_word(name), f"{where}.etc_hosts", "a name must be one word")
        _that(is_address(address), f"{where}.etc_hosts.{name}", "must be an IP address")


_NAME_RULE = "must be lower-case letters, digits and single hyphens, at most 63 characters"


def _that(true: bool, where: str, rule: str) -> None:
    if not true:
        raise SpecError(f"{where}: {rule}")


def _unique(names: list[str], where: str, what: str) -> None:
    for name in names:
        _that(names.count(name) == 1, where, f'two of them are called "{name}"; {what} names must differ')


def _check_app(app: App, volumes: set[str], where: str) -> None:
    _that(bool(app.image), f"{where}.image", "must not be empty")
    _that(app.exec is None or bool(app.exec), f"{where}.exec", "must not be empty; leave it out")
    for field in ("exec", "args"):
        for i, word in enumerate(getattr(app, field) or []):
            _that("\0" not in word, f"{where}.{field}[{i}]", "must not hold a NUL character")
            _that(_fits(word), f"{where}.{field}[{i}]", _TOO_LONG)
    for name in app.environment:
        _that(bool(name) and "=" not in name and "\0" not in name, f"{where}.environment", _VARIABLE_RULE)
    for field in ("environment", "annotations", "user_annotations", "user_labels"):
        _check_texts(getattr(app, field), f"{where}.{field}")
    for name, value in app.environment.items():
        _that(_fits(f"{name}={value}"), f"{where}.environment.{name}", _TOO_LONG)
    for i, mount in enumerate(app.mounts):
        _that(mount.volume in volumes, f"{where}.mounts[{i}].volume", f'no volume is called "{mount.volume}"')
        _that(mount.path.startswith("/"), f"{where}.mounts[{i}].path", "must be an absolute path")
    _that(
        app.caps_retain is None or app.caps_remove is None,
        where,
        "cannot use both caps_retain and caps_remove on the same image",
    )


# The kernel's MAX_ARG_STRLEN, with the NUL at the end.
_LONGEST = 128 * 1024 - 1
_TOO_LONG = f"is longer than the {_LONGEST} bytes that the kernel passes to a program"


def _fits(word: str) -> bool:
    return len(word.encode("utf-8", "surrogateescape")) <= _LONGEST


_VARIABLE_RULE = 'the name of a variable must not be empty and not hold "=" or NUL'


def _check_texts(texts: dict[str, Any], where: str) -> None:
    # The value is not part of the message: it may be a secret.
    for name, value in texts.items():
        kind = type(value).__name__
        _that(isinstance(value, str), f"{where}.{name}", f"must be text, not {kind}; put it in quotes")
        _that("\0" not in value, f"{where}.{name}", "must not hold a NUL character")


def _check_volume(volume: Volume, where: str) -> None:
    if volume.kind == "host":
        _that(bool(volume.source), f"{where}.source", "a volume of kind host needs a source")
        _that(str(volume.source).startswith("/"), f"{where}.source", "must be an absolute path")
    else:
        _that(volume.source is None, f"{where}.source", "a volume of kind empty has no source")
        _that(volume.create is None, f"{where}.create", "a volume of kind empty is made anyway")
    _that(bool(re.fullmatch("[0-7]{3,4}", volume.mode)), f"{where}.mode", 'must be octal, such as "0755"')


def _check_network(spec: PodSpec, where: str) -> None:
    _that(bool(spec.net), f"{where}.net", "name at least one network")
    names = [network.partition(":")[0] for network in spec.net]
    for i, name in enumerate(names):
        # Which networks are configured, the host knows.
        _that(bool(_NETWORK.fullmatch(name)), f"{where}.net[{i}]", f'no network is called "{name}"')
        _that(names.count(name) == 1, f"{where}.net", f'"{name}" is listed twice')
        _that(
            name not in {"none", "host", "all"} or len(names) == 1,
            f"{where}.net",
            f'"{name}" cannot be combined with others',
        )
    if spec.ports:
        _that(
            names[0] not in {"none", "host"},
            f"{where}.ports",
            f"cannot be forwarded with the network {spec.net[0]}",
        )
    for i, port in enumerate(spec.ports):
        here = f"{where}.ports[{i}]"
        _that((port.name is None) != (port.pod_port is None), here, "needs either name or pod_port")
        _that(0 < port.host_port < 65536, f"{here}.host_port", "must be between 1 and 65535")
        _that(port.pod_port is None or 0 < port.pod_port < 65536, f"{here}.pod_port", "must be 1 to 65535")


def canonical(spec: PodSpec) -> bytes:
    """The one JSON text of *spec*: keys in order, defaults left out. Holds secrets."""
    return msgspec.json.encode(spec, order="deterministic")


def release_id(spec: PodSpec, images: dict[str, str]) -> str:
    """The name of the release that runs *spec* with these images: 64 hex digits over its content.

    Settings that only the unit carries are left out, so that changing one of them needs no new pod.

    Args:
        spec: The pod.
        images: Image ID of every image as the spec calls it.
    """
    content: dict[str, Any] = msgspec.json.decode(canonical(spec))
    for field in _UNIT_FIELDS:
        content.pop(field, None)
    document = {"spec": content, "images": images}
    return hashlib.sha256(msgspec.json.encode(document, order="deterministic")).hexdigest()


def masked(spec: PodSpec | None, other: PodSpec | None = None) -> dict[str, Any] | None:
    """*spec* as it may be shown: environment values are masked; those that *other* lacks are marked.

    Args:
        spec: The pod, or ``None``.
        other: The state that it is compared with.
    """
    if spec is None:
        return None
    shown: dict[str, Any] = msgspec.json.decode(canonical(spec))
    mine = [app.environment for app in spec.apps]
    theirs = [app.environment for app in other.apps] if other is not None else []
    for i, app in enumerate(shown["apps"]):
        app["image"] = public_url(app["image"])
        if "environment" not in app:
            continue
        against = theirs[i] if i < len(theirs) else {}
        app["environment"] = {
            name: MASK if other is None or against.get(name) == mine[i][name] else f"{MASK} (differs)"
            for name in app["environment"]
        }
    return shown
