"""Whatever a pod sends to the metadata service: bounded, answered or closed; the others are served."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import select
import socket
import struct
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.support.services import (
    DEADLINE,
    FakePod,
    MetadataThread,
    SignerThread,
    app,
    ask,
    get,
    post,
    post_form,
    raw,
    wait_until,
)

from gantry.metadata import connections as limits
from gantry.metadata import document, signing
from gantry.metadata.registry import Pod, Registry
from gantry.metadata.server import Server

ONE = "6733c088-a507-4694-aabf-178dcf58aaaa"
TWO = "0b7a8d8c-1f9b-4d0f-9c55-3f4ad3c2bbbb"
BIG = "b7a8d8c0-1f9b-4d0f-9c55-3f4ad3c2cccc"


class World:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.signer = SignerThread(directory)
        self.one, self.two = FakePod(ONE, token="1" * 32), FakePod(TWO, token="2" * 32)
        self.big = FakePod(BIG, token="3" * 32, manifest={"x": "y" * (8 << 20)}, apps={"web": app()})
        for pod in (self.one, self.two):
            self.signer.keys.create(pod.uuid_bytes, pod.token_sha256)
        self.metadata = MetadataThread(self.signer.path, own=[self.one, self.two, self.big])
        self.port = self.metadata.ports[ONE]

    @property
    def connections(self) -> list[limits.Connection]:
        return list(self.metadata.server._connections.values())

    def others_are_served(self) -> bool:
        return ask(self.metadata.ports[TWO], self.two.path("pod/uuid")).body == TWO.encode()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    world = World(tmp_path_factory.mktemp("world"))
    yield world
    world.metadata.stop()
    world.signer.stop()


def statuses(data: bytes) -> list[int]:
    """The status of each answer in *data*, which has to be whole answers and nothing else."""
    found = []
    while data:
        head, separator, rest = data.partition(b"\r\n\r\n")
        assert separator, data
        match = re.match(rb"HTTP/1\.1 (\d{3}) [A-Za-z ]+\r\n", head)
        assert match, head
        found.append(int(match[1]))
        if match[1] == b"100":
            data = rest
            continue
        length = re.search(rb"\r\nContent-Length: (\d+)(\r\n|$)", head)
        assert length, head
        assert len(rest) >= int(length[1])
        data = rest[int(length[1]) :]
    return found


def pieces_of(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(c for c in cuts if c < len(data))})
    return [data[a:b] for a, b in pairwise(edges)]


def send_in_pieces(port: int, pieces: list[bytes]) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(ConnectionError):
            for piece in pieces:
                sock.sendall(piece)
            sock.shutdown(socket.SHUT_WR)
        received = b""
        with contextlib.suppress(ConnectionResetError):
            while part := sock.recv(1 << 16):
                received += part
        return received


def keep(path: str, *, method: str = "GET", extra: str = "", body: bytes = b"") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: x\r\n{extra}\r\n".encode() + body


FORM = "Content-Type: application/x-www-form-urlencoded\r\n"


@settings(max_examples=150, deadline=None)
@given(data=st.binary(max_size=300))
def test_any_bytes(world: World, data: bytes) -> None:
    statuses(raw(world.port, data))
    assert world.others_are_served()


def requests(world_one: FakePod) -> st.SearchStrategy[bytes]:
    sign = world_one.path("pod/hmac/sign")
    return st.sampled_from(
        [
            keep(world_one.path("pod/uuid")),
            keep(world_one.path("pod/none")),
            keep("/wrong"),
            keep(world_one.path("pod/uuid"), method="HEAD"),
            keep(sign, method="POST", extra=FORM + "Content-Length: 9\r\n", body=b"content=x"),
            keep(sign, method="POST", extra=FORM + "Content-Length: 0\r\n"),
            keep(
                sign,
                method="POST",
                extra=FORM + "Transfer-Encoding: chunked\r\n",
                body=b"9\r\ncontent=y\r\n0\r\n\r\n",
            ),
            keep(
                sign, method="POST", extra=FORM + "Content-Length: 20008\r\n", body=b"content=" + b"z" * 20000
            ),
            keep(world_one.path("pod/uuid"), extra="Content-Length: 3\r\n", body=b"GET"),
            b"\r\n",
        ]
    )


def test_a_stray_line_end_may_come_in_pieces(world: World) -> None:
    request = keep(world.one.path("pod/uuid"))
    for start in (b"\r", b"\r\n\r", request + b"\r"):
        with socket.create_connection(("127.0.0.1", world.port), timeout=DEADLINE) as sock:
            sock.sendall(start)
            wait_until(lambda: any(c.buffer == b"\r" for c in world.connections), "read on its own")
            sock.sendall(b"\n" + get(world.one.path("pod/uuid")))
            received = b""
            while part := sock.recv(65536):
                received += part
            assert set(statuses(received)) == {200}


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data(), cuts=st.lists(st.integers(1, 400), max_size=6))
def test_pipelined_requests_however_they_are_cut(world: World, data: st.DataObject, cuts: list[int]) -> None:
    """The same bytes get the same answers, in order, however they are cut into packets."""
    chosen = data.draw(st.lists(requests(world.one), min_size=1, max_size=8))
    together = b"".join(chosen)

    def dateless(answer: bytes) -> bytes:
        return re.sub(rb"\r\nDate: [^\r]*", b"", answer)

    one_by_one = b"".join(dateless(raw(world.port, request)) for request in chosen)
    # HEAD answers have a length and no body; leave the comparison to the bytes.
    assert dateless(send_in_pieces(world.port, pieces_of(together, cuts))) == one_by_one


@pytest.mark.parametrize(
    "request_",
    [
        "Content-Length: 9\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 9\r\n",
        "Content-Length: 9\r\nContent-Length: 9\r\n",
        "Content-Length: 9\r\nContent-Length: 60\r\n",
        "Content-Length: 9, 60\r\n",
        "Content-Length : 60\r\n",
        " Content-Length: 60\r\n",
        "X: y\r\n\tContent-Length: 60\r\n",
        "Content-Length: 9\nX: y\r\n",
        "Content-Length: 9\rX: y\r\n",
        "Content-Length: +60\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding: chunked, identity\r\n",
        "Transfer-Encoding : chunked\r\n",
        "Transfer-Encoding:\x0bchunked\r\n",
        "X: y\r\nHost: z\r\n",
        "Transfer_Encoding: chunked\r\nContent-Length: +9\r\n",
    ],
)
def test_no_request_is_smuggled(world: World, request_: str) -> None:
    """An ambiguous request gets one error and ends the connection: what follows it is never a request."""
    inner = keep(world.one.path("pod/uuid"))
    data = keep(
        world.one.path("pod/hmac/sign"), method="POST", extra=FORM + request_, body=b"content=x" + inner
    )
    answer = raw(world.port, data)
    assert len(statuses(answer)) == 1
    assert statuses(answer)[0] in {400, 501}
    assert b"\r\nConnection: close\r\n" in answer
    assert ONE.encode() not in answer


def test_the_body_of_one_request_is_not_the_next(world: World) -> None:
    inner = keep(world.one.path("pod/uuid"))
    extra = f"{FORM}Content-Length: {8 + len(inner)}\r\n"
    data = keep(world.one.path("pod/hmac/sign"), method="POST", extra=extra, body=b"content=" + inner)
    assert statuses(raw(world.port, data)) == [200], "one request, whose content is signed"
    assert statuses(raw(world.port, data + inner)) == [200, 200]


def test_a_stranger_sends_no_body(world: World) -> None:
    sent = keep(
        "/" + "9" * 32 + "/acMetadata/v1/pod/hmac/sign",
        method="POST",
        extra=FORM + "Content-Length: 900000\r\n",
    )
    answer = raw(world.port, sent + b"content=" + b"x" * 100_000, end=False)
    assert statuses(answer) == [401]
    assert b"\r\nConnection: close\r\n" in answer


def test_a_refused_client_may_finish_sending(world: World) -> None:
    """Closed at once, the connection would break under a client that first sends and then reads."""
    extra = FORM + "Content-Length: 900000\r\n"
    with socket.create_connection(("127.0.0.1", world.port), timeout=DEADLINE) as sock:
        sock.sendall(keep("/" + "9" * 32 + "/x", method="POST", extra=extra))
        assert select.select([sock], [], [], DEADLINE)[0], "the answer is there"
        for _ in range(50):
            sock.sendall(bytes(4096))
        assert statuses(sock.recv(65536)) == [401]


def test_expect_continue(world: World) -> None:
    extra = FORM + "Content-Length: 9\r\nExpect: 100-continue\r\n"
    with socket.create_connection(("127.0.0.1", world.port), timeout=DEADLINE) as sock:
        sock.sendall(keep(world.one.path("pod/hmac/sign"), method="POST", extra=extra))
        assert sock.recv(4096) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(b"content=x")
        assert statuses(sock.recv(4096)) == [200]
        sock.sendall(keep("/" + "9" * 32 + "/x", method="POST", extra=extra))
        assert statuses(sock.recv(4096)) == [401], "and no invitation to send the body"


@pytest.mark.parametrize(
    ("extra", "body", "status"),
    [
        ("Content-Length: 1048577\r\n", b"", 413),
        ("Content-Length: 99999999999999999999\r\n", b"", 413),
        ("Transfer-Encoding: chunked\r\n", b"100001\r\n", 413),
        ("Transfer-Encoding: chunked\r\n", b"1\r\na\r\n" * 20000, 413),
        ("X: " + "y" * 20000 + "\r\n", b"", 431),
        ("X: y\r\n" * 100, b"", 431),
        ("Expect: something\r\n", b"", 417),
    ],
    ids=lambda value: str(value)[:30],
)
def test_limits(world: World, extra: str, body: bytes, status: int) -> None:
    data = keep(world.one.path("pod/hmac/sign"), method="POST", extra=FORM + extra, body=body)
    assert statuses(raw(world.port, data, end=False)) == [status]


def test_the_largest_body(world: World) -> None:
    form = b"content=" + b"x" * ((1 << 20) - 8)
    assert post(world.port, world.one.path("pod/hmac/sign"), form).status == 200
    assert post(world.port, world.one.path("pod/hmac/sign"), form + b"x").status == 413


# --- Time -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("HEAD_TIMEOUT", b"GET / HT"),
        ("BODY_TIMEOUT", keep(f"/{'1' * 32}/x", method="POST", extra="Content-Length: 9\r\n", body=b"x")),
        (
            "BODY_TIMEOUT",
            keep(f"/{'1' * 32}/x", method="POST", extra="Transfer-Encoding: chunked\r\n", body=b"5"),
        ),
    ],
)
def test_a_slow_client_is_told_and_closed(
    world: World, monkeypatch: pytest.MonkeyPatch, name: str, data: bytes
) -> None:
    monkeypatch.setattr(limits, name, 0.1)
    assert statuses(raw(world.port, data, end=False)) == [408]


def test_one_byte_now_and_then_does_not_keep_a_connection(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "HEAD_TIMEOUT", 0.5)
    with socket.create_connection(("127.0.0.1", world.port), timeout=DEADLINE) as sock:
        started = time.monotonic()
        sock.settimeout(0.05)
        answer = b""
        while not answer:
            assert time.monotonic() < started + DEADLINE
            with contextlib.suppress(ConnectionError):
                sock.sendall(b"G")
            with contextlib.suppress(TimeoutError):
                answer = sock.recv(4096)
        assert statuses(answer) == [408]


def test_an_idle_client_is_closed_without_a_word(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "IDLE_TIMEOUT", 0.1)
    monkeypatch.setattr(limits, "HEAD_TIMEOUT", 0.1)
    assert raw(world.port, b"", end=False) == b""
    assert statuses(raw(world.port, keep(world.one.path("pod/uuid")), end=False)) == [200]


def test_who_does_not_read_is_given_up(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SEND_TIMEOUT", 0.3)
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(("127.0.0.1", world.metadata.ports[BIG]))
        sock.sendall(keep(world.big.path("pod/manifest")))
        wait_until(lambda: any(c.state == limits.SENDING for c in world.connections), "the answer is stuck")
        wait_until(lambda: not any(c.state == limits.SENDING for c in world.connections), "it is given up")


def test_who_reads_slowly_gets_everything(world: World) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        sock.settimeout(DEADLINE)
        sock.connect(("127.0.0.1", world.metadata.ports[BIG]))
        sock.sendall(keep(world.big.path("pod/manifest")) + get(world.big.path("pod/uuid")))
        received = b""
        while part := sock.recv(1 << 16):
            received += part
        assert statuses(received) == [200, 200]
        manifest = received.partition(b"\r\n\r\n")[2].partition(b"HTTP/1.1")[0]
        assert json.loads(manifest) == world.big.manifest | {"annotations": []}
        assert received.endswith(BIG.encode())


# --- Numbers ----------------------------------------------------------------------------------


def test_a_pod_that_opens_many_connections_harms_nobody(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = next(s for s in world.metadata.server._sources.values() if s.pod and s.pod.document.uuid == ONE)
    monkeypatch.setattr(source, "limit", 5)
    with contextlib.ExitStack() as stack:
        busy = []
        for _ in range(20):  # each in the middle of a request
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", world.port), timeout=DEADLINE))
            sock.sendall(b"GET /")
            busy.append(sock)
        wait_until(lambda: source.paused, "its socket is left alone")
        assert len(source.connections) == 5
        assert world.others_are_served()
        for sock in busy:
            sock.close()
        wait_until(lambda: not source.connections and not source.paused, "taken up again")
    assert ask(world.port, world.one.path("pod/uuid")).status == 200


def test_the_longest_idle_connection_makes_room(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    source = next(s for s in world.metadata.server._sources.values() if s.pod and s.pod.document.uuid == ONE)
    wait_until(lambda: not source.connections, "a clean start")
    monkeypatch.setattr(source, "limit", 3)
    with contextlib.ExitStack() as stack:
        idle = []
        for _ in range(3):
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", world.port), timeout=DEADLINE))
            sock.sendall(keep(world.one.path("pod/uuid")))
            assert statuses(sock.recv(4096)) == [200]
            idle.append(sock)
        assert ask(world.port, world.one.path("pod/uuid")).status == 200
        assert idle[0].recv(1) == b"", "the oldest had to go"
        idle[2].sendall(keep(world.one.path("pod/uuid")))
        assert statuses(idle[2].recv(4096)) == [200], "the newest did not"


def test_large_bodies_at_a_time(world: World) -> None:
    extra = FORM + "Content-Length: 900000\r\n"
    start = keep(world.one.path("pod/hmac/sign"), method="POST", extra=extra, body=b"content=")
    with contextlib.ExitStack() as stack:
        for _ in range(limits.LARGE_PER_POD):
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", world.port), timeout=DEADLINE))
            sock.sendall(start)
        wait_until(lambda: sum(c.large for c in world.connections) == limits.LARGE_PER_POD, "all under way")
        assert statuses(raw(world.port, start, end=False)) == [503]
        form = b"content=" + b"x" * 100_000
        assert post(world.port, world.one.path("pod/hmac/sign"), b"content=small").status == 200
        assert post(world.metadata.ports[TWO], world.two.path("pod/hmac/sign"), form).status == 200
    wait_until(lambda: not any(c.large for c in world.connections), "let go")
    assert post(world.port, world.one.path("pod/hmac/sign"), form).status == 200


def test_resets_in_every_state_leave_nothing(world: World) -> None:
    sign = world.one.path("pod/hmac/sign")
    starts = [
        b"",
        b"GET",
        keep(world.one.path("pod/uuid")),
        keep(sign, method="POST", extra=FORM + "Content-Length: 9\r\n", body=b"con"),
        keep(sign, method="POST", extra=FORM + "Content-Length: 90000\r\n", body=b"con"),
        keep(sign, method="POST", extra=FORM + "Content-Length: 9\r\n", body=b"content=x"),
        keep(sign, method="POST", extra=FORM + "Content-Length: 9\r\n", body=b"content=x") * 50,
        b"rubbish\r\n\r\n",
    ]
    assert (
        post(world.port, sign, b"content=x").status == 200
    )  # from now on there is a connection to the signer
    wait_until(lambda: not world.connections, "idle")
    descriptors = len(os.listdir("/proc/self/fd"))
    for start in starts * 5:
        sock = socket.create_connection(("127.0.0.1", world.port), timeout=DEADLINE)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.sendall(start)
        sock.close()

    def gone() -> bool:  # a connection that waits to be accepted is nobody's yet
        return not world.connections and len(os.listdir("/proc/self/fd")) <= descriptors

    wait_until(gone, "all gone")
    assert post(world.port, sign, b"content=x").status == 200
    source = next(s for s in world.metadata.server._sources.values() if s.pod and s.pod.document.uuid == ONE)
    assert (source.large, world.metadata.server._exchange._large) == (0, 0)


# --- The signer's trouble ---------------------------------------------------------------------


def test_without_a_signer_all_else_works_and_signing_says_try_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signing, "DEADLINE", 0.3)
    pod = FakePod(ONE)
    metadata = MetadataThread(str(tmp_path / "none.sock"), host=[pod])
    try:
        answer = post(metadata.port, pod.path("pod/hmac/sign"), b"content=x")
        assert answer.status == 503
        assert answer.headers["retry-after"] == "1"
        assert ask(metadata.port, pod.path("pod/uuid")).status == 200
    finally:
        metadata.stop()


@pytest.mark.parametrize(
    "reply",
    [None, b"", b"\0\0\0\0", b"\xff\xff\xff\xff\0", b"\0\0\0\1\0", b"\0\0\0\5\4oops", b"\0\0\0\1\0" * 3],
)
def test_a_signer_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reply: bytes | None) -> None:
    """It hangs, hangs up or talks rubbish: an error in time, and the next signer is believed again."""
    monkeypatch.setattr(signing, "DEADLINE", 0.4)
    pod = FakePod(ONE)
    path = tmp_path / "signer.sock"
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    listener.listen()
    listener.settimeout(DEADLINE)
    metadata = MetadataThread(str(path), host=[pod])
    try:
        child = os.fork()
        if child == 0:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    if reply is None:
                        connection.detach()  # kept open
                        continue
                    connection.recv(4096)
                    connection.sendall(reply)
                    connection.close()
            os._exit(0)
        try:
            assert post(metadata.port, pod.path("pod/hmac/sign"), b"content=x").status in {500, 503}
            assert ask(metadata.port, pod.path("pod/uuid")).status == 200
        finally:
            os.kill(child, 9)
            os.waitpid(child, 0)
            listener.close()
        path.unlink()
        signer = SignerThread(tmp_path)
        try:
            signer.keys.create(pod.uuid_bytes, pod.token_sha256)
            assert post(metadata.port, pod.path("pod/hmac/sign"), b"content=x").status == 200
        finally:
            signer.stop()
    finally:
        metadata.stop()


def test_a_request_lost_with_the_signer_is_sent_again(tmp_path: Path) -> None:
    pod = FakePod(ONE)
    path = str(tmp_path / "signer.sock")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(path)
        listener.listen()
        child = os.fork()
        if child == 0:
            for reply in (b"", b"\0\0\0\x41\0" + b"s" * 64):
                connection, _ = listener.accept()
                connection.recv(4096)
                connection.sendall(reply)
                connection.close()
            os._exit(0)
        metadata = MetadataThread(path, host=[pod])
        try:
            answer = post(metadata.port, pod.path("pod/hmac/sign"), b"content=x")
            assert (answer.status, answer.body) == (200, base64.b64encode(b"s" * 64))
        finally:
            metadata.stop()
            os.waitpid(child, 0)


def test_a_socket_that_lives_on_in_the_pod_is_forgotten(tmp_path: Path) -> None:
    """Closing our copy does not take it out of the epoll: it would report connections for ever."""
    with socket.create_server(("127.0.0.1", 0)) as pods_copy:
        server = Server(Registry(), str(tmp_path / "none"))
        try:
            server.add(Pod(document.parse(FakePod(ONE).document_bytes()), pods_copy.dup()))
            with socket.create_connection(pods_copy.getsockname()):
                assert server.epoll.poll(DEADLINE)
                server.remove(ONE)
                assert server.epoll.poll(0.05) == []
        finally:
            server.close()


def test_answers_go_to_those_who_asked(world: World) -> None:
    """Many clients at once, some of which leave: nobody gets another one's signature."""
    expected = {
        n: post(world.port, world.one.path("pod/hmac/sign"), b"content=%d" % n).body for n in range(40)
    }
    assert len(set(expected.values())) == 40
    with contextlib.ExitStack() as stack:
        socks = {}
        for n in range(40):
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", world.port), timeout=DEADLINE))
            socks[n] = sock
        for n, sock in socks.items():
            sock.sendall(post_form(world.one.path("pod/hmac/sign"), b"content=%d" % n))
            if n % 3 == 0:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                sock.close()
        for n, sock in socks.items():
            if n % 3:
                received = b""
                while part := sock.recv(4096):
                    received += part
                assert received.endswith(expected[n]), n
