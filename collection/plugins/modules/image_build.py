#!/usr/bin/python
# Copyright (c) The Gantry authors
# SPDX-License-Identifier: Apache-2.0
"""Ansible module: build and sign an App Container image from packages and files."""

from __future__ import annotations

DOCUMENTATION = r"""
module: image_build
short_description: Build and sign an App Container image from packages and files
version_added: 0.1.0
description:
  - Puts a root file system together from a bundle of Debian packages and from files of your own, and has the runtime
    build an image of it and sign it.
  - The same input gives the same image ID. Nothing is built when neither the input nor the result has changed;
    an image file or a signature that was tampered with is made again.
  - Image and signature appear together and by rename, so a web server never offers half of one.
extends_documentation_fragment:
  - appc.gantry._attributes
options:
  path:
    description:
      - The image file. Its signature gets the same name with C(.asc) appended. The directory is created.
    type: path
    required: true
  manifest:
    description:
      - The image manifest. C(acKind) and C(acVersion) are filled in when they are not set.
    type: dict
    required: true
  bundle:
    description:
      - Bundle of packages that M(appc.gantry.deb_bundle) has made.
    type: path
  files:
    description:
      - Files of the image, over those of the packages.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: Absolute path inside the image.
        type: str
        required: true
      content:
        description: What the file says.
        type: str
        required: true
      mode:
        description: Octal mode.
        type: str
        default: "0644"
      owner:
        description: Number of the owner.
        type: int
        default: 0
      group:
        description: Number of the group.
        type: int
        default: 0
  directories:
    description:
      - Directories of the image.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: Absolute path inside the image.
        type: str
        required: true
      mode:
        description: Octal mode.
        type: str
        default: "0755"
      owner:
        description: Number of the owner.
        type: int
        default: 0
      group:
        description: Number of the group.
        type: int
        default: 0
  links:
    description:
      - Symbolic links of the image.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: Absolute path inside the image.
        type: str
        required: true
      target:
        description: What the link says.
        type: str
        required: true
  remove:
    description:
      - Paths of the packages that the image does not need, such as documentation.
    type: list
    elements: str
    default: []
  signing_key:
    description:
      - File on the host with the armored secret key. The image is not signed when it is not set.
    type: path
  gantry_command:
    description:
      - Path of the C(gantry) command on the host.
    type: path
    default: /opt/gantry/current/bin/gantry
author:
  - The Gantry authors (!UNKNOWN)
seealso:
  - module: appc.gantry.deb_bundle
"""

EXAMPLES = r"""
- name: Build a shell
  appc.gantry.image_build:
    path: /srv/images/example.com/shell-1.0-linux-amd64.aci
    bundle: /var/cache/gantry/shell.debs.tar
    links:
      - path: /bin/sh
        target: busybox
    manifest:
      name: example.com/shell
      labels:
        - {name: version, value: "1.0"}
        - {name: os, value: linux}
        - {name: arch, value: amd64}
      app:
        exec: [/bin/sh]
        user: "0"
        group: "0"
    signing_key: /etc/gantry/signing/images.asc
"""

RETURN = r"""
image_id:
  description: The image ID. Empty in check mode when the image has to be built.
  returned: success
  type: str
size:
  description: Bytes of the image file.
  returned: success
  type: int
reason:
  description: Why the image had to be built.
  returned: success
  type: str
  sample: files changed
"""

import hashlib
import json
import os
import shutil
import tempfile

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.appc.gantry.plugins.module_utils._gantry import COMMAND
from ansible_collections.appc.gantry.plugins.module_utils._host import StepError, read_text, write_file
from ansible_collections.appc.gantry.plugins.module_utils._image import Rootfs, digest_of

FORMAT = 1
"""Raised when the same input would give another image."""

ENTRY = {
    "path": {"type": "str", "required": True},
    "mode": {"type": "str"},
    "owner": {"type": "int", "default": 0},
    "group": {"type": "int", "default": 0},
}
FILE = {**ENTRY, "content": {"type": "str", "required": True}, "mode": {"type": "str", "default": "0644"}}
DIRECTORY = {**ENTRY, "mode": {"type": "str", "default": "0755"}}
LINK = {"path": {"type": "str", "required": True}, "target": {"type": "str", "required": True}}


def main():
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "manifest": {"type": "dict", "required": True},
            "bundle": {"type": "path"},
            "files": {"type": "list", "elements": "dict", "options": FILE, "default": []},
            "directories": {"type": "list", "elements": "dict", "options": DIRECTORY, "default": []},
            "links": {"type": "list", "elements": "dict", "options": LINK, "default": []},
            "remove": {"type": "list", "elements": "str", "default": []},
            "signing_key": {"type": "path", "no_log": False},
            "gantry_command": {"type": "path", "default": COMMAND},
        },
        supports_check_mode=True,
    )
    try:
        converge(module)
    except (StepError, OSError) as error:
        module.fail_json(msg=str(error))


