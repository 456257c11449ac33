"""Signatures in the audit record: the first at once, the others as sums, none lost."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.support.services import Recorder, wait_until

from gantry.errors import HostError
from gantry.signer.counts import INTERVAL, Counts
from gantry.signer.keys import canonical

A, B = b"A" * 16, b"B" * 16


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Bench:
    def __init__(self) -> None:
        self.clock, self.record = Clock(), Recorder()
        self.counts = Counts(self.record, clock=self.clock)

    def sign(self, pod: bytes, times: int = 1) -> None:
        self.counts.signed[pod] = self.counts.signed.get(pod, 0) + times

    def sums(self, pod: bytes) -> list[object]:
        return [f["signatures"] for _, f in self.record.entries if f["uuid"] == canonical(pod)]


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.record.broken = None
    bench.counts.stop()


def test_the_first_is_written_at_once_and_later_ones_once_a_minute(bench: Bench) -> None:
    assert bench.counts.due() is None
    bench.sign(A)
    assert bench.counts.due() == 0.0
    bench.counts.hand_over()
    wait_until(lambda: bench.sums(A) == [1], "the first one")
    bench.sign(A, 5)
    bench.clock.now += 10
    assert bench.counts.due() == INTERVAL - 10
    bench.counts.hand_over()
    bench.sign(B, 2)
    bench.counts.hand_over()
    wait_until(lambda: bench.sums(B) == [2], "another pod's first one does not wait")
    assert bench.sums(A) == [1]
    bench.clock.now += INTERVAL
    bench.counts.hand_over()
    wait_until(lambda: bench.sums(A) == [1, 5], "the sum of the minute")


def test_refused_attempts_are_told(bench: Bench) -> None:
    bench.counts.refused[A] = 3
    bench.counts.flush()
    assert bench.record.entries == [("pod.sign", {"uuid": canonical(A), "signatures": 0, "refused": 3})]


def test_flush_writes_what_is_not_due(bench: Bench) -> None:
    bench.sign(A)
    bench.counts.flush()
    bench.sign(A, 7)
    bench.counts.flush()
    bench.counts.flush()
    assert bench.sums(A) == [1, 7]


def test_a_pod_that_goes_is_written(bench: Bench) -> None:
    bench.sign(A)
    bench.counts.flush()
    bench.sign(A, 4)
    bench.counts.forget(A)
    wait_until(lambda: bench.sums(A) == [1, 4], "the rest")


def test_stop_writes_everything() -> None:
    bench = Bench()
    bench.sign(A)
    bench.counts.flush()
    bench.sign(A, 2)
    bench.sign(B, 3)
    bench.counts.stop()
    assert bench.sums(A) == [1, 2]
    assert bench.sums(B) == [3]


def test_a_record_that_cannot_be_written_loses_no_count(
    bench: Bench, capfd: pytest.CaptureFixture[str]
) -> None:
    bench.record.broken = HostError("the disk is full")
    bench.sign(A, 2)
    bench.counts.hand_over()
    said = ""

    def complained() -> bool:
        nonlocal said
        said += capfd.readouterr().err
        return "the disk is full" in said

    wait_until(complained, "the complaint")
    bench.sign(A, 3)
    with pytest.raises(HostError):
        bench.counts.flush()
    bench.record.broken = None
    bench.counts.flush()
    assert bench.sums(A) == [5]
