"""Judge the signature of an image while the image streams by.

The order of things, all of it before the first byte of the image is asked for where it can be:

1. :func:`start_verifier` reads the signature file (packets only, no cryptography) and looks for the key:
   refusals *unsigned*, *signature-format*, *unknown-key*, *untrusted-for-name*, *weak-digest*, *clock*,
   *signature-expired*.
2. It starts one unprivileged process per signature by a trusted key, nearly always one; that judges the key
   while the caller is still connecting: *key-revoked*, *key-expired*, *key-unusable*, *key-file*.
   :meth:`Verifier.ready` waits for this, the first :meth:`Verifier.feed` does so too.
3. The image's bytes, exactly as they were distributed, go through :meth:`Verifier.feed`.
4. :meth:`Verifier.finish` returns the :class:`Verification` or raises *bad-signature*. Until it has returned,
   nothing of the image may be used.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from gantry.trust import packets, policy
from gantry.trust.child import Child
from gantry.trust.errors import (
    BadSignatureError,
    ClockError,
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
    WeakDigestError,
)

if TYPE_CHECKING:
    from types import TracebackType

    from gantry.trust.keyfiles import TrustedKey

#: So many signatures by trusted keys are judged in one file; more are refused.
MAX_CANDIDATES = 4


@dataclass(frozen=True)
class Verification:
    """A good signature: who, for which names, when.

    Attributes:
        signer: Fingerprint of the very key that signed (often a subkey).
        key: Fingerprint of the certificate it belongs to: what was trusted.
        user_ids: Who that is, by the certificate's own word.
        prefix: The name prefix it is trusted for, ``None`` for every name.
        signed_at: When, by the signer's word; RFC 3339.
        verified_at: When it was judged here; RFC 3339.
    """

    signer: str
    key: str
    user_ids: tuple[str, ...]
    prefix: str | None
    signed_at: str
    verified_at: str

    def as_dict(self) -> dict[str, object]:
        """For JSON; lists instead of tuples."""
        return asdict(self) | {"user_ids": list(self.user_ids)}


class _Candidate(NamedTuple):
    """One signature together with one certificate that may have made it."""

    signature: packets.Signature
    key: TrustedKey
    signer: str
    copies: tuple[bytes, ...]


class Verifier:
    """One verification that is under way; also a context manager that ends its process whatever happens.

    Attributes:
        verifications: All the good ones, once :meth:`finish` has returned the first of them.
    """

    def __init__(self, candidates: Sequence[_Candidate], refusals: Iterable[TrustError], name: str) -> None:
        self.verifications: tuple[Verification, ...] = ()
        self._refusals = list(refusals)
        self._running: list[tuple[_Candidate, Child]] = []
        self._ready = False
        try:
            for candidate in candidates:
                self._running.append((candidate, Child(_request(candidate, name), data=True)))
        except BaseException:
            self.close()
            raise

    def ready(self) -> None:
        """Wait until the keys are judged; cheap when called after the connection to the server was made.

        Raises:
            TrustError: No signature is by a key that is valid now.
        """
        if self._ready:
            return
        self._ready = True
        for candidate, child in list(self._running):
            self._hear(candidate, child)
        self._refuse_unless_running()

    def feed(self, chunk: bytes | bytearray | memoryview) -> None:
        """Hand over the next bytes of the image as distributed; waits while the other side is behind.

        Raises:
            TrustError: It is already clear that the image is refused.
        """
        self.ready()
        for candidate, child in list(self._running):
            if not child.write(chunk):
                self._hear(candidate, child)  # it stopped reading: it has refused, or it died
        self._refuse_unless_running()

    def finish(self) -> Verification:
        """All bytes are fed: the verdict.

        Raises:
            TrustError: The image is refused. The worst reason, where the file holds several signatures.
        """
        try:
            self.ready()
            good: list[Verification] = []
            for _, child in self._running:
                child.end_input()
            for candidate, child in list(self._running):
                answer = self._hear(candidate, child)
                if answer is not None:
                    good.append(_verification(candidate, answer))
            if not good or any(isinstance(error, BadSignatureError) for error in self._refusals):
                raise _worst(self._refusals)
            self.verifications = tuple(good)
            return good[0]
        finally:
            self.close()

    def close(self) -> None:
        """End it without a verdict; nothing happens when it has ended."""
        for _, child in self._running:
            child.close()
        self._running = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _hear(self, candidate: _Candidate, child: Child) -> dict[str, Any] | None:
        """The next answer of a child; a refusal is kept, and the child ended."""
        try:
            return child.answer()
        except TrustError as error:
            self._refusals.append(error)
            self._running.remove((candidate, child))
            child.close()
            return None

    def _refuse_unless_running(self) -> None:
        if not self._running:
            raise _worst(self._refusals)


def start_verifier(
    keys: Sequence[TrustedKey],
    signature: bytes | None,
    name: str,
    *,
    everything: Iterable[TrustedKey] | None = None,
    skew: float | None = None,
) -> Verifier:
    """Begin to judge an image; refuses at once what can be refused before its bytes are there.

    Args:
        keys: Those trusted for *name*: :meth:`gantry.trust.keystore.KeyStore.keys_for`.
        signature: The content of the ``.aci.asc`` file; ``None`` when there is none.
        name: The name of the image.
        everything: All keys of the host, to tell an unknown key from one that is trusted for other names, and
            to know of revocations. Taken from *keys* when those came from a key store.
        skew: How far ahead of this host's clock signatures may be, in seconds. Likewise.

    Raises:
        TrustError: See the module.
        HostError: The unprivileged process cannot be started.
    """
    found = read_signatures(signature, name)
    others = list(everything if everything is not None else getattr(keys, "everything", ()))
    ahead = getattr(keys, "skew", policy.SKEW) if skew is None else skew
    now = time.time()
    candidates: list[_Candidate] = []
    refusals: list[TrustError] = []
    for one in found:
        try:
            policy.check_form(one, name)
            matching = _candidates(one, keys, others)
            if not matching:
                raise _stranger(one, keys, others, name)
            policy.check_signature(one, name, now, ahead)
        except TrustError as error:
            refusals.append(error)
        else:
            candidates += matching
    if not candidates:
        raise _worst(refusals)
    if len(candidates) > MAX_CANDIDATES:
        raise SignatureFormatError(
            f"the signature file of {name} holds {len(candidates)} signatures by trusted keys;"
            f" {MAX_CANDIDATES} are judged",
            hint="its publisher should leave one for each key",
        )
    return Verifier(candidates, refusals, name)


def read_signatures(signature: bytes | None, name: str) -> list[packets.Signature]:
    """The signatures in the content of a signature file (SIG-06: detached and ASCII-armored).

    Raises:
        UnsignedError: There is none.
        SignatureFormatError: It is something else.
    """
    if signature is None or not signature.strip():
        what = "is not signed" if signature is None else "has an empty signature file"
        raise UnsignedError(
            f"{name} {what}",
            hint='ask its publisher for NAME.aci.asc, or accept it unsigned: insecure option "image"',
        )
    try:
        if len(signature) > packets.MAX_SIGNATURE_FILE:
            raise packets.PacketError(f"it is larger than {packets.MAX_SIGNATURE_FILE} bytes")
        return packets.signatures(packets.dearmor(signature, "SIGNATURE"))
    except packets.PacketError as error:
        raise SignatureFormatError(
            f"no valid signatures found in signature file of {name}: {error}",
            hint="it must be an ASCII-armored detached signature: gpg --armor --detach-sign FILE",
        ) from error


def _candidates(
    signature: packets.Signature, keys: Iterable[TrustedKey], everything: Iterable[TrustedKey]
) -> list[_Candidate]:
    """The trusted certificates with a key that this signature names as its maker, one candidate each."""
    found: dict[str, _Candidate] = {}
    for key in keys:
        for fingerprint in key.fingerprints:
            if key.fingerprint not in found and signature.made_by(fingerprint):
                # Every copy on this host counts, wherever it is: it may carry a revocation or a renewal.
                copies = [other.armored for other in everything if other.fingerprint == key.fingerprint]
                unique = tuple(dict.fromkeys([key.armored, *copies]))
                found[key.fingerprint] = _Candidate(signature, key, fingerprint, unique)
    return list(found.values())


def _stranger(
    signature: packets.Signature, keys: Sequence[TrustedKey], everything: Iterable[TrustedKey], name: str
) -> TrustError:
    issuer = signature.issuer or ""
    elsewhere = [
        key for key in everything if any(signature.made_by(fingerprint) for fingerprint in key.fingerprints)
    ]
    if elsewhere:
        called = f"{name} is signed by key {elsewhere[0].fingerprint}"
        trusted = [key for key in elsewhere if not key.removed]
        if not trusted:
            return UntrustedForNameError(
                f"{called}, which is not trusted any more: it was revoked and removed",
                hint="its publisher must sign with another key",
            )
        scopes = sorted({key.prefix or "every name" for key in trusted})
        if any(policy.covers(key.prefix, name) for key in trusted):
            return UntrustedForNameError(
                f"{called}, which is trusted for {', '.join(scopes)}, but masked for this name",
                hint="gantry trust list shows the mask; gantry trust rm takes it away",
            )
        return UntrustedForNameError(
            f"{called}, trusted for {', '.join(scopes)} only",
            hint=f"if it may sign {name} too: gantry trust --prefix={name} {trusted[0].path}",
        )
    known = "other keys are trusted for it" if keys else "no key is trusted for it"
    return UnknownKeyError(
        f"{name}: openpgp: signature made by unknown entity {issuer}; {known}",
        hint=f"if you trust that key: gantry trust --prefix={name} KEYFILE",
    )


#: The worst first: of several refusals the first of these is reported.
_SEVERITY = [
    kind.code
    for kind in (
        BadSignatureError,
        KeyRevokedError,
        KeyExpiredError,
        KeyUnusableError,
        KeyFileError,
        WeakDigestError,
        ClockError,
        SignatureExpiredError,
        UntrustedForNameError,
        UnknownKeyError,
        SignatureFormatError,
    )
]


def _worst(refusals: Sequence[TrustError]) -> TrustError:
    return min(
        refusals, key=lambda error: _SEVERITY.index(error.code) if error.code in _SEVERITY else len(_SEVERITY)
    )


def _request(candidate: _Candidate, name: str) -> dict[str, object]:
    return {
        "do": "verify",
        "name": name,
        "signature": base64.b64encode(candidate.signature.body).decode("ascii"),
        "signer": candidate.signer,
        "key": candidate.key.fingerprint,
        "path": candidate.key.path,
        "prefix": candidate.key.prefix,
        "copies": [base64.b64encode(copy).decode("ascii") for copy in candidate.copies],
    }


def _verification(candidate: _Candidate, answer: dict[str, Any]) -> Verification:
    return Verification(
        signer=answer["signer"],
        key=answer["key"],
        user_ids=tuple(answer["user_ids"]),
        prefix=candidate.key.prefix,
        signed_at=policy.moment(candidate.signature.created or 0),
        verified_at=answer["verified_at"],
    )
