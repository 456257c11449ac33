"""What this host can do for pods and what it cannot, each with the remedy. Looks only; changes nothing."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from typing import TYPE_CHECKING, NamedTuple

from gantry.errors import GantryError
from gantry.images.space import existing
from gantry.linux import cgroups
from gantry.linux.programs import find
from gantry.pods.compile import pause_program
from gantry.stage1.isolators import HostFeatures
from gantry.stage1.oci import choose

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gantry.config import Paths

OK, LESS, BROKEN = "ok", "less", "broken"
_ROOM = 1 << 30
_FEW_FILES = 4096
_SECONDS = 10
_KERNEL = (5, 6)  # openat2 and pidfd_getfd


class Finding(NamedTuple):
    """One thing that was looked at.

    Attributes:
        subject: What, in a word or two.
        verdict: ``ok``; ``less``: pods run, without something; ``broken``: some or all pods do not run.
        detail: What is so.
        remedy: What to do; empty when it is well.
    """

    subject: str
    verdict: str
    detail: str
    remedy: str = ""


def examine(paths: Paths) -> list[Finding]:
    """Look at everything that pods need."""
    found: list[Finding] = []
    for look in _LOOKS:
        try:
            found.extend(look(paths))
        except (OSError, GantryError) as error:
            name = look.__name__.strip("_").replace("_", " ")
            found.append(Finding(name, LESS, f"cannot be looked at: {error}", "become root"))
    return found


def _user(_paths: Paths) -> Iterator[Finding]:
    if os.geteuid() == 0:
        yield Finding("user", OK, "root")
    else:
        yield Finding("user", LESS, "not root: pods cannot be started, nor all be looked at", "use sudo")


def _kernel(_paths: Paths) -> Iterator[Finding]:
    release = os.uname().release
    numbers = tuple(int(part) for part in release.split("-")[0].split(".")[:2] if part.isdigit())
    if numbers >= _KERNEL:
        yield Finding("kernel", OK, release)
    else:
        yield Finding("kernel", BROKEN, f"{release} is too old", "Linux 5.6 or later")


def _namespaces(_paths: Paths) -> Iterator[Finding]:
    for kind in ("pid", "net", "ipc", "uts", "mnt", "cgroup"):
        if not os.path.exists(f"/proc/self/ns/{kind}"):
            yield Finding("namespaces", BROKEN, f"the kernel has no {kind} namespaces", "another kernel")
            return
    for name in ("pid", "net", "ipc", "uts", "mnt"):
        limit = _number(f"/proc/sys/user/max_{name}_namespaces")
        if limit is not None and limit < 16:
            yield Finding(
                "namespaces",
                BROKEN,
                f"only {limit} {name} namespaces are allowed",
                f"sysctl -w user.max_{name}_namespaces=10000",
            )
            return
    yield Finding("namespaces", OK, "pid, net, ipc, uts, mnt, cgroup")


def _control_groups(_paths: Paths) -> Iterator[Finding]:
    layout = cgroups.layout()
    kind = "v2" if layout.pure else "v1 and v2" if layout.unified else "v1"
    if not layout.mounts():
        yield Finding("control groups", BROKEN, "none are mounted", "mount -t cgroup2 none /sys/fs/cgroup")
        return
    missing = [name for name in ("cpu", "memory", "pids") if name not in layout.available()]
    if missing:
        yield Finding(
            "control groups",
            LESS,
            f"{kind}, without {', '.join(missing)}: such limits are ignored",
            "cgroup_enable=memory on the kernel's command line, or the controller in cgroup.subtree_control",
        )
    else:
        yield Finding("control groups", OK, kind)
    features = HostFeatures(layout)
    if features.swap:
        yield Finding("swap accounting", OK, "memory limits count swap")
    else:
        yield Finding(
            "swap accounting",
            LESS,
            "memory limits do not count swap",
            "swapaccount=1 on the kernel's command line, or no swap",
        )
    modules = [
        name for name, there in (("SELinux", features.selinux), ("AppArmor", features.apparmor)) if there
    ]
    if modules:
        yield Finding("security modules", OK, ", ".join(modules))
    else:
        yield Finding(
            "security modules", LESS, "neither SELinux nor AppArmor: their isolators are ignored", ""
        )


def _programs(_paths: Paths) -> Iterator[Finding]:
    try:
        runtime = choose(cgroups.layout())
    except GantryError as error:
        yield Finding("OCI runtime", BROKEN, error.message, error.hint)
    else:
        done = subprocess.run(
            [runtime, "--version"], capture_output=True, text=True, timeout=_SECONDS, check=False
        )
        first = (done.stdout or done.stderr).splitlines()[:1]
        if done.returncode:
            yield Finding("OCI runtime", BROKEN, f"{runtime} does not start", f"install {runtime} again")
        else:
            yield Finding("OCI runtime", OK, f"{runtime}: {first[0] if first else 'says no version'}")
    try:
        yield Finding("first process", OK, pause_program())
    except GantryError as error:
        yield Finding("first process", BROKEN, error.message, error.hint)


def _network(_paths: Paths) -> Iterator[Finding]:
    nft = find("nft")
    if nft is None:
        yield Finding(
            "network", BROKEN, "nft is not installed: only --net=none and host work", "install nftables"
        )
        return
    if os.geteuid() == 0:
        done = subprocess.run(
            [nft, "list", "tables"], capture_output=True, text=True, timeout=_SECONDS, check=False
        )
        if done.returncode:
            said = done.stderr.strip().splitlines()[-1:] or ["it does not say why"]
            yield Finding("network", BROKEN, f"nft does not work: {said[0]}", "a kernel with nf_tables")
            return
    if _number("/proc/sys/net/ipv4/ip_forward") == 1:
        yield Finding("network", OK, "nft; forwarding is on")
    else:
        yield Finding("network", OK, "nft; the first pod of the default network switches forwarding on")


def _storage(paths: Paths) -> Iterator[Finding]:
    place = existing(paths.data)
    if "overlay" in _read("/proc/filesystems").split():
        yield Finding("overlay", OK, "the kernel has overlayfs")
    else:
        yield Finding("overlay", BROKEN, "the kernel has no overlayfs (yet)", "modprobe overlay")
    kind = _file_system(place)
    if kind == "overlay":
        yield Finding(
            "data directory",
            BROKEN,
            f"{place} is on an overlay, on which no other can be laid",
            "mount another file system there, or give --dir",
        )
    else:
        yield Finding("data directory", OK, f"{paths.data} on {kind}")
    usage, files = shutil.disk_usage(place), os.statvfs(place)
    free = f"{usage.free >> 20} MiB, {files.f_favail} files"
    if usage.free < _ROOM or (files.f_files and files.f_favail < _FEW_FILES):
        yield Finding("disk", LESS, f"only {free} are free", "gantry gc, gantry image gc --free=2G")
    else:
        yield Finding("disk", OK, f"{free} are free")
    for directory in (paths.data, paths.run):
        if os.path.isdir(directory) and os.geteuid() == 0:
            status = os.stat(directory)
            if status.st_uid != 0 or status.st_mode & 0o022:
                yield Finding(
                    "owners",
                    BROKEN,
                    f"{directory} can be written by others than root",
                    f"chown root {directory}; chmod go-w {directory}",
                )


def _services(paths: Paths) -> Iterator[Finding]:
    for name, path, unit in (
        ("metadata service", f"{paths.run}/metadata-svc.sock", "gantry-metadata.socket"),
        ("signer", f"{paths.run}/signer.sock", "gantry-signer.socket"),
    ):
        if not os.path.exists(path):
            yield Finding(name, LESS, "not there: pods have no AC_METADATA_URL", f"systemctl start {unit}")
            continue
        try:
            _connect(path)
        except PermissionError:
            yield Finding(name, OK, "there; only root can ask it")
        except OSError as error:
            yield Finding(name, BROKEN, f"does not answer: {error.strerror}", f"systemctl restart {unit}")
        else:
            yield Finding(name, OK, "listens")


def _connect(path: str) -> None:
    for kind in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET):
        with socket.socket(socket.AF_UNIX, kind) as probe:
            probe.settimeout(_SECONDS)
            try:
                probe.connect(path)
            except OSError as error:
                if kind == socket.SOCK_STREAM and error.strerror == "Protocol wrong type for socket":
                    continue
                raise
            return


def _systemd(_paths: Paths) -> Iterator[Finding]:
    if not os.path.isdir("/run/systemd/system"):
        yield Finding("systemd", LESS, "not running: there are no named pods", "boot with systemd")
        return
    yield Finding("systemd", OK, "running")
    if os.path.isdir("/var/log/journal"):
        yield Finding("journal", OK, "kept on disk")
    else:
        yield Finding(
            "journal",
            LESS,
            "only in memory: the output of named pods is lost at reboot",
            "mkdir /var/log/journal; systemctl restart systemd-journald",
        )


_LOOKS: tuple[Callable[[Paths], Iterator[Finding]], ...] = (
    _user,
    _kernel,
    _namespaces,
    _control_groups,
    _programs,
    _network,
    _storage,
    _services,
    _systemd,
)


def _read(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.read()


def _number(path: str) -> int | None:
    try:
        return int(_read(path))
    except (OSError, ValueError):
        return None


def _file_system(path: str) -> str:
    """The kind of the file system that *path* is on."""
    best, kind = "", "an unknown file system"
    for line in _read("/proc/self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        point = before.split(" ")[4]
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, after.split(" ")[0]
    return kind
