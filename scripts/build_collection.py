#!/usr/bin/env python3
"""Lay out and build the Ansible collection ``appc.gantry`` from the checkout.

``ansible-galaxy collection build`` skips a symbolic link that leaves the collection with a warning and exit
status 0, so everything is copied into ``build/ansible_collections/appc/gantry`` and built there. Lint, sanity
and documentation checks run on that tree, too: its path is the one that Ansible's tools expect.

Beside what lies in ``collection/``, ``roles/`` and ``playbooks/`` the collection carries what a user needs to
build the runtime archive on a control node: the project's wheel, the lock with hashes, and the builder.

The artifact is reproducible. ``ansible-galaxy`` writes times and the order of the directory into it, so its
archive is written again with sorted names and without times; the lists of checksums inside are put right.
"""

from __future__ import annotations

import argparse
import base64
import gzip
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
NAMESPACE, NAME = "appc", "gantry"
EPOCH = (1980, 1, 1, 0, 0, 0)
"""The earliest time that a zip archive can say."""

UNWANTED = shutil.ignore_patterns(
    "__pycache__", "*.pyc", "ruff.toml", "output", ".ansible", ".cache", ".*_cache", "*~", ".*.swp"
)


class BuildError(Exception):
    """The collection cannot be built; the text is one line for the user."""


