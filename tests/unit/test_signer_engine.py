"""Who may do what at the signer, and what comes back; and the client against a real signer."""

from __future__ import annotations

import hashlib
import hmac
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.services import ROOT, Recorder, SignerThread

from gantry.errors import UsageError
from gantry.signer import client
from gantry.signer import protocol as p
from gantry.signer.counts import Counts
from gantry.signer.keys import Keys
from gantry.signer.service import Engine

UUID = "6733c088-a507-4694-aabf-178dcf58aaaa"
RAW = bytes.fromhex(UUID.replace("-", ""))
TOKEN = b"0123456789abcdef0123456789abcdef"
DIGEST = hashlib.sha256(TOKEN).digest()
SERVICE, STRANGER = 4001, 4002


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    tmp_path.chmod(0o700)
    keys, counts = Keys(str(tmp_path)), Counts(Recorder())
    yield Engine(keys, counts, frozenset({SERVICE}))
    counts.stop()
    keys.close()


def ask(engine: Engine, uid: int, frame: bytes) -> tuple[int, bytes]:
    reply = engine.answer(uid, frame[4:])
    (length,) = struct.unpack("!I", reply[:4])
    assert length == len(reply) - 4
    return reply[4], reply[5:]


def test_a_life(engine: Engine) -> None:
    assert ask(engine, 0, p.request(p.CREATE, RAW, DIGEST)) == (p.OK, b"\1")
    assert ask(engine, 0, p.request(p.CREATE, RAW, DIGEST)) == (p.OK, b"\0")
    status, signature = ask(engine, SERVICE, p.sign_request(RAW, TOKEN, b"hello"))
    assert (status, len(signature)) == (p.OK, 64)
    assert ask(engine, SERVICE, p.verify_request(RAW, signature, b"hello")) == (p.OK, b"\1")
    assert ask(engine, SERVICE, p.verify_request(RAW, signature, b"hello!")) == (p.OK, b"\0")
    assert ask(engine, SERVICE, p.verify_request(RAW, bytes(64), b"hello")) == (p.OK, b"\0")
    assert ask(engine, 0, p.request(p.DELETE, RAW)) == (p.OK, b"\1")
    assert ask(engine, 0, p.request(p.DELETE, RAW)) == (p.OK, b"\0")
    assert ask(engine, SERVICE, p.sign_request(RAW, TOKEN, b"hello"))[0] == p.UNKNOWN_POD
    assert ask(engine, SERVICE, p.verify_request(RAW, signature, b"hello"))[0] == p.UNKNOWN_POD


def test_signing_takes_the_token(engine: Engine) -> None:
    ask(engine, 0, p.request(p.CREATE, RAW, DIGEST))
    for wrong in (b"x", TOKEN[:-1], TOKEN + b"0", TOKEN.upper(), DIGEST):
        assert ask(engine, 0, p.sign_request(RAW, wrong, b"hello"))[0] == p.BAD_TOKEN, (
            "even root has to know it"
        )
    assert engine.counts.refused == {RAW: 5}
    assert engine.counts.signed == {}


@pytest.mark.parametrize(
    ("uid", "allowed"),
    [
        (0, {p.CREATE, p.DELETE, p.SIGN, p.VERIFY, p.FLUSH, p.LIST}),
        (SERVICE, {p.SIGN, p.VERIFY}),
        (STRANGER, set()),
    ],
)
def test_who_may_do_what(engine: Engine, uid: int, allowed: set[int]) -> None:
    ask(engine, 0, p.request(p.CREATE, RAW, DIGEST))
    frames = {
        p.SIGN: p.sign_request(RAW, TOKEN, b"x"),
        p.VERIFY: p.verify_request(RAW, bytes(64), b"x"),
        p.FLUSH: p.request(p.FLUSH, p.NO_UUID),
        p.LIST: p.request(p.LIST, p.NO_UUID),
        p.CREATE: p.request(p.CREATE, RAW, DIGEST),
        p.DELETE: p.request(p.DELETE, RAW),
    }
    for operation, frame in frames.items():
        status, _ = ask(engine, uid, frame)
        assert status == (p.OK if operation in allowed else p.FORBIDDEN), operation


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\1",
        bytes(17),
        b"\2" + p.request(p.DELETE, RAW)[5:],
        b"\1\0" + RAW,
        b"\1\7" + RAW,
        p.request(p.SIGN, RAW)[4:],
        p.request(p.SIGN, RAW, b"\0x")[4:],
        p.request(p.SIGN, RAW, b"\5abcd")[4:],
        p.request(p.SIGN, RAW, b"\1t" + bytes(p.MAX_CONTENT + 1))[4:],
        p.request(p.VERIFY, RAW, bytes(63))[4:],
        p.request(p.VERIFY, RAW, bytes(64 + p.MAX_CONTENT + 1))[4:],
        p.request(p.CREATE, RAW, DIGEST + b"x")[4:],
        p.request(p.CREATE, RAW, DIGEST[:31])[4:],
        p.request(p.CREATE, bytes(16), DIGEST)[4:],
        p.request(p.DELETE, RAW, b"x")[4:],
        p.request(p.FLUSH, RAW, b"x")[4:],
        p.request(p.LIST, RAW, b"x")[4:],
    ],
    ids=lambda frame: frame[:24].hex() or "empty",
)
def test_malformed_requests_do_nothing(engine: Engine, frame: bytes) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        engine.answer(0, frame)
    assert os.listdir(f"{engine.keys.directory}/keys") == []


