"""Several processes at one store: one does the work, others wait or find it done; all shown is whole."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support.aci import make_aci
from tests.support.store import paths_in

from gantry.config import Paths
from gantry.errors import BusyError, GantryError, NotFoundError
from gantry.images import Store, export, fetch, render, render_directory
from gantry.images.checking import verify
from gantry.images.pins import USER
from gantry.images.usage import LEFTOVER, usage
from gantry.trust import KeyStore

WORKERS, STEPS = 6, 60
CONTEXT = multiprocessing.get_context("fork")


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Three images: one alone, one that depends on it, one that depends on that."""
    made, below = [], []
    for name in ("base", "middle", "top"):
        image = make_aci(
            tmp_path / f"{name}.aci",
            f"example.com/{name}",
            files={f"{name}/{n}": f"{name} {n}" * 200 for n in range(20)},
            dependencies=below,
        )
        made.append(image.path)
        below = [{"imageName": f"example.com/{name}"}]
    return made


def in_processes(work: Callable[[int], None], count: int) -> None:
    """Run *work* in several processes that start together; fail with what any of them says."""
    start, results = CONTEXT.Barrier(count), CONTEXT.Queue()

    def run(number: int) -> None:
        start.wait(30)
        try:
            work(number)
        except BaseException:  # noqa: BLE001 - told below, whatever it is
            results.put(traceback.format_exc())
        else:
            results.put("")

    workers = [CONTEXT.Process(target=run, args=(number,)) for number in range(count)]
    for worker in workers:
        worker.start()
    told = [results.get(timeout=120) for _ in workers]
    for worker in workers:
        worker.join(30)
    if any(told):
        pytest.fail("".join(told))


def take_in(paths: Paths, file: Path) -> str:
    return str(fetch(Store(paths), KeyStore(paths), str(file), policy="never", insecure=["image"]).image.id)


def check(paths: Paths) -> None:
    """The store shows only what is whole, and a collection leaves nothing."""
    store = Store(paths)
    for image in store.list():
        assert store.find(image.name).id == image.id
        assert all(not verdict.differences for verdict in verify(store, image))
    store.gc(grace_period=0)
    assert [part for part in usage(store).parts if part.kind == LEFTOVER] == []
    for place in ("incoming", "tree-locks"):
        assert os.listdir(store.path(place)) == []


def test_the_same_file_and_the_same_tree_by_many(tmp_path: Path, files: list[Path]) -> None:
    paths = paths_in(tmp_path / "host")

    def work(number: int) -> None:
        for file in files:
            take_in(paths, file)
        tree = render(Store(paths), "example.com/top", ref=f"00000000-0000-4000-8000-{number:012d}")
        assert len(list(Path(tree.rootfs).rglob("*"))) == 63

    in_processes(work, WORKERS)
    store = Store(paths)
    assert len(store.list()) == 3
    [tree] = store.trees()
    assert len(store.refs(tree)) == WORKERS
    check(paths)


def test_everything_at_once(tmp_path: Path, files: list[Path]) -> None:
    """What a process finds gone, because another removed it, is a refusal; nothing else is one."""
    paths = paths_in(tmp_path / "host")
    names = ["example.com/base", "example.com/middle", "example.com/top"]
    done = CONTEXT.Array("i", 12)

    def work(number: int) -> None:
        chance = random.Random(number)
        store = Store(paths)
        uuid = f"00000000-0000-4000-8000-{number:012d}"

        def use() -> None:
            tree = render(store, chance.choice(names), ref=uuid)
            assert os.listdir(tree.rootfs)
            store.drop_ref(tree.id, uuid)

        def lay_out() -> None:
            with tempfile.TemporaryDirectory(dir=tmp_path) as place:
                render_directory(store, chance.choice(names), f"{place}/out")

        def write() -> None:
            with tempfile.TemporaryDirectory(dir=tmp_path) as place:
                export(store, chance.choice(names), f"{place}/out.tar")

        def pin() -> None:
            store.pin(USER, uuid, [store.find(chance.choice(names)).id])
            store.unpin(USER, uuid)

        def look() -> None:
            for image in store.list():
                assert image.size > 0
            store.tree_sizes()
            usage(store)

        actions: list[Callable[[], object]] = [
            lambda: [take_in(paths, file) for file in files],
            use,
            lay_out,
            write,
            pin,
            look,
            lambda: store.remove(chance.choice(names)),
            lambda: store.gc(grace_period=0),
            lambda: verify(store, store.find(chance.choice(names))),
        ]
        for _ in range(STEPS):
            which = chance.randrange(len(actions))
            try:
                actions[which]()
                with done.get_lock():
                    done[which] += 1
            except (NotFoundError, BusyError):
                continue
            except GantryError as error:
                if "is not in the store" not in str(error):
                    raise

    in_processes(work, WORKERS)
    assert all(list(done)[:9]), list(done)
    check(paths)
    assert not [path for path in tmp_path.iterdir() if path.name not in {"host", *(f.name for f in files)}]


def test_processes_that_are_killed_at_work_disturb_nobody(tmp_path: Path, files: list[Path]) -> None:
    paths = paths_in(tmp_path / "host")
    program = (
        "import sys; sys.path[:0] = sys.argv[1].split(':')\n"
        "from gantry.config import Paths; from gantry.images import Store, fetch, render\n"
        "from gantry.trust import KeyStore\n"
        "paths = Paths(*sys.argv[2:6]); print('here', flush=True)\n"
        "while True:\n"
        "    for file in sys.argv[6:]: fetch(Store(paths), KeyStore(paths), file, insecure=['image'])\n"
        "    render(Store(paths), 'example.com/top'); Store(paths).gc(grace_period=0)\n"
    )
    words = [sys.executable, "-c", program, ":".join(sys.path), *map(str, paths[:4]), *map(str, files)]
    chance = random.Random(1)
    for _ in range(8):
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "here\n"
        with pytest.raises(subprocess.TimeoutExpired):
            process.communicate(timeout=chance.random() * 0.2)
        process.kill()
        assert "Traceback" not in process.communicate()[1]
    for file in files:
        take_in(paths, file)
    render(Store(paths), "example.com/top")
    check(paths)
    shutil.rmtree(tmp_path / "host")
