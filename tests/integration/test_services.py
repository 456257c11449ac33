"""Signer and metadata service as real processes with real users, killed and restarted (DESIGN section 3)."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
import os
import re
import signal
import socket
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support import services
from tests.support.services import (
    METADATA_UID,
    SIGNER_UID,
    FakePod,
    Pause,
    finish,
    get,
    post_form,
    run_as,
    wait_until,
)

from gantry import audit
from gantry.linux import namespaces
from gantry.linux.activation import listen_unix
from gantry.linux.syscalls import pidfd_getfd
from gantry.metadata import client as metadata
from gantry.signer import client as signer
from gantry.signer.keys import KEY_SIZE

pytestmark = pytest.mark.root

ONE = "11111111-aaaa-4aaa-8aaa-111111111111"
TWO = "22222222-bbbb-4bbb-8bbb-222222222222"
THREE = "33333333-cccc-4ccc-8ccc-333333333333"


class Host:
    """A host's services. The sockets are held here, as systemd holds them."""

    def __init__(self, base: Path) -> None:
        self.data, self.run = base / "data", base / "run"
        (self.data / "pods" / "run").mkdir(parents=True)
        self.run.mkdir()
        self.log = base / "log"
        self.signer_sock = str(self.run / "signer.sock")
        self.metadata_sock = str(self.run / "metadata-svc.sock")
        self._signer_sockets = [
            listen_unix(self.signer_sock, socket.SOCK_STREAM, mode=0o660, gid=METADATA_UID)
        ]
        in_host = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = in_host.getsockname()[1]
        control = listen_unix(self.metadata_sock, socket.SOCK_SEQPACKET, mode=0o600)
        self._metadata_sockets = [control, in_host]
        self.signer: subprocess.Popen[bytes] | None = None
        self.metadata: subprocess.Popen[bytes] | None = None
        self.pauses: list[Pause] = []

    def start_signer(self) -> None:
        arguments = ["--dir", str(self.data), "--run-dir", str(self.run), "--user", str(SIGNER_UID)]
        arguments += ["--metadata-user", str(METADATA_UID)]
        self.signer = services.service("signer", arguments, self.log, self._signer_sockets)

    def start_metadata(self) -> None:
        arguments = ["--dir", str(self.data), "--run-dir", str(self.run), "--user", str(METADATA_UID)]
        self.metadata = services.service("metadata", arguments, self.log, self._metadata_sockets)

    def kill(self, process: subprocess.Popen[bytes] | None, number: int = signal.SIGKILL) -> int:
        assert process
        process.send_signal(number)
        return process.wait(timeout=services.DEADLINE)

    @contextlib.contextmanager
    def stopped(self, process: subprocess.Popen[bytes] | None) -> Iterator[None]:
        """*process* does nothing meanwhile."""
        assert process
        process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            process.send_signal(signal.SIGCONT)

    def add_pod(self, pod: FakePod, **options: bool) -> Pause:
        """A pod that runs: pause process, files, key."""
        pause = Pause()
        self.pauses.append(pause)
        directory = self.data / "pods" / "run" / pod.uuid
        directory.mkdir()
        (directory / "metadata.json").write_bytes(pod.document_bytes())
        (directory / "metadata.json").chmod(0o600)
        (directory / "sandbox.json").write_text(json.dumps(pause.sandbox(**options)))
        signer.create(self.signer_sock, pod.uuid, pod.token_sha256.hex())
        return pause

    def register(self, pod: FakePod, pause: Pause | None, *, timeout: float = services.DEADLINE) -> bool:
        """What a launcher does, with a socket that it takes from the stand-in."""
        directory = self.data / "pods" / "run" / pod.uuid
        document = os.open(directory / "metadata.json", os.O_RDONLY)
        listener = pidfd = None
        try:
            if pause:
                pidfd = os.pidfd_open(pause.pid)
                listener = pidfd_getfd(pidfd, pause.listen_fd)
            return metadata.register(
                self.metadata_sock, pod.uuid, document, listener,
                pause_pid=pause.pid if pause else None, timeout=timeout,
            )  # fmt: skip
        finally:
            for fd in (document, listener, pidfd):
                if fd is not None:
                    os.close(fd)

    def served(self) -> list[str]:
        return metadata.pods(self.metadata_sock, timeout=services.DEADLINE)

    def close(self) -> None:
        for process in (self.metadata, self.signer):
            if process:
                process.kill()
                process.wait()
        for pause in self.pauses:
            pause.stop()
        for sock in (*self._signer_sockets, *self._metadata_sockets):
            sock.close()


