"""Documents that are refused before anything is touched; the message begins with the place."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gantry.apply.document import DocumentError, parse

FINGERPRINT = "0123456789ABCDEF0123456789ABCDEF01234567"


def pod(**fields: Any) -> bytes:
    app = {"image": "example.com/app", **fields.pop("app", {})}
    return json.dumps({"pods": [{"name": "web", "apps": [app], **fields}]}).encode()


@pytest.mark.parametrize("depth", [65, 600, 950, 100_000])
def test_deep_documents(depth: int) -> None:
    with pytest.raises(DocumentError):
        parse(b'{"set":' + b"[" * depth + b"]" * depth + b"}")


def test_a_key_that_is_given_twice() -> None:
    with pytest.raises(DocumentError, match=r"\$\.pods\[0\]\.name: given twice"):
        parse(b'{"pods":[{"name":"a","name":"b","state":"absent"}]}')


@pytest.mark.parametrize("prefix", ["../../../etc", "example.com//x", "Example.com"])
def test_a_prefix_that_is_no_name(prefix: str) -> None:
    document = {"trust": [{"prefix": prefix, "fingerprint": FINGERPRINT, "state": "absent"}]}
    with pytest.raises(DocumentError, match=r"\$\.trust\[0\]\.prefix"):
        parse(json.dumps(document).encode())


@pytest.mark.parametrize(
    "fields",
    [
        {"app": {"memory": "-64Mi"}}, {"app": {"memory": "0"}}, {"app": {"memory": "16Ei"}},
        {"app": {"args": ["x" * 131072]}}, {"app": {"environment": {"A": "x" * 131071}}},
        {"hostname": "a\nb"},
    ],
)  # fmt: skip
def test_values_that_could_only_fail_later(fields: dict[str, Any]) -> None:
    with pytest.raises(DocumentError if "memory" in str(fields) else Exception, match=r"^\$\.pods\[0\]"):
        parse(pod(**fields))
