"""Section 7 of the requirements: the pod manifest as a document (POD-05 ... POD-31)."""

from __future__ import annotations

import hashlib
import json

import pytest

from gantry.appc.manifest import ExposedPort, ManifestError, PodManifest, Port

ID = "sha512-" + hashlib.sha512(b"x").hexdigest()
BASE: dict[str, object] = {"acKind": "PodManifest", "acVersion": "0.8.11", "apps": []}
APP: dict[str, object] = {"name": "web", "image": {"id": ID}}


def parse(*, without: str = "", **more: object) -> PodManifest:
    data = {key: value for key, value in (BASE | more).items() if key != without}
    return PodManifest.parse(json.dumps(data).encode())


def refused(rule: str, path: str, **more: object) -> None:
    with pytest.raises(ManifestError) as error:
        parse(**more)  # type: ignore[arg-type]
    assert rule in error.value.rule
    assert error.value.path == path


def test_POD_05_reified() -> None:
    parse(apps=[APP]).check_reified()
    with pytest.raises(ManifestError, match="no apps"):
        parse().check_reified()


def test_POD_06_TRAP_07_templates_parse_but_are_not_reified() -> None:
    template = parse(
        apps=[
            {
                "name": "web",
                "image": {"name": "example.com/web", "labels": [{"name": "version", "value": "1"}]},
            }
        ]
    )
    assert (template.apps[0].image.id, template.apps[0].image.name) == (None, "example.com/web")
    assert template.apps[0].image.labels == {"version": "1"}
    with pytest.raises(ManifestError, match="no ID") as error:
        template.check_reified()
    assert error.value.path == "$.apps[0].image.id"


def test_POD_08_POD_09_POD_10_TRAP_16_required() -> None:
    for key, rule in (("acKind", "POD-08"), ("acVersion", "POD-09"), ("apps", "POD-10")):
        refused(rule, "$", without=key)
        refused(rule, "$", **{key: None})
    assert parse(apps=[]).apps == ()
    refused("POD-08", "$.acKind", acKind="ImageManifest")


def test_POD_09_any_version_with_a_note() -> None:
    assert parse(acVersion="0.8.11").notes == ()
    assert [note.rule for note in parse(acVersion="1.30.0").notes] == ["POD-09"]
    assert parse(acVersion="0.8.10").notes == ()
    for bad in ("", "1.30", "v1.30.0", "0.0.0", 1):
        with pytest.raises(ManifestError):
            parse(acVersion=bad)


def test_POD_11_POD_12_app_names() -> None:
    assert [app.name for app in parse(apps=[APP, APP | {"name": "two"}]).apps] == ["web", "two"]
    refused("POD-11", "$.apps[0]", apps=[{"image": {"id": ID}}])
    refused("POD-11", "$.apps[1].name", apps=[APP, APP])
    refused("TYP-05", "$.apps[0].name", apps=[APP | {"name": "example.com/web"}])
    one_image = parse(apps=[APP, APP | {"name": "two"}]).apps
    assert one_image[0].image == one_image[1].image


def test_POD_13_image_is_required() -> None:
    refused("POD-13", "$.apps[0]", apps=[{"name": "web"}])
    refused("POD-13", "$.apps[0].image", apps=[{"name": "web", "image": ID}])
    refused("TYP-16", "$.apps[0].image.id", apps=[{"name": "web", "image": {"id": "sha512-12"}}])
    found = parse(apps=[APP | {"image": {"id": ID.upper().replace("SHA", "sha")}}])
    assert found.apps[0].image.id == ID


def test_POD_14_image_name_and_labels() -> None:
    refused("TYP-01", "$.apps[0].image.name", apps=[APP | {"image": {"id": ID, "name": "A"}}])
    bad = [{"name": "os", "value": "linux"}, {"name": "arch", "value": "arm64"}]
    refused("MAN-12", "$.apps[0].image.labels", apps=[APP | {"image": {"id": ID, "labels": bad}}])


def test_POD_15_app_replaces_and_is_validated() -> None:
    assert parse(apps=[APP]).apps[0].app is None
    override = parse(apps=[APP | {"app": {"exec": ["/x"], "user": "1", "group": "2"}}]).apps[0].app
    assert override is not None
    assert (override.exec, override.environment) == (("/x",), ())
    refused("MAN-19", "$.apps[0].app", apps=[APP | {"app": {"exec": ["/x"]}}])


def test_POD_16_read_only_root() -> None:
    assert not parse(apps=[APP]).apps[0].read_only_rootfs
    assert parse(apps=[APP | {"readOnlyRootFS": True}]).apps[0].read_only_rootfs
    refused("POD-16", "$.apps[0].readOnlyRootFS", apps=[APP | {"readOnlyRootFS": "true"}])


def test_POD_17_POD_18_mounts() -> None:
    own = {"name": "x", "kind": "empty"}
    mounts = parse(
        apps=[
            APP | {"mounts": [{"volume": "a", "path": "/b"}, {"volume": "c", "path": "d", "appVolume": own}]}
        ]
    )
    first, second = mounts.apps[0].mounts
    assert (first.volume, first.path, first.app_volume) == ("a", "/b", None)
    assert second.app_volume is not None
    for bad in ({"path": "/b"}, {"volume": "a"}):
        refused("POD-17", "$.apps[0].mounts[0]", apps=[APP | {"mounts": [bad]}])
    refused("POD-17", "$.apps[0].mounts[0].path", apps=[APP | {"mounts": [{"volume": "a", "path": ""}]}])
    broken = {"volume": "a", "path": "/b", "appVolume": {"name": "x", "kind": "host"}}
    refused("VOL-04", "$.apps[0].mounts[0].appVolume", apps=[APP | {"mounts": [broken]}])


