"""The audit record: what is written, that any change is found and named, and what a power cut leaves."""

from __future__ import annotations

import fcntl
import json
import os
import stat
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

import gantry
from gantry import audit
from gantry.audit import AuditError, entries, record, verify


@pytest.fixture
def data(tmp_path: Path) -> str:
    return str(tmp_path / "data")


@pytest.fixture
def filled(data: str) -> str:
    for number in range(1, 7):
        record(
            data, "image.fetch" if number % 2 else "trust.add", number=number, name=f"example.com/{number}"
        )
    return data


def log(data: str) -> Path:
    return Path(data, "audit", "log.jsonl")


def head(data: str) -> Path:
    return Path(data, "audit", "head")


def test_an_entry(data: str) -> None:
    record(data, "image.refuse", image="example.com/app", code="bad-signature", url=None)
    (entry,) = entries(data)
    assert list(entry) == ["seq", "time", "event", "actor", "image", "code", "prev", "hash"]
    assert entry["seq"] == 1
    assert entry["prev"] == audit.ZERO
    assert entry["actor"]["uid"] == os.getuid()  # type: ignore[index]
    assert len(str(entry["time"])) == len("2026-01-01T00:00:00.000Z")
    report = verify(data)
    assert (report.count, report.head, report.torn, report.pending) == (1, entry["hash"], [], 0)
    assert report.as_dict() == {"count": 1, "head": entry["hash"], "torn": [], "pending": 0}


