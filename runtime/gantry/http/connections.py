"""Connection pools whose connections can be led elsewhere and cannot be held up for ever."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
import urllib.request
from typing import TYPE_CHECKING, Any

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, InsecureRequestWarning
from urllib3.util import Timeout

from gantry.errors import HostError
from gantry.http.errors import HttpError, public_url
from gantry.http.urls import parse

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

    from urllib3.response import HTTPResponse

    from gantry.http.options import HttpOptions
    from gantry.http.urls import Target


# Connections to one host that are kept for later.
_IDLE = 8


class Pools:
    """The connections of one client: direct ones and those through proxies.

    Args:
        options: The client's options.
    """

    def __init__(self, options: HttpOptions) -> None:
        self._options = options
        self._managers: dict[str | None, urllib3.PoolManager] = {}
        self._making = threading.Lock()
        self._context: ssl.SSLContext | None = None

    def manager_for(self, target: Target) -> urllib3.PoolManager:
        """The pool manager that reaches *target*.

        Raises:
            HttpError: The environment names a proxy that cannot be used.
            HostError: The file with certificate authorities cannot be read.
        """
        proxy = self._proxy_for(target)
        with self._making:
            manager = self._managers.get(proxy)
            if manager is None:
                manager = self._managers[proxy] = self._make(proxy, target)
            return manager

    def close(self) -> None:
        """Close every idle connection."""
        with self._making:
            for manager in self._managers.values():
                manager.clear()
            self._managers.clear()

    def _proxy_for(self, target: Target) -> str | None:
        options = self._options
        if not options.use_proxies or any(key in options.connect_to for key in target.lookup_keys()):
            return None
        proxies = urllib.request.getproxies_environment()
        proxy = proxies.get(target.scheme) or proxies.get("all")
        if not proxy or urllib.request.proxy_bypass(f"{target.host}:{target.port}"):
            return None
        return proxy if "://" in proxy else f"http://{proxy}"

    def _make(self, proxy: str | None, target: Target) -> urllib3.PoolManager:
        options = self._options
        keywords: dict[str, Any] = {
            "num_pools": 16,
            "maxsize": _IDLE,
            "retries": False,
            "timeout": Timeout(connect=options.connect_timeout, read=options.stall_timeout),
            "ssl_context": self._tls(),
        }
        if options.insecure_tls:
            urllib3.disable_warnings(InsecureRequestWarning)
            keywords |= {"cert_reqs": "CERT_NONE", "assert_hostname": False}
        if proxy is None:
            manager = urllib3.PoolManager(**keywords)
        else:
            through = _proxy(proxy, target)
            if through.authorization is not None:
                keywords["proxy_headers"] = {"proxy-authorization": through.authorization}
            manager = urllib3.ProxyManager(through.url, proxy_ssl_context=self._tls(), **keywords)
        manager.pool_classes_by_scheme = _pool_classes(options)
        return manager

    def _tls(self) -> ssl.SSLContext:
        if self._context is None:
            ca_file = self._options.ca_file
            try:
                context = ssl.create_default_context(cafile=ca_file)
            except FileNotFoundError:
                raise HostError(f"{ca_file}: no such file", hint="ca_file names a PEM file") from None
            except (OSError, ssl.SSLError) as exc:
                # An ssl.SSLError is an OSError; its strerror tells PEM faults apart from missing rights.
                raise HostError(
                    f"{ca_file}: cannot read certificate authorities: {exc.strerror or exc}",
                    hint="ca_file names a PEM file",
                ) from None
            if self._options.insecure_tls:
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
            self._context = context
        return self._context


def _proxy(text: str, target: Target) -> Target:
    try:
        return parse(text)
    except HttpError as error:
        raise HttpError(
            f"the environment's proxy {public_url(text)} cannot be used: {error.message.partition(': ')[2]}",
            url=target.public,
            hint="http://HOST:PORT or https://HOST:PORT; other proxies are not supported",
        ) from None


def _pool_classes(options: HttpOptions) -> dict[str, type[HTTPConnectionPool]]:
    """Pool classes whose connections know *options*."""

    def find(host: str, port: int, default: int) -> tuple[str, int]:
        found = options.connect_to.get(f"{host}:{port}")
        if found is None and port == default:
            found = options.connect_to.get(host)
        return found or (host, port)

    class Plain(HTTPConnection):
        def _new_conn(self) -> socket.socket:
            return _connect_elsewhere(self, find(self.host, self.port, 80), super()._new_conn)

        def getresponse(self) -> HTTPResponse:  # type: ignore[override]
            return _answer(self.sock, super().getresponse, options)

    class Tls(HTTPSConnection):
        def _new_conn(self) -> socket.socket:
            return _connect_elsewhere(self, find(self.host, self.port, 443), super()._new_conn)

        def connect(self) -> None:
            patience = options.connect_timeout + options.stall_timeout
            try:
                with _Watchdog(lambda: self.sock, patience, "the proxy or the handshake"):
                    super().connect()
            except TimeoutError as exc:  # in the handshake; urllib3 would call it a read
                raise ConnectTimeoutError(self, "handshake") from exc

        def getresponse(self) -> HTTPResponse:  # type: ignore[override]
            return _answer(self.sock, super().getresponse, options)

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class TlsPool(HTTPSConnectionPool):
        ConnectionCls = Tls

    return {"http": PlainPool, "https": TlsPool}


def _answer(
    sock: socket.socket | None, getresponse: Callable[[], HTTPResponse], options: HttpOptions
) -> HTTPResponse:
    with _Watchdog(lambda: sock, options.stall_timeout, "the header"):
        response = getresponse()
    response.gantry_socket = sock  # type: ignore[attr-defined]  # for Patience: the connection may let go of it
    return response


def _connect_elsewhere(connection: HTTPConnection, address: tuple[str, int], connect: Any) -> socket.socket:
    """Connect to *address* while the connection keeps the name that certificates are checked for."""
    host, port = connection._dns_host, connection.port
    try:
        connection._dns_host, connection.port = address
        sock: socket.socket = connect()
    finally:
        connection._dns_host, connection.port = host, port
    return sock


class Patience:
    """Ends reads of a body that bring nothing, however many bytes arrive: sizes of chunks, trailers.

    A read's own timeout counts from byte to byte. Only time inside reads counts: whoever is slow to take what
    was read is not the server.

    Args:
        sock: What is read from.
        seconds: How long a read may bring nothing.
    """

    def __init__(self, sock: socket.socket | None, seconds: float) -> None:
        self.expired = False
        self._sock = sock
        self._seconds = seconds
        self._until: float | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="patience", daemon=True)

    def reading(self) -> None:
        """A read begins."""
        self._until = time.monotonic() + self._seconds

    def read(self) -> None:
        """It has ended."""
        self._until = None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()

    def _watch(self) -> None:
        while not self._over.wait(self._seconds / 4):
            until = self._until
            if until is not None and time.monotonic() > until:
                self.expired = True
                _shut(self._sock)
                return


def _shut(sock: socket.socket | None) -> None:
    if sock is not None:
        with contextlib.suppress(OSError):  # it has gone by itself
            sock.shutdown(socket.SHUT_RDWR)


class _Watchdog:
    """Ends a wait that no single read's timeout would end: for a header that comes one byte at a time.

    Args:
        find: Finds what is read from, when it comes to that.
        seconds: How long the block may take.
        what: Takes how long, for the error.
    """

    def __init__(self, find: Callable[[], socket.socket | None], seconds: float, what: str) -> None:
        self._find = find
        self._what = what
        self._expired = False
        self._timer = threading.Timer(seconds, self._expire)
        self._timer.daemon = True

    def _expire(self) -> None:
        self._expired = True
        _shut(self._find())

    def __enter__(self) -> None:
        self._timer.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self._timer.cancel()
        # Without an error, too: a header that ends in the middle of a line passes for a whole one.
        if self._expired:
            raise TimeoutError(f"{self._what} took too long") from error
