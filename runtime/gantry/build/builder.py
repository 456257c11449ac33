"""Pack a manifest and a root file system into an image file.

Rules (ACI-01, ACI-12 ... ACI-16, ACI-21 ... ACI-23):

- entries in the order of their names, ``rootfs`` first, the manifest last as the reference tool writes it;
- times in whole seconds, no later than ``SOURCE_DATE_EPOCH`` if that is given; the manifest's own time is
  that, or 0: nothing depends on when or where the image is built;
- a second name of the same file becomes a hard link; sockets are left out; everything else is kept, with
  mode, owner, ``security.capability`` and ``user.*`` attributes;
- everything that can be checked is checked before the output is made; the output is made without a name (or,
  on file systems that cannot, with a temporary one) and gets its own when it is complete.
"""

from __future__ import annotations

import bz2
import contextlib
import errno
import hashlib
import lzma
import os
import stat
import zlib
from typing import TYPE_CHECKING, NamedTuple, Protocol

from gantry.appc.errors import AppcError
from gantry.appc.imageid import ImageID
from gantry.appc.manifest import ImageManifest
from gantry.build import tarwriter
from gantry.errors import GantryError, UsageError
from gantry.images.compression import KINDS
from gantry.images.errors import explained
from gantry.images.layout import clean
from gantry.images.tarfields import show
from gantry.images.tarstream import (
    BLOCKDEV,
    CHARDEV,
    DIRECTORY,
    FIFO,
    FILE,
    HARDLINK,
    SYMLINK,
    Entry,
)
from gantry.images.validation import validate_layout
from gantry.linux.fs import fsync_directory, rename_noreplace, write_all

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_READ = 256 * 1024
_GZIP_LEVEL = 6
_KINDS = (
    (stat.S_ISREG, FILE),
    (stat.S_ISDIR, DIRECTORY),
    (stat.S_ISLNK, SYMLINK),
    (stat.S_ISCHR, CHARDEV),
    (stat.S_ISBLK, BLOCKDEV),
    (stat.S_ISFIFO, FIFO),
)


class BuildError(GantryError):
    """An image cannot be built."""

    code = "build"


class Built(NamedTuple):
    """A built image.

    Attributes:
        path: The file.
        image_id: The image ID.
        name: The name in its manifest.
        size: Bytes of the file.
        entries: Entries of the root file system.
        skipped: Sockets that were left out.
    """

    path: str
    image_id: ImageID
    name: str
    size: int
    entries: int
    skipped: list[str]


class _Compressor(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...
    def flush(self) -> bytes: ...


class _Plain:
    def compress(self, data: bytes, /) -> bytes:
        return data

    def flush(self) -> bytes:
        return b""


def _compressor(kind: str) -> _Compressor:
    makers: dict[str, Callable[[], _Compressor]] = {
        "none": _Plain,
        # zlib's own gzip header: no time, no name.
        "gzip": lambda: zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, 31),
        "bzip2": bz2.BZ2Compressor,
        "xz": lzma.LZMACompressor,
    }
    if kind not in makers:
        raise UsageError(f'"{kind}" is no compression', hint=f"one of {', '.join(KINDS)}")
    return makers[kind]()


def build_directory(
    layout: str,
    output: str,
    *,
    compression: str = "gzip",
    owner_root: bool = False,
    overwrite: bool = False,
    epoch: int | None = None,
) -> Built:
    """Build an image from an image layout.

    Args:
        layout: A directory with ``manifest``, ``rootfs`` and nothing else (ACI-22).
        output: The image file; ends in ``.aci``.
        compression: ``none``, ``gzip``, ``bzip2`` or ``xz``.
        owner_root: Write 0:0 as the owner of everything (ACI-16).
        overwrite: Replace the output if it exists.
        epoch: No time in the image is later, in seconds since 1970; by default ``SOURCE_DATE_EPOCH`` of the
            environment, else times stay as they are.

    Raises:
        BuildError: The layout is not valid, or changed while it was read; nothing is left behind.
        UsageError: The output's name, or the compression, cannot be.
        HostError: The kernel refuses.
    """
    problems = validate_layout(layout)
    if problems:
        raise BuildError("; ".join(problems), hint="an image layout holds 'manifest' and 'rootfs'")
    with explained("read the manifest"), open(os.path.join(layout, "manifest"), "rb") as file:
        manifest = file.read()
    return build_image(
        os.path.join(layout, "rootfs"),
        manifest,
        output,
        compression=compression,
        owner_root=owner_root,
        overwrite=overwrite,
        epoch=epoch,
    )


