"""Start the unprivileged process (:mod:`gantry.trust.worker`) and read its answers."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import importlib.util
import io
import json
import os
import select
import signal
import subprocess
import sys
import time
from typing import Any

import gantry
from gantry.errors import HostError
from gantry.trust.errors import BY_CODE, VerifierError
from gantry.trust.nursery import current, opened

#: How long the process may take to start or, after the last byte, to answer; in seconds. Far beyond what a
#: loaded host needs: it is there so that nothing waits for ever.
PATIENCE = 120.0
MAX_ANSWER = 16 * 1024 * 1024
_PIPE_SIZE = 1024 * 1024
_F_SETPIPE_SZ = 1031

_BOOT = """\
import sys
sys.path[:0] = sys.argv[3:]
from gantry.trust.worker import main
main(int(sys.argv[1]), int(sys.argv[2]))
"""


class Child:
    """One unprivileged process with one request.

    Ends it on :meth:`close`. The kernel ends it when the *thread* that made it ends, so make it in one that
    stays.
    """

    def __init__(self, request: dict[str, object], *, data: bool) -> None:
        """Start it; does not wait for it.

        Args:
            request: For the worker.
            data: Whether bytes will be written to it; else its input is empty.

        Raises:
            HostError: It cannot be started.
        """
        self._buffer = b""
        self._input = -1
        self._process: subprocess.Popen[bytes] | None = None
        self._answers: io.FileIO | None = None
        read = handle = written = -1
        try:
            handle = os.memfd_create("gantry-request")
            with os.fdopen(os.dup(handle), "wb") as file:
                file.write(json.dumps(request).encode("ascii"))
            os.lseek(handle, 0, os.SEEK_SET)
            read, self._input = os.pipe()
            if data:
                _widen(self._input)
            answers, written = os.pipe()
            self._answers = io.FileIO(answers)
            nursery = current()
            if nursery is not None:
                nursery.fork(read, written, handle)
            else:
                self._process = subprocess.Popen(
                    [sys.executable, "-I", "-S", "-c", _BOOT, str(os.getpid()), str(handle), *import_path()],
                    stdin=read,
                    stdout=written,
                    stderr=subprocess.DEVNULL,
                    env={"LANG": "C.UTF-8"},
                    cwd="/",
                    pass_fds=(handle,),
                )
        except BaseException as error:
            self.end_input()
            if self._answers is not None:
                self._answers.close()
            if isinstance(error, OSError):
                raise HostError(
                    f"the process that judges signatures cannot start: {error.strerror}"
                ) from error
            raise
        finally:
            for descriptor in (handle, read, written):
                if descriptor >= 0:
                    os.close(descriptor)
        if not data:
            self.end_input()

    @property
    def pid(self) -> int | None:
        """Its process number; ``None``: a nursery has made it, and ends it."""
        return None if self._process is None else self._process.pid

    def write(self, chunk: bytes | bytearray | memoryview) -> bool:
        """Hand it *chunk*; False when it has stopped reading, which means that its answer is there."""
        rest = memoryview(chunk)
        try:
            while rest:
                rest = rest[os.write(self._input, rest) :]
        except BrokenPipeError:
            return False
        return True

    def end_input(self) -> None:
        """Tell it that no more bytes come."""
        if self._input >= 0:
            os.close(self._input)
            self._input = -1

    def answer(self) -> dict[str, Any]:
        """Its next answer.

        Raises:
            TrustError: It refuses.
            VerifierError: It ended, or says nothing.
        """
        assert self._answers is not None
        deadline = time.monotonic() + PATIENCE
        while b"\n" not in self._buffer:
            poll = select.poll()
            poll.register(self._answers, select.POLLIN)
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                self.close()
                raise VerifierError(
                    f"the process that judges signatures was silent for {PATIENCE:.0f} s", hint="try again"
                )
            chunk = os.read(self._answers.fileno(), 65536)
            self._buffer += chunk
            if not chunk or len(self._buffer) > MAX_ANSWER:
                raise VerifierError(
                    f"the process that judges signatures ended without a verdict ({self._end()})",
                    hint="this says nothing about the image; look into the kernel's log and try again",
                )
        line, _, self._buffer = self._buffer.partition(b"\n")
        answer = json.loads(line)
        assert isinstance(answer, dict)
        if "refused" in answer:
            raise BY_CODE.get(answer["refused"], VerifierError)(answer["message"], hint=answer["hint"])
        return answer

    def close(self) -> None:
        """End it, if it still runs, and forget it."""
        self.end_input()
        if self._answers is not None:
            self._answers.close()  # it ends when it says something, at the latest with its nursery
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()

    def _end(self) -> str:
        self.end_input()
        if self._process is None:
            return "of unknown status"
        self._process.kill()
        status = self._process.wait()
        return f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"


def examine(groups: list[list[bytes]]) -> list[dict[str, Any]]:
    """What Sequoia says of certificates.

    Args:
        groups: For each certificate its copies, which are merged.

    Returns:
        For each what :func:`gantry.trust.worker.describe` says.

    Raises:
        VerifierError: The process did not answer.
    """
    if not groups:
        return []
    encoded = [[base64.b64encode(copy).decode("ascii") for copy in group] for group in groups]
    child = Child({"do": "examine", "groups": encoded}, data=False)
    try:
        found = child.answer()["certificates"]
    finally:
        child.close()
    assert isinstance(found, list)
    assert len(found) == len(groups)
    return found


def _widen(pipe: int) -> None:
    try:
        fcntl.fcntl(pipe, _F_SETPIPE_SZ, _PIPE_SIZE)
    except OSError:  # over the user's limit: a small pipe works as well
        return


def many() -> contextlib.AbstractContextManager[None]:
    """While the block runs, processes are forked from one that has loaded everything; see the nursery.

    Raises:
        HostError: It cannot be started.
    """
    return opened(import_path())


def import_path() -> list[str]:
    """Where the child finds this very package and pysequoia; found without loading the latter here."""
    spec = importlib.util.find_spec("pysequoia")
    if spec is None or spec.origin is None:
        raise HostError(
            "pysequoia, which judges signatures, is not installed", hint="install the runtime again"
        )
    roots = [
        os.path.dirname(os.path.dirname(os.path.abspath(path))) for path in (gantry.__file__, spec.origin)
    ]
    return list(dict.fromkeys(roots))
