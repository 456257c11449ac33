"""The command: ``python -m testhosts create|destroy|list|ssh|roots``."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path
from types import FrameType

from gantry.errors import GantryError
from testhosts import fleet, roots, ssh, vms
from testhosts.errors import HostsError
from testhosts.spec import SUITES, load


def _terminate(_number: int, _frame: FrameType | None) -> None:
    # As for ctrl-C: an exception unwinds through the clean-up.
    raise KeyboardInterrupt


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="testhosts", description="Fresh Debian hosts for tests and the demo.")
    verbs = top.add_subparsers(dest="verb", required=True)
    create = verbs.add_parser("create", help="make a fleet and wait until it has booted")
    create.add_argument("spec", type=Path, metavar="SPEC.yml")
    destroy = verbs.add_parser("destroy", help="remove a fleet, whole or half-made")
    listing = verbs.add_parser("list", help="show the hosts of a fleet, or all fleets of this machine")
    shell = verbs.add_parser("ssh", help="log in on a host, or run a command there")
    shell.add_argument("name")
    shell.add_argument("arguments", nargs=argparse.REMAINDER)
    build = verbs.add_parser("prepare", help="fill the cache: base roots, and disks for VMs")
    build.add_argument("--kind", choices=["machine", "vm"], default="machine")
    build.add_argument("--suite", action="append", choices=SUITES)
    for verb in (create, destroy, shell):
        verb.add_argument(
            "--state", type=Path, required=True, metavar="DIR", help="the fleet's state directory"
        )
    listing.add_argument("--state", type=Path, metavar="DIR")
    return top


def say(line: str) -> None:
    """Tell the user how far it is."""
    print(f"testhosts: {line}", file=sys.stderr, flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; 0, or 1 with one line on standard error."""
    given = parser().parse_args(arguments)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _terminate)
    try:
        return _run(given)
    except GantryError as error:
        print(f"testhosts: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("testhosts: interrupted; everything made so far is removed", file=sys.stderr)
        return 130


def _run(given: argparse.Namespace) -> int:
    if given.verb == "create":
        made = fleet.create(load(given.spec), given.state, say)
        print(made.inventory)
    elif given.verb == "destroy":
        say("removed" if fleet.destroy(given.state) else "nothing to remove")
    elif given.verb == "list":
        _list(given.state)
    elif given.verb == "prepare":
        suites = given.suite or list(SUITES)
        for path in roots.prepare(map(roots.Base, suites)).values():
            print(path)
        if given.kind == "vm":
            for disk in vms.prepare(suites).values():
                print(disk.image)
    else:
        found = fleet.load(given.state)
        found.host(given.name)
        argv = ssh.command(found.ssh_config, given.name, given.arguments)
        os.execvp(argv[0], argv)  # noqa: S606 -- ssh takes over this terminal
    return 0


def _list(state: Path | None) -> None:
    places = [state] if state else [place for _id, place in fleet.every()]
    for place in places:
        try:
            found = fleet.load(place)
        except HostsError as error:
            print(f"{place}\t(half-made: {error.message})")
            continue
        for host in found.hosts:
            running = "running" if found.alive(host) else "ended"
            print("\t".join([str(place), host.name, host.kind, host.suite, host.address, running]))


if __name__ == "__main__":
    sys.exit(main())
