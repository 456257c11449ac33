"""``trust``, ``trust list|rm|mask|check|policy``."""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime
from typing import Any

from gantry.cli.context import Context
from gantry.cli.output import FAILURE
from gantry.errors import GantryError, HostError, NotFoundError, UsageError
from gantry.trust import AddResult, packets
from gantry.trust.keystore import KeyInfo, inspect, normal_fingerprint, normal_scope
from gantry.trust.outlook import ATTENTION, REFUSED, outlook
from gantry.trust.policy import DATE, rules, scope_option

_SHOWN: dict[object, str] = {None: "never", True: "yes", False: "no"}


class DeclinedError(UsageError):
    """The user said no."""

    code = "declined"


def add(context: Context) -> int:
    """Trust keys for a prefix, or for every name."""
    values = context.values
    prefix, root = values.text("prefix") or None, values.flag("root")
    if prefix is None and not root:
        raise UsageError(
            "trusting a key without a scope would trust it for every image",
            hint="say --prefix=NAME for one name and all below it, or --root for every name",
        )
    scope = normal_scope(prefix, root=root)
    context.warn_insecure(frozenset({"http"}) if values.flag("insecure-allow-http") else frozenset())
    results: list[AddResult] = []
    for source, data, infos in _offered(context, scope):
        _review(context, source, scope, infos)
        results.extend(
            context.keys().add_all(
                data, prefix=scope, root=root, fingerprints=[info.fingerprint for info in infos]
            )
        )
    if context.output.form:
        context.output.json([_as_dict(r) for r in results])
        return 0
    for result in results:
        where = f'prefix "{result.prefix}"' if result.prefix else "root"
        done = {"add": "Added", "merge": "Renewed", "none": "Already trusted:"}[result.action]
        context.output.line(f'{done} key {result.fingerprint} for {where} at "{result.path}"')
        for line in _differences(result):
            context.output.line(f"  {line}")
        for warning in result.warnings:
            context.output.notice(f"warning: {warning}")
    return 0


def list_keys(context: Context) -> int:
    """List trusted keys."""
    keys = context.keys().list()
    if context.output.form:
        context.output.json(
            [
                {
                    "fingerprint": k.fingerprint,
                    "prefix": k.prefix,
                    "root": k.prefix is None,
                    "path": k.path,
                    "masked": k.masks,
                    "user_ids": list(k.user_ids),
                    "problem": k.problem,
                }
                for k in keys
            ]
        )
        return 0
    rows = [
        [
            k.prefix or "(every name)",
            k.fingerprint,
            k.problem or ("masked" if k.masks else "trusted"),
            next(iter(k.user_ids), ""),
            k.path,
        ]
        for k in keys
    ]
    legend = not context.values.flag("no-legend")
    context.output.table(("PREFIX", "FINGERPRINT", "STATE", "USER ID", "FILE"), rows, legend=legend)
    return 0


def check(context: Context) -> int:
    """Tell how the trusted keys stand."""
    found = outlook(context.keys(), within=context.values.seconds("within"), now=time.time())
    states = {each.state for each in found}
    status = FAILURE if REFUSED in states else 1 if ATTENTION in states else 0
    if context.output.form:
        context.output.json([each._asdict() for each in found])
        return status
    rows = [
        [
            each.prefix or "(every name)",
            each.fingerprint or each.path,
            each.state,
            "never" if each.expires is None else each.expires[:10],
            "" if each.days is None else str(each.days),
        ]
        for each in found
    ]
    legend = not context.values.flag("no-legend")
    context.output.table(("PREFIX", "FINGERPRINT", "STATE", "EXPIRES", "DAYS"), rows, legend=legend)
    for each in found:
        for line in each.told:
            context.output.notice(f"{each.fingerprint or each.path}: {line}")
    return status


def policy(context: Context) -> int:
    """Print the rules."""
    found = rules(context.keys().skew())
    if context.output.form:
        context.output.json({"date": DATE, "rules": found})
        return 0
    for rule in found:
        context.output.line(rule)
    context.output.line(f"(rules of {DATE})")
    return 0