@pytest.fixture
def base() -> Iterator[Path]:
    """A directory that the services' users can get into: those of pytest are closed."""
    with tempfile.TemporaryDirectory(prefix="gantry-services-") as name:
        os.chmod(name, 0o755)
        yield Path(name)


@pytest.fixture
def host(base: Path) -> Iterator[Host]:
    host = Host(base)
    try:
        host.start_signer()
        host.start_metadata()
        signer.uuids(host.signer_sock, timeout=services.DEADLINE)
        host.served()
        yield host
    finally:
        host.close()


def expected_signature(host: Host, pod: FakePod, content: bytes) -> bytes:
    key = (host.data / "signer" / "keys" / pod.uuid).read_bytes()[8 : 8 + KEY_SIZE]
    return base64.b64encode(hmac.digest(key, pod.uuid_bytes + content, hashlib.sha512))


def test_a_restarted_service_finds_every_running_pod(host: Host) -> None:
    host.served()
    one, two = FakePod(ONE), FakePod(TWO)
    first, second = host.add_pod(one), host.add_pod(two, start=False)
    assert host.served() == [], "it was told nothing yet"
    host.kill(host.metadata)
    host.start_metadata()
    assert sorted(host.served()) == [ONE, TWO]
    assert first.ask(get(one.path("pod/uuid"))) == (200, ONE.encode())
    assert second.ask(get(two.path("pod/uuid"))) == (200, TWO.encode())


def test_a_request_made_while_the_service_is_dead_waits_and_succeeds(host: Host) -> None:
    pod = FakePod(ONE)
    pause = host.add_pod(pod)
    assert host.register(pod, pause)
    assert pause.ask(get(pod.path("pod/uuid"))) == (200, ONE.encode())
    host.kill(host.metadata)
    client = pause.request(post_form(pod.path("pod/hmac/sign"), b"content=%FFwait"))
    assert client.poll() is None
    host.start_metadata()
    assert finish(client) == (200, expected_signature(host, pod, b"\xffwait"))


def test_many_requests_wait_through_a_kill_and_none_is_lost(host: Host) -> None:
    pods = {FakePod(f"{n:08x}-aaaa-4aaa-8aaa-111111111111").uuid: n for n in range(1, 4)}
    running = [(pod, host.add_pod(pod)) for pod in map(FakePod, pods)]
    host.kill(host.metadata)
    clients = [(pod, pause.request(get(pod.path("pod/uuid")))) for pod, pause in running for _ in range(5)]
    host.start_metadata()
    for pod, client in clients:
        assert finish(client) == (200, pod.uuid.encode())


def test_three_hundred_pods_in_one_service(host: Host) -> None:
    """This process stands for all their pause processes."""
    with contextlib.ExitStack() as stack:
        pods = [FakePod(f"{n:08x}-aaaa-4aaa-8aaa-111111111111") for n in range(1, 301)]
        ports = {}
        for pod in pods:
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=128))
            ports[pod.uuid] = listener.getsockname()[1]
            directory = host.data / "pods" / "run" / pod.uuid
            directory.mkdir()
            (directory / "metadata.json").write_bytes(pod.document_bytes())
            sandbox = {
                "pause_pid": os.getpid(),
                "listen_fd": listener.fileno(),
                "boot_id": namespaces.boot_id(),
            }
            (directory / "sandbox.json").write_text(json.dumps(sandbox))
        host.served()
        host.kill(host.metadata)
        host.start_metadata()
        assert len(host.served()) == 300
        for pod in pods:
            assert services.ask(ports[pod.uuid], pod.path("pod/uuid")).body == pod.uuid.encode()
        assert host.metadata
        assert len(os.listdir(f"/proc/{host.metadata.pid}/fd")) < 2 * 300 + 20


def test_a_registration_made_while_the_service_is_dead_is_taken_at_the_next_start(host: Host) -> None:
    host.served()
    host.kill(host.metadata)
    pod = FakePod(ONE)
    pause = host.add_pod(pod)
    (host.data / "pods" / "run" / ONE / "sandbox.json").unlink()  # so that only the message can tell
    assert host.register(pod, pause, timeout=0.05) is False
    client = pause.request(get(pod.path("pod/uuid")))
    host.start_metadata()
    assert finish(client) == (200, ONE.encode())
    assert host.served() == [ONE]


