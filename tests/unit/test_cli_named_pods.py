"""What the command line says of named pods, of the record, and of the host's own certificates."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gantry.cli import audit, entry


def words(root: Path, *rest: str) -> list[str]:
    return [f"--dir={root}/data", f"--run-dir={root}/run", f"--local-config={root}/etc", *rest]


@pytest.mark.parametrize("verb", ["stop", "rm"])
def test_a_pod_that_systemd_runs_is_left_to_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    uuid = "0b5c9a12-0000-4000-8000-000000000000"
    pod = tmp_path / "data" / "pods" / "prepared" / uuid
    release = tmp_path / "data" / "releases" / "web" / "current"
    pod.mkdir(parents=True)
    release.mkdir(parents=True)
    (pod / "info.json").write_text(json.dumps({"pod_name": "web", "apps": [], "restartable": True}))
    (pod / "pod").write_text("{}")
    (release / "uuid").write_text(uuid)
    assert entry.run(words(tmp_path, verb, "web")) == 254
    assert f"(gantry pod {verb} web)" in capsys.readouterr().err
    assert pod.is_dir()


def test_facts_of_the_record_are_readable() -> None:
    shown = audit._facts(
        {"seq": 1, "a": None, "b": [], "c": {"x": 1}, "d": "word", "e": "two words", "f": "y" * 500}
    )
    assert shown.startswith('c={"x":1} d=word e="two words" f=yyy')
    assert len(shown) < 150


def test_an_unknown_flag_prints_nothing_on_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    assert entry.run(["list", "--nonsense"]) == 254
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.count("\n") == 1


def test_errors_name_the_whole_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert entry.run(words(tmp_path, "image", "rm", "example.com/nothing")) == 254
    assert "image rm: " in capsys.readouterr().err
