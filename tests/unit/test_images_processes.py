"""Tasks in several processes: results in order, errors whole, messages, nothing left."""

from __future__ import annotations

import os
import pickle
import signal
import threading
import time
from functools import partial

import pytest

from gantry.errors import GantryError, HostError, UsageError
from gantry.images import processes
from gantry.images.processes import Report, how_many, spread
from gantry.trust import KeyRevokedError, TrustError

QUIET = Report(None, None)


def square(number: int, report: Report) -> tuple[int, int]:
    """*number* squared, and who has done it."""
    return number * number, os.getpid()


def test_results_come_in_the_order_of_the_tasks_from_several_processes() -> None:
    results = spread([partial(square, number) for number in range(200)], 2, QUIET)
    assert [each[0] for each in results if isinstance(each, tuple)] == [n * n for n in range(200)]
    workers = {each[1] for each in results if isinstance(each, tuple)}
    assert os.getpid() not in workers
    assert len(workers) <= 2


def test_a_task_that_fails_says_in_the_caller_what_it_said_and_keeps_none_from_ending() -> None:
    def refuse(report: Report) -> int:
        raise KeyRevokedError("the key\nis revoked", hint="ask for another")

    def crash(report: Report) -> int:
        raise KeyError("a defect")

    one, two, three = spread([refuse, crash, lambda report: 3], 2, QUIET)
    assert type(one) is KeyRevokedError
    assert (str(one), one.code) == (
        str(KeyRevokedError("the key\nis revoked", hint="ask for another")),
        one.code,
    )
    assert isinstance(two, KeyError)
    assert three == 3


@pytest.mark.parametrize("kind", [GantryError, UsageError, TrustError, KeyRevokedError])
def test_errors_survive_the_way(kind: type[GantryError]) -> None:
    error = pickle.loads(pickle.dumps(kind("what", hint="remedy")))
    assert (type(error), error.message, error.hint, error.args) == (kind, "what", "remedy", ("what",))


def test_messages_reach_the_caller() -> None:
    lines: list[str] = []
    moved: list[tuple[str, int, int | None]] = []

    def task(number: int, report: Report) -> None:
        assert report.say is not None
        assert report.moved is not None
        report.say(f"line {number}")
        for done in range(0, 101, 10):
            report.moved(f"url {number}", done, 100)

    spread(
        [partial(task, number) for number in range(8)],
        2,
        Report(lines.append, lambda *what: moved.append(what)),
    )
    assert sorted(lines) == sorted(f"line {number}" for number in range(8))
    for number in range(8):
        mine = [done for what, done, whole in moved if what == f"url {number}" and whole == 100]
        assert mine[-1] == 100, "the end of a transfer is told, whatever is left out before"
        assert mine == sorted(mine)


def test_a_process_that_is_killed_loses_what_it_was_at_and_no_more() -> None:
    def die(report: Report) -> int:
        os.kill(os.getpid(), signal.SIGKILL)
        return 0

    tasks = [die, *(partial(square, number) for number in range(60))]
    results = spread(tasks, 2, QUIET)
    assert isinstance(results[0], HostError)
    assert "has ended" in str(results[0])
    lost = [each for each in results if isinstance(each, HostError)]
    assert len(lost) <= processes.WORKERS, "the others went to the process that is left"


def test_an_interrupt_ends_the_processes() -> None:
    seen: list[int] = []

    def wait(report: Report) -> None:
        assert report.say is not None
        report.say(str(os.getpid()))
        while True:
            time.sleep(60)  # until it is ended

    def told(line: str) -> None:
        seen.append(int(line))
        if len(set(seen)) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        spread([wait] * 8, 2, Report(told, None))
    for pid in set(seen):
        assert not os.path.exists(f"/proc/{pid}")


def test_no_process_is_forked_beside_threads_nor_for_a_few() -> None:
    assert how_many(3) == 1
    assert how_many(10**6) == 1
    expected = min(4, len(os.sched_getaffinity(0)))
    assert how_many(1000) == expected
    held = threading.Event()
    thread = threading.Thread(target=held.wait)
    thread.start()
    try:
        assert how_many(1000) == 1
    finally:
        held.set()
        thread.join()
