"""Section ACI, the builder's half: the same input gives the same bytes, on any day and any machine."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import pytest
from tests.support.aci import manifest
from tests.support.acl import access_list, set_or_skip
from tests.support.openpgp import GnuPG
from tests.support.store import paths_in, put

from gantry.build import BuildError, build_archive, build_directory, build_image
from gantry.build.recipe_build import build_file
from gantry.images import Store, export, validate
from gantry.images.compression import decompress
from gantry.images.errors import LimitError
from gantry.images.limits import Limits

KINDS = ["none", "gzip", "bzip2", "xz", "zstd"]
M = manifest("example.com/golden", version="1.0", exec_=["/bin/sh"])
ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="owners and devices need root")

#: Everything whose image ID is recorded: path, mode, content (None: a directory; a string: a link's text).
GOLDEN: list[tuple[str, int, bytes | str | None]] = [
    ("bin", 0o755, None),
    ("bin/sh", 0o4755, b"#!\x00" * 7000),
    ("bin.d", 0o1777, None),
    ("bin.d/x", 0o600, b""),
    ("etc", 0o700, None),
    ("etc/" + "long" * 30, 0o644, b"a name that ustar cannot hold"),
    ("etc/motd", 0o644, b"hello\n"),
    ("etc/\u00fcml\u00e4ut", 0o640, b"UTF-8"),
    ("lib", 0o777, "usr/lib"),
    ("to", 0o777, "../" * 40 + "far"),
]
GOLDEN_ID = (
    "sha512-9930ff8c2e2abbf7eb3031fcca79e63023b1c995271703d9d735dc5d4d097da7"
    "f3662dfeb1ce6eebc4067545f0828ade2c6cfd0b4249616782fccbc76cda245c"
)


def make_golden(top: Path, *, order: int | None = None) -> Path:
    """The tree, its entries made in some order; every time is set at last."""
    entries = list(GOLDEN)
    if order is not None:  # parents still come first
        random.Random(order).shuffle(entries)
        entries.sort(key=lambda entry: entry[0].count("/"))
    top.mkdir(parents=True)
    for name, mode, body in entries:
        path = top / name
        if body is None:
            path.mkdir()
        elif isinstance(body, str):
            path.symlink_to(body)
            continue
        else:
            path.write_bytes(body)
        path.chmod(mode)
    os.link(top / "bin/sh", top / "bin/ash")
    os.mkfifo(top / "pipe")
    (top / "pipe").chmod(0o622)
    top.chmod(0o755)
    for number, name in enumerate(sorted(path.relative_to(top) for path in top.rglob("*"))):
        stamp = (1_577_934_245 + 1000 * number) * 10**9 + 999_999_999
        os.utime(top / name, ns=(0, stamp), follow_symlinks=False)
    os.utime(top, ns=(0, 10**18))
    return top


def test_SIG_01_the_golden_image_has_its_id_on_every_machine(tmp_path: Path) -> None:
    tree = make_golden(tmp_path / "tree")
    for kind in KINDS:
        target = tmp_path / f"{kind}.aci"
        built = build_image(str(tree), M, str(target), owner_root=True, compression=kind)
        assert str(built.image_id) == GOLDEN_ID, kind
        tar = b"".join(decompress([target.read_bytes()]))
        assert "sha512-" + hashlib.sha512(tar).hexdigest() == GOLDEN_ID


BUILD = """
import os, sys
from gantry.build import build_image
tree, manifest, target, cores = sys.argv[1:]
if cores: os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[0]})
print(build_image(tree, open(manifest, "rb").read(), target, owner_root=True).image_id)
"""


def test_the_same_tree_built_elsewhere_gives_the_same_bytes(tmp_path: Path) -> None:
    """Another directory, order of creation, umask, time zone, language, hash seed, number of processors."""
    (tmp_path / "m").write_bytes(M)
    sizes = random.Random(5)
    outputs = []
    for number, (environment, umask, one_core) in enumerate([
        ({"TZ": "UTC", "LC_ALL": "C", "PYTHONHASHSEED": "1"}, 0o022, False),
        ({"TZ": "Asia/Kathmandu", "LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "2"}, 0o077, True),
        ({"TZ": "America/St_Johns", "LANG": "tr_TR.UTF-8", "PYTHONHASHSEED": "3", "HOME": "/"}, 0o000, False),
    ]):  # fmt: skip
        old = os.umask(umask)
        try:
            tree = make_golden(tmp_path / f"place{number}" / ("x" * number) / "tree", order=number)
        finally:
            os.umask(old)
        sizes.seed(9)
        (tree / "big").write_bytes(sizes.randbytes(700_000) + bytes(900_000))
        (tree / "big").chmod(0o644)
        for path in (tree / "big", tree):
            os.utime(path, (0, 1_500_000_000))
        target = tmp_path / f"o{number}.aci"
        done = subprocess.run(
            [sys.executable, "-c", BUILD, tree, tmp_path / "m", target, "1" if one_core else ""],
            env={"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path), **environment},
            cwd=tmp_path / f"place{number}",
            umask=umask,
            capture_output=True,
            text=True,
            check=True,
        )
        assert target.stat().st_mode & 0o777 == 0o644
        outputs.append((done.stdout, target.read_bytes()))
    assert outputs[0] == outputs[1] == outputs[2]


def test_a_copy_of_the_tree_gives_the_same_bytes(tmp_path: Path) -> None:
    tree = make_golden(tmp_path / "tree")
    subprocess.run(["cp", "-a", tree, tmp_path / "copy"], check=True)
    one = build_image(str(tree), M, str(tmp_path / "1.aci"))
    shutil.rmtree(tree)
    two = build_image(str(tmp_path / "copy"), M, str(tmp_path / "2.aci"))
    assert one.image_id == two.image_id
    assert (tmp_path / "1.aci").read_bytes() == (tmp_path / "2.aci").read_bytes()


def test_ACI_12_what_changes_a_property_changes_the_id(tmp_path: Path) -> None:
    """The other half of determinism: nothing that an image keeps is lost on the way."""
    seen = {str(build_image(str(make_golden(tmp_path / "t")), M, str(tmp_path / "o.aci")).image_id)}
    changes = [
        lambda top: (top / "bin/sh").chmod(0o755),
        lambda top: (top / "etc/motd").write_text("hallo\n"),
        lambda top: os.utime(top / "etc/motd", (0, 1)),
        lambda top: os.utime(top / "lib", (0, 1), follow_symlinks=False),
        lambda top: os.setxattr(top / "etc/motd", "user.a", b"1"),
        lambda top: (top / "bin/ash").unlink(),
        lambda top: (top / "bin.d/x").rename(top / "bin.d/y"),
        lambda top: (top / "bin.d").chmod(0o777),
    ]
    if os.geteuid() == 0:
        changes += [
            lambda top: os.chown(top / "etc/motd", 1, 0),
            lambda top: os.chown(top / "etc/motd", 0, 1),
            lambda top: os.mknod(top / "bin.d/null", 0o20666, os.makedev(1, 3)),
        ]
    for number, change in enumerate(changes):
        top = make_golden(tmp_path / f"t{number}")
        change(top)
        for path in (top / "bin", top / "bin.d"):  # a directory's own time is another matter
            os.utime(path, ns=(0, (tmp_path / "t" / path.name).stat().st_mtime_ns))
        if number != 2:
            os.utime(top / "etc/motd", ns=(0, (tmp_path / "t/etc/motd").stat().st_mtime_ns))
        seen.add(str(build_image(str(top), M, str(tmp_path / f"{number}.aci")).image_id))
    assert len(seen) == 1 + len(changes)


def test_ACI_15_the_manifest_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = make_golden(tmp_path / "tree")
    (tmp_path / "m").write_bytes(M)
    for epoch in (0, 1_700_000_000):
        if epoch:
            monkeypatch.setenv("SOURCE_DATE_EPOCH", str(epoch))
        build_image(str(tree), M, str(tmp_path / "o.aci"), overwrite=True)
        with tarfile.open(tmp_path / "o.aci") as archive:
            *_, last = archive
            body = archive.extractfile(last)
            assert body is not None
            assert body.read() == M  # byte for byte, whatever its spacing and order
        assert (last.name, last.type, last.mode, last.uid, last.gid, last.uname, last.gname, last.mtime) == (
            "manifest", tarfile.REGTYPE, 0o644, 0, 0, "root", "root", epoch,
        )  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_ACI_18_ACI_24_every_compression_is_read_back_and_keeps_the_canonical_tar(
    tmp_path: Path, kind: str
) -> None:
    tree = make_golden(tmp_path / "tree")
    built = build_image(str(tree), M, str(tmp_path / "o.aci"), compression=kind)
    assert validate(str(tmp_path / "o.aci")) == []
    store = Store(paths_in(tmp_path))
    image = put(store, tmp_path / "o.aci")
    assert str(image.id) == str(built.image_id)
    export(store, image.id, str(tmp_path / "e.aci"))
    tar = b"".join(decompress([(tmp_path / "o.aci").read_bytes()]))
    assert (tmp_path / "e.aci").read_bytes() == tar


def test_ACI_21_first_tar_then_compression_then_signature(tmp_path: Path) -> None:
    """Each layer is over the one before it: gpg verifies the file, gzip opens it, tar lists it."""
    with GnuPG() as gpg:
        fingerprint = gpg.make_key("Builder <b@example.com>")
        image = tmp_path / "o.aci"
        build_image(str(make_golden(tmp_path / "tree")), M, str(image))
        (tmp_path / "o.aci.asc").write_bytes(gpg.sign(image.read_bytes(), fingerprint))
        gpg.run("--verify", str(tmp_path / "o.aci.asc"), str(image))
    listed = subprocess.run(["tar", "-tzf", image], capture_output=True, check=True).stdout.splitlines()
    assert listed[0] == b"rootfs"
    assert listed[-1] == b"manifest"


def test_ACI_22_a_layout_and_its_parts_give_the_same_image(tmp_path: Path) -> None:
    tree = make_golden(tmp_path / "layout/rootfs")
    (tmp_path / "layout/manifest").write_bytes(M)
    of_layout = build_directory(str(tmp_path / "layout"), str(tmp_path / "1.aci"))
    of_parts = build_image(str(tree), M, str(tmp_path / "2.aci"))
    assert of_layout.image_id == of_parts.image_id
    subprocess.run(["tar", "-C", tree, "-cf", tmp_path / "r.tar", "."], check=True)
    of_tar = build_archive(str(tmp_path / "r.tar"), M, str(tmp_path / "3.aci"))
    assert of_layout.image_id == of_tar.image_id


def test_what_no_host_would_take_is_not_built(tmp_path: Path) -> None:
    make_golden(tmp_path / "t")
    large = manifest(annotations={"a": "x" * 2_000_000})
    with pytest.raises(LimitError, match="bound: manifest"):
        build_image(str(tmp_path / "t"), large, str(tmp_path / "o.aci"))
    for limits, bound in (
        (Limits(entries=4), "entries"),
        (Limits(depth=2), "depth"),
        (Limits(path=20), "path"),
    ):
        with pytest.raises(LimitError, match=f"bound: {bound}"):
            build_image(str(tmp_path / "t"), M, str(tmp_path / "o.aci"), limits=limits)
    with pytest.raises(LimitError, match="bound: component"):
        build_image(str(tmp_path / "t"), M, str(tmp_path / "o.aci"), limits=Limits(component=100))
    assert os.listdir(tmp_path) == ["t"]


def test_sockets_are_left_out_and_named(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "t/s"))
        built = build_image(str(tmp_path / "t"), M, str(tmp_path / "o.aci"))
    assert built.skipped == ["rootfs/s"]


@pytest.mark.parametrize(("name", "want"), [("f", 0o640), ("d", 0o750), ("pipe", 0o640)])
def test_ACI_12_an_access_list_gives_the_group_nothing(tmp_path: Path, name: str, want: int) -> None:
    """The bits of the group are then the list's mask; in the image they are what the group may do."""
    root = tmp_path / "t"
    (root / "d").mkdir(parents=True)
    (root / "f").write_bytes(b"x")
    os.mkfifo(root / "pipe")
    group = want >> 3 & 7
    listed = access_list(want >> 6, group | 1, 0, users={1000: 7}, mask=group | 2)
    set_or_skip(root / name, "system.posix_acl_access", listed)
    assert (root / name).lstat().st_mode & 0o070 == (group | 2) << 3
    built = build_image(str(root), M, str(tmp_path / "o.aci"))
    with tarfile.open(built.path) as tar:
        found = tar.getmember(f"rootfs/{name}")
    # The group's own entry, as far as the mask lets it.
    assert found.mode == want & ~0o070 | ((group | 1) & (group | 2)) << 3
    assert not any("posix_acl" in key for key in found.pax_headers)
    [warning] = built.warnings
    assert f"of rootfs/{name}:" in warning


