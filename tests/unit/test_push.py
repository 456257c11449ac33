"""What a push leaves behind: files, page, record; also when it is killed, refused or not alone."""

from __future__ import annotations

import contextlib
import html.parser
import json
import os
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
from tests.support import crashes
from tests.support.aci import make_aci
from tests.support.openpgp import KeyPair, make_key

from gantry import audit
from gantry.config import Paths
from gantry.discovery import page as discovery_page
from gantry.discovery.templates import render
from gantry.errors import GantryError, UsageError
from gantry.http import HttpOptions
from gantry.images import Store
from gantry.images import push as room
from gantry.images.push import GivenKeys, Pushed, push
from gantry.images.push_index import Index, Published, PushError, Signer, files_of, read_index
from gantry.images.push_page import make_page
from gantry.images.push_places import Directory, place_of
from gantry.trust import UnknownKeyError, UnsignedError
from gantry.trust.keystore import inspect

NAME = "example.com/app"
HOST = {"os": "linux", "arch": "amd64"}


@pytest.fixture(scope="module")
def key() -> KeyPair:
    return make_key("Release <release@example.com>")


class World:
    """A publisher: images, a key, a tree to publish in."""

    def __init__(self, base: Path, key: KeyPair) -> None:
        self.base, self.key = base, key
        self.paths = Paths.make(
            data=str(base / "data"), run=str(base / "run"), system=str(base / "lib"), local=str(base / "etc")
        )
        self.tree = base / "www"

    def image(
        self, version: str | None = "1.0", *, name: str = NAME, content: str = "", **labels: str
    ) -> Path:
        path = self.base / f"{version}-{labels.get('arch', 'amd64')}-{content}.aci".replace("/", "_")
        stated = {**({"version": version} if version else {}), **HOST, **labels}
        made = make_aci(path, name, labels=stated, files={"f": content or str(version)})
        path.with_name(path.name + ".asc").write_bytes(self.key.sign(made.data))
        return path

    def push(self, image: Path, **options: Any) -> Pushed:
        keys = GivenKeys(self.paths, inspect(self.key.public))
        return push(Store(self.paths), keys, str(image), str(self.tree), http=HttpOptions(), **options)

    def files(self) -> set[str]:
        return {
            str(path.relative_to(self.tree))
            for path in self.tree.rglob("*")
            if path.is_file() and path.name != ".gantry-push.lock"
        }

    def index(self) -> Index:
        return read_index((self.tree / "app/images.json").read_bytes(), NAME, "here")

    def page(self) -> bytes:
        return (self.tree / "app/index.html").read_bytes()

    def reachable(self, version: str | None) -> list[tuple[bytes, bytes]]:
        """Image and signature at the URLs that the page leads to, of those that are there."""
        labels = HOST | ({"version": version} if version else {})
        found = []
        for tag in discovery_page.find_tags(self.page()):
            if tag.kind != discovery_page.IMAGES:
                continue
            paths = [
                self.tree / url.removeprefix("https://example.com/")
                for url in render(tag.value, NAME, labels)
            ]
            if all(path.exists() for path in paths):
                found.append((paths[0].read_bytes(), paths[1].read_bytes()))
        return found


@pytest.fixture
def world(tmp_path: Path, key: KeyPair) -> World:
    return World(tmp_path, key)


def test_a_version_and_the_latest_are_where_the_page_says(world: World) -> None:
    for version in ("1.0", "1.1"):
        world.push(world.image(version))
    old, new = ((world.base / f"{v}-amd64-.aci").read_bytes() for v in ("1.0", "1.1"))
    assert [image for image, _ in world.reachable("1.0")] == [old]
    assert [image for image, _ in world.reachable("1.1")] == [new]
    assert [image for image, _ in world.reachable(None)] == [new]
    (keys,) = [t.value for t in discovery_page.find_tags(world.page()) if t.kind == discovery_page.PUBKEYS]
    published = world.tree / keys.removeprefix("https://example.com/")
    assert [k.fingerprint for k in inspect(published.read_bytes())] == [world.key.fingerprint]


