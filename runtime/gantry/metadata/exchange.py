"""Requests out of bytes, answers into bytes: what happens on one connection.

A request is answered before the next one of its connection is looked at.

A connection remembers its last head: identical bytes need neither parsing nor another check of the same
token, as long as the pod is still the registered one.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Callable

from gantry.metadata import connections as limits
from gantry.metadata import http, routes
from gantry.metadata.connections import (
    AT_SIGNER,
    CLOSED,
    FRESH,
    IDLE,
    IN_BODY,
    IN_HEAD,
    LINGERING,
    SENDING,
    Connection,
)
from gantry.metadata.http import Chunks, Head, HttpProblem, Response
from gantry.metadata.log import log
from gantry.metadata.registry import Registry
from gantry.metadata.signing import SignerLink
from gantry.signer import protocol

_READ = 1 << 14
_EXPECTING = frozenset({FRESH, IDLE, IN_HEAD})


class Exchange:
    """The conversations with all clients.

    Args:
        registry: The pods.
        link: The way to the signer.
        epoll: Where the connections are watched.
        close: Closes a connection.

    Attributes:
        now: The time of this round of the loop, monotonic.
        date: The `Date` field of this round.
        ending: Set when the service stops: every answer is then the last of its connection.
    """

    def __init__(
        self, registry: Registry, link: SignerLink, epoll: select.epoll, close: Callable[[Connection], None]
    ) -> None:
        self.now = 0.0
        self.date = b""
        self.ending = False
        self._registry = registry
        self._link = link
        self._epoll = epoll
        self._close = close
        self._large = 0

    def handle(self, connection: Connection, event: int) -> None:
        """Something happened on a connection."""
        try:
            if event & select.EPOLLOUT:
                self._send(connection, b"")
            elif connection.state == AT_SIGNER:
                # It sends ahead or has gone: looked at when it has its answer.
                if connection.disarmed:
                    self._close(connection)  # only a broken connection is reported then
                else:
                    connection.disarmed = True
                    self._epoll.modify(connection.fd, 0)
            else:
                data = connection.sock.recv(_READ)
                if not data:
                    self._close(connection)
                elif connection.state != LINGERING:
                    self._take(connection, data)
        except BlockingIOError:
            pass
        except OSError:
            self._close(connection)

    def _take(self, connection: Connection, data: bytes) -> None:
        try:
            if connection.state == IN_BODY:
                more = self._take_body(connection, data)
                if more is None:
                    return
                data = more
            elif connection.buffer:
                data = connection.buffer + data
                connection.buffer = b""
            self._take_requests(connection, data)
        except HttpProblem as problem:
            self.refuse(connection, problem.status, problem.text)

    def _take_requests(self, connection: Connection, data: bytes) -> None:
        while data and connection.state in _EXPECTING:
            if connection.state != IN_HEAD and data.startswith(b"\r"):
                # Some clients end a body with a line end that does not belong to it.
                if data.startswith(b"\r\n"):
                    data = data[2:]
                    continue
                if data == b"\r":
                    break
            end = http.find_head(data)
            if end < 0:
                if connection.state != IN_HEAD:
                    connection.state = IN_HEAD
                    connection.deadline = self.now + limits.HEAD_TIMEOUT
                break
            head = self._take_head(connection, data[:end])
            length = head.length
            if length == 0:
                data = data[end:]
                self._dispatch(connection, head, b"")
            elif 0 < length <= limits.SMALL_BODY and len(data) - end >= length:
                body, data = data[end : end + length], data[end + length :]
                self._dispatch(connection, head, body)
            else:
                self._start_body(connection, head, silent=len(data) == end)
                more = self._take_body(connection, data[end:])
                if more is None:
                    return
                data = more
        connection.buffer = data

    def _take_head(self, connection: Connection, raw: bytes) -> Head:
        pod = connection.pod
        if connection.head is not None and raw == connection.head_bytes and pod is not None and pod.alive:
            return connection.head
        connection.head_bytes = b""
        head = http.parse_head(raw)
        token, rest = routes.split_token(head.path)
        pod = connection.source.pod
        if pod is None:
            pod = self._registry.host_pod(token)
        elif not (pod.alive and pod.admits(token)):
            pod = None
        connection.head, connection.head_bytes = head, raw
        connection.pod, connection.token, connection.rest = pod, token, rest
        if pod is None and head.length:
            # Nothing is read from somebody who has no pod.
            raise HttpProblem(401, "pod not found")
        return head

    def _start_body(self, connection: Connection, head: Head, *, silent: bool) -> None:
        if head.length < 0 or head.length > limits.SMALL_BODY:
            if self._large >= limits.LARGE_BODIES or connection.source.large >= limits.LARGE_PER_POD:
                raise HttpProblem(503, "too many large requests at a time; try again")
            connection.large = True
            connection.source.large += 1
            self._large += 1
        connection.state = IN_BODY
        connection.deadline = self.now + limits.BODY_TIMEOUT
        connection.body = bytearray()
        connection.missing = head.length
        connection.chunks = Chunks() if head.length < 0 else None
        if head.expects_continue and silent:
            connection.sock.send(http.CONTINUE)

    def _take_body(self, connection: Connection, data: bytes) -> bytes | None:
        """Returns what follows the body, once it was complete and dispatched; else None."""
        if connection.chunks is not None:
            connection.chunks.feed(data)
            rest = connection.chunks.rest
            if rest is None:
                return None
            body = connection.chunks.body()
        else:
            part = data[: connection.missing]
            connection.body += part
            connection.missing -= len(part)
            if connection.missing:
                return None
            body, rest = bytes(connection.body), data[len(part) :]
        connection.body = bytearray()
        connection.chunks = None
        connection.state = IDLE
        assert connection.head is not None
        self._dispatch(connection, connection.head, body)
        if connection.state != AT_SIGNER:  # where the body is still held
            self.release_body(connection)
        return rest

    def release_body(self, connection: Connection) -> None:
        """The body has been used or given up: let go of it."""
        if connection.large:
            connection.large = False
            connection.source.large -= 1
            self._large -= 1
        connection.body = bytearray()
        connection.chunks = None

    def _dispatch(self, connection: Connection, head: Head, body: bytes) -> None:
        pod = connection.pod
        if pod is None:
            self._respond(connection, routes.POD_NOT_FOUND)
            return
        answer = routes.answer(pod, connection.token, connection.rest, head, body)
        if isinstance(answer, routes.Ask):
            connection.state = AT_SIGNER
            connection.verdict = answer.verdict
            connection.job = self._link.submit(answer.frame, connection, self.now)
        else:
            self._respond(connection, answer)

    def deliver(self, connection: Connection, status: int, body: bytes) -> None:
        """The signer has answered (or FAILED: it has not), and the connection is still there."""
        if status != protocol.OK:
            self._deliver_failure(connection, status, body)
        elif connection.verdict:
            self._finish(connection, routes.RIGHT_SIGNATURE if body == b"\1" else routes.WRONG_SIGNATURE)
        elif len(body) == protocol.SIGNATURE_SIZE:
            self._finish(connection, routes.signed(body))
        else:
            self._deliver_failure(connection, protocol.MALFORMED, b"not a signature")

    def _deliver_failure(self, connection: Connection, status: int, body: bytes) -> None:
        if status == protocol.FAILED:
            self._finish(connection, routes.SIGNER_UNAVAILABLE)
        elif status == protocol.UNKNOWN_POD and connection.verdict:
            self._finish(connection, routes.WRONG_SIGNATURE)
        else:
            log(f"the signer refused: {body.decode(errors='backslashreplace')}")
            self._finish(connection, routes.SIGNER_REFUSED)

    def _finish(self, connection: Connection, response: Response) -> None:
        """The signer has answered: pass it on, then look at what the client has sent meanwhile."""
        connection.job = None
        connection.state = IDLE
        if connection.large:
            self.release_body(connection)
        try:
            self._respond(connection, response)
            if connection.state == CLOSED:
                return
            if connection.disarmed and connection.state == IDLE:
                connection.disarmed = False
                self._epoll.modify(connection.fd, select.EPOLLIN)
            if connection.buffer and connection.state == IDLE:
                data, connection.buffer = connection.buffer, b""
                self._take_requests(connection, data)
        except HttpProblem as problem:
            self.refuse(connection, problem.status, problem.text)
        except OSError:
            self._close(connection)

    def _respond(self, connection: Connection, response: Response) -> None:
        head = connection.head
        start = response.start
        if head is None or not head.keep_alive or self.ending:
            connection.closing = True
            start += b"Connection: close\r\n"
        body = b"" if head is not None and head.method == b"HEAD" else response.body
        self._send(connection, b"%b%b\r\n%b" % (start, self.date, body))

    def refuse(self, connection: Connection, status: int, text: str) -> None:
        """Answer a request that cannot be read to its end; the connection is of no use after that."""
        self.release_body(connection)
        connection.head = None
        connection.buffer = b""
        try:
            self._respond(connection, Response(status, text.encode()))
        except OSError:
            self._close(connection)

    def _send(self, connection: Connection, data: bytes) -> None:
        waiting = connection.state == SENDING
        if waiting:
            data = connection.output + data
        try:
            sent = connection.sock.send(data)
        except BlockingIOError:
            sent = 0
        if sent < len(data):
            connection.output = data[sent:]
            if sent or not waiting:
                connection.deadline = self.now + limits.SEND_TIMEOUT
            if not waiting:
                connection.state = SENDING
                self._epoll.modify(connection.fd, select.EPOLLOUT)
            return
        connection.output = b""
        if connection.closing:
            self._linger(connection)
            return
        connection.state = IDLE
        connection.deadline = self.now + limits.IDLE_TIMEOUT
        if waiting:
            connection.disarmed = False
            self._epoll.modify(connection.fd, select.EPOLLIN)
            if connection.buffer:
                data, connection.buffer = connection.buffer, b""
                self._take(connection, data)

    def _linger(self, connection: Connection) -> None:
        # Closed at once, what the client is still sending would reset the connection, and with it the answer.
        connection.sock.shutdown(socket.SHUT_WR)
        connection.state = LINGERING
        connection.deadline = self.now + limits.LINGER
        connection.disarmed = False
        self._epoll.modify(connection.fd, select.EPOLLIN)
