#!/usr/bin/python
# Copyright (c) The Gantry authors
# SPDX-License-Identifier: Apache-2.0
"""Ansible module: have a named pod run, stop, restart or be gone."""

from __future__ import annotations

DOCUMENTATION = r"""
module: pod
short_description: Have a named pod run, stop, restart or be gone
version_added: 0.1.0
description:
  - A named pod is one or more apps that share network, IPC and host name, supervised by systemd as C(gantry-NAME.service).
  - A pod that runs as described is left alone. What differs leads to a new release, which is fetched, verified and
    prepared before the old one is stopped; when it does not start, the old one is started again and the module fails.
  - For several pods on a host use M(appc.gantry.apply), which needs one task for all of them.
extends_documentation_fragment:
  - appc.gantry._gantry
  - appc.gantry._attributes
  - appc.gantry._attributes.actiongroup
options:
  name:
    description:
      - Name of the pod, in lower-case letters, digits and single hyphens.
    type: str
    required: true
  state:
    description:
      - V(started) has it run as described, now and after a boot.
      - V(stopped) stops it, now and after a boot; it stays prepared.
      - V(restarted) stops and starts it, which always counts as a change.
      - V(absent) removes it with everything that belongs to it.
    type: str
    choices: [started, stopped, restarted, absent]
    default: started
  pull:
    description:
      - When to ask servers for the pod's images, as for M(appc.gantry.image). V(new) when it is not set.
    type: str
    choices: [new, update, never]
  set:
    description:
      - Name of the set that the pod belongs to; see O(appc.gantry.apply#module:prune).
    type: str
  apps:
    description:
      - The apps of the pod, at least one. Needed for O(state=started).
    type: list
    elements: dict
    suboptions:
      image:
        description: The image as C(NAME[:VERSION][,LABEL=VALUE]...), an image ID, an absolute path on the host, or an HTTPS URL.
        type: str
        required: true
      name:
        description: Name of the app; the last part of the image's name when it is not set.
        type: str
      exec:
        description: Command line in place of the image's, one word an element.
        type: list
        elements: str
      args:
        description: Words to append to the command line. They reach the app byte for byte.
        type: list
        elements: str
      user:
        description: User name or number inside the image, or the path of a file there whose owner it is.
        type: str
      group:
        description: Group, likewise.
        type: str
      supplementary_gids:
        description: Further groups, as numbers.
        type: list
        elements: int
      working_directory:
        description: Absolute path inside the app.
        type: str
      environment:
        description:
          - Variables, over those of the image. Numbers become text. Put everything in quotes whose spelling matters, such as
            V("0755") or V("1.10"), because YAML keeps only the value; truth values are refused without quotes.
          - Values are never shown in results, differences and logs.
        type: dict
      mounts:
        description: Where volumes of the pod appear inside the app.
        type: list
        elements: dict
        suboptions:
          volume:
            description: Name of a volume of the pod.
            type: str
            required: true
          path:
            description: Absolute path inside the app.
            type: str
            required: true
          read_only:
            description: Forbid writing there; what the volume says when it is not set.
            type: bool
      memory:
        description: Limit as a quantity, such as V(64Mi).
        type: str
      cpu:
        description: Limit in cores as a quantity, such as V(500m).
        type: str
      cpu_shares:
        description: Weight relative to others when the processors are busy.
        type: int
      caps_retain:
        description: Keep only these capabilities. Excludes O(apps[].caps_remove).
        type: list
        elements: str
      caps_remove:
        description: Take these capabilities away.
        type: list
        elements: str
      oom_score_adj:
        description: How soon the kernel ends the app when memory runs out, -1000 to 1000.
        type: int
      read_only_rootfs:
        description: The app cannot write to its root file system.
        type: bool
      annotations:
        description: Annotations of the app in this pod; names are App Container identifiers.
        type: dict
      user_annotations:
        description: User annotations of the app.
        type: dict
      user_labels:
        description: User labels of the app.
        type: dict
  net:
    description:
      - The network, one of V(default), V(none) and V(host), or those that are configured on the host.
      - V(default) when it is not set.
    type: list
    elements: str
  ports:
    description:
      - Ports of the host that lead into the pod.
    type: list
    elements: dict
    suboptions:
      name:
        description: Name of a port that an app's image declares. Either this or O(ports[].pod_port) is needed.
        type: str
      pod_port:
        description: Number of the port inside the pod.
        type: int
      host_port:
        description: Number of the port on the host.
        type: int
        required: true
      host_ip:
        description: Address on the host; all addresses when it is not set.
        type: str
      protocol:
        description: For O(ports[].pod_port).
        type: str
        choices: [tcp, udp]
  volumes:
    description:
      - Volumes of the pod.
    type: list
    elements: dict
    suboptions:
      name:
        description: What mounts call it.
        type: str
        required: true
      kind:
        description: V(host) is a path of the host, V(empty) lives as long as the pod.
        type: str
        choices: [host, empty]
        required: true
      source:
        description: Absolute path on the host, for V(host).
        type: str
      read_only:
        description: Forbid writing.
        type: bool
      recursive:
        description: With everything that is mounted below the source, for V(host).
        type: bool
      create:
        description: Make a source that is missing, for V(host). What leads there has to exist.
        type: str
        choices: [directory, file]
      mode:
        description: Octal mode as text, for V(empty) and for what is made.
        type: str
      uid:
        description: Owner, for V(empty) and for what is made.
        type: int
      gid:
        description: Group, for V(empty) and for what is made.
        type: int
  hostname:
    description:
      - Host name inside the pod.
    type: str
  dns:
    description:
      - Addresses of name servers for the apps, instead of those that the network brings.
      - V(host) alone is the host's own C(/etc/resolv.conf), V(none) alone the image's.
    type: list
    elements: str
  dns_search:
    description:
      - Domains in which the apps look for names without dots.
    type: list
    elements: str
  dns_options:
    description:
      - Options of the apps' resolver.
    type: list
    elements: str
  dns_domain:
    description:
      - The apps' local domain.
    type: str
  etc_hosts:
    description:
      - Address by name, for C(/etc/hosts) of the apps.
    type: dict
  annotations:
    description:
      - Annotations of the pod.
    type: dict
  user_labels:
    description:
      - User labels of the pod.
    type: dict
  flavor:
    description:
      - How apps are isolated.
      - V(oci) when it is not set. V(fly) isolates nothing, and needs O(net=host). Others have to be installed.
    type: str
  strict:
    description:
      - Whether the pod is refused unless every isolator is enforced as it stands.
    type: bool
  exit_policy:
    description:
      - Which app's end ends the pod.
      - With V(any) that of any app, with V(any-failure) that of an app that has failed, or of the last one,
        with V(all) only that of the last one. V(any-failure) when it is not set.
    type: str
    choices: [any, any-failure, all]
  restart:
    description:
      - When systemd starts the pod again by itself. V(always) when it is not set.
    type: str
    choices: [always, on-failure, never]
  restart_delay:
    description:
      - Seconds before it does.
    type: float
  stop_timeout:
    description:
      - Seconds that the apps have to end when they are asked to.
    type: float
  settle:
    description:
      - Seconds for which a new release must keep running before the old one is given up.
    type: float
author:
  - The Gantry authors (!UNKNOWN)
seealso:
  - module: appc.gantry.apply
  - module: appc.gantry.pod_info
"""

