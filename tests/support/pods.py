"""Pods for tests: a store of tiny images whose trees are busybox and nothing else, and ways to launch them.

The store here has those attributes of the real one that the room `pods` uses.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from gantry.appc.manifest import ImageManifest
from gantry.config import Paths
from gantry.linux import syscalls
from gantry.pods import AppRequest, PodContext, PodRequest, prepare

RUNTIME = str(Path(__file__).resolve().parents[2] / "runtime")
BUSYBOX = "/bin/busybox"
APPLETS = tuple(
    """
sh true false cat echo env sleep ls id touch mkdir pwd nc httpd mount stat kill hostname ip grep test rm ps
readlink mknod ipcs head dd chmod ln tr sort wc seq printf cut chroot unshare ping tail
    """.split()  # noqa: SIM905
)


class FakeImage(NamedTuple):
    """What the pods room reads of an image."""

    id: str
    name: str
    labels: dict[str, str]
    verification: dict[str, Any] | None = None


class FakeTree(NamedTuple):
    id: str
    rootfs: str
    notes: list[str]


class FakeStore:
    """Images by ID, trees made when they are added."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.manifests: dict[str, ImageManifest] = {}
        self.roots: dict[str, str] = {}
        self.references: set[tuple[str, str]] = set()

    def add(
        self,
        name: str = "example.com/tiny",
        *,
        files: Mapping[str, str | bytes] | None = None,
        labels: Any = (),
        annotations: Any = (),
        **app: Any,
    ) -> FakeImage:
        """Add an image with busybox and *files*; *app* are fields of its manifest's app section."""
        section: dict[str, Any] = {"exec": ["/bin/true"], "user": "0", "group": "0", **app}
        manifest = ImageManifest.from_object(
            {
                "acKind": "ImageManifest",
                "acVersion": "0.8.11",
                "name": name,
                "app": section,
                "labels": [{"name": key, "value": value} for key, value in dict(labels).items()],
                "annotations": [
                    {"name": key, "value": value}
                    for key, value in {"created-by": "podkit", **dict(annotations)}.items()
                ],
            }
        )
        ident = "sha512-" + hashlib.sha512(manifest.raw + os.urandom(8)).hexdigest()
        root = self.directory / ident[:20] / "rootfs"
        make_root(root, files or {})
        self.manifests[ident] = manifest
        self.roots[ident] = str(root)
        return FakeImage(ident, name, dict(labels))

    def manifest(self, image_id: str) -> ImageManifest:
        return self.manifests[str(image_id)]

    def find(self, what: str) -> FakeImage:
        manifest = self.manifests[what]
        return FakeImage(what, manifest.name, manifest.labels)

    def render(self, _store: object, image_id: str, *, ref: str | None = None) -> FakeTree:
        tree = f"tree-{image_id[7:20]}"
        if ref:
            self.references.add((tree, ref))
        return FakeTree(tree, self.roots[str(image_id)], [])

    def drop_ref(self, tree_id: str, uuid: str) -> None:
        self.references.discard((tree_id, uuid))


def make_root(root: Path, files: Mapping[str, str | bytes]) -> None:
    """A root of busybox plus *files*: path to content; ``/d/`` a directory, ``-> x`` a link."""
    (root / "bin").mkdir(parents=True)
    shutil.copy(BUSYBOX, root / "bin/busybox")
    for name in set(APPLETS):
        (root / "bin" / name).symlink_to("busybox")
    (root / "etc").mkdir()
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nweb:x:1000:1001::/srv/web:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\nweb:x:1001:\nextra:x:2000:\n")
    for name, content in files.items():
        path = root / name.lstrip("/")
        if name.endswith("/"):
            path.mkdir(parents=True, exist_ok=True)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str) and content.startswith("-> "):
            path.symlink_to(content[3:])
            continue
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        if name.startswith(("/bin/", "/usr/bin/", "/opt/")):
            path.chmod(0o755)


