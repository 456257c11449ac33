"""Roles say what they take, and take what they say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.support.collection import ROOT

ROLES = sorted(path.name for path in (ROOT / "roles").iterdir() if path.is_dir())


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text()) if path.exists() else {}


def options(role: str) -> dict[str, Any]:
    specs: dict[str, Any] = load(ROOT / f"roles/{role}/meta/argument_specs.yml")["argument_specs"]["main"][
        "options"
    ]
    return specs


@pytest.mark.parametrize("role", ROLES)
def test_every_default_is_described_and_every_described_default_is_set(role: str) -> None:
    defaults = load(ROOT / f"roles/{role}/defaults/main.yml")
    described = options(role)
    assert set(defaults) <= set(described)
    for name, option in described.items():
        assert option["description"], name
        assert option["type"], name
        if "default" in option and not str(defaults.get(name, "")).startswith("{{"):
            assert defaults[name] == option["default"], name


@pytest.mark.parametrize("role", ROLES)
def test_every_variable_is_ours_by_name(role: str) -> None:
    for name in options(role):
        assert name.startswith("gantry_")


@pytest.mark.parametrize("role", ROLES)
def test_every_described_variable_is_used(role: str) -> None:
    text = "".join(
        path.read_text()
        for part in ("tasks", "vars", "templates", "handlers")
        for path in (ROOT / f"roles/{role}/{part}").rglob("*")
        if path.is_file()
    )
    for name in options(role):
        assert re.search(rf"\b{name}\b", text), name


@pytest.mark.parametrize("role", ROLES)
def test_case_55_no_role_reads_facts(role: str) -> None:
    """Facts may be off, stale, or not injected as variables; our modules ask for what is needed."""
    text = "".join(p.read_text() for p in (ROOT / f"roles/{role}").rglob("*") if p.suffix in {".yml", ".j2"})
    allowed = {"ansible_check_mode", "ansible_playbook_python", "ansible_play_batch"}
    assert set(re.findall(r"\bansible_[a-z_]+", text)) <= allowed


@pytest.mark.parametrize("playbook", ["site", "demo"])
def test_case_55_playbooks_gather_no_facts(playbook: str) -> None:
    plays = load(ROOT / f"playbooks/{playbook}.yml")
    assert [play["gather_facts"] for play in plays] == [False] * len(plays)
    assert [play["hosts"] for play in plays] == ["gantry_image_servers", "gantry_app_hosts"]


def test_the_demo_applies_the_roles_of_the_site_in_its_order() -> None:
    def roles(name: str) -> list[list[str]]:
        return [[role["role"] for role in play["roles"]] for play in load(ROOT / f"playbooks/{name}.yml")]

    assert roles("demo") == roles("site")


@pytest.mark.parametrize("playbook", ["site", "demo"])
def test_files_are_looked_for_before_anything_is_installed(playbook: str) -> None:
    roles = []
    for play in load(ROOT / f"playbooks/{playbook}.yml"):
        (task,) = play["pre_tasks"]
        imported = task["ansible.builtin.import_role"]
        assert imported["tasks_from"] == "files"
        roles.append(imported["name"])
    assert roles == ["appc.gantry.image_server", "appc.gantry.trust"]


@pytest.mark.parametrize("role", ROLES)
def test_a_run_that_changes_nothing_costs_few_calls(role: str) -> None:
    """Each module call takes seconds on a slow host; this pins how many an unchanged host sees at most."""
    limits = {"runtime": 1, "trust": 2, "metadata_service": 1, "pods": 1, "image_server": 6}
    free = {"assert", "include_tasks", "import_tasks", "debug", "command"}
    guarded = {"appc.gantry.runtime", "ansible.builtin.copy", "ansible.builtin.apt"}
    calls = []
    for path in (ROOT / f"roles/{role}/tasks").glob("*.yml"):
        for task in flat(load(path)):
            names = [key for key in task if "." in key]
            local = task.get("delegate_to") == "localhost"
            calls += [n for n in names if n.rpartition(".")[2] not in free and not local]
    counted = [name for name in calls if name not in guarded]
    assert len(counted) <= limits[role], counted


def flat(tasks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found = []
    for task in tasks:
        found += flat(task["block"]) if "block" in task else [task]
    return found


def test_the_page_for_operators_has_an_inventory_that_the_roles_take() -> None:
    page = (ROOT / "docs/collection.md").read_text()
    (block,) = re.findall(r"```yaml\n# inventory.yml\n(.*?)```", page, re.DOTALL)
    everything = yaml.safe_load(block)["all"]
    groups = everything["children"]
    taken = {
        "gantry_image_servers": {*options("image_server"), *options("runtime")},
        "gantry_app_hosts": {*options("trust"), *options("pods"), *options("runtime")},
    }
    assert set(groups) == set(taken)
    for name, group in groups.items():
        assert set(group["vars"]) <= taken[name]
    given = {*everything["vars"], *groups["gantry_image_servers"]["vars"]}
    for needed in ("tls_certificate", "tls_key", "signing_key", "public_key"):
        assert f"gantry_image_{needed}_file" in given
    described = options("image_server")["gantry_image_builds"]["options"]
    for build in groups["gantry_image_servers"]["vars"]["gantry_image_builds"]:
        assert set(build) <= set(described)
        assert {key for key, option in described.items() if option.get("required")} <= set(build)
    (image,) = {
        app["image"] for pod in groups["gantry_app_hosts"]["vars"]["gantry_pods"] for app in pod["apps"]
    }
    assert image == f"{build['name']}:{build['version']}"


@pytest.mark.parametrize("page", ["CHANGELOG.md", "collection/README.md"])
def test_every_module_is_named(page: str) -> None:
    text = (ROOT / page).read_text()
    for path in (ROOT / "collection/plugins/modules").glob("*.py"):
        assert f"`{path.stem}`" in text, path.stem
