"""`gantry export`: what an app of an exited pod left behind becomes an image that runs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.command import Site
from tests.support.pods import Kit, make_kit, until

from gantry.appc.parts import Volume
from gantry.build.export import export_app
from gantry.errors import GantryError, UsageError
from gantry.images.validation import examine
from gantry.pods import MountRequest, PodStateError, collect, remove, state

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


@pytest.fixture
def kit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kit]:
    yield from make_kit(tmp_path, monkeypatch)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with Site(tmp_path) as made:
        yield made


def entries(path: Path) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(path) as archive:
        return {member.name: member for member in archive}


def mounts() -> str:
    return Path("/proc/self/mountinfo").read_text()


SCRIPT = """
echo changed > /etc/passwd; rm /etc/group; mkdir -p /new/dir; echo text > /new/dir/file
chmod 2750 /new/dir; chown 5:6 /new/dir/file; ln /new/dir/file /new/hard; ln -s /nowhere /new/soft
rm -r /full; mkdir /full; echo only > /full/now; mkdir /empty; rm /bin/wc; echo x > /tmp/kept
"""


def test_what_an_app_changed_is_in_the_image_and_nothing_else(kit: Kit, tmp_path: Path) -> None:
    image = kit.store.add(files={"/full/a": "1", "/full/b/c": "2"})
    uuid = kit.prepare(kit.shell(SCRIPT, image=image, name="main"))
    assert kit.run(uuid).returncode == 0
    target, before = tmp_path / "out.aci", mounts()
    built = export_app(kit.paths, uuid, str(target))
    assert mounts() == before
    found = entries(target)
    source = {
        os.path.join("rootfs", os.path.relpath(os.path.join(path, name), kit.store.roots[image.id]))
        for path, directories, files in os.walk(kit.store.roots[image.id])
        for name in [*directories, *files]
    }
    removed = {"rootfs/etc/group", "rootfs/full/a", "rootfs/full/b", "rootfs/full/b/c", "rootfs/bin/wc"}
    added = {f"rootfs/{n}" for n in ("new", "new/dir", "new/dir/file", "new/hard", "new/soft", "full/now")}
    added |= {"rootfs/empty", "rootfs/tmp", "rootfs/tmp/kept", "rootfs", "manifest"}
    assert set(found) == (source - removed) | added
    assert found["rootfs/new/dir"].mode == 0o2750
    file = found["rootfs/new/dir/file"]
    assert (file.uid, file.gid, file.size) == (5, 6, 5)
    assert found["rootfs/new/hard"].islnk()
    assert found["rootfs/new/hard"].linkname == "rootfs/new/dir/file"
    assert found["rootfs/new/soft"].linkname == "/nowhere"
    report = examine(str(target))
    assert report.problems == []
    assert report.id == str(built.image_id)
    assert export_app(kit.paths, uuid, str(tmp_path / "again.aci")).image_id == built.image_id


def test_volumes_and_their_mount_points_are_not_in_the_image(kit: Kit, tmp_path: Path) -> None:
    (tmp_path / "host").mkdir()
    (tmp_path / "host/secret").write_text("of the host")
    (tmp_path / "single").write_text("of the host")
    image = kit.store.add(files={"/data/below": "of the image", "/gives-way": "file of the image"})
    mounted = {"here": "/data", "new": "/made/for/it", "file": "/made/file", "way": "/gives-way"}
    app = kit.shell(
        "echo x > /data/y; echo x > /made/for/it/y; mkdir /made/too; echo x > /gives-way/z; cat /made/file",
        image=image,
        name="main",
        mounts=[MountRequest(volume, path) for volume, path in mounted.items()],
    )
    volumes = [
        Volume("here", "host", source=str(tmp_path / "host"), read_only=False),
        Volume("new", "empty"),
        Volume("file", "host", source=str(tmp_path / "single")),
        Volume("way", "empty"),
    ]
    uuid = kit.prepare(app, volumes=volumes)
    done = kit.run(uuid)
    assert done.returncode == 0, done.stderr
    export_app(kit.paths, uuid, str(tmp_path / "out.aci"))
    found = entries(tmp_path / "out.aci")
    assert "rootfs/data/below" in found
    assert found["rootfs/gives-way"].isreg()
    assert "rootfs/made/too" in found  # the app's own
    for name in ("data/y", "data/secret", "made/for", "made/file", "gives-way/z"):
        assert f"rootfs/{name}" not in found
    for name in ("proc", "sys", "dev", "run", "etc/mtab", "etc/hosts", "etc/resolv.conf", "etc/hostname"):
        assert f"rootfs/{name}" not in found


def test_of_several_apps_one_has_to_be_named(kit: Kit, tmp_path: Path) -> None:
    apps = [kit.shell(f"echo {name} > /who", name=name) for name in ("one", "two")]
    uuid = kit.prepare(*apps)
    kit.run(uuid)
    target = str(tmp_path / "out.aci")
    with pytest.raises(UsageError, match="multiple apps: one, two"):
        export_app(kit.paths, uuid, target)
    with pytest.raises(GantryError, match='no app "three"'):
        export_app(kit.paths, uuid, target, app="three")
    assert not os.path.exists(target)
    export_app(kit.paths, uuid[:8], target, app="two")
    with tarfile.open(target) as archive:
        assert archive.extractfile("rootfs/who").read() == b"two\n"  # type: ignore[union-attr]


def test_only_exited_pods(kit: Kit, tmp_path: Path) -> None:
    target = str(tmp_path / "out.aci")
    prepared = kit.prepare(kit.shell("true"))
    running = kit.prepare(kit.shell("sleep 100"))
    process = kit.start(running)
    until(lambda: state.find(kit.paths.data, running) == "run", what="started")
    for uuid in (prepared, running):
        with pytest.raises(PodStateError, match="Only exited pods can be exported"):
            export_app(kit.paths, uuid, target)
    with pytest.raises(GantryError, match="no matches found"):
        export_app(kit.paths, "00000000-0000-4000-8000-000000000000", target)
    with pytest.raises(UsageError, match=r"\.aci"):
        export_app(kit.paths, running, str(tmp_path / "out.tar"))
    process.terminate()
    process.wait(timeout=30)
    Path(target).write_text("mine")
    with pytest.raises(UsageError, match="exists"):
        export_app(kit.paths, running, target)
    assert Path(target).read_text() == "mine"
    export_app(kit.paths, running, target, overwrite=True)
    assert os.listdir(tmp_path / "data" / "pods" / "run") == [running]
    collect(kit.paths, grace_period=3600, mark_only=True)
    assert state.find(kit.paths.data, running) == "exited-garbage"
    export_app(kit.paths, running, target, overwrite=True)


def test_a_pod_is_not_removed_while_it_is_exported(
    kit: Kit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uuid = kit.prepare(kit.shell("echo x > /y"))
    kit.run(uuid)
    refused = []

    def build(*_args: object, **_options: object) -> None:
        with pytest.raises(GantryError) as caught:
            remove(kit.paths, uuid)
        refused.append(str(caught.value))

    monkeypatch.setattr("gantry.build.export.build_image", build)
    export_app(kit.paths, uuid, str(tmp_path / "out.aci"))
    assert len(refused) == 1
    remove(kit.paths, uuid)


def test_paths_that_mean_something_to_overlayfs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "a,b:c\\d=e"
    place.mkdir()
    [kit] = kits = list(_one(place, monkeypatch))
    assert kits
    uuid = kit.prepare(kit.shell("echo x > /y", name="main"))
    assert kit.run(uuid).returncode == 0
    export_app(kit.paths, uuid, str(tmp_path / "out.aci"))
    assert "rootfs/y" in entries(tmp_path / "out.aci")


def _one(place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kit]:
    yield next(make_kit(place, monkeypatch))


def test_the_image_runs_and_has_what_was_written(site: Site) -> None:
    site.publish(exec_=["/bin/sh", "-c"], dependencies=[])
    site.trust()
    uuid_file = site.directory / "uuid"
    script = "echo was here > /bin/note && echo more > /more"
    done = site.gantry(
        "run", "--net=none", f"--uuid-file-save={uuid_file}", "example.com/web:1.0", "--", script
    )
    assert done.returncode == 0, done.stderr
    target = site.directory / "out.aci"
    made = site.gantry("export", uuid_file.read_text(), str(target))
    assert made.returncode == 0, made.stderr
    assert made.stdout.startswith("sha512-")
    shown = site.json("export", "--overwrite", "--app=web", uuid_file.read_text(), str(target))
    assert shown["id"] == made.stdout.strip()
    again = site.gantry(
        "run", "--insecure-options=image", "--net=none", str(target), "--", "cat /bin/note /more"
    )
    assert again.stdout == "was here\nmore\n", again.stderr
    manifest = json.loads(site.gantry("image", "cat-manifest", str(target)).stdout)
    assert manifest["name"] == "example.com/web"
    assert "dependencies" not in manifest
    if shutil.which("actool"):
        subprocess.run(["actool", "validate", target], check=True)
