"""Image archives: what the specification accepts and refuses (ACI-01 ... ACI-24, SIG-01 ... SIG-04)."""

from __future__ import annotations

import os
import re
import shutil
import socket
import stat
import subprocess
import tarfile
from collections.abc import Iterable
from pathlib import Path

import pytest
from tests.support.aci import (
    Entry,
    compress,
    device,
    directory,
    fifo,
    file,
    hardlink,
    image_entries,
    image_id,
    make_aci,
    make_raw,
    manifest,
    symlink,
    tar_bytes,
)
from tests.support.store import paths_in, put, put_new

from gantry.build import BuildError, build_directory
from gantry.errors import GantryError, UsageError
from gantry.images import Store, export, render, validate
from gantry.images.validation import examine

M = manifest()
NEEDS_ACTOOL = pytest.mark.skipif(
    shutil.which("actool") is None, reason="actool (Debian package appc-spec), the peer, is not installed"
)
ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="owners and devices need root")


def problems(tmp_path: Path, entries: list[Entry], compression: str = "gzip") -> list[str]:
    image = make_raw(tmp_path / "t.aci", entries, compression=compression)
    return validate(str(image.path))


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (b'"name": "a"', b'"name": "b", "name": "a"', '$.annotations[0].name: the key "name" is repeated'),
        (b'"acVersion"', b'"NAME": "x", "acVersion"', '$.NAME: the key "NAME" is not spelt "name"'),
    ],
)
def test_TYP_29_keys_that_readers_may_take_differently_are_reported(
    tmp_path: Path, old: bytes, new: bytes, told: str
) -> None:
    body = manifest(annotations={"a": "1"}).replace(old, new)
    assert problems(tmp_path, [directory("rootfs"), file("manifest", body)]) == []
    assert any(told in warning for warning in examine(str(tmp_path / "t.aci")).warnings)
    put(Store(paths_in(tmp_path)), tmp_path / "t.aci")  # it is taken all the same


# -- what is refused ----------------------------------------------------------------------------------

REFUSED: dict[str, tuple[list[Entry], str]] = {
    "ACI_03_the_same_file_twice": ([file("rootfs/a"), file("rootfs/a")], "twice"),
    "ACI_03_the_same_after_cleaning": ([directory("rootfs/a"), directory("./rootfs//a/")], "twice"),
    "ACI_03_rootfs_twice": ([directory("rootfs"), directory("rootfs")], "twice"),
    "ACI_03_manifest_twice": ([directory("rootfs"), file("manifest", M)], "twice"),
    "ACI_04_another_top_level_name": ([directory("rootfs"), file("README")], "README"),
    "ACI_04_rootfs_as_a_prefix_only": ([directory("rootfs"), file("rootfs-x")], "rootfs-x"),
    "ACI_06_rootfs_is_a_file": ([file("rootfs")], "directory"),
    "ACI_06_rootfs_is_a_symlink": ([symlink("rootfs", "/")], "directory"),
    "ACI_11_absolute": ([file("/rootfs/a")], "absolute"),
    "ACI_11_absolute_elsewhere": ([file("/etc/passwd")], "absolute"),
    "ACI_11_dotdot_at_the_start": ([file("../x")], r"\.\."),
    "ACI_11_dotdot_inside": ([file("rootfs/../../x")], r"\.\."),
    "ACI_11_dotdot_at_the_end": ([directory("rootfs/a/..")], r"\.\."),
    "TRAP_08_a_link_out_of_the_root": ([hardlink("rootfs/a", "manifest")], "leads out"),
    "TRAP_08_a_link_to_an_absolute_path": ([hardlink("rootfs/a", "/etc/shadow")], "absolute"),
    "TRAP_08_a_link_with_dotdot": ([hardlink("rootfs/a", "rootfs/../../etc/shadow")], r"\.\."),
    "TRAP_08_a_link_to_nothing": ([hardlink("rootfs/a", "rootfs/b")], "before it"),
    "TRAP_08_a_link_to_a_later_entry": ([hardlink("rootfs/a", "rootfs/b"), file("rootfs/b")], "before it"),
    "TRAP_08_a_link_to_itself": ([hardlink("rootfs/a", "rootfs/a")], "before it"),
    "TRAP_08_a_link_to_a_directory": ([directory("rootfs/d"), hardlink("rootfs/a", "rootfs/d")], "directory"),
    "TRAP_08_a_link_below_a_symlink": (
        [symlink("rootfs/l", "/etc"), hardlink("rootfs/a", "rootfs/l/shadow")],
        "before it",
    ),
    "case_13_a_file_below_a_symlink": ([symlink("rootfs/l", "/etc"), file("rootfs/l/passwd")], "below"),
    "case_13_a_directory_over_a_symlink": ([symlink("rootfs/l", "/etc"), directory("rootfs/l")], "twice"),
    "case_13_a_symlink_over_a_directory": ([directory("rootfs/l"), symlink("rootfs/l", "/etc")], "twice"),
    "a_symlink_over_an_implied_directory": ([file("rootfs/l/x"), symlink("rootfs/l", "/etc")], "below it"),
    "a_file_below_a_file": ([file("rootfs/a"), file("rootfs/a/b")], "below"),
    "an_empty_symlink": ([symlink("rootfs/l", "")], "target"),
    "dot_is_a_file": ([file(".")], "directory"),
}


