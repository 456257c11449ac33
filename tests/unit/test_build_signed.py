"""``gantry sign``: only images, only under the name that is looked for, by gpg's agent or an exported key."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.aci import directory, file, make_aci, make_raw
from tests.support.openpgp import GnuPG, trust

from gantry.build.signed import sign_image
from gantry.config import Paths
from gantry.errors import UsageError
from gantry.trust import KeyStore
from gantry.trust.signing import SigningError, describe_signature, make_key, sign_detached, sign_with_gpg

NAME = "example.com/app"


@pytest.fixture(scope="module")
def gpg() -> Iterator[GnuPG]:
    with GnuPG() as made:
        yield made


@pytest.fixture(scope="module")
def secret() -> tuple[str, str, str]:
    return make_key("Maker <m@example.com>")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return make_aci(tmp_path / "app.aci", NAME, files={"f": "content"}).path


def verified(tmp_path: Path, public: bytes, image: Path, signature: Path) -> str:
    paths = Paths(*(str(tmp_path / name) for name in ("data", "run", "system", "local")))
    trust(paths, public, NAME)
    with KeyStore(paths).verifier(signature.read_bytes(), NAME) as running:
        running.feed(image.read_bytes())
        return running.finish().key


def never(path: str) -> str:
    raise AssertionError(f"{path} was signed")


def test_SIG_05_SIG_06_SIG_08_gpg_verifies_what_an_exported_key_signed(
    tmp_path: Path, image: Path, gpg: GnuPG, secret: tuple[str, str, str]
) -> None:
    private, public, fingerprint = secret
    target, text = sign_image(str(image), lambda path: sign_detached(path, private))
    assert Path(target).read_text() == text
    assert text.startswith("-----BEGIN PGP SIGNATURE-----\n")
    gpg.run("--import", stdin=public.encode())
    told = gpg.run("--status-fd=1", "--verify", target, str(image)).decode("latin-1")
    assert "GOODSIG" in told
    assert fingerprint.upper() in told
    assert verified(tmp_path, public.encode(), image, Path(target)) == fingerprint
    image.write_bytes(image.read_bytes() + b"\0")  # not over the tar: any other byte of the file breaks it
    with pytest.raises(RuntimeError, match="BAD signature"):
        gpg.run("--verify", target, str(image))


@pytest.mark.parametrize("algorithm", ["ed25519", "rsa3072", "nistp256"])
def test_SIG_05_we_verify_what_the_agent_signed(
    tmp_path: Path, image: Path, gpg: GnuPG, algorithm: str
) -> None:
    fingerprint = gpg.make_key(f"Agent {algorithm} <{algorithm}@example.com>", algorithm=algorithm)
    target, text = sign_image(str(image), lambda path: sign_with_gpg(path, fingerprint, homedir=gpg.home))
    assert verified(tmp_path, gpg.export(fingerprint), image, Path(target)) == fingerprint
    assert describe_signature(text)["issuer"] == fingerprint


def test_SIG_07_the_signature_is_the_images_name_and_asc(
    tmp_path: Path, image: Path, secret: tuple[str, str, str]
) -> None:
    def make(path: str) -> str:
        return sign_detached(path, secret[0])

    assert sign_image(str(image), make)[0] == f"{image}.asc"
    assert (tmp_path / "app.aci.asc").stat().st_mode & 0o777 == 0o644
    elsewhere = tmp_path / "other.aci.asc"
    assert sign_image(str(image), make, output=str(elsewhere))[0] == str(elsewhere)
    for name in ("app.asc", "app.aci.sig", "aci.asc"):
        with pytest.raises(UsageError) as refused:
            sign_image(str(image), never, output=str(tmp_path / name))
        assert "SIG-07" in refused.value.hint
    os.rename(image, tmp_path / "app.tar")
    with pytest.raises(UsageError, match=r"nobody looks for a signature under the name .*app\.tar\.asc"):
        sign_image(str(tmp_path / "app.tar"), never)
    assert sorted(os.listdir(tmp_path)) == ["app.aci.asc", "app.tar", "other.aci.asc"]


def test_what_is_no_valid_image_is_not_signed(tmp_path: Path, image: Path) -> None:
    whole = image.read_bytes()
    without = make_raw(tmp_path / "without.aci", [directory("rootfs")]).data
    wrong = make_raw(tmp_path / "wrong.aci", [directory("rootfs"), file("manifest", b'{"acKind": 1}')]).data
    for data, told in (
        (whole[:-9], "cut short"),
        (without, "no manifest"),
        (wrong, "acKind"),
        (b"", "empty"),
    ):
        image.write_bytes(data)
        with pytest.raises(SigningError, match=f"was not signed: it is no valid image: .*{told}") as refused:
            sign_image(str(image), never)
        assert "--force" in refused.value.hint
        assert not Path(f"{image}.asc").exists()
    assert sign_image(str(image), lambda _: "signature", force=True)[1] == "signature"


def test_an_image_that_changes_while_it_is_signed(tmp_path: Path, image: Path) -> None:
    def make(path: str) -> str:
        Path(path).write_bytes(b"another")
        return "signature"

    with pytest.raises(SigningError, match="changed meanwhile"):
        sign_image(str(image), make)
    assert os.listdir(tmp_path) == ["app.aci"]


def test_an_existing_signature_stays(image: Path) -> None:
    target = Path(f"{image}.asc")
    target.write_text("mine")
    with pytest.raises(UsageError, match=r"the signature file .*app\.aci\.asc exists"):
        sign_image(str(image), never)
    assert target.read_text() == "mine"
    sign_image(str(image), lambda _: "new", overwrite=True)
    assert target.read_text() == "new"


def test_a_missing_image(tmp_path: Path) -> None:
    for force in (False, True):
        with pytest.raises(SigningError, match=r"was not signed: No such file"):
            sign_image(str(tmp_path / "x.aci"), never, force=force)


def test_gpg_that_refuses_leaves_nothing(tmp_path: Path, image: Path, gpg: GnuPG) -> None:
    with pytest.raises(SigningError, match="was not signed"):
        sign_image(str(image), lambda path: sign_with_gpg(path, "nobody@example.com", homedir=gpg.home))
    assert os.listdir(tmp_path) == ["app.aci"]


def test_the_command_tells_who_signed(tmp_path: Path, image: Path, secret: tuple[str, str, str]) -> None:
    (tmp_path / "key").write_text(secret[0])
    command = [os.path.join(os.path.dirname(sys.executable), "gantry"), "sign", f"--key={tmp_path}/key"]
    done = subprocess.run([*command, str(image)], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"{image}.asc: signed by ")
    again = subprocess.run([*command, str(image)], capture_output=True, text=True, check=False)
    assert again.returncode == 254
    assert again.stderr.count("\n") == 1
    assert "--overwrite" in again.stderr
