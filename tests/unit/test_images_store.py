"""The store on disk: finding, adopting, references, pins, removal, gc."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.support.aci import device, directory, file, make_aci
from tests.support.store import paths_in, put, put_new, sizes

from gantry import audit
from gantry.build.export import export_rendered
from gantry.errors import BusyError, GantryError, UsageError
from gantry.http import Client
from gantry.images import (
    ImageNotFoundError,
    Store,
    StoreFormatError,
    export,
    exporting,
    gc,
    render,
    render_directory,
    rendering,
)
from gantry.images.checking import verify
from gantry.images.download import Download
from gantry.images.records import key
from gantry.images.source import Source, parse_source, signature_url
from gantry.linux.fs import remove_tree
from gantry.linux.locks import locked

UUID = "0d6a0b2c-52b0-4a4c-9f3e-4f4f6a0a0a0a"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(paths_in(tmp_path))


def tree_files(top: Path) -> set[str]:
    return {str(path.relative_to(top)) for path in top.rglob("*")}


# -- format -------------------------------------------------------------------------------------------


def test_looking_creates_nothing(store: Store, tmp_path: Path) -> None:
    assert store.list() == []
    assert store.pins() == []
    assert store.trees() == {}
    assert store.gc().images == []
    with pytest.raises(ImageNotFoundError):
        store.find("example.com/app")
    with pytest.raises(ImageNotFoundError):
        store.find("sha512-ab")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", ["gantry-images 3\n", "", "rkt"])
def test_another_format_is_refused_in_one_line(store: Store, tmp_path: Path, content: str) -> None:
    store.ensure()
    Path(store.path("format")).write_text(content)
    with pytest.raises(StoreFormatError) as caught:
        Store(paths_in(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_store_without_a_format_is_refused(store: Store, tmp_path: Path) -> None:
    store.ensure()
    os.unlink(store.path("format"))
    with pytest.raises(StoreFormatError):
        Store(paths_in(tmp_path))


def test_modes(store: Store) -> None:
    store.ensure()
    modes = {
        name: stat.S_IMODE(os.stat(store.path(name)).st_mode) for name in ("", "image", "tree", "incoming")
    }
    assert modes == {"": 0o755, "image": 0o750, "tree": 0o700, "incoming": 0o700}


# -- finding ------------------------------------------------------------------------------------------


def test_what_is_known_about_an_image(store: Store, tmp_path: Path) -> None:
    made = make_aci(tmp_path / "a.aci", version="1.0", labels={"os": "linux"}, files={"f": "x" * 5000})
    image = put(store, made)
    assert store.list() == [store.find("example.com/app:1.0")] == [store.find(made.id)]
    assert image.labels == {"os": "linux", "version": "1.0"}
    assert image.size == len(made.data)
    assert image.unpacked == len(made.tar)
    assert image.content == 5000
    assert image.entries == 1
    assert str(image) == "example.com/app:1.0"
    assert store.manifest_bytes(image.id) == made.manifest
    assert store.manifest(image.id).name == "example.com/app"
    assert abs(image.imported - time.time()) < 60


def test_only_stated_labels_count(store: Store, tmp_path: Path) -> None:
    image = put_new(store, tmp_path, version="1")
    assert store.find("example.com/app,version=1").id == image.id
    with pytest.raises(ImageNotFoundError):
        store.find("example.com/app:1,os=linux")
    with pytest.raises(ImageNotFoundError):
        store.find("example.com/ap")


def test_an_image_for_this_machine_is_preferred(store: Store, tmp_path: Path) -> None:
    machine = {"x86_64": "amd64", "aarch64": "aarch64"}.get(os.uname().machine)
    if machine is None:
        pytest.skip("the test does not know this machine's name")
    mine = put_new(store, tmp_path, labels={"os": "linux", "arch": machine})
    put_new(store, tmp_path, labels={"os": "linux", "arch": "ppc64le"})
    assert store.find("example.com/app").id == mine.id


def test_a_damaged_record_hides_only_its_image(store: Store, tmp_path: Path) -> None:
    one = put_new(store, tmp_path, "example.com/one")
    two = put_new(store, tmp_path, "example.com/two")
    Path(one.directory, "info.json").write_text("{")
    assert [image.id for image in store.list()] == [two.id]
    assert f"image/{one.id}" in store.gc().debris


def test_importing_again_refreshes(store: Store, tmp_path: Path) -> None:
    made = make_aci(tmp_path / "a.aci")
    first = put(store, made, latest=True)
    second = put(store, made)
    assert second.imported > first.imported
    assert second.latest
    assert os.listdir(store.path("incoming")) == []


# -- references ---------------------------------------------------------------------------------------


def test_references_keep_trees_and_their_images(store: Store, tmp_path: Path) -> None:
    base = put_new(store, tmp_path, "example.com/base")
    top = put_new(store, tmp_path, dependencies=[{"imageName": "example.com/base"}])
    other = put_new(store, tmp_path, "example.com/other")
    tree = render(store, top.id, ref=UUID)
    assert store.refs(tree.id) == [UUID]
    result = store.gc(grace_period=-1)
    assert result.images == [other.id]
    assert result.trees == []
    assert set(result.kept) == {base.id, top.id}
    assert os.path.isdir(tree.rootfs)
    store.drop_ref(tree.id, UUID)
    store.drop_ref(tree.id, UUID)
    result = store.gc(grace_period=-1)
    assert result.trees == [tree.id]
    assert sorted(result.images) == sorted([base.id, top.id])
    assert os.listdir(store.path("tree")) == os.listdir(store.path("image")) == []
    assert os.listdir(store.path("names")) == []


def test_case_48_references_are_read_from_the_disk_every_time(store: Store, tmp_path: Path) -> None:
    image = put_new(store, tmp_path)
    tree = render(store, image.id)
    store.add_ref(tree.id, UUID)
    again = Store(paths_in(tmp_path))
    assert again.gc(grace_period=-1) == store.gc(grace_period=-1)
    assert again.refs(tree.id) == [UUID]


def test_a_reference_to_a_missing_tree_is_refused(store: Store) -> None:
    with pytest.raises(ImageNotFoundError):
        store.add_ref("tree-0", UUID)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../x", "x\0y"])
def test_names_that_would_leave_the_store_are_refused(store: Store, tmp_path: Path, name: str) -> None:
    tree = render(store, put_new(store, tmp_path).id)
    actions: list[Callable[[], None]] = [
        lambda: store.add_ref(tree.id, name),
        lambda: store.drop_ref(tree.id, name),
        lambda: store.pin("pod", name, ["sha512-" + "0" * 128]),
        lambda: store.unpin("pod", name),
    ]
    for action in actions:
        with pytest.raises(UsageError):
            action()


@pytest.mark.parametrize("writable", [True, False])
def test_the_index_of_names_is_made_anew_from_the_images(
    store: Store, tmp_path: Path, writable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [put_new(store, tmp_path, f"example.com/{n}") for n in "abc"]
    entries = [Path(path) for path in Path(store.path("names")).glob("*/*")]
    assert len(entries) == 3
    for entry in entries:
        entry.unlink()
        entry.parent.rmdir()
    if not writable:
        monkeypatch.setattr(store, "_index", lambda *_: os.mkdir("/proc/nothing"))
    with pytest.raises(ImageNotFoundError):
        store.find("example.com/none")
    assert [store.find(f"example.com/{n}").id for n in "abc"] == [image.id for image in images]
    assert [entry.exists() for entry in entries] == [writable] * 3
    store.remove(images[0].id)
    with pytest.raises(ImageNotFoundError):
        store.find("example.com/a")


def test_what_the_index_knows_is_found_without_looking_at_the_others(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = put_new(store, tmp_path)
    monkeypatch.setattr(store, "list", lambda: pytest.fail("all images were read"))
    assert store.find(image.name).id == image.id


def test_a_recently_used_image_stays(store: Store, tmp_path: Path) -> None:
    image = put_new(store, tmp_path)
    assert store.gc(grace_period=3600).kept == {image.id: "used recently"}
    os.utime(os.path.join(image.directory, "last-used"), (0, 0))
    assert store.gc(grace_period=3600, dry_run=True).images == [image.id]
    assert store.get(image.id) is not None
    assert store.gc(grace_period=3600).images == [image.id]
    assert store.get(image.id) is None
    [entry] = audit.entries(store.paths.data, event="image.remove")
    assert entry["image_id"] == image.id


def test_removing(store: Store, tmp_path: Path) -> None:
    image = put_new(store, tmp_path, version="1")
    used = put_new(store, tmp_path, "example.com/used")
    render(store, image.id)
    tree = render(store, used.id, ref=UUID)
    store.remove("example.com/app:1")
    store.remove(used.id[:30])
    assert store.list() == []
    # The pod that uses the tree is not disturbed.
    assert os.listdir(store.path("tree")) == [tree.id]
    with pytest.raises(ImageNotFoundError):
        store.remove(image.id)
    events = [entry["image"] for entry in audit.entries(store.paths.data, event="image.remove")]
    assert events == ["example.com/app:1", "example.com/used"]


def test_gc_removes_debris_but_nothing_that_is_worked_on(store: Store) -> None:
    store.ensure()
    with store.workspace("incoming", "new-") as work:
        abandoned = Path(store.path("incoming", "new-dead"))
        abandoned.mkdir()
        (abandoned / "image.aci").write_bytes(b"x" * 1000)
        Path(store.path("incoming", "f" * 64 + ".part")).write_bytes(b"x")
        result = store.gc()
        assert result.debris == ["incoming/new-dead"]  # a fresh partial download is worth continuing
        assert os.path.isdir(work)
    assert not os.path.exists(work)
    assert store.gc(grace_period=-1).debris == ["incoming/" + "f" * 64 + ".part"]
    assert os.listdir(store.path("incoming")) == []


def test_no_download_begins_while_gc_removes_what_one_has_left(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.ensure()
    part = Path(store.path("incoming", "a" * 64 + ".part"))
    part.write_bytes(b"1")
    tried: list[str] = []

    def removing(path: str) -> None:
        with pytest.raises(BusyError), locked(f"{part.with_suffix('')}.lock", timeout=0, remove=True):
            pass
        tried.append(path)
        remove_tree(path)

    monkeypatch.setattr(gc, "remove_tree", removing)
    assert store.gc(grace_period=-1).debris == [f"incoming/{part.name}"]
    assert tried == [str(part)]
    assert os.listdir(store.path("incoming")) == []


def test_gc_leaves_a_download_that_has_just_been_broken_off(store: Store) -> None:
    store.ensure()
    part = Path(store.path("incoming", "a" * 64 + ".part"))
    part.write_bytes(b"1")
    for dry_run in (True, False):
        assert store.gc(grace_period=3600, dry_run=dry_run).debris == []
    assert os.listdir(store.path("incoming")) == [part.name]


def test_gc_enters_again_what_the_index_of_names_lacks(store: Store, tmp_path: Path) -> None:
    """Also of a name that has other entries, for which nothing else would look."""
    one = put_new(store, tmp_path, "example.com/app", version="1")
    two = put_new(store, tmp_path, "example.com/app", version="2")
    os.unlink(store.path("names", key("example.com/app"), one.id))
    store.gc()
    assert {image.id for image in Store(store.paths).images_named("example.com/app")} == {one.id, two.id}


def test_gc_removes_what_is_known_of_a_url_whose_image_is_gone(store: Store, tmp_path: Path) -> None:
    image = put_new(store, tmp_path)
    for url, image_id in (("https://a.example/", image.id), ("https://b.example/", "sha512-" + "0" * 128)):
        store.note_url(url, image_id, {"url": url, "etag": None}, 0)
    assert store.gc().debris == [f"urls/{key('https://b.example/')}"]
    assert store.find_url("https://a.example/") is not None


def test_an_unverified_copy_takes_nothing_from_a_verified_one(store: Store, tmp_path: Path) -> None:
    made = make_aci(tmp_path / "app.aci")
    verified = put(store, made)
    record = Path(verified.directory, "info.json")
    record.write_text(json.dumps({**json.loads(record.read_text()), "signature_sha256": "5" * 64}))
    (tmp_path / "elsewhere").mkdir()
    copy = shutil.copy(made.path, tmp_path / "elsewhere/app.aci")
    again = put(store, Path(copy), verified=False, latest=True)
    assert (again.verification, again.source_url) == (verified.verification, verified.source_url)
    assert json.loads(record.read_text())["signature_sha256"] == "5" * 64
    assert (again.latest, again.imported > verified.imported) == (True, True)


@pytest.mark.parametrize("name", ["web.tmp", ".tmp"])
def test_a_pin_is_not_named_like_an_unfinished_file(store: Store, tmp_path: Path, name: str) -> None:
    """Or it would be taken for one, and its images for unused."""
    image = put_new(store, tmp_path)
    with pytest.raises(UsageError, match="cannot name"):
        store.pin("bundle", name, [image.id])
    assert os.listdir(store.path("pins")) == []


def test_case_4_every_byte_is_accounted_for(store: Store, tmp_path: Path) -> None:
    image = put_new(store, tmp_path, files={"f": "1" * 100_000})
    render(store, image.id)
    Path(store.path("incoming", "a" * 64 + ".part")).write_bytes(b"1" * 50_000)
    usage = sizes(store)
    assert usage["incoming"] >= 50_000
    assert usage["tree"] >= 100_000
    assert usage["image"] >= image.size
    total = sum(path.lstat().st_blocks * 512 for path in [Path(store.root), *Path(store.root).rglob("*")])
    assert sum(usage.values()) == total


# -- rendering ----------------------------------------------------------------------------------------


def test_one_renders_while_others_wait(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = put_new(store, tmp_path, files={f"d{n}/f": str(n) for n in range(50)})
    made: list[str] = []
    original = rendering._make

    def slow(*args: object, **kwargs: object) -> None:
        made.append("x")
        original(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(rendering, "_make", slow)
    ids: list[str] = []
    threads = [threading.Thread(target=lambda: ids.append(render(store, image.id).id)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ids) == 8
    assert len(set(ids)) == 1
    assert len(made) == 1
    assert os.listdir(store.path("tree-locks")) == []


def test_a_failed_rendering_leaves_nothing(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = put_new(store, tmp_path, files={"f": "1"})

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("gantry.images.extract.write_all", full)
    with pytest.raises(GantryError) as caught:
        render(store, image.id)
    assert caught.value.code == "no-space"
    assert os.listdir(store.path("tree")) == []
    monkeypatch.undo()
    assert render(store, image.id).id in store.trees()


def test_the_free_space_is_looked_at_before_rendering(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = put_new(store, tmp_path, files={"f": "1" * 100_000})
    monkeypatch.setattr("gantry.images.space.free_bytes", lambda _: 1_100_000)
    with pytest.raises(GantryError, match="needed") as caught:
        render(store, image.id)
    assert caught.value.code == "no-space"


def test_a_tree_without_its_record_is_made_anew(store: Store, tmp_path: Path) -> None:
    image = put_new(store, tmp_path, files={"f": "1"})
    tree = render(store, image.id)
    os.unlink(store.path("tree", tree.id, "tree.json"))
    os.unlink(os.path.join(tree.rootfs, "f"))
    assert render(store, image.id).id == tree.id
    assert Path(tree.rootfs, "f").read_text() == "1"


KILLED = """
import os, signal, sys
sys.path[:0] = [sys.argv[1]]
from gantry.config import Paths
from gantry.images import Store, export, exporting, render_directory, rendering
def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)
rendering._fill = exporting._write_tar = die
store = Store(Paths(*sys.argv[2:6]))
{"render": render_directory, "export": export}[sys.argv[6]](store, sys.argv[7], sys.argv[8])
"""


@pytest.mark.parametrize("what", ["render", "export"])
def test_what_a_killed_process_left_beside_the_target_is_removed(
    store: Store, tmp_path: Path, what: str
) -> None:
    image = put_new(store, tmp_path, files={"f": "1"})
    target = tmp_path / "o[u]t"
    paths = [store.paths.data, store.paths.run, store.paths.system, store.paths.local]
    runtime = str(Path(__file__).resolve().parents[2] / "runtime")
    for _ in range(2):  # the second one clears up what the first one left
        script = [sys.executable, "-c", KILLED, runtime, *paths, what, str(image.id), str(target)]
        assert subprocess.run(script, check=False, capture_output=True).returncode == -signal.SIGKILL
        left = [path.name for path in tmp_path.iterdir() if path.name.endswith(".tmp")]
        assert len(left) == (what == "render")  # a file has no name before it is complete
    foreign = [tmp_path / "out.12345678.tmp", tmp_path / "o[u]t.backup.tmp", tmp_path / "o[u]t.123456789.tmp"]
    for path in foreign:
        path.mkdir()
    busy = tmp_path / "o[u]t.00000000.tmp"
    busy.mkdir()
    with locked(str(busy), create=False):
        (render_directory if what == "render" else export)(store, image.id, str(target))
    assert target.exists()
    assert {path.name for path in tmp_path.glob("*.tmp")} == {path.name for path in [*foreign, busy]}


def test_rendering_to_a_directory(store: Store, tmp_path: Path) -> None:
    image = put_new(store, tmp_path, files={"f": "1"})
    target = tmp_path / "out"
    render_directory(store, image.id, str(target))
    assert tree_files(target) == {"manifest", "rootfs", "rootfs/f"}
    with pytest.raises(UsageError, match="exists"):
        render_directory(store, image.id, str(target))
    render_directory(store, image.id, str(target), overwrite=True, rootfs_only=True)
    assert tree_files(target) == {"f"}
    with pytest.raises(UsageError, match="refused"):
        render_directory(store, image.id, "/", overwrite=True)
    assert {path.name for path in tmp_path.iterdir()} >= {"out"}
    assert not list(tmp_path.glob("*.tmp"))
    (tmp_path / "empty").mkdir()
    render_directory(store, image.id, str(tmp_path / "empty"))
    assert tree_files(tmp_path / "empty") == {"manifest", "rootfs", "rootfs/f"}


def test_extracting_leaves_dependencies_and_whitelist_out(store: Store, tmp_path: Path) -> None:
    put_new(store, tmp_path, "example.com/base", files={"base": "1"})
    fields = {"dependencies": [{"imageName": "example.com/base"}], "path_whitelist": ["/base"]}
    image = put_new(store, tmp_path, files={"own": "2"}, **fields)
    render_directory(store, image.id, str(tmp_path / "rendered"), rootfs_only=True)
    assert tree_files(tmp_path / "rendered") == {"base"}
    render_directory(store, image.id, str(tmp_path / "raw"), alone=True)
    assert tree_files(tmp_path / "raw") == {"manifest", "rootfs", "rootfs/own"}
    assert (tmp_path / "raw/manifest").read_bytes() == store.manifest_bytes(image.id)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_rendering_without_privileges_is_a_recorded_downgrade(tmp_path: Path) -> None:
    def child(directory: Path, results: multiprocessing.Queue[Any]) -> None:
        os.setgroups([])
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
        store = Store(paths_in(directory))
        tree = render(store, put(store, directory / "a.aci").id)
        record = json.loads(Path(store.path("tree", tree.id, "tree.json")).read_text())
        mode = os.stat(os.path.join(tree.rootfs, "f")).st_mode
        os.chmod(os.path.join(tree.rootfs, "closed"), 0o700)
        os.chmod(os.path.join(tree.rootfs, "closed/inside"), 0o700)
        differences = verify(store, store.find("example.com/app"), repair=False)[0].differences
        results.put((tree.id, tree.downgrades, record["owners"], mode, differences))

    with tempfile.TemporaryDirectory() as name:  # pytest's own are closed to others
        user = Path(name)
        os.chown(user, 65534, 65534)
        tree = [
            file("f", "1", 0o4755, uid=5, gid=5),
            device("null", 1, 3),
            directory("closed", 0o000, uid=65534, gid=65534),
            directory("closed/inside", 0o000, uid=65534, gid=65534),
        ]
        made = make_aci(user / "a.aci", tree=tree)
        os.chmod(made.path, 0o644)
        context = multiprocessing.get_context("fork")
        results: multiprocessing.Queue[Any] = context.Queue()
        process = context.Process(target=child, args=(user, results))
        process.start()
        ident, downgrades, owners, mode, differences = results.get(timeout=30)
        process.join()
        assert downgrades == {"owners": 2, "devices": ["null"], "setid": ["f"]}
        assert owners == "skipped"
        assert stat.S_IMODE(mode) == 0o755  # setuid for somebody else than the image means would be a gift
        assert differences == [
            "closed: mode 0000 expected, 0700 found",
            "closed/inside: mode 0000 expected, 0700 found",
        ]
        # What root renders is another tree.
        store = Store(paths_in(tmp_path))
        assert render(store, put(store, made).id).id != ident


# -- arguments ----------------------------------------------------------------------------------------


def test_what_an_image_argument_means(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plain").write_text("")
    assert parse_source("sha512-ab") == Source(image_id="sha512-ab")
    assert parse_source("https://e.com/a.aci?x=1").url == "https://e.com/a.aci?x=1"
    assert parse_source("file:///a%20b.aci").file == "/a b.aci"
    assert parse_source("/a/b").file == "/a/b"
    assert parse_source("plain").file == "plain"
    assert parse_source("./x").file == "./x"
    assert parse_source("x.aci").file == "x.aci"
    assert str(parse_source("example.com/a:1.0,os=linux").ref) == "example.com/a,version=1.0,os=linux"
    assert str(parse_source("example.com/a").ref) == "example.com/a"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "https://e.com/a.tar",
        "file:///a",
        "docker://busybox",
        "cimd:appc:v=0:x",
        "ftp://e.com/a.aci",
        "a\0b",
    ],
)
def test_what_no_image_argument_is(text: str) -> None:
    with pytest.raises(UsageError):
        parse_source(text)


def test_the_signatures_url_keeps_the_query() -> None:
    assert signature_url("https://e.com/a.aci?token=x#f") == "https://e.com/a.aci.asc?token=x#f"


def test_download_files_are_named_by_the_url_and_hold_no_secret(store: Store) -> None:
    store.ensure()
    with Client() as client:
        download = Download(
            client,
            "https://user:secret@example.com/a.aci",
            store.path("incoming"),
            store.limits,
            say=lambda _: None,
            progress=lambda *_: None,
        )
    assert "secret" not in download.path


def test_an_image_and_its_signature_are_written_both_or_neither(store: Store, tmp_path: Path) -> None:
    image = put_new(store, tmp_path, files={"f": "1"})
    target, signature = tmp_path / "out.aci", tmp_path / "out.aci.asc"
    signature.write_text("another image's")
    with pytest.raises(UsageError, match=r"the signature file .*out\.aci\.asc exists"):
        export(store, image.id, str(target), compressed=True)
    assert not target.exists()
    assert signature.read_text() == "another image's"
    export(store, image.id, str(target), compressed=True, overwrite=True)  # it is not signed
    assert not signature.exists()
    assert target.read_bytes() == Path(image.path).read_bytes()
    Path(image.directory, "image.aci.asc").write_text("its own")
    with pytest.raises(UsageError, match="exists"):
        export(store, image.id, str(target), compressed=True)
    assert not signature.exists()
    export(store, image.id, str(target), compressed=True, overwrite=True)
    assert signature.read_text() == "its own"
    export(store, image.id, str(tmp_path / "tar.aci"))
    assert not (tmp_path / "tar.aci.asc").exists()


def test_what_somebody_made_meanwhile_is_not_replaced(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = put_new(store, tmp_path)
    target = tmp_path / "out.aci"

    def meanwhile(*given: Any) -> None:
        target.write_text("mine")
        write(*given)

    write = exporting._write_tar
    monkeypatch.setattr(exporting, "_write_tar", meanwhile)
    with pytest.raises(UsageError, match="exists"):
        export(store, image.id, str(target))
    assert target.read_text() == "mine"


def test_the_root_alone_replaces_only_what_could_be_one(store: Store, tmp_path: Path) -> None:
    image = put_new(store, tmp_path, files={"etc/f": "x"})
    out = tmp_path / "out"
    for _ in range(2):
        render_directory(store, image.id, str(out), rootfs_only=True, overwrite=True)
    (out / "thesis").write_text("mine")
    with pytest.raises(UsageError, match=r'refused to replace .*: it holds "thesis"'):
        render_directory(store, image.id, str(out), rootfs_only=True, overwrite=True)
    assert (out / "thesis").read_text() == "mine"


def gantry(*words: str) -> subprocess.CompletedProcess[str]:
    code = "import sys; from gantry.cli import main; sys.exit(main())"
    return subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)


def test_what_is_in_the_store_is_overwritten_by_no_command(store: Store, tmp_path: Path) -> None:
    image = put_new(store, tmp_path)
    before = Path(image.path).read_bytes()
    for target in (image.path, store.path("image", "x.aci")):
        with pytest.raises(UsageError, match="refused to write to"):
            export_rendered(store, image.id, target, overwrite=True)
        for words in (
            ["build", str(tmp_path), target],
            ["image", "patch-manifest", "--name=x.example/x", target, target],
            ["image", "patch-manifest", "--replace", "--name=x.example/x", target],
            ["sign", "--key=/dev/null", f"--output={target}.asc", target],
        ):
            overwrite = [] if "--replace" in words else ["--overwrite"]
            done = gantry(f"--dir={store.paths.data}", *words, *overwrite)
            assert done.returncode == 254
            assert "refused to write to" in done.stderr, words
    assert Path(image.path).read_bytes() == before


def test_strays_stop_nothing(store: Store, tmp_path: Path) -> None:
    image = put_new(store, tmp_path)
    for place in ("image", "names", "tree", "urls", "incoming", "tree-locks"):
        Path(store.path(place, "notes.txt")).write_text("x")
    os.mkdir(store.path("pins", "user:x"))
    again = Store(store.paths)
    assert [found.id for found in again.list()] == [image.id]
    assert again.pins() == []
    again.gc(grace_period=3600)
    assert [found.id for found in again.list()] == [image.id]


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="makes a device")
def test_overwriting_replaces_no_device_and_nothing_of_our_own(store: Store, tmp_path: Path) -> None:
    image = put_new(store, tmp_path)
    null, pipe = tmp_path / "null.aci", tmp_path / "pipe.aci"
    os.mknod(null, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mkfifo(pipe)
    (tmp_path / "link.aci").symlink_to(null)
    (tmp_path / "file").write_text("mine")
    data = Path(store.paths.data)
    (tmp_path / "way").symlink_to(data)
    for target in (null, pipe, tmp_path / "link.aci"):
        for write in (export, export_rendered):
            with pytest.raises(UsageError, match=r"no (regular )?file"):
                write(store, image.id, str(target), overwrite=True)
    for target in (null, tmp_path / "file"):
        with pytest.raises(UsageError, match="is no directory"):
            render_directory(store, image.id, str(target), overwrite=True)
    for target in (data, data / "images", data / "images/tree/x", tmp_path, tmp_path / "way/images"):
        with pytest.raises(UsageError, match="refused to write to"):
            render_directory(store, image.id, str(target), overwrite=True)
    with pytest.raises(UsageError, match="refused to write to"):
        export(store, image.id, str(data / "images/format"), overwrite=True)
    assert stat.S_ISCHR(os.lstat(null).st_mode)
    assert stat.S_ISFIFO(os.lstat(pipe).st_mode)
    assert (tmp_path / "file").read_text() == "mine"
    assert store.find(image.id).id == image.id


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts")
def test_overwriting_replaces_only_what_was_unpacked(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = put_new(store, tmp_path, files={"f": "x"})
    out = tmp_path / "out"
    render_directory(store, image.id, str(out))
    render_directory(store, image.id, str(out), overwrite=True)
    empty = tmp_path / "empty"
    empty.mkdir()
    render_directory(store, image.id, str(empty), overwrite=True)
    mine = tmp_path / "mine"
    (mine / "rootfs").mkdir(parents=True)
    (mine / "secret.asc").write_text("mine")
    work = tmp_path / "work"
    (work / "below").mkdir(parents=True)
    (tmp_path / "link").symlink_to(mine)
    monkeypatch.chdir(work / "below")
    for target in (str(mine), str(tmp_path / "link"), ".", "..", str(work), "/srv", "/"):
        for alone in (False, True):
            with pytest.raises(UsageError, match="refused"):
                render_directory(store, image.id, target, overwrite=True, alone=alone)
    assert (mine / "secret.asc").read_text() == "mine"
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/mine").write_text("mine")
    if subprocess.run(["mount", "--bind", tmp_path / "outside", out / "rootfs"], check=False).returncode:
        pytest.skip("mounting is not possible here")
    try:
        for rootfs_only in (False, True):
            with pytest.raises(UsageError, match="is a mount point"):
                render_directory(store, image.id, str(out), overwrite=True, rootfs_only=rootfs_only)
        assert (tmp_path / "outside/mine").read_text() == "mine"
        assert (out / "manifest").exists()
    finally:
        subprocess.run(["umount", out / "rootfs"], check=True)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="what an ordinary user renders cannot be exported")
def test_what_was_changed_in_a_tree_is_not_exported(store: Store, tmp_path: Path) -> None:
    image = put_new(store, tmp_path, files={"f": "x"})
    good = export_rendered(store, image.id, str(tmp_path / "good.aci")).image_id
    tree = render(store, image.id, ref=UUID)
    (Path(tree.rootfs) / "f").write_text("changed")
    assert export_rendered(store, image.id, str(tmp_path / "again.aci")).image_id == good


def test_gc_keeps_no_image_that_is_not_there(store: Store, tmp_path: Path) -> None:
    image = put_new(store, tmp_path)
    render(store, image.id, ref=UUID)
    store.remove(image.id)
    assert store.gc(grace_period=-1).kept == {}
