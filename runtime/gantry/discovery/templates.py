"""Filling in URL templates (DSC-07 ... DSC-16, TRAP-32).

Label values are arbitrary texts from a command line or a manifest, the template comes from a server: neither
may lead the other astray. Values are inserted as they are, in one pass, so that a value is never a template;
control characters are refused; in the host part only values that cannot end it are accepted; and what comes
out must have the template's scheme and the host that the template alone determines.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_ANY_BRACES = re.compile(r"\{.*?\}")
_PARTS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#\\]*)(.*)", re.DOTALL)
_HOST = re.compile(
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9_-]*[A-Za-z0-9])?)(?:\.[A-Za-z0-9](?:[A-Za-z0-9_-]*[A-Za-z0-9])?)*\.?"
    r"(?::[0-9]{1,5})?|\[[0-9A-Fa-f:.]+\](?::[0-9]{1,5})?"
)
_HOST_SAFE = re.compile(r"[A-Za-z0-9._~-]+")


class Endpoint(NamedTuple):
    """Where an image and its signature are.

    Attributes:
        aci_url: The image.
        asc_url: Its detached signature.
        level: The discovery page that announced it.
        prefix: The tag's prefix.
    """

    aci_url: str
    asc_url: str
    level: str
    prefix: str


class TemplateRefusedError(Exception):
    """A tag cannot be used; its text is the diagnostic."""


def render(
    template: str, name: str, labels: Mapping[str, str], *, allow_http: bool = False
) -> tuple[str, str]:
    """The URLs of image and signature.

    Args:
        template: From the tag.
        name: The image's name.
        labels: Every value that may be used, host defaults included.
        allow_http: Accept templates for plain HTTP.

    Raises:
        TemplateRefusedError: It has no ``{ext}``, asks for a label that is not there, is of another scheme,
            or a value would lead elsewhere.
    """
    if "{ext}" not in template:
        raise TemplateRefusedError("the template has no {ext}")
    # A label called "name" or "ext" never replaces these (DSC-09).
    values = {**labels, "version": labels.get("version") or "latest", "name": name}
    return (
        _fill(template, values | {"ext": "aci"}, allow_http=allow_http),
        _fill(template, values | {"ext": "aci.asc"}, allow_http=allow_http),
    )


def check_url(url: str, *, allow_http: bool = False) -> str:
    """Check a URL that is no template, such as that of public keys (DSC-24), and return it.

    Raises:
        TemplateRefusedError: Another scheme, no host, or a control character.
    """
    _, authority, _ = _split(url, allow_http=allow_http)
    _check_host(authority)
    _refuse_control(url, "the URL")
    return url


def _fill(template: str, values: Mapping[str, str], *, allow_http: bool) -> str:
    _refuse_control(template, "the template")
    scheme, authority, rest = _split(template, allow_http=allow_http)
    for key in _PLACEHOLDER.findall(template):
        if key not in values:
            raise TemplateRefusedError(f"the template needs the label {key!r}")
        _refuse_control(values[key], f"the value of {key!r}")
    if _ANY_BRACES.search(_PLACEHOLDER.sub("x", template)):
        raise TemplateRefusedError("the template has braces in braces")
    host, slash, path = _fill_authority(authority, values)
    _check_host(host)
    url = f"{scheme}://{host}{slash}{path}" + _PLACEHOLDER.sub(lambda match: values[match.group(1)], rest)
    found_scheme, found_host, _ = _match(url)
    if (found_scheme, found_host) != (scheme, host):
        raise TemplateRefusedError("a value would lead to another host than the template's")
    return url


def _fill_authority(authority: str, values: Mapping[str, str]) -> tuple[str, str, str]:
    """The host part, and what of a name inserted in it belongs to the path (``https://{name}.{ext}``)."""

    def insert(match: re.Match[str]) -> str:
        key, value = match.group(1), values[match.group(1)]
        # A name is an AC Identifier: slashes are the only characters in it that can end a host.
        if key != "name" and _HOST_SAFE.fullmatch(value) is None:
            raise TemplateRefusedError(f"the value of {key!r} cannot be part of a host")
        return value

    return _PLACEHOLDER.sub(insert, authority).partition("/")


def _split(url: str, *, allow_http: bool) -> tuple[str, str, str]:
    scheme, authority, rest = _match(url)
    if scheme != "https" and not (scheme == "http" and allow_http):
        raise TemplateRefusedError(
            "plain http is not allowed" if scheme == "http" else f"the scheme {scheme!r} is not supported"
        )
    if rest.startswith("\\"):
        raise TemplateRefusedError("the host is followed by a backslash")
    return scheme, authority, rest


def _match(url: str) -> tuple[str, str, str]:
    match = _PARTS.fullmatch(url)
    if match is None:
        raise TemplateRefusedError("it is not an absolute URL")
    return match.group(1).lower(), match.group(2), match.group(3)


def _check_host(host: str) -> None:
    if _HOST.fullmatch(host) is None:
        raise TemplateRefusedError("its host is malformed")


def _refuse_control(text: str, what: str) -> None:
    if any(ord(c) < 32 or 127 <= ord(c) < 160 or c in "\u2028\u2029" for c in text):
        raise TemplateRefusedError(f"{what} has a control character")
