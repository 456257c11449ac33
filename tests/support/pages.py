"""The documentation's examples, run as a reader would: block after block, in one shell.

A block of ``sh`` is run. A block of ``text`` right after it is what it prints: its lines have to appear in
that order, a ``…`` stands for anything. Other kinds of blocks are not commands.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import NamedTuple

_BLOCK = re.compile(r"^```(sh|text)\n(.*?)^```\n(?:\n?(?=```text))?", re.DOTALL | re.MULTILINE)


class Example(NamedTuple):
    """Commands of a page, and the lines that they show."""

    line: int
    commands: str
    shown: list[str]


def examples(page: Path) -> list[Example]:
    """Every block of commands of *page*, in order."""
    text = page.read_text()
    found: list[Example] = []
    end = -1
    for match in _BLOCK.finditer(text):
        kind, body = match.groups()
        if kind == "sh":
            found.append(Example(text.count("\n", 0, match.start()) + 1, body, []))
        elif match.start() == end:
            found[-1].shown.extend(body.splitlines())
        end = match.end()
    return found


def run_page(page: Path, directory: Path, prelude: str, *, timeout: float = 300) -> list[str]:
    """Run all examples of *page* in *directory*; what went wrong, nothing when all is as it says.

    Args:
        page: The page.
        directory: Where the shell starts.
        prelude: What the shell does first: the way to the program, say.
        timeout: Seconds for all of them.
    """
    found = examples(page)
    mark = "@@ example"
    script = [prelude, "set -e"]
    for number, example in enumerate(found):
        script += [f"echo '{mark} {number}'", example.commands]
    done = subprocess.run(
        ["/bin/bash", "-c", "\n".join(script)],
        cwd=directory,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
        check=False,
    )
    _, *parts = re.split(rf"^{mark} \d+\n", done.stdout, flags=re.MULTILINE)
    problems = [
        f"{page.name}:{example.line}: not printed: {line!r}; printed:\n{said}"
        for example, said in zip(found, parts, strict=False)
        for line in missing(example.shown, said.splitlines())
    ]
    if done.returncode or len(parts) < len(found):
        at = found[len(parts) - 1].line if parts else 0
        problems.append(f"{page.name}:{at}: exit {done.returncode}; printed:\n{done.stdout[-2000:]}")
    return problems


def missing(shown: list[str], said: list[str]) -> list[str]:
    """The lines of *shown* that *said* does not have, in that order."""
    lines = iter(said)
    lost = []
    for line in filter(None, shown):
        pattern = re.compile(".*".join(map(re.escape, line.rstrip().split("…"))))
        if not any(pattern.fullmatch(each.rstrip()) for each in lines):
            lost.append(line)
            lines = iter(said)
    return lost
