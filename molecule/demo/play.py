"""Running playbooks through ansible-runner, each task as one line when all hosts are through with it."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ansible_runner

from demo import leftovers
from demo.show import Stage
from gantry.errors import GantryError


class PlayError(GantryError):
    """A playbook did not come to its end on every host."""

    code = "playbook"


@dataclass
class Recap:
    """How a playbook ended.

    Attributes:
        hosts: By host: counts of ``ok``, ``changed``, ``failures``, ``unreachable``.
        seconds: Wall-clock time.
        failures: Host, task and message of each failure.
        results: By host: the result of the last task that ran there.
    """

    hosts: dict[str, dict[str, int]] = field(default_factory=dict)
    seconds: float = 0.0
    failures: list[tuple[str, str, str]] = field(default_factory=list)
    results: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def changed(self) -> int:
        """Tasks that changed something, over all hosts."""
        return sum(counts["changed"] for counts in self.hosts.values())


class _Narrator:
    """Turns ansible-runner's events into lines."""

    def __init__(self, stage: Stage, recap: Recap, *, quiet: bool) -> None:
        self.stage, self.recap, self.quiet = stage, recap, quiet
        self.task = ""
        self.dull = False
        self.began = 0.0
        self.outcome: dict[str, str] = {}

    def event(self, event: dict[str, Any]) -> bool:
        data = event.get("event_data") or {}
        kind = str(event.get("event", ""))
        handler = {
            "playbook_on_task_start": self._task_starts,
            "playbook_on_handler_task_start": self._task_starts,
            "runner_on_ok": self._ok,
            "runner_on_failed": self._failed,
            "runner_on_unreachable": self._failed,
            "playbook_on_stats": self._stats,
        }.get(kind)
        if handler:
            handler(data)
        return False  # nothing is kept on disk by the runner

    def _task_starts(self, data: dict[str, Any]) -> None:
        self.flush()
        role, name = data.get("role"), data.get("name") or data.get("task") or "?"
        short = str(role).rsplit(".", 1)[-1] if role else ""
        bare = str(name).split(" : ", 1)[-1]
        self.task = f"{short}: {bare}" if short else bare
        self.dull = bare.startswith("Validating arguments against arg spec")
        self.began = time.monotonic()
        self.stage.now(self.task)

    def _ok(self, data: dict[str, Any]) -> None:
        result = data.get("res") or {}
        host = str(data.get("host"))
        self.recap.results[host] = result
        self.outcome[host] = "changed" if result.get("changed") else "ok"
        self.stage.now(f"{self.task}  ({', '.join(sorted(self.outcome))} done)")

    def _failed(self, data: dict[str, Any]) -> None:
        result = data.get("res") or {}
        host = str(data.get("host"))
        self.recap.results[host] = result
        if data.get("ignore_errors"):
            self.outcome[host] = "failed, as it may"
            return
        message = str(result.get("msg") or result.get("stderr") or result.get("module_stderr") or result)
        self.recap.failures.append((host, self.task, message))
        self.outcome[host] = "FAILED"

    def _stats(self, data: dict[str, Any]) -> None:
        self.flush()
        names = {host for counts in data.values() if isinstance(counts, dict) for host in counts}
        for host in sorted(names):
            self.recap.hosts[host] = {
                key: int((data.get(key) or {}).get(host, 0)) for key in ("ok", "changed", "failures")
            }
            self.recap.hosts[host]["unreachable"] = int((data.get("dark") or {}).get(host, 0))

    def flush(self) -> None:
        """Print the task that has just ended."""
        failed = "FAILED" in self.outcome.values() and self.task
        if self.outcome and (failed or not (self.quiet or self.dull)):
            seconds = time.monotonic() - self.began
            by_state: dict[str, list[str]] = {}
            for host, state in sorted(self.outcome.items()):
                by_state.setdefault(state, []).append(host)
            text = " · ".join(f"{state} {' '.join(hosts)}" for state, hosts in sorted(by_state.items()))
            tell = self.stage.bad if "FAILED" in by_state else self.stage.good
            tell(f"{self.task:<68} {text}  {seconds:.1f} s")
        self.outcome = {}


