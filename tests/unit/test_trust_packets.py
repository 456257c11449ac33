"""The packet reader against an independent one (Sequoia's), and its strictness."""

from __future__ import annotations

import base64

import pysequoia
import pytest
from pysequoia.packet import PacketPile, Tag
from tests.support.openpgp import GnuPG, KeyPair, make_key

from gantry.trust import packets
from gantry.trust.packets import PacketError, certificates, dearmor, signatures, split


@pytest.fixture(scope="module")
def key() -> KeyPair:
    return make_key()


@pytest.fixture(scope="module")
def many() -> list[bytes]:
    """Certificates of every kind that Sequoia and GnuPG make, armored."""
    modern = pysequoia.Profile.RFC9580
    made = [
        pysequoia.Tsk.generate("plain"),
        pysequoia.Tsk.generate(user_ids=["one", "two", "drei äöü"]),
        pysequoia.Tsk.generate("v6", profile=modern),
        pysequoia.Tsk.generate("rsa", cipher_suite=pysequoia.CipherSuite.RSA2k),
        pysequoia.Tsk.generate("p521", cipher_suite=pysequoia.CipherSuite.P521),
        pysequoia.Tsk.generate("pq", profile=modern, cipher_suite=pysequoia.CipherSuite.MLDSA65_Ed25519),
        pysequoia.Tsk.generate("short", validity_seconds=1000),
    ]
    out = [str(one.extract_certificate()).encode() for one in made]
    with GnuPG() as gpg:
        fingerprint = gpg.make_key("gpg", algorithm="rsa2048")
        gpg.add_subkey(fingerprint, expires="1y")
        gpg.edit(fingerprint, "key 1", "revkey", "y", "2", "it was time", "", "y")
        gpg.revoke(fingerprint, reason="1", text="gone")
        out.append(gpg.export(fingerprint))
    return out


def test_it_reads_certificates_as_sequoia_does(many: list[bytes]) -> None:
    for armored in many:
        pile = list(PacketPile.from_bytes(armored))
        (found,) = certificates(armored)
        assert [(packet.tag, packet.body) for packet in found.packets] == [
            (int.from_bytes(bytes(one)[:1], "big") & 0x3F, one.body) for one in pile
        ]
        assert [key.fingerprint for key in found.keys] == [one.fingerprint for one in pile if one.fingerprint]
        assert [key.created for key in found.keys] == [
            int(one.key_created.timestamp()) for one in pile if one.key_created
        ]
        assert list(found.user_ids) == [one.user_id for one in pile if one.tag == Tag.UserID]
        read = [*found.primary.signatures, *found.certifications]
        read += [made for key in found.subkeys for made in key.signatures]
        by_body = {made.body: made for made in read}
        for one in pile:
            if one.tag == Tag.Signature:
                made = by_body[one.body]
                assert made.created == int(one.signature_created.timestamp())  # type: ignore[union-attr]
                assert made.issuer == one.issuer_fingerprint
                lasts = one.key_validity_period
                assert made.key_validity == (int(lasts.total_seconds()) if lasts else None)


def test_it_reads_back_what_it_writes(many: list[bytes]) -> None:
    for armored in many:
        (found,) = certificates(armored)
        assert certificates(found.encode()) == [found]
        assert pysequoia.Cert.from_bytes(found.encode()).fingerprint == found.fingerprint
    assert len(certificates(b"".join(many))) == len(many)


def test_revocations_and_their_reasons(many: list[bytes]) -> None:
    (found,) = certificates(many[-1])
    (whole,) = [made for made in found.primary.signatures if made.kind == packets.KEY_REVOCATION]
    assert (whole.reason, whole.reason_text) == (2, "gone")  # compromised
    (part,) = [made for made in found.subkeys[0].signatures if made.kind == packets.SUBKEY_REVOCATION]
    assert (part.reason, part.reason_text) == (1, "it was time")  # superseded
    assert found.primary.bits == 2048
    assert certificates(many[0])[0].primary.bits == 0


def test_a_signature(key: KeyPair) -> None:
    armored = key.sign(b"x")
    (found,) = signatures(dearmor(armored, "SIGNATURE"))
    other = pysequoia.Sig.from_bytes(armored)
    assert found.issuer == other.issuer_fingerprint
    assert other.created is not None
    assert found.created == int(other.created.timestamp())
    assert (found.version, found.kind, found.hash_algorithm) == (4, packets.BINARY, 10)
    assert found.made_by(found.issuer or "")
    assert not found.made_by(key.fingerprint)


def test_old_signatures_name_16_digits() -> None:
    with GnuPG() as gpg:
        fingerprint = gpg.make_key("old")
        (found,) = signatures(dearmor(gpg.sign(b"x", fingerprint), "SIGNATURE"))
    short = found._replace(issuer=fingerprint[-16:])
    assert short.made_by(fingerprint)
    assert not short.made_by("0" * 40)
    assert packets.key_id("ab" * 32) == "ab" * 8


def test_armor_in_all_its_shapes(key: KeyPair) -> None:
    armored = key.sign(b"x")
    plain = dearmor(armored, "SIGNATURE")
    lines = armored.decode().splitlines()
    body = [line for line in lines[1:-1] if line and not line.startswith("=") and ": " not in line]
    shapes = [
        armored.replace(b"\n", b"\r\n"),
        b"\n\n  " + armored + b"\n \n",
        "\n".join([lines[0], "Version: x", "Comment: y", "", *body, lines[-1]]).encode(),  # without checksum
        "\n".join([lines[0], "", *body, "=AAAA", lines[-1]]).encode(),  # a wrong one protects nothing either
        "\n".join([lines[0], "", "".join(body), lines[-1]]).encode(),  # one long line
    ]
    for shape in shapes:
        assert dearmor(shape, "SIGNATURE") == plain
    assert dearmor(armored + armored, "SIGNATURE") == plain + plain


