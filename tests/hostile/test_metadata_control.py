"""Registrations that do not fit: refused with a reason, no descriptor kept, the service goes on."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.support.services import DEADLINE, FakePod, wait_until

from gantry.linux.activation import listen_unix
from gantry.metadata import client, control
from gantry.metadata.control import Control
from gantry.metadata.registry import Registry
from gantry.metadata.server import Server

ONE = "6733c088-a507-4694-aabf-178dcf58aaaa"
TWO = "0b7a8d8c-1f9b-4d0f-9c55-3f4ad3c2bbbb"


class World:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.path = str(directory / "svc.sock")
        listener = listen_unix(self.path, socket.SOCK_SEQPACKET, mode=0o600)
        self.server = Server(Registry(), str(directory / "none"))
        self.control = Control(self.server, listener, frozenset({os.geteuid()}))
        self.document = directory / "metadata.json"
        self.document.write_bytes(FakePod(ONE).document_bytes())
        self._thread = threading.Thread(target=self.server.serve)
        self._thread.start()

    def ask(self, message: bytes, fds: list[int]) -> dict[str, object] | None:
        """The answer, or None when the connection was closed without one."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            sock.settimeout(DEADLINE)
            sock.connect(self.path)
            socket.send_fds(sock, [message], fds)
            data = sock.recv(1 << 16)
        answer = json.loads(data) if data else None
        assert answer is None or isinstance(answer, dict)
        return answer

    def close(self) -> None:
        self.server.stop()
        self._thread.join(DEADLINE)
        self.control.close()
        self.server.close()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    world = World(tmp_path_factory.mktemp("control"))
    yield world
    world.close()


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def message(**fields: object) -> bytes:
    return json.dumps({"op": "register", "uuid": ONE, "pause_pid": None} | fields).encode()


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.binary(min_size=1, max_size=5000), count=st.integers(0, 6))
def test_any_message_with_any_number_of_descriptors(world: World, data: bytes, count: int) -> None:
    before = open_descriptors()
    with world.document.open("rb") as file:
        answer = world.ask(data, [file.fileno()] * count)
    assert answer is None or answer["ok"] is False
    wait_until(lambda: open_descriptors() <= before, "no descriptor is kept")
    assert client.pods(world.path) == []


@pytest.mark.parametrize(
    "data",
    [
        b"null", b"[]", b"1", b'"list"', b"{}", b'{"op":"list2"}', b'{"op":"register"}', b"[" * 4000,
        message(uuid="x"), message(uuid=1), message(uuid=TWO), message(op=["register"]), message(op=None),
        message(pause_pid=0), message(pause_pid=-1), message(pause_pid="1"), message(pause_pid=True),
        message(pause_pid=(1 << 22) + 1), message(x="y" * 5000),
    ],
)  # fmt: skip
def test_messages_that_do_not_fit(world: World, data: bytes) -> None:
    before = open_descriptors()
    with world.document.open("rb") as file:
        answer = world.ask(data, [file.fileno()])
    assert answer is not None
    assert answer["ok"] is False
    assert isinstance(answer["message"], str)
    wait_until(lambda: open_descriptors() <= before, "no descriptor is kept")
    assert client.pods(world.path) == []


def test_descriptors_that_do_not_fit(world: World) -> None:
    before = open_descriptors()
    with world.document.open("rb") as file, socket.socket() as plain, open("/dev/zero", "rb") as zero:
        good = file.fileno()
        for fds in ([], [good] * 3, [good, good], [good, plain.fileno()], [plain.fileno()], [zero.fileno()]):
            answer = world.ask(message(), fds)
            assert answer is not None
            assert answer["ok"] is False, fds
    wait_until(lambda: open_descriptors() <= before, "no descriptor is kept")


def test_a_registration_that_fits_after_all_that(world: World) -> None:
    before = open_descriptors()
    with world.document.open("rb") as file:
        file.read()  # the offset does not matter
        assert client.register(world.path, ONE.upper(), file.fileno(), None, pause_pid=os.getpid())
        assert client.register(world.path, ONE, file.fileno(), None)
    assert client.pods(world.path) == [ONE]
    assert client.unregister(world.path, ONE)
    assert client.unregister(world.path, ONE), "doing it again is no error"
    assert client.pods(world.path) == []
    wait_until(lambda: open_descriptors() <= before, "no descriptor is kept")


def test_silent_clients_make_room(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "MAX_CONNECTIONS", 3)
    silent = []
    for _ in range(5):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sock.settimeout(DEADLINE)
        sock.connect(world.path)
        silent.append(sock)
    assert client.pods(world.path) == []
    assert silent[0].recv(1) == b""
    for sock in silent:
        sock.close()


def test_a_client_told_of_a_refusal_raises_it(world: World) -> None:
    with world.document.open("rb") as file, pytest.raises(client.RegistrationError, match="that of pod"):
        client.register(world.path, TWO, file.fileno(), None)


def test_a_client_without_a_service(tmp_path: Path) -> None:
    with pytest.raises(client.MetadataError, match="cannot be reached"):
        client.pods(str(tmp_path / "none"))
    path = str(tmp_path / "deaf")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(path)
        listener.listen()
        assert client.unregister(path, ONE, timeout=0.05) is False, "it waits to be read"
        with pytest.raises(client.MetadataError, match="did not answer"):
            client.pods(path, timeout=0.05)
