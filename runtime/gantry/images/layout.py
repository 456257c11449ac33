"""What an image's archive may hold, checked entry by entry in one pass.

The rules (ACI-02 ... ACI-11, TRAP-08):

- exactly two top-level names: ``manifest``, a regular file, and ``rootfs``, a directory;
- no absolute name, no ``..``, no NUL, no name longer than a file system takes; ``./`` in front and slashes at
  the end mean nothing, an entry for ``.`` itself is passed over;
- no path twice;
- nothing lies below a path that the same archive makes a link, a file or a device;
- a hard link names an earlier entry of the same archive below ``rootfs``, and not a directory.

So whatever passes can be extracted in any order, and no entry's place depends on a link.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from gantry.images.errors import ArchiveError, LimitError
from gantry.images.limits import DEFAULT_LIMITS, Limits
from gantry.images.tarfields import show
from gantry.images.tarstream import DIRECTORY, FILE, HARDLINK, KIND_NAMES, SYMLINK, Entry, TarStream

if TYPE_CHECKING:
    from collections.abc import Iterator

MANIFEST = b"manifest"
ROOTFS = b"rootfs"

_IMPLIED = b"implied"


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


class Layout:
    """Goes through an archive and yields what belongs to the root file system.

    After the iteration :attr:`manifest` holds the manifest's bytes and the numbers are complete.

    Attributes:
        manifest: The manifest; ``b""`` until it was met.
        entries: Entries below the root file system.
        content: Bytes of file content, holes included.
    """

    def __init__(self, stream: TarStream, limits: Limits = DEFAULT_LIMITS) -> None:
        self._stream = stream
        self._limits = limits
        self._kinds: dict[bytes, bytes] = {}
        self._links: dict[bytes, bytes] = {}
        self.manifest = b""
        self._has_manifest = False
        self.entries = 0
        self.content = 0

    def __iter__(self) -> Iterator[Member]:
        """Every entry of the root file system, checked.

        Raises:
            ArchiveError: An entry, named in the message, may not be there; or something is missing.
            LimitError: A bound is exceeded.
        """
        for entry in self._stream:
            name = entry.name
            path = clean(name, limits=self._limits)
            if path.startswith(b"rootfs/"):
                yield self._inside(path[7:], entry)
            elif path == ROOTFS:
                self._root(entry)
                yield Member(b"", entry, b"")
            elif path == MANIFEST:
                self._take_manifest(entry)
            elif not path:
                if entry.kind != DIRECTORY:
                    raise ArchiveError(
                        f"{show(name)!r} is {KIND_NAMES[entry.kind]} and has to be a directory"
                    )
            else:
                raise ArchiveError(
                    f"{show(name)!r} is neither 'manifest' nor below 'rootfs'",
                    hint="an image holds only these two",
                )
        self._stream.drain()
        if not self._has_manifest:
            raise ArchiveError("the image has no manifest")
        if not self._kinds:
            raise ArchiveError("the image has no rootfs")

    def _root(self, entry: Entry) -> None:
        if entry.kind != DIRECTORY:
            raise ArchiveError(f"'rootfs' is {KIND_NAMES[entry.kind]} and has to be a directory")
        self._claim(b"", entry)

    def _take_manifest(self, entry: Entry) -> None:
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
            elif known in (DIRECTORY, _IMPLIED):
                return
            else:
                upper = show(b"rootfs/" + above)
                raise ArchiveError(f"{show(entry.name)!r} lies below {upper!r}, which is {KIND_NAMES[known]}")

    def _inside(self, path: bytes, entry: Entry) -> Member:
        self._claim(path, entry)
        self.entries += 1
        kind = entry.kind
        if kind == FILE:
            self.content += entry.size
            return Member(path, entry, b"")
        if kind == HARDLINK:
            return Member(path, entry, self._link(path, entry))
        if kind == SYMLINK:
            self._check_symlink(entry)
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

    def _check_symlink(self, entry: Entry) -> None:
        # Where it points is the app's affair (it is resolved inside the pod); that it can be made is ours.
        if not entry.linkname or b"\0" in entry.linkname or len(entry.linkname) > self._limits.path:
            raise ArchiveError(f"the symbolic link {show(entry.name)!r} has an impossible target")
