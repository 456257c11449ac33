"""The metadata service and the signer: two processes, each with what it needs and no more."""

from __future__ import annotations

import pytest
from tests.infra.nodes import Node, group, wait_for

testinfra_hosts = group("gantry_app_hosts")

SERVICES = [("gantry-metadata", "gantry-metadata"), ("gantry-signer", "gantry-signer")]


@pytest.mark.parametrize(("unit", "user"), SERVICES)
def test_it_runs_as_its_own_user_without_capabilities(node: Node, unit: str, user: str) -> None:
    assert node.run(f"systemctl is-active {unit}.service {unit}.socket").split() == ["active", "active"]
    assert node.run(f"systemctl is-enabled {unit}.service {unit}.socket").split() == [
        "enabled",
        "enabled",
    ]
    pid = node.run(f"systemctl show -P MainPID {unit}.service")
    assert node.run(f"stat -c %U /proc/{pid}") == user
    status = dict(
        line.split(":", 1) for line in node.run(f"cat /proc/{pid}/status").splitlines() if ":" in line
    )
    for name in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
        assert int(status[name].strip(), 16) == 0, name
    assert status["NoNewPrivs"].strip() == "1"
    assert set(status["Uid"].split()) == {node.run(f"id -u {user}")}


def test_leftovers_are_removed_regularly(node: Node) -> None:
    timer = "gantry-gc.timer"
    assert node.run(f"systemctl is-enabled {timer}; systemctl is-active {timer}").split() == [
        "enabled",
        "active",
    ]
    assert node.run(f"systemctl list-timers --no-legend {timer}").split()[0] != "-", "no next time"
    node.run("systemctl start gantry-gc.service")
    assert node.json("gantry status hello --format=json")["state"] == "running"


MEMBER_FETCHES = """
set -e; d=$(mktemp -d); trap "rm -rf $d" EXIT; chmod 755 $d; cd $d
useradd --create-home --groups gantry member 2>/dev/null || true
mkdir -p m/rootfs
echo '{"acKind": "ImageManifest", "acVersion": "0.8.11", "name": "example.com/member"}' > m/manifest
gantry build m m.aci > built
export GNUPGHOME=$d/keys; mkdir -m 700 keys
gpg --batch --quiet --passphrase '' --quick-generate-key 'M <m@example.com>' ed25519 sign never
gpg --armor --export-secret-keys > secret.asc; gpg --armor --export > public.asc; chmod 600 secret.asc
gantry sign --key=secret.asc m.aci > /dev/null
fpr=$(gpg --with-colons --list-keys | awk -F: '/^fpr/ {print $10; exit}')
gantry trust --prefix=example.com/member --fingerprint=$fpr public.asc > /dev/null
setpriv --reuid=member --regid=member --init-groups gantry fetch $d/m.aci 2> told || { cat told; false; }
grep 'handed over: 1 image' told || { cat told; false; }
cat built
"""


def test_members_of_the_group_fetch_and_the_host_takes_in(node: Node) -> None:
    """Without root, and without anybody typing the command: a unit watches."""
    assert node.run("systemctl is-active gantry-adopt.path") == "active"
    try:
        image = node.run(MEMBER_FETCHES).splitlines()[-1]
        wait_for(
            lambda: any(found["id"] == image for found in node.json("gantry image list --format=json")),
            "the image to be taken in",
        )
        assert node.run("ls -A /var/lib/gantry/images/incoming/handed/*/images/image") == ""
        told = node.fails(
            "setpriv --reuid=member --regid=member --init-groups gantry image rm example.com/member"
        )
        assert "Permission denied" in told or "root" in told
    finally:
        for key in node.json("gantry trust list --format=json"):
            if key["prefix"] == "example.com/member":
                node.run(f"gantry trust rm --prefix=example.com/member {key['fingerprint']}")
        if node.succeeds("gantry image cat-manifest example.com/member"):
            node.run("gantry image rm example.com/member")
        node.run(
            "userdel --remove member 2>/dev/null || true; rm -rf /var/lib/gantry/images/incoming/handed/*"
        )


def test_keys_are_the_signers_alone(node: Node) -> None:
    directory = node.host.file("/var/lib/gantry/signer/keys")
    assert (directory.user, directory.mode) == ("gantry-signer", 0o700)
    modes = node.run("stat -c '%U %a' /var/lib/gantry/signer/keys/*").splitlines()
    assert modes
    assert set(modes) == {"gantry-signer 600"}
    become = "setpriv --reuid=gantry-metadata --regid=gantry-metadata --clear-groups"
    told = node.fails(f"{become} ls /var/lib/gantry/signer/keys")
    assert "Permission denied" in told


def test_the_key_is_trusted_for_its_prefix_only(node: Node) -> None:
    files = node.run("find /etc/gantry/trustedkeys -type f ! -name '.*'").splitlines()
    assert len(files) == 1
    assert files[0].startswith("/etc/gantry/trustedkeys/prefix.d/example.com/hello/")
    assert node.host.file(files[0]).mode == 0o644


def test_the_key_is_in_a_set_of_its_own_and_can_be_taken_back(node: Node) -> None:
    """What the role has made trusted is known to be its work, so that taking it off the list removes it."""
    ledger = node.json("cat /var/lib/gantry/apply/sets/site-trust.json")
    assert len(ledger["made"]["trust"]) == 1
    assert ledger["made"] == ledger["wants"]


def test_the_record_is_whole_and_tells_the_story(node: Node) -> None:
    node.run("gantry audit verify")
    events = [entry["event"] for entry in node.json("gantry audit list --format=json")]
    for event in ("trust.add", "image.fetch", "pod.prepare", "pod.run"):
        assert event in events, events
    assert events.index("trust.add") < events.index("image.fetch") < events.index("pod.run")
