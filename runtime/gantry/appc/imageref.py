"""References to images by name and labels, and their written form (DSC-32, DSC-34).

``example.com/app:1.0,os=linux`` is the name, then after the only colon the version, then labels. Printed, the
version is a label like the others: ``example.com/app,version=1.0,os=linux``; parsing that gives the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gantry.appc.errors import AppcError, ImageRefError
from gantry.appc.names import ac_identifier

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_LENGTH = 4096
_FORM = "NAME[:VERSION][,LABEL=VALUE]..."


class ImageRef:
    """An image asked for by name and labels. Immutable, hashable; equal whatever the order of its labels.

    Args:
        name: The image's name, an AC Identifier.
        labels: Only the labels that were really stated: the host's os and arch do not belong here, or
            architecture-independent images would no longer match (TRAP-01).

    Raises:
        ImageRefError: The name or a label name is malformed, or a label is called ``name``.
    """

    __slots__ = ("_labels", "name")
    name: str
    _labels: tuple[tuple[str, str], ...]

    def __init__(self, name: str, labels: Mapping[str, str] | None = None) -> None:
        try:
            ac_identifier(name, what="image name")
            for label in labels or {}:
                ac_identifier(label, what="label name")
        except AppcError as exc:
            raise ImageRefError(exc.message, hint=exc.hint, rule=exc.rule) from None
        if labels and "name" in labels:
            raise ImageRefError('a label cannot be called "name"', rule="MAN-09")
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "_labels", tuple((labels or {}).items()))

    @classmethod
    def parse(cls, text: str) -> ImageRef:
        """Read the written form.

        Raises:
            ImageRefError: It is malformed; nothing is guessed.
        """
        if len(text) > MAX_LENGTH:
            raise ImageRefError(f"image reference is longer than {MAX_LENGTH} characters", rule="TRAP-33")
        head, *parts = text.split(",")
        name, colon, version = head.partition(":")
        if ":" in version or any(":" in part for part in parts):
            raise ImageRefError(
                f'image reference "{text}" has a colon that does not follow the name',
                hint=f"write {_FORM}; only the version follows a colon",
                rule="DSC-32",
            )
        labels = {"version": version} if colon else {}
        for part in parts:
            label, equals, value = part.partition("=")
            if not equals:
                raise ImageRefError(
                    f'image reference "{text}": "{part}" has no "="', hint=f"write {_FORM}", rule="DSC-32"
                )
            if label in labels:
                raise ImageRefError(
                    f'image reference "{text}" gives the label "{label}" twice', rule="DSC-32"
                )
            labels[label] = value
        return cls(name, labels)

    @property
    def labels(self) -> dict[str, str]:
        """The stated labels in their order; a copy, free to change."""
        return dict(self._labels)

    def label(self, name: str) -> str | None:
        """The value of the label *name*, or ``None``."""
        return dict(self._labels).get(name)

    def with_labels(self, labels: Mapping[str, str]) -> ImageRef:
        """The same reference with *labels* added or replaced."""
        return ImageRef(self.name, self.labels | dict(labels))

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"ImageRef is immutable: {name}")

    def __reduce__(self) -> tuple[type[ImageRef], tuple[str, dict[str, str]]]:
        return ImageRef, (self.name, self.labels)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ImageRef):
            return NotImplemented
        return self.name == other.name and dict(self._labels) == dict(other._labels)

    def __hash__(self) -> int:
        return hash((self.name, frozenset(self._labels)))

    def __repr__(self) -> str:
        return f"ImageRef({str(self)!r})"

    def __str__(self) -> str:
        return "".join([self.name, *(f",{label}={value}" for label, value in self._labels)])


def parse(text: str) -> ImageRef:
    """Same as :meth:`ImageRef.parse`."""
    return ImageRef.parse(text)
