"""Pods, really run: their life from prepare to rm, and that nothing is left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.pods import Kit, groups_of, make_kit, until

from gantry import audit
from gantry.appc.isolators import make
from gantry.appc.parts import Volume
from gantry.errors import BusyError, GantryError, NotFoundError
from gantry.linux import cgroups, syscalls
from gantry.linux.programs import find
from gantry.pods import MountRequest, collect, get, list_pods, remove, state, stop
from gantry.sandbox import start

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


@pytest.fixture
def kit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kit]:
    yield from make_kit(tmp_path, monkeypatch)


def events(kit: Kit, event: str) -> list[dict[str, object]]:
    return list(audit.entries(kit.paths.data, event=event))


# Life and exit statuses


def test_a_pod_runs_and_its_end_is_recorded(kit: Kit) -> None:
    uuid = kit.prepare(kit.shell("echo out; echo err >&2; exit 0", name="main"))
    assert get(kit.paths, uuid).state == "prepared"
    done = kit.run(uuid)
    assert (done.returncode, done.stdout) == (0, "out\n")
    assert "err\n" in done.stderr
    pod = get(kit.paths, uuid)
    assert (pod.state, pod.exit_status, pod.exited) == ("exited", 0, True)
    assert [(app.name, app.state, app.exit_code) for app in pod.apps] == [("main", "exited", 0)]
    assert [entry["event"] for entry in audit.entries(kit.paths.data)] == [
        "pod.prepare",
        "pod.run",
        "pod.exit",
    ]
    remove(kit.paths, uuid)
    assert list_pods(kit.paths) == []
    assert events(kit, "pod.remove")[0]["uuid"] == uuid


def test_exit_status_of_an_app_is_the_pods(kit: Kit) -> None:
    assert kit.run_shell("exit 7").returncode == 7


def test_killed_by_a_signal_is_128_plus_its_number(kit: Kit) -> None:
    uuid = kit.prepare(kit.shell("kill -SEGV $$", name="main"))
    assert kit.run(uuid).returncode == 139
    app = get(kit.paths, uuid).apps[0]
    assert (app.exit_code, app.signal) == (139, 11)
    entry = events(kit, "pod.exit")[0]
    assert entry["status"] == 139


def test_standard_input_is_empty_and_output_inherited(kit: Kit) -> None:
    done = kit.run(kit.prepare(kit.shell("wc -c; readlink /proc/self/fd/0")), stdin=subprocess.PIPE)
    assert done.stdout.split() == ["0", "/dev/null"]


def test_an_app_that_ends_with_0_leaves_the_others_running(kit: Kit) -> None:
    volume = Volume("shared", "empty")
    mount = [MountRequest("shared", "/s")]
    uuid = kit.prepare(
        kit.shell("exit 0", name="quick", mounts=mount),
        kit.shell("sleep 0.3; touch /s/done; exit 0", name="slow", mounts=mount),
        volumes=[volume],
    )
    assert kit.run(uuid).returncode == 0
    assert kit.find(uuid, "sharedVolumes/shared/done").exists()


def test_the_first_app_that_fails_stops_the_pod_and_gives_its_status(kit: Kit) -> None:
    uuid = kit.prepare(
        kit.shell("sleep 0.2; exit 9", name="failing"),
        kit.shell("trap 'exit 3' TERM; while :; do sleep 0.05; done", name="serving"),
    )
    assert kit.run(uuid).returncode == 9
    codes = {app.name: app.exit_code for app in get(kit.paths, uuid).apps}
    assert codes == {"failing": 9, "serving": 3}


def test_children_an_app_leaves_behind_end_with_it(kit: Kit) -> None:
    uuid = kit.prepare(
        kit.shell("sleep 1000 & exit 0", name="messy"),
        kit.shell("sleep 0.5; ps | grep '[s]leep 1000' && exit 1; exit 0", name="watching"),
    )
    assert kit.run(uuid).returncode == 0


# Stopping


def test_sigterm_to_the_launcher_is_an_orderly_end(kit: Kit) -> None:
    uuid = kit.prepare(kit.shell("trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.05; done"))
    process = kit.start(uuid)
    assert process.stdout
    assert process.stdout.readline() == "up\n"
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "bye\n")
    assert get(kit.paths, uuid).exit_reason == "stopped on request"


def test_an_app_that_ignores_sigterm_is_killed_after_the_timeout(kit: Kit) -> None:
    uuid = kit.prepare(kit.shell("trap '' TERM; echo up; while :; do sleep 0.05; done"), stop_timeout=0.3)
    process = kit.start(uuid)
    assert process.stdout
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 137


def test_other_signals_are_forwarded(kit: Kit) -> None:
    uuid = kit.prepare(kit.shell("trap 'echo got; exit 0' HUP; echo up; while :; do sleep 0.05; done"))
    process = kit.start(uuid)
    assert process.stdout
    process.stdout.readline()
    process.send_signal(signal.SIGHUP)
    assert process.communicate(timeout=60)[0] == "got\n"


def test_stop_and_stop_by_force(kit: Kit) -> None:
    for force, status in ((False, 143), (True, 137)):
        uuid = kit.prepare(kit.shell("echo up; exec sleep 1000"))
        process = kit.start(uuid)
        assert process.stdout
        process.stdout.readline()
        until(lambda uuid=uuid: get(kit.paths, uuid).apps[0].state == "running")
        # process 1 of a namespace ignores what it does not handle, an app of ours is not process 1
        assert stop(kit.paths, uuid[:8], force=force, wait=True) == (uuid, True)
        assert process.wait(timeout=60) == status
        assert stop(kit.paths, uuid) == (uuid, False)


def test_stopping_what_does_not_run_says_so(kit: Kit) -> None:
    uuid = kit.prepare(kit.shell("true"))
    with pytest.raises(state.PodStateError, match=f'pod "{uuid}" is not running'):
        stop(kit.paths, uuid)
    with pytest.raises(NotFoundError, match='no matches found for "abc"'):
        stop(kit.paths, "abc")


def test_a_running_pod_cannot_be_removed_or_run_twice(kit: Kit) -> None:
    uuid = kit.prepare(kit.shell("echo up; exec sleep 1000"))
    process = kit.start(uuid)
    assert process.stdout
    process.stdout.readline()
    with pytest.raises(BusyError, match="is currently running"):
        remove(kit.paths, uuid)
    second = kit.run(uuid)
    assert (second.returncode, second.stderr.strip()) == (
        254,
        f'run-prepared: pod "{uuid}" is not prepared (gantry status shows its state; prepare a new pod)',
    )
    assert get(kit.paths, uuid).state == "running"
    stop(kit.paths, uuid, force=True, wait=True)
    process.wait(timeout=60)


def test_of_two_launchers_one_wins(kit: Kit) -> None:
    uuid = kit.prepare(kit.shell("sleep 0.3; exit 5"))
    first, second = kit.start(uuid), kit.start(uuid)
    assert sorted([first.wait(timeout=60), second.wait(timeout=60)]) == [5, 254]


def test_listing_pods_all_the_time_disturbs_no_start_and_no_end(kit: Kit) -> None:
    uuid = kit.prepare(kit.shell("exit 0", name="main"), restartable=True)
    looker = os.fork()
    if not looker:
        try:
            while True:
                list_pods(kit.paths)
        finally:
            os._exit(0)
    try:
        for _ in range(8):
            assert kit.run(uuid).returncode == 0
            left = kit.run(uuid, "--leave", stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            assert left.returncode == 0, left.stderr
            told = {**os.environ, "EXIT_CODE": "exited", "EXIT_STATUS": "0"}
            subprocess.run(kit.argv("pod-stopped", uuid), env=told, check=True, timeout=20)
    finally:
        os.kill(looker, signal.SIGKILL)
        os.waitpid(looker, 0)


def test_stop_of_a_pod_that_is_just_starting_to_be_left_ends_it(kit: Kit) -> None:
    for step in range(8):
        uuid = kit.prepare(kit.shell("exec sleep 1000", name="main"))
        process = kit.start(uuid, "--leave", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until(lambda uuid=uuid: get(kit.paths, uuid).state == "running")
        time.sleep(0.015 * step)  # not a wait for anything: the moment is the parameter
        assert stop(kit.paths, uuid, wait=True, timeout=5) == (uuid, True)
        assert process.wait(timeout=60) == 0
        assert get(kit.paths, uuid).state == "exited", step
        assert [each for each in kit.leftovers() if uuid in each] == []


def test_sigterm_to_a_launcher_that_is_to_leave_reaches_the_app(kit: Kit) -> None:
    uuid = kit.prepare(kit.shell("trap 'echo asked > /out/said; exit 0' TERM; while :; do sleep 0.05; done",
                                 mounts=[MountRequest("out", "/out")]),
                       volumes=[Volume("out", "empty")])  # fmt: skip
    process = kit.start(uuid, "--leave", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until(lambda: get(kit.paths, uuid).state == "running")
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 0
    stop(kit.paths, uuid, wait=True, timeout=5)
    assert get(kit.paths, uuid).state == "exited"


def test_a_launcher_without_standard_streams_starts_the_pod(kit: Kit) -> None:
    uuid = kit.prepare(kit.shell("echo up > /out/said", mounts=[MountRequest("out", "/out")]),
                       volumes=[Volume("out", "empty")])  # fmt: skip
    for streams in (0, 1, 2):
        code = "import os, sys; [os.close(fd) for fd in (0, 1, 2) if fd != int(sys.argv[1])]; "
        code += "os.execv(sys.argv[2], sys.argv[2:])"
        again = kit.prepare(kit.shell("exec sleep 1000"), restartable=True)
        kept = [sys.executable, "-IS", "-c", code, str(streams), *kit.argv("run-prepared", again)]
        process = subprocess.Popen(kept, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        kit.processes.append(process)  # type: ignore[arg-type]
        until(lambda again=again: get(kit.paths, again).apps[0].state == "running")
        pause = get(kit.paths, again).pid
        assert os.readlink(f"/proc/{pause}/fd/1").endswith(f"{again}/lock")
        stop(kit.paths, again, force=True, wait=True)
        process.wait(timeout=60)
    assert kit.run(uuid).returncode == 0


def test_a_full_disk_ends_no_app(kit: Kit) -> None:
    uuid = kit.prepare(
        kit.shell("exit 0", name="quick"),
        kit.shell("trap 'exit 6' TERM; echo up; while :; do sleep 0.05; done", name="healthy"),
    )
    # In the place of a disk that is full: the first app's end cannot be written.
    (kit.find(uuid) / "status").write_text("")
    process = kit.start(uuid)
    assert process.stdout
    assert process.stdout.readline() == "up\n"
    until(lambda: {app.name: app.state for app in get(kit.paths, uuid).apps}.get("healthy") == "running")
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 6
    assert 'the end of app "quick" (0) cannot be written down' in said


# Killed without warning


def test_kill_9_of_the_launcher_ends_the_pod_and_gc_cleans_up(kit: Kit) -> None:
    uuid = kit.prepare(kit.shell("echo up; exec sleep 1000", name="main"))
    process = kit.start(uuid)
    assert process.stdout
    process.stdout.readline()
    app = until(lambda: get(kit.paths, uuid).apps[0].pid)
    process.kill()
    process.wait(timeout=60)
    until(lambda: not os.path.exists(f"/proc/{app}"), what="the app is gone")
    assert get(kit.paths, uuid).state == "exited"
    assert groups_of(uuid)
    done = collect(kit.paths, grace_period=0.0)
    assert (done.errors, done.removed) == ([], [uuid])
    assert kit.leftovers() == []
    assert list_pods(kit.paths) == []


def test_kill_9_at_any_moment_of_the_start_leaves_a_pod_that_gc_removes(kit: Kit) -> None:
    for step in range(12):
        uuid = kit.prepare(kit.shell("exec sleep 1000"))
        process = kit.start(uuid)
        time.sleep(0.012 * step)  # not a wait for anything: the moment is the parameter
        process.kill()
        process.wait(timeout=60)
        until(lambda uuid=uuid: get(kit.paths, uuid).state in {"prepared", "exited"})
        assert remove(kit.paths, uuid) == uuid
        assert [each for each in kit.leftovers() if uuid in each] == []


def test_a_pause_process_never_outlives_a_launcher_that_died_early(kit: Kit) -> None:
    lock_path = Path(kit.paths.data, "lock")
    lock = os.open(lock_path, os.O_RDWR | os.O_CREAT)
    layout = cgroups.layout()
    for step in range(30):
        pid = os.fork()
        if not pid:
            try:
                started = start(
                    program=find("catatonit") or "", title="gantry-pause", hostname="x", host_network=False,
                    listen=False, sysctl={}, directory=kit.paths.run, lock=lock, bound=True, layout=layout,
                    group=f"/gantry/test-{os.getpid()}",
                )  # fmt: skip
                if step % 3:
                    started.network_ready()
            finally:
                os._exit(0)  # without waiting for what it has begun
        os.waitpid(pid, 0)
    os.close(lock)
    until(lambda: not kit.pauses(), seconds=60, what="no pause process is left")


def test_what_a_runtime_left_in_the_pod_does_not_keep_it_from_ending(kit: Kit) -> None:
    """crun leaves a child of ours that has ended there when it cannot execute the app."""
    lock = os.open(Path(kit.paths.data, "lock"), os.O_RDWR | os.O_CREAT)
    launcher = os.fork()
    if not launcher:
        try:
            signal.alarm(10)
            sandbox = start(
                program=find("catatonit") or "", title="gantry-pause", hostname="x", host_network=False,
                listen=False, sysctl={}, directory=kit.paths.run, lock=lock, bound=True,
                layout=cgroups.layout(), group=f"/gantry/test-{os.getpid()}",
            )  # fmt: skip
            sandbox.network_ready()
            sandbox.ready()
            syscalls.setns(sandbox.namespace("pid"), syscalls.CLONE_NEWPID)
            pid = os.fork()
            if pid:
                os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
                sandbox.end()
        finally:
            os._exit(0)
    os.close(lock)
    assert os.waitpid(launcher, 0)[1] == 0


def test_state_of_another_boot_is_stale(kit: Kit) -> None:
    """Case 37: forged, as a power cut leaves it."""
    uuid = kit.prepare(kit.shell("true"), restartable=True)
    lock = state.hold(state.directory(kit.paths.data, "prepared", uuid))
    path = state.move(kit.paths.data, uuid, "prepared", "run")
    other = {"boot_id": "00000000-0000-0000-0000-000000000000"}
    state.write_json(
        f"{path}/sandbox.json", {**other, "pause_pid": os.getpid(), "pause_start": 1, "listen_fd": 0}
    )
    launcher = {"pid": os.getpid(), "start": 1}
    state.write_json(
        f"{path}/launch.json", {**other, "launcher": launcher, "apps": {}, "group": f"/gantry/{uuid}"}
    )
    assert lock is not None
    os.close(lock)
    assert get(kit.paths, uuid).state == "exited"
    assert kit.run(uuid).returncode == 0  # and this process, whose number was forged, lives
    assert [entry.get("status") for entry in events(kit, "pod.exit")] == [None, 0]


# Restartable pods


def test_DEP_27_a_restartable_pod_is_prepared_again_and_keeps_its_identity(kit: Kit) -> None:
    volume = Volume("data", "empty")
    script = "test -e /left && echo dirty; touch /left; echo x >> /data/log; wc -l < /data/log; exit 4"
    uuid = kit.prepare(
        kit.shell(script, mounts=[MountRequest("data", "/data")]),
        volumes=[volume],
        restartable=True,
        pod_name="web",
    )
    token = kit.plan(uuid)["token"]
    for count in (1, 2, 3):
        done = kit.run(uuid)
        assert (done.returncode, done.stdout.split()) == (4, [str(count)])
        pod = get(kit.paths, "web")
        assert (pod.uuid, pod.state, pod.exit_status) == (uuid, "prepared", 4)
    assert kit.plan(uuid)["token"] == token
    assert not kit.find(uuid, "overlay").exists()


def test_a_restartable_pod_whose_supervisor_was_killed_starts_again(kit: Kit) -> None:
    uuid = kit.prepare(kit.shell("echo up; sleep 0.2"), restartable=True)
    process = kit.start(uuid)
    assert process.stdout
    process.stdout.readline()
    process.kill()
    process.wait(timeout=60)
    until(lambda: get(kit.paths, uuid).state == "exited")
    assert kit.run(uuid).returncode == 0
    assert get(kit.paths, uuid).state == "prepared"


def test_gc_makes_a_restartable_pod_ready_again_and_never_expires_it(kit: Kit) -> None:
    uuid = kit.prepare(kit.shell("echo up; exec sleep 1000"), restartable=True)
    process = kit.start(uuid)
    assert process.stdout
    process.stdout.readline()
    process.kill()
    process.wait(timeout=60)
    until(lambda: get(kit.paths, uuid).state == "exited")
    done = collect(kit.paths, grace_period=0.0, expire_prepared=0.0)
    assert (done.recovered, done.removed, done.errors) == ([uuid], [], [])
    assert get(kit.paths, uuid).state == "prepared"


# Left to systemd


def test_leave_returns_once_the_app_runs_and_pod_stopped_records(kit: Kit) -> None:
    uuid = kit.prepare(kit.shell("exec sleep 1000", name="main"), restartable=True)
    started = kit.run(uuid, "--leave", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert started.returncode == 0
    pid = int(Path(kit.paths.run, "pods", f"{uuid}.pid").read_text())
    assert Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"sleep")
    pod = get(kit.paths, uuid)
    assert (pod.state, pod.apps[0].state, pod.launcher) == ("running", "running", None)
    os.kill(pid, signal.SIGTERM)
    until(lambda: not os.path.exists(f"/proc/{pid}") or b"Z" in Path(f"/proc/{pid}/stat").read_bytes())
    told = {**os.environ, "EXIT_CODE": "killed", "EXIT_STATUS": "TERM", "SERVICE_RESULT": "success"}
    for _ in range(2):  # the second finds nothing to do
        subprocess.run(kit.argv("pod-stopped", uuid), env=told, check=True, timeout=20)
    pod = get(kit.paths, uuid)
    assert (pod.state, pod.exit_status) == ("prepared", 143)
    assert len(events(kit, "pod.exit")) == 1


def test_leave_runs_the_post_stop_handler_in_pod_stopped(kit: Kit) -> None:
    handler = {"name": "post-stop", "exec": ["/bin/sh", "-c", "cat /note > /out/note; ls / >> /out/note"]}
    image = kit.store.add(
        exec=["/bin/sh", "-c", "echo kept > /note; exec sleep 1000"], eventHandlers=[handler]
    )
    app = kit.shell("echo kept > /note; exec sleep 1000", image=image, mounts=[MountRequest("out", "/out")])
    uuid = kit.prepare(app, volumes=[Volume("out", "empty")])
    kit.run(uuid, "--leave", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    pid = int(Path(kit.paths.run, "pods", f"{uuid}.pid").read_text())
    until(lambda: Path(f"/proc/{pid}/comm").read_text().startswith("sleep"))
    os.kill(get(kit.paths, uuid).pid or 0, signal.SIGKILL)  # as systemd does with all that is left
    told = {**os.environ, "EXIT_CODE": "exited", "EXIT_STATUS": "0", "SERVICE_RESULT": "success"}
    until(lambda: not os.path.exists(f"/proc/{pid}") or b"Z" in Path(f"/proc/{pid}/stat").read_bytes())
    subprocess.run(kit.argv("pod-stopped", uuid), env=told, check=True, timeout=20)
    assert kit.find(uuid, "sharedVolumes/out/note").read_text().startswith("kept\n")
    assert get(kit.paths, uuid).exit_status == 0


def test_stop_of_a_pod_that_was_left_cleans_up_where_no_systemd_does(kit: Kit) -> None:
    uuid = kit.prepare(kit.shell("exec sleep 1000"))
    kit.run(uuid, "--leave", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    stop(kit.paths, uuid, wait=True, timeout=3)
    assert get(kit.paths, uuid).state == "exited"
    assert kit.leftovers() == []


def test_leave_is_refused_for_several_apps(kit: Kit) -> None:
    uuid = kit.prepare(kit.shell("true", name="a"), kit.shell("true", name="b"))
    done = kit.run(uuid, "--leave")
    assert done.returncode == 254
    assert "--leave is for pods of one app, this one has 2" in done.stderr
    assert get(kit.paths, uuid).state == "prepared"


# Refusals before anything is made


def test_a_failed_start_leaves_a_prepared_pod(kit: Kit, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    app = kit.shell("true", mounts=[MountRequest("v", "/v")])
    uuid = kit.prepare(app, volumes=[Volume("v", "host", str(source))])
    source.rmdir()
    done = kit.run(uuid)
    assert done.returncode == 254
    assert f'run-prepared: volume source "{source}" does not exist' in done.stderr
    assert get(kit.paths, uuid).state == "prepared"
    source.mkdir()
    assert kit.run(uuid).returncode == 0


def test_an_unknown_pod_and_a_wrong_flag(kit: Kit) -> None:
    done = kit.run("11111111-1111-4111-8111-111111111111")
    assert (done.returncode, "no matches found" in done.stderr) == (254, True)
    assert "unknown flag: --frobnicate" in kit.run("x", "--frobnicate").stderr


def test_a_failed_prepare_leaves_nothing(kit: Kit) -> None:
    with pytest.raises(GantryError, match="working directory"):
        kit.prepare(kit.shell("true", working_directory="/nowhere"))
    assert list(Path(kit.paths.data, "pods").glob("*/*")) == []
    assert kit.store.references == set()


def test_a_source_that_was_replaced_is_refused_and_not_followed(kit: Kit, tmp_path: Path) -> None:
    """VOL-27, VOL-28, at every start: what another pod may write to can have changed since prepare."""
    shared = tmp_path / "shared"
    source = shared / "sub" / "data"
    source.mkdir(parents=True)
    (source / "mine").write_text("mine\n")
    app = kit.shell("cat /v/mine", mounts=[MountRequest("v", "/v")])
    uuid = kit.prepare(app, volumes=[Volume("v", "host", str(source))], restartable=True)
    assert kit.run(uuid).stdout == "mine\n"
    secret = tmp_path / "secret" / "data"
    secret.mkdir(parents=True)
    (secret / "mine").write_text("secret\n")
    (shared / "sub").rename(shared / "away")
    (shared / "sub").symlink_to(secret.parent)
    done = kit.run(uuid)
    assert (done.returncode, done.stdout) == (254, "")
    line = f'run-prepared: volume source "{source}" leads through a symbolic link by now'
    assert done.stderr.startswith(line)
    assert done.stderr.count("\n") == 1
    assert get(kit.paths, uuid).state == "prepared"
    (shared / "sub").unlink()
    (shared / "away").rename(shared / "sub")
    assert kit.run(uuid).stdout == "mine\n"
    assert sorted(path.name for path in source.iterdir()) == ["mine"]
    (source / "mine").unlink()
    source.rmdir()
    source.write_text("now a file")
    assert "was a directory when the pod was prepared and is a file now" in kit.run(uuid).stderr


def test_a_source_that_is_replaced_while_the_pod_starts_is_not_followed(kit: Kit, tmp_path: Path) -> None:
    """The runtime is given what the launcher got hold of, not the path."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "mine").write_text("mine\n")
    handler = {"name": "pre-start", "exec": ["/bin/sh", "-c", "echo begun > /tell/begun; read x < /tell/go"]}
    image = kit.store.add(eventHandlers=[handler])
    tell = tmp_path / "tell"
    tell.mkdir()
    os.mkfifo(tell / "go")
    mounts = [MountRequest("v", "/v"), MountRequest("t", "/tell")]
    app = kit.shell("cat /v/mine", image=image, mounts=mounts)
    uuid = kit.prepare(app, volumes=[Volume("v", "host", str(source)), Volume("t", "host", str(tell))])
    process = kit.start(uuid)
    until((tell / "begun").exists)
    source.rename(tmp_path / "away")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine").write_text("other\n")
    source.symlink_to(tmp_path / "other")
    (tell / "go").write_text("go\n")
    assert process.communicate(timeout=60)[0] == "mine\n"


