"""Say all that is wrong with an image file or an image layout, without storing anything.

A problem is what keeps a file from being an image; a warning is what other readers may take differently, or
what its publisher would want to know. Everything is looked at that can be: an entry that may not be there
does not hide the next one. What cannot be gone on from is a damaged header, damaged compression, and a bound.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Any

from gantry.appc import lastditch
from gantry.appc.errors import AppcError
from gantry.appc.manifest import ImageManifest
from gantry.images.compression import sniff
from gantry.images.errors import ArchiveError, ImageError
from gantry.images.extract import restored
from gantry.images.limits import DEFAULT_LIMITS, Limits
from gantry.images.reading import file_chunks, reading
from gantry.images.tarfields import show
from gantry.images.tarstream import BLOCKDEV, CHARDEV, DIRECTORY

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from gantry.errors import GantryError
    from gantry.images.layout import Layout

_MANY = 100
_NAMED = 5
_SNIFF = 512
_SETID = stat.S_ISUID | stat.S_ISGID
# Links in the bases of today's distributions; what has entries below them replaces the link (TRAP-09).
_MERGED = frozenset({b"bin", b"sbin", b"lib", b"lib32", b"lib64", b"libx32"})


def below_merged(path: bytes) -> bytes:
    """Where in a root *path* lies below what many bases have as a link; empty if nowhere."""
    top, slash, _ = path.partition(b"/")
    return top if slash and top in _MERGED else b""


def merged_warning(names: Iterable[bytes]) -> str:
    """What is to be said of an image with dependencies that has entries below these names (TRAP-09)."""
    return (
        f"has entries below {', '.join(sorted(name.decode() for name in names))}: where a dependency has a "
        "symbolic link of that name, rendering replaces the link; today's distributions keep these files "
        "below usr (TRAP-09)"
    )


class Report:
    """What was found out about one file or layout.

    Attributes:
        path: What was looked at, as it was named.
        problems: What keeps it from being an image, one line each; empty: it is one.
        warnings: What else deserves to be said.
        id: The image ID, unless its bytes could not be read to the end.
        name: The image's name, if there is a manifest that can be read.
        labels: Its labels.
        claims: What a refused manifest says of itself, unchecked: ``name``, ``labels``, ``acVersion``.
        compression: How it is compressed.
        size: Bytes as distributed.
        unpacked: Bytes of the uncompressed tar.
        content: Bytes of the files in it, holes included.
        entries: Entries of the root file system.
        setid: How many of them run as somebody else than who starts them.
        devices: How many of them are devices.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.problems: list[str] = []
        self.warnings: list[str] = []
        self.id: str | None = None
        self.name: str | None = None
        self.labels: dict[str, str] = {}
        self.claims: dict[str, Any] = {}
        self.compression: str | None = None
        self.size = self.unpacked = self.content = self.entries = self.setid = self.devices = 0

    def as_dict(self) -> dict[str, Any]:
        """For JSON output."""
        found = {key: value for key, value in vars(self).items() if key not in ("path", "claims")}
        return {"file": self.path, "valid": not self.problems, **found, "claims": self.claims or None}

    def problem(self, error: GantryError) -> None:
        """Note what was refused; the advice that every error of its kind has is left out."""
        if len(self.problems) == _MANY:
            self.problems.append(f"{self.path}: and more")
        if len(self.problems) > _MANY:
            return
        usual = (
            isinstance(error, ImageError) and error.hint == error.remedy and isinstance(error, ArchiveError)
        )
        self.problems.append(f"{self.path}: {error.message if usual else error}")

    def warn(self, text: str) -> None:
        """Note what deserves to be said."""
        self.warnings.append(f"{self.path}: {text}")


def validate(path: str, limits: Limits = DEFAULT_LIMITS) -> list[str]:
    """What keeps a file or a layout from being a valid image, see :func:`examine`; empty: nothing."""
    return examine(path, limits).problems


def examine(path: str, limits: Limits = DEFAULT_LIMITS) -> Report:
    """Look at an image file (ACI-01 ... ACI-19, MAN rows) or at a directory that may become one (ACI-22).

    Args:
        path: The file or directory; ``-`` is an image on standard input.
        limits: The bounds.
    """
    report = Report(path)
    try:
        if path == "-":
            _examine_bytes(report, 0, limits)
            return report
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if stat.S_ISDIR(os.fstat(fd).st_mode):
                _examine_layout(report, path, limits)
            else:
                if not path.endswith(".aci"):
                    report.problems.append(f"{path}: the file name does not end in .aci (ACI-01)")
                _examine_bytes(report, fd, limits)
        finally:
            os.close(fd)
    except OSError as error:
        report.problems.append(f"{path}: {error.strerror}")
    return report


def validate_layout(directory: str, limits: Limits = DEFAULT_LIMITS) -> list[str]:
    """What keeps a directory from being an image layout: ``manifest``, ``rootfs``, nothing else (ACI-22)."""
    report = Report(directory)
    try:
        _examine_layout(report, directory, limits)
    except OSError as error:
        report.problems.append(f"{directory}: {error.strerror}")
    return report.problems


