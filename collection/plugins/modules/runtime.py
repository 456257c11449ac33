#!/usr/bin/python
# Copyright (c) The Gantry authors
# SPDX-License-Identifier: Apache-2.0
"""Ansible module: install a release of the runtime and switch to it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: runtime
short_description: Install a release of the gantry runtime and switch to it
version_added: 0.1.0
description:
  - Checks an archive that the control node has built, unpacks it beside the releases that are there, compiles it with
    the host's own Python, tries it, and only then switches to it by one atomic rename.
  - Whatever fails before the switch leaves the host as it was. Running pods are never touched.
  - Creates the directories that the runtime needs.
  - The role P(appc.gantry.runtime#role) builds and sends the archive and then calls this module.
extends_documentation_fragment:
  - appc.gantry._attributes
options:
  release:
    description:
      - Name of the release, which the builder of the archive made from its content.
    type: str
    required: true
  archive:
    description:
      - The archive, on the host. Needed when the release is not installed. It is removed once it is.
    type: path
  sha256:
    description:
      - What the archive must hash to.
    type: str
  keep:
    description:
      - How many releases to keep. The one in use, and those that a living process was started from, always stay.
    type: int
    default: 3
  command:
    description:
      - Where the command is put on the path, as a link.
    type: path
    default: /usr/local/bin/gantry
author:
  - The Gantry authors (!UNKNOWN)
seealso:
  - module: appc.gantry.runtime_info
"""

EXAMPLES = r"""
- name: Use a release that has been sent to the host
  appc.gantry.runtime:
    release: 0.1.0-3f2a9c41d0be
    archive: /var/cache/gantry-runtime.tar.gz
    sha256: 0f1c2d52ee3a4f2b1a0b7a3c2c27fd3a0e1bb6c4b0d7b2a55f9c9c0a4a1f6c3e

- name: Go back to one that is still there
  appc.gantry.runtime:
    release: 0.1.0-925565a805bf
"""

RETURN = r"""
release:
  description: The release in use after the run.
  returned: success
  type: str
previous:
  description: The release in use before it, or nothing.
  returned: success
  type: str
removed:
  description: Releases that were removed.
  returned: success
  type: list
  elements: str
actions:
  description: What was done, or would be done in check mode.
  returned: success
  type: list
  elements: str
"""

import os

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.appc.gantry.plugins.module_utils._host import Plan, Step, StepError
from ansible_collections.appc.gantry.plugins.module_utils._runtime import Releases, layout


def main():
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "release": {"type": "str", "required": True},
            "archive": {"type": "path"},
            "sha256": {"type": "str"},
            "keep": {"type": "int", "default": 3},
            "command": {"type": "path", "default": "/usr/local/bin/gantry"},
        },
        required_together=[("archive", "sha256")],
        supports_check_mode=True,
    )
    try:
        converge(module)
    except StepError as error:
        module.fail_json(msg=str(error))


def converge(module):
    """Plan, then act unless in check mode, and exit.

    Raises:
        StepError: Nothing can be or could be done; before the switch, nothing was changed.
    """
    params = module.params
    releases = Releases(module)
    name, previous = params["release"], releases.current()
    installed = name in releases.installed()
    if not installed and not params["archive"]:
        raise StepError("release %s is not installed on this host, and no archive is given" % name)

    plan = Plan()
    layout(plan)
    plan.add(
        Step(
            "release %s" % name,
            "installed" if installed else "",
            "installed",
            lambda: releases.install(name, params["archive"], params["sha256"]),
        )
    )
    plan.steps += releases.switch_plan(name, params["command"]).steps

    removed = []
    if not module.check_mode:
        plan.run()
        if not installed:
            # Nobody needs it any more; the next host gets its own copy.
            os.unlink(params["archive"])
        removed = releases.prune(params["keep"])
    result = {
        "changed": plan.changed or bool(removed),
        "release": name,
        "previous": previous or "",
        "removed": removed,
        "actions": plan.actions() + ["remove release %s" % r for r in removed],
    }
    if module._diff:
        result["diff"] = plan.diff()
    module.exit_json(**result)


if __name__ == "__main__":
    main()
