"""Values reach the program that systemd starts byte for byte (case 36).

The oracle below reads unit text the way systemd.syntax(7) and systemd.service(5) say, written apart from the
code under test; tests/integration/test_units_on_systemd.py asks systemd itself.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gantry import systemd
from gantry.errors import UsageError

_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", '"': '"', "\\": "\\", "'": "'", "s": " "}


def read_words(text: str, variables: bool) -> list[str]:
    """Split a value into words as systemd does: quotes, C escapes, specifiers, then variables."""
    words: list[bytes] = []
    current: bytes | None = None
    quote = ""
    i = 0
    while i < len(text):
        c = text[i]
        if c == "\\":
            e = text[i + 1]
            if e == "x":
                current = (current or b"") + bytes([int(text[i + 2 : i + 4], 16)])
                i += 4
                continue
            current = (current or b"") + _ESCAPES[e].encode()
            i += 2
            continue
        if quote:
            if c == quote:
                quote = ""
            else:
                current = (current or b"") + c.encode()
        elif c in "\"'":
            quote, current = c, current or b""
        elif c in " \t":
            if current is not None:
                words.append(current)
            current = None
        else:
            current = (current or b"") + c.encode()
        i += 1
    assert not quote, "unbalanced quotes"
    if current is not None:
        words.append(current)
    found = [os.fsdecode(w) for w in words]
    found = [_specifiers(w) for w in found]
    return [found[0], *map(_variables, found[1:])] if variables else found


def _specifiers(word: str) -> str:
    out, i = "", 0
    while i < len(word):
        if word[i] == "%":
            assert word[i + 1 : i + 2] == "%", f"a specifier would be expanded in {word!r}"
            i += 1
        out += word[i]
        i += 1
    return out


def _variables(word: str) -> str:
    out, i = "", 0
    while i < len(word):
        if word[i] == "$":
            assert word[i + 1 : i + 2] == "$", f"a variable would be looked up in {word!r}"
            i += 1
        out += word[i]
        i += 1
    return out


AWKWARD = [
    "",
    " ",
    "a b",
    "$HOME",
    "${HOME}",
    "$$",
    "%n",
    "100%",
    "%20",
    "%%",
    '"',
    "'",
    "\\",
    "\\n",
    "a\nb",
    "tab\there",
    ";",
    "#",
    "&&",
    "|",
    "é",
    "日本語",
    "\x7f",
    "\x01",
    "trailing\\",
    "-x",
    "@x",
    "a=b",
    "\udcff\udc80",
    "*",
    "~",
    "{}",
]


@pytest.mark.parametrize("word", AWKWARD)
def test_case_36_every_awkward_argument_arrives_as_it_was(word: str) -> None:
    line = systemd.exec_line(["/bin/echo", word, word])
    assert "\n" not in line
    assert read_words(line, variables=True) == ["/bin/echo", word, word]


@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), max_size=5))
def test_arguments_round_trip(words: list[str]) -> None:
    line = systemd.exec_line(["/bin/echo", *words])
    assert "\n" not in line
    assert read_words(line, variables=True) == ["/bin/echo", *words]


@given(st.binary(max_size=40))
def test_bytes_that_are_no_text_round_trip(data: bytes) -> None:
    word = os.fsdecode(data.replace(b"\0", b""))
    assert read_words(systemd.exec_line(["/bin/echo", word]), variables=True)[1] == word
    assert read_words(systemd.quote_word(f"A={word}"), variables=False) == [f"A={word}"]


def test_a_program_with_odd_characters_is_found() -> None:
    path = '/opt/a b/50%/"x"/$y'
    # In the path of the program no variable is looked up, so that $ stays single.
    assert read_words(systemd.exec_line([path]), variables=True) == [path]


def test_nul_is_refused_by_name() -> None:
    with pytest.raises(UsageError, match="NUL"):
        systemd.quote_word("a\0b")


def test_a_relative_program_is_refused() -> None:
    with pytest.raises(UsageError, match="absolute"):
        systemd.exec_line(["gantry", "run"])


@pytest.mark.parametrize("value", ["a\nb", " a", "a ", "a\\", "a\x00", "a\x1b[31m"])
def test_values_without_quoting_are_refused_when_they_would_change(value: str) -> None:
    with pytest.raises(UsageError, match="cannot be written"):
        systemd.plain_value(value)


def test_plain_values_escape_specifiers() -> None:
    assert systemd.plain_value("/run/100%/x") == "/run/100%%/x"


def test_render() -> None:
    text = systemd.render([("Unit", [("A", "1")]), ("Service", [("B", "2"), ("B", "3")])], comment="one\ntwo")
    assert text == "# one\n# two\n\n[Unit]\nA=1\n\n[Service]\nB=2\nB=3\n"


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("foo", "foo"),
        ("a/b", "a-b"),
        ("a-b", "a\\x2db"),
        (".x", "\\x2ex"),
        ("a.b", "a.b"),
        ("é", "\\xc3\\xa9"),
    ],
)
def test_escape_is_that_of_systemd_escape(text: str, escaped: str) -> None:
    assert systemd.escape(text) == escaped


def stand_in(tmp_path: Path, script: str) -> systemd.Manager:
    program = tmp_path / "systemctl"
    program.write_text("#!/bin/sh\n" + script)
    program.chmod(0o755)
    return systemd.Manager(str(program))


def test_show_reads_one_block_a_unit(tmp_path: Path) -> None:
    manager = stand_in(tmp_path, "printf 'A=1\\nB=x=y\\n\\nA=2\\nB=\\n'")
    assert manager.show_many(["a.service", "b.service"], ["A", "B"]) == {
        "a.service": {"A": "1", "B": "x=y"},
        "b.service": {"A": "2", "B": ""},
    }


def test_show_of_nothing_starts_no_process(tmp_path: Path) -> None:
    assert systemd.Manager(str(tmp_path / "missing")).show_many([], ["A"]) == {}


def test_a_failure_is_one_line_with_the_reason(tmp_path: Path) -> None:
    manager = stand_in(tmp_path, "echo 'Job for x.service failed.' >&2; echo 'See journalctl.' >&2; exit 1")
    with pytest.raises(systemd.SystemdError) as caught:
        manager.start("x.service")
    assert str(caught.value) == (
        "systemctl start x.service: Job for x.service failed (see journalctl -u x.service)"
    )


def test_stopping_an_unknown_unit_is_fine(tmp_path: Path) -> None:
    stand_in(tmp_path, "exit 5").stop("x.service")


def test_a_missing_systemctl_says_what_is_needed(tmp_path: Path) -> None:
    with pytest.raises(systemd.SystemdError, match="named pods need a host that systemd manages"):
        systemd.Manager(str(tmp_path / "missing")).daemon_reload()


def test_notify_tells_the_manager(tmp_path: Path) -> None:
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(path)
        assert systemd.notify("READY=1", {"NOTIFY_SOCKET": path})
        assert listener.recv(100) == b"READY=1"


def test_notify_to_an_abstract_address() -> None:
    name = f"gantry-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind("\0" + name)
        assert systemd.notify("READY=1", {"NOTIFY_SOCKET": "@" + name})
        assert listener.recv(100) == b"READY=1"


@pytest.mark.parametrize("environment", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "/nowhere/x"}])
def test_notify_without_anybody_listening_is_harmless(environment: dict[str, str]) -> None:
    assert not systemd.notify("READY=1", environment)
