"""The errors of the test hosts: the project's own kind, so that one line reaches the user."""

from __future__ import annotations

from gantry.errors import GantryError


class HostsError(GantryError):
    """A fleet cannot be described, made, reached or removed."""

    code = "test-hosts"
