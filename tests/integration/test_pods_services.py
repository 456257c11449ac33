"""The whole of it: an image in the real store, rendered, run, with the real signer and metadata service."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support import services
from tests.support.aci import file, make_aci, symlink
from tests.support.pods import APPLETS, BUSYBOX, Kit, until
from tests.support.store import put

from gantry.appc.manifest import PodManifest
from gantry.appc.parts import Volume
from gantry.images import Store
from gantry.linux.activation import listen_unix
from gantry.pods import (
    AppRequest,
    MountRequest,
    PodContext,
    PodRequest,
    collect,
    get,
    manifest_bytes,
    prepare,
    remove,
)
from gantry.signer import client as signer

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

CLIENT = """
ask() { printf "GET /${AC_METADATA_URL##*/}/acMetadata/v1/$1 HTTP/1.0\\r\\nHost: x\\r\\n\\r\\n" |
  nc -w 5 169.254.169.254 18112 | tail -n1; echo; }
"""


class Whole(Kit):
    """A kit with the real store and services."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, None)  # type: ignore[arg-type]
        self.images = Store(self.paths)
        self.ctx = PodContext(self.paths, self.images, warn=self.warnings.append)
        self.directory = directory
        self.log = directory / "log"
        self.services: dict[str, subprocess.Popen[bytes]] = {}
        self.sockets: dict[str, list[socket.socket]] = {}

    def image(self, name: str, **app: Any) -> Any:
        entries = [file("bin/busybox", Path(BUSYBOX).read_bytes(), 0o755)]
        entries += [symlink(f"bin/{applet}", "busybox") for applet in sorted(set(APPLETS))]
        section = {"exec": ["/bin/true"], "user": "0", "group": "0", **app}
        made = make_aci(self.directory / "image.aci", name, version="1.0", app=section, tree=entries)
        return put(self.images, made)

    def start_services(self, listener: socket.socket | None = None) -> None:
        """Start both; *listener* is where pods with the host's network find the metadata service."""
        signing = str(Path(self.paths.run, "signer.sock"))
        self.sockets["signer"] = [
            listen_unix(signing, socket.SOCK_STREAM, mode=0o660, gid=services.METADATA_UID)
        ]
        control = listen_unix(
            str(Path(self.paths.run, "metadata-svc.sock")), socket.SOCK_SEQPACKET, mode=0o600
        )
        tcp = listener or socket.create_server(("127.0.0.1", 0), backlog=128)
        self.sockets["metadata"] = [control, tcp]
        self.start_service("signer")
        self.start_service("metadata")

    def start_service(self, name: str) -> None:
        user = services.SIGNER_UID if name == "signer" else services.METADATA_UID
        arguments = ["--dir", self.paths.data, "--run-dir", self.paths.run, "--user", str(user)]
        if name == "signer":
            arguments += ["--metadata-user", str(services.METADATA_UID)]
        self.services[name] = services.service(name, arguments, self.log, self.sockets[name])

    def close(self) -> None:
        super().close()
        for process in self.services.values():
            process.kill()
            process.wait()
        for sockets in self.sockets.values():
            for each in sockets:
                each.close()


@pytest.fixture
def whole() -> Iterator[Whole]:
    with tempfile.TemporaryDirectory(
        prefix="gantry-pods-"
    ) as name:  # pytest's own are closed to the services
        os.chmod(name, 0o755)
        kit = Whole(Path(name))
        try:
            yield kit
        finally:
            kit.close()
        until(lambda: not kit.leftovers(), seconds=60, what="nothing left")


def run(whole: Whole, image: Any, script: str, **options: Any) -> str:
    app = AppRequest(image=image, name="main", exec=["/bin/sh", "-c", CLIENT + script], **options)
    return prepare(
        whole.ctx, PodRequest(apps=[app], networks=["none"], annotations={"from": "test"}, stop_timeout=1)
    )


def test_an_image_from_the_store_is_rendered_and_run(whole: Whole) -> None:
    image = whole.image("example.com/tiny")
    uuid = run(whole, image, "echo hello > /made; cat /made")
    assert whole.run(uuid).stdout == "hello\n"
    [tree] = whole.images.trees()
    assert whole.images.refs(tree) == [uuid]
    assert not Path(whole.images.tree_rootfs(tree), "made").exists()  # written to the pod's own layer
    assert whole.images.gc(grace_period=0).trees == []
    remove(whole.paths, uuid)
    assert whole.images.refs(tree) == []
    assert whole.images.gc(grace_period=0).trees == [tree]


