"""Pod UUIDs (TYP-21, TYP-22). Used on the launch path: the standard ``uuid`` module costs milliseconds."""

from __future__ import annotations

# Randomness is all that is wanted of the system here, so that is all that is imported.
from posix import urandom

from gantry.appc.errors import AppcError

_HEX = frozenset("0123456789abcdef")


class UUIDError(AppcError):
    """A text is not a pod UUID."""

    code = "uuid"


def parse_uuid(text: str) -> str:
    """The canonical form (lower case, 8-4-4-4-12) of a UUID written with or without hyphens.

    Raises:
        UUIDError: Any other form, or the all-zero UUID (TYP-22).
    """
    lower = text.lower()
    if len(lower) == 36 and lower[8] == lower[13] == lower[18] == lower[23] == "-":
        digits = lower[:8] + lower[9:13] + lower[14:18] + lower[19:23] + lower[24:]
    else:
        digits = lower
    if len(digits) != 32 or not _HEX.issuperset(digits):
        raise UUIDError(
            f'"{text}" is not a UUID', hint="32 hex digits, plain or grouped 8-4-4-4-12", rule="TYP-21,TYP-22"
        )
    if digits.count("0") == 32:
        raise UUIDError("the all-zero UUID names no pod", rule="TYP-22")
    return _group(digits)


def new_uuid() -> str:
    """A fresh random UUID (RFC 4122 version 4) in canonical form."""
    raw = bytearray(urandom(16))
    raw[6] = raw[6] & 0x0F | 0x40
    raw[8] = raw[8] & 0x3F | 0x80
    return _group(raw.hex())


def uuid_bytes(uuid: str) -> bytes:
    """The 16 raw bytes of *uuid*, as signatures cover them (MDS-18).

    Raises:
        UUIDError: *uuid* is not one.
    """
    return bytes.fromhex(parse_uuid(uuid).replace("-", ""))


def _group(digits: str) -> str:
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
