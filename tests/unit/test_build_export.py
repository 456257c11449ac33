"""An image with its dependencies as one image."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from tests.support.aci import file, hardlink, image_entries, make_raw, manifest, symlink
from tests.support.store import paths_in, put

from gantry.build import BuildError
from gantry.build.export import export_rendered
from gantry.errors import UsageError
from gantry.images import Store, render
from gantry.images.records import Image

root = pytest.mark.skipif(os.geteuid() != 0, reason="keeps owners")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(paths_in(tmp_path))


@pytest.fixture
def image(store: Store, tmp_path: Path) -> Image:
    base = [file("etc/motd", "base", uid=5), file("etc/other", "x"), symlink("lib", "usr/lib")]
    put(store, make_raw(tmp_path / "base.aci", image_entries(manifest("example.com/base"), tree=base)))
    top = manifest(
        version="1",
        exec_=["/bin/x"],
        dependencies=[{"imageName": "example.com/base"}],
        path_whitelist=["/etc/motd", "/lib", "/bin/x", "/bin/y"],
        extra={"x-unknown": {"kept": 1.0}},
    )
    own = [file("bin/x", "x", mode=0o4755), hardlink("bin/y", "bin/x")]
    return put(store, make_raw(tmp_path / "app.aci", image_entries(top, tree=own)))


def described(rootfs: str) -> dict[str, Any]:
    found = {}
    for path in sorted(Path(rootfs).rglob("*")):
        info = path.lstat()
        content = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else ""
        numbers = (info.st_mode, info.st_uid, info.st_gid, info.st_mtime_ns, info.st_nlink)
        found[str(path.relative_to(rootfs))] = (numbers, content)
    return found


@root
def test_rendering_the_result_gives_the_same_tree(store: Store, image: Image, tmp_path: Path) -> None:
    built = export_rendered(store, image.id, str(tmp_path / "whole.aci"))
    expected = described(render(store, image.id).rootfs)
    assert set(expected) == {"etc", "etc/motd", "lib", "bin", "bin/x", "bin/y"}
    elsewhere = Store(paths_in(tmp_path / "elsewhere"))
    whole = put(elsewhere, tmp_path / "whole.aci")
    assert whole.id == built.image_id != image.id
    assert described(render(elsewhere, whole.id).rootfs) == expected
    kept = json.loads(elsewhere.manifest_bytes(whole.id))
    before = json.loads(store.manifest_bytes(image.id))
    del before["dependencies"], before["pathWhitelist"]
    assert kept == before


@root
def test_the_same_tree_gives_the_same_image(store: Store, image: Image, tmp_path: Path) -> None:
    one = export_rendered(store, image.id, str(tmp_path / "one.aci"))
    two = export_rendered(store, image.id, str(tmp_path / "two.aci"))
    assert one.image_id == two.image_id


@root
def test_what_is_refused_leaves_nothing(store: Store, image: Image, tmp_path: Path) -> None:
    taken = tmp_path / "taken.aci"
    taken.write_text("mine")
    with pytest.raises(UsageError, match="exists"):
        export_rendered(store, image.id, str(taken))
    with pytest.raises(UsageError, match=r"\.aci"):
        export_rendered(store, image.id, str(tmp_path / "whole.tar"))
    assert taken.read_text() == "mine"
    assert not (tmp_path / "whole.tar").exists()


def test_a_tree_that_lost_something_is_not_exported(
    store: Store, image: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = render(store, image.id)._replace(downgrades={"owners": 3})
    monkeypatch.setattr("gantry.build.export.render", lambda *_: tree)
    with pytest.raises(BuildError, match="owners were lost"):
        export_rendered(store, image.id, str(tmp_path / "whole.aci"))
    assert not (tmp_path / "whole.aci").exists()
