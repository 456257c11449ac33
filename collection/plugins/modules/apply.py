#!/usr/bin/python
# Copyright (c) The Gantry authors
# SPDX-License-Identifier: Apache-2.0
"""Ansible module: converge keys, images and pods of a host in one call."""

from __future__ import annotations

DOCUMENTATION = r"""
module: apply
short_description: Converge trust keys, images and pods of a host in one call
version_added: 0.1.0
description:
  - Takes the wanted state of a host, or of the part of it that belongs to a named set, and makes it so.
  - The runtime plans first, then acts; what is as it should be is left alone, and then no network connection is opened.
  - Fifty pods are one task and one process on the host. Use this module rather than a loop over M(appc.gantry.pod).
  - The document travels on standard input and appears in no process list.
extends_documentation_fragment:
  - appc.gantry._gantry
  - appc.gantry._attributes
  - appc.gantry._attributes.actiongroup
options:
  set:
    description:
      - Name of the set that what is listed here belongs to.
      - Needed for O(prune), which removes only what its own set made.
    type: str
  trust:
    description:
      - Signing keys that are trusted, or no longer trusted. Keys of each entry are the options of M(appc.gantry.trust).
    type: list
    elements: dict
  images:
    description:
      - Images that should be in the store, or not. Keys of each entry are the options of M(appc.gantry.image).
    type: list
    elements: dict
  pods:
    description:
      - Named pods. Keys of each entry are the options of M(appc.gantry.pod).
    type: list
    elements: dict
  prune:
    description:
      - Remove what the set made in an earlier run and does not list any more.
    type: bool
    default: false
author:
  - The Gantry authors (!UNKNOWN)
seealso:
  - module: appc.gantry.pod
  - module: appc.gantry.image
  - module: appc.gantry.trust
  - module: appc.gantry.pod_info
"""

EXAMPLES = r"""
- name: One pod, its image and the key that signed it
  appc.gantry.apply:
    set: shop
    prune: true
    trust:
      - prefix: example.com/shop
        fingerprint: 9E8F4A10C5D2B3761CA2D7D1B5F0C3A4E6978812
        key: "{{ lookup('ansible.builtin.file', 'keys/shop.asc') }}"
    pods:
      - name: web
        apps:
          - name: web
            image: example.com/shop:1.4
            environment:
              DATABASE: "{{ shop_database }}"
        ports:
          - name: http
            host_port: 8080

- name: What would a new version change? (with --check --diff)
  appc.gantry.apply:
    pods: "{{ shop_pods }}"
"""

RETURN = r"""
actions:
  description:
    - What was done, or would be done in check mode, one entry for each thing, unchanged ones included.
  returned: always
  type: list
  elements: dict
  contains:
    kind:
      description: V(trust), V(image) or V(pod).
      type: str
      returned: always
    name:
      description: Name of the thing.
      type: str
      returned: always
    action:
      description: What was done to it, in a word.
      type: str
      returned: always
    changed:
      description: Whether that changed anything.
      type: bool
      returned: always
    detail:
      description: More about it, in words or as an object.
      type: raw
      returned: when there is more to say
    error:
      description: What went wrong with it, with C(code), C(message), C(hint), and all of it as one line in C(msg).
      type: dict
      returned: when it failed
  sample:
    - kind: pod
      name: web
      action: update
      changed: true
code:
  description:
    - Stable name of what went wrong, for use in conditions, such as V(unsigned), V(bad-signature) or V(untrusted-for-name).
  returned: on failure
  type: str
  sample: bad-signature
"""

from ansible_collections.appc.gantry.plugins.module_utils._gantry import GantryModule, without_unset


def main():
    """Entry point."""
    module = GantryModule(
        {
            "set": {"type": "str"},
            "trust": {"type": "list", "elements": "dict", "no_log": False},
            "images": {"type": "list", "elements": "dict"},
            "pods": {"type": "list", "elements": "dict"},
            "prune": {"type": "bool", "default": False},
        },
        required_if=[("prune", True, ["set"])],
    )
    names = ("set", "trust", "images", "pods", "prune")
    module.converge(without_unset({name: module.params[name] for name in names}))


if __name__ == "__main__":
    main()
