"""What trust refuses. One class and one code for each thing that an operator handles differently."""

from __future__ import annotations

from gantry.errors import GantryError


class TrustError(GantryError):
    """A signature or a key was not accepted."""

    code = "trust"


class UnsignedError(TrustError):
    """There is no signature at all."""

    code = "unsigned"


class UnknownKeyError(TrustError):
    """Signed by a key that this host does not have."""

    code = "unknown-key"


class UntrustedForNameError(TrustError):
    """Signed by a key that this host has, for other names."""

    code = "untrusted-for-name"


class BadSignatureError(TrustError):
    """Signed by a trusted, valid key, but these are not the bytes that were signed."""

    code = "bad-signature"


class KeyRevokedError(TrustError):
    """The owner of the key has withdrawn it."""

    code = "key-revoked"


class KeyExpiredError(TrustError):
    """The key, or the subkey that signed, is past its date."""

    code = "key-expired"


class KeyUnusableError(TrustError):
    """The key is trusted and in date, and still not fit to sign images: not meant to, or too weak."""

    code = "key-unusable"


class WeakDigestError(TrustError):
    """The signature of the image uses a hash function that can be forged."""

    code = "weak-digest"


class SignatureFormatError(TrustError):
    """What should be a signature is something else."""

    code = "signature-format"


class SignatureExpiredError(TrustError):
    """The signer gave the signature an end, and that has passed."""

    code = "signature-expired"


class ClockError(TrustError):
    """The signature or the key is from the future: this host's clock, or the signer's, is wrong."""

    code = "clock"


class DowngradeError(TrustError):
    """Well signed, but older than what this host accepted of the same name."""

    code = "downgrade"


class FreshnessError(TrustError):
    """The record of what was accepted cannot be read. Says nothing about the image."""

    code = "freshness-record"


class KeyFileError(TrustError):
    """A key file is broken, or is not what its name says."""

    code = "key-file"


class VerifierError(TrustError):
    """The process that judges signatures did not answer. Says nothing about the image."""

    code = "verifier"


BY_CODE: dict[str, type[TrustError]] = {
    kind.code: kind
    for kind in (
        UnsignedError,
        UnknownKeyError,
        UntrustedForNameError,
        BadSignatureError,
        KeyRevokedError,
        KeyExpiredError,
        KeyUnusableError,
        WeakDigestError,
        SignatureFormatError,
        SignatureExpiredError,
        ClockError,
        DowngradeError,
        FreshnessError,
        KeyFileError,
        VerifierError,
    )
}
