"""The archive that carries the runtime: made for the host's Python, the same bytes every time, checked."""

from __future__ import annotations

import gzip
import hashlib
import importlib
import io
import json
import re
import shutil
import subprocess
import sys
import tarfile
import time
import tomllib
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tests.support.collection import ROOT, executable

builder: Any = importlib.import_module("build_runtime")

LAUNCHER = "#!@PYTHON@ -IS\nprint('gantry version 9.9.9')\n"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    base = tmp_path / "runtime"
    files = {
        "__init__.py": '"""Fake."""\n\n__version__ = "9.9.9"\n',
        "room/__init__.py": "VALUE = 1\n",
        "room/__pycache__/x.cpython-311.pyc": "stale",
        "data/bin/gantry": LAUNCHER,
        "data/units/gantry-signer.service": "[Unit]\n",
        "data/table.txt": "t\n",
    }
    for name, text in files.items():
        path = base / "gantry" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return base


def make_wheel(house: Path, name: str, files: dict[str, str], tag: str = "py3-none-any") -> str:
    """Write a wheel; the line of a lock that means it."""
    house.mkdir(exist_ok=True)
    path = house / f"{name}-1.0-{tag}.whl"
    info = f"{name}-1.0.dist-info"
    extra = {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: {tag}\n",
        f"{info}/licenses/LICENSE": "be kind\n",
        f"{info}/RECORD": "",
    }
    with zipfile.ZipFile(path, "w") as wheel:
        for inner, text in {**files, **extra}.items():
            wheel.writestr(inner, text)
    return f"{name}==1.0 \\\n    --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}\n"


@pytest.fixture
def house(tmp_path: Path) -> Path:
    return tmp_path / "wheels"


@pytest.fixture
def lock(tmp_path: Path, house: Path) -> Path:
    files = {
        "some_lib/__init__.py": "X = 1\n",
        "some_lib/tests/test_x.py": "boom\n",
        "some_lib/_c.pyi": "x: int\n",
        "some_lib-1.0.data/scripts/tool": "#!python\n",
        "some_lib-1.0.data/purelib/some_more.py": "Y = 2\n",
    }
    path = tmp_path / "lock.txt"
    path.write_text("# comment\n" + make_wheel(house, "some_lib", files))
    return path


def build(source: Path, lock: Path, house: Path, out: Path, **more: Any) -> Any:
    python = more.pop("python", "3.11")
    if not more.pop("download", False):
        # As if pip had been here before: most tests are about what comes after it.
        key = hashlib.sha256(lock.read_bytes()).hexdigest()[:12]
        wheels = out / f"wheels/{python}-x86_64-{key}"
        if not wheels.exists():
            shutil.copytree(house, wheels)
    more.setdefault("precompile", False)
    return builder.build(
        source=source, lock=lock, python=python, arch="x86_64", out=out, wheelhouse=house, **more
    )


def contents(result: Any) -> dict[str, bytes]:
    with tarfile.open(result.archive) as archive:
        return {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]


def test_an_archive_holds_launcher_libraries_units_and_manifest(
    source: Path, lock: Path, house: Path, tmp_path: Path
) -> None:
    result = build(source, lock, house, tmp_path / "out", python="3.13")
    found = contents(result)
    assert sorted(found) == [
        "MANIFEST.json",
        "bin/gantry",
        "lib/gantry/__init__.py",
        "lib/gantry/data/table.txt",
        "lib/gantry/room/__init__.py",
        "lib/some_lib-1.0.dist-info/METADATA",
        "lib/some_lib-1.0.dist-info/licenses/LICENSE",
        "lib/some_lib/__init__.py",
        "lib/some_more.py",
        "units/gantry-signer.service",
    ]
    assert found["bin/gantry"].startswith(b"#!/usr/bin/python3.13 -IS\n")
    manifest = json.loads(found.pop("MANIFEST.json"))
    assert manifest["files"] == {
        name: {
            "sha256": hashlib.sha256(data).hexdigest(),
            "size": len(data),
            "mode": "0755" if name == "bin/gantry" else "0644",
        }
        for name, data in found.items()
    }
    assert (manifest["version"], manifest["python"], manifest["arch"]) == ("9.9.9", "3.13", "x86_64")
    assert manifest["release"] == result.release
    assert re.fullmatch(r"9\.9\.9-[0-9a-f]{12}", result.release)
    assert result.sha256 == hashlib.sha256(Path(result.archive).read_bytes()).hexdigest()


