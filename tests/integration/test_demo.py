"""The demonstration cleans up after itself, also when somebody has had enough of it in the middle."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.infra.nodes import wait_for

from demo import leftovers
from testhosts import cgroups, fleet

pytestmark = [pytest.mark.root, pytest.mark.machines, pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[2]


ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{ROOT}/molecule:{ROOT}/runtime"}


def start(place: Path, log: Path) -> subprocess.Popen[bytes]:
    with log.open("w") as sink:
        return subprocess.Popen(
            [sys.executable, "-m", "demo", "--place", str(place)],
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            env=ENVIRONMENT,
            start_new_session=True,
        )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    place = tmp_path / "demo"
    log = tmp_path / "log"
    command = start(place, log)
    try:
        wait_for(
            lambda: "runtime: Look at the host" in log.read_text() or command.poll() is not None, "a playbook"
        )
        made = fleet.load(place / "fleet")
        command.send_signal(number)
        assert command.wait(90) == 130, log.read_text()
    finally:
        command.kill()
        command.wait()
        fleet.destroy(place / "fleet")
    assert "removed every process" in log.read_text()
    assert not place.exists()
    assert not made.sockets.exists()
    assert [group for group in cgroups.groups(made.id) if group.exists()] == []
    assert str(place) not in Path("/proc/self/mountinfo").read_text()
    assert mentions(place) == []


def test_what_a_killed_demo_has_started_is_ended_by_down(tmp_path: Path) -> None:
    place = tmp_path / "demo"
    log = tmp_path / "log"
    command = start(place, log)
    try:
        wait_for(
            lambda: "runtime: Look at the host" in log.read_text() or command.poll() is not None, "a playbook"
        )
        made = fleet.load(place / "fleet")
        command.kill()
        command.wait()
        # What is to be ended has to be there.
        assert leftovers.processes(place), log.read_text()
        # A playbook may end by itself once nobody reads it; this stands for one that does not.
        stray = subprocess.Popen(["sleep", "600"], env={**os.environ, **leftovers.mark(place)})
        down = [sys.executable, "-m", "demo", "--place", str(place), "--down"]
        done = subprocess.run(down, env=ENVIRONMENT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "of a run that was killed" in done.stdout
        assert stray.wait(30) < 0
        assert "removed the hosts images, app1, app2" in done.stdout
        assert mentions(place) == []
        assert leftovers.processes(place) == []
        assert cgroups.processes(made.id) == set()
    finally:
        command.kill()
        command.wait()
        leftovers.end(place)
        fleet.destroy(place / "fleet")
    assert not place.exists()
    again = subprocess.run(down, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert "nothing to remove" in again.stdout


def mentions(place: Path) -> list[str]:
    """Processes that have *place* on their command line: Ansible, ssh, hosts."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = process.joinpath("cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if str(place) in command:
            found.append(f"{process.name} {command}")
    return found
