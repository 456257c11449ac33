"""The loop of the metadata service: sockets, connections and their limits.

One thread, one epoll. Everything that a pod can make the service hold is bounded per pod, so that a hostile
one harms nobody but itself:

- connections: beyond its number the longest idle one is closed; if none is idle, new ones wait in the
  backlog;
- time: to send a request, to take an answer, to be idle;
- memory: a few large bodies at a time, small ones otherwise.
"""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections.abc import Callable

from gantry.linux import pidfd
from gantry.metadata import connections as limits
from gantry.metadata import http
from gantry.metadata.connections import (
    AT_SIGNER,
    CLOSED,
    FRESH,
    IDLE,
    IN_BODY,
    IN_HEAD,
    LINGERING,
    Connection,
    Source,
)
from gantry.metadata.exchange import Exchange
from gantry.metadata.log import log
from gantry.metadata.registry import Pod, Registry
from gantry.metadata.signing import SignerLink

_ACCEPTS = 32  # per round and socket


class Server:
    """Serves the pods of a registry.

    Args:
        registry: The pods; changed through :meth:`add` and :meth:`remove` only.
        signer_path: The signer's socket.
    """

    def __init__(self, registry: Registry, signer_path: str) -> None:
        self.registry = registry
        self.epoll = select.epoll()
        self._link = SignerLink(signer_path, self.epoll, self._deliver)
        self._connections: dict[int, Connection] = {}
        self._sources: dict[int, Source] = {}
        self._others: dict[int, Callable[[int], None]] = {}
        self._paused: set[Source] = set()
        self._exchange = Exchange(registry, self._link, self.epoll, self._close)
        self._clock = http.Clock()
        self._exchange.now = time.monotonic()
        self._stopping = False
        self.on_sweep: set[Callable[[float], None]] = set()  # called every second while there are any
        self._wake_out, self._wake_in = socket.socketpair()
        self._wake_out.setblocking(False)
        self._wake_in.setblocking(False)
        self.watch(self._wake_out.fileno(), self._woken)

    # --- What is served
    # ----------------------------------------------------------------------------------------

    @property
    def now(self) -> float:
        """The time of this round of the loop, monotonic."""
        return self._exchange.now

    @property
    def wake_fd(self) -> int:
        """A descriptor for :func:`signal.set_wakeup_fd`: a byte written to it ends the wait for events."""
        return self._wake_in.fileno()

    def _woken(self, _event: int) -> None:
        self._wake_out.recv(4096)

    def watch(self, fd: int, handler: Callable[[int], None]) -> None:
        """Call *handler* with the event when *fd* becomes readable or fails."""
        self._others[fd] = handler
        self.epoll.register(fd, select.EPOLLIN)

    def unwatch(self, fd: int) -> None:
        """The opposite of :meth:`watch`; to be called before *fd* is closed."""
        if self._others.pop(fd, None) is not None:
            self.epoll.unregister(fd)

    def listen(self, listener: socket.socket, pod: Pod | None = None) -> None:
        """Take connections from *listener*: those of *pod*, or of all pods in the host's network."""
        listener.setblocking(False)
        self._sources[listener.fileno()] = Source(listener, pod)
        self.epoll.register(listener.fileno(), select.EPOLLIN)

    def add(self, pod: Pod) -> None:
        """Serve *pod*, instead of one that was registered under its UUID before.

        A pod that is found at the start may also have a registration waiting: the same thing twice changes
        nothing, or requests under way would be lost.
        """
        known = self.registry.find(pod.document.uuid)
        if known is not None and known.is_same(pod):
            if known.pidfd < 0 <= pod.pidfd:
                known.pidfd, pod.pidfd = pod.pidfd, -1
                self.watch(known.pidfd, lambda _: self._pod_ended(known))
            pod.close()
            return
        old = self.registry.add(pod)
        if old is not None:
            self._retire(old)
        if pod.listener is not None:
            self.listen(pod.listener, pod)
        if pod.pidfd >= 0:
            self.watch(pod.pidfd, lambda _: self._pod_ended(pod))

    def remove(self, uuid: str) -> bool:
        """Serve the pod *uuid* no longer: its socket and connections are closed.

        Returns:
            Whether it was known.
        """
        pod = self.registry.remove(uuid)
        if pod is not None:
            self._retire(pod)
        return pod is not None

    def _pod_ended(self, pod: Pod) -> None:
        if pod.pidfd < 0 or not pidfd.has_ended(pod.pidfd):
            return  # an event of an earlier descriptor with the same number
        if self.registry.remove(pod.document.uuid, only=pod):
            log(f"{pod.document.uuid}: the pod has ended")
        self._retire(pod)

    def _retire(self, pod: Pod) -> None:
        if pod.pidfd >= 0:
            self.unwatch(pod.pidfd)
        if pod.listener is not None:
            source = self._sources.pop(pod.listener.fileno())
            # Taken out by hand: the socket lives on in the pod, and with it a forgotten entry in the epoll.
            if not source.paused:
                self.epoll.unregister(pod.listener.fileno())
            self._paused.discard(source)
            doomed = list(source.connections)
        else:
            doomed = [c for c in self._connections.values() if c.pod is pod]
        pod.close()
        for connection in doomed:
            self._close(connection)

    # --- The loop
    # ----------------------------------------------------------------------------------------------

    def stop(self, *_: object) -> None:
        """End :meth:`serve` soon: requests under way are answered, connections in backlogs stay there."""
        self._stopping = True
        with contextlib.suppress(BlockingIOError):
            self._wake_in.send(b"\0")

    def serve(self) -> None:
        """Answer until :meth:`stop`."""
        sweep = self._exchange.now + 1.0
        while not self._stopping:
            self._round(self._timeout())
            if self._exchange.now >= sweep:
                sweep = self._exchange.now + 1.0
                self._sweep()
        self._drain()

    def _timeout(self) -> float:
        wait = self._link.wait(self._exchange.now)
        if self._connections or self.on_sweep or self._paused:
            return 1.0 if wait is None else min(1.0, wait)
        return -1.0 if wait is None else wait

    def _round(self, timeout: float) -> None:
        events = self.epoll.poll(timeout)
        self._exchange.now = time.monotonic()
        self._exchange.date = self._clock.line()
        connections, handle = self._connections, self._exchange.handle
        for fd, event in events:
            connection = connections.get(fd)
            if connection is not None:
                handle(connection, event)
            elif fd == self._link.fd:
                self._link.handle(event)
            elif fd in self._sources:
                self._accept(self._sources[fd])
            elif fd in self._others:
                self._others[fd](event)
        link = self._link
        if link:
            link.expire(self._exchange.now)
            link.flush(self._exchange.now)

    def _drain(self) -> None:
        self._exchange.ending = True
        self._exchange.now = time.monotonic()
        end = self._exchange.now + limits.DRAIN
        for source in self._sources.values():
            if not source.paused:
                self.epoll.unregister(source.listener.fileno())
                source.paused = True
        self._paused.clear()
        self._round(0.0)  # what had already arrived
        while self._exchange.now < end:
            for connection in list(self._connections.values()):
                if connection.state in {FRESH, IDLE, LINGERING}:
                    self._close(connection)
            if not self._connections:
                break
            self._round(0.05)

    def close(self) -> None:
        """Close everything. What waits in the backlog of a socket that a pod holds too stays there."""
        self._stopping = True
        for connection in list(self._connections.values()):
            self._close(connection)
        for pod in list(self.registry):
            self.remove(pod.document.uuid)
        for source in self._sources.values():
            source.listener.close()
        self._link.close()
        self.epoll.close()
        self._wake_in.close()
        self._wake_out.close()

    def _sweep(self) -> None:
        now = self._exchange.now
        crowded = len(self._connections) > limits.MAX_CONNECTIONS * 3 // 4
        for connection in list(self._connections.values()):
            if now < connection.deadline and not (
                crowded
                and connection.state == IDLE
                and now > connection.deadline - limits.IDLE_TIMEOUT + limits.IDLE_TIMEOUT_CROWDED
            ):
                continue
            if connection.state in {IN_HEAD, IN_BODY}:
                self._exchange.refuse(connection, 408, "the request took too long")
            elif connection.state != AT_SIGNER:
                self._close(connection)
        for source in list(self._paused):
            self._resume(source)
        for action in list(self.on_sweep):
            action(now)

    # --- Connections
    # -------------------------------------------------------------------------------------------

    def _accept(self, source: Source) -> None:
        for _ in range(_ACCEPTS):
            if len(source.connections) >= source.limit or len(self._connections) >= limits.MAX_CONNECTIONS:
                latest = self._exchange.now + limits.IDLE_TIMEOUT - limits.IDLE_EVICTABLE
                idle = [c for c in source.connections if c.state == IDLE and c.deadline <= latest]
                if not idle:
                    self._pause(source)
                    return
                self._close(min(idle, key=lambda c: c.deadline))
            try:
                sock, _address = source.listener.accept()
            except (BlockingIOError, ConnectionError):
                return
            except OSError as error:
                log(f"accept: {error.strerror}")
                self._pause(source)
                return
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = Connection(sock, source, self._exchange.now + limits.HEAD_TIMEOUT)
            self._connections[connection.fd] = connection
            source.connections.add(connection)
            self.epoll.register(connection.fd, select.EPOLLIN)

    def _pause(self, source: Source) -> None:
        source.paused = True
        self._paused.add(source)
        self.epoll.unregister(source.listener.fileno())

    def _resume(self, source: Source) -> None:
        self._paused.discard(source)
        source.paused = False
        self.epoll.register(source.listener.fileno(), select.EPOLLIN)

    def _deliver(self, connection: Connection, status: int, body: bytes) -> None:
        self._exchange.deliver(connection, status, body)

    def _close(self, connection: Connection) -> None:
        if self._connections.pop(connection.fd, None) is None:
            return
        self._exchange.release_body(connection)
        connection.state = CLOSED
        if connection.job is not None:
            connection.job.client = None
            connection.job = None
        self.epoll.unregister(connection.fd)
        connection.sock.close()
        source = connection.source
        source.connections.discard(connection)
        if source.paused and source in self._paused and not self._stopping:
            self._resume(source)
