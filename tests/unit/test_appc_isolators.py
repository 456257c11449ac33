"""Isolators (ISO-03 ... ISO-58)."""

from __future__ import annotations

import json

import pytest

from gantry.appc import isolators as iso
from gantry.appc.errors import ManifestError
from gantry.appc.isolators import IsolatorList
from gantry.appc.reading import Obj, Reading


def read(*items: object, scope: iso.Scope = "app", reading: Reading | None = None) -> IsolatorList:
    data = json.loads(json.dumps({"isolators": list(items)}))
    return iso.read_list(Obj(data, "$", reading or Reading()), "isolators", scope)


def item(name: str, value: object, **more: object) -> dict[str, object]:
    return {"name": name, "value": value} | more


def refused(name: str, value: object) -> ManifestError:
    with pytest.raises(ManifestError) as error:
        read(item(name, value))
    assert error.value.path.startswith("$.isolators[0]")
    return error.value


class TestLists:
    def test_ISO_03_TRAP_17_unknown_is_kept_and_reported(self) -> None:
        reading = Reading()
        strange = item("acme.com/odd", {"deep": [1, None]}, extra=1)
        found = read(strange, item("resource/memory", {"limit": "1"}), reading=reading)
        assert found.unknown() == ["acme.com/odd"]
        assert found[0].data == strange
        assert [note.rule for note in reading.notes] == ["ISO-03"]

    @pytest.mark.parametrize(
        "entry", [{"name": "a/b"}, {"value": 1}, {"name": "A", "value": 1}, {"name": 1, "value": 1}, 5]
    )
    def test_ISO_06_TYP_18_name_and_value_are_required(self, entry: object) -> None:
        with pytest.raises(ManifestError):
            read(entry)

    def test_TYP_18_null_is_a_value(self) -> None:
        assert read(item("a/b", None))[0].value is None

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            (iso.SECCOMP_REMOVE, {"set": ["a"]}),
            (iso.SECCOMP_RETAIN, {"set": ["a"]}),
            (iso.SELINUX, {"user": "u", "role": "r", "type": "t", "level": "s0"}),
            (iso.APPARMOR, {"profile": "p"}),
            (iso.OOM_SCORE, 0),
            (iso.CPU_SHARES, 2),
        ],
    )
    @pytest.mark.parametrize("scope", ["app", "pod"])
    def test_ISO_07_ISO_25_ISO_28_once_only(self, name: str, value: object, scope: iso.Scope) -> None:
        with pytest.raises(ManifestError, match="only once"):
            read(item(name, value), item(name, value), scope=scope)

    def test_ISO_07_repeated_resource_the_last_counts(self) -> None:
        found = read(item(iso.MEMORY, {"limit": "1"}), item(iso.MEMORY, {"limit": "2"}))
        limit = found.resource(iso.MEMORY)
        assert limit is not None
        assert limit.limit is not None
        assert limit.limit.value == 2

    def test_ISO_08_scopes(self) -> None:
        reading = Reading()
        assert read(item(iso.SYSCTL, {}), reading=reading).problems()
        assert read(item(iso.CAPS_RETAIN, {"set": ["CAP_KILL"]}), scope="pod", reading=reading).problems()
        assert len(reading.notes) == 2
        assert not read(item(iso.SYSCTL, {}), scope="pod").problems()

    def test_ISO_22_ISO_33_rivals(self) -> None:
        for one, other in ((iso.SECCOMP_REMOVE, iso.SECCOMP_RETAIN), (iso.CAPS_REMOVE, iso.CAPS_RETAIN)):
            with pytest.raises(ManifestError, match="together"):
                read(item(one, {"set": ["x"]}), item(other, {"set": ["x"]}))

    def test_ISO_58_overriding(self) -> None:
        found = read(
            item(iso.CAPS_REMOVE, {"set": ["CAP_KILL"]}),
            item(iso.MEMORY, {"limit": "1"}),
            item(iso.CAPS_REMOVE, {"set": ["CAP_CHOWN"]}),
            item("a/b", 1),
        )
        new = found.override(iso.make(iso.CAPS_RETAIN, {"set": ["CAP_SYS_ADMIN"]}))
        assert [each.name for each in new] == [iso.MEMORY, "a/b", iso.CAPS_RETAIN]
        assert new.bounding_set() == {"CAP_SYS_ADMIN"}
        assert len(found) == 4


