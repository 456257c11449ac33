"""Whether all that a fetch is for is in the store already, found without loading what fetches."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from gantry.images.errors import ImageNotFoundError
from gantry.images.records import FetchResult
from gantry.images.source import parse_source

if TYPE_CHECKING:
    from gantry.images.records import Image
    from gantry.images.store import Store


def present(store: Store, what: str, *, unsigned: bool) -> FetchResult | None:
    """What ``fetch`` with the policy ``new`` or ``never`` returns for an image that is there.

    ``None``: it is not, or is not of this simple kind; then the other finds out. An image that depends on
    others is of no simple kind.

    Args:
        store: The store.
        what: As for ``fetch``.
        unsigned: Whether an image counts that was not verified.

    Raises:
        GantryError: It makes no sense.
    """
    image = _find(store, what, unsigned=unsigned)
    if image is None or json.loads(store.manifest_bytes(image.id)).get("dependencies"):
        return None
    store.touch(image.id)
    return FetchResult(image, False, [], [])


def _find(store: Store, what: str, *, unsigned: bool) -> Image | None:
    source = parse_source(what)
    found: list[Image] = []
    if source.image_id is not None:
        try:
            found = [store.find(source.image_id)]
        except ImageNotFoundError:
            return None
    elif source.ref is not None:
        found = store.find_all(source.ref)
    elif source.url is not None:
        known = store.find_url(source.url)
        found = [] if known is None else [known[0]]
    accepted = (image for image in found if unsigned or image.verification is not None)
    return next(accepted, None)
