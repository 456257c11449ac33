"""Checks of provisioned hosts with testinfra. They need a fleet that a playbook has converged.

    python -m demo --infra build/junit/infra.xml        (make test)
    molecule verify -s vms                              (make test-vm)

Both set GANTRY_FLEET to the fleet's state directory and pass --ssh-config. Without it nothing is collected.
"""

from __future__ import annotations

import os

import pytest
from testinfra.host import Host
from tests.infra.nodes import Node, the_fleet

if "GANTRY_FLEET" not in os.environ:
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture
def node(host: Host) -> Node:
    """Each of the hosts that the module names in ``testinfra_hosts``."""
    return Node(host, the_fleet())
