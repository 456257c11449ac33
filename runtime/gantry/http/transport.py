"""What needs urllib3: exchanges, bodies, and what its errors mean.

Imported at a client's first request: a run that finds everything in place never pays for it.
"""

from __future__ import annotations

import re
import ssl
import time
import zlib
from typing import IO, TYPE_CHECKING, NoReturn

from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    IncompleteRead,
    NameResolutionError,
    NewConnectionError,
    ProtocolError,
    ProxyError,
    ReadTimeoutError,
    SSLError,
)

from gantry.http.connections import Patience, Pools
from gantry.http.errors import ConnectError, HttpError, StalledError, TlsError, TruncatedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from urllib3.response import BaseHTTPResponse

    from gantry.http.options import HttpOptions
    from gantry.http.urls import Target

_READ = 64 * 1024
_CERTIFICATE_REMEDY = "a private authority needs --ca-file (ca_file in documents); or is the clock wrong?"
# Python 3.13 checks what RFC 5280 demands of certificates (OpenSSL's strict flag, errors 80 to 94), older
# ones do not: an authority that served for years is refused by a newer host, and its owner has to learn why.
_STRICT = "it (or its authority's) is not as RFC 5280 demands: the authority has to issue it anew, "
_CERTIFICATE_REMEDIES = {
    **dict.fromkeys(range(80, 95), f"{_STRICT}with all extensions that are required"),
    85: f"{_STRICT}with an authority key identifier (openssl: authorityKeyIdentifier=keyid)",
    86: f"{_STRICT}with a subject key identifier (openssl: subjectKeyIdentifier=hash)",
    92: f"{_STRICT}and its own certificate with the key usages keyCertSign and cRLSign",
}
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)")


def request(
    pools: Pools,
    target: Target,
    headers: dict[str, str],
    options: HttpOptions,
    *,
    method: str = "GET",
    body: IO[bytes] | None = None,
) -> BaseHTTPResponse:
    """Make one request of *target*; no redirect is followed, and the answer's body is still unread.

    Args:
        pools: The connections.
        target: What is requested.
        headers: All of the request's headers.
        options: The client's.
        method: One that may be repeated.
        body: What is sent, from its beginning; its length is in the headers.

    Raises:
        HttpError: There is no answer; see the subclasses.
    """
    manager = pools.manager_for(target)
    for attempt in (1, 2):
        try:
            if body is not None:
                body.seek(0)
            return manager.request(
                method,
                target.url,
                body=body,
                headers=headers,
                redirect=False,
                retries=False,
                preload_content=False,
                decode_content=False,
            )
        except ProtocolError as exc:
            # A kept connection may have been closed by the server in the meantime: once more, afresh.
            if attempt == 1 and not isinstance(exc, IncompleteRead):
                pools.close()
                manager = pools.manager_for(target)
                continue
            _translate(exc, target, options)
        except (HTTPError, OSError, ValueError) as exc:
            _translate(exc, target, options)
    raise AssertionError("unreachable")  # pragma: no cover


def close(raw: BaseHTTPResponse) -> None:
    """Give the connection back if the body was read to its end, else close it."""
    if raw.closed:
        raw.release_conn()
    else:
        raw.close()


def unpacker(raw: BaseHTTPResponse, target: Target) -> Callable[[bytes, int], bytes]:
    """What turns pieces of a body into pieces of at most so many bytes of its content.

    Servers are asked not to compress; some do all the same. Files are taken as they come, pages are unpacked.

    Raises:
        HttpError: The server used another encoding than gzip.
    """
    encoding = raw.headers.get("content-encoding", "identity").strip().lower()
    if encoding in ("", "identity"):
        return lambda piece, room: piece[:room]
    if encoding not in ("gzip", "x-gzip"):
        raise HttpError(f'the server answers in the encoding "{encoding[:40]}"', url=target.public)
    gzip = zlib.decompressobj(wbits=31)

    def gunzip(piece: bytes, room: int) -> bytes:
        if gzip.eof:
            raise HttpError("the answer goes on after the end of its gzip", url=target.public)
        try:
            return gzip.decompress(piece, room)
        except zlib.error:
            raise HttpError("the answer says that it is gzip and is not", url=target.public) from None

    return gunzip


def _nothing_came(target: Target, options: HttpOptions) -> StalledError:
    return StalledError(f"nothing of the body came in {options.stall_timeout:g} seconds", url=target.public)


def pieces(raw: BaseHTTPResponse, target: Target, options: HttpOptions) -> Iterator[bytes]:
    """What arrives, as it arrives; refuses a transfer that stalls or ends early."""
    with Patience(getattr(raw, "gantry_socket", None), options.stall_timeout) as patience:
        yield from _pieces(raw, target, options, patience)


