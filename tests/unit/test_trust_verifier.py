"""The unprivileged process: what it may do, what it costs, and how it ends."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.support.openpgp import KeyPair, make_key, trust

import gantry
from gantry.config import Paths
from gantry.errors import HostError
from gantry.trust import (
    BadSignatureError,
    KeyStore,
    SignatureFormatError,
    Verifier,
    VerifierError,
    child,
    verifier,
)
from gantry.trust.child import many
from gantry.trust.nursery import current

NAME = "example.com/app"
DATA = bytes(range(256)) * 4096


@pytest.fixture(scope="module")
def key() -> KeyPair:
    return make_key()


@pytest.fixture
def store(tmp_path: Path, key: KeyPair) -> KeyStore:
    paths = Paths(*(str(tmp_path / name) for name in ("data", "run", "system", "local")))
    trust(paths, key, NAME)
    return KeyStore(paths)


@pytest.fixture(params=["by itself", "forked"])
def started(store: KeyStore, key: KeyPair, request: pytest.FixtureRequest) -> Iterator[Verifier]:
    with many() if request.param == "forked" else contextlib.nullcontext():
        with store.verifier(key.sign(DATA), NAME) as running:
            yield running


def children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


def pid_of(running: Verifier) -> int:
    ((_, process),) = running._running
    if process.pid is not None:
        return process.pid
    nursery = current()
    assert nursery is not None
    [child] = children(nursery._process.pid)
    return child


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def limits(pid: int) -> dict[str, str]:
    return {
        line[:26].strip(): line[26:].split()[0]
        for line in Path(f"/proc/{pid}/limits").read_text().splitlines()
    }


def wait_for(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.01)


def gone(pid: int) -> bool:
    try:
        return status(pid)["State"].startswith("Z")
    except (FileNotFoundError, ProcessLookupError):
        return True


@pytest.mark.root
def test_it_has_no_privileges(started: Verifier) -> None:
    started.ready()
    pid = pid_of(started)
    found = status(pid)
    assert found["Uid"].split() == ["65534"] * 4
    assert found["Gid"].split() == ["65534"] * 4
    assert found["Groups"] == ""
    assert found["NoNewPrivs"] == "1"
    assert {found[name] for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {"0" * 16}
    bounds = limits(pid)
    assert bounds["Max processes"] == "0"
    assert bounds["Max file size"] == "0"
    assert bounds["Max core file size"] == "0"
    assert bounds["Max open files"] == "4"
    # Whether it could be looked into by another process of the same user: its files belong to root.
    assert os.stat(f"/proc/{pid}/mem").st_uid == 0


@pytest.mark.root
def test_it_inherits_nothing(store: KeyStore, key: KeyPair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/nonexistent")
    monkeypatch.setenv("SECRET", "of the parent")
    read, write = os.pipe()
    os.set_inheritable(write, True)
    try:
        with store.verifier(key.sign(DATA), NAME) as running:
            running.ready()
            pid = pid_of(running)
            assert Path(f"/proc/{pid}/environ").read_bytes() == b"LANG=C.UTF-8\0"
            assert {int(name) for name in os.listdir(f"/proc/{pid}/fd")} <= {0, 1, 2, 3}
            assert os.readlink(f"/proc/{pid}/cwd") == "/"
    finally:
        os.close(read)
        os.close(write)


@pytest.mark.root
def test_what_is_forked_inherits_nothing_either(store: KeyStore, key: KeyPair) -> None:
    read, write = os.pipe()
    os.set_inheritable(write, True)
    try:
        with many(), store.verifier(key.sign(DATA), NAME) as one, store.verifier(key.sign(DATA), NAME) as two:
            one.ready()
            two.ready()
            nursery = current()
            assert nursery is not None
            for pid in children(nursery._process.pid):
                assert Path(f"/proc/{pid}/environ").read_bytes() == b"LANG=C.UTF-8\0"
                assert {int(name) for name in os.listdir(f"/proc/{pid}/fd")} <= {0, 1, 2, 3}
                assert os.readlink(f"/proc/{pid}/cwd") == "/"
    finally:
        os.close(read)
        os.close(write)


def test_forked_processes_judge_each_their_own(store: KeyStore, key: KeyPair) -> None:
    with many():
        running = [store.verifier(key.sign(DATA if n % 2 else DATA + b"x"), NAME) for n in range(6)]
        nursery = current()
        assert nursery is not None
        for verifier in running:
            verifier.feed(DATA)
        for number, verifier in enumerate(running):
            with contextlib.nullcontext() if number % 2 else pytest.raises(BadSignatureError):
                assert verifier.finish().key == key.fingerprint
        wait_for(lambda: children(nursery._process.pid) == [])
        # One that is given up, and one that is never told more, end with the nursery.
        store.verifier(key.sign(DATA), NAME).close()
        left = store.verifier(key.sign(DATA), NAME)
        left.ready()
        pids = children(nursery._process.pid)
        assert pids
    for pid in pids:
        wait_for(lambda pid=pid: gone(pid))
    left.close()
    assert current() is None


def test_a_nursery_that_was_killed_is_told(store: KeyStore, key: KeyPair) -> None:
    with many():
        nursery = current()
        assert nursery is not None
        with store.verifier(key.sign(DATA), NAME) as running:
            running.ready()
            [pid] = children(nursery._process.pid)
            os.kill(nursery._process.pid, signal.SIGKILL)
            wait_for(lambda: gone(pid))  # the kernel ends it, too
            with pytest.raises((VerifierError, HostError)):
                running.finish()
        with pytest.raises((VerifierError, HostError)), store.verifier(key.sign(DATA), NAME) as running:
            running.ready()


def test_it_streams_in_little_memory(store: KeyStore, key: KeyPair, tmp_path: Path) -> None:
    block = hashlib.sha512(b"noise").digest() * 16384  # 1 MiB
    blocks = 300
    path = tmp_path / "large"
    with path.open("wb") as file:
        for _ in range(blocks):
            file.write(block)
    signature = key.sign_file(path)
    path.unlink()
    with store.verifier(signature, NAME) as running:
        running.ready()
        pid = pid_of(running)
        before = int(status(pid)["VmHWM"].split()[0])
        for _ in range(blocks):
            running.feed(block)
        peak = int(status(pid)["VmHWM"].split()[0])
        assert running.finish().key == key.fingerprint
    assert peak - before < 4 * 1024, f"{before} -> {peak} kB"
    assert peak < 40 * 1024, f"{peak} kB"


def test_the_privileged_process_does_not_load_the_library() -> None:
    script = textwrap.dedent("""
        import sys, gantry.trust, gantry.trust.keystore, gantry.trust.verifier
        print(sorted(name for name in sys.modules if "sequoia" in name or name.endswith("openpgp")))
    """)
    environment = {"PYTHONPATH": os.path.dirname(os.path.dirname(gantry.__file__))}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, check=True)
    assert done.stdout == b"[]\n"


def test_small_and_empty_images(store: KeyStore, key: KeyPair) -> None:
    for data in (b"", b"x"):
        with store.verifier(key.sign(data), NAME) as running:
            running.feed(data)
            assert running.finish().key == key.fingerprint
    with store.verifier(key.sign(b""), NAME) as running:
        assert running.finish().key == key.fingerprint  # nothing was fed at all


def test_chunks_of_any_size_and_kind(store: KeyStore, key: KeyPair) -> None:
    signature = key.sign(DATA)
    with store.verifier(signature, NAME) as running:
        running.feed(DATA[:1])
        running.feed(b"")
        running.feed(memoryview(DATA)[1:1000])
        running.feed(bytearray(DATA[1000:]))
        assert running.finish().signer


def test_killed_in_the_middle_it_says_nothing_about_the_image(started: Verifier) -> None:
    started.feed(DATA[:1000])
    os.kill(pid_of(started), signal.SIGKILL)

    def rest() -> None:
        for _ in range(100):
            started.feed(DATA)
        started.finish()

    unsaid = r"ended without a verdict \((signal SIGKILL|of unknown status)\)"
    with pytest.raises(VerifierError, match=unsaid):
        rest()


def test_silence_ends(started: Verifier, monkeypatch: pytest.MonkeyPatch) -> None:
    started.ready()
    monkeypatch.setattr(child, "PATIENCE", 0.2)
    os.kill(pid_of(started), signal.SIGSTOP)
    with pytest.raises(VerifierError, match="was silent"):
        started.finish()


def test_ctrl_c_is_for_the_parent(started: Verifier) -> None:
    started.ready()
    os.kill(pid_of(started), signal.SIGINT)
    started.feed(DATA)
    assert started.finish()


def test_closing_ends_it(store: KeyStore, key: KeyPair) -> None:
    running = store.verifier(key.sign(DATA), NAME)
    pid = pid_of(running)
    running.feed(DATA[:10])
    running.close()
    running.close()
    assert not os.path.exists(f"/proc/{pid}")


def test_a_verdict_leaves_no_process_and_no_descriptor(store: KeyStore, key: KeyPair) -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    running = store.verifier(key.sign(DATA), NAME)
    pid = pid_of(running)
    running.feed(DATA)
    running.finish()
    assert not os.path.exists(f"/proc/{pid}")
    running = store.verifier(key.sign(DATA), NAME)
    pid = pid_of(running)
    running.feed(DATA[1:])
    with pytest.raises(BadSignatureError):
        running.finish()
    assert not os.path.exists(f"/proc/{pid}")
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_it_dies_with_its_parent(store: KeyStore, key: KeyPair, tmp_path: Path) -> None:
    (tmp_path / "asc").write_bytes(key.sign(DATA))
    script = textwrap.dedent(f"""
        import sys
        from gantry.config import Paths
        from gantry.trust import KeyStore
        store = KeyStore(Paths(*{list(store._paths[:4])!r}))
        running = store.verifier(open({str(tmp_path / "asc")!r}, "rb").read(), {NAME!r})
        running.feed(b"x" * 1000)
        ((_, process),) = running._running
        print(process.pid, flush=True)
        sys.stdin.read()
    """)
    environment = {"PYTHONPATH": os.path.dirname(os.path.dirname(gantry.__file__))}
    with subprocess.Popen(
        [sys.executable, "-c", script], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert not gone(pid)
        # Held open here, so that the end of its input does not end it.
        held = os.open(f"/proc/{parent.pid}/fd", os.O_RDONLY)
        os.kill(pid, signal.SIGSTOP)
        parent.kill()
        wait_for(lambda: gone(pid))
        os.close(held)


def test_several_signatures_are_limited(store: KeyStore, key: KeyPair) -> None:
    one = key.sign(DATA)
    with store.verifier(one * verifier.MAX_CANDIDATES, NAME) as running:
        running.feed(DATA)
        assert running.finish().key == key.fingerprint
    with pytest.raises(SignatureFormatError, match="5 signatures by trusted keys; 4 are judged"):
        store.verifier(one * (verifier.MAX_CANDIDATES + 1), NAME)
    with pytest.raises(SignatureFormatError, match="more than 16 signatures"):
        store.verifier(one * 17, NAME)


def test_the_verification_as_json(started: Verifier, key: KeyPair) -> None:
    started.feed(DATA)
    found = started.finish().as_dict()
    assert set(found) == {"signer", "key", "user_ids", "prefix", "signed_at", "verified_at"}
    assert found["user_ids"] == ["Test Maker <maker@example.com>"]


def test_without_the_library_the_host_is_to_blame(
    store: KeyStore, key: KeyPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(HostError, match="pysequoia, which judges signatures, is not installed"):
        store.verifier(key.sign(DATA), NAME)
