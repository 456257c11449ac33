"""What may not get lost or be exchanged when a certificate is added to one that is there."""

from __future__ import annotations

from gantry.trust import packets
from gantry.trust.errors import KeyFileError


def expect(wanted: set[str], found: set[str]) -> None:
    """Compare the fingerprints of keys with those that an operator has reviewed.

    Raises:
        KeyFileError: They are others.
    """
    if wanted != found:
        raise KeyFileError(
            f"fingerprint mismatch: expected {', '.join(sorted(wanted))}, it is {', '.join(sorted(found))}",
            hint="this is not the key that you reviewed; do not trust it unless its owner confirms it",
        )


def _packets(encoded: bytes) -> list[packets.Packet]:
    return [packet for found in packets.certificates(encoded) for packet in found.packets]


def same_packets(one: bytes, other: bytes) -> bool:
    """Whether two encodings are of one certificate with the same packets."""
    return set(_packets(one)) == set(_packets(other))


def revocations(encoded: bytes) -> set[bytes]:
    """What a certificate's owner has revoked: the bodies of these signatures."""
    kinds = {packets.KEY_REVOCATION, packets.SUBKEY_REVOCATION, packets.USER_ID_REVOCATION}
    bodies = {packet.body for packet in _packets(encoded) if packet.tag == packets.SIGNATURE}
    return {body for body in bodies if len(body) > 1 and body[1] in kinds}


def no_revocation_lost(copies: list[bytes], merged: bytes) -> None:
    """Prove that merging kept every revocation.

    Raises:
        KeyFileError: It did not.
    """
    if set().union(*map(revocations, copies)) - revocations(merged):
        raise KeyFileError(
            "merging the key would lose a revocation; nothing was changed",
            hint="remove the key with 'gantry trust rm', then add the new one",
        )
