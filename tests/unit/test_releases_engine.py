"""Named pods: what is done, in which order, and what remains when something fails or is killed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.support.fake_host import FakeRooms, FakeSystemd, Killed, image_id

from gantry import audit
from gantry.config import Paths
from gantry.errors import BusyError, GantryError, HostError, NotFoundError
from gantry.linux import locks
from gantry.releases import engine as engine_module
from gantry.releases.decide import Wish
from gantry.releases.engine import Engine
from gantry.releases.ports import ReleaseError
from gantry.releases.spec import App, PodSpec, SpecError
from gantry.releases.store import ReleaseStore

V1, V2 = image_id("one"), image_id("two")


class World:
    """One host."""

    def __init__(self, root: Path) -> None:
        self.paths = Paths(*(str(root / d) for d in ("data", "run", "usr", "etc")))
        self.unit_dir = root / "units"
        self.unit_dir.mkdir()
        self.rooms = FakeRooms()
        self.rooms.network = {"example.com/web:1": V1, "example.com/web:2": V2}
        self.systemd = FakeSystemd(self.unit_dir, self.rooms)
        self.engine = self.new_process()

    def new_process(self) -> Engine:
        self.engine = Engine(
            self.paths, self.rooms, self.systemd, unit_dir=str(self.unit_dir), pause=lambda _s: None
        )
        return self.engine

    def wish(self, version: int = 1, state: str = "started", **fields: object) -> Wish:
        return Wish("web", state, spec(version, **fields))

    @property
    def running(self) -> str | None:
        """Which image the unit's pod runs."""
        uuid = self.systemd.running.get("gantry-web.service")
        return next(iter(self.rooms.contents[uuid].values())) if uuid else None

    def files(self) -> set[str]:
        """Everything on disk but the audit record."""
        found = {
            os.path.relpath(os.path.join(d, f), self.unit_dir.parent)
            for d, dirs, files in os.walk(self.unit_dir.parent)
            for f in (*files, *(x for x in dirs if os.path.islink(os.path.join(d, x))))
        }
        return {f for f in found if "/audit/" not in f and not f.endswith("releases/format")}

    def consistent(self) -> None:
        """Nothing half-done: no change under way, one pod a release, the unit is of the current release."""
        assert self.engine.store.change("web") is None
        current = self.engine.store.current("web")
        assert self.rooms.pods_of("web") == ([current.uuid] if current else [])
        if current is None:
            assert not list(self.unit_dir.rglob("gantry-web*"))
            assert "web" not in self.rooms.pins
            assert not os.path.exists(f"{self.paths.data}/releases/web")
        else:
            assert current.uuid in (self.unit_dir / "gantry-web.service").read_text()
            assert set(current.images.values()) <= self.rooms.pins["web"]


def spec(version: int = 1, **fields: object) -> PodSpec:
    app = App(image=f"example.com/web:{version}", environment=fields.pop("environment", {}))
    return PodSpec(name="web", apps=[app], settle=0.0, **fields)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_a_first_release_is_fetched_prepared_and_started(world: World) -> None:
    outcome = world.engine.converge(world.wish())
    assert outcome.decision.action == "create"
    assert world.running == V1
    assert world.systemd.calls == [
        "daemon-reload",
        "reset-failed gantry-web.service",
        "start gantry-web.service",
        "show gantry-web.service",
    ]
    assert (world.unit_dir / "multi-user.target.wants" / "gantry-web.service").is_symlink()
    assert world.rooms.pins == {"web": {V1}}
    assert [e["action"] for e in world.engine.store.history("web")] == ["create"]
    assert [e["ended"] for e in audit.entries(world.paths.data, event="release.apply")] == ["ok"]
    world.consistent()


def test_a_second_time_there_is_nothing_to_do(world: World) -> None:
    world.engine.converge(world.wish())
    before, calls = world.files(), list(world.rooms.network_calls)
    world.systemd.calls.clear()
    outcome = world.engine.converge(world.wish())
    assert not outcome.decision.changes
    assert world.systemd.calls == ["show gantry-web.service"]
    assert world.rooms.network_calls == calls
    assert world.rooms.prepared == 1
    assert world.files() == before


def test_a_change_prepares_first_then_stops_then_starts(world: World) -> None:
    world.engine.converge(world.wish(1))
    steps: list[str] = []
    world.rooms.hook = world.systemd.hook = steps.append
    outcome = world.engine.converge(world.wish(2))
    assert outcome.decision.action == "replace"
    assert outcome.decision.detail == "an image is not in the store"
    assert [s for s in steps if s in {"prepare", "stop", "start", "remove_pod"}] == [
        "prepare", "stop", "start", "remove_pod",
    ]  # fmt: skip
    assert world.running == V2
    world.consistent()
    assert world.rooms.pins["web"] == {V1, V2}, "the release before is kept for going back"