def test_DSC_17_a_page_offers_https(world: World) -> None:
    world.push(world.image())
    tags = [tag for tag in discovery_page.find_tags(world.page()) if tag.kind == discovery_page.IMAGES]
    assert tags
    assert all(tag.value.startswith(("https://example.com/", "https://{name}")) for tag in tags)


def test_the_page_that_was_read_before_still_leads_to_a_pair(world: World) -> None:
    world.push(world.image("1.0"))
    before = world.page()
    world.push(world.image("1.1"))
    after, changed = world.page(), (world.base / "1.0-amd64-.aci").read_bytes()
    assert after != before
    (world.tree / "app/index.html").write_bytes(before)
    assert [image for image, _ in world.reachable(None)] == [changed]


def test_pushing_again_changes_nothing(world: World) -> None:
    image = world.image()
    assert world.push(image).written
    state = {path: (world.tree / path).stat().st_mtime_ns for path in world.files()}
    again = world.push(image)
    assert (again.written, again.removed) == ([], [])
    assert {path: (world.tree / path).stat().st_mtime_ns for path in world.files()} == state


def test_what_was_published_is_on_record_and_what_was_there_already_is_not(world: World) -> None:
    image = world.image("1.0")
    for _ in range(2):
        world.push(image)
    [entry] = audit.entries(world.paths.data, event="image.push")
    assert (entry["image"], entry["latest"]) == ("example.com/app:1.0", True)
    assert (entry["signer"], entry["destination"]) == (world.key.fingerprint, str(world.tree))


def test_a_file_that_was_lost_is_written_again(world: World) -> None:
    image = world.image()
    world.push(image)
    (world.tree / "app-1.0-linux-amd64.aci").unlink()
    assert world.push(image).written == ["app-1.0-linux-amd64.aci"]


def test_a_file_that_was_cut_is_written_again(world: World) -> None:
    image = world.image()
    world.push(image)
    os.truncate(world.tree / "app-1.0-linux-amd64.aci", 100)
    assert world.push(image).written == ["app-1.0-linux-amd64.aci"]
    assert (world.tree / "app-1.0-linux-amd64.aci").read_bytes() == image.read_bytes()


def test_somebodys_own_page_is_not_replaced(world: World) -> None:
    (world.tree / "app").mkdir(parents=True)
    (world.tree / "app/index.html").write_text("<h1>mine</h1>")
    with pytest.raises(PushError, match=r"app/index\.html is somebody's own page"):
        world.push(world.image())
    assert world.files() == {"app/index.html"}
    (world.tree / "app/index.html").unlink()
    world.push(world.image())
    (world.tree / "app/images.json").unlink()  # lost; the page is ours all the same
    assert world.push(world.image()).written


