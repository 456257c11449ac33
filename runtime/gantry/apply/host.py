"""The rooms beneath, as apply needs them: facts without side effects, and the hands that change things."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import msgspec

from gantry.apply.document import Document, TrustEntry
from gantry.apply.plan import Facts, KeyFact, listing, pods_to_go, prunable
from gantry.apply.sets import Sets
from gantry.errors import BusyError, GantryError, NotFoundError
from gantry.linux import fs

if TYPE_CHECKING:
    from gantry.config import Paths
    from gantry.releases.engine import Engine
    from gantry.trust import KeyStore, TrustedKey


class Images(Protocol):
    """What apply needs of the image store."""

    def find(self, image: str) -> str | None:
        """The image ID in the store, without any network; ``None`` when it is not there."""

    def stored(self, image: str) -> str | None:
        """As ``find``, with images that were never verified."""

    def resolve(self, image: str, pull: str) -> str:
        """The image ID, fetched if the policy says so. Raises GantryError."""

    def verification(self, image_id: str) -> dict[str, Any] | None:
        """Who signed an image of the store, and when that was verified; ``None``: nobody looked."""

    def remove(self, image: str) -> None:
        """Remove an image. Raises GantryError."""

    def check_removal(self, image: str, owner: str, pods: Iterable[str]) -> None:
        """Whether the set *owner* could remove it once these named pods are gone. Raises BusyError."""

    def keep(self, owner: str, images: Mapping[str, str | None]) -> None:
        """Have the store keep what is to be present, and no longer what is not. Raises GantryError."""


class KeyChange(NamedTuple):
    """What adding a key did."""

    changed: bool
    action: str
    detail: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None


class Keys:
    """The keys that documents speak of.

    To judge whether a key of the document adds anything to the one that is trusted takes OpenPGP, in a
    process of its own. What it found is remembered (``DATA/apply/keys.json``: label -> hash of the text
    given, hash of the file that made it "no change"), so that an unchanged key costs two hashes.

    Args:
        paths: Where the installation lives.
        store: The key store.
    """

    def __init__(self, paths: Paths, store: KeyStore) -> None:
        self._file = f"{paths.data}/apply/keys.json"
        self._store = store
        self._known: dict[str, list[str]] | None = None
        self._listed: list[TrustedKey] | None = None

    def fact(self, entry: TrustEntry) -> KeyFact:
        """What is known about a key of the document; nothing is changed.

        Raises:
            GantryError: The document's key cannot be used.
            NotFoundError: The key is not here and the document does not hold it.
        """
        trusted = self._trusted(entry.fingerprint, entry.prefix)
        if entry.state == "absent" or entry.key is None:
            if trusted is None and entry.state == "present":
                raise NotFoundError(
                    f"the key {entry.fingerprint} is not on this host", hint="give the key itself, armored"
                )
            return KeyFact(trusted is not None, before=_plain(entry) if trusted else None)
        given = entry.key.encode()
        if trusted is not None and self._memo().get(entry.label) == [_hash(given), _hash(trusted.armored)]:
            return KeyFact(True, before=_plain(entry), after=_plain(entry))
        result = self._store.add(
            given, prefix=entry.prefix, root=entry.root, fingerprint=entry.fingerprint, check=True
        )
        return KeyFact(trusted is not None, result.changed, result.before, result.after)

    def fact_of_label(self, label: str) -> KeyFact:
        """What is known about a key that a set made."""
        prefix, _, fingerprint = label.rpartition(":")
        scope = None if prefix == "root" else prefix
        trusted = self._trusted(fingerprint, scope)
        before = {"fingerprint": fingerprint, "prefix": scope} if trusted else None
        return KeyFact(trusted is not None, before=before)

    def add(self, entry: TrustEntry) -> KeyChange:
        """Trust a key of the document. Raises GantryError."""
        if entry.key is None:
            raise NotFoundError(
                f"the key {entry.fingerprint} is not on this host", hint="give the key itself"
            )
        given = entry.key.encode()
        result = self._store.add(given, prefix=entry.prefix, root=entry.root, fingerprint=entry.fingerprint)
        detail = "; ".join(result.warnings)
        return KeyChange(result.changed, result.action, detail, result.before, result.after)

    def remove(self, label: str) -> bool:
        """Trust a key no longer; True when something changed. Raises GantryError."""
        prefix, _, fingerprint = label.rpartition(":")
        root = prefix == "root"
        return self._store.remove(fingerprint, prefix=None if root else prefix, root=root)

    def remember(self, entries: Iterable[TrustEntry]) -> None:
        """Note that these keys, as given, add nothing to what is trusted now."""
        self._listed = None
        known = dict(self._memo())
        for entry in entries:
            trusted = self._trusted(entry.fingerprint, entry.prefix)
            if entry.state == "present" and entry.key is not None and trusted is not None:
                known[entry.label] = [_hash(entry.key.encode()), _hash(trusted.armored)]
            elif trusted is None:
                known.pop(entry.label, None)
        if known != self._memo():
            os.makedirs(os.path.dirname(self._file), mode=0o750, exist_ok=True)
            fs.atomic_write(self._file, msgspec.json.encode(known, order="deterministic"), 0o640)
            self._known = known

    def _trusted(self, fingerprint: str, prefix: str | None) -> TrustedKey | None:
        """The file that counts in exactly this scope: ours over the vendor's, unless it is a mask."""
        if self._listed is None:
            self._listed = self._store.list()
        found = [k for k in self._listed if k.fingerprint == fingerprint and k.prefix == prefix]
        return found[-1] if found and not found[-1].masks else None

    def _memo(self) -> dict[str, list[str]]:
        if self._known is None:
            try:
                with open(self._file, "rb") as f:
                    self._known = msgspec.json.decode(f.read(), type=dict[str, list[str]])
            except (OSError, msgspec.DecodeError):
                self._known = {}  # only a memory: without it the key is examined again
        return self._known


