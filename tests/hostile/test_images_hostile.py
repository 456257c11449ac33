"""Bytes from strangers: whatever comes, it is refused in one line or handled, and nothing escapes."""

from __future__ import annotations

import io
import os
import random
import tarfile
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.support.aci import (
    compress,
    device,
    directory,
    fifo,
    file,
    hardlink,
    image_entries,
    make_raw,
    manifest,
    symlink,
    tar_bytes,
)
from tests.support.layers import check_random_layers
from tests.support.store import paths_in, put, sizes

from gantry.errors import GantryError, UsageError
from gantry.http.urls import parse as parse_url
from gantry.images import Limits, Store, validate
from gantry.images.compression import decompress
from gantry.images.errors import ArchiveError, ImageError, LimitError
from gantry.images.extract import Extractor
from gantry.images.layout import Layout, clean
from gantry.images.source import parse_source, signature_url
from gantry.images.tarstream import CHARDEV, FILE, HARDLINK, Entry, TarStream

SMALL = Limits(unpacked=2_000_000, entries=200, manifest=10_000, header=20_000)
GOOD = tar_bytes(
    image_entries(
        manifest(version="1"),
        {"etc/motd": "hello", "usr/bin/x": b"\x7fELF" + bytes(900)},
        [symlink("l", "etc"), hardlink("h", "etc/motd"), fifo("p"), file("n" * 150, "long")],
    )
)
PAX = tar_bytes(
    image_entries(manifest(), {"ü" * 80: "x"}, [file("f", "1", pax_headers={"SCHILY.xattr.user.a": "b"})]),
    fmt=tarfile.PAX_FORMAT,
)


def one_line(error: GantryError) -> None:
    assert str(error).isprintable()


def scan(blocks: Iterable[bytes]) -> None:
    for _ in Layout(TarStream(blocks, SMALL), SMALL):
        pass


@given(st.binary(max_size=4000))
def test_any_bytes_as_a_tar(data: bytes) -> None:
    try:
        scan([data])
    except ImageError as error:
        one_line(error)


@given(st.binary(max_size=2000), st.sampled_from([b"\x1f\x8b\x08", b"BZh9", b"\xfd7zXZ\0", b""]))
def test_any_bytes_as_an_image(data: bytes, magic: bytes) -> None:
    try:
        scan(decompress([magic + data], SMALL))
    except ImageError as error:
        one_line(error)


@settings(max_examples=400)
@given(
    st.sampled_from([GOOD, PAX]),
    st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), min_size=1, max_size=8),
    st.booleans(),
)
def test_a_spoiled_archive(original: bytes, changes: list[tuple[int, int]], repair: bool) -> None:
    data = bytearray(original)
    for at, value in changes:
        data[at % len(data)] = value
        if repair:  # so that the checksum does not catch it and the fields are reached
            header = at % len(data) // 512 * 512
            block = data[header : header + 512]
            data[header + 148 : header + 156] = b"%06o\0 " % (sum(block) - sum(block[148:156]) + 256)
    try:
        scan([bytes(data)])
    except ImageError as error:
        one_line(error)


NAMES = st.one_of(
    st.sampled_from(
        ["a", "b", "a/b", "a/b/c", "l", "l/x", "..", "../x", "/abs", "a/../../x", ".", "", "a//b"]
    ),
    st.text(alphabet="ab/.\0\n", max_size=8),
)


@st.composite
def entries(draw: st.DrawFn) -> list[tuple[tarfile.TarInfo, bytes]]:
    made = [directory("rootfs")]
    for _ in range(draw(st.integers(1, 6))):
        prefix = draw(st.sampled_from(["rootfs/", "rootfs/", "rootfs/", "./rootfs/", ""]))
        name = prefix + draw(NAMES)
        target = draw(NAMES)
        kind = draw(st.integers(0, 4))
        if kind == 0:
            made.append(file(name, draw(st.binary(max_size=20)), draw(st.integers(0, 0o7777))))
        elif kind == 1:
            made.append(directory(name, draw(st.integers(0, 0o7777))))
        elif kind == 2:
            made.append(symlink(name, target))
        elif kind == 3:
            made.append(hardlink(name, draw(st.sampled_from(["rootfs/", ""])) + target))
        else:
            made.append(fifo(name))
    made.append(file("manifest", manifest()))
    return made


