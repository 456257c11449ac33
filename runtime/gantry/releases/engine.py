"""Changes to named pods: stage first, then switch, and go back when the new release does not stay up.

A change is written down (``change.json``) before each of its stages, so that whoever comes after a kill -9
knows what to do. The stages of a replacement:

===========  ===============================================  ==========================================
stage        what is done in it                               what the next holder of the lock does
===========  ===============================================  ==========================================
``prepare``  release written, images pinned, pod prepared     undo: nothing that serves was touched
``switch``   old stopped, unit written, new started           new one runs: finish; else start the old
``clean``    old pod and old releases removed                 finish
``remove``   unit, pods, pins, releases removed               finish
===========  ===============================================  ==========================================

Everything below ``prepare`` may be repeated without harm; no step assumes that the one before was the first
try.
"""

# Longer than 500 lines because each stage of a change is read beside what finishes and undoes it.

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gantry import audit, systemd
from gantry.config import Paths
from gantry.errors import GantryError, HostError, NotFoundError
from gantry.releases.decide import Decision, Observed, Wish, decide
from gantry.releases.ports import Backend, Manager, Outcome, ReleaseError
from gantry.releases.spec import PodSpec, SpecError, release_id
from gantry.releases.store import FormatError, Release, ReleaseStore
from gantry.releases.units import Units

PROGRAM = "/opt/gantry/current/bin/gantry"

# Units of the runtime itself; a pod of that name would take their place.
RESERVED = frozenset({"metadata", "signer", "gc"})

_LOCK_SECONDS = 300.0
_REMOVAL_FINISHED = "an interrupted removal was finished"
_PROPERTIES = (
    "ActiveState",
    "SubState",
    "Result",
    "NRestarts",
    "ExecMainStatus",
    "ExecMainExitTimestampMonotonic",
)


