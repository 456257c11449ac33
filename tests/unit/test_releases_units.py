"""The text of units, where they are written, and the table of what must be done."""

from __future__ import annotations

from pathlib import Path

import pytest

from gantry.config import Paths
from gantry.errors import UsageError
from gantry.releases.decide import Observed, Wish, decide
from gantry.releases.spec import App, PodSpec, SpecError, check_name, release_id
from gantry.releases.store import FormatError, Release, ReleaseStore
from gantry.releases.unit import MARKER, UnitInput, path_flags, unit_text
from gantry.releases.units import Units

UUID = "0b5c9a12-0000-4000-8000-000000000000"
PROGRAM = "/opt/gantry/current/bin/gantry"
USUAL = Paths()


def unit(apps: int = 1, *, unified: bool = True, stop_timeout: float = 10) -> UnitInput:
    return UnitInput("web", UUID, apps, "always", 1.5, stop_timeout, unified)


def settings(text: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


def test_the_unit_of_one_app() -> None:
    text = unit_text(unit(), USUAL, PROGRAM)
    assert text.startswith(MARKER)
    found = settings(text)
    assert found == {
        "Description": "Gantry pod web",
        "StartLimitIntervalSec": "120",
        "StartLimitBurst": "10",
        "Type": "notify",
        "NotifyAccess": "main",
        "ExecStart": f"{PROGRAM} run-prepared --leave {UUID}",
        "ExecStopPost": f"{PROGRAM} pod-stopped {UUID}",
        "Restart": "always",
        "RestartSec": "1500ms",
        "SuccessExitStatus": "143",
        "KillMode": "mixed",
        "TimeoutStopSec": "10000ms",
        "Delegate": "yes",
        "SyslogIdentifier": "web",
        "WantedBy": "multi-user.target",
    }


def test_the_unit_of_several_apps_is_watched_by_the_launcher() -> None:
    found = settings(unit_text(unit(2), USUAL, PROGRAM))
    assert found["Type"] == "exec"
    assert found["ExecStart"] == f"{PROGRAM} run-prepared {UUID}"


@pytest.mark.parametrize(
    ("apps", "stop_timeout", "expected"),
    [
        (1, 10, ("10000ms", None)),
        (1, 0.2, ("1000ms", None)),
        (1, 0, ("15000ms", "SIGKILL")),
        (2, 10, ("25000ms", None)),
        (2, 0, ("15000ms", None)),
    ],
)
def test_apps_have_the_time_that_was_asked_for(
    apps: int, stop_timeout: float, expected: tuple[str, str | None]
) -> None:
    """A `TimeoutStopSec` of 0 is for ever; and one that is the launcher's own deadline kills the launcher."""
    found = settings(unit_text(unit(apps, stop_timeout=stop_timeout), USUAL, PROGRAM))
    assert (found["TimeoutStopSec"], found.get("KillSignal")) == expected


def test_without_unified_groups_the_rest_is_ended_by_us() -> None:
    assert settings(unit_text(unit(unified=False), USUAL, PROGRAM))["KillMode"] == "process"


def test_case_39_no_unit_waits_for_the_network() -> None:
    assert "network" not in unit_text(unit(), USUAL, PROGRAM).lower()


def test_unusual_places_are_passed_on_and_quoted() -> None:
    paths = Paths(data="/srv/50% off", run="/run/$x", system="/usr/lib/gantry", local="/etc/gantry")
    assert path_flags(paths) == ["--dir=/srv/50% off", "--run-dir=/run/$x"]
    line = settings(unit_text(unit(), paths, PROGRAM))["ExecStart"]
    assert line == f'{PROGRAM} "--dir=/srv/50%% off" "--run-dir=/run/$$x" run-prepared --leave {UUID}'


@pytest.mark.parametrize("name", ["", "Web", "a_b", "a--b", "-a", "a-", "a.b", "a" * 64, "a\n", "ä"])
def test_bad_names(name: str) -> None:
    with pytest.raises(SpecError, match="cannot be the name of a pod"):
        check_name(name)


@pytest.mark.parametrize("name", ["web", "a", "0", "web-2", "cafe", "a" * 63])
def test_good_names(name: str) -> None:
    assert check_name(name) == name


# --- units on disk ---


def spec(**fields: object) -> PodSpec:
    return PodSpec(name="web", apps=[App(image="example.com/web:1")], **fields)


def release(**fields: object) -> Release:
    images = {"example.com/web:1": "sha512-one"}
    return Release(release_id(spec(**fields), images), spec(**fields), images, UUID, "")


@pytest.fixture
def units(tmp_path: Path) -> Units:
    return Units(USUAL, str(tmp_path / "units"), PROGRAM)


def test_units_are_written_once_and_removed_whole(units: Units, tmp_path: Path) -> None:
    assert units.ours("web")
    assert units.write(release(), enabled=True)
    assert not units.write(release(), enabled=True)
    assert units.enabled("web")
    assert units.ours("web")
    assert units.write(release(), enabled=False)
    assert not units.enabled("web")
    assert units.write(release(restart="never"), enabled=False)
    assert units.remove("web")
    assert not units.remove("web")
    assert [p for p in tmp_path.rglob("*") if p.is_file() or p.is_symlink()] == []


def test_a_masked_or_foreign_unit_is_not_ours(units: Units, tmp_path: Path) -> None:
    (tmp_path / "units").mkdir()
    (tmp_path / "units" / "gantry-web.service").symlink_to("/dev/null")
    assert not units.ours("web")
    (tmp_path / "units" / "gantry-db.service").write_text("[Service]\n")
    assert not units.ours("db")


# --- the table ---


def observed(**fields: object) -> Observed:
    found = {
        "release": release(), "wanted": "started", "pod_there": True, "unit_fits": True, "enabled": True,
        "active": "active", "sub": "running", **fields,
    }  # fmt: skip
    return Observed("web", **found)  # type: ignore[arg-type]


def wish(state: str = "started", **fields: object) -> Wish:
    asked = spec(**fields)
    return Wish("web", state, asked, release_id(asked, {"example.com/web:1": "sha512-one"}))


STOPPED = {"wanted": "stopped", "enabled": False, "active": "inactive", "sub": "dead"}


@pytest.mark.parametrize(
    ("is_", "wanted", "expected"),
    [
        (observed(), wish(), ("none", False, False, "")),
        (Observed("web"), wish(), ("create", True, True, "start")),
        (Observed("web"), wish("stopped"), ("create", True, True, "")),
        (Observed("web"), Wish("web", "absent"), ("none", False, False, "")),
        (Observed("web", pending=True), Wish("web", "absent"), ("remove", False, False, "")),
        (observed(), Wish("web", "absent"), ("remove", False, False, "")),
        (observed(), wish(hostname="x"), ("replace", True, True, "start")),
        (observed(), wish("stopped", hostname="x"), ("replace", True, True, "stop")),
        (observed(), wish()._replace(release_id=None), ("replace", True, True, "start")),
        (observed(pod_there=False), wish(), ("replace", True, True, "start")),
        (observed(unit_fits=False), wish(), ("update", False, True, "")),
        (observed(enabled=False), wish(), ("update", False, True, "")),
        (observed(), wish(restart="never"), ("update", False, True, "")),
        (observed(wanted="stopped"), wish(), ("update", False, False, "")),
        (observed(pending=True), wish(), ("update", False, False, "")),
        (observed(active="failed", sub="failed"), wish(), ("start", False, False, "start")),
        (observed(active="inactive"), wish(restart="never"), ("start", False, True, "start")),
        (observed(active="activating", sub="auto-restart"), wish(), ("none", False, False, "")),
        (observed(), wish("restarted"), ("restart", False, False, "restart")),
        (observed(active="inactive"), wish("restarted"), ("start", False, False, "start")),
        (observed(), wish("stopped"), ("stop", False, True, "stop")),
        (observed(**STOPPED), wish("stopped"), ("none", False, False, "")),
        (observed(**STOPPED), Wish("web", "stopped"), ("none", False, False, "")),
        (observed(**STOPPED), Wish("web", "started"), ("start", False, True, "start")),
    ],
)
def test_what_must_be_done(is_: Observed, wanted: Wish, expected: tuple[str, bool, bool, str]) -> None:
    """Expected: the action, whether a pod is prepared, whether the unit is written, start or stop."""
    found = decide(is_, wanted)
    assert (found.action, found.prepare, found.unit, found.power) == expected


# --- the store ---


def test_a_store_of_another_generation_is_refused(tmp_path: Path) -> None:
    (tmp_path / "releases").mkdir()
    (tmp_path / "releases" / "format").write_text("2\n")
    store = ReleaseStore(Paths(data=str(tmp_path)))
    with pytest.raises(FormatError, match="has format 2, this Gantry reads format 1"):
        store.names()
    with pytest.raises(FormatError, match="format 2"), store.locked("web", timeout=0):
        pass


def test_a_damaged_release_is_named(tmp_path: Path) -> None:
    store = ReleaseStore(Paths(data=str(tmp_path)))
    with store.locked("web", timeout=0):
        store.write_release("web", "a" * 64, spec(), {}, "now")
        store.set_current("web", "a" * 64)
    (tmp_path / "releases" / "web" / ("a" * 64) / "release.json").write_text("{")
    with pytest.raises(FormatError, match=r"cannot read .*release\.json"):
        store.current("web")


def test_history_keeps_its_newest_lines_and_survives_a_torn_one(tmp_path: Path) -> None:
    store = ReleaseStore(Paths(data=str(tmp_path)))
    with store.locked("web", timeout=0):
        store.write_release("web", "a" * 64, spec(), {}, "now")
        for number in range(210):
            store.add_history("web", {"number": number})
        path = tmp_path / "releases" / "web" / "history.jsonl"
        path.write_bytes(path.read_bytes() + b'{"number":')
        assert [e["number"] for e in store.history("web")] == list(range(10, 210))


def test_what_a_killed_removal_left_goes_with_the_next_change(tmp_path: Path) -> None:
    store = ReleaseStore(Paths(data=str(tmp_path)))
    left = tmp_path / "releases" / ".removed-db-123" / ("a" * 64)
    left.mkdir(parents=True)
    (left / "release.json").write_text('{"password": "secret"}')
    with store.locked("web", timeout=0):
        assert not left.parent.exists()
    assert list((tmp_path / "releases").iterdir()) == [tmp_path / "releases" / "format"]


def test_an_error_under_the_lock_comes_out_as_it_is(tmp_path: Path) -> None:
    """Also a missing file, after the pod's directory has gone: as when a removal fails at its end."""
    store = ReleaseStore(Paths(data=str(tmp_path)))

    def remove() -> None:
        with store.locked("web", timeout=0):
            store.remove("web")
            raise FileNotFoundError(2, "No such file or directory", "systemctl")

    with pytest.raises(FileNotFoundError, match="systemctl"):
        remove()
    with store.locked("web", timeout=0):  # the lock was given back
        pass


def test_a_unit_needs_an_absolute_program() -> None:
    with pytest.raises(UsageError, match="absolute"):
        unit_text(unit(), USUAL, "gantry")
