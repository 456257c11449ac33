"""Why images stay: pins (:mod:`gantry.images.pins`), what pinned images need, and the trees that pods use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gantry.errors import BusyError, GantryError
from gantry.images.dependencies import order, resolve

if TYPE_CHECKING:
    from collections.abc import Container

    from gantry.images.pins import Pin
    from gantry.images.records import Image
    from gantry.images.store import Store


def pinned(store: Store, *, without: Container[tuple[str, str]] = ()) -> dict[str, Pin | str]:
    """The images that a pin keeps, by ID: its pin, or of a dependency, whose it is.

    A dependency of a pinned image stays, rendered or not: without it the image is of no use.

    Args:
        store: Where.
        without: Kinds and names of pins that do not count.
    """
    found: dict[str, Pin | str] = {}
    for pin in store.pins():
        if (pin.kind, pin.name) in without:
            continue
        for image_id in pin.images:
            found.setdefault(image_id, pin)
    for image_id in list(found):
        image = store.get(image_id)
        if image is not None:
            for below in _below(store, image):
                found.setdefault(below, f"a dependency of {image} ({image.id.short()}), which is kept")
    return found


def refuse_pinned(store: Store, image: Image, *, without: Container[tuple[str, str]] = ()) -> None:
    """Refuse to remove an image that stays.

    Raises:
        BusyError: A pin keeps it, or an image that depends on it.
    """
    why = pinned(store, without=without).get(image.id)
    if why is None:
        return
    told, remedy = (why, "") if isinstance(why, str) else (why.reason, why.remedy)
    raise BusyError(f"the image {image} ({image.id.short()}) stays: {told}", hint=remedy)


def _below(store: Store, image: Image) -> list[str]:
    """IDs of what an image depends on; none when that is not all here, and it cannot run anyway."""
    try:
        top = resolve(image, store.manifest, lambda needed: store.find_all(needed.ref), store.limits)
    except GantryError:
        return []
    return [str(node.image.id) for node in order(top) if node.image.id != image.id]


def protected(store: Store) -> dict[str, str]:
    """Images that no pressure removes, with the reason: pinned, or part of a tree that a pod uses."""
    reasons = {i: why if isinstance(why, str) else why.reason for i, why in pinned(store).items()}
    for tree_id, record in store.trees().items():
        users = store.refs(tree_id)
        for image_id in record.get("images", []):
            if users:
                reasons.setdefault(str(image_id), f"used by pod {users[0]}")
            elif str(record.get("image")) in reasons:
                reasons.setdefault(str(image_id), "part of the tree of an image that is kept")
    return reasons
