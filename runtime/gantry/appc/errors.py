"""What is refused about a name, a reference or a manifest.

Every error carries the requirement it enforces (``rule``, such as ``TYP-05``). A validator that looks at one
value raises :class:`AppcError`; whoever reads a whole document turns that into a :class:`ManifestError`,
which adds where in the document the value stands.
"""

from __future__ import annotations

from gantry.errors import GantryError

_LONGEST = 600  # a message quotes the value, which may be a whole file


class AppcError(GantryError):
    """A value does not have the form that the App Container specification asks for.

    Args:
        message: What was refused and why, in one line.
        hint: What to do about it.
        rule: The requirement's ID, or several joined by a comma.
    """

    code = "appc"

    def __init__(self, message: str, *, hint: str = "", rule: str = "") -> None:
        super().__init__(_shorten(message, _LONGEST), hint=hint)
        self.rule = rule


class InvalidNameError(AppcError):
    """An AC Identifier or AC Name was refused (TYP-07).

    Attributes:
        cause: ``empty``, ``bad-character``, ``bad-edge``, ``bad-form`` or ``too-long``.
    """

    code = "name"

    def __init__(self, message: str, *, cause: str, hint: str = "", rule: str = "") -> None:
        super().__init__(message, hint=hint, rule=rule)
        self.cause = cause


class ImageIDError(AppcError):
    """An image ID was refused."""

    code = "image-id"


class ImageRefError(AppcError):
    """The written form of an image reference was refused."""

    code = "image-ref"


class ManifestError(AppcError):
    """A manifest was refused.

    Attributes:
        path: Where the value stands, as a JSON path such as ``$.apps[0].image.id``; ``$`` is the document.
        line: Line of a syntax error, from 1, or ``None``.
        column: Column of a syntax error, in characters from 1, or ``None``.
    """

    code = "manifest"

    def __init__(
        self,
        message: str,
        *,
        path: str = "$",
        rule: str = "",
        hint: str = "",
        line: int | None = None,
        column: int | None = None,
    ) -> None:
        where = f"line {line} column {column}" if line is not None else path
        label = f"{_shorten(message, _LONGEST // 2)} at {_shorten(where, _LONGEST // 4)}"
        super().__init__(f"{label} [{rule}]" if rule else label, hint=hint, rule=rule)
        self.path = path
        self.line = line
        self.column = column


def _shorten(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[:length]}..."
