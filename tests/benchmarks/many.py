"""Many pods: list and gc of a hundred, fifty starts at once beside podman, a hundred that run together."""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from pathlib import Path

from tests.benchmarks.here import IMAGE, Here, quiet
from tests.benchmarks.starts import Podman
from tests.benchmarks.table import Row, milliseconds

HUNDRED, FIFTY = 100, 50


def measure(here: Here, rounds: int, podman: Podman) -> list[Row]:
    """Rows for many pods at once; *podman* has its image already."""
    run = here.command("run", "--net=none", "--pull-policy=never", IMAGE)
    once = milliseconds
    pairs = min(rounds, 3)
    ours = statistics.median(once(lambda: _together([run] * FIFTY)) for _ in range(pairs))
    peer = statistics.median(once(lambda: _together([podman.argv()] * FIFTY)) for _ in range(pairs))
    while (there := _count(here)) < HUNDRED:
        _together([run] * min(FIFTY, HUNDRED - there))
    listing = statistics.median(once(lambda: quiet(*here.command("list"))) for _ in range(max(3, rounds)))
    count = _count(here)
    collecting = once(lambda: quiet(*here.command("gc", "--grace-period=0")))
    return [
        Row(
            f"{FIFTY} starts at once : podman run, no network",
            f"{ours / 1000:.1f} s",
            f"{peer / 1000:.1f} s",
            f"{ours / peer:.2f}",
            "<= 1",
        ),
        Row(f"list of {count} pods", f"{listing:.0f} ms", "", "", "< 100 ms per 100"),
        Row(f"gc of {count} exited pods", f"{collecting / 1000:.2f} s", "", "", "< 2 s per 100"),
        *_running(here),
    ]


def _together(commands: list[tuple[str | Path, ...]]) -> None:
    processes = [
        subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for command in commands
    ]
    for process in processes:
        if process.wait():
            raise SystemExit(f"bench: {process.args}: exit {process.returncode}")


def _count(here: Here) -> int:
    return len(here("list", "--no-legend").splitlines())


def _running(here: Here) -> list[Row]:
    """A hundred pods together: how much memory of the machine that takes."""
    uuids = [here.prepare("--net=none", words=("--exec=/bin/sleep", "--", "1000")) for _ in range(HUNDRED)]
    before = _available()
    processes = [
        subprocess.Popen(
            list(map(str, here.command("run-prepared", uuid))),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for uuid in uuids
    ]
    try:
        deadline = time.monotonic() + 300
        while here("list", "--no-legend").count("\trunning\t") < HUNDRED:
            if time.monotonic() > deadline or any(process.poll() is not None for process in processes):
                raise SystemExit("bench: not all of the pods run")
        used = before - _available()
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait()
    return [Row(f"{HUNDRED} pods together", f"{used >> 20} MB", "", "", "4 GB")]


def _available() -> int:
    with open("/proc/meminfo", encoding="ascii") as file:
        line = next(line for line in file if line.startswith("MemAvailable:"))
    os.sync()
    return int(line.split()[1]) * 1024
