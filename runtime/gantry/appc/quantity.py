"""Quantities of resources: exact, in integers, never floating point (ISO-40 ... ISO-47, TRAP-28, TRAP-29)."""

from __future__ import annotations

import re

from gantry.appc.document import RealNumber
from gantry.appc.errors import AppcError

_NANO = 10**9
_CAP = 2**63 - 1
_MAX_LENGTH = 64
_MAX_EXPONENT = 30

# The suffix is cut off before an exponent is looked for: "1E" is exa, "1E3" a thousand, "1Ei" 2**60.
_FORM = re.compile(
    r"([+-]?)([0-9]*)(?:\.([0-9]*))?"
    r"(?:(n|u|m|k|K|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)|[eE]([+-]?[0-9]{1,4}))?"
)
_DECIMAL = {"n": -9, "u": -6, "m": -3, "k": 3, "K": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}


class QuantityError(AppcError):
    """A text is not a quantity, or not one that is allowed here."""

    code = "quantity"


class Quantity:
    """An amount, held as an integer number of billionths. Immutable; compares and hashes by amount.

    Args:
        nano: The amount in billionths of the base unit.
        text: How it was written; made from the amount if empty.
    """

    __slots__ = ("_nano", "_text")

    def __init__(self, nano: int, text: str = "") -> None:
        self._nano = nano
        self._text = text

    @classmethod
    def parse(cls, value: str | float) -> Quantity:
        """Read a quantity from a string or a JSON number (ISO-46).

        Raises:
            QuantityError: It is malformed, or beyond what we compute with.
        """
        if isinstance(value, bool):
            raise QuantityError("a quantity is a string or a number, not a boolean", rule="ISO-46")
        if isinstance(value, RealNumber):
            text = value.literal
        elif isinstance(value, float):
            raise QuantityError("a quantity is never a floating point number", rule="ISO-40")
        else:
            text = str(value).strip(" \t\r\n")
        return cls(_nano(text), text)

    @property
    def value(self) -> int:
        """The amount in whole base units (bytes, operations), rounded up."""
        return -(-self._nano // _NANO)

    @property
    def milli(self) -> int:
        """The amount in thousandths (milli-cores), rounded up (TRAP-28)."""
        return -(-self._nano // (_NANO // 1000))

    @property
    def nano(self) -> int:
        """The amount in billionths; exact."""
        return self._nano

    @property
    def is_negative(self) -> bool:
        """Whether it is below zero; it parses, but is no limit (TRAP-29)."""
        return self._nano < 0

    def __eq__(self, other: object) -> bool:
        return self._nano == other._nano if isinstance(other, Quantity) else NotImplemented

    def __lt__(self, other: Quantity) -> bool:
        return self._nano < other._nano

    def __le__(self, other: Quantity) -> bool:
        return self._nano <= other._nano

    def __hash__(self) -> int:
        return hash(self._nano)

    def __repr__(self) -> str:
        return f"Quantity({str(self)!r})"

    def __str__(self) -> str:
        """How it was written, with ``k`` for ``K`` (ISO-41); else the shortest exact form."""
        if self._text:
            return self._text[:-1] + "k" if self._text.endswith("K") else self._text
        for exponent, suffix in ((0, ""), (3, "m"), (6, "u"), (9, "n")):
            step = 10 ** (9 - exponent)
            if self._nano % step == 0:
                return f"{self._nano // step}{suffix}"
        raise AssertionError("unreachable")  # pragma: no cover


def _nano(text: str) -> int:
    match = _FORM.fullmatch(text) if len(text) <= _MAX_LENGTH else None
    if match is None or not (match.group(2) or match.group(3)):
        raise QuantityError(
            f'"{text[:80]}" is not a quantity',
            hint="digits with an optional point, then k M G T P E, Ki Mi Gi Ti Pi Ei, m, u or n",
            rule="ISO-45",
        )
    sign, whole, fraction, suffix, exponent = match.groups()
    fraction = fraction or ""
    digits = int((whole + fraction) or "0")
    power = int(exponent) if exponent else _DECIMAL.get(suffix, 0)
    if abs(power) > _MAX_EXPONENT:
        raise QuantityError(
            f'quantity "{text}" has an exponent beyond {_MAX_EXPONENT}', rule="TRAP-33", hint="write it out"
        )
    shift = _BINARY.get(suffix, 0)
    numerator = (digits << shift) * 10 ** max(power + 9, 0)
    denominator = 10 ** (len(fraction) + max(-(power + 9), 0))
    nano: int = -(-numerator // denominator)  # finer than 10^-9 rounds up, in either direction from zero
    if shift:
        nano = min(nano, _CAP * _NANO)
    return -nano if sign == "-" else nano