def test_the_same_inputs_give_the_same_bytes(source: Path, lock: Path, house: Path, tmp_path: Path) -> None:
    one = build(source, lock, house, tmp_path / "one")
    for path in source.rglob("*"):
        path.touch()
    two = build(source, lock, house, tmp_path / "two")
    assert Path(one.archive).read_bytes() == Path(two.archive).read_bytes()
    assert Path(one.archive).read_bytes()[4:8] == bytes(4), "no time in the header of gzip"
    with tarfile.open(one.archive) as archive:
        members = archive.getmembers()
    assert [m.name for m in members] == sorted(m.name for m in members)
    assert {(m.mtime, m.uid, m.gid, m.uname) for m in members} == {(0, 0, 0, "root")}


def test_a_second_build_comes_from_the_cache(source: Path, lock: Path, house: Path, tmp_path: Path) -> None:
    first = build(source, lock, house, tmp_path / "out", download=True)
    second = build(source, lock, house, tmp_path / "out", download=True, pip=["/none/pip"])
    assert (first.cached, second.cached) == (False, True)
    assert second._replace(cached=False) == first


def test_changed_sources_need_no_index(source: Path, lock: Path, house: Path, tmp_path: Path) -> None:
    first = build(source, lock, house, tmp_path / "out", download=True)
    (source / "gantry/room/__init__.py").write_text("VALUE = 2\n")
    second = build(source, lock, house, tmp_path / "out", download=True, pip=["/none/pip"])
    assert not second.cached
    assert second.release != first.release


@pytest.mark.parametrize("change", ["python", "interpreter", "launcher", "lock"])
def test_everything_that_matters_is_part_of_the_key(
    source: Path, lock: Path, house: Path, tmp_path: Path, change: str
) -> None:
    first = build(source, lock, house, tmp_path / "out")
    more: dict[str, Any] = {}
    if change == "python":
        more["python"] = "3.12"
    elif change == "interpreter":
        more["interpreter"] = "/usr/local/bin/python3.11"
    elif change == "launcher":
        (source / "gantry/data/bin/gantry").write_text(LAUNCHER + "# more\n")
    else:
        lock.write_text(lock.read_text() + make_wheel(house, "other_lib", {"other.py": ""}))
    second = build(source, lock, house, tmp_path / "out", **more)
    assert second.release != first.release
    assert second.archive != first.archive


def test_builds_at_the_same_time_agree(source: Path, lock: Path, house: Path, tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        results = list(
            pool.map(lambda _: build(source, lock, house, tmp_path / "out", download=True), range(4))
        )
    assert len({r.sha256 for r in results}) == 1
    assert sum(not r.cached for r in results) == 1
    assert not [p for p in (tmp_path / "out").iterdir() if p.name.startswith(".gantry")]


def test_a_wheel_that_the_lock_does_not_mean_is_refused(
    source: Path, lock: Path, house: Path, tmp_path: Path
) -> None:
    (wheel,) = house.glob("*.whl")
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr("evil.py", "")
    with pytest.raises(builder.BuildError, match=r"hash|HASH"):
        build(source, lock, house, tmp_path / "out", download=True)
    assert not list((tmp_path / "out").glob("*.tar.gz"))


def test_a_cached_wheel_is_checked_every_time(source: Path, lock: Path, house: Path, tmp_path: Path) -> None:
    build(source, lock, house, tmp_path / "out")
    (wheel,) = (tmp_path / "out/wheels").rglob("*.whl")
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr("evil.py", "")
    (source / "gantry/room/__init__.py").write_text("VALUE = 3\n")
    with pytest.raises(builder.BuildError, match="is not the file that"):
        build(source, lock, house, tmp_path / "out")


def test_a_broken_download_leaves_nothing(source: Path, lock: Path, house: Path, tmp_path: Path) -> None:
    for wheel in house.glob("*.whl"):
        wheel.unlink()
    with pytest.raises(builder.BuildError, match=r"pip could not get the wheels for Python 3\.11"):
        build(source, lock, house, tmp_path / "out", download=True)
    assert [p.name for p in (tmp_path / "out").iterdir() if not p.name.startswith(".lock")] == ["wheels"]
    assert list((tmp_path / "out/wheels").iterdir()) == []


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"some/_x.cpython-39-x86_64-linux-gnu.so": ""}, "is not for Python"),
        ({"../evil.py": ""}, "unsafe name"),
        ({"/evil.py": ""}, "unsafe name"),
        ({"gantry/__init__.py": "other"}, "already there with other content"),
    ],
)
def test_wheels_that_cannot_be_meant_are_refused(
    source: Path, house: Path, tmp_path: Path, files: dict[str, str], reason: str
) -> None:
    lock = tmp_path / "lock.txt"
    lock.write_text(make_wheel(house, "odd_lib", files))
    with pytest.raises(builder.BuildError, match=reason):
        build(source, lock, house, tmp_path / "out")


