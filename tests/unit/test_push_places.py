"""Publishing by PUT, to a server that keeps what it gets: conditions, conflicts, redirects, credentials."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.aci import make_aci
from tests.support.https_server import HttpsServer, Reply, Request
from tests.support.openpgp import KeyPair, make_key

from gantry.config import Paths
from gantry.http import HttpError, HttpOptions, RedirectError
from gantry.images import Store
from gantry.images.push import GivenKeys, Pushed, push
from gantry.images.push_index import PushError, read_index
from gantry.trust.keystore import inspect

NAME = "example.com/app"
RECORD = "/app/images.json"


@pytest.fixture(scope="module")
def key() -> KeyPair:
    return make_key()


class World:
    """A server with files, and two publishers' images."""

    def __init__(self, base: Path, key: KeyPair) -> None:
        self.base, self.key = base, key
        self.paths = Paths.make(
            data=str(base / "data"), run=str(base / "run"), system=str(base / "lib"), local=str(base / "etc")
        )
        self.files: dict[str, bytes] = {}
        self.conditional = True
        self.before: Callable[[Request], Reply | None] = lambda _: None
        self.server = HttpsServer(self._answer)

    def _answer(self, request: Request) -> Reply:
        early = self.before(request)
        if early is not None:
            return early
        path, there = request.path, self.files.get(request.path)
        tag = f'"{hashlib.sha256(there).hexdigest()}"' if there is not None else None
        if request.method == "GET":
            return Reply(404) if there is None else Reply(body=there, etag=tag)
        if request.method == "MKCOL":
            return Reply(405)  # it knows nothing of that; tests of the lock have a server of their own
        if request.method == "DELETE":
            return Reply(404 if self.files.pop(path, None) is None else 204)
        wanted, none = request.headers.get("if-match"), request.headers.get("if-none-match")
        if self.conditional and ((wanted and wanted != tag) or (none == "*" and there is not None)):
            return Reply(412)
        self.files[path] = request.body
        return Reply(201)

    def push(self, version: str, **options: Any) -> Pushed:
        path = self.base / f"{version}.aci"
        labels = {"version": version, "os": "linux", "arch": "amd64"}
        made = make_aci(path, NAME, labels=labels, files={"f": version})
        path.with_name(f"{path.name}.asc").write_bytes(self.key.sign(made.data))
        http = HttpOptions(
            ca_file=self.server.ca_file,
            connect_to=self.server.connect_to("example.com", "example.org"),
            use_proxies=False,
            headers={"example.com": {"Authorization": "Bearer secret"}},
        )
        keys = GivenKeys(self.paths, inspect(self.key.public))
        return push(Store(self.paths), keys, str(path), "https://example.com", http=http, **options)

    def versions(self) -> set[str]:
        return {image.version for image in read_index(self.files[RECORD], NAME, "here").images}


@pytest.fixture
def world(tmp_path: Path, key: KeyPair) -> Iterator[World]:
    world = World(tmp_path, key)
    try:
        yield world
    finally:
        world.server.close()


def test_what_is_put_is_what_was_pushed_and_the_page_comes_last(world: World) -> None:
    done = world.push("1.0")
    puts = [request.path for request in world.server.requests if request.method == "PUT"]
    assert puts == [f"/{path}" for path in done.written]
    assert puts[-2:] == [RECORD, "/app/index.html"]
    assert puts[0] == "/app-1.0-linux-amd64.aci.asc"
    assert world.files["/app-1.0-linux-amd64.aci"] == (world.base / "1.0.aci").read_bytes()
    assert {r.headers.get("authorization") for r in world.server.requests} == {"Bearer secret"}


@pytest.mark.parametrize("conditional", [True, False])
def test_what_another_push_wrote_meanwhile_is_not_lost(world: World, *, conditional: bool) -> None:
    world.push("1.0")
    base = dict(world.files)
    world.push("1.1")
    theirs, world.files = world.files, base
    world.conditional = conditional
    state = {"done": False}

    def interfere(request: Request) -> Reply | None:
        # With conditions: they write before our record. Without: after it, and have not seen ours.
        trigger = ("PUT", RECORD) if conditional else ("PUT", "/app/index.html")
        if not state["done"] and (request.method, request.path) == trigger:
            state["done"] = True
            world.files.update(theirs)
        return None

    world.before = interfere
    world.push("1.2")
    assert state["done"]
    assert world.versions() == {"1.0", "1.1", "1.2"}


def test_a_redirect_of_an_upload_is_refused_and_gets_no_credentials(world: World) -> None:
    def redirect(request: Request) -> Reply | None:
        if request.method == "PUT":
            return Reply(307, headers={"Location": "https://example.org/elsewhere"})
        return None

    world.before = redirect
    with pytest.raises(RedirectError, match="sends PUT elsewhere"):
        world.push("1.0")
    assert {request.host for request in world.server.requests} == {"example.com"}


@pytest.mark.parametrize(("status", "kind"), [(405, PushError), (401, HttpError), (507, HttpError)])
def test_a_refusal_names_url_and_status_and_leaves_no_page(
    world: World, status: int, kind: type[Exception]
) -> None:
    world.before = lambda request: Reply(status) if request.method == "PUT" else None
    with pytest.raises(kind, match=rf"https://example.com/app-1.0.*the server answered {status}"):
        world.push("1.0")
    assert world.files == {}


def test_what_cannot_be_removed_is_told_and_tried_again(world: World) -> None:
    world.push("1.0")
    world.before = lambda request: Reply(403) if request.method == "DELETE" else None
    done = world.push("1.1", keep=1)
    gone = ["app-1.0-linux-amd64.aci", "app-1.0-linux-amd64.aci.asc"]
    assert done.left == gone
    assert done.removed == []
    world.before = lambda _: None
    again = world.push("1.1", keep=1)
    assert set(gone) <= set(again.removed)
    assert "/app-1.0-linux-amd64.aci" not in world.files


def test_a_record_that_the_server_refuses_to_show_is_not_taken_for_none(world: World) -> None:
    world.push("1.0")
    world.before = lambda request: Reply(403) if request.method == "GET" and request.path == RECORD else None
    before = dict(world.files)
    with pytest.raises(HttpError, match="403"):
        world.push("1.1")
    assert world.files == before
