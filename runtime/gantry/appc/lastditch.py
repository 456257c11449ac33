"""A reader of last resort, for messages about manifests that are refused (TYP-31).

It still demands JSON and the right ``acKind``, and returns a few texts that nobody has validated: for
showing to people, escaped, and for nothing else.
"""

from __future__ import annotations

from typing import NamedTuple, cast

from gantry.appc import document
from gantry.appc.document import JsonObject, Obj, Reading
from gantry.appc.image_manifest import KIND as IMAGE_KIND
from gantry.appc.image_manifest import check_kind
from gantry.appc.pod_manifest import KIND as POD_KIND


class RawImage(NamedTuple):
    """Unvalidated texts of an image manifest, or of the image of a pod's app."""

    ac_version: str
    name: str
    id: str
    labels: tuple[tuple[str, str], ...]


class RawPod(NamedTuple):
    """Unvalidated texts of a pod manifest: its version, and name and image of its apps."""

    ac_version: str
    apps: tuple[tuple[str, RawImage], ...]


def image(raw: bytes) -> RawImage:
    """What can be said about a broken image manifest.

    Raises:
        ManifestError: It is no JSON object, or of another kind.
    """
    data, _ = document.load(raw)
    check_kind(Obj(data, "$", Reading()), IMAGE_KIND, "TYP-31")
    return _image(data)


def pod(raw: bytes) -> RawPod:
    """What can be said about a broken pod manifest.

    Raises:
        ManifestError: It is no JSON object, or of another kind.
    """
    data, _ = document.load(raw)
    check_kind(Obj(data, "$", Reading()), POD_KIND, "TYP-31")
    apps = [(_text(app, "name"), _image(_object(app.get("image")))) for app in _objects(data.get("apps"))]
    return RawPod(_text(data, "acVersion"), tuple(apps))


def _image(data: JsonObject) -> RawImage:
    labels = tuple((_text(label, "name"), _text(label, "value")) for label in _objects(data.get("labels")))
    return RawImage(_text(data, "acVersion"), _text(data, "name"), _text(data, "id"), labels)


def _text(data: JsonObject, key: str) -> str:
    value = data.get(key)
    return value if isinstance(value, str) else ""


def _object(value: object) -> JsonObject:
    return cast("JsonObject", value) if isinstance(value, dict) else {}


def _objects(value: object) -> list[JsonObject]:
    return [_object(each) for each in value] if isinstance(value, list) else []
