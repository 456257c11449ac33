"""The written rules by which a signature and its key are accepted.

Pure: no files, no processes, no cryptography.


- One good signature by a key that is trusted for the name is enough. A signature by such a key that does not
  fit the bytes refuses, whatever else the file holds: it does not hold together.
- A key (or subkey) that is **expired now** or **revoked now** signs nothing, however old the signature says
  it is: the date in a signature is written by whoever holds the key, so for a lost key it proves nothing. A
  renewed certificate, added over the old one, makes its old signatures good again. What is in the store
  already stays usable: trust is judged when an image comes in.
- Times: a signature up to :data:`SKEW` seconds (a setting) ahead of this host's clock is accepted, more is a
  matter of the clock and not of the signature. So is a key, or its renewal, that is ahead at all: Sequoia
  knows it only from then on. Nothing is remembered of a refusal.
- Digests: SHA-1, MD5 and RIPEMD-160 are refused, for images and for the signatures by which a key binds
  itself.
- Signatures are over bytes: those over text with changed line ends are not taken.

The same facts come from two readers: Sequoia's answers decide (:class:`Facts`); what the packets say of
themselves only words the reason, and names the subkey and the dates.
"""

from __future__ import annotations

import time
from typing import NamedTuple

from gantry.trust import packets
from gantry.trust.errors import (
    BadSignatureError,
    ClockError,
    KeyExpiredError,
    KeyRevokedError,
    KeyUnusableError,
    SignatureExpiredError,
    SignatureFormatError,
    TrustError,
    WeakDigestError,
)
from gantry.trust.packets import Certificate, Key, Signature

_DAY = 86400
#: How far ahead of this host's clock a signature may be, in seconds, unless the settings say otherwise.
SKEW = 300
#: Sequoia takes no signature that is further ahead.
MOST_SKEW = 1800
#: RSA and DSA keys need so many bits, for the message: Sequoia decides.
MIN_BITS = 2048
#: An expiry that is nearer than this is told when a key is added, in seconds.
SOON = 30 * 86400

#: When these rules were last changed.
DATE = "2026-11-26"
#: What a line about a key begins with that signs nothing any more.
REFUSES = "no image signed with it will be accepted"

_WEAK = ", ".join(sorted({packets.HASHES[each] for each in packets.WEAK_HASHES}))


def rules(skew: float) -> list[str]:
    """The rules for people, one line each; *skew* in seconds."""
    return [
        "an image is accepted with one good signature by a key that is trusted for its name",
        f"signatures with {_WEAK} are refused, of images and of keys over themselves",
        f"RSA and DSA keys with fewer than {MIN_BITS} bits are refused",
        "a key, or the subkey that signed, that is expired or revoked now is refused, whenever it signed",
        f"a signature more than {skew:g} seconds ahead of the host's clock is refused, and not remembered",
        "so is one by a key that was made, or renewed, later than the host's clock says",
        "a name never moves back to an older signature than the one accepted, unless --allow-downgrade",
    ]


Problem = tuple[type[TrustError], str, str]
_GET_RENEWED = "get the renewed key from its owner and add it over the old one: RENEW"
_SIGN_AGAIN = "its publisher must sign again"
_GET_OTHER = "its publisher must sign with another key; trust that one: RENEW"


class Facts(NamedTuple):
    """What Sequoia answered about a certificate; see :class:`gantry.trust.openpgp.Finding`."""

    view: Certificate
    sound: bool
    expires: float | None
    revoked: bool
    signing: frozenset[str]


