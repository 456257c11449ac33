"""The floor: system calls, control groups, netlink, programs."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gantry.linux import cgroups, namespaces, syscalls
from gantry.linux.netlink import Netlink
from gantry.linux.programs import Program, exit_code, find

root = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


def test_errors_name_the_call_and_the_thing() -> None:
    with pytest.raises(OSError, match=r"umount: .*/nowhere") as caught:
        syscalls.umount("/nowhere")
    assert caught.value.errno in {errno.ENOENT, errno.EPERM}


def test_openat2_stays_beneath(tmp_path: Path) -> None:
    (tmp_path / "out").symlink_to("/etc/passwd")
    (tmp_path / "file").write_text("x")
    fd = os.open(tmp_path, os.O_PATH)
    try:
        os.close(syscalls.openat2(fd, "file", os.O_RDONLY, resolve=syscalls.RESOLVE_BENEATH))
        with pytest.raises(OSError, match="openat2") as caught:
            syscalls.openat2(fd, "out", os.O_RDONLY, resolve=syscalls.RESOLVE_BENEATH)
        assert caught.value.errno == errno.EXDEV
    finally:
        os.close(fd)


def test_a_process_is_known_by_number_and_start() -> None:
    own = namespaces.start_time(os.getpid())
    assert own
    assert namespaces.is_same_process(os.getpid(), own)
    assert not namespaces.is_same_process(os.getpid(), own + 1)
    assert not namespaces.is_same_process(0, 0)
    pid = os.fork()
    if not pid:
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert namespaces.start_time(pid) is None  # a zombie is no process any more
    os.waitpid(pid, 0)
    assert namespaces.same_namespace(os.getpid(), os.getppid(), "uts") in {True, False}


@pytest.mark.parametrize("name", ["sh", "cat"])
def test_programs_are_found(name: str) -> None:
    assert find(name)
    assert find("no-such-program-at-all") is None
    assert find("no-such-program-at-all", "/bin/sh") == "/bin/sh"


def test_a_program_reads_complains_and_ends() -> None:
    program = Program(["/bin/sh", "-c", "cat >&2; echo last >&2; exit 3"], stdin=b"first\n")
    assert program.wait() == 3
    assert program.complaint() == "last"
    assert program.text() == "first\nlast\n"
    program.close()
    program = Program(["/bin/sh", "-c", "kill -9 $$"])
    assert program.wait() == 137
    program.close()
    with pytest.raises(OSError, match="No such file"):
        Program(["/no/such/program"])
    assert exit_code(0) == 0


def test_a_program_starts_clean() -> None:
    os.environ["SECRET"] = "x"
    script = 'test -z "$SECRET" && grep SigIgn /proc/self/status >&2'
    program = Program(["/bin/sh", "-c", script])
    assert program.wait() == 0
    assert not int(program.complaint().split()[1], 16) & (1 << signal.SIGPIPE - 1)
    program.close()
    del os.environ["SECRET"]


V1 = "30 25 0:26 / /sys/fs/cgroup/memory rw,nosuid - cgroup cgroup rw,memory\n"
SYSTEMD = "31 25 0:27 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,release_agent=/x,name=systemd\n"
COMOUNT = "32 25 0:28 / /sys/fs/cgroup/cpu,cpuacct rw shared:1 - cgroup cgroup rw,cpu,cpuacct\n"
V2 = "33 25 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate\n"


def layout_of(monkeypatch: pytest.MonkeyPatch, text: str, own: str = "") -> cgroups.Layout:
    real = cgroups._read
    fake = {"/proc/self/mountinfo": text, "/proc/self/cgroup": own}
    monkeypatch.setattr(cgroups, "_read", lambda path: fake[path] if path in fake else real(path))
    return cgroups.layout()


def test_layouts_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    hybrid = layout_of(monkeypatch, V1 + SYSTEMD + COMOUNT + V2)
    assert not hybrid.pure
    assert hybrid.controllers == {
        "memory": "/sys/fs/cgroup/memory",
        "name=systemd": "/sys/fs/cgroup/systemd",
        "cpu": "/sys/fs/cgroup/cpu,cpuacct",
        "cpuacct": "/sys/fs/cgroup/cpu,cpuacct",
    }
    assert hybrid.available() == {"memory", "cpu", "cpuacct"}
    assert len(hybrid.mounts()) == 4
    assert layout_of(monkeypatch, V2).pure
    assert layout_of(monkeypatch, "").mounts() == []


def test_own_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    layout = layout_of(monkeypatch, V1 + SYSTEMD + V2, "4:memory:/m\n1:name=systemd:/s/x.service\n0::/u\n")
    assert cgroups.own(layout) == {
        "/sys/fs/cgroup/memory": "/m",
        "/sys/fs/cgroup/systemd": "/s/x.service",
        "/sys/fs/cgroup/unified": "/u",
    }


def test_delegation_is_what_systemd_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    layout = layout_of(monkeypatch, V2, "0::/system.slice/x.service/.control\n")
    marks: dict[str, bytes] = {}

    def getxattr(path: str, name: str) -> bytes:
        try:
            return marks[f"{path} {name}"]
        except KeyError:
            raise OSError(errno.ENODATA, "none") from None

    monkeypatch.setattr(os, "getxattr", getxattr)
    assert cgroups.delegated(layout) is None
    marks["/sys/fs/cgroup/unified/system.slice/x.service user.delegate"] = b"1"
    assert cgroups.delegated(layout) == "/system.slice/x.service"


class TestOnThisMachine:
    """What needs privileges."""

    pytestmark = root

    def test_groups_are_made_and_removed(self) -> None:
        layout = cgroups.layout()
        path = f"/gantry/test-{os.getpid()}"
        cgroups.make(layout, path)
        cgroups.make(layout, path)
        assert all(os.path.isdir(point + path) for point in layout.mounts())
        assert cgroups.processes(layout, path) == set()
        assert cgroups.remove(layout, path)
        assert cgroups.remove(layout, path)
        assert not any(os.path.exists(point + path) for point in layout.mounts())

    def test_privileges_are_dropped_whatever_was_inherited(self) -> None:
        """A service manager or a container may hand down inheritable and ambient capabilities."""
        script = "from gantry.linux import privileges as p; p.drop(p.Account(65534, 65534)); "
        script += "print(*(p._status(f'Cap{name}') for name in ('Inh', 'Prm', 'Eff', 'Amb')))"
        caps = "--inh-caps=+chown,+net_raw", "--ambient-caps=+chown"
        done = subprocess.run(
            ["setpriv", *caps, sys.executable, "-c", script], capture_output=True, text=True, check=False
        )
        assert done.stdout.split() == ["0" * 16] * 4, done.stderr

    def test_links_addresses_routes(self) -> None:
        pid = os.fork()
        if not pid:
            status = 1
            try:
                syscalls.unshare(syscalls.CLONE_NEWNET)
                other = os.open("/proc/self/ns/net", os.O_RDONLY)
                with Netlink() as netlink:
                    netlink.up(netlink.index("lo"))
                    netlink.add_veth("gantry-t", "peer0", other)
                    index = netlink.index("gantry-t")
                    netlink.add_address(index, "10.1.2.3", 24, route=False)
                    netlink.up(index)
                    netlink.add_route(index, "10.9.0.0", 16, source="10.1.2.3")
                    try:
                        netlink.add_veth("gantry-t", "peer1", other)
                    except OSError as error:
                        assert error.errno == errno.EEXIST
                    assert netlink.delete("gantry-t")
                    assert not netlink.delete("gantry-t")
                status = 0
            finally:
                os._exit(status)
        assert os.waitpid(pid, 0)[1] == 0