def of_row(row: str, cases: Iterable[str]) -> pytest.MarkDecorator:
    """The cases of a table that belong to one row."""
    chosen = [case for case in cases if case.startswith(row)]
    assert chosen
    return pytest.mark.parametrize("case", chosen)


def check_refused(tmp_path: Path, case: str) -> None:
    entries, word = REFUSED[case]
    complete = [*entries, file("manifest", M)]
    if not any(info.name.startswith("rootfs") for info, _ in entries):
        complete.insert(0, directory("rootfs"))
    problem, *more = problems(tmp_path, complete)
    assert re.search(word, problem), problem
    assert all("no rootfs" in line for line in more)  # what is refused does not count
    with pytest.raises(GantryError, match=word):
        put(Store(paths_in(tmp_path)), tmp_path / "t.aci")


@of_row("ACI_03", REFUSED)
def test_ACI_03_no_path_occurs_twice(tmp_path: Path, case: str) -> None:
    check_refused(tmp_path, case)


@of_row("ACI_04", REFUSED)
def test_ACI_04_there_are_two_top_level_names(tmp_path: Path, case: str) -> None:
    check_refused(tmp_path, case)


@of_row("ACI_06", REFUSED)
def test_ACI_06_rootfs_is_a_directory(tmp_path: Path, case: str) -> None:
    check_refused(tmp_path, case)


@of_row("ACI_11", REFUSED)
def test_ACI_11_no_name_is_absolute_or_leaves_the_tree(tmp_path: Path, case: str) -> None:
    check_refused(tmp_path, case)


@of_row("TRAP_08", REFUSED)
def test_TRAP_08_hard_links_stay_among_the_images_own_entries(tmp_path: Path, case: str) -> None:
    check_refused(tmp_path, case)


@pytest.mark.parametrize("case", [c for c in REFUSED if not c.startswith(("ACI_", "TRAP_"))])
def test_refused(tmp_path: Path, case: str) -> None:
    check_refused(tmp_path, case)


@pytest.mark.parametrize(
    "magic", [b"070701" + bytes(600), b"PK\x03\x04" + bytes(600), b"!<arch>\n" + bytes(600)]
)
@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_ACI_02_the_archive_is_a_tar(tmp_path: Path, magic: bytes, compression: str) -> None:
    path = tmp_path / "a.aci"
    path.write_bytes(compress(magic, compression))
    assert re.search("neither a tar|wrong checksum", validate(str(path))[0])


@pytest.mark.parametrize(
    "entry",
    [
        symlink("manifest", "rootfs/m"),
        hardlink("manifest", "rootfs/m"),
        directory("manifest"),
        fifo("manifest"),
        device("manifest", 1, 3),
    ],
    ids=["symlink", "hardlink", "directory", "fifo", "device"],
)
def test_ACI_05_the_manifest_is_a_regular_file(tmp_path: Path, entry: Entry) -> None:
    [problem] = problems(tmp_path, [directory("rootfs"), file("rootfs/m", M), entry])
    assert "'manifest' is" in problem


