"""Who this host is to servers that ask: the files ``auth.d/*.json`` (RKT-INVENTORY 5.2) and ``.netrc``.

A file names domains (``host`` or ``host:port``) and one way to prove who asks: ``basic`` with a user and a
password, or ``oauth`` with a token. The local layer beats the system's, and the user's both, domain by
domain. What no file names is looked up in the caller's ``.netrc``, if there is one (``NETRC`` says where
else).

The result are request headers by host; :class:`gantry.http.Client` sends them over https only, and to no
other host that a server redirects to.
"""

from __future__ import annotations

import base64
import os
import stat
from typing import TYPE_CHECKING, Any

from gantry.config import SettingsError, layer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gantry.config import Paths

_PASSED_OVER = ("dockerAuth",)  # there are no Docker registries here


def headers_by_host(paths: Paths, environment: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """The request headers for every host that is known.

    Args:
        paths: Where the files are.
        environment: For ``NETRC`` and ``HOME``.

    Raises:
        SettingsError: A file is malformed, may be read by everybody, or names a domain that another of its
            layer names.
    """
    found = _from_netrc(environment)
    for top in (paths.system, paths.local, paths.user):
        named: dict[str, str] = {}
        for file, document in (_readable(top) if top else {}).items():
            domains, value = _entry(file, document)
            for domain in domains:
                if domain in named:
                    raise SettingsError(
                        f'credentials for "{domain}" are in {named[domain]} and in {file}',
                        hint="leave one of them",
                    )
                named[domain] = file
                found[domain] = {"Authorization": value}
    return found


def _readable(top: str) -> dict[str, dict[str, Any]]:
    """The documents of one layer; none where they are somebody else's."""
    try:
        return layer(top, "auth", also=_PASSED_OVER)
    except SettingsError as error:
        if isinstance(error.__cause__, PermissionError):
            return {}
        raise


def _entry(file: str, document: dict[str, Any]) -> tuple[list[str], str]:
    if os.stat(file).st_mode & stat.S_IROTH:
        raise SettingsError(f"everybody may read the credentials in {file}", hint=f"chmod o-r {file}")
    domains, kind, given = (document.pop(field, None) for field in ("domains", "type", "credentials"))
    if document:
        raise SettingsError(f'"{file}" has the unknown field "{min(document)}"', hint="leave it out")
    if not isinstance(domains, list) or not domains or not all(_is_domain(each) for each in domains):
        raise SettingsError(f'no domains specified in "{file}"', hint='"domains": ["HOST" or "HOST:PORT"]')
    if not isinstance(given, dict):
        raise SettingsError(f'no credentials specified in "{file}"', hint="see docs/settings.md")
    if kind == "basic":
        user, password = (_text(file, given, field) for field in ("user", "password"))
        if ":" in user:
            raise SettingsError(f'the user in "{file}" has a colon, which basic cannot carry')
        value = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
    elif kind == "oauth":
        value = "Bearer " + _text(file, given, "token")
    elif kind == "aws":
        raise SettingsError(
            f'the auth type "aws" in "{file}" is not available: requests are not signed here',
            hint="serve the images from a URL that takes basic or oauth, or that needs nothing",
        )
    else:
        raise SettingsError(
            f'unknown auth type in "{file}"' if kind else f'no auth type specified in "{file}"',
            hint="basic or oauth",
        )
    # Of an IPv6 address the brackets are the URL's.
    return [each.lower().replace("[", "").replace("]", "") for each in domains], value


def _is_domain(value: object) -> bool:
    return isinstance(value, str) and bool(value) and value.isascii() and not set(value) & set("/@ \t\r\n")


def _text(file: str, given: dict[str, Any], field: str) -> str:
    value = given.get(field)
    if not isinstance(value, str) or not value or not value.isprintable():
        hint = f'write "credentials": {{"{field}": …}}'
        raise SettingsError(f'{field} not specified in "{file}"', hint=hint)
    return value


def _from_netrc(environment: Mapping[str, str]) -> dict[str, dict[str, str]]:
    home = environment.get("HOME")
    path = environment.get("NETRC") or (os.path.join(home, ".netrc") if home else "")
    if not path or not os.path.isfile(path):
        return {}
    import netrc  # noqa: PLC0415 - few have such a file

    try:
        if os.stat(path).st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise SettingsError(f"others may read the credentials in {path}", hint=f"chmod 600 {path}")
        hosts = netrc.netrc(path).hosts
    except (netrc.NetrcParseError, OSError, UnicodeDecodeError) as error:
        why = error.msg if isinstance(error, netrc.NetrcParseError) else "it cannot be read"
        raise SettingsError(f"failed to parse {path}: {why}", hint="or name another with NETRC") from None
    return {
        host.lower(): {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}
        for host, (user, _, password) in hosts.items()
        if host != "default" and user and password
    }
