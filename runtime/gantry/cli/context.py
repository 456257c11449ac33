"""What every handler needs: the words, the places, and where to print."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from gantry.cli.grammar import Command, Invocation
from gantry.cli.output import Output
from gantry.cli.values import RefusedError, Values
from gantry.config import Paths, data_directory
from gantry.errors import HostError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from gantry.http import HttpOptions
    from gantry.http.throttle import Throttle
    from gantry.images.limits import Limits
    from gantry.images.store import Store
    from gantry.releases.engine import Engine
    from gantry.trust import KeyStore

ISOLATION = frozenset({"capabilities", "paths", "seccomp"})
_FETCH = frozenset({"image", "tls", "http", "pubkey"})
# Words that stand for several checks: where one of them means nothing, the others still do.
_GROUPS = {"all-fetch": _FETCH, "all-run": ISOLATION, "all": _FETCH | ISOLATION}
_INSECURE = {
    "none": frozenset[str](),
    **{word: frozenset({word}) for word in ("image", "tls", "http", "pubkey", *sorted(ISOLATION))},
    "ondisk": frozenset[str](),
    **_GROUPS,
}
_WARNINGS = {
    "tls": "TLS verification has been disabled",
    "image": "image signature verification has been disabled",
    "http": "plain HTTP has been allowed",
    "downgrade": "older signatures than the newest so far are accepted",
    "pubkey": "keys may come from servers that prove nothing about themselves",
}


class Context:
    """One command on its way. Rooms are imported when they are first asked for.

    Args:
        invocation: The command line, understood.
        output: Where to print.
    """

    def __init__(self, invocation: Invocation, output: Output) -> None:
        self.invocation = invocation
        self.output = output
        self.values: Values = invocation.values
        self.arguments = invocation.arguments
        values = invocation.values
        self.paths = Paths.make(
            data=values.text("dir"),
            run=values.text("run-dir"),
            system=values.text("system-config"),
            local=values.text("local-config"),
            user=values.text("user-config") or _users_own(os.environ),
        )
        if "dir" not in values.given:
            told = data_directory(self.paths)
            if told is not None:
                self.paths = self.paths._replace(data=os.path.realpath(told.value))
        self.insecure = self._insecure(values.items_of("insecure-options"))
        if values.get("allow-downgrade"):
            self.insecure |= {"downgrade"}

    def _insecure(self, words: list[str]) -> frozenset[str]:
        command = self.invocation.command
        chosen: set[str] = set()
        for i, given in enumerate(words):
            word = given.lower()
            if word not in _INSECURE:
                raise UsageError(f'unknown option "{word}"', hint=f"known: {', '.join(_INSECURE)}")
            if word in {w.lower() for w in words[:i]}:
                raise UsageError(f'duplicated option "{word}"', hint="say it once")
            if word == "ondisk":
                self.output.notice("the insecure option ondisk switches nothing off any more")
            self._refuse_useless(word, command)
            chosen |= _INSECURE[word] & command.insecure
        return frozenset(chosen)

    def _refuse_useless(self, word: str, command: Command) -> None:
        """Raises RefusedError when *word* would change nothing."""
        checks = _INSECURE[word]
        if checks & ISOLATION and (command.app_arguments or not checks - ISOLATION):
            raise RefusedError(
                f"--insecure-options={word} is not available: isolation cannot be switched off",
                hint="all-fetch concerns images; --caps-retain and --seccomp give an app what it needs",
            )
        if checks and not checks & command.insecure:
            raise RefusedError(
                f"--insecure-options={word} changes nothing for gantry {command.path}",
                hint=f"here may be given: {', '.join(sorted(command.insecure)) or 'none'}; leave it out",
            )

    def warn_insecure(self, also: frozenset[str] = frozenset()) -> None:
        """Say which checks are off, every time.

        Args:
            also: Checks that something else than the command line switches off.
        """
        for check, told in _WARNINGS.items():
            if check in self.insecure | also:
                self.output.notice(f"warning: {told}")

    def ca_file(self) -> str | None:
        """Certificate authorities for https: ``--ca-file``, or else the host's own, ``LOCAL/ca.pem``."""
        usual = f"{self.paths.local}/ca.pem"
        return self.values.text("ca-file") or (usual if os.path.exists(usual) else None)

    def http_options(self) -> HttpOptions:
        """How to speak HTTP."""
        from gantry.http import HttpOptions  # noqa: PLC0415 - only commands that fetch pay for it
        from gantry.http.credentials import headers_by_host  # noqa: PLC0415 - likewise

        rate = self.values.number("limit-rate") if self.values.get("limit-rate") is not None else None
        if rate is not None and rate < 1:
            raise UsageError("--limit-rate has to be at least one byte a second", hint="such as 2M")
        return HttpOptions(
            throttle=None if rate is None else _throttle(rate),
            ca_file=self.ca_file(),
            headers=headers_by_host(self.paths, os.environ),
            insecure_tls="tls" in self.insecure,
            allow_http="http" in self.insecure,
        )

    def store(self) -> Store:
        """The image store."""
        from gantry.images.store import Store  # noqa: PLC0415 - only commands about images pay for it

        return Store(self.paths, limits=self.limits())

    def fetching_store(self) -> Store:
        """The image store that this user fetches into: the host's, or one that the host takes over from."""
        store = self.store()
        if os.geteuid() == 0:
            return store
        from gantry.images.members import MemberStore, is_member  # noqa: PLC0415 - root needs none of it
        from gantry.images.sharing import GROUP  # noqa: PLC0415

        if is_member(store):
            return MemberStore(store)
        if os.path.isdir(store.root) and not os.access(store.root, os.W_OK):
            raise HostError(
                "cannot run as unprivileged user",
                hint=f"become root, or have root make you a member of the group {GROUP}",
            )
        return store

    def limits(self) -> Limits:
        """The bounds on images that this host sets."""
        from gantry.images.limits import configured  # noqa: PLC0415 - see store

        return configured(self.paths)

    def keys(self) -> KeyStore:
        """The trusted keys."""
        from gantry.trust import KeyStore  # noqa: PLC0415 - only commands about trust pay for it

        return KeyStore(self.paths)

    def engine(self) -> Engine:
        """Named pods."""
        # Only commands about named pods pay for these.
        from gantry.releases.backend import Rooms  # noqa: PLC0415
        from gantry.releases.engine import Engine  # noqa: PLC0415
        from gantry.systemd import UNIT_DIRECTORY, Manager  # noqa: PLC0415

        rooms = Rooms(
            self.paths,
            self.store(),
            self.keys(),
            self.http_options(),
            self.insecure,
            say=self.output.debug,
        )
        directory = self.values.text("unit-dir") or UNIT_DIRECTORY
        return Engine(self.paths, rooms, Manager(), unit_dir=directory, program=program())

    def pod_reference(self) -> str:
        """The pod that one argument or ``--uuid-file`` names, never both.

        Raises:
            UsageError: Neither or both.
        """
        return self.pod_references(exactly_one=True)[0]

    def pod_references(self, *, exactly_one: bool = False) -> list[str]:
        """The pods that the arguments or ``--uuid-file`` name.

        Raises:
            UsageError: Neither or both, or more than one where one is needed.
        """
        file = self.values.text("uuid-file")
        if file and self.arguments:
            raise UsageError("both a pod and --uuid-file are given", hint="give one of them")
        references = [read_uuid_file(file)] if file else list(self.arguments)
        if not references:
            command = self.invocation.command
            raise UsageError("missing argument", hint=f"usage: gantry {command.path} {command.usage}")
        if exactly_one and len(references) != 1:
            raise UsageError(f'unexpected argument "{references[1]}"', hint="name one pod")
        if not all(references):
            raise UsageError("UUID cannot be empty", hint="'gantry list' shows all pods")
        return references


