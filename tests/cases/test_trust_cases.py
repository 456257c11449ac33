"""Faults met in the field with other software, by their number in our list of cases (rows D)."""

from __future__ import annotations

import time
from pathlib import Path

import pysequoia
import pytest
from tests.support.openpgp import GnuPG, make_key, trust

from gantry.config import Paths
from gantry.trust import (
    BadSignatureError,
    ClockError,
    KeyExpiredError,
    KeyFileError,
    KeyRevokedError,
    KeyStore,
    KeyUnusableError,
    SignatureExpiredError,
    UnknownKeyError,
    UnsignedError,
)
from gantry.trust.verifier import Verification

NAME = "example.com/app"
DATA = b"bytes of an image" * 1000
DAY = 86400
SHA1 = ("--cert-digest-algo", "SHA1", "--allow-weak-digest-algos", "--allow-weak-key-signatures")


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths(*(str(tmp_path / name) for name in ("data", "run", "system", "local")))


def judge(paths: Paths, signature: bytes | None) -> Verification:
    with KeyStore(paths).verifier(signature, NAME) as running:
        running.feed(DATA)
        return running.finish()


def test_case_21_the_key_is_fine_but_its_self_signature_is_sha1(paths: Paths) -> None:
    now = time.time()
    with GnuPG() as gpg:
        fingerprint = gpg.make_key("Old <o@example.com>", algorithm="rsa2048", at=now - 9 * DAY, options=SHA1)
        added = trust(paths, gpg.export(fingerprint), NAME)
        assert "own self-signature uses SHA-1" in added.warnings[0]  # said when the key is added
        with pytest.raises(KeyUnusableError, match="the signature of the image is not the problem") as caught:
            judge(paths, gpg.sign(DATA, fingerprint))
        assert f"gpg --quick-set-expire {fingerprint}" in caught.value.hint
        # The remedy works.
        gpg.run("--quick-set-expire", fingerprint, "2y", at=now - DAY)
        renewed = trust(paths, gpg.export(fingerprint), NAME)
        assert (renewed.action, renewed.warnings) == ("merge", ())
        assert judge(paths, gpg.sign(DATA, fingerprint))


def test_case_21_until_it_is_renewed_an_operator_signs_what_they_have_checked(paths: Paths) -> None:
    now = time.time()
    with GnuPG() as gpg:
        vendor = gpg.make_key("Old <o@example.com>", algorithm="rsa2048", at=now - 90 * DAY, options=SHA1)
        trust(paths, gpg.export(vendor), NAME)
        weak = gpg.sign(DATA, vendor)
        with pytest.raises(KeyUnusableError) as caught:
            judge(paths, weak)
        assert "sign it with a key of your own: docs/trust.md" in caught.value.hint
        ours = gpg.make_key("Operators <op@example.com>", at=now - 80 * DAY)
        trust(paths, gpg.export(ours), NAME)
        good = gpg.sign(DATA, ours, "--default-sig-expire", "180d")
        assert judge(paths, good).key == ours
        assert judge(paths, weak + good).key == ours  # beside the publisher's
        with pytest.raises(SignatureExpiredError):
            judge(paths, gpg.sign(DATA, ours, "--default-sig-expire", "30d", at=now - 40 * DAY))
        with pytest.raises(BadSignatureError):
            judge(paths, weak + gpg.sign(DATA + b"x", ours))
        with pytest.raises(KeyUnusableError):  # which vouches for that image, not for the key
            judge(paths, gpg.sign(DATA, vendor))


def test_case_23_the_only_signing_subkey_has_expired(paths: Paths) -> None:
    now = time.time()
    with GnuPG() as gpg:
        main = gpg.make_key("Main <m@example.com>", usage="cert", at=now - 100 * DAY)
        subkey = gpg.add_subkey(main, expires="30d", at=now - 99 * DAY)
        before = gpg.sign(DATA, f"{subkey}!", at=now - 90 * DAY)
        added = trust(paths, gpg.export(main), NAME)
        assert f"subkey {subkey}" in added.warnings[0]
        with pytest.raises(KeyExpiredError) as caught:
            judge(paths, before)
        ended = time.strftime("%Y-%m-%d", time.gmtime(int(now) - 69 * DAY))
        assert f"subkey {subkey} of key {main}, which expired on {ended}" in caught.value.message
        gpg.run("--quick-set-expire", main, "10y", subkey, at=now - DAY)
        assert trust(paths, gpg.export(main), NAME).action == "merge"  # without removing the old one
        assert judge(paths, before).signer == subkey
        assert judge(paths, gpg.sign(DATA, f"{subkey}!")).signer == subkey


