"""Written forms of volumes, mount points and ports (VOL-30, VOL-31); volume objects (VOL-02 ... VOL-12)."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gantry.appc.errors import AppcError, ManifestError
from gantry.appc.parts import MountPoint, Port, Volume, read_volume
from gantry.appc.reading import Obj, Reading


def read(**data: object) -> Volume:
    return read_volume(Obj(json.loads(json.dumps(data)), "$", Reading()))


@pytest.mark.parametrize(
    ("text", "volume"),
    [
        ("a,kind=host,source=/x", Volume("a", "host", "/x")),
        ("a,kind=host,source=/x,readOnly=true,recursive=false", Volume("a", "host", "/x", True, False)),
        ("a,kind=host,source=/x%20=y z", Volume("a", "host", "/x%20=y z")),
        ("a,kind=empty", Volume("a", "empty")),
        ("a,kind=empty,mode=0777,uid=1,gid=2", Volume("a", "empty", mode=0o777, uid=1, gid=2)),
        ("a,kind=empty,readOnly=false,mode=1777", Volume("a", "empty", read_only=False, mode=0o1777)),
    ],
)
def test_VOL_30_volumes_are_read_and_printed(text: str, volume: Volume) -> None:
    assert Volume.from_text(text) == volume
    assert str(volume) == text or volume.mode
    assert Volume.from_text(str(volume)) == volume


def test_VOL_30_defaults_of_empty_volumes_are_not_printed() -> None:
    assert str(Volume.from_text("a,kind=empty,mode=755,uid=0,gid=0")) == "a,kind=empty"


@pytest.mark.parametrize(
    "text",
    ["", "a", "a,kind=other", "A,kind=empty", "a,kind=host", "a,kind=host,source=x", "a,kind=host,source=",
     "a,kind=host,source=/x,mode=0755",
     "a,kind=host,source=/x,uid=0", "a,kind=empty,source=/x", "a,kind=empty,x=1",
     "a,kind=empty,kind=empty", "a,kind",
     "a,kind=empty,readOnly=yes", "a,kind=empty,mode=rwx", "a,kind=empty,mode=8",
     "a,kind=empty,mode=0o755", "a,kind=empty,mode=10000", "a,kind=empty,uid=-1", "a,kind=empty,uid=root",
     "a,kind=empty,uid=4294967295", "a,kind=empty,", "a,kind=empty,name=b", "a,kind=empty,uid=\u0661"],
)  # fmt: skip
def test_VOL_30_malformed_volumes(text: str) -> None:
    with pytest.raises(AppcError):
        Volume.from_text(text)


def test_VOL_31_mount_points_and_ports() -> None:
    assert MountPoint.from_text("a,path=/x,readOnly=true") == MountPoint("a", "/x", True)
    assert str(MountPoint("a", "/x", False)) == "a,path=/x"
    port = Port.from_text("http,protocol=tcp,port=80,count=2,socketActivated=true")
    assert port == Port("http", "tcp", 80, 2, True)
    assert str(port) == "http,protocol=tcp,port=80,count=2,socketActivated=true"
    assert str(Port.from_text("http,protocol=tcp,port=80,count=0")) == "http,protocol=tcp,port=80"


@pytest.mark.parametrize(
    "text", ["a", "a,path=", "a,readOnly=true", "a,path=/x,path=/y", "a,path=/x,z=1", ",path=/x"]
)
def test_VOL_31_malformed_mount_points(text: str) -> None:
    with pytest.raises(AppcError):
        MountPoint.from_text(text)


@pytest.mark.parametrize(
    "text", ["a", "a,port=80", "a,protocol=tcp", "a,protocol=tcp,port=0", "a,protocol=tcp,port=65536",
             "a,protocol=tcp,port=65535,count=2", "a,protocol=tcp,port=x", "a,protocol=,port=1"],
)  # fmt: skip
def test_VOL_31_malformed_ports(text: str) -> None:
    with pytest.raises(AppcError):
        Port.from_text(text)


def test_VOL_02_to_VOL_12_objects() -> None:
    host = read(name="a", kind="host", source="/x", readOnly=True, recursive=False)
    assert host == Volume("a", "host", "/x", True, False)
    assert read(**host.as_object()) == host
    empty = read(name="a", kind="empty", mode="0700", uid=5, recursive=True)
    assert (empty.mode, empty.uid, empty.gid, empty.read_only) == (0o700, 5, 0, None)
    assert read(**empty.as_object()) == empty


@pytest.mark.parametrize(
    ("rule", "data"),
    [
        ("VOL-02", {"kind": "empty"}),
        ("TYP-05", {"name": "A", "kind": "empty"}),
        ("VOL-03", {"name": "a"}),
        ("VOL-03", {"name": "a", "kind": "tmpfs"}),
        ("VOL-04", {"name": "a", "kind": "host"}),
        ("VOL-04", {"name": "a", "kind": "host", "source": "x"}),
        ("VOL-04", {"name": "a", "kind": "host", "source": "/x\0"}),
        ("VOL-05", {"name": "a", "kind": "host", "source": "/x", "mode": "0755"}),
        ("VOL-05", {"name": "a", "kind": "host", "source": "/x", "uid": 0}),
        ("VOL-06", {"name": "a", "kind": "empty", "source": "/x"}),
        ("VOL-07", {"name": "a", "kind": "empty", "mode": 755}),
        ("TRAP-24", {"name": "a", "kind": "empty", "mode": "0o755"}),
        ("VOL-08", {"name": "a", "kind": "empty", "uid": "root"}),
        ("VOL-08", {"name": "a", "kind": "empty", "gid": -1}),
        ("VOL-10", {"name": "a", "kind": "empty", "readOnly": "true"}),
    ],
)
def test_VOL_objects_refused(rule: str, data: dict[str, object]) -> None:
    with pytest.raises(ManifestError) as error:
        read(**data)
    assert rule in error.value.rule


@given(st.text(max_size=60))
def test_any_text_parses_or_is_refused(text: str) -> None:
    for kind in (Volume, MountPoint, Port):
        for given_text in (text, f"a,{text}", f"a,kind=empty,mode={text}", f"a,protocol=tcp,port={text}"):
            try:
                made = kind.from_text(given_text)
            except AppcError:
                continue
            assert kind.from_text(str(made)) == made
