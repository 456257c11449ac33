"""The grammar of the command line: flags declared once, parsed by table. Pure; prints nothing.

It is rkt's grammar (RKT-INVENTORY sections 1.1 and 3.2), which no parser of the standard library speaks:

- flags of a subcommand may stand before its name: ``gantry --net=host run IMAGE``;
- any unambiguous prefix of a verb is the verb; ``trust`` is a verb and a family at once;
- a bool flag takes a value only behind ``=``; ``--net`` and ``--wait`` may stand without one;
- in ``run``, ``prepare`` and ``fetch`` images and the flags that belong to them alternate; ``--`` opens the
  arguments of the image before it and ``---`` closes them;
- a flag that is known but not available is refused with its reason, never ignored.

The tables themselves are in :mod:`gantry.cli.commands`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from gantry.cli.values import Flag, RefusedError, Values, store
from gantry.errors import UsageError


class UnknownFlagError(UsageError):
    """No such flag; the command line shows the command's usage beside the error."""

    code = "unknown-flag"


class UnknownCommandError(UsageError):
    """No such command."""

    code = "unknown-command"


class Command(NamedTuple):
    """One verb.

    Attributes:
        words: ``("image", "list")`` for ``gantry image list``.
        summary: One line for the list of commands.
        usage: What follows the verb on the usage line.
        handler: ``module:function`` below ``gantry.cli``; imported only when the verb is called.
        flags: Flags of the command.
        app_flags: Flags that belong to the image before them. Not empty = the image grammar is spoken.
        arguments: Least and most number of plain arguments; most ``None`` = any number.
        description: For the help page.
        example: Lines for the help page, runnable as they stand.
        insecure: Checks that ``--insecure-options`` can switch off here.
        root: Needs an effective uid of 0; checked before anything else.
        stop_at_first: Flag parsing ends at the first word that is no flag.
        app_arguments: Whether ``--`` may open an argument list (``run``, ``prepare``; not ``fetch``).
        refuse: Why the whole command is not available.
        hidden: Left out of help and completion.
    """

    words: tuple[str, ...]
    summary: str
    usage: str = ""
    handler: str = ""
    flags: tuple[Flag, ...] = ()
    app_flags: tuple[Flag, ...] = ()
    arguments: tuple[int, int | None] = (0, 0)
    description: str = ""
    example: tuple[str, ...] = ()
    insecure: frozenset[str] = frozenset()
    root: bool = False
    stop_at_first: bool = False
    app_arguments: bool = False
    refuse: str = ""
    hidden: bool = False

    @property
    def path(self) -> str:
        """``image list``."""
        return " ".join(self.words)


class AppWords(NamedTuple):
    """One image of ``run``, ``prepare`` or ``fetch``, with what belongs to it."""

    image: str
    values: Values
    arguments: list[str]


class Invocation(NamedTuple):
    """A command line, understood.

    Attributes:
        command: The verb.
        values: Its own flags and the global ones.
        arguments: Plain arguments.
        apps: Images with their flags and arguments, for commands of the image grammar.
        before: Values of app flags that may stand before every image (``--mount``).
        notices: Lines for the user (deprecated flags, stray words).
        help: The user asked for help on this command.
    """

    command: Command
    values: Values
    arguments: list[str]
    apps: list[AppWords]
    before: Values
    notices: list[str]
    help: bool = False


class _Words:
    """The words of a command line, read from the left."""

    def __init__(self, words: Sequence[str]) -> None:
        self.words = list(words)
        self.at = 0

    def __bool__(self) -> bool:
        return self.at < len(self.words)

    def next(self) -> str:
        self.at += 1
        return self.words[self.at - 1]

    def rest(self) -> list[str]:
        """All words that are left."""
        rest, self.at = self.words[self.at :], len(self.words)
        return rest

    def until(self, end: str) -> list[str]:
        """The words before *end*, which is read too."""
        found: list[str] = []
        while self:
            word = self.next()
            if word == end:
                break
            found.append(word)
        return found

    def value_for(self, flag: Flag, attached: str | None) -> str:
        """The value of *flag*, whose word has just been read."""
        if attached is not None:
            return attached
        if flag.kind == "bool" and flag.bare is None:
            return "true"
        if flag.kind == "wait":
            return "true"
        if flag.bare is not None:
            return flag.bare
        if not self:
            raise UsageError(
                f"flag needs an argument: --{flag.name}", hint=f"--{flag.name}={flag.metavar or 'VALUE'}"
            )
        return self.next()


