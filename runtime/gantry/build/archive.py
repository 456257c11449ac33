"""Pack what a tar holds: the tree that ``tar -x`` would make of it, without making it.

So an image can be built from somebody's ``docker export`` or ``debootstrap`` with its owners and devices,
and without root. The tree is made in memory, from the entries alone; contents stay where they are, or wait in
a file without a name until their turn comes, for an image's entries stand in the order of their names.

Rules:

- names may begin with ``./``; an absolute name, or one with ``..``, is refused;
- the last entry of a name counts; a hard link keeps the file that it was made to;
- nothing lies below a link or a file; a directory with something in it is not replaced by one;
- a directory that only its content implies belongs to root, with mode 0755 and the time 0;
- holes of sparse files become zeros, and a ``.wh.`` file is a file.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import TYPE_CHECKING

from gantry.build.packing import BuildError
from gantry.build.tree import kept_attribute
from gantry.images.compression import decompress, sniff
from gantry.images.errors import ImageError, LimitError
from gantry.images.layout import Budget, check_possible, clean
from gantry.images.reading import file_chunks
from gantry.images.tarfields import check_sum, show
from gantry.images.tarstream import DIRECTORY, FILE, HARDLINK, KIND_NAMES, SYMLINK, Entry, TarStream
from gantry.linux.fs import write_all

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from gantry.build.packing import Packer
    from gantry.images.limits import Limits

_READ = 256 * 1024
_ZEROS = bytes(_READ)
_SNIFF = 512
_LIST = "'tar -tvf' lists what is in it"
_IMPLIED = Entry(b"", DIRECTORY, 0o755, 0, 0, 0, 0, b"", 0, 0, {}, 0, None)


class _Node:
    """One file of the tree; several names may lead to it.

    Attributes:
        entry: What the archive says of it.
        at: Where its content lies in the spool.
        children: How many names are directly below it.
        first: The name under which it was packed.
    """

    __slots__ = ("at", "children", "entry", "first")

    def __init__(self, entry: Entry, at: int = 0, children: int = 0) -> None:
        self.entry = entry
        self.at = at
        self.children = children
        self.first: bytes | None = None


class Archive:
    """A tar that becomes a root file system.

    Args:
        path: The file, or ``-`` for standard input.
        directory: Where contents wait when the file cannot be read twice: compressed, or a pipe.
        limits: The bounds.
    """

    def __init__(self, path: str, directory: str, limits: Limits) -> None:
        self._shown = "standard input" if path == "-" else path
        self._path = path
        self._directory = directory
        self._limits = limits
        self._nodes: dict[bytes, _Node] = {b"": _Node(_IMPLIED)}
        self._budget = Budget(limits)

    def pack(self, packer: Packer) -> None:
        """All of it.

        Raises:
            BuildError: It is no tar, or holds what cannot become a root file system.
            LimitError: It exceeds a bound.
            OSError: As the kernel says.
        """
        with contextlib.ExitStack() as stack:
            fd = 0
            if self._path != "-":
                fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
                stack.callback(os.close, fd)
            before = os.fstat(fd)
            start = os.lseek(fd, 0, os.SEEK_CUR) if stat.S_ISREG(before.st_mode) else None
            with self._told():
                if start is not None and _is_plain(os.pread(fd, _SNIFF, start)):
                    spool = fd
                    self._read(file_chunks(fd), lambda stream: start + stream.position)
                else:
                    spool = _nameless(self._directory)
                    stack.callback(os.close, spool)
                    chunks = decompress(file_chunks(fd), self._limits)
                    self._read(chunks, lambda stream: _keep(spool, stream))
            self._write(packer, spool)
            after = os.fstat(fd)
        if start is not None and (before.st_mtime_ns, before.st_size) != (after.st_mtime_ns, after.st_size):
            raise BuildError(f"{self._shown} changed while it was read", hint="build again")

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except LimitError as error:
            raise LimitError(f"{self._shown}: {error.message}", hint=error.hint) from error
        except ImageError as error:
            raise BuildError(
                f"{self._shown}: {error.message}", hint=f"it has to be a tar of a root file system; {_LIST}"
            ) from error

    # -- reading ------------------------------------------------------------------------------------

    def _read(self, chunks: Iterable[bytes], place: Callable[[TarStream], int]) -> None:
        """Learn the tree; *place* says where the current entry's content is, and keeps it there."""
        stream = TarStream(chunks, self._limits)
        entry = None
        for entry in stream:
            path = clean(entry.name, limits=self._limits)
            if entry.kind == FILE and entry.name.endswith(b"/"):  # as the oldest tars write directories
                if entry.size:
                    raise BuildError(f"{self._shown}: {show(entry.name)!r} is a file and is not", hint=_LIST)
                entry = entry._replace(kind=DIRECTORY)  # noqa: PLW2901
            elif entry.kind == SYMLINK:
                entry = entry._replace(mode=0o777)  # noqa: PLW2901  # as it is once it is unpacked
            check_possible(entry, self._limits)
            self._budget.fill(entry.size)
            if entry.kind == HARDLINK:
                self._link(path, entry)
            else:
                self._put(path, _Node(entry, place(stream) if entry.kind == FILE else 0))
        if entry is None:
            raise BuildError(f"{self._shown} holds nothing", hint=_LIST)
        stream.drain()

    def _put(self, path: bytes, node: _Node) -> None:
        known = self._nodes.get(path)
        if known is None:
            self._above(path, node.entry.name).children += 1
        elif known.entry.kind == DIRECTORY:
            if node.entry.kind == DIRECTORY:
                node.children = known.children
            elif known.children or not path:
                raise BuildError(
                    f"{self._shown}: {show(node.entry.name)!r} is {KIND_NAMES[node.entry.kind]}, but was a "
                    "directory with something in it",
                    hint=_LIST,
                )
        self._nodes[path] = node

    def _above(self, path: bytes, name: bytes) -> _Node:
        """The directory that *path* lies in; it and those above it are made where they are missing."""
        missing: list[bytes] = []
        upper = path.rpartition(b"/")[0]
        while (found := self._nodes.get(upper)) is None:
            missing.append(upper)
            self._budget.imply(upper)
            upper = upper.rpartition(b"/")[0]
        if found.entry.kind != DIRECTORY:
            raise BuildError(
                f"{self._shown}: {show(name)!r} lies below {show(upper)!r}, which is "
                f"{KIND_NAMES[found.entry.kind]}",
                hint=_LIST,
            )
        for implied in reversed(missing):
            found.children += 1
            found = self._nodes[implied] = _Node(_IMPLIED)
        return found

    def _link(self, path: bytes, entry: Entry) -> None:
        target = clean(entry.linkname, f"the target of the hard link {show(entry.name)!r}", self._limits)
        node = self._nodes.get(target)
        if node is None or node.entry.kind == DIRECTORY:
            what = "which does not come before it" if node is None else "a directory"
            raise BuildError(
                f"{self._shown}: the hard link {show(entry.name)!r} names {show(target)!r}, {what}",
                hint=_LIST,
            )
        if path == target:
            return
        self._put(path, node)

    # -- writing ------------------------------------------------------------------------------------

    def _write(self, packer: Packer, spool: int) -> None:
        # NUL is in no name and sorts before everything: each directory's content follows it at once.
        for path in sorted(self._nodes, key=lambda path: path.replace(b"/", b"\0")):
            node = self._nodes[path]
            name = b"rootfs/" + path if path else b"rootfs"
            entry = node.entry._replace(name=name)
            if entry.xattrs:
                kept = {key: value for key, value in entry.xattrs.items() if kept_attribute(os.fsdecode(key))}
                entry = entry._replace(xattrs=kept if entry.kind in (FILE, DIRECTORY) else {})
            if node.first is not None:  # ACI-13, for every kind of thing
                packer.add(entry._replace(kind=HARDLINK, size=0, linkname=node.first, xattrs={}))
                continue
            if entry.kind != DIRECTORY:
                node.first = name
            packer.add(entry)
            if entry.kind == FILE:
                self._content(packer, spool, node)
                packer.pad(entry.size)

    def _content(self, packer: Packer, spool: int, node: _Node) -> None:
        at, done, size = node.at, 0, node.entry.size
        segments = [(0, size)] if node.entry.segments is None else node.entry.segments
        for offset, length in segments:
            _zeros(packer, offset - done)
            left = length
            while left:
                piece = os.pread(spool, min(_READ, left), at)
                if not piece:
                    raise BuildError(f"{self._shown} changed while it was read", hint="build again")
                packer.write(piece)
                at += len(piece)
                left -= len(piece)
            done = offset + length
        _zeros(packer, size - done)


def _is_plain(start: bytes) -> bool:
    """Whether a tar is not compressed; the oldest have no magic number."""
    try:
        return sniff(start) == "none"
    except ImageError:
        with contextlib.suppress(ImageError):
            check_sum(start.ljust(_SNIFF, b"\0"), 0)
            return len(start) == _SNIFF
        return False


def _zeros(packer: Packer, size: int) -> None:
    while size > 0:
        packer.write(_ZEROS if size >= _READ else bytes(size))
        size -= _READ


def _keep(spool: int, stream: TarStream) -> int:
    """Append the current entry's stored content to the spool; where it begins there."""
    at = os.lseek(spool, 0, os.SEEK_CUR)
    for piece in stream.content():
        write_all(spool, piece)
    return at


def _nameless(directory: str) -> int:
    """A file that nobody else sees, and that is gone when it is closed."""
    try:
        return os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR):
            raise
    path = os.path.join(directory, f".spool.{os.urandom(8).hex()}")
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    os.unlink(path)
    return fd
