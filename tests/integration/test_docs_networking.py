"""docs/networking.md is true: its file is a network, its commands are commands, its table is the table."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from gantry.cli.commands import COMMANDS, GRAMMAR
from gantry.config import Paths
from gantry.network.configured import Wanted, load, resolve

PAGE = (Path(__file__).resolve().parents[2] / "docs/networking.md").read_text()


def paths_in(directory: Path) -> Paths:
    return Paths(*(str(directory / name) for name in ("data", "run", "usr", "etc")))


def examples() -> list[str]:
    return [line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]


def test_the_file_of_the_page_is_a_network_that_pods_can_be_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "etc/net.d"
    place.mkdir(parents=True)
    (place / "10-lan.conf").write_text(re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)[0])
    (place / "bridge").write_text("#!/bin/sh\n")
    (place / "bridge").chmod(0o755)
    found, notes = load(paths_in(tmp_path))
    assert (list(found), notes) == (["lan", "default-restricted"], [])
    for words in map(shlex.split, examples()):
        for name in (word.removeprefix("--net=") for word in words if word.startswith("--net=")):
            wanted: Wanted = resolve(name.split(","), paths_in(tmp_path))
            assert [each["name"] for each in wanted.configured] == ["lan"]
            assert wanted.dns is not None
            assert wanted.dns.servers == ("10.77.1.1",)
            assert json.dumps(wanted.configured)


def test_its_commands_are_commands() -> None:
    assert len(examples()) == 4
    for line in examples():
        words = shlex.split(line)
        assert words[0] == "gantry"
        command, _ = GRAMMAR.find(words[1:])
        assert command in COMMANDS
        assert not command.refuse


def test_the_names_of_its_first_table_are_known() -> None:
    for name in ("default", "none", "host"):
        assert f"| `{name}` |" in PAGE
        assert resolve([name], paths_in(Path("/nonexistent"))).mode == name