def write_wheel(root: Path, target: Path) -> Path:
    """Write the project's wheel into *target*: pure Python, the same bytes for the same sources.

    Args:
        root: The checkout.
        target: A directory.

    Returns:
        The wheel.
    """
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    version = project["version"]
    base = f"appc_gantry-{version}"
    metadata = [
        "Metadata-Version: 2.4",
        f"Name: {project['name']}",
        f"Version: {version}",
        f"Summary: {project['description']}",
        f"License-Expression: {project['license']}",
        f"Requires-Python: {project['requires-python']}",
        *(f"Requires-Dist: {requirement}" for requirement in project["dependencies"]),
    ]
    files: dict[str, bytes] = {
        path.relative_to(root / "runtime").as_posix(): path.read_bytes()
        for path in sorted((root / "runtime" / "gantry").rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc"
    }
    info = f"{base}.dist-info"
    files[f"{info}/METADATA"] = ("\n".join(metadata) + "\n").encode()
    files[f"{info}/WHEEL"] = (
        b"Wheel-Version: 1.0\nGenerator: gantry\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    )
    files[f"{info}/entry_points.txt"] = b"[console_scripts]\ngantry = gantry.cli:main\n"
    files[f"{info}/licenses/LICENSE"] = (root / "LICENSE").read_bytes()
    record = "".join(f"{name},sha256={_record_hash(data)},{len(data)}\n" for name, data in files.items())
    files[f"{info}/RECORD"] = (record + f"{info}/RECORD,,\n").encode()
    wheel = target / f"{base}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            entry = zipfile.ZipInfo(name, EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o100644 << 16
            archive.writestr(entry, data)
    return wheel


def _record_hash(data: bytes) -> str:
    """The hash as a wheel's RECORD writes it."""
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


def lay_out(root: Path, target: Path) -> None:
    """Fill *target*, which is replaced as a whole, with the collection's tree.

    Raises:
        BuildError: A symbolic link leads out of a tree that is copied.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as temporary:
        tree = Path(temporary) / "tree"
        shutil.copytree(root / "collection", tree, ignore=UNWANTED, symlinks=True)
        for part in ("roles", "playbooks"):
            shutil.copytree(root / part, tree / part, ignore=UNWANTED, symlinks=True)
        shutil.copyfile(root / "LICENSE", tree / "LICENSE")
        files = tree / "roles" / "runtime" / "files"
        files.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / "scripts" / "build_runtime.py", files / "build_runtime.py")
        shutil.copyfile(root / "requirements-runtime.lock", files / "requirements-runtime.lock")
        write_wheel(root, files)
        for path in tree.rglob("*"):
            if path.is_symlink():
                raise BuildError(f"{path.relative_to(tree)} is a symbolic link; the artifact would lack it")
        old = Path(temporary) / "old"
        if target.exists():
            target.rename(old)
        tree.rename(target)


def build_artifact(tree: Path, out: Path) -> Path:
    """Build the artifact of the collection in *tree* into *out*.

    Returns:
        The archive ``appc-gantry-VERSION.tar.gz``.

    Raises:
        BuildError: ansible-galaxy failed or left something out.
    """
    galaxy = shutil.which(
        "ansible-galaxy", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    )
    if galaxy is None:
        raise BuildError("ansible-galaxy is missing: install the project with its extra 'control'")
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".build-") as temporary:
        command = [galaxy, "collection", "build", "--output-path", temporary, "."]
        done = subprocess.run(command, cwd=tree, check=False, capture_output=True, text=True)
        complaints = [line for line in done.stderr.splitlines() if "[WARNING]" in line and "tree" in line]
        if done.returncode or complaints:
            raise BuildError(
                f"ansible-galaxy: {(complaints or [done.stderr.strip() or done.stdout.strip()])[0]}"
            )
        made = next(Path(temporary).glob("*.tar.gz"))
        artifact = out / made.name
        data = normalise(made.read_bytes())
        made.write_bytes(data)
        made.replace(artifact)
    return artifact


def normalise(packed: bytes) -> bytes:
    """The artifact *packed* with names sorted, times zero, owners root, and its checksums put right."""
    members: dict[str, tuple[tarfile.TarInfo, bytes]] = {}
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        for member in archive:
            stream = archive.extractfile(member) if member.isfile() else None
            members[member.name] = (member, stream.read() if stream else b"")
    listing: dict[str, Any] = json.loads(members["FILES.json"][1])
    listing["files"].sort(key=lambda entry: entry["name"])
    files = _dump(listing)
    manifest: dict[str, Any] = json.loads(members["MANIFEST.json"][1])
    manifest["file_manifest_file"]["chksum_sha256"] = hashlib.sha256(files).hexdigest()
    members["FILES.json"] = (members["FILES.json"][0], files)
    members["MANIFEST.json"] = (members["MANIFEST.json"][0], _dump(manifest))
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.GNU_FORMAT) as archive:
        # The two lists come first: galaxy servers and installers read them from the front.
        for name in sorted(members, key=lambda n: (n not in {"MANIFEST.json", "FILES.json"}, n)):
            member, data = members[name]
            info = tarfile.TarInfo(name)
            info.type = member.type
            info.size = len(data)
            info.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
            archive.addfile(info, io.BytesIO(data))
    packed_again = io.BytesIO()
    with gzip.GzipFile(filename="", fileobj=packed_again, mode="wb", compresslevel=9, mtime=0) as stream_out:
        stream_out.write(raw.getbuffer())
    return packed_again.getvalue()


def _dump(value: dict[str, Any]) -> bytes:
    """JSON as ansible-galaxy writes it."""
    return json.dumps(value, indent=True).encode()


def main(arguments: list[str] | None = None) -> int:
    """Entry point: lay out, build, print where the artifact is and its SHA-256."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--out", type=Path, default=ROOT / "build", help="build directory")
    parser.add_argument("--tree-only", action="store_true", help="lay out the tree, build no artifact")
    options = parser.parse_args(arguments)
    tree = options.out / "ansible_collections" / NAMESPACE / NAME
    try:
        lay_out(ROOT, tree)
        if options.tree_only:
            print(tree)
            return 0
        artifact = build_artifact(tree, options.out)
    except (BuildError, OSError) as error:
        print(f"build_collection: {error}", file=sys.stderr)
        return 1
    print(f"{artifact} sha256:{hashlib.sha256(artifact.read_bytes()).hexdigest()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