def snapshot(top: str) -> dict[str, tuple[int, int, int]]:
    found = {}
    for path, _, names in os.walk(top):
        for name in [".", *names]:
            full = os.path.join(path, name)
            info = os.lstat(full)
            found[full] = (info.st_mode, info.st_size, info.st_mtime_ns)
    return found


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(entries())
def test_no_archive_writes_outside_its_directory(made: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    try:
        data = tar_bytes(made)
    except (ValueError, tarfile.TarError):
        return
    with tempfile.TemporaryDirectory() as top:
        root = os.path.join(top, "w", "root")
        os.makedirs(root)
        os.mkdir(os.path.join(top, "w", "x"))
        outside = {path: value for path, value in snapshot(top).items() if not path.startswith(root)}
        try:
            with Extractor(root) as extractor:
                extract(data, extractor)
        except GantryError as error:
            one_line(error)
        finally:
            after = {path: value for path, value in snapshot(top).items() if not path.startswith(root)}
            assert after == outside


def extract(data: bytes, extractor: Extractor) -> None:
    stream = TarStream([data], SMALL)
    for member in Layout(stream, SMALL):
        if member.entry.kind == FILE:
            extractor.place(member.path, member.entry, stream.content())
        elif member.entry.kind == HARDLINK:
            extractor.link(member.path, member.target)
        else:
            extractor.place(member.path, member.entry)
    extractor.finish()


def entry(kind: bytes, name: bytes = b"x", **fields: object) -> Entry:
    made = Entry(name, kind, 0o755, 0, 0, 0, 0, b"", 0, 0, {}, 0, None)
    return made._replace(**fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("target", ["/etc", "..", "inside", "../outside"])
def test_the_extractor_alone_is_not_led_through_a_link(tmp_path: Path, target: str) -> None:
    """The second guard: even if the checks before it had a hole."""
    root = tmp_path / "root"
    (root / "inside").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (root / "link").symlink_to(target)
    with Extractor(str(root)) as extractor:
        extractor._directories[b"link"] = None
        extractor._directories[b"inside"] = None
        attempts: list[Callable[[], None]] = [
            lambda: extractor.place(b"link/f", entry(FILE), [b"1"]),
            lambda: extractor.place(b"link/d/f", entry(FILE), [b"1"]),
            lambda: extractor.place(b"link", entry(FILE), [b"1"]),
            lambda: extractor.place(b"../f", entry(FILE), [b"1"]),
            lambda: extractor.link(b"hard", b"link/passwd"),
            extractor.finish,
        ]
        for attempt in attempts:
            with pytest.raises(GantryError):
                attempt()
    assert list((tmp_path / "outside").iterdir()) == []
    assert list((root / "inside").iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["outside", "root"]


@pytest.mark.parametrize(
    "name",
    [b"", b"/", b"/a", b"..", b"a/..", b"a/../b", b"a\0b", b"x" * 256, b"a/" * 201 + b"a", b"b/" * 3000],
)
def test_names_that_are_refused(name: bytes) -> None:
    with pytest.raises(ImageError):
        clean(name)


@given(st.binary(min_size=1, max_size=60))
def test_clean_is_idempotent_and_stays_inside(name: bytes) -> None:
    try:
        path = clean(name)
    except ImageError:
        return
    if path:
        assert clean(path) == path
    joined = os.path.normpath(os.path.join(b"/root", path))
    assert joined == b"/root" or joined.startswith(b"/root/")


def test_the_refusal_names_the_entry(tmp_path: Path) -> None:
    hostile = make_raw(
        tmp_path / "h.aci",
        [directory("rootfs"), file("rootfs/../../etc/cron.d/x"), file("manifest", manifest())],
    )
    [problem] = validate(str(hostile.path))
    assert "rootfs/../../etc/cron.d/x" in problem


def test_control_characters_of_a_name_do_not_reach_the_terminal(tmp_path: Path) -> None:
    hostile = make_raw(
        tmp_path / "h.aci", [directory("rootfs"), file("rootfs/\x1b[2J\n/.."), file("manifest", manifest())]
    )
    [problem] = validate(str(hostile.path))
    assert problem.isprintable()


@pytest.mark.parametrize("kind", ["gzip", "bzip2", "xz"])
def test_a_bomb_is_refused_without_eating_memory_or_disk(tmp_path: Path, kind: str) -> None:
    limits = Limits(ratio=50, ratio_from=4_000_000)
    bomb = tmp_path / "bomb.aci"
    bomb.write_bytes(
        compress(tar_bytes([directory("rootfs"), file("rootfs/zeros", bytes(40_000_000))]), kind)
    )
    store = Store(paths_in(tmp_path), limits=limits)
    with pytest.raises(LimitError, match="ratio"):
        put(store, bomb)
    assert sizes(store)["incoming"] < 10_000
    assert store.list() == []


@pytest.mark.parametrize(
    ("limits", "entries_"),
    [
        (Limits(entries=10), [directory(f"rootfs/{n}") for n in range(11)]),
        (Limits(manifest=10), []),
        (Limits(depth=5), [file("rootfs/1/2/3/4/5/6")]),
        (Limits(path=50), [file("rootfs/" + "/".join("x" * 20 for _ in range(4)))]),
        (Limits(component=20), [file("rootfs/" + "x" * 21)]),
    ],
)
def test_bounds_are_kept(
    tmp_path: Path, limits: Limits, entries_: list[tuple[tarfile.TarInfo, bytes]]
) -> None:
    made = make_raw(tmp_path / "a.aci", [directory("rootfs"), *entries_, file("manifest", manifest())])
    [problem] = validate(str(made.path), limits)
    assert "bound:" in problem


def test_a_manifest_that_is_no_manifest_is_refused(tmp_path: Path) -> None:
    for body in (b"", b"{}", b"[]", b"{" * 5000, b"\xff", b'{"acKind":"PodManifest"}'):
        made = make_raw(tmp_path / "a.aci", [directory("rootfs"), file("manifest", body)])
        with pytest.raises(GantryError) as caught:
            put(Store(paths_in(tmp_path)), made)
        assert "\n" not in str(caught.value)


def test_impossible_device_numbers_are_refused(tmp_path: Path) -> None:
    tar = bytearray(tar_bytes([directory("rootfs"), device("rootfs/d", 1, 3), file("manifest", manifest())]))
    tar[512 + 329 : 512 + 337] = b"7777777\0"
    block = tar[512:1024]
    tar[512 + 148 : 512 + 156] = b"%06o\0 " % (sum(block) - sum(block[148:156]) + 256)
    path = tmp_path / "a.aci"
    path.write_bytes(compress(bytes(tar)))
    with pytest.raises(ArchiveError, match="'rootfs/d' has a device number"):
        put(Store(paths_in(tmp_path)), path)
    [problem] = validate(str(path))
    assert "'rootfs/d' has a device number" in problem
    root = tmp_path / "root"
    root.mkdir()
    with Extractor(str(root)) as extractor, pytest.raises(ArchiveError, match="device number"):
        extractor.place(b"d", entry(CHARDEV, devmajor=0x1000))


@pytest.mark.parametrize(
    ("name", "size", "text"),
    [("user.big", 65537, "'user.big' of 'rootfs/f' has 65537 bytes"), ("user.a\0b", 1, "NUL in its name")],
)
def test_attributes_that_linux_cannot_store_are_refused_at_once(
    tmp_path: Path, name: str, size: int, text: str
) -> None:
    odd = file("f", "1", pax_headers={f"SCHILY.xattr.{name}": "v" * size})
    path = tmp_path / "a.aci"
    path.write_bytes(compress(tar_bytes(image_entries(manifest(), {}, [odd]), fmt=tarfile.PAX_FORMAT)))
    with pytest.raises(ImageError, match=text):
        put(Store(paths_in(tmp_path)), path)
    [problem] = validate(str(path))
    assert text in problem


def test_overlapping_sparse_maps_are_refused() -> None:
    info, _ = file("rootfs/s", b"")
    info.pax_headers = {
        "GNU.sparse.major": "0",
        "GNU.sparse.minor": "1",
        "GNU.sparse.name": "rootfs/s",
        "GNU.sparse.size": "100",
        "GNU.sparse.map": "0,10,5,10",
    }
    info.size = 20
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(info, io.BytesIO(bytes(20)))
    with pytest.raises(ArchiveError, match="overlap"):
        list(TarStream([out.getvalue()]))


def test_many_random_layers_agree_with_a_naive_model(tmp_path: Path) -> None:
    """The plan against the obvious way of doing it: lay every pass on a dict, replace, filter."""
    dice = random.Random(5)
    for _ in range(60):
        check_random_layers(dice, tmp_path)


def test_a_size_in_a_directorys_header_does_not_shift_the_archive() -> None:
    data = bytearray(tar_bytes([directory("rootfs"), file("rootfs/f", b"1"), file("manifest", manifest())]))
    data[124:136] = b"00000001000\0"
    data[148:156] = b"%06o\0 " % (sum(data[:512]) - sum(data[148:156]) + 256)
    found = list(TarStream([bytes(data)]))
    assert [entry.name.rstrip(b"/") for entry in found] == [b"rootfs", b"rootfs/f", b"manifest"]
    assert found[0].size == 0


URLS = st.builds(
    "{}{}{}".format,
    st.sampled_from(["https://", "http://", "file://", "file:///", "docker://", "", "/", "./", "sha512-"]),
    st.one_of(
        st.text(max_size=30),
        st.text(alphabet="a1:/?#[]@%. \0\n\t\ud800\udcff\u2100", max_size=30),
        st.sampled_from(["[::1", "[::1]:99999", "h:-1", "h:x", "u:p@[", "h\0", "h h", "%00", "a" * 9000]),
    ),
    st.sampled_from(["/x.aci", ".aci", "", "%00.aci", ":1.0", ",os=linux"]),
)


@settings(max_examples=1000)
@given(URLS)
def test_any_text_as_an_image_argument(text: str) -> None:
    try:
        source = parse_source(text)
        if source.url is not None:
            parse_url(signature_url(source.url))
        elif source.file is not None:
            os.path.lexists(source.file.encode("utf-8", "surrogateescape"))
            assert "\0" not in source.file
    except GantryError as error:
        one_line(error)


@pytest.mark.parametrize(
    "text",
    [
        "https://[::1/x.aci",
        "https://example.com:99999/x.aci",
        "https://example.com:port/x.aci",
        "https://user:secret@example.com:port/x.aci",
        "https://example .com/x.aci",
        "https://example.com/a\tb.aci",
        "https:///x.aci",
        "https://example.com/" + "a" * 9000 + ".aci",
        "file://[/x.aci",
        "file:///a%00b.aci",
        "/\ud800.aci",
    ],
)
def test_malformed_image_arguments_are_usage_errors(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_source(text)
    one_line(caught.value)
    assert len(str(caught.value)) < 400
    assert "secret" not in str(caught.value)