@pytest.mark.parametrize(
    "text", ["a==1.0\n", "a>=1.0 --hash=sha256:" + "0" * 64, "-e .\n", "git+https://x/y\n"]
)
def test_a_lock_without_versions_or_hashes_is_refused(text: str) -> None:
    with pytest.raises(builder.BuildError, match="without version or hash"):
        builder.parse_lock(text)


@pytest.mark.parametrize(
    ("first", "line"),
    [
        ("#!@PYTHON@ -IS", "#!/opt/py -IS"),
        ("#!/usr/bin/env -S python3 -I", "#!/opt/py -I"),
        ("#! /usr/bin/env python3", "#!/opt/py"),
        ("#!/usr/bin/python3.11", "#!/opt/py"),
    ],
)
def test_the_launcher_gets_the_interpreter_and_keeps_its_options(first: str, line: str) -> None:
    assert builder.launcher(f"{first}\nrest\n".encode(), "/opt/py") == f"{line}\nrest\n".encode()


@pytest.mark.parametrize("text", ["", "#!/bin/sh\nexit\n", "print()\n", "#!@PYTHON@ -IS"])
def test_what_is_no_python_script_is_no_launcher(text: str) -> None:
    with pytest.raises(builder.BuildError, match="line of a Python script"):
        builder.launcher(text.encode(), "/opt/py")


@pytest.mark.parametrize("more", [{"python": "3.9"}, {"interpreter": "python3"}, {"interpreter": "/a b"}])
def test_hosts_that_cannot_be_served_are_refused(
    source: Path, lock: Path, house: Path, tmp_path: Path, more: Any
) -> None:
    with pytest.raises(builder.BuildError):
        build(source, lock, house, tmp_path / "out", **more)


def test_the_command_prints_json_and_errors_in_one_line(
    source: Path, lock: Path, house: Path, tmp_path: Path, capsys: Any
) -> None:
    common = [
        "--source",
        str(source),
        "--lock",
        str(lock),
        "--wheelhouse",
        str(house),
        "--out",
        str(tmp_path / "out"),
    ]
    assert builder.main([*common, "--python", "3.11", "--python", "3.13=/opt/py"]) == 0
    results = json.loads(capsys.readouterr().out)
    assert [r["python"] for r in results] == ["3.11", "3.13"]
    assert builder.main([*common, "--python", "2.7"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1


def test_old_archives_are_forgotten(source: Path, lock: Path, house: Path, tmp_path: Path) -> None:
    results = []
    for number in range(6):
        (source / "gantry/room/__init__.py").write_text(f"VALUE = {number}\n")
        results.append(build(source, lock, house, tmp_path / "out"))
    assert Path(results[-1].archive).exists()
    assert len(list((tmp_path / "out").glob("*.tar.gz"))) == 3


def test_the_project_wheel_is_a_source_too(source: Path, lock: Path, house: Path, tmp_path: Path) -> None:
    wheel = tmp_path / "appc_gantry-9.9.9-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path in (source / "gantry").rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                archive.write(path, path.relative_to(source))
    assert (
        build(wheel, lock, house, tmp_path / "a").release
        == build(source, lock, house, tmp_path / "b").release
    )


def test_the_committed_lock_carries_what_the_project_depends_on() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    allowed = builder.parse_lock((ROOT / "requirements-runtime.lock").read_text())
    wanted = {re.split(r"[<>=!~ ]", requirement)[0] for requirement in project["dependencies"]}
    assert wanted <= set(allowed)
    pattern = re.compile(r"^([A-Za-z0-9._-]+==\S+)", re.MULTILINE)
    runtime = set(pattern.findall((ROOT / "requirements-runtime.lock").read_text()))
    everything = set(pattern.findall((ROOT / "requirements.lock").read_text()))
    assert {r for r in runtime if r.split("==")[0] in wanted} <= everything


def test_the_script_stands_alone(tmp_path: Path) -> None:
    """The collection ships it without the rest of the project."""
    script = tmp_path / "build_runtime.py"
    script.write_bytes((ROOT / "scripts/build_runtime.py").read_bytes())
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(script), "--help"], check=True, capture_output=True, text=True
    )
    assert "--wheelhouse" in done.stdout


