"""Which keys are trusted for which names, and whether an image is signed by one of them.

- :mod:`gantry.trust.keystore`: keys as files by fingerprint, for a name prefix or for every name; the files
  themselves are read by :mod:`gantry.trust.keyfiles`.
- :mod:`gantry.trust.verifier`: starts the unprivileged process that judges one signature while the image
  streams by.
- :mod:`gantry.trust.freshness`: the newest signature that was accepted of a name.
- :mod:`gantry.trust.errors`: every refusal, each with a code of its own.
- :mod:`gantry.trust.packets`: reads what signatures and keys say of themselves; decides nothing.
- :mod:`gantry.trust.openpgp`: the only user of pysequoia, which decides; runs in the unprivileged process
  (:mod:`gantry.trust.worker`) with the rules of :mod:`gantry.trust.policy`.
- :mod:`gantry.trust.signing`: makes signatures.

The names below are loaded when they are first used: the unprivileged process comes through here too, and
needs none of them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gantry.trust.errors import (
        BadSignatureError,
        ClockError,
        DowngradeError,
        KeyExpiredError,
        KeyFileError,
        KeyRevokedError,
        KeyUnusableError,
        SignatureExpiredError,
        SignatureFormatError,
        TrustError,
        UnknownKeyError,
        UnsignedError,
        UntrustedForNameError,
        VerifierError,
        WeakDigestError,
    )
    from gantry.trust.keystore import AddResult, KeyInfo, KeyStore, TrustedKey
    from gantry.trust.verifier import Verification, Verifier, start_verifier

__all__ = [
    "AddResult",
    "BadSignatureError",
    "ClockError",
    "DowngradeError",
    "KeyExpiredError",
    "KeyFileError",
    "KeyInfo",
    "KeyRevokedError",
    "KeyStore",
    "KeyUnusableError",
    "SignatureExpiredError",
    "SignatureFormatError",
    "TrustError",
    "TrustedKey",
    "UnknownKeyError",
    "UnsignedError",
    "UntrustedForNameError",
    "Verification",
    "Verifier",
    "VerifierError",
    "WeakDigestError",
    "start_verifier",
]

_HOMES = {
    "keystore": ("AddResult", "KeyInfo", "KeyStore", "TrustedKey"),
    "verifier": ("Verification", "Verifier", "start_verifier"),
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = next((module for module, names in _HOMES.items() if name in names), "errors")
    return getattr(importlib.import_module(f"{__name__}.{home}"), name)
