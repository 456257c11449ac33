"""Machines: systemd-nspawn booting the host's own systemd on an overlay of a base root."""

from __future__ import annotations

from pathlib import Path

from testhosts import cache, cgroups, network, seed
from testhosts.spec import Host

# What any host may call and a container usually may not. nspawn 252 ignores the group @sandbox without a
# word, so landlock's calls are named one by one.
SYSTEM_CALLS = (
    "@keyring",
    "bpf",
    "kcmp",
    "landlock_add_rule",
    "landlock_create_ruleset",
    "landlock_restrict_self",
    "pidfd_getfd",
    "ptrace",
)


def upper_works(directory: Path) -> bool:
    """Whether *directory* can hold an overlay's upper layer: not if it is on an overlay itself."""
    return cache.run(["stat", "--file-system", "--format=%T", str(directory)]).strip() != "overlayfs"


def command(host: Host, root: Path, data: Path) -> tuple[list[str], dict[str, str]]:
    """The nspawn command line and its environment; it expects *root* to be mounted."""
    legacy = any(path != cgroups.MOUNT for path in cgroups.hierarchies())
    argv = [
        "systemd-nspawn",
        "--quiet",
        f"--directory={root}",
        f"--machine={host.name}",
        "--register=no",
        "--keep-unit",
        "--link-journal=no",
        "--resolv-conf=off",
        "--timezone=off",
        "--console=read-only",
        "--kill-signal=SIGRTMIN+3",
        "--capability=all",
        # Without this a guest can set this machine's clock.
        "--drop-capability=CAP_SYS_TIME",
        f"--system-call-filter={' '.join(SYSTEM_CALLS)}",
        # Pods mount overlays below here, which the root's own overlay would refuse.
        f"--bind={data}:/var/lib/gantry",
        f"--network-bridge={network.BRIDGE}",
        seed.INIT_PATH,
    ]
    environment = {
        "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "0" if legacy else "1",
        # Not more: the rest of /proc/sys and /sys is this machine's own, and a booting guest would set it.
        "SYSTEMD_NSPAWN_API_VFS_WRITABLE": "network",
    }
    return argv, environment


def layers(directory: Path) -> tuple[Path, Path, Path, Path]:
    """The host's own directories: upper and work layer, mount point, and ``/var/lib/gantry``."""
    found = tuple(directory / name for name in ("upper", "work", "root", "data"))
    for path in found:
        path.mkdir(exist_ok=True)
    upper, work, root, data = found
    return upper, work, root, data