def build_image(
    rootfs: str,
    manifest: bytes,
    output: str,
    *,
    compression: str = "gzip",
    owner_root: bool = False,
    overwrite: bool = False,
    epoch: int | None = None,
) -> Built:
    """Build an image from a root file system and a manifest; otherwise as :func:`build_directory`."""
    if not output.endswith(".aci"):
        raise UsageError(f'the output "{output}" does not end in .aci', hint="ACI-01: name it SOMETHING.aci")
    if os.path.lexists(output) and not overwrite:
        raise UsageError(f"the output {output} exists", hint="use --overwrite to replace it")
    packer = _compressor(compression)
    if os.path.islink(rootfs) or not os.path.isdir(rootfs):
        raise BuildError(f"{rootfs} is not a directory", hint="give the directory that becomes the root")
    try:
        parsed = ImageManifest.parse(manifest, strict=True)
    except AppcError as error:
        raise BuildError(f"the manifest is refused: {error.message}", hint=error.hint) from error
    latest = _epoch(epoch)
    inside = os.path.realpath(output).startswith(os.path.realpath(rootfs) + "/")
    if inside:
        raise UsageError(
            f"the output {output} lies inside the root file system that it is made from",
            hint="write it elsewhere",
        )
    with explained(f"build {output}"), _output(output, overwrite=overwrite) as fd:
        writer = _Writer(fd, packer, owner_root=owner_root, epoch=latest)
        writer.tree(os.fsencode(rootfs))
        writer.manifest(manifest)
        image_id = writer.finish()
        os.fsync(fd)
        size = os.fstat(fd).st_size
    return Built(output, image_id, parsed.name, size, writer.entries, writer.skipped)


def _epoch(given: int | None) -> int | None:
    if given is not None:
        return given
    text = os.environ.get("SOURCE_DATE_EPOCH")
    if not text:
        return None
    if not text.isdecimal() or not text.isascii():
        raise UsageError(f'SOURCE_DATE_EPOCH is "{text}"', hint="give seconds since 1970")
    return int(text)


@contextlib.contextmanager
def _output(path: str, *, overwrite: bool) -> Iterator[int]:
    """A file that appears as *path* when the block ends well, and otherwise never does."""
    directory = os.path.dirname(os.path.abspath(path))
    temporary = os.path.join(directory, f".{os.path.basename(path)}.{os.urandom(4).hex()}.tmp")
    named = False
    try:
        fd = os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR):
            raise
        fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        named = True
    try:
        yield fd
        os.fchmod(fd, 0o644)
        if not named:
            # Python follows the link in /proc only if it has to call linkat(2): any src_dir_fd sees to that.
            os.link(f"/proc/self/fd/{fd}", temporary, src_dir_fd=fd, follow_symlinks=True)
            named = True
        try:
            (os.rename if overwrite else rename_noreplace)(temporary, path)
        except FileExistsError:
            raise UsageError(f"the output {path} exists", hint="use --overwrite to replace it") from None
        named = False
        fsync_directory(directory)
    finally:
        os.close(fd)
        if named:
            os.unlink(temporary)


