"""Key files and the names in the key store: read strictly, never trusted to be what they are called."""

from __future__ import annotations

import errno
import os
import re
import stat
from typing import NamedTuple

from gantry.appc.errors import AppcError
from gantry.appc.names import ac_identifier
from gantry.errors import UsageError
from gantry.trust import packets

_FINGERPRINT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_MAX_COMPONENT = 255  # of a file's name


#: Below a layer: keys that were taken away and say that their owners revoked something.
REVOKED_DIR = "revoked.d"


class TrustedKey(NamedTuple):
    """One file of the store.

    Attributes:
        fingerprint: Of the primary key, from the file's name.
        prefix: The names it is trusted for, ``None`` for every name.
        path: The file.
        armored: Its content; empty for a mask.
        fingerprints: Of the primary key and all subkeys.
        problem: Why the file cannot be used; empty when it can.
        user_ids: Who it says it is.
    """

    fingerprint: str
    prefix: str | None
    path: str
    armored: bytes
    fingerprints: tuple[str, ...] = ()
    problem: str = ""
    user_ids: tuple[str, ...] = ()

    @property
    def masks(self) -> bool:
        """Whether this file takes a key away."""
        return not self.armored and not self.problem

    @property
    def removed(self) -> bool:
        """Whether it is kept for its revocations only, and trusted for nothing."""
        return os.path.basename(os.path.dirname(self.path)) == REVOKED_DIR


def normal_fingerprint(text: str) -> str:
    """A fingerprint as people type it: spaces, case and a leading ``0x`` do not matter.

    Raises:
        UsageError: It is none. Short key IDs are none: they can be forged.
    """
    plain = re.sub(r"\s", "", text).lower().removeprefix("0x")
    if not _FINGERPRINT.fullmatch(plain):
        raise UsageError(
            f'"{text}" is not the fingerprint of a key', hint="give all of its 40 digits: gpg --fingerprint"
        )
    return plain


def normal_scope(prefix: str | None, *, root: bool) -> str | None:
    """The prefix without ``/*`` at its end; ``None`` for root.

    Raises:
        UsageError: Both, neither, or not a name.
    """
    if root and prefix is not None:
        raise UsageError(
            "--root and --prefix usage mutually exclusive", hint="--root is for every name, --prefix for some"
        )
    if root:
        return None
    if prefix is None:
        raise UsageError(
            "a key is trusted for the names below a prefix, or for every name",
            hint="give --prefix=NAME or, if it may sign everything, --root",
        )
    if "://" in prefix:
        raise UsageError("--prefix must not contain a URL scheme", hint="omit https://")
    parts = components(prefix.removesuffix("/*").removesuffix("/"), "a name prefix")
    if any(len(part) > _MAX_COMPONENT for part in parts):
        raise UsageError(f"a part of the name prefix is longer than {_MAX_COMPONENT} characters")
    return "/".join(parts)


def components(name: str, what: str) -> list[str]:
    """The parts of a name that may be read (TYP-01, TYP-02): none is empty, ``.`` or ``..``.

    Each is safe as the name of a directory, though it may be too long for one.
    """
    try:
        ac_identifier(name, what=what)
    except AppcError as error:
        raise UsageError(
            f'"{name[:200]}" is not {what}',
            hint="lower-case letters and digits with - . _ ~ between them, in parts separated by /",
        ) from error
    return name.split("/")


def read_directory(directory: str, prefix: str | None) -> list[TrustedKey]:
    """The key files directly in a directory, by name; none when it is not there."""
    try:
        with os.scandir(directory) as entries:
            names = sorted(
                entry.name
                for entry in entries
                if not entry.name.startswith(".") and not entry.name.endswith(".tmp") and not entry.is_dir()
            )
    except FileNotFoundError:
        return []
    except OSError as error:
        # Where a name goes on below a key file, or is longer than a file's may be, there can be no keys.
        below_a_file = prefix is not None and os.path.isdir(directory[: -len(prefix) - 1])
        if error.errno == errno.ENAMETOOLONG or (error.errno == errno.ENOTDIR and below_a_file):
            return []
        return [TrustedKey("", prefix, directory, b"", problem=f"it cannot be read: {error.strerror}")]
    return [read_file(os.path.join(directory, name), name, prefix) for name in names]


def directories_below(top: str) -> list[str]:
    """Every directory below *top*, those that links lead to among them, as names may go through either."""
    found: list[str] = []
    waiting = [(top, frozenset[tuple[int, int]]())]
    while waiting:
        directory, above = waiting.pop()
        try:
            info = os.stat(directory)
            with os.scandir(directory) as entries:
                below = sorted(entry.path for entry in entries if entry.is_dir())
        except OSError:
            continue  # whoever reads its keys is told
        here = (info.st_dev, info.st_ino)
        if here in above:
            continue  # a link that leads back
        found += below
        waiting += [(path, above | {here}) for path in reversed(below)]
    return found


def read_file(path: str, name: str, prefix: str | None) -> TrustedKey:
    """The file *path* as a key of that *name*; what is wrong with it stands in its ``problem``."""
    try:
        content = _content(path)
        if not _FINGERPRINT.fullmatch(name):
            raise packets.PacketError("its name is not a fingerprint (40 lower-case hexadecimal digits)")
        if not content:
            return TrustedKey(name, prefix, path, b"")
        found = packets.certificates(content)
    except packets.PacketError as error:
        return TrustedKey(name, prefix, path, b"", problem=str(error))
    except OSError as error:
        return TrustedKey(name, prefix, path, b"", problem=f"it cannot be read: {error.strerror}")
    if len(found) != 1:
        return TrustedKey(name, prefix, path, b"", problem=f"it holds {len(found)} certificates")
    if found[0].fingerprint != name:
        problem = f"fingerprint mismatch: it holds the key {found[0].fingerprint}"
        return TrustedKey(name, prefix, path, b"", problem=problem)
    fingerprints = tuple(key.fingerprint for key in found[0].keys)
    return TrustedKey(name, prefix, path, content, fingerprints, user_ids=found[0].user_ids)


def _content(path: str) -> bytes:
    # Not blocking: a named pipe in this place must not stop every verification.
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(handle, "rb") as file:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise packets.PacketError("it is not a regular file")
        if status.st_mode & stat.S_IWOTH:
            raise packets.PacketError("anybody may write it")
        if status.st_size > packets.MAX_KEY_FILE:
            raise packets.PacketError(f"it is larger than {packets.MAX_KEY_FILE} bytes")
        return file.read(packets.MAX_KEY_FILE + 1)
