"""Signatures, counted into an audit record of the signer's own.

One entry for each signature would cost a disk sync each; none would leave no trace. So: a pod's first
signature is written at once, later ones are counted and written at most once a minute, and what is counted is
also written when the key is destroyed, when root asks (`flush`) and when the signer stops. kill -9 or a power
cut loses at most that minute.

The signer has no right to write the host's record, which is root's. It keeps a record of the same form in its
own directory, ``DATA/signer`` (hash-chained by gantry.audit like the other); ``gantry audit`` reads both.

Writing syncs the disk, so a thread does it: the loop that answers never waits for a disk.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable

from gantry.errors import GantryError
from gantry.signer.keys import canonical

INTERVAL = 60.0  # seconds between entries of one pod


class Counts:
    """Counts signatures and writes the sums.

    The loop that answers requests adds to :attr:`signed` and :attr:`refused` (by UUID, since the last entry)
    and calls :meth:`hand_over` now and then; everything else may be called from any thread.

    Args:
        record: Appends one audit entry: ``record(event, **fields)``.
        clock: Seconds that only go forward.
    """

    def __init__(self, record: Callable[..., None], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._record = record
        self._clock = clock
        self.signed: dict[bytes, int] = {}
        self.refused: dict[bytes, int] = {}
        self._last: dict[bytes, float] = {}  # when a pod's sums were last handed over
        self._memory = threading.Lock()  # held for instants
        self._disk = threading.Lock()  # held while writing
        self._outbox: dict[bytes, tuple[int, int]] = {}
        self._wake = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._work, name="audit", daemon=True)
        self._thread.start()

    def due(self) -> float | None:
        """Seconds until :meth:`hand_over` has something to do; None when nothing is counted."""
        pods = self.signed.keys() | self.refused.keys()
        if not pods:
            return None
        now = self._clock()
        return max(0.0, min(self._last.get(pod, now - INTERVAL) for pod in pods) + INTERVAL - now)

    def hand_over(self) -> None:
        """Give the thread what is due. Costs no disk access."""
        now = self._clock()
        due = [
            pod
            for pod in self.signed.keys() | self.refused.keys()
            if now - self._last.get(pod, now - INTERVAL) >= INTERVAL
        ]
        for pod in due:
            self._take(pod)
            self._last[pod] = now
        if due:
            self._wake.set()

    def forget(self, pod: bytes) -> None:
        """The key of *pod* is gone: what was counted for it goes to the thread, due or not."""
        self._take(pod)
        self._last.pop(pod, None)
        self._wake.set()

    def flush(self) -> None:
        """Write everything now, in this thread.

        Raises:
            GantryError, OSError: The record cannot be written. The sums are kept.
        """
        for pod in self.signed.keys() | self.refused.keys():
            self._take(pod)
            self._last[pod] = self._clock()
        self._write()

    def stop(self) -> None:
        """End the thread and write everything. A record that cannot be written is told on standard error."""
        self._stopping = True
        self._wake.set()
        self._thread.join()
        try:
            self.flush()
        except (GantryError, OSError) as error:
            _complain(error)

    def _take(self, pod: bytes) -> None:
        self._put_in_outbox(pod, self.signed.pop(pod, 0), self.refused.pop(pod, 0))

    def _put_in_outbox(self, pod: bytes, signed: int, refused: int) -> None:
        if signed or refused:
            with self._memory:
                before = self._outbox.get(pod, (0, 0))
                self._outbox[pod] = (before[0] + signed, before[1] + refused)

    def _write(self) -> None:
        with self._disk:
            while True:
                with self._memory:
                    if not self._outbox:
                        return
                    pod, (signed, refused) = self._outbox.popitem()
                fields = {"refused": refused} if refused else {}
                try:
                    self._record("pod.sign", uuid=canonical(pod), signatures=signed, **fields)
                except BaseException:
                    self._put_in_outbox(pod, signed, refused)
                    raise

    def _work(self) -> None:
        while not self._stopping:
            self._wake.wait(INTERVAL if self._outbox else None)  # what could not be written is tried again
            self._wake.clear()
            try:
                self._write()
            except (GantryError, OSError) as error:
                _complain(error)


def _complain(error: Exception) -> None:
    print(f"signer: the audit record cannot be written, sums are kept: {error}", file=sys.stderr, flush=True)