def test_POD_07_a_pod_asks_for_its_metadata_and_signs(whole: Whole) -> None:
    """MDS-08 ... MDS-12, EXE-05."""
    whole.start_services()
    image = whole.image("example.com/tiny")
    script = "ask pod/uuid; ask apps/$AC_APP_NAME/image/id; ask pod/manifest; ask pod/annotations; sleep 1000"
    uuid = run(whole, image, script)
    process = whole.start(uuid)
    assert process.stdout
    lines = [process.stdout.readline().strip() for _ in range(4)]
    assert lines[0] == uuid
    assert lines[1] == str(image.id)
    served = json.loads(lines[2])
    assert served == json.loads(manifest_bytes(whole.paths, uuid))
    PodManifest.parse(lines[2].encode()).check_reified()
    assert {"name": "from", "value": "test"} in json.loads(lines[3])
    token = whole.plan(uuid)["token"]
    signature = signer.sign(f"{whole.paths.run}/signer.sock", uuid, token, b"content")
    assert signer.verify(f"{whole.paths.run}/signer.sock", uuid, b"content", signature)
    assert base64.b64encode(signature)
    assert get(whole.paths, uuid).warnings == []
    process.terminate()
    process.wait(timeout=60)
    remove(whole.paths, uuid)
    assert not signer.verify(f"{whole.paths.run}/signer.sock", uuid, b"content", signature)


def test_a_service_that_was_killed_finds_the_pod_again_and_requests_wait(whole: Whole) -> None:
    whole.start_services()
    uuid = run(whole, whole.image("example.com/tiny"), "echo up; while :; do ask pod/uuid; sleep 0.1; done")
    process = whole.start(uuid)
    assert process.stdout
    assert process.stdout.readline() == "up\n"
    whole.services["metadata"].send_signal(signal.SIGKILL)
    whole.services["metadata"].wait()
    whole.start_service("metadata")
    answers = [process.stdout.readline().strip() for _ in range(20)]
    assert set(filter(None, answers)) == {uuid}
    process.terminate()
    process.wait(timeout=60)


def test_a_service_whose_socket_is_dead_is_an_error_before_apps_start(whole: Whole) -> None:
    image = whole.image("example.com/tiny")
    uuid = run(whole, image, "echo started")
    dead = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    dead.bind(f"{whole.paths.run}/metadata-svc.sock")
    dead.close()
    done = whole.run(uuid)
    assert (done.returncode, done.stdout) == (254, "")
    assert done.stderr.count("run-prepared: ") >= 1
    assert get(whole.paths, uuid).state == "prepared"


def test_the_key_of_a_restartable_pod_survives_its_restarts(whole: Whole) -> None:
    whole.start_services()
    image = whole.image("example.com/tiny")
    app = AppRequest(image=image, name="main", exec=["/bin/true"])
    uuid = prepare(whole.ctx, PodRequest(apps=[app], networks=["none"], restartable=True))
    assert whole.run(uuid).returncode == 0
    sock = f"{whole.paths.run}/signer.sock"
    token = whole.plan(uuid)["token"]
    first = signer.sign(sock, uuid, token, b"x")
    assert whole.run(uuid).returncode == 0
    assert signer.sign(sock, uuid, token, b"x") == first


def test_a_pod_is_removed_while_the_signer_is_away_and_gc_deletes_its_key(whole: Whole) -> None:
    whole.start_services()
    image = whole.image("example.com/tiny")
    gone, kept = run(whole, image, "true"), run(whole, image, "true")
    for uuid in (gone, kept):
        assert whole.run(uuid).returncode == 0
    sock = f"{whole.paths.run}/signer.sock"
    assert set(signer.uuids(sock)) == {gone, kept}
    os.rename(sock, f"{sock}.away")
    dead = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    dead.bind(sock)  # nobody listens
    remove(whole.paths, gone)
    dead.close()
    os.rename(f"{sock}.away", sock)
    assert set(signer.uuids(sock)) == {gone, kept}
    done = collect(whole.paths)
    assert (done.keys, done.errors) == ([gone], [])
    assert signer.uuids(sock) == [kept]
    assert collect(whole.paths).keys == []


def test_a_handler_after_the_end_of_a_left_pod_is_given_no_url_that_nobody_answers(whole: Whole) -> None:
    whole.start_services()
    handler = {"name": "post-stop", "exec": ["/bin/sh", "-c", "env > /out/env"]}
    image = whole.image("example.com/tiny", eventHandlers=[handler])
    app = AppRequest(
        image=image, name="main", exec=["/bin/sleep", "1000"], mounts=[MountRequest("out", "/out")]
    )
    request = PodRequest(apps=[app], networks=["none"], volumes=[Volume("out", "empty")], restartable=True)
    uuid = prepare(whole.ctx, request)
    left = whole.run(uuid, "--leave", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert left.returncode == 0
    app_pid = get(whole.paths, uuid).apps[0].pid or 0
    assert b"AC_METADATA_URL=" in Path(f"/proc/{app_pid}/environ").read_bytes()
    os.kill(app_pid, signal.SIGKILL)
    told = {**os.environ, "EXIT_CODE": "killed", "EXIT_STATUS": "KILL"}
    subprocess.run(whole.argv("pod-stopped", uuid), env=told, check=True, timeout=20)
    seen = whole.find(uuid, "sharedVolumes/out/env").read_text()
    assert "AC_APP_NAME=main" in seen
    assert "AC_METADATA_URL" not in seen
