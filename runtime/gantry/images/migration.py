"""Bring a store of an older format forward.

Each step changes one format into the next by renaming, without a free byte and in any number of attempts: a
process that is killed leaves what the next one continues. The number in the file ``format`` changes last, in
place. One process works, under the store's lock; others wait for it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable

from gantry.errors import HostError
from gantry.images.errors import StoreFormatError, explained
from gantry.linux.fs import fsync_directory
from gantry.linux.locks import locked

CURRENT = 2


def content(number: int) -> bytes:
    """What the file ``format`` says."""
    return b"gantry-images %d\n" % number


def bring_forward(root: str) -> None:
    """Have the store at *root* in the current format; one that has it is only looked at.

    Raises:
        StoreFormatError: It is of a later version, or no store of ours.
        HostError: It has to be brought forward, which this user may not do, or may not be read.
    """
    if (found := _number(root)) == CURRENT or found is None:
        return
    try:
        with (
            locked(os.path.join(root, "lock"), what="the image store"),
            explained("bring the image store forward"),
        ):
            while (found := _number(root)) is not None and found != CURRENT:
                _STEPS[found](root)
                _write(root, found + 1)
    except PermissionError as error:
        raise HostError(
            f"the image store {root} has the format {found}, and this version of gantry the format {CURRENT}",
            hint="become root once: the next command brings it forward",
        ) from error


def _number(root: str) -> int | None:
    """The format of a store; ``None`` if there is no store yet."""
    made = os.path.isdir(os.path.join(root, "image"))  # looked at first: another process may be making it
    try:
        with open(os.path.join(root, "format"), "rb") as file:
            found = file.read(200)
    except FileNotFoundError:
        if not made:
            return None
        found = b""
    except PermissionError as error:
        raise HostError(f"{root} cannot be read", hint="become root") from error
    match = re.fullmatch(rb"gantry-images ([1-9][0-9]{0,8})\n", found)
    number = int(match[1]) if match else 0
    if number == CURRENT or number in _STEPS:
        return number
    shown = found.decode("utf-8", "replace").strip() or "no format"
    raise StoreFormatError(
        f'the image store {root} has the format "{shown}"; this version of gantry knows {CURRENT} and older',
        hint="use the version of gantry that made it, or a later one",
    )


def _write(root: str, number: int) -> None:
    fd = os.open(os.path.join(root, "format"), os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.pwrite(fd, content(number), 0)
        os.fsync(fd)
    finally:
        os.close(fd)


def _kinds_of_pins(root: str) -> None:
    """1 to 2: all pins were those of named pods, and their files had no kind."""
    pins = os.path.join(root, "pins")
    try:
        names = os.listdir(pins)
    except FileNotFoundError:
        return
    for name in names:
        if ":" not in name and not name.endswith(".tmp"):
            os.rename(os.path.join(pins, name), os.path.join(pins, f"pod:{name}"))
    fsync_directory(pins)


_STEPS: dict[int, Callable[[str], None]] = {1: _kinds_of_pins}
