#!/usr/bin/python
# Copyright (c) The Gantry authors
# SPDX-License-Identifier: Apache-2.0
"""Ansible module: have the runtime's own services installed and running."""

from __future__ import annotations

DOCUMENTATION = r"""
module: services
short_description: Have the services of the gantry runtime installed and running
version_added: 0.1.0
description:
  - Creates the users C(gantry-metadata) and C(gantry-signer) and the group C(gantry), installs the systemd units that the
    runtime in use brings, enables and starts them - the metadata service, the signer, the timer that regularly removes what
    exited pods and unused images have left behind, and the watch that takes in what members of the group have fetched.
  - A service that was started before the runtime or its unit changed is restarted. This is seen from times and
    not from what this run has done, so that a run that broke off in between is made good by the next one.
  - Pods stay registered, and their requests wait, while a service restarts.
extends_documentation_fragment:
  - appc.gantry._attributes
options: {}
author:
  - The Gantry authors (!UNKNOWN)
seealso:
  - module: appc.gantry.runtime
"""

EXAMPLES = r"""
- name: Metadata service, signer and the regular removal of leftovers
  appc.gantry.services:
"""

RETURN = r"""
units:
  description: The units that are enabled, with their state after the run.
  returned: success
  type: dict
  sample:
    gantry-signer.service: active
restarted:
  description: Units that were restarted, or would be in check mode.
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
from ansible_collections.appc.gantry.plugins.module_utils._host import (
    Plan,
    Step,
    StepError,
    file,
    group,
    read_text,
    user,
)
from ansible_collections.appc.gantry.plugins.module_utils._runtime import ROOT, Releases
from ansible_collections.appc.gantry.plugins.module_utils._units import Units

# The units name these users and the releases' directory, so they are no options.
USERS = ("gantry-metadata", "gantry-signer")
# Its members may fetch images without being root.
GROUP = "gantry"
UNITS = "/etc/systemd/system"


def main():
    """Entry point."""
    module = AnsibleModule(argument_spec={}, supports_check_mode=True)
    try:
        converge(module)
    except StepError as error:
        module.fail_json(msg=str(error))


def converge(module):
    """Plan, then act unless in check mode, and exit.

    Raises:
        StepError: A step failed.
    """
    plan = Plan()
    for name in USERS:
        plan.add(user(module, name))
    plan.add(group(module, GROUP))
    source = os.path.join(ROOT, "current", "units")
    names = sorted(os.listdir(source)) if os.path.isdir(source) else []
    if not names:
        without_runtime(module, plan, source)
    texts = {name: read_text(os.path.join(source, name)) for name in names}
    files = [file(os.path.join(UNITS, name), texts[name]) for name in names]
    units = Units(module, names)
    switched = Releases(module, ROOT).switched_at()
    stale = units.stale(switched, {name for name, step in zip(names, files) if step.needed})
    plan.steps += files
    if any(step.needed for step in files) or units.need_reload():
        plan.add(Step("systemd configuration", "old", "reloaded", units.reload))
    # What has no such section, such as the service of a timer, is started by others and when they want.
    wanted = [name for name in names if "\n[Install]\n" in texts[name]]
    disabled = [name for name in wanted if units.enabled(name) != "enabled"]
    if disabled:
        plan.add(Step("enable %s" % ", ".join(disabled), "disabled", "enabled", lambda: units.act("enable", *disabled)))
    idle = [name for name in wanted if units.active(name) != "active" and name not in stale]
    if stale:
        plan.add(Step("restart %s" % ", ".join(stale), "outdated", "active", lambda: units.act("restart", *stale)))
    if idle:
        plan.add(Step("start %s" % ", ".join(idle), "inactive", "active", lambda: units.act("start", *idle)))
    if not module.check_mode:
        plan.run()
    finish(module, plan, stale, dict.fromkeys(wanted, "active"))


def without_runtime(module, plan, source):
    """No runtime is installed: predict in check mode, refuse otherwise.

    Raises:
        StepError: Not in check mode.
    """
    if not module.check_mode:
        raise StepError("there are no units in %s: apply the role appc.gantry.runtime first" % source)
    plan.add(Step("units of the runtime", "", "installed and active", None))
    finish(module, plan, [], {})


def finish(module, plan, restarted, states):
    """Exit with what was done."""
    result = {"changed": plan.changed, "units": states, "restarted": sorted(restarted), "actions": plan.actions()}
    if module._diff:
        result["diff"] = plan.diff()
    module.exit_json(**result)


if __name__ == "__main__":
    main()
