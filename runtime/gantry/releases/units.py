"""The units of named pods on disk."""

from __future__ import annotations

import contextlib
import os

from gantry.config import Paths
from gantry.linux import fs
from gantry.releases.store import Release
from gantry.releases.unit import MARKER, UnitInput, unit_name, unit_text

_UNIFIED = "/sys/fs/cgroup/cgroup.controllers"  # the root of a v2 hierarchy, where nothing else is mounted
WANTS = "multi-user.target.wants"

# A unit of the same name in any of these would be replaced, or would replace ours.
_VENDOR_DIRECTORIES = ("/usr/local/lib/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system")


class Units:
    """Reads and writes unit files. Enabling is the same link that ``systemctl enable`` makes.

    Args:
        paths: Where the installation lives.
        directory: Where units are written.
        program: The command as units call it.
    """

    def __init__(self, paths: Paths, directory: str, program: str) -> None:
        self.paths = paths
        self.directory = directory
        self.program = program

    def name(self, pod: str) -> str:
        """The unit of a pod."""
        return unit_name(pod)

    def text(self, release: Release) -> str:
        """What the unit of a release must say."""
        spec = release.spec
        unit = UnitInput(
            spec.name,
            release.uuid,
            len(spec.apps),
            spec.restart,
            spec.restart_delay,
            spec.stop_timeout,
            unified=os.path.exists(_UNIFIED),
        )
        return unit_text(unit, self.paths, self.program)

    def read(self, pod: str) -> str:
        """What the unit says; empty when there is none."""
        try:
            with open(self._path(pod), encoding="utf-8", errors="surrogateescape") as f:
                return f.read()
        except FileNotFoundError:
            return ""

    def ours(self, pod: str) -> bool:
        """Whether the unit's name is free or the unit is one that we wrote."""
        if any(os.path.lexists(f"{d}/{unit_name(pod)}") for d in _VENDOR_DIRECTORIES):
            return False
        if os.path.islink(self._path(pod)):
            return False
        text = self.read(pod)
        return text == "" or text.startswith(MARKER)

    def enabled(self, pod: str) -> bool:
        """Whether the unit is started at boot."""
        try:
            return os.readlink(self._link(pod)) == self._path(pod)
        except OSError:
            return False

    def write(self, release: Release, *, enabled: bool) -> bool:
        """Write the unit and whether it is started at boot; True if anything was changed."""
        pod = release.spec.name
        text = self.text(release)
        changed = False
        if self.read(pod) != text:
            os.makedirs(self.directory, exist_ok=True)
            fs.atomic_write(self._path(pod), text.encode("utf-8", "surrogateescape"), 0o644)
            changed = True
        if enabled and not self.enabled(pod):
            os.makedirs(os.path.dirname(self._link(pod)), exist_ok=True)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._link(pod))
            os.symlink(self._path(pod), self._link(pod))
            changed = True
        elif not enabled and os.path.lexists(self._link(pod)):
            os.unlink(self._link(pod))
            changed = True
        return changed

    def remove(self, pod: str) -> bool:
        """Remove the unit; True if there was one."""
        found = False
        for path in (self._link(pod), self._path(pod)):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
                found = True
        return found

    def _path(self, pod: str) -> str:
        return f"{self.directory}/{unit_name(pod)}"

    def _link(self, pod: str) -> str:
        return f"{self.directory}/{WANTS}/{unit_name(pod)}"