def test_ACI_07_missing_manifest_and_missing_rootfs_differ(tmp_path: Path) -> None:
    assert "no manifest" in problems(tmp_path, [directory("rootfs")])[0]
    assert "no rootfs" in problems(tmp_path, [file("manifest", M)])[0]


def test_ACI_01_the_name_ends_in_aci(tmp_path: Path) -> None:
    image = make_aci(tmp_path / "a.aci.gz")
    assert "ACI-01" in validate(str(image.path))[0]


# -- what is accepted ---------------------------------------------------------------------------------

ACCEPTED: dict[str, list[Entry]] = {
    "ACI_07_no_entry_for_rootfs": [file("rootfs/a", "1"), file("manifest", M)],
    "ACI_08_leading_dot_slash": [
        directory("."),
        directory("./rootfs"),
        file("./rootfs/a", "1"),
        file("./manifest", M),
    ],
    "ACI_09_manifest_first": [file("manifest", M), directory("rootfs"), file("rootfs/a", "1")],
    "ACI_09_manifest_last": [directory("rootfs"), file("rootfs/a", "1"), file("manifest", M)],
    "ACI_09_manifest_in_the_middle": [directory("rootfs"), file("manifest", M), file("rootfs/a", "1")],
    "ACI_10_names_repeated_inside": [
        directory("rootfs"),
        file("rootfs/manifest", "x"),
        directory("rootfs/x"),
        directory("rootfs/x/rootfs"),
        file("manifest", M),
    ],
    "a_directory_after_what_is_in_it": [file("rootfs/d/f", "1"), directory("rootfs/d"), file("manifest", M)],
    "dangling_and_leading_out_symlinks_are_the_apps_affair": [
        directory("rootfs"),
        symlink("rootfs/l", "../../../../etc"),
        file("manifest", M),
    ],
    "names_with_odd_bytes": [
        directory("rootfs"),
        file("rootfs/\udcff\udcfe", "1"),
        file("rootfs/new\nline", "1"),
        file("rootfs/..x", "1"),
        file("rootfs/x..", "1"),
        file("manifest", M),
    ],
}


COMPRESSIONS = pytest.mark.parametrize("compression", ["none", "gzip", "bzip2", "xz"])


def check_accepted(tmp_path: Path, case: str, compression: str) -> None:
    assert problems(tmp_path, ACCEPTED[case], compression) == []
    store = Store(paths_in(tmp_path))
    made = make_raw(tmp_path / "i.aci", ACCEPTED[case], compression=compression)
    image = put(store, made)
    assert image.id == made.id
    rootfs = Path(render(store, image.id).rootfs)
    for info, body in ACCEPTED[case]:
        if info.isreg() and "rootfs/" in info.name:
            relative = info.name.partition("rootfs/")[2]
            assert Path(os.path.join(rootfs, relative)).read_bytes() == body


@COMPRESSIONS
@of_row("ACI_08", ACCEPTED)
def test_ACI_08_a_leading_dot_slash_means_nothing(tmp_path: Path, case: str, compression: str) -> None:
    check_accepted(tmp_path, case, compression)


@COMPRESSIONS
@of_row("ACI_09", ACCEPTED)
def test_ACI_09_the_manifest_stands_anywhere(tmp_path: Path, case: str, compression: str) -> None:
    check_accepted(tmp_path, case, compression)


@COMPRESSIONS
@of_row("ACI_10", ACCEPTED)
def test_ACI_10_the_two_names_mean_nothing_inside(tmp_path: Path, case: str, compression: str) -> None:
    check_accepted(tmp_path, case, compression)


@COMPRESSIONS
@pytest.mark.parametrize("case", [c for c in ACCEPTED if not c.startswith(("ACI_08", "ACI_09", "ACI_10"))])
def test_ACI_17_accepted_under_all_compressions(tmp_path: Path, case: str, compression: str) -> None:
    check_accepted(tmp_path, case, compression)


