"""Compile an app's seccomp isolator, or the default filter, into the filter of an OCI configuration.

A blocked call of an isolator without ``errno`` ends the app (ISO-19). The default filter of ours only makes
it fail with EPERM: an app that meets it by accident says what it could not do.
"""

from __future__ import annotations

import ctypes
import errno as errno_names
import os
from functools import cache
from typing import TYPE_CHECKING, Any

from gantry.appc.isolators import IsolatorError, Seccomp
from gantry.stage1.syscall_sets import ALLOWED, DENIED, LIFE_CYCLE, WILDCARDS, WITH_CAPABILITY

if TYPE_CHECKING:
    from collections.abc import Collection

_ALLOW = "SCMP_ACT_ALLOW"
_ERRNO = "SCMP_ACT_ERRNO"
_KILL = "SCMP_ACT_KILL_PROCESS"
_UNKNOWN = -1
#: Flags of clone(2) that make namespaces; without CAP_SYS_ADMIN only threads and processes may be made.
_CLONE_NAMESPACES = 0x7E020000
_PERSONALITIES = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)
_ARCHITECTURES = {
    "x86_64": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
    "aarch64": ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
    "armv7l": ["SCMP_ARCH_ARM"],
    "i686": ["SCMP_ARCH_X86"],
    "ppc64le": ["SCMP_ARCH_PPC64LE"],
    "s390x": ["SCMP_ARCH_S390X"],
}


@cache
def _library() -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL("libseccomp.so.2")
    except OSError:
        return None
    library.seccomp_syscall_resolve_name.argtypes = [ctypes.c_char_p]
    library.seccomp_syscall_resolve_name.restype = ctypes.c_int
    return library


@cache
def is_known(name: str) -> bool:
    """Whether some Linux has a system call called *name* (as far as this host's libseccomp knows)."""
    if any(name in calls for calls in WILDCARDS.values()) or name in LIFE_CYCLE:
        return True
    library = _library()
    if library is None:
        return True  # nobody here can tell; the OCI runtime ignores what it does not know
    return bool(library.seccomp_syscall_resolve_name(name.encode()) != _UNKNOWN)


def compile_filter(
    isolator: Seccomp | None, capabilities: Collection[str], *, native: bool = False
) -> dict[str, Any] | None:
    """The ``linux.seccomp`` object, or ``None`` for no filter at all (ISO-11 ... ISO-23).

    Args:
        isolator: The app's isolator, if it has one.
        capabilities: The app's bounding set.
        native: The image says that it is for this very architecture: programs of the 32-bit personality are
            not expected (their calls end them), which halves the work of every start.

    Raises:
        IsolatorError: An unknown system call, wildcard or error name: a typing error must not change a
            policy.
    """
    if isolator is None:
        return _default(capabilities, native=native)
    action = _action(isolator)
    calls = _expand(isolator)
    if isolator.retain:
        if isolator.masked:
            return None
        return _filter(native, action, [{"names": sorted(calls | LIFE_CYCLE), "action": _ALLOW}])
    blocked = DENIED - frozenset().union(*(WITH_CAPABILITY.get(each, frozenset()) for each in capabilities))
    rules: list[dict[str, Any]] = []
    if not isolator.masked:
        if calls:
            rules.append({"names": sorted(calls), "action": action["action"], **action["rest"]})
        blocked -= calls
    if blocked:
        rules.append({"names": sorted(blocked), "action": _ERRNO, "errnoRet": errno_names.EPERM})
    return _filter(native, {"action": _ALLOW, "rest": {}}, rules)


def _default(capabilities: Collection[str], *, native: bool) -> dict[str, Any]:
    calls = set(ALLOWED)
    for capability in capabilities:
        calls |= WITH_CAPABILITY.get(capability, frozenset())
    rules: list[dict[str, Any]] = [{"names": sorted(calls), "action": _ALLOW}]
    if "clone" not in calls:
        masked = {"index": 0, "value": _CLONE_NAMESPACES, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}
        rules.append({"names": ["clone"], "action": _ALLOW, "args": [masked]})
        # Its flags lie in memory, where no filter can look: let the C library use clone.
        rules.append({"names": ["clone3"], "action": _ERRNO, "errnoRet": errno_names.ENOSYS})
    rules += [
        {
            "names": ["personality"],
            "action": _ALLOW,
            "args": [{"index": 0, "value": value, "op": "SCMP_CMP_EQ"}],
        }
        for value in _PERSONALITIES
    ]
    return _filter(native, {"action": _ERRNO, "rest": {"errnoRet": errno_names.EPERM}}, rules)


def _filter(native: bool, default: dict[str, Any], rules: list[dict[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {"defaultAction": default["action"]}
    if default["rest"]:
        result["defaultErrnoRet"] = default["rest"]["errnoRet"]
    architectures = _ARCHITECTURES.get(os.uname().machine)
    if architectures:
        result["architectures"] = architectures[:1] if native else architectures
    result["syscalls"] = rules
    return result


def _action(isolator: Seccomp) -> dict[str, Any]:
    if isolator.errno is None:
        return {"action": _KILL, "rest": {}}
    number = {name: code for code, name in errno_names.errorcode.items()}.get(isolator.errno)
    if number is None:
        # A second name of one number, or one that Python does not know before 3.14.
        number = getattr(errno_names, isolator.errno, None) or {"EHWPOISON": 133}.get(isolator.errno)
    if number is None:
        raise IsolatorError(
            f'{isolator.name}: this system has no error called "{isolator.errno}"',
            hint="such as EPERM or ENOSYS",
            rule="ISO-20",
        )
    return {"action": _ERRNO, "rest": {"errnoRet": number}}


def _expand(isolator: Seccomp) -> frozenset[str]:
    calls: set[str] = set()
    for name in isolator.syscalls:
        if not is_known(name):
            raise IsolatorError(
                f'{isolator.name}: there is no system call "{name}"',
                hint="names are lower-case, as in man 2 syscalls",
                rule="ISO-09",
            )
        calls.add(name)
    for wildcard in isolator.wildcards:
        if wildcard.startswith("@appc.io/"):
            continue
        if wildcard not in WILDCARDS:
            raise IsolatorError(
                f'{isolator.name}: the wildcard "{wildcard}" is not known',
                hint=f"known: {', '.join(sorted(WILDCARDS))}",
                rule="ISO-10,TRAP-31",
            )
        calls |= WILDCARDS[wildcard]
    return frozenset(calls)