def test_only_one_release_before_is_kept(world: World) -> None:
    for version in (1, 2, 3, 4):
        world.rooms.network[f"example.com/web:{version}"] = image_id(str(version))
        world.engine.converge(world.wish(version))
    assert world.rooms.pins["web"] == {image_id("3"), image_id("4")}
    assert len(world.engine.store.releases("web")) == 2
    world.consistent()


def test_a_changed_variable_is_named_but_never_shown(world: World) -> None:
    world.engine.converge(world.wish(environment={"PASSWORD": "old-secret"}))
    outcome = world.engine.converge(world.wish(environment={"PASSWORD": "new-secret"}))
    assert outcome.decision.detail == "differs in apps[0].environment"
    log = Path(world.paths.data, "audit", "log.jsonl").read_text() + str(world.engine.store.history("web"))
    assert "secret" not in log
    for file in Path(world.paths.data, "releases").rglob("release.json"):
        assert file.stat().st_mode & 0o077 == 0


def test_a_setting_of_the_unit_needs_no_new_pod(world: World) -> None:
    world.engine.converge(world.wish())
    world.systemd.calls.clear()
    outcome = world.engine.converge(world.wish(restart="never"))
    assert outcome.decision.action == "update"
    assert world.systemd.calls == ["show gantry-web.service", "daemon-reload"]
    assert "Restart=no" in (world.unit_dir / "gantry-web.service").read_text()
    assert world.rooms.prepared == 1
    assert not world.engine.converge(world.wish(restart="never")).decision.changes


def test_a_unit_that_somebody_edited_is_written_again(world: World) -> None:
    world.engine.converge(world.wish())
    unit = world.unit_dir / "gantry-web.service"
    unit.write_text(unit.read_text() + "Nice=19\n")
    assert world.engine.converge(world.wish()).decision.action == "update"
    assert "Nice" not in unit.read_text()
    assert world.rooms.prepared == 1


@pytest.mark.parametrize("state", ["started", "restarted"])
def test_a_pod_that_ended_is_started_again(world: World, state: str) -> None:
    world.engine.converge(world.wish())
    world.systemd.crash()
    assert world.engine.converge(Wish("web", state)).decision.action == "start"
    assert world.running == V1


def test_restart_stops_and_starts(world: World) -> None:
    world.engine.converge(world.wish())
    world.systemd.calls.clear()
    assert world.engine.converge(Wish("web", "restarted")).decision.action == "restart"
    assert [c.split()[0] for c in world.systemd.calls if not c.startswith("show")] == [
        "stop", "reset-failed", "start",
    ]  # fmt: skip


@pytest.mark.parametrize("version", [None, 2])
def test_a_pod_that_had_to_be_killed_to_stop_has_not_failed(world: World, version: int | None) -> None:
    world.engine.converge(world.wish())
    world.systemd.must_kill = True
    wish = Wish("web", "stopped") if version is None else world.wish(version, state="stopped")
    assert world.engine.converge(wish).decision.changes
    assert world.engine.observe(["web"])["web"].active == "inactive"


def test_a_stopped_pod_is_ready_and_not_enabled(world: World) -> None:
    assert world.engine.converge(world.wish(state="stopped")).decision.action == "create"
    assert world.running is None
    assert not (world.unit_dir / "multi-user.target.wants" / "gantry-web.service").exists()
    assert not world.engine.converge(world.wish(state="stopped")).decision.changes
    assert world.engine.converge(Wish("web", "started")).decision.action == "start"
    assert world.running == V1
    assert world.engine.converge(Wish("web", "stopped")).decision.action == "stop"
    assert world.running is None
    world.consistent()


def test_a_pod_whose_prepared_pod_is_gone_is_prepared_again(world: World) -> None:
    world.engine.converge(world.wish())
    world.systemd.crash()
    world.rooms.pods.clear()
    outcome = world.engine.converge(Wish("web", "started"))
    assert outcome.decision.detail == "its prepared pod is gone"
    assert world.running == V1
    world.consistent()


def test_a_newer_image_of_the_same_name_is_a_new_release(world: World) -> None:
    world.engine.converge(world.wish())
    world.rooms.store["example.com/web:1"] = V2
    outcome = world.engine.converge(world.wish())
    assert outcome.decision.detail == "an image has a newer version in the store"
    assert world.running == V2


