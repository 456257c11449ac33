"""Every refusal of trust, as one table: what is signed how, and which single line the operator reads."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import pysequoia
import pytest
from tests.support.openpgp import GnuPG, KeyPair, make_key, trust

from gantry.config import Paths
from gantry.trust import errors
from gantry.trust.keystore import KeyStore
from gantry.trust.verifier import Verification

DATA = b"the bytes of an image\n" * 100
NAME = "example.com/app"
NOW = int(time.time())
DAY = 86400
OLD_OPTIONS = ("--cert-digest-algo", "SHA1", "--allow-weak-digest-algos", "--allow-weak-key-signatures")


@dataclass
class Zoo:
    """Keys and signatures of every kind; names of keys and of signatures."""

    public: dict[str, bytes] = field(default_factory=dict)
    prints: dict[str, str] = field(default_factory=dict)
    signed: dict[str, bytes] = field(default_factory=dict)

    def key(self, name: str, gpg: GnuPG, fingerprint: str, *options: str) -> None:
        self.public[name] = gpg.export(fingerprint, *options)
        self.prints[name] = fingerprint


def revoke_subkey(gpg: GnuPG, fingerprint: str, *, reason: str, at: float | None = None) -> None:
    gpg.edit(fingerprint, "key 1", "revkey", "y", reason, "", "y", at=at)


@pytest.fixture(scope="module")
def zoo() -> Zoo:
    zoo = Zoo()
    good = make_key("Good <good@example.com>")
    other = make_key("Other <other@example.com>")
    for name, key in (("good", good), ("other", other)):
        zoo.public[name], zoo.prints[name] = key.public, key.fingerprint
        zoo.signed[name] = key.sign(DATA)
    zoo.signed["good, other data"] = good.sign(DATA + b"x")
    modern = pysequoia.Tsk.generate("Modern", profile=pysequoia.Profile.RFC9580)
    public = modern.extract_certificate()
    zoo.public["v6"], zoo.prints["v6"] = str(public).encode(), public.fingerprint
    zoo.signed["v6"] = KeyPair(str(modern).encode(), b"", "").sign(DATA)

    with GnuPG() as gpg:
        plain = gpg.make_key("Plain <plain@example.com>", algorithm="rsa2048")
        zoo.key("plain", gpg, plain)
        zoo.signed["plain"] = gpg.sign(DATA, plain)
        zoo.signed["plain, other data"] = gpg.sign(DATA + b"x", plain)
        zoo.signed["text mode"] = gpg.sign(DATA, plain, "--textmode")
        zoo.signed["clear"] = gpg.run("--local-user", plain, "--clear-sign", stdin=DATA)
        zoo.signed["inline"] = gpg.run("--armor", "--local-user", plain, "--sign", stdin=DATA)
        zoo.signed["binary"] = gpg.run("--local-user", plain, "--detach-sign", stdin=DATA)
        for digest in ("SHA1", "RIPEMD160", "SHA256", "SHA384", "SHA512"):
            zoo.signed[digest] = gpg.sign(DATA, plain, "--allow-weak-digest-algos", "--digest-algo", digest)
        for name, ahead in (("2 minutes ahead", 120), ("1 hour ahead", 3600), ("2 years ahead", 730 * DAY)):
            zoo.signed[name] = gpg.sign(DATA, plain, at=time.time() + ahead)
        old = gpg.make_key("Old <old@example.com>", at=NOW - 100 * DAY)
        zoo.key("old", gpg, old)
        zoo.signed["with an end, past"] = gpg.sign(DATA, old, "--default-sig-expire", "1d", at=NOW - 30 * DAY)
        zoo.signed["with an end, to come"] = gpg.sign(
            DATA, old, "--default-sig-expire", "60d", at=NOW - 30 * DAY
        )

        rsa = gpg.make_key("Rsa <rsa@example.com>", algorithm="rsa3072")
        zoo.key("rsa", gpg, rsa)
        zoo.signed["rsa"] = gpg.sign(DATA, rsa)

        expired = gpg.make_key("Expired <e@example.com>", expires="30d", at=NOW - 100 * DAY)
        zoo.key("expired", gpg, expired)
        zoo.signed["expired, signed before"] = gpg.sign(DATA, expired, at=NOW - 90 * DAY)
        gpg.run("--quick-set-expire", expired, "10y", at=NOW - 89 * DAY)
        zoo.signed["expired, signed after"] = gpg.sign(DATA, expired, at=NOW - 10 * DAY)
        zoo.key("expired, renewed", gpg, expired)

        subbed = gpg.make_key("Subbed <s@example.com>", usage="cert", at=NOW - 100 * DAY)
        subkey = gpg.add_subkey(subbed, expires="30d", at=NOW - 99 * DAY)
        zoo.key("subkey expired", gpg, subbed)
        zoo.prints["subkey expired, subkey"] = subkey
        zoo.signed["subkey expired, signed before"] = gpg.sign(DATA, f"{subkey}!", at=NOW - 90 * DAY)
        gpg.run("--quick-set-expire", subbed, "10y", subkey, at=NOW - 89 * DAY)
        zoo.key("subkey renewed", gpg, subbed)

        lapsed = gpg.make_key("Lapsed <l@example.com>", usage="cert", expires="30d", at=NOW - 100 * DAY)
        gpg.add_subkey(lapsed, at=NOW - 99 * DAY)
        zoo.key("primary expired", gpg, lapsed)
        zoo.signed["primary expired"] = gpg.sign(DATA, lapsed, at=NOW - 90 * DAY)

        for name, reason in (("compromised", "1"), ("superseded", "2")):
            whole = gpg.make_key(f"{name} <r@example.com>", at=NOW - 100 * DAY)
            zoo.signed[name] = gpg.sign(DATA, whole, at=NOW - 90 * DAY)
            zoo.key(f"before {name}", gpg, whole)
            gpg.revoke(whole, reason=reason, text="it was time", at=NOW - 10 * DAY)
            zoo.key(name, gpg, whole)

            main = gpg.make_key(f"sub{name} <r@example.com>", usage="cert", at=NOW - 100 * DAY)
            subkey = gpg.add_subkey(main, at=NOW - 99 * DAY)
            zoo.signed[f"subkey {name}"] = gpg.sign(DATA, f"{subkey}!", at=NOW - 90 * DAY)
            revoke_subkey(gpg, main, reason=reason, at=NOW - 10 * DAY)
            zoo.key(f"subkey {name}", gpg, main)
            zoo.prints[f"subkey {name}, subkey"] = subkey

        weak = gpg.make_key(
            "Weak <w@example.com>", algorithm="rsa2048", at=NOW - 100 * DAY, options=OLD_OPTIONS
        )
        zoo.key("SHA-1 self-signature", gpg, weak)
        zoo.signed["SHA-1 self-signature"] = gpg.sign(DATA, weak)
        gpg.run("--quick-set-expire", weak, "10y", at=NOW - DAY)
        zoo.key("SHA-1 self-signature, renewed", gpg, weak)
        zoo.signed["SHA-1 self-signature, renewed"] = gpg.sign(DATA, weak)

        mixed = gpg.make_key("Mixed <m@example.com>", algorithm="rsa2048", usage="cert", at=NOW - 100 * DAY)
        subkey = gpg.add_subkey(mixed, algorithm="rsa2048", at=NOW - 99 * DAY, options=OLD_OPTIONS)
        zoo.key("SHA-1 binding", gpg, mixed)
        zoo.prints["SHA-1 binding, subkey"] = subkey
        zoo.signed["SHA-1 binding"] = gpg.sign(DATA, f"{subkey}!")

        future = gpg.make_key("Future <f@example.com>", at=NOW + 400 * DAY)
        zoo.key("key from the future", gpg, future)

        short = gpg.make_key("Short <short@example.com>", algorithm="rsa1024")
        zoo.key("rsa1024", gpg, short)
        zoo.signed["rsa1024"] = gpg.sign(DATA, short)
    return zoo


def judge(paths: Paths, signature: bytes | None, *, name: str = NAME, data: bytes = DATA) -> Verification:
    with KeyStore(paths).verifier(signature, name) as verifier:
        verifier.feed(data[:100])
        verifier.feed(data[100:])
        return verifier.finish()


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths(*(str(tmp_path / name) for name in ("data", "run", "system", "local")))


@pytest.mark.parametrize(
    "name", ["good", "v6", "plain", "rsa", "SHA256", "SHA384", "SHA512", "2 minutes ahead"]
)
def test_good_signatures_are_accepted(zoo: Zoo, paths: Paths, name: str) -> None:
    key = name if name in zoo.public else "plain"
    trust(paths, zoo.public[key], "example.com")
    found = judge(paths, zoo.signed[name])
    assert found.key == zoo.prints[key]
    assert found.prefix == "example.com"
    assert abs(time.time() - datetime.fromisoformat(found.verified_at).timestamp()) < 60
    assert found.signer in {one for key in KeyStore(paths).keys_for(NAME) for one in key.fingerprints}


class Case(NamedTuple):
    """Keys that are trusted for example.com, the signature, what is refused and how it is told."""

    keys: str | tuple[str, ...]
    signature: str | tuple[str, ...]
    error: type[errors.TrustError]
    text: str
    hint: str = ""


GET_RENEWED = r"renewed key .*gantry trust --prefix=example\.com KEYFILE"
REFUSALS = {
    "unknown key": Case(
        "plain", "other", errors.UnknownKeyError, r"unknown entity [0-9a-f]{40}; other keys", "--prefix"
    ),
    "no key at all": Case(
        (), "good", errors.UnknownKeyError, "no key is trusted for it", "gantry trust --prefix=ex"
    ),
    "other bytes": Case(
        "good", "good, other data", errors.BadSignatureError, "not for these bytes", "fetch it again"
    ),
    "other bytes, gpg": Case("plain", "plain, other data", errors.BadSignatureError, "not for these bytes"),
    "compromised": Case(
        "compromised",
        "compromised",
        errors.KeyRevokedError,
        r'has revoked on \d{4}-\d\d-\d\d \(key compromised: "it was time"\)',
        "another key",
    ),
    "superseded later": Case(
        "superseded", "superseded", errors.KeyRevokedError, r"\(superseded: ", "another key"
    ),
    "revocation in one of two copies": Case(
        ("compromised", "before compromised"), "compromised", errors.KeyRevokedError, "has revoked on"
    ),
    "subkey compromised": Case(
        "subkey compromised",
        "subkey compromised",
        errors.KeyRevokedError,
        r"subkey [0-9a-f]{40} of key [0-9a-f]{40}, which its owner has revoked on \S+ \(key compromised\)",
    ),
    "subkey superseded later": Case(
        "subkey superseded", "subkey superseded", errors.KeyRevokedError, r"subkey .* \(superseded\)"
    ),
    "expired, signed before": Case(
        "expired",
        "expired, signed before",
        errors.KeyExpiredError,
        r"expired on \S+Z \(this host's clock says \S+Z\)",
        GET_RENEWED,
    ),
    "expired, signed after": Case("expired", "expired, signed after", errors.KeyExpiredError, "expired on"),
    "primary expired, subkey without end": Case(
        "primary expired", "primary expired", errors.KeyExpiredError, r"by key [0-9a-f]{40}, which expired on"
    ),
    "subkey expired, primary valid": Case(
        "subkey expired",
        "subkey expired, signed before",
        errors.KeyExpiredError,
        r"subkey [0-9a-f]{40} of key [0-9a-f]{40}, which expired on \S+Z",
        GET_RENEWED,
    ),
    "signed before the renewal, only the renewed key is here": Case(
        "expired, renewed",
        "expired, signed before",
        errors.KeyUnusableError,
        r"tells of it since \S+",
        "older self-signatures",
    ),
    "SHA-1": Case(
        "plain", "SHA1", errors.WeakDigestError, "uses SHA-1, which can be forged", "SHA-256 or better"
    ),
    "RIPEMD-160": Case("plain", "RIPEMD160", errors.WeakDigestError, "uses RIPEMD-160"),
    "self-signature with SHA-1": Case(
        "SHA-1 self-signature",
        "SHA-1 self-signature",
        errors.KeyUnusableError,
        "own self-signature uses SHA-1.*signature of the image is not the problem",
        "--quick-set-expire",
    ),
    "binding of the subkey with SHA-1": Case(
        "SHA-1 binding",
        "SHA-1 binding",
        errors.KeyUnusableError,
        "subkey .* own self-signature uses SHA-1",
        "2y '\\*'",
    ),
    "RSA with 1024 bits": Case(
        "rsa1024", "rsa1024", errors.KeyUnusableError, "has 1024 bits, too few", "another key"
    ),
    "the signature has ended": Case(
        "old", "with an end, past", errors.SignatureExpiredError, "by its signer's will"
    ),
    "an hour ahead": Case(
        "plain",
        "1 hour ahead",
        errors.ClockError,
        r"made at \S+Z, .*this host's clock says \S+Z",
        "timedatectl",
    ),
    "the host is years behind": Case("plain", "2 years ahead", errors.ClockError, "in the future"),
    "over text": Case("plain", "text mode", errors.SignatureFormatError, "not over the bytes of a file"),
    "clear-signed": Case("plain", "clear", errors.SignatureFormatError, "a PGP SIGNED MESSAGE"),
    "not detached": Case("plain", "inline", errors.SignatureFormatError, "is a PGP MESSAGE"),
    "not armored": Case(
        "plain", "binary", errors.SignatureFormatError, "binary, not ASCII-armored", "gpg --armor"
    ),
    "one good, one of a trusted key for other bytes": Case(
        ("good", "plain"), ("good", "plain, other data"), errors.BadSignatureError, "not for these bytes"
    ),
    "one for other bytes, one good": Case(
        ("good", "plain"), ("plain, other data", "good"), errors.BadSignatureError, "not for these bytes"
    ),
    "the worst of several is told": Case(
        ("expired", "compromised"),
        ("other", "expired, signed before", "compromised"),
        errors.KeyRevokedError,
        "revoked",
    ),
}


@pytest.mark.parametrize("case", REFUSALS.values(), ids=REFUSALS.keys())
def test_refusal(zoo: Zoo, paths: Paths, case: Case) -> None:
    keys = (case.keys,) if isinstance(case.keys, str) else case.keys
    wanted = (case.signature,) if isinstance(case.signature, str) else case.signature
    for key in keys:
        trust(paths, zoo.public[key], "example.com")
    with pytest.raises(case.error) as caught:
        judge(paths, b"".join(zoo.signed[name] for name in wanted))
    assert type(caught.value) is case.error
    assert NAME in caught.value.message
    assert re.search(case.text, caught.value.message), caught.value.message
    assert re.search(case.hint, caught.value.hint), caught.value.hint
    assert caught.value.hint
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("keys", "signatures", "by"),
    [
        (("good",), ("other", "good"), "good"),  # of a stranger beside it
        (("good",), ("SHA1", "good"), "good"),
        (("good", "compromised"), ("compromised", "good"), "good"),  # signed again after the key was lost
        (("good", "expired"), ("good", "expired, signed before"), "good"),
        (("good", "plain"), ("good", "plain"), "good"),
        (("subkey expired", "subkey renewed"), ("subkey expired, signed before",), "subkey expired"),
        (("expired", "expired, renewed"), ("expired, signed before",), "expired"),
        (("SHA-1 self-signature, renewed",), ("SHA-1 self-signature, renewed",), "SHA-1 self-signature"),
        (("old",), ("with an end, to come",), "old"),
        (("before compromised",), ("compromised",), "before compromised"),  # nobody told this host
    ],
    ids=lambda value: value if isinstance(value, str) else "+".join(value),
)
def test_acceptance(
    zoo: Zoo, paths: Paths, keys: tuple[str, ...], signatures: tuple[str, ...], by: str
) -> None:
    for key in keys:
        trust(paths, zoo.public[key], "example.com")
    assert judge(paths, b"".join(zoo.signed[name] for name in signatures)).key == zoo.prints[by]


def test_all_good_signatures_can_be_had(zoo: Zoo, paths: Paths) -> None:
    for key in ("good", "plain"):
        trust(paths, zoo.public[key], "example.com")
    with KeyStore(paths).verifier(zoo.signed["good"] + zoo.signed["plain"], NAME) as verifier:
        verifier.feed(DATA)
        first = verifier.finish()
        assert verifier.verifications[0] == first
        assert [one.key for one in verifier.verifications] == [zoo.prints["good"], zoo.prints["plain"]]


def test_a_key_for_another_name_is_not_an_unknown_key(zoo: Zoo, paths: Paths) -> None:
    trust(paths, zoo.public["good"], "example.com/other")
    with pytest.raises(errors.UntrustedForNameError, match=r"trusted for example\.com/other only") as caught:
        judge(paths, zoo.signed["good"])
    assert "gantry trust --prefix=example.com/app /" in caught.value.hint


def test_a_prefix_ends_at_a_component(zoo: Zoo, paths: Paths) -> None:
    trust(paths, zoo.public["good"], "example.com/foo")
    assert judge(paths, zoo.signed["good"], name="example.com/foo/bar").prefix == "example.com/foo"
    assert judge(paths, zoo.signed["good"], name="example.com/foo").prefix == "example.com/foo"
    for name in ("example.com/foobar", "example.com", "example.com/fo"):
        with pytest.raises(errors.UntrustedForNameError):
            judge(paths, zoo.signed["good"], name=name)


def test_a_revocation_that_was_added_for_another_name_counts(zoo: Zoo, paths: Paths) -> None:
    trust(paths, zoo.public["before compromised"], "example.com")
    assert judge(paths, zoo.signed["compromised"])
    trust(paths, zoo.public["compromised"], "elsewhere.example")
    with pytest.raises(errors.KeyRevokedError):
        judge(paths, zoo.signed["compromised"])


@pytest.mark.parametrize("content", [None, b"", b"  \n\n"])
def test_unsigned(zoo: Zoo, paths: Paths, content: bytes | None) -> None:
    trust(paths, zoo.public["good"], "example.com")
    with pytest.raises(
        errors.UnsignedError, match=r"example\.com/app (is not signed|has an empty)"
    ) as caught:
        judge(paths, content)
    assert 'insecure option "image"' in caught.value.hint


def test_the_key_is_judged_before_a_byte_is_fed(zoo: Zoo, paths: Paths) -> None:
    trust(paths, zoo.public["compromised"], "example.com")
    with (
        KeyStore(paths).verifier(zoo.signed["compromised"], NAME) as verifier,
        pytest.raises(errors.KeyRevokedError),
    ):
        verifier.ready()


def test_every_error_has_a_code_of_its_own() -> None:
    kinds = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.TrustError)
    ]
    assert len({kind.code for kind in kinds}) == len(kinds)
    assert set(errors.BY_CODE) == {kind.code for kind in kinds} - {"trust"}
