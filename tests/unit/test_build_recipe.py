"""Reading build files: what is taken, what is refused and how that is told."""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from gantry.build.recipe import (
    KEEP,
    MAX_BYTES,
    BuildFileError,
    Copy,
    Link,
    MakeDirectory,
    Owner,
    Recipe,
    Remove,
    Run,
    Write,
    parse,
)
from gantry.build.steps import _Matcher
from gantry.errors import one_line

HEAD = '[manifest]\nname = "example.com/app"\n'


def read(text: str) -> Recipe:
    return parse(text.encode())


def refusal(text: str | bytes) -> str:
    with pytest.raises(BuildFileError) as caught:
        parse(text if isinstance(text, bytes) else text.encode())
    assert one_line(str(caught.value)) == str(caught.value)
    return str(caught.value)


def step(lines: str) -> str:
    return f"{HEAD}[[step]]\n{lines}\n"


def test_every_kind_of_step_is_read() -> None:
    recipe = read(
        """
base = "example.com/base:1.0"
flatten = true
time = 2026-01-02T03:04:05+01:00
[manifest]
name = "example.com/app"
[[step]]
copy = "./app//bin/"
to = "/opt/app/"
owner = "web:adm"
mode = "keep"
exclude = ["*.pyc"]
[[step]]
copy = "."
to = "/srv"
owner = "33"
[[step]]
write = "/etc//motd"
content = ""
mode = "0600"
[[step]]
mkdir = "/var/lib/app"
[[step]]
link = "/bin/app"
target = "../opt/app/bin/app"
[[step]]
remove = ["/a", "/b/"]
[[step]]
run = '''
first
second'''
[[step]]
run = ["/bin/app", "--init", ""]
env = {HOME = "/"}
workdir = "/opt"
user = "web"
network = "host"
"""
    )
    assert (recipe.base, recipe.flatten, recipe.time) == ("example.com/base:1.0", True, 1767319445)
    assert recipe.runs
    assert recipe.steps == (
        Copy("app/bin", "/opt/app", True, Owner("web", "adm"), KEEP, ("*.pyc",)),
        Copy(".", "/srv", False, Owner("33", "33"), None, ()),
        Write("/etc/motd", "", Owner(), 0o600),
        MakeDirectory("/var/lib/app", None, None),
        Link("/bin/app", "../opt/app/bin/app"),
        Remove(("/a", "/b")),
        Run(("/bin/sh", "-e", "-c", "first\nsecond"), "first ...", {}, "/", "0", "0", "none"),
        Run(("/bin/app", "--init", ""), "/bin/app --init ", {"HOME": "/"}, "/opt", "web", "web", "host"),
    )


def test_MAN_03_any_field_of_the_manifest_is_kept_as_it_is() -> None:
    recipe = read(
        HEAD
        + 'acVersion = "0.8.10"\nlabels = [{name = "version", value = "1"}]\n'
        + '"x-unknown" = {deep = [1, 2.5, true, {a = "ü"}]}\n[manifest.app]\n'
        + 'exec = ["/a"]\nuser = "0"\ngroup = "0"\n'
    )
    manifest = json.loads(recipe.image_manifest({"imageName": "example.com/base"}))
    assert manifest == {
        "acKind": "ImageManifest",
        "acVersion": "0.8.10",
        "name": "example.com/app",
        "labels": [{"name": "version", "value": "1"}],
        "x-unknown": {"deep": [1, 2.5, True, {"a": "ü"}]},
        "app": {"exec": ["/a"], "user": "0", "group": "0"},
        "dependencies": [{"imageName": "example.com/base"}],
    }


