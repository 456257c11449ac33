"""Releases on disk.

::

    DATA/releases/                 0700, as environments hold secrets
      format                       "1"
      NAME/
        lock                       flock: one change of NAME at a time; whoever holds it may write below NAME
        ID/                        a release, named by the SHA-256 of what it runs
          release.json             spec, images (as called -> image ID), time
          uuid                     the prepared pod; absent until there is one
        current -> ID              what should run; replaced by rename(2)
        wanted                     "started" or "stopped"
        change.json                a change under way: what it will do next; absent at rest
        history.jsonl              one line per change: when, by whom, what, how it ended
      .removed-NAME-PID/           a pod that is being removed; swept by the next change of any pod

Every file is replaced whole (write, fsync, rename), so that a reader without the lock sees the old or the new
state. What a killed process left is described by ``change.json``; the next holder of the lock finishes or
undoes it before anything else (:mod:`gantry.releases.engine`).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

from gantry.config import Paths
from gantry.errors import GantryError, NotFoundError
from gantry.linux import fs, locks
from gantry.releases.spec import NAME, PodSpec, canonical

FORMAT = "1"
HISTORY_LINES = 200
_REMOVED = ".removed-"
_REMOVE = "'gantry pod rm' removes the pod; then apply it again"

# What a change under way says, by its stage (see gantry.releases.engine).
_STAGES: dict[str, dict[str, type]] = {
    "prepare": {"from": str, "to": str},
    "switch": {"from": str, "to": str, "to_uuid": str, "start": bool, "was_running": bool},
    "clean": {"to": str, "previous": str},
    "remove": {},
}


class FormatError(GantryError):
    """The releases on disk were written by another generation of Gantry."""

    code = "format"


class Release(NamedTuple):
    """One release of a named pod.

    Attributes:
        id: 64 hex digits over what it runs.
        spec: What was asked for.
        images: Image ID of every image as the spec calls it.
        uuid: The prepared pod, or nothing.
        created: RFC 3339.
    """

    id: str
    spec: PodSpec
    images: dict[str, str]
    uuid: str
    created: str


class ReleaseStore:
    """The releases of one installation.

    Args:
        paths: Where the installation lives.
    """

    def __init__(self, paths: Paths) -> None:
        self.root = f"{paths.data}/releases"

    # --- reading; no lock needed ---

    def names(self) -> list[str]:
        """Every pod that has a release or a change under way, in order.

        Raises:
            FormatError: Another generation wrote them.
        """
        try:
            entries = os.listdir(self.root)
        except FileNotFoundError:
            return []
        self._check_format()
        return sorted(n for n in entries if NAME.fullmatch(n) and self._is_there(n))

    def current(self, name: str) -> Release | None:
        """The release that should run, if the pod exists.

        Raises:
            FormatError: It cannot be read.
        """
        path = f"{self.root}/{name}/current"
        try:
            link = os.readlink(path)
        except FileNotFoundError:
            return None
        except OSError as e:
            raise FormatError(f"cannot read {path}: {e.strerror}", hint=_REMOVE) from e
        self._check_format()
        return self.read(name, link)

    def require(self, name: str) -> Release:
        """The release that should run.

        Raises:
            NotFoundError: There is no such pod.
        """
        release = self.current(name)
        if release is None:
            raise NotFoundError(f'no pod is called "{name}"', hint="'gantry pod list' shows the named pods")
        return release

    def read(self, name: str, release_id: str) -> Release:
        """A release by its ID.

        Raises:
            FormatError: It cannot be read.
        """
        path = f"{self.root}/{name}/{release_id}/release.json"
        try:
            content = msgspec.json.decode(_read(path), type=_Document)
        except (OSError, ValueError) as e:  # a DecodeError is a ValueError; so is what is no UTF-8
            raise FormatError(f"cannot read {path}: {e}", hint=_REMOVE) from e
        uuid = _read_text(f"{self.root}/{name}/{release_id}/uuid")
        return Release(release_id, content.spec, content.images, uuid, content.created)

    def releases(self, name: str) -> list[str]:
        """IDs of all releases on disk."""
        try:
            return sorted(e for e in os.listdir(f"{self.root}/{name}") if len(e) == 64)
        except FileNotFoundError:
            return []

    def wanted(self, name: str) -> str:
        """``started`` or ``stopped``."""
        return _read_text(f"{self.root}/{name}/wanted") or "stopped"

    def change(self, name: str) -> dict[str, Any] | None:
        """The change that is under way, or that a killed process left.

        Raises:
            FormatError: It cannot be read, or does not say what its stage needs.
        """
        path = f"{self.root}/{name}/change.json"
        try:
            found = msgspec.json.decode(_read(path))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as e:
            raise FormatError(f"cannot read {path}: {e}", hint=_REMOVE) from e
        needed = _STAGES.get(str(found.get("stage"))) if isinstance(found, dict) else None
        if needed is None or not all(isinstance(found.get(k), t) for k, t in needed.items()):
            raise FormatError(f"{path} describes no change", hint=_REMOVE)
        change: dict[str, Any] = found
        return change

    def history(self, name: str) -> list[dict[str, Any]]:
        """What happened to the pod, oldest first. A line that was cut by a crash is left out."""
        try:
            lines = _read(f"{self.root}/{name}/history.jsonl").splitlines()
        except FileNotFoundError:
            return []
        entries = []
        for line in lines:
            with contextlib.suppress(msgspec.DecodeError):
                entries.append(msgspec.json.decode(line))
        return entries

    # --- changing; under the lock of the name ---

    @contextlib.contextmanager
    def locked(self, name: str, *, timeout: float) -> Iterator[None]:
        """Hold the right to change *name*; its directory exists meanwhile.

        Raises:
            BusyError: Somebody else changed it for longer than *timeout* seconds.
        """
        os.makedirs(self.root, mode=0o700, exist_ok=True)
        if not os.path.exists(f"{self.root}/format"):
            fs.atomic_write(f"{self.root}/format", f"{FORMAT}\n".encode(), 0o600)
        self._check_format()
        self._sweep()
        with self._lock(name, timeout):
            self._sweep_files(name)
            try:
                yield
            finally:
                self._forget_empty(name)

    def _lock(self, name: str, timeout: float) -> contextlib.ExitStack:
        """Take the lock of *name*, making its directory; whoever leaves the result gives it back."""
        directory = f"{self.root}/{name}"
        while True:
            fs.make_directory(directory, 0o700)
            with contextlib.ExitStack() as held:
                lock = locks.locked(f"{directory}/lock", timeout=timeout, what=f'the pod "{name}"')
                try:
                    fd = held.enter_context(lock)
                except FileNotFoundError:
                    if os.path.isdir(directory):
                        raise
                    continue
                # The pod may have been removed while we waited: then this lock is nobody's.
                if os.fstat(fd).st_nlink > 0:
                    return held.pop_all()

    def _sweep(self) -> None:
        """Remove what processes left that were killed while they removed a pod: it holds its secrets."""
        for entry in os.listdir(self.root):
            if entry.startswith(_REMOVED):
                fs.remove_tree(f"{self.root}/{entry}")

    def _sweep_files(self, name: str) -> None:
        """Remove files that a killed process had not yet put in their place; we alone write here now."""
        for directory in (name, *(f"{name}/{each}" for each in self.releases(name))):
            for entry in os.listdir(f"{self.root}/{directory}"):
                if entry.endswith(".tmp"):
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(f"{self.root}/{directory}/{entry}")

    def write_release(
        self, name: str, release_id: str, spec: PodSpec, images: dict[str, str], now: str
    ) -> None:
        """Put a release on disk; it is not current yet."""
        fs.make_directory(f"{self.root}/{name}/{release_id}", 0o700)
        content = {"spec": msgspec.Raw(canonical(spec)), "images": images, "created": now}
        self._write(name, f"{release_id}/release.json", msgspec.json.encode(content))

    def write_spec(self, name: str, release: Release, spec: PodSpec) -> None:
        """Replace the spec of a release by one that runs the same (another restart policy, say)."""
        self.write_release(name, release.id, spec, release.images, release.created)

    def write_uuid(self, name: str, release_id: str, uuid: str) -> None:
        """Say which prepared pod runs a release."""
        self._write(name, f"{release_id}/uuid", uuid.encode())

    def set_current(self, name: str, release_id: str) -> None:
        """Make a release the one that should run."""
        temporary = f"{self.root}/{name}/.current"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        os.symlink(release_id, temporary)
        os.rename(temporary, f"{self.root}/{name}/current")
        fs.fsync_directory(f"{self.root}/{name}")

    def drop_current(self, name: str) -> None:
        """No release should run."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{self.root}/{name}/current")

    def set_wanted(self, name: str, wanted: str) -> None:
        """Say whether the pod should run."""
        self._write(name, "wanted", wanted.encode())

    def begin(self, name: str, change: dict[str, Any]) -> None:
        """Write down what is about to be done, before it is done."""
        self._write(name, "change.json", msgspec.json.encode(change))

    def end(self, name: str) -> None:
        """The change is complete."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{self.root}/{name}/change.json")
        fs.fsync_directory(f"{self.root}/{name}")

    def add_history(self, name: str, entry: dict[str, Any]) -> None:
        """Add one line to the history, which keeps its newest lines."""
        lines = [*self.history(name), entry][-HISTORY_LINES:]
        self._write(name, "history.jsonl", b"".join(msgspec.json.encode(line) + b"\n" for line in lines))

    def remove_release(self, name: str, release_id: str) -> None:
        """Remove one release."""
        fs.remove_tree(f"{self.root}/{name}/{release_id}")

    def remove(self, name: str) -> None:
        """Remove everything that is known about *name*."""
        directory = f"{self.root}/{name}"
        # Out of sight in one step, so that no reader meets half of it.
        gone = f"{self.root}/{_REMOVED}{name}-{os.getpid()}"
        fs.remove_tree(gone)
        with contextlib.suppress(FileNotFoundError):
            os.rename(directory, gone)
        fs.remove_tree(gone)

    def _is_there(self, name: str) -> bool:
        directory = f"{self.root}/{name}"
        return os.path.lexists(f"{directory}/current") or os.path.exists(f"{directory}/change.json")

    def _forget_empty(self, name: str) -> None:
        """Leave no trace of a name that never came to have a release."""
        with contextlib.suppress(FileNotFoundError):
            if not self._is_there(name) and not self.releases(name):
                self.remove(name)

    def _write(self, name: str, file: str, data: bytes) -> None:
        fs.atomic_write(f"{self.root}/{name}/{file}", data, 0o600)

    def _check_format(self) -> None:
        found = _read_text(f"{self.root}/format")
        if found not in {FORMAT, ""}:
            raise FormatError(
                f"{self.root} has format {found}, this Gantry reads format {FORMAT}",
                hint="use the version of Gantry that wrote it",
            )


class _Document(msgspec.Struct):
    spec: PodSpec
    images: dict[str, str]
    created: str


def _read(path: str) -> bytes:
    with open(path, "rb") as f:
        return f.read()


def _read_text(path: str) -> str:
    try:
        return _read(path).decode().strip()
    except FileNotFoundError:
        return ""
