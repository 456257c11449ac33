"""The parts of the test hosts that need no host: specs, archives, the cache, files that a host is given."""

from __future__ import annotations

import json
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from testhosts import cache, fleet, roots, seed, ssh, vms
from testhosts.cpio import Entry, archive
from testhosts.errors import HostsError
from testhosts.seed import File
from testhosts.spec import Spec, load, parse

THREE = {
    "hosts": [
        {"name": "images", "groups": ["image_servers"], "aliases": ["example.com"]},
        {"name": "app1", "groups": ["app_hosts"], "vars": {"gantry_x": 1}},
        {"name": "app2", "suite": "trixie", "kind": "vm", "memory": 512},
    ],
    "vars": {"shared": True},
}


def test_a_spec_gives_each_host_an_address_of_its_own() -> None:
    spec = parse(THREE)
    assert [host.address for host in spec.hosts] == ["10.77.0.11", "10.77.0.12", "10.77.0.13"]
    assert [host.kind for host in spec.hosts] == ["machine", "machine", "vm"]
    assert [host.suite for host in spec.hosts] == ["bookworm", "bookworm", "trixie"]
    assert len({host.mac for host in spec.hosts}) == 3
    assert spec.hosts[2].memory == 512
    assert spec.vars == {"shared": True}


def test_defaults_hold_for_every_host_that_says_nothing_else() -> None:
    spec = parse(
        {
            "defaults": {"kind": "vm", "suite": "trixie"},
            "hosts": [{"name": "a"}, {"name": "b", "kind": "machine"}],
        }
    )
    assert [(host.kind, host.suite) for host in spec.hosts] == [("vm", "trixie"), ("machine", "trixie")]


@pytest.mark.parametrize(
    ("document", "told"),
    [
        (None, "must be a mapping"),
        ([], "must be a mapping"),
        ({}, "hosts must be a list"),
        ({"hosts": []}, "hosts must be a list"),
        ({"hosts": [{"name": "a"}], "host": 1}, "unknown key host"),
        ({"hosts": ["a"]}, "hosts[0]: must be a mapping"),
        ({"hosts": [{}]}, "hosts[0]: name None"),
        ({"hosts": [{"name": "A"}]}, "name 'A'"),
        ({"hosts": [{"name": "a/../b"}]}, "name 'a/../b'"),
        ({"hosts": [{"name": "a" * 25}]}, "must be 1 to 24"),
        ({"hosts": [{"name": "a", "kind": "pod"}]}, "kind 'pod' is not one of machine, vm"),
        ({"hosts": [{"name": "a", "suite": "sid"}]}, "suite 'sid'"),
        ({"hosts": [{"name": "a", "memory": True}]}, "memory must be"),
        ({"hosts": [{"name": "a", "memory": 100}]}, "memory must be"),
        ({"hosts": [{"name": "a", "groups": "g"}]}, "groups: must be a list"),
        ({"hosts": [{"name": "a", "aliases": ["a b"]}]}, "alias 'a b'"),
        ({"hosts": [{"name": "a"}, {"name": "a"}]}, "two hosts are called a"),
        ({"hosts": [{"name": "a"}, {"name": "b", "aliases": ["a"]}]}, "two hosts are called a"),
        ({"hosts": [{"name": "a", "colour": "red"}]}, "unknown key colour"),
        ({"hosts": [{"name": "a", "packages": "podman"}]}, "packages: must be a list"),
        ({"hosts": [{"name": "a", "packages": ["a,b"]}]}, "package 'a,b' is no name"),
        ({"hosts": [{"name": "a", "packages": ["--x"]}]}, "package '--x' is no name"),
        ({"hosts": [{"name": "a", "kind": "vm", "packages": ["podman"]}]}, "packages are for machines"),
        ({"defaults": {"packages": ["podman"]}, "hosts": [{"name": "a"}]}, "unknown key packages"),
        ({"hosts": [{"name": f"h{i}"} for i in range(61)]}, "1 to 60 hosts"),
    ],
)
def test_an_impossible_fleet_is_refused_with_the_place(document: Any, told: str) -> None:
    with pytest.raises(HostsError) as caught:
        parse(document)
    assert told in str(caught.value)


