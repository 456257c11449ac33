"""Networks of net.d: joined by CNI's plugins, given back however the pod ends, refused in one line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.integration.test_pods_network import SERVER, Net, fetch, net
from tests.support.pods import RUNTIME, Kit, inside, make_kit, until

from gantry.errors import GantryError
from gantry.network.configured import load
from gantry.pods import PortForward, collect, get, remove, stop

__all__ = ["net"]
PLUGINS = Path("/usr/lib/cni")
pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(not (PLUGINS / "bridge").exists(), reason="containernetworking-plugins is not here"),
]


def lan(name: str = "lan", **more: Any) -> dict[str, Any]:
    return {
        "cniVersion": "0.4.0",
        "name": name,
        "type": "bridge",
        "bridge": f"br-{name}",
        "isGateway": True,
        "ipam": {
            "type": "host-local",
            "ranges": [[{"subnet": "10.77.1.0/24"}], [{"subnet": "fd77:1::/64"}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        },
        **more,
    }


@pytest.fixture
def kit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, net: Net) -> Iterator[Kit]:
    for kit in make_kit(tmp_path, monkeypatch):
        plain = kit.argv
        kit.network_of = net.host
        wrapped = ["nsenter", "-t", str(net.host), "-n", "--"]
        kit.argv = lambda *words, plain=plain, wrapped=wrapped: [*wrapped, *plain(*words)]  # type: ignore[method-assign]
        yield kit
        with inside(net.host):
            for uuid in kit.uuids():
                if get(kit.paths, uuid).state == "running":
                    stop(kit.paths, uuid, force=True, wait=True)
            for process in kit.processes:
                process.wait(timeout=60)
            done = collect(kit.paths, grace_period=0.0)
            assert done.errors == []
            links = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout
            assert "veth" not in links
        assert kept(kit) == []
        assert kit.paths.run not in Path("/proc/self/mountinfo").read_text()


def configure(kit: Kit, *networks: dict[str, Any] | bytes, start: int = 10) -> None:
    place = Path(kit.paths.local, "net.d")
    place.mkdir(parents=True, exist_ok=True)
    for number, network in enumerate(networks, start):
        if isinstance(network, bytes):
            (place / f"{number}.conf").write_bytes(network)
            continue
        kind = "conflist" if "plugins" in network else "conf"
        told = json.loads(
            json.dumps(network).replace('"host-local"', f'"host-local", "dataDir": "{kit.paths.run}/ipam"')
        )
        (place / f"{number}-{network['name']}.{kind}").write_text(json.dumps(told))


def kept(kit: Kit) -> list[str]:
    """Addresses that are given out."""
    return sorted(
        p.name for p in Path(kit.paths.run, "ipam").glob("*/*") if p.name[0].isdigit() or ":" in p.name
    )


def running(kit: Kit, *networks: str, script: str = SERVER, **options: Any) -> str:
    uuid = kit.prepare(kit.shell(script, name="main"), networks=list(networks), hostname="pod-a", **options)
    process = kit.start(uuid)
    assert process.stdout
    assert process.stdout.readline() == "up\n", process.communicate()
    until(lambda: get(kit.paths, uuid).apps[0].pid)
    return uuid


def test_a_bridge_joins_pods_of_both_families_and_addresses_are_given_back(kit: Kit, net: Net) -> None:
    configure(kit, lan())
    first, second = running(kit, "lan"), running(kit, "lan")
    (one,), (two,) = get(kit.paths, first).networks, get(kit.paths, second).networks
    assert (one["netName"], one["ifName"]) == ("lan", "eth0")
    assert one["ip"] != two["ip"]
    assert [":" in address for address in one["addresses"]] == [False, True]
    until(lambda: fetch(net.host, one["ip"], 8080) == "pod-a")
    pid = get(kit.paths, second).apps[0].pid
    assert pid
    until(lambda: fetch(pid, one["ip"], 8080) == "pod-a", what="one pod reaches the other")
    assert {one["ip"], two["ip"]} <= set(kept(kit))
    for uuid in (first, second):
        stop(kit.paths, uuid, wait=True)
    assert kept(kit) == []


def test_a_network_stands_beside_the_default_one_and_gets_arguments(kit: Kit, net: Net) -> None:
    configure(kit, lan())
    uuid = running(kit, "default", "lan:IP=10.77.1.77")
    names = [(each["netName"], each["ifName"], each["ip"]) for each in get(kit.paths, uuid).networks]
    assert [name[:2] for name in names] == [("default", "eth0"), ("lan", "eth1")]
    assert names[1][2] == "10.77.1.77"
    assert fetch(net.host, "10.77.1.77", 8080) == "pod-a"
    assert fetch(net.host, names[0][2], 8080) == "pod-a"


def test_a_chain_of_plugins_maps_ports(kit: Kit, net: Net) -> None:
    plugin = {key: value for key, value in lan().items() if key not in {"name", "cniVersion"}}
    portmap = {"type": "portmap", "capabilities": {"portMappings": True}}
    configure(kit, {"cniVersion": "0.4.0", "name": "lan", "plugins": [plugin, portmap]})
    uuid = running(kit, "lan", ports=[PortForward(host_port=8081, pod_port=8080)])
    until(lambda: fetch(net.client, "10.99.0.1", 8081) == "pod-a", what="the port answers from elsewhere")
    stop(kit.paths, uuid, wait=True)
    assert fetch(net.client, "10.99.0.1", 8081) == ""
    rules = net.on_host("iptables-save").stdout
    assert uuid[:8] not in rules


def test_macvlan_puts_a_pod_on_the_wire(kit: Kit, net: Net) -> None:
    ipam = {
        "type": "host-local",
        "subnet": "10.99.0.0/24",
        "rangeStart": "10.99.0.100",
        "rangeEnd": "10.99.0.110",
    }
    configure(kit, {"cniVersion": "0.4.0", "name": "wire", "type": "macvlan", "master": "up0", "ipam": ipam})
    uuid = running(kit, "wire")
    (network,) = get(kit.paths, uuid).networks
    until(lambda: fetch(net.client, network["ip"], 8080) == "pod-a", what="another host reaches it directly")


def test_the_restricted_network_is_between_host_and_pod_only(kit: Kit, net: Net) -> None:
    uuid = running(kit, "default-restricted")
    (network,) = get(kit.paths, uuid).networks
    assert network["ip"].startswith("172.31.")
    until(lambda: fetch(net.host, network["ip"], 8080) == "pod-a")
    pid = get(kit.paths, uuid).apps[0].pid
    routes = subprocess.run(
        ["nsenter", "-t", str(pid), "-n", "ip", "route"], capture_output=True, text=True, check=True
    ).stdout
    assert "default" not in routes


@pytest.mark.parametrize("how", ["launcher", "everything"])
def test_a_pod_that_is_killed_gives_everything_back(kit: Kit, net: Net, how: str) -> None:
    configure(kit, lan())
    uuid = running(kit, "lan")
    pod = get(kit.paths, uuid)
    kit.processes[0].kill()
    kit.processes[0].wait()
    if how == "everything" and pod.pid:
        until(lambda: not os.path.exists(f"/proc/{pod.pid}"), seconds=60)
    until(lambda: get(kit.paths, uuid).state == "exited", seconds=60)
    with inside(net.host):
        assert collect(kit.paths, grace_period=0.0).errors == []
    assert kept(kit) == []


def test_many_at_once_get_addresses_of_their_own(kit: Kit, net: Net) -> None:
    configure(kit, lan())
    uuids = [
        kit.prepare(kit.shell("ip -o -4 addr show eth0", name="main"), networks=["lan"]) for _ in range(12)
    ]
    processes = [kit.start(uuid) for uuid in uuids]
    found = []
    for process in processes:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        found.append(out.split()[3])
    assert len(set(found)) == 12
    assert kept(kit) == []


def test_a_network_says_which_name_servers_there_are(kit: Kit, net: Net) -> None:
    configure(kit, lan(dns={"nameservers": ["10.77.1.1"], "search": ["lan.example"]}))
    uuid = kit.prepare(kit.shell("cat /etc/resolv.conf", name="main"), networks=["lan"])
    lines = [line for line in kit.run(uuid).stdout.splitlines() if not line.startswith("#")]
    assert sorted(lines) == ["nameserver 10.77.1.1", "search lan.example"]


PLUGIN = "#!/bin/sh\ncat > /dev/null\n"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ('echo \'{"code": 7, "msg": "no room", "details": "at all"}\'; exit 1', "failed: no room at all"),
        ("echo broken >&2; exit 3", "failed: broken"),
        ("exit 3", "failed: status 3"),
        ("kill -SEGV $$", "failed: status 139"),
        ("echo nonsense", "gave no result"),
        ("echo '[]'", "gave no result"),
        ("true", "gave no result"),
    ],
)
def test_a_plugin_that_fails_is_told_in_one_line_and_nothing_stays(
    kit: Kit, net: Net, body: str, said: str
) -> None:
    configure(kit, lan("good"), {"name": "bad", "type": "bad-plugin"})
    program = Path(kit.paths.local, "net.d/bad-plugin")
    program.write_text(f'{PLUGIN}[ "$CNI_COMMAND" = DEL ] && exit 0\n{body}\n')
    program.chmod(0o755)
    uuid = kit.prepare(kit.shell("true", name="main"), networks=["good", "bad"])
    done = kit.run(uuid, timeout=60)
    assert done.returncode == 254
    (line,) = [each for each in done.stderr.splitlines() if "warning" not in each]
    assert line.startswith('run-prepared: the plugin "bad-plugin" of network "bad" ')
    assert said in line
    assert kept(kit) == []
    assert get(kit.paths, uuid).state == "prepared"


def test_a_plugin_that_says_nothing_is_ended_with_its_children(
    kit: Kit, net: Net, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(kit, {"name": "bad", "type": "bad-plugin"})
    program = Path(kit.paths.local, "net.d/bad-plugin")
    program.write_text(
        f'{PLUGIN}[ "$CNI_COMMAND" = DEL ] && exit 0\necho $$ > {tmp_path}/pid\nsleep 1000 & sleep 1000\n'
    )
    program.chmod(0o755)
    plain = kit.argv
    changed = "import gantry.network.cni as c; c._SECONDS = 1.0; from gantry.pods.launch import main; "
    kit.argv = lambda *words: [  # type: ignore[method-assign]
        word.replace("from gantry.pods.launch import main; ", changed) for word in plain(*words)
    ]
    done = kit.run(kit.prepare(kit.shell("true", name="main"), networks=["bad"]), timeout=60)
    assert "was silent for 1 s and was ended" in done.stderr
    group = (tmp_path / "pid").read_text().strip()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            os.killpg(int(group), 0)
        except ProcessLookupError:
            break
    else:
        pytest.fail("the plugin's children live on")


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["missing"], r"networks not found: missing \(there are default, none, host, lan"),
        (["lan", "lan"], 'found duplicate netname "lan"'),
        (["host", "lan"], '"host" cannot be combined'),
        (["none:IP=1"], 'arguments are not supported by special netname "none"'),
        (["lan:IP"], 'network "lan" provided with invalid arguments'),
    ],
)
def test_names_that_mean_nothing_are_refused(kit: Kit, net: Net, names: list[str], said: str) -> None:
    configure(kit, lan())
    with pytest.raises(GantryError, match=said):
        kit.prepare(kit.shell("true"), networks=names)
    assert kit.uuids() == []


def test_ports_need_a_network_that_maps_them(kit: Kit, net: Net) -> None:
    configure(kit, lan())
    with pytest.raises(GantryError, match="ports cannot be forwarded"):
        kit.prepare(kit.shell("true"), networks=["lan"], ports=[PortForward(host_port=80, pod_port=80)])


def test_a_plugin_that_is_missing_is_told_before_anything_is_made(kit: Kit, net: Net) -> None:
    configure(kit, {"name": "odd", "type": "no-such-plugin"})
    with pytest.raises(GantryError, match='Could not find plugin "no-such-plugin" of network "odd"'):
        kit.prepare(kit.shell("true"), networks=["odd"])
    assert kit.uuids() == []


@pytest.mark.parametrize(
    "content",
    [
        b"", b"[]", b"{", b"\xff\xfe", b'{"type": "bridge"}', b'{"name": "x"}',
        b'{"name": "x", "type": "../x"}',
        b'{"name": "a,b", "type": "bridge"}', b'{"name": "default", "type": "bridge"}', b"[" * 100000,
        b'{"name": "x", "type": "bridge", "cniVersion": 4}',
    ],
)  # fmt: skip
def test_odd_files_do_not_keep_others_from_being_used(kit: Kit, net: Net, content: bytes) -> None:
    configure(kit, content, lan())
    found, notes = load(kit.paths)
    assert set(found) == {"lan", "default-restricted"}
    assert len(notes) == 1
    assert notes[0].startswith(f"{kit.paths.local}/net.d/10.conf: ")
    kit.prepare(kit.shell("true"), networks=["lan"])
    with pytest.raises(GantryError, match=r"networks not found: x .*10\.conf"):
        kit.prepare(kit.shell("true"), networks=["x"])


def test_of_two_files_the_first_has_the_name_and_the_administrators_first(kit: Kit, net: Net) -> None:
    configure(kit, lan(mtu=1400), start=20)
    configure(kit, lan(mtu=1300), start=10)
    vendor = Path(kit.paths.system, "net.d")
    vendor.mkdir(parents=True)
    (vendor / "01.conf").write_text(json.dumps(lan(mtu=1200)))
    (vendor / "02.conf").write_text(json.dumps(lan("other")))
    found, notes = load(kit.paths)
    assert found["lan"].plugins[0]["mtu"] == 1300
    assert set(found) == {"lan", "other", "default-restricted"}
    assert len(notes) == 2


def test_all_means_every_network_that_is_configured(kit: Kit, net: Net) -> None:
    configure(kit, lan())
    uuid = running(kit, "all")
    assert [each["netName"] for each in get(kit.paths, uuid).networks] == ["default", "lan"]
    kit.processes[0].send_signal(signal.SIGTERM)
    kit.processes[0].wait(60)
    remove(kit.paths, uuid)


def test_what_can_be_reached_is_listed(kit: Kit, net: Net) -> None:
    configure(kit, lan(), b"{")
    ports = [
        PortForward(host_port=8081, pod_port=8080),
        PortForward(host_port=8082, pod_port=8080, host_ip="127.0.0.1"),
        PortForward(host_port=8083, pod_port=8080, host_ip="10.99.0.1"),
    ]
    uuid = running(kit, "default", "lan", ports=ports)
    hosted = running(kit, "host", script="echo up; sleep 1000")
    listed = gantry(kit, "--format=json", "network", "exposure")
    seen = {
        (each["uuid"], each["network"], each["address"], each["port"]): each["reached_from"]
        for each in json.loads(listed.stdout)
    }
    first, second = (each["ip"] for each in get(kit.paths, uuid).networks)
    assert seen == {
        (uuid, "default", first, None): "this host",
        (uuid, "default", "", 8081): "everywhere",
        (uuid, "default", "127.0.0.1", 8082): "this host",
        (uuid, "default", "10.99.0.1", 8083): "whoever reaches 10.99.0.1",
        (uuid, "lan", second, None): "this host and network lan",
        (hosted, "host", "", None): "everywhere",
    }
    assert "8082/tcp" in gantry(kit, "network", "exposure").stdout
    shown = gantry(kit, "network", "list")
    rows = [line.split() for line in shown.stdout.splitlines()]
    assert ["lan", "bridge", f"{kit.paths.local}/net.d/10-lan.conf"] in rows
    assert "11.conf: is no JSON" in shown.stderr


def gantry(kit: Kit, *words: str) -> subprocess.CompletedProcess[str]:
    code = f"import sys; sys.path.insert(0, {RUNTIME!r}); from gantry.cli import main; sys.exit(main())"
    p = kit.paths
    places = [
        f"--dir={p.data}",
        f"--run-dir={p.run}",
        f"--local-config={p.local}",
        f"--system-config={p.system}",
    ]
    return subprocess.run(
        [sys.executable, "-c", code, *places, *words], capture_output=True, text=True, timeout=60, check=False
    )