ARMOR = {
    "empty": (lambda a: b"", "it is empty"),
    "white space": (lambda a: b" \n\t ", "it is empty"),
    "a page": (lambda a: b"<!DOCTYPE html><html>", "there is '<!DOCTYPE html><html>' where"),
    "before": (lambda a: b"hello\n" + a, "there is 'hello"),
    "behind": (lambda a: a + b"\nrm -rf", "there is 'rm -rf' where"),
    "between": (lambda a: a + b"\nx\n" + a, "there is 'x"),
    "another kind": (
        lambda a: a.replace(b"SIGNATURE", b"MESSAGE"),
        "it is a PGP MESSAGE, not a PGP SIGNATURE",
    ),
    "a kind that does not end": (lambda a: a.replace(b"END PGP SIGNATURE", b"END PGP MESSAGE"), "it was cut"),
    "cut": (lambda a: a[:-20], "it was cut"),
    "not base64": (lambda a: a.replace(a.splitlines()[3][:8], b"!!!!!!!!"), "not base64"),
    "a header without an empty line": (lambda a: a.replace(b"\n\n", b"\n"), "malformed header"),
    "binary": (lambda a: dearmor(a, "SIGNATURE"), "binary, not ASCII-armored"),
    "many": (lambda a: a * 300, "more than 256 blocks"),
}


@pytest.mark.parametrize("case", ARMOR)
def test_armor_that_is_none(key: KeyPair, case: str) -> None:
    change, text = ARMOR[case]
    with pytest.raises(PacketError) as caught:
        dearmor(change(key.sign(b"x")), "SIGNATURE")
    assert text in str(caught.value)


def packet(tag: int, body: bytes) -> bytes:
    return packets.Packet(tag, body).encode()


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"\x7f", "is not an OpenPGP packet"),
        (b"\xc2", "ends within a packet's header"),
        (b"\xc2\xff\x00\x00", "ends within a packet's header"),
        (b"\xc2\xff\xff\xff\xff\xff", "claims 4294967295 bytes and 0 are there"),
        (b"\xc2\x05abcd", "claims 5 bytes and 4 are there"),
        (b"\xc2\xdf", "ends within a packet's header"),
        (b"\xc2\xe0", "length in parts"),
        (b"\x8b", "has no length"),
        (b"\x8a\x00\x00\x00", "ends within a packet's header"),
        (b"\x8a\xff\xff\xff\xff", "claims 4294967295 bytes"),
        (b"\x88\x02a", "claims 2 bytes and 1 are there"),
        (packet(1, b""), "packet of type 1, which is no signature"),
        (packet(6, b""), "packet of type 6, which is no signature"),
        (packet(10, b"PGP"), "holds no signature"),
        (packet(2, b""), "its version is 0"),
        (packet(2, b"\x03" * 30), "its version is 3"),
        (packet(2, b"\x04\x00\x16\x0a"), "ends too early"),
        (packet(2, b"\x04\x00\x16\x0a\xff\xff\x00\x00"), "ends too early"),
        (packet(2, b"\x04\x00\x16\x0a\x00\x01\xff\x00\x00"), "subpacket ends too early"),
        (packet(2, b"\x04\x00\x16\x0a\x00\x02\x00\x02\x00\x00"), "subpacket's length is wrong"),
        (
            packet(2, b"\x04\x00\x16\x0a\x00\x06\xff\xff\xff\xff\xff\x02\x00\x00"),
            "subpacket's length is wrong",
        ),
    ],
)
def test_packets_that_are_none(data: bytes, text: str) -> None:
    with pytest.raises(PacketError, match=text):
        signatures(data)


def test_headers_of_both_formats() -> None:
    body = b"x" * 300
    forms = [
        b"\xcd\xff" + (300).to_bytes(4, "big") + body,
        b"\xcd" + bytes([192 + (300 - 192) // 256, (300 - 192) % 256]) + body,
        b"\xb5" + (300).to_bytes(2, "big") + body,
        b"\xb6" + (300).to_bytes(4, "big") + body,
    ]
    for form in forms:
        assert list(split(form)) == [packets.Packet(13, body)]
    assert list(split(b"\xcd\x01x\xb4\x01y")) == [packets.Packet(13, b"x"), packets.Packet(13, b"y")]


def test_secret_keys_are_not_taken(key: KeyPair) -> None:
    with pytest.raises(PacketError, match="PGP PRIVATE KEY BLOCK"):
        certificates(key.secret)
    with pytest.raises(PacketError, match="holds a secret key"):
        certificates(bytes(pysequoia.Tsk.from_bytes(key.secret)))


def test_sizes_are_bounded() -> None:
    with pytest.raises(PacketError, match="larger than"):
        certificates(b"\x99" * (packets.MAX_KEY_FILE + 1))


def test_what_is_not_signed_is_only_a_hint(key: KeyPair) -> None:
    """A date in the part that the signature does not cover is not believed."""
    (found,) = signatures(dearmor(key.sign(b"x"), "SIGNATURE"))
    body = found.body
    hashed = int.from_bytes(body[4:6], "big")
    forged = bytes([5, 2]) + (1).to_bytes(4, "big") + bytes([5, 3]) + (1).to_bytes(4, "big")
    rest = body[6 + hashed :]
    there = int.from_bytes(rest[:2], "big")
    changed = body[: 6 + hashed] + (there + len(forged)).to_bytes(2, "big") + forged + rest[2:]
    again = packets.signature(changed)
    assert (again.created, again.expires) == (found.created, None)
    assert base64.b64encode(changed)
