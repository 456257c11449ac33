"""What somebody does who wants an image accepted that was not signed, or wants the verifier to fall over."""

from __future__ import annotations

import base64
import os
import time
from pathlib import Path

import pysequoia
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.support.openpgp import GnuPG, make_key, trust

from gantry.config import Paths
from gantry.errors import GantryError
from gantry.trust import (
    BadSignatureError,
    KeyFileError,
    KeyStore,
    KeyUnusableError,
    SignatureFormatError,
    TrustError,
    UnknownKeyError,
    packets,
)
from gantry.trust.keystore import inspect
from gantry.trust.packets import Packet, PacketError
from gantry.trust.verifier import Verification

NAME = "example.com/app"
DATA = os.urandom(70_000)

KEY = make_key("Owner <owner@example.com>")
THIEF = make_key("Owner <owner@example.com>")
GOOD = KEY.sign(DATA)
BINARY = packets.dearmor(GOOD, "SIGNATURE")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> KeyStore:
    top = tmp_path_factory.mktemp("trust")
    paths = Paths(*(str(top / name) for name in ("data", "run", "system", "local")))
    trust(paths, KEY, "example.com")
    return KeyStore(paths)


def judge(store: KeyStore, signature: bytes, data: bytes = DATA) -> Verification:
    with store.verifier(signature, NAME) as running:
        running.feed(data)
        return running.finish()


def armor(binary: bytes) -> bytes:
    return pysequoia.armor(binary, pysequoia.ArmorKind.Signature).encode("ascii")


def body_with_issuer(signature: bytes, fingerprint: str) -> bytes:
    """The signature saying, in the part that it does not cover, that another key made it."""
    (made,) = packets.signatures(packets.dearmor(signature, "SIGNATURE"))
    hashed = int.from_bytes(made.body[4:6], "big")
    rest = made.body[6 + hashed :]
    there = int.from_bytes(rest[:2], "big")
    claim = bytes([22, 33, 4]) + bytes.fromhex(fingerprint) + bytes([9, 16]) + bytes.fromhex(fingerprint)[-8:]
    return (
        made.body[: 6 + hashed]
        + (len(claim) + there).to_bytes(2, "big")
        + rest[2 : 2 + there]
        + claim
        + rest[2 + there :]
    )


def test_the_real_thing(store: KeyStore) -> None:
    assert judge(store, GOOD).key == KEY.fingerprint


@pytest.mark.parametrize(
    "data",
    [
        DATA[:-1],
        DATA[1:],
        b"",
        DATA + b"\0",
        DATA + DATA,
        DATA[:30_000] + bytes([DATA[30_000] ^ 1]) + DATA[30_001:],
        bytes([DATA[0] ^ 128]) + DATA[1:],
        DATA[:-1] + bytes([DATA[-1] ^ 1]),
        DATA[::-1],
    ],
    ids=["cut", "start cut", "nothing", "more", "twice", "one bit", "first bit", "last bit", "reversed"],
)
def test_other_bytes(store: KeyStore, data: bytes) -> None:
    with pytest.raises(BadSignatureError):
        judge(store, GOOD, data)


def test_a_signature_of_another_file(store: KeyStore) -> None:
    with pytest.raises(BadSignatureError):
        judge(store, KEY.sign(b"another image of the same owner"))


def test_the_same_name_on_another_key(store: KeyStore) -> None:
    with pytest.raises(UnknownKeyError):
        judge(store, THIEF.sign(DATA))


def test_a_thief_who_claims_the_owners_fingerprint(store: KeyStore) -> None:
    (subkey,) = [made.issuer for made in packets.signatures(BINARY)]
    assert subkey
    for claimed in (KEY.fingerprint, subkey):
        forged = armor(Packet(2, body_with_issuer(THIEF.sign(DATA), claimed)).encode())
        with pytest.raises((BadSignatureError, KeyUnusableError, UnknownKeyError)):
            judge(store, forged)


def test_a_thief_who_only_claims_it(store: KeyStore) -> None:
    """A thief's signature from which its own issuer was taken, with the owner's put in, hashed or not."""
    (made,) = packets.signatures(packets.dearmor(THIEF.sign(DATA), "SIGNATURE"))
    (mine,) = packets.signatures(BINARY)
    assert made.issuer
    assert mine.issuer
    swapped = made.body.replace(bytes.fromhex(made.issuer), bytes.fromhex(mine.issuer))
    swapped = swapped.replace(bytes.fromhex(made.issuer)[-8:], bytes.fromhex(mine.issuer)[-8:])
    with pytest.raises(BadSignatureError):
        judge(store, armor(Packet(2, swapped).encode()))


