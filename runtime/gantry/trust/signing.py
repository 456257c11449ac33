"""Make detached, ASCII-armored signatures of images (SIG-05, SIG-06, SIG-08): what ``gantry sign`` does.

Two ways: with an exported secret key, or with a key that an agent of GnuPG holds, which never leaves it.
"""

from __future__ import annotations

import os
import shutil
import subprocess

from gantry.errors import GantryError, HostError
from gantry.trust import openpgp, packets, policy


class SigningError(GantryError):
    """No signature was made."""

    code = "signing"


def make_key(user_id: str, *, validity: int | None = None) -> tuple[str, str, str]:
    """A new Ed25519 key with a subkey that signs.

    Args:
        user_id: ``Name <mail>``.
        validity: Seconds until it expires; ``None`` for never.

    Returns:
        The secret key, unprotected; the public key; both armored; and the fingerprint.
    """
    return openpgp.make_key(user_id, validity=validity)


def sign_detached(path: str, secret_key: str | bytes) -> str:
    """Sign a file as it is distributed, with an exported secret key that no passphrase protects.

    Asking for passphrases is left to GnuPG's agent. Half of the protected keys that GnuPG 2.4 exports could
    not be used anyway: it counts the leading zeros of the secret number, and Sequoia refuses such numbers.

    Args:
        path: The file.
        secret_key: Armored or not.

    Returns:
        The armored signature: the content of ``IMAGE.aci.asc``.

    Raises:
        SigningError: The key cannot be used or the file cannot be read.
    """
    key = secret_key.encode("utf-8") if isinstance(secret_key, str) else secret_key
    try:
        return openpgp.sign_detached(path, key)
    except openpgp.LockedKeyError as error:
        raise SigningError(
            f"{path} was not signed: the key cannot be used: {error}",
            hint="sign with --gpg-key=FINGERPRINT, or export a key without a passphrase",
        ) from error
    except packets.PacketError as error:
        raise SigningError(
            f"{path} was not signed: the key cannot be used: {error}",
            hint="export one that may sign: gpg --armor --export-secret-keys FINGERPRINT",
        ) from error
    except OSError as error:
        raise SigningError(
            f"{path} was not signed: {error.strerror}", hint="give an image file that may be read"
        ) from error


def sign_with_gpg(path: str, key: str, *, homedir: str | None = None) -> str:
    """Sign a file with a key that GnuPG's agent holds.

    Args:
        path: The file.
        key: Its fingerprint, or anything else by which ``gpg`` finds one key.
        homedir: Another directory than GnuPG's own.

    Returns:
        The armored signature.

    Raises:
        HostError: ``gpg`` is not installed.
        SigningError: It refused.
    """
    program = shutil.which("gpg")
    if program is None:
        raise HostError("gpg is not installed", hint="install gnupg, or sign with an exported key")
    command = [program, "--batch", "--no-tty", "--yes", "--quiet", "--armor", "--digest-algo", "SHA512"]
    if homedir is not None:
        command += ["--homedir", homedir]
    # "--" and an absolute path: a file whose name begins with a dash is a file.
    command += ["--local-user", key, "--output", "-", "--detach-sign", "--", os.path.abspath(path)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if done.returncode or not done.stdout.startswith(b"-----BEGIN PGP SIGNATURE-----"):
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise SigningError(
            f"{path} was not signed: {lines[-1] if lines else f'gpg ended with status {done.returncode}'}",
            hint=f"try it by hand: gpg --local-user {key} --armor --detach-sign {path}",
        )
    return done.stdout.decode("ascii")


def describe_signature(armored: str) -> dict[str, str]:
    """Who made a signature and when, by its own word: ``issuer`` (a fingerprint) and ``created``."""
    (made,) = packets.signatures(packets.dearmor(armored.encode("utf-8"), "SIGNATURE"))
    return {"issuer": made.issuer or "", "created": policy.moment(made.created or 0)}
