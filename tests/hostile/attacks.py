"""The table of hostile and odd archives: each by name, how it is made, and what has to become of it.

To add one: a line with :func:`refuse` (words of the one line that refuses it) or :func:`accept` (what is
rendered). ``test_attacks.py`` sends every entry through every way in.

Archives are put together from raw headers (:func:`raw`), so that any field can hold anything; checksums are
right unless said otherwise.
"""

# Longer than 500 lines because it is a table.

from __future__ import annotations

import functools
import gzip
import os
import stat
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from tests.support.aci import compress, manifest

from gantry.errors import GantryError
from gantry.images.errors import ArchiveError, LimitError
from gantry.images.limits import Limits

#: What the ways in are given: small, so that attacks on a bound are small, too.
LIMITS = Limits(
    unpacked=8_000_000,
    ratio=50,
    ratio_from=2_000_000,
    manifest=10_000,
    entries=300,
    names=150_000,
    header=30_000,
    xattrs=20_000,
    xattr=10_000,
    reserve=0,
)

Check = Callable[[Path], bool]
Maker = Callable[[], bytes]


class Attack(NamedTuple):
    """One archive.

    Attributes:
        make: Gives the image as distributed.
        words: A pattern in the line that refuses it; ``None``: it is accepted.
        error: The class of the refusal.
        rendered: For what is accepted: path below the root file system -> its content, or a check.
    """

    make: Maker
    words: str | None = None
    error: type[GantryError] = ArchiveError
    rendered: Mapping[str, bytes | Check] = {}


ATTACKS: dict[str, Attack] = {}


def refuse(name: str, words: str, make: bytes | Maker, error: type[GantryError] = ArchiveError) -> None:
    """An archive that has to be refused with a line in which *words* (a pattern) stand."""
    assert name not in ATTACKS
    ATTACKS[name] = Attack(make if callable(make) else lambda: make, words, error)


def accept(name: str, make: bytes | Maker, rendered: Mapping[str, bytes | Check]) -> None:
    """An archive that has to be accepted and rendered so."""
    assert name not in ATTACKS
    ATTACKS[name] = Attack(make if callable(make) else lambda: make, rendered=rendered)


# -- making archives ----------------------------------------------------------------------------------

END = bytes(1024)
MAX_OCTAL = b"7777777\0"


def octal(value: int, size: int) -> bytes:
    """A number as ustar writes it."""
    return b"%0*o\0" % (size - 1, value)


def base256(value: int, size: int) -> bytes:
    """A number as GNU writes those that do not fit."""
    raw = bytearray(value.to_bytes(size, "big", signed=True))
    raw[0] |= 0x80
    return bytes(raw)


def summed(header: bytes) -> bytes:
    """The header with the checksum that belongs to it."""
    blank = header[:148] + b" " * 8 + header[156:]
    return header[:148] + b"%06o\0 " % sum(blank) + header[156:]


def raw(
    name: bytes,
    body: bytes = b"",
    kind: bytes = b"0",
    *,
    link: bytes = b"",
    mode: bytes = b"0000644\0",
    uid: bytes = b"0000000\0",
    gid: bytes = b"0000000\0",
    size: bytes | None = None,
    mtime: bytes = b"13172700000\0",
    magic: bytes = b"ustar\x0000",
    major: bytes = b"0000000\0",
    minor: bytes = b"0000000\0",
    prefix: bytes = b"",
) -> bytes:
    """One entry: a header with these very fields, and the body padded."""
    written = octal(len(body), 12) if size is None else size
    header = b"".join(
        (
            name.ljust(100, b"\0")[:100],
            mode,
            uid,
            gid,
            written,
            mtime,
            b" " * 8,
            kind,
            link.ljust(100, b"\0")[:100],
            magic,
            b"root".ljust(32, b"\0"),
            b"root".ljust(32, b"\0"),
            major,
            minor,
            prefix.ljust(155, b"\0"),
            bytes(12),
        )
    )
    assert len(header) == 512, len(header)
    return summed(header) + body + bytes(-len(body) % 512)


def directory(name: bytes, **fields: bytes) -> bytes:
    """A directory."""
    return raw(name, kind=b"5", **{"mode": b"0000755\0", **fields})  # type: ignore[arg-type]


def symlink(name: bytes, target: bytes) -> bytes:
    """A symbolic link."""
    return raw(name, kind=b"2", link=target)


def hardlink(name: bytes, target: bytes, **fields: bytes) -> bytes:
    """A hard link."""
    return raw(name, kind=b"1", link=target, **fields)  # type: ignore[arg-type]


def record(key: bytes, value: bytes) -> bytes:
    """One record of an extended header, with its length."""
    rest = b" " + key + b"=" + value + b"\n"
    length = len(rest)
    while length != len(rest) + len(str(length)):
        length = len(rest) + len(str(length))
    return b"%d" % length + rest


def pax(*records: tuple[bytes, bytes], kind: bytes = b"x") -> bytes:
    """An extended header."""
    return raw(b"PaxHeaders/x", b"".join(record(*each) for each in records), kind)


def pax_raw(body: bytes, kind: bytes = b"x") -> bytes:
    """An extended header with any content."""
    return raw(b"PaxHeaders/x", body, kind)


def gnu(kind: bytes, text: bytes) -> bytes:
    """GNU's long name (L) or long link target (K)."""
    return raw(b"././@LongLink", text, kind, magic=b"ustar  \0")


M = manifest("example.com/attack")
MANIFEST = raw(b"manifest", M)
ROOT = directory(b"rootfs")


def tar(*entries: bytes, last: bytes = MANIFEST, end: bytes = END) -> bytes:
    """A whole archive: ``rootfs``, the entries, the manifest."""
    return b"".join((ROOT, *entries, last, end))


def image(*entries: bytes, last: bytes = MANIFEST, end: bytes = END) -> bytes:
    """The same, compressed."""
    return gzip.compress(tar(*entries, last=last, end=end), 6, mtime=0)


def squeezed(data: bytes) -> bytes:
    """Compressed as hard as it goes."""
    return gzip.compress(data, 9, mtime=0)


def mode_is(mode: int) -> Check:
    """The permission bits are these."""
    return lambda path: stat.S_IMODE(os.lstat(path).st_mode) == mode


def link_is(target: bytes) -> Check:
    """It is a symbolic link with this text."""
    return lambda path: os.readlink(os.fsencode(path)) == target


