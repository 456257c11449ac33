"""Handing an app to systemd: whatever goes wrong on the way is told in the journal."""

from __future__ import annotations

from collections.abc import Callable

import pytest

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
