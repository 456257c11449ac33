"""``push``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gantry.cli.context import Context
from gantry.errors import NotFoundError

if TYPE_CHECKING:
    from gantry.trust import KeyStore


def push(context: Context) -> int:
    """Publish an image."""
    from gantry.images.push import push as publish  # noqa: PLC0415 - nothing else needs it

    values, output = context.values, context.output
    context.warn_insecure()
    what, destination = context.arguments
    done = publish(
        context.store(),
        _keys(context),
        what,
        destination,
        http=context.http_options(),
        unsigned="image" in context.insecure,
        base=values.text("url"),
        keep=values.number("keep"),
        latest=not values.flag("not-latest"),
    )
    if output.form:
        output.json({**done._asdict(), "image": done.image._asdict(), "changed": bool(done.written)})
        return 0
    for path in done.written:
        output.line(f"wrote {path}")
    for path in done.removed:
        output.line(f"removed {path}")
    for path in done.left:
        output.notice(f"warning: {path} could not be removed; the next push tries again")
    image = done.image
    which = ", the latest" if done.latest else ""
    output.line(f"{done.name}:{image.version} for {image.os}/{image.arch}{which}: {done.page}")
    return 0


def _keys(context: Context) -> KeyStore:
    """The keys that may have signed the image: those given, or else those trusted here."""
    file = context.values.text("public-key")
    if not file:
        return context.keys()
    from gantry.images.push import GivenKeys  # noqa: PLC0415 - see push
    from gantry.trust.keystore import inspect  # noqa: PLC0415 - likewise
    from gantry.trust.packets import MAX_KEY_FILE  # noqa: PLC0415 - likewise

    try:
        with open(file, "rb") as opened:
            return GivenKeys(context.paths, inspect(opened.read(MAX_KEY_FILE + 1)))
    except OSError as error:
        raise NotFoundError(
            f"cannot read the key file {file}: {error.strerror}", hint="give an armored public key"
        ) from error
