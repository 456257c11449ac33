"""HTTP/1.1 requests and responses as bytes (RFC 9110, RFC 9112). Pure: it is given bytes and returns values.

Strict where two readers could disagree about where a message ends, because that is how requests are smuggled:

- lines end in CRLF and nothing else; no control characters, no folded lines, no space before a colon;
- Host (in HTTP/1.1), Content-Length, Content-Type and Transfer-Encoding stand once or not at all;
- Content-Length is digits; it never stands beside Transfer-Encoding, which is `chunked` or refused;
- no chunk or trailer is looked at leniently.

Everything has a bound, and no bound is reached by an expression that takes more than linear time.
"""

from __future__ import annotations

import re
import time
from http import HTTPStatus

MAX_HEAD = 16 << 10
MAX_TARGET = 8 << 10
MAX_FIELDS = 64
MAX_BODY = 1 << 20
MAX_CHUNK_LINE = 256

JSON = b"application/json"
TEXT = b"text/plain; charset=us-ascii"

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

_REQUEST_LINE = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]{1,32}) ([\x21-\x7e]+) HTTP/([0-9])\.([0-9])")
_FIELD = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):([\t\x20-\x7e\x80-\xff]*)")
_ABSOLUTE = re.compile(rb"[Hh][Tt][Tt][Pp]://[^/?#@]+(/[^#]*)?")
_HOST = re.compile(rb"[0-9A-Za-z.\-_~%:\[\]]*")
_LONE_LINE_FEED = re.compile(rb"(?<!\r)\n")
_SIZE = re.compile(rb"([0-9A-Fa-f]{1,8})[\t ]*(?:;[\t\x20-\x7e\x80-\xff]*)?")
_REASONS = {status.value: status.phrase.encode() for status in HTTPStatus}
_SINGLE = frozenset({b"host", b"content-length", b"content-type", b"transfer-encoding"})


