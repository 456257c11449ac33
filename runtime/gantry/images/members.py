"""Fetching without root: members of the group ``gantry`` hand images over, root takes them in.

::

    DATA/images/                 the group may read images, names, urls and pins, and pass through incoming/
      incoming/handed/           root:gantry 1770: a member makes what follows, and nobody else's
        UID/                     a data directory of the member's own: a store, a record
          images/image/ID/       complete and verified, by the member's word
          images/incoming/       downloads that the member's next fetch continues

A member fetches into that store as anybody would into their own (:class:`MemberStore`); what the host's store
has counts as there. Being a member makes nobody root: a host's store never holds what only a member
has looked at. :func:`adopt` takes an image directory away from its member by one rename, copies its bytes and
judges them like any file's, with the host's keys, limits and memory of what was accepted before. Nothing that
the member wrote about the image counts: not where it came from, and not that it is the latest.

Paths that a member may change under root's eyes are only opened beneath a directory that was opened before.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import stat
from typing import TYPE_CHECKING, NamedTuple

from gantry.appc.errors import AppcError
from gantry.appc.imageid import looks_like_id
from gantry.errors import GantryError, HostError
from gantry.http import Client
from gantry.images.errors import ArchiveError, ImageError, ImageNotFoundError, explained
from gantry.images.intake import Wanted
from gantry.images.sharing import HANDED, group_id, open_to
from gantry.images.store import Store
from gantry.images.transfer import Transfers
from gantry.linux.fs import open_beneath, open_directory
from gantry.trust import TrustError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from gantry.images.records import Image
    from gantry.trust import KeyStore

_MANY = 1000
_FULL_ID = 7 + 128


class MemberStore(Store):
    """What a member fetches into: own images, and behind them those of the host.

    Args:
        host: The host's store.
    """

    def __init__(self, host: Store) -> None:
        place = host.path("incoming", HANDED, str(os.geteuid()))
        super().__init__(host.paths._replace(data=place), limits=host.limits)
        self._behind = host

    def _load(self, image_id: str) -> Image | None:
        return super()._load(image_id) or self._behind.get(image_id)

    def _own(self, image_id: str) -> Image | None:
        return super()._load(image_id)

    def _named(self, name: str) -> list[Image]:
        own = super()._named(name)
        ids = {image.id for image in own}
        return own + [image for image in self._behind.images_named(name) if image.id not in ids]

    def _find_id(self, text: str) -> Image:
        try:
            return super()._find_id(text)
        except ImageNotFoundError:
            return self._behind.find(text)

    def find_url(self, url: str) -> tuple[Image, dict[str, Any]] | None:
        """See :meth:`gantry.images.store.Store.find_url`."""
        return super().find_url(url) or self._behind.find_url(url)

    def handed_over(self) -> list[str]:
        """IDs of the images that wait to be taken in."""
        return sorted(self.entries("image"))

    def wake(self) -> None:
        """Let whoever watches the directory know that something is complete."""
        mark = f"{self.paths.data}.ready"
        with contextlib.suppress(OSError):
            os.close(os.open(mark, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
            os.unlink(mark)


def is_member(host: Store) -> bool:
    """Whether this process may hand images over, and may do no more."""
    if os.geteuid() == 0 or os.access(host.root, os.W_OK):
        return False
    return os.access(host.path("incoming", HANDED), os.W_OK | os.X_OK)


def open_to_group(store: Store) -> bool:
    """Let the members of the group read the store and hand images over; whether there is such a group.

    Called as root.

    Raises:
        HostError: The kernel refuses.
    """
    group = group_id()
    if group is None:
        return False
    store.ensure()
    with store.hold():
        open_to(group, store.root)
    return True


class Handed(NamedTuple):
    """What became of an image that was handed over.

    Attributes:
        member: The name of who did.
        image_id: What it was said to be.
        image: The image, in the store.
        error: Why it was refused instead.
    """

    member: str
    image_id: str
    image: Image | None
    error: GantryError | None


def adopt(store: Store, keystore: KeyStore, *, by: str | None = None) -> list[Handed]:
    """Take in what members have handed over; what is refused is removed, and on record.

    Args:
        store: The host's store.
        keystore: Which keys are trusted for which names.
        by: Who asked, for the audit record.

    Returns:
        What became of each. What this host could not take in (an error of the class
        :class:`gantry.errors.HostError`: the disk is full, say) waits on.

    Raises:
        HostError: The kernel refuses.
    """
    if not open_to_group(store):
        return []
    results = []
    handed = open_directory(store.path("incoming", HANDED))
    try:
        for name in sorted(os.listdir(handed)):
            with _images_of(handed, name) as images:
                if images is None:
                    continue
                adopter = _Adopter(store, keystore, int(name), by)
                results += [
                    adopter.take(images, ident)
                    for ident in sorted(os.listdir(images))[:_MANY]
                    if len(ident) == _FULL_ID and looks_like_id(ident)
                ]
    finally:
        os.close(handed)
    return results


@contextlib.contextmanager
def _images_of(handed: int, name: str) -> Iterator[int | None]:
    """The directory with the images of the member whose directory is *name*; ``None``: there is none."""
    if not (name.isascii() and name.isdecimal()):
        yield None
        return
    try:
        found = open_beneath(handed, f"{name}/images/image", os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        yield None
        return
    try:
        top = os.stat(name, dir_fd=handed, follow_symlinks=False)
        yield found if os.fstat(found).st_uid == top.st_uid == int(name) else None
    finally:
        os.close(found)


class _Adopter(Transfers):
    """Takes in what one member has handed over."""

    def __init__(self, store: Store, keystore: KeyStore, uid: int, by: str | None) -> None:
        super().__init__(store, keystore, "never", Client(), frozenset(), say=None, progress=None, by=by)
        self._uid = uid
        try:
            self._member = pwd.getpwuid(uid).pw_name
        except KeyError:
            self._member = str(uid)

    def take(self, images: int, ident: str) -> Handed:
        """One image, which is gone from the member's directory afterwards."""
        taken = Handed(self._member, ident, None, None)
        with self._store.workspace("incoming", "new-") as work:
            place = os.path.join(work, "handed")
            with explained("take what was handed over"):
                try:
                    os.rename(ident, place, src_dir_fd=images)
                except FileNotFoundError:
                    error = HostError(f"{ident} is gone", hint="its member has taken it back")
                    return taken._replace(error=error)
            try:
                return taken._replace(image=self._judged(place, ident))
            except (TrustError, ImageError, AppcError) as error:
                return taken._replace(error=error)
            except (HostError, OSError) as error:
                # It waits on; what others have brought must not wait for it.
                with contextlib.suppress(OSError):
                    os.rename(place, ident, dst_dir_fd=images)
                if isinstance(error, OSError):
                    raise
                return taken._replace(error=error)

    def _judged(self, place: str, ident: str) -> Image:
        asked = f"{ident[:19]}, handed over by {self._member}"
        try:
            directory = open_directory(place)
        except OSError as error:
            raise ArchiveError(f"{asked}: it is no directory") from error
        try:
            signature = self._content(directory, "image.aci.asc", asked)
            fd = self._open(directory, "image.aci", asked)
            try:
                origin = f"handed over by {self._member} ({self._uid})"
                with self._refusals(asked, origin):
                    return self.take_open(fd, origin, Wanted(asked), signature).image
            finally:
                os.close(fd)
        finally:
            os.close(directory)

    def _open(self, directory: int, name: str, asked: str) -> int:
        try:
            fd = open_beneath(directory, name, os.O_RDONLY | os.O_NONBLOCK)
        except OSError as error:
            raise ArchiveError(f"{asked}: {name} cannot be opened: {error.strerror}") from error
        info = os.fstat(fd)
        # A hard link to somebody else's file would let a member have it read.
        if not stat.S_ISREG(info.st_mode) or info.st_uid != self._uid or info.st_nlink != 1:
            os.close(fd)
            raise ArchiveError(f"{asked}: {name} is no file of theirs")
        return fd

    def _content(self, directory: int, name: str, asked: str) -> bytes | None:
        try:
            os.stat(name, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            return None
        fd = self._open(directory, name, asked)
        with os.fdopen(fd, "rb") as file:
            return file.read(self._store.limits.signature + 1)
