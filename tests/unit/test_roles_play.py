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


def play(
    tmp_path: Path,
    tasks: list[dict[str, Any]],
    variables: dict[str, Any],
    *options: str,
    cwd: Path | None = None,
) -> str:
    """Run *tasks* on this machine with the checkout's roles and modules; what was printed."""
    collection = tmp_path / "collections/ansible_collections/appc/gantry"
    collection.mkdir(parents=True, exist_ok=True)
    for name in ("plugins", "meta", "galaxy.yml", "roles"):
        if not (collection / name).exists():
            (collection / name).symlink_to(ROOT / name if name == "roles" else ROOT / "collection" / name)
    defaults = {"group/appc.gantry.gantry": {"gantry_command": str(tmp_path / "gantry")}}
    playbook = tmp_path / "plays/play.json"
    playbook.parent.mkdir(exist_ok=True)
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
            "PWD": str(cwd or Path.cwd()),
            "ANSIBLE_CONFIG": str(tmp_path / "ansible.cfg"),
            "ANSIBLE_HOME": str(tmp_path / "ansible"),
            "ANSIBLE_COLLECTIONS_PATH": str(tmp_path / "collections"),
            "ANSIBLE_NOCOLOR": "1",
        },
        cwd=cwd,
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
            {"set": "site-trust", "prune": True, "trust": [ONE]},
        ),
        # The last key that is taken off the list has to go, too.
        ({"gantry_trusted_keys": []}, {"set": "site-trust", "prune": True, "trust": []}),
        # A play that says nothing of keys must not take them away.
        ({}, None),
        (
            {"gantry_trusted_keys": [ONE], "gantry_trust_prune": False, "gantry_set": "shop"},
            {"set": "shop-trust", "prune": False, "trust": [ONE]},
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
    told = play(tmp_path, [*role("trust"), *role("pods")], {"gantry_trusted_keys": [ONE], "gantry_pods": []})
    assert "failed=0" in told, told
    sets = [json.loads(call["stdin"])["set"] for call in gantry.calls]
    assert sets == ["site-trust", "site"]


POD = {"name": "web", "state": "stopped"}
IMAGE = {"name": "example.com/one:1.0"}


@pytest.mark.parametrize(
    ("variables", "document"),
    [
        ({}, None),
        ({"gantry_prune": True}, None),
        ({"gantry_pods": []}, {"set": "site", "prune": True, "pods": []}),
        ({"gantry_pods": [POD]}, {"set": "site", "prune": True, "pods": [POD]}),
        ({"gantry_pods": [POD], "gantry_prune": False}, {"set": "site", "prune": False, "pods": [POD]}),
        ({"gantry_images": [IMAGE]}, {"set": "site", "prune": True, "images": [IMAGE]}),
        (
            {"gantry_images": [IMAGE], "gantry_pods": [POD]},
            {"set": "site", "prune": True, "images": [IMAGE], "pods": [POD]},
        ),
    ],
)
def test_a_list_that_is_not_given_removes_nothing(
    gantry: FakeGantry, tmp_path: Path, variables: dict[str, Any], document: Any
) -> None:
    told = play(tmp_path, role("pods"), variables)
    assert "failed=0" in told, told
    assert [json.loads(call["stdin"]) for call in gantry.calls] == ([] if document is None else [document])


KEY_FILE = {"prefix": "example.com/one", "fingerprint": "AB", "key_file": "keys/one.asc"}


@pytest.mark.parametrize(
    ("there", "counts"),
    [
        (["inventory"], "inventory"),
        (["current"], "current"),
        (["playbook"], "playbook"),
        (["playbook", "current", "inventory"], "inventory"),
        (["playbook", "current"], "current"),
    ],
)
def test_relative_files_are_found_beside_the_inventory_first(
    gantry: FakeGantry, tmp_path: Path, there: list[str], counts: str
) -> None:
    current = tmp_path / "elsewhere"
    places = {"inventory": tmp_path, "current": current, "playbook": tmp_path / "plays"}
    for name in there:
        (places[name] / "keys").mkdir(parents=True)
        (places[name] / "keys/one.asc").write_text(f"{name}\n")
    current.mkdir(exist_ok=True)
    told = play(tmp_path, role("trust"), {"gantry_trusted_keys": [KEY_FILE]}, cwd=current)
    assert "failed=0" in told, told
    assert gantry.document["trust"][0]["key"] == f"{counts}\n"


def test_with_two_inventories_either_may_have_the_file_beside_it(gantry: FakeGantry, tmp_path: Path) -> None:
    second = tmp_path / "second"
    (second / "keys").mkdir(parents=True)
    (second / "keys/one.asc").write_text("second\n")
    (second / "hosts").write_text("[some]\nhere\n")
    told = play(tmp_path, role("trust"), {"gantry_trusted_keys": [KEY_FILE]}, "-i", str(second / "hosts"))
    assert "failed=0" in told, told
    assert gantry.document["trust"][0]["key"] == "second\n"


def test_a_file_that_is_nowhere_is_named_with_the_places_that_were_looked_at(
    gantry: FakeGantry, tmp_path: Path
) -> None:
    current = tmp_path / "elsewhere"
    current.mkdir()
    variables = {"gantry_trusted_keys": [KEY_FILE], "gantry_ca_certificate_file": "/nowhere/ca.pem"}
    tasks: list[dict[str, Any]] = [
        {"ansible.builtin.import_role": {"name": "appc.gantry.trust", "tasks_from": "files"}},
        {"ansible.builtin.debug": {"msg": "the runtime would be installed now"}},
    ]
    told = play(tmp_path, tasks, variables, cwd=current)
    asc = [str(place / "keys/one.asc") for place in (tmp_path, current, tmp_path / "plays")]
    assert f"there is no file keys/one.asc (looked for: {', '.join(asc)})" in told, told
    assert "there is no file /nowhere/ca.pem (looked for: /nowhere/ca.pem)" in told
    assert "the runtime would be installed now" not in told
    assert gantry.calls == []


def test_an_image_server_is_refused_before_anything_is_installed_on_it(tmp_path: Path) -> None:
    tasks = [{"ansible.builtin.import_role": {"name": "appc.gantry.image_server", "tasks_from": "files"}}]
    assert "gantry_image_tls_certificate or gantry_image_tls_certificate_file is needed" in play(
        tmp_path, tasks, {}
    )
    names = ("tls_certificate", "tls_key", "signing_key", "public_key")
    variables: dict[str, Any] = {f"gantry_image_{name}_file": f"keys/{name}" for name in names}
    told = play(tmp_path, tasks, variables)
    assert f"there is no file keys/tls_key (looked for: {tmp_path}/keys/tls_key, " in told
    (tmp_path / "keys").mkdir()
    for name in names:
        (tmp_path / "keys" / name).write_text(name)
    assert "failed=0" in play(tmp_path, tasks, variables)
    bundle = {"gantry_image_packages_from": "control", "gantry_image_builds": [{"package_files": ["x.deb"]}]}
    assert "there is no file x.deb" in play(tmp_path, tasks, {**variables, **bundle})


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
