"""Whatever a server answers, byte by byte: an error that names the URL, or an answer within its bounds."""

from __future__ import annotations

import contextlib
import gzip
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tests.integration.test_fetch import World
from tests.support.https_server import HttpsServer, Reply, Request
from tests.support.openpgp import make_key, trust

from gantry.errors import GantryError
from gantry.http import Client, HttpError, HttpOptions
from gantry.http.fields import LONGEST, fresh_for, retry_after

SECRET = "s3cr3t"
NAMES = st.sampled_from(
    [
        "Content-Length",
        "Content-Range",
        "Transfer-Encoding",
        "Content-Encoding",
        "Location",
        "ETag",
        "Retry-After",
        "Cache-Control",
        "Expires",
        "Age",
        "Date",
        "Connection",
        "Set-Cookie",
        "X",
    ]
)
ODD = [
    "0",
    "-1",
    "5",
    "99999999999999999999",
    "chunked",
    "gzip",
    "br",
    "bytes=0-4/5",
    "*",
    '"e"',
    'W/"e"',
    "https://example.com/",
    "//",
    "http://[::1",
    "https://user:pw@example.org/x",
    "max-age=5",
    "close",
]
VALUES = st.one_of(
    st.sampled_from([*ODD, "", "bytes 0-4/5", "bytes 5-4/*", "Thu, 99 Foo 2026"]),
    st.text(st.characters(codec="latin-1", exclude_characters="\r\n"), max_size=40),
)
STATUS = st.sampled_from(
    [100, 101, 199, 200, 202, 204, 206, 301, 302, 304, 307, 400, 404, 416, 429, 500, 503, 999]
)


@st.composite
def answers(draw: st.DrawFn) -> bytes:
    """Something like an answer, whole or damaged."""
    status, fields = draw(STATUS), draw(st.lists(st.tuples(NAMES, VALUES), max_size=5))
    head = f"HTTP/1.1 {status} {draw(st.sampled_from(['OK', '', 'x' * 300]))}\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in fields)
    raw = head.encode("latin-1") + b"\r\n" + draw(st.binary(max_size=60))
    if draw(st.booleans()):
        at = draw(st.integers(0, len(raw)))
        raw = raw[:at] + draw(st.binary(max_size=8)) + raw[at + draw(st.integers(0, 4)) :]
    return raw[: draw(st.integers(0, len(raw)))] if draw(st.booleans()) else raw


@pytest.fixture(scope="module")
def server() -> Iterator[HttpsServer]:
    with HttpsServer() as server:
        yield server


def options(server: HttpsServer) -> HttpOptions:
    return HttpOptions(
        ca_file=server.ca_file,
        connect_to=server.connect_to("example.com"),
        use_proxies=False,
        stall_timeout=2,
        total_timeout=5,
        retries=1,
        retry_pause=0,
        retry_wait=0,
        headers={"example.com": {"Authorization": f"Bearer {SECRET}"}},
    )


def answering(raw: bytes) -> Reply:
    def send(connection: socket.socket) -> None:
        connection.sendall(raw)

    return Reply(raw=send)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(raw=answers())
