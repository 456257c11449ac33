"""``pod …``: named pods, by hand."""

from __future__ import annotations

from typing import Any

from gantry.apply.sets import Sets
from gantry.cli.context import Context
from gantry.cli.output import FAILURE
from gantry.errors import GantryError
from gantry.releases.decide import Observed, Wish
from gantry.releases.spec import check_name, masked


def list_pods(context: Context) -> int:
    """List named pods."""
    engine = context.engine()
    names = engine.store.names()
    observed = engine.observe(names)
    sets = Sets(context.paths)
    known = sets.read_all()
    shown = [_facts(observed[n], sets.owner("pod", n, known)) for n in names]
    for name in names:
        if problem := observed[name].damaged:
            context.output.notice(f"{name}: {problem}")
    if context.output.form:
        context.output.json(shown)
        return 0
    header = ("NAME", "STATE", "WANTED", "RELEASE", "IMAGES", "UUID", "SET")
    rows = [
        [
            p["name"],
            p["state"],
            p["wanted"],
            p["release"][:12],
            ", ".join(p["images"]),
            p["uuid"][:8],
            p["set"],
        ]
        for p in shown
    ]
    context.output.table(header, rows, legend=not context.values.flag("no-legend"))
    return 0


def status(context: Context) -> int:
    """Show one named pod, what it should run, and what happened to it."""
    engine, name = context.engine(), check_name(context.arguments[0])
    engine.store.require(name)
    observed = engine.observe([name])[name]
    facts = {
        **_facts(observed, Sets(context.paths).owner("pod", name)),
        "spec": masked(observed.release.spec if observed.release else None),
        "history": engine.store.history(name),
    }
    if context.output.form:
        context.output.json(facts)
        return 0
    for key in ("name", "state", "wanted", "unit", "active", "enabled", "release", "uuid", "set"):
        context.output.line(f"{key}={_word(facts[key])}")
    for called, image_id in facts["images"].items():
        context.output.line(f"image-{called}={image_id}")
    for entry in facts["history"][-10:]:
        told = f" ({entry['detail']})" if entry.get("detail") else ""
        context.output.line(
            f"history={entry['time']} {entry['by']} {entry['action']}{told}: {entry['ended']}"
        )
    return 0


def start(context: Context) -> int:
    """Start named pods, now and at boot."""
    return _each(context, "started")


def stop(context: Context) -> int:
    """Stop named pods, now and at boot."""
    return _each(context, "stopped")


def restart(context: Context) -> int:
    """Stop and start named pods."""
    return _each(context, "restarted")


def remove(context: Context) -> int:
    """Remove named pods and every trace of them."""
    return _each(context, "absent")


def _each(context: Context, state: str) -> int:
    engine, sets = context.engine(), Sets(context.paths)
    results: list[dict[str, Any]] = []
    failed = False
    for name in context.arguments:
        try:
            check_name(name)
            if not engine.known(name):
                engine.store.require(name)
            outcome = engine.converge(Wish(name, state))
            if state == "absent":
                sets.forget([("pod", name)])
        except GantryError as e:
            failed = True
            context.output.failed(e)
            results.append({"name": name, "changed": False, "error": e.as_dict()})
            continue
        results.append({"name": name, "action": outcome.decision.action, "changed": outcome.decision.changes})
        if not context.output.form:
            done = outcome.decision.action if outcome.decision.changes else "nothing to do"
            context.output.line(f'"{name}": {done}')
    if context.output.form:
        context.output.json(results)
    return FAILURE if failed else 0


def _facts(observed: Observed, owner: str) -> dict[str, Any]:
    release = observed.release
    return {
        "name": observed.name,
        "state": _state(observed),
        "damaged": observed.damaged or None,
        "wanted": observed.wanted,
        "unit": f"gantry-{observed.name}.service",
        "active": f"{observed.active} ({observed.sub})",
        "enabled": observed.enabled,
        "release": release.id if release else "",
        "created": release.created if release else "",
        "images": release.images if release else {},
        "uuid": release.uuid if release else "",
        "set": owner,
    }


def _state(observed: Observed) -> str:
    if observed.damaged:
        return "damaged"
    if observed.pending:
        return "interrupted"
    if observed.active == "failed":
        return "failed"
    if observed.active == "activating":
        return "restarting" if observed.sub == "auto-restart" else "starting"
    return "running" if observed.running else "stopped"


def _word(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
