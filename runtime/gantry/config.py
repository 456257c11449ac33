"""Where Gantry keeps things on a host, and what its administrators have set there.

What is below ``system`` and ``local`` is layered, local over system; keys and credentials may have a third
layer, the user's. Rooms never look paths up on their own: they are handed a :class:`Paths`, so that every
test can live in a directory of its own.

Settings of one kind are the files ``KIND.d/*.json`` of both layers (docs/settings.md).
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple

from gantry.errors import GantryError, UsageError

DEFAULT_DATA = "/var/lib/gantry"
DEFAULT_RUN = "/run/gantry"
DEFAULT_SYSTEM = "/usr/lib/gantry"
DEFAULT_LOCAL = "/etc/gantry"


class SettingsError(GantryError):
    """A settings file is malformed, or contradicts another one."""

    code = "settings"


class Setting(NamedTuple):
    """One value that was set, and the file where."""

    value: Any
    file: str


class Paths(NamedTuple):
    """The directories of one installation; all absolute.

    Attributes:
        data: Images, pods, releases, the audit record: everything that must survive a reboot.
        run: Sockets, namespaces, addresses: everything that must not.
        system: The vendor's keys and settings.
        local: The administrator's keys and settings; beats ``system``.
        user: A user's own keys and credentials; beat both. Empty: there are none.
    """

    data: str = DEFAULT_DATA
    run: str = DEFAULT_RUN
    system: str = DEFAULT_SYSTEM
    local: str = DEFAULT_LOCAL
    user: str = ""

    @classmethod
    def make(
        cls,
        *,
        data: str = DEFAULT_DATA,
        run: str = DEFAULT_RUN,
        system: str = DEFAULT_SYSTEM,
        local: str = DEFAULT_LOCAL,
        user: str = "",
    ) -> Paths:
        """Build from what a user typed: made absolute, links resolved; need not exist.

        Raises:
            UsageError: A path is empty, or a layer is something else than a directory.
        """
        given = {"data": data, "run": run, "system": system, "local": local}
        for name, path in given.items():
            if not path:
                raise UsageError(f'"" is not a valid {name} directory', hint="give a path")
        absolute = {name: os.path.realpath(path) for name, path in given.items()}
        made = cls(**absolute, user=os.path.realpath(user) if user else "")
        for layer in (made.system, made.local, made.user):
            if layer and os.path.exists(layer) and not os.path.isdir(layer):
                raise UsageError(
                    f'expected "{layer}" to be a directory', hint="keys, credentials and settings are in it"
                )
        return made


def data_directory(paths: Paths) -> Setting | None:
    """The data directory that the files ``paths.d/*.json`` set, and where; ``None``: none does.

    Raises:
        SettingsError: A file is malformed, or sets what there is none of.
    """
    found = settings(paths, "paths")
    for field, (_, file) in found.items():
        if field == "stage1-images":
            raise SettingsError(
                f'"stage1-images" in {file} has no meaning here', hint="flavors lie in stage1.d; leave it out"
            )
        if field != "data":
            raise SettingsError(f'"{field}" in {file} is not known', hint='there is "data"')
    told = found.get("data")
    if told is not None and not (isinstance(told.value, str) and os.path.isabs(told.value)):
        raise SettingsError(
            f"{told.file}: data directory must be an absolute path", hint="such as /srv/gantry"
        )
    return told


def default_flavor(paths: Paths) -> Setting | None:
    """The name of the flavor that the files ``stage1.d/*.json`` set, and where; ``None``: none does.

    Raises:
        SettingsError: A file is malformed, or sets what there is none of.
    """
    found = settings(paths, "stage1")
    for field, (_, file) in found.items():
        if field == "location":
            raise SettingsError(
                f'"location" in {file} has no meaning here',
                hint="a flavor is a directory in stage1.d (docs/stage1-interface.md); name it instead",
            )
        if field not in {"name", "version"}:
            raise SettingsError(f'"{field}" in {file} is not known', hint='there are "name" and "version"')
    told = found.get("name")
    if told is not None and not (isinstance(told.value, str) and told.value):
        raise SettingsError(f"{told.file}: the name of the flavor is no text", hint='such as "oci"')
    return told


def settings(paths: Paths, kind: str) -> dict[str, Setting]:
    """What the files ``KIND.d/*.json`` set: system, then local on top, field by field.

    Only regular files whose names end in ``.json`` count. Each says what it is: ``gantryKind`` and
    ``gantryVersion``. The user's layer has none: what a host's administrators set holds for its users.

    Raises:
        SettingsError: A file is malformed, of another kind or version; or two of one layer set one field.
    """
    found: dict[str, Setting] = {}
    for top in (paths.system, paths.local):
        own: dict[str, Setting] = {}
        for file, document in layer(top, kind).items():
            for field, value in document.items():
                if field in own:
                    raise SettingsError(
                        f'"{field}" is set in {own[field].file} and in {file}', hint="leave one of them"
                    )
                own[field] = Setting(value, file)
        found |= own
    return found


def layer(top: str, kind: str, *, also: tuple[str, ...] = ()) -> dict[str, dict[str, Any]]:
    """The documents of the files ``KIND.d/*.json`` below *top* by their paths, without what says their kind.

    Args:
        top: The directory of one layer.
        kind: The kind.
        also: Kinds that lie in the same directory and are passed over.

    Raises:
        SettingsError: A file is malformed, or of another kind or version; its cause is the error of the
            system where something cannot be read.
    """
    documents = {file: _read(file, kind, also) for file in _files(os.path.join(top, f"{kind}.d"))}
    return {file: document for file, document in documents.items() if document is not None}


def _files(directory: str) -> list[str]:
    try:
        with os.scandir(directory) as entries:
            return sorted(
                e.path for e in entries if e.name.endswith(".json") and e.is_file(follow_symlinks=False)
            )
    except FileNotFoundError:
        return []
    except NotADirectoryError:
        raise SettingsError(
            f'expected "{directory}" to be a directory', hint="settings are in files in it"
        ) from None
    except OSError as error:
        raise SettingsError(f"cannot read {directory}: {error.strerror}") from error


def _read(file: str, kind: str, also: tuple[str, ...]) -> dict[str, Any] | None:
    import json  # noqa: PLC0415 - most hosts have no settings, and launching reads none

    try:
        with open(file, encoding="utf-8") as stream:
            document = json.load(stream)
    except OSError as error:
        raise SettingsError(f"cannot read {file}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise SettingsError(
            f'failed to parse "{file}": {error}', hint="it has to be a JSON object"
        ) from error
    if not isinstance(document, dict):
        raise SettingsError(f'failed to parse "{file}": it is no JSON object')
    ours = "rkt" if "rktKind" in document else "gantry"  # what was written for rkt is read as it is
    if document.get(f"{ours}Kind") in also:
        return None
    for field, expected in ((f"{ours}Kind", kind), (f"{ours}Version", "v1")):
        value = document.pop(field, None)
        if value is None:
            raise SettingsError(f'no {field} specified in "{file}"', hint=f'write "{field}": "{expected}"')
        if value != expected:
            raise SettingsError(
                f'"{file}" has the {field} {json.dumps(value)}, which is not read here',
                hint=f'here belongs "{expected}"',
            )
    return document
