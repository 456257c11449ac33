"""The signer and the metadata service for tests: in this process, as processes, and stand-ins for pods.

Run as a program it does what the tests need a process of its own for::

    services.py serve FDS MODULE ARG...       run gantry.MODULE.service as systemd does: sockets on 3, 4, ...
    services.py pause ADDRESS PORT UID        be the pause process of a pod: own network, one listening socket
    services.py http NETNS_PID ADDRESS PORT   read a request from standard input, print the answer
    services.py as UID EXPRESSION             evaluate an expression as another user
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import http.client
import json
import os
import select
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from gantry.errors import GantryError
from gantry.linux import namespaces, syscalls
from gantry.linux.activation import listen_unix
from gantry.metadata import client as metadata
from gantry.metadata import document
from gantry.metadata.registry import Pod, Registry
from gantry.metadata.server import Server as MetadataServer
from gantry.signer import client as signer
from gantry.signer.counts import Counts
from gantry.signer.keys import Keys
from gantry.signer.service import Engine
from gantry.signer.service import Server as SignerServer

ROOT = Path(__file__).resolve().parents[2]
DEADLINE = 20.0  # seconds; only a broken thing takes that long
SIGNER_UID, METADATA_UID, PAUSE_UID = 64301, 64302, 64303
GROUP = 64304  # one that services are started with and have to give up

IMAGE_ID = "sha512-" + "5" * 128


def wait_until(condition: Callable[[], object], what: str, deadline: float = DEADLINE) -> None:
    """Wait for *condition*; fail with *what* when it does not come true."""
    end = time.monotonic() + deadline
    while not condition():
        assert time.monotonic() < end, f"not within {deadline} s: {what}"
        select.select([], [], [], 0.01)


@dataclass
class FakePod:
    """A pod as the services know it."""

    uuid: str
    token: str = field(default_factory=lambda: os.urandom(16).hex())
    manifest: dict[str, Any] = field(
        default_factory=lambda: {
            "acVersion": "0.8.11",
            "acKind": "PodManifest",
            "apps": [],
            "annotations": [],
        }
    )
    apps: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def token_sha256(self) -> bytes:
        return hashlib.sha256(self.token.encode()).digest()

    @property
    def uuid_bytes(self) -> bytes:
        return bytes.fromhex(self.uuid.replace("-", ""))

    def document(self) -> dict[str, Any]:
        return {
            "uuid": self.uuid,
            "token_sha256": self.token_sha256.hex(),
            "manifest": self.manifest,
            "apps": self.apps,
        }

    def document_bytes(self) -> bytes:
        return json.dumps(self.document()).encode()

    def path(self, rest: str) -> str:
        return f"/{self.token}/acMetadata/v1/{rest}"


def app(manifest: str = "{}", annotations: list[tuple[str, str]] | None = None) -> dict[str, Any]:
    """An app for a pod's document."""
    return {
        "image_id": IMAGE_ID,
        "image_manifest": manifest,
        "annotations": [{"name": n, "value": v} for n, v in annotations or []],
    }


class Recorder:
    """Stands for the audit record."""

    def __init__(self) -> None:
        self.entries: list[tuple[str, dict[str, object]]] = []
        self.broken: Exception | None = None

    def __call__(self, event: str, **fields: object) -> None:
        if self.broken:
            raise self.broken
        self.entries.append((event, fields))


class SignerThread:
    """A real signer in a thread of this process."""

    def __init__(self, directory: Path, *, record: Callable[..., None] | None = None) -> None:

        state = directory / "signer"
        state.mkdir(mode=0o700, exist_ok=True)
        self.path = str(directory / "signer.sock")
        self.record = record or Recorder()
        self.keys = Keys(str(state))
        self.counts = Counts(self.record)
        listener = listen_unix(self.path, socket.SOCK_STREAM, mode=0o600)
        self.server = SignerServer(Engine(self.keys, self.counts, frozenset({os.geteuid()})), [listener])
        self._thread = threading.Thread(target=self.server.serve)
        self._thread.start()

    def stop(self) -> None:
        self.server.stop()
        self._thread.join(DEADLINE)
        assert not self._thread.is_alive()
        self.server.close()
        self.counts.stop()
        self.keys.close()


