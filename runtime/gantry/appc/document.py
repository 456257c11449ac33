"""Reading and writing the JSON of manifests: strict, bounded, lossless (TYP-23 ... TYP-30, TRAP-33).

Rules, because Python's ``json`` alone is too friendly:

* UTF-8 without a byte order mark; one object, nothing after it; no ``NaN`` or ``Infinity``;
* bounded size, depth and number of values, and the error names the bound;
* a repeated key: the last one wins, and a note says so;
* a key in another case than the specification's is taken with a note, the exact spelling first;
* numbers keep the text they were written in, so that unknown parts survive unchanged;
* a surrogate without its partner becomes U+FFFD: it could not be written as UTF-8, and in an environment
  variable it would turn into an arbitrary byte.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, NamedTuple, NoReturn, TypeVar, cast

from gantry.appc.errors import AppcError, ManifestError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Self

MAX_BYTES = 4 * 1024 * 1024
MAX_DEPTH = 64
MAX_VALUES = 250_000
MAX_DIGITS = 400

T = TypeVar("T")
JsonObject = dict[str, object]

# A string always matches up to its end or the end of the text, so that scanning stays linear.
_STRUCTURE = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)|[\[\]{},]', re.DOTALL)
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_MISSING = object()


class Note(NamedTuple):
    """Something worth telling the user that does not refuse a manifest.

    Attributes:
        path: Where, as a JSON path.
        message: What, in one line.
        rule: The requirement's ID.
    """

    path: str
    message: str
    rule: str


class RealNumber(float):
    """A JSON number with a point or an exponent, together with the text it was written in."""

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
    if len(raw) > max_bytes:
        raise ManifestError(f"the document is larger than {max_bytes} bytes", rule="TRAP-33")
    text = _decode(raw)
    _check_bounds(text)
    repeated: list[tuple[JsonObject, list[str]]] = []

    def from_pairs(pairs: list[tuple[str, object]]) -> JsonObject:
        result = dict(pairs)
        if len(result) != len(pairs):
            seen: set[str] = set()
            # dict() keeps a key's first position; what was written last belongs at the last one.
            again = [key for key, _ in pairs if key in seen or seen.add(key)]  # type: ignore[func-returns-value]
            repeated.append((result, again))
        return result

    try:
        value = json.loads(
            text,
            object_pairs_hook=from_pairs,
            parse_float=RealNumber,
            parse_int=_parse_int,
            parse_constant=_refuse_constant,
        )
    except json.JSONDecodeError as exc:
        raise ManifestError(
            f"not valid JSON: {exc.msg.lower()}", line=exc.lineno, column=exc.colno, rule="TYP-23"
        ) from None
    if not isinstance(value, dict):
        raise ManifestError(f"the document is {describe(value)}, not an object", rule="TYP-23")
    document = cast("JsonObject", value)
    notes = _note_repeated(document, repeated) if repeated else []
    if _LONE_SURROGATE.search(text) or re.search(r"\\u[dD][89a-fA-F]", text):
        document = cast("JsonObject", _without_surrogates(document, "$", notes))
    return document, notes


def dump(value: object) -> bytes:
    """*value* as compact UTF-8 JSON: order kept, numbers as they were read, no repeated keys (TYP-29).

    Raises:
        ValueError: *value* holds something JSON cannot express; a defect of the caller.
    """
    return "".join(_tokens(value)).encode("utf-8")


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
    """The JSON path of the member *key* below *path*."""
    return f"{path}.{key}" if _PLAIN_KEY.fullmatch(key) else f"{path}[{json.dumps(key)}]"


class Reading:
    """What holds for one reading of a document: its strictness, and the notes gathered.

    Args:
        strict: Read as the writer of the document must: what would be a note is refused (TYP-02, TYP-05,
            TYP-12, TYP-26, TYP-29).
        notes: Notes there are already.
    """

    __slots__ = ("notes", "strict")

    def __init__(self, *, strict: bool = False, notes: list[Note] | None = None) -> None:
        self.strict = strict
        self.notes: list[Note] = []
        for note in notes or []:
            self.tolerate(*note)

    def note(self, path: str, message: str, rule: str) -> None:
        """Remember something that the user should see."""
        self.notes.append(Note(path, message, rule))

    def tolerate(self, path: str, message: str, rule: str) -> None:
        """Remember something that reading accepts and writing does not.

        Raises:
            ManifestError: This is a strict reading.
        """
        if self.strict:
            raise ManifestError(message, path=path, rule=rule)
        self.note(path, message, rule)


class Obj:
    """A JSON object in a document: typed access to its members, with errors that say where and why.

    Args:
        data: The object. Keys in a wrong case are renamed in it when they are asked for (TYP-26).
        path: Its JSON path.
        reading: The reading it belongs to.
    """

    __slots__ = ("data", "path", "reading")

    def __init__(self, data: JsonObject, path: str, reading: Reading) -> None:
        self.data = data
        self.path = path
        self.reading = reading

    def at(self, key: str) -> str:
        """The JSON path of the member *key*."""
        return child_path(self.path, key)

    def fail(self, message: str, *, key: str | None = None, rule: str, hint: str = "") -> NoReturn:
        """Refuse this object, or its member *key*.

        Raises:
            ManifestError: Always.
        """
        raise ManifestError(
            message, path=self.path if key is None else self.at(key), rule=rule, hint=hint
        ) from None

    def get(self, key: str) -> object:
        """The member *key*; ``None`` if it is absent or null (TYP-26, TYP-27)."""
        value = self.data.get(key, _MISSING)
        folded = key.lower()
        others = [k for k in self.data if k != key and len(k) == len(key) and k.lower() == folded]
        if others:
            self.reading.tolerate(
                self.at(others[-1]),
                f'the key "{others[-1]}" is not spelt "{key}"'
                + (", and is ignored beside it" if value is not _MISSING else ""),
                "TYP-26",
            )
            if value is _MISSING:
                value = self.data[others[-1]]
                self._rename(others.pop(), key)
            for other in others:
                del self.data[other]
        return None if value is _MISSING else value

    def _rename(self, old: str, new: str) -> None:
        items = [(new if key == old else key, value) for key, value in self.data.items()]
        self.data.clear()
        self.data.update(items)

    def has(self, key: str) -> bool:
        """Whether the member is there and not null."""
        return self.get(key) is not None

    def require(self, key: str, rule: str) -> object:
        """The member *key*.

        Raises:
            ManifestError: It is absent or null.
        """
        value = self.get(key)
        if value is None:
            self.fail(f'"{key}" is required and missing' + (" (null)" if key in self.data else ""), rule=rule)
        return value

    def optional_string(self, key: str, rule: str) -> str | None:
        """A string member, or ``None``."""
        value = self.get(key)
        if value is None or isinstance(value, str):
            return value
        return self.fail(f'"{key}" is {describe(value)}, not a string', key=key, rule=rule)

    def string(self, key: str, rule: str) -> str:
        """A required string member; it may be empty."""
        self.require(key, rule)
        return cast("str", self.optional_string(key, rule))

    def checked(self, key: str, rule: str, check: Callable[[str], T]) -> T:
        """A required string member passed through *check*, whose :class:`AppcError` gets this place."""
        return self._check(self.string(key, rule), key, rule, check)

    def optional_checked(self, key: str, rule: str, check: Callable[[str], T]) -> T | None:
        """Like :meth:`checked`; ``None`` if absent."""
        value = self.optional_string(key, rule)
        return None if value is None else self._check(value, key, rule, check)

    def _check(self, value: str, key: str, rule: str, check: Callable[[str], T]) -> T:
        try:
            return check(value)
        except ManifestError:
            raise
        except AppcError as exc:
            return self.fail(exc.message, key=key, rule=exc.rule or rule, hint=exc.hint)

    def integer(self, key: str, rule: str, *, low: int, high: int) -> int | None:
        """An integer member within bounds, or ``None`` if absent (TYP-28)."""
        value = self.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int):
            return self.fail(f'"{key}" is {describe(value)}, not an integer', key=key, rule=f"{rule},TYP-28")
        if not low <= value <= high:
            self.fail(f'"{key}" is {value}, not within {low} ... {high}', key=key, rule=rule)
        return value

    def boolean(self, key: str, rule: str) -> bool | None:
        """A boolean member, or ``None`` if absent (TYP-28)."""
        value = self.get(key)
        if value is None or isinstance(value, bool):
            return value
        return self.fail(f'"{key}" is {describe(value)}, not true or false', key=key, rule=f"{rule},TYP-28")

    def array(self, key: str, rule: str) -> list[object]:
        """A list member; absent and null are the empty list (TYP-27)."""
        value = self.get(key)
        if value is None:
            return []
        if not isinstance(value, list):
            self.fail(f'"{key}" is {describe(value)}, not a list', key=key, rule=rule)
        return cast("list[object]", value)

    def strings(self, key: str, rule: str) -> tuple[str, ...]:
        """A list of strings; absent and null are the empty list."""
        values = self.array(key, rule)
        for index, value in enumerate(values):
            if not isinstance(value, str):
                raise ManifestError(
                    f"the entry is {describe(value)}, not a string",
                    path=f"{self.at(key)}[{index}]",
                    rule=rule,
                )
        return tuple(cast("list[str]", values))

    def child(self, key: str, rule: str) -> Obj | None:
        """An object member, or ``None`` if absent."""
        value = self.get(key)
        return None if value is None else self._as_object(value, self.at(key), rule)

    def objects(self, key: str, rule: str) -> Iterator[Obj]:
        """The members of a list of objects."""
        for index, value in enumerate(self.array(key, rule)):
            yield self._as_object(value, f"{self.at(key)}[{index}]", rule)

    def _as_object(self, value: object, path: str, rule: str) -> Obj:
        if not isinstance(value, dict):
            raise ManifestError(f"the entry is {describe(value)}, not an object", path=path, rule=rule)
        return Obj(cast("JsonObject", value), path, self.reading)

    def string_map(self, key: str, rule: str) -> dict[str, str]:
        """An object whose values are all strings; its keys are free."""
        node = self.child(key, rule)
        if node is None:
            return {}
        for name, value in node.data.items():
            if not isinstance(value, str):
                node.fail(f"the value is {describe(value)}, not a string", key=name, rule=rule)
        return cast("dict[str, str]", dict(node.data))

    def pairs(self, key: str, rule: str, check_name: Callable[[str], str], *, unique: str) -> dict[str, str]:
        """A list of ``name``/``value`` objects with unique names, in order.

        Args:
            key: The member.
            rule: The requirement for its form.
            check_name: Checks a name.
            unique: The requirement that names are unique.
        """
        result: dict[str, str] = {}
        for entry in self.objects(key, rule):
            name = entry.checked("name", rule, check_name)
            value = entry.string("value", rule)
            if name in result:
                entry.fail(f'the name "{name}" occurs twice in this list', key="name", rule=unique)
            result[name] = value
        return result


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
            "the document is not UTF-8",
            line=before.count(b"\n") + 1,
            column=len(before[line_start:].decode("utf-8")) + 1,
            rule="TYP-24",
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
                _refuse_bound(f"the document nests deeper than {MAX_DEPTH} levels", text, match.start())
        elif mark in "]}":
            depth -= 1
        elif mark == ",":
            values += 1
        if values > MAX_VALUES:
            _refuse_bound(f"the document holds more than {MAX_VALUES} values", text, match.start())


def _refuse_bound(message: str, text: str, start: int) -> NoReturn:
    line, column = text.count("\n", 0, start) + 1, start - text.rfind("\n", 0, start)
    raise ManifestError(message, line=line, column=column, rule="TRAP-33")


def _parse_int(literal: str) -> int:
    if len(literal) > MAX_DIGITS:
        raise ManifestError(f"a number has more than {MAX_DIGITS} digits", rule="TRAP-33")
    return int(literal)


def _refuse_constant(name: str) -> NoReturn:
    raise ManifestError(f"not valid JSON: {name} is no JSON value", rule="TYP-23")


def _note_repeated(document: JsonObject, repeated: list[tuple[JsonObject, list[str]]]) -> list[Note]:
    wanted = {id(obj): keys for obj, keys in repeated}
    notes: list[Note] = []
    stack: list[tuple[str, object]] = [("$", document)]
    while stack:
        path, value = stack.pop()
        if isinstance(value, dict):
            notes += [
                Note(child_path(path, key), f'the key "{key}" is repeated; the last one counts', "TYP-29")
                for key in wanted.get(id(value), ())
            ]
            stack += [(child_path(path, key), member) for key, member in value.items()]
        elif isinstance(value, list):
            stack += [(f"{path}[{index}]", member) for index, member in enumerate(value)]
    return notes


def _without_surrogates(value: object, path: str, notes: list[Note]) -> object:
    # Recursion is bounded by MAX_DEPTH.
    if isinstance(value, str):
        clean = _LONE_SURROGATE.sub("\ufffd", value)
        if clean != value:
            notes.append(Note(path, "half a surrogate pair was replaced by U+FFFD", "TYP-24"))
        return clean
    if isinstance(value, dict):
        return {
            cast("str", _without_surrogates(key, path, notes)): _without_surrogates(
                member, child_path(path, key), notes
            )
            for key, member in value.items()
        }
    if isinstance(value, list):
        return [_without_surrogates(member, f"{path}[{i}]", notes) for i, member in enumerate(value)]
    return value


def _tokens(value: object) -> Iterator[str]:
    if value is None or isinstance(value, (bool, str)):
        yield json.dumps(value, ensure_ascii=False)
    elif isinstance(value, RealNumber):
        yield value.literal
    elif isinstance(value, int):
        yield int.__repr__(value)
    elif isinstance(value, float):
        yield json.dumps(value, allow_nan=False)
    elif isinstance(value, dict):
        yield "{"
        for index, (key, member) in enumerate(value.items()):
            if not isinstance(key, str):
                raise ValueError(f"not a JSON key: {key!r}")
            yield ("," if index else "") + json.dumps(key, ensure_ascii=False) + ":"
            yield from _tokens(member)
        yield "}"
    elif isinstance(value, (list, tuple)):
        yield "["
        for index, member in enumerate(value):
            if index:
                yield ","
            yield from _tokens(member)
        yield "]"
    else:
        raise ValueError(f"not a JSON value: {value!r}")
