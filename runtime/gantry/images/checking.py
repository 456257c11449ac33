"""Compare a rendered tree with the images it was made from, and make it anew if it differs.

Nothing is kept about a tree to compare it with: the images in the store say what it has to be, and their
bytes are hashed again while they are read. So whatever was changed is found: content, kind, mode, owner,
time, link target, which names are one file, extended attributes, what is missing and what was added.

A tree that differs is rendered anew beside the old one, and the two change names in one step: at no moment is
the tree missing. Pods that run keep the files they have. The old copy stays as long as one of them does, as
``tree/.damaged-TREE-ID-XXXX`` with the references that the tree had; then gc removes it.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import defaultdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from gantry.images.dependencies import order
from gantry.images.errors import ArchiveError, DigestMismatchError, explained
from gantry.images.extract import restored
from gantry.images.plan import make_plan
from gantry.images.rendering import compose, graph, opened, replace_used, scan
from gantry.images.tarfields import show
from gantry.images.tarstream import BLOCKDEV, CHARDEV, DIRECTORY, FIFO, FILE, HARDLINK, SYMLINK, Entry
from gantry.linux.fs import open_beneath
from gantry.linux.locks import locked

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from gantry.images.plan import Plan, Source
    from gantry.images.records import Image
    from gantry.images.store import Store

_KINDS = {
    stat.S_IFREG: FILE,
    stat.S_IFDIR: DIRECTORY,
    stat.S_IFLNK: SYMLINK,
    stat.S_IFIFO: FIFO,
    stat.S_IFCHR: CHARDEV,
    stat.S_IFBLK: BLOCKDEV,
}
_WORDS = {
    FILE: "a file",
    DIRECTORY: "a directory",
    SYMLINK: "a symbolic link",
    FIFO: "a named pipe",
    CHARDEV: "a character device",
    BLOCKDEV: "a block device",
}
_BLOCK = 1 << 18
_SETID = stat.S_ISUID | stat.S_ISGID
#: Differences that are told of one tree; the first will do to see what happened.
MANY = 20


class Verdict(NamedTuple):
    """What was found out about one rendered tree.

    Attributes:
        tree: The tree's ID.
        differences: What is not as the images say, ``PATH: …``, the first :data:`MANY`; empty: it is right.
        repaired: Whether it was made anew.
    """

    tree: str
    differences: list[str]
    repaired: bool


def verify(store: Store, image: Image, *, repair: bool = True) -> list[Verdict]:
    """Check the image's own bytes and every tree that was rendered from it.

    Implements DEP-29. Costs about as much as rendering.

    Args:
        store: The store.
        image: The image.
        repair: Make a tree anew that differs.

    Returns:
        One verdict a tree; none: it was never rendered.

    Raises:
        DigestMismatchError: The image's own bytes, or those of one it depends on, were changed. That cannot
            be repaired from the store.
        ImageNotFoundError: An image that the tree was made from is gone.
    """
    with store.hold(), explained("verify the image"):
        image = store.find(image.id)  # it may have been removed before it was held
        _check_image(store, image)
        trees = {ident: record for ident, record in store.trees().items() if record.get("image") == image.id}
    return [_verify_tree(store, image, ident, repair=repair) for ident in sorted(trees)]


def _check_image(store: Store, image: Image) -> None:
    with opened(store, image) as reader:
        for _ in reader.layout:
            pass
        reader.expect(image.id)
        if reader.layout.manifest != store.manifest_bytes(image.id):
            raise DigestMismatchError(
                f"the manifest that the store keeps of {image} is not the one in the image",
                hint="remove the image and fetch it again",
            )


def _verify_tree(store: Store, image: Image, ident: str, *, repair: bool) -> Verdict:
    with store.hold(), explained("verify the tree"):
        record = store.tree(ident)
        if record is None:
            return Verdict(ident, [], repaired=False)  # removed meanwhile: nobody uses it
        differences = Comparison(store, image, ident).run()
    if not differences or not repair:
        return Verdict(ident, differences, repaired=False)
    _repair(store, image, ident)
    return Verdict(ident, differences, repaired=True)


def _repair(store: Store, image: Image, ident: str) -> None:
    privileged = (store.tree(ident) or {}).get("owners") != "skipped"
    with (
        locked(store.path("tree-locks", ident), remove=True),
        store.workspace("tree", f".damaged-{ident}-") as work,
        explained("render the image anew"),
    ):
        with store.hold():
            top = graph(store, image)
            images = [str(node.image.id) for node in order(top)]
            compose(store, work, top, images, privileged=privileged)
        with store.hold(exclusive=True):
            if store.tree(ident) is None:
                return  # removed meanwhile
            replace_used(store, work, ident)


class Comparison:
    """One tree against its images.

    Args:
        store: The store, held.
        image: The image that the tree was rendered from.
        ident: The tree.
    """

    def __init__(self, store: Store, image: Image, ident: str) -> None:
        record = store.tree(ident) or {}
        lost = record.get("downgrades", {})
        self._store = store
        self._image = image
        self._rootfs = store.tree_rootfs(ident)
        self._owners = record.get("owners") != "skipped"
        self._no_devices = {str(path) for path in lost.get("devices", ())}
        self._no_xattrs = {str(text) for text in lost.get("xattrs", ())}
        self._no_times = {str(path) for path in lost.get("times", ())}
        # Kept by a file's first name only; the others are the same file.
        self._lost_setid = bool(lost.get("setid"))
        self._found: list[str] = []

    def run(self) -> list[str]:
        """The first differences; empty if there are none."""
        root = os.open(self._rootfs, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            self._compare(root)
        finally:
            os.close(root)
        return self._found

    def _compare(self, root: int) -> None:
        top = graph(self._store, self._image)
        distinct = {str(node.image.id): node.image for node in order(top)}
        members = {ident: scan(self._store, image) for ident, image in distinct.items()}
        plan = make_plan(top, members)
        origins = {
            ident: {member.path: member.entry for member in found if member.entry.kind != HARDLINK}
            for ident, found in members.items()
        }
        leaves = {path: source for path, source in plan.leaves if show(path) not in self._no_devices}
        self._names({path for path, _ in plan.directories} | set(leaves))
        for path, source in plan.directories:
            self._properties(root, path, source.member.entry if source else None)
        for path, source in leaves.items():
            self._properties(root, path, _entry(source, origins[source.image]))
        self._links(leaves)
        for image in distinct.values():
            if self._full():
                return
            self._contents(root, image, plan)

    def _tell(self, path: bytes, text: str) -> None:
        if not self._full():
            self._found.append(f"{show(path) or '/'}: {text}")

    def _full(self) -> bool:
        return len(self._found) >= MANY

    # -- names --------------------------------------------------------------------------------------

    def _names(self, expected: set[bytes]) -> None:
        there = {b""}
        for path in _walk(os.fsencode(self._rootfs)):
            there.add(path)
            if path not in expected:
                self._tell(path, "is not of the image")
        for path in sorted(expected - there):
            self._tell(path, "is missing")

    # -- properties ---------------------------------------------------------------------------------

    def _properties(self, root: int, path: bytes, entry: Entry | None) -> None:
        try:
            fd = _locate(root, path)
        except OSError:
            return  # told as missing, or as another kind, above
        try:
            info = os.fstat(fd)
            kind = _KINDS.get(stat.S_IFMT(info.st_mode), b"")
            expected = entry.kind if entry else DIRECTORY
            if kind != expected:
                self._tell(path, f"{_WORDS[expected]} expected, {_WORDS.get(kind, 'a socket')} found")
                return
            self._numbers(path, info, entry, kind)
            if kind == SYMLINK and entry:
                target = os.readlink(b"", dir_fd=fd)
                if target != entry.linkname:
                    self._tell(path, f"link to {show(entry.linkname)} expected, to {show(target)} found")
            self._attributes(fd, path, entry)
        finally:
            os.close(fd)

    def _numbers(self, path: bytes, info: os.stat_result, entry: Entry | None, kind: bytes) -> None:
        mode, owner, time = (
            (entry.mode, (entry.uid, entry.gid), entry.mtime_ns) if entry else (0o755, (0, 0), 0)
        )
        found = stat.S_IMODE(info.st_mode)
        if self._lost_setid and kind != DIRECTORY and found == mode & ~_SETID:
            mode = found
        if kind != SYMLINK and found != mode:
            self._tell(path, f"mode {mode:04o} expected, {found:04o} found")
        if self._owners and (info.st_uid, info.st_gid) != owner:
            self._tell(path, f"owner {owner[0]}:{owner[1]} expected, {info.st_uid}:{info.st_gid} found")
        if info.st_mtime_ns != time and show(path) not in self._no_times:
            self._tell(path, f"time {_moment(time)} expected, {_moment(info.st_mtime_ns)} found")
        if entry and kind == FILE and info.st_size != entry.size:
            self._tell(path, f"{entry.size} bytes expected, {info.st_size} found")
        if entry and kind in (CHARDEV, BLOCKDEV):
            numbers = (os.major(info.st_rdev), os.minor(info.st_rdev))
            if numbers != (entry.devmajor, entry.devminor):
                self._tell(path, f"device {entry.devmajor}:{entry.devminor} expected, {numbers} found")

    def _attributes(self, fd: int, path: bytes, entry: Entry | None) -> None:
        here = f"/proc/self/fd/{fd}"
        try:
            names = [os.fsencode(name) for name in os.listxattr(here)]
        except OSError as error:
            if error.errno != errno.ENOTSUP:
                raise
            names = []
        found = {name: os.getxattr(here, name) for name in names if _counts(name)}
        expected = {
            name: value
            for name, value in (entry.xattrs if entry else {}).items()
            if restored(name) and f"{show(name)} on {show(path)}" not in self._no_xattrs
        }
        for name in sorted(found.keys() | expected.keys()):
            if found.get(name) != expected.get(name):
                what = (
                    "missing" if name not in found else "changed" if name in expected else "not of the image"
                )
                self._tell(path, f"attribute {show(name)} is {what}")

    # -- hard links ---------------------------------------------------------------------------------

    def _links(self, leaves: dict[bytes, Source]) -> None:
        """Names that are one file in the images are one file here, and no others are."""
        groups: dict[tuple[str, int, bytes], list[bytes]] = defaultdict(list)
        for path, source in leaves.items():
            groups[source.image, source.number, _origin(source)].append(path)
        rootfs = os.fsencode(self._rootfs)
        for paths in groups.values():
            inodes = {}
            for path in paths:
                try:
                    info = os.lstat(rootfs + b"/" + path)
                except OSError:
                    continue
                inodes[path] = (info.st_ino, info.st_nlink)
            if len(set(inodes.values())) > 1:
                first = min(inodes)
                other = next(path for path in sorted(inodes) if inodes[path][0] != inodes[first][0])
                self._tell(other, f"is no longer one file with {show(first)}")
            elif any(count != len(paths) for _, count in inodes.values()):
                count = next(iter(inodes.values()))[1]
                self._tell(min(inodes), f"{len(paths)} names expected, {count} found")

    # -- content ------------------------------------------------------------------------------------

    def _contents(self, root: int, image: Image, plan: Plan) -> None:
        wanted = plan.content_of(str(image.id))
        with opened(self._store, image) as reader:
            for member in reader.layout:
                places = wanted.get(member.path)
                if member.entry.kind != FILE or not places:
                    continue
                one_each = {(number, member.path): path for number, path, _ in reversed(places)}
                self._content(root, list(one_each.values()), member.entry, reader.stream.content())
            reader.expect(image.id)

    def _content(self, root: int, paths: list[bytes], entry: Entry, content: Iterable[bytes]) -> None:
        files = {}
        try:
            for path in paths:
                fd = _open_file(root, path)
                if fd is not None:
                    files[path] = fd
            at = 0
            waiting = iter(_segments(entry))
            offset = left = 0
            for block in content:
                view = memoryview(block)
                while view and files:
                    if not left:
                        offset, left = next(waiting)
                        self._holes(files, at, offset)
                    part = view[:left]
                    for path in [
                        path for path, fd in files.items() if os.pread(fd, len(part), offset) != part
                    ]:
                        self._tell(path, f"its content is not the image's at byte {offset} or soon after")
                        os.close(files.pop(path))
                    offset += len(part)
                    left -= len(part)
                    at = offset
                    view = view[len(part) :]
            self._holes(files, at, entry.size)
        finally:
            for fd in files.values():
                os.close(fd)

    def _holes(self, files: dict[bytes, int], start: int, end: int) -> None:
        """What lies between the segments of a sparse file reads as zeros."""
        while start < end and files:
            size = min(_BLOCK, end - start)
            for path, fd in list(files.items()):
                if os.pread(fd, size, start).strip(b"\0"):
                    self._tell(path, f"its content is not the image's at byte {start} or soon after")
                    os.close(files.pop(path))
            start += size


def _moment(nanoseconds: int) -> str:
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S}.{rest:09} UTC"
    except (ValueError, OverflowError, OSError):  # beyond the years that have four digits
        return f"{seconds}.{rest:09}"


def _counts(name: bytes) -> bool:
    """Whether an attribute belongs to the tree or grants something; the others are the host's labels."""
    return name.startswith((b"user.", b"trusted.", b"system.posix_acl_")) or name == b"security.capability"


