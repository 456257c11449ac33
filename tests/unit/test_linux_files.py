"""gantry.linux.fs and gantry.linux.locks."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import stat
import subprocess
import threading
from pathlib import Path

import pytest

from gantry.errors import BusyError
from gantry.linux import fs
from gantry.linux.locks import locked


def test_open_beneath_cannot_be_led_out(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "d").mkdir(parents=True)
    (root / "d/f").write_text("in")
    (tmp_path / "secret").write_text("out")
    os.symlink("../secret", root / "up")
    os.symlink("/etc", root / "absolute")
    os.symlink("d", root / "inner")
    fd = fs.open_directory(str(root))
    try:
        inside = fs.open_beneath(fd, b"d/f", os.O_RDONLY)
        assert os.read(inside, 10) == b"in"
        assert not os.get_inheritable(inside)
        os.close(inside)
        for path in ("up", "absolute/passwd", "../secret", "/etc/passwd", "inner/f", "d/../../secret"):
            with pytest.raises(OSError, match="openat2"):
                fs.open_beneath(fd, path, os.O_RDONLY)
    finally:
        os.close(fd)


def test_atomic_write(tmp_path: Path) -> None:
    path = tmp_path / "f"
    old = os.umask(0o077)
    try:
        fs.atomic_write(str(path), b"one", 0o640)
    finally:
        os.umask(old)
    assert path.read_bytes() == b"one"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    fs.atomic_write(str(path), b"two")
    assert path.read_bytes() == b"two"
    path.unlink()
    path.mkdir()
    with pytest.raises(OSError, match="directory"):
        fs.atomic_write(str(path), b"three")
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_rename_noreplace_and_exchange(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b/x").write_text("x")
    with pytest.raises(FileExistsError):
        fs.rename_noreplace(str(tmp_path / "a"), str(tmp_path / "b"))
    fs.rename_exchange(str(tmp_path / "a"), str(tmp_path / "b"))
    assert (tmp_path / "a/x").read_text() == "x"
    fs.rename_noreplace(str(tmp_path / "b"), str(tmp_path / "c"))
    assert (tmp_path / "c").read_text() == "a"


def test_remove_tree_follows_no_link(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "f").write_text("stays")
    top = tmp_path / "top"
    (top / "a/b").mkdir(parents=True)
    os.symlink(outside, top / "a/link")
    os.symlink(outside, tmp_path / "toplink")
    (top / "a/b").chmod(0)
    fs.remove_tree(str(top))
    fs.remove_tree(str(tmp_path / "toplink"))
    fs.remove_tree(str(tmp_path / "nothing"))
    assert not top.exists()
    assert (outside / "f").read_text() == "stays"


def test_remove_tree_of_any_depth(tmp_path: Path) -> None:
    os.mkdir(tmp_path / "top")
    fd = os.open(tmp_path / "top", os.O_RDONLY | os.O_DIRECTORY)
    for depth in range(1500):
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
        os.close(fd)
        fd = below
        if depth % 100 == 0:
            os.close(os.open("f", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    os.close(fd)
    before = len(os.listdir("/proc/self/fd"))
    fs.remove_tree(str(tmp_path / "top"))
    assert list(tmp_path.iterdir()) == []
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("into", ["link", "file", "nothing"])
def test_remove_tree_while_somebody_exchanges_what_is_in_it(
    tmp_path: Path, into: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each time a directory is about to be entered, it is exchanged for something else."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "mine").write_text("mine")
    real_open = fs.openat2

    def opening(parent: int, name: bytes, flags: int, mode: int, resolve: int) -> int:
        place = Path(os.readlink(f"/proc/self/fd/{parent}")) / os.fsdecode(name)
        shutil.rmtree(place)
        if into == "link":
            place.symlink_to(outside)
        elif into == "file":
            place.write_text("x")
        return real_open(parent, name, flags, mode, resolve)

    for below in ("top", "top/a/b"):
        (tmp_path / below / "c").mkdir(parents=True)
        monkeypatch.setattr(fs, "openat2", opening)
        fs.remove_tree(str(tmp_path / "top"))
        monkeypatch.setattr(fs, "openat2", real_open)
        assert sorted(os.listdir(tmp_path)) == ["outside"]
        assert (outside / "mine").read_text() == "mine"


def test_remove_tree_by_several_at_once(tmp_path: Path) -> None:
    for index in range(300):
        (tmp_path / f"top/{index % 7}/{index}").mkdir(parents=True)
        (tmp_path / f"top/{index % 7}/{index}/f").write_text("")
    errors: list[BaseException] = []

    def remove() -> None:
        try:
            fs.remove_tree(str(tmp_path / "top"))
        except BaseException as error:  # noqa: BLE001
            errors.append(error)

    threads = [threading.Thread(target=remove) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert not (tmp_path / "top").exists()


def test_used_bytes_counts_every_inode_once(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d/f").write_bytes(b"1" * 100_000)
    os.link(tmp_path / "d/f", tmp_path / "d/g")
    os.symlink("/usr", tmp_path / "d/l")
    alone = (tmp_path / "d/f").stat().st_blocks * 512
    assert alone <= fs.used_bytes(str(tmp_path)) < 2 * alone
    assert fs.used_bytes(str(tmp_path / "nothing")) == 0


# -- locks --------------------------------------------------------------------------------------------


def is_locked(path: str) -> bool:
    try:
        with locked(path, timeout=0, create=False):
            return False
    except FileNotFoundError:
        return False
    except BusyError:
        return True


def test_exclusive_and_shared(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    with locked(path, shared=True), locked(path, shared=True):
        assert is_locked(path)
        with pytest.raises(BusyError), locked(path, timeout=0):
            pass
        with pytest.raises(BusyError), locked(path, timeout=0.05):
            pass
    assert not is_locked(path)
    with locked(path, timeout=0), pytest.raises(BusyError), locked(path, shared=True, timeout=0):
        pass
    assert not is_locked(str(tmp_path / "nothing"))


def test_a_directory_is_its_own_lock(tmp_path: Path) -> None:
    with locked(str(tmp_path), create=False):
        assert is_locked(str(tmp_path))
    with pytest.raises(FileNotFoundError), locked(str(tmp_path / "no"), create=False):
        pass


def test_removed_locks_still_exclude(tmp_path: Path) -> None:
    """Many waiters on a lock that its holder removes: never two inside."""
    path = str(tmp_path / "lock")
    inside = 0
    worst = 0
    guard = threading.Lock()

    def work() -> None:
        nonlocal inside, worst
        for _ in range(50):
            with locked(path, remove=True):
                with guard:
                    inside += 1
                    worst = max(worst, inside)
                with guard:
                    inside -= 1

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert worst == 1
    assert list(tmp_path.iterdir()) == []


def test_who_waited_for_a_lock_that_was_removed_has_the_one_that_counts(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    waiting = threading.Event()
    same: list[bool] = []

    def second() -> None:
        with locked(path, remove=True, on_wait=waiting.set) as fd:
            same.append(os.path.exists(path) and os.path.samestat(os.fstat(fd), os.stat(path)))

    with locked(path, remove=True):
        thread = threading.Thread(target=second)
        thread.start()
        assert waiting.wait(30)
    thread.join(30)
    assert same == [True]


def _hold(path: str, ready: multiprocessing.Queue[int]) -> None:
    with locked(path):
        ready.put(os.getpid())
        threading.Event().wait()


def test_kill_9_frees_a_lock(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    context = multiprocessing.get_context("fork")
    ready: multiprocessing.Queue[int] = context.Queue()
    process = context.Process(target=_hold, args=(path, ready))
    process.start()
    ready.get(timeout=30)
    waited: list[bool] = []
    assert is_locked(path)
    process.kill()
    with locked(path, timeout=30, on_wait=lambda: waited.append(True)):
        pass
    process.join()


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts")
def test_remove_tree_enters_nothing_that_is_mounted(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/mine").write_text("mine")
    point = tmp_path / "top/a/point"
    point.mkdir(parents=True)
    assert fs.mount_at_or_below(str(tmp_path / "top")) is None
    if subprocess.run(["mount", "--bind", tmp_path / "outside", point], check=False).returncode:
        pytest.skip("mounting is not possible here")
    try:
        assert fs.mount_at_or_below(str(tmp_path / "top")) == str(point)
        assert fs.mount_at_or_below(str(point)) == str(point)
        assert fs.mount_at_or_below(str(tmp_path / "to")) is None
        for top in (tmp_path / "top", point):
            with pytest.raises(OSError, match="cross-device"):
                fs.remove_tree(str(top))
        assert (tmp_path / "outside/mine").read_text() == "mine"
    finally:
        subprocess.run(["umount", point], check=True)
    fs.remove_tree(str(tmp_path / "top"))
