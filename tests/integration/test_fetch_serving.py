"""Servers that say *not now*, *not yet*, *the same for an hour*; several images at once; a bounded rate."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import termios
import threading
import time
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from tests.integration.test_fetch import NAME, World, big, depends
from tests.support.aci import MadeImage
from tests.support.command import Site
from tests.support.https_server import Answer, HttpsServer, Reply, Request
from tests.support.openpgp import make_key, trust

from gantry.errors import GantryError
from gantry.http import HttpError, StatusError
from gantry.http.fields import LONGEST, fresh_for, retry_after
from gantry.http.throttle import Throttle
from gantry.images import DependencyError, FetchResult, fetch_all
from gantry.trust import BadSignatureError

PATH = "/example.com/app-1.0.aci"


@pytest.fixture(scope="module")
def server() -> Iterator[HttpsServer]:
    with HttpsServer() as server:
        yield server


@pytest.fixture
def world(tmp_path: Path, server: HttpsServer) -> World:
    key = make_key()
    world = World(tmp_path, server, key)
    trust(world.paths, key)
    return world


def asked(world: World, path: str = PATH) -> int:
    return world.server.paths().count(path)


def first_then(first: list[Reply], then: Answer) -> Any:
    """Answers with each of *first* once, and after that always with *then*."""
    left = list(first)

    def answer(_request: Request) -> Answer:
        return left.pop(0) if left else then

    return answer


# -- header fields ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, 0),
        ({"cache-control": "max-age=60"}, 60),
        ({"cache-control": "public, MAX-AGE=60 , must-revalidate"}, 60),
        ({"cache-control": 'max-age="60"'}, 60),
        ({"cache-control": "no-store, max-age=9"}, 0),
        ({"cache-control": "max-age=9, no-cache"}, 0),
        ({"cache-control": 'max-age=9, no-cache="set-cookie"'}, 0),
        ({"cache-control": "max-age=60, max-age=5"}, 5),
        ({"cache-control": "max-age=60", "age": "50"}, 10),
        ({"cache-control": "max-age=60", "age": "61"}, 0),
        ({"cache-control": "max-age=60", "age": "soon"}, 60),
        ({"cache-control": "max-age=-1"}, 0),
        ({"cache-control": "max-age=often"}, 0),
        ({"cache-control": "max-age="}, 0),
        ({"cache-control": "x-max-age=60"}, 0),
        ({"cache-control": 'x="max-age=60"'}, 0),
        ({"cache-control": "s-maxage=60"}, 0),
        ({"cache-control": "max-age=999999999"}, LONGEST),
        ({"cache-control": "max-age=99999999999999999999"}, 0),
        ({"expires": formatdate(1100, usegmt=True), "date": formatdate(1000, usegmt=True)}, 100),
        ({"expires": formatdate(1100, usegmt=True)}, 50),
        ({"expires": "0"}, 0),
        ({"expires": "Fri, 99 Foo 99999 00:00:00 GMT"}, 0),
        ({"expires": formatdate(1100, usegmt=True), "cache-control": "max-age=7"}, 7),
    ],
)
def test_DSC_33_how_long_an_answer_holds(headers: dict[str, str], seconds: int) -> None:
    assert fresh_for(headers, 1050) == seconds


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("", None),
        ("7", 7),
        (" 7 ", 7),
        ("-7", None),
        ("7.5", None),
        ("soon", None),
        (formatdate(1100, usegmt=True), 50),
        (formatdate(1000, usegmt=True), 0),
    ],
)
def test_when_a_server_wants_to_be_asked_again(text: str, seconds: float | None) -> None:
    assert retry_after({"retry-after": text}, 1050) == seconds


# -- not now ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_a_server_that_cannot_answer_now_is_asked_again(world: World, status: int) -> None:
    image = world.make(version="1.0", files={"f": "1"})
    world.publish(image)
    world.routes[PATH] = first_then([Reply(status), Reply(status, headers={"Retry-After": "0"})], image.data)
    world.options = world.with_options(retry_pause=0.01)
    assert world.fetch().image.id == image.id
    assert asked(world) == 3


def test_a_server_is_not_asked_for_ever(world: World) -> None:
    world.publish(world.make(version="1.0"))
    world.routes[PATH] = Reply(503)
    world.options = world.with_options(retry_pause=0.01)
    with pytest.raises(StatusError, match="the server answered 503"):
        world.fetch()
    assert asked(world) == 4
    assert world.files() == []


def test_a_server_that_wants_a_long_pause_is_left_alone_and_quoted(world: World) -> None:
    world.publish(world.make(version="1.0"))
    world.routes[PATH] = Reply(503, headers={"Retry-After": "3600"})
    with pytest.raises(StatusError) as failed:
        world.fetch()
    assert failed.value.hint == "the server wants to be asked again in 3600 seconds"
    assert asked(world) == 1


def test_other_refusals_are_not_repeated(world: World) -> None:
    world.publish(world.make(version="1.0"))
    world.routes[PATH] = Reply(500)
    with pytest.raises(StatusError):
        world.fetch()
    assert asked(world) == 1


# -- the same for an hour -----------------------------------------------------------------------------


def test_DSC_33_what_has_not_expired_is_not_asked_for(world: World) -> None:
    image = world.make(version="1.0")
    world.publish(image, headers={"Cache-Control": "max-age=3600"})
    url = f"https://example.com{PATH}"
    world.fetch(url)
    assert asked(world) == 1
    again = world.fetch(url, policy="update")
    assert (again.fetched, asked(world), asked(world, f"{PATH}.asc")) == (False, 1, 1)
    assert any("has not expired" in note for note in again.notes)
    # By name, too: discovery asks, the image does not.
    assert not world.fetch(policy="update").fetched
    assert asked(world) == 1
    world.fetch(url, policy="update", no_cache=True)
    assert asked(world) == 2


def test_DSC_33_a_304_renews_it(world: World) -> None:
    image = world.make(version="1.0")
    fresh = {"Cache-Control": "max-age=3600"}
    world.publish(image, etag='"a"')
    world.fetch(policy="update")
    # The same signature, too: with another one the image would be judged, and so transferred, again.
    world.routes["/example.com/app-1.0.aci"] = Reply(body=image.data, etag='"a"', headers=fresh)
    assert not world.fetch(policy="update").fetched
    assert asked(world) == 2
    world.fetch(policy="update")
    assert asked(world) == 2


def shift(world: World, seconds: float) -> None:
    """Move what is known of the URL, as if the clock had moved the other way."""
    [record] = Path(world.store.path("urls")).iterdir()
    known = json.loads(record.read_text())
    known["fetched"] += seconds
    known["fresh_until"] += seconds
    record.write_text(json.dumps(known))


def test_DSC_33_what_expired_is_asked_for(world: World) -> None:
    world.publish(world.make(version="1.0"), etag='"a"', headers={"Cache-Control": "max-age=60"})
    world.fetch(policy="update")
    shift(world, -61)
    world.fetch(policy="update")
    assert asked(world) == 2
    # A clock that was set back: what was fetched in the future holds nothing.
    shift(world, 3600)
    world.fetch(policy="update")
    assert asked(world) == 3


def test_an_image_that_was_removed_is_fetched_again_though_it_has_not_expired(world: World) -> None:
    world.publish(world.make(version="1.0"), headers={"Cache-Control": "max-age=3600"})
    world.store.remove(world.fetch(policy="update").image.id)
    assert world.fetch(policy="update").fetched


# -- not yet ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [True, False], ids=["length", "chunked"])
@pytest.mark.parametrize("late", [0, 2])
def test_DSC_33_a_signature_in_the_making_is_asked_for_after_the_image(
    world: World, late: int, length: bool
) -> None:
    image = world.make(version="1.0", files={"f": "1"})
    world.publish(image)
    signature = world.key.sign(image.data)
    if not length:
        world.routes[PATH] = Reply(body=[image.data[:50], image.data[50:]])
    not_yet = Reply(202, headers={"Retry-After": "0"})
    world.routes[f"{PATH}.asc"] = first_then([not_yet] * (1 + late), signature)
    result = world.fetch()
    assert result.image.id == image.id
    assert result.image.verification is not None
    paths = [path for path in world.server.paths() if path.startswith(PATH)]
    assert paths == [f"{PATH}.asc", PATH, *[f"{PATH}.asc"] * (1 + late)]
    assert os.listdir(world.store.path("incoming")) == []


def test_DSC_33_a_signature_that_never_comes_leaves_the_download_to_be_continued(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gantry.images.transfer._SIGNATURE_PATIENCE", 0.3)
    image = big(world)
    world.publish(image, etag='"a"')
    world.routes[f"{PATH}.asc"] = Reply(202)
    with pytest.raises(HttpError, match=r"still making the signature \(202\)"):
        world.fetch()
    assert world.store.list() == []
    world.routes[f"{PATH}.asc"] = world.key.sign(image.data)
    assert world.fetch().image.id == image.id
    sent = [request for request in world.server.requests if request.path == PATH]
    assert [request.headers.get("if-none-match") for request in sent] == [None, '"a"']


def test_DSC_33_a_deferred_signature_is_judged_like_any(world: World) -> None:
    image = world.make(version="1.0", files={"f": "1"})
    world.publish(image)
    signature = world.key.sign(image.data + b"x")
    world.routes[f"{PATH}.asc"] = first_then([Reply(202)], signature)
    with pytest.raises(BadSignatureError):
        world.fetch()
    assert world.files() == []
    assert [entry["code"] for entry in world.refusals()] == ["bad-signature"]


def test_an_image_in_the_making_is_no_image(world: World) -> None:
    image = world.make(version="1.0")
    world.publish(image)
    world.routes[PATH] = Reply(202, body=image.data)
    with pytest.raises(StatusError, match="the server answered 202"):
        world.fetch()
    assert world.files() == []


# -- several at once ----------------------------------------------------------------------------------


class Gate:
    """Holds requests until so many wait at once; tells whether they ever did."""

    def __init__(self, parties: int) -> None:
        self._barrier = threading.Barrier(parties)
        self.met = False

    def answer(self, reply: Answer) -> Any:
        def answered(_request: Request) -> Answer:
            try:
                self._barrier.wait(20)
                self.met = True
            except threading.BrokenBarrierError:
                pass
            return reply

        return answered


def publish_all(world: World, images: dict[str, MadeImage], gate: Gate | None) -> None:
    for name, image in images.items():
        path = f"/{name}-latest.aci"
        world.publish(image, path)
        if gate is not None:
            world.routes[path] = gate.answer(image.data)


def test_dependencies_of_one_level_are_fetched_side_by_side(world: World) -> None:
    below = {f"example.com/d{n}": world.make(f"example.com/d{n}", files={f"d{n}": ""}) for n in range(5)}
    gate = Gate(5)
    publish_all(world, below, gate)
    world.publish(world.make(version="1.0", dependencies=[depends(name) for name in below]))
    result = world.fetch()
    assert gate.met
    assert [image.id for image in result.dependencies] == [image.id for image in below.values()]


def test_a_dependency_that_is_refused_ends_the_others_and_takes_all_back(world: World) -> None:
    good = big(world)
    stalled = threading.Event()

    class Slowly(list[bytes]):
        def __iter__(self) -> Iterator[bytes]:
            yield good.data[:200_000]
            stalled.wait(30)
            yield good.data[200_000:]

    world.publish(good, "/example.com/slow-latest.aci")
    length = {"ETag": '"x"', "Content-Length": str(len(good.data))}
    world.routes["/example.com/slow-latest.aci"] = Reply(body=Slowly(), headers=length)
    bad = world.make("example.com/bad")
    world.publish(bad, "/example.com/bad-latest.aci")

    def wrong(_request: Request) -> bytes:
        threading.Timer(0.5, stalled.set).start()
        return world.key.sign(b"something else")

    world.routes["/example.com/bad-latest.aci.asc"] = wrong
    world.publish(
        world.make(version="1.0", dependencies=[depends("example.com/slow"), depends("example.com/bad")])
    )
    with pytest.raises(BadSignatureError):
        world.fetch()
    assert world.store.list() == []
    assert [entry["code"] for entry in world.refusals()] == ["bad-signature"]


def test_the_same_dependency_on_two_ways_is_fetched_once(world: World) -> None:
    shared = world.make("example.com/shared", files={"s": ""})
    left = world.make("example.com/left", dependencies=[depends("example.com/shared")])
    right = world.make("example.com/right", dependencies=[depends("example.com/shared")])
    publish_all(
        world,
        {"example.com/shared": shared, "example.com/left": left, "example.com/right": right},
        None,
    )
    world.publish(
        world.make(version="1.0", dependencies=[depends("example.com/left"), depends("example.com/right")])
    )
    result = world.fetch()
    assert [image.id for image in result.dependencies] == [shared.id, left.id, right.id]
    assert asked(world, "/example.com/shared-latest.aci") == 1


def test_a_chain_that_is_too_deep_is_refused_before_it_is_fetched_whole(world: World) -> None:
    for number in range(70):
        name = f"example.com/n{number}"
        image = world.make(name, dependencies=[depends(f"example.com/n{number + 1}")])
        world.publish(image, f"/{name}-latest.aci")
    with pytest.raises(DependencyError, match="nested deeper than 64"):
        world.fetch("example.com/n0")
    assert world.store.list() == []
    assert asked(world, "/example.com/n63-latest.aci") == 1
    assert asked(world, "/example.com/n65-latest.aci") == 0


def test_images_are_fetched_side_by_side_and_each_answers_for_itself(world: World) -> None:
    images = {f"example.com/i{n}": world.make(f"example.com/i{n}", files={"f": str(n)}) for n in range(6)}
    gate = Gate(6)
    publish_all(world, images, gate)
    wanted = [(name, None) for name in images]
    wanted.insert(2, ("example.com/none", None))
    results = fetch_all(world.store, world.keystore, wanted, http=world.options)
    assert gate.met
    assert isinstance(results.pop(2), GantryError)
    assert [each.image.id for each in results if isinstance(each, FetchResult)] == [
        image.id for image in images.values()
    ]
    assert {image.id for image in world.store.list()} == {image.id for image in images.values()}


@pytest.mark.parametrize("more", [0, 10])
def test_an_image_may_depend_on_another_of_the_same_call_that_takes_longer(tmp_path: Path, more: int) -> None:
    """Nobody serves the one below: it is only given as a file. Ten more are worth a second process."""
    with Site(tmp_path) as site:
        site.trust()
        site.publish("example.com/below", files={"blob": os.urandom(30_000_000)})
        site.publish("example.com/above", dependencies=[{"imageName": "example.com/below"}])
        for number in range(more):
            site.publish(f"example.com/n{number}", files={"n": str(number)})
        site.files.clear()
        paths = []
        for name in ("below", "above", *(f"n{number}" for number in range(more))):
            path = tmp_path / f"example.com-{name}-1.0.aci"
            path.with_name(f"{path.name}.asc").write_bytes(site.key.sign_file(path))
            paths.append(str(path))
        done = site.gantry("fetch", "--pull-policy=new", *paths)
        assert done.returncode == 0, done.stderr
        assert len(site.json("image", "list")) == len(paths)


def test_one_url_asked_for_twice_at_once_is_downloaded_once(world: World) -> None:
    image = big(world)
    world.publish(image)
    results = fetch_all(world.store, world.keystore, [(f"{NAME}:1.0", None)] * 4, http=world.options)
    assert {each.image.id for each in results if isinstance(each, FetchResult)} == {image.id}
    assert asked(world) == 1


# -- rate, events, bars -------------------------------------------------------------------------------


def test_the_rate_is_bounded_for_all_transfers_together(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By what is taken from the clock, not by the clock itself."""
    slept: list[float] = []
    now = [1000.0]

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    monkeypatch.setattr("gantry.http.throttle.time.sleep", sleep)
    monkeypatch.setattr("gantry.http.throttle.time.monotonic", lambda: now[0])
    image = big(world)
    world.publish(image)
    world.options = world.with_options(throttle=Throttle(1_000_000))
    assert world.fetch().image.id == image.id
    assert sum(slept) == pytest.approx(len(image.data) / 1e6, abs=0.5)


