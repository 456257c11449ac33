"""What a fleet looks like: the YAML document that a scenario or the demo writes."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from testhosts.errors import HostsError

KINDS = ("machine", "vm")
SUITES = ("bookworm", "trixie")
SUBNET = "10.77.0"
"""Every fleet uses the same addresses: it has a network namespace of its own, so nothing can collide."""
GATEWAY = f"{SUBNET}.1"
FIRST_ADDRESS = 11
MAX_HOSTS = 60

_NAME = re.compile(r"[a-z]([a-z0-9-]{0,22}[a-z0-9])?")
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]+")
_ALIAS = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")


@dataclass(frozen=True)
class Host:
    """One host of a fleet.

    Attributes:
        name: Its hostname and inventory name.
        kind: ``machine`` or ``vm``.
        suite: The Debian release it runs.
        address: Its IPv4 address on the fleet's bridge (a /24).
        groups: Inventory groups.
        aliases: Further names by which every host of the fleet finds it.
        vars: Inventory variables.
        memory: MiB, for VMs.
        packages: Debian packages beside those of every host, sorted; for machines.
    """

    name: str
    kind: str
    suite: str
    address: str
    groups: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    vars: dict[str, Any] = field(default_factory=dict)
    memory: int = 1024
    packages: tuple[str, ...] = ()

    @property
    def mac(self) -> str:
        """A locally administered address that is a function of the IPv4 address."""
        return "02:67:74:00:00:{:02x}".format(int(self.address.rsplit(".", 1)[1]))


@dataclass(frozen=True)
class Spec:
    """A fleet: its hosts in order, and variables for all of them."""

    hosts: tuple[Host, ...]
    vars: dict[str, Any] = field(default_factory=dict)


def load(path: Path) -> Spec:
    """Read and check a fleet's description.

    Raises:
        HostsError: The file is missing, no YAML, or describes no possible fleet; says where.
    """
    try:
        document = yaml.safe_load(path.read_text())
    except OSError as error:
        raise HostsError(f"cannot read {path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise HostsError(f"{path} is not YAML: {error}") from error
    return parse(document, str(path))


def parse(document: object, origin: str = "spec") -> Spec:
    """Turn a parsed document into a :class:`Spec`; see :func:`load`."""
    top = _mapping(document, origin, {"hosts", "vars", "defaults"})
    defaults = _mapping(top.get("defaults") or {}, f"{origin}: defaults", {"kind", "suite", "memory"})
    entries = top.get("hosts")
    if not isinstance(entries, list) or not 1 <= len(entries) <= MAX_HOSTS:
        raise HostsError(f"{origin}: hosts must be a list of 1 to {MAX_HOSTS} hosts")
    hosts = tuple(
        _host(entry, defaults, FIRST_ADDRESS + i, f"{origin}: hosts[{i}]") for i, entry in enumerate(entries)
    )
    seen: set[str] = set()
    for host in hosts:
        for name in (host.name, *host.aliases):
            if name in seen:
                raise HostsError(f"{origin}: two hosts are called {name}")
            seen.add(name)
    return Spec(hosts, _mapping(top.get("vars") or {}, f"{origin}: vars", None))


def _host(entry: object, defaults: dict[str, Any], last: int, where: str) -> Host:
    known = {"name", "kind", "suite", "groups", "aliases", "vars", "memory", "packages"}
    given = {
        "kind": "machine",
        "suite": "bookworm",
        "memory": 1024,
        **defaults,
        **_mapping(entry, where, known),
    }
    name = given.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise HostsError(f"{where}: name {name!r} must be 1 to 24 lower-case letters, digits and hyphens")
    for key, allowed in (("kind", KINDS), ("suite", SUITES)):
        if given[key] not in allowed:
            raise HostsError(f"{where}: {key} {given[key]!r} is not one of {', '.join(allowed)}")
    memory = given["memory"]
    if not isinstance(memory, int) or isinstance(memory, bool) or memory < 256:
        raise HostsError(f"{where}: memory must be a number of MiB, 256 or more")
    aliases = _names(given.get("aliases"), f"{where}: aliases")
    for alias in aliases:
        if not _ALIAS.fullmatch(alias):
            raise HostsError(f"{where}: alias {alias!r} is not a host name")
    packages = _names(given.get("packages"), f"{where}: packages")
    for package in packages:
        if not _PACKAGE.fullmatch(package):
            raise HostsError(f"{where}: package {package!r} is no name of a Debian package")
    if packages and given["kind"] != "machine":
        raise HostsError(f"{where}: packages are for machines; a VM has those of every host")
    return Host(
        name=name,
        kind=given["kind"],
        suite=given["suite"],
        address=f"{SUBNET}.{last}",
        groups=_names(given.get("groups"), f"{where}: groups"),
        aliases=aliases,
        vars=_mapping(given.get("vars") or {}, f"{where}: vars", None),
        memory=memory,
        packages=tuple(sorted(set(packages))),
    )


def _mapping(value: object, where: str, known: set[str] | None) -> dict[str, Any]:
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise HostsError(f"{where}: must be a mapping")
    if known is not None and (unknown := sorted(set(value) - known)):
        raise HostsError(f"{where}: unknown key {unknown[0]}", hint=f"known: {', '.join(sorted(known))}")
    return value


def _names(value: object, where: str) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
        raise HostsError(f"{where}: must be a list of names")
    return tuple(value)
