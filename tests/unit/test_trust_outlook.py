"""How the trusted keys stand, told before an image is refused because of one of them."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tests.support.openpgp import GnuPG, make_key, trust

from gantry import audit
from gantry.config import Paths, SettingsError
from gantry.trust import ClockError, KeyStore, TrustError, UntrustedForNameError, start_verifier
from gantry.trust.outlook import ATTENTION, FINE, REFUSED, Outlook, outlook

DAY = 86400
NOW = time.time()


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths(*(str(tmp_path / name) for name in ("data", "run", "system", "local")))


@pytest.fixture
def gpg() -> Any:
    with GnuPG() as made:
        yield made


def look(paths: Paths, *, within: float = 30 * DAY) -> list[Outlook]:
    return outlook(KeyStore(paths), within=within, now=time.time())


def test_no_keys(paths: Paths) -> None:
    assert look(paths) == []


def test_a_key_without_an_end_is_fine(paths: Paths) -> None:
    key = make_key("Ann <ann@example.com>")
    trust(paths, key, "example.com/app")
    [found] = look(paths)
    assert (found.prefix, found.fingerprint, found.state) == ("example.com/app", key.fingerprint, FINE)
    assert (found.expires, found.days, found.told) == (None, None, [])
    assert found.user_ids == ["Ann <ann@example.com>"]


@pytest.mark.parametrize(
    ("days", "within", "state"), [(400, 30, FINE), (10, 30, ATTENTION), (10, 5, FINE), (31, 31, ATTENTION)]
)
def test_a_key_that_ends_soon_deserves_attention(paths: Paths, days: int, within: int, state: str) -> None:
    trust(paths, make_key(validity=days * DAY))
    [found] = look(paths, within=within * DAY + 60)
    assert found.state == state
    assert found.days in {days - 1, days}
    assert any(f"in {found.days} days" in line for line in found.told) == (state == ATTENTION)


def test_a_key_that_is_past_its_end_is_refused(paths: Paths, gpg: GnuPG) -> None:
    key = gpg.make_key("Old <old@example.com>", expires="seconds=1000", at=NOW - 10 * DAY)
    trust(paths, gpg.export(key))
    [found] = look(paths)
    assert (found.state, found.days) == (REFUSED, -10)
    assert "expired on" in found.told[0]


def test_a_revoked_key_is_refused_wherever_the_revocation_lies(paths: Paths, gpg: GnuPG) -> None:
    key = gpg.make_key("Gone <gone@example.com>", at=NOW - DAY)
    trust(paths, gpg.export(key), "example.com/a")
    assert [each.state for each in look(paths)] == [FINE]
    gpg.revoke(key)
    trust(paths, gpg.export(key), "example.com/b")
    assert [each.state for each in look(paths)] == [REFUSED, REFUSED]


def test_a_weak_self_signature_is_told(paths: Paths, gpg: GnuPG) -> None:
    weak = ("--cert-digest-algo", "SHA1", "--allow-weak-key-signatures")
    key = gpg.make_key("Weak <weak@example.com>", algorithm="rsa2048", options=weak)
    trust(paths, gpg.export(key))
    [found] = look(paths)
    assert found.state == REFUSED
    assert "self-signature uses SHA-1" in found.told[0]


def test_subkeys_that_sign_are_looked_at_one_by_one(paths: Paths, gpg: GnuPG) -> None:
    key = gpg.make_key("Sub <sub@example.com>", usage="cert", at=NOW - 20 * DAY)
    old = gpg.add_subkey(key, expires="seconds=1000", at=NOW - 20 * DAY)
    soon = gpg.add_subkey(key, expires=f"seconds={21 * DAY}", at=NOW - 19 * DAY)
    gpg.add_subkey(key, usage="encr", algorithm="cv25519", expires="seconds=1000", at=NOW - 20 * DAY)
    trust(paths, gpg.export(key))
    [found] = look(paths)
    assert found.state == ATTENTION
    assert found.days in {1, 2}
    assert [line for line in found.told if soon in line and "signing subkey" in line]
    assert [line for line in found.told if old in line and "are refused: it expired" in line]
    assert len(found.told) == 2  # nobody signs with the third
    late = gpg.add_subkey(key, expires=f"seconds={400 * DAY}", at=NOW - DAY)
    trust(paths, gpg.export(key))
    [found] = look(paths, within=DAY)
    assert (found.days or 0) > 390
    assert not [line for line in found.told if late in line]


def test_a_file_that_is_no_key_and_a_mask(paths: Paths) -> None:
    key = make_key()
    trust(paths, key, "example.com/app")
    KeyStore(paths).mask(key.fingerprint, prefix="example.com/app")
    assert look(paths) == []
    broken = Path(paths.local, "trustedkeys/root.d", "0" * 40)
    broken.parent.mkdir(parents=True)
    broken.write_text("no key")
    [found] = look(paths)
    assert (found.state, found.path, found.prefix) == (REFUSED, str(broken), None)
    assert "every name that it counts for is refused" in found.told[0]


def run(paths: Paths, *words: str) -> subprocess.CompletedProcess[str]:
    program = "import sys; from gantry.cli import main; sys.exit(main())"
    where = [f"--dir={paths.data}", f"--system-config={paths.system}", f"--local-config={paths.local}"]
    command = [sys.executable, "-c", program, *where, "trust", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_command_has_an_exit_status_for_monitoring(paths: Paths) -> None:
    done = run(paths, "check")
    assert (done.returncode, done.stderr) == (0, "")
    trust(paths, make_key("A <a@example.com>"), "example.com/a")
    assert run(paths, "check").returncode == 0
    soon = make_key("B <b@example.com>", validity=10 * DAY)
    trust(paths, soon, "example.com/b")
    done = run(paths, "check")
    assert done.returncode == 1
    assert f"{soon.fingerprint}: the key expires on" in done.stderr
    assert run(paths, "check", "--within=24h").returncode == 0
    Path(paths.local, "trustedkeys/prefix.d/example.com/a", "0" * 40).write_text("no key")
    done = run(paths, "check", "--format=json")
    assert done.returncode == 254
    assert [each["state"] for each in json.loads(done.stdout)] == [REFUSED, FINE, ATTENTION]


def test_the_rules_are_printed_with_their_date(paths: Paths) -> None:
    assert "SHA-1" in run(paths, "policy").stdout
    shown = json.loads(run(paths, "policy", "--format=json").stdout)
    assert shown["date"] >= "2026-11-26"
    assert any("expired or revoked now" in rule for rule in shown["rules"])


def settle(paths: Paths, content: str) -> Path:
    file = Path(paths.local, "trust.d/clock.json")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content)
    return file


@pytest.mark.parametrize(
    ("skew", "ahead", "accepted"), [(None, 200, True), (None, 400, False), (600, 500, True), (0, 60, False)]
)
def test_case_27_how_far_ahead_a_signature_may_be_is_a_setting(
    paths: Paths, gpg: GnuPG, skew: int | None, ahead: int, accepted: bool
) -> None:
    if skew is not None:
        settle(paths, json.dumps({"gantryKind": "trust", "gantryVersion": "v1", "skew": skew}))
    key = gpg.make_key("Early <early@example.com>", at=NOW - DAY)
    trust(paths, gpg.export(key), "example.com/app")
    signature = gpg.sign(b"image", key, at=time.time() + ahead)
    store = KeyStore(paths)
    for everything in (False, True):  # by name, and before the name is known
        ring = store.everything() if everything else store.keys_for("example.com/app")
        options = {"everything": ring, "skew": store.skew()} if everything else {}
        try:
            with start_verifier(ring, signature, "example.com/app", **options) as verifier:
                verifier.feed(b"image")
                assert verifier.finish().key == key
            found = True
        except ClockError:
            found = False
        assert found == accepted
    assert f"more than {300 if skew is None else skew} seconds" in run(paths, "policy").stdout


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"skew": -1}, "whole number of seconds from 0 to 1800"),
        ({"skew": 1801}, "whole number of seconds"),
        ({"skew": "5"}, "whole number of seconds"),
        ({"skew": True}, "whole number of seconds"),
        ({"clock": 5}, "no setting of trust"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(paths: Paths, fields: dict[str, Any], told: str) -> None:
    file = settle(paths, json.dumps({"gantryKind": "trust", "gantryVersion": "v1", **fields}))
    with pytest.raises(SettingsError, match=told) as caught:
        KeyStore(paths).keys_for("example.com/app")
    assert str(file) in str(caught.value)


def test_case_24_a_revocation_is_not_lost_when_the_key_is_removed(paths: Paths, gpg: GnuPG) -> None:
    key = gpg.make_key("Gone <gone@example.com>", at=NOW - DAY)
    before = gpg.export(key)
    gpg.revoke(key)
    revoked = gpg.export(key)
    store = KeyStore(paths)
    takers = {
        "rm": lambda: store.remove(key, prefix="example.com/a"),
        "mask": lambda: store.mask(key, prefix="example.com/a"),
    }
    for how, take_away in takers.items():
        trust(paths, revoked, "example.com/a")
        assert take_away()
        assert [k.fingerprint for k in store.keys_for("example.com/a")] == []
        result = trust(paths, before, "example.com/a")
        assert result.revoked, how
        assert [each.state for each in look(paths)] == [REFUSED], how
        trust(paths, before, "example.com/b")
        assert {each.state for each in look(paths)} == {REFUSED}, how
        store.remove(key, prefix="example.com/b")
    assert [path.name for path in Path(paths.local, "trustedkeys/revoked.d").iterdir()] == [key]


def test_a_key_without_revocations_leaves_nothing_when_it_is_removed(paths: Paths) -> None:
    key = make_key()
    trust(paths, key, "example.com/a")
    assert KeyStore(paths).remove(key.fingerprint, prefix="example.com/a")
    assert not Path(paths.local, "trustedkeys/revoked.d").exists()


def test_taking_a_mask_away_is_called_that(paths: Paths) -> None:
    key = make_key()
    trust(paths, key)
    store = KeyStore(paths)
    store.mask(key.fingerprint, prefix="example.com/a")
    assert list(store.keys_for("example.com/a")) == []
    done = run(paths, "rm", "--prefix=example.com/a", key.fingerprint)
    assert "Removed the mask of key" in done.stdout
    assert [k.fingerprint for k in store.keys_for("example.com/a")] == [key.fingerprint]
    actions = [entry["action"] for entry in audit.entries(paths.data, event="trust.remove")]
    assert actions == ["mask", "unmask"]
    store.mask(key.fingerprint, prefix="example.com/a")
    store.remove(key.fingerprint, root=True)
    done = run(paths, "rm", key.fingerprint)
    assert done.returncode == 254
    assert "gantry trust rm --prefix=example.com/a" in done.stderr


def test_a_renewed_copy_that_knows_nothing_of_earlier_times_is_told(paths: Paths, gpg: GnuPG) -> None:
    """GnuPG replaces a key's signature over itself; whoever has both copies has both."""
    key = gpg.make_key("Renewed <renewed@example.com>", at=NOW - 100 * DAY)
    old, signature = gpg.export(key), gpg.sign(b"image", key, at=NOW - 50 * DAY)
    gpg.run("--quick-set-expire", key, "10y", at=NOW - 2 * DAY)
    store = KeyStore(paths)
    added = store.add(gpg.export(key), prefix="example.com")
    [line] = [line for line in added.warnings if "signed before" in line]
    assert "an older copy of the key" in line
    with store.verifier(signature, "example.com/app") as verifier:
        verifier.feed(b"image")
        with pytest.raises(TrustError, match="tells of it since"):
            verifier.finish()
    merged = store.add(old, prefix="example.com")
    assert not [line for line in merged.warnings if "signed before" in line]
    with store.verifier(signature, "example.com/app") as verifier:
        verifier.feed(b"image")
        assert verifier.finish().key == key.lower()


