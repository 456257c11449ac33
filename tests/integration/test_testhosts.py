"""Fleets of real hosts: they boot, find each other, keep to themselves, and leave nothing behind."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from testhosts import cgroups, fleet, network, roots, seed, ssh
from testhosts.errors import HostsError
from testhosts.spec import parse

pytestmark = [pytest.mark.root, pytest.mark.machines]

TWO = {
    "hosts": [
        {"name": "one", "suite": "bookworm", "aliases": ["example.com"]},
        {"name": "two", "suite": "trixie"},
    ]
}
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Traces:
    """What a fleet may leave on this machine, found by its own names only: others work here, too."""

    mounts: frozenset[str]
    processes: frozenset[str]
    groups: frozenset[str]
    namespaces: frozenset[str]
    files: frozenset[str]

    def any(self) -> bool:
        return any((self.mounts, self.processes, self.groups, self.namespaces, self.files))


def traces(directory: Path, fleet_id: str, netns: str = "") -> Traces:
    """Everything that carries the fleet's directory, id, or network namespace (its inode)."""
    mounts: set[str] = set()
    processes: set[str] = set()
    namespaces: set[str] = set()
    for process in Path("/proc").glob("[0-9]*"):
        if process.name == str(os.getpid()):
            continue
        try:
            if process.joinpath("stat").read_text().rpartition(")")[2].split()[0] in "ZX":
                continue
            command = process.joinpath("cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            own = process.joinpath("cgroup").read_text()
            ours = str(directory) in command or fleet_id in command
            if ours or f"testhosts-{fleet_id}" in own:
                processes.add(f"{process.name} {command}")
            if netns and process.joinpath("ns/net").readlink().name == netns:
                namespaces.add(f"{process.name} {command}")
            for line in process.joinpath("mountinfo").read_text().splitlines():
                if str(directory) in line.split()[4]:
                    mounts.add(line.split()[4])
        except OSError:
            continue  # it ended meanwhile
    groups = {str(path) for root in cgroups.hierarchies() for path in root.glob(f"testhosts-{fleet_id}*")}
    places = [directory, fleet.RUN / fleet_id]
    files = {str(path) for path in places if path.exists()}
    return Traces(*map(frozenset, (mounts, processes, groups, namespaces, files)))


def wait_for(condition: Callable[[], object], what: str, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.02)


@pytest.fixture(scope="module", autouse=True)
def base_roots() -> None:
    roots.prepare([roots.Base("bookworm"), roots.Base("trixie")])


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    directory = tmp_path / "fleet"
    yield directory
    fleet.destroy(directory)


def test_a_fleet_boots_works_and_leaves_nothing(place: Path) -> None:
    links_before = sorted(os.listdir("/sys/class/net"))
    made = fleet.create(parse(TWO), place)
    # Kept open: else its number might soon be another namespace's.
    leader = (place / "hosts/one/process").read_text().split()[0]
    keep = os.open(f"/proc/{leader}/ns/net", os.O_RDONLY)
    netns = f"net:[{os.fstat(keep).st_ino}]"

    # The counters see what is there, or their zero would mean nothing.
    during = traces(place, made.id, netns)
    assert during.mounts
    assert during.groups
    assert during.files
    assert len(during.processes) > 10
    assert len(during.namespaces) >= 2
    assert sorted(os.listdir("/sys/class/net")) == links_before, "this machine got an interface"

    def on(name: str, script: str) -> str:
        done = ssh.run(made.ssh_config, name, script, timeout=30)
        assert done.returncode == 0, f"{name}: {script}: {done.stderr}"
        return done.stdout.strip()

    for name, version, suite in (("one", "12", "bookworm"), ("two", "13", "trixie")):
        assert on(name, "hostname") == name
        assert on(name, "systemctl is-system-running") == "running"
        assert on(name, ". /etc/os-release; echo $VERSION_ID $VERSION_CODENAME") == f"{version} {suite}"
        assert on(name, "getent hosts example.com | cut -d' ' -f1") == "10.77.0.11"
        assert on(name, "stat -c %a /root /root/.ssh /root/.ssh/authorized_keys").split() == [
            "700",
            "700",
            "600",
        ]
        # No way out, told at once: a test that reaches for the world must fail, not wait.
        began = time.monotonic()
        assert on(name, "curl -s -m 20 http://192.0.2.1/ || echo $?") == "7"
        assert time.monotonic() - began < 5
        # A guest must not be able to set this machine's clock or kernel; these would set what is set already.
        assert on(name, 'date -s "@$(date +%s)" > /dev/null 2>&1 || echo refused') == "refused"
        setting = "/proc/sys/kernel/panic"
        assert on(name, f"(cat {setting} > {setting}) 2> /dev/null || echo refused") == "refused"
        on(name, "echo 1 > /proc/sys/net/ipv4/ip_forward")
        assert on(name, "awk '/^CapInh/ {print $2}' /proc/1/status").strip("0") == ""
        # The OCI runtimes get what they need: overlays on /var/lib/gantry and every cgroup controller.
        on(
            name,
            "cd /var/lib/gantry && mkdir l u w m && mount -t overlay -o lowerdir=l,upperdir=u,workdir=w o m",
        )
        on(name, "test -w /sys/fs/cgroup/memory || grep -q memory /sys/fs/cgroup/cgroup.controllers")
    assert on("one", "python3 -m http.server 8000 >/dev/null 2>&1 & echo started") == "started"
    wait_for(lambda: _answers(made.netns), "the web server on one")
    assert "200" in on("two", "curl -s -o /dev/null -w '%{http_code}' http://example.com:8000/")

    with pytest.raises(HostsError, match="is not empty"):
        fleet.create(parse(TWO), place)
    assert on("one", "hostname") == "one", "a refused create has hurt what was there"

    fleet.destroy(place)
    assert not traces(place, made.id, netns).any(), traces(place, made.id, netns)
    os.close(keep)
    assert fleet.destroy(place) is False


def _answers(netns: Path) -> bool:
    try:
        return network.get(netns, "10.77.0.11", 8000, "/")[0] == 200
    except HostsError:
        return False


def test_fleets_with_the_same_names_and_addresses_do_not_meet(tmp_path: Path) -> None:
    places = [tmp_path / "a", tmp_path / "b"]
    commands = [start_create(tmp_path, place) for place in places]
    try:
        for command in commands:
            assert command.wait(120) == 0, command.stderr.read() if command.stderr else ""
        first, second = map(fleet.load, places)
        for made, text in ((first, "first"), (second, "second")):
            assert ssh.run(made.ssh_config, "one", f"echo {text} > /marker").returncode == 0
        assert ssh.run(first.ssh_config, "one", "cat /marker").stdout == "first\n"
        fleet.destroy(places[0])
        assert ssh.run(second.ssh_config, "one", "cat /marker").stdout == "second\n"
        assert not traces(places[0], first.id).any()
    finally:
        for command in commands:
            command.communicate()
        for directory in places:
            fleet.destroy(directory)
    assert not traces(places[1], second.id).any()


def start_create(tmp_path: Path, directory: Path) -> subprocess.Popen[str]:
    spec = tmp_path / "spec.yml"
    spec.write_text("hosts: [{name: one}, {name: two, suite: trixie}]\n")
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}/molecule:{ROOT}/runtime"}
    return subprocess.Popen(
        [sys.executable, "-m", "testhosts", "create", "--state", str(directory), str(spec)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


@pytest.mark.parametrize("attempt", range(8))
def test_a_creator_killed_at_any_moment_is_cleaned_up_after(
    tmp_path: Path, place: Path, attempt: int
) -> None:
    command = start_create(tmp_path, place)
    try:
        wait_for((place / "state.json").exists, "the record")
        # From the first step to hosts that are almost up; half of them while programs of its own still run.
        time.sleep(random.uniform(0, 0.08) if attempt % 2 else random.uniform(0, 1.2))
    finally:
        command.kill()
        command.communicate()
    made = fleet.load(place)
    assert fleet.destroy(place) is True
    # A client that the creator has left behind ends when it notices that its host is gone.
    wait_for(lambda: not traces(place, made.id).any(), f"nothing left of {place}")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_creator_cleans_up_itself(tmp_path: Path, place: Path, number: signal.Signals) -> None:
    for _attempt in range(5):
        command = start_create(tmp_path, place)
        try:
            wait_for((place / "hosts/two/process").exists, "the second host")
            fleet_id = fleet.load(place).id
            command.send_signal(number)
            _out, told = command.communicate(timeout=60)
        finally:
            command.kill()
            command.communicate()
        if command.returncode:
            break
        fleet.destroy(place)  # on a busy machine the hosts may be up before the signal arrives: once more
    assert command.returncode == 130
    assert told.splitlines()[-1] == "testhosts: interrupted; everything made so far is removed"
    assert not traces(place, fleet_id).any(), traces(place, fleet_id)


def test_a_host_that_stands_still_goes_away_as_well(place: Path) -> None:
    made = fleet.create(parse({"hosts": [{"name": "one"}]}), place)
    group = "/sys/fs/cgroup/freezer/f"
    script = f"mkdir {group} && (sleep 1000 > /dev/null 2>&1 & echo $! > {group}/cgroup.procs)"
    if Path("/sys/fs/cgroup/freezer").is_dir():
        done = ssh.run(made.ssh_config, "one", f"{script} && echo FROZEN > {group}/freezer.state", timeout=20)
        assert done.returncode == 0, done.stderr
    supervisor = int((place / "hosts/one/process").read_text().split()[0])
    children = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()
    for pid in [*map(int, children), supervisor]:
        os.kill(pid, signal.SIGSTOP)
    began = time.monotonic()
    fleet.destroy(place)
    assert time.monotonic() - began < 30
    assert not traces(place, made.id).any()


def test_a_fleet_whose_directory_was_removed_under_it_can_still_be_destroyed(tmp_path: Path) -> None:
    place = tmp_path / "fleet"
    made = fleet.create(parse({"hosts": [{"name": "one"}]}), place)
    (place / "state.json").unlink()
    assert fleet.destroy(place) is True
    assert not traces(place, made.id).any(), traces(place, made.id)


def test_a_fleet_whose_record_cannot_be_read_can_still_be_destroyed(place: Path) -> None:
    made = fleet.create(parse({"hosts": [{"name": "one"}]}), place)
    (place / "state.json").write_text('{"version": 99, "hosts": {}}')
    assert fleet.destroy(place) is True
    assert not traces(place, made.id).any(), traces(place, made.id)


def test_a_host_that_does_not_come_up_is_told_with_its_last_words(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seed, "INIT_PATH", "/bin/false")
    with pytest.raises(HostsError, match="one ended while it was booting"):
        fleet.create(parse({"hosts": [{"name": "one"}]}), place)
    assert not place.exists()


def test_where_the_state_cannot_hold_an_upper_layer_the_host_lives_in_memory(tmp_path: Path) -> None:
    layers = [tmp_path / name for name in ("lower", "upper", "work", "overlay")]
    for path in layers:
        path.mkdir()
    lower, upper, work, overlay = layers
    options = f"lowerdir={lower},upperdir={upper},workdir={work}"
    subprocess.run(["mount", "-t", "overlay", "-o", options, "testhosts-test", str(overlay)], check=True)
    try:
        place = overlay / "fleet"
        made = fleet.create(parse({"hosts": [{"name": "one"}]}), place)
        script = "stat -f -c %T /var/lib/gantry; cd /var/lib/gantry && mkdir l u w m && "
        script += "mount -t overlay -o lowerdir=l,upperdir=u,workdir=w o m && echo mounted"
        done = ssh.run(made.ssh_config, "one", script)
        assert done.stdout.split() == ["tmpfs", "mounted"], done.stderr
        fleet.destroy(place)
        assert not traces(place, made.id).any()
    finally:
        subprocess.run(["umount", str(overlay)], check=True)
