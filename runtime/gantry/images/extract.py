"""Lay entries down below one directory, and nowhere else.

Three independent guards keep an image inside:

- what comes here passed :mod:`gantry.images.layout`: no ``..``, no absolute name, nothing below a link;
- every parent directory is opened by openat2(2) with RESOLVE_BENEATH and RESOLVE_NO_SYMLINKS, from the
  descriptor of the root: a link or a mount in the way is an error of the kernel's;
- the last component is always created, never opened: ``O_EXCL``, mkdir, symlink, link, mknod follow nothing.

Properties (ACI-12): owner, then mode (changing the owner clears setuid), then extended attributes (changing
the owner drops capabilities), then times. Directories get theirs at the very end, deepest first, because
making an entry in one changes its time, and because a read-only directory could not be filled. Of extended
attributes ``security.capability`` and ``user.*`` are restored; labels of a security module belong to the
host that made the image, ``user.overlay.*`` would be orders to overlayfs: both are left.

Without root, owners cannot be set and devices cannot be made; a setuid file would lend the wrong owner, so it
loses that bit. All of this is counted in :class:`Downgrades`, which is kept with the tree: an image that lost
something says so (TRAP-37).
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import TYPE_CHECKING, Self

from gantry.errors import HostError
from gantry.images.errors import ArchiveError, no_space
from gantry.images.tarfields import show
from gantry.images.tarstream import BLOCKDEV, CHARDEV, DIRECTORY, FIFO, FILE, SYMLINK, Entry
from gantry.linux.fs import free_bytes, open_beneath, remove_acls, write_all

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN_PARENT = os.O_PATH | os.O_DIRECTORY
_CACHED_PARENTS = 128
_CAPABILITY = b"security.capability"
_OVERLAY = b"user.overlay."
_LISTED = 20
_PAGE = 4096
_ZEROS = bytes(1 << 20)
# Times that every file system keeps, in nanoseconds: from 1970 to 2038.
_USUAL_NS = (1 << 31) * 1_000_000_000
_NOT_HERE = (errno.EPERM, errno.ENOTSUP, errno.EINVAL, errno.ERANGE, errno.E2BIG, errno.ENOSPC)
_FULL = 1 << 20
_SETID = stat.S_ISUID | stat.S_ISGID


class Downgrades:
    """What an extraction without the needed privileges or file system could not keep.

    Attributes:
        owners: Number of entries whose owner is not the image's.
        devices: Paths of devices that were left out.
        xattrs: ``NAME on PATH`` of extended attributes that were left out.
        times: Paths of what has another time than in the image: the file system knows no such time.
        setid: Paths of files that lost their setuid and setgid bits with their owner: the bits would let
            everybody be the one who unpacked the image.
    """

    def __init__(self) -> None:
        self.owners = 0
        self.devices: list[str] = []
        self.xattrs: list[str] = []
        self.times: list[str] = []
        self.setid: list[str] = []

    def as_dict(self) -> dict[str, object]:
        """For the tree's record: empty when nothing was lost."""
        found = {
            "owners": self.owners,
            "devices": self.devices,
            "xattrs": self.xattrs,
            "times": self.times,
            "setid": self.setid,
        }
        return {key: value for key, value in found.items() if value}

    def lines(self) -> list[str]:
        """What was lost, one line each, for people."""
        lines = []
        if self.owners:
            lines.append(f"{self.owners} entries do not have the owner that the image gives them")
        lines += [f"the device {path} was left out" for path in self.devices[:_LISTED]]
        lines += [f"the attribute {text} was left out" for text in self.xattrs[:_LISTED]]
        lines += [f"the time of {path} is not kept by the file system" for path in self.times[:_LISTED]]
        lines += [f"{path} is not setuid or setgid: its owner was not kept" for path in self.setid[:_LISTED]]
        return lines


