"""Images: kept, fetched, verified, rendered.

- :class:`Store`: what is there; the directory is drawn in :mod:`gantry.images.store`.
- :func:`fetch`: from a name, a URL or a file, through signature and hash, into the store.
- :func:`render`: an image with its dependencies as a tree that pods share read-only.
- :func:`validate`: what is wrong with an image file.

The functions are loaded when they are first used: looking something up in the store needs neither an HTTP
client nor threads.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from gantry.images.errors import (
    AmbiguousError,
    ArchiveError,
    DependencyError,
    DigestMismatchError,
    FetchError,
    ImageError,
    ImageNotFoundError,
    LimitError,
    NameMismatchError,
    NoSpaceError,
    StoreFormatError,
)
from gantry.images.limits import DEFAULT_LIMITS, Limits

if TYPE_CHECKING:
    from gantry.images.exporting import export
    from gantry.images.fetching import fetch, fetch_all
    from gantry.images.records import FetchResult
    from gantry.images.rendering import Tree, render, render_directory
    from gantry.images.store import GcResult, Image, Store
    from gantry.images.validation import validate

__all__ = [
    "DEFAULT_LIMITS",
    "AmbiguousError",
    "ArchiveError",
    "DependencyError",
    "DigestMismatchError",
    "FetchError",
    "FetchResult",
    "GcResult",
    "Image",
    "ImageError",
    "ImageNotFoundError",
    "LimitError",
    "Limits",
    "NameMismatchError",
    "NoSpaceError",
    "Store",
    "StoreFormatError",
    "Tree",
    "export",
    "fetch",
    "fetch_all",
    "render",
    "render_directory",
    "validate",
]

_HOMES = {
    "exporting": ("export",),
    "fetching": ("fetch", "fetch_all"),
    "records": ("FetchResult",),
    "rendering": ("Tree", "render", "render_directory"),
    "store": ("GcResult", "Image", "Store"),
    "validation": ("validate",),
}


def __getattr__(name: str) -> object:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
