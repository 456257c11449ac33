"""What is published of one name: the record beside its page, and the names of the files.

::

    DEST/                                    the root of https://HOST/
      APP-VERSION-OS-ARCH.aci, .aci.asc      one version; its bytes never change
      APP-latest-OS-ARCH-TOKEN.aci, .aci.asc the same bytes again, for whoever asks for no version
      APP/index.html                         the page: discovery, and an index for people
      APP/images.json                        this module's record; the page is made of it
      APP/FINGERPRINT.asc                    a key that signed some of them

for the name ``HOST/APP`` (``HOST/TEAM/APP`` lies in ``DEST/TEAM/``). ``latest`` needs a signature and an
image that belong together although they are two requests: a token in their names stands for the pair, and
only the page knows which token counts.

File names are always made from checked parts, never taken from the record: it may lie on a stranger's server.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from typing import Any, NamedTuple

from gantry.appc.errors import AppcError
from gantry.appc.imageid import ImageID
from gantry.appc.names import ac_identifier
from gantry.errors import GantryError, UsageError

_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+~-]{0,99}")
_PART = re.compile(r"[a-z0-9_]{1,32}")
_TOKEN = re.compile(r"[0-9a-f]{16}")
_FINGERPRINT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_DIGEST = re.compile(r"[0-9a-f]{128}")
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")
_MAX_IMAGES = 10_000
_LARGEST = 1 << 63
FORMAT = 1
#: What a page begins with that we have written.
MARK = '<meta name="generator" content="gantry push">'


class PushError(GantryError):
    """An image was not published."""

    code = "push"


class Published(NamedTuple):
    """One version for one platform.

    Attributes:
        version: The label ``version``.
        os: The label ``os``.
        arch: The label ``arch``.
        id: The image ID.
        size: Bytes as distributed.
        digest: SHA-512 of the image as distributed, in hexadecimal digits.
        signature: SHA-256 of its signature, likewise; ``None``: it is not signed.
        signed: When it was signed, RFC 3339 in UTC.
        key: Fingerprint of the certificate that signed it.
        pushed: When it was first published.
        latest: Whether it may be what those get who ask for no version.
    """

    version: str
    os: str
    arch: str
    id: str
    size: int
    digest: str
    signature: str | None
    signed: str | None
    key: str | None
    pushed: str
    latest: bool

    @property
    def platform(self) -> str:
        """``OS-ARCH``."""
        return f"{self.os}-{self.arch}"

    @property
    def age(self) -> tuple[bool, str, str]:
        """What versions are ordered by: the newest signature is the greatest, as hosts see it.

        What is not signed comes before everything that is: hosts refuse it.
        """
        return (self.signed is not None, self.signed or "", self.pushed)

    @property
    def token(self) -> str:
        """What stands for exactly this image with exactly this signature."""
        return hashlib.sha256(f"{self.digest} {self.signature}".encode()).hexdigest()[:16]


class Signer(NamedTuple):
    """A key that signed published images."""

    fingerprint: str
    user_ids: tuple[str, ...]
    expires: str | None


class Index(NamedTuple):
    """The record of one name.

    Attributes:
        name: The name.
        images: What is published.
        signers: Who signed it.
        tokens: By platform the tokens of ``latest``, the current one first, then the one before: a reader may
            have read the page just before it changed.
        gone: Files that are no longer published and may still have to be removed.
    """

    name: str
    images: tuple[Published, ...] = ()
    signers: tuple[Signer, ...] = ()
    tokens: dict[str, tuple[str, ...]] = {}  # noqa: RUF012 - never changed
    gone: tuple[str, ...] = ()

    def newest(self) -> dict[str, Published]:
        """By platform, what ``latest`` is."""
        found: dict[str, Published] = {}
        for image in sorted(self.images, key=lambda each: each.age):
            if image.latest:
                found[image.platform] = image
        return found

    def encode(self) -> bytes:
        """The record's content; the same for the same record."""
        value: dict[str, Any] = {
            "format": FORMAT,
            "name": self.name,
            "images": [image._asdict() for image in self.images],
            "signers": [signer._asdict() for signer in self.signers],
            "tokens": self.tokens,
            "gone": self.gone,
        }
        return json.dumps(value, indent=1, sort_keys=True).encode("ascii") + b"\n"


class Files(NamedTuple):
    """Where the files of a name are, relative to the root of its host."""

    above: str
    last: str

    @property
    def directory(self) -> str:
        """Of the page."""
        return f"{self.above}{self.last}/" if self.last else ""

    @property
    def page(self) -> str:
        """For discovery and for people."""
        return f"{self.directory}index.html"

    @property
    def record(self) -> str:
        """:class:`Index`, encoded."""
        return f"{self.directory}images.json"

    def key(self, fingerprint: str) -> str:
        """A public key."""
        return f"{self.directory}{fingerprint}.asc"

    def image(self, name: str, image: Published, token: str = "") -> str:
        """The image of a version, or with *token* of ``latest``; its signature has ``.asc`` appended."""
        return f"{self.stem(name)}-{'latest' if token else image.version}-{image.platform}" + (
            f"-{token}.aci" if token else ".aci"
        )

    def stem(self, name: str) -> str:
        """What the file names of images begin with; a bare host's lie beside its page."""
        return f"{self.above}{self.last}" if self.last else name


