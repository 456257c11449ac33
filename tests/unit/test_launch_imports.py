"""The launch path stays lean: which modules it imports and how many programs it starts are pinned.

A change here is a change of docs/decisions/0006: measure before widening a set.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.pods import RUNTIME, Kit, make_kit

from gantry.pods import get

# What ctypes, signal and socket bring with them is theirs; what is listed is imported by our choice.
OURS = {
    "gantry",
    "gantry.audit",
    "gantry.errors",
    "gantry.linux",
    "gantry.linux.cgroups",
    "gantry.linux.held",
    "gantry.linux.lean",
    "gantry.linux.namespaces",
    "gantry.linux.netlink",
    "gantry.linux.programs",
    "gantry.linux.syscalls",
    "gantry.pods",
    "gantry.pods.arguments",
    "gantry.pods.bundle",
    "gantry.pods.ending",
    "gantry.pods.identity",
    "gantry.pods.launch",
    "gantry.pods.mounting",
    "gantry.pods.output",
    "gantry.pods.records",
    "gantry.pods.sources",
    "gantry.pods.state",
    "gantry.pods.supervisor",
    "gantry.sandbox",
    "gantry.stage1",
    "gantry.stage1.flavor",
}
FLAVOR = {"gantry.stage1.oci"}
WITH_NETWORK = {"gantry.network", "gantry.network.wire"}
FOREIGN = {"fcntl", "ctypes", "socket", "signal", "time", "struct"}
NEVER = {
    "argparse",
    "asyncio",
    "dataclasses",
    "hashlib",
    "importlib.metadata",
    "inspect",
    "json",
    "logging",
    "msgspec",
    "pathlib",
    "pyroute2",
    "re",
    "shutil",
    "subprocess",
    "tempfile",
    "threading",
    "typing",
    "urllib",
}
WATCH = """
import sys
sys.path.insert(0, {runtime!r})
started = []
def watch(name, args):
    if name in ("os.posix_spawn", "os.fork", "os.exec"):
        started.append(str(args[0]) if args else name)
sys.addaudithook(watch)
from gantry.pods.launch import main
status = main(sys.argv[1:])
modules = sorted(sys.modules)
import json
with open({report!r}, "w") as file:
    json.dump({{"modules": modules, "started": started}}, file)
sys.exit(status)
"""


def ours(modules: list[str]) -> set[str]:
    return {name for name in modules if name.split(".")[0] == "gantry"}


def test_importing_the_launcher_imports_no_more_than_this() -> None:
    code = (
        f"import sys; sys.path.insert(0, {RUNTIME!r}); import gantry.pods.launch; print(*sorted(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True
    )
    modules = done.stdout.split()
    assert ours(modules) == OURS
    assert NEVER & set(modules) == set()
    assert set(modules) >= FOREIGN


@pytest.fixture
def kit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kit]:
    yield from make_kit(tmp_path, monkeypatch)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
@pytest.mark.parametrize("network", ["none", "host"])
def test_a_whole_launch_imports_this_and_starts_one_program(kit: Kit, tmp_path: Path, network: str) -> None:
    seen = launch_watched(kit, tmp_path, network)
    assert ours(seen["modules"]) == OURS | FLAVOR
    assert [Path(word).name for word in seen["started"] if "/" in word] == ["runc"]
    assert len(seen["started"]) <= 2  # and one fork: the pause process


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_launch_with_a_network_adds_the_wiring_and_nft(kit: Kit, tmp_path: Path) -> None:
    seen = launch_watched(kit, tmp_path, "default", "unshare", "-n", "--")
    assert ours(seen["modules"]) == OURS | FLAVOR | WITH_NETWORK
    # Once before the app, for its rules, and once after it, without them.
    assert [Path(word).name for word in seen["started"] if "/" in word] == ["nft", "runc", "nft"]
    assert len(seen["started"]) <= 4


def launch_watched(kit: Kit, tmp_path: Path, network: str, *prefix: str) -> dict[str, list[str]]:
    uuid = kit.prepare(kit.shell("exit 3"), networks=[network])
    report = tmp_path / "report.json"
    code = WATCH.format(runtime=RUNTIME, report=str(report))
    argv = [*prefix, sys.executable, "-I", "-S", "-c", code, *kit.argv("run-prepared", uuid)[5:]]
    assert subprocess.run(argv, timeout=30, check=False).returncode == 3
    seen: dict[str, list[str]] = json.loads(report.read_text())
    assert NEVER & set(seen["modules"]) == set()
    assert get(kit.paths, uuid).exit_status == 3
    return seen
