"""Take one image in: judge its bytes while they stream by, then adopt it or leave nothing.

The bytes go, in one pass, to the verifier's process, through decompression and the SHA-512 of the image ID,
and through the checks of the archive. Only when every verdict is in, the image gets a name in the store.

Which verdict is told when several are bad: the signature's first, since bytes that nobody signed say nothing
about the image; then the archive's, the manifest's, name and labels, the ID. Once the archive is refused the
signature gets a bounded rest of the bytes to be settled: a stranger's stream may have no end.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Generator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from gantry.appc.manifest import ImageManifest
from gantry.http import HttpError
from gantry.images.channel import Abandoned, Channel, Stage
from gantry.images.errors import ArchiveError, DigestMismatchError, LimitError, NameMismatchError
from gantry.images.reading import reading
from gantry.trust import UnknownKeyError, UnsignedError, UntrustedForNameError, start_verifier
from gantry.trust.policy import covers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from gantry.appc.imageid import ImageID
    from gantry.appc.imageref import ImageRef
    from gantry.images.limits import Limits
    from gantry.trust import KeyStore, Verification, Verifier


#: Bytes of an image that is small: gathered in memory, then scanned without threads.
_SMALL = 2 * 1024 * 1024
#: The end of hints; the command line and the modules spell the option differently.
ACCEPT_UNSIGNED = 'or accept it unsigned: insecure option "image"'


class Wanted(NamedTuple):
    """What an image has to be.

    Attributes:
        asked: What was asked for, for messages and the record.
        ref: The name and labels that were stated; ``None``: any.
        image_id: Its ID or rkt's half of one; ``None``: any.
        size: Bytes that a dependency announces, compressed or not (DEP-04, TRAP-11); ``None``: any.
        latest: Whether no version was asked for.
    """

    asked: str
    ref: ImageRef | None = None
    image_id: str | None = None
    size: int | None = None
    latest: bool = False


class Judged(NamedTuple):
    """An image that is what it has to be."""

    image_id: ImageID
    manifest: ImageManifest
    manifest_bytes: bytes
    size: int
    unpacked: int
    content: int
    entries: int
    verification: Verification | None

    def info(self, source_url: str, signature: bytes | None, *, latest: bool) -> dict[str, Any]:
        """What the store records about it."""
        return {
            "id": str(self.image_id),
            "name": self.manifest.name,
            "labels": dict(self.manifest.labels),
            "size": self.size,
            "unpacked": self.unpacked,
            "content": self.content,
            "entries": self.entries,
            "verification": self.verification.as_dict() if self.verification else None,
            "signature_sha256": signature_digest(signature),
            "latest": latest,
            "source_url": source_url,
        }


def signature_digest(signature: bytes | None) -> str | None:
    """The SHA-256 of a signature, for the record."""
    return None if signature is None else hashlib.sha256(signature).hexdigest()


@contextlib.contextmanager
def verifying(
    keystore: KeyStore | None, signature: bytes | None, wanted: Wanted
) -> Iterator[Verifier | None]:
    """The verifier for an image, judging what can be judged before its bytes are there.

    Args:
        keystore: ``None``: signatures are not looked at.
        signature: The content of the signature file; ``None`` if there is none.
        wanted: For the keys: those of the image's name. An image that is asked for by file or URL has no name
            yet; every key is a candidate then, and :func:`judge` compares with the name in the manifest.

    Raises:
        TrustError: Unsigned, signed by an unknown key, and so on.
    """
    if keystore is None:
        yield None
        return
    with _started(keystore, signature, wanted) as verifier:
        yield verifier


def _started(keystore: KeyStore, signature: bytes | None, wanted: Wanted) -> Verifier:
    try:
        if wanted.ref is not None:
            return start_verifier(keystore.keys_for(wanted.ref.name), signature, wanted.ref.name)
        everything = keystore.everything()
        return start_verifier(
            everything, signature, wanted.asked, everything=everything, skew=keystore.skew()
        )
    except UnsignedError as error:
        raise type(error)(
            error.message, hint=f"ask its publisher for NAME.aci.asc, {ACCEPT_UNSIGNED}"
        ) from None
    except UnknownKeyError as error:
        if wanted.ref is not None:
            raise
        # A path or a URL is no name, and the name is in bytes that nobody has judged yet.
        hint = "if you trust that key for the image's NAME: gantry trust --prefix=NAME KEYFILE"
        raise type(error)(error.message, hint=hint) from None


def judge(
    chunks: Iterable[bytes],
    wanted: Wanted,
    verifier: Verifier | None,
    keystore: KeyStore | None,
    limits: Limits,
    *,
    refused: Callable[[], None] = lambda: None,
) -> Judged:
    """Pass an image's bytes through everything that has a say.

    Implements SIG-01, SIG-02, SIG-08, SIG-11, SIG-12, DSC-26 ... DSC-28, DEP-04, TRAP-01, TRAP-02.

    Args:
        chunks: The image as distributed.
        wanted: What it has to be.
        verifier: Judges the signature; ``None``: nobody does.
        keystore: For the keys of the name in the manifest.
        limits: The bounds.
        refused: Called when it is clear that nothing of the bytes will be needed; a few more may be read.

    Raises:
        TrustError: The signature is refused.
        ArchiveError: It is no valid image.
        LimitError: It exceeds a bound.
        ManifestError: The manifest is refused.
        NameMismatchError: It is another image than the one asked for.
        DigestMismatchError: It has another ID than the one asked for.
    """
    scan = _Scanning(limits)
    size = 0
    settled = True
    source = iter(chunks)
    try:
        for chunk in source:
            size += len(chunk)
            if verifier is not None:
                verifier.feed(chunk)
            try:
                scan.feed(chunk)
            except Abandoned:
                refused()
                # Without a signature, or beyond a bound, there is nothing to wait for.
                unbounded = isinstance(scan.wait(), LimitError)
                settled = verifier is not None and not unbounded and _settle(source, verifier, limits)
                break
        scan_error = scan.wait()
        if scan_error is not None and (not settled or isinstance(scan_error, LimitError)):
            raise scan_error
        verification = verifier.finish() if verifier is not None else None
        result = scan.result()
    finally:
        scan.abandon()
        if isinstance(source, Generator):
            source.close()  # and with it the connection, or the file
    manifest = ImageManifest.parse(result.manifest, max_bytes=limits.manifest)
    if verifier is not None and keystore is not None:
        verification = _for_name(verifier.verifications, keystore, manifest.name)
    _compare(wanted, manifest, result.image_id, size, result.unpacked)
    return Judged(
        result.image_id,
        manifest,
        result.manifest,
        size,
        result.unpacked,
        result.content,
        result.entries,
        verification,
    )


def _settle(rest: Iterator[bytes], verifier: Verifier, limits: Limits) -> bool:
    """Whether the verifier got everything there is of an image whose archive is refused."""
    left = limits.settling
    try:
        for chunk in rest:
            left -= len(chunk)
            if left < 0:
                return False
            verifier.feed(chunk)
    except HttpError:  # the server broke off; what it sent was no image anyway
        return False
    return True


class _Scan(NamedTuple):
    image_id: ImageID
    manifest: bytes
    unpacked: int
    content: int
    entries: int


def _scan(chunks: Iterable[bytes], limits: Limits, *, threads: bool) -> _Scan:
    with reading(chunks, limits, threads=threads) as reader:
        for _ in reader.layout:
            pass
        layout = reader.layout
        return _Scan(reader.image_id(), layout.manifest, reader.unpacked, layout.content, layout.entries)


class _Scanning:
    """A scan of chunks: of a small image once all are there, of a larger one in threads, as they come."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._small: list[bytes] = []
        self._size = 0
        self._channel: Channel | None = None
        self._stage: Stage | None = None
        self._result: _Scan | None = None
        self._error: BaseException | None = None

    def feed(self, chunk: bytes) -> None:
        """Scan *chunk*, too.

        Raises:
            Abandoned: No more is wanted: it has failed.
        """
        self._size += len(chunk)
        if self._channel is None and self._size <= _SMALL:
            self._small.append(chunk)
            return
        if self._channel is None:
            self._channel = feed = Channel()
            self._stage = Stage("scan", lambda: self._threaded(feed))
            for each in self._small:
                feed.put(each)
            self._small = []
        self._channel.put(chunk)

    def _threaded(self, feed: Channel) -> _Scan:
        try:
            return _scan(feed, self._limits, threads=True)
        finally:
            feed.abandon()

    def wait(self) -> BaseException | None:
        """That was all: scan to the end; what the scan has failed with, if it has."""
        if self._channel is not None and self._stage is not None:
            self._channel.end()
            return self._stage.wait()
        if self._result is None and self._error is None:
            try:
                self._result = _scan(self._small, self._limits, threads=False)
            except Exception as error:  # noqa: BLE001 - it is raised again by result()
                self._error = error
        return self._error

    def result(self) -> _Scan:
        """What was found; its failure, if it has failed."""
        error = self.wait()
        if error is not None:
            raise error
        found = self._result if self._stage is None else self._stage.join()
        assert isinstance(found, _Scan)
        return found

    def abandon(self) -> None:
        """End, whatever was fed; does nothing when the scan is through."""
        if self._channel is not None and self._stage is not None:
            self._channel.abandon()
            self._stage.wait()


