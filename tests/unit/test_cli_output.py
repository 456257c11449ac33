"""What is printed: tables, times, sizes, JSON, errors (RKT-INVENTORY 1.3, 1.4)."""

from __future__ import annotations

import io
import json
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gantry.cli.output import (
    Output,
    check_format,
    indented,
    long_time,
    short_size,
    short_time,
    table,
    to_json,
)
from gantry.errors import GantryError, HostError, UsageError
from gantry.http.errors import ConnectError, StatusError
from gantry.images.errors import ArchiveError, LimitError


def test_cells_are_padded_with_tabs_to_multiples_of_eight() -> None:
    text = table([["UUID", "APP", "STATE"], ["0b5c9a12", "web", "running"], ["", "sidekick-long", ""]])
    assert text == (
        "UUID\t\tAPP\t\tSTATE\n"
        "0b5c9a12\tweb\t\trunning\n"
        "\t\tsidekick-long\t\n"
    )  # fmt: skip


def test_a_cell_cannot_break_the_table() -> None:
    assert table([["a\tb\nc\x1b[31m", "x"]]) == "a\\tb\\nc\\x1b[31m\tx\n"


@given(
    st.lists(
        st.lists(st.text(st.characters(codec="ascii", exclude_categories=["C"])), min_size=3, max_size=3)
    )
)
def test_columns_line_up(rows: list[list[str]]) -> None:
    lines = table(rows).splitlines() if rows else []
    columns = set()
    for row, line in zip(rows, lines, strict=True):
        assert [c for c in re.split("\t+", line) if c] == [c for c in row if c]
        rendered = line.expandtabs(8)
        columns.add(len(rendered) - len(row[-1]))
    assert len(columns) <= 1


def test_an_empty_table_is_its_header_or_an_empty_line() -> None:
    out = io.StringIO()
    Output("list", out=out).table(("A", "B"), [])
    Output("list", out=out).table(("A", "B"), [], legend=False)
    assert out.getvalue() == "A\tB\n\n"


@pytest.mark.parametrize(
    ("age", "text"),
    [
        (0, "now"),
        (1, "1 second ago"),
        (41, "41 seconds ago"),
        (120, "2 minutes ago"),
        (9 * 3600, "9 hours ago"),
        (86400, "1 day ago"),
        (8 * 86400, "1 week ago"),
        (40 * 86400, "1 month ago"),
        (800 * 86400, "2 years ago"),
        (-90, "1 minute from now"),
    ],
)
def test_relative_times(age: int, text: str) -> None:
    assert short_time(1_000_000 - age, now=1_000_000) == text


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()


@pytest.mark.usefixtures("berlin")
@pytest.mark.parametrize(
    ("fraction", "text"), [(0.589, ".589"), (0.5, ".5"), (0.0, ""), (0.250, ".25"), (0.9999, ".999")]
)
def test_long_times(fraction: float, text: str) -> None:
    assert long_time(1426321613 + fraction) == f"2015-03-14 09:26:53{text} +0100 CET"


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0B"),
        (512, "512B"),
        (1024, "1.0KiB"),
        (5662310, "5.4MiB"),
        (68 * 2**20, "68MiB"),
        (3 * 2**40, "3.0TiB"),
    ],
)
def test_sizes(size: int, text: str) -> None:
    assert short_size(size) == text


def test_json_forms() -> None:
    assert to_json({"a": [1, "é\udcff"]}) == '{"a":[1,"é\\udcff"]}'
    assert to_json([], "json") == "[]"
    assert to_json({"a": 1}, "json-pretty") == '{\n\t"a": 1\n}'
    with pytest.raises(UsageError, match="Invalid format option: yaml"):
        check_format("yaml")


def failing() -> GantryError:
    try:
        try:
            raise OSError("disk\nfull")
        except OSError as e:
            raise GantryError("cannot store the image: disk full", hint="free some space") from e
    except GantryError as e:
        return e


def test_an_error_is_one_line() -> None:
    err = io.StringIO()
    Output("fetch", err=err).error(failing())
    assert err.getvalue() == "fetch: cannot store the image: disk full (free some space)\n"


def test_debug_tells_the_causes() -> None:
    err = io.StringIO()
    Output("fetch", err=err, debug=True).error(failing())
    assert err.getvalue().splitlines()[1:] == ["  └─OSError: disk\\nfull"]


def test_debug_tells_every_cause_on_a_line_further_in() -> None:
    def fetch() -> None:
        try:
            fail()
        except HostError as e:
            raise GantryError("cannot fetch", hint="try again") from e

    def fail() -> None:
        try:
            raise ConnectionResetError(104, "reset")
        except OSError:
            try:
                raise ValueError("met on the way")
            except ValueError as e:
                raise HostError("the server went away") from e

    err = io.StringIO()
    with pytest.raises(GantryError) as caught:
        fetch()
    Output("fetch", err=err, debug=True).failed(caught.value)
    assert err.getvalue() == (
        "fetch: cannot fetch (try again)\n"
        "  └─the server went away\n"
        "    └─ValueError: met on the way\n"
        "      └─ConnectionResetError: [Errno 104] reset\n"
    )


def test_with_a_json_form_the_error_is_on_standard_output_too() -> None:
    out = io.StringIO()
    Output("fetch", form="json", out=out, err=io.StringIO()).error(failing())
    assert json.loads(out.getvalue())["error"]["code"] == "failed"


def test_an_odd_terminal_does_not_end_the_command() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    Output("list", out=stream).line("日本 \udcff")
    assert raw.getvalue() == b"\\u65e5\\u672c \\udcff\n"


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (ArchiveError("the image is empty"), "its publisher"),
        (LimitError("too large"), "a smaller one"),
        (ArchiveError("the image is empty", hint="its own"), "its own"),
        (StatusError(404, url="https://example.com"), "check the name"),
        (StatusError(503, url="https://example.com"), "try again later"),
        (ConnectError("no route", url="https://example.com"), "https_proxy"),
    ],
)
def test_errors_of_others_making_say_what_can_be_done(error: GantryError, remedy: str) -> None:
    assert remedy in str(error).partition(" (")[2]


def test_a_manifest_is_indented_and_nothing_else() -> None:
    """Numbers as they were written: of another writer's fields nobody knows what they mean."""
    raw = b'{"a":[1.10,1e400,-0,12345678901234567890123],"b":{},"c":[],"d":"\\u00e9","e":{"f":null}}'
    assert indented(raw) == (
        '{\n\t"a": [\n\t\t1.10,\n\t\t1e400,\n\t\t-0,\n\t\t12345678901234567890123\n\t],\n'
        '\t"b": {},\n\t"c": [],\n\t"d": "\u00e9",\n\t"e": {\n\t\t"f": null\n\t}\n}'
    )
    plain = {"a": [1, {"b": "c"}, []], "d": True}
    assert indented(json.dumps(plain).encode()) == to_json(plain, "json-pretty")


def test_json_does_not_steer_a_terminal() -> None:
    unruly = "\u009b31m\u202e\u2028\x7f\ud800\x1b"
    text = to_json({"a": unruly})
    assert text.isascii()
    assert json.loads(text) == {"a": unruly}
    assert indented(json.dumps({"a": "\u009b\u202e"}).encode()).isascii()