def test_a_directorys_default_access_list_is_told(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir(mode=0o755)
    listed = access_list(7, 5, 5, users={1000: 7}, mask=7)
    set_or_skip(tmp_path / "t", "system.posix_acl_default", listed)
    built = build_image(str(tmp_path / "t"), M, str(tmp_path / "o.aci"))
    assert [warning for warning in built.warnings if "access lists were left out, of rootfs:" in warning]
    with tarfile.open(built.path) as tar:
        assert tar.getmember("rootfs").mode == 0o755


def test_a_directorys_default_access_list_changes_no_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a build makes on its way inherits nothing from where temporary files lie."""
    (tmp_path / "App.toml").write_text(
        'time = 2026-01-31T12:00:00Z\n[manifest]\nname = "example.com/app"\n[[step]]\nmkdir = "/etc"\n'
        '[[step]]\nwrite = "/etc/motd"\ncontent = "hello"\n'
    )
    ids = []
    for name in ("plain", "listed"):
        place = tmp_path / name
        place.mkdir()
        if name == "listed":
            listed = access_list(7, 0, 0, users={1000: 7}, mask=7)
            set_or_skip(place, "system.posix_acl_default", listed)
        monkeypatch.setattr(tempfile, "tempdir", str(place))
        output, store = str(tmp_path / f"{name}.aci"), Store(paths_in(place / "host"))
        built = build_file(
            str(tmp_path / "App.toml"), output, store=store, obtain=store.find, say=lambda _: None
        )
        assert built.built.warnings == []
        ids.append(built.built.image_id)
    assert ids[0] == ids[1]


def test_warnings_of_what_lies_upon_a_base_are_told(tmp_path: Path) -> None:
    """All but the one about the base's links (TRAP-09): they were followed."""
    (tmp_path / "t/lib").mkdir(parents=True)
    (tmp_path / "t/lib/f").write_bytes(b"x")
    listed = access_list(6, 4, 4, users={1000: 6}, mask=6)
    set_or_skip(tmp_path / "t/lib/f", "system.posix_acl_access", listed)
    body = manifest("example.com/app", dependencies=[{"imageName": "example.com/base"}])
    warnings = {
        upon: build_image(str(tmp_path / "t"), body, str(tmp_path / f"{upon}.aci"), upon_base=upon).warnings
        for upon in (False, True)
    }
    assert len(warnings[False]) == 2
    [told] = warnings[True]
    assert told.startswith("access lists were left out, of rootfs/lib/f:")


def test_an_attribute_that_no_tar_can_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    (tmp_path / "t/f").write_bytes(b"x")
    set_or_skip(tmp_path / "t/f", "user.a=b", b"1")
    with pytest.raises(BuildError, match="with a = in its name"):
        build_image(str(tmp_path / "t"), M, str(tmp_path / "o.aci"))
    assert os.listdir(tmp_path) == ["t"]


def test_json_of_the_manifest_is_not_rewritten(tmp_path: Path) -> None:
    body = json.dumps(json.loads(M), indent=7).encode() + b"\n\n"
    (tmp_path / "t").mkdir()
    build_image(str(tmp_path / "t"), body, str(tmp_path / "o.aci"))
    with tarfile.open(tmp_path / "o.aci") as archive:
        found = archive.extractfile("manifest")
        assert found is not None
        assert found.read() == body
