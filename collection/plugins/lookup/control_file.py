# Copyright (c) The Gantry authors
# SPDX-License-Identifier: Apache-2.0
"""Ansible lookup: where on the control node a file is that a variable names."""

from __future__ import annotations

DOCUMENTATION = r"""
name: control_file
short_description: Path of a file on the control node that a variable names
version_added: 0.1.0
description:
  - Finds a file by a name that may be relative. It is looked for beside the inventory (each of them), then in the
    current directory, then beside the playbook; the first that is there counts.
  - The roles find every file that one of their variables names in this way. Ansible's own lookup would look for it inside the
    collection when the playbook is one of the collection's.
options:
  _terms:
    description:
      - Names of files.
    type: list
    elements: str
  problems:
    description:
      - Return a line for each name that leads to no file, instead of paths, and do not fail.
    type: bool
    default: false
author:
  - The Gantry authors (!UNKNOWN)
"""

EXAMPLES = r"""
- name: A file beside the inventory becomes a file of an image
  ansible.builtin.set_fact:
    shop_files:
      - path: /etc/shop.conf
        content: "{{ lookup('ansible.builtin.file', lookup('appc.gantry.control_file', 'files/shop.conf'), rstrip=false) }}"
"""

RETURN = r"""
_raw:
  description:
    - Absolute paths, or lines that say what was not found where.
  type: list
  elements: str
"""

import os

from ansible.errors import AnsibleLookupError
from ansible.plugins.lookup import LookupBase


def places(name, variables):
    """Where the file *name* may be, the first choice first."""
    name = os.path.expanduser(str(name))
    # PWD keeps the way that the user came by; the current directory has symbolic links resolved.
    # inventory_dir is the first inventory's that has the host; the variable may come from another one.
    sources = [str(source) for source in variables.get("ansible_inventory_sources") or []]
    others = [path if os.path.isdir(path) else os.path.dirname(path) for path in sources if os.path.exists(path)]
    current = os.environ.get("PWD") or os.getcwd()
    directories = [variables.get("inventory_dir"), *others, current, variables.get("playbook_dir")]
    # An absolute name is the same from everywhere.
    return list(dict.fromkeys(os.path.join(str(directory), name) for directory in directories if directory))


class LookupModule(LookupBase):
    """See DOCUMENTATION."""

    def run(self, terms, variables=None, **kwargs):
        """The paths, or the problems."""
        self.set_options(var_options=variables, direct=kwargs)
        found, problems = [], []
        for name in terms:
            candidates = places(name, variables or {})
            there = [path for path in candidates if os.path.isfile(path)]
            found.extend(there[:1])
            if not there:
                problems.append("there is no file %s (looked for: %s)" % (name, ", ".join(candidates)))
        if self.get_option("problems"):
            return problems
        if problems:
            raise AnsibleLookupError("; ".join(problems))
        return found
