"""The key store: where files lie, what counts for a name, and what adding and removing change."""

from __future__ import annotations

import os
import shutil
import stat
import threading
import time
from pathlib import Path

import pysequoia
import pytest
from tests.support.openpgp import GnuPG, KeyPair, make_key, trust

from gantry import audit
from gantry.config import Paths
from gantry.errors import UsageError
from gantry.trust import KeyFileError, KeyStore, TrustError
from gantry.trust.keystore import inspect, normal_fingerprint, normal_scope

DAY = 86400


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths(*(str(tmp_path / name) for name in ("data", "run", "system", "local")))


@pytest.fixture
def store(paths: Paths) -> KeyStore:
    return KeyStore(paths)


@pytest.fixture(scope="module")
def key() -> KeyPair:
    return make_key("One <one@example.com>")


@pytest.fixture(scope="module")
def other() -> KeyPair:
    return make_key("Two <two@example.com>")


def put(layer: str, where: str, name: str, content: bytes) -> Path:
    path = Path(layer, "trustedkeys", where, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def prints(store: KeyStore, name: str) -> list[str]:
    return [key.fingerprint for key in store.keys_for(name)]


def tree(top: str) -> dict[str, bytes]:
    return {
        os.path.join(directory, name): Path(directory, name).read_bytes()
        for directory, _, names in os.walk(top)
        for name in names
        if name != ".lock"
    }


def test_add_writes_the_file_that_a_person_expects(paths: Paths, store: KeyStore, key: KeyPair) -> None:
    result = store.add(key.public, prefix="example.com/app")
    path = Path(paths.local, "trustedkeys/prefix.d/example.com/app", key.fingerprint)
    assert result.path == str(path)
    assert (result.changed, result.action, result.before) == (True, "add", None)
    assert result.fingerprint == key.fingerprint
    assert result.user_ids == ("One <one@example.com>",)
    assert not result.warnings
    assert path.read_bytes().startswith(b"-----BEGIN PGP PUBLIC KEY BLOCK-----")
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o755
    assert pysequoia.Cert.from_file(str(path)).fingerprint == key.fingerprint


def test_modes_do_not_depend_on_the_umask(paths: Paths, store: KeyStore, key: KeyPair) -> None:
    old = os.umask(0o077)
    try:
        path = Path(store.add(key.public, root=True).path)
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o755
    assert stat.S_IMODE(path.parent.parent.stat().st_mode) == 0o755


def test_adding_again_changes_nothing(paths: Paths, store: KeyStore, key: KeyPair) -> None:
    store.add(key.public, prefix="example.com/app")
    before = tree(paths.local)
    times = os.stat(next(iter(before))).st_mtime_ns
    for again in (key.public, bytes(pysequoia.Cert.from_bytes(key.public))):
        result = store.add(again, prefix="example.com/app/*")
        assert (result.changed, result.action) == (False, "none")
        assert result.before == result.after
    assert tree(paths.local) == before
    assert os.stat(next(iter(before))).st_mtime_ns == times
    assert [entry["event"] for entry in audit.entries(paths.data)] == ["trust.add"]


def test_check_changes_nothing_not_even_a_directory(paths: Paths, store: KeyStore, key: KeyPair) -> None:
    result = store.add(key.public, prefix="example.com", check=True)
    assert result.changed
    assert not os.path.exists(paths.local)
    assert not os.path.exists(paths.data)
    store.add(key.public, prefix="example.com")
    assert store.remove(key.fingerprint, prefix="example.com", check=True)
    assert prints(store, "example.com") == [key.fingerprint]


def test_a_renewed_key_is_merged_and_told(paths: Paths, store: KeyStore) -> None:
    short = pysequoia.Tsk.generate("Renew <r@example.com>", validity_seconds=10 * DAY)
    old = short.extract_certificate()
    later = old.expiration
    assert later is not None
    renewed = old.set_expiration(later.replace(year=later.year + 2), short.certifier())
    first = store.add(str(old).encode(), prefix="example.com")
    assert [line for line in first.warnings if "expires on" in line]
    second = store.add(str(renewed).encode(), prefix="example.com")
    assert (second.changed, second.action) == (True, "merge")
    assert second.before is not None
    assert second.after is not None
    assert str(second.before["expires"])[:4] == str(later.year)
    assert str(second.after["expires"])[:4] == str(later.year + 2)
    assert second.expires == second.after["expires"]
    third = store.add(str(old).encode(), prefix="example.com")  # the old one over the new one
    assert (third.changed, third.action) == (False, "none")
    assert third.expires == second.expires


def test_a_revocation_is_never_lost(paths: Paths, store: KeyStore) -> None:
    with GnuPG() as gpg:
        fingerprint = gpg.make_key("Lost <l@example.com>")
        subkey = gpg.add_subkey(fingerprint)
        sound = gpg.export(fingerprint)
        gpg.edit(fingerprint, "key 1", "revkey", "y", "1", "", "y")
        subkey_revoked = gpg.export(fingerprint)
        gpg.revoke(fingerprint, reason="1")
        revoked = gpg.export(fingerprint)
    store.add(sound, prefix="example.com")
    result = store.add(subkey_revoked, prefix="example.com")
    assert result.changed
    assert result.after is not None
    assert {"fingerprint": subkey, "expires": None, "revoked": True} in result.after["subkeys"]  # type: ignore[operator]
    result = store.add(revoked, prefix="example.com")
    assert result.revoked
    assert "revoked" in result.warnings[0]
    again = store.add(sound, prefix="example.com")
    assert (again.changed, again.revoked) == (False, True)


def test_an_expired_key_is_stored_and_reported(paths: Paths, store: KeyStore) -> None:
    with GnuPG() as gpg:
        fingerprint = gpg.make_key("Past <p@example.com>", expires="30d", at=time.time() - 100 * DAY)
        public = gpg.export(fingerprint)
    result = store.add(public, prefix="example.com")
    assert result.changed
    assert result.expired
    assert os.path.exists(result.path)
    assert f"key {fingerprint}, which expired on " in result.warnings[0]


def test_the_expected_fingerprint(paths: Paths, store: KeyStore, key: KeyPair, other: KeyPair) -> None:
    with pytest.raises(KeyFileError, match="fingerprint mismatch"):
        store.add(key.public, prefix="example.com", fingerprint=other.fingerprint)
    assert not os.path.exists(paths.local)
    spaced = " ".join(key.fingerprint[i : i + 4] for i in range(0, 40, 4)).upper()
    assert store.add(key.public, prefix="example.com", fingerprint=f"0x{spaced}").changed


@pytest.mark.parametrize("text", ["", "abc", "0" * 16, "g" * 40, "0" * 41, "DEADBEEF"])
def test_what_is_no_fingerprint(text: str) -> None:
    with pytest.raises(UsageError, match="is not the fingerprint of a key"):
        normal_fingerprint(text)


def test_a_file_with_several_keys_is_all_or_an_error(
    paths: Paths, store: KeyStore, key: KeyPair, other: KeyPair
) -> None:
    both = key.public + other.public
    assert [info.fingerprint for info in inspect(both)] == [key.fingerprint, other.fingerprint]
    with pytest.raises(KeyFileError, match="holds 2 certificates"):
        store.add(both, prefix="example.com", fingerprint=key.fingerprint)
    with pytest.raises(KeyFileError, match="fingerprint mismatch"):
        store.add_all(both, prefix="example.com", fingerprints=[key.fingerprint])
    with pytest.raises(KeyFileError):
        store.add_all(key.public + other.public[:-200], prefix="example.com")
    assert not os.path.exists(paths.local)
    results = store.add_all(both, prefix="example.com", fingerprints=[other.fingerprint, key.fingerprint])
    assert [result.action for result in results] == ["add", "add"]
    assert sorted(prints(store, "example.com")) == sorted([key.fingerprint, other.fingerprint])


def test_keys_for_a_name(paths: Paths, store: KeyStore, key: KeyPair, other: KeyPair) -> None:
    put(paths.system, "root.d", key.fingerprint, key.public)
    put(paths.system, "prefix.d/example.com/app", other.fingerprint, other.public)
    assert prints(store, "elsewhere.example") == [key.fingerprint]
    assert prints(store, "example.com") == [key.fingerprint]
    assert prints(store, "example.com/apple") == [key.fingerprint]
    assert prints(store, "example.com/app") == [key.fingerprint, other.fingerprint]
    assert prints(store, "example.com/app/deep/er") == [key.fingerprint, other.fingerprint]
    found = {one.fingerprint: one.prefix for one in store.keys_for("example.com/app")}
    assert found == {key.fingerprint: None, other.fingerprint: "example.com/app"}


def test_an_empty_file_masks_what_was_found_before_it(paths: Paths, store: KeyStore, key: KeyPair) -> None:
    put(paths.system, "root.d", key.fingerprint, key.public)
    put(paths.local, "prefix.d/example.com/app", key.fingerprint, b"")
    assert prints(store, "example.com") == [key.fingerprint]
    assert prints(store, "example.com/app") == []
    assert prints(store, "example.com/app/x") == []
    put(paths.local, "prefix.d/example.com/app/x", key.fingerprint, key.public)
    assert prints(store, "example.com/app/x") == [key.fingerprint]
    put(paths.local, "root.d", key.fingerprint, b"")
    assert prints(store, "other.example") == []


def test_removing(paths: Paths, store: KeyStore, key: KeyPair, other: KeyPair) -> None:
    store.add(key.public, prefix="example.com/a/b")
    store.add(other.public, prefix="example.com")
    assert store.remove(key.fingerprint.upper(), prefix="example.com/a/b")
    assert prints(store, "example.com/a/b") == [other.fingerprint]
    assert not os.path.exists(os.path.join(paths.local, "trustedkeys/prefix.d/example.com/a"))
    assert os.path.exists(os.path.join(paths.local, "trustedkeys/prefix.d/example.com"))
    assert not store.remove(key.fingerprint, prefix="example.com/a/b")
    assert not store.remove(other.fingerprint, root=True)


def test_removing_a_vendors_key_masks_it_and_adding_brings_it_back(
    paths: Paths, store: KeyStore, key: KeyPair
) -> None:
    vendor = put(paths.system, "prefix.d/example.com", key.fingerprint, key.public)
    assert store.add(key.public, prefix="example.com").action == "none"
    assert store.remove(key.fingerprint, prefix="example.com")
    assert prints(store, "example.com") == []
    assert vendor.read_bytes() == key.public
    assert not store.remove(key.fingerprint, prefix="example.com")
    assert [one.masks for one in store.list()] == [False, True]
    assert store.add(key.public, prefix="example.com").action == "add"
    assert prints(store, "example.com") == [key.fingerprint]


def test_masking_a_root_key_for_one_name(store: KeyStore, key: KeyPair) -> None:
    store.add(key.public, root=True)
    assert store.mask(key.fingerprint, prefix="example.com/app")
    assert not store.mask(key.fingerprint, prefix="example.com/app")
    assert prints(store, "example.com/app") == []
    assert prints(store, "example.com") == [key.fingerprint]


def test_trust_is_on_record(paths: Paths, store: KeyStore, key: KeyPair) -> None:
    store.add(key.public, prefix="example.com", by="alice")
    store.remove(key.fingerprint, prefix="example.com")
    added, removed = audit.entries(paths.data)
    assert added["event"] == "trust.add"
    assert added["actor"]["by"] == "alice"  # type: ignore[index]
    assert (added["fingerprint"], added["prefix"], added["root"]) == (key.fingerprint, "example.com", False)
    assert (removed["event"], removed["fingerprint"]) == ("trust.remove", key.fingerprint)


def test_what_cannot_be_recorded_is_not_done(paths: Paths, store: KeyStore, key: KeyPair) -> None:
    Path(paths.data).write_bytes(b"a file where the directory should be")
    with pytest.raises(audit.AuditError, match="cannot write the audit record"):
        store.add(key.public, prefix="example.com")
    assert prints(store, "example.com") == []


BROKEN = {
    "another key": (
        lambda key, other: (key.fingerprint, other.public),
        "fingerprint mismatch: it holds the key",
    ),
    "two keys": (lambda key, other: (key.fingerprint, key.public + other.public), "holds 2 certificates"),
    "a signature": (lambda key, other: (key.fingerprint, key.sign(b"")), "is a PGP SIGNATURE"),
    "text": (lambda key, other: (key.fingerprint, b"my key\n"), "there is 'my key"),
    "cut": (lambda key, other: (key.fingerprint, key.public[:300]), "it was cut"),
    "a secret key": (lambda key, other: (key.fingerprint, key.secret), "is a PGP PRIVATE KEY BLOCK"),
    "binary secret key": (
        lambda key, other: (key.fingerprint, bytes(pysequoia.Tsk.from_bytes(key.secret))),
        "holds a secret key",
    ),
    "not named by fingerprint": (
        lambda key, other: ("mykey.asc", key.public),
        "its name is not a fingerprint",
    ),
    "upper case": (lambda key, other: (key.fingerprint.upper(), key.public), "its name is not a fingerprint"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_key_file_fails_every_verification_that_reads_it(
    paths: Paths, store: KeyStore, key: KeyPair, other: KeyPair, case: str
) -> None:
    make, text = BROKEN[case]
    name, content = make(key, other)
    path = put(paths.local, "prefix.d/example.com", name, content)
    with pytest.raises(KeyFileError) as caught:
        store.verifier(key.sign(b""), "example.com/app")
    assert str(path) in caught.value.message
    assert text in caught.value.message
    assert store.keys_for("other.example") == []  # it does not count there
    assert text in store.list()[0].problem


@pytest.mark.parametrize("where", ["trustedkeys", "trustedkeys/root.d", "trustedkeys/prefix.d"])
def test_a_file_where_keys_should_be_is_not_overlooked(
    paths: Paths, store: KeyStore, key: KeyPair, where: str
) -> None:
    """A mask that an operator believes to be there must not get lost."""
    put(paths.system, "root.d", key.fingerprint, key.public)
    wrong = Path(paths.local, where)
    wrong.parent.mkdir(parents=True)
    wrong.touch()
    with pytest.raises(
        KeyFileError,
        match=rf"{paths.local}/trustedkeys/(root|prefix)\.d\S* cannot be used: .*Not a directory",
    ):
        store.keys_for("example.com/app")
    assert {listed.problem for listed in store.list() if not listed.fingerprint} == {
        "it cannot be read: Not a directory"
    }


@pytest.mark.parametrize("where", ["prefix.d/example.org", "root.d", "revoked.d"])
def test_a_damaged_copy_of_a_key_may_be_the_revoked_one(
    paths: Paths, store: KeyStore, key: KeyPair, other: KeyPair, where: str
) -> None:
    """A revocation is never lost: not by a file that cannot be read any more either."""
    put(paths.local, "prefix.d/example.com", key.fingerprint, key.public)
    put(paths.local, "prefix.d/example.com", other.fingerprint, other.public)
    damaged = put(paths.local, where, key.fingerprint, key.public)
    assert store.keys_for("example.com/app")
    damaged.write_bytes(key.public[:-60])
    with pytest.raises(KeyFileError) as caught:
        store.keys_for("example.com/app")
    assert str(damaged) in caught.value.message
    assert [found.path for found in store.list() if found.problem] == [str(damaged)]
    damaged.unlink()
    assert len(store.keys_for("example.com/app")) == 2


def test_keys_behind_a_link_are_listed_as_they_count(paths: Paths, store: KeyStore, key: KeyPair) -> None:
    put(paths.local, "prefix.d/example.com/team", key.fingerprint, key.public)
    top = Path(paths.local, "trustedkeys/prefix.d")
    (top / "example.org").symlink_to("example.com")
    (top / "example.com/team/loop").symlink_to("..")
    assert store.keys_for("example.org/team/app")
    assert store.keys_for("example.com/team/loop/team/app")
    assert {found.prefix for found in store.list()} >= {"example.com/team", "example.org/team"}


def test_a_missing_key_file_is_named(paths: Paths, store: KeyStore, key: KeyPair) -> None:
    path = Path(paths.local, "trustedkeys/root.d", key.fingerprint)
    path.parent.mkdir(parents=True)
    path.symlink_to("/nonexistent/key.asc")
    with pytest.raises(KeyFileError, match=f"{path} cannot be used: it cannot be read: No such file"):
        store.keys_for("example.com")


def test_a_key_file_that_is_no_file(paths: Paths, store: KeyStore, key: KeyPair) -> None:
    path = Path(paths.local, "trustedkeys/root.d", key.fingerprint)
    path.parent.mkdir(parents=True)
    os.mkfifo(path)
    with pytest.raises(KeyFileError, match="it is not a regular file"):
        store.keys_for("example.com")


def test_a_key_file_that_anybody_may_write(paths: Paths, store: KeyStore, key: KeyPair) -> None:
    put(paths.local, "root.d", key.fingerprint, key.public).chmod(0o666)
    with pytest.raises(KeyFileError, match="anybody may write it"):
        store.keys_for("example.com")


def test_temporary_and_hidden_files_are_passed_over(paths: Paths, store: KeyStore, key: KeyPair) -> None:
    put(paths.local, "root.d", ".ansible_tmp_key", b"half")
    put(paths.local, "root.d", f"{key.fingerprint}.1f.00.tmp", b"half")
    assert store.keys_for("example.com") == []
    assert store.list() == []


@pytest.mark.parametrize(
    "name",
    [
        "",
        "../etc",
        "a/../b",
        "/a",
        "a//b",
        "a/",
        "A.example",
        "a b",
        "a\n",
        ".",
        "..",
        "a/.",
        "a/./b",
        "ü.example",
    ],
)
def test_names_that_are_none(store: KeyStore, name: str) -> None:
    with pytest.raises(UsageError, match="is not an image name"):
        store.keys_for(name)


@pytest.mark.parametrize(
    ("prefix", "root", "text"),
    [
        ("https://example.com", False, r"must not contain a URL scheme \(omit https://\)"),
        ("example.com", True, "mutually exclusive"),
        (None, False, "for the names below a prefix, or for every name"),
        ("", False, "is not a name prefix"),
        ("../x", False, "is not a name prefix"),
        ("*", False, "is not a name prefix"),
    ],
)
def test_scopes_that_are_none(prefix: str | None, root: bool, text: str) -> None:
    with pytest.raises(UsageError, match=text):
        normal_scope(prefix, root=root)


def test_TYP_02_names_that_may_be_read_have_keys(store: KeyStore, key: KeyPair) -> None:
    """Runs of separators are forbidden by the specification's text and accepted by its code, and so here."""
    for prefix in ("example.com/x--y", "example.com/a__b/c.~d", "example.com/.hidden/x"):
        store.add(key.public, prefix=prefix)
        assert [found.prefix for found in store.keys_for(f"{prefix}/below")] == [prefix]
    assert store.keys_for("example.com/x-y") == []
    long = "example.com/" + "a" * 300
    assert store.keys_for(long) == []  # no directory can be called that
    with pytest.raises(UsageError, match="longer than 255"):
        store.add(key.public, prefix=long)


def test_the_wild_card_that_people_know_is_stripped() -> None:
    assert normal_scope("example.com/app/*", root=False) == "example.com/app"
    assert normal_scope("example.com/app/", root=False) == "example.com/app"


@pytest.mark.parametrize(
    "content",
    [b"", b"\n", b"<html>404</html>", b"\x99", b"\xff" * 100, b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n\n"],
)
def test_adding_what_is_no_key(paths: Paths, store: KeyStore, content: bytes) -> None:
    with pytest.raises(KeyFileError, match="the key cannot be used"):
        store.add(content, prefix="example.com")
    assert not os.path.exists(paths.local)


def test_adding_at_once_loses_nothing(paths: Paths) -> None:
    made = [make_key(f"{number}") for number in range(4)]
    failures: list[TrustError] = []

    def add(key: KeyPair) -> None:
        try:
            trust(paths, key, "example.com")
        except TrustError as error:
            failures.append(error)

    threads = [threading.Thread(target=add, args=(key,)) for key in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert sorted(prints(KeyStore(paths), "example.com")) == sorted(key.fingerprint for key in made)
    assert audit.verify(paths.data).count == 4


def test_a_directory_that_cannot_be_read_is_no_empty_one(paths: Paths, store: KeyStore, key: KeyPair) -> None:
    if os.geteuid() == 0:
        pytest.skip("root reads everything")
    path = put(paths.local, "root.d", key.fingerprint, key.public)
    path.parent.chmod(0)
    try:
        with pytest.raises(KeyFileError, match="Permission denied"):
            store.keys_for("example.com")
    finally:
        path.parent.chmod(0o755)
        shutil.rmtree(paths.local)
