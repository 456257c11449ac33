"""The lock on a server that knows MKCOL, and servers that do not, or answer oddly."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from tests.support.https_server import HttpsServer, Reply, Request

from gantry.errors import BusyError
from gantry.http import Client, HttpOptions
from gantry.images import push_lock
from gantry.images.push_lock import held

URL = "https://example.com"
HERE = f"/{push_lock.DIRECTORY}/"


class Dav:
    """A server that knows MKCOL."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.knows = True
        self.page = b"<html>" + b"an error page " * 500
        self.turn = threading.Lock()
        self.server = HttpsServer(self._answer)

    def client(self) -> Client:
        return Client(
            HttpOptions(
                ca_file=self.server.ca_file,
                connect_to=self.server.connect_to("example.com"),
                use_proxies=False,
            )
        )

    def _answer(self, request: Request) -> Reply:
        with self.turn:
            if request.method == "MKCOL":
                if not self.knows or HERE in self.files:
                    return Reply(405, body=self.page)
                self.files[HERE] = b""
                return Reply(201)
            if request.method == "PUT":
                self.files[request.path] = request.body
                return Reply(201)
            if request.method == "DELETE":
                for path in [path for path in self.files if path.startswith(request.path)]:
                    del self.files[path]
                return Reply(204)
            if request.path == HERE and HERE in self.files:
                return Reply(403, body=self.page)
            found = self.files.get(request.path)
            return Reply(404, body=self.page) if found is None else Reply(body=found)


@pytest.fixture
def dav(monkeypatch: pytest.MonkeyPatch) -> Iterator[Dav]:
    monkeypatch.setattr(push_lock, "_LOOK", 0.02)
    made = Dav()
    try:
        yield made
    finally:
        made.server.close()


def test_one_after_the_other_has_it_and_nothing_stays(dav: Dav) -> None:
    inside: list[int] = []
    most: list[int] = []

    def push(number: int) -> None:
        with dav.client() as client, held(client, URL, "there", 60) as has:
            assert has
            inside.append(number)
            most.append(len(inside))
            time.sleep(0.05)  # so that others would be seen
            inside.remove(number)

    threads = [threading.Thread(target=push, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 6
    assert dav.files == {}


def test_a_server_that_knows_no_such_thing_has_no_lock(dav: Dav) -> None:
    dav.knows = False
    with dav.client() as client, held(client, URL, "there", 60) as has:
        assert not has
    assert dav.files == {}


@pytest.mark.parametrize("status", [400, 403, 404, 409, 501])
def test_a_server_that_refuses_it_has_no_lock(status: int) -> None:
    with HttpsServer(lambda _: Reply(status, body=b"x" * 10000)) as server:
        options = HttpOptions(
            ca_file=server.ca_file, connect_to=server.connect_to("example.com"), use_proxies=False
        )
        with Client(options) as client, held(client, URL, "there", 60) as has:
            assert not has


def test_what_a_killed_push_left_is_removed_and_what_a_living_one_has_is_not(
    dav: Dav, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(push_lock, "_STALE", 0.5)
    monkeypatch.setattr(push_lock, "_BEAT", 0.05)
    dav.files = {HERE: b"", f"{HERE}holder": b"somebody 3\n"}
    with dav.client() as client, held(client, URL, "there", 60) as has:
        assert has
        assert b"somebody" not in dav.files.get(f"{HERE}holder", b"")
        with dav.client() as other, pytest.raises(BusyError, match="another push to there takes longer"):
            with held(other, URL, "there", 2.0):
                pytest.fail("it has a lock that somebody has")
    assert dav.files == {}


def test_a_failure_inside_gives_it_back(dav: Dav) -> None:
    with pytest.raises(KeyError), dav.client() as client, held(client, URL, "there", 60):
        raise KeyError
    assert dav.files == {}
