"""The step ``run``: a command in the image as it is so far, isolated exactly as an app of a pod.

The same sandbox (namespaces, pause process), the same OCI runtime, configuration, capabilities and filter of
system calls. What differs: nothing of the host's environment, no metadata service, no volumes; the network is
none, or the host's if the step says so.

Places that only exist while a command runs (``/proc``, ``/sys``, ``/dev``, and ``/tmp`` and ``/run`` where
the image has none; with the host's network its ``resolv.conf`` and ``hosts``, as read-only copies) never get
into the image. If this process dies, so does the pause process, and with it everything in its PID namespace.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import stat
from typing import TYPE_CHECKING, NamedTuple

from gantry.appc.isolators import IsolatorList
from gantry.build.packing import BuildError
from gantry.errors import HostError
from gantry.linux import cgroups, syscalls
from gantry.linux.fs import make_directory, remove_tree
from gantry.pods import users
from gantry.pods.assemble import CONTAINER, SPEC_PATH
from gantry.pods.compile import pause_program
from gantry.pods.rootview import LookupFailedError, RootView
from gantry.sandbox import start
from gantry.stage1 import flavor
from gantry.stage1.isolators import CompiledPod, HostFeatures, compile_app
from gantry.stage1.oci import choose
from gantry.stage1.spec import Bind, Process, Root, render

if TYPE_CHECKING:
    from gantry.build.recipe import Run
    from gantry.build.steps_layer import Workplace

_STANDARD_ERROR = 2
_HOSTNAME = "build"
_PLACES = (
    ("/proc", 0o755),
    ("/sys", 0o755),
    ("/dev", 0o755),
    ("/tmp", 0o1777),  # noqa: S108
    ("/run", 0o755),
)
_HOST_FILES = ("resolv.conf", "hosts")


class Host(NamedTuple):
    """What this host runs commands with.

    Attributes:
        layout: Its control groups.
        runtime: The OCI runtime.
        pause: The pause program.
    """

    layout: cgroups.Layout
    runtime: str
    pause: str


def find_host() -> Host:
    """Look for what is needed, before anything is done.

    Raises:
        HostError: Something is not installed.
    """
    layout = cgroups.layout()
    return Host(layout, choose(layout), pause_program())


def forget(run: str, uuid: str) -> None:
    """Remove what a killed build has left outside of its directory; all of it has ended.

    Args:
        run: The run directory.
        uuid: The build.
    """
    cgroups.remove(cgroups.layout(), f"{cgroups.ROOT}/{uuid}")
    remove_tree(f"{run}/oci/{uuid}")


class Runner:
    """Runs the commands of one build.

    Args:
        host: What to run them with.
        place: The build's directory.
        root: The root file system.
        run: The run directory.
        epoch: For ``SOURCE_DATE_EPOCH``.
        native: The base says that it is for this very architecture.
    """

    def __init__(
        self, host: Host, place: Workplace, root: str, run: str, epoch: int, *, native: bool
    ) -> None:
        self._host = host
        self._place = place
        self._root = root
        self._run = run
        self._epoch = epoch
        self._isolators = compile_app(
            IsolatorList(), "build", CompiledPod(), HostFeatures(host.layout), native=native
        )
        self._delegated = cgroups.delegated(host.layout)
        self._group = self._delegated or f"{cgroups.ROOT}/{place.uuid}"
        make_directory(f"{place.path}/closed", 0)

    def perform(self, step: Run) -> None:
        """Run one command to its end. What it prints goes to our standard error.

        Raises:
            BuildError: It failed, or cannot be found in the image.
            HostError: The host cannot run it.
        """
        made = _Made(self._root)
        try:
            for path, mode in _PLACES:
                made.directory(path, mode)
            binds = self._host_files(made) if step.network == "host" else []
            process = self._process(step)
            status = self._contained(step, process, binds)
        finally:
            made.remove()
        if status:
            raise BuildError(f"the command ended with {status}", hint="what it printed stands above")

    def _host_files(self, made: _Made) -> list[Bind]:
        binds = []
        view = RootView(self._root)
        for name in _HOST_FILES:
            try:
                found = view.resolve(f"/etc/{name}")
            except LookupFailedError:
                continue
            if found.host is None or (found.status and not stat.S_ISREG(found.status.st_mode)):
                continue
            copy = f"{self._place.path}/{name}"
            with contextlib.suppress(FileNotFoundError):
                shutil.copyfile(f"/etc/{name}", copy)
                os.chmod(copy, 0o644)
                made.file(found.path)
                binds.append(Bind(copy, found.path, read_only=True, recursive=False, quiet=True))
        return binds

    def _process(self, step: Run) -> Process:
        view = RootView(self._root)
        identity = users.resolve(view, step.user, step.group, group_may_be_user=True)
        environment = {
            "PATH": SPEC_PATH,
            "SHELL": "/bin/sh",
            "USER": identity.name,
            "LOGNAME": identity.name,
            "HOME": identity.home,
            "SOURCE_DATE_EPOCH": str(self._epoch),
            "container": CONTAINER,
            **step.environment,
        }
        try:
            directory = view.directory(step.directory)
            program = view.executable(
                step.command[0], search=environment["PATH"], working_directory=directory
            )
        except LookupFailedError as error:
            raise BuildError(
                error.message, hint="it has to be in the base, or made by an earlier step"
            ) from error
        return Process(
            [program, *step.command[1:]], list(environment.items()), directory, identity.uid, identity.gid
        )

    def _contained(self, step: Run, process: Process, binds: list[Bind]) -> int:
        layout, place = self._host.layout, self._place
        host_network = step.network == "host"
        if self._delegated:
            cgroups.join(layout, f"{self._group}/sandbox")
        else:
            cgroups.make(layout, self._group)
        os.makedirs(self._run, exist_ok=True)
        shared = f"{place.path}/shm"
        make_directory(shared, 0o700)
        flags = syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC
        syscalls.mount("shm", shared, "tmpfs", flags, "mode=1777,size=64m")
        try:
            sandbox = start(
                program=self._host.pause,
                title="gantry-pause",
                hostname=os.uname().nodename if host_network else _HOSTNAME,
                host_network=host_network,
                listen=False,
                sysctl={},
                directory=self._run,
                lock=place.lock,
                bound=True,
                layout=layout,
                group=f"{self._group}/sandbox",
            )
            try:
                sandbox.network_ready()
                sandbox.ready()
                root = Root(self._root, shared, f"{place.path}/closed", read_only=False, binds=binds)
                return self._execute(process, root, sandbox.pid, host_network=host_network)
            finally:
                sandbox.end()  # and with it all that the command has left running
                _collect()
        finally:
            syscalls.umount(shared, syscalls.MNT_DETACH)
            remove_tree(f"{self._run}/oci/{place.uuid}")
            remove_tree(f"{place.path}/bundle")
            cgroups.remove(layout, f"{self._group}/build" if self._delegated else self._group)

    def _execute(self, process: Process, root: Root, pause: int, *, host_network: bool) -> int:
        mark = f"gantry-{secrets.token_hex(16)}"
        text = render(process, root, self._isolators, mark=mark, host_network=host_network)
        text = text.replace(f'"{mark}:url",', "").replace(f"{mark}:pause", str(pause))
        group = f"{self._group}/build".replace("\\", "\\\\")
        bundle = f"{self._place.path}/bundle"
        make_directory(bundle, 0o700)
        with open(f"{bundle}/config.json", "w", encoding="ascii") as file:
            file.write(text.replace(f"{mark}:group", group))
        runtime = flavor.find(
            "oci",
            runtime=self._host.runtime,
            run=self._run,
            uuid=self._place.uuid,
            lock=self._place.lock,
        )
        try:
            return runtime.run("build", bundle, streams=(_STANDARD_ERROR, _STANDARD_ERROR))
        except HostError as error:
            raise BuildError(error.message, hint="see what it names") from error


def _collect() -> None:
    """Wait for the OCI runtime, should a signal have come between it and us."""
    with contextlib.suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)


class _Made:
    """What was made in a root for as long as a command runs.

    Args:
        root: It; nobody else works there.
    """

    def __init__(self, root: str) -> None:
        self._root = root
        self._made: list[str] = []

    def directory(self, path: str, mode: int) -> None:
        """Make a directory unless something is there."""
        if not os.path.lexists(self._root + path):
            self._made.append(self._root + path)
            make_directory(self._root + path, mode)

    def file(self, path: str) -> None:
        """Make an empty file, and what is missing above it, unless it is there; *path* is resolved."""
        for end in [at for at, character in enumerate(path) if character == "/" and at]:
            self.directory(path[:end], 0o755)
        if not os.path.lexists(self._root + path):
            self._made.append(self._root + path)
            os.close(os.open(self._root + path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644))

    def remove(self) -> None:
        """Remove it all, with what commands have left in it."""
        for path in reversed(self._made):
            remove_tree(path)
