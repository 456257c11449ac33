"""Read a build file: what an image is made of, step by step (docs/build-files.md). Pure.

A build file is TOML: people write it, so it has comments and strings of several lines, and what is refused
has a line and a column. Everything that can be refused without looking at a disk is refused here, with the
place in the document. An unknown key is refused: it is a typing error, or a wish that would not come true.
"""

from __future__ import annotations

import datetime
import math
import re
import tomllib
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from gantry import APPC_VERSION
from gantry.appc import document
from gantry.appc.errors import AppcError, ManifestError
from gantry.appc.image_manifest import KIND, ImageManifest
from gantry.appc.imageid import looks_like_id
from gantry.appc.imageref import ImageRef
from gantry.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

MAX_BYTES = 1024 * 1024
MAX_STEPS = 1000
NETWORKS = ("none", "host")
#: For ``mode``: the permission bits that a file has in the context.
KEEP = -1

_TOP = ("base", "flatten", "time", "manifest", "step")
_SHELL = ("/bin/sh", "-e", "-c")
_MAX_INTEGER = 10**document.MAX_DIGITS
_MAX_MODE = 0o7777
_OWNER = re.compile(r"[^\s:/]+(:[^\s:/]+)?")
_SHOWN = 60


class BuildFileError(UsageError):
    """A build file is malformed, or asks for what cannot be."""

    code = "build-file"


class Owner(NamedTuple):
    """Who owns what a step makes: names of the image's own users and groups, or numbers."""

    user: str = "0"
    group: str = "0"


class Copy(NamedTuple):
    """Bring files of the context into the image.

    Attributes:
        source: Below the context, cleaned; ``.`` is the whole context.
        to: Absolute path in the image, cleaned.
        into: *to* was written with a slash at its end: a file goes into that directory under its own name.
        owner: Of everything that is copied.
        mode: Permission bits of files; ``None``: 0755 for what is executable, else 0644; :data:`KEEP`.
        exclude: Patterns of what is left out.
    """

    source: str
    to: str
    into: bool
    owner: Owner
    mode: int | None
    exclude: tuple[str, ...]

    def __str__(self) -> str:
        return f"copy {self.source} to {self.to}"


class Write(NamedTuple):
    """Make a file with the content that the build file gives."""

    path: str
    content: str
    owner: Owner
    mode: int

    def __str__(self) -> str:
        return f"write {self.path}"


class MakeDirectory(NamedTuple):
    """Make a directory, and those above it; of one that is there only what is stated changes."""

    path: str
    owner: Owner | None
    mode: int | None

    def __str__(self) -> str:
        return f"mkdir {self.path}"


class Link(NamedTuple):
    """Make a symbolic link."""

    path: str
    target: str

    def __str__(self) -> str:
        return f"link {self.path} to {self.target}"


class Remove(NamedTuple):
    """Remove files and trees."""

    paths: tuple[str, ...]

    def __str__(self) -> str:
        return f"remove {' '.join(self.paths)}"


class Run(NamedTuple):
    """Run a command in the image as it is so far.

    Attributes:
        command: Its words.
        shown: As it was written, for people.
        environment: What it gets beside the usual.
        directory: Absolute.
        user: A user of the image, or a number.
        group: Likewise.
        network: One of :data:`NETWORKS`.
    """

    command: tuple[str, ...]
    shown: str
    environment: dict[str, str]
    directory: str
    user: str
    group: str
    network: str

    def __str__(self) -> str:
        return f"run {self.shown}"


Step = Copy | Write | MakeDirectory | Link | Remove | Run


