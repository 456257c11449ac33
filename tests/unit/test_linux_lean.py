"""The lean JSON and SHA-256 do what the standard library's modules do."""

from __future__ import annotations

import hashlib
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gantry.linux import lean

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
RUNTIME = Path(lean.__file__).resolve().parents[2]


def same(one: Any, other: Any) -> bool:
    return repr(one) == repr(other)  # tells 1 from True and knows NaN


@given(VALUES)
def test_it_writes_what_json_writes_and_reads_it_again(value: Any) -> None:
    text = lean.dumps(value)
    assert text == json.dumps(value, separators=(",", ":"))
    assert same(lean.loads(text), json.loads(text))
    assert same(lean.loads(text.encode()), json.loads(text))


@given(st.text() | st.text(alphabet='{}[]",:0123456789.eE+-truefalsn \n\t\\u'))
def test_it_reads_and_refuses_what_json_does(text: str) -> None:
    try:
        expected = json.loads(text)
    except (ValueError, RecursionError):
        with pytest.raises((ValueError, RecursionError)):
            lean.loads(text)
    else:
        assert same(lean.loads(text), expected)


def test_the_options_are_those_of_json() -> None:
    value = {"a": {1, 2}, (1, 2): "skipped", 3: "three", None: 0}
    assert lean.dumps(value, default=sorted, skipkeys=True) == json.dumps(
        value, default=sorted, skipkeys=True, separators=(",", ":")
    )
    with pytest.raises(TypeError):
        lean.dumps({"a": object()})
    with pytest.raises(ValueError, match=r"range|compliant"):
        lean.dumps([math.nan], allow_nan=False)
    circle: list[Any] = []
    circle.append(circle)
    with pytest.raises((ValueError, RecursionError)):
        lean.dumps(circle)


def test_deep_nesting_is_an_error_and_no_crash() -> None:
    for text in ("[" * 100_000, "[" * 100_000 + "]" * 100_000, '{"a":' * 100_000):
        with pytest.raises((ValueError, RecursionError)):
            lean.loads(text)


@given(st.binary())
def test_the_digest_is_sha256(data: bytes) -> None:
    assert lean.sha256(data).hexdigest() == hashlib.sha256(data).hexdigest()


def test_nothing_is_loaded_for_it() -> None:
    script = (
        f"import sys; sys.path.insert(0, {str(RUNTIME)!r}); import gantry.linux.lean;"
        " print(*sorted({'json', 're', 'enum', 'hashlib', '_hashlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-IS", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
