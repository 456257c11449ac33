"""Tell the metadata service about pods.

On the launch path: imports os, socket and json. One message and one answer over a SOCK_SEQPACKET socket that
belongs to the service manager, so it exists while the service is down; a message sent then waits and is read
at the next start. (Which would find the pod anyway: it looks through the running pods.) So no answer in time
is no failure::

    if not client.register(sock, uuid, doc_fd, listen_fd, pause_pid=pid):
        # written down, not acknowledged yet

Messages are JSON objects of at most 4 KiB; descriptors travel beside them (SCM_RIGHTS)::

    {"op": "register", "uuid": U, "pause_pid": N | null}    + document[, listening socket]
    {"op": "unregister", "uuid": U}
    {"op": "list"}

Answers: ``{"ok": true, ...}`` or ``{"ok": false, "code": ..., "message": ...}``.
"""

from __future__ import annotations

import json
import os
import socket

from gantry.errors import GantryError, HostError

TIMEOUT = 2.0  # seconds
MAX_MESSAGE = 4096
MAX_ANSWER = 1 << 20


class MetadataError(HostError):
    """The metadata service cannot be reached."""

    code = "metadata"


class RegistrationError(GantryError):
    """The metadata service refused a registration."""

    code = "metadata-refused"


def register(
    sock_path: str,
    uuid: str,
    doc_fd: int,
    listen_fd: int | None,
    *,
    pause_pid: int | None = None,
    timeout: float = TIMEOUT,
) -> bool:
    """Have the pod *uuid* served. Doing it again changes nothing; with another document it replaces.

    Args:
        sock_path: ``RUN/metadata-svc.sock``.
        uuid: The pod's.
        doc_fd: Its metadata document (see :mod:`gantry.metadata.document`), a regular file open for reading;
            the offset does not matter. The caller keeps it.
        listen_fd: A listening TCP socket in the pod's network; None for a pod in the host's. The caller keeps
            it.
        pause_pid: The process that ends with the pod. Without it the pod is served until :func:`unregister`.
        timeout: Seconds to wait for the answer.

    Returns:
        Whether the service has confirmed. False: it has not answered yet and will find the message when it
        can.

    Raises:
        MetadataError: Nobody holds the socket.
        RegistrationError: The service refused; the message says why.
    """
    fds = [doc_fd] if listen_fd is None else [doc_fd, listen_fd]
    message: dict[str, object] = {"op": "register", "uuid": uuid, "pause_pid": pause_pid}
    return _ask(sock_path, message, fds, timeout) is not None


def unregister(sock_path: str, uuid: str, *, timeout: float = TIMEOUT) -> bool:
    """Have the pod *uuid* served no longer; its socket there and its connections are closed.

    Returns:
        Whether the service has confirmed.

    Raises:
        MetadataError, RegistrationError: See there.
    """
    return _ask(sock_path, {"op": "unregister", "uuid": uuid}, [], timeout) is not None


def pods(sock_path: str, *, timeout: float = TIMEOUT) -> list[str]:
    """The UUIDs of the pods that are served.

    Raises:
        MetadataError: Also when the answer does not come in time.
    """
    answer = _ask(sock_path, {"op": "list"}, [], timeout)
    if answer is None:
        raise MetadataError(f"the metadata service did not answer within {timeout:g} s")
    listed = answer.get("pods")
    return [str(uuid) for uuid in listed] if isinstance(listed, list) else []


def _ask(
    sock_path: str, message: dict[str, object], fds: list[int], timeout: float
) -> dict[str, object] | None:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        connection.settimeout(timeout)
        connection.connect(sock_path)
        try:  # noqa: SIM105 - contextlib costs the launch path more
            socket.send_fds(connection, [json.dumps(message).encode()], fds)
        except BrokenPipeError:
            pass  # it refused before it had all; the reason is there to be read
        try:
            data = connection.recv(MAX_ANSWER)
        except ConnectionResetError:
            data = connection.recv(MAX_ANSWER)  # told first that it has gone, then what it had said
    except (TimeoutError, BlockingIOError):
        return None
    except OSError as error:
        raise MetadataError(
            f"the metadata service cannot be reached at {os.fsdecode(sock_path)}: {error.strerror}",
            hint="is gantry-metadata.socket started?",
        ) from None
    finally:
        connection.close()
    if not data:
        return None  # it went down before it answered; the next one looks through the running pods
    answer = json.loads(data)
    if not isinstance(answer, dict) or not answer.get("ok"):
        raise RegistrationError(
            str(answer.get("message", "refused")) if isinstance(answer, dict) else "refused"
        )
    return answer
