"""Which manifests are accepted: actool, an independent implementation, is asked, too.

Where the two differ, the row that decides is named.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from gantry.appc.manifest import ImageManifest, ManifestError, PodManifest

pytestmark = pytest.mark.skipif(
    shutil.which("actool") is None, reason="actool (Debian package appc-spec), the peer, is not installed"
)

ID = "sha512-" + "ab" * 64
APP: dict[str, Any] = {"exec": ["/a"], "user": "0", "group": "0"}
IMAGE: dict[str, Any] = {"acKind": "ImageManifest", "acVersion": "0.8.11", "name": "example.com/app"}
RUNS: dict[str, Any] = {"name": "web", "image": {"id": ID}}
POD: dict[str, Any] = {"acKind": "PodManifest", "acVersion": "0.8.11", "apps": [RUNS]}
PORT: dict[str, Any] = {"name": "a", "protocol": "tcp", "port": 80}


def image(**more: object) -> bytes:
    return json.dumps(IMAGE | more).encode()


def app(**more: object) -> bytes:
    return image(app=APP | more)


def isolator(name: str, value: object) -> bytes:
    return app(isolators=[{"name": name, "value": value}])


def pod(**more: object) -> bytes:
    return json.dumps(POD | more).encode()


def runs(**more: object) -> bytes:
    return pod(apps=[RUNS | more])


def pairs(**values: object) -> list[dict[str, object]]:
    return [{"name": name, "value": value} for name, value in values.items()]


def without(raw: bytes, key: str) -> bytes:
    return json.dumps({k: v for k, v in json.loads(raw).items() if k != key}).encode()


AGREED = {
    "minimal": image(),
    "unknown keys": image(x={"y": [1, None]}, app=APP | {"z": 1.5}),
    "repeated key": image()[:-1] + b',"name":"b"}',
    "key in another case": without(image(Name="a"), "name"),
    "nulls": image(labels=None, app=None, dependencies=None, pathWhitelist=None, annotations=None),
    "no kind": without(image(), "acKind"),
    "other kind": image(acKind="Image"),
    "kind in lower case": image(acKind="imagemanifest"),
    "no version": without(image(), "acVersion"),
    "version v": image(acVersion="v0.8.11"),
    "version of two": image(acVersion="0.8"),
    "version of four": image(acVersion="0.8.1.1"),
    "version zero": image(acVersion="0.0.0"),
    "version is a number": image(acVersion=1.2),
    "older version": image(acVersion="0.5.1"),
    "loose version": image(acVersion="00.8.01"),
    "newer minor version": image(acVersion="0.9.0+git"),
    "no name": without(image(), "name"),
    "null name": image(name=None),
    "empty name": image(name=""),
    "upper case": image(name="Example.com/app"),
    "all separators": image(name="a-b.c_d~e/f"),
    "run of separators": image(name="a__b--c"),
    "separator at the start": image(name="/a"),
    "separator at the end": image(name="a/"),
    "colon": image(name="a:b"),
    "newline": image(name="a\n"),
    "not ASCII": image(name="\u0661a"),
    "labels": image(labels=pairs(version="", os="linux", arch="amd64")),
    "label twice": image(labels=pairs(a="b") * 2),
    "label called name": image(labels=pairs(name="b")),
    "label that is a number": image(labels=pairs(a=1)),
    "labels as an object": image(labels={"a": "b"}),
    "label in upper case": image(labels=pairs(A="b")),
    "every os and arch of linux": image(labels=pairs(os="linux", arch="s390x")),
    "arm64": image(labels=pairs(os="linux", arch="arm64")),
    "x86_64 on linux": image(labels=pairs(os="linux", arch="x86_64")),
    "x86_64 on darwin": image(labels=pairs(os="darwin", arch="x86_64")),
    "unknown os": image(labels=pairs(os="plan9")),
    "arch alone": image(labels=pairs(arch="anything")),
    "annotations": image(annotations=pairs(created="2015-11-17T12:00:00.123456789+01:00", authors="A B")),
    "annotation twice": image(annotations=pairs(a="b") * 2),
    "created yesterday": image(annotations=pairs(created="yesterday")),
    "created with a space": image(annotations=pairs(created="2015-11-17 12:00:00Z")),
    "created without offset": image(annotations=pairs(created="2015-11-17T12:00:00")),
    "created on no day": image(annotations=pairs(created="2015-02-29T12:00:00Z")),
    "homepage": image(annotations=pairs(homepage="https://example.com/x?y#z")),
    "homepage of another scheme": image(annotations=pairs(homepage="ftp://example.com")),
    "homepage without scheme": image(annotations=pairs(homepage="example.com")),
    "dependency": image(dependencies=[{"imageName": "a", "imageID": ID, "labels": pairs(a="b"), "size": 5}]),
    "dependency without name": image(dependencies=[{}]),
    "dependency by another hash": image(dependencies=[{"imageName": "a", "imageID": "sha1-abc"}]),
    "dependency by no hash": image(dependencies=[{"imageName": "a", "imageID": "sha512-"}]),
    "dependency with a label twice": image(dependencies=[{"imageName": "a", "labels": pairs(b="") * 2}]),
    "dependency of negative size": image(dependencies=[{"imageName": "a", "size": -1}]),
    "whitelist": image(pathWhitelist=["/a", "b"]),
    "whitelist of numbers": image(pathWhitelist=[1]),
    "app": app(),
    "app without exec": app(exec=None),
    "app with a relative exec": app(exec=["a"]),
    "exec as text": app(exec="/a"),
    "no user": app(user=None),
    "empty group": app(group=""),
    "user as a number": app(user=0),
    "groups": app(supplementaryGIDs=[0, 100]),
    "groups as texts": app(supplementaryGIDs=["1"]),
    "groups with a point": image(app=APP | {"supplementaryGIDs": "X"}).replace(b'"X"', b"[1.0]"),
    "handlers": app(eventHandlers=[{"name": "pre-start", "exec": ["/a"]}, {"name": "post-stop", "exec": []}]),
    "unknown handler": app(eventHandlers=[{"name": "pre-stop", "exec": ["/a"]}]),
    "handler twice": app(eventHandlers=[{"name": "pre-start", "exec": ["/a"]}] * 2),
    "directory": app(workingDirectory="/a/../b"),
    "no directory": app(workingDirectory=""),
    "relative directory": app(workingDirectory="a"),
    "environment": app(environment=pairs(A="", _0="$A", **{"a.b-c": "x"})),
    "variable twice": app(environment=pairs(A="") * 2),
    "variable with a digit first": app(environment=pairs(**{"0A": ""})),
    "variable with a bar": app(environment=pairs(**{"A|B": ""})),
    "variable without name": app(environment=pairs(**{"": ""})),
    "mount point": app(mountPoints=[{"name": "a", "path": "/b", "readOnly": True, "recursive": True}]),
    "mount point with a text flag": app(mountPoints=[{"name": "a", "path": "/b", "readOnly": "true"}]),
    "port": app(ports=[PORT]),
    "port of another protocol": app(ports=[PORT | {"protocol": "sctp"}]),
    "ports up to the end": app(ports=[PORT | {"port": 65000, "count": 536}]),
    "ports beyond the end": app(ports=[PORT | {"port": 65000, "count": 537}]),
    "no ports at all": app(ports=[PORT | {"count": 0}]),
    "port 0": app(ports=[PORT | {"port": 0}]),
    "port 65536": app(ports=[PORT | {"port": 65536}]),
    "port as text": app(ports=[PORT | {"port": "80"}]),
    "port with a point": app(ports=[PORT | {"port": 80.0}]),
    "port in upper case": app(ports=[PORT | {"name": "A"}]),
    "user annotations": app(userAnnotations={"": "x", "Odd Key": ""}, userLabels={"a": "b"}),
    "user labels with a number": app(userLabels={"a": 1}),
    "isolator in upper case": isolator("Acme", 1),
    "isolator without value": app(isolators=[{"name": "resource/memory"}]),
    "memory": isolator("resource/memory", {"limit": "1Gi", "request": "500M"}),
    "memory without unit": isolator("resource/memory", {"limit": 1000}),
    "memory in words": isolator("resource/memory", {"limit": "much"}),
    "processor": isolator("resource/cpu", {"limit": "1500m"}),
    "capabilities": isolator("os/linux/capabilities-retain-set", {"set": ["CAP_CHOWN"]}),
    "no capabilities": isolator("os/linux/capabilities-retain-set", {"set": []}),
    "system calls": isolator("os/linux/seccomp-remove-set", {"set": ["reboot"], "errno": "EPERM"}),
    "no system calls": isolator("os/linux/seccomp-remove-set", {"set": []}),
    "an error in lower case": isolator("os/linux/seccomp-remove-set", {"set": ["reboot"], "errno": "eperm"}),
    "oom score": isolator("os/linux/oom-score-adj", -1000),
    "oom score too low": isolator("os/linux/oom-score-adj", -1001),
    "shares too few": isolator("os/linux/cpu-shares", 1),
    "no new privileges": isolator("os/linux/no-new-privileges", True),
    "no new privileges as text": isolator("os/linux/no-new-privileges", "true"),
    "SELinux": isolator(
        "os/linux/selinux-context", {"user": "u", "role": "r", "type": "t", "level": "s0:c1"}
    ),
    "half an SELinux context": isolator("os/linux/selinux-context", {"user": "u"}),
    "trailing comma": image()[:-1] + b",}",
    "comment": image() + b"//",
    "something after it": image() + b"{}",
    "NaN": image()[:-1] + b',"x":NaN}',
    "byte order mark": b"\xef\xbb\xbf" + image(),
    "UTF-16": image().decode().encode("utf-16"),
    "a list": b"[]",
    "nothing": b"",
    "half a surrogate pair": image(x="\ud800"),
    "pod": pod(),
    "pod with all the nulls": pod(volumes=None, isolators=None, annotations=None, ports=None),
    "pod of another version": pod(acVersion="1.30.0"),
    "pod of no version": pod(acVersion=""),
    "pod that is a template": runs(image={"name": "a"}),
    "app twice": pod(apps=[RUNS, RUNS]),
    "app in upper case": runs(name="Web"),
    "app with a dot": runs(name="a.b"),
    "image by another hash": runs(image={"id": "sha1-abc"}),
    "image with a name": runs(image={"id": ID, "name": "a/b", "labels": pairs(version="1")}),
    "image with a bad name": runs(image={"id": ID, "name": "A"}),
    "image with a label twice": runs(image={"id": ID, "labels": pairs(a="") * 2}),
    "override": runs(app=APP),
    "override without user": runs(app={"exec": ["/a"], "group": "0"}),
    "read-only": runs(readOnlyRootFS=True),
    "read-only as text": runs(readOnlyRootFS="true"),
    "mount": runs(mounts=[{"volume": "a", "path": "/b"}]),
    "annotation of an app": runs(annotations=pairs(**{"coreos.com/rkt/x": "y"})),
    "annotation of an app twice": runs(annotations=pairs(a="b") * 2),
    "volumes": pod(
        volumes=[
            {"name": "a", "kind": "empty", "mode": "0755", "uid": 1, "gid": 2},
            {"name": "b", "kind": "host", "source": "/b", "readOnly": True, "recursive": False},
        ]
    ),
    "volume twice": pod(volumes=[{"name": "a", "kind": "empty"}] * 2),
    "volume of another kind": pod(volumes=[{"name": "a", "kind": "tmpfs"}]),
    "host volume without source": pod(volumes=[{"name": "a", "kind": "host"}]),
    "host volume with a relative source": pod(volumes=[{"name": "a", "kind": "host", "source": "b"}]),
    "host volume with a mode": pod(volumes=[{"name": "a", "kind": "host", "source": "/b", "mode": "0755"}]),
    "empty volume with a source": pod(volumes=[{"name": "a", "kind": "empty", "source": "/b"}]),
    "forwarded port": pod(ports=[{"name": "a", "hostPort": 80, "hostIP": "10.0.0.1"}]),
    "forwarded port as text": pod(ports=[{"name": "a", "hostPort": "80"}]),
    "forwarded to no address": pod(ports=[{"name": "a", "hostPort": 80, "hostIP": "10.0.0"}]),
    "pod's user labels": pod(userLabels={"": "x"}, userAnnotations={"a": "b"}),
}
"""What both accept or both refuse."""

WE_REFUSE = {
    "TYP-02: an empty path component": image(name="a//b"),
    "TYP-14: a higher major version": image(acVersion="1.0.0"),
    "TYP-16: digits that are none": image(dependencies=[{"imageName": "a", "imageID": "sha512-xyz"}]),
    "TYP-24: bytes that are no UTF-8": image(x="Y").replace(b"Y", b"\xff"),
    "SIG-03: an ID that is too short": image(dependencies=[{"imageName": "a", "imageID": "sha512-ab"}]),
    "MAN-20: a negative group": app(supplementaryGIDs=[-1]),
    "MAN-27: a mount point without path": app(mountPoints=[{"name": "a"}]),
    "MAN-29: a port without protocol": app(ports=[{"name": "a", "port": 80}]),
    "POD-09: no version": without(pod(), "acVersion"),
    "POD-10: no apps": without(pod(), "apps"),
    "POD-11: an app without name": pod(apps=[{"image": {"id": ID}}]),
    "POD-13: an app without image": pod(apps=[{"name": "a"}]),
    "POD-17: a mount without volume": runs(mounts=[{"path": "/b"}]),
    "POD-25: host port 0": pod(ports=[{"name": "a", "hostPort": 0}]),
    "POD-26: IPv6": pod(ports=[{"name": "a", "hostPort": 80, "hostIP": "::1"}]),
    "TRAP-24: a mode in letters": pod(volumes=[{"name": "a", "kind": "empty", "mode": "rwx"}]),
    "TRAP-33: deeper than anything needs": image(x=json.loads("[" * 70 + "]" * 70)),
}
"""What only actool accepts, by the row that says why not."""

WE_ACCEPT = {
    "TYP-12: loose text after the numbers": image(acVersion="0.8.1-x_y"),
    "ISO-03: an unknown isolator": isolator("acme/x", {"a": 1.5}),
}
"""What only actool refuses."""


def peer_accepts(raw: bytes, path: Path) -> bool:
    path.write_bytes(raw)
    done = subprocess.run(["actool", "validate", str(path)], capture_output=True, text=True, check=False)
    return done.returncode == 0


def we_accept(raw: bytes) -> bool:
    kind = PodManifest if b"PodManifest" in raw else ImageManifest
    try:
        kind.parse(raw)
    except ManifestError:
        return False
    return True


@pytest.mark.parametrize("name", AGREED)
def test_both_say_the_same(name: str, tmp_path: Path) -> None:
    assert we_accept(AGREED[name]) == peer_accepts(AGREED[name], tmp_path / "manifest")


@pytest.mark.parametrize("name", WE_REFUSE)
def test_what_only_the_text_refuses(name: str, tmp_path: Path) -> None:
    assert peer_accepts(WE_REFUSE[name], tmp_path / "manifest")
    assert not we_accept(WE_REFUSE[name])


@pytest.mark.parametrize("name", WE_ACCEPT)
def test_what_only_the_code_refuses(name: str, tmp_path: Path) -> None:
    assert not peer_accepts(WE_ACCEPT[name], tmp_path / "manifest")
    assert we_accept(WE_ACCEPT[name])


def test_the_table_has_both_sorts() -> None:
    accepted = sum(map(we_accept, AGREED.values()))
    assert 40 < accepted < len(AGREED) - 40
