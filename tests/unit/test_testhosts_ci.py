"""The gate's last line is what a machine reads: it must add up, and never be green by accident."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

COUNT = Path(__file__).resolve().parents[2] / ".ci/count.py"

GOOD = """<testsuites><testsuite>
<testcase classname="a" name="b"/><testcase classname="a" name="c"/>
</testsuite></testsuites>"""
MIXED = """<testsuites><testsuite>
<testcase classname="a" name="good"/>
<testcase classname="a" name="bad"><failure message="assert 1 == 2&#10;more">text</failure></testcase>
<testcase classname="a" name="broken"><error message="fixture">text</error></testcase>
<testcase classname="a" name="left out"><skipped message="needs root">text</skipped></testcase>
</testsuite></testsuites>"""


def count(directory: Path, *steps: str) -> tuple[int, list[str]]:
    done = subprocess.run(
        [sys.executable, "-I", str(COUNT), str(directory), *steps],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    return done.returncode, done.stdout.splitlines()


def test_reports_are_added_up(tmp_path: Path) -> None:
    (tmp_path / "one.xml").write_text(GOOD)
    (tmp_path / "two.xml").write_text(GOOD)
    status, lines = count(tmp_path)
    assert status == 0
    assert lines[-1] == "4 passed, 0 failed, 0 skipped"


def test_failures_are_named_and_skips_have_reasons(tmp_path: Path) -> None:
    (tmp_path / "one.xml").write_text(MIXED)
    status, lines = count(tmp_path, "test")
    assert status == 1
    assert "FAILED one a::bad: assert 1 == 2" in lines
    assert "FAILED one a::broken: fixture" in lines
    assert "skipped 1: needs root" in lines
    assert "failed steps: test" in lines
    assert lines[-1] == "1 passed, 2 failed, 1 skipped"


@pytest.mark.parametrize(
    ("report", "steps", "last"),
    [
        (None, [], "0 passed, 0 failed, 0 skipped"),
        (GOOD, ["demo"], "2 passed, 1 failed, 0 skipped"),
        ("<testsuites><tes", [], "0 passed, 1 failed, 0 skipped"),
    ],
)
def test_nothing_run_or_a_step_that_broke_is_no_success(
    tmp_path: Path, report: str | None, steps: list[str], last: str
) -> None:
    if report is not None:
        (tmp_path / "one.xml").write_text(report)
    status, lines = count(tmp_path, *steps)
    assert status == 1
    assert lines[-1] == last
