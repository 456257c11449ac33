"""``check``."""

from __future__ import annotations

from gantry.cli.context import Context
from gantry.cli.output import FAILURE
from gantry.pods.leftovers import find, repair


def check(context: Context) -> int:
    """Look for what pods that are gone have left; 254 when there is something, and it stays."""
    output, store = context.output, context.store()
    found = find(context.paths, store)
    problems: list[str] = []
    left = found
    if context.values.flag("repair"):
        problems = repair(context.paths, store, found)
        left = find(context.paths, store)
    if output.form:
        output.json(
            {
                "found": [each._asdict() for each in found],
                "left": [each._asdict() for each in left],
                "errors": problems,
            }
        )
        return FAILURE if left or problems else 0
    for each in found:
        verb = "left" if each in left else "removed"
        of = f" of pod {each.uuid}" if each.uuid and each.uuid not in each.what else ""
        output.line(f"{verb}: {each.kind} {each.what}{of}")
    for problem in problems:
        output.notice(problem)
    output.line(f"{len(found)} found, {len(left)} left")
    return FAILURE if left or problems else 0
