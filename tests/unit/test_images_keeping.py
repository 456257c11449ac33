"""What stays in the store whatever happens: pins of every kind, and what pinned images depend on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest
from tests.support.store import paths_in, put_new

from gantry.errors import BusyError, UsageError
from gantry.images import ImageNotFoundError, Store, render
from gantry.images.keeping import refuse_pinned
from gantry.images.pins import BUNDLE, POD, SET, USER, Pin

POD_UUID = "11111111-2222-3333-4444-555555555555"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(paths_in(tmp_path))


Disk = namedtuple("Disk", "f_bavail f_frsize")  # noqa: PYI024 - what os.statvfs returns, as far as it matters


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        (POD, "a release of the named pod web"),
        (SET, "listed by the set web"),
        (BUNDLE, "part of the bundle web"),
        (USER, "pinned"),
    ],
)
def test_pins_keep_images_trees_and_dependencies(store: Store, tmp_path: Path, kind: str, told: str) -> None:
    base = put_new(store, tmp_path, "example.com/base")
    top = put_new(store, tmp_path, dependencies=[{"imageName": "example.com/base"}])
    tree = render(store, top.id)
    store.pin(kind, "web", [top.id])
    assert store.pins() == [Pin(kind, "web", [top.id])]
    result = store.gc(grace_period=-1)
    assert (result.images, result.trees) == ([], [])
    assert result.kept[top.id] == told
    for image in (top, base):
        with pytest.raises(BusyError, match=told if image is top else "a dependency of example.com/app"):
            store.remove(image.id)
    with pytest.raises(ImageNotFoundError):
        store.pin(kind, "web", ["sha512-" + "0" * 128])
    assert store.pins() == [Pin(kind, "web", [top.id])]
    store.unpin(kind, "web")
    store.unpin(kind, "web")
    assert store.gc(grace_period=-1).trees == [tree.id]


def test_the_list_says_why_an_image_stays_and_rm_who_runs_from_it(store: Store, tmp_path: Path) -> None:
    def gantry(*words: str) -> subprocess.CompletedProcess[str]:
        program = "import sys; from gantry.cli import main; sys.exit(main())"
        command = [sys.executable, "-c", program, f"--dir={store.paths.data}", "image", *words]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    base = put_new(store, tmp_path, "example.com/base")
    top = put_new(store, tmp_path, dependencies=[{"imageName": "example.com/base"}])
    put_new(store, tmp_path, "example.com/free")
    store.add_ref(render(store, top.id).id, POD_UUID)
    rows = gantry("list", "--fields=name,kept", "--sort=name", "--no-legend").stdout.splitlines()
    shown = [tuple(word for word in row.split("\t") if word) for row in rows]
    used = f"used by pod {POD_UUID}"
    assert shown == [(str(top), used), (str(base), used), ("example.com/free", "-")]
    told = gantry("rm", "example.com/app").stderr
    assert f"its files stay for the pods that run from them: {POD_UUID}" in told
    assert "pods" not in gantry("rm", "example.com/free").stderr


def test_a_dependency_of_a_pinned_image_stays_though_nothing_was_rendered(
    store: Store, tmp_path: Path
) -> None:
    base = put_new(store, tmp_path, "example.com/base")
    middle = put_new(store, tmp_path, "example.com/middle", dependencies=[{"imageName": "example.com/base"}])
    top = put_new(store, tmp_path, dependencies=[{"imageName": "example.com/middle"}])
    other = put_new(store, tmp_path, "example.com/other")
    store.pin(USER, "x", [top.id])
    result = store.gc(grace_period=-1, free=1 << 62)
    assert result.images == [other.id]
    assert set(result.kept) == {base.id, middle.id, top.id}
    assert "a dependency of" in result.kept[base.id]


def test_an_image_is_kept_by_every_pin_that_names_it(store: Store, tmp_path: Path) -> None:
    image = put_new(store, tmp_path)
    for kind, name in ((POD, "a"), (SET, "a"), (USER, "a")):
        store.pin(kind, name, [image.id])
    with pytest.raises(BusyError, match="set"):
        refuse_pinned(store, image, without={(POD, "a")})
    refuse_pinned(store, image, without={(POD, "a"), (SET, "a"), (USER, "a")})
    store.unpin(POD, "a")
    store.unpin(SET, "a")
    with pytest.raises(BusyError, match="stays: pinned"):
        store.remove(image.id)
    store.pin(USER, "a", [])
    assert store.remove(image.id) == image


@pytest.mark.parametrize(
    ("kind", "name"), [("pods", "a"), ("", "a"), (POD, ""), (POD, "a/b"), (POD, "x" * 255)]
)
def test_what_is_no_pin_is_refused(store: Store, tmp_path: Path, kind: str, name: str) -> None:
    image = put_new(store, tmp_path)
    with pytest.raises(UsageError):
        store.pin(kind, name, [image.id])
    assert os.listdir(store.path("pins")) == []


def test_the_same_pin_again_writes_nothing(store: Store, tmp_path: Path) -> None:
    image = put_new(store, tmp_path)
    store.pin(SET, "site", [image.id])
    before = os.stat(store.path("pins", "set:site")).st_ino
    store.pin(SET, "site", iter([image.id, image.id]))
    assert os.stat(store.path("pins", "set:site")).st_ino == before


def test_what_lies_in_pins_and_is_no_pin_keeps_nothing(store: Store, tmp_path: Path) -> None:
    image = put_new(store, tmp_path)
    for name in ("web", "what:web", "pod:", ":web", "pod:web.1.tmp", "user:y"):
        Path(store.path("pins", name)).write_bytes(
            b"\xff\n" if name == "user:y" else f"{image.id}\n".encode()
        )
    assert [(p.kind, p.name) for p in store.pins()] == [("user", "y")]
    assert store.gc(grace_period=-1).images == [image.id]


def test_gc_frees_what_is_asked_for_by_what_was_unused_for_longest(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [put_new(store, tmp_path, f"example.com/{n}") for n in range(4)]
    store.pin(USER, "x", [images[0].id])
    for age, image in enumerate(images):
        os.utime(os.path.join(image.directory, "last-used"), (2e9 + age, 2e9 + age))

    def disk(_path: str) -> Disk:  # each image that is gone frees a thousand bytes
        return Disk(1000 * (4 - len(store.list())), 1)

    monkeypatch.setattr(os, "statvfs", disk)
    assert store.gc(free=0).images == []
    result = store.gc(free=2000)
    assert result.images == [images[1].id, images[2].id]
    assert result.kept == {images[0].id: "pinned", images[3].id: "used recently"}
    assert store.gc(free=1 << 40).images == [images[3].id]
    assert [image.id for image in store.list()] == [images[0].id]


def test_a_dry_run_counts_what_would_be_free(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [put_new(store, tmp_path, f"example.com/{n}") for n in range(3)]
    monkeypatch.setattr(os, "statvfs", lambda _: Disk(5000, 1))
    assert store.gc(free=5000, dry_run=True).images == []
    assert store.gc(free=5001, dry_run=True).images == [images[0].id]
    assert len(store.gc(free=1 << 62, dry_run=True).images) == 3
    assert len(store.list()) == 3


def gantry(store: Store, *words: str, status: int = 0) -> str:
    """What the command prints, on both streams."""
    program = "import sys; from gantry.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", program, f"--dir={store.paths.data}", "image", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stderr
    return done.stdout + done.stderr


def test_the_command_says_what_gc_keeps_and_why(store: Store, tmp_path: Path) -> None:
    pinned = put_new(store, tmp_path, "example.com/pinned")
    idle = put_new(store, tmp_path, "example.com/idle")
    store.pin(POD, "web", [pinned.id])
    assert "2 images kept, 1 of them only because they were used since" in gantry(store, "gc")
    said = gantry(store, "gc", "--grace-period=0s", "--dry-run")
    assert f'would remove image "{idle.id}"' in said
    assert f'kept image "{pinned.id}": a release of the named pod web' in said
    assert store.get(idle.id) is not None
    assert f'removed image "{idle.id}"' in gantry(store, "gc", "--grace-period=0s")
    assert [image.id for image in store.list()] == [pinned.id]


def test_pinning_by_command(store: Store, tmp_path: Path) -> None:
    one = put_new(store, tmp_path, "example.com/one")
    two = put_new(store, tmp_path, "example.com/two")
    assert f'pinned image "{one.id}"' in gantry(store, "pin", "example.com/one")
    shown = json.loads(gantry(store, "pin", "--format=json", "--bundle=site", "example.com/one", two.id))
    assert [each["id"] for each in shown] == [one.id, two.id]
    gantry(store, "pin", "example.com/one", "example.com/none", status=254)
    assert [(p.kind, p.name, p.images) for p in store.pins()] == [
        (BUNDLE, "site", sorted([one.id, two.id])),
        (USER, one.id, [one.id]),
    ]
    said = gantry(store, "rm", two.id, status=254)
    assert "stays: part of the bundle site (gantry image unpin --bundle=site)" in said
    assert 'unpinned image "' in gantry(store, "unpin", "--bundle=site")
    assert gantry(store, "unpin", two.id) == ""
    assert gantry(store, "rm", two.id).startswith("successfully removed")
    assert "stays: pinned" in gantry(store, "rm", one.id, status=254)
    assert gantry(store, "unpin", one.id) == f'unpinned image "{one.id}"\n'
    assert store.pins() == []


def test_pins_that_make_no_sense_are_refused(store: Store, tmp_path: Path) -> None:
    image = put_new(store, tmp_path)
    for words in (["unpin"], ["unpin", "--bundle=a", image.id], ["unpin", "--bundle=a"], ["pin"]):
        gantry(store, *words, status=254)
    gantry(store, "pin", "--bundle=../a", image.id, status=254)
    assert os.listdir(store.path("pins")) == []


def test_space_that_cannot_be_had_is_an_error_after_all_was_done_for_it(store: Store, tmp_path: Path) -> None:
    pinned, idle = put_new(store, tmp_path, "example.com/a"), put_new(store, tmp_path, "example.com/b")
    store.pin(USER, "x", [pinned.id])
    said = gantry(store, "gc", "--free=8P", "--dry-run", status=254)
    assert f'would remove image "{idle.id}"' in said
    shown = json.loads(gantry(store, "gc", "--free=8P", "--format=json", status=254))
    assert shown["missing"] > 1 << 50
    assert shown["images"] == [idle.id]
    assert [image.id for image in store.list()] == [pinned.id]
    assert "0 images" in gantry(store, "gc", "--free=1K")
    gantry(store, "gc", "--free=much", status=254)


def test_the_list_counts_trees_and_names_pins(store: Store, tmp_path: Path) -> None:
    base = put_new(store, tmp_path, "example.com/base", files={"big": "x" * 100_000})
    top = put_new(
        store, tmp_path, files={"own": "y" * 5000}, dependencies=[{"imageName": "example.com/base"}]
    )
    tree = render(store, top.id)
    store.pin(POD, "web", [top.id])
    store.pin(USER, "x", [top.id])
    shown = {each["id"]: each for each in json.loads(gantry(store, "list", "--format=json"))}
    assert (shown[base.id]["size"], shown[base.id]["tree_size"], shown[base.id]["pins"]) == (base.size, 0, [])
    content = shown[top.id]["tree_size"]
    assert content == sum(path.stat().st_size for path in Path(tree.rootfs).rglob("*") if path.is_file())
    assert shown[top.id]["size"] == top.size + content
    assert shown[top.id]["pins"] == ["a release of the named pod web", "pinned"]
    rows = gantry(store, "list", "--no-legend", "--full", "--sort=size", "--order=desc").splitlines()
    assert rows[0].split()[:3] == [top.id, "example.com/app", str(top.size + content)]
    record = Path(tree.rootfs).parent / "tree.json"
    old = {name: value for name, value in json.loads(record.read_text()).items() if name != "content"}
    record.write_text(json.dumps(old))
    [size] = store.tree_sizes().values()
    assert size == base.content + top.content  # a tree of an earlier version: what its images hold


def test_unpinning_what_something_else_keeps_says_so(store: Store, tmp_path: Path) -> None:
    image = put_new(store, tmp_path)
    store.pin(BUNDLE, "site", [image.id])
    said = gantry(store, "unpin", image.id)
    assert "stays: part of the bundle site (gantry image unpin --bundle=site)" in said


def test_verify_tells_of_trees_whose_image_was_removed(store: Store, tmp_path: Path) -> None:
    image = put_new(store, tmp_path)
    tree = render(store, image.id, ref="00000000-0000-4000-8000-000000000001")
    assert "successfully verified" in gantry(store, "verify")
    store.remove(image.id)
    said = gantry(store, "verify", status=254)
    assert f"{tree.id} cannot be verified: its image {image.id} was removed" in said
    assert "00000000-0000-4000-8000-000000000001" in said