# --- on the host


class FakeModule:
    """As much of AnsibleModule as Releases needs."""

    check_mode = False

    def run_command(self, command: list[str]) -> tuple[int, str, str]:
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        return done.returncode, done.stdout, done.stderr


RUNNING = ".".join(map(str, sys.version_info[:2]))


@pytest.fixture
def runtime_util() -> Any:
    return importlib.import_module("ansible_collections.appc.gantry.plugins.module_utils._runtime")


@pytest.fixture
def step_error() -> Any:
    return importlib.import_module("ansible_collections.appc.gantry.plugins.module_utils._host").StepError


@pytest.fixture
def made(source: Path, lock: Path, house: Path, tmp_path: Path) -> Any:
    return build(source, lock, house, tmp_path / "out", python=RUNNING, interpreter=real_python())


def real_python() -> str:
    """This interpreter, by a path that names its version."""
    return str(Path(sys.executable).resolve())


def releases(runtime_util: Any, tmp_path: Path) -> Any:
    return runtime_util.Releases(FakeModule(), str(tmp_path / "opt"))


def tree(path: Path) -> list[str]:
    return sorted(str(p.relative_to(path)) for p in path.rglob("*")) if path.exists() else []


def test_a_release_is_unpacked_compiled_and_tried(runtime_util: Any, made: Any, tmp_path: Path) -> None:
    store = releases(runtime_util, tmp_path)
    store.install(made.release, made.archive, made.sha256)
    assert store.installed() == [made.release]
    assert store.current() is None
    place = tmp_path / "opt/releases" / made.release
    (compiled,) = (place / "lib/some_lib/__pycache__").iterdir()
    header = compiled.read_bytes()[:16]
    assert header[:4] == importlib.util.MAGIC_NUMBER
    assert header[4:8] == b"\x01\x00\x00\x00", "unchecked hash"
    assert str(tmp_path / "opt/current/lib/some_lib/__init__.py").encode() in compiled.read_bytes()
    assert (place / "bin/gantry").stat().st_mode & 0o7777 == 0o755
    assert [p.name for p in (tmp_path / "opt/releases").iterdir()] == [made.release]


def test_byte_code_is_made_here_when_the_interpreter_is_at_hand(
    runtime_util: Any, source: Path, lock: Path, house: Path, tmp_path: Path
) -> None:
    (source / "gantry/room/__init__.py").write_text("VALUE = 'x' in {'a', 'b', 'c', 'd', 'e', 'f'}\n")
    options = {"python": RUNNING, "interpreter": real_python(), "precompile": True}
    one, two = (build(source, lock, house, tmp_path / place, **options) for place in ("a", "b"))
    plain = build(source, lock, house, tmp_path / "c", **{**options, "precompile": False})
    assert one.sha256 == two.sha256
    assert one.release == plain.release, "byte code follows from the sources"
    assert one.sha256 != plain.sha256
    store = releases(runtime_util, tmp_path)
    store.install(one.release, one.archive, one.sha256)
    place = tmp_path / "opt/releases" / one.release
    shutil.copytree(place, tmp_path / "made here")
    shutil.rmtree(place)
    store.install(plain.release, plain.archive, plain.sha256)
    for path in (tmp_path / "made here").rglob("*.pyc"):
        other = place / path.relative_to(tmp_path / "made here")
        assert other.read_bytes()[:16] == path.read_bytes()[:16]
    assert [n for n in tree(place) if n.endswith(".pyc")] == [
        n for n in tree(tmp_path / "made here") if n.endswith(".pyc")
    ]


