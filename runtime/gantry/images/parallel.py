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

    def work() -> None:
        while True:
            with turn:
                number = next(waiting, None)
            if number is None:
                return
            try:
                results[number] = tasks[number]()
            except BaseException as error:  # noqa: BLE001 - it is the caller's
                results[number] = error
                if failed is not None:
                    failed(error)

    if len(tasks) == 1:
        work()
        return results
    threads = [
        threading.Thread(target=work, name=f"fetch-{number}", daemon=True)
        for number in range(min(WORKERS, len(tasks)))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results
