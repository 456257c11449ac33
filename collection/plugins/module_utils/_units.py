# Copyright (c) The Gantry authors
# SPDX-License-Identifier: Apache-2.0
"""PRIVATE to the collection: what systemd says about some units, asked once."""

from __future__ import annotations

import time

from ansible_collections.appc.gantry.plugins.module_utils._host import StepError

__all__ = ["Units"]

PROPERTIES = ("Id", "UnitFileState", "ActiveState", "NeedDaemonReload", "ActiveEnterTimestampMonotonic")


class Units:
    """The state of units as it was when this object was made.

    Args:
        module: The module that runs.
        names: Full names of the units.
    """

    def __init__(self, module, names):
        self.module = module
        self.names = list(names)
        self.systemctl = module.get_bin_path("systemctl")
        self.shown = self._show() if self.systemctl and self.names else {}

    def _show(self):
        """Properties by unit; systemd separates the answers by empty lines."""
        command = [self.systemctl, "show", "--property=%s" % ",".join(PROPERTIES), *self.names]
        code, output, errors = self.module.run_command(command)
        if code != 0:
            if self.module.check_mode:
                return {}
            raise StepError("systemd does not answer: %s" % (errors.strip() or output.strip()))
        blocks = (dict(line.split("=", 1) for line in block.splitlines() if "=" in line) for block in output.split("\n\n"))
        return {block["Id"]: block for block in blocks if "Id" in block}

    def _property(self, unit, name):
        return self.shown.get(unit, {}).get(name, "")

    def enabled(self, unit):
        """``enabled``, another word of systemd, or an empty string."""
        return self._property(unit, "UnitFileState")

    def active(self, unit):
        """``active``, another word of systemd, or an empty string."""
        return self._property(unit, "ActiveState")

    def need_reload(self):
        """Whether a unit's file is newer than what systemd knows."""
        return any(self._property(unit, "NeedDaemonReload") == "yes" for unit in self.names)

    def stale(self, since, changed):
        """Running services that are older than what they run, and running sockets and timers whose unit changes.

        A socket cannot be restarted while its service runs, so its service comes with it.

        Args:
            since: When the runtime was switched, in seconds of the boot clock, or ``None``. Clocks that can be set are
                not used: a host whose time is put right would restart its services, or never.
            changed: Units whose file is about to change.
        """
        found = set()
        asleep = time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)
        for unit in self.names:
            if self.active(unit) != "active":
                continue
            base, _dot, kind = unit.rpartition(".")
            started = asleep + int(self._property(unit, "ActiveEnterTimestampMonotonic") or 0) / 1e6
            if kind == "service" and (unit in changed or (since is not None and started < since)):
                found.add(unit)
            elif kind == "socket" and unit in changed:
                found.update(name for name in (unit, base + ".service") if name in self.names)
            elif kind == "timer" and unit in changed:
                # Otherwise the time that the old file has set stands until it is over.
                found.add(unit)
        return sorted(found)

    def reload(self):
        """Have systemd read its files again.

        Raises:
            StepError: It would not.
        """
        self._systemctl("daemon-reload")

    def act(self, verb, *units):
        """``systemctl VERB UNIT...``: one transaction, so that systemd orders stops and starts.

        Raises:
            StepError: It failed; the text has systemd's reason.
        """
        self._systemctl(verb, *units)

    def _systemctl(self, *arguments):
        if self.systemctl is None:
            raise StepError("systemctl is not on this host; the services need systemd")
        code, output, errors = self.module.run_command([self.systemctl, *arguments])
        if code != 0:
            reason = (errors.strip() or output.strip() or "no output").splitlines()[0]
            raise StepError("systemctl %s failed: %s" % (" ".join(arguments), reason))
