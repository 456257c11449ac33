"""The client: GET, in memory or as a stream; PUT and DELETE for those who publish."""

from __future__ import annotations

import threading
import time
from typing import IO, TYPE_CHECKING, NamedTuple, Self

from gantry.http.errors import HttpError, RedirectError, StalledError, StatusError, TooLargeError
from gantry.http.options import HttpOptions

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping
    from types import TracebackType

    from urllib3.response import BaseHTTPResponse

    from gantry.http.connections import Pools
    from gantry.http.urls import Target

CHUNK = 256 * 1024
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_NOT_NOW = frozenset({429, 502, 503, 504})


class Response(NamedTuple):
    """An answer, read to its end.

    Attributes:
        url: Where it came from, after redirects; without user and password.
        status: HTTP status.
        headers: Looked up without regard to case.
        body: At most as many bytes as the caller allowed.
        truncated: Whether there was more (only if the caller asked for a prefix).
    """

    url: str
    status: int
    headers: Mapping[str, str]
    body: bytes
    truncated: bool = False


class Client:
    """Makes requests. Keeps connections; close it, or use it as a context manager.

    May be shared between threads, which then share its idle connections.

    Args:
        options: What it may do; the defaults are safe.
    """

    def __init__(self, options: HttpOptions | None = None) -> None:
        self.options = options or HttpOptions()
        self._pools: Pools | None = None
        self._making = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close every connection."""
        if self._pools is not None:
            self._pools.close()

    def get(
        self,
        url: str,
        *,
        max_bytes: int,
        truncate: bool = False,
        headers: Mapping[str, str] | None = None,
        accept: Collection[int] | None = None,
    ) -> Response:
        """GET *url* into memory.

        Args:
            url: http or https.
            max_bytes: Bound on the body.
            truncate: Take the first *max_bytes* of a longer body instead of refusing it.
            headers: More request headers, sent to whatever host is asked: nothing secret.
            accept: Statuses to return; others are errors. Without it: every 2xx.

        Raises:
            TooLargeError: The body is longer than *max_bytes*.
            StatusError: Any other status.
            HttpError: Everything else; see the subclasses.
        """
        from gantry.http import transport  # noqa: PLC0415 - urllib3 costs 50 ms; see transport

        deadline = time.monotonic() + self.options.total_timeout
        target, raw = self._open(url, dict(headers or {}))
        with _Closing(raw):
            if not (raw.status in accept if accept is not None else 200 <= raw.status < 300):
                raise _refused(target, raw)
            body = bytearray()
            unpack = transport.unpacker(raw, target)
            # One byte more than allowed tells "exactly as long" from "longer".
            for piece in transport.pieces(raw, target, self.options):
                body += unpack(piece, max_bytes + 1 - len(body))
                if len(body) > max_bytes:
                    break
                if time.monotonic() > deadline:
                    raise StalledError(
                        f"not complete after {self.options.total_timeout:g} seconds", url=target.public
                    )
            too_long = len(body) > max_bytes
            if too_long and not truncate:
                raise TooLargeError(f"the body is larger than {max_bytes} bytes", url=target.public)
            return Response(target.url, raw.status, raw.headers, bytes(body[:max_bytes]), too_long)

    def stream(
        self,
        url: str,
        *,
        offset: int = 0,
        etag: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> StreamResponse:
        """GET *url* as a stream, continuing at *offset* if the server can; a context manager.

        Without *offset*, *etag* makes the request conditional and the answer may have status 304 and no body.
        With *offset*, the server is asked for the rest, on condition that *etag* still holds; if it does not,
        if the server ignores or mangles the range, or if *etag* is weak, the answer begins at byte 0 and
        :attr:`StreamResponse.offset` says so. Never append without looking at it.

        Args:
            url: http or https.
            offset: Bytes that the caller has.
            etag: The entity tag they came with, or of what the caller has in full.
            headers: More request headers: nothing secret.

        Raises:
            StatusError: Neither 200, 206 nor a 304 that was asked for.
            HttpError: Everything else; see the subclasses.
        """
        from gantry.http import transport  # noqa: PLC0415 - urllib3 costs 50 ms; see transport

        extra = dict(headers or {})
        if offset > 0 and not (etag or "").startswith("W/"):
            partial = extra | {"Range": f"bytes={offset}-"} | ({"If-Range": etag} if etag else {})
            target, raw = self._open(url, partial)
            start = transport.start_of_range(raw, offset, etag)
            if raw.status == 200 or start is not None:
                return StreamResponse(target, raw, self.options, offset=start or 0)
            raw.close()
            if raw.status not in (206, 416):
                raise _refused(target, raw)
        elif etag and offset <= 0:
            extra["If-None-Match"] = etag
        target, raw = self._open(url, extra)
        if raw.status == 200 or (raw.status == 304 and "If-None-Match" in extra):
            return StreamResponse(target, raw, self.options, offset=0)
        raw.close()
        raise _refused(target, raw)

    def send(
        self,
        method: str,
        url: str,
        *,
        body: IO[bytes] | None = None,
        size: int = 0,
        headers: Mapping[str, str] | None = None,
        accept: Collection[int] = (),
    ) -> int:
        """Change what is at *url*, by a request that may be repeated; the answer's body is not looked at.

        Args:
            method: ``PUT`` or ``DELETE``.
            url: http or https.
            body: What to put there; can be read from its beginning again.
            size: Its length in bytes.
            headers: More request headers: nothing secret.
            accept: Statuses to return besides every 2xx.

        Raises:
            RedirectError: The server says that it is elsewhere: what is published goes nowhere else.
            StatusError: Any other status.
            HttpError: Everything else; see the subclasses.
        """
        from gantry.http import transport, urls  # noqa: PLC0415 - urllib3 costs 50 ms; see transport

        target = urls.parse(url)
        self._check_scheme(target)
        all_headers = self._headers(target, target) | dict(headers or {})
        if body is not None:
            all_headers["Content-Length"] = str(size)
        raw = transport.request(
            self._connections(), target, all_headers, self.options, method=method, body=body
        )
        raw.close()
        if raw.status in _REDIRECTS:
            raise RedirectError(
                f"the server sends {method} elsewhere ({raw.status})",
                url=target.public,
                hint="give the address that it means, if it is yours",
            )
        if not (200 <= raw.status < 300 or raw.status in accept):
            raise StatusError(raw.status, url=target.public)
        return raw.status

    def _connections(self) -> Pools:
        from gantry.http.connections import Pools  # noqa: PLC0415 - urllib3 costs 50 ms; see transport

        with self._making:
            if self._pools is None:
                self._pools = Pools(self.options)
            return self._pools

    def _patiently(self, target: Target, headers: dict[str, str], deadline: float) -> BaseHTTPResponse:
        """Request *target*, again if the server says that it cannot now, until *deadline*."""
        from gantry.http import fields, transport  # noqa: PLC0415 - urllib3 costs 50 ms; see transport

        left = self.options.retries
        while True:
            response = transport.request(self._connections(), target, headers, self.options)
            if response.status not in _NOT_NOW or left <= 0:
                return response
            pause = fields.retry_after(response.headers, time.time())
            if pause is None:
                pause = self.options.retry_pause * 2 ** (self.options.retries - left)
            if pause > self.options.retry_wait or time.monotonic() + pause > deadline:
                return response
            response.close()
            time.sleep(pause)
            left -= 1

    def _open(self, url: str, extra: dict[str, str]) -> tuple[Target, BaseHTTPResponse]:
        """Request *url* and follow redirects; the response's body is still unread."""
        from gantry.http import urls  # noqa: PLC0415 - urllib3 costs 50 ms; see transport

        first = target = urls.parse(url)
        self._check_scheme(target)
        deadline = time.monotonic() + self.options.total_timeout
        for _ in range(self.options.max_redirects + 1):
            if time.monotonic() > deadline:
                raise StalledError(
                    f"no answer after {self.options.total_timeout:g} seconds", url=first.public
                )
            headers = self._headers(target, first) | extra
            response = self._patiently(target, headers, deadline)
            location = response.headers.get("location")
            if response.status not in _REDIRECTS or location is None:
                return target, response
            response.close()
            target = self._redirected(target, location)
        raise RedirectError(f"more than {self.options.max_redirects} redirects", url=first.public)

    def _redirected(self, source: Target, location: str) -> Target:
        from gantry.http import urls  # noqa: PLC0415 - urllib3 costs 50 ms; see transport

        try:
            target = urls.join(source, location)
        except HttpError as exc:
            raise RedirectError(f"refused to be redirected: {exc.message}", url=source.public) from None
        if target.scheme == "http" and not self.options.allow_http:
            raise RedirectError(
                f"refused to be redirected from https to {target.public}",
                url=source.public,
                hint="plain http has to be allowed explicitly",
            )
        return target

    def _check_scheme(self, target: Target) -> None:
        if target.scheme == "http" and not self.options.allow_http:
            raise HttpError("plain http is not allowed", url=target.public, hint="use https")

    def _headers(self, target: Target, first: Target) -> dict[str, str]:
        headers = {"User-Agent": self.options.user_agent, "Accept-Encoding": "identity", "Accept": "*/*"}
        if target.scheme == "https":
            for key in target.lookup_keys():
                if key in self.options.headers:
                    headers |= self.options.headers[key]
                    break
            # A user in the URL means the host that was asked for; a redirect's own is not taken at all.
            if first.authorization is not None and target.origin == first.origin:
                headers["Authorization"] = first.authorization
        return headers


