"""Why discovery found nothing."""

from __future__ import annotations

from typing import NamedTuple

from gantry.errors import GantryError

_SHOWN = 4


class Attempt(NamedTuple):
    """One page that was asked.

    Attributes:
        url: The page.
        outcome: Why it did not help, in one line.
        code: The failure's code (``http-status``, ``tls``, ``unreachable``, ...); ``no-tag`` if there was a
            page.
    """

    url: str
    outcome: str
    code: str


class DiscoveryError(GantryError):
    """No page announces what was looked for.

    Attributes:
        name: The name that was looked up.
        attempts: Every page asked, the deepest first (DSC-21).
    """

    code = "discovery"

    def __init__(
        self, name: str, problem: str, *, attempts: tuple[Attempt, ...] = (), hint: str = ""
    ) -> None:
        tried = "; ".join(f"{attempt.url}: {attempt.outcome}" for attempt in attempts[:_SHOWN])
        if len(attempts) > _SHOWN:
            tried += f"; and {len(attempts) - _SHOWN} more"
        super().__init__(
            f'discovery of "{name}" failed: {problem}' + (f" [{tried}]" if tried else ""), hint=hint
        )
        self.name = name
        self.attempts = attempts
