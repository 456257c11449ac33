"""Bring one image in, from a URL or a file; what to bring is decided in :mod:`gantry.images.fetching`.

Several threads may do so at once.
"""

from __future__ import annotations

import contextlib
import os
import stat
import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from gantry import audit
from gantry.appc.errors import AppcError
from gantry.errors import GantryError
from gantry.http import HttpError, StatusError, public_url
from gantry.http.fields import fresh_for, retry_after
from gantry.images.download import Download, NotModified, RestartedError, StoppedError
from gantry.images.errors import FetchError, ImageError, explained
from gantry.images.gc import sweep
from gantry.images.intake import ACCEPT_UNSIGNED, Judged, Wanted, judge, signature_digest, verifying
from gantry.images.parallel import WORKERS
from gantry.images.reading import file_chunks
from gantry.images.records import Origin, key
from gantry.images.space import Room
from gantry.linux.fs import atomic_write, write_all
from gantry.linux.locks import locked
from gantry.trust import SignatureFormatError, TrustError, UnsignedError
from gantry.trust.errors import VerifierError
from gantry.trust.freshness import Accepted, Freshness, series_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from gantry.http import Client
    from gantry.images.records import Image
    from gantry.images.store import Store
    from gantry.trust import KeyStore

# Transfers of this process at once, for whichever of its images.
_SLOTS = threading.BoundedSemaphore(WORKERS)
_MISSING = (404, 410)
_DEFERRED = 202
# How long a signature is waited for that the server is still making, in seconds.
_SIGNATURE_PATIENCE = 60.0


class Taken(NamedTuple):
    """An image that is in the store now, and whether its bytes were transferred for that."""

    image: Image
    fetched: bool


class _Own(threading.local):
    """What each thread has for itself."""

    signature: bytes | None = None


