"""Keys and signatures for tests: good ones quickly, odd ones through a GnuPG of their own.

Good ones::

    key = make_key("Maker <maker@example.com>")      # in-process, about a millisecond
    asc = key.sign(b"bytes of an image")             # armored, as bytes
    trust(paths, key, "example.com/app")             # as the administrator would

Odd ones (expired, revoked, SHA-1, from the future ...)::

    with GnuPG() as gpg:
        fingerprint = gpg.make_key("Old <old@example.com>", expires="seconds=1", at=NOW - 100)
        asc = gpg.sign(b"...", fingerprint, "--digest-algo", "SHA1")
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from typing import TYPE_CHECKING, NamedTuple, Self

from gantry.trust import openpgp
from gantry.trust.keystore import AddResult, KeyStore

if TYPE_CHECKING:
    from types import TracebackType

    from gantry.config import Paths


class KeyPair(NamedTuple):
    """A key pair."""

    secret: bytes
    public: bytes
    fingerprint: str

    def sign(self, data: bytes) -> bytes:
        """An armored detached signature of *data*."""
        with tempfile.NamedTemporaryFile() as file:
            file.write(data)
            file.flush()
            return self.sign_file(file.name)

    def sign_file(self, path: str | os.PathLike[str]) -> bytes:
        """An armored detached signature of a file."""
        return openpgp.sign_detached(os.fspath(path), self.secret).encode("ascii")


#: The older name; pytest would take it for a test otherwise.
TestKey = KeyPair
TestKey.__test__ = False  # type: ignore[attr-defined]


def make_key(user_id: str = "Test Maker <maker@example.com>", *, validity: int | None = None) -> KeyPair:
    """A good key with a signing subkey; *validity* in seconds."""
    secret, public, fingerprint = openpgp.make_key(user_id, validity=validity)
    return KeyPair(secret.encode("ascii"), public.encode("ascii"), fingerprint)


def trust(paths: Paths, key: KeyPair | bytes, prefix: str | None = None) -> AddResult:
    """Add a key for a prefix, or without one for every name."""
    public = key if isinstance(key, bytes) else key.public
    return KeyStore(paths).add(public, prefix=prefix, root=prefix is None)


class GnuPG:
    """A GnuPG with a home of its own, whose agent ends with the block."""

    def __init__(self) -> None:
        # Short: the agent's socket is in there, and a socket's path has at most 107 bytes.
        self.home = tempfile.mkdtemp(prefix="gg")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        subprocess.run(["gpgconf", "--homedir", self.home, "--kill", "all"], check=False, capture_output=True)
        shutil.rmtree(self.home, ignore_errors=True)

    def run(self, *arguments: str, stdin: bytes = b"", at: float | None = None) -> bytes:
        """Run ``gpg``; *at* is the time it believes it is."""
        clock = ["--faked-system-time", f"{int(at)}!"] if at is not None else []
        done = subprocess.run(
            [
                "gpg", "--homedir", self.home, "--batch", "--no-tty", "--yes", "--quiet",
                "--pinentry-mode", "loopback", "--passphrase", "", *clock, *arguments,
            ],
            input=stdin,
            capture_output=True,
            check=False,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"gpg {arguments}: {done.stderr.decode(errors='replace')}")
        return done.stdout

    def make_key(
        self,
        user_id: str,
        *,
        algorithm: str = "ed25519",
        usage: str = "sign,cert",
        expires: str = "never",
        at: float | None = None,
        options: tuple[str, ...] = (),
    ) -> str:
        """A new key; its fingerprint in lower case. *expires* as gpg has it: ``1y``, ``seconds=60``."""
        self.run(*options, "--quick-gen-key", user_id, algorithm, usage, expires, at=at)
        return self.fingerprints(user_id)[0]

    def add_subkey(
        self,
        fingerprint: str,
        *,
        algorithm: str = "ed25519",
        usage: str = "sign",
        expires: str = "never",
        at: float | None = None,
        options: tuple[str, ...] = (),
    ) -> str:
        """A new subkey; its fingerprint in lower case."""
        before = self.fingerprints(fingerprint)
        self.run(*options, "--quick-add-key", fingerprint, algorithm, usage, expires, at=at)
        (new,) = [one for one in self.fingerprints(fingerprint) if one not in before]
        return new

    def fingerprints(self, key: str) -> list[str]:
        """Of the primary key and the subkeys, in lower case."""
        lines = (
            self.run("--with-colons", "--with-subkey-fingerprint", "--list-keys", key).decode().splitlines()
        )
        return [line.split(":")[9].lower() for line in lines if line.startswith("fpr:")]

    def sign(self, data: bytes, key: str, *options: str, at: float | None = None) -> bytes:
        """An armored detached signature; a ``!`` behind *key* takes exactly that subkey."""
        return self.run("--armor", "--local-user", key, *options, "--detach-sign", stdin=data, at=at)

    def export(self, key: str, *options: str) -> bytes:
        """The armored public key."""
        return self.run("--armor", *options, "--export", key)

    def export_secret(self, key: str) -> bytes:
        """The armored secret key, not protected."""
        return self.run("--armor", "--export-secret-keys", key)

    def edit(self, key: str, *commands: str, at: float | None = None, options: tuple[str, ...] = ()) -> None:
        """``gpg --edit-key`` with one command a line."""
        script = "\n".join((*commands, "save", "")).encode()
        self.run(*options, "--command-fd", "0", "--edit-key", key, stdin=script, at=at)

    def revocation(self, key: str, *, reason: str = "0", text: str = "", at: float | None = None) -> bytes:
        """An armored revocation; reasons: 0 none, 1 compromised, 2 superseded, 3 no longer used."""
        answers = "\n".join(("y", reason, text, *([""] if text else []), "y", "")).encode()
        return self.run(
            "--no-batch", "--armor", "--command-fd", "0", "--gen-revoke", key, stdin=answers, at=at
        )

    def revoke(self, key: str, *, reason: str = "0", text: str = "", at: float | None = None) -> None:
        """Revoke a whole key."""
        self.run("--import", stdin=self.revocation(key, reason=reason, text=text, at=at), at=at)


def now() -> float:
    """This host's clock."""
    return time.time()
