"""The command: ``python -m demo [--keep] [--place DIR] [--infra JUNIT.xml] [--down]``."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from demo import leftovers, script
from demo.hosts import ProofError
from demo.show import Stage
from gantry.errors import GantryError
from testhosts import cache


class Stopper:
    """Turns ctrl-C and SIGTERM into one orderly end, and lets no second one interrupt the clean-up."""

    def __init__(self) -> None:
        self.asked = False
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._ask)

    def _ask(self, _number: int, _frame: FrameType | None) -> None:
        if not self.asked:
            self.asked = True
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def patience(self) -> Iterator[None]:
        """Something that is nice to have: an interrupt ends it, and the clean-up goes on."""
        with contextlib.suppress(KeyboardInterrupt):
            yield

    def shield(self) -> None:
        """From here on signals are remembered, not obeyed: things are being put away."""
        self.asked = True


def main(arguments: list[str] | None = None) -> int:
    """Run the demonstration; 0, 1 after a failure, 130 after an interrupt."""
    parser = argparse.ArgumentParser(prog="demo", description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave the hosts up")
    parser.add_argument("--down", action="store_true", help="only remove what an earlier run has kept")
    parser.add_argument("--place", type=Path, default=cache.REPOSITORY / "build/demo", help="its directory")
    parser.add_argument(
        "--infra", type=Path, metavar="JUNIT.xml", help="run tests/infra against the hosts as well"
    )
    given = parser.parse_args(arguments)
    stage = Stage()
    place: Path = given.place.absolute()
    stopper = Stopper()
    demo = script.Demo(stage, place, lambda: stopper.asked)
    status = 1
    try:
        if not given.down and script.kept(place):
            stage.line("An earlier run has kept its hosts. They are removed first.")
        removed = script.remove(place)
        for thing in removed:
            stage.good(f"removed {thing}")
        if given.down:
            if not removed:
                stage.line(f"There is nothing to remove in {place}.")
            return 0
        place.mkdir(parents=True)
        demo.run()
        if given.infra:
            _infra(demo, given.infra)
        status = 0
    except KeyboardInterrupt:
        status = 130
        stage.bad("interrupted")
    except GantryError as error:
        stage.bad(str(error))
        with stopper.patience():
            demo.last_words()
    finally:
        stopper.shield()
        kept = given.keep and (place / "fleet/state.json").exists()
        if not kept and not given.down:
            _clean(stage, place)
    if status == 0:
        script.summary(demo, kept=kept)
    elif kept:
        stage.line(
            f"The hosts are up, as asked: ssh -F {place}/fleet/ssh_config app1. "
            f"Remove them: {script.again(place, 'down')}"
        )
    return status


def _clean(stage: Stage, place: Path) -> None:
    script.remove(place)
    stage.good("removed every process, mount, namespace and file that this run made")


def _infra(demo: script.Demo, junit: Path) -> None:
    demo.stage.step("Check the hosts with testinfra")
    argv = [sys.executable, "-m", "pytest", "-q", str(cache.REPOSITORY / "tests/infra")]
    argv += [
        f"--ssh-config={demo.fleet.ssh_config}",
        f"--junit-xml={junit.absolute()}",
        "-p",
        "no:cacheprovider",
    ]
    environment = {**os.environ, "GANTRY_FLEET": str(demo.state), **leftovers.mark(demo.place)}
    if subprocess.run(
        argv, cwd=cache.REPOSITORY, stdin=subprocess.DEVNULL, env=environment, check=False
    ).returncode:
        raise ProofError("the hosts are not as tests/infra wants them", hint=f"see above, and {junit}")


if __name__ == "__main__":
    sys.exit(main())