class MetadataThread:
    """A real metadata server in a thread of this process, without registrations: give it all pods at once.

    Pods in *own* get a listening socket each (on 127.0.0.1); those in *host* share :attr:`port`.
    """

    def __init__(
        self, signer_path: str, *, host: list[FakePod] | None = None, own: list[FakePod] | None = None
    ):

        self.server = MetadataServer(Registry(), signer_path)
        self.ports: dict[str, int] = {}
        for pod in host or []:
            self.server.add(Pod(document.parse(pod.document_bytes())))
        for pod in own or []:
            listener = socket.create_server(("127.0.0.1", 0), backlog=128)
            self.ports[pod.uuid] = listener.getsockname()[1]
            self.server.add(Pod(document.parse(pod.document_bytes()), listener))
        listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = listener.getsockname()[1]
        self.server.listen(listener)
        self._thread = threading.Thread(target=self.server.serve)
        self._thread.start()

    def stop(self) -> None:
        self.server.stop()
        self._thread.join(DEADLINE)
        assert not self._thread.is_alive()
        self.server.close()


@dataclass
class Answer:
    status: int
    content_type: str
    body: bytes
    headers: dict[str, str]


def ask(
    port: int,
    path: str,
    *,
    method: str = "GET",
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
) -> Answer:
    """One request on a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE)
    try:
        connection.request(method, path, body=body, headers=headers or {})
        return read_answer(connection.getresponse())
    finally:
        connection.close()


def read_answer(response: http.client.HTTPResponse) -> Answer:
    headers = {name.lower(): value for name, value in response.getheaders()}
    return Answer(response.status, headers.get("content-type", ""), response.read(), headers)


def post(port: int, path: str, form: bytes) -> Answer:
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    return ask(port, path, method="POST", body=form, headers=headers)


def raw(port: int, data: bytes, *, end: bool = True, timeout: float = DEADLINE) -> bytes:
    """Send *data* and return everything that comes back until the server closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout) as sock:
        with contextlib.suppress(ConnectionError):
            sock.sendall(data)
            if end:
                sock.shutdown(socket.SHUT_WR)
        received = b""
        with contextlib.suppress(ConnectionResetError):
            while part := sock.recv(65536):
                received += part
        return received


# --- Processes
# ------------------------------------------------------------------------------------------------


def helper(*arguments: str, **options: Any) -> subprocess.Popen[bytes]:
    """This file as a program."""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": f"{ROOT / 'runtime'}:{ROOT}"}
    return subprocess.Popen(
        [sys.executable, "-S", "-B", str(Path(__file__)), *arguments], env=environment, **options
    )