def _is_flag(word: str) -> bool:
    return word.startswith("-") and word not in {"-", "--", "---"}


def _split_flag(word: str) -> tuple[str, str | None]:
    name, equals, value = word.removeprefix("--").partition("=")
    return name, value if equals else None


class Grammar:
    """A set of commands with the flags that all of them share.

    Args:
        commands: All verbs, families first or last as they like.
        global_flags: Flags of every verb.
    """

    def __init__(self, commands: Sequence[Command], global_flags: Sequence[Flag]) -> None:
        self.commands = {c.words: c for c in commands}
        self.global_flags = tuple(global_flags)
        self._any = {f.name: f for c in commands for f in (*c.flags, *c.app_flags)}
        self._any.update({f.name: f for f in global_flags})

    def flags_of(self, command: Command) -> dict[str, Flag]:
        """The flags of *command* by name, the global ones included."""
        return {f.name: f for f in (*command.flags, *self.global_flags)}

    def families(self) -> set[str]:
        """First words below which there are further verbs."""
        return {words[0] for words in self.commands if len(words) > 1}

    def find(self, words: Sequence[str]) -> tuple[Command | None, list[int]]:
        """The command that *words* call, and at which places its own words stand.

        The command is ``None`` when there is no word that could be one, or a family was named without a verb;
        the places then tell how far it went.

        Raises:
            UnknownCommandError: There is no such command, or the prefix fits several.
        """
        places = self._command_places(words)
        first = next(places, None)
        if first is None:
            return None, []
        name = self._complete(words[first], [w[0] for w in self.commands], parent="gantry")
        single = self.commands.get((name,))
        if name not in self.families():
            return single, [first]
        second = next(places, None)
        verbs = [w[1] for w in self.commands if len(w) > 1 and w[0] == name]
        if second is None:
            return single, [first]
        if single is not None:  # a verb and a family at once: only exact words lead into the family
            return (
                (self.commands[name, words[second]], [first, second])
                if words[second] in verbs
                else (single, [first])
            )
        verb = self._complete(words[second], verbs, parent=f"gantry {name}")
        return self.commands[name, verb], [first, second]

    def _command_places(self, words: Sequence[str]) -> Iterator[int]:
        """The places of words that are neither flags nor values of flags."""
        reader = _Words(words)
        while reader:
            at = reader.at
            word = reader.next()
            if word in {"--", "---"}:
                return
            if not _is_flag(word):
                yield at
                continue
            name, attached = _split_flag(word)
            flag = self._any.get(name)
            if attached is None and flag is not None and flag.takes_word and reader:
                reader.next()

    def _complete(self, word: str, names: Sequence[str], *, parent: str) -> str:
        visible = sorted(set(names))
        if word in visible:
            return word
        fits = [n for n in visible if n.startswith(word)] if word else []
        if len(fits) == 1:
            return fits[0]
        if fits:
            raise UnknownCommandError(
                f'ambiguous command "{word}" for "{parent}": {", ".join(fits)}', hint="write more of it"
            )
        near = [n for n in visible if _distance_at_most_two(word, n)]
        hint = f"did you mean {' or '.join(near)}?" if near else f"run '{parent} --help' for usage"
        raise UnknownCommandError(f'unknown command "{word}" for "{parent}"', hint=hint)

    def parse(
        self, words: Sequence[str], *, before_arguments: Callable[[Command], None] | None = None
    ) -> Invocation | None:
        """Understand *words* (without the program's name).

        Args:
            words: The command line.
            before_arguments: Called with the command before its flags and arguments are looked at.

        Returns:
            The invocation, or ``None`` when no command was named.

        Raises:
            UsageError: The words do not follow the grammar.
        """
        command, places = self.find(words)
        if command is None:
            return None
        state = _Parsing(command, self.flags_of(command), [w for i, w in enumerate(words) if i not in places])
        if state.asks_for_help():
            return state.result([], help_wanted=True)
        if before_arguments is not None:
            before_arguments(command)
        if command.refuse:
            raise RefusedError(f"{command.path} is not available: {command.refuse}")
        return state.images() if command.app_flags else state.plain()


