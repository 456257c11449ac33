"""Users and groups out of files that strangers wrote."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gantry.pods.rootview import RootView
from gantry.pods.users import AccountError, resolve


def view_of(directory: str, passwd: bytes | None, group: bytes | None) -> RootView:
    etc = Path(directory, "etc")
    etc.mkdir()
    for name, content in (("passwd", passwd), ("group", group)):
        if content is not None:
            (etc / name).write_bytes(content)
    return RootView(directory)


@given(passwd=st.binary(max_size=200), group=st.binary(max_size=200), user=st.text(min_size=1, max_size=8))
def test_any_file_gives_an_identity_or_an_error(passwd: bytes, group: bytes, user: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        view = view_of(name, passwd, group)
        try:
            found = resolve(view, user.replace("\0", "0"), "0")
        except AccountError:
            return
        assert 0 <= found.uid < 2**32 - 1
        assert found.home.startswith("/")


def test_EXE_18_root_without_files(tmp_path: Path) -> None:
    found = resolve(RootView(str(tmp_path)), "root", "root")
    assert found == (0, 0, "root", "/root")


def test_EXE_21_a_group_named_as_the_user_of_a_docker_image(tmp_path: Path) -> None:
    view = view_of(str(tmp_path), b"web:x:7:8::/:/bin/sh\n", b"")
    assert resolve(view, "web", "web", group_may_be_user=True).gid == 7
    with pytest.raises(AccountError, match='group "web" is not in the image'):
        resolve(view, "web", "web")
    with pytest.raises(AccountError, match='group "other"'):
        resolve(view, "web", "other", group_may_be_user=True)


def test_EXE_19_a_missing_file_and_a_link_out(tmp_path: Path) -> None:
    view = view_of(str(tmp_path), b"", b"")
    with pytest.raises(AccountError, match="no such file in the app"):
        resolve(view, "/nowhere", "0")
    (tmp_path / "etc/link").symlink_to("/../../../../etc/passwd")
    assert resolve(view, "/etc/link", "0").uid == (tmp_path / "etc/passwd").stat().st_uid


@pytest.mark.parametrize("value", ["4294967295", "99999999999", "-1", "1.0", "٣"])
def test_numbers_that_are_none(tmp_path: Path, value: str) -> None:
    with pytest.raises(AccountError):
        resolve(RootView(str(tmp_path)), value, "0")


def test_lines_that_are_broken_are_skipped(tmp_path: Path) -> None:
    text = b"a\nb:x\nc:x:no:0:::\n:x:5:5::/:\nweb:x:9:9:\xff:relative:/bin/sh\n"
    found = resolve(view_of(str(tmp_path), text, b"x\ny:x:z:\n"), "web", "3")
    assert found == (9, 3, "web", "/")
