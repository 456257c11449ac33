"""Dependencies and pathWhitelist (DEP-01 ... DEP-30, TRAP-05, TRAP-08, TRAP-09)."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.support.aci import (
    Entry,
    directory,
    file,
    hardlink,
    image_entries,
    make_aci,
    make_raw,
    manifest,
    symlink,
)
from tests.support.store import paths_in, put

from gantry.appc.errors import ManifestError
from gantry.images import (
    DependencyError,
    DigestMismatchError,
    ImageNotFoundError,
    Limits,
    Store,
    Tree,
    render,
)
from gantry.images.dependencies import order
from gantry.images.records import Image
from gantry.images.rendering import graph, tree_id


class Kitchen:
    """Makes images in a store and renders them."""

    def __init__(self, tmp_path: Path, limits: Limits | None = None) -> None:
        self.tmp_path = tmp_path
        self.store = Store(paths_in(tmp_path), limits=limits or Limits())

    def image(
        self,
        name: str,
        files: dict[str, str] | None = None,
        tree: list[Entry] | None = None,
        on: list[str | dict[str, Any]] | None = None,
        white: list[str] | None = None,
        **fields: Any,
    ) -> Image:
        dependencies = [{"imageName": f"example.com/{d}"} if isinstance(d, str) else d for d in (on or [])]
        body = manifest(
            f"example.com/{name}",
            dependencies=dependencies,
            path_whitelist=white,
            labels=fields.pop("labels", None),
            extra=fields,
        )
        path = self.tmp_path / f"{os.urandom(4).hex()}.aci"
        return put(self.store, make_raw(path, image_entries(body, files, tree or [])))

    def tree(self, image: Image) -> Tree:
        return render(self.store, image.id)

    def result(self, image: Image) -> dict[str, str]:
        """Path -> content of files, and of everything else its kind."""
        rootfs = Path(self.tree(image).rootfs)
        found = {}
        for path in sorted(rootfs.rglob("*")):
            info = path.lstat()
            if stat.S_ISREG(info.st_mode):
                text = path.read_text()
            elif stat.S_ISLNK(info.st_mode):
                text = f"-> {os.readlink(path)}"
            else:
                text = "/"
            found[str(path.relative_to(rootfs))] = text
        return found

    def names(self, image: Image) -> str:
        return " ".join(
            node.image.name.removeprefix("example.com/") for node in order(graph(self.store, image))
        )


@pytest.fixture
def kitchen(tmp_path: Path) -> Kitchen:
    return Kitchen(tmp_path)


# -- order --------------------------------------------------------------------------------------------


def test_DEP_08_depth_first_in_list_order(kitchen: Kitchen) -> None:
    kitchen.image("d")
    kitchen.image("b")
    kitchen.image("c", on=["d"])
    a = kitchen.image("a", on=["b", "c"])
    assert kitchen.names(a) == "b d c a"


def test_DEP_12_an_image_reached_twice_is_applied_twice(kitchen: Kitchen) -> None:
    kitchen.image("d", {"f": "d", "only-d": "d"})
    kitchen.image("b", {"f": "b"}, on=["d"])
    kitchen.image("c", {"g": "c"}, on=["d"])
    a = kitchen.image("a", on=["b", "c"])
    assert kitchen.names(a) == "d b d c a"
    # The second D overwrites what B put there.
    assert kitchen.result(a) == {"f": "d", "g": "c", "only-d": "d"}


def test_DEP_11_later_replaces_earlier(kitchen: Kitchen) -> None:
    kitchen.image("b", {"f": "b", "b": "b"})
    a = kitchen.image("a", {"f": "a"}, on=["b"])
    assert kitchen.result(a) == {"b": "b", "f": "a"}


def test_DEP_09_an_empty_list_equals_absent(kitchen: Kitchen) -> None:
    a = kitchen.image("a", {"f": "a"}, dependencies=[])
    assert kitchen.names(a) == "a"
    assert kitchen.result(a) == {"f": "a"}


def test_DEP_10_the_graph_may_join_again(kitchen: Kitchen) -> None:
    kitchen.image("d", {"d": "d"})
    kitchen.image("b", on=["d"])
    kitchen.image("c", on=["d"])
    assert kitchen.result(kitchen.image("a", on=["b", "c", "d"])) == {"d": "d"}


@pytest.mark.parametrize("length", [1, 2, 5])
def test_DEP_10_a_cycle_is_refused(kitchen: Kitchen, length: int) -> None:
    images = [kitchen.image(f"n{i}", on=[f"n{(i + 1) % length}"]) for i in range(length)]
    with pytest.raises(DependencyError, match="cycle"):
        kitchen.tree(images[0])


def test_TRAP_05_the_number_of_passes_is_bounded(kitchen: Kitchen) -> None:
    kitchen.image("n0", {"f": "0"})
    for level in range(1, 40):
        top = kitchen.image(f"n{level}", on=[f"n{level - 1}"] * 2)
    with pytest.raises(DependencyError, match="passes"):
        kitchen.tree(top)


def test_TRAP_33_the_nesting_is_bounded(tmp_path: Path) -> None:
    kitchen = Kitchen(tmp_path, Limits(nesting=10))
    kitchen.image("n0")
    for level in range(1, 12):
        top = kitchen.image(f"n{level}", on=[f"n{level - 1}"])
    with pytest.raises(DependencyError, match="nesting"):
        kitchen.tree(top)


# -- matching -----------------------------------------------------------------------------------------


def test_DEP_02_another_id_is_fatal(kitchen: Kitchen) -> None:
    kitchen.image("b")
    a = kitchen.image("a", on=[{"imageName": "example.com/b", "imageID": "sha512-" + "ab" * 64}])
    with pytest.raises(DependencyError):
        kitchen.tree(a)


def test_DEP_02_the_right_id_among_several_is_taken(kitchen: Kitchen) -> None:
    old = kitchen.image("b", {"f": "old"})
    kitchen.image("b", {"f": "new"})
    pinned = {"imageName": "example.com/b", "imageID": old.id}
    assert kitchen.result(kitchen.image("a", on=[pinned])) == {"f": "old"}
    half = {"imageName": "example.com/b", "imageID": old.id[: 7 + 64]}  # SIG-04
    assert kitchen.result(kitchen.image("a2", on=[half])) == {"f": "old"}
    assert kitchen.result(kitchen.image("a3", on=["b"])) == {"f": "new"}


def test_DEP_05_an_id_under_another_name_does_not_count(kitchen: Kitchen) -> None:
    other = kitchen.image("other")
    a = kitchen.image("a", on=[{"imageName": "example.com/b", "imageID": other.id}])
    with pytest.raises(ImageNotFoundError):
        kitchen.tree(a)


def test_DEP_06_labels_select_and_missing_ones_match_anything(kitchen: Kitchen) -> None:
    kitchen.image("b", {"f": "1"}, labels={"version": "1"})
    kitchen.image("b", {"f": "2"}, labels={"version": "2", "color": "red"})
    wanted = {"imageName": "example.com/b", "labels": [{"name": "version", "value": "1"}]}
    assert kitchen.result(kitchen.image("a", on=[wanted])) == {"f": "1"}
    assert kitchen.result(kitchen.image("a2", on=["b"])) == {"f": "2"}
    none = {"imageName": "example.com/b", "labels": [{"name": "color", "value": "blue"}]}
    with pytest.raises(ImageNotFoundError):
        kitchen.tree(kitchen.image("a3", on=[none]))


# -- laying over --------------------------------------------------------------------------------------


def test_DEP_14_a_symlink_to_a_directory_is_replaced_not_followed(kitchen: Kitchen) -> None:
    kitchen.image("b", {"usr/lib/old": "b"}, [symlink("lib", "usr/lib")])
    a = kitchen.image("a", {"lib/x": "a"}, on=["b"])
    assert kitchen.result(a) == {
        "lib": "/",
        "lib/x": "a",
        "usr": "/",
        "usr/lib": "/",
        "usr/lib/old": "b",
    }
    # TRAP-09: that deserves a warning.
    assert any("symbolic link lib" in note for note in kitchen.tree(a).notes)


def test_TRAP_09_who_builds_or_renders_is_told(tmp_path: Path) -> None:
    (tmp_path / "root/lib").mkdir(parents=True)
    (tmp_path / "root/lib/x").write_text("x")
    (tmp_path / "manifest").write_bytes(
        manifest("example.com/a", dependencies=[{"imageName": "example.com/b"}])
    )
    make_aci(tmp_path / "b.aci", "example.com/b", tree=[directory("usr/lib"), symlink("lib", "usr/lib")])
    program = "import sys; from gantry.cli import main; sys.exit(main())"

    def gantry(*words: str) -> str:
        command = [sys.executable, "-c", program, f"--dir={tmp_path}/data", *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stderr

    assert "warning: the image has entries below lib" in gantry(
        "build", "--manifest=manifest", "root", "a.aci"
    )
    gantry("--insecure-options=image", "fetch", "--pull-policy=new", "./b.aci", "./a.aci")
    assert "warning: the symbolic link lib -> usr/lib is replaced" in gantry(
        "image", "render", "example.com/a", "out"
    )
    assert "warning" not in gantry("image", "extract", "example.com/a", "raw")


def test_DEP_14_no_write_goes_through_a_symlink_out_of_the_tree(kitchen: Kitchen, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    kitchen.image("b", tree=[symlink("d", str(outside)), symlink("up", "../../../../..")])
    a = kitchen.image("a", {"d/f": "a", "up/tmp/f": "a"}, on=["b"])
    assert kitchen.result(a)["d/f"] == "a"
    assert list(outside.iterdir()) == []


def test_DEP_15_directory_over_directory_merges_and_the_later_properties_count(kitchen: Kitchen) -> None:
    kitchen.image("b", tree=[directory("d", 0o700, uid=1, mtime=1000), file("d/b", "b")])
    a = kitchen.image("a", tree=[directory("d", 0o751, uid=2, mtime=2000), file("d/a", "a")], on=["b"])
    assert kitchen.result(a) == {"d": "/", "d/a": "a", "d/b": "b"}
    info = Path(kitchen.tree(a).rootfs, "d").stat()
    assert (stat.S_IMODE(info.st_mode), info.st_mtime) == (0o751, 2000)
    if os.geteuid() == 0:
        assert info.st_uid == 2


def test_DEP_15_a_directory_that_the_later_image_only_implies_keeps_its_properties(kitchen: Kitchen) -> None:
    kitchen.image("b", tree=[directory("d", 0o700, mtime=1000), file("d/b", "b")])
    body = manifest("example.com/a", dependencies=[{"imageName": "example.com/b"}])
    made = make_raw(kitchen.tmp_path / "a.aci", [file("rootfs/d/a", "a"), file("manifest", body)])
    a = put(kitchen.store, made)
    info = Path(kitchen.tree(a).rootfs, "d").stat()
    assert (stat.S_IMODE(info.st_mode), info.st_mtime) == (0o700, 1000)


def test_DEP_16_a_file_over_a_directory_removes_the_tree(kitchen: Kitchen) -> None:
    kitchen.image("b", {"d/x/y": "b", "d/z": "b"})
    assert kitchen.result(kitchen.image("a", {"d": "a"}, on=["b"])) == {"d": "a"}


def test_DEP_17_a_directory_over_a_file_replaces_it(kitchen: Kitchen) -> None:
    kitchen.image("b", {"d": "b"})
    assert kitchen.result(kitchen.image("a", {"d/x": "a"}, on=["b"])) == {"d": "/", "d/x": "a"}


def test_case_11_a_file_where_a_later_image_has_a_tree(kitchen: Kitchen) -> None:
    kitchen.image("b", {"a/b": "file"})
    assert kitchen.result(kitchen.image("a", {"a/b/c/d": "deep"}, on=["b"])) == {
        "a": "/",
        "a/b": "/",
        "a/b/c": "/",
        "a/b/c/d": "deep",
    }


def test_TRAP_10_whiteouts_are_ordinary_files(kitchen: Kitchen) -> None:
    kitchen.image("b", {"f": "b"})
    assert kitchen.result(kitchen.image("a", {".wh.f": ""}, on=["b"])) == {".wh.f": "", "f": "b"}


def test_case_8_a_hard_link_survives_its_first_name(kitchen: Kitchen) -> None:
    kitchen.image("b", tree=[file("x", "content", 0o751), hardlink("y", "x")])
    a = kitchen.image("a", {"x": "new"}, on=["b"])
    assert kitchen.result(a) == {"x": "new", "y": "content"}
    info = Path(kitchen.tree(a).rootfs, "y").stat()
    assert info.st_nlink == 1
    assert stat.S_IMODE(info.st_mode) == 0o751


def test_TRAP_08_a_hard_link_whose_target_is_not_listed(kitchen: Kitchen) -> None:
    a = kitchen.image(
        "a", tree=[file("x", "content"), hardlink("y", "x"), hardlink("z", "x")], white=["/y", "/z"]
    )
    assert kitchen.result(a) == {"y": "content", "z": "content"}
    rootfs = Path(kitchen.tree(a).rootfs)
    assert (rootfs / "y").stat().st_ino == (rootfs / "z").stat().st_ino


def test_hard_links_of_different_passes_are_different_files(kitchen: Kitchen) -> None:
    kitchen.image("d", tree=[file("x", "d"), hardlink("y", "x")])
    kitchen.image("b", on=["d"])
    kitchen.image("c", on=["d"], white=["/x"])
    a = kitchen.image("a", on=["b", "c"])
    assert kitchen.result(a) == {"x": "d", "y": "d"}
    rootfs = Path(kitchen.tree(a).rootfs)
    assert (rootfs / "x").stat().st_ino != (rootfs / "y").stat().st_ino


# -- whitelists ---------------------------------------------------------------------------------------


def test_DEP_18_what_is_not_listed_goes_wherever_it_comes_from(kitchen: Kitchen) -> None:
    kitchen.image("b", {"keep/b": "b", "drop/b": "b"})
    a = kitchen.image("a", {"keep/a": "a", "other": "a"}, on=["b"], white=["/keep/a", "/keep/b"])
    assert kitchen.result(a) == {"keep": "/", "keep/a": "a", "keep/b": "b"}


def test_DEP_18_an_empty_list_equals_absent(kitchen: Kitchen) -> None:
    assert kitchen.result(kitchen.image("a", {"f": "a"}, white=[])) == {"f": "a"}


def test_DEP_19_every_list_on_the_way_has_to_agree(kitchen: Kitchen) -> None:
    kitchen.image("d", {"1": "d", "2": "d", "3": "d", "4": "d"}, white=["/1", "/2", "/3"])
    kitchen.image("c", on=["d"], white=["/2", "/3", "/4"])
    kitchen.image("b", on=["c"])
    a = kitchen.image("a", on=["b"], white=["/3", "/4", "/1"])
    assert kitchen.result(a) == {"3": "d"}


def test_DEP_20_DEP_21_a_list_does_not_touch_siblings(kitchen: Kitchen) -> None:
    kitchen.image("b", {"b1": "b", "etc/b": "b"}, [directory("priv", 0o700)])
    kitchen.image("c", {"c1": "c", "c2": "c", "etc/c": "c"}, [directory("priv", 0o777)], white=["/c1"])
    a = kitchen.image("a", on=["b", "c"])
    assert kitchen.result(a) == {"b1": "b", "c1": "c", "etc": "/", "etc/b": "b", "priv": "/"}
    assert stat.S_IMODE(Path(kitchen.tree(a).rootfs, "priv").stat().st_mode) == 0o700


def test_DEP_13_the_passes_of_one_image_may_differ(kitchen: Kitchen) -> None:
    kitchen.image("d", {"1": "d", "2": "d"})
    kitchen.image("b", {"2": "b"}, on=["d"], white=["/1", "/2"])
    kitchen.image("c", on=["d"], white=["/1"])
    assert kitchen.result(kitchen.image("a", on=["b", "c"])) == {"1": "d", "2": "b"}


def test_DEP_22_a_listed_directory_is_kept_without_its_content(kitchen: Kitchen) -> None:
    a = kitchen.image("a", {"opt/x": "1", "etc/y": "1"}, white=["/opt/", "/etc/y"])
    assert kitchen.result(a) == {"etc": "/", "etc/y": "1", "opt": "/"}


def test_MAN_36_a_path_without_a_leading_slash_is_read_as_one(kitchen: Kitchen) -> None:
    assert kitchen.result(kitchen.image("a", {"f": "1", "g": "1"}, white=["f"])) == {"f": "1"}


def test_DEP_23_an_unlisted_directory_goes_unless_something_below_it_stays(kitchen: Kitchen) -> None:
    a = kitchen.image("a", {"a/b/c": "1", "x/y/z": "1"}, [directory("empty")], white=["/a/b/c"])
    assert kitchen.result(a) == {"a": "/", "a/b": "/", "a/b/c": "1"}


def test_DEP_24_parents_of_kept_paths_keep_their_properties(kitchen: Kitchen) -> None:
    kitchen.image("b", tree=[directory("d", 0o711, mtime=1234), file("d/f", "b"), file("d/g", "b")])
    a = kitchen.image("a", on=["b"], white=["/d/f"])
    info = Path(kitchen.tree(a).rootfs, "d").stat()
    assert (stat.S_IMODE(info.st_mode), info.st_mtime) == (0o711, 1234)


def test_DEP_24_the_upper_image_may_change_a_parent_that_only_a_dependency_needs(kitchen: Kitchen) -> None:
    kitchen.image("b", tree=[directory("d", 0o700), file("d/f", "b")])
    a = kitchen.image("a", tree=[directory("d", 0o755)], on=["b"], white=["/d/f"])
    assert stat.S_IMODE(Path(kitchen.tree(a).rootfs, "d").stat().st_mode) == 0o755


def test_DEP_25_the_root_directory_survives_with_its_mode(kitchen: Kitchen) -> None:
    body = manifest("example.com/a", path_whitelist=["/nothing"])
    made = make_raw(
        kitchen.tmp_path / "a.aci",
        [directory("rootfs", 0o711), file("rootfs/f", "1"), file("manifest", body)],
    )
    tree = kitchen.tree(put(kitchen.store, made))
    assert os.listdir(tree.rootfs) == []
    assert stat.S_IMODE(os.stat(tree.rootfs).st_mode) == 0o711


def test_DEP_26_manifests_never_land_in_the_result(kitchen: Kitchen) -> None:
    kitchen.image("b", {"f": "b"})
    assert "manifest" not in kitchen.result(kitchen.image("a", on=["b"]))


def test_a_filtered_file_does_not_replace_a_kept_directory(kitchen: Kitchen) -> None:
    kitchen.image("b", {"x/y": "b"})
    a = kitchen.image("a", {"x": "a"}, on=["b"], white=["/x/y"])
    assert kitchen.result(a) == {"x": "/", "x/y": "b"}


# -- integrity ----------------------------------------------------------------------------------------


def test_DEP_29_bytes_are_hashed_again(kitchen: Kitchen) -> None:
    b = kitchen.image("b", {"f": "b"})
    a = kitchen.image("a", {"g": "a"}, on=["b"])
    other = make_raw(kitchen.tmp_path / "other.aci", image_entries(manifest("example.com/b"), {"f": "evil"}))
    Path(b.path).write_bytes(other.data)
    with pytest.raises(DigestMismatchError):
        kitchen.tree(a)
    with pytest.raises(DigestMismatchError):
        kitchen.tree(b)
    assert kitchen.store.trees() == {}
    assert [name for name in os.listdir(kitchen.store.path("tree")) if not name.startswith("tree-")] == []


def test_the_tree_id_follows_the_list_of_images(kitchen: Kitchen) -> None:
    kitchen.image("b", {"f": "1"})
    a = kitchen.image("a", on=["b"])
    one = kitchen.tree(a)
    assert kitchen.tree(a) == one
    kitchen.image("b", {"f": "2"})
    two = kitchen.tree(a)
    assert one.id != two.id
    assert Path(one.rootfs, "f").read_text() == "1"
    assert Path(two.rootfs, "f").read_text() == "2"


def test_DEP_30_MAN_10_the_choice_among_local_images(kitchen: Kitchen) -> None:
    first = kitchen.image("a", {"f": "1"}, labels={"version": "1"})
    second = kitchen.image("a", {"f": "2"}, labels={"version": "2"})
    assert kitchen.store.find("example.com/a").id == second.id
    assert kitchen.store.find("example.com/a:1").id == first.id
    with pytest.raises(ImageNotFoundError):
        kitchen.store.find("example.com/a:3")
    latest = put(kitchen.store, Path(first.path), latest=True)
    newest = kitchen.image("a", {"f": "3"}, labels={"version": "3"})
    assert kitchen.store.find("example.com/a").id == latest.id != newest.id


def test_DEP_03_labels_of_a_dependency_obey_the_label_rules(kitchen: Kitchen) -> None:
    twice = [{"name": "version", "value": "1"}, {"name": "version", "value": "1"}]
    with pytest.raises(ManifestError, match="MAN-08"):
        kitchen.image("a", on=[{"imageName": "example.com/b", "labels": twice}])
    with pytest.raises(ManifestError, match="MAN-09"):
        kitchen.image("a", on=[{"imageName": "example.com/b", "labels": [{"name": "name", "value": "x"}]}])
    kitchen.image("b", {"f": "any"})
    assert kitchen.result(kitchen.image("a", on=["b"])) == {"f": "any"}


def test_DEP_07_rendering_starts_in_an_empty_directory(kitchen: Kitchen) -> None:
    image = kitchen.image("a", {"f": "1"})
    # What a killed process may have left under the very name that the tree will get.
    kitchen.store.ensure()
    ident = tree_id([str(image.id)], privileged=os.geteuid() == 0)
    stale = Path(kitchen.store.path("tree", ident, "rootfs"))
    stale.mkdir(parents=True)
    (stale / "stale").write_text("x")
    assert kitchen.result(image) == {"f": "1"}


def test_DEP_28_the_same_images_share_one_tree(kitchen: Kitchen) -> None:
    kitchen.image("b", {"f": "1"})
    image = kitchen.image("a", {"g": "2"}, on=["b"])
    first = kitchen.tree(image)
    inode = os.stat(first.rootfs).st_ino
    assert kitchen.tree(image) == first
    assert os.stat(first.rootfs).st_ino == inode
    assert list(kitchen.store.trees()) == [first.id]
