"""Which flavor a pod gets, and what that leaves of its isolators; decided at prepare."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from gantry.errors import NotFoundError, UsageError
from gantry.stage1 import external
from gantry.stage1.isolators import Verdict
from gantry.stage1.oci import choose as choose_runtime

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gantry.config import Paths
    from gantry.linux.cgroups import Layout

_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
BUILT_IN = ("oci", "fly")


class Choice(NamedTuple):
    """A flavor.

    Attributes:
        name: As the plan will say.
        runtime: A program, or the directory of somebody else's flavor.
        enforces: Names of the isolators that it enforces; ``None``: all that Gantry knows.
    """

    name: str
    runtime: str
    enforces: frozenset[str] | None

    def judged(self, verdicts: Iterable[Verdict]) -> list[Verdict]:
        """*verdicts*, with those as ignored that this flavor does not enforce."""
        if self.enforces is None:
            return list(verdicts)
        return [
            each
            if each.name in self.enforces or each.status == "ignored"
            else Verdict(each.scope, each.name, "ignored", f"the flavor {self.name} does not enforce it")
            for each in verdicts
        ]


def choose(paths: Paths, name: str, layout: Layout) -> Choice:
    """The flavor called *name*.

    Raises:
        UsageError: It is no name.
        GantryError: It is not installed here, or not as it should be.
    """
    if name == "oci":
        return Choice(name, choose_runtime(layout), None)
    if name == "fly":
        return Choice(name, "", frozenset())  # it is part of the launcher
    directory, told = installed(paths, name)
    return Choice(name, directory, frozenset(told["enforces"]))


def installed(paths: Paths, name: str) -> tuple[str, dict[str, Any]]:
    """The directory and the checked file of a flavor that is not built in.

    Raises:
        UsageError: It is no name.
        GantryError: It is not installed here, or not as it should be.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(f'"{name}" is no name of a flavor', hint="such as oci, fly")
    for top in (paths.local, paths.system):
        directory = f"{top}/{external.PLACE}/{name}"
        if os.path.isdir(directory):
            return directory, external.read(directory)
    raise NotFoundError(
        f'there is no flavor "{name}"',
        hint=f"oci and fly are built in; others lie in {paths.local}/{external.PLACE}",
    )