def test_a_slow_rate_is_no_stalled_server(world: World) -> None:
    """What comes slower than servers may send, because we take it slower."""
    image = world.make(version="1.0", files={"f": os.urandom(400_000)})
    world.publish(image)
    world.options = world.with_options(throttle=Throttle(300_000), stall_timeout=0.2, min_rate=900_000)
    assert world.fetch().image.id == image.id


def run_on_a_terminal(words: list[str], environment: dict[str, str]) -> tuple[int, str]:
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (24, 100))
    process = subprocess.Popen(words, stdin=slave, stdout=subprocess.DEVNULL, stderr=slave, env=environment)
    os.close(slave)
    shown = b""
    try:
        while piece := os.read(master, 65536):
            shown += piece
    except OSError:  # the other end is closed
        pass
    os.close(master)
    return process.wait(60), shown.decode()


def test_a_terminal_sees_bars_and_nobody_else_does(tmp_path: Path) -> None:
    with Site(tmp_path) as site:
        site.trust()
        site.publish(files={"blob": os.urandom(3_000_000)})
        words = site.argv(f"--ca-file={site.server.ca_file}", "fetch", "example.com/web:1.0")
        status, shown = run_on_a_terminal(words, site.environment)
        assert status == 0, shown
        assert re.search(r"100%\|.*3\.\d+M/3\.\d+M \[.*B/s\]", shown)
        assert "signature verified: " in shown
        quiet = site.gantry("fetch", "--no-cache", "example.com/web:1.0")
        assert quiet.stderr.startswith("fetch: signature verified: ")
        assert quiet.stderr.count("\n") == 1
        status, shown = run_on_a_terminal([*words, "--progress=none"], site.environment)
        assert status == 0
        assert "%|" not in shown


