"""Images from packages and files: the same every time, and inside their own root."""

from __future__ import annotations

import io
import json
import os
import sys
import tarfile
from pathlib import Path
from typing import Any, ClassVar

import pytest
from tests.support.collection import executable, run_module, util

image = util("_image")
StepError = util("_host").StepError

DEPENDS = """\
nginx
  Depends: libc6
 |Depends: libssl3
  Depends: libssl1.1
  PreDepends: dpkg:any
  Depends: <debconf-2.0>
    cdebconf
    debconf
  Depends: <nothing-provides-this>
  Suggests: doc
"""


def test_dependencies_take_the_first_alternative_and_the_first_provider() -> None:
    assert image._dependencies(DEPENDS) == ["libc6", "libssl3", "dpkg", "cdebconf"]


class FakeApt:
    """A module whose apt-cache knows a few packages."""

    GRAPH: ClassVar = {"a": ["b", "c"], "b": ["d"], "c": ["d", "e"], "d": ["a"], "e": []}

    def run_command(self, command: list[str], **_: Any) -> tuple[int, str, str]:
        names = [word for word in command[2:] if not word.startswith("-")]
        if set(names) - set(self.GRAPH):
            return 100, "", "E: No packages found\n"
        return 0, "".join(f"{n}\n" + "".join(f"  Depends: {d}\n" for d in self.GRAPH[n]) for n in names), ""


def test_closure_ends_on_cycles_and_leaves_out_what_only_the_left_out_need() -> None:
    assert image.closure(FakeApt(), ["a"], set()) == ["a", "b", "c", "d", "e"]
    assert image.closure(FakeApt(), ["a"], {"c"}) == ["a", "b", "d"]
    with pytest.raises(StepError, match="No packages found"):
        image.closure(FakeApt(), ["zzz"], set())


def make_deb(
    path: Path, files: dict[str, bytes], *, links: dict[str, str] | None = None, mtime: int = 1_700_000_000
) -> Path:
    """A package with these files; only what ``dpkg-deb -x`` reads."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w:gz", format=tarfile.GNU_FORMAT) as archive:
        made: set[str] = set()
        for name, data in files.items():
            for parent in reversed(Path(name).parents[:-1]):
                if str(parent) not in made:
                    made.add(str(parent))
                    info = tarfile.TarInfo(f"./{parent}")
                    info.type, info.mode, info.mtime = tarfile.DIRTYPE, 0o755, mtime
                    archive.addfile(info)
            info = tarfile.TarInfo(f"./{name}")
            info.size, info.mode, info.mtime = len(data), 0o755, mtime
            archive.addfile(info, io.BytesIO(data))
        for name, target in (links or {}).items():
            info = tarfile.TarInfo(f"./{name}")
            info.type, info.linkname, info.mtime = tarfile.SYMTYPE, target, mtime
            archive.addfile(info)
    members = {"debian-binary": b"2.0\n", "control.tar.gz": _empty_tar(), "data.tar.gz": raw.getvalue()}
    with path.open("wb") as deb:
        deb.write(b"!<arch>\n")
        for name, data in members.items():
            deb.write(
                f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(data):<10}`\n".encode()
                + data
                + b"\n" * (len(data) % 2)
            )
    return path


def _empty_tar() -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w:gz") as archive:
        info = tarfile.TarInfo("./control")
        text = b"Package: x\nVersion: 1\nArchitecture: all\nMaintainer: x\nDescription: x\n"
        info.size = len(text)
        archive.addfile(info, io.BytesIO(text))
    return raw.getvalue()


@pytest.fixture
def bundle(tmp_path: Path, capsys: Any) -> Path:
    old = make_deb(tmp_path / "libc6_1.deb", {"lib/x/libc.so": b"c", "lib64/ld.so": b"ld", "usr/lib/y": b"y"})
    new = make_deb(
        tmp_path / "busybox_1.deb", {"bin/busybox": b"bb", "usr/share/doc/busybox/copyright": b"c"}
    )
    path = tmp_path / "cache/bundle.tar"
    arguments = {"packages": ["busybox"], "files": [str(old), str(new)], "path": str(path)}
    assert run_module(capsys, "deb_bundle", arguments, check=True)["changed"]
    assert not path.exists()
    result = run_module(capsys, "deb_bundle", arguments)
    assert result["changed"]
    assert sorted(result["files"]) == ["busybox_1.deb", "libc6_1.deb"]
    assert not run_module(capsys, "deb_bundle", arguments)["changed"]
    return path


def test_the_same_packages_give_the_same_bundle(bundle: Path, tmp_path: Path, capsys: Any) -> None:
    first = bundle.read_bytes()
    bundle.unlink()
    files = [str(tmp_path / "libc6_1.deb"), str(tmp_path / "busybox_1.deb")]
    run_module(capsys, "deb_bundle", {"packages": ["busybox"], "files": files, "path": str(bundle)})
    assert bundle.read_bytes() == first


def test_another_request_is_another_bundle(bundle: Path, tmp_path: Path, capsys: Any) -> None:
    files = [str(tmp_path / "libc6_1.deb")]
    assert run_module(capsys, "deb_bundle", {"packages": ["busybox"], "files": files, "path": str(bundle)})[
        "changed"
    ]


FAKE_BUILD = """\
#!{python} -I
import hashlib, json, os, sys
flags = dict(w[2:].split("=", 1) for w in sys.argv[2:] if w.startswith("--"))
words = [w for w in sys.argv[2:] if not w.startswith("--")]
open({place!r} + "/gantry-calls", "a").write(sys.argv[1] + "\\n")
if sys.argv[1] == "build":
    entries = [open(flags["manifest"]).read()]
    for parent, directories, files in sorted(os.walk(words[0])):
        for name in sorted(directories + files):
            path = os.path.join(parent, name)
            status = os.lstat(path)
            data = "" if os.path.isdir(path) else open(path).read() if not os.path.islink(path) else ""
            data = os.readlink(path) if os.path.islink(path) else data
            entries.append([os.path.relpath(path, words[0]), oct(status.st_mode), int(status.st_mtime), data])
    text = json.dumps(entries)
    open(words[1], "w").write(text)
    print(json.dumps({{"id": "sha512-" + hashlib.sha512(text.encode()).hexdigest()}}))
