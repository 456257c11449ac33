"""Paths inside an app's file system: nothing that an image contains leads out of it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gantry.pods.rootview import LookupFailedError, RootView

NAMES = ("a", "b", "c")
part = st.sampled_from([*NAMES, "..", ".", "", "x\n"])
paths = st.lists(part, max_size=8).map("/".join)
targets = st.tuples(st.sampled_from(["", "/", "../../../"]), paths).map("".join)


@settings(max_examples=300, deadline=None)
@given(
    directories=st.lists(st.lists(st.sampled_from(NAMES), min_size=1, max_size=3), max_size=4),
    links=st.dictionaries(
        st.lists(st.sampled_from(NAMES), min_size=1, max_size=3).map("/".join), targets, max_size=4
    ),
    asked=paths,
    base=st.sampled_from(["/", "/a", "/a/b"]),
)
def test_TRAP_25_resolution_agrees_with_chroot_and_stays_inside(
    directories: list[list[str]], links: dict[str, str], asked: str, base: str
) -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name, "root")
        root.mkdir()
        Path(name, "a").write_text("outside")
        for words in directories:
            root.joinpath(*words).mkdir(parents=True, exist_ok=True)
        for place, target in links.items():
            path = root / place
            if (
                target
                and "\0" not in target
                and path.parent.is_dir()
                and not path.exists()
                and not path.is_symlink()
            ):
                path.symlink_to(target)
        view = RootView(str(root))
        try:
            found = view.resolve(asked, base=view.resolve(base).path)
        except LookupFailedError:
            return
        assert found.path.startswith("/")
        assert ".." not in found.path.split("/")
        assert found.host is not None
        assert os.path.commonpath([found.host, str(root)]) == str(root)
        if found.status is not None:
            # No component of what was found is a link: the kernel goes the same way.
            assert os.path.realpath(found.host) == os.path.normpath(found.host)


def make(tmp_path: Path) -> RootView:
    (tmp_path / "root/usr/bin").mkdir(parents=True)
    (tmp_path / "root/bin").symlink_to("usr/bin")
    return RootView(str(tmp_path / "root"))


def test_a_loop_of_links_is_an_error(tmp_path: Path) -> None:
    view = make(tmp_path)
    (tmp_path / "root/loop").symlink_to("loop")
    with pytest.raises(LookupFailedError, match="too many symbolic links"):
        view.resolve("/loop/x")


def test_mounts_are_seen_through(tmp_path: Path) -> None:
    view = make(tmp_path)
    (tmp_path / "volume/deep").mkdir(parents=True)
    (tmp_path / "volume/link").symlink_to("/usr")
    view.mount("/mnt", str(tmp_path / "volume"))
    assert view.resolve("/mnt/deep").host == str(tmp_path / "volume/deep")
    assert view.resolve("/mnt/link/bin").path == "/usr/bin"
    assert view.within_mount("/mnt/deep")
    assert not view.within_mount("/mnt2")


def test_kernel_trees_are_unknown(tmp_path: Path) -> None:
    found = make(tmp_path).resolve("/proc/../proc/self")
    assert (found.path, found.host) == ("/proc/self", None)


def test_EXE_13_without_any_path_the_working_directory_is_first(tmp_path: Path) -> None:
    for name in ("work/tool", "bin/tool", "usr/bin/other", "usr/local/bin/none"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(Path("/bin/busybox").read_bytes())
        path.chmod(0o755)
    view = RootView(str(tmp_path))
    assert view.executable("tool", search=None, working_directory="/work") == "/work/tool"
    assert view.executable("tool", search=None, working_directory="/") == "/bin/tool"
    assert view.executable("other", search=None, working_directory="/work") == "/usr/bin/other"
    with pytest.raises(LookupFailedError, match=r"PATH \(none\)"):
        view.executable("none", search=None, working_directory="/work")


@given(head=st.binary(max_size=200))
def test_any_file_can_be_looked_at_for_its_interpreter(head: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name, "x")
        for start in (b"", b"\x7fELF", b"\x7fELF\x02\x01", b"#!", b"#!/"):
            path.write_bytes(start + head)
            path.chmod(0o755)
            try:
                RootView(name).executable("/x", search=None, working_directory="/")
            except LookupFailedError:
                continue
