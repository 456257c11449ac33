"""From words to an exit status, without any room beneath."""

from __future__ import annotations

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
from gantry.cli.help import command_page
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
    assert capsys.readouterr().err == f"{verb}: cannot run as unprivileged user (gantry {verb} needs root)\n"


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
    assert rooms <= {"cli", "errors", "config", "appc"}, rooms


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
    handing = modules_of("import gantry.cli.leave")
    assert handing - launcher <= {
        "gantry.cli",
        "gantry.cli.leave",
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
