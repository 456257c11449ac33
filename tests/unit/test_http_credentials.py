"""Credentials by domain: rkt's auth files, read as they are, and .netrc."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest

from gantry.config import Paths, SettingsError
from gantry.http import HttpOptions
from gantry.http.credentials import headers_by_host

BASIC = {"type": "basic", "credentials": {"user": "me", "password": "s3cret"}}
OAUTH = {"type": "oauth", "credentials": {"token": "t0ken"}}
ME = {"Authorization": "Basic bWU6czNjcmV0"}
TOKEN = {"Authorization": "Bearer t0ken"}


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths(*(str(tmp_path / name) for name in ("data", "run", "system", "local")))


def write(paths: Paths, layer: str, name: str, domains: Any, document: Any, *, mode: int = 0o640) -> Path:
    file = Path(getattr(paths, layer), "auth.d", name)
    file.parent.mkdir(parents=True, exist_ok=True)
    header = {"rktKind": "auth", "rktVersion": "v1"}
    if isinstance(document, dict):
        file.write_text(json.dumps({**header, "domains": domains, **document}))
    else:
        file.write_text(document)
    file.chmod(mode)
    return file


def read(paths: Paths, **environment: str) -> dict[str, dict[str, str]]:
    return headers_by_host(paths, environment)


def test_no_files(paths: Paths) -> None:
    assert read(paths) == {}


def test_basic_and_oauth_by_domain(paths: Paths) -> None:
    write(paths, "local", "a.json", ["Example.com", "example.com:8443"], BASIC)
    write(paths, "local", "b.json", ["example.org"], OAUTH)
    found = read(paths)
    assert found == {"example.com": ME, "example.com:8443": ME, "example.org": TOKEN}
    HttpOptions(headers=found)  # which checks them


def test_a_file_of_our_own_kind(paths: Paths) -> None:
    ours = {"gantryKind": "auth", "gantryVersion": "v1", "domains": ["example.com"], **OAUTH}
    write(paths, "local", "a.json", [], json.dumps(ours))
    assert read(paths) == {"example.com": TOKEN}


def test_the_local_layer_beats_the_systems_domain_by_domain(paths: Paths) -> None:
    write(paths, "system", "a.json", ["example.com", "example.org"], BASIC)
    write(paths, "local", "a.json", ["example.com"], OAUTH)
    assert read(paths) == {"example.com": TOKEN, "example.org": ME}


def test_only_json_files_directly_inside_count(paths: Paths) -> None:
    write(paths, "local", "a.txt", ["example.com"], BASIC)
    write(paths, "local", "sub/a.json", ["example.com"], BASIC)
    real = write(paths, "local", "real", ["example.com"], BASIC)
    (real.parent / "link.json").symlink_to(real)
    write(paths, "local", "docker.json", [], json.dumps({"rktKind": "dockerAuth", "rktVersion": "v1"}))
    assert read(paths) == {}


@pytest.mark.parametrize(
    ("domains", "document", "told"),
    [
        ([], BASIC, "no domains specified"),
        ("example.com", BASIC, "no domains specified"),
        (["https://example.com"], BASIC, "no domains specified"),
        (["a b"], BASIC, "no domains specified"),
        ([7], BASIC, "no domains specified"),
        (["a"], {"credentials": {}}, "no auth type specified"),
        (["a"], {"type": "digest", "credentials": {}}, "unknown auth type"),
        (["a"], {"type": "aws", "credentials": {}}, "not available"),
        (["a"], {"type": "basic"}, "no credentials specified"),
        (["a"], {"type": "basic", "credentials": {"user": "s3cret"}}, "password not specified"),
        (["a"], {"type": "basic", "credentials": {"password": "s3cret"}}, "user not specified"),
        (["a"], {"type": "basic", "credentials": {"user": "s3cret:b", "password": "c"}}, "has a colon"),
        (["a"], {"type": "oauth", "credentials": {"token": "s3cret\r\nX: y"}}, "token not specified"),
        (["a"], {"type": "oauth", "credentials": {"token": ["s3cret"]}}, "token not specified"),
        (["a"], {**BASIC, "more": 1}, 'unknown field "more"'),
        ([], "s3cret", "failed to parse"),
        ([], "[]", "no JSON object"),
        ([], '{"rktKind": "paths", "rktVersion": "v1"}', "which is not read here"),
        ([], '{"rktKind": "auth", "rktVersion": "v2"}', "which is not read here"),
        ([], '{"rktKind": "auth"}', "no rktVersion specified"),
        ([], "{}", "no gantryKind specified"),
    ],
)
def test_what_is_malformed_is_one_line_without_the_secret(
    paths: Paths, domains: Any, document: Any, told: str
) -> None:
    file = write(paths, "local", "a.json", domains, document)
    with pytest.raises(SettingsError, match=told) as caught:
        read(paths)
    line = f"{caught.value} {caught.value.hint}"
    assert str(file) in line
    assert line.isprintable()
    assert "s3cret" not in line


def test_one_domain_twice_in_one_layer(paths: Paths) -> None:
    write(paths, "local", "a.json", ["example.com"], BASIC)
    write(paths, "local", "b.json", ["EXAMPLE.com"], OAUTH)
    with pytest.raises(
        SettingsError, match=r'credentials for "example\.com" are in .*a\.json and in .*b\.json'
    ):
        read(paths)


def test_what_everybody_may_read_is_refused(paths: Paths) -> None:
    write(paths, "local", "a.json", ["example.com"], BASIC, mode=0o644)
    with pytest.raises(SettingsError, match="everybody may read the credentials") as caught:
        read(paths)
    assert "chmod" in str(caught.value.hint)


def test_the_users_layer_beats_the_others_domain_by_domain(paths: Paths, tmp_path: Path) -> None:
    ours = paths._replace(user=str(tmp_path / "own"))
    write(ours, "local", "a.json", ["example.com", "example.org"], BASIC)
    file = write(ours, "user", "a.json", ["example.com"], OAUTH)
    assert read(ours) == {"example.com": TOKEN, "example.org": ME}
    assert read(paths) == {"example.com": ME, "example.org": ME}
    file.chmod(0o644)
    with pytest.raises(SettingsError, match=r"everybody may read the credentials in .*own/auth\.d/a\.json"):
        read(ours)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize("what", ["auth.d", "auth.d/a.json"])
def test_what_a_user_may_not_read_hides_nothing_of_their_own(what: str) -> None:
    place = Path(tempfile.mkdtemp(prefix="gantry-user-", dir="/tmp"))
    place.chmod(0o755)
    try:
        paths = Paths(*(str(place / name) for name in ("data", "run", "system", "local", "own")))
        write(paths, "system", "a.json", ["example.net"], BASIC)
        write(paths, "local", "a.json", ["example.com"], BASIC)
        own = write(paths, "user", "a.json", ["example.org"], OAUTH)
        for file in (own, Path(paths.system, "auth.d/a.json")):
            os.chown(file, 65534, 65534)
        hidden = Path(paths.local, what)
        hidden.chmod(0o700 if hidden.is_dir() else 0o600)
        os.seteuid(65534)
        try:
            assert read(paths) == {"example.net": ME, "example.org": TOKEN}
        finally:
            os.seteuid(0)
        assert read(paths) == {"example.net": ME, "example.com": ME, "example.org": TOKEN}
    finally:
        shutil.rmtree(place)


def test_netrc_has_what_no_file_names(paths: Paths, tmp_path: Path) -> None:
    netrc = tmp_path / ".netrc"
    netrc.write_text(
        "machine example.com login me password s3cret\nmachine example.org login x password y\n"
        "default login d password e\n"
    )
    netrc.chmod(0o600)
    write(paths, "local", "a.json", ["example.org"], OAUTH)
    assert read(paths, HOME=str(tmp_path)) == {"example.com": ME, "example.org": TOKEN}
    assert read(paths, HOME="/nonexistent", NETRC=str(netrc)) == {"example.com": ME, "example.org": TOKEN}
    netrc.chmod(0o644)
    with pytest.raises(SettingsError, match="others may read"):
        read(paths, HOME=str(tmp_path))
    netrc.chmod(0o600)
    netrc.write_text("machine s3cret what is this")
    with pytest.raises(SettingsError, match="failed to parse"):
        read(paths, HOME=str(tmp_path))
