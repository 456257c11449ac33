"""rkt's grammar (RKT-INVENTORY 1.1, 3.2), spoken by the table of commands that is really used."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import gantry.cli
from gantry.cli.commands import COMMANDS, GRAMMAR
from gantry.cli.grammar import Invocation, UnknownCommandError, UnknownFlagError
from gantry.cli.values import RefusedError, format_duration, parse_duration, parse_size
from gantry.errors import UsageError


def parse(*words: str) -> Invocation:
    found = GRAMMAR.parse(words)
    assert found is not None
    return found


# --- commands ---


@pytest.mark.parametrize(
    ("words", "path"),
    [
        (("list",), "list"),
        (("li",), "list"),
        (("cat", "x"), "cat-manifest"),
        (("image", "cat", "x"), "image cat-manifest"),
        (("image", "l"), "image list"),
        (("--dir=/x", "--format=json", "image", "--full", "list"), "image list"),
        (("--dir", "/x", "list"), "list"),
        (("--net=host", "run", "example.com/a"), "run"),
        (("--net", "run", "example.com/a"), "run"),
        (("--debug", "list"), "list"),
        (("trust", "list"), "trust list"),
        (("trust", "--root", "li"), "trust"),
        (("trust", "--root", "key.asc"), "trust"),
        (("pod", "rm", "web"), "pod rm"),
        (("run-prepared", "x"), "run-prepared"),
    ],
)
def test_the_command_is_found(words: tuple[str, ...], path: str) -> None:
    assert parse(*words).command.path == path


@pytest.mark.parametrize(
    "words", [(), ("--debug",), ("--dir", "/x"), ("image",), ("image", "--full"), ("--", "list")]
)
def test_no_command(words: tuple[str, ...]) -> None:
    assert GRAMMAR.parse(words) is None


def test_unknown_command_suggests() -> None:
    with pytest.raises(
        UnknownCommandError, match=r'unknown command "lisst" for "gantry" .did you mean list'
    ) as e:
        parse("lisst")
    assert e.value.code == "unknown-command"


def test_an_ambiguous_prefix_names_what_fits() -> None:
    with pytest.raises(
        UnknownCommandError, match='ambiguous command "s" for "gantry": sign, signer-service, st'
    ):
        parse("s")


def test_flags_before_the_command_are_the_commands_own() -> None:
    found = parse("--pull-policy=never", "--debug", "fetch", "example.com/a")
    assert found.values.text("pull-policy") == "never"
    assert found.values.flag("debug")


def test_a_flag_of_another_command_is_unknown() -> None:
    with pytest.raises(UnknownFlagError, match="unknown flag: --pull-policy"):
        parse("--pull-policy=never", "list")


def test_flags_agree_on_whether_they_take_a_word() -> None:
    """Before the command is known, a flag's name alone must say whether the next word is its value."""
    kinds: dict[str, set[bool]] = {}
    for command in COMMANDS:
        for flag in (*command.flags, *command.app_flags, *GRAMMAR.global_flags):
            kinds.setdefault(flag.name, set()).add(flag.takes_word)
    assert [n for n, k in kinds.items() if len(k) > 1] == []


def test_every_flag_and_command_that_is_shown_is_explained() -> None:
    for command in COMMANDS:
        assert command.summary or command.hidden or command.refuse, command.path
        assert bool(command.handler) != bool(command.refuse), command.path
        for flag in (*command.flags, *command.app_flags, *GRAMMAR.global_flags):
            assert flag.help or flag.hidden or flag.refuse, f"{command.path} --{flag.name}"
            assert not flag.help.endswith("."), flag.name


# --- flags ---


@pytest.mark.parametrize("text", ["true", "1", "t", "T", "TRUE", "True"])
def test_bool_with_a_value(text: str) -> None:
    assert parse("list", f"--full={text}").values.flag("full")
    assert not parse("list", "--full=false").values.flag("full")


def test_a_bool_takes_no_second_word() -> None:
    with pytest.raises(UsageError, match='unexpected argument "false"'):
        parse("list", "--full", "false")


def test_a_bad_bool() -> None:
    with pytest.raises(UsageError, match='invalid value "maybe" for --full'):
        parse("list", "--full=maybe")


def test_a_missing_value() -> None:
    with pytest.raises(UsageError, match="flag needs an argument: --format"):
        parse("list", "--format")


