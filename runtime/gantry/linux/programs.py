"""Start a program and learn how it ended, for the launch path: no ``subprocess`` (its import costs 10 ms).

A program started here gets a small environment of its own, default signal handling (Python ignores SIGPIPE,
and what is ignored stays ignored over exec), no descriptors but the three standard ones, and never a shell.
"""

from __future__ import annotations

import os
import signal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
#: What Python, or we, may have changed and a program must find as the kernel made it.
RESET = (
    signal.SIGPIPE,
    signal.SIGXFSZ,
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGALRM,
    signal.SIGCHLD,
)
MAX_MESSAGE = 4096


def find(name: str, *more: str) -> str | None:
    """The path of program *name*, from the usual directories and then from *more* whole paths."""
    for directory in ENVIRONMENT["PATH"].split(":"):
        path = f"{directory}/{name}"
        if os.access(path, os.X_OK):
            return path
    return next((path for path in more if os.access(path, os.X_OK)), None)


class Program:
    """A running program.

    Args:
        argv: The program's absolute path and its arguments.
        stdin: What it reads; ``None`` is an empty file, unless it has ours.
        own_input: It reads our standard input.
        output: Descriptor for its standard output, ``None`` to inherit ours.
        errors: Descriptor for its standard error, unless that is kept.
        keep_errors: Keep what it writes to standard error for :meth:`complaint` instead of passing it on.
        environment: Its environment, instead of :data:`ENVIRONMENT`.
        group: It leads a process group of its own.
        hold: A descriptor that it holds as number 3 while it runs (a lock, so that it outlives us).

    Raises:
        OSError: It cannot be started.
    """

    __slots__ = ("_errors", "argv", "pid")

    def __init__(
        self,
        argv: list[str],
        *,
        stdin: bytes | None = None,
        own_input: bool = False,
        output: int | None = None,
        errors: int | None = None,
        keep_errors: bool = True,
        environment: dict[str, str] | None = None,
        group: bool = False,
        hold: int | None = None,
    ) -> None:
        self.argv = argv
        if own_input:
            source = os.dup(0)
        elif stdin is None:
            source = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        else:
            source = os.memfd_create("stdin", os.MFD_CLOEXEC)
            os.write(source, stdin)
            os.lseek(source, 0, os.SEEK_SET)
        self._errors = os.memfd_create("stderr", os.MFD_CLOEXEC) if keep_errors else -1
        actions: list[tuple[int, int, int]] = [(os.POSIX_SPAWN_DUP2, source, 0)]
        if output is not None:
            actions.append((os.POSIX_SPAWN_DUP2, output, 1))
        if keep_errors:
            actions.append((os.POSIX_SPAWN_DUP2, self._errors, 2))
        elif errors is not None:
            actions.append((os.POSIX_SPAWN_DUP2, errors, 2))
        if hold is not None:
            actions.append((os.POSIX_SPAWN_DUP2, hold, 3))
        more: dict[str, Any] = {"setpgroup": 0} if group else {}
        try:
            self.pid = os.posix_spawn(
                argv[0],
                argv,
                ENVIRONMENT if environment is None else environment,
                file_actions=actions,
                setsigmask=(),
                setsigdef=RESET,
                **more,
            )
        except OSError:
            self.close()
            raise
        finally:
            os.close(source)

    def wait(self) -> int:
        """Wait for the end: exit status, or 128 plus the number of the signal that killed it."""
        return exit_code(os.waitpid(self.pid, 0)[1])

    def complaint(self) -> str:
        """The last line the program wrote to standard error, for a message."""
        if self._errors < 0:
            return ""
        size = os.fstat(self._errors).st_size
        text = os.pread(self._errors, MAX_MESSAGE, max(0, size - MAX_MESSAGE)).decode("utf-8", "replace")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return lines[-1] if lines else ""

    def text(self) -> str:
        """All that the program wrote to standard error, cut to the last few KiB."""
        if self._errors < 0:
            return ""
        size = os.fstat(self._errors).st_size
        return os.pread(self._errors, MAX_MESSAGE, max(0, size - MAX_MESSAGE)).decode("utf-8", "replace")

    def close(self) -> None:
        """Give back what was kept of its output."""
        if self._errors >= 0:
            os.close(self._errors)
            self._errors = -1


def exit_code(wait_status: int) -> int:
    """A status of wait(2) as a shell would give it: the exit status, or 128 plus the signal's number."""
    code = os.waitstatus_to_exitcode(wait_status)
    return code if code >= 0 else 128 - code


def open_standard_streams() -> None:
    """Have 0, 1 and 2 open: a file that is opened next would take their place, and get what is printed."""
    while (null := os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)) <= 2:
        os.set_inheritable(null, True)
    os.close(null)
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8")  # noqa: SIM115 - for as long as the process lives
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8")  # noqa: SIM115 - likewise
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8")  # noqa: SIM115 - likewise
