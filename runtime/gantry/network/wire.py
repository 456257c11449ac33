"""Do what a network plan says: addresses, veth pairs, the firewall table; and undo it.

On disk, below the run directory::

    net/lock                 flock: whoever changes anything below, or the table
    net/default/ADDRESS      one pod's address, made with O_EXCL: JSON, see :class:`Record`
    net/default.last         the address given out last: addresses are not used again at once

The rules:

- These files are the truth; the nftables table ``inet gantry`` is derived from them. Every change writes the
  whole table in one transaction, so a firewall that was reloaded and forgot us is repaired by the next start,
  and there is no state in which half of a pod's rules exist. Established connections do not notice.
- A pod's interface carries the run directory and the pod as its alias, for :mod:`gantry.network.inspect`.
- A record of another boot, or of a pod whose lock is free, is stale and removed by whoever meets it.
- A pod may send only from its own address, and nothing to the host's loopback (which is reachable through a
  veth once ``route_localnet`` lets forwarded ports answer on 127.0.0.1). It may send nothing but IPv4: the
  kernel gives every interface a link-local IPv6 address, by which it would reach services of the host that no
  rule for IPv4 protects.
- Ports are checked before anything is made: against other pods and against the host's own listeners.

On the launch path: ``nft`` is the only program started.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket

from gantry.errors import BusyError, HostError
from gantry.linux import lean, namespaces
from gantry.linux.netlink import Netlink
from gantry.linux.programs import Program, find

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

NETWORK = "172.16.28"
SUBNET = f"{NETWORK}.0/24"
GATEWAY = f"{NETWORK}.1"
NETMASK = "255.255.255.0"
FIRST, LAST = 2, 254
INTERFACE = "eth0"

_TABLE = """\
table inet gantry
delete table inet gantry
table inet gantry {{
  map forward_any {{ type inet_proto . inet_service : ipv4_addr . inet_service; {any} }}
  map forward_at {{ type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; {at} }}
  set sources {{ type ifname . ipv4_addr; {sources} }}
  set selves {{ type ipv4_addr . ipv4_addr; {selves} }}
  chain guard {{ type filter hook prerouting priority -300; policy accept;
    iifname "gantry-*" meta nfproto != ipv4 drop
    iifname "gantry-*" ip daddr 127.0.0.0/8 drop
    iifname "gantry-*" iifname . ip saddr != @sources drop
  }}
  chain arriving {{ type nat hook prerouting priority -100; policy accept;
    dnat ip to ip daddr . meta l4proto . th dport map @forward_at
    fib daddr type local dnat ip to meta l4proto . th dport map @forward_any
  }}
  chain local {{ type nat hook output priority -100; policy accept;
    dnat ip to ip daddr . meta l4proto . th dport map @forward_at
    fib daddr type local dnat ip to meta l4proto . th dport map @forward_any
  }}
  chain leaving {{ type nat hook postrouting priority 100; policy accept;
    ip saddr . ip daddr @selves masquerade
    ip saddr 127.0.0.0/8 ip daddr {subnet} masquerade
    ip saddr {subnet} ip daddr != {{ {subnet}, 224.0.0.0/4 }} masquerade
  }}
}}
"""
_NFT_HINT = "check that the kernel has nf_tables with nat and fib"
_NO_TABLE = "table inet gantry\ndelete table inet gantry\n"


class Record:
    """What a file of ``net/default`` says.

    Attributes:
        address: The pod's address.
        uuid: The pod.
        pod: The pod's directory while it runs: its lock tells whether the record is stale.
        boot: The boot it was made in.
        interface: The host's end of the veth pair.
        ports: Port maps: ``protocol``, ``host_ip`` (empty: all), ``host_port``, ``pod_port``.
    """

    __slots__ = ("address", "boot", "interface", "pod", "ports", "uuid")

    def __init__(
        self, *, address: str, uuid: str, pod: str, boot: str, interface: str, ports: list[dict[str, Any]]
    ) -> None:
        self.address = address
        self.uuid = uuid
        self.pod = pod
        self.boot = boot
        self.interface = interface
        self.ports = ports

    def dump(self) -> bytes:
        """The file's content."""
        return lean.dumps(
            {
                "uuid": self.uuid,
                "pod": self.pod,
                "boot_id": self.boot,
                "interface": self.interface,
                "ports": self.ports,
            }
        ).encode()

    @classmethod
    def load(cls, path: str) -> Record | None:
        """Read one; ``None`` when it is torn (its writer died) or gone."""
        try:
            with open(path, "rb") as file:
                data = lean.loads(file.read())
            return cls(
                address=os.path.basename(path),
                uuid=data["uuid"],
                pod=data["pod"],
                boot=data["boot_id"],
                interface=data["interface"],
                ports=data["ports"],
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None


class Reservation:
    """An address and ports, taken; the network lock stays held until :meth:`connect` or :meth:`undo`."""

    __slots__ = ("_directory", "_lock", "_nft", "_run", "changed", "record")

    def __init__(self, run: str, lock: int, record: Record, nft: Program, changed: list[str]) -> None:
        self._run = run
        self._directory = f"{run}/net/default"
        self._lock = lock
        self._nft: Program | None = nft
        self.record = record
        self.changed = changed

    def connect(self, namespace: int) -> dict[str, Any]:
        """Wire the pod whose network namespace is behind descriptor *namespace*.

        Returns:
            The entry for ``net-info.json``.

        Raises:
            HostError: The kernel or nft refused; everything is undone by then.
        """
        record = self.record
        try:
            with Netlink() as host, Netlink.of_namespace(namespace) as pod:
                try:
                    host.add_veth(record.interface, INTERFACE, namespace)
                except OSError as error:
                    if error.errno != errno.EEXIST:
                        raise
                    host.delete(record.interface)
                    host.add_veth(record.interface, INTERFACE, namespace)
                inside, outside = pod.index(INTERFACE), host.index(record.interface)
                host.add_address(outside, GATEWAY, 32)
                host.up(outside, alias=alias(self._run, record.uuid))
                host.add_route(outside, record.address, 32, source=GATEWAY)
                pod.add_address(inside, record.address, 24, route=False)
                pod.up(inside)
                pod.add_route(inside, GATEWAY, 32, source=record.address)
                pod.add_route(inside, f"{NETWORK}.0", 24, gateway=GATEWAY, source=record.address)
                pod.add_route(inside, "0.0.0.0", 0, gateway=GATEWAY, source=record.address)  # noqa: S104
            if record.ports:
                _sysctl(f"conf/{record.interface}/route_localnet", "1")
            self._await_nft()
        except (OSError, HostError) as error:
            self.undo()
            if isinstance(error, HostError):
                raise
            raise HostError(
                f"cannot connect the pod to network default: {error.strerror or error}",
                hint="does the kernel have veth interfaces (modprobe veth)? networks none and host need none",
            ) from error
        self._unlock()
        return {
            "netName": "default",
            "netConf": "",
            "pluginPath": "",
            "ifName": INTERFACE,
            "args": "",
            "ip": record.address,
            "mask": NETMASK,
            "hostIfName": record.interface,
            "ports": record.ports,
        }

    def _await_nft(self) -> None:
        nft, self._nft = self._nft, None
        if nft:
            status = nft.wait()
            complaint = nft.complaint()
            nft.close()
            if status:
                raise HostError(
                    f"cannot set the firewall table inet gantry: nft said: {complaint or status}",
                    hint=_NFT_HINT,
                )

    def _unlock(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def undo(self) -> None:
        """Give everything back; never raises, harmless after :meth:`connect`."""
        if self._lock < 0:
            return
        if self._nft:
            self._nft.wait()
            self._nft.close()
            self._nft = None
        with contextlib.suppress(OSError, HostError):  # the next start or gc removes what is stale
            _drop(self._directory, [self.record])
        self._unlock()


def reserve(
    run: str, uuid: str, pod: str, ports: list[dict[str, Any]], is_alive: Callable[[str], bool]
) -> Reservation:
    """Take an address and the ports, and let nft begin.

    Args:
        run: The run directory.
        uuid: The pod.
        pod: The directory the pod will have while it runs.
        ports: Port maps as in :class:`Record`.
        is_alive: Whether a pod, by its directory, holds its lock.

    Raises:
        BusyError: A host port is taken, or no address is left.
        HostError: The network collides with one of the host's, or nft is missing.
    """
    nft = _nft()
    _refuse_collision()
    directory = f"{run}/net/default"
    os.makedirs(directory, 0o755, exist_ok=True)
    lock = lock_network(run)
    try:
        boot = namespaces.boot_id()
        records = living(directory, boot, is_alive, uuid)
        _refuse_taken(ports, records)
        record = Record(
            address=_pick(run, records),
            uuid=uuid,
            pod=pod,
            boot=boot,
            interface=f"gantry-{uuid[:8]}",
            ports=ports,
        )
        _create(f"{directory}/{record.address}", record.dump())
        changed = _forwarding()
        program = Program([nft, "-f", "-"], stdin=table([*records, record]))
    except BaseException:
        os.close(lock)
        raise
    return Reservation(run, lock, record, program, changed)


def release(run: str, uuid: str) -> None:
    """Give back whatever pod *uuid* holds; harmless when it holds nothing.

    Raises:
        HostError: nft refused.
    """
    directory = f"{run}/net/default"
    if not os.path.isdir(directory):
        return
    lock = lock_network(run)
    try:
        mine = [record for record in known(directory) if record.uuid == uuid]
        if mine:
            _drop(directory, mine)
    finally:
        os.close(lock)


def table(records: list[Record]) -> bytes:
    """The input for nft that makes the table what *records* say, in one transaction."""
    if not records:
        return _NO_TABLE.encode()
    anywhere: list[str] = []
    somewhere: list[str] = []
    for record in records:
        for port in record.ports:
            target = f"{record.address} . {port['pod_port']}"
            key = f"{port['protocol']} . {port['host_port']}"
            if port["host_ip"]:
                somewhere.append(f"{port['host_ip']} . {key} : {target}")
            else:
                anywhere.append(f"{key} : {target}")

    def elements(items: list[str]) -> str:
        return f"elements = {{ {', '.join(items)} }};" if items else ""

    return _TABLE.format(
        any=elements(anywhere),
        at=elements(somewhere),
        sources=elements([f'"{record.interface}" . {record.address}' for record in records]),
        selves=elements([f"{record.address} . {record.address}" for record in records if record.ports]),
        subnet=SUBNET,
    ).encode()


def overlaps(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two port maps want the same host port (POD-28)."""
    same = (one["protocol"], one["host_port"]) == (other["protocol"], other["host_port"])
    return same and (not one["host_ip"] or not other["host_ip"] or one["host_ip"] == other["host_ip"])


def written(port: dict[str, Any]) -> str:
    """A port map's host side, as messages show it."""
    return f"{port['protocol']}-{port['host_ip'] or '0.0.0.0'}:{port['host_port']}"  # noqa: S104


def alias(run: str, uuid: str) -> str:
    """What an interface of ours is labelled with: people see whose it is, and we whether it is ours."""
    return f"gantry {run} {uuid}"[-255:]


def _nft() -> str:
    path = find("nft")
    if path is None:
        raise HostError("network default needs nft, which is not installed", hint="install nftables")
    return path


def lock_network(run: str) -> int:
    """Take the network lock; it is held until the descriptor is closed."""
    fd = os.open(f"{run}/net/lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(fd, fcntl.LOCK_EX)
    return fd


def known(directory: str) -> list[Record]:
    """Every record that can be read, stale ones too; the caller holds the lock."""
    found = (Record.load(f"{directory}/{name}") for name in sorted(os.listdir(directory)))
    return [record for record in found if record]


def living(directory: str, boot: str, is_alive: Callable[[str], bool], own: str = "") -> list[Record]:
    """The living records; stale and torn ones, and those of pod *own*, are removed with their interfaces.

    The caller holds the lock and writes the table.
    """
    found: list[Record] = []
    stale: list[Record] = []
    for name in sorted(os.listdir(directory)):
        record = Record.load(f"{directory}/{name}")
        if record is None:
            os.unlink(f"{directory}/{name}")
        elif record.boot == boot and record.uuid != own and is_alive(record.pod):
            found.append(record)
        else:
            stale.append(record)
    for record in stale:
        _remove_interface(record.interface)
        os.unlink(f"{directory}/{record.address}")
    return found


def _drop(directory: str, gone: list[Record]) -> None:
    names = {record.address for record in gone}
    for record in gone:
        _remove_interface(record.interface)
    # Before the files go: if nft refuses, they stay and are stale, and whoever comes next tries again.
    write_table([record for record in known(directory) if record.address not in names])
    for record in gone:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{directory}/{record.address}")


def write_table(records: list[Record]) -> None:
    """Make the table what *records* say.

    Raises:
        HostError: nft is missing or refused.
    """
    nft = Program([_nft(), "-f", "-"], stdin=table(records))
    status = nft.wait()
    complaint = nft.complaint()
    nft.close()
    if status:
        raise HostError(
            f"cannot set the firewall table inet gantry: nft said: {complaint or status}", hint=_NFT_HINT
        )


def _remove_interface(name: str) -> None:
    with Netlink() as host:
        host.delete(name)


def _create(path: str, content: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        os.write(fd, content)
    finally:
        os.close(fd)


def _pick(run: str, records: list[Record]) -> str:
    path = f"{run}/net/default.last"
    try:
        with open(path, encoding="ascii") as file:
            last = int(file.read())
    except (OSError, ValueError):
        last = FIRST - 1
    taken = {record.address for record in records}
    count = LAST - FIRST + 1
    for step in range(1, count + 1):
        host = FIRST + (last - FIRST + step) % count
        address = f"{NETWORK}.{host}"
        if address not in taken:
            with open(path, "w", encoding="ascii") as file:
                file.write(str(host))
            return address
    raise BusyError(
        f"no address is left in network default ({SUBNET}): {count} pods hold one",
        hint="stop a pod, or give pods that need no address --net=none",
    )


def _refuse_taken(ports: list[dict[str, Any]], records: list[Record]) -> None:
    for port in ports:
        for record in records:
            for other in record.ports:
                if overlaps(port, other):
                    raise BusyError(
                        f"port {written(port)} already mapped to pod port {other['pod_port']}",
                        hint=f"stop pod {record.uuid} or choose another host port",
                    )
        kind = socket.SOCK_STREAM if port["protocol"] == "tcp" else socket.SOCK_DGRAM
        with socket.socket(socket.AF_INET, kind) as probe:
            if kind == socket.SOCK_STREAM:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((port["host_ip"], port["host_port"]))
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    raise BusyError(
                        f"port {written(port)} is in use by a program on this host",
                        hint="stop that program or choose another host port",
                    ) from error
                if error.errno == errno.EADDRNOTAVAIL:
                    raise HostError(
                        f"port {written(port)} cannot be forwarded: the host has no such address",
                        hint="ip address shows those it has; without one, all of them are meant",
                    ) from error
                raise HostError(
                    f"port {written(port)} cannot be forwarded: {error.strerror}",
                    hint="choose another host address or port",
                ) from error


def _refuse_collision() -> None:
    """Refuse when a network of the host's own lies inside ours: pods would hide it."""
    ours = int.from_bytes(socket.inet_aton(f"{NETWORK}.0"), "big")
    with open("/proc/net/route", encoding="ascii") as file:
        lines = file.read().splitlines()[1:]
    for line in lines:
        fields = line.split()
        name = fields[0]
        mask = int.from_bytes(bytes.fromhex(fields[7])[::-1], "big")
        network = int.from_bytes(bytes.fromhex(fields[1])[::-1], "big")
        if not name.startswith("gantry-") and mask >= 0xFFFFFF00 and network & 0xFFFFFF00 == ours:
            raise HostError(
                f"network default ({SUBNET}) collides with a route of this host through {name}",
                hint="use --net=host or --net=none on this host",
            )


def _sysctl(name: str, value: str) -> None:
    with open(f"/proc/sys/net/ipv4/{name}", "w", encoding="ascii") as file:
        file.write(value)


def _forwarding() -> list[str]:
    with open("/proc/sys/net/ipv4/ip_forward", encoding="ascii") as file:
        if file.read().strip() != "0":
            return []
    _sysctl("ip_forward", "1")
    return ["net.ipv4.ip_forward=1"]
