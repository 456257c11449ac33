"""Three images that must not run: changed on the server, signed by a stranger, not signed at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from demo.hosts import Asker, ProofError
from gantry.trust import signing

DOCUMENTS = "/srv/gantry/images/example.com"


@dataclass(frozen=True)
class Case:
    """One way to be refused.

    Attributes:
        title: What was done to the image.
        code: The error code that both the command's and the module's refusal carry, and the audit record.
        spoil: Does it, given the path of the image on the server.
    """

    title: str
    code: str
    spoil: Callable[[str], None]


def cases(ask: Asker, server: str, stranger_key: Path, place: Path) -> list[Case]:
    """The three cases; files of the stranger's are made in *place*."""

    def flip(image: str) -> None:
        # The middle of a compressed stream: neither magic numbers nor sizes give it away.
        script = (
            "import sys; f = open(sys.argv[1], 'r+b'); n = f.seek(0, 2) // 2; f.seek(n); b = f.read(1)[0]; "
        )
        script += "f.seek(n); f.write(bytes([b ^ 1]))"
        ask.run(server, "python3", "-c", script, image)

    def sign_as_stranger(image: str) -> None:
        local = place / "stranger.aci"
        ask.fetch(server, image, local)
        signature = signing.sign_detached(str(local), stranger_key.read_text())
        local.unlink()
        ask.write(server, f"{image}.asc", signature)

    def remove_signature(image: str) -> None:
        ask.run(server, "rm", f"{image}.asc")

    return [
        Case("one byte of the image was changed on the server", "bad-signature", flip),
        Case("the image was signed by a stranger", "unknown-key", sign_as_stranger),
        Case("the signature is missing", "unsigned", remove_signature),
    ]


def image_path(ask: Asker, server: str, name: str) -> str:
    """Where the image *name* (``example.com/hello``) is on the server.

    Raises:
        ProofError: There is not exactly one.
    """
    _status, output, _errors = ask.shell(server, f"find {DOCUMENTS}/images -name '*.aci' -path '*{name}-*'")
    found = output.split()
    if len(found) != 1:
        raise ProofError(f"{server} serves {len(found)} images called {name}, not one")
    return found[0]


@contextmanager
def spoiled(ask: Asker, server: str, image: str, case: Case) -> Iterator[None]:
    """The image as *case* leaves it; as it was afterwards."""
    ask.shell(server, f"cp -p {image} /root/good.aci && cp -p {image}.asc /root/good.asc")
    try:
        case.spoil(image)
        yield
    finally:
        ask.shell(server, f"cp -p /root/good.aci {image} && cp -p /root/good.asc {image}.asc")
