"""The installed runtime: one release, complete, reachable, and nothing else changed about the host."""

from __future__ import annotations

from tests.infra.nodes import Node, group

testinfra_hosts = [*group("gantry_image_servers"), *group("gantry_app_hosts")]

CHECK = """
import hashlib, json, os, sys
root = "/opt/gantry/current/"
files = json.load(open(root + "MANIFEST.json"))["files"]
bad = [n for n, f in files.items() if hashlib.sha256(open(root + n, "rb").read()).hexdigest() != f["sha256"]]
modes = [n for n, f in files.items() if os.stat(root + n).st_mode & 0o777 != int(f["mode"], 8)]
real = os.path.realpath(root)
there = {os.path.relpath(os.path.join(d, n), real) for d, _s, ns in os.walk(real) for n in ns}
strange = [n for n in there - set(files) - {"MANIFEST.json", ".complete"} if not n.endswith(".pyc")]
print(json.dumps({"count": len(files), "bad": bad, "modes": modes, "strange": strange}))
"""


def test_the_host_is_well(node: Node) -> None:
    assert node.run("systemctl is-system-running || systemctl --failed --no-legend") == "running"


def test_current_is_a_link_to_one_release(node: Node) -> None:
    target = node.run("readlink /opt/gantry/current")
    assert target.startswith("releases/0.")
    assert node.run("ls /opt/gantry/releases").split() == [target.removeprefix("releases/")]
    assert node.run("readlink -f /usr/local/bin/gantry") == f"/opt/gantry/{target}/bin/gantry"


def test_every_file_is_the_one_in_the_manifest(node: Node) -> None:
    found = node.json(f"python3 - <<'EOF'\n{CHECK}\nEOF")
    assert found["count"] > 100
    assert (found["bad"], found["modes"], found["strange"]) == ([], [], [])


def test_the_command_runs_on_the_hosts_own_python(node: Node) -> None:
    told = node.json("gantry version --format=json")
    assert told["gantry_version"] == "0.1.0"
    assert told["python_version"] == node.run(
        "python3 -c 'import platform; print(platform.python_version())'"
    )


def test_no_package_manager_of_python_was_needed(node: Node) -> None:
    assert node.fails("command -v pip || command -v pip3 || command -v gcc") == ""


def test_nobody_but_root_can_write_the_runtime(node: Node) -> None:
    assert node.run(r"find -H /opt/gantry/current/ ! -type l \( -perm /022 -o ! -user root \)") == ""


def test_what_it_keeps_is_roots_and_there_are_no_groups(node: Node) -> None:
    looks = node.run("stat -c '%n %U:%G %a' /var/lib/gantry /etc/gantry /etc/gantry/trustedkeys /run/gantry")
    assert looks.splitlines() == [
        "/var/lib/gantry root:root 751",
        "/etc/gantry root:root 755",
        "/etc/gantry/trustedkeys root:root 755",
        "/run/gantry root:root 755",
    ]
    assert node.fails("getent group gantry gantry-admin") == ""


def test_an_error_is_one_line_and_status_254(node: Node) -> None:
    done = node.host.run("gantry fetch no-such-file.aci")
    assert done.rc == 254
    assert len(done.stderr.strip().splitlines()) == 1
    assert "Traceback" not in done.stderr