def test_an_image_that_left_the_store_changes_nothing(world: World) -> None:
    world.engine.converge(world.wish())
    world.rooms.store.clear()
    calls = list(world.rooms.network_calls)
    assert not world.engine.converge(world.wish()).decision.changes
    assert world.rooms.network_calls == calls


# --- failures ---


def test_an_image_that_cannot_be_fetched_touches_nothing(world: World) -> None:
    world.engine.converge(world.wish())
    before = world.files()
    world.systemd.calls.clear()
    with pytest.raises(GantryError, match="discovery failed"):
        world.engine.converge(world.wish(7))
    assert world.systemd.calls == ["show gantry-web.service"]
    assert world.files() == before
    world.consistent()


def test_a_first_release_that_cannot_be_fetched_leaves_no_trace(world: World) -> None:
    before = world.files()
    with pytest.raises(GantryError, match="discovery failed"):
        world.engine.converge(world.wish(7))
    assert world.files() == before


def test_a_pod_that_cannot_be_prepared_touches_nothing(world: World) -> None:
    world.engine.converge(world.wish())
    before = world.files()
    world.rooms.fail_prepare = 'volume source "/nowhere" does not exist'
    with pytest.raises(GantryError, match="nowhere"):
        world.engine.converge(world.wish(2))
    assert world.running == V1
    assert world.files() == before
    world.consistent()


@pytest.mark.parametrize("how", ["broken_images", "dies_after_start"])
def test_a_release_that_does_not_stay_up_is_taken_back(world: World, how: str) -> None:
    world.engine.converge(world.wish(1))
    getattr(world.systemd, how).add(V2)
    with pytest.raises(ReleaseError) as e:
        world.engine.converge(world.wish(2))
    line = str(e.value)
    assert "did not stay up" in line
    assert "cannot open /etc/app.conf" in line
    assert "runs again" in line
    assert "\n" not in line
    assert world.running == V1
    world.consistent()
    last = world.engine.store.history("web")[-1]
    assert last["ended"].startswith("rolled back from ")


def test_when_the_old_one_does_not_start_either_both_reasons_are_told(world: World) -> None:
    world.engine.converge(world.wish(1))
    world.systemd.broken_images |= {V1, V2}
    with pytest.raises(ReleaseError, match="did not start again either"):
        world.engine.converge(world.wish(2))
    world.consistent()


def test_a_first_release_that_does_not_stay_up_is_removed(world: World) -> None:
    before = world.files()
    world.systemd.broken_images.add(V1)
    with pytest.raises(ReleaseError, match="it was removed again"):
        world.engine.converge(world.wish())
    assert world.files() == before
    world.consistent()


def test_without_systemd_nothing_is_fetched(world: World) -> None:
    world.systemd.booted = False
    with pytest.raises(HostError, match="systemd does not manage this host"):
        world.engine.converge(world.wish())
    assert world.rooms.network_calls == []
    assert world.engine.converge(world.wish(state="stopped")).decision.action == "create"


def test_a_job_that_ends_well_has_done_its_work(world: World) -> None:
    def end(step: str) -> None:
        if step == "show":
            world.systemd.active["gantry-web.service"] = "inactive"

    world.systemd.hook = end
    world.engine.converge(world.wish(restart="on-failure"))
    with pytest.raises(ReleaseError, match="ended at once"):
        world.engine.converge(world.wish(2, restart="always"))


# --- removal and refusal ---


def test_removal_leaves_nothing(world: World) -> None:
    before = world.files()
    world.engine.converge(world.wish(1))
    world.engine.converge(world.wish(2))
    assert world.engine.converge(Wish("web", "absent")).decision.action == "remove"
    assert world.files() == before
    assert world.rooms.pods == {}
    assert world.rooms.pins == {}
    assert world.running is None
    assert not world.engine.converge(Wish("web", "absent")).decision.changes
    assert world.files() == before


def test_a_pod_that_nobody_described_is_an_error(world: World) -> None:
    with pytest.raises(NotFoundError, match='no pod is called "web"'):
        world.engine.converge(Wish("web", "started"))


@pytest.mark.parametrize("name", ["metadata", "signer", "gc"])
def test_units_of_the_runtime_cannot_be_taken(world: World, name: str) -> None:
    with pytest.raises(SpecError, match="is another unit"):
        world.engine.converge(Wish(name, "absent"))


def test_somebody_elses_unit_is_not_replaced(world: World) -> None:
    (world.unit_dir / "gantry-web.service").write_text("[Service]\nExecStart=/bin/true\n")
    with pytest.raises(SpecError, match="is another unit"):
        world.engine.converge(world.wish())


