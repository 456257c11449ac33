"""Typed access to the members of a document, with errors that say where and why.

What real manifests need is read and noted; a strict reading, for what we write, refuses it instead.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn, TypeVar, cast

from gantry.appc.document import Note, child_path, describe
from gantry.appc.errors import AppcError, ManifestError
from gantry.errors import one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gantry.appc.document import JsonObject

MAX_NOTES = 1000

T = TypeVar("T")
_MISSING = object()


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
        """Remember something that the user should see; there is an end to that."""
        if len(self.notes) < MAX_NOTES:
            self.notes.append(Note(path, one_line(message), rule))
        elif len(self.notes) == MAX_NOTES:
            self.notes.append(Note("$", f"there is more to note than these {MAX_NOTES} things", "TRAP-33"))

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
        folded = key.casefold()
        others = [k for k in self.data if k != key and len(k) == len(key) and k.casefold() == folded]
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
