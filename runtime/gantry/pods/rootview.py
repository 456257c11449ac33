"""The file system of an app as it will be, before it is assembled: its root with volumes mounted on top.

Paths are walked component by component, links are followed inside, ``..`` stops at the root: nothing that
an image contains can make us look at, or mount over, a file of the host (TRAP-21, TRAP-25).
"""

from __future__ import annotations

import os
import stat
from typing import NamedTuple

from gantry.errors import GantryError

_MAX_LINKS = 40
#: Trees that exist only once the app runs.
_KERNEL = ("/proc", "/sys", "/dev")


class LookupFailedError(GantryError):
    """A path does not lead anywhere in an app's file system."""

    code = "lookup"


class Found(NamedTuple):
    """Where a path leads.

    Attributes:
        path: Absolute, inside the app, without links and dots.
        host: The same, on the host; ``None`` below /proc, /sys and /dev, of which nothing is known yet.
        status: What is there, or ``None`` if nothing is.
    """

    path: str
    host: str | None
    status: os.stat_result | None


class RootView:
    """An app's root and what will be mounted in it.

    Args:
        rootfs: The rendered tree.
    """

    def __init__(self, rootfs: str) -> None:
        self.rootfs = rootfs
        self.mounts: dict[str, str] = {}

    def mount(self, target: str, source: str) -> None:
        """Let *source* (of the host) appear at *target*, which is resolved."""
        self.mounts[target] = source

    def _host(self, path: str) -> str:
        at, rest = path, ""
        while at != "/":
            if at in self.mounts:
                return self.mounts[at] + rest
            at, _, name = at.rpartition("/")
            rest = f"/{name}{rest}"
            at = at or "/"
        return self.rootfs + path

    def within_mount(self, path: str) -> bool:
        """Whether the resolved *path* is in a volume."""
        return any(path == target or path.startswith(f"{target}/") for target in self.mounts)

    def resolve(self, path: str, *, base: str = "/") -> Found:
        """Walk *path*; from *base* (resolved) when it is relative. What is missing is taken as written.

        Raises:
            LookupFailedError: Too many links, or a component of it is no directory.
        """
        todo = [part for part in reversed(path.split("/")) if part not in {"", "."}]
        at: list[str] = [] if path.startswith("/") else [part for part in base.split("/") if part]
        links = 0
        status: os.stat_result | None = None
        missing = False
        while todo:
            part = todo.pop()
            if part == ".":
                continue
            if part == "..":
                if at:
                    at.pop()
                missing = missing and not self._exists(at)
                continue
            here = "/" + "/".join([*at, part])
            if here in _KERNEL and here not in self.mounts:
                rest = [word for word in reversed(todo) if word not in {"", "."}]
                return Found(os.path.normpath("/".join([here, *rest])), None, None)
            at.append(part)
            if missing:
                continue
            try:
                status = os.lstat(self._host(here))
            except FileNotFoundError:
                missing = True
                continue
            except (OSError, ValueError) as error:  # ValueError: a NUL, which no path can have
                why = error.strerror if isinstance(error, OSError) else str(error)
                raise LookupFailedError(f'"{path}" leads nowhere in the app: {why}') from error
            if stat.S_ISLNK(status.st_mode):
                links += 1
                if links > _MAX_LINKS:
                    raise LookupFailedError(f'"{path}": too many symbolic links')
                target = os.readlink(self._host(here))
                at.pop()
                if target.startswith("/"):
                    at = []
                todo += [word for word in reversed(target.split("/")) if word not in {"", "."}]
        final = "/" + "/".join(at)
        host = self._host(final)
        if missing or not os.path.lexists(host):
            return Found(final, host, None)
        return Found(final, host, os.lstat(host))

    def _exists(self, at: list[str]) -> bool:
        return os.path.lexists(self._host("/" + "/".join(at)))

    def read(self, path: str, *, limit: int = 1 << 20) -> bytes | None:
        """The content of a regular file, at most *limit* bytes; ``None`` when there is none."""
        try:
            found = self.resolve(path)
        except LookupFailedError:
            return None
        if found.host is None or found.status is None or not stat.S_ISREG(found.status.st_mode):
            return None
        with open(found.host, "rb") as file:
            return file.read(limit)

    def directory(self, path: str) -> str:
        """Resolve the working directory *path* (EXE-10, EXE-11).

        Raises:
            LookupFailedError: It is not there, or no directory.
        """
        found = self.resolve(path)
        if found.host is None:
            return found.path
        if found.status is None:
            raise LookupFailedError(
                f'the working directory "{path}" does not exist in the app',
                hint="it is not created; see --working-dir",
            )
        if not stat.S_ISDIR(found.status.st_mode):
            raise LookupFailedError(f'the working directory "{path}" is no directory')
        return found.path

    def executable(self, word: str, *, search: str | None, working_directory: str) -> str:
        """Find the program that the first word of a command line means (EXE-12 ... EXE-14).

        Args:
            word: As written.
            search: The app's ``PATH``; ``None`` when it has none at all.
            working_directory: Resolved.

        Returns:
            An absolute path inside the app; links at its end are kept, as programs look at their own name.

        Raises:
            LookupFailedError: Nothing there can be executed; says which file is missing.
        """
        if "/" in word:
            path = os.path.join(working_directory, word)
            self._check_executable(path)
            return os.path.normpath(path) if ".." not in path.split("/") else self.resolve(path).path
        directories = [".", "/bin", "/usr/bin"] if search is None else search.split(":")
        for directory in directories:
            path = os.path.join(working_directory, directory or ".", word)
            try:
                self._check_executable(path)
            except LookupFailedError as error:
                if error.code == "lookup-broken":
                    raise
                continue
            return os.path.normpath(path)
        raise LookupFailedError(
            f'"{word}" is not in the app\'s PATH ({search if search is not None else "none"})',
            hint="give an absolute path with --exec",
        )

    def _check_executable(self, path: str) -> None:
        found = self.resolve(path)
        if found.host is None:
            return
        if found.status is None:
            raise LookupFailedError(f'Unable to open "{path}": No such file or directory')
        if not stat.S_ISREG(found.status.st_mode):
            raise LookupFailedError(f'"{path}" is no regular file: it cannot be executed')
        if not found.status.st_mode & 0o111:
            raise LookupFailedError(f'"{path}" is not executable', hint="set its x bits in the image")
        with open(found.host, "rb") as file:
            head = file.read(4096)
        interpreter = _interpreter(head)
        if interpreter is None:
            error = LookupFailedError(
                f'"{path}" is neither a program nor a script that names its interpreter'
            )
            error.code = "lookup-broken"
            raise error
        if interpreter:
            target = self.resolve(interpreter)
            if target.host is not None and target.status is None:
                error = LookupFailedError(
                    f'Unable to open "{interpreter}", the interpreter of "{path}": No such file or directory',
                    hint="the image lacks what the program needs",
                )
                error.code = "lookup-broken"
                raise error


def _interpreter(head: bytes) -> str | None:
    """The interpreter a file asks for; ``""``: a static program, ``None``: neither program nor script."""
    if head.startswith(b"#!"):
        words = head[2:].split(b"\n", 1)[0].split()
        return os.fsdecode(words[0]) if words else None
    if not head.startswith(b"\x7fELF") or len(head) < 64:
        return None
    order = "little" if head[5] == 1 else "big"

    def number(at: int, size: int) -> int:
        return int.from_bytes(head[at : at + size], "little" if order == "little" else "big")

    wide = head[4] == 2
    table, size, count = (
        (number(32, 8), number(54, 2), number(56, 2))
        if wide
        else (number(28, 4), number(42, 2), number(44, 2))
    )
    for index in range(min(count, 64)):
        at = table + index * size
        if number(at, 4) == 3:  # PT_INTERP
            offset, length = (
                (number(at + 8, 8), number(at + 32, 8)) if wide else (number(at + 4, 4), number(at + 16, 4))
            )
            return os.fsdecode(head[offset : offset + length].rstrip(b"\0"))
    return ""
