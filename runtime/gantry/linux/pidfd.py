"""Handles on processes: one that cannot be mistaken for a later process with the same number.

A PID names whoever has it now. A pidfd names one process for as long as it is held: it becomes readable when
that process ends, and through it a privileged caller can take a copy of one of its descriptors
(:func:`pidfd_getfd`, which asks for the rights of ptrace: CAP_SYS_PTRACE when the other one has another
user).
"""

from __future__ import annotations

import os
import select
import signal

from gantry.linux import namespaces


def pidfd_open(pid: int, *, started: int | None = None) -> int:
    """A close-on-exec handle on the process *pid*. No privilege is needed.

    Args:
        pid: Its number.
        started: When it started (:func:`gantry.linux.namespaces.start_time`); None to take whoever it is.

    Raises:
        ProcessLookupError: There is no such process, it has ended, or the number has passed to another one.
        OSError: *pid* is a thread, or descriptors are exhausted.
    """
    pidfd = os.pidfd_open(pid)
    # Asked while the handle is held and its process lives: the number cannot have passed on in between.
    if started is not None and (namespaces.start_time(pid) != started or has_ended(pidfd)):
        os.close(pidfd)
        raise ProcessLookupError(f"process {pid} is another one by now")
    return pidfd


def has_ended(pidfd: int) -> bool:
    """Whether the process behind *pidfd* has ended (a zombie has)."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


class Process:
    """A process that was known once, by number and start; held while this object lives.

    Args:
        pid: Its number.
        started: When it started.
    """

    __slots__ = ("_fd",)

    def __init__(self, pid: int, started: int) -> None:
        self._fd = -1
        try:
            self._fd = pidfd_open(pid, started=started)
        except OSError:
            return  # it has ended

    def signal(self, number: int) -> None:
        """Send it a signal; one that has ended does not mind."""
        if self._fd >= 0:
            try:
                signal.pidfd_send_signal(self._fd, number)
            except ProcessLookupError:
                return

    def ended(self, timeout: float | None) -> bool:
        """Wait for its end; false when *timeout* (seconds, ``None`` for ever) is over first."""
        if self._fd < 0:
            return True
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        return bool(poll.poll(None if timeout is None else max(0, int(timeout * 1000))))

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
