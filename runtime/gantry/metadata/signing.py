"""The way to the signer: one connection for all pods, many requests on the way at a time.

What one round of the server's loop collects is sent in one piece, and the replies of many come back in one:
with 16 busy clients that saves most of the system calls. Signing twice does no harm, so a request whose reply
got lost with the connection (the signer was restarted) is simply sent again on the next one.
"""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from gantry.signer import protocol

if TYPE_CHECKING:
    from gantry.metadata.connections import Connection

DEADLINE = 10.0  # seconds until a request is given up; a signer that is restarted is back sooner
_RETRY = 0.05  # seconds between attempts to connect
_READ = 1 << 17
_MAX_REPLY = 4096  # of those that come here
# Requests that are sent in one go. One by one costs the most system calls, all at once lets the signer idle
# while this process works and the other way round: with two processors six is a quarter faster than all.
_BATCH = 6


class Job:
    """One request to the signer.

    Attributes:
        frame: As it is sent.
        client: Who waits for the reply; None when nobody does any more.
        deadline: On the monotonic clock.
    """

    __slots__ = ("client", "deadline", "frame")

    def __init__(self, frame: bytes, client: Connection, deadline: float) -> None:
        self.frame = frame
        self.client: Connection | None = client
        self.deadline = deadline


class SignerLink:
    """A pipeline to the signer, driven by the server's loop.

    Args:
        path: The signer's socket.
        epoll: Where the connection is watched.
        deliver: Called once for each request whose client still waits, with the client, the reply's status
            and its body; with (FAILED, b"") when it is given up.
    """

    def __init__(
        self, path: str, epoll: select.epoll, deliver: Callable[[Connection, int, bytes], None]
    ) -> None:
        self._deliver = deliver
        self._path = path
        self._epoll = epoll
        self._sock: socket.socket | None = None
        self._jobs: deque[Job] = deque()
        self._unsent: list[bytes] = []  # frames of the last jobs, not yet given to the connection
        self._output = b""
        self._input = b""
        self._next_try = 0.0
        self.fd = -1

    def __len__(self) -> int:
        return len(self._jobs)

    def submit(self, frame: bytes, client: Connection, now: float) -> Job:
        """Put a request in line; it leaves with the next :meth:`flush` at the latest."""
        job = Job(frame, client, now + DEADLINE)
        self._jobs.append(job)
        self._unsent.append(frame)
        if len(self._unsent) >= _BATCH:
            self.flush(now)
        return job

    def flush(self, now: float) -> None:
        """Send what is in line."""
        if self._sock is None:
            if self._jobs and now >= self._next_try:
                self._connect(now)
            return
        if self._unsent and not self._output:
            self._output = self._unsent[0] if len(self._unsent) == 1 else b"".join(self._unsent)
            self._unsent.clear()
            self._send(watched=False)

    def handle(self, event: int) -> None:
        """Something happened on the connection."""
        if event & select.EPOLLOUT:
            self._send(watched=True)
        if event & ~select.EPOLLOUT and self._sock is not None:
            self._receive(self._sock)

    def wait(self, now: float) -> float | None:
        """Seconds until :meth:`flush` or :meth:`expire` has something to do."""
        if not self._jobs:
            return None
        until = self._jobs[0].deadline if self._sock is not None else self._next_try
        return max(0.0, until - now)

    def expire(self, now: float) -> None:
        """Give up the requests that have waited too long, and the connection if the signer hangs."""
        if not self._jobs or self._jobs[0].deadline > now:
            return
        expired: list[Job] = []
        while self._jobs and self._jobs[0].deadline <= now:
            expired.append(self._jobs.popleft())
        self._disconnect(now)
        for job in expired:
            if job.client is not None:
                self._deliver(job.client, protocol.FAILED, b"")

    def close(self) -> None:
        """End the connection."""
        self._jobs.clear()
        self._disconnect(0.0)

    def _connect(self, now: float) -> None:
        self._next_try = now + _RETRY
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.setblocking(False)
        try:
            sock.connect(self._path)
        except OSError:  # not there, not yet, or its queue is full: tried again until the deadline
            sock.close()
            return
        self._sock, self.fd = sock, sock.fileno()
        self._epoll.register(self.fd, select.EPOLLIN)
        self._jobs = deque(job for job in self._jobs if job.client is not None)
        self._output = b"".join(job.frame for job in self._jobs)
        self._unsent.clear()
        self._send(watched=False)

    def _disconnect(self, now: float) -> None:
        if self._sock is not None:
            with contextlib.suppress(OSError):
                self._epoll.unregister(self.fd)
            self._sock.close()
        self._sock, self.fd = None, -1
        self._output = self._input = b""
        self._unsent = [job.frame for job in self._jobs]
        self._next_try = now

    def _send(self, *, watched: bool) -> None:
        assert self._sock is not None
        try:
            sent = self._sock.send(self._output)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._disconnect(time.monotonic())
            return
        self._output = self._output[sent:]
        if bool(self._output) != watched:
            self._epoll.modify(self.fd, select.EPOLLIN | select.EPOLLOUT if self._output else select.EPOLLIN)

    def _receive(self, sock: socket.socket) -> None:
        try:
            data = sock.recv(_READ)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._disconnect(time.monotonic() + _RETRY)
            return
        data = self._input + data if self._input else data
        at, end = 0, len(data)
        while end - at >= 5:
            length, status = protocol.REPLY.unpack_from(data, at)
            if not 1 <= length <= _MAX_REPLY or not self._jobs:
                self._disconnect(time.monotonic() + _RETRY)  # whatever this is, it is no signer
                return
            if end - at - 4 < length:
                break
            job = self._jobs.popleft()
            if job.client is not None:
                self._deliver(job.client, status, data[at + 5 : at + 4 + length])
            at += 4 + length
        self._input = data[at:] if self._sock is sock else b""  # a new connection begins anew