class TestSeccomp:
    @pytest.mark.parametrize("name", [iso.SECCOMP_REMOVE, iso.SECCOMP_RETAIN])
    @pytest.mark.parametrize(
        "value", [{}, {"set": []}, {"set": None}, {"set": "a"}, {"set": [1]}, {"set": [""]}, None, []]
    )
    def test_ISO_09_set_is_needed(self, name: str, value: object) -> None:
        refused(name, value)

    def test_ISO_10_ISO_14_ISO_18_wildcards(self) -> None:
        found = read(item(iso.SECCOMP_REMOVE, {"set": ["read", "@appc.io/empty", "@acme/x"]})).seccomp()
        assert found is not None
        assert (found.syscalls, found.wildcards, found.masked) == (
            ("read",),
            ("@appc.io/empty", "@acme/x"),
            True,
        )
        retain = read(item(iso.SECCOMP_RETAIN, {"set": ["@appc.io/all"]})).seccomp()
        assert retain is not None
        assert retain.masked
        assert retain.retain

    @pytest.mark.parametrize(
        ("name", "entry"),
        [
            (iso.SECCOMP_REMOVE, "@appc.io/all"),
            (iso.SECCOMP_RETAIN, "@appc.io/empty"),
            (iso.SECCOMP_RETAIN, "@appc.io/ponies"),
            (iso.SECCOMP_RETAIN, "@noslash"),
            (iso.SECCOMP_RETAIN, "@/x"),
        ],
    )
    def test_TRAP_31_wildcards_out_of_place_are_reported_and_an_error_at_run(
        self, name: str, entry: str
    ) -> None:
        reading = Reading()
        found = read(item(name, {"set": ["read", entry]}), reading=reading)
        assert len(found.problems()) == len(reading.notes) == 1

    @pytest.mark.parametrize(
        ("errno", "kept"),
        [(None, None), ("", None), ("EPERM", "EPERM"), ("EACCESS", "EACCESS"), ("E2BIG", "E2BIG")],
    )
    def test_ISO_19_ISO_20_errno(self, errno: str | None, kept: str | None) -> None:
        found = read(item(iso.SECCOMP_RETAIN, {"set": ["a"], "errno": errno})).seccomp()
        assert found is not None
        assert found.errno == kept

    @pytest.mark.parametrize("errno", ["eperm", "PERM", "E", "E PERM", "E_X", 1, "EÉ"])
    def test_ISO_20_other_errnos(self, errno: object) -> None:
        refused(iso.SECCOMP_RETAIN, {"set": ["a"], "errno": errno})


class TestCapabilities:
    def test_ISO_30_defaults(self) -> None:
        assert len(IsolatorList().bounding_set()) == 14

    def test_ISO_31_remove(self) -> None:
        found = read(item(iso.CAPS_REMOVE, {"set": ["CAP_KILL", "CAP_SYS_ADMIN"]})).bounding_set()
        assert found == iso.DEFAULT_CAPABILITIES - {"CAP_KILL"}

    def test_ISO_32_retain_exceeds_the_defaults(self) -> None:
        assert read(item(iso.CAPS_RETAIN, {"set": ["CAP_SYS_ADMIN"]})).bounding_set() == {"CAP_SYS_ADMIN"}

    def test_ISO_34_names_are_not_validated(self) -> None:
        assert read(item(iso.CAPS_RETAIN, {"set": ["CAP_PONIES"]})).bounding_set() == {"CAP_PONIES"}
        refused(iso.CAPS_RETAIN, {"set": []})


