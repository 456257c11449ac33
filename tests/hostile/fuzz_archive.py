"""Fuzz the archive reader: ``python -m tests.hostile.fuzz_archive --seconds=60``.

Coverage of the reader's code steers the inputs (atheris); most mutations know what a tar header is,
and put its checksum right. The inputs it starts from are the table of attacks. What breaks a rule is written
to ``--findings``; once the fault is mended it belongs into ``corpus/archive/``, which ``test_fuzzed.py``
replays.

The rules (:func:`check`): bytes are refused with an :class:`ImageError` of one line, or accepted. What is
accepted lies below its root when it is unpacked, and Python's own tar reader sees the same archive.
"""

from __future__ import annotations

import argparse
import io
import os
import random
import stat
import sys
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gantry.images.compression import decompress
from gantry.images.errors import ImageError
from gantry.images.extract import Extractor
from gantry.images.layout import Layout, Member, clean
from gantry.images.limits import Limits
from gantry.images.tarstream import BLOCKDEV, CHARDEV, DIRECTORY, FIFO, FILE, HARDLINK, SYMLINK, TarStream
from gantry.linux.fs import remove_tree

CORPUS = Path(__file__).parent / "corpus" / "archive"
LIMITS = Limits(
    unpacked=300_000,
    ratio=200,
    ratio_from=100_000,
    manifest=5_000,
    entries=60,
    names=100_000,
    header=30_000,
    reserve=0,
)
_KINDS = {
    FILE: stat.S_ISREG,
    DIRECTORY: stat.S_ISDIR,
    SYMLINK: stat.S_ISLNK,
    FIFO: stat.S_ISFIFO,
    CHARDEV: stat.S_ISCHR,
    BLOCKDEV: stat.S_ISBLK,
}
_BLOCK = 512


def check(data: bytes) -> bool:
    """Hold *data*, an image as distributed, to the rules; whether it was accepted.

    Raises:
        AssertionError: A rule is broken.
        Exception: So is the reader.
    """
    try:
        tar = b"".join(decompress([data], LIMITS))
        members = _scan(tar)
    except ImageError as error:
        assert str(error).isprintable()
        assert len(str(error)) < 4000
        return False
    _agrees(tar, members)
    _unpacks(tar)
    return True


def _scan(tar: bytes) -> list[Member]:
    return list(Layout(TarStream([tar], LIMITS), LIMITS))


