"""A signature over HTTP: the metadata service and the signer beside a Go net/http service of twenty lines.

The Go service holds the key in the process that talks to the network; ours keeps it in another process and
user. Both are asked by wrk with the same request, in turns; ratios are medians over the rounds. On a machine
that does other work the figures say little: theirs is one process with many threads, ours two with one each.
Needs root, go and wrk.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "runtime")]

from tests.support import services  # noqa: E402
from tests.support.services import METADATA_UID, SIGNER_UID, FakePod, wait_until  # noqa: E402

from gantry.metadata import client as metadata  # noqa: E402
from gantry.signer import client as signer  # noqa: E402

CONTENT = "content=the+quick+brown+fox"
LUA = f"""
wrk.method = "POST"
wrk.body = "{CONTENT}"
wrk.headers["Content-Type"] = "application/x-www-form-urlencoded"
done = function(summary, latency)
  local e = summary.errors
  local bad = e.status + e.read + e.write + e.timeout
  local p99 = latency:percentile(99)
  io.write(string.format("RESULT %d %d %d %d\\n", summary.requests, summary.duration, p99, bad))
end
"""
POD = FakePod("6733c088-a507-4694-aabf-178dcf58aaaa")


class Run(NamedTuple):
    """Requests per second, 99th percentile of their latency, processor time each (both in microseconds)."""

    rate: float
    p99: float
    cpu: float


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--format", choices=["text", "json"], default="text")
    parser.add_argument("--check", action="store_true", help="fail when the peer is better")
    options = parser.parse_args()
    missing = [name for name in ("go", "wrk") if not shutil.which(name)]
    if missing or os.geteuid() != 0:
        print(f"skipped: needs root, go and wrk (missing: {', '.join(missing) or 'root'})")
        return 0
    result = compare(options.rounds, options.seconds, options.connections)
    if options.format == "json":
        print(json.dumps(result, indent=2))
    else:
        print(f"HMAC sign over HTTP, wrk -c{options.connections}, medians of {options.rounds} rounds")
        rates = f"{result['ours']:.0f} to {result['peer']:.0f}"
        print(f"  requests/s   {result['rate']:.2f}x of Go net/http ({rates})")
        p99 = f"{result['p99_ours']:.0f} to {result['p99_peer']:.0f} us"
        print(f"  p99 latency  {result['p99']:.2f}x of Go net/http ({p99})")
        print(f"  processor    {result['cpu']:.2f}x of Go net/http, time for each request over all processes")
        print(f"  memory       {result['pss_mb']:.1f} MB PSS, metadata service and signer together")
    return 1 if options.check and (result["rate"] < 1 or result["p99"] > 1) else 0


def compare(rounds: int, seconds: int, connections: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="gantry-bench-") as name, contextlib.ExitStack() as stack:
        base = Path(name)
        base.chmod(0o755)
        (base / "sign.lua").write_text(LUA)
        targets = {"peer": start_peer(base, stack), "ours": start_ours(base, stack)}
        runs: dict[str, list[Run]] = {"peer": [], "ours": []}
        for target in targets.values():
            wrk(base, target, 1, connections)  # warm
        for _ in range(rounds):
            for who, target in targets.items():
                runs[who].append(wrk(base, target, seconds, connections))
        pairs = list(zip(runs["ours"], runs["peer"], strict=True))
        return {
            "rate": statistics.median(a.rate / b.rate for a, b in pairs),
            "p99": statistics.median(a.p99 / b.p99 for a, b in pairs),
            "cpu": statistics.median(a.cpu / b.cpu for a, b in pairs),
            "ours": statistics.median(run.rate for run in runs["ours"]),
            "peer": statistics.median(run.rate for run in runs["peer"]),
            "p99_ours": statistics.median(run.p99 for run in runs["ours"]),
            "p99_peer": statistics.median(run.p99 for run in runs["peer"]),
            "pss_mb": sum(pss(pid) for pid in targets["ours"].pids) / 1024,
        }


class Target(NamedTuple):
    """Where to ask, and who works for it."""

    port: int
    pids: list[int]


def start_peer(base: Path, stack: contextlib.ExitStack) -> Target:
    source = base / "peer"
    source.mkdir()
    shutil.copy(Path(__file__).with_suffix(".go"), source / "main.go")
    environment = os.environ | {
        "GOCACHE": str(base / "cache"), "GOPATH": str(base / "gopath"), "GO111MODULE": "off",
    }  # fmt: skip
    subprocess.run(
        ["go", "build", "-o", str(source / "peer"), "main.go"], cwd=source, env=environment, check=True
    )
    port = free_port()
    peer = stack.enter_context(services.child(subprocess.Popen([str(source / "peer"), f"127.0.0.1:{port}"])))
    wait_until(lambda: answers(port), "the peer answers")
    return Target(port, [peer.pid])


def start_ours(base: Path, stack: contextlib.ExitStack) -> Target:
    port = free_port()
    common = ["--dir", str(base / "data"), "--run-dir", str(base / "run")]
    users = ["--user", str(SIGNER_UID), "--metadata-user", str(METADATA_UID)]
    log = base / "log"
    processes = [
        services.service("signer", [*common, *users], log),
        services.service("metadata", [*common, "--user", str(METADATA_UID), "--listen-port", str(port)], log),
    ]
    for process in processes:
        stack.enter_context(services.child(process))
    wait_until(lambda: log.exists() and log.read_text().count("ready") == 2, "our services are ready")
    signer.create(str(base / "run" / "signer.sock"), POD.uuid, POD.token_sha256.hex())
    document = base / "metadata.json"
    document.write_bytes(POD.document_bytes())
    fd = os.open(document, os.O_RDONLY)
    try:
        metadata.register(str(base / "run" / "metadata-svc.sock"), POD.uuid, fd, None)
    finally:
        os.close(fd)
    return Target(port, [process.pid for process in processes])


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def wrk(base: Path, target: Target, seconds: int, connections: int) -> Run:
    url = f"http://127.0.0.1:{target.port}{POD.path('pod/hmac/sign')}"
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}", "-s", str(base / "sign.lua"), url]
    before = sum(map(processor_time, target.pids))
    output = subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE).stdout
    used = sum(map(processor_time, target.pids)) - before
    match = re.search(r"^RESULT (\d+) (\d+) (\d+) (\d+)$", output, re.MULTILINE)
    assert match, output
    requests, duration, p99, bad = map(int, match.groups())
    assert not bad, f"{bad} requests failed"
    return Run(requests / duration * 1e6, p99, used / requests * 1e6)


def processor_time(pid: int) -> float:
    """Seconds of processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def pss(pid: int) -> int:
    """Proportional memory of a process in KiB."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    match = re.search(r"^Pss: +(\d+) kB", text, re.MULTILINE)
    assert match
    return int(match[1])


if __name__ == "__main__":
    sys.exit(main())
