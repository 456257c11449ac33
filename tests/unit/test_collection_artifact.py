"""What the built collection holds, and that the same checkout gives the same artifact."""

from __future__ import annotations

import hashlib
import importlib
import json
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.support.collection import ROOT

builder: Any = importlib.import_module("build_collection")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the builder reads of a checkout; the runtime is cut down to what the tests look at."""
    root = tmp_path_factory.mktemp("checkout")
    unwanted = shutil.ignore_patterns("__pycache__")
    for name in ("collection", "roles", "playbooks"):
        shutil.copytree(ROOT / name, root / name, ignore=unwanted)
    (root / "scripts").mkdir()
    shutil.copy(ROOT / "scripts/build_runtime.py", root / "scripts")
    for name in ("pyproject.toml", "LICENSE", "requirements-runtime.lock"):
        shutil.copy(ROOT / name, root)
    package = root / "runtime/gantry"
    (package / "data/bin").mkdir(parents=True)
    shutil.copy(ROOT / "runtime/gantry/__init__.py", package)
    (package / "data/bin/gantry").write_text("#!@PYTHON@ -IS\n")
    (package / "__pycache__").mkdir()
    (package / "__pycache__/x.cpython-311.pyc").write_text("stale")
    (root / "collection/plugins/modules/__pycache__").mkdir()
    (root / "collection/plugins/modules/__pycache__/pod.pyc").write_text("stale")
    return root


@pytest.fixture(scope="module")
def artifact(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("build")
    tree = out / "ansible_collections/appc/gantry"
    builder.lay_out(checkout, tree)
    built: Path = builder.build_artifact(tree, out)
    return built


def names(artifact: Path) -> set[str]:
    with tarfile.open(artifact) as archive:
        return {member.name for member in archive if member.isfile()}


def read(artifact: Path, name: str) -> bytes:
    with tarfile.open(artifact) as archive:
        return archive.extractfile(name).read()  # type: ignore[union-attr]


def test_the_artifact_holds_everything_that_a_user_needs(artifact: Path) -> None:
    found = names(artifact)
    modules = {"apply", "image", "trust", "pod", "pod_info"}
    assert {f"plugins/modules/{name}.py" for name in modules} <= found
    roles = {"runtime", "trust", "metadata_service", "pods", "image_server"}
    for role in roles:
        assert {f"roles/{role}/{part}/main.yml" for part in ("tasks", "meta")} <= found
        assert f"roles/{role}/meta/argument_specs.yml" in found
    assert {"playbooks/site.yml", "playbooks/demo.yml", "playbooks/vars/hello.yml"} <= found
    assert {"playbooks/files/hello/start", "playbooks/files/hello/page.html"} <= found
    assert {"README.md", "LICENSE", "CHANGELOG.md", "meta/runtime.yml"} <= found
    files = {name for name in found if name.startswith("roles/runtime/files/")}
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert files == {
        "roles/runtime/files/build_runtime.py",
        "roles/runtime/files/requirements-runtime.lock",
        f"roles/runtime/files/appc_gantry-{version}-py3-none-any.whl",
    }


def test_the_artifact_holds_everything_that_lies_in_the_checkout(artifact: Path, checkout: Path) -> None:
    """Nothing was left out by a pattern or because it was a link."""
    left_out = {"galaxy.yml", "ruff.toml"}
    wanted = {
        path.relative_to(checkout / "collection").as_posix()
        for path in (checkout / "collection").rglob("*")
        if path.is_file()
        and path.name not in left_out
        and not {"__pycache__", ".ruff_cache"} & set(path.parts)
    }
    for part in ("roles", "playbooks"):
        wanted |= {p.relative_to(checkout).as_posix() for p in (checkout / part).rglob("*") if p.is_file()}
    assert wanted <= names(artifact)


def test_the_artifact_holds_nothing_else(artifact: Path) -> None:
    for name in names(artifact):
        assert not name.endswith((".pyc", ".swp", "~")), name
        assert "__pycache__" not in name
        assert name != "ruff.toml"


def test_the_checksums_inside_are_right(artifact: Path) -> None:
    manifest = json.loads(read(artifact, "MANIFEST.json"))
    files = read(artifact, "FILES.json")
    assert manifest["file_manifest_file"]["chksum_sha256"] == hashlib.sha256(files).hexdigest()
    listed = {entry["name"]: entry for entry in json.loads(files)["files"] if entry["ftype"] == "file"}
    assert set(listed) == names(artifact) - {"MANIFEST.json", "FILES.json"}
    for name, entry in listed.items():
        assert entry["chksum_sha256"] == hashlib.sha256(read(artifact, name)).hexdigest(), name


def test_the_same_checkout_gives_the_same_artifact(artifact: Path, checkout: Path, tmp_path: Path) -> None:
    for path in checkout.rglob("*"):
        path.touch()
    tree = tmp_path / "ansible_collections/appc/gantry"
    tree.mkdir(parents=True)
    (tree / "left-over").write_text("of an earlier build")
    builder.lay_out(checkout, tree)
    again = builder.build_artifact(tree, tmp_path)
    assert again.read_bytes() == artifact.read_bytes()


def test_order_and_times_of_a_built_archive_do_not_matter(artifact: Path, tmp_path: Path) -> None:
    """Two archives as ansible-galaxy might write them become one."""
    with tarfile.open(artifact) as archive:
        members = [(m, archive.extractfile(m).read() if m.isfile() else b"") for m in archive]  # type: ignore[union-attr]
    packed = tmp_path / "reversed.tar.gz"
    with tarfile.open(packed, "w:gz") as archive:
        for number, (member, data) in enumerate(reversed(members)):
            member.mtime, member.uid, member.uname = 1_000_000 + number, 1000, "me"
            if member.name == "FILES.json":
                listing = json.loads(data)
                listing["files"].reverse()
                data = json.dumps(listing).encode()  # noqa: PLW2901 -- what an unordered directory gives
                member.size = len(data)
            archive.addfile(member, __import__("io").BytesIO(data))
    assert builder.normalise(packed.read_bytes()) == artifact.read_bytes()


def test_a_symbolic_link_is_refused_and_the_old_tree_stays(checkout: Path, tmp_path: Path) -> None:
    copy = tmp_path / "checkout"
    shutil.copytree(checkout, copy)
    (copy / "roles/pods/files").symlink_to("/etc")
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "old").write_text("")
    with pytest.raises(builder.BuildError, match="roles/pods/files is a symbolic link"):
        builder.lay_out(copy, tree)
    assert [p.name for p in tree.iterdir()] == ["old"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkout", "tree"]


def test_the_wheel_can_be_imported_and_states_its_needs(artifact: Path, tmp_path: Path) -> None:
    (name,) = [n for n in names(artifact) if n.endswith(".whl")]
    wheel = tmp_path / Path(name).name
    wheel.write_bytes(read(artifact, name))
    with zipfile.ZipFile(wheel) as archive:
        inside = archive.namelist()
        metadata = archive.read("appc_gantry-0.1.0.dist-info/METADATA").decode()
    assert "gantry/__init__.py" in inside
    assert "gantry/data/bin/gantry" in inside
    assert not [n for n in inside if n.endswith(".pyc")]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for requirement in project["dependencies"]:
        assert f"Requires-Dist: {requirement}\n" in metadata
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--disable-pip-version-check",
    ]
    target = tmp_path / "site"
    subprocess.run([*command, "--target", str(target), str(wheel)], check=True, capture_output=True)
    assert (target / "gantry/__init__.py").is_file()


def test_all_versions_agree() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    galaxy = yaml.safe_load((ROOT / "collection/galaxy.yml").read_text())["version"]
    changes = yaml.safe_load((ROOT / "collection/changelogs/changelog.yaml").read_text())["releases"]
    package = importlib.import_module("gantry").__version__
    assert project == galaxy == package
    assert project in changes


@pytest.mark.slow
def test_the_installed_artifact_is_found_and_verified(artifact: Path, tmp_path: Path) -> None:
    galaxy = Path(sys.executable).parent / "ansible-galaxy"
    base = [str(galaxy), "collection"]
    installed = tmp_path / "collections"
    subprocess.run(
        [*base, "install", "--offline", "-p", str(installed), str(artifact)], check=True, capture_output=True
    )
    done = subprocess.run(
        [*base, "verify", "--offline", "-p", str(installed), "appc.gantry"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert "Successfully verified" in done.stdout