def _examine_bytes(report: Report, fd: int, limits: Limits) -> None:
    layout: Layout | None = None
    whole = False
    merged: set[bytes] = set()
    foreign: set[bytes] = set()
    try:
        with reading(_looked_at(report, file_chunks(fd)), limits) as reader:
            layout = reader.layout
            layout.on_problem = report.problem
            for member in layout:
                mode, kind = member.entry.mode, member.entry.kind
                if mode & _SETID and kind != DIRECTORY:
                    report.setid += 1
                if kind in (CHARDEV, BLOCKDEV):
                    report.devices += 1
                if top := below_merged(member.path):
                    merged.add(top)
                if member.entry.xattrs:
                    foreign.update(name for name in member.entry.xattrs if not restored(name))
            report.id = str(reader.image_id())
            report.unpacked = reader.unpacked
            whole = True
            if not reader.stream.marked:
                report.warn("the archive has no end mark, so nothing shows whether all of it is there")
    except ImageError as error:
        report.problem(error)
    if foreign:
        names = ", ".join(show(name) for name in sorted(foreign)[:_NAMED])
        report.warn(f"has attributes that belong to the host it was made on and are not laid down: {names}")
    if layout is not None:
        report.entries, report.content = layout.entries, layout.content
        if layout.manifest or whole:
            manifest = _examine_manifest(report, layout.manifest, limits)
            if manifest is not None and manifest.dependencies and merged:
                report.warn(merged_warning(merged))


def _looked_at(report: Report, chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The same chunks; how much they are and how they are compressed is noted on the way."""
    start = b""
    for chunk in chunks:
        report.size += len(chunk)
        if report.compression is None:
            start += chunk
            if len(start) >= _SNIFF:
                _note_compression(report, start)
        yield chunk
    if report.compression is None and start:
        _note_compression(report, start)


def _note_compression(report: Report, start: bytes) -> None:
    try:
        report.compression = sniff(start[:_SNIFF])
    except ArchiveError:
        report.compression = "unknown"  # decompressing says so
    if report.compression == "zstd":
        report.warn("zstd is an extension: other readers of the specification do not know it (ACI-17)")


def _examine_manifest(
    report: Report, raw: bytes, limits: Limits, *, strict: bool = False
) -> ImageManifest | None:
    if not raw and report.problems:
        return None  # that it is missing was said
    try:
        manifest = ImageManifest.parse(raw, strict=strict, max_bytes=limits.manifest)
    except AppcError as error:
        error.message = f"manifest: {error.message}"
        report.problem(error)
        _claims(report, raw)
        return None
    report.name, report.labels = manifest.name, dict(manifest.labels)
    for note in manifest.notes:
        report.warn(f"manifest: {note.path}: {note.message} ({note.rule})")
    host = manifest.name.split("/", 1)[0]
    if "." not in host:
        report.warn(
            f'manifest: "{manifest.name}" does not begin with a host, so nobody can look it up (MAN-05)'
        )
    if not manifest.notes and not strict:
        try:
            ImageManifest.parse(raw, strict=True, max_bytes=limits.manifest)
        except AppcError as error:
            report.warn(f"manifest: read, but nobody should write it so: {error.message}")
    return manifest


def _claims(report: Report, raw: bytes) -> None:
    """What a refused manifest says of itself, for whoever has to find out where it came from (TYP-31)."""
    try:
        found = lastditch.image(raw)
    except AppcError:
        return
    claimed = {
        "name": found.name,
        "labels": dict(found.labels),
        "acVersion": found.ac_version,
    }
    report.claims = {key: value for key, value in claimed.items() if value}
    if report.claims:
        text = ", ".join([found.name or "no name", *(f"{name}={value}" for name, value in found.labels)])
        report.warn(f"manifest: unchecked, it calls itself {text[:300]}")


def _examine_layout(report: Report, directory: str, limits: Limits) -> None:
    names = set(os.listdir(directory))
    for name in sorted(names - {"manifest", "rootfs"}):
        report.problem(ArchiveError(f"{name!r} does not belong into an image layout (ACI-22)"))
    manifest = os.path.join(directory, "manifest")
    rootfs = os.path.join(directory, "rootfs")
    if "rootfs" not in names:
        report.problem(ArchiveError("there is no 'rootfs'"))
    elif os.path.islink(rootfs) or not os.path.isdir(rootfs):
        report.problem(ArchiveError("'rootfs' is not a directory"))
    if "manifest" not in names:
        report.problem(ArchiveError("there is no 'manifest'"))
    elif os.path.islink(manifest) or not os.path.isfile(manifest):
        report.problem(ArchiveError("'manifest' is not a regular file"))
    else:
        with open(manifest, "rb") as file:
            raw = file.read(limits.manifest + 1)
        _examine_manifest(report, raw, limits, strict=True)
