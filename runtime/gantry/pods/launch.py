"""Execute a launch plan: ``run-prepared UUID`` and ``pod-stopped UUID``.

``prepare`` has done the thinking; here every step is a system call or a program, in the order that keeps both
processors busy: the pause process makes the namespaces while we mount, nft works while both do.

Two endings (docs/decisions/0005):

- *stay*: this process is the pod's supervisor. Apps fall to it (it is a subreaper), it forwards signals, and
  it ends with the pod's status. If it is killed the pod dies with it (the pause process asks the kernel so);
- *leave* (``--leave``): it ends as soon as the app runs. :mod:`gantry.pods.leave` hands the app to systemd;
  the unit's ``ExecStopPost`` calls ``pod-stopped``, which records and cleans (docs/decisions/0010).

The pod's status is that of the first app that failed, which usually stops the others; 0 when none has.

This module and all it imports are the launch path: ``tests/unit/test_launch_imports.py`` pins them.
"""

from __future__ import annotations

import os
import sys
import time

from gantry.errors import GantryError, HostError, NotFoundError, UsageError
from gantry.linux import cgroups, namespaces, syscalls
from gantry.linux.programs import exit_code, open_standard_streams
from gantry.pods import bundle, identity, mounting, sources, state
from gantry.pods.arguments import parse
from gantry.pods.ending import back_to_prepared, clean, record_exit, recover, warn
from gantry.pods.output import Streams, kept_by_journal
from gantry.pods.records import record_start
from gantry.pods.supervisor import Supervisor, reap
from gantry.sandbox import LISTEN_FD, METADATA_ADDRESS, METADATA_PORT, Sandbox
from gantry.sandbox import start as start_sandbox
from gantry.stage1 import flavor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from gantry.network.wire import Reservation
    from gantry.pods.terminal import Terminal
    from gantry.stage1.flavor import Flavor

TOOL_FAILURE = 254


def main(argv: list[str]) -> int:
    """The command lines ``run-prepared [--leave] UUID`` and ``pod-stopped UUID``.

    Args:
        argv: The words after the program's name; ``--dir=DIR`` and ``--run-dir=DIR`` may stand anywhere.

    Returns:
        The exit status: the pod's own, or 254 when Gantry failed.
    """
    open_standard_streams()
    try:
        verb, uuid, leave, data, run = parse(argv)
        if os.geteuid() != 0:
            raise UsageError("cannot run as unprivileged user", hint="use sudo")
        state.check_format(data)
        if verb == "pod-stopped":
            from gantry.pods.stopped import pod_stopped  # noqa: PLC0415 - not on the way to a running app

            pod_stopped(data, run, uuid)
            return 0
        return Launch(data, run, uuid, leave=leave).execute()
    except (GantryError, OSError) as error:
        shown = error if isinstance(error, GantryError) else HostError(f"the kernel refused: {error}")
        name = next((word for word in argv if not word.startswith("-")), "run-prepared")
        sys.stderr.write(f"{name}: {shown}\n")
        return TOOL_FAILURE


