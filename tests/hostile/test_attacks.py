"""Every archive of the table (attacks.py), through every way in.

Whatever is refused is refused in one line, by the same check everywhere; nothing is left in the store, beside
the target or in the process; and nothing outside the target is touched.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import stat
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
from tests.hostile.attacks import (
    ATTACKS,
    LIMITS,
    Attack,
    M,
    directory,
    hardlink,
    image,
    pax,
    raw,
    symlink,
    tar,
)
from tests.support.aci import compress
from tests.support.store import paths_in

from gantry.build import build_archive
from gantry.errors import GantryError
from gantry.images import Store, export, fetch, render, render_directory
from gantry.images.compression import decompress
from gantry.images.errors import ArchiveError
from gantry.images.extract import Extractor
from gantry.images.layout import Layout, Member
from gantry.images.tarstream import DIRECTORY, FILE, HARDLINK, TarStream
from gantry.images.validation import examine
from gantry.trust import KeyStore

NOBODY = 65534
ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become nobody")
EVERY = pytest.mark.parametrize("name", ATTACKS)
REFUSED = pytest.mark.parametrize("name", [name for name, attack in ATTACKS.items() if attack.words])
ACCEPTED = pytest.mark.parametrize("name", [name for name, attack in ATTACKS.items() if not attack.words])


def tree_of(top: Path) -> dict[str, tuple[int, ...] | str]:
    """All there is below a directory: modes, owners, sizes, times and contents."""
    found: dict[str, tuple[int, ...] | str] = {}
    for path, directories, names in os.walk(top):
        for name in [*directories, *names, "."]:
            full = os.path.join(path, name)
            info = os.lstat(full)
            found[full] = (info.st_mode, info.st_uid, info.st_gid, info.st_nlink, info.st_mtime_ns)
            if name in names and os.path.isfile(full) and not os.path.islink(full):
                found[full + " content"] = hashlib.sha256(Path(full).read_bytes()).hexdigest()
    return found


def held() -> tuple[int, int, list[str]]:
    """What this process holds: descriptors, threads, children."""
    children: list[str] = []
    for task in os.listdir("/proc/self/task"):
        with contextlib.suppress(FileNotFoundError):
            children += Path(f"/proc/self/task/{task}/children").read_text().split()
    return len(os.listdir("/proc/self/fd")), threading.active_count(), children


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory that an attack could reach from where it is unpacked; it must stay as it is.

    The working directory is in it, and names that attacks like to overwrite exist there.
    """
    place = tmp_path / "outside"
    (place / "cwd/rootfs").mkdir(parents=True)
    for name in ("evil", "passwd", "cwd/evil", "cwd/passwd", "cwd/manifest", "cwd/rootfs/a", "cwd/f"):
        (place / name).write_text("untouched")
    (tmp_path / "evil").write_text("untouched")
    monkeypatch.chdir(place / "cwd")
    before = tree_of(place), (tmp_path / "evil").read_text(), held()
    yield place
    assert (tree_of(place), (tmp_path / "evil").read_text(), held()) == before


def left_in(store: Store) -> list[str]:
    """What is in the store that should not be there after a refusal."""
    places = ("image", "names", "urls", "incoming", "tree", "tree-locks")
    return [f"{place}/{entry}" for place in places for entry in store.entries(place)]


def refused(attack: Attack, action: Callable[[], object]) -> GantryError:
    assert attack.words is not None
    with pytest.raises(GantryError) as caught:
        action()
    line = str(caught.value)
    assert line.isprintable()
    assert len(line) < 2000
    return caught.value


def check_rendered(attack: Attack, root: Path) -> None:
    for path, expected in attack.rendered.items():
        full = root / path
        if callable(expected):
            assert expected(full), path
        else:
            assert full.read_bytes() == expected, path


