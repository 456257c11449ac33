"""``build`` and ``sign``."""

from __future__ import annotations

import os

from gantry.build import build_directory, build_image
from gantry.cli.context import Context
from gantry.errors import NotFoundError, UsageError
from gantry.linux.fs import atomic_write
from gantry.trust.signing import describe_signature, sign_detached


def build(context: Context) -> int:
    """Make an image from a directory; prints its ID."""
    source, target = context.arguments
    values = context.values
    manifest = values.text("manifest")
    options = {"compression": values.text("compression"), "overwrite": values.flag("overwrite")}
    if manifest:
        built = build_image(source, _read(manifest), target, **options)  # type: ignore[arg-type]
    else:
        built = build_directory(source, target, **options)  # type: ignore[arg-type]
    for skipped in built.skipped:
        context.output.notice(f"left out: {skipped}")
    if context.output.form:
        context.output.json(
            {"id": str(built.image_id), "file": built.path, "name": built.name, "size": built.size}
        )
    else:
        context.output.line(str(built.image_id))
    return 0


def sign(context: Context) -> int:
    """Sign an image file; the signature lies beside it."""
    path, values = context.arguments[0], context.values
    if not values.text("key"):
        raise UsageError("no key to sign with", hint="give --key=FILE, an armored secret key")
    target = values.text("output") or f"{path}.asc"
    if os.path.lexists(target) and not values.flag("overwrite"):
        raise UsageError(f"signature file exists (try --overwrite): {target}")
    signature = sign_detached(path, _read(values.text("key")))
    atomic_write(target, signature.encode(), 0o644)
    told = describe_signature(signature)
    if context.output.form:
        context.output.json({"file": path, "signature": target, **told})
    else:
        context.output.line(f"{target}: signed by {told['issuer']}")
    return 0


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as f:
            return f.read()
    except OSError as e:
        raise NotFoundError(f"cannot read {path}: {e.strerror}") from e
