"""``image validate``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gantry.cli.output import FAILURE
from gantry.errors import one_line
from gantry.images.validation import Report, examine

if TYPE_CHECKING:
    from gantry.cli.context import Context


def validate(context: Context) -> int:
    """Check image files and layouts against the specification."""
    limits = context.limits()
    reports = [examine(path, limits) for path in context.arguments]
    if context.output.form:
        context.output.json([report.as_dict() for report in reports])
    else:
        for report in reports:
            _tell(context, report)
    return FAILURE if any(report.problems for report in reports) else 0


def _tell(context: Context, report: Report) -> None:
    for problem in report.problems:
        context.output.notice(problem)
    for warning in report.warnings:
        context.output.notice(f"warning: {warning}")
    if not report.problems:
        labels = "".join(f",{name}={value}" for name, value in report.labels.items())
        what = f"{report.name}{labels}" + (f" {report.id}" if report.id else "")
        context.output.line(one_line(f"{report.path}: valid: {what}"))