@EVERY
def test_validate(name: str, tmp_path: Path, outside: Path) -> None:
    attack = ATTACKS[name]
    path = tmp_path / "a.aci"
    path.write_bytes(attack.make())
    report = examine(str(path), LIMITS)
    assert all(line.isprintable() for line in [*report.problems, *report.warnings])
    if attack.words is None:
        assert report.problems == []
        assert report.id
    else:
        assert any(re.search(attack.words, line) for line in report.problems), report.problems
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.aci", "evil", "outside"]


@EVERY
def test_fetch(name: str, tmp_path: Path, outside: Path) -> None:
    attack = ATTACKS[name]
    path = tmp_path / "a.aci"
    path.write_bytes(attack.make())
    paths = paths_in(tmp_path / "host")
    store = Store(paths, limits=LIMITS)

    def take_in() -> object:
        return fetch(store, KeyStore(paths), str(path), insecure=["image"])

    if attack.words is None:
        take_in()
        assert [str(image) for image in store.list()] == ["example.com/attack"]
        return
    error = refused(attack, take_in)
    assert isinstance(error, attack.error), repr(error)
    assert re.search(attack.words, str(error)), str(error)
    assert store.list() == []
    assert left_in(store) == []


@ACCEPTED
def test_render(name: str, tmp_path: Path, outside: Path) -> None:
    attack = ATTACKS[name]
    path = tmp_path / "a.aci"
    path.write_bytes(attack.make())
    paths = paths_in(tmp_path / "host")
    store = Store(paths, limits=LIMITS)
    ident = fetch(store, KeyStore(paths), str(path), insecure=["image"]).image.id
    check_rendered(attack, Path(render(store, ident).rootfs))
    for again in (False, True):
        render_directory(store, ident, str(tmp_path / "target"), overwrite=again)
        check_rendered(attack, tmp_path / "target" / "rootfs")
    store.remove(ident)
    assert left_in(store) == []


@REFUSED
def test_render_of_what_somebody_put_into_the_store(name: str, tmp_path: Path, outside: Path) -> None:
    """The bytes are judged again when they are laid down: admission is not the only guard."""
    attack = ATTACKS[name]
    data = attack.make()
    digest = hashlib.sha512()
    with contextlib.suppress(GantryError):
        for block in decompress([data], LIMITS):
            digest.update(block)
    ident = f"sha512-{digest.hexdigest()}"
    store = Store(paths_in(tmp_path / "host"), limits=LIMITS)
    store.ensure()
    record = {"id": ident, "name": "example.com/attack", "labels": {}, "size": len(data), "unpacked": 1}
    record |= {"content": 1, "entries": 1, "verification": None, "latest": False, "source_url": "file:///a"}
    with store.workspace("incoming", "new-") as work:
        Path(work, "image.aci").write_bytes(data)
        Path(work, "manifest").write_bytes(b'{"acKind":"ImageManifest","acVersion":"0.8.11","name":"a.b/c"}')
        store.adopt(work, record)
    target = tmp_path / "target"
    only_the_manifest = name.startswith("manifest_") and attack.error is GantryError
    for action in (lambda: render(store, ident), lambda: render_directory(store, ident, str(target))):
        if only_the_manifest:  # which is not read from the archive here
            action()
            continue
        refused(attack, action)
        assert store.entries("tree") == store.entries("tree-locks") == store.entries("incoming") == []
        assert sorted(entry.name for entry in tmp_path.iterdir()) == ["evil", "host", "outside"]


@EVERY
def test_build(name: str, tmp_path: Path, outside: Path) -> None:
    """A tar as the source of a build: its rules are others (the last of a name counts), the harm is none."""
    attack = ATTACKS[name]
    source = tmp_path / "a.tar"
    source.write_bytes(attack.make())
    out = tmp_path / "out"
    out.mkdir()
    manifest = b'{"acKind":"ImageManifest","acVersion":"0.8.11","name":"example.com/built"}'
    try:
        build_archive(str(source), manifest, str(out / "o.aci"), compression="none", limits=LIMITS)
    except GantryError as error:
        assert str(error).isprintable()
        assert list(out.iterdir()) == []
    else:
        assert [entry.name for entry in out.iterdir()] == ["o.aci"]
        report = examine(str(out / "o.aci"), LIMITS._replace(entries=1000, path=5000, names=1_000_000))
        assert report.problems == []