def test_kind_and_version_of_the_specification_need_not_be_written() -> None:
    manifest = json.loads(read(HEAD).image_manifest())
    assert manifest == {"acKind": "ImageManifest", "acVersion": "0.8.11", "name": "example.com/app"}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[manifest", "not valid TOML: Expected ']' at the end of a table declaration (at end of document)"),
        ("a = 1\na = 2", "(at end of document)"),
        ('base = "x', "(at end of document)"),
        (b'name = "\xff"', "not UTF-8 (at line 1)"),
        (b"#" * (MAX_BYTES + 1), "larger than"),
        ("x = " + "[" * 100_000, "nests too deep"),
        ("x = " + "1" * 5000, "TOML"),
        ("", "no [manifest]"),
        ("manifest = 1", '"manifest" is an integer'),
        ("manifests = 1", 'the build file has no key "manifests" (known: base,'),
        ("[manifest]", '[manifest]: "name" is required'),
        ('[manifest]\nname = "UPPER"', "[manifest]: "),
        (f'base = "example.com/b"\n{HEAD}dependencies = []', "together with a base"),
        (f"flatten = true\n{HEAD}", "without a base"),
        (f'base = "b"\nflatten = 1\n{HEAD}', '"flatten" is an integer'),
        (f'base = "a:b:c"\n{HEAD}', '"base": image reference'),
        (f"base = 1\n{HEAD}", '"base" is an integer'),
        (f"time = 2026-01-01T00:00:00\n{HEAD}", '"time" is no moment'),
        (f'time = "2026-01-01T00:00:00Z"\n{HEAD}', '"time" is no moment'),
        (f"time = 1969-01-01T00:00:00Z\n{HEAD}", "before 1970"),
        (f"{HEAD}x = 2026-01-01", '"manifest.x" is a date or time'),
        (f"{HEAD}x = [1, nan]", '"manifest.x[1]" is nan'),
        (f"{HEAD}x = 0x{'f' * 1000}", "digits"),
        (f"{HEAD}{'a.' * 100}b = 1", "nests deeper"),
        (f"step = 1\n{HEAD}", '"step" is no list of tables'),
    ],
)
def test_TYP_30_a_file_that_is_none_is_refused_in_one_line_that_says_where(
    text: str | bytes, told: str
) -> None:
    assert told in refusal(text)


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ("", "step 1 does nothing (give it one of copy, write,"),
        ('copy = "a"\nrun = "b"', "step 1 does two things: copy and run"),
        ('copy = "a"', 'step 1 (copy), "to": is missing (an absolute path'),
        ('copy = "a"\nto = "b"', '"to": "b" is not absolute'),
        ('copy = "a"\nto = "/b/../c"', 'has ".." in it'),
        ('copy = "/a"\nto = "/b"', '"copy": "/a" is absolute'),
        ('copy = "a/../../b"\nto = "/b"', "leads out of"),
        ('copy = "a"\nto = "/b"\nmod = "0644"', 'step 1 (copy) has no key "mod" (known: copy, to, owner'),
        ('copy = "a"\nto = "/b"\nmode = 644', '"mode": is an integer, not a string'),
        ('copy = "a"\nto = "/b"\nmode = "0888"', '"mode": "0888" is no mode'),
        ('copy = "a"\nto = "/b"\nmode = "17777"', "is no mode"),
        ('copy = "a"\nto = "/b"\nowner = "a:b:c"', '"owner": "a:b:c" is no owner'),
        ('copy = "a"\nto = "/b"\nowner = 0', '"owner": is an integer'),
        ('copy = "a"\nto = "/b"\nexclude = "x"', '"exclude": is no list of strings'),
        ('copy = "a\\u0000"\nto = "/b"', "NUL"),
        ('write = "/a"', '"content": is missing'),
        ('write = "/"\ncontent = ""', "the root is a directory"),
        ('write = "/a"\ncontent = ""\nmode = "keep"', '"keep" is no mode'),
        ('mkdir = ""', '"mkdir": is empty'),
        ('link = "/a"', '"target": is missing'),
        ("remove = []", "is an empty list"),
        ('remove = "/"', "the root cannot be removed"),
        ('remove = "/a"\nforce = true', 'has no key "force"'),
        ("run = []", "names no program"),
        ('run = ["", "x"]', "names no program"),
        ("run = 1", "is no list of strings"),
        ('run = ""', "is empty"),
        ('run = "x"\nnetwork = "bridge"', '"network": "bridge" is not known (one of none, host)'),
        ('run = "x"\nuser = "a:b"', '"user": "a:b" is no user'),
        ('run = "x"\nenv = {"a=b" = "c"}', '"env": "a=b" cannot be'),
        ('run = "x"\nenv = {a = 1}', '"env": "a" is an integer'),
        ('run = "x"\nworkdir = "a"', '"workdir": "a" is not absolute'),
    ],
)
def test_a_step_that_cannot_be_is_refused_with_its_number_and_key(lines: str, told: str) -> None:
    assert told in refusal(step(lines))


