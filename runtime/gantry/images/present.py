"""Whether all that a fetch is for is in the store already, found without loading what fetches."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from gantry.images.errors import ImageNotFoundError
from gantry.images.records import FetchResult
from gantry.images.source import parse_source

if TYPE_CHECKING:
    from gantry.appc.imageref import ImageRef
    from gantry.images.records import Image
    from gantry.images.store import Store


def present(store: Store, what: str, *, unsigned: bool, back: bool = False) -> FetchResult | None:
    """What ``fetch`` with the policy ``new`` or ``never`` returns for an image that is there.

    ``None``: it is not, or is not of this simple kind; then the other finds out. An image that depends on
    others is of no simple kind.

    Args:
        store: The store.
        what: As for ``fetch``.
        unsigned: Whether an image counts that was not verified.
        back: Whether one counts that is older than what was accepted.

    Raises:
        GantryError: It makes no sense.
    """
    image = _find(store, what, unsigned=unsigned, back=back)
    if image is None or json.loads(store.manifest_bytes(image.id)).get("dependencies"):
        return None
    store.touch(image.id)
    return FetchResult(image, False, [], [])


def refuse_older(store: Store, image: Image, ref: ImageRef) -> None:
    """Refuse an image of the store that is older than what this host accepted for *ref*.

    Raises:
        DowngradeError: It is.
        FreshnessError: It is not known what was accepted.
    """
    verified = image.verification
    if verified is None:
        return
    from gantry.trust.freshness import Accepted, Freshness, series_of  # noqa: PLC0415 - for names only

    latest = ref.label("version") is None
    series = series_of(image.name, image.labels, ref.labels, latest=latest)
    new = Accepted(str(verified["signed_at"]), str(image.id), str(verified["key"]))
    Freshness(store.paths.data).check(series, new)


def is_older(store: Store, image: Image, ref: ImageRef) -> bool:
    """Whether :func:`refuse_older` refuses it."""
    from gantry.trust.errors import DowngradeError  # noqa: PLC0415 - as above

    try:
        refuse_older(store, image, ref)
    except DowngradeError:
        return True
    return False


def _find(store: Store, what: str, *, unsigned: bool, back: bool) -> Image | None:
    source = parse_source(what)
    found: list[Image] = []
    if source.image_id is not None:
        try:
            found = [store.find(source.image_id)]
        except ImageNotFoundError:
            return None
    elif source.ref is not None:
        ref = source.ref
        found = [image for image in store.find_all(ref) if back or not is_older(store, image, ref)]
    elif source.url is not None:
        known = store.find_url(source.url)
        found = [] if known is None else [known[0]]
    accepted = (image for image in found if unsigned or image.verification is not None)
    return next(accepted, None)
