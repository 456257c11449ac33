"""Field cases of desired state, with the real rooms beneath; only systemd is a stand-in."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.aci import file, make_aci, symlink
from tests.support.fake_host import FakeRooms, FakeSystemd
from tests.support.openpgp import make_key

from gantry.apply.act import Result, apply
from gantry.apply.document import parse
from gantry.apply.host import Host, Keys
from gantry.apply.sets import Sets
from gantry.config import Paths
from gantry.http import HttpOptions
from gantry.images.store import Store
from gantry.releases.backend import Rooms
from gantry.releases.engine import Engine
from gantry.trust import KeyStore

pytestmark = pytest.mark.root


class Real:
    """A host with the real rooms, whose images are signed files; no network is there at all."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.paths = Paths(*(str(root / "host" / d) for d in ("data", "run", "usr", "etc")))
        self.units = root / "host" / "units"
        self.units.mkdir(parents=True)
        self.key = make_key()
        self.image = root / "web.aci"
        busybox = file("bin/busybox", Path("/bin/busybox").read_bytes(), mode=0o755)
        app = {"exec": ["/bin/sleep", "100"], "user": "0", "group": "0"}
        make_aci(
            self.image, "example.com/web", tree=[busybox, symlink("bin/sleep", "busybox")],
            labels={"version": "1", "os": "linux", "arch": "amd64"}, app=app,
        )  # fmt: skip
        Path(f"{self.image}.asc").write_bytes(self.key.sign_file(self.image))
        # It knows units and their states only; what it would run is not looked at.
        self.systemd = FakeSystemd(self.units, FakeRooms())
        self.systemd.start = self._start  # type: ignore[method-assign]

    def _start(self, unit: str) -> None:
        self.systemd.active[unit] = "active"

    def apply(self, document: dict[str, Any], *, check: bool = False) -> Result:
        """As one run of the command: nothing is remembered from the run before."""
        parsed = parse(json.dumps(document).encode())
        store, keys = Store(self.paths), KeyStore(self.paths)
        rooms = Rooms(self.paths, store, keys, HttpOptions(), parsed.insecure)
        engine = Engine(self.paths, rooms, self.systemd, unit_dir=str(self.units), pause=lambda _s: None)
        host = Host(Keys(self.paths, keys), rooms, engine, Sets(self.paths))
        return apply(host, parsed, check=check)

    def document(self, pods: int = 1, **app: Any) -> dict[str, Any]:
        return {
            "set": "site",
            "prune": True,
            "trust": [
                {
                    "prefix": "example.com",
                    "fingerprint": self.key.fingerprint,
                    "key": self.key.public.decode(),
                }
            ],
            "images": [{"name": str(self.image)}],
            "pods": [
                {
                    "name": f"web-{i}",
                    "net": ["none"],
                    "settle": 0,
                    "apps": [{"image": "example.com/web:1", **app}],
                }
                for i in range(pods)
            ],
        }

    def tree(self) -> str:
        """A hash over everything on the host."""
        digest = hashlib.sha256()
        for path in sorted((self.root / "host").rglob("*")):
            info = path.lstat()
            digest.update(f"{path} {info.st_mode} {info.st_mtime_ns} {info.st_uid}\n".encode())
            if path.is_symlink():
                digest.update(os.readlink(path).encode())
            elif path.is_file():
                digest.update(path.read_bytes())
        return digest.hexdigest()


@pytest.fixture
def real(tmp_path: Path) -> Real:
    return Real(tmp_path)


@pytest.fixture
def events() -> Iterator[list[str]]:
    """What this process does that a run without changes must not do: connections and processes."""
    seen: list[str] = []
    watching = [True]
    kinds = (
        "socket.connect",
        "socket.getaddrinfo",
        "subprocess.Popen",
        "os.posix_spawn",
        "os.fork",
        "os.exec",
    )

    def hook(event: str, args: tuple[object, ...]) -> None:
        if watching[0] and event in kinds:
            seen.append(f"{event} {args[:2]}")

    sys.addaudithook(hook)
    yield seen
    watching[0] = False


def test_a_second_run_opens_nothing_starts_nothing_changes_nothing(real: Real, events: list[str]) -> None:
    document = real.document(pods=5)
    first = real.apply(document)
    assert not first.errors
    assert [d.action.action for d in first.done] == ["add", "fetch"] + ["create"] * 5
    assert events, "the hook sees processes, or its silence would mean nothing"
    before = real.tree()
    real.image.unlink()  # whoever reads it again fails
    real.systemd.calls.clear()
    events.clear()
    second = real.apply(document)
    assert not second.errors
    assert not second.as_dict()["changed"]
    assert events == []
    assert len(real.systemd.calls) == 1, "one systemctl show for all pods"
    assert real.tree() == before


