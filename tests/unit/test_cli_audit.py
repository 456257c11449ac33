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


def test_a_head_that_was_kept_elsewhere_shows_a_cut(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Cut together with the file that knows its end, a record looks whole to whoever sees only this host."""
    data = tmp_path / "data"
    for uuid in "abc":
        audit.record(str(data), "pod.run", uuid=uuid)
    (data / "signer").mkdir()
    audit.record(str(data / "signer"), "pod.sign", uuid="a")
    verify = [f"--dir={data}", f"--run-dir={tmp_path}/run", "audit", "verify"]
    assert main([*verify, "--format=json"]) == 0
    heads = {name: report["head"] for name, report in json.loads(capsys.readouterr().out).items()}
    audit.record(str(data), "pod.run", uuid="d")  # what came later does not matter
    kept = [f"--expect={heads['host']}", f"--expect=signer:{heads['signer']}"]
    assert main([*verify, *kept]) == 0
    assert main([*verify, f"--expect=host:{heads['host'].upper()}"]) == 0
    log = data / "audit/log.jsonl"
    log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:2]))
    (data / "audit/head").unlink()
    assert main(verify) == 0
    capsys.readouterr()
    assert main([*verify, *kept]) == 254
    assert (
        f"host: the audit record does not contain the expected entry {heads['host']}"
        in capsys.readouterr().err
    )
    assert main([*verify, kept[1]]) == 0


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ("--expect=cafe", '"cafe" is not the head of a record'),
        (f"--expect=nobody:{'0' * 64}", "is not the head of a record"),
        (f"--expect={'0' * 64},host:{'1' * 64}", "two heads of the host's record"),
        (f"--expect=signer:{'0' * 64}", "the signer's record is not there to be compared"),
    ],
)
def test_heads_that_cannot_be_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], given: str, line: str
) -> None:
    assert main([f"--dir={tmp_path}", f"--run-dir={tmp_path}/run", "audit", "verify", given]) == 254
    assert line in capsys.readouterr().err