def _users_own(environment: Mapping[str, str]) -> str:
    """Where a user who is not root keeps keys and credentials; empty: nowhere."""
    if os.geteuid() == 0:
        return ""
    top = next(
        (
            os.path.join(directory, below)
            for directory, below in _own_places(environment)
            if os.path.isabs(directory) and _is_own(directory)
        ),
        "",
    )
    return os.path.join(top, "gantry") if top else ""


def _own_places(environment: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    yield environment.get("XDG_CONFIG_HOME", ""), ""
    yield environment.get("HOME", ""), ".config"
    import pwd  # noqa: PLC0415 - HOME is nearly always right

    with contextlib.suppress(KeyError):
        yield pwd.getpwuid(os.geteuid()).pw_dir, ".config"


def _is_own(directory: str) -> bool:
    """Not so after ``setpriv`` or some ``sudo``: the variables are still those of the user before."""
    try:
        return os.stat(directory).st_uid == os.geteuid()
    except FileNotFoundError:
        return True
    except OSError:
        return False


def _throttle(rate: int) -> Throttle:
    from gantry.http.throttle import Throttle  # noqa: PLC0415 - few are slowed down

    return Throttle(rate)


def read_uuid_file(path: str) -> str:
    """The UUID in a file, without white space.

    Raises:
        UsageError: It cannot be read.
    """
    try:
        with open(path, encoding="ascii", errors="replace") as f:
            return f.read(1024).strip()
    except OSError as e:
        raise UsageError(
            f"cannot read the UUID file {path}: {e.strerror}", hint="--uuid-file-save writes it"
        ) from e


def program() -> str:
    """The command by the path that units should use: the link that follows upgrades, where there is one."""
    from gantry.releases.engine import PROGRAM  # noqa: PLC0415 - see Context.engine

    if os.access(PROGRAM, os.X_OK):
        return PROGRAM
    return os.environ.get("GANTRY_PROGRAM") or PROGRAM
