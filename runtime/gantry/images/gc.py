"""Free what nothing refers to any more.

Works on a disk without a free byte: nothing is written before something is removed, and afterwards only the
audit record.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import re
import time
from typing import TYPE_CHECKING

from gantry import audit
from gantry.errors import BusyError
from gantry.images.errors import explained
from gantry.images.keeping import protected
from gantry.images.records import USED_RECENTLY, GcResult, read_json
from gantry.images.sharing import HANDED
from gantry.linux.fs import free_bytes, remove_tree, used_bytes
from gantry.linux.locks import locked

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gantry.images.records import Image
    from gantry.images.store import Store

_DAMAGED = re.compile(r"\.damaged-(tree-[0-9a-f]{64})-")


def collect(
    store: Store,
    *,
    grace_period: float,
    free: int,
    dry_run: bool,
    by: str | None,
    timeout: float | None,
) -> GcResult:
    """See :meth:`gantry.images.store.Store.gc`."""
    if not os.path.isdir(store.path("pins")):
        return GcResult([], [], [], {}, 0)
    before = time.time() - grace_period
    with store.hold(exclusive=True, timeout=timeout), explained("clean the image store"):
        if not dry_run:
            store.index_again()
        debris, freed = _debris(store, before, dry_run=dry_run)
        kept = {each: why for each, why in protected(store).items() if store.get(each) is not None}
        trees = _idle_trees(store)
        for tree_id in trees:
            freed += used_bytes(store.path("tree", tree_id))
            if not dry_run:
                store.discard_tree(tree_id)
        images: list[Image] = []
        for image in sorted(store.list(), key=lambda image: image.last_used):
            if image.id in kept:
                continue
            there = free_bytes(store.root) + (freed if dry_run else 0)
            if image.last_used > before and there >= free:
                kept[image.id] = USED_RECENTLY
                continue
            images.append(image)
            freed += used_bytes(image.directory)
            if not dry_run:
                store.discard_image(image)
    if not dry_run:
        for image in images:
            audit.record(
                store.paths.data,
                "image.remove",
                by=by,
                image=str(image),
                image_id=str(image.id),
                reason="unused" if image.last_used <= before else "unused for longest, to free space",
            )
    return GcResult(trees, [str(image.id) for image in images], debris, kept, freed)


def _idle_trees(store: Store) -> list[str]:
    wanted = {image_id for pin in store.pins() for image_id in pin.images}
    return [
        tree_id
        for tree_id, record in store.trees().items()
        if not store.refs(tree_id) and record.get("image") not in wanted
    ]


def _debris(store: Store, before: float, *, dry_run: bool) -> tuple[list[str], int]:
    """What killed processes left, and its size; called with the store locked exclusively."""
    candidates = [("incoming", name) for name in store.entries("incoming") if name != HANDED]
    candidates += [(f"incoming/{HANDED}", name) for name in store.entries("incoming", HANDED)]
    # What a pod or a pin holds stays, also when its record is damaged: it may be all there is of it.
    candidates += [
        ("tree", name)
        for name in store.entries("tree")
        if store.tree(name) is None and (name.startswith(".") or not store.refs(name))
    ]
    pinned = {image_id for pin in store.pins() for image_id in pin.images}
    candidates += [
        ("image", name) for name in store.entries("image") if store.get(name) is None and name not in pinned
    ]
    candidates += [("tree-locks", name) for name in store.entries("tree-locks")]
    gone: list[str] = []
    freed = 0
    for parent, name in candidates + _unfinished(store):
        path = store.path(parent, name)
        with _alone(store, parent, name, before, dry_run=dry_run) as debris:
            if debris:
                gone.append(f"{parent}/{name}")
                freed += used_bytes(path)
                if not dry_run:
                    remove_tree(path)
    return gone, freed


def _unfinished(store: Store) -> list[tuple[str, str]]:
    """Files that were being written, and index entries of images that never came.

    Whoever makes them shares the store's lock meanwhile, so nobody works on them now. An index may also have
    an entry of an image that is gone.
    """
    places = ["", "pins", "urls", *(f"image/{name}" for name in store.entries("image"))]
    found = [(place, name) for place in places for name in store.entries(place) if name.endswith(".tmp")]
    known = {name: read_json(store.path("urls", name)) or {} for name in store.entries("urls")}
    found += [("urls", name) for name, record in known.items() if store.get(str(record.get("id"))) is None]
    for directory in store.entries("names"):
        ids = store.entries("names", directory)
        stale = [name for name in ids if store.get(name) is None]
        if stale == ids:
            found.append(("names", directory))
        else:
            found += [(f"names/{directory}", name) for name in stale]
    return found


@contextlib.contextmanager
def _alone(store: Store, parent: str, name: str, before: float, *, dry_run: bool = False) -> Iterator[bool]:
    """Whether nobody works on it, and nobody could continue it; nobody begins to while the block runs.

    Only downloads can begin then: everybody else shares the store's lock.
    """
    path = store.path(parent, name)
    if parent == f"incoming/{HANDED}":
        yield _newest(path) <= before
        return
    if parent == "tree" and _still_used(store, name):
        yield False
        return
    guard = path
    download = parent == "incoming" and name.endswith((".part", ".json"))
    if download:
        guard = path.rpartition(".")[0] + ".lock"
    elif parent == "tree" and not name.startswith("."):
        guard = store.path("tree-locks", name)
    made = download and not dry_run
    with contextlib.ExitStack() as stack:
        ours = True
        try:
            stack.enter_context(locked(guard, timeout=0, create=made, remove=made))
        except BusyError:
            ours = False
        except FileNotFoundError:
            ours = guard != path
        except OSError as error:
            # On a full disk no lock can be made: neither by us nor by a download.
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
        yield ours and not (download and _newest(path) > before)


def _newest(path: str) -> float:
    """When something has changed last, at or below a path; it may be somebody's who changes it now."""
    try:
        newest = os.lstat(path).st_mtime
    except FileNotFoundError:
        return math.inf
    waiting = [path]
    while waiting:
        with contextlib.suppress(OSError), os.scandir(waiting.pop()) as entries:
            for entry in entries:
                newest = max(newest, entry.stat(follow_symlinks=False).st_mtime)
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
    return newest


def _still_used(store: Store, name: str) -> bool:
    """Whether *name* is the damaged copy of a tree (:mod:`gantry.images.checking`) that a pod runs from."""
    found = _DAMAGED.match(name)
    if found is None:
        return False
    return not set(store.entries("tree", name, "refs")).isdisjoint(store.refs(found[1]))


def sweep(store: Store) -> None:
    """Remove images that a killed process was putting together; nothing happens while the store is busy."""
    for name in store.entries("incoming"):
        if name.startswith("new-"):
            with (
                contextlib.suppress(BusyError, FileNotFoundError),
                store.hold(exclusive=True, timeout=0),
                _alone(store, "incoming", name, 0) as debris,
            ):
                if debris:
                    remove_tree(store.path("incoming", name))
