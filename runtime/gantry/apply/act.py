"""Doing what was planned, in order, and the result.

One failure does not keep independent objects from converging, so that a host with one bad image still gets
the other forty-nine pods right; what depends on the failed object is left untouched and says so. The result
tells every failure; the first is the result's ``error``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from gantry.apply.document import Document, ImageEntry, PodEntry, TrustEntry
from gantry.apply.host import Host
from gantry.apply.plan import (
    Action,
    Facts,
    foreign_owner,
    listing,
    plan_ground,
    plan_pods,
    plan_removals,
    pods_to_go,
)
from gantry.errors import BusyError, GantryError
from gantry.http import public_url
from gantry.releases.decide import RESTARTING, Wish


class Done(NamedTuple):
    """What became of one action; *verdict* is, of an image that is there, its ID and who signed it."""

    action: Action
    changed: bool = False
    error: GantryError | None = None
    created: bool = False
    verdict: Mapping[str, Any] | None = None

    def as_dict(self) -> dict[str, Any]:
        """As the result shows it."""
        shown: dict[str, Any] = {
            "kind": self.action.kind,
            "name": public_url(self.action.name),
            "action": self.action.action,
            "changed": self.changed,
            "detail": self.action.detail,
            "diff": {
                "before": self.action.before,
                "after": self.action.after if self.changed else self.action.before,
            },
        }
        if self.verdict is not None:
            shown |= self.verdict
        if self.error is not None:
            shown["error"] = self.error.as_dict()
        return shown


class Result(NamedTuple):
    """What became of a document."""

    done: list[Done]

    @property
    def errors(self) -> list[GantryError]:
        """Every failure, in order."""
        return [d.error for d in self.done if d.error is not None]

    @property
    def warnings(self) -> list[str]:
        """What is as the document says and yet not well, one line each."""
        return [
            f'the pod "{d.action.name}" is {RESTARTING}: see journalctl -u gantry-{d.action.name}'
            for d in self.done
            if d.error is None and d.action.detail == RESTARTING
        ]

    def as_dict(self) -> dict[str, Any]:
        """``changed``, ``actions``, ``diff``, and ``error`` when something failed."""
        changed = [d for d in self.done if d.changed]
        result: dict[str, Any] = {
            "changed": bool(changed),
            "actions": [d.as_dict() for d in self.done],
            "diff": {
                "before": {f"{d.action.kind} {public_url(d.action.name)}": d.action.before for d in changed},
                "after": {f"{d.action.kind} {public_url(d.action.name)}": d.action.after for d in changed},
            },
        }
        if self.warnings:
            result["warnings"] = self.warnings
        if self.errors:
            result["error"] = self.errors[0].as_dict()
            result["errors"] = [e.as_dict() for e in self.errors]
        return result


def apply(host: Host, document: Document, *, check: bool = False) -> Result:
    """Bring the host to what the document says, or with *check* only say what would be done.

    With *check* nothing is written and no connection is opened: what only the network knows is predicted.

    Raises:
        GantryError: The facts could not be gathered; nothing was changed.
    """
    facts = host.facts(document)
    _refuse_foreign(document, facts)
    if check:
        predicted = [_predicted(host, a, document, facts) for a in _whole_plan(document, facts)]
        return Result([_judged(host, done, facts.images.get(done.action.name)) for done in predicted])
    return _Acting(host, document, facts).run()


def _judged(host: Host, done: Done, image_id: str | None) -> Done:
    """With what the store knows of an image's signature."""
    if done.action.kind != "image" or done.action.action == "remove" or done.error or image_id is None:
        return done
    return done._replace(verdict={"id": image_id, "verification": host.images.verification(image_id)})


def _whole_plan(document: Document, facts: Facts) -> list[Action]:
    return [
        *plan_ground(document, facts),
        *plan_pods(document, facts),
        *plan_removals(document, facts),
    ]


def _refuse_foreign(document: Document, facts: Facts) -> None:
    for pod in document.pods:
        if owner := foreign_owner(document, facts.sets, pod.name):
            raise BusyError(
                f'the pod "{pod.name}" belongs to the set "{owner}", not to "{document.set}"',
                hint="speak of it in that set's document, or without a set",
            )


def _predicted(host: Host, action: Action, document: Document, facts: Facts) -> Done:
    try:
        if action.pod is not None:
            host.engine.check_wish(action.pod)
        elif action.kind == "image" and action.action == "remove":
            host.images.check_removal(action.name, document.set, pods_to_go(document, facts.sets))
    except GantryError as e:
        return Done(action, error=e)
    return Done(action, changed=action.changes)


