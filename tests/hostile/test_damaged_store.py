"""Records of the store that are damaged, in every field: nothing trips over them, nothing in use is lost.

A disk that lies, an editor, a half restored backup. What has no good record counts as not there; what pods
or pins hold stays where it is.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.integration.test_fetch import NAME, World
from tests.support.aci import make_aci
from tests.support.https_server import HttpsServer
from tests.support.openpgp import make_key, trust
from tests.support.store import paths_in

from gantry.errors import GantryError
from gantry.images import Store, export, fetch, render, render_directory
from gantry.images.checking import verify
from gantry.images.keeping import protected
from gantry.images.pins import USER
from gantry.images.usage import usage
from gantry.trust import KeyStore

UUID = "00000000-0000-4000-8000-000000000001"
JUNK: list[Any] = [None, True, -1, 1.5, 10**400, "", "x", "/../../etc", [], [1], {}, {"a": 1}, [[]], "\ud800"]
WHOLE = ["", "{", "[]", "null", "7", '"text"', "{}", "\x00" * 50, "[" * 100_000, '{"id": 1e400}']


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A host whose store has two images, a tree that a pod uses, and a pin."""
    top = tmp_path_factory.mktemp("model")
    paths = paths_in(top / "host")
    for name, below in ("base", []), ("top", [{"imageName": "example.com/base"}]):
        image = make_aci(top / f"{name}.aci", f"example.com/{name}", files={name: name}, dependencies=below)
        fetch(Store(paths), KeyStore(paths), str(image.path), insecure=["image"], policy="never")
    store = Store(paths)
    render(store, "example.com/top", ref=UUID)
    store.pin(USER, "x", [store.find("example.com/top").id])
    return top


@pytest.fixture
def place(model: Path, tmp_path: Path) -> Path:
    shutil.copytree(model, tmp_path / "copy", symlinks=True)
    return tmp_path / "copy"


def damaged(place: Path, pattern: str) -> Iterator[tuple[str, Path]]:
    """The file, damaged in one way after the other."""
    for file in sorted((place / "host/data/images").glob(pattern)):
        good = file.read_bytes()
        for whole in WHOLE:
            file.write_text(whole)
            yield f"{file.name} is {whole[:20]!r}", file
        for field in json.loads(good):
            for junk in JUNK:
                file.write_text(json.dumps({**json.loads(good), field: junk}))
                yield f"{field} of {file.name} is {junk!r:.40}", file
            file.write_text(json.dumps({k: v for k, v in json.loads(good).items() if k != field}))
            yield f"{file.name} has no {field}", file
        file.write_bytes(good)


def everything(place: Path) -> dict[str, Callable[[], object]]:
    store = Store(paths_in(place / "host"))
    return {
        "list": store.list,
        "sizes": store.tree_sizes,
        "find": lambda: store.find("example.com/top"),
        "protected": lambda: protected(store),
        "usage": lambda: usage(store),
        "dry run": lambda: store.gc(grace_period=0, dry_run=True),
        "verify": lambda: [verify(store, image) for image in store.list()],
        "render": lambda: render(store, "example.com/top"),
        "unpack": lambda: render_directory(store, "example.com/top", str(place / "out"), overwrite=True),
        "export": lambda: export(store, "example.com/base", str(place / "out.tar"), overwrite=True),
        "gc": lambda: store.gc(grace_period=0),
    }


@pytest.mark.parametrize("pattern", ["image/*/info.json", "tree/*/tree.json", "urls/*"])
def test_nothing_trips_over_a_damaged_record(place: Path, model: Path, pattern: str) -> None:
    images = place / "host/data/images"
    [tree] = [path for path in (images / "tree").iterdir() if not path.name.startswith(".")]
    before = sorted(os.listdir(tree / "rootfs"))
    used = os.open(tree / "rootfs", os.O_RDONLY | os.O_DIRECTORY)  # as the overlay of a running pod has it
    top = Store(paths_in(model / "host")).find("example.com/top").id
    for what, _ in damaged(place, pattern):
        for name, action in everything(place).items():
            try:
                action()
            except GantryError as error:
                assert str(error).isprintable(), f"{name} when {what}"
            except Exception as error:
                raise AssertionError(f"{name} when {what}: {error!r}") from error
        assert sorted(os.listdir(tree / "rootfs")) == before, f"a pod lost its root when {what}"
        assert sorted(os.listdir(used)) == before, f"a running pod lost its files when {what}"
        assert (images / "image" / top / "image.aci").exists(), f"a pinned image went when {what}"
        for missing in (images / "image").parent.glob("image"):  # what gc removed comes back for the next one
            shutil.copytree(model / "host/data/images/image", missing, symlinks=True, dirs_exist_ok=True)
    os.close(used)


@pytest.mark.parametrize("content", ["", "x", "\x00", "sha512-", "sha512-" + "0" * 128, "../../x\n" * 1000])
def test_pins_that_say_nonsense_keep_nothing_and_break_nothing(place: Path, content: str) -> None:
    pins = place / "host/data/images/pins"
    for file in pins.iterdir():
        file.write_text(content)
    store = Store(paths_in(place / "host"))
    protected(store)
    result = store.gc(grace_period=-1)
    assert set(result.kept.values()) <= {f"used by pod {UUID}"} | {
        reason for reason in result.kept.values() if reason == "pinned"
    }
    assert len(store.list()) == 2  # the pod uses both


def test_a_fetch_makes_a_damaged_image_good_again(place: Path) -> None:
    store = Store(paths_in(place / "host"))
    image = store.find("example.com/base")
    Path(image.directory, "info.json").write_text("{}")
    with pytest.raises(GantryError):
        store.find("example.com/base")
    keys = KeyStore(store.paths)
    again = fetch(store, keys, str(place / "base.aci"), insecure=["image"], policy="never").image
    assert again.id == image.id
    assert store.find("example.com/base").id == image.id


def test_damaged_records_of_downloads_cost_a_download(tmp_path: Path) -> None:
    """What a server said last time, and what is known of a download that was cut: in every field."""
    key = make_key()
    with HttpsServer() as server:
        world = World(tmp_path, server, key)
        trust(world.paths, key, NAME)
        image = world.make(version="1.0", files={"f": "x" * 50_000})
        url = world.publish(image, headers={"ETag": '"one"'})
        world.fetch(url)
        [known] = Path(world.store.path("urls")).iterdir()
        good = json.loads(known.read_bytes())
        for field in good:
            for junk in JUNK:
                known.write_text(json.dumps({**good, field: junk}))
                assert world.fetch(url, policy="update").image.id == image.id, (field, junk)
                assert world.fetch(url).image.id == image.id, (field, junk)
        part = Path(world.store.path("incoming", known.name))
        meta = {"url": url, "etag": '"one"', "last_modified": None, "total": len(image.data)}
        for field in meta:
            for junk in JUNK:
                world.store.remove(image.id)
                part.with_suffix(".part").write_bytes(image.data[:100])
                part.with_suffix(".json").write_text(json.dumps({**meta, field: junk}))
                assert world.fetch(url).image.id == image.id, (field, junk)
        assert os.listdir(world.store.path("incoming")) == []
