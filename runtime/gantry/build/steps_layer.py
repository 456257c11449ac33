"""What the steps of a build file leave behind: the files that the image consists of.

Without a base and without commands a plain directory is filled. Otherwise the base's rendered tree lies under
an overlay, in a mount namespace of this process's own, and what the steps change is the *upper* directory:
that is the image, and the base its dependency. The rules:

- What the base has cannot be taken away by an image that lies upon it (TRAP-10); it is refused by name,
  unless the base is merged into the image (``flatten``).
- A directory of the base's in which only something was made is written down exactly as the base has it, time
  included (so DEP-15 changes nothing); one in which nothing was made, not at all.
- Everything that was touched since the build began gets the time of the image: what the clock said is no
  property of the content.

A build works in a directory of its own, locked while it lives. What a killed build has left is removed by the
next one: nothing can be mounted there any more, since the mounts went with the process.
"""

from __future__ import annotations

import contextlib
import os
import stat
from typing import TYPE_CHECKING, NamedTuple

from gantry.build.tree import attributes
from gantry.errors import BusyError, HostError
from gantry.linux import namespaces, syscalls
from gantry.linux.fs import make_directory, remove_acls, remove_tree
from gantry.linux.locks import locked
from gantry.pods.mounting import escape
from gantry.pods.rootview import LookupFailedError, RootView

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_WHITEOUT = 0
#: Everything in the upper directory stands for itself: no redirected directories, no files without content.
_SELF_CONTAINED = "redirect_dir=off,metacopy=off,index=off"


class Workplace(NamedTuple):
    """The directory that one build works in.

    Attributes:
        path: It.
        uuid: The build.
        lock: Descriptor of its lock; who holds it keeps the directory.
    """

    path: str
    uuid: str
    lock: int


@contextlib.contextmanager
def workplace(
    parent: str, uuid: str, *, prefix: str = "", forget: Callable[[str], None] | None = None
) -> Iterator[Workplace]:
    """A new directory to work in, removed at the end; before, what killed builds have left goes.

    Args:
        parent: Where it is made.
        uuid: The build; with *prefix* before it the directory's name.
        prefix: Tells builds from strangers' files in *parent*.
        forget: Removes what else a killed build has left, given its UUID.
    """
    _sweep(parent, prefix, forget)
    path = os.path.join(parent, prefix + uuid)
    while True:
        os.mkdir(path, 0o700)
        with contextlib.ExitStack() as stack:
            stack.callback(remove_tree, path)
            remove_acls(path)  # what is made in there would inherit rights that no step gave
            with contextlib.suppress(FileNotFoundError):
                lock = stack.enter_context(locked(path, create=False))
                if os.path.lexists(path):  # else another build swept before it was locked
                    yield Workplace(path, uuid, lock)
                    return


def _sweep(parent: str, prefix: str, forget: Callable[[str], None] | None) -> None:
    for name in os.listdir(parent):
        uuid = name.removeprefix(prefix)
        if not name.startswith(prefix) or len(uuid) != 36:
            continue
        path = os.path.join(parent, name)
        with contextlib.suppress(BusyError, OSError):
            info = os.lstat(path)
            if info.st_uid != os.geteuid() or not stat.S_ISDIR(info.st_mode):
                continue
            with locked(path, timeout=0, create=False):
                if forget is not None:
                    forget(uuid)
                remove_tree(path)


