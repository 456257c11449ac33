"""Reading and writing the JSON of manifests: strict, bounded, lossless (TYP-23 ... TYP-30, TRAP-33).

Rules, because Python's ``json`` alone is too friendly:

* UTF-8 without a byte order mark; one object, nothing after it; no ``NaN`` or ``Infinity``;
* bounded size, depth, number of values and length of integers, and the error names the bound;
* a repeated key: the last one wins, at the place of the first, and a note says so;
* numbers keep the text they were written in, so that unknown parts survive unchanged;
* a surrogate without its partner becomes U+FFFD: it could not be written as UTF-8, and in an environment
  variable it would turn into an arbitrary byte.

Nothing here takes more than time and memory in proportion to the document: paths, which are as long as the
keys that a stranger wrote, are made only for what is told, and that is bounded, too.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, NamedTuple, NoReturn, cast

from gantry.appc.errors import ManifestError
from gantry.errors import one_line

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self

MAX_BYTES = 4 * 1024 * 1024
MAX_DEPTH = 64
MAX_VALUES = 250_000
MAX_DIGITS = 400
_MAX_NOTES = 100
_MAX_QUOTED = 100

JsonObject = dict[str, object]
# Where a value stands: the place of what holds it and the key or index in that; ``None`` is the document.
_Place = tuple["_Place | None", "str | int"]

# A string always matches up to its end or the end of the text, so that scanning stays linear.
_STRING = r'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)'
_STRUCTURE = re.compile(rf"{_STRING}|[\[\]{{}},]", re.DOTALL)
_REFUSED_TEXT = re.compile(rf"{_STRING}|(?P<it>NaN|-?Infinity|[0-9]{{{MAX_DIGITS + 1},}})", re.DOTALL)
_ESCAPED_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Note(NamedTuple):
    """Something worth telling the user that does not refuse a manifest.

    Attributes:
        path: Where, as a JSON path; printable.
        message: What, in one line.
        rule: The requirement's ID.
    """

    path: str
    message: str
    rule: str


class RealNumber(float):
    """A JSON number that is no plain integer, together with the text it was written in.

    It has a point or an exponent, or it is ``-0``, which no integer of Python's can say.
    """

    __slots__ = ("literal",)
    literal: str

    def __new__(cls, literal: str) -> Self:
        """The number that *literal* says."""
        number = super().__new__(cls, literal)
        number.literal = literal
        return number

    def __reduce__(self) -> tuple[type[RealNumber], tuple[str]]:
        return RealNumber, (self.literal,)


def load(raw: bytes, *, max_bytes: int = MAX_BYTES) -> tuple[JsonObject, list[Note]]:
    """Read one JSON object.

    Args:
        raw: The document's bytes.
        max_bytes: The bound on its size.

    Returns:
        The object, made of plain ``dict``, ``list``, ``str``, ``int``, ``bool``, ``None`` and
        :class:`RealNumber`, and what was odd about it.

    Raises:
        ManifestError: See the rules above; syntax errors carry line and column (TYP-30).
    """
    value, notes = load_value(raw, max_bytes=max_bytes)
    if not isinstance(value, dict):
        raise ManifestError(f"the document is {describe(value)}, not an object", rule="TYP-23")
    return cast("JsonObject", value), notes


def load_value(raw: bytes, *, max_bytes: int = MAX_BYTES) -> tuple[object, list[Note]]:
    """Like :func:`load`, for any JSON value, such as that of an isolator.

    Raises:
        ManifestError: It is no JSON, or beyond a bound.
    """
    if len(raw) > max_bytes:
        raise ManifestError(f"the document is larger than {max_bytes} bytes", rule="TRAP-33")
    text = _decode(raw)
    _check_bounds(text)
    repeated: dict[int, list[str]] = {}
    keep_alive: list[JsonObject] = []  # the numbers above stand for objects as long as these live

    def from_pairs(pairs: list[tuple[str, object]]) -> JsonObject:
        result = dict(pairs)
        if len(result) != len(pairs):
            seen: set[str] = set()
            again = {key for key, _ in pairs if key in seen or seen.add(key)}  # type: ignore[func-returns-value]
            repeated[id(result)] = [key for key in result if key in again]
            keep_alive.append(result)
        return result

    def parse_int(literal: str) -> object:
        if len(literal) > MAX_DIGITS + literal.startswith("-"):
            _refuse_text(text, f"a number has more than {MAX_DIGITS} digits", "TRAP-33")
        return RealNumber(literal) if literal == "-0" else int(literal)

    def refuse_constant(name: str) -> NoReturn:
        _refuse_text(text, f"not valid JSON: {name} is no JSON value", "TYP-23")

    try:
        value = json.loads(
            text,
            object_pairs_hook=from_pairs,
            parse_float=RealNumber,
            parse_int=parse_int,
            parse_constant=refuse_constant,
        )
    except json.JSONDecodeError as exc:
        raise ManifestError(
            f"not valid JSON: {exc.msg.lower()}", line=exc.lineno, column=exc.colno, rule="TYP-23"
        ) from None
    notes: list[Note] = []
    if repeated:
        _note_repeated(value, None, repeated, notes)
    if _ESCAPED_SURROGATE.search(text):
        value = _without_surrogates(value, None, notes)
    return value, notes


def dump(value: object, *, indent: str | None = None) -> bytes:
    """*value* as UTF-8 JSON: order kept, numbers as they were read, no repeated keys (TYP-29).

    Args:
        value: What to write.
        indent: What a level is indented by; ``None``: all on one line, without any white space.

    Raises:
        ValueError: *value* holds something that JSON cannot express, or nests deeper than may be read.
    """
    return "".join(_tokens(value, 0, indent)).encode("utf-8")


def describe(value: object) -> str:
    """The JSON type of *value*, for messages."""
    if value is None:
        return "null"
    for kinds, name in (
        (bool, "a boolean"),
        (str, "a string"),
        (int, "an integer"),
        (float, "a number that is not an integer"),
        (list, "a list"),
    ):
        if isinstance(value, kinds):
            return name
    return "an object"


def child_path(path: str, key: str) -> str:
    """The JSON path of the member *key* below *path*; a long key is cut short."""
    key = shorten(key)
    return f"{path}.{key}" if _PLAIN_KEY.fullmatch(key) else f"{path}[{json.dumps(key)}]"


def shorten(text: str) -> str:
    """The beginning of what a stranger wrote, for messages."""
    return text if len(text) <= _MAX_QUOTED else f"{text[:_MAX_QUOTED]}..."


def _decode(raw: bytes) -> str:
    if raw.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        raise ManifestError(
            "the document begins with a byte order mark",
            line=1,
            column=1,
            rule="TYP-24",
            hint="save as UTF-8",
        )
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as exc:
        before = raw[: exc.start]
        line_start = before.rfind(b"\n") + 1
        raise ManifestError(
            f"the document is not UTF-8 (byte 0x{raw[exc.start]:02x})",
            line=before.count(b"\n") + 1,
            column=len(before[line_start:].decode("utf-8")) + 1,
            rule="TYP-24",
            hint="save as UTF-8",
        ) from None


def _check_bounds(text: str) -> None:
    """Refuse deep and huge documents before the parser (which recurses) sees them."""
    depth = values = 0
    for match in _STRUCTURE.finditer(text):
        mark = match.group()
        if mark in "[{":
            depth += 1
            values += 1
            if depth > MAX_DEPTH:
                _refuse_at(
                    text, match.start(), f"the document nests deeper than {MAX_DEPTH} levels", "TRAP-33"
                )
        elif mark in "]}":
            depth -= 1
        elif mark == ",":
            values += 1
        if values > MAX_VALUES:
            _refuse_at(text, match.start(), f"the document holds more than {MAX_VALUES} values", "TRAP-33")


def _refuse_text(text: str, message: str, rule: str) -> NoReturn:
    """Refuse what the parser stumbled upon but cannot say the place of."""
    found = next((match for match in _REFUSED_TEXT.finditer(text) if match["it"]), None)
    _refuse_at(text, found.start() if found else 0, message, rule)


def _refuse_at(text: str, start: int, message: str, rule: str) -> NoReturn:
    line, column = text.count("\n", 0, start) + 1, start - text.rfind("\n", 0, start)
    raise ManifestError(message, line=line, column=column, rule=rule)


def _note_repeated(
    value: object, place: _Place | None, repeated: dict[int, list[str]], notes: list[Note]
) -> None:
    # Recursion is bounded by MAX_DEPTH.
    if isinstance(value, dict):
        for key in repeated.get(id(value), ()):
            _note(notes, (place, key), f'the key "{shorten(key)}" is repeated; the last one counts', "TYP-29")
        for key, member in value.items():
            _note_repeated(member, (place, key), repeated, notes)
    elif isinstance(value, list):
        for index, member in enumerate(value):
            _note_repeated(member, (place, index), repeated, notes)


def _without_surrogates(value: object, place: _Place | None, notes: list[Note]) -> object:
    # Recursion is bounded by MAX_DEPTH.
    if isinstance(value, str):
        clean = _LONE_SURROGATE.sub("\ufffd", value)
        if clean != value:
            _note(notes, place, "half a surrogate pair was replaced by U+FFFD", "TYP-24")
        return clean
    if isinstance(value, list):
        return [_without_surrogates(member, (place, i), notes) for i, member in enumerate(value)]
    if not isinstance(value, dict):
        return value
    result: JsonObject = {}
    for key, member in value.items():
        clean_key = cast("str", _without_surrogates(key, place, notes))
        if clean_key in result:
            message = f'the key "{shorten(clean_key)}" is repeated; the last one counts'
            _note(notes, (place, clean_key), message, "TYP-29")
        result[clean_key] = _without_surrogates(member, (place, clean_key), notes)
    return result


def _note(notes: list[Note], place: _Place | None, message: str, rule: str) -> None:
    if len(notes) < _MAX_NOTES:
        notes.append(Note(_path(place), one_line(message), rule))


def _path(place: _Place | None) -> str:
    steps: list[str | int] = []
    while place is not None:
        place, step = place
        steps.append(step)
    path = "$"
    for step in reversed(steps):
        path = f"{path}[{step}]" if isinstance(step, int) else child_path(path, step)
    return path


def _tokens(value: object, depth: int, indent: str | None) -> Iterator[str]:
    inner, outer = ("", "") if indent is None else (f"\n{indent * (depth + 1)}", f"\n{indent * depth}")
    if value is None or isinstance(value, (bool, str)):
        yield json.dumps(value, ensure_ascii=False)
    elif isinstance(value, RealNumber):
        yield value.literal
    elif isinstance(value, int):
        yield int.__repr__(value)
    elif isinstance(value, float):
        yield json.dumps(value, allow_nan=False)
    elif depth == MAX_DEPTH:
        raise ValueError(f"nested deeper than {MAX_DEPTH} levels")
    elif isinstance(value, dict):
        yield "{"
        for index, (key, member) in enumerate(value.items()):
            if not isinstance(key, str):
                raise ValueError(f"not a JSON key: {key!r}")
            yield (
                ("," if index else "")
                + inner
                + json.dumps(key, ensure_ascii=False)
                + (":" if indent is None else ": ")
            )
            yield from _tokens(member, depth + 1, indent)
        yield f"{outer}}}" if value else "}"
    elif isinstance(value, (list, tuple)):
        yield "["
        for index, member in enumerate(value):
            yield ("," if index else "") + inner
            yield from _tokens(member, depth + 1, indent)
        yield f"{outer}]" if value else "]"
    else:
        raise ValueError(f"not a JSON value: {value!r}")
