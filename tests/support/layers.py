"""Random images with dependencies and whitelists, and the obvious way of laying them over one another."""

from __future__ import annotations

import os
import random
import shutil
import stat
import tarfile
from pathlib import Path

from tests.support.aci import Entry, directory, file, make_raw, manifest, symlink
from tests.support.store import paths_in, put

from gantry.images import Store, render

Tree = dict[str, str]


def _random_image(dice: random.Random, label: str) -> Tree:
    """Path -> ``/`` for a directory, ``->`` for a link, else content; parents are listed, too."""
    tree: Tree = {}
    for _ in range(dice.randint(0, 5)):
        parts = [dice.choice("abc") for _ in range(dice.randint(1, 3))]
        path = "/".join(parts)
        above = ["/".join(parts[:n]) for n in range(1, len(parts))]
        if path in tree or any(tree.get(each, "/") != "/" for each in above):
            continue
        if any(other.startswith(path + "/") for other in tree):
            continue
        for each in above:
            tree[each] = "/"
        tree[path] = dice.choice(["/", f"file {label}", "-> a"])
    return tree


def _write(tree: Tree) -> list[Entry]:
    made = [directory("rootfs")]
    for path in sorted(tree):
        value = tree[path]
        if value == "/":
            made.append(directory(f"rootfs/{path}"))
        elif value.startswith("-> "):
            made.append(symlink(f"rootfs/{path}", value[3:]))
        else:
            made.append(file(f"rootfs/{path}", value))
    return made


def _filter(passes: list[Tree], whitelist: list[str]) -> list[Tree]:
    if not whitelist:
        return passes
    needed = {
        "/".join(path.split("/")[:n])
        for tree in passes
        for path in tree
        if path in whitelist
        for n in range(1, path.count("/") + 1)
    }
    return [
        {path: v for path, v in tree.items() if path in whitelist or (v == "/" and path in needed)}
        for tree in passes
    ]


def _lay(passes: list[Tree]) -> Tree:
    result: Tree = {}
    for tree in passes:
        for path in sorted(tree):
            parts = path.split("/")
            for n in range(1, len(parts)):
                above = "/".join(parts[:n])
                if result.get(above) != "/":
                    result[above] = "/"
            if tree[path] != "/":
                for other in [each for each in result if each.startswith(path + "/")]:
                    del result[other]
            result[path] = tree[path]
    return result


def _seen(rootfs: str) -> Tree:
    found: Tree = {}
    for path in Path(rootfs).rglob("*"):
        mode = path.lstat().st_mode
        name = str(path.relative_to(rootfs))
        if stat.S_ISLNK(mode):
            found[name] = f"-> {os.readlink(path)}"
        else:
            found[name] = "/" if stat.S_ISDIR(mode) else path.read_text()
    return found


def check_random_layers(dice: random.Random, directory_: Path) -> None:
    """Make a random graph of images, render its top, compare with the model."""
    work = directory_ / f"{dice.getrandbits(64):x}"
    work.mkdir()
    store = Store(paths_in(work))
    models: list[list[Tree]] = []
    ident = ""
    for number in range(dice.randint(2, 5)):
        below = [dice.randrange(number) for _ in range(dice.randint(0, 2))] if number else []
        own = _random_image(dice, str(number))
        paths = [f"{x}{y}{z}" for x in "abc" for y in ("", "/a", "/b") for z in ("", "/a", "/c")]
        white = dice.sample(paths, dice.randint(1, 12)) if dice.random() < 0.5 else []
        passes = [each for index in below for each in models[index]]
        models.append(_filter([*passes, own], white))
        body = manifest(
            f"example.com/n{number}",
            dependencies=[{"imageName": f"example.com/n{index}"} for index in below],
            path_whitelist=[f"/{path}" for path in white],
        )
        entries = [*_write(own), file("manifest", body)]
        ident = put(store, make_raw(work / f"{number}.aci", entries)).id
    seen = _seen(render(store, ident).rootfs)
    assert seen == _lay(models[-1]), (models, tarfile.__name__)
    shutil.rmtree(work)
