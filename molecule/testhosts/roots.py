"""Base roots: one minimal Debian per suite and extra packages, by mmdebstrap, shared read-only by all hosts.

CACHE/root-SUITE-KEY.tar.zst   the finished root, as it travels
CACHE/root-SUITE-KEY           the same, unpacked: the lower layer of every machine
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from testhosts import cache

RECIPE = 1
"""Raise it when something below changes that the key does not hold."""

PACKAGES = (
    "busybox-static",
    "ca-certificates",
    "catatonit",
    "crun",
    "curl",
    "dbus",
    "gnupg",
    "iproute2",
    "kmod",
    "nftables",
    "nginx-light",
    "openssh-server",
    "python3",
    "python3-apt",
    "runc",
    "systemd",
    "systemd-sysv",
    "udev",
)
"""What a host has on arrival: a small Debian server with an OCI runtime and a web server (switched off)."""


class Base(NamedTuple):
    """What a root is made of: a Debian release, and packages beside those of every host."""

    suite: str
    packages: tuple[str, ...] = ()


_NO_DOCS = (
    "usr/share/doc/*",
    "usr/share/man/*",
    "usr/share/locale/*",
    "usr/share/info/*",
    "usr/share/lintian/*",
)

# Timers and waits that only cost time on a host that lives for minutes, and services nobody asked for yet.
_OFF = (
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "nginx.service",
    "systemd-networkd-wait-online.service",
    "systemd-timesyncd.service",
)

_CUSTOMIZE = f"""
set -eu
root="$1"
systemctl --root="$root" --quiet enable systemd-networkd.service
for unit in {" ".join(_OFF)}; do
    systemctl --root="$root" --quiet disable "$unit" 2>/dev/null || true
done
rm -f "$root"/etc/ssh/ssh_host_*_key* "$root"/etc/hostname "$root"/etc/resolv.conf
: > "$root/etc/machine-id"
rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/* "$root"/var/cache/debconf/*-old
rm -f "$root"/var/log/*.log
mkdir -p "$root/var/lib/apt/lists/partial" "$root/var/cache/apt/archives/partial"
"""


# What comes on top is a program to be called: a service of it that started by itself would be in the way.
_EXTRA_OFF = r"""
for package in %s; do
    dpkg --root="$root" -L "$package" |
        sed -nE "s,^(/usr)?/lib/systemd/system/([^/]+)$,\2,p" | while read -r unit; do
        systemctl --root="$root" --quiet disable "$unit" 2>/dev/null || true
    done
done
"""


def _customize(packages: tuple[str, ...]) -> str:
    return _CUSTOMIZE + (_EXTRA_OFF % " ".join(packages) if packages else "")


def mirror() -> list[str]:
    """Where packages come from: ``$GANTRY_MIRROR``; without it mmdebstrap knows Debian's own addresses."""
    given = os.environ.get("GANTRY_MIRROR")
    return [given] if given else []


def mmdebstrap(suite: str, target: Path, scratch: Path, arguments: list[str]) -> None:
    """Run mmdebstrap for *suite* into the tar *target*; the log stays in the cache if it fails."""
    temporary = scratch / "tmp"
    temporary.mkdir()
    temporary.chmod(0o1777)
    log = cache.directory() / f"{scratch.name.removesuffix('.making')}.log"
    log.unlink(missing_ok=True)
    apt = ['--aptopt=Acquire::Languages "none"', '--aptopt=Acquire::Retries "3"']
    cache.run(
        ["mmdebstrap", "--mode=root", "--format=tar", *apt, *arguments, suite, str(target), *mirror()],
        log=log,
        env={"TMPDIR": str(temporary), "SOURCE_DATE_EPOCH": "1700000000"},
        what=f"building the {suite} root",
    )
    log.unlink()


def archive(suite: str, packages: tuple[str, ...] = ()) -> Path:
    """The root of *suite* with *packages* as a zstd tar, made on first use (about a minute, 70 MB)."""
    included = (*PACKAGES, *packages)

    def make(target: Path, scratch: Path) -> None:
        hook = scratch / "customize"
        hook.write_text(_customize(packages))
        plain = scratch / "root.tar"
        options = ["--variant=minbase", f"--include={','.join(included)}"]
        options += [f"--dpkgopt=path-exclude=/{glob}" for glob in _NO_DOCS]
        mmdebstrap(suite, plain, scratch, [*options, f'--customize-hook=sh {shlex.quote(str(hook))} "$1"'])
        cache.run(["zstd", "-q", "-T0", "-6", str(plain), "-o", str(target)])

    name = cache.key(RECIPE, suite, included, _NO_DOCS, _customize(packages))
    return cache.ensure(f"root-{suite}-{name}.tar.zst", make)


def tree(base: Base) -> Path:
    """The unpacked root *base*, shared: nobody writes to it."""
    packed = archive(base.suite, base.packages)

    def make(target: Path, _scratch: Path) -> None:
        target.mkdir()
        unpack(packed, target)

    return cache.ensure(packed.name.removesuffix(".tar.zst"), make)


def unpack(packed: Path, target: Path) -> None:
    """Unpack a root with owners, extended attributes and capabilities."""
    options = ["--numeric-owner", "--xattrs", "--xattrs-include=*", "--same-owner", "-p"]
    cache.run(["tar", "--zstd", *options, "-xf", str(packed), "-C", str(target)])


def prepare(bases: Iterable[Base]) -> dict[Base, Path]:
    """The trees of all *bases*, made side by side."""
    wanted = sorted(set(bases))
    with ThreadPoolExecutor(max_workers=len(wanted) or 1) as pool:
        return dict(zip(wanted, pool.map(tree, wanted), strict=True))
