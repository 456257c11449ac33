"""The ``gantry`` command as a host has it, and a site that it fetches from.

    with Site(tmp_path) as site:
        site.publish("example.com/web", "1.0", exec_=["/bin/true"])
        done = site.gantry("fetch", "example.com/web:1.0")
        assert done.returncode == 0

The command is the launcher script of the bundle beside a ``lib`` of links, run by the bare interpreter: what
a test sees is what a host would see. The site is an HTTPS server that is every host on the internet: the
command reaches it through a proxy that leads all connections there.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from tests.support.aci import MadeImage, file, make_aci, symlink
from tests.support.https_server import HttpsServer, Reply, Request
from tests.support.openpgp import KeyPair, make_key

import gantry
from gantry.config import Paths

RUNTIME = Path(gantry.__file__).resolve().parent
BUSYBOX = Path("/bin/busybox")


def make_bundle(directory: Path) -> Path:
    """An installed runtime in *directory*; its command."""
    interpreter = os.path.realpath(sys.executable)
    (directory / "bin").mkdir(parents=True)
    (directory / "lib").mkdir()
    text = (RUNTIME / "data" / "bin" / "gantry").read_text()
    command = directory / "bin" / "gantry"
    command.write_text(text.replace("@PYTHON@", interpreter))
    command.chmod(0o755)
    for package in Path(shutil.__file__).parent, *map(Path, sys.path):
        if package.name == "site-packages":
            for entry in package.iterdir():
                if entry.name not in {"gantry", "__pycache__"} and entry.suffix != ".pth":
                    (directory / "lib" / entry.name).symlink_to(entry)
    (directory / "lib" / "gantry").symlink_to(RUNTIME)
    return command


class Proxy:
    """An HTTP proxy for CONNECT that leads every connection to one port of this machine."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.connections: list[str] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop; connections under way are left to their ends."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client:
            head = b""
            while b"\r\n\r\n" not in head:
                more = client.recv(4096)
                if not more:
                    return
                head += more
            self.connections.append(head.split()[1].decode())
            with socket.create_connection(("127.0.0.1", self._port)) as server:
                client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                back = threading.Thread(target=_pump, args=(server, client), daemon=True)
                back.start()
                _pump(client, server)
                back.join()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


class Site:
    """A web of image servers, one signing key, and an installation of the command that trusts it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.paths = Paths(*(str(directory / d) for d in ("data", "run", "usr", "etc")))
        self.units = directory / "units"
        self.units.mkdir()
        self.command = make_bundle(directory / "bundle")
        self.key: KeyPair = make_key()
        self.files: dict[str, bytes] = {}
        self.server = HttpsServer(self._answer)
        self.proxy = Proxy(self.server.port)
        self.key_file = directory / "key.asc"
        self.key_file.write_bytes(self.key.public)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.proxy.close()
        self.server.close()

    def _answer(self, request: Request) -> bytes | Reply:
        if request.path.endswith("?ac-discovery=1"):
            return (
                b'<meta name="ac-discovery" content="example.com '
                b'https://example.com/{name}-{version}-{os}-{arch}.{ext}">'
            )
        return self.files.get(request.bare_path, Reply(404))

    def publish(
        self,
        name: str = "example.com/web",
        version: str = "1.0",
        *,
        key: KeyPair | None = None,
        signed: bool = True,
        files: Mapping[str, str | bytes] | None = None,
        **fields: Any,
    ) -> MadeImage:
        """Make an image of busybox, sign it and put it on the server."""
        path = self.directory / f"{name.replace('/', '-')}-{version}.aci"
        tree = [
            file("bin/busybox", BUSYBOX.read_bytes(), mode=0o755),
            *(
                symlink(f"bin/{a}", "busybox")
                for a in ("sh", "true", "false", "cat", "sleep", "env", "echo", "httpd")
            ),
        ]
        labels = {"version": version, "os": "linux", "arch": "amd64"}
        made = make_aci(
            path, name, files={"etc/hostname": "", **(files or {})}, tree=tree, labels=labels, **fields
        )
        url = f"/{name}-{version}-linux-amd64.aci"
        self.files[url] = made.data
        if signed:
            self.files[f"{url}.asc"] = (key or self.key).sign_file(path)
        else:
            self.files.pop(f"{url}.asc", None)
        return made

    @property
    def environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "HOME": "/nonexistent",
            "LC_ALL": "C.UTF-8",
            "https_proxy": self.proxy.url,
        }

    def argv(self, *words: str) -> list[str]:
        p = self.paths
        flags = [
            f"--dir={p.data}",
            f"--run-dir={p.run}",
            f"--system-config={p.system}",
            f"--local-config={p.local}",
        ]
        return [str(self.command), *flags, *words]

    def gantry(
        self, *words: str, document: Mapping[str, Any] | None = None, timeout: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run one command; with a document on its standard input."""
        lean = any(w in {"run-prepared", "pod-stopped"} for w in words)
        extra = [] if lean else [f"--ca-file={self.server.ca_file}"]
        return subprocess.run(
            self.argv(*extra, *words),
            input=json.dumps(document) if document is not None else "",
            capture_output=True,
            text=True,
            env=self.environment,
            timeout=timeout,
            check=False,
        )

    def trust(self) -> None:
        """Trust the site's key for example.com."""
        done = self.gantry(
            "trust", "--prefix=example.com", f"--fingerprint={self.key.fingerprint}", str(self.key_file)
        )
        assert done.returncode == 0, done.stderr

    def json(self, *words: str, **options: Any) -> Any:
        """What a command prints with ``--format=json``."""
        done = self.gantry("--format=json", *words, **options)
        return json.loads(done.stdout)