EXAMPLES = r"""
- name: The shop's web server
  appc.gantry.pod:
    name: web
    apps:
      - name: web
        image: example.com/shop:1.4
        memory: 256Mi
        environment:
          DATABASE: "{{ shop_database }}"
        mounts:
          - volume: pictures
            path: /srv/pictures
    volumes:
      - name: pictures
        kind: host
        source: /srv/shop/pictures
        read_only: true
    ports:
      - name: http
        host_port: 8080

- name: Restart it
  appc.gantry.pod:
    name: web
    state: restarted

- name: Remove it
  appc.gantry.pod:
    name: web
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

MOUNT = {
    "volume": {"type": "str", "required": True},
    "path": {"type": "str", "required": True},
    "read_only": {"type": "bool"},
}
APP = {
    "image": {"type": "str", "required": True},
    "name": {"type": "str"},
    "exec": {"type": "list", "elements": "str"},
    "args": {"type": "list", "elements": "str"},
    "user": {"type": "str"},
    "group": {"type": "str"},
    "supplementary_gids": {"type": "list", "elements": "int"},
    "working_directory": {"type": "str"},
    "environment": {"type": "dict"},
    "mounts": {"type": "list", "elements": "dict", "options": MOUNT},
    "memory": {"type": "str"},
    "cpu": {"type": "str"},
    "cpu_shares": {"type": "int"},
    "caps_retain": {"type": "list", "elements": "str"},
    "caps_remove": {"type": "list", "elements": "str"},
    "oom_score_adj": {"type": "int"},
    "read_only_rootfs": {"type": "bool"},
    "annotations": {"type": "dict"},
    "user_annotations": {"type": "dict"},
    "user_labels": {"type": "dict"},
}
PORT = {
    "name": {"type": "str"},
    "pod_port": {"type": "int"},
    "host_port": {"type": "int", "required": True},
    "host_ip": {"type": "str"},
    "protocol": {"type": "str", "choices": ["tcp", "udp"]},
}
VOLUME = {
    "name": {"type": "str", "required": True},
    "kind": {"type": "str", "choices": ["host", "empty"], "required": True},
    "source": {"type": "str"},
    "read_only": {"type": "bool"},
    "recursive": {"type": "bool"},
    "create": {"type": "str", "choices": ["directory", "file"]},
    "mode": {"type": "str"},
    "uid": {"type": "int"},
    "gid": {"type": "int"},
}
POD = {
    "name": {"type": "str", "required": True},
    "state": {"type": "str", "choices": ["started", "stopped", "restarted", "absent"], "default": "started"},
    "pull": {"type": "str", "choices": ["new", "update", "never"]},
    "apps": {"type": "list", "elements": "dict", "options": APP},
    "net": {"type": "list", "elements": "str"},
    "ports": {"type": "list", "elements": "dict", "options": PORT},
    "volumes": {"type": "list", "elements": "dict", "options": VOLUME},
    "hostname": {"type": "str"},
    "dns": {"type": "list", "elements": "str"},
    "dns_search": {"type": "list", "elements": "str"},
    "dns_options": {"type": "list", "elements": "str"},
    "dns_domain": {"type": "str"},
    "etc_hosts": {"type": "dict"},
    "annotations": {"type": "dict"},
    "user_labels": {"type": "dict"},
    "flavor": {"type": "str"},
    "strict": {"type": "bool"},
    "exit_policy": {"type": "str", "choices": ["any", "any-failure", "all"]},
    "restart": {"type": "str", "choices": ["always", "on-failure", "never"]},
    "restart_delay": {"type": "float"},
    "stop_timeout": {"type": "float"},
    "settle": {"type": "float"},
}


def main():
    """Entry point."""
    module = GantryModule({**POD, "set": {"type": "str"}}, required_if=[("state", "started", ["apps"])])
    pod = without_unset({name: module.params[name] for name in POD})
    document = {"pods": [pod]}
    if module.params["set"] is not None:
        document["set"] = module.params["set"]
    module.converge(document)


if __name__ == "__main__":
    main()
