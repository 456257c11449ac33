# Copyright (c) The Gantry authors
# SPDX-License-Identifier: Apache-2.0
"""PRIVATE to the collection: options that all modules that speak to the runtime share."""

from __future__ import annotations


class ModuleDocFragment:
    """Shared options."""

    DOCUMENTATION = r"""
options:
  ca_file:
    description:
      - File on the host with the certificates (PEM) of the authorities that HTTPS servers are checked against.
      - The host's own authorities are used when it is not set.
    type: path
  insecure_options:
    description:
      - Checks to leave out. V(image) accepts images that nobody trusted has signed, V(tls) accepts servers that cannot
        prove who they are, V(http) accepts connections without encryption, V(downgrade) accepts an image that was signed
        earlier than the one that the host accepted of the same name.
      - Leaving one out is recorded with everything that was accepted because of it.
    type: list
    elements: str
    choices: [image, tls, http, downgrade]
    default: []
  gantry_command:
    description:
      - Path of the C(gantry) command on the host.
    type: path
    default: /opt/gantry/current/bin/gantry
requirements:
  - The gantry runtime on the host, which the role P(appc.gantry.runtime#role) installs.
"""
