"""The ``gantry`` command: parse, call one room, print. No logic.

    grammar, values     what the words mean (pure, by table)
    flags, commands     the tables
    help, output        what is printed
    entry, context      from words to an exit status
    run pods images members trust build apply named audit services about    handlers, one module a family

This module is on the launch path: systemd starts every pod through it. It imports nothing before it knows
that the command is not one of the two that must be lean.
"""

import os
import sys

_LEAN_VERBS = ("run-prepared", "pod-stopped")
_LEAN_WORDS = ("--leave", "--once")
_LEAN_FLAGS = ("--dir=", "--run-dir=", "--system-config=", "--local-config=")


def is_lean(words: list[str]) -> bool:
    """Whether the launcher understands *words* by itself: one of its two verbs, and flags that it knows.

    Everything else takes the whole grammar, which ends in the launcher too (:mod:`gantry.cli.run`).
    """
    plain = [w for w in words if not w.startswith("-")]
    flags = [w for w in words if w.startswith("-")]
    return (
        len(plain) == 2
        and plain[0] in _LEAN_VERBS
        and all(f in _LEAN_WORDS or f.startswith(_LEAN_FLAGS) for f in flags)
        and all(f.partition("=")[2] for f in flags if f not in _LEAN_WORDS)
    )


def main() -> int:
    """The console script: run the command line of this process; the exit status."""
    words = sys.argv[1:]
    if is_lean(words):
        # Taken away before anything else is started: the container runtime would wait for the app to notify.
        address = os.environ.pop("NOTIFY_SOCKET", "")
        if address and "--leave" in words:
            from gantry.pods import leave  # noqa: PLC0415 - only in a unit

            return leave.run(words, address)
        from gantry.pods import launch  # noqa: PLC0415 - the launch path imports nothing else

        # `run` says --once: nobody knows of its pod, so one that could not be started goes again.
        status = launch.main([w for w in words if w != "--once"])
        if status == launch.TOOL_FAILURE and "--once" in words:
            from gantry.cli.run import remove_unstarted  # noqa: PLC0415 - only when a start has failed

            remove_unstarted([w for w in words if w != "--once"])
        return status
    import signal  # noqa: PLC0415 - see above

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # While modules are loaded nothing is begun that ctrl-C would have to undo; the entry takes it back.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from gantry.cli.entry import run  # noqa: PLC0415 - see above

    return run(words)
