"""Giving privileges up for good, and keeping others from looking into this process.

What is given up is checked afterwards: a process that believes it is unprivileged and is not would be worse
than one that refuses to start.
"""

from __future__ import annotations

import grp
import os
import pwd
import resource
from typing import NamedTuple

from gantry.errors import HostError
from gantry.linux.syscalls import PR_SET_NO_NEW_PRIVS, clear_capabilities, prctl

_PR_SET_DUMPABLE = 4
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4


class Account(NamedTuple):
    """A user to become: numeric user and primary group."""

    uid: int
    gid: int


def find_account(name: str) -> Account:
    """Look *name* up in the host's user database; all digits are taken as they are, with the same group.

    Raises:
        HostError: There is no such user.
    """
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        if name.isascii() and name.isdigit():
            return Account(int(name), int(name))
        raise HostError(
            f'there is no user "{name}" on this host', hint=f"create it as a system user: useradd -r {name}"
        ) from None
    return Account(entry.pw_uid, entry.pw_gid)


def find_group(name: str) -> int | None:
    """The number of the group *name*, or None when the host has no such group."""
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        return None


def drop(account: Account) -> None:
    """Become *account* for good, without supplementary groups and capabilities.

    Programs that this process executes cannot gain any either.

    Raises:
        HostError: A privilege is still there. The caller must end the process.
    """
    os.setgroups([])
    os.setresgid(account.gid, account.gid, account.gid)
    os.setresuid(account.uid, account.uid, account.uid)
    prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    if account.uid != 0:
        clear_capabilities()  # a change of user leaves those that are inheritable
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    check_dropped(account)


def check_dropped(account: Account) -> None:
    """Prove that this process is *account* and nothing more.

    Raises:
        HostError: It is something more; the message says what.
    """
    if os.getresuid() != (account.uid,) * 3 or os.getresgid() != (account.gid,) * 3:
        raise HostError(f"still runs as user {os.getresuid()}, group {os.getresgid()}")
    if set(os.getgroups()) - {account.gid}:
        raise HostError(f"still in the groups {os.getgroups()}")
    if account.uid != 0:
        try:
            os.setresuid(-1, 0, -1)
        except PermissionError:
            pass
        else:
            raise HostError("could become root again")
        for name in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
            if int(_status(name), 16):
                raise HostError(f"still has capabilities ({name} {_status(name)})")
    if _status("NoNewPrivs") != "1":
        raise HostError("programs that it executes could still gain privileges")


def forbid_inspection() -> None:
    """No core dump of this process, and no tracing by its own user: call it after the last change of user.

    Raises:
        HostError: The kernel refused.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    prctl(_PR_SET_DUMPABLE, 0)


def raise_descriptor_limit(wanted: int) -> int:
    """Allow this process *wanted* descriptors, or as many as its hard limit lets it; returns how many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft >= limit:
        return soft
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    return limit


def _status(field: str) -> str:
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        for line in file:
            name, _, value = line.partition(":")
            if name == field:
                return value.strip()
    raise HostError(f"/proc/self/status has no {field}: this kernel is too old")
