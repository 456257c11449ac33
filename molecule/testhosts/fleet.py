"""A fleet's life: made from a spec into a state directory, listed, and removed without a trace.

    DIR/state.json        the fleet's id and hosts; written before anything else is made
    DIR/lock              held by whoever makes or removes, by its programs, by a host until it is on record
    DIR/netns             the network namespace (a mount)
    DIR/inventory.yml     for Ansible
    DIR/ssh_config        for ssh; with id_ed25519 and known_hosts beside it
    DIR/hosts/NAME/       the host's layers or disk, its process and console.log
    RUN/ID/state          a link to DIR, so that fleets can be listed
    RUN/ID/...            sockets, whose paths must be short
    /sys/fs/cgroup/*/testhosts-ID/NAME   every process of the host

All that is named by DIR or by ID, so `destroy` finds it after any crash.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import secrets
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from testhosts import cache, cgroups, machines, network, roots, seed, ssh, vms
from testhosts.errors import HostsError
from testhosts.spec import Host, Spec

RUN = Path("/run/gantry-testhosts")
VERSION = 1
BOOT_SECONDS = {"machine": 90.0, "vm": 420.0}
"""How long a host may take until it answers; a VM without KVM on a busy machine takes over a minute."""

Say = Callable[[str], None]

_children: dict[str, list[subprocess.Popen[bytes]]] = {}
"""By fleet: the hosts that this very process has started, so that they can be waited for when they end."""


@dataclass(frozen=True)
class Fleet:
    """A fleet that exists, or a part of one that a crash left."""

    directory: Path
    id: str
    hosts: tuple[Host, ...]

    @property
    def netns(self) -> Path:
        """The handle of its network namespace."""
        return self.directory / "netns"

    @property
    def ssh_config(self) -> Path:
        """A configuration for ``ssh -F``."""
        return self.directory / "ssh_config"

    @property
    def inventory(self) -> Path:
        """The Ansible inventory."""
        return self.directory / "inventory.yml"

    @property
    def sockets(self) -> Path:
        """Where its sockets are."""
        return RUN / self.id

    def host(self, name: str) -> Host:
        """The host called *name*.

        Raises:
            HostsError: There is none.
        """
        for host in self.hosts:
            if host.name == name:
                return host
        names = ", ".join(h.name for h in self.hosts)
        raise HostsError(f"there is no host {name}", hint=f"hosts: {names}")

    def host_directory(self, host: Host) -> Path:
        """The host's own directory."""
        return self.directory / "hosts" / host.name

    def alive(self, host: Host) -> bool:
        """Whether the host's recorded process still is that process."""
        try:
            pid, start = (self.host_directory(host) / "process").read_text().split()
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except (OSError, ValueError):
            return False
        return fields[19] == start and fields[0] not in {"Z", "X"}


def create(spec: Spec, directory: Path, say: Say = lambda _line: None) -> Fleet:
    """Make the fleet *spec* in *directory* and wait until every host has booted.

    Whatever goes wrong, an interrupt included, what was made is removed again.

    Raises:
        HostsError: The directory is in use, or a host could not be made or did not come up.
    """
    directory = directory.absolute()
    if os.geteuid() != 0:
        raise HostsError("test hosts need root on this machine", hint="run this as root")
    if re.search(r"[\s:,\\'\"%]", str(directory)):
        raise HostsError(
            f"{directory} cannot hold a fleet: its path has a character that mount(8) or ssh(1) splits at"
        )
    bases = {_base(host) for host in spec.hosts}
    say(f"base roots: {', '.join(' with '.join([b.suite, *b.packages]) for b in sorted(bases))}")
    trees = roots.prepare(bases)
    disks = vms.prepare({host.suite for host in spec.hosts if host.kind == "vm"})
    directory.mkdir(parents=True, exist_ok=True)
    if any(directory.iterdir()):
        raise HostsError(f"{directory} is not empty", hint=f"testhosts destroy --state {directory}")
    directory.chmod(0o700)
    fleet = Fleet(directory, secrets.token_hex(4), spec.hosts)
    with _lock(directory) as lock:
        try:
            _record(fleet)
            say(f"starting {', '.join(host.name for host in spec.hosts)}")
            _build(fleet, spec, trees, disks, lock)
            _wait(fleet, say)
        except BaseException:
            _remove(fleet)
            raise
    return fleet


