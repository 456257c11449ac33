"""The root of an app of an exited pod, as the app left it.

It is the overlay that the app ran on, mounted again without a place to write to, and in no mount namespace:
it ends with this process, however that ends. The pod's lock is held meanwhile, so nobody removes the pod.

What the launch itself put there for its mounts is told apart: mount points that neither the image nor the
app made, and files of the image that had to give way to a mount point. Whatever was mounted is no part of
the root: volumes, ``/proc``, the pod's ``/etc/resolv.conf`` and so on.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import TYPE_CHECKING, Any, NamedTuple

from gantry.errors import HostError, NotFoundError, UsageError
from gantry.linux import syscalls
from gantry.pods import state
from gantry.pods.info import find_uuid

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from gantry.config import Paths


class Merged(NamedTuple):
    """The root of an app.

    Attributes:
        rootfs: A path to it; it is read-only.
        manifest: The manifest of the app's image.
        without: Paths below the root, without a leading slash, that are the launch's and nobody else's.
        instead: Paths below the root in place of which the image has something else: where that is.
    """

    rootfs: str
    manifest: bytes
    without: frozenset[str]
    instead: dict[str, str]


@contextlib.contextmanager
def merged(paths: Paths, reference: str, app: str | None = None) -> Iterator[Merged]:
    """Mount the root of an app while the block runs.

    Args:
        paths: Where pods are.
        reference: The pod: a UUID, or the beginning of one.
        app: Its name; not needed if it is the only one.

    Raises:
        PodStateError: The pod is not exited.
        UsageError: It has several apps, and none is named.
        NotFoundError: There is no such pod, or no such app in it.
        HostError: The kernel refuses.
    """
    uuid = find_uuid(paths, reference)
    path, lock = _exited(paths, uuid)
    try:
        chosen = _choose(state.read_json(f"{path}/plan.json")["apps"], app, uuid)
        lower, directory = chosen["lower"], f"{path}/apps/{chosen['name']}"
        with open(f"{directory}/image-manifest", "rb") as file:
            manifest = file.read()
        targets = [mount["destination"] for mount in state.read_json(f"{directory}/config.json")["mounts"]]
        instead = {name: f"{lower}/{name}" for name in _relative(chosen["unlink"])}
        with _mounted(f"{path}/overlay/{chosen['name']}/upper", lower) as root:
            yield Merged(root, manifest, _of_the_launch(root, chosen, targets), instead)
    finally:
        os.close(lock)


def _exited(paths: Paths, uuid: str) -> tuple[str, int]:
    """The directory of an exited pod, and the descriptor that holds its lock."""
    for name in ("run", "exited-garbage"):
        path = state.directory(paths.data, name, uuid)
        try:
            lock = state.hold(path)
        except PermissionError as error:
            raise HostError(f"{path} cannot be read", hint="become root") from error
        if lock is not None:
            return path, lock
    raise state.PodStateError(
        f'pod "{uuid}" is not exited. Only exited pods can be exported',
        hint="what the app of a named pod wrote is gone when it stops" if _restartable(paths, uuid) else "",
    )


def _restartable(paths: Paths, uuid: str) -> bool:
    name = state.find(paths.data, uuid) or "run"
    info = state.try_json(f"{state.directory(paths.data, name, uuid)}/info.json") or {}
    return bool(info.get("restartable"))


def _choose(apps: list[dict[str, Any]], name: str | None, uuid: str) -> dict[str, Any]:
    names = ", ".join(app["name"] for app in apps)
    if name is None:
        if len(apps) > 1:
            raise UsageError(
                f'pod "{uuid}" contains multiple apps: {names}', hint="say which one: --app=NAME"
            )
        return apps[0]
    for app in apps:
        if app["name"] == name:
            return app
    raise NotFoundError(f'no app "{name}" in pod "{uuid}"', hint=f"it has {names}")


@contextlib.contextmanager
def _mounted(upper: str, lower: str) -> Iterator[str]:
    """Both layers as one; a path to it."""
    with contextlib.ExitStack() as stack:
        layers = []
        for layer in (upper, lower):
            try:
                fd = os.open(layer, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            except FileNotFoundError as error:
                raise HostError(
                    f"{layer} is not there", hint="the app never started, or somebody removed it"
                ) from error
            stack.callback(os.close, fd)
            layers.append(f"/proc/self/fd/{fd}")  # no character of the paths can mean something to overlayfs
        flags = syscalls.MOUNT_ATTR_RDONLY | syscalls.MOUNT_ATTR_NODEV | syscalls.MOUNT_ATTR_NOSUID
        try:
            root = syscalls.mount_detached("overlay", {"lowerdir": ":".join(layers)}, flags)
        except OSError as error:
            hint = "become root" if error.errno == errno.EPERM else "it takes Linux 5.2 or later"
            raise HostError(f"cannot mount the root of the app: {error.strerror}", hint=hint) from error
        stack.callback(os.close, root)
        yield f"/proc/self/fd/{root}/."


def _of_the_launch(root: str, app: dict[str, Any], targets: list[str]) -> frozenset[str]:
    """What neither the image has nor the app made: empty, and where a mount or the launch needed it."""
    links = {path.strip("/"): target for path, target in app["symlinks"]}
    points = {*_relative(targets), *_relative(path for path, _ in app["mkdirs"]), *links}
    candidates = points | {above for path in points for above in _above(path)}
    gone: set[str] = set()
    for path in sorted(candidates, key=lambda path: -path.count("/")):  # what is below comes first
        if not os.path.lexists(f"{app['lower']}/{path}") and _nothing(root, path, links.get(path), gone):
            gone.add(path)
    return frozenset(gone)


def _relative(paths: Iterable[str]) -> list[str]:
    return [path.strip("/") for path in paths if path.strip("/")]


def _above(path: str) -> Iterator[str]:
    while path := os.path.dirname(path):
        yield path


def _nothing(root: str, path: str, link: str | None, gone: set[str]) -> bool:
    """Whether what is at *path* is as the launch made it."""
    whole = f"{root}/{path}"
    try:
        info = os.lstat(whole)
        if stat.S_ISDIR(info.st_mode):
            return all(f"{path}/{name}" in gone for name in os.listdir(whole))
        if stat.S_ISLNK(info.st_mode):
            return link is not None and os.readlink(whole) == link
    except OSError:
        return False
    return stat.S_ISREG(info.st_mode) and info.st_size == 0