class Recipe(NamedTuple):
    """A build file, read.

    Attributes:
        base: The image that this one lies upon, as it is asked for; ``None`` for none.
        flatten: The base's files become part of the image, instead of a dependency.
        time: No time in the image is later, in seconds since 1970; ``None`` if the file does not say.
        manifest: The image manifest without the dependency on the base.
        steps: What is done, in order.
    """

    base: str | None
    flatten: bool
    time: int | None
    manifest: dict[str, Any]
    steps: tuple[Step, ...]

    @property
    def runs(self) -> bool:
        """Whether a step runs a command."""
        return any(isinstance(step, Run) for step in self.steps)

    def image_manifest(self, dependency: dict[str, Any] | None = None) -> bytes:
        """The manifest of the image, checked as strictly as a writer's must be.

        Args:
            dependency: The base as an entry of ``dependencies``.

        Raises:
            BuildFileError: It is no image manifest; says where.
        """
        manifest = {"acKind": KIND, "acVersion": APPC_VERSION, **self.manifest}
        if dependency is not None:
            manifest["dependencies"] = [dependency]
        raw = document.dump(manifest)
        try:
            ImageManifest.parse(raw, strict=True)
        except ManifestError as error:
            raise BuildFileError(f"[manifest]: {error.message}", hint=error.hint) from error
        return raw


def parse(raw: bytes) -> Recipe:
    """Read a build file.

    Raises:
        BuildFileError: It is malformed; one line that says where.
    """
    data = _load(raw)
    _known(data, _TOP, "the build file")
    base = data.get("base")
    if base is not None:
        _base(base)
    flatten = data.get("flatten", False)
    if not isinstance(flatten, bool):
        _refuse("flatten", f"is {_describe(flatten)}, not true or false")
    if flatten and base is None:
        _refuse("flatten", "is given without a base", hint="there is nothing to flatten; leave it out")
    manifest = data.get("manifest")
    if manifest is None:
        raise BuildFileError("the build file has no [manifest]", hint='it needs at least a "name" in it')
    if not isinstance(manifest, dict):
        _refuse("manifest", f"is {_describe(manifest)}, not a table")
    if base is not None and "dependencies" in manifest:
        _refuse(
            "manifest.dependencies",
            "is given together with a base",
            hint="the base becomes the dependency; give one of both",
        )
    _check_json(manifest, "manifest", 1)
    steps = data.get("step", [])
    if not isinstance(steps, list) or not all(isinstance(each, dict) for each in steps):
        _refuse("step", "is no list of tables", hint="begin each step with a line [[step]]")
    if len(steps) > MAX_STEPS:
        _refuse("step", f"has {len(steps)} entries, more than {MAX_STEPS}")
    recipe = Recipe(
        base,
        flatten,
        _time(data.get("time")),
        manifest,
        tuple(_Step(table, number).read() for number, table in enumerate(steps, 1)),
    )
    recipe.image_manifest()
    return recipe


def _load(raw: bytes) -> dict[str, Any]:
    if len(raw) > MAX_BYTES:
        raise BuildFileError(f"the build file is larger than {MAX_BYTES} bytes", hint="copy files instead")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise BuildFileError(f"the build file is not UTF-8 (at line {line})", hint="save as UTF-8") from None
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise BuildFileError("the build file nests too deep") from None
    except ValueError as error:  # TOMLDecodeError is one; a number of 5,000 digits is another
        raise BuildFileError(f"not valid TOML: {error}", hint="see https://toml.io") from None


def _refuse(where: str, message: str, *, hint: str = "") -> NoReturn:
    raise BuildFileError(f'"{where}" {message}', hint=hint)


def _describe(value: object) -> str:
    if isinstance(value, (datetime.date, datetime.time)):
        return "a date or time"
    return "a table" if isinstance(value, dict) else document.describe(value)


def _known(table: dict[str, Any], keys: Iterable[str], where: str) -> None:
    known = tuple(keys)
    for key in table:
        if key not in known:
            raise BuildFileError(f'{where} has no key "{key}"', hint=f"known: {', '.join(known)}")


def _base(base: object) -> None:
    if not isinstance(base, str):
        _refuse("base", f"is {_describe(base)}, not a string")
    if looks_like_id(base):
        return
    try:
        ImageRef.parse(base)
    except AppcError as error:
        raise BuildFileError(
            f'"base": {error.message}', hint="a name such as example.com/base:1.0, or an image ID"
        ) from error


def _time(value: object) -> int | None:
    if value is None:
        return None
    if not isinstance(value, datetime.datetime) or value.tzinfo is None:
        _refuse("time", "is no moment", hint="write it without quotes, like 2026-01-31T12:00:00Z")
    seconds = math.floor(value.timestamp())
    if seconds < 0:
        _refuse("time", "is before 1970")
    return seconds