def test_a_spec_that_is_missing_or_not_yaml_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HostsError, match="cannot read"):
        load(tmp_path / "none.yml")
    broken = tmp_path / "broken.yml"
    broken.write_text("hosts: [")
    with pytest.raises(HostsError, match="is not YAML"):
        load(broken)


def test_hosts_know_each_other_by_name_and_alias() -> None:
    lines = seed.hosts_file(parse(THREE).hosts).splitlines()
    assert "10.77.0.11 images example.com" in lines
    assert "10.77.0.13 app2" in lines


def read_cpio(data: bytes) -> list[Entry]:
    """The members of a newc archive, read from the format's description, not from the writer."""
    entries: list[Entry] = []
    at = 0
    while True:
        assert data[at : at + 6] == b"070701"
        fields = [int(data[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)]
        name = data[at + 110 : at + 110 + fields[11] - 1].decode()
        body = at + 110 + fields[11]
        body += -body % 4
        if name == "TRAILER!!!":
            return entries
        entries.append(Entry(name, data[body : body + fields[6]], fields[1]))
        at = body + fields[6]
        at += -at % 4


@given(
    st.lists(
        st.builds(
            Entry,
            name=st.text("abc/._-", min_size=1, max_size=30),
            content=st.binary(max_size=70),
            mode=st.sampled_from([0o100644, 0o100755, 0o040755]),
        ),
        max_size=8,
    )
)
def test_an_archive_reads_back(entries: list[Entry]) -> None:
    whole = archive(entries)
    assert read_cpio(whole) == entries
    assert len(whole) % 512 == 0, "another archive must be able to follow"


def test_the_seed_of_a_vm_brings_parents_before_files_and_keeps_secrets_secret() -> None:
    members = read_cpio(
        vms.seed_archive([File("/root/.ssh/authorized_keys", b"key", 0o600), File("/etc/hostname", b"x")])
    )
    modes = {entry.name: entry.mode for entry in members}
    assert modes == {
        "seed": 0o040755,
        "seed/root": 0o040700,
        "seed/root/.ssh": 0o040700,
        "seed/root/.ssh/authorized_keys": 0o100600,
        "seed/etc": 0o040755,
        "seed/etc/hostname": 0o100644,
    }
    assert list(modes) == [
        "seed",
        "seed/root",
        "seed/root/.ssh",
        "seed/root/.ssh/authorized_keys",
        "seed/etc",
        "seed/etc/hostname",
    ]


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GANTRY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_thing_is_made_once_however_many_ask(own_cache: Path) -> None:
    made: list[int] = []

    def make(target: Path, _scratch: Path) -> None:
        made.append(1)
        target.write_text("whole")

    threads = [threading.Thread(target=cache.ensure, args=("thing", make)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [1]
    assert cache.ensure("thing", make).read_text() == "whole"


def test_an_interrupted_make_leaves_nothing_that_looks_whole(own_cache: Path) -> None:
    def broken(target: Path, scratch: Path) -> None:
        target.write_text("half")
        (scratch / "more").write_text("x")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.ensure("thing", broken)
    assert [path.name for path in own_cache.iterdir()] == ["thing.lock"]


def test_what_a_killed_maker_left_is_no_obstacle(own_cache: Path) -> None:
    stale = own_cache / "thing.making"
    stale.mkdir(parents=True)
    (stale / "target").write_text("half")

    def make(target: Path, _scratch: Path) -> None:
        target.write_text("whole")

    assert cache.ensure("thing", make).read_text() == "whole"


def test_keys_change_with_every_part() -> None:
    assert cache.key("a", ["b"]) != cache.key("a", ["c"])
    assert cache.key("a", "b") != cache.key("ab")


def test_a_failing_program_is_one_line_with_its_last_word() -> None:
    with pytest.raises(HostsError) as caught:
        cache.run(["sh", "-c", "echo first; echo the reason >&2; exit 3"], what="making it")
    assert str(caught.value) == "making it failed with status 3: the reason"
    with pytest.raises(HostsError, match="is not installed"):
        cache.run(["no-such-program-here"])


def test_destroy_touches_no_directory_that_is_not_a_fleet(tmp_path: Path) -> None:
    stranger = tmp_path / "home"
    stranger.mkdir()
    (stranger / "letter").write_text("dear")
    with pytest.raises(HostsError, match="is no state directory: it holds letter"):
        fleet.destroy(stranger)
    assert (stranger / "letter").read_text() == "dear"


def test_destroy_of_nothing_is_no_error(tmp_path: Path) -> None:
    assert fleet.destroy(tmp_path / "never") is False
    (tmp_path / "empty").mkdir()
    assert fleet.destroy(tmp_path / "empty") is False
    assert not (tmp_path / "empty").exists()


def test_a_state_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(HostsError, match="there is no fleet in"):
        fleet.load(tmp_path)
    (tmp_path / "state.json").write_text("{")
    with pytest.raises(HostsError, match="cannot be understood"):
        fleet.load(tmp_path)


def test_packages_of_a_host_are_a_base_of_its_own_in_whatever_order() -> None:
    listed = [[], ["wrk", "podman"], ["podman", "wrk", "wrk"]]
    spec = parse({"hosts": [{"name": f"h{i}", "packages": names} for i, names in enumerate(listed)]})
    assert [host.packages for host in spec.hosts] == [(), ("podman", "wrk"), ("podman", "wrk")]


def test_each_set_of_packages_has_a_root_of_its_own(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[tuple[str, list[str]]] = []

    def mmdebstrap(suite: str, target: Path, _scratch: Path, arguments: list[str]) -> None:
        (include,) = (word for word in arguments if word.startswith("--include="))
        built.append((suite, include.removeprefix("--include=").split(",")))
        target.write_bytes(b"root")

    def run(argv: list[str], **_options: object) -> str:
        assert argv[0] == "zstd"
        Path(argv[-1]).write_bytes(b"packed")
        return ""

    monkeypatch.setattr(roots, "mmdebstrap", mmdebstrap)
    monkeypatch.setattr(cache, "run", run)
    plain, more = roots.archive("bookworm"), roots.archive("bookworm", ("podman",))
    assert plain != more
    assert roots.archive("bookworm", ("podman",)) == more, "made once"
    assert built == [("bookworm", [*roots.PACKAGES]), ("bookworm", [*roots.PACKAGES, "podman"])]


def test_a_fleet_reads_its_own_record(tmp_path: Path) -> None:
    spec = parse({"hosts": [{"name": "a", "packages": ["podman"], "aliases": ["b"], "groups": ["g"]}]})
    state = {"id": "00c0ffee", "hosts": [asdict(host) for host in spec.hosts]}
    (tmp_path / "state.json").write_text(json.dumps(state))
    assert fleet.load(tmp_path).hosts == spec.hosts


def test_the_inventory_is_what_ansible_wants(tmp_path: Path) -> None:
    spec = parse(THREE)
    made = fleet.Fleet(tmp_path, "00c0ffee", spec.hosts)
    fleet.write_inventory(made, spec)
    inventory = yaml.safe_load(made.inventory.read_text())["all"]
    assert inventory["hosts"]["app1"] == {"ansible_host": "10.77.0.12", "gantry_x": 1}
    assert inventory["children"] == {
        "image_servers": {"hosts": {"images": {}}},
        "app_hosts": {"hosts": {"app1": {}}},
    }
    assert inventory["vars"]["shared"] is True
    assert inventory["vars"]["ansible_ssh_common_args"] == f"-F {tmp_path}/ssh_config"


def test_sockets_have_room_for_the_longest_name(tmp_path: Path) -> None:
    """A socket's path holds 107 bytes, and ssh adds 17 while it makes one."""
    longest = fleet.Fleet(tmp_path, "0" * 8, ()).sockets / ("h" * 24)
    assert len(str(longest)) + 17 < 107


def test_ssh_trusts_only_the_keys_that_were_made_for_the_fleet(tmp_path: Path) -> None:
    spec: Spec = parse(THREE)
    config = tmp_path / "ssh_config"
    ssh.write_config(
        config,
        spec.hosts,
        netns=tmp_path / "netns",
        key=tmp_path / "key",
        known=tmp_path / "known",
        sockets=tmp_path,
    )
    text = config.read_text()
    assert "StrictHostKeyChecking yes" in text
    assert "Host app1 10.77.0.12\n  HostName 10.77.0.12" in text
