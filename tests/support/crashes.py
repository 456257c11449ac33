"""Run something in a child, and have the kernel kill it or refuse it at one exact system call.

The child is forked from the running interpreter, so that nothing has to be imported, and stops; strace(1)
attaches, with the injection, and lets it go. What the child has to say comes back through shared memory: it
makes no system call of its own that could be counted.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from gantry.errors import GantryError

#: Every system call by which a file system is changed.
CHANGES = [
    "openat",
    "openat2",
    "write",
    "pwrite64",
    "writev",
    "fsync",
    "fdatasync",
    "syncfs",
    "sync_file_range",
    "rename",
    "renameat",
    "renameat2",
    "mkdir",
    "mkdirat",
    "rmdir",
    "unlink",
    "unlinkat",
    "link",
    "linkat",
    "symlink",
    "symlinkat",
    "mknod",
    "mknodat",
    "truncate",
    "ftruncate",
    "fallocate",
    "copy_file_range",
    "sendfile",
    "chmod",
    "fchmod",
    "fchmodat",
    "chown",
    "fchown",
    "fchownat",
    "utimensat",
    "setxattr",
    "fsetxattr",
]
#: Those that a full disk, a full quota or a broken disk can refuse.
FALLIBLE = [
    "write",
    "pwrite64",
    "writev",
    "fsync",
    "fdatasync",
    "syncfs",
    "rename",
    "renameat",
    "renameat2",
    "mkdir",
    "mkdirat",
    "link",
    "linkat",
    "symlinkat",
    "mknodat",
    "ftruncate",
    "fallocate",
    "copy_file_range",
]

_PATIENCE = 60.0
_RESULT = 64 * 1024


class Ended(NamedTuple):
    """How the child ended.

    Attributes:
        killed: It was killed.
        error: The line it refused with; ``None``: it succeeded.
        defect: A traceback's last line: an exception that no user should see.
    """

    killed: bool
    error: str | None
    defect: str | None


def calls_of(operation: Callable[[], object], log: Path) -> Counter[str]:
    """How often the operation makes each of :data:`CHANGES`; all of them in one thread."""
    ended = _run(operation, ["-f", "-o", str(log), "-e", f"trace={_known(CHANGES)}"])
    assert ended == Ended(killed=False, error=None, defect=None), ended
    found = re.findall(r"^(\d+) +(\w+)\((?!.*<unfinished)", log.read_text(errors="replace"), re.MULTILINE)
    threads = {
        pid
        for pid, line in re.findall(r"^(\d+) +(.*)$", log.read_text(errors="replace"), re.MULTILINE)
        if re.match(r"\w+\(", line) and not (line.startswith(("openat", "openat2")) and "O_CREAT" not in line)
    }
    assert len(threads) == 1, f"changes are made in {len(threads)} threads"
    main = threads.pop()
    return Counter(name for pid, name in found if pid == main)


def killed_at(operation: Callable[[], object], call: str, number: int) -> Ended:
    """Run it and have it killed just before it makes the *number*-th *call*."""
    return _run(
        operation,
        ["-o", "/dev/null", "-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={number}"],
    )


def refused_at(operation: Callable[[], object], call: str, number: int, error: str) -> Ended:
    """Run it and have the *number*-th *call* fail with *error*, such as ``ENOSPC``."""
    return _run(
        operation,
        ["-o", "/dev/null", "-e", f"trace={call}", "-e", f"inject={call}:error={error}:when={number}"],
    )


def _known(calls: list[str]) -> str:
    return ",".join(f"?{call}" for call in calls)  # not every machine has every call


def _run(operation: Callable[[], object], options: list[str]) -> Ended:
    shared = mmap.mmap(-1, _RESULT)
    child = os.fork()
    if child == 0:
        _be_the_child(operation, shared)
    tracer: subprocess.Popen[bytes] | None = None
    try:
        os.waitpid(child, os.WUNTRACED)
        tracer = subprocess.Popen(["strace", "-q", *options, "-p", str(child)], stderr=subprocess.DEVNULL)
        _until(lambda: "TracerPid:\t0\n" not in Path(f"/proc/{child}/status").read_text())
        os.kill(child, signal.SIGCONT)
        status = _wait(child)
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        raise
    finally:
        if tracer is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                tracer.wait(5)
            if tracer.poll() is None:
                tracer.kill()
                tracer.wait()
    kind, _, text = shared[:].rstrip(b"\0").decode().partition(":")
    shared.close()
    return Ended(
        os.WIFSIGNALED(status), text if kind == "error" else None, text if kind == "defect" else None
    )


def _be_the_child(operation: Callable[[], object], shared: mmap.mmap) -> None:
    try:
        os.kill(os.getpid(), signal.SIGSTOP)
        operation()
        told = b"done:"
    except GantryError as error:
        told = f"error:{error}".encode()
    except BaseException as error:  # noqa: BLE001 - the parent tells
        told = f"defect:{type(error).__name__}: {error}".encode()
    shared[: len(told)] = told
    os._exit(0)


def _wait(child: int) -> int:
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return status
        time.sleep(0.001)
    raise TimeoutError("the child does not end")


def _until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + _PATIENCE
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError("strace does not attach")
        time.sleep(0.0005)
