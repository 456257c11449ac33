#!/usr/bin/python
# Copyright (c) The Gantry authors
# SPDX-License-Identifier: Apache-2.0
"""Ansible module: trust, or stop trusting, a key that signs images."""

from __future__ import annotations

DOCUMENTATION = r"""
module: trust
short_description: Trust, or stop trusting, a key that signs images
version_added: 0.1.0
description:
  - Adds an OpenPGP certificate to the host's key store, for names below a prefix or for all names, or removes it.
  - A certificate that is already there is merged with the given one, so that renewed expiry dates and revocations arrive.
extends_documentation_fragment:
  - appc.gantry._gantry
  - appc.gantry._attributes
  - appc.gantry._attributes.actiongroup
options:
  prefix:
    description:
      - Names that the key may sign, such as V(example.com/shop). It ends at a path boundary,
        so this says nothing of V(example.com/shopping).
      - Exactly one of O(prefix) and O(root) is needed.
    type: str
  root:
    description:
      - Trust the key for every name.
    type: bool
    default: false
  fingerprint:
    description:
      - Fingerprint of the key in hexadecimal; spaces are allowed. A key with another fingerprint is refused.
    type: str
    required: true
  key:
    description:
      - The certificate, ASCII-armored. Needed for O(state=present).
    type: str
  state:
    description:
      - V(present) trusts the key, V(absent) removes it from this prefix.
    type: str
    choices: [present, absent]
    default: present
author:
  - The Gantry authors (!UNKNOWN)
seealso:
  - module: appc.gantry.apply
"""

EXAMPLES = r"""
- name: Trust the shop's key for the shop's images
  appc.gantry.trust:
    prefix: example.com/shop
    fingerprint: 9E8F4A10C5D2B3761CA2D7D1B5F0C3A4E6978812
    key: "{{ lookup('ansible.builtin.file', 'keys/shop.asc') }}"

- name: Trust it no more
  appc.gantry.trust:
    prefix: example.com/shop
    fingerprint: 9E8F4A10C5D2B3761CA2D7D1B5F0C3A4E6978812
    state: absent
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
            "prefix": {"type": "str"},
            "root": {"type": "bool", "default": False},
            "fingerprint": {"type": "str", "required": True},
            "key": {"type": "str", "no_log": False},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        required_if=[("state", "present", ["key"]), ("root", False, ["prefix"])],
    )
    names = ("prefix", "fingerprint", "key", "state")
    entry = {name: module.params[name] for name in names}
    if module.params["root"]:
        if module.params["prefix"]:
            module.fail_json(msg="prefix and root exclude each other: root trusts the key for every name", code="usage")
        entry["root"] = True
    module.converge({"trust": [without_unset(entry)]})


if __name__ == "__main__":
    main()
