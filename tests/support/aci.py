"""Small App Container images for tests, honest and hostile, made in memory.

Nothing here uses Gantry's own builder or store: a test must be able to feed them bytes that they would
never write themselves.

    image = make_aci(tmp_path / "app.aci", "example.com/app", version="1.0", files={"etc/motd": "hello"})
    image.path, image.id, image.data

Entries are plain :class:`tarfile.TarInfo` objects made by :func:`file`, :func:`directory`, :func:`symlink`,
:func:`hardlink`, :func:`fifo` and :func:`device`, whose names are written as they are given: the caller says
``rootfs/...`` himself, or passes ``files=`` / ``tree=`` where the prefix is added.
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import json
import lzma
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import zstandard

Entry = tuple[tarfile.TarInfo, bytes]

MTIME = 1_500_000_000


class MadeImage(NamedTuple):
    """An image made for a test.

    Attributes:
        path: Where it was written.
        id: Its image ID: ``sha512-`` and 128 hex digits over the uncompressed tar.
        data: The bytes as distributed.
        tar: The uncompressed tar.
        manifest: The manifest's bytes.
    """

    path: Path
    id: str
    data: bytes
    tar: bytes
    manifest: bytes


def _info(name: str, kind: bytes, mode: int, **attrs: Any) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    info.mode = mode
    info.mtime = MTIME
    info.uname = info.gname = "root"
    for key, value in attrs.items():
        setattr(info, key, value)
    return info


def file(name: str, data: bytes | str = b"", mode: int = 0o644, **attrs: Any) -> Entry:
    """A regular file. ``attrs`` are set on the TarInfo: uid, gid, mtime, pax_headers, ..."""
    body = data.encode() if isinstance(data, str) else data
    info = _info(name, tarfile.REGTYPE, mode, **attrs)
    info.size = len(body)
    return info, body


def directory(name: str, mode: int = 0o755, **attrs: Any) -> Entry:
    """A directory."""
    return _info(name, tarfile.DIRTYPE, mode, **attrs), b""


def symlink(name: str, target: str, **attrs: Any) -> Entry:
    """A symbolic link whose text is *target*."""
    return _info(name, tarfile.SYMTYPE, 0o777, linkname=target, **attrs), b""


def hardlink(name: str, target: str, **attrs: Any) -> Entry:
    """A hard link; *target* is written as given (``rootfs/...`` in an honest image)."""
    return _info(name, tarfile.LNKTYPE, 0o644, linkname=target, **attrs), b""


def fifo(name: str, mode: int = 0o644, **attrs: Any) -> Entry:
    """A named pipe."""
    return _info(name, tarfile.FIFOTYPE, mode, **attrs), b""


def device(
    name: str, major: int, minor: int, *, block: bool = False, mode: int = 0o600, **attrs: Any
) -> Entry:
    """A character or block device."""
    kind = tarfile.BLKTYPE if block else tarfile.CHRTYPE
    return _info(name, kind, mode, devmajor=major, devminor=minor, **attrs), b""


def manifest(
    name: str = "example.com/app",
    *,
    version: str | None = None,
    labels: Mapping[str, str] | None = None,
    app: Mapping[str, Any] | None = None,
    exec_: Sequence[str] | None = None,
    dependencies: Sequence[Mapping[str, Any]] | None = None,
    path_whitelist: Sequence[str] | None = None,
    annotations: Mapping[str, str] | None = None,
    extra: Mapping[str, Any] | None = None,
) -> bytes:
    """An image manifest as JSON bytes; keys that are not given are left out.

    ``exec_`` is short for an ``app`` that runs it as root.
    """
    document: dict[str, Any] = {"acKind": "ImageManifest", "acVersion": "0.8.11", "name": name}
    pairs = dict(labels or {})
    if version is not None:
        pairs["version"] = version
    if pairs:
        document["labels"] = [{"name": key, "value": value} for key, value in pairs.items()]
    if exec_ is not None:
        document["app"] = {"exec": list(exec_), "user": "0", "group": "0"}
    if app is not None:
        document["app"] = dict(app)
    if dependencies:
        document["dependencies"] = [dict(item) for item in dependencies]
    if path_whitelist is not None:
        document["pathWhitelist"] = list(path_whitelist)
    if annotations:
        document["annotations"] = [{"name": key, "value": value} for key, value in annotations.items()]
    document.update(extra or {})
    return json.dumps(document).encode()


def tar_bytes(entries: Iterable[Entry], *, fmt: int = tarfile.GNU_FORMAT) -> bytes:
    """A tar of *entries* in their order, with the usual end-of-archive padding."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=fmt) as archive:
        for info, body in entries:
            archive.addfile(info, io.BytesIO(body) if info.size else None)
    return out.getvalue()


