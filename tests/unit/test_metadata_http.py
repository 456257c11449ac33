"""Requests as bytes: what is read, what is refused, and with which status."""

from __future__ import annotations

import re
import time
from email.utils import parsedate_to_datetime
from itertools import pairwise
from urllib.parse import parse_qsl, unquote_to_bytes

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gantry.metadata import forms, http
from gantry.metadata.http import Chunks, HttpProblem, Response, find_head, parse_head


def head(text: bytes) -> bytes:
    return text.replace(b"\n", b"\r\n") + b"\r\n\r\n"


def test_a_plain_request() -> None:
    parsed = parse_head(head(b"GET /a/b?c=d HTTP/1.1\nHost: x:1\nX-Y:  z \t"))
    assert (parsed.method, parsed.path, parsed.length) == (b"GET", b"/a/b", 0)
    assert (parsed.keep_alive, parsed.expects_continue, parsed.content_type) == (True, False, b"")


def test_a_form() -> None:
    parsed = parse_head(
        head(b"POST / HTTP/1.1\nhOsT:\nContent-LENGTH: 0012\nContent-Type: A/B; c=d\nExpect: 100-Continue")
    )
    assert (parsed.length, parsed.content_type, parsed.expects_continue) == (12, b"a/b", True)


@pytest.mark.parametrize(
    ("line", "path"),
    [
        (b"/", b"/"),
        (b"//", b"//"),
        (b"/a%2Fb/../c", b"/a%2Fb/../c"),
        (b"/?", b"/"),
        (b"/a?b?c", b"/a"),
        (b"http://h", b"/"),
        (b"HTTP://h:1/a?b", b"/a"),
        (b"http://h/http://i/", b"/http://i/"),
    ],
)
def test_targets(line: bytes, path: bytes) -> None:
    assert parse_head(head(b"GET " + line + b" HTTP/1.1\nHost: h")).path == path


@pytest.mark.parametrize(
    ("text", "keep"),
    [
        (b"GET / HTTP/1.1\nHost: x", True),
        (b"GET / HTTP/1.1\nHost: x\nConnection: keep-alive", True),
        (b"GET / HTTP/1.1\nHost: x\nConnection: a, CLOSE ,b", False),
        (b"GET / HTTP/1.1\nHost: x\nConnection: a\nConnection: close", False),
        (b"GET / HTTP/1.0", False),
        (b"GET / HTTP/1.0\nConnection: keep-alive", False),
        (b"GET / HTTP/1.7\nHost: x", True),
    ],
)
def test_keep_alive(text: bytes, keep: bool) -> None:
    assert parse_head(head(text)).keep_alive is keep