@example(raw=b"")
@example(raw=b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!")
@example(raw=b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffffff\r\n")
@example(raw=b"HTTP/1.1 302 Found\r\nLocation: https://example.org:99999/\r\n\r\n")
@example(raw=b"HTTP/1.1 302 Found\r\nLocation: https://example.com/\r\nContent-Length: 0\r\n\r\n")
@example(raw=b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 300 + b"\r\n")
def test_any_answer_is_an_answer_or_an_error_that_names_the_url(server: HttpsServer, raw: bytes) -> None:
    server.routes = lambda _request: answering(raw)
    with Client(options(server)) as client:
        try:
            answer = client.get("https://example.com/x?token=" + SECRET, max_bytes=20)
            assert len(answer.body) <= 20
        except GantryError as error:
            assert re.match(r"https://example\.(com|org)", error.message), error.message
            assert SECRET not in str(error)
            assert "\n" not in str(error)
    with Client(options(server)) as client:
        try:
            with client.stream("https://example.com/x", offset=3, etag='"e"') as stream:
                got = sum(map(len, stream.iter_bytes()))
                assert stream.offset in (0, 3)
                assert stream.total is None or stream.total >= got
        except GantryError as error:
            assert SECRET not in str(error)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(raw=answers(), which=st.sampled_from(["", ".asc"]))
def test_any_answer_for_an_image_or_its_signature_leaves_nothing_adopted(
    server: HttpsServer, tmp_path_factory: pytest.TempPathFactory, raw: bytes, which: str
) -> None:
    world = World(tmp_path_factory.mktemp("world"), server, KEY)
    trust(world.paths, KEY)
    world.options = options(server)
    image = world.make(version="1.0", files={"f": "1"})
    world.publish(image)
    world.routes[f"/example.com/app-1.0.aci{which}"] = answering(raw)
    try:
        world.fetch()
    except GantryError as error:
        assert SECRET not in str(error)
        assert "\n" not in str(error)
    assert world.store.list() == []
    left = [Path(file).suffix for file in world.files()]
    assert set(left) <= {".part", ".json"}


KEY = make_key()


@settings(max_examples=500)
@given(
    fields=st.dictionaries(
        st.sampled_from(["cache-control", "expires", "date", "age", "retry-after"]),
        st.one_of(VALUES, st.text(max_size=60), st.from_regex(r'max-age=?"?[0-9]{0,30}"?,?', fullmatch=True)),
    ),
    now=st.floats(-1e12, 1e12),
)
def test_header_fields_never_surprise(fields: dict[str, str], now: float) -> None:
    assert 0 <= fresh_for(fields, now) <= LONGEST
    after = retry_after(fields, now)
    assert after is None or after >= 0


# -- answers without an end ---------------------------------------------------------------------------

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def for_ever(sock: socket.socket, start: bytes, again: bytes, pause: float) -> None:
    """Send *start*, and *again* until the other side is tired of it."""
    with contextlib.suppress(OSError):
        sock.sendall(start)
        for _ in range(2000):
            sock.sendall(again)
            time.sleep(pause)


ENDLESS = {
    "trailers": (CHUNKED + b"a\r\n0123456789\r\n0\r\n", b"X: a\r\n" * 100, 0.01),
    "slow trailers": (CHUNKED + b"0\r\n", b"X: a\r\n", 0.1),
    "the size of a chunk": (CHUNKED, b"0", 0.1),
    "an extension of a chunk": (CHUNKED + b"a;x=", b"y", 0.1),
    "a header line": (b"HTTP/1.1 200 OK\r\nX: ", b"y", 0.1),
    "interim answers": (b"", b"HTTP/1.1 100 Continue\r\n\r\n", 0.1),
}


@pytest.mark.parametrize("which", ENDLESS)
@pytest.mark.parametrize("way", ["get", "stream"])
def test_what_brings_nothing_is_given_up(server: HttpsServer, which: str, way: str) -> None:
    """However many bytes arrive, each in time."""
    server.routes = lambda _: Reply(raw=lambda sock: for_ever(sock, *ENDLESS[which]))
    options = HttpOptions(
        ca_file=server.ca_file,
        connect_to=server.connect_to("example.com"),
        use_proxies=False,
        stall_timeout=0.5,
    )

    def ask(client: Client) -> None:
        if way == "get":
            client.get("https://example.com/x", max_bytes=1000)
            return
        with client.stream("https://example.com/x") as answer:
            for _ in answer.iter_bytes(1000):
                pass

    with Client(options) as client, pytest.raises(HttpError) as caught:
        ask(client)
    assert caught.value.url == "https://example.com/x"


def test_a_proxy_that_brings_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = socket.create_server(("127.0.0.1", 0))
    monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.getsockname()[1]}")
    monkeypatch.delenv("no_proxy", raising=False)

    def serve() -> None:
        with proxy, proxy.accept()[0] as sock:
            sock.recv(4096)
            for_ever(sock, b"HTTP/1.1 200 ", b"a", 0.1)

    thread = threading.Thread(target=serve)
    thread.start()
    with Client(HttpOptions(connect_timeout=0.5, stall_timeout=0.5)) as client:
        with pytest.raises(HttpError, match="cannot connect"):
            client.get("https://example.com/x", max_bytes=1000)
    thread.join()


def test_what_follows_a_gzip_page_is_not_kept(server: HttpsServer) -> None:
    body = gzip.compress(b"page") + bytes(1_000_000)
    server.routes = {"/x": Reply(body=body, headers={"Content-Encoding": "gzip"})}
    places = server.connect_to("example.com")
    options = HttpOptions(ca_file=server.ca_file, connect_to=places, use_proxies=False)
    with Client(options) as client, pytest.raises(HttpError, match="goes on after the end of its gzip"):
        client.get("https://example.com/x", max_bytes=2_000_000)


def test_a_mirror_that_brings_a_byte_at_a_time_does_not_stop_another(
    tmp_path: Path, server: HttpsServer
) -> None:
    world = World(tmp_path, server, make_key())
    trust(world.paths, world.key, "example.com/app")
    tags = [
        f'<meta name="ac-discovery" content="example.com https://example.com/{place}/app.{{ext}}">'
        for place in ("slow", "good")
    ]
    world.routes["/app"] = world.routes["/"] = "".join(tags)
    image = world.make(version="1.0", files={"f": os.urandom(3000)})
    for place in ("slow", "good"):
        world.publish(image, f"/{place}/app.aci")
    size = len(image.data)

    def one_byte(request: Request) -> Reply:
        start = int(request.headers.get("range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))
        head = f'HTTP/1.1 {206 if start else 200} OK\r\nETag: "e"\r\nContent-Length: {size - start}\r\n'
        head += f"Content-Range: bytes {start}-{size - 1}/{size}\r\n" if start else ""
        answer = f"{head}\r\n".encode() + image.data[start : start + 1]
        return Reply(raw=lambda sock: sock.sendall(answer))

    world.routes["/slow/app.aci"] = one_byte
    assert world.fetch("example.com/app:1.0").image.id == image.id
    assert len([path for path in world.server.paths() if path == "/slow/app.aci"]) < 10


LONG_FIELDS = """
import resource
resource.setrlimit(resource.RLIMIT_CPU, (5, 5))
from gantry.http.fields import fresh_for
n = 500_000
for text in ("a=" + " " * n + chr(34), chr(34) * n, "," * n, " " * n, "a=" + chr(34) + "\\\\" * n):
    assert fresh_for({"cache-control": text}, 0) == 0
"""


def test_a_cache_control_of_any_length_is_read_at_once() -> None:
    """In time that grows with its length, and not with the square of it: that would be hours."""
    subprocess.run([sys.executable, "-c", LONG_FIELDS], check=True)
