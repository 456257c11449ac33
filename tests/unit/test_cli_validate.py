"""``gantry image validate``: what it prints, and how it exits."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.support.aci import directory, file, make_aci, make_raw, manifest

_MAIN = "import sys; from gantry.cli import main; sys.exit(main())"


def validate(*arguments: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-c", _MAIN, "image", "validate", *arguments],
        input=given,
        capture_output=True,
        check=False,
    )


def test_a_valid_image_is_named(tmp_path: Path) -> None:
    made = make_aci(tmp_path / "a.aci", version="1.0")
    done = validate(str(made.path))
    assert done.returncode == 0
    assert done.stdout.decode() == f"{made.path}: valid: example.com/app,version=1.0 {made.id}\n"
    assert done.stderr == b""


def test_MAN_05_problems_and_warnings_are_told_apart(tmp_path: Path) -> None:
    good = make_aci(tmp_path / "good.aci", "justaname")
    bad = make_raw(
        tmp_path / "bad.aci",
        [directory("rootfs"), file("rootfs/../x"), file("x"), file("manifest", manifest("No"))],
    )
    done = validate(str(good.path), str(bad.path))
    assert done.returncode == 254
    assert done.stdout.decode().startswith(f"{good.path}: valid: justaname")
    lines = done.stderr.decode().splitlines()
    warnings = [line for line in lines if "warning: " in line]
    assert len(lines) - len(warnings) == 3
    assert any(str(good.path) in line and "MAN-05" in line for line in warnings)
    assert any("unchecked, it calls itself No" in line for line in warnings)


def test_json(tmp_path: Path) -> None:
    good = make_aci(tmp_path / "good.aci", version="1.0", files={"a/b": "123"})
    bad = make_raw(tmp_path / "bad.aci", [directory("rootfs")])
    done = validate("--format=json", str(good.path), str(bad.path))
    assert done.returncode == 254
    first, second = json.loads(done.stdout)
    assert first == {
        "file": str(good.path),
        "valid": True,
        "problems": [],
        "warnings": [],
        "id": good.id,
        "name": "example.com/app",
        "labels": {"version": "1.0"},
        "claims": None,
        "compression": "gzip",
        "size": len(good.data),
        "unpacked": len(good.tar),
        "content": 3,
        "entries": 2,
        "setid": 0,
        "devices": 0,
    }
    assert second["valid"] is False
    assert second["problems"] == [f"{bad.path}: the image has no manifest"]


def test_standard_input_and_layouts(tmp_path: Path) -> None:
    made = make_aci(tmp_path / "a.aci")
    done = validate("-", given=made.data)
    assert done.stdout.decode() == f"-: valid: example.com/app {made.id}\n"
    done = validate("-", given=made.data[:-20])
    assert done.returncode == 254
    assert b"cut short" in done.stderr
    (tmp_path / "layout/rootfs").mkdir(parents=True)
    (tmp_path / "layout/manifest").write_bytes(manifest())
    assert (
        validate(str(tmp_path / "layout")).stdout.decode() == f"{tmp_path}/layout: valid: example.com/app\n"
    )


def test_what_is_not_there_is_one_line(tmp_path: Path) -> None:
    done = validate(str(tmp_path / "missing.aci"))
    assert done.returncode == 254
    assert done.stderr.decode().count("\n") == 1
    assert "No such file" in done.stderr.decode()
