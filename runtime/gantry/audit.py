"""The record of what was decided on this host: append-only, each entry chained to the last by its hash.

On disk, below the data directory::

    audit/              0750
    audit/log.jsonl     0640  one JSON object a line; the lock (flock) of every writer is on this file
    audit/head          0640  sequence number and hash of the last entry, rewritten after each append

The rules:

- A line is ``{"seq":N,"time":...,"event":...,"actor":{...},FIELDS...,"prev":HASH,"hash":HASH}``. ``hash`` is
  the SHA-256 of the bytes of the line before ``,"hash"``; ``prev`` is the ``hash`` of the entry before, 64
  zeros for the first. So every byte of a line is covered, and no line can be changed, removed, added or moved
  without breaking the chain at a place that :func:`verify` names.
- Text is ASCII with JSON escapes: a line break, a NUL or a terminal sequence in a value can neither
  end a line nor reach a terminal, and comes back exactly.
- The entry is on the disk (fdatasync) before :func:`record` returns. ``head`` is written after that and not
  synced: after a power cut it may be older than the log, never newer.
- A last line that a power cut tore has no end. The next writer ends it and adds an ``audit.torn`` entry with
  the length and hash of the torn bytes. :func:`verify` accepts and reports that: no complete entry was lost.
- When ``head`` knows of entries that the log no longer has, or the last line is whole but wrong, the next
  writer says so in an ``audit.gap`` entry and :func:`verify` refuses from then on.

What it cannot show alone: whoever may write as root can cut the log *and* ``head``, or write the whole chain
anew. Only an eye outside of the host sees that: print the head (``gantry audit verify``), keep it elsewhere,
and hand it back as ``expect``: :func:`verify` proves that the log still contains that very entry.

This module is on the launch path of pods: it imports nothing heavy.
"""

# Longer than 500 lines because writer and checker share one format and must be read side by side.
from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator, Mapping

from gantry.errors import GantryError
from gantry.linux import lean

ZERO = "0" * 64
#: No entry is longer than this, in bytes: longer values are shortened, with their length and hash.
MAX_LINE = 256 * 1024
#: How far from the end a writer looks for the last whole entry.
MAX_TAIL = 4 * MAX_LINE
RESERVED = frozenset({"seq", "time", "event", "actor", "prev", "hash"})
_HASH_MARK = b',"hash":"'
_HASH_TAIL = len(_HASH_MARK) + 64 + len(b'"}')


