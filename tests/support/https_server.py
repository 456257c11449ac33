"""A real HTTPS server for tests, with a certificate authority of its own.

    with HttpsServer({"/a": b"body", "/b": Reply(404)}) as server:
        options = HttpOptions(ca_file=server.ca_file, connect_to=server.connect_to("example.com"))
        ...
        assert [r.path for r in server.requests] == ["/a"]

Routes map ``"/path"``, ``"/path?query"`` or ``"host/path"`` (the Host header's name; tried first) to a body,
a :class:`Reply`, or a function that is given the :class:`Request` and returns either. A function may also
take over the connection: see :attr:`Reply.raw`.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import shutil
import socket
import ssl
import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

DEFAULT_HOSTS = ("localhost", "127.0.0.1", "example.com", "*.example.com", "*.test", "example.org", "a.com")

_SIGNS_CERTIFICATES = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)


@dataclass
class Reply:
    """What the server answers.

    Attributes:
        status: HTTP status.
        body: Its bytes, or pieces of it that are sent one after the other.
        headers: More headers; a ``Content-Length`` is added if there is none and the body is bytes.
        ranges: Whether ``Range`` (and ``If-Range``) is honoured as it should be.
        etag: Entity tag; conditional requests are honoured.
        cut_after: Close the connection after so many bytes of the body, or ``None``.
        raw: Takes over: is given the TLS socket and writes whatever it wants; the rest is ignored.
    """

    status: int = 200
    body: bytes | list[bytes] = b""
    headers: dict[str, str] = field(default_factory=dict)
    ranges: bool = False
    etag: str | None = None
    cut_after: int | None = None
    raw: Callable[[socket.socket], None] | None = None


@dataclass(frozen=True)
class Request:
    """A request that was received.

    Attributes:
        method: ``GET`` as a rule.
        host: The ``Host`` header without port.
        path: Path with query.
        headers: Lower-case names.
        body: What was sent with it.
    """

    method: str
    host: str
    path: str
    headers: dict[str, str]
    body: bytes = b""

    @property
    def bare_path(self) -> str:
        """The path without its query."""
        return self.path.partition("?")[0]


Answer = bytes | str | Reply
Handler = Callable[[Request], Answer]
Routes = Mapping[str, Answer | Handler]


class Authority:
    """A certificate authority in a directory.

    Args:
        directory: Where its files go.
        common_name: What it calls itself.
        strict: Certificates have all that RFC 5280 demands, and Python 3.13 with it. Else they lack the key
            identifiers, as those of many a home-made authority.
    """

    def __init__(
        self, directory: str, common_name: str = "Gantry test authority", *, strict: bool = True
    ) -> None:
        self.directory = directory
        self.strict = strict
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
        self._certificate = self._sign(
            self._name,
            self._key,
            [x509.BasicConstraints(ca=True, path_length=0), _SIGNS_CERTIFICATES],
            days=(-1, 30),
        )
        self.ca_file = os.path.join(directory, "ca.pem")
        with open(self.ca_file, "wb") as out:
            out.write(self._certificate.public_bytes(serialization.Encoding.PEM))

    def issue(
        self, hosts: tuple[str, ...] = DEFAULT_HOSTS, *, days: tuple[int, int] = (-1, 10)
    ) -> tuple[str, str]:
        """A certificate and its key for *hosts*: the paths of two PEM files."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = x509.SubjectAlternativeName([_general_name(host) for host in hosts])
        certificate = self._sign(
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hosts[0])]),
            key,
            [names, x509.BasicConstraints(ca=False, path_length=None)],
            days=days,
        )
        serial = f"{certificate.serial_number:x}"
        cert_file, key_file = (os.path.join(self.directory, f"{serial}.{kind}") for kind in ("crt", "key"))
        with open(cert_file, "wb") as out:
            out.write(certificate.public_bytes(serialization.Encoding.PEM))
        with open(os.open(key_file, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as out:
            out.write(
                key.private_bytes(
                    serialization.Encoding.PEM,
                    serialization.PrivateFormat.PKCS8,
                    serialization.NoEncryption(),
                )
            )
        return cert_file, key_file

    def _sign(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        extensions: list[x509.ExtensionType],
        *,
        days: tuple[int, int],
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + datetime.timedelta(days=days[0]))
            .not_valid_after(now + datetime.timedelta(days=days[1]))
        )
        if self.strict:
            extensions = [
                *extensions,
                x509.SubjectKeyIdentifier.from_public_key(key.public_key()),
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
            ]
        for extension in extensions:
            critical = isinstance(extension, x509.BasicConstraints | x509.KeyUsage)
            builder = builder.add_extension(extension, critical=critical)
        return builder.sign(self._key, hashes.SHA256())


class HttpsServer:
    """Serves on 127.0.0.1 from construction to :meth:`close`. A context manager.

    Args:
        routes: What to answer, or one function for everything.
        hosts: Names in the certificate.
        authority: Share one with other servers; else the server makes its own.
        days: Validity of the certificate, in days from now.
        tls: Speak TLS; else plain HTTP.

    Attributes:
        url: ``https://localhost:PORT``, without a slash at the end.
        ca_file: PEM file for ``HttpOptions.ca_file``.
        requests: Every request so far.
        port: The port.
        routes: May be changed while the server runs.
        handshakes: How many connections were accepted (and, with TLS, completed their handshake).
    """

    def __init__(
        self,
        routes: Routes | Handler | None = None,
        *,
        hosts: tuple[str, ...] = DEFAULT_HOSTS,
        authority: Authority | None = None,
        days: tuple[int, int] = (-1, 10),
        tls: bool = True,
    ) -> None:
        self.routes: Routes | Handler = {} if routes is None else routes
        self.requests: list[Request] = []
        self.handshakes = 0
        self._directory = tempfile.mkdtemp(prefix="gantry-https-")
        self.authority = authority or Authority(self._directory)
        self.ca_file = self.authority.ca_file
        context: ssl.SSLContext | None = None
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*self.authority.issue(hosts, days=days))
        self._server = _Server(("127.0.0.1", 0), self, context)
        self.port: int = self._server.server_address[1]
        self.url = f"{'https' if tls else 'http'}://localhost:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop serving, close every connection and remove the files."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        shutil.rmtree(self._directory, ignore_errors=True)

    def connect_to(self, *hosts: str) -> dict[str, tuple[str, int]]:
        """A ``connect_to`` map that leads *hosts* here."""
        return dict.fromkeys(hosts, ("127.0.0.1", self.port))

    def paths(self) -> list[str]:
        """The paths (with query) that were asked for, in order."""
        return [request.path for request in self.requests]

    def answer(self, request: Request) -> Reply:
        """What *request* is answered."""
        found: Answer | Handler | None
        if callable(self.routes):
            found = self.routes(request)
        else:
            keys = (f"{request.host}{request.path}", f"{request.host}{request.bare_path}")
            keys += (request.path, request.bare_path)
            found = next((self.routes[key] for key in keys if key in self.routes), None)
        if callable(found):
            found = found(request)
        if found is None:
            return Reply(404, b"not here\n")
        if isinstance(found, str):
            found = found.encode()
        return Reply(body=found) if isinstance(found, bytes) else found


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    # Requests may be blocked on purpose; closing must not wait for them.
    block_on_close = False
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], owner: HttpsServer, context: ssl.SSLContext | None) -> None:
        self.owner = owner
        self.context = context
        self.open: set[socket.socket] = set()
        super().__init__(address, _Handler)

    def process_request_thread(self, request: socket.socket, client_address: object) -> None:  # type: ignore[override]
        # The handshake happens here, in the connection's own thread: a client that never finishes holds up
        # nobody.
        connection = request
        try:
            if self.context is not None:
                connection = self.context.wrap_socket(request, server_side=True)
            self.owner.handshakes += 1
            self.open.add(connection)
            self.RequestHandlerClass(connection, client_address, self)  # type: ignore[arg-type]
        except OSError:
            pass  # the client went away or refused our certificate
        finally:
            self.open.discard(connection)
            self.shutdown_request(connection)
            request.close()

    def server_close(self) -> None:
        super().server_close()
        for connection in list(self.open):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self._serve()

    def do_HEAD(self) -> None:
        self._serve()

    def do_PUT(self) -> None:
        self._serve()

    def do_DELETE(self) -> None:
        self._serve()

    def do_MKCOL(self) -> None:
        self._serve()

    def _serve(self) -> None:
        request = Request(
            self.command,
            self.headers.get("Host", "").rpartition(":")[0] or self.headers.get("Host", ""),
            self.path,
            {name.lower(): value for name, value in self.headers.items()},
            self.rfile.read(int(self.headers.get("Content-Length", "0"))),
        )
        self.server.owner.requests.append(request)
        reply = self.server.owner.answer(request)
        if reply.raw is not None:
            self.close_connection = True
            reply.raw(self.connection)
            return
        self._send(*_apply_conditions(request, reply))

    def _send(self, reply: Reply, body: bytes | list[bytes]) -> None:
        self.send_response(reply.status)
        headers = dict(reply.headers)
        if reply.etag:
            headers.setdefault("ETag", reply.etag)
        if isinstance(body, bytes) and not {"content-length", "transfer-encoding"} & {
            n.lower() for n in headers
        }:
            headers["Content-Length"] = str(len(body))
        elif isinstance(body, list):
            headers["Connection"] = "close"
            self.close_connection = True
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        left = reply.cut_after
        for piece in [body] if isinstance(body, bytes) else body:
            self.wfile.write(piece if left is None else piece[:left])
            self.wfile.flush()
            if left is not None and left <= len(piece):
                self.close_connection = True
                return
            left = None if left is None else left - len(piece)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def _apply_conditions(request: Request, reply: Reply) -> tuple[Reply, bytes | list[bytes]]:
    headers = request.headers
    if reply.etag and headers.get("if-none-match") == reply.etag:
        return Reply(304, etag=reply.etag, headers=reply.headers | {"Content-Length": "0"}), b""
    wanted = headers.get("range", "")
    if not (reply.ranges and wanted.startswith("bytes=") and isinstance(reply.body, bytes)):
        return reply, reply.body
    if headers.get("if-range", reply.etag) != reply.etag:
        return reply, reply.body
    start = int(wanted.removeprefix("bytes=").partition("-")[0])
    total = len(reply.body)
    if start >= total:
        return Reply(416, headers={"Content-Range": f"bytes */{total}"}), b""
    partial = Reply(
        206,
        headers=reply.headers | {"Content-Range": f"bytes {start}-{total - 1}/{total}"},
        etag=reply.etag,
        cut_after=reply.cut_after,
    )
    return partial, reply.body[start:]


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
