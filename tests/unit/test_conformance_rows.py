"""docs/conformance.md is true: every row is cited by a test or explained, and what the page names exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from tests.conformance import test_manifests_beside_actool as beside

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "conformance.md").read_text()
SECTIONS = {
    "TYP": 31,
    "ACI": 24,
    "MAN": 42,
    "SIG": 12,
    "DEP": 30,
    "POD": 35,
    "DSC": 34,
    "EXE": 37,
    "VOL": 32,
    "ISO": 58,
    "OSL": 17,
    "MDS": 30,
}
ROWS = {f"{section}-{number:02}" for section, last in SECTIONS.items() for number in range(1, last + 1)}


def names_of_tests() -> set[str]:
    """The names of all test functions of the tree."""
    return {
        node.name
        for path in (ROOT / "tests").rglob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name.startswith("test_")
    }


def cited(names: set[str]) -> set[str]:
    """The rows in *names*: ``test_MAN_12_14_…`` cites two of MAN, ``test_OSL_01_to_03_…`` three of OSL."""
    sections = "|".join(SECTIONS)
    found = set()
    for name in names:
        numbers = rf"(?<![A-Z])({sections})((?:_\d\d(?!\d)(?:_to(?=_\d\d))?)+)"
        for section, text in re.findall(numbers, name):
            for first, last in re.findall(r"_(\d\d)(?:_to_(\d\d))?", text):
                found |= {f"{section}-{number:02}" for number in range(int(first), int(last or first) + 1)}
    return found


def table(heading: str) -> list[list[str]]:
    """The cells of the table below *heading*."""
    part = PAGE.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    lines = [line for line in part.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_every_row_is_cited_or_explained() -> None:
    names = cited(names_of_tests())
    explained = {row[0] for row in table("Rows without a test")}
    assert sorted(ROWS - names - explained) == []
    assert sorted(explained & names) == [], "these have tests by now"
    assert sorted(explained - ROWS) == []
    assert all(len(row) == 3 and all(row) for row in table("Rows without a test"))


def test_no_test_cites_a_row_that_is_none() -> None:
    assert sorted(cited(names_of_tests()) - ROWS) == []


def test_the_page_says_what_sections_there_are() -> None:
    stated = re.findall(r"^\| ([A-Z]+) \| 01 … (\d+) \|", PAGE, re.MULTILINE)
    assert {section: int(last) for section, last in stated} == SECTIONS


def test_what_the_page_names_exists() -> None:
    names = names_of_tests()
    assert [name for name in re.findall(r"`(test_\w+)`", PAGE) if name not in names] == []
    assert [path for path in re.findall(r"`(tests/[\w/.]+)`", PAGE) if not (ROOT / path).is_file()] == []


def test_the_differences_are_those_that_are_tested() -> None:
    refused, accepted = ({key.split(":")[0] for key in part} for part in (beside.WE_REFUSE, beside.WE_ACCEPT))
    stated = {row: verdict for row, verdict, _ in table("Where text and reference tools differ")}
    assert stated == dict.fromkeys(refused, "refuses") | dict.fromkeys(accepted, "reads")
    agreed = re.search(r"manifest for each, and (\d+) about", PAGE)
    assert agreed is not None
    assert int(agreed[1]) <= len(beside.AGREED) < int(agreed[1]) + 20


def test_the_reader_of_names_knows_lists_and_ranges() -> None:
    assert cited({"test_EXE_03_05_x", "test_OSL_01_to_03_y", "test_ISO_10_20_to_21_5"}) == {
        *("EXE-03", "EXE-05", "OSL-01", "OSL-02", "OSL-03"),
        *("ISO-10", "ISO-20", "ISO-21"),
    }


def test_the_reader_of_names() -> None:
    assert cited(
        {"test_MAN_12_MAN_13_x", "test_POD_06_TRAP_07_y", "test_DEP_1", "test_XMAN_01", "test_SIG_012"}
    ) == {
        "MAN-12",
        "MAN-13",
        "POD-06",
    }
