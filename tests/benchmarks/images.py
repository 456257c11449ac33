"""Images of 20,000 files: packed, checked and laid down, beside tar, pigz, gzip and sha512sum."""

from __future__ import annotations

import json
import os
import random
import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path

from tests.benchmarks.here import Here, quiet, run
from tests.benchmarks.table import Row, in_turns
from tests.support.aci import make_aci
from tests.support.store import put

from gantry.config import Paths
from gantry.images import Store

FILES = 20_000
BYTES = 200_000_000
LISTED = 1000
NAME = "example.com/bench-tree"


def measure(here: Here, rounds: int) -> list[Row]:
    """Rows for building, validating, rendering and listing."""
    place = here.directory
    manifest = place / "tree-manifest"
    manifest.write_text(json.dumps({"acKind": "ImageManifest", "acVersion": "0.8.11", "name": NAME}))
    tree, image, packed = place / "tree/rootfs", place / "tree.aci", place / "tree.tgz"
    make_tree(tree)
    build = here.command("build", f"--manifest={manifest}", "--overwrite", tree, image)
    peer_build = shell(
        f"tar -C {shlex.quote(str(tree.parent))} -c rootfs | pigz > {shlex.quote(str(packed))}"
    )
    building = in_turns({"ours": lambda: quiet(*build), "peer": lambda: quiet(*peer_build)}, rounds)

    peer_check = shell(f"gzip -dc {shlex.quote(str(image))} | sha512sum")
    validate = here.command("image", "validate", image)
    checking = in_turns({"ours": lambda: quiet(*validate), "peer": lambda: quiet(*peer_check)}, rounds)

    here("--insecure-options=image", "fetch", image)
    ours, theirs = place / "laid", place / "untarred"
    lay = here.command("image", "render", "--rootfs-only", NAME, ours)
    untar = (shutil.which("tar") or "/bin/tar", "-C", theirs, "-xf", image)
    # Both to the page cache, then both to the disk: a store's tree must be on the disk before it has a name.
    synced = shell(f"{shlex.join(map(str, untar))} && sync -f {shlex.quote(str(theirs))}")
    rendering = in_turns(
        {"ours": lambda: quiet(*lay), "tar": lambda: quiet(*untar), "synced": lambda: quiet(*synced)},
        rounds,
        before=lambda: fresh(ours, theirs),
    )
    fresh(ours, theirs)
    return [
        row("build 20,000 files : tar | pigz", building, "peer", "<= 1.5"),
        row("validate 200 MB : gzip -d | sha512sum", checking, "peer", "<= 1.2"),
        row("render 20,000 files : tar -x", rendering, "tar", "<= 1.5"),
        row("render 20,000 files : tar -x and sync", rendering, "synced", ""),
        memory_row("validate", validate),
        memory_row("build", build),
        memory_row("render", lay),
        listing(here, rounds),
    ]


def listing(here: Here, rounds: int) -> Row:
    """How long it takes to list a thousand images, from the command to its end."""
    place = here.directory
    store = Store(Paths.make(data=str(place / "listed"), run=str(place / "run")))
    for number in range(LISTED):
        made = make_aci(
            place / "listed.aci", f"example.com/app{number}", version="1.0", files={"n": str(number)}
        )
        put(store, made)
    flags = (f"--dir={place / 'listed'}", *here.flags[1:])
    spent = in_turns({"ours": lambda: quiet(here.program, *flags, "image", "list")}, rounds)["ours"]
    return Row("image list of 1,000 images", f"{spent:.0f} ms", "", "", "< 150 ms")


def make_tree(rootfs: Path) -> None:
    """A tree like a small distribution's: many small files and a few large ones, text and noise."""
    source = random.Random(20_000)
    words = [source.randbytes(source.randint(3, 12)).hex().encode() for _ in range(4000)]
    sizes = [source.lognormvariate(0, 1.6) for _ in range(FILES)]
    scale = BYTES / sum(sizes)
    for number, size in enumerate(sizes):
        directory = rootfs / f"usr/share/d{number % 40:02}/e{number % 797:03}"
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / f"file-{number:05}"
        path.write_bytes(content(source, words, int(size * scale)))
        path.chmod(source.choice((0o644, 0o644, 0o755, 0o600)))
        os.utime(path, (1_700_000_000 + number, 1_700_000_000 + number))


def content(source: random.Random, words: list[bytes], size: int) -> bytes:
    """*size* bytes that compress about as well as a distribution's."""
    noise = source.randbytes(size // 4)
    text = b" ".join(source.choices(words, k=(size - len(noise)) // 16 + 1))
    return (noise + text)[:size].ljust(size, b".")


def fresh(*directories: Path) -> None:
    """Places to unpack to, without what earlier rounds left: ours does not exist, tar's is empty."""
    for directory in directories:
        shutil.rmtree(directory, ignore_errors=True)
    directories[-1].mkdir()
    os.sync()


def shell(line: str) -> tuple[str, ...]:
    """A pipeline as a command."""
    return ("/bin/bash", "-o", "pipefail", "-c", line)


def row(work: str, spent: Mapping[str, float], peer: str, target: str) -> Row:
    """A line of the table."""
    ratio = spent["ours"] / spent[peer]
    return Row(work, f"{spent['ours'] / 1000:.2f} s", f"{spent[peer] / 1000:.2f} s", f"{ratio:.2f}", target)


def memory_row(work: str, command: tuple[str | Path, ...]) -> Row:
    """The largest of the command's processes, by its resident memory at its peak."""
    measured = (
        "import os, resource, sys; status = os.spawnvp(os.P_WAIT, sys.argv[1], sys.argv[1:]); "
        "print(status, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    *_, status, peak = run("/usr/bin/python3", "-c", measured, *command).split()
    if status != "0":
        raise SystemExit(f"bench: {work}: exit {status}")
    return Row(f"{work}: memory of the largest process", f"{int(peak) / 1024:.0f} MB", "", "", "64 MB")
