"""Section 3: the image manifest (MAN-01 ... MAN-42); written dependencies (DEP-01 ... DEP-04)."""

from __future__ import annotations

import hashlib
import json

import pytest

from gantry.appc.arch import PLATFORMS
from gantry.appc.imageref import ImageRef
from gantry.appc.manifest import App, ImageManifest, ManifestError, Port
from gantry.appc.patch import ManifestPatch, patch_image_manifest

ID = "sha512-" + hashlib.sha512(b"x").hexdigest()
BASE: dict[str, object] = {"acKind": "ImageManifest", "acVersion": "0.8.11", "name": "example.com/app"}
LINUX = ("amd64", "i386", "aarch64", "aarch64_be", "armv6l", "armv7l", "armv7b", "ppc64", "ppc64le", "s390x")
APP: dict[str, object] = {"user": "0", "group": "0"}


def parse(*, strict: bool = False, without: str = "", **more: object) -> ImageManifest:
    data = {key: value for key, value in (BASE | more).items() if key != without}
    return ImageManifest.parse(json.dumps(data).encode(), strict=strict)


def parse_app(**more: object) -> App:
    app = parse(app=APP | more).app
    assert app is not None
    return app


def refused(rule: str, path: str, **more: object) -> None:
    with pytest.raises(ManifestError) as error:
        parse(**more)  # type: ignore[arg-type]
    assert rule in error.value.rule
    assert error.value.path == path
    assert path in str(error.value)


def refused_app(rule: str, path: str, **more: object) -> None:
    refused(rule, f"$.app{path}", app=APP | more)


def labels(**given: str) -> list[dict[str, str]]:
    return [{"name": name, "value": value} for name, value in given.items()]


