"""Compression on several threads: valid for every reader, the same bytes anywhere, in bounded memory."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from gantry.errors import UsageError
from gantry.images import compressing
from gantry.images.compressing import compressor
from gantry.images.compression import KINDS, decompress

SOURCE = random.Random(11)
# Larger than two blocks of every kind but xz, which the small blocks below are for.
DATA = b"ustar".rjust(262, b"\0") + b"".join(
    SOURCE.randbytes(900) + bytes(SOURCE.randrange(3000)) for _ in range(7500)
)


def pack(data: bytes, kind: str, *, threads: int | None = None, step: int = 100_000) -> bytes:
    out = io.BytesIO()
    with compressor(kind, lambda piece: out.write(piece) and None, threads=threads) as machine:
        for at in range(0, len(data), step):
            machine.write(data[at : at + step])
        machine.finish()
    return out.getvalue()


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    families = {kind: family._replace(block=70_000) for kind, family in compressing._FAMILIES.items()}
    monkeypatch.setattr(compressing, "_FAMILIES", families)


READERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.decompress,
    "bzip2": bz2.decompress,
    "xz": lzma.decompress,
    "zstd": lambda data: (
        zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data), read_across_frames=True).read()
    ),
}


@pytest.mark.parametrize("kind", ["gzip", "bzip2", "zstd"])
def test_other_readers_get_the_same(kind: str) -> None:
    packed = pack(DATA, kind)
    assert READERS[kind](packed) == DATA
    assert b"".join(decompress([packed])) == DATA
    assert len(packed) < 0.7 * len(DATA)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("kind", KINDS[1:])
@pytest.mark.parametrize("size", [0, 1, 69_999, 70_000, 70_001, 140_000, 500_000])
def test_any_size_around_the_edges_of_blocks(kind: str, size: int) -> None:
    packed = pack(DATA[:size], kind)
    assert READERS[kind](packed) == DATA[:size]


@pytest.mark.parametrize("kind", KINDS[1:])
def test_the_tools_accept_it(kind: str) -> None:
    tool = {"gzip": "gzip", "bzip2": "bzip2", "xz": "xz", "zstd": "zstd"}[kind]
    if shutil.which(tool) is None:
        pytest.skip(f"{tool}, the peer, is not installed")
    data = DATA[:3_000_000]
    done = subprocess.run([tool, "-dc"], input=pack(data, kind), check=True, capture_output=True)
    assert done.stdout == data
    assert not done.stderr


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("kind", KINDS)
def test_the_bytes_depend_neither_on_threads_nor_on_pieces(kind: str) -> None:
    data = DATA[:1_000_000]
    first = pack(data, kind, threads=1, step=1_000_000)
    for threads, step in ((1, 999), (2, 70_000), (16, 250_001), (None, 4096)):
        assert pack(data, kind, threads=threads, step=step) == first


@pytest.mark.usefixtures("small_blocks")
@settings(max_examples=40, deadline=None)
@given(st.sampled_from(KINDS[1:]), st.lists(st.integers(0, 200_000), max_size=5), st.integers(1, 5))
def test_pieces_of_any_size(kind: str, sizes: list[int], threads: int) -> None:
    out: list[bytes] = []
    at = 0
    with compressor(kind, out.append, threads=threads) as machine:
        for size in sizes:
            machine.write(DATA[at : at + size])
            at += size
        machine.finish()
    assert READERS[kind](b"".join(out)) == DATA[:at]


def test_gzip_is_one_member_without_a_time() -> None:
    packed = pack(DATA[:1_000_000], "gzip")
    assert packed[:10] == b"\x1f\x8b\x08\0\0\0\0\0\0\x03"
    machine = __import__("zlib").decompressobj(31)
    assert machine.decompress(packed) == DATA[:1_000_000]
    assert machine.eof
    assert not machine.unused_data


def test_the_window_before_a_block_counts() -> None:
    """Without it, text that repeats across blocks would be written again in each."""
    block = SOURCE.randbytes(20_000)
    assert len(pack(block * 200, "gzip")) < len(block) + 40_000


@pytest.mark.parametrize("kind", KINDS[1:])
def test_memory_is_bounded(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the threads are, only so many blocks wait for them."""
    family = compressing._FAMILIES[kind]
    living: list[int] = []

    def pack_late(block: bytes, before: bytes, last: bool) -> bytes:
        living.append(len(block))
        return b""

    monkeypatch.setitem(
        compressing._FAMILIES, kind, family._replace(pack=pack_late, block=10_000, header=b"", trailer=False)
    )
    seen: list[int] = []
    with compressor(kind, lambda _: seen.append(len(machine._waiting)), threads=3) as machine:
        for _ in range(500):
            machine.write(bytes(5000))
            assert len(machine._waiting) <= 4
            assert machine._size <= 10_000
        machine.finish()
    assert sum(living) == 500 * 5000


def test_a_failure_in_a_thread_is_the_writers(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(block: bytes, before: bytes, last: bool) -> bytes:
        raise MemoryError("no more")

    family = compressing._FAMILIES["gzip"]
    monkeypatch.setitem(compressing._FAMILIES, "gzip", family._replace(pack=broken))
    with pytest.raises(MemoryError, match="no more"):
        pack(DATA, "gzip")
    assert not [thread for thread in threading.enumerate() if thread.name == "compress"]


def test_a_failing_sink_ends_the_threads() -> None:
    def full(_: bytes) -> None:
        raise OSError(28, "No space left on device")

    def attempt() -> None:
        with compressor("gzip", full, threads=3) as machine:
            machine.write(DATA)
            machine.finish()

    with pytest.raises(OSError, match="No space"):
        attempt()
    assert not [thread for thread in threading.enumerate() if thread.name == "compress"]


def test_another_kind_is_refused() -> None:
    with pytest.raises(UsageError, match='"lzop" is no compression'):
        compressor("lzop", print)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gzip", "zstd"])
def test_memory_of_a_process_that_compresses_a_gigabyte(kind: str) -> None:
    code = (
        "import os; from gantry.images.compressing import compressor\n"
        "piece = os.urandom(4096) * 64\n"
        f"with compressor({kind!r}, lambda data: None, threads=2) as machine:\n"
        "    for _ in range(4000): machine.write(piece)\n"
        "    machine.finish()\n"
        "print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert int(done.stdout) < (40_000 if kind == "gzip" else 140_000)  # KiB
