"""Fetch an image: from a name, a URL or a file, through every check, into the store.

Rules:

- policy ``new``: an image in the store that fits is taken and no socket is opened (case 6); ``never``: the
  store or an error; ``update``: the server is asked, a file it has not changed is not transferred again;
- files are read, verified and taken in anew under every policy;
- the signature is fetched before the image: a missing one, an unknown key are refused before the download;
- nothing that was not verified is taken, from the store neither, unless ``insecure`` has ``image``; then the
  signature is not asked for at all (SIG-10), and the record says so;
- one process downloads a URL, others wait for it and find the image;
- dependencies are fetched under the same policy; if one is refused, images that this call took in for it go
  again;
- a refusal leaves nothing in the store and one entry in the audit record. A broken transfer is no refusal:
  what has arrived stays in ``incoming/`` and is continued next time.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from gantry.appc.arch import host_labels
from gantry.appc.errors import AppcError
from gantry.errors import BusyError, GantryError, UsageError
from gantry.http import Client, HttpError, HttpOptions, StatusError, public_url
from gantry.images.dependencies import choose
from gantry.images.download import StoppedError
from gantry.images.errors import DependencyError, FetchError, ImageError, ImageNotFoundError, explained
from gantry.images.intake import ACCEPT_UNSIGNED, Wanted
from gantry.images.parallel import side_by_side
from gantry.images.present import is_older, refuse_older
from gantry.images.processes import Report, how_many, spread
from gantry.images.records import FetchResult
from gantry.images.source import parse_source, signature_url
from gantry.images.transfer import Taken, Transfers
from gantry.trust import TrustError, UnsignedError
from gantry.trust.child import many
from gantry.trust.errors import FreshnessError, KeyFileError, VerifierError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from gantry.appc.image_manifest import Dependency
    from gantry.appc.imageid import ImageID
    from gantry.appc.imageref import ImageRef
    from gantry.images.records import Image
    from gantry.images.store import Store
    from gantry.trust import KeyStore

_MANY = 3
#: What no other server can help with.
_OURS = (StoppedError, FreshnessError, KeyFileError, VerifierError)
POLICIES = ("new", "update", "never")
#: On errors: the name of the dependency that could not be had.
_DEPENDENCY = "dependency"
#: What tells dependencies apart: name, labels, ID, size.
_Asked: TypeAlias = "tuple[str, tuple[tuple[str, str], ...], ImageID | None, int | None]"


def fetch(
    store: Store,
    keystore: KeyStore,
    what: str,
    *,
    policy: str = "new",
    http: HttpOptions | None = None,
    insecure: Iterable[str] = (),
    signature_file: str | None = None,
    say: Callable[[str], None] | None = None,
    progress: Callable[[str, int, int | None], None] | None = None,
    by: str | None = None,
    no_cache: bool = False,
) -> FetchResult:
    """Have an image, and all that it depends on, in the store.

    Implements SIG-05 ... SIG-12, DSC-26 ... DSC-29, DEP-01 ... DEP-06, DEP-10.

    Args:
        store: The store.
        keystore: Which keys are trusted for which names.
        what: A name with labels, an https URL, a file, or an image ID in the store (RKT-INVENTORY 3.1).
        policy: ``new``, ``update`` or ``never``.
        http: Options of the HTTP client.
        insecure: Checks to leave out: ``image`` (signatures), ``tls``, ``http`` (allow plain HTTP),
            ``downgrade`` (take an older signature than the one that was accepted).
        signature_file: The signature of a file or URL, instead of the one beside it.
        say: Gets one-line messages as things happen; they are in ``notes`` too.
        progress: Gets what is being transferred, the bytes so far, and the whole length if it is known.
        by: Who asked, for the audit record.
        no_cache: Ask servers also when they have said for how long their last answer holds.

    Raises:
        TrustError: The signature is refused.
        ImageError: The image is refused, see the subclasses.
        ImageNotFoundError: The policy is ``never`` and the image is not in the store.
        HttpError: A server cannot be reached, or refuses.
        DiscoveryError: No server is known for the name.
        NoSpaceError: The disk is, or would be, full.
        UsageError: The argument or the policy makes no sense.
    """
    checks = frozenset(insecure)
    with _client(http or HttpOptions(), checks) as client:
        return _fetch(
            store,
            keystore,
            what,
            client,
            policy=policy,
            checks=checks,
            signature_file=signature_file,
            say=say,
            progress=progress,
            by=by,
            no_cache=no_cache,
        )


def _client(options: HttpOptions, checks: frozenset[str]) -> Client:
    return Client(
        replace(
            options,
            insecure_tls=options.insecure_tls or "tls" in checks,
            allow_http=options.allow_http or "http" in checks,
        )
    )


def _fetch(
    store: Store,
    keystore: KeyStore,
    what: str,
    client: Client,
    *,
    policy: str,
    checks: frozenset[str],
    signature_file: str | None,
    say: Callable[[str], None] | None,
    progress: Callable[[str, int, int | None], None] | None,
    by: str | None,
    no_cache: bool,
) -> FetchResult:
    if policy not in POLICIES:
        raise UsageError(f'"{policy}" is no pull policy', hint=f"one of {', '.join(POLICIES)}")
    fetcher = _Fetcher(
        store, keystore, policy, client, checks, say=say, progress=progress, by=by, no_cache=no_cache
    )
    with explained("fetch the image"):
        return fetcher.fetch(what, signature_file)


def fetch_all(
    store: Store,
    keystore: KeyStore,
    wanted: Sequence[tuple[str, str | None]],
    *,
    policy: str = "new",
    http: HttpOptions | None = None,
    insecure: Iterable[str] = (),
    say: Callable[[str], None] | None = None,
    progress: Callable[[str, int, int | None], None] | None = None,
    by: str | None = None,
    no_cache: bool = False,
) -> list[FetchResult | GantryError]:
    """Have several images, and all that they depend on, in the store; they are fetched side by side.

    One that is refused does not keep the others from coming.

    Args:
        store: The store.
        keystore: Which keys are trusted for which names.
        wanted: What :func:`fetch` takes as *what*, and its *signature_file*.
        policy: As for :func:`fetch`, like the rest.
        http: See there.
        insecure: See there.
        say: See there; called by several threads.
        progress: Likewise.
        by: See there.
        no_cache: See there.

    Returns:
        In the order of *wanted*, what :func:`fetch` returned or raised.
    """
    checks = frozenset(insecure)
    options = http or HttpOptions()
    # What judges each takes longer to start than a small image to come.
    judges = many() if len(wanted) >= _MANY else contextlib.nullcontext()
    with _client(options, checks) as client, judges:

        def task(what: str, signature: str | None, report: Report) -> FetchResult:
            return _fetch(
                store,
                keystore,
                what,
                client,
                policy=policy,
                checks=checks,
                signature_file=signature,
                say=report.say,
                progress=report.moved,
                by=by,
                no_cache=no_cache,
            )

        tasks = [partial(task, *each) for each in wanted]
        report = Report(say, progress)
        # A bound on the rate counts for all of the command, so within one process.
        processes = how_many(len(tasks)) if options.throttle is None else 1
        if processes > 1:
            import gantry.http.transport  # noqa: F401, PLC0415 - loaded once, for all of them

            outcomes = spread(tasks, processes, report)
        else:
            outcomes = side_by_side([partial(each, report) for each in tasks])
        # What one depends on may be another of them, which came too late for it.
        came = {each.image.name for each in outcomes if isinstance(each, FetchResult)}
        late = [
            number
            for number, each in enumerate(outcomes)
            if isinstance(each, GantryError) and getattr(each, _DEPENDENCY, None) in came
        ]
        again = side_by_side([partial(tasks[number], report) for number in late]) if late else []
        for number, outcome in zip(late, again, strict=True):
            outcomes[number] = outcome
    results: list[FetchResult | GantryError] = []
    for outcome in outcomes:
        if isinstance(outcome, BaseException) and not isinstance(outcome, GantryError):
            raise outcome
        results.append(outcome)
    return results


class _Fetcher(Transfers):
    """One call of :func:`fetch`."""

    # -- the whole ----------------------------------------------------------------------------------

    def fetch(self, what: str, signature_file: str | None) -> FetchResult:
        source = parse_source(what)
        asked = public_url(what) if source.url is not None else what  # no password goes on record
        if signature_file is not None and source.url is None and source.file is None:
            raise UsageError("a signature file belongs to a file or a URL", hint=f'"{asked}" is neither')
        if source.image_id is not None:
            top = Taken(self._acceptable(self._store.find(source.image_id)), fetched=False)
        elif source.ref is not None:
            top = self._by_name(Wanted(asked, source.ref, latest=source.ref.label("version") is None))
        elif source.url is not None:
            top = self._by_url(source.url, Wanted(asked), signature_file)
        else:
            top = self._from_file(os.path.abspath(str(source.file)), Wanted(asked), signature_file)
        try:
            below = self._dependencies(top.image)
        except GantryError as error:
            if _is_refusal(error):
                self._take_back()
            elif self._new:
                stays = f"{top.image} stays in the store, without all that it depends on"
                error.hint = f"{error.hint}; {stays}" if error.hint else stays
            raise
        for image in (top.image, *below):
            self._store.touch(image.id)
        return FetchResult(top.image, top.fetched, below, self._notes)

    def _take_back(self) -> None:
        for image in reversed(self._new):
            with contextlib.suppress(ImageNotFoundError, BusyError):
                self._store.remove(image.id, by=self._by, reason="a dependency was refused")

    # -- the store ----------------------------------------------------------------------------------

    def _acceptable(self, image: Image) -> Image:
        if self._accept([image]):
            return image
        raise UnsignedError(
            f"{image} ({image.id.short()}) is in the store without its signature having been verified",
            hint=f"fetch it again with the pull policy update, {ACCEPT_UNSIGNED}",
        )

    def _local(self, ref: ImageRef) -> list[Image]:
        found = self._store.find_all(ref)
        accepted = self._accept(found)
        if found and not accepted and self._policy == "never":
            self._acceptable(found[0])
        if not self._verify or "downgrade" in self._insecure:
            return accepted
        current = [image for image in accepted if not is_older(self._store, image, ref)]
        if accepted and not current and self._policy == "never":
            refuse_older(self._store, accepted[0], ref)
        return current

    # -- names --------------------------------------------------------------------------------------

    def _by_name(self, wanted: Wanted) -> Taken:
        ref = wanted.ref
        assert ref is not None
        if self._policy != "update":
            found = self._local(ref)
            if found:
                return Taken(found[0], fetched=False)
            if self._policy == "never":
                raise ImageNotFoundError(
                    f'no image "{ref}" in the store', hint="the pull policy is never; use new or update"
                )
        return self._discovered(wanted, ref)

    def _discovered(self, wanted: Wanted, ref: ImageRef) -> Taken:
        from gantry.discovery import discover_images  # noqa: PLC0415 - parses HTML; only when asked

        endpoints = discover_images(self._client, ref, host_labels(os.uname().machine))
        failures: list[GantryError] = []
        for endpoint in endpoints:
            try:
                return self._download(endpoint.aci_url, endpoint.asc_url, wanted)
            except (HttpError, TrustError, ImageError, AppcError) as error:
                if isinstance(error, _OURS):
                    raise
                # What a mirror serves says nothing of the next one, which is judged like any.
                failures.append(error)
                if len(endpoints) > 1:
                    self._say(f"{error.message}; trying the next server")
        raise _of_all(failures, str(ref))

    # -- URLs ---------------------------------------------------------------------------------------

    def _by_url(self, url: str, wanted: Wanted, signature_file: str | None) -> Taken:
        known = self._store.find_url(url)
        if self._policy != "update" and known is not None and self._accept([known[0]]):
            return Taken(known[0], fetched=False)
        if self._policy == "never":
            raise ImageNotFoundError(
                f"no image from {public_url(url)} in the store",
                hint="the pull policy is never; use new or update",
            )
        return self._download(url, signature_url(url), wanted, signature_file)

    # -- dependencies -------------------------------------------------------------------------------

    def _dependencies(self, top: Image) -> list[Image]:
        """All that an image depends on, each once, in the order in which they are needed.

        Level by level; the images of one level are fetched side by side.
        """
        found: dict[_Asked, Image] = {}
        level, known = [top], {top.id}
        for _ in range(self._store.limits.nesting - 1):
            needed = [each for image in level for each in self._store.manifest(image.id).dependencies]
            wanted = {_asked(each): each for each in needed if _asked(each) not in found}
            if not wanted:
                break
            images = self._all([partial(self._dependency, each) for each in wanted.values()])
            found |= zip(wanted, images, strict=True)
            level = list({image.id: image for image in images if image.id not in known}.values())
            known |= {image.id for image in level}
        done: dict[str, Image] = {}
        self._in_order(top, (), found, done)
        return list(done.values())

    def _all(self, tasks: list[Callable[[], Image]]) -> list[Image]:
        """What *tasks* return; one that fails ends the others."""
        results = side_by_side(tasks, failed=self._stop)
        self._stopped = False
        errors = [each for each in results if isinstance(each, BaseException)]
        for error in errors:
            if not isinstance(error, StoppedError):
                raise error
        return [each for each in results if not isinstance(each, BaseException)]

    def _in_order(
        self,
        image: Image,
        above: tuple[Image, ...],
        found: Mapping[_Asked, Image],
        done: dict[str, Image],
    ) -> None:
        chain = (*above, image)
        for dependency in self._store.manifest(image.id).dependencies:
            below = found.get(_asked(dependency))
            if below is None or len(chain) >= self._store.limits.nesting:
                raise DependencyError(
                    f"the dependencies of {chain[0]} are nested deeper than {self._store.limits.nesting} "
                    "(bound: nesting)"
                )
            if any(below.id == upper.id for upper in chain):
                names = " -> ".join(str(each) for each in (*chain, below))
                error = DependencyError(
                    f"the dependencies form a cycle: {names}", hint="its publisher has to fix that"
                )
                self._record_refusal(str(chain[0]), chain[0].source_url, error)
                raise error
            if below.id not in done:
                self._in_order(below, chain, found, done)
                done[below.id] = below

    def _dependency(self, dependency: Dependency) -> Image:
        ref = dependency.ref
        found = self._local(ref)
        pinned = dependency.image_id
        # A pinned ID that is here cannot be newer elsewhere.
        if found and (self._policy != "update" or (pinned and any(i.id.startswith(pinned) for i in found))):
            with contextlib.suppress(DependencyError):
                return choose(dependency, found)
        if self._policy == "never":
            return choose(dependency, found)
        wanted = Wanted(str(ref), ref, pinned, dependency.size, latest="version" not in dependency.labels)
        try:
            return self._discovered(wanted, ref).image
        except GantryError as error:
            error.__dict__.setdefault(_DEPENDENCY, dependency.image_name)
            if found and not _is_refusal(error):
                error.hint = f"{found[0]} is in the store and would do with the pull policy new"
            raise


def _asked(dependency: Dependency) -> _Asked:
    labels = tuple(sorted(dependency.labels.items()))
    return dependency.image_name, labels, dependency.image_id, dependency.size


def _of_all(failures: list[GantryError], ref: str) -> GantryError:
    """What to tell of several places that gave nothing: what was refused, before what was not there."""
    if len(failures) == 1:
        return failures[0]
    refused = next((error for error in failures if _is_refusal(error)), None)
    if refused is not None:
        return refused
    told = "; ".join(error.message for error in failures)
    missing = all(isinstance(error, StatusError) and error.status in (404, 410) for error in failures)
    hint = "is there an image of this name with these labels?" if missing else ""
    return FetchError(f'cannot fetch "{ref}" from any of {len(failures)} places: {told}', hint=hint)


def _is_refusal(error: GantryError) -> bool:
    """Whether something is wrong with an image, and not with the way to it."""
    refusal = isinstance(error, (ImageError, TrustError, AppcError))
    return refusal and not isinstance(error, (FetchError, VerifierError))