def test_without_an_interpreter_of_that_version_the_host_compiles(
    source: Path, lock: Path, house: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(builder, "find_compiler", lambda _: ([], ""))
    result = build(source, lock, house, tmp_path / "out", precompile=True)
    found = contents(result)
    assert not [name for name in found if name.endswith(".pyc")]
    assert json.loads(found["MANIFEST.json"])["compiled"] is False


def test_sources_that_do_not_compile_are_refused_here(
    source: Path, lock: Path, house: Path, tmp_path: Path
) -> None:
    (source / "gantry/room/__init__.py").write_text("def broken(:\n")
    with pytest.raises(builder.BuildError, match="could not be compiled"):
        build(source, lock, house, tmp_path / "out", python=RUNNING, precompile=True)


def test_switching_is_one_rename_and_remembered(runtime_util: Any, made: Any, tmp_path: Path) -> None:
    store = releases(runtime_util, tmp_path)
    store.install(made.release, made.archive, made.sha256)
    plan = store.switch_plan(made.release, str(tmp_path / "bin/gantry"))
    assert len(plan.actions()) == 2
    plan.run()
    assert store.current() == made.release
    done = subprocess.run(
        [str(tmp_path / "bin/gantry"), "version"], check=True, capture_output=True, text=True
    )
    assert "9.9.9" in done.stdout
    assert not store.switch_plan(made.release, str(tmp_path / "bin/gantry")).changed
    assert store.switched_at() > 0


def repacked(made: Any, tmp_path: Path, change: Any) -> tuple[str, str]:
    """The archive with its files changed by *change*, and its own right checksum."""
    files = contents(made)
    change(files)
    data = builder.pack({name: builder.Entry(content, 0o755) for name, content in files.items()})
    path = tmp_path / "changed.tar.gz"
    path.write_bytes(data)
    return str(path), hashlib.sha256(data).hexdigest()


def set_manifest(content: dict[str, bytes], **changes: Any) -> None:
    content["MANIFEST.json"] = json.dumps({**json.loads(content["MANIFEST.json"]), **changes}).encode()


def spoil(name: str) -> Any:
    def change(files: dict[str, bytes]) -> None:
        if name == "content":
            files["lib/some_more.py"] += b"evil"
        elif name == "extra":
            files["lib/evil.py"] = b""
        elif name == "missing":
            del files["lib/some_more.py"]
        elif name == "no manifest":
            del files["MANIFEST.json"]
        elif name == "arch":
            set_manifest(files, arch="riscv64")
        elif name == "python":
            set_manifest(files, python="3.99")
        elif name == "absent interpreter":
            set_manifest(files, interpreter="/usr/bin/python3.98")
        elif name == "other release":
            set_manifest(files, release="1.0.0-000000000000")
        elif name == "escape":
            files["../../evil.py"] = b""
            listing = json.loads(files["MANIFEST.json"])["files"]
            set_manifest(
                files, files={**listing, "../../evil.py": {"sha256": hashlib.sha256(b"").hexdigest()}}
            )

    return change


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("content", "not the file that its manifest names"),
        ("extra", "name different files"),
        ("missing", "name different files"),
        ("no manifest", "malformed"),
        ("arch", "is for riscv64"),
        ("python", "is for Python 3.99"),
        ("absent interpreter", "is absent"),
        ("other release", "holds release 1.0.0-0"),
        ("escape", "not a plain file"),
    ],
)
def test_an_archive_that_is_not_what_it_says_leaves_nothing(
    *, runtime_util: Any, step_error: Any, made: Any, tmp_path: Path, what: str, reason: str
) -> None:
    store = releases(runtime_util, tmp_path)
    archive, sha256 = repacked(made, tmp_path, spoil(what))
    with pytest.raises(step_error, match=reason):
        store.install(made.release, archive, sha256)
    assert tree(tmp_path / "opt") == ["releases"]
    assert not (tmp_path / "evil.py").exists()


