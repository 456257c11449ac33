"""Reaching hosts by ssh: keys made for one fleet, a configuration file, and waiting until they answer."""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from testhosts import cache, connect
from testhosts.errors import HostsError
from testhosts.spec import Host


def make_key(path: Path, comment: str, hold: int) -> str:
    """Make an Ed25519 key pair at *path* and return the public half; *hold* is the fleet's lock."""
    cache.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(path)], hold=hold)
    return path.with_name(f"{path.name}.pub").read_text().strip()


def proxy_command(netns: Path) -> str:
    """The ProxyCommand that opens a connection inside the fleet's network."""
    return shlex.join([sys.executable, "-I", "-S", connect.__file__, str(netns)]) + " %h %p"


def write_config(
    path: Path, hosts: Sequence[Host], *, netns: Path, key: Path, known: Path, sockets: Path
) -> None:
    """Write an ssh configuration for the fleet: ``ssh -F PATH NAME`` just works."""
    # Quotes are not removed inside ProxyCommand, which goes to a shell; everywhere else ssh understands them.
    lines = [f"Host {host.name} {host.address}\n  HostName {host.address}" for host in hosts]
    lines.append(
        "\n".join(
            [
                "Host *",
                "  User root",
                f'  IdentityFile "{key}"',
                "  IdentitiesOnly yes",
                "  IdentityAgent none",
                f'  UserKnownHostsFile "{known}"',
                "  GlobalKnownHostsFile /dev/null",
                "  StrictHostKeyChecking yes",
                "  PasswordAuthentication no",
                "  LogLevel ERROR",
                "  ServerAliveInterval 30",
                "  ServerAliveCountMax 10",
                "  ProxyUseFdpass yes",
                f"  ProxyCommand {proxy_command(netns)}",
                "  ControlMaster auto",
                f'  ControlPath "{sockets}/%n"',
                "  ControlPersist 10m",
            ]
        )
    )
    path.write_text("# Made for one fleet of test hosts; gone with it.\n" + "\n".join(lines) + "\n")


def command(config: Path, name: str, arguments: Sequence[str]) -> list[str]:
    """The command line that runs *arguments* on the host *name*."""
    return ["ssh", "-F", str(config), name, *arguments]


def run(config: Path, name: str, script: str, *, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    """Run a shell *script* on the host *name*; the caller judges the status.

    Raises:
        HostsError: It did not end within *timeout* seconds.
    """
    try:
        return subprocess.run(
            ["ssh", "-F", str(config), "-o", "BatchMode=yes", name, script],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise HostsError(f"{name}: no end after {timeout:.0f} s: {script}") from error


def wait_banner(netns: Path, host: Host, deadline: float, alive: Callable[[], bool]) -> None:
    """Wait until the host's ssh server greets.

    Raises:
        HostsError: The host ended first, or *deadline* (monotonic seconds) passed.
    """
    problem = "nothing listened"
    while time.monotonic() < deadline:
        if not alive():
            raise HostsError(f"{host.name} ended while it was booting")
        try:
            with connect.connect(str(netns), host.address, 22, 5.0) as connection:
                if connection.recv(4) == b"SSH-":
                    return
                problem = "something else answered on port 22"
        except OSError as error:
            problem = str(error)
        time.sleep(0.1)
    raise HostsError(f"{host.name} did not answer by ssh in time: {problem}")


def close_masters(sockets: Path) -> None:
    """Ask every ssh connection that waits for reuse in the directory *sockets* to end."""
    for path in sockets.iterdir() if sockets.is_dir() else ():
        if path.is_socket() and not path.name.startswith("vm-"):
            subprocess.run(
                ["ssh", "-F", "/dev/null", "-o", f"ControlPath={path}", "-O", "exit", "testhost"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=20,
                check=False,
            )
