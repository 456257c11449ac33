"""Open a TCP connection inside a fleet's network namespace and hand it to ssh.

ssh runs this as its ProxyCommand with ProxyUseFdpass: the connected socket travels over standard output, and
this process is gone before the first byte flows. Nothing of the fleet's network is visible on this machine.
Run as a script with ``python -I -S``; it imports nothing heavy.
"""

from __future__ import annotations

import ctypes
import os
import socket
import sys

CLONE_NEWNET = 0x40000000


def enter(namespace: int) -> None:
    """Move the calling thread into the network *namespace* (a descriptor)."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(namespace, CLONE_NEWNET):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def connect(namespace: str, address: str, port: int, timeout: float) -> socket.socket:
    """Connect to *address*:*port* from inside *namespace* (a path); the thread ends where it began.

    Raises:
        OSError: The namespace is gone or nobody answered within *timeout* seconds.
    """
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        there = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
        try:
            enter(there)
        finally:
            os.close(there)
        try:
            return socket.create_connection((address, port), timeout=timeout)
        finally:
            enter(home)
    finally:
        os.close(home)


def main() -> int:
    """``connect.py NETNS ADDRESS PORT``."""
    namespace, address, port = sys.argv[1:4]
    try:
        connection = connect(namespace, address, int(port), 20.0)
    except OSError as error:
        print(f"cannot reach {address} port {port}: {error.strerror or error}", file=sys.stderr)
        return 1
    with connection, socket.socket(fileno=1) as ssh:
        connection.settimeout(None)
        socket.send_fds(ssh, [b"\0"], [connection.fileno()])
        ssh.detach()
    return 0


if __name__ == "__main__":
    sys.exit(main())
