"""What must be done to a named pod: a pure function of what is and what should be.

Truth table, for a wish with a spec (without one, the current release is meant):

======================  ==========================================================================
what is                 what is done
======================  ==========================================================================
no release              create: prepare, write the unit, start if wished
another release         replace: prepare beside the old one, then stop the old, start the new
same, pod is missing    replace, by the same release
same, unit differs      rewrite the unit (nothing that runs is touched)
same, job done          nothing, unless wished restarted
same, not running       start, if wished
same, running           stop if wished stopped; restart if wished restarted; else nothing
======================  ==========================================================================
"""

from __future__ import annotations

from typing import NamedTuple

from gantry.releases.spec import PodSpec, canonical
from gantry.releases.store import Release

RESTARTING = "restarting again and again"
RUNNING_STATES = frozenset({"active", "activating", "reloading"})


class Observed(NamedTuple):
    """A named pod as it was found.

    Attributes:
        name: The pod.
        release: The release that should run.
        wanted: ``started`` or ``stopped``.
        pending: A killed process left a change half done.
        pod_there: The prepared or running pod of the release exists.
        unit_fits: The unit on disk is what we would write.
        enabled: The unit is started at boot.
        active: systemd's ``ActiveState``; ``inactive`` where systemd does not run.
        sub: systemd's ``SubState``.
        result: systemd's ``Result``.
        main_exited: The unit has run, and its main process has ended, since the host was booted.
        damaged: What of its files cannot be read, or nothing.
    """

    name: str
    release: Release | None = None
    wanted: str = "stopped"
    pending: bool = False
    pod_there: bool = False
    unit_fits: bool = False
    enabled: bool = False
    active: str = "inactive"
    sub: str = "dead"
    result: str = ""
    main_exited: bool = False
    damaged: str = ""

    @property
    def running(self) -> bool:
        """Whether systemd runs the pod or is about to run it again."""
        return self.active in RUNNING_STATES

    @property
    def done(self) -> bool:
        """Whether it is a job that was wished to run and has ended with success."""
        return (
            self.release is not None
            and self.release.spec.restart != "always"
            and self.wanted == "started"
            and self.active == "inactive"
            and self.result == "success"
            and self.main_exited
        )


class Wish(NamedTuple):
    """A named pod as it should be.

    Attributes:
        name: The pod.
        state: ``started``, ``stopped``, ``restarted`` or ``absent``.
        spec: What it should run; ``None`` = what it runs now.
        release_id: The release that the spec and the images in the store make; ``None`` when an image is not
            there.
        pull: ``new``, ``update`` or ``never``: when to ask the network for the images.
    """

    name: str
    state: str
    spec: PodSpec | None = None
    release_id: str | None = None
    pull: str = "new"


class Decision(NamedTuple):
    """What must be done.

    Attributes:
        action: One word for people: ``none``, ``create``, ``replace``, ``update``, ``start``, ``stop``,
            ``restart``, ``remove``.
        detail: Why, in a few words.
        prepare: A new pod must be prepared and take over.
        unit: The unit must be written again.
        power: ``start``, ``stop``, ``restart`` or nothing.
    """

    action: str = "none"
    detail: str = ""
    prepare: bool = False
    unit: bool = False
    power: str = ""

    @property
    def changes(self) -> bool:
        """Whether anything must be done."""
        return self.action != "none"


def decide(is_: Observed, wish: Wish) -> Decision:
    """What must be done to bring *is_* to *wish*; a wish without spec needs a release."""
    if wish.state == "absent":
        there = is_.release is not None or is_.pending
        return Decision("remove", "the pod, its unit and its releases") if there else Decision()
    start = wish.state in {"started", "restarted"}
    if is_.release is None:
        return Decision("create", "a first release", prepare=True, unit=True, power="start" if start else "")
    if wish.spec is not None and wish.release_id != is_.release.id:
        why = (
            "an image is not in the store" if wish.release_id is None else _difference(is_.release, wish.spec)
        )
        return Decision("replace", why, prepare=True, unit=True, power="start" if start else "stop")
    if not is_.pod_there:
        why = "its prepared pod is gone"
        return Decision("replace", why, prepare=True, unit=True, power="start" if start else "stop")
    unit = not is_.unit_fits or is_.enabled != start or _unit_spec_differs(is_.release, wish.spec)
    power, why = _power(is_, wish.state)
    if power:
        return Decision(power, why, unit=unit, power=power)
    if is_.pending:
        return Decision("update", "an interrupted change is completed", unit=unit)
    if unit:
        return Decision("update", "the unit is written again", unit=True)
    if is_.wanted != ("started" if start else "stopped"):
        return Decision("update", "whether it should run is written down")
    return Decision(detail=RESTARTING if is_.sub == "auto-restart" else "")


def _power(is_: Observed, state: str) -> tuple[str, str]:
    if state == "restarted":
        return ("restart", "asked for") if is_.running else ("start", f"it was {is_.active}")
    if state == "started" and not is_.running and not is_.done:
        return "start", f"it was {is_.active}"
    if state == "stopped" and is_.running:
        return "stop", f"it was {is_.active}"
    return "", ""


def _unit_spec_differs(release: Release, spec: PodSpec | None) -> bool:
    return spec is not None and canonical(spec) != canonical(release.spec)


def _difference(release: Release, spec: PodSpec) -> str:
    """Which parts of the spec differ, by name only: values may be secrets."""
    parts = [
        field
        for field in spec.__struct_fields__
        if field != "apps" and getattr(spec, field) != getattr(release.spec, field)
    ]
    old, new = release.spec.apps, spec.apps
    if len(old) != len(new):
        parts.append("apps")
    for i, (a, b) in enumerate(zip(old, new, strict=False)):
        parts.extend(f"apps[{i}].{f}" for f in b.__struct_fields__ if getattr(a, f) != getattr(b, f))
    return f"differs in {', '.join(parts)}" if parts else "an image has a newer version in the store"