def time_is(seconds: int) -> Check:
    """The modification time is this."""
    return lambda path: os.lstat(path).st_mtime_ns == seconds * 1_000_000_000


def owner_is(uid: int, gid: int) -> Check:
    """The owner is this one, where owners can be given at all."""
    return lambda path: os.geteuid() != 0 or (os.lstat(path).st_uid, os.lstat(path).st_gid) == (uid, gid)


def linked_with(other: str) -> Check:
    """Both names are one file."""
    return lambda path: os.path.samestat(os.lstat(path), os.lstat(path.parent / other))


def holes(size: int, data: Mapping[int, bytes]) -> Check:
    """It has this size, this data and zeros elsewhere."""

    def check(path: Path) -> bool:
        expected = bytearray(size)
        for offset, part in data.items():
            expected[offset : offset + len(part)] = part
        return path.read_bytes() == bytes(expected)

    return check


def is_directory(path: Path) -> bool:
    """It is a directory and no link to one."""
    return stat.S_ISDIR(os.lstat(path).st_mode)


# -- out of the tree ----------------------------------------------------------------------------------

for _title, _name in {
    "parent": b"../evil",
    "parent_inside": b"rootfs/../../evil",
    "parent_at_the_end": b"rootfs/a/..",
    "parent_after_dot": b"./../evil",
    "parent_deep": b"rootfs/a/b/../../../../evil",
}.items():
    refuse(f"name_{_title}", r"'\.\.' in its name", image(raw(_name, b"x")))
    refuse(f"directory_{_title}", r"'\.\.' in its name", image(directory(_name + b"/")))
    refuse(
        f"long_name_{_title}", r"'\.\.' in its name", image(gnu(b"L", _name + b"\0"), raw(b"rootfs/f", b"x"))
    )
    refuse(f"pax_path_{_title}", r"'\.\.' in its name", image(pax((b"path", _name)), raw(b"rootfs/f", b"x")))
    refuse(f"link_to_{_title}", r"'\.\.' in its name", image(hardlink(b"rootfs/h", _name)))
    refuse(
        f"pax_link_to_{_title}",
        r"'\.\.'",
        image(pax((b"linkpath", _name)), hardlink(b"rootfs/h", b"rootfs/f")),
    )
refuse("prefix_parent", r"'\.\.' in its name", image(raw(b"evil", b"x", prefix=b"rootfs/..")))
refuse(
    "sparse_name_parent",
    r"'\.\.'",
    image(
        pax((b"GNU.sparse.name", b"rootfs/../../evil"), (b"GNU.sparse.size", b"0"), (b"GNU.sparse.map", b"")),
        raw(b"rootfs/f"),
    ),
)
for _title, _name in {
    "absolute": b"/etc/evil",
    "absolute_rootfs": b"/rootfs/evil",
    "two_slashes": b"//rootfs/e",
}.items():
    refuse(f"name_{_title}", "is absolute", image(raw(_name, b"x")))
    refuse(f"pax_path_{_title}", "is absolute", image(pax((b"path", _name)), raw(b"rootfs/f", b"x")))
    refuse(f"link_to_{_title}", "is absolute", image(hardlink(b"rootfs/h", _name)))
for _title, _target in {
    "absolute": b"/",
    "parent": b"..",
    "host_etc": b"/etc",
    "proc": b"/proc/self/cwd",
    "dot": b".",
}.items():
    refuse(
        f"file_below_a_symlink_{_title}",
        "lies below 'rootfs/l', which is a symbolic link",
        image(symlink(b"rootfs/l", _target), raw(b"rootfs/l/evil", b"x")),
    )
    refuse(
        f"directory_below_a_symlink_{_title}",
        "lies below",
        image(symlink(b"rootfs/l", _target), directory(b"rootfs/l/d/")),
    )
    refuse(
        f"link_below_a_symlink_{_title}",
        "lies below",
        image(raw(b"rootfs/f"), symlink(b"rootfs/l", _target), hardlink(b"rootfs/l/h", b"rootfs/f")),
    )
    refuse(
        f"link_to_below_a_symlink_{_title}",
        "does not come before",
        image(symlink(b"rootfs/l", _target), hardlink(b"rootfs/h", b"rootfs/l/passwd")),
    )
refuse(
    "file_then_the_symlink_above_it",
    "other entries lie below",
    image(raw(b"rootfs/l/f"), symlink(b"rootfs/l", b"/etc")),
)
refuse(
    "chain_of_symlinks",
    "lies below",
    image(symlink(b"rootfs/a", b"b"), symlink(b"rootfs/b", b"/"), raw(b"rootfs/a/evil")),
)
refuse(
    "symlink_of_a_link_below",
    "lies below",
    image(symlink(b"rootfs/a", b"/"), hardlink(b"rootfs/b", b"rootfs/a"), raw(b"rootfs/b/evil")),
)
refuse("below_a_file", "which is a file", image(raw(b"rootfs/f"), raw(b"rootfs/f/g")))
refuse("below_a_device", "character device", image(raw(b"rootfs/f", kind=b"3"), raw(b"rootfs/f/g")))
refuse("below_a_pipe", "named pipe", image(raw(b"rootfs/f", kind=b"6"), raw(b"rootfs/f/g")))
accept(
    "dangling_symlinks_are_kept_as_they_are",
    image(symlink(b"rootfs/l", b"../../../etc/shadow"), symlink(b"rootfs/m", b"/")),
    {"l": link_is(b"../../../etc/shadow"), "m": link_is(b"/")},
)
accept("symlink_to_itself", image(symlink(b"rootfs/l", b"l")), {"l": link_is(b"l")})
refuse("empty_symlink", "impossible target", image(symlink(b"rootfs/l", b"")))
refuse(
    "symlink_with_nul", "impossible target", image(pax((b"linkpath", b"a\0b")), symlink(b"rootfs/l", b"a"))
)
refuse(
    "endless_symlink", "impossible target", image(gnu(b"K", b"x" * 5000 + b"\0"), symlink(b"rootfs/l", b"a"))
)

# -- hard links ---------------------------------------------------------------------------------------