@pytest.mark.parametrize("cut", ["truncated", "flipped", "empty", "text"])
def test_a_damaged_archive_is_refused_by_its_checksum(
    runtime_util: Any, step_error: Any, made: Any, tmp_path: Path, cut: str
) -> None:
    data = bytearray(Path(made.archive).read_bytes())
    if cut == "truncated":
        del data[-100:]
    elif cut == "flipped":
        data[len(data) // 2] ^= 1
    elif cut == "empty":
        data.clear()
    else:
        data = bytearray(b"<html>not found</html>")
    path = tmp_path / "damaged"
    path.write_bytes(bytes(data))
    store = releases(runtime_util, tmp_path)
    with pytest.raises(step_error, match="is damaged"):
        store.install(made.release, str(path), made.sha256)
    right = hashlib.sha256(bytes(data)).hexdigest()
    if cut != "flipped":
        with pytest.raises(step_error, match=r"malformed|damaged"):
            store.install(made.release, str(path), right)
    assert tree(tmp_path / "opt") in ([], ["releases"])


def test_links_in_an_archive_are_refused(
    runtime_util: Any, step_error: Any, made: Any, tmp_path: Path
) -> None:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as archive:
        link = tarfile.TarInfo("lib")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc"
        archive.addfile(link)
    data = gzip.compress(raw.getvalue())
    (tmp_path / "links").write_bytes(data)
    with pytest.raises(step_error, match="not a plain file"):
        releases(runtime_util, tmp_path).install(
            made.release, str(tmp_path / "links"), hashlib.sha256(data).hexdigest()
        )


@pytest.mark.parametrize(
    "launcher", ["#!@PYTHON@\nraise SystemExit('boom')\n", "#!@PYTHON@\nprint('other version')\n"]
)
def test_a_runtime_that_does_not_run_is_never_switched_to(
    *,
    runtime_util: Any,
    step_error: Any,
    source: Path,
    lock: Path,
    house: Path,
    made: Any,
    tmp_path: Path,
    launcher: str,
) -> None:
    store = releases(runtime_util, tmp_path)
    store.install(made.release, made.archive, made.sha256)
    store.switch_plan(made.release, str(tmp_path / "bin/gantry")).run()
    before = tree(tmp_path / "opt")
    (source / "gantry/data/bin/gantry").write_text(launcher)
    bad = build(source, lock, house, tmp_path / "out", python=RUNNING, interpreter=real_python())
    with pytest.raises(step_error, match="does not run here"):
        store.install(bad.release, bad.archive, bad.sha256)
    assert store.current() == made.release
    assert tree(tmp_path / "opt") == before


def test_source_that_does_not_compile_is_never_switched_to(
    *, runtime_util: Any, step_error: Any, source: Path, lock: Path, house: Path, tmp_path: Path
) -> None:
    (source / "gantry/room/__init__.py").write_text("def broken(:\n")
    bad = build(source, lock, house, tmp_path / "out", python=RUNNING, interpreter=real_python())
    with pytest.raises(step_error, match="could not be compiled"):
        releases(runtime_util, tmp_path).install(bad.release, bad.archive, bad.sha256)
    assert tree(tmp_path / "opt") == ["releases"]


def fake_release(tmp_path: Path, name: str) -> Path:
    place = tmp_path / "opt/releases" / name
    executable(place / "bin/gantry", "#!/bin/sh\nread line\n")
    (place / "MANIFEST.json").write_text("{}")
    return place


def test_old_releases_go_and_those_in_use_stay(
    runtime_util: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = releases(runtime_util, tmp_path)
    now = time.clock_gettime(time.CLOCK_BOOTTIME)
    names = ["1.0", "1.1", "1.2", "1.3", "1.4"]
    for number, name in enumerate(names):
        fake_release(tmp_path, name)
        # 1.1 is the one that is current now, when the process starts; the others come later.
        monkeypatch.setattr(runtime_util.time, "clock_gettime", lambda _, n=number: now + (n - 1.5) * 1000)
        store.switch_plan(name, str(tmp_path / "bin/gantry")).run()
    command = [str(tmp_path / "opt/current/bin/gantry"), "run-prepared", "x"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        assert store.living() == {"1.1"}
        assert store.prune(2) == ["1.0", "1.2"]
        assert store.installed() == ["1.1", "1.3", "1.4"]
        process.communicate()
    assert store.living() == set()
    assert store.prune(2) == ["1.1"]
    assert store.current() == "1.4"


def test_going_back_keeps_the_release_in_use(runtime_util: Any, tmp_path: Path) -> None:
    store = releases(runtime_util, tmp_path)
    for name in ("1.0", "1.1", "1.2"):
        fake_release(tmp_path, name)
    store.switch_plan("1.0", str(tmp_path / "bin/gantry")).run()
    assert store.prune(0) == ["1.1", "1.2"]
    assert store.current() == "1.0"


def test_what_an_interrupted_installation_left_is_swept(runtime_util: Any, made: Any, tmp_path: Path) -> None:
    left = tmp_path / "opt/releases/.9.9.9-left.tmp/lib"
    left.mkdir(parents=True)
    store = releases(runtime_util, tmp_path)
    assert store.installed() == []
    store.install(made.release, made.archive, made.sha256)
    assert [p.name for p in (tmp_path / "opt/releases").iterdir()] == [made.release]


def test_a_link_into_nothing_is_no_current_release(runtime_util: Any, tmp_path: Path) -> None:
    store = releases(runtime_util, tmp_path)
    (tmp_path / "opt").mkdir()
    (tmp_path / "opt/current").symlink_to("releases/1.0")
    assert store.current() is None
