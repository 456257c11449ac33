"""Whatever comes in on the signer's socket: it answers or ends the connection, and goes on serving."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import struct
import time
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.services import SignerThread, wait_until

from gantry.signer import protocol as p
from gantry.signer import service

UUID = b"\x67" * 16
TOKEN = b"t" * 32


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SignerThread]:
    signer = SignerThread(tmp_path_factory.mktemp("signer"))
    signer.keys.create(UUID, hashlib.sha256(TOKEN).digest())
    yield signer
    signer.stop()


def talk(signer: SignerThread, *pieces: bytes, end: bool = True) -> bytes:
    """Everything that comes back for *pieces*, sent one by one."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(10)
        sock.connect(signer.path)
        received = b""
        with contextlib.suppress(BrokenPipeError):
            for piece in pieces:
                sock.sendall(piece)
            if end:
                sock.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionResetError):
            while part := sock.recv(1 << 16):
                received += part
        return received


def replies(data: bytes) -> list[int]:
    statuses = []
    while data:
        (length,) = struct.unpack("!I", data[:4])
        assert len(data) >= 4 + length, "a reply is whole"
        statuses.append(data[4])
        data = data[4 + length :]
    return statuses


def alive(signer: SignerThread) -> bool:
    return replies(talk(signer, p.sign_request(UUID, TOKEN, b"x"))) == [p.OK]


@given(data=st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_any_bytes(signer: SignerThread, data: bytes) -> None:
    replies(talk(signer, data))
    assert alive(signer)


@given(
    operation=st.integers(0, 7),
    version=st.integers(0, 2),
    body=st.binary(max_size=120),
    cut=st.integers(0, 160),
)
@settings(max_examples=200, deadline=None)
def test_any_request(signer: SignerThread, operation: int, version: int, body: bytes, cut: int) -> None:
    if operation == p.DELETE or (operation == p.CREATE and len(body) == 32):
        body += b"x"  # would really destroy the key, or give it another token
    frame = struct.pack("!IBB16s", 18 + len(body), version, operation, UUID) + body
    statuses = replies(talk(signer, frame[:cut], frame[cut:]))
    assert len(statuses) == 1
    assert alive(signer)


def test_a_malformed_request_is_the_last_of_its_connection(signer: SignerThread) -> None:
    good = p.sign_request(UUID, TOKEN, b"x")
    assert replies(talk(signer, good + p.request(99, UUID) + good)) == [p.OK, p.MALFORMED]
    assert replies(talk(signer, good + b"\xff\xff\xff\xff" + good)) == [p.OK, p.MALFORMED]
    assert replies(talk(signer, b"\0\0\0\0")) == [p.MALFORMED]


def test_many_requests_in_one_piece_are_answered_in_order(signer: SignerThread) -> None:
    frames = [p.sign_request(UUID, TOKEN, b"%d" % n) for n in range(500)]
    together = talk(signer, b"".join(frames))
    assert together == b"".join(talk(signer, frame) for frame in frames[:50]) + together[50 * 69 :]
    assert replies(together) == [p.OK] * 500


def test_byte_by_byte(signer: SignerThread) -> None:
    frame = p.sign_request(UUID, TOKEN, b"slow")
    assert talk(signer, *[bytes([b]) for b in frame]) == talk(signer, frame)


def test_who_does_not_read_is_not_read_from(signer: SignerThread) -> None:
    """A client that floods and never reads fills its own buffers, not the signer's memory."""
    flood = p.sign_request(UUID, TOKEN, b"x") * 1000
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.setblocking(False)
        sock.connect(signer.path)
        sent, stalled = 0, 0.0
        while not stalled or time.monotonic() < stalled + 0.3:
            try:
                sent += sock.send(flood)
                stalled = 0.0
            except BlockingIOError:
                stalled = stalled or time.monotonic()
                assert alive(signer)
        assert sent < 8 << 20
        (held,) = [c for c in signer.server._connections.values() if c.output]
        assert len(held.output) < 4 << 20


def test_half_a_request_is_given_up(signer: SignerThread, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "FRAME_TIMEOUT", 0.2)
    # The end of the stream, where a signer that goes on waiting would let this side time out.
    assert talk(signer, p.sign_request(UUID, TOKEN, b"x")[:-1], end=False) == b""
    assert alive(signer)


def test_too_many_connections_wait_and_are_served_later(
    signer: SignerThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "MAX_CONNECTIONS", 4)
    with contextlib.ExitStack() as stack:
        socks = []
        for _ in range(8):
            sock = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            sock.settimeout(10)
            sock.connect(signer.path)
            socks.append(sock)
        wait_until(lambda: len(signer.server._connections) == 4, "four are taken")
        for sock in socks:
            sock.sendall(p.sign_request(UUID, TOKEN, b"x"))
            assert sock.recv(4096)[4] == p.OK
            sock.close()
    assert alive(signer)