refuse(
    "link_to_the_manifest",
    "leads out",
    image(raw(b"manifest", M), hardlink(b"rootfs/h", b"manifest"), last=b""),
)
refuse("link_to_the_root", "leads out", image(hardlink(b"rootfs/h", b"rootfs")))
refuse(
    "link_to_a_directory",
    "names the directory",
    image(directory(b"rootfs/d"), hardlink(b"rootfs/h", b"rootfs/d")),
)
refuse(
    "link_to_an_implied_directory",
    "names the directory",
    image(raw(b"rootfs/d/f"), hardlink(b"rootfs/h", b"rootfs/d")),
)
refuse("link_to_itself", "does not come before", image(hardlink(b"rootfs/h", b"rootfs/h")))
refuse("link_to_later", "does not come before", image(hardlink(b"rootfs/h", b"rootfs/f"), raw(b"rootfs/f")))
refuse(
    "links_to_each_other",
    "does not come before",
    image(hardlink(b"rootfs/a", b"rootfs/b"), hardlink(b"rootfs/b", b"rootfs/a")),
)
refuse("link_to_nothing", "entry without a name", image(hardlink(b"rootfs/h", b"")))
refuse(
    "link_outside_without_rootfs", "leads out", image(raw(b"rootfs/etc/f"), hardlink(b"rootfs/h", b"etc/f"))
)
accept(
    "chain_of_links",
    image(raw(b"rootfs/a", b"1"), hardlink(b"rootfs/b", b"rootfs/a"), hardlink(b"rootfs/c", b"./rootfs//b")),
    {"b": linked_with("a"), "c": linked_with("a")},
)
accept(
    "link_to_a_symlink_is_a_symlink",
    image(symlink(b"rootfs/l", b"/etc/passwd"), hardlink(b"rootfs/h", b"rootfs/l")),
    {"h": link_is(b"/etc/passwd")},
)
accept(
    "link_with_a_size_has_no_body",
    image(raw(b"rootfs/a", b"1"), hardlink(b"rootfs/b", b"rootfs/a", size=octal(512, 12))),
    {"b": linked_with("a")},
)
accept(
    "link_with_other_attributes_changes_nothing",
    image(raw(b"rootfs/a", b"1"), hardlink(b"rootfs/b", b"rootfs/a", mode=b"0006777\0", uid=octal(7, 8))),
    {"a": mode_is(0o644), "b": owner_is(0, 0)},
)

# -- what is there twice, or does not belong ----------------------------------------------------------

for _title, _again in {
    "dot": b"./rootfs/a",
    "slashes": b"rootfs//a",
    "inner_dot": b"rootfs/./a",
    "same": b"rootfs/a",
}.items():
    refuse(
        f"case_13_twice_{_title}",
        r"twice \(again at byte \d+\)",
        image(raw(b"rootfs/a", b"1"), raw(_again, b"2")),
    )
    refuse(
        f"case_13_directory_twice_{_title}", "twice", image(directory(b"rootfs/a"), directory(_again + b"/"))
    )
    refuse(
        f"case_13_symlink_over_a_directory_{_title}",
        "twice",
        image(directory(b"rootfs/a"), symlink(_again, b"/")),
    )
    refuse(
        f"case_13_directory_over_a_symlink_{_title}",
        "twice",
        image(symlink(b"rootfs/a", b"/"), directory(_again)),
    )
refuse(
    "case_11_a_file_and_later_something_below_it",
    "lies below 'rootfs/a/b', which is a file",
    image(raw(b"rootfs/a/b"), raw(b"rootfs/a/b/c/d")),
)
accept(
    "case_11_whiteouts_are_files",
    image(raw(b"rootfs/a/.wh.b"), raw(b"rootfs/a/b/c/d", b"1")),
    {"a/b/c/d": b"1", "a/.wh.b": b""},
)
accept(
    "case_8_a_link_keeps_its_content",
    image(raw(b"rootfs/A", b"content"), hardlink(b"rootfs/B", b"rootfs/A")),
    {"B": b"content"},
)
refuse("a_file_with_the_name_of_a_directory", "has the name of a directory", image(raw(b"rootfs/a/", b"x")))
refuse(
    "a_symlink_with_the_name_of_a_directory",
    "has the name of a directory",
    image(symlink(b"rootfs/a/", b"/")),
)
for _title, _name in {
    "other": b"README",
    "almost": b"rootfs-x",
    "almost_manifest": b"manifest2",
    "case": b"Manifest",
    "signature": b"manifest.asc",
    "below_manifest": b"manifest/x",
}.items():
    refuse(f"top_{_title}", "neither 'manifest' nor below 'rootfs'", image(raw(_name, b"x")))
refuse("manifest_missing", "no manifest", image(last=b""))
refuse("manifest_twice", "'manifest' is in the archive twice", image(MANIFEST))
refuse("manifest_twice_by_dot", "twice", image(raw(b"./manifest", M)))
refuse("manifest_oversized", "bound: manifest", image(last=raw(b"manifest", M + b" " * 10_000)), LimitError)
for _title, _kind in {
    "link": b"1",
    "symlink": b"2",
    "device": b"3",
    "block": b"4",
    "directory": b"5",
    "pipe": b"6",
}.items():
    refuse(
        f"manifest_as_{_title}",
        "has to be a plain file",
        image(raw(b"rootfs/m", M), last=raw(b"manifest", kind=_kind, link=b"rootfs/m")),
    )
refuse(
    "manifest_sparse",
    "has to be a plain file",
    image(
        last=pax((b"GNU.sparse.size", b"%d" % len(M)), (b"GNU.sparse.map", b"0,%d" % len(M)))
        + raw(b"manifest", M)
    ),
)
for _title, _kind in {"file": b"0", "link": b"1", "symlink": b"2", "device": b"3", "pipe": b"6"}.items():
    refuse(
        f"rootfs_as_{_title}",
        "'rootfs' is .* has to be a directory",
        gzip.compress(raw(b"rootfs", kind=_kind, link=b"/") + MANIFEST + END),
    )
refuse("rootfs_missing", "no rootfs", gzip.compress(MANIFEST + END))
refuse("rootfs_twice", "twice", image(ROOT))
refuse("rootfs_twice_with_a_slash", "twice", image(directory(b"./rootfs/")))
refuse("dot_as_a_symlink", "has to be a directory|has the name of a directory", image(symlink(b"./", b"/")))
refuse("nothing_but_an_end", "no manifest|neither a tar", gzip.compress(END))
for _title, _body in {
    "empty": b"",
    "no_json": b"nonsense",
    "list": b"[]",
    "pod": b'{"acKind":"PodManifest"}',
    "deep": b"[" * 9000,
    "utf16": M.decode().encode("utf-16"),
}.items():
    refuse(
        f"manifest_{_title}",
        "manifest|document|JSON|nest|acKind|UTF",
        image(last=raw(b"manifest", _body)),
        GantryError,
    )