def remove(context: Context) -> int:
    """Trust a key no longer: in one scope, or in every scope it is found in."""
    values, store = context.values, context.keys()
    fingerprint = normal_fingerprint(context.arguments[0])
    if values.text("prefix") or values.flag("root"):
        scopes = [normal_scope(values.text("prefix") or None, root=values.flag("root"))]
    else:
        scopes = list(
            dict.fromkeys(k.prefix for k in store.list() if k.fingerprint == fingerprint and not k.masks)
        )
    masked = {k.prefix for k in store.list() if k.fingerprint == fingerprint and k.masks}
    removed = [s for s in scopes if store.remove(fingerprint, prefix=s, root=s is None)]
    if not removed:
        hint = "'gantry trust list' shows them all"
        if masked.intersection(scopes):
            option = scope_option(min(masked.intersection(scopes), key=str))
            hint = f"it is masked there; to trust it again: gantry trust {option} KEYFILE"
        elif masked:
            hint = (
                f"it is masked; to take a mask away: gantry trust rm {scope_option(min(masked, key=str))} FPR"
            )
        raise NotFoundError(f"the key {fingerprint} is not trusted here", hint=hint)
    if context.output.form:
        context.output.json(
            [
                {"fingerprint": fingerprint, "prefix": s, "root": s is None, "unmasked": s in masked}
                for s in removed
            ]
        )
        return 0
    for scope in removed:
        where = f'prefix "{scope}"' if scope else "root"
        if scope in masked:
            context.output.line(
                f"Removed the mask of key {fingerprint} for {where}: a wider scope counts there"
            )
        else:
            context.output.line(f"Removed key {fingerprint} for {where}")
    return 0


def mask(context: Context) -> int:
    """Take a key away from one scope, whoever trusts it in a wider one."""
    values = context.values
    prefix, root = values.text("prefix") or None, values.flag("root")
    if prefix is None and not root:
        raise UsageError("for which name?", hint="say --prefix=NAME, or --root for every name")
    fingerprint, scope = normal_fingerprint(context.arguments[0]), normal_scope(prefix, root=root)
    changed = context.keys().mask(fingerprint, prefix=scope, root=root)
    if context.output.form:
        context.output.json({"fingerprint": fingerprint, "prefix": scope, "root": root, "changed": changed})
        return 0
    where = f'prefix "{scope}"' if scope else "root"
    context.output.line(f"{'Masked' if changed else 'Already masked:'} key {fingerprint} for {where}")
    return 0


def _offered(context: Context, scope: str | None) -> list[tuple[str, bytes, list[KeyInfo]]]:
    """The key files to consider, all of them read; with an expected fingerprint the one that has it.

    Raises:
        UsageError: None of several has it.
    """
    sources = context.arguments or _discovered(context, scope)
    expected = context.values.text("fingerprint")
    found: list[tuple[str, bytes, list[KeyInfo]]] = []
    failed: GantryError | None = None
    for source in sources:
        try:
            data = _read_key(context, source)
            found.append((source, data, list(inspect(data))))
        except GantryError as error:
            if not expected or len(sources) == 1:
                raise
            failed = error
    if not expected or len(sources) == 1:
        return found
    wanted = normal_fingerprint(expected)
    fitting = [each for each in found if [info.fingerprint for info in each[2]] == [wanted]]
    if not fitting and failed is not None:
        raise failed
    if not fitting:
        told = ", ".join(info.fingerprint for _, _, infos in found for info in infos)
        raise UsageError(f"none of the keys is {wanted}, but: {told}", hint="nothing was trusted")
    return fitting[:1]


def _discovered(context: Context, scope: str | None) -> list[str]:
    if scope is None:
        raise UsageError("--root needs a key file", hint="keys for every name are not discovered")
    from gantry.discovery import discover_pubkeys  # noqa: PLC0415 - only when no key file is given
    from gantry.http import Client  # noqa: PLC0415 - likewise

    return list(discover_pubkeys(Client(_http(context)), scope))


def _http(context: Context) -> Any:
    from dataclasses import replace  # noqa: PLC0415 - only when the network is asked

    options, keys = context.http_options(), "pubkey" in context.insecure
    return replace(
        options,
        allow_http=options.allow_http or keys or context.values.flag("insecure-allow-http"),
        insecure_tls=options.insecure_tls or keys,
    )


def _read_key(context: Context, source: str) -> bytes:
    if source.startswith(("https://", "http://")):
        from gantry.http import Client  # noqa: PLC0415 - only when a key comes from the network

        return Client(_http(context)).get(source, max_bytes=packets.MAX_KEY_FILE).body
    if "://" in source:
        raise UsageError(f"{source} is neither a local file nor an https URL", hint="fetch the key first")
    try:
        with open(source, "rb") as f:
            return f.read(packets.MAX_KEY_FILE + 1)
    except OSError as e:
        raise NotFoundError(
            f"cannot read the key file {source}: {e.strerror}", hint="give an armored key that exists"
        ) from e