def moment(seconds: float) -> str:
    """RFC 3339 in UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def day(seconds: float) -> str:
    """The date of a moment, in UTC."""
    return moment(seconds)[:10]


def scope_option(prefix: str | None) -> str:
    """The option of ``gantry trust`` that names where a key is trusted."""
    return "--root" if prefix is None else f"--prefix={prefix}"


def covers(prefix: str | None, name: str) -> bool:
    """Whether what is trusted for *prefix* (``None``: every name) is trusted for *name* (SIG-11)."""
    return prefix is None or f"{name}/".startswith(f"{prefix}/")


def check_form(signature: Signature, name: str) -> None:
    """Refuse what no key can make good.

    Raises:
        SignatureFormatError: Not a signature over the bytes of a file, or it lacks its maker or its time.
    """
    if signature.kind != packets.BINARY:
        raise SignatureFormatError(
            f"the signature of {name} is not over the bytes of a file (its type is 0x{signature.kind:02x})",
            hint="sign with: gpg --armor --detach-sign FILE",
        )
    if signature.issuer is None or signature.created is None:
        missing = "by which key" if signature.issuer is None else "when"
        raise SignatureFormatError(
            f"the signature of {name} does not say {missing} it was made", hint="sign the image again"
        )
    if signature.demands:
        raise SignatureFormatError(
            f"the signature of {name} demands that {signature.demands} be understood, and it is not here",
            hint="its publisher should sign without it, or not mark it critical",
        )


def check_signature(signature: Signature, name: str, now: float, skew: float = SKEW) -> None:
    """Judge a signature by itself, before the key is looked at.

    *skew* is how far ahead of this host's clock it may be, in seconds.

    Raises:
        WeakDigestError: Made with a hash function that can be forged.
        ClockError: From the future.
        SignatureExpiredError: The signer gave it an end.
    """
    if signature.hash_algorithm in packets.WEAK_HASHES:
        raise WeakDigestError(
            f"the signature of {name} uses {packets.HASHES[signature.hash_algorithm]}, which can be forged",
            hint="its publisher must sign again with SHA-256 or better: gpg --digest-algo SHA512",
        )
    created = signature.created or 0
    if created > now + skew:
        raise ClockError(
            f"the signature of {name} was made at {moment(created)}, which is in the future:"
            f" this host's clock says {moment(now)}",
            hint="set the clock (timedatectl) and try again; nothing was remembered",
        )
    if signature.expires is not None and signature.expires <= now:
        raise SignatureExpiredError(
            f"the signature of {name} expired on {moment(signature.expires)} by its signer's will"
            f" (this host's clock says {moment(now)})",
            hint="its publisher must sign again",
        )


def check_key(facts: Facts, signer: str, *, name: str, prefix: str | None, now: float) -> None:
    """Judge the certificate and the very key that made a signature, as they are now.

    Args:
        facts: What is known of the certificate.
        signer: Fingerprint of the primary key or subkey that signed.
        name: The name of the image, for the message.
        prefix: Where the key is trusted, for the remedy; ``None`` for root.
        now: This host's clock.

    Raises:
        TrustError: :class:`KeyRevokedError`, :class:`KeyExpiredError`, :class:`ClockError` or
            :class:`KeyUnusableError`.
    """
    problem = _primary_problem(facts, now) or _signer_problem(facts, signer, now)
    if problem is not None:
        raise _refusal(problem, name, prefix)


def explain_mismatch(
    facts: Facts, signer: str, signature: Signature, *, name: str, prefix: str | None
) -> TrustError:
    """Why a signature by a key that is fine now was not found good."""
    problem = _past_problem(facts.view, signer, signature.created or 0)
    if problem is not None:
        return _refusal(problem, name, prefix)
    return BadSignatureError(
        f"the signature of {name} by key {facts.view.fingerprint} is not for these bytes:"
        " the image was changed, cut, or belongs to another signature",
        hint="fetch it again; if that does not help, tell its publisher",
    )


def _refusal(problem: Problem, name: str, prefix: str | None) -> TrustError:
    kind, what, remedy = problem
    renewed = f"gantry trust {scope_option(prefix)} KEYFILE"
    return kind(f"{name} is signed by {what}", hint=remedy.replace("RENEW", renewed))


def _primary_problem(facts: Facts, now: float) -> Problem | None:
    key = facts.view.primary
    called = f"key {key.fingerprint}"
    if facts.revoked:
        return KeyRevokedError, f"{called}, which its owner has revoked{_why(_revocation(key))}", _GET_OTHER
    if facts.expires is not None and facts.expires <= now:
        return KeyExpiredError, _expired(called, facts.expires, now), _GET_RENEWED
    if not facts.sound:
        bound = _latest(facts.view.certifications + key.signatures, key.fingerprint)
        if key.created > now or (bound is not None and (bound.created or 0) > now):
            return _from_future(called, max(key.created, (bound and bound.created) or 0), now)
        weak = weak_self_signature(facts.view)
        if weak:
            return _weak_binding(called, weak, f"gpg --quick-set-expire {key.fingerprint} 2y")
        if 0 < key.bits < MIN_BITS:
            return _too_short(called, key)
        return KeyUnusableError, f"{called}, which is not bound together by valid signatures", _GET_RENEWED
    return None


def _signer_problem(facts: Facts, signer: str, now: float) -> Problem | None:
    if signer in facts.signing:
        return None
    view = facts.view
    key = next((key for key in view.keys if key.fingerprint == signer), view.primary)
    sub = key is not view.primary
    called = f"subkey {signer} of key {view.fingerprint}" if sub else f"key {signer}"
    revocation = _revocation(key, packets.SUBKEY_REVOCATION) if sub else None
    if revocation is not None:
        return KeyRevokedError, f"{called}, which its owner has revoked{_why(revocation)}", _GET_OTHER
    if key.created > now:
        return _from_future(called, key.created, now)
    binding = _latest(key.signatures if sub else view.certifications + key.signatures, view.fingerprint)
    if binding is None:
        return KeyUnusableError, f"{called}, which is not bound by a valid signature", _GET_RENEWED
    if (binding.created or 0) > now:
        return _from_future(called, binding.created or 0, now)
    ends = expiry(key, binding)
    if ends is not None and ends <= now:
        return KeyExpiredError, _expired(called, ends, now), _GET_RENEWED
    if binding.hash_algorithm in packets.WEAK_HASHES:
        weak = packets.HASHES[binding.hash_algorithm]
        return _weak_binding(called, weak, f"gpg --quick-set-expire {view.fingerprint} 2y '*'")
    if binding.key_flags is not None and not binding.key_flags & 0x02:
        return KeyUnusableError, f"{called}, which is not meant for signing data", _GET_OTHER
    if 0 < key.bits < MIN_BITS:
        return _too_short(called, key)
    return KeyUnusableError, f"{called}, which is too weak by today's rules or badly bound", _GET_OTHER


def _past_problem(view: Certificate, signer: str, signed_at: int) -> Problem | None:
    """Why a key that is fine now was not fine when it signed, as far as this copy of it tells.

    Sequoia judges a key as it was at the time of the signature, by the self-signatures of that time. Owners
    who renew a key often publish it without the old ones.
    """
    owner = view.fingerprint
    called = f"key {owner}"
    bound = [(called, view.primary, view.certifications + view.primary.signatures)]
    bound += [(f"subkey {key.fingerprint} of {called}", key, key.signatures) for key in view.subkeys]
    for what, key, made in bound:
        if key.fingerprint not in {owner, signer}:
            continue
        sound = [one for one in _bindings(made, owner) if one.hash_algorithm not in packets.WEAK_HASHES]
        then = _newest([one for one in sound if (one.created or 0) <= signed_at])
        if then is None:
            first = min((one.created or 0 for one in sound), default=key.created)
            return (
                KeyUnusableError,
                f"{what} at {moment(signed_at)}; its copy here tells of it since {moment(first)}",
                "get the key with its older self-signatures, or have the image signed again: RENEW",
            )
        ends = expiry(key, then)
        if ends is not None and ends <= signed_at:
            return KeyExpiredError, f"{what}, which was expired when it signed", _SIGN_AGAIN
    return None


def _weak_binding(called: str, weak: str, renew: str) -> Problem:
    what = f"{called}, whose own self-signature uses {weak}, which can be forged"
    remedy = f"its owner must renew it ({renew}); then add it over the old one: RENEW"
    return (
        KeyUnusableError,
        f"{what} (the signature of the image is not the problem)",
        f"{remedy}; or check the image and sign it with a key of your own: docs/trust.md",
    )


def _too_short(called: str, key: Key) -> Problem:
    return KeyUnusableError, f"{called}, which has {key.bits} bits, too few by today's rules", _GET_OTHER


def _from_future(called: str, created: float, now: float) -> Problem:
    return (
        ClockError,
        f"{called}, made or renewed at {moment(created)}, later than this host's clock says ({moment(now)})",
        "set the clock (timedatectl) and try again; nothing was remembered",
    )


def _expired(called: str, ends: float, now: float) -> str:
    return f"{called}, which expired on {moment(ends)} (this host's clock says {moment(now)})"


def _why(revocation: Signature | None) -> str:
    if revocation is None:
        return ""
    when = f" on {day(revocation.created)}" if revocation.created else ""
    reason = packets.REASONS.get(revocation.reason if revocation.reason is not None else 0, "")
    text = f': "{revocation.reason_text[:100]}"' if revocation.reason_text else ""
    return f"{when} ({reason}{text})" if reason or text else when


def _revocation(key: Key, kind: int = packets.KEY_REVOCATION) -> Signature | None:
    return next((found for found in key.signatures if found.kind == kind), None)


def _bindings(made: tuple[Signature, ...], owner: str) -> list[Signature]:
    """The signatures with which the owner of a certificate says how a key of it is to be used."""
    kinds = {packets.SUBKEY_BINDING, packets.DIRECT_KEY, *packets.CERTIFICATIONS}
    return [found for found in made if found.kind in kinds and found.made_by(owner)]


def _newest(made: list[Signature]) -> Signature | None:
    return max(made, key=lambda found: found.created or 0, default=None)


def _latest(made: tuple[Signature, ...], owner: str) -> Signature | None:
    return _newest(_bindings(made, owner))


def expiry(key: Key, binding: Signature | None) -> int | None:
    """When a key ends according to its binding, in seconds since the epoch; ``None`` for never."""
    return key.created + binding.key_validity if binding is not None and binding.key_validity else None


def subkey_expiry(view: Certificate, key: Key) -> int | None:
    """When a subkey ends according to its newest binding."""
    return expiry(key, _latest(key.signatures, view.fingerprint))


def may_sign(view: Certificate, key: Key) -> bool:
    """Whether a subkey was meant for signing data, whether or not it still is good for it."""
    binding = _latest(key.signatures, view.fingerprint)
    return binding is not None and binding.key_flags is not None and bool(binding.key_flags & 0x02)


def subkey_revoked(key: Key) -> bool:
    """Whether a subkey says of itself that it is revoked."""
    return _revocation(key, packets.SUBKEY_REVOCATION) is not None


def weak_self_signature(view: Certificate) -> str | None:
    """The hash function of a certificate's newest self-signature when that is one that can be forged."""
    own = _latest(view.certifications + view.primary.signatures, view.fingerprint)
    return packets.HASHES[own.hash_algorithm] if own and own.hash_algorithm in packets.WEAK_HASHES else None