def test_who_acted(data: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUDO_USER", "alice")
    record(data, "trust.add", by="ansible: bob")
    (entry,) = entries(data)
    actor = entry["actor"]
    assert isinstance(actor, dict)
    assert actor.pop("loginuid", 0) >= 0
    assert actor == {"uid": os.getuid(), "sudo_user": "alice", "by": "ansible: bob"}


def test_modes_do_not_depend_on_the_umask(data: str) -> None:
    old = os.umask(0)
    try:
        record(data, "pod.run")
    finally:
        os.umask(old)
    assert stat.S_IMODE(os.stat(data).st_mode) == 0o751
    assert stat.S_IMODE(log(data).parent.stat().st_mode) == 0o750
    assert stat.S_IMODE(log(data).stat().st_mode) == 0o640
    assert stat.S_IMODE(head(data).stat().st_mode) == 0o640


@pytest.mark.parametrize(
    "value",
    [
        "line\nbreak\r\n",
        "nul\0 bell\a escape\x1b[31m",
        '"},"hash":"x"}\n{"seq":99}',
        "\u2028\u2029\u202e",
        "\udcff lone",
        "é🚀",
        "\\u0041",
        "",
    ],
)
def test_values_come_back_exactly_and_break_nothing(data: str, value: str) -> None:
    record(data, "image.fetch", value=value, nested={"list": [value]})
    record(data, "image.fetch")
    first, _ = entries(data)
    assert first["value"] == value
    assert first["nested"] == {"list": [value]}
    raw = log(data).read_bytes()
    assert raw.count(b"\n") == 2
    assert all(32 <= byte < 127 or byte == 10 for byte in raw)
    assert verify(data).count == 2


def test_values_that_json_does_not_know(data: str) -> None:
    loop: list[object] = []
    loop.append(loop)
    record(data, "a", path=Path("/x"), raw=b"\xff\0", many={"b", "a"}, number=float("nan"))
    record(data, "b", loop=loop)
    first, second = entries(data)
    assert (first["path"], first["number"]) == ("PosixPath('/x')", "nan")
    assert second["loop"] == "[[...]]"
    record(data, "c", path=Path("/x"), raw=b"\xff\0", many={"b", "a"})
    third = list(entries(data))[2]
    assert (third["path"], third["raw"], third["many"]) == ("/x", "\udcff\0", ["a", "b"])
    for line in log(data).read_bytes().splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert verify(data).count == 3


def test_reserved_names_are_the_callers_mistake(data: str) -> None:
    with pytest.raises(TypeError, match="reserved field: hash, seq"):
        record(data, "a", seq=1, hash="x")
    assert not os.path.exists(data)


def test_long_values_are_shortened_and_stay_comparable(data: str) -> None:
    record(
        data, "image.refuse", reason="x" * 3_000_000, code="c", **{f"f{n}": "y" * 2000 for n in range(300)}
    )
    (entry,) = entries(data)
    assert entry["shortened"] is True
    assert entry["reason"]["length"] == 3_000_002  # type: ignore[index]
    assert entry["code"] == "c"
    assert log(data).stat().st_size < audit.MAX_LINE
    record(data, "image.refuse")
    assert verify(data).count == 2


def test_selecting(filled: str) -> None:
    record(filled, "image.refuse")
    assert [entry["number"] for entry in entries(filled, event="trust.add")] == [2, 4, 6]
    assert len(list(entries(filled, event="image."))) == 4
    assert list(entries(filled, event="image")) == []
    times = [str(entry["time"]) for entry in entries(filled)]
    assert len(list(entries(filled, since=times[0]))) == 7
    assert len(list(entries(filled, since=times[0][:10]))) == 7
    assert list(entries(filled, since="9999")) == []
    assert list(entries(filled, until=times[0])) == []
    assert list(entries(filled, since=4e9)) == []
    assert len(list(entries(filled, since=0, until=4e9))) == 7


def test_nothing_recorded_is_a_sound_record(data: str) -> None:
    assert list(entries(data)) == []
    assert verify(data).as_dict() == {"count": 0, "head": audit.ZERO, "torn": [], "pending": 0}
    assert not os.path.exists(data)


def swap(lines: list[bytes]) -> list[bytes]:
    return [lines[0], lines[2], lines[1], *lines[3:]]


def rehash(line: bytes, old: bytes, new: bytes) -> bytes:
    """A line that was changed by somebody who knows how hashes are made."""
    body = json.loads(line.replace(old, new))
    del body["hash"]
    return audit._seal(body)[0]


CHANGES: dict[str, tuple[Callable[[list[bytes]], list[bytes]], int]] = {
    "a value": (lambda lines: [*lines[:2], lines[2].replace(b"com/3", b"com/9"), *lines[3:]], 3),
    "a value, hash made right": (
        lambda lines: [*lines[:2], rehash(lines[2], b"com/3", b"com/9"), *lines[3:]],
        4,
    ),
    "the last value": (lambda lines: [*lines[:5], lines[5].replace(b"com/6", b"com/9")], 6),
    "the last value, hash right": (lambda lines: [*lines[:5], rehash(lines[5], b"com/6", b"com/9")], 6),
    "the time": (lambda lines: [lines[0].replace(b"Z", b"z"), *lines[1:]], 1),
    "first removed": (lambda lines: lines[1:], 1),
    "one removed": (lambda lines: [*lines[:3], *lines[4:]], 4),
    "last removed": (lambda lines: lines[:-1], 6),
    "all removed": (lambda lines: [], 1),
    "two swapped": (swap, 2),
    "one twice": (lambda lines: [*lines[:3], lines[2], *lines[3:]], 4),
    "a space": (lambda lines: [lines[0].replace(b'"seq":1', b'"seq": 1'), *lines[1:]], 1),
    "an empty line": (lambda lines: [lines[0], b"", *lines[1:]], 2),
    "a line that is no entry": (lambda lines: [*lines[:4], b'{"seq":5}', *lines[4:]], 5),
    "a carriage return": (lambda lines: [lines[0] + b"\r", *lines[1:]], 1),
    "junk at the end": (lambda lines: [*lines, b"junk"], 7),
}


@pytest.mark.parametrize("change", CHANGES)
def test_any_change_is_found_and_named(filled: str, change: str) -> None:
    function, first = CHANGES[change]
    lines = log(filled).read_bytes().splitlines()
    changed = function(lines)
    assert changed != lines
    log(filled).write_bytes(b"".join(line + b"\n" for line in changed))
    with pytest.raises(AuditError) as caught:
        verify(filled)
    assert caught.value.entry == first
    assert f"entr{'y' if f'entry {first}' in caught.value.message else 'ies'}" in caught.value.message
    # Going on does not hide it.
    record(filled, "image.fetch", later=True)
    record(filled, "image.fetch", later=True)
    with pytest.raises(AuditError) as again:
        verify(filled)
    assert again.value.entry is not None
    assert again.value.entry <= first + 1


def test_any_single_byte(filled: str) -> None:
    raw = log(filled).read_bytes()
    for position in range(len(raw)):
        for changed in (
            raw[:position] + bytes([raw[position] ^ 1]) + raw[position + 1 :],
            raw[:position] + raw[position + 1 :],
        ):
            log(filled).write_bytes(changed)
            with pytest.raises(AuditError):
                verify(filled)
    log(filled).write_bytes(raw)
    assert verify(filled).count == 6


def test_a_cut_without_the_head_file_needs_an_eye_outside(filled: str) -> None:
    noted = verify(filled).head
    lines = log(filled).read_bytes().splitlines(keepends=True)
    log(filled).write_bytes(b"".join(lines[:-2]))
    head(filled).unlink()
    assert verify(filled).count == 4  # nothing on the host can tell
    with pytest.raises(AuditError, match="does not contain the expected entry"):
        verify(filled, expect=noted)


def test_a_head_that_was_noted_earlier_is_still_there(filled: str) -> None:
    noted = verify(filled).head
    record(filled, "image.fetch")
    assert verify(filled, expect=noted).count == 7
    assert verify(filled, expect=audit.ZERO).count == 7


def test_a_chain_written_anew_under_the_old_head(filled: str) -> None:
    kept = head(filled).read_bytes()
    log(filled).unlink()
    head(filled).unlink()
    for number in range(8):
        record(filled, "image.fetch", number=number)
    head(filled).write_bytes(kept)
    with pytest.raises(AuditError, match="was rewritten: entry 6 is not the one that was written"):
        verify(filled)


def test_a_power_cut_at_any_byte_of_an_append(filled: str) -> None:
    before = log(filled).read_bytes()
    old_head = head(filled).read_bytes()
    record(filled, "pod.run", uuid="x" * 50)
    raw = log(filled).read_bytes()
    for length in range(len(before), len(raw)):
        log(filled).write_bytes(raw[:length])
        head(filled).write_bytes(old_head)
        torn = length - len(before)
        report = verify(filled)
        assert (report.count, report.pending, report.torn) == (6, torn, [])
        assert len(list(entries(filled))) == 6
        record(filled, "pod.exit", status=0)
        report = verify(filled)
        found = list(entries(filled))
        assert found[-1]["event"] == "pod.exit"
        assert report.count == len(found) == (8 if torn else 7)
        if length == len(raw) - 1:  # all but the line break: nothing was lost, and nothing is left out
            assert (found[6]["event"], report.torn) == ("pod.run", [])
        elif torn:
            assert report.torn == [7]
            assert (found[6]["event"], found[6]["torn_bytes"]) == ("audit.torn", torn)


def test_power_cuts_one_after_the_other(data: str) -> None:
    record(data, "pod.run")
    for count in range(1, 4):
        old_head = head(data).read_bytes()
        with log(data).open("ab") as file:
            file.write(b'{"seq":half an entry' + b"\n{" * (count - 1))
        head(data).write_bytes(old_head)
        record(data, "pod.run")
        report = verify(data)
        assert (report.count, len(report.torn)) == (1 + 2 * count, count)


def test_zeros_that_a_file_system_left(filled: str) -> None:
    with log(filled).open("ab") as file:
        file.write(bytes(5000))
    assert verify(filled).pending == 5000
    record(filled, "pod.run")
    report = verify(filled)
    assert (report.count, report.torn) == (8, [7])


def test_a_torn_line_cannot_hide_an_entry_that_was_written(filled: str) -> None:
    raw = log(filled).read_bytes()
    log(filled).write_bytes(raw[:-10])  # the last entry was whole: the head knows it
    with pytest.raises(AuditError, match="was cut: 6 entries were written, 5 are there"):
        verify(filled)
    record(filled, "pod.run")
    with pytest.raises(AuditError, match=r"entry 6 .* records that entries before it were lost"):
        verify(filled)


def test_the_torn_bytes_cannot_be_changed_later(filled: str) -> None:
    with log(filled).open("ab") as file:
        file.write(b"torn bytes")
    record(filled, "pod.run")
    assert verify(filled).torn == [7]
    log(filled).write_bytes(log(filled).read_bytes().replace(b"torn bytes\n", b"other byte\n"))
    with pytest.raises(AuditError, match="entry 7"):
        verify(filled)
    log(filled).write_bytes(log(filled).read_bytes().replace(b"other byte\n", b""))
    with pytest.raises(AuditError, match="says that a line was torn, and none was"):
        verify(filled)


def test_a_head_that_is_older_or_garbled_is_no_reason_to_refuse(filled: str) -> None:
    old = head(filled).read_bytes()
    record(filled, "pod.run")
    head(filled).write_bytes(old)
    assert verify(filled).count == 7
    head(filled).write_bytes(b"garbage")
    assert verify(filled).count == 7
    record(filled, "pod.run")
    assert head(filled).read_text().split()[0].lstrip("0") == "8"


WRITER = textwrap.dedent("""
    import sys
    from gantry.audit import record
    for number in range(int(sys.argv[3])):
        record(sys.argv[1], "pod.run", writer=int(sys.argv[2]), number=number)
""")


def start_writer(data: str, writer: int, count: int) -> subprocess.Popen[bytes]:
    environment = {"PYTHONPATH": os.path.dirname(os.path.dirname(gantry.__file__))}
    return subprocess.Popen([sys.executable, "-c", WRITER, data, str(writer), str(count)], env=environment)


def test_several_processes_at_once(data: str) -> None:
    writers = [start_writer(data, number, 50) for number in range(4)]
    try:
        while any(writer.poll() is None for writer in writers):
            verify(data)  # also while they write
    finally:
        statuses = [writer.wait() for writer in writers]
    assert statuses == [0] * 4
    report = verify(data)
    assert (report.count, report.torn) == (200, [])
    for writer in range(4):
        assert [e["number"] for e in entries(data) if e["writer"] == writer] == list(range(50))


def test_kill_at_any_moment(data: str) -> None:
    for attempt in range(10):
        writer = start_writer(data, attempt, 1_000_000)
        try:
            while not any(entry["writer"] == attempt for entry in entries(data, event="pod.run")):
                assert writer.poll() is None
        finally:
            writer.kill()
            writer.wait()
        verify(data)
    record(data, "pod.run")
    assert verify(data).pending == 0


def test_appending_reads_only_the_end(filled: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(200):
        record(filled, "pod.run", text="x" * 1000)
    read: list[int] = []
    real = os.pread

    def pread(fd: int, size: int, offset: int) -> bytes:
        read.append(size)
        return real(fd, size, offset)

    monkeypatch.setattr(os, "pread", pread)
    record(filled, "pod.run")
    assert read == [4096]
    monkeypatch.undo()
    record(filled, "pod.run", text="x" * 100_000)
    record(filled, "pod.run")
    assert verify(filled).count == 209


def test_an_end_without_any_entry_is_a_gap(data: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "MAX_TAIL", 8192)
    record(data, "pod.run")
    with log(data).open("ab") as file:
        file.write(bytes(20000))
    record(data, "pod.run")
    assert list(entries(data))[-1]["event"] == "pod.run"
    with pytest.raises(AuditError):
        verify(data)


def test_no_space_leaves_nothing(filled: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = log(filled).read_bytes()
    real = os.write

    def write(fd: int, chunk: bytes) -> int:
        if os.fstat(fd).st_size > len(before):
            raise OSError(28, "No space left on device")
        return real(fd, chunk[:10])

    monkeypatch.setattr(os, "write", write)
    with pytest.raises(AuditError, match="No space left on device") as caught:
        record(filled, "pod.run")
    assert "free space" in caught.value.hint
    monkeypatch.undo()
    assert log(filled).read_bytes() == before
    assert verify(filled).count == 6


def test_a_link_in_place_of_the_log_is_not_followed(data: str, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"")
    os.makedirs(os.path.join(data, "audit"))
    log(data).symlink_to(victim)
    with pytest.raises(AuditError, match="cannot write"):
        record(data, "pod.run")
    assert victim.read_bytes() == b""


def test_a_writer_waits_for_the_lock(filled: str) -> None:
    with log(filled).open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        writer = start_writer(filled, 1, 1)
        with pytest.raises(subprocess.TimeoutExpired):
            writer.wait(0.3)
        assert log(filled).read_bytes().count(b"\n") == 6
    assert writer.wait(20) == 0
    assert verify(filled).count == 7


def test_imports_stay_lean() -> None:
    # On the launch path of every pod: os, fcntl, time and what they bring.
    script = textwrap.dedent("""
        import os, fcntl, time, sys, collections.abc
        before = set(sys.modules)
        import gantry.audit
        print(sorted(set(sys.modules) - before - {"_json", "_sha2", "_sha256"}))
    """)
    environment = {"PYTHONPATH": os.path.dirname(os.path.dirname(gantry.__file__))}
    done = subprocess.run(
        [sys.executable, "-S", "-c", script], env=environment, capture_output=True, check=True
    )
    assert done.stdout.decode().strip() == (
        "['__future__', 'gantry', 'gantry.audit', 'gantry.errors', 'gantry.linux', 'gantry.linux.lean']"
    )
