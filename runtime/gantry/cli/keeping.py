"""``image gc|pin|unpin``: what stays in the store, and what goes."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from gantry.cli.context import Context
from gantry.cli.output import FAILURE, short_size
from gantry.errors import HostError, NotFoundError, UsageError
from gantry.images.keeping import pinned
from gantry.images.pins import BUNDLE, USER, Pin
from gantry.images.records import USED_RECENTLY
from gantry.linux.fs import free_bytes

if TYPE_CHECKING:
    from gantry.appc.imageid import ImageID
    from gantry.images.store import Store


def collect(context: Context) -> int:
    """Remove images and rendered trees that nothing uses; say what stays, and why."""
    values, output = context.values, context.output
    dry_run = values.flag("dry-run")
    store, free = context.store(), values.number("free") or 0
    result = store.gc(grace_period=values.seconds("grace-period"), free=free, dry_run=dry_run)
    there = free_bytes(store.root) if os.path.isdir(store.root) else free
    missing = max(0, free - there - (result.freed if dry_run else 0))
    if output.form:
        output.json({**result._asdict(), "dry_run": dry_run, "missing": missing})
        return FAILURE if missing else 0
    removed = "would remove" if dry_run else "removed"
    for tree in result.trees:
        output.line(f'{removed} treestore "{tree}"')
    for image in result.images:
        output.line(f'{removed} image "{image}"')
    for what in result.debris:
        output.line(f'{removed} leftover "{what}"')
    recent = [what for what, reason in result.kept.items() if reason == USED_RECENTLY]
    for what, reason in result.kept.items():
        if reason != USED_RECENTLY:
            output.line(f'kept image "{what}": {reason}')
    output.line(
        f"{'would free' if dry_run else 'freed'} {short_size(result.freed)}: {len(result.trees)} trees, "
        f"{len(result.images)} images, {len(result.debris)} leftovers; "
        f"{len(result.kept)} images kept, {len(recent)} of them only because they were used since"
    )
    if missing:
        output.failed(
            HostError(
                f"{short_size(missing)} are missing to {short_size(free)} of free space",
                hint="gantry image usage shows what needs space, the lines above why it stays",
            )
        )
        return FAILURE
    return 0


def pin(context: Context) -> int:
    """Keep images until they are unpinned."""
    store, bundle = context.store(), context.values.text("bundle")
    images = [store.find(called) for called in context.arguments]
    if bundle:
        store.pin(BUNDLE, bundle, [image.id for image in images])
    else:
        for image in images:
            store.pin(USER, image.id, [image.id])
    if context.output.form:
        shown = [{"id": str(i.id), "name": str(i), "bundle": bundle or None} for i in images]
        context.output.json(shown)
        return 0
    for image in images:
        context.output.line(f'pinned image "{image.id}"')
    return 0


def _tell_others(context: Context, store: Store, images: list[ImageID]) -> None:
    """Why images that nobody pinned by hand stay all the same."""
    kept = pinned(store)
    for image in images:
        why = kept.get(image)
        if isinstance(why, Pin):
            context.output.notice(f"{image.short()} stays: {why.reason} ({why.remedy})")
        elif why is not None:
            context.output.notice(f"{image.short()} stays: {why}")


def unpin(context: Context) -> int:
    """Keep images no longer than they are used; one that is not pinned is fine."""
    store, bundle = context.store(), context.values.text("bundle")
    if bool(bundle) == bool(context.arguments):
        raise UsageError(
            "unpin takes either images or --bundle", hint="such as gantry image unpin example.com/app:1.0"
        )
    pins = store.pins()
    if bundle:
        found = [p for p in pins if (p.kind, p.name) == (BUNDLE, bundle)]
        if not found:
            raise NotFoundError(f'no bundle "{bundle}" is pinned', hint="see gantry image gc --dry-run")
    else:
        wanted = [store.find(called).id for called in context.arguments]
        found = [p for p in pins if p.kind == USER and not set(wanted).isdisjoint(p.images)]
    for each in found:
        store.unpin(each.kind, each.name)
    gone = sorted({image for each in found for image in each.images})
    if not bundle and not context.output.form:
        _tell_others(context, store, [image for image in wanted if image not in gone])
    if context.output.form:
        context.output.json([{"id": image, "bundle": bundle or None} for image in gone])
        return 0
    for image in gone:
        context.output.line(f'unpinned image "{image}"')
    return 0
