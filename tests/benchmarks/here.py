"""The runtime as a host has it, unpacked on this machine, with an image whose app ends at once.

Everything lies in one temporary directory; pods are started in a network namespace of the benchmark's own.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "runtime"))

from gantry.trust.signing import make_key  # noqa: E402 - the path comes first

IMAGE = "example.com/bench"
APPLETS = ("sh", "true", "sleep")


def run(*words: str | Path, **options: object) -> str:
    """Run a program; its standard output. A failure shows what it said."""
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]
    if done.returncode:
        sys.exit(f"bench: {' '.join(map(str, words))}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return str(done.stdout)


def quiet(*words: str | Path) -> None:
    """Run a program whose output does not matter, as cheaply as a shell would."""
    pid = os.posix_spawn(
        str(words[0]),
        list(map(str, words)),
        os.environ,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
            (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
        ],
    )
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status:
        sys.exit(f"bench: {' '.join(map(str, words))}: exit {status}")


def build_runtime() -> Path:
    """The runtime archive for this very Python; may need an index."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    made = run(
        sys.executable,
        ROOT / "scripts/build_runtime.py",
        f"--python={version}={os.path.realpath(sys.executable)}",
        f"--out={ROOT / 'build/runtime'}",
    )
    return Path(json.loads(made)[0]["archive"])


class Here:
    """A Gantry of its own below *directory*."""

    def __init__(self, directory: Path, runtime: Path) -> None:
        self.directory = directory
        (directory / "release").mkdir()
        run("tar", "-C", directory / "release", "-xf", runtime)
        (self.program,) = directory.glob("release/**/bin/gantry")
        self.flags = (
            f"--dir={directory / 'data'}",
            f"--run-dir={directory / 'run'}",
            f"--local-config={directory / 'etc'}",
            f"--system-config={directory / 'lib'}",
        )
        self._image()

    def __call__(self, *words: str | Path) -> str:
        """Run a gantry command; what it printed."""
        return run(*self.command(*words))

    def command(self, *words: str | Path) -> tuple[str | Path, ...]:
        """The whole command line of a gantry command."""
        return (self.program, *self.flags, *words)

    def _image(self) -> None:
        layout = self.directory / "layout"
        busybox(layout / "rootfs")
        manifest = {
            "acKind": "ImageManifest",
            "acVersion": "0.8.11",
            "name": IMAGE,
            "labels": [{"name": "os", "value": "linux"}, {"name": "arch", "value": "amd64"}],
            "app": {"exec": ["/bin/true"], "user": "0", "group": "0"},
        }
        (layout / "manifest").write_text(json.dumps(manifest))
        archive = self.directory / "bench.aci"
        self("build", layout, archive)
        secret, public, self.fingerprint = make_key("Benchmark <bench@example.com>")
        for name, text in {"secret.asc": secret, "public.asc": public}.items():
            (self.directory / name).write_text(text)
        self("sign", f"--key={self.directory / 'secret.asc'}", archive)
        self("trust", f"--prefix={IMAGE}", f"--fingerprint={self.fingerprint}", self.directory / "public.asc")
        self("fetch", archive)

    def prepare(self, *flags: str, words: tuple[str, ...] = ()) -> str:
        """A prepared pod's UUID."""
        return self("prepare", "--quiet", "--pull-policy=never", *flags, IMAGE, *words).strip()


def busybox(rootfs: Path) -> None:
    """A root with busybox in it."""
    (rootfs / "bin").mkdir(parents=True)
    shutil.copy("/bin/busybox", rootfs / "bin/busybox")
    for applet in APPLETS:
        (rootfs / "bin" / applet).symlink_to("busybox")
