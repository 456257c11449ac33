"""Fetching over TLS, beside curl, gzip and sha512sum: one large image, many small ones, one that is there."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks.here import Here, busybox, quiet
from tests.benchmarks.images import NAME, make_tree, row, shell
from tests.benchmarks.table import Row, in_turns
from tests.support.https_server import Authority
from tests.support.servers import NGINX, free_port, nginx_frame, running

SMALL = 20
_KEYS = ("--prefix=example.com", "--fingerprint")


def measure(here: Here, rounds: int) -> list[Row]:
    """Rows for fetching."""
    site = here.directory / "site"
    site.mkdir()
    large, small = site / "large.aci", [site / f"small{number}.aci" for number in range(SMALL)]
    make_tree(here.directory / "tree/rootfs")
    _publish(here, here.directory / "tree/rootfs", NAME, large)
    busybox(here.directory / "small/rootfs")
    for number, image in enumerate(small):
        _publish(here, here.directory / "small/rootfs", f"example.com/small{number}", image)
    here("trust", _KEYS[0], f"{_KEYS[1]}={here.fingerprint}", here.directory / "public.asc")
    with _served(site) as (url, ca_file):

        def fetch(*images: Path, policy: str = "update") -> tuple[str | Path, ...]:
            addresses = [f"{url}/{image.name}" for image in images]
            return here.command(f"--ca-file={ca_file}", "fetch", f"--pull-policy={policy}", *addresses)

        def forget() -> None:
            for image in json.loads(here("image", "list", "--format=json")):
                here("image", "rm", image["id"])
            os.sync()

        copy = here.directory / "copy.aci"
        peer = shell(
            f"curl -sS --cacert {shlex.quote(ca_file)} {url}/{large.name} | "
            f"tee {shlex.quote(str(copy))} | gzip -dc | sha512sum"
        )
        ours = fetch(large)
        spent = in_turns(
            {"ours": lambda: quiet(*ours), "peer": lambda: quiet(*peer)}, min(rounds, 5), before=forget
        )
        forget()
        memory = _memory(ours)
        there = fetch(large, policy="new")
        present = in_turns({"ours": lambda: quiet(*there)}, rounds)["ours"]
        alone = {
            image.name: in_turns({"one": lambda image=image: quiet(*fetch(image))}, 1, before=forget)["one"]
            for image in small[:5]
        }
        all_at_once = in_turns({"all": lambda: quiet(*fetch(*small))}, min(rounds, 5), before=forget)["all"]
    slowest = max(alone.values())
    return [
        row("fetch, verify, store 200 MB : curl | tee | gzip -d | sha512sum", spent, "peer", "<= 0.75"),
        Row("fetch: memory of all its processes", f"{memory / 1024:.0f} MB", "", "", "64 MB"),
        Row(
            f"fetch {SMALL} small images : the slowest alone",
            f"{all_at_once:.0f} ms",
            f"{slowest:.0f} ms",
            f"{all_at_once / slowest:.2f}",
            "<= 2",
        ),
        Row("fetch of what is there", f"{present:.0f} ms", "", "", "< 60 ms"),
    ]


def _publish(here: Here, rootfs: Path, name: str, image: Path) -> None:
    manifest = here.directory / "manifest"
    manifest.write_text(json.dumps({"acKind": "ImageManifest", "acVersion": "0.8.11", "name": name}))
    here("build", f"--manifest={manifest}", rootfs, image)
    here("sign", f"--key={here.directory / 'secret.asc'}", image)


@contextlib.contextmanager
def _served(site: Path) -> Iterator[tuple[str, str]]:
    """The directory on a web server: its URL, and the file of its authority."""
    if NGINX is None:
        sys.exit("bench: nginx is missing; scripts/setup bench unpacks it")
    place = site.parent / "nginx"
    place.mkdir()
    authority = Authority(str(place))
    certificate, key = authority.issue()
    port = free_port()
    block = (
        f"server {{ listen 127.0.0.1:{port} ssl; root {site}; sendfile on;"
        f" ssl_certificate {certificate}; ssl_certificate_key {key}; }}"
    )
    file = place / "nginx.conf"
    file.write_text(nginx_frame(place, block))
    with running([NGINX, "-c", str(file), "-e", str(place / "error.log")], port):
        yield f"https://127.0.0.1:{port}", authority.ca_file


def _memory(command: tuple[str | Path, ...]) -> int:
    """KiB that a command and its children have in memory at most; what they share is counted once."""
    most = 0
    with subprocess.Popen(
        list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as main:
        while main.poll() is None:
            most = max(most, sum(map(_share, [main.pid, *_children(main.pid)])))
            time.sleep(0.02)  # between two looks; nothing is timed here
    if main.returncode:
        sys.exit(f"bench: {shlex.join(map(str, command))}: exit {main.returncode}")
    return most


def _children(pid: int) -> list[int]:
    found = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += [int(child), *_children(int(child))]
    return found


def _share(pid: int) -> int:
    with contextlib.suppress(OSError, StopIteration):
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return 0
