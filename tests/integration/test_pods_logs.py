"""What apps write: passed on as it is, kept within bounds, read while they run and afterwards."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.pods import RUNTIME, Kit, make_kit, until

from gantry.pods import get, remove
from gantry.pods.logs import find, lines
from gantry.pods.output import LIMIT, Log

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


@pytest.fixture
def kit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kit]:
    yield from make_kit(tmp_path, monkeypatch)


def command(kit: Kit, *words: str) -> list[str]:
    code = f"import sys; sys.path.insert(0, {RUNTIME!r}); from gantry.cli import main; sys.exit(main())"
    return [sys.executable, "-c", code, f"--dir={kit.paths.data}", f"--run-dir={kit.paths.run}", *words]


def logs(kit: Kit, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(kit, "logs", *words), capture_output=True, text=True, timeout=60, check=False
    )


def test_EXE_27_output_is_passed_on_and_kept(kit: Kit) -> None:
    uuid = kit.prepare(kit.shell("echo one; echo two >&2; printf three", name="main"))
    done = kit.run(uuid)
    assert done.stdout == "one\nthree"
    assert "two\n" in done.stderr
    shown = logs(kit, uuid)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert sorted(shown.stdout.splitlines()) == ["one", "three", "two"]
    assert Path(get(kit.paths, uuid).path, "logs/main").stat().st_mode & 0o777 == 0o640
    remove(kit.paths, uuid)
    gone = logs(kit, uuid)
    assert (gone.returncode, gone.stderr) == (
        254,
        f'logs: no matches found for "{uuid}" (gantry list shows all pods)\n',
    )


def test_bytes_arrive_as_they_were_written(kit: Kit) -> None:
    script = "i=0; while [ $i -lt 300 ]; do cat /data; i=$((i+1)); done"
    data = bytes(range(256)) * 40
    uuid = kit.prepare(kit.shell(script, name="main", image=kit.store.add(files={"/data": data})))
    done = subprocess.run(kit.argv("run-prepared", uuid), capture_output=True, timeout=60, check=False)
    assert done.stdout == data * 300
    shown = subprocess.run(command(kit, "logs", uuid), capture_output=True, timeout=60, check=True).stdout
    assert shown == data * 300 + b"\n"  # the last line has an end now


def test_the_order_stays_where_output_and_error_are_one(kit: Kit) -> None:
    script = "i=0; while [ $i -lt 500 ]; do echo $i; i=$((i+1)); echo $i >&2; i=$((i+1)); done"
    uuid = kit.prepare(kit.shell(script, name="main"))
    done = kit.run(uuid, stderr=subprocess.STDOUT)
    wanted = [str(number) for number in range(500)]
    assert [line for line in done.stdout.splitlines() if line.isdigit()] == wanted
    assert logs(kit, uuid).stdout.splitlines() == wanted


def test_apps_are_told_apart(kit: Kit) -> None:
    uuid = kit.prepare(kit.shell("echo a", name="one"), kit.shell("echo b", name="two"))
    assert kit.run(uuid).returncode == 0
    assert sorted(logs(kit, uuid).stdout.splitlines()) == ["one: a", "two: b"]
    assert logs(kit, "--app=two", uuid).stdout == "b\n"
    assert 'has no app "three" (it has one, two)' in logs(kit, "--app=three", uuid).stderr


def test_handlers_of_events_are_kept_with_their_app(kit: Kit) -> None:
    handlers = [
        {"name": "pre-start", "exec": ["/bin/echo", "before"]},
        {"name": "post-stop", "exec": ["/bin/echo", "after"]},
    ]
    image = kit.store.add(eventHandlers=handlers)
    uuid = kit.prepare(kit.shell("echo during", name="main", image=image))
    assert kit.run(uuid).stdout == "before\nduring\nafter\n"
    assert logs(kit, uuid).stdout == "before\nduring\nafter\n"


def test_lines_are_followed_until_the_pod_has_ended(kit: Kit) -> None:
    script = "echo first; while [ ! -e /go ]; do sleep 0.05; done; echo second; exit 3"
    uuid = kit.prepare(kit.shell(script, name="main"))
    launcher = kit.start(uuid)
    assert launcher.stdout
    assert launcher.stdout.readline() == "first\n"
    with subprocess.Popen(
        command(kit, "logs", "--follow", "--timestamps", uuid), stdout=subprocess.PIPE, text=True
    ) as follower:
        assert follower.stdout
        first = follower.stdout.readline()
        assert first.endswith("Z first\n")
        assert (
            abs(time.time() - time.mktime(time.strptime(first[:19], "%Y-%m-%dT%H:%M:%S")) + time.timezone)
            < 900
        )
        pid = get(kit.paths, uuid).apps[0].pid
        Path(f"/proc/{pid}/root/go").touch()
        assert follower.stdout.readline().endswith("Z second\n")
        assert follower.wait(60) == 0
    assert launcher.wait(60) == 3


def test_the_last_lines_and_those_since(kit: Kit) -> None:
    uuid = kit.prepare(kit.shell("seq 100", name="main"))
    kit.run(uuid)
    assert logs(kit, "--tail=3", uuid).stdout.split() == ["98", "99", "100"]
    assert logs(kit, "--tail=0", uuid).stdout == ""
    assert len(logs(kit, "--since=1h", uuid).stdout.split()) == 100
    assert logs(kit, "--since=2100-01-01T00:00:00Z", uuid).stdout == ""
    for word in ("--since=yesterday", "--since=2100-13-01", "--tail=-1", "--app="):
        refused = logs(kit, word, uuid)
        assert (refused.returncode, refused.stderr.count("\n")) == (254, 1)


def test_who_has_no_log_is_told_why(kit: Kit) -> None:
    uuid = kit.prepare(kit.shell("true", name="main"))
    assert "it has not run yet" in logs(kit, uuid).stderr
    silent = kit.prepare(kit.shell("true", name="main"), interactive=True)
    kit.run(silent)
    assert "its output went to a terminal" in logs(kit, silent).stderr


def test_a_log_is_bounded_and_keeps_the_end(kit: Kit) -> None:
    script = (
        'i=0; while [ $i -lt 60 ]; do head -c 250000 /dev/zero | tr "\\0" "x"; echo " $i"; i=$((i+1)); done'
    )
    uuid = kit.prepare(kit.shell(script, name="main"))
    assert kit.run(uuid).returncode == 0
    directory = Path(get(kit.paths, uuid).path, "logs")
    sizes = {path.name: path.stat().st_size for path in directory.iterdir()}
    assert set(sizes) == {"main", "main.1"}
    assert all(size < LIMIT + 600_000 for size in sizes.values())
    kept = [line.text[-3:].strip() for line in lines(find(kit.paths, uuid, None))]
    assert [int(text) for text in kept][-1] == 59
    assert len(kept) >= LIMIT // 250_100


def test_a_full_disk_stops_no_app_and_lost_lines_are_counted(kit: Kit) -> None:
    script = "seq 20000; while [ ! -e /go ]; do sleep 0.05; done; echo end; exit 5"
    uuid = kit.prepare(kit.shell(script, name="main"))
    small = kit.find(uuid) / "logs"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(small)], check=True)
    try:
        launcher = kit.start(uuid)
        assert launcher.stdout
        seen = [launcher.stdout.readline().strip() for _ in range(20000)]
        assert seen[-1] == "20000"
        place = Path(get(kit.paths, uuid).path, "logs")
        subprocess.run(["mount", "-o", "remount,size=1m", str(place)], check=True)
        Path(f"/proc/{get(kit.paths, uuid).apps[0].pid}/root/go").touch()
        assert launcher.stdout.readline() == "end\n"
        assert launcher.wait(60) == 5
        told = logs(kit, uuid).stdout.splitlines()
        assert told[0] == "1"
        assert told[-1] == "end"
        (lost,) = [line for line in told if "lines are missing here: No space left on device" in line]
        missing = int(lost.split()[1])
        assert missing + len(told) - 2 == 20000
    finally:
        subprocess.run(["umount", str(Path(get(kit.paths, uuid).path, "logs"))], check=True)


def test_what_stays_lost_is_said_at_the_end(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("a file in the place of the directory")
    log = Log(str(tmp_path / "logs/main"))
    assert log.add(b"one\ntwo\nhalf") == b"half"
    log.end()
    assert (log.lost, bool(log.why)) == (2, True)


def test_an_app_whose_output_nobody_reads_is_told_so(kit: Kit) -> None:
    uuid = kit.prepare(kit.shell("while echo x; do :; done; exit 9", name="main"))
    launcher = kit.start(uuid)
    assert launcher.stdout
    launcher.stdout.readline()
    launcher.stdout.close()
    assert launcher.wait(60) in {9, 141}, "it got an error, or SIGPIPE"
    launcher.stdout = None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0\0\0\0",
        b"12 F",
        b"x F y\n",
        b"99999999999999999999999999 F y\n",
        b"12 Q y\n",
        b"12 P half\n",
        os.urandom(5000),
    ],
)
def test_a_damaged_log_shows_what_is_whole(kit: Kit, content: bytes) -> None:
    uuid = kit.prepare(kit.shell("echo good", name="main"))
    kit.run(uuid)
    path = Path(get(kit.paths, uuid).path, "logs/main")
    path.write_bytes(content + b"\n" + path.read_bytes())
    shown = subprocess.run(command(kit, "logs", uuid), capture_output=True, timeout=60, check=True).stdout
    assert shown.endswith(b"good\n")


def test_the_runtimes_own_complaint_is_not_told_twice(kit: Kit) -> None:
    uuid = kit.prepare(kit.shell("true", name="main"))
    config = kit.config(uuid, "main")
    config["root"]["path"] = "/nowhere"
    kit.find(uuid, "apps/main/config.json").write_text(json.dumps(config))
    done = kit.run(uuid)
    assert done.returncode == 254
    told = [line for line in done.stderr.splitlines() if "warning" not in line]
    assert len(told) == 1
    assert told[0].startswith('run-prepared: cannot start app "main": runc said: ')


def test_a_leftover_that_keeps_the_pipe_does_not_keep_the_pod(kit: Kit) -> None:
    uuid = kit.prepare(kit.shell("sleep 1000 & echo on", name="main"))
    assert kit.run(uuid).returncode == 0
    assert logs(kit, uuid).stdout == "on\n"
    until(lambda: get(kit.paths, uuid).state == "exited")