def files_of(name: str) -> Files:
    """Where the files of *name* are.

    Raises:
        PushError: Its page could not be told from other files.
    """
    _, _, path = ac_identifier(name, what="image name").partition("/")
    above, slash, last = path.rpartition("/")
    if any(
        part in ("index.html", "images.json") or part.endswith((".aci", ".asc")) for part in path.split("/")
    ):
        raise PushError(
            f'the name "{name}" has a part that is called like a published file', hint="choose another name"
        )
    return Files(above + slash, last)


def refuse_strange_page(page: bytes, where: str) -> None:
    """Refuse to replace a page that gantry push did not write.

    Raises:
        PushError: It did not.
    """
    if MARK.encode() not in page[:4096]:
        raise PushError(f"{where} is somebody's own page", hint="move it away, or publish somewhere else")


def checked_label(what: str, value: str | None) -> str:
    """A label that becomes part of a file's name and of a URL.

    Raises:
        PushError: It is missing, or cannot be one.
    """
    if value is None:
        raise PushError(
            f'the image has no label "{what}", and is found by it',
            hint=f"gantry image patch-manifest or gantry build with the label {what}",
        )
    if (_VERSION if what == "version" else _PART).fullmatch(value) is None or value == "latest":
        raise PushError(
            f'the {what} "{value}" cannot be part of a URL',
            hint="letters, digits and ._+~- only; latest is what those ask for who name no version",
        )
    return value


def checked_keep(keep: int | None) -> int | None:
    """How many versions of a platform stay.

    Raises:
        UsageError: None would.
    """
    if keep is not None and keep < 1:
        raise UsageError(f"--keep={keep} would keep no version", hint="give 1 or more")
    return keep


def namesakes(name: str, image: Published) -> list[str]:
    """Names whose files could be called like the one of this image: ``app:1-2`` and ``app-1:2``.

    A file's name does not say where the image's ends. What such a name publishes its record tells.
    """
    files = files_of(name)
    if not files.last:
        return []
    host, whole = name.partition("/")[0], files.image(name, image).rpartition("/")[2]
    pieces = whole.split("-")
    shorter = ("-".join(pieces[:count]) for count in range(1, len(pieces)))
    found = []
    for last in shorter:
        with contextlib.suppress(GantryError):
            other = ac_identifier(f"{host}/{files.above}{last}", what="image name")
            if other != name:
                found.append(str(other))
    return found


def read_index(data: bytes | None, name: str, where: str) -> Index:
    """The record that *data* holds; an empty one if there is none.

    Raises:
        PushError: It is no record of this name: nothing is overwritten on a guess.
    """
    if data is None:
        return Index(name)
    try:
        value = json.loads(data)
        if value["format"] != FORMAT or value["name"] != name or len(value["images"]) > _MAX_IMAGES:
            raise ValueError("of another name or format")
        return Index(
            name,
            tuple(_published(each) for each in value["images"]),
            tuple(_signer(each) for each in value["signers"]),
            {
                _match(_PLATFORM, platform): tuple(_match(_TOKEN, token) for token in tokens)
                for platform, tokens in value["tokens"].items()
            },
            tuple(_gone(each, files_of(name), name) for each in value["gone"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, AppcError) as error:
        raise PushError(
            f"{where} is not what gantry push writes for {name}",
            hint="if what is published may be replaced, remove that file and push again",
        ) from error


_PLATFORM = re.compile(r"[a-z0-9_]{1,32}-[a-z0-9_]{1,32}")


def _match(pattern: re.Pattern[str], value: object) -> str:
    if not isinstance(value, str) or pattern.fullmatch(value) is None:
        raise ValueError("malformed")
    return value


def _optional(pattern: re.Pattern[str], value: object) -> str | None:
    return None if value is None else _match(pattern, value)


def _published(value: dict[str, Any]) -> Published:
    size, latest = value["size"], value["latest"]
    if not isinstance(size, int) or not 0 <= size < _LARGEST or not isinstance(latest, bool):
        raise ValueError("malformed")
    return Published(
        _match(_VERSION, value["version"]),
        _match(_PART, value["os"]),
        _match(_PART, value["arch"]),
        str(ImageID.parse(value["id"])),
        size,
        _match(_DIGEST, value["digest"]),
        _optional(re.compile(r"[0-9a-f]{64}"), value["signature"]),
        _optional(_TIME, value["signed"]),
        _optional(_FINGERPRINT, value["key"]),
        _match(_TIME, value["pushed"]),
        latest,
    )


def _signer(value: dict[str, Any]) -> Signer:
    user_ids = value["user_ids"]
    if not isinstance(user_ids, list) or not all(isinstance(each, str) for each in user_ids):
        raise ValueError("malformed")
    return Signer(
        _match(_FINGERPRINT, value["fingerprint"]), tuple(user_ids), _optional(_TIME, value["expires"])
    )


def _gone(value: object, files: Files, name: str) -> str:
    """A file that may be removed: one that is called like an image of this name, and nothing else."""
    stem = re.escape(files.stem(name))
    return _match(re.compile(rf"{stem}-{_VERSION.pattern}\.aci(\.asc)?"), value)
