"""Pack a directory: what is in it, in the order of the names, exactly once."""

from __future__ import annotations

import errno
import os
import stat
import struct
from typing import TYPE_CHECKING

from gantry.build.packing import BuildError
from gantry.images.layout import clean
from gantry.images.tarfields import show
from gantry.images.tarstream import BLOCKDEV, CHARDEV, DIRECTORY, FIFO, FILE, HARDLINK, SYMLINK, Entry

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from gantry.build.packing import Packer
    from gantry.images.limits import Limits

_READ = 256 * 1024
_KINDS = {
    stat.S_IFREG: FILE,
    stat.S_IFDIR: DIRECTORY,
    stat.S_IFLNK: SYMLINK,
    stat.S_IFCHR: CHARDEV,
    stat.S_IFBLK: BLOCKDEV,
    stat.S_IFIFO: FIFO,
}
_NO_ATTRIBUTES: dict[bytes, bytes] = {}
_ACCESS_LIST = b"system.posix_acl_access"
# An access list is a version (4 bytes) and entries: tag, rights, and whose (acl(5)).
_ENTRIES_AT, _ENTRY = 4, struct.Struct("<HHI")
_GROUP, _MASK = 0x04, 0x10


def kept_attribute(name: str) -> bool:
    """Whether an image holds that extended attribute (ACI-12): others belong to the host."""
    return name == "security.capability" or name.startswith("user.")


class Tree:
    """A directory that becomes a root file system.

    Args:
        directory: It.
        packer: Takes the entries.
        limits: The bounds on names.
        without: Paths below the directory, which with all below them are left out.
        instead: Paths below the directory, of which something that lies elsewhere is packed.

    Attributes:
        skipped: Names of sockets, which were left out: they mean nothing without their process (ACI-14).
        access_lists: Names whose access lists were left out: an image holds none (ACI-12).
    """

    def __init__(
        self,
        directory: str,
        packer: Packer,
        limits: Limits,
        *,
        without: Collection[str] = (),
        instead: Mapping[str, str] | None = None,
    ) -> None:
        self._directory = os.fsencode(directory)
        self._without = {b"rootfs/" + os.fsencode(path) for path in without}
        self._instead = {
            b"rootfs/" + os.fsencode(path): os.fsencode(place) for path, place in (instead or {}).items()
        }
        self._packer = packer
        self._limits = limits
        self._links: dict[tuple[int, int], bytes] = {}
        self.skipped: list[str] = []
        self.access_lists: list[str] = []

    def pack(self) -> None:
        """All of it.

        Raises:
            BuildError: It changes meanwhile, or some of it cannot be read.
            LimitError: A name is longer than an image may have.
            OSError: As the kernel says.
        """
        # Depth first in the order of names; a stack, because a tree may be deeper than Python's.
        waiting = [(self._directory, b"rootfs")]
        while waiting:
            path, name = waiting.pop()
            try:
                if name in self._without or not self._add(self._instead.get(name, path), name):
                    continue
                children = os.listdir(path)
            except OSError as error:
                raise _told(path, error) from error
            children.sort(reverse=True)
            waiting += [(path + b"/" + child, name + b"/" + child) for child in children]

    def _add(self, path: bytes, name: bytes) -> bool:
        """Pack one entry; whether it is a directory."""
        info = os.lstat(path)
        kind = _KINDS.get(stat.S_IFMT(info.st_mode))
        if kind is None:
            self.skipped.append(show(name))
            return False
        limits = self._limits
        above = name.count(b"/")
        if (
            len(name) > limits.path
            or above >= limits.depth
            or len(name) - name.rfind(b"/") > limits.component
        ):
            clean(name, limits=limits)  # says which of them it is
        if info.st_nlink > 1 and kind != DIRECTORY and self._linked(name, info):
            return False
        if kind == FILE:
            self._file(path, name, info)
            return False
        device = kind in (CHARDEV, BLOCKDEV)
        mode, xattrs = info.st_mode & 0o7777, _NO_ATTRIBUTES
        if kind != SYMLINK:
            mode, xattrs = self._attributes(path, name, mode)
        self._packer.add(
            Entry(
                name,
                kind,
                mode,
                info.st_uid,
                info.st_gid,
                0,
                info.st_mtime_ns,
                os.readlink(path) if kind == SYMLINK else b"",
                os.major(info.st_rdev) if device else 0,
                os.minor(info.st_rdev) if device else 0,
                xattrs,
                0,
                None,
            )
        )
        return kind == DIRECTORY

    def _linked(self, name: bytes, info: os.stat_result) -> bool:
        """Pack a further name of what is packed already; False: it is the first (ACI-13)."""
        first = self._links.setdefault((info.st_dev, info.st_ino), name)
        if first == name:
            return False
        mode, uid, gid, time = info.st_mode & 0o7777, info.st_uid, info.st_gid, info.st_mtime_ns
        entry = Entry(name, HARDLINK, mode, uid, gid, 0, time, first, 0, 0, _NO_ATTRIBUTES, 0, None)
        self._packer.add(entry)
        return True

    def _file(self, path: bytes, name: bytes, info: os.stat_result) -> None:
        uid, gid, time = info.st_uid, info.st_gid, info.st_mtime_ns
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            size = left = info.st_size
            mode, xattrs = self._attributes(fd, name, info.st_mode & 0o7777)
            self._packer.add(Entry(name, FILE, mode, uid, gid, size, time, b"", 0, 0, xattrs, 0, None))
            write, read = self._packer.write, os.read
            # One byte more than there should be: a file that has grown shows without another call.
            while chunk := read(fd, min(_READ, left + 1)):
                left -= len(chunk)
                if left < 0:
                    break
                write(chunk)
                if not left and len(chunk) < _READ:
                    break
            after = os.fstat(fd)
        finally:
            os.close(fd)
        if left or (after.st_mtime_ns, after.st_size, after.st_ino) != (
            info.st_mtime_ns,
            info.st_size,
            info.st_ino,
        ):
            raise _changed(path)
        self._packer.pad(size)

    def _attributes(self, file: bytes | int, name: bytes, mode: int) -> tuple[int, dict[bytes, bytes]]:
        """The mode and the attributes that something has in the image.

        With an access list the bits of the group are the list's mask, which may be more than the group may.
        """
        names = _names(file)
        if not names:
            return mode, _NO_ATTRIBUTES
        if any(each.startswith("system.posix_acl_") for each in names):
            self.access_lists.append(show(name))
        if os.fsdecode(_ACCESS_LIST) in names:
            mode = mode & ~0o070 | _group_rights(os.getxattr(file, _ACCESS_LIST)) << 3
        return mode, _kept(file, names)


