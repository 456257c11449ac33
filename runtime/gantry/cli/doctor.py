"""``doctor``."""

from __future__ import annotations

from gantry.cli.context import Context
from gantry.cli.output import FAILURE
from gantry.pods.doctor import BROKEN, examine


def doctor(context: Context) -> int:
    """Say what this host can do for pods and what it cannot; 254 when something that pods need is broken."""
    found = examine(context.paths)
    if context.output.form:
        context.output.json([finding._asdict() for finding in found])
    else:
        rows = [
            [each.verdict, each.subject, f"{each.detail} ({each.remedy})" if each.remedy else each.detail]
            for each in found
        ]
        legend = not context.values.flag("no-legend")
        context.output.table(["VERDICT", "SUBJECT", "DETAIL"], rows, legend=legend)
    return FAILURE if any(finding.verdict == BROKEN for finding in found) else 0
