"""The metadata service: one process for all pods of a host.

It starts as root for one reason, finds the sockets of the running pods (gantry.metadata.recover), and then
becomes an ordinary user for good, before it has read a single byte from a pod. From then on it can open no
pod's files, enter no namespace and read no key; pods started later are handed to it by their launchers.
"""

from __future__ import annotations

import argparse
import gc
import os
import signal
import socket
from collections.abc import Sequence

from gantry import systemd
from gantry.config import Paths
from gantry.errors import HostError, UsageError
from gantry.linux import activation, privileges
from gantry.metadata import recover
from gantry.metadata.control import Control
from gantry.metadata.log import log
from gantry.metadata.registry import Registry
from gantry.metadata.server import Server

PORT = 18112
DESCRIPTORS = 20000


def main(argv: Sequence[str], paths: Paths | None = None) -> int:
    """The command ``gantry metadata-service``. Returns the exit status after SIGTERM or SIGINT.

    Raises:
        GantryError: It cannot start.
    """
    paths = paths or Paths()
    parser = argparse.ArgumentParser(prog="gantry metadata-service", description="Serve the pods' metadata.")
    parser.add_argument("--dir", default=paths.data, help="data directory (default: %(default)s)")
    parser.add_argument("--run-dir", default=paths.run, help="where the sockets are (default: %(default)s)")
    parser.add_argument(
        "--listen-port",
        type=int,
        default=PORT,
        metavar="PORT",
        help="port on 127.0.0.1 for pods in the host's network (default: %(default)s)",
    )
    parser.add_argument("--user", default="gantry-metadata", help="the user to become (default: %(default)s)")
    options = parser.parse_args(argv)
    if not 0 < options.listen_port < 65536:
        raise UsageError(f"{options.listen_port} is not a port", hint="give one from 1 to 65535")
    if os.geteuid() != 0:
        raise HostError(
            "the metadata service has to be started as root",
            hint="it finds the running pods, then becomes --user",
        )
    account = privileges.find_account(options.user)
    if account.uid == 0:
        raise UsageError("the metadata service does not go on as root", hint="give --user another user")
    control_listener, host_listener = _listeners(options.run_dir, options.listen_port)
    privileges.raise_descriptor_limit(DESCRIPTORS)
    pods = recover.recover(options.dir)
    privileges.drop(account)
    privileges.forbid_inspection()
    server = Server(Registry(), os.path.join(options.run_dir, "signer.sock"))
    for pod in pods:
        server.add(pod)
    server.listen(host_listener)
    control = Control(server, control_listener, frozenset({0}))
    signal.set_wakeup_fd(server.wake_fd, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, server.stop)
    gc.collect()
    gc.freeze()
    log(f"ready, {len(pods)} running pods found")
    systemd.notify("READY=1")
    try:
        server.serve()
    finally:
        control.close()
        server.close()
    return 0


def _listeners(run_dir: str, port: int) -> tuple[socket.socket, socket.socket]:
    """The socket for registrations and the one for pods in the host's network; made here if not inherited."""
    control = host = None
    for inherited in activation.inherited_sockets():
        if inherited.family == socket.AF_UNIX and inherited.type == socket.SOCK_SEQPACKET and control is None:
            control = inherited
        elif inherited.family == socket.AF_INET and inherited.type == socket.SOCK_STREAM and host is None:
            host = inherited
        else:
            raise HostError("the service manager passed a socket that is not expected here")
    if control is None:
        path = os.path.join(run_dir, "metadata-svc.sock")
        control = activation.listen_unix(path, socket.SOCK_SEQPACKET, mode=0o600)
    if host is None:
        host = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        host.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            host.bind(("127.0.0.1", port))
        except OSError as error:
            raise HostError(
                f"127.0.0.1:{port}: {error.strerror}", hint="choose another --listen-port"
            ) from None
        host.listen(512)
    return control, host
