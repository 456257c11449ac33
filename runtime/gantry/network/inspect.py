"""Compare network default as the kernel has it with what its records say, and make the kernel agree.

:mod:`gantry.network.wire` undoes what it has a record of. What nobody has a record of (a file that was
deleted, a host that was restored, a network manager that removed what is not its own) is found here, by
looking. Used by gc; never by a launch: the import alone takes longer than that.
"""

from __future__ import annotations

import os
import re
import socket
from typing import TYPE_CHECKING, Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from gantry.errors import HostError
from gantry.linux import namespaces
from gantry.network.wire import GATEWAY, alias, known, living, lock_network, write_table

if TYPE_CHECKING:
    from collections.abc import Callable

    from gantry.network.wire import Record

_NAME = re.compile(r"gantry-[0-9a-f]{8}")
_STATIC, _BY_KERNEL, _LINK_SCOPE, _LOCAL = 4, 2, 253, 255


def sweep(run: str, is_alive: Callable[[str], bool]) -> list[str]:
    """Remove records, interfaces, routes, addresses and rules of no living pod; restore what one lacks.

    Interfaces of another run directory are left alone.

    Args:
        run: The run directory.
        is_alive: Whether a pod, by its directory, holds its lock.

    Returns:
        What was done, one line each; [] where kernel and records agreed.

    Raises:
        HostError: nft or the kernel refused.
    """
    directory = f"{run}/net/default"
    if not os.path.isdir(directory):
        return []
    lock = lock_network(run)
    try:
        before = {record.address: record for record in known(directory)}
        records = living(directory, namespaces.boot_id(), is_alive)
        done = [
            f"{address} was held by pod {record.uuid}, which is gone"
            for address, record in before.items()
            if address not in {each.address for each in records}
        ]
        with IPRoute() as kernel:
            done += _remove_interfaces(kernel, run, records)
            for record in records:
                done += _mend(kernel, record)
        write_table(records)
    except (NetlinkError, OSError) as error:
        raise HostError(
            f"cannot look after network default: {error}", hint="run it again; ip link shows what is there"
        ) from error
    finally:
        os.close(lock)
    return done


def _remove_interfaces(kernel: IPRoute, run: str, records: list[Record]) -> list[str]:
    """With an interface go its addresses and routes."""
    done = []
    wanted = {record.interface for record in records}
    for link in kernel.get_links():
        name, label = link.get_attr("IFLA_IFNAME"), link.get_attr("IFLA_IFALIAS")
        ours = label is None or label.startswith(alias(run, ""))
        if _NAME.fullmatch(name) and _kind(link) == "veth" and ours and name not in wanted:
            kernel.link("del", index=link["index"])
            done.append(f"interface {name} belonged to no pod")
    return done


def _kind(link: Any) -> str | None:
    info = link.get_attr("IFLA_LINKINFO")
    return info.get_attr("IFLA_INFO_KIND") if info else None


def _mend(kernel: IPRoute, record: Record) -> list[str]:
    """A living pod's interface has one address and one route, to the pod."""
    found = kernel.link_lookup(ifname=record.interface)
    if not found:
        return [f"interface {record.interface} of pod {record.uuid} is gone: restart the pod"]
    index, done = found[0], []
    addresses = {
        (address.get_attr("IFA_LOCAL"), address["prefixlen"])
        for address in kernel.get_addr(family=socket.AF_INET, index=index)
    }
    if (GATEWAY, 32) not in addresses:
        kernel.addr("add", index=index, address=GATEWAY, prefixlen=32)
        done.append(f"address {GATEWAY} of {record.interface} was missing")
    for address, length in addresses - {(GATEWAY, 32)}:
        kernel.addr("del", index=index, address=address, prefixlen=length)
        done.append(f"address {address} of {record.interface} belonged to no pod")
    # In every table but the kernel's own, which follows the addresses.
    routes = [
        route
        for route in kernel.get_routes(family=socket.AF_INET, oif=index)
        if route["table"] != _LOCAL and route["proto"] != _BY_KERNEL
    ]
    wanted = [
        route for route in routes if (route.get_attr("RTA_DST"), route["dst_len"]) == (record.address, 32)
    ]
    if not wanted:
        kernel.route(
            "add", dst=f"{record.address}/32", oif=index, prefsrc=GATEWAY, scope=_LINK_SCOPE, proto=_STATIC
        )
        done.append(f"route to {record.address} was missing")
    for route in routes:
        if route in wanted:
            continue
        destination = f"{route.get_attr('RTA_DST') or '0.0.0.0'}/{route['dst_len']}"  # noqa: S104
        kernel.route(
            "del",
            dst=destination,
            oif=index,
            table=route.get_attr("RTA_TABLE") or route["table"],
            proto=route["proto"],
            scope=route["scope"],
        )
        done.append(f"route to {destination} through {record.interface} belonged to no pod")
    return done
