"""Why images stay: pins, and the trees that pods use.

A pin is a file ``pins/KIND:NAME`` with image IDs, one a line. Its kind says who set it, and so who takes it
away again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from gantry.errors import BusyError, GantryError, UsageError
from gantry.images.dependencies import order, resolve
from gantry.images.records import plain

if TYPE_CHECKING:
    from collections.abc import Container

    from gantry.images.records import Image
    from gantry.images.store import Store

#: A named pod: the images of its releases, the current one and those that a rollback needs.
POD = "pod"
#: A set of the desired state: the images that it lists.
SET = "set"
#: Images that came together and stay together.
BUNDLE = "bundle"
#: An image that somebody wants to stay, for whatever reason.
USER = "user"

_REASONS = {
    POD: "a release of the named pod {}",
    SET: "listed by the set {}",
    BUNDLE: "part of the bundle {}",
    USER: "pinned",
}
_REMEDIES = {
    POD: "gantry pod rm {}",
    SET: "take it out of the set's document and apply that with prune",
    BUNDLE: "gantry image unpin --bundle={}",
    USER: "gantry image unpin IMAGE, or the desired state that asks for it",
}


class Pin(NamedTuple):
    """Images that are kept.

    Attributes:
        kind: One of this module's constants.
        name: Whose they are: the named pod, the set, the bundle; what a user's pin is called says nothing.
        images: Their IDs.
    """

    kind: str
    name: str
    images: list[str]

    @property
    def reason(self) -> str:
        """Why they stay."""
        return _REASONS[self.kind].format(self.name)

    @property
    def remedy(self) -> str:
        """What lets them go."""
        return _REMEDIES[self.kind].format(self.name)


def pin_file(kind: str, name: str) -> str:
    """The file name of a pin.

    Raises:
        UsageError: There is no such kind, or the name is none.
    """
    if kind not in _REASONS:
        raise UsageError(f'"{kind}" is no kind of pin', hint=f"one of {', '.join(_REASONS)}")
    return plain(f"{kind}:{plain(name)}")


def parse_pin(file: str, content: str) -> Pin | None:
    """The pin in a file; ``None`` for a file that is none (one that is still being written, say)."""
    kind, _, name = file.partition(":")
    if kind not in _REASONS or not name or file.endswith(".tmp"):
        return None
    return Pin(kind, name, content.split())


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
