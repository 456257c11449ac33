"""Documents: what is refused, and that the refusal names the place (and no secret)."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gantry.apply.document import DocumentError, parse
from gantry.releases.spec import MASK, SpecError, canonical, masked, release_id

FPR = "0123456789abcdef0123456789abcdef01234567"


def document(**top: Any) -> bytes:
    return json.dumps(top).encode()


def pod(**fields: Any) -> bytes:
    return document(pods=[{"name": "web", "apps": [{"image": "example.com/web:1"}], **fields}])


def app(**fields: Any) -> bytes:
    return document(pods=[{"name": "web", "apps": [{"image": "example.com/web:1", **fields}]}])


def test_the_empty_document_is_one() -> None:
    parsed = parse(b"{}")
    assert (parsed.trust, parsed.images, parsed.pods, parsed.prune) == ([], [], [], False)


def test_a_whole_document() -> None:
    parsed = parse(
        document(
            set="site",
            trust=[
                {
                    "prefix": "example.com/",
                    "fingerprint": "0123 4567 89AB CDEF 0123  4567 89AB CDEF 0123 4567",
                }
            ],
            images=[{"name": "example.com/web:1", "pull": "update"}],
            pods=[
                {
                    "name": "web",
                    "state": "stopped",
                    "apps": [{"image": "example.com/web:1", "environment": {"A": "b"}, "mounts": []}],
                    "net": ["default"],
                    "ports": [{"name": "http", "host_port": 80, "protocol": "tcp", "host_ip": None}],
                    "restart": "on-failure",
                }
            ],
            prune=True,
            ca_file="/etc/ca.pem",
            insecure_options=["none"],
        )
    )
    assert parsed.trust[0].label == f"example.com:{FPR}"
    assert parsed.pods[0].spec is not None
    assert parsed.pods[0].spec.ports[0].host_port == 80
    assert parsed.insecure == frozenset()


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (b"", "the document is not JSON"),
        (b"\xff", "the document is not JSON"),
        (b"[]", r"\$: the document must be a JSON object"),
        (b"[" * 100000, "the document is not JSON"),
        (document(pod=[]), r'\$: object contains unknown field "pod"'),
        (document(pods={}), r'\$\.pods: expected "array", got "object"'),
        (document(pods=[{}]), r'\$\.pods\[0\]: object missing required field "name"'),
        (document(prune=True), r"\$\.prune: needs a set"),
        (document(set="../x"), r"\$\.set: must be letters"),
        (document(insecure_options=["all"]), r'\$\.insecure_options: unknown option "all"'),
        (document(images=[{"name": ""}]), r"\$\.images\[0\]\.name: must be"),
        (
            document(images=[{"name": "a.b/c"}, {"name": "a.b/c"}]),
            r'\$\.images\[1\]: the image "a\.b/c" is listed twice',
        ),
        (
            document(images=[{"name": "a.b/c", "pull": "always"}]),
            r"\$\.images\[0\]\.pull: invalid enum value",
        ),
        (
            document(trust=[{"fingerprint": "0123", "root": True}]),
            r"\$\.trust\[0\]\.fingerprint: must be the 40",
        ),
        (document(trust=[{"fingerprint": FPR}]), r"\$\.trust\[0\]: needs either prefix or root"),
        (document(trust=[{"fingerprint": FPR, "root": True, "prefix": "a"}]), r"needs either prefix or root"),
        (document(trust=[{"fingerprint": FPR, "prefix": "https://a"}]), r"\$\.trust\[0\]\.prefix: must be"),
        (pod(image="x"), r'\$\.pods\[0\]: object contains unknown field "image"'),
        (pod(name="Web"), r'\$\.pods\[0\]\.name: "Web" cannot be the name of a pod'),
        (pod(state="running"), r"\$\.pods\[0\]\.state: invalid enum value"),
        (pod(apps=[]), r"\$\.pods\[0\]\.apps: a pod needs at least one app"),
        (pod(net=["a/b"]), r'\$\.pods\[0\]\.net\[0\]: no network is called "a/b"'),
        (pod(net=["host", "lan"]), r'\$\.pods\[0\]\.net: "host" cannot be combined with others'),
        (pod(net=["lan", "lan:IP=10.0.0.1"]), r'\$\.pods\[0\]\.net: "lan" is listed twice'),
        (pod(net=["host"], ports=[{"name": "h", "host_port": 80}]), r"\.ports: cannot be forwarded"),
        (pod(ports=[{"host_port": 80}]), r"\$\.pods\[0\]\.ports\[0\]: needs either name or pod_port"),
        (
            pod(ports=[{"name": "h", "host_port": 0}]),
            r"\$\.pods\[0\]\.ports\[0\]\.host_port: must be between",
        ),
        (
            pod(volumes=[{"name": "v", "kind": "host"}]),
            r"\$\.pods\[0\]\.volumes\[0\]\.source: a volume of kind host",
        ),
        (pod(volumes=[{"name": "v", "kind": "host", "source": "x"}]), r"source: must be an absolute path"),
        (pod(volumes=[{"name": "v", "kind": "empty", "mode": "999"}]), r"mode: must be octal"),
        (
            document(pods=[{"name": "web", "net": ["host"]}]),
            r"\$\.pods\[0\]: net says what the pod runs, but its apps",
        ),
        (
            app(mounts=[{"volume": "v", "path": "/v"}]),
            r"\$\.pods\[0\]\.apps\[0\]\.mounts\[0\]\.volume: no volume is",
        ),
        (app(exec="/bin/x"), r'\$\.pods\[0\]\.apps\[0\]\.exec: expected "array \| null", got "str"'),
        (app(exec=[]), r"\$\.pods\[0\]\.apps\[0\]\.exec: must not be empty"),
        (app(args=["a\0b"]), r"\$\.pods\[0\]\.apps\[0\]\.args\[0\]: must not hold a NUL"),
        (app(environment={"A=B": "x"}), r"\$\.pods\[0\]\.apps\[0\]\.environment: the name of a variable"),
        (
            app(environment={"A": None}),
            r"\$\.pods\[0\]\.apps\[0\]\.environment\.A: must be text, not NoneType",
        ),
        (app(caps_retain=["CAP_KILL"], caps_remove=["CAP_KILL"]), "cannot use both"),
    ],
)
def test_what_is_refused_and_where(data: bytes, line: str) -> None:
    with pytest.raises(SpecError, match=line) as e:
        parse(data)
    assert "\n" not in str(e.value)
    assert e.value.code == "document"


@pytest.mark.parametrize("value", [8080, True, 1.5, ["s3cret"], "s3cret\0"])
def test_case_52_a_bad_value_is_named_and_not_shown(value: Any) -> None:
    with pytest.raises(DocumentError.__base__, match=r"environment\.TOKEN") as e:
        parse(app(environment={"TOKEN": value}))
    assert "8080" not in str(e.value)
    assert "s3cret" not in str(e.value)


NAMES = st.text(min_size=1).filter(lambda n: "=" not in n and "\0" not in n)
TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))


@given(st.dictionaries(NAMES, TEXTS))
def test_case_52_values_come_through_byte_for_byte(environment: dict[str, str]) -> None:
    names = {
        n.encode("utf-8", "ignore").decode(): v for n, v in environment.items() if n.encode("utf-8", "ignore")
    }
    parsed = parse(json.dumps({"pods": [{"name": "web", "apps": [
        {"image": "a.b/c", "environment": names, "args": list(names.values())}
    ]}]}).encode())  # fmt: skip
    spec = parsed.pods[0].spec
    assert spec is not None
    assert spec.apps[0].environment == names
    assert spec.apps[0].args == list(names.values())


def test_null_means_not_given() -> None:
    assert parse(pod(hostname=None, ports=None, restart=None)).pods == parse(pod()).pods


@given(st.binary(max_size=200))
def test_no_bytes_break_the_parser(data: bytes) -> None:
    try:
        parse(data)
    except SpecError:
        return


LEAVES = st.none() | st.booleans() | st.integers(-5, 70000) | st.text(max_size=5) | st.floats()
TREES = st.recursive(
    LEAVES,
    lambda c: (
        st.lists(c, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "name",
                    "apps",
                    "pods",
                    "image",
                    "environment",
                    "net",
                    "ports",
                    "state",
                    "x",
                    "mounts",
                    "set",
                ]
            ),
            c,
        )
    ),
)


@given(st.dictionaries(st.sampled_from(["set", "trust", "images", "pods", "prune"]), TREES))
def test_no_tree_breaks_the_parser(tree: dict[str, Any]) -> None:
    try:
        parse(json.dumps(tree).encode())
    except SpecError as e:
        assert str(e).startswith(("$", "the document"))


def spec_of(data: bytes) -> Any:
    spec = parse(data).pods[0].spec
    assert spec is not None
    return spec


def test_defaults_written_out_make_the_same_release() -> None:
    written = pod(net=["default"], ports=[], restart="always", hostname=None)
    assert canonical(spec_of(written)) == canonical(spec_of(pod()))


def test_unit_settings_make_no_other_release() -> None:
    images = {"example.com/web:1": "sha512-x"}
    same = release_id(spec_of(pod()), images)
    assert release_id(spec_of(pod(restart="never", settle=3, stop_timeout=2)), images) == same
    assert release_id(spec_of(pod(hostname="x")), images) != same
    assert release_id(spec_of(pod()), {"example.com/web:1": "sha512-y"}) != same


def test_case_57_secrets_are_masked_and_a_change_still_shows() -> None:
    old = spec_of(app(environment={"SAME": "s3cret-a", "CHANGED": "s3cret-b", "GONE": "s3cret-c"}))
    new = spec_of(app(environment={"SAME": "s3cret-a", "CHANGED": "s3cret-d", "ADDED": "s3cret-e"}))
    before, after = masked(old, new), masked(new, old)
    assert before is not None
    assert after is not None
    assert "s3cret" not in json.dumps([before, after])
    assert before["apps"][0]["environment"]["SAME"] == after["apps"][0]["environment"]["SAME"] == MASK
    assert after["apps"][0]["environment"]["CHANGED"] != MASK
    assert set(after["apps"][0]["environment"]) == {"SAME", "CHANGED", "ADDED"}
    assert masked(new, new) == masked(new)
