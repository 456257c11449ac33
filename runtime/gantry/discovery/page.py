"""Finding discovery tags in a page, by the rules of HTML (DSC-03 ... DSC-05).

The parser is justhtml's event stream; why, says docs/decisions/0002-html-parser.md.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

IMAGES = "ac-discovery"
PUBKEYS = "ac-discovery-pubkeys"

# Every comment makes the parser look through the rest of the page, so their product is bounded.
_COMMENT_BUDGET = 4_000_000_000
# A browser without scripts reads what is inside <noscript>, and so do we; nested ones are nobody's.
_NOSCRIPT_DEPTH = 1
_CHARSET = re.compile(r";\s*charset\s*=\s*\"?([A-Za-z0-9_.:-]{1,40})", re.IGNORECASE)


class Tag(NamedTuple):
    """A discovery tag.

    Attributes:
        kind: :data:`IMAGES` or :data:`PUBKEYS`.
        prefix: The names it is for begin with this.
        value: A template, or the URL of keys.
    """

    kind: str
    prefix: str
    value: str


class PageTooComplexError(Exception):
    """The page takes more work than a page of its size should."""


def find_tags(page: bytes, content_type: str = "") -> list[Tag]:
    """The discovery tags of *page* in document order.

    Args:
        page: Its bytes, or a prefix of them; broken HTML does no harm.
        content_type: The ``Content-Type`` it came with; only its ``charset`` counts (TRAP-15).

    Raises:
        PageTooComplexError: Parsing it would take unreasonably long.
    """
    from justhtml.parser.encoding import decode_html  # noqa: PLC0415 - 60 ms that only discovery should pay

    charset = _CHARSET.search(content_type)
    text, _ = decode_html(page, transport_encoding=charset.group(1) if charset else None)
    return [tag for attributes in _meta_elements(text) if (tag := _as_tag(attributes)) is not None]


def _meta_elements(text: str, depth: int = 0) -> Iterator[dict[str, str | None]]:
    from justhtml import stream  # noqa: PLC0415 - as above

    comments = 0
    in_noscript = False
    for event in stream(text):
        if event[0] == "start":
            name, attributes = event[1]
            in_noscript = name == "noscript"
            if name == "meta":
                yield attributes
        elif event[0] == "text":
            if in_noscript and depth < _NOSCRIPT_DEPTH:
                yield from _meta_elements(event[1], depth + 1)
            in_noscript = False
        elif event[0] == "comment":
            comments += 1
            if comments * len(text) > _COMMENT_BUDGET:
                raise PageTooComplexError


def _as_tag(attributes: dict[str, str | None]) -> Tag | None:
    kind = (attributes.get("name") or "").lower()
    if kind not in (IMAGES, PUBKEYS):
        return None
    prefix, _, value = (attributes.get("content") or "").strip().partition(" ")
    value = value.strip()
    return Tag(kind, prefix, value) if prefix and value else None
