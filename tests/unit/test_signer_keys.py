"""Keys on disk: private, durable, never silently replaced."""

from __future__ import annotations

import hashlib
import hmac
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gantry.errors import BusyError, HostError
from gantry.signer.keys import KEY_SIZE, Key, KeyFileError, Keys, canonical

UUID = bytes(range(1, 17))
NAME = canonical(UUID)
TOKEN = hashlib.sha256(b"token").digest()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "signer"
    path.mkdir(mode=0o700)
    return path


@pytest.fixture
def keys(directory: Path) -> Iterator[Keys]:
    keys = Keys(str(directory))
    yield keys
    keys.close()


def reopened(keys: Keys) -> Keys:
    keys.close()
    return Keys(keys.directory)


@given(
    key=st.binary(min_size=KEY_SIZE, max_size=KEY_SIZE),
    uuid=st.binary(min_size=16, max_size=16),
    content=st.binary(),
)
def test_a_signature_is_hmac_sha512_over_uuid_and_content(key: bytes, uuid: bytes, content: bytes) -> None:
    assert Key(uuid, key, TOKEN).sign(content) == hmac.digest(key, uuid + content, "sha512")


def test_a_key_admits_its_token_only() -> None:
    key = Key(UUID, bytes(KEY_SIZE), TOKEN)
    assert key.admits(b"token")
    assert not key.admits(b"Token")
    assert not key.admits(b"")
    assert not key.admits(TOKEN)


def test_create_is_idempotent_and_survives(keys: Keys) -> None:
    assert keys.create(UUID, TOKEN)
    first = keys.find(UUID)
    assert first
    assert not keys.create(UUID, TOKEN)
    again = reopened(keys)
    try:
        assert not again.create(UUID, TOKEN)
        found = again.find(UUID)
        assert found
        assert found.sign(b"x") == first.sign(b"x")
        assert found.admits(b"token")
    finally:
        again.close()


def test_another_token_replaces_the_token_and_keeps_the_key(keys: Keys) -> None:
    keys.create(UUID, TOKEN)
    before = keys.find(UUID)
    assert keys.create(UUID, hashlib.sha256(b"new").digest())
    again = reopened(keys)
    try:
        after = again.find(UUID)
        assert before
        assert after
        assert after.sign(b"x") == before.sign(b"x")
        assert after.admits(b"new")
        assert not after.admits(b"token")
    finally:
        again.close()


def test_a_deleted_key_is_gone_and_a_new_one_differs(keys: Keys) -> None:
    keys.create(UUID, TOKEN)
    first = keys.find(UUID)
    assert keys.delete(UUID)
    assert keys.find(UUID) is None
    assert not keys.delete(UUID)
    keys.create(UUID, TOKEN)
    second = keys.find(UUID)
    assert first
    assert second
    assert first.sign(b"x") != second.sign(b"x")


def test_a_deleted_key_is_overwritten_first(keys: Keys, directory: Path) -> None:
    keys.create(UUID, TOKEN)
    with (directory / "keys" / NAME).open("rb") as file:
        keys.delete(UUID)
        assert set(file.read()) == {0}


def test_files_are_private(keys: Keys, directory: Path) -> None:
    old = os.umask(0)
    try:
        keys.create(UUID, TOKEN)
    finally:
        os.umask(old)
    assert stat.S_IMODE((directory / "keys" / NAME).stat().st_mode) == 0o600
    assert stat.S_IMODE((directory / "keys").stat().st_mode) == 0o700


@pytest.mark.parametrize(
    "damage", ["flip", "truncate", "extend", "zero", "other-pod", "mode", "symlink", "fifo"]
)
def test_a_damaged_key_is_refused_never_replaced(keys: Keys, directory: Path, damage: str) -> None:
    keys.create(UUID, TOKEN)
    path = directory / "keys" / NAME
    data = path.read_bytes()
    if damage == "flip":
        path.write_bytes(data[:20] + bytes([data[20] ^ 1]) + data[21:])
    elif damage == "truncate":
        path.write_bytes(data[:-1])
    elif damage == "extend":
        path.write_bytes(data + b"\0")
    elif damage == "zero":
        path.write_bytes(b"")
    elif damage == "other-pod":
        other = bytes(15) + b"\1"
        keys.create(other, TOKEN)
        os.replace(directory / "keys" / canonical(other), path)
    elif damage == "mode":
        path.chmod(0o640)
    elif damage == "symlink":
        path.rename(directory / "elsewhere")
        path.symlink_to(directory / "elsewhere")
    else:
        path.unlink()
        os.mkfifo(path, 0o600)
    again = reopened(keys)
    try:
        with pytest.raises(KeyFileError, match=NAME):
            again.find(UUID)
        with pytest.raises(KeyFileError):
            again.create(UUID, TOKEN)
        assert again.delete(UUID), "but it can be destroyed"
        assert again.find(UUID) is None
    finally:
        again.close()


def test_leftovers_of_a_crash_are_removed(keys: Keys, directory: Path) -> None:
    keys.create(UUID, TOKEN)
    leftover = directory / "keys" / f".{NAME}.tmp"
    leftover.write_bytes(b"half")
    again = reopened(keys)
    try:
        assert not leftover.exists()
        assert again.find(UUID)
    finally:
        again.close()


def test_a_key_that_cannot_be_written_leaves_nothing(
    keys: Keys, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(HostError, match="No space left"):
        keys.create(UUID, TOKEN)
    monkeypatch.undo()
    assert os.listdir(directory / "keys") == []
    assert keys.find(UUID) is None


def test_uuids_lists_keys_and_nothing_else(keys: Keys, directory: Path) -> None:
    other = b"\xff" * 16
    for uuid in (other, UUID):
        keys.create(uuid, TOKEN)
    for name in ("rubbish", NAME.upper() + "0", "ab", NAME.replace("-", "")):
        (directory / "keys" / name).touch()
    assert keys.uuids() == [UUID, other]


def test_one_signer_at_a_time(keys: Keys, directory: Path) -> None:
    with pytest.raises(BusyError, match="another signer"):
        Keys(str(directory))
    assert keys.create(UUID, TOKEN), "and the first one is not disturbed"


@pytest.mark.parametrize("mode", [0o750, 0o701, 0o777])
def test_an_open_directory_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "signer"
    path.mkdir()
    path.chmod(mode)
    with pytest.raises(HostError, match="mode 0700"):
        Keys(str(path))


def test_another_format_is_refused(keys: Keys, directory: Path) -> None:
    keys.close()
    (directory / "format").write_text("2\n")
    with pytest.raises(HostError, match='format "2"'):
        Keys(str(directory))