class TestOthers:
    @pytest.mark.parametrize("level", ["s0", "s0-s0:c0"])
    def test_ISO_24_selinux(self, level: str) -> None:
        value = {"user": "u", "role": "r", "type": "t", "level": level}
        found = read(item(iso.SELINUX, value)).get(iso.SELINUX)
        assert str(found) == f"u:r:t:{level}"
        for key in value:
            refused(iso.SELINUX, value | {key: ""})
            refused(iso.SELINUX, {k: v for k, v in value.items() if k != key})
        for key in ("user", "role", "type"):
            refused(iso.SELINUX, value | {key: "a:b"})

    def test_ISO_27_apparmor(self) -> None:
        found = read(item(iso.APPARMOR, {"profile": "My Profile"})).get(iso.APPARMOR, iso.AppArmorProfile)
        assert found is not None
        assert found.profile == "My Profile"
        for value in ({}, {"profile": ""}, {"profile": 1}, "x"):
            refused(iso.APPARMOR, value)

    def test_ISO_35_no_new_privileges(self) -> None:
        assert read(item(iso.NO_NEW_PRIVILEGES, True)).no_new_privileges()
        assert not read(item(iso.NO_NEW_PRIVILEGES, False)).no_new_privileges()
        assert not IsolatorList().no_new_privileges()
        for value in (123, "foo", {}, None, "true", 1):
            refused(iso.NO_NEW_PRIVILEGES, value)

    @pytest.mark.parametrize(
        ("name", "low", "high"), [(iso.OOM_SCORE, -1000, 1000), (iso.CPU_SHARES, 2, 262144)]
    )
    def test_ISO_36_ISO_37_integers(self, name: str, low: int, high: int) -> None:
        for value in (low, high):
            read(item(name, value))
        for bad in (low - 1, high + 1, "5", 5.0, True, None):
            refused(name, bad)

    def test_ISO_55_sysctl(self) -> None:
        found = read(item(iso.SYSCTL, {"net.x": "1"}), scope="pod").get(iso.SYSCTL, iso.Sysctl)
        assert found is not None
        assert found.values == {"net.x": "1"}
        read(item(iso.SYSCTL, {}), scope="pod")
        for value in ({"a": 1}, None, [], "x"):
            refused(iso.SYSCTL, value)
        with pytest.raises(ManifestError, match="only once"):
            read(item(iso.SYSCTL, {}), item(iso.SYSCTL, {}), scope="pod")


class TestResources:
    def test_ISO_39_request_defaults_to_limit(self) -> None:
        found = read(item(iso.CPU, {"limit": "250m"})).resource(iso.CPU)
        assert found is not None
        assert found.request == found.limit
        assert found.request is not None
        assert found.request.milli == 250

    @pytest.mark.parametrize("name", [iso.BLOCK_BANDWIDTH, iso.BLOCK_IOPS, iso.NETWORK_BANDWIDTH])
    def test_ISO_48_ISO_49_ISO_52_per_device(self, name: str) -> None:
        found = read(item(name, {"default": True, "limit": "2M"})).resource(name)
        assert found is not None
        assert (found.request, found.default) == (None, True)
        for value in (
            {"limit": "1"},
            {"default": False, "limit": "1"},
            {"default": True, "limit": "1", "request": "1"},
        ):
            refused(name, value)

    @pytest.mark.parametrize("name", [iso.CPU, iso.MEMORY])
    def test_ISO_50_ISO_51_no_default(self, name: str) -> None:
        refused(name, {"default": True, "limit": "1"})
        read(item(name, {"default": False, "limit": "1"}))

    def test_ISO_54_limit_may_be_missing_or_below_request(self) -> None:
        found = read(item(iso.MEMORY, {"request": "1"})).resource(iso.MEMORY)
        assert found is not None
        assert found.limit is None
        read(item(iso.MEMORY, {"request": "2", "limit": "1"}))
        read(item(iso.MEMORY, {"limit": None}))

    def test_TRAP_29_negative_limits_are_refused(self) -> None:
        assert refused(iso.MEMORY, {"limit": "-1"}).rule == "TRAP-29"
        assert refused(iso.MEMORY, {"limit": -1}).path == "$.isolators[0].value.limit"

    @pytest.mark.parametrize("limit", [True, [], {}, "x", ""])
    def test_ISO_46_malformed(self, limit: object) -> None:
        refused(iso.MEMORY, {"limit": limit})
