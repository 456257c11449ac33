"""Publish an image, its signature and its key, so that any web server is a registry.

Rules:

- an image is published as a host would take it: whole, signed by a key that may sign its name, and with the
  labels by which it is found. Unsigned ones only when told so;
- a version never changes. The same image with another signature is the same version, signed anew;
- ``latest`` is, by platform, what was signed last, because hosts refuse to go back to older signatures;
- the order is signature, image, the two for ``latest``, key, record, page: a reader learns of a file only
  from what is written after it, and nobody meets an image whose signature is not there yet. A push that is
  killed before the page leaves the page, and all that it leads to, as it was, and is simply repeated;
- files that are no longer published are removed after the page has changed, and the record remembers them
  for the next push.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import time
from typing import IO, TYPE_CHECKING, NamedTuple

from gantry import audit
from gantry.appc.arch import check_labels
from gantry.errors import NotFoundError
from gantry.images.errors import explained
from gantry.images.intake import Wanted, judge, verifying
from gantry.images.push_index import (
    Files,
    Index,
    Published,
    PushError,
    Signer,
    checked_keep,
    checked_label,
    files_of,
    namesakes,
    read_index,
    refuse_strange_page,
)
from gantry.images.push_page import make_page
from gantry.images.push_places import ChangedError, Place, checked_base, place_of
from gantry.images.reading import file_chunks
from gantry.images.source import parse_source
from gantry.trust.child import examine
from gantry.trust.errors import KeyFileError, UnsignedError
from gantry.trust.keyfiles import TrustedKey
from gantry.trust.keystore import KeyRing, KeyStore
from gantry.trust.review import KeyInfo, inspect, key_info

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from gantry.config import Paths
    from gantry.http import HttpOptions
    from gantry.images.store import Store

_ROUNDS = 5


class GivenKeys(KeyStore):
    """Keys that a publisher hands over instead of those that are trusted on this host.

    Args:
        paths: For the settings.
        keys: Them.
    """

    def __init__(self, paths: Paths, keys: Iterable[KeyInfo]) -> None:
        super().__init__(paths)
        self._given = tuple(
            TrustedKey(
                key.fingerprint,
                None,
                "",
                key.armored,
                (key.fingerprint, *(each["fingerprint"] for each in key.subkeys)),
            )
            for key in keys
        )

    def keys_for(self, name: str) -> KeyRing:  # noqa: ARG002 - they are for whatever is signed with them
        """Every one of them."""
        return KeyRing(self._given, self._given, self.skew())

    def everything(self) -> tuple[TrustedKey, ...]:
        """Every one of them."""
        return self._given


class Pushed(NamedTuple):
    """What :func:`push` did.

    Attributes:
        name: The image's name.
        image: What is published now.
        latest: Whether those get it who ask for no version.
        page: The page's URL.
        written: Files that were written, in order.
        removed: Files that were removed.
        left: Files that should be gone and could not be removed; the next push tries again.
    """

    name: str
    image: Published
    latest: bool
    page: str
    written: list[str]
    removed: list[str]
    left: list[str]


class _Candidate(NamedTuple):
    """An image that may be published."""

    name: str
    image: Published
    data: IO[bytes]
    signature: bytes | None
    key: bytes | None
    unchanged: Callable[[], None]


def push(
    store: Store,
    keystore: KeyStore,
    what: str,
    destination: str,
    *,
    http: HttpOptions,
    unsigned: bool = False,
    signature_file: str | None = None,
    base: str = "",
    keep: int | None = None,
    latest: bool = True,
) -> Pushed:
    """Publish an image.

    Args:
        store: Where images are that are named or called by ID.
        keystore: The keys that may have signed it.
        what: A name with labels, an image ID, or a file.
        destination: The root of the tree that a web server serves as ``https://HOST/``; see
            :func:`gantry.images.push_places.place_of`.
        http: Options of the HTTP client.
        unsigned: Publish it without looking for a signature.
        signature_file: Of a file, instead of the one beside it.
        base: The URL that answers to the root of the tree, if it is not ``https://HOST``.
        keep: How many versions of each platform stay; ``None``: all. What ``latest`` means stays anyway.
        latest: Whether it may become what those get who ask for no version.

    Raises:
        PushError: It cannot be published as it is, or the place does not take it.
        TrustError: The signature is refused.
        ImageError: It is no valid image.
        HttpError: The server cannot be reached, or refuses.
    """
    checked_keep(keep)
    if base:
        checked_base(base, "URL of published files", public=True)
    with (
        place_of(destination, http) as place,
        _signed_by_us(),
        _candidate(store, keystore, what, unsigned=unsigned, signature_file=signature_file) as found,
        place.exclusively(),
    ):
        files = files_of(found.name)
        candidate = found._replace(image=found.image._replace(latest=latest))
        sent: set[str] = set()
        for _ in range(_ROUNDS):
            with contextlib.suppress(ChangedError):
                done = _publish(place, files, candidate, base.rstrip("/"), keep, sent)
                if done.written or done.removed:
                    _record(store, done, place.shown)
                return done
        raise PushError(
            f"{place.shown} does not show what was written to it, or somebody else writes there all the time",
            hint="does the server store what it takes? Let one push end before the next begins",
        )


def _record(store: Store, done: Pushed, place: str) -> None:
    """Put it on the record of this host, where this user may write that."""
    try:
        audit.record(
            store.paths.data,
            "image.push",
            image=f"{done.name}:{done.image.version}",
            image_id=done.image.id,
            destination=place,
            signer=done.image.key,
            latest=done.latest,
            removed=done.removed or None,
        )
    except audit.AuditError as error:
        if not isinstance(error.__cause__, PermissionError):
            raise


@contextlib.contextmanager
def _signed_by_us() -> Iterator[None]:
    """Say to a publisher what they can do about an unsigned image."""
    try:
        yield
    except UnsignedError as error:
        error.hint = 'sign it: gantry sign; or publish it unsigned: insecure option "image"'
        raise


@contextlib.contextmanager
def _candidate(
    store: Store,
    keystore: KeyStore,
    what: str,
    *,
    unsigned: bool,
    signature_file: str | None,
) -> Iterator[_Candidate]:
    source = parse_source(what)
    if source.url is not None:
        raise PushError("what is pushed is in the store or in a file", hint=f"gantry fetch {what}")
    if source.file is not None:
        path, asc = source.file, signature_file or f"{source.file}.asc"
    else:
        image = store.find(source.image_id or what)
        path, asc = image.path, image.signature_path or ""
    signature = None if unsigned else _read(asc)
    with explained(f"push {what}"):
        try:
            data = open(path, "rb", buffering=0)  # noqa: SIM115 - closed below
        except OSError as error:
            raise NotFoundError(f"cannot read the image {path}: {error.strerror}") from error
    with data:
        before = os.fstat(data.fileno())
        wanted = Wanted(what)
        digest = hashlib.sha512()

        def chunks() -> Iterator[bytes]:
            for chunk in file_chunks(data.fileno()):
                digest.update(chunk)
                yield chunk

        verify = None if unsigned else keystore
        with verifying(verify, signature, wanted) as verifier:
            judged = judge(chunks(), wanted, verifier, verify, store.limits)
        check_labels(judged.manifest.labels)
        version, system, machine = (
            checked_label(label, judged.manifest.labels.get(label)) for label in ("version", "os", "arch")
        )
        found = judged.verification
        key = None
        if found is not None:
            key = next(
                k.armored for k in keystore.keys_for(judged.manifest.name) if k.fingerprint == found.key
            )
        published = Published(
            version,
            system,
            machine,
            str(judged.image_id),
            judged.size,
            digest.hexdigest(),
            hashlib.sha256(signature).hexdigest() if signature is not None else None,
            found.signed_at if found is not None else None,
            found.key if found is not None else None,
            time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            latest=True,
        )

        def unchanged() -> None:
            """Refuse, before anything tells of it, what is no longer the file that was judged."""
            after = os.fstat(data.fileno())
            if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
                raise PushError(
                    f"{path} changed while it was pushed", hint="push it again when it is complete"
                )

        yield _Candidate(judged.manifest.name, published, data, signature, key, unchanged)


def _read(path: str) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise NotFoundError(f"cannot read the signature {path}: {error.strerror}") from error


def _publish(  # noqa: PLR0917 - what one round needs
    place: Place, files: Files, candidate: _Candidate, base: str, keep: int | None, sent: set[str]
) -> Pushed:
    old = read_index(place.read(files.record), candidate.name, f"{place.shown}/{files.record}")
    image, kept = _merge(old, candidate.image, keep)
    if image not in old.images:
        _refuse_namesake(place, candidate.name, image)
    signers, key = _signers(place, files, old, candidate)
    tokens = _tokens(old, kept)
    gone = _gone(candidate.name, files, old, kept, tokens)
    alive = {each.key for each in kept}
    new = Index(
        candidate.name, kept, tuple(s for s in signers if s.fingerprint in alive), tokens, tuple(gone)
    )
    newest = new.newest().get(image.platform) == image
    written: list[str] = []

    def put(path: str, data: bytes | IO[bytes]) -> None:
        if path in sent:  # in an earlier round
            return
        if isinstance(data, bytes):
            place.put(path, io.BytesIO(data))
        else:
            place.put(path, data)
            sent.add(path)
        written.append(path)

    if old == Index(candidate.name) and (strange := place.read(files.page)) is not None:
        refuse_strange_page(strange, f"{place.shown}/{files.page}")

    known = next((each for each in old.images if each.digest == image.digest), None)
    names = [(files.image(candidate.name, image), known is not None)]
    if newest:
        token = image.token
        names.append((files.image(candidate.name, image, token), token in old.tokens.get(image.platform, ())))
    for path, listed in names:
        same_signature = known is not None and known.signature == image.signature
        signature = candidate.signature
        if signature is not None and not (
            listed and same_signature and place.size(f"{path}.asc") in (len(signature), -1)
        ):
            put(f"{path}.asc", signature)
        if not (listed and place.size(path) in (image.size, -1)):
            put(path, candidate.data)
            candidate.unchanged()
    if key is not None:
        put(files.key(str(image.key)), key)
    page = make_page(new, files, base)
    if new != old:
        place.replace(files.record, new.encode())
        written.append(files.record)
    if place.read(files.page) != page:
        put(files.page, page)
    check = read_index(place.read(files.record), candidate.name, f"{place.shown}/{files.record}")
    if check != new:
        raise ChangedError  # another push wrote the record, or the page, meanwhile: once more, with both
    left = [path for path in gone if not place.remove(path)]
    if gone:
        place.replace(files.record, new._replace(gone=tuple(left)).encode())
    root = base or f"https://{candidate.name.partition('/')[0]}"
    removed = [path for path in gone if path not in left]
    return Pushed(candidate.name, image, newest, f"{root}/{files.directory}", written, removed, left)


def _refuse_namesake(place: Place, name: str, image: Published) -> None:
    """Refuse a file that another name has published already."""
    mine = files_of(name).image(name, image)
    for other in namesakes(name, image):
        theirs = files_of(other)
        for each in read_index(place.read(theirs.record), other, f"{place.shown}/{theirs.record}").images:
            if theirs.image(other, each) == mine:
                raise PushError(
                    f"{mine} is already {other}:{each.version}: both would be one file",
                    hint="give one of them another version",
                )


def _merge(old: Index, image: Published, keep: int | None) -> tuple[Published, tuple[Published, ...]]:
    """What is published with *image* among it: in the order of age, without what is pruned."""
    others = []
    for each in old.images:
        if (each.version, each.platform) != (image.version, image.platform):
            others.append(each)
        elif each.digest != image.digest:
            raise PushError(
                f"{old.name}:{image.version} for {image.os}/{image.arch} is published already, "
                f"with other bytes ({each.id[:19]}, here {image.id[:19]})",
                hint="a version never changes: give the image another one",
            )
        else:
            image = image._replace(pushed=each.pushed)
    kept = sorted((*others, image), key=lambda each: each.age)
    if keep is None:
        return image, tuple(kept)
    staying = set(Index(old.name, tuple(kept)).newest().values()) | {image}
    for platform in {each.platform for each in kept}:
        staying |= set([each for each in kept if each.platform == platform][-keep:])
    return image, tuple(each for each in kept if each in staying)


def _signers(
    place: Place, files: Files, old: Index, candidate: _Candidate
) -> tuple[tuple[Signer, ...], bytes | None]:
    """Who signs what is published, and the key to write: a published one is merged, nothing of it is lost."""
    if candidate.key is None:
        return old.signers, None
    path = files.key(str(candidate.image.key))
    there = place.read(path)
    copies = [candidate.key]
    if there is not None:
        try:
            (known,) = inspect(there)
        except (KeyFileError, ValueError):
            raise PushError(
                f"{place.shown}/{path} is not one public key", hint="remove it and push again"
            ) from None
        copies.insert(0, known.armored)
    (answer,) = examine([copies])
    merged = key_info(answer)
    signer = Signer(merged.fingerprint, merged.user_ids, merged.expires)
    others = tuple(each for each in old.signers if each.fingerprint != signer.fingerprint)
    return (*others, signer), None if there == merged.armored else merged.armored


def _tokens(old: Index, kept: tuple[Published, ...]) -> dict[str, tuple[str, ...]]:
    tokens: dict[str, tuple[str, ...]] = {}
    for platform, image in Index(old.name, kept).newest().items():
        before = [token for token in old.tokens.get(platform, ()) if token != image.token]
        tokens[platform] = (image.token, *before[:1])
    return tokens


def _gone(
    name: str, files: Files, old: Index, kept: tuple[Published, ...], tokens: dict[str, tuple[str, ...]]
) -> list[str]:
    """Files that are published no more: what the last push took out, and what this one does."""
    found = list(old.gone)
    found += [files.image(name, image) for image in old.images]
    for platform, before in old.tokens.items():
        stem = f"{files.stem(name)}-latest-{platform}"
        found += [f"{stem}-{token}.aci" for token in before if token not in tokens.get(platform, ())]
    alive = {files.image(name, image) for image in kept}
    alive |= {
        f"{files.stem(name)}-latest-{platform}-{token}.aci"
        for platform, several in tokens.items()
        for token in several
    }
    images = dict.fromkeys(path.removesuffix(".asc") for path in found)
    return [file for path in images if path not in alive for file in (path, f"{path}.asc")]