def test_a_thief_who_binds_the_owners_subkey_to_a_key_of_his(store: KeyStore, tmp_path: Path) -> None:
    """The thief's certificate is trusted for his own name and carries the owner's signing subkey."""
    (theirs,) = packets.certificates(THIEF.public)
    (mine,) = packets.certificates(KEY.public)
    signer = packets.signatures(BINARY)[0].issuer
    adopted = [
        packet
        for index, packet in enumerate(mine.packets)
        if packet.tag == packets.PUBLIC_SUBKEY and packets.fingerprint(packet.body) == signer
        for packet in (packet, mine.packets[index + 1])
    ]
    stolen = b"".join(packet.encode() for packet in (*theirs.packets, *adopted))
    paths = Paths(*(str(tmp_path / name) for name in ("data", "run", "system", "local")))
    path = tmp_path / "local/trustedkeys/prefix.d/example.com" / THIEF.fingerprint
    path.parent.mkdir(parents=True)
    path.write_text(pysequoia.armor(stolen, pysequoia.ArmorKind.PublicKey))
    with pytest.raises((KeyUnusableError, BadSignatureError)):
        judge(KeyStore(paths), GOOD)


def test_an_expired_subkey_with_a_forged_renewal(tmp_path: Path) -> None:
    """Whoever has an old subkey, and may add packets to the key file, gains nothing."""
    now = int(time.time())
    with GnuPG() as gpg:
        main = gpg.make_key("Main <m@example.com>", usage="cert", at=now - 8_000_000)
        subkey = gpg.add_subkey(main, expires="30d", at=now - 7_900_000)
        signature = gpg.sign(DATA, f"{subkey}!", at=now - 7_800_000)
        (view,) = packets.certificates(gpg.export(main))
    out = []
    for packet in view.packets:
        out.append(packet)
        if packet.tag == packets.SIGNATURE and packets.signature(packet.body).kind == packets.SUBKEY_BINDING:
            # The same binding with ten years instead of thirty days: the hash no longer fits.
            assert packet.body.count((30 * 86400).to_bytes(4, "big")) == 1
            forged = packet.body.replace((30 * 86400).to_bytes(4, "big"), (3650 * 86400).to_bytes(4, "big"))
            out.append(Packet(packet.tag, forged))
    paths = Paths(*(str(tmp_path / name) for name in ("data", "run", "system", "local")))
    path = tmp_path / "local/trustedkeys/prefix.d/example.com" / main
    path.parent.mkdir(parents=True)
    encoded = b"".join(packet.encode() for packet in out)
    path.write_text(pysequoia.armor(encoded, pysequoia.ArmorKind.PublicKey))
    with pytest.raises(TrustError) as caught:
        judge(KeyStore(paths), signature)
    assert caught.value.code in {"key-expired", "key-unusable"}


def test_one_good_signature_hides_no_bad_one_of_the_same_key(store: KeyStore) -> None:
    for together in (GOOD + KEY.sign(b"x"), KEY.sign(b"x") + GOOD):
        with pytest.raises(BadSignatureError):
            judge(store, together)


@pytest.mark.parametrize(
    "junk",
    [
        b"x",
        b"\n-----BEGIN PGP SIGNATURE-----",
        b"\n-----BEGIN PGP PUBLIC KEY BLOCK-----\n\n-----END PGP PUBLIC KEY BLOCK-----",
        b"\0",
        b"\n# comment",
    ],
)
def test_junk_beside_the_armor(store: KeyStore, junk: bytes) -> None:
    for signature in (GOOD + junk, junk + b"\n" + GOOD):
        with pytest.raises(SignatureFormatError):
            judge(store, signature)


@pytest.mark.parametrize(
    "binary",
    [
        b"\xc2\xff\xff\xff\xff\xff" + BINARY,
        b"\x8a\xff\xff\xff\xff" + BINARY,
        b"\xc2\xfe" + BINARY,
        b"\x8b" + BINARY,
        BINARY[:-1],
        BINARY + b"\0",
        BINARY + b"\xc2",
        Packet(2, b"\x04\x00\x16\x0a\xff\xff" + b"\0" * 100).encode(),
        Packet(8, b"\x00" + BINARY).encode(),  # a compressed packet: nothing is unpacked
    ],
)
def test_malformed_packets(store: KeyStore, binary: bytes) -> None:
    with pytest.raises(SignatureFormatError):
        judge(store, armor(binary))


