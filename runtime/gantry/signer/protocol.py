"""What travels over the signer's socket (docs/metadata-and-signing.md has it for others).

A connection carries any number of frames each way; the replies come in the order of the requests, so a client
may send many before it reads. Numbers are big-endian::

    request   u32 length of what follows   u8 version (1)   u8 operation   16 bytes pod UUID   body
    reply     u32 length of what follows   u8 status        body

    operation   body of the request                    body of a reply OK       who may
    1 create    32 bytes SHA-256 of the token          u8: 1 changed, 0 not     root
    2 delete    -                                      u8: 1 changed, 0 not     root
    3 sign      u8 length of the token, token,         64 bytes                 root, the metadata service
                content
    4 verify    64 bytes signature, content            u8: 1 right, 0 wrong     root, the metadata service
    5 flush     - (the UUID is not looked at)          -                        root
    6 list      - (the UUID is not looked at)          16 bytes for each key    root

Replies other than OK carry one line of text. Only a malformed frame ends the connection, after its reply.
"""

from __future__ import annotations

import struct

VERSION = 1

CREATE, DELETE, SIGN, VERIFY, FLUSH, LIST = 1, 2, 3, 4, 5, 6

OK = 0
UNKNOWN_POD = 1  # no key for this UUID
BAD_TOKEN = 2  # the token is not this pod's
FORBIDDEN = 3  # not for this user
MALFORMED = 4
FAILED = 5  # the signer's own trouble: disk, damaged key file

SIGNATURE_SIZE = 64
MAX_CONTENT = 1 << 20
MAX_TOKEN = 255
MAX_REQUEST = MAX_CONTENT + 1024  # of the length field
MAX_REPLY = 1 << 20  # of the length field

LENGTH = struct.Struct("!I")
REQUEST = struct.Struct("!IBB16s")  # with the length
REPLY = struct.Struct("!IB")  # with the length

NO_UUID = bytes(16)


def request(operation: int, uuid: bytes, body: bytes = b"") -> bytes:
    """One request as it goes over the wire."""
    return REQUEST.pack(18 + len(body), VERSION, operation, uuid) + body


def sign_request(uuid: bytes, token: bytes, content: bytes) -> bytes:
    """The request for the signature of the pod *uuid* over *content*."""
    return b"%b%c%b%b" % (
        REQUEST.pack(19 + len(token) + len(content), VERSION, SIGN, uuid),
        len(token),
        token,
        content,
    )


def verify_request(uuid: bytes, signature: bytes, content: bytes) -> bytes:
    """The request to compare *signature* (64 bytes) with the one that the pod *uuid* would give *content*."""
    return request(VERIFY, uuid, signature + content)


def reply(status: int, body: bytes = b"") -> bytes:
    """One reply as it goes over the wire."""
    return REPLY.pack(1 + len(body), status) + body
