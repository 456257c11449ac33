"""What a host cannot do is found, with the remedy."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tests.support.command import Site

from gantry.config import Paths
from gantry.pods import doctor
from gantry.pods.doctor import BROKEN, LESS, OK, examine


def paths_in(directory: Path) -> Paths:
    return Paths(*(str(directory / name) for name in ("data", "run", "usr", "etc")))


def about(paths: Paths, subject: str) -> doctor.Finding:
    return next(finding for finding in examine(paths) if finding.subject == subject)


def test_this_host_is_looked_at_and_nothing_is_made(tmp_path: Path) -> None:
    with Site(tmp_path) as site:
        before = sorted(str(path) for path in tmp_path.rglob("*"))
        done = site.gantry("doctor")
        assert sorted(str(path) for path in tmp_path.rglob("*")) == before
        lines = [line.split("\t") for line in done.stdout.splitlines()]
        assert lines[0][0] == "VERDICT"
        assert {line[0] for line in lines[1:]} <= {OK, LESS, BROKEN}
        found: list[dict[str, Any]] = site.json("doctor")
        assert (done.returncode == 254) == any(each["verdict"] == BROKEN for each in found)
        wanting = [each for each in found if each["verdict"] != OK and each["subject"] != "security modules"]
        assert all(each["remedy"] for each in wanting)


def test_missing_programs_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("doctor", "compile"):
        monkeypatch.setattr(f"gantry.pods.{module}.find", lambda *_: None)
    monkeypatch.setattr("gantry.stage1.oci.find", lambda *_: None)
    paths = paths_in(tmp_path)
    assert about(paths, "OCI runtime") == doctor.Finding(
        "OCI runtime", BROKEN, "an OCI runtime (crun or runc) is not installed", "install runc"
    )
    assert about(paths, "first process").verdict == BROKEN
    assert about(paths, "network").remedy == "install nftables"


def test_a_runtime_that_does_not_start_is_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gantry.pods.doctor.choose", lambda _: "/bin/false")
    assert about(paths_in(tmp_path), "OCI runtime").detail == "/bin/false does not start"


@pytest.mark.parametrize("old", ["4.19.0-21-amd64", "5.5.19"])
def test_an_old_kernel_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str) -> None:
    class Uname:
        release = old

    monkeypatch.setattr("gantry.pods.doctor.os.uname", Uname)
    assert about(paths_in(tmp_path), "kernel").verdict == BROKEN


def test_services_are_asked_whether_they_listen(tmp_path: Path) -> None:
    paths = paths_in(tmp_path)
    os.mkdir(paths.run)
    assert about(paths, "signer").verdict == LESS
    dead = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    dead.bind(f"{paths.run}/signer.sock")
    assert about(paths, "signer").verdict == BROKEN
    dead.listen()
    assert about(paths, "signer").verdict == OK
    packets = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    packets.bind(f"{paths.run}/metadata-svc.sock")
    packets.listen()
    assert about(paths, "metadata service").verdict == OK
    dead.close()
    packets.close()


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts")
def test_a_small_disk_and_a_data_directory_of_others_are_told(tmp_path: Path) -> None:
    paths = paths_in(tmp_path)
    os.mkdir(paths.data)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", paths.data], check=True)
    try:
        os.chmod(paths.data, 0o777)
        assert about(paths, "disk").verdict == LESS
        assert about(paths, "data directory").detail == f"{paths.data} on tmpfs"
        assert about(paths, "owners").verdict == BROKEN
    finally:
        subprocess.run(["umount", paths.data], check=True)


def test_json_is_a_list_of_findings(tmp_path: Path) -> None:
    assert json.loads(json.dumps([each._asdict() for each in examine(paths_in(tmp_path))]))
