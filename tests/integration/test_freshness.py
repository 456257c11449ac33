"""A server that offers an older image again: refused by name, whatever the image's signature says."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.integration.test_fetch import NAME, World
from tests.support.aci import MadeImage
from tests.support.https_server import HttpsServer, Reply
from tests.support.openpgp import GnuPG, make_key, trust

from gantry.errors import GantryError
from gantry.images.present import present
from gantry.trust import DowngradeError
from gantry.trust.errors import FreshnessError

NOW = int(time.time())
DAY = 86400
LATEST, ONE, TWO = ("/example.com/app-latest.aci", "/example.com/app-1.0.aci", "/example.com/app-2.0.aci")


@pytest.fixture(scope="module")
def server() -> Iterator[HttpsServer]:
    with HttpsServer() as server:
        yield server


class Publisher:
    """Offers images that were signed on chosen days."""

    def __init__(self, world: World, gpg: GnuPG, key: str) -> None:
        self.world, self.gpg, self.key = world, gpg, key

    def offer(self, image: MadeImage, path: str, days_ago: int) -> None:
        self.world.routes[path] = Reply(body=image.data)
        signature = self.gpg.sign(image.data, self.key, at=NOW - days_ago * DAY)
        self.world.routes[f"{path}.asc"] = signature


@pytest.fixture
def publisher(tmp_path: Path, server: HttpsServer) -> Iterator[Publisher]:
    world = World(tmp_path, server, make_key())
    with GnuPG() as gpg:
        key = gpg.make_key("Publisher <publisher@example.com>", at=NOW - 100 * DAY)
        trust(world.paths, gpg.export(key), NAME)
        yield Publisher(world, gpg, key)


def image(world: World, version: str, text: str) -> MadeImage:
    labels = {"version": version, "os": "linux", "arch": "amd64"}
    return world.make(files={"version": text}, labels=labels)


def refused(world: World, what: str, **options: Any) -> GantryError:
    before = {each.id for each in world.store.list()}
    with pytest.raises(DowngradeError) as caught:
        world.fetch(what, policy="update", **options)
    assert {each.id for each in world.store.list()} == before
    assert world.refusals()[-1]["code"] == "downgrade"
    return caught.value


def test_the_latest_does_not_go_back(publisher: Publisher) -> None:
    world = publisher.world
    old, new = image(world, "1.0", "old"), image(world, "2.0", "new")
    publisher.offer(new, LATEST, days_ago=1)
    assert world.fetch(NAME, policy="update").image.id == new.id
    publisher.offer(old, LATEST, days_ago=50)
    error = refused(world, NAME)
    assert "this is an older one" in str(error)
    world.store.remove(new.id)  # the record outlives the image
    world.store.gc(grace_period=0)
    refused(world, NAME)
    publisher.offer(old, ONE, days_ago=50)
    assert world.fetch(f"{NAME}:1.0").image.id == old.id  # who asks for it, gets it
    refused(world, NAME)
    done = world.fetch(NAME, policy="update", insecure=["downgrade"])
    assert done.image.id == old.id
    assert world.fetch(NAME, policy="update").image.id == old.id


def test_a_version_that_was_replaced_does_not_come_back(publisher: Publisher) -> None:
    world = publisher.world
    first, second = image(world, "1.0", "first"), image(world, "1.0", "second")
    publisher.offer(first, ONE, days_ago=50)
    assert world.fetch(f"{NAME}:1.0").image.id == first.id
    publisher.offer(second, ONE, days_ago=2)
    assert world.fetch(f"{NAME}:1.0", policy="update").image.id == second.id
    publisher.offer(first, ONE, days_ago=50)
    refused(world, f"{NAME}:1.0")
    refused(world, f"https://example.com{ONE}")
    path = world.base / "first.aci"
    path.write_bytes(first.data)
    (world.base / "first.aci.asc").write_bytes(
        publisher.gpg.sign(first.data, publisher.key, at=NOW - 50 * DAY)
    )
    refused(world, str(path))
    assert world.files() != []
    assert not [name for name in world.files() if "/incoming/" in name]


def test_a_mirror_that_stands_still_does_not_stop_another(publisher: Publisher) -> None:
    world = publisher.world
    old, new = image(world, "1.0", "old"), image(world, "2.0", "new")
    tag = '<meta name="ac-discovery" content="example.com https://example.com/{name}-{version}.{ext}">'
    other = (
        '<meta name="ac-discovery" content="example.com https://example.com/mirror/{name}-{version}.{ext}">'
    )
    world.routes["/app"] = world.routes["/"] = tag + other
    publisher.offer(new, LATEST, days_ago=5)
    world.fetch(NAME, policy="update")
    publisher.offer(old, LATEST, days_ago=50)
    newest = image(world, "3.0", "newest")
    publisher.offer(newest, "/mirror/example.com/app-latest.aci", days_ago=1)
    done = world.fetch(NAME, policy="update")
    assert done.image.id == newest.id
    assert any("trying the next server" in note for note in done.notes)
    publisher.offer(old, "/mirror/example.com/app-latest.aci", days_ago=50)
    refused(world, NAME)


@pytest.mark.parametrize("headers", [{}, {"Cache-Control": "max-age=3600"}])
def test_what_is_in_the_store_already_does_not_come_back_either(
    publisher: Publisher, headers: dict[str, str]
) -> None:
    """An old page leads to an old URL, whose image has not changed, or need not even be asked for."""
    world = publisher.world
    pages = [
        f'<meta name="ac-discovery" content="example.com https://example.com/{{name}}-{token}.{{ext}}">'
        for token in ("one", "two")
    ]
    images = [image(world, "1.0", "old"), image(world, "2.0", "new")]
    for token, made, days_ago in zip(("one", "two"), images, (50, 1), strict=True):
        path = f"/example.com/app-{token}.aci"
        publisher.offer(made, path, days_ago)
        world.routes[path] = Reply(body=made.data, etag=f'"{token}"', headers=headers)
    for page, made in zip(pages, images, strict=True):
        world.routes["/app"] = world.routes["/"] = page
        assert world.fetch(NAME, policy="update").image.id == made.id
    world.routes["/app"] = world.routes["/"] = pages[0]
    refused(world, NAME)
    assert world.fetch(f"{NAME}:1.0", policy="never").image.id == images[0].id
    assert world.fetch(NAME, policy="update", insecure=["downgrade"]).image.id == images[0].id


@pytest.mark.parametrize(
    "labels",
    [
        {"version": "1.0"},
        {"version": "1.0", "os": "linux"},
        {"version": "1.0", "os": "linux", "arch": "i386"},
        {"version": "2.0"},
    ],
)
def test_an_older_image_for_another_platform_is_an_older_image(
    publisher: Publisher, labels: dict[str, str]
) -> None:
    """What an image says of its platform does not take it out of comparison."""
    world = publisher.world
    new = image(world, "2.0", "new")
    old = world.make(files={"version": "old"}, labels=labels)
    publisher.offer(new, LATEST, days_ago=1)
    publisher.offer(new, TWO, days_ago=1)
    assert world.fetch(NAME, policy="update").image.id == new.id
    publisher.offer(old, LATEST, days_ago=50)
    refused(world, NAME)
    if labels["version"] == "2.0":
        publisher.offer(old, TWO, days_ago=50)
        refused(world, f"{NAME}:2.0")


def test_what_was_not_verified_is_no_record(publisher: Publisher) -> None:
    world = publisher.world
    old, new = image(world, "1.0", "old"), image(world, "2.0", "new")
    publisher.offer(new, LATEST, days_ago=1)
    world.fetch(NAME, policy="update", insecure=["image"])
    publisher.offer(old, LATEST, days_ago=50)
    assert world.fetch(NAME, policy="update").image.id == old.id


def test_a_dependency_does_not_go_back_either(publisher: Publisher) -> None:
    world = publisher.world
    trust(world.paths, publisher.gpg.export(publisher.key), "example.com/base")
    labels = {"version": "1", "os": "linux", "arch": "amd64"}
    bases = [world.make("example.com/base", files={"n": str(n)}, labels=labels) for n in range(2)]
    top = world.make(labels={**labels, "version": "1.0"}, dependencies=[{"imageName": "example.com/base"}])
    publisher.offer(top, ONE, days_ago=1)
    publisher.offer(bases[1], "/example.com/base-latest.aci", days_ago=1)
    world.fetch(f"{NAME}:1.0")
    publisher.offer(bases[0], "/example.com/base-latest.aci", days_ago=50)
    error = refused(world, f"{NAME}:1.0")
    assert "example.com/base, the latest," in str(error)


def test_a_record_that_cannot_be_read_takes_nothing_in(publisher: Publisher) -> None:
    world = publisher.world
    old, new = image(world, "1.0", "old"), image(world, "1.0", "new")
    publisher.offer(new, ONE, days_ago=1)
    world.fetch(f"{NAME}:1.0")
    [record] = Path(world.paths.data, "trust/accepted").iterdir()
    record.write_text("damaged")
    publisher.offer(old, ONE, days_ago=50)
    for insecure in ([], ["downgrade"]):
        with pytest.raises(FreshnessError):
            world.fetch(f"{NAME}:1.0", policy="update", insecure=insecure)
        assert [each.id for each in world.store.list()] == [new.id]
    assert len(world.refusals()) == 2


def test_what_is_older_is_not_taken_from_the_store_either(publisher: Publisher) -> None:
    """It came in as a version, or before the newer one was removed: nobody asked for it by its version."""
    world = publisher.world
    old, new = image(world, "1.0", "old"), image(world, "2.0", "new")
    publisher.offer(old, LATEST, days_ago=50)
    world.fetch(NAME, policy="update")
    publisher.offer(new, LATEST, days_ago=1)
    world.fetch(NAME, policy="update")
    publisher.offer(old, ONE, days_ago=50)
    assert world.fetch(f"{NAME}:1.0", policy="update").image.id == old.id  # imported last
    for policy in ("new", "never"):
        assert world.fetch(NAME, policy=policy).image.id == new.id
    assert world.store.find(NAME).id == new.id
    world.store.remove(new.id)
    with pytest.raises(DowngradeError):
        world.fetch(NAME, policy="never")
    assert present(world.store, NAME, unsigned=False) is None
    assert world.fetch(NAME, policy="new").image.id == new.id  # from the network
    world.store.remove(new.id)
    taken = world.fetch(NAME, policy="never", insecure=["downgrade"])
    assert taken.image.id == old.id


def test_a_format_that_is_missing_does_not_switch_it_off(publisher: Publisher) -> None:
    world = publisher.world
    old, new = image(world, "1.0", "old"), image(world, "2.0", "new")
    publisher.offer(new, LATEST, days_ago=1)
    world.fetch(NAME, policy="update")
    Path(world.paths.data, "trust/format").unlink()
    publisher.offer(old, LATEST, days_ago=50)
    with pytest.raises(FreshnessError):
        world.fetch(NAME, policy="update")
