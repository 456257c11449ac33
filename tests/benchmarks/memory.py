"""What a running pod of one app costs in memory beside the app: PSS summed over Gantry's own processes."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from tests.benchmarks.here import IMAGE, Here, quiet
from tests.benchmarks.table import Row

PATIENCE = 20.0
APP = "sleep"


def measure(here: Here) -> list[Row]:
    """One row for a pod in the foreground, one for a pod as systemd starts it (the launcher is gone)."""
    saved = here.directory / "uuid"
    words = ("--pull-policy=never", IMAGE, "--exec=/bin/sleep", "--", "60")
    with subprocess.Popen(
        here.command("run", "--net=none", f"--uuid-file-save={saved}", *words), stdout=subprocess.DEVNULL
    ) as stay:
        uuid = _wait(lambda: saved.read_text() if saved.exists() else "")
        staying = _helpers(here, uuid, stay.pid)
        here("stop", "--force", uuid)
    uuid = here.prepare("--net=none", words=("--exec=/bin/sleep", "--", "60"))
    quiet(*here.command("run-prepared", "--leave", uuid))
    leaving = _helpers(here, uuid, None)
    here("stop", "--force", uuid)
    return [
        Row("memory of a running pod, in front", f"{staying / 1024:.1f} MB", "", "", "<= 8 MB"),
        Row("memory of a running pod, under systemd", f"{leaving / 1024:.1f} MB", "", "", "<= 3 MB"),
    ]


def _wait(find: Callable[[], str]) -> str:
    deadline = time.monotonic() + PATIENCE
    while not (found := find()):
        if time.monotonic() > deadline:
            raise SystemExit("bench: the pod did not start")
        time.sleep(0.05)  # for another process; nothing of what is measured happens here
    return found


def _helpers(here: Here, uuid: str, launcher: int | None) -> int:
    """KiB of PSS of every process that belongs to the pod and is not its app."""
    _wait(lambda: "yes" if APP in _processes(here, uuid, launcher) else "")
    return sum(pss for name, pss in _processes(here, uuid, launcher).items() if name != APP)


def _processes(here: Here, uuid: str, launcher: int | None) -> dict[str, int]:
    """Names and PSS in KiB of the launcher, the pause process and all in the pod's control groups."""
    sandbox = here.directory / "data/pods/run" / uuid / "sandbox.json"
    others = {launcher, json.loads(sandbox.read_text())["pause_pid"] if sandbox.exists() else None}
    found: dict[str, int] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if int(entry.name) in others or uuid in (entry / "cgroup").read_text():
                name = (entry / "comm").read_text().strip()
                rollup = (entry / "smaps_rollup").read_text()
                pss = next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
                found[name] = found.get(name, 0) + pss
        except (OSError, StopIteration):
            continue  # it ended meanwhile
    return found
