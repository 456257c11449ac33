"""Names of pods: at most one pod that is prepared or runs has a name, unless it is a named pod's release.

Releases of a named pod share its name; which of them there are, systemd's units and their locks decide.
"""

from __future__ import annotations

import contextlib
import os
import re
from typing import TYPE_CHECKING

from gantry.errors import BusyError, UsageError
from gantry.linux.fs import atomic_write
from gantry.linux.locks import locked
from gantry.pods import state

if TYPE_CHECKING:
    from collections.abc import Iterator

_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_LONGEST = 63


@contextlib.contextmanager
def reserved(data: str, name: str, uuid: str) -> Iterator[None]:
    """Take *name* for a pod that is being prepared; the block writes where others find it.

    Args:
        data: The data directory.
        name: The name.
        uuid: The pod.

    Raises:
        UsageError: It is no name.
        BusyError: A pod has it that has not ended.
    """
    if not _NAME.fullmatch(name) or len(name) > _LONGEST:
        raise UsageError(
            f'"{name}" cannot be the name of a pod',
            hint="use lower-case letters, digits and single hyphens, at most 63 characters",
        )
    with locked(f"{data}/pods/names.lock"):
        for other in _with_name(data, name):
            if other != uuid:
                raise BusyError(
                    f'the name "{name}" is that of pod "{other}"', hint="gantry rm it, or take another name"
                )
        yield


def claim(path: str, name: str) -> None:
    """Write the name of a pod that is being prepared into its directory; see :func:`reserved`."""
    atomic_write(f"{path}/name", name.encode(), 0o640)


def _with_name(data: str, name: str) -> Iterator[str]:
    for place in ("prepare", "prepared", "run"):
        try:
            uuids = os.listdir(f"{data}/pods/{place}")
        except FileNotFoundError:
            continue
        for uuid in uuids:
            path = f"{data}/pods/{place}/{uuid}"
            if place == "run" and not state.is_held(path):
                continue  # it has ended
            if _read(f"{path}/name") == name:
                yield uuid


def _read(path: str) -> str | None:
    try:
        with open(path, encoding="ascii") as file:
            return file.read()
    except (OSError, ValueError):
        return None
