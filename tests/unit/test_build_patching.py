"""``gantry image patch-manifest``: what is named changes, and no other byte of archive and manifest does."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.aci import (
    compress,
    directory,
    file,
    hardlink,
    image_id,
    make_aci,
    make_raw,
    manifest,
    symlink,
    tar_bytes,
)

from gantry.appc.errors import ManifestError
from gantry.appc.patch import ManifestPatch, PatchError, patch_image_manifest
from gantry.build import BuildError, build_image
from gantry.build.patching import patch_archive, read_manifest
from gantry.errors import GantryError, UsageError
from gantry.images import validate
from gantry.images.compression import decompress, sniff
from gantry.images.errors import ImageError, LimitError
from gantry.images.limits import Limits

GANTRY = os.path.join(os.path.dirname(sys.executable), "gantry")
BEFORE = [directory("rootfs"), file("rootfs/big", os.urandom(700_000)), symlink("rootfs/l", "x" * 200)]
AFTER = [file("rootfs/" + "n" * 150, b"late"), hardlink("rootfs/h", "rootfs/big")]


def gantry(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([GANTRY, *map(str, arguments)], capture_output=True, text=True, check=False)


def plain(path: Path) -> bytes:
    return b"".join(decompress([path.read_bytes()]))


def renamed(old: bytes) -> bytes:
    return patch_image_manifest(old, ManifestPatch(name="example.com/new"))


# -- the archive --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["none", "gzip", "bzip2", "xz", "zstd"])
@pytest.mark.parametrize("fmt", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("place", ["first", "middle", "last"])
def test_every_other_byte_stays(tmp_path: Path, kind: str, fmt: int, place: str) -> None:
    """The manifest's own headers, long ones included, are exchanged for ours; all others stay."""
    parts = {"first": ([], BEFORE + AFTER), "middle": (BEFORE, AFTER), "last": (BEFORE + AFTER, [])}[place]
    body = manifest(extra={"x": "y" * 1000})
    headers = {"comment": "c" * 600} if fmt == tarfile.PAX_FORMAT else {}
    mine = file("./manifest", body, 0o600, uid=5, mtime=1_234_567_890, pax_headers=headers)
    # Each part is whole blocks: an archive without its end.
    cut = [tar_bytes(part, fmt=fmt).rstrip(b"\0") if part else b"" for part in (parts[0], [mine], parts[1])]
    before, own, after = (data + bytes(-len(data) % 512) for data in cut)
    tar = before + own + after + bytes(10240 + 512)
    (tmp_path / "i.aci").write_bytes(compress(tar, kind))
    built = patch_archive(str(tmp_path / "i.aci"), str(tmp_path / "o.aci"), renamed)
    data = (tmp_path / "o.aci").read_bytes()
    assert sniff(data[:512]) == kind
    out = plain(tmp_path / "o.aci")
    assert out.startswith(before)
    assert out.endswith(after + bytes(10240 + 512))
    middle = out[len(before) : len(out) - len(after) - 10240 - 512]
    assert len(middle) == 512 + -(-len(renamed(body)) // 512) * 512
    info = tarfile.TarInfo.frombuf(middle[:512], "utf-8", "strict")
    assert (info.name, info.mode, info.uid, info.uname, info.mtime) == (
        "manifest",
        0o644,
        0,
        "root",
        1_234_567_890,
    )
    assert middle[512:].rstrip(b"\0") == renamed(body)
    assert str(built.image_id) == image_id(out)
    assert validate(str(tmp_path / "o.aci")) == []


@pytest.mark.parametrize("place", ["first", "last"])
def test_a_comment_for_the_whole_archive_stays(tmp_path: Path, place: str) -> None:
    """Right before the manifest, too, whose own headers go."""
    own = file("manifest", manifest(), pax_headers={"comment": "its own", "mtime": "1.5"})
    entries = [own, *BEFORE] if place == "first" else [*BEFORE, own]
    image = make_raw(tmp_path / "i.aci", entries, compression="none", fmt=tarfile.PAX_FORMAT)
    comment = tarfile.TarInfo.create_pax_global_header({"comment": "0123456789abcdef"})
    at = image.tar.index(b"comment=its own") // 512 * 512 - 512
    image.path.write_bytes(image.tar[:at] + comment + image.tar[at:])
    patch_archive(str(image.path), str(tmp_path / "o.aci"), renamed)
    patched = plain(tmp_path / "o.aci")
    assert patched.count(comment) == 1
    assert b"its own" not in patched
    assert validate(str(tmp_path / "o.aci")) == []
    with tarfile.open(tmp_path / "o.aci") as tar:
        assert tar.getmembers()
        assert tar.pax_headers == {"comment": "0123456789abcdef"}


def test_zeros_after_the_end_of_the_archive_stay(tmp_path: Path) -> None:
    image = make_raw(tmp_path / "i.aci", [*BEFORE, file("manifest", manifest())], compression="none")
    image.path.write_bytes(image.tar + bytes(30_000))
    patch_archive(str(image.path), str(tmp_path / "o.aci"), renamed)
    assert len(plain(tmp_path / "o.aci")) >= len(image.tar) + 30_000 - 512


def test_without_a_change_our_own_image_stays_the_same_file(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    (tmp_path / "t/f").write_bytes(os.urandom(400_000))
    build_image(str(tmp_path / "t"), manifest(), str(tmp_path / "i.aci"), epoch=1_600_000_000)
    patch_archive(str(tmp_path / "i.aci"), str(tmp_path / "o.aci"), lambda old: old)
    assert (tmp_path / "o.aci").read_bytes() == (tmp_path / "i.aci").read_bytes()


def test_in_place(tmp_path: Path) -> None:
    image = make_aci(tmp_path / "i.aci", files={"f": "x"})
    with pytest.raises(UsageError, match="exists"):
        patch_archive(str(image.path), str(image.path), renamed)
    assert image.path.read_bytes() == image.data
    patch_archive(str(image.path), str(image.path), renamed, overwrite=True)
    assert json.loads(read_manifest(str(image.path)))["name"] == "example.com/new"
    assert os.listdir(tmp_path) == ["i.aci"]


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files away")
def test_in_place_it_stays_its_owners(tmp_path: Path) -> None:
    image = make_aci(tmp_path / "i.aci").path
    os.chown(image, 1234, 4321)
    image.chmod(0o640)
    (tmp_path / "link.aci").symlink_to("i.aci")
    change = ["--replace", "--name=example.com/b"]
    done = gantry("image", "patch-manifest", *change, tmp_path / "link.aci")
    assert done.returncode == 0, done.stderr
    found = image.lstat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (1234, 4321, 0o640)
    assert os.readlink(tmp_path / "link.aci") == "i.aci"
    assert b"example.com/b" in read_manifest(str(image))
    assert (
        gantry("image", "patch-manifest", "--name=example.com/c", image, tmp_path / "o.aci").returncode == 0
    )
    assert stat.S_IMODE((tmp_path / "o.aci").stat().st_mode) == 0o644


def test_a_manifest_that_nobody_would_read_is_not_written(tmp_path: Path) -> None:
    image = make_aci(tmp_path / "i.aci")
    with pytest.raises(LimitError, match="bound: manifest"):
        patch_archive(
            str(image.path),
            str(tmp_path / "o.aci"),
            lambda old: old + b" ",
            limits=Limits(manifest=len(image.manifest)),
        )
    assert os.listdir(tmp_path) == ["i.aci"]


def test_a_bad_input_or_change_leaves_what_was_there(tmp_path: Path) -> None:
    image = make_aci(tmp_path / "i.aci", files={"f": "x"})
    for change in (lambda _: b"{", lambda old: old.replace(b"0.8.11", b"x")):
        with pytest.raises(BuildError, match="the new manifest is refused"):
            patch_archive(str(image.path), str(image.path), change, overwrite=True)
        assert image.path.read_bytes() == image.data
    make_raw(tmp_path / "two.aci", [directory("rootfs"), file("manifest", manifest()), file("manifest")])
    (tmp_path / "cut.aci").write_bytes(image.data[:-5])
    for bad in ("two", "cut"):
        with pytest.raises(ImageError):
            patch_archive(str(tmp_path / f"{bad}.aci"), str(tmp_path / "o.aci"), renamed)
    assert sorted(os.listdir(tmp_path)) == ["cut.aci", "i.aci", "two.aci"]


# -- the manifest -------------------------------------------------------------------------------------

FULL: dict[str, Any] = {
    "acKind": "ImageManifest",
    "x-first": [1.50, {"deep": None}],
    "name": "example.com/app",
    "acVersion": "0.8.11",
    "labels": [{"name": "version", "value": "1", "x-more": 1}, {"name": "os", "value": "linux"}],
    "app": {
        "exec": ["/old"],
        "user": "0",
        "x-app": "kept",
        "group": "0",
        "environment": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
        "isolators": [
            {"name": "resource/memory", "value": {"limit": "1G"}},
            {"name": "os/linux/capabilities-remove-set", "value": {"set": ["CAP_KILL"]}},
            {"name": "example.com/unknown", "value": {"n": 1.0}},
        ],
    },
    "annotations": [{"name": "created", "value": "2020-01-01T00:00:00Z"}],
    "x-last": 123456789012345678901234567890,
}
RAW = json.dumps(FULL).encode()


def patched(**changes: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(patch_image_manifest(RAW, ManifestPatch(**changes)))
    return found


def test_unknown_keys_order_and_numbers_stay() -> None:
    out = patch_image_manifest(RAW.replace(b"1.5,", b"1.50e0,"), ManifestPatch(name="example.com/new"))
    assert b"1.50e0" in out
    assert b"123456789012345678901234567890" in out
    assert list(json.loads(out)) == list(FULL)
    assert json.loads(out) == {**FULL, "name": "example.com/new"}
    assert patch_image_manifest(RAW, ManifestPatch()) is RAW


def test_entries_are_changed_in_their_place_added_and_removed() -> None:
    found = patched(labels={"version": "2", "arch": "amd64", "none": None}, environment={"A": None, "C": "="})
    assert found["labels"] == [
        {"name": "version", "value": "2", "x-more": 1},
        {"name": "os", "value": "linux"},
        {"name": "arch", "value": "amd64"},
    ]
    assert found["app"]["environment"] == [{"name": "B", "value": "2"}, {"name": "C", "value": "="}]
    assert "annotations" not in patched(annotations={"created": None})


def test_a_capability_set_takes_the_place_of_the_other() -> None:
    isolators = patched(isolators={"os/linux/capabilities-retain-set": {"set": ["CAP_CHOWN"]}})["app"][
        "isolators"
    ]
    assert [each["name"] for each in isolators] == [
        "resource/memory",
        "example.com/unknown",
        "os/linux/capabilities-retain-set",
    ]
    only = patched(isolators={"resource/memory": {"limit": "2G"}}, only_isolators=True)["app"]["isolators"]
    assert only == [{"name": "resource/memory", "value": {"limit": "2G"}}]


def test_an_image_without_an_app_gets_one_by_exec_alone() -> None:
    bare = manifest()
    made = json.loads(patch_image_manifest(bare, ManifestPatch(exec=["/a", "b c"], working_directory="/w")))
    assert made["app"] == {"exec": ["/a", "b c"], "user": "0", "group": "0", "workingDirectory": "/w"}
    for change, what in (
        (ManifestPatch(user="1"), "user"),
        (ManifestPatch(supplementary_gids=[]), "supplementary gids"),
        (ManifestPatch(only_isolators=True), "isolators"),
    ):
        with pytest.raises(PatchError, match=f"no app whose {what}"):
            patch_image_manifest(bare, change)


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (ManifestPatch(name="Not Valid"), r"\$\.name"),
        (ManifestPatch(labels={"os": "plan9"}), r"\$\.labels"),
        (ManifestPatch(annotations={"created": "today"}), r"\$\.annotations"),
        (ManifestPatch(user=""), r"\$\.app\.user"),
        (ManifestPatch(working_directory="x"), r"\$\.app\.workingDirectory"),
        (ManifestPatch(environment={"A=B": "x"}), r"\$\.app\.environment"),
        (ManifestPatch(isolators={"resource/memory": {"limit": "much"}}), r"\$\.app\.isolators"),
        (ManifestPatch(path_whitelist=["relative"]), r"\$\.pathWhitelist"),
    ],
)
def test_a_change_that_is_refused_says_where(change: ManifestPatch, where: str) -> None:
    with pytest.raises(PatchError, match=rf"the changed manifest is refused: .*{where}") as refused:
        patch_image_manifest(RAW, change)
    assert "\n" not in refused.value.message


TEXT = st.text(max_size=8)


@settings(max_examples=200, deadline=None)
@given(
    st.builds(
        ManifestPatch,
        name=st.none() | TEXT,
        labels=st.none() | st.dictionaries(TEXT, st.none() | TEXT, max_size=3),
        environment=st.none() | st.dictionaries(TEXT, st.none() | TEXT, max_size=3),
        exec=st.none() | st.lists(TEXT, max_size=3),
        isolators=st.none() | st.dictionaries(TEXT, st.none() | TEXT | st.integers(), max_size=3),
        only_isolators=st.booleans(),
    )
)
def test_only_errors_of_ours(patch: ManifestPatch) -> None:
    try:
        out = patch_image_manifest(RAW, patch)
    except GantryError:
        return
    assert patch_image_manifest(out, patch) == out  # to do it again changes nothing
    assert json.loads(out)["x-last"] == FULL["x-last"]


def test_a_manifest_that_is_none_is_refused() -> None:
    with pytest.raises(ManifestError):
        patch_image_manifest(b"[]", ManifestPatch(name="a"))


# -- the command --------------------------------------------------------------------------------------


def test_the_older_tools_flags(tmp_path: Path) -> None:
    image = make_aci(tmp_path / "i.aci", files={"f": "x"})
    done = gantry(
        "image", "patch-manifest", "--name=example.com/new", "--exec=/app --debug", "--user=7", "--group=8",
        "--capability=CAP_KILL,CAP_NET_ADMIN", "--mounts=work,path=/opt,readOnly=true:two,path=/x",
        "--ports=query,protocol=tcp,port=8080", "--supplementary-groups=1,2",
        "--isolators=resource/cpu,request=50m,limit=100m:resource/memory,limit=1G",
        "--seccomp-mode=retain,errno=EPERM", "--seccomp-set=read,write", "--no-compression",
        image.path, tmp_path / "o.aci",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == image_id((tmp_path / "o.aci").read_bytes())
    found = json.loads(read_manifest(str(tmp_path / "o.aci")))
    assert found["name"] == "example.com/new"
    assert found["app"] == {
        "exec": ["/app", "--debug"],
        "user": "7",
        "group": "8",
        "supplementaryGIDs": [1, 2],
        "mountPoints": [{"name": "work", "path": "/opt", "readOnly": True}, {"name": "two", "path": "/x"}],
        "ports": [{"name": "query", "protocol": "tcp", "port": 8080}],
        "isolators": [
            {"name": "resource/cpu", "value": {"request": "50m", "limit": "100m"}},
            {"name": "resource/memory", "value": {"limit": "1G"}},
            {
                "name": "os/linux/capabilities-retain-set",
                "value": {"set": ["CAP_KILL", "CAP_NET_ADMIN"]},
            },
            {"name": "os/linux/seccomp-retain-set", "value": {"set": ["read", "write"], "errno": "EPERM"}},
        ],
    }


def test_what_the_older_tool_lacks(tmp_path: Path) -> None:
    image = make_aci(
        tmp_path / "i.aci", version="1", app={**FULL["app"]}, annotations={"a": "b"}, compression="xz"
    )
    done = gantry(
        "image", "patch-manifest", "--label=version=2", "--annotation=c=d=e", "--remove-annotation=a",
        "--env=A=x y", "--remove-env=B", '--isolator=os/linux/no-new-privileges=true',
        "--remove-isolator=resource/memory", '--exec=["/a b", ""]', "--working-dir=/w", "--replace",
        image.path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert image.path.read_bytes().startswith(b"\xfd7zXZ")
    shown = gantry("image", "cat-manifest", image.path)
    found = json.loads(shown.stdout)
    assert found["labels"] == [{"name": "version", "value": "2"}]
    assert found["annotations"] == [{"name": "c", "value": "d=e"}]
    app = found["app"]
    assert (app["exec"], app["workingDirectory"]) == (["/a b", ""], "/w")
    assert app["environment"] == [{"name": "A", "value": "x y"}]
    assert [each["name"] for each in app["isolators"]][-1] == "os/linux/no-new-privileges"


def test_another_manifest_for_the_old_one(tmp_path: Path) -> None:
    image = make_aci(tmp_path / "i.aci")
    (tmp_path / "m").write_bytes(manifest("example.com/whole"))
    (tmp_path / "o.aci.asc").write_text("of an earlier one")
    done = gantry("image", "patch-manifest", f"--manifest={tmp_path}/m", image.path, tmp_path / "o.aci")
    assert done.returncode == 0
    assert "o.aci.asc does not fit any more" in done.stderr
    assert read_manifest(str(tmp_path / "o.aci")) == manifest("example.com/whole")
    relative = subprocess.run(
        [GANTRY, "image", "cat-manifest", "--pretty-print=false", "./o.aci"],
        cwd=tmp_path, capture_output=True, check=True,
    )  # fmt: skip
    assert relative.stdout.strip() == manifest("example.com/whole")


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ([], "nothing to change"),
        (["--format=json"], "nothing to change"),
        (["--manifest=/dev/null", "--name=x"], "--name has nothing to change"),
        (["--manifest=/nonexistent"], "cannot read /nonexistent"),
        (["--name=x", "--replace"], "both --replace and an output"),
        (["--name=x", "--compression=xz", "--no-compression"], "both --compression"),
        (["--name=x", "--compression=lz4"], "is no compression"),
        (["--seccomp-set=read"], "go together"),
        (["--seccomp-mode=maybe", "--seccomp-set=read"], "is no mode"),
        (["--capability=CAP_KILL", "--revoke-capability=CAP_KILL"], "both --capability"),
        (["--label=version"], "has no value"),
        (["--env=A=1", "--env=A=2"], "names A twice"),
        (["--isolator=x={"], "not valid JSON"),
        (["--exec=[1]"], "not of strings"),
        (["--supplementary-groups=wheel"], "is no number"),
        ([f"--supplementary-groups={'9' * 5000}"], "is no number"),
        (["--manifest=/dev/null"], "the new manifest is refused"),
        (["--isolators=resource/cpu,limit"], "malformed"),
        (["--mounts=work"], "has no path"),
        (["--user=1"], "no app whose user"),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, flags: list[str], told: str) -> None:
    image = make_aci(tmp_path / "i.aci")
    done = gantry("image", "patch-manifest", *flags, image.path, tmp_path / "o.aci")
    assert done.returncode == 254
    assert told in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert os.listdir(tmp_path) == ["i.aci"]


def test_without_an_output(tmp_path: Path) -> None:
    image = make_aci(tmp_path / "i.aci")
    done = gantry("image", "patch-manifest", "--name=x", image.path)
    assert "no output file" in done.stderr
    assert image.path.read_bytes() == image.data


def test_a_manifest_of_a_file_that_is_none(tmp_path: Path) -> None:
    for path in (tmp_path / "x.aci", tmp_path):
        done = gantry("image", "cat-manifest", path)
        assert done.returncode == 254
        assert len(done.stderr.splitlines()) == 1
