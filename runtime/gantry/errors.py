"""Errors that a user meets: one line that says what was refused, why, and what to do.

Every room raises subclasses of :class:`GantryError`. The command line turns one into a single line on
standard error and exit status 254; the Ansible modules put the same line into ``msg``. Anything else that
escapes is a defect of Gantry and shows a traceback.

This module is imported on the launch path: it imports nothing.
"""


class GantryError(Exception):
    """A refusal or failure, told in one line.

    Args:
        message: What was refused or failed, and why. One line; control characters are escaped, because
            part of it often comes from a stranger.
        hint: What the reader can do about it; may be empty.

    Subclasses set :attr:`code`, a stable name (lower case, hyphens) that JSON output, audit records and
    modules carry so that nobody has to match texts.
    """

    code = "failed"

    def __init__(self, message: str, *, hint: str = "") -> None:
        self.message = one_line(message)
        self.hint = one_line(hint)
        super().__init__(self.message)

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message

    def __reduce__(self) -> tuple[object, ...]:
        # Subclasses take other arguments; what they have made of them is what another process needs.
        return Exception.__new__, (type(self), *self.args), self.__dict__

    def as_dict(self) -> dict[str, str]:
        """The error for JSON output: ``code``, ``message``, ``hint`` and the whole line as ``msg``."""
        return {"code": self.code, "message": self.message, "hint": self.hint, "msg": str(self)}


class UsageError(GantryError):
    """The command line or a document was malformed."""

    code = "usage"


class NotFoundError(GantryError):
    """Something named by the user does not exist here."""

    code = "not-found"


class BusyError(GantryError):
    """Something is in use by another process or in a state that forbids the request."""

    code = "busy"


class HostError(GantryError):
    """The host lacks something or the kernel refused: a tool, a privilege, space."""

    code = "host"


def one_line(text: str) -> str:
    """*text* with everything that could break a line or a terminal written as an escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
