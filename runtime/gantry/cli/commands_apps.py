"""Verbs about apps and the host, for the table in :mod:`gantry.cli.commands`."""

from __future__ import annotations

from gantry.cli.flags import FORMAT, FULL, NO_LEGEND, UUID_FILE
from gantry.cli.grammar import Command
from gantry.cli.values import Flag

_APP = Flag("app", "str", "which app; not needed if the pod has only one", "", metavar="NAME")
_ENTER = (
    _APP,
    Flag("user", "str", "as this user (name, number or path in the app), instead of the app's", ""),
    Flag("group", "str", "as this group, instead of the app's", ""),
    Flag("working-dir", "str", "in this directory, instead of the app's", "", metavar="DIR"),
    UUID_FILE,
)
_WHAT = (
    "The command gets what the app has: user, capabilities, filter, control group, namespaces, variables and "
    "working directory, and no more. Where input and output are a terminal it has one, too. It ends with the "
    "pod, and when gantry is ended. Its exit status is the command's; if a signal killed it, the same signal "
    "ends gantry."
)

APPS = (
    Command(
        ("enter",),
        "Run a command in an app of a running pod",
        "[flags] UUID [COMMAND [ARG…]]",
        handler="apps:enter",
        flags=_ENTER,
        arguments=(0, None),
        stop_at_first=True,
        root=True,
        description=_WHAT + " Without a command it is a shell: /bin/bash, else /bin/sh.",
        example=("gantry enter 6a1f44a2", "gantry enter --app=web 6a1f44a2 /bin/ls -l /"),
    ),
    Command(
        ("app", "exec"),
        "Run a command in an app of a running pod",
        "[flags] UUID [COMMAND [ARG…]]",
        handler="apps:enter",
        flags=_ENTER,
        arguments=(0, None),
        stop_at_first=True,
        root=True,
        description="As gantry enter. " + _WHAT,
    ),
    Command(
        ("logs",),
        "Show what the apps of a pod have written",
        "UUID|NAME",
        handler="logs:logs",
        flags=(
            Flag("app", "str", "only this app", "", metavar="NAME"),
            Flag("follow", "bool", "go on with what comes, until the pod has ended", False),
            Flag("since", "str", "only what is not older: 10m, or a time", "", metavar="WHEN"),
            Flag("tail", "int", "only so many of the last lines", None, metavar="N"),
            Flag("timestamps", "bool", "when each line was written", False),
            UUID_FILE,
        ),
        arguments=(0, 1),
        description="Of a pod that runs and of one that has ended, until it is removed. Of several apps each "
        "line begins with its app's name. The last 8 MiB of an app are kept, at least the last 4. What "
        "systemd runs, named pods above all, is in its journal, and shown from there.",
        example=("gantry logs --follow 6a1f44a2", "gantry logs --app=web --since=10m 6a1f44a2"),
    ),
    Command(
        ("app", "list"),
        "List the apps of a pod",
        "UUID",
        handler="apps:list_apps",
        flags=(NO_LEGEND, UUID_FILE, FORMAT),
        arguments=(0, 1),
    ),
    Command(
        ("app", "status"),
        "Show the state of one app",
        "UUID",
        handler="apps:status",
        flags=(_APP, UUID_FILE, FORMAT),
        arguments=(0, 1),
    ),
    Command(
        ("network", "list"),
        "List the networks that pods can be in",
        handler="networks:list_networks",
        flags=(NO_LEGEND, FORMAT),
        description="Those that are built in, and those that files of net.d configure. What is wrong with a "
        "file is said on standard error.",
    ),
    Command(
        ("network", "exposure"),
        "Show what of pods can be reached, and from where",
        handler="networks:exposure",
        flags=(NO_LEGEND, FULL, FORMAT),
        description="Ports of the host that lead into pods, and addresses of pods. Whether a firewall of the "
        "host forbids it is not looked at.",
    ),
    Command(
        ("check",),
        "Look for what pods that are gone have left on the host",
        handler="leftovers:check",
        flags=(Flag("repair", "bool", "remove it", False), FORMAT),
        root=True,
        description="Mounts, control groups, interfaces, addresses, namespaces, files of the run directory, "
        "references to trees and half-made pods, of which no pod is there any more. The exit status is 254 "
        "when something is left.",
    ),
    Command(
        ("doctor",),
        "Say what this host can do for pods, and what it cannot",
        handler="doctor:doctor",
        flags=(NO_LEGEND, FORMAT),
        description="Looks at kernel, control groups, programs, network, storage, services; changes nothing. "
        "Each line is ok, less (pods run, without something) or broken, with what to do. The exit status is "
        "254 when something is broken.",
    ),
)
