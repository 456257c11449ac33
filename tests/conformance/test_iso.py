"""App Container specification, section 10: isolators as applied. Each name cites its requirement."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.pods import Kit, make_kit

from gantry.appc.isolators import Isolator, make
from gantry.errors import GantryError
from gantry.pods import get, remove

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

RETAIN, REMOVE = "os/linux/capabilities-retain-set", "os/linux/capabilities-remove-set"
SYS_RETAIN, SYS_REMOVE = "os/linux/seccomp-retain-set", "os/linux/seccomp-remove-set"
DEFAULT = 0x00000000A80425FB  # the fourteen of ISO-30


@pytest.fixture
def kit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kit]:
    yield from make_kit(tmp_path, monkeypatch)


def bounding(kit: Kit, *isolators: Isolator) -> int:
    return int(kit.run_shell("grep CapBnd /proc/self/status | cut -f2", isolators=isolators).stdout, 16)


def status(kit: Kit, script: str, *isolators: Isolator) -> int:
    return kit.run_shell(script, isolators=isolators).returncode


def test_ISO_30_the_default_capabilities(kit: Kit) -> None:
    assert bounding(kit) == DEFAULT


def test_ISO_31_remove_set(kit: Kit) -> None:
    assert bounding(kit, make(REMOVE, {"set": ["CAP_NET_RAW", "CAP_SYS_ADMIN"]})) == DEFAULT & ~(1 << 13)


def test_ISO_32_retain_set_exceeds_the_defaults(kit: Kit) -> None:
    assert bounding(kit, make(RETAIN, {"set": ["CAP_NET_ADMIN"]})) == 1 << 12


def test_ISO_34_an_unknown_capability_is_an_error_at_run(kit: Kit) -> None:
    with pytest.raises(GantryError, match='there is no capability "CAP_PONIES"'):
        bounding(kit, make(REMOVE, {"set": ["CAP_PONIES"]}))


def test_TRAP_30_a_non_root_user_holds_none(kit: Kit) -> None:
    done = kit.run_shell("grep -E 'Cap(Eff|Bnd)' /proc/self/status | cut -f2", user="web", group="web")
    held, bound = (int(value, 16) for value in done.stdout.split())
    assert held == 0 or bound == DEFAULT
    assert (
        int(kit.run_shell("grep CapEff /proc/self/status | cut -f2", user="web", group="web").stdout, 16) == 0
    )


@pytest.mark.parametrize("value", [True, False])
def test_ISO_35_no_new_privileges(kit: Kit, value: bool) -> None:
    isolator = make("os/linux/no-new-privileges", value)
    assert kit.run_shell("grep NoNewPrivs /proc/self/status", isolators=[isolator]).stdout.split()[1] == str(
        int(value)
    )


def test_ISO_36_oom_score(kit: Kit) -> None:
    isolator = make("os/linux/oom-score-adj", 321)
    assert kit.run_shell("cat /proc/self/oom_score_adj", isolators=[isolator]).stdout == "321\n"


def test_ISO_11_19_a_removed_call_ends_the_app(kit: Kit) -> None:
    assert status(kit, "exec mkdir /x", make(SYS_REMOVE, {"set": ["mkdir"]})) == 128 + 31
    assert status(kit, "exec mkdir /x") == 0


def test_ISO_20_a_removed_call_fails_with_errno(kit: Kit) -> None:
    done = kit.run_shell("mkdir /x", isolators=[make(SYS_REMOVE, {"set": ["mkdir"], "errno": "EXDEV"})])
    assert "Invalid cross-device link" in done.stderr or "ross-device" in done.stderr


def test_ISO_20_an_unknown_errno_is_caught_when_applied(kit: Kit) -> None:
    with pytest.raises(GantryError, match='no error called "EACCESS"'):
        status(kit, "true", make(SYS_REMOVE, {"set": ["mkdir"], "errno": "EACCESS"}))


# POSIX.1-2001 and C99, as far as Linux has them.
POSIX_ERRORS = """
E2BIG EACCES EADDRINUSE EADDRNOTAVAIL EAFNOSUPPORT EAGAIN EALREADY EBADF EBADMSG EBUSY ECANCELED
ECHILD ECONNABORTED ECONNREFUSED ECONNRESET EDEADLK EDESTADDRREQ EDOM EDQUOT EEXIST EFAULT EFBIG
EHOSTUNREACH EIDRM EILSEQ EINPROGRESS EINTR EINVAL EIO EISCONN EISDIR ELOOP EMFILE EMLINK EMSGSIZE
EMULTIHOP ENAMETOOLONG ENETDOWN ENETRESET ENETUNREACH ENFILE ENOBUFS ENODATA ENODEV ENOENT ENOEXEC
ENOLCK ENOLINK ENOMEM ENOMSG ENOPROTOOPT ENOSPC ENOSR ENOSTR ENOSYS ENOTCONN ENOTDIR ENOTEMPTY
ENOTSOCK ENOTSUP ENOTTY ENXIO EOPNOTSUPP EOVERFLOW EPERM EPIPE EPROTO EPROTONOSUPPORT EPROTOTYPE
ERANGE EROFS ESPIPE ESRCH ESTALE ETIME ETIMEDOUT ETXTBSY EWOULDBLOCK EXDEV
""".split()  # noqa: SIM905


def test_ISO_21_every_error_of_posix_is_known_and_linuxs_own(kit: Kit) -> None:
    for name in [*POSIX_ERRORS, "EUCLEAN", "EHWPOISON"]:
        uuid = kit.prepare(
            kit.shell("true", name="main", isolators=[make(SYS_REMOVE, {"set": ["mkdir"], "errno": name})])
        )
        filters = kit.config(uuid, "main")["linux"]["seccomp"]["syscalls"]
        assert any(rule.get("errnoRet") == getattr(errno, name, 133) for rule in filters), name
        remove(kit.paths, uuid)
    call = make(SYS_REMOVE, {"set": ["mkdir"], "errno": "EDQUOT"})
    assert "Disk quota exceeded" in kit.run_shell("mkdir /x", isolators=[call]).stderr


def test_ISO_05_a_strict_pod_is_refused_unless_all_is_enforced(kit: Kit) -> None:
    ignored = make("example.com/odd", {"x": 1})
    with pytest.raises(GantryError, match="isolator example\\.com/odd is ignored"):
        kit.prepare(kit.shell("true", isolators=[ignored]), strict=True)
    assert kit.uuids() == []
    kit.prepare(kit.shell("true", isolators=[ignored]))
    kit.prepare(kit.shell("true", isolators=[make("os/linux/no-new-privileges", True)]), strict=True)


def test_ISO_12_13_our_own_blacklist_stays_below(kit: Kit) -> None:
    assert status(kit, "unshare -m true", make(SYS_REMOVE, {"set": ["mkdir"]})) != 0


def test_ISO_14_empty_masks_the_others(kit: Kit) -> None:
    assert status(kit, "mkdir /x", make(SYS_REMOVE, {"set": ["@appc.io/empty", "mkdir"]})) == 0


def test_ISO_15_16_17_retain_set_with_the_calls_a_shell_needs(kit: Kit) -> None:
    needed = [
        "access", "fork", "vfork", "wait4", "dup", "fcntl", "uname", "getpgrp", "getpgid", "getppid",
        "rt_sigsuspend", "kill", "poll", "open", "lstat", "readlink", "pread64", "getuid", "setpgid",
        "sysinfo", "utimensat",
    ]  # fmt: skip
    ok = make(SYS_RETAIN, {"set": [*needed, "mkdir"], "errno": "EPERM"})
    assert kit.run_shell("mkdir /x && echo made", isolators=[ok]).stdout == "made\n"
    without = make(SYS_RETAIN, {"set": needed, "errno": "EPERM"})
    assert "not permitted" in kit.run_shell("mkdir /x", isolators=[without]).stderr


def test_ISO_18_all_switches_the_filter_off(kit: Kit) -> None:
    isolators = [make(SYS_RETAIN, {"set": ["@appc.io/all"]})]
    assert kit.run_shell("grep Seccomp: /proc/self/status", isolators=isolators).stdout.split() == [
        "Seccomp:",
        "0",
    ]


def test_ISO_23_the_default_filter_denies_softly(kit: Kit) -> None:
    """Issue 1614."""
    done = kit.run_shell("grep Seccomp: /proc/self/status; unshare -U true; echo status $?")
    assert done.stdout.split()[1] == "2"
    assert "not permitted" in done.stderr
    assert done.returncode == 0


@pytest.mark.parametrize("entry", ["@ponies/all", "@rkt/default-whitelits", "mkdirr"])
def test_ISO_10_TRAP_31_unknown_wildcards_and_calls_are_errors(kit: Kit, entry: str) -> None:
    with pytest.raises(GantryError, match=entry):
        status(kit, "true", make(SYS_REMOVE, {"set": [entry]}))


@pytest.mark.parametrize("wildcard", ["@rkt/default-whitelist", "@docker/default-whitelist"])
def test_ISO_10_whitelists_of_others_can_be_retained(kit: Kit, wildcard: str) -> None:
    assert status(kit, "mkdir /x; ls / > /dev/null", make(SYS_RETAIN, {"set": [wildcard]})) == 0


def test_ISO_03_04_unknown_isolators_are_reported(kit: Kit) -> None:
    """TRAP-17."""
    uuid = kit.prepare(
        kit.shell(
            "true",
            name="main",
            isolators=[make("example.com/odd", {"x": 1}), make("resource/cpu", {"limit": "1"})],
        )
    )
    verdicts = {entry["name"]: (entry["scope"], entry["status"]) for entry in get(kit.paths, uuid).isolators}
    assert verdicts == {"example.com/odd": ("main", "ignored"), "resource/cpu": ("main", "applied")}
    assert any("example.com/odd is ignored" in warning for warning in kit.warnings)


def test_ISO_37_cpu_shares_and_ISO_50_quota(kit: Kit) -> None:
    isolators = [make("os/linux/cpu-shares", 512), make("resource/cpu", {"limit": "250m"})]
    uuid = kit.prepare(kit.shell("true", name="main", isolators=isolators))
    assert kit.config(uuid, "main")["linux"]["resources"]["cpu"] == {
        "shares": 512,
        "quota": 25000,
        "period": 100000,
    }
    assert kit.run(uuid).returncode == 0


def test_ISO_39_42_54_memory(kit: Kit) -> None:
    for value, expected in (
        ({"limit": "123Mi"}, {"limit": 123 << 20}),
        ({"limit": "128974848", "request": "1Mi"}, {"limit": 123 << 20, "reservation": 1 << 20}),
        ({"request": "1Mi"}, {"reservation": 1 << 20}),
    ):
        uuid = kit.prepare(kit.shell("true", name="main", isolators=[make("resource/memory", value)]))
        memory = kit.config(uuid, "main")["linux"]["resources"]["memory"]
        memory.pop("swap", None)
        assert memory == expected
        assert kit.run(uuid).returncode == 0
    with pytest.raises(GantryError, match="memory limit of 1 bytes too low"):
        kit.prepare(kit.shell("true", isolators=[make("resource/memory", {"limit": "16m"})]))


def test_ISO_55_56_57_sysctl(kit: Kit) -> None:
    good = make("os/unix/sysctl", {"net.ipv4.ip_unprivileged_port_start": "80", "kernel.msgmax": "9000"})
    script = "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/msgmax"
    assert kit.run(kit.prepare(kit.shell(script), isolators=[good])).stdout.split() == ["80", "9000"]
    for name in ("vm.swappiness", "kernel.hostname", "net./../../kernel.x", "fs.file-max", "kernel.shm"):
        with pytest.raises(GantryError, match="is not a setting of the pod's own namespaces"):
            kit.prepare(kit.shell("true"), isolators=[make("os/unix/sysctl", {name: "1"})])
    with pytest.raises(GantryError, match="own namespaces"):
        kit.prepare(
            kit.shell("true"),
            isolators=[make("os/unix/sysctl", {"net.core.somaxconn": "1"})],
            networks=["host"],
        )


def test_ISO_08_an_isolator_out_of_its_scope_is_refused(kit: Kit) -> None:
    with pytest.raises(GantryError, match="belongs to an app"):
        kit.prepare(kit.shell("true"), isolators=[make("os/linux/no-new-privileges", True)])


def test_ISO_26_29_without_selinux_and_apparmor_they_are_ignored_and_said_so(kit: Kit) -> None:
    if os.path.isdir("/sys/fs/selinux") or os.path.exists("/sys/kernel/security/apparmor/profiles"):
        pytest.skip("this host has one")
    context = {"user": "u", "role": "r", "type": "t", "level": "s0"}
    isolators = [
        make("os/linux/selinux-context", context),
        make("os/linux/apparmor-profile", {"profile": "p"}),
    ]
    uuid = kit.prepare(kit.shell("true", name="main", isolators=isolators))
    assert [entry["status"] for entry in get(kit.paths, uuid).isolators] == ["ignored", "ignored"]
    assert kit.run(uuid).returncode == 0
