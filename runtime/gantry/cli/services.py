"""``metadata-service`` and ``signer-service``: what their units start."""

from __future__ import annotations

import importlib

from gantry.cli.context import Context


def metadata(context: Context) -> int:
    """Serve pods their metadata until SIGTERM."""
    return _serve(context, "gantry.metadata.service", ("listen-port", "user"))


def signer(context: Context) -> int:
    """Hold the keys of pods and sign for them until SIGTERM."""
    return _serve(context, "gantry.signer.service", ("user", "metadata-user"))


def _serve(context: Context, module: str, flags: tuple[str, ...]) -> int:
    argv = [f"--dir={context.paths.data}", f"--run-dir={context.paths.run}"]
    argv.extend(f"--{flag}={context.values[flag]}" for flag in flags)
    # Only the service that is started may be in memory: it stays there for long.
    status: int = importlib.import_module(module).main(argv, context.paths)
    return status