def test_case_33_check_on_a_host_where_nothing_was_ever_installed(real: Real, events: list[str]) -> None:
    before = real.tree()
    real.systemd.booted = False
    real.image.unlink()
    document = real.document()
    del document["trust"]  # judging a key takes a process of its own
    predicted = real.apply(document, check=True)
    assert not predicted.errors
    assert [d.changed for d in predicted.done] == [True, True]
    assert events == []
    assert real.tree() == before
    with_key = real.apply(real.document(), check=True)
    assert with_key.as_dict()["changed"]
    assert real.tree() == before


ODD = [
    "$$",
    "${HOME}",
    "%n",
    "%20",
    "100%",
    '"q"',
    "'s'",
    "back\\slash",
    "a\nb",
    "é 日本 #&$",
    "-p",
    "8080",
    "--env",
    "",
]


def test_case_32_36_52_values_are_in_the_manifest_byte_for_byte_and_nowhere_in_the_unit(real: Real) -> None:
    document = real.document(args=ODD, environment={"ODD": "\n".join(ODD)})
    assert not real.apply(document).errors
    assert not real.apply(document).as_dict()["changed"]
    (manifest,) = Path(real.paths.data, "pods", "prepared").glob("*/pod")
    app = json.loads(manifest.read_bytes())["apps"][0]["app"]
    assert app["exec"] == ["/bin/sleep", "100", *ODD]
    assert {"name": "ODD", "value": "\n".join(ODD)} in app["environment"]
    unit = (real.units / "gantry-web-0.service").read_text()
    assert "HOME" not in unit
    assert "日本" not in unit


def test_case_24_a_renewed_key_is_merged_and_the_dates_are_shown(real: Real) -> None:
    document = real.document()
    document.update(pods=[], images=[])
    first = real.apply(document)
    after = first.done[0].action.after
    assert first.done[0].changed
    assert after["fingerprint"] == real.key.fingerprint
    assert "expires" in after
    assert not real.apply(document).as_dict()["changed"]
    # Given in another spelling (its own bytes, other armor), the same key is still no change.
    respelled = json.loads(json.dumps(document))
    respelled["trust"][0]["key"] = real.key.public.decode().replace("\n\n", "\nComment: again\n\n", 1)
    assert not real.apply(respelled).as_dict()["changed"]


def test_a_key_with_another_fingerprint_is_refused_and_nothing_is_stored(real: Real) -> None:
    document = real.document()
    document["trust"][0]["fingerprint"] = "0" * 40
    before = real.tree()
    with pytest.raises(Exception, match="0000") as e:
        real.apply(document)
    assert "\n" not in str(e.value)
    assert real.tree() == before


def test_case_48_what_the_sets_made_is_read_from_disk_by_every_run(real: Real) -> None:
    real.apply(real.document(pods=2))
    gone = real.apply({"set": "site", "prune": True, "trust": [], "images": [], "pods": []})
    assert not gone.errors
    assert [f"{d.action.kind} {d.action.action}" for d in gone.done] == [
        "pod remove", "pod remove", "image remove", "trust remove",
    ]  # fmt: skip
    assert Store(real.paths).list() == []
    assert KeyStore(real.paths).list() == []
    assert not list(Path(real.paths.data, "pods").glob("*/*-*"))
    assert not list(Path(real.paths.data, "releases").glob("web*"))
    assert not list(real.units.rglob("gantry-*"))


def test_an_image_that_a_pod_needs_cannot_be_removed_by_a_document(real: Real) -> None:
    real.apply(real.document())
    result = real.apply({"images": [{"name": "example.com/web:1", "state": "absent"}]})
    assert "stays: a release of the named pod web-0" in str(result.errors[0])
    assert not real.apply(real.document()).as_dict()["changed"]


def test_an_unsigned_image_is_refused_and_its_pod_left_alone(real: Real) -> None:
    Path(f"{real.image}.asc").unlink()
    result = real.apply(real.document())
    assert [bool(d.error) for d in result.done] == [False, True, False] or len(result.errors) == 2
    assert result.errors[0].code == "unsigned"
    assert "\n" not in str(result.errors[0])
    assert not list(Path(real.paths.data, "pods").glob("*/*-*"))


def test_case_57_the_document_is_in_no_process_list_and_no_file_that_others_may_read(real: Real) -> None:
    real.apply(real.document(environment={"TOKEN": "s3cret-value"}))
    found = subprocess.run(
        ["grep", "-rl", "s3cret-value", str(real.root / "host")], capture_output=True, text=True, check=False
    ).stdout.split()
    assert found, "it has to be somewhere"
    for path in found:
        modes = [os.stat(p).st_mode & 0o077 for p in (path, *map(str, Path(path).parents))]
        assert 0 in modes, f"{path} can be read by others"


def test_an_image_that_was_taken_in_unverified_is_not_there_for_a_document_that_wants_it_verified(
    real: Real,
) -> None:
    signature = Path(f"{real.image}.asc")
    good = signature.read_bytes()
    signature.unlink()
    careless = {"images": [{"name": str(real.image)}], "insecure_options": ["image"]}
    assert not real.apply(careless).errors
    result = real.apply(real.document())
    assert result.errors[0].code == "unsigned"
    signature.write_bytes(good)
    assert not real.apply(real.document()).errors
