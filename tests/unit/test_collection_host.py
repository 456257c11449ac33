"""Steps on a host: compared once, shown truthfully, taken only when needed."""

from __future__ import annotations

import grp
import importlib
import os
import pwd
from pathlib import Path
from typing import Any

import pytest
from tests.support.collection import executable, run_module, util

host = util("_host")
ME, MINE = pwd.getpwuid(os.getuid()).pw_name, grp.getgrgid(os.getgid()).gr_name


def test_a_plan_shows_only_what_is_needed() -> None:
    acted: list[str] = []
    plan = host.Plan()
    plan.add(host.Step("one", "a", "a", lambda: acted.append("one")))
    plan.add(host.Step("two", "", "b", lambda: acted.append("two")))
    assert plan.changed
    assert plan.actions() == ["two"]
    assert plan.diff() == {"before": "two: absent\n", "after": "two: b\n"}
    plan.run()
    assert acted == ["two"]


def test_a_failed_step_names_itself(tmp_path: Path) -> None:
    plan = host.Plan()
    plan.add(host.Step("file x", "", "there", lambda: os.unlink(tmp_path / "none")))
    with pytest.raises(host.StepError, match=r"file x: .*No such file"):
        plan.run()


@pytest.mark.parametrize("mode", [0o755, 0o2750, 0o1777, 0o700])
def test_directories_get_mode_and_owner_and_then_need_nothing(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "a" / "b"
    step = host.directory(str(path), mode, ME, MINE)
    assert step.needed
    step.act()
    assert path.stat().st_mode & 0o7777 == mode
    assert not host.directory(str(path), mode, ME, MINE).needed
    path.chmod(0o711)
    again = host.directory(str(path), mode, ME, MINE)
    assert again.needed
    assert "0711" in again.before


def test_a_directory_is_never_made_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with pytest.raises(OSError, match=r"Not a directory|Too many levels"):
        host.directory(str(tmp_path / "link"), 0o700, ME, MINE).act()


def test_files_are_written_whole_and_never_wider(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "key"
    path.write_text("old")
    path.chmod(0o600)
    step = host.file(str(path), "new", 0o600, ME, MINE)
    assert step.needed
    assert "new" not in step.before + step.after
    monkeypatch.setattr(host.os, "rename", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        step.act()
    monkeypatch.undo()
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["key"]
    step.act()
    assert path.read_text() == "new"
    assert path.stat().st_mode & 0o7777 == 0o600
    assert not host.file(str(path), "new", 0o600, ME, MINE).needed


def test_only_a_changed_mode_is_a_change_too(tmp_path: Path) -> None:
    path = tmp_path / "f"
    host.file(str(path), "x", 0o644, ME, MINE).act()
    assert host.file(str(path), "x", 0o600, ME, MINE).needed


def test_a_file_without_content_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_text("x")
    host.file(str(path), None).act()
    assert not path.exists()
    assert not host.file(str(path), None).needed


def test_links_are_replaced_by_rename(tmp_path: Path) -> None:
    path = tmp_path / "current"
    host.link(str(path), "one").act()
    step = host.link(str(path), "two")
    assert (step.before, step.after) == ("-> one", "-> two")
    step.act()
    assert os.readlink(path) == "two"
    assert [p.name for p in tmp_path.iterdir()] == ["current"]


def test_a_file_in_the_place_of_a_link_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "gantry").write_text("somebody's")
    with pytest.raises(host.StepError, match="in the way"):
        host.link(str(tmp_path / "gantry"), "x")


def test_users_that_exist_need_nothing() -> None:
    assert not host.user(None, "root").needed
    assert host.user(None, "gantry-nobody-such").needed


def test_what_a_host_keeps_is_roots(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = util("_runtime")
    made: list[tuple[Any, ...]] = []
    monkeypatch.setattr(runtime, "directory", lambda *given: made.append(given))
    runtime.layout(host.Plan())
    assert made == [
        ("/var/lib/gantry", 0o751),
        ("/etc/gantry", 0o755),
        ("/etc/gantry/trustedkeys", 0o755),
        ("/run/gantry", 0o755),
    ]


def test_a_group_and_its_bit_from_earlier_times_go(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d").chmod(0o2751)
    step = host.directory(str(tmp_path / "d"), 0o751, ME, MINE)
    assert step.needed
    step.act()
    assert (tmp_path / "d").stat().st_mode & 0o7777 == 0o751


@pytest.mark.parametrize("name", ["runtime", "runtime_info", "services"])
@pytest.mark.parametrize(
    "option",
    ["data_directory", "config_directory", "run_directory", "root", "group", "users", "unit_directory"],
)
def test_what_units_fix_is_no_option(capsys: Any, name: str, option: str) -> None:
    """Accepted and half ignored would be worse than refused."""
    result = run_module(capsys, name, {"release": "1-a", option: "x"} if name == "runtime" else {option: "x"})
    assert result["failed"]
    assert "Unsupported parameters" in result["msg"]


def test_the_files_module_converges_and_is_quiet_about_content(tmp_path: Path, capsys: Any) -> None:
    owners = {"owner": ME, "group": MINE}
    arguments = {
        "directories": [{"path": str(tmp_path / "d"), "mode": "0750", **owners}],
        "files": [
            {"path": str(tmp_path / "d/e/key"), "content": "top-secret-text", "mode": "0600", **owners}
        ],
        "links": [{"path": str(tmp_path / "l"), "target": "d"}],
    }
    predicted = run_module(capsys, "files", arguments, check=True)
    assert predicted["changed"]
    assert list(tmp_path.iterdir()) == []
    done = run_module(capsys, "files", arguments)
    assert done["actions"] == predicted["actions"]
    assert "top-secret-text" not in str(done) + str(predicted)
    assert (tmp_path / "l/e/key").read_text() == "top-secret-text"
    again = run_module(capsys, "files", arguments)
    assert (again["changed"], again["actions"]) == (False, [])


def test_unknown_owners_are_named_before_anything_is_written(tmp_path: Path, capsys: Any) -> None:
    wanted = {"path": str(tmp_path / "f"), "content": "x", "owner": "gantry-nobody-such"}
    assert run_module(capsys, "files", {"files": [wanted]}, check=True)["changed"]
    result = run_module(capsys, "files", {"files": [wanted]})
    assert result["failed"]
    assert "gantry-nobody-such" in result["msg"]
    assert list(tmp_path.iterdir()) == []


SHOWN = """\
Id=gantry-signer.service
UnitFileState=enabled
ActiveState=active
NeedDaemonReload=no
ActiveEnterTimestampMonotonic=5000000

Id=gantry-signer.socket
UnitFileState=enabled
ActiveState=active
NeedDaemonReload=no
ActiveEnterTimestampMonotonic=4000000

Id=gantry-gc.service
UnitFileState=static
ActiveState=inactive
NeedDaemonReload=no
ActiveEnterTimestampMonotonic=0

Id=gantry-gc.timer
UnitFileState=enabled
ActiveState=active
NeedDaemonReload=no
ActiveEnterTimestampMonotonic=4000000
"""

NAMES = ["gantry-gc.service", "gantry-gc.timer", "gantry-signer.service", "gantry-signer.socket"]


class FakeModule:
    """As much of AnsibleModule as Units needs."""

    check_mode = False

    def __init__(self, output: str) -> None:
        self.output = output

    def get_bin_path(self, name: str) -> str:
        return f"/bin/{name}"

    def run_command(self, command: list[str]) -> tuple[int, str, str]:
        return 0, self.output, ""


@pytest.mark.parametrize(
    ("since", "changed", "stale"),
    [
        (None, set(), []),
        (4.0, set(), []),
        (1e12, set(), ["gantry-signer.service"]),
        (None, {"gantry-signer.service"}, ["gantry-signer.service"]),
        (None, {"gantry-signer.socket"}, ["gantry-signer.service", "gantry-signer.socket"]),
        (None, {"gantry-gc.service"}, []),
        (None, {"gantry-gc.timer"}, ["gantry-gc.timer"]),
        (1e12, {"gantry-gc.timer"}, ["gantry-gc.timer", "gantry-signer.service"]),
    ],
)
def test_services_are_stale_when_older_than_what_they_run(
    since: Any, changed: set[str], stale: list[str]
) -> None:
    units = util("_units").Units(FakeModule(SHOWN), NAMES)
    assert units.stale(since, changed) == stale


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the module services finds the runtime (opt) and puts units (etc), with no user to be made."""
    services = importlib.import_module("ansible_collections.appc.gantry.plugins.modules.services")
    monkeypatch.setattr(services, "ROOT", str(tmp_path / "opt"))
    monkeypatch.setattr(services, "UNITS", str(tmp_path / "etc"))
    monkeypatch.setattr(services, "USERS", ("root",))
    monkeypatch.setattr(services, "GROUP", "root")
    return tmp_path


def test_services_predicts_on_a_host_without_runtime(
    place: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = importlib.import_module("ansible_collections.appc.gantry.plugins.modules.services")
    monkeypatch.setattr(services, "USERS", ("gantry-nobody-such",))
    monkeypatch.setattr(services, "GROUP", "gantry-no-such-group")
    result = run_module(capsys, "services", {}, check=True)
    assert result["changed"]
    assert {"user gantry-nobody-such", "group gantry-no-such-group"} <= set(result["actions"])
    refused = run_module(capsys, "services", {})
    assert refused["failed"]
    assert "appc.gantry.runtime" in refused["msg"]
    assert list(place.iterdir()) == []


SYSTEMCTL = """\
#!/bin/sh
echo "$@" >> {place}/calls
case "$1" in
show) cat {place}/shown ;;
enable|start|restart) cp {place}/after {place}/shown ;;
esac
"""


def test_services_start_what_is_to_be_installed_and_then_nothing(
    place: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    executable(place / "bin/systemctl", SYSTEMCTL.format(place=place))
    monkeypatch.setenv("PATH", f"{place}/bin:/usr/bin:/bin")
    units = place / "opt/current/units"
    units.mkdir(parents=True)
    (units / "gantry-signer.service").write_text("[Service]\n\n[Install]\nWantedBy=multi-user.target\n")
    (units / "gantry-signer.socket").write_text("[Socket]\n\n[Install]\nWantedBy=sockets.target\n")
    (units / "gantry-gc.service").write_text("[Service]\nType=oneshot\n")
    (units / "gantry-gc.timer").write_text("[Timer]\n\n[Install]\nWantedBy=timers.target\n")
    (place / "after").write_text(SHOWN)
    (place / "shown").write_text("")
    first = run_module(capsys, "services", {})
    assert first["changed"]
    calls = (place / "calls").read_text().splitlines()
    assert calls[1:] == [
        "daemon-reload",
        "enable gantry-gc.timer gantry-signer.service gantry-signer.socket",
        "start gantry-gc.timer gantry-signer.service gantry-signer.socket",
    ]
    assert (place / "etc/gantry-gc.service").read_text() == "[Service]\nType=oneshot\n"
    second = run_module(capsys, "services", {})
    assert (second["changed"], second["actions"]) == (False, [])
    assert (place / "calls").read_text().splitlines()[len(calls) :] == [calls[0]]
    (units / "gantry-signer.service").write_text(
        "[Service]\nNice=1\n\n[Install]\nWantedBy=multi-user.target\n"
    )
    third = run_module(capsys, "services", {})
    assert third["restarted"] == ["gantry-signer.service"]
    assert (place / "calls").read_text().splitlines()[-1] == "restart gantry-signer.service"