def test_ACI_01_validation_says_what_it_found(tmp_path: Path) -> None:
    made = make_aci(
        tmp_path / "a.aci", version="1.0", tree=[file("s", "x", 0o4755), device("d", 1, 3), fifo("p")]
    )
    report = examine(str(made.path))
    assert (report.problems, report.warnings) == ([], [])
    assert (report.id, report.name, report.labels) == (made.id, "example.com/app", {"version": "1.0"})
    assert (report.size, report.unpacked, report.content) == (len(made.data), len(made.tar), 1)
    assert (report.entries, report.setid, report.devices, report.compression) == (3, 1, 1, "gzip")


def test_validation_names_every_problem_it_can_go_on_after(tmp_path: Path) -> None:
    found = problems(
        tmp_path,
        [
            directory("rootfs"),
            file("README"),
            file("rootfs/../x"),
            file("rootfs/a"),
            file("rootfs/a"),
            hardlink("rootfs/h", "/etc/shadow"),
            file("manifest", b'{"acKind": "ImageManifest", "acVersion": "0.8.11", "name": "NO"}'),
        ],
    )
    words = ["README", "'..'", "twice", "absolute", "manifest: "]
    assert len(found) == len(words)
    assert all(word in line for word, line in zip(words, found, strict=True))


def test_TYP_31_a_refused_manifest_is_quoted(tmp_path: Path) -> None:
    body = manifest("Bad Name", version="7")
    problems(tmp_path, [directory("rootfs"), file("manifest", body)])
    report = examine(str(tmp_path / "t.aci"))
    assert report.claims == {"name": "Bad Name", "labels": {"version": "7"}, "acVersion": "0.8.11"}
    assert any("unchecked, it calls itself Bad Name, version=7" in line for line in report.warnings)
    assert report.name is None


@pytest.mark.parametrize(
    ("entries", "word"),
    [
        ([file("manifest", manifest("justaname"))], "MAN-05"),
        ([file("manifest", manifest().replace(b"0.8.11", b"0.9.0"))], "TYP-14"),
        ([file("manifest", manifest("example.com/a--b"))], "nobody should write it so"),
        (
            [
                file("rootfs/lib/x"),
                file("manifest", manifest(dependencies=[{"imageName": "example.com/base"}])),
            ],
            "TRAP-09",
        ),
    ],
)
def test_what_is_odd_is_a_warning(tmp_path: Path, entries: list[Entry], word: str) -> None:
    assert problems(tmp_path, [directory("rootfs"), *entries]) == []
    report = examine(str(tmp_path / "t.aci"))
    assert any(word in line for line in report.warnings), report.warnings


def test_ACI_22_a_layout_is_examined_like_an_image(tmp_path: Path, layout: Path) -> None:
    report = examine(str(layout))
    assert (report.problems, report.name) == ([], "example.com/app")
    (layout / "README").touch()
    (layout / "manifest").write_text('{"acKind": "ImageManifest"}')
    first, second = validate(str(layout))
    assert "'README' does not belong" in first
    assert "manifest: " in second


def test_ACI_20_compression_can_be_switched_off(tmp_path: Path, layout: Path) -> None:
    built = build_directory(str(layout), str(tmp_path / "o.aci"), compression="none")
    assert built.image_id == image_id((tmp_path / "o.aci").read_bytes())


def test_ACI_15_ACI_12_the_manifest_entry_is_roots(tmp_path: Path, layout: Path) -> None:
    build_directory(str(layout), str(tmp_path / "o.aci"), epoch=1_600_000_000)
    with tarfile.open(tmp_path / "o.aci") as archive:
        entry = archive.getmember("manifest")
    assert (entry.mode, entry.uid, entry.gid, entry.uname, entry.gname) == (0o644, 0, 0, "root", "root")
    assert entry.mtime == 1_600_000_000


