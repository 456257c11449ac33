"""The rooms beneath, as named pods need them: the image store, the fetch, the life of pods."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from gantry import pods
from gantry.config import Paths
from gantry.errors import GantryError, NotFoundError
from gantry.http import HttpOptions
from gantry.images import ImageNotFoundError
from gantry.images.keeping import refuse_pinned
from gantry.images.pins import POD, SET, USER
from gantry.images.records import key
from gantry.images.rendering import graph
from gantry.images.source import parse_source
from gantry.images.store import Image, Store
from gantry.pods.ending import end_leftovers
from gantry.pods.request import PodContext
from gantry.pods.state import find as find_state
from gantry.releases.requests import pod_request
from gantry.releases.spec import PodSpec
from gantry.trust import KeyStore


def _ignore(_line: str) -> None:
    return


class Rooms:
    """Images and pods of one installation; see :class:`gantry.releases.ports.Backend`.

    Args:
        paths: Where the installation lives.
        store: The image store.
        keys: The trusted keys.
        http: How to speak HTTP.
        insecure: Checks of a fetch that are switched off.
        say: Told what the user may want to know, one line each.
    """

    def __init__(
        self,
        paths: Paths,
        store: Store,
        keys: KeyStore,
        http: HttpOptions,
        insecure: frozenset[str],
        *,
        say: Callable[[str], None] = _ignore,
    ) -> None:
        self.paths = paths
        self.store = store
        self._keys = keys
        self._http = http
        self._insecure = insecure
        self._say = say

    def find(self, image: str) -> str | None:
        """The image ID of *image* in the store; ``None`` when it is not there, or not verified.

        A file or URL is known by where the image came from, so that a second run reads neither.
        """
        found = self._find(image)
        return str(found.id) if found is not None else None

    def stored(self, image: str) -> str | None:
        """As :meth:`find`, but an image that was never verified is found, too: it can be removed."""
        found = self._find(image, unverified=True)
        return str(found.id) if found is not None else None

    def _find(self, image: str, *, unverified: bool = False) -> Image | None:
        source = parse_source(image)
        candidates: list[Image] = []
        with contextlib.suppress(ImageNotFoundError):
            if source.image_id is not None:
                candidates = [self.store.find(source.image_id)]
            elif source.ref is not None:
                candidates = self.store.find_all(source.ref)
            elif source.url is not None:
                known = self.store.find_url(source.url)
                candidates = [known[0]] if known else []
            else:
                path = os.path.abspath(str(source.file))
                candidates = [
                    i for i in reversed(self.store.list()) if i.source_url in {path, f"file://{path}"}
                ]
        anything = unverified or "image" in self._insecure
        accepted = (i for i in candidates if anything or i.verification is not None)
        return next(accepted, None)

    def resolve(self, image: str, pull: str) -> str:
        """The image ID of *image*, fetched if the policy says so.

        Raises:
            GantryError: It could not be found, fetched or verified.
        """
        if pull != "update" and (found := self._find(image)) is not None:
            if pull == "never" or self._whole(found):
                return str(found.id)
            self._say(f"{found} is in the store, but not all that it depends on")
        from gantry.images import fetch  # noqa: PLC0415 - a run that changes nothing does not pay for it

        result = fetch(
            self.store,
            self._keys,
            image,
            policy=pull,
            http=self._http,
            insecure=self._insecure,
            say=self._say,
        )
        return str(result.image.id)

    def verification(self, image_id: str) -> dict[str, Any] | None:
        """Who signed an image of the store, when, and when that was verified; ``None``: nobody looked."""
        image = self.store.get(image_id)
        return None if image is None else image.verification

    def _whole(self, image: Image) -> bool:
        """Whether everything that *image* depends on is in the store; what else is wrong shows later."""
        try:
            graph(self.store, image)
        except ImageNotFoundError:
            return False
        except GantryError:
            return True
        return True

    def remove(self, image: str) -> None:
        """Remove an image from the store. Raises GantryError."""
        found = self.stored(image)
        if found is not None:
            self.store.remove(found)

    def check_removal(self, image: str, owner: str, pods: Iterable[str]) -> None:
        """Find out whether an image of the store could be removed.

        Args:
            image: What it is called.
            owner: The set that asks; nothing if it is none.
            pods: Named pods that are about to go.

        Raises:
            BusyError: Something else keeps it.
        """
        found = self._find(image, unverified=True)
        if found is not None:
            mine = (SET, owner) if owner else (USER, key(image))
            refuse_pinned(self.store, found, without={mine, *((POD, pod) for pod in pods)})

    def keep(self, owner: str, images: Mapping[str, str | None]) -> None:
        """Have the store keep images that are to be present, and no longer those that are not.

        Args:
            owner: The set, of which *images* is everything; or nothing: then each is kept for its own sake.
            images: By what they are called their IDs; ``None``: it need not be there.

        Raises:
            GantryError: The store cannot be written.
        """
        if owner:
            self.store.pin(SET, owner, [found for found in images.values() if found])
            return
        for called, found in images.items():
            self.store.pin(USER, key(called), [found] if found else [])

    def prepare(self, spec: PodSpec, images: Mapping[str, str]) -> str:
        """Prepare a restartable pod; its UUID. Raises GantryError."""
        found = {called: self.store.find(image_id) for called, image_id in images.items()}
        context = PodContext(self.paths, self.store, warn=self._say)
        return pods.prepare(context, pod_request(spec, found))

    def pod_there(self, uuid: str) -> bool:
        """Whether the pod is prepared or runs."""
        return find_state(self.paths.data, uuid) in {"prepared", "run"}

    def pods_of(self, name: str) -> list[str]:
        """UUIDs of every pod that was prepared for the named pod."""
        return [pod.uuid for pod in pods.list_pods(self.paths) if pod.pod_name == name]

    def remove_pod(self, uuid: str) -> None:
        """Remove a pod whose unit does not run; one that is gone is fine. Raises GantryError."""
        with contextlib.suppress(NotFoundError):
            if find_state(self.paths.data, uuid) == "run":
                # The unit's own clean-up (ExecStopPost) may have been killed: then what it left still lives.
                end_leftovers(self.paths.data, self.paths.run, uuid)
            pods.remove(self.paths, uuid)

    def pin(self, name: str, images: Iterable[str]) -> None:
        """Keep exactly these images for the named pod. Raises GantryError."""
        self.store.pin(POD, name, images)
