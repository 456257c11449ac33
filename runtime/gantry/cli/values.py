"""Flags and the values they take. Pure.

A flag is declared once (:class:`Flag`); what it was given is kept in :class:`Values`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from gantry.errors import UsageError

TRUE_WORDS = frozenset({"1", "t", "T", "true", "TRUE", "True"})
FALSE_WORDS = frozenset({"0", "f", "F", "false", "FALSE", "False"})

Value = bool | str | int | float | list[str] | None


class RefusedError(UsageError):
    """The flag, command or value is known and is not available here."""

    code = "not-available"


class Flag(NamedTuple):
    """One flag.

    Attributes:
        name: Without dashes.
        kind: ``bool``, ``str``, ``int``, ``size`` (bytes), ``duration`` (seconds, as float),
            ``list`` (repeatable, each value kept whole), ``csv`` (repeatable, split at commas), ``wait``
            (``None``, ``True`` or seconds).
        help: One sentence for the help page, without a full stop.
        default: The value when the flag is absent; lists start empty.
        bare: What a flag that may stand without a value then means; ``None`` when a value is needed.
        metavar: What the help page calls the value.
        refuse: Why the flag is not available; it is then parsed and refused.
        deprecated: What to use instead; the flag works and a line is shown.
        hidden: Left out of help and completion.
    """

    name: str
    kind: str
    help: str
    default: Value = None
    bare: str | None = None
    metavar: str = ""
    refuse: str = ""
    deprecated: str = ""
    hidden: bool = False

    @property
    def takes_word(self) -> bool:
        """Whether ``--name value`` (two words) is how a value may be given."""
        return self.kind not in {"bool", "wait"} and self.bare is None


class Values(dict[str, Value]):
    """The values of a set of flags, with the defaults filled in.

    Attributes:
        given: The names that were on the command line.
    """

    def __init__(self, flags: Sequence[Flag]) -> None:
        super().__init__({f.name: [] if f.kind in {"list", "csv"} else f.default for f in flags})
        self.given: set[str] = set()

    def flag(self, name: str) -> bool:
        """The value of a bool flag."""
        return self[name] is True

    def text(self, name: str) -> str:
        """The value of a text flag; empty when absent."""
        value = self[name]
        return value if isinstance(value, str) else ""

    def items_of(self, name: str) -> list[str]:
        """The values of a repeatable flag, in the order given."""
        value = self[name]
        return value if isinstance(value, list) else []

    def number(self, name: str) -> int | None:
        """The value of an integer flag."""
        value = self[name]
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    def seconds(self, name: str) -> float:
        """The value of a duration."""
        value = self[name]
        return float(value) if isinstance(value, int | float) else 0.0


#: Digits of the largest number that a user, a group or a port has.
MAX_ID_DIGITS = 10
_TOO_LARGE = 1 << 63
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([kKMGTP]?)(i?B)?")


def parse_size(text: str) -> int:
    """Bytes: ``1500``, ``20G`` and ``20GiB`` (both in powers of 1024), ``1.5GB`` (in powers of 1000).

    Raises:
        UsageError: It is no size.
    """
    found = _SIZE.fullmatch(text)
    if found is None or (found[3] == "iB" and not found[2]):
        raise UsageError(f'"{text}" is not a size', hint="write it like 500M, 20GiB or 1.5GB")
    power = " KMGTP".index(found[2].upper() or " ")
    size = float(found[1]) * (1000 if found[3] == "B" else 1024) ** power
    if size >= _TOO_LARGE:
        raise UsageError(f'"{text[:40]}" is larger than any size', hint="write it like 500M, 20GiB or 1.5GB")
    return int(size)


_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_UNITS |= {"d": 86400.0, "w": 604800.0}
_DURATION_PART = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h|d|w)")


def parse_duration(text: str) -> float:
    """Seconds of a Go duration: ``300ms``, ``1.5h``, ``2h45m``, a bare ``0``; a sign, days and weeks, too.

    Raises:
        UsageError: It is no duration.
    """
    rest, sign = text, 1.0
    if rest[:1] in {"+", "-"}:
        sign, rest = (-1.0 if rest[0] == "-" else 1.0), rest[1:]
    if rest == "0":
        return 0.0
    total, position = 0.0, 0
    while position < len(rest):
        part = _DURATION_PART.match(rest, position)
        if part is None:
            break
        total += float(part[1]) * _UNITS[part[2]]
        position = part.end()
    if not rest or position != len(rest):
        raise UsageError(f'"{text}" is not a duration', hint="write it like 300ms, 90s, 30m, 1h15m or 30d")
    return sign * total


def format_duration(seconds: float) -> str:
    """Seconds as Go prints a duration: ``30m0s``, ``1h0m0s``, ``1.5s``, ``300ms``, ``0s``."""
    if seconds < 0:
        return "-" + format_duration(-seconds)
    if seconds == 0:
        return "0s"
    if seconds < 1:
        for unit, size in (("ms", 1e-3), ("µs", 1e-6), ("ns", 1e-9)):
            if seconds >= size:
                return f"{_trimmed(seconds / size)}{unit}"
    hours, rest = divmod(seconds, 3600)
    minutes, rest = divmod(rest, 60)
    text = f"{_trimmed(rest)}s"
    if hours or minutes:
        text = f"{int(minutes)}m{text}"
    return f"{int(hours)}h{text}" if hours else text


def _trimmed(number: float) -> str:
    return f"{number:.9f}".rstrip("0").rstrip(".")


def _parse_value(flag: Flag, text: str) -> Value:
    if flag.kind == "bool":
        if text in TRUE_WORDS:
            return True
        if text in FALSE_WORDS:
            return False
        raise UsageError(f'invalid value "{text}" for --{flag.name}', hint="give true or false")
    if flag.kind == "int":
        try:
            return int(text)
        except ValueError:
            raise UsageError(
                f'invalid value "{text}" for --{flag.name}', hint="give a whole number"
            ) from None
    if flag.kind == "size":
        return parse_size(text)
    if flag.kind == "duration":
        return parse_duration(text)
    if flag.kind == "wait":
        if text in TRUE_WORDS:
            return True
        return None if text in FALSE_WORDS else parse_duration(text)
    return text


def store(values: Values, flag: Flag, text: str) -> None:
    """Enter one flag; *text* is its value as written, or what the bare flag means.

    Raises:
        RefusedError: The flag is not available.
        UsageError: The value is none of the flag's kind.
    """
    if flag.refuse:
        raise RefusedError(f"--{flag.name} is not available: {flag.refuse}")
    if flag.kind in {"list", "csv"}:
        new = [w for w in text.split(",") if w] if flag.kind == "csv" else [text]
        values[flag.name] = [*values.items_of(flag.name), *new]
    else:
        values[flag.name] = _parse_value(flag, text)
    values.given.add(flag.name)
