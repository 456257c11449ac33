"""App Container specification, section SIG: signatures and trust (the image ID is tested with images)."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path

import pytest
from tests.support.openpgp import GnuPG, make_key, trust

from gantry.config import Paths
from gantry.trust import (
    BadSignatureError,
    KeyStore,
    SignatureFormatError,
    UnknownKeyError,
    UnsignedError,
    UntrustedForNameError,
    packets,
)
from gantry.trust.verifier import Verification

NAME = "example.com/reduce-worker"


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths(*(str(tmp_path / name) for name in ("data", "run", "system", "local")))


def judge(paths: Paths, signature: bytes | None, data: bytes, name: str = NAME) -> Verification:
    with KeyStore(paths).verifier(signature, name) as running:
        running.feed(data)
        return running.finish()


def archive() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        content = b'{"acKind":"ImageManifest","acVersion":"0.8.11","name":"example.com/reduce-worker"}'
        info = tarfile.TarInfo("manifest")
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def test_SIG_05_images_are_signed_with_openpgp(paths: Paths) -> None:
    with GnuPG() as gpg:  # the implementation that the specification's example uses
        fingerprint = gpg.make_key("Carly Container <carly@example.com>", algorithm="rsa3072")
        trust(paths, gpg.export(fingerprint), NAME)
        data = archive()
        found = judge(paths, gpg.sign(data, fingerprint), data)
    assert found.key == fingerprint
    assert found.user_ids == ("Carly Container <carly@example.com>",)


def test_SIG_06_a_signature_is_detached_and_armored(paths: Paths) -> None:
    key, data = make_key(), archive()
    trust(paths, key, NAME)
    signature = key.sign(data)
    assert signature.startswith(b"-----BEGIN PGP SIGNATURE-----\n")
    assert judge(paths, signature, data)
    with pytest.raises(SignatureFormatError, match="binary, not ASCII-armored"):
        judge(paths, packets.dearmor(signature, "SIGNATURE"), data)


def test_SIG_08_the_signature_is_over_the_file_as_distributed(paths: Paths) -> None:
    key, tar = make_key(), archive()
    trust(paths, key, NAME)
    distributed = gzip.compress(tar, 9, mtime=0)
    signature = key.sign(distributed)
    assert judge(paths, signature, distributed)
    for other in (tar, gzip.compress(tar, 1, mtime=0)):
        with pytest.raises(BadSignatureError):
            judge(paths, signature, other)


def test_SIG_09_users_configure_which_keys_they_trust(paths: Paths) -> None:
    key, data = make_key(), archive()
    signature = key.sign(data)
    with pytest.raises(UnknownKeyError):
        judge(paths, signature, data)
    result = KeyStore(paths).add(key.public, prefix=NAME, fingerprint=key.fingerprint)
    assert judge(paths, signature, data)
    assert Path(result.path).name == key.fingerprint
    KeyStore(paths).remove(key.fingerprint, prefix=NAME)
    with pytest.raises(UnknownKeyError):
        judge(paths, signature, data)


def test_SIG_10_without_a_signature_validation_refuses(paths: Paths) -> None:
    trust(paths, make_key(), NAME)
    with pytest.raises(UnsignedError):
        judge(paths, None, archive())


@pytest.mark.parametrize(
    ("prefix", "name", "trusted"),
    [
        ("example.com", "example.com", True),
        ("example.com", "example.com/reduce-worker", True),
        ("example.com", "example.com/a/b/c", True),
        ("example.com/reduce", "example.com/reduce-worker", False),
        ("example.com/reduce-worker", "example.com", False),
        ("example.com", "example.com.evil.example", False),
        ("example.com", "sub.example.com", False),
        (None, "anything.example/at/all", True),
    ],
)
def test_SIG_11_trust_is_for_a_name_and_what_is_below_it(
    paths: Paths, prefix: str | None, name: str, trusted: bool
) -> None:
    key, data = make_key(), archive()
    trust(paths, key, prefix)
    signature = key.sign(data)
    if trusted:
        assert judge(paths, signature, data, name).prefix == prefix
    else:
        with pytest.raises(UntrustedForNameError):
            judge(paths, signature, data, name)
