"""Named pods whose files are damaged, and pods that their unit left alive."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.unit.test_releases_engine import World

from gantry.cli.named import _state
from gantry.config import Paths
from gantry.http import HttpOptions
from gantry.images.store import Store
from gantry.releases import backend as backend_module
from gantry.releases.backend import Rooms
from gantry.releases.decide import Wish
from gantry.releases.store import FormatError
from gantry.trust import KeyStore


@pytest.fixture(name="world")
def _world(tmp_path: Path) -> World:
    world = World(tmp_path)
    world.engine.converge(world.wish())
    return world


def directory(world: World) -> Path:
    return Path(world.paths.data, "releases", "web")


def damage(world: World, what: str) -> None:
    place = directory(world)
    if what == "release":
        next(place.glob("*/release.json")).write_bytes(b"\xff{")
    elif what == "current":
        (place / "current").unlink()
        (place / "current").symlink_to("nowhere")
    elif what == "file":
        (place / "current").unlink()
        (place / "current").write_text("x")
    else:
        (place / "change.json").write_text(what)


DAMAGES = ["release", "current", "file", "", "{}", "[]", '{"stage":"x"}', '{"stage":"clean"}',
           '{"stage":"switch","from":1,"to":"a","to_uuid":"b","start":true,"was_running":true}',
           '{"stage":["a"]}']  # fmt: skip


@pytest.mark.parametrize("what", DAMAGES)
def test_a_damaged_pod_is_shown_refused_and_can_be_removed(world: World, what: str) -> None:
    damage(world, what)
    assert _state(world.engine.observe(["web"])["web"]) == "damaged"
    with pytest.raises(FormatError, match="web"):
        world.engine.converge(world.wish())
    assert world.engine.known("web")
    assert world.engine.converge(Wish("web", "absent")).decision.action == "remove"
    assert world.rooms.pods == {}
    assert world.rooms.pins == {}
    assert not directory(world).exists()
    assert not list(world.unit_dir.rglob("gantry-web*"))


def test_a_damaged_release_before_does_not_keep_the_pod_from_changing(world: World) -> None:
    world.engine.converge(world.wish(2))
    current = os.readlink(directory(world) / "current")
    old = next(p for p in directory(world).glob("*/release.json") if p.parent.name != current)
    old.write_text("{")
    world.engine.converge(world.wish(2, restart="never"))
    world.engine.converge(world.wish(1))
    world.consistent()


def test_files_of_a_killed_process_are_swept(world: World) -> None:
    left = directory(world) / "change.json.123.abc.tmp"
    left.write_text("{")
    world.engine.converge(world.wish())
    assert not left.exists()


@pytest.mark.parametrize("restart", ["never", "on-failure"])
def test_a_job_that_has_done_its_work_is_not_done_again(world: World, restart: str) -> None:
    world.engine.converge(world.wish(restart=restart))
    world.systemd.active["gantry-web.service"] = "inactive"
    real = world.systemd._show
    world.systemd._show = lambda unit: {**real(unit), "ExecMainExitTimestampMonotonic": "1"}  # type: ignore[method-assign]
    assert not world.engine.converge(world.wish(restart=restart)).decision.changes
    assert world.engine.converge(world.wish(restart=restart, state="restarted")).decision.power == "start"


def test_what_a_killed_clean_up_left_alive_is_ended_before_the_pod_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = Paths(*(str(tmp_path / d) for d in ("data", "run", "usr", "etc")))
    rooms = Rooms(paths, Store(paths), KeyStore(paths), HttpOptions(), frozenset())
    steps: list[str] = []
    monkeypatch.setattr(backend_module, "find_state", lambda _data, _uuid: "run")
    monkeypatch.setattr(backend_module, "end_leftovers", lambda *_a: steps.append("end"))
    monkeypatch.setattr(backend_module.pods, "remove", lambda *_a: steps.append("remove"), raising=False)
    rooms.remove_pod("0b5c9a12-0000-4000-8000-000000000000")
    assert steps == ["end", "remove"]