def test_found_and_registered_at_once_loses_no_request(host: Host) -> None:
    host.served()
    host.kill(host.metadata)
    pod = FakePod(ONE)
    pause = host.add_pod(pod)
    host.register(pod, pause, timeout=0.05)
    clients = [pause.request(post_form(pod.path("pod/hmac/sign"), b"content=x")) for _ in range(5)]
    with host.stopped(host.signer):  # so that the requests are under way when the registration is read
        host.start_metadata()
        assert host.served() == [ONE]
    assert [finish(client) for client in clients] == [(200, expected_signature(host, pod, b"x"))] * 5


def test_the_end_of_a_pod_is_noticed(host: Host) -> None:
    registered, recovered = FakePod(ONE), FakePod(TWO)
    pauses = {ONE: host.add_pod(registered), TWO: host.add_pod(recovered)}
    host.served()
    host.kill(host.metadata)
    (host.data / "pods" / "run" / ONE / "sandbox.json").unlink()
    host.start_metadata()
    host.register(registered, pauses[ONE])
    assert sorted(host.served()) == [ONE, TWO]
    for uuid, pause in pauses.items():
        pause.stop()
        wait_until(lambda uuid=uuid: uuid not in host.served(), f"{uuid} dropped")  # type: ignore[misc]


def test_unregister_closes_the_socket_and_the_connections(host: Host) -> None:
    pod = FakePod(ONE)
    host.add_pod(pod)
    assert host.register(pod, None)
    with socket.create_connection(("127.0.0.1", host.port), timeout=services.DEADLINE) as sock:
        sock.sendall(f"GET {pod.path('pod/uuid')} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert sock.recv(65536).startswith(b"HTTP/1.1 200")
        assert metadata.unregister(host.metadata_sock, ONE)
        assert sock.recv(65536) == b""
    assert host.served() == []
    assert services.ask(host.port, pod.path("pod/uuid")).status == 401


def test_a_token_is_good_on_its_own_pods_socket_only(host: Host) -> None:
    one, two, in_host = FakePod(ONE), FakePod(TWO), FakePod(THREE)
    pauses = {pod.uuid: host.add_pod(pod) for pod in (one, two, in_host)}
    host.register(one, pauses[ONE])
    host.register(two, pauses[TWO])
    host.register(in_host, None)
    assert pauses[ONE].ask(get(two.path("pod/uuid"))) == (401, b"pod not found")
    assert pauses[ONE].ask(get(in_host.path("pod/uuid"))) == (401, b"pod not found")
    assert services.ask(host.port, one.path("pod/uuid")).status == 401
    assert services.ask(host.port, in_host.path("pod/uuid")).body == THREE.encode()


@pytest.mark.parametrize(
    "change",
    [
        {"boot_id": "00000000-0000-0000-0000-000000000000"},
        {"pause_start": 1},
        {"listen_fd": 0},
        {"listen_fd": 999},
        {"pause_pid": 1 << 30},
        {"pause_pid": "1"},
    ],
    ids=str,
)
def test_a_sandbox_that_does_not_fit_is_left_out_and_the_others_served(
    host: Host, change: dict[str, object]
) -> None:
    good, bad = FakePod(ONE), FakePod(TWO)
    pauses = [host.add_pod(good), host.add_pod(bad)]
    file = host.data / "pods" / "run" / TWO / "sandbox.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    host.served()
    host.kill(host.metadata)
    host.start_metadata()
    assert host.served() == [ONE]
    assert pauses[0].ask(get(good.path("pod/uuid"))) == (200, ONE.encode())


def test_the_metadata_service_keeps_no_privilege(host: Host) -> None:
    host.served()
    assert host.metadata
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{host.metadata.pid}/status").read_text().splitlines()
    )
    assert status["Uid"].split() == [str(METADATA_UID)] * 4
    assert status["Gid"].split() == [str(METADATA_UID)] * 4
    assert status["Groups"].split() == []
    assert {status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {"0" * 16}
    assert status["NoNewPrivs"] == "1"
    assert_closed_to_its_own_user(host.metadata.pid, METADATA_UID)


def test_the_signer_keeps_no_privilege(host: Host) -> None:
    signer.create(host.signer_sock, ONE, "0" * 64)
    assert host.signer
    status = Path(f"/proc/{host.signer.pid}/status").read_text()
    assert "\nUid:\t" + "\t".join([str(SIGNER_UID)] * 4) in status
    assert "\nCapEff:\t0000000000000000" in status
    assert "\nNoNewPrivs:\t1" in status
    assert_closed_to_its_own_user(host.signer.pid, SIGNER_UID)
    directory = host.data / "signer"
    for path in (directory, *directory.rglob("*")):
        info = path.stat()
        assert info.st_uid == SIGNER_UID, path
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert stat.S_IMODE((directory / "keys").stat().st_mode) == 0o700
    assert stat.S_IMODE((directory / "keys" / ONE).stat().st_mode) == 0o600


def assert_closed_to_its_own_user(pid: int, uid: int) -> None:
    """Not dumpable: neither its memory nor its descriptors can be reached by another process of its user."""
    assert Path(f"/proc/{pid}/mem").stat().st_uid == 0
    assert run_as(uid, f"os.listdir('/proc/{pid}/fd')").startswith("PermissionError")
    limits = Path(f"/proc/{pid}/limits").read_text()
    assert re.search(r"^Max core file size +0 +0 ", limits, re.MULTILINE)


def test_the_metadata_user_can_use_keys_and_nothing_else(host: Host) -> None:
    pod = FakePod(ONE)
    signer.create(host.signer_sock, ONE, pod.token_sha256.hex())
    sock = host.signer_sock
    signature = signer.sign(sock, ONE, pod.token, b"x")
    assert run_as(METADATA_UID, f"signer.sign({sock!r}, {ONE!r}, {pod.token!r}, b'x')") == repr(signature)
    assert run_as(METADATA_UID, f"signer.verify({sock!r}, {ONE!r}, b'x', {signature!r})") == "True"
    wrong = run_as(METADATA_UID, f"signer.sign({sock!r}, {ONE!r}, {'0' * 32!r}, b'x')")
    assert wrong.startswith("SignerRefusedError"), "without the pod's token it cannot sign"
    for call in (
        f"create({sock!r}, {TWO!r}, {'0' * 64!r})",
        f"delete({sock!r}, {ONE!r})",
        f"flush({sock!r})",
    ):
        assert run_as(METADATA_UID, f"signer.{call}").startswith("SignerRefusedError"), call
    sign = f"signer.sign({sock!r}, {ONE!r}, {pod.token!r}, b'x')"
    assert run_as(65534, sign).startswith("SignerError"), "the socket's mode keeps others out"
    os.chmod(sock, 0o666)
    assert run_as(65534, sign).startswith("SignerRefusedError"), "and so does the signer"
    key_file = str(host.data / "signer" / "keys" / ONE)
    assert run_as(METADATA_UID, f"open({key_file!r})").startswith("PermissionError")


def test_only_root_registers_pods(host: Host) -> None:
    host.served()
    call = f"metadata.pods({host.metadata_sock!r})"
    assert run_as(METADATA_UID, call).startswith("MetadataError"), "the socket's mode"
    os.chmod(host.metadata_sock, 0o666)
    assert run_as(METADATA_UID, call).startswith("RegistrationError")
    assert run_as(0, call) == "[]"


def test_keys_survive_a_killed_signer_and_requests_wait_for_it(host: Host) -> None:
    pod = FakePod(ONE)
    pause = host.add_pod(pod)
    host.register(pod, pause)
    request = post_form(pod.path("pod/hmac/sign"), b"content=hello")
    before = pause.ask(request)
    assert before == (200, expected_signature(host, pod, b"hello"))
    host.kill(host.signer)
    client = pause.request(request)
    host.start_signer()
    assert finish(client) == before
    signer.delete(host.signer_sock, ONE)
    assert pause.ask(request)[0] == 500
    form = b"content=hello&uuid=%b&signature=%b" % (ONE.encode(), before[1].replace(b"+", b"%2B"))
    assert pause.ask(post_form(pod.path("pod/hmac/verify"), form))[0] == 403, "gone with the pod"


def test_what_was_signed_is_on_record(host: Host) -> None:
    pod = FakePod(ONE)
    signer.create(host.signer_sock, ONE, pod.token_sha256.hex())
    state = str(host.data / "signer")
    signer.sign(host.signer_sock, ONE, pod.token, b"first")
    wait_until((host.data / "signer" / "audit" / "log.jsonl").exists, "the first one written at once")
    for n in range(20):
        signer.sign(host.signer_sock, ONE, pod.token, b"%d" % n)
    with pytest.raises(signer.SignerRefusedError):
        signer.sign(host.signer_sock, ONE, "f" * 32, b"x")
    signer.flush(host.signer_sock)
    entries = list(audit.entries(state, event="pod.sign"))
    assert sum(int(str(e["signatures"])) for e in entries) == 21
    assert sum(int(str(e.get("refused", 0))) for e in entries) == 1
    assert entries[0]["signatures"] == 1, "the first one at once"
    assert len(entries) == 2, "the others as one number"
    for n in range(5):
        signer.sign(host.signer_sock, ONE, pod.token, b"%d" % n)
    assert host.kill(host.signer, signal.SIGTERM) == 0
    assert sum(int(str(e["signatures"])) for e in audit.entries(state)) == 26, "written when it is stopped"
    audit.verify(state)


def test_sigterm_answers_what_has_arrived_and_leaves_the_rest_to_the_next(host: Host) -> None:
    pod = FakePod(ONE)
    pause = host.add_pod(pod)
    host.register(pod, pause)
    assert host.metadata
    with host.stopped(host.signer):
        client = pause.request(post_form(pod.path("pod/hmac/sign"), b"content=x"))
        wait_until(lambda: connected_to(host.signer_sock), "the request is at the signer's door")
        host.metadata.send_signal(signal.SIGTERM)
    assert host.metadata.wait(timeout=services.DEADLINE) == 0
    assert finish(client) == (200, expected_signature(host, pod, b"x"))
    later = pause.request(get(pod.path("pod/uuid")))
    host.start_metadata()
    assert finish(later) == (200, ONE.encode())


def connected_to(path: str) -> bool:
    """Whether a connection waits at the Unix socket *path*."""
    with open("/proc/net/unix", encoding="utf-8") as table:
        return any(line.split()[7:] == [path] and line.split()[5] != "01" for line in table)


def test_no_token_reaches_the_log(host: Host) -> None:
    pod, other = FakePod(ONE), FakePod(TWO)
    pause = host.add_pod(pod)
    host.register(pod, pause)
    pause.ask(get(pod.path("pod/uuid")))
    pause.ask(get(other.path("pod/uuid")))
    pause.ask(b"GET " + pod.path("pod/uuid").encode() + b" HTTP/9.9\r\n\r\n")
    signer.delete(host.signer_sock, ONE)
    pause.ask(post_form(pod.path("pod/hmac/sign"), b"content=x"))
    metadata.unregister(host.metadata_sock, ONE)
    host.kill(host.metadata, signal.SIGTERM)
    text = host.log.read_text()
    assert ONE in text
    assert pod.token not in text
    assert other.token not in text


def test_a_second_signer_is_refused(host: Host) -> None:
    signer.create(host.signer_sock, ONE, "0" * 64)
    run = host.run / "other"
    arguments = ["--dir", str(host.data), "--run-dir", str(run), "--user", str(SIGNER_UID)]
    log = host.run / "second.log"
    process = services.service("signer", [*arguments, "--metadata-user", "0"], log)
    assert process.wait(timeout=services.DEADLINE) == 254
    assert "another signer uses" in log.read_text()


def test_run_by_hand_the_services_make_their_sockets(base: Path) -> None:
    common = ["--dir", str(base / "data"), "--run-dir", str(base / "run")]
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    log = base / "log"
    users = ["--user", str(SIGNER_UID), "--metadata-user", str(METADATA_UID)]
    arguments = [*common, "--user", str(METADATA_UID), "--listen-port", str(port)]
    with (
        services.child(services.service("signer", [*common, *users], log)),
        services.child(services.service("metadata", arguments, log)),
    ):
        wait_until(lambda: log.exists() and log.read_text().count("ready") == 2, "both ready")
        assert metadata.pods(str(base / "run" / "metadata-svc.sock")) == []
        for name, mode, gid in (("metadata-svc.sock", 0o600, 0), ("signer.sock", 0o660, METADATA_UID)):
            info = (base / "run" / name).stat()
            assert (stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid) == (mode, 0, gid)
        assert services.ask(port, "/x").status == 401
        again = services.service("metadata", arguments, base / "again.log")
        assert again.wait(timeout=services.DEADLINE) == 254
        assert "another process listens on" in (base / "again.log").read_text()


@pytest.mark.parametrize(
    ("module", "arguments", "reason"),
    [
        ("metadata", ["--user", "no-such-user"], 'there is no user "no-such-user"'),
        ("metadata", ["--user", "0"], "does not go on as root"),
        ("metadata", ["--listen-port", "0"], "is not a port"),
        ("signer", ["--user", "0", "--metadata-user", "0"], "does not run as root"),
        ("signer", ["--metadata-user", "no-such-user"], 'there is no user "no-such-user"'),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(
    tmp_path: Path, module: str, arguments: list[str], reason: str
) -> None:
    log = tmp_path / "log"
    common = ["--dir", str(tmp_path / "data"), "--run-dir", str(tmp_path / "run")]
    process = services.service(module, [*common, *arguments], log)
    assert process.wait(timeout=services.DEADLINE) == 254
    assert len(log.read_text().splitlines()) == 1
    assert reason in log.read_text()
