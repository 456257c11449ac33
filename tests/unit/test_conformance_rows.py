"""Every row of the specification about images has a test that names it, or stands in docs/conformance.md."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SECTIONS = {"TYP": 31, "ACI": 24, "MAN": 42, "SIG": 12, "DEP": 30, "POD": 35}
ROW = re.compile(r"(TYP|ACI|MAN|SIG|DEP|POD)_(\d\d)")


def named_in_tests() -> set[str]:
    """The rows in the names of test functions."""
    names: set[str] = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                names |= {f"{section}-{number}" for section, number in ROW.findall(node.name)}
    return names


def excused() -> set[str]:
    """The rows that the page says have no test."""
    page = (ROOT / "docs/conformance.md").read_text()
    return set(re.findall(r"^\| ((?:TYP|ACI|MAN|SIG|DEP|POD)-\d\d) \|", page, re.MULTILINE))


def test_every_row_has_a_test_or_a_reason() -> None:
    rows = {f"{section}-{n:02}" for section, count in SECTIONS.items() for n in range(1, count + 1)}
    named = named_in_tests()
    assert sorted(rows - named - excused()) == []
    assert sorted(excused() & named) == [], "has a test by now: take it out of the table"
    assert sorted(named - rows) == [], "no such row"
