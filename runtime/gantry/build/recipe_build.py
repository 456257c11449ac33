"""Make an image from a build file: base, steps, image.

Order: everything that can be refused without doing anything (the file, the manifest, the sources, the output,
what the host lacks); then the base is obtained and rendered; then the steps, in a directory of the build's
own; then the image is packed. If anything fails, or a signal ends it, nothing is left.
"""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from gantry.appc.arch import fits_host, host_labels
from gantry.appc.uuid import new_uuid
from gantry.build.builder import Built, build_image, check_output, chosen_epoch
from gantry.build.packing import BuildError
from gantry.build.recipe import BuildFileError, Copy, Recipe, Remove, Run, parse
from gantry.build.steps import Context, Root
from gantry.build.steps_layer import Layer, Workplace, workplace
from gantry.build.steps_run import Runner, find_host, forget
from gantry.errors import GantryError, UsageError
from gantry.images.errors import NoSpaceError, explained
from gantry.images.limits import DEFAULT_LIMITS, Limits
from gantry.images.rendering import render
from gantry.images.source import parse_source
from gantry.linux.fs import make_directory, read_named

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from gantry.build.recipe import Step
    from gantry.images.records import Image
    from gantry.images.store import Store

_NAMED = 5
_PREFIX = "gantry-build-"


class Done(NamedTuple):
    """A step that was done.

    Attributes:
        step: What it did, in a few words.
        seconds: How long it took.
    """

    step: str
    seconds: float


class BuiltFromFile(NamedTuple):
    """An image made from a build file.

    Attributes:
        built: The image.
        base: The image that it lies upon, or that became part of it; ``None`` for none.
        flattened: Whether the base became part of it.
        steps: What was done, in order.
    """

    built: Built
    base: Image | None
    flattened: bool
    steps: list[Done]


def read(path: str) -> Recipe:
    """Read a build file and look for the sources that it names; nothing is done.

    Raises:
        NotFoundError: There is no such file.
        BuildFileError: It is malformed.
        BuildError: A source is missing.
    """
    try:
        recipe = parse(read_named(path))
    except BuildFileError as error:
        raise BuildFileError(f"{path}: {error.message}", hint=error.hint) from error
    with contextlib.closing(Context(_directory_of(path), "")) as context:
        for number, step in enumerate(recipe.steps, 1):
            if isinstance(step, Copy):
                with _in_step(number, step):
                    context.status(step.source)
    return recipe


def build_file(
    path: str,
    output: str,
    *,
    store: Store,
    obtain: Callable[[str], Image],
    say: Callable[[str], None],
    compression: str = "gzip",
    overwrite: bool = False,
    limits: Limits = DEFAULT_LIMITS,
) -> BuiltFromFile:
    """Make an image as a build file says (docs/build-files.md).

    The same build file, context, base and ``SOURCE_DATE_EPOCH`` give the same image, as far as the commands
    that are run do the same. If there is a base or a command, the calling process is left in a mount
    namespace of its own; it may have no other child processes.

    Args:
        path: The build file; what it copies lies in its directory.
        output: The image file; ends in ``.aci``.
        store: Has the base.
        obtain: Has the base in the store, by what the build file calls it: fetched and verified if need be.
        say: Told about each step before it is done, in one line.
        compression: As for :func:`gantry.build.build_image`.
        overwrite: Replace the output if it exists.
        limits: The bounds on the image.

    Raises:
        BuildFileError: The build file is malformed.
        BuildError: A step failed.
        UsageError: The output cannot be, or a base or a command is there and this user is not root.
        GantryError: The base is refused.
    """
    recipe = read(path)
    if recipe.base is not None and (parse_source(recipe.base).file or parse_source(recipe.base).url):
        raise BuildFileError(
            f'{path}: "base" is "{recipe.base}", which is a file here, or a URL',
            hint="a base is a name with labels or an image ID: gantry fetch the file first",
        )
    check_output(output, compression, overwrite=overwrite)
    overlay = recipe.base is not None or recipe.runs
    if overlay and os.geteuid() != 0:
        what = "run commands" if recipe.runs else "keep the owners of a base"
        raise UsageError(f"{path}: only root can {what}", hint="become root")
    directory = os.path.dirname(os.path.abspath(output))
    if not os.path.isdir(directory):
        raise UsageError(f"there is no directory {directory} for the output", hint="create it")
    with _stoppable(), explained("build the image"), contextlib.ExitStack() as stack:
        host = find_host() if recipe.runs else None
        base = None if recipe.base is None else obtain(recipe.base)
        manifest = recipe.image_manifest(_dependency(base) if base and not recipe.flatten else None)
        if base and recipe.runs:
            _refuse_foreign(base)
        context = stack.enter_context(contextlib.closing(Context(_directory_of(path), output)))
        place = stack.enter_context(_place(store, overlay=overlay))
        tree = None if base is None else _rendered(store, base, place, stack)
        layer = Layer(place.path, tree, overlay=overlay)
        stack.callback(layer.release)
        epoch = _epoch(recipe, layer)
        runner = None
        if host is not None:
            native = base is not None and base.labels.get("arch") == host_labels(os.uname().machine)["arch"]
            runner = Runner(host, place, layer.root, store.paths.run, epoch, native=native)
        with contextlib.closing(Root(layer.root)) as root:
            done = [
                _perform(number, step, recipe, layer, root, context, runner, say)
                for number, step in enumerate(recipe.steps, 1)
            ]
        _refuse_missing(layer, flatten=recipe.flatten)
        built = build_image(
            layer.finish(epoch, flatten=recipe.flatten),
            manifest,
            output,
            compression=compression,
            # Root gives files the owners they get; others cannot, and need not if all of it is root's.
            owner_root=not overlay and not root.foreign,
            overwrite=overwrite,
            epoch=epoch,
            limits=limits,
            upon_base=True,
        )
    return BuiltFromFile(built, base, recipe.flatten, done)


