"""How long a pod takes from the command to its end: /bin/true, beside runc and podman."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from tests.benchmarks.here import IMAGE, Here, busybox, quiet, run
from tests.benchmarks.table import Row, in_turns


def measure(here: Here, rounds: int, podman: Podman) -> list[Row]:
    """Rows for ``run-prepared`` and ``run``."""
    alone = iter([here.prepare("--net=none") for _ in range(rounds + 1)])
    connected = iter([here.prepare("--net=default") for _ in range(rounds + 1)])
    bundle = _bundle(here.directory / "bundle")
    runc = shutil.which("runc") or "/usr/sbin/runc"
    numbers = iter(range(1000))
    state = here.directory / "runc"
    medians = in_turns(
        {
            "runc": lambda: quiet(runc, "--root", state, "run", "--bundle", bundle, f"bench{next(numbers)}"),
            "prepared, none": lambda: quiet(*here.command("run-prepared", next(alone))),
            "prepared, default": lambda: quiet(*here.command("run-prepared", next(connected))),
            "run": lambda: quiet(*here.command("run", "--net=none", "--pull-policy=never", IMAGE)),
            "podman": podman.run_true,
        },
        rounds,
    )
    default = medians["prepared, default"] - medians["prepared, none"]
    return [
        _row("run-prepared /bin/true : runc run", medians["prepared, none"], medians["runc"], "<= 3"),
        _row("run /bin/true : podman run, no network", medians["run"], medians["podman"], "<= 0.6"),
        Row("--net=default adds", f"{default:.0f} ms", "", "", "<= 30 ms"),
    ]


def _row(work: str, ours: float, peer: float, target: str) -> Row:
    return Row(work, f"{ours:.0f} ms", f"{peer:.0f} ms", f"{ours / peer:.2f}", target)


def _bundle(directory: Path) -> Path:
    """What runc runs by itself: the same program in namespaces of its own."""
    busybox(directory / "rootfs")
    run("runc", "spec", "--bundle", directory)
    config = json.loads((directory / "config.json").read_text())
    config["process"].update(terminal=False, args=["/bin/true"], rlimits=[])
    config["root"]["readonly"] = False
    (directory / "config.json").write_text(json.dumps(config))
    return directory


class Podman:
    """podman with a store of its own and an image of busybox."""

    def __init__(self, directory: Path) -> None:
        busybox(directory / "rootfs")
        self._command = (
            shutil.which("podman") or "/usr/bin/podman",
            f"--root={directory / 'store'}",
            f"--runroot={directory / 'run'}",
            "--cgroup-manager=cgroupfs",
            "--events-backend=file",
            "--runtime=runc",
        )
        run("tar", "-C", directory / "rootfs", "-cf", directory / "rootfs.tar", ".")
        run(*self._command, "import", directory / "rootfs.tar", "bench")

    def run_true(self) -> None:
        """Start /bin/true in a container without a network, and remove it."""
        quiet(*self.argv())

    def argv(self) -> tuple[str, ...]:
        """The command line for that."""
        limits = ("--ulimit=nofile=1024:20000", "--ulimit=nproc=4096:4096")
        return (*self._command, "run", "--rm", "--network=none", *limits, "bench", "/bin/true")
