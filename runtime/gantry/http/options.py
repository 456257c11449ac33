"""What a client may and should do."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gantry import __version__
from gantry.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gantry.http.throttle import Throttle


@dataclass(frozen=True, slots=True)
class HttpOptions:
    """Options of a :class:`gantry.http.Client`.

    Attributes:
        ca_file: PEM file with the certificate authorities to trust *instead of* the system's, or ``None``.
        insecure_tls: Do not verify certificates. For an operator who said so, on record.
        allow_http: Allow plain HTTP, and redirects to it.
        headers: Request headers by ``host`` (default port) or ``host:port``, lower case; sent over https
            only, and only to that host (DSC-30).
        connect_timeout: Seconds for connecting, TLS included (DSC-31).
        stall_timeout: Seconds without progress after which a transfer is given up; also for the header as a
            whole.
        min_rate: Bytes per second, averaged over ``stall_timeout``, below which a transfer counts as stalled.
        total_timeout: Seconds that :meth:`~gantry.http.Client.get` may take for a body.
        max_redirects: How many redirects are followed.
        user_agent: The ``User-Agent`` header.
        connect_to: Where to connect for a ``host`` or ``host:port``: address and port. Names and certificates
            are still checked for the host asked for; a proxy is not used. For tests, and for operators who
            cannot change the DNS.
        throttle: Bounds the rate of what comes in, together with all others that it is given to.
        retries: How often a request is made again that the server cannot answer now (429, 502, 503, 504).
        retry_pause: Seconds before the first of these, if the server does not say; doubled each time.
        retry_wait: The longest pause, in seconds, that is granted to a server that says.
        use_proxies: Take proxies from the environment (``https_proxy``, ``http_proxy``, ``no_proxy``).
    """

    ca_file: str | None = None
    insecure_tls: bool = False
    allow_http: bool = False
    headers: Mapping[str, Mapping[str, str]] = field(default_factory=dict, repr=False)
    connect_timeout: float = 20.0
    stall_timeout: float = 30.0
    min_rate: int = 64
    total_timeout: float = 120.0
    max_redirects: int = 10
    user_agent: str = f"gantry/{__version__}"
    connect_to: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    use_proxies: bool = True
    throttle: Throttle | None = None
    retries: int = 3
    retry_pause: float = 0.5
    retry_wait: float = 20.0

    def __post_init__(self) -> None:
        for host, headers in self.headers.items():
            for name, value in headers.items():
                if not _is_token(name) or any(ord(c) < 32 or ord(c) == 127 or ord(c) > 255 for c in value):
                    # The value may be a secret: it is not shown.
                    raise UsageError(f'the header "{name}" configured for {host} is malformed')


def _is_token(name: str) -> bool:
    return bool(name) and name.isascii() and all(c.isalnum() or c in "!#$%&'*+-.^_`|~" for c in name)
