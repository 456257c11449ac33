"""From words to an exit status: parse, call one handler, print one line when it fails."""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence

from gantry.cli.commands import GRAMMAR
from gantry.cli.context import Context
from gantry.cli.grammar import Command, Invocation, UnknownCommandError, UnknownFlagError
from gantry.cli.output import FAILURE, Output, check_format
from gantry.errors import GantryError, HostError, UsageError
from gantry.linux.programs import open_standard_streams

MISSING_COMMAND = 2


class RootError(HostError):
    """The command needs root."""

    code = "root"


def run(words: Sequence[str]) -> int:
    """Run one command line; the exit status.

    254 is Gantry's own failure, 2 a missing command; everything else is what an app or the command returned.
    """
    open_standard_streams()
    output = Output("gantry")
    try:
        return _run(words, output)
    except GantryError as e:
        output.error(e)
        return FAILURE
    except BrokenPipeError:
        # The reader has seen enough. Python must not complain when it closes standard output.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILURE
    except OSError as e:
        if e.errno is None:
            raise
        where = f"{e.filename}: " if e.filename else ""
        error = HostError(f"{where}{e.strerror}")
        error.__cause__ = e
        output.error(error)
        return FAILURE
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
        return FAILURE


def _run(words: Sequence[str], output: Output) -> int:
    _early(words, output)
    try:
        invocation = GRAMMAR.parse(words, before_arguments=lambda c: _before_arguments(c, output))
    except UnknownFlagError as e:
        # The page helps more than the line alone, unless a program reads our standard output.
        command, _ = GRAMMAR.find(words)
        if command is not None and not output.form and not e.message.startswith("error parsing"):
            output.name = "Error"
            raise UnknownFlagError(e.message, hint=e.hint or f"gantry help {command.path} shows them") from e
        raise
    except UnknownCommandError:
        output.name = "Error"
        raise
    if invocation is None:
        return _without_command(words, output)
    if invocation.help:
        from gantry.cli.help import command_page  # noqa: PLC0415 - only who asks for it reads it

        output.raw(command_page(invocation.command))
        return 0
    _name(output, invocation)
    for notice in invocation.notices:
        output.notice(notice)
    handler, context = _handler(invocation.command), Context(invocation, output)
    with _interruptible():
        return handler(context)


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Let ctrl-C be an exception, so that what was begun is undone; else it ends the process at once."""
    ours = signal.getsignal(signal.SIGINT) == signal.SIG_DFL
    if ours:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    if ours:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def _early(words: Sequence[str], output: Output) -> None:
    """Let errors of the command line itself already be told in the form that was asked for."""
    for word in words:
        if word in {"--", "---"}:
            break
        if word in {"--format=json", "--format=json-pretty"}:
            output.form = word.removeprefix("--format=")


def _before_arguments(command: Command, output: Output) -> None:
    # rkt names the last word only; ours says the same verb in several families (rm, list, status).
    output.name = command.path
    if command.root and os.geteuid() != 0:
        raise RootError("cannot run as unprivileged user", hint="become root")


def _name(output: Output, invocation: Invocation) -> None:
    output.debugging = invocation.values.flag("debug")
    if "format" in invocation.values:
        output.form = ""
        output.form = check_format(invocation.values.text("format"))


def _without_command(words: Sequence[str], output: Output) -> int:
    from gantry.cli.help import family_page, root_page  # noqa: PLC0415 - see _run

    names = [w for w in words if not w.startswith("-")]
    if names:  # a family was named, and none of its verbs
        family = next(f for f in sorted(GRAMMAR.families()) if f.startswith(names[0]))
        if {"-h", "--help"} & set(words):
            output.raw(family_page(family))
            return 0
        output.name = family
        raise UsageError("missing command", hint=f"run 'gantry {family} --help' for usage")
    if {"-h", "--help"} & set(words):
        output.raw(root_page())
        return 0
    unknown = next((w for w in words if w.startswith("-") and not _known_flag(w)), None)
    if unknown is not None:
        output.name = "Error"
        raise UnknownFlagError(
            f"unknown flag: {unknown.partition('=')[0]}", hint="run 'gantry --help' for usage"
        )
    output.raw(root_page())
    output.notice("missing command")
    return MISSING_COMMAND


def _known_flag(word: str) -> bool:
    name = word.removeprefix("--").partition("=")[0]
    return any(f.name == name for f in GRAMMAR.global_flags)


def _handler(command: Command) -> Callable[[Context], int]:
    module, _, function = command.handler.partition(":")
    found: Callable[[Context], int] = getattr(importlib.import_module(f"gantry.cli.{module}"), function)
    return found
