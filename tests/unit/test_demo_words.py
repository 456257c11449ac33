"""What the demonstration says and writes for whoever looks around afterwards, and what it finds of itself."""

from __future__ import annotations

import configparser
import os
import shlex
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from demo import leftovers, play, script
from demo.__main__ import main
from demo.show import Stage


def test_printed_commands_are_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "a place"
    place.mkdir()
    inventory, collections = place / "fleet/inventory.yml", place / "collections"
    play.settings(place, inventory, collections)
    script.variables_file(place).write_text("{}")
    for here in (tmp_path, Path("/")):
        monkeypatch.chdir(here)
        lists = [shlex.split(command) for command in script.commands(place, place / "fleet/ssh_config")]
        ansible = [words for words in lists if words[0].startswith("ANSIBLE_CONFIG=")]
        assert [words[2:4] for words in ansible] == [
            ["gantry_app_hosts", "-m"],
            [script.PLAYBOOK, "-e"],
        ]
        for words in ansible:
            assert Path(words[0].partition("=")[2]).is_file()
            assert os.access(words[1], os.X_OK)
        assert Path(ansible[1][-1].removeprefix("@")).is_file()


def test_the_settings_name_collection_and_inventory(tmp_path: Path) -> None:
    read = configparser.ConfigParser()
    read.read(play.settings(tmp_path, tmp_path / "inventory.yml", tmp_path / "collections"))
    assert read["defaults"]["inventory"] == f"{tmp_path}/inventory.yml"
    assert read["defaults"]["collections_path"] == f"{tmp_path}/collections"


def test_base_roots_are_done_when_the_next_line_comes() -> None:
    sink = StringIO()
    boot = script.Boot(Stage(Console(file=sink, width=200)))
    boot.say("base roots: bookworm")
    assert "base roots: bookworm" in sink.getvalue()
    assert "✓" not in sink.getvalue()
    boot.say("starting one")
    assert [line.strip() for line in sink.getvalue().splitlines()[1:]] == [
        "✓ base roots: bookworm",
        "✓ starting one",
    ]


def test_only_processes_of_the_place_are_ended(tmp_path: Path) -> None:
    def start(place: Path) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-c", "import time; print(flush=True); time.sleep(600)"],
            env={**os.environ, **leftovers.mark(place)},
            stdout=subprocess.PIPE,
            start_new_session=True,
        )

    mine, other = start(tmp_path / "demo"), start(tmp_path / "demo2")
    try:
        for process in (mine, other):
            assert process.stdout
            assert process.stdout.readline()
        assert leftovers.processes(tmp_path / "demo") == [mine.pid]
        assert script.remove(tmp_path / "demo") == ["1 process of a run that was killed"]
        assert mine.wait(10) == -9
        assert other.poll() is None
    finally:
        for process in (mine, other):
            process.kill()
            process.communicate()


def test_down_says_what_it_removed_or_that_there_was_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "demo"
    place.mkdir()
    assert main(["--down", "--place", str(place)]) == 0
    assert f"removed the directory {place}" in capsys.readouterr().out
    assert main(["--down", "--place", str(place)]) == 0
    assert "nothing to remove" in capsys.readouterr().out
