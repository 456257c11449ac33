"""Small values inside manifests: timestamps, URLs, environment names, octal modes."""

from __future__ import annotations

import re

from gantry.appc.errors import AppcError

_TIMESTAMP = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})T([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.[0-9]+)?"
    r"(?:Z|[+-]([0-9]{2}):([0-9]{2}))"
)
_URL = re.compile(r"[hH][tT][tT][pP][sS]?://[^/?#\s\x00-\x20\x7f][^\s\x00-\x20\x7f]*")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z_0-9.-]*")
_OCTAL = re.compile(r"[0-7]{1,5}")
_DAYS = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


class ValueRefusedError(AppcError):
    """A timestamp, URL, environment name or mode is malformed."""

    code = "value"


def timestamp(text: str) -> str:
    """Check an RFC 3339 date and time with its offset and return it unchanged (TYP-19, TRAP-36).

    Raises:
        ValueRefusedError: Another form, or a date or time that does not exist.
    """
    match = _TIMESTAMP.fullmatch(text)
    if match is not None:
        year, month, day, hour, minute, second = (int(part) for part in match.groups()[:6])
        leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
        if (
            1 <= month <= 12
            and 1 <= day <= (28 if month == 2 and not leap else _DAYS[month - 1])
            and hour <= 23
            and minute <= 59
            and second <= 59
            and int(match.group(7) or 0) <= 23
            and int(match.group(8) or 0) <= 59
        ):
            return text
    raise ValueRefusedError(
        f'"{text[:80]}" is not a timestamp', hint="such as 2015-11-17T12:00:00Z", rule="TYP-19"
    )


def web_url(text: str) -> str:
    """Check an ``http`` or ``https`` URL and return it unchanged (TYP-20).

    Raises:
        ValueRefusedError: Another scheme, no host, or blanks.
    """
    if _URL.fullmatch(text) is None:
        raise ValueRefusedError(f'"{text[:200]}" is not an http or https URL', rule="TYP-20")
    return text


def environment_name(text: str) -> str:
    """Check the name of an environment variable and return it (MAN-24).

    Raises:
        ValueRefusedError: Empty, begins with a digit, or has a character outside ``A-Z a-z 0-9 _ . -``.
    """
    if _ENV_NAME.fullmatch(text) is None:
        raise ValueRefusedError(
            f'"{text[:200]}" cannot be the name of an environment variable',
            hint="a letter or _, then letters, digits, _, . or -",
            rule="MAN-24",
        )
    return text


def octal_mode(text: str) -> int:
    """Read the mode of an empty volume: octal digits, at most 07777 (TRAP-24).

    Raises:
        ValueRefusedError: Anything else (``0o755``, ``rwx``, ``8``).
    """
    if _OCTAL.fullmatch(text) is None or int(text, 8) > 0o7777:
        raise ValueRefusedError(
            f'"{text[:80]}" is not a mode',
            hint="octal digits up to 07777, such as 0755",
            rule="VOL-07,TRAP-24",
        )
    return int(text, 8)