def test_case_24_the_same_fingerprint_with_another_expiry(paths: Paths) -> None:
    secret = pysequoia.Tsk.generate("Renewed <r@example.com>", validity_seconds=40 * DAY)
    old = secret.extract_certificate()
    assert old.expiration is not None
    later = old.expiration.replace(year=old.expiration.year + 3)
    renewed = old.set_expiration(later, secret.certifier())
    trust(paths, str(old).encode(), NAME)
    result = trust(paths, str(renewed).encode(), NAME)
    assert result.changed
    assert result.before is not None
    assert result.after is not None
    assert result.before["expires"] == old.expiration.strftime("%Y-%m-%dT%H:%M:%SZ")
    assert result.after["expires"] == later.strftime("%Y-%m-%dT%H:%M:%SZ")
    # A revocation that is known is never lost by a merge.
    revocation = renewed.revoke(secret.certifier())
    revoked = pysequoia.Cert.from_bytes(bytes(renewed) + bytes(revocation))
    assert trust(paths, str(revoked).encode(), NAME).revoked
    for older in (old, renewed):
        again = trust(paths, str(older).encode(), NAME)
        assert (again.changed, again.revoked) == (False, True)
    data = pysequoia.sign(secret.signer(), DATA, mode=pysequoia.SignatureMode.DETACHED)
    with pytest.raises(KeyRevokedError):
        judge(paths, data)


def test_case_25_adding_a_key_that_has_expired(paths: Paths) -> None:
    with GnuPG() as gpg:
        fingerprint = gpg.make_key("Past <p@example.com>", expires="10d", at=time.time() - 20 * DAY)
        public = gpg.export(fingerprint)
    result = trust(paths, public, NAME)
    assert (result.changed, result.expired) == (True, True)
    assert "which expired on" in result.warnings[0]
    assert [key.fingerprint for key in KeyStore(paths).keys_for(NAME)] == [fingerprint]
    assert not trust(paths, public, NAME).changed


def test_case_27_the_clock(paths: Paths) -> None:
    now = time.time()
    with GnuPG() as gpg:
        fingerprint = gpg.make_key("Clock <c@example.com>", at=now - 9 * DAY)
        trust(paths, gpg.export(fingerprint), NAME)
        assert judge(paths, gpg.sign(DATA, fingerprint, at=now + 120))  # the host is two minutes behind
        with pytest.raises(ClockError) as caught:
            judge(paths, gpg.sign(DATA, fingerprint, at=now + 90 * DAY))  # months
        signed = time.strftime("%Y-%m-%dT%H:%M", time.gmtime(now + 90 * DAY))
        assert signed in caught.value.message
        assert time.strftime("this host's clock says %Y-%m-%d", time.gmtime()) in caught.value.message
        # Nothing is remembered, not even on disk.
        assert judge(paths, gpg.sign(DATA, fingerprint))


def test_case_29_four_things_that_others_call_the_same(paths: Paths, tmp_path: Path) -> None:
    key, other = make_key(), make_key()
    result = trust(paths, key, NAME)
    with pytest.raises(UnsignedError, match="is not signed"):
        judge(paths, None)
    with pytest.raises(UnknownKeyError, match="made by unknown entity"):
        judge(paths, other.sign(DATA))
    Path(result.path).unlink()
    Path(result.path).symlink_to(tmp_path / "gone")
    for content in (None, b"\x7fELF"):
        if content is not None:
            Path(result.path).unlink()
            Path(result.path).write_bytes(content)
        with pytest.raises(KeyFileError) as caught:
            judge(paths, key.sign(DATA))
        assert result.path in caught.value.message
        assert "sign" not in caught.value.message