def settings(place: Path, inventory: Path, collections: Path) -> Path:
    """Write the configuration that the demonstration uses, and a newcomer after it.

    What this machine's own says is not what a newcomer's would, so nothing of that counts.

    Args:
        place: The demonstration's directory; the file is ``ansible.cfg`` in it.
        inventory: The inventory file. It brings its own ssh settings, known host keys among them.
        collections: Where collections are installed.
    """
    path = place / "ansible.cfg"
    lines = [
        "[defaults]",
        f"inventory = {inventory}",
        f"collections_path = {collections}",
        f"home = {place}/ansible",
        f"local_tmp = {place}/ansible/tmp",
        "forks = 20",
        "host_key_checking = True",
        "display_skipped_hosts = False",
        "localhost_warning = False",
        "deprecation_warnings = False",
        "[inventory]",
        "inventory_unparsed_warning = False",
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


class Player:
    """Runs playbooks and modules of an installed collection against one inventory.

    Args:
        stage: The screen.
        place: A directory for everything that Ansible keeps.
        inventory: The inventory file.
        collections: Where collections are installed.
        stopping: Asked all the time; once it is true the running playbook is ended.
    """

    def __init__(
        self, stage: Stage, place: Path, inventory: Path, collections: Path, stopping: Callable[[], bool]
    ) -> None:
        self.stage, self.place, self.inventory, self.stopping = stage, place, inventory, stopping
        binaries = Path(sys.executable).parent
        self.environment = {
            "PATH": f"{binaries}:{os.environ.get('PATH', '/usr/sbin:/usr/bin:/sbin:/bin')}",
            "ANSIBLE_CONFIG": str(settings(place, inventory, collections)),
            **leftovers.mark(place),
        }

    def playbook(
        self, name: str, *, variables: dict[str, Any] | None = None, limit: str = "", quiet: bool = False
    ) -> Recap:
        """Run a playbook to its end.

        Raises:
            PlayError: A task failed or a host could not be reached; tells the first.
        """
        recap = self._run(
            {"playbook": name, "extravars": variables or {}, "limit": limit or None}, quiet=quiet
        )
        if recap.failures:
            host, task, message = recap.failures[0]
            raise PlayError(f"{name} failed on {host} in '{task}': {message}")
        return recap

    def module(self, host: str, name: str, arguments: str) -> Recap:
        """Run one module on *host*; the caller judges the result."""
        return self._run({"host_pattern": host, "module": name, "module_args": arguments}, quiet=True)

    def _run(self, what: dict[str, Any], *, quiet: bool) -> Recap:
        recap = Recap()
        narrator = _Narrator(self.stage, recap, quiet=quiet)
        private = self.place / "runner"
        private.mkdir(parents=True, exist_ok=True)
        began = time.monotonic()
        try:
            runner = ansible_runner.run(
                private_data_dir=str(private),
                inventory=str(self.inventory),
                envvars=self.environment,
                event_handler=narrator.event,
                cancel_callback=self.stopping,
                settings={"idle_timeout": 900, "job_timeout": 1800},
                quiet=True,
                **what,
            )
            said = runner.stdout.read() if runner.rc else ""
        finally:
            shutil.rmtree(private, ignore_errors=True)
        recap.seconds = time.monotonic() - began
        if runner.status == "canceled":
            raise KeyboardInterrupt
        if "playbook" in what and not recap.failures and (runner.rc != 0 or not recap.hosts):
            lines = [line.strip() for line in said.splitlines() if line.strip()]
            last = " / ".join(lines[-4:]) or "it said nothing"
            raise PlayError(f"ansible-playbook ended {runner.status} with status {runner.rc}: {last}")
        return recap