def test_machines_get_a_json_object_a_line(tmp_path: Path) -> None:
    with Site(tmp_path) as site:
        site.trust()
        made = site.publish(files={"blob": os.urandom(3_000_000)})
        done = site.gantry("fetch", "--progress=json", "example.com/web:1.0", "example.com/none:1")
        assert done.returncode == 254
        assert done.stdout == made.id[:39] + "\n"
        events = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
        kinds = [event["event"] for event in events]
        assert kinds[-2:] == ["ready", "failed"]
        assert events[-2]["id"] == made.id
        assert events[-1]["image"] == "example.com/none:1"
        last = [event for event in events if event["event"] == "progress"][-1]
        assert last["bytes"] == last["total"] == len(made.data)
        assert site.gantry("fetch", "--progress=loud", "example.com/web:1.0").returncode == 254


def test_many_images_come_by_several_processes_and_each_answers_for_itself(tmp_path: Path) -> None:
    """Twelve are worth more than one process; what is printed and recorded does not show how many."""
    with Site(tmp_path) as site:
        site.trust()
        names = [f"example.com/i{number}" for number in range(12)]
        made = [site.publish(name, files={name[-2:]: name}) for name in names]
        (bad,) = [
            path for path in site.files if path.startswith("/example.com/i3-") and path.endswith(".asc")
        ]
        site.files[bad] = site.key.sign(b"something else")
        done = site.gantry("fetch", "--progress=json", *(f"{name}:1.0" for name in names))
        assert done.returncode == 254
        good = [image for number, image in enumerate(made) if number != 3]
        assert done.stdout.split() == [image.id[:39] for image in good]
        lines = done.stderr.splitlines()
        events = [json.loads(line) for line in lines if line.startswith("{")]
        ends = [event for event in events if event["event"] in {"ready", "failed"}]
        assert [event["image"] for event in ends] == [f"{name}:1.0" for name in names]
        assert [event["event"] for event in ends] == ["ready"] * 3 + ["failed"] + ["ready"] * 8
        assert ends[3]["error"]["code"] == "bad-signature"
        assert len([line for line in lines if "bad-signature" not in line and "i3" in line]) >= 1
        whole = [event for event in events if event["event"] == "progress"]
        assert {event["url"] for event in whole if event["bytes"] == event["total"]} >= {
            f"https://example.com/{name}-1.0-linux-amd64.aci" for name in names[4:]
        }
        assert len(site.json("image", "list")) == 11
        record = [entry["event"] for entry in site.json("audit", "list")]
        assert (record.count("image.fetch"), record.count("image.refuse")) == (11, 1)
        assert site.gantry("audit", "verify").returncode == 0


