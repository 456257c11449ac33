"""POSIX access lists, made without setfacl(1)."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

_NOBODY = 0xFFFFFFFF


def access_list(owner: int, group: int, others: int, *, users: dict[int, int], mask: int) -> bytes:
    """The value of ``system.posix_acl_access`` or ``_default``; rights are 0 to 7."""
    entries = [(0x01, owner, _NOBODY)]
    entries += [(0x02, rights, user) for user, rights in sorted(users.items())]
    entries += [(0x04, group, _NOBODY), (0x10, mask, _NOBODY), (0x20, others, _NOBODY)]
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def set_or_skip(path: Path, name: str, value: bytes) -> None:
    """Set an attribute, or skip where the file system keeps none of the kind."""
    try:
        os.setxattr(path, name, value, follow_symlinks=False)
    except OSError as error:
        pytest.skip(f"this file system keeps no {name}: {error.strerror}")
