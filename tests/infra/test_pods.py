"""The pod that the playbook asked for: it serves, knows itself, and outlives the services around it."""

from __future__ import annotations

import functools
import json
import shlex
from typing import Any
from uuid import uuid4

from tests.infra.nodes import Node, group, wait_for

from demo import hosts
from testhosts import network

testinfra_hosts = group("gantry_app_hosts")
PORT = 8080


def status(node: Node) -> dict[str, Any]:
    found = node.json("gantry status hello --format=json")
    assert isinstance(found, dict)
    return found


def page(node: Node) -> dict[str, Any]:
    """What the pod says about itself to somebody elsewhere on the network."""
    code, body = network.get(node.fleet.netns, node.spec.address, PORT, "/status.json", timeout=30)
    assert code == 200
    told = json.loads(body)
    assert isinstance(told, dict)
    return told


def test_it_is_running_under_systemd(node: Node) -> None:
    assert node.run("systemctl is-active gantry-hello.service") == "active"
    assert node.run("systemctl is-enabled gantry-hello.service") == "enabled"
    assert status(node)["state"] == "running"


def test_it_knows_who_it_is_and_can_sign(node: Node) -> None:
    told, found = page(node), status(node)
    assert told["uuid"] == found["uuid"]
    assert told["image_id"] == found["apps"][0]["image_id"]
    assert told["host"] == node.spec.name
    assert told["verified"] is True
    assert told["forgery_refused"] is True


def test_its_hosts_signer_says_the_same_of_its_signature(node: Node) -> None:
    told = page(node)
    ask = hosts.Asker(node.fleet)
    said = (str(told["message"]), str(told["signature"]))
    assert ask.verifies(node.spec.name, told["uuid"], *said)
    assert not ask.verifies(node.spec.name, told["uuid"], said[0] + "!", said[1])
    assert not ask.verifies(node.spec.name, str(uuid4()), *said)


def test_it_answers_on_every_address_of_its_host(node: Node) -> None:
    for address in ("127.0.0.1", node.spec.address):
        assert "uuid" in node.run(f"curl -sS --fail --max-time 20 http://{address}:{PORT}/status.json")


def test_the_app_is_not_root_and_sees_only_its_own(node: Node) -> None:
    pid = status(node)["apps"][0]["pid"]
    assert node.run(f"stat -c %u /proc/{pid}") == "101"
    assert int(node.run(f"awk '/^CapEff/ {{print $2}}' /proc/{pid}/status"), 16) == 0
    for namespace in ("mnt", "net", "pid", "ipc", "uts"):
        own, hosts = node.run(f"readlink /proc/{pid}/ns/{namespace} /proc/1/ns/{namespace}").splitlines()
        assert own != hosts, namespace


def held(text: str) -> dict[str, list[str]]:
    """What a process may do, of its ``status``."""
    fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    names = ("CapPrm", "CapEff", "CapBnd", "Uid", "Gid", "Seccomp", "NoNewPrivs")
    return {name: fields[name].split() for name in names}


def test_a_command_beside_the_app_has_what_the_app_has(node: Node) -> None:
    pid = status(node)["apps"][0]["pid"]
    # The image has a shell and hardly anything else.
    script = 'while read -r line; do echo "$line"; done < /proc/self/status'
    entered = node.run(f"gantry enter hello /bin/sh -c {shlex.quote(script)}")
    assert held(entered) == held(node.run(f"cat /proc/{pid}/status"))
    assert "7" in node.run("gantry enter hello /bin/sh -c 'exit 7' || echo $?")


def test_the_host_is_well_and_its_log_is_asked_for(node: Node) -> None:
    node.run("gantry doctor")
    node.run("gantry logs --tail=3 hello")
    exposed = node.json("gantry network exposure --format=json")
    assert [each["reached_from"] for each in exposed if each["port"] == PORT] == ["everywhere"]


def test_none_of_its_mounts_is_the_hosts(node: Node) -> None:
    assert node.run("grep -c /var/lib/gantry/ /proc/1/mountinfo || true") == "0"


def test_no_python_stays_with_it(node: Node) -> None:
    group = node.run("systemctl show -P ControlGroup gantry-hello.service")
    script = (
        f"for f in $(find /sys/fs/cgroup -path '*{group}*' -name cgroup.procs); do cat $f; done | sort -u"
    )
    commands = node.run(f"for p in $({script}); do tr '\\0' ' ' < /proc/$p/cmdline; echo; done")
    assert "nginx" in commands
    assert "python" not in commands


def metadata_url(node: Node, found: dict[str, Any]) -> str:
    """The pod's own address of the metadata service, from the environment of a process in it."""
    app = found["apps"][0]["pid"]
    # nginx writes its title over its environment; the script that it grew from still has it.
    for pid in [app, *node.run(f"cat /proc/{app}/task/*/children").split()]:
        for line in node.run(f"tr '\\0' '\\n' < /proc/{pid}/environ").splitlines():
            if line.startswith("AC_METADATA_URL="):
                return line.partition("=")[2]
    raise AssertionError("no process of the pod has AC_METADATA_URL")


def ask(node: Node, found: dict[str, Any]) -> str:
    """The command that asks the metadata service for the pod's UUID from inside the pod's network."""
    url = f"{metadata_url(node, found)}/acMetadata/v1/pod/uuid"
    curl = f"curl -sS --max-time 90 -H 'Metadata-Flavor: AppContainer' -w ' %{{http_code}}' {url}"
    return f"nsenter --net=/proc/{found['apps'][0]['pid']}/ns/net {curl}"


def started(node: Node, pid: int) -> str:
    """When the kernel started the process: its number may come again, this does not."""
    return node.run(f"sed 's/.*) //' /proc/{pid}/stat | cut -d' ' -f20")


def came_back(node: Node, unit: str, old: str) -> bool:
    return node.run(f"systemctl show -P MainPID {unit}") not in {old, "0"}


def test_killing_the_services_loses_no_pod(node: Node) -> None:
    before = status(node)
    first = started(node, before["pid"])
    for unit in ("gantry-metadata.service", "gantry-signer.service"):
        old = node.run(f"systemctl show -P MainPID {unit}")
        node.run(f"systemctl kill --signal=KILL {unit}")
        wait_for(functools.partial(came_back, node, unit, old), f"{unit} to come back")
    assert node.run(ask(node, before)) == f"{before['uuid']} 200"
    after = status(node)
    assert before["pid"] > 0
    assert (after["uuid"], after["pid"], after["state"]) == (before["uuid"], before["pid"], "running")
    assert started(node, after["pid"]) == first


def test_a_request_made_while_the_service_is_down_waits_and_succeeds(node: Node) -> None:
    found = status(node)
    network_of_pod = f"nsenter --net=/proc/{found['apps'][0]['pid']}/ns/net"
    command = ask(node, found)
    node.run("systemctl stop gantry-metadata.socket gantry-metadata.service")
    try:
        node.run(f"rm -f /tmp/answer; (setsid {command} > /tmp/answer 2>&1 < /dev/null &) > /dev/null 2>&1")
        # The listening socket is the pod's own: the kernel connects, though nobody is there to read.
        wait_for(
            lambda: node.succeeds(f"{network_of_pod} ss -Htn state established | grep -q 18112"),
            "the request to be made",
        )
        assert node.run("cat /tmp/answer") == "", "somebody answered though the service is down"
    finally:
        node.run("systemctl start gantry-metadata.socket gantry-metadata.service")
    wait_for(lambda: node.run("cat /tmp/answer"), "the answer")
    assert node.run("cat /tmp/answer") == f"{found['uuid']} 200"