def parts_of(params):
    """What decides the image, in named parts, so that a difference can be named."""
    names = ("manifest", "files", "directories", "links", "remove")
    parts = {name: hashlib.sha256(json.dumps(params[name], sort_keys=True).encode("utf-8")).hexdigest() for name in names}
    parts["packages"] = digest_of(params["bundle"]) if params["bundle"] else ""
    parts["signing key"] = digest_of(params["signing_key"]) if params["signing_key"] else ""
    parts["format"] = str(FORMAT)
    return parts


def why(record, parts, path):
    """Why the image has to be built, or an empty string."""
    if record is None:
        return "there is no image yet"
    different = sorted(name for name in parts if record.get("parts", {}).get(name) != parts[name])
    if different:
        return "%s changed" % " and ".join(different)
    for file, name in ((path, "image"), (path + ".asc", "signature")):
        if digest_of(file) != record["results"].get(name, ""):
            return "the %s is not the one that was made" % name
    return ""


def converge(module):
    """Build if something differs, and exit.

    Raises:
        StepError: The image cannot be built.
    """
    params = module.params
    path, note = params["path"], params["path"] + ".made.json"
    text = read_text(note)
    try:
        record = json.loads(text) if text else None
    except ValueError:
        record = None
    parts = parts_of(params)
    reason = why(record, parts, path)
    old = record["image_id"] if record else ""
    if not reason or module.check_mode:
        finish(module, reason, old, "" if reason else old, os.path.getsize(path) if not reason else 0)
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    work = os.path.realpath(tempfile.mkdtemp(prefix=".gantry-build-", dir=os.path.dirname(path)))
    try:
        image_id = build(module, params, work)
        made = os.path.join(work, "image.aci")
        results = {"image": digest_of(made), "signature": digest_of(made + ".asc")}
        for end in ("", ".asc"):
            if os.path.exists(made + end):
                os.chmod(made + end, 0o644)
        # The old note goes first and the new one comes last: whatever breaks off in between is built again.
        if text is not None:
            os.unlink(note)
        for end in (".asc", ""):
            if os.path.exists(made + end):
                os.rename(made + end, path + end)
        new = {"parts": parts, "results": results, "image_id": image_id}
        write_file(note, json.dumps(new, indent=1, sort_keys=True).encode("utf-8"), 0o600)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    finish(module, reason, old, image_id, os.path.getsize(path))


def build(module, params, work):
    """Make and sign ``image.aci`` in *work*; returns the image ID.

    Raises:
        StepError: A step failed.
    """
    root, scratch = os.path.join(work, "rootfs"), os.path.join(work, "debs")
    for directory in (root, scratch):
        os.mkdir(directory)
        os.chmod(directory, 0o755)
    rootfs = Rootfs(module, root)
    if params["bundle"]:
        rootfs.unpack(params["bundle"], scratch)
    rootfs.merge_usr()
    rootfs.remove(params["remove"])
    for entry in params["directories"]:
        rootfs.add_directory(entry["path"], octal(entry), entry["owner"], entry["group"])
    for entry in params["files"]:
        rootfs.add_file(entry["path"], entry["content"].encode("utf-8"), octal(entry), entry["owner"], entry["group"])
    for entry in params["links"]:
        rootfs.add_link(entry["path"], entry["target"])
    rootfs.settle_times()
    manifest = {"acKind": "ImageManifest", "acVersion": "0.8.11", **params["manifest"]}
    with open(os.path.join(work, "manifest.json"), "w", encoding="utf-8") as handle:
        json.dump(manifest, handle)
    image = os.path.join(work, "image.aci")
    answer = gantry(
        module, params, ["build", "--manifest=%s" % os.path.join(work, "manifest.json"), "--format=json", root, image]
    )
    if params["signing_key"]:
        gantry(module, params, ["sign", "--key=%s" % params["signing_key"], "--format=json", image])
    return answer.get("id") or answer.get("image_id") or ""


def octal(entry):
    """The mode of *entry* as a number.

    Raises:
        StepError: It is not octal.
    """
    try:
        return int(entry["mode"], 8)
    except ValueError as error:
        raise StepError("%s: the mode %s is not octal" % (entry["path"], entry["mode"])) from error


def gantry(module, params, arguments):
    """Run the command and return what it says in JSON.

    Raises:
        StepError: It failed; the text is its own.
    """
    if not os.access(params["gantry_command"], os.X_OK):
        raise StepError("the gantry runtime is not installed on this host (apply the role appc.gantry.runtime first)")
    code, output, errors = module.run_command([params["gantry_command"], *arguments], environ_update={"LC_ALL": "C.UTF-8"})
    try:
        answer = json.loads(output)
    except ValueError:
        answer = {}
    if code != 0:
        error = answer.get("error") or {}
        raise StepError(error.get("msg") or (errors.strip() or output.strip() or "gantry said nothing").splitlines()[-1])
    return answer if isinstance(answer, dict) else {}


def finish(module, reason, before, after, size):
    """Exit with what the image is."""
    result = {"changed": bool(reason), "image_id": after, "size": size, "reason": reason}
    if module._diff:
        result["diff"] = {
            "before": "%s\n" % before if before else "",
            "after": "%s\n" % (after or reason) if reason else "%s\n" % before,
        }
    module.exit_json(**result)


if __name__ == "__main__":
    main()
