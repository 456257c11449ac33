"""Filters and configurations as they are compiled; what they do is in tests/conformance/test_iso.py."""

from __future__ import annotations

import json

import pytest

from gantry.appc.isolators import DEFAULT_CAPABILITIES, IsolatorError, IsolatorList, Seccomp, make
from gantry.linux.cgroups import Layout
from gantry.stage1 import syscall_sets
from gantry.stage1.isolators import CompiledPod, HostFeatures, compile_app, compile_pod
from gantry.stage1.seccomp import compile_filter, is_known
from gantry.stage1.spec import Bind, Process, Root, render


def seccomp(name: str, **value: object) -> Seccomp:
    item = make(f"os/linux/seccomp-{name}-set", value)
    assert isinstance(item, Seccomp)
    return item


def test_every_name_is_a_system_call() -> None:
    groups = [syscall_sets.ALLOWED, syscall_sets.DENIED, syscall_sets.LIFE_CYCLE]
    groups += syscall_sets.WITH_CAPABILITY.values()
    from gantry.stage1.seccomp import _library  # noqa: PLC0415

    library = _library()
    if library is None:
        pytest.skip("no libseccomp here")
    newer = {"getxattrat", "setxattrat", "listxattrat", "removexattrat", "mseal", "map_shadow_stack"}
    newer |= {"cachestat", "fchmodat2", "futex_requeue", "futex_wait", "futex_wake"}
    names = set().union(*groups)
    unknown = {name for name in names if library.seccomp_syscall_resolve_name(name.encode()) == -1}
    assert unknown <= newer


def test_allowed_and_denied_do_not_meet() -> None:
    assert not syscall_sets.ALLOWED & syscall_sets.DENIED
    for calls in syscall_sets.WITH_CAPABILITY.values():
        assert not calls & syscall_sets.ALLOWED


def test_the_default_lets_nobody_make_namespaces() -> None:
    compiled = compile_filter(None, DEFAULT_CAPABILITIES)
    assert compiled
    assert compiled["defaultAction"] == "SCMP_ACT_ERRNO"
    allowed = {
        name
        for rule in compiled["syscalls"]
        if rule["action"] == "SCMP_ACT_ALLOW" and "args" not in rule
        for name in rule["names"]
    }
    assert (
        not {"clone", "clone3", "unshare", "mount", "bpf", "keyctl", "io_uring_setup", "kexec_load"} & allowed
    )
    assert "chroot" in allowed  # with CAP_SYS_CHROOT, which is a default
    assert {"mount", "unshare", "clone"} <= {
        name for rule in (compile_filter(None, ["CAP_SYS_ADMIN"]) or {})["syscalls"] for name in rule["names"]
    }


def test_only_images_for_this_architecture_lose_the_32_bit_one() -> None:
    both, one = compile_filter(None, []), compile_filter(None, [], native=True)
    assert both
    assert one
    assert one["architectures"] == both["architectures"][:1]


def test_ISO_14_18_masking() -> None:
    assert compile_filter(seccomp("retain", set=["@appc.io/all", "read"]), []) is None
    masked = compile_filter(seccomp("remove", set=["@appc.io/empty", "read"]), [])
    assert masked
    assert "read" not in {name for rule in masked["syscalls"] for name in rule["names"]}


def test_ISO_19_20_actions() -> None:
    killing = compile_filter(seccomp("retain", set=["read"]), [])
    failing = compile_filter(seccomp("retain", set=["read"], errno="ENOTSUP"), [])
    assert killing
    assert killing["defaultAction"] == "SCMP_ACT_KILL_PROCESS"
    assert failing
    assert (failing["defaultAction"], failing["defaultErrnoRet"]) == ("SCMP_ACT_ERRNO", 95)
    with pytest.raises(IsolatorError, match="EACCESS"):
        compile_filter(seccomp("remove", set=["read"], errno="EACCESS"), [])


def test_unknown_calls_are_found_out() -> None:
    assert is_known("read")
    if is_known("frobnicate"):
        pytest.skip("no libseccomp here")
    with pytest.raises(IsolatorError, match='there is no system call "frobnicate"'):
        compile_filter(seccomp("remove", set=["frobnicate"]), [])