class Extractor:
    """Fills the directory *root*, which exists and is empty.

    Use as a context manager; call :meth:`finish` when everything has been placed.

    Args:
        root: The directory.
        privileged: Whether owners and devices are restored; by default whether this process is root.
    """

    def __init__(self, root: str, *, privileged: bool | None = None) -> None:
        self._root = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        # What the directory above passes on would be passed on to all that comes: rights that no image gave.
        remove_acls(self._root)
        self._privileged = os.geteuid() == 0 if privileged is None else privileged
        self._user = os.geteuid()
        self._group = os.getegid()
        self._directories: dict[bytes, Entry | None] = {b"": None}
        self._parents: dict[bytes, int] = {}
        self.downgrades = Downgrades()
        self.placed = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for fd in self._parents.values():
            os.close(fd)
        self._parents.clear()
        os.close(self._root)

    # -- placing ------------------------------------------------------------------------------------

    def place(self, path: bytes, entry: Entry, content: Iterable[bytes] = ()) -> None:
        """Create *path* as *entry* says, its parents included.

        Args:
            path: Where, below the root.
            entry: What: a file, directory, symbolic link, device or pipe.
            content: The stored bytes of a file.

        Raises:
            ArchiveError: The place is taken, or the entry cannot exist here.
            NoSpaceError: The disk is full.
            HostError: The kernel refuses for another reason.
        """
        with _explained(path):
            if entry.kind == DIRECTORY:
                self.directory(path, entry)
                return
            parent, name = self._parent(path)
            if entry.kind == FILE:
                self._file(parent, name, path, entry, content)
            elif entry.kind == SYMLINK:
                os.symlink(entry.linkname, name, dir_fd=parent)
                self._own(name, entry, parent)
                self._leave_out_attributes(path, entry)
                self._stamp(parent, name, path, entry)
            else:
                self._node(parent, name, path, entry)
            self.placed += 1

    def directory(self, path: bytes, entry: Entry | None) -> None:
        """Have the directory *path*; ``None`` for one that no image describes.

        Its properties are set by :meth:`finish`.
        """
        with _explained(path):
            if path not in self._directories:
                parent, name = self._parent(path)
                os.mkdir(name, 0o700, dir_fd=parent)
                self._directories[path] = entry
                self.placed += 1
            elif entry is not None:
                self._directories[path] = entry

    def link(self, path: bytes, target: bytes) -> None:
        """Create *path* as another name of *target*, which was placed before.

        A target that was left out (a device without privileges) leaves the link out, too.
        """
        with _explained(path):
            above, _, target_name = target.rpartition(b"/")
            source = self._open_directory(above)
            # A descriptor of our own: opening the link's parent may push this one out of the cache.
            source = os.dup(source)
            try:
                parent, name = self._parent(path)
                try:
                    os.link(target_name, name, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
                except FileNotFoundError:
                    if show(target) not in self.downgrades.devices:
                        raise
                    self.downgrades.devices.append(show(path))
                self.placed += 1
            finally:
                os.close(source)

    def copy(self, path: bytes, source: bytes, entry: Entry) -> None:
        """Create *path* with the content of the file *source*, placed before, and *entry*'s properties."""
        with _explained(path):
            above, _, name = source.rpartition(b"/")
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._open_directory(above))
            try:
                self.place(path, entry._replace(segments=None), _blocks(fd))
            finally:
                os.close(fd)

    def finish(self) -> None:
        """Give the directories their owners, modes, attributes and times, deepest first."""
        for path in sorted(self._directories, reverse=True):
            entry = self._directories[path]
            with _explained(path):
                fd = self._reopen(path)
                try:
                    if entry is None:
                        self._own_fd(fd, 0, 0)
                        os.fchmod(fd, 0o755)
                        os.utime(fd, ns=(0, 0))
                    else:
                        self._properties(fd, path, entry)
                finally:
                    os.close(fd)

    # -- parents ------------------------------------------------------------------------------------

    def _parent(self, path: bytes) -> tuple[int, bytes]:
        above, _, name = path.rpartition(b"/")
        return self._open_directory(above), name

    def _open_directory(self, path: bytes) -> int:
        """A descriptor, owned by the cache, of a directory below the root; made if it is missing."""
        if not path:
            return self._root
        fd = self._parents.get(path)
        if fd is not None:
            return fd
        if path not in self._directories:
            self._make_parents(path)
        if len(self._parents) >= _CACHED_PARENTS:
            os.close(self._parents.pop(next(iter(self._parents))))
        fd = open_beneath(self._root, path, _OPEN_PARENT)
        self._parents[path] = fd
        return fd

    def _make_parents(self, path: bytes) -> None:
        missing = [path]
        while (above := missing[-1].rpartition(b"/")[0]) not in self._directories:
            missing.append(above)
        for directory in reversed(missing):
            upper, _, name = directory.rpartition(b"/")
            fd = open_beneath(self._root, upper, _OPEN_PARENT) if upper else os.dup(self._root)
            try:
                os.mkdir(name, 0o700, dir_fd=fd)
            finally:
                os.close(fd)
            self._directories[directory] = None
            self.placed += 1

    def _reopen(self, path: bytes) -> int:
        if not path:
            return os.dup(self._root)
        return open_beneath(self._root, path, os.O_RDONLY | os.O_DIRECTORY)

    # -- kinds --------------------------------------------------------------------------------------

    def _file(self, parent: int, name: bytes, path: bytes, entry: Entry, content: Iterable[bytes]) -> None:
        fd = os.open(name, _CREATE, 0o600, dir_fd=parent)
        try:
            if entry.segments is None:
                hole = False
                for block in content:
                    # What is nothing but zeros need not lie on the disk.
                    hole = len(block) >= _PAGE and block[0] == 0 and block == _ZEROS[: len(block)]
                    if hole:
                        os.lseek(fd, len(block), os.SEEK_CUR)
                    else:
                        write_all(fd, block)
                if hole:
                    os.ftruncate(fd, entry.size)
            else:
                _write_sparse(fd, entry.segments, content)
                os.ftruncate(fd, entry.size)
            self._properties(fd, path, entry)
        finally:
            os.close(fd)

    def _node(self, parent: int, name: bytes, path: bytes, entry: Entry) -> None:
        if entry.kind == FIFO:
            os.mknod(name, 0o600 | stat.S_IFIFO, dir_fd=parent)
        elif not self._device(parent, name, path, entry):
            return
        self._own(name, entry, parent)
        # Ours, made a moment ago in a directory that nobody else can enter: no link to follow.
        os.chmod(name, self._mode(path, entry), dir_fd=parent)
        self._leave_out_attributes(path, entry)
        self._stamp(parent, name, path, entry)

    def _device(self, parent: int, name: bytes, path: bytes, entry: Entry) -> bool:
        if entry.devmajor > 0xFFF or entry.devminor > 0xFFFFF:
            raise ArchiveError(f"{show(entry.name)!r} has a device number that Linux does not have")
        kind = {CHARDEV: stat.S_IFCHR, BLOCKDEV: stat.S_IFBLK}[entry.kind]
        try:
            os.mknod(name, 0o600 | kind, os.makedev(entry.devmajor, entry.devminor), dir_fd=parent)
        except PermissionError:
            self.downgrades.devices.append(show(path))
            return False
        return True

    # -- properties ---------------------------------------------------------------------------------

    def _own(self, name: bytes, entry: Entry, parent: int) -> None:
        if self._privileged:
            os.chown(name, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=False)
        elif (entry.uid, entry.gid) != (self._user, self._group):
            self.downgrades.owners += 1

    def _mode(self, path: bytes, entry: Entry) -> int:
        """The mode to set: of a file whose owner is not the image's, without the bits that lend the owner."""
        foreign = not self._privileged and (entry.uid, entry.gid) != (self._user, self._group)
        if not foreign or entry.kind == DIRECTORY or not entry.mode & _SETID:
            return entry.mode
        self.downgrades.setid.append(show(path))
        return entry.mode & ~_SETID

    def _own_fd(self, fd: int, uid: int, gid: int) -> None:
        if self._privileged:
            os.fchown(fd, uid, gid)
        elif (uid, gid) != (self._user, self._group):
            self.downgrades.owners += 1

    def _properties(self, fd: int, path: bytes, entry: Entry) -> None:
        self._own_fd(fd, entry.uid, entry.gid)
        if entry.xattrs:  # after the owner, with whom a capability would go; before a mode that forbids it
            self._attributes(fd, path, entry)
        os.fchmod(fd, self._mode(path, entry))
        os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))
        if not 0 <= entry.mtime_ns < _USUAL_NS and os.fstat(fd).st_mtime_ns != entry.mtime_ns:
            self.downgrades.times.append(show(path))

    def _stamp(self, parent: int, name: bytes, path: bytes, entry: Entry) -> None:
        os.utime(name, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=parent, follow_symlinks=False)
        if not 0 <= entry.mtime_ns < _USUAL_NS:
            found = os.stat(name, dir_fd=parent, follow_symlinks=False).st_mtime_ns
            if found != entry.mtime_ns:
                self.downgrades.times.append(show(path))

    def _attributes(self, fd: int, path: bytes, entry: Entry) -> None:
        for name, value in entry.xattrs.items():
            if not restored(name):
                continue
            try:
                os.setxattr(fd, name, value)
            except OSError as error:
                # Some file systems say "no space" of an attribute that is larger than they take.
                full = error.errno == errno.ENOSPC and free_bytes(f"/proc/self/fd/{fd}") < _FULL
                if full or error.errno not in _NOT_HERE:
                    raise
                self.downgrades.xattrs.append(f"{show(name)} on {show(path)}")

    def _leave_out_attributes(self, path: bytes, entry: Entry) -> None:
        """Linux has these attributes on files and directories only."""
        self.downgrades.xattrs += [f"{show(name)} on {show(path)}" for name in entry.xattrs if restored(name)]


