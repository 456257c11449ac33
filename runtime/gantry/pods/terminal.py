"""Our terminal joined with a program's: raw mode, size, and the bytes in between.

The program's terminal is made by the OCI runtime, with the size that ours has, and comes over a socket. A
thread moves the bytes, so that the main one can wait for processes; what was typed and the modes of our own
terminal are put back whatever happens.

On the launch path of interactive pods only.
"""

from __future__ import annotations

import _thread
import contextlib
import fcntl
import os
import select
import signal
import socket
import struct
import termios

from gantry.errors import HostError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import Any

_PIECE = 65536
_PATIENCE = 10.0  # seconds for a runtime that has succeeded to hand over the terminal
_INPUT, _OUTPUT = 0, 1
_CC = 6  # index of the control characters in what tcgetattr(3) tells


def available() -> bool:
    """Whether we have a terminal to give: our input and our output are one."""
    return os.isatty(_INPUT) and os.isatty(_OUTPUT)


def size() -> tuple[int, int]:
    """Rows and columns of our terminal."""
    rows, columns, _, _ = struct.unpack("HHHH", fcntl.ioctl(_INPUT, termios.TIOCGWINSZ, b"\0" * 8))
    return rows, columns


class Terminal:
    """A program's terminal, joined with ours between :meth:`take` and :meth:`close`.

    Args:
        directory: Where the socket is made over which the runtime hands the terminal out.
    """

    __slots__ = ("_before", "_directory", "_listener", "_master", "_moved", "_path", "_stop", "_winch")

    def __init__(self, directory: str) -> None:
        self._path = f"{directory}/console.sock"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)
        # By way of a descriptor: the path of a socket has no more than 107 bytes.
        self._directory = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self._listener.bind(self.address)
        self._listener.listen(1)
        self._master = -1
        self._stop = -1
        self._before: list[Any] | None = None
        self._winch: Any = None
        self._moved = _thread.allocate_lock()

    @property
    def address(self) -> str:
        """The socket's path, for the runtime; good while this process lives."""
        return f"/proc/{os.getpid()}/fd/{self._directory}/console.sock"

    def take(self) -> None:
        """Take the program's terminal and join it with ours, which is in raw mode from now on.

        Raises:
            HostError: The runtime does not hand it over.
        """
        self._listener.settimeout(_PATIENCE)
        try:
            connection, _ = self._listener.accept()
            connection.settimeout(_PATIENCE)
            with connection:
                _, fds, _, _ = socket.recv_fds(connection, 4096, 1)
        except OSError as error:
            raise HostError(f"the runtime has not handed over the terminal: {error}") from error
        if not fds:
            raise HostError("the runtime has not handed over the terminal")
        self._master = fds[0]
        os.set_inheritable(self._master, False)
        self._winch = signal.signal(signal.SIGWINCH, self._resized)
        self._resized()  # it may have changed since the program's was made
        self._before = termios.tcgetattr(_INPUT)
        _make_raw(_INPUT, self._before)
        wake, self._stop = os.pipe2(os.O_CLOEXEC)
        self._moved.acquire()
        _thread.start_new_thread(self._move, (wake,))

    def close(self) -> None:
        """Show what the program has written and put our terminal back; harmless when done already."""
        if self._stop >= 0:
            os.close(self._stop)
            self._stop = -1
            self._moved.acquire()
        if self._before is not None:
            with contextlib.suppress(termios.error, OSError):  # it may have gone
                termios.tcsetattr(_INPUT, termios.TCSADRAIN, self._before)
            self._before = None
        if self._winch is not None:
            signal.signal(signal.SIGWINCH, self._winch)
            self._winch = None
        if self._master >= 0:
            os.close(self._master)
            self._master = -1
        if self._directory >= 0:
            self._listener.close()
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path)
            os.close(self._directory)
            self._directory = -1

    def _resized(self, _number: int = 0, _frame: FrameType | None = None) -> None:
        with contextlib.suppress(OSError):
            fcntl.ioctl(self._master, termios.TIOCSWINSZ, fcntl.ioctl(_INPUT, termios.TIOCGWINSZ, b"\0" * 8))

    def _move(self, wake: int) -> None:
        """The thread: until the program's side is closed, or we are told that the program has ended."""
        try:
            _join(self._master, wake)
        except OSError:
            pass  # our terminal has gone: the program is told by whoever waits for it
        finally:
            os.close(wake)
            self._moved.release()


def _join(master: int, wake: int) -> None:
    os.set_blocking(master, False)
    typed = b""
    reading = True
    poll = select.poll()
    poll.register(wake, 0)
    while True:
        poll.register(master, select.POLLIN | (select.POLLOUT if typed else 0))
        if reading:
            # Nothing more is read than the program takes.
            poll.register(_INPUT, 0 if typed else select.POLLIN)
        events = dict(poll.poll())
        if events.get(master, 0) & (select.POLLIN | select.POLLHUP | select.POLLERR):
            output = _read(master)
            if output is not None:
                if not output:
                    return
                _show(output)
        elif wake in events:
            return  # it has ended, and what it wrote has been shown
        if events.get(master, 0) & select.POLLOUT:
            with contextlib.suppress(BlockingIOError):
                typed = typed[os.write(master, typed) :]
        if reading and events.get(_INPUT, 0):
            typed += os.read(_INPUT, _PIECE) if events[_INPUT] & select.POLLIN else b""
            if not typed:
                reading = False
                poll.unregister(_INPUT)


def _read(master: int) -> bytes | None:
    """What the program has written; nothing: no process has its side open; ``None``: nothing yet."""
    try:
        return os.read(master, _PIECE)
    except BlockingIOError:
        return None
    except OSError:
        return b""


def _show(output: bytes) -> None:
    rest = memoryview(output)
    while rest:
        try:
            rest = rest[os.write(_OUTPUT, rest) :]
        except BlockingIOError:  # somebody has made our terminal so
            select.select([], [_OUTPUT], [])


def _make_raw(fd: int, before: list[Any]) -> None:
    """As cfmakeraw(3)."""
    mode = [*before[:_CC], list(before[_CC])]
    mode[0] &= ~(
        termios.IGNBRK
        | termios.BRKINT
        | termios.PARMRK
        | termios.ISTRIP
        | termios.INLCR
        | termios.IGNCR
        | termios.ICRNL
        | termios.IXON
    )
    mode[1] &= ~termios.OPOST
    mode[2] = mode[2] & ~(termios.CSIZE | termios.PARENB) | termios.CS8
    mode[3] &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.ISIG | termios.IEXTEN)
    mode[_CC][termios.VMIN] = 1
    mode[_CC][termios.VTIME] = 0
    termios.tcsetattr(fd, termios.TCSADRAIN, mode)
