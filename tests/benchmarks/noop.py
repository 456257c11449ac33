"""A second run that has nothing to do: fifty pods by one task, beside a loop over podman_container.

Both run on one fresh host, in turns, and both must report that nothing changed. Each is timed twice: the task
alone, as Ansible's own junit callback saw it, and the whole of ansible-playbook, whose start they share.

What further hosts cost the control node is measured with an inventory that names the one host several times:
processor time of this side only, so that it does not matter that the other side is shared.
"""

from __future__ import annotations

import json
import os
import re
import resource
import statistics
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import yaml
from tests.benchmarks.here import IMAGE, ROOT, Here, run
from tests.benchmarks.table import Row

from testhosts import cache, fleet
from testhosts.spec import parse

PODS = 50
ROUNDS = 3
TARGET = ">= 20x"
FLEETS = (1, 10, 30)
SPEC = {"hosts": [{"name": "bench", "packages": ["podman"]}]}
SLEEP = ["/bin/sleep", "86400"]

# The peer comes in Ansible's own distribution; only its collection is unpacked from it.
PEER = "ansible==12.3.0 --hash=sha256:cd156f82fa87f7a899212b0efa9f7ca3a24d609212de9f78428a572eb01e5414"
PEER_PATH = "ansible_collections/containers/podman/"

# podman on a machine: cgroups cannot be systemd's there, and the root is an overlay that can hold no other.
CONTAINERS_CONF = '[engine]\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\n'
STORAGE_CONF = """\
[storage]
driver = "overlay"
graphroot = "/var/lib/gantry/podman"
runroot = "/run/containers/storage"
"""

Tasks = list[dict[str, Any]]


class Spent(NamedTuple):
    """Seconds that a run took: its task, all of ansible-playbook, and processor time on the control node."""

    task: float
    whole: float
    processor: float


def measure(runtime: Path) -> list[Row]:
    """Rows for the task, for the whole run, and for what the run costs the control node."""
    with tempfile.TemporaryDirectory(prefix="gantry-bench-", dir="/var/tmp") as name, _host(name) as host:
        directory = Path(name)
        (directory / "here").mkdir()
        here = Here(directory / "here", runtime)
        player = Player(directory, host)
        player.play("install", _install(here), roles=["appc.gantry.runtime"])
        plays = {"ours": _ours(), "peer": _peer()}
        for who, tasks in plays.items():
            player.play(who, tasks)
        spent: dict[str, list[Spent]] = {who: [] for who in plays}
        for number in range(ROUNDS + 1):
            for who in plays:
                taken = player.again(who)
                if number:
                    spent[who].append(taken)
        rounds = [[player.again("ours", hosts).processor for hosts in FLEETS] for _ in range(ROUNDS)]
        fleets = [statistics.median(values) for values in zip(*rounds, strict=True)]
    ours, peer = (Spent(*map(statistics.median, zip(*spent[who], strict=True))) for who in ("ours", "peer"))
    work = f"no-op run of {PODS} pods : loop over podman_container"
    return [
        _row(f"{work}, the task", ours.task, peer.task, TARGET),
        _row(f"{work}, all of ansible-playbook", ours.whole, peer.whole, TARGET),
        _row(f"{work}, processor time of the control node", ours.processor, peer.processor, ""),
        _further(fleets),
    ]


def _row(work: str, ours: float, peer: float, target: str) -> Row:
    return Row(work, f"{ours:.2f} s", f"{peer:.2f} s", f"{peer / ours:.1f}x", target)


def _further(seconds: list[float]) -> Row:
    """How much of the control node each further host takes: early ones beside late ones."""
    early, late = (
        (seconds[i + 1] - seconds[i]) / (FLEETS[i + 1] - FLEETS[i]) for i in range(len(FLEETS) - 1)
    )
    sizes = ", ".join(map(str, FLEETS))
    return Row(
        f"no-op run of {sizes} hosts, processor time of the control node",
        f"{', '.join(f'{value:.1f}' for value in seconds)} s",
        "",
        f"{late / early:.2f} (a late host : an early one)",
        "flat",
    )


@contextmanager
def _host(directory: str) -> Iterator[fleet.Fleet]:
    state = Path(directory) / "fleet"
    try:
        yield fleet.create(parse(SPEC), state)
    finally:
        fleet.destroy(state)