def warnings(facts: Facts, now: float) -> list[str]:
    """What an operator should know when this key is added: lines, the most severe first."""
    problem = _primary_problem(facts, now)
    if problem is not None:
        return [f"{REFUSES}: it is {problem[1]}"]
    if not facts.signing:
        reasons = [_signer_problem(facts, key.fingerprint, now) for key in facts.view.keys]
        told = "; ".join(reason[1] for reason in reasons if reason is not None)
        return [f"{REFUSES}: it has {told}"]
    ends = [facts.expires] if facts.expires is not None else []
    lines = [
        f"it expires on {day(end)}, in {int((end - now) // 86400)} days" for end in ends if end < now + SOON
    ]
    for key in facts.view.subkeys:
        end = subkey_expiry(facts.view, key)
        if key.fingerprint in facts.signing and end is not None and end < now + SOON:
            lines.append(f"its signing subkey {key.fingerprint} expires on {day(end)}")
    known_since = max(_told_since(facts.view, key) for key in facts.view.keys if _counts(facts, key))
    if known_since > facts.view.primary.created + _DAY:
        lines.append(
            f"images that it signed before {moment(known_since)} are refused: this copy has no older "
            "self-signatures; an older copy of the key, added as well, has them"
        )
    return lines


def _counts(facts: Facts, key: Key) -> bool:
    """Whether a key has a say in what signs: the primary key has, always."""
    return key is facts.view.primary or key.fingerprint in facts.signing


def _told_since(view: Certificate, key: Key) -> float:
    """Since when a copy tells of a key; a subkey may be younger than its certificate."""
    made = view.certifications + key.signatures if key is view.primary else key.signatures
    first = min((each.created or 0 for each in _bindings(made, view.fingerprint)), default=0)
    return first if first > key.created + _DAY else 0