class _Writer:
    """The stream of one image: tar, hash, compression, file."""

    def __init__(self, fd: int, packer: _Compressor, *, owner_root: bool, epoch: int | None) -> None:
        self._fd = fd
        self._packer = packer
        self._owner_root = owner_root
        self._epoch = epoch
        self._digest = hashlib.sha512()
        self._links: dict[tuple[int, int], bytes] = {}
        self._pending: list[bytes] = []
        self._pending_size = 0
        self.entries = 0
        self.skipped: list[str] = []

    def tree(self, rootfs: bytes) -> None:
        """The root file system, every name in order."""
        self._add(rootfs, b"rootfs", os.lstat(rootfs))
        waiting = [(rootfs, b"rootfs")]
        # Depth first in the order of names; a stack, because a tree may be deeper than Python's.
        while waiting:
            path, name = waiting.pop()
            if path is not rootfs:
                info = os.lstat(path)
                self._add(path, name, info)
                if not stat.S_ISDIR(info.st_mode):
                    continue
            names = sorted((os.fsencode(entry) for entry in os.listdir(path)), reverse=True)
            waiting += [(path + b"/" + child, name + b"/" + child) for child in names]

    def manifest(self, manifest: bytes) -> None:
        """The manifest (ACI-15), the last entry."""
        time = (self._epoch or 0) * 1_000_000_000
        entry = Entry(b"manifest", FILE, 0o644, 0, 0, len(manifest), time, b"", 0, 0, {}, 0, None)
        self._write(tarwriter.headers(entry, b"root", b"root"))
        self._write(manifest + bytes(-len(manifest) % tarwriter.BLOCK))

    def finish(self) -> ImageID:
        """The end of the archive; the image ID."""
        self._write(tarwriter.END)
        self._flush()
        write_all(self._fd, self._packer.flush())
        return ImageID.from_digest(self._digest.digest())

    # -- entries ------------------------------------------------------------------------------------

    def _add(self, path: bytes, name: bytes, info: os.stat_result) -> None:
        kind = next((kind for test, kind in _KINDS if test(info.st_mode)), None)
        if kind is None:  # a socket: it means nothing without its process
            self.skipped.append(show(name))
            return
        clean(name)
        self.entries += 1
        entry = self._entry(path, name, info, kind)
        if kind == FILE and info.st_nlink > 1:
            key = (info.st_dev, info.st_ino)
            first = self._links.setdefault(key, name)
            if first != name:
                link = entry._replace(kind=HARDLINK, size=0, linkname=first, xattrs={})
                self._write(tarwriter.headers(link, *self._names()))
                return
        if kind == FILE:
            self._file(path, entry)
        else:
            self._write(tarwriter.headers(entry, *self._names()))

    def _names(self) -> tuple[bytes, bytes]:
        # The names of owners belong to the host the image is built on; numbers are what counts.
        return (b"root", b"root") if self._owner_root else (b"", b"")

    def _entry(self, path: bytes, name: bytes, info: os.stat_result, kind: bytes) -> Entry:
        seconds = info.st_mtime_ns // 1_000_000_000
        if self._epoch is not None:
            seconds = min(seconds, self._epoch)
        device = kind in (CHARDEV, BLOCKDEV)
        return Entry(
            name=name,
            kind=kind,
            mode=stat.S_IMODE(info.st_mode),
            uid=0 if self._owner_root else info.st_uid,
            gid=0 if self._owner_root else info.st_gid,
            size=info.st_size if kind == FILE else 0,
            mtime_ns=seconds * 1_000_000_000,
            linkname=os.readlink(path) if kind == SYMLINK else b"",
            devmajor=os.major(info.st_rdev) if device else 0,
            devminor=os.minor(info.st_rdev) if device else 0,
            xattrs=_attributes(path) if kind in (FILE, DIRECTORY) else {},
            offset=0,
            segments=None,
        )

    def _file(self, path: bytes, entry: Entry) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            self._write(tarwriter.headers(entry, *self._names()))
            left = entry.size
            while left > 0:
                chunk = os.read(fd, min(_READ, left))
                if not chunk:
                    break
                self._write(chunk)
                left -= len(chunk)
            if left or os.read(fd, 1):
                raise BuildError(f"{show(path)} changed while it was read", hint="build again")
        finally:
            os.close(fd)
        padding = -entry.size % tarwriter.BLOCK
        if padding:
            self._write(bytes(padding))

    # -- bytes --------------------------------------------------------------------------------------

    def _write(self, data: bytes) -> None:
        self._pending.append(data)
        self._pending_size += len(data)
        if self._pending_size >= _READ:
            self._flush()

    def _flush(self) -> None:
        data = b"".join(self._pending)
        self._pending, self._pending_size = [], 0
        self._digest.update(data)
        packed = self._packer.compress(data)
        if packed:
            write_all(self._fd, packed)


def _attributes(path: bytes) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except OSError as error:
        if error.errno == errno.ENOTSUP:
            return found
        raise
    for name in names:
        if name == "security.capability" or name.startswith("user."):
            found[os.fsencode(name)] = os.getxattr(path, name, follow_symlinks=False)
    return found
