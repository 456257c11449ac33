"""VMs: qemu on a disk made from the same packages, with Debian's own kernel of the suite.

    CACHE/kernel-SUITE-KEY/{vmlinuz,initrd,modules/}   the kernel, its modules and an initramfs of our own
    CACHE/disk-SUITE-KEY.raw                           the base disk; every VM writes to an overlay

The initramfs loads the four drivers a qemu guest needs, lays the host's seed (a second archive behind it)
over the root and hands over to systemd: a second instead of ten, and no disk is written to seed a host.
"""

from __future__ import annotations

import gzip
import lzma
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from testhosts import cache, roots
from testhosts.cpio import Entry, archive
from testhosts.errors import HostsError
from testhosts.seed import File
from testhosts.spec import Host

RECIPE = 2
DISK_SIZE = "6G"
PROBE_MARK = "testhosts: the kernel runs"

_DRIVERS = ("virtio_pci", "virtio_blk", "virtio_net", "virtio_rng")

_INIT = f"""\
#!/bin/busybox sh
b=/bin/busybox
$b mount -t devtmpfs dev /dev
$b mount -t proc proc /proc
if $b grep -q testhosts.probe /proc/cmdline; then
    echo "{PROBE_MARK}"
    $b poweroff -f
fi
while read -r module; do $b insmod "/modules/$module"; done < /modules/order
n=0
until [ -b /dev/vda ]; do
    n=$((n + 1))
    [ "$n" -gt 100 ] && {{ echo "testhosts: no disk"; $b poweroff -f; }}
    $b sleep 0.1
done
$b mount -t ext4 -o rw /dev/vda /root
$b cp -a /seed/. /root/
$b umount /proc
$b mount -o move /dev /root/dev
exec $b switch_root /root /lib/systemd/systemd
"""


@dataclass(frozen=True)
class Disk:
    """What a VM of one suite boots from, and how."""

    image: Path
    kernel: Path
    initrd: Path
    accelerator: str


def prepare(suites: Iterable[str]) -> dict[str, Disk]:
    """The disks of all *suites*, made side by side."""
    wanted = sorted(set(suites))
    with ThreadPoolExecutor(max_workers=len(wanted) or 1) as pool:
        return dict(zip(wanted, pool.map(_disk, wanted), strict=True))


def _disk(suite: str) -> Disk:
    boot = _kernel(suite)
    packed = roots.archive(suite)

    def make(target: Path, scratch: Path) -> None:
        tree = scratch / "tree"
        tree.mkdir()
        roots.unpack(packed, tree)
        cache.run(["cp", "-a", f"{boot}/modules", f"{tree}/usr/lib/modules"])
        mke2fs = ["mke2fs", "-q", "-t", "ext4", "-m", "0", "-O", "^has_journal", "-E", "lazy_itable_init=1"]
        cache.run([*mke2fs, "-d", str(tree), str(target), DISK_SIZE])

    name = cache.key(RECIPE, packed.name, boot.name, DISK_SIZE)
    image = cache.ensure(f"disk-{suite}-{name}.raw", make)
    kernel, initrd = boot / "vmlinuz", boot / "initrd"
    return Disk(image, kernel, initrd, accelerator(kernel, initrd))


def _kernel(suite: str) -> Path:
    """Debian's cloud kernel of *suite*, unpacked, not installed: its scripts want a boot loader."""

    def make(target: Path, scratch: Path) -> None:
        tree = scratch / "tree"
        tree.mkdir()
        options = ["--variant=extract", "--include=linux-image-cloud-amd64,busybox-static"]
        plain = scratch / "kernel.tar"
        roots.mmdebstrap(suite, plain, scratch, options)
        cache.run(["tar", "-xf", str(plain), "-C", str(tree)])
        found = sorted((tree / "boot").glob("vmlinuz-*"))
        if not found:
            raise HostsError(f"the kernel package of {suite} holds no kernel")
        version = found[-1].name.removeprefix("vmlinuz-")
        modules = _first(tree, "lib/modules") / version
        cache.run(["depmod", "-b", str(modules.parents[2]), version])
        target.mkdir()
        shutil.copy2(found[-1], target / "vmlinuz")
        (target / "initrd").write_bytes(_initrd(modules, _first(tree, "bin/busybox").read_bytes()))
        (target / "modules").mkdir()
        shutil.move(str(modules), str(target / "modules" / version))

    if platform.machine() != "x86_64":
        raise HostsError(f"there are no VMs for {platform.machine()} yet", hint="use kind: machine")
    return cache.ensure(f"kernel-{suite}-{cache.key(RECIPE, suite, _INIT, _DRIVERS)}", make)


def _first(tree: Path, name: str) -> Path:
    """*name* in *tree* or below its usr: what was only extracted may lack the links that join the two."""
    for place in (tree / name, tree / "usr" / name):
        if place.exists():
            return place
    raise HostsError(f"the kernel package brought no {name}")