class _Parsing:
    """One command line on its way through."""

    def __init__(self, command: Command, flags: dict[str, Flag], words: Sequence[str]) -> None:
        self.command = command
        self.flags = flags
        self.app_flags = {f.name: f for f in command.app_flags}
        self.reader = _Words(words)
        self.values = Values(tuple(flags.values()))
        self.before = Values(command.app_flags)
        self.apps: list[AppWords] = []
        self.notices: list[str] = []

    def result(self, arguments: list[str], *, help_wanted: bool = False) -> Invocation:
        return Invocation(
            self.command, self.values, arguments, self.apps, self.before, self.notices, help_wanted
        )

    def asks_for_help(self) -> bool:
        """Whether ``-h`` or ``--help`` stands where a flag of our own may stand."""
        reader = _Words(self.reader.words)
        known = self.flags | self.app_flags
        while reader:
            word = reader.next()
            if word in {"-h", "--help"}:
                return True
            if word == "--":
                return False
            if _is_flag(word):
                name, attached = _split_flag(word)
                flag = known.get(name)
                if attached is None and flag is not None and flag.takes_word and reader:
                    reader.next()
            elif self.command.stop_at_first and not self.app_flags:
                return False
        return False

    def plain(self) -> Invocation:
        """Flags and arguments in any order (or flags first, for a command that stops at the first word)."""
        arguments: list[str] = []
        while self.reader:
            word = self.reader.next()
            if word == "--":
                arguments.extend(self.reader.rest())
            elif _is_flag(word):
                self.take(word)
            else:
                arguments.append(word)
                if self.command.stop_at_first:
                    arguments.extend(self.reader.rest())
        usage = f"{self.command.path} {self.command.usage}".rstrip()
        least, most = self.command.arguments
        if len(arguments) < least:
            raise UsageError("missing argument", hint=f"usage: gantry {usage}")
        if most is not None and len(arguments) > most:
            raise UsageError(f'unexpected argument "{arguments[most]}"', hint=f"usage: gantry {usage}")
        return self.result(arguments)

    def images(self) -> Invocation:
        """Images, each followed by its own flags and arguments; flags of the command in between."""
        closed: set[int] = set()
        while self.reader:
            word = self.reader.next()
            if word == "":
                continue
            if word == "---":
                self.notices.append("a stray --- was skipped: it ends the arguments that -- begins")
            elif word == "--":
                if not self.command.app_arguments:
                    raise UsageError(
                        "app arguments unsupported", hint=f"{self.command.path} takes images only"
                    )
                if not self.apps:
                    raise UsageError(
                        "an image is required before any app arguments", hint="IMAGE -- ARGUMENT…"
                    )
                if len(self.apps) in closed:
                    raise UsageError(
                        "only one set of app arguments allowed per image",
                        hint="end it with --- before the next image",
                    )
                closed.add(len(self.apps))
                self.apps[-1].arguments.extend(self.reader.until("---"))
            elif not _is_flag(word):
                self.apps.append(AppWords(word, Values(self.command.app_flags), []))
            elif _split_flag(word)[0] in self.app_flags:
                self.take_for_image(word)
            else:
                self.take(word)
        return self.result([])

    def take_for_image(self, word: str) -> None:
        name, attached = _split_flag(word)
        flag = self.app_flags[name]
        if not self.apps and name not in BEFORE_IMAGES:
            raise UsageError(f"--{name} must follow an image", hint=f"IMAGE --{name}")
        target = self.apps[-1].values if self.apps else self.before
        if name in ONCE_PER_IMAGE and name in target.given:
            raise UsageError(f"--{name} specified multiple times for the same image", hint="give it once")
        store(target, flag, self.reader.value_for(flag, attached))
        self._note_deprecation(flag)

    def take(self, word: str) -> None:
        name, attached = _split_flag(word)
        flag = self.flags.get(name) if word.startswith("--") else None
        if flag is None:
            prefix = "error parsing app image arguments: " if self.apps else ""
            raise UnknownFlagError(
                f"{prefix}unknown flag: {word.partition('=')[0]}",
                hint=f"run 'gantry {self.command.path} --help' for usage",
            )
        store(self.values, flag, self.reader.value_for(flag, attached))
        self._note_deprecation(flag)

    def _note_deprecation(self, flag: Flag) -> None:
        if flag.deprecated:
            self.notices.append(f"Flag --{flag.name} has been deprecated, {flag.deprecated}")


# The only app flag that may stand before every image: it then holds for all of them.
BEFORE_IMAGES = frozenset({"mount"})
ONCE_PER_IMAGE = frozenset({"exec", "signature", "name", "user", "group", "working-dir"})


def _distance_at_most_two(a: str, b: str) -> bool:
    """Whether two changed, added or missing letters at most turn *a* into *b*."""
    if abs(len(a) - len(b)) > 2:
        return False
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        previous, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (x != y))
    return row[-1] <= 2
