"""The command as a host has it: end to end over HTTPS, with real signatures, real pods."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.command import Site
from tests.support.openpgp import make_key


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with Site(tmp_path) as made:
        yield made


def one_line(text: str) -> str:
    lines = text.splitlines()
    assert len(lines) == 1, text
    return lines[0]


# --- without root ---


def test_a_missing_command_shows_help_and_ends_with_two(site: Site) -> None:
    done = site.gantry()
    assert done.returncode == 2
    assert done.stderr == "gantry: missing command\n"
    headings = re.findall(r"^([A-Z ]+):$", done.stdout, re.MULTILINE)
    assert headings == ["NAME", "USAGE", "VERSION", "COMMANDS", "DESCRIPTION", "OPTIONS"]


@pytest.mark.parametrize(
    "words", [("--help",), ("-h",), ("help",), ("help", "image"), ("help", "run"), ("run", "-h")]
)
def test_help_is_on_standard_output(site: Site, words: tuple[str, ...]) -> None:
    done = site.gantry(*words)
    assert (done.returncode, done.stderr) == (0, "")
    assert "NAME:\n\tgantry" in done.stdout


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("nonsense",), r'Error: unknown command "nonsense" for "gantry" .*'),
        (("list", "--nonsense"), r"Error: unknown flag: --nonsense .*"),
        (("--nonsense",), r"Error: unknown flag: --nonsense .*"),
        (("list", "--format=yaml"), r"list: Invalid format option: yaml .*"),
        (("image", "rm"), r"image rm: missing argument .*"),
        (("image", "list", "--no-legend", "x"), r'image list: unexpected argument "x" .*'),
        (("attach", "x"), r"attach: attach is not available: the streams of an app are not kept open; .*"),
        (("--insecure-options=nope", "list"), r'list: unknown option "nope" .*'),
        (("--dir=", "list"), r'list: "" is not a valid data directory .*'),
        (("status", "cafe"), r'status: no matches found for "cafe" .*'),
        (("pod", "status", "web"), r'pod status: no pod is called "web" .*'),
        (("trust", "key.asc"), r"trust: trusting a key without a scope .*"),
        (("fetch", "example.com/none:1"), r"fetch: .*"),
    ],
)
def test_a_failure_is_one_line_and_254(site: Site, words: tuple[str, ...], line: str) -> None:
    done = site.gantry(*words)
    assert done.returncode == 254
    assert re.fullmatch(line, one_line(done.stderr)), done.stderr
    assert "Traceback" not in done.stdout


def test_a_failure_is_json_when_json_is_asked_for(site: Site) -> None:
    done = site.gantry("image", "cat-manifest", "example.com/none:1")
    assert done.returncode == 254
    assert site.json("pod", "status", "web")["error"]["code"] == "not-found"
    assert site.json("pod", "status", "--nonsense", "web")["error"]["code"] == "unknown-flag"
    assert site.json("nonsense")["error"]["code"] == "unknown-command"


def test_empty_lists(site: Site) -> None:
    for words in (("list",), ("image", "list"), ("pod", "list"), ("audit", "list"), ("trust", "list")):
        assert site.json(*words) == []
        header = site.gantry(*words)
        assert header.stdout.endswith("\n")
        assert header.stdout.count("\n") == 1
        assert site.gantry(*words, "--no-legend").stdout == "\n"


def test_fetch_verifies_stores_and_lists(site: Site) -> None:
    made = site.publish(exec_=["/bin/true"])
    refused = site.gantry("fetch", "example.com/web:1.0")
    assert refused.returncode == 254
    one_line(refused.stderr)
    site.trust()
    done = site.gantry("fetch", "example.com/web:1.0")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == made.id[: len("sha512-") + 32]
    assert "signature verified: Test Maker" in done.stderr
    assert (
        site.gantry("fetch", "--full", "--pull-policy=new", "example.com/web:1.0").stdout.strip()
        == made.id[:71]
    )
    header = site.gantry("image", "list").stdout.splitlines()[0]
    assert re.split("\t+", header) == ["ID", "NAME", "SIZE", "IMPORT TIME", "LAST USED"]
    row = site.gantry("image", "list", "--no-legend").stdout
    assert re.match(r"sha512-[0-9a-f]{12}\texample\.com/web:1\.0\t", row)
    assert [i["id"] for i in site.json("image", "list")] == [made.id]
    manifest = json.loads(site.gantry("image", "cat-manifest", "example.com/web").stdout)
    assert manifest["name"] == "example.com/web"
    events = [e["event"] for e in site.json("audit", "list")]
    assert events == ["image.refuse", "trust.add", "image.fetch"]
    assert site.gantry("audit", "verify").stdout.startswith("host: 3 entries, all whole")
    exported = site.directory / "out.tar"
    assert site.gantry("image", "export", "example.com/web", str(exported)).returncode == 0
    assert exported.read_bytes() == made.tar
    assert site.gantry("image", "export", "example.com/web", str(exported)).returncode == 254
    again = site.directory / "out.aci"
    told = site.json("image", "export", "--compressed", "example.com/web", str(again))
    assert told == {
        "id": made.id, "name": told["name"], "file": str(again), "signature": f"{again}.asc",
    }  # fmt: skip
    assert again.read_bytes() == made.data
    assert Path(told["signature"]).read_bytes().startswith(b"-----BEGIN PGP SIGNATURE-----")
    rendered = site.json("image", "render", "example.com/web", str(site.directory / "tree"))
    assert rendered["directory"] == str(site.directory / "tree")
    assert "successfully removed" in site.gantry("image", "rm", "example.com/web").stdout
    gone = site.json("image", "rm", "example.com/web", "example.com/other")
    assert [r["error"]["code"] for r in gone] == ["not-found", "not-found"]
    assert site.gantry("image", "rm", "example.com/web").returncode == 254


def test_three_refusals_are_three_different_lines(site: Site) -> None:
    site.trust()
    site.publish(version="1", signed=False, exec_=["/bin/true"])
    site.publish(version="2", key=make_key("Stranger <s@example.org>"), exec_=["/bin/true"])
    site.publish(version="3", exec_=["/bin/true"])
    url = "/example.com/web-3-linux-amd64.aci"
    broken = bytearray(site.files[url])
    broken[len(broken) // 2] ^= 1
    site.files[url] = bytes(broken)
    codes = []
    for version in ("1", "2", "3"):
        done = site.gantry("fetch", f"example.com/web:{version}")
        assert done.returncode == 254
        one_line(done.stderr)
        codes.append(site.json("fetch", f"example.com/web:{version}")["error"]["code"])
    assert len(set(codes)) == 3, codes
    assert site.json("image", "list") == []


def test_build_sign_and_run_nothing(site: Site, tmp_path: Path) -> None:
    layout = tmp_path / "layout"
    (layout / "rootfs").mkdir(parents=True)
    (layout / "rootfs" / "hello").write_text("hello\n")
    (layout / "manifest").write_text(
        json.dumps({"acKind": "ImageManifest", "acVersion": "0.8.11", "name": "example.com/built"})
    )
    first, second = tmp_path / "a.aci", tmp_path / "b.aci"
    assert site.gantry("build", str(layout), str(first)).returncode == 0
    assert site.gantry("build", str(layout), str(second)).returncode == 0
    assert first.read_bytes() == second.read_bytes()
    assert site.gantry("image", "validate", str(first)).stdout.startswith(f"{first}: valid: ")
    secret = tmp_path / "secret.asc"
    secret.write_bytes(site.key.secret)
    done = site.gantry("sign", f"--key={secret}", str(first))
    assert done.returncode == 0, done.stderr
    site.trust()
    fetched = site.gantry("fetch", str(first))
    assert fetched.returncode == 0, fetched.stderr
    assert "two keys" in site.gantry("sign", f"--key={secret}", "--gpg-key=x", str(first)).stderr
    owned = tmp_path / "owned.aci"
    if os.geteuid() == 0:
        os.chown(layout / "rootfs" / "hello", 1000, 1000)
    assert site.gantry("build", "--owner-root", str(layout), str(owned)).returncode == 0
    with tarfile.open(owned) as tar:
        assert {(m.uid, m.gid) for m in tar} == {(0, 0)}
    bad = tmp_path / "bad.aci"
    bad.write_bytes(b"not an image")
    assert site.gantry("image", "validate", str(bad)).returncode == 254


def test_trust_needs_a_look_at_the_fingerprint(site: Site) -> None:
    done = site.gantry("trust", "--prefix=example.com", str(site.key_file))
    assert done.returncode == 254
    assert "lack of tty" in done.stderr
    wrong = site.gantry("trust", "--prefix=example.com", f"--fingerprint={'0' * 40}", str(site.key_file))
    assert wrong.returncode == 254
    assert site.json("trust", "list") == []
    site.trust()
    assert [k["prefix"] for k in site.json("trust", "list")] == ["example.com"]
    assert (
        "Already trusted"
        in site.gantry(
            "trust", "--prefix=example.com", "--skip-fingerprint-review", str(site.key_file)
        ).stdout
    )
    masked = site.json("trust", "mask", "--prefix=example.com/app", site.key.fingerprint)
    assert (masked["changed"], masked["prefix"]) == (True, "example.com/app")
    assert [k["masked"] for k in site.json("trust", "list")] == [False, True]
    assert site.gantry("trust", "mask", site.key.fingerprint).returncode == 254
    assert site.gantry("trust", "rm", "--prefix=example.com/app", site.key.fingerprint).returncode == 0
    assert site.gantry("trust", "rm", site.key.fingerprint).returncode == 0
    assert site.gantry("trust", "rm", site.key.fingerprint).returncode == 254


def test_a_reader_that_goes_away_is_no_error_message(site: Site) -> None:
    with subprocess.Popen(
        site.argv("help", "run"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=site.environment
    ) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        assert process.stderr.read() == b""


def test_completions_are_scripts(site: Site, tmp_path: Path) -> None:
    for shell in ("bash", "zsh", "fish"):
        script = site.gantry("completion", shell)
        assert script.returncode == 0
        if shell == "bash":
            path = tmp_path / "completion"
            path.write_text(script.stdout)
            probe = f'. {path}; COMP_WORDS=(gantry image ""); COMP_CWORD=2; _gantry; echo "${{COMPREPLY[@]}}"'
            shown = subprocess.run(["bash", "-c", probe], capture_output=True, text=True, check=True)
            assert "cat-manifest" in shown.stdout
    assert site.gantry("completion", "tcsh").returncode == 254


# --- with root ---

root = pytest.mark.root


@root
@pytest.mark.parametrize(
    ("script", "status", "output"),
    [("exit 0", 0, ""), ("exit 7", 7, ""), ("echo hello", 0, "hello\n"), ("kill -9 $$", 137, "")],
)
def test_run_fetches_and_ends_as_the_app_does(site: Site, script: str, status: int, output: str) -> None:
    site.publish(exec_=["/bin/sh", "-c"])
    site.trust()
    uuid_file = site.directory / "uuid"
    done = site.gantry(
        "run", "--net=none", f"--uuid-file-save={uuid_file}", "example.com/web:1.0", "--", script
    )
    assert done.returncode == status, done.stderr
    assert done.stdout == output
    uuid = uuid_file.read_text()
    assert re.fullmatch("[0-9a-f-]{36}", uuid)
    shown = site.gantry("status", f"--uuid-file={uuid_file}").stdout
    assert f"app-web={status}\n" in shown
    assert shown.startswith("state=exited\n")
    listed = site.gantry("list", "--full", "--no-legend").stdout.split("\t")
    assert listed[0] == uuid
    assert site.gantry("stop", uuid).stdout == f'pod "{uuid}" is already stopped\n'
    assert site.gantry("rm", uuid[:8]).stdout == f'"{uuid}"\n'
    assert site.json("list") == []
    # What was fetched once is not fetched again.
    connections = list(site.proxy.connections)
    assert site.gantry("run", "--net=none", "example.com/web:1.0", "--", script).returncode == status
    assert site.proxy.connections == connections


@root
def test_case_32_36_52_words_and_variables_arrive_byte_for_byte(site: Site) -> None:
    site.publish(exec_=["/bin/sh", "-c", 'for a; do echo "$a"; done; echo "$ODD"', "sh"])
    site.trust()
    words = [
        "-p",
        "8080",
        "--env",
        "$$",
        "${HOME}",
        "%n",
        "100%",
        "%20",
        '"quoted"',
        "back\\slash",
        "",
        "é 日本",
        "# &",
    ]
    odd = "a=b\n$$ %n \"x\" 'y' \\ é 日本"
    done = site.gantry(
        "run", "--net=none", f"--set-env=ODD={odd}", "example.com/web:1.0", "--", *words, "---"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "".join(f"{w}\n" for w in words) + odd + "\n"


@root
def test_variables_override_each_other_in_the_documented_order(site: Site, tmp_path: Path) -> None:
    app = {
        "exec": ["/bin/env"], "user": "0", "group": "0",
        "environment": [{"name": n, "value": "image"} for n in ("B", "C", "D", "E")],
    }  # fmt: skip
    site.publish(app=app)
    site.trust()
    variables = tmp_path / "env"
    variables.write_text("# comment\n\nC=file\nD=file\nE=file\n")
    done = subprocess.run(
        site.argv(
            f"--ca-file={site.server.ca_file}", "run", "--net=none",
            "--inherit-env", f"--set-env-file={variables}",
            "--set-env=D=flag", "--set-env=E=flag", "example.com/web:1.0", "--environment=E=app",
        ),
        capture_output=True, text=True, check=True, env={**site.environment, "A": "caller", "B": "caller"},
    )  # fmt: skip
    found = dict(line.split("=", 1) for line in done.stdout.splitlines())
    assert [found[n] for n in "ABCDE"] == ["caller", "image", "file", "flag", "app"]


@root
def test_a_pod_manifest_is_run_as_it_says(site: Site, tmp_path: Path) -> None:
    made = site.publish(exec_=["/bin/sh", "-c", "echo image"])
    site.trust()
    app = {"exec": ["/bin/sh", "-c", "cat /data/f /etc/hosts; echo manifest"], "user": "0", "group": "0"}
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared/f").write_text("from a volume\n")
    manifest: dict[str, Any] = {
        "acKind": "PodManifest",
        "acVersion": "0.8.11",
        "apps": [
            {
                "name": "main",
                "image": {"name": "example.com/web", "labels": [{"name": "version", "value": "1.0"}]},
                "app": app,
                "mounts": [{"volume": "data", "path": "/data"}],
            }
        ],
        "volumes": [{"name": "data", "kind": "host", "source": str(tmp_path / "shared")}],
        "userLabels": {"kept": "1.50"},
    }
    file = tmp_path / "pod.json"

    def run(*words: str, **image: object) -> subprocess.CompletedProcess[str]:
        manifest["apps"][0]["image"] |= image
        file.write_text(json.dumps(manifest))
        return site.gantry(
            "run", "--net=none", "--hosts-entry=192.0.2.1=db", f"--pod-manifest={file}", *words
        )

    done = run()  # by its name: it is fetched
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("from a volume\n127.0.0.1 localhost")
    assert done.stdout.endswith("192.0.2.1 db\nmanifest\n")
    asked = len(site.proxy.connections)
    assert run(id=made.id).returncode == 0
    assert len(site.proxy.connections) == asked
    done = run(id="sha512-" + "0" * 128)
    assert done.returncode == 254
    assert "of the pod manifest wants sha512-0000" in done.stderr
    for words in (
        ["example.com/web:1.0"],
        ["--volume=x,kind=empty"],
        ["--mount=volume=data,target=/x"],
        ["--port=http:80"],
        ["--set-env=A=1"],
        ["--set-env-file=/dev/null"],
        ["--inherit-env"],
        ["--pull-policy=never"],
        ["--no-store"],
        ["example.com/web:1.0", "--exec=/bin/true"],
    ):
        done = run(*words, id=made.id)
        assert done.returncode == 254
        assert "run: conflicting flags set with --pod-manifest (see --help)" in done.stderr
    del manifest["apps"][0]["image"]["name"], manifest["apps"][0]["image"]["id"]
    assert "names no image" in run().stderr
    file.write_text('{"acKind": "PodManifest", "acVersion": "0.8.11", "apps": [')
    done = site.gantry("prepare", f"--pod-manifest={file}")
    assert done.stderr.startswith(f"prepare: {file}: ")
    assert done.stderr.count("\n") == 1


@root
def test_prepare_then_run_prepared(site: Site) -> None:
    site.publish(exec_=["/bin/sh", "-c", "exit 3"])
    site.trust()
    prepared = site.gantry("prepare", "--net=none", "example.com/web:1.0")
    assert prepared.returncode == 0, prepared.stderr
    uuid = prepared.stdout.strip()
    assert "state=prepared" in site.gantry("status", uuid).stdout
    manifest = json.loads(site.gantry("cat-manifest", uuid).stdout)
    assert manifest["apps"][0]["image"]["name"] == "example.com/web"
    assert site.gantry("run-prepared", uuid).returncode == 3
    again = site.gantry("run-prepared", uuid)
    assert again.returncode == 254
    assert "is not prepared" in one_line(again.stderr)
    assert "Garbage collecting pod" in site.gantry("gc", "--grace-period=0").stdout
    assert site.json("list") == []


@root
def test_results_of_pods_as_json(site: Site) -> None:
    site.publish(exec_=["/bin/true"])
    site.trust()
    uuid = site.json("prepare", "--net=none", "example.com/web:1.0")["uuid"]
    stopped = site.json("stop", uuid, "cafe")
    assert stopped[1]["error"]["code"] == "not-found"
    assert site.json("rm", uuid) == [{"pod": uuid, "uuid": uuid}]
    assert site.json("rm", uuid)[0]["error"]["code"] == "not-found"


@root
def test_run_leaves_no_pod_behind_that_could_not_be_started(site: Site) -> None:
    handlers = [{"name": "pre-start", "exec": ["/bin/false"]}]
    app = {"exec": ["/bin/true"], "user": "0", "group": "0", "eventHandlers": handlers}
    site.publish(app=app)
    site.trust()
    done = site.gantry("run", "--net=none", "example.com/web:1.0")
    assert done.returncode == 254
    assert "pre-start handler" in done.stderr
    assert site.json("list") == []
    # A pod of its own is the user's: it stays.
    uuid = site.gantry("prepare", "--net=none", "example.com/web:1.0").stdout.strip()
    assert site.gantry("run-prepared", uuid).returncode == 254
    assert [p["state"] for p in site.json("list")] == ["prepared"]


@root
def test_apply_fetches_what_an_image_in_the_store_depends_on(site: Site) -> None:
    site.publish("example.com/base", files={"base": "x"})
    dependencies = [{"imageName": "example.com/base"}]
    labels = [{"name": "version", "value": "1.0"}]
    dependencies[0]["labels"] = labels  # type: ignore[assignment]
    site.publish(exec_=["/bin/true"], dependencies=dependencies)
    site.trust()
    assert site.gantry("fetch", "example.com/web:1.0").returncode == 0
    assert site.gantry("image", "rm", "example.com/base:1.0").returncode == 0
    pod = {
        "name": "web", "state": "stopped", "net": ["none"], "apps": [{"image": "example.com/web:1.0"}],
    }  # fmt: skip
    units, ca_file = f"--unit-dir={site.units}", site.server.ca_file
    refused = site.json("apply", units, document={"pods": [{**pod, "pull": "never"}], "ca_file": ca_file})
    assert refused["error"]["code"] == "not-found"
    done = site.json("apply", units, document={"pods": [pod], "ca_file": ca_file})
    assert "error" not in done, done
    assert len(site.json("image", "list")) == 2


@root
def test_a_wrong_flag_is_told_before_anything_is_fetched(site: Site) -> None:
    site.publish(exec_=["/bin/true"])
    for flag in (
        "--port=x",
        "--set-env=x",
        "--volume=x",
        "--pull-policy=x",
        "--stage1-name=none-such",
        "--stage1-name=",
        "--mount=volume=v,target=/x",
    ):
        done = site.gantry("run", flag, "example.com/web:1.0")
        assert done.returncode == 254, flag
        one_line(done.stderr)
    assert site.proxy.connections == []
    assert site.json("list") == []


@root
def test_status_says_who_signed_what_runs(site: Site) -> None:
    site.publish(exec_=["/bin/true"])
    site.trust()
    for flags, signer in ([], site.key.fingerprint), (["--insecure-options=image", "--no-store"], None):
        uuid_file = site.directory / "uuid"
        done = site.gantry(
            "run", *flags, "--net=none", f"--uuid-file-save={uuid_file}", "example.com/web:1.0"
        )
        assert done.returncode == 0, done.stderr
        [app] = site.json("status", uuid_file.read_text())["apps"]
        text = site.gantry("status", uuid_file.read_text()).stdout
        if signer:
            assert app["verification"]["key"] == signer
            assert app["verification"]["verified_at"] >= app["verification"]["signed_at"]
            assert f"signed-web={signer} Test Maker <maker@example.com> at 20" in text
        site.gantry("image", "rm", "example.com/web:1.0")
        assert site.json("status", uuid_file.read_text())["apps"] == [app]  # it knows without the store
    assert app["verification"] is None
    assert "signed-web=not verified" in text


@root
def test_apply_without_systemd(site: Site) -> None:
    """All but the service manager: a stopped pod is prepared, pinned, then removed without a trace."""
    site.publish(exec_=["/bin/sleep", "100"])
    key = {"prefix": "example.com", "fingerprint": site.key.fingerprint, "key": site.key.public.decode()}
    pod = {"name": "web", "state": "stopped", "net": ["none"], "apps": [
        {"image": "example.com/web:1.0", "environment": {"TOKEN": "s3cret"}},
    ]}  # fmt: skip
    document: dict[str, Any] = {
        "set": "site", "trust": [key], "images": [{"name": "example.com/web:1.0"}], "pods": [pod],
        "ca_file": site.server.ca_file, "prune": True,
    }  # fmt: skip
    units = f"--unit-dir={site.units}"
    before = tree(site.directory)
    checked = site.json("apply", "--check", units, document=document)
    assert checked["changed"]
    assert "error" not in checked
    assert tree(site.directory) == before
    assert site.proxy.connections == []
    done = site.json("apply", units, document=document)
    assert done["changed"], done
    assert "error" not in done
    assert [a["action"] for a in done["actions"]] == ["add", "fetch", "create"]
    assert "s3cret" not in json.dumps(done)
    connections = list(site.proxy.connections)
    again = site.json("apply", units, document=document)
    assert not again["changed"], again
    assert site.proxy.connections == connections
    unit = (site.units / "gantry-web.service").read_text()
    assert f"--dir={site.paths.data}" in unit
    assert "s3cret" not in unit
    assert [p["name"] for p in site.json("pod", "list")] == ["web"]
    assert "s3cret" not in site.gantry("pod", "status", "web").stdout
    refused = site.gantry("image", "rm", "example.com/web:1.0")
    assert refused.returncode == 254
    assert "stays: a release of the named pod web" in refused.stderr
    gone = site.json(
        "apply", units, document={"set": "site", "prune": True, "trust": [], "images": [], "pods": []}
    )
    assert [a["action"] for a in gone["actions"]] == ["remove"] * 3
    assert not list(site.units.rglob("gantry-web*"))
    assert site.json("list") == []
    assert site.json("image", "list") == []
    assert site.json("trust", "list") == []
    assert not list(Path(site.paths.data, "releases").glob("[a-z]*/"))


def test_what_was_applied_survives_a_collection_and_is_no_change_afterwards(site: Site) -> None:
    for name in ("base", "web", "single"):
        below = {"imageName": "example.com/base", "labels": [{"name": "version", "value": "1.0"}]}
        needs = [below] if name == "web" else []
        site.publish(f"example.com/{name}", exec_=["/bin/true"], dependencies=needs)
    site.trust()
    units, ca = f"--unit-dir={site.units}", {"ca_file": site.server.ca_file}
    documents: list[dict[str, Any]] = [
        {"set": "site", "prune": True, "images": [{"name": "example.com/web:1.0"}], **ca},
        {"images": [{"name": "example.com/single:1.0"}], **ca},
    ]
    for document in documents:
        assert site.json("apply", units, document=document)["changed"]
    kept = site.json("image", "gc", "--grace-period=0s")["kept"]
    assert sorted(reason.partition(" ")[0] for reason in kept.values()) == ["a", "listed", "pinned"]
    for document in documents:
        assert not site.json("apply", units, document=document)["changed"]
    refused = site.json(
        "apply", units, document={"images": [{"name": "example.com/web:1.0", "state": "absent"}]}
    )
    assert "stays: listed by the set site" in json.dumps(refused["error"])
    gone = [
        {"set": "site", "prune": True, "images": []},
        {"images": [{"name": "example.com/single:1.0", "state": "absent"}]},
    ]
    for document in gone:
        predicted = site.json("apply", "--check", units, document=document)
        done = site.json("apply", units, document=document)
        assert done["changed"], done
        assert predicted["changed"]
        assert "error" not in done
    assert [each["name"] for each in site.json("image", "list")] == ["example.com/base:1.0"]
    assert site.json("image", "gc", "--grace-period=0s")["kept"] == {}


def tree(directory: Path) -> dict[str, bytes]:
    skip = {"bundle", "__pycache__"}
    return {
        str(p): p.read_bytes()
        for p in sorted(directory.rglob("*"))
        if p.is_file() and not skip & set(p.relative_to(directory).parts)
    }


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)])
def test_a_closed_standard_stream_is_an_empty_one(site: Site, closed: tuple[int, ...]) -> None:
    """And what is opened next does not take its place."""
    site.trust()
    made = site.publish(exec_=["/bin/true"])
    code = f"import os, sys; [os.close(fd) for fd in {closed}]; os.execv(sys.argv[1], sys.argv[1:])"
    for words in (
        ("fetch", "example.com/web:1.0"),
        ("image", "list"),
        ("image", "cat-manifest", "example.com/web"),
        ("image", "render", "example.com/web", str(site.directory / f"tree{closed}")),
        ("no-such-command",),
    ):
        command = site.argv(f"--ca-file={site.server.ca_file}", *words)
        done = subprocess.run(
            [sys.executable, "-c", code, *command],
            capture_output=True,
            text=True,
            env=site.environment,
            check=False,
        )
        assert done.returncode == (0 if words[0] in {"fetch", "image"} else 254), done.stderr
        assert "Traceback" not in done.stderr
    stored = Path(site.paths.data) / "images" / "image" / made.id
    assert (stored / "image.aci").read_bytes() == made.data


def test_apply_says_who_signed_the_images(site: Site) -> None:
    """In the run that fetches and in the one that changes nothing, with and without --check."""
    made = site.publish(exec_=["/bin/true"])
    site.trust()
    units = f"--unit-dir={site.units}"
    document = {"images": [{"name": "example.com/web:1.0"}], "ca_file": site.server.ca_file}
    [predicted] = site.json("apply", "--check", units, document=document)["actions"]
    assert "verification" not in predicted
    for words in ((), (), ("--check",)):
        [told] = site.json("apply", *words, units, document=document)["actions"]
        assert told["id"] == made.id
        assert told["verification"]["key"] == site.key.fingerprint
        assert told["verification"]["prefix"] == "example.com"
        assert {"signed_at", "verified_at", "signer", "user_ids"} <= set(told["verification"])
    assert not told["changed"]