def _unpacks(tar: bytes) -> None:
    """Everything lies below the root, as what the archive says it is."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as top:
        root = os.path.join(top, "root")
        os.mkdir(root)
        stream = TarStream([tar], LIMITS)
        with Extractor(root, privileged=False) as extractor:
            members = []
            for member in Layout(stream, LIMITS):
                members.append(member)
                kind = member.entry.kind
                if kind == HARDLINK:
                    extractor.link(member.path, member.target)
                elif kind == DIRECTORY:
                    extractor.directory(member.path, member.entry)
                else:
                    extractor.place(member.path, member.entry, stream.content() if kind == FILE else ())
            extractor.finish()
            lost = set(extractor.downgrades.devices)
        assert os.listdir(top) == ["root"]
        for member in members:
            if member.path.decode("utf-8", "backslashreplace") in lost:
                continue
            info = os.lstat(os.path.join(os.fsencode(root), member.path))
            if member.entry.kind == HARDLINK:
                assert os.path.samestat(info, os.lstat(os.path.join(os.fsencode(root), member.target)))
            else:
                assert _KINDS[member.entry.kind](info.st_mode), member
            if member.entry.kind == FILE:
                assert info.st_size == member.entry.size, member
        remove_tree(root)


def _agrees(tar: bytes, members: list[Member]) -> None:
    """Python's tar reader, where it reads the archive to its end, sees the same names and sizes.

    Left out are archives in GNU's format with something where the standard's has a prefix: that is a time,
    and Python takes it for a prefix all the same.
    """
    headers = [tar[at : at + _BLOCK] for at in range(0, len(tar), _BLOCK)]
    if any(header[257:263] != b"ustar\0" and header[345:346].strip(b"\0") for header in headers):
        return
    try:
        with tarfile.open(
            fileobj=io.BytesIO(tar), mode="r:", encoding="utf-8", errors="surrogateescape"
        ) as them:
            theirs = [
                (clean(os.fsencode(info.name)), info.isreg(), info.size if info.isreg() else 0)
                for info in them
            ]
            if tar[them.offset : them.offset + _BLOCK].strip(b"\0"):
                return  # it gave up in the middle, without a word
    except (tarfile.TarError, ValueError, OverflowError, ImageError, EOFError, IndexError):
        return  # it knows less than we do: several sparse maps, odd times
    ours = [(member.path, member.entry.kind == FILE, member.entry.size) for member in members]
    seen = [(name[7:], regular, size) for name, regular, size in theirs if name.startswith(b"rootfs/")]
    mine = [each for each in ours if each[0]]
    assert seen == mine, f"two readers, two archives: {seen} and {mine}"


# -- mutation -----------------------------------------------------------------------------------------


def repaired(data: bytes) -> bytes:
    """*data* with the right checksum in everything that looks like a header."""
    fixed = bytearray(data)
    for at in range(0, len(fixed) - _BLOCK + 1, _BLOCK):
        block = fixed[at : at + _BLOCK]
        if block[257:262] == b"ustar":
            total = sum(block) - sum(block[148:156]) + 256
            fixed[at + 148 : at + 156] = b"%06o\0 " % total
    return bytes(fixed)


_FIELDS = [
    (0, 100),
    (100, 8),
    (108, 8),
    (116, 8),
    (124, 12),
    (136, 12),
    (156, 1),
    (157, 100),
    (257, 8),
    (329, 8),
    (337, 8),
    (345, 155),
    (386, 96),
    (482, 1),
    (483, 12),
]
_NUMBERS = [b"\0", b"\x80" + bytes(7), b"\xff" * 8, b"\x80\0\0\0\0\0\0\0\0\0\0\1", b"7" * 11, b"0000001000\0"]
_TEXTS = [b"rootfs/", b"rootfs/../", b"/", b"manifest\0", b"./", b"a/", b"rootfs/a\0", b"..", b"\0"]
_RECORDS = [
    b"path",
    b"linkpath",
    b"size",
    b"mtime",
    b"uid",
    b"GNU.sparse.map",
    b"GNU.sparse.size",
    b"GNU.sparse.major",
    b"GNU.sparse.realsize",
    b"GNU.sparse.name",
    b"GNU.sparse.offset",
    b"SCHILY.xattr.user.a",
]


def mutated(data: bytes, dice: random.Random) -> bytes:
    """One change that a tar reader would notice: a field, a record, an entry more, fewer or elsewhere."""
    blocks = [data[at : at + _BLOCK] for at in range(0, len(data), _BLOCK)]
    headers = [n for n, block in enumerate(blocks) if block[257:262] == b"ustar"]
    if not headers:
        return data
    chosen = dice.choice(headers)
    action = dice.randrange(7)
    if action <= 2:
        offset, size = dice.choice(_FIELDS)
        value = dice.choice(_NUMBERS + _TEXTS + [bytes(dice.randrange(256) for _ in range(size))])[:size]
        if dice.randrange(2):
            value = value.ljust(size, b"\0")
        block = blocks[chosen].ljust(_BLOCK, b"\0")
        blocks[chosen] = block[:offset] + value + block[offset + len(value) :]
    elif action == 3:
        blocks[chosen] = (
            blocks[chosen][:156] + bytes([dice.choice(b"0123456789xgLKSXV\0")]) + blocks[chosen][157:]
        )
    elif action == 4:
        value = dice.choice([*_TEXTS, b"512", b"0", b"0,1", b"1", b"-1", b"1.5"])
        blocks[chosen:chosen] = _extended(dice.choice(_RECORDS), value)
    elif action == 5:
        blocks[chosen:chosen] = blocks[dice.choice(headers) :][: dice.randrange(1, 4)]
    else:
        del blocks[chosen : chosen + dice.randrange(1, 3)]
    return b"".join(blocks)


def _extended(key: bytes, value: bytes) -> list[bytes]:
    rest = b" " + key + b"=" + value + b"\n"
    body = b"%d" % (len(rest) + 2) + rest
    header = bytearray(_BLOCK)
    header[:1] = b"x"
    header[124:136] = b"%011o\0" % len(body)
    header[156:157] = b"x"
    header[257:265] = b"ustar\x0000"
    return [bytes(header), body.ljust(_BLOCK, b"\0")]


def seeds(directory: Path) -> None:
    """Write what to start from: the table's archives, unpacked where that goes, and all that was found."""
    # Costs what a replay need not pay.
    from tests.hostile.attacks import ATTACKS  # noqa: PLC0415
    from tests.hostile.attacks import LIMITS as TABLE  # noqa: PLC0415

    found = {name: attack.make() for name, attack in ATTACKS.items()}
    found |= {path.name: path.read_bytes() for path in CORPUS.glob("*")}
    for name, data in found.items():
        if len(data) > 20_000:
            continue
        try:
            tar = b"".join(decompress([data], TABLE))
        except ImageError:
            tar = b""
        if tar and len(tar) <= 30_000:
            (directory / f"{name}.tar").write_bytes(tar)
        if not tar or name.startswith(("gzip", "xz", "bzip2", "zstd", "zlib")):
            (directory / name).write_bytes(data)


