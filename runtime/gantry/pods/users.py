"""Who an app runs as, by its own files (EXE-17 ... EXE-22). The host's users are never asked."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from gantry.errors import GantryError
from gantry.pods.rootview import LookupFailedError

if TYPE_CHECKING:
    from gantry.pods.rootview import RootView

_MAX_ID = 2**32 - 2


class AccountError(GantryError):
    """A user or group of an app cannot be resolved."""

    code = "account"


class Identity(NamedTuple):
    """Who an app runs as.

    Attributes:
        uid: User.
        gid: Group.
        name: For USER and LOGNAME: the user's name, or its number.
        home: For HOME.
    """

    uid: int
    gid: int
    name: str
    home: str


class _User(NamedTuple):
    name: str
    uid: int
    home: str


def resolve(view: RootView, user: str, group: str, *, group_may_be_user: bool = False) -> Identity:
    """Resolve the *user* and *group* of an app.

    Args:
        view: The app's file system.
        user: As in the manifest: name, digits, or the path of a file whose owner it is.
        group: Likewise.
        group_may_be_user: The image was converted from Docker: a group that is the user's name and does not
            exist means the user's number (EXE-21).

    Raises:
        AccountError: Nothing in the image says who that is.
    """
    users = _users(view)
    uid = _one(view, user, {entry.name: entry.uid for entry in reversed(users)}, "user", owner="st_uid")
    try:
        gid = _one(view, group, _groups(view), "group", owner="st_gid")
    except AccountError:
        if not (group_may_be_user and group == user):
            raise
        gid = uid
    named = next((entry for entry in users if entry.name == user), None) or next(
        (entry for entry in users if entry.uid == uid), None
    )
    if named:
        return Identity(uid, gid, named.name, named.home or "/")
    return Identity(uid, gid, "root" if uid == 0 else str(uid), "/root" if uid == 0 else "/")


def _one(view: RootView, value: str, names: dict[str, int], what: str, *, owner: str) -> int:
    if value.startswith("/"):
        try:
            found = view.resolve(value)
        except LookupFailedError as error:
            raise AccountError(f'{what} "{value}": {error.message}') from error
        if found.status is None:
            raise AccountError(
                f'{what} "{value}": there is no such file in the app to take the {what} from',
                hint="name a file that the image contains",
            )
        return int(getattr(found.status, owner))
    if value in names:
        return names[value]
    number = _number(value)
    if number is not None:
        return number
    if value == "root":
        return 0  # images without any passwd file name root
    file = "/etc/passwd" if what == "user" else "/etc/group"
    raise AccountError(
        f'{what} "{value}" is not in the image\'s {file}',
        hint=f"use a number, or add the {what} to the image",
    )


def _lines(view: RootView, path: str) -> list[list[str]]:
    text = (view.read(path) or b"").decode("utf-8", "surrogateescape")
    return [line.split(":") for line in text.splitlines() if line and not line.startswith("#")]


def _number(text: str) -> int | None:
    return (
        int(text) if text.isascii() and text.isdigit() and len(text) <= 10 and int(text) <= _MAX_ID else None
    )


def _users(view: RootView) -> list[_User]:
    found = []
    for fields in _lines(view, "/etc/passwd"):
        uid = _number(fields[2]) if len(fields) >= 4 else None
        if uid is not None:
            home = fields[5] if len(fields) > 5 else ""
            found.append(_User(fields[0], uid, home if home.startswith("/") else ""))
    return found


def _groups(view: RootView) -> dict[str, int]:
    found: dict[str, int] = {}
    for fields in _lines(view, "/etc/group"):
        gid = _number(fields[2]) if len(fields) >= 3 else None
        if gid is not None:
            found.setdefault(fields[0], gid)
    return found
