"""What the service holds for each listening socket and each client, and the limits on it."""

from __future__ import annotations

import socket

from gantry.metadata.http import Chunks, Head
from gantry.metadata.registry import Pod
from gantry.metadata.signing import Job

MAX_CONNECTIONS = 4096
MAX_PER_POD = 128
MAX_IN_HOST_NETWORK = 512
SMALL_BODY = 16 << 10  # what every connection may send
LARGE_BODIES = 64  # larger ones under way at a time ...
LARGE_PER_POD = 8  # ... and of one pod
HEAD_TIMEOUT = 10.0  # seconds from the connection or the first byte of a request to the end of its head
BODY_TIMEOUT = 30.0  # from there to the end of its body
SEND_TIMEOUT = 10.0  # without progress
IDLE_TIMEOUT = 75.0
IDLE_TIMEOUT_CROWDED = 5.0
IDLE_EVICTABLE = 1.0  # idle for less, a client may have its next request on the way
LINGER = 2.0  # how long a client whose request was cut short may go on sending
DRAIN = 2.0  # how long a request under way may take when the service stops

# What a client does at the moment; decides what its deadline means.
FRESH, IDLE, IN_HEAD, IN_BODY, AT_SIGNER, SENDING, LINGERING, CLOSED = range(8)


class Source:
    """A listening socket and what came in on it.

    Attributes:
        listener: The socket.
        pod: Whose it is; None for the one that pods in the host's network share.
        connections: Those that are open.
        large: How many large bodies are under way.
        paused: Not watched, because a limit is reached.
    """

    __slots__ = ("connections", "large", "limit", "listener", "paused", "pod")

    def __init__(self, listener: socket.socket, pod: Pod | None) -> None:
        self.listener = listener
        self.pod = pod
        self.connections: set[Connection] = set()
        self.large = 0
        self.limit = MAX_IN_HOST_NETWORK if pod is None else MAX_PER_POD
        self.paused = False


class Connection:
    """A client.

    Attributes:
        state: What it is expected to do; decides what its deadline means.
        buffer: Received and not looked at.
    """

    __slots__ = (
        "body", "buffer", "chunks", "closing", "deadline", "disarmed", "fd", "head", "head_bytes", "job",
        "large", "missing", "output", "pod", "rest", "sock", "source", "state", "token", "verdict",
    )  # fmt: skip

    def __init__(self, sock: socket.socket, source: Source, deadline: float) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        self.source = source
        self.state = FRESH
        self.deadline = deadline
        self.buffer = b""
        self.head_bytes = b""
        self.head: Head | None = None
        self.pod: Pod | None = None  # whose token the head had
        self.token = b""
        self.rest = b""
        self.body = bytearray()
        self.missing = 0
        self.chunks: Chunks | None = None
        self.large = False
        self.job: Job | None = None  # what it waits for at the signer
        self.verdict = False
        self.output = b""
        self.closing = False
        self.disarmed = False
