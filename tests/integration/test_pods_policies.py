"""Names of pods, when a pod ends, and what gc would do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.pods import RUNTIME, Kit, make_kit, until

from gantry.errors import BusyError, GantryError, UsageError
from gantry.pods import collect, get, remove

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

LIVE = 'trap "echo stopped; exit 0" TERM; echo up; touch /dev/shm/up; while :; do sleep 0.05; done'
STUBBORN = LIVE.replace("exit 0", "exit 9")
# Apps share /dev/shm: the first waits until the other can be asked to end.
THEN = "while [ ! -e /dev/shm/up ]; do sleep 0.02; done; exit"


@pytest.fixture
def kit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kit]:
    yield from make_kit(tmp_path, monkeypatch)


def gantry(kit: Kit, *words: str) -> subprocess.CompletedProcess[str]:
    code = f"import sys; sys.path.insert(0, {RUNTIME!r}); from gantry.cli import main; sys.exit(main())"
    places = [f"--dir={kit.paths.data}", f"--run-dir={kit.paths.run}"]
    return subprocess.run(
        [sys.executable, "-c", code, *places, *words], capture_output=True, text=True, timeout=60, check=False
    )


# When a pod ends


@pytest.mark.parametrize(
    ("policy", "scripts", "status", "stopped"),
    [
        ("any", [f"{THEN} 0", LIVE], 0, 1),
        ("any", [f"{THEN} 3", LIVE], 3, 1),
        ("any", [f"{THEN} 0", STUBBORN], 0, 1),
        ("any-failure", [f"{THEN} 3", LIVE], 3, 1),
        ("any-failure", ["exit 0", "sleep 0.2; echo last"], 0, 0),
        ("all", ["exit 3", "sleep 0.2; echo last"], 3, 0),
        ("all", ["sleep 0.2; echo last; exit 4", "exit 5"], 5, 0),
        ("all", ["exit 0", "sleep 0.2; echo last; exit 6"], 6, 0),
    ],
)
def test_when_a_pod_ends_is_a_choice(
    kit: Kit, policy: str, scripts: list[str], status: int, stopped: int
) -> None:
    apps = [kit.shell(script, name=f"a{i}") for i, script in enumerate(scripts)]
    done = kit.run(kit.prepare(*apps, exit_policy=policy))
    assert done.returncode == status
    assert done.stdout.count("stopped") == stopped
    assert ("last" in done.stdout) == (not stopped)


def test_an_unknown_policy_is_refused(kit: Kit) -> None:
    with pytest.raises(UsageError, match='"some" is no exit policy'):
        kit.prepare(kit.shell("true"), exit_policy="some")


# Names


def test_a_pod_is_found_by_its_name(kit: Kit) -> None:
    uuid = kit.prepare(kit.shell("exit 3", name="main"), pod_name="shop")
    assert get(kit.paths, "shop").uuid == uuid
    assert gantry(kit, "status", "shop").stdout.startswith("state=prepared\n")
    assert kit.run(uuid).returncode == 3
    assert gantry(kit, "status", "shop").stdout.startswith("state=exited\n")
    assert gantry(kit, "rm", "shop").returncode == 0
    assert gantry(kit, "status", "shop").returncode == 254


def test_a_name_is_given_to_one_pod_until_that_has_ended(kit: Kit) -> None:
    first = kit.prepare(kit.shell("true", name="main"), pod_name="shop")
    with pytest.raises(BusyError, match=f'the name "shop" is that of pod "{first}"'):
        kit.prepare(kit.shell("true"), pod_name="shop")
    assert kit.uuids() == [first], "nothing is left of the second"
    kit.run(first)
    second = kit.prepare(kit.shell("true"), pod_name="shop")
    assert get(kit.paths, "shop").uuid == second
    remove(kit.paths, second)
    remove(kit.paths, first)


@pytest.mark.parametrize("name", ["", "Shop", "a--b", "-a", "a" * 64, "a b", "ä", "../x", "a\n"])
def test_what_cannot_be_a_name_is_refused(kit: Kit, name: str) -> None:
    with pytest.raises(UsageError, match="cannot be the name of a pod"):
        kit.prepare(kit.shell("true"), pod_name=name)


def test_of_many_that_want_a_name_at_once_one_gets_it(kit: Kit) -> None:
    got: list[str] = []
    refused: list[GantryError] = []

    def one() -> None:
        try:
            got.append(kit.prepare(kit.shell("true"), pod_name="shop"))
        except BusyError as error:
            refused.append(error)

    threads = [threading.Thread(target=one) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(got), len(refused)) == (1, 7)


# What gc would do


def test_a_dry_run_says_what_gc_then_does_and_touches_nothing(kit: Kit) -> None:
    ended = kit.prepare(kit.shell("true", name="main"))
    kit.run(ended)
    kept = kit.prepare(kit.shell("true", name="main"))
    launcher = kit.start(running := kit.prepare(kit.shell(LIVE, name="main")))
    until(lambda: get(kit.paths, running).state == "running")

    def tree() -> list[str]:
        top = Path(kit.paths.data, "pods")
        return sorted(str(path.relative_to(top)) for path in top.glob("*/*"))

    before = tree()
    for options, marked, removed in (
        (["--grace-period=1h"], 1, 0),
        (["--grace-period=0"], 1, 1),
        (["--grace-period=0", "--mark-only"], 1, 0),
        (["--grace-period=0", "--expire-prepared=0"], 2, 2),
    ):
        done = gantry(kit, "gc", "--dry-run", *options)
        assert done.returncode == 0, done.stderr
        assert tree() == before
        assert done.stdout.splitlines()[-1].startswith(f"{marked} to mark, {removed} to remove"), options
    foreseen = collect(kit.paths, grace_period=0.0, dry_run=True)
    done_now = collect(kit.paths, grace_period=0.0)
    assert (foreseen.marked, foreseen.removed) == (done_now.marked, done_now.removed)
    assert sorted(kit.uuids()) == sorted([kept, running])
    launcher.send_signal(signal.SIGTERM)
    launcher.wait(60)
