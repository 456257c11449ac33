"""Fetching over real TLS, with real signatures, into a real store."""

from __future__ import annotations

import base64
import dataclasses
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.aci import MadeImage, make_aci
from tests.support.https_server import HttpsServer, Reply, Request
from tests.support.openpgp import TestKey, make_key, trust
from tests.support.store import sizes

from gantry import audit
from gantry.config import Paths
from gantry.errors import GantryError
from gantry.http import ConnectError, HttpError, HttpOptions
from gantry.images import (
    ArchiveError,
    DependencyError,
    DigestMismatchError,
    FetchResult,
    ImageNotFoundError,
    Limits,
    NameMismatchError,
    Store,
    export,
    fetch,
    render,
)
from gantry.linux.fs import write_all
from gantry.trust import (
    BadSignatureError,
    KeyStore,
    UnknownKeyError,
    UnsignedError,
    UntrustedForNameError,
    packets,
)

NAME = "example.com/app"


@pytest.fixture(scope="module")
def key() -> TestKey:
    return make_key()


@pytest.fixture(scope="module")
def stranger() -> TestKey:
    return make_key("Stranger <stranger@example.org>")


class World:
    """A host with a store and a key, and an image server."""

    def __init__(self, base: Path, server: HttpsServer, key: TestKey) -> None:
        self.base = base
        self.paths = Paths.make(
            data=str(base / "data"),
            run=str(base / "run"),
            system=str(base / "system"),
            local=str(base / "local"),
        )
        self.server = server
        self.key = key
        self.keystore = KeyStore(self.paths)
        self.store = Store(self.paths)
        self.routes: dict[str, Any] = {}
        server.routes = self.routes
        server.requests.clear()
        self.options = HttpOptions(
            ca_file=server.ca_file, connect_to=server.connect_to("example.com"), use_proxies=False
        )
        tag = '<meta name="ac-discovery" content="example.com https://example.com/{name}-{version}.{ext}">'
        self.routes["/app"] = self.routes["/base"] = self.routes["/"] = tag

    def with_options(self, **changes: Any) -> HttpOptions:
        return dataclasses.replace(self.options, **changes)

    def make(self, name: str = NAME, **fields: Any) -> MadeImage:
        return make_aci(self.base / f"made-{random.getrandbits(64):x}.aci", name, **fields)

    def publish(
        self,
        image: MadeImage,
        path: str = "/example.com/app-1.0.aci",
        key: TestKey | None = None,
        **reply: Any,
    ) -> str:
        self.routes[path] = Reply(body=image.data, **reply)
        self.routes[f"{path}.asc"] = (key or self.key).sign(image.data)
        return f"https://example.com{path}"

    def fetch(self, what: str = f"{NAME}:1.0", **options: Any) -> FetchResult:
        return fetch(self.store, self.keystore, what, http=self.options, **options)

    def refusals(self) -> list[dict[str, Any]]:
        return list(audit.entries(self.paths.data, event="image.refuse"))

    def files(self) -> list[str]:
        """Everything in the store that belongs to an image or a download."""
        found = []
        for part in ("image", "incoming", "names", "urls"):
            top = self.store.path(part)
            for directory, _, names in os.walk(top):
                found += [os.path.join(directory, name) for name in names]
        return found


@pytest.fixture(scope="module")
def server() -> Iterator[HttpsServer]:
    with HttpsServer() as server:
        yield server


@pytest.fixture
def world(tmp_path: Path, server: HttpsServer, key: TestKey) -> World:
    world = World(tmp_path, server, key)
    trust(world.paths, key, NAME)
    return world


def big(world: World, **fields: Any) -> MadeImage:
    """An image of some megabytes that does not compress."""
    blob = random.Random(7).randbytes(3_000_000)
    return world.make(version="1.0", files={"blob": blob, "etc/motd": "hello\n"}, **fields)


# -- the straight way ---------------------------------------------------------------------------------


def test_a_name_is_discovered_fetched_verified_and_rendered(world: World) -> None:
    image = world.make(version="1.0", files={"etc/motd": "hello\n"}, exec_=["/bin/true"])
    world.publish(image)
    result = world.fetch()
    assert result.fetched
    assert result.image.id == image.id
    assert result.image.verification is not None
    assert result.image.verification["key"] == world.key.fingerprint
    assert result.image.verification["prefix"] == NAME
    # SIG-08, ACI-24: what was distributed is kept byte for byte, its signature beside it.
    assert Path(result.image.path).read_bytes() == image.data
    assert result.image.signature_path is not None
    tree = render(world.store, result.image.id)
    assert Path(tree.rootfs, "etc/motd").read_text() == "hello\n"
    [entry] = audit.entries(world.paths.data, event="image.fetch")
    assert entry["image"] == f"{NAME}:1.0"
    assert entry["image_id"] == image.id
    assert str(world.key.fingerprint) in str(entry["verification"])
    # The signature comes before the image.
    asked = world.server.paths()
    assert asked.index("/example.com/app-1.0.aci.asc") < asked.index("/example.com/app-1.0.aci")