@pytest.mark.parametrize(
    ("words", "value"),
    [
        ((), None),
        (("--wait",), True),
        (("--wait=true",), True),
        (("--wait=false",), None),
        (("--wait=1m30s",), 90.0),
        (("--wait=0",), None),
    ],
)
def test_an_optional_value(words: tuple[str, ...], value: object) -> None:
    assert parse("status", "uuid", *words).values["wait"] == value


@pytest.mark.parametrize(
    ("words", "value"),
    [
        ((), []),
        (("--net",), ["default"]),
        (("--net=host",), ["host"]),
        (("--net=a,b", "--net=c"), ["a", "b", "c"]),
    ],
)
def test_net_may_stand_bare(words: tuple[str, ...], value: list[str]) -> None:
    found = parse("run", *words, "example.com/a")
    assert found.values.items_of("net") == value
    assert [a.image for a in found.apps] == ["example.com/a"]


def test_a_refused_flag_names_its_reason() -> None:
    with pytest.raises(RefusedError, match="--private-users is not available: user namespaces"):
        parse("run", "--private-users", "example.com/a")


def test_a_refused_command_names_its_reason() -> None:
    with pytest.raises(RefusedError, match="app add is not available: a pod does not change"):
        parse("app", "add", "uuid", "image")


def test_no_flag_is_ignored() -> None:
    """Every flag of the tables is either refused with a reason or read by somebody."""
    tables = {"flags.py", "commands.py"}
    room = Path(gantry.cli.__file__).parent
    sources = "".join(p.read_text() for p in room.glob("*.py") if p.name not in tables)
    for command in COMMANDS:
        for flag in (*command.flags, *command.app_flags, *GRAMMAR.global_flags):
            if not flag.refuse:
                assert f'"{flag.name}"' in sources, f"{command.path} --{flag.name} is read by nobody"


def test_deprecated_flags_work_and_say_so() -> None:
    found = parse("run", "--store-only", "example.com/a")
    assert found.notices == ["Flag --store-only has been deprecated, please use --pull-policy=never"]


def test_single_dashes_are_no_flags_of_ours() -> None:
    with pytest.raises(UnknownFlagError, match="unknown flag: -x"):
        parse("list", "-x")


@pytest.mark.parametrize(
    "words", [("list", "--help"), ("list", "-h"), ("--help", "list"), ("run", "i", "-h")]
)
def test_help_is_asked_for(words: tuple[str, ...]) -> None:
    assert parse(*words).help


def test_help_among_the_arguments_of_an_app_is_the_apps() -> None:
    found = parse("run", "example.com/a", "--", "--help")
    assert not found.help
    assert found.apps[0].arguments == ["--help"]


def test_help_is_not_a_value() -> None:
    assert not parse("list", "--format", "-h").help


# --- images ---


def test_the_grammar_of_images() -> None:
    found = parse(
        "--net=host", "run", "--debug", "example.com/a", "--user=7", "--", "-p", "8080", "--env", "---",
        "example.com/b", "--name", "b", "--volume=v,kind=empty", "--mount=volume=v,target=/v", "--",
    )  # fmt: skip
    first, second = found.apps
    assert (first.image, first.values.text("user"), first.arguments) == (
        "example.com/a",
        "7",
        ["-p", "8080", "--env"],
    )
    assert (second.image, second.values.text("name"), second.arguments) == ("example.com/b", "b", [])
    assert found.values.items_of("volume") == ["v,kind=empty"]
    assert second.values.items_of("mount") == ["volume=v,target=/v"]


def test_case_32_arguments_that_look_like_ours_stay_the_apps() -> None:
    words = ["-p", "8080", "-c", "x", "--env", "A=b", "--net=host", "--", "run", ""]
    assert parse("run", "example.com/a", "--", *words).apps[0].arguments == words