class Kit:
    """A pods installation in a directory of a test's own."""

    def __init__(self, directory: Path, store: FakeStore) -> None:
        self.paths = Paths(
            data=str(directory / "data"),
            run=str(directory / "run"),
            system=str(directory / "system"),
            local=str(directory / "local"),
        )
        for path in self.paths[:2]:
            os.makedirs(str(path), exist_ok=True)
        self.store = store
        self.warnings: list[str] = []
        self.ctx = PodContext(self.paths, store, warn=self.warnings.append)  # type: ignore[arg-type]
        self.processes: list[subprocess.Popen[str]] = []
        self.network_of = os.getpid()
        self.survivors: list[int] = []

    def shell(
        self, script: str, *, image: FakeImage | None = None, name: str | None = None, **options: Any
    ) -> AppRequest:
        """An app that runs *script* with sh."""
        return AppRequest(
            image=image or self.store.add(),
            name=name,
            exec=["/bin/sh", "-c", script],
            **options,  # type: ignore[arg-type]
        )

    def prepare(self, *apps: AppRequest, **options: Any) -> str:
        options.setdefault("networks", ["none"])
        options.setdefault("stop_timeout", 2.0)
        return prepare(self.ctx, PodRequest(apps=apps, **options))

    def argv(self, *words: str) -> list[str]:
        code = f"import sys; sys.path.insert(0, {RUNTIME!r}); from gantry.pods.launch import main; "
        code += "sys.exit(main(sys.argv[1:]))"
        where = [f"--dir={self.paths.data}", f"--run-dir={self.paths.run}"]
        return [sys.executable, "-I", "-S", "-c", code, *where, *words]

    def start(self, uuid: str, *flags: str, **options: Any) -> subprocess.Popen[str]:
        options.setdefault("stdout", subprocess.PIPE)
        options.setdefault("stderr", subprocess.PIPE)
        process = subprocess.Popen(self.argv("run-prepared", *flags, uuid), text=True, **options)
        self.processes.append(process)
        return process

    def run(
        self, uuid: str, *flags: str, timeout: float = 90, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        process = self.start(uuid, *flags, **options)
        out, err = process.communicate(timeout=timeout)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def run_shell(self, script: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Prepare and run a pod of one app; options of the pod have the prefix ``pod_``."""
        pod = {key[4:]: options.pop(key) for key in list(options) if key.startswith("pod_")}
        return self.run(self.prepare(self.shell(script, **options), **pod))

    def plan(self, uuid: str) -> dict[str, Any]:
        return dict(json.loads(self.find(uuid, "plan.json").read_text()))

    def config(self, uuid: str, app: str, which: str = "config") -> dict[str, Any]:
        return dict(json.loads(self.find(uuid, f"apps/{app}/{which}.json").read_text()))

    def find(self, uuid: str, name: str = "") -> Path:
        for path in Path(self.paths.data, "pods").glob(f"*/{uuid}"):
            return path / name if name else path
        raise FileNotFoundError(uuid)

    def uuids(self) -> list[str]:
        return [path.name for path in Path(self.paths.data, "pods").glob("*/*-*-*-*-*")]

    def pauses(self) -> list[int]:
        """Pause processes of this kit's pods, whatever became of the pods."""
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                ours = os.readlink(f"/proc/{pid}/fd/1").startswith(self.paths.data)
                if ours and Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"gantry-pause\0"):
                    found.append(int(pid))
        return found

    def leftovers(self) -> list[str]:
        """What is left on the machine: mounts, processes, control groups, interfaces, files."""
        found = []
        own = self.paths.data
        with open("/proc/self/mountinfo", encoding="utf-8") as file:
            found += [f"mount {line.split()[4]}" for line in file if own in line]
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
            except OSError:
                continue
            if f"--dir={own}" in words and int(pid) != os.getpid():
                found.append(f"process {pid} {words}")
        found += [f"pause process {pid}" for pid in self.pauses()]
        for uuid in self.uuids():
            found += [f"group {path}" for path in groups_of(uuid)]
            if os.path.exists(f"/sys/class/net/gantry-{uuid[:8]}"):
                found.append(f"interface gantry-{uuid[:8]}")
        for place in ("pods", "oci", "net/default"):
            path = Path(self.paths.run, place)
            if path.is_dir():
                found += [f"file {entry}" for entry in path.iterdir()]
        return found

    def close(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
                process.wait()
        with contextlib.suppress(AssertionError):
            until(lambda: not self.pauses(), seconds=30)
        self.survivors = self.pauses()
        for pid in self.survivors:  # a failed test must not leave them; a good one has none
            os.kill(pid, 9)
        for process in self.processes:
            process.communicate()


def until(condition: Callable[[], Any], *, seconds: float = 60.0, what: str = "condition") -> Any:
    """Wait for *condition* to be true, with a deadline."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.01)
    raise AssertionError(f"{what} did not come true within {seconds} s")


def make_kit(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kit]:
    """A kit for a fixture; at its end nothing of its pods may be left on the machine."""
    store = FakeStore(directory / "trees")
    monkeypatch.setattr("gantry.pods.compile.render", store.render)
    kit = Kit(directory, store)
    try:
        yield kit
    finally:
        kit.close()
    assert not kit.survivors, "pause processes outlived their launchers"
    until(lambda: not kit.leftovers(), what=f"nothing left, but there is {kit.leftovers()}")


def namespace_of(pid: int, kind: str) -> int:
    return os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY)


@contextlib.contextmanager
def inside(pid: int) -> Iterator[None]:
    """Run the block in the network namespace of process *pid*."""
    own, other = namespace_of(os.getpid(), "net"), namespace_of(pid, "net")
    try:
        syscalls.setns(other, syscalls.CLONE_NEWNET)
        yield
    finally:
        syscalls.setns(own, syscalls.CLONE_NEWNET)
        os.close(own)
        os.close(other)


def groups_of(uuid: str) -> list[str]:
    """Control groups of a pod, in every hierarchy."""
    top = Path("/sys/fs/cgroup")
    places = [top, *(path for path in top.iterdir() if path.is_dir() and not path.is_symlink())]
    return [str(path) for place in places if (path := place / "gantry" / uuid).is_dir()]