else:
    open(words[0] + ".asc", "w").write("signed with " + open(flags["key"]).read())
    print("{{}}")
"""


@pytest.fixture
def build(tmp_path: Path, bundle: Path) -> dict[str, Any]:
    gantry = executable(tmp_path / "gantry", FAKE_BUILD.format(python=sys.executable, place=str(tmp_path)))
    (tmp_path / "key.asc").write_text("key")
    return {
        "path": str(tmp_path / "www/images/example.com/box-1.0-linux-amd64.aci"),
        "bundle": str(bundle),
        "manifest": {"name": "example.com/box", "labels": []},
        "files": [
            {"path": "/etc/motd", "content": "héllo"},
            {"path": "/usr/bin/start", "content": "#!", "mode": "0755"},
        ],
        "directories": [{"path": "/srv/data", "mode": "1777", "owner": os.getuid(), "group": os.getgid()}],
        "links": [{"path": "/bin/sh", "target": "busybox"}],
        "remove": ["/usr/share/doc", "/not/there"],
        "signing_key": str(tmp_path / "key.asc"),
        "gantry_command": str(gantry),
    }


def entries(build: dict[str, Any]) -> dict[str, list[Any]]:
    found = json.loads(Path(build["path"]).read_text())
    return {entry[0]: entry[1:] for entry in found[1:]}


def test_an_image_holds_packages_and_files_with_merged_usr(build: dict[str, Any], capsys: Any) -> None:
    result = run_module(capsys, "image_build", build)
    assert result["reason"] == "there is no image yet"
    assert result["image_id"].startswith("sha512-")
    found = entries(build)
    assert found["usr/bin/busybox"][2] == "bb"
    assert found["usr/lib/x/libc.so"][2] == "c"
    assert found["usr/lib/y"][2] == "y"
    assert found["bin"][2] == "usr/bin"
    assert found["lib64"][2] == "usr/lib64"
    assert found["usr/bin/sh"][2] == "busybox"
    assert found["etc/motd"][2] == "héllo"
    assert found["srv/data"][0] == oct(0o41777)
    assert "usr/share/doc" not in found
    assert {times for _mode, times, _data in found.values()} == {1_700_000_000}
    manifest = json.loads(json.loads(Path(build["path"]).read_text())[0])
    assert manifest["acKind"] == "ImageManifest"
    assert Path(build["path"] + ".asc").read_text() == "signed with key"
    assert sorted(p.name for p in Path(build["path"]).parent.iterdir()) == [
        "box-1.0-linux-amd64.aci",
        "box-1.0-linux-amd64.aci.asc",
        "box-1.0-linux-amd64.aci.made.json",
    ]


def test_the_same_input_builds_nothing_and_gives_the_same_id(
    build: dict[str, Any], tmp_path: Path, capsys: Any
) -> None:
    first = run_module(capsys, "image_build", build)
    calls = (tmp_path / "gantry-calls").read_text()
    second = run_module(capsys, "image_build", build)
    assert second["changed"] is False
    assert second["image_id"] == first["image_id"]
    assert (tmp_path / "gantry-calls").read_text() == calls
    elsewhere = run_module(capsys, "image_build", {**build, "path": str(tmp_path / "other/x.aci")})
    assert elsewhere["image_id"] == first["image_id"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"files": [{"path": "/etc/motd", "content": "bye"}]}, "files changed"),
        ({"links": []}, "links changed"),
        ({"manifest": {"name": "example.com/other"}}, "manifest changed"),
    ],
)
def test_changed_input_is_named(
    build: dict[str, Any], capsys: Any, change: dict[str, Any], reason: str
) -> None:
    first = run_module(capsys, "image_build", build)
    predicted = run_module(capsys, "image_build", {**build, **change}, check=True)
    assert (predicted["changed"], predicted["reason"]) == (True, reason)
    done = run_module(capsys, "image_build", {**build, **change})
    assert done["reason"] == reason
    assert done["image_id"] != first["image_id"]


@pytest.mark.parametrize("what", ["", ".asc"])
def test_a_tampered_file_is_made_again(build: dict[str, Any], capsys: Any, what: str) -> None:
    first = run_module(capsys, "image_build", build)
    Path(build["path"] + what).write_text("tampered")
    again = run_module(capsys, "image_build", build)
    assert "is not the one that was made" in again["reason"]
    assert again["image_id"] == first["image_id"]
    assert not run_module(capsys, "image_build", build)["changed"]


def test_a_failed_build_leaves_the_published_image(build: dict[str, Any], capsys: Any) -> None:
    run_module(capsys, "image_build", build)
    before = Path(build["path"]).read_bytes()
    refused = '#!/bin/sh\necho \'{"error": {"code": "build", "msg": "no (do this)"}}\'; exit 254\n'
    executable(Path(build["gantry_command"]), refused)
    result = run_module(capsys, "image_build", {**build, "links": []})
    assert result["failed"]
    assert result["msg"] == "no (do this)"
    assert Path(build["path"]).read_bytes() == before
    assert not [p for p in Path(build["path"]).parent.iterdir() if p.name.startswith(".gantry-build")]


def test_check_mode_needs_no_runtime(build: dict[str, Any], tmp_path: Path, capsys: Any) -> None:
    result = run_module(capsys, "image_build", {**build, "gantry_command": "/none"}, check=True)
    assert result["changed"]
    assert not (tmp_path / "www").exists()


@pytest.mark.parametrize("path", ["../../escape", "/a/../../escape", "/out/x", "/abs/x"])
def test_nothing_is_written_outside_the_root(tmp_path: Path, path: str) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "outside").mkdir()
    (root / "out").symlink_to("../outside")
    (root / "abs").symlink_to(str(tmp_path / "outside"))
    rootfs = image.Rootfs(None, str(root))
    if path.endswith("escape"):
        rootfs.add_file(path, b"x", 0o644, os.getuid(), os.getgid())
        assert (root / "escape").exists()
    else:
        with pytest.raises(StepError, match="leads out"):
            rootfs.add_file(path, b"x", 0o644, os.getuid(), os.getgid())
    assert list((tmp_path / "outside").iterdir()) == []
    assert sorted(p.name for p in tmp_path.iterdir()) == ["outside", "root"]
    (tmp_path / "outside" / "keep").write_text("x")
    rootfs.remove(["/out/keep", "/abs/keep", "../outside/keep"])
    assert (tmp_path / "outside" / "keep").exists()


def test_a_damaged_bundle_is_refused(bundle: Path, tmp_path: Path) -> None:
    data = bytearray(bundle.read_bytes())
    position = data.index(b"debian-binary")
    data[position + 80] ^= 1
    bundle.write_bytes(bytes(data))
    root, scratch = tmp_path / "r", tmp_path / "s"
    root.mkdir()
    scratch.mkdir()
    with pytest.raises(StepError, match="damaged"):
        image.Rootfs(None, str(root)).unpack(str(bundle), str(scratch))
