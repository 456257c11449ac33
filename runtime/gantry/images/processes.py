"""Many things at once, in processes: what a fetch of small images costs is mostly Python's own work.

Threads of one process take turns at that; processes do not (docs/decisions/0029). Each is forked before any
thread exists, takes the next task whenever one of its threads is free, and tells what happens over a pipe.
"""

from __future__ import annotations

import contextlib
import gc
import marshal
import os
import pickle
import selectors
import signal
import struct
import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, TypeVar

from gantry.errors import HostError
from gantry.images.parallel import WORKERS, work_off
from gantry.linux.fs import write_all
from gantry.linux.syscalls import PR_SET_PDEATHSIG, prctl

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

T = TypeVar("T")

#: Fewer tasks than this for each process are not worth a fork.
_WORTH = 4
_MOST = 4
_INTERVAL = 0.1  # seconds between two messages about one transfer
_HEAD = struct.Struct("!I")
_NUMBER = struct.Struct("!H")
_ALL_NUMBERS = 65536 // _NUMBER.size  # what a pipe holds without anybody reading


class Report(NamedTuple):
    """Where messages of tasks go; each is called in the process and thread that calls :func:`spread`.

    Attributes:
        say: Gets lines.
        moved: Gets what is transferred, the bytes so far, and all of them if that is known.
    """

    say: Callable[[str], None] | None
    moved: Callable[[str, int, int | None], None] | None


def how_many(tasks: int) -> int:
    """How many processes *tasks* are worth; 1: none but this one."""
    if threading.active_count() > 1 or tasks > _ALL_NUMBERS:
        return 1  # a fork would copy locks that threads hold
    return max(1, min(_MOST, len(os.sched_getaffinity(0)), tasks // _WORTH))


def spread(tasks: Sequence[Callable[[Report], T]], processes: int, report: Report) -> list[T | BaseException]:
    """Call all of *tasks* in other processes; what each returned or raised, in their order.

    What they return has to be what :mod:`pickle` can carry. Nothing of the processes is left behind, however
    this ends.

    Args:
        tasks: Functions that get where their messages go.
        processes: How many, see :func:`how_many`.
        report: Where messages go.
    """
    results: list[T | BaseException] = [_lost()] * len(tasks)
    numbers, given = os.pipe2(os.O_CLOEXEC)
    os.write(given, b"".join(_NUMBER.pack(number) for number in range(len(tasks))))
    os.close(given)
    gc.freeze()  # what is shared stays shared
    pids: list[int] = []
    try:
        with selectors.DefaultSelector() as selector, contextlib.ExitStack() as readers:
            for _ in range(processes):
                reader, writer = os.pipe2(os.O_CLOEXEC)
                readers.callback(os.close, reader)
                try:
                    pid = os.fork()
                    if pid == 0:
                        _child(tasks, numbers, writer, WORKERS // processes)
                finally:
                    os.close(writer)
                pids.append(pid)
                selector.register(reader, selectors.EVENT_READ, bytearray())
            while selector.get_map():
                for key, _ in selector.select():
                    chunk = os.read(key.fd, 1 << 20)
                    if not chunk:
                        selector.unregister(key.fd)
                        continue
                    key.data.extend(chunk)
                    for kind, content in _messages(key.data):
                        _hand_on(kind, content, results, report)
    finally:
        os.close(numbers)
        for pid in pids:  # each has ended by itself unless this call was interrupted
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    return results


def _hand_on(kind: str, content: Any, results: list[Any], report: Report) -> None:
    if kind == "say" and report.say is not None:
        report.say(*content)
    elif kind == "moved" and report.moved is not None:
        report.moved(*content)
    elif kind == "done":
        number, outcome = content
        results[number] = pickle.loads(outcome)  # noqa: S301 - written by our own fork


def _messages(data: bytearray) -> list[tuple[str, Any]]:
    """Take the whole messages off the front of *data*."""
    found = []
    while len(data) >= _HEAD.size:
        (size,) = _HEAD.unpack_from(data)
        if len(data) < _HEAD.size + size:
            break
        found.append(marshal.loads(data[_HEAD.size : _HEAD.size + size]))  # noqa: S302 - as above
        del data[: _HEAD.size + size]
    return found


def _lost() -> HostError:
    return HostError("the process that fetched it has ended", hint="the kernel's log may say why; try again")


def _child(tasks: Sequence[Callable[[Report], Any]], numbers: int, writer: int, threads: int) -> NoReturn:
    """Work tasks off until there are none; never returns."""
    try:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # ctrl-C reaches the parent, too, which tells of it
        turn = threading.Lock()
        last: dict[str, float] = {}

        def tell(kind: str, content: Any) -> None:
            message = marshal.dumps((kind, content))
            with turn:
                write_all(writer, _HEAD.pack(len(message)) + message)

        def moved(what: str, done: int, whole: int | None) -> None:
            now = time.monotonic()
            if done == whole or now - last.get(what, -_INTERVAL) >= _INTERVAL:
                last[what] = now
                tell("moved", (what, done, whole))

        report = Report(say=lambda line: tell("say", (line,)), moved=moved)

        def following() -> int | None:
            number = os.read(numbers, _NUMBER.size)
            return _NUMBER.unpack(number)[0] if number else None

        def ended(number: int, outcome: Any) -> None:
            tell("done", (number, pickle.dumps(outcome)))

        work_off(lambda number: tasks[number](report), following, ended, threads=threads)
    finally:
        os._exit(0)
