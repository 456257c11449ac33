r"""What the command line prints: tables, times, sizes, JSON, and the one line of an error.

Tables are rkt's: cells padded with TAB characters to multiples of 8, so that scripts may split at ``\t+``.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterable, Sequence
from typing import IO, Any

from gantry.cli.flags import FORMATS
from gantry.errors import GantryError, UsageError, one_line

#: The exit status of Gantry's own failures.
FAILURE = 254
_TAB = 8
_SHORT_DIGITS = 12

#: C1 controls, line separators, marks and overrides of direction, and halves of surrogate pairs.
_UNRULY = re.compile("[\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows in columns. Every cell but the last of a row is followed by at least one TAB.

    Control characters inside a cell are escaped: part of it often comes from a stranger.
    """
    clean = [[one_line(cell) for cell in row] for row in rows]
    if not clean:
        return ""
    count = max(len(row) for row in clean)
    widths = [
        (max((len(row[i]) for row in clean if i < len(row) - 1), default=0) // _TAB + 1) * _TAB
        for i in range(count)
    ]
    return "".join(_table_row(row, widths) + "\n" for row in clean)


def _table_row(row: Sequence[str], widths: Sequence[int]) -> str:
    cells = [cell + "\t" * -((len(cell) - width) // _TAB) for cell, width in zip(row, widths, strict=False)]
    return "".join(cells[:-1]) + row[-1]


def long_time(seconds: float | None) -> str:
    """``2015-03-14 09:26:53.589 +0100 CET``; the fraction loses its trailing zeros. Empty for ``None``."""
    if seconds is None:
        return ""
    milliseconds = int(seconds * 1000)
    local = time.localtime(milliseconds // 1000)
    fraction = f".{milliseconds % 1000:03d}".rstrip("0").rstrip(".")
    return time.strftime("%Y-%m-%d %H:%M:%S", local) + fraction + time.strftime(" %z %Z", local)


_AGES = (
    (60, 1, "second"),
    (3600, 60, "minute"),
    (86400, 3600, "hour"),
    (7 * 86400, 86400, "day"),
    (30 * 86400, 7 * 86400, "week"),
    (360 * 86400, 30 * 86400, "month"),
)


def short_time(seconds: float | None, *, now: float | None = None) -> str:
    """``now``, ``41 seconds ago``, ``1 hour ago``. Empty for ``None``."""
    if seconds is None:
        return ""
    difference = int((time.time() if now is None else now) - seconds)
    suffix = "ago" if difference >= 0 else "from now"
    age = abs(difference)
    if age < 1:
        return "now"
    for limit, unit, word in _AGES:
        if age < limit:
            return f"{age // unit} {word}{'s' if age // unit != 1 else ''} {suffix}"
    years = max(1, age // (365 * 86400))
    return f"{years} year{'s' if years != 1 else ''} {suffix}"


def short_size(size: int) -> str:
    """``68MiB``, ``5.4MiB``, ``512B``: binary units, one decimal below ten."""
    value, units = float(size), ["B", "KiB", "MiB", "GiB", "TiB", "PiB"]
    while value >= 1024 and len(units) > 1:
        value /= 1024
        units.pop(0)
    if units[0] == "B" or value >= 10:
        return f"{value:.0f}{units[0]}"
    return f"{value:.1f}{units[0]}"


def short_id(image_id: str) -> str:
    """An image ID as tables show it: enough digits to name it by."""
    return image_id[: len("sha512-") + _SHORT_DIGITS]


def check_format(form: str) -> str:
    """*form*, when it is one that we print.

    Raises:
        UsageError: It is not.
    """
    if form not in FORMATS:
        raise UsageError(f"Invalid format option: {form}", hint="give json or json-pretty")
    return form


def to_json(value: Any, form: str = "json") -> str:
    """*value* as JSON: one line, or indented with one TAB for ``json-pretty``."""
    indent = "\t" if form == "json-pretty" else None
    separators = (",", ": ") if indent else (",", ":")
    return _tame(json.dumps(value, ensure_ascii=False, indent=indent, separators=separators))


def _tame(text: str) -> str:
    """JSON text without what a terminal acts upon, or what turns lines around: in strings, so escaped."""
    return _UNRULY.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def indented(manifest: bytes) -> str:
    """A manifest for people, as :func:`to_json` does it, with its numbers as they were written.

    Raises:
        ManifestError: It is none.
    """
    from gantry.appc import document  # noqa: PLC0415 - few commands print one

    value, _ = document.load(manifest, max_bytes=len(manifest))
    return _tame(document.dump(value, indent="\t").decode())


def _cause(error: BaseException) -> BaseException | None:
    """What led to *error*: stated by ``from``, or met while it was being made."""
    if error.__cause__ is not None or error.__suppress_context__:
        return error.__cause__
    return error.__context__


class Output:
    """Where a command prints.

    Args:
        name: The last word of the command: the prefix of every line on standard error.
        form: ````, ``json`` or ``json-pretty``.
        debug: Whether notices for debugging are printed and errors tell their causes.
    """

    def __init__(
        self,
        name: str,
        *,
        form: str = "",
        debug: bool = False,
        out: IO[str] | None = None,
        err: IO[str] | None = None,
    ) -> None:
        self.name = name
        self.form = form
        self.debugging = debug
        self._out = out if out is not None else sys.stdout
        self._err = err if err is not None else sys.stderr

    def line(self, text: str) -> None:
        """One line on standard output."""
        self._write(self._out, text + "\n")

    def raw(self, text: str) -> None:
        """Text on standard output as it is."""
        self._write(self._out, text)

    def json(self, value: Any) -> None:
        """A value on standard output in the form asked for."""
        self.line(to_json(value, self.form))

    def table(self, header: Sequence[str], rows: Iterable[Sequence[str]], *, legend: bool = True) -> None:
        """A table; without its header, an empty one is an empty line."""
        shown = [list(header), *rows] if legend else list(rows)
        self.raw(table(shown) if shown else "\n")

    def notice(self, text: str) -> None:
        """One line on standard error."""
        self._write(self._err, f"{self.name}: {one_line(text)}\n")

    def event(self, value: Any) -> None:
        """A value on standard error, as one line of JSON."""
        self._write(self._err, to_json(value) + "\n")

    def debug(self, text: str) -> None:
        """One line on standard error, with ``--debug`` only."""
        if self.debugging:
            self.notice(text)

    def error(self, error: GantryError) -> None:
        """The error that ends the command: told, with a JSON form also on standard output."""
        self.failed(error)
        if self.form:
            self.json({"error": error.as_dict()})

    def failed(self, error: GantryError) -> None:
        """An error on standard error: one line; with ``--debug`` its causes below it, each further in."""
        self._write(self._err, f"{self.name}: {error}\n")
        if not self.debugging:
            return
        indent, seen, cause = "  ", {id(error)}, _cause(error)
        while cause is not None and id(cause) not in seen:
            seen.add(id(cause))
            kind = "" if isinstance(cause, GantryError) else f"{type(cause).__name__}: "
            self._write(self._err, f"{indent}└─{kind}{one_line(str(cause))}\n")
            indent, cause = indent + "  ", _cause(cause)

    @staticmethod
    def _write(stream: IO[str], text: str) -> None:
        # A terminal or pipe may not be able to show every character; an odd name must not end the command.
        encoding = getattr(stream, "encoding", None) or "utf-8"
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        stream.flush()
