"""All measurements: ``make bench``. Needs root; every peer is measured in turns with us in the same run."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from types import FrameType

from tests.benchmarks import fetches, images, many, memory, noop, starts
from tests.benchmarks.here import Here, build_runtime
from tests.benchmarks.table import Row, show

from gantry.errors import GantryError

PARTS = ("pods", "images", "fetch", "noop")


def main() -> int:
    """Measure the parts that were asked for, one after the other, and print one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", help=f"what to measure, of {', '.join(PARTS)}; default: all")
    parser.add_argument("--rounds", type=int, default=15, help="rounds of the short measurements")
    parser.add_argument("--inside", type=Path, metavar="RUNTIME", help=argparse.SUPPRESS)
    options = parser.parse_args()
    parts = options.parts or PARTS
    if unknown := set(parts) - set(PARTS):
        parser.error(f"unknown part {min(unknown)}")
    if os.geteuid() != 0:
        sys.exit("bench: needs root")
    signal.signal(signal.SIGTERM, _terminate)
    if options.inside:
        print(json.dumps(_pods(options.inside, options.rounds)))
        return 0
    rows: list[Row] = []
    try:
        runtime = build_runtime()
        if "pods" in parts:
            rows += _in_a_network_of_its_own(runtime, options.rounds)
        if "images" in parts:
            rows += _images(runtime, min(options.rounds, 5))
        if "fetch" in parts:
            rows += _fetches(runtime, options.rounds)
        if "noop" in parts:
            rows += noop.measure(runtime)
    except GantryError as error:
        sys.exit(f"bench: {error}")
    finally:
        # What was measured before something failed was measured.
        if rows:
            show(rows)
    return 0


def _terminate(_number: int, _frame: FrameType | None) -> None:
    sys.exit("bench: terminated; what was made is removed")  # an exception: it unwinds through the clean-up


def _pods(runtime: Path, rounds: int) -> list[Row]:
    """What starts pods on this very machine."""

    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    with tempfile.TemporaryDirectory(prefix="gantry-bench-", dir="/var/tmp") as directory:
        here = Here(Path(directory), runtime)
        podman = starts.Podman(here.directory / "podman")
        rows = starts.measure(here, rounds, podman) + memory.measure(here)
        return rows + many.measure(here, rounds, podman)


def _images(runtime: Path, rounds: int) -> list[Row]:
    """What needs no network: packing, checking and laying down."""
    with tempfile.TemporaryDirectory(prefix="gantry-bench-", dir="/var/tmp") as directory:
        return images.measure(Here(Path(directory), runtime), rounds)


def _fetches(runtime: Path, rounds: int) -> list[Row]:
    """What comes from a server on this machine."""
    with tempfile.TemporaryDirectory(prefix="gantry-bench-", dir="/var/tmp") as directory:
        return fetches.measure(Here(Path(directory), runtime), rounds)


def _in_a_network_of_its_own(runtime: Path, rounds: int) -> list[Row]:
    """:func:`_pods` in a process that touches nothing of this machine's network and leaves no mount in it.

    The rest stays outside: test hosts have a network namespace of their own.
    """
    module = [sys.executable, "-m", "tests.benchmarks", f"--inside={runtime}", f"--rounds={rounds}"]
    with subprocess.Popen(["unshare", "--net", "--mount", *module], stdout=subprocess.PIPE) as inside:
        try:
            told = inside.communicate()[0]
        except BaseException:
            inside.terminate()
            raise
    if inside.returncode:
        sys.exit(inside.returncode)  # it has said why
    return [Row(*row) for row in json.loads(told)]


if __name__ == "__main__":
    sys.exit(main())
