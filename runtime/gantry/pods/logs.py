"""Read what apps have written, while a pod runs and after it has ended; see :mod:`gantry.pods.output`."""

from __future__ import annotations

import contextlib
import heapq
import os
import time
from typing import TYPE_CHECKING, NamedTuple

from gantry.errors import NotFoundError
from gantry.pods import info, state

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gantry.config import Paths
    from gantry.pods.info import PodInfo

_POLL = 0.1  # seconds between two looks
_PIECE = 1 << 20


class Line(NamedTuple):
    """A line of an app.

    Attributes:
        at: When it was read, in nanoseconds since 1970.
        app: The app.
        text: Without its end.
    """

    at: int
    app: str
    text: bytes


class Kept(NamedTuple):
    """Who has what a pod's apps wrote.

    Attributes:
        pod: The pod.
        apps: The apps that are asked for.
        where: ``files``; ``journal``: systemd's; ``None``: nobody, it went to a terminal or the pod has not
            run yet.
    """

    pod: PodInfo
    apps: list[str]
    where: str | None


def find(paths: Paths, reference: str, app: str | None) -> Kept:
    """Who has the output of a pod, or of one of its apps.

    Raises:
        NotFoundError: There is no such pod, or no such app in it.
    """
    pod = info.get(paths, reference)
    names = [each.name for each in pod.apps]
    if app is not None and app not in names:
        raise NotFoundError(f'pod "{pod.uuid}" has no app "{app}"', hint=f"it has {', '.join(names)}")
    where: str | None = None
    if os.path.isdir(f"{pod.path}/logs"):
        where = "files"
    else:
        launched = state.try_json(f"{pod.path}/launch.json") or {}
        told = launched.get("output")
        # A pod that was made ready again has no record of its last run; only systemd's are.
        where = told if told in {"files", "journal"} else "journal" if pod.restartable else None
    return Kept(pod, names if app is None else [app], where)


def lines(kept: Kept, *, since: int = 0) -> list[Line]:
    """All lines that are kept, by the time at which they were read.

    Args:
        kept: Of which pod and apps.
        since: Only those not before; nanoseconds since 1970.
    """
    readers = [_Reader(kept.pod.path, app) for app in kept.apps]
    try:
        found = heapq.merge(*(list(reader.new()) for reader in readers), key=lambda line: line.at)
        return [line for line in found if line.at >= since]
    finally:
        for reader in readers:
            reader.close()


def follow(paths: Paths, kept: Kept, *, since: int = 0) -> Iterator[list[Line]]:
    """Lines as they come, until the pod has ended; those that are kept already come first.

    Args:
        paths: Where pods are.
        kept: Of which pod and apps.
        since: As for :func:`lines`.
    """
    readers = [_Reader(kept.pod.path, app) for app in kept.apps]
    try:
        while True:
            pod = info.load(paths, kept.pod.uuid)  # before reading: what it wrote last is there by then
            over = pod is None or pod.state != "running"
            if pod is not None:
                for reader in readers:
                    reader.path = pod.path
            found = heapq.merge(*(list(reader.new()) for reader in readers), key=lambda line: line.at)
            yield [line for line in found if line.at >= since]
            if over:
                return
            time.sleep(_POLL)
    finally:
        for reader in readers:
            reader.close()


class _Reader:
    """One app's log: its two files, read once from front to end and then as it grows."""

    def __init__(self, path: str, app: str) -> None:
        self.path = path
        self._app = app
        self._fd = -1
        self._rest = b""
        self._piece = b""
        self._first = True

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def new(self) -> Iterator[Line]:
        """What has come since the last call."""
        if self._first:
            self._first = False
            with contextlib.suppress(OSError):
                self._fd = _open(f"{self.path}/logs/{self._app}.1")
        while True:
            if self._fd >= 0:
                while chunk := os.read(self._fd, _PIECE):
                    *whole, self._rest = (self._rest + chunk).split(b"\n")
                    for line in whole:
                        yield from self._line(line)
            if not self._next():
                return

    def _next(self) -> bool:
        """Go on with the file that has taken the place of the one that was read; whether there is one."""
        try:
            fd = _open(f"{self.path}/logs/{self._app}")
        except OSError:
            return False
        if self._fd >= 0:
            if os.path.sameopenfile(fd, self._fd):
                os.close(fd)
                return False
            os.close(self._fd)
        self._fd = fd
        self._rest = b""
        return True

    def _line(self, line: bytes) -> Iterator[Line]:
        at, _, rest = line.partition(b" ")
        kind, _, text = rest.partition(b" ")
        if not at.isdigit() or len(at) > 20 or kind not in {b"F", b"P"}:
            return  # half of a line, from when the disk was full or the power went
        self._piece += text
        if kind == b"F":
            yield Line(int(at), self._app, self._piece)
            self._piece = b""


def _open(path: str) -> int:
    return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
