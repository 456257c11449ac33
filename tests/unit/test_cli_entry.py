"""From words to an exit status, without any room beneath."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import gantry
from gantry import cli
from gantry.apply.document import parse as parse_document
from gantry.cli import entry
from gantry.cli.commands import COMMANDS, GRAMMAR
from gantry.cli.context import Context
from gantry.cli.help import command_page
from gantry.cli.output import Output
from gantry.cli.run import parse_port
from gantry.errors import UsageError
from gantry.releases.spec import App, PodSpec

RUNTIME = str(Path(gantry.__file__).resolve().parents[1])


@pytest.mark.parametrize("verb", ["run", "prepare", "run-prepared", "gc", "rm"])
def test_commands_that_need_root_say_so_before_anything_else(
    verb: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert entry.run([verb, "--nonsense", "x"]) == 254
    assert capsys.readouterr().err == f"{verb}: cannot run as unprivileged user (become root)\n"


def test_an_operating_system_error_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_args: object) -> object:
        raise PermissionError(13, "Permission denied", "/var/lib/gantry/x\ny")

    monkeypatch.setattr(entry, "Context", fail)
    assert entry.run(["list"]) == 254
    assert capsys.readouterr().err == "list: /var/lib/gantry/x\\ny: Permission denied\n"


def test_a_defect_shows_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_args: object) -> object:
        raise ZeroDivisionError

    monkeypatch.setattr(entry, "Context", fail)
    with pytest.raises(ZeroDivisionError):
        entry.run(["list"])


@pytest.mark.parametrize(
    ("words", "lean"),
    [
        (["run-prepared", "uuid"], True),
        (["run-prepared", "--leave", "uuid"], True),
        (["--dir=/x", "run-prepared", "--once", "uuid"], True),
        (["--user-config=/x", "run-prepared", "uuid"], False),
        (["--dir=/x", "--run-dir=/y", "pod-stopped", "uuid"], True),
        (["run-prepared"], False),
        (["run-prepared", "a", "b"], False),
        (["run-prepared", "--help", "uuid"], False),
        (["run-prepared", "--net=host", "uuid"], False),
        (["run-prepared", "--dir=", "uuid"], False),
        (["--dir", "/x", "run-prepared", "uuid"], False),
        (["status", "run-prepared"], False),
        (["list"], False),
        ([], False),
    ],
)
def test_only_what_the_launcher_understands_goes_straight_to_it(words: list[str], lean: bool) -> None:
    assert cli.is_lean(words) == lean


def modules_of(code: str) -> set[str]:
    """Modules in memory after *code*, as a fresh, isolated interpreter sees them."""
    script = f"import sys; sys.path.insert(0, {RUNTIME!r})\n{code}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-IS", "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_starting_a_pod_imports_nothing_of_the_command_line() -> None:
    """`run-prepared` must not pay for the grammar, nor for what the grammar imports."""
    bare = modules_of("")
    launcher = modules_of("import gantry.pods.launch")
    through = modules_of(
        "sys.argv = ['gantry', 'run-prepared', '--dir=/nonexistent', 'cafe']\n"
        "from gantry.cli import main\n"
        "import io; sys.stderr = io.StringIO()\n"
        "main()"
    )
    assert through - launcher <= {"gantry.cli"}, through - launcher
    assert "subprocess" not in through
    assert "typing" not in through
    assert bare < through


def test_help_imports_no_room() -> None:
    loaded = modules_of(
        "import io\nfrom gantry.cli.entry import run\n"
        "out, sys.stdout = sys.stdout, io.StringIO()\nrun(['help'])\nsys.stdout = out"
    )
    rooms = {m.split(".")[1] for m in loaded if m.startswith("gantry.")}
    assert rooms <= {"cli", "errors", "config", "appc", "linux"}, rooms


def test_every_example_is_a_command_line() -> None:
    for command in COMMANDS:
        for example in command.example:
            words = example.split(" < ")[0].split(" > ")[0].split()
            assert words[0] == "gantry"
            found = GRAMMAR.parse(words[1:])
            assert found is not None
            assert found.command is command, example


def test_every_command_has_a_page_that_fits_a_terminal() -> None:
    for command in COMMANDS:
        page = command_page(command)
        assert page.startswith(f"NAME:\n\tgantry {command.path}")
        assert not [line for line in page.splitlines() if "DESCRIPTION" not in line and len(line) > 160], (
            command.path
        )


@pytest.mark.parametrize(
    ("text", "name", "address", "port"),
    [
        ("http:80", "http", None, 80),
        ("http:127.0.0.1:8080", "http", "127.0.0.1", 8080),
        ("h:[::1]:1", "h", "::1", 1),
    ],
)
def test_ports(text: str, name: str, address: str | None, port: int) -> None:
    found = parse_port(text)
    assert (found.name, found.host_ip, found.host_port) == (name, address, port)


@pytest.mark.parametrize(
    "text", ["80", "http", "http:", ":80", "http:x", "http:0", "http:65536", "http:1.2.3:80", "http:-1"]
)
def test_bad_ports(text: str) -> None:
    with pytest.raises(UsageError, match=r"not in name|not a valid"):
        parse_port(text)


def test_handing_over_to_systemd_imports_next_to_nothing() -> None:
    launcher = modules_of("import gantry.pods.launch")
    handing = modules_of("import gantry.pods.leave")
    assert handing - launcher <= {
        "gantry.pods.leave",
        "array",
        "select",
        "socket",
        "_socket",
        "selectors",
    }


DOCS = Path(RUNTIME).parent / "docs"


@pytest.mark.parametrize("page", ["commands.md", "desired-state.md"])
def test_every_example_of_the_documentation_is_a_command_line(page: str) -> None:
    blocks = re.findall(r"```sh\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    assert lines
    for line in lines:
        words = shlex.split(re.sub(r"^uuid=\$\((.*)\)$", r"\1", line).split(" < ")[0])
        assert words[0] == "gantry"
        assert GRAMMAR.parse(words[1:]) is not None


def test_the_document_of_the_documentation_is_one() -> None:
    text = (DOCS / "desired-state.md").read_text()
    document = re.findall(r"```json\n(.*?)```", text, re.DOTALL)[0]
    parsed = parse_document(document.encode())
    assert parsed.pods[0].spec is not None
    fields = {f for kind in (PodSpec, App) for f in kind.__struct_fields__}
    assert not [f for f in fields if f"`{f}`" not in text], "a field that the page does not name"


# Commands without --format, and why.
NO_FORMAT = {
    "run": "its output is the app's",
    "run-prepared": "its output is the app's",
    "pod-stopped": "prints nothing; systemd calls it",
    "cat-manifest": "is JSON already",
    "image cat-manifest": "is JSON already",
    "config": "is JSON already",
    "metadata-service": "a service",
    "signer-service": "a service",
    "completion": "a script for a shell",
    "help": "text for people",
    "enter": "its output is the command's",
    "logs": "its output is the apps'",
    "app exec": "its output is the command's",
}


def test_every_result_can_be_had_as_json() -> None:
    without = {c.path for c in COMMANDS if not c.refuse and not any(f.name == "format" for f in c.flags)}
    assert without == set(NO_FORMAT)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--insecure-options=image", "list"], "--insecure-options=image changes nothing for gantry list"),
        (
            ["--insecure-options=tls", "pod", "list"],
            "--insecure-options=tls changes nothing for gantry pod list",
        ),
        (
            ["--insecure-options=pubkey", "fetch", "x"],
            "changes nothing for gantry fetch (here may be given: http",
        ),
        (
            ["--insecure-options=image", "trust", "x"],
            "changes nothing for gantry trust (here may be given: http",
        ),
        (["--insecure-options=seccomp", "list"], "isolation cannot be switched off"),
        (["--insecure-options=all-run", "fetch", "x"], "isolation cannot be switched off"),
        (["--insecure-options=all", "run", "x"], "isolation cannot be switched off"),
        (["--insecure-options=image,IMAGE", "fetch", "x"], 'duplicated option "image"'),
    ],
)
def test_what_would_change_nothing_is_refused(
    words: list[str], line: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert entry.run(words) == 254
    assert line in capsys.readouterr().err


def context_of(*words: str) -> Context:
    invocation = GRAMMAR.parse(words)
    assert invocation is not None
    return Context(invocation, Output("x"))


@pytest.mark.parametrize(
    ("words", "checks"),
    [
        (("--insecure-options=all-fetch", "fetch", "x"), {"image", "tls", "http"}),
        (("--insecure-options=all", "fetch", "x"), {"image", "tls", "http"}),
        (("--insecure-options=all-fetch", "trust", "x"), {"tls", "http", "pubkey"}),
        (("--insecure-options=http,pubkey", "trust", "x"), {"http", "pubkey"}),
        (("--insecure-options=none", "list"), set()),
        (("--insecure-options=ondisk", "list"), set()),
    ],
)
def test_a_group_of_checks_means_those_that_are_there(
    words: tuple[str, ...], checks: set[str], capsys: pytest.CaptureFixture[str]
) -> None:
    context = context_of(*words)
    assert context.insecure == checks
    capsys.readouterr()
    context.warn_insecure()
    told = capsys.readouterr().err
    assert told.count("x: warning: ") == len(checks), "each one is said"


def test_pubkey_is_about_the_servers_of_keys() -> None:
    from gantry.cli.trust import _http  # noqa: PLC0415 - only here

    plain, lenient = _http(context_of("trust")), _http(context_of("--insecure-options=pubkey", "trust"))
    assert (plain.allow_http, plain.insecure_tls) == (False, False)
    assert (lenient.allow_http, lenient.insecure_tls) == (True, True)


def test_apply_says_what_the_document_switches_off(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    document = io.TextIOWrapper(io.BytesIO(b'{"insecure_options": ["http"]}'))
    monkeypatch.setattr("sys.stdin", document)
    assert entry.run([f"--dir={tmp_path}/d", f"--run-dir={tmp_path}/r", "apply", "--check"]) == 0
    assert capsys.readouterr().err == "apply: warning: plain HTTP has been allowed\n"


def test_config_tells_the_directories_in_use(capsys: pytest.CaptureFixture[str]) -> None:
    assert entry.run(["--dir=/srv/data", "config"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["directories"]["dir"] == shown["stage0"][0]["data"] == "/srv/data"