def restored(name: bytes) -> bool:
    """Whether an extended attribute of this name is restored."""
    return name == _CAPABILITY or (name.startswith(b"user.") and not name.startswith(_OVERLAY))


def _write_sparse(fd: int, segments: list[tuple[int, int]], content: Iterable[bytes]) -> None:
    waiting = iter(segments)
    left = 0
    for block in content:
        view = memoryview(block)
        while view:
            while left == 0:
                offset, left = next(waiting)
                os.lseek(fd, offset, os.SEEK_SET)
            part = view[:left]
            write_all(fd, part)
            left -= len(part)
            view = view[len(part) :]


def _blocks(fd: int) -> Iterator[bytes]:
    while block := os.read(fd, 1 << 18):
        yield block


@contextlib.contextmanager
def _explained(path: bytes) -> Iterator[None]:
    """Turn the kernel's refusals into lines that name the entry."""
    try:
        yield
    except OSError as error:
        name = show(path) or "the root directory"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise no_space(f"write {name!r} of the image") from error
        if error.errno in (errno.EXDEV, errno.ELOOP, errno.ENOTDIR, errno.EEXIST, errno.EISDIR):
            raise ArchiveError(f"{name!r} cannot be laid down safely: {error.strerror}") from error
        raise HostError(f"cannot write {name!r} of the image: {error.strerror}") from error
