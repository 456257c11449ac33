"""Which network, which ports: decided without touching the host; and the firewall table they give."""

from __future__ import annotations

import os
import subprocess

import pytest

from gantry.appc.parts import Port
from gantry.appc.pod_manifest import ExposedPort
from gantry.errors import GantryError
from gantry.network.plan import mode, ports
from gantry.network.wire import Record, overlaps, table


def port(name: str = "http", **fields: object) -> Port:
    return Port(**{"name": name, "protocol": "tcp", "port": 80, **fields})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("names", "result"),
    [([], "default"), ([""], "default"), (["default"], "default"), (["none"], "none"), (["host"], "host")],
)
def test_the_network(names: list[str], result: str) -> None:
    assert mode(names) == result


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["lan", "default", "wan"], "networks not found: lan, wan"),
        (["host", "default"], 'network "host" cannot be combined'),
        (["default", "default"], 'network "default" is named twice'),
        (["host:IP=1"], 'network "host" takes no arguments'),
    ],
)
def test_networks_that_are_refused(names: list[str], message: str) -> None:
    with pytest.raises(GantryError, match=message):
        mode(names)


def test_POD_23_POD_27_TRAP_26_names_numbers_and_ranges() -> None:
    declared = [("web", port(count=2))]
    assert [
        (each["host_port"], each["pod_port"])
        for each in ports([ExposedPort("http", 8080, None, None)], declared, "default")
    ] == [
        (8080, 80),
        (8081, 81),
    ]
    [one] = ports([ExposedPort("dns", 53, "10.0.0.1", port("x", protocol="udp", port=5353))], [], "default")
    assert one == {"protocol": "udp", "host_ip": "10.0.0.1", "host_port": 53, "pod_port": 5353}
    assert ports([ExposedPort("http", 1, "0.0.0.0", None)], declared, "default")[0]["host_ip"] == ""


@pytest.mark.parametrize(
    ("exposed", "network", "message"),
    [
        ([ExposedPort("ssh", 22, None, None)], "default", 'port name "ssh" could not be found in any apps'),
        ([ExposedPort("twice", 22, None, None)], "default", 'port name "twice" defined multiple apps'),
        ([ExposedPort("http", 80, None, None)], "none", 'ports cannot be forwarded with network "none"'),
        ([ExposedPort("http", 80, None, None)], "host", 'ports cannot be forwarded with network "host"'),
        ([ExposedPort("sctp", 80, None, None)], "default", "speaks sctp"),
        (
            [ExposedPort("http", 80, None, None), ExposedPort("http", 80, "10.0.0.1", None)],
            "default",
            "already mapped",
        ),
        ([ExposedPort("range", 65535, None, None)], "default", "ends beyond host port 65535"),
    ],
)
def test_POD_23_POD_24_POD_28_ports_that_are_refused(
    exposed: list[ExposedPort], network: str, message: str
) -> None:
    declared = [
        ("a", port()), ("a", port("twice")), ("b", port("twice")), ("a", port("sctp", protocol="sctp")),
        ("a", port("range", count=2)),
    ]  # fmt: skip
    with pytest.raises(GantryError, match=message):
        ports(exposed, declared, network)


def entry(**fields: object) -> dict[str, object]:
    return {"protocol": "tcp", "host_ip": "", "host_port": 80, "pod_port": 80, **fields}


def test_POD_28_overlap() -> None:
    assert overlaps(entry(), entry(host_ip="10.0.0.1"))
    assert not overlaps(entry(), entry(protocol="udp"))
    assert not overlaps(entry(host_ip="10.0.0.1"), entry(host_ip="10.0.0.2"))


def record(number: int, *ports: dict[str, object]) -> Record:
    uuid = f"{number:08x}-0000-4000-8000-000000000000"
    return Record(
        address=f"172.16.28.{number}",
        uuid=uuid,
        pod="/p",
        boot="b",
        interface=f"gantry-{uuid[:8]}",
        ports=list(ports),
    )


def test_the_table_names_what_the_records_say() -> None:
    text = table([record(2, entry(), entry(host_port=81, host_ip="10.0.0.1")), record(3)]).decode()
    assert "elements = { tcp . 80 : 172.16.28.2 . 80 };" in text
    assert "elements = { 10.0.0.1 . tcp . 81 : 172.16.28.2 . 80 };" in text
    assert '"gantry-00000002" . 172.16.28.2, "gantry-00000003" . 172.16.28.3' in text
    assert text.startswith("table inet gantry\ndelete table inet gantry\n")
    assert table([]).decode().count("\n") == 2


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
@pytest.mark.parametrize("count", [0, 1, 250])
def test_nft_takes_the_table(count: int) -> None:
    records = [record(2 + number, entry(host_port=1000 + number)) for number in range(count)]
    command = ["unshare", "-n", "nft", "-c", "-f", "-"]
    subprocess.run(command, input=table(records), check=True, timeout=20)


def test_a_torn_record_is_no_record(tmp_path: os.PathLike[str]) -> None:
    for content in (b"", b"{", b"[]", b'{"uuid":1}'):
        path = os.path.join(tmp_path, "172.16.28.9")
        with open(path, "wb") as file:
            file.write(content)
        assert Record.load(path) is None