def load(directory: Path) -> Fleet:
    """The fleet in *directory*.

    Raises:
        HostsError: There is none.
    """
    directory = directory.absolute()
    try:
        state = json.loads((directory / "state.json").read_text())
        hosts = tuple(
            Host(**{**host, **{key: tuple(host.get(key, ())) for key in ("groups", "aliases", "packages")}})
            for host in state["hosts"]
        )
        return Fleet(directory, state["id"], hosts)
    except FileNotFoundError as error:
        raise HostsError(
            f"there is no fleet in {directory}", hint="testhosts list shows all fleets"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise HostsError(f"{directory}/state.json cannot be understood: {error}") from error


def every() -> list[tuple[str, Path]]:
    """All fleets of this machine: id and state directory."""
    if not RUN.is_dir():
        return []
    return [
        (entry.name, (entry / "state").readlink())
        for entry in sorted(RUN.iterdir())
        if (entry / "state").is_symlink()
    ]


def destroy(directory: Path) -> bool:
    """Remove the fleet in *directory*, whole or half-made; False if there was nothing.

    Raises:
        HostsError: It is being made by another process, or something of it would not go.
    """
    directory = directory.absolute()
    if not (directory / "state.json").exists():
        # Somebody removed the directory under a running fleet, or a removal was cut short: the id is known.
        orphans = [fleet_id for fleet_id, place in every() if place == directory]
        for fleet_id in orphans:
            _remove(Fleet(directory, fleet_id, ()))
        if orphans or not directory.is_dir():
            return bool(orphans)
        strangers = [path.name for path in directory.iterdir() if path.name not in {"lock", "state.json.new"}]
        if strangers:
            raise HostsError(f"{directory} is no state directory: it holds {strangers[0]}")
        cache.remove_tree(directory)
        return False
    try:
        fleet = load(directory)
    except HostsError:
        # A record that this version cannot read: what it made has the id in its names all the same.
        known = [fleet_id for fleet_id, place in every() if place == directory]
        if not known:
            raise
        fleet = Fleet(directory, known[0], ())
    with _lock(directory):
        _remove(fleet)
    return True


@contextlib.contextmanager
def _lock(directory: Path, *, seconds: float = 15) -> Iterator[int]:
    descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        deadline = time.monotonic() + seconds
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise HostsError(f"{directory} is being made or removed by another process") from None
                time.sleep(0.05)
        yield descriptor
    finally:
        os.close(descriptor)


def _record(fleet: Fleet) -> None:
    """Write down what will be made, durably, before any of it is."""
    state = {"version": VERSION, "id": fleet.id, "hosts": [asdict(host) for host in fleet.hosts]}
    fresh = fleet.directory / "state.json.new"
    with fresh.open("w") as handle:
        json.dump(state, handle, indent=1)
        handle.flush()
        os.fsync(handle.fileno())
    fresh.rename(fleet.directory / "state.json")
    fleet.sockets.mkdir(parents=True, mode=0o700)
    (fleet.sockets / "state").symlink_to(fleet.directory)


def _base(host: Host) -> roots.Base:
    return roots.Base(host.suite, host.packages)


def _build(
    fleet: Fleet, spec: Spec, trees: dict[roots.Base, Path], disks: dict[str, vms.Disk], lock: int
) -> None:
    network.make(fleet.netns, lock)
    key = fleet.directory / "id_ed25519"
    public = ssh.make_key(key, f"testhosts-{fleet.id}", lock)
    known = []
    for host in fleet.hosts:
        place = fleet.host_directory(host)
        place.mkdir(parents=True)
        known.append(f"{host.name},{host.address} {ssh.make_key(place / 'host_key', host.name, lock)}\n")
        files = seed.files(host, fleet.hosts, public, place / "host_key")
        joined = cgroups.make(fleet.id, host.name)
        if host.kind == "machine":
            argv, environment = _machine(host, place, trees[_base(host)], files)
        else:
            tap = f"tap{host.address.rsplit('.', 1)[1]}"
            network.make_tap(fleet.netns, tap, lock)
            argv = vms.command(host, place, disks[host.suite], files, tap=tap, hold=lock)
            environment = {}
        _launch(fleet, place, argv, {**environment, "TH_CGROUPS": "\n".join(map(str, joined))}, lock)
    known_hosts = fleet.directory / "known_hosts"
    known_hosts.write_text("".join(known))
    ssh.write_config(
        fleet.ssh_config, fleet.hosts, netns=fleet.netns, key=key, known=known_hosts, sockets=fleet.sockets
    )
    write_inventory(fleet, spec)


def _machine(host: Host, place: Path, base: Path, files: list[seed.File]) -> tuple[list[str], dict[str, str]]:
    upper, work, root, data = machines.layers(place)
    seed.write(files, upper)
    argv, environment = machines.command(host, root, data)
    if not machines.upper_works(place):
        environment["TH_MEMORY"] = str(place)
    overlay = f"lowerdir={base},upperdir={upper},workdir={work}"
    return argv, {**environment, "TH_OVERLAY": overlay, "TH_ROOT": str(root)}


def _launch(fleet: Fleet, place: Path, argv: list[str], environment: dict[str, str], lock: int) -> None:
    """Start a host's process in a session of its own; it keeps the lock until it has recorded itself."""
    script = Path(__file__).with_name("launch.sh")
    variables = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG": "C.UTF-8",
        "TH_PROCESS": str(place / "process"),
        "TH_NETNS": str(fleet.netns),
        "TH_OVERLAY": "",
        "TH_ROOT": "",
        "TH_MEMORY": "",
        **environment,
    }
    with (place / "console.log").open("ab") as console:
        child = subprocess.Popen(
            ["sh", str(script), *argv],
            stdin=lock,
            stdout=console,
            stderr=console,
            env=variables,
            start_new_session=True,
        )
    _children.setdefault(fleet.id, []).append(child)