class KeyRoom(Protocol):
    """What apply needs of the key store; :class:`Keys` is the real one."""

    def fact(self, entry: TrustEntry) -> KeyFact:
        """What is known about a key of the document. Raises GantryError."""

    def fact_of_label(self, label: str) -> KeyFact:
        """What is known about a key that a set made."""

    def add(self, entry: TrustEntry) -> KeyChange:
        """Trust a key of the document. Raises GantryError."""

    def remove(self, label: str) -> bool:
        """Trust a key no longer; True when something changed. Raises GantryError."""

    def remember(self, entries: Iterable[TrustEntry]) -> None:
        """Note that these keys, as given, add nothing to what is trusted now."""


class Host(NamedTuple):
    """One host, as apply sees it."""

    keys: KeyRoom
    images: Images
    engine: Engine
    sets: Sets

    def facts(self, document: Document) -> Facts:
        """Everything that the plan depends on. Opens no connection and changes nothing.

        Raises:
            GantryError: A key of the document cannot be used, or something on disk cannot be read.
        """
        sets = self.sets.read_all()
        keys = {entry.label: self._key(i, entry) for i, entry in enumerate(document.trust)}
        keys.update({n: self.keys.fact_of_label(n) for n in prunable(document, sets, "trust")})
        listed = listing(document, "image")
        images = {n: self.images.find(n) for n, present in listed if present}
        images.update({n: self.images.stored(n) for n, present in listed if not present})
        pods_going = pods_to_go(document, sets)
        for name in prunable(document, sets, "image"):
            images[name] = self._to_prune(name, document.set, pods_going)
        pods = [n for n, _ in listing(document, "pod")]
        pods.extend(n for n in prunable(document, sets, "pod") if n not in pods)
        observed = self.engine.observe(pods)
        return Facts(keys, images, observed, self.releases(document, observed), sets)

    def _to_prune(self, image: str, owner: str, pods_going: list[str]) -> str | None:
        """An image that the set may prune; what something else still needs is left for another time."""
        try:
            self.images.check_removal(image, owner, pods_going)
        except BusyError:
            return None
        return self.images.stored(image)

    def _key(self, place: int, entry: TrustEntry) -> KeyFact:
        try:
            return self.keys.fact(entry)
        except GantryError as e:
            e.message = f"$.trust[{place}].key: {e.message}"
            raise

    def releases(self, document: Document, observed: Any) -> dict[str, str | None]:
        """By pod, the release that its spec makes with the images that are in the store now."""
        return {
            pod.name: self.engine.known_release(pod.spec, observed[pod.name].release)
            for pod in document.pods
            if pod.spec is not None
        }


def _plain(entry: TrustEntry) -> dict[str, Any]:
    return {"fingerprint": entry.fingerprint, "prefix": entry.prefix}


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
