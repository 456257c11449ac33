"""Costly things that are made once: each under a name that holds a digest of everything it was made from.

CACHE/NAME          a finished thing (a file or a directory), never changed again
CACHE/NAME.lock     held while NAME is being made, so that one makes and the others wait
CACHE/NAME.making/  the maker's own directory; whoever holds the lock may remove a stale one
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from testhosts.errors import HostsError

REPOSITORY = Path(__file__).resolve().parents[2]


def directory() -> Path:
    """The cache: ``$GANTRY_CACHE``, or ``.cache`` in the repository. Made if it is missing."""
    path = Path(os.environ.get("GANTRY_CACHE") or REPOSITORY / ".cache").absolute()
    path.mkdir(parents=True, exist_ok=True)
    return path


def key(*parts: object) -> str:
    """Twelve hex digits that change whenever any of *parts* (JSON values) does."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on the file *path*, which is made and stays."""
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def ensure(name: str, make: Callable[[Path, Path], None]) -> Path:
    """The finished thing *name*, made by ``make(target, scratch)`` if it is not there yet.

    *make* writes to *target* (inside *scratch*, an empty directory for its use); only when it returns is the
    result renamed into place, so an interrupted make leaves nothing that a later run would take for whole.
    """
    final = directory() / name
    if final.exists():
        return final
    with locked(final.with_name(f"{name}.lock")):
        if final.exists():
            return final
        scratch = final.with_name(f"{name}.making")
        remove_tree(scratch)
        scratch.mkdir()
        try:
            target = scratch / "target"
            make(target, scratch)
            target.rename(final)
        finally:
            remove_tree(scratch)
    return final


def remove_tree(path: Path) -> None:
    """Remove *path* whatever it is; nothing happens if it is not there. Never crosses into a mount."""
    if not path.exists() and not path.is_symlink():
        return
    with Path("/proc/self/mountinfo").open() as table:
        points = [line.split()[4] for line in table]
    inside = [p for p in points if p == str(path) or p.startswith(f"{path}/")]
    if inside:
        raise HostsError(f"{path} is not removed: {inside[0]} is still mounted", hint=f"umount {inside[0]}")
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def run(
    argv: list[str],
    *,
    log: Path | None = None,
    env: dict[str, str] | None = None,
    what: str = "",
    hold: int = subprocess.DEVNULL,
) -> str:
    """Run a program to its end and return its standard output.

    Args:
        argv: The command line.
        log: A file for both outputs; nothing is returned then.
        env: Variables to add to the environment.
        what: What it does, for the error.
        hold: The descriptor of a lock (an empty file) that the program is to hold, too: should this process
            be killed, the lock stays taken until the program has ended.

    Raises:
        HostsError: It is missing or failed; carries its last line and names the log.
    """
    environment = {**os.environ, **env} if env else None
    try:
        if log:
            with log.open("ab") as sink:
                done = subprocess.run(
                    argv, stdin=hold, stdout=sink, stderr=sink, env=environment, check=False
                )
            output = ""
        else:
            done = subprocess.run(argv, stdin=hold, capture_output=True, env=environment, check=False)
            output = done.stdout.decode(errors="replace")
    except FileNotFoundError as error:
        raise HostsError(f"{argv[0]} is not installed", hint="run: make setup") from error
    if done.returncode:
        told = log.read_text(errors="replace") if log else done.stderr.decode(errors="replace") or output
        last = next((line for line in reversed(told.splitlines()) if line.strip()), "it said nothing")
        raise HostsError(
            f"{what or argv[0]} failed with status {done.returncode}: {last}",
            hint=f"see {log}" if log else "",
        )
    return output
