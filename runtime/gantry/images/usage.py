"""Where the disk space of the image store is: every byte belongs to exactly one part (case 4)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from gantry.errors import BusyError
from gantry.images.records import read_json, unreadable
from gantry.images.sharing import HANDED
from gantry.images.space import existing
from gantry.linux.fs import free_bytes, used_bytes
from gantry.linux.locks import locked

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gantry.images.store import Store

IMAGE = "image"
TREE = "tree"
DOWNLOAD = "download"
LEFTOVER = "leftover"
RECORDS = "records"


class Part(NamedTuple):
    """A part of the store.

    Attributes:
        kind: One of this module's constants: an image as distributed; a rendered tree; a download that goes
            on or can be continued; what a killed process left, which gc removes; the store's small files.
        path: Where it is, below the store.
        size: Bytes on the disk, its directories included.
        about: What it is, for people.
    """

    kind: str
    path: str
    size: int
    about: str


class Usage(NamedTuple):
    """The whole store.

    Attributes:
        parts: Every part, the largest first.
        total: Bytes on the disk: the sum of all parts.
        free: Bytes that are free on its file system.
    """

    parts: list[Part]
    total: int
    free: int


def usage(store: Store) -> Usage:
    """Account for every byte of the store; nothing is locked, changed, or asked of the network.

    A store that others work on meanwhile is a moving target: the figures are of different moments then, but
    their sum is still the total.

    Raises:
        HostError: A part may not be read by this user.
    """
    if not os.path.isdir(store.root):
        return Usage([], 0, free_bytes(existing(store.root)))
    parts = list(_parts(store))
    listed = sum(part.size for part in parts)
    whole = max(listed, used_bytes(store.root))
    parts.append(Part(RECORDS, ".", whole - listed, "the store's own indexes, locks and pins"))
    parts.sort(key=lambda part: (-part.size, part.path))
    return Usage(parts, whole, free_bytes(store.root))


def _parts(store: Store) -> Iterator[Part]:
    for name in store.entries("image"):
        path = f"image/{name}"
        image = store.get(name)
        if image is None:
            yield _part(store, LEFTOVER, path, "an image without its record")
        else:
            yield _part(store, IMAGE, path, str(image))
    for name in store.entries("tree"):
        path = f"tree/{name}"
        record = store.tree(name)
        if record is not None:
            users = len(store.refs(name))
            used = f"{users} pod{'s' * (users != 1)}" if users else "no pod"
            yield _part(store, TREE, path, f"{record.get('name')}, used by {used}")
        elif _busy(store.path(path)):
            yield _part(store, TREE, path, "being rendered")
        elif name.startswith(".damaged-"):
            yield _part(store, LEFTOVER, path, "a damaged tree that was replaced; pods may still run from it")
        else:
            yield _part(store, LEFTOVER, path, "a tree without its record")
    for name in store.entries("incoming"):
        if name != HANDED:
            yield _incoming(store, name)
    for name in store.entries("incoming", HANDED):
        yield _part(store, DOWNLOAD, f"incoming/{HANDED}/{name}", f"brought by user {name}, not taken in yet")


def _incoming(store: Store, name: str) -> Part:
    path = f"incoming/{name}"
    stem = name.rpartition(".")[0]
    if name.startswith("new-"):
        busy = _busy(store.path(path))
        return _part(store, DOWNLOAD if busy else LEFTOVER, path, "an image being put together")
    known = read_json(store.path("incoming", f"{stem}.json")) or {}
    state = "under way" if _busy(store.path("incoming", f"{stem}.lock")) else "to be continued"
    return _part(store, DOWNLOAD, path, f"{known.get('url') or 'a download'}, {state}")


def _part(store: Store, kind: str, path: str, about: str) -> Part:
    try:
        return Part(kind, path, used_bytes(store.path(path)), about)
    except PermissionError:
        raise unreadable(store.path(path)) from None


def _busy(path: str) -> bool:
    """Whether somebody holds the lock *path*."""
    try:
        with locked(path, shared=True, timeout=0, create=False):
            return False
    except FileNotFoundError:
        return False
    except BusyError:
        return True
    except PermissionError:
        raise unreadable(path) from None
