"""The document that ``gantry apply`` reads (docs/desired-state.md).

Types first (unknown fields are refused), then what types cannot say. Every message begins with the JSON path
of what is wrong, and never holds the value of a variable: it may be a secret. ``null`` means "not given".
"""

from __future__ import annotations

import json
import re
from typing import Any, Literal, NamedTuple, TypeVar

import msgspec

from gantry.appc.names import ac_identifier
from gantry.errors import GantryError
from gantry.releases.requests import isolators
from gantry.releases.spec import PodSpec, SpecError, check, check_name

Pull = Literal["new", "update", "never"]

_DEPTH = 64

_T = TypeVar("_T")

SET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
INSECURE = frozenset({"image", "tls", "http", "downgrade"})


class DocumentError(SpecError):
    """The document is not one."""


class _Strict(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    pass


class TrustEntry(_Strict):
    """A key that is trusted, or not.

    Attributes:
        fingerprint: Of the primary key; 40 (or 64) hex digits, upper or lower case, spaces allowed.
        prefix: Trusted for this name and everything below; or
        root: for every name.
        key: The key, armored; needed unless it is known already.
        state: ``present`` or ``absent``.
    """

    fingerprint: str
    prefix: str | None = None
    root: bool = False
    key: str | None = None
    state: Literal["present", "absent"] = "present"

    @property
    def label(self) -> str:
        """How results call the entry."""
        return f"{self.prefix if self.prefix is not None else 'root'}:{self.fingerprint}"


class ImageEntry(_Strict):
    """An image that is in the store, or not.

    Attributes:
        name: As ``gantry fetch`` takes it.
        state: ``present`` or ``absent``.
        pull: When to ask the network.
    """

    name: str
    state: Literal["present", "absent"] = "present"
    pull: Pull = "new"


class PodEntry(NamedTuple):
    """A named pod.

    Attributes:
        name: The pod.
        state: ``started``, ``stopped``, ``restarted`` or ``absent``.
        pull: When to ask the network for its images.
        spec: What it runs; ``None`` = what it runs now.
    """

    name: str
    state: str
    pull: str
    spec: PodSpec | None


class Document(NamedTuple):
    """A desired state.

    Attributes:
        set: The set that the listed objects belong to, or nothing.
        trust: Keys.
        images: Images.
        pods: Named pods.
        prune: Remove what the set made before and the document no longer lists, of the kinds in ``given``.
        given: The kinds (``trust``, ``image``, ``pod``) whose list the document has; an empty list counts, a
            missing one says nothing.
        ca_file: Certificate authorities for https.
        insecure: Checks that are switched off.
    """

    set: str
    trust: list[TrustEntry]
    images: list[ImageEntry]
    pods: list[PodEntry]
    prune: bool
    given: frozenset[str]
    ca_file: str | None
    insecure: frozenset[str]


class _PodHead(msgspec.Struct, kw_only=True):
    name: str
    state: Literal["started", "stopped", "restarted", "absent"] = "started"
    pull: Pull = "new"


class _Top(_Strict):
    set: str | None = None
    trust: list[TrustEntry] = []
    images: list[ImageEntry] = []
    pods: list[dict[str, Any]] = []
    prune: bool = False
    ca_file: str | None = None
    insecure_options: list[str] = []


_KIND_OF = {"trust": "trust", "images": "image", "pods": "pod"}


def parse(data: bytes) -> Document:
    """Read a document.

    Raises:
        DocumentError: It is not JSON, or not a document; the message names the place.
    """
    try:
        tree = msgspec.json.decode(data, strict=True)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as e:
        raise DocumentError(f"the document is not JSON: {e}", hint="send one JSON object") from e
    _refuse_deep(tree)
    _refuse_twice(data)
    if not isinstance(tree, dict):
        raise DocumentError("$: the document must be a JSON object", hint='such as {"pods": []}')
    plain = _without_nulls(tree)
    top = _convert(plain, _Top, "$")
    document = Document(
        set=top.set or "",
        trust=top.trust,
        images=top.images,
        pods=[_pod(pod, f"$.pods[{i}]") for i, pod in enumerate(top.pods)],
        prune=top.prune,
        given=frozenset(kind for key, kind in _KIND_OF.items() if key in plain),
        ca_file=top.ca_file,
        insecure=frozenset(top.insecure_options) - {"none"},
    )
    _check_top(document)
    for i, key in enumerate(document.trust):
        _check_trust(key, f"$.trust[{i}]")
    _different([t.label for t in document.trust], "trust", "key")
    _different([i.name for i in document.images], "images", "image")
    _different([p.name for p in document.pods], "pods", "pod")
    return document


def _refuse_deep(tree: Any) -> None:
    """Nothing in a document is nested deeply; what is would exhaust whoever walks it."""
    level: list[Any] = [tree]
    for _ in range(_DEPTH):
        inner = [v.values() if isinstance(v, dict) else v for v in level if isinstance(v, dict | list)]
        level = [value for values in inner for value in values]
        if not level:
            return
    raise DocumentError(f"the document is nested more than {_DEPTH} levels deep")


def _refuse_twice(data: bytes) -> None:
    """Refuse an object that has a key twice: which of the two is meant, readers do not agree on."""
    twice: dict[int, tuple[dict[str, Any], str]] = {}

    def made(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            names = [name for name, _ in pairs]
            twice[id(found)] = (found, next(n for n in names if names.count(n) > 1))
        return found

    left = [("$", json.loads(data, object_pairs_hook=made))]
    while twice and left:
        where, value = left.pop()
        if id(value) in twice:
            raise DocumentError(f"{where}.{twice[id(value)][1]}: given twice", hint="give it once")
        if isinstance(value, dict):
            left.extend((f"{where}.{k}", v) for k, v in value.items())
        elif isinstance(value, list):
            left.extend((f"{where}[{i}]", v) for i, v in enumerate(value))


def _check_top(document: Document) -> None:
    if document.set and not SET_NAME.fullmatch(document.set):
        raise DocumentError("$.set: must be letters, digits, dots, hyphens and underscores, at most 64")
    if document.prune and not document.set:
        raise DocumentError(
            "$.prune: needs a set", hint="only what a set made can be pruned; give the document a set"
        )
    if unknown := sorted(document.insecure - INSECURE):
        raise DocumentError(
            f'$.insecure_options: unknown option "{unknown[0]}"', hint=f"known: {', '.join(sorted(INSECURE))}"
        )
    for i, image in enumerate(document.images):
        if not image.name or "\0" in image.name:
            raise DocumentError(f"$.images[{i}].name: must be the name of an image")


def _check_trust(entry: TrustEntry, where: str) -> None:
    plain = entry.fingerprint.replace(" ", "").replace(":", "").lower()
    if not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", plain):
        raise DocumentError(f"{where}.fingerprint: must be the 40 or 64 hex digits of a fingerprint")
    entry.fingerprint = plain
    if entry.root == (entry.prefix is not None):
        raise DocumentError(f"{where}: needs either prefix or root: true")
    if entry.prefix is not None:
        entry.prefix = entry.prefix.removesuffix("/*").removesuffix("/")
        try:
            ac_identifier(entry.prefix)
        except GantryError as e:
            raise DocumentError(
                f"{where}.prefix: must be an image name or its first components, without https://"
            ) from e


def _pod(tree: dict[str, Any], where: str) -> PodEntry:
    head = _convert({k: v for k, v in tree.items() if k in {"name", "state", "pull"}}, _PodHead, where)
    rest = {k: v for k, v in tree.items() if k not in {"state", "pull"}}
    try:
        check_name(head.name)
    except SpecError as e:
        raise DocumentError(f"{where}.name: {e.message}", hint=e.hint) from e
    if head.state == "absent" or "apps" not in tree:
        others = sorted(set(rest) - {"name"})
        if head.state != "absent" and others:
            raise DocumentError(
                f"{where}: {others[0]} says what the pod runs, but its apps are missing", hint="add apps"
            )
        return PodEntry(head.name, head.state, head.pull, None)
    spec = check(_convert(rest, PodSpec, where), where)
    for i, app in enumerate(spec.apps):
        try:
            isolators(
                memory=app.memory,
                cpu=app.cpu,
                cpu_shares=app.cpu_shares,
                caps_retain=app.caps_retain,
                caps_remove=app.caps_remove,
                oom_score_adj=app.oom_score_adj,
            )
        except GantryError as e:
            raise DocumentError(f"{where}.apps[{i}]: {e.message}", hint=e.hint) from e
    return PodEntry(head.name, head.state, head.pull, spec)


def _convert(tree: Any, kind: type[_T], where: str) -> _T:
    try:
        return msgspec.convert(tree, kind, strict=True)
    except msgspec.ValidationError as e:
        text, _, path = str(e).partition(" - at `$")
        text = text.replace("`", '"')
        raise DocumentError(f"{where}{path.rstrip('`')}: {text[0].lower()}{text[1:]}") from e


# Below these keys, names are the user's own and null is a mistake.
_USERS_OWN = frozenset({"environment", "annotations", "user_annotations", "user_labels"})


def _without_nulls(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {k: v if k in _USERS_OWN else _without_nulls(v) for k, v in tree.items() if v is not None}
    if isinstance(tree, list):
        return [_without_nulls(v) for v in tree]
    return tree


def _different(names: list[str], where: str, what: str) -> None:
    seen: set[str] = set()
    for i, name in enumerate(names):
        if name in seen:
            raise DocumentError(f'$.{where}[{i}]: the {what} "{name}" is listed twice', hint="list it once")
        seen.add(name)