class _Acting:
    """One document on its way."""

    def __init__(self, host: Host, document: Document, facts: Facts) -> None:
        self.host = host
        self.document = document
        self.facts = facts
        self.done: list[Done] = []
        self.failed_images: dict[str, GantryError] = {}

    def run(self) -> Result:
        ground = plan_ground(self.document, self.facts)
        for action in ground:
            if action.kind == "trust":
                self._do(action, self._add_key)
        self._add_images([action for action in ground if action.kind != "trust"])
        if any(d.changed for d in self.done if d.action.kind == "image"):
            # What a name means may have changed by what was fetched.
            releases = self.host.releases(self.document, self.facts.pods)
            self.facts = self.facts._replace(releases=releases)
        for action in plan_pods(self.document, self.facts):
            self._do(action, self._pod)
        self._keep_images()
        for action in plan_removals(self.document, self.facts):
            self._do(action, self._remove_key if action.kind == "trust" else self._remove_image)
        self._remember()
        return Result([_judged(self.host, done, self._id_of(done)) for done in self.done])

    def _id_of(self, done: Done) -> str | None:
        after = done.action.after
        return str(after["id"]) if done.action.kind == "image" and isinstance(after, dict) else None

    def _add_images(self, actions: list[Action]) -> None:
        """Have the images; those that have to be fetched come side by side."""
        if not any(map(_does_something, actions)):
            self.done.extend(map(Done, actions))
            return
        from gantry.images.parallel import side_by_side  # noqa: PLC0415 - threads; most runs change nothing

        tasks = [partial(self._add_image, action) for action in actions if _does_something(action)]
        results = iter(side_by_side(tasks))
        for action in actions:
            self._do(action, lambda _action: _result(next(results)))

    def _keep_images(self) -> None:
        """What is to be present stays, whether or not a pod uses it; what is to be absent may go."""
        owner, listed = self.document.set, dict(listing(self.document, "image"))
        found = dict(self.facts.images)
        for d in self.done:
            if d.action.kind == "image" and d.error is None:
                found[d.action.name] = d.action.after["id"]
        # Without a set, an attempt that failed leaves everything as it was.
        names = [name for name in listed if owner or name not in self.failed_images]
        if owner in self.facts.sets and not (self.document.prune and "image" in self.document.given):
            names.extend(n for n in self.facts.sets[owner].wants.get("image", []) if n not in listed)
        wanted: dict[str, str | None] = {}
        for name in names:
            if not listed.get(name, True):
                wanted[name] = None
            else:
                wanted[name] = found[name] if name in found else self.host.images.stored(name)
        try:
            self.host.images.keep(owner, wanted)
        except GantryError as e:
            self.done.append(Done(Action("set", owner, "keep", "its images have to stay"), error=e))

    def _do(self, action: Action, how: Callable[[Action], Done]) -> None:
        if not _does_something(action):
            self.done.append(Done(action))
            return
        try:
            self.done.append(how(action))
        except GantryError as e:
            # What was foretold of the network is not true of an attempt that failed.
            told = action._replace(detail="") if action.asks_network else action
            self.done.append(Done(told, error=e))
            if action.kind == "image":
                self.failed_images[action.name] = e

    def _add_key(self, action: Action) -> Done:
        assert isinstance(action.entry, TrustEntry)
        change = self.host.keys.add(action.entry)
        told = action._replace(
            action=change.action,
            detail=change.detail or action.detail,
            before=change.before,
            after=change.after,
        )
        return Done(told, change.changed, created=change.action == "add")

    def _add_image(self, action: Action) -> Done:
        assert isinstance(action.entry, ImageEntry)
        before = self.facts.images.get(action.name)
        found = self.host.images.resolve(action.name, action.entry.pull)
        changed = found != before
        told = action._replace(after={"id": found})
        if not changed:
            told = told._replace(detail="the network has no newer one")
        elif before is not None:
            told = told._replace(action="fetch", detail="the network has a newer one")
        return Done(told, changed, created=changed and before is None)

    def _pod(self, action: Action) -> Done:
        wish = action.pod
        assert isinstance(wish, Wish)
        for app in wish.spec.apps if wish.spec else []:
            if app.image in self.failed_images:
                raise self.failed_images[app.image]
        existed = self.facts.pods[action.name].release is not None
        outcome = self.host.engine.converge(wish)
        told = action._replace(
            action=outcome.decision.action if outcome.decision.changes else "none",
            detail=action.detail if action.entry is None else outcome.decision.detail,
        )
        if outcome.release is not None and isinstance(action.after, dict):
            told = told._replace(after={**action.after, "release": outcome.release.id[:12]})
        return Done(told, outcome.decision.changes, created=outcome.release is not None and not existed)

    def _remove_image(self, action: Action) -> Done:
        self.host.images.remove(action.name)
        return Done(action, True)

    def _remove_key(self, action: Action) -> Done:
        return Done(action, self.host.keys.remove(action.name))

    def _remember(self) -> None:
        """Write down what the set lists and made, and which keys need no further look."""
        good = {d.action.name for d in self.done if d.action.kind == "trust" and d.error is None}
        self.host.keys.remember([t for t in self.document.trust if t.label in good])
        made = [(d.action.kind, d.action.name) for d in self.done if d.created]
        gone = [(d.action.kind, d.action.name) for d in self.done if d.error is None and _absent(d)]
        if self.document.set:
            wants = {
                kind: [n for n, present in listing(self.document, kind) if present]
                for kind in ("trust", "image", "pod")
            }
            self.host.sets.update(
                self.document.set,
                wants=wants,
                whole=self.document.given if self.document.prune else frozenset(),
                made=made,
                gone=gone,
            )
        elif gone:
            self.host.sets.forget(gone)


def _does_something(action: Action) -> bool:
    return action.changes or action.asks_network


def _result(outcome: Done | BaseException) -> Done:
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome


def _absent(done: Done) -> bool:
    """Whether the object does not exist now because the document or its set says so."""
    entry = done.action.entry
    if isinstance(entry, TrustEntry | ImageEntry | PodEntry):
        return entry.state == "absent"
    return done.changed


def describe(result: Result) -> Sequence[str]:
    """The result as lines for people."""
    lines = []
    for d in result.done:
        word = "failed" if d.error else ("changed" if d.changed else "ok")
        detail = f": {d.error}" if d.error else (f" ({d.action.detail})" if d.action.detail else "")
        lines.append(f"{word}\t{d.action.kind} {public_url(d.action.name)}\t{d.action.action}{detail}")
    return lines
