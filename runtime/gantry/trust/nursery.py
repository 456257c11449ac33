"""Many unprivileged processes at the cost of a fork: for commands that judge many images.

Starting an interpreter and loading OpenPGP takes 55 ms of a processor, judging a small image hardly any. So
one process loads all of it and waits; for each request it forks one that gives everything up and judges
(:mod:`gantry.trust.worker`), as if it had been started for that alone. What waits reads nothing but
descriptors from its parent: no stranger's byte reaches it, so it need not be trusted less than its parent,
and no image's process can say anything of another image.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

from gantry.errors import HostError
from gantry.linux.syscalls import PR_SET_PDEATHSIG, prctl

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_FIRST_FREE = 3
_BOOT = """\
import sys
sys.path[:0] = sys.argv[2:]
from gantry.trust.nursery import serve
serve(int(sys.argv[1]))
"""


class Nursery:
    """The process that waits. The kernel ends it when the thread that made this ends."""

    def __init__(self, import_path: Sequence[str]) -> None:
        """Start it; does not wait for it.

        Raises:
            HostError: It cannot be started.
        """
        self._turn = threading.Lock()
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _BOOT, str(os.getpid()), *import_path],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={"LANG": "C.UTF-8"},
                cwd="/",
            )
        except OSError as error:
            self._socket.close()
            raise HostError(f"the process that judges signatures cannot start: {error.strerror}") from error
        finally:
            theirs.close()

    def fork(self, data: int, answers: int, request: int) -> None:
        """One process more, with these for its input, its output and its request.

        Raises:
            HostError: The process that waits has ended.
        """
        try:
            with self._turn:
                socket.send_fds(self._socket, [b"."], [data, answers, request])
        except OSError as error:
            raise HostError(
                f"the process that judges signatures has ended: {error.strerror}", hint="try again"
            ) from error

    def close(self) -> None:
        """End it, and with it all that it has forked."""
        self._socket.close()
        self._process.kill()
        self._process.wait()


_open: Nursery | None = None


def current() -> Nursery | None:
    """The nursery that is open in this process."""
    return _open


@contextlib.contextmanager
def opened(import_path: Sequence[str]) -> Iterator[None]:
    """Have a nursery while the block runs, and what it has forked no longer."""
    global _open  # noqa: PLW0603 - what judges is far below what knows how much there is to judge
    if _open is not None:
        yield
        return
    _open = made = Nursery(import_path)
    try:
        yield
    finally:
        _open = None
        made.close()


def serve(parent: int) -> None:
    """Fork for each message on descriptor 0 until its other end closes; ends the process.

    Args:
        parent: The process that must still be there.
    """
    from gantry.trust import worker  # noqa: PLC0415 - this is what is loaded once

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ctrl-C is for the parent, which ends this process
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel forgets those that have ended
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    here = os.getpid()
    orders = socket.socket(fileno=0)
    while True:
        message, fds, _, _ = socket.recv_fds(orders, 1, _FIRST_FREE)
        if not message:
            os._exit(0)
        if os.fork() == 0:
            data, answers, request = fds
            for source, target in ((data, 0), (answers, 1)):
                os.dup2(source, target)
            for each in {data, answers} - {0, 1}:
                os.close(each)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            worker.main(here, request)
            os._exit(1)  # not reached
        for each in fds:
            os.close(each)