def compress(data: bytes, kind: str = "gzip") -> bytes:
    """*data* under one compression: none, gzip, bzip2, xz, zstd."""
    if kind == "gzip":
        return gzip.compress(data, 6, mtime=0)
    if kind == "bzip2":
        return bz2.compress(data)
    if kind == "xz":
        return lzma.compress(data)
    if kind == "zstd":
        return zstandard.ZstdCompressor(write_checksum=True).compress(data)
    if kind == "none":
        return data
    raise ValueError(kind)


def image_id(tar: bytes) -> str:
    """The image ID of an uncompressed tar."""
    return "sha512-" + hashlib.sha512(tar).hexdigest()


def parents_of(paths: Iterable[str]) -> list[str]:
    """Every directory above *paths*, in sorted order, without the empty one."""
    found: set[str] = set()
    for path in paths:
        parts = path.strip("/").split("/")[:-1]
        for depth in range(1, len(parts) + 1):
            found.add("/".join(parts[:depth]))
    return sorted(found)


def image_entries(
    manifest_bytes: bytes,
    files: Mapping[str, str | bytes] | None = None,
    tree: Iterable[Entry] = (),
) -> list[Entry]:
    """The entries of an honest image: ``rootfs``, its content, and the manifest last.

    Args:
        manifest_bytes: The manifest.
        files: Path below the root file system -> content; parent directories are added.
        tree: Further entries whose names are below the root file system (``etc/motd``, not
            ``rootfs/etc/motd``); likewise the targets of hard links.
    """
    entries = [directory("rootfs")]
    entries += [directory(f"rootfs/{path}") for path in parents_of(files or {})]
    entries += [file(f"rootfs/{path.lstrip('/')}", body) for path, body in (files or {}).items()]
    for info, body in tree:
        info.name = f"rootfs/{info.name.lstrip('/')}"
        if info.type == tarfile.LNKTYPE:
            info.linkname = f"rootfs/{info.linkname.lstrip('/')}"
        entries.append((info, body))
    entries.append(file("manifest", manifest_bytes))
    return entries


def make_raw(
    path: str | Path,
    entries: Iterable[Entry],
    *,
    compression: str = "gzip",
    fmt: int = tarfile.GNU_FORMAT,
) -> MadeImage:
    """Write exactly *entries* as an image; nothing is added or checked."""
    listed = list(entries)
    tar = tar_bytes(listed, fmt=fmt)
    data = compress(tar, compression)
    Path(path).write_bytes(data)
    body = next((body for info, body in listed if info.name.lstrip("./") == "manifest"), b"")
    return MadeImage(Path(path), image_id(tar), data, tar, body)


def make_aci(
    path: str | Path,
    name: str = "example.com/app",
    *,
    files: Mapping[str, str | bytes] | None = None,
    tree: Iterable[Entry] = (),
    compression: str = "gzip",
    **manifest_fields: Any,
) -> MadeImage:
    """Write an honest image to *path* and say what its ID is.

    Args:
        path: The output file.
        name: The image's name.
        files: Path below the root -> content.
        tree: Further entries, names relative to the root file system.
        compression: none, gzip, bzip2, xz or zstd.
        manifest_fields: What :func:`manifest` takes: version, labels, exec_, app, dependencies, ...
    """
    return make_raw(
        path, image_entries(manifest(name, **manifest_fields), files, tree), compression=compression
    )
