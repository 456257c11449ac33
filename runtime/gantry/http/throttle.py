"""A bound on the rate of downloads, shared by all of a command's connections."""

from __future__ import annotations

import threading
import time

# So much may come at once after a silence: in seconds of the rate.
_BURST = 0.25


class Throttle:
    """Lets so many bytes a second through; may be shared between threads.

    Args:
        rate: Bytes a second, at least 1.
    """

    def __init__(self, rate: int) -> None:
        self.rate = rate
        self._free_at = 0.0
        self._lock = threading.Lock()

    def take(self, size: int) -> float:
        """Wait until *size* bytes more are within the rate; the seconds that this took."""
        with self._lock:
            now = time.monotonic()
            self._free_at = max(self._free_at, now - _BURST) + size / self.rate
            pause = self._free_at - now
        if pause <= 0:
            return 0.0
        time.sleep(pause)
        return pause
