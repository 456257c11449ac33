"""Image IDs: the SHA-512 of the uncompressed tar (TYP-16, TYP-17, SIG-01 ... SIG-04).

We write full IDs only: ``sha512-`` and 128 lower-case hex digits. On read two shorter forms exist: half IDs
(64 digits) in manifests that rkt wrote, and prefixes of two digits or more that people type. Both have to be
resolved to a full ID before anything is trusted or run.
"""

from __future__ import annotations

import re

from gantry.appc.errors import ImageIDError

_PREFIX = "sha512-"
_FULL = 128
_HALF = 64
_SHORT = 32
_WHOLE = re.compile(r"sha512-[0-9a-f]{128}")
_HEX = frozenset("0123456789abcdef")
_RULE = "TYP-16,SIG-03"


class ImageID(str):
    """A checked image ID; a ``str`` that always has the form ``sha512-`` and lower-case hex digits.

    Make one with :meth:`parse` or :meth:`from_digest`.
    """

    __slots__ = ()

    @classmethod
    def parse(cls, text: str, *, allow_half: bool = False) -> ImageID:
        """Check *text* and fold its digits to lower case.

        Args:
            text: The written ID.
            allow_half: Accept rkt's 64-digit form, too (SIG-04); see :attr:`is_full`.

        Raises:
            ImageIDError: Another hash, no hex digits, or another number of them.
        """
        if _WHOLE.fullmatch(text):
            return cls(text)
        digits = _digits(text)
        if len(digits) == _FULL or (allow_half and len(digits) == _HALF):
            return cls(_PREFIX + digits)
        raise ImageIDError(
            f'image ID "{_shorten(text)}" has {len(digits)} digits', hint="a whole ID has 128", rule=_RULE
        )

    @classmethod
    def from_digest(cls, digest: bytes) -> ImageID:
        """The ID for a finished SHA-512 *digest* (64 bytes).

        Raises:
            ImageIDError: The digest has another length.
        """
        return cls.parse(_PREFIX + digest.hex())

    @property
    def hex(self) -> str:
        """The hex digits alone."""
        return self[len(_PREFIX) :]

    @property
    def is_full(self) -> bool:
        """Whether this is the whole digest and not rkt's half."""
        return len(self) == len(_PREFIX) + _FULL

    def short(self) -> str:
        """The form for people: ``sha512-`` and 32 digits (TYP-17)."""
        return str(self[: len(_PREFIX) + _SHORT])

    def matches(self, other: str) -> bool:
        """Whether *other*, an ID or a prefix of one, can mean this image."""
        return self.startswith(parse_prefix(other))


def parse(text: str, *, allow_half: bool = False) -> ImageID:
    """Same as :meth:`ImageID.parse`."""
    return ImageID.parse(text, allow_half=allow_half)


def parse_prefix(text: str) -> str:
    """Check an ID or the beginning of one, as typed on a command line (SIG-04).

    Returns:
        ``sha512-`` and at least 2, at most 128 lower-case digits.

    Raises:
        ImageIDError: It can be the beginning of no ID, or has less than two digits.
    """
    digits = _digits(text)
    if not 2 <= len(digits) <= _FULL:
        raise ImageIDError(
            f'image ID "{_shorten(text)}" has {len(digits)} digits',
            hint="give at least 2 and at most 128",
            rule="SIG-04",
        )
    return _PREFIX + digits


def looks_like_id(text: str) -> bool:
    """Whether *text* is meant as an image ID or prefix of one (no image name begins like this)."""
    return text.startswith(_PREFIX) and ":" not in text and "/" not in text and "," not in text


def _digits(text: str) -> str:
    if not text.startswith(_PREFIX):
        algorithm = text.partition("-")[0]
        raise ImageIDError(
            f'image ID "{_shorten(text)}" uses the hash "{_shorten(algorithm)}"'
            if "-" in text and algorithm
            else f'"{_shorten(text)}" is not an image ID',
            hint="an image ID begins with sha512-",
            rule=_RULE,
        )
    digits = text[len(_PREFIX) :].lower()
    if not digits or not _HEX.issuperset(digits):
        raise ImageIDError(
            f'image ID "{_shorten(text)}" has no value in hex digits',
            hint="sha512- and 128 hex digits",
            rule=_RULE,
        )
    return digits


def _shorten(text: str) -> str:
    return text if len(text) <= 160 else text[:157] + "..."
