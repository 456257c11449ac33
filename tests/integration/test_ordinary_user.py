"""The whole life of an image as a user who is nobody special: no root, a directory of their own."""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import shutil
import subprocess
import sys
import tarfile
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.aci import directory, file, image_entries, make_raw, manifest

import gantry
from gantry.cli import main

NOBODY = 65534

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else"),
]


@pytest.fixture(scope="module", autouse=True)
def _loaded() -> None:
    """Everything is loaded while it can be read: where a checkout lies is none of its user's business."""
    for module in pkgutil.walk_packages(gantry.__path__, "gantry."):
        importlib.import_module(module.name)


@pytest.fixture
def home() -> Iterator[Path]:
    """A home that nobody else owns, reachable for its owner."""
    place = Path(tempfile.mkdtemp(prefix="gantry-user-", dir="/tmp"))
    os.chown(place, NOBODY, NOBODY)
    yield place
    shutil.rmtree(place)


def gantry_as_user(home: Path, *words: str, status: int = 0) -> str:
    """Both streams of the command, run as the user, in their home."""
    with tempfile.TemporaryFile() as told:
        child = os.fork()
        if child == 0:
            code = 99
            try:
                os.dup2(told.fileno(), 1)
                os.dup2(told.fileno(), 2)
                os.setgroups([])
                os.setresgid(NOBODY, NOBODY, NOBODY)
                os.setresuid(NOBODY, NOBODY, NOBODY)
                os.chdir(home)
                os.environ.update(HOME=str(home), LC_ALL="C.UTF-8")
                sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
                sys.argv = ["gantry", f"--dir={home}/data", *words]
                code = main()
                sys.stdout.flush()
                sys.stderr.flush()
            except BaseException:  # noqa: BLE001 - told below, whatever it is
                os.write(2, traceback.format_exc().encode())
            finally:
                os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        told.seek(0)
        text = told.read().decode()
    assert code == status, text
    assert "Traceback" not in text
    return text


def test_build_take_in_render_verify_extract_export_remove(home: Path) -> None:
    (home / "root/bin").mkdir(parents=True)
    (home / "root/bin/hello").write_text("#!/bin/sh\necho hello\n")
    (home / "root/data").mkdir(mode=0o2750)
    os.mkfifo(home / "root/data/pipe")
    for path in [home / "root", *(home / "root").rglob("*")]:
        os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
    (home / "root/bin/hello").chmod(0o4755)  # chown(2) would take the bit away
    manifest = {"acKind": "ImageManifest", "acVersion": "0.8.11", "name": "example.com/mine"}
    (home / "manifest.json").write_text(json.dumps(manifest))

    def do(*words: str, status: int = 0) -> str:
        return gantry_as_user(home, *words, status=status)

    ident = do("build", "--manifest=manifest.json", "--owner-root", "./root", "mine.aci").split()[-1]
    assert ident.startswith("sha512-")
    do("image", "validate", "mine.aci")
    assert "(its signature was not verified)" not in do("image", "cat-manifest", "./mine.aci")
    do("fetch", "--insecure-options=image", "./mine.aci")
    assert "example.com/mine" in do("image", "list")
    told = do("image", "render", "example.com/mine", "out")
    assert "could not be kept: owners" in told
    assert "setid (bin/hello)" in told
    assert (home / "out/rootfs/bin/hello").stat().st_mode & 0o7777 == 0o755
    assert (home / "out/rootfs/bin/hello").stat().st_uid == NOBODY
    lost = json.loads(do("--format=json", "image", "extract", "example.com/mine", "raw"))["lost"]
    assert lost["owners"] == 5
    assert "no verification needed" in do("image", "verify", "example.com/mine")
    do("image", "export", "example.com/mine", "mine.tar")
    assert "owners" in do("image", "export", "--rendered", "example.com/mine", "whole.aci", status=254)
    tree = next((home / "data/images/tree").glob("tree-*/rootfs"))
    assert "successfully verified" in do("image", "verify", "example.com/mine")
    (tree / "bin/hello").write_text("changed")
    assert "rebuilt" in do("image", "verify", "example.com/mine")
    assert "successfully verified" in do("image", "verify", "example.com/mine")
    do("image", "pin", "example.com/mine")
    assert "stays: pinned" in do("image", "rm", "example.com/mine", status=254)
    do("image", "unpin", "example.com/mine")
    do("image", "usage")
    assert "removed" in do("image", "rm", "example.com/mine")
    do("image", "gc", "--grace-period=0s")
    left = [path for path in (home / "data/images").rglob("*") if path.is_file()]
    assert sorted(path.name for path in left) == ["format", "lock"]


def test_devices_are_left_out_and_told(home: Path) -> None:
    layout = home / "layout"
    (layout / "rootfs").mkdir(parents=True)
    (layout / "manifest").write_text(
        json.dumps({"acKind": "ImageManifest", "acVersion": "0.8.11", "name": "example.com/devices"})
    )
    os.mknod(layout / "rootfs/null", 0o020666, os.makedev(1, 3))
    subprocess.run(["chown", "-R", f"{NOBODY}:{NOBODY}", layout], check=True)
    gantry_as_user(home, "build", "./layout", "dev.aci")
    gantry_as_user(home, "fetch", "--insecure-options=image", "./dev.aci")
    assert "devices (null)" in gantry_as_user(home, "image", "render", "example.com/devices", "out")
    assert os.listdir(home / "out/rootfs") == []


def test_what_nobody_may_read_is_rendered_and_verified(home: Path) -> None:
    """Neither a refusal nor another mode: the files are the user's."""
    note, ids = {"SCHILY.xattr.user.note": "kept"}, {"uid": NOBODY, "gid": NOBODY}
    tree = [
        directory("closed", mode=0, **ids),
        file("closed/within", "one", mode=0, pax_headers=note, **ids),
        directory("blind", mode=0o300, pax_headers=note, **ids),
        file("blind/within", "two", mode=0o200, **ids),
    ]
    entries = image_entries(manifest("example.com/closed"), tree=tree)
    image = make_raw(home / "closed.aci", entries, fmt=tarfile.PAX_FORMAT).path
    gantry_as_user(home, "--insecure-options=image", "fetch", str(image))
    with pytest.raises(AssertionError, match="owners were lost"):
        gantry_as_user(home, "image", "export", "--rendered", "example.com/closed", "out.aci")
    [made] = (home / "data/images/tree").glob("tree-*/rootfs")
    before = {path: os.lstat(path).st_mode for path in made.rglob("*")}
    told = gantry_as_user(home, "image", "verify", "example.com/closed")
    assert "successfully verified" in told
    (made / "closed/within").write_text("six")
    told = gantry_as_user(home, "image", "verify", "--check", "example.com/closed", status=254)
    assert "closed/within: " in told
    assert {path: os.lstat(path).st_mode for path in made.rglob("*")} == before
    gantry_as_user(home, "image", "verify", "example.com/closed", status=0)
    assert (made / "closed/within").read_text() == "one"
    assert os.getxattr(made / "closed/within", "user.note") == b"kept"
    assert {path: os.lstat(path).st_mode for path in made.rglob("*")} == before


def test_the_hosts_own_store_is_read_but_not_changed(home: Path) -> None:
    data = home / "data"
    data.mkdir(mode=0o755)
    (data / "images").mkdir(mode=0o700)
    os.chown(data / "images", 0, 0)
    for words in (["image", "list"], ["image", "gc"], ["image", "rm", "example.com/x"]):
        said = gantry_as_user(home, *words, status=254)
        assert len(said.splitlines()) == 1
        assert "root" in said
