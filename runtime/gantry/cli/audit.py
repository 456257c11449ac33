"""``audit list`` and ``audit verify``.

A host has two records: what Gantry decided, and what the signer signed, which it writes itself because it is
another user. Both are shown as one; each is a chain of its own.
"""

from __future__ import annotations

import json
import os
import re
from typing import Any

from gantry import audit
from gantry.cli.context import Context
from gantry.errors import GantryError, NotFoundError, UsageError

_RECORDS = ("host", "signer")
_EMPTY: tuple[object, ...] = (None, "", [], {})
_WIDEST = 100  # characters of one fact
_HEAD = ("record", "seq", "time", "event", "actor", "prev", "hash")


def list_entries(context: Context) -> int:
    """Show the record of decisions, oldest first."""
    values = context.values
    limit = values.number("limit")
    if limit is not None and limit < 0:
        raise UsageError(f"--limit={limit} is not a number of entries", hint="0 or more")
    _flush(context)
    found: list[dict[str, object]] = []
    for name, directory in _records(context):
        entries = audit.entries(
            directory, event=values.text("event") or None, since=values.text("since") or None
        )
        found += ({"record": name, **entry} for entry in entries)
    found.sort(key=lambda entry: str(entry["time"]))  # stable: the order within each record stays
    if limit is not None:
        found = found[len(found) - min(limit, len(found)) :]
    if context.output.form:
        context.output.json(found)
        return 0
    rows = [[_number(e), str(e["time"]), str(e["event"]), _actor(e["actor"]), _facts(e)] for e in found]
    context.output.table(("SEQ", "TIME", "EVENT", "BY", "FACTS"), rows, legend=not values.flag("no-legend"))
    return 0


def verify(context: Context) -> int:
    """Check that both records are whole, and contain what was seen of them earlier."""
    expected = _expected(context.values.items_of("expect"))
    _flush(context)
    reports = {}
    records = dict(_records(context))
    if missing := sorted(set(expected) - set(records)):
        raise NotFoundError(
            f"the {missing[0]}'s record is not there to be compared", hint="only root may read it"
        )
    for name, directory in records.items():
        try:
            reports[name] = audit.verify(directory, expect=expected.get(name))
        except audit.AuditError as error:
            raise audit.AuditError(f"{name}: {error.message}", hint=error.hint) from error
    if context.output.form:
        context.output.json({name: report.as_dict() for name, report in reports.items()})
        return 0
    for name, report in reports.items():
        context.output.line(f"{name}: {report.count} entries, all whole; head {report.head}")
        for seq in report.torn:
            context.output.notice(
                f"{name}: a power cut tore the line before entry {seq}; no whole entry was lost"
            )
        if report.pending:
            context.output.notice(f"{name}: a power cut tore the last line ({report.pending} bytes)")
    return 0


def _expected(texts: list[str]) -> dict[str, str]:
    """By record, the hash that it must contain: ``HASH``, ``host:HASH`` or ``signer:HASH``."""
    found: dict[str, str] = {}
    for text in texts:
        name, colon, digest = text.rpartition(":")
        name, digest = name if colon else "host", digest.lower()
        if name not in _RECORDS or not re.fullmatch("[0-9a-f]{64}", digest):
            raise UsageError(
                f'"{text}" is not the head of a record',
                hint="give the 64 digits that 'gantry audit verify' printed, for the signer signer:HASH",
            )
        if name in found:
            raise UsageError(f"two heads of the {name}'s record", hint="give the newer one; it covers both")
        found[name] = digest
    return found


def _records(context: Context) -> list[tuple[str, str]]:
    """Name and data directory of each record that is here and that the caller may see."""
    signer = os.path.join(context.paths.data, "signer")
    both = [("host", context.paths.data)]
    if os.path.isdir(signer):
        if os.access(signer, os.X_OK):
            both.append(("signer", signer))
        else:
            context.output.notice("the signer's record is left out: only root and the signer may read it")
    return both


def _flush(context: Context) -> None:
    """Have the signer write down what it has counted so far; a signer that is away has done so already."""
    socket = os.path.join(context.paths.run, "signer.sock")
    if os.geteuid() == 0 and os.path.exists(socket):
        from gantry.signer import client  # noqa: PLC0415 - only where there is a signer

        try:
            client.flush(socket)
        except GantryError as error:
            context.output.notice(f"the newest signatures may be missing: {error.message}")


def _number(entry: dict[str, object]) -> str:
    return str(entry["seq"]) if entry["record"] == "host" else f"{entry['record']}:{entry['seq']}"


def _actor(actor: Any) -> str:
    if not isinstance(actor, dict):
        return str(actor)
    name = actor.get("by") or actor.get("user") or actor.get("sudo_user")
    return str(name) if name else f"uid {actor.get('uid', '?')}"


def _facts(entry: dict[str, object]) -> str:
    return " ".join(f"{k}={_shown(v)}" for k, v in entry.items() if k not in _HEAD and v not in _EMPTY)


def _shown(value: object) -> str:
    """A fact in one word or as JSON; a long one is cut, ``--format=json`` has it whole."""
    plain = isinstance(value, str) and value and not set(value) & set(' \t\n"=')
    text = str(value) if plain else json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)
    return text if len(text) <= _WIDEST else f"{text[: _WIDEST - 1]}…"
