"""``image patch-manifest``: flags become changes of a manifest. The older tool's flags, and what it lacks."""

from __future__ import annotations

import os
from typing import cast

from gantry.appc import document
from gantry.appc.errors import ManifestError
from gantry.appc.parts import MountPoint, Port
from gantry.appc.patch import (
    REMOVE_CAPABILITIES,
    REMOVE_SECCOMP,
    RETAIN_CAPABILITIES,
    RETAIN_SECCOMP,
    ManifestPatch,
    patch_image_manifest,
)
from gantry.build.patching import patch_archive
from gantry.cli.context import Context
from gantry.cli.values import MAX_ID_DIGITS, Values
from gantry.errors import UsageError
from gantry.images.targets import refuse_own
from gantry.linux.fs import read_named

_NOT_CHANGES = frozenset({"manifest", "replace", "overwrite", "compression", "no-compression", "format"})


def patch_manifest(context: Context) -> int:
    """Copy an image with some of its manifest changed; prints the new ID."""
    source, *rest = context.arguments
    values = context.values
    in_place = values.flag("replace")
    if bool(rest) == in_place:
        raise UsageError(
            "both --replace and an output file" if rest else "no output file",
            hint="give --replace to change the image itself, or the name of another file",
        )
    named = rest[0] if rest else source
    target = named if rest else os.path.realpath(source)  # a link to the image stays one
    compression = values.text("compression") or None
    if values.flag("no-compression"):
        if compression:
            raise UsageError("both --compression and --no-compression", hint="give one of them")
        compression = "none"
    replacement = values.text("manifest")
    # Both ways to say it wrong are found before the image is read.
    changed = sorted(values.given - _NOT_CHANGES - _global_flags(context))
    if replacement and changed:
        raise UsageError(
            f"--manifest replaces the whole manifest, so --{changed[0]} has nothing to change",
            hint="give one or the other",
        )
    if not replacement and not changed:
        raise UsageError("nothing to change", hint="'gantry image patch-manifest --help' lists what can be")
    refuse_own(context.paths.data, os.path.realpath(target))
    whole = read_named(replacement) if replacement else b""
    patch = read_patch(values)
    built = patch_archive(
        source,
        target,
        lambda old: whole if replacement else patch_image_manifest(old, patch),
        compression=compression,
        overwrite=in_place or values.flag("overwrite"),
        limits=context.limits(),
    )
    if os.path.exists(f"{named}.asc"):
        context.output.notice(f"{named}.asc does not fit any more: sign the image again")
    if context.output.form:
        context.output.json(
            {"id": str(built.image_id), "file": built.path, "name": built.name, "size": built.size}
        )
    else:
        context.output.line(str(built.image_id))
    return 0


def _global_flags(context: Context) -> set[str]:
    own = {flag.name for flag in context.invocation.command.flags}
    return {name for name in context.values.given if name not in own}


def read_patch(values: Values) -> ManifestPatch:
    """The changes that the flags ask for.

    Raises:
        UsageError: A flag's value does not say one.
        AppcError: A mount point or a port is malformed.
    """

    def text(name: str) -> str | None:
        return values.text(name) if name in values.given else None

    def parts(name: str) -> list[str] | None:
        return [part for part in values.text(name).split(":") if part] if name in values.given else None

    mounts, ports = parts("mounts"), parts("ports")
    isolators, only = _isolators(values)
    return ManifestPatch(
        name=text("name"),
        labels=_pairs(values, "label", "remove-label"),
        annotations=_pairs(values, "annotation", "remove-annotation"),
        exec=_words(values) if "exec" in values.given else None,
        user=text("user"),
        group=text("group"),
        supplementary_gids=_gids(values) if "supplementary-groups" in values.given else None,
        working_directory=text("working-dir"),
        environment=_pairs(values, "env", "remove-env"),
        mount_points=None if mounts is None else [MountPoint.from_text(each) for each in mounts],
        ports=None if ports is None else [Port.from_text(each) for each in ports],
        isolators=isolators or None,
        only_isolators=only,
    )