def test_case_15_names_of_all_three_formats_are_exact(tmp_path: Path) -> None:
    store = Store(paths_in(tmp_path))
    names = {
        tarfile.GNU_FORMAT: "/".join(["g" * 200] * 3),
        tarfile.PAX_FORMAT: "/".join(["ü" * 120, "p" * 250]),
        tarfile.USTAR_FORMAT: "u" * 100 + "/" + "v" * 90,
    }
    for index, (fmt, name) in enumerate(names.items()):
        body = manifest(f"example.com/f{index}")
        tar = tar_bytes([directory("rootfs"), file(f"rootfs/{name}", "1"), file("manifest", body)], fmt=fmt)
        path = tmp_path / f"{index}.aci"
        path.write_bytes(compress(tar))
        image = put(store, path)
        assert (Path(render(store, image.id).rootfs) / name).read_text() == "1"


# -- properties ---------------------------------------------------------------------------------------


@ROOT
def test_ACI_12_properties_survive_rendering(tmp_path: Path) -> None:
    store = Store(paths_in(tmp_path))
    image = put_new(
        store,
        tmp_path,
        tree=[
            directory("d", 0o2751, uid=7, gid=8, mtime=1_000_000),
            file("d/suid", "x", 0o4711, uid=9, gid=10, mtime=2_000_000),
            file("d/sgid", "x", 0o2755),
            directory("sticky", 0o1777),
            directory("closed", 0o000),
            file("closed/inside", "y", 0o000),
            symlink("d/l", "suid", uid=11, gid=12, mtime=3_000_000),
            hardlink("d/h", "d/suid"),
            fifo("p", 0o622, uid=13),
            device("null", 1, 3, mode=0o666),
            device("sda", 8, 0, block=True, mode=0o660, gid=6),
        ],
    )
    rootfs = Path(render(store, image.id).rootfs)

    def check(name: str, mode: int, uid: int = 0, gid: int = 0, mtime: int | None = None) -> os.stat_result:
        info = os.lstat(rootfs / name)
        assert (stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid) == (mode, uid, gid), name
        if mtime is not None:
            assert info.st_mtime == mtime
        return info

    check("d", 0o2751, 7, 8, 1_000_000)
    suid = check("d/suid", 0o4711, 9, 10, 2_000_000)
    check("d/sgid", 0o2755)
    check("sticky", 0o1777)
    check("closed", 0)
    check("closed/inside", 0)
    check("d/l", 0o777, 11, 12, 3_000_000)
    assert os.lstat(rootfs / "d/h").st_ino == suid.st_ino
    assert suid.st_nlink == 2
    assert stat.S_ISFIFO(check("p", 0o622, 13).st_mode)
    null = check("null", 0o666)
    assert stat.S_ISCHR(null.st_mode)
    assert null.st_rdev == os.makedev(1, 3)
    assert stat.S_ISBLK(check("sda", 0o660, 0, 6).st_mode)


@ROOT
def test_case_16_capabilities_are_restored_and_labels_are_not(tmp_path: Path) -> None:
    # cap_net_bind_service=ep, as the kernel keeps it (revision 2)
    capability = bytes.fromhex("0100000200040000000000000000000000000000")
    info, body = file("rootfs/f", "1", 0o755, uid=1)
    records = {
        b"SCHILY.xattr.security.capability": capability,
        b"SCHILY.xattr.security.selinux": b"system_u:object_r:bin_t:s0\0",
        b"SCHILY.xattr.user.note": b"kept",
        b"SCHILY.xattr.user.overlay.opaque": b"y",
    }
    header = b""
    for key, value in records.items():
        rest = b" " + key + b"=" + value + b"\n"
        header += str(len(rest) + 2).encode() + rest if len(rest) < 98 else str(len(rest) + 3).encode() + rest
    pax = tarfile.TarInfo("PaxHeader")
    pax.type = tarfile.XHDTYPE
    pax.size = len(header)
    made = make_raw(
        tmp_path / "i.aci", [directory("rootfs"), (pax, header), (info, body), file("manifest", M)]
    )
    store = Store(paths_in(tmp_path))
    tree = render(store, put(store, made).id)
    path = os.path.join(tree.rootfs, "f")
    assert os.getxattr(path, "security.capability") == capability
    assert os.getxattr(path, "user.note") == b"kept"
    assert set(os.listxattr(path)) <= {"security.capability", "user.note", "security.selinux"}
    assert "user.overlay.opaque" not in os.listxattr(path)
    assert tree.downgrades == {}