# -- names --------------------------------------------------------------------------------------------

accept("name_not_utf8", image(raw(b"rootfs/\xff\xfe", b"1")), {"\udcff\udcfe": b"1"})
accept("name_with_control_characters", image(raw(b"rootfs/\x1b[2J\r\n\x07", b"1")), {"\x1b[2J\r\n\x07": b"1"})
accept(
    "name_like_an_option",
    image(raw(b"rootfs/--checkpoint-action=exec=sh", b"1")),
    {"--checkpoint-action=exec=sh": b"1"},
)
accept("name_with_a_backslash", image(raw(b"rootfs/..\\..\\evil", b"1")), {"..\\..\\evil": b"1"})
accept(
    "name_of_three_dots",
    image(raw(b"rootfs/...", b"1"), raw(b"rootfs/..x", b"2")),
    {"...": b"1", "..x": b"2"},
)
accept("name_of_rtl_override", image(raw("rootfs/\u202egnp.exe".encode(), b"1")), {"\u202egnp.exe": b"1"})
refuse("name_empty", "entry without a name", image(raw(b"", b"x")))
refuse("name_empty_by_pax", "entry without a name", image(pax((b"path", b"")), raw(b"rootfs/f", b"x")))
refuse("name_empty_by_gnu", "entry without a name", image(gnu(b"L", b"\0"), raw(b"rootfs/f", b"x")))
refuse("name_with_nul", "NUL byte in its name", image(pax((b"path", b"rootfs/a\0b")), raw(b"rootfs/f", b"x")))
refuse(
    "name_too_long", "bound: path", image(gnu(b"L", b"rootfs/" + b"a/" * 3000 + b"\0"), raw(b"f")), LimitError
)
refuse(
    "component_too_long",
    "bound: component",
    image(gnu(b"L", b"rootfs/" + b"a" * 256 + b"\0"), raw(b"f")),
    LimitError,
)
refuse("too_deep", "bound: depth", image(gnu(b"L", b"rootfs/" + b"a/" * 200 + b"f\0"), raw(b"f")), LimitError)
_LONG = b"/".join([b"g" * 200] * 3)
accept(
    "case_15_gnu_name_of_600_bytes",
    image(gnu(b"L", b"rootfs/" + _LONG + b"\0"), raw(b"rootfs/cut", b"1")),
    {_LONG.decode(): b"1"},
)
accept(
    "case_15_pax_name_of_600_bytes",
    image(pax((b"path", b"rootfs/" + _LONG)), raw(b"rootfs/cut", b"1")),
    {_LONG.decode(): b"1"},
)
accept(
    "case_15_ustar_prefix",
    image(raw(b"v" * 100, b"1", prefix=b"rootfs/" + b"u" * 140)),
    {"u" * 140 + "/" + "v" * 100: b"1"},
)
accept(
    "case_15_the_longest_name",
    image(gnu(b"L", b"rootfs/" + b"/".join([b"n" * 255] * 15) + b"\0"), raw(b"f", b"1")),
    {"/".join(["n" * 255] * 15): b"1"},
)
accept(
    "no_prefix_in_gnu_format", image(raw(b"rootfs/f", b"1", magic=b"ustar  \0", prefix=b"evil")), {"f": b"1"}
)
accept(
    "the_oldest_format",
    image(raw(b"rootfs/d/", magic=bytes(8), kind=b"\0"), raw(b"rootfs/f", b"1", magic=bytes(8), kind=b"\0")),
    {"d": is_directory, "f": b"1"},
)
refuse(
    "the_oldest_format_with_a_body_in_a_directory",
    "depending on who reads it",
    image(raw(b"rootfs/d/", b"x", magic=bytes(8), kind=b"\0")),
)
refuse(
    "the_oldest_format_uncompressed", "neither a tar", raw(b"rootfs/f", b"1", magic=bytes(8)) + MANIFEST + END
)

# -- two readers, two archives ------------------------------------------------------------------------

refuse(
    "two_names_pax_and_gnu",
    "is called 'rootfs/a' and 'rootfs/b'",
    image(gnu(b"L", b"rootfs/b\0"), pax((b"path", b"rootfs/a")), raw(b"rootfs/f")),
)
refuse(
    "two_names_gnu_and_pax",
    "is called",
    image(pax((b"path", b"rootfs/a")), gnu(b"L", b"rootfs/b\0"), raw(b"rootfs/f")),
)
refuse(
    "two_link_targets",
    "is called",
    image(pax((b"linkpath", b"/a")), gnu(b"K", b"/b\0"), symlink(b"rootfs/l", b"/c")),
)
refuse(
    "two_extended_headers",
    "second extended header",
    image(pax((b"path", b"rootfs/a")), pax((b"mtime", b"1")), raw(b"rootfs/f")),
)
refuse(
    "two_kinds_of_extended_headers",
    "second extended header",
    image(pax((b"path", b"rootfs/a")), pax((b"path", b"rootfs/b"), kind=b"X"), raw(b"rootfs/f")),
)
refuse(
    "two_long_names",
    "second name",
    image(gnu(b"L", b"rootfs/a\0"), gnu(b"L", b"rootfs/b\0"), raw(b"rootfs/f")),
)
refuse(
    "two_long_targets",
    "second link target",
    image(gnu(b"K", b"a\0"), gnu(b"K", b"b\0"), symlink(b"rootfs/l", b"c")),
)
refuse(
    "size_smuggled_by_pax",
    "depending on who reads it",
    image(pax((b"size", b"512")), raw(b"rootfs/f", raw(b"rootfs/smuggled")[:512], size=octal(0, 12))),
)
refuse(
    "size_hidden_by_pax",
    "depending on who reads it",
    image(pax((b"size", b"0")), raw(b"rootfs/f", raw(b"rootfs/smuggled")[:512])),
)
accept("size_twice_the_same", image(pax((b"size", b"3")), raw(b"rootfs/f", b"abc")), {"f": b"abc"})
refuse("data_after_the_end", "other data follows the end", image(end=END + raw(b"rootfs/hidden", b"x")))
refuse("data_after_the_end_far_away", "other data follows the end", image(end=END + bytes(100_000) + b"x"))
refuse("data_after_one_empty_block", "after an empty block", image(bytes(512), raw(b"rootfs/f", b"x")))
accept("zeros_after_the_end", image(raw(b"rootfs/f", b"1"), end=END + bytes(50_000)), {"f": b"1"})
accept("no_end_mark", image(raw(b"rootfs/f", b"1"), end=b""), {"f": b"1"})
accept("half_an_end_mark", image(raw(b"rootfs/f", b"1"), end=bytes(512)), {"f": b"1"})
for _title, _records in {
    "path": (b"path", b"rootfs/x"),
    "size": (b"size", b"0"),
    "vendor": (b"SCHILY.dev", b"1"),
    "sparse": (b"GNU.sparse.major", b"1"),
}.items():
    refuse(f"global_{_title}", "for all its entries", image(pax(_records, kind=b"g"), raw(b"rootfs/f")))
