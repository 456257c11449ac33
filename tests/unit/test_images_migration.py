"""A store of an older format is brought forward, whatever interrupts that; a newer one is refused."""

from __future__ import annotations

import multiprocessing
import os
import shutil
from pathlib import Path

import pytest
from tests.support.store import paths_in, put_new

from gantry.config import Paths
from gantry.errors import HostError
from gantry.images import Store, StoreFormatError, migration
from gantry.images.pins import Pin


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(paths_in(tmp_path))


def make_old(store: Store, pins: dict[str, str]) -> None:
    """What the first format was: pins without kinds."""
    for name, image_id in pins.items():
        Path(store.path("pins", name)).write_text(f"{image_id}\n")
    Path(store.path("format")).write_bytes(b"gantry-images 1\n")


def test_pins_of_the_first_format_become_those_of_named_pods(store: Store, tmp_path: Path) -> None:
    image = put_new(store, tmp_path)
    make_old(store, {"web": image.id, "pod": image.id, "set": image.id})
    opened = Store(store.paths)
    assert opened.pins() == [Pin("pod", name, [image.id]) for name in ("pod", "set", "web")]
    assert Path(store.path("format")).read_bytes() == b"gantry-images 2\n"
    assert opened.gc(grace_period=-1).images == []
    assert opened.find(image.id) == image


class KilledError(BaseException):
    """The process was killed here."""


def test_it_may_be_killed_at_any_step(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = put_new(store, tmp_path)
    names = ["a", "b", "c"]
    make_old(store, dict.fromkeys(names, image.id))
    calls = ("rename", "pwrite", "fsync")
    originals = {name: getattr(os, name) for name in calls}
    for after in range(12):
        left = [after]

        def stub(name: str, left: list[int] = left) -> object:
            def call(*args: object) -> object:
                if left[0] == 0:
                    raise KilledError
                left[0] -= 1
                return originals[name](*args)

            return call

        root = tmp_path / f"copy{after}/data"
        shutil.copytree(store.paths.data, root)
        paths = store.paths._replace(data=str(root))
        with monkeypatch.context() as patched:
            for name in calls:
                patched.setattr(os, name, stub(name))
            try:
                Store(paths)
                finished = True
            except KilledError:
                finished = False
        opened = Store(paths)
        assert opened.pins() == [Pin("pod", name, [image.id]) for name in names]
    assert finished


def open_store(paths: Paths, results: multiprocessing.Queue[int]) -> None:
    results.put(len(Store(paths).pins()))


def test_of_many_processes_one_works_and_the_others_wait(store: Store, tmp_path: Path) -> None:
    image = put_new(store, tmp_path)
    make_old(store, {f"p{n}": image.id for n in range(200)})
    context = multiprocessing.get_context("fork")
    results: multiprocessing.Queue[int] = context.Queue()
    workers = [context.Process(target=open_store, args=(store.paths, results)) for _ in range(8)]
    for worker in workers:
        worker.start()
    found = [results.get(timeout=30) for _ in workers]
    for worker in workers:
        worker.join(30)
    assert found == [200] * 8


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"gantry-images 3\n", '"gantry-images 3"; this version of gantry knows 2 and older'),
        (b"gantry-images 0\n", "gantry-images 0"),
        (b"gantry-images 02\n", "gantry-images 02"),
        (b"rkt 1\n", "rkt 1"),
        (b"", "no format"),
        (b"\xff" * 300, "\ufffd"),
    ],
)
def test_what_this_version_does_not_know_is_refused(
    store: Store, tmp_path: Path, content: bytes, told: str
) -> None:
    put_new(store, tmp_path)
    Path(store.path("format")).write_bytes(content)
    with pytest.raises(StoreFormatError) as error:
        Store(store.paths)
    assert told in str(error.value)
    assert "\n" not in str(error.value)
    assert Path(store.path("format")).read_bytes() == content


def test_who_may_not_write_is_told_what_to_do(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_new(store, tmp_path)
    make_old(store, {})

    def refuse(*_args: object, **_more: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(migration, "locked", refuse)
    with pytest.raises(HostError, match="has the format 1, and this version of gantry the format 2") as error:
        Store(store.paths)
    assert "become root" in str(error.value.hint)


def test_every_older_format_has_a_step() -> None:
    assert sorted(migration._STEPS) == list(range(1, migration.CURRENT))