H = b"POST / HTTP/1.1\nHost: x\n"


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (400, b""),
        (400, b"GET"),
        (400, b"GET /"),
        (400, b"GET  / HTTP/1.1\nHost: x"),
        (400, b"GET /  HTTP/1.1\nHost: x"),
        (400, b" GET / HTTP/1.1\nHost: x"),
        (400, b"GET / HTTP/1.1 \nHost: x"),
        (400, b"GET / http/1.1\nHost: x"),
        (400, b"GET / HTTP/1.10\nHost: x"),
        (400, b"GET / HTTP/1,1\nHost: x"),
        (400, b"GET /\t HTTP/1.1\nHost: x"),
        (400, b"GET /\xff HTTP/1.1\nHost: x"),
        (400, b"GET /a b HTTP/1.1\nHost: x"),
        (400, b"GET /#a HTTP/1.1\nHost: x"),
        (400, b"GET a HTTP/1.1\nHost: x"),
        (400, b"GET * HTTP/1.1\nHost: x"),
        (400, b"OPTIONS * HTTP/1.1\nHost: x"),
        (400, b"CONNECT a:1 HTTP/1.1\nHost: x"),
        (400, b"GET https://x/ HTTP/1.1\nHost: x"),
        (400, b"GET http:///a HTTP/1.1\nHost: x"),
        (400, b"GET http://u@h/ HTTP/1.1\nHost: x"),
        (400, b"G(T / HTTP/1.1\nHost: x"),
        (505, b"GET / HTTP/2.0\nHost: x"),
        (505, b"PRI * HTTP/2.0"),
        (505, b"GET / HTTP/0.9"),
        # fields
        (400, b"GET / HTTP/1.1"),
        (400, b"GET / HTTP/1.1\nHost: x\nHost: x"),
        (400, b"GET / HTTP/1.1\nHost: a b"),
        (400, b"GET / HTTP/1.1\nHost: a/b"),
        (400, b"GET / HTTP/1.1\nHost: u@a"),
        (400, b"GET / HTTP/1.0\nHost: a,b"),
        (400, H + b"A : b"),
        (400, H + b" A: b"),
        (400, H + b"A: b\n c"),
        (400, H + b"A: b\n\tc"),
        (400, H + b"A"),
        (400, H + b": b"),
        (400, H + b"A\0: b"),
        (400, H + b"A: b\0"),
        (400, H + b"A: \x7f"),
        (400, H + b"A: b\rC: d"),
        # where the body ends
        (400, H + b"Content-Length: 1\nContent-Length: 1"),
        (400, H + b"Content-Length: 1\nContent-Length: 2"),
        (400, H + b"Content-Length: 1, 1"),
        (400, H + b"Content-Length:"),
        (400, H + b"Content-Length: +1"),
        (400, H + b"Content-Length: -1"),
        (400, H + b"Content-Length: 0x1"),
        (400, H + b"Content-Length: 1_0"),
        (400, H + b"Content-Length: 1 1"),
        (400, H + "Content-Length: \u0661".encode()),
        (413, H + b"Content-Length: 1048577"),
        (413, H + b"Content-Length: 18446744073709551616"),
        (413, H + b"Content-Length: " + b"9" * 5000),
        (400, H + b"Content-Length: 1\nTransfer-Encoding: chunked"),
        (400, H + b"Transfer-Encoding: chunked\nContent-Length: 1"),
        (400, H + b"Transfer-Encoding: chunked\nTransfer-Encoding: chunked"),
        (400, b"POST / HTTP/1.0\nTransfer-Encoding: chunked"),
        (501, H + b"Transfer-Encoding: gzip, chunked"),
        (501, H + b"Transfer-Encoding: chunked, chunked"),
        (501, H + b"Transfer-Encoding: identity"),
        (501, H + b"Transfer-Encoding:"),
        (501, H + b"Transfer-Encoding: xchunked"),
        (501, H + b"Transfer-Encoding: chunked;a=b"),
        (501, H + b'Transfer-Encoding: "chunked"'),
        (501, H + b"Transfer-Encoding: \x0bchunked".replace(b"\x0b", b"\xa0")),
        (400, H + b"Transfer-Encoding: \x0bchunked"),
        (400, H + b"Content-Type: a\nContent-Type: b"),
        (417, H + b"Expect: 200-ok"),
        (414, b"GET /" + b"a" * http.MAX_TARGET + b" HTTP/1.1\nHost: x"),
        (431, b"GET / HTTP/1.1\nHost: x" + b"\nA: b" * http.MAX_FIELDS),
    ],
    ids=lambda value: value if isinstance(value, int) else repr(value[:60]),
)
def test_refused(status: int, text: bytes) -> None:
    with pytest.raises(HttpProblem) as caught:
        parse_head(head(text))
    assert caught.value.status == status


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"", -1),
        (b"GET", -1),
        (b"a\r\n\r", -1),
        (b"a\r\n\r\n", 5),
        (b"a\r\n\r\nb\r\n\r\n", 5),
        (b"a\r\nb\r\n\r\nc", 8),
    ],
)
def test_the_end_of_a_head(data: bytes, found: int) -> None:
    assert find_head(data) == found


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET / HTTP/1.1\nHost: x\n\n", 400),
        (b"\n", 400),
        (b"GET / HTTP/1.1\r\nA: b\nC: d", 400),
        (b"GET /" + b"a" * http.MAX_HEAD, 414),
        (b"GET / HTTP/1.1\r\nA: " + b"a" * http.MAX_HEAD, 431),
        (b"GET / HTTP/1.1\r\nA: " + b"a" * http.MAX_HEAD + b"\r\n\r\n", 431),
    ],
    ids=lambda value: value if isinstance(value, int) else repr(value[:30]),
)
def test_no_end_of_a_head(data: bytes, status: int) -> None:
    with pytest.raises(HttpProblem) as caught:
        find_head(data)
    assert caught.value.status == status


@given(st.binary(max_size=300))
@example(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
def test_any_bytes_are_a_head_or_a_problem(data: bytes) -> None:
    try:
        end = find_head(data)
        if end >= 0:
            parsed = parse_head(data[:end])
            assert -1 <= parsed.length <= http.MAX_BODY
            assert parsed.path.startswith(b"/")
    except HttpProblem as problem:
        assert 400 <= problem.status < 600


# --- Chunks -----------------------------------------------------------------------------------


def chunked(*parts: bytes, trailer: bytes = b"") -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in parts) + b"0\r\n" + trailer + b"\r\n"


@given(
    parts=st.lists(st.binary(min_size=1, max_size=40), max_size=6),
    rest=st.binary(max_size=10),
    cuts=st.lists(st.integers(0, 300), max_size=8),
    trailer=st.sampled_from([b"", b"A: b\r\n"]),
)
def test_chunks_however_they_are_cut(
    parts: list[bytes], rest: bytes, cuts: list[int], trailer: bytes
) -> None:
    data = chunked(*parts, trailer=trailer) + rest
    edges = sorted({0, len(data), *(c for c in cuts if c < len(data))})
    chunks = Chunks()
    tail = b""
    for start, end in pairwise(edges):
        if chunks.rest is None:
            chunks.feed(data[start:end])
        else:
            tail += data[start:end]
    assert chunks.rest is not None
    assert chunks.body() == b"".join(parts)
    assert chunks.rest + tail == rest