def test_too_many_steps_are_refused() -> None:
    assert "more than 1000" in refusal(HEAD + '[[step]]\nremove = "/a"\n' * 1001)


@pytest.mark.parametrize(
    ("pattern", "fits", "fits_not"),
    [
        ("*.pyc", ["a.pyc", "d/e/a.pyc"], ["a.py", "a.pyc.d"]),
        (".git", [".git", "sub/.git"], ["x.git", ".gitignore"]),
        ("/build", ["build"], ["sub/build"]),
        ("docs/*.md", ["docs/a.md"], ["docs/x/a.md", "x/docs/a.md"]),
        ("docs/**/*.md", ["docs/a.md", "docs/x/y/a.md"], ["a.md"]),
        ("a/**", ["a/b", "a/b/c"], ["b"]),
        ("[ab]?", ["ax", "d/bx"], ["cx", "a"]),
    ],
)
def test_patterns_of_exclude(pattern: str, fits: list[str], fits_not: list[str]) -> None:
    matcher = _Matcher(pattern)
    assert [path for path in fits + fits_not if matcher(path)] == fits


def test_a_pattern_cannot_take_for_ever() -> None:
    assert not _Matcher("/".join(["**", "*"] * 40) + "/x")("/".join("a" * 200))


# What people (and machines) might write, put together at random.
_WORDS = """
    flatten time manifest step to owner mode exclude content target env workdir user group network name x
"""
_KEYS = st.sampled_from(_WORDS.split())
_ACTIONS = st.sampled_from(["copy", "write", "mkdir", "link", "remove", "run"])
_TEXTS = st.one_of(
    st.text(st.characters(codec="utf-8"), max_size=8),
    st.sampled_from(["/a", "a/b", "..", "0644", "keep", "host", "a:b", "/a/../b", "*"]),
).map(lambda text: json.dumps(text, ensure_ascii=False))
_OTHERS = """
    1 -1 1.5 nan inf true [] ["/a"] ["a",1] {} {a="b"} {a=1} [{}] 2026-01-01 2026-01-01T00:00:00Z 0x10 [
"""
_VALUES = st.one_of(_TEXTS, _TEXTS, _TEXTS, st.sampled_from(_OTHERS.split()))
_LINES = st.builds(lambda key, value: f"{key} = {value}", _KEYS, _VALUES)
_STEPS = st.builds(
    lambda action, value, lines: "\n".join(["[[step]]", f"{action} = {value}", *lines]),
    _ACTIONS,
    _VALUES,
    st.lists(_LINES, max_size=2),
)
_RARELY = st.one_of(*[st.just([])] * 7, st.lists(_LINES, max_size=1))
_FILES = st.builds(
    lambda top, more, steps: "\n".join([*top, HEAD.strip(), *more, *steps]),
    _RARELY,
    _RARELY,
    st.lists(_STEPS, max_size=2),
)


@settings(max_examples=600, deadline=None)
@given(_FILES)
def test_whatever_is_written_is_read_or_refused_in_one_line(text: str) -> None:
    try:
        recipe = parse(text.encode("utf-8", "surrogatepass"))
    except BuildFileError as error:
        event(f"refused: {'step' in error.message}")
        return
    event(f"read: {len(recipe.steps)}")
    assert json.loads(recipe.image_manifest())["name"]
    assert all("\0" not in str(each) for each in recipe.steps)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_whatever_bytes_there_are_they_are_read_or_refused(raw: bytes) -> None:
    with contextlib.suppress(BuildFileError):
        parse(raw)


def test_the_pages_example_is_a_build_file() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs/build-files.md").read_text()
    (example,) = re.findall(r"^```toml\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    recipe = parse(example.encode())
    assert recipe.base == "example.com/base:1.0"
    assert [str(step).split()[0] for step in recipe.steps] == ["run", "copy", "write"]