def _mutator(plain: Callable[[bytes, int], bytes]) -> Callable[[bytes, int, int], bytes]:
    def mutate(data: bytes, size: int, seed: int) -> bytes:
        dice = random.Random(seed)
        if not dice.randrange(4) or data[257:262] != b"ustar":
            return plain(data, size)
        for _ in range(dice.randrange(1, 4)):
            data = mutated(data, dice)
        return repaired(data)[:size]

    return mutate


def main() -> None:
    """Fuzz for a while; exit status 1 if something was found."""
    import atheris  # noqa: PLC0415 - not on hosts where the corpus is only replayed

    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seconds", type=int, default=60)
    options.add_argument("--findings", default="build/fuzz/archive")
    chosen = options.parse_args()
    os.makedirs(chosen.findings, exist_ok=True)
    reader: dict[str, Any] = {
        name: module
        for name, module in sys.modules.items()
        if name.startswith(
            (
                "gantry.images.tar",
                "gantry.images.layout",
                "gantry.images.compression",
                "gantry.images.zstdframes",
            )
        )
    }
    for module in reader.values():
        for name, value in list(vars(module).items()):
            if (
                getattr(value, "__module__", None) == module.__name__
                and not isinstance(value, type)
                and callable(value)
            ):
                setattr(module, name, atheris.instrument_func(value))
            elif (
                isinstance(value, type)
                and value.__module__ == module.__name__
                and not issubclass(value, tuple)
            ):
                for key, method in list(vars(value).items()):
                    if callable(method) and hasattr(method, "__code__"):
                        setattr(value, key, atheris.instrument_func(method))
    with tempfile.TemporaryDirectory() as place:
        seeds(Path(place))
        arguments = [
            sys.argv[0],
            place,
            f"-max_total_time={chosen.seconds}",
            "-max_len=40000",
            "-timeout=20",
            "-rss_limit_mb=2000",
            "-print_final_stats=1",
            f"-artifact_prefix={chosen.findings}/",
        ]
        # Looked up at each call: before Fuzz() another function has that name.
        atheris.Setup(
            arguments,
            check,
            custom_mutator=_mutator(lambda *given: atheris.Mutate(*given)),  # noqa: PLW0108
        )
        atheris.Fuzz()


if __name__ == "__main__":
    main()