def _pieces(
    raw: BaseHTTPResponse, target: Target, options: HttpOptions, patience: Patience
) -> Iterator[bytes]:
    window_start, window_bytes = time.monotonic(), 0
    while True:
        patience.reading()
        try:
            piece = raw.read1(_READ, decode_content=False)
        except (HTTPError, OSError, ValueError) as exc:
            if patience.expired:
                raise _nothing_came(target, options) from exc
            _translate(exc, target, options, in_body=True)
        patience.read()
        if patience.expired:
            raise _nothing_came(target, options)
        if not piece:
            return
        window_bytes += len(piece)
        if options.throttle is not None:
            window_start += options.throttle.take(len(piece))  # we are slow then, not the server
        elapsed = time.monotonic() - window_start
        if elapsed > options.stall_timeout:
            if window_bytes < options.min_rate * elapsed:
                raise StalledError(f"only {window_bytes} bytes in {elapsed:.0f} seconds", url=target.public)
            window_start, window_bytes = time.monotonic(), 0
        yield piece


def content_length(raw: BaseHTTPResponse) -> int | None:
    """Bytes of the body as it is sent, or ``None`` if the server did not say."""
    text = raw.headers.get("content-length", "")
    if raw.status == 304 or "transfer-encoding" in raw.headers:
        return None
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else None


def start_of_range(raw: BaseHTTPResponse, offset: int, etag: str | None) -> int | None:
    """*offset* if the answer is exactly the rest that was asked for, else ``None``."""
    if raw.status != 206:
        return None
    match = _CONTENT_RANGE.fullmatch(raw.headers.get("content-range", "").strip())
    if match is None or int(match.group(1)) != offset:
        return None
    if etag and raw.headers.get("etag", etag) != etag:
        return None
    # A part that ends before the resource does would look like the end of it.
    if match.group(3) != "*" and int(match.group(2)) + 1 != int(match.group(3)):
        return None
    return offset


def _translate(exc: Exception, target: Target, options: HttpOptions, *, in_body: bool = False) -> NoReturn:
    """Raise the error that *exc* means. The texts of urllib3's errors are not used: they repeat URLs."""
    url = target.public
    cause = exc.original_error if isinstance(exc, ProxyError) else exc
    through = "the proxy: " if isinstance(exc, ProxyError) else ""
    root = _root(cause)
    if isinstance(root, ssl.SSLCertVerificationError):
        raise TlsError(
            f"{through}the server's certificate was refused: {root.verify_message}",
            url=url,
            hint=_CERTIFICATE_REMEDIES.get(root.verify_code, _CERTIFICATE_REMEDY),
        ) from None
    if isinstance(cause, SSLError) or isinstance(root, ssl.SSLError):
        reason = getattr(root, "reason", None) or type(root).__name__
        kind = TruncatedError if in_body else TlsError
        raise kind(f"{through}TLS failed: {str(reason).replace('_', ' ').lower()}", url=url) from None
    if isinstance(cause, NameResolutionError):
        raise ConnectError(f'{through}the host name "{target.host}" cannot be resolved', url=url) from None
    if isinstance(cause, ReadTimeoutError) or (isinstance(root, TimeoutError) and in_body):
        raise StalledError(f"no answer within {options.stall_timeout:g} seconds", url=url) from None
    if isinstance(cause, NewConnectionError) or isinstance(exc, ProxyError):
        raise ConnectError(f"{through}cannot connect: {_why(root)}", url=url) from None
    if isinstance(cause, ConnectTimeoutError) or isinstance(root, TimeoutError):
        raise ConnectError(
            f"{through}cannot connect within {options.connect_timeout:g} seconds", url=url
        ) from None
    if in_body and isinstance(root, IncompleteRead) and root.expected:
        whole = root.partial + root.expected
        raise TruncatedError(f"the connection ended after {root.partial} of {whole} bytes", url=url) from None
    if in_body:
        raise TruncatedError(f"the transfer broke off: {_why(root)}", url=url) from None
    raise HttpError(f"the exchange failed: {_why(root)}", url=url) from None


def _root(exc: BaseException) -> BaseException:
    """The error below urllib3's and http.client's wrappers."""
    for _ in range(8):
        below = exc.__cause__ or exc.__context__
        inner = [arg for arg in exc.args if isinstance(arg, BaseException)]
        if isinstance(exc, OSError) and not isinstance(exc, HTTPError):
            return exc
        if inner:
            exc = inner[0]
        elif below is not None:
            exc = below
        else:
            break
    return exc


def _why(root: BaseException) -> str:
    if isinstance(root, OSError) and root.strerror:
        return root.strerror.lower()
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", type(root).__name__)
    return words.lower()
