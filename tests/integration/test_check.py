"""What pods that are gone have left is found, whatever it is, and removed; what lives is left alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.pods import RUNTIME, Kit, groups_of, make_kit, until

from gantry.linux import cgroups
from gantry.pods import get

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

GONE = "11111111-2222-4333-8444-555555555555"


@pytest.fixture
def kit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kit]:
    for kit in make_kit(tmp_path, monkeypatch):
        yield kit
        for process in kit.processes:
            if process.poll() is None:
                process.terminate()
                process.wait(60)


def check(kit: Kit, *flags: str) -> tuple[int, dict[str, Any]]:
    code = f"import sys; sys.path.insert(0, {RUNTIME!r}); from gantry.cli import main; sys.exit(main())"
    places = [f"--dir={kit.paths.data}", f"--run-dir={kit.paths.run}"]
    done = subprocess.run(
        [sys.executable, "-c", code, *places, "check", "--format=json", *flags],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def kinds(found: list[dict[str, str]]) -> list[str]:
    return sorted({each["kind"] for each in found})


def test_a_host_with_pods_that_run_and_have_ended_has_nothing_left(kit: Kit) -> None:
    kit.run(kit.prepare(kit.shell("true", name="main")))
    kit.prepare(kit.shell("true", name="main"))
    uuid = kit.prepare(kit.shell("trap 'exit 0' TERM; while :; do sleep 0.05; done", name="main"))
    kit.start(uuid)
    until(lambda: get(kit.paths, uuid).apps[0].pid)
    assert check(kit) == (0, {"found": [], "left": [], "errors": []})
    assert check(kit, "--repair")[0] == 0
    assert get(kit.paths, uuid).state == "running"


def test_everything_that_can_be_left_is_found_and_removed(kit: Kit) -> None:
    first = kit.prepare(kit.shell("true", name="main"))  # makes the directories
    data, run = Path(kit.paths.data), Path(kit.paths.run)
    for place in ("pods", "oci", "fly", "stage1"):
        (run / place / GONE).mkdir(parents=True)
        (run / place / GONE / "file").touch()
    layout = cgroups.layout()
    ended = kit.prepare(kit.shell("true", name="main"))
    kit.run(ended)
    cgroups.make(layout, f"{cgroups.ROOT}/{ended}")
    (data / "pods/garbage").mkdir(exist_ok=True)
    (data / "pods/garbage" / GONE).mkdir()
    (data / "images/tree/deps-x/refs").mkdir(parents=True)
    (data / "images/tree/deps-x/refs" / GONE.replace("1", "9")).touch()
    mounted = data / "pods/prepared" / first / "apps"
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(mounted)], check=True)
    (run / "net/ns").mkdir(parents=True)
    (run / "net/ns" / GONE).touch()
    subprocess.run(["mount", "--bind", "/proc/self/ns/net", str(run / "net/ns" / GONE)], check=True)
    status, told = check(kit)
    wanted = ["control group", "file", "mount", "namespace", "pod", "reference"]
    assert (status, kinds(told["found"])) == (254, wanted)
    assert told["left"] == told["found"], "nothing is touched without being asked"
    status, told = check(kit, "--repair")
    assert (status, told["left"], told["errors"]) == (0, [], [])
    assert kinds(told["found"]) == wanted
    assert check(kit)[0] == 0
    assert groups_of(ended) == []
    assert str(data) not in Path("/proc/self/mountinfo").read_text()
    assert str(run) not in Path("/proc/self/mountinfo").read_text()
    assert get(kit.paths, first).state == "prepared"
    assert get(kit.paths, ended).state == "exited", "that it has ended is no leftover"


def test_what_a_killed_launcher_leaves_is_found_and_removed(kit: Kit) -> None:
    uuid = kit.prepare(kit.shell("while :; do sleep 0.05; done", name="main"))
    process = kit.start(uuid)
    until(lambda: get(kit.paths, uuid).apps[0].pid)
    process.send_signal(signal.SIGKILL)
    process.wait(60)
    until(lambda: get(kit.paths, uuid).state == "exited", seconds=60)
    status, told = check(kit)
    assert status == 254
    assert {each["uuid"] for each in told["found"]} == {uuid}
    status, told = check(kit, "--repair")
    assert (status, told["left"], told["errors"]) == (0, [], [])
    assert groups_of(uuid) == []
    assert get(kit.paths, uuid).state == "exited"
