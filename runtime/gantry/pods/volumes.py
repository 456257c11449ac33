"""Volumes of an app: check sources and targets, and say what the launcher has to do (VOL-01 ... VOL-32)."""

from __future__ import annotations

import os
import posixpath
import stat
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from gantry.linux.programs import Program, find
from gantry.pods.sources import VolumeError
from gantry.stage1.spec import Bind

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gantry.appc.parts import Volume
    from gantry.pods.manifest import AppMount
    from gantry.pods.request import Creation
    from gantry.pods.rootview import Found, RootView


class Mounted(NamedTuple):
    """The volumes of one app.

    Attributes:
        binds: For the OCI configuration.
        unlink: Files in the app's root that give way to a directory (VOL-21).
    """

    binds: list[Bind]
    unlink: list[str]


def check_source(volume: Volume) -> os.stat_result:
    """The status of a host volume's source (VOL-24 ... VOL-28).

    Raises:
        VolumeError: It is missing, or it or a part of its path is a symbolic link.
    """
    source = posixpath.normpath(volume.source or "")
    at = ""
    status: os.stat_result | None = None
    for part in source.split("/")[1:]:
        at += f"/{part}"
        try:
            status = os.lstat(at)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise VolumeError(
                f'volume "{volume.name}": source "{source}" does not exist ("{at}" is missing)',
                hint="create it first, or ask for that with create",
            ) from error
        if stat.S_ISLNK(status.st_mode):
            raise VolumeError(
                f'volume "{volume.name}": source "{source}" leads through the symbolic link "{at}"',
                hint=f"name the real path: {os.path.realpath(source)}",
            )
    return status or os.lstat("/")


def create_source(volume: Volume, creation: Creation) -> Callable[[], None] | None:
    """Make the source of a host volume, if it is missing (case 42).

    Returns:
        What takes it back; ``None``: it was there.

    Raises:
        VolumeError: It cannot be made; what leads there has to exist, without links.
    """
    source = posixpath.normpath(volume.source or "")
    if os.path.lexists(source):
        return None
    check_source(replace(volume, source=posixpath.dirname(source)))
    try:
        if creation.kind == "directory":
            os.mkdir(source, 0o700)
        else:
            os.close(os.open(source, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        os.chown(source, creation.uid, creation.gid, follow_symlinks=False)
        os.chmod(source, creation.mode)
    except FileExistsError:
        return None
    except OSError as error:
        raise VolumeError(
            f'volume "{volume.name}": source "{source}" cannot be made: {error.strerror}',
            hint="make it, or give another",
        ) from error
    return partial(os.rmdir if creation.kind == "directory" else os.unlink, source)


def make_empty(volume: Volume, path: str) -> None:
    """Make the directory of an empty volume (VOL-07 ... VOL-09), whatever the umask is."""
    os.mkdir(path)
    os.chown(path, volume.uid, volume.gid)
    os.chmod(path, volume.mode)


def seed(view: RootView, target: str, path: str) -> None:
    """Begin an implicit volume with what the image has at *target*: content, owner and mode.

    Raises:
        VolumeError: It cannot be copied.
    """
    found = view.resolve(target)
    if found.status is None or found.host is None or not stat.S_ISDIR(found.status.st_mode):
        return
    if os.listdir(found.host):
        cp = find("cp")
        program = Program([cp or "/bin/cp", "-a", "--", f"{found.host}/.", path])
        status, said = program.wait(), program.complaint()
        program.close()
        if status:
            raise VolumeError(f'cannot copy what the image has at "{target}" into its volume: {said}')
    os.chown(path, found.status.st_uid, found.status.st_gid)
    os.chmod(path, stat.S_IMODE(found.status.st_mode))


def place(
    app: str,
    mounts: Sequence[AppMount],
    view: RootView,
    *,
    now: str,
    later: str,
    bound: Callable[[str, os.stat_result], str],
    warn: Callable[[str], None],
) -> Mounted:
    """Decide how each of an app's volumes is mounted, and put them into *view*.

    Args:
        app: Its name, for messages.
        mounts: What to mount.
        view: The app's root; gets the volumes mounted.
        now: The directory of empty volumes at present.
        later: The same once the pod runs.
        bound: Given a path of the host's and its status, where the launcher will have bound it.
        warn: Told of what gets hidden (VOL-22).

    Raises:
        VolumeError: A source is not acceptable, or targets overlap (VOL-23).
        LookupFailedError: A target leads nowhere.
    """
    result = Mounted([], [])
    taken: dict[str, str] = {}
    appear: list[tuple[str, str]] = []
    for mount in mounts:
        target = view.resolve(mount.path)
        _refuse_target(app, mount.path, target.path, taken)
        taken[target.path] = mount.path
        volume = mount.volume
        device: tuple[str, int, int] | None = None
        if volume.kind == "host":
            status = check_source(volume)
            here = posixpath.normpath(volume.source or "")
            source = bound(here, status)
            if stat.S_ISBLK(status.st_mode) or stat.S_ISCHR(status.st_mode):
                kind = "b" if stat.S_ISBLK(status.st_mode) else "c"
                device = (kind, os.major(status.st_rdev), os.minor(status.st_rdev))
            is_directory = stat.S_ISDIR(status.st_mode)
        else:
            source, here, is_directory = f"{later}/{mount.key}", f"{now}/{mount.key}", True
        if _meet(app, mount, target, is_directory=is_directory, warn=warn):
            result.unlink.append(target.path)
        result.binds.append(
            Bind(
                source,
                target.path,
                read_only=mount.read_only,
                recursive=volume.kind == "host" and volume.recursive is not False,
                device=device,
            )
        )
        appear.append((target.path, here))
    # Only now: targets are resolved in the image alone, since overlapping ones are refused.
    for path, here in appear:
        view.mount(path, here)
    return result


def _refuse_target(app: str, path: str, target: str, taken: dict[str, str]) -> None:
    if target in {"/", "/dev", "/proc"} or target.startswith("/proc/"):
        raise VolumeError(f'app "{app}": nothing can be mounted on "{path}"', hint="choose another target")
    for other, other_path in taken.items():
        if target == other or target.startswith(f"{other}/") or other.startswith(f"{target}/"):
            raise VolumeError(
                f'app "{app}": the mounts on "{other_path}" and "{path}" overlap', hint="move one of them"
            )


def _meet(
    app: str, mount: AppMount, target: Found, *, is_directory: bool, warn: Callable[[str], None]
) -> bool:
    """What the image has where a volume goes (VOL-20 ... VOL-22, VOL-26); whether it has to be unlinked."""
    if target.status is None or target.host is None:
        return False
    target_is_directory = stat.S_ISDIR(target.status.st_mode)
    if is_directory and not target_is_directory:
        warn(f'app "{app}": the file "{target.path}" of the image gives way to volume "{mount.volume.name}"')
        return True
    if not is_directory and target_is_directory:
        raise VolumeError(
            f'app "{app}": volume "{mount.volume.name}" is no directory, but "{target.path}" of the image is',
            hint="mount it on a file's path",
        )
    if target_is_directory and not mount.implicit and os.listdir(target.host):
        warn(f'app "{app}": volume "{mount.volume.name}" hides what the image has in "{target.path}"')
    return False