# -- a link swapped in while extracting ---------------------------------------------------------------


class Swapping:
    """An archive's members; before one of them a name below the target is exchanged."""

    def __init__(self, members: list[Member], before: int, swap: Callable[[], None]) -> None:
        self._members, self._before, self._swap = members, before, swap

    def __iter__(self) -> Iterator[Member]:
        for number, member in enumerate(self._members):
            if number == self._before:
                self._swap()
            yield member


def lay(extractor: Extractor, member: Member, content: Iterable[bytes]) -> None:
    """Lay one member down."""
    if member.entry.kind == HARDLINK:
        extractor.link(member.path, member.target)
    elif member.entry.kind == DIRECTORY:
        extractor.directory(member.path, member.entry)
    else:
        extractor.place(member.path, member.entry, content if member.entry.kind == FILE else ())


@pytest.mark.parametrize("victim", ["d", "d/e", "d/e/f"])
@pytest.mark.parametrize("moment", range(1, 9))
def test_a_link_that_is_swapped_in_while_extracting_is_not_followed(
    victim: str, moment: int, tmp_path: Path, outside: Path
) -> None:
    """Whoever exchanges a directory for a link between two entries gains nothing outside."""
    data = tar(
        directory(b"rootfs/d"),
        directory(b"rootfs/d/e"),
        raw(b"rootfs/d/e/f", b"1", mode=b"0006777\0"),
        raw(b"rootfs/d/e/passwd", b"1"),
        hardlink(b"rootfs/d/e/h", b"rootfs/d/e/f"),
        raw(b"rootfs/d/pipe", kind=b"6", mode=b"0000777\0"),
        symlink(b"rootfs/d/e/l", b"/"),
        directory(b"rootfs/d/e/evil"),
    )
    stream = TarStream([data], LIMITS)
    members = list(Layout(stream, LIMITS))
    root = tmp_path / "root"
    root.mkdir()

    def swap() -> None:
        path = root / victim
        if path.exists():
            path.rename(tmp_path / "moved")
            path.symlink_to(outside)

    with contextlib.suppress(GantryError), Extractor(str(root)) as extractor:
        for member in Swapping(members, moment, swap):
            lay(extractor, member, [b"1"])
        extractor.finish()


MOST_SWAPS = 3000


def test_a_process_that_swaps_all_the_time_gains_nothing(tmp_path: Path, outside: Path) -> None:
    data = image(*[raw(b"rootfs/d/%d/f" % n, b"x") for n in range(40)])
    path = tmp_path / "a.aci"
    path.write_bytes(data)
    paths = paths_in(tmp_path / "host")
    store = Store(paths, limits=LIMITS)
    ident = fetch(store, KeyStore(paths), str(path), insecure=["image"]).image.id
    over = threading.Event()
    swaps = 0

    def swap() -> None:
        nonlocal swaps
        # Each swap leaves one entry more, so on a slow disk removing would never catch up with it.
        while not over.is_set() and swaps < MOST_SWAPS:
            with contextlib.suppress(OSError):
                for work in tmp_path.glob("host/data/images/tree/.work-*/rootfs/d/*"):
                    work.rename(work.with_name(f"gone-{swaps}"))
                    work.symlink_to(outside)
                    swaps += 1

    racer = threading.Thread(target=swap)
    racer.start()
    try:
        for _ in range(20):
            with contextlib.suppress(GantryError):
                render(store, ident)
            for tree in store.trees():
                store.discard_tree(tree)
    finally:
        over.set()
        racer.join()
    assert swaps


# -- truncated anywhere -------------------------------------------------------------------------------


