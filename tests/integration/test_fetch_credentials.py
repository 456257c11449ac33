"""A server that wants to know who asks: rkt's auth files, and not a word to anybody else."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.command import Site
from tests.support.https_server import Reply, Request


class Guarded(Site):
    """A web in which example.com answers nobody without a password, and may send everybody elsewhere."""

    seen: list[tuple[str, str, str | None]]
    elsewhere = ""

    def _answer(self, request: Request) -> bytes | Reply:
        given = request.headers.get("authorization")
        self.seen.append((request.host, request.bare_path, given))
        if request.host == "example.com":
            if given != "Basic " + base64.b64encode(b"me:s3cret").decode():
                return Reply(401, headers={"WWW-Authenticate": "Basic"})
            if self.elsewhere and request.bare_path.endswith((".aci", ".asc")):
                return Reply(302, headers={"Location": f"https://{self.elsewhere}{request.bare_path}"})
        return super()._answer(request)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Guarded]:
    with Guarded(tmp_path) as made:
        made.seen = []
        made.publish()
        made.trust()
        yield made


def write(site: Site, password: str) -> Path:
    file = Path(site.paths.local, "auth.d/example.json")
    file.parent.mkdir(parents=True, exist_ok=True)
    document = {
        "rktKind": "auth", "rktVersion": "v1", "domains": ["example.com"], "type": "basic",
        "credentials": {"user": "me", "password": password},
    }  # fmt: skip
    file.write_text(json.dumps(document))
    file.chmod(0o600)
    return file


def test_DSC_29_without_credentials_it_is_one_line_with_the_status(site: Guarded) -> None:
    done = site.gantry("fetch", "example.com/web:1.0")
    assert done.returncode == 254
    assert len(done.stderr.splitlines()) == 1
    assert "401" in done.stderr


@pytest.mark.parametrize("elsewhere", ["", "example.org"])
def test_credentials_go_to_their_domain_alone(site: Guarded, elsewhere: str) -> None:
    write(site, "s3cret")
    site.elsewhere = elsewhere
    done = site.gantry("--debug", "fetch", "example.com/web:1.0")
    assert done.returncode == 0, done.stderr
    assert "s3cret" not in done.stdout + done.stderr
    assert {host for host, _, given in site.seen if given} == {"example.com"}
    if elsewhere:
        assert [path for host, path, _ in site.seen if host == elsewhere]
    ledger = "".join(path.read_text() for path in Path(site.paths.data).rglob("*.log*"))
    assert "s3cret" not in ledger


def test_wrong_credentials_are_not_shown(site: Guarded) -> None:
    write(site, "wr0ng")
    done = site.gantry("--debug", "fetch", "example.com/web:1.0")
    assert done.returncode == 254
    assert "401" in done.stderr
    assert "wr0ng" not in done.stderr
    assert base64.b64encode(b"me:wr0ng").decode() not in done.stderr


def test_a_broken_file_is_told_by_name(site: Guarded) -> None:
    file = write(site, "s3cret")
    file.write_text("{")
    done = site.gantry("fetch", "example.com/web:1.0")
    assert done.returncode == 254
    assert str(file) in done.stderr
    assert site.seen == []


def test_through_apply(site: Guarded) -> None:
    write(site, "s3cret")
    document = {"images": [{"name": "example.com/web:1.0"}], "ca_file": site.server.ca_file}
    done = site.json("apply", f"--unit-dir={site.units}", document=document)
    assert done["changed"], done
