#!/usr/bin/python
# Copyright (c) The Gantry authors
# SPDX-License-Identifier: Apache-2.0
"""Ansible module: have a verified image in the host's store, or not."""

from __future__ import annotations

DOCUMENTATION = r"""
module: image
short_description: Have a verified image in the host's store, or not
version_added: 0.1.0
description:
  - Discovers, fetches, verifies and stores an App Container image, or removes it.
  - Nothing is stored that is not signed by a key that the host trusts for the image's name.
extends_documentation_fragment:
  - appc.gantry._gantry
  - appc.gantry._attributes
  - appc.gantry._attributes.actiongroup
options:
  name:
    description:
      - The image as C(NAME[:VERSION][,LABEL=VALUE]...), an HTTPS URL, or an image ID.
    type: str
    required: true
  state:
    description:
      - V(present) has the image in the store, V(absent) removes it.
    type: str
    choices: [present, absent]
    default: present
  pull:
    description:
      - V(new) fetches only what is not in the store, and opens no connection when it is.
      - V(update) asks the server whether there is a newer one under the same name.
      - V(never) opens no connection.
    type: str
    choices: [new, update, never]
    default: new
author:
  - The Gantry authors (!UNKNOWN)
seealso:
  - module: appc.gantry.apply
"""

EXAMPLES = r"""
- name: Stage the next version before the maintenance window
  appc.gantry.image:
    name: example.com/shop:1.5

- name: Remove the old one
  appc.gantry.image:
    name: example.com/shop:1.3
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
    id:
      description: The image ID.
      type: str
      returned: when the image is there
    verification:
      description:
        - Who signed the image - C(signer) (the very key), C(key) (its certificate), C(user_ids), the C(prefix) that it is
          trusted for, C(signed_at) - and C(verified_at), when that was judged on this host. V(null) if nobody looked.
      type: dict
      returned: when the image is there
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
            "name": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "pull": {"type": "str", "choices": ["new", "update", "never"], "default": "new"},
        }
    )
    names = ("name", "state", "pull")
    module.converge({"images": [without_unset({name: module.params[name] for name in names})]})


if __name__ == "__main__":
    main()
