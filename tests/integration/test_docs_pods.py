"""docs/pods.md is true: its commands are run, one block after the other, as a reader would."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.aci import file, make_aci, symlink
from tests.support.command import BUSYBOX, Site

PAGE = (Path(__file__).resolve().parents[2] / "docs/pods.md").read_text()
BLOCKS = [
    (heading, block)
    for heading, text in re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
]

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="pods need root")]

# What a block has to show, by the words that it begins with.
SHOWN = {
    "gantry run --net=none example.com/tool:1.0 --exec=/bin/echo -- hello": ["hello"],
    "gantry list": ["tool", "exited", "hello"],
    "gantry run --net=none example.com/tool:1.0 --name=one": ["a $b"],
    "gantry run --net=none --set-env=WHO=all": ["me"],
    "uuid=$(gantry prepare": ["0\n", "bin", "NAME"],
    "mkdir -p ./data": ["kept", "drwxr-x---", "1000"],
    "gantry run --net=none --exit-policy=any": ["removed"],
    "gantry doctor": ["OCI runtime"],
}


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with Site(tmp_path) as site:
        site.trust()
        tree = [
            file("bin/busybox", BUSYBOX.read_bytes(), mode=0o755),
            *(symlink(f"bin/{name}", "busybox") for name in ("sh", "true", "echo", "sleep", "ls", "id")),
        ]
        path = tmp_path / "tool.aci"
        labels = {"version": "1.0", "os": "linux", "arch": "amd64"}
        made = make_aci(path, "example.com/tool", labels=labels, tree=tree, exec_=["/bin/true"])
        site.files["/example.com/tool-1.0-linux-amd64.aci"] = made.data
        site.files["/example.com/tool-1.0-linux-amd64.aci.asc"] = site.key.sign_file(path)
        yield site


def test_every_block_of_the_page_does_what_it_says(site: Site, tmp_path: Path) -> None:
    """In order, in one directory; what a block must show is in SHOWN, and every block must succeed."""
    program = tmp_path / "path/gantry"
    program.parent.mkdir()
    words = " ".join(f"'{word}'" for word in site.argv(f"--ca-file={site.server.ca_file}"))
    lean = " ".join(f"'{word}'" for word in site.argv())
    # The launcher's own command line knows no --ca-file.
    program.write_text(f'#!/bin/sh\ncase "$1" in run-prepared) exec {lean} "$@";; esac\nexec {words} "$@"\n')
    program.chmod(0o755)
    environment = {**site.environment, "PATH": f"{program.parent}:{os.environ['PATH']}"}
    (tmp_path / "work").mkdir()
    expected = dict(SHOWN)
    assert len(BLOCKS) == 9
    for heading, block in BLOCKS:
        done = subprocess.run(
            ["bash", "-e", "-c", block],
            cwd=tmp_path / "work",
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, (heading, block, done.stderr)
        begin = next((begin for begin in expected if block.startswith(begin)), None)
        for text in expected.pop(begin, []) if begin else []:
            assert text in done.stdout, (heading, text, done.stdout, done.stderr)
    assert expected == {}
    assert site.json("list") == []


def test_the_page_names_pages_that_exist() -> None:
    for name in re.findall(r"\]\(([\w-]+\.md)", PAGE):
        assert (Path(__file__).resolve().parents[2] / "docs" / name).is_file(), name
