"""Several things at once, in threads: what a fetch waits for is mostly the network."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

T = TypeVar("T")

#: So many transfers run at once.
WORKERS = 8


def side_by_side(
    tasks: Sequence[Callable[[], T]], *, failed: Callable[[BaseException], None] | None = None
) -> list[T | BaseException]:
    """Call all of *tasks*, at most :data:`WORKERS` at a time; what each returned or raised, in their order.

    An interrupt in the calling thread does not wait for the others: they end with the process.

    Args:
        tasks: Functions that may be called in any thread.
        failed: Called, in whatever thread, as soon as one raises.
    """
    results: list[T | BaseException] = [AssertionError("not run")] * len(tasks)
    waiting = iter(range(len(tasks)))
    turn = threading.Lock()

    def following() -> int | None:
        with turn:
            return next(waiting, None)

    def ended(number: int, outcome: T | BaseException) -> None:
        results[number] = outcome
        if failed is not None and isinstance(outcome, BaseException):
            failed(outcome)

    work_off(lambda number: tasks[number](), following, ended, threads=min(WORKERS, len(tasks)))
    return results


def work_off(
    task: Callable[[int], T],
    following: Callable[[], int | None],
    ended: Callable[[int, T | BaseException], None],
    *,
    threads: int,
) -> None:
    """Call *task* with one number after the other, in several threads; one thread is the calling one.

    Args:
        task: Called with each number.
        following: The next number, ``None`` when there are no more; called in any thread.
        ended: Gets a number, and what *task* returned or raised for it; called in any thread.
        threads: How many.
    """

    def work() -> None:
        while (number := following()) is not None:
            outcome: T | BaseException
            try:
                outcome = task(number)
            except BaseException as error:  # noqa: BLE001 - it is the caller's
                outcome = error
            ended(number, outcome)

    if threads <= 1:
        work()
        return
    workers = [
        threading.Thread(target=work, name=f"fetch-{number}", daemon=True) for number in range(threads)
    ]
    for each in workers:
        each.start()
    for each in workers:
        each.join()
