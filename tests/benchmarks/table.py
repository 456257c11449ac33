"""How measurements are taken in turns and printed."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple


class Row(NamedTuple):
    """One line of the result: what was measured, ours against the peer's, and the target."""

    work: str
    ours: str
    peer: str
    ratio: str
    target: str


def milliseconds(action: Callable[[], None]) -> float:
    """How long *action* took, in milliseconds."""
    start = time.perf_counter()
    action()
    return (time.perf_counter() - start) * 1000


def in_turns(
    actions: Mapping[str, Callable[[], None]], rounds: int, before: Callable[[], object] = lambda: None
) -> dict[str, float]:
    """The median of each action's milliseconds, taken in turns so that a drifting machine is fair to all.

    One round more is run first and not counted: it fills caches. *before* runs before each action and does
    not count.
    """
    taken: dict[str, list[float]] = {name: [] for name in actions}
    for number in range(rounds + 1):
        for name, action in actions.items():
            before()
            spent = milliseconds(action)
            if number:
                taken[name].append(spent)
    return {name: statistics.median(values) for name, values in taken.items()}


def show(rows: list[Row]) -> None:
    """Print *rows* as a table."""
    head = Row("work", "ours", "peer", "ratio", "target")
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    for row in [head, *rows]:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
