"""The store's directory: its format, its locks, the trees and pins in it.

Drawn in :mod:`gantry.images.store`.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any

from gantry.images.errors import ImageNotFoundError, explained
from gantry.images.limits import DEFAULT_LIMITS, Limits
from gantry.images.migration import CURRENT, bring_forward, content
from gantry.images.pins import Pin, parse_pin, pin_file
from gantry.images.records import is_tree_record, plain, read_json, unreadable
from gantry.linux.fs import atomic_write, fsync_directory, make_directory, remove_tree
from gantry.linux.locks import locked

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from gantry.config import Paths


_DIRECTORIES = (
    ("image", 0o750),
    ("names", 0o750),
    ("urls", 0o750),
    ("incoming", 0o700),
    ("tree", 0o700),
    ("tree-locks", 0o700),
    ("pins", 0o750),
)


class StoreDirectory:
    """The part of the store that knows of directories, trees and pins, and of no image."""

    def __init__(self, paths: Paths, *, limits: Limits = DEFAULT_LIMITS) -> None:
        self.paths = paths
        self.limits = limits
        self.root = os.path.join(paths.data, "images")
        bring_forward(self.root)

    # -- the directory ------------------------------------------------------------------------------

    def path(self, *parts: str) -> str:
        """A path in the store."""
        return os.path.join(self.root, *parts)

    def ensure(self) -> None:
        """Create what is missing of the store's directories.

        Raises:
            HostError: The kernel refuses.
        """
        if os.path.isdir(self.path("pins")):
            return
        with explained("make the image store"):
            os.makedirs(os.path.dirname(self.paths.data), exist_ok=True)
            make_directory(self.paths.data, 0o751)  # others pass through it: the signer's keys are below
            make_directory(self.root, 0o755)
            lock = self.path("lock")
            with contextlib.suppress(FileExistsError):
                fd = os.open(lock, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
                os.fchmod(fd, 0o640)  # whatever the umask is
                os.close(fd)
            with locked(lock, shared=True, create=False):  # or gc takes what is half written for debris
                if not os.path.exists(self.path("format")):
                    atomic_write(self.path("format"), content(CURRENT), 0o644)
                for name, mode in _DIRECTORIES:
                    make_directory(self.path(name), mode)
                if os.geteuid() == 0:
                    from gantry.images.sharing import group_id, open_to  # noqa: PLC0415 - once in a store's life

                    group = group_id()
                    if group is not None:
                        open_to(group, self.root)
            fsync_directory(self.root)

    @contextlib.contextmanager
    def hold(self, *, exclusive: bool = False, timeout: float | None = None) -> Iterator[None]:
        """While the block runs nothing is removed from the store; or, *exclusive*, nothing else happens.

        Raises:
            BusyError: The lock was not to be had within *timeout* seconds.
        """
        self.ensure()
        with locked(
            self.path("lock"), shared=not exclusive, create=False, timeout=timeout, what="the image store"
        ):
            yield

    @contextlib.contextmanager
    def workspace(self, parent: str, prefix: str) -> Iterator[str]:
        """A new directory of the store to work in, locked, and removed unless it was renamed away."""
        path = self.path(parent, f"{prefix}{os.getpid():x}-{os.urandom(6).hex()}")
        with contextlib.ExitStack() as stack:
            with self.hold():  # gc must not see it unlocked
                with explained("make a directory to work in"):
                    os.mkdir(path, 0o700)
                stack.callback(remove_tree, path)
                stack.enter_context(locked(path, create=False))
            yield path

    # -- trees --------------------------------------------------------------------------------------

    def tree_rootfs(self, tree_id: str) -> str:
        """The root file system of a rendered tree.

        Raises:
            ImageNotFoundError: There is no such tree.
        """
        if self.tree(tree_id) is None:
            raise ImageNotFoundError(
                f'no rendered tree "{tree_id}" in the store', hint="it is made by prepare"
            )
        return self.path("tree", tree_id, "rootfs")

    def tree(self, tree_id: str) -> dict[str, Any] | None:
        """The record of a rendered tree (``tree.json``), or ``None``."""
        if "/" in tree_id or tree_id.startswith("."):
            return None
        record = read_json(self.path("tree", tree_id, "tree.json"))
        return record if record is not None and is_tree_record(record) else None

    def trees(self) -> dict[str, dict[str, Any]]:
        """The records of all rendered trees by ID."""
        records = {name: self.tree(name) for name in self.entries("tree")}
        return {name: record for name, record in records.items() if record is not None}

    def add_ref(self, tree_id: str, pod_uuid: str) -> None:
        """Note that a pod uses a tree, so that it stays.

        Raises:
            ImageNotFoundError: There is no such tree (any more): render it again.
        """
        with self.hold(), explained("note the use of a tree"):
            self.tree_rootfs(tree_id)
            refs = self.path("tree", tree_id, "refs")
            path = os.path.join(refs, plain(pod_uuid))
            os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o640))
            fsync_directory(refs)

    def drop_ref(self, tree_id: str, pod_uuid: str) -> None:
        """A pod uses a tree no longer; nothing there is success."""
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            os.unlink(self.path("tree", plain(tree_id), "refs", plain(pod_uuid)))

    def refs(self, tree_id: str) -> list[str]:
        """The UUIDs of the pods that use a tree."""
        return sorted(self.entries("tree", plain(tree_id), "refs"))

    # -- pins ---------------------------------------------------------------------------------------

    def pin(self, kind: str, name: str, image_ids: Iterable[str]) -> None:
        """Keep exactly these images for *name*, whatever was kept for it before; nothing is kept for none.

        Args:
            kind: Who keeps them: a constant of :mod:`gantry.images.pins`.
            name: Whose they are.
            image_ids: Their IDs.

        Raises:
            ImageNotFoundError: One is not in the store; nothing is changed.
        """
        ids = sorted(set(map(str, image_ids)))
        if not ids:
            self.unpin(kind, name)
            return
        path = self.path("pins", pin_file(kind, name))
        with self.hold(), explained("pin images"):
            for image_id in ids:
                if not os.path.exists(self.path("image", plain(image_id), "info.json")):
                    raise ImageNotFoundError(f'no image "{image_id}" in the store', hint="fetch it first")
            text = "".join(f"{each}\n" for each in ids).encode()
            if _content(path) != text:
                atomic_write(path, text, 0o640)

    def unpin(self, kind: str, name: str) -> None:
        """Keep nothing for *name* any more; nothing there is success."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path("pins", pin_file(kind, name)))

    def pins(self) -> list[Pin]:
        """All pins, in the order of their kinds and names."""
        found = []
        for file in sorted(self.entries("pins")):
            content = _content(self.path("pins", file))
            pin = None if content is None else parse_pin(file, content.decode("ascii", "replace"))
            if pin is not None:
                found.append(pin)
        return found

    def entries(self, *parts: str) -> list[str]:
        """The names in a directory of the store; none if it is missing, or a stray file has its place."""
        try:
            return os.listdir(self.path(*parts))
        except (FileNotFoundError, NotADirectoryError):
            return []
        except PermissionError:
            raise unreadable(self.path(*parts)) from None


def _content(path: str) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read()
    except (FileNotFoundError, IsADirectoryError):
        return None