class Bare(HostFeatures):
    """A host that can do nothing, or what is said."""

    def __init__(
        self,
        *,
        controllers: set[str] | None = None,
        swap: bool = False,
        profiles: frozenset[str] | None = None,
    ):
        super().__init__(Layout(None, {}))
        self.controllers, self.swap, self.apparmor, self.selinux = controllers or set(), swap, profiles, False


def verdicts(host: HostFeatures, **isolators: object) -> dict[str, tuple[str, str]]:
    items = IsolatorList([make(name, value) for name, value in isolators.items()])
    return {v.name: (v.status, v.detail) for v in compile_app(items, "app", CompiledPod(), host).verdicts}


def test_ISO_04_case_47_what_a_host_cannot_do_is_said() -> None:
    wanted = {"resource/memory": {"limit": "16M"}, "resource/cpu": {"limit": "1"}, "os/linux/cpu-shares": 100}
    assert {status for status, _ in verdicts(Bare(), **wanted).values()} == {"ignored"}
    able = verdicts(Bare(controllers={"memory", "cpu"}), **wanted)
    assert able["resource/memory"] == ("altered", "swap is not limited: this host does not account it")
    assert able["resource/cpu"][0] == "applied"
    assert verdicts(Bare(controllers={"memory"}, swap=True), **wanted)["resource/memory"][0] == "applied"
    for name in ("resource/block-bandwidth", "resource/block-iops", "resource/network-bandwidth"):
        assert verdicts(Bare(), **{name: {"default": True, "limit": "1M"}})[name] == (
            "ignored",
            "not enforced by this version",
        )


def test_ISO_29_a_profile_that_is_not_loaded_refuses() -> None:
    item = IsolatorList([make("os/linux/apparmor-profile", {"profile": "web"})])
    assert (
        compile_app(item, "app", CompiledPod(), Bare(profiles=frozenset({"web"}))).apparmor_profile == "web"
    )
    with pytest.raises(IsolatorError, match="is not loaded on this host"):
        compile_app(item, "app", CompiledPod(), Bare(profiles=frozenset()))


def test_ISO_07_the_last_of_repeated_ones_counts() -> None:
    items = IsolatorList([make("resource/cpu", {"limit": "1"}), make("resource/cpu", {"limit": "2"})])
    compiled = compile_app(items, "app", CompiledPod(), Bare(controllers={"cpu"}))
    assert compiled.resources["cpu"]["quota"] == 200000
    assert [v.status for v in compiled.verdicts] == ["ignored", "applied"]


def test_ISO_28_the_apps_profile_overrides_the_pods() -> None:
    host = Bare(profiles=frozenset({"pod", "app"}))
    pod = compile_pod(
        IsolatorList([make("os/linux/apparmor-profile", {"profile": "pod"})], "pod"), host, host_network=False
    )
    assert compile_app(IsolatorList(), "a", pod, host).apparmor_profile == "pod"
    own = IsolatorList([make("os/linux/apparmor-profile", {"profile": "app"})])
    assert compile_app(own, "a", pod, host).apparmor_profile == "app"


def test_places_to_fill_in_cannot_be_forged() -> None:
    compiled = compile_app(IsolatorList(), "a", CompiledPod(), Bare())
    process = Process(["/x", "MARK:pause"], [("A", "MARK:url")], "/", 0, 0)
    root = Root("/r", "/shm", "/closed", False, [Bind("/a", "/b", read_only=True)])
    text = render(process, root, compiled, mark="MARK", host_network=True)
    config = json.loads(text)
    assert config["process"]["env"] == ["MARK:url", "A=MARK:url"]
    assert text.count('"MARK:url",') == 1  # the variable's value has no quote before it
    assert {space["type"] for space in config["linux"]["namespaces"]} == {
        "pid",
        "ipc",
        "uts",
        "mount",
        "cgroup",
    }
    [volume] = [mount for mount in config["mounts"] if mount["destination"] == "/b"]
    assert volume["options"] == ["rbind", "rprivate", "rro"]
