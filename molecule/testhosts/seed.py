"""What makes a copy of a base root this very host: the same small set of files for machines and VMs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from testhosts.spec import GATEWAY, Host

INTERFACE = {"machine": "host0", "vm": "eth0"}

_SSHD = """\
PermitRootLogin prohibit-password
PasswordAuthentication no
UsePAM no
UseDNS no
MaxSessions 100
MaxStartups 100
"""

# nspawn mounts the hierarchies of cgroup v1 read-only below a private root of its own: systemd inside manages
# only its own one, but a container runtime needs them all. On a machine with pure cgroup v2 there are none.
_INIT = """\
#!/bin/sh
for d in /sys/fs/cgroup/*/; do
    d="${d%/}"
    if [ ! -L "$d" ] && mountpoint -q "$d"; then mount -o remount,rw,bind "$d"; fi
done
# nspawn hands on every capability as inheritable; on a host that was booted PID 1 has none of that kind.
exec setpriv --inh-caps=-all /lib/systemd/systemd "$@"
"""
INIT_PATH = "/usr/sbin/init-testhost"


@dataclass(frozen=True)
class File:
    """A file of the seed: absolute path, content, permission bits; the owner is root."""

    path: str
    content: bytes
    mode: int = 0o644


def hosts_file(hosts: tuple[Host, ...]) -> str:
    """An ``/etc/hosts`` by which the hosts of a fleet know each other and their aliases."""
    lines = ["127.0.0.1 localhost", "::1 localhost ip6-localhost ip6-loopback"]
    lines += [" ".join([host.address, host.name, *host.aliases]) for host in hosts]
    return "\n".join(lines) + "\n"


def files(host: Host, hosts: tuple[Host, ...], public_key: str, host_key: Path) -> list[File]:
    """The seed of *host*: its names, address, ssh keys; for a machine also its init wrapper."""
    link = (
        f"[Match]\nName={INTERFACE[host.kind]}\n\n[Network]\nAddress={host.address}/24\nGateway={GATEWAY}\n"
    )
    link += "LinkLocalAddressing=no\nIPv6AcceptRA=no\nDHCP=no\n"
    public = host_key.with_name(host_key.name + ".pub")
    seed = [
        File("/etc/hostname", f"{host.name}\n".encode()),
        File("/etc/hosts", hosts_file(hosts).encode()),
        File("/etc/resolv.conf", b"# This network has no name server; see /etc/hosts.\n"),
        File("/etc/machine-id", b""),
        File("/etc/systemd/network/10-testhost.network", link.encode()),
        File("/etc/ssh/sshd_config.d/testhost.conf", _SSHD.encode()),
        File("/etc/ssh/ssh_host_ed25519_key", host_key.read_bytes(), 0o600),
        File("/etc/ssh/ssh_host_ed25519_key.pub", public.read_bytes()),
        File("/root/.ssh/authorized_keys", f"{public_key}\n".encode(), 0o600),
    ]
    if host.kind == "machine":
        seed.append(File(INIT_PATH, _INIT.encode(), 0o755))
    return seed


def write(seed: list[File], root: Path) -> None:
    """Lay *seed* into the directory *root*, such as the upper layer of an overlay."""
    for file in seed:
        path = root / file.path.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.content)
        path.chmod(file.mode)
    if (ssh := root / "root/.ssh").is_dir():
        ssh.parent.chmod(0o700)
        ssh.chmod(0o700)
