"""Registrations: the socket over which launchers hand pods over (the other end of gantry.metadata.client).

Only the user who started the service (root) is listened to. The descriptors do the rest: an unprivileged
service reads a document that only root could open, and accepts on a socket in a network that it cannot enter.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import stat

from gantry.appc.uuid import parse_uuid
from gantry.errors import GantryError
from gantry.linux import activation, pidfd
from gantry.metadata import document
from gantry.metadata.client import MAX_ANSWER, MAX_MESSAGE, RegistrationError
from gantry.metadata.log import log
from gantry.metadata.registry import Pod
from gantry.metadata.server import Server

MAX_CONNECTIONS = 64
TIMEOUT = 10.0  # seconds that a client may be silent
_MAX_FDS = 4


class Control:
    """Takes registrations for *server* from *listener*.

    Args:
        server: Serves the pods.
        listener: A SOCK_SEQPACKET socket.
        users: Who may register.
    """

    def __init__(self, server: Server, listener: socket.socket, users: frozenset[int]) -> None:
        self._server = server
        self._listener = listener
        self._users = users
        self._clients: dict[socket.socket, float] = {}
        listener.setblocking(False)
        server.watch(listener.fileno(), lambda _: self._accept())

    def close(self) -> None:
        """Take no more registrations. What waits on the socket stays there if somebody else holds it too."""
        for client in list(self._clients):
            self._drop(client)
        self._server.unwatch(self._listener.fileno())
        self._listener.close()

    def _accept(self) -> None:
        if len(self._clients) >= MAX_CONNECTIONS:
            self._drop(min(self._clients, key=lambda client: self._clients[client]))
        try:
            client, _ = self._listener.accept()
        except OSError:
            return
        client.setblocking(False)
        uid = activation.peer_uid(client)
        if uid not in self._users:
            log(f"refused a registration from user {uid}")
            _send(client, {"ok": False, "code": "forbidden", "message": f"user {uid} may not register pods"})
            client.close()
            return
        self._clients[client] = self._server.now
        self._server.on_sweep.add(self._sweep)
        self._server.watch(client.fileno(), lambda _: self._receive(client))

    def _drop(self, client: socket.socket) -> None:
        del self._clients[client]
        if not self._clients:
            self._server.on_sweep.discard(self._sweep)
        self._server.unwatch(client.fileno())
        client.close()

    def _sweep(self, now: float) -> None:
        for client in [c for c, since in self._clients.items() if now - since > TIMEOUT]:
            self._drop(client)

    def _receive(self, client: socket.socket) -> None:
        fds: list[int] = []
        try:
            data, fds, flags, _ = socket.recv_fds(client, MAX_MESSAGE + 1, _MAX_FDS, socket.MSG_CMSG_CLOEXEC)
            if not data:
                self._drop(client)
                return
            if len(data) > MAX_MESSAGE or flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
                raise RegistrationError("the message is too long or has too many descriptors")
            answer = self._answer(data, fds)
        except BlockingIOError:
            return
        except GantryError as error:
            log(f"refused a registration: {error.message}")
            answer = {"ok": False, "code": error.code, "message": error.message}
        except OSError as error:
            log(f"registration failed: {error.strerror}")
            self._drop(client)
            return
        finally:
            for fd in fds:  # those that nobody has taken
                os.close(fd)
        self._clients[client] = self._server.now
        if not _send(client, answer):
            self._drop(client)

    def _answer(self, data: bytes, fds: list[int]) -> dict[str, object]:
        try:
            message = json.loads(data)
            operation = message["op"]
            uuid = parse_uuid(message["uuid"]) if operation != "list" else ""
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise RegistrationError("the message is malformed") from None
        if operation == "list":
            return {"ok": True, "pods": self._server.registry.uuids()}
        if operation == "unregister":
            known = self._server.remove(uuid)
            if known:
                log(f"{uuid}: unregistered")
            return {"ok": True, "known": known}
        if operation != "register":
            raise RegistrationError("there is no such operation")
        pause_pid = message.get("pause_pid")
        if pause_pid is not None and (type(pause_pid) is not int or pause_pid < 1):
            raise RegistrationError("pause_pid is not a process number")
        pod = make_pod(uuid, fds, pause_pid)
        self._server.add(pod)
        log(f"{uuid}: registered")
        return {"ok": True}


def make_pod(uuid: str, fds: list[int], pause_pid: int | None) -> Pod:
    """A pod from what a launcher handed over: document and, maybe, listening socket.

    Args:
        uuid: Canonical.
        fds: The descriptors; the socket is taken out of the list.
        pause_pid: The process that ends with the pod.

    Raises:
        GantryError: Something does not fit.
    """
    if len(fds) not in {1, 2}:
        raise RegistrationError("a registration has a document and at most one socket")
    parsed = document.parse(read_document(fds[0]))
    if parsed.uuid != uuid:
        raise RegistrationError(f"the document is that of pod {parsed.uuid}")
    listener = None
    if len(fds) == 2:
        listener = checked_listener(fds.pop())
    pod = Pod(parsed, listener)
    if pause_pid is not None:
        try:
            pod.pidfd = pidfd.pidfd_open(pause_pid)
        except ProcessLookupError:
            pod.close()
            raise RegistrationError(f"the pod's process {pause_pid} has ended") from None
        except OSError as error:
            log(f"{uuid}: its end will not be noticed: {error.strerror}")
    return pod


def read_document(fd: int) -> bytes:
    """All of the regular file *fd*, from its beginning.

    Raises:
        RegistrationError: Not a regular file, or too large.
    """
    info = os.fstat(fd)
    if not stat.S_ISREG(info.st_mode):
        raise RegistrationError("the document is not a regular file")
    parts: list[bytes] = []
    size = 0
    while size <= document.MAX_SIZE:
        part = os.pread(fd, 1 << 20, size)
        if not part:
            return b"".join(parts)
        parts.append(part)
        size += len(part)
    raise RegistrationError(f"the document is larger than {document.MAX_SIZE} bytes")


def checked_listener(fd: int) -> socket.socket:
    """The listening TCP socket *fd*, which is taken over (closed if it is refused).

    Raises:
        RegistrationError: It is something else.
    """
    try:
        listener = socket.socket(fileno=fd)
    except OSError:
        os.close(fd)
        raise RegistrationError("the second descriptor is not a socket") from None
    if (
        listener.family not in {socket.AF_INET, socket.AF_INET6}
        or listener.type != socket.SOCK_STREAM
        or not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    ):
        listener.close()
        raise RegistrationError("the second descriptor is not a listening TCP socket")
    os.set_inheritable(listener.fileno(), False)
    return listener


def _send(client: socket.socket, answer: dict[str, object]) -> bool:
    data = json.dumps(answer).encode()
    if len(data) > MAX_ANSWER:
        data = b'{"ok":false,"code":"too-long","message":"the answer is too long"}'
    with contextlib.suppress(OSError):
        return client.send(data) == len(data)
    return False