class Launch:
    """One start of one pod."""

    def __init__(self, data: str, run: str, uuid: str, *, leave: bool = False) -> None:
        self.data = data
        self.run = run
        self.uuid = uuid
        self.leave = leave
        self.path = state.directory(data, "run", uuid)
        self.place = f"{run}/pods/{uuid}"
        self.plan: dict[str, Any] = {}
        self.lock = -1
        self.sandbox: Sandbox | None = None
        self.layout = cgroups.layout()
        self.delegated: str | None = None
        self.base = ""
        self.group = ""
        self.reservation: Reservation | None = None
        self.networks: list[dict[str, Any]] = []
        self.warnings: list[str] = []
        self.supervisor = Supervisor()
        self.results: dict[str, dict[str, Any]] = {}
        self.running: dict[str, dict[str, Any]] = {}
        self.status = 0
        self.flavor: Flavor | None = None
        self.terminal: Terminal | None = None
        self.streams: Streams | None = None
        self.size: tuple[int, int] | None = None

    def execute(self) -> int:
        """Start the pod; return 0 once it runs (leave) or its status when it has ended (stay).

        Raises:
            GantryError: It could not be started. It is prepared again unless an app had started.
        """
        self._take()
        plan = self.plan
        self._check()
        self._choose_streams()
        # From here on a signal waits until the pod has started, or the start has been undone.
        self.supervisor.listen(plan["stop_timeout"], plan.get("exit_policy", "any-failure"))
        self.delegated = cgroups.delegated(self.layout)
        self.base = self.delegated or f"{cgroups.ROOT}/{self.uuid}"
        if plan["network"]["mode"] == "default":
            from gantry.network.wire import reserve  # noqa: PLC0415 - only pods with a network pay for it

            self.reservation = reserve(
                self.run, self.uuid, self.path, plan["network"]["ports"], state.is_held
            )
        try:
            # Before it counts as running: whoever wants to stop it finds out whom to ask.
            self._write_launch(state.directory(self.data, "prepared", self.uuid), leaving=self.leave)
            # Not synced: after a power cut the pod is prepared again either way.
            state.move(self.data, self.uuid, "prepared", "run")
            self._start()
        except BaseException as error:
            self._give_up(error)
            raise
        if self.leave:
            return 0
        return self._stay()

    def _choose_streams(self) -> None:
        if self.plan.get("interactive"):
            from gantry.pods import terminal  # noqa: PLC0415 - few pods are

            self.size = terminal.size() if terminal.available() else None
        elif not self.leave and not kept_by_journal():
            self.streams = Streams(f"{self.path}/logs")

    # Taking the pod

    def _take(self) -> None:
        path = state.directory(self.data, "prepared", self.uuid)
        lock = state.hold(path)
        if lock is None and os.path.isdir(self.path):
            lock = recover(self.data, self.run, self.uuid, self.layout)
        if lock is None:
            if state.find(self.data, self.uuid) is None:
                raise NotFoundError(f'no matches found for "{self.uuid}"', hint="gantry list shows all pods")
            raise state.PodStateError(
                f'pod "{self.uuid}" is not prepared', hint="gantry status shows its state; prepare a new pod"
            )
        self.lock = lock
        self.plan = state.read_json(f"{path}/plan.json")
        if self.plan.get("format") != state.FORMAT:
            raise HostError(
                f'pod "{self.uuid}" was prepared by another version of gantry', hint="prepare it again"
            )

    def _check(self) -> None:
        """All that can be refused before anything is made."""
        plan = self.plan
        if self.leave and len(plan["apps"]) != 1:
            raise UsageError(
                f"--leave is for pods of one app, this one has {len(plan['apps'])}",
                hint="run it without --leave: its supervisor must stay",
            )
        if plan.get("interactive") and self.leave:
            raise UsageError(
                "an interactive pod has no place under systemd", hint="gantry run-prepared it in a terminal"
            )
        sources.check(plan["sources"])
        for app in plan["apps"]:
            if not os.path.isdir(app["lower"]):
                raise NotFoundError(
                    f'the rendered tree of app "{app["name"]}" is gone: {app["lower"]}',
                    hint="prepare the pod again",
                )
        for program in filter(None, (plan["runtime"], plan["pause"])):
            if not os.access(program, os.X_OK):
                raise HostError(f"{program} is gone from this host", hint="install it again")

    # Starting

    def _start(self) -> None:
        plan = self.plan
        syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
        os.makedirs(self.place, 0o700, exist_ok=True)
        if self.delegated:
            cgroups.join(self.layout, f"{self.base}/sandbox")
        else:
            cgroups.make(self.layout, self.base)
        self._bound_pod()
        metadata = self._metadata_service()
        host_network = plan["network"]["mode"] == "host"
        self.sandbox = sandbox = start_sandbox(
            program=plan["pause"],
            title="gantry-pause",
            hostname=self.hostname(),
            host_network=host_network,
            listen=metadata,
            sysctl=plan["sysctl"],
            directory=self.run,
            lock=self.lock,
            bound=not self.leave,
            layout=self.layout,
            group=f"{self.base}/sandbox",
        )
        self.supervisor.pause = sandbox.pid
        self._write_launch(self.path, leaving=self.leave)
        state.write_json(
            f"{self.path}/sandbox.json",
            {
                "pause_pid": sandbox.pid,
                "pause_start": sandbox.started,
                "boot_id": namespaces.boot_id(),
                "listen_fd": LISTEN_FD if metadata and not host_network else None,
            },
        )
        configured = plan["network"].get("configured")
        if configured:
            from gantry.network import cni  # noqa: PLC0415 - only pods with such networks pay for it

            sandbox.network_ready()
            cni.keep_namespace(self.run, self.uuid, sandbox.pid)
        namespaces.private_mounts()
        mounting.mount(self.path, plan, fresh=True)
        record_start(self.data, self.uuid, plan, self.reservation, self.warnings)
        if not configured:
            sandbox.network_ready()
        self._connect()
        sandbox.ready()
        if metadata:
            identity.register(
                self.run,
                self.path,
                self.uuid,
                plan["token_sha256"],
                sandbox=sandbox,
                listens=not host_network,
                warn=self._warn,
            )
        self.flavor = self.find_flavor()
        for app in plan["apps"]:
            self._start_app(app, metadata=metadata, host_network=host_network)
        self._write_launch(self.path)
        if self.leave:
            pid = next(iter(self.supervisor.apps))
            with open(f"{self.place}.pid", "w", encoding="ascii") as file:
                file.write(f"{pid}\n")
            self.supervisor.pass_on()

    def find_flavor(self) -> Flavor:
        """The plan's flavor, for this pod."""
        plan = self.plan
        return flavor.find(
            plan["flavor"],
            runtime=plan["runtime"],
            run=self.run,
            uuid=self.uuid,
            lock=self.lock,
            bound=not self.leave,
        )

    def hostname(self) -> str:
        """Of the pod."""
        return self.plan["hostname"] or os.uname().nodename

    def _bound_pod(self) -> None:
        """Apply the pod's own limits to the group above its apps (ISO-02)."""
        limits = self.plan["limits"]
        self.group = self.base
        if not limits:
            return
        if self.delegated:
            self.group = f"{self.base}/apps"
            cgroups.make(self.layout, self.group)
        try:
            cgroups.limit(
                self.layout, self.group, memory=limits.get("memory"), cpu_milli=limits.get("cpu_milli")
            )
        except (OSError, KeyError) as error:
            raise HostError(f"cannot limit the pod's resources: {error}") from error

    def _connect(self) -> None:
        if self.reservation is not None and self.sandbox:
            namespace = self.sandbox.namespace("net")
            try:
                self.networks = [self.reservation.connect(namespace)]
            finally:
                os.close(namespace)
        if self.plan["network"].get("configured"):
            from gantry.network import cni  # noqa: PLC0415 - see _start

            self.networks += cni.join(self.run, self.path, self.uuid, self.plan["network"])
        if self.networks:
            state.write_json(f"{self.path}/net-info.json", {"networks": self.networks})

    def _metadata_service(self) -> bool:
        if os.path.exists(f"{self.run}/metadata-svc.sock"):
            return True
        self._warn("the metadata service is not installed: AC_METADATA_URL is not set")
        return False

    # Apps

    def _bundle(self, app: str, template: str, name: str, *, metadata: bool, host_network: bool) -> str:
        """Fill in what only the launch knows; returns the bundle's directory."""
        assert self.sandbox
        address = "127.0.0.1" if host_network else METADATA_ADDRESS
        return bundle.fill(
            f"{self.path}/apps/{app}/{template}.json",
            f"{self.place}/{name}",
            self.plan,
            url=f"http://{address}:{METADATA_PORT}/{self.plan['token']}" if metadata else None,
            group=f"{self.group}/{name}",
            pause=self.sandbox.pid,
            size=self.size if template == "config" else None,
        )

    def _start_app(self, app: dict[str, Any], *, metadata: bool, host_network: bool) -> None:
        assert self.flavor
        name = app["name"]
        if "pre-start" in app["handlers"]:
            place = self._bundle(
                name, "pre-start", f"{name}.pre-start", metadata=metadata, host_network=host_network
            )
            status = self._run_handler(name, f"{name}.pre-start", place)
            if status:
                raise state.HandlerError(
                    f'the pre-start handler of app "{name}" ended with {status}: the app is not started',
                    hint="its output says why",
                )
        place = self._bundle(name, "config", name, metadata=metadata, host_network=host_network)
        if self.size:
            from gantry.pods.terminal import Terminal  # noqa: PLC0415 - see execute

            self.terminal = Terminal(place)
            pid = self.flavor.start(name, place, own_input=True, console=self.terminal.address)
            self.terminal.take()
        elif self.streams:
            pid = self.flavor.start(name, place, streams=self.streams.pipes(name))
            self.streams.pass_on(name)
        else:
            pid = self.flavor.start(name, place, own_input=bool(self.plan.get("interactive")))
        self.supervisor.apps[pid] = name
        self.running[name] = {
            "pid": pid,
            "start": namespaces.start_time(pid) or 0,
            "started_at": time.time_ns(),
        }

    def _run_handler(self, app: str, name: str, place: str) -> int:
        assert self.flavor
        if not self.streams:
            return self.flavor.run(name, place)
        pipes = self.streams.pipes(app)
        self.streams.pass_on(app, keep=True)
        try:
            return self.flavor.run(name, place, streams=pipes)
        finally:
            self.streams.close(app)

    # Records

    def _warn(self, text: str) -> None:
        self.warnings.append(text)
        warn(text)

    def _write_launch(self, path: str, *, leaving: bool = False) -> None:
        own = os.getpid()
        started = namespaces.start_time(own) or 0
        state.write_json(
            f"{path}/launch.json",
            {
                "boot_id": namespaces.boot_id(),
                "started_at": time.time(),
                "launcher": {"pid": own, "start": started} if leaving or not self.leave else None,
                "leaving": leaving,
                "apps": self.running,
                "group": self.base,
                "output": self._where(),
                "warnings": self.warnings,
            },
        )

    def _where(self) -> str | None:
        """Who keeps what the apps write; nobody what goes to a terminal."""
        if self.streams:
            return "files"
        return "journal" if kept_by_journal() else None

    # Failing to start

    def _give_up(self, error: BaseException) -> None:
        """Undo a start that failed; the pod is prepared again unless an app had started."""
        if self.terminal:
            self.terminal.close()
        if self.reservation:
            self.reservation.undo()
        if self.sandbox:
            self.sandbox.end()
        reap()
        if self.streams:
            self.streams.end(self._warn)
        started = bool(self.supervisor.apps)
        if os.path.isdir(self.path):
            reason = error.message if isinstance(error, GantryError) else f"{type(error).__name__}: {error}"
            outcome = {"status": TOOL_FAILURE, "reason": reason}
            record_exit(self.data, self.uuid, outcome, self.results)
            clean(self.data, self.run, self.uuid, self.layout, self.base)
            if not started or self.plan["restartable"]:
                mounting.unmount(self.path, self.plan)
                back_to_prepared(self.data, self.uuid)
        os.close(self.lock)

    # Supervising

    def _stay(self) -> int:
        assert self.sandbox
        try:
            self.status = self.supervisor.wait(self._app_ended)
        finally:
            if self.terminal:
                self.terminal.close()
        self.post_stop(metadata=os.path.exists(f"{self.run}/metadata-svc.sock"))
        self.sandbox.end()
        if self.plan["flavor"] != "oci":  # nothing of theirs need be in the pod's process namespace
            for app in self.plan["apps"]:
                cgroups.kill(self.layout, f"{self.group}/{app['name']}")
        if self.streams:
            self.streams.end(self._warn)
        self._finish()
        return self.status

    def _app_ended(self, name: str, wait_status: int) -> int:
        code = exit_code(wait_status)
        result: dict[str, Any] = {
            "exit_code": code,
            "started_at": self.running[name]["started_at"],
            "finished_at": time.time_ns(),
        }
        if os.WIFSIGNALED(wait_status):
            result["signal"] = os.WTERMSIG(wait_status)
        self.results[name] = result
        try:
            os.makedirs(f"{self.path}/status", 0o750, exist_ok=True)
            state.write_json(f"{self.path}/status/{name}", result)
        except OSError as error:  # a full disk is no reason to end the apps that run
            self._warn(f'the end of app "{name}" ({code}) cannot be written down: {error}')
        if self.supervisor.apps or self.handlers("post-stop"):
            cgroups.kill(self.layout, f"{self.group}/{name}")  # what the app has left behind
        return code

    def handlers(self, kind: str) -> list[str]:
        """The apps that have a handler of *kind*."""
        return [app["name"] for app in self.plan["apps"] if kind in app["handlers"]]

    def post_stop(self, *, metadata: bool) -> None:
        """Run the post-stop handlers of the apps that were started (TRAP-22)."""
        host_network = self.plan["network"]["mode"] == "host"
        for name in self.handlers("post-stop"):
            assert self.flavor
            try:
                place = self._bundle(
                    name, "post-stop", f"{name}.post-stop", metadata=metadata, host_network=host_network
                )
                status = self._run_handler(name, f"{name}.post-stop", place)
            except GantryError as error:
                self._warn(str(error))
                continue
            self.results.setdefault(name, {})["post_stop"] = status
            if status:
                self._warn(f'the post-stop handler of app "{name}" ended with {status}')

    def _finish(self) -> None:
        outcome: dict[str, Any] = {"status": self.status}
        if self.supervisor.asked:
            outcome["reason"] = "stopped on request"
        record_exit(self.data, self.uuid, outcome, self.results)
        clean(self.data, self.run, self.uuid, self.layout, self.base)
        if self.plan["restartable"]:
            mounting.unmount(self.path, self.plan)
            back_to_prepared(self.data, self.uuid)
        os.close(self.lock)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