def test_the_rate_on_the_command_line(tmp_path: Path) -> None:
    with Site(tmp_path) as site:
        site.trust()
        made = site.publish(files={"blob": os.urandom(1_000_000)})
        began = time.monotonic()
        done = site.gantry("fetch", "--limit-rate=1M", "example.com/web:1.0")
        assert done.returncode == 0, done.stderr
        # Never faster than it may be; how much slower says nothing.
        assert time.monotonic() - began > len(made.data) / 2**20 - 0.5
        refused = site.gantry("fetch", "--limit-rate=0", "example.com/web:1.0")
        assert refused.returncode == 254
        assert "at least one byte a second" in refused.stderr


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="pods need root")
def test_the_images_of_one_pod_come_side_by_side_and_after_all_words_are_understood(tmp_path: Path) -> None:
    with Site(tmp_path) as site:
        site.trust()
        names = ["example.com/one", "example.com/two", "example.com/three"]
        gate, answers = Gate(3), site.server.routes
        for name in names:
            site.publish(name, exec_=["/bin/true"])
        assert callable(answers)

        def answer(request: Request) -> Answer:
            reply = answers(request)
            if request.path.endswith(".aci"):
                return gate.answer(reply)(request)  # type: ignore[no-any-return]
            return reply

        site.server.routes = answer
        words = [word for name in names for word in (f"{name}:1.0", f"--name={name.rpartition('/')[2]}")]
        refused = site.gantry("prepare", *words, "--memory=much")
        assert refused.returncode == 254
        assert site.server.requests == []
        done = site.gantry("prepare", *words)
        assert done.returncode == 0, done.stderr
        assert gate.met
        assert len(site.json("image", "list")) == 3