def test_rm_never_reaches_into_what_is_mounted(kit: Kit, tmp_path: Path) -> None:
    uuid = kit.prepare(kit.shell("true"))
    place = kit.find(uuid, "sources")
    treasure = tmp_path / "treasure"
    treasure.mkdir()
    (treasure / "gold").touch()
    syscalls.mount(str(treasure), str(place), None, syscalls.MS_BIND)
    try:
        with pytest.raises(BusyError, match="is still mounted"):
            remove(kit.paths, uuid)
    finally:
        for path in Path(kit.paths.data, "pods").glob(f"*/{uuid}/sources"):
            syscalls.umount(str(path))
    assert (treasure / "gold").exists()
    collect(kit.paths, grace_period=0.0)
    assert kit.uuids() == []


# gc


def test_gc_marks_then_keeps_then_removes(kit: Kit) -> None:
    uuid = kit.prepare(kit.shell("true"))
    kit.run(uuid)
    assert collect(kit.paths, mark_only=True).marked == [(uuid, "pod")]
    assert get(kit.paths, uuid).state == "exited garbage"
    kept = collect(kit.paths, grace_period=1000.0).kept
    assert [name for name, _ in kept] == [uuid]
    assert collect(kit.paths, grace_period=0.0).removed == [uuid]


def test_gc_removes_aborted_and_expired_prepares(kit: Kit) -> None:
    prepared, aborted = kit.prepare(kit.shell("true")), kit.prepare(kit.shell("true"))
    lock = state.hold(state.directory(kit.paths.data, "prepared", aborted))
    state.move(kit.paths.data, aborted, "prepared", "prepare")
    assert get(kit.paths, aborted).state == "preparing"
    assert collect(kit.paths, grace_period=0.0).removed == []
    assert lock is not None
    os.close(lock)
    assert get(kit.paths, aborted).state == "aborted prepare"
    assert collect(kit.paths, grace_period=0.0).removed == [aborted]
    assert collect(kit.paths, grace_period=0.0, expire_prepared=0.0).removed == [prepared]