def test_case_6_policy_new_with_a_match_opens_no_socket(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    below = world.make("example.com/base", version="1", files={"b": "1"})
    world.publish(below, "/example.com/base-1.aci", key=world.key)
    trust(world.paths, world.key, "example.com/base")
    top = world.make(
        version="1.0",
        dependencies=[{"imageName": "example.com/base", "labels": [{"name": "version", "value": "1"}]}],
    )
    world.publish(top)
    first = world.fetch()
    assert [image.id for image in first.dependencies] == [below.id]

    def no_socket(*_: object, **__: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", no_socket)
    monkeypatch.setattr(socket, "create_connection", no_socket)
    monkeypatch.setattr(socket, "getaddrinfo", no_socket)
    again = world.fetch(policy="new")
    assert not again.fetched
    assert again.image.id == top.id
    assert world.fetch(policy="never").image.id == top.id
    assert world.fetch(top.id[:20]).image.id == top.id


@pytest.mark.parametrize("way", ["name", "url", "file"])
def test_of_several_signatures_one_by_a_key_for_the_name_will_do(world: World, way: str) -> None:
    """Whatever their order is, and whatever else the other key is trusted for."""
    image = world.make(version="1.0")
    url = world.publish(image)
    other = make_key("Elsewhere <elsewhere@example.org>")
    trust(world.paths, other, "example.org")
    both = b"".join(packets.dearmor(key.sign(image.data), "SIGNATURE") for key in (other, world.key))
    signatures = armored(both)
    world.routes["/example.com/app-1.0.aci.asc"] = signatures
    image.path.with_name(image.path.name + ".asc").write_bytes(signatures)
    what = {"name": f"{NAME}:1.0", "url": url, "file": str(image.path)}[way]
    found = world.fetch(what).image.verification
    assert found is not None
    assert (found["key"], found["prefix"]) == (world.key.fingerprint, NAME)


def armored(body: bytes) -> bytes:
    text = base64.encodebytes(body)
    return b"-----BEGIN PGP SIGNATURE-----\n\n" + text + b"-----END PGP SIGNATURE-----\n"


def test_policy_never_without_a_match_is_refused_without_asking(world: World) -> None:
    with pytest.raises(ImageNotFoundError):
        world.fetch(policy="never")
    assert world.server.requests == []


def test_policy_update_asks_and_transfers_only_what_changed(world: World) -> None:
    image = world.make(version="1.0", files={"v": "1"})
    world.publish(image, etag='"one"')
    assert world.fetch(policy="update").fetched
    again = world.fetch(policy="update")
    assert not again.fetched
    assert "has not changed" in again.notes[-1]
    newer = world.make(version="1.0", files={"v": "2"})
    world.publish(newer, etag='"two"')
    third = world.fetch(policy="update")
    assert third.fetched
    assert third.image.id == newer.id
    assert world.store.find(f"{NAME}:1.0").id == newer.id


def test_a_version_that_was_not_asked_for_is_latest(world: World) -> None:
    """TRAP-02: "latest" fills the template and is no label."""
    image = world.make(version="7")
    world.publish(image, "/example.com/app-latest.aci")
    result = world.fetch(NAME)
    assert result.image.id == image.id
    assert result.image.latest


def test_an_image_from_a_file_with_the_signature_beside_it(world: World) -> None:
    image = world.make(files={"f": "1"})
    with pytest.raises(UnsignedError):
        world.fetch(str(image.path))
    Path(f"{image.path}.asc").write_bytes(world.key.sign(image.data))
    assert world.fetch(str(image.path)).image.id == image.id
    assert world.fetch(f"file://{image.path}").fetched  # files are always read anew
    moved = world.base / "elsewhere.asc"
    os.rename(f"{image.path}.asc", moved)
    assert world.fetch(str(image.path), signature_file=str(moved)).fetched


def test_an_image_from_a_url(world: World) -> None:
    image = world.make(files={"f": "1"})
    url = world.publish(image, "/some/where.aci")
    assert world.fetch(url).fetched
    asked = len(world.server.requests)
    assert not world.fetch(url).fetched
    assert len(world.server.requests) == asked


@pytest.mark.parametrize("compression", ["none", "gzip", "bzip2", "xz"])
def test_SIG_01_the_id_does_not_depend_on_the_compression(world: World, compression: str) -> None:
    image = world.make(version="1.0", files={"f": "1" * 1000}, compression=compression)
    world.publish(image)
    assert world.fetch().image.id == image.id


# -- refusals -----------------------------------------------------------------------------------------


def refused(
    world: World, kind: type[GantryError], code: str, what: str = f"{NAME}:1.0", **options: Any
) -> None:
    with pytest.raises(kind) as caught:
        world.fetch(what, **options)
    assert caught.value.code == code
    assert str(caught.value).isprintable()
    assert world.store.list() == []
    assert world.files() == []
    [entry] = world.refusals()
    assert entry["code"] == code
    assert entry["image"] == what
    assert entry["reason"] == caught.value.message


class Endless:
    """Answers without a length and sends *head*, then zeros for as long as somebody reads them."""

    def __init__(self, head: bytes, bound: int = 1 << 40) -> None:
        self.head = head
        self.bound = bound
        self.sent = 0

    def __call__(self, _: Request) -> Reply:
        return Reply(raw=self._send)

    def _send(self, connection: socket.socket) -> None:
        block = bytes(1 << 16)
        try:
            connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + self.head)
            while self.sent < self.bound:
                connection.sendall(block)
                self.sent += len(block)
        except OSError:
            return


MIB = 1 << 20


def count_writes(monkeypatch: pytest.MonkeyPatch, module: str) -> list[int]:
    written: list[int] = []

    def write(fd: int, data: bytes) -> None:
        written.append(len(data))
        write_all(fd, data)

    monkeypatch.setattr(f"gantry.images.{module}.write_all", write)
    return written


def test_a_stream_that_is_no_image_does_not_fill_the_disk(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hostile server has a signature by a trusted key, of something else, and sends for ever."""
    world.publish(world.make(version="1.0"))
    endless = world.routes["/example.com/app-1.0.aci"] = Endless(b"this is not an image\n" * 100, 64 * MIB)
    world.store = Store(world.paths, limits=Limits(settling=6 * MIB))
    written = count_writes(monkeypatch, "download")
    refused(world, ArchiveError, "archive")
    assert sum(written) <= 6 * MIB  # what was on the way to the check when it refused
    assert endless.sent < 40 * MIB


def test_a_stream_that_is_no_image_and_breaks_off_is_refused_as_one(world: World) -> None:
    world.publish(world.make(version="1.0"))
    cut = Reply(body=b"no image\n" * 1_000_000, cut_after=8 * MIB)
    world.routes["/example.com/app-1.0.aci"] = cut
    refused(world, ArchiveError, "archive")
    assert world.server.paths().count("/example.com/app-1.0.aci") == 1


def test_a_file_that_is_no_image_is_not_copied(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    path = world.base / "big.aci"
    path.write_bytes(b"no image\n" * 3_000_000)
    Path(f"{path}.asc").write_bytes(world.key.sign(b"something else"))
    written = count_writes(monkeypatch, "transfer")
    world.store = Store(world.paths, limits=Limits(settling=4 * MIB))
    refused(world, ArchiveError, "archive", str(path))
    assert sum(written) <= 6 * MIB
    # Within the bound the signature is settled, and is the truer reason.
    world.store = Store(world.paths)
    with pytest.raises(BadSignatureError):
        world.fetch(str(path))


def test_the_free_space_is_looked_at_while_bytes_come(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """An archive may go on for ever behind its end: so far everything is right with it."""
    image = world.make(version="1.0", compression="none")
    world.publish(image)
    endless = world.routes["/example.com/app-1.0.aci"] = Endless(image.data, 64 * MIB)
    written = count_writes(monkeypatch, "download")
    monkeypatch.setattr("gantry.images.space.free_bytes", lambda _: 12 * MIB - sum(written))
    world.store = Store(world.paths, limits=Limits(reserve=4 * MIB))
    with pytest.raises(GantryError) as caught:
        world.fetch()
    assert caught.value.code == "no-space"
    assert "4194304 have to stay free" in caught.value.message
    assert 4 * MIB < sum(written) <= 8 * MIB  # never the reserve
    assert endless.sent < 40 * MIB
    assert world.files() == []


@pytest.mark.parametrize(
    "reply",
    [
        Reply(204, headers={"Content-Length": "0"}),
        Reply(206, b"x" * 20, headers={"Content-Range": "bytes 5-24/25"}),
        Reply(304, headers={"Content-Length": "0"}),
        Reply(302, headers={"Location": "http://example.com/x.aci"}),
        Reply(302, headers={"Location": "/example.com/app-1.0.aci"}),
        Reply(500),
        Reply(200, b"x" * 100_000, cut_after=50_000),
    ],
)
def test_an_answer_that_is_no_image_leaves_nothing(world: World, reply: Reply) -> None:
    world.publish(world.make(version="1.0"))
    world.routes["/example.com/app-1.0.aci"] = reply
    with pytest.raises(GantryError):
        world.fetch()
    assert world.files() == []


def test_TYP_02_a_name_with_a_run_of_separators_is_fetched_and_verified(world: World) -> None:
    image = world.make(f"{NAME}/x--y__z", version="1.0")
    url = world.publish(image, "/odd.aci")
    found = world.fetch(url).image
    assert (found.name, found.verification is not None) == (f"{NAME}/x--y__z", True)
    assert world.fetch(f"{NAME}/x--y__z:1.0", policy="never").image.id == image.id


def test_the_hint_names_no_path_as_a_prefix(world: World, stranger: TestKey) -> None:
    image = world.make(version="1.0")
    url = world.publish(image, "/x.aci", key=stranger)
    Path(f"{image.path}.asc").write_bytes(stranger.sign(image.data))
    for what in (url, str(image.path)):
        with pytest.raises(UnknownKeyError) as caught:
            world.fetch(what)
        assert "--prefix=NAME KEYFILE" in caught.value.hint
    world.publish(image, key=stranger)
    with pytest.raises(UnknownKeyError) as caught:
        world.fetch()
    assert f"--prefix={NAME} KEYFILE" in caught.value.hint


def test_hints_are_right_for_the_command_line_and_for_modules(world: World) -> None:
    image = world.make(version="1.0")
    with pytest.raises(UnsignedError) as unsigned:
        world.fetch(str(image.path))
    with pytest.raises(UnsignedError) as missing:
        world.fetch(str(image.path), signature_file="/nonexistent")
    world.fetch(str(image.path), insecure=["image"])
    with pytest.raises(UnsignedError) as stored:
        world.fetch(f"{NAME}:1.0", policy="never")
    for caught in (unsigned, missing, stored):
        assert caught.value.hint.endswith('accept it unsigned: insecure option "image"')
        assert "--" not in caught.value.hint


def test_unsigned_is_refused_before_the_download(world: World) -> None:
    world.publish(world.make(version="1.0"))
    del world.routes["/example.com/app-1.0.aci.asc"]
    refused(world, UnsignedError, "unsigned")
    # It is asked whether the image is there at all, and nothing of it is read.
    assert world.server.paths()[-2:] == ["/example.com/app-1.0.aci.asc", "/example.com/app-1.0.aci"]


def test_what_is_not_there_at_all_is_not_called_unsigned(world: World) -> None:
    world.publish(world.make(version="1.0"))
    with pytest.raises(HttpError, match="404") as caught:
        world.fetch(f"{NAME}:9.9")
    assert "app-9.9.aci" in caught.value.message
    assert not world.files()
    assert not world.refusals()


def test_an_unknown_key_is_refused_before_the_download(world: World, stranger: TestKey) -> None:
    world.publish(world.make(version="1.0"), key=stranger)
    refused(world, UnknownKeyError, "unknown-key")
    assert "/example.com/app-1.0.aci" not in world.server.paths()
    assert world.refusals()[0]["signature_sha256"]


@pytest.mark.parametrize("where", [10, 0.5, -20])
def test_one_flipped_byte_is_a_bad_signature(world: World, where: float) -> None:
    image = big(world)
    world.publish(image)
    data = bytearray(image.data)
    data[int(where * len(data)) if 0 < where < 1 else int(where)] ^= 1
    world.routes["/example.com/app-1.0.aci"] = bytes(data)
    refused(world, BadSignatureError, "bad-signature")


def test_SIG_11_a_key_for_another_name_is_refused_for_a_url(world: World, stranger: TestKey) -> None:
    trust(world.paths, stranger, "example.com/other")
    url = world.publish(world.make(), "/x.aci", key=stranger)
    refused(world, UntrustedForNameError, "untrusted-for-name", url)


def test_DSC_26_MAN_06_another_name_is_refused(world: World) -> None:
    world.publish(world.make("example.com/app/else", version="1.0"))
    refused(world, NameMismatchError, "name-mismatch")


@pytest.mark.parametrize("labels", [{"version": "1.1"}, {}])
def test_DSC_27_another_or_a_missing_label_is_refused(world: World, labels: dict[str, str]) -> None:
    world.publish(world.make(labels=labels))
    refused(world, NameMismatchError, "name-mismatch")


def test_DSC_28_TRAP_01_labels_that_nobody_stated_are_no_mismatch(world: World) -> None:
    image = world.make(labels={"version": "1.0", "color": "red"})  # no os, no arch
    world.publish(image)
    assert world.fetch().image.id == image.id


def test_a_broken_archive_is_refused_and_leaves_nothing(world: World) -> None:
    image = world.make(version="1.0")
    cut = image._replace(data=image.data[:-30])
    world.publish(cut)  # signed as it is
    with pytest.raises(GantryError) as caught:
        world.fetch()
    assert caught.value.code == "archive"
    assert world.files() == []
    assert world.refusals()[0]["code"] == "archive"


def test_SIG_10_what_came_unverified_does_not_run_by_itself(world: World) -> None:
    image = world.make(version="1.0")
    world.publish(image)
    del world.routes["/example.com/app-1.0.aci.asc"]
    assert world.fetch(insecure=["image"]).image.verification is None
    assert "/example.com/app-1.0.aci.asc" not in world.server.paths()
    [entry] = audit.entries(world.paths.data, event="image.fetch")
    assert entry["insecure"] == ["image"]
    for policy in ("new", "update", "never"):
        with pytest.raises(UnsignedError):
            world.fetch(policy=policy)
    with pytest.raises(UnsignedError):
        world.fetch(image.id)
    assert not world.fetch(insecure=["image"]).fetched


def test_an_unverified_copy_does_not_replace_a_verified_one(world: World) -> None:
    image = world.make(version="1.0")
    world.publish(image)
    world.fetch()
    again = world.fetch(policy="update", insecure=["image"])
    assert again.image.verification is not None
    assert again.image.signature_path is not None


# -- broken transfers ---------------------------------------------------------------------------------


def test_case_1_a_cut_transfer_is_continued_at_the_exact_byte(world: World) -> None:
    image = big(world)
    world.publish(image)
    replies = iter([Reply(body=image.data, etag='"e"', ranges=True, cut_after=1_000_000)])
    whole = Reply(body=image.data, etag='"e"', ranges=True)
    world.routes["/example.com/app-1.0.aci"] = lambda _: next(replies, whole)
    result = world.fetch()
    assert result.image.id == image.id
    ranges = [r.headers["range"] for r in world.server.requests if "range" in r.headers]
    assert len(ranges) == 1
    assert any("continuing at byte" in note for note in result.notes)


@pytest.mark.parametrize("second", ["200", "another offset", "another entity"])
def test_case_1_what_does_not_continue_begins_again(world: World, second: str) -> None:
    image = big(world)
    world.publish(image)

    def answer(request: Request) -> Reply:
        if "range" not in request.headers:
            first = not any("range" in r.headers for r in world.server.requests)
            return Reply(body=image.data, etag='"e"', cut_after=1_000_000 if first else None)
        if second == "200":
            return Reply(body=image.data, etag='"e"')
        if second == "another entity":
            return Reply(body=image.data, etag='"f"', ranges=True)
        size = len(image.data)
        headers = {"Content-Range": f"bytes 500000-{size - 1}/{size}"}
        return Reply(206, image.data[500_000:], headers, etag='"e"')

    world.routes["/example.com/app-1.0.aci"] = answer
    result = world.fetch()
    assert result.image.id == image.id
    assert Path(result.image.path).read_bytes() == image.data
    assert sum("did not continue the download" in note for note in result.notes) == 1


def test_case_1_beginning_again_is_bounded(world: World) -> None:
    image = big(world)
    world.publish(image)
    world.routes["/example.com/app-1.0.aci"] = lambda _: Reply(body=image.data, cut_after=500_000)
    with pytest.raises(GantryError) as caught:
        world.fetch()
    assert caught.value.code in {"fetch", "truncated"}
    asked = [path for path in world.server.paths() if path == "/example.com/app-1.0.aci"]
    assert len(asked) <= 4
    assert world.store.list() == []
    assert world.refusals() == []  # a bad link says nothing about the image


def break_off(world: World, image: MadeImage, after: int) -> None:
    """A fetch that gets so many bytes, and then nothing any more."""
    replies = iter([Reply(body=image.data, etag='"e"', ranges=True, cut_after=after)])
    world.routes["/example.com/app-1.0.aci"] = lambda _: next(replies, Reply(503))
    with pytest.raises(HttpError):
        world.fetch()


def test_what_an_earlier_process_left_is_continued(world: World) -> None:
    image = big(world)
    world.publish(image)
    break_off(world, image, 900_000)
    assert sizes(world.store)["incoming"] >= 900_000  # case 4: every byte is accounted for
    world.routes["/example.com/app-1.0.aci"] = Reply(body=image.data, etag='"e"', ranges=True)
    world.server.requests.clear()
    assert world.fetch().image.id == image.id
    [request] = [r for r in world.server.requests if r.path == "/example.com/app-1.0.aci"]
    assert int(request.headers["range"].removeprefix("bytes=").removesuffix("-")) >= 900_000
    assert sizes(world.store)["incoming"] < 20_000


@pytest.mark.parametrize("at", [0, 400_000])  # noticed by the first check, and by the last one
def test_a_spoiled_partial_file_does_not_spoil_the_image(world: World, at: int) -> None:
    """After a power cut the end of the partial file may be zeros."""
    image = big(world)
    world.publish(image)
    break_off(world, image, 900_000)
    [part] = Path(world.store.path("incoming")).glob("*.part")
    with part.open("r+b") as file:
        file.seek(at)
        file.write(bytes(1000))
    world.routes["/example.com/app-1.0.aci"] = Reply(body=image.data, etag='"e"', ranges=True)
    result = world.fetch()
    assert result.image.id == image.id
    assert Path(result.image.path).read_bytes() == image.data
    assert any("beginning again" in note for note in result.notes)
    assert world.refusals() == []


def test_a_complete_partial_file_is_not_transferred_again(world: World) -> None:
    image = big(world)
    world.publish(image, etag='"e"', ranges=True)
    world.fetch()
    stored = world.store.find(f"{NAME}:1.0")
    name = os.listdir(world.store.path("urls"))[0]
    part = world.store.path("incoming", name)
    os.link(stored.path, f"{part}.part")
    Path(f"{part}.json").write_text(f'{{"etag": "\\"e\\"", "total": {len(image.data)}}}')
    world.store.remove(image.id)
    assert world.fetch().image.id == image.id
    assert world.server.requests[-1].headers["if-none-match"] == '"e"'


def test_the_next_server_is_tried(world: World) -> None:
    image = world.make(version="1.0")
    world.publish(image)
    world.routes["/app"] = (
        '<meta name="ac-discovery" content="example.com https://example.com/dead/{name}-{version}.{ext}">'
        '<meta name="ac-discovery" content="example.com https://example.com/{name}-{version}.{ext}">'
    )
    world.routes["/dead/example.com/app-1.0.aci.asc"] = Reply(503)
    result = world.fetch()
    assert result.image.id == image.id
    assert any("trying the next server" in note for note in result.notes)


def test_a_dead_server_is_one_line_and_no_refusal(world: World) -> None:
    with socket.socket() as placeholder:
        placeholder.bind(("127.0.0.1", 0))
        world.options = HttpOptions(connect_to={"example.com": placeholder.getsockname()}, use_proxies=False)
        with pytest.raises(ConnectError):
            world.fetch("https://example.com/x.aci")
    assert world.refusals() == []


def test_the_free_space_is_looked_at_first(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    image = big(world)
    world.publish(image)
    monkeypatch.setattr("gantry.images.space.free_bytes", lambda _: 2_000_000)
    with pytest.raises(GantryError) as caught:
        world.fetch()
    assert caught.value.code == "no-space"
    assert world.files() == []


# -- dependencies -------------------------------------------------------------------------------------


def depends(name: str, **fields: Any) -> dict[str, Any]:
    return {"imageName": name, **fields}


def test_dependencies_are_fetched_recursively(world: World) -> None:
    trust(world.paths, world.key)
    c = world.make("example.com/c", files={"c": "c"})
    world.publish(c, "/example.com/c-latest.aci")
    b = world.make("example.com/b", files={"b": "b"}, dependencies=[depends("example.com/c", imageID=c.id)])
    world.publish(b, "/example.com/b-latest.aci")
    a = world.make(
        version="1.0", dependencies=[depends("example.com/b"), depends("example.com/c", size=len(c.data))]
    )
    world.publish(a)
    result = world.fetch()
    assert [image.id for image in result.dependencies] == [c.id, b.id]
    tree = render(world.store, a.id)
    assert sorted(os.listdir(tree.rootfs)) == ["b", "c"]


def test_what_stays_without_its_dependencies_is_told(world: World) -> None:
    trust(world.paths, world.key)
    a = world.make(version="1.0", dependencies=[depends("example.com/b")])
    world.publish(a)
    with pytest.raises(GantryError) as failed:
        world.fetch()
    assert failed.value.hint.endswith(f"{NAME}:1.0 stays in the store, without all that it depends on")
    b = world.make("example.com/b", files={"b": "b"})
    world.publish(b, "/example.com/b-latest.aci")
    assert [image.id for image in world.fetch().dependencies] == [b.id]


def test_a_dependency_in_the_store_is_told_when_no_server_is_reached(world: World) -> None:
    trust(world.paths, world.key)
    b = world.make("example.com/b", files={"b": "b"})
    path = world.base / "b.aci"
    path.write_bytes(b.data)
    (world.base / "b.aci.asc").write_bytes(world.key.sign(b.data))
    world.fetch(str(path))
    a = world.make(version="1.0", dependencies=[depends("example.com/b")])
    world.publish(a)
    with pytest.raises(GantryError) as failed:
        world.fetch(policy="update")
    assert "example.com/b is in the store and would do with the pull policy new" in failed.value.hint
    assert world.fetch(policy="new").image.id == a.id


def test_DEP_10_a_cycle_is_refused_and_leaves_nothing(world: World) -> None:
    trust(world.paths, world.key)
    b = world.make("example.com/b", dependencies=[depends(NAME)])
    world.publish(b, "/example.com/b-latest.aci")
    a = world.make(version="1.0", dependencies=[depends("example.com/b")])
    world.publish(a)
    with pytest.raises(DependencyError, match="cycle"):
        world.fetch()
    assert world.store.list() == []
    assert world.refusals()[-1]["code"] == "dependency"


def test_DEP_02_SIG_12_another_id_is_refused(world: World) -> None:
    trust(world.paths, world.key)
    b = world.make("example.com/b")
    world.publish(b, "/example.com/b-latest.aci")
    a = world.make(version="1.0", dependencies=[depends("example.com/b", imageID="sha512-" + "0" * 128)])
    world.publish(a)
    with pytest.raises(DigestMismatchError):
        world.fetch()
    assert world.store.list() == []


@pytest.mark.parametrize("wrong", [100, 10_000_000])
def test_DEP_04_another_size_is_refused(world: World, wrong: int) -> None:
    trust(world.paths, world.key)
    b = world.make("example.com/b", files={"blob": random.Random(1).randbytes(500_000)})
    world.publish(b, "/example.com/b-latest.aci")
    a = world.make(version="1.0", dependencies=[depends("example.com/b", size=wrong)])
    world.publish(a)
    with pytest.raises(GantryError) as caught:
        world.fetch()
    assert caught.value.code in {"archive", "limit"}


def test_DEP_05_an_id_in_the_store_under_another_name_does_not_count(world: World) -> None:
    trust(world.paths, world.key)
    other = world.make("example.com/other")
    world.fetch(str(sign_beside(world, other).path))
    a = world.make(version="1.0", dependencies=[depends("example.com/b", imageID=other.id)])
    world.publish(a)
    with pytest.raises(GantryError):
        world.fetch()


def sign_beside(world: World, image: MadeImage) -> MadeImage:
    Path(f"{image.path}.asc").write_bytes(world.key.sign(image.data))
    return image


# -- several at once, and killed ones -----------------------------------------------------------------

CHILD = """
import sys
from gantry.config import Paths
from gantry.http import HttpOptions
from gantry.images import Store, fetch
from gantry.trust import KeyStore
data, run, system, local, ca, port, what = sys.argv[1:]
paths = Paths(data=data, run=run, system=system, local=local)
options = HttpOptions(ca_file=ca, connect_to={"example.com": ("127.0.0.1", int(port))}, use_proxies=False)
result = fetch(Store(paths), KeyStore(paths), what, http=options)
print(result.image.id, result.fetched)
"""


def start(world: World, what: str = f"{NAME}:1.0") -> subprocess.Popen[str]:
    arguments = [
        *world.paths[:4],
        world.server.ca_file,
        str(world.server.port),
        what,
    ]
    runtime = str(Path(__file__).resolve().parents[2] / "runtime")
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": runtime},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_several_processes_download_once(world: World) -> None:
    image = big(world)
    world.publish(image)
    arrived = threading.Event()
    release = threading.Event()

    def answer(_: Request) -> Reply:
        arrived.set()
        release.wait(30)
        return Reply(body=image.data)

    world.routes["/example.com/app-1.0.aci"] = answer
    children = [start(world) for _ in range(4)]
    assert arrived.wait(30)
    lock_holders_wait(world, 4)
    release.set()
    outputs = [child.communicate(timeout=60) for child in children]
    assert [out.split()[0] for out, _ in outputs] == [image.id] * 4, outputs
    assert sorted(out.split()[1] for out, _ in outputs) == ["False", "False", "False", "True"]
    assert world.server.paths().count("/example.com/app-1.0.aci") == 1
    assert os.listdir(world.store.path("incoming")) == []


def lock_holders_wait(world: World, count: int) -> None:
    """Until *count* processes have the URL's lock file open."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        holders = 0
        for process in Path("/proc").glob("[0-9]*/fd"):
            try:
                links = [os.readlink(process / fd) for fd in os.listdir(process)]
            except OSError:
                continue
            holders += any(
                link.startswith(world.store.path("incoming")) and link.endswith(".lock") for link in links
            )
        if holders >= count:
            return
        time.sleep(0.02)
    raise AssertionError("the processes did not meet at the lock")


@pytest.mark.slow
def test_kill_9_at_any_moment_leaves_a_usable_store(world: World) -> None:
    image = big(world)
    pieces = [image.data[i : i + 65536] for i in range(0, len(image.data), 65536)]
    world.publish(image)

    def answer(request: Request) -> Reply:
        # In pieces, so that a kill hits the middle of it; ranges honoured.
        begin = 0
        if request.headers.get("if-range", '"e"') == '"e"' and "range" in request.headers:
            begin = int(request.headers["range"].removeprefix("bytes=").removesuffix("-"))
        if begin == 0:
            return Reply(body=list(pieces), etag='"e"', headers={"Content-Length": str(len(image.data))})
        body = image.data[begin:]
        if not body:
            return Reply(416)
        headers = {"Content-Range": f"bytes {begin}-{len(image.data) - 1}/{len(image.data)}"}
        return Reply(206, body, headers, etag='"e"')

    world.routes["/example.com/app-1.0.aci"] = answer
    dice = random.Random(20)
    child = start(world)
    begun = time.monotonic()
    child.communicate(timeout=60)
    usual = time.monotonic() - begun
    assert child.returncode == 0
    for _ in range(20):
        world.store.remove(image.id)
        for kills in range(5):
            child = start(world)
            # On a machine that has become slower nobody would get to the end: the last one is let live.
            patience = dice.uniform(0.2, 1.1) * usual if kills < 4 else 120
            try:
                child.communicate(timeout=patience)
                break
            except subprocess.TimeoutExpired:
                os.kill(child.pid, signal.SIGKILL)
                child.communicate()
            for found in world.store.list():  # what has a name is whole
                assert Path(found.path).read_bytes() == image.data
        assert child.returncode == 0
        assert world.fetch(policy="new").image.id == image.id
        export(world.store, image.id, str(world.base / "out.tar"), overwrite=True)
    tree = render(world.store, image.id)
    assert Path(tree.rootfs, "etc/motd").read_text() == "hello\n"
    world.fetch(policy="update")
    world.store.gc(grace_period=0)
    assert os.listdir(world.store.path("incoming")) == []
    audit.verify(world.paths.data)


# -- what servers say of the same file ----------------------------------------------------------------


def test_the_rest_of_another_file_is_not_appended(world: World) -> None:
    """The server ignores what the rest depends on, and says so itself: by the time, or the length."""
    first, second = (
        world.make(version="1.0", files={"f": random.Random(n).randbytes(400_000)}) for n in (1, 2)
    )
    modified = {"Last-Modified": "Mon, 02 Nov 2026 10:00:00 GMT"}
    path = "/example.com/app-1.0.aci"

    def cut(sock: socket.socket) -> None:
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(first.data)}\r\n"
        head += f"Last-Modified: {modified['Last-Modified']}\r\n\r\n"
        sock.sendall(head.encode() + first.data[:200_000])

    def rest(request: Request) -> Reply:
        if "range" not in request.headers:
            return Reply(body=second.data)
        start = int(request.headers["range"].removeprefix("bytes=").removesuffix("-"))
        body, size = second.data[start:], len(second.data)
        more = {"Content-Range": f"bytes {start}-{size - 1}/{size}"}
        return Reply(206, body=body, headers={**more, "Last-Modified": "Tue, 03 Nov 2026 10:00:00 GMT"})

    answers = iter([Reply(raw=cut)])
    world.routes[path] = lambda request: next(answers, None) or rest(request)
    world.routes[f"{path}.asc"] = world.key.sign(second.data)
    done = world.fetch()
    assert done.image.id == second.id
    assert any("did not continue the download" in note for note in done.notes)
    assert world.refusals() == []


def test_the_same_bytes_signed_anew_are_judged_by_that(world: World) -> None:
    image = world.make(version="1.0")
    world.publish(image, etag='"one"')
    first = world.fetch(policy="update")
    asc = first.image.signature_path
    assert asc is not None
    before = Path(asc).read_bytes()
    again = world.key.sign(image.data) + b"\n"
    world.routes["/example.com/app-1.0.aci.asc"] = again
    assert world.fetch(policy="update").image.signature_path is not None
    assert Path(asc).read_bytes() == again != before
    stranger = make_key("Stranger <stranger@example.org>")
    world.routes["/example.com/app-1.0.aci.asc"] = stranger.sign(image.data)
    with pytest.raises(UnknownKeyError):
        world.fetch(policy="update")
    assert Path(asc).read_bytes() == again


BAD_MIRRORS: dict[str, Callable[[World, MadeImage, MadeImage], tuple[Any, Any]]] = {
    "signature missing": lambda w, good, bad: (good.data, Reply(404)),
    "signature of a stranger": lambda w, good, bad: (
        good.data,
        make_key().sign(good.data),
    ),
    "a page as signature": lambda w, good, bad: (good.data, b"<html>sign in</html>"),
    "a page as image": lambda w, good, bad: (b"<html>sign in</html>", w.key.sign(good.data)),
    "changed bytes": lambda w, good, bad: (bad.data, w.key.sign(good.data)),
    "another image": lambda w, good, bad: (bad.data, w.key.sign(bad.data)),
    "a wild length": lambda w, good, bad: (
        Reply(raw=lambda sock: sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 99900000000\r\n\r\n")),
        w.key.sign(good.data),
    ),
    "cut, and no ranges": lambda w, good, bad: (
        Reply(
            raw=lambda sock: sock.sendall(
                f"HTTP/1.1 200 OK\r\nContent-Length: {len(good.data)}\r\n\r\n".encode() + good.data[:100]
            )
        ),
        w.key.sign(good.data),
    ),
}


@pytest.mark.parametrize("which", BAD_MIRRORS)
def test_whatever_a_mirror_serves_the_next_one_is_asked(world: World, which: str) -> None:
    world.routes["/app"] = world.routes["/"] = "".join(
        f'<meta name="ac-discovery" content="example.com https://example.com/{place}/app.{{ext}}">'
        for place in ("bad", "good")
    )
    image, other = world.make(version="1.0"), world.make("example.com/app/other", version="1.0")
    world.routes["/bad/app.aci"], world.routes["/bad/app.aci.asc"] = BAD_MIRRORS[which](world, image, other)
    world.publish(image, "/good/app.aci")
    done = world.fetch()
    assert done.image.id == image.id
    assert any("trying the next server" in note for note in done.notes)
    assert [found.id for found in world.store.list()] == [image.id]
    del world.routes["/good/app.aci"]
    world.store.remove(image.id)
    with pytest.raises(GantryError) as caught:
        world.fetch()
    if which in ("changed bytes", "a page as signature", "signature of a stranger", "another image"):
        assert caught.value.code != "fetch", "what was refused is told before what was not there"