@contextlib.contextmanager
def child(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """Whatever happens, *process* is gone afterwards."""
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream:
                stream.close()


def service(
    module: str, arguments: list[str], log: Path, sockets: list[socket.socket] | None = None
) -> subprocess.Popen[bytes]:
    """Start a service. With *sockets* it is started as systemd would, with these on 3, 4, ..."""
    fds = [s.fileno() for s in sockets or []]
    with log.open("ab") as stderr:
        return helper(
            "serve", ",".join(map(str, fds)), module, *arguments, pass_fds=fds, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=stderr,
            extra_groups=[GROUP] if os.geteuid() == 0 else None,
        )  # fmt: skip


class Pause:
    """A stand-in for a pod's pause process: its own network namespace and the listening socket in it."""

    def __init__(self, address: str = "169.254.169.254", port: int = 18112) -> None:
        self.address, self.port = address, port
        self.process = helper(
            "pause", address, str(port), str(PAUSE_UID), stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self.process.stdout
        line = self.process.stdout.readline()
        assert line, "the stand-in did not start"
        self.listen_fd = int(line)

    @property
    def pid(self) -> int:
        return self.process.pid

    def sandbox(self, *, start: bool = True) -> dict[str, Any]:
        """What the launcher writes down."""

        found = {"pause_pid": self.pid, "listen_fd": self.listen_fd, "boot_id": namespaces.boot_id()}
        return found | ({"pause_start": namespaces.start_time(self.pid)} if start else {})

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream:
                stream.close()

    def request(self, data: bytes) -> subprocess.Popen[bytes]:
        """A client in the pod; it prints a line when the request is on its way, then the answer."""
        client = helper(
            "http", str(self.pid), self.address, str(self.port), stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert client.stdin
        assert client.stdout
        client.stdin.write(data)
        client.stdin.close()
        assert client.stdout.readline() == b"sent\n"
        return client

    def ask(self, data: bytes) -> tuple[int, bytes]:
        """Status and body of the answer to one request."""
        return finish(self.request(data))


def finish(client: subprocess.Popen[bytes]) -> tuple[int, bytes]:
    """The answer that a client of :meth:`Pause.request` got."""
    with child(client):
        assert client.stdout
        answer = client.stdout.read()
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), body


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: metadata\r\nConnection: close\r\n\r\n".encode()


def post_form(path: str, form: bytes) -> bytes:
    return (
        f"POST {path} HTTP/1.1\r\nHost: metadata\r\nConnection: close\r\nContent-Length: {len(form)}\r\n"
        "Content-Type: application/x-www-form-urlencoded\r\n\r\n"
    ).encode() + form


def _serve(fds: str, module: str, *arguments: str) -> int:
    numbers = [int(n) for n in fds.split(",") if n]
    spare = [fcntl.fcntl(n, fcntl.F_DUPFD, 100) for n in numbers]
    for target, fd in enumerate(spare, 3):
        os.dup2(fd, target, inheritable=False)
        os.close(fd)
    if numbers:
        os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(numbers))}

    try:
        return int(import_module(f"gantry.{module}.service").main(list(arguments)))
    except GantryError as error:
        print(f"refused: {error}", file=sys.stderr)
        return 254


def _pause(address: str, port: str, uid: str) -> int:

    syscalls.unshare(syscalls.CLONE_NEWNET)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:  # lo up: SIOCSIFADDR lo:1, SIOCSIFFLAGS lo
        fcntl.ioctl(sock, 0x8914, struct.pack("16sh14x", b"lo", 0x1 | 0x40))
        number = struct.pack("16sH2s4s8x", b"lo:1", socket.AF_INET, b"\0\0", socket.inet_aton(address))
        fcntl.ioctl(sock, 0x8916, number)
    listener = socket.create_server((address, int(port)), backlog=128)
    os.setgroups([])
    os.setresgid(int(uid), int(uid), int(uid))
    os.setresuid(int(uid), int(uid), int(uid))
    print(listener.fileno(), flush=True)
    sys.stdin.buffer.read()
    return 0


def _http(pid: str, address: str, port: str) -> int:

    request = sys.stdin.buffer.read()
    fd = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
    syscalls.setns(fd, syscalls.CLONE_NEWNET)
    os.close(fd)
    with socket.create_connection((address, int(port)), timeout=DEADLINE) as sock:
        sock.sendall(request)
        print("sent", flush=True)
        while part := sock.recv(65536):
            sys.stdout.buffer.write(part)
    return 0


def _as(uid: str, expression: str) -> int:
    os.setgroups([])
    os.setresgid(int(uid), int(uid), int(uid))
    os.setresuid(int(uid), int(uid), int(uid))

    try:
        print(repr(eval(expression, {"signer": signer, "metadata": metadata, "os": os})))
    except (GantryError, OSError) as error:
        print(f"{type(error).__name__}: {error}")
    return 0


def run_as(uid: int, expression: str) -> str:
    """What *expression* (of `signer` and `metadata`, the clients) gives, or the error, as user *uid*."""
    process = helper("as", str(uid), expression, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
    with child(process):
        return process.communicate(timeout=DEADLINE)[0].decode().strip()


if __name__ == "__main__":
    actions: dict[str, Callable[..., int]] = {"serve": _serve, "pause": _pause, "http": _http, "as": _as}
    sys.exit(actions[sys.argv[1]](*sys.argv[2:]))
