"""Run the collection's modules in this process, and stand-ins for what they call."""

from __future__ import annotations

import atexit
import importlib
import json
import shutil
import stat
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils import basic
from ansible.module_utils.common.parameters import PASS_VARS
from ansible.module_utils.testing import patch_module_args

ROOT = Path(__file__).resolve().parent.parent.parent

# Modules import each other by the path that they have in an installed collection.
_place = Path(tempfile.mkdtemp(prefix="gantry-collection-test-"))
atexit.register(shutil.rmtree, _place, ignore_errors=True)
(_place / "ansible_collections" / "appc").mkdir(parents=True)
(_place / "ansible_collections" / "appc" / "gantry").symlink_to(ROOT / "collection")
sys.path.insert(0, str(_place))
sys.path.insert(0, str(ROOT / "scripts"))


def util(name: str) -> Any:
    """The module_utils of that name."""
    return importlib.import_module(f"ansible_collections.appc.gantry.plugins.module_utils.{name}")


def run_module(
    capsys: pytest.CaptureFixture[str],
    name: str,
    arguments: Mapping[str, object],
    *,
    check: bool = False,
    diff: bool = True,
) -> dict[str, Any]:
    """Run a module to its end and return the result that it prints."""
    module = importlib.import_module(f"ansible_collections.appc.gantry.plugins.modules.{name}")
    internal = {
        "_ansible_check_mode": check,
        "_ansible_diff": diff,
        "_ansible_remote_tmp": tempfile.gettempdir(),
    }
    if "inject_invocation" in PASS_VARS:
        # ansible-core 2.21 returns a module's arguments only when it is told to; older ones always do.
        internal["_ansible_inject_invocation"] = True
    capsys.readouterr()
    with patch_module_args({**arguments, **internal}), pytest.raises(SystemExit) as ended:
        module.main()
    basic._ANSIBLE_ARGS = None
    printed = capsys.readouterr().out
    result: dict[str, Any] = json.loads(printed)
    assert bool(result.get("failed")) == (ended.value.code != 0)
    return result


def executable(path: Path, text: str) -> Path:
    """Write a program."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
    return path


FAKE_GANTRY = """\
#!{python} -IS
import json, os, sys
place = {place!r}
with open(os.path.join(place, "calls"), "a") as calls:
    given = sys.stdin.read() if "apply" in sys.argv else ""
    calls.write(json.dumps({{"argv": sys.argv[1:], "stdin": given}}) + "\\n")
with open(os.path.join(place, "answer.json")) as answer:
    status, text, errors = json.load(answer)
sys.stdout.write(text)
sys.stderr.write(errors)
sys.exit(status)
"""


class FakeGantry:
    """A gantry command that notes how it was called and answers what it was told to."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.path = executable(place / "gantry", FAKE_GANTRY.format(python=sys.executable, place=str(place)))
        self.answers({"changed": False, "actions": []})

    def answers(self, value: object, *, status: int = 0, errors: str = "") -> None:
        """Say this from now on; a string is said as it is, everything else as JSON."""
        text = value if isinstance(value, str) else json.dumps(value)
        (self.place / "answer.json").write_text(json.dumps([status, text, errors]))

    @property
    def calls(self) -> list[dict[str, Any]]:
        """How it was called."""
        path = self.place / "calls"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    @property
    def document(self) -> dict[str, Any]:
        """What the last call was given on standard input."""
        found: dict[str, Any] = json.loads(self.calls[-1]["stdin"])
        return found
