"""rkt's configuration files of the kinds paths and stage1 count, here as there."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from tests.support.command import Site


def write(site: Site, kind: str, file_name: str = "10.json", /, **fields: object) -> Path:
    place = Path(site.paths.local, f"{kind}.d")
    place.mkdir(parents=True, exist_ok=True)
    file = place / file_name
    file.write_text(json.dumps({"rktKind": kind, "rktVersion": "v1", **fields}))
    return file


def argv(site: Site, *words: str) -> list[str]:
    """The command without --dir."""
    return [word for word in site.argv(*words) if not word.startswith("--dir=")]


def run(site: Site, *words: str) -> tuple[int, str, str]:
    done = subprocess.run(
        argv(site, *words), capture_output=True, text=True, env=site.environment, timeout=60, check=False
    )
    return done.returncode, done.stdout, done.stderr


def test_the_data_directory_is_the_files_unless_a_flag_says_otherwise(tmp_path: Path) -> None:
    with Site(tmp_path) as site:
        write(site, "paths", data=str(tmp_path / "elsewhere"))
        _, out, _ = run(site, "config")
        assert json.loads(out)["directories"]["dir"] == str(tmp_path / "elsewhere")
        told = site.gantry("config").stdout
        assert json.loads(told)["directories"]["dir"] == site.paths.data


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="pods need root")
def test_every_verb_finds_a_pod_there_the_launcher_too(tmp_path: Path) -> None:
    with Site(tmp_path) as site:
        site.trust()
        site.publish(exec_=["/bin/true"])
        write(site, "paths", data=str(tmp_path / "elsewhere"))
        ca = f"--ca-file={site.server.ca_file}"
        code, out, err = run(site, ca, "prepare", "--net=none", "example.com/web:1.0")
        assert code == 0, err
        uuid = out.strip()
        assert (tmp_path / "elsewhere/pods/prepared" / uuid).is_dir()
        code, _, err = run(site, "run-prepared", uuid)
        assert code == 0, err
        assert run(site, "rm", uuid)[0] == 0


@pytest.mark.parametrize(
    ("kind", "fields", "said"),
    [
        ("paths", {"data": "relative"}, "data directory must be an absolute path"),
        ("paths", {"data": 5}, "data directory must be an absolute path"),
        ("paths", {"stage1-images": "/x"}, '"stage1-images" in'),
        ("paths", {"other": "/x"}, "is not known"),
        ("stage1", {"name": ""}, "the name of the flavor is no text"),
        ("stage1", {"location": "docker://x"}, "has no meaning here"),
        ("stage1", {"colour": "blue"}, "is not known"),
    ],
)
def test_what_cannot_count_is_refused_in_one_line(
    tmp_path: Path, kind: str, fields: dict[str, object], said: str
) -> None:
    with Site(tmp_path) as site:
        file = write(site, kind, **fields)
        code, out, err = run(site, "config")
        assert (code, out, err.count("\n")) == (254, "", 1)
        assert said in err
        assert str(file) in err


def test_the_usual_flavor_is_the_files_by_rkts_name_too(tmp_path: Path) -> None:
    with Site(tmp_path) as site:
        site.trust()
        write(site, "stage1", name="coreos.com/rkt/stage1-fly", version="1.30.0")
        ca = f"--ca-file={site.server.ca_file}"
        site.publish(exec_=["/bin/true"])
        code, _, err = run(site, ca, "prepare", "--net=none", "example.com/web:1.0")
        assert code == 254
        if os.geteuid() == 0:
            assert "the flavor fly has the host's network" in err
        _, out, _ = run(site, "config")
        assert json.loads(out)["stage1"][0]["name"] == "coreos.com/rkt/stage1-fly"


def test_two_files_that_say_different_things_are_refused(tmp_path: Path) -> None:
    with Site(tmp_path) as site:
        write(site, "paths", data="/srv/one")
        write(site, "paths", "20.json", data="/srv/two")
        code, _, err = run(site, "config")
        assert code == 254
        assert '"data" is set in' in err