def test_two_changes_of_one_pod_wait_for_each_other(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.engine.converge(world.wish())
    monkeypatch.setattr(engine_module, "_LOCK_SECONDS", 0.05)
    with locks.locked(f"{world.paths.data}/releases/web/lock"), pytest.raises(BusyError, match='pod "web"'):
        world.engine.converge(world.wish(2))


# --- kill -9 ---


def steps_of(world: World, wish: Wish) -> int:
    count = 0

    def step(_name: str) -> None:
        nonlocal count
        count += 1

    world.rooms.hook = world.systemd.hook = step
    world.engine.converge(wish)
    return count


def kill_at(world: World, number: int) -> None:
    left = number

    def step(_name: str) -> None:
        nonlocal left
        if left == 0:
            raise Killed
        left -= 1

    world.rooms.hook = world.systemd.hook = step


def run_killed(world: World, wish: Wish, number: int, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Run until the given step and die there as by SIGKILL: nothing of ours runs afterwards."""
    kill_at(world, number)
    with monkeypatch.context() as m:
        # A killed process undoes nothing.
        m.setattr(Engine, "_undo_stage", lambda *_a: None)
        m.setattr(ReleaseStore, "_forget_empty", lambda *_a: None)
        try:
            world.engine.converge(wish)
        except Killed:
            killed = True
        else:
            killed = False
    world.rooms.hook = world.systemd.hook = lambda _n: None
    world.new_process()
    return killed


def all_steps(tmp_path: Path, first: bool) -> int:
    (tmp_path / "count").mkdir()
    world = World(tmp_path / "count")
    if not first:
        world.engine.converge(world.wish(1))
    return steps_of(world, world.wish(2))


@pytest.mark.parametrize("first", [True, False])
def test_a_killed_change_is_finished_or_undone(
    tmp_path: Path, first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(all_steps(tmp_path, first)):
        (tmp_path / str(number)).mkdir()
        world = World(tmp_path / str(number))
        if not first:
            world.engine.converge(world.wish(1))
        assert run_killed(world, world.wish(2), number, monkeypatch)
        outcome = world.engine.converge(world.wish(2))
        assert world.running == V2, f"killed at step {number}"
        world.consistent()
        assert outcome.decision.changes
        assert not world.engine.converge(world.wish(2)).decision.changes


def test_a_killed_change_can_be_abandoned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a kill, going back to what was there before is always possible, too."""
    for number in range(all_steps(tmp_path, first=False)):
        (tmp_path / str(number)).mkdir()
        world = World(tmp_path / str(number))
        world.engine.converge(world.wish(1))
        run_killed(world, world.wish(2), number, monkeypatch)
        world.engine.converge(world.wish(1))
        assert world.running == V1, f"killed at step {number}"
        world.consistent()


def test_a_pod_can_be_made_anew_after_a_killed_removal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(5):
        (tmp_path / str(number)).mkdir()
        world = World(tmp_path / str(number))
        world.engine.converge(world.wish(1))
        run_killed(world, Wish("web", "absent"), number, monkeypatch)
        assert world.engine.converge(world.wish(2)).decision.changes
        assert world.running == V2
        world.consistent()


def test_a_killed_removal_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        (tmp_path / str(number)).mkdir()
        world = World(tmp_path / str(number))
        world.engine.converge(world.wish(1))
        run_killed(world, Wish("web", "absent"), number, monkeypatch)
        world.engine.converge(Wish("web", "absent"))
        assert world.rooms.pods == {}
        assert world.rooms.pins == {}
        assert not os.path.exists(f"{world.paths.data}/releases/web")
        assert not list(world.unit_dir.rglob("gantry-web*"))


def test_killed_when_all_but_the_cleaning_was_done_and_the_new_one_died_since(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.engine.converge(world.wish(1))
    begin = ReleaseStore.begin

    def killed(store: ReleaseStore, name: str, change: dict[str, object]) -> None:
        if change["stage"] == "clean":
            raise Killed
        begin(store, name, change)

    with monkeypatch.context() as m:
        m.setattr(ReleaseStore, "begin", killed)
        with pytest.raises(Killed):
            world.engine.converge(world.wish(2))
    world.systemd.crash()
    world.new_process()
    world.engine.converge(Wish("web", "started"))
    assert world.running == V1
    world.consistent()


def test_images_of_both_releases_are_kept_while_the_new_one_is_prepared(world: World) -> None:
    world.engine.converge(world.wish(1))
    seen: list[set[str]] = []

    def look(step: str) -> None:
        if step == "prepare":
            seen.append(set(world.rooms.pins["web"]))

    world.rooms.hook = look
    world.engine.converge(world.wish(2))
    assert seen == [{V1, V2}]