def test_what_changes_while_it_is_pushed_is_not_told_of(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = world.image()

    def changing(place: Directory, path: str, source: Any) -> None:
        if path.endswith(".aci"):
            image.write_bytes(b"garbage")
        put(place, path, source)

    put = Directory.put
    monkeypatch.setattr(Directory, "put", changing)
    with pytest.raises(PushError, match="changed while it was pushed"):
        world.push(image)
    assert not {path for path in world.files() if "app/" in path}, "no page and no record tells of it"
    monkeypatch.undo()
    assert "app-1.0-linux-amd64.aci" in world.push(world.image()).written


def test_a_page_of_an_earlier_moment_does_not_stay(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another push, of which no lock kept us apart, was through between our record and our page."""
    first, second = world.image("1.0"), world.image("2.0")

    def slow(place: Directory, path: str, source: Any) -> None:
        if path.endswith("index.html"):
            monkeypatch.setattr(Directory, "put", put)
            with monkeypatch.context() as unlocked:
                unlocked.setattr(Directory, "exclusively", lambda _: contextlib.nullcontext())
                world.push(second)
        put(place, path, source)

    put = Directory.put
    monkeypatch.setattr(Directory, "put", slow)
    world.push(first)
    assert {image.version for image in world.index().images} == {"1.0", "2.0"}
    assert [image for image, _ in world.reachable("2.0")] == [second.read_bytes()]
    assert len(world.reachable(None)) == 1
    assert b"2.0" in world.page()


def test_the_web_server_reads_it_whatever_the_umask_is(world: World) -> None:
    before = os.umask(0o077)
    try:
        world.push(world.image())
    finally:
        os.umask(before)
    for path in [world.tree, *world.tree.rglob("*")]:
        if path.name != ".gantry-push.lock":
            assert path.stat().st_mode & 0o005 == (0o005 if path.is_dir() else 0o004), path


def test_a_version_never_changes(world: World) -> None:
    world.push(world.image(content="one"))
    before = {path: (world.tree / path).read_bytes() for path in world.files()}
    with pytest.raises(PushError, match="published already, with other bytes"):
        world.push(world.image(content="two"))
    assert {path: (world.tree / path).read_bytes() for path in world.files()} == before


@pytest.mark.parametrize("order", [1, -1])
def test_two_names_never_share_a_file(world: World, order: int) -> None:
    """Where a name ends its file's name does not say: who comes second is told, and nothing changes."""
    first, second = [("app", "1-2"), ("app-1", "2")][::order]
    world.push(world.image(first[1], name=f"example.com/{first[0]}"))
    before = {path: (world.tree / path).read_bytes() for path in world.files()}
    with pytest.raises(
        PushError, match=f"is already example.com/{first[0]}:{first[1]}: both would be one file"
    ):
        world.push(world.image(second[1], name=f"example.com/{second[0]}", content="other"))
    assert {path: (world.tree / path).read_bytes() for path in world.files()} == before
    world.push(world.image("3", name=f"example.com/{second[0]}"), keep=1)
    assert before.keys() <= world.files()


def test_what_is_signed_anew_stays_the_same_version(world: World) -> None:
    image = world.image()
    world.push(image)
    image.with_name(image.name + ".asc").write_bytes(make_later(world, image))
    done = world.push(image)
    assert "app-1.0-linux-amd64.aci.asc" in done.written
    assert "app-1.0-linux-amd64.aci" not in done.written
    assert len(world.index().images) == 1
    assert len(world.reachable(None)) == 1


def make_later(world: World, image: Path) -> bytes:
    signature = world.key.sign(image.read_bytes())
    return signature + b"\n"  # other bytes, whatever the clock says


def test_unsigned_and_unknown_are_refused_before_anything_is_written(world: World) -> None:
    image = world.image()
    asc = image.with_name(image.name + ".asc")
    asc.write_bytes(make_key("Stranger <s@example.org>").sign(image.read_bytes()))
    with pytest.raises(UnknownKeyError):
        world.push(image)
    asc.unlink()
    with pytest.raises(UnsignedError):
        world.push(image)
    assert not world.tree.exists()
    done = world.push(image, unsigned=True)
    assert done.image.signed is None
    assert b"not signed" in world.page()
    assert not [path for path in world.files() if path.endswith(".asc")]


@pytest.mark.parametrize(
    ("version", "labels", "told"),
    [
        (None, {}, 'no label "version"'),
        ("latest", {}, "cannot be part of a URL"),
        ("1/../../x", {}, "cannot be part of a URL"),
        ("1?x", {}, "cannot be part of a URL"),
    ],
)
def test_labels_that_no_url_finds_are_refused(
    world: World, version: str | None, labels: dict[str, str], told: str
) -> None:
    with pytest.raises(PushError, match=told):
        world.push(world.image(version, **labels))
    assert not world.tree.exists()


def test_names_that_would_be_taken_for_files_are_refused() -> None:
    with pytest.raises(PushError):
        files_of("example.com/app/index.html")
    assert files_of("example.com/team/app").page == "team/app/index.html"
    assert files_of("example.com").page == "index.html"


# -- latest, and pruning ------------------------------------------------------------------------------


def published(version: str, signed: str, *, arch: str = "amd64", latest: bool = True) -> Published:
    digest = format(hash((version, arch)) & (2**512 - 1), "0128x")
    return Published(
        version, "linux", arch, f"sha512-{digest}", 1, digest, "0" * 64, signed, "a" * 40, signed, latest
    )


def test_latest_is_what_was_signed_last_of_those_that_may_be() -> None:
    index = Index(
        NAME,
        (
            published("2.0", "2026-02-01T00:00:00Z"),
            published("1.9", "2026-01-01T00:00:00Z"),
            published("3.0", "2026-03-01T00:00:00Z", latest=False),
            published("1.0", "2026-01-01T00:00:00Z", arch="aarch64"),
        ),
    )
    assert {platform: image.version for platform, image in index.newest().items()} == {
        "linux-amd64": "2.0",
        "linux-aarch64": "1.0",
    }


def test_what_is_not_signed_never_takes_the_place_of_what_is(world: World) -> None:
    world.push(world.image("1.0"))
    done = world.push(world.image("1.1"), unsigned=True)
    assert not done.latest
    assert [image for image, _ in world.reachable(None)] == [(world.base / "1.0-amd64-.aci").read_bytes()]


def test_pruning_keeps_so_many_of_each_platform_and_never_takes_the_latest(world: World) -> None:
    world.push(world.image("1.0"))
    world.push(world.image("1.0", arch="aarch64"))
    for version in ("1.1", "1.2", "1.3"):
        world.push(world.image(version), latest=False)
    done = world.push(world.image("1.4"), latest=False, keep=2)
    left = {(image.version, image.arch) for image in world.index().images}
    # 1.0 for amd64 is what the page calls the latest.
    assert left == {("1.0", "amd64"), ("1.0", "aarch64"), ("1.3", "amd64"), ("1.4", "amd64")}
    assert "app-1.1-linux-amd64.aci" in done.removed
    images = {path for path in world.files() if path.endswith(".aci") and "latest" not in path}
    assert images == {f"app-{version}-linux-{arch}.aci" for version, arch in left}
    assert all(f"{path}.asc" in world.files() for path in images)
    with pytest.raises(UsageError):
        world.push(world.image("1.4"), keep=0)


# -- the record ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        lambda record: record.update(gone=["../../etc/passwd"]),
        lambda record: record.update(gone=["app-1.0/../../x.aci"]),
        lambda record: record.update(gone=["app/index.html"]),
        lambda record: record.update(tokens={"linux-amd64": ["../x"]}),
        lambda record: record["images"][0].update(version="../x"),
        lambda record: record.update(name="example.com/other"),
        lambda record: record.update(format=2),
        lambda record: record.pop("images"),
    ],
)
def test_a_record_that_is_not_ours_is_refused_and_nothing_is_removed(world: World, change: Any) -> None:
    image = world.image()
    world.push(image)
    file = world.tree / "app/images.json"
    record = json.loads(file.read_text())
    change(record)
    file.write_text(json.dumps(record))
    before = world.files()
    with pytest.raises(PushError, match="is not what gantry push writes"):
        world.push(image)
    assert world.files() == before


