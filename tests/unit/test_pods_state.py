"""States, locks and references of pods, without running any."""

from __future__ import annotations

import concurrent.futures
import fcntl
import json
import os
import shutil
import signal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gantry.config import Paths
from gantry.errors import BusyError, GantryError, HostError, UsageError
from gantry.linux import held, namespaces
from gantry.pods import etc, find_uuid, get, list_pods, state
from gantry.pods.arguments import parse
from gantry.pods.compile import ensure_directories
from gantry.pods.launch import main
from gantry.pods.mounting import escape
from gantry.pods.stopped import told_by_systemd

ONE, TWO = "aaaaaaaa-0000-4000-8000-000000000001", "aaaabbbb-0000-4000-8000-000000000002"


def make(data: str, name: str, uuid: str, **info: object) -> str:
    path = state.directory(data, name, uuid)
    os.makedirs(path)
    Path(path, "lock").touch()
    Path(path, "pod-created").touch()
    Path(path, "info.json").write_text(json.dumps({"uuid": uuid, "apps": [], **info}))
    return path


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths.make(data=str(tmp_path / "d"), run=str(tmp_path / "r"), system="/s", local="/l")


def test_words_for_directories_and_locks(paths: Paths) -> None:
    words = {}
    for name in ("prepare", "prepared", "run", "exited-garbage"):
        path = make(paths.data, name, ONE)
        free = get(paths, ONE).state
        lock = state.hold(path)
        words[name] = (free, get(paths, ONE).state)
        assert lock is not None
        os.close(lock)
        state.move(paths.data, ONE, name, "garbage") if os.path.isdir(
            f"{paths.data}/pods/garbage"
        ) else os.rename(path, f"{paths.data}/gone-{name}")
    assert words == {
        "prepare": ("aborted prepare", "preparing"),
        "prepared": ("prepared", "prepared"),
        "run": ("exited", "running"),
        "exited-garbage": ("exited garbage", "exited deleting"),
    }


def test_a_lock_can_be_held_once_and_a_moved_pod_not_at_all(paths: Paths) -> None:
    path = make(paths.data, "prepared", ONE)
    os.makedirs(f"{paths.data}/pods/run")
    lock = state.hold(path)
    assert lock is not None
    assert state.hold(path) is None
    state.move(paths.data, ONE, "prepared", "run")
    assert state.hold(path) is None
    with pytest.raises(BusyError, match="moved by another process"):
        state.move(paths.data, ONE, "prepared", "run")
    os.close(lock)


def test_references(paths: Paths) -> None:
    make(paths.data, "prepared", ONE, pod_name="web")
    make(paths.data, "run", TWO, pod_name="aaaa")
    assert find_uuid(paths, "AAAAA") == ONE
    assert find_uuid(paths, "web") == ONE
    with pytest.raises(UsageError, match="ambiguous uuid, 2 matches"):
        find_uuid(paths, "aaaa")  # a hex prefix wins over a name
    with pytest.raises(GantryError, match='no matches found for "shop"'):
        find_uuid(paths, "shop")
    assert [pod.uuid for pod in list_pods(paths)] == [ONE, TWO]


def test_a_damaged_pod_is_one_line_in_the_list(paths: Paths) -> None:
    """Issue 2063."""
    Path(make(paths.data, "run", ONE), "info.json").write_text('{"torn')
    [pod] = list_pods(paths)
    assert pod.error
    assert pod.as_dict()["uuid"] == ONE


def test_another_format_is_refused(paths: Paths) -> None:
    make(paths.data, "run", ONE)
    Path(paths.data, "pods/format").write_text("2\n")
    with pytest.raises(HostError, match="has format 2, this runtime reads 1"):
        list_pods(paths)


@given(st.recursive(st.none() | st.text() | st.integers(), st.lists, max_leaves=5))
def test_json_is_written_whole_and_ascii(value: object) -> None:
    path = f"/tmp/gantry-state-test-{os.getpid()}"
    state.write_json(path, {"v": value}, 0o600)
    with open(path, "rb") as file:
        assert file.read().isascii()
    assert state.read_json(path) == {"v": value}
    os.unlink(path)


def test_command_lines() -> None:
    flags = ["--dir=/d", "--run-dir", "/r", "--local-config=/x", "--debug"]
    assert parse([*flags, "run-prepared", "--leave", ONE]) == ("run-prepared", ONE, True, "/d", "/r")
    for words in (
        [],
        ["run-prepared"],
        ["run-prepared", ONE, TWO],
        ["rm", ONE],
        ["run-prepared", "--net=host", ONE],
    ):
        with pytest.raises(UsageError):
            parse(words)


