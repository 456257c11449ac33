"""Listening sockets: handed over by the service manager, or made here when a service is run by hand.

systemd passes descriptors from 3 on and says so in ``LISTEN_FDS`` and ``LISTEN_PID`` (sd_listen_fds(3)). A
socket that the manager holds exists while the service is down; whoever connects then waits.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import MutableMapping

from gantry.errors import BusyError, HostError

_FIRST = 3


def inherited_sockets(environment: MutableMapping[str, str] | None = None) -> list[socket.socket]:
    """The sockets that the service manager passed to this process, set close-on-exec; [] when there are none.

    The variables are removed, so that no child takes them for its own.

    Raises:
        HostError: The variables are malformed.
    """
    env = os.environ if environment is None else environment
    pid, count = env.pop("LISTEN_PID", ""), env.pop("LISTEN_FDS", "")
    env.pop("LISTEN_FDNAMES", None)
    if not count or not pid:
        return []
    if not (pid.isascii() and pid.isdigit() and count.isascii() and count.isdigit() and int(count) < 1000):
        raise HostError(f'LISTEN_PID="{pid}" and LISTEN_FDS="{count}" are not what systemd sets')
    if int(pid) != os.getpid():
        return []
    sockets = []
    for fd in range(_FIRST, _FIRST + int(count)):
        os.set_inheritable(fd, False)
        sockets.append(socket.socket(fileno=fd))
    return sockets


def listen_unix(path: str, kind: socket.SocketKind, *, mode: int, gid: int | None = None) -> socket.socket:
    """A listening socket at *path*, replacing one that nobody listens on any more.

    It has its final mode before anybody can connect.

    Args:
        path: Where; its directory is created 0755 if missing.
        kind: SOCK_STREAM or SOCK_SEQPACKET.
        mode: Permission bits of the socket.
        gid: Its group; None leaves the creator's.

    Raises:
        BusyError: Another process listens there.
        HostError: The path cannot be used.
    """
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    with socket.socket(socket.AF_UNIX, kind) as probe:
        try:
            probe.connect(path)
        except FileNotFoundError:
            pass
        except ConnectionRefusedError:
            os.unlink(path)
        except OSError as error:
            raise HostError(f"{path}: {error.strerror}", hint="is it a socket of this service?") from None
        else:
            raise BusyError(
                f"another process listens on {path}", hint="stop it first, or choose another --run-dir"
            )
    listener = socket.socket(socket.AF_UNIX, kind)
    old = os.umask(0o777)
    try:
        listener.bind(path)
    except OSError as error:
        listener.close()
        raise HostError(f"{path}: {error.strerror}") from None
    finally:
        os.umask(old)
    if gid is not None:
        os.chown(path, -1, gid)
    os.chmod(path, mode)
    listener.listen(512)
    return listener


def peer_uid(connection: socket.socket) -> int:
    """The user on the other end of a Unix socket, as the kernel saw it when the connection was made."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    return int.from_bytes(credentials[4:8], sys.byteorder)
