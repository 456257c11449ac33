"""Assemble the file systems of a pod's apps, where only the launcher and its children see them.

On the launch path.
"""

from __future__ import annotations

import os

from gantry.errors import HostError
from gantry.linux import syscalls
from gantry.pods import sources

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_MAX_FILE = 1 << 20


def mount(path: str, plan: dict[str, Any], *, fresh: bool) -> None:
    """Mount what *plan* says below the pod's directory *path*.

    Args:
        path: The pod's directory.
        plan: Its launch plan.
        fresh: Nobody has written to the apps' layers yet; else they are mounted again as they are.

    Raises:
        HostError: The kernel refused.
        GantryError: A volume's source is not what it was (:func:`gantry.pods.sources.check`).
    """
    sources.bind(path, plan["sources"])
    shared = f"{path}/shm"
    os.makedirs(shared, exist_ok=True)
    flags = syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC
    syscalls.mount("shm", shared, "tmpfs", flags, "mode=1777,size=64m")
    for name in plan["host_files"]:
        _copy(f"/etc/{os.path.basename(name)}", f"{path}/files/{name}")
    for app in plan["apps"]:
        root = f"{path}/apps/{app['name']}/rootfs"
        _overlay(app, root, f"{path}/overlay/{app['name']}", fresh=fresh)
        if fresh:
            _complete(app, root)


def unmount(path: str, plan: dict[str, Any]) -> None:
    """Let go of the mounts, so that the layers below can be removed; what was never mounted is no error."""
    sources.release(path)
    points = [f"{path}/apps/{app['name']}/rootfs" for app in plan["apps"]]
    for point in [*points, f"{path}/shm"]:
        try:
            syscalls.umount(point, syscalls.MNT_DETACH)
        except OSError:
            continue


def _overlay(app: dict[str, Any], root: str, layer: str, *, fresh: bool) -> None:
    if fresh:
        os.makedirs(f"{layer}/upper")
        os.makedirs(f"{layer}/work")
        lower = os.stat(app["lower"])
        os.chmod(f"{layer}/upper", lower.st_mode & 0o7777)
        os.chown(f"{layer}/upper", lower.st_uid, lower.st_gid)
    else:
        _forget_volatile(f"{layer}/work/work/incompat")
    places = (("lowerdir", app["lower"]), ("upperdir", f"{layer}/upper"), ("workdir", f"{layer}/work"))
    options = [f"{name}={escape(place)}" for name, place in places]
    try:
        # volatile: what a pod writes to its root does not survive a power cut, so nobody waits for the disk.
        syscalls.mount("overlay", root, "overlay", 0, ",".join([*options, "volatile"]))
    except OSError as error:
        raise HostError(
            f'cannot mount the root of app "{app["name"]}" at {root}: {error.strerror}',
            hint="the data directory must be on a file system such as ext4 or xfs, not on an overlay",
        ) from error


def _complete(app: dict[str, Any], root: str) -> None:
    for path in app["unlink"]:
        os.unlink(root + path)
    for path, mode in app["mkdirs"]:
        os.mkdir(root + path)
        os.chmod(root + path, mode)
    for path, target in app["symlinks"]:
        os.symlink(target, root + path)


def escape(path: str) -> str:
    """A path as overlayfs reads it in its options."""
    return path.replace("\\", "\\\\").replace(":", "\\:").replace(",", "\\,")


def _copy(source: str, target: str) -> None:
    """Copy a small file of the host's; a missing one becomes an empty one."""
    try:
        with open(source, "rb") as file:
            content = file.read(_MAX_FILE)
    except OSError:
        content = b""
    with open(target, "wb") as out:
        out.write(content)
    os.chmod(target, 0o644)


def _forget_volatile(path: str) -> None:
    """Let overlayfs mount layers again that were used with ``volatile``: no power was lost since."""
    try:
        os.unlink(f"{path}/volatile/dirty")
        os.rmdir(f"{path}/volatile")
        os.rmdir(path)
    except OSError:
        return  # mounting says what is wrong
