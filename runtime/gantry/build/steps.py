"""Steps that need no program: copy, write, mkdir, link, remove, in a root that is being made.

- What is read lies in the *context*, the build file's directory: opened by openat2(2), which lets no link and
  no ``..`` lead out.
- What is written lies in the root: links of the image are followed on the way, as the image's programs would
  (``/lib/x`` lands in ``/usr/lib`` where ``/lib`` is a link to that), and never out of it.
- Nothing of the place where the build happens gets into the image: owners are 0:0 unless a step says
  otherwise, files are 0755 or 0644 by their owner's x bit (which is all that version control keeps),
  directories 0755, whatever the umask is; extended attributes and hard links stay behind. Times are set by
  :mod:`gantry.build.steps_layer`, once for all.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from fnmatch import translate
from typing import TYPE_CHECKING

from gantry.build.packing import BuildError
from gantry.build.recipe import KEEP, Copy, Link, MakeDirectory, Owner, Remove, Write
from gantry.linux.fs import remove_tree, write_all
from gantry.linux.syscalls import (
    RESOLVE_BENEATH,
    RESOLVE_IN_ROOT,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
    openat2,
)
from gantry.pods import users
from gantry.pods.rootview import RootView

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_BLOCK = 1 << 18
_INSIDE = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS
_BENEATH = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY = 0o755


class Context:
    """The directory that sources come from.

    Args:
        path: The directory.
        output: The file that is being made: never copied, should it lie in there.
    """

    def __init__(self, path: str, output: str) -> None:
        self.path = path
        self._output = os.path.realpath(output)
        self._real = os.path.realpath(path)
        self._fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def close(self) -> None:
        """Let go of the directory."""
        os.close(self._fd)

    def open(self, path: str, flags: int) -> int:
        """Open what lies at *path* below the directory.

        Raises:
            BuildError: It is not there, or a link leads to it.
        """
        try:
            return openat2(self._fd, path, flags, 0, _BENEATH)
        except OSError as error:
            reasons = {
                errno.ELOOP: "is, or leads through, a symbolic link",
                errno.EXDEV: "leads out of the build file's directory",
                errno.ENOENT: "does not exist",
                errno.ENOTDIR: "does not exist",
            }
            why = reasons.get(error.errno or 0) or f"cannot be read: {os.strerror(error.errno or 0)}"
            hint = "name what the link points to" if error.errno == errno.ELOOP else f"looked in {self.path}"
            raise BuildError(f'the source "{path}" {why}', hint=hint) from error

    def status(self, path: str) -> os.stat_result:
        """What lies at *path*: a file or a directory.

        Raises:
            BuildError: It is not there, or something else.
        """
        fd = self.open(path, os.O_PATH | os.O_NOFOLLOW)
        try:
            found = os.fstat(fd)
        finally:
            os.close(fd)
        if stat.S_ISLNK(found.st_mode):
            raise BuildError(
                f'the source "{path}" is a symbolic link', hint="name what it points to, or make it with link"
            )
        if not stat.S_ISREG(found.st_mode) and not stat.S_ISDIR(found.st_mode):
            raise BuildError(f'the source "{path}" is neither a file nor a directory')
        return found

    def is_output(self, path: str) -> bool:
        """Whether *path* is the image that is being made."""
        return os.path.join(self._real, path) == self._output


class Root:
    """The root file system that is being made.

    Args:
        path: The directory; nobody else works in it.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        self._privileged = os.geteuid() == 0
        #: Whether something was given an owner other than 0:0.
        self.foreign = False

    def close(self) -> None:
        """Let go of the directory."""
        os.close(self._fd)

    def perform(self, step: Copy | Write | MakeDirectory | Link | Remove, context: Context) -> None:
        """Do one step.

        Raises:
            BuildError: It cannot be done; says which path is in the way.
            OSError: The kernel refuses.
        """
        if isinstance(step, Copy):
            self._copy(step, context)
        elif isinstance(step, Write):
            with self._new_file(step.path, self._ids(step.owner), step.mode) as fd:
                write_all(fd, step.content.encode())
        elif isinstance(step, MakeDirectory):
            self._mkdir(step)
        elif isinstance(step, Link):
            self._symlink(step.path, step.target, (0, 0))
        else:
            for path in step.paths:
                self._remove(path)

    # -- the kinds ----------------------------------------------------------------------------------

    def _copy(self, step: Copy, context: Context) -> None:
        owner = self._ids(step.owner)
        source_mode = context.status(step.source).st_mode
        if step.exclude and not stat.S_ISDIR(source_mode):
            raise BuildError(f'"{step.source}" is a file', hint="exclude is for directories; leave it out")
        excluded = [_Matcher(pattern) for pattern in step.exclude]
        if stat.S_ISREG(source_mode):
            name = step.source.rpartition("/")[2]
            target = step.to
            if step.into or self._is_directory(target):
                target = f"{target.rstrip('/')}/{name}"
            self._copy_file(context, step.source, target, owner, step.mode)
            return
        directories: list[tuple[str, int]] = []
        waiting = [(step.source, "", step.to)]
        while waiting:
            source, below, to = waiting.pop()
            fd = context.open(source, os.O_RDONLY | os.O_DIRECTORY)
            try:
                names = sorted(os.listdir(fd))
                mode = stat.S_IMODE(os.fstat(fd).st_mode) if step.mode == KEEP else _DIRECTORY
                # Where the copy goes is often a directory of the base's: what it is stays.
                if below or not self._is_directory(to):
                    directories.append((to, mode))
                os.close(self._directory(to))
                for name in names:
                    path = f"{below}/{name}" if below else name
                    inner = name if source == "." else f"{source}/{name}"
                    if any(match(path) for match in excluded) or context.is_output(inner):
                        continue
                    info = os.stat(name, dir_fd=fd, follow_symlinks=False)
                    target = f"{to.rstrip('/')}/{name}"
                    if stat.S_ISDIR(info.st_mode):
                        waiting.append((inner, path, target))
                    elif stat.S_ISREG(info.st_mode):
                        self._copy_file(context, inner, target, owner, step.mode)
                    elif stat.S_ISLNK(info.st_mode):
                        self._symlink(target, os.readlink(name, dir_fd=fd), owner)
                    else:
                        raise BuildError(
                            f'the source "{inner}" is neither a file, a directory nor a link',
                            hint=f'leave it out: exclude = ["{path}"]',
                        )
            finally:
                os.close(fd)
        for to, mode in reversed(directories):  # only now: it may be one that its owner cannot write to
            fd = self._directory(to)
            try:
                self._give(fd, owner, mode)
            finally:
                os.close(fd)

    def _copy_file(
        self, context: Context, source: str, target: str, owner: tuple[int, int], mode: int | None
    ) -> None:
        fd = context.open(source, os.O_RDONLY)
        try:
            bits = stat.S_IMODE(os.fstat(fd).st_mode)
            if mode is None:
                mode = 0o755 if bits & stat.S_IXUSR else 0o644
            with self._new_file(target, owner, bits if mode == KEEP else mode) as out:
                while block := os.read(fd, _BLOCK):
                    write_all(out, block)
        finally:
            os.close(fd)

    def _mkdir(self, step: MakeDirectory) -> None:
        made = not self._is_directory(step.path)
        fd = self._directory(step.path)
        try:
            info = os.fstat(fd)
            owner = self._ids(step.owner or Owner()) if made or step.owner else (info.st_uid, info.st_gid)
            mode = step.mode
            if mode is None:
                mode = _DIRECTORY if made else stat.S_IMODE(info.st_mode)
            self._give(fd, owner, mode)
        finally:
            os.close(fd)

    def _symlink(self, path: str, target: str, owner: tuple[int, int]) -> None:
        parent, name = self._place(path)
        try:
            os.symlink(target, name, dir_fd=parent)
            if self._privileged:
                os.chown(name, *owner, dir_fd=parent, follow_symlinks=False)
        finally:
            os.close(parent)

    def _remove(self, path: str) -> None:
        above, _, name = path.rpartition("/")
        try:
            parent = openat2(self._fd, above or "/", os.O_PATH | os.O_DIRECTORY, 0, _INSIDE)
        except (FileNotFoundError, NotADirectoryError):
            raise _nothing(path) from None
        try:
            place = f"/proc/self/fd/{parent}/{name}"
            if not os.path.lexists(place):
                raise _nothing(path)
            remove_tree(place)
        finally:
            os.close(parent)

    # -- parts --------------------------------------------------------------------------------------

    def _ids(self, owner: Owner) -> tuple[int, int]:
        if owner == Owner():
            return 0, 0
        found = users.resolve(RootView(self.path), owner.user, owner.group, group_may_be_user=True)
        if (found.uid, found.gid) != (0, 0):
            self.foreign = True
            if not self._privileged:
                raise BuildError(
                    f"only root can make files that belong to {owner.user}:{owner.group}",
                    hint="become root, or leave the owner out",
                )
        return found.uid, found.gid

    def _is_directory(self, path: str) -> bool:
        try:
            os.close(openat2(self._fd, path, os.O_PATH | os.O_DIRECTORY, 0, _INSIDE))
        except OSError:
            return False
        return True

    def _directory(self, path: str) -> int:
        """A descriptor of the directory at *path*, made with those above it if it is missing."""
        missing: list[str] = []
        at = path
        while True:
            try:
                fd = openat2(self._fd, at, os.O_RDONLY | os.O_DIRECTORY, 0, _INSIDE)
                break
            except FileNotFoundError:
                at, _, name = at.rpartition("/")
                missing.append(name)
                at = at or "/"
            except OSError as error:
                if error.errno not in {errno.ENOTDIR, errno.ELOOP}:
                    raise
                raise BuildError(f'"{at}" in the image is, or leads through, no directory') from error
        for name in reversed(missing):
            try:
                os.mkdir(name, 0o700, dir_fd=fd)
                below = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
            except FileExistsError as error:
                raise BuildError(
                    f'"{path}" leads through a symbolic link of the image that leads nowhere',
                    hint="make what it points to first",
                ) from error
            finally:
                os.close(fd)
            fd = below
            self._give(fd, (0, 0), _DIRECTORY)
        return fd

    def _place(self, path: str) -> tuple[int, str]:
        """The directory above *path*, and the name in it, which is free."""
        above, _, name = path.rpartition("/")
        parent = self._directory(above or "/")
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=parent)
        except (IsADirectoryError, PermissionError) as error:
            os.close(parent)
            raise BuildError(f'"{path}" is a directory of the image', hint="remove it first") from error
        return parent, name

    @contextlib.contextmanager
    def _new_file(self, path: str, owner: tuple[int, int], mode: int) -> Iterator[int]:
        parent, name = self._place(path)
        try:
            fd = os.open(name, _CREATE, 0o600, dir_fd=parent)
        finally:
            os.close(parent)
        try:
            yield fd
            self._give(fd, owner, mode)
        finally:
            os.close(fd)

    def _give(self, fd: int, owner: tuple[int, int], mode: int) -> None:
        if self._privileged:
            os.fchown(fd, *owner)
        os.fchmod(fd, mode)  # after the owner: changing that clears setuid


