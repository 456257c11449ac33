"""The pods that are served, and which of them a request comes from.

A pod with a network of its own is known by the socket that the request came in on, which exists only in that
network; its token has to fit as well. Pods in the host's network share one socket: there the token alone
tells them apart, and only theirs are valid there.

Tokens are compared by their SHA-256, in constant time; no token is kept.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import socket
from collections.abc import Iterator

from gantry.metadata.document import PodDocument
from gantry.metadata.http import Response


class Pod:
    """A pod that is served.

    Attributes:
        document: What is told of it.
        uuid: 16 bytes, as signatures cover them.
        listener: Its own listening socket; None for a pod in the host's network.
        pidfd: A handle on its pause process, or -1. It becomes readable when the pod is over.
        alive: False once it is no longer registered: nothing may be answered for it any more.
        answers: Responses that were made before, by path; for :mod:`gantry.metadata.routes`.
    """

    __slots__ = ("alive", "answers", "document", "listener", "pidfd", "uuid")

    def __init__(self, document: PodDocument, listener: socket.socket | None = None, pidfd: int = -1) -> None:
        self.document = document
        self.uuid = bytes.fromhex(document.uuid.replace("-", ""))
        self.listener = listener
        self.pidfd = pidfd
        self.alive = True
        self.answers: dict[bytes, Response] = {}

    def admits(self, token: bytes) -> bool:
        """Whether *token* is this pod's."""
        return hmac.compare_digest(hashlib.sha256(token).digest(), self.document.token_sha256)

    def is_same(self, other: Pod) -> bool:
        """Whether *other* tells the same of the same pod, with the same socket."""
        if self.document != other.document or (self.listener is None) != (other.listener is None):
            return False
        return (
            self.listener is None
            or other.listener is None
            or os.fstat(self.listener.fileno()).st_ino == os.fstat(other.listener.fileno()).st_ino
        )

    def close(self) -> None:
        """Let go of the descriptors."""
        if self.listener is not None:
            self.listener.close()
            self.listener = None
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1


class Registry:
    """All pods, by UUID."""

    def __init__(self) -> None:
        self._pods: dict[str, Pod] = {}
        # A dictionary of hashes leaks, at most, how much of a hash was right: no way back to a token.
        self._host_pods: dict[bytes, Pod] = {}

    def __len__(self) -> int:
        return len(self._pods)

    def __iter__(self) -> Iterator[Pod]:
        return iter(self._pods.values())

    def find(self, uuid: str) -> Pod | None:
        """The pod *uuid* (canonical), or None."""
        return self._pods.get(uuid)

    def add(self, pod: Pod) -> Pod | None:
        """Serve *pod*. Returns the one of the same UUID that it replaces, already taken out."""
        old = self.remove(pod.document.uuid)
        self._pods[pod.document.uuid] = pod
        if pod.listener is None:
            self._host_pods[pod.document.token_sha256] = pod
        return old

    def remove(self, uuid: str, only: Pod | None = None) -> Pod | None:
        """Serve *uuid* no longer.

        Args:
            uuid: Canonical.
            only: Do it only if the pod registered under this UUID is this very one.

        Returns:
            The pod, or None when there was none.
        """
        pod = self._pods.get(uuid)
        if pod is None or (only is not None and pod is not only):
            return None
        del self._pods[uuid]
        pod.alive = False
        if self._host_pods.get(pod.document.token_sha256) is pod:
            del self._host_pods[pod.document.token_sha256]
        return pod

    def host_pod(self, token: bytes) -> Pod | None:
        """The pod in the host's network that has this token."""
        pod = self._host_pods.get(hashlib.sha256(token).digest())
        return pod if pod is not None and pod.admits(token) else None

    def uuids(self) -> list[str]:
        """Of all pods, in order of registration."""
        return list(self._pods)
