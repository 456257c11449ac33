"""What will become of the trusted keys: told before an image is refused because of one.

Each key is judged with every copy of it on this host, as a signature by it would be.
"""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from gantry.trust.child import examine
from gantry.trust.policy import REFUSES

if TYPE_CHECKING:
    from gantry.trust.keystore import KeyStore

#: Images that it signs are accepted, and will be for a while.
FINE = "fine"
#: Something of it ends soon, or has ended.
ATTENTION = "attention"
#: No image that it signs is accepted.
REFUSED = "refused"

_DAY = 86400


class Outlook(NamedTuple):
    """One trusted key in one scope.

    Attributes:
        prefix: The names it is trusted for; ``None``: every name.
        fingerprint: Of the primary key; may be empty for a file that is no key.
        path: The file.
        user_ids: Who it says it is.
        state: One of this module's constants.
        expires: When the key ends, or the last of the subkeys that it signs with; RFC 3339, ``None``: never.
        days: Whole days until then; negative when it is past.
        told: What to know, one line each, the most severe first.
    """

    prefix: str | None
    fingerprint: str
    path: str
    user_ids: list[str]
    state: str
    expires: str | None
    days: int | None
    told: list[str]


def outlook(store: KeyStore, *, within: float, now: float) -> list[Outlook]:
    """How the trusted keys stand; those that are masked are none.

    Args:
        store: The keys.
        within: What ends within so many seconds deserves attention.
        now: This host's clock.

    Raises:
        VerifierError: The process that reads keys did not answer.
    """
    listed = store.list()
    masks = {(key.fingerprint, key.prefix) for key in listed if key.masks}
    keys = [key for key in listed if (key.fingerprint, key.prefix) not in masks]
    copies: dict[str, list[bytes]] = {}
    for key in store.everything():
        copies.setdefault(key.fingerprint, []).append(key.armored)
    unique = {fingerprint: list(dict.fromkeys(texts)) for fingerprint, texts in copies.items()}
    answers = dict(zip(unique, examine(list(unique.values())), strict=True)) if unique else {}
    found = []
    for key in keys:
        judged = _judged(answers.get(key.fingerprint, {}), key.problem, within, now)
        found.append(Outlook(key.prefix, key.fingerprint, key.path, *judged))
    return found


def _judged(
    answer: dict[str, Any], problem: str, within: float, now: float
) -> tuple[list[str], str, str | None, int | None, list[str]]:
    problem = problem or str(answer.get("problem") or "")
    if problem:
        line = f"the file cannot be used, so every name that it counts for is refused: {problem}"
        return [], REFUSED, None, None, [line]
    told = [str(line) for line in answer["warnings"] if REFUSES in line]
    state = REFUSED if told else FINE
    signing = [key for key in answer["subkeys"] if key["signs"]]
    ends = [end for end in (answer["expires"], _last(signing, answer)) if end is not None]
    expires = min(ends, default=None)
    if state == FINE:
        told += _ending(answer, signing, within, now)
        state = ATTENTION if told else FINE
    return list(answer["user_ids"]), state, expires, _days(expires, now), told


def _last(signing: list[dict[str, Any]], answer: dict[str, Any]) -> str | None:
    """When the last subkey ends that signs; ``None``: one never does, or the primary key signs itself."""
    if not signing or answer["primary_signs"] or any(key["expires"] is None for key in signing):
        return None
    return max(str(key["expires"]) for key in signing)


def _ending(answer: dict[str, Any], signing: list[dict[str, Any]], within: float, now: float) -> list[str]:
    told = []
    if _soon(answer["expires"], within, now):
        told.append(f"the key expires on {answer['expires'][:10]}, in {_days(answer['expires'], now)} days")
    told += [
        f"its signing subkey {key['fingerprint']} expires on {key['expires'][:10]}, "
        f"in {_days(key['expires'], now)} days"
        for key in signing
        if _soon(key["expires"], within, now)
    ]
    told += [
        f"images signed with its subkey {key['fingerprint']} are refused: it expired on {key['expires'][:10]}"
        for key in answer["subkeys"]
        if key["expires"] is not None and key["may_sign"] and _seconds(key["expires"]) <= now
    ]
    return told


def _soon(expires: str | None, within: float, now: float) -> bool:
    return expires is not None and now < _seconds(expires) <= now + within


def _days(expires: str | None, now: float) -> int | None:
    return None if expires is None else int((_seconds(expires) - now) // _DAY)


def _seconds(moment: str) -> float:
    return datetime.datetime.fromisoformat(moment).timestamp()
