"""The thin modules: what reaches the runtime, what comes back, and what never shows."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.support.collection import ROOT, FakeGantry, run_module, util

from gantry.releases import spec

POD = {"name": "web", "apps": [{"name": "web", "image": "example.com/web:1.0"}]}


@pytest.fixture
def gantry(tmp_path: Path) -> FakeGantry:
    return FakeGantry(tmp_path)


def test_pod_sends_one_document_on_standard_input(gantry: FakeGantry, capsys: Any) -> None:
    arguments = {**POD, "set": "shop", "gantry_command": str(gantry.path)}
    result = run_module(capsys, "pod", arguments)
    assert result["changed"] is False
    assert [call["argv"] for call in gantry.calls] == [["apply", "--format=json"]]
    assert gantry.document == {"set": "shop", "pods": [{**POD, "state": "started"}]}


def test_what_the_task_did_not_set_is_not_sent(gantry: FakeGantry, capsys: Any) -> None:
    run_module(capsys, "pod", {"name": "web", "state": "stopped", "gantry_command": str(gantry.path)})
    assert gantry.document == {"pods": [{"name": "web", "state": "stopped"}]}


def test_a_started_pod_needs_apps(gantry: FakeGantry, capsys: Any) -> None:
    result = run_module(capsys, "pod", {"name": "web", "gantry_command": str(gantry.path)})
    assert result["failed"]
    assert "apps" in result["msg"]
    assert gantry.calls == []


@pytest.mark.parametrize(
    "word",
    ["-p 8080", "--env", "-c", "x", "--", "a b", "$HOME", "%n", "é漢", "line\nbreak", '"quoted"', "\\"],
)
def test_case_32_arguments_reach_the_runtime_byte_for_byte(
    gantry: FakeGantry, capsys: Any, word: str
) -> None:
    apps = [{"image": "example.com/web:1.0", "exec": ["/bin/web", word], "args": [word]}]
    run_module(capsys, "pod", {"name": "web", "apps": apps, "gantry_command": str(gantry.path)})
    assert gantry.document["pods"][0]["apps"] == apps
    assert not any(word in argument for argument in gantry.calls[-1]["argv"] if len(word) > 2)


def test_check_mode_asks_the_runtime_and_changes_nothing(gantry: FakeGantry, capsys: Any) -> None:
    gantry.answers({"changed": True, "actions": [], "diff": {"before": "a\n", "after": "b\n"}})
    result = run_module(capsys, "pod", {**POD, "gantry_command": str(gantry.path)}, check=True)
    assert gantry.calls[-1]["argv"] == ["apply", "--format=json", "--check"]
    assert result["changed"] is True
    assert result["diff"] == {"before": "a\n", "after": "b\n"}


def test_without_diff_mode_no_diff(gantry: FakeGantry, capsys: Any) -> None:
    action = {
        "kind": "pod",
        "name": "web",
        "action": "update",
        "changed": True,
        "diff": {"before": "", "after": ""},
    }
    gantry.answers({"changed": True, "actions": [action], "diff": {"before": "a", "after": "b"}})
    result = run_module(capsys, "pod", {**POD, "gantry_command": str(gantry.path)}, diff=False)
    assert "diff" not in result
    assert result["actions"] == [{"kind": "pod", "name": "web", "action": "update", "changed": True}]


def test_a_refusal_is_its_line_and_its_code(gantry: FakeGantry, capsys: Any) -> None:
    error = {"code": "bad-signature", "message": "m", "hint": "h", "msg": "image refused (h)"}
    gantry.answers(
        {"changed": False, "actions": [], "error": error}, status=254, errors="gantry: image refused (h)\n"
    )
    result = run_module(capsys, "image", {"name": "example.com/web", "gantry_command": str(gantry.path)})
    assert result["failed"]
    assert result["msg"] == "image refused (h)"
    assert result["code"] == "bad-signature"


def test_what_changed_before_a_failure_is_told(gantry: FakeGantry, capsys: Any) -> None:
    done = {"kind": "trust", "name": "a", "action": "add", "changed": True}
    gantry.answers({"changed": True, "actions": [done], "error": {"code": "x", "msg": "m"}}, status=254)
    result = run_module(capsys, "apply", {"pods": [POD], "gantry_command": str(gantry.path)})
    assert result["failed"]
    assert result["changed"] is True
    assert result["actions"] == [done]


@pytest.mark.parametrize(
    ("said", "errors"), [("", "gantry: boom\n"), ("no json", ""), ("[1", "Traceback\nBoom: x\n")]
)
def test_any_other_end_is_one_line(gantry: FakeGantry, capsys: Any, said: str, errors: str) -> None:
    gantry.answers(said, status=3, errors=errors)
    result = run_module(capsys, "pod", {**POD, "gantry_command": str(gantry.path)})
    assert result["failed"]
    assert result["rc"] == 3
    assert "\n" not in result["msg"]
    assert result["msg"].startswith("gantry failed with status 3: ")


def test_success_that_is_not_json_is_a_failure(gantry: FakeGantry, capsys: Any) -> None:
    gantry.answers("all fine")
    assert run_module(capsys, "pod", {**POD, "gantry_command": str(gantry.path)})["failed"]


def test_trust_sends_the_key_and_nothing_empty(gantry: FakeGantry, capsys: Any) -> None:
    arguments = {"prefix": "example.com", "fingerprint": "AB", "key": "armored"}
    run_module(capsys, "trust", {**arguments, "gantry_command": str(gantry.path)})
    assert gantry.document == {"trust": [{**arguments, "state": "present"}]}


@pytest.mark.parametrize(
    "arguments",
    [
        {"fingerprint": "AB", "key": "k"},
        {"prefix": "example.com", "root": True, "fingerprint": "AB", "key": "k"},
        {"prefix": "example.com", "fingerprint": "AB"},
    ],
)
def test_trust_refuses_what_cannot_be_meant(
    gantry: FakeGantry, capsys: Any, arguments: dict[str, Any]
) -> None:
    assert run_module(capsys, "trust", {**arguments, "gantry_command": str(gantry.path)})["failed"]
    assert gantry.calls == []


def test_options_of_the_document_are_sent_only_when_set(gantry: FakeGantry, capsys: Any) -> None:
    given = {"ca_file": "/etc/gantry/ca.pem", "insecure_options": ["http"]}
    run_module(capsys, "image", {"name": "example.com/web", **given, "gantry_command": str(gantry.path)})
    assert gantry.document == {
        "images": [{"name": "example.com/web", "state": "present", "pull": "new"}],
        "ca_file": "/etc/gantry/ca.pem",
        "insecure_options": ["http"],
    }


def test_prune_needs_a_set(gantry: FakeGantry, capsys: Any) -> None:
    assert run_module(capsys, "apply", {"prune": True, "gantry_command": str(gantry.path)})["failed"]


# --- a host on which nothing is installed


def test_case_33_check_mode_without_runtime_predicts(tmp_path: Path, capsys: Any) -> None:
    arguments = {
        "pods": [
            {**POD, "apps": [{"image": "i", "environment": {"TOKEN": "s3cret-value"}}]},
            {"name": "old", "state": "absent"},
        ],
        "trust": [{"prefix": "example.com", "fingerprint": "AB", "key": "k" * 5000}],
        "gantry_command": str(tmp_path / "none"),
    }
    result = run_module(capsys, "apply", arguments, check=True)
    assert result["changed"] is True
    assert [(a["kind"], a["name"]) for a in result["actions"]] == [("trust", "example.com"), ("pod", "web")]
    assert result["diff"]["before"] == ""
    assert "example.com" in result["diff"]["after"]
    assert "s3cret-value" not in json.dumps(result)
    assert "kkkk" not in result["diff"]["after"]
    assert list(tmp_path.iterdir()) == []


def test_check_mode_without_runtime_and_nothing_wanted_is_no_change(tmp_path: Path, capsys: Any) -> None:
    absent = {"name": "web", "state": "absent", "gantry_command": str(tmp_path / "none")}
    assert run_module(capsys, "pod", absent, check=True)["changed"] is False


def test_without_runtime_a_real_run_says_what_to_do(tmp_path: Path, capsys: Any) -> None:
    result = run_module(capsys, "pod", {**POD, "gantry_command": str(tmp_path / "none")})
    assert result["failed"]
    assert result["code"] == "not-installed"
    assert "appc.gantry.runtime" in result["msg"]


def test_pod_info_without_runtime(tmp_path: Path, capsys: Any) -> None:
    result = run_module(capsys, "pod_info", {"gantry_command": str(tmp_path / "none")})
    assert (result["installed"], result["pods"], result["changed"]) == (False, [], False)


def test_pod_info_filters_by_name_and_uuid(gantry: FakeGantry, capsys: Any) -> None:
    pods = [{"name": "5d0cbea3-1", "pod_name": "web"}, {"name": "77aa", "pod_name": None}]
    gantry.answers(pods)
    base = {"gantry_command": str(gantry.path)}
    assert run_module(capsys, "pod_info", base)["pods"] == pods
    assert gantry.calls[-1]["argv"] == ["list", "--format=json"]
    assert run_module(capsys, "pod_info", {**base, "name": "web"})["pods"] == pods[:1]
    assert run_module(capsys, "pod_info", {**base, "name": "77"})["pods"] == pods[1:]


# --- secrets


SECRETS = ["hunter2-hunter2", "päß漢字-geheim", "line1\nline2-long", "a'b\"c#d&e$f-long", "1234567890"]


@pytest.mark.parametrize("secret", SECRETS)
def test_case_57_a_secret_shows_nowhere(
    gantry: FakeGantry, capsys: Any, secret: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged: list[str] = []
    basic = pytest.importorskip("ansible.module_utils.basic")
    monkeypatch.setattr(
        basic.AnsibleModule, "log", lambda self, msg, log_args=None: logged.append(f"{msg} {log_args}")
    )
    apps = [{"image": "example.com/web", "environment": {"PASSWORD": secret, "PORT": "1"}}]
    error = {"code": "x", "msg": f"cannot use {secret} here"}
    action = {
        "kind": "pod",
        "name": "web",
        "action": "update",
        "changed": True,
        "detail": f"PASSWORD={secret}",
    }
    gantry.answers(
        {"changed": True, "actions": [action], "diff": {"before": "", "after": secret}, "error": error},
        status=254,
    )
    result = run_module(capsys, "pod", {"name": "web", "apps": apps, "gantry_command": str(gantry.path)})
    assert gantry.document["pods"][0]["apps"][0]["environment"]["PASSWORD"] == secret
    shown = json.dumps(result, ensure_ascii=False) + json.dumps(result) + "".join(logged)
    assert secret not in shown
    assert json.dumps(secret)[1:-1] not in shown
    assert logged, "that the module ran is worth a line"
    assert result["invocation"]["module_args"]["apps"][0]["environment"] == {
        "PASSWORD": "*" * 8,
        "PORT": "*" * 8,
    }


def test_short_and_public_values_do_not_garble_the_result(gantry: FakeGantry, capsys: Any) -> None:
    apps = [
        {
            "image": "example.com/web:1",
            "environment": {"DEBUG": "True", "N": "1", "IMAGE": "example.com/web:1"},
        }
    ]
    action = {"kind": "pod", "name": "example.com/web:1", "action": "update", "changed": True}
    gantry.answers({"changed": True, "actions": [action]})
    result = run_module(capsys, "pod", {"name": "web", "apps": apps, "gantry_command": str(gantry.path)})
    assert result["changed"] is True
    assert result["actions"] == [action]


def test_secrets_of_nested_lists_in_apply(gantry: FakeGantry, capsys: Any) -> None:
    secret = "deep-secret-value"
    pods = [{"name": "web", "apps": [{"image": "i", "environment": {"A": secret}}]}]
    gantry.answers(f"not json, but {secret}", status=1, errors=f"Traceback: {secret}\n")
    result = run_module(capsys, "apply", {"pods": pods, "gantry_command": str(gantry.path)})
    assert result["failed"]
    assert secret not in json.dumps(result)


# --- numbers in environments


def test_numbers_in_environments_become_text(gantry: FakeGantry, capsys: Any) -> None:
    given = {"PORT": 8080, "RATIO": 0.5, "BIG": 12345678901234567890, "TEXT": "0755", "NEGATIVE": -1}
    pods = [{"name": "web", "apps": [{"image": "i", "environment": given}]}]
    wanted = {
        "PORT": "8080",
        "RATIO": "0.5",
        "BIG": "12345678901234567890",
        "TEXT": "0755",
        "NEGATIVE": "-1",
    }
    run_module(capsys, "apply", {"pods": pods, "gantry_command": str(gantry.path)})
    assert gantry.document["pods"][0]["apps"][0]["environment"] == wanted
    run_module(capsys, "pod", {**pods[0], "gantry_command": str(gantry.path)})
    assert gantry.document["pods"][0]["apps"][0]["environment"] == wanted


@pytest.mark.parametrize("value", [True, False, float("inf"), float("nan")])
@pytest.mark.parametrize("check", [False, True])
def test_what_yaml_has_already_read_in_its_own_way_is_refused(
    gantry: FakeGantry, capsys: Any, value: object, check: bool
) -> None:
    apps = [{"image": "i"}, {"image": "j", "environment": {"DEBUG": value}}]
    result = run_module(
        capsys, "pod", {"name": "web", "apps": apps, "gantry_command": str(gantry.path)}, check=check
    )
    assert result["failed"]
    assert result["code"] == "document"
    assert result["msg"].startswith("$.pods[0].apps[1].environment.DEBUG: must be text, not ")
    assert "quotes" in result["msg"]
    assert gantry.calls == []


@pytest.mark.parametrize("pods", [[1], [{"apps": 1}], [{"apps": [1]}], [{"apps": [{"environment": [1]}]}]])
def test_other_shapes_are_for_the_runtime_to_refuse(pods: list[Any]) -> None:
    assert util("_gantry").text_environment({"pods": pods}) == {"pods": pods}


def test_a_number_as_a_secret_is_masked_as_text(gantry: FakeGantry, capsys: Any) -> None:
    apps = [{"image": "i", "environment": {"PIN": 73519462}}]
    gantry.answers({"changed": True, "actions": [], "error": {"code": "x", "msg": "73519462?"}}, status=254)
    result = run_module(capsys, "pod", {"name": "web", "apps": apps, "gantry_command": str(gantry.path)})
    assert "73519462" not in json.dumps(result)


# --- documentation


MODULES = sorted(path.stem for path in (ROOT / "collection/plugins/modules").glob("*.py"))


@pytest.mark.parametrize("name", MODULES)
def test_every_module_documents_what_it_supports(name: str) -> None:
    text = (ROOT / f"collection/plugins/modules/{name}.py").read_text()
    documentation = yaml.safe_load(re.search(r'DOCUMENTATION = r"""(.*?)"""', text, re.DOTALL)[1])  # type: ignore[index]
    assert documentation["module"] == name
    fragments = documentation["extends_documentation_fragment"]
    assert any(fragment.startswith("appc.gantry._attributes") for fragment in fragments)
    assert yaml.safe_load(re.search(r'EXAMPLES = r"""(.*?)"""', text, re.DOTALL)[1])  # type: ignore[index]
    assert yaml.safe_load(re.search(r'RETURN = r"""(.*?)"""', text, re.DOTALL)[1])  # type: ignore[index]


def test_the_action_group_holds_the_modules_that_speak_to_the_runtime() -> None:
    group = yaml.safe_load((ROOT / "collection/meta/runtime.yml").read_text())["action_groups"]["gantry"]
    speaking = [
        name
        for name in MODULES
        if "GantryModule(" in (ROOT / f"collection/plugins/modules/{name}.py").read_text()
    ]
    assert group == speaking


def test_pod_knows_every_field_of_the_runtime() -> None:
    """The module lists what the runtime takes; a field that is new there must not be forgotten here."""
    module = __import__("ansible_collections.appc.gantry.plugins.modules.pod", fromlist=["POD"])
    for options, struct in (
        (module.APP, spec.App),
        (module.PORT, spec.Port),
        (module.VOLUME, spec.Volume),
        (module.MOUNT, spec.Mount),
    ):
        assert set(options) == set(struct.__struct_fields__)
    assert set(module.POD) - {"state", "pull"} == set(spec.PodSpec.__struct_fields__)


def test_masks_are_the_longest_first() -> None:
    gantry_util = util("_gantry")
    params = {"pods": [{"apps": [{"environment": {"A": "secret-long", "B": "secret-long-er"}}]}]}
    assert gantry_util.secrets_of(params) == ["secret-long-er", "secret-long"]
