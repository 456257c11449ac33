"""The running pods, found again when the service starts. Needs root: see gantry.metadata.service.

A pod's pause process holds the listening socket of the pod for as long as the pod lives. ``sandbox.json`` in
the pod's directory says which process and which descriptor, and this module takes a copy of it (pidfd_getfd).
Nothing that was sent to the pod's address meanwhile is lost: it waits in the backlog of that very socket.

A process number is believed only with the boot ID and, when recorded, the start time of the process. A copy
is believed only if it is a listening TCP socket. A pod whose files do not fit is left out and told; the
others are served.
"""

from __future__ import annotations

import json
import os
from typing import NamedTuple

from gantry.appc.uuid import UUIDError, parse_uuid
from gantry.errors import GantryError
from gantry.linux import namespaces, pidfd, syscalls
from gantry.metadata import document
from gantry.metadata.client import RegistrationError
from gantry.metadata.control import checked_listener, read_document
from gantry.metadata.log import log
from gantry.metadata.registry import Pod

_MAX_SANDBOX = 64 << 10


class Sandbox(NamedTuple):
    """What ``sandbox.json`` says.

    Attributes:
        pause_pid: The pod's pause process.
        pause_start: When it started, in clock ticks since boot; None if not recorded.
        listen_fd: The descriptor of the listening socket in it; None in the host's network.
        boot_id: The boot in which all that is true.
    """

    pause_pid: int
    pause_start: int | None
    listen_fd: int | None
    boot_id: str


def recover(data_dir: str) -> list[Pod]:
    """The pods below *data_dir* that are running now and can be served."""
    directory = os.path.join(data_dir, "pods", "run")
    boot_id = namespaces.boot_id()
    pods = []
    try:
        names = sorted(os.listdir(directory))
    except FileNotFoundError:
        return []
    for name in names:
        try:
            if parse_uuid(name) != name:
                continue
            pod = _recover_one(os.path.join(directory, name), name, boot_id)
        except UUIDError:
            continue
        except (GantryError, OSError) as error:
            log(f"{name}: not served: {error}")
        else:
            if pod is not None:
                pods.append(pod)
    return pods


def parse_sandbox(data: bytes) -> Sandbox:
    """Read ``sandbox.json``; fields that are not known here are ignored.

    Raises:
        RegistrationError: It is malformed.
    """
    try:
        raw = json.loads(data)
        pause_pid, boot = raw["pause_pid"], raw["boot_id"]
        pause_start, listen_fd = raw.get("pause_start"), raw.get("listen_fd")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise RegistrationError("sandbox.json is malformed") from None
    if listen_fd == -1:
        listen_fd = None
    numbers = (pause_pid, pause_start, listen_fd)
    if (
        pause_pid is None
        or not all(n is None or (type(n) is int and 0 <= n < 1 << 63) for n in numbers)
        or not (0 < pause_pid < 1 << 31)
        or not isinstance(boot, str)
    ):
        raise RegistrationError("sandbox.json is malformed")
    return Sandbox(pause_pid, pause_start, listen_fd, boot)


def _recover_one(directory: str, uuid: str, boot_id: str) -> Pod | None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        try:
            sandbox = parse_sandbox(_read(fd, "sandbox.json", _MAX_SANDBOX))
        except FileNotFoundError:
            return None  # being started: its launcher will register it
        if sandbox.boot_id != boot_id:
            return None  # of an earlier boot
        parsed = document.parse(_read(fd, "metadata.json", document.MAX_SIZE))
    finally:
        os.close(fd)
    if parsed.uuid != uuid:
        raise RegistrationError(f"its document is that of pod {parsed.uuid}")
    try:
        handle = pidfd.pidfd_open(sandbox.pause_pid, started=sandbox.pause_start)
    except ProcessLookupError:
        return None  # it has ended
    try:
        listener = None
        if sandbox.listen_fd is not None:
            listener = checked_listener(syscalls.pidfd_getfd(handle, sandbox.listen_fd))
    except BaseException:
        os.close(handle)
        raise
    return Pod(parsed, listener, handle)


def _read(directory: int, name: str, limit: int) -> bytes:
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=directory)
    try:
        if os.fstat(fd).st_uid not in {0, os.geteuid()}:
            raise RegistrationError(f"{name} belongs to somebody else")
        if os.fstat(fd).st_size > limit:
            raise RegistrationError(f"{name} is too large")
        return read_document(fd)
    finally:
        os.close(fd)
