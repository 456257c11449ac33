"""Certificates that somebody hands over, as an operator reviews them before they are trusted."""

from __future__ import annotations

from typing import Any, NamedTuple

from gantry.trust import packets
from gantry.trust.child import examine
from gantry.trust.errors import KeyFileError


class KeyInfo(NamedTuple):
    """A certificate as an operator reviews it.

    Times are RFC 3339; ``subkeys`` are dictionaries with ``fingerprint``, ``expires``, ``revoked``,
    ``signs``; ``warnings`` are lines, the most severe first.
    """

    fingerprint: str
    user_ids: tuple[str, ...]
    created: str
    expires: str | None
    expired: bool
    revoked: bool
    subkeys: tuple[dict[str, Any], ...]
    warnings: tuple[str, ...]
    armored: bytes

    def as_dict(self) -> dict[str, object]:
        """For JSON and for diffs: everything but the key itself, and without what changes by the hour."""
        return {
            "fingerprint": self.fingerprint,
            "user_ids": list(self.user_ids),
            "created": self.created,
            "expires": self.expires,
            "revoked": self.revoked,
            "subkeys": [
                {name: key[name] for name in ("fingerprint", "expires", "revoked")} for key in self.subkeys
            ],
        }


def inspect(key_bytes: bytes) -> list[KeyInfo]:
    """The certificates in a file that somebody hands over, for review before they are trusted.

    Raises:
        KeyFileError: It is no public key, or one of them is not readable.
    """
    try:
        found = packets.certificates(key_bytes)
    except packets.PacketError as error:
        raise KeyFileError(
            f"the key cannot be used: {error}",
            hint="give an OpenPGP public key: gpg --armor --export FINGERPRINT > KEYFILE",
        ) from error
    unique = {certificate.fingerprint: certificate for certificate in found}
    if len(unique) != len(found):
        raise KeyFileError("the key file holds one certificate twice", hint="export it again")
    return [key_info(answer) for answer in examine([[certificate.encode()] for certificate in found])]


def key_info(answer: dict[str, Any]) -> KeyInfo:
    """What the unprivileged process said of a certificate.

    Raises:
        KeyFileError: It is not readable.
    """
    if "problem" in answer:
        raise KeyFileError(
            f"the key cannot be used: {answer['problem']}",
            hint="give an OpenPGP public key: gpg --armor --export FINGERPRINT > KEYFILE",
        )
    return KeyInfo(
        fingerprint=answer["fingerprint"],
        user_ids=tuple(answer["user_ids"]),
        created=answer["created"],
        expires=answer["expires"],
        expired=answer["expired"],
        revoked=answer["revoked"],
        subkeys=tuple(answer["subkeys"]),
        warnings=tuple(answer["warnings"]),
        armored=answer["armored"].encode("ascii"),
    )
