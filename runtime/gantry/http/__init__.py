"""The one HTTP client of Gantry.

Rules:

* TLS is verified, always, unless the caller's options say otherwise; plain HTTP only if they allow it;
* redirects are followed by hand: bounded, never from https to http unless HTTP is allowed, and whatever
  identifies the user (credentials in the URL, configured headers) goes only to the host it was meant for;
* everything is bounded: bodies, the time without progress, the number of redirects;
* an error names the URL without user, password and query.

What a client is made of is loaded when it is first used: most commands only want to show a URL.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from gantry.http.errors import (
    ConnectError,
    HttpError,
    RedirectError,
    StalledError,
    StatusError,
    TlsError,
    TooLargeError,
    TruncatedError,
    public_url,
)

if TYPE_CHECKING:
    from gantry.http.client import Client, Response, StreamResponse
    from gantry.http.options import HttpOptions

__all__ = [
    "Client",
    "ConnectError",
    "HttpError",
    "HttpOptions",
    "RedirectError",
    "Response",
    "StalledError",
    "StatusError",
    "StreamResponse",
    "TlsError",
    "TooLargeError",
    "TruncatedError",
    "public_url",
]

_HOMES = {"client": ("Client", "Response", "StreamResponse"), "options": ("HttpOptions",)}


def __getattr__(name: str) -> object:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
