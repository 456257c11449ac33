"""Both OCI runtimes on booted hosts of both Debian releases: which is chosen, and that each does its work."""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from testhosts import fleet
from testhosts.spec import parse

pytestmark = [pytest.mark.root, pytest.mark.machines, pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[2]
#: What runs on the host: the kit of the other tests, on the host's own Python.
PRELUDE = """
import json, os, statistics, sys, time, types
from pathlib import Path
pytest = sys.modules["pytest"] = types.ModuleType("pytest")
pytest.MonkeyPatch = object
sys.path[:0] = ["/srv/gantry/runtime", "/srv/gantry"]
from tests.support.pods import FakeStore, Kit, groups_of, until
from gantry.appc.isolators import make
from gantry.linux import cgroups
from gantry.pods import collect, compile as compiling, get, remove, stop
from gantry.stage1 import choosing
from gantry.stage1.oci import choose
import tempfile
os.makedirs("/var/lib/gantry", exist_ok=True)  # the only place that is no overlay
kit = Kit(where := Path(tempfile.mkdtemp(dir="/var/lib/gantry")), FakeStore(where / "trees"))
compiling.render = kit.store.render
chosen = choose(cgroups.layout())
choosing.choose_runtime = lambda layout: sys.argv[1]
"""


class Machine:
    """A booted host that has the runtime's sources."""

    def __init__(self, directory: Path, suite: str) -> None:
        self.fleet = fleet.create(parse({"hosts": [{"name": "one", "suite": suite}]}), directory / "fleet")
        data = io.BytesIO()
        with tarfile.open(fileobj=data, mode="w") as tar:
            for name in ("runtime/gantry", "tests/support/pods.py"):
                tar.add(ROOT / name, name, filter=lambda i: None if "__pycache__" in i.name else i)
        self._ssh("mkdir -p /srv/gantry && tar -C /srv/gantry -xf -", data.getvalue())

    def _ssh(self, script: str, text: bytes) -> bytes:
        done = subprocess.run(
            ["ssh", "-F", str(self.fleet.ssh_config), "one", script],
            input=text, capture_output=True, check=False, timeout=180,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    def python(self, code: str, *words: str) -> Any:
        """What *code* gives as ``result``."""
        code = f"{PRELUDE}\n{code}\nkit.close()\nprint(json.dumps(result))"
        said = self._ssh(f"python3 -IS - {' '.join(words)}", code.encode())
        return json.loads(said.splitlines()[-1])


@pytest.fixture(scope="module", params=["bookworm", "trixie"])
def machine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    directory = tmp_path_factory.mktemp("runtimes")
    try:
        yield Machine(directory, request.param)
    finally:
        fleet.destroy(directory / "fleet")


@pytest.fixture(params=["runc", "crun"])
def runtime(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_the_runtime_that_the_control_groups_allow_is_chosen(machine: Machine) -> None:
    layout, chosen = machine.python(
        "found = cgroups.layout(); result = [bool(found.unified) and not found.pure, chosen]", "-"
    )
    assert chosen == ("/usr/bin/runc" if layout else "/usr/bin/crun")


def test_an_app_runs_and_its_status_is_the_pods(machine: Machine, runtime: str) -> None:
    code = """
uuid = kit.prepare(kit.shell("echo out; echo err >&2; exit 7", name="main"))
done = kit.run(uuid)
killed = kit.run(kit.prepare(kit.shell("kill -SEGV $$")))
status = get(kit.paths, uuid).exit_status
result = [done.stdout, "err" in done.stderr, done.returncode, killed.returncode, status,
          os.path.basename(kit.plan(uuid)["runtime"]), kit.leftovers()]
"""
    assert machine.python(code, f"/usr/bin/{runtime}") == ["out\n", True, 7, 139, 7, runtime, []]


def test_a_pod_is_stopped_in_order_and_by_force(machine: Machine, runtime: str) -> None:
    code = """
result = []
for force in (False, True):
    uuid = kit.prepare(kit.shell("trap 'exit 5' TERM; echo up; while :; do sleep 0.05; done", name="main"))
    process = kit.start(uuid)
    process.stdout.readline()
    until(lambda: get(kit.paths, uuid).apps[0].state == "running")
    stop(kit.paths, uuid, force=force, wait=True)
    result.append(process.wait(timeout=60))
    remove(kit.paths, uuid)
result.append(kit.leftovers())
"""
    assert machine.python(code, f"/usr/bin/{runtime}") == [5, 137, []]


def test_a_pod_that_was_left_goes_on_and_is_recorded(machine: Machine, runtime: str) -> None:
    code = """
import subprocess
uuid = kit.prepare(kit.shell("exec sleep 1000", name="main"), restartable=True)
left = kit.run(uuid, "--leave", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode
pod = get(kit.paths, uuid)
stop(kit.paths, uuid)
until(lambda: get(kit.paths, uuid).apps[0].state != "running")
told = {**os.environ, "EXIT_CODE": "killed", "EXIT_STATUS": "TERM"}
subprocess.run(kit.argv("pod-stopped", uuid), env=told, check=True, timeout=20)
result = [left, pod.state, get(kit.paths, uuid).state, get(kit.paths, uuid).exit_status, kit.leftovers()]
"""
    assert machine.python(code, f"/usr/bin/{runtime}") == [0, "running", "prepared", 143, []]


def test_limits_reach_the_kernel(machine: Machine, runtime: str) -> None:
    code = """
app = kit.shell("echo up; sleep 1000", name="main", isolators=[make("resource/memory", {"limit": "32Mi"})])
uuid = kit.prepare(app, isolators=[make("resource/memory", {"limit": "64Mi"})])
process = kit.start(uuid)
process.stdout.readline()
found = {}
for top in groups_of(uuid):
    for group in ("", "/main"):
        for name in ("memory.limit_in_bytes", "memory.max"):
            if os.path.exists(f"{top}{group}/{name}"):
                found[group] = int(Path(f"{top}{group}/{name}").read_text())
process.terminate()
process.wait(timeout=60)
result = [found, kit.leftovers()]
"""
    found, left = machine.python(code, f"/usr/bin/{runtime}")
    assert found == {"": 64 << 20, "/main": 32 << 20}
    assert left == []


def test_a_runtime_that_refuses_says_why_in_our_line(machine: Machine, runtime: str) -> None:
    code = """
uuid = kit.prepare(kit.shell("true", name="main"))
config = kit.find(uuid, "apps/main/config.json")
config.write_text(config.read_text().replace('"/bin/sh"', '"/bin/missing"'))
done = kit.run(uuid)
result = [done.returncode, done.stderr.strip().splitlines()[-1], get(kit.paths, uuid).state, kit.leftovers()]
"""
    status, line, state, left = machine.python(code, f"/usr/bin/{runtime}")
    assert (status, state, left) == (254, "prepared", [])
    assert line.startswith(f'run-prepared: cannot start app "main": {runtime} said: ')
    assert "/bin/missing" in line


@pytest.mark.parametrize("user", ["0", "web"])
def test_a_command_beside_an_app_has_what_the_app_has(machine: Machine, runtime: str, user: str) -> None:
    code = """
import subprocess
from gantry.appc.isolators import make
caps = make("os/linux/capabilities-retain-set", {"set": ["CAP_CHOWN"]})
limits = [caps, make("os/linux/no-new-privileges", True), make("resource/memory", {"limit": "64Mi"})]
image = kit.store.add(user=sys.argv[2], group=sys.argv[2])
uuid = kit.prepare(kit.shell("echo up; exec sleep 1000", name="main", image=image, isolators=limits))
process = kit.start(uuid)
process.stdout.readline()
until(lambda: get(kit.paths, uuid).apps[0].pid)
pid = get(kit.paths, uuid).apps[0].pid
enter = "import sys; sys.path.insert(0, '/srv/gantry/runtime'); from gantry.config import Paths; "
enter += "from gantry.pods import enter; paths = Paths(data=sys.argv[1], run=sys.argv[2]); "
enter += "found = enter.find(paths, sys.argv[3], None); "
enter += "sys.exit(enter.enter(paths, found, sys.argv[4:], environment={}))"
words = [sys.executable, "-I", "-S", "-c", enter, kit.paths.data, kit.paths.run, uuid]
script = "cat /proc/self/status; echo; cat /proc/self/mountinfo; exit 7"
done = subprocess.run([*words, "/bin/sh", "-c", script], capture_output=True, text=True, timeout=60,
                      stdin=subprocess.DEVNULL)
wanted = ("CapPrm", "CapEff", "CapBnd", "Seccomp", "NoNewPrivs", "Uid", "Gid")
def held(text):
    fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    return [fields[name].split() for name in wanted]
same = held(done.stdout) == held(Path(f"/proc/{pid}/status").read_text())
sleeper = subprocess.Popen([*words, "/bin/sleep", "999"], stdin=subprocess.DEVNULL)
def sleepers():
    found = []
    for other in filter(str.isdigit, os.listdir("/proc")):
        try:
            if Path(f"/proc/{other}/cmdline").read_bytes() == b"/bin/sleep\\x00999\\x00":
                found.append(other)
        except OSError:
            pass
    return found
(other,) = until(sleepers)
groups = Path(f"/proc/{other}/cgroup").read_text() == Path(f"/proc/{pid}/cgroup").read_text()
sleeper.kill()
sleeper.wait()
until(lambda: not sleepers())
process.terminate()
process.wait(timeout=60)
result = [done.returncode, same, groups, done.stderr, kit.leftovers()]
"""
    assert machine.python(code, f"/usr/bin/{runtime}", user) == [7, True, True, "", []]


def test_a_fly_app_runs(machine: Machine) -> None:
    code = """
app = kit.shell("readlink /proc/self/ns/pid; exit 4", name="main")
uuid = kit.prepare(app, flavor="fly", networks=["host"])
done = kit.run(uuid)
result = [done.returncode, done.stdout.strip() == os.readlink("/proc/self/ns/pid"), kit.leftovers()]
"""
    assert machine.python(code, "-") == [4, True, []]
