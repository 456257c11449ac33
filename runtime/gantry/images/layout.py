"""What an image's archive may hold, checked entry by entry in one pass.

The rules (ACI-02 ... ACI-11, TRAP-08):

- exactly two top-level names: ``manifest``, a regular file, and ``rootfs``, a directory;
- no absolute name, no ``..``, no NUL, no name longer than a file system takes; ``./`` in front and slashes at
  the end mean nothing, an entry for ``.`` itself is passed over;
- no path twice;
- nothing lies below a path that the same archive makes a link, a file or a device;
- a slash at the end of a name is a directory's;
- a hard link names an earlier entry of the same archive below ``rootfs``, and not a directory.

So whatever passes can be extracted in any order, and no entry's place depends on a link. What Linux cannot
make (a device number, an attribute) is refused here, too, so that what is taken in can be rendered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from gantry.images.errors import ArchiveError, LimitError
from gantry.images.limits import DEFAULT_LIMITS, Limits
from gantry.images.tarfields import show
from gantry.images.tarstream import (
    BLOCKDEV,
    CHARDEV,
    DIRECTORY,
    FILE,
    HARDLINK,
    KIND_NAMES,
    SYMLINK,
    Entry,
    TarStream,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MANIFEST = b"manifest"
ROOTFS = b"rootfs"

_IMPLIED = b"implied"
_TO_CHECK = frozenset({SYMLINK, CHARDEV, BLOCKDEV})
_XATTR_NAME = 255
_MAX_MAJOR = 0xFFF
_MAX_MINOR = 0xFFFFF


class Member(NamedTuple):
    """An entry that passed.

    Attributes:
        path: Its path below the root file system, without slashes at the ends; ``b""`` is the root itself.
        entry: What the archive says.
        target: For a hard link the path, below the root file system, of the entry that holds the content.
    """

    path: bytes
    entry: Entry
    target: bytes


def clean(name: bytes, what: str = "", limits: Limits = DEFAULT_LIMITS) -> bytes:
    """*name* without ``.`` components and superfluous slashes; ``b""`` for ``.`` itself.

    Implements ACI-03, ACI-08, ACI-11.

    Raises:
        ArchiveError: It is absolute, has ``..`` or a NUL in it, or is empty.
        LimitError: It is too long or too deep.
    """
    shown = f"{show(name[:200])!r}" + (f" ({what})" if what else "")
    if not name:
        raise ArchiveError(f"an entry without a name{f' ({what})' if what else ''}")
    if name.startswith(b"/"):
        raise ArchiveError(f"{shown} is absolute, which an image may not hold")
    if b"\0" in name:
        raise ArchiveError(f"{shown} has a NUL byte in its name")
    parts = [part for part in name.split(b"/") if part not in (b"", b".")]
    if b".." in parts:
        raise ArchiveError(f"{shown} has '..' in its name, which could lead out of the image")
    path = b"/".join(parts)
    if len(path) > limits.path:
        raise LimitError(f"{shown}... has {len(path)} bytes, more than {limits.path} (bound: path)")
    if len(parts) > limits.depth:
        raise LimitError(f"{shown}... has {len(parts)} components, more than {limits.depth} (bound: depth)")
    if any(len(part) > limits.component for part in parts):
        raise LimitError(f"{shown} has a component of over {limits.component} bytes (bound: component)")
    return path


def check_possible(entry: Entry, limits: Limits = DEFAULT_LIMITS) -> None:
    """What Linux cannot make is refused before anything is made.

    Raises:
        ArchiveError: It is a link to nothing, a device or an attribute that cannot be.
        LimitError: An attribute is too large.
    """
    if entry.kind == SYMLINK:
        # Where it points is the app's affair (it is resolved inside the pod); that it can be made is ours.
        if not entry.linkname or b"\0" in entry.linkname or len(entry.linkname) > limits.path:
            raise ArchiveError(f"the symbolic link {show(entry.name)!r} has an impossible target")
    elif entry.devmajor > _MAX_MAJOR or entry.devminor > _MAX_MINOR:
        raise ArchiveError(f"{show(entry.name)!r} has a device number that Linux does not have")
    for name, value in entry.xattrs.items():
        if b"\0" in name:
            raise ArchiveError(f"{show(entry.name)!r} has an extended attribute with a NUL in its name")
        if not name or len(name) > _XATTR_NAME:
            raise ArchiveError(
                f"{show(entry.name)!r} has an extended attribute whose name has {len(name)} bytes"
            )
        if len(value) > limits.xattr:
            raise LimitError(
                f"the extended attribute {show(name)!r} of {show(entry.name)!r} has {len(value)} bytes, "
                f"more than {limits.xattr} (bound: xattr)"
            )


class Budget:
    """What entries cost beyond their own bytes in the archive, added up and bounded.

    Attributes:
        content: Bytes of file content, holes included.
        implied: Directories that no entry describes, but that entries lie in.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._names = 0
        self.content = 0
        self.implied = 0

    def fill(self, size: int) -> None:
        """A file of *size* bytes.

        Raises:
            LimitError: All of them together are too large.
        """
        self.content += size
        if self.content > self._limits.unpacked:
            raise LimitError(
                f"the files in the archive have more than {self._limits.unpacked} bytes, holes included "
                "(bound: unpacked)"
            )

    def imply(self, path: bytes) -> None:
        """A directory without an entry: costs memory and an inode, and one entry can imply hundreds.

        Raises:
            LimitError: There are too many, or their names are too long.
        """
        self.implied += 1
        self._names += len(path)
        if self.implied > self._limits.entries:
            raise LimitError(
                f"the archive has more than {self._limits.entries} directories without an entry of their own "
                "(bound: entries)"
            )
        if self._names > self._limits.names:
            raise LimitError(
                f"the names of the directories in the archive have more than {self._limits.names} bytes "
                "(bound: names)"
            )


