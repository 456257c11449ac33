"""``build`` and ``sign``."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from gantry.build import build_archive, build_directory, build_image
from gantry.build.signed import sign_image
from gantry.cli.context import Context
from gantry.errors import NotFoundError, UsageError
from gantry.trust.signing import describe_signature, sign_detached, sign_with_gpg

if TYPE_CHECKING:
    from gantry.build import Built


def build(context: Context) -> int:
    """Make an image from a directory or a tar; prints its ID."""
    source, target = context.arguments
    values = context.values
    manifest = values.text("manifest")
    compression, overwrite = values.text("compression"), values.flag("overwrite")
    owner_root = values.flag("owner-root")
    built: Built
    is_directory = source != "-" and os.path.isdir(source)
    if manifest:
        built = (build_image if is_directory else build_archive)(
            source,
            _read(manifest),
            target,
            compression=compression,
            owner_root=owner_root,
            overwrite=overwrite,
            limits=context.limits(),
        )
    elif source == "-" or (os.path.exists(source) and not is_directory):
        raise UsageError("a tar has no manifest", hint="name one with --manifest=FILE")
    else:
        built = build_directory(
            source, target, compression=compression, owner_root=owner_root, overwrite=overwrite
        )
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
    key, agent = values.text("key"), values.text("gpg-key")
    if bool(key) == bool(agent):
        raise UsageError(
            "two keys to sign with" if key else "no key to sign with",
            hint="give --key=FILE, an armored secret key, or --gpg-key=FPR, one that GnuPG holds",
        )
    secret = b"" if agent else _read(key)
    target, signature = sign_image(
        path,
        lambda file: sign_with_gpg(file, agent) if agent else sign_detached(file, secret),
        output=values.text("output"),
        overwrite=values.flag("overwrite"),
        force=values.flag("force"),
        limits=context.limits(),
    )
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
        raise NotFoundError(
            f"cannot read {path}: {e.strerror}", hint="give a file that exists and may be read"
        ) from e
