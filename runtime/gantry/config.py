"""Where Gantry keeps things on a host.

What is below ``system`` and ``local`` is layered, local over system. Rooms never look paths up on their own:
they are handed a :class:`Paths`, so that every test can live in a directory of its own.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from gantry.errors import UsageError

DEFAULT_DATA = "/var/lib/gantry"
DEFAULT_RUN = "/run/gantry"
DEFAULT_SYSTEM = "/usr/lib/gantry"
DEFAULT_LOCAL = "/etc/gantry"


class Paths(NamedTuple):
    """The directories of one installation; all absolute.

    Attributes:
        data: Images, pods, releases, the audit record: everything that must survive a reboot.
        run: Sockets, namespaces, addresses: everything that must not.
        system: The vendor's keys.
        local: The administrator's keys; beats ``system``.
    """

    data: str = DEFAULT_DATA
    run: str = DEFAULT_RUN
    system: str = DEFAULT_SYSTEM
    local: str = DEFAULT_LOCAL

    @classmethod
    def make(
        cls,
        *,
        data: str = DEFAULT_DATA,
        run: str = DEFAULT_RUN,
        system: str = DEFAULT_SYSTEM,
        local: str = DEFAULT_LOCAL,
    ) -> Paths:
        """Build from what a user typed: made absolute, links resolved; need not exist.

        Raises:
            UsageError: A path is empty.
        """
        given = {"data": data, "run": run, "system": system, "local": local}
        for name, path in given.items():
            if not path:
                raise UsageError(f'"" is not a valid {name} directory', hint="give a path")
        absolute = {name: os.path.realpath(path) for name, path in given.items()}
        return cls(**absolute)