def _check_json(value: object, path: str, depth: int) -> None:
    """Refuse what JSON cannot say, or a manifest may not hold."""
    if depth > document.MAX_DEPTH:
        raise BuildFileError(f"[manifest] nests deeper than {document.MAX_DEPTH} levels")
    if isinstance(value, dict):
        for key, member in value.items():
            _check_json(member, f"{path}.{key}" if len(path) < _SHOWN else path, depth + 1)
    elif isinstance(value, list):
        for index, member in enumerate(value):
            _check_json(member, f"{path}[{index}]" if len(path) < _SHOWN else path, depth + 1)
    elif isinstance(value, (datetime.date, datetime.time)):
        _refuse(path, "is a date or time, which a manifest cannot hold", hint="write it in quotes")
    elif isinstance(value, float) and not math.isfinite(value):
        _refuse(path, f"is {value}, which a manifest cannot hold")
    elif isinstance(value, int) and abs(value) >= _MAX_INTEGER:
        _refuse(path, f"has more than {document.MAX_DIGITS} digits")


class _Step:
    """Reads one step; knows where it is, for messages."""

    def __init__(self, table: dict[str, Any], number: int) -> None:
        self._table = table
        self._where = f"step {number}"

    def read(self) -> Step:
        readers: dict[str, Callable[[], Step]] = {
            "copy": self._copy,
            "write": self._write,
            "mkdir": self._mkdir,
            "link": self._link,
            "remove": self._remove,
            "run": self._run,
        }
        actions = [key for key in self._table if key in readers]
        if len(actions) != 1:
            what = f"does two things: {' and '.join(actions)}" if actions else "does nothing"
            if not actions and self._table:
                what += f": it has {', '.join(self._table)}"
            raise BuildFileError(f"{self._where} {what}", hint=f"give it one of {', '.join(readers)}")
        self._where += f" ({actions[0]})"
        return readers[actions[0]]()

    # -- the kinds ----------------------------------------------------------------------------------

    def _copy(self) -> Copy:
        self._keys("copy", "to", "owner", "mode", "exclude")
        to = self._string("to", hint='an absolute path in the image, such as "/opt/app"')
        return Copy(
            self._source(),
            self._path("to", to),
            to.endswith("/"),
            self._owner() or Owner(),
            KEEP if self._table.get("mode") == "keep" else self._mode(),
            tuple(self._strings("exclude")),
        )

    def _source(self) -> str:
        source = self._string("copy")
        if source.startswith("/"):
            self._fail("copy", f'"{source}" is absolute', hint="sources lie in the build file's directory")
        parts = [part for part in source.split("/") if part not in {"", "."}]
        if ".." in parts:
            self._fail("copy", f'"{source}" leads out of the build file\'s directory')
        return "/".join(parts) or "."

    def _write(self) -> Write:
        self._keys("write", "content", "owner", "mode")
        path = self._path("write", self._string("write"))
        if path == "/":
            self._fail("write", "the root is a directory")
        content = self._table.get("content")
        if not isinstance(content, str):
            self._fail(
                "content", "is missing" if content is None else f"is {_describe(content)}, not a string"
            )
        mode = self._mode()
        return Write(path, content, self._owner() or Owner(), 0o644 if mode is None else mode)

    def _mkdir(self) -> MakeDirectory:
        self._keys("mkdir", "owner", "mode")
        return MakeDirectory(self._path("mkdir", self._string("mkdir")), self._owner(), self._mode())

    def _link(self) -> Link:
        self._keys("link", "target")
        path = self._path("link", self._string("link"))
        if path == "/":
            self._fail("link", "the root is a directory")
        return Link(path, self._string("target", hint="what the link says, as ln -s takes it"))

    def _remove(self) -> Remove:
        self._keys("remove")
        value = self._table["remove"]
        texts = [self._string("remove")] if isinstance(value, str) else self._strings("remove")
        paths = tuple(self._path("remove", text) for text in texts)
        if not paths:
            self._fail("remove", "is an empty list")
        if "/" in paths:
            self._fail("remove", "the root cannot be removed")
        return Remove(paths)

    def _run(self) -> Run:
        self._keys("run", "env", "workdir", "user", "group", "network")
        value = self._table["run"]
        if isinstance(value, str):
            text = self._string("run")
            command: tuple[str, ...] = (*_SHELL, text)
            lines = [line.strip() for line in text.splitlines() if line.strip()]
            shown = (lines[0] if lines else "") + (" ..." if len(lines) > 1 else "")
        else:
            command = tuple(self._strings("run", empty=True))
            if not command or not command[0]:
                self._fail("run", "names no program")
            shown = " ".join(command)
        network = self._string("network", default="none")
        if network not in NETWORKS:
            self._fail("network", f'"{network}" is not known', hint=f"one of {', '.join(NETWORKS)}")
        user = self._account("user", "0")
        return Run(
            command,
            shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}...",
            self._environment(),
            self._path("workdir", self._string("workdir", default="/")),
            user,
            self._account("group", user),
            network,
        )

    # -- values -------------------------------------------------------------------------------------

    def _fail(self, key: str, message: str, *, hint: str = "") -> NoReturn:
        raise BuildFileError(f'{self._where}, "{key}": {message}', hint=hint)

    def _keys(self, *known: str) -> None:
        _known(self._table, known, self._where)

    def _string(self, key: str, *, default: str | None = None, hint: str = "") -> str:
        value = self._table.get(key, default)
        if value is None:
            self._fail(key, "is missing", hint=hint)
        if not isinstance(value, str):
            self._fail(key, f"is {_describe(value)}, not a string", hint=hint)
        return self._clean(key, value)

    def _clean(self, key: str, value: str, *, empty: bool = False) -> str:
        if not value and not empty:
            self._fail(key, "is empty")
        if "\0" in value:
            self._fail(key, "has a NUL character in it")
        return value

    def _strings(self, key: str, *, empty: bool = False) -> list[str]:
        value = self._table.get(key, [])
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            self._fail(key, "is no list of strings")
        return [self._clean(key, each, empty=empty) for each in value]

    def _path(self, key: str, text: str) -> str:
        if not text.startswith("/"):
            self._fail(key, f'"{text}" is not absolute', hint="paths in the image begin with /")
        parts = [part for part in text.split("/") if part not in {"", "."}]
        if ".." in parts:
            self._fail(key, f'"{text}" has ".." in it', hint="say where it really is")
        return "/" + "/".join(parts)

    def _mode(self) -> int | None:
        value = self._table.get("mode")
        if value is None:
            return None
        hint = 'octal and in quotes, such as "0644"'
        if not isinstance(value, str):
            self._fail("mode", f"is {_describe(value)}, not a string", hint=hint)
        if not re.fullmatch("[0-7]{3,5}", value) or int(value, 8) > _MAX_MODE:
            self._fail("mode", f'"{value}" is no mode', hint=hint)
        return int(value, 8)

    def _owner(self) -> Owner | None:
        if "owner" not in self._table:
            return None
        text = self._string("owner")
        if not _OWNER.fullmatch(text):
            self._fail(
                "owner", f'"{text}" is no owner', hint='USER or USER:GROUP, such as "www-data" or "33:33"'
            )
        user, _, group = text.partition(":")
        return Owner(user, group or user)

    def _account(self, key: str, default: str) -> str:
        text = self._string(key, default=default)
        if not _OWNER.fullmatch(text) or ":" in text:
            self._fail(key, f'"{text}" is no {key}', hint="a name of the image's, or a number")
        return text

    def _environment(self) -> dict[str, str]:
        value = self._table.get("env", {})
        if not isinstance(value, dict):
            self._fail("env", f"is {_describe(value)}, not a table", hint='such as env = {LANG = "C.UTF-8"}')
        for name, text in value.items():
            if not name or "=" in name or "\0" in name:
                self._fail("env", f'"{name}" cannot be the name of a variable')
            if not isinstance(text, str) or "\0" in text:
                self._fail("env", f'"{name}" is {_describe(text)}, not a string', hint="write it in quotes")
        return dict(value)
