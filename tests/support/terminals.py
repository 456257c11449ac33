"""A terminal for tests, with a program that has it as its controlling one."""

from __future__ import annotations

import fcntl
import os
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from typing import Any, Self

SECONDS = 60.0  # far beyond what anything here needs


class Session:
    """A program in a terminal of *rows* and *columns*.

    with Session(["/bin/sh"]) as session:
        session.type("echo hello\\n")
        session.expect("hello")
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        rows: int = 24,
        columns: int = 80,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.master, terminal = os.openpty()
        self.resize(rows, columns, tell=False)
        self.before = termios.tcgetattr(terminal)
        self.shown = b""
        self._seen = 0

        def own_terminal() -> None:
            os.setsid()
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        self.process = subprocess.Popen(
            list(argv),
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            env=dict(environment) if environment is not None else None,
            preexec_fn=own_terminal,  # noqa: PLW1509 - no threads here
        )
        self.terminal = terminal

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.master)
        os.close(self.terminal)

    def resize(self, rows: int, columns: int, *, tell: bool = True) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        if tell:
            self.process.send_signal(signal.SIGWINCH)

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def read(self, seconds: float) -> bool:
        """Take in what is shown; whether anything was."""
        ready, _, _ = select.select([self.master], [], [], seconds)
        if ready:
            self.shown += os.read(self.master, 65536)
        return bool(ready)

    def expect(self, pattern: str) -> re.Match[str]:
        """Wait until *pattern* is shown, after what was expected before."""
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            text = self.shown.decode("utf-8", "replace")
            match = re.compile(pattern).search(text, self._seen)
            if match:
                self._seen = match.end()
                return match
            if not self.read(0.05) and self.process.poll() is not None and not self.read(0.2):
                break
        raise AssertionError(f"{pattern!r} was not shown: {self.shown.decode('utf-8', 'replace')!r}")

    def wait(self) -> int:
        """The exit status; what is shown meanwhile is kept."""
        deadline = time.monotonic() + SECONDS
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"still running, and shows {self.shown!r}"
            self.read(0.02)
        while self.read(0.05):
            continue
        return int(self.process.returncode)

    def modes(self) -> list[Any]:
        """The terminal's modes, to be compared with ``before``."""
        return termios.tcgetattr(self.terminal)
