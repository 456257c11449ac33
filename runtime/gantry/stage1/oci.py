"""The default flavor: one container per app, made by an OCI runtime (runc or crun).

The runtime is a program that starts the app and ends: nothing of it stays. The app then belongs to the
nearest subreaper, the launcher, or to process 1. Its state lives below the run directory, one place per
pod, and goes with the pod: when nothing runs any more there is nothing in it that the runtime would have to
undo, so it is removed as files (asking the runtime to do so costs as much as starting an app).

On the launch path.
"""

from __future__ import annotations

import os

from gantry.errors import HostError
from gantry.linux.programs import Program, find

TYPE_CHECKING = False
if TYPE_CHECKING:
    from gantry.linux.cgroups import Layout


def choose(layout: Layout) -> str:
    """The OCI runtime for this host: crun, the faster one, wherever it can work; else runc.

    crun refuses control groups of both versions at once (hybrid); runc takes all layouts.

    Raises:
        HostError: There is none that works here.
    """
    hybrid = layout.unified is not None and not layout.pure
    crun, runc = find("crun"), find("runc")
    chosen = runc if hybrid else crun or runc
    if chosen:
        return chosen
    if crun:
        raise HostError(
            "crun does not work with control groups of both versions, which this host has",
            hint="install runc",
        )
    raise HostError("an OCI runtime (crun or runc) is not installed", hint="install runc")


class Oci:
    """The flavor for one pod, see :class:`gantry.stage1.flavor.Flavor`.

    Args:
        runtime: Absolute path of the OCI runtime.
        root: The directory for its state, this pod's own.
        lock: See :func:`gantry.stage1.flavor.find`.
    """

    __slots__ = ("_lock", "_root", "_runtime")

    def __init__(self, runtime: str, root: str, lock: int | None) -> None:
        self._runtime = runtime
        self._root = root
        self._lock = lock
        os.makedirs(os.path.dirname(root), 0o700, exist_ok=True)

    def _command(self, bundle: str, *words: str) -> list[str]:
        return [self._runtime, "--root", self._root, "--log", f"{bundle}/runtime.log", *words]

    def _refusal(self, what: str, bundle: str, status: int) -> HostError:
        try:
            with open(f"{bundle}/runtime.log", encoding="utf-8", errors="replace") as file:
                lines = [line.strip() for line in file if "level=error" in line or "level=" not in line]
        except OSError:
            lines = []
        said = lines[-1] if lines else f"status {status}"
        if "msg=" in said:
            said = said.partition("msg=")[2].strip('"').replace('\\"', '"')
        return HostError(
            f"cannot start {what}: {os.path.basename(self._runtime)} said: {said}",
            hint="mend what it names and start the pod again; what the app executes is fixed at prepare",
        )

    def start(
        self,
        app: str,
        bundle: str,
        *,
        own_input: bool = False,
        console: str | None = None,
        streams: tuple[int, int] | None = None,
    ) -> int:
        """See :class:`gantry.stage1.flavor.Flavor`."""
        words = ["run", "--detach", "--bundle", bundle, "--pid-file", f"{bundle}/pid"]
        if console is not None:
            words += ["--console-socket", console]
        return self._started(f'app "{app}"', bundle, [*words, app], own_input=own_input, streams=streams)

    def enter(self, app: str, process: str, *, place: str, console: str | None = None) -> int:
        """See :class:`gantry.stage1.flavor.Flavor`."""
        words = ["exec", "--detach", "--process", process, "--pid-file", f"{place}/pid"]
        if console is not None:
            words += ["--console-socket", console]
        return self._started(f'the command in app "{app}"', place, [*words, app], own_input=True)

    def _started(
        self,
        what: str,
        place: str,
        words: list[str],
        *,
        own_input: bool,
        streams: tuple[int, int] | None = None,
    ) -> int:
        # Its standard error is the app's: it cannot be kept apart.
        output, errors = streams or (None, None)
        program = Program(
            self._command(place, *words),
            own_input=own_input,
            output=output,
            errors=errors,
            keep_errors=False,
            hold=self._lock,
        )
        status = program.wait()
        if status:
            raise self._refusal(what, place, status)
        with open(f"{place}/pid", encoding="ascii") as file:
            return int(file.read())

    def run(self, name: str, bundle: str, *, streams: tuple[int, int] | None = None) -> int:
        """See :class:`gantry.stage1.flavor.Flavor`."""
        words = ("run", "--bundle", bundle, "--pid-file", f"{bundle}/pid", name)
        output, errors = streams or (None, None)
        program = Program(
            self._command(bundle, *words), output=output, errors=errors, keep_errors=False, hold=self._lock
        )
        status = program.wait()
        if status and not os.path.exists(f"{bundle}/pid"):
            raise self._refusal(f'"{name}"', bundle, status)
        return status
