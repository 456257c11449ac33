"""`audit list` and `audit verify` show the host's record and the signer's as one."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from gantry import audit
from gantry.cli.entry import run as main


def test_both_records_are_listed_in_the_order_of_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    moments = iter([1000.0, 1001.0, 1002.0])
    monkeypatch.setattr(time, "time", lambda: next(moments))
    data = tmp_path / "data"
    (data / "signer").mkdir(parents=True)
    audit.record(str(data), "pod.run", uuid="a")
    audit.record(str(data / "signer"), "pod.sign", uuid="a")
    audit.record(str(data), "pod.exit", uuid="a")
    monkeypatch.undo()
    flags = [f"--dir={data}", f"--run-dir={tmp_path}/run"]
    assert main([*flags, "audit", "list", "--format=json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(e["record"], e["seq"], e["event"]) for e in found] == [
        ("host", 1, "pod.run"),
        ("signer", 1, "pod.sign"),
        ("host", 2, "pod.exit"),
    ]
    assert main([*flags, "audit", "list", "--limit=1"]) == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("2\t")
    assert main([*flags, "audit", "verify"]) == 0
    assert [line.split(";")[0] for line in capsys.readouterr().out.splitlines()] == [
        "host: 2 entries, all whole",
        "signer: 1 entries, all whole",
    ]


def test_a_change_in_the_signers_record_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "data"
    (data / "signer").mkdir(parents=True)
    audit.record(str(data / "signer"), "pod.sign", uuid="a", count=1)
    log = data / "signer/audit/log.jsonl"
    log.write_bytes(log.read_bytes().replace(b'"count":1', b'"count":2'))
    assert main([f"--dir={data}", f"--run-dir={tmp_path}/run", "audit", "verify"]) == 254
    assert "signer: the audit record was changed: entry 1" in capsys.readouterr().err
