"""``gantry build FILE.toml``: copy, write, run inside a base (docs/build-files.md)."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest
from tests.support.aci import directory, file, image_entries, make_raw, manifest, symlink
from tests.support.store import paths_in, put

from gantry.appc.arch import host_labels
from gantry.images import Store

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="commands are run by root"),
    pytest.mark.skipif(not shutil.which("runc", path="/usr/sbin:/usr/bin:/sbin:/bin"), reason="needs runc"),
    pytest.mark.skipif(not os.path.exists("/bin/busybox"), reason="needs a static busybox"),
]

PROGRAM = "import sys; from gantry.cli import main; sys.exit(main())"
FILE = """
base = "example.com/base"

[manifest]
name = "example.com/app"
labels = [{name = "version", value = "1.0"}]
app = {exec = ["/opt/app/start"], user = "0", group = "0"}

[[step]]
copy = "app"
to = "/opt/app"

[[step]]
write = "/etc/conf"
content = "$literal %n \\\\ 'quoted'\\n"

[[step]]
run = "echo made > /opt/app/made; touch -d @1900000000 /opt/app/late; mkdir -p /tmp/x /run/y"

[[step]]
run = ["/bin/sh", "-c", "echo \\"$1\\" > /opt/app/exact", "sh", "a  b $HOME %"]
"""


class Bench:
    """A store with a base, and a context to build in."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.paths = paths_in(place)
        self.store = Store(self.paths)
        labels = {**host_labels(os.uname().machine), "version": "1"}
        applets = [
            symlink(f"bin/{name}", "busybox") for name in ("sh", "cat", "touch", "id", "rm", "sleep", "mkdir")
        ]
        tree = [
            directory("bin"),
            file("bin/busybox", Path("/bin/busybox").read_bytes(), 0o755),
            *applets,
            directory("etc", 0o750),
            file("etc/base", "of the base"),
        ]
        body = manifest("example.com/base", labels=labels)
        self.base = put(self.store, make_raw(place / "base.aci", image_entries(body, tree=tree)))
        self.context = place / "context"
        (self.context / "app").mkdir(parents=True)
        (self.context / "app/start").write_text("#!/bin/sh\n")
        (self.context / "app/start").chmod(0o700)

    def command(self, *words: str | Path) -> list[str]:
        flags = [f"--dir={self.paths.data}", f"--run-dir={self.paths.run}"]
        flags += [f"--local-config={self.paths.local}", f"--system-config={self.paths.system}"]
        return [sys.executable, "-c", PROGRAM, *flags, *map(str, words)]

    def build(self, text: str, output: str = "app.aci", *flags: str) -> subprocess.CompletedProcess[str]:
        (self.context / "app.toml").write_text(text)
        words = ("build", "--pull-policy=never", *flags, self.context / "app.toml", self.place / output)
        return subprocess.run(self.command(*words), capture_output=True, text=True, check=False, timeout=120)

    def members(self, output: str = "app.aci") -> dict[str, tarfile.TarInfo]:
        with tarfile.open(self.place / output) as archive:
            return {info.name: info for info in archive}

    def content(self, name: str, output: str = "app.aci") -> bytes:
        with tarfile.open(self.place / output) as archive:
            found = archive.extractfile(name)
            assert found is not None
            return found.read()

    def leftovers(self) -> list[str]:
        """What a build may not leave: mounts, directories of its own, references, control groups."""
        mounts = Path("/proc/self/mountinfo").read_text()
        left = [line for line in mounts.splitlines() if str(self.place) in line]
        left += [str(path) for path in Path(self.paths.data, "build").glob("*") if path.is_dir()]
        left += [ref for tree in self.store.trees() for ref in self.store.refs(tree)]
        left += [str(path) for path in Path(self.paths.run, "oci").glob("*")]
        return left


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_copy_write_and_run_upon_a_base(bench: Bench) -> None:
    done = bench.build(FILE)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("sha512-")
    members = bench.members()
    assert "rootfs/bin" not in members or members["rootfs/bin"].isdir()
    assert "rootfs/bin/busybox" not in members
    assert not {"rootfs/proc", "rootfs/sys", "rootfs/dev", "rootfs/tmp", "rootfs/run"} & set(members)
    assert bench.content("rootfs/opt/app/made") == b"made\n"
    assert bench.content("rootfs/opt/app/exact") == b"a  b $HOME %\n"
    assert bench.content("rootfs/etc/conf") == b"$literal %n \\ 'quoted'\n"
    assert members["rootfs/opt/app/start"].mode == 0o755
    assert members["rootfs/etc"].mode == 0o750
    newest = 1_500_000_000  # of the base's files
    assert max(info.mtime for info in members.values()) <= newest
    made = json.loads(bench.content("manifest"))
    (dependency,) = made["dependencies"]
    assert (dependency["imageName"], dependency["imageID"]) == ("example.com/base", str(bench.base.id))
    assert made["labels"] == [{"name": "version", "value": "1.0"}]
    assert bench.leftovers() == []


