"""Keys of one demonstration: an authority with a certificate for the image server, and two OpenPGP keys."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from gantry.trust import signing

VALID_FOR = dt.timedelta(days=7)
CLOCK_SLACK = dt.timedelta(hours=1)


@dataclass(frozen=True)
class Keys:
    """Files of keys, and the fingerprint of the one that will be trusted."""

    ca: Path
    tls_certificate: Path
    tls_key: Path
    signing_key: Path
    public_key: Path
    fingerprint: str
    stranger_key: Path
    stranger_fingerprint: str


def make(directory: Path, server_name: str) -> Keys:
    """Make all keys in *directory*; secret ones are readable by their owner only."""
    directory.mkdir(parents=True, mode=0o700)
    keys = Keys(
        ca=directory / "ca.pem",
        tls_certificate=directory / "server.pem",
        tls_key=directory / "server.key",
        signing_key=directory / "signing.secret.asc",
        public_key=directory / "signing.public.asc",
        fingerprint="",
        stranger_key=directory / "stranger.secret.asc",
        stranger_fingerprint="",
    )
    _tls(keys, server_name)
    secret, public, fingerprint = signing.make_key("Gantry demo <demo@example.com>")
    _secret(keys.signing_key, secret)
    keys.public_key.write_text(public)
    stranger, _public, stranger_fingerprint = signing.make_key("A stranger <stranger@example.net>")
    _secret(keys.stranger_key, stranger)
    return Keys(
        **{**vars(keys), "fingerprint": fingerprint, "stranger_fingerprint": stranger_fingerprint},
    )


def _secret(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text)


def _tls(keys: Keys, server_name: str) -> None:
    authority, server = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    issuer = _name("Gantry demo authority")
    ca = (
        _certificate(issuer, issuer, authority.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(sign_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(authority.public_key()), critical=False)
        .sign(authority, hashes.SHA256())
    )
    certificate = (
        _certificate(_name(server_name), issuer, server.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(sign_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(server_name)]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(server.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key()), critical=False
        )
        .sign(authority, hashes.SHA256())
    )
    keys.ca.write_bytes(ca.public_bytes(serialization.Encoding.PEM))
    keys.tls_certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key = server.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    _secret(keys.tls_key, key.decode())


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SLACK)
        .not_valid_after(now + VALID_FOR)
    )


def _usage(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign_certificates,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