def test_a_record_that_is_no_file_is_refused_at_once(world: World) -> None:
    (world.tree / "app").mkdir(parents=True)
    os.mkfifo(world.tree / "app/images.json")
    with pytest.raises(PushError, match=r"app/images\.json is no (regular )?file"):
        world.push(world.image())


@pytest.mark.parametrize(
    "url",
    [
        "https://h/{name}",
        "https://h/?x",
        "https://h/#x",
        'https://h/"><b>',
        "https://h:0/",
        "https://h /",
        "https://[::1/",
        "https://",
    ],
)
def test_what_cannot_be_the_root_of_published_files_is_refused(world: World, url: str) -> None:
    with pytest.raises(UsageError, match="is no URL of published files"):
        world.push(world.image(), base=url)
    with pytest.raises(UsageError, match="is no place to push to"):
        place_of(url, HttpOptions()).__enter__()
    assert not world.tree.exists()


def test_every_byte_of_a_record_comes_back() -> None:
    index = Index(
        NAME,
        (published("1.0", "2026-01-01T00:00:00Z"),),
        (Signer("a" * 40, ('<script>"ü',), None),),
        {"linux-amd64": ("0" * 16,)},
        ("app-0.9-linux-amd64.aci",),
    )
    assert read_index(index.encode(), NAME, "here") == index


# -- the page -----------------------------------------------------------------------------------------


