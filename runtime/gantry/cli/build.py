"""``build`` and ``sign``."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from gantry.build import build_archive, build_directory, build_image
from gantry.build.signed import sign_image
from gantry.cli.context import Context
from gantry.errors import UsageError
from gantry.images.targets import refuse_own
from gantry.linux.fs import read_named
from gantry.trust.signing import describe_signature, sign_detached, sign_with_gpg

if TYPE_CHECKING:
    from gantry.build import Built

_BUILD_FILE = ".toml"
_OF_PULLING = frozenset(
    {"pull-policy", "store-only", "no-store", "allow-downgrade", "no-cache", "limit-rate", "progress"}
)


def build(context: Context) -> int:
    """Make an image from a directory, a tar or a build file; prints its ID."""
    source = context.arguments[0]
    values = context.values
    if source.endswith(_BUILD_FILE) and not os.path.isdir(source):
        return _from_build_file(context)
    if useless := _about_bases(context) | (values.given & {"check"}):
        raise UsageError(f"--{min(useless)} is for build files", hint=f"{source} is none; leave it out")
    if len(context.arguments) != 2:
        raise UsageError("no output is named", hint="gantry build DIR|TAR FILE.aci")
    target = context.arguments[1]
    refuse_own(context.paths.data, os.path.realpath(target))
    manifest = values.text("manifest")
    compression, overwrite = values.text("compression"), values.flag("overwrite")
    owner_root = values.flag("owner-root")
    built: Built
    is_directory = source != "-" and os.path.isdir(source)
    if manifest:
        built = (build_image if is_directory else build_archive)(
            source,
            read_named(manifest),
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
            source,
            target,
            compression=compression,
            owner_root=owner_root,
            overwrite=overwrite,
            limits=context.limits(),
        )
    return _tell(context, built, {})


def export(context: Context) -> int:
    """Make an image of the root of an exited pod's app; prints its ID."""
    from gantry.build.export import export_app  # noqa: PLC0415 - builds need not know of pods

    pod, target = context.arguments
    values = context.values
    built = export_app(
        context.paths,
        pod,
        target,
        app=values.text("app") or None,
        overwrite=values.flag("overwrite"),
        limits=context.limits(),
    )
    return _tell(context, built, {})


def _tell(context: Context, built: Built, more: dict[str, Any]) -> int:
    for skipped in built.skipped:
        context.output.notice(f"left out: {skipped}")
    for warning in built.warnings:
        context.output.notice(f"warning: {warning}")
    if context.output.form:
        found = {"id": str(built.image_id), "file": built.path, "name": built.name, "size": built.size}
        found["warnings"] = built.warnings
        context.output.json(found | more)
    else:
        context.output.line(str(built.image_id))
    return 0


def _from_build_file(context: Context) -> int:
    from gantry.build.recipe_build import build_file, read  # noqa: PLC0415 - brings half of the pods room
    from gantry.cli.images import obtain, pull_policy  # noqa: PLC0415

    path, *targets = context.arguments
    values = context.values
    for name, instead in (
        ("manifest", f"it is the table [manifest] in {path}"),
        ("owner-root", "what steps bring belongs to 0:0 unless they say otherwise"),
    ):
        if name in values.given:
            raise UsageError(f"--{name} is not for build files", hint=instead)
    if values.flag("check") == bool(targets):
        raise UsageError(
            f"--check writes no image, but {targets[0]} is named" if targets else "no output is named",
            hint="leave one of them out" if targets else f"gantry build {path} FILE.aci",
        )
    recipe = read(path)
    if recipe.base is None and (useless := _about_bases(context)):
        raise UsageError(f"--{min(useless)} changes nothing: {path} has no base", hint="leave it out")
    if values.flag("check"):
        if context.output.form:
            context.output.json({"file": path, "base": recipe.base, "steps": [str(s) for s in recipe.steps]})
        else:
            context.output.line(f"{path}: valid")
        return 0
    refuse_own(context.paths.data, os.path.realpath(targets[0]))
    policy = pull_policy(values)
    context.warn_insecure()
    result = build_file(
        path,
        targets[0],
        store=context.store(),
        obtain=lambda called: obtain(context, called, policy=policy),
        say=context.output.notice,
        compression=values.text("compression"),
        overwrite=values.flag("overwrite"),
        limits=context.limits(),
    )
    base = result.base
    more = {
        "base": str(base.id) if base else None,
        "flattened": result.flattened,
        "steps": [{"step": done.step, "seconds": round(done.seconds, 3)} for done in result.steps],
    }
    return _tell(context, result.built, more)


def _about_bases(context: Context) -> set[str]:
    """The flags that were given and say how to have the base of a build file."""
    return (context.values.given & _OF_PULLING) | ({"insecure-options"} if context.insecure else set())


def sign(context: Context) -> int:
    """Sign an image file; the signature lies beside it."""
    path, values = context.arguments[0], context.values
    key, agent = values.text("key"), values.text("gpg-key")
    if bool(key) == bool(agent):
        raise UsageError(
            "two keys to sign with" if key else "no key to sign with",
            hint="give --key=FILE, an armored secret key, or --gpg-key=FPR, one that GnuPG holds",
        )
    refuse_own(context.paths.data, os.path.realpath(values.text("output") or f"{path}.asc"))
    secret = b"" if agent else read_named(key)
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
