"""``fetch`` and ``image …``."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from gantry.cli.context import Context
from gantry.cli.flags import PULL_POLICIES
from gantry.cli.output import FAILURE, indented, long_time, short_id, short_size, short_time
from gantry.cli.progress import Progress, progress_of
from gantry.cli.values import Values
from gantry.errors import GantryError, NotFoundError, UsageError
from gantry.images.store import Image, Store

if TYPE_CHECKING:
    from gantry.images import FetchResult


class Listed(NamedTuple):
    """An image with what the store has made of it.

    Attributes:
        image: The image.
        trees: Bytes of the trees that were rendered from it; ``None``: not for this user to see.
        pins: What pins it.
        kept: Why gc would not remove it; empty when it would, or when nobody asked.
    """

    image: Image
    trees: int | None
    pins: list[str]
    kept: str

    @property
    def size(self) -> int:
        """Bytes in all."""
        return self.image.size + (self.trees or 0)


_FIELDS = {
    "id": "ID",
    "name": "NAME",
    "size": "SIZE",
    "importtime": "IMPORT TIME",
    "lastused": "LAST USED",
    "kept": "KEPT",
}
_COSTLY = "kept"  # reads manifests, and no table of the older tool has it
_SORT_KEYS: dict[str, Callable[[Listed], Any]] = {
    "name": lambda listed: str(listed.image),
    "importtime": lambda listed: listed.image.imported,
    "lastused": lambda listed: listed.image.last_used,
    "size": lambda listed: listed.size,
}


def pull_policy(values: Values) -> str:
    """When to ask the network.

    Raises:
        UsageError: The flags contradict each other or name no policy.
    """
    if values.flag("store-only") and values.flag("no-store"):
        raise UsageError("both --store-only and --no-store specified", hint="give --pull-policy instead")
    if values.flag("store-only"):
        return "never"
    if values.flag("no-store"):
        return "update"
    policy = values.text("pull-policy")
    if policy not in PULL_POLICIES:
        raise UsageError(f'invalid pull policy "{policy}"', hint=f"one of {', '.join(PULL_POLICIES)}")
    return policy


def obtain(context: Context, called: str, *, policy: str, signature: str = "") -> Image:
    """An image by whatever the user calls it, fetched if the policy says so. Raises GantryError."""
    return obtain_all(context, [(called, signature or None)], policy=policy)[0]


def obtain_all(context: Context, wanted: Sequence[tuple[str, str | None]], *, policy: str) -> list[Image]:
    """Several images with their signature files, as :func:`obtain`; what is missing comes side by side."""
    images = []
    for result in _fetched(context, wanted, policy):
        if isinstance(result, GantryError):
            raise result
        images.append(result.image)
    return images


def _fetched(
    context: Context, wanted: Sequence[tuple[str, str | None]], policy: str
) -> list[FetchResult | GantryError]:
    """Fetch images side by side; tells who signed what came in."""
    from gantry.images.present import present  # noqa: PLC0415 - lists and removals need not know how

    output, store = context.output, context.fetching_store()
    results: list[FetchResult | GantryError | None] = [
        None
        if policy == "update" or signature
        else present(
            store, called, unsigned="image" in context.insecure, back="downgrade" in context.insecure
        )
        for called, signature in wanted
    ]
    with progress_of(context) as progress:
        missing = [number for number, result in enumerate(results) if result is None]
        if missing:
            came = _side_by_side(context, store, [wanted[number] for number in missing], policy, progress)
            for number, result in zip(missing, came, strict=True):
                results[number] = result
        told = [result for result in results if result is not None]
        for (called, _), result in zip(wanted, told, strict=True):
            if isinstance(result, GantryError):
                progress.event("failed", image=called, error=result.as_dict())
            else:
                shown = {"id": str(result.image.id), "name": str(result.image), "fetched": result.fetched}
                progress.event("ready", image=called, **shown, verification=result.image.verification)
    if os.geteuid() != 0:
        from gantry.cli.members import tell_handed_over  # noqa: PLC0415 - root hands nothing over

        tell_handed_over(context, store)
    for (called, _), result in zip(wanted, told, strict=True):
        if isinstance(result, GantryError):
            continue
        verification = result.image.verification
        if not result.fetched:
            output.debug(f"using image from local store for {called}")
        elif verification and "image" not in context.insecure:
            users = ", ".join(verification.get("user_ids") or [])
            output.notice(f"signature verified: {users or verification.get('key')}")
    return told


def _side_by_side(
    context: Context, store: Store, wanted: Sequence[tuple[str, str | None]], policy: str, progress: Progress
) -> list[FetchResult | GantryError]:
    from gantry.images import fetch_all  # noqa: PLC0415 - what is there needs none of it

    return fetch_all(
        store,
        context.keys(),
        wanted,
        policy=policy,
        http=context.http_options(),
        insecure=context.insecure,
        say=progress.say,
        progress=progress.moved,
        no_cache=context.values.flag("no-cache"),
    )


def fetch(context: Context) -> int:
    """Fetch images, several at once; one ID a line, in the order in which they were asked for."""
    apps = context.invocation.apps
    if not apps:
        raise UsageError("must provide at least one image", hint="such as example.com/app:1.0")
    context.warn_insecure()
    wanted = [(app.image, app.values.text("signature") or None) for app in apps]
    results = _fetched(context, wanted, pull_policy(context.values))
    output = context.output
    errors = [result for result in results if isinstance(result, GantryError)]
    if len(results) == 1 and errors:
        raise errors[0]
    for error in errors:
        output.failed(error)
    if output.form:
        output.json(
            [
                {"image": called, "error": each.as_dict()}
                if isinstance(each, GantryError)
                else _as_dict(each.image)
                for (called, _), each in zip(wanted, results, strict=True)
            ]
        )
        return FAILURE if errors else 0
    digits = 64 if context.values.flag("full") else 32
    for each in results:
        if not isinstance(each, GantryError):
            output.line(str(each.image.id)[: len("sha512-") + digits])
    return FAILURE if errors else 0


def list_images(context: Context) -> int:
    """List the images in the store."""
    values = context.values
    fields = values.items_of("fields") or [field for field in _FIELDS if field != _COSTLY]
    if unknown := [f for f in fields if f not in _FIELDS]:
        raise UsageError(f'unknown field "{unknown[0]}"', hint=f"one of {', '.join(_FIELDS)}")
    if values.text("order") not in {"asc", "desc"}:
        raise UsageError(f'invalid order "{values.text("order")}"', hint="asc or desc")
    images = _listed(context.store(), why=_COSTLY in fields)
    for name in reversed(values.items_of("sort") or ["importtime"]):
        if name not in _SORT_KEYS:
            raise UsageError(f'cannot sort by "{name}"', hint=f"one of {', '.join(_SORT_KEYS)}")
        images.sort(key=_SORT_KEYS[name], reverse=values.text("order") == "desc")
    if context.output.form:
        shown = [{**_as_dict(i.image), "size": i.size, "tree_size": i.trees, "pins": i.pins} for i in images]
        context.output.json(shown)
        return 0
    full = values.flag("full")
    rows = [[_cell(i, field, full=full) for field in fields] for i in images]
    context.output.table([_FIELDS[f] for f in fields], rows, legend=not values.flag("no-legend"))
    return 0


def _listed(store: Store, *, why: bool) -> list[Listed]:
    images, kept = store.list(), {}
    if why:
        from gantry.images.keeping import protected  # noqa: PLC0415 - reads manifests

        kept = protected(store)
    hidden = os.path.isdir(store.path("tree")) and not os.access(store.path("tree"), os.R_OK)
    trees = {} if hidden else store.tree_sizes()
    pins: dict[str, list[str]] = {}
    for pin in store.pins():
        for image_id in pin.images:
            pins.setdefault(image_id, []).append(pin.reason)
    return [
        Listed(
            image, None if hidden else trees.get(image.id, 0), pins.get(image.id, []), kept.get(image.id, "")
        )
        for image in images
    ]


def _cell(listed: Listed, field: str, *, full: bool) -> str:
    image, moment = listed.image, long_time if full else short_time
    if field == "id":
        return str(image.id) if full else short_id(str(image.id))
    if field == "size":
        return str(listed.size) if full else short_size(listed.size)
    if field == "kept":
        return listed.kept or "-"
    if field == "importtime":
        return moment(image.imported)
    return moment(image.last_used) if field == "lastused" else str(image)


def _as_dict(image: Image) -> dict[str, Any]:
    return {
        "id": str(image.id),
        "name": str(image),
        "import_time": int(image.imported * 1e9),
        "last_used_time": int(image.last_used * 1e9),
        "size": image.size,
        "labels": image.labels,
        "latest": image.latest,
        "source_url": image.source_url,
        "verification": image.verification,
    }


def cat_manifest(context: Context) -> int:
    """Show the manifest of an image, in the store or in a file."""
    from gantry.images.source import parse_source  # noqa: PLC0415 - as in obtain

    called = context.arguments[0]
    if (path := parse_source(called).file) is not None:
        from gantry.build.patching import read_manifest  # noqa: PLC0415 - 40 ms that lists should not pay

        raw = read_manifest(path, context.limits())
    else:
        store = context.store()
        raw = store.manifest_bytes(store.find(called).id)
    if context.values.flag("pretty-print"):
        context.output.line(indented(raw))
    else:
        context.output.line(raw.decode("utf-8", "replace"))
    return 0


def export(context: Context) -> int:
    """Write an image to a file: the uncompressed tar, as it was distributed, or with its dependencies."""
    from gantry.images.exporting import export as export_image  # noqa: PLC0415 - as in obtain

    called, target = context.arguments
    values, store = context.values, context.store()
    compressed, overwrite = values.flag("compressed"), values.flag("overwrite")
    if values.flag("rendered"):
        if compressed:
            raise UsageError(
                "--rendered and --compressed exclude each other", hint="--rendered compresses anyway"
            )
        from gantry.build.export import export_rendered  # noqa: PLC0415 - as above

        built = export_rendered(store, called, target, overwrite=overwrite)
        if context.output.form:
            context.output.json(
                {"id": str(built.image_id), "name": built.name, "file": target, "signature": None}
            )
        else:
            context.output.line(str(built.image_id))
        return 0
    image = store.find(called)
    export_image(store, image.id, target, overwrite=overwrite, compressed=compressed)
    if context.output.form:
        signature = f"{target}.asc" if compressed and image.signature_path else None
        context.output.json({"id": str(image.id), "name": str(image), "file": target, "signature": signature})
    return 0


def render(context: Context) -> int:
    """Unpack an image with its dependencies."""
    return _unpack(context, alone=False)


def extract(context: Context) -> int:
    """Unpack an image as it is, without its dependencies."""
    return _unpack(context, alone=True)


def _unpack(context: Context, *, alone: bool) -> int:
    from gantry.images.rendering import render_directory  # noqa: PLC0415 - as in obtain

    image, target = context.arguments
    values = context.values
    laid = render_directory(
        context.store(),
        image,
        target,
        rootfs_only=values.flag("rootfs-only"),
        overwrite=values.flag("overwrite"),
        alone=alone,
    )
    if context.output.form:
        shown = {"image": image, "directory": target, "lost": laid.downgrades, "notes": laid.notes}
        context.output.json(shown)
        return 0
    for what, which in laid.downgrades.items():
        told = ", ".join(which[:5]) + (", …" if len(which) > 5 else "") if isinstance(which, list) else which
        context.output.notice(f"could not be kept: {what} ({told})")
    for note in laid.notes:
        context.output.notice(f"warning: {note}")
    return 0


def remove(context: Context) -> int:
    """Remove images from the store."""
    store, output = context.store(), context.output
    results: list[dict[str, Any]] = []
    failed = False
    for called in context.arguments:
        try:
            image = store.remove(called)
        except GantryError as e:
            failed = True
            if isinstance(e, NotFoundError):
                e.hint = "'gantry image list' shows them"
            output.failed(e)
            results.append({"image": called, "error": e.as_dict()})
            continue
        results.append({"image": called, "id": str(image.id), "name": str(image)})
        if output.form:
            continue
        output.line(f'successfully removed aci for image: "{image.id}"')
        if users := _users(store, image):
            output.notice(f"its files stay for the pods that run from them: {', '.join(users)}")
    if output.form:
        output.json(results)
    elif removed := sum("id" in r for r in results):
        output.notice(f"{removed} image(s) successfully removed")
    return FAILURE if failed else 0


def _users(store: Store, image: Image) -> list[str]:
    """UUIDs of the pods that use a tree of an image."""
    trees = [tree for tree, made in store.trees().items() if made["image"] == image.id]
    return sorted({user for tree in trees for user in store.refs(tree)})


def verify(context: Context) -> int:
    """Check images and the trees that were rendered from them; make those anew that differ."""
    from gantry.images.checking import verify as verify_image  # noqa: PLC0415 - as in obtain

    store, output = context.store(), context.output
    called = context.arguments or [str(image.id) for image in store.list()]
    results: list[dict[str, Any]] = []
    failed = False
    for each in called:
        try:
            image = store.find(each)
            verdicts = verify_image(store, image, repair=not context.values.flag("check"))
        except GantryError as e:
            failed = True
            e.message = f"{each}: {e.message}"
            output.failed(e)
            results.append({"image": each, "error": e.as_dict()})
            continue
        failed = failed or any(v.differences and not v.repaired for v in verdicts)
        trees = [verdict._asdict() for verdict in verdicts]
        results.append({"image": each, "id": str(image.id), "name": str(image), "trees": trees})
        if output.form:
            continue
        if not verdicts:
            output.line(f'image "{each}" not rendered; no verification needed')
        for verdict in verdicts:
            if not verdict.differences:
                shown = each if context.arguments else image
                output.line(f'successfully verified checksum for image: "{shown}" ("{image.id}")')
                continue
            more = "rebuilt" if verdict.repaired else "not rebuilt"
            output.notice(f"tree cache verification failed for image {each}: {more}")
            for difference in verdict.differences:
                output.notice(f"{each}: {difference}")
    if not context.arguments:
        for tree, record in store.trees().items():
            if store.get(record["image"]) is None:
                failed = True
                told = f"{tree} cannot be verified: its image {record['image']} was removed"
                results.append({"image": record["image"], "trees": [], "error": {"message": told}})
                output.notice(f"{told} (pods: {', '.join(store.refs(tree)) or 'none'})")
    if output.form:
        output.json(results)
    return FAILURE if failed else 0


def usage(context: Context) -> int:
    """Show where the disk space of the store is."""
    from gantry.images.usage import usage as disk_usage  # noqa: PLC0415 - as in obtain

    found = disk_usage(context.store())
    output = context.output
    if output.form:
        output.json({**found._asdict(), "parts": [part._asdict() for part in found.parts]})
        return 0
    size = str if context.values.flag("full") else short_size
    rows = [[part.kind, size(part.size), part.path, part.about] for part in found.parts]
    if not context.values.flag("full"):
        for row in rows:
            row[2] = shortened(row[2])
    output.table(["KIND", "SIZE", "PATH", "WHAT"], rows, legend=not context.values.flag("no-legend"))
    output.line(f"{size(found.total)} in all; {size(found.free)} are free on this file system")
    return 0


def shortened(path: str) -> str:
    """A path in the store with its long hash cut, as IDs are in tables."""
    return re.sub(r"(sha512-|tree-)([0-9a-f]{12})[0-9a-f]+", r"\1\2", path)
