"""A reader of last resort, for messages about manifests that are refused (TYP-31).

It still demands JSON and the right ``acKind``, and returns a few texts that nobody has validated; what is
missing or of another type is the empty text. They are for showing to people, escaped, and for nothing else.
A validator that has refused a manifest calls it to say which image that is, and whose::

    try:
        claimed = lastditch.image(raw)
    except ManifestError:
        ...  # it is no manifest at all, and there is nothing to add
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, cast

from gantry.appc import document
from gantry.appc.image_manifest import KIND as IMAGE_KIND
from gantry.appc.image_manifest import check_kind
from gantry.appc.pod_manifest import KIND as POD_KIND
from gantry.appc.reading import Obj, Reading

if TYPE_CHECKING:
    from gantry.appc.document import JsonObject


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
    return _image(_load(raw, IMAGE_KIND))


def pod(raw: bytes) -> RawPod:
    """What can be said about a broken pod manifest.

    Raises:
        ManifestError: It is no JSON object, or of another kind.
    """
    data = _load(raw, POD_KIND)
    apps = [(_text(app, "name"), _image(_object(app.get("image")))) for app in _objects(data.get("apps"))]
    return RawPod(_text(data, "acVersion"), tuple(apps))


def _load(raw: bytes, kind: str) -> Obj:
    data, _ = document.load(raw)
    root = _object(data)
    check_kind(root, kind, "TYP-31")
    return root


def _image(data: Obj) -> RawImage:
    labels = tuple((_text(label, "name"), _text(label, "value")) for label in _objects(data.get("labels")))
    return RawImage(_text(data, "acVersion"), _text(data, "name"), _text(data, "id"), labels)


def _text(data: Obj, key: str) -> str:
    value = data.get(key)
    return value if isinstance(value, str) else ""


def _object(value: object) -> Obj:
    return Obj(cast("JsonObject", value) if isinstance(value, dict) else {}, "$", Reading())


def _objects(value: object) -> list[Obj]:
    return [_object(each) for each in value] if isinstance(value, list) else []
