"""Why a request failed. Every message names the URL without anything secret in it."""

from __future__ import annotations

import re

from gantry.errors import GantryError

_PUBLIC_QUERIES = ("ac-discovery=1",)


class HttpError(GantryError):
    """A request failed.

    Attributes:
        url: The URL without user, password and query.
        remedy: What can usually be done about errors of this class; an error's own hint is better.
    """

    code = "http"
    remedy = ""

    def __init__(self, message: str, *, url: str, hint: str = "") -> None:
        super().__init__(f"{url}: {message}", hint=hint or self.remedy)
        self.url = url
        self.reason = message


class TlsError(HttpError):
    """The server's certificate was refused, or TLS could not be spoken."""

    code = "tls"


class ConnectError(HttpError):
    """The server (or the proxy) cannot be reached."""

    code = "unreachable"
    remedy = "check the network, the name, and https_proxy if there is a proxy"


class StatusError(HttpError):
    """The server answered with a status that is no success.

    Attributes:
        status: The HTTP status.
        after: The seconds that the server wants to be left alone, if it said so.
    """

    code = "http-status"

    def __init__(self, status: int, *, url: str, after: float | None = None) -> None:
        hint = {
            401: "the server wants credentials for this host",
            403: "the server refuses these credentials, or anybody",
            404: "nothing is published there; check the name and the version",
            407: "the proxy wants credentials",
        }.get(status, "try again later" if status >= 500 or status == 429 else "")
        if after is not None and status in (429, 503):
            hint = f"the server wants to be asked again in {after:.0f} seconds"
        super().__init__(f"the server answered {status}", url=url, hint=hint)
        self.status = status
        self.after = after


class RedirectError(HttpError):
    """A redirect was refused: too many, malformed, or from https to http."""

    code = "redirect"
    remedy = "the administrator of the server has to set that right"


class TooLargeError(HttpError):
    """The body is larger than the caller's bound."""

    code = "too-large"
    remedy = "it is not what was expected there; check the URL"


class StalledError(HttpError):
    """The server stopped sending, or sends so slowly that waiting makes no sense."""

    code = "stalled"
    remedy = "try again when the server or the network is better"


class TruncatedError(HttpError):
    """The connection ended before the body did; what was received can be resumed."""

    code = "truncated"
    remedy = "try again; a download goes on where it ended"


def _without_password(rest: str) -> str:
    """What follows ``SCHEME://``, when a password may go on behind the first of ``/?#``: without all of it.

    Nobody can tell where such a password ends, so it is taken to go as far as it can.
    """
    authority = re.split("[/?#]", rest, maxsplit=1)[0]
    _, colon, port = authority.rpartition("]")[2].partition(":")
    if "@" in authority or not colon or not port or port.isdecimal():
        return rest
    return rest.rpartition("@")[2]


def public_url(url: str) -> str:
    """*url* as it may be shown: without user and password, fragment, and the values of its query."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        rest = scheme
    rest = _without_password(rest)
    rest = rest.partition("#")[0]
    address, mark, query = rest.partition("?")
    authority, slash, path = address.partition("/")
    shown = (scheme + separator if separator else "") + authority.rpartition("@")[2] + slash + path
    if mark:
        shown += "?" + (query if query in _PUBLIC_QUERIES else "...")
    return shown
