"""``network list`` and ``network exposure``."""

from __future__ import annotations

from gantry.cli.context import Context
from gantry.network.configured import load
from gantry.network.plan import BUILT_IN
from gantry.pods.exposure import exposures


def list_networks(context: Context) -> int:
    """List the networks that pods can be in."""
    found, notes = load(context.paths)
    entries = [{"name": name, "types": [name], "file": ""} for name in BUILT_IN]
    entries += [
        {"name": name, "types": [plugin["type"] for plugin in network.plugins], "file": network.file}
        for name, network in found.items()
    ]
    if context.output.form:
        context.output.json({"networks": entries, "notes": notes})
        return 0
    rows = [[str(e["name"]), ",".join(e["types"]), str(e["file"]) or "built in"] for e in entries]
    context.output.table(["NAME", "TYPE", "FROM"], rows, legend=not context.values.flag("no-legend"))
    for note in notes:
        context.output.notice(note)
    return 0


def exposure(context: Context) -> int:
    """Show what of pods can be reached, and from where."""
    found = exposures(context.paths)
    if context.output.form:
        context.output.json([each._asdict() for each in found])
        return 0
    full = context.values.flag("full")
    rows = [
        [
            each.uuid if full else each.uuid[:8],
            each.pod_name or "-",
            each.network,
            each.address or "*",
            "*" if each.port is None else f"{each.port}/{each.protocol}",
            "-" if each.pod_port is None else str(each.pod_port),
            each.reached_from,
        ]
        for each in found
    ]
    header = ["UUID", "NAME", "NETWORK", "ADDRESS", "PORT", "POD PORT", "REACHED FROM"]
    context.output.table(header, rows, legend=not context.values.flag("no-legend"))
    return 0
