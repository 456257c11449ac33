"""Walking up a name's path until a page announces what is wanted (DSC-18 ... DSC-25)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal, TypeVar, overload

from gantry.appc import arch
from gantry.appc.imageref import ImageRef
from gantry.appc.names import ac_identifier
from gantry.discovery import page as pages
from gantry.discovery import templates
from gantry.discovery.errors import Attempt, DiscoveryError
from gantry.discovery.templates import Endpoint, TemplateRefusedError
from gantry.http import Client, HttpError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

MAX_PAGE = 1024 * 1024
MAX_LEVELS = 32
#: No more of what a page announces is looked at: several are mirrors of each other.
MAX_FOUND = 8
_HOST = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")

T = TypeVar("T")


@overload
def discover(
    client: Client,
    ref: ImageRef,
    *,
    want: Literal["images"] = ...,
    host_labels: Mapping[str, str] | None = ...,
) -> list[Endpoint]: ...
@overload
def discover(client: Client, ref: ImageRef, *, want: Literal["pubkeys"]) -> list[str]: ...
def discover(
    client: Client,
    ref: ImageRef,
    *,
    want: Literal["images", "pubkeys"] = "images",
    host_labels: Mapping[str, str] | None = None,
) -> list[Endpoint] | list[str]:
    """Either of the two walks; see :func:`discover_images` and :func:`discover_pubkeys`."""
    if want == "pubkeys":
        return discover_pubkeys(client, ref.name)
    return discover_images(client, ref, host_labels or {})


def discover_images(
    client: Client, ref: ImageRef, host_labels: Mapping[str, str], *, port: int | None = None
) -> list[Endpoint]:
    """Where the image *ref* may be fetched, in the order in which the page offers it (DSC-15).

    *ref* is not changed: ``os`` and ``arch`` of the host and the version ``latest`` fill templates only, they
    are no labels to be matched afterwards (DSC-11, DSC-12, TRAP-01, TRAP-02).

    Args:
        client: Makes the requests; its options decide about TLS and plain HTTP (DSC-23).
        ref: What is wanted.
        host_labels: The host's ``os`` and ``arch``.
        port: Port of the discovery pages, if it is not the usual one (DSC-02).

    Returns:
        At least one endpoint, all from one level.

    Raises:
        DiscoveryError: Nothing was found; it lists every attempt.
        PlatformError: *ref* asks for an os or arch that the specification does not know (TRAP-35).
    """
    arch.check_labels(ref.labels)
    labels = {key: value for key, value in host_labels.items() if key in ("os", "arch")} | ref.labels
    allow_http = client.options.allow_http

    def use(tag: pages.Tag, level: str) -> Endpoint:
        aci, asc = templates.render(tag.value, ref.name, labels, allow_http=allow_http)
        return Endpoint(aci, asc, level, tag.prefix)

    return _walk(client, ref.name, pages.IMAGES, use, port)


def discover_pubkeys(client: Client, name: str, *, port: int | None = None) -> list[str]:
    """URLs of public keys for *name*: all that the first level with any announces (DSC-24, DSC-25).

    Args:
        client: Makes the requests.
        name: An image's name, or the beginning of one.
        port: Port of the discovery pages, if it is not the usual one.

    Raises:
        DiscoveryError: Nothing was found; it lists every attempt.
        InvalidNameError: *name* is no AC Identifier.
    """
    allow_http = client.options.allow_http

    def use(tag: pages.Tag, _level: str) -> str:
        return templates.check_url(tag.value, allow_http=allow_http)

    return _walk(client, ac_identifier(name, what="image name"), pages.PUBKEYS, use, port)


def _walk(
    client: Client, name: str, kind: str, use: Callable[[pages.Tag, str], T], port: int | None
) -> list[T]:
    host = name.partition("/")[0]
    if len(host) > 253 or _HOST.fullmatch(host) is None:
        raise DiscoveryError(
            name,
            f'"{host}" is not a host name',
            hint="only names that begin with a host can be discovered; give a URL or a file instead",
        )
    attempts: list[Attempt] = []
    for level in _levels(name):
        for url in _urls(level, port, allow_http=client.options.allow_http):
            attempt, tags = _ask(client, url)
            if attempt is not None:
                attempts.append(attempt)
                continue
            found, outcome = _usable(tags, name, kind, lambda tag, url=url: use(tag, url))  # type: ignore[misc]
            if found:
                return found
            attempts.append(Attempt(url, outcome, "no-tag"))
            break  # the page was there: plain HTTP is for those that were not (DSC-23)
    raise DiscoveryError(
        name,
        "no page announces " + ("an image" if kind == pages.IMAGES else "public keys"),
        attempts=tuple(attempts),
        hint=_hint(attempts),
    )


def _levels(name: str) -> Iterator[str]:
    parts = name.split("/")
    if len(parts) > MAX_LEVELS:
        raise DiscoveryError(name[:80] + "...", f"the name has more than {MAX_LEVELS} components")
    for length in range(len(parts), 0, -1):
        yield "/".join(parts[:length])


def _urls(level: str, port: int | None, *, allow_http: bool) -> list[str]:
    host, slash, path = level.partition("/")
    address = f"{host}:{port}" if port else host
    rest = f"{address}{slash}{path}?ac-discovery=1"
    return [f"https://{rest}", f"http://{rest}"] if allow_http else [f"https://{rest}"]


def _ask(client: Client, url: str) -> tuple[Attempt | None, list[pages.Tag]]:
    try:
        answer = client.get(url, max_bytes=MAX_PAGE, truncate=True, accept={200})
        return None, pages.find_tags(answer.body, answer.headers.get("content-type", ""))
    except HttpError as exc:
        # A redirect's refusal names where it happened; a message that names another URL keeps it.
        return Attempt(url, exc.reason if exc.url == url else exc.message, exc.code), []
    except pages.PageTooComplexError:
        return Attempt(url, "the page takes too long to parse", "page"), []


def _usable(
    tags: list[pages.Tag], name: str, kind: str, use: Callable[[pages.Tag], T]
) -> tuple[list[T], str]:
    """What the tags of one page give, and why it is nothing if it is nothing."""
    ours = [tag for tag in tags if tag.kind == kind]
    # Plain texts are compared here, without regard to slashes (DSC-06): harmless, as the page is the name's
    # own host's. Trust in keys must not follow this rule (TRAP-03).
    matching = [tag for tag in ours if name.startswith(tag.prefix)]
    found: list[T] = []
    problems: list[str] = []
    for tag in matching:
        try:
            each = use(tag)
        except TemplateRefusedError as exc:
            problems.append(str(exc))
        else:
            if each not in found:
                found.append(each)
            if len(found) == MAX_FOUND:
                break
    if problems:
        return found, "; ".join(dict.fromkeys(problems))
    return found, f'no "{kind}" tag' if not ours else f'no "{kind}" tag whose prefix fits'


def _hint(attempts: list[Attempt]) -> str:
    codes = {attempt.code for attempt in attempts}
    if codes <= {"unreachable", "stalled"}:
        return "is the host up, and its name right?"
    if codes <= {"tls"}:
        return "a private certificate authority needs --ca-file (ca_file in documents)"
    return "is the name right, and does its host serve App Container images?"
