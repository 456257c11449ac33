"""The archive format of an initramfs (cpio "newc"), as far as one is written here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """A member: its path without a leading slash, its content, its whole mode (type and permissions)."""

    name: str
    content: bytes
    mode: int


def archive(entries: list[Entry]) -> bytes:
    """An archive of *entries*, owned by root, a multiple of 512 long so that another may follow."""
    parts = [_member(entry, i + 1) for i, entry in enumerate(entries)]
    parts.append(_member(Entry("TRAILER!!!", b"", 0), 0))
    whole = b"".join(parts)
    return whole + b"\0" * (-len(whole) % 512)


def _member(entry: Entry, inode: int) -> bytes:
    name = entry.name.encode() + b"\0"
    numbers = (inode, entry.mode, 0, 0, 1, 0, len(entry.content), 0, 0, 0, 0, len(name), 0)
    head = b"070701" + "".join(f"{number:08x}" for number in numbers).encode() + name
    return _padded(head) + _padded(entry.content)


def _padded(part: bytes) -> bytes:
    return part + b"\0" * (-len(part) % 4)