class TestTop:
    def test_MAN_01_MAN_02_MAN_03_MAN_04_required(self) -> None:
        for key, rule in (("acKind", "MAN-02"), ("acVersion", "MAN-03"), ("name", "MAN-04")):
            refused(rule, "$", without=key)
        refused("TYP-09", "$.acKind", acKind="PodManifest")
        refused("TYP-01", "$.name", name="")

    def test_MAN_07_labels(self) -> None:
        found = parse(labels=[{"name": "version", "value": ""}, {"name": "a/b", "value": "any \u00e9 {os}"}])
        assert list(found.labels.items()) == [("version", ""), ("a/b", "any \u00e9 {os}")]
        assert (found.label("version"), found.label("none")) == ("", None)
        refused("MAN-07", "$.labels[0]", labels=[{"name": "a"}])
        refused("MAN-07", "$.labels[0].value", labels=[{"name": "a", "value": 1}])
        refused("MAN-07", "$.labels[0]", labels=["a"])
        refused("MAN-07", "$.labels", labels={"a": "b"})

    def test_MAN_08_label_names_are_unique(self) -> None:
        refused("MAN-08", "$.labels[1].name", labels=[{"name": "a", "value": "1"}] * 2)

    def test_MAN_09_no_label_called_name(self) -> None:
        refused("MAN-09", "$.labels", labels=labels(name="x"))

    @pytest.mark.parametrize(
        ("os", "arch"),
        [("linux", a) for a in LINUX]
        + [("freebsd", a) for a in ("amd64", "i386", "arm")]
        + [("darwin", a) for a in ("x86_64", "i386")],
    )  # fmt: skip
    def test_MAN_12_table(self, os: str, arch: str) -> None:
        parse(labels=labels(os=os, arch=arch))

    def test_MAN_14_we_do_not_extend_the_table(self) -> None:
        """So that what is built here is read everywhere; what others added is refused."""
        accepted = {(system, name) for system, names in PLATFORMS.items() for name in names}
        assert len(accepted) == len(LINUX) + 3 + 2
        for system, arch in (("linux", "riscv64"), ("linux", "loong64"), ("windows", "amd64")):
            refused("MAN-12", "$.labels", labels=labels(os=system, arch=arch))

    def test_MAN_11_os_or_arch_alone(self) -> None:
        parse(labels=labels(os="linux"))
        parse(labels=labels(arch="whatever"))

    @pytest.mark.parametrize(
        ("os", "arch"),
        [("linux", a) for a in ("arm64", "arm64_be", "arm", "x86_64", "ppc64l", "ppc64be", "S390x")]
        + [("freebsd", "armv7b"), ("Linux", "amd64"), ("plan9", "amd64"), ("", "amd64"), ("darwin", "amd64")],
    )  # fmt: skip
    def test_MAN_13_refused(self, os: str, arch: str) -> None:
        refused("MAN-12", "$.labels", labels=labels(os=os, arch=arch))

    def test_MAN_13_the_right_spelling_is_offered(self) -> None:
        with pytest.raises(ManifestError, match='called "aarch64" here'):
            parse(labels=labels(os="linux", arch="arm64"))

    def test_MAN_16_dependencies_follow_the_same_label_rules(self) -> None:
        place = "$.dependencies[0].labels"
        for rule, at, bad in (
            ("MAN-07", "[0]", [{"name": "a"}]),
            ("MAN-08", "[1].name", [{"name": "a", "value": "1"}] * 2),
            ("MAN-09", "", labels(name="x")),
            ("MAN-12", "", labels(os="linux", arch="arm64")),
        ):
            refused(rule, place + at, dependencies=[{"imageName": "a", "labels": bad}])

    def test_MAN_17_app_is_optional(self) -> None:
        for manifest in (parse(), parse(app=None)):
            assert manifest.app is None
        assert b'"app"' not in parse().dump()

    def test_MAN_35_DEP_01_to_DEP_04_dependencies(self) -> None:
        found = parse(
            dependencies=[
                {"imageName": "b", "imageID": ID, "labels": labels(os="linux"), "size": 5},
                {"imageName": "a", "size": 0},
            ]
        ).dependencies
        assert [each.image_name for each in found] == ["b", "a"]
        assert (found[0].image_id, found[0].size, found[1].size) == (ID, 5, None)
        assert found[0].ref == ImageRef("b", {"os": "linux"})
        refused("DEP-01", "$.dependencies[0]", dependencies=[{}])
        refused(
            "TYP-16", "$.dependencies[0].imageID", dependencies=[{"imageName": "a", "imageID": "sha512-x"}]
        )
        refused("DEP-04", "$.dependencies[0].size", dependencies=[{"imageName": "a", "size": -1}])

    def test_MAN_36_path_whitelist(self) -> None:
        found = parse(pathWhitelist=["/a/", "/b//c/../d", "//e", "f", "/"])
        assert found.path_whitelist == ("/a", "/b/d", "/e", "/f", "/")
        assert [note.rule for note in found.notes] == ["MAN-36"]
        assert parse(pathWhitelist=[]).path_whitelist == ()
        refused("MAN-36", "$.pathWhitelist[1]", pathWhitelist=["/a", 1])
        with pytest.raises(ManifestError):
            parse(pathWhitelist=["f"], strict=True)

    def test_MAN_37_annotations(self) -> None:
        found = parse(annotations=labels(b="1", a="2", authors="A B <a@b>"))
        assert list(found.annotations.items()) == [("b", "1"), ("a", "2"), ("authors", "A B <a@b>")]
        refused("MAN-37", "$.annotations[1].name", annotations=[{"name": "a", "value": ""}] * 2)

    @pytest.mark.parametrize(
        ("name", "good", "bad"),
        [
            ("created", "2015-11-17T12:00:00.123456789Z", "yesterday"),
            ("homepage", "https://example.com", "example.com"),
            ("documentation", "http://example.com/x", "ftp://example.com"),
        ],
    )
    def test_MAN_38_checked_annotations(self, name: str, good: str, bad: str) -> None:
        parse(annotations=labels(**{name: good}))
        refused("MAN-38", "$.annotations[1].value", annotations=labels(**{"x": "", name: bad}))

    def test_MAN_39_notify(self) -> None:
        name = "appc.io/executor/supports-systemd-notify"
        assert parse(annotations=labels(**{name: "true"})).supports_notify
        assert not parse(annotations=labels(**{name: "false"})).supports_notify
        assert not parse().supports_notify
        odd = parse(annotations=labels(**{name: "yes"}))
        assert not odd.supports_notify
        assert [note.rule for note in odd.notes] == ["MAN-39"]

    def test_MAN_41_what_the_go_tools_emit(self) -> None:
        port = {"name": "a", "protocol": "tcp", "port": 80, "count": 0, "socketActivated": False}
        found = parse(app={"exec": None, "user": "0", "group": "0", "ports": [port]})
        assert found.app is not None
        assert found.app.exec == ()
        assert found.app.ports == (Port("a", "tcp", 80, 1, False),)

    def test_MAN_42_labels_keep_their_order(self) -> None:
        found = parse(labels=labels(z="1", a="2", m="3"))
        assert list(found.labels) == ["z", "a", "m"]
        added = ManifestPatch(labels={"y": "4", "a": "5", "b": "6"})
        patched = ImageManifest.parse(patch_image_manifest(found.raw, added))
        assert list(patched.labels.items()) == [("z", "1"), ("a", "5"), ("m", "3"), ("b", "6"), ("y", "4")]


