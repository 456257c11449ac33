"""What apps write: passed on byte for byte, and kept, a bounded number of bytes an app.

Only a launcher that stays does so; systemd's journal keeps what its units write (docs/decisions/0027). One
thread reads the apps' pipes. An app has one pipe where our standard output and error are the same file, so
that the order of its lines stays. When nobody reads ours any more, its pipe is closed: it learns that
as if the stream were its own.

The log of an app is ``logs/APP`` in the pod's directory, and ``logs/APP.1`` before it. A line is
``NANOSECONDS F TEXT``; ``P`` instead of ``F``: the line goes on in the next one. A disk that is full stops no
app: lines that are lost are counted.

On the launch path.
"""

from __future__ import annotations

import _thread
import os
import select
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

#: Bytes after which a log is put aside; twice as many are kept.
LIMIT = 4 * 1024 * 1024
_PIECE = 65536
_LONGEST = 16384
_PATIENCE = 10.0  # seconds for the last bytes, once nothing of the pod runs


def kept_by_journal() -> bool:
    """Whether our output goes to systemd's journal, which keeps it."""
    told = os.environ.get("JOURNAL_STREAM")
    return bool(told) and any(f"{s.st_dev}:{s.st_ino}" == told for s in (os.fstat(1), os.fstat(2)))


class Log:
    """The log of one app, which is written to as long as that works.

    Attributes:
        lost: Lines that could not be written since the last time it worked.
        why: What the kernel said of the last one.
    """

    __slots__ = ("_fd", "_path", "_size", "lost", "why")

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd = -1
        self._size = 0
        self.lost = 0
        self.why = ""

    def add(self, data: bytes) -> bytes:
        """Keep the lines of *data*; returns what is after the last of them, to be put before what comes."""
        *lines, rest = data.split(b"\n")
        now = b"%d" % time.time_ns()
        entries = [piece for line in lines for piece in _pieces(now, line)]
        if len(rest) >= _LONGEST:
            entries.append(b"%s P %s\n" % (now, rest))
            rest = b""
        if entries:
            self._write(now, entries)
        return rest

    def end(self) -> None:
        """Nothing more comes."""
        if self.lost:
            self._write(b"%d" % time.time_ns(), [])
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _write(self, now: bytes, entries: list[bytes]) -> None:
        before = self.lost
        if before:
            told = b"%s F gantry: %d lines are missing here: %s\n" % (now, before, self.why.encode())
            entries = [told, *entries]
        text = b"".join(entries)
        written = 0
        try:
            self._open()
            while written < len(text):
                written += os.write(self._fd, text[written:])
            self.lost = 0
        except OSError as error:
            self.why = error.strerror or str(error)
            written = self._whole(text, written)
            kept = text.count(b"\n", 0, written)
            self.lost = len(entries) - kept if kept else before + len(entries) - bool(before)
        self._size += written

    def _whole(self, text: bytes, written: int) -> int:
        """Take back the half of a line that was still written: it is none. What is left of *written*."""
        whole = text.rfind(b"\n", 0, written) + 1
        if whole < written:
            try:
                os.ftruncate(self._fd, self._size + whole)
            except OSError:
                return written
        return whole

    def _open(self) -> None:
        if self._fd >= 0 and self._size >= LIMIT:
            os.close(self._fd)
            self._fd = -1
            os.rename(self._path, f"{self._path}.1")
        if self._fd < 0:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
            os.makedirs(os.path.dirname(self._path), 0o750, exist_ok=True)
            self._fd = os.open(self._path, flags, 0o640)
            self._size = os.fstat(self._fd).st_size


def _pieces(now: bytes, line: bytes) -> list[bytes]:
    if len(line) <= _LONGEST:
        return [b"%s F %s\n" % (now, line)]
    cut = range(0, len(line), _LONGEST)
    return [
        b"%s %s %s\n" % (now, b"P" if at + _LONGEST < len(line) else b"F", line[at : at + _LONGEST])
        for at in cut
    ]


