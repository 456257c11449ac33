"""JSON and SHA-256 without what the standard library's modules bring along.

``import json`` loads the regular expression engine and ``enum``, ``import hashlib`` loads OpenSSL: 10 ms, a
third of a bare ``runc run``, at every start of every pod, and 2 MB in each launcher that stays. The work is
done by modules in C that CPython always has; here they are called directly, in the way that :mod:`json` calls
them. A Python that has them no longer gets the ordinary modules: slower, otherwise the same
(``tests/unit/test_linux_lean.py`` compares them).

On the launch path: imports almost nothing.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

try:
    from _sha2 import sha256  # type: ignore[import-not-found]  # Python 3.12 and later
except ImportError:
    try:
        from _sha256 import sha256  # type: ignore[import-not-found]
    except ImportError:
        from hashlib import sha256

_SPACE = " \t\n\r"


class _Context:
    """How the scanner reads: as :class:`json.JSONDecoder` does by default."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    memo: dict[str, str]

    def __init__(self) -> None:
        self.memo = {}

    @staticmethod
    def parse_constant(name: str) -> float:
        """NaN and the infinities, which :mod:`json` reads although they are no JSON."""
        return float(name.replace("Infinity", "inf"))


def _refuse(value: object) -> object:
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


try:
    from _json import encode_basestring_ascii, make_encoder, make_scanner

    def dumps(
        value: object,
        *,
        default: Callable[[Any], Any] = _refuse,
        skipkeys: bool = False,
        allow_nan: bool = True,
    ) -> str:
        """``json.dumps`` with the shortest separators; ASCII.

        Raises:
            TypeError, ValueError, RecursionError: As there.
        """
        if isinstance(value, str):
            return str(encode_basestring_ascii(value))
        encode = make_encoder(
            {}, default, encode_basestring_ascii, None, ":", ",", False, skipkeys, allow_nan
        )
        return "".join(encode(value, 0))

    def loads(text: str | bytes) -> Any:
        """``json.loads`` of UTF-8.

        Raises:
            ValueError: It is no JSON.
            RecursionError: It is nested too deeply.
        """
        if isinstance(text, bytes):
            text = text.decode("utf-8", "surrogatepass")
        start = len(text) - len(text.lstrip(_SPACE))
        try:
            value, end = make_scanner(_Context())(text, start)  # type: ignore[arg-type]
        except StopIteration as error:
            raise ValueError(f"not JSON at character {error.value}") from None
        if text[end:].strip(_SPACE):
            raise ValueError(f"more than one value: at character {end}")
        return value

    dumps({"probe": [1, None]})
    loads("[1.5]")
except (ImportError, TypeError, AttributeError):
    import json as _json_module

    def dumps(
        value: object,
        *,
        default: Callable[[Any], Any] = _refuse,
        skipkeys: bool = False,
        allow_nan: bool = True,
    ) -> str:
        """See above."""
        return _json_module.dumps(
            value, separators=(",", ":"), default=default, skipkeys=skipkeys, allow_nan=allow_nan
        )

    def loads(text: str | bytes) -> Any:
        """See above."""
        return _json_module.loads(text)


__all__ = ["dumps", "loads", "sha256"]