# -- image ID -----------------------------------------------------------------------------------------


def test_SIG_02_padding_after_the_end_counts(tmp_path: Path) -> None:
    tar = tar_bytes(image_entries(M, {"a": "1"})) + bytes(7 * 512)
    path = tmp_path / "padded.aci"
    path.write_bytes(compress(tar))
    store = Store(paths_in(tmp_path))
    assert put(store, path).id == image_id(tar)


def test_SIG_04_prefixes_of_two_digits_resolve_and_ambiguous_ones_do_not(tmp_path: Path) -> None:
    store = Store(paths_in(tmp_path))
    images = [put_new(store, tmp_path, files={"n": str(n)}) for n in range(20)]
    for image in images:
        assert store.find(image.id).id == image.id
        assert store.find(image.id[: 7 + 64]).id == image.id
        assert store.find(image.id.upper().replace("SHA512", "sha512")).id == image.id
    with pytest.raises(GantryError) as caught:
        store.find("sha512-" + images[0].id[7:8])
    assert "2" in caught.value.hint
    heads = [image.id[7:9] for image in images]
    twice = next((head for head in heads if heads.count(head) > 1), None)
    if twice:
        with pytest.raises(GantryError, match="ambiguous"):
            store.find(f"sha512-{twice}")


def test_ACI_24_the_canonical_tar_comes_back_byte_for_byte(tmp_path: Path) -> None:
    store = Store(paths_in(tmp_path))
    made = make_aci(tmp_path / "a.aci", files={"x": "1" * 10_000}, compression="xz")
    image = put(store, made)
    export(store, image.id, str(tmp_path / "out.tar"))
    assert (tmp_path / "out.tar").read_bytes() == made.tar
    export(store, image.id, str(tmp_path / "out.aci"), compressed=True)
    assert (tmp_path / "out.aci").read_bytes() == made.data
    with pytest.raises(UsageError, match="exists"):
        export(store, image.id, str(tmp_path / "out.aci"))


# -- building -----------------------------------------------------------------------------------------


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    top = tmp_path / "layout"
    (top / "rootfs/bin").mkdir(parents=True)
    (top / "rootfs/etc").mkdir()
    (top / "manifest").write_bytes(
        manifest("example.com/app", version="1.0", labels={"os": "linux", "arch": "amd64"}, exec_=["/bin/a"])
    )
    (top / "rootfs/bin/a").write_text("one")
    (top / "rootfs/bin/a").chmod(0o4755)
    os.link(top / "rootfs/bin/a", top / "rootfs/bin/b")
    os.symlink("/nowhere", top / "rootfs/etc/link")
    os.mkfifo(top / "rootfs/pipe")
    (top / "rootfs" / ("n" * 120)).write_text("long")
    (top / "rootfs/ümlaut").write_text("u")
    for number, path in enumerate(sorted((top / "rootfs").rglob("*"))):
        os.utime(path, (1_600_000_000 + number, 1_600_000_000 + number), follow_symlinks=False)
    os.utime(top / "rootfs", (1_600_000_000, 1_600_000_000))
    return top


def names_of(path: Path) -> list[str]:
    with tarfile.open(path) as archive:
        return archive.getnames()


def test_ACI_09_ACI_13_ACI_14_what_the_builder_writes(tmp_path: Path, layout: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(layout / "rootfs/sock"))
        built = build_directory(str(layout), str(tmp_path / "o.aci"))
    assert built.skipped == ["rootfs/sock"]
    names = names_of(tmp_path / "o.aci")
    assert names[0] == "rootfs"
    assert names[-1] == "manifest"
    assert "rootfs/sock" not in names
    with tarfile.open(tmp_path / "o.aci") as archive:
        link = archive.getmember("rootfs/bin/b")
        assert link.islnk()
        assert link.size == 0
        assert link.linkname == "rootfs/bin/a"
        assert archive.getmember("rootfs/bin/a").mode == 0o4755
        assert archive.getmember("rootfs/etc/link").linkname == "/nowhere"
        assert archive.getmember("rootfs/pipe").isfifo()
        own = archive.getmember("manifest")
        assert (own.mode, own.uid, own.gid, own.uname, own.gname) == (0o644, 0, 0, "root", "root")
    assert validate(str(tmp_path / "o.aci")) == []


