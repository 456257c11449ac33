"""All measurements: ``make bench``. Needs root; compares with runc and podman in the same run."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

from tests.benchmarks import memory, starts
from tests.benchmarks.here import Here, build_runtime
from tests.benchmarks.table import show


def main() -> int:
    """Measure in a network namespace of our own, so that nothing of this machine's network is touched."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("bench: needs root")
    if "GANTRY_BENCH_INSIDE" not in os.environ:
        os.environ["GANTRY_BENCH_INSIDE"] = str(build_runtime())
        os.execvp(
            "unshare",
            ["unshare", "--net", "--mount", sys.executable, "-m", "tests.benchmarks", *sys.argv[1:]],
        )
    os.system("ip link set lo up")
    with tempfile.TemporaryDirectory(prefix="gantry-bench-", dir="/var/tmp") as directory:
        here = Here(Path(directory), Path(os.environ["GANTRY_BENCH_INSIDE"]))
        rows = starts.measure(here, options.rounds)
        rows += memory.measure(here)
        show(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
