"""What the engine needs of others: the rooms beneath and systemd. Tests stand in for both."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

from gantry.errors import GantryError
from gantry.releases.decide import Decision
from gantry.releases.spec import PodSpec
from gantry.releases.store import Release


class ReleaseError(GantryError):
    """A release did not come up; what ran before runs again."""

    code = "release-failed"


class Backend(Protocol):
    """What the engine needs of the rooms beneath; a test can stand in for them."""

    def find(self, image: str) -> str | None:
        """The image ID of *image* in the store, without any network; ``None`` when it is not there."""

    def resolve(self, image: str, pull: str) -> str:
        """The image ID of *image*, fetched if the policy says so. Raises GantryError."""

    def prepare(self, spec: PodSpec, images: Mapping[str, str]) -> str:
        """Prepare a restartable pod; its UUID. Raises GantryError."""

    def pod_there(self, uuid: str) -> bool:
        """Whether the pod is prepared or runs."""

    def pods_of(self, name: str) -> list[str]:
        """UUIDs of every pod, in whatever state, that was prepared for the named pod."""

    def remove_pod(self, uuid: str) -> None:
        """Remove a pod whose unit does not run, and end what is left of it; one that is gone is fine.

        Raises GantryError.
        """

    def pin(self, name: str, images: Iterable[str]) -> None:
        """Keep exactly these images for the named pod."""


class Manager(Protocol):
    """What the engine needs of :class:`gantry.systemd.Manager`."""

    def available(self) -> bool:
        """Whether systemd manages this host."""

    def daemon_reload(self) -> None:
        """Make systemd read changed units."""

    def start(self, unit: str) -> None:
        """Start a unit and wait. Raises GantryError."""

    def stop(self, unit: str) -> None:
        """Stop a unit and wait. Raises GantryError."""

    def reset_failed(self, unit: str) -> None:
        """Forget that a unit failed."""

    def show_many(self, units: Sequence[str], properties: Iterable[str]) -> dict[str, dict[str, str]]:
        """Properties of units."""

    def last_log_line(self, unit: str, since: float) -> str:
        """The newest line that it wrote since then, or nothing."""


class Outcome(NamedTuple):
    """What was done to a named pod.

    Attributes:
        decision: What it was.
        release: The release that should run now.
    """

    decision: Decision
    release: Release | None