@pytest.mark.parametrize("several", [False, True])
def test_ctrl_c_ends_at_once_and_what_has_arrived_is_continued(tmp_path: Path, several: bool) -> None:
    with Site(tmp_path) as site:
        site.trust()
        made = site.publish(files={"blob": os.urandom(3_000_000)})
        path = next(name for name in site.files if name.endswith(".aci"))
        whole, more, requests = site.files[path], threading.Event(), site.server.requests

        class Slowly(list[bytes]):
            def __iter__(self) -> Iterator[bytes]:
                yield whole[:1_000_000]
                more.wait(60)

        length = {"Content-Length": str(len(whole))}
        site.files[path] = Reply(body=Slowly(), headers=length, etag='"e"')  # type: ignore[assignment]
        words = ["example.com/web:1.0", *(["example.com/none:1"] if several else [])]
        command = site.argv(f"--ca-file={site.server.ca_file}", "fetch", *words)
        process = subprocess.Popen(
            ["env", "--default-signal=SIGINT", *command], env=site.environment, stderr=subprocess.PIPE
        )
        incoming = Path(site.paths.data) / "images/incoming"
        deadline = time.monotonic() + 60
        while not any(part.stat().st_size >= 700_000 for part in incoming.glob("*.part")):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)
        assert process.returncode == -signal.SIGINT
        assert b"Traceback" not in told
        more.set()
        assert [part["kind"] for part in site.json("image", "usage")["parts"]].count("download") >= 1
        site.files[path] = Reply(body=whole, etag='"e"', ranges=True)  # type: ignore[assignment]
        requests.clear()
        assert site.gantry("fetch", "example.com/web:1.0").returncode == 0
        [asked_for] = [request.headers.get("range") for request in requests if request.path == path]
        assert asked_for is not None
        assert 700_000 <= int(asked_for.removeprefix("bytes=").removesuffix("-")) <= 1_000_000
        assert site.json("image", "list")[0]["id"] == made.id
