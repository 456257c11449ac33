"""The built-in network, really wired, in a network namespace of the test's own beside another host."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.support.pods import Kit, groups_of, inside, make_kit, until

from gantry import audit
from gantry.pods import PortForward, collect, get, remove, stop

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

HOST, CLIENT, OTHER = "10.99.0.1", "10.99.0.2", "10.99.0.3"


class Net(NamedTuple):
    """Two network namespaces joined by a veth pair: this "host" and a client elsewhere."""

    host: int
    client: int

    def on_host(self, *argv: str, **options: object) -> subprocess.CompletedProcess[str]:
        return run(self.host, *argv, **options)

    def on_client(self, *argv: str) -> subprocess.CompletedProcess[str]:
        return run(self.client, *argv)


def run(pid: int, *argv: str, **options: object) -> subprocess.CompletedProcess[str]:
    command = ["nsenter", "-t", str(pid), "-n", "--", *argv]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False, **options)  # type: ignore[call-overload,no-any-return]


@pytest.fixture
def net() -> Iterator[Net]:
    holders = [subprocess.Popen(["unshare", "-n", "sleep", "600"]) for _ in range(2)]
    own = os.stat("/proc/self/ns/net").st_ino
    try:
        for holder in holders:
            until(lambda pid=holder.pid: os.stat(f"/proc/{pid}/ns/net").st_ino != own)
        host, client = (holder.pid for holder in holders)
        batch = (
            f"link set lo up\nlink add up0 type veth peer name eth0 netns {client}\n"
            f"addr add {HOST}/24 dev up0\naddr add {OTHER}/24 dev up0\nlink set up0 up\n"
        )
        run(host, "sh", "-c", "echo 0 > /proc/sys/net/ipv4/ip_forward")  # else it is what this host has
        made = run(host, "ip", "-batch", "-", input=batch)
        assert made.returncode == 0, made.stderr
        run(
            client,
            "ip",
            "-batch",
            "-",
            input=f"link set lo up\naddr add {CLIENT}/24 dev eth0\nlink set eth0 up\n",
        )
        yield Net(host, client)
    finally:
        for holder in holders:
            holder.kill()
            holder.wait()


@pytest.fixture
def kit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, net: Net) -> Iterator[Kit]:
    for kit in make_kit(tmp_path, monkeypatch):
        plain = kit.argv
        kit.network_of = net.host
        wrapped = ["nsenter", "-t", str(net.host), "-n", "--"]
        kit.argv = lambda *words, plain=plain, wrapped=wrapped: [*wrapped, *plain(*words)]  # type: ignore[method-assign]
        yield kit
        with inside(net.host):
            for pod in kit.uuids():
                if get(kit.paths, pod).state == "running":
                    stop(kit.paths, pod, force=True, wait=True)
            for process in kit.processes:
                process.wait(timeout=60)
            assert interfaces() == {"lo", "up0"}
            left = subprocess.run(
                ["nft", "list", "ruleset"], capture_output=True, text=True, check=True
            ).stdout
            assert "gantry" not in left


def interfaces() -> set[str]:
    listed = subprocess.run(["ip", "-j", "link"], capture_output=True, text=True, check=True).stdout
    return {link["ifname"] for link in json.loads(listed)}


SERVER = "mkdir /www; hostname > /www/index.html; echo up; exec httpd -f -p 8080 -h /www"


def serve(kit: Kit, *ports: PortForward, hostname: str = "pod-a") -> str:
    app = kit.shell(SERVER)
    uuid = kit.prepare(app, ports=ports, networks=["default"], hostname=hostname)
    process = kit.start(uuid)
    assert process.stdout
    assert process.stdout.readline() == "up\n", process.communicate()
    until(lambda: get(kit.paths, uuid).networks, what="the pod has an address")
    until(lambda: fetch(kit.network_of, get(kit.paths, uuid).networks[0]["ip"], 8080), what="the pod serves")
    until(lambda: get(kit.paths, uuid).apps[0].state == "running")
    return uuid


def fetch(where: int, address: str, port: int = 80) -> str:
    """What an HTTP server says to a client in the network of process *where*; empty when nobody answers."""
    with inside(where):
        connection = socket.socket()
    with connection:
        connection.settimeout(3)
        try:
            connection.connect((address, port))
            connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
            answer = b""
            while chunk := connection.recv(4096):
                answer += chunk
        except OSError:
            return ""
    return answer.decode().partition("\r\n\r\n")[2].strip()


def get_from(address: str, port: int) -> str:
    """A shell command that does the same inside a pod (busybox's static wget has no resolver)."""
    return f"printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 3 {address} {port} | tail -n1"


def test_POD_34_a_pod_has_an_address_and_reaches_host_and_beyond(kit: Kit, net: Net) -> None:
    """POD-02, POD-33, POD-34, RKT-INVENTORY 8.2."""
    outside = subprocess.Popen(
        ["nsenter", "-t", str(net.client), "-n", "busybox", "nc", "-l", "-p", "9000"],
        stdin=subprocess.PIPE,  # its end would be sent on, and be taken for the end of all
        stdout=subprocess.PIPE,
        text=True,
    )
    script = "ip -4 addr show eth0 | grep -o '172.16.28.[0-9]*/24'; ip route; "
    script += "ping -c1 -W2 172.16.28.1 >/dev/null && echo gateway; "
    script += f"echo hi | nc -w 2 {CLIENT} 9000 && echo outside"
    uuid = kit.prepare(kit.shell(script), networks=["default"])
    done = kit.run(uuid)
    lines = done.stdout.split("\n")
    assert lines[0] == "172.16.28.2/24", done.stderr
    assert any(line.startswith("default via 172.16.28.1") for line in lines)
    assert {"gateway", "outside"} <= set(lines)
    assert outside.communicate(timeout=60)[0] == "hi\n"
    [network] = get(kit.paths, uuid).networks  # kept after the end
    assert (network["netName"], network["ifName"], network["ip"], network["mask"]) == (
        "default", "eth0", "172.16.28.2", "255.255.255.0",
    )  # fmt: skip
    [entry] = audit.entries(kit.paths.data, event="pod.run")
    assert entry["address"] == "172.16.28.2"
    assert entry["host_changed"] == ["net.ipv4.ip_forward=1"]


def test_POD_22_EXE_32_a_forwarded_port_answers_from_everywhere(kit: Kit, net: Net) -> None:
    """RKT-INVENTORY 8.4: other hosts, the host's own addresses, 127.0.0.1, another port than the pod's."""
    uuid = serve(kit, PortForward(pod_port=8080, host_port=80))
    assert fetch(net.client, HOST) == "pod-a"
    assert fetch(net.client, OTHER) == "pod-a"
    for address, port in ((HOST, 80), (OTHER, 80), ("127.0.0.1", 80), ("172.16.28.2", 8080)):
        assert fetch(net.host, address, port) == "pod-a", address
    other = kit.run(
        kit.prepare(kit.shell(f"{get_from(HOST, 80)}; {get_from('172.16.28.2', 8080)}"), networks=["default"])
    )
    assert other.stdout.split() == ["pod-a", "pod-a"]
    assert stop(kit.paths, uuid, wait=True) == (uuid, True)


def test_hairpin_a_pod_reaches_itself_through_the_host(kit: Kit, net: Net) -> None:
    """Issue 3751."""
    script = (
        f"mkdir /www; echo self > /www/index.html; httpd -p 8080 -h /www; sleep 0.2; {get_from(HOST, 81)}"
    )
    uuid = kit.prepare(
        kit.shell(script), networks=["default"], ports=[PortForward(pod_port=8080, host_port=81)]
    )
    assert kit.run(uuid).stdout == "self\n"


def test_the_host_address_is_honoured(kit: Kit, net: Net) -> None:
    serve(kit, PortForward(pod_port=8080, host_port=80, host_ip=OTHER))
    assert fetch(net.client, OTHER) == "pod-a"
    assert fetch(net.host, OTHER) == "pod-a"
    for where, address in ((net.client, HOST), (net.host, HOST), (net.host, "127.0.0.1")):
        assert fetch(where, address) == ""


def test_conflicting_ports_are_refused_before_anything_is_made(kit: Kit, net: Net) -> None:
    """POD-28."""
    first = serve(kit, PortForward(pod_port=8080, host_port=80))
    for host_ip in (None, OTHER):
        second = kit.prepare(
            kit.shell("true"),
            networks=["default"],
            ports=[PortForward(pod_port=1, host_port=80, host_ip=host_ip)],
        )
        refused = kit.run(second)
        assert refused.returncode == 254
        assert (
            f"-{'0.0.0.0' if host_ip is None else OTHER}:80 already mapped to pod port 8080"
            in refused.stderr.replace("port tcp", "")
        )
        assert get(kit.paths, second).state == "prepared"
    assert sorted(os.listdir(f"{kit.paths.run}/net/default")) == ["172.16.28.2"]
    assert fetch(net.client, HOST) == "pod-a"
    stop(kit.paths, first, force=True, wait=True)


def test_a_port_of_a_program_on_the_host_is_refused(kit: Kit, net: Net) -> None:
    listener = subprocess.Popen(["nsenter", "-t", str(net.host), "-n", "busybox", "nc", "-l", "-p", "82"])
    try:
        until(
            lambda: (
                ":0052 "
                in net.on_host("cat", "/proc/net/tcp").stdout + net.on_host("cat", "/proc/net/tcp6").stdout
            )
        )
        uuid = kit.prepare(
            kit.shell("true"), networks=["default"], ports=[PortForward(pod_port=1, host_port=82)]
        )
        refused = kit.run(uuid)
        assert "port tcp-0.0.0.0:82 is in use by a program on this host" in refused.stderr
        assert os.listdir(f"{kit.paths.run}/net/default") == []
    finally:
        listener.kill()
        listener.wait()


def test_the_table_comes_back_after_the_firewall_forgot_it(kit: Kit, net: Net) -> None:
    """Case 43: the next start or gc repairs what `nft flush ruleset` took; the pod is not touched."""
    serve(kit, PortForward(pod_port=8080, host_port=80))
    net.on_host("nft", "flush", "ruleset")
    assert fetch(net.client, HOST) == ""
    with inside(net.host):
        assert collect(kit.paths).errors == []
    assert fetch(net.client, HOST) == "pod-a"


def test_addresses_are_released_at_the_end_and_not_used_again_at_once(kit: Kit, net: Net) -> None:
    """Issue 1835."""
    seen = []
    for _ in range(3):
        uuid = kit.prepare(kit.shell("true"), networks=["default"])
        kit.run(uuid)
        seen.append(get(kit.paths, uuid).networks[0]["ip"])
        assert os.listdir(f"{kit.paths.run}/net/default") == []
    assert seen == ["172.16.28.2", "172.16.28.3", "172.16.28.4"]


def test_a_killed_launcher_leaks_no_address_and_no_port(kit: Kit, net: Net) -> None:
    """Issues 2265, 2319."""
    uuid = serve(kit, PortForward(pod_port=8080, host_port=80))
    pid = get(kit.paths, uuid).launcher
    assert pid
    os.kill(pid, 9)
    until(lambda: get(kit.paths, uuid).state == "exited")
    again = serve(kit, PortForward(pod_port=8080, host_port=80), hostname="pod-b")
    assert fetch(net.client, HOST) == "pod-b"
    assert len(os.listdir(f"{kit.paths.run}/net/default")) == 1
    with inside(net.host):
        remove(kit.paths, uuid)
        assert stop(kit.paths, again, force=True, wait=True)[1]


def test_a_pod_reaches_no_loopback_of_the_host(kit: Kit, net: Net) -> None:
    """Forwarded ports answer on 127.0.0.1 by route_localnet, which alone would open the host's loopback."""
    with inside(net.host):
        secret = socket.create_server(("127.0.0.1", 9090))
    with secret:
        uuid = serve(kit, PortForward(pod_port=8080, host_port=80))
        pod = get(kit.paths, uuid).pid or 0
        # More than an app can do: its kernel is told to send to 127.0.0.1 through eth0.
        evil = "ip addr del 127.0.0.1/8 dev lo; echo 1 > /proc/sys/net/ipv4/conf/eth0/route_localnet; "
        run(pod, "sh", "-c", f"{evil} ip route add 127.0.0.1/32 via 172.16.28.1 dev eth0")
        assert not connects(pod, "127.0.0.1", 9090)
        net.on_host("nft", "flush", "chain", "inet", "gantry", "guard")
        assert connects(pod, "127.0.0.1", 9090)  # it is the rule that keeps it out
        assert stop(kit.paths, uuid, force=True, wait=True)[1]


def connects(where: int, address: str, port: int) -> bool:
    with inside(where):
        connection = socket.socket()
    with connection:
        connection.settimeout(1)
        return connection.connect_ex((address, port)) == 0


def test_a_pod_cannot_send_from_another_address(kit: Kit, net: Net) -> None:
    uuid = serve(kit)
    pod = get(kit.paths, uuid).pid or 0
    run(pod, "ip", "addr", "add", "172.16.28.200/32", "dev", "eth0")
    with inside(net.host):
        receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        receiver.bind(("172.16.28.1", 9999))
    with inside(pod):
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sender.bind(("172.16.28.200", 0))
    with receiver, sender:
        receiver.settimeout(0.5)
        sender.sendto(b"forged", ("172.16.28.1", 9999))
        with pytest.raises(TimeoutError):
            receiver.recv(10)
        net.on_host("nft", "flush", "chain", "inet", "gantry", "guard")
        net.on_host("sh", "-c", "for f in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 0 > $f; done")
        sender.sendto(b"forged", ("172.16.28.1", 9999))
        assert receiver.recv(10) == b"forged"  # it is the rule that keeps it out
    assert stop(kit.paths, uuid, force=True, wait=True)[1]


def test_a_pod_reaches_no_service_of_the_host_by_ipv6(kit: Kit, net: Net) -> None:
    """Every interface has a link-local address, and services listen on all addresses."""
    uuid = serve(kit)
    pod = get(kit.paths, uuid).pid or 0
    interface = get(kit.paths, uuid).networks[0]["hostIfName"]
    with inside(net.host):
        listener = socket.create_server(("::", 9191), family=socket.AF_INET6, dualstack_ipv6=True)
        shown = subprocess.run(
            ["ip", "-j", "-6", "addr", "show", interface], capture_output=True, text=True, check=True
        ).stdout
    address = json.loads(shown)[0]["addr_info"][0]["local"]
    with listener, inside(net.host):
        assert address.startswith("fe80:")

        def reaches() -> bool:
            with inside(pod):
                index = socket.if_nametoindex("eth0")
                connection = socket.socket(socket.AF_INET6)
            with connection:
                connection.settimeout(1)
                return connection.connect_ex((address, 9191, 0, index)) == 0

        net.on_host("nft", "flush", "chain", "inet", "gantry", "guard")
        until(reaches, what="without the rule it is reached")  # addresses are tentative for a while
        collect(kit.paths)  # writes the table
        assert not reaches()
        assert stop(kit.paths, uuid, force=True, wait=True)[1]


def test_a_port_on_an_address_that_the_host_has_not_is_refused(kit: Kit, net: Net) -> None:
    port = PortForward(pod_port=1, host_port=80, host_ip="192.0.2.7")
    uuid = kit.prepare(kit.shell("true"), networks=["default"], ports=[port])
    done = kit.run(uuid)
    assert done.returncode == 254
    assert done.stderr.startswith(
        "run-prepared: port tcp-192.0.2.7:80 cannot be forwarded: the host has no such address ("
    )
    assert get(kit.paths, uuid).state == "prepared"
    assert os.listdir(f"{kit.paths.run}/net/default") == []


def test_an_nft_that_fails_at_the_end_costs_no_status_and_is_made_up_for(
    kit: Kit, net: Net, tmp_path: Path
) -> None:
    broken = tmp_path / "nft"
    mark = tmp_path / "broken"
    real = shutil.copy("/usr/sbin/nft", tmp_path / "real-nft")
    broken.write_text(f'#!/bin/sh\n[ ! -e {mark} ] || {{ echo no more >&2; exit 1; }}\nexec {real} "$@"\n')
    broken.chmod(0o755)
    plain = kit.argv
    kit.argv = lambda *words: [  # type: ignore[method-assign]
        "unshare", "-m", "sh", "-c", f'mount --bind {broken} /usr/sbin/nft && exec "$@"', "sh", *plain(*words)
    ]  # fmt: skip
    for restartable in (False, True):
        uuid = kit.prepare(
            kit.shell("echo up; exec sleep 1000"), networks=["default"], restartable=restartable
        )
        process = kit.start(uuid)
        assert process.stdout
        assert process.stdout.readline() == "up\n"
        mark.touch()
        process.terminate()
        _, said = process.communicate(timeout=60)
        assert process.returncode == 143
        assert said.count("nft said: no more") == 1
        assert said.count("\n") == 2  # and one for the metadata service
        pod = get(kit.paths, uuid)
        assert (pod.exit_status, pod.state) == (143, "prepared" if restartable else "exited")
        assert groups_of(uuid) == []
        mark.unlink()
    with inside(net.host):
        assert collect(kit.paths).errors == []
    assert os.listdir(f"{kit.paths.run}/net/default") == []


def test_gc_finds_what_nobody_has_a_record_of(kit: Kit, net: Net) -> None:
    uuid = serve(kit)
    pod = get(kit.paths, uuid)
    address, interface = pod.networks[0]["ip"], pod.networks[0]["hostIfName"]
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    stale = {"uuid": "x", "pod": "/gone", "boot_id": boot, "interface": "gantry-00000001", "ports": []}
    Path(kit.paths.run, "net/default/172.16.28.77").write_text(json.dumps(stale))
    batch = f"""
link add gantry-00000001 type veth peer name p1
link add gantry-00000002 type veth peer name p2
link set dev gantry-00000002 alias "gantry {kit.paths.run} 22222222-0000-4000-8000-000000000000"
link add gantry-00000003 type veth peer name p3
link set dev gantry-00000003 alias "gantry /another/run 33333333-0000-4000-8000-000000000000"
link set gantry-00000002 up
route add 172.16.28.78/32 dev gantry-00000002
route add 172.16.28.79/32 dev {interface}
addr add 172.16.28.9/32 dev {interface}
route del {address} dev {interface}
addr del 172.16.28.1/32 dev {interface}
"""
    made = net.on_host("ip", "-batch", "-", input=batch)
    assert made.returncode == 0, made.stderr
    with inside(net.host):
        done = collect(kit.paths)
        assert done.errors == []
        assert sorted(done.network) == sorted([
            "172.16.28.77 was held by pod x, which is gone",
            "interface gantry-00000002 belonged to no pod",
            f"address 172.16.28.1 of {interface} was missing",
            f"address 172.16.28.9 of {interface} belonged to no pod",
            f"route to {address} was missing",
            f"route to 172.16.28.79/32 through {interface} belonged to no pod",
        ])  # fmt: skip
        assert collect(kit.paths).network == []
        assert interfaces() == {"lo", "up0", interface, "gantry-00000003", "p3"}
        subprocess.run(["ip", "link", "del", "p3"], check=True)
    assert fetch(net.host, address, 8080) == "pod-a"
    assert stop(kit.paths, uuid, force=True, wait=False)[1]


def test_the_hosts_network(kit: Kit, net: Net) -> None:
    script = "ip -4 addr show up0 | grep -c 10.99.0.1; hostname; cat /etc/hosts"
    uuid = kit.prepare(kit.shell(script), networks=["host"])
    done = kit.run(uuid)
    lines = done.stdout.splitlines()
    assert lines[:2] == ["1", os.uname().nodename]
    assert lines[2:] == Path("/etc/hosts").read_text().splitlines()
    assert get(kit.paths, uuid).networks == []


def test_POD_33_none_has_loopback_only(kit: Kit, net: Net) -> None:
    """POD-33."""
    done = kit.run(
        kit.prepare(kit.shell("ip -o link | wc -l; ping -c1 -W1 127.0.0.1 > /dev/null && echo lo"))
    )
    assert done.stdout.split() == ["1", "lo"]


def test_many_starts_at_once_get_addresses_of_their_own(kit: Kit, net: Net) -> None:
    """Case 50, small."""
    uuids = [kit.prepare(kit.shell("exit 0"), networks=["default"]) for _ in range(12)]
    processes = [kit.start(uuid) for uuid in uuids]
    for process in processes:
        _, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
    assert len({get(kit.paths, uuid).networks[0]["ip"] for uuid in uuids}) == 12
