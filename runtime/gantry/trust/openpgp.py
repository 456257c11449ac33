"""The cryptographic decisions, made by Sequoia through pysequoia. The only module that imports it.

Runs in the verifier's process (:mod:`gantry.trust.worker`), unprivileged, and in ``gantry sign``; never in a
process with privileges that handles what strangers sent.

pysequoia raises bare ``RuntimeError`` whose text is a Rust stack trace. So nothing here reads a reason from
it: every question is one that has yes or no for an answer.
"""

from __future__ import annotations

import os
from typing import NamedTuple

import pysequoia

from gantry.trust import packets


class LockedKeyError(packets.PacketError):
    """A secret key is protected by a passphrase."""


class Finding(NamedTuple):
    """What Sequoia says of a certificate, at this moment.

    Attributes:
        cert: The certificate, copies merged.
        view: The same as packets.
        user_ids: Those that are properly bound and not revoked.
        sound: Whether the certificate is bound together by signatures that are strong enough and from the
            past.
        expires: When, in seconds since the epoch; ``None`` for never (or not sound).
        revoked: By its owner.
        signing: Fingerprints of the keys in it that may sign data now: bound, in date, not revoked, meant for
            it.
    """

    cert: pysequoia.Cert
    view: packets.Certificate
    user_ids: tuple[str, ...]
    sound: bool
    expires: float | None
    revoked: bool
    signing: frozenset[str]


def examine(copies: list[bytes]) -> Finding:
    """Merge the *copies* of one certificate and ask Sequoia about it.

    Raises:
        packets.PacketError: Not exactly one certificate in each copy, not all the same, or not readable.
    """
    read = [packets.certificates(copy) for copy in copies]
    if not read or any(len(found) != 1 for found in read):
        raise packets.PacketError("it does not hold exactly one certificate")
    if len({found[0].fingerprint for found in read}) != 1:
        raise packets.PacketError("the copies are of different certificates")
    try:
        cert = pysequoia.Cert.from_bytes(copies[0])
        for copy in copies[1:]:
            cert = cert.merge(pysequoia.Cert.from_bytes(copy))
        encoded = bytes(cert)
    except Exception as error:
        raise packets.PacketError("it is not a certificate that OpenPGP can read") from error
    (view,) = packets.certificates(encoded)
    if view.fingerprint != read[0][0].fingerprint or cert.fingerprint != view.fingerprint:
        raise packets.PacketError("it is read differently by two readers")
    try:
        expires = cert.expiration
        sound = True
    except Exception:  # noqa: BLE001 - see above: the question is whether it can be told
        expires, sound = None, False
    try:
        user_ids = tuple(str(user_id) for user_id in cert.user_ids)
    except Exception:  # noqa: BLE001
        user_ids = ()
    return Finding(
        cert=cert,
        view=view,
        user_ids=user_ids,
        sound=sound,
        expires=expires.timestamp() if expires else None,
        revoked=_is_revoked(cert, view),
        signing=frozenset(key.fingerprint for key in view.keys if _may_sign_now(view, key.fingerprint)),
    )


def _is_revoked(cert: pysequoia.Cert, view: packets.Certificate) -> bool:
    try:
        return bool(cert.is_revoked)
    except Exception:  # noqa: BLE001 - not sound, so Sequoia cannot tell: believe what stands there
        return any(found.kind == packets.KEY_REVOCATION for found in view.primary.signatures)


