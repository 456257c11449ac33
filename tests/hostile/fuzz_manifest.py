"""Fuzz the manifest readers: ``python -m tests.hostile.fuzz_manifest --seconds=60``, or ``-runs=200000``.

Coverage of ``gantry.appc`` steers the inputs (atheris); most mutations know JSON and what stands in
manifests. Flags with one hyphen go to the fuzzer. What breaks a rule is written to ``--findings``; once the
fault is mended it belongs into ``corpus/manifest/``, which ``test_appc_documents.py`` replays.

The rules are those of :func:`check`.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

CORPUS = Path(__file__).parent / "corpus" / "manifest"


def check(data: bytes) -> bool:
    """Hold the readers to the rules on *data*; whether one of them accepted it.

    Bytes are refused by a :class:`ManifestError` of one short line that names a requirement and a place, or
    accepted. What is accepted is printed without loss, and read again means the same. What a strict reading
    accepts, the forgiving one does, too, and finds the same in it. Whatever the readers accept, Python's own
    reader does, and so does the one of last resort.

    Raises:
        AssertionError: A rule is broken.
        Exception: So is a reader.
    """
    # Not at the top: the fuzzer has to import them under its own eyes.
    from gantry.appc import lastditch  # noqa: PLC0415
    from gantry.appc.manifest import ImageManifest, PodManifest  # noqa: PLC0415

    accepted = [_judge(kind, data) for kind in (ImageManifest, PodManifest)]
    assert not all(accepted)
    last = [_refusal(reader, data) is None for reader in (lastditch.image, lastditch.pod)]
    for read, known in zip(accepted, last, strict=True):
        assert known or not read
    return any(accepted)


def _refusal(read: Callable[[bytes], Any], data: bytes) -> Any:
    """The refusal of *data*, if it is refused."""
    from gantry.appc.errors import ManifestError  # noqa: PLC0415

    try:
        read(data)
    except ManifestError as error:
        assert str(error).isprintable()
        assert len(str(error)) < 2000
        assert error.rule
        assert error.path.startswith("$")
        assert (error.line is None) == (error.column is None)
        assert error.line is not None or not error.message.startswith("not valid JSON")
        return error
    return None


def _judge(kind: Any, data: bytes) -> bool:
    strict = _refusal(lambda raw: kind.parse(raw, strict=True), data)
    if _refusal(kind.parse, data) is not None:
        assert strict is not None, "a strict reading accepted what a forgiving one refuses"
        return False
    found = kind.parse(data)
    printed = found.dump()
    again = kind.parse(printed)
    assert again.dump() == printed
    assert _meaning(again) == _meaning(found)
    assert _refusal(lambda raw: kind.parse(raw, strict=True), found.dump()) is None or strict is not None
    if strict is None:
        assert _meaning(kind.parse(data, strict=True)) == _meaning(found)
    for note in found.notes:
        assert f"{note.path}{note.message}".isprintable()
    if not {note.rule for note in found.notes} & {"TYP-24", "TYP-26", "TYP-29", "TRAP-33"}:
        assert _as_python_reads(printed) == _as_python_reads(data)
    return True


def _meaning(manifest: Any) -> list[object]:
    return [
        getattr(manifest, field.name) for field in fields(manifest) if field.compare and field.name != "raw"
    ]


def _as_python_reads(data: bytes) -> object:
    """The document with its order, and the text of its numbers."""
    return json.loads(
        data.decode("utf-8"), object_pairs_hook=lambda pairs: pairs, parse_float=repr, parse_int=repr
    )


# -- mutation -----------------------------------------------------------------------------------------

_TEXTS = [
    "", "a", "A", "a--b", "a/../b", "x\0", "\ud800", "\U0001f600", "\x1b[m", "1.0.0", "0.8.12",
    "00.8.1", "linux", "sha512-" + "ab" * 32, "sha512-ab", "os", "arch", "arm64", "name", "created",
    "homepage", "http://a", "2015-11-17T12:00:00Z", "pre-start", "/", "/a/../b", "host", "empty",
    "0o755", "1777", "rwx", "10.0.0.1", "::1", "1Ei", "1e31", "-5", ".", "1E", "-0", "5m",
    "@appc.io/all", "@appc.io/empty", "EPERM", "K" * 300,
]  # fmt: skip
_KEYS = [
    "acKind", "acVersion", "name", "labels", "app", "dependencies", "pathWhitelist", "annotations",
    "value", "exec", "user", "group", "supplementaryGIDs", "supplementaryGids", "eventHandlers",
    "workingDirectory", "environment", "mountPoints", "ports", "isolators", "userAnnotations",
    "userLabels", "path", "readOnly", "protocol", "port", "count", "socketActivated", "imageName",
    "imageID", "size", "apps", "image", "id", "mounts", "volume", "appVolume", "volumes", "kind",
    "source", "recursive", "mode", "uid", "gid", "hostPort", "hostIP", "podPort", "readOnlyRootFS",
    "set", "errno", "limit", "request", "default", "u\u017fer", "NAME", "x",
]  # fmt: skip
_ISOLATORS = [
    "os/linux/seccomp-remove-set", "os/linux/seccomp-retain-set", "os/linux/capabilities-remove-set",
    "os/linux/capabilities-retain-set", "os/linux/no-new-privileges", "os/linux/selinux-context",
    "os/linux/apparmor-profile", "os/linux/oom-score-adj", "os/linux/cpu-shares", "os/unix/sysctl",
    "resource/cpu", "resource/memory", "resource/block-bandwidth", "resource/block-iops",
    "resource/network-bandwidth", "acme/x",
]  # fmt: skip
# What a value is replaced by, as JSON; the numbers are what Python would not print like this.
_VALUES = [
    "null", "true", "false", "0", "-0", "1", "-1", "1.0", "1e3", "1E400", "65535", "65536",
    "4294967295", "[]", "{}", "9" * 401, "0.10", "NaN", "[[]]", '{"a":1,"a":2}', '"\\ud800"',
    '{"\\ud800":1,"\\ud801":2}', '"\\u0000"', '{"set":["@appc.io/all","reboot"]}',
    '{"limit":"1G","request":5}', '{"profile":"a"}', "-1000", "[1,2]",
    '{"user":"u","role":"r","type":"t","level":"s0:c1"}',
]  # fmt: skip


class _Raw(str):
    """Text that is JSON already."""

    __slots__ = ()


def _written(value: object) -> str:
    if isinstance(value, _Raw):
        return str(value)
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(key)}:{_written(member)}" for key, member in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_written, value)) + "]"
    return json.dumps(value)


def mutated(data: bytes, dice: random.Random) -> bytes:
    """One change that a manifest's reader would notice, in what is JSON; or *data*."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return data
    holders: list[Any] = []
    waiting = [document]
    while waiting:
        value = waiting.pop()
        if isinstance(value, (dict, list)):
            holders.append(value)
            waiting += value.values() if isinstance(value, dict) else value
    if not holders:
        return data
    holder = dice.choice(holders)
    new: Any = _value(dice, document)
    if isinstance(holder, dict):
        key = dice.choice([*holder, dice.choice(_KEYS)])
        action = dice.randrange(5)
        if action == 0:
            holder.pop(key, None)
        elif action == 1 and key in holder:
            holder[dice.choice([key.upper(), dice.choice(_KEYS)])] = holder.pop(key)
        else:
            holder[key] = new
    elif holder and dice.randrange(2):
        holder[dice.randrange(len(holder))] = new
    elif holder and dice.randrange(2):
        holder.append(dice.choice(holder))
    else:
        holder.append(new)
    try:
        return _written(document).encode("utf-8")
    except RecursionError:
        return data


