"""``version``, ``config``, ``help`` and ``completion``."""

from __future__ import annotations

import os
import platform

from gantry import APPC_VERSION, __version__
from gantry.appc.arch import host_labels
from gantry.cli.commands import GRAMMAR
from gantry.cli.context import Context
from gantry.cli.help import (
    bash_completion,
    command_page,
    family_page,
    fish_completion,
    root_page,
    zsh_completion,
)
from gantry.cli.output import to_json
from gantry.config import default_flavor
from gantry.errors import UsageError

_SHELLS = {"bash": bash_completion, "zsh": zsh_completion, "fish": fish_completion}


def version(context: Context) -> int:
    """Show versions."""
    labels = host_labels(platform.machine())
    facts = {
        "gantry Version": __version__,
        "appc Version": APPC_VERSION,
        "Python Version": platform.python_version(),
        "OS/Arch": f"{labels['os']}/{labels['arch']}",
        "Features": f"{'+' if os.path.exists('/sys/fs/cgroup/cgroup.controllers') else '-'}CGROUP2",
    }
    if context.output.form:
        context.output.json({k.lower().replace("/", "_").replace(" ", "_"): v for k, v in facts.items()})
        return 0
    for name, value in facts.items():
        context.output.line(f"{name}: {value}")
    return 0


def config(context: Context) -> int:
    """Show what is in effect: directories, and the flavor that pods get when none is named."""
    paths = context.paths
    flavor = default_flavor(paths)
    settings = {
        "stage0": [{"rktVersion": "v1", "rktKind": "paths", "data": paths.data, "stage1-images": ""}],
        "stage1": [{"rktVersion": "v1", "rktKind": "stage1", "name": flavor.value if flavor else "oci"}],
        "directories": {
            "dir": paths.data,
            "run-dir": paths.run,
            "system-config": paths.system,
            "local-config": paths.local,
        },
    }
    context.output.line(to_json(settings, "json-pretty" if context.values.flag("pretty-print") else "json"))
    return 0


def help_on(context: Context) -> int:
    """Show a help page."""
    words = context.arguments
    if not words:
        context.output.raw(root_page())
        return 0
    command, places = GRAMMAR.find(words)
    if command is None:
        context.output.raw(family_page(next(f for f in sorted(GRAMMAR.families()) if f.startswith(words[0]))))
        return 0
    if len(places) < len(words):
        raise UsageError(f'there is no command "{" ".join(words)}"', hint="run 'gantry help'")
    context.output.raw(command_page(command))
    return 0


def completion(context: Context) -> int:
    """Print a completion script."""
    if not context.arguments:
        raise UsageError("shell type is not specified", hint=f"one of {', '.join(_SHELLS)}")
    if len(context.arguments) > 1:
        raise UsageError(
            "too many arguments, only shell type is expected", hint=f"one of {', '.join(_SHELLS)}"
        )
    shell = context.arguments[0]
    if shell not in _SHELLS:
        raise UsageError(f"'{shell}' shell is not supported", hint=f"one of {', '.join(_SHELLS)}")
    context.output.raw(_SHELLS[shell]())
    return 0