class Transfers:
    """The means of one fetch: store, keys, HTTP client, where messages go."""

    def __init__(
        self,
        store: Store,
        keystore: KeyStore,
        policy: str,
        client: Client,
        insecure: frozenset[str],
        *,
        say: Callable[[str], None] | None,
        progress: Callable[[str, int, int | None], None] | None,
        by: str | None,
        no_cache: bool = False,
    ) -> None:
        self._store = store
        self._verify = "image" not in insecure
        self._keystore = keystore if self._verify else None
        self._policy = policy
        self._client = client
        self._insecure = insecure
        self._say_to = say
        self._progress_to = progress
        self._by = by
        self._no_cache = no_cache
        self._notes: list[str] = []
        self._own = _Own()
        self._telling = threading.Lock()
        self._stopped = False
        self._freshness = Freshness(store.paths.data)
        self._new: list[Image] = []

    def _say(self, line: str) -> None:
        with self._telling:
            self._notes.append(line)
            if self._say_to is not None:
                self._say_to(line)

    def _stop(self, _error: BaseException) -> None:
        """End the transfers of the other threads: what they are for has failed."""
        self._stopped = True

    def _accept(self, images: Iterable[Image]) -> list[Image]:
        return [image for image in images if image.verification is not None or not self._verify]

    def _download(self, url: str, asc_url: str, wanted: Wanted, signature_file: str | None = None) -> Taken:
        self._store.ensure()
        began = time.time()
        waited: list[bool] = []

        def on_wait() -> None:
            waited.append(True)
            self._say(f"{public_url(url)} is being downloaded by another process; waiting for it")

        guard = self._store.path("incoming", f"{key(url)}.lock")
        with self._refusals(wanted.asked, public_url(url)), locked(guard, remove=True, on_wait=on_wait):
            known = self._store.find_url(url)
            if known is not None and waited and known[1]["fetched"] >= began and self._fits(known[0], wanted):
                return self._still(known[0], wanted)
            if known is not None and self._holds(known[1]) and self._fits(known[0], wanted):
                self._say(f"{public_url(url)} has not expired, so it is not asked for")
                return self._still(known[0], wanted)
            sweep(self._store)
            with _SLOTS:
                return self._exchange(url, asc_url, wanted, signature_file)

    def _is_signed_so(self, image: Image, signature: bytes | _Deferred | None) -> bool:
        """Whether the store has the image with this very signature; one in the making is not known yet."""
        if not isinstance(signature, bytes) or image.signature_path is None:
            return True
        try:
            with open(image.signature_path, "rb") as file:
                return file.read() == signature
        except OSError:
            return False

    def _fits(self, image: Image, wanted: Wanted) -> bool:
        if not self._accept([image]) or (wanted.image_id and not image.id.startswith(wanted.image_id)):
            return False
        return wanted.ref is None or any(image.id == each.id for each in self._store.find_all(wanted.ref))

    def _holds(self, known: dict[str, Any]) -> bool:
        """Whether the server has said that nothing new is to be had from there yet (DSC-33)."""
        return not self._no_cache and known["fetched"] <= time.time() < known["fresh_until"]

    def _exchange(self, url: str, asc_url: str, wanted: Wanted, signature_file: str | None) -> Taken:
        """Signature, then image; the URL's lock is held."""
        known = self._store.find_url(url)
        if known is not None and not self._fits(known[0], wanted):
            known = None
        signature = self._fetch_signature(asc_url, signature_file, url)
        progress = self._progress_of(url)
        directory = self._store.path("incoming")
        with Download(
            self._client, url, directory, self._store.limits, say=self._say, progress=progress
        ) as download:
            if wanted.size:
                download.bound = wanted.size + wanted.size // 100 + 65536
            etag = known[1].get("etag") if known else None
            if known is not None and not self._is_signed_so(known[0], signature):
                etag = None  # the same bytes with another signature have to be judged with that
            try:
                if isinstance(signature, _Deferred):
                    self._say(f"{signature.url}: the signature is being made; asking again after the image")
                    download.gather(unless_etag=etag)
                    signature = self._await_signature(signature)
                judged = self._judge_download(download, wanted, signature, unless_etag=etag)
            except NotModified:
                assert known is not None
                self._store.note_url(url, known[0].id, known[1], fresh_for(download.headers, time.time()))
                download.discard()
                self._say(f"{public_url(url)} has not changed")
                return self._still(known[0], wanted)
            except (HttpError, StoppedError, VerifierError):
                raise  # what has arrived is continued next time
            except Exception:
                download.discard()
                raise
            with self._store.workspace("incoming", "new-") as work:
                os.rename(download.path, os.path.join(work, "image.aci"))
                download.finished()
                shown = public_url(url)
                origin = Origin(url, download.etag, fresh_for(download.headers, time.time()))
                image = self._adopt(work, judged, signature, shown, wanted, origin=origin)
            return Taken(image, fetched=True)

    def _judge_download(
        self, download: Download, wanted: Wanted, signature: bytes | None, *, unless_etag: str | None
    ) -> Judged:
        while True:
            try:
                with verifying(self._keystore, signature, wanted) as verifier:
                    return judge(
                        download.chunks(unless_etag=unless_etag),
                        wanted,
                        verifier,
                        self._keystore,
                        self._store.limits,
                        refused=download.keep_nothing,
                    )
            except RestartedError:
                continue
            except (TrustError, ImageError) as error:
                # Bytes that an earlier process left may be stale, or lost in a power cut: once more without.
                if not download.reused or isinstance(error, FetchError):
                    raise
                self._say(f"the continued download is not right ({error.code}); beginning again")
                download.forget()

    def _fetch_signature(
        self, asc_url: str, signature_file: str | None, url: str
    ) -> bytes | _Deferred | None:
        self._own.signature = None
        if self._keystore is None:
            return None
        if signature_file is not None:
            return self._read_signature(signature_file, must_exist=True)
        try:
            answer = self._client.get(asc_url, max_bytes=self._store.limits.signature)
            if answer.status == _DEFERRED:
                return _Deferred(asc_url, public_url(asc_url))
            self._own.signature = answer.body
            return answer.body
        except StatusError as error:
            if error.status not in _MISSING:
                raise
            with self._client.stream(url):  # an image that is not there either is not an unsigned one
                return None

    def _await_signature(self, deferred: _Deferred) -> bytes:
        """The signature that a server was still making (DSC-33)."""
        began, pause = time.monotonic(), 0.5
        while True:
            answer = self._client.get(deferred.address, max_bytes=self._store.limits.signature)
            if answer.status != _DEFERRED:
                self._own.signature = answer.body
                return answer.body
            asked = retry_after(answer.headers, time.time())
            pause = pause * 2 if asked is None else max(asked, 0.5)
            if time.monotonic() - began + pause > _SIGNATURE_PATIENCE or self._stopped:
                raise HttpError(
                    "the server is still making the signature (202)",
                    url=deferred.url,
                    hint="try again later; the image is not transferred again then",
                )
            time.sleep(pause)

    def _read_signature(self, path: str, *, must_exist: bool) -> bytes | None:
        try:
            with open(path, "rb") as file:
                self._own.signature = file.read(self._store.limits.signature + 1)
                return self._own.signature
        except FileNotFoundError:
            if not must_exist:
                return None
            raise UnsignedError(
                f"there is no signature file {path}",
                hint=f"'gantry sign' makes one, {ACCEPT_UNSIGNED}",
            ) from None
        except OSError as error:
            raise FetchError(f"cannot read the signature file {path}: {error.strerror}") from error

    def _progress_of(self, url: str) -> Callable[[int, int | None], None]:
        shown = public_url(url)
        tell = self._progress_to

        def progress(done: int, total: int | None) -> None:
            if self._stopped:
                raise StoppedError(f"{shown}: the download was stopped")
            if tell is not None:
                with self._telling:
                    tell(shown, done, total)

        return progress

    # -- files --------------------------------------------------------------------------------------

    def _from_file(self, path: str, wanted: Wanted, signature_file: str | None) -> Taken:
        self._store.ensure()
        sweep(self._store)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise FetchError(f"cannot read the image {path}: {error.strerror}") from error
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise FetchError(f"the image {path} is not a regular file", hint="give an image file")
            with self._refusals(wanted.asked, f"file://{path}"):
                signature = self._own.signature = None
                if self._keystore is not None:
                    given = signature_file is not None
                    signature = self._read_signature(signature_file or f"{path}.asc", must_exist=given)
                return self.take_open(fd, f"file://{path}", wanted, signature)
        finally:
            os.close(fd)

    def take_open(self, fd: int, origin: str, wanted: Wanted, signature: bytes | None) -> Taken:
        """Take in a copy of an open file; see :func:`gantry.images.fetching.fetch` for what is raised.

        Args:
            fd: A regular file, which may change meanwhile: what is judged is what is stored.
            origin: Where it came from, for the record.
            wanted: What it has to be.
            signature: Its signature; ``None``: it has none.
        """
        self._own.signature = signature
        what = f"store {origin.removeprefix('file://')}"
        room = Room(self._store.path("incoming"), what, self._store.limits)
        room.need(os.fstat(fd).st_size)
        with (
            verifying(self._keystore, signature, wanted) as verifier,
            self._store.workspace("incoming", "new-") as work,
            explained(what),
        ):
            copy = _Copy(fd, os.path.join(work, "image.aci"), room)
            judged = judge(
                copy, wanted, verifier, self._keystore, self._store.limits, refused=copy.keep_nothing
            )
            image = self._adopt(work, judged, signature, origin, wanted)
            return Taken(image, fetched=True)

    # -- taking in ----------------------------------------------------------------------------------

    def _adopt(
        self,
        work: str,
        judged: Judged,
        signature: bytes | None,
        source_url: str,
        wanted: Wanted,
        *,
        origin: Origin | None = None,
    ) -> Image:
        verified = judged.verification
        if verified is not None:
            new = Accepted(verified.signed_at, str(judged.image_id), verified.key)
            self._accept_signature(judged.manifest.name, judged.manifest.labels, new, wanted)
        atomic_write(os.path.join(work, "manifest"), judged.manifest_bytes, 0o640, durable=False)
        if signature is not None:
            atomic_write(os.path.join(work, "image.aci.asc"), signature, 0o640, durable=False)
        existed = self._store.get(judged.image_id) is not None
        info = judged.info(source_url, signature, latest=wanted.latest)
        image = self._store.adopt(work, info, origin)
        if not existed:
            self._new.append(image)
        audit.record(
            self._store.paths.data,
            "image.fetch",
            by=self._by,
            image=wanted.asked,
            name=str(image),
            image_id=str(image.id),
            url=source_url,
            size=image.size,
            verification=image.verification,
            signature_sha256=signature_digest(signature),
            insecure=sorted(self._insecure),
        )
        return image

    def _still(self, image: Image, wanted: Wanted) -> Taken:
        """What is in the store already, and is what the URL means: an older one is refused all the same."""
        verified = image.verification if self._verify else None
        if verified is not None:
            new = Accepted(str(verified["signed_at"]), str(image.id), str(verified["key"]))
            self._accept_signature(image.name, image.labels, new, wanted)
        return Taken(image, fetched=False)

    def _accept_signature(self, name: str, labels: Mapping[str, str], new: Accepted, wanted: Wanted) -> None:
        """Write down that this signature counts now; an image that is named by its ID moves nothing.

        Raises:
            DowngradeError: An earlier one was accepted that is newer.
            FreshnessError: It is not known what was.
        """
        if wanted.image_id is not None:
            return
        platform = labels if wanted.ref is None else wanted.ref.labels
        series = series_of(name, labels, platform, latest=wanted.latest)
        self._freshness.accept(series, new, back="downgrade" in self._insecure)

    @contextlib.contextmanager
    def _refusals(self, asked: str, url: str) -> Iterator[None]:
        """Put every refusal inside the block on record, and say of which image it is."""
        try:
            yield
        except (TrustError, ImageError, AppcError) as error:
            if isinstance(error, SignatureFormatError) and url.startswith("http"):
                error.message += f" [for {url}]"  # it may be a server's way to say something else
            named = isinstance(error, TrustError) or asked in error.message or url in error.message
            if not named:
                error.message = f"{asked}: {error.message}"
            if not isinstance(error, FetchError | VerifierError):  # these say nothing of the image
                self._record_refusal(asked, url, error)
            raise

    def _record_refusal(self, asked: str, url: str, error: GantryError) -> None:
        audit.record(
            self._store.paths.data,
            "image.refuse",
            by=self._by,
            image=asked,
            code=error.code,
            reason=error.message,
            url=url,
            signature_sha256=signature_digest(self._own.signature),
        )


class _Deferred(NamedTuple):
    """A signature that the server is still making.

    Attributes:
        address: Where it will be.
        url: The same without what may be secret.
    """

    address: str
    url: str


class _Copy:
    """A file's bytes, each written to *target* before it is handed out."""

    def __init__(self, fd: int, target: str, room: Room) -> None:
        self._fd = fd
        self._target = target
        self._room = room
        self._keep = True

    def keep_nothing(self) -> None:
        """Write no more."""
        self._keep = False

    def __iter__(self) -> Iterator[bytes]:
        copy = os.open(self._target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            for chunk in file_chunks(self._fd):
                if self._keep:
                    self._room.need(len(chunk))
                    write_all(copy, chunk)
                yield chunk
        finally:
            os.close(copy)
