"""Publishing to servers as they are, nginx and sshd; and docs/distribution.md, word for word."""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.aci import make_aci
from tests.support.command import Proxy
from tests.support.https_server import Authority
from tests.support.openpgp import KeyPair, make_key
from tests.support.pages import examples, run_page
from tests.support.servers import NGINX, SERVERS, free_port, nginx_frame, running, server

PAGE = Path(__file__).resolve().parents[2] / "docs/distribution.md"
SSHD = server("openssh-server", "sshd")
UPLOADS = "https://push.example.com/"
HERE = "amd64" if os.uname().machine == "x86_64" else "aarch64"


class Site:
    """A directory served by nginx as example.com with an authority of its own, a publisher, and a host."""

    def __init__(self, base: Path) -> None:
        self.base, self.tree, self.work = base, base / "work/www", base / "work"
        self.tree.mkdir(parents=True)
        self.authority = Authority(str(base))
        self.certificate, self.certificate_key = self.authority.issue()
        self.port = free_port()
        self.proxy = Proxy(self.port)
        self.key: KeyPair = make_key("Release <release@example.com>")
        (self.work / "secret.asc").write_bytes(self.key.secret)
        (self.work / "public.asc").write_bytes(self.key.public)
        self.home = base / "home"
        self.home.mkdir()
        self.program = [sys.executable, "-c", "import sys; from gantry.cli import main; sys.exit(main())"]
        kinds = {"dir": "data", "run-dir": "run", "local-config": "etc", "system-config": "lib"}
        self.flags = [f"--{flag}={base / name}" for flag, name in kinds.items()]
        self.flags.append(f"--ca-file={self.authority.ca_file}")
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "https_proxy": self.proxy.url,
        }

    def configuration(self) -> Path:
        """The servers of the page, at a port of ours."""
        blocks = re.findall(r"^```nginx\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
        assert len(blocks) == 2
        servers = "".join(blocks)
        for old, new in (
            ("listen 443 ssl", f"listen 127.0.0.1:{self.port} ssl"),
            ("/etc/ssl/example.com.crt", self.certificate),
            ("/etc/ssl/example.com.key", self.certificate_key),
            ("/etc/nginx/publishers", str(self.base / "publishers")),
            ("/srv/www", str(self.tree)),
        ):
            assert old in servers
            servers = servers.replace(old, new)
        (self.base / "publishers").write_text("publisher:{PLAIN}secret\n")
        file = self.base / "nginx.conf"
        file.write_text(nginx_frame(self.base, servers))
        return file

    @contextlib.contextmanager
    def served(self) -> Iterator[None]:
        if NGINX is None:
            pytest.skip("nginx is not installed")
        command = [NGINX, "-c", str(self.configuration()), "-e", str(self.base / "error.log")]
        with running(command, self.port):
            yield

    def gantry(self, *words: str, status: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*self.program, *self.flags, *words],
            cwd=self.work,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == status, done.stderr
        return done

    def image(self, version: str) -> str:
        path = self.work / f"app-{version}.aci"
        labels = {"version": version, "os": "linux", "arch": HERE}
        made = make_aci(path, "example.com/app", labels=labels, files={"f": version})
        (self.work / f"{path.name}.asc").write_bytes(self.key.sign(made.data))
        return f"./{path.name}"

    def push(self, version: str, destination: str, *flags: str, status: int = 0) -> str:
        done = self.gantry(
            "push", "--public-key=public.asc", *flags, self.image(version), destination, status=status
        )
        return done.stdout + done.stderr

    def fetched(self, what: str) -> str:
        """The version of what a host gets that trusts the key by discovery and asks for *what*."""
        self.gantry("trust", "--prefix=example.com/app", f"--fingerprint={self.key.fingerprint}")
        image_id = self.gantry("fetch", "--pull-policy=update", "--full", what).stdout.strip()
        manifest = json.loads(self.gantry("image", "cat-manifest", image_id).stdout)
        return {label["name"]: str(label["value"]) for label in manifest["labels"]}["version"]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    try:
        yield site
    finally:
        site.proxy.close()


def test_the_page_works_as_it_says(site: Site) -> None:
    assert len(examples(PAGE)) >= 3
    prelude = (
        "".join(f"export {name}={shlex.quote(value)}\n" for name, value in site.environment.items())
        + f'gantry() {{ {shlex.join([*site.program, *site.flags])} "$@"; }}\n'
        f"FINGERPRINT={site.key.fingerprint}\numask 022"
    )
    if HERE != "amd64":
        pytest.skip("the page's image is for amd64")
    site.tree.rmdir()
    with site.served():
        problems = run_page(PAGE, site.work, prelude)
    assert not problems, "\n".join(problems)


def test_directory_and_nginx_give_versions_and_the_latest(site: Site) -> None:
    with site.served():
        site.push("1.0", "www")
        assert site.fetched("example.com/app") == "1.0"
        site.push("1.1", "www")
        assert site.fetched("example.com/app:1.0") == "1.0"
        assert site.fetched("example.com/app") == "1.1"
        lost = site.gantry("fetch", "example.com/app/below", status=254).stderr
        assert "404" in lost


def credentials(site: Site) -> None:
    directory = site.base / "etc/auth.d"
    directory.mkdir(parents=True)
    file = directory / "here.json"
    file.write_text(
        '{"rktKind": "auth", "rktVersion": "v1", "domains": ["push.example.com"],'
        ' "type": "basic", "credentials": {"user": "publisher", "password": "secret"}}'
    )
    file.chmod(0o600)


def test_put_with_the_credentials_of_the_domain(site: Site) -> None:
    with site.served():
        refused = site.push("1.0", UPLOADS, status=254)
        assert "the server answered 401" in refused
        assert list(site.tree.rglob("*.aci")) == []
        credentials(site)
        site.push("1.0", UPLOADS)
        site.push("1.1", UPLOADS, "--keep=1")
        assert site.fetched("example.com/app") == "1.1"
        assert not (site.tree / f"app-1.0-linux-{HERE}.aci").exists()
        again = site.gantry("push", "--public-key=public.asc", "./app-1.1.aci", UPLOADS)
        assert "wrote" not in again.stdout


def test_pushes_to_nginx_that_meet_lose_nothing(site: Site) -> None:
    credentials(site)
    versions = [f"1.{number}" for number in range(4)]
    images = {version: site.image(version) for version in versions}
    with site.served():
        words = ("push", "--public-key=public.asc")
        started = [
            subprocess.Popen(
                [*site.program, *site.flags, *words, images[version], UPLOADS],
                cwd=site.work,
                env=site.environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            for version in versions
        ]
        for process in started:
            assert process.stderr
            said = process.stderr.read()
            assert process.wait(120) == 0, said
            process.stderr.close()
        record = json.loads((site.tree / "app/images.json").read_text())
        assert sorted({each["version"] for each in record["images"]}) == versions
        assert not (site.tree / ".gantry-push.d").exists()


def test_a_server_that_takes_no_put_is_one_line(site: Site) -> None:
    with site.served():
        told = site.push("1.0", "https://example.com/", status=254)
    assert "PUT" in told
    assert "Traceback" not in told
    assert len(told.strip().splitlines()) == 1


def _with_its_user(place: Path) -> list[str]:
    """What lets sshd find the user that it wants to be, on a machine where it was never installed."""
    accounts = Path("/etc/passwd").read_text()
    if os.getuid() or re.search("^sshd:", accounts, re.MULTILINE):
        return []
    (place / "passwd").write_text(f"{accounts}sshd:x:65533:65534::/run/sshd:/usr/sbin/nologin\n")
    script = 'mount --bind "$0" /etc/passwd && exec "$@"'
    return ["/usr/bin/unshare", "--mount", "/bin/sh", "-c", script, str(place / "passwd")]


@pytest.fixture
def ssh(site: Site, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """An sshd on a port of ours that lets this user in."""
    if SSHD is None or shutil.which("rsync") is None or shutil.which("ssh") is None:
        pytest.skip("sshd, ssh or rsync is not installed")
    place = site.base / "ssh"
    place.mkdir(mode=0o700)
    for name in ("host", "user"):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(place / name)], check=True, timeout=30
        )
    port = free_port()
    (place / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {place}/host\nPidFile none\nUsePAM no\n"
        "StrictModes no\n"
        f"AuthorizedKeysFile {place}/user.pub\nPasswordAuthentication no\nPermitRootLogin prohibit-password\n"
    )
    # Newer ones are several programs, which lie elsewhere when they were unpacked.
    for option, program in (("SshdSessionPath", "sshd-session"), ("SshdAuthPath", "sshd-auth")):
        found = SERVERS / "openssh-server/usr/lib/openssh" / program
        if found.exists():
            with (place / "sshd_config").open("a") as file:
                file.write(f"{option} {found}\n")
    public = (place / "host.pub").read_text()
    (place / "known").write_text(f"[127.0.0.1]:{port} {public}")
    wrapper = place / "bin"
    wrapper.mkdir()
    real = shutil.which("ssh")
    (wrapper / "ssh").write_text(
        f'#!/bin/sh\nexec {real} -F none -i {place}/user -o UserKnownHostsFile={place}/known "$@"\n'
    )
    (wrapper / "ssh").chmod(0o755)
    site.environment["PATH"] = f"{wrapper}:{os.environ['PATH']}"
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    with running([*_with_its_user(place), SSHD, "-D", "-f", str(place / "sshd_config")], port):
        yield port


def test_ssh_and_rsync(site: Site, ssh: int) -> None:
    odd = site.base / "a tree's"
    destination = f"ssh://{getpass.getuser()}@127.0.0.1:{ssh}{odd}"
    site.push("1.0", destination)
    assert "removed app-1.0-linux" in site.push("1.1", destination, "--keep=1")
    assert "wrote" not in site.gantry("push", "--public-key=public.asc", "./app-1.1.aci", destination).stdout
    assert (odd / f"app-1.1-linux-{HERE}.aci").read_bytes() == (site.work / "app-1.1.aci").read_bytes()
    assert (odd / f"app-1.1-linux-{HERE}.aci").stat().st_mode & 0o777 == 0o644
    site.tree.rmdir()
    odd.rename(site.tree)
    with site.served():
        assert site.fetched("example.com/app") == "1.1"


def test_a_host_that_lets_nobody_in_is_one_line(site: Site, ssh: int) -> None:
    (site.base / "ssh/user.pub").write_text("")
    told = site.push("1.0", f"ssh://127.0.0.1:{ssh}/nowhere", status=254)
    assert "cannot be locked" in told
    assert len(told.strip().splitlines()) == 1