accept(
    "global_comment",
    image(pax((b"comment", b"0123abc"), (b"hdrcharset", b"BINARY"), kind=b"g"), raw(b"rootfs/f", b"1")),
    {"f": b"1"},
)

# -- extended headers ---------------------------------------------------------------------------------

for _title, _body in {
    "no_length": b"path=x\n",
    "too_long": b"99 path=x\n",
    "too_short": b"3 path=x\n",
    "zero": b"0 path=x\n",
    "negative": b"-9 path=x\n",
    "no_equals": b"7 path\n",
    "no_newline": b"10 path=xyz",
    "huge": b"99999999999 path=x\n",
    "sign": b"+10 path=x\n",
    "space": b" 10 path=x\n",
}.items():
    refuse(f"record_{_title}", "damaged extended header", image(pax_raw(_body), raw(b"rootfs/f")))
for _title, _record in {
    "size_word": (b"size", b"many"),
    "size_negative": (b"size", b"-1"),
    "size_hex": (b"size", b"0x10"),
    "uid_word": (b"uid", b"root"),
    "uid_empty": (b"uid", b""),
    "mtime_word": (b"mtime", b"now"),
    "mtime_nan": (b"mtime", b"nan"),
    "mtime_exponent": (b"mtime", b"1e9"),
    "mtime_twice_negative": (b"mtime", b"--5"),
    "size_arabic": (b"size", "\u0663".encode()),
}.items():
    refuse(
        f"record_{_title}", "where a number has to be|is not a time", image(pax(_record), raw(b"rootfs/f"))
    )
refuse(
    "record_size_beyond",
    "size out of range",
    image(pax((b"size", b"9" * 19)), raw(b"rootfs/f", size=base256(10**19 - 1, 12))),
    GantryError,
)
accept(
    "record_of_a_vendor",
    image(
        pax((b"ACME.secret", b"\0\xff"), (b"comment", b"hello"), (b"LIBARCHIVE.creationtime", b"1")),
        raw(b"rootfs/f", b"1"),
    ),
    {"f": b"1"},
)
accept(
    "record_repeated_the_last_counts",
    image(pax((b"mtime", b"1"), (b"mtime", b"2")), raw(b"rootfs/f")),
    {"f": time_is(2)},
)
accept(
    "record_with_a_newline",
    image(pax((b"path", b"rootfs/a\n10 path=b\n")), raw(b"rootfs/f", b"1")),
    {"a\n10 path=b\n": b"1"},
)
refuse(
    "header_too_large", "bound: header", image(pax((b"comment", b"x" * 40_000)), raw(b"rootfs/f")), LimitError
)
refuse("long_name_too_large", "bound: header", image(gnu(b"L", b"x" * 40_000), raw(b"rootfs/f")), LimitError)
refuse(
    "header_of_4_gigabytes",
    "bound: header",
    image(raw(b"x", kind=b"x", size=base256(1 << 32, 12))),
    LimitError,
)
refuse("headers_without_an_entry", "inside a header", gzip.compress(ROOT + pax((b"path", b"rootfs/a")) + END))
refuse(
    "many_global_headers",
    "16 extended headers",
    image(*[pax((b"comment", b"x"), kind=b"g")] * 40, raw(b"rootfs/f")),
)
refuse(
    "xattrs_too_large",
    "bound: xattrs",
    image(pax(*[(b"SCHILY.xattr.user.%d" % n, b"x" * 250) for n in range(90)]), raw(b"rootfs/f")),
    LimitError,
)
refuse(
    "xattr_too_large",
    "bound: xattr\\b",
    image(pax((b"SCHILY.xattr.user.a", b"x" * 11_000)), raw(b"rootfs/f")),
    LimitError,
)
refuse("xattr_with_nul", "NUL in its name", image(pax((b"SCHILY.xattr.user.a\0b", b"x")), raw(b"rootfs/f")))
refuse(
    "xattr_without_a_name", "whose name has 0 bytes", image(pax((b"SCHILY.xattr.", b"x")), raw(b"rootfs/f"))
)
refuse(
    "xattr_with_a_long_name",
    "whose name has 305 bytes",
    image(pax((b"SCHILY.xattr.user." + b"n" * 300, b"x")), raw(b"rootfs/f")),
)
accept(
    "case_16_foreign_xattrs_are_left",
    image(
        pax(
            (b"SCHILY.xattr.trusted.overlay.opaque", b"y"),
            (b"SCHILY.xattr.security.selinux", b"x"),
            (b"SCHILY.xattr.user.overlay.redirect", b"/"),
            (b"SCHILY.xattr.system.posix_acl_access", b"x"),
        ),
        raw(b"rootfs/f", b"1"),
    ),
    {
        "f": lambda path: (
            not {"trusted.overlay.opaque", "user.overlay.redirect", "system.posix_acl_access"}
            & set(os.listxattr(path))
        )
    },
)

# -- numbers ------------------------------------------------------------------------------------------

