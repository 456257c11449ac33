#!/usr/bin/python
# Copyright (c) The Gantry authors
# SPDX-License-Identifier: Apache-2.0
"""Ansible module: tell which pods are on a host and in which state."""

from __future__ import annotations

DOCUMENTATION = r"""
module: pod_info
short_description: Tell which pods are on a host and in which state
version_added: 0.1.0
description:
  - Lists pods and, for each, its apps, addresses, exit statuses and image IDs.
  - Works on a host without the runtime too, and then says so.
extends_documentation_fragment:
  - appc.gantry._attributes.info
  - appc.gantry._attributes.actiongroup
options:
  name:
    description:
      - Only the pod of this name, or whose UUID begins like this.
    type: str
  gantry_command:
    description:
      - Path of the C(gantry) command on the host.
    type: path
    default: /opt/gantry/current/bin/gantry
author:
  - The Gantry authors (!UNKNOWN)
seealso:
  - module: appc.gantry.pod
"""

EXAMPLES = r"""
- name: What runs here?
  appc.gantry.pod_info:
  register: here

- name: The web pod's address
  ansible.builtin.debug:
    msg: "{{ (here.pods | selectattr('pod_name', 'equalto', 'web') | first).networks }}"
"""

RETURN = r"""
installed:
  description:
    - Whether the runtime is on the host.
  returned: success
  type: bool
pods:
  description:
    - The pods, in the form of C(gantry list --format=json). Of every app C(verification) says who signed its image, when, and
      when this host verified that.
  returned: success
  type: list
  elements: dict
  sample:
    - name: 5d0cbea3-9d77-4ac3-b44e-ab2e9c8d1f63
      pod_name: web
      state: running
code:
  description:
    - Stable name of what went wrong.
  returned: on failure
  type: str
"""

from ansible_collections.appc.gantry.plugins.module_utils._gantry import COMMAND, GantryModule


def main():
    """Entry point."""
    module = GantryModule({"name": {"type": "str"}}, shared={"gantry_command": {"type": "path", "default": COMMAND}})
    if not module.installed:
        module.exit_json(changed=False, installed=False, pods=[])
    answer = module.ask([module.command, "list", "--format=json"])
    if isinstance(answer, dict):
        module.refuse(answer["error"])
    wanted = module.params["name"]
    pods = [pod for pod in answer if not wanted or matches(pod, wanted)]
    module.exit_json(changed=False, installed=True, pods=pods)


def matches(pod, wanted):
    """Whether *pod* is called *wanted*, or its UUID begins like that."""
    uuid = str(pod.get("uuid") or pod.get("name") or "")
    return pod.get("pod_name") == wanted or uuid.startswith(wanted.lower())


if __name__ == "__main__":
    main()
