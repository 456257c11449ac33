"""The disk report: every byte has an owner (case 4)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.aci import image_entries, make_raw, manifest
from tests.support.store import paths_in, put

from gantry.images import Store, render
from gantry.images.usage import DOWNLOAD, IMAGE, LEFTOVER, RECORDS, TREE, Part, usage
from gantry.linux.locks import locked


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(paths_in(tmp_path))


def fill(store: Store, directory: Path) -> str:
    """One image, its tree, and something of everything that a killed process leaves."""
    body = manifest("example.com/app", version="1.0")
    image = put(store, make_raw(directory / "app.aci", image_entries(body, {"big": "x" * 100_000})))
    tree = render(store, image.id, ref="11111111-2222-3333-4444-555555555555")
    for place, size in {
        "image/sha512-00/image.aci": 50_000,
        "tree/tree-00/rootfs/f": 30_000,
        "tree/.work-00/rootfs/f": 20_000,
        "incoming/new-1/image.aci": 40_000,
        "incoming/abc.part": 70_000,
        "stray.tmp": 10_000,
    }.items():
        path = Path(store.path(place))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * size)
    Path(store.path("incoming/abc.json")).write_text('{"url": "https://example.com/a.aci"}')
    os.link(store.path("tree", tree.id, "rootfs/big"), store.path("tree", tree.id, "rootfs/again"))
    return tree.id


def by_path(parts: list[Part]) -> dict[str, Part]:
    return {part.path: part for part in parts}


def test_case_4_the_parts_are_all_of_it(store: Store, tmp_path: Path) -> None:
    tree = fill(store, tmp_path)
    found = usage(store)
    du = subprocess.run(["du", "-s", "-B1", store.root], capture_output=True, text=True, check=True)
    assert found.total == sum(part.size for part in found.parts) == int(du.stdout.split()[0])
    assert found.free > 0
    parts = by_path(found.parts)
    kinds = {
        "image/sha512-00": LEFTOVER,
        "tree/tree-00": LEFTOVER,
        "tree/.work-00": LEFTOVER,
        "incoming/new-1": LEFTOVER,
        "incoming/abc.part": DOWNLOAD,
        "incoming/abc.json": DOWNLOAD,
        f"tree/{tree}": TREE,
        ".": RECORDS,
    }
    assert {path: parts[path].kind for path in kinds} == kinds
    assert [part.about for part in found.parts if part.kind == IMAGE] == ["example.com/app:1.0"]
    assert parts[f"tree/{tree}"].about == "example.com/app:1.0, used by 1 pod"
    assert parts["incoming/abc.part"].about == "https://example.com/a.aci, to be continued"
    assert [part.size for part in found.parts] == sorted((part.size for part in found.parts), reverse=True)


def test_what_is_worked_on_is_no_leftover(store: Store, tmp_path: Path) -> None:
    fill(store, tmp_path)
    with (
        locked(store.path("tree/.work-00"), create=False),
        locked(store.path("incoming/new-1"), create=False),
        locked(store.path("incoming/abc.lock")),
    ):
        parts = by_path(usage(store).parts)
    assert (parts["tree/.work-00"].kind, parts["tree/.work-00"].about) == (TREE, "being rendered")
    assert parts["incoming/new-1"].kind == DOWNLOAD
    assert parts["incoming/abc.part"].about == "https://example.com/a.aci, under way"


def test_what_gc_removes_is_what_was_called_a_leftover(store: Store, tmp_path: Path) -> None:
    fill(store, tmp_path)
    leftovers = {part.path for part in usage(store).parts if part.kind == LEFTOVER}
    assert leftovers
    assert leftovers <= set(store.gc().debris)
    assert not [part for part in usage(store).parts if part.kind == LEFTOVER]


def test_a_store_that_is_not_there_uses_nothing(store: Store) -> None:
    found = usage(store)
    assert (found.parts, found.total) == ([], 0)
    assert not os.path.exists(store.root)


def gantry(store: Store, *words: str) -> str:
    program = "import sys; from gantry.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", program, f"--dir={store.paths.data}", *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_the_command(store: Store, tmp_path: Path) -> None:
    fill(store, tmp_path)
    told = json.loads(gantry(store, "image", "usage", "--format=json"))
    assert told["total"] == sum(part["size"] for part in told["parts"])
    head, *lines, last = gantry(store, "image", "usage").splitlines()
    assert head.split("\t")[0] == "KIND"
    assert "in all" in last
    assert len(lines) == len(told["parts"])
    assert any("example.com/app:1.0" in line for line in lines)