def _may_sign_now(view: packets.Certificate, fingerprint: str) -> bool:
    """Whether Sequoia's policy would let this very key sign something at this moment.

    pysequoia has no such question for public keys, but it has it for secret ones: a signer is made from the
    first key that is bound by a good signature, alive, not revoked, meant for signing, and has a secret. So
    the key is given an (encrypted, meaningless) secret, alone of all keys in the certificate. Then "it is
    encrypted" means yes, and any other answer no.
    """
    out = []
    for packet in view.packets:
        if packet.tag in {packets.PUBLIC_KEY, packets.PUBLIC_SUBKEY} and (
            packets.fingerprint(packet.body) == fingerprint
        ):
            tag = packets.SECRET_KEY if packet.tag == packets.PUBLIC_KEY else packets.SECRET_SUBKEY
            out.append(packets.Packet(tag, packet.body + _locked_secret(packet.body[0])).encode())
        else:
            out.append(packet.encode())
    try:
        pysequoia.Tsk.from_bytes(b"".join(out)).signer()
    except Exception as error:  # noqa: BLE001 - any answer but one is no
        return _is_locked(error)
    return False


def _is_locked(error: Exception) -> bool:
    """Whether Sequoia refused a secret key that may sign only because it is encrypted."""
    return str(error).startswith("Invalid argument: secret key material is encrypted")


def _locked_secret(version: int) -> bytes:
    """The secret part of a key packet, encrypted with AES-256 under a salted, iterated passphrase: noise."""
    s2k = bytes([3, 8]) + b"no key  " + bytes([0x60])
    parameters = bytes([9]) + (bytes([len(s2k)]) if version == 6 else b"") + s2k + bytes(16)
    usage = bytes([254]) + (bytes([len(parameters)]) if version == 6 else b"")
    return usage + parameters + bytes(64)


class Verdict(NamedTuple):
    """Which key made a good signature: fingerprints of the certificate and of the very key."""

    certificate: str
    signer: str


def verify_stream(signature: bytes, cert: pysequoia.Cert, data: int) -> Verdict | None:
    """Whether *signature*, by a key of *cert*, is good for the bytes that come from the descriptor *data*.

    Reads to the end, in constant memory.

    Args:
        signature: One signature packet.
        cert: The certificate.
        data: A descriptor of a pipe or a file.
    """
    try:
        sig = pysequoia.Sig.from_bytes(signature)
        # Given a path, pysequoia maps regular files and streams everything else.
        found = pysequoia.verify(file=f"/proc/self/fd/{data}", store=lambda _ids: [cert], signature=sig)
        valid = found.valid_sigs
    except Exception:  # noqa: BLE001 - see the module: yes or no
        return None
    if len(valid) != 1:
        return None
    return Verdict(valid[0].certificate, valid[0].signing_key)


def make_key(user_id: str, *, validity: int | None = None) -> tuple[str, str, str]:
    """A new key: secret and public half, armored, and the fingerprint.

    Args:
        user_id: ``Name <mail>``.
        validity: Seconds until it expires; ``None`` for never.
    """
    made = pysequoia.Tsk.generate(user_id, validity_seconds=validity)
    public = made.extract_certificate()
    return str(made), str(public), public.fingerprint


def public_half(secret_key: bytes) -> str:
    """The armored public half of a secret key."""
    return str(pysequoia.Tsk.from_bytes(secret_key).extract_certificate())


def sign_detached(path: str, secret_key: bytes) -> str:
    """An armored detached signature of the file.

    Raises:
        LockedKeyError: The key is protected by a passphrase.
        packets.PacketError: The key is not readable, or not one that may sign.
        OSError: The file cannot be read.
    """
    try:
        signer = pysequoia.Tsk.from_bytes(secret_key).signer()
    except Exception as error:
        if _is_locked(error):
            raise LockedKeyError("it is protected by a passphrase") from error
        raise packets.PacketError("it is no secret key that may sign now") from error
    data = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    out = -1
    try:
        out = os.memfd_create("gantry-signature")
        paths = (f"/proc/self/fd/{data}", f"/proc/self/fd/{out}")
        try:
            pysequoia.sign_file(signer, *paths, mode=pysequoia.SignatureMode.DETACHED)
        except Exception as error:
            raise packets.PacketError("signing failed") from error
        with os.fdopen(out, "rb") as file:
            out = -1
            file.seek(0)
            return file.read().decode("ascii")
    finally:
        os.close(data)
        if out >= 0:
            os.close(out)