def _for_name(verifications: Sequence[Verification], keystore: KeyStore, name: str) -> Verification:
    """The first verification whose key may speak for the name in the manifest (SIG-11)."""
    prefixes = {key.fingerprint: key.prefix for key in keystore.keys_for(name)}
    for verification in verifications:
        if verification.key in prefixes:
            return replace(verification, prefix=prefixes[verification.key])
    verification = verifications[0]
    if covers(verification.prefix, name):
        raise UntrustedForNameError(
            f"{name} is signed by key {verification.key}, which is not trusted for it any more",
            hint="gantry trust list shows what is",
        )
    where = verification.prefix
    raise UntrustedForNameError(
        f"{name} is signed by key {verification.key}, trusted for {where} only",
        hint=f"if it may sign {name} too, trust it with --prefix={name}",
    )


def _compare(wanted: Wanted, manifest: ImageManifest, image_id: str, size: int, unpacked: int) -> None:
    if wanted.ref is not None:
        if manifest.name != wanted.ref.name:
            raise NameMismatchError(
                f'asked for the image "{wanted.ref.name}" and got one that calls itself "{manifest.name}"',
                hint="the server's discovery data points to the wrong file",
            )
        for label, value in wanted.ref.labels.items():
            found = manifest.labels.get(label)
            if found is None:
                raise NameMismatchError(
                    f'asked for {manifest.name} with {label}="{value}" and got an image without that label'
                )
            if found != value:
                raise NameMismatchError(
                    f'asked for {manifest.name} with {label}="{value}" and got {label}="{found}"'
                )
    if wanted.image_id is not None and not image_id.startswith(wanted.image_id):
        raise DigestMismatchError(
            f"{wanted.asked} has to be {wanted.image_id[:39]} and is {image_id[:39]}",
            hint="its publisher replaced it",
        )
    if wanted.size and wanted.size not in (size, unpacked):
        raise ArchiveError(f"{wanted.asked} has to have {wanted.size} bytes and has {size}")
