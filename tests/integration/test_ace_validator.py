"""The specification's own validator of executors passes, under every network (EXE-34 ... EXE-37).

It is built from the source that Debian carries, as two images: *main*, with its event handlers, and
*sidekick*, which meet in a volume.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.integration.test_pods_cni import PLUGINS, configure, lan
from tests.integration.test_pods_network import Net, net
from tests.integration.test_pods_services import Whole
from tests.support.aci import file, make_aci
from tests.support.pods import RUNTIME, inside, until
from tests.support.store import put

from gantry.appc.parts import Volume
from gantry.pods import AppRequest, PodRequest, get, prepare, stop
from gantry.sandbox import METADATA_PORT

SOURCE = Path("/usr/share/gocode/src/github.com/appc/spec/ace")
GO = shutil.which("go", path="/usr/bin:/usr/local/bin:/usr/lib/go/bin")

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(GO is None or not SOURCE.is_dir(), reason="Debian's appc-spec or Go is not here"),
]
__all__ = ["net"]

# The validator gives the metadata service a tenth of a second for each answer; a busy machine may need more.
ATTEMPTS = 8
HURRIED = "Client.Timeout"


@pytest.fixture(scope="module")
def validator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, built as its own script does: static, for this machine."""
    target = tmp_path_factory.mktemp("ace") / "ace-validator"
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(target.parent),
        "GOPATH": "/usr/share/gocode",
        "GO111MODULE": "off",
        "GOFLAGS": "-buildvcs=false",
        "CGO_ENABLED": "0",
    }
    subprocess.run(
        [str(GO), "build", "-o", str(target), "github.com/appc/spec/ace"],
        env=environment,
        cwd=target.parent,
        check=True,
        timeout=600,
    )
    return target


def app_of(mode: str, **more: Any) -> dict[str, Any]:
    return {
        "exec": ["/ace-validator", mode],
        "user": "0",
        "group": "0",
        "mountPoints": [{"name": "database", "path": "/db", "readOnly": False}],
        **more,
    }


MAIN = app_of(
    "main",
    eventHandlers=[
        {"name": "pre-start", "exec": ["/ace-validator", "prestart"]},
        {"name": "post-stop", "exec": ["/ace-validator", "poststop"]},
    ],
    workingDirectory="/opt/acvalidator",
    environment=[{"name": "IN_ACE_VALIDATOR", "value": "correct"}],
    ports=[{"name": "www", "protocol": "tcp", "port": 80}],
)


@pytest.fixture
def ace(validator: Path, net: Net) -> Iterator[Any]:
    with tempfile.TemporaryDirectory(prefix="gantry-ace-") as name:
        os.chmod(name, 0o755)
        whole = Whole(Path(name))
        try:
            with inside(net.host):
                listener = socket.create_server(("127.0.0.1", METADATA_PORT), backlog=128)
            whole.start_services(listener)
            for mode, section in (("main", MAIN), ("sidekick", app_of("sidekick"))):
                made = make_aci(
                    Path(name, f"{mode}.aci"),
                    f"coreos.com/ace-validator-{mode}",
                    version="1.0",
                    app=section,
                    tree=[file("ace-validator", validator.read_bytes(), 0o755)],
                    files={"opt/acvalidator/keep": ""} if mode == "main" else {},
                )
                put(whole.images, made)
            plain = whole.argv
            whole.argv = lambda *words: ["nsenter", "-t", str(net.host), "-n", "--", *plain(*words)]  # type: ignore[method-assign]
            yield whole
            for uuid in whole.uuids():
                if get(whole.paths, uuid).state == "running":
                    stop(whole.paths, uuid, force=True, wait=True)
        finally:
            whole.close()
        until(lambda: not whole.leftovers(), seconds=60, what="nothing left")


def passes(start: Any) -> None:
    """Run until the validator has an opinion that is not about haste."""
    for _ in range(ATTEMPTS):
        done = start()
        if HURRIED not in done.stderr:
            break
    assert done.returncode == 0, done.stderr
    assert sorted(line for line in done.stdout.splitlines() if line.endswith(("OK", "FAIL"))) == [
        "main OK",
        "poststop OK",
        "prestart OK",
        "sidekick OK",
    ]


def images(whole: Whole) -> dict[str, Any]:
    return {image.name.rpartition("-")[2]: image for image in whole.images.list()}


@pytest.mark.parametrize("network", ["none", "default", "default-restricted", "lan", "host"])
def test_EXE_37_EXE_05_MDS_01_the_validator_passes(ace: Whole, network: str) -> None:
    if network in {"default-restricted", "lan"} and not (PLUGINS / "bridge").exists():
        pytest.skip("containernetworking-plugins is not here")
    configure(ace, lan())
    found = images(ace)

    def start() -> subprocess.CompletedProcess[str]:
        request = PodRequest(
            apps=[AppRequest(image=found[mode]) for mode in ("main", "sidekick")],
            networks=[network],
            volumes=[Volume("database", "empty")],
            annotations={"why": "to be validated"},
        )
        return ace.run(prepare(ace.ctx, request), timeout=60)

    passes(start)


def test_EXE_37_the_validator_passes_by_a_pod_manifest(ace: Whole, tmp_path: Path) -> None:
    manifest = {
        "acVersion": "0.8.11",
        "acKind": "PodManifest",
        "apps": [
            {
                "name": image.name.rpartition("/")[2],
                "image": {"id": str(image.id)},
                "mounts": [{"volume": "database", "path": "/db"}],
            }
            for image in images(ace).values()
        ],
        "volumes": [{"name": "database", "kind": "empty"}],
        "annotations": [{"name": "why", "value": "to be validated"}],
    }
    (tmp_path / "pod.json").write_text(json.dumps(manifest))
    code = f"import sys; sys.path.insert(0, {RUNTIME!r}); from gantry.cli import main; sys.exit(main())"
    words = [f"--dir={ace.paths.data}", f"--run-dir={ace.paths.run}", "run", "--net=none"]
    argv = [sys.executable, "-c", code, *words, f"--pod-manifest={tmp_path / 'pod.json'}"]
    passes(lambda: subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False))


def test_the_validator_finds_what_is_wrong(ace: Whole) -> None:
    """It can fail: this is no test that always passes."""
    main = images(ace)["main"]
    request = PodRequest(
        apps=[AppRequest(image=main, name="another", environment={"IN_ACE_VALIDATOR": "wrong"})],
        networks=["none"],
    )
    done = ace.run(prepare(ace.ctx, request), timeout=60)
    assert done.returncode == 1
    assert "main FAIL" in done.stdout
    assert 'AC_APP_NAME not set appropriately (need "ace-validator-main", got "another")' in done.stderr
