"""What the demonstration asks its hosts from outside: over HTTP from the fleet's network, and over ssh."""

from __future__ import annotations

import json
import shlex
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gantry.errors import GantryError
from testhosts import cache, network, ssh
from testhosts.errors import HostsError
from testhosts.fleet import Fleet
from testhosts.spec import Host

POD_PORT = 8080

VERIFY = """
import base64, sys
sys.path.insert(0, sys.argv[1])
from gantry.signer import client
print(client.verify(sys.argv[2], sys.argv[3], sys.argv[4].encode(), base64.b64decode(sys.argv[5])))
"""
"""Asks the signer of the host that it runs on, with the installed runtime's own client."""


class ProofError(GantryError):
    """Something is not as the demonstration says it is."""

    code = "proof"


@dataclass(frozen=True)
class PodView:
    """A pod as it is seen from outside and as its host sees it.

    Attributes:
        uuid: Its UUID, as its host knows it.
        pid: Its first process.
        started: When the kernel started that process, in clock ticks since the boot of the host.
        status: What it tells about itself.
    """

    uuid: str
    pid: int
    started: str
    status: dict[str, Any]

    @property
    def process(self) -> tuple[str, int, str]:
        """What changes with a restart: a named pod keeps its UUID, and a process number may come again."""
        return self.uuid, self.pid, self.started


class Asker:
    """Asks the hosts of one fleet."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet

    def run(self, name: str, *words: str, status: int | None = 0) -> tuple[int, str, str]:
        """Run a command on a host: status, output and errors.

        Raises:
            ProofError: It ended with another status than *status* (``None`` = any).
        """
        return self.shell(name, shlex.join(words), status=status)

    def shell(self, name: str, script: str, *, status: int | None = 0) -> tuple[int, str, str]:
        """As :meth:`run`, for a line of shell."""
        done = ssh.run(self.fleet.ssh_config, name, script)
        if status is not None and done.returncode != status:
            words = done.stderr.strip() or done.stdout.strip() or "it said nothing"
            raise ProofError(f"{name}: '{script}' ended with {done.returncode}, not {status}: {words}")
        return done.returncode, done.stdout, done.stderr

    def fetch(self, name: str, path: str, target: Path) -> None:
        """Copy the file *path* of a host to *target*."""
        cache.run(["scp", "-q", "-F", str(self.fleet.ssh_config), f"{name}:{path}", str(target)])

    def write(self, name: str, path: str, text: str) -> None:
        """Write *text* to the file *path* of a host."""
        self.shell(name, f"printf %s {shlex.quote(text)} > {shlex.quote(path)}")

    def json(self, name: str, *words: str) -> Any:
        """What a command prints, as JSON."""
        _status, output, _errors = self.run(name, *words)
        try:
            return json.loads(output)
        except ValueError as error:
            raise ProofError(f"{name}: '{shlex.join(words)}' printed no JSON: {output[:200]}") from error

    def page(self, host: Host, target: str, *, seconds: float = 30) -> bytes:
        """A page of the pod on *host*, from outside; a pod that has just started is given *seconds*.

        Raises:
            ProofError: It did not answer with a page in time.
        """
        deadline = time.monotonic() + seconds
        problem = ""
        while time.monotonic() < deadline:
            try:
                status, body = network.get(self.fleet.netns, host.address, POD_PORT, target)
                if status == 200:
                    return body
                problem = f"status {status}"
            except HostsError as error:
                problem = error.message
            time.sleep(0.2)
        raise ProofError(f"the pod on {host.name} did not answer in {seconds:.0f} s: {problem}")

    def status_page(self, host: Host) -> dict[str, Any]:
        """What the pod on *host* tells about itself (``/status.json``)."""
        body = self.page(host, "/status.json")
        try:
            told = json.loads(body)
        except ValueError as error:
            raise ProofError(f"the pod on {host.name} answered with no JSON: {body[:200]!r}") from error
        if not isinstance(told, dict):
            raise ProofError(f"the pod on {host.name} answered with no JSON object")
        return told

    def pod(self, host: Host, name: str) -> PodView:
        """The pod *name* on *host*, asked on the host and over HTTP.

        Raises:
            ProofError: It has no process, or does not answer.
        """
        found = self.json(host.name, "gantry", "status", name, "--format=json")
        pid = int(found.get("pid") or 0)
        if pid <= 0:
            raise ProofError(f"{host.name}: pod {name} has no process; it is {found.get('state')}")
        # The name in /proc/PID/stat may hold anything; the fields after it are numbers.
        started = self.shell(host.name, f"sed 's/.*) //' /proc/{pid}/stat | cut -d' ' -f20")[1].strip()
        if not started.isdigit():
            raise ProofError(f"{host.name}: process {pid} of pod {name} is not there")
        return PodView(uuid=str(found["uuid"]), pid=pid, started=started, status=self.status_page(host))

    def verifies(self, name: str, uuid: str, content: str, signature: str) -> bool:
        """Whether the signer of a host says that the pod *uuid* has signed *content*; no pod is asked."""
        argv = ["/opt/gantry/current/lib", "/run/gantry/signer.sock", uuid, content, signature]
        status, output, errors = self.run(name, "/usr/bin/python3", "-IS", "-c", VERIFY, *argv, status=None)
        if status or output.strip() not in {"True", "False"}:
            raise ProofError(f"{name}: the signer cannot be asked: {errors.strip() or output.strip()}")
        return output.strip() == "True"

    def store(self, name: str) -> str:
        """Everything about the store of a host that a refused image could change: names, sizes, contents."""
        script = (
            "cd /var/lib/gantry/images && find . -type f -not -name '*.lock' -not -path './tree/*' "
            "-exec sha256sum {} + | sort -k2; gantry image list --full --no-legend --fields=id,name,size"
        )
        return self.shell(name, script)[1]
