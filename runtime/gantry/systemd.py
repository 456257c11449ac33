"""Unit files and systemctl.

Two halves. The pure one writes unit text: what a value may hold and how it is quoted so that systemd reads
back exactly the same bytes. The other talks to the service manager through ``systemctl`` (never libsystemd,
so that nothing is linked and a test can put a stand-in for :class:`Manager`).

How systemd reads a unit, in the order in which we have to defend against it:

1. a backslash at the end of a line joins the next line to it;
2. white space around a value is dropped;
3. ``Exec*=`` and ``Environment=`` are split into words, with quotes and C escapes;
4. ``%x`` is a specifier everywhere;
5. ``$X`` and ``${X}`` are variables in the arguments of ``Exec*=`` (not in the path of the program).

Only :func:`notify` is on the path of the resident services; subprocess is imported where it is used.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Mapping, Sequence

from gantry.errors import HostError, UsageError

UNIT_DIRECTORY = "/etc/systemd/system"

Section = tuple[str, Sequence[tuple[str, str]]]

_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/_-.:=,+@^!")
_ESCAPE_KEEPS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789:_.")
_C_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "\r": "\\r"}


class SystemdError(HostError):
    """systemd refused or failed to do what was asked."""

    code = "systemd"


# --- Text ---


def quote_word(word: str) -> str:
    r"""One word as it must stand in ``Environment=`` or as the program of ``Exec*=``.

    Bytes that were no UTF-8 (kept by Python as lone surrogates) survive as ``\xNN``.

    Raises:
        UsageError: *word* holds a NUL, which no unit file and no argument can carry.
    """
    if "\0" in word:
        raise UsageError("a NUL character cannot be part of an argument or a variable", hint="remove it")
    if word and all(c in _PLAIN for c in word):
        return word
    return '"' + "".join(_quoted_character(c) for c in word) + '"'


def _quoted_character(c: str) -> str:
    if c == "%":
        return "%%"
    if c in _C_ESCAPES:
        return _C_ESCAPES[c]
    if 0xDC80 <= ord(c) <= 0xDCFF:  # a byte that was no UTF-8, as os.fsdecode leaves it
        return f"\\x{ord(c) - 0xDC00:02x}"
    if ord(c) < 0x20 or ord(c) == 0x7F:
        return f"\\x{ord(c):02x}"
    return c


def quote_argument(word: str) -> str:
    """One argument of ``Exec*=``, after the program: as :func:`quote_word`, and no variable is looked up."""
    return quote_word(word).replace("$", "$$")


def exec_line(argv: Sequence[str]) -> str:
    """The value of an ``Exec*=`` setting that runs *argv* with exactly these arguments.

    Raises:
        UsageError: The program is not given by an absolute path.
    """
    program, *arguments = argv
    if not program.startswith("/"):
        raise UsageError(
            f'the program of a unit must be an absolute path, not "{program}"', hint="such as /usr/bin/true"
        )
    return " ".join([quote_word(program), *map(quote_argument, arguments)])


def plain_value(value: str) -> str:
    """A value that systemd does not split into words (``Description=``, ``PIDFile=``).

    Raises:
        UsageError: *value* cannot be written in such a setting: control characters, white space at its ends
            and a backslash at its end cannot be quoted there.
    """
    if value != value.strip() or value.endswith("\\") or any(ord(c) < 0x20 or ord(c) == 0x7F for c in value):
        raise UsageError(f'"{value}" cannot be written into a unit file', hint="use another name or path")
    return value.replace("%", "%%")


def render(sections: Iterable[Section], *, comment: str = "") -> str:
    """The text of a unit file. Values stand as given: quote them with the functions above."""
    lines = [f"# {line}" for line in comment.splitlines()]
    for title, settings in sections:
        if lines:
            lines.append("")
        lines.append(f"[{title}]")
        lines.extend(f"{key}={value}" for key, value in settings)
    return "\n".join(lines) + "\n"


def escape(text: str) -> str:
    """*text* as part of a unit's name, as ``systemd-escape`` does it."""
    out = []
    for i, c in enumerate(text):
        if c == "/":
            out.append("-")
        elif c in _ESCAPE_KEEPS and not (i == 0 and c == "."):
            out.append(c)
        else:
            out.extend(f"\\x{byte:02x}" for byte in os.fsencode(c))
    return "".join(out)


# --- The service manager ---