refuse("size_negative", "size out of range", image(raw(b"rootfs/f", size=base256(-1, 12))))
refuse(
    "size_of_the_universe",
    "out of range|bound: unpacked",
    image(raw(b"rootfs/f", size=base256((1 << 87) - 1, 12))),
    GantryError,
)
refuse(
    "size_beyond_the_bound", "bound: unpacked", image(raw(b"rootfs/f", size=octal(8_000_001, 12))), LimitError
)
refuse(
    "size_beyond_the_archive",
    "archive ends inside 'rootfs/f'",
    image(raw(b"rootfs/f", size=octal(7_000_000, 12))),
)
refuse(
    "size_beyond_the_archive_at_the_manifest",
    "archive ends|ends inside",
    gzip.compress(ROOT + raw(b"manifest", size=octal(5000, 12))),
)
for _title, _field in {
    "word": b"sizesizesiz\0",
    "decimal": b"00000000089\0",
    "minus": b"-0000000001\0",
    "hex": b"0x000000010\0",
    "nul_inside": b"000\x0000000000",
    "nul_in_front": b"\x0000000001000",
}.items():
    refuse(f"size_{_title}", "size that is no number", image(raw(b"rootfs/f", size=_field)))
accept("size_of_spaces", image(raw(b"rootfs/f", size=b" " * 11 + b"\0")), {"f": b""})
accept("size_in_base_256", image(raw(b"rootfs/f", b"abc", size=base256(3, 12))), {"f": b"abc"})
accept(
    "size_in_a_directory_is_nothing",
    image(directory(b"rootfs/d", size=octal(512, 12)), raw(b"rootfs/f", b"1")),
    {"f": b"1"},
)
accept("time_before_1970", image(raw(b"rootfs/f", mtime=base256(-86400, 12))), {"f": time_is(-86400)})
accept(
    "time_before_1970_in_pax",
    image(pax((b"mtime", b"-1.5")), raw(b"rootfs/f")),
    {"f": lambda path: os.lstat(path).st_mtime_ns == -1_500_000_000},
)
accept("time_of_2100", image(raw(b"rootfs/f", mtime=octal(4_102_444_800, 12))), {"f": time_is(4_102_444_800)})
accept("time_of_the_year_9999", image(pax((b"mtime", b"253402300799")), raw(b"rootfs/f", b"1")), {"f": b"1"})
accept(
    "time_of_a_long_fraction",
    image(pax((b"mtime", b"1." + b"123456789" * 200)), raw(b"rootfs/f")),
    {"f": lambda path: os.lstat(path).st_mtime_ns == 1_123_456_789},
)
refuse("time_beyond", "time out of range", image(raw(b"rootfs/f", mtime=base256(1 << 62, 12))))
refuse(
    "time_beyond_in_pax",
    "time out of range|where a number",
    image(pax((b"mtime", b"9" * 19)), raw(b"rootfs/f")),
)
accept(
    "owner_4294967294",
    image(raw(b"rootfs/f", uid=base256(0xFFFFFFFE, 8), gid=base256(0xFFFFFFFE, 8))),
    {"f": owner_is(0xFFFFFFFE, 0xFFFFFFFE)},
)
refuse("owner_4294967295", "owner or group out of range", image(raw(b"rootfs/f", uid=base256(0xFFFFFFFF, 8))))
refuse(
    "owner_4294967295_in_pax",
    "owner or group out of range",
    image(pax((b"gid", b"4294967295")), raw(b"rootfs/f")),
)
refuse("owner_negative", "owner out of range", image(raw(b"rootfs/f", uid=base256(-1, 8))))
refuse("mode_word", "mode that is no number", image(raw(b"rootfs/f", mode=b"rwxr-xr\0")))
accept(
    "mode_with_extra_bits",
    image(raw(b"rootfs/f", mode=b"7777755\0"), directory(b"rootfs/d", mode=b"0140755\0")),
    {"f": mode_is(0o7755), "d": mode_is(0o755)},
)
accept(
    "setuid_is_kept",
    image(raw(b"rootfs/f", b"1", mode=b"0004755\0"), raw(b"rootfs/g", b"1", mode=b"0002755\0")),
    {"f": mode_is(0o4755), "g": mode_is(0o2755)},
)
accept(
    "a_closed_directory_can_be_filled_and_removed",
    image(directory(b"rootfs/d", mode=b"0000000\0"), raw(b"rootfs/d/f", b"1", mode=b"0000000\0")),
    {"d": mode_is(0), "d/f": b"1"},
)
accept(
    "devices_are_devices_or_missing",
    image(raw(b"rootfs/null", kind=b"3", major=octal(1, 8), minor=octal(3, 8)), raw(b"rootfs/f", b"1")),
    {"f": b"1"},
)
refuse(
    "device_beyond",
    "device number that Linux does not have",
    image(raw(b"rootfs/d", kind=b"3", major=MAX_OCTAL)),
)
refuse(
    "device_minor_beyond",
    "device number that Linux does not have",
    image(raw(b"rootfs/d", kind=b"4", minor=MAX_OCTAL)),
)
refuse("device_negative", "device out of range", image(raw(b"rootfs/d", kind=b"3", minor=base256(-1, 8))))
for _kind in (b"V", b"M", b"D", b"N", b"A", b"I", b"Z", b"8", b"\xff"):
    refuse(f"kind_{_kind.hex()}", "of a kind that images do not have", image(raw(b"rootfs/f", kind=_kind)))
refuse(
    "checksum",
    "wrong checksum",
    gzip.compress(ROOT + raw(b"rootfs/f").replace(b"rootfs/f", b"rootfs/g", 1) + MANIFEST + END),
)
accept("checksum_of_signed_bytes", lambda: image(_signed(raw(b"rootfs/\xff", b"1"))), {"\udcff": b"1"})


def _signed(entry: bytes) -> bytes:
    total = sum(entry[:512]) - sum(entry[148:156]) + 256 - 256 * sum(b > 127 for b in entry[:512])
    return entry[:148] + b"%06o\0 " % total + entry[156:]


refuse(
    "size_of_8_gigabytes_in_pax_alone",
    "bound: unpacked",
    image(pax((b"size", b"8589934592")), raw(b"rootfs/f")),
    LimitError,
)

# -- sparse files -------------------------------------------------------------------------------------


def old_sparse(pairs: list[tuple[bytes, bytes]], real: bytes, body: bytes, *, more: bytes = b"") -> bytes:
    """GNU's first form: four pairs in the header, more in blocks after it."""
    entry = raw(b"rootfs/s", body, b"S", magic=b"ustar  \0")
    area = b"".join(offset + length for offset, length in pairs[:4]).ljust(96, b"\0")
    header = entry[:386] + area + (b"\1" if more else b"\0") + real + entry[495:512]
    return summed(header) + more + entry[512:]