class TestApp:
    def test_MAN_18_exec(self) -> None:
        assert parse_app().exec == parse_app(exec=[]).exec == ()
        assert parse_app(exec=["ls", "$HOME", ""]).exec == ("ls", "$HOME", "")
        refused_app("MAN-18", ".exec[1]", exec=["a", 1])
        refused_app("MAN-18", ".exec", exec="ls -l")

    def test_MAN_19_user_and_group(self) -> None:
        for key in ("user", "group"):
            refused_app("MAN-19", f".{key}", **{key: ""})
            refused_app("MAN-19", f".{key}", **{key: 0})
            refused_app("MAN-19", "", **{key: None})

    def test_MAN_20_supplementary_gids(self) -> None:
        assert parse_app(supplementaryGIDs=[0, 4294967294]).supplementary_gids == (0, 4294967294)
        for bad in (-1, "1", True, 1.0, 4294967295):
            refused_app("MAN-20", ".supplementaryGIDs", supplementaryGIDs=[bad])

    def test_MAN_21_MAN_22_event_handlers(self) -> None:
        handlers = [{"name": "pre-start", "exec": ["/a", "b"]}, {"name": "post-stop", "exec": ["/c"]}]
        app = parse_app(eventHandlers=handlers)
        assert (app.event_handler("pre-start"), app.event_handler("post-stop")) == (("/a", "b"), ("/c",))
        assert parse_app().event_handler("pre-start") is None
        refused_app("MAN-22", ".eventHandlers[1].name", eventHandlers=[handlers[0]] * 2)
        for name in ("", "pre-stop", "Pre-start"):
            refused_app("MAN-21", ".eventHandlers[0].name", eventHandlers=[{"name": name, "exec": []}])

    def test_MAN_23_working_directory(self) -> None:
        assert parse_app().working_directory == parse_app(workingDirectory="").working_directory == "/"
        assert parse_app(workingDirectory="/x").working_directory == "/x"
        for bad in ("stuff", "../home", " /x"):
            refused_app("MAN-23", ".workingDirectory", workingDirectory=bad)

    def test_MAN_24_MAN_25_MAN_26_environment(self) -> None:
        given = [{"name": n, "value": "$A \n"} for n in ("DEBUG.0", "DEBUG-0", "_0_", "a", "A")]
        assert parse_app(environment=given).environment == tuple((each["name"], "$A \n") for each in given)
        for bad in ("", "0DEBUG", "A|B", "A=B", "A\n", "\u00c9", " A"):
            refused_app("MAN-24", ".environment[0].name", environment=[{"name": bad, "value": ""}])
        refused_app("MAN-25", ".environment[1].name", environment=[{"name": "A", "value": "1"}] * 2)
        refused_app("MAN-24", ".environment[0]", environment=[{"name": "A"}])

    def test_MAN_27_mount_points(self) -> None:
        app = parse_app(
            mountPoints=[{"name": "a", "path": "data"}, {"name": "b", "path": "/x", "readOnly": True}]
        )
        assert [(each.name, each.path, each.read_only) for each in app.mount_points] == [
            ("a", "data", False),
            ("b", "/x", True),
        ]
        refused_app("MAN-27", ".mountPoints[0]", mountPoints=[{"path": "/"}])
        refused_app("MAN-27", ".mountPoints[0]", mountPoints=[{"name": "a"}])
        refused_app("MAN-27", ".mountPoints[0].path", mountPoints=[{"name": "a", "path": ""}])

    def test_MAN_28_MAN_29_MAN_30_MAN_31_MAN_32_ports(self) -> None:
        port = {"name": "a", "protocol": "sctp", "port": 65535}
        assert parse_app(ports=[port]).ports == (Port("a", "sctp", 65535),)
        more = port | {"port": 1000, "count": 64536, "socketActivated": True}
        assert parse_app(ports=[more]).ports == (Port("a", "sctp", 1000, 64536, True),)
        for key, rule in (("name", "MAN-28"), ("protocol", "MAN-29"), ("port", "MAN-30")):
            refused_app(rule, ".ports[0]", ports=[{k: v for k, v in port.items() if k != key}])
        for number in (0, 65536, -1):
            refused_app("MAN-30", ".ports[0].port", ports=[port | {"port": number}])
        refused_app("MAN-31", ".ports[0].count", ports=[port | {"count": 2}])
        refused_app("MAN-31", ".ports[0].count", ports=[port | {"count": -1}])
        assert parse_app(ports=[port | {"count": 0}]).ports[0].count == 1
        for count in (0, 2):
            with pytest.raises(ManifestError, match="MAN-31"):
                parse(app=APP | {"ports": [port | {"count": count}]}, strict=True)
        refused_app("MAN-29", ".ports[0].protocol", ports=[port | {"protocol": ""}])
        refused_app("MAN-32", ".ports[0].socketActivated", ports=[port | {"socketActivated": "true"}])

    def test_MAN_33_user_annotations_and_labels(self) -> None:
        free = {"": "empty", "Odd Key \n": "x"}
        app = parse_app(userAnnotations=free, userLabels=free)
        assert app.user_annotations == app.user_labels == free
        for key in ("userAnnotations", "userLabels"):
            refused_app("MAN-33", f".{key}.a", **{key: {"a": 1}})
            refused_app("MAN-33", f'.{key}["a b"]', **{key: {"a b": None}})
            refused_app("MAN-33", f".{key}", **{key: []})

    def test_from_object_checks_and_leaves_its_argument_alone(self) -> None:
        given = {"User": "0", "group": "0"}
        assert App.from_object(given).user == "0"  # type: ignore[arg-type]
        assert given == {"User": "0", "group": "0"}
        with pytest.raises(ManifestError):
            App.from_object({"user": "0"})