def test_a_revocation_counts_wherever_it_is(paths: Paths, gpg: GnuPG) -> None:
    """Under another name, or kept from a key that was taken away: told when a copy is added, and by check."""
    key = gpg.make_key("Gone <gone@example.com>", at=NOW - 100 * DAY)
    old = gpg.export(key)
    gpg.revoke(key, at=NOW - 2 * DAY)
    store = KeyStore(paths)
    store.add(gpg.export(key), prefix="example.org")
    added = store.add(old, prefix="example.com")
    assert added.revoked
    assert any("revoked" in line for line in added.warnings)
    store.remove(key, prefix="example.org")
    put = Path(paths.local, "trustedkeys/prefix.d/example.com", key.lower())
    put.write_bytes(old)
    assert [(each.prefix, each.state) for each in outlook(store, within=DAY, now=NOW)] == [
        ("example.com", REFUSED)
    ]


def test_a_masked_key_is_no_trusted_one(paths: Paths, gpg: GnuPG) -> None:
    key = gpg.make_key("Masked <masked@example.com>", at=NOW - 100 * DAY)
    vendor = Path(paths.system, "trustedkeys/prefix.d/example.com", key.lower())
    vendor.parent.mkdir(parents=True)
    vendor.write_bytes(gpg.export(key))
    store = KeyStore(paths)
    assert [each.state for each in outlook(store, within=DAY, now=NOW)] == [FINE]
    store.mask(key.lower(), prefix="example.com", root=False)
    assert outlook(store, within=DAY, now=NOW) == []
    with pytest.raises(UntrustedForNameError, match="masked for this name"):
        store.verifier(gpg.sign(b"image", key, at=NOW), "example.com/app")
