"""Compare a rendered tree with the images it was made from, and make it anew if it differs.

Nothing is kept about a tree to compare it with but the list of images that it was made from: they say what it
has to be, and their bytes are hashed again while they are read. So whatever was changed is found: content,
kind, mode, owner, time, link target, which names are one file, extended attributes, what is missing and what
was added.

A tree that differs is rendered anew beside the old one, and the two change names in one step: at no moment is
the tree missing. Pods that run keep the files they have. The old copy stays as long as one of them does, as
``tree/.damaged-TREE-ID-XXXX`` with the references that the tree had; then gc removes it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections import defaultdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from gantry.images.dependencies import order, recall
from gantry.images.errors import ArchiveError, DigestMismatchError, ImageNotFoundError, explained
from gantry.images.extract import restored
from gantry.images.plan import make_plan
from gantry.images.rendering import compose, opened, replace_used, scan, tree_id
from gantry.images.tarfields import show
from gantry.images.tarstream import BLOCKDEV, CHARDEV, DIRECTORY, FIFO, FILE, HARDLINK, SYMLINK, Entry
from gantry.linux.fs import open_beneath

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from gantry.images.dependencies import Node
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
_LOOK = stat.S_IRUSR | stat.S_IXUSR
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
            Likewise a tree's record of what it was made from.
        ImageNotFoundError: An image that the tree was made from is gone.
    """
    with store.hold(), explained("verify the image"):
        image = store.find(image.id)  # it may have been removed before it was held
        _check_image(store, image)
        trees = {ident: record for ident, record in store.trees().items() if record.get("image") == image.id}
    return [_verify_tree(store, ident, repair=repair) for ident in sorted(trees)]


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


def _verify_tree(store: Store, ident: str, *, repair: bool) -> Verdict:
    with store.hold(), explained("verify the tree"):
        record = store.tree(ident)
        if record is None:
            return Verdict(ident, [], repaired=False)  # removed meanwhile: nobody uses it
        top = _made_from(store, ident, record)
        compared = _inode(store, ident)
        differences = Comparison(store, top, ident).run()
    if not differences or not repair:
        return Verdict(ident, differences, repaired=False)
    return Verdict(ident, differences, repaired=_repair(store, top, ident, compared))


def _made_from(store: Store, ident: str, record: dict[str, Any]) -> Node:
    """What the tree was made from, and not what the names of its dependencies mean by now."""
    images = [str(each) for each in record["images"]]
    privileged = record.get("owners") != "skipped"
    if tree_id(images, privileged=privileged, renderer=record.get("renderer")) != ident:
        raise DigestMismatchError(
            f"the record of {ident} was changed",
            hint="once no pod uses the tree, gantry image gc removes it, and it is rendered anew",
        )

    def image_of(image_id: str) -> Image:
        image = store.get(image_id)
        if image is None:
            raise ImageNotFoundError(
                f'an image that the tree was made from is not in the store any more: "{image_id}"',
                hint="fetch it again",
            )
        return image

    return recall(images, image_of, store.manifest)


def _inode(store: Store, ident: str) -> int:
    return os.stat(store.path("tree", ident)).st_ino


def _repair(store: Store, top: Node, ident: str, compared: int) -> bool:
    """Make the tree anew, unless it has gone, or another process did so meanwhile; whether it is right now.

    No lock is held while the store's is waited for: who renders waits for a tree's while sharing that.
    """
    privileged = (store.tree(ident) or {}).get("owners") != "skipped"
    with store.workspace("tree", f".damaged-{ident}-") as work, explained("render the image anew"):
        with store.hold():
            images = [str(node.image.id) for node in order(top)]
            compose(store, work, top, images, privileged=privileged)
        with store.hold(exclusive=True):
            if store.tree(ident) is None:
                return False
            if _inode(store, ident) == compared:
                replace_used(store, work, ident)
    return True


class Comparison:
    """One tree against its images.

    Args:
        store: The store, held.
        top: What the tree was made from.
        ident: The tree.
    """

    def __init__(self, store: Store, top: Node, ident: str) -> None:
        record = store.tree(ident) or {}
        lost = record.get("downgrades", {})
        self._store = store
        self._top = top
        self._rootfs = store.tree_rootfs(ident)
        self._owners = record.get("owners") != "skipped"
        self._no_devices = {str(path) for path in lost.get("devices", ())}
        self._no_xattrs = {str(text) for text in lost.get("xattrs", ())}
        self._no_times = {str(path) for path in lost.get("times", ())}
        # Kept by a file's first name only; the others are the same file.
        self._lost_setid = bool(lost.get("setid"))
        self._found: list[str] = []
        self._lent: dict[int, tuple[bytes, int]] = {}

    def run(self) -> list[str]:
        """The first differences; empty if there are none."""
        with contextlib.ExitStack() as stack:
            # Whoever is not root cannot look into what the image lets nobody read, though it is all theirs.
            if os.geteuid() != 0:
                stack.callback(self._take_back)
                self._lend()
            root = os.open(self._rootfs, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            stack.callback(os.close, root)
            self._compare(root)
        return self._found

    def _lend(self) -> None:
        """Let the owner look into all directories; :meth:`_take_back` undoes it."""
        waiting = [os.fsencode(self._rootfs)]
        while waiting:
            directory = waiting.pop()
            info = os.lstat(directory)
            mode = stat.S_IMODE(info.st_mode)
            if info.st_uid == os.geteuid() and mode & _LOOK != _LOOK:
                self._lent[info.st_ino] = (directory, mode)
                os.chmod(directory, mode | _LOOK)
            with os.scandir(directory) as entries:
                waiting += [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]

    def _take_back(self) -> None:
        for directory, mode in reversed(self._lent.values()):
            os.chmod(directory, mode)

    def _compare(self, root: int) -> None:
        distinct = {str(node.image.id): node.image for node in order(self._top)}
        members = {ident: scan(self._store, image) for ident, image in distinct.items()}
        plan = make_plan(self._top, members)
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
            with _readable(fd, info) as here:
                self._attributes(here, path, entry)
        finally:
            os.close(fd)

    def _numbers(self, path: bytes, info: os.stat_result, entry: Entry | None, kind: bytes) -> None:
        mode, owner, time = (
            (entry.mode, (entry.uid, entry.gid), entry.mtime_ns) if entry else (0o755, (0, 0), 0)
        )
        found = self._lent[info.st_ino][1] if info.st_ino in self._lent else stat.S_IMODE(info.st_mode)
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

    def _attributes(self, here: str, path: bytes, entry: Entry | None) -> None:
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
        fd = _locate(root, path)
    except OSError:
        return None  # told above
    try:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode):
            return None
        with _readable(fd, info) as here:
            return os.open(here, os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(fd)


@contextlib.contextmanager
def _readable(fd: int, info: os.stat_result) -> Iterator[str]:
    """A path of what *fd* stands for, which its owner may read meanwhile, whatever its mode is."""
    here = f"/proc/self/fd/{fd}"
    mode = stat.S_IMODE(info.st_mode)
    if stat.S_ISLNK(info.st_mode) or mode & stat.S_IRUSR or not os.geteuid() == info.st_uid != 0:
        yield here
        return
    os.chmod(here, mode | stat.S_IRUSR)
    try:
        yield here
    finally:
        os.chmod(here, mode)