def sparse(pairs: bytes, size: bytes, body: bytes, kind: str = "0.1") -> bytes:
    """The forms with extended headers; *pairs* are the numbers, separated by commas."""
    numbers = pairs.split(b",") if pairs else []
    if kind == "1.0":
        text = b"%d\n" % (len(numbers) // 2) + b"".join(n + b"\n" for n in numbers)
        records = [
            (b"GNU.sparse.major", b"1"),
            (b"GNU.sparse.minor", b"0"),
            (b"GNU.sparse.name", b"rootfs/s"),
            (b"GNU.sparse.realsize", size),
        ]
        return pax(*records) + raw(b"rootfs/GNUSparseFile.1/s", text + bytes(-len(text) % 512) + body)
    if kind == "0.0":
        parts = [
            (b"GNU.sparse.numbytes" if n % 2 else b"GNU.sparse.offset", number)
            for n, number in enumerate(numbers)
        ]
        return pax(
            (b"GNU.sparse.size", size), (b"GNU.sparse.numblocks", b"%d" % (len(numbers) // 2)), *parts
        ) + raw(b"rootfs/s", body)
    return pax(
        (b"GNU.sparse.size", size), (b"GNU.sparse.name", b"rootfs/s"), (b"GNU.sparse.map", pairs)
    ) + raw(b"rootfs/cut", body)


_SPARSE = holes(5000, {10: b"abc", 4000: b"defg"})
accept(
    "sparse_old",
    image(
        old_sparse(
            [(octal(10, 12), octal(3, 12)), (octal(4000, 12), octal(4, 12))], octal(5000, 12), b"abcdefg"
        )
    ),
    {"s": _SPARSE},
)
_MORE = (octal(4000, 12) + octal(4, 12)).ljust(512, b"\0")
accept(
    "sparse_old_with_a_block_more",
    image(
        old_sparse(
            [(octal(10 + n, 12), octal(1, 12)) for n in range(3)] + [(octal(13, 12), octal(0, 12))],
            octal(5000, 12),
            b"abcdefg",
            more=_MORE,
        )
    ),
    {"s": _SPARSE},
)
for _form in ("0.0", "0.1", "1.0"):
    accept(f"sparse_{_form}", image(sparse(b"10,3,4000,4", b"5000", b"abcdefg", _form)), {"s": _SPARSE})
    accept(
        f"sparse_{_form}_all_hole",
        image(sparse(b"100000,0", b"100000", b"", _form)),
        {"s": holes(100_000, {})},
    )
    refuse(
        f"sparse_{_form}_overlapping",
        "overlap or leave the file",
        image(sparse(b"0,10,5,10", b"100", bytes(20), _form)),
    )
    refuse(
        f"sparse_{_form}_backwards",
        "overlap or leave the file",
        image(sparse(b"50,10,0,10", b"100", bytes(20), _form)),
    )
    refuse(
        f"sparse_{_form}_beyond_the_file",
        "overlap or leave the file",
        image(sparse(b"95,10", b"100", bytes(10), _form)),
    )
    refuse(
        f"sparse_{_form}_huge_offset",
        "overlap or leave|where a number",
        image(sparse(b"9999999999999999999,1", b"100", b"x", _form)),
    )
    refuse(
        f"sparse_{_form}_negative", "where a number has to be", image(sparse(b"-5,1", b"100", b"x", _form))
    )
    refuse(f"sparse_{_form}_word", "where a number has to be", image(sparse(b"a,1", b"100", b"x", _form)))
    refuse(f"sparse_{_form}_too_much_data", "bytes of data", image(sparse(b"0,1", b"100", b"xx", _form)))
    refuse(f"sparse_{_form}_too_little_data", "bytes of data", image(sparse(b"0,3", b"100", b"xx", _form)))
    refuse(
        f"sparse_{_form}_of_a_petabyte",
        "bound: unpacked",
        image(sparse(b"0,1", b"1125899906842624", b"x", _form)),
        LimitError,
    )
    refuse(
        f"sparse_{_form}_without_a_size", "where a number has to be", image(sparse(b"0,1", b"", b"x", _form))
    )
    if _form != "1.0":
        refuse(f"sparse_{_form}_half_a_pair", "half a segment", image(sparse(b"0,1,5", b"100", b"x", _form)))
refuse(
    "sparse_0.0_out_of_order",
    "out of order",
    image(
        pax((b"GNU.sparse.size", b"9"), (b"GNU.sparse.numbytes", b"1"), (b"GNU.sparse.offset", b"1")),
        raw(b"rootfs/s", b"x"),
    ),
)
refuse(
    "sparse_two_maps",
    "two sparse maps",
    image(
        pax((b"GNU.sparse.size", b"9"), (b"GNU.sparse.map", b"0,1"), (b"GNU.sparse.offset", b"1")),
        raw(b"rootfs/s", b"x"),
    ),
)
refuse(
    "sparse_1.0_map_without_an_end",
    "map without an end",
    image(pax((b"GNU.sparse.major", b"1"), (b"GNU.sparse.realsize", b"9")), raw(b"rootfs/s", b"5\n1\n")),
)
refuse(
    "sparse_1.0_map_of_many",
    "bound: header",
    image(
        pax((b"GNU.sparse.major", b"1"), (b"GNU.sparse.realsize", b"9")),
        raw(b"rootfs/s", b"999999999\n" * 60),
    ),
    LimitError,
)
refuse(
    "sparse_1.0_map_without_newlines",
    "bound: header|where a number",
    image(pax((b"GNU.sparse.major", b"1"), (b"GNU.sparse.realsize", b"9")), raw(b"rootfs/s", b"1" * 500_000)),
    GantryError,
)
refuse(
    "sparse_without_any_size",
    "sparse but has no size",
    image(pax((b"GNU.sparse.map", b"0,1")), raw(b"rootfs/s", b"x")),
)
refuse(
    "sparse_old_overlapping",
    "overlap",
    image(
        old_sparse([(octal(0, 12), octal(5, 12)), (octal(1, 12), octal(2, 12))], octal(50, 12), b"abcdefg")
    ),
)
refuse(
    "sparse_old_negative",
    "map out of range",
    image(old_sparse([(base256(-5, 12), octal(7, 12))], octal(50, 12), b"abcdefg")),
)
refuse(
    "sparse_old_huge",
    "bound: unpacked|out of range",
    image(old_sparse([(octal(0, 12), octal(7, 12))], base256(1 << 60, 12), b"abcdefg")),
    GantryError,
)
refuse(
    "sparse_old_without_the_block_it_promises",
    "ends inside",
    squeezed(ROOT + old_sparse([(octal(0, 12), octal(7, 12))], octal(50, 12), b"", more=b"x")[:512]),
)
refuse(
    "sparse_old_endless_blocks",
    "ends inside|no manifest|bytes of data",
    squeezed(ROOT + old_sparse([], octal(50, 12), b"", more=(bytes(504) + b"\1" + bytes(7)) * 400)),
)

refuse(
    "sparse_old_in_the_standard_format",
    "does not have",
    image(raw(b"rootfs/s", kind=b"S", prefix=b"rootfs")),
)

refuse(
    "sparse_symlink",
    "does not belong to it",
    image(pax((b"GNU.sparse.name", b"rootfs/other")), symlink(b"rootfs/l", b"/etc/passwd")),
)

refuse(
    "sparse_with_two_names",
    "is called",
    image(gnu(b"L", b"rootfs/other\0"), sparse(b"10,3,4000,4", b"5000", b"abcdefg")),
)

# -- streams ------------------------------------------------------------------------------------------

_WHOLE = tar(
    raw(b"rootfs/a", b"1" * 700),
    symlink(b"rootfs/l", b"a"),
    pax((b"path", b"rootfs/long")),
    raw(b"rootfs/f", b"2"),
)
for _kind in ("gzip", "bzip2", "xz", "zstd"):
    _packed = compress(_WHOLE, _kind)
    accept(f"{_kind}_as_it_should_be", _packed, {"a": b"1" * 700, "long": b"2"})
    refuse(f"{_kind}_cut", "cut short|damaged", _packed[:-9])
    refuse(f"{_kind}_cut_early", "cut short|damaged|neither a tar", _packed[:12])
    refuse(f"{_kind}_with_garbage_behind", "other data after", _packed + b"garbage that nobody signed")
    refuse(
        f"{_kind}_with_another_compression_behind",
        "other data after",
        _packed + compress(_WHOLE, "gzip" if _kind != "gzip" else "xz"),
    )
    refuse(
        f"{_kind}_spoiled",
        "damaged|checksum|cut short|empty block|no number|ends inside",
        _packed[:60] + bytes(b ^ 0x5A for b in _packed[60:90]) + _packed[90:],
    )
    accept(f"{_kind}_with_zeros_behind", _packed + bytes(1000), {"a": b"1" * 700})
    accept(
        f"{_kind}_in_two_parts",
        compress(_WHOLE[:900], _kind) + compress(_WHOLE[900:], _kind),
        {"a": b"1" * 700, "long": b"2"},
    )
    refuse(f"{_kind}_twice", "compressed twice", compress(_packed, _kind))
    refuse(
        f"{_kind}_bomb",
        "bound: (ratio|unpacked)",
        functools.partial(compress, tar(raw(b"rootfs/z", bytes(7_000_000))), _kind),
        LimitError,
    )
for _at in range(0, len(_WHOLE) - 1024, 256):
    refuse(
        f"tar_cut_at_{_at}", "ends inside|no manifest|no rootfs|empty|neither a tar", squeezed(_WHOLE[:_at])
    )
refuse("nothing", "the image is empty", b"")
refuse("zeros", "neither a tar", bytes(10_000))
refuse("a_page", "neither a tar", b"<!DOCTYPE html><title>404</title>" * 100)
refuse("encrypted", "is encrypted", b"\x8c\x0d\x04\x07\x03\x02" + bytes(600))
refuse("gzip_header_only", "cut short|damaged", b"\x1f\x8b\x08\0\0\0\0\0\0\xff")
refuse("gzip_wrong_checksum", "damaged", lambda: squeezed(_WHOLE)[:-8] + bytes(8))
refuse(
    "many_empty_gzip_members", "no manifest|no rootfs|cut|empty", lambda: squeezed(b"") * 2000, GantryError
)

# -- bombs --------------------------------------------------------------------------------------------

refuse(
    "bomb_of_entries",
    "bound: entries",
    lambda: image(*[raw(b"rootfs/%d" % n) for n in range(400)]),
    LimitError,
)
refuse(
    "bomb_of_directories_without_entries",
    "bound: entries",
    lambda: image(*[gnu(b"L", b"rootfs/%d/" % n + b"a/" * 150 + b"f\0") + raw(b"f") for n in range(5)]),
    LimitError,
)
refuse(
    "bomb_of_names",
    "bound: names",
    lambda: image(
        *[
            gnu(b"L", b"rootfs/" + (b"%03d" % n + b"n" * 250 + b"/") * 15 + b"f\0") + raw(b"f")
            for n in range(12)
        ]
    ),
    LimitError,
)
refuse(
    "bomb_of_link_targets",
    "bound: names",
    lambda: image(*[gnu(b"K", b"t" * 4000 + b"\0") + symlink(b"rootfs/%d" % n, b"x") for n in range(50)]),
    LimitError,
)
refuse(
    "bomb_of_xattrs",
    "bound: names",
    lambda: image(*[pax((b"SCHILY.xattr.user.a", b"x" * 9000)) + raw(b"rootfs/%d" % n) for n in range(20)]),
    LimitError,
)
refuse(
    "bomb_of_holes",
    "bound: unpacked",
    lambda: image(
        *[
            pax((b"GNU.sparse.size", b"7000000"), (b"GNU.sparse.map", b"0,0")) + raw(b"rootfs/%d" % n)
            for n in range(3)
        ]
    ),
    LimitError,
)
refuse(
    "bomb_of_zeros_after_the_end", "bound: (ratio|unpacked)", lambda: image(end=bytes(9_000_000)), LimitError
)
refuse("bomb_in_a_bomb", "compressed twice", lambda: squeezed(squeezed(bytes(5_000_000))))
accept(
    "a_deep_tree",
    image(gnu(b"L", b"rootfs/" + b"d/" * 190 + b"f\0") + raw(b"f", b"1")),
    {"d/" * 190 + "f": b"1"},
)
accept("zlib_stored_blocks", lambda: _stored(tar(raw(b"rootfs/f", b"1"))), {"f": b"1"})


def _stored(data: bytes) -> bytes:
    """Compressed, with nothing compressed."""
    machine = zlib.compressobj(0, zlib.DEFLATED, 31)
    return machine.compress(data) + machine.flush()