def test_rm_copes_with_very_deep_directories(kit: Kit) -> None:
    uuid = kit.prepare(kit.shell("i=0; while [ $i -lt 1500 ]; do mkdir d; cd d; i=$((i+1)); done"))
    kit.run(uuid)
    remove(kit.paths, uuid)
    assert kit.uuids() == []


# Control groups


def test_ISO_01_ISO_02_ISO_38_limits_reach_the_kernel_and_the_pod_bounds_its_apps(kit: Kit) -> None:
    """ISO-02, ISO-50, ISO-51."""
    app = kit.shell(
        "echo up; sleep 1000",
        name="main",
        isolators=[make("resource/memory", {"limit": "32Mi"}), make("resource/cpu", {"limit": "500m"})],
    )
    uuid = kit.prepare(app, isolators=[make("resource/memory", {"limit": "64Mi"})])
    process = kit.start(uuid)
    assert process.stdout
    process.stdout.readline()
    memory = next(path for path in groups_of(uuid) if "memory" in path or "unified" not in path)
    memory = next((path for path in groups_of(uuid) if "/memory/" in path), memory)
    name = "memory.limit_in_bytes" if "/memory/" in memory else "memory.max"
    assert Path(memory, name).read_text().strip() == str(64 << 20)
    assert Path(memory, "main", name).read_text().strip() == str(32 << 20)
    process.terminate()
    process.wait(timeout=60)
    assert [v["status"] for v in get(kit.paths, uuid).isolators] == ["applied", "applied", "applied"] or any(
        v["status"] == "altered" for v in get(kit.paths, uuid).isolators
    )


