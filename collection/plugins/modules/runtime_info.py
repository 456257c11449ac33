#!/usr/bin/python
# Copyright (c) The Gantry authors
# SPDX-License-Identifier: Apache-2.0
"""Ansible module: tell whether a host can carry the runtime, and what of it is there."""

from __future__ import annotations

DOCUMENTATION = r"""
module: runtime_info
short_description: Tell whether a host can carry the gantry runtime, and what of it is there
version_added: 0.1.0
description:
  - Looks at everything that the role P(appc.gantry.runtime#role) needs to know, in one call,
    so that a run that changes nothing costs one task on the host.
  - Never fails because of what it finds; reasons against this host are in RV(problems).
extends_documentation_fragment:
  - appc.gantry._attributes.info
options:
  python:
    description:
      - Path of the interpreter to use; the system's own when it is new enough, or a newer one beside it, when not set.
    type: path
  packages:
    description:
      - Debian packages that should be installed. C(a | b) is content with either.
    type: list
    elements: str
    default: []
  command:
    description:
      - Where the command should be on the path, as a link.
    type: path
    default: /usr/local/bin/gantry
author:
  - The Gantry authors (!UNKNOWN)
seealso:
  - module: appc.gantry.runtime
"""

EXAMPLES = r"""
- name: Which release is in use?
  appc.gantry.runtime_info:
  register: host

- name: Show it
  ansible.builtin.debug:
    msg: "{{ host.current | default('none', true) }} of {{ host.releases }}"
"""

RETURN = r"""
current:
  description: The release in use, or nothing.
  returned: always
  type: str
  sample: 0.1.0-3f2a9c41d0be
releases:
  description: The installed releases, oldest first.
  returned: always
  type: list
  elements: str
python:
  description: Version of the interpreter that the runtime would use, or nothing.
  returned: always
  type: str
  sample: "3.13"
interpreter:
  description: Its absolute path.
  returned: always
  type: str
  sample: /usr/bin/python3.13
arch:
  description: The machine's architecture as C(uname -m) prints it.
  returned: always
  type: str
  sample: x86_64
kind:
  description: Architecture, version and interpreter in one string; hosts of one kind take the same archive.
  returned: always
  type: str
  sample: x86_64 3.13=/usr/bin/python3.13
problems:
  description: Why the runtime cannot be installed here, one sentence each.
  returned: always
  type: list
  elements: str
missing_packages:
  description: Packages of O(packages) that are not installed; of alternatives, the first.
  returned: always
  type: list
  elements: str
pending:
  description: Directories, files and links that are not as they should be.
  returned: always
  type: list
  elements: str
"""

import os
import platform
import sys

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.appc.gantry.plugins.module_utils._host import Plan, StepError, link
from ansible_collections.appc.gantry.plugins.module_utils._runtime import (
    MACHINES,
    ROOT,
    Releases,
    find_python,
    layout,
    missing_packages,
)


def main():
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "python": {"type": "path"},
            "packages": {"type": "list", "elements": "str", "default": []},
            "command": {"type": "path", "default": "/usr/local/bin/gantry"},
        },
        supports_check_mode=True,
    )
    releases = Releases(module)
    interpreter, version = find_python(module, module.params["python"])
    plan = Plan()
    found = problems(interpreter, version)
    layout(plan)
    try:
        plan.add(link(module.params["command"], os.path.join(ROOT, "current", "bin", "gantry")))
    except StepError as error:
        found.append(str(error))
    module.exit_json(
        changed=False,
        current=releases.current() or "",
        releases=releases.installed(),
        python=version if interpreter else "",
        interpreter=interpreter or "",
        arch=platform.machine(),
        kind="%s %s=%s" % (platform.machine(), version, interpreter) if interpreter else "",
        problems=found,
        missing_packages=missing_packages(module, module.params["packages"]),
        pending=plan.actions(),
    )


def problems(interpreter, version):
    """Sentences that say why this host cannot carry the runtime."""
    found = []
    if not sys.platform.startswith("linux"):
        found.append("the system is %s; Linux is needed" % sys.platform)
    if platform.machine() not in MACHINES:
        found.append("the machine is %s; supported are %s" % (platform.machine(), " and ".join(MACHINES)))
    if interpreter is None:
        found.append("Python 3.11, 3.12 or 3.13 is needed; found: %s" % version)
    if os.geteuid() != 0:
        found.append("root is needed; use become")
    return found


if __name__ == "__main__":
    main()
