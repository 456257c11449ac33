"""actool, an independent implementation of the specification: each accepts what the other makes."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest
from tests.support.aci import make_aci
from tests.support.store import paths_in, put

from gantry.build import build_archive, build_directory
from gantry.build.patching import patch_archive, read_manifest
from gantry.images import Store, render, validate
from gantry.images.compression import decompress

pytestmark = pytest.mark.skipif(
    shutil.which("actool") is None, reason="actool (Debian package appc-spec), the peer, is not installed"
)
ROOT = os.geteuid() == 0
KINDS = ["none", "gzip", "bzip2", "xz"]  # the peer knows no zstd
MANIFEST = {
    "acKind": "ImageManifest",
    "acVersion": "0.8.11",
    "name": "example.com/peer",
    "labels": [
        {"name": "version", "value": "1.2.3"},
        {"name": "os", "value": "linux"},
        {"name": "arch", "value": "amd64"},
    ],
    "app": {
        "exec": ["/bin/a", "--flag", "\u00fc"],
        "user": "0",
        "group": "0",
        "environment": [{"name": "A", "value": "b=c"}],
        "mountPoints": [{"name": "work", "path": "/work"}],
        "ports": [{"name": "web", "protocol": "tcp", "port": 80}],
        "isolators": [{"name": "resource/memory", "value": {"limit": "64Mi"}}],
    },
    "annotations": [{"name": "created", "value": "2020-01-01T00:00:00Z"}],
}


def actool(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["actool", "--debug", *map(str, arguments)], capture_output=True, text=True, check=False
    )


def accepted(path: Path) -> None:
    done = actool("validate", "--type=appimage", path)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    """A tree with everything that tars have trouble with."""
    top = tmp_path / "layout"
    root = top / "rootfs"
    (root / "bin").mkdir(parents=True)
    (top / "manifest").write_text(json.dumps(MANIFEST))
    (root / "bin/a").write_text("one")
    os.link(root / "bin/a", root / "bin/z")
    (root / "bin/soft").symlink_to("a")
    os.link(root / "bin/soft", root / "bin/soft-too", follow_symlinks=False)
    os.mkfifo(root / "bin/pipe")
    os.link(root / "bin/pipe", root / "bin/pipe-too")
    (root / ("d" * 100)).mkdir()
    (root / ("d" * 100) / ("n" * 255)).write_text("long")
    deep = root
    for _ in range(25):
        deep /= "directory-name"
        deep.mkdir()
    (deep / "bottom").write_text("deep")
    (root / "\u00fcml\u00e4ut \u65e5\u672c").write_text("unicode")
    (root / "link").symlink_to("/nowhere")
    (root / "long-link").symlink_to("x/" * 200)
    os.mkfifo(root / "pipe")
    (root / "bin/setuid").write_text("s")
    (root / "empty").touch()
    (root / "old").touch()
    if ROOT:
        os.mknod(root / "null", 0o20666, os.makedev(1, 3))
        os.mknod(root / "disk", 0o60660, os.makedev(8, 17))
        os.chown(root / "empty", 4_000_000_000, 3_000_000)
    os.setxattr(root / "bin/a", "user.note", b"text")
    if ROOT:
        os.setxattr(root / "bin/a", "security.capability", bytes.fromhex("0100000200040000") + bytes(12))
    (root / "bin/setuid").chmod(0o6755)
    (root / "bin").chmod(0o1777)
    for number, path in enumerate(sorted(root.rglob("*"))):
        os.utime(path, (0, 1_600_000_000 + number), follow_symlinks=False)
    os.utime(root / "old", (0, -5))
    return top


@pytest.mark.parametrize("kind", KINDS)
def test_the_peer_accepts_what_we_build(tmp_path: Path, layout: Path, kind: str) -> None:
    build_directory(str(layout), str(tmp_path / "o.aci"), compression=kind)
    accepted(tmp_path / "o.aci")
    shown = actool("cat-manifest", tmp_path / "o.aci")
    assert json.loads(shown.stdout) == json.loads(read_manifest(str(tmp_path / "o.aci"))) == MANIFEST


@pytest.mark.parametrize("kind", KINDS)
def test_the_peer_accepts_many_blocks_of_each_compression(tmp_path: Path, layout: Path, kind: str) -> None:
    """More than one block of ours, which become several members for some kinds."""
    (layout / "rootfs/big").write_bytes(
        os.urandom(1_500_000) + bytes(20_000_000 if kind == "xz" else 100_000)
    )
    build_directory(str(layout), str(tmp_path / "o.aci"), compression=kind)
    accepted(tmp_path / "o.aci")


def test_the_peer_accepts_what_we_build_from_a_tar(tmp_path: Path, layout: Path) -> None:
    subprocess.run(["tar", "-C", layout / "rootfs", "-cf", tmp_path / "r.tar", "bin", "link"], check=True)
    build_archive(str(tmp_path / "r.tar"), (layout / "manifest").read_bytes(), str(tmp_path / "o.aci"))
    accepted(tmp_path / "o.aci")


def test_the_peer_does_not_know_zstd(tmp_path: Path, layout: Path) -> None:
    """What docs/extensions.md says of it: should this fail one day, the page is to be changed."""
    build_directory(str(layout), str(tmp_path / "o.aci"), compression="zstd")
    assert actool("validate", "--type=appimage", tmp_path / "o.aci").returncode != 0


@pytest.mark.parametrize("flags", [(), ("--no-compression",), ("--owner-root",)])
def test_we_accept_what_the_peer_builds_with_the_same_id(
    tmp_path: Path, layout: Path, flags: tuple[str, ...]
) -> None:
    assert actool("build", *flags, layout, tmp_path / "peer.aci").returncode == 0
    assert validate(str(tmp_path / "peer.aci")) == []
    data = (tmp_path / "peer.aci").read_bytes()
    plain = subprocess.run(["gzip", "-dcf"], input=data, capture_output=True, check=True).stdout
    store = Store(paths_in(tmp_path))
    image = put(store, tmp_path / "peer.aci")
    assert image.id == "sha512-" + hashlib.sha512(plain).hexdigest()
    tree = Path(render(store, image.id).rootfs)
    assert (tree / "bin/a").read_text() == "one"
    assert (tree / "bin/a").stat().st_ino == (tree / "bin/z").stat().st_ino
    assert (tree / "bin/setuid").stat().st_mode & 0o7777 == 0o6755
    assert (tree / ("d" * 100) / ("n" * 255)).read_text() == "long"


def entries(path: Path) -> list[tuple[Any, ...]]:
    with tarfile.open(path) as archive:
        return [
            (m.name, m.type, m.mode, m.uid, m.gid, m.size, int(m.mtime), m.linkname, m.devmajor, m.devminor)
            for m in archive
            if m.name != "manifest"  # the peer writes the manifest anew, and its time is now
        ]


def test_both_builders_write_the_same_entries(tmp_path: Path, layout: Path) -> None:
    (layout / "rootfs/old").unlink()  # the peer cannot say a time before 1970
    os.utime(layout / "rootfs", (0, 1_500_000_000))
    assert actool("build", layout, tmp_path / "peer.aci").returncode == 0
    build_directory(str(layout), str(tmp_path / "ours.aci"))
    ours, theirs = entries(tmp_path / "ours.aci"), entries(tmp_path / "peer.aci")
    assert sorted(ours) == sorted(theirs)
    assert ours[0][0] == theirs[0][0] == "rootfs"


@pytest.mark.parametrize("kind", KINDS)
def test_our_patched_image_is_accepted(tmp_path: Path, layout: Path, kind: str) -> None:
    build_directory(str(layout), str(tmp_path / "o.aci"), compression=kind)

    def change(old: bytes) -> bytes:
        document = json.loads(old)
        document["name"] = "example.com/patched"
        return json.dumps(document).encode()

    patch_archive(str(tmp_path / "o.aci"), str(tmp_path / "p.aci"), change)
    accepted(tmp_path / "p.aci")
    assert json.loads(actool("cat-manifest", tmp_path / "p.aci").stdout)["name"] == "example.com/patched"


def test_we_patch_what_the_peer_built_and_it_what_we_built(tmp_path: Path, layout: Path) -> None:
    assert actool("build", layout, tmp_path / "peer.aci").returncode == 0
    same = patch_archive(str(tmp_path / "peer.aci"), str(tmp_path / "p.aci"), lambda old: old)
    accepted(tmp_path / "p.aci")
    assert entries(tmp_path / "p.aci") == entries(tmp_path / "peer.aci")
    tar = b"".join(decompress([(tmp_path / "p.aci").read_bytes()]))
    assert str(same.image_id) == "sha512-" + hashlib.sha512(tar).hexdigest()
    build_directory(str(layout), str(tmp_path / "ours.aci"))
    done = actool("patch-manifest", "--name=example.com/theirs", tmp_path / "ours.aci", tmp_path / "t.aci")
    assert done.returncode == 0, done.stderr
    assert validate(str(tmp_path / "t.aci")) == []
    assert json.loads(read_manifest(str(tmp_path / "t.aci")))["name"] == "example.com/theirs"


def test_both_show_the_same_manifest(tmp_path: Path) -> None:
    image = make_aci(tmp_path / "m.aci", "example.com/shown", version="3", exec_=["/x"])
    assert json.loads(actool("cat-manifest", image.path).stdout) == json.loads(read_manifest(str(image.path)))
