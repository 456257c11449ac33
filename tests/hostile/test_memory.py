"""Memory is bounded whatever the size: a file of any length costs none, an entry a few hundred bytes.

Each measurement runs in a process of its own; what counts is the peak beyond that of a small image.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.hostile.attacks import END, MANIFEST, ROOT, base256, raw

MIB = 1 << 20

_MEASURE = """
import resource, sys
from gantry.build.patching import patch_archive
from gantry.images import Limits, fetch, Store
from gantry.images.validation import examine
from gantry.trust import KeyStore
from tests.support.store import paths_in
from pathlib import Path
way, path, place = sys.argv[1:]
limits = Limits(entries=2_000_000)
if way == "patch":
    patch_archive(path, path + ".patched.aci", lambda old: old, compression="gzip", limits=limits)
elif way == "validate":
    assert examine(path, limits).problems == [], examine(path, limits).problems
else:
    paths = paths_in(Path(place))
    fetch(Store(paths, limits=limits), KeyStore(paths), path, insecure=["image"])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def peak(way: str, image: Path, place: Path) -> int:
    """The most bytes that the process ever had in memory."""
    done = subprocess.run(
        [sys.executable, "-c", _MEASURE, way, str(image), str(place)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    return int(done.stdout) * 1024


def zeros(path: Path, size: int) -> Path:
    """An uncompressed image with one file of *size* zeros; takes no space on the disk."""
    with path.open("wb") as file:
        file.write(ROOT + raw(b"rootfs/zeros", size=base256(size, 12)))
        file.seek(size + -size % 512, os.SEEK_CUR)
        file.write(MANIFEST + END)
    return path


def many(path: Path, count: int) -> Path:
    """An uncompressed image with *count* empty files."""
    with path.open("wb") as file:
        file.write(ROOT)
        file.writelines(raw(b"rootfs/d/%07d" % n) for n in range(count))
        file.write(MANIFEST + END)
    return path


@pytest.mark.parametrize("way", ["validate", "fetch", "patch"])
def test_a_large_file_costs_no_memory(way: str, tmp_path: Path) -> None:
    small = peak(way, zeros(tmp_path / "small.aci", 1000), tmp_path / "a")
    assert peak(way, zeros(tmp_path / "large.aci", 300 * MIB), tmp_path / "b") < small + 24 * MIB


@pytest.mark.parametrize("way", ["validate", "fetch", "patch"])
def test_zeros_after_the_end_cost_no_memory(way: str, tmp_path: Path) -> None:
    small, large = zeros(tmp_path / "small.aci", 1000), zeros(tmp_path / "large.aci", 1000)
    os.truncate(large, 300 * MIB)
    assert peak(way, large, tmp_path / "b") < peak(way, small, tmp_path / "a") + 24 * MIB


@pytest.mark.parametrize("way", ["validate", "fetch"])
def test_an_entry_costs_a_few_hundred_bytes(way: str, tmp_path: Path) -> None:
    small = peak(way, zeros(tmp_path / "small.aci", 1000), tmp_path / "a")
    count = 50_000
    assert peak(way, many(tmp_path / "many.aci", count), tmp_path / "b") < small + 24 * MIB + 300 * count
