"""The systemd unit of a named pod. Pure.

Units are small on purpose: whatever an app is to see (arguments, environment) stands in the pod's own plan,
so that no value ever passes through the quoting rules of a unit file.

- A pod of one app is started by ``run-prepared --leave``: once the app runs, the launcher tells systemd to
  watch the app itself and ends (``Type=notify``). Nothing of ours stays resident. A PID file
  (``Type=forking``) would do, but systemd waits out its start timeout for an app that ends at once.
- A pod of several apps is watched by the launcher (``Type=exec``), which knows the rule that one app's
  failure ends the pod.
- ``ExecStopPost`` records how it ended and cleans up, whatever way it ended.
- What the main process leaves behind is killed by systemd (``KillMode=mixed``). Without control groups v2
  alone systemd may not notice that a unit's group has become empty (in a container it is not told at all)
  and would wait out its stop timeout after each crash: there it kills only the main process, and
  ``ExecStopPost`` the rest.
- ``stop_timeout`` is kept by whoever watches. That is the launcher, when there is one: systemd then waits
  longer (``TimeoutStopSec``), so as not to kill the launcher in the middle of ending the pod. Otherwise it is
  systemd; there 0 is "kill at once" (``KillSignal``), as ``TimeoutStopSec=0`` would be for ever.
- No unit waits for the network: the images are in the store before the unit exists.
"""

from __future__ import annotations

import math
import os
from typing import NamedTuple

from gantry import systemd
from gantry.config import DEFAULT_DATA, DEFAULT_LOCAL, DEFAULT_RUN, DEFAULT_SYSTEM, Paths

MARKER = "# Written by Gantry for the pod"

# After ten starts within two minutes systemd gives up and the unit is failed, for everybody to see.
_START_LIMIT_SECONDS = 120
_START_LIMIT_STARTS = 10

# What the launcher has beyond the apps' own time, to kill them and to clean up.
_LAUNCHER_SECONDS = 15
# ExecStopPost has as long as TimeoutStopSec: it needs some time even when the app has none.
_LEAST_STOP_SECONDS = 1

_RESTART = {"always": "always", "on-failure": "on-failure", "never": "no"}


class UnitInput(NamedTuple):
    """All that the text of a unit depends on.

    Attributes:
        name: The pod's name.
        uuid: The prepared pod.
        apps: How many apps it has.
        restart: ``always``, ``on-failure`` or ``never``.
        restart_delay: Seconds.
        stop_timeout: Seconds that the apps have to end; 0 kills them at once.
        unified: The host has control groups v2 alone.
    """

    name: str
    uuid: str
    apps: int
    restart: str
    restart_delay: float
    stop_timeout: float
    unified: bool = True


def unit_name(pod: str) -> str:
    """The unit of the pod *pod*."""
    return f"gantry-{pod}.service"


def path_flags(paths: Paths) -> list[str]:
    """Flags by which a later call of the command finds *paths*; none for the usual places."""
    given = (
        ("dir", paths.data, DEFAULT_DATA),
        ("run-dir", paths.run, DEFAULT_RUN),
        ("system-config", paths.system, DEFAULT_SYSTEM),
        ("local-config", paths.local, DEFAULT_LOCAL),
    )
    # Settings may name another data directory than the usual one: then it has to be said.
    said = any(os.path.isdir(f"{top}/paths.d") for top in (paths.local, paths.system))
    return [f"--{flag}={path}" for flag, path, usual in given if path != usual or (said and flag == "dir")]


def unit_text(unit: UnitInput, paths: Paths, program: str) -> str:
    """The unit file.

    Args:
        unit: The pod.
        paths: Where this installation lives.
        program: Absolute path of the command; a link that follows upgrades of the runtime.

    Raises:
        UsageError: A path cannot be written into a unit.
    """
    command = [program, *path_flags(paths)]
    leave = unit.apps == 1
    run = [*command, "run-prepared", *(["--leave"] if leave else []), unit.uuid]
    kind = [("Type", "notify"), ("NotifyAccess", "main")] if leave else [("Type", "exec")]
    return systemd.render(
        [
            (
                "Unit",
                [
                    ("Description", systemd.plain_value(f"Gantry pod {unit.name}")),
                    ("StartLimitIntervalSec", str(_START_LIMIT_SECONDS)),
                    ("StartLimitBurst", str(_START_LIMIT_STARTS)),
                ],
            ),
            (
                "Service",
                [
                    *kind,
                    ("ExecStart", systemd.exec_line(run)),
                    ("ExecStopPost", systemd.exec_line([*command, "pod-stopped", unit.uuid])),
                    ("Restart", _RESTART[unit.restart]),
                    ("RestartSec", _seconds(unit.restart_delay)),
                    # An app that ends by the SIGTERM it was sent has not failed.
                    ("SuccessExitStatus", "143"),
                    ("KillMode", "mixed" if unit.unified else "process"),
                    *_stop(unit.stop_timeout, watched_by_systemd=leave),
                    ("Delegate", "yes"),
                    ("SyslogIdentifier", systemd.plain_value(unit.name)),
                ],
            ),
            ("Install", [("WantedBy", "multi-user.target")]),
        ],
        comment=f"{MARKER[2:]} {unit.name}; changes are overwritten.\nUse: gantry pod status {unit.name}",
    )


def _stop(seconds: float, *, watched_by_systemd: bool) -> list[tuple[str, str]]:
    """How the apps get *seconds* to end."""
    if not watched_by_systemd:
        return [("TimeoutStopSec", _seconds(seconds + _LAUNCHER_SECONDS))]
    if seconds == 0:
        return [("KillSignal", "SIGKILL"), ("TimeoutStopSec", _seconds(_LAUNCHER_SECONDS))]
    return [("TimeoutStopSec", _seconds(max(seconds, _LEAST_STOP_SECONDS)))]


def _seconds(value: float) -> str:
    return f"{math.ceil(value * 1000)}ms"
