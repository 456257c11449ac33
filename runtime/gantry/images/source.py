"""What an image argument means. Pure, except that it looks whether a file exists."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, NamedTuple

from gantry.appc.imageid import looks_like_id
from gantry.appc.imageref import ImageRef
from gantry.errors import UsageError
from gantry.http import public_url

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_LENGTH = 8192


class Source(NamedTuple):
    """Where an image is to come from; exactly one field is set.

    Attributes:
        image_id: An ID or the beginning of one: the store only.
        url: An http or https URL of an image file.
        file: A path.
        ref: A name with labels: the store or discovery.
    """

    image_id: str | None = None
    url: str | None = None
    file: str | None = None
    ref: ImageRef | None = None


def parse_source(text: str) -> Source:
    """Decide what *text* is, in the order that RKT-INVENTORY 3.1 gives.

    Raises:
        UsageError: It cannot be an image, or names one of a kind that is not supported.
        AppcError: It looks like a name and is malformed.
    """
    if not text or "\0" in text:
        raise UsageError("an empty image argument" if not text else "an image argument with a NUL byte")
    if len(text) > MAX_LENGTH:
        raise UsageError(f'the image argument "{_shown(text)}" is longer than {MAX_LENGTH} characters')
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        raise UsageError(f'the image argument "{_shown(text)}" has half a surrogate pair in it') from None
    if looks_like_id(text):
        return Source(image_id=text)
    scheme = text.partition(":")[0].lower()
    if text.startswith(("http://", "https://")):
        return Source(url=_url(text))
    if text.startswith("file://"):
        return Source(file=_file(text))
    if scheme in ("docker", "cimd") and ":" in text:
        raise UsageError(
            f'images from "{scheme}:" are not supported', hint="convert it to an App Container image first"
        )
    if "://" in text:
        raise UsageError(f'"{_shown(text)}" has a scheme that is not supported', hint="use https")
    if os.path.isabs(text) or os.path.isfile(text):
        return Source(file=text)
    if ":" not in text and ("./" in text or text.endswith(".aci")):
        return Source(file=text)
    return Source(ref=ImageRef.parse(text))


def _shown(text: str) -> str:
    shown = public_url(text)
    return shown if len(shown) <= 200 else shown[:200] + "..."


@contextlib.contextmanager
def _taken_apart(text: str) -> Iterator[None]:
    """Turn what :mod:`urllib.parse` has against a URL into one line; its own words may hold the password."""
    try:
        yield
    except ValueError:
        hint = "write https://HOST/PATH.aci or file:///PATH.aci"
        raise UsageError(f'"{_shown(text)}" is not a URL', hint=hint) from None


def _url(text: str) -> str:
    from urllib.parse import urlsplit  # noqa: PLC0415 - names and IDs do without

    if not text.isprintable() or " " in text:  # some parsers drop these, others do not
        raise UsageError(f'"{_shown(text)}" is not a URL: it has a blank or a control character')
    with _taken_apart(text):
        parts = urlsplit(text)
        if not parts.hostname or parts.port == 0:
            raise ValueError("no host, or a port that is none")
    return _ends_in_aci(text, parts.path)


def _file(text: str) -> str:
    from urllib.parse import unquote_to_bytes, urlsplit  # noqa: PLC0415 - names and IDs do without

    with _taken_apart(text):
        parts = urlsplit(text)
    if parts.netloc not in ("", "localhost"):
        raise UsageError(f'"{_shown(text)}" names a file of another host', hint="write file:///PATH")
    path = os.fsdecode(unquote_to_bytes(os.fsencode(parts.path)))
    if "\0" in path:
        raise UsageError(f'"{_shown(text)}" has a NUL byte in its path')
    _ends_in_aci(text, parts.path)
    return path


def _ends_in_aci(text: str, path: str) -> str:
    if not path.endswith(".aci"):
        raise UsageError(f'invalid image string "{_shown(text)}"', hint="the path of an image ends in .aci")
    return text


def signature_url(url: str) -> str:
    """Where the signature of the image at *url* is: the path with ``.asc``, query and fragment kept."""
    from urllib.parse import urlsplit  # noqa: PLC0415 - names and IDs do without

    parts = urlsplit(url)
    return parts._replace(path=parts.path + ".asc").geturl()
