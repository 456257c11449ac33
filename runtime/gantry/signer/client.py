"""Ask the signer.

On the launch path: imports os, socket, struct and json at most (measured in docs/decisions/0007). Every call
is one connection. The signer's socket belongs to the service manager, so a call made while the signer is
restarted waits for it, up to the timeout.

Usage::

    client.create(sock, uuid, hashlib.sha256(token.encode()).hexdigest())   # root
    signature = client.sign(sock, uuid, token, b"content")
    assert client.verify(sock, uuid, b"content", signature)
    client.delete(sock, uuid)                                               # root
"""

from __future__ import annotations

import os
import socket

from gantry.errors import GantryError, HostError, NotFoundError, UsageError
from gantry.signer import protocol

TIMEOUT = 5.0  # seconds for a whole call


class SignerError(HostError):
    """The signer cannot be reached, or it reported trouble of its own."""

    code = "signer"


class SignerRefusedError(GantryError):
    """The signer refused: a wrong token, or a caller who may not."""

    code = "signer-refused"


class UnknownPodError(NotFoundError):
    """The signer has no key for this pod."""

    code = "signer-unknown-pod"


def create(sock_path: str, uuid: str, token_sha256_hex: str, *, timeout: float = TIMEOUT) -> bool:
    """Make a key for the pod *uuid*, usable with the token whose SHA-256 is given. Root only.

    Idempotent: a key that is there stays; with another token than before only the token is replaced, and the
    old one signs no more.

    Returns:
        Whether anything changed.

    Raises:
        UsageError: Not a UUID, or not 64 hex digits.
        SignerError, SignerRefusedError: See there.
    """
    digest = _hex(token_sha256_hex, 32, "the SHA-256 of the token must be 64 hex digits")
    return _call(sock_path, protocol.request(protocol.CREATE, _uuid(uuid), digest), timeout) == b"\x01"


def delete(sock_path: str, uuid: str, *, timeout: float = TIMEOUT) -> bool:
    """Destroy the key of the pod *uuid*: nothing that it signed can be verified any more. Root only.

    Returns:
        Whether there was a key.

    Raises:
        UsageError, SignerError, SignerRefusedError: See there.
    """
    return _call(sock_path, protocol.request(protocol.DELETE, _uuid(uuid)), timeout) == b"\x01"


def sign(sock_path: str, uuid: str, token: str, content: bytes, *, timeout: float = TIMEOUT) -> bytes:
    """The 64 bytes of the pod's HMAC-SHA512 over its 16 UUID bytes and *content* (MDS-18).

    Raises:
        UnknownPodError: No such pod.
        SignerRefusedError: Not this pod's token.
        UsageError: *content* is over 1 MiB, or a parameter is malformed.
        SignerError: See there.
    """
    raw = token.encode()
    if len(raw) > protocol.MAX_TOKEN:
        raise UsageError(f"a token of {len(raw)} bytes is too long")
    _check_content(content)
    return _call(sock_path, protocol.sign_request(_uuid(uuid), raw, content), timeout)


def verify(sock_path: str, uuid: str, content: bytes, signature: bytes, *, timeout: float = TIMEOUT) -> bool:
    """Whether *signature* is that of the pod *uuid* over *content*; False for a pod that is gone.

    Raises:
        UsageError: *content* is over 1 MiB, or *uuid* is malformed.
        SignerError, SignerRefusedError: See there.
    """
    raw = _uuid(uuid)
    _check_content(content)
    if len(signature) != protocol.SIGNATURE_SIZE:
        return False
    try:
        return _call(sock_path, protocol.verify_request(raw, signature, content), timeout) == b"\x01"
    except UnknownPodError:
        return False


def flush(sock_path: str, *, timeout: float = TIMEOUT) -> None:
    """Have the signatures counted so far written to the audit record now. Root only.

    Raises:
        SignerError, SignerRefusedError: See there.
    """
    _call(sock_path, protocol.request(protocol.FLUSH, protocol.NO_UUID), timeout)


def uuids(sock_path: str, *, timeout: float = TIMEOUT) -> list[str]:
    """The pods that have a key, in order; garbage collection compares them with those that exist. Root only.

    Raises:
        SignerError, SignerRefusedError: See there.
    """
    body = _call(sock_path, protocol.request(protocol.LIST, protocol.NO_UUID), timeout)
    return [_canonical(body[at : at + 16].hex()) for at in range(0, len(body), 16)]


def _canonical(digits: str) -> str:
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def _uuid(text: str) -> bytes:
    return _hex(text.replace("-", ""), 16, f'"{text}" is not a UUID')


def _hex(text: str, size: int, complaint: str) -> bytes:
    if len(text) != 2 * size or not text.isalnum():
        raise UsageError(complaint)
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise UsageError(complaint) from None


def _check_content(content: bytes) -> None:
    if len(content) > protocol.MAX_CONTENT:
        raise UsageError(
            f"{len(content)} bytes are too many to be signed in one go", hint="sign a digest of them instead"
        )


def _call(sock_path: str, frame: bytes, timeout: float) -> bytes:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(timeout)
        connection.connect(sock_path)
        try:  # noqa: SIM105 - contextlib costs the launch path more
            connection.sendall(frame)
        except BrokenPipeError:
            pass  # it refused before it had all; the reason is there to be read
        (length,) = protocol.LENGTH.unpack(_receive(connection, protocol.LENGTH.size))
        if not 1 <= length <= protocol.MAX_REPLY:
            raise SignerError(f"the process behind {sock_path} does not speak the signer's protocol")
        answer = _receive(connection, length)
    except TimeoutError:
        raise SignerError(
            f"the signer did not answer within {timeout:g} s", hint="systemctl status gantry-signer"
        ) from None
    except OSError as error:
        what = error.strerror or str(error)
        raise SignerError(
            f"the signer cannot be reached at {os.fsdecode(sock_path)}: {what}",
            hint="is gantry-signer.socket started?",
        ) from None
    finally:
        connection.close()
    status, body = answer[0], answer[1:]
    if status == protocol.OK:
        return body
    text = body.decode(errors="backslashreplace")
    if status == protocol.UNKNOWN_POD:
        raise UnknownPodError(text)
    if status in {protocol.BAD_TOKEN, protocol.FORBIDDEN}:
        raise SignerRefusedError(text)
    raise SignerError(text)


def _receive(connection: socket.socket, size: int) -> bytes:
    parts = []
    while size:
        part = connection.recv(size)
        if not part:
            raise SignerError("the signer ended the connection", hint="journalctl -u gantry-signer")
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
