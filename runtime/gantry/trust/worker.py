"""The process in which strangers' OpenPGP is judged: started by :mod:`gantry.trust.child`, never imported.

It begins with what its parent has, loads what it needs, and then gives everything away: it becomes
``nobody``, can gain no privileges, open no further files but one, start nothing, write nowhere but to its
answer, and dies with its parent. Only then does it read a request.

Descriptors: 0 the bytes to verify, 1 the answers (a JSON object a line), one more for the request (a JSON
object).
"""

from __future__ import annotations

import base64
import json
import os
import resource
import signal
import time

from gantry.errors import GantryError
from gantry.linux import privileges
from gantry.linux.syscalls import PR_SET_NO_NEW_PRIVS, PR_SET_PDEATHSIG, prctl
from gantry.trust import openpgp, packets, policy
from gantry.trust.errors import KeyFileError

NOBODY = 65534
#: Enough for the interpreter, pysequoia and the largest key file several times over, in bytes of address
#: space.
MEMORY = 768 * 1024 * 1024


def main(parent: int, request_fd: int) -> None:
    """Serve the one request; ends the process.

    Args:
        parent: The process that must still be there.
        request_fd: Where the request is.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ctrl-C is for the parent, which ends this process
    answer: dict[str, object]
    try:
        _give_up(parent)
        with os.fdopen(request_fd, "rb") as file:
            content = file.read()
        # 0, 1 and 2 are open; verification opens the pipe anew, by its path.
        resource.setrlimit(resource.RLIMIT_NOFILE, (4, 4))
        request = json.loads(content)
        answer = _verify(request) if request["do"] == "verify" else _examine(request)
    except GantryError as error:
        answer = {"refused": error.code, "message": error.message, "hint": error.hint}
    except Exception as error:  # noqa: BLE001 - the parent must learn of it; here is nobody else to tell
        answer = _defect(error)
    _say(answer)
    # Neither finalizers nor atexit: there is nothing to clean, and the parent waits.
    os._exit(0)


def _defect(error: Exception) -> dict[str, object]:
    message = f"the process that judges signatures failed: {type(error).__name__}: {error}"
    return {"refused": "verifier", "message": message, "hint": "this says nothing about the image"}


def _give_up(parent: int) -> None:
    if os.geteuid() == 0:
        os.fchown(0, NOBODY, NOBODY)  # for the time when it is opened anew
        privileges.drop(privileges.Account(NOBODY, NOBODY))
        resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
    else:
        prctl(PR_SET_NO_NEW_PRIVS, 1)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    privileges.forbid_inspection()
    # After the change of user, which resets it.
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _say(answer: dict[str, object]) -> None:
    rest = memoryview(json.dumps(answer).encode("ascii") + b"\n")
    while rest:
        rest = rest[os.write(1, rest) :]


def _copies(texts: list[str]) -> list[bytes]:
    return [base64.b64decode(text) for text in texts]


def _facts(finding: openpgp.Finding) -> policy.Facts:
    return policy.Facts(finding.view, finding.sound, finding.expires, finding.revoked, finding.signing)


def _verify(request: dict[str, object]) -> dict[str, object]:
    body = base64.b64decode(str(request["signature"]))
    name, signer = str(request["name"]), str(request["signer"])
    prefix = None if request["prefix"] is None else str(request["prefix"])
    copies = request["copies"]
    assert isinstance(copies, list)
    try:
        finding = openpgp.examine(_copies(copies))
    except packets.PacketError as error:
        raise KeyFileError(
            f"the key {request['key']} that signed {name} cannot be used: {error}",
            hint=f"replace the file {request['path']}",
        ) from error
    facts = _facts(finding)
    policy.check_key(facts, signer, name=name, prefix=prefix, now=time.time())
    _say({"ready": True})
    verdict = openpgp.verify_stream(packets.Packet(packets.SIGNATURE, body).encode(), finding.cert, 0)
    if verdict != (finding.view.fingerprint, signer):
        signature = packets.signature(body)
        raise policy.explain_mismatch(facts, signer, signature, name=name, prefix=prefix)
    return {
        "signer": signer,
        "key": finding.view.fingerprint,
        "user_ids": list(finding.user_ids),
        "verified_at": policy.moment(time.time()),
    }


def _examine(request: dict[str, object]) -> dict[str, object]:
    groups = request["groups"]
    assert isinstance(groups, list)
    return {"certificates": [describe(_copies(group)) for group in groups]}


def describe(copies: list[bytes]) -> dict[str, object]:
    """What an operator and the key store need to know of the certificate of which these are the copies."""
    try:
        finding = openpgp.examine(copies)
    except packets.PacketError as error:
        return {"problem": str(error)}
    view = finding.view
    now = time.time()
    return {
        "fingerprint": view.fingerprint,
        "user_ids": list(finding.user_ids or view.user_ids),
        "created": policy.moment(view.primary.created),
        "expires": policy.moment(finding.expires) if finding.expires is not None else None,
        "expired": finding.expires is not None and finding.expires <= now,
        "revoked": finding.revoked,
        "subkeys": [
            {
                "fingerprint": key.fingerprint,
                "expires": policy.moment(end)
                if (end := policy.subkey_expiry(view, key)) is not None
                else None,
                "revoked": policy.subkey_revoked(key),
                "signs": key.fingerprint in finding.signing,
                "may_sign": policy.may_sign(view, key),
            }
            for key in view.subkeys
        ],
        "signs": bool(finding.signing),
        "primary_signs": view.fingerprint in finding.signing,
        "warnings": policy.warnings(_facts(finding), now),
        "armored": str(finding.cert),
    }
