"""Pins: files ``pins/KIND:NAME`` with image IDs, one a line.

A pin's kind says who set it, and so who takes it away again.
"""

from __future__ import annotations

from typing import NamedTuple

from gantry.errors import UsageError
from gantry.images.records import plain

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
#: The ending of files that are being written; gc removes what is left of them.
_UNFINISHED = ".tmp"


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
    if name.endswith(_UNFINISHED):
        raise UsageError(f'"{name}" cannot name a pin', hint=f"{_UNFINISHED} marks what is unfinished")
    return plain(f"{kind}:{plain(name)}")


def parse_pin(file: str, content: str) -> Pin | None:
    """The pin in a file; ``None`` for a file that is none (one that is still being written, say)."""
    kind, _, name = file.partition(":")
    if kind not in _REASONS or not name or file.endswith(_UNFINISHED):
        return None
    return Pin(kind, name, content.split())
