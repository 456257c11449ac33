"""Taking URLs apart: where a request goes, who it says it is from, and what may be shown of it."""

from __future__ import annotations

import base64
from typing import NamedTuple
from urllib.parse import unquote_to_bytes, urljoin

from urllib3.exceptions import LocationParseError
from urllib3.util import parse_url

from gantry.http.errors import HttpError, public_url

MAX_LENGTH = 8192
_DEFAULT_PORTS = {"http": 80, "https": 443}


class Target(NamedTuple):
    """A URL taken apart.

    Attributes:
        url: What is requested; without user, password and fragment.
        public: What may be shown.
        scheme: ``http`` or ``https``.
        host: Lower case.
        port: Given or by default.
        authorization: Value of an ``Authorization`` header from a user in the URL, or ``None``.
    """

    url: str
    public: str
    scheme: str
    host: str
    port: int
    authorization: str | None

    @property
    def origin(self) -> tuple[str, str, int]:
        """What credentials belong to."""
        return self.scheme, self.host, self.port

    def lookup_keys(self) -> tuple[str, ...]:
        """The keys under which options for this host are found, the more exact first."""
        exact = f"{self.host}:{self.port}"
        return (exact, self.host) if self.port == _DEFAULT_PORTS[self.scheme] else (exact,)


def parse(url: str) -> Target:
    """Take *url* apart.

    Raises:
        HttpError: It is no http or https URL, or malformed.
    """
    public = public_url(url)
    if len(url) > MAX_LENGTH:
        raise HttpError(f"the URL is longer than {MAX_LENGTH} characters", url=public[:200] + "...")
    if any(ord(c) < 32 or 127 <= ord(c) < 160 for c in url):
        raise HttpError("the URL has a control character", url=public)
    try:
        parts = parse_url(url)
        port = parts.port
    except (LocationParseError, ValueError):
        raise HttpError("this is not a URL", url=public) from None
    if parts.scheme not in _DEFAULT_PORTS or not url.lower().startswith(("http://", "https://")):
        raise HttpError("the URL's scheme is neither https nor http", url=public)
    if not parts.host:
        raise HttpError("the URL names no host", url=public)
    if port == 0:
        raise HttpError("the URL names port 0", url=public)
    authorization = None
    if parts.auth is not None:
        authorization = "Basic " + base64.b64encode(unquote_to_bytes(parts.auth)).decode("ascii")
    return Target(
        url=parts._replace(auth=None, fragment=None).url,
        public=public,
        scheme=parts.scheme,
        host=parts.host.lower().strip("[]"),
        port=port or _DEFAULT_PORTS[parts.scheme],
        authorization=authorization,
    )


def join(base: Target, location: str) -> Target:
    """The target of a redirect from *base* to *location*.

    Raises:
        HttpError: *location* is malformed.
    """
    try:
        return parse(urljoin(base.url, location))
    except ValueError:
        raise HttpError("the redirect's location is not a URL", url=base.public) from None