def _initrd(modules: Path, busybox: bytes) -> bytes:
    order: list[str] = []
    entries = [Entry(name, b"", 0o040755) for name in ("bin", "dev", "proc", "root", "seed", "modules")]
    dependencies = {}
    for line in (modules / "modules.dep").read_text().splitlines():
        path, _, needs = line.partition(":")
        dependencies[path] = needs.split()
    by_name = {Path(path).name.split(".")[0].replace("-", "_"): path for path in dependencies}
    builtin = {
        Path(line).name.split(".")[0].replace("-", "_")
        for line in (modules / "modules.builtin").read_text().splitlines()
    }
    for driver in _DRIVERS:
        if driver in builtin:
            continue
        path = by_name[driver]
        # modules.dep lists what a module needs nearest first, so the farthest has to be loaded first.
        for needed in [*reversed(dependencies[path]), path]:
            if needed not in order:
                order.append(needed)
    names = []
    for path in order:
        content = (modules / path).read_bytes()
        if path.endswith(".xz"):
            content = lzma.decompress(content)
        name = Path(path).name.removesuffix(".xz")
        names.append(name)
        entries.append(Entry(f"modules/{name}", content, 0o100644))
    entries.append(Entry("modules/order", "".join(f"{name}\n" for name in names).encode(), 0o100644))
    entries.append(Entry("bin/busybox", busybox, 0o100755))
    entries.append(Entry("init", _INIT.encode(), 0o100755))
    packed = gzip.compress(archive(entries), 6, mtime=0)
    # The seed follows it, and the kernel looks for a plain archive at multiples of four only.
    return packed + b"\0" * (-len(packed) % 4)


def seed_archive(files: list[File]) -> bytes:
    """The seed as an archive that the kernel unpacks behind the initramfs, below ``/seed``."""
    entries: dict[str, Entry] = {}
    for file in files:
        path = f"seed{file.path}"
        for parent in reversed(Path(path).parents[:-1]):
            mode = 0o040700 if parent.as_posix().endswith(("/root", "/.ssh")) else 0o040755
            entries.setdefault(parent.as_posix(), Entry(parent.as_posix(), b"", mode))
        entries[path] = Entry(path, file.content, 0o100000 | file.mode)
    return archive(list(entries.values()))


def command(host: Host, place: Path, disk: Disk, files: list[File], *, tap: str, hold: int) -> list[str]:
    """The qemu command line of *host*, whose disk and initramfs are made in *place*; *hold* is the lock."""
    own = place / "disk.qcow2"
    create = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw"]
    cache.run([*create, "-b", str(disk.image), str(own)], hold=hold)
    initrd = place / "initrd"
    initrd.write_bytes(disk.initrd.read_bytes() + seed_archive(files))
    return [
        *_qemu(disk.accelerator, host.memory),
        "-kernel",
        str(disk.kernel),
        "-initrd",
        str(initrd),
        "-append",
        "root=/dev/vda rw net.ifnames=0 panic=-1 console=ttyS0 quiet systemd.show_status=error",
        "-drive",
        f"file={own},if=virtio,cache=unsafe,discard=unmap",
        "-netdev",
        f"tap,id=n0,ifname={tap},script=no,downscript=no",
        "-device",
        f"virtio-net-pci,netdev=n0,mac={host.mac},romfile=",
        "-serial",
        f"file:{place}/serial.log",
        "-monitor",
        "none",
    ]


def _qemu(accelerator: str, memory: int) -> list[str]:
    # Two processors hung once under emulation; five-level paging has a cost there and no use.
    processor = "host" if accelerator == "kvm" else "max,la57=off"
    return [
        "qemu-system-x86_64",
        *("-accel", accelerator),
        *("-cpu", processor),
        *("-smp", "1"),
        *("-m", str(memory)),
        "-nodefaults",
        "-no-reboot",
        *("-display", "none"),
        *("-device", "virtio-rng-pci"),
    ]


def accelerator(kernel: Path, initrd: Path) -> str:
    """``kvm`` where a kernel really boots under it, else ``tcg``: a device node alone says nothing.

    The answer is kept for as long as this machine is up, as some machines take seconds to fail.
    """
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "tcg"
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    answer = cache.directory() / "accelerator"
    if answer.exists() and answer.read_text().split()[:1] == [boot]:
        return answer.read_text().split()[1]
    with cache.locked(cache.directory() / "accelerator.lock"):
        found = "kvm" if _boots("kvm", kernel, initrd, 10) else "tcg"
        answer.write_text(f"{boot} {found}\n")
    return found


def _boots(name: str, kernel: Path, initrd: Path, seconds: float) -> bool:
    argv = [*_qemu(name, 256), "-kernel", str(kernel), "-initrd", str(initrd)]
    argv += [
        "-append",
        "console=ttyS0 panic=-1 quiet testhosts.probe",
        "-serial",
        "stdio",
        "-monitor",
        "none",
    ]
    deadline = time.monotonic() + seconds
    with subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        os.set_blocking(process.stdout.fileno(), False)
        heard = b""
        try:
            while time.monotonic() < deadline:
                heard += process.stdout.read() or b""
                if PROBE_MARK.encode() in heard:
                    return True
                if process.poll() is not None:
                    return False
                time.sleep(0.05)
            return False
        finally:
            process.kill()
