"""The ``app`` object: what to execute and how; in image and in pod manifests (MAN-17 ... MAN-34)."""

from __future__ import annotations

from dataclasses import dataclass, field

from gantry.appc import document
from gantry.appc.isolators import IsolatorList, read_list
from gantry.appc.parts import (
    MAX_ID,
    EventHandler,
    MountPoint,
    Port,
    read_event_handlers,
    read_mount_point,
    read_port,
)
from gantry.appc.reading import Obj, Reading
from gantry.appc.values import environment_name


@dataclass(frozen=True, slots=True)
class App:
    """How an image is executed.

    Attributes:
        exec: The command's words; may be empty.
        user: Name, number or absolute path, as written.
        group: Likewise.
        supplementary_gids: Additional groups.
        event_handlers: At most one per name.
        working_directory: Absolute; ``/`` if none was given.
        environment: Name and value pairs in their order, values literal.
        mount_points: Where volumes are expected.
        ports: Where the app listens.
        isolators: Its limits.
        user_annotations: Free text for people and tools; never changes how anything runs.
        user_labels: Likewise.
        data: The JSON object, unknown keys included.
    """

    exec: tuple[str, ...]
    user: str
    group: str
    supplementary_gids: tuple[int, ...]
    event_handlers: tuple[EventHandler, ...]
    working_directory: str
    environment: tuple[tuple[str, str], ...]
    mount_points: tuple[MountPoint, ...]
    ports: tuple[Port, ...]
    isolators: IsolatorList
    user_annotations: dict[str, str]
    user_labels: dict[str, str]
    data: dict[str, object] = field(compare=False, repr=False)

    @classmethod
    def from_object(cls, data: dict[str, object]) -> App:
        """Check an ``app`` object that a program made; *data* itself is not changed.

        Raises:
            ManifestError: It is malformed.
        """
        copy, notes = document.load(document.dump(data))
        return read_app(Obj(copy, "$", Reading(notes=notes)))

    def event_handler(self, name: str) -> tuple[str, ...] | None:
        """The command of the handler *name* (``pre-start`` or ``post-stop``), or ``None``."""
        return next((handler.exec for handler in self.event_handlers if handler.name == name), None)


def read_app(node: Obj) -> App:
    """Read an ``app`` object.

    Raises:
        ManifestError: It is malformed.
    """
    return App(
        exec=node.strings("exec", "MAN-18"),
        user=_account(node, "user"),
        group=_account(node, "group"),
        supplementary_gids=_supplementary_gids(node),
        event_handlers=read_event_handlers(node),
        working_directory=_working_directory(node),
        environment=tuple(node.pairs("environment", "MAN-24", environment_name, unique="MAN-25").items()),
        mount_points=tuple(read_mount_point(each) for each in node.objects("mountPoints", "MAN-27")),
        ports=tuple(read_port(each) for each in node.objects("ports", "MAN-28")),
        isolators=read_list(node, "isolators", "app"),
        user_annotations=node.string_map("userAnnotations", "MAN-33"),
        user_labels=node.string_map("userLabels", "MAN-33"),
        data=node.data,
    )


def _account(node: Obj, key: str) -> str:
    value = node.string(key, "MAN-19")
    if not value:
        node.fail(f'"{key}" is empty', key=key, rule="MAN-19")
    return value


def _supplementary_gids(node: Obj) -> tuple[int, ...]:
    gids: list[int] = []
    for index, value in enumerate(node.array("supplementaryGIDs", "MAN-20")):
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_ID:
            node.fail(
                f"entry {index} is not an integer within 0 ... {MAX_ID}",
                key="supplementaryGIDs",
                rule="MAN-20,TYP-28",
            )
        gids.append(value)
    return tuple(gids)


def _working_directory(node: Obj) -> str:
    value = node.optional_string("workingDirectory", "MAN-23") or "/"
    if not value.startswith("/"):
        node.fail(f'"{value}" is not absolute', key="workingDirectory", rule="MAN-23")
    return value
