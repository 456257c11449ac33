"""``enter``, ``app exec``, ``app list``, ``app status``."""

from __future__ import annotations

import os
import resource
import signal
import sys

from gantry import pods
from gantry.cli.context import Context, read_uuid_file
from gantry.errors import NotFoundError, UsageError
from gantry.pods import AppInfo
from gantry.pods.info import find_uuid


def enter(context: Context) -> int:
    """Run a command in a running app."""
    from gantry.pods import enter as room  # noqa: PLC0415 - terminals and users; nobody else needs them

    values = context.values
    for flag in ("app", "user", "group", "working-dir"):
        if flag in values.given and not values.text(flag):
            raise UsageError(f"--{flag} is empty", hint="leave it out, or give it a value")
    words = list(context.arguments)
    file = values.text("uuid-file")
    if not file and not words:
        raise UsageError("missing argument", hint="usage: gantry enter UUID [COMMAND [ARG…]]")
    reference = read_uuid_file(file) if file else words.pop(0)
    target = room.find(context.paths, reference, values.text("app") or None)
    if not words:
        words = [room.default_shell(target)]
        context.output.notice(f'no command specified, assuming "{words[0]}"')
    if not words[0]:
        raise UsageError("the command is empty", hint="give its name or path")
    status = room.enter(
        context.paths,
        target,
        words,
        environment=os.environ,
        user=values.text("user") or None,
        group=values.text("group") or None,
        working_directory=values.text("working-dir") or None,
    )
    if status < 0:
        _die_of(-status)
    return status


def _die_of(number: int) -> None:
    """End by the same signal, without a dump of ourselves; comes back where that signal ends nobody."""
    sys.stdout.flush()
    sys.stderr.flush()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if number not in {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def list_apps(context: Context) -> int:
    """List the apps of a pod."""
    pod = pods.get(context.paths, context.pod_reference())
    if context.output.form:
        context.output.json([app.as_dict() for app in pod.apps])
        return 0
    rows = [[app.name, app.state] for app in pod.apps]
    context.output.table(["NAME", "STATE"], rows, legend=not context.values.flag("no-legend"))
    return 0


def status(context: Context) -> int:
    """Show one app of a pod (RKT-INVENTORY 4.16)."""
    app = _chosen(context)
    if context.output.form:
        context.output.json(app.as_dict())
        return 0
    lines = [
        f"name={app.name}",
        f"state={app.state}",
        f"image_id={app.image_id}",
        *(
            f"{key}={value}"
            for key, value in (
                ("created_at", app.created_at),
                ("started_at", app.started_at),
                ("finished_at", app.finished_at),
                ("exit_code", app.exit_code),
            )
            if value is not None
        ),
    ]
    mounts = ",".join(
        f"{m['host_path']}:{m['container_path']}:(read_only:{str(bool(m['read_only'])).lower()})"
        for m in app.mounts
    )
    lines.append(f"mounts={mounts}")
    for key, texts in (("user_annotations", app.user_annotations), ("user_labels", app.user_labels)):
        lines.append(f"{key}={','.join(f'{name}:{value}' for name, value in texts.items())}")
    for line in lines:
        context.output.line(line)
    return 0


def _chosen(context: Context) -> AppInfo:
    reference = context.pod_reference()
    pod = pods.get(context.paths, find_uuid(context.paths, reference))
    name = context.values.text("app")
    names = [app.name for app in pod.apps]
    if not name:
        if len(names) != 1:
            raise (
                UsageError(
                    f"pod contains multiple apps: {', '.join(names)}", hint=f"say which: --app={names[0]}"
                )
                if names
                else NotFoundError(f'pod "{pod.uuid}" has no apps yet', hint="it is being made")
            )
        return pod.apps[0]
    for app in pod.apps:
        if app.name == name:
            return app
    raise NotFoundError(f'pod "{pod.uuid}" has no app "{name}"', hint=f"it has {', '.join(names)}")