def attributes(file: bytes | int) -> dict[bytes, bytes]:
    """The extended attributes of a file or directory that an image holds."""
    return _kept(file, _names(file))


def _names(file: bytes | int) -> list[str]:
    try:
        return os.listxattr(file, follow_symlinks=isinstance(file, int))
    except OSError as error:
        if error.errno == errno.ENOTSUP:
            return []
        raise


def _kept(file: bytes | int, names: list[str]) -> dict[bytes, bytes]:
    found = [name for name in names if kept_attribute(name)]
    if any("=" in name for name in found):
        where = file if isinstance(file, bytes) else os.fsencode(os.readlink(f"/proc/self/fd/{file}"))
        raise BuildError(
            f"{show(where)} has an extended attribute with a = in its name, which a tar cannot have",
            hint="remove it: setfattr -x NAME FILE",
        )
    return {os.fsencode(name): os.getxattr(file, name) for name in found} if found else _NO_ATTRIBUTES


def _group_rights(access_list: bytes) -> int:
    """What the owning group may do: its own entry, as far as the mask lets it."""
    rights: dict[int, int] = {tag: bits for tag, bits, _ in _ENTRY.iter_unpack(access_list[_ENTRIES_AT:])}
    return rights.get(_GROUP, 0) & rights.get(_MASK, 0o7)


def _changed(path: bytes) -> BuildError:
    return BuildError(f"{show(path)} changed while it was read", hint="build again when nothing writes there")


def _told(path: bytes, error: OSError) -> Exception:
    """What to say of a file of the tree that could not be read, or of anything else: the error itself."""
    if isinstance(error, PermissionError):
        return BuildError(
            f"{show(path)} cannot be read: {error.strerror}", hint="build as a user who may read it"
        )
    # Gone, or has become a link or a socket.
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO):
        return _changed(path)
    return error
