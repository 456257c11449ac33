"""Roles played by ansible-playbook on this machine, against a command that notes what it is told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.support.collection import ROOT, FakeGantry

BIN = Path(sys.executable).parent
ONE = {"prefix": "example.com/one", "fingerprint": "AB", "key": "armored\n"}


@pytest.fixture
def gantry(tmp_path: Path) -> FakeGantry:
    return FakeGantry(tmp_path)


def play(tmp_path: Path, tasks: list[dict[str, Any]], variables: dict[str, Any], *options: str) -> str:
    """Run *tasks* on this machine with the checkout's roles and modules; what was printed."""
    collection = tmp_path / "collections/ansible_collections/appc/gantry"
    collection.mkdir(parents=True, exist_ok=True)
    for name in ("plugins", "meta", "galaxy.yml", "roles"):
        if not (collection / name).exists():
            (collection / name).symlink_to(ROOT / name if name == "roles" else ROOT / "collection" / name)
    defaults = {"group/appc.gantry.gantry": {"gantry_command": str(tmp_path / "gantry")}}
    playbook = tmp_path / "play.json"
    head = {"hosts": "all", "connection": "local", "gather_facts": False, "module_defaults": defaults}
    playbook.write_text(json.dumps([{**head, "tasks": tasks}]))
    (tmp_path / "inventory").write_text(f"here ansible_python_interpreter={sys.executable}\n")
    (tmp_path / "ansible.cfg").write_text("[defaults]\n")
    (tmp_path / "variables.json").write_text(json.dumps(variables))
    command = [BIN / "ansible-playbook", "-i", tmp_path / "inventory"]
    done = subprocess.run(
        [*command, "-e", f"@{tmp_path}/variables.json", *options, playbook],
        env={
            **os.environ,
            "ANSIBLE_CONFIG": str(tmp_path / "ansible.cfg"),
            "ANSIBLE_HOME": str(tmp_path / "ansible"),
            "ANSIBLE_COLLECTIONS_PATH": str(tmp_path / "collections"),
            "ANSIBLE_NOCOLOR": "1",
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout + done.stderr


def role(name: str) -> list[dict[str, Any]]:
    return [{"ansible.builtin.include_role": {"name": f"appc.gantry.{name}"}}]


@pytest.mark.parametrize(
    ("variables", "document"),
    [
        (
            {"gantry_trusted_keys": [ONE]},
            {"set": "site-trust", "prune": True, "trust": [ONE], "images": [], "pods": []},
        ),
        # The last key that is taken off the list has to go, too.
        ({}, {"set": "site-trust", "prune": True, "trust": [], "images": [], "pods": []}),
        (
            {"gantry_trusted_keys": [ONE], "gantry_trust_prune": False, "gantry_set": "shop"},
            {"set": "shop-trust", "prune": False, "trust": [ONE], "images": [], "pods": []},
        ),
        ({"gantry_trust_prune": False}, None),
    ],
)
def test_trusted_keys_are_the_whole_of_a_set_of_their_own(
    gantry: FakeGantry, tmp_path: Path, variables: dict[str, Any], document: Any
) -> None:
    told = play(tmp_path, role("trust"), variables)
    assert "failed=0" in told, told
    assert [json.loads(call["stdin"]) for call in gantry.calls] == ([] if document is None else [document])


def test_the_sets_of_keys_and_of_pods_are_two(gantry: FakeGantry, tmp_path: Path) -> None:
    """Each role prunes with a document that lists nothing of the other's."""
    told = play(tmp_path, [*role("trust"), *role("pods")], {"gantry_trusted_keys": [ONE]})
    assert "failed=0" in told, told
    sets = [json.loads(call["stdin"])["set"] for call in gantry.calls]
    assert sets == ["site-trust", "site"]


@pytest.mark.parametrize(("machine", "label"), [("x86_64", "amd64"), ("aarch64", "aarch64")])
def test_images_are_of_the_servers_own_architecture(tmp_path: Path, machine: str, label: str) -> None:
    tasks = [
        {"ansible.builtin.include_vars": str(ROOT / "roles/image_server/vars/main.yml")},
        {"ansible.builtin.debug": {"msg": "arch is {{ gantry_image_host_arch }}."}},
    ]
    assert f"arch is {label}." in play(tmp_path, tasks, {"gantry_image_host": {"arch": machine}})


def test_no_role_names_one_architecture() -> None:
    for path in [*(ROOT / "roles").rglob("*"), *(ROOT / "playbooks").rglob("*.yml")]:
        if path.suffix in {".yml", ".j2"} and path.name != "argument_specs.yml":
            for line in path.read_text().splitlines():
                if "amd64" in line or "x86_64" in line:
                    # A place that knows one of them has to know the other.
                    assert "aarch64" in path.read_text(), path


LACKING = {"missing_packages": ["runc", "catatonit"]}


@pytest.mark.parametrize(
    ("name", "prefix"), [("runtime", "gantry_runtime"), ("image_server", "gantry_image")]
)
def test_case_33_check_mode_predicts_what_would_be_installed(tmp_path: Path, name: str, prefix: str) -> None:
    tasks = [{"ansible.builtin.include_tasks": str(ROOT / f"roles/{name}/tasks/packages.yml")}]
    variables = {f"{prefix}_host": LACKING, f"{prefix}_install_packages": True}
    told = play(tmp_path, tasks, variables, "--check")
    assert "would install runc, catatonit" in told
    assert "changed=1" in told
    assert "failed=0" in told
    refused = play(tmp_path, tasks, {**variables, f"{prefix}_install_packages": False}, "--check")
    assert "here lacks runc, catatonit" in refused
    assert "failed=1" in refused
