"""Help pages and completion scripts, from the tables."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

from gantry import __version__
from gantry.cli.commands import COMMANDS, GRAMMAR
from gantry.cli.grammar import Command
from gantry.cli.output import table
from gantry.cli.values import Flag, format_duration

_WIDTH = 100


def root_page() -> str:
    """What ``gantry help`` shows."""
    shown = sorted((c for c in COMMANDS if not c.hidden and not c.refuse), key=lambda c: c.words)
    return _page(
        [
            ("NAME", "gantry - fetch, verify and run App Containers"),
            ("USAGE", "gantry COMMAND [flags] [arguments]"),
            ("VERSION", __version__),
            ("COMMANDS", table([[c.path, c.summary] for c in shown])),
            ("DESCRIPTION", "Every command tells its own flags: gantry help COMMAND."),
            ("OPTIONS", _flags(GRAMMAR.global_flags)),
        ]
    )


def command_page(command: Command) -> str:
    """What ``gantry help COMMAND`` shows."""
    below = [c for c in COMMANDS if c.words[:-1] == command.words and not c.hidden and not c.refuse]
    return _page(
        [
            ("NAME", f"gantry {command.path} - {command.summary}"),
            ("USAGE", f"gantry {command.path} {command.usage}".rstrip()),
            ("COMMANDS", table([[c.path, c.summary] for c in below])),
            ("DESCRIPTION", textwrap.fill(command.description, _WIDTH)),
            ("EXAMPLES", "\n".join(command.example)),
            ("OPTIONS", _flags(command.flags)),
            ("OPTIONS OF AN IMAGE", _flags(command.app_flags)),
            ("GLOBAL OPTIONS", _flags(GRAMMAR.global_flags)),
        ]
    )


def family_page(name: str) -> str:
    """What ``gantry help image`` shows: the verbs below a word that is none itself."""
    below = [c for c in COMMANDS if c.words[0] == name and len(c.words) > 1 and not c.hidden and not c.refuse]
    return _page(
        [
            ("NAME", f"gantry {name}"),
            ("USAGE", f"gantry {name} COMMAND [flags] [arguments]"),
            ("COMMANDS", table([[c.path, c.summary] for c in below])),
            ("GLOBAL OPTIONS", _flags(GRAMMAR.global_flags)),
        ]
    )


def _page(sections: Iterable[tuple[str, str]]) -> str:
    parts = []
    for title, text in sections:
        if text.strip():
            body = "\n".join(f"\t{line}" if line else "" for line in text.rstrip("\n").split("\n"))
            parts.append(f"{title}:\n{body}\n")
    return "\n".join(parts)


def _flags(flags: Sequence[Flag]) -> str:
    rows = []
    for flag in sorted(flags, key=lambda f: f.name):
        if flag.hidden or flag.refuse or flag.deprecated:
            continue
        rows.append([f"--{flag.name}{_value_of(flag)}", f"{flag.help}{_default_of(flag)}"])
    return table(rows)


def _value_of(flag: Flag) -> str:
    if flag.kind == "bool":
        return "=false" if flag.default is True else ""
    value = f"={flag.metavar or flag.kind.upper()}"
    return f"[{value}]" if flag.bare is not None or flag.kind == "wait" else value


def _default_of(flag: Flag) -> str:
    if flag.kind == "duration":
        return (
            f" (default {format_duration(float(flag.default or 0))})"
            if not isinstance(flag.default, list)
            else ""
        )
    if isinstance(flag.default, str) and flag.default:
        return f' (default "{flag.default}")'
    if isinstance(flag.default, int) and not isinstance(flag.default, bool):
        return f" (default {flag.default})"
    return ""


# --- Completion ---


def _completion_words() -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """The words that may follow each word path, and the flags of each command."""
    follow: dict[str, list[str]] = {}
    flags: dict[str, list[str]] = {}
    for command in COMMANDS:
        if command.hidden or command.refuse:
            continue
        for i, word in enumerate(command.words):
            known = follow.setdefault(" ".join(command.words[:i]), [])
            if word not in known:
                known.append(word)
        flags[command.path] = sorted(
            f"--{f.name}"
            for f in (*command.flags, *command.app_flags, *GRAMMAR.global_flags)
            if not f.hidden and not f.refuse and not f.deprecated
        )
    return follow, flags


def bash_completion() -> str:
    """A completion script for bash."""
    follow, flags = _completion_words()
    follow_cases = "\n".join(f'    "{path}") words="{" ".join(words)}" ;;' for path, words in follow.items())
    flag_cases = "\n".join(f'      "{path}") words="{" ".join(words)}" ;;' for path, words in flags.items())
    return f"""# bash completion for gantry
_gantry() {{
  local current="${{COMP_WORDS[COMP_CWORD]}}" path="" words="" word
  for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
    case "$word" in -*) ;; *) path="${{path:+$path }}$word" ;; esac
  done
  if [[ "$current" == -* ]]; then
    case "$path" in
{flag_cases}
    esac
  else
    case "$path" in
{follow_cases}
    esac
  fi
  if [[ -n "$words" ]]; then COMPREPLY=($(compgen -W "$words" -- "$current"))
  else COMPREPLY=($(compgen -f -- "$current")); fi
}}
complete -F _gantry gantry
"""


def zsh_completion() -> str:
    """A completion script for zsh, by way of the one for bash."""
    return "#compdef gantry\nautoload -U +X bashcompinit && bashcompinit\n" + bash_completion()


def fish_completion() -> str:
    """A completion script for fish."""
    lines = ["# fish completion for gantry"]
    for command in COMMANDS:
        if command.hidden or command.refuse:
            continue
        before = command.words[:-1]
        when = " ".join(["__fish_seen_subcommand_from", *before]) if before else "__fish_use_subcommand"
        summary = command.summary.replace("'", "")
        lines.append(f"complete -c gantry -f -n '{when}' -a {command.words[-1]} -d '{summary}'")
        seen = f"__fish_seen_subcommand_from {command.words[-1]}"
        lines.extend(
            f"complete -c gantry -n '{seen}' -l {f.name}"
            for f in command.flags
            if not f.hidden and not f.refuse and not f.deprecated
        )
    return "\n".join(lines) + "\n"