def _wait(fleet: Fleet, say: Say) -> None:
    def one(host: Host) -> None:
        began = time.monotonic()
        deadline = began + BOOT_SECONDS[host.kind]
        try:
            _recorded(fleet, host, deadline)
            ssh.wait_banner(fleet.netns, host, deadline, lambda: fleet.alive(host))
            left = max(deadline - time.monotonic(), 1)
            done = ssh.run(fleet.ssh_config, host.name, "systemctl is-system-running --wait", timeout=left)
            if (state := done.stdout.strip()) != "running":
                failed = ssh.run(fleet.ssh_config, host.name, "systemctl --failed --no-legend --plain").stdout
                units = " ".join(line.split()[0] for line in failed.splitlines() if line.strip())
                raise HostsError(f"{host.name} came up {state or done.stderr.strip()}: {units}")
        except HostsError as error:
            raise HostsError(f"{error.message}; its last words: {_last_words(fleet, host)}") from error
        say(f"{host.name} is up ({time.monotonic() - began:.1f} s)")

    with ThreadPoolExecutor(max_workers=len(fleet.hosts)) as pool:
        for _done in pool.map(one, fleet.hosts):
            pass


def _recorded(fleet: Fleet, host: Host, deadline: float) -> None:
    """Wait until the launched process has written itself down."""
    while not (fleet.host_directory(host) / "process").exists():
        if time.monotonic() > deadline:
            raise HostsError(f"{host.name} did not start")
        time.sleep(0.01)


def _last_words(fleet: Fleet, host: Host) -> str:
    lines: list[str] = []
    for name in ("console.log", "serial.log"):
        with contextlib.suppress(OSError):
            lines += (fleet.host_directory(host) / name).read_text(errors="replace").splitlines()
    return " / ".join([line.strip() for line in lines if line.strip()][-3:]) or "none"


def write_inventory(fleet: Fleet, spec: Spec) -> None:
    """Write the Ansible inventory of *fleet*."""
    everyone: dict[str, Any] = {}
    groups: dict[str, Any] = {}
    for host in fleet.hosts:
        everyone[host.name] = {"ansible_host": host.address, **host.vars}
        for group in host.groups:
            groups.setdefault(group, {"hosts": {}})["hosts"][host.name] = {}
    shared = {
        "ansible_user": "root",
        "ansible_ssh_common_args": f"-F {fleet.ssh_config}",
        "ansible_control_path_dir": str(fleet.sockets),
        "ansible_pipelining": True,
        "ansible_python_interpreter": "/usr/bin/python3",
        **spec.vars,
    }
    document = {"all": {"hosts": everyone, "vars": shared, "children": groups}}
    fleet.inventory.write_text("---\n" + yaml.safe_dump(document, sort_keys=False))


def _remove(fleet: Fleet) -> None:
    """Remove all of it; every step can be repeated, and the record of the id goes last."""
    ssh.close_masters(fleet.sockets)
    cgroups.kill(fleet.id)
    for child in _children.pop(fleet.id, []):
        child.wait()
    cgroups.remove(fleet.id)
    if fleet.directory.is_dir():
        network.remove(fleet.netns)
        cache.remove_tree(fleet.directory)
    cache.remove_tree(fleet.sockets)
    with contextlib.suppress(OSError):
        RUN.rmdir()
