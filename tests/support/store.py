"""A store for tests that takes images in without fetching: no server, no keys, no audit of downloads."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

from tests.support.aci import MadeImage, make_aci

from gantry.appc.manifest import ImageManifest
from gantry.config import Paths
from gantry.images.intake import Judged, Wanted, judge
from gantry.images.reading import file_chunks
from gantry.images.records import Image
from gantry.images.store import Store
from gantry.images.usage import usage

VERIFIED: dict[str, Any] = {
    "signer": "0" * 40,
    "key": "0" * 40,
    "user_ids": ["Nobody <nobody@example.com>"],
    "prefix": None,
    "signed_at": "2026-01-01T00:00:00Z",
    "verified_at": "2026-01-01T00:00:00Z",
}


def paths_in(directory: Path) -> Paths:
    """The paths of an installation that lives in *directory*."""
    parts = {name: str(directory / name) for name in ("data", "run", "system", "local")}
    return Paths.make(**parts)


def put(store: Store, image: MadeImage | Path, *, latest: bool = False, verified: bool = True) -> Image:
    """Take an image file in, as a fetch would after its checks.

    Raises:
        ImageError: What :func:`gantry.images.intake.judge` refuses.
    """
    path = image.path if isinstance(image, MadeImage) else image
    store.ensure()
    fd = os.open(path, os.O_RDONLY)
    try:
        judged = judge(file_chunks(fd), Wanted(str(path)), None, None, store.limits)
    finally:
        os.close(fd)
    return adopt(store, path, judged, latest=latest, verified=verified)


def adopt(store: Store, path: Path, judged: Judged, *, latest: bool, verified: bool) -> Image:
    """The second half of :func:`put`."""
    info = judged.info(f"file://{path}", None, latest=latest)
    info["verification"] = VERIFIED if verified else None
    with store.workspace("incoming", "new-") as work:
        shutil.copy(path, os.path.join(work, "image.aci"))
        Path(work, "manifest").write_bytes(judged.manifest_bytes)
        return store.adopt(work, info)


def put_new(store: Store, directory: Path, name: str = "example.com/app", **fields: Any) -> Image:
    """Make an image as :func:`tests.support.aci.make_aci` does and take it in."""
    made = make_aci(directory / f"{os.urandom(6).hex()}.aci", name, **fields)
    assert ImageManifest.parse(made.manifest).name == name
    return put(store, made)


def sizes(store: Store) -> Counter[str]:
    """Bytes on the disk of the parts of a store, by the directory that they are in."""
    found: Counter[str] = Counter()
    for part in usage(store).parts:
        found[part.path.partition("/")[0]] += part.size
    return found