class Layer:
    """The files of an image that is being made.

    Args:
        place: The build's directory.
        base: The base's rendered tree, or ``None``.
        overlay: Whether to mount; else a plain directory is filled, and there is no base.

    Attributes:
        root: The root file system as steps see it.

    Raises:
        HostError: It cannot be mounted.
    """

    def __init__(self, place: str, base: str | None, *, overlay: bool) -> None:
        self._place = place
        self._base = base
        self._overlay = overlay
        self._upper = self.root = f"{place}/upper"
        make_directory(self._upper, 0o755)
        self._started = os.lstat(self._upper).st_mtime_ns
        if base is not None:
            _take_over(base, self._upper)
        if overlay:
            self.root = f"{place}/root"
            for name in ("root", "work", "empty", "flat"):
                make_directory(f"{place}/{name}", 0o755)
            namespaces.private_mounts()
            upper, work = escape(self._upper), escape(f"{place}/work")
            # volatile: a build that a power cut ends is begun anew.
            options = f"upperdir={upper},workdir={work},{_SELF_CONTAINED},volatile"
            self._mount(self.root, base or f"{place}/empty", options)

    def _mount(self, at: str, lower: str, options: str = "", *, above: str = "") -> None:
        below = escape(above) + ":" + escape(lower) if above else escape(lower)
        flags = 0 if options else syscalls.MS_RDONLY
        try:
            syscalls.mount(
                "overlay", at, "overlay", flags, ",".join(filter(None, (f"lowerdir={below}", options)))
            )
        except OSError as error:
            raise HostError(
                f"cannot mount the base at {at}: {error.strerror}",
                hint="the data directory must be on a file system such as ext4 or xfs, not on an overlay",
            ) from error

    def release(self) -> None:
        """Unmount everything, so that the files can be removed."""
        if self._overlay:
            for name in ("flat", "root"):
                with contextlib.suppress(OSError):
                    syscalls.umount(f"{self._place}/{name}", syscalls.MNT_DETACH)

    def in_base(self, path: str) -> bool:
        """Whether the base has something at *path*."""
        if self._base is None:
            return False
        above, _, name = path.rpartition("/")
        try:
            found = RootView(self._base).resolve(above or "/")
        except LookupFailedError:
            return False
        return found.host is not None and os.path.lexists(f"{found.host}/{name}")

    def missing(self) -> list[str]:
        """Paths of the base that are not there any more, each tree by its top, in order."""
        if self._base is None:
            return []
        found: list[str] = []
        waiting = [""]
        while waiting:
            path = waiting.pop()
            there = set(os.listdir(self.root + path))
            found += [f"{path}/{name}" for name in os.listdir(self._base + path) if name not in there]
            with os.scandir(self._upper + path) as entries:
                waiting += [
                    f"{path}/{entry.name}"
                    for entry in entries
                    if entry.is_dir(follow_symlinks=False)
                    and _is_directory(f"{self._base}{path}/{entry.name}")
                ]
        return sorted(found)

    def newest(self) -> int:
        """The latest time of the base's entries, in seconds since 1970; 0 without a base."""
        if self._base is None:
            return 0
        latest = os.lstat(self._base).st_mtime_ns
        waiting = [self._base]
        while waiting:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    latest = max(latest, entry.stat(follow_symlinks=False).st_mtime_ns)
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
        return max(0, latest // 1_000_000_000)

    def finish(self, epoch: int, *, flatten: bool) -> str:
        """The steps are done: set the times, and return the directory to pack.

        Args:
            epoch: The time of what was touched, in seconds since 1970.
            flatten: With what the base has; else what is new or changed.
        """
        if self._overlay:
            syscalls.umount(self.root)
        self._settle(epoch * 1_000_000_000, prune=not flatten)
        if not flatten or self._base is None:
            return self._upper
        self._mount(f"{self._place}/flat", self._base, above=self._upper)
        return f"{self._place}/flat"

    def _settle(self, time: int, *, prune: bool) -> None:
        # Parents before children in `order`, so that its reverse meets every directory after what is in it.
        # With each, whether it lies over a directory of the base's, all the way down.
        order: list[tuple[str, bool]] = []
        waiting = [("", self._base is not None)]
        while waiting:
            path, over = waiting.pop()
            order.append((path, over))
            with os.scandir(self._upper + path) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        below = f"{path}/{entry.name}"
                        waiting.append((below, over and _is_directory(f"{self._base}{below}")))
                    else:
                        self._touched(entry.path, entry.stat(follow_symlinks=False), time)
        for path, over in reversed(order):
            place = self._upper + path
            info = os.lstat(place)
            base = self._unchanged(path, info) if over else None
            if base is None:
                self._touched(place, info, time)
                continue
            if prune and path:
                with contextlib.suppress(OSError):  # not empty
                    os.rmdir(place)
                    continue
            os.utime(place, ns=(base.st_mtime_ns, base.st_mtime_ns))

    def _touched(self, place: str, info: os.stat_result, time: int) -> None:
        whiteout = stat.S_ISCHR(info.st_mode) and info.st_rdev == _WHITEOUT
        if info.st_mtime_ns >= self._started and not whiteout:
            os.utime(place, ns=(time, time), follow_symlinks=False)

    def _unchanged(self, path: str, info: os.stat_result) -> os.stat_result | None:
        """The base's directory at *path* if ours has its properties."""
        assert self._base is not None
        base = os.lstat(self._base + path)
        if (info.st_mode, info.st_uid, info.st_gid) != (base.st_mode, base.st_uid, base.st_gid):
            return None
        ours, theirs = (os.fsencode(each + path) for each in (self._upper, self._base))
        return base if attributes(ours) == attributes(theirs) else None


def _take_over(source: str, target: str) -> None:
    """Give the directory *target* the properties of *source*."""
    info = os.lstat(source)
    os.chown(target, info.st_uid, info.st_gid)
    os.chmod(target, stat.S_IMODE(info.st_mode))
    for name, value in attributes(os.fsencode(source)).items():
        os.setxattr(target, name, value)


def _is_directory(path: str) -> bool:
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
