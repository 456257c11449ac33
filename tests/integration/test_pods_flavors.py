"""What every flavor has to do, and what fly and a flavor of somebody else's are besides."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.pods import RUNTIME, Kit, groups_of, make_kit, until
from tests.support.terminals import Session

from gantry.appc.isolators import make
from gantry.appc.parts import Volume
from gantry.errors import GantryError
from gantry.linux import namespaces
from gantry.pods import MountRequest, collect, get, remove, stop

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

LIVE = 'trap "echo bye; exit 0" TERM; echo up; while :; do sleep 0.05; done'
FLAVORS = ["oci", "fly", "toy"]

PAGE = Path(__file__).resolve().parents[2] / "docs/stage1-interface.md"


def example(directory: Path) -> str:
    """The flavor of the page; for these tests it can refuse, too, and says when it cleaned up."""
    text = PAGE.read_text().split("```python\n", 1)[1].split("```", 1)[0]
    text = text.replace("#!/usr/bin/python3 -I", f"#!{sys.executable} -I")
    record = f'open("{directory}/cleaned", "a").write(call["pod"] + "\\n")'
    text = text.replace('if call["call"] == "gc":\n', f'if call["call"] == "gc":\n    {record}\n')
    refusal = 'open(call["error_file"], "w").write("this I will not start\\n")'
    asked = f'if "refuse-me" in process["args"]:\n    {refusal}\n    sys.exit(1)\n'
    return text.replace("\npid = os.fork()\n", f"\n{asked}pid = os.fork()\n")


@pytest.fixture
def kit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kit]:
    for kit in make_kit(tmp_path, monkeypatch):
        install_toy(kit, tmp_path)
        yield kit
        for process in kit.processes:
            if process.poll() is None:
                process.terminate()
                process.wait(60)
        collect(kit.paths, grace_period=0.0)


def install_toy(kit: Kit, directory: Path, **changes: Any) -> Path:
    place = Path(kit.paths.local, "stage1.d", "toy")
    place.mkdir(parents=True, exist_ok=True)
    program = place / "toy"
    program.write_text(example(directory))
    program.chmod(0o755)
    told = {
        "name": "toy",
        "interface": 1,
        "enforces": [],
        "entrypoints": {"start": "toy", "enter": "toy", "gc": "toy"},
        **changes,
    }
    (place / "flavor.json").write_text(json.dumps(told))
    return place


def prepare(kit: Kit, flavor: str, script: str, **options: Any) -> str:
    mine = {key[4:]: options.pop(key) for key in list(options) if key.startswith("pod_")}
    return kit.prepare(kit.shell(script, name="main", **options), flavor=flavor, networks=["host"], **mine)


def command(kit: Kit, *words: str) -> list[str]:
    code = f"import sys; sys.path.insert(0, {RUNTIME!r}); from gantry.cli import main; sys.exit(main())"
    return [sys.executable, "-c", code, f"--dir={kit.paths.data}", f"--run-dir={kit.paths.run}", *words]


def running(kit: Kit, flavor: str, script: str = LIVE, **options: Any) -> str:
    uuid = prepare(kit, flavor, script, **options)
    process = kit.start(uuid)
    assert process.stdout
    assert process.stdout.readline() == "up\n"
    until(lambda: get(kit.paths, uuid).apps[0].pid)
    return uuid


@pytest.mark.parametrize("flavor", FLAVORS)
def test_an_app_runs_with_what_it_asked_for(kit: Kit, flavor: str) -> None:
    image = kit.store.add(user="web", group="web", workingDirectory="/tmp", files={"/tmp/": ""})
    script = 'id -u; id -g; pwd; echo "$MINE"; echo err >&2; readlink /proc/self/fd/0; exit 7'
    uuid = prepare(kit, flavor, script, image=image, environment={"MINE": "a 'b' $c"})
    done = kit.run(uuid)
    assert done.returncode == 7
    if flavor == "toy":  # it has no /proc
        assert done.stdout.splitlines() == ["1000", "1001", "/tmp", "a 'b' $c"]
    else:
        assert done.stdout.splitlines() == ["1000", "1001", "/tmp", "a 'b' $c", "/dev/null"]
    assert "err\n" in done.stderr
    pod = get(kit.paths, uuid)
    assert (pod.state, pod.exit_status, pod.flavor) == ("exited", 7, flavor)
    assert pod.apps[0].exit_code == 7


@pytest.mark.parametrize("flavor", FLAVORS)
def test_a_pod_is_stopped_in_order(kit: Kit, flavor: str) -> None:
    uuid = running(kit, flavor)
    stop(kit.paths, uuid, wait=True)
    assert kit.processes[0].wait(60) == 0
    assert kit.processes[0].stdout
    assert kit.processes[0].stdout.read() == "bye\n"
    assert groups_of(uuid) == []


@pytest.mark.parametrize("flavor", FLAVORS)
def test_a_pod_is_killed(kit: Kit, flavor: str) -> None:
    uuid = running(kit, flavor, "trap '' TERM; echo up; while :; do sleep 0.05; done")
    pid = get(kit.paths, uuid).apps[0].pid
    stop(kit.paths, uuid, force=True, wait=True)
    assert kit.processes[0].wait(60) == 137
    assert not os.path.exists(f"/proc/{pid}")


@pytest.mark.parametrize("flavor", FLAVORS)
def test_what_an_app_leaves_behind_ends_with_the_pod(kit: Kit, flavor: str) -> None:
    script = "(trap '' HUP; exec sleep 1000 > /dev/null 2>&1 < /dev/null) & echo $!; exit 3"
    uuid = prepare(kit, flavor, script)
    assert kit.run(uuid).returncode == 3
    assert groups_of(uuid) == []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        if namespaces.start_time(int(pid)) is not None:  # neither gone nor waiting to be collected
            with contextlib.suppress(OSError):
                assert uuid not in Path(f"/proc/{pid}/cgroup").read_text()


@pytest.mark.parametrize("flavor", FLAVORS)
def test_a_launcher_that_is_killed_leaves_nothing_that_gc_does_not_end(kit: Kit, flavor: str) -> None:
    uuid = running(kit, flavor, "(sleep 1000 &) ; echo up; exec sleep 1000")
    pid = get(kit.paths, uuid).apps[0].pid
    kit.processes[0].kill()
    kit.processes[0].wait()
    until(lambda: get(kit.paths, uuid).state == "exited", seconds=60)
    collect(kit.paths, grace_period=0.0)
    until(lambda: not os.path.exists(f"/proc/{pid}"), seconds=60)
    assert groups_of(uuid) == []
    assert kit.uuids() == []


@pytest.mark.parametrize("flavor", FLAVORS)
def test_enter_runs_a_command_as_the_app_and_it_ends_with_the_pod(kit: Kit, flavor: str) -> None:
    image = kit.store.add(user="web", group="web")
    uuid = running(kit, flavor, image=image, environment={"MINE": "x"})
    words = command(kit, "enter", uuid, "/bin/sh", "-c", "id -u; echo $MINE; exit 4")
    done = subprocess.run(
        words, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60, check=False
    )
    assert (done.returncode, done.stdout.split()) == (4, ["1000", "x"]), done.stderr
    entered = subprocess.Popen(command(kit, "enter", uuid, "/bin/sleep", "1000"), stdin=subprocess.DEVNULL)
    until(lambda: list(Path(kit.paths.run, "pods", uuid).glob("enter-*/pid")), seconds=60)
    kit.processes[0].send_signal(signal.SIGTERM)
    assert kit.processes[0].wait(60) == 0
    assert entered.wait(60) in {-signal.SIGKILL, 254}


@pytest.mark.parametrize("flavor", ["oci", "fly"])
def test_handlers_run_as_for_every_flavor(kit: Kit, flavor: str) -> None:
    handlers = [
        {"name": "pre-start", "exec": ["/bin/sh", "-c", "echo before; touch /mark"]},
        {"name": "post-stop", "exec": ["/bin/sh", "-c", "ls /mark; echo after"]},
    ]
    uuid = prepare(kit, flavor, "echo during", image=kit.store.add(eventHandlers=handlers))
    assert kit.run(uuid).stdout == "before\nduring\n/mark\nafter\n"


@pytest.mark.parametrize("flavor", ["oci", "fly"])
def test_volumes_are_there_and_read_only_is_kept(kit: Kit, flavor: str, tmp_path: Path) -> None:
    (tmp_path / "shared/below").mkdir(parents=True)
    (tmp_path / "shared/file").write_text("content\n")
    volumes = [Volume("rw", "host", str(tmp_path / "shared")), Volume("ro", "host", str(tmp_path / "shared"))]
    mounts = [MountRequest("rw", "/rw"), MountRequest("ro", "/deep/ro", read_only=True)]
    script = "cat /deep/ro/file; echo x > /rw/made; echo x > /deep/ro/not 2>/dev/null || echo refused"
    uuid = prepare(kit, flavor, script, mounts=mounts, pod_volumes=volumes)
    done = kit.run(uuid)
    assert done.stdout.split() == ["content", "refused"], done.stderr
    assert (tmp_path / "shared/made").exists()
    assert not (tmp_path / "shared/not").exists()
    assert str(tmp_path / "shared") not in Path("/proc/self/mountinfo").read_text()


@pytest.mark.parametrize("flavor", ["oci", "fly"])
def test_a_terminal_is_the_same_for_every_flavor(kit: Kit, flavor: str) -> None:
    uuid = prepare(kit, flavor, "stty size; read line; echo got $line; exit 5", pod_interactive=True)
    with Session(kit.argv("run-prepared", uuid), rows=30, columns=91) as session:
        session.expect("30 91")
        session.type("a word\n")
        session.expect("got a word")
        assert session.wait() == 5
        assert session.modes() == session.before


def test_a_fly_app_sees_the_host_and_its_own_root(kit: Kit) -> None:
    script = "for n in pid net uts; do readlink /proc/self/ns/$n; done; ls -d /proc/1/task /bin/busybox; "
    script += "grep CapEff /proc/self/status; test -c /dev/null && echo dev"
    done = kit.run(prepare(kit, "fly", script))
    lines = done.stdout.splitlines()
    assert lines[:3] == [os.readlink(f"/proc/self/ns/{kind}") for kind in ("pid", "net", "uts")]
    assert sorted(lines[3:5]) == ["/bin/busybox", "/proc/1/task"]
    own = next(
        line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapEff")
    )
    assert lines[5].split() == own.split()
    assert lines[6] == "dev"


def test_a_link_in_the_image_leads_no_mount_of_a_fly_pod_outside(kit: Kit, tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    image = kit.store.add(files={"/out": "-> ../../../../../../etc"})
    mounts = [MountRequest("v", "/out/place")]
    uuid = prepare(
        kit,
        "fly",
        "readlink -f /out/place; ls -d /etc/place",
        image=image,
        mounts=mounts,
        pod_volumes=[Volume("v", "host", str(tmp_path / "shared"))],
    )
    assert kit.run(uuid).stdout.split() == ["/etc/place", "/etc/place"]
    assert not os.path.exists("/etc/place")


def test_what_fly_cannot_do_is_refused_by_its_name_and_isolators_are_ignored(kit: Kit) -> None:
    app = kit.shell("true", name="main")
    for options, said in (
        ({"networks": ["none"]}, 'the flavor fly has the host\'s network, and not "none"'),
        ({"networks": ["default"]}, "the flavor fly has the host's network"),
        ({"networks": ["host"], "hostname": "other"}, "the flavor fly has the host's own name"),
    ):
        with pytest.raises(GantryError, match=said):
            kit.prepare(app, flavor="fly", **options)
    with pytest.raises(GantryError, match="runs one app in a pod"):
        kit.prepare(app, kit.shell("true", name="two"), flavor="fly", networks=["host"])
    limit = make("resource/memory", {"limit": "64Mi"})
    uuid = prepare(kit, "fly", "true", isolators=[limit])
    (verdict,) = get(kit.paths, uuid).isolators
    assert (verdict["status"], verdict["detail"]) == ("ignored", "the flavor fly does not enforce it")
    with pytest.raises(GantryError, match="isolator resource/memory is ignored: the flavor fly"):
        prepare(kit, "fly", "true", isolators=[limit], pod_strict=True)


def test_a_fly_app_that_cannot_be_executed_is_told_in_one_line(kit: Kit) -> None:
    uuid = prepare(kit, "fly", "true")
    path = kit.find(uuid, "apps/main/config.json")
    config = json.loads(path.read_text())
    config["process"]["args"] = ["/no/such"]
    path.write_text(json.dumps(config))
    done = kit.run(uuid)
    assert done.returncode == 254
    assert "cannot start /no/such: FileNotFoundError" in done.stderr
    assert get(kit.paths, uuid).state == "prepared"


def test_the_example_of_the_page_is_a_flavor_and_its_file_is_one(kit: Kit) -> None:
    told = json.loads(PAGE.read_text().split("```json\n", 1)[1].split("```", 1)[0])
    place = Path(kit.paths.local, "stage1.d", told["name"])
    place.mkdir()
    (place / "flavor.json").write_text(json.dumps(told))
    for program in set(told["entrypoints"].values()):
        (place / program).write_text(example(kit.store.directory))
        (place / program).chmod(0o755)
    assert kit.run(prepare(kit, told["name"], "exit 3")).returncode == 3


# Somebody else's


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"interface": 2}, "speaks interface 2, and this version speaks 1"),
        ({"interface": None}, "speaks interface None"),
        ({"name": "other"}, 'has to have the name "toy"'),
        ({"entrypoints": {}}, '"entrypoints" lacks start'),
        ({"entrypoints": {"start": "toy", "fly": "toy"}}, '"entrypoints" has "fly"'),
        ({"entrypoints": {"start": "missing"}}, "its entry point start, is no program"),
        ({"entrypoints": ["start"]}, '"entrypoints" has to be an object'),
        ({"enforces": "all"}, '"enforces" has to be a list'),
    ],
)
def test_a_flavor_that_is_not_as_it_should_be_is_refused(
    kit: Kit, tmp_path: Path, told: dict[str, Any], said: str
) -> None:
    install_toy(kit, tmp_path, **told)
    with pytest.raises(GantryError, match=r"flavor\.json") as caught:
        prepare(kit, "toy", "true")
    assert said in str(caught.value)
    assert kit.uuids() == []


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff", b'"toy"', b"[" * 5000])
def test_a_flavor_file_that_is_none_is_refused(kit: Kit, content: bytes) -> None:
    Path(kit.paths.local, "stage1.d/toy/flavor.json").write_bytes(content)
    with pytest.raises(GantryError, match=r"flavor\.json"):
        prepare(kit, "toy", "true")


def test_a_flavor_that_is_not_there_is_told_with_where_it_belongs(kit: Kit) -> None:
    with pytest.raises(GantryError, match='there is no flavor "another"') as caught:
        prepare(kit, "another", "true")
    assert f"{kit.paths.local}/stage1.d" in str(caught.value)
    with pytest.raises(GantryError, match="is no name of a flavor"):
        prepare(kit, "../toy", "true")


def test_what_a_flavor_refuses_is_told_in_its_words(kit: Kit) -> None:
    uuid = prepare(kit, "toy", "true", args=["refuse-me"])
    done = kit.run(uuid)
    assert done.returncode == 254
    assert 'cannot start app "main": toy said: this I will not start' in done.stderr
    assert get(kit.paths, uuid).state == "prepared"


def test_a_flavor_that_lies_about_its_process_is_found_out(kit: Kit, tmp_path: Path) -> None:
    program = Path(kit.paths.local, "stage1.d/toy/toy")
    for body in ("exit 0", 'echo nonsense > "$(dirname "$1")/pid"', 'echo 4194304 > "$(dirname "$1")/pid"'):
        program.write_text(f"#!/bin/sh\n{body}\n")
        uuid = prepare(kit, "toy", "true")
        done = kit.run(uuid)
        assert done.returncode == 254
        assert "wrote no process to" in done.stderr
        remove(kit.paths, uuid)


def test_a_flavor_is_asked_to_clean_up(kit: Kit, tmp_path: Path) -> None:
    uuid = prepare(kit, "toy", "true")
    kit.run(uuid)
    assert (tmp_path / "cleaned").read_text().split() == [uuid]


def test_a_flavor_without_enter_says_so(kit: Kit, tmp_path: Path) -> None:
    install_toy(kit, tmp_path, entrypoints={"start": "toy"})
    uuid = running(kit, "toy")
    done = subprocess.run(
        command(kit, "enter", uuid, "true"), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 254
    assert 'the flavor "toy" has no entry point enter' in done.stderr


def test_isolators_that_a_flavor_enforces_count(kit: Kit, tmp_path: Path) -> None:
    install_toy(kit, tmp_path, enforces=["resource/memory"])
    limits = [make("resource/memory", {"limit": "64Mi"}), make("resource/cpu", {"limit": "1"})]
    uuid = prepare(kit, "toy", "true", isolators=limits)
    assert {v["name"]: v["status"] for v in get(kit.paths, uuid).isolators} == {
        "resource/memory": "applied",
        "resource/cpu": "ignored",
    }


def test_the_command_line_knows_rkts_names(kit: Kit) -> None:
    done = subprocess.run(
        command(kit, "run", "--stage1-name=coreos.com/rkt/stage1-fly:1.0", "--net=none", "sha512-00"),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 254
    assert "sha512-00" in done.stderr