class HttpProblem(Exception):  # noqa: N818 - a request that is answered with an error, not a fault of ours
    """A request that can only be answered with this error, after which the connection is closed."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


class Head:
    """A request line with its header fields.

    Attributes:
        method: As sent; case matters.
        path: The target without scheme, authority and query; still percent-encoded; begins with a slash.
        length: Content-Length; 0 when there is no body; -1 when the body is chunked.
        content_type: Media type without parameters, in lower case.
        keep_alive: Whether the client is ready for another request on this connection.
        expects_continue: Whether it waits for "100 Continue" before it sends the body.
    """

    __slots__ = ("content_type", "expects_continue", "keep_alive", "length", "method", "path")

    def __init__(
        self,
        *,
        method: bytes,
        path: bytes,
        length: int,
        content_type: bytes,
        keep_alive: bool,
        expects_continue: bool,
    ) -> None:
        self.method = method
        self.path = path
        self.length = length
        self.content_type = content_type
        self.keep_alive = keep_alive
        self.expects_continue = expects_continue


def find_head(data: bytes) -> int:
    """Where the head in *data* ends (behind its empty line), or -1 when more is needed.

    Raises:
        HttpProblem: It can never become one: too long, or with line ends that are none.
    """
    end = data.find(b"\r\n\r\n", 0, MAX_HEAD)
    if end >= 0:
        return end + 4
    if len(data) >= MAX_HEAD:
        if data.find(b"\r\n", 0, MAX_HEAD) < 0:
            raise HttpProblem(414, "request target too long")
        raise HttpProblem(431, "header fields too large")
    if _LONE_LINE_FEED.search(data):
        raise HttpProblem(400, "lines must end in CRLF")
    return -1


def parse_head(head: bytes) -> Head:
    """Read a head, its empty line included.

    Raises:
        HttpProblem: It is malformed, ambiguous or beyond a limit.
    """
    first, *lines = head[:-4].split(b"\r\n")
    match = _REQUEST_LINE.fullmatch(first)
    if not match:
        raise HttpProblem(400, "malformed request line")
    method, target, major, minor = match.groups()
    if major != b"1":
        raise HttpProblem(505, "HTTP/1.1 is spoken here")
    if len(target) > MAX_TARGET:
        raise HttpProblem(414, "request target too long")
    if len(lines) > MAX_FIELDS:
        raise HttpProblem(431, "too many header fields")
    fields = _parse_fields(lines)
    modern = minor != b"0"
    host = fields.get(b"host")
    if (host is None and modern) or (host is not None and not _HOST.fullmatch(host)):
        raise HttpProblem(400, "exactly one valid Host field is needed")
    options = {option.strip().lower() for option in fields.get(b"connection", b"").split(b",")}
    expect = fields.get(b"expect", b"").lower()
    if expect not in {b"", b"100-continue"}:
        raise HttpProblem(417, "only 100-continue can be expected")
    length = _body_length(fields, modern)
    return Head(
        method=method,
        path=_path(target),
        length=length,
        content_type=fields.get(b"content-type", b"").partition(b";")[0].strip().lower(),
        keep_alive=modern and b"close" not in options,
        expects_continue=bool(expect) and modern and length != 0,
    )


def _parse_fields(lines: list[bytes]) -> dict[bytes, bytes]:
    fields: dict[bytes, bytes] = {}
    for line in lines:
        match = _FIELD.fullmatch(line)
        if not match:
            raise HttpProblem(400, "malformed header field")
        name, value = match[1].lower(), match[2].strip(b" \t")
        if name in fields:
            if name in _SINGLE:
                raise HttpProblem(400, f"the field {name.decode()} must not be repeated")
            value = fields[name] + b"," + value
        fields[name] = value
    return fields


def _body_length(fields: dict[bytes, bytes], modern: bool) -> int:
    length, coding = fields.get(b"content-length"), fields.get(b"transfer-encoding")
    if coding is not None:
        if length is not None or not modern:
            raise HttpProblem(400, "the length of the body is ambiguous")
        if coding.lower() != b"chunked":
            raise HttpProblem(501, "the only transfer coding known here is chunked")
        return -1
    if length is None:
        return 0
    if not length.isdigit():  # of bytes: ASCII digits only
        raise HttpProblem(400, "malformed Content-Length")
    if len(length.lstrip(b"0")) > 9 or int(length) > MAX_BODY:
        raise HttpProblem(413, f"a body of at most {MAX_BODY} bytes is taken")
    return int(length)


def _path(target: bytes) -> bytes:
    if not target.startswith(b"/"):
        match = _ABSOLUTE.fullmatch(target)
        if not match:
            raise HttpProblem(400, "malformed request target")
        target = match[1] or b"/"
    if b"#" in target:
        raise HttpProblem(400, "malformed request target")
    return target.partition(b"?")[0]


class Chunks:
    """A chunked body, as it arrives. Give it bytes until :attr:`rest` is no longer None.

    Attributes:
        rest: What followed the body; None while the body is incomplete.
    """

    __slots__ = ("_buffer", "_left", "_overhead", "_parts", "_size", "_trailer", "rest")

    def __init__(self) -> None:
        self._buffer = b""
        self._left = (
            -1
        )  # bytes of the current chunk that are missing, its CRLF included; -1: its size is next
        self._parts: list[bytes] = []
        self._size = 0
        self._overhead = 0
        self._trailer = False
        self.rest: bytes | None = None

    def feed(self, data: bytes) -> None:
        """Take *data*.

        Raises:
            HttpProblem: Not chunks, or too many bytes.
        """
        data = self._buffer + data
        at = 0
        while self.rest is None:
            if self._left > 0:
                part = data[at : at + self._left]
                at += len(part)
                self._left -= len(part)
                self._parts.append(part)
                if self._left:
                    break
                self._end_chunk()
                continue
            end = data.find(b"\r\n", at, at + MAX_CHUNK_LINE)
            if end < 0:
                if len(data) - at >= MAX_CHUNK_LINE or _LONE_LINE_FEED.search(data, at):
                    raise HttpProblem(400, "malformed chunk")
                break
            line, at = data[at:end], end + 2
            self._overhead += len(line) + 2
            if self._overhead > MAX_HEAD + self._size:
                raise HttpProblem(413, "more framing than content")
            if not self._trailer:
                self._start_chunk(line)
            elif not line:
                self.rest = data[at:]
            elif not _FIELD.fullmatch(line):
                raise HttpProblem(400, "malformed trailer")
        self._buffer = b"" if self.rest is not None else data[at:]

    def body(self) -> bytes:
        """The content, once complete."""
        return b"".join(self._parts)

    def _start_chunk(self, line: bytes) -> None:
        match = _SIZE.fullmatch(line)
        if not match:
            raise HttpProblem(400, "malformed chunk")
        size = int(match[1], 16)
        self._size += size
        if self._size > MAX_BODY:
            raise HttpProblem(413, f"a body of at most {MAX_BODY} bytes is taken")
        if size:
            self._left = size + 2
        else:
            self._trailer = True

    def _end_chunk(self) -> None:
        last = self._parts.pop()
        while len(last) < 2:  # the CRLF came in two pieces
            last = self._parts.pop() + last
        if not last.endswith(b"\r\n"):
            raise HttpProblem(400, "malformed chunk")
        self._parts.append(last[:-2])
        self._left = -1


class Response:
    """An answer, before it is bytes.

    Args:
        status: The status code.
        body: The content.
        content_type: Exactly what shall stand in the header (MDS-19).
        allow: For 405: the methods that would do.
        start: The attribute, when it is known already.

    Attributes:
        start: Status line and header fields, up to where `Date` and `Connection` follow.
    """

    __slots__ = ("body", "start", "status")

    def __init__(
        self, status: int, body: bytes, content_type: bytes = TEXT, *, allow: bytes = b"", start: bytes = b""
    ) -> None:
        self.status = status
        self.body = body
        self.start = start or _start(status, len(body), content_type, allow)


def _start(status: int, length: int, content_type: bytes, allow: bytes) -> bytes:
    lines = [
        b"HTTP/1.1 %d %b" % (status, _REASONS[status]),
        b"Content-Type: " + content_type,
        b"Content-Length: %d" % length,
    ]
    if allow:
        lines.append(b"Allow: " + allow)
    if status == 503:
        lines.append(b"Retry-After: 1")
    return b"\r\n".join(lines) + b"\r\n"


class Clock:
    """The `Date` field, made once a second."""

    def __init__(self) -> None:
        self._second = -1
        self._line = b""

    def line(self) -> bytes:
        """The whole field with its line end."""
        now = int(time.time())
        if now != self._second:
            t = time.gmtime(now)
            self._second = now
            self._line = (
                f"Date: {_DAYS[t.tm_wday]}, {t.tm_mday:02} {_MONTHS[t.tm_mon - 1]} {t.tm_year} "
                f"{t.tm_hour:02}:{t.tm_min:02}:{t.tm_sec:02} GMT\r\n"
            ).encode()
        return self._line


_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
