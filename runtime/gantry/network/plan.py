"""Decide on a pod's network: which one, and which ports of the host lead where. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gantry.errors import GantryError, NotFoundError, UsageError
from gantry.network.wire import overlaps, written

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from gantry.appc.parts import Port
    from gantry.appc.pod_manifest import ExposedPort

BUILT_IN = ("default", "none", "host")
_PROTOCOLS = ("tcp", "udp")


class PortError(GantryError):
    """Forwarded ports cannot be what was asked for."""

    code = "port"


def mode(names: Sequence[str]) -> str:
    """The one network of a pod: ``default``, ``none`` or ``host``.

    Raises:
        UsageError: The names contradict each other.
        NotFoundError: There is no network of that name.
    """
    wanted = [name for name in names if name] or ["default"]
    for name in wanted:
        if wanted.count(name) > 1:
            raise UsageError(f'network "{name}" is named twice', hint="name it once")
    unknown = [name for name in wanted if name.partition(":")[0] not in BUILT_IN]
    if unknown:
        raise NotFoundError(
            f"networks not found: {', '.join(unknown)}", hint=f"this version has {', '.join(BUILT_IN)}"
        )
    name, colon, _ = wanted[0].partition(":")
    if len(wanted) > 1:
        raise UsageError(
            f'network "{name}" cannot be combined with others', hint="name one of default, none, host"
        )
    if colon:
        raise UsageError(f'network "{name}" takes no arguments', hint=f"name it as {name}")
    return name


def ports(
    exposed: Iterable[ExposedPort], declared: Sequence[tuple[str, Port]], network: str
) -> list[dict[str, Any]]:
    """The port maps of a pod (POD-22 ... POD-28, TRAP-26).

    Args:
        exposed: From the pod manifest.
        declared: App name and port, for all ports of all apps.
        network: As :func:`mode` says.

    Raises:
        PortError: A name fits no port or several, a protocol cannot be forwarded, or two maps collide.
        UsageError: The network has no port maps.
    """
    maps: list[dict[str, Any]] = []
    for entry in exposed:
        if network in {"none", "host"}:
            raise UsageError(
                f'ports cannot be forwarded with network "{network}"',
                hint="use network default, or forward no port",
            )
        port = entry.pod_port or _by_name(entry.name, declared)
        if port.protocol not in _PROTOCOLS:
            raise PortError(
                f'port "{entry.name}" speaks {port.protocol}, which cannot be forwarded',
                hint="tcp and udp can",
            )
        if entry.host_port + port.count > 65536:
            raise PortError(
                f'the range of port "{entry.name}" ends beyond host port 65535',
                hint="begin at a lower host port",
            )
        for step in range(port.count):
            new = {
                "protocol": port.protocol,
                "host_ip": _address(entry.host_ip),
                "host_port": entry.host_port + step,
                "pod_port": port.port + step,
            }
            for other in maps:
                if overlaps(new, other):
                    raise PortError(
                        f"port {written(new)} already mapped to pod port {other['pod_port']}",
                        hint="choose another host port",
                    )
            maps.append(new)
    return maps


def _address(host_ip: str | None) -> str:
    return "" if host_ip in {None, "0.0.0.0"} else str(host_ip)  # noqa: S104 - it means: all addresses


def _by_name(name: str, declared: Sequence[tuple[str, Port]]) -> Port:
    found = [(app, port) for app, port in declared if port.name == name]
    if not found:
        known = ", ".join(sorted({port.name for _, port in declared})) or "none"
        raise PortError(f'port name "{name}" could not be found in any apps', hint=f"declared ports: {known}")
    if len(found) > 1:
        raise PortError(
            f'port name "{name}" defined multiple apps',
            hint=f"apps {', '.join(app for app, _ in found)}; use numbers",
        )
    return found[0][1]