def _origin(source: Source) -> bytes:
    return source.member.target if source.member.entry.kind == HARDLINK else source.member.path


def _entry(source: Source, origins: dict[bytes, Entry]) -> Entry:
    """The entry whose properties a path has: a hard link means its target's (TRAP-08)."""
    entry = origins.get(_origin(source))
    if entry is None:  # the layout has checked that
        raise ArchiveError(f"{show(_origin(source))!r} is not in the image")
    return entry


def _segments(entry: Entry) -> Iterator[tuple[int, int]]:
    yield from [(0, entry.size)] if entry.segments is None else [each for each in entry.segments if each[1]]


def _walk(rootfs: bytes) -> Iterator[bytes]:
    waiting = [b""]
    while waiting:
        above = waiting.pop()
        with os.scandir(rootfs + b"/" + above) as entries:
            for each in entries:
                path = above + b"/" + each.name if above else each.name
                yield path
                if each.is_dir(follow_symlinks=False):
                    waiting.append(path)


def _locate(root: int, path: bytes) -> int:
    """A descriptor of what has the name, which may be anything, links themselves included."""
    if not path:
        return os.dup(root)
    above, _, name = path.rpartition(b"/")
    parent = open_beneath(root, above, os.O_PATH | os.O_DIRECTORY) if above else os.dup(root)
    try:
        return os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    finally:
        os.close(parent)


def _open_file(root: int, path: bytes) -> int | None:
    try:
        fd = open_beneath(root, path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if error.errno == errno.EACCES:
            raise
        return None  # told above
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        return None
    return fd
