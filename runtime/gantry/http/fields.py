"""What header fields say about time: when to ask again, and how long an answer holds."""

from __future__ import annotations

import re
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_SECONDS = re.compile("[0-9]{1,9}")
_QUOTED = re.compile(r'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
#: No answer holds longer, whatever its server says; in seconds.
LONGEST = 365 * 24 * 3600


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """When a server wants to be asked again, in seconds; ``None`` if it does not say (RFC 9110, 10.2.3).

    Args:
        headers: Of the answer.
        now: Seconds since 1970.
    """
    text = headers.get("retry-after", "").strip()
    if _SECONDS.fullmatch(text):
        return float(text)
    moment = _moment(text)
    return None if moment is None else max(0.0, moment - now)


def fresh_for(headers: Mapping[str, str], now: float) -> int:
    """How many seconds an answer may be used without asking again (RFC 9111, 4.2; DSC-33); 0: not at all.

    What contradicts itself counts as its shortest reading.

    Args:
        headers: Of the answer.
        now: Seconds since 1970.
    """
    ages: list[int] = []
    text = _QUOTED.sub(lambda found: found[0].replace(",", " "), headers.get("cache-control", ""))
    for part in text.split(","):
        name, _, given = part.partition("=")
        directive, value = name.strip().lower(), given.strip().removeprefix('"').removesuffix('"')
        if directive in ("no-store", "no-cache"):
            return 0
        if directive == "max-age":
            ages.append(int(value) if _SECONDS.fullmatch(value) else 0)
    if ages:
        seconds = min(ages)
    else:
        expires, date = _moment(headers.get("expires", "")), _moment(headers.get("date", ""))
        seconds = 0 if expires is None else int(expires - (now if date is None else date))
    age = headers.get("age", "").strip()
    seconds -= int(age) if _SECONDS.fullmatch(age) else 0
    return max(0, min(seconds, LONGEST))


def _moment(text: str) -> float | None:
    try:
        moment = parsedate_to_datetime(text.strip())
    except (ValueError, IndexError, TypeError, OverflowError):
        return None
    try:
        return moment.replace(tzinfo=moment.tzinfo or UTC).timestamp()
    except (ValueError, OverflowError):
        return None