class Layout:
    """Goes through an archive and yields what belongs to the root file system.

    After the iteration :attr:`manifest` holds the manifest's bytes and the numbers are complete.

    Attributes:
        manifest: The manifest; ``b""`` until it was met.
        entries: Entries below the root file system.
        on_problem: Where set, gets what is wrong with one entry, which is then passed over, so that the
            next one is looked at; for a validator. An image that has any such problem is none.
    """

    on_problem: Callable[[ArchiveError], None] | None = None

    def __init__(self, stream: TarStream, limits: Limits = DEFAULT_LIMITS) -> None:
        self._stream = stream
        self._limits = limits
        self._kinds: dict[bytes, bytes] = {}
        self._links: dict[bytes, bytes] = {}
        self.manifest = b""
        self._has_manifest = self._manifest_met = self._root_met = False
        self.entries = 0
        self._budget = Budget(limits)

    def __iter__(self) -> Iterator[Member]:
        """Every entry of the root file system, checked.

        Raises:
            ArchiveError: An entry, named in the message, may not be there; or something is missing.
            LimitError: A bound is exceeded.
        """
        for entry in self._stream:
            try:
                member = self._member(entry)
            except ArchiveError as error:
                self._problem(error)
                continue
            if member is not None:
                yield member
        try:
            self._stream.drain()
        except ArchiveError as error:
            self._problem(error)
        if not self._manifest_met:
            self._problem(ArchiveError("the image has no manifest"))
        if not self._kinds and not self._root_met:
            self._problem(ArchiveError("the image has no rootfs"))

    @property
    def content(self) -> int:
        """Bytes of file content so far, holes included."""
        return self._budget.content

    @property
    def implied(self) -> int:
        """Directories so far that no entry describes, but that entries lie in."""
        return self._budget.implied

    def _problem(self, error: ArchiveError) -> None:
        if self.on_problem is None:
            raise error
        self.on_problem(error)

    def _member(self, entry: Entry) -> Member | None:
        """What the entry is in the root file system; ``None``: it is not part of it."""
        name = entry.name
        path = clean(name, limits=self._limits)
        if entry.kind != DIRECTORY and name.endswith((b"/", b"/.")):
            raise ArchiveError(f"{show(name)!r} is {KIND_NAMES[entry.kind]} and has the name of a directory")
        if path.startswith(b"rootfs/"):
            return self._inside(path[7:], entry)
        if path == ROOTFS:
            self._root(entry)
            return Member(b"", entry, b"")
        if path == MANIFEST:
            self._take_manifest(entry)
        elif path:
            raise ArchiveError(
                f"{show(name)!r} is neither 'manifest' nor below 'rootfs'",
                hint="an image holds only these two",
            )
        elif entry.kind != DIRECTORY:
            raise ArchiveError(f"{show(name)!r} is {KIND_NAMES[entry.kind]} and has to be a directory")
        return None

    def _root(self, entry: Entry) -> None:
        self._root_met = True
        if entry.kind != DIRECTORY:
            raise ArchiveError(f"'rootfs' is {KIND_NAMES[entry.kind]} and has to be a directory")
        self._claim(b"", entry)
        check_possible(entry, self._limits)

    def _take_manifest(self, entry: Entry) -> None:
        self._manifest_met = True
        if entry.kind != FILE or entry.segments is not None:
            raise ArchiveError(f"'manifest' is {KIND_NAMES[entry.kind]} and has to be a plain file")
        if self._has_manifest:
            raise ArchiveError("'manifest' is in the archive twice")
        if entry.size > self._limits.manifest:
            raise LimitError(
                f"the manifest has {entry.size} bytes, more than {self._limits.manifest} (bound: manifest)"
            )
        self._has_manifest = True
        self.manifest = self._stream.read()

    def _claim(self, path: bytes, entry: Entry) -> None:
        kinds = self._kinds
        known = kinds.get(path)
        if known is not None and not (known == _IMPLIED and entry.kind == DIRECTORY):
            if known == _IMPLIED:
                raise ArchiveError(
                    f"{show(entry.name)!r} is {KIND_NAMES[entry.kind]}, but other entries lie below it"
                )
            raise ArchiveError(f"{show(entry.name)!r} is in the archive twice (again at byte {entry.offset})")
        kinds[path] = entry.kind
        above = path
        while above:
            above = above.rpartition(b"/")[0]
            known = kinds.get(above)
            if known is None:
                kinds[above] = _IMPLIED
                self._budget.imply(above)
            elif known in (DIRECTORY, _IMPLIED):
                return
            else:
                upper = show(b"rootfs/" + above)
                raise ArchiveError(f"{show(entry.name)!r} lies below {upper!r}, which is {KIND_NAMES[known]}")

    def _inside(self, path: bytes, entry: Entry) -> Member:
        self._claim(path, entry)
        self.entries += 1
        kind = entry.kind
        if entry.xattrs or kind in _TO_CHECK:
            check_possible(entry, self._limits)
        if kind == FILE:
            self._budget.fill(entry.size)
            return Member(path, entry, b"")
        if kind == HARDLINK:
            return Member(path, entry, self._link(path, entry))
        return Member(path, entry, b"")

    def _link(self, path: bytes, entry: Entry) -> bytes:
        named = clean(entry.linkname, f"the target of the hard link {show(entry.name)!r}", self._limits)
        if not named.startswith(b"rootfs/"):
            raise ArchiveError(f"the hard link {show(entry.name)!r} leads out of the root file system")
        target = named[7:]
        known = self._kinds.get(target)
        if target == path or known is None:
            raise ArchiveError(
                f"the hard link {show(entry.name)!r} names {show(named)!r}, which does not come before it"
            )
        if known in (DIRECTORY, _IMPLIED):
            raise ArchiveError(f"the hard link {show(entry.name)!r} names the directory {show(named)!r}")
        target = self._links.get(target, target)
        self._links[path] = target
        return target
