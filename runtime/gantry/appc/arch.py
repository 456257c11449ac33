"""The os and arch labels: the specification's table and how others spell them (MAN-11 ... MAN-15).

App Container says ``aarch64``, ``i386``, ``amd64``; Go and Docker say ``arm64``, ``386``; ``uname`` says
``x86_64``, ``i686``. Names are mapped here, at the edge, and unknown ones are refused early (TRAP-35).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gantry.appc.errors import AppcError

if TYPE_CHECKING:
    from collections.abc import Mapping

PLATFORMS: dict[str, tuple[str, ...]] = {
    "linux": (
        "amd64", "i386", "aarch64", "aarch64_be", "armv6l", "armv7l", "armv7b", "ppc64", "ppc64le", "s390x",
    ),
    "freebsd": ("amd64", "i386", "arm"),
    "darwin": ("x86_64", "i386"),
}  # fmt: skip

# (os, Go's GOARCH, GOARM) -> arch
_FROM_GO = {
    ("linux", "amd64", ""): "amd64",
    ("linux", "386", ""): "i386",
    ("linux", "arm64", ""): "aarch64",
    ("linux", "arm", ""): "armv6l",
    ("linux", "arm", "6"): "armv6l",
    ("linux", "arm", "7"): "armv7l",
    ("linux", "ppc64", ""): "ppc64",
    ("linux", "ppc64le", ""): "ppc64le",
    ("linux", "s390x", ""): "s390x",
    ("freebsd", "amd64", ""): "amd64",
    ("freebsd", "386", ""): "i386",
    ("darwin", "amd64", ""): "x86_64",
    ("darwin", "386", ""): "i386",
}

# uname -m on Linux -> arch
_FROM_UNAME = {
    "x86_64": "amd64",
    "amd64": "amd64",
    "i386": "i386",
    "i486": "i386",
    "i586": "i386",
    "i686": "i386",
    "aarch64": "aarch64",
    "aarch64_be": "aarch64_be",
    "armv6l": "armv6l",
    "armv7l": "armv7l",
    "armv7b": "armv7b",
    "armv8l": "armv7l",  # a 32-bit process on a 64-bit kernel
    "ppc64": "ppc64",
    "ppc64le": "ppc64le",
    "s390x": "s390x",
}

# What the machine runs besides its own: a 64-bit kernel with its 32-bit personality.
_ALSO_RUNS = {"amd64": ("i386",), "aarch64": ("armv7l", "armv6l"), "armv7l": ("armv6l",)}


class PlatformError(AppcError):
    """An os or arch label is not in the table, or no machine of ours can be named."""

    code = "platform"


def host_labels(machine: str, system: str = "linux") -> dict[str, str]:
    """The labels of the machine that *machine* (as ``uname -m`` prints it) names.

    Raises:
        PlatformError: The specification has no name for it.
    """
    arch = _FROM_UNAME.get(machine) if system == "linux" else None
    if arch is None:
        raise PlatformError(
            f'the App Container specification has no name for a "{machine}" machine running {system}',
            rule="MAN-12",
        )
    return {"os": system, "arch": arch}


def from_go(system: str, machine: str, variant: str = "") -> dict[str, str]:
    """Labels from the names that Go and Docker use (MAN-15), such as ``linux``, ``arm``, ``7``.

    Args:
        system: ``GOOS``.
        machine: ``GOARCH``.
        variant: ``GOARM``; ``7`` or Docker's ``v7``.

    Raises:
        PlatformError: There is no counterpart.
    """
    number = variant.removeprefix("v")
    if system == "freebsd" and machine == "arm":
        return {"os": system, "arch": "arm"}
    if machine == "arm64":
        number = ""  # Docker writes v8, which says nothing
    arch = _FROM_GO.get((system, machine, number))
    if arch is None:
        name = "/".join(part for part in (system, machine, variant) if part)
        raise PlatformError(f'no App Container os and arch correspond to "{name}"', rule="MAN-15")
    return {"os": system, "arch": arch}


def check_labels(labels: Mapping[str, str]) -> None:
    """Check the ``os`` and ``arch`` of *labels* against the table (MAN-11, MAN-12, MAN-13).

    An ``arch`` without ``os`` says nothing and passes.

    Raises:
        PlatformError: An unknown os, or an arch that it does not have; the hint gives the right spelling.
    """
    system = labels.get("os")
    if system is None:
        return
    known = PLATFORMS.get(system)
    if known is None:
        raise PlatformError(
            f'os "{system}" is not one of {", ".join(PLATFORMS)}',
            hint="os names are lower-case",
            rule="MAN-12",
        )
    arch = labels.get("arch")
    if arch is None or arch in known:
        return
    right = _FROM_GO.get((system, arch, ""))
    if right is None and system == "linux":
        right = _FROM_UNAME.get(arch)
    raise PlatformError(
        f'arch "{arch}" is not one of those of {system}: {", ".join(known)}',
        hint=f'"{arch}" is called "{right}" here' if right else "",
        rule="MAN-12,MAN-13",
    )


def fits_host(labels: Mapping[str, str], host: Mapping[str, str]) -> bool:
    """Whether an image with *labels* can run on a machine with the labels *host* (EXE-33).

    Missing labels mean independence; an ``arch`` without ``os`` says nothing (MAN-11).
    """
    system = labels.get("os")
    if system is None:
        return True
    if system != host.get("os"):
        return False
    arch = labels.get("arch")
    own = host.get("arch", "")
    return arch is None or arch == own or arch in _ALSO_RUNS.get(own, ())
