"""Signing: with an exported key, with an agent of GnuPG, and the mistakes that people make."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.openpgp import GnuPG, trust

from gantry.config import Paths
from gantry.errors import HostError
from gantry.trust import KeyStore, signing

NAME = "example.com/app"
DATA = b"\r\nbytes \n of an image \t\n" * 5000


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths(*(str(tmp_path / name) for name in ("data", "run", "system", "local")))


@pytest.fixture
def image(tmp_path: Path) -> str:
    path = tmp_path / "-image ü.aci"  # a name that programs take for an option
    path.write_bytes(DATA)
    return str(path)


def accepted_as(paths: Paths, public: str | bytes, signature: str) -> str:
    trust(paths, public.encode() if isinstance(public, str) else public, NAME)
    with KeyStore(paths).verifier(signature.encode(), NAME) as running:
        running.feed(DATA)
        return running.finish().key


def test_with_a_key_that_was_made_here(paths: Paths, image: str) -> None:
    secret, public, fingerprint = signing.make_key("Maker <m@example.com>")
    signature = signing.sign_detached(image, secret)
    assert signature.startswith("-----BEGIN PGP SIGNATURE-----\n")
    assert accepted_as(paths, public, signature) == fingerprint
    assert signing.describe_signature(signature)["created"].endswith("Z")


def test_with_a_key_that_gnupg_exported(paths: Paths, image: str) -> None:
    with GnuPG() as gpg:
        fingerprint = gpg.make_key("Exported <e@example.com>")
        secret, public = gpg.export_secret(fingerprint), gpg.export(fingerprint)
    assert accepted_as(paths, public, signing.sign_detached(image, secret)) == fingerprint


def test_with_an_agent(paths: Paths, image: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with GnuPG() as gpg:
        fingerprint = gpg.make_key("Agent <a@example.com>")
        public = gpg.export(fingerprint)
        signature = signing.sign_with_gpg(image, fingerprint, homedir=gpg.home)
        monkeypatch.chdir(Path(image).parent)
        assert signing.sign_with_gpg(Path(image).name, fingerprint, homedir=gpg.home)
        with pytest.raises(signing.SigningError, match=r"No secret key|No such file"):
            signing.sign_with_gpg(image, "nobody@example.com", homedir=gpg.home)
        with pytest.raises(signing.SigningError, match="was not signed"):
            signing.sign_with_gpg("/nonexistent", fingerprint, homedir=gpg.home)
    assert accepted_as(paths, public, signature) == fingerprint


def test_a_key_with_a_passphrase_is_refused_with_what_to_do(image: str) -> None:
    with GnuPG() as gpg:
        gpg.run(
            "--passphrase", "sesame", "--quick-gen-key", "Locked <l@example.com>", "ed25519", "sign", "never"
        )
        (fingerprint,) = gpg.fingerprints("Locked")
        secret = gpg.run("--passphrase", "sesame", "--armor", "--export-secret-keys", fingerprint)
    with pytest.raises(signing.SigningError) as refused:
        signing.sign_detached(image, secret)
    assert refused.value.message == (
        f"{image} was not signed: the key cannot be used: it is protected by a passphrase"
    )
    assert refused.value.hint == "sign with --gpg-key=FINGERPRINT, or export a key without a passphrase"


def test_mistakes(image: str) -> None:
    secret, public, _ = signing.make_key("Maker <m@example.com>")
    for wrong in (public, "", "nonsense", b"\xff"):
        with pytest.raises(signing.SigningError, match="was not signed: the key cannot be used"):
            signing.sign_detached(image, wrong)
    with pytest.raises(signing.SigningError, match="No such file"):
        signing.sign_detached("/nonexistent", secret)
    expired, _, _ = signing.make_key("Short", validity=1)  # made a minute ago, by its own word
    with pytest.raises(signing.SigningError):
        signing.sign_detached(image, expired)


def test_without_gpg(image: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(HostError, match="gpg is not installed"):
        signing.sign_with_gpg(image, "key")
