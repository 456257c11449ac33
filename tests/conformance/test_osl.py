"""App Container specification, section 12: what Linux images find. Each name cites its requirement."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.pods import Kit, make_kit

from gantry.appc.parts import Volume
from gantry.pods import MountRequest

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


@pytest.fixture
def kit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kit]:
    yield from make_kit(tmp_path, monkeypatch)


def test_OSL_01_to_13_devices_and_file_systems(kit: Kit) -> None:
    devices = {
        "null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9), "tty": (5, 0),
        "console": (5, 1),
    }  # fmt: skip
    names = " ".join(f"/dev/{name}" for name in devices)
    script = f"stat -c '%n %F %t %T' {names}; readlink /dev/ptmx; "
    script += "for p in /proc /sys /dev/pts /dev/shm; do "
    script += "grep \" $p \" /proc/mounts | head -n1 | cut -d' ' -f2,3; done"
    lines = kit.run_shell(script).stdout.splitlines()
    for line, (name, (major, minor)) in zip(lines, devices.items(), strict=False):
        assert line == f"/dev/{name} character special file {major:x} {minor:x}"
    assert lines[7:] == ["pts/ptmx", "/proc proc", "/sys sysfs", "/dev/pts devpts", "/dev/shm tmpfs"]


def test_OSL_02_proc_is_of_the_pods_pid_namespace(kit: Kit) -> None:
    done = kit.run_shell("ls /proc | grep -c '^[0-9]*$'; cat /proc/1/comm")
    count, first = done.stdout.split()
    assert int(count) < 8
    assert first == "catatonit"


def test_OSL_04_devices_work_and_others_cannot_be_made(kit: Kit) -> None:
    script = "echo x > /dev/null && echo null; head -c 4 /dev/zero | wc -c; "
    script += "mknod /sda b 8 0 && head -c1 /sda || echo denied"
    assert kit.run_shell(script).stdout.split() == ["null", "4", "denied"]


@pytest.mark.parametrize("network", ["none", "default"])
def test_OSL_14_15_hosts_has_localhost_and_the_pods_name(kit: Kit, network: str) -> None:
    uuid = kit.prepare(
        kit.shell("cat /etc/hosts; hostname; cat /etc/hostname"), hostname="shop-1", networks=["none"]
    )
    text = kit.run(uuid).stdout
    assert text.startswith("127.0.0.1 localhost localhost.domain localhost4 localhost4.localdomain4 shop-1\n")
    assert text.endswith("shop-1\nshop-1\n")


def test_OSL_16_an_existing_hosts_file_is_left_alone(kit: Kit, tmp_path: Path) -> None:
    image = kit.store.add(files={"/etc/hosts": "127.0.0.1 mine\n"})
    assert kit.run(kit.prepare(kit.shell("cat /etc/hosts", image=image))).stdout == "127.0.0.1 mine\n"
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/hosts").write_text("127.0.0.1 volume\n")
    app = kit.shell("cat /etc/hosts; ls /etc", mounts=[MountRequest("etc", "/etc")])
    uuid = kit.prepare(app, volumes=[Volume("etc", "host", str(tmp_path / "etc"))])
    assert kit.run(uuid).stdout == "127.0.0.1 volume\nhosts\n"
    assert os.listdir(tmp_path / "etc") == ["hosts"]  # VOL-24: nothing was made there


def test_missing_directories_are_made_and_tmp_is_for_everybody(kit: Kit) -> None:
    """RKT-INVENTORY 17.3."""
    done = kit.run_shell("stat -c %a /tmp /run; readlink /etc/mtab")
    assert done.stdout.split() == ["1777", "755", "../proc/self/mounts"]


def test_what_tells_about_the_host_is_hidden_or_read_only(kit: Kit) -> None:
    """RKT-INVENTORY 17.3."""
    script = """
    ls -ld /sys/firmware | cut -c1-10
    for p in /proc/sysrq-trigger /proc/sys/kernel/core_pattern /proc/sys/vm/swappiness; do
      test -e $p && (echo 1 > $p) 2>/dev/null && echo "wrote $p"
    done
    head -c1 /proc/kcore 2>/dev/null | wc -c
    touch /sys/x 2>/dev/null && echo wrote
    mkdir /sys/fs/cgroup/memory/x /sys/fs/cgroup/x 2>/dev/null && echo cgroup
    echo end
    """
    lines = kit.run_shell(script).stdout.split()
    expected = ["d---------"] if Path("/sys/firmware").is_dir() else []
    assert lines == [*expected, "0", "end"]


def test_the_root_of_the_pods_first_process_is_empty(kit: Kit) -> None:
    """Issue 2648: also for an app that may trace others."""
    from gantry.appc.isolators import make  # noqa: PLC0415

    retained = make("os/linux/capabilities-retain-set", {"set": ["CAP_SYS_PTRACE", "CAP_DAC_OVERRIDE"]})
    script = "ls -a /proc/1/root/ | tr '\\n' ' '; ls /proc/1/root/../../etc 2>/dev/null; ls /proc/1/cwd/.."
    assert kit.run_shell(script, isolators=[retained]).stdout.split() == [".", ".."]
