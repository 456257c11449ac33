"""Why a request failed. Every message names the URL without anything secret in it."""

from __future__ import annotations

from gantry.errors import GantryError

_PUBLIC_QUERIES = ("ac-discovery=1",)


class HttpError(GantryError):
    """A request failed.

    Attributes:
        url: The URL without user, password and query.
    """

    code = "http"

    def __init__(self, message: str, *, url: str, hint: str = "") -> None:
        super().__init__(f"{url}: {message}", hint=hint)
        self.url = url
        self.reason = message


class TlsError(HttpError):
    """The server's certificate was refused, or TLS could not be spoken."""

    code = "tls"


class ConnectError(HttpError):
    """The server (or the proxy) cannot be reached."""

    code = "unreachable"


class StatusError(HttpError):
    """The server answered with a status that is no success.

    Attributes:
        status: The HTTP status.
    """

    code = "http-status"

    def __init__(self, status: int, *, url: str) -> None:
        hint = {
            401: "the server wants credentials for this host",
            403: "the server refuses these credentials, or anybody",
            407: "the proxy wants credentials",
        }.get(status, "")
        super().__init__(f"the server answered {status}", url=url, hint=hint)
        self.status = status


class RedirectError(HttpError):
    """A redirect was refused: too many, malformed, or from https to http."""

    code = "redirect"


class TooLargeError(HttpError):
    """The body is larger than the caller's bound."""

    code = "too-large"


class StalledError(HttpError):
    """The server stopped sending, or sends so slowly that waiting makes no sense."""

    code = "stalled"


class TruncatedError(HttpError):
    """The connection ended before the body did; what was received can be resumed."""

    code = "truncated"


def public_url(url: str) -> str:
    """*url* as it may be shown: without user and password, fragment, and the values of its query."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        rest = scheme
    rest = rest.partition("#")[0]
    address, mark, query = rest.partition("?")
    authority, slash, path = address.partition("/")
    shown = (scheme + separator if separator else "") + authority.rpartition("@")[2] + slash + path
    if mark:
        shown += "?" + (query if query in _PUBLIC_QUERIES else "...")
    return shown
