"""``apply``: read a document, bring the host there, print what was done."""

from __future__ import annotations

import sys
from dataclasses import replace

from gantry.apply.act import apply as act
from gantry.apply.act import describe
from gantry.apply.document import Document, DocumentError, parse
from gantry.apply.host import Host, Keys
from gantry.apply.sets import Sets
from gantry.cli.context import Context, program
from gantry.cli.output import FAILURE, table
from gantry.releases.backend import Rooms
from gantry.releases.engine import Engine
from gantry.systemd import UNIT_DIRECTORY, Manager

_LARGEST_DOCUMENT = 64 * 1024 * 1024


def apply(context: Context) -> int:
    """Read a document on standard input; the exit status is 254 when anything failed."""
    data = sys.stdin.buffer.read(_LARGEST_DOCUMENT + 1)
    if len(data) > _LARGEST_DOCUMENT:
        raise DocumentError("the document is larger than 64 MiB", hint="split it into several")
    document = parse(data)
    context.warn_insecure(document.insecure)
    result = act(_host(context, document), document, check=context.values.flag("check"))
    if context.output.form:
        context.output.json(result.as_dict())
    else:
        context.output.raw(table([line.split("\t") for line in describe(result)]))
    for warning in result.warnings:
        context.output.notice(f"warning: {warning}")
    for error in result.errors:
        context.output.failed(error)
    return FAILURE if result.errors else 0


def _host(context: Context, document: Document) -> Host:
    paths = context.paths
    insecure = context.insecure | document.insecure
    http = replace(
        context.http_options(),
        ca_file=document.ca_file or context.ca_file(),
        insecure_tls="tls" in insecure,
        allow_http="http" in insecure,
    )
    store, keys = context.store(), context.keys()
    rooms = Rooms(paths, store, keys, http, insecure, say=context.output.debug)
    directory = context.values.text("unit-dir") or UNIT_DIRECTORY
    engine = Engine(paths, rooms, Manager(), unit_dir=directory, program=program())
    return Host(Keys(paths, keys), rooms, engine, Sets(paths))