class Player:
    """ansible-playbook with our collection as it is built and the peer's as it is released."""

    def __init__(self, directory: Path, host: fleet.Fleet) -> None:
        self._directory, self._host = directory, host
        builder = ROOT / "scripts/build_collection.py"
        run(sys.executable, builder, "--tree-only", f"--out={directory / 'build'}")
        (directory / "ansible.cfg").write_text("[defaults]\n")
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")},
            "ANSIBLE_COLLECTIONS_PATH": f"{directory / 'build'}:{_peer_collection()}",
            "ANSIBLE_CONFIG": str(directory / "ansible.cfg"),
            "ANSIBLE_HOME": str(directory / "ansible"),
            "ANSIBLE_CALLBACKS_ENABLED": "ansible.builtin.junit",
        }

    def play(self, name: str, tasks: Tasks, roles: list[str] | None = None) -> None:
        """Write a playbook and run it for the first time."""
        play = {"hosts": "all", "gather_facts": False, "roles": roles or [], "tasks": tasks}
        self._playbook(name).write_text(json.dumps([play]))
        self._run(name)

    def again(self, name: str, hosts: int = 1) -> Spent:
        """Run a playbook of one task once more, on the host by *hosts* names: it must change nothing."""
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        told, seconds = self._run(name, hosts)
        whole, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
        recap = re.findall(r"\bok=(\d+) +changed=(\d+) ", told)
        if recap != [("1", "0")] * hosts or len(seconds) != hosts:
            sys.exit(f"bench: the second run of {name} was not one task that changes nothing:\n{told}")
        used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return Spent(max(seconds), whole, used)

    def _inventory(self, hosts: int) -> Path:
        """The fleet's own inventory, in which its host has *hosts* names."""
        document = yaml.safe_load(self._host.inventory.read_text())
        (host,) = document["all"]["hosts"].values()
        document["all"]["hosts"] = {f"bench{number}": host for number in range(hosts)}
        path = self._directory / "inventory.json"
        path.write_text(json.dumps(document))
        return path

    def _playbook(self, name: str) -> Path:
        return self._directory / f"{name}.yml"

    def _run(self, name: str, hosts: int = 1) -> tuple[str, list[float]]:
        """What ansible-playbook said, and the seconds of each task."""
        command = Path(sys.executable).with_name("ansible-playbook")
        with tempfile.TemporaryDirectory(dir=self._directory) as junit:
            environment = {**self._environment, "JUNIT_OUTPUT_DIR": junit}
            told = run(command, "-i", self._inventory(hosts), self._playbook(name), env=environment)
            (report,) = Path(junit).glob("*.xml")
            cases = ElementTree.parse(report).iter("testcase")
            return told, [float(case.get("time") or "nan") for case in cases]


def _peer_collection() -> Path:
    """Where Ansible finds the collection containers.podman, fetched once."""

    def make(target: Path, scratch: Path) -> None:
        (scratch / "requirements.txt").write_text(f"{PEER}\n")
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        wanted = ["--require-hashes", "--requirement", str(scratch / "requirements.txt")]
        cache.run([*pip, *wanted, "--dest", str(scratch)], what="fetching containers.podman")
        (wheel,) = scratch.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(target, [name for name in archive.namelist() if name.startswith(PEER_PATH)])

    return cache.ensure(f"containers.podman-{cache.key(PEER, PEER_PATH)}", make)


def _install(here: Here) -> Tasks:
    """Tasks that bring the image to both: as a signed ACI to ours, as a plain tar to podman."""
    layer = here.directory / "layer.tar"
    run("tar", "-C", here.directory / "layout/rootfs", "-cf", layer, ".")
    sources = {
        "/etc/containers/containers.conf": {"content": CONTAINERS_CONF},
        "/etc/containers/storage.conf": {"content": STORAGE_CONF},
        "/srv/layer.tar": {"src": str(layer)},
        "/srv/bench.aci": {"src": str(here.directory / "bench.aci")},
        "/srv/bench.aci.asc": {"src": str(here.directory / "bench.aci.asc")},
    }
    public = (here.directory / "public.asc").read_text()
    trust = {"prefix": IMAGE, "fingerprint": here.fingerprint, "key": public}
    return [
        *(
            {"ansible.builtin.copy": {**source, "dest": path, "mode": "0644"}}
            for path, source in sources.items()
        ),
        {"ansible.builtin.command": "podman import /srv/layer.tar bench"},
        {"appc.gantry.apply": {"trust": [trust], "images": [{"name": "/srv/bench.aci"}]}},
    ]


def _ours() -> Tasks:
    app = {"name": "sleep", "image": IMAGE, "exec": SLEEP}
    pods = [{"name": f"pod{number}", "net": ["none"], "apps": [app]} for number in range(PODS)]
    return [{"name": "fifty pods", "appc.gantry.apply": {"pods": pods}}]


def _peer() -> Tasks:
    container = {
        "name": "pod{{ item }}", "image": "localhost/bench:latest", "command": SLEEP, "network": ["none"],
        "state": "started",
    }  # fmt: skip
    loop = list(range(PODS))
    return [{"name": "fifty containers", "containers.podman.podman_container": container, "loop": loop}]
