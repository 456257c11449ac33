"""Bodies of POST requests: ``application/x-www-form-urlencoded``, decoded to bytes (MDS-22, TRAP-13).

To bytes, never to text: ``%FF`` is one byte, and a signature over it would be over something else if a
decoder replaced it. Percent escapes are decoded in C (they have the form of quoted-printable once the two
other characters that mean something there are escaped): a megabyte of them must not hold up the other pods.
"""

from __future__ import annotations

import binascii
import re

MAX_FIELDS = 16

_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")


def decode(body: bytes) -> dict[bytes, bytes]:
    """The fields of a form.

    Raises:
        ValueError: A field is repeated, an escape is malformed, or there are too many fields.
    """
    fields: dict[bytes, bytes] = {}
    for part in body.split(b"&", MAX_FIELDS):
        if not part:
            continue
        if len(fields) == MAX_FIELDS:
            raise ValueError("too many form fields")
        name, _, value = part.partition(b"=")
        if b"%" in part or b"+" in part:
            name, value = unquote(name), unquote(value)
        if name in fields:
            raise ValueError("a form field is repeated")
        fields[name] = value
    return fields


def unquote(value: bytes) -> bytes:
    """*value* with ``+`` as spaces and ``%XX`` as bytes.

    Raises:
        ValueError: A ``%`` without two hex digits.
    """
    if b"+" in value:
        value = value.replace(b"+", b" ")
    return unquote_path(value)


def unquote_path(value: bytes) -> bytes:
    """*value* with ``%XX`` as bytes.

    Raises:
        ValueError: A ``%`` without two hex digits.
    """
    if b"%" not in value:
        return value
    if _BAD_ESCAPE.search(value):
        raise ValueError("malformed percent escape")
    for character in (b"=", b"\n", b"\r"):
        value = value.replace(character, b"%%%02X" % character[0])
    return binascii.a2b_qp(value.replace(b"%", b"="))