class Manager:
    """systemd on this host, asked through ``systemctl``.

    Every call is one process; nothing is remembered between calls.

    Args:
        systemctl: The program, as a path or to be looked up in ``PATH``.
        booted_marker: A directory that exists when systemd is this host's service manager.
    """

    def __init__(self, systemctl: str = "systemctl", *, booted_marker: str = "/run/systemd/system") -> None:
        self.systemctl = systemctl
        self.booted_marker = booted_marker

    def available(self) -> bool:
        """Whether systemd manages this host (as ``sd_booted`` decides it). No process is started."""
        return os.path.isdir(self.booted_marker)

    def daemon_reload(self) -> None:
        """Make systemd read changed unit files. Raises SystemdError."""
        self._call(["daemon-reload"])

    def start(self, unit: str) -> None:
        """Start *unit* and wait until systemd calls it started. Raises SystemdError."""
        self._call(["start", "--", unit])

    def stop(self, unit: str) -> None:
        """Stop *unit* and wait for its end; one that systemd does not know is fine. Raises SystemdError."""
        self._call(["stop", "--", unit], fine=(0, 5))

    def restart(self, unit: str) -> None:
        """Stop and start *unit*. Raises SystemdError."""
        self._call(["restart", "--", unit])

    def reset_failed(self, unit: str) -> None:
        """Forget that *unit* failed and how often it was started; never fails."""
        self._call(["reset-failed", "--", unit], fine=range(256))

    def enable(self, unit: str) -> None:
        """Start *unit* at boot. Raises SystemdError."""
        self._call(["enable", "--quiet", "--", unit])

    def disable(self, unit: str) -> None:
        """Do not start *unit* at boot. Raises SystemdError."""
        self._call(["disable", "--quiet", "--", unit])

    def show(self, unit: str, properties: Iterable[str]) -> dict[str, str]:
        """Properties of one unit; those that systemd does not know are missing. Raises SystemdError."""
        return self.show_many([unit], properties)[unit]

    def show_many(self, units: Sequence[str], properties: Iterable[str]) -> dict[str, dict[str, str]]:
        """Properties of several units, in one process (and none when *units* is empty).

        Raises:
            SystemdError: systemctl could not be run or could not reach systemd.
        """
        if not units:
            return {}
        wanted = ",".join(properties)
        text = self._call(["show", f"--property={wanted}", "--", *units])
        blocks = text.split("\n\n") if text.strip() else []
        found = [dict(line.split("=", 1) for line in b.splitlines() if "=" in line) for b in blocks]
        if len(found) != len(units):
            raise SystemdError(
                f"systemctl described {len(found)} units where {len(units)} were asked for",
                hint="try again; see 'systemctl status' if it stays so",
            )
        return dict(zip(units, found, strict=True))

    def last_log_line(self, unit: str, since: float = 0.0) -> str:
        """The newest line that *unit* itself wrote, or nothing; never fails.

        Args:
            unit: The unit.
            since: Seconds since 1970; what is older is not looked at.
        """
        import subprocess  # noqa: PLC0415 - slow, and not needed to write units or to notify

        command = [
            "journalctl",
            "--quiet",
            "--boot",
            "--output=cat",
            "--lines=20",
            f"--since=@{since:.6f}",
            f"_SYSTEMD_UNIT={unit}",
        ]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, errors="replace", timeout=10, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return ""
        lines = [line for line in done.stdout.splitlines() if line and ": warning: " not in line]
        return lines[-1] if lines else ""

    def _call(self, arguments: Sequence[str], *, fine: Iterable[int] = (0,)) -> str:
        import subprocess  # noqa: PLC0415 - slow, and not needed to write units or to notify

        command = [self.systemctl, "--no-pager", "--no-ask-password", *arguments]
        environment = {**os.environ, "LC_ALL": "C.UTF-8", "SYSTEMD_COLORS": "0"}
        # A message about a failed start goes on with advice on where to look: we give our own.
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                env=environment,
                check=False,
            )
        except OSError as e:
            raise SystemdError(
                f"cannot run {self.systemctl}: {e.strerror}",
                hint="named pods need a host that systemd manages",
            ) from e
        if done.returncode not in fine:
            reason = next(iter(done.stderr.strip().splitlines()), f"exit status {done.returncode}")
            raise SystemdError(
                f"systemctl {arguments[0]} {arguments[-1]}: {reason.rstrip('.')}",
                hint=f"see journalctl -u {arguments[-1]}" if "." in arguments[-1] else "see journalctl -b",
            )
        return done.stdout


def notify(state: str, environment: Mapping[str, str] | None = None) -> bool:
    """Tell the service manager *state* (``READY=1``, ``STATUS=…``); whether anybody was told.

    Does nothing outside a unit of ``Type=notify``. Never fails: a service must not die of this.
    """
    address = (os.environ if environment is None else environment).get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as s:
        try:
            s.connect("\0" + address[1:] if address.startswith("@") else address)
            s.sendall(state.encode())
        except OSError:
            return False
    return True