def test_an_archive_cut_at_any_byte_is_refused() -> None:
    whole = tar(symlink(b"rootfs/l", b"x"), pax((b"path", b"rootfs/long")), raw(b"rootfs/f", b"x" * 600))
    needed = len(whole) - 1024 - 512 + len(M)  # what follows the manifest's last byte is padding and the end
    for end in range(len(whole)):
        if end in (len(whole) - 1024, len(whole) - 512):
            continue  # whole but for its end mark
        try:
            for _ in Layout(TarStream([whole[:end]], LIMITS), LIMITS):
                pass
        except ArchiveError as error:
            assert str(error).isprintable()
        else:
            assert end > needed
            assert not whole[end:].strip(b"\0"), end


@pytest.mark.parametrize("kind", ["gzip", "bzip2", "xz", "zstd"])
def test_a_compressed_image_cut_at_any_byte_is_refused(kind: str) -> None:
    whole = compress(tar(raw(b"rootfs/f", b"x" * 600)), kind)
    for end in range(len(whole)):
        with pytest.raises(ArchiveError):
            for _ in Layout(TarStream(decompress([whole[:end]], LIMITS), LIMITS), LIMITS):
                pass


@ROOT
@pytest.mark.parametrize("name", [name for name, attack in ATTACKS.items() if attack.words is None])
def test_TRAP_37_without_privileges_nothing_else_happens(name: str) -> None:
    """The same archives, laid down by nobody: what could not be kept is counted, the rest is the same."""
    attack = ATTACKS[name]
    tree = b"".join(decompress([attack.make()], LIMITS))
    with tempfile.TemporaryDirectory() as top:
        root = os.path.join(top, "root")
        os.mkdir(root)
        for path in (top, root):
            os.chown(path, NOBODY, NOBODY)
        child = os.fork()
        if child == 0:
            status = 1
            try:
                os.setgroups([])
                os.setresgid(NOBODY, NOBODY, NOBODY)
                os.setresuid(NOBODY, NOBODY, NOBODY)
                with Extractor(root) as extractor:
                    stream = TarStream([tree], LIMITS)
                    for member in Layout(stream, LIMITS):
                        lay(extractor, member, stream.content() if member.entry.kind == FILE else ())
                    extractor.finish()
                    lost = extractor.downgrades
                    if not lost.owners or bool(lost.devices) != (b"null" in tree):
                        os._exit(2)
                status = 0
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        for path in Path(root).rglob("*"):
            assert path.lstat().st_uid == NOBODY
            assert not stat.S_ISCHR(path.lstat().st_mode)


# -- somebody else's directory ------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["render", "export", "export without nameless files"])
def test_what_is_made_in_anothers_directory_is_not_led_astray(
    way: str, tmp_path: Path, outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its owner exchanges the temporary file or directory for a link as soon as it is there."""
    path = tmp_path / "a.aci"
    path.write_bytes(image(raw(b"rootfs/f", b"1")))
    paths = paths_in(tmp_path / "host")
    store = Store(paths, limits=LIMITS)
    ident = fetch(store, KeyStore(paths), str(path), insecure=["image"]).image.id
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    victim = outside / ("cwd/rootfs" if way == "render" else "passwd")

    def swapped(make: Callable[..., int | None]) -> Callable[..., int | None]:
        def call(name: str, *given: int, **named: int) -> int | None:
            if "without" in way and given and given[0] & os.O_TMPFILE == os.O_TMPFILE:
                raise OSError(errno.EOPNOTSUPP, "Operation not supported")
            made = make(name, *given, **named)
            if str(name).startswith(f"{theirs}/") and str(name).endswith(".tmp") and not os.path.islink(name):
                os.rename(name, f"{name}.moved")
                os.symlink(victim, name)
            return made

        return call

    with monkeypatch.context() as patch:
        patch.setattr(os, "mkdir", swapped(os.mkdir))
        patch.setattr(os, "open", swapped(os.open))
        with contextlib.suppress(GantryError, OSError):
            if way == "render":
                render_directory(store, ident, str(theirs / "tree"))
            else:
                export(store, ident, str(theirs / "a.tar"))
    assert os.listdir(outside / "cwd/rootfs") == ["a"]
    assert (outside / "passwd").read_text() == "untouched"
