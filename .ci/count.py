"""Add up all test runs: ``count.py DIRECTORY [FAILED-STEP ...]``.

Prints each failure, the reasons of skips with their counts, a closing line. Exit status 1 if anything failed.
A step that failed without a failing test in a report (a linter, a run that crashed) counts as one failure.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree


def main(directory: Path, steps: list[str]) -> int:
    """Count and tell."""
    passed = failed = 0
    skips: Counter[str] = Counter()
    for path in sorted(directory.glob("*.xml")):
        try:
            # The reports are our own test runs' output, made a moment ago.
            cases = list(ElementTree.parse(path).iter("testcase"))  # noqa: S314
        except ElementTree.ParseError:
            print(f"{path}: is no whole report")
            failed += 1
            continue
        bad = good = 0
        for case in cases:
            problem = case.find("failure")
            if problem is None:
                problem = case.find("error")
            skip = case.find("skipped")
            if problem is not None:
                bad += 1
                first = (problem.get("message") or "").strip().splitlines()
                where = f"{path.stem} {case.get('classname')}::{case.get('name')}"
                print(f"FAILED {where}: {first[0] if first else ''}")
            elif skip is not None:
                skips[(skip.get("message") or "no reason given").strip()] += 1
            else:
                good += 1
        print(f"{path.stem}: {good} passed, {bad} failed, {len(cases) - good - bad} skipped.")
        passed += good
        failed += bad
    for reason, count in skips.most_common():
        print(f"skipped {count}: {reason}")
    if steps:
        print(f"failed steps: {', '.join(steps)}")
    failed = max(failed, len(steps))
    if not passed:
        print("no test has passed")
    print(f"{passed} passed, {failed} failed, {sum(skips.values())} skipped")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
