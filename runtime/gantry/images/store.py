"""The image store: a directory that a person can read.

::

    DATA/images/
      format                    "gantry-images 2": an older one is brought forward, a newer refused
      lock                      flock, see below
      image/sha512-HEX/         one image, complete from the moment the name exists
        image.aci               the bytes as distributed (compressed), so that the signature stays checkable
        image.aci.asc           the signature; missing if it was not asked for
        manifest                the image manifest's bytes
        info.json               what is known about it; without this file the directory is debris
        last-used               empty; its mtime is when the image was last used
      names/HASH/sha512-HEX     empty; HASH is the sha256 of the image name: finds images of a name
      urls/HASH                 JSON; HASH is the sha256 of a URL: the image that came from there, its ETag
      incoming/                 downloads under way and what a killed process left of them
        HASH.lock               flock: one process downloads a URL, others wait; removed by the holder
        HASH.part, HASH.json    the bytes so far, and the URL and ETag that they belong to
        new-XXXX/               an image being put together; locked by flock while somebody works on it
        handed/UID/             what a member of the group brings: :mod:`gantry.images.members`
      tree/TREE-ID/             a rendered image, shared read-only by pods as an overlay's lower directory
        rootfs/                 the files (tree/ is 0700: an image's setuid files are no user's of the host)
        tree.json               which images it was made from, what was lost; without it: debris
        refs/UUID               empty; the pod UUID uses the tree
      tree/.work-XXXX/          a tree being rendered; locked by flock while somebody works on it
      tree-locks/TREE-ID        flock: one process renders a tree, others wait; removed by the holder
      pins/KIND:NAME            image IDs, one a line: kept for that named pod, set, bundle or user

Locks. ``lock`` is shared by whoever adds to the store or takes something into use, and exclusive for whoever
removes (:meth:`Store.remove`, :meth:`Store.gc`), so nothing vanishes between being found and being
referenced (:meth:`Store.hold`). Downloads do not hold it. A process may wait for a URL's or a tree's lock
while it shares ``lock``; whoever holds ``lock`` alone only ever tries the others.

Every state is reached by one rename(2) after an fsync, so kill -9 leaves either nothing or everything of an
image, and debris that the next download continues or :meth:`Store.gc` removes. ``names`` and ``urls`` are
indexes: for a name that the first does not know all images are looked at, and what it lacks is entered again,
which gc does, too; what the second lacks costs a question to its server. Why they are files:
docs/decisions/0014.

Removing writes nothing: it works on a disk without a free byte (case 5). References are files, read anew each
time, never counted (case 48).
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING, Any

from gantry import audit
from gantry.appc.arch import fits_host, host_labels
from gantry.appc.errors import AppcError
from gantry.appc.imageid import looks_like_id, parse_prefix
from gantry.appc.imageref import ImageRef
from gantry.images.directory import StoreDirectory
from gantry.images.errors import AmbiguousError, ImageError, ImageNotFoundError, explained
from gantry.images.gc import collect
from gantry.images.keeping import refuse_pinned
from gantry.images.limits import DEFAULT_LIMITS, Limits
from gantry.images.records import GcResult, Image, Origin, image_of, key, read_json, sync, to_json
from gantry.linux.fs import atomic_write, fsync_directory, make_directory, remove_tree, rename_exchange

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gantry.appc.manifest import ImageManifest
    from gantry.config import Paths

__all__ = ["GcResult", "Image", "Store"]


class Store(StoreDirectory):
    """The image store of one installation.

    Making the object reads and writes nothing but the format; the first addition creates the directories.

    Args:
        paths: Where things are.
        limits: The bounds on images.

    Raises:
        StoreFormatError: The store was made by another version.
    """

    def __init__(self, paths: Paths, *, limits: Limits = DEFAULT_LIMITS) -> None:
        super().__init__(paths, limits=limits)
        self._host: dict[str, str] | None = None
        self._unindexed: dict[str, list[str]] | None = None

    # -- finding ------------------------------------------------------------------------------------

    def find(self, what: ImageRef | str) -> Image:
        """The image that *what* means; never asks the network.

        Implements SIG-04, DEP-05, DEP-06, DEP-30: an image has to carry every label that was stated, with
        that value. Of several, one that fits this host is preferred, then, if no version was asked for, one
        that was fetched as the latest, then what was signed last (a name does not move back), then what was
        imported last.

        Args:
            what: A reference; or a text, which is an image ID, a prefix of one with two digits or more, or a
                reference in its written form.

        Raises:
            ImageNotFoundError: There is none.
            AmbiguousError: Several images' IDs begin like this.
            GantryError: The text is malformed.
        """
        if isinstance(what, str):
            if looks_like_id(what):
                return self._find_id(what)
            what = ImageRef.parse(what)
        found = self.find_all(what)
        if not found:
            raise ImageNotFoundError(f'no image "{what}" in the store', hint=f"gantry fetch {what}")
        return found[0]

    def find_all(self, ref: ImageRef) -> list[Image]:
        """Every image that *ref* fits, the one to choose first."""
        wanted = ref.labels
        found = [
            image
            for image in self._named(ref.name)
            if all(image.labels.get(label) == value for label, value in wanted.items())
        ]
        any_version = "version" not in wanted
        found.sort(
            key=lambda image: (
                self._fits(image),
                any_version and image.latest,
                str((image.verification or {}).get("signed_at", "")),
                image.imported,
                image.id,
            ),
            reverse=True,
        )
        return found

    def _fits(self, image: Image) -> bool:
        if self._host is None:
            try:
                self._host = host_labels(os.uname().machine)
            except AppcError:
                self._host = {}
        return not self._host or fits_host(image.labels, self._host)

    def images_named(self, name: str) -> list[Image]:
        """Every image of a name."""
        return self._named(name)

    def _named(self, name: str) -> list[Image]:
        ids = self.entries("names", key(name)) or self._lost().get(name, [])
        return [image for image in map(self._load, ids) if image is not None and image.name == name]

    def _lost(self) -> dict[str, list[str]]:
        """IDs by name of the images that the index lacks, which are entered again if that can be.

        Looked up once, before a network is asked for a name that the index does not know.
        """
        if self._unindexed is None:
            self._unindexed = self.index_again()
        return self._unindexed

    def index_again(self) -> dict[str, list[str]]:
        """Enter what the index of names lacks, as far as that can be written; IDs by name."""
        lacking: dict[str, list[str]] = {}
        for image in self.list():
            if not os.path.exists(self.path("names", key(image.name), image.id)):
                lacking.setdefault(image.name, []).append(image.id)
                with contextlib.suppress(OSError):
                    self._index(image.name, image.id)
        return lacking

    def _find_id(self, text: str) -> Image:
        prefix = parse_prefix(text)
        if len(prefix) == len("sha512-") + 128:
            ids = [prefix]
        else:
            ids = [name for name in self._ids() if name.startswith(prefix)]
        found = [image for image in map(self._load, ids) if image is not None]
        if not found:
            raise ImageNotFoundError(
                f'no image "{text}" in the store', hint="gantry image list shows what is there"
            )
        if len(found) > 1:
            raise AmbiguousError(
                f'ambiguous image ID: "{text}" is the beginning of {len(found)} images',
                hint="give more digits",
            )
        return found[0]

    def _ids(self) -> list[str]:
        return [name for name in self.entries("image") if name.startswith("sha512-")]

    def list(self) -> list[Image]:
        """Every image, in the order of import."""
        found = [image for image in map(self._load, self._ids()) if image is not None]
        return sorted(found, key=lambda image: (image.imported, image.id))

    def tree_sizes(self) -> dict[str, int]:
        """Bytes of the files of rendered trees, holes not counted, by the ID of the image they are of."""
        sizes: dict[str, int] = {}
        for record in self.trees().values():
            top = str(record.get("image"))
            if "content" not in record:  # made by a version that did not write it down
                images = map(self._load, dict.fromkeys(map(str, record.get("images", ()))))
                record["content"] = sum(image.content for image in images if image is not None)
            sizes[top] = sizes.get(top, 0) + int(record["content"])
        return sizes

    def get(self, image_id: str) -> Image | None:
        """The image with exactly this ID, or ``None``."""
        return self._load(image_id)

    def find_url(self, url: str) -> tuple[Image, dict[str, Any]] | None:
        """The image that came from *url*, and what is known of it: ``etag``, ``fetched``, ``fresh_until``."""
        record = read_json(self.path("urls", key(url))) or {}
        etag, fetched = record.get("etag"), record.get("fetched")
        record.setdefault("fresh_until", 0.0)
        moments = (fetched, record["fresh_until"])
        if not all(isinstance(moment, int | float) for moment in moments) or not isinstance(etag, str | None):
            return None  # there is none, or it is not what we wrote
        if etag is not None and not etag.isprintable():
            return None
        image = self._load(str(record.get("id")))
        return None if image is None else (image, record)

    def manifest(self, image_id: str) -> ImageManifest:
        """The image manifest.

        Raises:
            ImageNotFoundError: The image is not in the store.
        """
        from gantry.appc.manifest import ImageManifest  # noqa: PLC0415 - lists and removals read none

        return ImageManifest.parse(self.manifest_bytes(image_id))

    def manifest_bytes(self, image_id: str) -> bytes:
        """The image manifest, byte for byte.

        Raises:
            ImageNotFoundError: The image is not in the store.
        """
        image = self._load(image_id)
        if image is None:
            raise ImageNotFoundError(f'no image "{image_id}" in the store', hint="gantry image list")
        try:
            with open(os.path.join(image.directory, "manifest"), "rb") as file:
                return file.read()
        except FileNotFoundError:  # removed between two looks
            raise ImageNotFoundError(
                f'no image "{image_id}" in the store', hint="gantry image list"
            ) from None

    def _own(self, image_id: str) -> Image | None:
        """The image with exactly this ID that lies in this very store."""
        return self._load(image_id)

    def _load(self, image_id: str) -> Image | None:
        if "/" in image_id or not image_id.startswith("sha512-"):
            return None
        directory = self.path("image", image_id)
        info = read_json(os.path.join(directory, "info.json"))
        if info is None:
            return None
        try:
            used = os.stat(os.path.join(directory, "last-used")).st_mtime
        except FileNotFoundError:
            used = None
        return image_of(image_id, info, directory, used)

    def touch(self, image_id: str) -> None:
        """Note that the image is used now; nothing happens if that cannot be written."""
        with contextlib.suppress(OSError):
            os.utime(self.path("image", image_id, "last-used"))

    # -- adding -------------------------------------------------------------------------------------

    def adopt(self, directory: str, info: Mapping[str, Any], origin: Origin | None = None) -> Image:
        """Take an image in that lies complete and verified in *directory*.

        The directory holds ``image.aci``, ``manifest`` and perhaps ``image.aci.asc``. An image with the same
        ID is replaced in one step, unless the one in the store is verified and the new one is not.

        Args:
            directory: Made by :meth:`workspace`.
            info: id, name, labels, size, unpacked, content, entries, verification, latest, source_url.
            origin: Where it was downloaded, by which it is found again.

        Raises:
            HostError: The kernel refuses; nothing was taken in.
        """
        image_id = str(info["id"])
        now = time.time()
        with self.hold(), explained("store the image"):
            existing = self._own(image_id)
            record = {**info, "imported": now, "url_key": key(origin.url) if origin else None}
            if existing is not None:
                record["latest"] = bool(info.get("latest")) or existing.latest
            if existing is not None and existing.verification and not info.get("verification"):
                # Who has signed the bytes that stay, and where they came from, stays with them.
                old = read_json(os.path.join(existing.directory, "info.json")) or {}
                record = {**record, **old, "latest": record["latest"], "imported": now}
                atomic_write(os.path.join(existing.directory, "info.json"), to_json(record), 0o640)
            else:
                self._move_in(directory, image_id, str(info["name"]), record)
            self.touch(image_id)
            if origin:
                self.note_url(
                    origin.url, image_id, {"url": info["source_url"], "etag": origin.etag}, origin.fresh
                )
            image = self._load(image_id)
        if image is None:  # nobody can remove it while the lock is held
            raise ImageError(f"the image {image_id} vanished while it was stored")
        return image

    def note_url(self, url: str, image_id: str, known: Mapping[str, Any], fresh: int) -> None:
        """Note that *url* means an image now, and for how many seconds nobody need ask again.

        Args:
            url: The URL.
            image_id: The image.
            known: Its public form (``url``) and the ``etag``.
            fresh: Seconds; 0: somebody has to ask each time.
        """
        now = time.time()
        record = {"url": known["url"], "id": image_id, "etag": known["etag"]}
        record |= {"fetched": now, "fresh_until": now + fresh}
        atomic_write(self.path("urls", key(url)), to_json(record), 0o640, durable=False)

    def _move_in(self, directory: str, image_id: str, name: str, record: Mapping[str, Any]) -> None:
        atomic_write(os.path.join(directory, "last-used"), b"", 0o640, durable=False)
        atomic_write(os.path.join(directory, "info.json"), to_json(record), 0o640, durable=False)
        group = os.stat(self.path("image")).st_gid  # whose members may read images
        for entry in os.listdir(directory):
            path = os.path.join(directory, entry)
            _give(path, group, 0o640)
            sync(path)
        _give(directory, group, 0o750)
        fsync_directory(directory)
        self._index(name, image_id)
        target = self.path("image", image_id)
        try:
            os.rename(directory, target)
        except OSError:
            if not os.path.isdir(target):
                raise
            rename_exchange(directory, target)
        fsync_directory(self.path("image"))

    def _index(self, name: str, image_id: str) -> None:
        directory = self.path("names", key(name))
        make_directory(directory, 0o750)
        os.close(os.open(os.path.join(directory, image_id), os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o640))
        fsync_directory(directory)
        fsync_directory(self.path("names"))

    # -- removing -----------------------------------------------------------------------------------

    def remove(self, what: str, *, by: str | None = None, reason: str = "removed on request") -> Image:
        """Remove an image, and its rendered tree if no pod uses it. Pods that use the tree are not disturbed.

        Works on a full disk.

        Args:
            what: As for :meth:`find`.
            by: Who asked, for the audit record.
            reason: Why, likewise.

        Raises:
            ImageNotFoundError: It is not there.
            BusyError: A pin keeps it, or an image that depends on it.
        """
        with self.hold(exclusive=True), explained("remove the image"):
            image = self.find(what)
            refuse_pinned(self, image)
            self.discard_image(image)
            for tree_id, record in self.trees().items():
                if record.get("image") == image.id and not self.refs(tree_id):
                    self.discard_tree(tree_id)
        audit.record(
            self.paths.data,
            "image.remove",
            by=by,
            image=str(image),
            image_id=str(image.id),
            reason=reason,
        )
        return image

    def discard_image(self, image: Image) -> None:
        """Remove an image without asking; the store is locked exclusively."""
        info_path = os.path.join(image.directory, "info.json")
        url_key = (read_json(info_path) or {}).get("url_key")
        # Without info.json it is no image any more; and no byte had to be written for that.
        os.unlink(info_path)
        self._unindex(image, url_key)
        remove_tree(image.directory)

    def _unindex(self, image: Image, url_key: str | None) -> None:
        directory = self.path("names", key(image.name))
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(directory, image.id))
        with contextlib.suppress(OSError):
            os.rmdir(directory)
        if url_key:
            path = self.path("urls", url_key)
            if (read_json(path) or {}).get("id") == image.id:
                os.unlink(path)

    def discard_tree(self, tree_id: str) -> None:
        """Remove a tree without asking; the store is locked exclusively."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path("tree", tree_id, "tree.json"))
        remove_tree(self.path("tree", tree_id))

    def gc(
        self,
        *,
        grace_period: float = 24 * 3600.0,
        free: int = 0,
        dry_run: bool = False,
        by: str | None = None,
        timeout: float | None = None,
    ) -> GcResult:
        """Remove trees that no pod uses, images unused for a while, and what killed processes left.

        Never removed: a tree with references, a pinned image and its tree, images that either is made of.
        Unfinished downloads older than *grace_period* go, too, unless a process works on them. Works on a
        full disk.

        Args:
            grace_period: Seconds since an image was last used.
            free: Bytes that should be free on the store's file system afterwards: until they are, images go
                within their grace period, too, those unused for longest first.
            dry_run: Only say what would go.
            by: Who asked, for the audit record.
            timeout: Seconds to wait for the store's lock; ``None`` waits for ever.

        Raises:
            BusyError: The time is up.
        """
        return collect(self, grace_period=grace_period, free=free, dry_run=dry_run, by=by, timeout=timeout)


def _give(path: str, group: int, mode: int) -> None:
    if os.stat(path).st_gid != group and os.geteuid() == 0:
        os.chown(path, -1, group)
    os.chmod(path, mode)