def test_memory_beyond_the_limit_ends_the_app(kit: Kit) -> None:
    """ISO-51."""
    app = kit.shell(
        "head -c 64000000 /dev/zero | tr '\\0' x | sort > /dev/null; exit 0",
        isolators=[make("resource/memory", {"limit": "16Mi"})],
    )
    done = kit.run(kit.prepare(app))
    assert "Killed" in done.stderr or done.returncode == 137


def test_without_a_metadata_service_the_url_is_unset_and_a_warning_recorded(kit: Kit) -> None:
    """TRAP-19."""
    uuid = kit.prepare(kit.shell("env"))
    done = kit.run(uuid)
    assert "AC_METADATA_URL" not in done.stdout
    warning = "the metadata service is not installed: AC_METADATA_URL is not set"
    assert warning in done.stderr
    assert warning in get(kit.paths, uuid).warnings
    assert events(kit, "pod.run")[0]["warnings"] == [warning]


def test_the_pause_process_is_harmless(kit: Kit) -> None:
    uuid = kit.prepare(kit.shell("echo up; exec sleep 1000"))
    process = kit.start(uuid)
    assert process.stdout
    process.stdout.readline()
    pid = get(kit.paths, uuid).pid
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line
    )
    assert status["CapEff"] == "0000000000000000"
    assert status["NoNewPrivs"] == "1"
    assert "0" not in status["Uid"].split()
    assert os.listdir(f"/proc/{pid}/root/") == []
    assert os.listdir(f"/proc/{pid}/root/..") == []
    fds = {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")}
    assert fds == {"/null", f"{kit.find(uuid)}/lock", "anon_inode:[signalfd]"} or "/dev/null" in fds
    process.terminate()
    process.wait(timeout=60)


def test_names_and_uuid_prefixes_mean_pods(kit: Kit) -> None:
    uuid = kit.prepare(kit.shell("true"), pod_name="shop")
    assert get(kit.paths, "shop").uuid == get(kit.paths, uuid[:6].upper()).uuid == uuid
    with pytest.raises(GantryError, match="UUID cannot be empty"):
        get(kit.paths, " ")


def test_json_has_rkts_fields_and_ours(kit: Kit) -> None:
    uuid = kit.prepare(kit.shell("true", name="main"), user_labels={"a": "b"})
    kit.run(uuid)
    pod = json.loads(json.dumps(get(kit.paths, uuid).as_dict()))
    assert pod["name"] == pod["uuid"] == uuid
    assert pod["app_names"] == ["main"]
    assert pod["user_labels"] == {"a": "b"}
    app = pod["apps"][0]
    assert app["exit_code"] == 0
    assert app["created_at"] <= app["started_at"] <= app["finished_at"]
    assert abs(app["finished_at"] / 1e9 - time.time()) < 60
    assert pod["created_at"] <= pod["started_at"]
