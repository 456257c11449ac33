#!/usr/bin/python
# Copyright (c) The Gantry authors
# SPDX-License-Identifier: Apache-2.0
"""Ansible module: gather Debian packages with what they depend on in one file."""

from __future__ import annotations

DOCUMENTATION = r"""
module: deb_bundle
short_description: Gather Debian packages, with what they depend on, in one file
version_added: 0.1.0
description:
  - Downloads packages and their dependencies with the apt of the machine that it runs on, and puts them into one archive,
    from which M(appc.gantry.image_build) makes a root file system. Nothing is installed.
  - A bundle that was made for the same request is left alone and then no index is asked,
    so that the same bundle gives the same image until O(update) is set.
extends_documentation_fragment:
  - appc.gantry._attributes
options:
  packages:
    description:
      - Names of the packages.
    type: list
    elements: str
    required: true
  without:
    description:
      - Packages to leave out, with everything that only they need.
    type: list
    elements: str
    default: []
  files:
    description:
      - Packages that are there as files, on the machine that this runs on. No index is asked then, and O(packages) only
        names what the bundle is for.
    type: list
    elements: path
    default: []
  path:
    description:
      - The bundle. Its directory is created.
    type: path
    required: true
  update:
    description:
      - Ask the index again and take newer versions.
    type: bool
    default: false
author:
  - The Gantry authors (!UNKNOWN)
seealso:
  - module: appc.gantry.image_build
"""

EXAMPLES = r"""
- name: Gather a web server on the control node
  appc.gantry.deb_bundle:
    packages: [nginx, busybox]
    without: [debconf, iproute2, libgcc-s1]
    path: /var/cache/gantry/web.debs.tar
  delegate_to: localhost
"""

RETURN = r"""
files:
  description: SHA-256 of each package file in the bundle. Empty in check mode when the bundle has to be made.
  returned: success
  type: dict
sha256:
  description: SHA-256 of the bundle. Empty in check mode when the bundle has to be made.
  returned: success
  type: str
"""

import os
import shutil

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.appc.gantry.plugins.module_utils._host import StepError
from ansible_collections.appc.gantry.plugins.module_utils._image import closure, digest_of, read_index, write_bundle


def main():
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "packages": {"type": "list", "elements": "str", "required": True},
            "without": {"type": "list", "elements": "str", "default": []},
            "files": {"type": "list", "elements": "path", "default": []},
            "path": {"type": "path", "required": True},
            "update": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    try:
        converge(module)
    except (StepError, OSError) as error:
        module.fail_json(msg=str(error))


def converge(module):
    """Make the bundle if it is not the one that is asked for, and exit.

    Raises:
        StepError: A package cannot be had.
    """
    params = module.params
    request = {"packages": sorted(params["packages"]), "without": sorted(params["without"])}
    given = {os.path.basename(path): path for path in params["files"]}
    if given:
        request["files"] = {name: digest_of(path) for name, path in given.items()}
        missing = [path for path in params["files"] if not os.path.isfile(path)]
        if missing:
            raise StepError("there is no package file %s" % missing[0])
    index = read_index(params["path"])
    fresh = index is not None and index.get("request") == request and not params["update"]
    before = "" if index is None else "".join("%s\n" % name for name in sorted(index["files"]))
    if fresh or module.check_mode:
        wanted = before if fresh else "packages of %s\n" % ", ".join(request["packages"])
        files = index["files"] if fresh else {}
        sha256 = digest_of(params["path"]) if fresh else ""
        finish(module, changed=not fresh, before=before, after=wanted, files=files, sha256=sha256)
    os.makedirs(os.path.dirname(params["path"]) or ".", mode=0o755, exist_ok=True)
    old = digest_of(params["path"])
    scratch = "%s.download.%d" % (params["path"], os.getpid())
    os.mkdir(scratch, 0o700)
    try:
        files = given or download(module, params, scratch)
        index = write_bundle(params["path"], request, files)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    new = digest_of(params["path"])
    after = "".join("%s\n" % name for name in sorted(index["files"]))
    finish(module, changed=new != old, before=before, after=after, files=index["files"], sha256=new)


def download(module, params, scratch):
    """Have apt download the packages, checked against its signed index; returns name -> path.

    Raises:
        StepError: apt could not.
    """
    names = closure(module, params["packages"], set(params["without"]))
    code, output, errors = module.run_command(
        ["apt-get", "download", "-q", "-o", "APT::Sandbox::User=root", *names], cwd=scratch, environ_update={"LC_ALL": "C"}
    )
    if code != 0:
        reasons = [line for line in errors.splitlines() if line.startswith("E:")] or [errors.strip() or output.strip()]
        raise StepError("apt could not download the packages: %s" % reasons[0])
    return {name: os.path.join(scratch, name) for name in os.listdir(scratch) if name.endswith(".deb")}


def finish(module, *, changed, before, after, files, sha256):
    """Exit with the bundle's content."""
    result = {"changed": changed, "files": files, "sha256": sha256}
    if module._diff:
        result["diff"] = {"before": before, "after": after}
    module.exit_json(**result)


if __name__ == "__main__":
    main()
