"""The network of a fleet: a bridge in a network namespace, pinned by a mount in the state directory.

This machine gets no interface, address or route, so two fleets, a VPN and a fleet's addresses never meet.
Connections are made by entering the namespace for the moment of connect(2): see :mod:`testhosts.connect`.
"""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Sequence
from pathlib import Path

from testhosts import cache
from testhosts.connect import connect
from testhosts.errors import HostsError
from testhosts.spec import GATEWAY

BRIDGE = "br0"

# A host has a default route as any host has (programs look for it), but it ends here: the answer to a packet
# for elsewhere is an immediate "unreachable", not silence until some timeout.
_SETUP = f"""
set -eu
ip link set lo up
ip link add {BRIDGE} type bridge forward_delay 0
ip address add {GATEWAY}/24 dev {BRIDGE}
ip link set {BRIDGE} up
ip route add unreachable default metric 100
echo 1 > /proc/sys/net/ipv4/ip_forward
"""


def make(path: Path, hold: int) -> None:
    """Make the namespace and the bridge; *path* becomes the handle, *hold* is the fleet's lock."""
    path.touch()
    cache.run(["unshare", f"--net={path}", "sh", "-c", _SETUP], what="making the test network", hold=hold)


def remove(path: Path) -> None:
    """Let go of the namespace; it is gone when its last process is."""
    while mounted(path):
        # Lazily: somebody may just be on the way in through this very path.
        cache.run(["umount", "--lazy", str(path)])
    path.unlink(missing_ok=True)


def mounted(path: Path) -> bool:
    """Whether something is mounted on *path*."""
    with Path("/proc/self/mountinfo").open() as table:
        return any(line.split()[4] == str(path) for line in table)


def command(path: Path, argv: Sequence[str]) -> list[str]:
    """*argv*, to be run inside the namespace."""
    return ["nsenter", f"--net={path}", *argv]


def make_tap(path: Path, name: str, hold: int) -> None:
    """Make the tap device *name* on the bridge, for a VM."""
    script = f"ip tuntap add {name} mode tap && ip link set {name} master {BRIDGE} up"
    cache.run(command(path, ["sh", "-c", script]), what=f"making the tap device {name}", hold=hold)


def get(
    path: Path,
    address: str,
    port: int,
    target: str,
    *,
    host: str = "",
    tls: ssl.SSLContext | None = None,
    timeout: float = 10,
) -> tuple[int, bytes]:
    """An HTTP(S) GET from inside the namespace: status and body.

    Args:
        path: The handle of the namespace.
        address: The host's address.
        port: TCP port.
        target: Path and query.
        host: The name to ask for (``Host`` header and TLS), else the address.
        tls: Talk TLS with this context.
        timeout: Seconds for the connection and for each answer.

    Raises:
        HostsError: Nobody answered, or what answered was not HTTP.
    """
    client = http.client.HTTPConnection(host or address, port, timeout=timeout)
    try:
        client.sock = connect(str(path), address, port, timeout)
        if tls:
            client.sock = tls.wrap_socket(client.sock, server_hostname=host or address)
        client.request("GET", target, headers={"Connection": "close"})
        answer = client.getresponse()
        return answer.status, answer.read()
    except (OSError, http.client.HTTPException) as error:
        raise HostsError(
            f"GET {target} from {address}:{port} failed: {str(error) or type(error).__name__}"
        ) from error
    finally:
        client.close()