class _Pipe:
    """One pipe: where its bytes go, and what has come of a line."""

    __slots__ = ("log", "rest", "target")

    def __init__(self, target: int, log: Log) -> None:
        self.target = target
        self.log = log
        self.rest = b""


class Streams:
    """The pipes of a pod's apps, and the thread that reads them.

    Args:
        directory: Where the logs are.
    """

    __slots__ = (
        "_directory",
        "_logs",
        "_moved",
        "_new",
        "_poll",
        "_readers",
        "_together",
        "_wake",
        "_writers",
    )

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._together = os.path.sameopenfile(1, 2)
        self._logs: dict[str, Log] = {}
        self._writers: dict[str, tuple[int, int]] = {}
        self._new: dict[int, _Pipe] = {}
        self._readers: dict[int, _Pipe] = {}
        self._poll = select.poll()
        self._wake = -1
        self._moved = _thread.allocate_lock()

    def pipes(self, app: str) -> tuple[int, int]:
        """Descriptors for an app's standard output and error; nothing is read before :meth:`pass_on`."""
        log = self._logs.setdefault(app, Log(f"{self._directory}/{app}"))
        reader, output = os.pipe2(os.O_CLOEXEC)
        self._new[reader] = _Pipe(1, log)
        errors = output
        if not self._together:
            reader, errors = os.pipe2(os.O_CLOEXEC)
            self._new[reader] = _Pipe(2, log)
        self._writers[app] = (output, errors)
        return output, errors

    def pass_on(self, app: str, *, keep: bool = False) -> None:
        """The app has its pipes: read them from now on.

        Args:
            app: Its name.
            keep: It gets them only now; :meth:`close` ends this.
        """
        if not keep:
            self.close(app)
        self._readers.update(self._new)
        self._new.clear()
        if self._wake >= 0:
            os.write(self._wake, b"!")
            return
        woken, self._wake = os.pipe2(os.O_CLOEXEC)
        self._moved.acquire()
        _thread.start_new_thread(self._move, (woken,))

    def drop(self, app: str) -> None:
        """The app has not started: what is in its pipes is its runtime's, which has told it otherwise."""
        self.close(app)
        while self._new:
            os.close(self._new.popitem()[0])

    def close(self, app: str) -> None:
        """Nobody else gets the app's pipes."""
        for fd in set(self._writers.pop(app)):
            os.close(fd)

    def end(self, warn: Callable[[str], None]) -> None:
        """Pass on what is left. Nothing that writes may run any more; harmless when done already."""
        for app in tuple(self._writers):
            self.drop(app)
        if self._wake >= 0:
            os.close(self._wake)
            self._wake = -1
            if not self._moved.acquire(timeout=_PATIENCE):
                warn("what the apps have written last is not read by anybody")
                return
        for app, log in self._logs.items():
            log.end()
            if log.lost:
                warn(f'{log.lost} lines of app "{app}" are missing in its log: {log.why}')

    def _move(self, woken: int) -> None:
        """The thread."""
        poll = self._poll
        poll.register(woken, select.POLLIN)
        known: set[int] = set()
        ending = False
        try:
            while True:
                for fd in set(self._readers) - known:
                    poll.register(fd, select.POLLIN)
                    known.add(fd)
                if ending and not known:
                    return
                for fd, _ in poll.poll():
                    if fd != woken:
                        if not self._pass(fd):
                            poll.unregister(fd)
                            known.discard(fd)
                            del self._readers[fd]
                            os.close(fd)
                    elif not os.read(woken, 64):
                        ending = True
                        poll.unregister(woken)
        finally:
            os.close(woken)
            self._moved.release()

    def _pass(self, fd: int) -> bool:
        pipe = self._readers[fd]
        data = os.read(fd, _PIECE)
        if not data:
            if pipe.rest:
                pipe.log.add(pipe.rest + b"\n")
            return False
        pipe.rest = pipe.log.add(pipe.rest + data)
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(pipe.target, rest) :]
            except BlockingIOError:  # whoever gave it to us has made it so
                select.select([], [pipe.target], [])
            except OSError:
                return False  # nobody reads it: the app is told by its own next write
        return True
