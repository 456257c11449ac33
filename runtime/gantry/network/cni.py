"""Join a pod to configured networks by their CNI plugins, and take it out again.

What is joined is written down in the pod's directory before a plugin is asked: whoever cleans up after the
pod, however it ended, finds there what has to be undone. The network namespace is kept at a place of its own
(a mount) until then, as plugins need it to give everything back.

On the launch path of such pods only.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal

from gantry.errors import HostError
from gantry.linux import syscalls
from gantry.linux.lean import dumps, loads
from gantry.linux.programs import ENVIRONMENT, Program, exit_code

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_RECORD = "cni.json"
_SECONDS = 30.0  # for one plugin
_MAX_ANSWER = 1 << 20


def keep_namespace(run: str, uuid: str, pid: int) -> str:
    """Keep the network namespace of process *pid* until :func:`leave`; the path by which it is reached.

    In the host's mount namespace, so that whoever cleans up finds it.

    Raises:
        OSError: The kernel refused.
    """
    place = _place(run, uuid)
    os.makedirs(os.path.dirname(place), 0o711, exist_ok=True)
    os.close(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
    syscalls.mount(f"/proc/{pid}/ns/net", place, None, syscalls.MS_BIND)
    return place


def _place(run: str, uuid: str) -> str:
    return f"{run}/net/ns/{uuid}"


def join(run: str, path: str, uuid: str, plan: dict[str, Any]) -> list[dict[str, Any]]:
    """Join the pod to its configured networks, in their order.

    Args:
        run: The run directory.
        path: The pod's directory.
        uuid: The pod.
        plan: The network's part of the pod's plan. With network default that has ``eth0`` and the ports.

    Returns:
        What is known of each: as in ``net-info.json``.

    Raises:
        HostError: A plugin refused; what was joined has been left again.
    """
    joined: list[dict[str, Any]] = []
    told = []
    default = plan["mode"] == "default"
    ports = [] if default else plan["ports"]
    try:
        for number, network in enumerate(plan["configured"], 1 if default else 0):
            entry = {**network, "interface": f"eth{number}", "ports": ports}
            joined.append(entry)
            _write(f"{path}/{_RECORD}", {"networks": joined})
            result = _add(run, uuid, entry)
            told.append(_shown(entry, result))
    except BaseException:
        with contextlib.suppress(HostError):  # what was refused first is told; the record stays for gc
            leave(run, path, uuid)
        raise
    return told


def leave(run: str, path: str, uuid: str) -> None:
    """Take the pod out of all it was joined to, in reverse order; harmless when done already.

    Raises:
        HostError: A plugin refused; the others were asked all the same. It may be called again.
    """
    record = f"{path}/{_RECORD}"
    place = _place(run, uuid)
    refusals: list[HostError] = []
    try:
        with open(record, "rb") as file:
            networks = loads(file.read())["networks"]
    except (OSError, ValueError, KeyError, TypeError):
        networks = []
    for entry in reversed(networks):
        for plugin in reversed(entry["plugins"]):
            try:
                _call("DEL", run, uuid, entry, plugin, previous=None)
            except HostError as error:
                refusals.append(error)
    with contextlib.suppress(OSError):  # it never got there, or this is a later boot
        syscalls.umount(place, syscalls.MNT_DETACH)
    for name in (place, record):
        try:
            if not refusals or name == place:
                os.unlink(name)
        except FileNotFoundError:
            continue
    if refusals:
        raise refusals[0]


def _add(run: str, uuid: str, entry: dict[str, Any]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for plugin in entry["plugins"]:
        result = _call("ADD", run, uuid, entry, plugin, previous=result or None)
    return result


def _call(
    command: str,
    run: str,
    uuid: str,
    entry: dict[str, Any],
    plugin: dict[str, Any],
    *,
    previous: dict[str, Any] | None,
) -> dict[str, Any]:
    conf = {**plugin["conf"], "name": entry["name"], "cniVersion": entry["version"]}
    if previous is not None:
        conf["prevResult"] = previous
    if (conf.pop("capabilities", None) or {}).get("portMappings") and entry["ports"]:
        conf["runtimeConfig"] = {
            "portMappings": [
                {
                    "hostPort": port["host_port"],
                    "containerPort": port["pod_port"],
                    "protocol": port["protocol"],
                    "hostIP": port["host_ip"],
                }
                for port in entry["ports"]
            ]
        }
    place = _place(run, uuid)
    environment = {
        **ENVIRONMENT,
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": uuid,
        "CNI_NETNS": place if os.path.exists(place) else "",
        "CNI_IFNAME": entry["interface"],
        "CNI_PATH": os.path.dirname(plugin["program"]),
    }
    if entry["args"]:
        environment["CNI_ARGS"] = f"IgnoreUnknown=1;{entry['args']}"  # plugins of a chain take different ones
    what = f'plugin "{conf["type"]}" of network "{entry["name"]}"'
    output = os.memfd_create("cni", os.MFD_CLOEXEC)
    try:
        try:
            program = Program(
                [plugin["program"]],
                stdin=dumps(conf).encode(),
                output=output,
                environment=environment,
                group=True,
            )
        except OSError as error:
            raise HostError(f"cannot start the {what}: {error.strerror}", hint="install it again") from error
        status = _wait(program)
        answer = os.pread(output, _MAX_ANSWER, 0)
        said = program.complaint()
        program.close()
    finally:
        os.close(output)
    if status is None:
        raise HostError(
            f"the {what} was silent for {_SECONDS:.0f} s and was ended", hint="run it by hand to see why"
        )
    if status:
        raise HostError(f"the {what} failed: {_why(answer) or said or f'status {status}'}", hint="see net.d")
    if command == "DEL":
        return {}
    try:
        result = loads(answer)
    except (ValueError, RecursionError):
        result = None
    if not isinstance(result, dict):
        raise HostError(f"the {what} gave no result", hint="it does not follow CNI")
    return result


def _wait(program: Program) -> int | None:
    """The status of a plugin; ``None``: it took too long. Nothing of it is left in either case."""
    handle = os.pidfd_open(program.pid)
    try:
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        ended = bool(poll.poll(_SECONDS * 1000))
    finally:
        os.close(handle)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(program.pid, signal.SIGKILL)  # its children, too
    status = exit_code(os.waitpid(program.pid, 0)[1])
    return status if ended else None


def _why(answer: bytes) -> str:
    try:
        told = loads(answer)
        return " ".join(str(told[field]) for field in ("msg", "details") if told.get(field))
    except (ValueError, RecursionError, AttributeError, TypeError):
        return ""


def _shown(entry: dict[str, Any], result: dict[str, Any]) -> dict[str, Any]:
    """As rkt shows it; of several addresses the first, an IPv4 one where there is one."""
    addresses = [
        str(each.get("address"))
        for each in result.get("ips") or []
        if isinstance(each, dict) and each.get("address")
    ]
    for family in ("ip4", "ip6"):
        told = result.get(family)
        if isinstance(told, dict) and told.get("ip"):
            addresses.append(str(told["ip"]))
    addresses.sort(key=lambda address: ":" in address)
    plain = [address.partition("/")[0] for address in addresses]
    return {
        "netName": entry["name"],
        "ifName": entry["interface"],
        "ip": plain[0] if plain else "",
        "addresses": addresses,
        "args": entry["args"],
        "ports": entry["ports"],
    }


def _write(path: str, value: dict[str, Any]) -> None:
    fd = os.open(f"{path}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(fd, "wb") as file:
        file.write(dumps(value).encode())
    os.rename(f"{path}.new", path)
