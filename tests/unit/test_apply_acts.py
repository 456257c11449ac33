"""Desired state brought about: order, idempotency, check mode, sets and prune, failures."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from tests.support.fake_host import FakeKeys, FakeRooms, FakeSystemd, image_id

from gantry.apply.act import Result, apply, describe
from gantry.apply.document import parse
from gantry.apply.host import Host
from gantry.apply.sets import Sets
from gantry.config import Paths
from gantry.errors import BusyError, NotFoundError
from gantry.releases.engine import Engine

FPR = "0123456789abcdef0123456789abcdef01234567"
V1, V2 = image_id("one"), image_id("two")


class World:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.paths = Paths(*(str(root / d) for d in ("data", "run", "usr", "etc")))
        (root / "units").mkdir()
        self.rooms = FakeRooms()
        self.rooms.network = {
            "example.com/web:1": V1,
            "example.com/web:2": V2,
            "example.com/db:1": image_id("db"),
        }
        self.systemd = FakeSystemd(root / "units", self.rooms)
        self.keys = FakeKeys()
        self.host = Host(
            self.keys,
            self.rooms,
            Engine(self.paths, self.rooms, self.systemd, unit_dir=str(root / "units"), pause=lambda _s: None),
            Sets(self.paths),
        )

    def apply(self, check: bool = False, **document: Any) -> Result:
        self.last = apply(self.host, parse(json.dumps(document).encode()), check=check)
        return self.last

    def files(self) -> dict[str, bytes]:
        found = {}
        for directory, _, files in os.walk(self.root):
            for file in files:
                path = os.path.join(directory, file)
                found[path] = os.readlink(path).encode() if os.path.islink(path) else Path(path).read_bytes()
        return found

    def actions(self) -> list[str]:
        return [f"{d.action.kind} {d.action.name} {d.action.action}" for d in self.last.done]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def pod(name: str = "web", version: int = 1, state: str = "started", **fields: Any) -> dict[str, Any]:
    apps = [{"image": f"example.com/{'db' if name == 'db' else 'web'}:{version}", **fields}]
    return {"name": name, "state": state, "apps": apps, "settle": 0}


# Lists that are given and empty; a list that is not given says nothing.
NOTHING: dict[str, Any] = {"prune": True, "trust": [], "images": [], "pods": []}
KEY = {"prefix": "example.com", "fingerprint": FPR, "key": f"{FPR} 1"}
SITE: dict[str, Any] = {
    "set": "site",
    "trust": [KEY],
    "images": [{"name": "example.com/web:1"}],
    "pods": [pod(), pod("db")],
}


def test_everything_is_brought_about_from_the_ground_up(world: World) -> None:
    result = world.apply(**SITE)
    assert not result.errors
    assert world.actions() == [
        f"trust example.com:{FPR} add",
        "image example.com/web:1 fetch",
        "pod web create",
        "pod db create",
    ]
    assert all(d.changed for d in result.done)
    assert set(world.systemd.running) == {"gantry-web.service", "gantry-db.service"}


def test_a_second_run_changes_nothing_and_asks_systemd_once(world: World) -> None:
    fifty = {**SITE, "pods": [pod(f"web-{i}") for i in range(50)]}
    world.apply(**fifty)
    before, network, examined = world.files(), list(world.rooms.network_calls), world.keys.examined
    prepared = world.rooms.prepared
    world.systemd.calls.clear()
    world.rooms.network.clear()
    result = world.apply(**fifty)
    assert not result.as_dict()["changed"]
    assert {d.action.action for d in result.done} == {"none"}
    assert len(world.systemd.calls) == 1
    assert world.systemd.calls[0].startswith("show gantry-web-0.service gantry-web-1.service ")
    assert world.rooms.network_calls == network
    assert world.rooms.prepared == prepared
    assert world.keys.examined == examined
    assert world.files() == before


def test_case_33_check_on_a_virgin_host_predicts_and_touches_nothing(world: World) -> None:
    world.systemd.booted = False
    world.rooms.network.clear()
    before = world.files()
    result = world.apply(check=True, **SITE, prune=True)
    assert not result.errors
    assert result.as_dict()["changed"]
    assert [d.changed for d in result.done] == [True] * 4
    assert world.files() == before
    assert world.rooms.network_calls == []
    assert world.systemd.calls == []
    assert result.as_dict()["diff"]["before"]["pod web"] is None
    assert result.as_dict()["diff"]["after"]["pod web"]["release"] == "known after fetch"


@pytest.mark.parametrize("change", [
    {"trust": [{**KEY, "key": f"{FPR} 2"}]},
    {"pods": [pod(version=2), pod("db")]},
    {"pods": [pod(state="stopped"), pod("db")]},
    {"pods": [pod(state="restarted"), pod("db")]},
    {"pods": [pod(state="absent"), pod("db")]},
    {"pods": [pod(environment={"A": "b"}), pod("db")]},
    {"pods": [pod()], "prune": True},
    {"images": [{"name": "example.com/web:1"}, {"name": "example.com/web:2"}]},
    {},
])  # fmt: skip
def test_check_predicts_what_is_then_done(world: World, change: dict[str, Any]) -> None:
    world.apply(**SITE)
    before = world.files()
    predicted = world.apply(check=True, **{**SITE, **change})
    told = world.actions()
    assert world.files() == before
    done = world.apply(**{**SITE, **change})
    assert world.actions() == told
    assert [d.changed for d in done.done] == [d.changed for d in predicted.done]
    assert done.as_dict()["changed"] == bool(change)
    if not any(p["state"] == "restarted" for p in {**SITE, **change}["pods"]):
        assert not world.apply(**{**SITE, **change}).as_dict()["changed"]


def test_an_image_with_pull_update_asks_the_network_and_moves_its_pods(world: World) -> None:
    site = {**SITE, "images": [{"name": "example.com/web:1", "pull": "update"}]}
    world.apply(**site)
    assert not world.apply(**site).as_dict()["changed"]
    world.rooms.network["example.com/web:1"] = V2
    assert not world.apply(check=True, **site).as_dict()["changed"], "check asks no network"
    result = world.apply(**site)
    assert world.actions()[1:3] == ["image example.com/web:1 fetch", "pod web replace"]
    assert not result.errors


def test_a_pod_with_pull_update_follows_the_network(world: World) -> None:
    world.apply(pods=[{**pod(), "pull": "update"}])
    assert not world.apply(pods=[{**pod(), "pull": "update"}]).as_dict()["changed"]
    world.rooms.network["example.com/web:1"] = V2
    assert not world.apply(pods=[pod()]).as_dict()["changed"]
    assert world.apply(pods=[{**pod(), "pull": "update"}]).as_dict()["changed"]


# --- sets ---


def test_prune_removes_what_the_set_made_from_the_top_down(world: World) -> None:
    world.apply(**SITE)
    result = world.apply(set="site", **NOTHING)
    assert not result.errors
    assert world.actions() == [
        "pod db remove",
        "pod web remove",
        "image example.com/web:1 remove",
        f"trust example.com:{FPR} remove",
    ]
    assert world.keys.trusted == {}
    assert world.rooms.pods == {}
    assert world.host.sets.read_all() == {}


def test_without_prune_nothing_is_removed(world: World) -> None:
    world.apply(**SITE)
    assert not world.apply(set="site").as_dict()["changed"]
    world.apply(set="site", **NOTHING)
    assert world.rooms.pods == {}, "what was made before is still known"


def test_prune_leaves_what_was_there_before(world: World) -> None:
    world.keys.trusted[f"example.com:{FPR}"] = f"{FPR} 1"
    world.rooms.resolve("example.com/web:1", "new")
    world.apply(pods=[pod()])
    world.apply(**SITE)
    world.apply(set="site", **NOTHING)
    assert world.actions() == ["pod db remove"]
    assert f"example.com:{FPR}" in world.keys.trusted
    assert "gantry-web.service" in world.systemd.running


def test_prune_leaves_other_sets_alone(world: World) -> None:
    world.apply(**SITE)
    world.apply(set="team", pods=[pod("cache")])
    world.apply(set="team", **NOTHING)
    assert world.actions() == ["pod cache remove"]


def test_what_two_sets_want_is_handed_over(world: World) -> None:
    world.apply(set="a", images=[{"name": "example.com/web:1"}])
    world.apply(set="b", images=[{"name": "example.com/web:1"}])
    world.apply(set="a", **NOTHING)
    assert "example.com/web:1" in world.rooms.store
    world.apply(set="b", **NOTHING)
    assert "example.com/web:1" not in world.rooms.store


def test_a_pod_of_another_set_is_not_touched(world: World) -> None:
    world.apply(**SITE)
    before = world.files()
    with pytest.raises(BusyError, match='the pod "web" belongs to the set "site", not to "team"'):
        world.apply(set="team", images=[{"name": "example.com/web:2"}], pods=[pod(version=2)])
    assert world.files() == before
    assert world.apply(pods=[pod(version=2)]).as_dict()["changed"], "a document without a set is ad hoc"


def test_a_removed_pod_belongs_to_nobody(world: World) -> None:
    world.apply(**SITE)
    world.apply(pods=[pod(state="absent")])
    world.apply(set="team", pods=[pod()])
    assert world.host.sets.owner("pod", "web") == "team"


# --- failures ---


def test_a_failed_image_leaves_its_pods_alone_and_the_others_converge(world: World) -> None:
    del world.rooms.network["example.com/web:1"]
    result = world.apply(**SITE)
    shown = result.as_dict()
    assert [bool(d.error) for d in result.done] == [False, True, True, False]
    assert shown["changed"]
    assert shown["error"]["msg"] == 'discovery failed for "example.com/web:1"'
    assert world.rooms.network_calls.count("example.com/web:1") == 1, "not asked again for the pod"
    assert "gantry-db.service" in world.systemd.running
    assert not any("web" in n for n in world.systemd.running)
    assert [line.split("\t")[0] for line in describe(result)] == ["changed", "failed", "failed", "changed"]


def test_a_failed_object_is_not_taken_as_made(world: World) -> None:
    world.systemd.broken_images.add(V1)
    world.apply(**SITE)
    assert world.host.sets.read_all()["site"].made["pod"] == ["db"]


def test_a_key_that_nobody_has_is_an_error_before_anything_is_done(world: World) -> None:
    before = world.files()
    with pytest.raises(Exception, match="is not on this host"):
        world.apply(**{**SITE, "trust": [{"prefix": "example.com", "fingerprint": FPR}]})
    assert world.files() == before


def test_a_pod_that_nobody_described_fails_alone(world: World) -> None:
    for check in (True, False):
        result = world.apply(check=check, pods=[{"name": "ghost", "state": "restarted"}, pod()])
        assert isinstance(result.errors[0], NotFoundError)
        assert len(result.errors) == 1
    assert "gantry-web.service" in world.systemd.running


def test_case_57_no_secret_in_any_result(world: World) -> None:
    world.apply(pods=[pod(environment={"TOKEN": "s3cret-1"})])
    world.systemd.broken_images.add(V2)
    texts = [
        json.dumps(world.apply(check=True, pods=[pod(environment={"TOKEN": "s3cret-2"})]).as_dict()),
        json.dumps(world.apply(pods=[pod(environment={"TOKEN": "s3cret-2"})]).as_dict()),
        json.dumps(world.apply(pods=[pod(version=2, environment={"TOKEN": "s3cret-3"})]).as_dict()),
        Path(world.paths.data, "audit", "log.jsonl").read_text(),
    ]
    assert "s3cret" not in "".join(texts)
    assert "(differs)" in texts[0]


def test_a_result_can_be_printed_as_json(world: World) -> None:
    shown = world.apply(**SITE).as_dict()
    assert json.loads(json.dumps(shown)) == shown
    assert {"kind", "name", "action", "changed", "detail", "diff"} <= set(shown["actions"][0])


def test_a_list_that_is_not_given_prunes_nothing(world: World) -> None:
    world.apply(**SITE)
    files = world.files()
    result = world.apply(set="site", prune=True)
    assert not result.done
    assert world.files() == files
    world.apply(set="site", prune=True, pods=[pod()])
    assert [
        f"{d.action.kind} {d.action.name}" for d in world.apply(set="site", **NOTHING).done if d.changed
    ] == [
        "pod web",
        "image example.com/web:1",
        f"trust example.com:{FPR}",
    ]


WEB1 = {"name": "example.com/web:1"}


def test_what_a_set_lists_is_kept_and_what_it_lists_no_longer_is_not(world: World) -> None:
    world.apply(set="site", images=[WEB1, {"name": "example.com/db:1"}])
    assert world.rooms.kept["site"] == {"example.com/web:1": V1, "example.com/db:1": image_id("db")}
    world.apply(set="site", images=[{"name": "example.com/web:2"}])
    assert set(world.rooms.kept["site"]) == {"example.com/web:1", "example.com/db:1", "example.com/web:2"}
    world.apply(set="site", prune=True, pods=[])
    assert len(world.rooms.kept["site"]) == 3
    world.apply(set="site", prune=True, images=[{"name": "example.com/web:2"}])
    assert world.rooms.kept["site"] == {"example.com/web:2": V2}
    assert world.rooms.store == {"example.com/web:2": V2}
    world.apply(set="site", images=[{"name": "example.com/web:2", "state": "absent"}])
    assert not any(world.rooms.kept["site"].values())
    assert world.rooms.store == {}


def test_an_image_without_a_set_is_kept_for_its_own_sake(world: World) -> None:
    world.apply(images=[WEB1])
    assert world.rooms.kept == {"": {"example.com/web:1": V1}}
    world.rooms.kept.clear()
    del world.rooms.network["example.com/web:1"]
    assert world.apply(images=[{**WEB1, "pull": "update"}]).errors
    assert world.rooms.kept == {"": {}}, "what failed changes nothing"
    world.apply(images=[{**WEB1, "state": "absent"}])
    assert world.rooms.store == {}


def test_a_newer_image_of_a_name_takes_the_place_of_the_older(world: World) -> None:
    site: dict[str, Any] = {"set": "site", "images": [{**WEB1, "pull": "update"}]}
    world.apply(**site)
    world.rooms.network["example.com/web:1"] = V2
    world.apply(**site)
    assert world.rooms.kept["site"] == {"example.com/web:1": V2}
    del world.rooms.network["example.com/web:1"]
    assert world.apply(**site).errors
    assert world.rooms.kept["site"] == {"example.com/web:1": V2}


@pytest.mark.parametrize("check", [True, False])
def test_an_image_that_something_else_wants_is_not_removed(world: World, check: bool) -> None:
    world.apply(set="team", images=[WEB1])
    world.apply(set="site", images=[WEB1], pods=[pod()])
    for document in (
        {"images": [{**WEB1, "state": "absent"}]},
        {"set": "site", "images": [{**WEB1, "state": "absent"}]},
        {"set": "team", "images": [{**WEB1, "state": "absent"}]},
    ):
        [error] = world.apply(check=check, **document).errors
        assert "stays" in str(error)
        world.apply(set="team", images=[WEB1])
        world.apply(set="site", images=[WEB1], pods=[pod()])
    assert world.rooms.store["example.com/web:1"] == V1


@pytest.mark.parametrize("check", [True, False])
def test_prune_leaves_an_image_that_a_pod_runs_for_another_time(world: World, check: bool) -> None:
    world.apply(**SITE)
    result = world.apply(check=check, **{**SITE, "images": [], "prune": True})
    assert not result.errors
    assert not result.as_dict()["changed"]
    result = world.apply(check=check, **{**SITE, "images": [], "pods": [], "prune": True})
    assert not result.errors
    assert "image example.com/web:1 remove" in world.actions()


@pytest.mark.parametrize("check", [True, False])
def test_an_image_goes_with_its_pod(world: World, check: bool) -> None:
    world.apply(**SITE)
    result = world.apply(check=check, set="site", **NOTHING)
    assert not result.errors
    assert ("image", "remove") in [(d.action.kind, d.action.action) for d in result.done]
