"""What a rendered tree consists of, decided in memory before a byte is written. Pure.

The passes are laid over one another as names only, with each pass's whitelists applied to its own entries
(DEP-19, DEP-21); what is left at the end says, for every path, which entry of which image it comes from. So
the disk sees no replacing and no removing, each image is unpacked once, and no order of symbolic links and
directories can lead a write astray.

Rules for one entry of one pass:

- it stays if every whitelist on the way to it, its own image's included, is empty or lists its path (DEP-18,
  DEP-19, DEP-22);
- a directory that is not listed stays if something stays below it within the image whose whitelist it is
  (DEP-23), and then with its own properties (DEP-24);
- the root directory stays (DEP-25);
- directory over directory merges, the later one's properties count (DEP-15); anything else replaces, a whole
  tree if need be (DEP-16, DEP-17); a symbolic link is replaced, never followed, even if it names a directory
  and even in the middle of a path (DEP-14, TRAP-09).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from gantry.images.tarfields import show
from gantry.images.tarstream import DIRECTORY, HARDLINK, SYMLINK

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gantry.images.dependencies import Node
    from gantry.images.layout import Member


class Source(NamedTuple):
    """Where a path of the result comes from.

    Attributes:
        image: The image ID.
        number: The number of the pass; hard links join only within one.
        member: The entry.
    """

    image: str
    number: int
    member: Member


class _Directory:
    __slots__ = ("children", "source")

    def __init__(self, source: Source | None = None) -> None:
        self.source = source
        self.children: dict[bytes, _Directory | Source] = {}


class Plan:
    """The result of all passes.

    Attributes:
        directories: Every directory, parents first, with where its properties come from (``None``: nobody
            describes it).
        leaves: Everything else.
        notes: What deserves a warning.
    """

    def __init__(self) -> None:
        self._root = _Directory()
        self.notes: list[str] = []
        self.directories: list[tuple[bytes, Source | None]] = []
        self.leaves: list[tuple[bytes, Source]] = []

    # -- building -----------------------------------------------------------------------------------

    def lay(self, path: bytes, source: Source) -> None:
        """Put one entry over what is there."""
        if not path:
            self._root.source = source
            return
        *above, name = path.split(b"/")
        directory = self._root
        for depth, part in enumerate(above):
            below = directory.children.get(part)
            if not isinstance(below, _Directory):
                if below is not None:
                    self._note_replaced(b"/".join(above[: depth + 1]), below, source)
                below = directory.children[part] = _Directory()
            directory = below
        old = directory.children.get(name)
        if source.member.entry.kind != DIRECTORY:
            directory.children[name] = source
        elif isinstance(old, _Directory):
            old.source = source
        else:
            if old is not None:
                self._note_replaced(path, old, source)
            directory.children[name] = _Directory(source)

    def _note_replaced(self, path: bytes, old: Source, new: Source) -> None:
        if old.member.entry.kind == SYMLINK:
            target = show(old.member.entry.linkname)
            self.notes.append(
                f"the symbolic link {show(path)} -> {target} is replaced by a directory of "
                f"{new.image[:19]}: what it led to is no longer found there (links are never followed; an "
                f"image that means the same place has it under its real name)"
            )

    def close(self) -> Plan:
        """Everything has been laid down: list the result."""
        waiting: list[tuple[bytes, _Directory]] = [(b"", self._root)]
        while waiting:
            path, directory = waiting.pop()
            self.directories.append((path, directory.source))
            prefix = path + b"/" if path else b""
            for name, child in directory.children.items():
                if isinstance(child, _Directory):
                    waiting.append((prefix + name, child))
                else:
                    self.leaves.append((prefix + name, child))
        self._root = _Directory()
        return self

    # -- using --------------------------------------------------------------------------------------

    def content_of(self, image: str) -> dict[bytes, list[tuple[int, bytes, Source]]]:
        """For one image: by the path of the entry with the content, where it goes: (pass, path, source).

        A hard link counts where its content is: the link means this content and these attributes (TRAP-08).
        """
        wanted: dict[bytes, list[tuple[int, bytes, Source]]] = {}
        for path, source in self.leaves:
            if source.image == image:
                member = source.member
                origin = member.target if member.entry.kind == HARDLINK else member.path
                wanted.setdefault(origin, []).append((source.number, path, source))
        for places in wanted.values():
            places.sort(key=lambda place: (place[0], place[2].member.entry.kind == HARDLINK, place[1]))
        return wanted


def make_plan(top: Node, members: Mapping[str, Sequence[Member]]) -> Plan:
    """Lay all passes of *top* over one another.

    Implements DEP-08, DEP-11 ... DEP-25.

    Args:
        top: From :func:`gantry.images.dependencies.resolve`.
        members: Image ID -> the entries of its root file system.
    """
    plan = Plan()
    for number, (image, kept) in enumerate(_passes(top, members)):
        for member in kept:
            plan.lay(member.path, Source(image, number, member))
    return plan.close()


_Pass = tuple[str, "Sequence[Member]"]


def _passes(node: Node, members: Mapping[str, Sequence[Member]]) -> list[_Pass]:
    """Every pass of an image and of what lies below it, in order, with the entries that stay.

    A whitelist is applied to the passes of its own subtree only, so it touches no sibling's (DEP-20, DEP-21);
    the ones further up are applied by the callers (DEP-13, DEP-19).
    """
    passes: list[_Pass] = []
    for dependency in node.dependencies:
        passes += _passes(dependency, members)
    passes.append((node.image.id, members[node.image.id]))
    if not node.whitelist:
        return passes
    needed: set[bytes] = set()
    for _, kept in passes:
        for member in kept:
            if member.path in node.whitelist:
                _add_parents(needed, member.path)
    return [
        (image, [member for member in kept if _stays(member, node.whitelist, needed)])
        for image, kept in passes
    ]


def _add_parents(needed: set[bytes], path: bytes) -> None:
    while path:
        path = path.rpartition(b"/")[0]
        if path in needed:
            return
        needed.add(path)


def _stays(member: Member, whitelist: frozenset[bytes], needed: set[bytes]) -> bool:
    path = member.path
    return not path or path in whitelist or (path in needed and member.entry.kind == DIRECTORY)
