"""Commands beside a running app, and apps with a terminal: what they get, how they end, what they leave."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.pods import RUNTIME, Kit, make_kit, until
from tests.support.terminals import Session

from gantry.appc.isolators import make
from gantry.errors import UsageError
from gantry.linux import namespaces
from gantry.pods import collect, get

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

LIVE = 'trap "exit 0" TERM; echo up; while :; do sleep 0.1; done'


@pytest.fixture
def kit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kit]:
    for kit in make_kit(tmp_path, monkeypatch):
        yield kit
        for process in kit.processes:
            if process.poll() is None:
                process.terminate()
                process.wait(60)
        collect(kit.paths, grace_period=0.0)  # after launchers that were killed


def command(kit: Kit, *words: str) -> list[str]:
    code = f"import sys; sys.path.insert(0, {RUNTIME!r}); from gantry.cli import main; sys.exit(main())"
    places = [f"--dir={kit.paths.data}", f"--run-dir={kit.paths.run}"]
    return [sys.executable, "-c", code, *places, *words]


def gantry(kit: Kit, *words: str, **options: object) -> subprocess.CompletedProcess[str]:
    if "input" not in options:
        options["stdin"] = subprocess.DEVNULL
    return subprocess.run(
        command(kit, *words), capture_output=True, text=True, timeout=60, check=False, **options
    )  # type: ignore[call-overload, no-any-return]


def running(kit: Kit, *scripts: str, **options: object) -> str:
    """A pod that runs, of one app for each script."""
    mine = {key[4:]: options.pop(key) for key in list(options) if key.startswith("pod_")}
    apps = [kit.shell(script, name=f"app{i}", **options) for i, script in enumerate(scripts or [LIVE])]
    uuid = kit.prepare(*apps, **mine)
    process = kit.start(uuid)
    assert process.stdout
    for _ in apps:
        assert process.stdout.readline() == "up\n"
    until(lambda: all(app.started_at for app in get(kit.paths, uuid).apps))
    return uuid


def pid_of(kit: Kit, uuid: str, app: int = 0) -> int:
    pid = get(kit.paths, uuid).apps[app].pid
    assert pid
    return pid


def inside(kit: Kit, uuid: str) -> list[int]:
    """All processes in the pod, as the host counts."""
    pause = get(kit.paths, uuid).pid
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.readlink(f"/proc/{pid}/ns/pid") == os.readlink(f"/proc/{pause}/ns/pid"):
                found.append(int(pid))
        except OSError:
            continue
    return found


def sleepers(kit: Kit, uuid: str) -> list[int]:
    """Those that sleep for 1000 seconds, which no app here does by itself."""
    found = []
    for each in inside(kit, uuid):
        with contextlib.suppress(OSError):  # it has ended since
            if Path(f"/proc/{each}/cmdline").read_bytes() == b"/bin/sleep\x001000\x00":
                found.append(each)
    return found


def of_session(kit: Kit, uuid: str) -> list[int]:
    """Shells that nobody but a session started."""
    found = []
    for each in inside(kit, uuid):
        with contextlib.suppress(OSError):
            if Path(f"/proc/{each}/cmdline").read_bytes() == b"/bin/sh\0":
                found.append(each)
    return found


def test_a_command_runs_in_the_app_and_its_status_is_ours(kit: Kit) -> None:
    uuid = running(kit)
    done = gantry(kit, "enter", uuid, "/bin/sh", "-c", 'echo "$#:$1"; echo oh >&2; exit 7', "x", "a b  $c")
    assert (done.returncode, done.stdout, done.stderr) == (7, "1:a b  $c\n", "oh\n")
    assert gantry(kit, "app", "exec", "--app=app0", uuid[:8], "true").returncode == 0
    assert not list(Path(kit.paths.run, "pods", uuid).glob("enter-*"))


def test_input_reaches_the_command_byte_for_byte(kit: Kit) -> None:
    uuid = running(kit)
    sent = bytes(range(256)) * 700
    done = subprocess.run(
        command(kit, "enter", uuid, "cat"), input=sent, capture_output=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (0, sent)


def test_a_command_that_a_signal_kills_ends_us_the_same_way(kit: Kit) -> None:
    uuid = running(kit)
    assert gantry(kit, "enter", uuid, "sh", "-c", "kill -SEGV $$").returncode == -signal.SIGSEGV
    assert gantry(kit, "enter", uuid, "sh", "-c", "kill -KILL $$").returncode == -signal.SIGKILL


STATUS = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "Seccomp", "NoNewPrivs", "Uid", "Gid", "Groups")


def held(text: str) -> dict[str, list[str]]:
    fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    return {name: fields[name].split() for name in STATUS}


@pytest.mark.parametrize("user", ["0", "web"])
@pytest.mark.parametrize("limits", [[], [make("os/linux/no-new-privileges", True)]])
def test_the_command_has_exactly_what_the_app_has(kit: Kit, user: str, limits: list[object]) -> None:
    """CVE-2019-10144, -10145 and -10147 were each one of these (RKT-INVENTORY 21)."""
    image = kit.store.add(user=user, group=user, supplementaryGIDs=[2000])
    retain = make("os/linux/capabilities-retain-set", {"set": ["CAP_CHOWN", "CAP_KILL"]})
    memory = make("resource/memory", {"limit": "64Mi"})
    uuid = running(kit, image=image, isolators=[retain, memory, *limits], read_only_rootfs=True)
    pid = pid_of(kit, uuid)
    script = (
        "cat /proc/self/status; echo; cat /proc/self/cgroup; for n in /proc/self/ns/*; do readlink $n; done; "
        "cat /proc/self/mountinfo; echo END; env; pwd"
    )
    done = gantry(kit, "enter", uuid, "/bin/sh", "-c", script, env={"SECRET_OF_CALLER": "x", "TERM": "foo"})
    assert done.returncode == 0, done.stderr
    assert held(done.stdout) == held(Path(f"/proc/{pid}/status").read_text())
    outside = Path(f"/proc/{pid}/mountinfo").read_text()
    roots = [line.split()[4] for line in outside.splitlines()]
    assert [
        line.split()[4] for line in done.stdout.splitlines() if re.match(r"\d+ \d+ \d+:\d+ ", line)
    ] == roots
    for name in os.listdir(f"/proc/{pid}/ns"):
        if not name.endswith("_for_children"):
            assert os.readlink(f"/proc/{pid}/ns/{name}") in done.stdout, name
    variables = done.stdout.split("END\n")[1].splitlines()
    own = Path(f"/proc/{pid}/environ").read_text().split("\0")
    shell = ("SHLVL=", "PWD=", "_=", "OLDPWD=")
    assert {v for v in variables[:-1] if not v.startswith(shell)} == {
        v for v in own if v and not v.startswith(shell)
    }


def test_the_command_is_in_the_control_groups_of_the_app(kit: Kit) -> None:
    uuid = running(kit, isolators=[make("resource/memory", {"limit": "64Mi"})])
    sleeper = subprocess.Popen(command(kit, "enter", uuid, "sleep", "1000"), stdin=subprocess.DEVNULL)
    kit.processes.append(sleeper)  # type: ignore[arg-type]
    pid = pid_of(kit, uuid)

    (other,) = until(lambda: sleepers(kit, uuid))
    assert Path(f"/proc/{other}/cgroup").read_text() == Path(f"/proc/{pid}/cgroup").read_text()
    sleeper.kill()
    sleeper.wait()
    until(
        lambda: not sleepers(kit, uuid), seconds=60, what="the command ended with its caller that was killed"
    )
    until(lambda: not list(Path(kit.paths.run, "pods", uuid).glob("enter-*")), seconds=60)


def test_signals_reach_the_command(kit: Kit) -> None:
    uuid = running(kit)
    script = 'trap "echo got; exit 9" TERM; echo ready; while :; do sleep 0.1; done'
    with subprocess.Popen(
        command(kit, "enter", uuid, "sh", "-c", script), stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "got\n"
        assert process.wait(60) == 9


def test_the_command_ends_with_the_pod(kit: Kit) -> None:
    uuid = running(kit)
    process = subprocess.Popen(command(kit, "enter", uuid, "sleep", "1000"), stdin=subprocess.DEVNULL)
    until(lambda: sleepers(kit, uuid), what="the command runs")
    kit.processes[0].send_signal(signal.SIGTERM)
    assert kit.processes[0].wait(60) == 0
    assert process.wait(60) == -signal.SIGKILL


def test_what_cannot_be_entered_is_told_in_one_line(kit: Kit) -> None:
    uuid = running(kit, LIVE, "echo up; exit 0")
    until(lambda: get(kit.paths, uuid).apps[1].state == "exited")
    prepared = kit.prepare(kit.shell("true"))
    for words, said in (
        ((uuid,), "pod contains multiple apps: app0, app1 (say which: --app=app0)"),
        (("--app=app1", uuid), "isn't currently running"),
        (("--app=none", uuid), 'has no app "none" (it has app0, app1)'),
        ((prepared,), f'pod "{prepared}" isn\'t currently running (it is prepared'),
        (("ffffffff",), 'no matches found for "ffffffff"'),
        (("--app=app0", uuid, "/no/such"), "/no/such"),
        (("--app=app0", uuid, "nothing"), "is not in the app's PATH"),
        (("--app=app0", "--user=nobody-here", uuid, "true"), "nobody-here"),
        (("--app=app0", "--working-dir=/none", uuid, "true"), '"/none" does not exist'),
        (("--app=", uuid, "true"), "--app is empty"),
        (("--app=app0", uuid, ""), "the command is empty"),
        ((), "missing argument"),
    ):
        done = gantry(kit, "enter", *words)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (254, "", 1), (words, done.stderr)
        assert done.stderr.startswith("enter: ")
        assert said in done.stderr


def test_another_user_group_and_directory(kit: Kit) -> None:
    uuid = running(kit, image=kit.store.add(user="web", group="web"))
    done = gantry(
        kit, "enter", "--user=root", "--group=extra", "--working-dir=/tmp", uuid, "sh", "-c", "id; pwd"
    )
    assert "uid=0(root) gid=2000(extra)" in done.stdout
    assert done.stdout.endswith("/tmp\n")


def test_without_a_command_it_is_a_shell(kit: Kit) -> None:
    uuid = running(kit)
    done = gantry(kit, "enter", uuid, input="echo in $0\n")
    assert (done.returncode, done.stdout) == (0, "in /bin/sh\n")
    assert done.stderr == 'enter: no command specified, assuming "/bin/sh"\n'


def test_apps_are_listed_and_shown(kit: Kit) -> None:
    uuid = running(kit, LIVE, "echo up; exit 0")
    until(lambda: get(kit.paths, uuid).apps[1].state == "exited")
    done = gantry(kit, "app", "list", uuid)
    assert [line.split() for line in done.stdout.splitlines()] == [
        ["NAME", "STATE"],
        ["app0", "running"],
        ["app1", "exited"],
    ]
    shown = gantry(kit, "app", "status", "--app=app1", uuid).stdout.splitlines()
    assert shown[:2] == ["name=app1", "state=exited"]
    assert "exit_code=0" in shown
    assert (
        json.loads(gantry(kit, "app", "status", "--app=app0", "--format=json", uuid).stdout)["state"]
        == "running"
    )
    assert "multiple apps" in gantry(kit, "app", "status", uuid).stderr


# Terminals


def test_a_command_in_a_terminal_has_one_of_the_same_size_from_the_start(kit: Kit) -> None:
    uuid = running(kit)
    with Session(
        command(
            kit, "enter", uuid, "sh", "-c", "test -t 0 && test -t 1 && test -t 2 && stty size; echo T=$TERM"
        ),
        rows=31,
        columns=97,
        environment={"TERM": "screen"},
    ) as session:
        assert session.wait() == 0
        assert "31 97" in session.shown.decode()
        assert "T=screen" in session.shown.decode()
        assert session.modes() == session.before


def test_a_shell_in_a_terminal_is_told_sizes_and_has_job_control(kit: Kit) -> None:
    uuid = running(kit)
    with Session(command(kit, "enter", uuid)) as session:
        session.expect("assuming")
        session.type("echo re''ady; trap 'echo resi''zed' WINCH\n")
        session.expect("ready")
        session.resize(50, 120)
        session.type("stty size\n")
        session.expect("50 120")
        session.type("/bin/sleep 1000\n")
        until(lambda: sleepers(kit, uuid))
        session.type("\x1a")  # ctrl-Z stops the job, not us
        session.expect("Stopped")
        session.type("fg\n")
        session.expect("sleep 1000\r\n")

        def interrupted() -> bool:
            session.type("\x03")  # ctrl-C ends the job, not the shell
            session.read(0.1)
            return not sleepers(kit, uuid)

        until(interrupted, seconds=60)
        session.type("echo al''ive\n")
        session.expect("alive")
        session.type("exit 5\n")
        assert session.wait() == 5
        assert session.modes() == session.before
    until(lambda: not of_session(kit, uuid), seconds=60, what="nothing of the session is left in the pod")


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_a_session_whose_caller_is_ended_ends(kit: Kit, how: signal.Signals) -> None:
    uuid = running(kit)
    with Session(command(kit, "enter", uuid)) as session:
        session.type("echo re''ady\n")
        session.expect("ready")
        assert of_session(kit, uuid)
        session.process.send_signal(how)
        session.wait()
        until(lambda: not of_session(kit, uuid), seconds=60, what="the shell has ended")
        if how != signal.SIGKILL:
            assert session.modes() == session.before


def test_an_interactive_app_has_the_terminal(kit: Kit) -> None:
    script = 'stty size; read line; echo "got $line"; stty size; exit 4'
    uuid = kit.prepare(kit.shell(script, name="main"), interactive=True)
    with Session(kit.argv("run-prepared", uuid), rows=33, columns=99) as session:
        session.expect("33 99")
        session.resize(40, 100)
        session.type("a line\n")
        session.expect("got a line")
        session.expect("40 100")
        assert session.wait() == 4
        assert session.modes() == session.before
    assert get(kit.paths, uuid).exit_status == 4


def test_a_quick_interactive_app_loses_nothing(kit: Kit) -> None:
    for _ in range(5):
        uuid = kit.prepare(kit.shell("stty size; seq 3000", name="main"), interactive=True)
        with Session(kit.argv("run-prepared", uuid), rows=11, columns=22) as session:
            assert session.wait() == 0
            lines = session.shown.decode().split("\r\n")
        first = lines.index("11 22") + 1
        assert lines[first : first + 3000] == [str(number) for number in range(1, 3001)]


def test_an_interactive_app_without_a_terminal_reads_our_input(kit: Kit) -> None:
    uuid = kit.prepare(kit.shell("cat; test -t 0 || echo none", name="main"), interactive=True)
    done = subprocess.run(
        kit.argv("run-prepared", uuid),
        input="some\n",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "some\nnone\n")


def test_ctrl_c_reaches_the_interactive_app_and_not_us(kit: Kit) -> None:
    script = 'trap "echo inter; exit 6" INT; echo ready; while :; do sleep 0.1; done'
    uuid = kit.prepare(kit.shell(script, name="main"), interactive=True)
    with Session(kit.argv("run-prepared", uuid)) as session:
        session.expect("ready")
        session.type("\x03")
        session.expect("inter")
        assert session.wait() == 6
        assert session.modes() == session.before


def test_interactive_is_for_one_app(kit: Kit) -> None:
    with pytest.raises(UsageError, match="pods with one app"):
        kit.prepare(kit.shell("true", name="a"), kit.shell("true", name="b"), interactive=True)


def test_a_launcher_in_a_terminal_that_is_killed_takes_its_pod_along(kit: Kit) -> None:
    uuid = kit.prepare(kit.shell(LIVE, name="main"), interactive=True)
    with Session(kit.argv("run-prepared", uuid)) as session:
        session.expect("up")
        pause = get(kit.paths, uuid).pid
        assert pause
        start = namespaces.start_time(pause)
        session.process.kill()
        session.wait()
        until(lambda: not namespaces.is_same_process(pause, start or 0), seconds=60)
