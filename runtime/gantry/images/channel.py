"""Stages of work in threads, joined by bounded channels.

Decompressing and hashing release the interpreter lock, so a fetch or a render runs on two processors without
further processes. A failure in any stage ends all of them: the consumer's reaches the producer as
:class:`Abandoned`, the producer's reaches the consumer as itself.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator


class Abandoned(Exception):  # noqa: N818 - a signal between stages, no error of anybody
    """The other end wants no more."""


class Channel:
    """A queue of byte blocks with an end, an error, and room for *depth* blocks."""

    def __init__(self, depth: int = 8) -> None:
        self._depth = depth
        self._blocks: deque[bytes] = deque()
        self._changed = threading.Condition()
        self._ended = False
        self._abandoned = False
        self._error: BaseException | None = None

    def put(self, block: bytes) -> None:
        """Hand a block on; waits while the channel is full.

        Raises:
            Abandoned: Nobody will read it.
        """
        with self._changed:
            while len(self._blocks) >= self._depth and not self._abandoned:
                self._changed.wait()
            if self._abandoned:
                raise Abandoned
            self._blocks.append(block)
            self._changed.notify_all()

    def end(self, error: BaseException | None = None) -> None:
        """Nothing more comes; with *error* the reader gets that, after the blocks before it."""
        with self._changed:
            self._ended = True
            self._error = error
            self._changed.notify_all()

    def abandon(self) -> None:
        """Nothing more will be read."""
        with self._changed:
            self._abandoned = True
            self._blocks.clear()
            self._changed.notify_all()

    def __iter__(self) -> Iterator[bytes]:
        while True:
            with self._changed:
                while not self._blocks and not self._ended and not self._abandoned:
                    self._changed.wait()
                if self._abandoned:
                    return
                if self._blocks:
                    block = self._blocks.popleft()
                    self._changed.notify_all()
                elif self._error is not None:
                    raise self._error
                else:
                    return
            yield block


class Stage:
    """A function that runs in a thread of its own until :meth:`join`."""

    def __init__(self, name: str, function: Callable[[], Any]) -> None:
        self._function = function
        self._result: Any = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._result = self._function()
        except BaseException as error:  # noqa: BLE001 - it is raised again by join()
            self._error = error

    def wait(self) -> BaseException | None:
        """Wait for the function; its exception, if it ended with one."""
        self._thread.join()
        return self._error

    def join(self) -> Any:
        """Wait for the function; its result, or its exception."""
        error = self.wait()
        if error is not None:
            raise error
        return self._result


def pump(source: Iterable[bytes], channel: Channel) -> None:
    """Move everything from *source* into *channel*, its end and its error included."""
    try:
        for block in source:
            channel.put(block)
    except Abandoned:
        return
    except BaseException as error:  # noqa: BLE001 - the reader raises it
        channel.end(error)
    else:
        channel.end()
