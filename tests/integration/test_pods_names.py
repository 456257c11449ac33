"""What apps find in /etc/hosts and /etc/resolv.conf (RKT-INVENTORY 8.6, OSL-14 ... OSL-17)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.pods import Kit, make_kit

from gantry.errors import UsageError
from gantry.pods import etc
from gantry.pods.request import Lookup

pytestmark = pytest.mark.root
OWN = {"/etc/resolv.conf": "nameserver 192.0.2.99\n", "/etc/hosts": "192.0.2.99 image\n"}


@pytest.fixture
def kit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kit]:
    yield from make_kit(tmp_path, monkeypatch)


@pytest.fixture(autouse=True)
def _host(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "nameserver 127.0.0.53\nnameserver 198.51.100.7\nsearch lan\noptions edns0 trust-ad\n"
    monkeypatch.setattr(etc, "host_texts", lambda: [text])


def seen(kit: Kit, lookup: Lookup, network: str = "none", files: dict[str, str] | None = None) -> list[str]:
    script = "cat /etc/resolv.conf; echo --; cat /etc/hosts"
    app = kit.shell(script, image=kit.store.add(files=files or {}))
    done = kit.run(kit.prepare(app, networks=[network], lookup=lookup))
    assert done.returncode == 0, done.stderr
    return done.stdout.split("--\n")


@pytest.mark.parametrize(
    ("lookup", "lines"),
    [
        (Lookup(), ["nameserver 192.0.2.99"]),  # the image's
        (Lookup(servers=("none",)), ["nameserver 192.0.2.99"]),
        (
            Lookup(servers=("192.0.2.1", "2001:db8::1"), search=("a", "b"), options=("ndots:2",), domain="d"),
            ["search a b", "options ndots:2", "domain d", "nameserver 192.0.2.1", "nameserver 2001:db8::1"],
        ),
        (Lookup(search=("a",)), ["search a"]),
        (Lookup(servers=("none",), options=("rotate",)), ["options rotate"]),
    ],
)
def test_name_servers_without_a_network(kit: Kit, lookup: Lookup, lines: list[str]) -> None:
    resolver, _ = seen(kit, lookup, files=OWN)
    assert [line for line in resolver.splitlines() if not line.startswith("#")] == lines


@pytest.mark.parametrize(
    ("lookup", "lines"),
    [
        (Lookup(), ["search lan", "options edns0 trust-ad", "nameserver 198.51.100.7"]),
        (Lookup(search=("a",)), ["options edns0 trust-ad", "search a", "nameserver 198.51.100.7"]),
        (Lookup(servers=("192.0.2.1",)), ["nameserver 192.0.2.1"]),
        (Lookup(servers=("none",)), []),
    ],
)
def test_name_servers_in_a_network_of_its_own(lookup: Lookup, lines: list[str]) -> None:
    chosen: dict[str, str | None] = {}
    etc._choose_resolver(chosen, "default", lookup)
    text = chosen.get("resolv.conf") or ""
    assert [line for line in text.splitlines() if not line.startswith("#")] == lines


def test_the_hosts_own_files(kit: Kit) -> None:
    for network in ("none", "host"):
        resolver, hosts = seen(kit, Lookup(servers=("host",), hosts_of_host=True), network, OWN)
        assert resolver == Path("/etc/resolv.conf").read_text()
        assert hosts == Path("/etc/hosts").read_text()


def test_entries_go_over_the_images_file(kit: Kit) -> None:
    entries = (("192.0.2.5", "db"), ("2001:db8::5", "db"), ("192.0.2.5", "db.example.com"))
    for network in ("none", "host"):
        _, hosts = seen(kit, Lookup(hosts=entries), network, OWN)
        lines = hosts.splitlines()
        assert lines[0].startswith("127.0.0.1 localhost localhost.domain localhost4 localhost4.localdomain4 ")
        assert lines[-2:] == ["192.0.2.5 db db.example.com", "2001:db8::5 db"]
        assert "192.0.2.99 image" not in lines


def test_OSL_17_files_are_made_where_the_image_has_none(kit: Kit) -> None:
    lookup = Lookup(servers=("192.0.2.1",), hosts=(("192.0.2.5", "db"),))
    resolver, hosts = seen(kit, lookup)
    assert "nameserver 192.0.2.1\n" in resolver
    assert "192.0.2.5 db\n" in hosts


@pytest.mark.parametrize(
    "lookup",
    [
        Lookup(servers=("example.com",)),
        Lookup(servers=("192.0.2.1", "host")),
        Lookup(search=("a b",)),
        Lookup(options=("x\nnameserver 192.0.2.66",)),
        Lookup(domain="#"),
        Lookup(hosts=(("192.0.2.1", "a\n192.0.2.66 b"),)),
        Lookup(hosts=(("localhost", "a"),)),
    ],
)
def test_what_would_be_read_as_something_else_is_refused(kit: Kit, lookup: Lookup) -> None:
    with pytest.raises(UsageError):
        kit.prepare(kit.shell("true"), lookup=lookup)
