"""Parts that manifests share: volumes, mount points, ports, event handlers, labels, annotations.

Volumes, mount points and ports have a written form, too, as the command line takes it (VOL-30, VOL-31):
``data,kind=host,source=/srv/data,readOnly=true``. Values in it are literal; a comma cannot be part of one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from gantry.appc import arch
from gantry.appc.errors import AppcError, ManifestError
from gantry.appc.names import ac_identifier, ac_name
from gantry.appc.values import octal_mode, timestamp, web_url

if TYPE_CHECKING:
    from collections.abc import Callable

    from gantry.appc.reading import Obj

DEFAULT_MODE = 0o755
MAX_ID = 2**32 - 2  # the highest user or group number; one more means "no change" to the kernel
MAX_PORT = 65535

_CHECKED_ANNOTATIONS: dict[str, Callable[[str], str]] = {
    "created": timestamp,
    "homepage": web_url,
    "documentation": web_url,
}
_BOOLEANS = dict.fromkeys(("1", "t", "T", "TRUE", "true", "True"), True) | dict.fromkeys(
    ("0", "f", "F", "FALSE", "false", "False"), False
)


class PartError(AppcError):
    """The written form of a volume, mount point or port was refused."""

    code = "part"


class EventHandler(NamedTuple):
    """A command that runs before an app starts or after it has ended (MAN-21).

    Attributes:
        name: ``pre-start`` or ``post-stop``.
        exec: Its words, taken literally.
    """

    name: str
    exec: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MountPoint:
    """A place in an app's root where a volume is expected (MAN-27).

    Attributes:
        name: AC Name; a volume of this name satisfies it.
        path: Where in the app's root.
        read_only: Whether this mount is read-only whatever the volume says.
    """

    name: str
    path: str
    read_only: bool

    @classmethod
    def from_text(cls, text: str) -> MountPoint:
        """Read ``NAME,path=/x[,readOnly=true]`` (VOL-31).

        Raises:
            AppcError: It is malformed.
        """
        name, fields = _split(text, ("path", "readOnly"), "mount point", "VOL-31")
        path = fields.get("path", "")
        if not path:
            raise PartError(f'mount point "{text}" has no path', hint="NAME,path=/x", rule="VOL-31")
        return cls(name, path, _flag(fields, "readOnly", text))

    def __str__(self) -> str:
        return f"{self.name},path={self.path}" + (",readOnly=true" if self.read_only else "")


@dataclass(frozen=True, slots=True)
class Port:
    """A port, or a range of them, that an app listens on (MAN-28 ... MAN-32).

    Attributes:
        name: AC Name.
        protocol: Normally ``tcp`` or ``udp``; any text parses.
        port: First port, 1 ... 65535.
        count: How many.
        socket_activated: Whether the executor opens it and passes it on.
    """

    name: str
    protocol: str
    port: int
    count: int = 1
    socket_activated: bool = False

    @classmethod
    def from_text(cls, text: str) -> Port:
        """Read ``NAME,protocol=tcp,port=80[,count=2][,socketActivated=true]`` (VOL-31).

        Raises:
            AppcError: It is malformed.
        """
        name, fields = _split(text, ("protocol", "port", "count", "socketActivated"), "port", "VOL-31")
        if not fields.get("protocol") or "port" not in fields:
            raise PartError(
                f'port "{text}" needs a protocol and a port', hint="NAME,protocol=tcp,port=80", rule="VOL-31"
            )
        port = cls(
            name,
            fields["protocol"],
            _number(fields["port"], text, 1, MAX_PORT),
            _number(fields.get("count", "1"), text, 0, MAX_PORT) or 1,
            _flag(fields, "socketActivated", text),
        )
        if port.port + port.count > MAX_PORT + 1:
            raise PartError(f'port "{text}": the range ends beyond {MAX_PORT}', rule="MAN-31")
        return port

    def __str__(self) -> str:
        text = f"{self.name},protocol={self.protocol},port={self.port}"
        if self.count != 1:
            text += f",count={self.count}"
        return text + (",socketActivated=true" if self.socket_activated else "")


@dataclass(frozen=True, slots=True)
class Volume:
    """A volume of a pod (VOL-02 ... VOL-12).

    Attributes:
        name: AC Name.
        kind: ``host`` or ``empty``.
        source: The host's path; only for ``host``.
        read_only: Whether it is read-only in every app; ``None`` if not said.
        recursive: Whether mounts below the source come along; ``None`` if not said.
        mode: Permission bits; only for ``empty``.
        uid: Owner; only for ``empty``.
        gid: Group; only for ``empty``.
    """

    name: str
    kind: str
    source: str | None = None
    read_only: bool | None = None
    recursive: bool | None = None
    mode: int = DEFAULT_MODE
    uid: int = 0
    gid: int = 0

    @classmethod
    def from_text(cls, text: str) -> Volume:
        """Read ``NAME,kind=host,source=/x[,readOnly=true][,recursive=false]`` or the like (VOL-30).

        Raises:
            AppcError: It is malformed.
        """
        keys = ("kind", "source", "readOnly", "recursive", "mode", "uid", "gid")
        name, fields = _split(text, keys, "volume", "VOL-30")
        kind, source = fields.get("kind", ""), fields.get("source")
        problem = _volume_problem(
            kind, source, has_owner=any(key in fields for key in ("mode", "uid", "gid"))
        )
        if problem:
            raise PartError(f'volume "{text}": {problem[0]}', rule=problem[1])
        return cls(
            name,
            kind,
            source,
            _flag(fields, "readOnly", text) if "readOnly" in fields else None,
            _flag(fields, "recursive", text) if "recursive" in fields else None,
            octal_mode(fields["mode"]) if "mode" in fields else DEFAULT_MODE,
            _number(fields.get("uid", "0"), text, 0, MAX_ID),
            _number(fields.get("gid", "0"), text, 0, MAX_ID),
        )

    def __str__(self) -> str:
        text = f"{self.name},kind={self.kind}"
        if self.source is not None:
            text += f",source={self.source}"
        for key, flag in (("readOnly", self.read_only), ("recursive", self.recursive)):
            if flag is not None:
                text += f",{key}={'true' if flag else 'false'}"
        if self.mode != DEFAULT_MODE:
            text += f",mode={self.mode:04o}"
        for key, number in (("uid", self.uid), ("gid", self.gid)):
            if number:
                text += f",{key}={number}"
        return text

    def as_object(self) -> dict[str, object]:
        """The volume as it stands in a pod manifest."""
        result: dict[str, object] = {"name": self.name, "kind": self.kind}
        if self.source is not None:
            result["source"] = self.source
        if self.read_only is not None:
            result["readOnly"] = self.read_only
        if self.recursive is not None:
            result["recursive"] = self.recursive
        if self.kind == "empty":
            result |= {"mode": f"{self.mode:04o}", "uid": self.uid, "gid": self.gid}
        return result


def read_volume(node: Obj) -> Volume:
    """Read a volume object (VOL-02 ... VOL-08).

    Raises:
        ManifestError: It is malformed.
    """
    name = _name(node, "name", "volume name", "VOL-02")
    kind = node.string("kind", "VOL-03")
    source = node.optional_string("source", "VOL-04")
    problem = _volume_problem(kind, source, has_owner=any(node.has(key) for key in ("mode", "uid", "gid")))
    if problem:
        node.fail(problem[0], rule=problem[1])
    mode = node.optional_checked("mode", "VOL-07", octal_mode)
    return Volume(
        name,
        kind,
        source,
        node.boolean("readOnly", "VOL-10"),
        node.boolean("recursive", "VOL-12"),
        DEFAULT_MODE if mode is None else mode,
        node.integer("uid", "VOL-08", low=0, high=MAX_ID) or 0,
        node.integer("gid", "VOL-08", low=0, high=MAX_ID) or 0,
    )


def read_mount_point(node: Obj) -> MountPoint:
    """Read a mount point object (MAN-27)."""
    name = _name(node, "name", "mount point name", "MAN-27")
    path = node.string("path", "MAN-27")
    if not path:
        node.fail('"path" is empty', key="path", rule="MAN-27")
    return MountPoint(name, path, node.boolean("readOnly", "MAN-27") or False)


def read_port(node: Obj) -> Port:
    """Read a port object (MAN-28 ... MAN-32)."""
    name = _name(node, "name", "port name", "MAN-28")
    protocol = node.string("protocol", "MAN-29")
    if not protocol:
        node.fail('"protocol" is empty', key="protocol", rule="MAN-29")
    node.require("port", "MAN-30")
    first = node.integer("port", "MAN-30", low=1, high=MAX_PORT) or 0
    # The reference tools write 0 for 1 wherever nothing was said, so that is not even worth a note.
    count = node.integer("count", "MAN-31", low=1 if node.reading.strict else 0, high=MAX_PORT) or 1
    if first + count > MAX_PORT + 1:
        node.fail(f"the range of {count} ports ends beyond {MAX_PORT}", key="count", rule="MAN-31")
    return Port(name, protocol, first, count, node.boolean("socketActivated", "MAN-32") or False)


def read_event_handlers(owner: Obj) -> tuple[EventHandler, ...]:
    """Read the event handlers of an app (MAN-21, MAN-22)."""
    handlers: dict[str, EventHandler] = {}
    for node in owner.objects("eventHandlers", "MAN-21"):
        name = node.string("name", "MAN-21")
        if name not in ("pre-start", "post-stop"):
            node.fail(f'"{name}" is neither pre-start nor post-stop', key="name", rule="MAN-21")
        if name in handlers:
            node.fail(f'there are two handlers called "{name}"', key="name", rule="MAN-22")
        handlers[name] = EventHandler(name, node.strings("exec", "MAN-21"))
    return tuple(handlers.values())


def read_labels(owner: Obj) -> dict[str, str]:
    """Read a ``labels`` list (MAN-07 ... MAN-12, MAN-16)."""
    strict = owner.reading.strict
    labels = owner.pairs(
        "labels",
        "MAN-07",
        lambda text: ac_identifier(text, what="label name", strict=strict),
        unique="MAN-08",
    )
    if "name" in labels:
        owner.fail('a label cannot be called "name"', key="labels", rule="MAN-09")
    try:
        arch.check_labels(labels)
    except arch.PlatformError as exc:
        owner.fail(exc.message, key="labels", rule=exc.rule, hint=exc.hint)
    return labels


def read_annotations(owner: Obj) -> dict[str, str]:
    """Read an ``annotations`` list (MAN-37, MAN-38, POD-19)."""
    strict = owner.reading.strict
    annotations = owner.pairs(
        "annotations",
        "MAN-37",
        lambda text: ac_identifier(text, what="annotation name", strict=strict),
        unique="MAN-37",
    )
    for name, check in _CHECKED_ANNOTATIONS.items():
        if name in annotations:
            try:
                check(annotations[name])
            except AppcError as exc:
                index = list(annotations).index(name)
                raise ManifestError(
                    exc.message,
                    path=f"{owner.at('annotations')}[{index}].value",
                    rule=f"MAN-38,{exc.rule}",
                    hint=exc.hint,
                ) from None
    return annotations


def _name(node: Obj, key: str, what: str, rule: str) -> str:
    strict = node.reading.strict
    return node.checked(key, rule, lambda text: ac_name(text, what=what, strict=strict))


def _volume_problem(kind: str, source: str | None, *, has_owner: bool) -> tuple[str, str] | None:
    if kind == "host":
        if source is None:
            return "a host volume needs a source", "VOL-04"
        if not source.startswith("/"):
            return f'the source "{source}" is not absolute', "VOL-04"
        if "\0" in source:
            return "the source has a NUL character", "VOL-04"
        if has_owner:
            return "mode, uid and gid belong to empty volumes only", "VOL-05"
    elif kind == "empty":
        if source is not None:
            return "an empty volume has no source", "VOL-06"
    else:
        return f'the kind "{kind}" is neither host nor empty', "VOL-03"
    return None


def _split(text: str, keys: tuple[str, ...], what: str, rule: str) -> tuple[str, dict[str, str]]:
    name, *parts = text.split(",")
    ac_name(name, what=f"{what} name")
    fields: dict[str, str] = {}
    for part in parts:
        key, equals, value = part.partition("=")
        if not equals:
            raise PartError(f'{what} "{text}": "{part}" has no "="', rule=rule)
        if key not in keys:
            raise PartError(
                f'{what} "{text}": "{key}" is not known', hint=f"known: {', '.join(keys)}", rule=rule
            )
        if key in fields:
            raise PartError(f'{what} "{text}" gives "{key}" twice', rule=rule)
        fields[key] = value
    return name, fields


def _flag(fields: dict[str, str], key: str, text: str) -> bool:
    value = fields.get(key, "false")
    if value not in _BOOLEANS:
        raise PartError(f'"{text}": {key} is "{value}", not true or false', rule="VOL-30")
    return _BOOLEANS[value]


def _number(value: str, text: str, low: int, high: int) -> int:
    if not (value.isascii() and value.isdigit() and len(value) <= 10 and low <= int(value) <= high):
        raise PartError(f'"{text}": "{value}" is not a number within {low} ... {high}', rule="VOL-30,VOL-31")
    return int(value)