def _nothing(path: str) -> BuildError:
    return BuildError(f'there is no "{path}" to remove', hint="remove takes what earlier steps have made")


class _Matcher:
    """One pattern of ``exclude``."""

    def __init__(self, pattern: str) -> None:
        parts = [part for part in pattern.split("/") if part not in {"", "."}]
        if "/" not in pattern.rstrip("/"):
            parts.insert(0, "**")  # a bare name counts at any depth
        self._parts = [None if part == "**" else re.compile(translate(part), re.DOTALL) for part in parts]

    def __call__(self, path: str) -> bool:
        return _matches(self._parts, path.split("/"))


def _matches(patterns: Sequence[re.Pattern[str] | None], names: Sequence[str]) -> bool:
    """Whether the components *names* fit; ``None`` stands for any number of them."""
    # Which beginnings of the patterns fit what was read so far: linear, whatever the pattern.
    states = {0}
    for name in (*names, None):
        closed = set()
        for state in sorted(states):
            at = state
            closed.add(at)
            while at < len(patterns) and patterns[at] is None:
                at += 1
                closed.add(at)
        if name is None:
            return len(patterns) in closed
        states = set()
        for at in closed:
            if at >= len(patterns):
                continue
            pattern = patterns[at]
            if pattern is None:
                states.add(at)
            elif pattern.fullmatch(name):
                states.add(at + 1)
    return False
