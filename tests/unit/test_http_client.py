"""The HTTP client against real servers."""

from __future__ import annotations

import base64
import gzip
import socket
import ssl
import threading
from pathlib import Path
from typing import Any

import pytest
from tests.support.https_server import Authority, HttpsServer, Reply, Request

from gantry import __version__
from gantry.errors import GantryError, HostError, UsageError
from gantry.http import (
    Client,
    ConnectError,
    HttpError,
    HttpOptions,
    RedirectError,
    StalledError,
    StatusError,
    StreamResponse,
    TlsError,
    TooLargeError,
    TruncatedError,
    public_url,
)

BODY = bytes(range(256)) * 400  # 102,400 bytes


def options(server: HttpsServer, **more: object) -> HttpOptions:
    given: dict[str, object] = {
        "ca_file": server.ca_file,
        "connect_to": server.connect_to("example.com", "other.example.com", "example.org"),
        "use_proxies": False,
    }
    return HttpOptions(**(given | more))  # type: ignore[arg-type]


def drain(stream: StreamResponse, into: bytearray) -> None:
    for piece in stream.iter_bytes():
        into += piece


def redirect(location: str, status: int = 302) -> Reply:
    return Reply(status, headers={"Location": location})


class TestTls:
    def test_certificate_of_the_given_authority_is_accepted(self) -> None:
        with HttpsServer({"/x": b"hello"}) as server, Client(options(server)) as client:
            answer = client.get(f"{server.url}/x", max_bytes=10)
        assert (answer.status, answer.body, answer.truncated) == (200, b"hello", False)
        assert server.requests[0].headers["user-agent"] == f"gantry/{__version__}"

    def test_other_authority_is_refused_and_nothing_is_requested(self) -> None:
        with HttpsServer({"/x": b"hello"}) as server, HttpsServer() as other:
            with Client(options(server, ca_file=other.ca_file)) as client, pytest.raises(TlsError) as error:
                client.get(f"{server.url}/x", max_bytes=10)
        assert server.requests == []
        assert error.value.code == "tls"
        assert "certificate was refused" in str(error.value)

    def test_system_authorities_do_not_know_the_test_server(self) -> None:
        with (
            HttpsServer() as server,
            Client(options(server, ca_file=None)) as client,
            pytest.raises(TlsError),
        ):
            client.get(f"{server.url}/x", max_bytes=10)

    def test_wrong_name_is_refused(self) -> None:
        with HttpsServer({"/": b""}, hosts=("else.where",)) as server, Client(options(server)) as client:
            with pytest.raises(TlsError, match=r"(?i)hostname mismatch"):
                client.get("https://example.com/", max_bytes=10)

    def test_expired_certificate_is_refused(self) -> None:
        with HttpsServer({"/": b""}, days=(-10, -2)) as server, Client(options(server)) as client:
            with pytest.raises(TlsError, match="expired"):
                client.get("https://example.com/", max_bytes=10)

    def test_an_authority_without_key_identifiers_is_told_what_is_missing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Python 3.13 refuses what older ones accept; here every one is as strict."""
        plain = ssl.create_default_context

        def strict(**options: Any) -> ssl.SSLContext:
            context = plain(**options)
            context.verify_flags |= ssl.VERIFY_X509_STRICT
            return context

        monkeypatch.setattr(ssl, "create_default_context", strict)
        authority = Authority(str(tmp_path), strict=False)
        with HttpsServer({"/": b""}, authority=authority) as server, Client(options(server)) as client:
            with pytest.raises(TlsError, match=r"(?i)missing authority key identifier") as error:
                client.get("https://example.com/", max_bytes=10)
        assert "authorityKeyIdentifier=keyid" in error.value.hint
        assert "ca_file" not in error.value.hint
        assert server.requests == []
        with HttpsServer({"/": b"x"}) as server, Client(options(server)) as client:
            assert client.get("https://example.com/", max_bytes=10).body == b"x"

    def test_insecure_tls_skips_verification(self) -> None:
        with HttpsServer({"/": b"x"}, hosts=("else.where",)) as server:
            with Client(options(server, ca_file=None, insecure_tls=True)) as client:
                assert client.get("https://example.com/", max_bytes=10).body == b"x"

    def test_server_that_does_not_speak_tls(self) -> None:
        with HttpsServer({"/": b"x"}, tls=False) as server, Client(options(server, ca_file=None)) as client:
            with pytest.raises(TlsError):
                client.get(f"https://localhost:{server.port}/", max_bytes=10)

    def test_missing_and_broken_ca_file(self, tmp_path) -> None:
        broken = tmp_path / "ca.pem"
        broken.write_text("no certificate")
        for path in (tmp_path / "absent.pem", broken):
            with Client(HttpOptions(ca_file=str(path))) as client, pytest.raises(HostError, match=path.name):
                client.get("https://localhost:1/", max_bytes=1)


class TestWhereTo:
    def test_connect_to_keeps_the_name_for_certificate_and_host_header(self) -> None:
        with HttpsServer({"example.com/x": b"there"}) as server, Client(options(server)) as client:
            assert client.get("https://example.com/x", max_bytes=10).body == b"there"
        assert server.requests[0].headers["host"] == "example.com"

    def test_connect_to_without_port_means_the_default_port_only(self) -> None:
        with HttpsServer({"/x": b"there"}) as server, Client(options(server)) as client:
            client.get("https://example.com:443/x", max_bytes=10)
            with pytest.raises(ConnectError):
                client.get("https://localhost:1/x", max_bytes=10)

    @pytest.mark.parametrize("url", ["http://localhost/x", "HTTP://localhost/x"])
    def test_plain_http_is_refused_unless_allowed(self, url: str) -> None:
        with Client() as client, pytest.raises(HttpError, match="plain http is not allowed"):
            client.get(url, max_bytes=10)

    def test_plain_http_if_allowed(self) -> None:
        with HttpsServer({"/x": b"y"}, tls=False) as server, Client(HttpOptions(allow_http=True)) as client:
            assert client.get(f"{server.url}/x", max_bytes=10).body == b"y"

    @pytest.mark.parametrize(
        "url", ["ftp://a/", "file:///etc/passwd", "//a/b", "a.com/x", "https://", "https://a\n.com/", "https:///x",
                "https://a:0/", "https://a:99999/", "https://" + "a" * 9000, "https://[::1/", ""],
    )  # fmt: skip
    def test_other_urls_are_refused(self, url: str) -> None:
        with Client() as client, pytest.raises(HttpError):
            client.get(url, max_bytes=10)

    def test_unreachable_and_unresolvable(self) -> None:
        with Client(HttpOptions(use_proxies=False)) as client:
            with pytest.raises(ConnectError, match="refused") as error:
                client.get("https://127.0.0.1:1/x", max_bytes=10)
            assert error.value.code == "unreachable"
            with pytest.raises(ConnectError, match="cannot be resolved"):
                client.get("https://nowhere.invalid/x", max_bytes=10)

    def test_DSC_31_a_proxy_comes_from_the_environment(self, monkeypatch) -> None:
        with HttpsServer({"http://example.com/x": b"by proxy"}, tls=False) as proxy:
            monkeypatch.setenv("http_proxy", f"http://user:secret@127.0.0.1:{proxy.port}")
            monkeypatch.delenv("no_proxy", raising=False)
            with Client(HttpOptions(allow_http=True)) as client:
                assert client.get("http://example.com/x", max_bytes=20).body == b"by proxy"
                assert "proxy-authorization" in proxy.requests[0].headers
            monkeypatch.setenv("no_proxy", "example.com")
            with Client(HttpOptions(allow_http=True, connect_timeout=0.2)) as client:
                with pytest.raises(HttpError):
                    client.get("http://example.com/x", max_bytes=20)
        assert len(proxy.requests) == 1

    @pytest.mark.parametrize(
        "proxy",
        [
            "http://[::1:3128",
            "http://127.0.0.1:abc",
            "http://user:secret@127.0.0.1:99999",
            "http://exa mple:80",
            "socks5://user:secret@127.0.0.1:1",
            "http://user:secret/more@127.0.0.1:1",
            "http://",
        ],
    )
    def test_a_proxy_that_is_none_is_one_line(self, monkeypatch, proxy: str) -> None:
        monkeypatch.setenv("https_proxy", proxy)
        monkeypatch.delenv("no_proxy", raising=False)
        with Client(HttpOptions()) as client, pytest.raises(HttpError) as caught:
            client.get("https://example.com/x", max_bytes=20)
        assert "the environment's proxy" in str(caught.value)
        assert "secret" not in str(caught.value)

    def test_a_password_of_a_proxy_may_have_any_letter(self, monkeypatch) -> None:
        with HttpsServer({"http://example.com/x": b"by proxy"}, tls=False) as proxy:
            monkeypatch.setenv("http_proxy", f"http://user:p\u00e4\u20ac%2F@127.0.0.1:{proxy.port}")
            monkeypatch.delenv("no_proxy", raising=False)
            with Client(HttpOptions(allow_http=True)) as client:
                assert client.get("http://example.com/x", max_bytes=20).body == b"by proxy"
            sent = proxy.requests[0].headers["proxy-authorization"].removeprefix("Basic ")
            assert base64.b64decode(sent).decode() == "user:p\u00e4\u20ac/"

    def test_proxy_errors_do_not_show_its_password(self, monkeypatch) -> None:
        monkeypatch.setenv("https_proxy", "http://user:secret@127.0.0.1:1")
        monkeypatch.delenv("no_proxy", raising=False)
        with Client() as client, pytest.raises(ConnectError, match="proxy") as error:
            client.get("https://example.com/x", max_bytes=20)
        assert "secret" not in str(error.value)
        monkeypatch.setenv("https_proxy", "socks5://user:secret@127.0.0.1:1")
        with Client() as client, pytest.raises(HttpError, match="socks5") as error2:
            client.get("https://example.com/x", max_bytes=20)
        assert "secret" not in str(error2.value)


class TestRedirects:
    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    def test_are_followed(self, status: int) -> None:
        routes = {"/a": redirect("/b?q=1", status), "/b?q=1": redirect("https://example.com/c"), "/c": b"end"}
        with HttpsServer(routes) as server, Client(options(server)) as client:
            answer = client.get(f"{server.url}/a", max_bytes=10)
        assert (answer.body, answer.url) == (b"end", "https://example.com/c")

    def test_are_bounded(self) -> None:
        with HttpsServer(lambda _: redirect("/again")) as server:
            with Client(options(server, max_redirects=3)) as client:
                with pytest.raises(RedirectError, match="more than 3"):
                    client.get(f"{server.url}/", max_bytes=10)
        assert len(server.requests) == 4

    def test_from_https_to_http_is_refused(self) -> None:
        with HttpsServer({"/x": b"plain"}, tls=False) as plain:
            with HttpsServer({"/": redirect(f"{plain.url}/x")}) as server:
                with Client(options(server)) as client, pytest.raises(RedirectError, match="from https"):
                    client.get(f"{server.url}/", max_bytes=10)
                assert plain.requests == []
                with Client(options(server, allow_http=True)) as client:
                    assert client.get(f"{server.url}/", max_bytes=10).body == b"plain"

    @pytest.mark.parametrize(
        "location", ["ftp://a/", "javascript:1", "https://", "https://[/", "https://a\x01/"]
    )
    def test_to_elsewhere_are_refused(self, location: str) -> None:
        with HttpsServer({"/": redirect(location)}) as server, Client(options(server)) as client:
            with pytest.raises(RedirectError):
                client.get(f"{server.url}/", max_bytes=10)

    def test_without_location_is_a_status(self) -> None:
        with HttpsServer({"/": Reply(302)}) as server, Client(options(server)) as client:
            with pytest.raises(StatusError, match="302"):
                client.get(f"{server.url}/", max_bytes=10)


class TestCredentials:
    def test_headers_are_attached_by_host_and_not_carried_to_another(self) -> None:
        headers = {
            "example.com": {"Authorization": "Bearer one"},
            "example.org": {"Authorization": "Bearer two", "X-Key": "k"},
        }
        routes = {
            "example.com/a": redirect("https://other.example.com/b"),
            "other.example.com/b": redirect("https://example.org/c"),
            "example.org/c": b"end",
        }
        with HttpsServer(routes) as server, Client(options(server, headers=headers)) as client:
            client.get("https://example.com/a", max_bytes=10)
        sent = [(r.host, r.headers.get("authorization"), r.headers.get("x-key")) for r in server.requests]
        assert sent == [
            ("example.com", "Bearer one", None),
            ("other.example.com", None, None),
            ("example.org", "Bearer two", "k"),
        ]

    def test_a_user_in_the_url_is_for_that_origin_only(self) -> None:
        routes = {"example.com/a": redirect("https://example.org/b"), "example.org/b": b"end"}
        with HttpsServer(routes) as server, Client(options(server)) as client:
            answer = client.get("https://me:p%40ss@example.com/a", max_bytes=10)
        assert server.requests[0].headers["authorization"] == "Basic bWU6cEBzcw=="
        assert "authorization" not in server.requests[1].headers
        assert "p%40ss" not in answer.url

    def test_another_port_is_another_origin(self) -> None:
        with HttpsServer({"/b": b"end"}) as second:
            with HttpsServer({"/a": redirect(f"{second.url}/b")}, authority=second.authority) as first:
                with Client(options(first, ca_file=second.ca_file)) as client:
                    url = first.url.replace("https://", "https://me:pass@")
                    client.get(f"{url}/a", max_bytes=10)
        assert "authorization" in first.requests[0].headers
        assert "authorization" not in second.requests[0].headers

    def test_headers_for_a_host_are_for_its_default_port(self) -> None:
        with HttpsServer({"/": b""}) as server:
            exact = {f"localhost:{server.port}": {"X-Key": "exact"}}
            for headers, sent in (({"localhost": {"X-Key": "k"}}, None), (exact, "exact")):
                with Client(options(server, headers=headers)) as client:
                    client.get(f"{server.url}/", max_bytes=10)
                assert server.requests[-1].headers.get("x-key") == sent

    def test_a_redirect_cannot_bring_credentials(self) -> None:
        routes = {"example.com/a": redirect("https://u:p@example.org/b"), "example.org/b": b"end"}
        with HttpsServer(routes) as server, Client(options(server)) as client:
            client.get("https://example.com/a", max_bytes=10)
        assert "authorization" not in server.requests[1].headers

    def test_configured_headers_never_go_over_plain_http(self) -> None:
        with HttpsServer({"/": b""}, tls=False) as server:
            headers = {f"localhost:{server.port}": {"Authorization": "Bearer one"}}
            with Client(HttpOptions(allow_http=True, headers=headers, use_proxies=False)) as client:
                client.get(f"{server.url}/", max_bytes=10)
                client.get(f"http://me:pass@localhost:{server.port}/", max_bytes=10)
        assert all("authorization" not in request.headers for request in server.requests)

    def test_errors_show_no_secret(self) -> None:
        with HttpsServer({"/s": redirect("https://example.com/t?X-Signature=topsecret#topsecret")}) as server:
            with Client(options(server)) as client:
                for path in ("/x?token=topsecret", "/s"):
                    with pytest.raises(GantryError) as error:
                        client.get(f"https://user:topsecret@example.com{path}", max_bytes=10)
                    assert "topsecret" not in str(error.value)
                    assert "topsecret" not in repr(error.value.as_dict())

    def test_options_do_not_print_headers_and_refuse_malformed_ones(self) -> None:
        assert "secret" not in repr(HttpOptions(headers={"a": {"Authorization": "secret"}}))
        for name, value in (("A b", "x"), ("", "x"), ("A", "topsecret\r\nX: y"), ("A", "\u20ac")):
            with pytest.raises(UsageError) as error:
                HttpOptions(headers={"a": {name: value}})
            assert "topsecret" not in str(error.value)

    @pytest.mark.parametrize(
        ("url", "shown"),
        [
            ("https://a/b", "https://a/b"),
            ("https://u:p@a/b?c=d#e", "https://a/b?..."),
            ("https://a?ac-discovery=1", "https://a?ac-discovery=1"),
            ("https://u:p@x@a/", "https://a/"),
            ("u:p@a/b", "a/b"),
            ("https://u:p/q@a/b", "https://a/b"),
            ("https://u:p#q@a/b", "https://a/b"),
            ("https://u:p?q@a:80/b", "https://a:80/b"),
            ("https://a:80/b@c", "https://a:80/b@c"),
            ("https://[::1]:80/b@c", "https://[::1]:80/b@c"),
            ("https://a/b:c@d", "https://a/b:c@d"),
        ],
    )
    def test_public_url(self, url: str, shown: str) -> None:
        assert public_url(url) == shown


class TestBodies:
    def test_too_large_is_refused_whether_announced_or_not(self) -> None:
        routes = {"/a": b"x" * 101, "/b": Reply(body=[b"x" * 50, b"x" * 51]), "/c": b"x" * 100}
        with HttpsServer(routes) as server, Client(options(server)) as client:
            for path in ("/a", "/b"):
                with pytest.raises(TooLargeError, match="100 bytes"):
                    client.get(server.url + path, max_bytes=100)
            assert len(client.get(f"{server.url}/c", max_bytes=100).body) == 100

    def test_a_prefix_can_be_taken(self) -> None:
        with HttpsServer({"/": BODY}) as server, Client(options(server)) as client:
            answer = client.get(f"{server.url}/", max_bytes=1000, truncate=True)
        assert (answer.body, answer.truncated) == (BODY[:1000], True)

    def test_compressed_page_is_unpacked_within_the_bound(self) -> None:
        bomb = gzip.compress(b"\0" * 50_000_000)
        routes = {
            "/page": Reply(body=gzip.compress(b"page"), headers={"Content-Encoding": "gzip"}),
            "/bomb": Reply(body=bomb, headers={"Content-Encoding": "gzip"}),
        }
        with HttpsServer(routes) as server, Client(options(server)) as client:
            assert client.get(f"{server.url}/page", max_bytes=100).body == b"page"
            with pytest.raises(TooLargeError):
                client.get(f"{server.url}/bomb", max_bytes=1000)
            with client.stream(f"{server.url}/bomb") as stream:  # a file is taken as it is
                assert b"".join(stream.iter_bytes()) == bomb
            for kind in ("gzip", "br"):
                server.routes = {"/": Reply(body=b"page", headers={"Content-Encoding": kind})}
                with pytest.raises(HttpError, match=kind):
                    client.get(f"{server.url}/", max_bytes=100)

    @pytest.mark.parametrize("status", [400, 401, 403, 404, 416, 500, 503])
    def test_status(self, status: int) -> None:
        with HttpsServer({"/": Reply(status, b"text")}) as server, Client(options(server)) as client:
            with pytest.raises(StatusError, match=str(status)) as error:
                client.get(f"{server.url}/", max_bytes=10)
            assert (error.value.status, error.value.code) == (status, "http-status")
            with pytest.raises(StatusError), client.stream(f"{server.url}/"):
                pass
            assert client.get(f"{server.url}/", max_bytes=10, accept={status}).body == b"text"

    def test_connection_is_kept_and_a_dead_one_replaced(self) -> None:
        with HttpsServer({"/": b"x"}) as server, Client(options(server)) as client:
            for _ in range(3):
                client.get(f"{server.url}/", max_bytes=10)
            assert server.handshakes == 1
            for connection in list(server._server.open):
                connection.shutdown(socket.SHUT_RDWR)
            assert client.get(f"{server.url}/", max_bytes=10).body == b"x"
            assert server.handshakes == 2

    def test_broken_exchange_is_one_line(self) -> None:
        def garbage(sock: socket.socket) -> None:
            sock.sendall(b"\x00\x01garbage\r\n\r\n")

        with HttpsServer({"/": Reply(raw=garbage)}) as server, Client(options(server)) as client:
            with pytest.raises(HttpError, match="exchange failed"):
                client.get(f"{server.url}/", max_bytes=10)


class TestPatience:
    def test_silence_is_a_stall(self) -> None:
        done = threading.Event()

        def silent(sock: socket.socket) -> None:
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nab")
            done.wait(20)

        with HttpsServer({"/": Reply(raw=silent)}) as server:
            with Client(options(server, stall_timeout=0.3)) as client:
                with pytest.raises(StalledError) as error:
                    client.get(f"{server.url}/", max_bytes=100)
                with client.stream(f"{server.url}/") as stream, pytest.raises(StalledError):
                    list(stream.iter_bytes())
            done.set()
        assert error.value.code == "stalled"

    @pytest.mark.parametrize("where", ["header", "body"])
    def test_dripping_is_a_stall(self, where: str) -> None:
        stop = threading.Event()
        drops = 0

        def drip(sock: socket.socket) -> None:
            nonlocal drops
            head = b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n"
            sock.sendall(head + (b"X: " if where == "header" else b"\r\n"))
            while not stop.wait(0.02):
                sock.sendall(b"x")
                drops += 1

        with HttpsServer({"/": Reply(raw=drip)}) as server:
            with (
                Client(options(server, stall_timeout=0.5, min_rate=1000)) as client,
                pytest.raises(StalledError),
                client.stream(f"{server.url}/") as stream,
            ):
                list(stream.iter_bytes())
            assert drops < 1000, "given up long before the end, however much this machine has to do"
            stop.set()

    def test_get_has_an_end(self) -> None:
        stop = threading.Event()

        def drip(sock: socket.socket) -> None:
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
            while not stop.wait(0.02):
                sock.sendall(b"x")

        with HttpsServer({"/": Reply(raw=drip)}) as server:
            with (
                Client(options(server, total_timeout=0.5)) as client,
                pytest.raises(StalledError, match=r"0\.5"),
            ):
                client.get(f"{server.url}/", max_bytes=200_000)
            stop.set()

    def test_handshake_that_never_comes(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            client = Client(HttpOptions(connect_timeout=0.3, use_proxies=False))
            with client, pytest.raises(ConnectError, match=r"0\.3 seconds"):
                client.get(f"https://127.0.0.1:{listener.getsockname()[1]}/", max_bytes=1)


class TestStreams:
    def fetch(self, server: HttpsServer, **more: object) -> tuple[int, bytes]:
        with Client(options(server)) as client, client.stream(f"{server.url}/f", **more) as stream:  # type: ignore[arg-type]
            return stream.offset, b"".join(stream.iter_bytes())

    def test_whole(self) -> None:
        with HttpsServer({"/f": Reply(body=BODY, etag='"e"')}) as server, Client(options(server)) as client:
            with client.stream(f"{server.url}/f") as stream:
                assert (stream.status, stream.offset, stream.total, stream.etag) == (200, 0, len(BODY), '"e"')
                pieces = list(stream.iter_bytes(1000))
        assert b"".join(pieces) == BODY
        assert {len(piece) for piece in pieces[:-1]} == {1000}

    def test_whole_without_a_length(self) -> None:
        with HttpsServer({"/f": Reply(body=[BODY, BODY])}) as server, Client(options(server)) as client:
            with client.stream(f"{server.url}/f") as stream:
                assert stream.total is None
                assert b"".join(stream.iter_bytes()) == BODY + BODY

    def test_resumes(self) -> None:
        with HttpsServer({"/f": Reply(body=BODY, ranges=True, etag='"e"')}) as server:
            assert self.fetch(server, offset=1000, etag='"e"') == (1000, BODY[1000:])
            assert self.fetch(server, offset=1000) == (1000, BODY[1000:])
        assert server.requests[0].headers["if-range"] == '"e"'

    def test_case_1_server_that_ignores_the_range_starts_at_zero(self) -> None:
        with HttpsServer({"/f": Reply(body=BODY, etag='"e"')}) as server:
            assert self.fetch(server, offset=1000, etag='"e"') == (0, BODY)
        assert len(server.requests) == 1

    @pytest.mark.parametrize(
        "content_range",
        ["bytes 500-{last}/{total}", "bytes 0-{last}/{total}", "bytes 1000-2000/{total}", "nonsense", "",
         "bytes 1000-{last}/{total} extra"],
    )  # fmt: skip
    def test_case_1_206_for_another_part_starts_at_zero(self, content_range: str) -> None:
        def answer(request: Request) -> Reply:
            if "range" not in request.headers:
                return Reply(body=BODY)
            text = content_range.format(last=len(BODY) - 1, total=len(BODY))
            return Reply(206, BODY[1000:], headers={"Content-Range": text})

        with HttpsServer({"/f": answer}) as server:
            assert self.fetch(server, offset=1000) == (0, BODY)
        assert len(server.requests) == 2

    def test_changed_resource_starts_at_zero(self) -> None:
        with HttpsServer({"/f": Reply(body=BODY, ranges=True, etag='"new"')}) as server:
            assert self.fetch(server, offset=1000, etag='"old"') == (0, BODY)

    def test_206_of_another_version_starts_at_zero(self) -> None:
        def answer(request: Request) -> Reply:
            if "range" not in request.headers:
                return Reply(body=BODY, etag='"new"')
            last = len(BODY) - 1
            headers = {"Content-Range": f"bytes 1000-{last}/{last + 1}"}
            return Reply(206, BODY[1000:], headers=headers, etag='"new"')

        with HttpsServer({"/f": answer}) as server:
            assert self.fetch(server, offset=1000, etag='"old"') == (0, BODY)

    def test_weak_etag_is_no_ground_for_resuming(self) -> None:
        with HttpsServer({"/f": Reply(body=BODY, ranges=True, etag='W/"e"')}) as server:
            assert self.fetch(server, offset=1000, etag='W/"e"') == (0, BODY)

    def test_offset_beyond_the_end_starts_at_zero(self) -> None:
        with HttpsServer({"/f": Reply(body=BODY, ranges=True)}) as server:
            assert self.fetch(server, offset=len(BODY)) == (0, BODY)

    def test_not_modified(self) -> None:
        with HttpsServer({"/f": Reply(body=BODY, etag='"e"')}) as server, Client(options(server)) as client:
            with client.stream(f"{server.url}/f", etag='"e"') as stream:
                assert (stream.status, list(stream.iter_bytes())) == (304, [])
            with client.stream(f"{server.url}/f", etag='"other"') as stream:
                assert stream.status == 200

    @pytest.mark.parametrize("kind", ["length", "chunked"])
    def test_early_end_is_noticed(self, kind: str) -> None:
        def chunked(sock: socket.socket) -> None:
            sock.sendall(
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n400\r\n"
                + b"x" * 1024
                + b"\r\n400\r\nx"
            )

        reply = Reply(body=BODY, cut_after=70_000) if kind == "length" else Reply(raw=chunked)
        with HttpsServer({"/f": reply}) as server, Client(options(server)) as client:
            received = bytearray()
            with client.stream(f"{server.url}/f") as stream, pytest.raises(TruncatedError) as error:
                drain(stream, received)
            assert error.value.code == "truncated"
            assert kind == "chunked" or "70000 of 102400 bytes" in str(error.value)
            # What had arrived was handed out first, so that it can be resumed.
            assert len(received) >= (70_000 if kind == "length" else 1024)
            with pytest.raises(TruncatedError):
                client.get(f"{server.url}/f", max_bytes=1_000_000)

    def test_redirect_keeps_the_range(self) -> None:
        routes = {"/f": redirect("/g"), "/g": Reply(body=BODY, ranges=True)}
        with HttpsServer(routes) as server:
            assert self.fetch(server, offset=7) == (7, BODY[7:])

    def test_giving_up_early_closes_the_connection(self) -> None:
        with HttpsServer({"/f": BODY}) as server, Client(options(server)) as client:
            with client.stream(f"{server.url}/f") as stream:
                next(stream.iter_bytes(10))
            client.get(f"{server.url}/f", max_bytes=200_000)
            assert server.handshakes == 2


def test_shared_authority_serves_several_names(tmp_path) -> None:
    authority = Authority(str(tmp_path))
    with HttpsServer({"/": b"1"}, authority=authority, hosts=("one.test",)) as one:
        with HttpsServer({"/": b"2"}, authority=authority, hosts=("two.test",)) as two:
            both = one.connect_to("one.test") | two.connect_to("two.test")
            with Client(HttpOptions(ca_file=authority.ca_file, connect_to=both)) as client:
                assert client.get("https://one.test", max_bytes=5).body == b"1"
                assert client.get("https://two.test", max_bytes=5).body == b"2"
