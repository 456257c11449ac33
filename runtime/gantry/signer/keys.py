"""The pods' keys, on disk and in memory.

On disk, all belonging to the signer's user and readable by nobody else::

    DATA/signer/            0700
        format              "1": a signer that does not know the number refuses to start
        lock                held (flock) by the signer that is running
        audit/              the signatures, counted; see gantry.signer.counts
        keys/               0700
            UUID            0600, 136 bytes: magic, key, SHA-256 of the token, checksum
            .UUID.tmp       being written; removed at the next start

Rules:

- A key is on disk, synced with its directory, before `create` answers: it survives a power cut from then on.
- A damaged, foreign or readable key file is refused, never repaired or replaced: that would silently change
  who a pod is.
- Destroying a key overwrites the file before it is unlinked. On storage that copies on write the old block
  may live on; encrypt the disk if that matters.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import hmac
import os
import stat
import struct

from gantry.errors import BusyError, HostError

FORMAT = "1"
KEY_SIZE = 64
_MAGIC = b"GANTRYK1"
_FILE = struct.Struct("!8s64s32s32s")
_BLOCK = 128  # of SHA-512, RFC 2104


class KeyFileError(HostError):
    """A key file cannot be used as it is."""

    code = "signer-key-file"


class Key:
    """One pod's key, ready for use.

    HMAC is two nested hashes that each begin with a block made of the key; both states are kept prepared (the
    inner one has the pod's UUID behind it), so that a signature costs two copies and two short updates, half
    of what :func:`hmac.digest` takes.
    """

    __slots__ = ("_inner", "_outer", "token_sha256")

    def __init__(self, uuid: bytes, key: bytes, token_sha256: bytes) -> None:
        block = key.ljust(_BLOCK, b"\0")
        self._inner = hashlib.sha512(bytes(b ^ 0x36 for b in block))
        self._inner.update(uuid)
        self._outer = hashlib.sha512(bytes(b ^ 0x5C for b in block))
        self.token_sha256 = token_sha256

    def sign(self, content: bytes) -> bytes:
        """HMAC-SHA512 over the 16 bytes of the UUID and *content* (MDS-13, MDS-16, MDS-18)."""
        inner = self._inner.copy()
        inner.update(content)
        outer = self._outer.copy()
        outer.update(inner.digest())
        return outer.digest()

    def admits(self, token: bytes) -> bool:
        """Whether *token* is the pod's; takes as long for any answer."""
        return hmac.compare_digest(hashlib.sha256(token).digest(), self.token_sha256)


class Keys:
    """All keys of one host. Open it after the process has become the signer's user.

    Args:
        directory: ``DATA/signer``, existing, owned by this process's user.

    Raises:
        BusyError: Another signer has it.
        HostError: It is missing, belongs to somebody else, can be read by others, or has another format.
    """

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self._loaded: dict[bytes, Key] = {}
        self._lock = -1
        self._fd = -1
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        _check_private(self.directory, os.stat(self.directory, follow_symlinks=False))
        self._lock = os.open(
            os.path.join(self.directory, "lock"), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600
        )
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BusyError(
                f"another signer uses {self.directory}", hint="systemctl status gantry-signer"
            ) from None
        self._check_format()
        path = os.path.join(self.directory, "keys")
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, 0o700)
        self._fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        _check_private(path, os.fstat(self._fd))
        for name in os.listdir(self._fd):
            if name.startswith("."):
                os.unlink(name, dir_fd=self._fd)

    def _check_format(self) -> None:
        path = os.path.join(self.directory, "format")
        try:
            with open(path, encoding="ascii", errors="replace") as file:
                found = file.read(100).strip()
        except FileNotFoundError:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
            try:
                os.write(fd, f"{FORMAT}\n".encode())
                os.fsync(fd)
            finally:
                os.close(fd)
            return
        if found != FORMAT:
            raise HostError(
                f'{self.directory} has format "{found}", this signer knows {FORMAT}',
                hint="use the version of gantry that wrote it",
            )

    def close(self) -> None:
        """Forget all keys and let another signer have the directory."""
        self._loaded.clear()
        for fd in (self._fd, self._lock):
            if fd >= 0:
                os.close(fd)
        self._fd = self._lock = -1

    def create(self, uuid: bytes, token_sha256: bytes) -> bool:
        """Make a key for *uuid*, or give the key that it has another token. Returns whether anything changed.

        Raises:
            HostError: Not written (no space, damaged key file).
        """
        there = self.find(uuid)
        if there is None:
            key = os.urandom(KEY_SIZE)
        elif there.token_sha256 == token_sha256:
            return False
        else:
            key = self._read(uuid)[0]
        self._write(uuid, key, token_sha256)
        self._loaded[uuid] = Key(uuid, key, token_sha256)
        return True

    def delete(self, uuid: bytes) -> bool:
        """Destroy the key of *uuid*, damaged or not. Returns whether there was one.

        Raises:
            HostError: The disk refused.
        """
        self._loaded.pop(uuid, None)
        name = _name(uuid)
        try:
            fd = os.open(name, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=self._fd)
        except FileNotFoundError:
            return False
        except OSError:
            fd = -1  # not a file that could be overwritten; unlinked all the same
        try:
            if fd >= 0:
                os.pwrite(fd, bytes(_FILE.size), 0)
                os.fsync(fd)
            os.unlink(name, dir_fd=self._fd)
            os.fsync(self._fd)
        except OSError as error:
            raise HostError(f"the key of pod {name} cannot be destroyed: {error.strerror}") from None
        finally:
            if fd >= 0:
                os.close(fd)
        return True

    def uuids(self) -> list[bytes]:
        """Of all keys, damaged ones too, in order."""
        found = []
        for name in os.listdir(self._fd):
            with contextlib.suppress(ValueError):
                uuid = bytes.fromhex(name.replace("-", ""))
                if _name(uuid) == name:
                    found.append(uuid)
        return sorted(found)

    def find(self, uuid: bytes) -> Key | None:
        """The key of *uuid*, or None.

        Raises:
            KeyFileError: There is a file and it cannot be used.
        """
        key = self._loaded.get(uuid)
        if key is None:
            try:
                secret, token_sha256 = self._read(uuid)
            except FileNotFoundError:
                return None
            key = self._loaded[uuid] = Key(uuid, secret, token_sha256)
        return key

    def _read(self, uuid: bytes) -> tuple[bytes, bytes]:
        name = _name(uuid)
        try:
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=self._fd)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise KeyFileError(f"the key file of pod {name} cannot be read: {error.strerror}") from None
        try:
            info = os.fstat(fd)
            if not stat.S_ISREG(info.st_mode) or info.st_uid != os.geteuid() or info.st_mode & 0o077:
                raise KeyFileError(
                    f"the key file of pod {name} is not a private file of the signer's user",
                    hint="somebody changed its owner or mode; if the key may be known, remove the pod",
                )
            data = os.read(fd, _FILE.size + 1)
        finally:
            os.close(fd)
        if len(data) == _FILE.size:
            magic, key, token_sha256, checksum = _FILE.unpack(data)
            if magic == _MAGIC and checksum == _checksum(uuid, key, token_sha256):
                return key, token_sha256
        raise KeyFileError(
            f"the key file of pod {name} is damaged", hint="restore it, or remove the pod and start a new one"
        )

    def _write(self, uuid: bytes, key: bytes, token_sha256: bytes) -> None:
        name = _name(uuid)
        temporary = f".{name}.tmp"
        data = _FILE.pack(_MAGIC, key, token_sha256, _checksum(uuid, key, token_sha256))
        try:
            fd = os.open(
                temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600, dir_fd=self._fd
            )
            try:
                if os.write(fd, data) != len(data):
                    raise OSError(0, "short write")
                os.fsync(fd)
            finally:
                os.close(fd)
            os.rename(temporary, name, src_dir_fd=self._fd, dst_dir_fd=self._fd)
            os.fsync(self._fd)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.unlink(temporary, dir_fd=self._fd)
            raise HostError(f"the key of pod {name} cannot be written: {error.strerror}") from None


def canonical(uuid: bytes) -> str:
    """16 bytes as a UUID is printed."""
    h = uuid.hex()
    return f"{h[:8]}-{h[8:12]}-{h[12:16]}-{h[16:20]}-{h[20:]}"


_name = canonical


def _checksum(uuid: bytes, key: bytes, token_sha256: bytes) -> bytes:
    return hashlib.sha256(_MAGIC + uuid + key + token_sha256).digest()


def _check_private(path: str, info: os.stat_result) -> None:
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.geteuid() or info.st_mode & 0o077:
        raise HostError(
            f"{path} must be a directory that belongs to user {os.geteuid()} with mode 0700",
            hint="it holds the pods' keys; see what changed it",
        )
