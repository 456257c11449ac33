"""Bounds on images are settings: what the files say counts, and malformed ones are refused in one line."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.hostile.attacks import directory, gnu, image, pax, raw
from tests.support.aci import compress, file, make_aci, manifest, tar_bytes
from tests.support.store import paths_in, put, put_new

from gantry.config import SettingsError, settings
from gantry.errors import GantryError
from gantry.images import Limits, Store, render
from gantry.images.errors import DependencyError, LimitError
from gantry.images.limits import DEFAULT_LIMITS, configured
from gantry.images.validation import examine

_MAIN = "import sys; from gantry.cli import main; sys.exit(main())"
HEADER = {"gantryKind": "limits", "gantryVersion": "v1"}


def write(top: Path, layer: str, name: str, content: object) -> Path:
    place = top / layer / "limits.d"
    place.mkdir(parents=True, exist_ok=True)
    path = place / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_TRAP_33_without_files_the_defaults_count(tmp_path: Path) -> None:
    assert configured(paths_in(tmp_path)) == DEFAULT_LIMITS


def test_TRAP_33_local_beats_system_field_by_field(tmp_path: Path) -> None:
    write(tmp_path, "system", "a.json", {**HEADER, "entries": 5, "depth": 6})
    write(tmp_path, "system", "b.json", {**HEADER, "reserve": 0})
    write(tmp_path, "local", "a.json", {**HEADER, "entries": 7})
    found = configured(paths_in(tmp_path))
    assert found == DEFAULT_LIMITS._replace(entries=7, depth=6, reserve=0)


def test_only_regular_json_files_directly_inside_count(tmp_path: Path) -> None:
    elsewhere = write(tmp_path, "elsewhere", "a.json", {**HEADER, "entries": 5})
    place = write(tmp_path, "local", "note.txt", "nonsense").parent
    (place / "link.json").symlink_to(elsewhere)
    (place / "sub.json").mkdir()
    assert settings(paths_in(tmp_path), "limits") == {}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "failed to parse"),
        ("[" * 100_000, "failed to parse"),
        ("[]", "no JSON object"),
        (b"\xff\xfe".decode("latin-1"), "failed to parse"),
        ({"gantryVersion": "v1"}, "no gantryKind specified"),
        ({"gantryKind": "limits"}, "no gantryVersion specified"),
        ({**HEADER, "gantryKind": "auth"}, 'has the gantryKind "auth"'),
        ({**HEADER, "gantryVersion": "v2"}, 'has the gantryVersion "v2"'),
        ({**HEADER, "entires": 5}, 'sets "entires", which is no limit'),
        ({**HEADER, "entries": "5"}, '"entries" in .* has to be a whole number from 1 to'),
        ({**HEADER, "entries": 5.5}, "has to be a whole number"),
        ({**HEADER, "entries": True}, "has to be a whole number"),
        ({**HEADER, "entries": None}, "has to be a whole number"),
        ({**HEADER, "entries": 0}, "has to be a whole number"),
        ({**HEADER, "entries": -1}, "has to be a whole number"),
        ({**HEADER, "reserve": -1}, "from 0 to"),
        ({**HEADER, "unpacked": 1 << 70}, "has to be a whole number"),
        ({**HEADER, "component": 256}, "from 1 to 255"),
    ],
)
def test_malformed_settings_are_refused_with_the_file_and_the_key(
    tmp_path: Path, content: object, words: str
) -> None:
    path = write(tmp_path, "local", "x.json", content)
    with pytest.raises(SettingsError, match=words) as caught:
        configured(paths_in(tmp_path))
    assert str(path) in str(caught.value)
    assert str(caught.value).isprintable()


def test_one_field_twice_in_a_layer_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "local", "a.json", {**HEADER, "depth": 5})
    write(tmp_path, "local", "b.json", {**HEADER, "depth": 5})
    with pytest.raises(SettingsError, match=r'"depth" is set in .*a\.json and in .*b\.json'):
        configured(paths_in(tmp_path))


def test_a_file_where_the_directory_should_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "local").mkdir()
    (tmp_path / "local/limits.d").write_text("")
    with pytest.raises(SettingsError, match="to be a directory"):
        configured(paths_in(tmp_path))


#: For every bound: a value, and an image that exceeds it and no other.
EXCEEDED: dict[str, tuple[int, Callable[[], bytes]]] = {
    "unpacked": (20_000, lambda: image(raw(b"rootfs/f", os.urandom(30_000)))),
    "ratio": (2, lambda: image(raw(b"rootfs/f", bytes(40_000)))),
    "manifest": (50, image),
    "entries": (3, lambda: image(*[raw(b"rootfs/%d" % n) for n in range(3)])),
    "names": (100, lambda: image(*[raw(b"rootfs/%d" % n) for n in range(20)])),
    "path": (30, lambda: image(raw(b"rootfs/aaaaaaaaaa/bbbbbbbbbb/cccccccccc"))),
    "component": (10, lambda: image(raw(b"rootfs/aaaaaaaaaaa"))),
    "depth": (3, lambda: image(raw(b"rootfs/a/b/c"))),
    "header": (600, lambda: image(gnu(b"L", b"rootfs/" + b"a/" * 100 + b"\0" * 700), directory(b"d"))),
    "xattrs": (
        30,
        lambda: image(pax(*[(b"SCHILY.xattr.user.%d" % n, b"12345") for n in range(4)]), raw(b"rootfs/f")),
    ),
    "xattr": (10, lambda: image(pax((b"SCHILY.xattr.user.a", b"12345678901")), raw(b"rootfs/f"))),
}


@pytest.mark.parametrize("field", EXCEEDED)
def test_TRAP_33_what_is_set_counts_for_fetch_and_for_validate(tmp_path: Path, field: str) -> None:
    value, make = EXCEEDED[field]
    write(
        tmp_path,
        "local",
        "x.json",
        {**HEADER, field: value, **({"ratio_from": 5000} if field == "ratio" else {})},
    )
    limits = configured(paths_in(tmp_path))
    path = tmp_path / "a.aci"
    path.write_bytes(make())
    assert examine(str(path)).problems == []  # the defaults take it
    [problem] = examine(str(path), limits).problems
    assert f"(bound: {field})" in problem
    assert "limits.d" in problem or field == "ratio"
    with pytest.raises(LimitError, match=rf"\(bound: {field}\)"):
        put(Store(paths_in(tmp_path), limits=limits), path)


def test_TRAP_33_passes_and_nesting_count(tmp_path: Path) -> None:
    store = Store(paths_in(tmp_path))
    put_new(store, tmp_path, "example.com/base")
    put_new(store, tmp_path, "example.com/middle", dependencies=[{"imageName": "example.com/base"}])
    top = put_new(
        store,
        tmp_path,
        "example.com/top",
        dependencies=[{"imageName": "example.com/middle"}, {"imageName": "example.com/base"}],
    )
    for limits in (Limits(passes=3), Limits(nesting=1)):
        with pytest.raises(GantryError) as caught:
            render(Store(paths_in(tmp_path), limits=limits), top.id)
        assert isinstance(caught.value, (DependencyError, LimitError))
    assert render(store, top.id).images


def test_every_bound_has_its_test() -> None:
    elsewhere = {"ratio_from", "passes", "nesting", "download", "signature", "settling", "reserve"}
    assert set(EXCEEDED) | elsewhere == set(Limits._fields)


def command(top: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    places = [f"--dir={top}/data", f"--run-dir={top}/run", f"--system-config={top}/system"]
    return subprocess.run(
        [sys.executable, "-c", _MAIN, *places, f"--local-config={top}/local", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_reads_them(tmp_path: Path) -> None:
    made = make_aci(tmp_path / "a.aci", files={"a": "1", "b": "2"})
    assert command(tmp_path, "image", "validate", str(made.path)).returncode == 0
    write(tmp_path, "local", "x.json", {**HEADER, "entries": 3})
    for arguments in (("image", "validate"), ("fetch", "--insecure-options=image")):
        done = command(tmp_path, *arguments, str(made.path))
        assert done.returncode == 254
        assert "more than 3 entries (bound: entries)" in done.stderr
        assert "limits.d" in done.stderr
    (tmp_path / "rootfs.tar").write_bytes(tar_bytes([file(name) for name in "abcd"]))
    (tmp_path / "manifest").write_bytes(manifest())
    of_a_tar = ("build", f"--manifest={tmp_path}/manifest", f"{tmp_path}/rootfs.tar", f"{tmp_path}/o.aci")
    for arguments in (
        of_a_tar,
        ("image", "patch-manifest", "--name=example.com/b", str(made.path), f"{tmp_path}/o.aci"),
        ("image", "cat-manifest", str(made.path)),
    ):
        done = command(tmp_path, *arguments)
        assert done.returncode == 254, arguments
        assert "more than 3 entries (bound: entries)" in done.stderr
    assert not (tmp_path / "o.aci").exists()
    write(tmp_path, "local", "x.json", {**HEADER, "entries": "many"})
    done = command(tmp_path, "image", "list")
    assert done.returncode == 254
    assert done.stderr.count("\n") == 1
    assert "x.json" in done.stderr


def test_a_large_manifest_is_taken_where_that_is_set(tmp_path: Path) -> None:
    body = manifest(annotations={"a": "x" * 2_000_000})
    path = tmp_path / "a.aci"
    path.write_bytes(compress(b"".join([directory(b"rootfs"), raw(b"manifest", body), bytes(1024)])))
    with pytest.raises(LimitError, match="bound: manifest"):
        put(Store(paths_in(tmp_path)), path)
    write(tmp_path, "local", "x.json", {**HEADER, "manifest": 4_000_000})
    taken = put(Store(paths_in(tmp_path), limits=configured(paths_in(tmp_path))), path)
    assert taken.name == "example.com/app"


def test_the_page_lists_every_bound_with_its_default() -> None:
    page = (Path(__file__).parents[2] / "docs/settings.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| (\d+) \|", page, re.MULTILINE))
    assert rows == {field: str(value) for field, value in DEFAULT_LIMITS._asdict().items()}
