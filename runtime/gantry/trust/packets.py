"""A small reader of OpenPGP packets: who made a signature, when, with what; what a key says of itself.

It decides nothing. It verifies no signature, so whatever it reports may have been forged by whoever sent the
bytes; :mod:`gantry.trust.openpgp` decides. It serves to find the key for a signature before anything is
downloaded, and to explain a refusal.

Bytes from strangers: everything is bounded by the length of what was handed in, every length is checked,
nothing recurses, and only :class:`PacketError` is raised.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterator
from typing import NamedTuple

#: No signature file and no key file is larger, in bytes. The largest real ones are post-quantum signatures
#: (50 kB) and keys with hundreds of certifications.
MAX_SIGNATURE_FILE = 256 * 1024
MAX_KEY_FILE = 4 * 1024 * 1024
MAX_BLOCKS = 256
#: No certificate has more parts: whatever judges it takes time for each of them, and more for pairs of them.
MAX_USER_IDS, MAX_SUBKEYS, MAX_PACKETS = 500, 100, 20_000

SIGNATURE, SECRET_KEY, PUBLIC_KEY, SECRET_SUBKEY = 2, 5, 6, 7
MARKER, USER_ID, PUBLIC_SUBKEY, USER_ATTRIBUTE, PADDING = 10, 13, 14, 17, 21

_NOTATION = 20
_UNDERSTOOD = frozenset({2, 3, 4, 5, 6, 7, 9, 11, 12, 16, *range(21, 36), 37, 39})

BINARY, DIRECT_KEY, SUBKEY_BINDING = 0x00, 0x1F, 0x18
KEY_REVOCATION, SUBKEY_REVOCATION, USER_ID_REVOCATION = 0x20, 0x28, 0x30
CERTIFICATIONS = range(0x10, 0x14)

HASHES = {
    1: "MD5",
    2: "SHA-1",
    3: "RIPEMD-160",
    8: "SHA-256",
    9: "SHA-384",
    10: "SHA-512",
    11: "SHA-224",
    12: "SHA3-256",
    14: "SHA3-512",
}
WEAK_HASHES = frozenset({1, 2, 3})

#: Reasons for a revocation after which signatures made before it may still have been honest.
SOFT_REASONS = {1: "superseded", 3: "no longer used"}
REASONS = {0: "no reason given", 2: "key compromised", 32: "user ID no longer valid", **SOFT_REASONS}


class PacketError(ValueError):
    """The bytes are not what they should be; the text says what is wrong."""


class Packet(NamedTuple):
    """One packet: its type and its content without the header."""

    tag: int
    body: bytes

    def encode(self) -> bytes:
        """The packet with a header of the current format."""
        return bytes([0xC0 | self.tag, 0xFF]) + len(self.body).to_bytes(4, "big") + self.body


class Signature(NamedTuple):
    """What a signature packet says of itself.

    Times are seconds since the epoch, ``None`` where it says nothing. ``issuer`` is a fingerprint in
    lower-case hexadecimal, or the last 16 digits of one where the signature is old. ``demands`` is what it
    says must be understood by whoever accepts it, and is not here; empty: nothing.
    """

    body: bytes
    version: int
    kind: int
    hash_algorithm: int
    created: int | None
    expires: int | None
    issuer: str | None
    key_validity: int | None
    key_flags: int | None
    reason: int | None
    reason_text: str
    demands: str

    def made_by(self, fingerprint: str) -> bool:
        """Whether this names the key *fingerprint* as its maker."""
        issuer = self.issuer
        if issuer is None:
            return False
        if len(issuer) == 16:
            return issuer == key_id(fingerprint)
        return issuer == fingerprint


class Key(NamedTuple):
    """A primary key or a subkey, and the signatures that follow it.

    ``bits`` is the length of the modulus where there is one (RSA, DSA), else 0.
    """

    fingerprint: str
    created: int
    bits: int
    signatures: tuple[Signature, ...]


class Certificate(NamedTuple):
    """A primary key with user IDs and subkeys."""

    primary: Key
    user_ids: tuple[str, ...]
    certifications: tuple[Signature, ...]
    subkeys: tuple[Key, ...]
    packets: tuple[Packet, ...]

    @property
    def fingerprint(self) -> str:
        """That of the primary key: what the certificate is known by."""
        return self.primary.fingerprint

    @property
    def keys(self) -> tuple[Key, ...]:
        """The primary key and the subkeys."""
        return (self.primary, *self.subkeys)

    def encode(self) -> bytes:
        """The certificate as it was read, without armor."""
        return b"".join(packet.encode() for packet in self.packets)


def key_id(fingerprint: str) -> str:
    """The 16 hexadecimal digits by which old signatures name a key."""
    return fingerprint[-16:] if len(fingerprint) == 40 else fingerprint[:16]


def dearmor(data: bytes, kind: str) -> bytes:
    """The bytes inside one or several ASCII-armored blocks of *kind* (``SIGNATURE``, ``PUBLIC KEY BLOCK``).

    Nothing but white space may stand before, between or after the blocks. The checksum at the end of a block
    is not looked at, as RFC 9580 asks: it protects nothing.

    Raises:
        PacketError: Not armored, of another kind, or something else stands beside it.
    """
    position = _skip_space(data, 0)
    if position == len(data):
        raise PacketError("it is empty")
    out: list[bytes] = []
    while position < len(data):
        if len(out) == MAX_BLOCKS:
            raise PacketError(f"it holds more than {MAX_BLOCKS} blocks")
        position, block = _block(data, position, kind)
        out.append(block)
    return b"".join(out)


_SPACE = re.compile(rb"\s*")
_BEGIN = re.compile(rb"-----BEGIN PGP ([A-Z ]{1,40})-----[ \t\r]*\n")
_HEADER = re.compile(rb"[A-Za-z]{1,32}: [^\n]{0,1000}\n|[ \t\r]*\n")


def _skip_space(data: bytes, position: int) -> int:
    space = _SPACE.match(data, position)
    return space.end() if space else position


def _block(data: bytes, position: int, kind: str) -> tuple[int, bytes]:
    """The content of the armored block that begins at *position*, and where the next one begins."""
    begin = _BEGIN.match(data, position)
    if begin is None:
        if data[position] & 0x80:
            raise PacketError("it is binary, not ASCII-armored")
        start = data[position : position + 24].decode("ascii", "replace")
        raise PacketError(f"there is {start!r} where an armored block should begin")
    found = begin[1].decode("ascii")
    if found != kind:
        raise PacketError(f"it is a PGP {found}, not a PGP {kind}")
    position = begin.end()
    while True:
        header = _HEADER.match(data, position)
        if header is None:
            raise PacketError("its armor has a malformed header")
        position = header.end()
        if not header[0].strip():
            break
    tail = b"-----END PGP " + begin[1] + b"-----"
    end = data.find(tail, position)
    if end < 0:
        raise PacketError("its armor has no end: it was cut")
    text = b"".join(data[position:end].split())
    # The checksum: "=" and four characters, where base64 cannot have a "=".
    if len(text) % 4 == 1 and text[-5:-4] == b"=":
        text = text[:-5]
    try:
        block = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise PacketError("its armor is not base64") from error
    return _skip_space(data, end + len(tail)), block


def split(data: bytes) -> Iterator[Packet]:
    """The packets in *data*, which must hold nothing else.

    Raises:
        PacketError: A header or length is malformed. Lengths in parts are refused too: keys and signatures
            have none.
    """
    position = 0
    while position < len(data):
        tag, start, length = _header(data, position)
        if length > len(data) - start:
            raise PacketError(f"a packet claims {length} bytes and {len(data) - start} are there")
        yield Packet(tag, data[start : start + length])
        position = start + length


def _header(data: bytes, position: int) -> tuple[int, int, int]:
    """Tag, where the body starts, its length."""
    first = data[position]
    if not first & 0x80:
        raise PacketError("what follows is not an OpenPGP packet")
    if first & 0x40:
        length, start = _length(data, position + 1)
        return first & 0x3F, start, length
    size = (1, 2, 4, 0)[first & 3]
    if not size:
        raise PacketError("a packet has no length")
    start = position + 1 + size
    if start > len(data):
        raise PacketError("it ends within a packet's header")
    return (first >> 2) & 0x0F, start, int.from_bytes(data[position + 1 : start], "big")


def _length(data: bytes, position: int) -> tuple[int, int]:
    """A length of the current packet format and where it ends."""
    first = data[position] if position < len(data) else -1
    if 0 <= first < 192:
        return first, position + 1
    if 224 <= first < 255:
        raise PacketError("a packet has a length in parts")
    size = 5 if first == 255 else 2
    if first < 0 or position + size > len(data):
        raise PacketError("it ends within a packet's header")
    if size == 5:
        return int.from_bytes(data[position + 1 : position + 5], "big"), position + 5
    return ((first - 192) << 8) + data[position + 1] + 192, position + 2


def signatures(data: bytes, *, limit: int = 16) -> list[Signature]:
    """The signatures of a detached signature file in binary form.

    Raises:
        PacketError: Something else is among them, there are none, or more than *limit*.
    """
    found: list[Signature] = []
    for packet in split(data):
        if packet.tag in {MARKER, PADDING}:
            continue
        if packet.tag != SIGNATURE:
            raise PacketError(f"it holds a packet of type {packet.tag}, which is no signature")
        if len(found) == limit:
            raise PacketError(f"it holds more than {limit} signatures")
        found.append(signature(packet.body))
    if not found:
        raise PacketError("it holds no signature")
    return found


def signature(body: bytes) -> Signature:
    """Read one signature packet.

    Raises:
        PacketError: It is malformed or of a version other than 4 and 6.
    """
    version = body[0] if body else 0
    if version not in {4, 6}:
        raise PacketError(f"its version is {version}; 4 and 6 are understood")
    wide = 4 if version == 6 else 2
    hashed, position = _area(body, 4, wide)
    other, _ = _area(body, position, wide)
    own = _subpackets(hashed)
    # Only the hint which key to try may come from the part that is not signed.
    hints = {**_subpackets(other), **own}
    created = _number(own, 2)
    lifetime = _number(own, 3)
    reason = own.get(29, b"")
    return Signature(
        body=body,
        version=version,
        kind=body[1],
        hash_algorithm=body[3],
        created=created,
        expires=created + lifetime if created is not None and lifetime else None,
        issuer=_issuer(hints),
        key_validity=_number(own, 9),
        key_flags=own[27][0] if own.get(27) else None,
        reason=reason[0] if reason else None,
        reason_text=reason[1:].decode("utf-8", "replace"),
        demands=_demands(hashed),
    )


def _area(body: bytes, position: int, wide: int) -> tuple[bytes, int]:
    start = position + wide
    if start > len(body):
        raise PacketError("a signature ends too early")
    end = start + int.from_bytes(body[position:start], "big")
    if end > len(body):
        raise PacketError("a signature ends too early")
    return body[start:end], end


def _demands(area: bytes) -> str:
    """The first critical subpacket that nobody here understands; a notation is one by its name."""
    for kind, critical, content in _each_subpacket(area):
        if critical and kind == _NOTATION:
            size = int.from_bytes(content[4:6], "big")
            return f'the notation "{content[8 : 8 + min(size, 100)].decode("utf-8", "replace")}"'
        if critical and kind not in _UNDERSTOOD:
            return f"a subpacket of type {kind}"
    return ""


def _subpackets(area: bytes) -> dict[int, bytes]:
    """Type and content; of several of one type the last."""
    return {kind: content for kind, _, content in _each_subpacket(area)}


def _each_subpacket(area: bytes) -> Iterator[tuple[int, bool, bytes]]:
    """Type, whether it is critical, and content."""
    position = 0
    while position < len(area):
        first = area[position]
        size = 1 if first < 192 else 2 if first < 255 else 5
        start = position + size
        if start > len(area):
            raise PacketError("a subpacket ends too early")
        if size == 1:
            length = first
        elif size == 2:
            length = ((first - 192) << 8) + area[position + 1] + 192
        else:
            length = int.from_bytes(area[position + 1 : start], "big")
        if not length or length > len(area) - start:
            raise PacketError("a subpacket's length is wrong")
        yield area[start] & 0x7F, bool(area[start] & 0x80), area[start + 1 : start + length]
        position = start + length


def _number(subpackets: dict[int, bytes], kind: int) -> int | None:
    value = subpackets.get(kind)
    return int.from_bytes(value, "big") if value is not None and len(value) == 4 else None


def _issuer(subpackets: dict[int, bytes]) -> str | None:
    fingerprint = subpackets.get(33, b"")
    if (fingerprint[:1], len(fingerprint)) in {(b"\x04", 21), (b"\x06", 33)}:
        return fingerprint[1:].hex()
    short = subpackets.get(16, b"")
    return short.hex() if len(short) == 8 else None


def certificates(data: bytes) -> list[Certificate]:
    """The certificates in *data*: armored or binary, one after the other.

    Raises:
        PacketError: Something else is among them, there are none, or it holds a *secret* key.
    """
    if len(data) > MAX_KEY_FILE:
        raise PacketError(f"it is larger than {MAX_KEY_FILE} bytes")
    if not data[:1] or not data[0] & 0x80:
        data = dearmor(data, "PUBLIC KEY BLOCK")
    groups: list[list[Packet]] = []
    for packet in split(data):
        if packet.tag in {SECRET_KEY, SECRET_SUBKEY}:
            raise PacketError("it holds a secret key; export the public one")
        if packet.tag == PUBLIC_KEY:
            groups.append([])
        elif packet.tag in {MARKER, PADDING}:
            continue
        if not groups:
            raise PacketError("it does not begin with a public key")
        groups[-1].append(packet)
        if len(groups[-1]) > MAX_PACKETS:
            raise PacketError(f"a key in it has more than {MAX_PACKETS} parts")
    if not groups:
        raise PacketError("it holds no public key")
    return [_certificate(group) for group in groups]


def _certificate(group: list[Packet]) -> Certificate:
    keys: list[tuple[bytes, list[Signature]]] = []
    user_ids: list[str] = []
    certifications: list[Signature] = []
    target: list[Signature] | None = None
    for packet in group:
        if packet.tag in {PUBLIC_KEY, PUBLIC_SUBKEY}:
            target = []
            keys.append((packet.body, target))
        elif packet.tag == USER_ID:
            user_ids.append(packet.body.decode("utf-8", "replace"))
            target = certifications
        elif packet.tag == USER_ATTRIBUTE:
            target = certifications
        elif packet.tag == SIGNATURE:
            try:
                found = signature(packet.body)
            except PacketError:
                continue  # old or odd ones are common on keys and change nothing
            # Owners append a revocation of the whole key wherever they like.
            own = target is None or found.kind == KEY_REVOCATION
            (keys[0][1] if own or target is None else target).append(found)
    if len(user_ids) > MAX_USER_IDS or len(keys) > MAX_SUBKEYS + 1:
        raise PacketError(f"a key in it has more than {MAX_USER_IDS} user IDs or {MAX_SUBKEYS} subkeys")
    read = [_key(body, made) for body, made in keys]
    return Certificate(read[0], tuple(user_ids), tuple(certifications), tuple(read[1:]), tuple(group))


def _key(body: bytes, made: list[Signature]) -> Key:
    start = 10 if body[:1] == b"\x06" else 6  # a key of version 6 has the length of what follows before it
    modulus = len(body) > start + 2 and body[5] in {1, 2, 3, 17}
    bits = int.from_bytes(body[start : start + 2], "big") if modulus else 0
    return Key(fingerprint(body), int.from_bytes(body[1:5], "big"), bits, tuple(made))


def fingerprint(body: bytes) -> str:
    """The fingerprint of a key packet, in lower-case hexadecimal."""
    version = body[0] if len(body) > 6 else 0
    if version == 4 and len(body) < 65536:
        framed = b"\x99" + len(body).to_bytes(2, "big") + body
        return hashlib.sha1(framed, usedforsecurity=False).hexdigest()
    if version == 6:
        return hashlib.sha256(b"\x9b" + len(body).to_bytes(4, "big") + body).hexdigest()
    raise PacketError(f"a key is of version {version}; 4 and 6 are understood")