def test_POD_19_annotations_may_be_identifiers() -> None:
    given = [{"name": "coreos.com/rkt/stage1/mutable", "value": "true"}]
    found = parse(annotations=given, apps=[APP | {"annotations": given}])
    assert found.annotations == found.apps[0].annotations == {"coreos.com/rkt/stage1/mutable": "true"}
    refused("MAN-37", "$.annotations[1].name", annotations=given * 2)
    refused("MAN-37", "$.apps[0].annotations[1].name", apps=[APP | {"annotations": given * 2}])
    refused("TYP-01", "$.annotations[0].name", annotations=[{"name": "A", "value": ""}])
    refused(
        "MAN-38",
        "$.apps[0].annotations[0].value",
        apps=[APP | {"annotations": [{"name": "created", "value": "x"}]}],
    )


def test_POD_21_pod_isolators() -> None:
    found = parse(isolators=[{"name": "os/unix/sysctl", "value": {"a": "1"}}, {"name": "acme/x", "value": 1}])
    assert found.isolators.scope == "pod"
    assert found.isolators.unknown() == ["acme/x"]
    assert found.isolators.problems() == []


def test_TRAP_27_apps_may_together_want_more_than_the_pod_has() -> None:
    def memory(limit: str) -> list[dict[str, object]]:
        return [{"name": "resource/memory", "value": {"limit": limit}}]

    app = {"exec": ["/x"], "user": "0", "group": "0", "isolators": memory("1G")}
    found = parse(isolators=memory("1G"), apps=[APP | {"app": app}, APP | {"name": "two", "app": app}])
    assert found.notes == ()
    assert found.isolators.problems() == []


def test_TRAP_24_modes_of_empty_volumes() -> None:
    for text, mode in (("755", 0o755), ("0755", 0o755), ("1777", 0o1777), ("07777", 0o7777), ("0", 0)):
        found = parse(volumes=[{"name": "a", "kind": "empty", "mode": text}])
        assert found.volumes[0].mode == mode
    for bad in ("0o755", "rwx", "8", "10000", "", " 755", "755\n", "-1", "\u0667"):
        refused("TRAP-24", "$.volumes[0].mode", volumes=[{"name": "a", "kind": "empty", "mode": bad}])
    refused("VOL-07", "$.volumes[0].mode", volumes=[{"name": "a", "kind": "empty", "mode": 755}])


def test_POD_23_POD_25_POD_26_POD_27_ports() -> None:
    pod_port = {"name": "x", "protocol": "tcp", "port": 80}
    found = parse(
        ports=[
            {"name": "http", "hostPort": 8080},
            {"name": "b", "hostPort": 1, "hostIP": "10.0.0.1", "podPort": pod_port},
        ]
    )
    assert found.ports == (
        ExposedPort("http", 8080, None, None),
        ExposedPort("b", 1, "10.0.0.1", Port("x", "tcp", 80)),
    )
    refused("POD-23", "$.ports[0]", ports=[{"hostPort": 1}])
    refused("POD-25", "$.ports[0]", ports=[{"name": "a"}])
    for number in (0, 65536, "80", 80.0):
        refused("POD-25", "$.ports[0].hostPort", ports=[{"name": "a", "hostPort": number}])
    for address in ("::1", "10.0.0", "10.0.0.256", "10.0.0.01", "10.0.0.1\n", "host", "10.0.0.1/8"):
        refused("POD-26", "$.ports[0].hostIP", ports=[{"name": "a", "hostPort": 1, "hostIP": address}])
    refused(
        "MAN-29",
        "$.ports[0].podPort",
        ports=[{"name": "a", "hostPort": 1, "podPort": {"name": "a", "port": 1}}],
    )


def test_POD_29_user_annotations_and_labels() -> None:
    assert parse(userAnnotations={"": "x"}, userLabels={"a b": ""}).user_labels == {"a b": ""}
    refused("POD-29", "$.userLabels.a", userLabels={"a": 1})
    refused("POD-29", "$.userAnnotations.a", userAnnotations={"a": None})
    refused("POD-29", "$.userAnnotations", userAnnotations=[])


def test_POD_30_volume_names_are_unique_across_kinds() -> None:
    volumes = [{"name": "a", "kind": "empty"}, {"name": "a", "kind": "host", "source": "/x"}]
    refused("POD-30", "$.volumes[1].name", volumes=volumes)
    found = parse(volumes=volumes[:1])
    assert (found.volume("a"), found.volume("b")) == (found.volumes[0], None)


def test_POD_31_nulls_of_the_go_writer() -> None:
    runs = APP | {"app": None, "mounts": None, "annotations": None, "readOnlyRootFS": None}
    found = parse(apps=[runs], volumes=None, isolators=None, annotations=None, ports=None)
    assert (found.volumes, found.ports, found.annotations, len(found.isolators)) == ((), (), {}, 0)
    assert b'"volumes":null' in found.dump()


def test_lossless_and_lookup() -> None:
    found = parse(apps=[APP | {"zzz": 1.0}], extra=[1])
    assert json.loads(found.dump()) == json.loads(found.raw)
    assert found.app("web") is found.apps[0]
    assert found.app("none") is None
    assert PodManifest.from_object(found.data) == PodManifest.parse(found.dump())
