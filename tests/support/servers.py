"""Web and ssh servers as they are, as children of a test."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

#: Servers that scripts/setup has unpacked.
SERVERS = Path(os.environ.get("GANTRY_CACHE") or Path(__file__).resolve().parents[2] / ".cache") / "servers"


def server(package: str, name: str) -> str | None:
    """The program of a server, unpacked or installed."""
    unpacked = SERVERS / package / "usr/sbin" / name
    return str(unpacked) if unpacked.exists() else shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")


NGINX = server("nginx", "nginx")


def nginx_frame(place: Path, servers: str) -> str:
    """A configuration with these server blocks, everything else in *place*."""
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = "".join(f"{kind}_temp_path {place}/{kind};" for kind in kinds)
    return (
        f"user {getpass.getuser()}; daemon off; master_process off; pid {place}/pid;\n"
        f"error_log {place}/error.log; events {{}}\n"
        f"http {{ access_log off; {temporary}\n{servers}}}\n"
    )


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def answers(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 20
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        assert process.poll() is None, "the server ended"
        assert time.monotonic() < deadline, "the server does not answer"
        time.sleep(0.02)


@contextlib.contextmanager
def running(command: list[str], port: int) -> Iterator[None]:
    libraries = ":".join(str(each) for each in SERVERS.glob("lib*/usr/lib/*-linux-gnu"))
    environment = {**os.environ, **({"LD_LIBRARY_PATH": libraries} if libraries else {})}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    try:
        answers(port, process)
        yield
    finally:
        process.terminate()
        process.wait(20)
