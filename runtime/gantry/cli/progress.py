"""What is shown while images are fetched: bars on a terminal, JSON lines for machines, otherwise nothing."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Any, Self

from gantry.errors import UsageError

if TYPE_CHECKING:
    from threading import Lock

    from tqdm import tqdm

    from gantry.cli.context import Context
    from gantry.cli.output import Output

KINDS = ("auto", "none", "json")

_INTERVAL = 1.0  # seconds between two lines about one download
_LONGEST_NAME = 40


class Progress:
    """Shows nothing but notices; those for debugging with ``--debug`` only. A context manager.

    Its methods may be called by several threads.
    """

    def __init__(self, output: Output) -> None:
        self._output = output

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def say(self, line: str) -> None:
        """Something that happened."""
        self._output.debug(line)

    def moved(self, what: str, done: int, whole: int | None) -> None:
        """So many bytes of a download are here, of so many if that is known."""

    def event(self, kind: str, /, **more: Any) -> None:
        """What became of an image."""


class Events(Progress):
    """One JSON object a line on standard error."""

    def __init__(self, output: Output) -> None:
        super().__init__(output)
        self._last: dict[str, float] = {}
        self._lock = _lock()

    def say(self, line: str) -> None:
        """See the base."""
        self.event("note", text=line)

    def moved(self, what: str, done: int, whole: int | None) -> None:
        """See the base; once a second for each download, and at its end."""
        now = time.monotonic()
        if done != whole and now - self._last.get(what, -_INTERVAL) < _INTERVAL:
            return
        self._last[what] = now
        self.event("progress", url=what, bytes=done, total=whole)

    def event(self, kind: str, /, **more: Any) -> None:
        """See the base."""
        with self._lock:
            self._output.event({"event": kind, **more})


class Bars(Progress):
    """One bar for each download: bytes, rate, time left."""

    def __init__(self, output: Output) -> None:
        super().__init__(output)
        self._bars: dict[str, tqdm[Any]] = {}
        self._lock = _lock()

    def __exit__(self, *_: object) -> None:
        for bar in self._bars.values():
            bar.close()

    def say(self, line: str) -> None:
        """See the base; the bars stay below."""
        if self._output.debugging:
            from tqdm import tqdm  # noqa: PLC0415 - only terminals pay for it

            with self._lock, tqdm.external_write_mode(file=sys.stderr):
                self._output.debug(line)

    def moved(self, what: str, done: int, whole: int | None) -> None:
        """See the base."""
        with self._lock:
            bar = self._bars.get(what)
            if bar is None:
                bar = self._bars[what] = _bar(what, done, whole)
            if done < bar.n:
                bar.reset(whole)
            bar.total = whole
            bar.update(done - bar.n)
            if done == whole:
                bar.close()


def _lock() -> Lock:
    import threading  # noqa: PLC0415 - loaded before anything is transferred

    return threading.Lock()


def _bar(what: str, done: int, whole: int | None) -> tqdm[Any]:
    from tqdm import tqdm  # noqa: PLC0415 - only terminals pay for it

    tqdm.monitor_interval = 0  # no thread of its own
    name = what if len(what) <= _LONGEST_NAME else f"…{what[1 - _LONGEST_NAME :]}"
    return tqdm(
        desc=name,
        initial=done,
        total=whole,
        unit="B",
        unit_scale=True,
        unit_divisor=1024,
        file=sys.stderr,
        dynamic_ncols=True,
    )


def progress_of(context: Context) -> Progress:
    """What a command shows while it fetches.

    Raises:
        UsageError: ``--progress`` names none of :data:`KINDS`.
    """
    kind = context.values.text("progress")
    if kind not in KINDS:
        raise UsageError(f'"{kind}" is no kind of progress', hint=f"one of {', '.join(KINDS)}")
    if kind == "json":
        return Events(context.output)
    bars = kind == "auto" and sys.stderr.isatty() and not context.output.form
    # Some terminals do not know their size.
    if bars and os.get_terminal_size(sys.stderr.fileno()).columns:
        return Bars(context.output)
    return Progress(context.output)
