"""Image and pod manifests: the place to import them from.

Parsing is lossless: unknown keys, order and the text of numbers are kept, :attr:`~ImageManifest.raw` is the
original. Reading is forgiving where real manifests need it and says so in ``notes``; ``strict=True`` holds a
manifest to what its writer must observe.
"""

from __future__ import annotations

from gantry.appc.app import App
from gantry.appc.document import JsonObject, Note
from gantry.appc.errors import ManifestError
from gantry.appc.image_manifest import Dependency, ImageManifest
from gantry.appc.isolators import Isolator, IsolatorList
from gantry.appc.parts import EventHandler, MountPoint, Port, Volume
from gantry.appc.pod_manifest import ExposedPort, Mount, PodManifest, RuntimeApp, RuntimeImage

__all__ = [
    "App",
    "Dependency",
    "EventHandler",
    "ExposedPort",
    "ImageManifest",
    "Isolator",
    "IsolatorList",
    "JsonObject",
    "ManifestError",
    "Mount",
    "MountPoint",
    "Note",
    "PodManifest",
    "Port",
    "RuntimeApp",
    "RuntimeImage",
    "Volume",
]
