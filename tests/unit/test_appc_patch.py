"""Changing a manifest: what is named changes, and nothing else does."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gantry.appc.document import load_value
from gantry.appc.errors import ManifestError
from gantry.appc.manifest import ImageManifest, MountPoint, Port
from gantry.appc.patch import ManifestPatch, PatchError, patch_image_manifest

RAW = (
    b'{"zzz":1.50,"acKind":"ImageManifest","acVersion":"0.8.11","name":"example.com/app","labels":['
    b'{"name":"version","value":"1","note":"x"},{"name":"os","value":"linux"}],"app":{"mine":{"b":-0,"a":[1e3]},'
    b'"exec":["/a"],"user":"0","group":"0","environment":[{"name":"A","value":"1"},{"name":"B","value":"2"}],'
    b'"eventHandlers":[{"name":"pre-start","exec":["/p"]}],"isolators":[{"name":"acme/x","value":{"y":1.10}},'
    b'{"name":"os/linux/capabilities-retain-set","value":{"set":["CAP_CHOWN"]}},'
    b'{"name":"resource/memory","value":{"limit":"1G"}}]},"annotations":[{"name":"authors","value":"x"}]}'
)
LIBRARY = b'{"acKind":"ImageManifest","acVersion":"0.8.11","name":"example.com/lib"}'


def patched(manifest: bytes = RAW, **changes: Any) -> dict[str, Any]:
    """The manifest as JSON with what may be changed; the rest is compared right here."""
    made = patch_image_manifest(manifest, ManifestPatch(**changes))
    after = json.loads(made)
    before = json.loads(manifest)
    keys = {
        "name": {"name"},
        "labels": {"labels"},
        "annotations": {"annotations"},
        "dependencies": {"dependencies"},
        "path_whitelist": {"pathWhitelist"},
    }
    touched = set().union(*(keys.get(change, {"app"}) for change in changes))
    assert {k: v for k, v in after.items() if k not in touched} == {
        k: v for k, v in before.items() if k not in touched
    }
    assert [key for key in after if key in before] == [key for key in before if key in after]
    if "app" in before:
        assert b'"mine":{"b":-0,"a":[1e3]}' in made
        assert made.startswith(b'{"zzz":1.50,')
    return dict(after)


def app(**changes: Any) -> dict[str, Any]:
    return dict(patched(**changes)["app"])


def refused(text: str, manifest: bytes = RAW, **changes: Any) -> PatchError:
    with pytest.raises(PatchError, match=text) as error:
        patch_image_manifest(manifest, ManifestPatch(**changes))
    assert "\n" not in str(error.value)
    return error.value


def test_no_change_keeps_every_byte() -> None:
    odd = b' {"Name":"a--b",\n"acKind":"ImageManifest","acVersion":"00.8.1"}\n'
    assert patch_image_manifest(odd, ManifestPatch()) == odd


def test_MAN_04_name() -> None:
    assert patched(name="example.com/other")["name"] == "example.com/other"
    assert refused(r"at \$.name", name="Example").rule == "TYP-01"
    refused("row", name="a--b")


def test_MAN_07_MAN_42_labels() -> None:
    found = patched(labels={"version": "2", "os": None, "none": None, "z": "", "b": "x"})["labels"]
    assert found == [
        {"name": "version", "value": "2", "note": "x"},
        {"name": "b", "value": "x"},
        {"name": "z", "value": ""},
    ]
    assert "labels" not in patched(labels={"version": None, "os": None})
    refused(r"\$.labels", labels={"name": "x"})
    refused("arm64", labels={"arch": "arm64"})


def test_MAN_37_annotations() -> None:
    found = patched(annotations={"authors": None, "homepage": "https://example.com"})["annotations"]
    assert found == [{"name": "homepage", "value": "https://example.com"}]
    assert "annotations" not in patched(annotations={"authors": None})
    assert "MAN-38" in refused(r"annotations\[1\]", annotations={"created": "yesterday"}).rule


def test_MAN_18_to_MAN_23_scalars() -> None:
    found = app(
        exec=["/b", "two words"],
        user="web",
        group="7",
        supplementary_gids=[1, 2],
        working_directory="/srv",
    )
    assert (found["exec"], found["user"], found["group"]) == (["/b", "two words"], "web", "7")
    assert (found["supplementaryGIDs"], found["workingDirectory"]) == ([1, 2], "/srv")
    assert "supplementaryGIDs" not in app(supplementary_gids=[])
    assert app(exec=())["exec"] == []
    assert refused("empty", user="").rule == "MAN-19"
    refused("not absolute", working_directory="srv")
    refused("supplementaryGIDs", supplementary_gids=[-1])


def test_MAN_24_environment() -> None:
    found = app(environment={"B": "3", "A": None, "C": "=", "D": None})["environment"]
    assert found == [{"name": "B", "value": "3"}, {"name": "C", "value": "="}]
    refused("0A", environment={"0A": "x"})


def test_MAN_27_MAN_28_mount_points_and_ports() -> None:
    found = app(
        mount_points=[MountPoint("a", "/a", False), MountPoint("b", "/b", True)],
        ports=[Port("http", "tcp", 80), Port("x", "udp", 1, 2, True)],
    )
    assert found["mountPoints"] == [
        {"name": "a", "path": "/a"},
        {"name": "b", "path": "/b", "readOnly": True},
    ]
    assert found["ports"] == [
        {"name": "http", "protocol": "tcp", "port": 80},
        {"name": "x", "protocol": "udp", "port": 1, "count": 2, "socketActivated": True},
    ]
    refused(r"mountPoints\[0\].name", mount_points=[MountPoint("A", "/", False)])
    refused(r"ports\[0\].port", ports=[Port("a", "tcp", 0)])


def test_MAN_21_event_handlers() -> None:
    found = app(event_handlers={"pre-start": None, "post-stop": ("/q", "r")})["eventHandlers"]
    assert found == [{"name": "post-stop", "exec": ["/q", "r"]}]
    refused("pre-stop", event_handlers={"pre-stop": ["/x"]})


def test_ISO_33_isolators() -> None:
    found = app(
        isolators={
            "os/linux/capabilities-remove-set": {"set": ["CAP_CHOWN"]},
            "resource/memory": None,
            "resource/cpu": load_value(b'{"limit":1.50}')[0],
        }
    )["isolators"]
    assert found == [
        {"name": "acme/x", "value": {"y": 1.1}},
        {"name": "os/linux/capabilities-remove-set", "value": {"set": ["CAP_CHOWN"]}},
        {"name": "resource/cpu", "value": {"limit": 1.5}},
    ]
    raw = patch_image_manifest(RAW, ManifestPatch(isolators={"acme/z": load_value(b"1.50")[0]}))
    assert raw.count(b"1.10") == 1
    assert b'{"name":"acme/z","value":1.50}' in raw
    assert app(only_isolators=True, isolators={"acme/z": 1})["isolators"] == [{"name": "acme/z", "value": 1}]
    assert "isolators" not in app(only_isolators=True)
    refused("-2000", isolators={"os/linux/oom-score-adj": -2000})
    rivals = {f"os/linux/seccomp-{kind}-set": {"set": ["x"]} for kind in ("retain", "remove")}
    refused("together", isolators=rivals)


def test_MAN_35_MAN_36_dependencies_and_whitelist() -> None:
    found = patched(dependencies=[{"imageName": "b", "mine": 1}], path_whitelist=["/a"])
    assert (found["dependencies"], found["pathWhitelist"]) == ([{"imageName": "b", "mine": 1}], ["/a"])
    assert "dependencies" not in patched(dependencies=[], path_whitelist=[])
    refused("not absolute", path_whitelist=["a"])
    assert refused(r"dependencies\[0\]", dependencies=[{}]).rule == "DEP-01"


def test_MAN_17_an_image_without_an_app() -> None:
    assert patched(LIBRARY, exec=["/a"])["app"] == {"exec": ["/a"], "user": "0", "group": "0"}
    assert "app" not in patched(LIBRARY, name="example.com/other")
    for changes in ({"working_directory": "/"}, {"only_isolators": True}, {"user": "0"}):
        refused("has no app whose", LIBRARY, **changes)


def test_what_was_wrong_before_is_told_apart() -> None:
    old = LIBRARY.replace(b"example.com/lib", b"a--b")
    refused("already says", old, labels={"version": "1"})
    assert patched(old, name="a-b")["name"] == "a-b"
    with pytest.raises(ManifestError):
        patch_image_manifest(b"{}", ManifestPatch(name="a"))


def test_TYP_26_TYP_29_what_is_written_is_spelt_right() -> None:
    old = LIBRARY.replace(b'"name"', b'"NAME"')[:-1] + b',"acVersion":"0.8.10"}'
    made = patch_image_manifest(old, ManifestPatch(labels={"version": "1"}))
    assert (made.count(b'"name":"example.com/lib"'), made.count(b"acVersion")) == (1, 1)
    assert ImageManifest.parse(made, strict=True).ac_version.text == "0.8.10"


def test_TYP_23_what_is_no_json() -> None:
    refused("written as JSON", annotations={"a": "\udcff"})
    refused("written as JSON", isolators={"acme/x": float("nan")})
    deep: object = 1
    for _ in range(300):
        deep = [deep]
    refused("deeper than 64", isolators={"acme/x": deep})


NAMES = st.from_regex(r"[a-z0-9]{1,5}", fullmatch=True).filter(
    lambda name: name not in ("name", "os", "arch")
)
CHANGES = st.dictionaries(NAMES, st.none() | st.text(max_size=5), max_size=4)


@settings(deadline=None)
@given(CHANGES, CHANGES.map(lambda changes: {f"e{name}": value for name, value in changes.items()}))
def test_mappings_do_what_they_say(labels: dict[str, str | None], environment: dict[str, str | None]) -> None:
    made = patch_image_manifest(RAW, ManifestPatch(labels=labels, environment=environment))
    manifest = ImageManifest.parse(made)
    assert manifest.app is not None
    assert manifest.labels == {
        k: v for k, v in ({"version": "1", "os": "linux"} | labels).items() if v is not None
    }
    assert dict(manifest.app.environment) == {
        k: v for k, v in ({"A": "1", "B": "2"} | environment).items() if v is not None
    }
    assert patch_image_manifest(made, ManifestPatch(labels=labels, environment=environment)) == made
