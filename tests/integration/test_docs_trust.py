"""docs/trust.md, word for word."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from tests.support.aci import make_aci
from tests.support.openpgp import GnuPG
from tests.support.pages import examples, run_page

from gantry.trust.signing import make_key

PAGE = Path(__file__).resolve().parents[2] / "docs/trust.md"


OLD = ("--cert-digest-algo", "SHA1", "--allow-weak-digest-algos", "--allow-weak-key-signatures")


def test_the_page_works_as_it_says(tmp_path: Path) -> None:
    assert len(examples(PAGE)) >= 9
    secret, public, fingerprint = make_key("Release <release@example.com>")
    place = tmp_path / "work"
    place.mkdir()
    (place / "secret.asc").write_text(secret)
    (place / "public.asc").write_text(public)
    make_aci(place / "app.aci", "example.com/app", version="1.0", files={"f": "x"})
    vendors = make_aci(place / "vendor.aci", "example.org/tool", version="1.0", files={"f": "x"})
    kinds = {"dir": "data", "run-dir": "run", "local-config": "etc", "system-config": "lib"}
    flags = shlex.join(f"--{flag}={tmp_path / name}" for flag, name in kinds.items())
    program = shlex.join([sys.executable, "-c", "import sys; from gantry.cli import main; sys.exit(main())"])
    with GnuPG() as gpg:
        vendor = gpg.make_key("Vendor <v@example.org>", algorithm="rsa2048", options=OLD)
        ours = gpg.make_key("Operators <o@example.com>")
        (place / "vendor-key.asc").write_bytes(gpg.export(vendor))
        (place / "vendor.aci.asc").write_bytes(gpg.sign(vendors.data, vendor))
        names = f"FINGERPRINT={fingerprint} VENDOR={vendor} OURS={ours}\nexport GNUPGHOME={gpg.home}"
        prelude = f'gantry() {{ {program} {flags} "$@"; }}\n{names}\numask 022'
        problems = run_page(PAGE, place, prelude)
    assert not problems, "\n".join(problems)
