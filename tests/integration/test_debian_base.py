"""TRAP-09 on a real Debian: /bin, /sbin, /lib and /lib64 of the base are links into /usr."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.aci import directory, file, make_aci
from tests.support.store import paths_in

from gantry.build import build_image
from gantry.config import Paths
from gantry.images import Store, fetch, render, render_directory
from gantry.trust import KeyStore
from testhosts import roots

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(shutil.which("mmdebstrap") is None, reason="mmdebstrap(1) makes the base"),
]
NAME = "example.com/debian"
ON_BASE = {"dependencies": [{"imageName": NAME}]}


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Paths]:
    """A host whose store has a Debian."""
    top = tmp_path_factory.mktemp("debian")
    base = roots.tree(roots.Base("bookworm"))
    assert os.readlink(base / "lib") == "usr/lib"
    text = json.dumps({"acKind": "ImageManifest", "acVersion": "0.8.11", "name": NAME, "labels": []})
    build_image(str(base), text.encode(), str(top / "base.aci"), compression="zstd")
    paths = paths_in(top / "host")
    take_in(paths, top / "base.aci")
    yield paths
    shutil.rmtree(top, ignore_errors=True)


def take_in(paths: Paths, path: Path) -> str:
    return str(fetch(Store(paths), KeyStore(paths), str(path), insecure=["image"], policy="never").image.id)


def on_base(paths: Paths, tmp_path: Path, tree: list[Any]) -> str:
    return take_in(paths, make_aci(tmp_path / "top.aci", "example.com/top", tree=tree, **ON_BASE).path)


def run(root: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["chroot", root, *words], capture_output=True, text=True, check=False)


def test_TRAP_09_files_under_their_real_names_join_the_base(paths: Paths, tmp_path: Path) -> None:
    script = "#!/bin/sh\nexec /bin/cat /lib/gantry-note\n"
    ident = on_base(
        paths,
        tmp_path,
        [
            directory("usr"),
            directory("usr/bin"),
            file("usr/bin/gantry-hello", script, 0o755),
            directory("usr/lib"),
            file("usr/lib/gantry-note", "found through the link\n"),
        ],
    )
    tree = render(Store(paths), ident)
    assert tree.notes == []
    assert os.readlink(f"{tree.rootfs}/lib") == "usr/lib"
    assert run(tree.rootfs, "/bin/gantry-hello").stdout == "found through the link\n"


@pytest.mark.parametrize("link", ["bin", "sbin", "lib", "lib64"])
def test_TRAP_09_a_directory_in_place_of_a_link_replaces_it_and_everybody_is_told(
    paths: Paths, tmp_path: Path, link: str
) -> None:
    ident = on_base(paths, tmp_path, [directory(link), file(f"{link}/gantry-note", "alone")])
    store = Store(paths)
    tree = render(store, ident)
    [note] = tree.notes
    assert f"the symbolic link {link} -> usr/{link} is replaced by a directory" in note
    assert os.listdir(f"{tree.rootfs}/{link}") == ["gantry-note"]
    assert os.listdir(f"{tree.rootfs}/usr/{link}")  # what was there; only the way to it is gone
    for other in {"bin", "sbin", "lib", "lib64"} - {link}:
        assert os.readlink(f"{tree.rootfs}/{other}") == f"usr/{other}"
    [told] = render_directory(store, ident, str(tmp_path / "out")).notes
    assert told == note
    # The loader is found through /lib64 and then /lib: without those not one program of the base starts.
    started = {name: run(tree.rootfs, name).returncode == 0 for name in ("/bin/true", "/usr/bin/true")}
    assert started == {"/bin/true": link == "sbin", "/usr/bin/true": link in {"bin", "sbin"}}


def test_TRAP_09_the_base_itself_stays_as_it_was(paths: Paths, tmp_path: Path) -> None:
    store = Store(paths)
    on_base(paths, tmp_path, [directory("lib"), file("lib/x", "x"), file("bin", "no directory any more")])
    render(store, "example.com/top")
    tree = render(store, NAME)
    assert tree.notes == []
    for link in ("bin", "sbin", "lib", "lib64"):
        assert os.readlink(f"{tree.rootfs}/{link}") == f"usr/{link}"
    assert run(tree.rootfs, "/bin/true").returncode == 0
