"""The command line of the launcher: ``run-prepared [--leave] UUID`` and ``pod-stopped UUID``.

On the launch path, hence no argparse.
"""

from __future__ import annotations

import os

from gantry.errors import NotFoundError, UsageError

_PATH_FLAGS = {"--dir": "data", "--run-dir": "run"}
_LAYERS = {"--local-config": "/etc/gantry", "--system-config": "/usr/lib/gantry"}


def parse(argv: list[str]) -> tuple[str, str, bool, str, str]:
    """Read a command line of the launcher.

    Returns:
        Verb, whole UUID, whether to leave, data directory, run directory.

    Raises:
        UsageError: It is malformed.
        NotFoundError: No such pod.
    """
    paths = {"data": "/var/lib/gantry", "run": "/run/gantry"}
    layers = dict(_LAYERS)
    words: list[str] = []
    leave = given = False
    rest = iter(argv)
    for word in rest:
        flag, equals, value = word.partition("=")
        if flag in _PATH_FLAGS:
            paths[_PATH_FLAGS[flag]] = os.path.realpath(value if equals else next(rest, ""))
            given = given or flag == "--dir"
        elif word == "--leave":
            leave = True
        elif flag in layers:
            layers[flag] = value if equals else next(rest, "")
        elif word == "--debug":
            continue
        elif word.startswith("-"):
            raise UsageError(f"unknown flag: {word}", hint="a pod's settings are fixed when it is prepared")
        else:
            words.append(word)
    if len(words) != 2 or words[0] not in {"run-prepared", "pod-stopped"}:
        raise UsageError("give exactly one pod", hint="gantry run-prepared UUID")
    verb, reference = words
    if not given and any(os.path.isdir(f"{top}/paths.d") for top in layers.values()):
        from gantry.config import Paths, data_directory  # noqa: PLC0415 - hardly any host has such a file

        told = data_directory(Paths.make(local=layers["--local-config"], system=layers["--system-config"]))
        if told is not None:
            paths["data"] = os.path.realpath(told.value)
    states = ("prepared", "run") if verb == "run-prepared" else ("run", "prepared", "exited-garbage")
    return verb, _whole_uuid(paths["data"], reference, states), leave, paths["data"], paths["run"]


def _whole_uuid(data: str, reference: str, states: tuple[str, ...]) -> str:
    reference = reference.lower()
    if not reference:
        raise UsageError("UUID cannot be empty")
    if len(reference) == 36 and "/" not in reference:
        return reference
    found: set[str] = set()
    for name in states:
        try:
            found.update(uuid for uuid in os.listdir(f"{data}/pods/{name}") if uuid.startswith(reference))
        except OSError:
            continue
    if len(found) > 1:
        raise UsageError(f"ambiguous uuid, {len(found)} matches", hint="give more of it")
    if not found:
        raise NotFoundError(f'no matches found for "{reference}"', hint="gantry list shows all pods")
    return found.pop()
