"""What every isolation flavor can do: the interface, version 7 (rkt's ended at 6)."""

from __future__ import annotations

from typing import Protocol

INTERFACE_VERSION = 7


class Flavor(Protocol):
    """A flavor of isolation, over one pod.

    The pod's namespaces exist, its file systems are mounted in the caller's mount namespace, and the caller
    is the one to whom orphaned processes fall.
    """

    name: str

    def start(self, app: str, bundle: str) -> int:
        """Start an app from *bundle* and return as soon as it runs: its process number, as the host counts.

        Raises:
            HostError: It could not be started.
        """

    def run(self, name: str, bundle: str) -> int:
        """Run a program from *bundle* to its end, in the place of the app: its exit status.

        Raises:
            HostError: It could not be started.
        """