def _review(context: Context, source: str, scope: str | None, infos: list[KeyInfo]) -> None:
    """Let the user compare fingerprints, unless the command line already did.

    Raises:
        UsageError: The key is another than the one that was named.
        DeclinedError: The user said no.
        HostError: There is nobody to ask.
    """
    values = context.values
    expected = values.text("fingerprint")
    found = [info.fingerprint for info in infos]
    if expected:
        if found != [normal_fingerprint(expected)]:
            raise UsageError(
                f"{source} holds the key {', '.join(found)}, not {normal_fingerprint(expected)}",
                hint="nothing was trusted",
            )
        return
    if values.flag("skip-fingerprint-review"):
        return
    context.output.notice(f'prefix: "{scope or ""}" key: "{source}"')
    for info in infos:
        context.output.line(f"gpg key fingerprint is: {_grouped(info.fingerprint)}")
        for sub in info.subkeys:
            context.output.line(f"    Subkey fingerprint: {_grouped(str(sub['fingerprint']))}")
            used = "signs" if sub["signs"] else "does not sign"
            context.output.line(f"        {used}, {_until(sub['expires'], revoked=sub['revoked'])}")
        for user in info.user_ids:
            context.output.line(f"\t{user}")
        context.output.line(f"\tmade {info.created[:10]}, {_until(info.expires, revoked=info.revoked)}")
        for warning in info.warnings:
            context.output.notice(f"warning: {warning}")
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise HostError(
            "error reviewing key: unable to ask user to review fingerprint due to lack of tty",
            hint="name the key with --fingerprint=HEX",
        )
    _ask(context, source)


def _until(expires: str | None, *, revoked: bool) -> str:
    if revoked:
        return "revoked"
    if expires is None:
        return "never expires"
    moment = datetime.fromisoformat(expires)
    return f"expire{'d' if moment <= datetime.now(UTC) else 's'} {expires[:10]}"


def _differences(result: AddResult) -> list[str]:
    """What a merge has changed, one line each."""
    if result.action != "merge" or result.before is None or result.after is None:
        return []
    old, new = dict(result.before), dict(result.after)
    subkeys = [
        {str(key["fingerprint"]): key for key in each.pop("subkeys")}  # type: ignore[attr-defined]
        for each in (old, new)
    ]
    lines = [_change(name, old[name], new[name]) for name in old if old[name] != new[name]]
    for fingerprint, key in subkeys[1].items():
        before = subkeys[0].get(fingerprint)
        if before is None:
            lines.append(f"subkey {fingerprint}: new, {_until(key['expires'], revoked=key['revoked'])}")
            continue
        lines += [
            f"subkey {fingerprint}: {_change(name, before[name], key[name])}"
            for name in before
            if before[name] != key[name]
        ]
    return lines or ["new signatures, which change nothing that is shown here"]


def _change(name: str, before: object, after: object) -> str:
    shown = [
        ", ".join(each) if isinstance(each, list) else _SHOWN.get(each, str(each)) for each in (before, after)
    ]
    return f"{name.replace('_', ' ')}: {shown[0]} -> {shown[1]}"


def _ask(context: Context, source: str) -> None:
    while True:
        context.output.line("Are you sure you want to trust this key (yes/no)?")
        answer = sys.stdin.readline()
        if answer == "":
            raise DeclinedError("the question was not answered", hint="nothing was trusted")
        if answer.strip() == "yes":
            return
        if answer.strip() == "no":
            raise DeclinedError(f'not trusting "{source}"', hint="nothing was trusted")
        context.output.line("Please enter 'yes' or 'no'")


def _grouped(fingerprint: str) -> str:
    """Groups of four digits, a double space in the middle."""
    groups = [fingerprint[i : i + 4].upper() for i in range(0, len(fingerprint), 4)]
    middle = len(groups) // 2
    return f"{' '.join(groups[:middle])}  {' '.join(groups[middle:])}"


def _as_dict(result: AddResult) -> dict[str, object]:
    return {
        "changed": result.changed,
        "action": result.action,
        "fingerprint": result.fingerprint,
        "user_ids": list(result.user_ids),
        "expires": result.expires,
        "expired": result.expired,
        "revoked": result.revoked,
        "prefix": result.prefix,
        "root": result.prefix is None,
        "path": result.path,
        "before": result.before,
        "after": result.after,
        "warnings": list(result.warnings),
    }
