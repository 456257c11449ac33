#!/usr/bin/python
# Copyright (c) The Gantry authors
# SPDX-License-Identifier: Apache-2.0
"""Ansible module: have several directories, files and links on a host in one call."""

from __future__ import annotations

DOCUMENTATION = r"""
module: files
short_description: Have several directories, files and links on a host in one call
version_added: 0.1.0
description:
  - Does what a row of tasks with M(ansible.builtin.file) and M(ansible.builtin.copy) would do, in one call.
  - Works in check mode on a host where neither the directories nor the users exist yet.
  - What a file says is shown nowhere, not in differences, results or logs, because some of these files are keys.
extends_documentation_fragment:
  - appc.gantry._attributes
options:
  directories:
    description:
      - Directories. Parents are created, for root and with mode V(0755).
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: Absolute path.
        type: path
        required: true
      mode:
        description: Octal mode.
        type: str
        default: "0755"
      owner:
        description: Name of the owner.
        type: str
        default: root
      group:
        description: Name of the group.
        type: str
        default: root
  files:
    description:
      - Files. Their directories are created.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: Absolute path.
        type: path
        required: true
      content:
        description: What the file says; the file is removed when it is not set.
        type: str
      mode:
        description: Octal mode.
        type: str
        default: "0644"
      owner:
        description: Name of the owner.
        type: str
        default: root
      group:
        description: Name of the group.
        type: str
        default: root
  links:
    description:
      - Symbolic links.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: Absolute path.
        type: path
        required: true
      target:
        description: What the link says.
        type: str
        required: true
author:
  - The Gantry authors (!UNKNOWN)
"""

EXAMPLES = r"""
- name: Certificate and key of a web server
  appc.gantry.files:
    files:
      - path: /etc/ssl/images.pem
        content: "{{ certificate }}"
      - path: /etc/ssl/private/images.pem
        content: "{{ key }}"
        mode: "0600"
"""

RETURN = r"""
actions:
  description: What was done, or would be done in check mode.
  returned: success
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.appc.gantry.plugins.module_utils._host import Plan, StepError, directory, file, link

OWNERS = {"owner": {"type": "str", "default": "root"}, "group": {"type": "str", "default": "root"}}
PATH = {"type": "path", "required": True}
OPTIONS = {
    "directories": {"path": PATH, "mode": {"type": "str", "default": "0755"}, **OWNERS},
    "files": {"path": PATH, "content": {"type": "str"}, "mode": {"type": "str", "default": "0644"}, **OWNERS},
    "links": {"path": PATH, "target": {"type": "str", "required": True}},
}


class FilesModule(AnsibleModule):
    """A module whose arguments are in no log and no result: Ansible's no_log would garble every result instead."""

    def _log_invocation(self):
        """Say in the host's journal that the module ran, and nothing of its arguments."""
        self.log("Invoked; arguments are not logged because they may hold keys")

    def _return_formatted(self, kwargs):
        """Show arguments without what files say."""
        shown = dict(self.params)
        shown["files"] = [{**entry, "content": "********"} for entry in self.params.get("files") or [] if isinstance(entry, dict)]
        kwargs.setdefault("invocation", {"module_args": shown})
        super()._return_formatted(kwargs)


def main():
    """Entry point."""
    module = FilesModule(
        argument_spec={
            name: {"type": "list", "elements": "dict", "default": [], "options": options} for name, options in OPTIONS.items()
        },
        supports_check_mode=True,
    )
    try:
        plan = Plan()
        for entry in module.params["directories"]:
            plan.add(directory(entry["path"], octal(entry), entry["owner"], entry["group"]))
        for entry in module.params["files"]:
            plan.add(file(entry["path"], entry["content"], octal(entry), entry["owner"], entry["group"]))
        for entry in module.params["links"]:
            plan.add(link(entry["path"], entry["target"]))
        if not module.check_mode:
            plan.run()
    except StepError as error:
        module.fail_json(msg=str(error))
    result = {"changed": plan.changed, "actions": plan.actions()}
    if module._diff:
        result["diff"] = plan.diff()
    module.exit_json(**result)


def octal(entry):
    """The mode of *entry* as a number.

    Raises:
        StepError: It is not octal.
    """
    try:
        return int(entry["mode"], 8)
    except ValueError as error:
        raise StepError("%s: the mode %s is not octal" % (entry["path"], entry["mode"])) from error


if __name__ == "__main__":
    main()
