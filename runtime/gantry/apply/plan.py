"""What must be done to a host: a pure function of the document and the facts.

Order: what is added goes from the ground up (trust, images, pods), what is removed goes from the top down
(pods, images, trust), after everything that is added.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from gantry.apply.document import Document, ImageEntry, PodEntry, TrustEntry
from gantry.apply.sets import Ledger
from gantry.releases.decide import Decision, Observed, Wish, decide
from gantry.releases.spec import PodSpec, masked


class KeyFact(NamedTuple):
    """What is known about one key of the document.

    Attributes:
        present: It is trusted in the scope that the document names.
        differs: The document's key has something that the trusted one lacks.
        before: What results show of it now; ``None`` when it is not trusted.
        after: What results show of it once the document's key is merged in.
    """

    present: bool = False
    differs: bool = False
    before: dict[str, Any] | None = None
    after: dict[str, Any] | None = None


class Facts(NamedTuple):
    """All that a plan depends on.

    Attributes:
        keys: By label of the entry, for listed keys and keys that may be pruned.
        images: Image ID in the store, or ``None``, by the name that the document or a set uses.
        pods: Named pods by name.
        releases: By pod, the release that its spec makes with the images in the store (``None`` = unknown).
        sets: Every set.
    """

    keys: Mapping[str, KeyFact]
    images: Mapping[str, str | None]
    pods: Mapping[str, Observed]
    releases: Mapping[str, str | None]
    sets: Mapping[str, Ledger]


class Action(NamedTuple):
    """One thing to do, or to leave as it is.

    Attributes:
        kind: ``trust``, ``image`` or ``pod``.
        name: The object.
        action: One word; ``none`` when nothing is to be done.
        detail: Why, in a few words.
        before: What results show of the object now.
        after: What they will show.
        entry: What the document says; ``None`` for what is pruned.
        pod: For pods: the wish.
        asks_network: Whether something is to be done shows only when the network is asked.
    """

    kind: str
    name: str
    action: str = "none"
    detail: str = ""
    before: Any = None
    after: Any = None
    entry: TrustEntry | ImageEntry | PodEntry | None = None
    pod: Wish | None = None
    asks_network: bool = False

    @property
    def changes(self) -> bool:
        """Whether anything is to be done."""
        return self.action != "none"


def plan_ground(document: Document, facts: Facts) -> list[Action]:
    """What is added below the pods: keys, then images."""
    keys = [_key(t, facts.keys.get(t.label, KeyFact())) for t in document.trust if t.state == "present"]
    images = [_image(i, facts.images.get(i.name)) for i in document.images if i.state == "present"]
    return keys + images


def plan_pods(document: Document, facts: Facts) -> list[Action]:
    """What is done to pods, those that are pruned last."""
    listed = [_pod(p, facts) for p in document.pods]
    pruned = [
        _pod(PodEntry(name, "absent", "new", None), facts)._replace(entry=None, detail=_PRUNED)
        for name in prunable(document, facts.sets, "pod")
        if name in facts.pods and (facts.pods[name].release is not None or facts.pods[name].pending)
    ]
    return listed + pruned


def plan_removals(document: Document, facts: Facts) -> list[Action]:
    """What is removed below the pods: images, then keys."""
    images = [i for i in document.images if i.state == "absent"]
    keys = [t for t in document.trust if t.state == "absent"]
    return [
        *(_no_image(i.name, facts)._replace(entry=i) for i in images),
        *(
            _no_image(name, facts)._replace(detail=_PRUNED)
            for name in prunable(document, facts.sets, "image")
            if facts.images.get(name) is not None
        ),
        *(_no_key(t.label, facts)._replace(entry=t) for t in keys),
        *(
            _no_key(label, facts)._replace(detail=_PRUNED)
            for label in prunable(document, facts.sets, "trust")
            if facts.keys.get(label, KeyFact()).present
        ),
    ]


_PRUNED = "the set made it and no longer lists it"


def prunable(document: Document, sets: Mapping[str, Ledger], kind: str) -> Iterator[str]:
    """Names of objects that the document's set made, does not list, and no other set wants.

    None of a kind of which the document has no list at all: a list that was forgotten must not empty a host.
    """
    if not document.prune or kind not in document.given or document.set not in sets:
        return
    listed = {n for n, _ in listing(document, kind)}
    for name in sets[document.set].made.get(kind, []):
        wanted = any(name in other.wants.get(kind, []) for s, other in sets.items() if s != document.set)
        if name not in listed and not wanted:
            yield name


def pods_to_go(document: Document, sets: Mapping[str, Ledger]) -> list[str]:
    """Names of the pods that the document removes, or its set prunes."""
    absent = [pod.name for pod in document.pods if pod.state == "absent"]
    return [*absent, *prunable(document, sets, "pod")]


def listing(document: Document, kind: str) -> list[tuple[str, bool]]:
    """Names of everything of a kind that the document lists, and whether it should exist."""
    if kind == "trust":
        return [(t.label, t.state == "present") for t in document.trust]
    if kind == "image":
        return [(i.name, i.state == "present") for i in document.images]
    return [(p.name, p.state != "absent") for p in document.pods]


def foreign_owner(document: Document, sets: Mapping[str, Ledger], pod: str) -> str:
    """Another set that made the pod, when the document speaks for a set; else nothing."""
    if not document.set:
        return ""
    return next((s for s, o in sets.items() if s != document.set and pod in o.made.get("pod", [])), "")


def _key(entry: TrustEntry, fact: KeyFact) -> Action:
    action = Action("trust", entry.label, before=fact.before, after=fact.before, entry=entry)
    if not fact.present:
        return action._replace(action="add", detail="it was not trusted", after=fact.after)
    if fact.differs:
        return action._replace(action="merge", detail="the key was renewed", after=fact.after)
    return action


def _no_key(label: str, facts: Facts) -> Action:
    fact = facts.keys.get(label, KeyFact())
    action = Action("trust", label, before=fact.before)
    return action._replace(action="remove", detail="it was trusted") if fact.present else action


def _image(entry: ImageEntry, found: str | None) -> Action:
    state = {"id": found} if found else None
    action = Action("image", entry.name, before=state, after=state, entry=entry)
    if found is None:
        return action._replace(
            action="fetch", detail="it is not in the store", after={"id": "known after fetch"}
        )
    if entry.pull == "update":
        return action._replace(asks_network=True, detail="a newer one may exist; the network was not asked")
    return action


def _no_image(name: str, facts: Facts) -> Action:
    found = facts.images.get(name)
    if found is None:
        return Action("image", name)
    return Action("image", name, "remove", "it is in the store", before={"id": found})


def _pod(entry: PodEntry, facts: Facts) -> Action:
    observed = facts.pods.get(entry.name, Observed(entry.name))
    wish = Wish(entry.name, entry.state, entry.spec, facts.releases.get(entry.name), entry.pull)
    current = observed.release.spec if observed.release else None
    asks = entry.pull == "update" and entry.spec is not None
    if observed.release is None and entry.spec is None and entry.state != "absent":
        decision = Decision("create", "nothing says what it should run", prepare=True)
    else:
        decision = decide(observed, wish)
    after_spec = None if entry.state == "absent" else (entry.spec or current)
    before = pod_state(observed, current, after_spec)
    release = (
        wish.release_id if entry.spec is not None else (observed.release.id if observed.release else None)
    )
    after = (
        None
        if entry.state == "absent"
        else {
            "state": "stopped" if entry.state == "stopped" else "started",
            "release": release[:12] if release else "known after fetch",
            **(masked(after_spec, current) or {}),
        }
    )
    if decision.action == "restart":
        after = {**(after or {}), "restarted": True}
    return Action("pod", entry.name, decision.action, decision.detail, before, after, entry, wish, asks)


def pod_state(
    observed: Observed, spec: PodSpec | None, other: PodSpec | None = None
) -> dict[str, Any] | None:
    """What results show of a named pod as it was found; secrets are masked."""
    if observed.release is None:
        return None
    return {
        "state": "started" if observed.running else "stopped",
        "release": observed.release.id[:12],
        **(masked(spec, other) or {}),
    }