class TestMatching:
    manifest = parse(labels=labels(version="1.0", os="linux"))

    def test_DSC_26_name(self) -> None:
        assert self.manifest.mismatch(ImageRef("example.com/app")) is None
        assert "name" in (self.manifest.mismatch(ImageRef("example.com/ap")) or "")

    def test_DSC_27_requested_labels_must_be_there(self) -> None:
        assert self.manifest.mismatch(ImageRef("example.com/app", {"version": "1.0"})) is None
        assert "1.0" in (self.manifest.mismatch(ImageRef("example.com/app", {"version": "2.0"})) or "")
        assert "arch" in (self.manifest.mismatch(ImageRef("example.com/app", {"arch": "amd64"})) or "")

    def test_DSC_28_labels_only_of_the_manifest(self) -> None:
        assert self.manifest.mismatch(ImageRef("example.com/app", {})) is None


def test_lossless() -> None:
    raw = (
        b'{"acKind":"ImageManifest","x":1.10,"acVersion":"0.8.11","name":"a","big":123456789012345678901234567890,'
        b'"e":1E400,"labels":[{"name":"z","value":"\xc3\xa9","q":-0.0}],"app":{"user":"0","group":"0",'
        b'"isolators":[{"name":"acme/x","value":{"b":1.50,"a":[1e3,null,true]},"more":{}}]}}'
    )
    manifest = ImageManifest.parse(raw)
    assert manifest.raw == raw
    assert manifest.dump() == raw
    assert ImageManifest.parse(manifest.dump()) == manifest


def test_writing_is_strict() -> None:
    made = ImageManifest.from_object(BASE | {"labels": labels(version="1")})
    assert made.ref == ImageRef("example.com/app", {"version": "1"})
    with pytest.raises(ManifestError):
        ImageManifest.from_object(BASE | {"name": "a--b"})