def test_the_same_input_gives_the_same_bytes(tmp_path: Path, layout: Path) -> None:
    one = build_directory(str(layout), str(tmp_path / "1.aci"))
    copy = tmp_path / "copy"
    shutil.copytree(layout, copy, symlinks=True, copy_function=shutil.copy2, ignore=lambda *_: ["pipe", "b"])
    os.link(copy / "rootfs/bin/a", copy / "rootfs/bin/b")
    os.mkfifo(copy / "rootfs/pipe")
    for path in [layout / "rootfs", *(layout / "rootfs").rglob("*")]:
        info = path.lstat()
        other = copy / path.relative_to(layout)
        os.utime(other, ns=(0, info.st_mtime_ns), follow_symlinks=False)
    two = build_directory(str(copy), str(tmp_path / "2.aci"))
    assert one.image_id == two.image_id
    assert (tmp_path / "1.aci").read_bytes() == (tmp_path / "2.aci").read_bytes()


def test_SOURCE_DATE_EPOCH_bounds_the_times(
    tmp_path: Path, layout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1600000003")
    build_directory(str(layout), str(tmp_path / "o.aci"))
    with tarfile.open(tmp_path / "o.aci") as archive:
        times = {member.mtime for member in archive}
        assert archive.getmember("manifest").mtime == 1_600_000_003
    assert max(times) == 1_600_000_003
    assert min(times) == 1_600_000_000
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    with pytest.raises(UsageError):
        build_directory(str(layout), str(tmp_path / "p.aci"))


@ROOT
def test_ACI_16_owners_can_be_forced(tmp_path: Path, layout: Path) -> None:
    os.chown(layout / "rootfs/bin/a", 1234, 5678)
    build_directory(str(layout), str(tmp_path / "kept.aci"))
    build_directory(str(layout), str(tmp_path / "root.aci"), owner_root=True)
    with tarfile.open(tmp_path / "kept.aci") as archive:
        assert archive.getmember("rootfs/bin/a").uid == 1234
    with tarfile.open(tmp_path / "root.aci") as archive:
        assert {(member.uid, member.gid, member.uname) for member in archive} == {(0, 0, "root")}


def test_ACI_22_the_layout_holds_nothing_else(tmp_path: Path, layout: Path) -> None:
    (layout / "README").write_text("x")
    with pytest.raises(BuildError, match="README"):
        build_directory(str(layout), str(tmp_path / "o.aci"))
    assert not (tmp_path / "o.aci").exists()


@pytest.mark.parametrize("name", ["o.tar", "o.aci.gz", "o"])
def test_ACI_01_the_builder_refuses_another_name(tmp_path: Path, layout: Path, name: str) -> None:
    with pytest.raises(UsageError, match="ACI-01"):
        build_directory(str(layout), str(tmp_path / name))


def test_ACI_23_an_existing_output_stays(tmp_path: Path, layout: Path) -> None:
    output = tmp_path / "o.aci"
    output.write_text("mine")
    with pytest.raises(UsageError, match="exists"):
        build_directory(str(layout), str(output))
    assert output.read_text() == "mine"
    build_directory(str(layout), str(output), overwrite=True)
    assert validate(str(output)) == []


@pytest.mark.parametrize("overwrite", [False, True])
def test_ACI_23_a_failed_build_leaves_nothing(
    tmp_path: Path, layout: Path, monkeypatch: pytest.MonkeyPatch, overwrite: bool
) -> None:
    target = tmp_path / "out"
    target.mkdir()
    if overwrite:
        (target / "o.aci").write_text("mine")
    before = {path.name: path.read_bytes() for path in target.iterdir()}

    def broken(*_: object) -> int:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("gantry.build.packing.write_all", broken)
    with pytest.raises(GantryError, match="Input/output"):
        build_directory(str(layout), str(target / "o.aci"), overwrite=overwrite)
    assert {path.name: path.read_bytes() for path in target.iterdir()} == before


def test_an_invalid_manifest_is_refused_before_anything_is_written(tmp_path: Path, layout: Path) -> None:
    (layout / "manifest").write_text('{"acKind": "ImageManifest"}')
    with pytest.raises(BuildError):
        build_directory(str(layout), str(tmp_path / "o.aci"))
    assert not list(tmp_path.glob("*.aci*"))


@ROOT
def test_ACI_12_attributes_and_devices_survive_a_round_trip(tmp_path: Path, layout: Path) -> None:
    capability = bytes.fromhex("0100000200040000000000000000000000000000")
    os.setxattr(layout / "rootfs/bin/a", "security.capability", capability)
    os.setxattr(layout / "rootfs/etc", "user.note", b"\xff\n=")
    os.mknod(layout / "rootfs/null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    build_directory(str(layout), str(tmp_path / "o.aci"))
    store = Store(paths_in(tmp_path))
    rootfs = Path(render(store, put(store, tmp_path / "o.aci").id).rootfs)
    assert os.getxattr(rootfs / "bin/a", "security.capability") == capability
    assert os.getxattr(rootfs / "etc", "user.note") == b"\xff\n="
    assert os.stat(rootfs / "null").st_rdev == os.makedev(1, 3)
    for path in (layout / "rootfs").rglob("*"):
        mine, theirs = path.lstat(), (rootfs / path.relative_to(layout / "rootfs")).lstat()
        for field in ("st_mode", "st_uid", "st_gid", "st_nlink"):
            assert getattr(mine, field) == getattr(theirs, field), (path, field)
        assert int(mine.st_mtime) == theirs.st_mtime  # whole seconds, as the peer writes them


# -- the peer -----------------------------------------------------------------------------------------


@NEEDS_ACTOOL
@pytest.mark.parametrize("compression", ["none", "gzip", "bzip2", "xz"])
def test_the_peer_accepts_what_we_build(tmp_path: Path, layout: Path, compression: str) -> None:
    build_directory(str(layout), str(tmp_path / "o.aci"), compression=compression)
    done = subprocess.run(
        ["actool", "--debug", "validate", tmp_path / "o.aci"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    shown = subprocess.run(
        ["actool", "cat-manifest", tmp_path / "o.aci"], capture_output=True, text=True, check=True
    )
    assert '"example.com/app"' in shown.stdout


@NEEDS_ACTOOL
def test_we_accept_what_the_peer_builds_and_agree_on_its_id(tmp_path: Path, layout: Path) -> None:
    subprocess.run(["actool", "build", layout, tmp_path / "peer.aci"], check=True, capture_output=True)
    assert validate(str(tmp_path / "peer.aci")) == []
    store = Store(paths_in(tmp_path))
    image = put(store, tmp_path / "peer.aci")
    plain = subprocess.run(["gzip", "-dc", tmp_path / "peer.aci"], check=True, capture_output=True).stdout
    assert image.id == image_id(plain)
    rootfs = Path(render(store, image.id).rootfs)
    assert (rootfs / "bin/a").read_text() == "one"
    assert (rootfs / "bin/b").stat().st_ino == (rootfs / "bin/a").stat().st_ino


@NEEDS_ACTOOL
def test_both_builders_write_the_same_entries(tmp_path: Path, layout: Path) -> None:
    subprocess.run(["actool", "build", layout, tmp_path / "peer.aci"], check=True, capture_output=True)
    build_directory(str(layout), str(tmp_path / "ours.aci"))
    described = []
    for name in ("peer", "ours"):
        with tarfile.open(tmp_path / f"{name}.aci") as archive:
            described.append(
                [
                    (m.name, m.type, m.mode, m.uid, m.gid, m.size, m.linkname)
                    for m in archive
                    if m.name != "manifest"  # the peer writes the manifest anew
                ]
            )
    assert described[0] == described[1]
