"""The README's first image and pod, word for word, and what that pod can ask about itself."""

from __future__ import annotations

import re
from pathlib import Path

from tests.infra.nodes import Node, group

testinfra_hosts = group("gantry_app_hosts")

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"<!-- run on: gantry_app_hosts -->\n```sh\n(.*?)```", re.DOTALL)
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$", re.MULTILINE)


def test_the_first_image_and_pod_work_as_the_readme_says(node: Node) -> None:
    pages = ("README.md", "docs/metadata-and-signing.md")
    blocks = [block for page in pages for block in BLOCK.findall((ROOT / page).read_text())]
    assert len(blocks) == 3
    script = 'set -e; d=$(mktemp -d); trap "rm -rf $d" EXIT; cd $d\n' + "\n".join(blocks)
    try:
        said = node.run(script)
    finally:
        for key in node.json("gantry trust list --format=json"):
            if key["prefix"] == "example.com/first":
                node.run(f"gantry trust rm --prefix=example.com/first {key['fingerprint']}")
        node.run("gantry gc --grace-period=0")
        if node.succeeds("gantry image cat-manifest example.com/first"):
            node.run("gantry image rm example.com/first")
    assert "hello from a pod\n" in said
    assert "hello from a pod and from its arguments" in said
    assert "example.com/first:1.0" in said
    assert "trust.add" in said
    assert UUID.search(said), said
