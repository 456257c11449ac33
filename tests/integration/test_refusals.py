"""Every kind of refusal as an operator meets it: a line, a code, an entry on record, nothing in the store."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.support.command import Site
from tests.support.openpgp import GnuPG, KeyPair, make_key

from gantry.images.errors import NameMismatchError
from gantry.trust import errors

ROOT = Path(__file__).resolve().parents[2]
NOW, DAY = int(time.time()), 86400
IMAGE = "example.com/web:1.0"
SHA1 = ("--cert-digest-algo", "SHA1", "--allow-weak-digest-algos", "--allow-weak-key-signatures")


@pytest.fixture
def gpg() -> Iterator[GnuPG]:
    with GnuPG() as made:
        yield made


class Scene:
    """A site with one image, whose keys and signature a row of the table makes as it likes."""

    def __init__(self, site: Site, gpg: GnuPG) -> None:
        self.site, self.gpg = site, gpg
        self.image = site.publish(exec_=["/bin/true"])
        self.asc = next(path for path in site.files if path.endswith(".asc"))

    def trust(self, key: bytes | KeyPair, prefix: str = "example.com") -> None:
        file = self.site.directory / "some.asc"
        file.write_bytes(key.public if isinstance(key, KeyPair) else key)
        done = self.site.gantry("trust", f"--prefix={prefix}", "--skip-fingerprint-review", str(file))
        assert done.returncode == 0, done.stderr

    def sign(self, signature: bytes | None) -> None:
        if signature is None:
            del self.site.files[self.asc]
        else:
            self.site.files[self.asc] = signature

    def with_key(self, key: str, *options: str, at: float | None = None) -> None:
        """Trust a key of the GnuPG and sign with it."""
        self.trust(self.gpg.export(key))
        self.sign(self.gpg.sign(self.image.data, key, *options, at=at))


def unknown(scene: Scene) -> None:
    scene.site.trust()
    scene.sign(make_key("Stranger <s@example.org>").sign(scene.image.data))


def other_name(scene: Scene) -> None:
    scene.trust(scene.site.key, "example.com/other")


def other_bytes(scene: Scene) -> None:
    scene.site.trust()
    scene.sign(scene.site.key.sign(scene.image.data + b"x"))


def revoked(scene: Scene) -> None:
    key = scene.gpg.make_key("Revoked <r@example.com>", at=NOW - 100 * DAY)
    signature = scene.gpg.sign(scene.image.data, key, at=NOW - 50 * DAY)
    scene.gpg.revoke(key, reason="1", at=NOW - DAY)
    scene.trust(scene.gpg.export(key))
    scene.sign(signature)


def expired(scene: Scene) -> None:
    key = scene.gpg.make_key("Expired <e@example.com>", expires="30d", at=NOW - 100 * DAY)
    scene.with_key(key, at=NOW - 90 * DAY)


def weak_key(scene: Scene) -> None:
    key = scene.gpg.make_key("Weak <w@example.com>", algorithm="rsa2048", at=NOW - 9 * DAY, options=SHA1)
    scene.with_key(key)


def weak_digest(scene: Scene) -> None:
    key = scene.gpg.make_key("Plain <p@example.com>", algorithm="rsa2048")
    scene.with_key(key, "--allow-weak-digest-algos", "--digest-algo", "SHA1")


def no_signature_at_all(scene: Scene) -> None:
    scene.site.trust()
    scene.sign(b"<html>this page does not exist</html>")


def with_an_end(scene: Scene) -> None:
    key = scene.gpg.make_key("End <e2@example.com>", at=NOW - 100 * DAY)
    scene.with_key(key, "--default-sig-expire", "1d", at=NOW - 30 * DAY)


def clock(scene: Scene) -> None:
    key = scene.gpg.make_key("Ahead <a@example.com>")
    scene.with_key(key, at=NOW + 30 * DAY)


def downgrade(scene: Scene) -> None:
    key = scene.gpg.make_key("Twice <t@example.com>", at=NOW - 100 * DAY)
    scene.with_key(key, at=NOW - DAY)
    assert scene.site.gantry("fetch", IMAGE).returncode == 0
    assert scene.site.gantry("image", "rm", IMAGE).returncode == 0
    older = scene.site.publish(exec_=["/bin/true"], files={"older": ""})
    scene.sign(scene.gpg.sign(older.data, key, at=NOW - 2 * DAY))


def key_file(scene: Scene) -> None:
    scene.site.trust()
    [file] = Path(scene.site.paths.local).rglob(scene.site.key.fingerprint)
    file.write_bytes(b"no key")


def record(scene: Scene) -> None:
    scene.site.trust()
    assert scene.site.gantry("fetch", IMAGE).returncode == 0
    assert scene.site.gantry("image", "rm", IMAGE).returncode == 0
    [file] = (Path(scene.site.paths.data) / "trust/accepted").iterdir()
    file.write_bytes(b"{")


def another_image(scene: Scene) -> None:
    scene.site.trust()
    other = scene.site.publish("example.com/else", "1.0")
    path = scene.asc.removesuffix(".asc")
    scene.site.files[path] = other.data
    scene.sign(scene.site.key.sign(other.data))


class Row(NamedTuple):
    """How it comes about, and what the one line says."""

    make: Callable[[Scene], None]
    text: str


ROWS = {
    "unsigned": Row(lambda scene: (scene.site.trust(), scene.sign(None))[1], "is not signed"),
    "unknown-key": Row(unknown, r"made by unknown entity [0-9a-f]{40}; other keys are trusted"),
    "untrusted-for-name": Row(other_name, r"trusted for example\.com/other only"),
    "bad-signature": Row(other_bytes, "is not for these bytes"),
    "key-revoked": Row(revoked, r"has revoked on \d{4}-\d\d-\d\d"),
    "key-expired": Row(expired, r"expired on \d{4}-\d\d-\d\d"),
    "key-unusable": Row(weak_key, "SHA-1"),
    "weak-digest": Row(weak_digest, "uses SHA-1, which can be forged"),
    "signature-format": Row(no_signature_at_all, "no valid signatures found in signature file"),
    "signature-expired": Row(with_an_end, r"\d{4}-\d\d-\d\d"),
    "clock": Row(clock, r"was made at \d{4}.*this host's clock says \d{4}"),
    "downgrade": Row(downgrade, r"\d{4}-\d\d-\d\d.*\d{4}-\d\d-\d\d"),
    "freshness-record": Row(record, "accepted, cannot be read"),
    "key-file": Row(key_file, r"the key file \S+ cannot be used"),
    "name-mismatch": Row(another_image, "example.com/else"),
}


def refusals(site: Site) -> list[dict[str, object]]:
    listed = site.gantry("--format=json", "audit", "list", "--event=image.refuse")
    found: list[dict[str, object]] = json.loads(listed.stdout)
    return found


@pytest.mark.parametrize("code", ROWS)
def test_each_refusal_is_one_line_one_code_one_entry_and_nothing_else(
    tmp_path: Path, gpg: GnuPG, code: str
) -> None:
    with Site(tmp_path) as site:
        scene = Scene(site, gpg)
        ROWS[code].make(scene)
        before = len(refusals(site))
        done = site.gantry("fetch", IMAGE)
        assert done.returncode == 254, done.stdout
        assert done.stderr.count("\n") == 1, done.stderr
        assert re.search(ROWS[code].text, done.stderr), done.stderr
        assert done.stderr.endswith(")\n"), "no remedy"
        told = refusals(site)[before:]
        assert [entry["code"] for entry in told] == [code]
        assert str(told[0]["reason"]) in done.stderr
        machine = json.loads(site.gantry("--format=json", "fetch", IMAGE).stdout)
        assert machine["error"]["code"] == code
        assert site.json("image", "list") == []
        store = Path(site.paths.data) / "images"
        assert [name for part in ("image", "incoming", "names") for name in os.listdir(store / part)] == []


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="pods need root")
@pytest.mark.parametrize("verb", [("run", "--net=none"), ("prepare",)])
@pytest.mark.parametrize("code", ["unsigned", "untrusted-for-name", "key-revoked", "downgrade"])
def test_what_is_refused_is_refused_whatever_asks_for_it(
    tmp_path: Path, gpg: GnuPG, code: str, verb: tuple[str, ...]
) -> None:
    with Site(tmp_path) as site:
        ROWS[code].make(Scene(site, gpg))
        before = len(refusals(site))
        done = site.gantry(*verb, IMAGE)
        assert done.returncode == 254
        assert re.search(ROWS[code].text, done.stderr), done.stderr
        assert [entry["code"] for entry in refusals(site)[before:]] == [code]
        assert site.json("list") == []
        document = {"images": [{"name": IMAGE}], "ca_file": site.server.ca_file}
        applied = json.loads(
            site.gantry("apply", f"--unit-dir={site.units}", "--format=json", document=document).stdout
        )
        assert applied["error"]["code"] == code


def test_the_page_and_the_code_know_the_same_refusals() -> None:
    """docs/trust.md tells of each kind, and each kind is in the table above."""
    classes = [each for each in vars(errors).values() if getattr(each, "__module__", "") == errors.__name__]
    ours = {each.code for each in classes} | {NameMismatchError.code}
    ours -= {"trust", "verifier"}  # the base of all, and what says nothing of an image
    page = (ROOT / "docs/trust.md").read_text()
    table = page[page.index("| Code |") :].split("\n\n")[0].splitlines()[2:]
    told = {code for line in table for code in re.findall("`([a-z-]+)`", line.split("|")[1])}
    assert told == ours
    assert set(ROWS) == ours