def test_chunk_sizes_and_extensions() -> None:
    chunks = Chunks()
    chunks.feed(b'A;x="y" \r\n0123456789\r\n00000002 \r\nab\r\n0;z\r\n\r\n')
    assert chunks.body() == b"0123456789ab"


@pytest.mark.parametrize(
    ("status", "data"),
    [
        (400, b"\r\n"),
        (400, b"x\r\n"),
        (400, b"-1\r\n"),
        (400, b"0x1\r\n"),
        (400, b"+1\r\n"),
        (400, b" 1\r\n"),
        (400, b"1\n"),
        (400, b"1 2\r\n"),
        (400, b"123456789\r\n"),
        (400, b"1;\0\r\n"),
        (400, b"1\r\nabc"),
        (400, b"1\r\na\n\n"),
        (400, b"1\r\na\r\r"),
        (400, b"2\r\na\r\n0\r\n\r\n"),
        (400, b"0\r\nA : b\r\n"),
        (400, b"0\r\nnot a field\r\n"),
        (400, b"1;" + b"a" * http.MAX_CHUNK_LINE),
        (413, b"100001\r\n"),
        (413, b"ffffffff\r\n"),
        (413, b"1\r\na\r\n" * http.MAX_HEAD),
        (413, b"0\r\n" + b"A: b\r\n" * http.MAX_HEAD),
    ],
    ids=lambda value: value if isinstance(value, int) else repr(value[:30]),
)
def test_chunks_refused(status: int, data: bytes) -> None:
    with pytest.raises(HttpProblem) as caught:
        Chunks().feed(data)
    assert caught.value.status == status


@given(st.binary(max_size=200))
def test_any_bytes_are_chunks_or_a_problem(data: bytes) -> None:
    chunks = Chunks()
    try:
        chunks.feed(data)
    except HttpProblem as problem:
        assert 400 <= problem.status < 500


# --- Forms ------------------------------------------------------------------------------------

tricky = st.lists(
    st.sampled_from(
        [
            b"%41",
            b"%fF",
            b"%00",
            b"%0A",
            b"%3d",
            b"%25",
            b"=",
            b"\n",
            b"\r\n",
            b"_",
            b" ",
            b"a",
            b"\xff",
            b".",
        ]
    ),
    max_size=12,
).map(b"".join)


@given(tricky)
def test_escapes_are_decoded_to_bytes(value: bytes) -> None:
    assert forms.unquote_path(value) == unquote_to_bytes(value)
    assert forms.unquote(value + b"+") == unquote_to_bytes(value) + b" "


@given(st.dictionaries(st.binary(min_size=1, max_size=6), st.binary(max_size=12), max_size=5))
def test_forms_round_trip(fields: dict[bytes, bytes]) -> None:
    def quote(value: bytes) -> bytes:
        return b"".join(b"%%%02X" % b for b in value)

    assert forms.decode(b"&".join(quote(k) + b"=" + quote(v) for k, v in fields.items())) == fields


@given(st.text(alphabet="ab=&+%4 1", max_size=20))
def test_forms_agree_with_the_standard_library(text: str) -> None:
    try:
        decoded = forms.decode(text.encode())
    except ValueError:
        names = [name for name, _ in parse_qsl(text, keep_blank_values=True)]
        assert re.search("%(?![0-9A-Fa-f]{2})", text) or len(set(names)) < len(names)
    else:
        pairs = parse_qsl(text, keep_blank_values=True, encoding="latin-1")
        assert decoded == {k.encode("latin-1"): v.encode("latin-1") for k, v in pairs}


@pytest.mark.parametrize(
    "body", [b"a=1&a=2", b"a&%61", b"%", b"a=%1", b"a=%1g", b"&".join(b"%d=" % n for n in range(17))]
)
def test_forms_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"form|escape"):
        forms.decode(body)


def test_a_megabyte_of_escapes_is_quick() -> None:
    """One thread serves all pods: a form must not hold it up. (unquote_to_bytes takes 15 times as long.)"""
    body = b"content=" + b"%41a" * (1 << 18)
    started = time.perf_counter()
    unquote_to_bytes(body)
    standard = time.perf_counter() - started
    quickest = min(_time_decode(body) for _ in range(3))
    assert quickest < standard / 2


def _time_decode(body: bytes) -> float:
    started = time.perf_counter()
    forms.decode(body)
    return time.perf_counter() - started


# --- Answers ----------------------------------------------------------------------------------


def test_an_answer() -> None:
    assert Response(405, b"no", allow=b"GET").start == (
        b"HTTP/1.1 405 Method Not Allowed\r\nContent-Type: text/plain; charset=us-ascii\r\n"
        b"Content-Length: 2\r\n"
        b"Allow: GET\r\n"
    )
    assert b"\r\nRetry-After: 1\r\n" in Response(503, b"").start


def test_the_date() -> None:
    line = http.Clock().line().decode()
    assert line.startswith("Date: ")
    assert line.endswith(" GMT\r\n")
    assert abs(parsedate_to_datetime(line[6:].strip()).timestamp() - time.time()) < 5
