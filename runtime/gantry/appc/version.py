"""Versions of the specification in manifests (TYP-10 ... TYP-15, POD-09)."""

from __future__ import annotations

import re
from typing import NamedTuple

from gantry import APPC_VERSION
from gantry.appc.errors import AppcError

_LOOSE = re.compile(r"([0-9]{1,19})\.([0-9]{1,19})\.([0-9]{1,19})(?:-([^+]*))?(?:\+(.*))?", re.DOTALL)
_STRICT = re.compile(
    r"(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)"
    r"(?:-((?:0|[1-9][0-9]*|[0-9]*[A-Za-z-][0-9A-Za-z-]*)(?:\.(?:0|[1-9][0-9]*|[0-9]*[A-Za-z-][0-9A-Za-z-]*))*))?"
    r"(?:\+([0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?"
)


class VersionError(AppcError):
    """An ``acVersion`` is malformed, or of a series that this implementation cannot read."""

    code = "ac-version"


class AcVersion(NamedTuple):
    """A version of the specification; compare :attr:`release`, never the text (TRAP-04).

    Attributes:
        major: Series. 0.1.0 ... 0.8.11 are one series.
        minor: Second number.
        patch: Third number.
        text: As it was written, pre-release and build parts included.
    """

    major: int
    minor: int
    patch: int
    text: str

    @property
    def release(self) -> tuple[int, int, int]:
        """The three numbers; pre-release and build parts play no role (TYP-15)."""
        return self.major, self.minor, self.patch

    @property
    def newer_than_ours(self) -> bool:
        """Whether it is above the version that Gantry complies with."""
        return self.release > parse(APPC_VERSION).release


def parse(text: str, *, strict: bool = False) -> AcVersion:
    """Read a version.

    Args:
        text: Such as ``0.8.11`` or ``0.8.11+git``.
        strict: Strict SemVer 2.0.0, for what we write; else as loose as the specification's code (TYP-12).

    Raises:
        VersionError: Another form, or ``0.0.0`` (TYP-11).
    """
    match = (_STRICT if strict else _LOOSE).fullmatch(text) if len(text) <= 256 else None
    if match is None:
        raise VersionError(
            f'acVersion "{text[:80]}" is not a version of the form MAJOR.MINOR.PATCH', rule="TYP-10"
        )
    major, minor, patch = (int(part) for part in match.group(1, 2, 3))
    if not (major or minor or patch or match.group(4) or match.group(5)):
        raise VersionError("acVersion is the zero version 0.0.0", hint=f"write {APPC_VERSION}", rule="TYP-11")
    return AcVersion(major, minor, patch, text)


def check_readable(version: AcVersion) -> None:
    """Refuse an image manifest of another major series (TYP-13, TYP-14).

    Raises:
        VersionError: The series is not ours.
    """
    if version.major != parse(APPC_VERSION).major:
        raise VersionError(
            f"acVersion {version.text} is of another series than {APPC_VERSION}",
            hint="a newer Gantry may be able to read it",
            rule="TYP-14",
        )
