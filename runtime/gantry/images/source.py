"""What an image argument means. Pure, except that it looks whether a file exists."""

from __future__ import annotations

import os
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from gantry.appc.imageid import looks_like_id
from gantry.appc.imageref import ImageRef
from gantry.errors import UsageError


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
    if looks_like_id(text):
        return Source(image_id=text)
    scheme = text.partition(":")[0].lower()
    if text.startswith(("http://", "https://")):
        return Source(url=_ends_in_aci(text, urlsplit(text).path))
    if text.startswith("file://"):
        parts = urlsplit(text)
        if parts.netloc not in ("", "localhost"):
            raise UsageError(f'"{text}" names a file of another host', hint="write file:///PATH")
        return Source(file=_ends_in_aci(unquote(parts.path), parts.path))
    if scheme in ("docker", "cimd") and ":" in text:
        raise UsageError(
            f'images from "{scheme}:" are not supported', hint="convert it to an App Container image first"
        )
    if "://" in text:
        raise UsageError(f'"{text}" has a scheme that is not supported', hint="use https")
    if os.path.isabs(text) or os.path.isfile(text):
        return Source(file=text)
    if ":" not in text and ("./" in text or text.endswith(".aci")):
        return Source(file=text)
    return Source(ref=ImageRef.parse(text))


def _ends_in_aci(text: str, path: str) -> str:
    if not path.endswith(".aci"):
        raise UsageError(f'invalid image string "{text}"', hint="the path of an image ends in .aci")
    return text


def signature_url(url: str) -> str:
    """Where the signature of the image at *url* is: the path with ``.asc``, query and fragment kept."""
    parts = urlsplit(url)
    return parts._replace(path=parts.path + ".asc").geturl()
