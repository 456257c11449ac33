"""Named pods under a real systemd, on a host of their own."""

from __future__ import annotations

import importlib
import io
import json
import random
import shlex
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.aci import file, make_aci, symlink
from tests.support.collection import ROOT
from tests.support.command import BUSYBOX
from tests.support.openpgp import make_key

from gantry import systemd
from testhosts import cache, fleet, ssh
from testhosts.spec import parse

pytestmark = [pytest.mark.root, pytest.mark.machines, pytest.mark.slow]

WEB = ["/bin/httpd", "-f", "-p", "80", "-h", "/www"]


class Machine:
    """A booted host with the runtime, a trusted key and some images in /srv."""

    def __init__(self, directory: Path) -> None:
        self.fleet = fleet.create(
            parse({"hosts": [{"name": "one", "suite": "bookworm"}]}), directory / "fleet"
        )
        self.key = make_key()
        self._install()
        images = directory / "images"
        images.mkdir()
        self._image(images, "1", WEB)
        self._image(images, "2", WEB)
        self._image(images, "3", ["/bin/sh", "-c", "echo cannot open config >&2; exit 3"])
        self.push(images, "/srv")
        self.apply({"trust": [self.trust], "images": [{"name": f"/srv/{v}.aci"} for v in "123"]})

    @property
    def trust(self) -> dict[str, str]:
        return {"prefix": "example.com", "fingerprint": self.key.fingerprint, "key": self.key.public.decode()}

    def _install(self) -> None:
        """Put the runtime where the collection would, built for the host's Python, not for this one."""
        builder: Any = importlib.import_module("build_runtime")
        built = builder.build(
            source=ROOT / "runtime",
            lock=ROOT / "requirements-runtime.lock",
            python=self.on("python3 -c 'import sys; print(*sys.version_info[:2], sep=\".\")'"),
            arch=self.on("uname -m"),
            out=cache.directory() / "runtime",
        )
        release = f"/opt/gantry/releases/{built.release}"
        self.send(Path(built.archive).read_bytes(), f"tar -C {release} -xzf -", release)
        self.on(
            f"ln -s releases/{built.release} /opt/gantry/current;"
            " ln -s /opt/gantry/current/bin/gantry /usr/local/bin/"
        )

    def _image(self, directory: Path, version: str, command: list[str]) -> None:
        path = directory / f"{version}.aci"
        applets = ("sh", "true", "false", "cat", "sleep", "env", "echo", "httpd")
        tree = [
            file("bin/busybox", BUSYBOX.read_bytes(), mode=0o755),
            *(symlink(f"bin/{a}", "busybox") for a in applets),
        ]
        app = {
            "exec": command, "user": "0", "group": "0",
            "ports": [{"name": "http", "protocol": "tcp", "port": 80}],
        }  # fmt: skip
        labels = {"version": version, "os": "linux", "arch": "amd64"}
        files = {"www/index.html": version, "etc/passwd": "root:x:0:0::/:/bin/sh\n"}
        make_aci(path, "example.com/web", files=files, tree=tree, labels=labels, app=app)
        Path(f"{path}.asc").write_bytes(self.key.sign_file(path))

    def push(self, source: Path, target: str) -> None:
        data = io.BytesIO()
        with tarfile.open(fileobj=data, mode="w", dereference=True) as tar:
            tar.add(source, ".")
        self.send(data.getvalue(), f"tar -C {target} -xf -", target)

    def send(self, data: bytes, script: str, directory: str) -> None:
        done = subprocess.run(
            ["ssh", "-F", str(self.fleet.ssh_config), "one", f"mkdir -p {directory} && {script}"],
            input=data, capture_output=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr

    def run(self, script: str, text: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["ssh", "-F", str(self.fleet.ssh_config), "one", script],
            input=text, capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip

    def on(self, script: str) -> str:
        done = ssh.run(self.fleet.ssh_config, "one", script, timeout=60)
        assert done.returncode == 0, f"{script}: {done.stderr}"
        return done.stdout.strip()

    def apply(self, document: dict[str, Any], *flags: str) -> dict[str, Any]:
        done = self.run(" ".join(["gantry apply --format=json", *flags]), json.dumps(document))
        assert done.stdout, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def show(self, *properties: str, pod: str = "web") -> list[str]:
        shown = self.on(f"systemctl show --value -p {','.join(properties)} gantry-{pod}.service")
        return shown.splitlines()

    @property
    def page(self) -> str:
        return self.on("curl -sS -m 5 --retry 5 --retry-connrefused --retry-delay 1 http://127.0.0.1:8080/")

    def wait(self, condition: Callable[[], bool], what: str, seconds: float = 30) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
            time.sleep(0.2)


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    directory = tmp_path_factory.mktemp("named")
    try:
        yield Machine(directory)
    finally:
        fleet.destroy(directory / "fleet")


@pytest.fixture
def machine(host: Machine) -> Iterator[Machine]:
    traces = "find /var/lib/gantry/pods -mindepth 2; systemctl list-units --all --no-legend 'gantry-*'"
    before = host.on(traces)
    yield host
    host.run("for p in $(gantry pod list --no-legend | cut -f1); do gantry pod rm $p; done")
    assert host.on(traces) == before, "a pod or a unit was left behind"
    assert host.on("ip -brief link | grep -c veth || true") == "0"
    assert host.on("find /sys/fs/cgroup/systemd /sys/fs/cgroup/memory -name 'gantry*' | wc -l") == "0"


def pod(version: int = 1, **fields: Any) -> dict[str, Any]:
    app = {"image": f"example.com/web:{version}", **fields.pop("app", {})}
    return {"name": "web", "apps": [app], "ports": [{"name": "http", "host_port": 8080}], **fields}


def test_a_pod_lives_under_systemd(machine: Machine) -> None:
    result = machine.apply({"pods": [pod()]})
    assert result["changed"], result
    assert "error" not in result
    assert machine.page == "1"
    assert machine.show("ActiveState", "UnitFileState", "Type") == ["notify", "active", "enabled"]
    main = machine.show("MainPID")[0]
    assert machine.on(f"cat /proc/{main}/comm") == "httpd"
    assert machine.on("pgrep -c python3 || true") == "0", "nothing of ours stays resident"
    log = machine.on("journalctl -q -b -o cat -u gantry-web")
    assert "not our child" not in log, "systemd must watch the app as its own child"
    # A second run: nothing changes, and nothing that runs is touched.
    again = machine.apply({"pods": [pod()]})
    assert not again["changed"], again
    assert machine.show("MainPID") == [main]
    # An update, and back.
    assert machine.apply({"pods": [pod(2)]})["changed"]
    assert machine.page == "2"
    assert machine.apply({"pods": [pod(1)]})["changed"]
    assert machine.page == "1"


def test_a_release_that_ends_at_once_is_taken_back(machine: Machine) -> None:
    machine.apply({"pods": [pod(1)]})
    result = machine.apply({"pods": [pod(3)]})
    line = result["error"]["msg"]
    assert "did not stay up" in line
    assert "timeout" not in line, "nobody waited for systemd's start timeout"
    assert "status 3" in line
    assert "cannot open config" in line
    assert "runs again" in line
    assert machine.page == "1"
    status = json.loads(machine.on("gantry pod status --format=json web"))
    assert status["state"] == "running"
    assert status["history"][-1]["ended"].startswith("rolled back from ")


@pytest.mark.parametrize(
    ("script", "restart", "status"),
    [("exit 0", "never", 0), ("exit 7", "never", 7), ("kill -9 $$", "never", 137)],
)
def test_the_status_of_an_app_that_ends_at_once_is_never_lost(
    machine: Machine, script: str, restart: str, status: int
) -> None:
    for _ in range(5):
        app = {"exec": ["/bin/sh", "-c", script]}
        result = machine.apply({"pods": [pod(1, app=app, restart=restart, ports=[], net=["none"])]})
        assert bool(status) == ("error" in result), result
        exits = machine.on("gantry audit list --event=pod.exit --limit=1 --format=json")
        if status:
            assert json.loads(exits)[0]["status"] == status
        else:
            machine.wait(
                lambda: json.loads(
                    machine.on("gantry audit list --event=pod.exit --limit=1 --format=json")
                )[0]["status"] == 0, "the end of the job",
            )  # fmt: skip
        machine.run("gantry pod rm web")


def test_an_app_may_end_in_its_own_time(machine: Machine) -> None:
    script = "trap 'sleep 1; echo graceful; exit 0' TERM; echo up; while :; do sleep 0.1; done"
    machine.apply({"pods": [pod(1, app={"exec": ["/bin/sh", "-c", script]}, net=["none"], ports=[])]})
    assert machine.on("gantry pod stop web") == '"web": stop'
    assert machine.on("journalctl -q -b -o cat _SYSTEMD_UNIT=gantry-web.service | tail -1") == "graceful"
    assert machine.show("UnitFileState") == ["disabled"]
    assert machine.on("gantry pod start web") == '"web": start'
    assert machine.on("gantry pod restart web") == '"web": restart'
    exits = json.loads(machine.on("gantry audit list --event=pod.exit --limit=1 --format=json"))
    assert exits[0]["status"] == 0


@pytest.mark.parametrize("apps", [1, 2])
def test_an_app_that_will_not_end_is_killed(machine: Machine, apps: int) -> None:
    """With no time to end it is killed at once, and the end of the pod is recorded all the same."""
    script = "trap '' TERM; echo up; while :; do sleep 0.1; done"
    app = {"image": "example.com/web:1", "exec": ["/bin/sh", "-c", script]}
    listed = [{**app, "name": f"app{i}"} for i in range(apps)]
    document = {"name": "web", "net": ["none"], "apps": listed, "stop_timeout": 0}
    assert "error" not in machine.apply({"pods": [document]})
    assert machine.on("timeout 20 gantry pod stop web") == '"web": stop'
    exits = json.loads(machine.on("gantry audit list --event=pod.exit --limit=1 --format=json"))
    assert exits[0]["status"] == 137
    assert json.loads(machine.on("gantry pod status --format=json web"))["state"] == "stopped"


def test_a_pod_that_dies_is_started_again_with_its_identity(machine: Machine) -> None:
    machine.apply({"pods": [pod(1)]})
    before = json.loads(machine.on("gantry pod status --format=json web"))["uuid"]
    main = machine.show("MainPID")[0]
    machine.on(f"kill -9 {main}")
    machine.wait(
        lambda: machine.show("ActiveState") == ["active"] and machine.show("MainPID") != [main], "the restart"
    )
    assert machine.page == "1"
    assert json.loads(machine.on("gantry pod status --format=json web"))["uuid"] == before


def test_a_pod_of_two_apps_ends_when_one_fails(machine: Machine) -> None:
    apps = [
        {"image": "example.com/web:1", "name": "a"},
        {"image": "example.com/web:1", "name": "b", "exec": ["/bin/sleep", "1234"]},
    ]
    result = machine.apply({"pods": [{"name": "web", "net": ["none"], "apps": apps}]})
    assert "error" not in result
    assert machine.show("Type") == ["exec"]
    machine.on("pkill -9 -f '^/bin/sleep 1234$'")
    machine.wait(lambda: machine.show("NRestarts") == ["1"], "the restart")


def test_kill_9_of_an_apply_at_any_moment_is_mended_by_the_next(machine: Machine) -> None:
    machine.apply({"pods": [pod(1)]})
    rng = random.Random(7)
    for round_ in range(8):
        version = 2 - round_ % 2
        document = shlex.quote(json.dumps({"pods": [pod(version, settle=0.2)]}))
        delay = rng.uniform(0.05, 0.9)
        machine.on(
            f"echo {document} > /root/d.json; gantry apply < /root/d.json >/dev/null 2>&1 & p=$!; "
            f"sleep {delay:.3f}; kill -9 $p 2>/dev/null; wait $p 2>/dev/null; true"
        )
        result = machine.apply({"pods": [pod(version, settle=0.2)]})
        assert "error" not in result, result
        assert machine.page == str(version), f"killed after {delay:.3f} s"
        assert not machine.apply({"pods": [pod(version, settle=0.2)]})["changed"]
        assert machine.on("ls /var/lib/gantry/pods/prepared /var/lib/gantry/pods/run | grep -c -- -") == "1"
    machine.on("gantry gc")  # ends what was killed between marking a pod as garbage and removing it


def test_case_33_check_changes_nothing(machine: Machine) -> None:
    tree = "find /var/lib/gantry /etc/systemd/system /etc/gantry -type f | sort | xargs sha256sum | sha256sum"
    before = machine.on(tree)
    result = machine.apply(
        {"set": "s", "prune": True, "pods": [pod(1), {**pod(2), "name": "other"}]}, "--check"
    )
    assert result["changed"]
    assert "error" not in result
    assert machine.on(tree) == before


def test_case_36_words_of_a_unit_reach_the_program_as_they_are(machine: Machine) -> None:
    words = [
        "$HOME", "${HOME}", "$$", "%n", "100%", "%20", "%%", '"', "'", "\\", "\\n", "a\nb", "\t", ";", "#",
        "", " ", "é 日本", "\x7f", "-x", "trailing\\", "$", "%",
    ]  # fmt: skip
    program = ["/usr/bin/python3", "-c", "import sys; open('/run/words', 'w').write(repr(sys.argv[1:]))"]
    line = systemd.exec_line([*program, *words])
    unit = systemd.render([("Service", [("Type", "oneshot"), ("ExecStart", line)])])
    machine.run("cat > /run/systemd/system/words.service", unit)
    machine.on("systemctl daemon-reload; systemctl start words.service")
    assert machine.on("cat /run/words") == repr(words)
    machine.on("rm /run/systemd/system/words.service; systemctl daemon-reload")


def test_case_39_units_do_not_wait_for_the_network(machine: Machine) -> None:
    machine.apply({"pods": [pod(1)]})
    ordering = machine.on("systemctl show -p After,Wants,Requires gantry-web.service")
    assert "network" not in ordering