class AuditError(GantryError):
    """The record cannot be written, or it was tampered with.

    Attributes:
        entry: Sequence number of the first entry that cannot be trusted, or ``None``.
        line: Its line in the file, counted from 1, or ``None``.
    """

    code = "audit"

    def __init__(
        self, message: str, *, hint: str = "", entry: int | None = None, line: int | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.entry = entry
        self.line = line


class Report:
    """What :func:`verify` found.

    Attributes:
        count: Number of whole entries.
        head: Hash of the last entry (64 zeros when there is none); the thing to keep outside of the host.
        torn: Sequence numbers of the ``audit.torn`` entries: each closes a line that a power cut tore.
        pending: Length in bytes of a torn last line that no writer has closed yet, else 0.
    """

    __slots__ = ("count", "head", "pending", "torn")

    def __init__(self, count: int, head: str, torn: list[int], pending: int) -> None:
        self.count = count
        self.head = head
        self.torn = torn
        self.pending = pending

    def as_dict(self) -> dict[str, object]:
        """For JSON output."""
        return {"count": self.count, "head": self.head, "torn": self.torn, "pending": self.pending}


def record(data_dir: str, event: str, /, *, by: str | None = None, **fields: object) -> None:
    """Append one entry; when this returns it is on the disk.

    Several processes may do so at once. Costs one read of the log's last bytes and one fdatasync, however
    long the log is.

    Args:
        data_dir: The data directory (``Paths.data``); ``audit/`` below it is made when missing.
        event: What happened, as ``noun.verb``.
        by: Who asked, when the caller knows better than the process's user does.
        fields: What belongs to it; anything JSON can hold, the rest as its text. A field that is ``None`` is
            left out. The names in :data:`RESERVED` are taken.

    Raises:
        AuditError: The entry could not be written; nothing of it remains.
    """
    taken = RESERVED.intersection(fields)
    if taken:
        raise TypeError(f"reserved field: {', '.join(sorted(taken))}")
    given = {name: value for name, value in fields.items() if value is not None}
    try:
        log = _open_log(data_dir)
        try:
            fcntl.flock(log, fcntl.LOCK_EX)
            _append(log, data_dir, event, _actor(by), given)
        finally:
            os.close(log)
    except OSError as error:
        raise AuditError(
            f"cannot write the audit record below {data_dir}: {error.strerror}",
            hint="what is not on record is not done; make the directory writable or free space",
        ) from error


def entries(
    data_dir: str,
    *,
    event: str | None = None,
    since: str | float | None = None,
    until: str | float | None = None,
) -> Iterator[dict[str, object]]:
    """The entries in order, oldest first; none when nothing was ever recorded.

    Lines that are not entries (torn by a power cut) are left out; :func:`verify` reports them.

    Args:
        data_dir: The data directory.
        event: Only this event, or with a dot at the end (``image.``) all of this noun.
        since: Only entries of this time or later: RFC 3339 in UTC, any leading part of it, or seconds since
            the epoch.
        until: Only entries before this time.

    Raises:
        AuditError: The log cannot be read.
    """
    first = _moment(since)
    last = _moment(until)
    for raw, whole in _lines(data_dir):
        entry = _parse(raw) if whole else None
        if entry is None:
            continue
        name = str(entry["event"])
        if event is not None and name != event and not (event.endswith(".") and name.startswith(event)):
            continue
        when = str(entry["time"])
        if (first and when < first) or (last and when >= last):
            continue
        yield entry


def verify(data_dir: str, *, expect: str | None = None) -> Report:
    """Check every byte of the record.

    Args:
        data_dir: The data directory.
        expect: The hash of an entry that was seen before and kept outside of the host: it must still be
            there.

    Returns:
        The number of entries and the head, and what power cuts tore.

    Raises:
        AuditError: Something was changed, removed, added or moved; names the first entry concerned.
    """
    # Of before the log is opened: counts only when there is no log, and says then that there was one.
    heads = [_read_head(data_dir)]
    walk = _Walk(expect)
    for raw, whole in _lines(data_dir, heads):
        walk.head = heads[-1]
        walk.line(raw, whole=whole)
    walk.head = heads[-1]
    walk.end()
    return Report(walk.seq, walk.hash, walk.torn, len(walk.debris))


class _Walk:
    """The state of one verification: what the next line must be."""

    def __init__(self, expect: str | None) -> None:
        self.seq = 0
        self.hash = ZERO
        self.number = 0
        self.torn: list[int] = []
        self.debris = b""
        self.debris_line = 0
        self.head: tuple[int, str] | None = None
        self.head_hash = ""
        self.expect = expect
        self.seen = expect is None or expect == ZERO

    def line(self, raw: bytes, *, whole: bool) -> None:
        self.number += 1
        entry = _parse(raw) if whole else None
        if entry is None:
            if not self.debris:
                self.debris_line = self.number
            self.debris += raw + (b"\n" if whole else b"")
            if len(self.debris) > MAX_TAIL:
                self.refuse("is not an entry whose hash is right", self.debris_line)
            return
        if entry["prev"] != self.hash or entry["seq"] != self.seq + 1:
            if self.debris:
                self.refuse("is not an entry whose hash is right", self.debris_line)
            self.refuse(
                f"does not follow from the entry before it (it says it is {one(entry['seq'])})", self.number
            )
        if self.debris:
            self.close_debris(entry)
        elif entry["event"] == "audit.torn":
            self.refuse("says that a line was torn, and none was", self.number)
        if entry["event"] == "audit.gap":
            self.refuse(f"records that entries before it were lost: {one(entry.get('reason'))}", self.number)
        self.seq += 1
        self.hash = str(entry["hash"])
        if self.head and self.seq == self.head[0]:
            self.head_hash = self.hash
        if self.hash == self.expect:
            self.seen = True

    def close_debris(self, entry: dict[str, object]) -> None:
        # The writer that found the torn bytes ended them with a line break of its own.
        torn = self.debris[:-1]
        if entry["event"] not in {"audit.torn", "audit.gap"} or entry.get("torn_sha256") != _sha256(torn):
            self.refuse("is not an entry whose hash is right", self.debris_line)
        self.debris = b""
        self.torn.append(self.seq + 1)

    def end(self) -> None:
        head = self.head
        if self.debris.endswith(b"\n"):
            self.refuse("is not an entry whose hash is right", self.debris_line)
        if head and head[0] > self.seq:
            raise AuditError(
                f"the audit record was cut: {head[0]} entries were written, {self.seq} are there",
                hint=f"entries {self.seq + 1} to {head[0]} are gone; look for a copy outside of this host",
                entry=self.seq + 1,
            )
        if head and head[0] and head[1] != self.head_hash:
            raise AuditError(
                f"the audit record was rewritten: entry {head[0]} is not the one that was written",
                hint="compare with a head that was kept outside of this host",
                entry=head[0],
            )
        if not self.seen:
            raise AuditError(
                f"the audit record does not contain the expected entry {self.expect}",
                hint="it was cut or written anew since that hash was noted",
            )

    def refuse(self, what: str, line: int) -> None:
        raise AuditError(
            f"the audit record was changed: entry {self.seq + 1} (line {line}) {what}",
            hint="the entries before it are sound; nothing from it on can be relied upon",
            entry=self.seq + 1,
            line=line,
        )


def one(value: object) -> str:
    """A value from a record that may be forged, fit to stand in a message."""
    return repr(value)[:80]


def _sha256(data: bytes) -> str:
    return str(lean.sha256(data).hexdigest())


def _seal(body: dict[str, object]) -> tuple[bytes, str]:
    """The line of an entry, without its line break, and its hash."""
    text = lean.dumps(body, default=_plain, skipkeys=True, allow_nan=False)
    covered = text[:-1].encode("ascii")  # all but the closing brace
    digest = _sha256(covered)
    return covered + _HASH_MARK + digest.encode("ascii") + b'"}', digest


def _plain(value: object) -> object:
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    if isinstance(value, (set, frozenset)):
        return sorted(map(str, value))
    return str(value)


def _parse(raw: bytes) -> dict[str, object] | None:
    """The entry in *raw* when its own hash is right, else ``None``."""
    if len(raw) > MAX_LINE or raw[-_HASH_TAIL : 9 - _HASH_TAIL] != _HASH_MARK or not raw.endswith(b'"}'):
        return None
    body = raw[:-_HASH_TAIL]
    if _sha256(body).encode("ascii") != raw[-66:-2]:
        return None
    try:
        entry = lean.loads(raw)
    except (ValueError, RecursionError):
        return None
    if not isinstance(entry, dict) or not RESERVED.issubset(entry) or type(entry["seq"]) is not int:
        return None
    return entry


def _open_log(data_dir: str) -> int:
    path = os.path.join(data_dir, "audit", "log.jsonl")
    flags = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        return os.open(path, flags)
    except FileNotFoundError:
        pass
    directory = os.path.dirname(path)
    os.makedirs(data_dir, mode=0o751, exist_ok=True)
    try:
        os.mkdir(directory, 0o750)
        os.chmod(directory, 0o750)  # noqa: S103 - whatever the umask was
    except FileExistsError:
        pass
    log = os.open(path, flags | os.O_CREAT, 0o640)
    try:
        os.fchmod(log, 0o640)
        for parent in (directory, data_dir):
            handle = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
    except OSError:
        os.close(log)
        raise
    return log


def _append(
    log: int, data_dir: str, event: str, actor: Mapping[str, object], fields: Mapping[str, object]
) -> None:
    size = os.fstat(log).st_size
    seq, prev, debris = _tail(log, size)
    head = _read_head(data_dir)
    out = b""
    last = _parse(debris) if debris else None
    if last is not None and last["prev"] == prev and last["seq"] == seq + 1:
        # Only the line break is missing: the entry itself reached the disk.
        out, seq, prev, debris = b"\n", seq + 1, str(last["hash"]), b""
    if debris != b"" or (head and (head[0] > seq or (head[0] == seq and head[1] != prev))):
        repair, seq, prev = _repair(seq, prev, debris, head)
        out += repair
    line, seq, prev = _entry(seq, prev, event, actor, fields)
    out += line
    try:
        rest = memoryview(out)
        while rest:
            rest = rest[os.write(log, rest) :]
        os.fdatasync(log)
    except OSError:
        os.ftruncate(log, size)
        raise
    _write_head(data_dir, seq, prev)


def _entry(
    seq: int, prev: str, event: str, actor: Mapping[str, object], fields: Mapping[str, object]
) -> tuple[bytes, int, str]:
    """The whole line after entry *seq* whose hash is *prev*; its sequence number; its hash."""
    start: dict[str, object] = {"seq": seq + 1, "time": _moment(time.time()), "event": event, "actor": actor}
    try:
        line, digest = _seal({**start, **fields, "prev": prev})
    except (ValueError, RecursionError):  # not a number, or a value that contains itself: still on record
        line, digest = _seal({**start, **{name: repr(fields[name]) for name in fields}, "prev": prev})
    if len(line) >= MAX_LINE:
        line, digest = _seal(start | {"shortened": True} | _shorten(fields) | {"prev": prev})
    return line + b"\n", seq + 1, digest


def _shorten(fields: Mapping[str, object]) -> dict[str, object]:
    """The same fields with everything long replaced by its start, length and hash."""
    room = max(64, 32 * 1024 // max(1, len(fields)))
    out: dict[str, object] = {}
    for name, value in list(fields.items())[:256]:
        try:
            text = lean.dumps(value, default=_plain, skipkeys=True)
        except (ValueError, RecursionError):
            text = lean.dumps(repr(value))
        long = {"start": text[:room], "length": len(text), "sha256": _sha256(text.encode("ascii"))}
        out[name[:64]] = value if len(text) <= room else long
    return out


def _repair(
    seq: int, prev: str, debris: bytes | None, head: tuple[int, str] | None
) -> tuple[bytes, int, str]:
    """The entry that tells what became of the end of the log, preceded by the end of the torn line."""
    event = "audit.torn"
    fields: dict[str, object] = {}
    if debris:
        fields = {"torn_bytes": len(debris), "torn_sha256": _sha256(debris)}
    if head and (head[0] > seq or (head[0] == seq and head[1] != prev)):
        event = "audit.gap"
        fields |= {"reason": f"entry {head[0]} was written and is not there", "head": head[1]}
    elif debris is None or debris.endswith(b"\n"):
        event = "audit.gap"
        fields |= {"reason": "the last line is not an entry whose hash is right"}
    line, seq, prev = _entry(seq, prev, event, _actor(None), fields)
    return (b"" if debris == b"" else b"\n") + line, seq, prev


def _tail(log: int, size: int) -> tuple[int, str, bytes | None]:
    """Sequence number and hash of the last whole entry, and the bytes behind it that are none.

    ``None`` for the bytes: nothing near the end is an entry.
    """
    length = 4096
    while True:
        start = max(0, size - length)
        data = os.pread(log, size - start, start)
        # Only what follows a line break (or the start of the file) is sure to be the start of a line.
        begin = 0 if start == 0 else data.find(b"\n") + 1
        if start == 0 or begin:
            end = data.rfind(b"\n")
            while end >= begin:
                line_start = data.rfind(b"\n", 0, end) + 1
                if line_start < begin:
                    break
                entry = _parse(data[line_start:end])
                if entry is not None:
                    return int(str(entry["seq"])), str(entry["hash"]), data[end + 1 :]
                end = line_start - 1
            if start == 0:
                return 0, ZERO, data
        if length >= MAX_TAIL:
            return 0, ZERO, None
        length *= 4


def _read_head(data_dir: str) -> tuple[int, str] | None:
    try:
        with open(os.path.join(data_dir, "audit", "head"), "rb") as file:
            seq, digest = file.read(256).split()[:2]
            return int(seq), digest.decode("ascii")
    except (OSError, ValueError):
        return None


def _write_head(data_dir: str, seq: int, digest: str) -> None:
    path = os.path.join(data_dir, "audit", "head")
    head = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o640)
    try:
        # One write of one length, well below a disk sector: it is the old text or the new one.
        os.pwrite(head, f"{seq:020d} {digest}\n".encode("ascii"), 0)
    finally:
        os.close(head)


def _lines(data_dir: str, heads: list[tuple[int, str] | None] | None = None) -> Iterator[tuple[bytes, bool]]:
    """The lines of the log without their line break, and whether they had one.

    The head of the same moment is added to *heads*.
    """
    path = os.path.join(data_dir, "audit", "log.jsonl")
    try:
        with open(path, "rb") as file:
            # The size under the lock: an append that is under way is either seen whole or not at all.
            fcntl.flock(file, fcntl.LOCK_SH)
            left = os.fstat(file.fileno()).st_size
            if heads is not None:
                heads.append(_read_head(data_dir))
            fcntl.flock(file, fcntl.LOCK_UN)
            while left > 0:
                line = file.readline(min(left, MAX_LINE + 1))
                if not line:
                    return
                left -= len(line)
                yield (line[:-1], True) if line.endswith(b"\n") else (line, False)
    except FileNotFoundError:
        return
    except OSError as error:
        raise AuditError(
            f"cannot read the audit record {path}: {error.strerror}", hint="root and the group gantry may"
        ) from error


def _actor(by: str | None) -> dict[str, object]:
    """Who acts: the user of this process, the user who logged in, the user before sudo."""
    actor: dict[str, object] = {"uid": os.getuid()}
    try:
        with open("/proc/self/loginuid", "rb") as file:
            login = int(file.read(16))
        if login != 0xFFFFFFFF:  # what the kernel says when nobody logged in
            actor["loginuid"] = login
    except (OSError, ValueError):
        pass
    sudo = os.environ.get("SUDO_USER")
    if sudo:
        actor["sudo_user"] = sudo
    if by:
        actor["by"] = by
    return actor


def _moment(when: str | float | None) -> str:
    """RFC 3339 in UTC with milliseconds: texts that sort as the times do."""
    if when is None or isinstance(when, str):
        return when or ""
    seconds, milli = divmod(int(when * 1000), 1000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{milli:03d}Z"
