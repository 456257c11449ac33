"""Render an image with its dependencies into a tree that pods share read-only.

Implements DEP-07 ... DEP-29. A tree is made in a directory of its own, its bytes are hashed again while they
are laid down, and it gets its name by one rename when everything is right and on the disk. One process
renders a tree, others wait for it and find it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import stat
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from gantry.errors import BusyError, HostError, UsageError
from gantry.images.dependencies import Node, order, resolve
from gantry.images.errors import explained
from gantry.images.extract import Extractor
from gantry.images.plan import Plan, make_plan
from gantry.images.reading import ImageReader, file_chunks, reading
from gantry.images.space import require
from gantry.images.targets import is_empty, refuse_own, refuse_replacing
from gantry.images.tarstream import DIRECTORY, FILE, HARDLINK
from gantry.linux.fs import (
    atomic_write,
    fsync_directory,
    remove_tree,
    rename_exchange,
    syncfs,
)
from gantry.linux.locks import locked

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gantry.images.layout import Member
    from gantry.images.records import Image
    from gantry.images.store import Store
    from gantry.images.tarstream import Entry

#: Part of every tree's ID: raise it when the same images give another tree.
RENDERER = 2


class Tree(NamedTuple):
    """A rendered image.

    Attributes:
        id: The tree's ID, made from the list of image IDs in the order they were laid down.
        rootfs: The root file system: the lower directory of pods' overlays. Never write there.
        image: The ID of the image it was rendered from.
        images: The image IDs in the order they were laid down.
        downgrades: What could not be kept, see :class:`gantry.images.extract.Downgrades`; empty: nothing.
        notes: What deserves a warning, each downgrade included.
    """

    id: str
    rootfs: str
    image: str
    images: list[str]
    downgrades: dict[str, Any]
    notes: list[str]


class LaidOut(NamedTuple):
    """What is to be said of an image that was laid down in a directory.

    Attributes:
        downgrades: What could not be restored; empty: nothing.
        notes: What else is worth a warning, as lines: links of a dependency that gave way (TRAP-09).
    """

    downgrades: dict[str, Any]
    notes: list[str]


def graph(store: Store, image: Image) -> Node:
    """The image with all that lies below it.

    Raises:
        DependencyError: See :func:`gantry.images.dependencies.resolve`.
        ImageNotFoundError: A dependency is not in the store.
    """
    return resolve(image, store.manifest, lambda dependency: store.find_all(dependency.ref), store.limits)


def tree_id(images: list[str], *, privileged: bool, renderer: object = RENDERER) -> str:
    """The ID of the tree that these images give.

    What was rendered without privileges lacks owners, so it is another tree.
    """
    document = [renderer, "root" if privileged else "user", *images]
    return "tree-" + hashlib.sha256(json.dumps(document).encode()).hexdigest()


def render(store: Store, image_id: str, *, ref: str | None = None) -> Tree:
    """The tree of an image, made now unless it exists.

    Args:
        store: The store.
        image_id: The image, as for :meth:`gantry.images.store.Store.find`.
        ref: The UUID of the pod that is going to use it, noted before anybody can remove the tree.

    Raises:
        ImageNotFoundError: The image, or one that it depends on, is not in the store.
        DependencyError: Its dependencies cannot be resolved.
        DigestMismatchError: Bytes in the store are not what they were.
        ArchiveError: An entry may not be there.
        NoSpaceError: The disk is, or would be, full.
    """
    with store.hold():
        image = store.find(image_id)
        top = graph(store, image)
        images = [str(node.image.id) for node in order(top)]
        privileged = os.geteuid() == 0
        ident = tree_id(images, privileged=privileged)
        if store.tree(ident) is None:
            with locked(store.path("tree-locks", ident), remove=True):
                if store.tree(ident) is None:
                    _make(store, ident, top, images, privileged=privileged)
        for each in set(images):
            store.touch(each)
        if ref is not None:
            store.add_ref(ident, ref)
        return load(store, ident)


def load(store: Store, ident: str) -> Tree:
    """A tree that was rendered before.

    Raises:
        ImageNotFoundError: There is none of this ID.
    """
    rootfs = store.tree_rootfs(ident)
    record = store.tree(ident) or {}
    return Tree(
        ident,
        rootfs,
        str(record.get("image", "")),
        [str(each) for each in record.get("images", [])],
        dict(record.get("downgrades", {})),
        [str(each) for each in record.get("notes", [])],
    )


def render_directory(
    store: Store,
    image_id: str,
    directory: str,
    *,
    rootfs_only: bool = False,
    overwrite: bool = False,
    alone: bool = False,
) -> LaidOut:
    """Render an image into a directory of the user's (``image render``, ``image extract``).

    Args:
        store: The store.
        image_id: As for :meth:`gantry.images.store.Store.find`.
        directory: Will hold ``manifest`` and ``rootfs``; is new, or empty.
        rootfs_only: It will hold the content of ``rootfs`` instead.
        overwrite: Remove what is there.
        alone: The image as it is in its archive: without dependencies, and no whitelist applied.

    Raises:
        UsageError: The directory exists, or is ``/``.
    """
    if not directory:
        raise UsageError("no directory is named", hint="give one that is new or empty")
    target = os.path.realpath(directory)
    if target == "/":
        raise UsageError("refused to unpack an image to /", hint="name a new directory")
    if os.path.lexists(target) and not overwrite and not is_empty(target):
        raise UsageError(f"output directory exists (try --overwrite): {directory}")
    refuse_own(store.paths.data, target)
    with store.hold(), explained(f"render to {directory}"):
        image = store.find(image_id)
        top = Node(image, frozenset(), ()) if alone else graph(store, image)
        if os.path.lexists(target):
            refuse_replacing(
                target, directory, rootfs_only=rootfs_only, top=lambda: _names_at_top(store, top)
            )
        require(os.path.dirname(target), _stored(image), f"render {image}", entries=image.entries)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with _beside(target) as work:
            rootfs = work.path
            if not rootfs_only:
                rootfs = os.path.join(work.path, "rootfs")
                os.mkdir(rootfs, 0o700)
                os.chmod(work.path, 0o755)  # noqa: S103 - a directory of the user's
            record = _fill(store, top, rootfs, privileged=os.geteuid() == 0)
            if not rootfs_only:
                atomic_write(os.path.join(work.path, "manifest"), store.manifest_bytes(image.id), 0o644)
            remove_tree(target)
            os.rename(work.name, target)
    return LaidOut(dict(record["downgrades"]), list(record["replaced"]))


def _names_at_top(store: Store, top: Node) -> set[str]:
    images = {str(node.image.id): node.image for node in order(top)}.values()
    paths = (member.path for image in images for member in scan(store, image))
    return {os.fsdecode(path.partition(b"/")[0]) for path in paths if path}


class _Work(NamedTuple):
    """Something being made.

    Attributes:
        path: A way to it that goes through a descriptor: whoever owns the directory above can exchange what
            has the name for a link, but not what is written to.
        name: Its name, for renaming it.
    """

    path: str
    name: str


@contextlib.contextmanager
def _beside(target: str) -> Iterator[_Work]:
    """A new directory beside *target* to work in: locked, and removed unless it was renamed away.

    What a killed process left beside the same target, which nobody has locked, is removed first.

    Args:
        target: What it will become.
    """
    _sweep(target)
    while True:
        path = f"{target}.{os.urandom(4).hex()}.tmp"
        os.mkdir(path, 0o700)
        with contextlib.ExitStack() as stack:
            stack.callback(remove_tree, path)
            with contextlib.suppress(FileNotFoundError):
                stack.enter_context(locked(path, create=False))
            if os.path.lexists(path):  # else another process swept before it was locked
                yield _Work(_pinned(path, stack), path)
                return


def _pinned(path: str, stack: contextlib.ExitStack) -> str:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    stack.callback(os.close, fd)
    info = os.fstat(fd)
    directory = stat.S_ISDIR(info.st_mode)
    if info.st_uid != os.geteuid() or not (directory or (stat.S_ISREG(info.st_mode) and info.st_nlink == 1)):
        raise HostError(f"{path} was exchanged by somebody else", hint="write into a directory of your own")
    return f"/proc/self/fd/{fd}/." if directory else f"/proc/self/fd/{fd}"


def _sweep(target: str) -> None:
    directory, base = os.path.split(target)
    pattern = re.compile(re.escape(base) + r"\.[0-9a-f]{8}\.tmp")
    found: list[os.DirEntry[str]] = []
    with contextlib.suppress(PermissionError), os.scandir(directory or ".") as entries:
        found = [entry for entry in entries if pattern.fullmatch(entry.name)]
    for entry in found:
        with contextlib.suppress(BusyError, FileNotFoundError, PermissionError):
            info = entry.stat(follow_symlinks=False)
            ours = info.st_uid == os.geteuid() and (stat.S_ISDIR(info.st_mode) or stat.S_ISREG(info.st_mode))
            if ours:
                with locked(entry.path, timeout=0, create=False):
                    remove_tree(entry.path)


def _make(store: Store, ident: str, top: Node, images: list[str], *, privileged: bool) -> None:
    with store.workspace("tree", ".work-") as work, explained("render the image"):
        compose(store, work, top, images, privileged=privileged)
        if store.refs(ident):  # its record was damaged; pods run from it all the same
            replace_used(store, work, ident)
            return
        remove_tree(store.path("tree", ident))  # debris: it has no record
        os.rename(work, store.path("tree", ident))
        fsync_directory(store.path("tree"))


def replace_used(store: Store, work: str, ident: str) -> None:
    """Give a tree that was made in *work* the name of one that pods use, in one step.

    The old one stays for the pods that run from it, as ``.damaged-TREE-ID-XXXX-kept``: they keep their files.
    Nobody adds a reference meanwhile: the caller holds the store alone, or the old tree has no good record.
    """
    target, refs = store.path("tree", ident), store.refs(ident)
    for ref in refs:
        path = os.path.join(work, "refs", ref)
        os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o640))
    fsync_directory(os.path.join(work, "refs"))
    rename_exchange(work, target)
    old = store.path("tree", f".damaged-{ident}-{os.urandom(6).hex()}-kept")
    if refs:  # under another name the old copy outlives the caller's clean-up
        os.rename(work, old)
    for ref in refs:  # a pod that went in between took its reference from the old one only
        if not os.path.exists(os.path.join(old, "refs", ref)):
            store.drop_ref(ident, ref)
    fsync_directory(store.path("tree"))


def compose(store: Store, work: str, top: Node, images: list[str], *, privileged: bool) -> None:
    """Make a whole tree in the empty directory *work*, up to the point where it can get its name.

    Args:
        store: The store, held.
        work: From :meth:`gantry.images.store.Store.workspace`.
        top: From :func:`graph`.
        images: The image IDs in the order they are laid down.
        privileged: Whether owners and devices are restored.

    Raises:
        As :func:`render`.
    """
    rootfs = os.path.join(work, "rootfs")
    os.mkdir(rootfs, 0o700)
    os.mkdir(os.path.join(work, "refs"), 0o700)
    record = {
        "renderer": RENDERER,
        "image": str(top.image.id),
        "name": str(top.image),
        "images": images,
        "owners": "kept" if privileged else "skipped",
        "rendered": time.time(),
        **_fill(store, top, rootfs, privileged=privileged),
    }
    text = json.dumps(record, indent=1).encode() + b"\n"
    atomic_write(os.path.join(work, "tree.json"), text, 0o640, durable=False)
    fd = os.open(work, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        syncfs(fd)  # thousands of files at once; the name to come must never stand for half of them
    finally:
        os.close(fd)


def _fill(store: Store, top: Node, rootfs: str, *, privileged: bool) -> dict[str, Any]:
    """Lay everything down in *rootfs*; what is to be recorded about it."""
    if not top.dependencies and not top.whitelist:
        require(rootfs, _stored(top.image), f"render {top.image}", entries=top.image.entries)
        with Extractor(rootfs, privileged=privileged) as extractor:
            _extract_all(store, top.image, extractor)
            extractor.finish()
            return _result(extractor, [], _stored(top.image))
    distinct = {str(node.image.id): node.image for node in order(top)}
    members = {ident: scan(store, image) for ident, image in distinct.items()}
    plan = make_plan(top, members)
    stored = sum(_stored_entry(source.member.entry) for _, source in plan.leaves)
    require(rootfs, stored, f"render {top.image}", entries=len(plan.leaves) + len(plan.directories))
    with Extractor(rootfs, privileged=privileged) as extractor:
        for path, source in plan.directories:
            extractor.directory(path, source.member.entry if source else None)
        for image in distinct.values():
            _extract_planned(store, image, plan, extractor)
        extractor.finish()
        return _result(extractor, plan.notes, stored)


def _stored(image: Image) -> int:
    """Bytes that an image's files take at most: holes are not in the archive, and not on the disk."""
    return min(image.content, image.unpacked)


