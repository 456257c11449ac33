"""Networks that the administrator or the vendor has configured, in CNI's format: files of ``net.d``.

``LOCAL/net.d`` goes before ``SYSTEM/net.d``, files by their names; the first one that has a name has it. A
file is a plugin's configuration (``.conf``) or a chain of them (``.conflist``). A plugin is a program, called
as its ``type``. Read at prepare, and kept in the pod's plan.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any, NamedTuple

from gantry.errors import GantryError, NotFoundError, UsageError
from gantry.network.plan import BUILT_IN

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gantry.config import Paths

#: Where plugins are, after ``net.d`` itself.
PLUGINS = ("/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni")
_OLDEST = "0.1.0"
_MAX_FILE = 1 << 20
_RESTRICTED = "default-restricted"


class ConfigurationError(GantryError):
    """A file of ``net.d`` is not what CNI says."""

    code = "network-configuration"


class Network(NamedTuple):
    """A configured network.

    Attributes:
        name: Its name.
        file: Where it is from; empty: built in.
        version: Of CNI, that the plugins are spoken to in.
        plugins: Their configurations, in order.
    """

    name: str
    file: str
    version: str
    plugins: list[dict[str, Any]]


class Dns(NamedTuple):
    """What a network says of names: as in :class:`gantry.pods.request.Lookup`."""

    servers: tuple[str, ...]
    search: tuple[str, ...]
    options: tuple[str, ...]
    domain: str | None


class Wanted(NamedTuple):
    """What a pod's networks come to.

    Attributes:
        mode: ``default``, ``none`` or ``host``, the part that is built in.
        configured: The others, for the plan: ``name``, ``args``, ``version`` and ``plugins`` (``program``,
            ``conf``) of each.
        dns: The name servers of the first configured network that names some, else ``None``.
    """

    mode: str
    configured: list[dict[str, Any]]
    dns: Dns | None


def load(paths: Paths) -> tuple[dict[str, Network], list[str]]:
    """Every configured network by its name, and what is wrong with files that are not used, a line each."""
    found: dict[str, Network] = {}
    notes: list[str] = []
    for top in (paths.local, paths.system):
        for file in _files(f"{top}/net.d"):
            try:
                network = read(file)
            except ConfigurationError as error:
                notes.append(str(error))
                continue
            if network.name in found:
                notes.append(f'"{network.name}" network already defined, ignoring {file}')
                continue
            found[network.name] = network
    found.setdefault(_RESTRICTED, _restricted(paths))
    return found, notes


def _restricted(paths: Paths) -> Network:
    """Host and pod, and nothing beyond (RKT-INVENTORY 8.2)."""
    addresses = {
        "type": "host-local",
        "ranges": [[{"subnet": "172.31.0.0/16"}]],
        "dataDir": f"{paths.run}/net/ipam",
    }
    version = "0.4.0"
    conf = {"cniVersion": version, "name": _RESTRICTED, "type": "ptp", "ipMasq": False, "ipam": addresses}
    return Network(_RESTRICTED, "", version, [conf])


def _files(directory: str) -> list[str]:
    try:
        names = os.listdir(directory)
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [f"{directory}/{name}" for name in sorted(names) if name.endswith((".conf", ".conflist"))]


def read(file: str) -> Network:
    """Read one file.

    Raises:
        ConfigurationError: It is not what CNI says.
    """
    try:
        with open(file, "rb") as opened:
            told = json.loads(opened.read(_MAX_FILE))
    except OSError as error:
        raise ConfigurationError(f"{file}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"{file}: is no JSON: {error}", hint="correct or remove it") from error
    if not isinstance(told, dict):
        raise ConfigurationError(f"{file}: is no JSON object", hint="correct or remove it")
    name, version = told.get("name"), told.get("cniVersion", _OLDEST)
    if not isinstance(name, str) or not name or any(c in name for c in ",:;/ \n\0"):
        raise ConfigurationError(f"{file}: has no name", hint='such as "name": "lan"')
    if not isinstance(version, str):
        raise ConfigurationError(f"{file}: cniVersion is no text", hint='such as "cniVersion": "0.4.0"')
    if name in BUILT_IN:
        raise ConfigurationError(f'{file}: "{name}" is built in', hint="give the network another name")
    plugins = told.get("plugins") if file.endswith(".conflist") else [told]
    if not isinstance(plugins, list) or not plugins or not all(isinstance(each, dict) for each in plugins):
        raise ConfigurationError(f'{file}: "plugins" is no list of objects', hint="correct it")
    for plugin in plugins:
        kind = plugin.get("type")
        if not isinstance(kind, str) or not kind or "/" in kind or kind.startswith("."):
            raise ConfigurationError(f'{file}: a plugin has no "type"', hint='such as "type": "bridge"')
    return Network(name, file, version, plugins)


def resolve(names: Sequence[str], paths: Paths) -> Wanted:
    """What the networks *names* (``NAME`` or ``NAME:ARGS``) come to (RKT-INVENTORY 8.1).

    Raises:
        UsageError: The names contradict each other.
        NotFoundError: There is no such network, or not its plugin.
        ConfigurationError: The file that may mean one of them cannot be read.
    """
    wanted = [name.partition(":") for name in names if name] or [("default", "", "")]
    only = [name for name, _, _ in wanted]
    for name, colon, arguments in wanted:
        if only.count(name) > 1:
            raise UsageError(f'found duplicate netname "{name}"', hint="name it once")
        if name in {*BUILT_IN, "all"} and colon:
            raise UsageError(
                f'arguments are not supported by special netname "{name}"', hint=f"name it as {name}"
            )
        if name in {"none", "host", "all"} and len(wanted) > 1:
            raise UsageError(f'network "{name}" cannot be combined with others', hint="name it alone")
        if colon and not all("=" in part for part in arguments.split(";")):
            raise UsageError(
                f'network "{name}" provided with invalid arguments', hint=f"such as {name}:IP=10.0.0.9"
            )
    if set(only) <= set(BUILT_IN):
        return Wanted(only[0], [], None)
    known, notes = load(paths)
    if only == ["all"]:
        wanted = [("default", "", ""), *((name, "", "") for name in known if known[name].file)]
        only = [name for name, _, _ in wanted]
    unknown = [name for name in only if name not in known and name != "default"]
    if unknown:
        hint = f"there are {', '.join([*BUILT_IN, *known])}"
        raise NotFoundError(f"networks not found: {', '.join(unknown)}", hint="; ".join([hint, *notes]))
    configured = [
        {
            "name": name,
            "args": arguments,
            "version": known[name].version,
            "plugins": [
                {"program": _program(str(conf["type"]), name, paths), "conf": conf}
                for conf in known[name].plugins
            ],
        }
        for name, _, arguments in wanted
        if name != "default"
    ]
    return Wanted("default" if "default" in only else "none", configured, _dns(configured))


def _program(kind: str, name: str, paths: Paths) -> str:
    for place in (f"{paths.local}/net.d", f"{paths.system}/net.d", *PLUGINS):
        path = f"{place}/{kind}"
        if os.path.isfile(path) and os.access(path, os.X_OK):
            return path
    raise NotFoundError(
        f'Could not find plugin "{kind}" of network "{name}"',
        hint=f"install containernetworking-plugins, or put it into {paths.local}/net.d",
    )


def _dns(configured: list[dict[str, Any]]) -> Dns | None:
    for network in configured:
        for plugin in network["plugins"]:
            told = plugin["conf"].get("dns")
            if not isinstance(told, dict) or not told.get("nameservers"):
                continue
            lists = [told.get(field, []) for field in ("nameservers", "search", "options")]
            domain = told.get("domain") or None
            good = all(isinstance(each, list) and all(isinstance(t, str) for t in each) for each in lists)
            if not good or not isinstance(domain, str | None):
                raise ConfigurationError(
                    f'the dns of network "{network["name"]}" is no object of lists of texts',
                    hint="correct the file in net.d",
                )
            servers, search, options = (tuple(each) for each in lists)
            return Dns(servers, search, options, domain)
    return None
