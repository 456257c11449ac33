"""AC Identifiers and AC Names (TYP-01 ... TYP-08).

Strict when writing, forgiving when reading: images converted from other formats carry runs of separators
(``a--b``, ``a__b``) that the specification's text forbids and its code accepts. What we never accept is a
path component that is empty, ``.`` or ``..``, because names become URLs and file names.

Used on the launch path: sets instead of patterns, no imports beyond the errors.
"""

from __future__ import annotations

from gantry.appc.errors import InvalidNameError

_ALNUM = frozenset("abcdefghijklmnopqrstuvwxyz0123456789")
_SEPARATORS = "-._~/"
_IDENTIFIER = _ALNUM | frozenset(_SEPARATORS)
MAX_IDENTIFIER = 1024
MAX_NAME = 255  # names become directories
_NAME = _ALNUM | frozenset("-")


def ac_identifier(value: str, *, what: str = "name", strict: bool = False) -> str:
    """Check that *value* is an AC Identifier and return it (TYP-01 ... TYP-03).

    Args:
        value: The text to check; nothing is folded or trimmed.
        what: What the value is, for the message: ``image name``, ``label name``.
        strict: Apply the text's pattern as well (two separators never touch). For what we write.

    Raises:
        InvalidNameError: Empty, too long, a foreign character, a separator at an end, a forbidden path
            component; with *strict* also a run of separators.
    """
    _refuse_long(value, what, MAX_IDENTIFIER)
    _check(value, _IDENTIFIER, what, kind="AC Identifier", alphabet="a-z, 0-9 and - . _ ~ /", rule="TYP-01")
    if "/" in value:
        for part in value.split("/"):
            if part in ("", ".", ".."):
                raise InvalidNameError(
                    f'{what} "{value}" has the path component "{part}"',
                    cause="bad-form",
                    rule="TYP-02",
                    hint='components between slashes are never empty, "." or ".."',
                )
    if strict:
        _refuse_runs(value, _SEPARATORS, what, "TYP-02")
    return value


def ac_name(value: str, *, what: str = "name", strict: bool = False) -> str:
    """Check that *value* is an AC Name and return it (TYP-03, TYP-05).

    Args:
        value: The text to check; nothing is folded or trimmed.
        what: What the value is, for the message: ``app name``, ``volume name``.
        strict: Refuse ``a--b`` too. For what we write.

    Raises:
        InvalidNameError: Empty, too long, a foreign character or a hyphen at an end; with *strict* also two
            hyphens.
    """
    _refuse_long(value, what, MAX_NAME)
    _check(value, _NAME, what, kind="AC Name", alphabet="a-z, 0-9 and -", rule="TYP-05")
    if strict:
        _refuse_runs(value, "-", what, "TYP-05")
    return value


def sanitize_identifier(value: str) -> str:
    """Make an AC Identifier out of *value*; only when a user asked for it (TYP-08).

    Raises:
        InvalidNameError: Nothing is left.
    """
    return ac_identifier(_sanitize(value, _IDENTIFIER, "_", _SEPARATORS))


def sanitize_name(value: str) -> str:
    """Make an AC Name out of *value*; only when a user asked for it (TYP-08).

    Raises:
        InvalidNameError: Nothing is left.
    """
    return ac_name(_sanitize(value, _NAME, "-", "-"))


def default_app_name(image_name: str) -> str:
    """The name an app gets when none is given: the image name's last component, sanitised (POD-35).

    Raises:
        InvalidNameError: Nothing is left of it.
    """
    return sanitize_name(image_name.rsplit("/", 1)[-1])


def _sanitize(value: str, allowed: frozenset[str], filler: str, edges: str) -> str:
    return "".join(c if c in allowed else filler for c in value.lower()).strip(edges)


def _check(value: str, allowed: frozenset[str], what: str, *, kind: str, alphabet: str, rule: str) -> None:
    # The order of these three is part of the interface (TYP-07).
    if not value:
        raise InvalidNameError(f"{what} is empty", cause="empty", rule=rule, hint=f"an {kind} is needed")
    foreign = next((c for c in value if c not in allowed), None)
    if foreign is not None:
        raise InvalidNameError(
            f'{what} "{value}" has the character "{foreign}"',
            cause="bad-character",
            rule=rule,
            hint=f"an {kind} consists of {alphabet}",
        )
    if value[0] not in _ALNUM or value[-1] not in _ALNUM:
        raise InvalidNameError(
            f'{what} "{value}" does not begin and end with a letter or digit',
            cause="bad-edge",
            rule=rule,
            hint=f"separators stand only inside an {kind}",
        )


def _refuse_long(value: str, what: str, bound: int) -> None:
    if len(value) > bound:
        raise InvalidNameError(
            f'{what} "{value[:60]}..." is longer than {bound} characters', cause="too-long", rule="TRAP-33"
        )


def _refuse_runs(value: str, separators: str, what: str, rule: str) -> None:
    for second_at in range(1, len(value)):
        first, second = value[second_at - 1], value[second_at]
        if first in separators and second in separators:
            raise InvalidNameError(
                f'{what} "{value}" has two separators in a row ("{first}{second}")',
                cause="bad-form",
                rule=rule,
                hint="use one separator at a time",
            )
