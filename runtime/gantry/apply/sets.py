"""Sets: which objects a series of documents owns.

A fleet's site document, a team's own document and an engineer's ad hoc change may all speak about one host.
Each names its set; ``prune`` then removes only what the *same* set brought about earlier and no longer
lists. ::

    DATA/apply/format              "1"
    DATA/apply/lock                flock, held while a set is written
    DATA/apply/sets/NAME.json      {"wants": {KIND: [...]}, "made": {KIND: [...]}}

``wants`` is what the set lists; ``made`` is the part that did not exist before the set brought it about. An
object that existed before is never pruned. One that another set also wants is handed over instead of removed.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator

import msgspec

from gantry.config import Paths
from gantry.linux import fs, locks
from gantry.releases.store import FormatError

KINDS = ("trust", "image", "pod")
FORMAT = "1"


class Ledger(msgspec.Struct):
    """What one set lists and made, by kind."""

    wants: dict[str, list[str]]
    made: dict[str, list[str]]

    @classmethod
    def empty(cls) -> Ledger:
        """A set that has nothing."""
        return cls({k: [] for k in KINDS}, {k: [] for k in KINDS})


class Sets:
    """The sets of one installation.

    Args:
        paths: Where the installation lives.
    """

    def __init__(self, paths: Paths) -> None:
        self.root = f"{paths.data}/apply"

    def read_all(self) -> dict[str, Ledger]:
        """Every set.

        Raises:
            FormatError: One cannot be read.
        """
        try:
            files = sorted(os.listdir(f"{self.root}/sets"))
        except FileNotFoundError:
            return {}
        self._check_format()
        return {f.removesuffix(".json"): self._read(f) for f in files if f.endswith(".json")}

    def owner(self, kind: str, name: str, sets: dict[str, Ledger] | None = None) -> str:
        """The set that made an object, or nothing."""
        known = self.read_all() if sets is None else sets
        return next((s for s, ledger in known.items() if name in ledger.made.get(kind, [])), "")

    def update(
        self,
        name: str,
        *,
        wants: dict[str, list[str]],
        whole: frozenset[str],
        made: Iterable[tuple[str, str]],
        gone: Iterable[tuple[str, str]],
    ) -> None:
        """Write down what a document of the set brought about.

        Args:
            name: The set.
            wants: What the document lists as present, by kind.
            whole: The kinds of which the document lists everything that the set wants.
            made: Kind and name of what did not exist before.
            gone: Kind and name of what no longer exists; forgotten in every set.
        """
        made, gone = list(made), set(gone)
        with self._locked():
            sets = self.read_all()
            before = msgspec.json.encode(sets, order="deterministic")
            mine = sets.setdefault(name, Ledger.empty())
            for kind in KINDS:
                listed = wants.get(kind, [])
                mine.wants[kind] = sorted({*listed, *([] if kind in whole else mine.wants.get(kind, []))})
                mine.made[kind] = sorted({*mine.made.get(kind, []), *(n for k, n in made if k == kind)})
                if kind in whole:
                    self._hand_over(sets, name, kind)
            for ledger in sets.values():
                for kind in KINDS:
                    ledger.wants[kind] = [n for n in ledger.wants.get(kind, []) if (kind, n) not in gone]
                    ledger.made[kind] = [n for n in ledger.made.get(kind, []) if (kind, n) not in gone]
            if msgspec.json.encode(sets, order="deterministic") != before:
                self._write_all(sets)

    def forget(self, gone: Iterable[tuple[str, str]]) -> None:
        """These objects no longer exist: no set made them any more.

        Args:
            gone: Kind and name.
        """
        sets = self.read_all()
        if any(n in ledger.made.get(k, []) for k, n in gone for ledger in sets.values()):
            with self._locked():
                sets = self.read_all()
                for ledger in sets.values():
                    for kind, name in gone:
                        if name in ledger.made.get(kind, []):
                            ledger.made[kind].remove(name)
                self._write_all(sets)

    @staticmethod
    def _hand_over(sets: dict[str, Ledger], name: str, kind: str) -> None:
        """What the set made, no longer wants, and another set wants, becomes the other's."""
        mine = sets[name]
        for item in [n for n in mine.made[kind] if n not in mine.wants[kind]]:
            heir = next((s for s, o in sets.items() if s != name and item in o.wants.get(kind, [])), None)
            if heir is not None:
                mine.made[kind].remove(item)
                sets[heir].made.setdefault(kind, []).append(item)

    def _write_all(self, sets: dict[str, Ledger]) -> None:
        for name, ledger in sets.items():
            path = f"{self.root}/sets/{name}.json"
            if any(ledger.wants.values()) or any(ledger.made.values()):
                fs.atomic_write(path, msgspec.json.encode(ledger, order="deterministic"), 0o640)
            else:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        os.makedirs(f"{self.root}/sets", mode=0o750, exist_ok=True)
        if not os.path.exists(f"{self.root}/format"):
            fs.atomic_write(f"{self.root}/format", f"{FORMAT}\n".encode(), 0o640)
        with locks.locked(f"{self.root}/lock", timeout=60, what="the record of sets"):
            yield

    def _read(self, file: str) -> Ledger:
        path = f"{self.root}/sets/{file}"
        try:
            with open(path, "rb") as f:
                return msgspec.json.decode(f.read(), type=Ledger)
        except (OSError, msgspec.DecodeError) as e:
            raise FormatError(f"cannot read {path}: {e}", hint="remove it and apply without prune") from e

    def _check_format(self) -> None:
        try:
            with open(f"{self.root}/format", encoding="ascii") as f:
                found = f.read().strip()
        except FileNotFoundError:
            return
        if found != FORMAT:
            raise FormatError(
                f"{self.root} has format {found}, this Gantry reads format {FORMAT}",
                hint="use the version of Gantry that wrote it",
            )
