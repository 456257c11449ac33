"""Handing an app to systemd: whatever goes wrong on the way is told in the journal."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator

import pytest

from gantry.errors import HostError
from gantry.linux import cgroups
from gantry.pods import launch, leave

WORDS = ["run-prepared", "--leave", "0b5c9a12-0000-4000-8000-000000000000"]


def raising(error: BaseException) -> Callable[[list[str]], int]:
    def fail(_words: list[str]) -> int:
        raise error

    return fail


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroups, "delegated", lambda _layout: None)


def test_a_defect_of_the_worker_shows_its_traceback(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(launch, "main", raising(ZeroDivisionError("a defect")))
    assert leave.run(WORDS, "@nobody") == 254
    told = capfd.readouterr().err
    assert "Traceback" in told
    assert told.rstrip().endswith("ZeroDivisionError: a defect")


def test_what_the_kernel_refuses_the_worker_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(launch, "main", raising(PermissionError(1, "Operation not permitted", "/x")))
    assert leave.run(WORDS, "@nobody") == 254
    assert capfd.readouterr().err == (
        "run-prepared: the kernel refused: [Errno 1] Operation not permitted: '/x'\n"
    )


def test_a_launcher_that_refuses_has_told_why_itself(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(launch, "main", lambda _words: 254)
    assert leave.run(WORDS, "@nobody") == 254
    assert capfd.readouterr().err == ""


def test_what_is_refused_while_handing_over_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(_layout: object) -> None:
        raise OSError(16, "Device or resource busy")

    monkeypatch.setattr(cgroups, "delegated", fail)
    monkeypatch.setattr(launch, "main", lambda _words: 254)
    assert leave.run(WORDS, "@nobody") == 254
    assert capfd.readouterr().err == "run-prepared: the kernel refused: [Errno 16] Device or resource busy\n"


@pytest.fixture(name="child")
def _child() -> Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen(["sleep", "600"])
    yield child
    child.kill()
    child.wait()


def losing_stops(monkeypatch: pytest.MonkeyPatch, lost: int) -> list[int]:
    """The first *lost* stops never arrive, as when a thread that goes away in execve has taken them."""
    sent: list[int] = []
    real = os.kill

    def kill(pid: int, number: int) -> None:
        sent.append(number)
        if number != signal.SIGSTOP or len(sent) > lost:
            real(pid, number)

    monkeypatch.setattr(os, "kill", kill)
    return sent


def test_a_lost_stop_is_sent_again(monkeypatch: pytest.MonkeyPatch, child: subprocess.Popen[bytes]) -> None:
    sent = losing_stops(monkeypatch, 2)
    monkeypatch.setattr(leave, "_app", lambda _words: child.pid)
    held, hold = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    assert leave._hold(WORDS, hold) == 0
    assert os.read(held, 1) == b"h"
    assert sent == [signal.SIGSTOP] * 3
    with open(f"/proc/{child.pid}/stat", encoding="ascii") as f:
        assert f.read().rpartition(")")[2].split()[0] == "T"


def test_an_app_that_cannot_be_stopped_is_given_up(
    monkeypatch: pytest.MonkeyPatch, child: subprocess.Popen[bytes]
) -> None:
    losing_stops(monkeypatch, 10_000)
    monkeypatch.setattr(leave, "_app", lambda _words: child.pid)
    monkeypatch.setattr(leave, "_HOLD_PATIENCE", 0.1)
    held, hold = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    with pytest.raises(HostError, match="can neither be stopped"):
        leave._hold(WORDS, hold)
    assert os.read(held, 1) == b"e"  # the other side ends what is left of the pod


def test_an_app_that_has_ended_keeps_its_status(monkeypatch: pytest.MonkeyPatch) -> None:
    child = subprocess.Popen(["sh", "-c", "exit 7"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    monkeypatch.setattr(leave, "_app", lambda _words: child.pid)
    held, hold = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    assert leave._hold(WORDS, hold) == 7
    assert os.read(held, 1) == b"e"
    child.wait()
