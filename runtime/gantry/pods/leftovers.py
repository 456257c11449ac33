"""What pods that are gone have left on the host, of every kind; found by looking, not by remembering.

``gc`` gives back what there is a record of. Here the host is compared with the pods that run: mounts, control
groups, interfaces, addresses, namespaces, files of the run directory, references to trees, half-made pods.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import time
from typing import TYPE_CHECKING, NamedTuple

from gantry import audit
from gantry.errors import GantryError
from gantry.linux import cgroups, syscalls
from gantry.network.wire import alias, known
from gantry.pods import state
from gantry.pods.lifecycle import EMBRYO_AGE, Collected, collect_one, settle, sweep
from gantry.stage1.flavor import NAMES as FLAVORS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gantry.config import Paths
    from gantry.images import Store

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_INTERFACE = re.compile(r"gantry-([0-9a-f]{8})")


_GONE = {errno.EINVAL, errno.ENOENT}


class Leftover(NamedTuple):
    """Something of a pod that is gone.

    Attributes:
        kind: ``mount``, ``control group``, ``interface``, ``address``, ``namespace``, ``file``, ``reference``
            or ``pod``.
        what: Where it is.
        uuid: Whose it was; empty where nothing tells.
    """

    kind: str
    what: str
    uuid: str


def find(paths: Paths, store: Store) -> list[Leftover]:
    """All there is now. Nothing is changed."""
    state.check_format(paths.data)
    return [
        *_mounts(paths),
        *_groups(paths),
        *_interfaces(paths),
        *_addresses(paths),
        *_files(paths),
        *_references(paths, store),
        *_pods(paths),
    ]


def repair(paths: Paths, store: Store, found: list[Leftover]) -> list[str]:
    """Remove *found*, unless it has come to life since; what could not be removed, a line each."""
    problems: list[str] = []
    done = Collected()
    layout = cgroups.layout()
    for uuid in sorted({each.uuid for each in found if each.uuid}):
        if os.path.isdir(state.directory(paths.data, "run", uuid)) and not _is_alive(paths.data, uuid):
            settle(paths, uuid)  # its supervisor was killed
    for each in found:
        if each.uuid and _is_alive(paths.data, each.uuid):
            continue
        try:
            if each.kind in {"mount", "namespace"}:
                syscalls.umount(each.what, syscalls.MNT_DETACH)
            elif each.kind == "control group":
                cgroups.kill(layout, each.what)
                cgroups.remove(layout, each.what)
            elif each.kind == "reference":
                store.drop_ref(each.what, each.uuid)
            elif each.kind == "pod":
                collect_one(paths, each.uuid, each.what.split("/")[-2], done, None)
        except GantryError as error:
            problems.append(f"{each.kind} {each.what}: {error}")
        except OSError as error:
            if error.errno not in _GONE:
                problems.append(f"{each.kind} {each.what}: {error.strerror}")
    sweep(paths, done)
    return problems + done.errors


def _is_alive(data: str, uuid: str) -> bool:
    """Whether somebody makes, starts or runs the pod."""
    return any(state.is_held(state.directory(data, name, uuid)) for name in ("prepare", "prepared", "run"))


def _mounts(paths: Paths) -> Iterator[Leftover]:
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        points = [line.split(" ")[4] for line in file]
    for point in reversed(points):  # what is mounted last goes first
        for top, kind in ((f"{paths.data}/pods/", "mount"), (f"{paths.run}/net/ns/", "namespace")):
            found = _UUID.search(point.removeprefix(top)) if point.startswith(top) else None
            if found and not _is_alive(paths.data, found[0]):
                yield Leftover(kind, point, found[0])


def _groups(paths: Paths) -> Iterator[Leftover]:
    layout = cgroups.layout()
    seen: set[str] = set()
    for point in layout.mounts():
        seen.update(name for name in _names(point + cgroups.ROOT) if _UUID.fullmatch(name))
    # Another installation may have pods on this host, too: what is ours is on record.
    ours = (
        {str(entry.get("uuid")) for entry in audit.entries(paths.data, event="pod.prepare")}
        if seen
        else set()
    )
    for uuid in sorted(seen & ours):
        if not _is_alive(paths.data, uuid):
            yield Leftover("control group", f"{cgroups.ROOT}/{uuid}", uuid)


def _interfaces(paths: Paths) -> Iterator[Leftover]:
    for name in _names("/sys/class/net"):
        short = _INTERFACE.fullmatch(name)
        if not short or not _read(f"/sys/class/net/{name}/ifalias").startswith(alias(paths.run, "")):
            continue
        owners = [uuid for uuid in _names(f"{paths.data}/pods/run") if uuid.startswith(short[1])]
        if not any(_is_alive(paths.data, uuid) for uuid in owners):
            yield Leftover("interface", name, "")


def _addresses(paths: Paths) -> Iterator[Leftover]:
    directory = f"{paths.run}/net/default"
    if os.path.isdir(directory):
        for record in known(directory):
            if not _is_alive(paths.data, record.uuid):
                yield Leftover("address", record.address, record.uuid)


def _files(paths: Paths) -> Iterator[Leftover]:
    for place in ("pods", *FLAVORS, "net/ns"):
        for name in _names(f"{paths.run}/{place}"):
            uuid = name.removesuffix(".pid")
            if _UUID.fullmatch(uuid) and not _is_alive(paths.data, uuid):
                yield Leftover("file", f"{paths.run}/{place}/{name}", uuid)


def _references(paths: Paths, store: Store) -> Iterator[Leftover]:
    for tree in store.entries("tree"):
        if tree.startswith("."):
            continue
        for uuid in store.refs(tree):
            if _UUID.fullmatch(uuid) and state.find(paths.data, uuid) is None:
                yield Leftover("reference", tree, uuid)


def _pods(paths: Paths) -> Iterator[Leftover]:
    for name in ("embryo", "prepare", "garbage"):
        for uuid in _names(f"{paths.data}/pods/{name}"):
            path = state.directory(paths.data, name, uuid)
            if state.is_held(path):
                continue
            with contextlib.suppress(OSError):
                if name != "embryo" or time.time() - os.stat(path).st_ctime > EMBRYO_AGE:
                    yield Leftover("pod", path, uuid)


def _names(directory: str) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except OSError:
        return []


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
