"""The house has one noun per room, and its arrows point down only (docs/architecture.md)."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "runtime" / "gantry"

# From the roof down. A room may import rooms on lines below its own, never beside or above it.
FLOORS: list[set[str]] = [
    {"cli"},
    {"apply"},
    {"releases"},
    {"build"},
    {"pods"},
    {"stage1"},
    {"sandbox"},
    {"network"},
    {"metadata", "identity"},
    {"images"},
    {"discovery"},
    {"trust"},
    {"signer"},
    {"audit"},
    {"appc"},
    {"http", "systemd"},
    {"config", "linux"},
    {"errors"},
]
LEVEL = {room: len(FLOORS) - i for i, floor in enumerate(FLOORS) for room in floor}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def room_of(dotted: str) -> str:
    """The room that the dotted name `gantry.ROOM...` belongs to; `` for the package itself."""
    parts = dotted.split(".")
    return parts[1] if len(parts) > 1 else ""


def dotted_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Every gantry module that *path* imports, at whatever depth in the file, with the line."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for name in node.names:
                if name.name.split(".")[0] == "gantry":
                    yield name.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            if node.module and node.module.split(".")[0] == "gantry":
                for name in node.names:
                    yield (
                        f"{node.module}.{name.name}" if node.module == "gantry" else node.module,
                        node.lineno,
                    )


def test_every_module_is_in_a_room() -> None:
    strangers = {room_of(dotted_name(p)) for p in modules()} - set(LEVEL) - {""}
    assert not strangers, f"rooms that the plan does not know: {strangers}"


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_arrows_point_down(path: Path) -> None:
    room = room_of(dotted_name(path))
    if not room:
        assert not list(imports(path)), "the package itself imports nothing: it is on every path"
        return
    for target, line in imports(path):
        other = room_of(target)
        if other in {"", "__version__", "APPC_VERSION", room}:
            continue
        assert LEVEL[other] < LEVEL[room], f"{path}:{line}: {room} imports {other}, which is not below it"


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_modules_stay_readable(path: Path) -> None:
    lines = path.read_text().count("\n")
    allowed = re.search(r"^# Longer than 500 lines because (.+)$", path.read_text(), re.MULTILINE)
    assert lines <= 500 or allowed, f"{path} has {lines} lines: split it, or give the reason in a comment"


def test_pysequoia_is_imported_in_one_module_only() -> None:
    users = [p for p in modules() if re.search(r"^\s*(import|from) pysequoia", p.read_text(), re.MULTILINE)]
    assert [str(p.relative_to(PACKAGE)) for p in users] in ([], ["trust/openpgp.py"])


def test_appc_does_no_io() -> None:
    banned = {"os", "socket", "subprocess", "pathlib", "shutil", "tempfile", "urllib.request"}
    for path in modules():
        if room_of(dotted_name(path)) != "appc":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                assert not banned & {n.name for n in node.names}, f"{path}:{node.lineno}"
            elif isinstance(node, ast.ImportFrom):
                assert node.module not in banned, f"{path}:{node.lineno}"
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id != "open", f"{path}:{node.lineno}: opens a file"
