"""zstd, our extension: frame by frame, to the last byte, within bounds."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.aci import file, tar_bytes

from gantry.errors import GantryError
from gantry.images.compression import decompress, sniff
from gantry.images.errors import ArchiveError, LimitError
from gantry.images.limits import Limits
from gantry.images.zstdframes import ZSTD_MAGIC, ZSTD_SKIPPABLE

TAR = tar_bytes(
    [file("rootfs/f", random.Random(4).randbytes(300_000) + bytes(300_000)), file("manifest", b"")]
)


def packed(data: bytes, **settings_: object) -> bytes:
    return zstandard.ZstdCompressor(**settings_).compress(data)  # type: ignore[arg-type]


def unpacked(data: bytes, size: int = 10_000) -> bytes:
    return b"".join(decompress([data[i : i + size] for i in range(0, len(data), size)]))


@pytest.mark.parametrize("level", [-5, 1, 3, 19])
@pytest.mark.parametrize("checksum", [False, True])
@pytest.mark.parametrize("sized", [False, True])
def test_every_kind_of_frame(level: int, checksum: bool, sized: bool) -> None:
    data = packed(TAR, level=level, write_checksum=checksum, write_content_size=sized)
    assert unpacked(data) == TAR
    assert unpacked(data, 1 << 30) == TAR


def test_a_stream_of_blocks_as_they_came() -> None:
    machine = zstandard.ZstdCompressor(level=1).compressobj()
    data = b""
    for at in range(0, len(TAR), 7000):
        data += machine.compress(TAR[at : at + 7000]) + machine.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
    data += machine.flush()
    assert unpacked(data) == TAR


def test_frames_and_skippable_frames_in_a_row() -> None:
    skippable = ZSTD_SKIPPABLE[7] + (70_000).to_bytes(4, "little") + bytes(70_000)
    empty = ZSTD_SKIPPABLE[0] + bytes(4)
    data = packed(TAR[:1000]) + skippable + empty + packed(b"") + packed(TAR[1000:]) + skippable
    assert unpacked(data) == TAR
    assert unpacked(data + bytes(100)) == TAR
    with pytest.raises(ArchiveError, match="cut short"):
        unpacked(data[:-1])
    with pytest.raises(ArchiveError, match="neither a tar nor"):
        unpacked(skippable + data)


def test_what_the_tool_writes(tmp_path: Path) -> None:
    tool = shutil.which("zstd")
    if tool is None:
        pytest.skip("zstd, the peer, is not installed")
    (tmp_path / "t").write_bytes(TAR)
    for flags in ([], ["-19"], ["--long=27"], ["--no-check"], ["-T2", "-B1MiB"]):
        done = subprocess.run([tool, "-c", *flags, tmp_path / "t"], check=True, capture_output=True)
        assert unpacked(done.stdout) == TAR, flags


def test_a_window_that_needs_more_memory_is_refused_before_it_gets_any() -> None:
    header = ZSTD_MAGIC + bytes((0b0000_0000, (18 << 3)))  # 256 MiB
    with pytest.raises(
        LimitError, match=r"asks for 268435456 bytes of memory, more than 134217728"
    ) as refused:
        unpacked(header + b"\1\0\0")
    assert "--long=27" in refused.value.hint
    # A frame in one segment names no window: all of its content is one.
    single = ZSTD_MAGIC + bytes((0b1110_0000,)) + (1 << 40).to_bytes(8, "little")
    with pytest.raises(LimitError, match="1099511627776"):
        unpacked(single + b"\1\0\0")


def test_a_dictionary_is_refused() -> None:
    words = [random.Random(n).randbytes(40) * 3 for n in range(300)]
    dictionary = zstandard.train_dictionary(4096, words)
    data = zstandard.ZstdCompressor(dict_data=dictionary, write_dict_id=True).compress(TAR)
    with pytest.raises(ArchiveError, match="needs a dictionary"):
        unpacked(data)


@pytest.mark.parametrize(
    ("block", "told"),
    [
        (0b11 << 1 | 5 << 3, "cannot be"),  # a kind that is reserved
        (0b01 << 1 | (128 * 1024 + 1) << 3, "cannot be"),  # more out of a block than there may be
        (0b10 << 1 | 2_000_000 << 3, "cannot be"),
    ],
)
def test_blocks_that_cannot_be(block: int, told: str) -> None:
    with pytest.raises(ArchiveError, match=told):
        unpacked(ZSTD_MAGIC + bytes((0, 7 << 3)) + block.to_bytes(3, "little") + bytes(10))


def test_a_bomb_meets_the_bounds_and_no_memory() -> None:
    """Four bytes for 128 KiB: 40 KB of them are more than a gigabyte."""
    block = (0b01 << 1 | (128 * 1024) << 3).to_bytes(3, "little") + b"\0"
    bomb = ZSTD_MAGIC + bytes((0, 7 << 3)) + block * 10_000
    code = (
        "import sys; from gantry.images.compression import decompress\n"
        "try:\n"
        "    for piece in decompress([sys.stdin.buffer.read()]): assert len(piece) <= 128 * 1024\n"
        "except Exception as error: print(error)\n"
        "print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"
    )
    done = subprocess.run([sys.executable, "-c", code], input=bomb, check=True, capture_output=True)
    told, peak = done.stdout.decode().splitlines()
    assert "bound: ratio" in told
    assert int(peak) < 60_000  # KiB
    with pytest.raises(LimitError, match="unpacked"):
        list(decompress([bomb], Limits(unpacked=5_000_000)))


def test_a_wrong_checksum_is_refused() -> None:
    data = bytearray(packed(TAR, write_checksum=True))
    data[-2] ^= 1
    with pytest.raises(ArchiveError, match="damaged"):
        unpacked(bytes(data))


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damage_is_an_error_of_ours_or_harmless(data: st.DataObject) -> None:
    good = bytearray(packed(TAR[:3000], write_checksum=True) + packed(TAR[3000:5000], write_checksum=True))
    for _ in range(data.draw(st.integers(1, 4))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(good)))
    try:
        out = unpacked(bytes(good[:cut]), data.draw(st.integers(1, 4000)))
    except GantryError:
        return
    assert len(out) <= 128 * 1024 * len(good)


def test_the_library_is_loaded_only_for_zstd() -> None:
    code = (
        "import sys; from gantry.images.compression import decompress; from gantry.images import compressing;"
        "assert 'zstandard' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_sniffed_by_its_first_four_bytes() -> None:
    assert sniff(ZSTD_MAGIC + bytes(508)) == "zstd"
