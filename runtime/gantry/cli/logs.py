"""``logs``."""

from __future__ import annotations

import datetime
import os
import re
import subprocess
import sys
import time

from gantry.cli.context import Context
from gantry.cli.output import FAILURE
from gantry.cli.values import parse_duration
from gantry.errors import HostError, NotFoundError, UsageError
from gantry.pods.logs import Kept, Line, find, follow, lines

_NANO = 1_000_000_000


def logs(context: Context) -> int:
    """Show what the apps of a pod have written."""
    values = context.values
    if "app" in values.given and not values.text("app"):
        raise UsageError("--app is empty", hint="leave it out, or name an app")
    kept = find(context.paths, context.pod_reference(), values.text("app") or None)
    since = _since(values.text("since"))
    tail = values.number("tail")
    if tail is not None and tail < 0:
        raise UsageError("--tail is negative", hint="give a number of lines")
    if kept.where == "journal":
        return _journal(context, kept, since, tail)
    if kept.where is None:
        why = "it has not run yet" if kept.pod.state == "prepared" else "its output went to a terminal"
        raise NotFoundError(f'pod "{kept.pod.uuid}" has no log: {why}', hint="gantry list shows all pods")
    show = _Show(len(kept.apps) > 1, timestamps=values.flag("timestamps"))
    try:
        if not values.flag("follow"):
            found = lines(kept, since=since)
            show(found if tail is None else found[len(found) - min(tail, len(found)) :])
            return 0
        first = True
        for batch in follow(context.paths, kept, since=since):
            show(batch[len(batch) - min(tail, len(batch)) :] if first and tail is not None else batch)
            first = False
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # nobody reads on, and nothing is left to be told
    return 0


class _Show:
    """Prints lines, byte for byte."""

    def __init__(self, several: bool, *, timestamps: bool) -> None:
        self._several = several
        self._timestamps = timestamps

    def __call__(self, found: list[Line]) -> None:
        out = sys.stdout.buffer
        for line in found:
            prefix = f"{_moment(line.at)} " if self._timestamps else ""
            prefix += f"{line.app}: " if self._several else ""
            out.write(prefix.encode() + line.text + b"\n")
        out.flush()


def _moment(at: int) -> str:
    whole = datetime.datetime.fromtimestamp(at // _NANO, datetime.UTC)
    return f"{whole:%Y-%m-%dT%H:%M:%S}.{at % _NANO // 1000:06}Z"


def _since(text: str) -> int:
    """Nanoseconds since 1970: so long ago (``10m``), or a time (``2030-01-31T12:00:00Z``)."""
    if not text:
        return 0
    if not re.match(r"\d{4}-", text):
        return int((time.time() - abs(parse_duration(text))) * _NANO)
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(
            f'"{text}" is no time for --since', hint="such as 10m, or 2030-01-31T12:00:00Z"
        ) from None
    return int(moment.timestamp() * 1_000_000) * 1000


def _journal(context: Context, kept: Kept, since: int, tail: int | None) -> int:
    """Have ``journalctl`` show what systemd's journal keeps; its exit status."""
    pod, values = kept.pod, context.values
    if len(pod.apps) > 1 and values.text("app"):
        raise UsageError("the journal does not know which app of a pod wrote a line", hint="leave --app out")
    if not pod.pod_name:
        raise NotFoundError(
            f'the output of pod "{pod.uuid}" is in the journal of the unit that started it',
            hint="journalctl -u UNIT",
        )
    words = ["journalctl", f"--unit=gantry-{pod.pod_name}.service", "--no-pager", "--quiet"]
    words.append(f"--output={'short-iso-precise' if values.flag('timestamps') else 'cat'}")
    words += ["--follow"] if values.flag("follow") else []
    words += [f"--lines={'all' if tail is None else tail}"]
    words += [f"--since=@{since // _NANO}"] if since else []
    try:
        return FAILURE if subprocess.run(words, check=False).returncode else 0
    except OSError as error:
        raise HostError(
            f"cannot start journalctl: {error.strerror}", hint="the pod's output is in systemd's journal"
        ) from error
    except KeyboardInterrupt:
        return 0