def test_a_damaged_key_is_an_answer_not_an_end(engine: Engine, capfd: pytest.CaptureFixture[str]) -> None:
    ask(engine, 0, p.request(p.CREATE, RAW, DIGEST))
    (Path(engine.keys.directory) / "keys" / UUID).write_bytes(b"rubbish")
    engine.keys._loaded.clear()
    status, text = ask(engine, SERVICE, p.sign_request(RAW, TOKEN, b"x"))
    assert status == p.FAILED
    assert b"is damaged" in text
    assert "is damaged" in capfd.readouterr().err


# --- The client -------------------------------------------------------------------------------


@pytest.fixture
def signer(tmp_path: Path) -> Iterator[SignerThread]:
    if os.geteuid() != 0:
        pytest.skip("only root makes keys")
    signer = SignerThread(tmp_path)
    yield signer
    signer.stop()


def test_client_life(signer: SignerThread) -> None:
    token = TOKEN.decode()
    assert client.create(signer.path, UUID, DIGEST.hex())
    assert not client.create(signer.path, UUID, DIGEST.hex())
    content = os.urandom(p.MAX_CONTENT)
    signature = client.sign(signer.path, UUID, token, content)
    assert client.verify(signer.path, UUID, content, signature)
    assert not client.verify(signer.path, UUID, content, signature[:-1])
    assert not client.verify(signer.path, UUID, content[:-1], signature)
    with pytest.raises(client.SignerRefusedError, match="token is not that of pod"):
        client.sign(signer.path, UUID, "f" * 32, content)
    with pytest.raises(UsageError, match="too many"):
        client.sign(signer.path, UUID, token, content + b"x")
    assert client.uuids(signer.path) == [UUID]
    assert client.delete(signer.path, UUID)
    assert client.uuids(signer.path) == []
    assert not client.verify(signer.path, UUID, content, signature)
    with pytest.raises(client.UnknownPodError):
        client.sign(signer.path, UUID, token, content)


@pytest.mark.parametrize("uuid", ["", "x", UUID[:-1], UUID + "0", UUID.replace("a", "g"), "/" * 32, "é" * 32])
def test_client_refuses_what_is_no_uuid(uuid: str) -> None:
    with pytest.raises(UsageError, match="not a UUID"):
        client.delete("/nowhere", uuid)


def test_client_tells_that_nobody_is_there(tmp_path: Path) -> None:
    with pytest.raises(client.SignerError, match=r"cannot be reached.*No such file"):
        client.delete(str(tmp_path / "none"), UUID)


@pytest.mark.parametrize(
    ("reply", "what"),
    [
        (b"", "ended the connection"),
        (b"\0\0\0\0", "does not speak"),
        (b"\xff\xff\xff\xff", "does not speak"),
        (b"\0\0\0\5\0", "ended the connection"),
        (b"\0\0\0\5\5oops", "oops"),
        (b"\0\0\0\5\x63oops", "oops"),
    ],
)
def test_client_believes_no_rubbish(tmp_path: Path, reply: bytes, what: str) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(path)
        listener.listen()
        child = os.fork()
        if child == 0:
            connection, _ = listener.accept()
            connection.recv(4096)
            connection.sendall(reply)
            os._exit(0)
        try:
            with pytest.raises(client.SignerError, match=what):
                client.delete(path, UUID)
        finally:
            os.waitpid(child, 0)


def test_client_does_not_wait_for_ever(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(path)
        listener.listen()
        with pytest.raises(client.SignerError, match=r"within 0\.05 s"):
            client.delete(path, UUID, timeout=0.05)


@pytest.mark.parametrize("module", ["gantry.signer.client", "gantry.metadata.client"])
def test_clients_are_lean(module: str) -> None:
    """They are on the launch path: nothing beyond os, socket, struct, json and their own imports."""
    code = (
        "import os, socket, struct, json, sys; before = set(sys.modules); "
        f"import {module}; print(*sorted(set(sys.modules) - before))"
    )
    code = f"import sys; sys.path.insert(0, {str(ROOT / 'runtime')!r}); {code}"
    output = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], check=True, text=True, stdout=subprocess.PIPE
    ).stdout
    assert all(name.split(".")[0] in {"gantry", "__future__"} for name in output.split()), output


def test_the_hmac_of_the_engine_is_the_documented_one(engine: Engine) -> None:
    ask(engine, 0, p.request(p.CREATE, RAW, DIGEST))
    key = (Path(engine.keys.directory) / "keys" / UUID).read_bytes()[8:72]
    assert ask(engine, 0, p.sign_request(RAW, TOKEN, b"\xff\0"))[1] == hmac.digest(
        key, RAW + b"\xff\0", "sha512"
    )
