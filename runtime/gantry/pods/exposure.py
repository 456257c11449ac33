"""What of pods can be reached, and from where."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from gantry.pods import state
from gantry.pods.info import list_pods

if TYPE_CHECKING:
    from gantry.config import Paths

EVERYWHERE, HERE = "everywhere", "this host"


class Exposed(NamedTuple):
    """A port, or an address with all of its ports, behind which a pod is.

    Attributes:
        uuid: The pod.
        pod_name: Its name, or ``None``.
        network: By which network.
        address: Of the host, or of the pod; empty: every address of the host.
        port: There; ``None``: every port that an app opens.
        protocol: ``tcp``, ``udp``; empty with every port.
        pod_port: The port in the pod that it leads to, or ``None``.
        reached_from: Who gets there, unless a firewall of the host forbids it.
    """

    uuid: str
    pod_name: str | None
    network: str
    address: str
    port: int | None
    protocol: str
    pod_port: int | None
    reached_from: str


def exposures(paths: Paths) -> list[Exposed]:
    """What of the pods that run can be reached, ordered by pod."""
    found: list[Exposed] = []
    for pod in list_pods(paths):
        if pod.state != "running":
            continue
        network = (state.try_json(f"{pod.path}/info.json") or {}).get("network") or {}
        if network.get("mode") == "host":
            found.append(Exposed(pod.uuid, pod.pod_name, "host", "", None, "", None, EVERYWHERE))
        for joined in pod.networks:
            name = str(joined.get("netName"))
            if joined.get("ip"):
                who = HERE if name in {"default", "default-restricted"} else f"this host and network {name}"
                found.append(Exposed(pod.uuid, pod.pod_name, name, joined["ip"], None, "", None, who))
            for port in joined.get("ports") or []:
                address = port.get("host_ip") or ""
                who = (
                    EVERYWHERE
                    if not address
                    else HERE
                    if address.startswith("127.")
                    else f"whoever reaches {address}"
                )
                found.append(
                    Exposed(
                        pod.uuid,
                        pod.pod_name,
                        name,
                        address,
                        port["host_port"],
                        port["protocol"],
                        port["pod_port"],
                        who,
                    )
                )
    return found