class StreamResponse:
    """An answer whose body is read piece by piece. A context manager; leaving it closes the connection.

    Attributes:
        url: Where it comes from, after redirects; without user and password.
        status: 200, 206, or 304 if that was asked for.
        headers: Looked up without regard to case.
        offset: Position of the body's first byte in the whole resource; 0 unless the server resumed.
        total: Length of the whole resource, or ``None`` if the server did not say.
        etag: Its entity tag, or ``None``.
    """

    def __init__(self, target: Target, raw: BaseHTTPResponse, options: HttpOptions, *, offset: int) -> None:
        self.url = target.url
        self.public_url = target.public
        self.status = raw.status
        self.headers: Mapping[str, str] = raw.headers
        self.offset = offset
        from gantry.http import transport  # noqa: PLC0415 - urllib3 costs 50 ms; see transport

        length = transport.content_length(raw)
        self.total = None if length is None else offset + length
        self.etag = raw.headers.get("etag")
        self._target = target
        self._raw = raw
        self._options = options

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the connection back if the body was read to its end, else close it."""
        from gantry.http import transport  # noqa: PLC0415 - loaded long ago

        transport.close(self._raw)

    def iter_bytes(self, size: int = CHUNK) -> Iterator[bytes]:
        """The body, as it was sent, in pieces of *size* bytes; the last one is shorter.

        Everything that arrived is handed out before an error is raised.

        Raises:
            TruncatedError: The connection ended early.
            StalledError: No progress for ``stall_timeout`` seconds, or too little.
        """
        from gantry.http import transport  # noqa: PLC0415 - loaded long ago

        buffer = bytearray()
        try:
            for piece in transport.pieces(self._raw, self._target, self._options):
                buffer += piece
                while len(buffer) >= size:
                    yield bytes(buffer[:size])
                    del buffer[:size]
        except HttpError:
            if buffer:
                yield bytes(buffer)  # what has arrived is what a later request resumes after
            raise
        if buffer:
            yield bytes(buffer)


def _refused(target: Target, raw: BaseHTTPResponse) -> StatusError:
    from gantry.http import fields  # noqa: PLC0415 - needed for errors only

    return StatusError(raw.status, url=target.public, after=fields.retry_after(raw.headers, time.time()))


class _Closing:
    """Gives a response's connection back, or closes it."""

    def __init__(self, raw: BaseHTTPResponse) -> None:
        self._raw = raw

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        from gantry.http import transport  # noqa: PLC0415 - loaded long ago

        transport.close(self._raw)