def _value(dice: random.Random, document: Any) -> Any:
    action = dice.randrange(4)
    if action == 0:
        return dice.choice(_TEXTS)
    if action == 1:
        return {"name": dice.choice(_ISOLATORS), "value": _Raw(dice.choice(_VALUES))}
    if action == 2 and isinstance(document, dict) and document:
        return json.loads(json.dumps(document[dice.choice(list(document))], default=str))
    return _Raw(dice.choice(_VALUES))


def seeds() -> dict[str, bytes]:
    """What to start from: whole manifests, and all that was found."""
    # Costs what a replay need not pay.
    from tests.hostile.test_appc_documents import IMAGE, POD  # noqa: PLC0415

    found = {f"{kind['acKind']}": json.dumps(kind).encode() for kind in (IMAGE, POD)}
    return found | {path.name: path.read_bytes() for path in CORPUS.glob("*")}


def _mutator(plain: Callable[[bytes, int], bytes]) -> Callable[[bytes, int, int], bytes]:
    def mutate(data: bytes, size: int, seed: int) -> bytes:
        dice = random.Random(seed)
        if not dice.randrange(4):
            return plain(data, size)
        for _ in range(dice.randrange(1, 4)):
            data = mutated(data, dice)
        return data[:size]

    return mutate


def main() -> None:
    """Fuzz for a while; exit status 1 if something was found."""
    import atheris  # noqa: PLC0415 - not on hosts where the corpus is only replayed

    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seconds", type=int, default=60)
    options.add_argument("--findings", default="build/fuzz/manifest")
    chosen, rest = options.parse_known_args()
    os.makedirs(chosen.findings, exist_ok=True)
    for name in [name for name in sys.modules if name.startswith("gantry")]:
        del sys.modules[name]  # a test module imported some without the fuzzer's eyes
    with atheris.instrument_imports(include=["gantry.appc"]):
        import gantry.appc.lastditch  # noqa: PLC0415
        import gantry.appc.manifest  # noqa: F401, PLC0415
    with tempfile.TemporaryDirectory() as place:
        for name, data in seeds().items():
            Path(place, name).write_bytes(data)
        atheris.Setup(
            [
                sys.argv[0],
                place,
                f"-max_total_time={chosen.seconds}",
                "-max_len=6000",
                "-timeout=20",
                "-rss_limit_mb=2000",
                "-print_final_stats=1",
                f"-artifact_prefix={chosen.findings}/",
                *rest,
            ],
            check,
            # Looked up at each call: before Fuzz() another function has that name.
            custom_mutator=_mutator(lambda *given: atheris.Mutate(*given)),  # noqa: PLW0108
        )
        atheris.Fuzz()


if __name__ == "__main__":
    main()