class Engine:
    """Observes and changes named pods.

    Args:
        paths: Where the installation lives.
        backend: The rooms beneath.
        manager: systemd.
        unit_dir: Where units are written.
        program: The command as units call it; follows upgrades of the runtime.
        pause: Waits for some seconds; replaced by tests.
    """

    def __init__(
        self,
        paths: Paths,
        backend: Backend,
        manager: Manager,
        *,
        unit_dir: str = systemd.UNIT_DIRECTORY,
        program: str = PROGRAM,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self.paths = paths
        self.backend = backend
        self.manager = manager
        self.store = ReleaseStore(paths)
        self.units = Units(paths, unit_dir, program)
        self._pause = pause

    # --- what is ---

    def observe(self, names: Sequence[str]) -> dict[str, Observed]:
        """How these pods are found; systemd is asked once for all of them, and not at all for none."""
        damaged: dict[str, str] = {}
        releases: dict[str, Release | None] = {}
        for name in names:
            try:
                releases[name] = self.store.current(name)
                self.store.change(name)
            except FormatError as e:
                releases[name], damaged[name] = None, e.message
        known = [n for n in names if releases[n] is not None]
        states: dict[str, dict[str, str]] = {}
        if known and self.manager.available():
            states = self.manager.show_many([self.units.name(n) for n in known], _PROPERTIES)
        return {
            n: Observed(n, pending=True, damaged=damaged[n])
            if n in damaged
            else self._observed(n, releases[n], states.get(self.units.name(n), {}))
            for n in names
        }

    def _observed(self, name: str, release: Release | None, state: Mapping[str, str]) -> Observed:
        if release is None:
            return Observed(name, pending=self.store.change(name) is not None)
        return Observed(
            name,
            release,
            wanted=self.store.wanted(name),
            pending=self.store.change(name) is not None,
            pod_there=bool(release.uuid) and self.backend.pod_there(release.uuid),
            unit_fits=self.units.read(name) == self.units.text(release),
            enabled=self.units.enabled(name),
            active=state.get("ActiveState", "inactive"),
            sub=state.get("SubState", "dead"),
            result=state.get("Result", ""),
            main_exited=state.get("ExecMainExitTimestampMonotonic", "0") not in {"", "0"},
        )

    def known_release(self, spec: PodSpec, current: Release | None) -> str | None:
        """The ID of the release that *spec* makes with the images in the store; no network is used.

        An image that the store no longer finds by name still counts as the one that the current release runs.

        Returns:
            The ID, or ``None`` when an image is in neither place.
        """
        images: dict[str, str] = {}
        for app in spec.apps:
            found = self.backend.find(app.image) or (current.images.get(app.image) if current else None)
            if found is None:
                return None
            images[app.image] = found
        return release_id(spec, images)

    def known(self, name: str) -> bool:
        """Whether anything is known about a pod of this name, a change cut short included."""
        try:
            return self.store.current(name) is not None or self.store.change(name) is not None
        except FormatError:
            return True

    # --- changes ---

    def converge(self, wish: Wish) -> Outcome:
        """Bring one named pod to *wish*.

        Raises:
            NotFoundError: There is no such pod and the wish does not say what it should run.
            ReleaseError: The new release did not stay up; the old one runs again.
            GantryError: An image or the pod could not be made ready; nothing was touched.
        """
        self.check_wish(wish)
        with self.store.locked(wish.name, timeout=_LOCK_SECONDS):
            if wish.state == "absent" and self.known(wish.name):
                # What a change that was cut short, or a damaged file, says does not matter any more.
                decision = decide(Observed(wish.name, pending=True), wish)
                self._remove(wish.name)
                self._record(wish.name, decision, "removed")
                return Outcome(decision, None)
            recovered = self._recover(wish.name)
            if recovered != _REMOVAL_FINISHED:
                return self._converge(wish, recovered)
        # The lock went with the directory that it was in.
        if wish.state == "absent":
            return Outcome(Decision("remove", recovered), None)
        return self.converge(wish)

    def _converge(self, wish: Wish, recovered: str) -> Outcome:
        name = wish.name
        if recovered:
            self.check_wish(wish)  # what the wish builds on may have been undone
        now = self.observe([name])[name]
        if wish.spec is not None and wish.state != "absent":
            known = (
                self._resolved(wish.spec, "update")[0]
                if wish.pull == "update"
                else self.known_release(wish.spec, now.release)
            )
            wish = wish._replace(release_id=known)
        decision = decide(now, wish)
        if decision.power and not self.manager.available():
            raise HostError(
                "systemd does not manage this host, and named pods run under it",
                hint="use 'gantry run' here, or wish for the state stopped",
            )
        if decision.action == "remove":
            self._remove(name)
            self._record(name, decision, "removed")
            return Outcome(decision, None)
        if decision.prepare:
            decision = self._replace(now, wish, decision)
        elif decision.changes:
            self._adjust(now, wish, decision)
        elif recovered:
            decision = Decision("update", recovered)
        return Outcome(decision, self.store.current(name))

    def check_wish(self, wish: Wish) -> None:
        """Refuse what cannot be, whatever the state of the host.

        Raises:
            SpecError: The name is taken by a unit that is not ours.
            NotFoundError: Nothing says what the pod should run.
            FormatError: What is known about the pod cannot be read.
        """
        unit = self.units.name(wish.name)
        if wish.name in RESERVED or not self.units.ours(wish.name):
            raise SpecError(
                f'"{wish.name}" cannot be the name of a pod: {unit} is another unit', hint="use another name"
            )
        if wish.state == "absent":
            return
        self.store.current(wish.name)  # raises when damaged
        self.store.change(wish.name)
        if wish.spec is not None:
            return
        if not self.known(wish.name):
            raise NotFoundError(
                f'no pod is called "{wish.name}"', hint="say what it should run: give its apps"
            )

    def _resolved(self, spec: PodSpec, pull: str) -> tuple[str, dict[str, str]]:
        images = {
            image: self.backend.resolve(image, pull) for image in dict.fromkeys(a.image for a in spec.apps)
        }
        return release_id(spec, images), images

    def _adjust(self, now: Observed, wish: Wish, decision: Decision) -> None:
        """Change the unit or whether it runs; the release stays."""
        release = now.release
        assert release is not None, "a pod without a release is created"
        name, unit = wish.name, self.units.name(wish.name)
        start = wish.state != "stopped"
        if wish.spec is not None:
            self.store.write_spec(name, release, wish.spec)
            release = self.store.require(name)
        self.store.set_wanted(name, "started" if start else "stopped")
        if self.units.write(release, enabled=start):
            self.manager.daemon_reload()
        if decision.power in {"stop", "restart"}:
            self.manager.stop(unit)
        if decision.power == "stop":
            self.manager.reset_failed(unit)  # an app that had to be killed has not failed: it was to end
        if decision.power in {"start", "restart"}:
            problem = self._start(release)
            if problem:
                self._record(name, decision, f"failed: {problem}")
                raise ReleaseError(f'pod "{name}" did not stay up: {problem}', hint=_look(name))
        self._record(name, decision, "ok")

    def _replace(self, now: Observed, wish: Wish, decision: Decision) -> Decision:
        """Prepare a new pod beside the old one, then let it take over."""
        old, name = now.release, wish.name
        spec = wish.spec if wish.spec is not None else (old.spec if old else None)
        assert spec is not None, "check_wish saw to that"
        if wish.spec is None and old is not None:
            new_id, images = old.id, old.images
        else:
            new_id, images = self._resolved(spec, "never" if wish.pull == "never" else "new")
        if old is not None and new_id == old.id and now.pod_there:
            # The image was only missing by name: what runs is what should run.
            decision = decide(now, wish._replace(release_id=new_id))
            if decision.changes:
                self._adjust(now, wish, decision)
            return decision
        new = self._stage(name, spec, new_id, images, old)
        if now.running or wish.state != "stopped":
            self._switch(name, old, new, start=wish.state != "stopped", was_running=now.running)
        else:
            self.store.set_wanted(name, "stopped")
            if self.units.write(new, enabled=False) and self.manager.available():
                self.manager.daemon_reload()
        self._finish(name, old, new, "started" if wish.state != "stopped" else "stopped")
        self._record(name, decision, "ok", new, old)
        return decision

    def _stage(
        self, name: str, spec: PodSpec, new_id: str, images: dict[str, str], old: Release | None
    ) -> Release:
        """Make the new release ready. May fail freely: what runs is not touched, and nothing stays behind."""
        self.store.begin(name, {"stage": "prepare", "from": old.id if old else "", "to": new_id})
        try:
            self.backend.pin(name, {*images.values(), *(old.images.values() if old else ())})
            self.store.write_release(name, new_id, spec, images, _now())
            uuid = self.backend.prepare(spec, images)
            if old is None or old.id != new_id:
                self.store.write_uuid(name, new_id, uuid)
        except BaseException:
            self._undo_stage(name, new_id, old)
            raise
        return Release(new_id, spec, images, uuid, _now())

    def _undo_stage(self, name: str, new_id: str, old: Release | None) -> None:
        keep = {old.uuid} if old else set[str]()
        for uuid in self.backend.pods_of(name):
            if uuid not in keep:
                self.backend.remove_pod(uuid)
        if old is None or old.id != new_id:
            self.store.remove_release(name, new_id)
        self.backend.pin(name, self._pinned(name, old))
        self.store.end(name)

    def _switch(
        self, name: str, old: Release | None, new: Release, *, start: bool, was_running: bool
    ) -> None:
        """Stop the old release, start the new one; go back when it does not stay up.

        Raises:
            ReleaseError: It did not; the old one runs again if it ran before.
        """
        unit = self.units.name(name)
        change = {
            "stage": "switch",
            "from": old.id if old else "",
            "to": new.id,
            "to_uuid": new.uuid,
            "start": start,
            "was_running": was_running,
        }
        self.store.begin(name, change)
        problem = ""
        try:
            if old is not None:
                self.manager.stop(unit)
            self.units.write(new, enabled=start)
            self.manager.daemon_reload()
            if start:
                problem = self._start(new)
            else:
                self.manager.reset_failed(unit)
        except GantryError as e:
            problem = e.message  # where to look is said at the end
        if problem:
            raise self._revert(name, old, new.id, problem, was_running=was_running)

    def _start(self, release: Release) -> str:
        """Start the unit and watch it for the spec's settling time; what went wrong, or nothing."""
        name = release.spec.name
        unit = self.units.name(name)
        self.manager.reset_failed(unit)
        began = time.time()
        try:
            self.manager.start(unit)
        except GantryError as e:
            state = self.manager.show_many([unit], _PROPERTIES)[unit]
            ended = state.get("Result") == "exit-code"
            return self._why(unit, _problem(state, "always") if ended else e.message, began)
        deadline = time.monotonic() + release.spec.settle
        while True:
            state = self.manager.show_many([unit], _PROPERTIES)[unit]
            if problem := _problem(state, release.spec.restart):
                return self._why(unit, problem, began)
            left = deadline - time.monotonic()
            if left <= 0 or state.get("ActiveState") in {"inactive", "deactivating"}:
                return ""
            self._pause(min(0.2, left))

    def _why(self, unit: str, problem: str, began: float) -> str:
        line = self.manager.last_log_line(unit, began)
        return f"{problem}; the last line of its log: {line}" if line else problem

    def _revert(
        self, name: str, old: Release | None, new_id: str, problem: str, *, was_running: bool
    ) -> ReleaseError:
        """Bring the old release back; the error that tells what happened."""
        unit = self.units.name(name)
        again = ""
        try:
            self.manager.stop(unit)
            if old is None:
                self.units.remove(name)
                self.store.drop_current(name)
                self.manager.daemon_reload()
            else:
                self.store.set_current(name, old.id)
                self.units.write(old, enabled=self.store.wanted(name) == "started")
                self.manager.daemon_reload()
                again = self._start(old) if was_running else ""
        except GantryError as e:
            again = e.message
        # From here on what runs is settled; only leftovers of the new release remain to be removed.
        self.store.begin(name, {"stage": "prepare", "from": old.id if old else "", "to": new_id})
        self._undo_stage(name, new_id, old)
        self.manager.reset_failed(unit)
        told = f'pod "{name}": release {new_id[:12]} did not stay up: {problem}'
        if old is None:
            ending = "; it was removed again"
        elif again:
            ending = f"; release {old.id[:12]} did not start again either: {again}"
        elif was_running:
            ending = f"; release {old.id[:12]} runs again"
        else:
            ending = f"; release {old.id[:12]} is in place again"
        self._record(name, Decision("replace"), f"rolled back from {new_id[:12]}: {problem}", old)
        return ReleaseError(told + ending, hint=_look(name))

    def _finish(self, name: str, old: Release | None, new: Release, wanted: str) -> None:
        """Make the new release the current one and remove what it replaces."""
        self.store.write_uuid(name, new.id, new.uuid)
        self.store.set_current(name, new.id)
        self.store.set_wanted(name, wanted)
        previous = old.id if old and old.id != new.id else ""
        self.store.begin(name, {"stage": "clean", "to": new.id, "previous": previous})
        self._clean(name, new.id, previous)

    def _clean(self, name: str, current_id: str, previous_id: str) -> None:
        current = self.store.read(name, current_id)
        for uuid in self.backend.pods_of(name):
            if uuid != current.uuid:
                self.backend.remove_pod(uuid)
        for other in self.store.releases(name):
            if other not in {current_id, previous_id}:
                self.store.remove_release(name, other)
        self.backend.pin(name, self._pinned(name, current))
        self.store.end(name)

    def _pinned(self, name: str, current: Release | None) -> set[str]:
        """Images that the releases on disk run."""
        kept: set[str] = set()
        for other in self.store.releases(name):
            with contextlib.suppress(FormatError):  # nobody can go back to one that is damaged
                kept.update(self.store.read(name, other).images.values())
        return kept | set(current.images.values() if current else ())

    def _remove(self, name: str) -> None:
        """Remove the pod and every trace of it."""
        unit = self.units.name(name)
        self.store.begin(name, {"stage": "remove"})
        if self.manager.available():
            self.manager.stop(unit)
        if self.units.remove(name) and self.manager.available():
            self.manager.daemon_reload()
        if self.manager.available():
            self.manager.reset_failed(unit)
        for uuid in self.backend.pods_of(name):
            self.backend.remove_pod(uuid)
        self.backend.pin(name, ())
        self.store.remove(name)

    def _recover(self, name: str) -> str:
        """Finish or undo what a killed process left; what was done about it, or nothing."""
        change = self.store.change(name)
        if change is None:
            return ""
        stage = change["stage"]
        if stage == "remove":
            self._remove(name)
            return _REMOVAL_FINISHED
        if stage == "clean":
            self._clean(name, change["to"], change["previous"])
            return "an interrupted change was finished"
        old = self.store.read(name, change["from"]) if change["from"] else None
        if stage == "prepare":
            self._undo_stage(name, change["to"], old)
            return "an interrupted change was undone"
        return self._recover_switch(name, change, old)

    def _recover_switch(self, name: str, change: Mapping[str, Any], old: Release | None) -> str:
        new = self.store.read(name, change["to"])._replace(uuid=change["to_uuid"])
        unit = self.units.name(name)
        took_over = self.units.read(name) == self.units.text(new)
        if took_over:
            self.manager.daemon_reload()
            state = self.manager.show_many([unit], _PROPERTIES)[unit]
            runs = state.get("ActiveState") in {"active", "reloading"}
            if runs or not change["start"]:
                self._finish(name, old, new, "started" if change["start"] else "stopped")
                self._record(name, Decision("replace"), "finished after an interruption", new, old)
                return "an interrupted change was finished"
        self._revert(name, old, new.id, "the change was interrupted", was_running=change["was_running"])
        return "an interrupted change was undone"

    def _record(
        self,
        name: str,
        decision: Decision,
        ending: str,
        new: Release | None = None,
        old: Release | None = None,
    ) -> None:
        entry = {
            "time": _now(),
            "by": _who(),
            "action": decision.action,
            "detail": decision.detail,
            "ended": ending,
            **({"release": new.id} if new else {}),
            **({"images": sorted(set(new.images.values()))} if new else {}),
            **({"before": old.id} if old else {}),
        }
        if os.path.isdir(f"{self.store.root}/{name}") and self.store.current(name) is not None:
            self.store.add_history(name, entry)
        told = {k: v for k, v in entry.items() if k in {"action", "detail", "ended", "release", "before"}}
        audit.record(self.paths.data, "release.apply", pod=name, **told)


def _problem(state: Mapping[str, str], restart: str) -> str:
    """Why a unit that was just started must be called broken, or nothing."""
    active, result = state.get("ActiveState", ""), state.get("Result", "")
    if state.get("SubState") == "auto-restart" or state.get("NRestarts", "0") != "0":
        return f"it ended at once and is being restarted{_status(state)}"
    if active in {"active", "activating", "reloading"}:
        return ""
    if active in {"inactive", "deactivating"} and restart != "always" and result == "success":
        return ""  # it has done its work
    return f"it ended at once{_status(state)}"


def _status(state: Mapping[str, str]) -> str:
    """How the app ended, as far as systemd knows."""
    result, status = state.get("Result", ""), state.get("ExecMainStatus", "")
    told = [word for word in (result, f"status {status}" if status else "") if word]
    return f" ({', '.join(told)})" if told else ""


def _look(name: str) -> str:
    return f"see journalctl -u gantry-{name}"


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _who() -> str:
    return os.environ.get("SUDO_USER") or f"uid {os.getuid()}"