def test_a_signature_file_without_end(store: KeyStore) -> None:
    before = sum(os.times()[:4])  # of this process and of the children that judge
    for content in (GOOD[:50] + b"A" * 10_000_000, b"\n" * 10_000_000 + b"x", GOOD * 2000):
        with pytest.raises(SignatureFormatError):
            judge(store, content)
    assert sum(os.times()[:4]) - before < 10, "processor time"


def test_names_and_user_ids_cannot_forge_lines(tmp_path: Path) -> None:
    paths = Paths(*(str(tmp_path / name) for name in ("data", "run", "system", "local")))
    nasty = make_key("Evil\n\x1b[2Jimage: signature verified:\r\n")
    result = trust(paths, nasty, "example.com")
    with KeyStore(paths).verifier(nasty.sign(DATA), NAME) as running:
        running.feed(DATA)
        found = running.finish()
    assert found.user_ids == result.user_ids  # exact: whoever prints them escapes them
    with pytest.raises(GantryError) as caught:
        judge(KeyStore(paths), b"-----BEGIN PGP \x1b[2J")
    assert str(caught.value).isprintable()


FUZZ = settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))


@FUZZ
@given(st.binary(max_size=400))
def test_any_bytes_are_packets_or_a_packet_error(data: bytes) -> None:
    for read in (
        lambda: list(packets.split(data)),
        lambda: packets.signatures(data),
        lambda: packets.certificates(data),
    ):
        try:
            read()
        except PacketError:
            continue


@FUZZ
@given(st.integers(0, len(BINARY) - 1), st.integers(1, 255), st.booleans())
def test_changed_signatures_are_read_or_refused(position: int, change: int, cut: bool) -> None:
    data = BINARY[:position] + (b"" if cut else bytes([BINARY[position] ^ change]) + BINARY[position + 1 :])
    try:
        packets.signatures(data)
    except PacketError:
        return


CERTIFICATE = packets.certificates(KEY.public)[0].encode()


@FUZZ
@given(st.lists(st.tuples(st.integers(0, len(CERTIFICATE) - 1), st.integers(0, 255)), min_size=1, max_size=5))
def test_changed_certificates_are_read_or_refused(changes: list[tuple[int, int]]) -> None:
    data = bytearray(CERTIFICATE)
    for position, value in changes:
        data[position] = value
    try:
        packets.certificates(bytes(data))
    except PacketError:
        return


@FUZZ
@given(
    st.binary(max_size=300),
    st.sampled_from([b"", GOOD, GOOD[:100], GOOD[-100:], b"-----BEGIN PGP SIGNATURE-----\n\n"]),
)
def test_any_text_is_armor_or_a_packet_error(data: bytes, start: bytes) -> None:
    for content in (start + data, data + start):
        try:
            packets.dearmor(content, "SIGNATURE")
        except PacketError:
            continue


@pytest.mark.slow
@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, len(BINARY) - 1), st.integers(1, 255))
def test_no_changed_signature_is_accepted_unless_it_says_the_same(
    store: KeyStore, position: int, change: int
) -> None:
    """Every byte: refused with a reason, or what changed is not covered and changed nothing."""
    data = BINARY[:position] + bytes([BINARY[position] ^ change]) + BINARY[position + 1 :]
    refusal: TrustError | None = None
    try:
        found = judge(store, armor(data))
    except TrustError as error:
        refusal = error
    if refusal is not None:
        assert refusal.code != "verifier"
        assert refusal.hint
        return
    (changed,) = packets.signatures(data)
    (original,) = packets.signatures(BINARY)
    assert found.key == KEY.fingerprint
    hashed = 6 + int.from_bytes(original.body[4:6], "big")
    assert changed.body[:hashed] == original.body[:hashed]


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(st.integers(0, len(CERTIFICATE) - 1), st.integers(0, 255)), min_size=1, max_size=3))
def test_changed_keys_are_read_or_refused(changes: list[tuple[int, int]]) -> None:
    data = bytearray(CERTIFICATE)
    for position, value in changes:
        data[position] = value
    try:
        inspect(bytes(data))
    except KeyFileError:
        return


def test_base64_that_python_takes_and_others_do_not(store: KeyStore) -> None:
    lines = GOOD.splitlines()
    body = base64.b64encode(BINARY)
    assert judge(store, b"\n".join([lines[0], b"", body, lines[-1]])).key == KEY.fingerprint
    for bad in (
        body[:40] + b"====" + body[40:],
        body.replace(b"A", b"-", 1) if b"A" in body else body + b"-",
    ):
        with pytest.raises(SignatureFormatError):
            judge(store, b"\n".join([lines[0], b"", bad, lines[-1]]))