@given(st.lists(st.text().filter(lambda w: w != "---"), max_size=6), st.lists(st.text(), max_size=3))
def test_arguments_are_passed_literally(first: list[str], second: list[str]) -> None:
    last = [w for w in second if w != "---"]
    found = parse("run", "example.com/a", "--", *first, "---", "example.com/b", "--", *last)
    assert [a.arguments for a in found.apps] == [first, last]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("run", "--user=1", "a.b/c"), "--user must follow an image"),
        (("run", "--", "x"), "an image is required before any app arguments"),
        (("run", "a.b/c", "--", "x", "---", "--", "y"), "only one set of app arguments allowed per image"),
        (("fetch", "a.b/c", "--", "x"), "app arguments unsupported"),
        (("run", "a.b/c", "--nonsense"), "error parsing app image arguments: unknown flag: --nonsense"),
        (("run", "a.b/c", "--exec=/a", "--exec=/b"), "--exec specified multiple times for the same image"),
    ],
)
def test_refusals_of_the_image_grammar(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse(*words)


def test_a_global_mount_may_stand_first() -> None:
    found = parse("run", "--mount=volume=v,target=/v", "a.b/c")
    assert found.before.items_of("mount") == ["volume=v,target=/v"]
    assert found.apps[0].values.items_of("mount") == []


def test_a_stray_closing_is_told() -> None:
    assert parse("run", "a.b/c", "---").notices == [
        "a stray --- was skipped: it ends the arguments that -- begins"
    ]


def test_empty_words_are_skipped() -> None:
    assert [a.image for a in parse("run", "", "a.b/c", "").apps] == ["a.b/c"]


def test_a_bare_readonly_rootfs_means_true() -> None:
    found = parse("run", "a.b/c", "--readonly-rootfs", "a.b/d", "--readonly-rootfs=false")
    assert [a.values.flag("readonly-rootfs") for a in found.apps] == [True, False]


def test_commands_refuse_too_many_and_too_few_arguments() -> None:
    with pytest.raises(UsageError, match='unexpected argument "x"'):
        parse("gc", "x")
    with pytest.raises(UsageError, match=r"missing argument \(usage: gantry image rm IMAGE"):
        parse("image", "rm")


@given(st.lists(st.text(max_size=12), max_size=8))
def test_no_line_of_words_breaks_the_parser(words: list[str]) -> None:
    with contextlib.suppress(UsageError):
        GRAMMAR.parse(words)


@given(st.lists(st.sampled_from([
    "run", "image", "list", "a.b/c", "--", "---", "--net", "--user=1", "--mount", "--debug=x", "--wait", "",
]), max_size=8))  # fmt: skip
def test_no_line_of_our_own_words_breaks_the_parser(words: list[str]) -> None:
    with contextlib.suppress(UsageError):
        GRAMMAR.parse(words)


# --- durations ---


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("300ms", 0.3),
        ("1.5h", 5400),
        ("2h45m", 9900),
        ("30m0s", 1800),
        ("-1s", -1),
        ("+1s", 1),
        (".5s", 0.5),
        ("1us", 1e-6),
        ("1µs", 1e-6),
        ("100ns", 1e-7),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("1500", 1500),
        ("1500B", 1500),
        ("20G", 20 << 30),
        ("20GiB", 20 << 30),
        ("2 GiB", 2 << 30),
        ("1.5GB", 1_500_000_000),
        ("3k", 3072),
        ("1P", 1 << 50),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "G", "-1", "1iB", "1Gi", "1 G B", "1e3", "nan", "5%", "1GiBx", ".5G"])
def test_no_sizes(text: str) -> None:
    with pytest.raises(UsageError, match="is not a size"):
        parse_size(text)


@pytest.mark.parametrize("text", ["8192P", "9" * 400, "9" * 5000, "9" * 5000 + "G"])
def test_sizes_beyond_any(text: str) -> None:
    with pytest.raises(UsageError, match="larger than any size"):
        parse_size(text)


@pytest.mark.parametrize("text", ["", "1", "s", "1x", "1 s", "--1s", "1m 2s", ".s", "0s1", "nan", "inf"])
def test_no_durations(text: str) -> None:
    with pytest.raises(UsageError, match="is not a duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (1800, "30m0s"),
        (86400, "24h0m0s"),
        (0.3, "300ms"),
        (90.5, "1m30.5s"),
        (-1, "-1s"),
        (1e-6, "1µs"),
    ],
)
def test_durations_as_go_prints_them(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@given(st.integers(min_value=0, max_value=10**9))
def test_printed_durations_read_back(milliseconds: int) -> None:
    assert parse_duration(format_duration(milliseconds / 1000)) == pytest.approx(milliseconds / 1000)
