"""Killed, or refused by the disk, at every system call that changes something: the store stays consistent.

An image of ten files is fetched, rendered, verified, pinned, removed, collected, exported, built. Each is
done again and again, and each time the kernel ends it at another call. Afterwards every image and every tree
that the store shows is whole, the next attempt succeeds, and a collection leaves not a byte behind.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.support.aci import device, directory, fifo, file, hardlink, make_aci, manifest, symlink
from tests.support.crashes import CHANGES, FALLIBLE, calls_of, killed_at, refused_at
from tests.support.store import paths_in, sizes

from gantry.build import build_directory
from gantry.build.export import export_rendered
from gantry.errors import GantryError, NotFoundError
from gantry.images import Store, export, fetch, render, render_directory
from gantry.images.checking import verify
from gantry.images.compression import decompress
from gantry.images.layout import Layout
from gantry.images.tarstream import TarStream
from gantry.images.validation import examine
from gantry.linux.fs import remove_tree
from gantry.trust import KeyStore

pytestmark = [
    pytest.mark.skipif(shutil.which("strace") is None, reason="strace(1) is not installed"),
    pytest.mark.skipif(os.geteuid() != 0, reason="the image has devices and owners"),
]


class Place(NamedTuple):
    """A host with a store, and what belongs into it."""

    top: Path
    aci: Path
    id: str

    @property
    def store(self) -> Store:
        return Store(paths_in(self.top / "host"))


def take_in(place: Place) -> object:
    paths = paths_in(place.top / "host")
    return fetch(Store(paths), KeyStore(paths), str(place.aci), insecure=["image"])


def make_store(place: Place) -> object:
    return place.store.ensure()


def lay_down(place: Place) -> object:
    return render(place.store, place.id, ref="00000000-0000-4000-8000-000000000001")


def lay_down_unused(place: Place) -> object:
    return render(place.store, place.id)


def pin(place: Place) -> object:
    return place.store.pin("pod", "app", [place.id])


def remove(place: Place) -> object:
    try:
        return place.store.remove(place.id)
    except NotFoundError:
        return None


def collect(place: Place) -> object:
    return place.store.gc(grace_period=0)


def build(place: Place) -> object:
    return build_directory(str(place.top / "layout"), str(place.top / "out/o.aci"), overwrite=True)


def render_to(place: Place) -> object:
    return render_directory(place.store, place.id, str(place.top / "out/tree"), overwrite=True)


def write_out(place: Place) -> object:
    return export(place.store, place.id, str(place.top / "out/ten.tar"), overwrite=True)


def take_out(place: Place) -> object:
    target = str(place.top / "out/raw")
    return render_directory(place.store, place.id, target, overwrite=True, alone=True)


def write_out_rendered(place: Place) -> object:
    return export_rendered(place.store, place.id, str(place.top / "out/whole.aci"), overwrite=True)


def damage(place: Place) -> object:
    for ident in place.store.trees():
        (Path(place.store.tree_rootfs(ident)) / "etc/two").write_text("changed")
    return None


def repair(place: Place) -> object:
    return verify(place.store, place.store.find(place.id))


def age(place: Place) -> object:
    """Make it a store of the first format."""
    pins = Path(place.store.path("pins"))
    for name in os.listdir(pins):
        (pins / name).rename(pins / name.partition(":")[2])
    return Path(place.store.path("format")).write_bytes(b"gantry-images 1\n")


def bring_forward(place: Place) -> object:
    assert [pin.name for pin in place.store.pins()] == ["app"]
    return None


#: What is done, and what was done before.
OPERATIONS: dict[str, tuple[Callable[[Place], object], tuple[Callable[[Place], object], ...]]] = {
    "first": (take_in, ()),
    "adopt": (take_in, (make_store,)),
    "adopt_again": (take_in, (take_in,)),
    "render": (lay_down, (take_in,)),
    "pin": (pin, (take_in,)),
    "remove": (remove, (take_in, lay_down_unused)),
    "gc": (collect, (take_in, lay_down_unused)),
    "build": (build, ()),
    "render_to": (render_to, (take_in,)),
    "export": (write_out, (take_in,)),
    "extract": (take_out, (take_in,)),
    "export_rendered": (write_out_rendered, (take_in,)),
    "repair": (repair, (take_in, lay_down, damage)),
    "migrate": (bring_forward, (take_in, pin, age)),
}


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    top = tmp_path_factory.mktemp("image")
    made = make_aci(
        top / "ten.aci",
        "example.com/ten",
        version="1",
        tree=[
            directory("etc", 0o750, uid=3),
            file("etc/one", "1" * 5000, 0o4755, uid=7),
            file("etc/two", "2" * 70_000),
            hardlink("etc/three", "etc/one"),
            symlink("etc/four", "/nowhere"),
            fifo("etc/five"),
            device("etc/six", 1, 3),
            directory("closed", 0o000),
            file("closed/seven", "7"),
            file("eight", ""),
        ],
    )
    return made.path, made.id


def prepared(top: Path, image: tuple[Path, str], before: tuple[Callable[[Place], object], ...]) -> Place:
    """A place in which everything before the operation has been done."""
    place = Place(top, *image)
    (top / "out").mkdir(parents=True)
    (top / "layout/rootfs/d").mkdir(parents=True)
    (top / "layout/manifest").write_bytes(manifest("example.com/built"))
    for n in range(10):
        (top / f"layout/rootfs/d/{n}").write_text(str(n) * 3000)
    for step in before:
        step(place)
    return place


def names_in(top: Path) -> list[str]:
    """Every path below a directory."""
    return sorted(
        os.path.relpath(os.path.join(path, name), top)
        for path, directories, files in os.walk(top)
        for name in [*directories, *files]
    )


def described(rootfs: str) -> list[tuple[object, ...]]:
    """A rendered tree: names, modes, owners, times, contents."""
    found: list[tuple[object, ...]] = []
    for path, directories, files in os.walk(rootfs):
        for name in [".", *directories, *files]:
            full = os.path.join(path, name)
            info = os.lstat(full)
            plain = os.path.isfile(full) and not os.path.islink(full)
            body = Path(full).read_bytes() if plain else b""
            found.append(
                (
                    os.path.relpath(full, rootfs),
                    info.st_mode,
                    info.st_uid,
                    info.st_nlink,
                    info.st_mtime_ns,
                    body,
                )
            )
    return sorted(found, key=str)


def check_consistent(place: Place, whole: list[tuple[object, ...]], *, trees: bool = True) -> None:
    """What the store shows is whole: bytes, manifest, index, and *trees*."""
    store = place.store
    for image in store.list():
        stream = TarStream(_hashed(image.path, str(image.id)))
        layout = Layout(stream)
        for _ in layout:
            pass
        assert layout.manifest == store.manifest_bytes(image.id)
        assert store.find(f"{image.name}:1").id == image.id
        assert store.find(image.id).id == image.id
    for ident in store.trees() if trees else ():
        assert described(store.tree_rootfs(ident)) == whole
    assert all(size >= 0 for size in sizes(store).values())


def _hashed(path: str, ident: str) -> list[bytes]:
    blocks = list(decompress([Path(path).read_bytes()]))
    assert "sha512-" + hashlib.sha512(b"".join(blocks)).hexdigest() == ident
    return blocks


def check_nothing_is_left(place: Place, empty: list[str]) -> None:
    """After everything was given free, a collection brings the store back to what a new one is."""
    store = place.store
    for ident in store.trees():
        for ref in store.refs(ident):
            store.drop_ref(ident, ref)
    store.unpin("pod", "app")
    store.gc(grace_period=0)
    store.gc(grace_period=0)
    assert [name for name in names_in(place.top / "host/data/images") if name not in empty] == []


#: What the operations make outside of the store.
MADE = {
    "build": ["o.aci"],
    "render_to": ["tree"],
    "export": ["ten.tar"],
    "extract": ["raw"],
    "export_rendered": ["whole.aci"],
}


def check_made(trial: Trial, place: Place) -> None:
    """What has its name is whole."""
    out = place.top / "out"
    for name in set(os.listdir(out)) & set(MADE.get(trial.name, [])):
        if name in {"tree", "raw"}:
            assert described(str(out / name / "rootfs")) == trial.whole
            assert (out / name / "manifest").exists()
        elif name == "ten.tar":
            assert "sha512-" + hashlib.sha512((out / name).read_bytes()).hexdigest() == place.id
        else:
            assert examine(str(out / name)).problems == []


class Trial(NamedTuple):
    """An operation with its starting point, of which there is a copy for every attempt."""

    name: str
    start: Path
    image: tuple[Path, str]
    calls: Counter[str]
    whole: list[tuple[object, ...]]
    empty: list[str]

    def fresh(self, top: Path) -> Place:
        remove_tree(str(top))
        subprocess.run(["cp", "-a", self.start, top], check=True)
        return Place(top, *self.image)

    def numbers(self, calls: list[str]) -> list[tuple[str, int]]:
        """Each of them."""
        return [(call, number) for call in calls for number in range(1, self.calls[call] + 1)]


@pytest.fixture(scope="module", params=OPERATIONS)
def trial(
    request: pytest.FixtureRequest, image: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory
) -> Trial:
    name: str = request.param
    operation, before = OPERATIONS[name]
    top = tmp_path_factory.mktemp(name)
    model = prepared(top / "model", image, (take_in,))
    whole = described(render(model.store, image[1]).rootfs)
    empty = prepared(top / "empty", image, (make_store,))
    start = prepared(top / "start", image, before)
    trial = Trial(name, start.top, image, Counter(), whole, names_in(empty.top / "host/data/images"))
    place = trial.fresh(top / "count")
    calls = calls_of(lambda: operation(place), top / "log")
    assert calls.total() >= 5
    return trial._replace(calls=calls)


def check_after(trial: Trial, place: Place, what: str) -> None:
    operation, _ = OPERATIONS[trial.name]
    try:
        check_consistent(place, trial.whole, trees=trial.name != "repair")
        check_made(trial, place)
        operation(place)  # the next attempt
        check_consistent(place, trial.whole)
        check_made(trial, place)
        assert os.listdir(place.top / "out") == MADE.get(trial.name, [])
        if trial.name == "build" or trial.name in ("remove", "gc"):
            assert place.store.list() == []
        else:
            assert [str(image.id) for image in place.store.list()] == [place.id]
        check_nothing_is_left(place, trial.empty)
    except (AssertionError, GantryError, OSError) as error:
        raise AssertionError(f"after {what}: {error!r}") from error


def test_killed_at_every_change(trial: Trial, tmp_path: Path) -> None:
    operation, _ = OPERATIONS[trial.name]
    tried = trial.numbers(CHANGES)
    killed = 0
    for call, number in tried:
        place = trial.fresh(tmp_path / "host")
        ended = killed_at(lambda place=place: operation(place), call, number)  # type: ignore[misc]
        killed += ended.killed
        assert ended.defect is None
        check_after(trial, place, f"kill at {call} {number}")
    assert killed >= len(tried) * 9 // 10  # the number of calls may differ by a few from run to run


@pytest.mark.parametrize("error", ["ENOSPC", "EIO", "EDQUOT"])
def test_refused_at_every_change(trial: Trial, error: str, tmp_path: Path) -> None:
    operation, _ = OPERATIONS[trial.name]
    for call, number in trial.numbers(FALLIBLE):
        what = f"{error} at {call} {number}"
        place = trial.fresh(tmp_path / "host")
        ended = refused_at(lambda place=place: operation(place), call, number, error)  # type: ignore[misc]
        assert not ended.killed
        assert ended.defect is None, f"{what}: {ended.defect}"
        if ended.error is not None:
            assert ended.error.isprintable()
            full = re.search("no space left|quota exceeded", ended.error, re.IGNORECASE) is not None
            assert full == (error != "EIO"), f"{what}: {ended.error}"
            # Only a call after the name was given, asking for it to be on the disk, leaves what was made.
            left = os.listdir(place.top / "out")
            assert left == [] or (left == MADE[trial.name] and call == "fsync"), what
        check_after(trial, place, what)
