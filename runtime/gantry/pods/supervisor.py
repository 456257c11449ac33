"""Wait for the apps of a pod, pass signals on, stop them in order (EXE-26).

The usual rule is rkt's: an app that ends with 0 leaves the others running; the first one that fails stops
them. With ``any`` every end does so, with ``all`` none. The status of the first app that failed is the pod's;
with ``any`` it is that of the app that ended first.

On the launch path.
"""

from __future__ import annotations

import os
import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

_STOPPING = (signal.SIGTERM, signal.SIGINT)
_FORWARDED = (signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


class Supervisor:
    """What a launcher that stays does until the last app has ended.

    Attributes:
        apps: Process number to name of every app that runs.
        pause: Process number of the pod's first process; when that ends, so do the apps.
        asked: Whether somebody asked the pod to end.
    """

    __slots__ = ("_begun", "_pending", "_policy", "_stopping", "_timeout", "apps", "asked", "pause")

    def __init__(self) -> None:
        self.apps: dict[int, str] = {}
        self.asked = False
        self.pause = 0
        self._timeout = 10.0
        self._policy = "any-failure"
        self._begun = False
        self._stopping = False
        self._pending: list[int] = []

    def listen(self, timeout: float, policy: str) -> None:
        """Take signals from now on. What arrives before :meth:`wait` is done then.

        Args:
            timeout: Seconds between SIGTERM and SIGKILL.
            policy: ``any``, ``any-failure`` or ``all``.
        """
        self._timeout = timeout
        self._policy = policy
        for number in _STOPPING:
            signal.signal(number, self._on_stop)
        for number in _FORWARDED:
            signal.signal(number, self._on_forward)
        signal.signal(signal.SIGALRM, self._on_deadline)

    def pass_on(self) -> None:
        """For a launcher that leaves: give what has arrived so far to the app, later signals at once."""
        self._begun = True
        for number in self._pending:
            self._signal(number)
        if self.asked:
            self._signal(signal.SIGTERM)

    def wait(self, ended: Callable[[str, int], int]) -> int:
        """Wait until every app has ended.

        Args:
            ended: Told an app's name and its status as wait(2) gives it; returns its exit code.

        Returns:
            The pod's status.
        """
        status = 0
        first = True
        self._begun = True
        for number in self._pending:
            self._signal(number)
        if self.asked:
            self._stop()
        while self.apps:
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
            assert found
            # Forgotten first and only then reaped: until then its number is nobody else's, and a signal that
            # arrives now cannot be passed on to a stranger.
            name = self.apps.pop(found.si_pid, None)
            _, wait_status = os.waitpid(found.si_pid, 0)
            if name is None:  # the pause process, or an orphan of a helper
                if found.si_pid == self.pause:
                    self._signal(signal.SIGKILL)  # where the kernel has not done so
                continue
            code = ended(name, wait_status)
            if first or self._policy != "any":  # what those that it has stopped make of that is nobody's
                status = status or code
            first = False
            if self._policy == "any" or (code and self._policy == "any-failure"):
                self._stop()
        signal.setitimer(signal.ITIMER_REAL, 0)
        return status

    def _on_stop(self, number: int, _frame: FrameType | None) -> None:
        if self.asked and number == signal.SIGINT:
            self._signal(signal.SIGKILL)  # asked twice from a terminal: now
            return
        self.asked = True
        self._stop()

    def _on_forward(self, number: int, _frame: FrameType | None) -> None:
        if self._begun:
            self._signal(number)
        else:
            self._pending.append(number)  # an app may run before we know its number

    def _on_deadline(self, _number: int, _frame: FrameType | None) -> None:
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        for pid in tuple(self.apps):
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue

    def _stop(self) -> None:
        if self._begun and not self._stopping and self.apps:
            self._stopping = True
            signal.setitimer(signal.ITIMER_REAL, max(0.001, self._timeout))
            self._signal(signal.SIGTERM)


def reap() -> None:
    """Collect every child that has ended; waits for none."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            continue
    except ChildProcessError:
        return