def _stored_entry(entry: Entry) -> int:
    return entry.size if entry.segments is None else sum(length for _, length in entry.segments)


def _result(extractor: Extractor, notes: list[str], stored: int) -> dict[str, Any]:
    lost = extractor.downgrades
    return {
        "entries": extractor.placed,
        "content": stored,
        "downgrades": lost.as_dict(),
        "replaced": notes,
        "notes": [*notes, *lost.lines()],
    }


@contextlib.contextmanager
def opened(store: Store, image: Image) -> Iterator[ImageReader]:
    """The entries and bytes of an image in the store."""
    fd = os.open(image.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with reading(file_chunks(fd), store.limits) as reader:
            yield reader
    finally:
        os.close(fd)


def scan(store: Store, image: Image) -> list[Member]:
    """Every entry of an image in the store, its bytes hashed on the way."""
    with opened(store, image) as reader:
        members = list(reader.layout)
        reader.expect(image.id)
        return members


def _extract_all(store: Store, image: Image, extractor: Extractor) -> None:
    with opened(store, image) as reader:
        content = reader.stream.content
        for member in reader.layout:
            kind = member.entry.kind
            if kind == FILE:
                extractor.place(member.path, member.entry, content())
            elif kind == HARDLINK:
                extractor.link(member.path, member.target)
            elif kind == DIRECTORY:
                extractor.directory(member.path, member.entry)
            else:
                extractor.place(member.path, member.entry)
        reader.expect(image.id)


def _extract_planned(store: Store, image: Image, plan: Plan, extractor: Extractor) -> None:
    wanted = plan.content_of(str(image.id))
    if not wanted:
        return
    with opened(store, image) as reader:
        for member in reader.layout:
            if member.entry.kind in (DIRECTORY, HARDLINK):
                continue
            first: bytes | None = None
            group: tuple[int, bytes] | None = None
            for number, path, _ in wanted.get(member.path, ()):
                if first is None:
                    content = reader.stream.content() if member.entry.kind == FILE else ()
                    extractor.place(path, member.entry, content)
                    first = path
                    group = (number, path)
                elif group is not None and group[0] == number:
                    extractor.link(path, group[1])
                else:
                    if member.entry.kind == FILE:
                        extractor.copy(path, first, member.entry)
                    else:
                        extractor.place(path, member.entry)
                    group = (number, path)
        reader.expect(image.id)
