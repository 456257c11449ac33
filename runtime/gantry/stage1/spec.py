"""Write the OCI configuration of an app, with places to fill in for what only a launch knows.

A *placeholder* is a word that nothing else can contain (128 random bits, made at prepare). The launcher
replaces

- ``"MARK:url",`` by the metadata URL's environment entry, or by nothing,
- ``MARK:pause`` by the number of the pause process,
- ``MARK:group`` by the app's control group,
- ``"MARK:terminal"`` by whether it gets a terminal, and then its size, too,
- ``"MARK:console",`` by the console device, or by nothing where a terminal takes its place.

What an app sees is RKT-INVENTORY 17.3: its own mount namespace, a fresh ``/dev``, ``/sys`` read-only, the
parts of ``/proc`` and ``/sys`` that tell about or change the host hidden or read-only.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gantry.stage1.flavor import OWN_MOUNTS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gantry.stage1.isolators import Compiled

_HIDDEN = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/config.gz",
    "/proc/kallsyms",
    "/proc/kcore",
    "/proc/keys",
    "/proc/kmem",
    "/proc/latency_stats",
    "/proc/mem",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
)
_HIDDEN_DIRECTORIES = ("/sys/firmware", "/sys/hypervisor", "/sys/module", "/sys/power")
_READ_ONLY = (
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sysrq-trigger",
    "/proc/sys/kernel/core_pattern",
    "/proc/sys/kernel/modprobe",
    "/proc/sys/vm/panic_on_oom",
    "/proc/sys/kernel/hotplug",
)
_READ_ONLY_PROC_SYS = ("/proc/sys",)
CONSOLE: dict[str, Any] = {
    "path": "/dev/console",
    "type": "c",
    "major": 5,
    "minor": 1,
    "fileMode": 0o600,
    "uid": 0,
    "gid": 0,
}
_QUIET = ["nosuid", "noexec", "nodev"]


@dataclass(frozen=True, slots=True)
class Bind:
    """Something of the host's that appears in an app.

    Attributes:
        source: The host's path.
        target: Where, in the app; resolved.
        read_only: Recursively.
        recursive: With what is mounted below the source.
        device: ``(type, major, minor)`` when the source is a device node, which then may be used.
        quiet: Nothing in it is executed or a device.
    """

    source: str
    target: str
    read_only: bool = False
    recursive: bool = True
    device: tuple[str, int, int] | None = None
    quiet: bool = False


@dataclass(frozen=True, slots=True)
class Process:
    """What is executed.

    Attributes:
        args: Its words; the first is an absolute path.
        environment: Name and value pairs.
        working_directory: Absolute.
        uid: User.
        gid: Group.
        supplementary_gids: Further groups.
    """

    args: Sequence[str]
    environment: Sequence[tuple[str, str]]
    working_directory: str
    uid: int
    gid: int
    supplementary_gids: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class Root:
    """The app's file system.

    Attributes:
        path: Where the launcher mounts it.
        shared_memory: The pod's ``/dev/shm``, on the host.
        closed: An empty directory of mode 000, on the host.
        read_only: Whether the app may write to it.
        binds: Volumes and files, in order.
    """

    path: str
    shared_memory: str
    closed: str
    read_only: bool
    binds: Sequence[Bind] = field(default_factory=tuple)


def render(
    process: Process,
    root: Root,
    isolators: Compiled,
    *,
    mark: str,
    host_network: bool,
    interactive: bool = False,
) -> str:
    """The configuration as JSON text with places to fill in."""
    capabilities = isolators.capabilities
    held = capabilities if process.uid == 0 else []
    environment = [f"{name}={value}" for name, value in process.environment]
    described: dict[str, Any] = {
        "terminal": f"{mark}:terminal" if interactive else False,
        "user": {"uid": process.uid, "gid": process.gid, "additionalGids": list(process.supplementary_gids)},
        "args": list(process.args),
        "env": [f"{mark}:url", *environment],
        "cwd": process.working_directory,
        "capabilities": {"bounding": capabilities, "effective": held, "permitted": held},
        "noNewPrivileges": isolators.no_new_privileges,
    }
    if isolators.oom_score_adj is not None:
        described["oomScoreAdj"] = isolators.oom_score_adj
    if isolators.selinux_label:
        described["selinuxLabel"] = isolators.selinux_label
    if isolators.apparmor_profile:
        described["apparmorProfile"] = isolators.apparmor_profile
    linux: dict[str, Any] = {
        "namespaces": _namespaces(mark, host_network=host_network),
        "cgroupsPath": f"{mark}:group",
        "resources": {**isolators.resources, "devices": _device_rules(root.binds)},
        "devices": [
            f"{mark}:console" if interactive else CONSOLE,
            {
                "path": "/dev/net/tun",
                "type": "c",
                "major": 10,
                "minor": 200,
                "fileMode": 0o666,
                "uid": 0,
                "gid": 0,
            },
        ],
        "maskedPaths": list(_HIDDEN),
        "readonlyPaths": [*_READ_ONLY, *_READ_ONLY_PROC_SYS],
    }
    if isolators.seccomp is not None:
        linux["seccomp"] = isolators.seccomp
    config = {
        "ociVersion": "1.0.2",
        "process": described,
        "root": {"path": root.path, "readonly": root.read_only},
        "mounts": _mounts(root),
        "linux": linux,
        "annotations": {OWN_MOUNTS: str(len(root.binds))},
    }
    # ASCII: no encoding of the host's can come between; the mark's own entries stay findable.
    return json.dumps(config, ensure_ascii=True, separators=(",", ":"))


def _namespaces(mark: str, *, host_network: bool) -> list[dict[str, str]]:
    kinds = [("pid", "pid"), ("ipc", "ipc"), ("uts", "uts")]
    if not host_network:
        kinds.append(("network", "net"))
    shared = [{"type": name, "path": f"/proc/{mark}:pause/ns/{file}"} for name, file in kinds]
    return [*shared, {"type": "mount"}, {"type": "cgroup"}]


def _mounts(root: Root) -> list[dict[str, Any]]:
    mounts: list[dict[str, Any]] = [
        {"destination": "/proc", "type": "proc", "source": "proc", "options": _QUIET},
        {
            "destination": "/dev",
            "type": "tmpfs",
            "source": "tmpfs",
            "options": ["nosuid", "strictatime", "mode=755", "size=64k"],
        },
        {
            "destination": "/dev/pts",
            "type": "devpts",
            "source": "devpts",
            "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        },
        {
            "destination": "/dev/shm",  # noqa: S108
            "type": "bind",
            "source": root.shared_memory,
            "options": ["bind", *_QUIET],
        },
        {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": _QUIET},
        {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": [*_QUIET, "ro"]},
        {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": [*_QUIET, "ro"]},
    ]
    # As binds of a closed directory: the runtime gives a tmpfs the mode of what it covers.
    mounts += [
        _bind(Bind(root.closed, path, read_only=True, recursive=False, quiet=True))
        for path in _HIDDEN_DIRECTORIES
        if os.path.isdir(path)
    ]
    targets = [bind.target for bind in root.binds]
    # A volume on /sys, or on a place that one of ours covers, takes its place.
    mounts = [mount for mount in mounts if not _covered(mount["destination"], targets)]
    return mounts + [_bind(bind) for bind in root.binds]


def _covered(path: str, targets: Sequence[str]) -> bool:
    return any(path == target or path.startswith(f"{target}/") for target in targets)


def _bind(bind: Bind) -> dict[str, Any]:
    options = ["rbind" if bind.recursive else "bind", "rprivate"]
    if bind.read_only:
        options.append("rro" if bind.recursive else "ro")
    if bind.quiet:
        options += _QUIET
    return {"destination": bind.target, "type": "bind", "source": bind.source, "options": options}


def _device_rules(binds: Sequence[Bind]) -> list[dict[str, Any]]:
    """Nothing but the usual pseudo devices (which the runtime adds) and devices that are volumes (17.3)."""
    rules: list[dict[str, Any]] = [{"allow": False, "access": "rwm"}]
    for bind in binds:
        if bind.device:
            kind, major, minor = bind.device
            access = "r" if bind.read_only else "rw"
            rules.append({"allow": True, "type": kind, "major": major, "minor": minor, "access": access})
    return rules
