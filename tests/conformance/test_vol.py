"""App Container specification, section 9: volumes and mounts. Each name cites its requirement."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.pods import Kit, make_kit

from gantry.appc.parts import Volume
from gantry.errors import GantryError, UsageError
from gantry.pods import (
    AppRequest,
    MountRequest,
    PodRequest,
    collect,
    get,
    manifest_bytes,
    prepare,
)
from gantry.pods.request import Creation

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


@pytest.fixture
def kit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kit]:
    yield from make_kit(tmp_path, monkeypatch)


def host(path: Path, **options: bool) -> Volume:
    path.mkdir(exist_ok=True)
    return Volume("v", "host", str(path), **options)


MOUNT = [MountRequest("v", "/v")]


def test_VOL_01_a_host_volume_is_seen_and_written(kit: Kit, tmp_path: Path) -> None:
    volume = host(tmp_path / "v")
    kit.run(kit.prepare(kit.shell("echo x > /v/made", mounts=MOUNT), volumes=[volume]))
    assert (tmp_path / "v/made").read_text() == "x\n"


def test_VOL_07_08_09_an_empty_volume(kit: Kit) -> None:
    volume = Volume("v", "empty", mode=0o1777, uid=5, gid=6)
    uuid = kit.prepare(
        kit.shell("stat -c '%a %u %g' /v; ls /v | wc -l; touch /v/x", mounts=MOUNT), volumes=[volume]
    )
    old = os.umask(0o077)
    try:
        assert kit.run(uuid).stdout.split() == ["1777", "5", "6", "0"]
    finally:
        os.umask(old)
    assert kit.find(uuid, "sharedVolumes/v/x").exists()  # as long as the pod
    collect(kit.paths, grace_period=0)
    with pytest.raises(FileNotFoundError):
        kit.find(uuid)


@pytest.mark.parametrize(
    "said",
    [
        (None, False, None, "written"),
        (True, False, None, "refused"),
        (None, True, None, "refused"),
        (False, True, None, "refused"),
        (None, False, True, "refused"),
    ],
)
def test_VOL_10_11_TRAP_23_read_only_if_either_says_so(
    kit: Kit, tmp_path: Path, said: tuple[bool | None, bool, bool | None, str]
) -> None:
    volume, point, mount, result = said
    source = host(tmp_path / "v")
    image = kit.store.add(mountPoints=[{"name": "v", "path": "/v", "readOnly": point}])
    mounts = [MountRequest("v", "/v", read_only=mount)] if mount else []
    app = kit.shell("touch /v/x && echo written || echo refused", image=image, mounts=mounts)
    done = kit.run(kit.prepare(app, volumes=[Volume("v", "host", source.source, read_only=volume)]))
    assert done.stdout == f"{result}\n"


@pytest.mark.parametrize(("recursive", "seen"), [(None, "deep"), (True, "deep"), (False, "")])
def test_VOL_12_TRAP_23_mounts_below_the_source(
    kit: Kit, tmp_path: Path, recursive: bool | None, seen: str
) -> None:
    source = host(tmp_path / "v")
    (tmp_path / "v/sub").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", tmp_path / "v/sub"], check=True)
    try:
        (tmp_path / "v/sub/deep").touch()
        volume = Volume("v", "host", source.source, read_only=True, recursive=recursive)
        script = "ls /v/sub; touch /v/sub/x 2>/dev/null && echo written"
        done = kit.run(kit.prepare(kit.shell(script, mounts=MOUNT), volumes=[volume]))
        assert done.stdout.strip() == seen  # and nothing below a read-only volume is writable
    finally:
        subprocess.run(["umount", tmp_path / "v/sub"], check=True)


def test_VOL_13_a_mount_point_without_volume_gets_an_empty_one(kit: Kit) -> None:
    """And issues 1480, 1928: it begins with what the image has there."""
    files = {"/data/seed": "from the image\n", "/data/link": "-> seed"}
    image = kit.store.add("example.com/db", files=files, mountPoints=[{"name": "data", "path": "/data"}])
    root = Path(kit.store.roots[image.id], "data")
    os.chown(root, 33, 44)
    root.chmod(0o2770)
    uuid = kit.prepare(
        kit.shell("cat /data/link; stat -c '%a %u %g' /data; echo x > /data/seed", image=image)
    )
    assert any("mount point" in warning for warning in kit.warnings)
    assert kit.run(uuid).stdout.split("\n")[:2] == ["from the image", "2770 33 44"]
    assert (root / "seed").read_text() == "from the image\n"
    assert b'"name":"db-data"' in manifest_bytes(kit.paths, uuid)  # POD-05, POD-07


def test_VOL_14_15_matching_order(kit: Kit, tmp_path: Path) -> None:
    for name in ("named", "explicit"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    image = kit.store.add(mountPoints=[{"name": "data", "path": "/data"}])
    volumes = [
        Volume("data", "host", str(tmp_path / "named")),
        Volume("other", "host", str(tmp_path / "explicit")),
    ]
    assert kit.run(kit.prepare(kit.shell("ls /data", image=image), volumes=volumes)).stdout == "named\n"
    app = kit.shell("ls /data", image=image, mounts=[MountRequest("other", "/data/")])
    assert kit.run(kit.prepare(app, volumes=volumes)).stdout == "explicit\n"


def test_VOL_16_an_unknown_volume_is_an_error(kit: Kit) -> None:
    with pytest.raises(UsageError, match='dangling mount point "/v": volume "v" not found'):
        kit.prepare(kit.shell("true", mounts=MOUNT))


def test_VOL_17_18_a_missing_target_is_made(kit: Kit) -> None:
    app = kit.shell("stat -c '%a %u %g' /a /a/b", mounts=[MountRequest("v", "/a/b/c")])
    done = kit.run(kit.prepare(app, volumes=[Volume("v", "empty")]))
    assert done.stdout.splitlines() == ["755 0 0", "755 0 0"]


def test_VOL_20_21_22_what_is_hidden_is_said(kit: Kit) -> None:
    image = kit.store.add(files={"/full/x": "", "/file": "text"})
    mounts = [MountRequest("v", "/full"), MountRequest("w", "/file")]
    app = kit.shell("ls /full | wc -l; stat -c %F /file", image=image, mounts=mounts)
    uuid = kit.prepare(app, volumes=[Volume("v", "empty"), Volume("w", "empty")])
    assert kit.run(uuid).stdout.splitlines() == ["0", "directory"]
    text = "\n".join(get(kit.paths, uuid).warnings)
    assert 'volume "v" hides what the image has in "/full"' in text
    assert 'the file "/file" of the image gives way to volume "w"' in text


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("/a", "/a"),
        ("/a", "/a/"),
        ("/a", "/a/b"),
        ("/a/../b", "/b"),
        ("/link", "/real"),
        ("/link/x", "/real"),
    ],
)
def test_VOL_23_TRAP_25_overlapping_targets(kit: Kit, one: str, two: str) -> None:
    image = kit.store.add(files={"/real/": "", "/link": "-> /real"})
    app = kit.shell("true", image=image, mounts=[MountRequest("v", one), MountRequest("w", two)])
    with pytest.raises(GantryError, match="overlap"):
        kit.prepare(app, volumes=[Volume("v", "empty"), Volume("w", "empty")])


@pytest.mark.parametrize("target", ["/", "/proc", "/proc/self", "/a/../..", "/dev", "/self"])
def test_targets_that_cannot_be_mounted_on(kit: Kit, target: str) -> None:
    image = kit.store.add(files={"/self": "-> /proc/1"})
    with pytest.raises(GantryError, match="nothing can be mounted on"):
        kit.prepare(
            kit.shell("true", image=image, mounts=[MountRequest("v", target)]), volumes=[Volume("v", "empty")]
        )


def test_TRAP_25_a_target_never_leads_out(kit: Kit, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    image = kit.store.add(files={"/evil": f"-> {outside}", "/up": "-> ../../../../../../../../tmp"})
    mounts = [MountRequest("v", "/evil/x"), MountRequest("w", "/up/y")]
    app = kit.shell("ls -d /tmp/y; touch /evil/x/made && echo ok", image=image, mounts=mounts)
    done = kit.run(kit.prepare(app, volumes=[Volume("v", "empty"), Volume("w", "empty")]))
    assert done.stdout.split() == ["/tmp/y", "ok"]
    assert os.listdir(outside) == []


def test_VOL_24_25_a_missing_source_is_an_error_and_not_made(kit: Kit, tmp_path: Path) -> None:
    """Case 42, issue 1114."""
    volume = Volume("v", "host", str(tmp_path / "no/deep"))
    with pytest.raises(
        GantryError, match=f'source "{tmp_path}/no/deep" does not exist \\("{tmp_path}/no" is missing\\)'
    ):
        kit.prepare(kit.shell("true", mounts=MOUNT), volumes=[volume])
    assert not (tmp_path / "no").exists()


def test_case_42_a_missing_source_is_made_when_that_is_asked_for(kit: Kit, tmp_path: Path) -> None:
    volumes = [
        Volume("v", "host", str(tmp_path / "made")),
        Volume("f", "host", str(tmp_path / "file")),
        Volume("old", "host", str(tmp_path / "old")),
    ]
    (tmp_path / "old").mkdir(mode=0o700)
    create = {
        "v": Creation("directory", 0o2750, 1000, 1001),
        "f": Creation("file", 0o640, 5, 6),
        "old": Creation("directory", 0o777, 7, 7),
    }
    mounts = [MountRequest("v", "/v"), MountRequest("f", "/f"), MountRequest("old", "/old")]
    app = kit.shell("stat -c '%F %a %u %g' /v /f /old", mounts=mounts)
    assert kit.run(kit.prepare(app, volumes=volumes, create=create)).stdout.splitlines() == [
        "directory 2750 1000 1001",
        "regular empty file 640 5 6",
        "directory 700 0 0",
    ]
    assert sum("was missing and has been made" in warning for warning in kit.warnings) == 2


def test_case_42_what_was_made_for_a_pod_that_is_refused_goes_again(kit: Kit, tmp_path: Path) -> None:
    volumes = [Volume("v", "host", str(tmp_path / "made"))]
    create = {"v": Creation("directory")}
    with pytest.raises(GantryError, match="no exit policy"):
        kit.prepare(kit.shell("true", mounts=MOUNT), volumes=volumes, create=create, exit_policy="x")
    with pytest.raises(GantryError, match="is not in the app's PATH"):
        kit.prepare(
            AppRequest(image=kit.store.add(), exec=["missing"], mounts=MOUNT), volumes=volumes, create=create
        )
    assert not (tmp_path / "made").exists()


def test_case_42_what_leads_to_a_source_is_not_made(kit: Kit, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    for source, said in (
        ("none/made", '/none" is missing'),
        ("link/made", "leads through the symbolic link"),
    ):
        volumes = [Volume("v", "host", str(tmp_path / source))]
        with pytest.raises(GantryError, match=said):
            kit.prepare(kit.shell("true", mounts=MOUNT), volumes=volumes, create={"v": Creation("directory")})
    assert not (tmp_path / "made").exists()


def test_VOL_26_single_files(kit: Kit, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine\n")
    image = kit.store.add(files={"/etc/conf": "image\n"})
    for target in ("/etc/conf", "/new/place"):
        app = kit.shell(f"cat {target}", image=image, mounts=[MountRequest("v", target)])
        done = kit.run(kit.prepare(app, volumes=[Volume("v", "host", str(tmp_path / "file"))]))
        assert done.stdout == "mine\n"


@pytest.mark.parametrize(
    "volume",
    [
        {"kind": "other"},
        {},
        {"kind": "host"},
        {"kind": "host", "source": "relative"},
        {"kind": "host", "source": "/x", "mode": "0755"},
        {"kind": "host", "source": "/x", "uid": 0},
        {"kind": "host", "source": "/x", "gid": 0},
        {"kind": "empty", "source": "/x"},
    ],
)
def test_VOL_03_to_06_what_is_no_volume_is_refused(kit: Kit, volume: dict[str, object]) -> None:
    image = kit.store.add()
    manifest = {
        "acVersion": "0.8.11",
        "acKind": "PodManifest",
        "apps": [{"name": "main", "image": {"id": image.id}}],
        "volumes": [{"name": "v", **volume}],
    }
    with pytest.raises(GantryError):
        prepare(kit.ctx, PodRequest(manifest=json.dumps(manifest).encode(), networks=["none"]))
    assert kit.uuids() == []
    manifest["volumes"] = [{"name": "v", "kind": "empty", "recursive": True}]
    assert prepare(kit.ctx, PodRequest(manifest=json.dumps(manifest).encode(), networks=["none"]))


def test_VOL_27_28_29_links_in_the_source_are_errors(kit: Kit, tmp_path: Path) -> None:
    (tmp_path / "real/sub").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real")
    for source in ("link", "link/sub"):
        with pytest.raises(GantryError, match=f'leads through the symbolic link "{tmp_path}/link"'):
            kit.prepare(
                kit.shell("true", mounts=MOUNT), volumes=[Volume("v", "host", str(tmp_path / source))]
            )


def test_VOL_32_an_unused_volume_is_ignored(kit: Kit, tmp_path: Path) -> None:
    volume = Volume("v", "host", str(tmp_path / "missing"))
    assert kit.run(kit.prepare(kit.shell("echo fine"), volumes=[volume])).stdout == "fine\n"


def test_a_device_volume_may_be_used(kit: Kit) -> None:
    """RKT-INVENTORY 17.3, with a harmless device."""
    volume = Volume("v", "host", "/dev/kmsg", read_only=True)
    app = kit.shell(
        "stat -c '%t %T' /d; (echo x > /d) 2>/dev/null && echo wrote; echo end",
        mounts=[MountRequest("v", "/d")],
    )
    uuid = kit.prepare(app, volumes=[volume])
    assert kit.run(uuid).stdout.split() == ["1", "b", "end"]
    rules = kit.config(uuid, "tiny")["linux"]["resources"]["devices"]
    assert {"allow": True, "type": "c", "major": 1, "minor": 11, "access": "r"} in rules


def test_a_volume_in_sys_replaces_the_mount(kit: Kit, tmp_path: Path) -> None:
    """RKT-INVENTORY 17.3."""
    (tmp_path / "v").mkdir()
    (tmp_path / "v/mine").touch()
    app = kit.shell("ls /sys", mounts=[MountRequest("v", "/sys")])
    assert kit.run(kit.prepare(app, volumes=[host(tmp_path / "v")])).stdout == "mine\n"
