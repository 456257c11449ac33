"""What the store keeps about an image, and the small files it keeps that in."""

from __future__ import annotations

import hashlib
import json
import os
from typing import TYPE_CHECKING, Any, NamedTuple

from gantry.appc.errors import AppcError
from gantry.appc.imageid import ImageID
from gantry.errors import HostError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping


class Image(NamedTuple):
    """An image in the store.

    Attributes:
        id: The image ID.
        name: The name in its manifest.
        labels: The labels in its manifest, in their order.
        size: Bytes as distributed.
        unpacked: Bytes of the uncompressed tar.
        content: Bytes of all its files.
        entries: Number of files, directories and so on.
        imported: When it came into the store, in seconds since 1970.
        last_used: When it was last used, likewise.
        verification: Who signed it, as :class:`gantry.trust.Verification` says; ``None`` if not verified.
        latest: Whether it was fetched without a version being asked for.
        source_url: Where it came from.
        path: The file as distributed.
    """

    id: ImageID
    name: str
    labels: dict[str, str]
    size: int
    unpacked: int
    content: int
    entries: int
    imported: float
    last_used: float
    verification: dict[str, Any] | None
    latest: bool
    source_url: str
    path: str

    @property
    def signature_path(self) -> str | None:
        """Its signature, or ``None``."""
        path = os.path.join(self.directory, "image.aci.asc")
        return path if os.path.exists(path) else None

    @property
    def directory(self) -> str:
        """The image's directory in the store."""
        return os.path.dirname(self.path)

    def label(self, name: str) -> str | None:
        """The value of a label, or ``None``."""
        return self.labels.get(name)

    def __str__(self) -> str:
        version = self.labels.get("version")
        return f"{self.name}:{version}" if version else self.name


def image_of(
    image_id: str, record: Mapping[str, Any], directory: str, last_used: float | None
) -> Image | None:
    """The image that a record is of; ``None`` if it is not what we wrote.

    Args:
        image_id: The ID, the name of the directory.
        record: The content of its ``info.json``.
        directory: The directory.
        last_used: When the image was last used; ``None``: when it was imported.
    """
    try:
        imported = float(record["imported"])
        labels, verification = record["labels"], record.get("verification")
        str(record["name"]).encode()  # no name of an image is anything else
        if not isinstance(labels, dict) or not isinstance(verification, dict | None):
            return None
        return Image(
            id=ImageID.parse(image_id),
            name=str(record["name"]),
            labels={str(name): str(value) for name, value in labels.items()},
            size=int(record["size"]),
            unpacked=int(record["unpacked"]),
            content=int(record["content"]),
            entries=int(record["entries"]),
            imported=imported,
            last_used=imported if last_used is None else last_used,
            verification=verification,
            latest=bool(record.get("latest")),
            source_url=str(record.get("source_url") or ""),
            path=os.path.join(directory, "image.aci"),
        )
    except (KeyError, TypeError, ValueError, OverflowError, AppcError):
        return None


def is_tree_record(record: Mapping[str, Any]) -> bool:
    """Whether a tree's record is what we wrote."""
    kinds: dict[str, type] = {"image": str, "images": list, "downgrades": dict, "notes": list}
    if not all(isinstance(record.get(field), kind) for field, kind in kinds.items()):
        return False
    content = record.get("content", 0)
    return isinstance(content, int) and all(isinstance(each, str) for each in record["images"])


#: Why gc keeps an image that nothing refers to: its grace period is not over.
USED_RECENTLY = "used recently"


class GcResult(NamedTuple):
    """What :meth:`Store.gc` removed, or would remove.

    Attributes:
        trees: IDs of rendered trees.
        images: IDs of images.
        debris: Names of leftovers of killed processes.
        kept: Images that stay, with the reason.
        freed: Bytes on the disk.
    """

    trees: list[str]
    images: list[str]
    debris: list[str]
    kept: dict[str, str]
    freed: int


class FetchResult(NamedTuple):
    """What :func:`gantry.images.fetching.fetch` did.

    Attributes:
        image: The image, in the store.
        fetched: Whether its bytes came in with this call.
        dependencies: The images that it is laid upon, each once, in the order they are needed.
        notes: Lines for the user: what was continued, which server failed.
    """

    image: Image
    fetched: bool
    dependencies: list[Image]
    notes: list[str]


class Origin(NamedTuple):
    """Where an image was downloaded.

    Attributes:
        url: The URL.
        etag: The entity tag that it had there.
        fresh: Seconds for which nobody need ask there again.
    """

    url: str
    etag: str | None
    fresh: int


def key(text: str) -> str:
    """The file name that stands for any text in an index."""
    return hashlib.sha256(text.encode()).hexdigest()


def plain(name: str) -> str:
    """*name*, if it can be a file name in the store.

    Raises:
        UsageError: It cannot.
    """
    if (
        not name.isprintable()
        or not name
        or "/" in name
        or "\0" in name
        or name.startswith(".")
        or len(name) > 255
    ):
        raise UsageError(f'"{name}" cannot name something in the image store')
    return name


def to_json(value: Mapping[str, Any]) -> bytes:
    """The content of a record's file."""
    return json.dumps(value, indent=1).encode() + b"\n"


def read_json(path: str) -> dict[str, Any] | None:
    """A record, or ``None`` if it is missing or damaged.

    Raises:
        HostError: It may not be read.
    """
    try:
        with open(path, "rb") as file:
            value = json.load(file)
    except (FileNotFoundError, NotADirectoryError, ValueError, RecursionError):
        return None
    except PermissionError:
        raise unreadable(path) from None
    return value if isinstance(value, dict) else None


def unreadable(path: str) -> HostError:
    """The error for a part of the store that this user may not see."""
    return HostError(f"{path} cannot be read", hint="become root")


def sync(path: str) -> None:
    """Make a file durable."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