def test_the_launcher_says_what_is_wrong_in_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main([f"--dir={tmp_path}", "run-prepared", "../../etc"]) == 254
    err = capsys.readouterr().err
    assert err.startswith("run-prepared: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("code", "status", "told"),
    [
        ("exited", "3", (3, None)),
        ("killed", "TERM", (143, 15)),
        ("dumped", "SEGV", (139, 11)),
        ("killed", "9", (137, 9)),
        ("killed", "PONIES", (None, None)),
        (None, "", (None, None)),
    ],
)
def test_what_systemd_tells(
    monkeypatch: pytest.MonkeyPatch, code: str | None, status: str, told: tuple[int | None, int | None]
) -> None:
    monkeypatch.delenv("EXIT_CODE", raising=False)
    if code:
        monkeypatch.setenv("EXIT_CODE", code)
    monkeypatch.setenv("EXIT_STATUS", status)
    assert told_by_systemd() == told


def test_paths_in_overlay_options() -> None:
    assert escape("/a:b,c\\d") == "/a\\:b\\,c\\\\d"


def from_network(texts: list[str]) -> str:
    return etc.resolv_conf(etc.reachable(texts), "from network default")


def test_name_servers_a_pod_cannot_reach_are_left_out() -> None:
    text = "# x\nnameserver 127.0.0.53\nnameserver 10.0.0.2\nnameserver ::1\nsearch a b\n"
    text += "options ndots:2\nnameserver\n"
    assert from_network([text]) == (
        "# Generated by gantry from network default\nsearch a b\noptions ndots:2\nnameserver 10.0.0.2\n"
    )
    assert from_network(["nameserver 127.0.0.1\n", "nameserver 9.9.9.9\n"]) == (
        "# Generated by gantry from network default\nnameserver 9.9.9.9\n"
    )
    assert etc.reachable(["nameserver 127.0.0.1"]).servers == []


def test_looking_at_a_lock_never_keeps_another_from_taking_it(paths: Paths) -> None:
    path = make(paths.data, "prepared", ONE)
    looker = os.fork()
    if not looker:
        try:
            while True:
                state.is_held(path)
        finally:
            os._exit(0)
    try:
        for _ in range(3000):
            lock = state.hold(path)
            assert lock is not None
            os.close(lock)
    finally:
        os.kill(looker, signal.SIGKILL)
        os.waitpid(looker, 0)


def test_who_may_only_read_a_lock_cannot_take_it(paths: Paths) -> None:
    path = make(paths.data, "prepared", ONE)
    fd = os.open(f"{path}/lock", os.O_RDONLY)
    with pytest.raises(OSError, match="Bad file descriptor"):
        held.take(fd)
    fcntl.flock(fd, fcntl.LOCK_EX)  # nor does a lock of another kind count
    lock = state.hold(path)
    assert lock is not None
    assert state.is_held(path)
    os.close(lock)
    os.close(fd)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_who_may_not_open_the_lock_is_told_by_the_pods_first_process(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make(paths.data, "run", ONE)
    os.chmod(f"{path}/lock", 0o600)
    for above in (
        paths.data,
        f"{paths.data}/pods",
        f"{paths.data}/pods/run",
        path,
        str(Path(paths.data).parent),
    ):
        os.chmod(above, 0o755)

    def seen() -> int:
        pid = os.fork()
        if not pid:
            os.setresuid(65534, 65534, 65534)
            os._exit(int(state.is_held(path)))
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    monkeypatch.chdir(path)
    path = "."
    assert seen() == 1  # it is starting
    own = {"boot_id": namespaces.boot_id(), "pause_pid": os.getpid()}
    state.write_json("sandbox.json", {**own, "pause_start": namespaces.start_time(os.getpid())}, 0o644)
    assert seen() == 1
    state.write_json("sandbox.json", {**own, "pause_start": 1}, 0o644)
    assert seen() == 0


def test_of_many_first_users_all_make_the_same_directories(tmp_path: Path) -> None:
    data = str(tmp_path / "data")
    os.umask(0o077)
    try:
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            for _ in range(20):
                shutil.rmtree(data, ignore_errors=True)
                list(pool.map(lambda _: ensure_directories(data), range(8)))
                assert Path(data, "pods/format").read_text() == "1\n"
    finally:
        os.umask(0o022)
    assert os.stat(data).st_mode & 0o7777 == 0o751
