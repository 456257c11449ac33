"""Hosts under test, as the checks see them."""

from __future__ import annotations

import json
import os
import shlex
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from testinfra.host import Host

from testhosts import fleet
from testhosts.spec import Host as Spec


def the_fleet() -> fleet.Fleet:
    """The fleet whose state directory GANTRY_FLEET names."""
    return fleet.load(Path(os.environ["GANTRY_FLEET"]))


def group(name: str) -> list[str]:
    """The hosts of an inventory group, as a module's ``testinfra_hosts`` wants them."""
    if "GANTRY_FLEET" not in os.environ:
        return []
    return [f"ssh://{host.name}" for host in the_fleet().hosts if name in host.groups]


class Node:
    """A host: commands whose failure is told with their output, and JSON."""

    def __init__(self, host: Host, found: fleet.Fleet) -> None:
        self.host = host
        self.fleet = found
        self.spec: Spec = found.host(host.backend.get_hostname())

    def run(self, script: str) -> str:
        """The output of a line of shell that has to succeed."""
        done = self.host.run("sh -c " + shlex.quote(script))
        assert done.rc == 0, f"{self.spec.name}: {script}: status {done.rc}: {done.stderr or done.stdout}"
        return str(done.stdout).strip()

    def fails(self, script: str) -> str:
        """What a line of shell that has to fail says."""
        done = self.host.run("sh -c " + shlex.quote(script))
        assert done.rc != 0, f"{self.spec.name}: {script}: succeeded: {done.stdout}"
        return str(done.stderr).strip()

    def succeeds(self, script: str) -> bool:
        """Whether a line of shell succeeds."""
        return int(self.host.run("sh -c " + shlex.quote(script)).rc) == 0

    def json(self, script: str) -> Any:
        """The output of a line of shell as JSON."""
        return json.loads(self.run(script))


def wait_for(condition: Callable[[], object], what: str, seconds: float = 90) -> None:
    """Wait until *condition* holds; *seconds* is generous, because an emulated host is slow."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s for {what}"
        time.sleep(0.1)