def _directory_of(path: str) -> str:
    return os.path.dirname(os.path.abspath(path))


# -- before the steps -------------------------------------------------------------------------------


def _dependency(base: Image) -> dict[str, Any]:
    """The base as an entry of ``dependencies``: exactly this image, whatever gets its name later."""
    entry: dict[str, Any] = {"imageName": base.name, "imageID": str(base.id)}
    if base.labels:
        entry["labels"] = [{"name": name, "value": value} for name, value in base.labels.items()]
    return entry


def _refuse_foreign(base: Image) -> None:
    own = host_labels(os.uname().machine)
    if not fits_host(base.labels, own):
        raise BuildError(
            f"the base {base} is for {base.labels.get('os')}/{base.labels.get('arch')}, this host is "
            f"{own['os']}/{own['arch']}: its programs cannot run here",
            hint="build on a host of that kind, or without run",
        )


def _place(store: Store, *, overlay: bool) -> AbstractContextManager[Workplace]:
    """Where the build works: beside the store if something is mounted, else among temporary files."""
    uuid = new_uuid()
    if not overlay:
        return workplace(tempfile.gettempdir(), uuid, prefix=_PREFIX)
    store.ensure()
    parent = f"{store.paths.data}/build"
    make_directory(parent, 0o700)

    def clean(uuid: str) -> None:
        forget(store.paths.run, uuid)
        for tree in store.trees():
            store.drop_ref(tree, uuid)

    return workplace(parent, uuid, forget=clean)


def _rendered(store: Store, base: Image, place: Workplace, stack: contextlib.ExitStack) -> str:
    """The base's root file system, which stays until the build has ended."""
    tree = render(store, str(base.id), ref=place.uuid)
    stack.callback(store.drop_ref, tree.id, place.uuid)
    if tree.downgrades:
        raise BuildError(
            f"the base {base} cannot be laid down as it is: {', '.join(tree.downgrades)} were lost",
            hint="build where the data directory keeps them",
        )
    return tree.rootfs


def _epoch(recipe: Recipe, layer: Layer) -> int:
    """The time of what steps make: from the environment, the build file, the base, or 1970."""
    stated = chosen_epoch(None)
    if stated is None:
        stated = recipe.time
    return layer.newest() if stated is None else stated


# -- the steps --------------------------------------------------------------------------------------


def _perform(  # noqa: PLR0917 - all that a step may need
    number: int,
    step: Step,
    recipe: Recipe,
    layer: Layer,
    root: Root,
    context: Context,
    runner: Runner | None,
    say: Callable[[str], None],
) -> Done:
    say(f"step {number}/{len(recipe.steps)}: {step}")
    began = time.monotonic()
    with _in_step(number, step):
        if isinstance(step, Run):
            assert runner is not None
            runner.perform(step)
        else:
            if isinstance(step, Remove) and not recipe.flatten:
                _refuse_base(step, layer)
            root.perform(step, context)
    return Done(str(step), time.monotonic() - began)


@contextlib.contextmanager
def _in_step(number: int, step: Step) -> Iterator[None]:
    """Say of what is refused which step it was."""
    try:
        with explained(str(step)):
            yield
    except NoSpaceError:
        raise
    except GantryError as error:
        raise BuildError(f"step {number} ({step}): {error.message}", hint=error.hint) from error


def _refuse_base(step: Remove, layer: Layer) -> None:
    for path in step.paths:
        if layer.in_base(path):
            raise _kept([path])


def _refuse_missing(layer: Layer, *, flatten: bool) -> None:
    if not flatten and (gone := layer.missing()):
        raise _kept(gone)


def _kept(paths: list[str]) -> BuildError:
    """The error for what TRAP-10 says: an image cannot take anything away from those below it."""
    more = f" and {len(paths) - _NAMED} more" if len(paths) > _NAMED else ""
    return BuildError(
        f"{', '.join(paths[:_NAMED])}{more}: removed, but the base has it, and an image cannot take "
        "away what those below it have",
        hint="leave it there, or set flatten = true, which makes the base part of the image",
    )


@contextlib.contextmanager
def _stoppable() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the block as an interrupt does, so that everything is cleaned up."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, _frame: object) -> None:
        for each in numbers:
            signal.signal(each, signal.SIG_IGN)  # cleaning up is not cut short
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)}
    numbers = [number for number, handler in before.items() if handler != signal.SIG_IGN]  # nohup(1) stays
    for number in numbers:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, before[number])