def _pairs(values: Values, what: str, removal: str) -> dict[str, str | None] | None:
    """``--WHAT=NAME=VALUE`` and ``--remove-WHAT=NAME``."""
    changes: dict[str, str | None] = dict.fromkeys(values.items_of(removal))
    for item in values.items_of(what):
        name, equals, value = item.partition("=")
        if not equals:
            raise UsageError(f"--{what}={item} has no value", hint=f"--{what}=NAME=VALUE")
        if name in changes:
            raise UsageError(f"--{what} names {name} twice, or --{removal} does, too", hint="say it once")
        changes[name] = value
    return changes or None


def _words(values: Values) -> list[str]:
    text = values.text("exec")
    if not text.startswith("["):
        return text.split()
    words = _json("exec", text)
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise UsageError("--exec is a list, but not of strings", hint='--exec=\'["/bin/app", "two words"]\'')
    return cast("list[str]", words)


def _gids(values: Values) -> list[int]:
    items = values.items_of("supplementary-groups")
    for item in items:
        if not (item.isascii() and item.isdigit() and len(item) <= MAX_ID_DIGITS):
            raise UsageError(f'--supplementary-groups: "{item}" is no number', hint="such as 10,20")
    return [int(item) for item in items]


def _isolators(values: Values) -> tuple[dict[str, object], bool]:
    """The isolators to set and to remove, and whether all others go."""
    changes: dict[str, object] = dict.fromkeys(values.items_of("remove-isolator"))
    for part in values.text("isolators").split(":"):
        if part:
            name, value = _fields("isolators", part)
            changes[name] = {key: _flag_or_text(word) for key, word in value.items()}
    for item in values.items_of("isolator"):
        name, equals, value_text = item.partition("=")
        if not equals:
            raise UsageError(f"--isolator={item} has no value", hint="--isolator=NAME=JSON")
        changes[name] = _json("isolator", value_text)
    for flag, name in (("capability", RETAIN_CAPABILITIES), ("revoke-capability", REMOVE_CAPABILITIES)):
        if flag in values.given:
            changes[name] = {"set": values.items_of(flag)}
    if {"capability", "revoke-capability"} <= values.given:
        raise UsageError("both --capability and --revoke-capability", hint="an app has one of the two sets")
    if ("seccomp-mode" in values.given) != ("seccomp-set" in values.given):
        raise UsageError("--seccomp-mode and --seccomp-set go together", hint="give both")
    if "seccomp-mode" in values.given:
        mode, more = _fields("seccomp-mode", values.text("seccomp-mode"))
        names = {"retain": RETAIN_SECCOMP, "remove": REMOVE_SECCOMP}
        if mode not in names or set(more) - {"errno"}:
            raise UsageError(
                f'--seccomp-mode: "{values.text("seccomp-mode")}" is no mode',
                hint="retain or remove, and perhaps ,errno=EPERM",
            )
        changes[names[mode]] = {"set": values.items_of("seccomp-set"), **more}
    return changes, "isolators" in values.given


def _fields(flag: str, text: str) -> tuple[str, dict[str, str]]:
    """``NAME,KEY=VALUE,…``."""
    name, *fields = text.split(",")
    pairs = [field.partition("=") for field in fields]
    if not name or not all(key and equals for key, equals, _ in pairs):
        raise UsageError(f'--{flag}: "{text}" is malformed', hint="NAME,KEY=VALUE,…")
    return name, {key: value for key, _, value in pairs}


def _flag_or_text(word: str) -> object:
    return {"true": True, "false": False}.get(word, word)


def _json(flag: str, text: str) -> object:
    try:
        return document.load_value(os.fsencode(text))[0]
    except ManifestError as error:
        raise UsageError(f"--{flag}: {error.message}", hint="quote it for the shell") from None