class Strict(html.parser.HTMLParser):
    """Elements that are opened and closed, and texts."""

    VOID = frozenset({"meta"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_well_formed_and_strangers_texts_stay_texts() -> None:
    evil = '"><script>alert(1)</script><meta name="ac-discovery" content="example.com https://evil.test/{ext}">\u202e\n'
    image = published("1.0", "2026-01-01T00:00:00Z")
    index = Index(NAME, (image,), (Signer("a" * 40, (evil,), None),), {"linux-amd64": (image.token,)})
    page = make_page(index, files_of(NAME), "")
    parser = Strict()
    parser.feed(page.decode())
    assert parser.open == []
    names = {tag for tag, _ in parser.seen}
    assert "script" not in names
    assert not {key for _, attributes in parser.seen for key in attributes} & {"src", "onclick", "onload"}
    tags = discovery_page.find_tags(page)
    assert all("evil" not in tag.value for tag in tags)
    assert [tag.prefix for tag in tags] == [NAME] * 3
    assert "\u202e" not in page.decode()
    assert "&lt;script&gt;" in page.decode()


def test_another_base_url_is_where_the_page_leads(world: World) -> None:
    done = world.push(world.image(), base="https://cdn.test:8443/x/")
    assert done.page == "https://cdn.test:8443/x/app/"
    tags = discovery_page.find_tags(world.page())
    assert render(tags[0].value, NAME, HOST | {"version": "1.0"})[0] == (
        "https://cdn.test:8443/x/app-1.0-linux-amd64.aci"
    )
    assert all(tag.value.startswith("https://cdn.test:8443/x/app") for tag in tags)


# -- killed, and not alone ----------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["rename", "unlink"])
def test_a_killed_push_leaves_the_old_state_and_is_repeated(world: World, tmp_path: Path, call: str) -> None:
    for version in ("0.9", "1.0"):  # a third one removes what 0.9 was the latest by
        world.push(world.image(version))
    old, new = world.image("1.0").read_bytes(), world.image("1.1")
    before, spare = world.page(), tmp_path / "spare"
    shutil.copytree(world.tree, spare)
    store, keys = Store(world.paths), GivenKeys(world.paths, inspect(world.key.public))
    kills = 0
    with room._candidate(store, keys, str(new), unsigned=False, signature_file=None) as candidate:

        def publish() -> None:
            place = Directory(str(world.tree))
            with place.exclusively():
                room._publish(place, files_of(NAME), candidate, "", None, set())

        while crashes.killed_at(publish, call, kills + 1).killed:
            kills += 1
            ((latest, _),) = world.reachable(None)
            assert latest == (old if world.page() == before else new.read_bytes()), kills
            assert [image for image, _ in world.reachable("1.0")] == [old]
            publish()
            assert [image for image, _ in world.reachable(None)] == [new.read_bytes()]
            assert not list(world.tree.rglob(".*.gantry-push-*"))
            assert len(list(world.tree.glob("app-latest-*.aci"))) == 2
            shutil.rmtree(world.tree)
            shutil.copytree(spare, world.tree)
    assert kills >= (7 if call == "rename" else 2)


def test_two_pushes_at_once_lose_nothing(world: World) -> None:
    images = [world.image(f"1.{n}") for n in range(4)]
    failures: list[BaseException] = []

    def one(image: Path) -> None:
        try:
            world.push(image)
        except BaseException as error:  # noqa: BLE001 - the test tells
            failures.append(error)

    threads = [threading.Thread(target=one, args=(image,)) for image in images]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    assert {image.version for image in world.index().images} == {f"1.{n}" for n in range(4)}


# -- places -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "ftp://example.com/x",
        "ssh://example.com",
        "ssh://u:password@example.com/x",
        "host:",
        "-oProxyCommand=x:/y",
        "https://example.com/x?y=1",
        "",
    ],
)
def test_what_is_no_place_is_refused_and_shows_no_password(text: str) -> None:
    with pytest.raises(GantryError) as caught, place_of(text, HttpOptions()):
        pass
    assert "password" not in str(caught.value)


def test_rsync_is_missing_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(GantryError, match="is not installed"), place_of("example.com:/srv", HttpOptions()):
        pass


def test_a_directory_that_may_not_be_written_is_one_line(world: World, tmp_path: Path) -> None:
    world.tree.write_text("a file")
    with pytest.raises(PushError, match="cannot write to"):
        world.push(world.image())
    assert os.listdir(tmp_path)
