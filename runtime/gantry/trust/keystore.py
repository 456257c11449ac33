"""The keys that are trusted on this host: a directory that a person can read.

::

    LAYER/trustedkeys/root.d/FPR                 for every name
    LAYER/trustedkeys/prefix.d/NAME/.../FPR      for NAME and everything below it
    LAYER/trustedkeys/revoked.d/FPR              for no name: what was revoked before it was removed

The layers are the vendor's (``system``), the administrator's (``local``) and, if there is one, the user's.

The rules:

- ``FPR`` is the fingerprint of the primary key, 40 (or 64) lower-case hexadecimal digits; the file holds that
  one certificate, ASCII-armored. A file that is anything else makes every verification that reads it fail: a
  key that an operator believes is there, and is not, must be noticed. Names that begin with a dot or end in
  ``.tmp`` are passed over.
- A prefix ends where a component of the name ends: ``example.com/foo`` says nothing of
  ``example.com/foobar``.
- Later beats earlier: first the layers' keys for every name, then their prefixes, the system before local
  before the user's, and a longer prefix beats a shorter one of the same layer. An *empty* file masks the key
  of that fingerprint found so far.
- Gantry writes to the last layer only. What it adds is merged into what is there, so a renewed certificate
  replaces its old dates and a revocation that was once known stays known.
- A file that anybody may write is refused.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from gantry import audit
from gantry.config import Paths, SettingsError, settings
from gantry.linux.fs import atomic_write, fsync_directory, make_directory
from gantry.linux.locks import locked
from gantry.trust import policy
from gantry.trust.child import examine
from gantry.trust.errors import KeyFileError
from gantry.trust.keyfiles import (
    REVOKED_DIR,
    TrustedKey,
    components,
    directories_below,
    normal_fingerprint,
    normal_scope,
    read_directory,
    read_file,
)
from gantry.trust.merging import expect, no_revocation_lost, revocations, same_packets
from gantry.trust.review import KeyInfo, inspect, key_info
from gantry.trust.verifier import Verifier, start_verifier

__all__ = [
    "AddResult",
    "KeyInfo",
    "KeyRing",
    "KeyStore",
    "TrustedKey",
    "inspect",
    "normal_fingerprint",
    "normal_scope",
]

_ROOT_DIR = "root.d"
_PREFIX_DIR = "prefix.d"


class KeyRing(list[TrustedKey]):
    """The keys trusted for one name, which also know what else is in the store."""

    def __init__(
        self, keys: Iterable[TrustedKey], everything: Iterable[TrustedKey], skew: float = policy.SKEW
    ) -> None:
        super().__init__(keys)
        self.everything = tuple(everything)
        self.skew = skew


@dataclass(frozen=True)
class AddResult:
    """What adding a key did, or would do.

    Attributes:
        changed: Whether a file was (would be) written.
        action: ``add``, ``merge`` or ``none``.
        fingerprint: Of the primary key.
        user_ids: Who it says it is.
        expires: RFC 3339 or ``None`` for never; after the change.
        expired: Whether that is past. The key is stored all the same.
        revoked: Whether its owner revoked it. The key is stored all the same: the revocation counts.
        prefix: The scope, ``None`` for root.
        path: The file.
        before: The certificate in this scope before, see :meth:`KeyInfo.as_dict`; ``None`` when there was
            none.
        after: The same afterwards.
        warnings: What the operator should read.
    """

    changed: bool
    action: str
    fingerprint: str
    user_ids: tuple[str, ...]
    expires: str | None
    expired: bool
    revoked: bool
    prefix: str | None
    path: str
    before: dict[str, object] | None
    after: dict[str, object] | None
    warnings: tuple[str, ...] = field(default=())


def _usable(keys: Iterable[TrustedKey]) -> tuple[TrustedKey, ...]:
    return tuple(key for key in keys if key.armored and not key.problem)


class KeyStore:
    """The keys of one installation."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        tops = (paths.system, paths.local, paths.user)
        self._layers = tuple(os.path.join(top, "trustedkeys") for top in tops if top)
        self._own = self._layers[-1]

    def keys_for(self, name: str) -> KeyRing:
        """The keys that may sign images called *name* (SIG-09, SIG-11).

        Raises:
            KeyFileError: A file that counts for this name is broken.
            UsageError: *name* is no name.
        """
        parts = components(name, "an image name")
        files = [
            key for layer in self._layers for key in read_directory(os.path.join(layer, _ROOT_DIR), None)
        ]
        for layer in self._layers:
            for depth in range(1, len(parts) + 1):
                prefix = "/".join(parts[:depth])
                files += read_directory(os.path.join(layer, _PREFIX_DIR, *parts[:depth]), prefix)
        found: dict[str, TrustedKey] = {}
        for key in files:
            if key.problem:
                raise KeyFileError(
                    f"the key file {key.path} cannot be used: {key.problem}",
                    hint="repair or remove it; keys are added with: gantry trust"
                    f" {policy.scope_option(key.prefix)} KEYFILE",
                )
            if key.masks:
                found.pop(key.fingerprint, None)
            else:
                found[key.fingerprint] = key
        every = self._every_file()
        for key in every:  # a copy that cannot be read may be the one that is revoked
            if key.problem and key.fingerprint in found:
                raise KeyFileError(
                    f"the copy {key.path} of a key that is trusted for {name} cannot be used: {key.problem}",
                    hint="repair it; remove it only if that copy was not revoked",
                )
        return KeyRing(found.values(), _usable(every), self.skew())

    def verifier(self, signature: bytes | None, name: str) -> Verifier:
        """:func:`gantry.trust.verifier.start_verifier` with the keys for *name*."""
        return start_verifier(self.keys_for(name), signature, name)

    def list(self) -> list[TrustedKey]:
        """Every file, masks and broken ones too: root first, then by prefix; the vendor's before ours."""
        files = []
        for layer in self._layers:
            files += read_directory(os.path.join(layer, _ROOT_DIR), None)
            top = os.path.join(layer, _PREFIX_DIR)
            if not os.path.isdir(top):
                files += read_directory(top, None)  # something else is there
            for directory in directories_below(top):
                files += read_directory(directory, os.path.relpath(directory, top))
        files += [key for key in self._removed() if key.problem]
        return sorted(files, key=lambda key: (key.prefix is not None, key.prefix or ""))

    def skew(self) -> float:
        """How far ahead of this host's clock signatures may be, in seconds: the settings of kind ``trust``.

        Raises:
            SettingsError: A file is malformed, or has another field or value than there can be.
        """
        found: float = policy.SKEW
        for name, (value, file) in settings(self._paths, "trust").items():
            if name != "skew":
                raise SettingsError(f'"{file}" sets "{name}", which is no setting of trust', hint="skew is")
            if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= policy.MOST_SKEW:
                raise SettingsError(
                    f'skew in "{file}" has to be a whole number of seconds from 0 to {policy.MOST_SKEW}'
                )
            found = value
        return found

    def everything(self) -> tuple[TrustedKey, ...]:
        """Every usable certificate, wherever it is; those that were revoked and removed, too."""
        return _usable(self._every_file())

    def _removed(self) -> Sequence[TrustedKey]:
        """Those that were revoked and removed."""
        return [
            key for layer in self._layers for key in read_directory(os.path.join(layer, REVOKED_DIR), None)
        ]

    def _every_file(self) -> Sequence[TrustedKey]:
        return [*self.list(), *self._removed()]

    def add(
        self,
        key_bytes: bytes,
        *,
        prefix: str | None = None,
        root: bool = False,
        fingerprint: str | None = None,
        check: bool = False,
        by: str | None = None,
    ) -> AddResult:
        """Trust the one certificate in *key_bytes* for a prefix or, with *root*, for every name.

        Args:
            key_bytes: The public key, armored or not.
            prefix: A name, ``/*`` at its end is allowed.
            root: Instead of a prefix.
            fingerprint: What the operator expects; spaces and case do not matter.
            check: Only tell what would be done.
            by: Who asks, for the record.

        Raises:
            KeyFileError: Not exactly one certificate, or another than expected. Nothing was changed.
            UsageError: The prefix is no name.
        """
        wanted = None if fingerprint is None else [fingerprint]
        infos = inspect(key_bytes)
        if len(infos) != 1:
            all_of_them = ", ".join(info.fingerprint for info in infos)
            raise KeyFileError(
                f"the key file holds {len(infos)} certificates: {all_of_them}",
                hint="add each of them by itself, so that none is trusted unseen",
            )
        return self._add(infos, prefix=prefix, root=root, fingerprints=wanted, check=check, by=by)[0]

    def add_all(
        self,
        key_bytes: bytes,
        *,
        prefix: str | None = None,
        root: bool = False,
        fingerprints: Collection[str] | None = None,
        check: bool = False,
        by: str | None = None,
    ) -> Sequence[AddResult]:
        """Trust all the certificates in *key_bytes*, or none of them.

        Args:
            key_bytes: See :meth:`add`.
            prefix: See :meth:`add`.
            root: See :meth:`add`.
            fingerprints: Exactly those that are expected.
            check: See :meth:`add`.
            by: See :meth:`add`.

        Raises:
            KeyFileError: See :meth:`add`.
            UsageError: See :meth:`add`.
        """
        infos = inspect(key_bytes)
        return self._add(infos, prefix=prefix, root=root, fingerprints=fingerprints, check=check, by=by)

    def remove(
        self,
        fingerprint: str,
        *,
        prefix: str | None = None,
        root: bool = False,
        check: bool = False,
        by: str | None = None,
    ) -> bool:
        """Trust a key no longer in this scope; a vendor's key is masked. True when something changed.

        Raises:
            UsageError: The fingerprint or the prefix is none.
        """
        fingerprint = normal_fingerprint(fingerprint)
        scope = normal_scope(prefix, root=root)
        *others, own = self._files(fingerprint, scope)
        mask = any(map(os.path.lexists, others))
        return self._take_away(fingerprint, scope, own, mask=mask, check=check, by=by)

    def mask(
        self,
        fingerprint: str,
        *,
        prefix: str | None = None,
        root: bool = False,
        check: bool = False,
        by: str | None = None,
    ) -> bool:
        """Take a key away from this scope whoever trusts it in a wider one. True when something changed.

        Raises:
            UsageError: The fingerprint or the prefix is none.
        """
        fingerprint = normal_fingerprint(fingerprint)
        scope = normal_scope(prefix, root=root)
        own = self._files(fingerprint, scope)[-1]
        return self._take_away(fingerprint, scope, own, mask=True, check=check, by=by)

    def _take_away(
        self, fingerprint: str, scope: str | None, own: str, *, mask: bool, check: bool, by: str | None
    ) -> bool:
        def to_do() -> bool:
            there = os.path.lexists(own)
            return not there or os.path.getsize(own) > 0 if mask else there

        if check or not to_do():
            return to_do()
        with self._locked():
            if not to_do():
                return False
            self._remember_revocations(fingerprint, own)
            self._record(
                "trust.remove",
                by,
                fingerprint=fingerprint,
                prefix=scope,
                root=scope is None,
                action="mask" if mask else "remove" if os.path.getsize(own) else "unmask",
                path=own,
            )
            if mask:
                self._write(own, b"")
            else:
                os.unlink(own)
                self._prune(os.path.dirname(own))
        return True

    def _remember_revocations(self, fingerprint: str, path: str) -> None:
        """Keep a certificate that is taken away, if it says that its owner revoked something of it."""
        old = read_file(path, fingerprint, None).armored if os.path.lexists(path) else b""
        if old and revocations(old):
            known = self._revoked(fingerprint)
            copies = [copy for copy in (known, old) if copy]
            kept = key_info(examine([copies])[0]).armored
            no_revocation_lost(copies, kept)
            self._write(self._revoked_path(fingerprint), kept)

    def _revoked(self, fingerprint: str) -> bytes:
        """The certificate of a key that was taken away and had revocations; empty if there is none."""
        path = self._revoked_path(fingerprint)
        if not os.path.lexists(path):
            return b""
        key = read_file(path, fingerprint, None)
        if key.problem:
            raise KeyFileError(
                f"the key file {path} cannot be used: {key.problem}", hint="restore it: it has revocations"
            )
        return key.armored

    def _revoked_path(self, fingerprint: str) -> str:
        return os.path.join(self._own, REVOKED_DIR, fingerprint)

    def _files(self, fingerprint: str, scope: str | None) -> Sequence[str]:
        """The key's file in each layer, the one that is written to last."""
        below = (_ROOT_DIR,) if scope is None else (_PREFIX_DIR, *scope.split("/"))
        return [os.path.join(layer, *below, fingerprint) for layer in self._layers]

    def _add(
        self,
        infos: Sequence[KeyInfo],
        *,
        prefix: str | None,
        root: bool,
        fingerprints: Collection[str] | None,
        check: bool,
        by: str | None,
    ) -> Sequence[AddResult]:
        scope = normal_scope(prefix, root=root)
        if fingerprints is not None:
            expect({normal_fingerprint(one) for one in fingerprints}, {info.fingerprint for info in infos})
        if check:
            return [result for result, _ in self._plan(infos, scope)]
        with self._locked():
            plan = self._plan(infos, scope)
            for result, content in plan:
                if result.changed:
                    self._commit(result, content, by)
        return [result for result, _ in plan]

    def _plan(self, infos: Sequence[KeyInfo], scope: str | None) -> Sequence[tuple[AddResult, bytes]]:
        """What is to be written for each; what can be wrong is found here, before anything is written."""
        plan = []
        every = self.everything()  # a revocation counts wherever it is
        for info in infos:
            self._revoked(info.fingerprint)
            files = self._files(info.fingerprint, scope)
            old = self._current(files, scope, info.fingerprint)
            elsewhere = [key.armored for key in every if key.fingerprint == info.fingerprint]
            copies = list(dict.fromkeys(copy for copy in (old, *elsewhere, info.armored) if copy))
            groups = [[old], copies] if old else [copies]
            described = [key_info(answer) for answer in examine(groups)]
            before, after = (described[0], described[1]) if old else (None, described[0])
            content = after.armored
            same = bool(old) and same_packets(old, content)
            no_revocation_lost(copies, content)
            result = AddResult(
                changed=not same,
                action="none" if same else "merge" if old else "add",
                fingerprint=info.fingerprint,
                user_ids=after.user_ids,
                expires=after.expires,
                expired=after.expired,
                revoked=after.revoked,
                prefix=scope,
                path=files[-1],
                before=before.as_dict() if before else None,
                after=after.as_dict(),
                warnings=after.warnings,
            )
            plan.append((result, content))
        return plan

    def _current(self, files: Sequence[str], scope: str | None, fingerprint: str) -> bytes:
        """The certificate that counts in this scope now; empty when there is none or it is masked."""
        for path in reversed(files):
            if os.path.lexists(path):
                key = read_file(path, fingerprint, scope)
                if key.problem:
                    raise KeyFileError(
                        f"the key file {path} cannot be used: {key.problem}",
                        hint="remove it and add the key again",
                    )
                return key.armored
        return b""

    def _commit(self, result: AddResult, content: bytes, by: str | None) -> None:
        self._record(
            "trust.add",
            by,
            fingerprint=result.fingerprint,
            prefix=result.prefix,
            root=result.prefix is None,
            action=result.action,
            user_ids=list(result.user_ids),
            expires=result.expires,
            revoked=result.revoked,
            path=result.path,
        )
        self._write(result.path, content)

    def _record(self, event: str, by: str | None, **fields: object) -> None:
        """Put it on the host's record; a user's own keys need not be, who may not write there."""
        try:
            audit.record(self._paths.data, event, by=by, **fields)
        except audit.AuditError as error:
            if not (self._paths.user and isinstance(error.__cause__, PermissionError)):
                raise

    def _write(self, path: str, content: bytes) -> None:
        self._make_directories(os.path.dirname(path))
        atomic_write(path, content, 0o644)

    def _make_directories(self, directory: str) -> None:
        missing = []
        while not os.path.isdir(directory):
            missing.append(directory)
            directory = os.path.dirname(directory)
        for new in reversed(missing):
            make_directory(new, 0o755)
            fsync_directory(os.path.dirname(new))

    def _prune(self, directory: str) -> None:
        """Remove directories that have become empty, up to ``prefix.d``."""
        top = os.path.join(self._own, _PREFIX_DIR)
        while directory.startswith(top + "/"):
            try:
                os.rmdir(directory)
            except OSError:
                return
            directory = os.path.dirname(directory)

    def _locked(self) -> Any:
        """Writers exclude each other; readers see whole files anyway."""
        self._make_directories(self._own)
        return locked(os.path.join(self._own, ".lock"), what="the key store")
