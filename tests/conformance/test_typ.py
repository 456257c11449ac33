"""Section 1 of the requirements: types (TYP-01 ... TYP-31), image IDs (SIG-01 ... SIG-04)."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from gantry.appc import arch, lastditch, version
from gantry.appc.errors import AppcError, ImageIDError, InvalidNameError, ManifestError
from gantry.appc.imageid import ImageID, parse_prefix
from gantry.appc.manifest import ImageManifest, PodManifest
from gantry.appc.names import ac_identifier, ac_name, default_app_name, sanitize_identifier, sanitize_name
from gantry.appc.uuid import UUIDError, new_uuid, parse_uuid, uuid_bytes
from gantry.appc.values import timestamp, web_url

DIGITS = hashlib.sha512(b"x").hexdigest()


def image(**more: object) -> bytes:
    return json.dumps(
        {"acKind": "ImageManifest", "acVersion": "0.8.11", "name": "example.com/app"} | more
    ).encode()


def pod(**more: object) -> bytes:
    return json.dumps({"acKind": "PodManifest", "acVersion": "0.8.11", "apps": []} | more).encode()


def refused(raw: bytes, kind: type[ImageManifest | PodManifest] = ImageManifest) -> ManifestError:
    with pytest.raises(ManifestError) as error:
        kind.parse(raw)
    assert "\n" not in str(error.value)
    return error.value


class TestNames:
    @pytest.mark.parametrize(
        "text", ["a", "0", "example.com/a-b_c~d.e/f", "a" * 300, "a--b", "a__b", "a-_~.b", "a/.b"]
    )
    def test_TYP_01_TYP_02_identifiers_read(self, text: str) -> None:
        assert ac_identifier(text) == text

    @pytest.mark.parametrize(
        "text", ["", "A", "a b", "a:b", "a,b", "-a", "a-", "/a", "a/", ".a", "a~", "é", "a\n", "a\0", "a%"]
    )
    def test_TYP_01_identifiers_refused(self, text: str) -> None:
        with pytest.raises(InvalidNameError):
            ac_identifier(text)

    @pytest.mark.parametrize("text", ["a//b", "a/../b", "a/./b", "a/.../../b"])
    def test_TYP_02_path_components(self, text: str) -> None:
        with pytest.raises(InvalidNameError, match="component"):
            ac_identifier(text)

    @pytest.mark.parametrize("text", ["a--b", "a__b", "a/-b", "a.-b"])
    def test_TYP_02_strict_on_write(self, text: str) -> None:
        ac_identifier(text)
        with pytest.raises(InvalidNameError, match="row"):
            ac_identifier(text, strict=True)
        app = {"user": "0", "group": "0", "isolators": [{"name": text, "value": 1}]}
        for raw in (
            image(name=text),
            image(labels=[{"name": text, "value": ""}]),
            image(annotations=[{"name": text, "value": ""}]),
            image(dependencies=[{"imageName": text}]),
            image(app=app),
        ):
            ImageManifest.parse(raw)
            with pytest.raises(ManifestError, match="row"):
                ImageManifest.parse(raw, strict=True)

    @pytest.mark.parametrize("text", ["name\n", "\nname", "nam\u0435", "\u0661", "a\u200b"])
    def test_TYP_03_anchored_and_ascii(self, text: str) -> None:
        for check in (ac_name, ac_identifier):
            with pytest.raises(InvalidNameError):
                check(text)

    def test_TYP_04_where_identifiers_apply(self) -> None:
        bad = "Not/Allowed"
        for raw in (
            image(name=bad),
            image(labels=[{"name": bad, "value": ""}]),
            image(annotations=[{"name": bad, "value": ""}]),
            image(app={"user": "0", "group": "0", "isolators": [{"name": bad, "value": 1}]}),
            image(dependencies=[{"imageName": bad}]),
        ):
            assert "TYP-01" in refused(raw).rule
        assert "TYP-01" in refused(pod(apps=[{"name": "a", "image": {"name": bad}}]), PodManifest).rule

    @pytest.mark.parametrize("text", ["a", "a-b", "0-9", "a--b"])
    def test_TYP_05_names_read(self, text: str) -> None:
        assert ac_name(text) == text

    @pytest.mark.parametrize("text", ["", "a.b", "a/b", "a_b", "a~b", "A", "-a", "a-", "a b"])
    def test_TYP_05_names_refused(self, text: str) -> None:
        with pytest.raises(InvalidNameError):
            ac_name(text)

    def test_TYP_05_strict_on_write(self) -> None:
        with pytest.raises(InvalidNameError):
            ac_name("a--b", strict=True)
        for more in (
            {"apps": [{"name": "a--b", "image": {}}]},
            {"volumes": [{"name": "a--b", "kind": "empty"}]},
            {"ports": [{"name": "a--b", "hostPort": 1}]},
        ):
            PodManifest.parse(pod(**more))
            with pytest.raises(ManifestError, match="row"):
                PodManifest.parse(pod(**more), strict=True)

    def test_TYP_06_where_names_apply(self) -> None:
        bad = "a.b"
        app = {"user": "0", "group": "0"}
        for raw in (
            image(app=app | {"mountPoints": [{"name": bad, "path": "/"}]}),
            image(app=app | {"ports": [{"name": bad, "protocol": "tcp", "port": 1}]}),
        ):
            assert refused(raw).rule == "TYP-05"
        for more in (
            {"apps": [{"name": bad, "image": {}}]},
            {"volumes": [{"name": bad, "kind": "empty"}]},
            {"ports": [{"name": bad, "hostPort": 1}]},
            {"apps": [{"name": "a", "image": {}, "mounts": [{"volume": bad, "path": "/"}]}]},
        ):
            assert refused(pod(**more), PodManifest).rule == "TYP-05"

    @pytest.mark.parametrize(
        ("text", "cause"), [("", "empty"), ("-A-", "bad-character"), ("-a", "bad-edge"), ("a-", "bad-edge")]
    )
    def test_TYP_07_causes_in_order(self, text: str, cause: str) -> None:
        for check in (ac_name, ac_identifier):
            with pytest.raises(InvalidNameError) as error:
                check(text)
            assert error.value.cause == cause

    def test_TYP_08_sanitising(self) -> None:
        assert sanitize_identifier("foo.com/BAR") == "foo.com/bar"
        assert sanitize_name("foo.com/BAR") == "foo-com-bar"
        assert sanitize_identifier("--A b--") == "a_b"
        assert (sanitize_identifier("\u00c9x\n"), sanitize_name("\u00c9x\n")) == ("x", "x")
        assert (sanitize_name("a_b--c"), sanitize_identifier("a_b--c")) == ("a-b--c", "a_b--c")
        with pytest.raises(InvalidNameError, match="component"):
            sanitize_identifier("a/../b")
        refused(image(name="Foo"))  # and never without being asked
        for make in (sanitize_identifier, sanitize_name):
            with pytest.raises(InvalidNameError):
                make("---")

    def test_POD_35_default_app_name(self) -> None:
        assert default_app_name("coreos.com/ace-validator-main") == "ace-validator-main"
        assert default_app_name("example.com/my_app.x") == "my-app-x"


class TestVersions:
    @pytest.mark.parametrize("kind", ["", "imagemanifest", "PodManifest", "Other", None, 1])
    def test_TYP_09_kind(self, kind: object) -> None:
        assert refused(image(acKind=kind)).path in ("$.acKind", "$")

    @pytest.mark.parametrize(
        "text", ["1", "1.2.3.4", "v1.2.3", "", " 0.8.11", "0.8.11\n", "0.8", "-1.2.3", 1.2, None]
    )
    def test_TYP_10_versions_refused(self, text: object) -> None:
        refused(image(acVersion=text))

    @pytest.mark.parametrize("text", ["1.2.3-alpha+git", "0.8.11", "0.0.0-a", "01.2.3", "1.2.3-"])
    def test_TYP_10_TYP_12_versions_read(self, text: str) -> None:
        version.parse(text)

    def test_TYP_11_zero(self) -> None:
        with pytest.raises(AppcError, match="zero"):
            version.parse("0.0.0")

    @pytest.mark.parametrize("text", ["01.2.3", "1.2.3-", "1.2.3-01", "1.2.3-a..b", "1.2.3+"])
    def test_TYP_12_strict_on_write(self, text: str) -> None:
        with pytest.raises(AppcError):
            version.parse(text, strict=True)

    @pytest.mark.parametrize(
        "text", ["0.1.0", "0.5.1", "0.6.1", "0.7.0", "0.8.10", "0.8.11+git", "0.8.11-dev"]
    )
    def test_TYP_13_TYP_15_TRAP_04_one_series(self, text: str) -> None:
        assert ImageManifest.parse(image(acVersion=text)).notes == ()

    def test_TYP_14_higher_major_is_refused_and_higher_minor_is_noted(self) -> None:
        assert "TYP-14" in refused(image(acVersion="1.0.0")).rule
        for text in ("0.8.12", "0.9.0", "0.10.0", "0.8.100-alpha"):
            assert [note.rule for note in ImageManifest.parse(image(acVersion=text)).notes] == ["TYP-14"]


class TestImageIDs:
    @pytest.mark.parametrize(
        "text",
        ["sha1-abc", "-abc", "sha512-", "sha512-a-b", "SHA512-" + DIGITS, DIGITS, "sha512-" + "g" * 128, "",
         "sha512-" + DIGITS + "\n", "sha512-" + DIGITS[:-1], "sha512-" + DIGITS + "0", "sha512" + DIGITS],
    )  # fmt: skip
    def test_TYP_16_refused(self, text: str) -> None:
        with pytest.raises(ImageIDError):
            ImageID.parse(text)

    def test_TYP_17_short(self) -> None:
        assert ImageID.parse("sha512-" + DIGITS).short() == "sha512-" + DIGITS[:32]
        assert len(ImageID.parse("sha512-" + DIGITS).short()) == 39

    def test_SIG_01_SIG_03_full_digest_lower_case(self) -> None:
        made = ImageID.from_digest(hashlib.sha512(b"x").digest())
        assert made == ImageID.parse("sha512-" + DIGITS.upper()) == "sha512-" + DIGITS
        assert made.is_full
        assert type(made) is ImageID

    def test_SIG_04_half_ids_and_prefixes(self) -> None:
        half = "sha512-" + DIGITS[:64]
        with pytest.raises(ImageIDError):
            ImageID.parse(half)
        assert not ImageID.parse(half, allow_half=True).is_full
        assert parse_prefix("sha512-" + DIGITS[:2].upper()) == "sha512-" + DIGITS[:2]
        for text in ("sha512-" + DIGITS[0], "sha512-", "sha512-xy", "sha512-" + DIGITS + "00"):
            with pytest.raises(ImageIDError):
                parse_prefix(text)
        assert ImageID.parse("sha512-" + DIGITS).matches(half)
        raw = pod(apps=[{"name": "a", "image": {"id": half}}])
        manifest = PodManifest.parse(raw)
        with pytest.raises(ManifestError, match="half"):
            manifest.check_reified()
        with pytest.raises(ManifestError):
            PodManifest.parse(raw, strict=True)


class TestValues:
    @pytest.mark.parametrize(
        "text",
        ["2015-11-17T12:00:00Z", "2015-11-17T12:00:00+01:30", "2015-11-17T12:00:00.123456789Z",
         "2016-02-29T00:00:00-00:00",
         "2000-02-29T00:00:00Z", "0001-01-01T00:00:00.1Z"],
    )  # fmt: skip
    def test_TYP_19_TRAP_36_timestamps(self, text: str) -> None:
        assert timestamp(text) == text

    @pytest.mark.parametrize(
        "text",
        ["garbage", "1447761600", "2015-11-17 12:00:00Z", "2015-11-17T12:00:00", "2015-11-17",
         "2015-W47-2T12:00:00Z",
         "2015-02-29T00:00:00Z", "1900-02-29T00:00:00Z", "2015-13-01T00:00:00Z", "2015-01-32T00:00:00Z",
         "2015-01-01T24:00:00Z", "2015-01-01T00:60:00Z", "2015-01-01T00:00:60Z", "2015-01-01T00:00:00.Z",
         "2015-01-01T00:00:00+1:00", "2015-01-01T00:00:00+24:00", "2015-01-01T00:00:00Z\n",
         "2015-01-00T00:00:00Z"],
    )  # fmt: skip
    def test_TYP_19_TRAP_36_no_timestamps(self, text: str) -> None:
        with pytest.raises(AppcError):
            timestamp(text)

    def test_TYP_20_urls(self) -> None:
        for good in ("http://a", "https://a.com/b?c#d", "HTTPS://a"):
            assert web_url(good) == good
        for bad in (
            "ftp://a",
            "unix:///a",
            "a.com",
            "//a",
            "https://",
            "https:///x",
            "http://a b",
            "http://a\n",
            "",
            "file:///x",
        ):
            with pytest.raises(AppcError):
                web_url(bad)

    def test_TYP_21_uuids(self) -> None:
        canonical = "0123abcd-4567-89ef-0123-456789abcdef"
        for text in (canonical, canonical.upper(), canonical.replace("-", "")):
            assert parse_uuid(text) == canonical
        made = new_uuid()
        assert parse_uuid(made) == made
        assert (made[14], made[19] in "89ab") == ("4", True)
        assert len(uuid_bytes(made)) == 16

    @pytest.mark.parametrize(
        "text",
        ["", "0" * 32, "00000000-0000-0000-0000-000000000000", "a" * 31, "a" * 33, "a" * 32 + "\n",
         "g" * 32,
         "0123abcd4567-89ef-0123-456789abcdef", "-" * 36, "0123abcd-4567-89ef-0123456789-abcdef",
         "{" + "a" * 32 + "}",
         "\u0661" * 32],
    )  # fmt: skip
    def test_TYP_22_no_uuids(self, text: str) -> None:
        with pytest.raises(UUIDError):
            parse_uuid(text)


class TestJson:
    @pytest.mark.parametrize(
        "raw",
        [b"", b"[]", b'"x"', b"1", b"null", b"{} {}", b"{}x", b'{"a":1,}', b"{'a':1}", b"{/**/}",
         b'{"a":NaN}',
         b'{"a":Infinity}', b'{"a":-Infinity}', b'{"a":01}', b'{"a":+1}', b'{"a":.5}', b'{"a":"\n"}',
         b'{"a":"\\x"}', b"{",
         b'{"a"}', b'{"a":tru}', b"{}\0"],
    )  # fmt: skip
    def test_TYP_23_not_one_json_object(self, raw: bytes) -> None:
        assert "TYP-23" in refused(raw).rule

    @pytest.mark.parametrize(
        "raw",
        ["\ufeff{}".encode(), "{}".encode("utf-16"), "{}".encode("utf-16-le"),
         "{}".encode("utf-32"), b'{"a":"\xe9"}',
         b'{"a":"\xed\xa0\x80"}', b'{"a":"\xc0\xaf"}'],
    )  # fmt: skip
    def test_TYP_24_utf8_only(self, raw: bytes) -> None:
        assert refused(raw).rule in ("TYP-24", "TYP-23")

    def test_TYP_24_TYP_29_keys_that_become_the_same(self) -> None:
        raw = image(x="Y").replace(b'"Y"', b'{"\\ud800":1,"\\udc00":2,"\\ud83d\\ude00":3}')
        manifest = ImageManifest.parse(raw)
        assert manifest.data["x"] == {"\ufffd": 2, "\U0001f600": 3}
        assert {note.rule for note in manifest.notes} == {"TYP-24", "TYP-29"}
        with pytest.raises(ManifestError):
            ImageManifest.parse(raw, strict=True)

    def test_TYP_24_half_a_surrogate_pair_never_becomes_a_byte(self) -> None:
        raw = image(
            app={"user": "0", "group": "0", "environment": [{"name": "A", "value": "x\udc80y\U0001f600"}]}
        )
        manifest = ImageManifest.parse(raw)
        assert manifest.app is not None
        assert manifest.app.environment == (("A", "x\ufffdy\U0001f600"),)
        assert manifest.notes[0].path == "$.app.environment[0].value"
        manifest.dump().decode()

    def test_TYP_25_unknown_keys_are_ignored_and_kept(self) -> None:
        raw = image(
            zzz={"a": [1, {"b": None}]},
            app={
                "user": "0",
                "group": "0",
                "x": 1,
                "mountPoints": [{"name": "a", "path": "/", "recursive": True}],
            },
        )
        assert json.loads(ImageManifest.parse(raw).dump()) == json.loads(raw)

    def test_TYP_26_keys_in_another_case(self) -> None:
        raw = image(App={"User": "1", "GROUP": "2", "Exec": ["/x"], "supplementaryGids": [3]})
        manifest = ImageManifest.parse(raw)
        assert manifest.app is not None
        assert (manifest.app.user, manifest.app.group, manifest.app.exec) == ("1", "2", ("/x",))
        assert manifest.app.supplementary_gids == (3,)
        assert {note.rule for note in manifest.notes} == {"TYP-26"}
        assert json.loads(manifest.dump())["app"] == {
            "user": "1",
            "group": "2",
            "exec": ["/x"],
            "supplementaryGIDs": [3],
        }
        with pytest.raises(ManifestError):
            ImageManifest.parse(raw, strict=True)

    def test_TYP_26_exact_spelling_first(self) -> None:
        app = {"USER": "wrong", "user": "right", "group": "0", "User": "wrong"}
        manifest = ImageManifest.parse(image(app=app))
        assert manifest.app is not None
        assert manifest.app.user == "right"
        assert list(json.loads(manifest.dump())["app"]) == ["user", "group"]
        odd = ImageManifest.parse(image(app={"u\u017fer": "1", "group": "0"}))  # a long s folds to an s
        assert odd.app is not None
        assert odd.app.user == "1"
        assert b"wrong" in manifest.raw

    def test_TYP_27_null_is_absent_where_optional(self) -> None:
        app = {"user": "0", "group": "0"} | dict.fromkeys(
            ["exec", "eventHandlers", "environment", "mountPoints", "ports", "isolators",
             "supplementaryGIDs",
             "userAnnotations", "userLabels", "workingDirectory"]
        )  # fmt: skip
        more = dict.fromkeys(["labels", "dependencies", "pathWhitelist", "annotations"])
        assert ImageManifest.parse(image(app=app, **more)).labels == {}
        assert ImageManifest.parse(image(app=None)).app is None
        empty = dict.fromkeys(
            ["volumes", "isolators", "annotations", "ports", "userAnnotations", "userLabels"]
        )
        assert PodManifest.parse(pod(**empty)).volumes == ()
        dependency = {"imageName": "a", "imageID": None, "labels": None, "size": None}
        assert ImageManifest.parse(image(dependencies=[dependency])).dependencies[0].image_id is None

    def test_TYP_27_null_is_an_error_where_required(self) -> None:
        assert refused(image(name=None)).rule == "MAN-04"
        assert "null" in str(refused(image(name=None)))

    @pytest.mark.parametrize("number", ["80.0", "8e1", '"80"', "true", "[80]", "{}"])
    def test_TYP_28_integers(self, number: str) -> None:
        port = f'{{"name":"a","protocol":"tcp","port":{number}}}'
        raw = image(app={"user": "0", "group": "0", "ports": ["X"]}).replace(b'"X"', port.encode())
        error = refused(raw)
        assert error.path == "$.app.ports[0].port"
        assert "TYP-28" in error.rule

    @pytest.mark.parametrize("flag", ["true", 1, 0, [], "yes"])
    def test_TYP_28_booleans(self, flag: object) -> None:
        mount = {"name": "a", "path": "/", "readOnly": flag}
        assert "TYP-28" in refused(image(app={"user": "0", "group": "0", "mountPoints": [mount]})).rule

    def test_TYP_29_repeated_keys(self) -> None:
        raw = image(x={}).replace(
            b'"x": {}', b'"labels": [{"name": "a", "value": "1", "value": "2"}], "labels": 1, "labels": []'
        )
        manifest = ImageManifest.parse(raw)
        assert manifest.labels == {}
        assert [(note.path, note.rule) for note in manifest.notes] == [("$.labels", "TYP-29")]
        assert manifest.dump().count(b'"labels"') == 1
        deep = image(annotations=[{"name": "a", "X": ""}]).replace(b'"X": ""', b'"value": "1", "value": "2"')
        nested = ImageManifest.parse(deep)
        assert nested.annotations == {"a": "2"}
        assert nested.notes[0].path == "$.annotations[0].value"
        with pytest.raises(ManifestError):
            ImageManifest.parse(deep, strict=True)
        # What a repeated key replaced is gone, and nothing that is there now is taken for it.
        gone = image(x=1).replace(
            b'"x": 1', b'"x":{"a":[' + b'{"y":1,"y":2},' * 999 + b'1],"a":0},"z":[' + b"{}," * 999 + b"1]"
        )
        assert [note.path for note in ImageManifest.parse(gone).notes] == ["$.x.a"]

    def test_TYP_30_line_and_column(self) -> None:
        error = refused(b'{\n  "acKind": "ImageManifest",\n  "name": \xc3\xa9\n}')
        assert (error.line, error.column) == (3, 11)
        assert "line 3 column 11" in str(error)
        error = refused(b'{\n "\xc3\xa9\xff"}')
        assert (error.line, error.column) == (2, 4)
        assert "0xff" in str(error)

    @pytest.mark.parametrize(
        ("raw", "line", "column"),
        [
            (b"", 1, 1),
            (b"{", 1, 2),
            (b'{"a":1,}', 1, 8),
            (b"{}\n{}", 2, 1),
            (b'{"NaN":\n NaN}', 2, 2),
            (b'{"a":[1,-Infinity]}', 1, 9),
            (b'{"a":"\xc3\xa9",\n\n"b" 1}', 3, 5),
            (b'{"a\n":1}', 1, 4),
            (b"\xef\xbb\xbf{}", 1, 1),
            ("{}".encode("utf-16-le"), 1, 2),
            (b'{"a":"\0"}', 1, 7),
        ],
    )
    def test_TYP_30_every_syntax_error_has_a_place(self, raw: bytes, line: int, column: int) -> None:
        error = refused(raw)
        assert (error.line, error.column) == (line, column)
        assert f"line {line} column {column} [TYP-2" in str(error)

    def test_TYP_31_last_resort(self) -> None:
        broken = image(name="Not Valid", acVersion="x", labels=[{"name": "A", "value": "b"}, 5])
        found = lastditch.image(broken)
        assert (found.ac_version, found.name, found.labels[0]) == ("x", "Not Valid", ("A", "b"))
        pods = lastditch.pod(
            pod(apps=[{"name": "X Y", "image": {"id": "sha1-1", "name": "B", "labels": 7}}, None])
        )
        assert pods.apps[0] == ("X Y", lastditch.RawImage("", "B", "sha1-1", ()))
        assert lastditch.image(image(name=7, labels={})).name == ""
        other = image(x=1).replace(b'"name"', b'"Name"')
        assert lastditch.image(other).name == "example.com/app"
        for raw in (b"[]", b"{}", pod(), image(acKind="imagemanifest"), image()[:-1]):
            with pytest.raises(ManifestError):
                lastditch.image(raw)
        with pytest.raises(ManifestError, match="TYP-31"):
            lastditch.pod(image())


class TestPlatforms:
    @pytest.mark.parametrize("machine", ["x86_64", "aarch64", "i686", "armv7l", "s390x", "ppc64le"])
    def test_TRAP_35_uname_is_mapped_into_the_table(self, machine: str) -> None:
        arch.check_labels(arch.host_labels(machine))

    def test_TRAP_35_unknown_machines_are_refused(self) -> None:
        for machine in ("riscv64", "", "amd65"):
            with pytest.raises(arch.PlatformError):
                arch.host_labels(machine)

    def test_MAN_15_names_of_others(self) -> None:
        table = {
            ("linux", "amd64", ""): "amd64", ("linux", "386", ""): "i386", ("linux", "arm64",
            ""): "aarch64",
            ("linux", "arm64", "v8"): "aarch64", ("linux", "arm", ""): "armv6l", ("linux", "arm",
            "6"): "armv6l",
            ("linux", "arm", "v7"): "armv7l", ("linux", "ppc64", ""): "ppc64", ("linux", "ppc64le",
            ""): "ppc64le",
            ("linux", "s390x", ""): "s390x", ("freebsd", "amd64", ""): "amd64", ("freebsd", "386",
            ""): "i386",
            ("freebsd", "arm", "5"): "arm", ("darwin", "amd64", ""): "x86_64", ("darwin", "386",
            ""): "i386",
        }  # fmt: skip
        for names, expected in table.items():
            labels = arch.from_go(*names)
            assert labels["arch"] == expected
            arch.check_labels(labels)
        for names in (("linux", "riscv64", ""), ("plan9", "amd64", ""), ("linux", "arm", "5")):
            with pytest.raises(arch.PlatformError):
                arch.from_go(*names)

    def test_EXE_33_absent_labels_run_anywhere(self) -> None:
        host = {"os": "linux", "arch": "amd64"}
        for labels in (
            {},
            {"os": "linux"},
            {"os": "linux", "arch": "amd64"},
            {"os": "linux", "arch": "i386"},
            {"arch": "s390x"},
        ):
            assert arch.fits_host(labels, host)
        for labels in ({"os": "freebsd"}, {"os": "linux", "arch": "aarch64"}):
            assert not arch.fits_host(labels, host)


RUNTIME = str(Path(__file__).resolve().parents[2] / "runtime")


def test_names_and_uuid_stay_light() -> None:
    # They are used on the launch path, where every import is paid for at each start of a pod.
    code = (
        "import sys; before = set(sys.modules); import gantry.appc.names, gantry.appc.uuid; "
        "print(*(set(sys.modules) - before))"
    )
    out = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {RUNTIME!r}); {code}"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert not {"typing", "re", "dataclasses", "enum", "json", "uuid", "collections"} & set(out.split())
    assert "gantry.appc.names" in out
