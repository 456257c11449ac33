"""Manifests and names that mean harm: never a crash, always one line (TYP-23 ... TYP-30, TRAP-33)."""

from __future__ import annotations

import json
import random
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.hostile import fuzz_manifest

from gantry.appc import document, lastditch
from gantry.appc.errors import AppcError, ManifestError
from gantry.appc.imageid import ImageID
from gantry.appc.imageref import ImageRef
from gantry.appc.manifest import ImageManifest, PodManifest
from gantry.appc.names import ac_identifier, ac_name, sanitize_identifier, sanitize_name
from gantry.appc.uuid import parse_uuid
from gantry.appc.values import octal_mode, timestamp, web_url
from gantry.appc.version import parse as parse_version

IMAGE = {
    "acKind": "ImageManifest",
    "acVersion": "0.8.11",
    "name": "example.com/app",
    "labels": [{"name": "version", "value": "1"}, {"name": "os", "value": "linux"}],
    "app": {
        "exec": ["/a"],
        "user": "0",
        "group": "0",
        "supplementaryGIDs": [1],
        "eventHandlers": [{"name": "pre-start", "exec": ["/b"]}],
        "workingDirectory": "/",
        "environment": [{"name": "A", "value": "b"}],
        "mountPoints": [{"name": "data", "path": "/d", "readOnly": False}],
        "ports": [{"name": "http", "protocol": "tcp", "port": 80, "count": 1, "socketActivated": False}],
        "isolators": [
            {"name": "resource/memory", "value": {"limit": "1G", "request": 5, "default": False}},
            {"name": "os/linux/seccomp-retain-set", "value": {"set": ["a"], "errno": "EPERM"}},
            {"name": "os/linux/oom-score-adj", "value": 5},
            {"name": "acme/x", "value": None},
        ],
        "userAnnotations": {"a": "b"},
    },
    "dependencies": [{"imageName": "b", "imageID": "sha512-" + "ab" * 64, "labels": [], "size": 5}],
    "pathWhitelist": ["/a"],
    "annotations": [{"name": "created", "value": "2015-11-17T12:00:00Z"}],
}
POD = {
    "acKind": "PodManifest",
    "acVersion": "0.8.11",
    "apps": [
        {
            "name": "web",
            "image": {"id": "sha512-" + "ab" * 64, "name": "a", "labels": []},
            "app": IMAGE["app"],
            "mounts": [{"volume": "data", "path": "/", "appVolume": {"name": "x", "kind": "empty"}}],
            "annotations": [],
        }
    ],
    "volumes": [{"name": "data", "kind": "empty", "mode": "0755", "uid": 1, "gid": 1}],
    "isolators": [{"name": "os/unix/sysctl", "value": {"a": "b"}}],
    "ports": [{"name": "http", "hostPort": 80, "hostIP": "1.2.3.4", "podPort": IMAGE["app"]["ports"][0]}],  # type: ignore[index]
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def places(value: object, path: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
    found = [path] if path else []
    if isinstance(value, dict):
        for key, member in value.items():
            found += places(member, (*path, key))
    elif isinstance(value, list):
        for index, member in enumerate(value):
            found += places(member, (*path, index))
    return found


def with_change(value: object, path: tuple[object, ...], new: object, *, remove: bool) -> object:
    copy = json.loads(json.dumps(value))
    target = copy
    for step in path[:-1]:
        target = target[step]
    if remove:
        del target[path[-1]]
    else:
        target[path[-1]] = new
    return copy


def judge(kind: type[ImageManifest | PodManifest], raw: bytes) -> None:
    try:
        manifest = kind.parse(raw)
    except ManifestError as exc:
        assert exc.rule
        assert str(exc).isprintable()
        assert exc.path.startswith("$")
        return
    again = kind.parse(manifest.dump())
    assert again == manifest or again.raw != manifest.raw
    assert again.dump() == manifest.dump()


@pytest.mark.parametrize(("kind", "base"), [(ImageManifest, IMAGE), (PodManifest, POD)])
def test_the_unchanged_documents_are_fine(
    kind: type[ImageManifest | PodManifest], base: dict[str, object]
) -> None:
    manifest = kind.parse(json.dumps(base).encode())
    assert {note.rule for note in manifest.notes} == {"ISO-03"}
    assert json.loads(manifest.dump()) == base


@pytest.mark.parametrize(("kind", "base"), [(ImageManifest, IMAGE), (PodManifest, POD)])
@given(data=st.data())
@settings(max_examples=400, deadline=None)
def test_any_member_replaced_by_anything(
    kind: type[ImageManifest | PodManifest], base: dict[str, object], data: st.DataObject
) -> None:
    path = data.draw(st.sampled_from(places(base)))
    changed = with_change(base, path, data.draw(JSON), remove=data.draw(st.booleans()))
    judge(kind, json.dumps(changed).encode())


@given(st.binary(max_size=200))
def test_any_bytes(raw: bytes) -> None:
    for parse in (ImageManifest.parse, PodManifest.parse, lastditch.image, lastditch.pod):
        with pytest.raises(ManifestError):
            parse(raw)


@given(st.integers(0, 400), st.binary(max_size=3))
def test_any_damage_in_the_middle(at: int, damage: bytes) -> None:
    raw = json.dumps(IMAGE).encode()
    judge(ImageManifest, raw[:at] + damage + raw[at + 1 :])


@given(st.text(max_size=30))
def test_every_small_reader_returns_or_refuses(text: str) -> None:
    for check in (
        ac_identifier, ac_name, sanitize_identifier, sanitize_name, parse_uuid, timestamp, web_url,
        octal_mode, parse_version, ImageID.parse, ImageRef.parse,
    ):  # fmt: skip
        try:
            check(text)
        except AppcError as exc:
            assert str(exc).isprintable()


class Literal(str):
    """The text of a JSON number."""

    __slots__ = ()


def written(value: object) -> str:
    """Compact JSON: what a document prints must be this again, to the byte."""
    if isinstance(value, Literal):
        return str(value)
    if isinstance(value, dict):
        pairs = (f"{json.dumps(key, ensure_ascii=False)}:{written(member)}" for key, member in value.items())
        return "{" + ",".join(pairs) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(written, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


NUMBERS = st.one_of(
    st.integers(-(10**399), 10**399).map(str),
    st.from_regex(r"-?(0|[1-9][0-9]{0,30})(\.[0-9]{1,30})?([eE][+-]?[0-9]{1,6})?", fullmatch=True),
    st.sampled_from(["-0", "-0.0", "1.0", "1e0", "1E400", "0.10", "9007199254740993"]),
).map(Literal)
ANYTHING = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
UNKNOWN_KEYS = st.dictionaries(st.text(max_size=8).map(lambda text: f"x-{text}"), ANYTHING, max_size=2)
FREE = {"userAnnotations", "userLabels"}  # every key means something there


def with_unknown_keys(
    value: object, draw: Callable[[st.SearchStrategy[dict[str, object]]], dict[str, object]]
) -> object:
    """*value* with keys that nobody knows in its objects, in any order."""
    if isinstance(value, list):
        return [with_unknown_keys(member, draw) for member in value]
    if not isinstance(value, dict):
        return value
    if value.get("name") == "os/unix/sysctl":
        return value
    members: dict[str, object] = {
        key: member if key in FREE else with_unknown_keys(member, draw) for key, member in value.items()
    } | draw(UNKNOWN_KEYS)
    return {key: members[key] for key in draw(st.permutations(list(members)))}  # type: ignore[arg-type]


@pytest.mark.parametrize(("kind", "base"), [(ImageManifest, IMAGE), (PodManifest, POD)])
@given(data=st.data())
@settings(max_examples=200, deadline=None)
def test_TYP_25_TRAP_17_nothing_is_lost_on_the_way_through(
    kind: type[ImageManifest | PodManifest], base: dict[str, object], data: st.DataObject
) -> None:
    raw = written(with_unknown_keys(base, data.draw)).encode()
    manifest = kind.parse(raw, strict=True)
    assert manifest.dump() == raw
    assert kind.parse(manifest.dump()) == manifest
    assert kind.from_object(manifest.data) == manifest


@pytest.mark.parametrize("path", sorted(fuzz_manifest.CORPUS.glob("*")), ids=lambda path: path.name)
def test_what_fuzzing_found_stays_mended(path: Path) -> None:
    fuzz_manifest.check(path.read_bytes())


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([IMAGE, POD]), st.integers(0, 1 << 62), st.integers(0, 6))
def test_manifests_that_were_changed_where_it_matters(base: object, seed: int, times: int) -> None:
    dice = random.Random(seed)
    raw = json.dumps(base).encode()
    for _ in range(times):
        raw = fuzz_manifest.mutated(raw, dice)
    assert fuzz_manifest.check(raw) or times


class TestBounds:
    @pytest.mark.parametrize("opening", ["[", '{"a":', '[{"a":'])
    def test_TRAP_33_deep_nesting_is_refused_without_recursion(self, opening: str) -> None:
        for depth in (100, 100_000):
            with pytest.raises(ManifestError, match=r"nests deeper than 64 levels at line 1 column") as error:
                document.load(f'{{"x":{opening * depth}'.encode())
            assert error.value.line == 1

    def test_TRAP_33_brackets_in_strings_are_no_nesting(self) -> None:
        raw = json.dumps({"a": "[" * 1000 + '"\\' + "{" * 1000, '["': "\\"}).encode()
        assert document.load(raw)[0]["a"]

    def test_TRAP_33_size(self) -> None:
        with pytest.raises(ManifestError, match="larger than 4194304 bytes"):
            document.load(b" " * (document.MAX_BYTES + 1))
        with pytest.raises(ManifestError, match="larger than 10 bytes"):
            ImageManifest.parse(json.dumps(IMAGE).encode(), max_bytes=10)

    @pytest.mark.parametrize("piece", ["[],", "1,", '"",', "{},"])
    def test_TRAP_33_number_of_values(self, piece: str) -> None:
        with pytest.raises(ManifestError, match="more than 250000 values"):
            document.load(b'{"a":[' + piece.encode() * 600_000 + b"1]}")

    @pytest.mark.parametrize("digits", [401, 5000, 1_000_000])
    def test_TRAP_33_long_numbers(self, digits: int) -> None:
        for sign in (b"", b"-"):
            with pytest.raises(ManifestError, match="more than 400 digits") as error:
                document.load(b'{"a":"' + b"9" * 500 + b'",\n "b":' + sign + b"9" * digits + b"}")
            assert (error.value.line, error.value.column) == (2, 6 + len(sign))
            raw = b'{"a":' + sign + b"9" * 400 + b"}"
            assert document.dump(document.load(raw)[0]) == raw

    @pytest.mark.parametrize("number", ["1e999999", "-1e999999", "1e-999999", "0." + "1" * 5000])
    def test_numbers_beyond_floats_survive(self, number: str) -> None:
        raw = f'{{"a":{number}}}'.encode()
        assert document.dump(document.load(raw)[0]) == raw

    @pytest.mark.parametrize(
        "raw",
        [b'"\\"' * 1_000_000, b'{"a":"' + b'\\"' * 1_900_000, b'{"a":"' + b"\\u" * 1_900_000,
         b'{"' * 1_900_000,
         b"\\" * 4_000_000, b'{"a":"' + b"x" * 4_000_000 + b'"}', b'{"a":' + b" " * 4_000_000 + b"1}"],
    )  # fmt: skip
    def test_TRAP_33_scanning_is_linear(self, raw: bytes) -> None:
        start = time.process_time()
        try:
            document.load(raw)
        except ManifestError as exc:
            assert len(str(exc)) < 300
        assert time.process_time() - start < 5

    @pytest.mark.parametrize(
        "oddity", [b'"x":1,"x":2', b'"x":"\\ud800"', b'"x":{"\\ud800":1,"\\ud801":2}', b'"NAME":1'],
        ids=["repeated", "surrogate", "surrogates", "case"],
    )  # fmt: skip
    def test_TRAP_33_notes_cost_no_more_than_the_document(self, oddity: bytes) -> None:
        """The path of a value below a key of a megabyte is a megabyte long, and there are many values."""
        many = b",".join(b'"a%d":{%s}' % (number, oddity) for number in range(20_000))
        raw = (
            json.dumps(IMAGE).encode()[:-1] + b',"' + b"k" * 1_000_000 + b'":{' + many + b"}," + oddity + b"}"
        )
        tracemalloc.start()
        start = time.process_time()
        try:
            manifest = ImageManifest.parse(raw)
            assert manifest.notes
            assert sum(len(f"{note.path}{note.message}") for note in manifest.notes) < 100_000
            assert tracemalloc.get_traced_memory()[1] < 60 * len(raw)
        finally:
            tracemalloc.stop()
        assert time.process_time() - start < 15

    def test_TRAP_33_there_is_an_end_to_notes(self) -> None:
        unknown = [{"name": "acme/x", "value": 1}] * 5000
        manifest = ImageManifest.parse(
            json.dumps(IMAGE | {"app": {"user": "0", "group": "0", "isolators": unknown}}).encode()
        )
        assert manifest.app is not None
        assert len(manifest.app.isolators.unknown()) == 5000
        assert len(manifest.notes) == 1001
        assert "more to note" in manifest.notes[-1].message

    def test_TRAP_33_what_is_written_nests_no_deeper_than_what_is_read(self) -> None:
        value: object = 1
        for _ in range(document.MAX_DEPTH):
            value = [value]
        assert document.load_value(document.dump(value))[0] == value
        for _ in range(100_000):
            value = [value]
        with pytest.raises(ValueError, match="deeper than 64"):
            document.dump(value)
        while isinstance(value, list):  # taken apart by hand: deeper than the interpreter likes
            value = value.pop()

    def test_error_lines_stay_short_and_printable(self) -> None:
        for value in ("x" * 100_000, "X" * 100_000, "\x1b]0;title\x07", "\u202e", "a\nb"):
            with pytest.raises(ManifestError) as error:
                ImageManifest.parse(json.dumps(IMAGE | {"name": value}).encode())
            assert str(error.value).isprintable()
            assert len(str(error.value)) < 2000