def test_the_same_input_gives_the_same_image(bench: Bench) -> None:
    first = bench.build(FILE)
    assert first.returncode == 0, first.stderr
    os.utime(bench.context / "app/start", (2_000_000_000, 2_000_000_000))
    (bench.context / "app/start").chmod(0o755)
    second = bench.build(FILE, "again.aci")
    assert second.stdout == first.stdout
    assert (bench.place / "again.aci").read_bytes() == (bench.place / "app.aci").read_bytes()


def test_a_command_that_fails_is_one_line_and_leaves_nothing(bench: Bench) -> None:
    text = FILE + '\n[[step]]\nrun = "echo oops >&2; exit 7"\n'
    done = bench.build(text)
    assert done.returncode == 254
    assert "oops" in done.stderr
    last = done.stderr.splitlines()[-1]
    assert "step 5" in last
    assert "7" in last
    assert not (bench.place / "app.aci").exists()
    assert bench.leftovers() == []


def test_removing_from_the_base_is_refused_unless_it_is_flattened(bench: Bench) -> None:
    text = FILE + '\n[[step]]\nrun = "rm /etc/base"\n'
    done = bench.build(text)
    assert done.returncode == 254
    assert "/etc/base" in done.stderr
    assert "flatten" in done.stderr
    done = bench.build("flatten = true\n" + text)
    assert done.returncode == 0, done.stderr
    members = bench.members()
    assert "rootfs/etc/base" not in members
    assert "rootfs/bin/busybox" in members
    assert "dependencies" not in json.loads(bench.content("manifest"))
    assert bench.leftovers() == []


def test_the_network_is_none_unless_the_step_says_so(bench: Bench) -> None:
    shown = "cat /proc/net/dev > /net"
    text = FILE + f'\n[[step]]\nrun = "{shown}"\n'
    assert bench.build(text).returncode == 0
    devices = bench.content("rootfs/net").decode()
    assert [line.split(":")[0].strip() for line in devices.splitlines()[2:]] == ["lo"]
    (bench.place / "app.aci").unlink()
    assert bench.build(text + 'network = "host"\n').returncode == 0
    here = Path("/proc/net/dev").read_text()
    names = {line.split(":")[0].strip() for line in here.splitlines()[2:]}
    found = bench.content("rootfs/net").decode()
    assert {line.split(":")[0].strip() for line in found.splitlines()[2:]} == names
    assert "rootfs/etc/resolv.conf" not in bench.members()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_build_that_is_ended_leaves_nothing_to_the_next(bench: Bench, number: signal.Signals) -> None:
    (bench.context / "app.toml").write_text(FILE + '\n[[step]]\nrun = "echo started >&2; sleep 1000"\n')
    words = ("build", "--pull-policy=never", bench.context / "app.toml", bench.place / "app.aci")
    # Where these tests run in the background, SIGINT is ignored, and children inherit that.
    command = ["env", "--default-signal", *bench.command(*words)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as running:
        assert running.stderr
        deadline = time.monotonic() + 60
        for line in running.stderr:
            if line.strip() == "started":
                break
            assert time.monotonic() < deadline
        running.send_signal(number)
        running.wait(timeout=30)
    assert not (bench.place / "app.aci").exists()
    if number == signal.SIGKILL:
        assert bench.build(FILE).returncode == 0  # which sweeps
    assert bench.leftovers() == []


def test_only_checking_makes_nothing(bench: Bench) -> None:
    (bench.context / "app.toml").write_text(FILE)
    done = subprocess.run(
        bench.command("build", "--check", bench.context / "app.toml"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout.rstrip().endswith("valid")) == (0, True), done.stderr
    assert bench.build(FILE.replace("[[step]]", "[[steps]]", 1)).returncode == 254
    assert not (bench.place / "app.aci").exists()
