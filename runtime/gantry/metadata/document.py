"""What the service knows of a pod: the document that `prepare` writes and the launcher hands over. Pure.

A JSON object in ``DATA/pods/STATE/UUID/metadata.json`` (root, 0600)::

    uuid            the pod's UUID, canonical
    token_sha256    SHA-256 of the ASCII of the token, 64 hex digits; the token itself is not in it
    manifest        the reified pod manifest, an object; `manifest_raw`, its text, is served as it is if given
    apps            {NAME: {image_id, image_manifest_b64 | image_manifest, annotations}}:
                    the image ID, the bytes of the image's manifest as they are in the image (base64, or their
                    text), and the list of its annotations already merged with the app's (MDS-10, MDS-23)
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import NamedTuple

from gantry.appc.uuid import UUIDError, parse_uuid
from gantry.errors import GantryError

MAX_SIZE = 16 << 20


class DocumentError(GantryError):
    """A pod's metadata document cannot be used."""

    code = "metadata-document"


class AppDocument(NamedTuple):
    """What is told of one app.

    Attributes:
        image_id: ``sha512-`` and hex digits.
        image_manifest: The manifest's bytes as they are in the image (MDS-11).
        annotations: Merged annotations, in order.
    """

    image_id: str
    image_manifest: bytes
    annotations: list[tuple[str, str]]


class PodDocument(NamedTuple):
    """What is told of one pod.

    Attributes:
        uuid: Canonical.
        token_sha256: 32 bytes.
        manifest: The reified pod manifest as JSON. Its list of annotations is never missing, so that it
            agrees with what ``/pod/annotations`` answers (MDS-24).
        annotations: The pod's own annotations, in order (MDS-07).
        apps: By the name that an app has in the pod (EXE-04).
    """

    uuid: str
    token_sha256: bytes
    manifest: bytes
    annotations: list[tuple[str, str]]
    apps: dict[str, AppDocument]


def parse(data: bytes) -> PodDocument:
    """Read a document.

    Raises:
        DocumentError: It is malformed; the message says where.
    """
    try:
        top = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DocumentError(f"the metadata document is not JSON: {error}") from None
    top = _object(top, "the document")
    try:
        uuid = parse_uuid(_text(top, "uuid"))
    except UUIDError as error:
        raise DocumentError(f"the metadata document's uuid: {error.message}") from None
    try:
        token_sha256 = binascii.a2b_hex(_text(top, "token_sha256"))
    except ValueError:
        token_sha256 = b""
    if len(token_sha256) != 32:
        raise DocumentError("token_sha256 of the metadata document is not 64 hex digits")
    manifest = _object(top.get("manifest"), "manifest")
    apps = _object(top.get("apps"), "apps")
    return PodDocument(
        uuid=uuid,
        token_sha256=token_sha256,
        manifest=_manifest_bytes(manifest, top.get("manifest_raw")),
        annotations=_annotations(manifest.get("annotations"), "manifest.annotations"),
        apps={name: _app(value, f"apps.{name}") for name, value in apps.items()},
    )


def _manifest_bytes(manifest: dict[str, object], raw: object) -> bytes:
    if manifest.get("annotations") is None:
        manifest = manifest | {"annotations": []}
    elif isinstance(raw, str):
        return raw.encode()
    return json.dumps(manifest, ensure_ascii=False, separators=(",", ":")).encode()


def _app(value: object, where: str) -> AppDocument:
    app = _object(value, where)
    encoded = app.get("image_manifest_b64")
    if encoded is None:
        manifest = _text(app, "image_manifest", where).encode()
    else:
        try:
            manifest = base64.b64decode(str(encoded), validate=True)
        except ValueError:
            raise DocumentError(
                f"{where}.image_manifest_b64 of the metadata document is not base64"
            ) from None
    return AppDocument(
        image_id=_text(app, "image_id", where),
        image_manifest=manifest,
        annotations=_annotations(app.get("annotations"), f"{where}.annotations"),
    )


def _annotations(value: object, where: str) -> list[tuple[str, str]]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise DocumentError(f"{where} of the metadata document is not a list")
    return [
        (_text(pair, "name", where), _text(pair, "value", where))
        for pair in (_object(item, where) for item in value)
    ]


def _object(value: object, where: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise DocumentError(f"{where} of the metadata document is not an object")
    return value


def _text(container: dict[str, object], name: str, where: str = "") -> str:
    value = container.get(name)
    if not isinstance(value, str):
        raise DocumentError(f"{where}{'.' if where else ''}{name} of the metadata document is not a string")
    return value
