"""The signer: one small process that holds the keys of all pods of a host.

What it protects and how:

- It runs as a user of its own, without capabilities, network or a way to either; nobody but root can read its
  memory or files, and it dumps no core.
- Only root and the metadata service reach its socket (file mode, and SO_PEERCRED on every connection). Only
  root makes and destroys keys.
- To sign, the pod's token is needed, and the signer checks it itself: a metadata service that was taken over
  can sign for a pod only while that pod is talking to it.
- One thread answers; nothing in its loop waits for a disk except reading a pod's key the first time and what
  root asks for (create, delete, flush).
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import hmac
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial

from gantry import audit, systemd
from gantry.config import Paths
from gantry.errors import GantryError, HostError, UsageError, one_line
from gantry.linux import activation, privileges
from gantry.signer import protocol as p
from gantry.signer.counts import Counts
from gantry.signer.keys import Keys, canonical

MAX_CONNECTIONS = 256
FRAME_TIMEOUT = 10.0  # seconds from the first to the last byte of a request, and for a client to read replies
IDLE_TIMEOUT = 120.0  # seconds without a request before a connection of root's is closed
_READ = 1 << 18
_HIGH_WATER = 1 << 20  # unsent replies after which nothing more is read


class Engine:
    """Requests in, replies out; knows nothing of sockets.

    Args:
        keys: The keys.
        counts: Where signatures are counted.
        callers: Users that may sign and verify. Root may do everything.
    """

    def __init__(self, keys: Keys, counts: Counts, callers: frozenset[int]) -> None:
        self.keys = keys
        self.counts = counts
        self.callers = callers | {0}

    def answer(self, uid: int, frame: bytes) -> bytes:
        """The reply to one request.

        Args:
            uid: Who asks.
            frame: The request without its length field.

        Raises:
            ValueError: The request is malformed; the text says how. Nothing was done.
        """
        if len(frame) < 18:
            raise ValueError("request too short")
        version, operation, uuid, body = frame[0], frame[1], frame[2:18], frame[18:]
        if version != p.VERSION:
            raise ValueError(f"version {version} is not spoken here, {p.VERSION} is")
        if operation not in _OPERATIONS:
            raise ValueError(f"unknown operation {operation}")
        if uid not in self.callers or (uid != 0 and operation not in _FOR_SERVICE):
            return p.reply(p.FORBIDDEN, b"user %d may not do this" % uid)
        try:
            if operation == _SIGN:
                return self._sign(uuid, body)
            if operation == p.VERIFY:
                return self._verify(uuid, body)
            return self._manage(operation, uuid, body)
        except (GantryError, OSError) as error:
            _log(f"{canonical(uuid)}: {error}")
            return p.reply(p.FAILED, one_line(str(error)).encode()[:2000])

    def _sign(self, uuid: bytes, body: bytes) -> bytes:
        end = 1 + body[0] if body else 0
        if not 1 < end <= len(body) or len(body) - end > p.MAX_CONTENT:
            raise ValueError("no room for the token, or content too long")
        key = self.keys.find(uuid)
        if key is None:
            return _unknown(uuid)
        if not key.admits(body[1:end]):
            counts = self.counts.refused
            counts[uuid] = counts.get(uuid, 0) + 1
            return p.reply(p.BAD_TOKEN, b"the token is not that of pod " + canonical(uuid).encode())
        counts = self.counts.signed
        counts[uuid] = counts.get(uuid, 0) + 1
        return _SIGNED + key.sign(body[end:])

    def _verify(self, uuid: bytes, body: bytes) -> bytes:
        if not p.SIGNATURE_SIZE <= len(body) <= p.SIGNATURE_SIZE + p.MAX_CONTENT:
            raise ValueError("no room for the signature, or content too long")
        key = self.keys.find(uuid)
        if key is None:
            return _unknown(uuid)
        signature, content = body[: p.SIGNATURE_SIZE], body[p.SIGNATURE_SIZE :]
        return p.reply(p.OK, b"\1" if hmac.compare_digest(key.sign(content), signature) else b"\0")

    def _manage(self, operation: int, uuid: bytes, body: bytes) -> bytes:
        if len(body) != (32 if operation == p.CREATE else 0):
            raise ValueError("body of the wrong size")
        if operation == p.FLUSH:
            self.counts.flush()
            return p.reply(p.OK)
        if operation == p.LIST:
            return p.reply(p.OK, b"".join(self.keys.uuids()))
        if uuid == p.NO_UUID:
            raise ValueError("the all-zero UUID names no pod")
        if operation == p.CREATE:
            return p.reply(p.OK, b"\1" if self.keys.create(uuid, body) else b"\0")
        changed = self.keys.delete(uuid)
        self.counts.forget(uuid)
        return p.reply(p.OK, b"\1" if changed else b"\0")


_OPERATIONS = frozenset({p.CREATE, p.DELETE, p.SIGN, p.VERIFY, p.FLUSH, p.LIST})
_FOR_SERVICE = frozenset({p.SIGN, p.VERIFY})
_SIGN = p.SIGN
_SIGNED = p.REPLY.pack(1 + p.SIGNATURE_SIZE, p.OK)


def _unknown(uuid: bytes) -> bytes:
    return p.reply(p.UNKNOWN_POD, b"no key for pod " + canonical(uuid).encode())


class _Connection:
    __slots__ = ("closing", "input", "output", "since", "sock", "uid")

    def __init__(self, sock: socket.socket, uid: int) -> None:
        self.sock = sock
        self.uid = uid
        self.input = b""
        self.output = b""
        self.since = time.monotonic()  # of the last progress
        self.closing = False  # once the output is gone


class Server:
    """The loop around an :class:`Engine`. Use :meth:`stop` from another thread or a signal handler.

    Args:
        engine: Answers.
        listeners: Listening Unix stream sockets.
    """

    def __init__(self, engine: Engine, listeners: Sequence[socket.socket]) -> None:
        self._engine = engine
        self._epoll = select.epoll()
        self._listeners = {listener.fileno(): listener for listener in listeners}
        self._connections: dict[int, _Connection] = {}
        self._accepting = False
        self._stopped = False
        self._wake_out, self._wake_in = socket.socketpair()
        for sock in (*listeners, self._wake_out, self._wake_in):
            sock.setblocking(False)
        self._epoll.register(self._wake_out.fileno(), select.EPOLLIN)

    @property
    def wake_fd(self) -> int:
        """A descriptor for :func:`signal.set_wakeup_fd`: a byte written to it ends the wait for events."""
        return self._wake_in.fileno()

    def stop(self, *_: object) -> None:
        """End :meth:`serve` after the round that it is in."""
        self._stopped = True
        with contextlib.suppress(BlockingIOError):
            self._wake_in.send(b"\0")

    def serve(self) -> None:
        """Answer until :meth:`stop`."""
        self._accept_more(True)
        sweep = time.monotonic() + 1.0
        while not self._stopped:
            due = self._engine.counts.due()
            timeout = 5.0 if self._connections else -1.0
            if due is not None:
                timeout = due if timeout < 0 else min(due, timeout)
            for fd, event in self._epoll.poll(timeout):
                if fd in self._listeners:
                    self._accept(self._listeners[fd])
                elif fd in self._connections:
                    self._serve(self._connections[fd], event)
                else:
                    self._wake_out.recv(4096)
            now = time.monotonic()
            if self._engine.counts.due() == 0.0:
                self._engine.counts.hand_over()
            if now >= sweep:
                sweep = now + 1.0
                self._sweep(now)

    def close(self) -> None:
        """Close every socket."""
        for connection in list(self._connections.values()):
            self._drop(connection)
        self._epoll.close()
        for sock in (*self._listeners.values(), self._wake_out, self._wake_in):
            sock.close()

    def _accept_more(self, wanted: bool) -> None:
        if wanted != self._accepting:
            self._accepting = wanted
            for fd in self._listeners:
                if wanted:
                    self._epoll.register(fd, select.EPOLLIN)
                else:
                    self._epoll.unregister(fd)

    def _accept(self, listener: socket.socket) -> None:
        try:
            sock, _ = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:  # descriptors exhausted
            _log(f"accept: {error.strerror}")
            self._accept_more(False)
            return
        uid = activation.peer_uid(sock)
        sock.setblocking(False)
        if uid not in self._engine.callers:
            _log(f"refused a connection from user {uid}")
            with contextlib.suppress(OSError):
                sock.send(p.reply(p.FORBIDDEN, b"user %d may not talk to the signer" % uid))
            sock.close()
            return
        self._connections[sock.fileno()] = _Connection(sock, uid)
        self._epoll.register(sock.fileno(), select.EPOLLIN)
        if len(self._connections) >= MAX_CONNECTIONS:
            self._accept_more(False)

    def _drop(self, connection: _Connection) -> None:
        fd = connection.sock.fileno()
        self._epoll.unregister(fd)
        del self._connections[fd]
        connection.sock.close()
        if not self._stopped:
            self._accept_more(True)

    def _serve(self, connection: _Connection, event: int) -> None:
        try:
            if event & select.EPOLLOUT:
                self._send(connection, b"")
            elif event & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR):
                data = connection.sock.recv(_READ)
                if not data:
                    self._drop(connection)
                    return
                self._take(connection, data)
        except BlockingIOError:
            return
        except OSError:
            self._drop(connection)

    def _take(self, connection: _Connection, data: bytes) -> None:
        data = connection.input + data if connection.input else data
        replies: list[bytes] = []
        answer, uid, at, end = self._engine.answer, connection.uid, 0, len(data)
        while end - at >= 4:
            (length,) = p.LENGTH.unpack_from(data, at)
            if length > p.MAX_REQUEST:
                replies.append(p.reply(p.MALFORMED, b"request too long"))
                connection.closing = True
                break
            if end - at - 4 < length:
                break
            try:
                replies.append(answer(uid, data[at + 4 : at + 4 + length]))
            except ValueError as error:
                replies.append(p.reply(p.MALFORMED, str(error).encode()))
                connection.closing = True
                break
            at += 4 + length
        if at or not connection.input:
            connection.since = time.monotonic()
        connection.input = data[at:]
        self._send(connection, b"".join(replies))

    def _send(self, connection: _Connection, data: bytes) -> None:
        waiting = bool(connection.output)
        data = connection.output + data if waiting else data
        if data:
            try:
                sent = connection.sock.send(data)
            except BlockingIOError:
                sent = 0
            if sent:
                connection.since = time.monotonic()
            data = data[sent:]
            connection.output = data
        if connection.closing and not data:
            self._drop(connection)
        elif bool(data) != waiting:
            # Who does not read replies is not read from: the output is bounded by what one read can ask for.
            self._epoll.modify(connection.sock.fileno(), select.EPOLLOUT if data else select.EPOLLIN)

    def _sweep(self, now: float) -> None:
        for connection in list(self._connections.values()):
            busy = connection.input or connection.output
            limit = FRAME_TIMEOUT if busy else IDLE_TIMEOUT if connection.uid == 0 else None
            if limit is not None and now - connection.since > limit:
                self._drop(connection)


def main(argv: Sequence[str], paths: Paths | None = None) -> int:
    """The command ``gantry signer-service``. Returns the exit status after SIGTERM or SIGINT.

    Raises:
        GantryError: It cannot start.
    """
    paths = paths or Paths()
    parser = argparse.ArgumentParser(prog="gantry signer-service", description="Hold the keys of all pods.")
    parser.add_argument("--dir", default=paths.data, help="data directory (default: %(default)s)")
    parser.add_argument(
        "--run-dir", default=paths.run, help="where the socket is made (default: %(default)s)"
    )
    parser.add_argument("--user", default="gantry-signer", help="the user to become (default: %(default)s)")
    parser.add_argument(
        "--metadata-user",
        default="gantry-metadata",
        help="the user whose processes may ask for signatures (default: %(default)s)",
    )
    options = parser.parse_args(argv)
    metadata = privileges.find_account(options.metadata_user)
    directory = os.path.join(options.dir, "signer")
    listeners = activation.inherited_sockets()
    if not listeners:
        listeners = [
            activation.listen_unix(
                os.path.join(options.run_dir, "signer.sock"),
                socket.SOCK_STREAM,
                mode=0o660,
                gid=metadata.gid if os.geteuid() == 0 else None,
            )
        ]
    _become(options.user, directory)
    keys = Keys(directory)

    return run(keys, partial(audit.record, directory), frozenset({metadata.uid}), listeners)


def run(
    keys: Keys,
    record: Callable[..., None],
    callers: frozenset[int],
    listeners: Sequence[socket.socket],
) -> int:
    """Serve until SIGTERM or SIGINT; then write what was counted. Returns 0."""
    counts = Counts(record)
    server = Server(Engine(keys, counts, callers), listeners)
    signal.set_wakeup_fd(server.wake_fd, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, server.stop)
    gc.collect()
    gc.freeze()
    _log("ready")
    systemd.notify("READY=1")
    try:
        server.serve()
    finally:
        server.close()
        counts.stop()
        keys.close()
    return 0


def _become(user: str, directory: str) -> None:
    """Make *directory*, become *user* if this is root, and close the doors."""
    if os.geteuid() == 0:
        account = privileges.find_account(user)
        if account.uid == 0:
            raise UsageError("the signer does not run as root", hint="give --user another user")
        try:
            os.makedirs(os.path.dirname(directory), mode=0o751, exist_ok=True)
            with contextlib.suppress(FileExistsError):
                os.mkdir(directory, 0o700)
                os.chown(directory, account.uid, account.gid)
        except OSError as error:
            raise HostError(f"{directory}: {error.strerror}") from None
        privileges.drop(account)
    if not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
        raise HostError(
            f"user {os.geteuid()} cannot use {directory}",
            hint="it must be this user's, and every directory above it must let this user pass (mode o+x)",
        )
    privileges.forbid_inspection()
    os.umask(0o077)


def _log(line: str) -> None:
    print(f"signer: {one_line(line)}", file=sys.stderr, flush=True)
