"""``audit list`` and ``audit verify``."""

from __future__ import annotations

from typing import Any

from gantry import audit
from gantry.cli.context import Context

_HEAD = ("seq", "time", "event", "actor", "prev", "hash")


def list_entries(context: Context) -> int:
    """Show the record of decisions, oldest first."""
    values = context.values
    found = list(
        audit.entries(
            context.paths.data, event=values.text("event") or None, since=values.text("since") or None
        )
    )
    limit = values.number("limit")
    if limit is not None:
        found = found[-limit:] if limit > 0 else []
    if context.output.form:
        context.output.json(found)
        return 0
    rows = [[str(e["seq"]), str(e["time"]), str(e["event"]), _actor(e["actor"]), _facts(e)] for e in found]
    context.output.table(("SEQ", "TIME", "EVENT", "BY", "FACTS"), rows, legend=not values.flag("no-legend"))
    return 0


def verify(context: Context) -> int:
    """Check that the record is whole."""
    report = audit.verify(context.paths.data)
    if context.output.form:
        context.output.json(report.as_dict())
        return 0
    context.output.line(f"{report.count} entries, all whole; head {report.head}")
    for seq in report.torn:
        context.output.notice(f"a power cut tore the line before entry {seq}; no whole entry was lost")
    if report.pending:
        context.output.notice(f"a power cut tore the last line ({report.pending} bytes)")
    return 0


def _actor(actor: Any) -> str:
    if not isinstance(actor, dict):
        return str(actor)
    name = actor.get("by") or actor.get("user") or actor.get("sudo_user")
    return str(name) if name else f"uid {actor.get('uid', '?')}"


def _facts(entry: dict[str, object]) -> str:
    return " ".join(f"{k}={v}" for k, v in entry.items() if k not in _HEAD and v is not None)
