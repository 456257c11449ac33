"""App Container specification, section 8: the app's environment. Each name cites its requirement."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.pods import Kit, make_kit

from gantry.appc.parts import Volume
from gantry.errors import GantryError, UsageError
from gantry.pods import AppRequest, MountRequest, PodRequest, get, manifest_bytes, prepare

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

SPEC_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@pytest.fixture
def kit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kit]:
    yield from make_kit(tmp_path, monkeypatch)


def environment(output: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in output.splitlines() if "=" in line)


def process_of(kit: Kit, **app: Any) -> dict[str, Any]:
    """The process of the OCI configuration of a pod with one image made of *app* (not run)."""
    files = app.pop("files", {})
    options = app.pop("options", {})
    image = kit.store.add(files=files, **app)
    uuid = kit.prepare(AppRequest(image=image, name="main", **options))  # type: ignore[arg-type]
    return dict(kit.config(uuid, "main")["process"])


def test_EXE_01_two_apps_of_one_image_have_roots_of_their_own(kit: Kit) -> None:
    image = kit.store.add()
    script = "touch /mine-$AC_APP_NAME; sleep 0.3; ls / | grep mine"
    apps = [kit.shell(script, image=image, name=name) for name in ("a", "b")]
    assert sorted(kit.run(kit.prepare(*apps)).stdout.split()) == ["mine-a", "mine-b"]


def test_EXE_02_a_read_only_root_with_a_writable_volume(kit: Kit) -> None:
    script = "touch /x 2>/dev/null || echo refused; touch /v/y && echo written"
    app = kit.shell(script, read_only_rootfs=True, mounts=[MountRequest("v", "/v")])
    uuid = kit.prepare(app, volumes=[Volume("v", "empty")])
    assert kit.run(uuid).stdout.split() == ["refused", "written"]
    assert kit.run_shell("touch /x && echo written").stdout == "written\n"


def test_EXE_03_04_06_07_environment_of_main_and_handlers(kit: Kit) -> None:
    handlers = [{"name": name, "exec": ["/bin/env"]} for name in ("pre-start", "post-stop")]
    image = kit.store.add("example.com/deep/image-name", exec=["/bin/env"], eventHandlers=handlers)
    uuid = kit.prepare(AppRequest(image=image, name="in-the-pod"))  # type: ignore[arg-type]
    output = kit.run(uuid).stdout
    blocks = output.split("PATH=")[1:]
    assert len(blocks) == 3
    for wanted in (f"PATH={SPEC_PATH}", "AC_APP_NAME=in-the-pod", "container=gantry"):
        assert output.count(wanted + "\n") == 3


def test_EXE_03_the_images_own_path_wins(kit: Kit) -> None:
    process = process_of(kit, environment=[{"name": "PATH", "value": "/bin:/opt"}])
    assert "PATH=/bin:/opt" in process["env"]


def test_EXE_08_09_the_images_variables_stay_but_three_are_ours(kit: Kit) -> None:
    names = ("AC_APP_NAME", "AC_METADATA_URL", "container", "MINE")
    image = kit.store.add(exec=["/bin/env"], environment=[{"name": name, "value": "image"} for name in names])
    seen = environment(kit.run(kit.prepare(AppRequest(image=image, name="main"))).stdout)  # type: ignore[arg-type]
    assert (seen["MINE"], seen["AC_APP_NAME"], seen["container"]) == ("image", "main", "gantry")
    assert "AC_METADATA_URL" not in seen


def test_EXE_08_user_variables_are_those_of_the_apps_user(kit: Kit) -> None:
    """Issue 2569."""
    process = process_of(kit, user="web", group="web")
    for wanted in ("USER=web", "LOGNAME=web", "HOME=/srv/web", "SHELL=/bin/sh"):
        assert wanted in process["env"]


def test_MAN_34_POD_29_user_annotations_and_labels_change_nothing_that_runs(kit: Kit) -> None:
    """However much they look like something that does."""
    free = {"user": "web", "os/linux/no-new-privileges": "true", "PATH": "/nowhere", "": "x"}
    configs = []
    for given in ({}, free):
        image = kit.store.add(exec=["/bin/env"], userAnnotations=given, userLabels=given)
        app = AppRequest(image=image, name="main")  # type: ignore[arg-type]
        uuid = kit.prepare(app, user_annotations=given, user_labels=given)
        kept = json.loads(manifest_bytes(kit.paths, uuid))
        assert kept["userLabels"] == kept["apps"][0]["app"]["userLabels"] == given
        text = json.dumps(kit.config(uuid, "main")).replace(uuid, "UUID")
        configs.append(re.sub("gantry-[0-9a-f]{32}", "SECRET", text))
    assert configs[0] == configs[1]


def test_MAN_40_an_annotation_may_influence_who_runs_it(kit: Kit) -> None:
    """An image converted from Docker may name its user as group (EXE-21); others may not."""
    converted = {"appc.io/docker/repository": "library/web"}
    passwd = {"/etc/passwd": "lone:x:33:44::/:/bin/sh\n", "/etc/group": "root:x:0:\n"}
    options: dict[str, Any] = {"exec": ["/bin/env"], "user": "lone", "group": "lone", "files": passwd}
    image = kit.store.add(annotations=converted, **options)
    uuid = kit.prepare(AppRequest(image=image, name="main"))  # type: ignore[arg-type]
    assert kit.config(uuid, "main")["process"]["user"]["gid"] == 33
    with pytest.raises(GantryError, match='group "lone"'):
        process_of(kit, **options)


def test_EXE_10_working_directory(kit: Kit) -> None:
    assert kit.run_shell("pwd").stdout == "/\n"
    image = kit.store.add(files={"/srv/data/": ""}, workingDirectory="/srv/data")
    assert kit.run(kit.prepare(kit.shell("pwd", image=image))).stdout == "/srv/data\n"


def test_EXE_11_a_missing_working_directory_fails_and_is_not_created(kit: Kit) -> None:
    with pytest.raises(GantryError, match='working directory "/nope" does not exist'):
        process_of(kit, workingDirectory="/nope")


def test_EXE_11_a_working_directory_in_a_volume_exists(kit: Kit, tmp_path: Path) -> None:
    (tmp_path / "v/deep").mkdir(parents=True)
    app = kit.shell("pwd", working_directory="/v/deep", mounts=[MountRequest("v", "/v")])
    assert kit.run(kit.prepare(app, volumes=[Volume("v", "host", str(tmp_path / "v"))])).stdout == "/v/deep\n"


def test_EXE_12_lookup_in_path_inside_the_app(kit: Kit) -> None:
    files = {"/opt/tool": "#!/bin/sh\necho tool\n"}
    paths = [{"name": "PATH", "value": "/nowhere:/opt:/bin"}]
    assert process_of(kit, files=files, exec=["tool"], environment=paths)["args"] == ["/opt/tool"]
    with pytest.raises(GantryError, match='"python3" is not in the app\'s PATH'):
        process_of(kit, exec=["python3"])  # the host has it, the image has not


def test_EXE_12_TRAP_21_an_empty_component_is_the_working_directory(kit: Kit) -> None:
    files = {"/opt/tool": "#!/bin/sh\n"}
    process = process_of(
        kit,
        files=files,
        exec=["tool"],
        workingDirectory="/opt",
        environment=[{"name": "PATH", "value": ":/bin"}],
    )
    assert process["args"] == ["/opt/tool"]


def test_EXE_14_a_slash_ignores_path_and_is_relative_to_the_working_directory(kit: Kit) -> None:
    files = {"/srv/bin/tool": "#!/bin/sh\n"}
    (kit.store.directory / "x").mkdir(parents=True)
    image = kit.store.add(files=files, exec=["bin/tool", "a"], workingDirectory="/srv")
    root = Path(kit.store.roots[image.id])
    (root / "srv/bin/tool").chmod(0o755)
    uuid = kit.prepare(AppRequest(image=image, name="main"))  # type: ignore[arg-type]
    assert kit.config(uuid, "main")["process"]["args"] == ["/srv/bin/tool", "a"]


def test_EXE_15_words_are_literal(kit: Kit) -> None:
    """Case 36, issues 3925, 321."""
    words = [
        "%n",
        "$HOME",
        "${HOME}",
        "$$",
        "a b",
        '"q"',
        "'s'",
        "\\",
        "\\n",
        "%20",
        "100%",
        "ü€😀",
        "",
        "*",
        "~",
        "a\nb",
    ]
    image = kit.store.add(exec=["/bin/printf", "[%s]", *words])
    assert kit.run(kit.prepare(AppRequest(image=image, name="main"))).stdout == "".join(
        f"[{w}]" for w in words
    )  # type: ignore[arg-type]


def test_EXE_15_environment_values_are_literal(kit: Kit) -> None:
    value = "%n ${X} $$ \"'\\ \n ü😀 # &"
    assert kit.run_shell('printf %s "$V"', environment={"V": value}).stdout == value


def test_EXE_16_arguments_are_appended_and_an_empty_exec_is_refused(kit: Kit) -> None:
    image = kit.store.add(exec=["/bin/echo", "one"])
    uuid = kit.prepare(AppRequest(image=image, args=["two", "-x"]))  # type: ignore[arg-type]
    assert kit.run(uuid).stdout == "one two -x\n"
    with pytest.raises(UsageError, match='has an empty "exec"'):
        kit.prepare(AppRequest(image=kit.store.add(exec=[])))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("user", "group", "uid", "gid"),
    [
        ("0", "0", 0, 0),
        ("web", "web", 1000, 1001),
        ("web", "extra", 1000, 2000),
        ("4711", "4712", 4711, 4712),
        ("1000", "1001", 1000, 1001),
        ("/srv/file", "/srv/file", 77, 88),
    ],
)
def test_EXE_17_18_19_user_and_group(kit: Kit, user: str, group: str, uid: int, gid: int) -> None:
    image = kit.store.add(files={"/srv/file": ""})
    os.chown(Path(kit.store.roots[image.id], "srv/file"), 77, 88)
    done = kit.run(kit.prepare(kit.shell("id -u; id -g", image=image, user=user, group=group)))
    assert done.stdout.split() == [str(uid), str(gid)]


def test_EXE_17_18_digits_are_first_a_name(kit: Kit) -> None:
    image = kit.store.add(files={"/etc/passwd": "12:x:500:501::/:/bin/sh\n", "/etc/group": "13:x:600:\n"})
    done = kit.run(kit.prepare(kit.shell("id -u; id -g", image=image, user="12", group="13")))
    assert done.stdout.split() == ["500", "600"]


def test_EXE_20_the_hosts_users_are_never_asked(kit: Kit) -> None:
    for options in ({"user": "daemon"}, {"group": "daemon"}):
        with pytest.raises(GantryError, match='"daemon" is not in the image\'s /etc/'):
            kit.prepare(kit.shell("true", **options))


def test_EXE_22_supplementary_groups(kit: Kit) -> None:
    done = kit.run_shell("id -G", user="web", group="web", supplementary_gids=[2000, 3000])
    assert set(done.stdout.split()) == {"1001", "2000", "3000"}


def test_EXE_23_24_25_35_handlers_run_in_order_in_one_file_system(kit: Kit) -> None:
    def touch(name: str, *before: str) -> list[str]:
        missing = "".join(f"test -e /{each} || exit 1; " for each in before)
        return ["/bin/sh", "-c", f"{missing}test -e /{name} && exit 2; touch /{name}; echo {name}"]

    handlers = [
        {"name": "pre-start", "exec": touch("prestart")},
        {"name": "post-stop", "exec": touch("poststop", "prestart", "main")},
    ]
    image = kit.store.add(exec=touch("main", "prestart"), eventHandlers=handlers)
    done = kit.run(kit.prepare(AppRequest(image=image, name="main")))  # type: ignore[arg-type]
    assert (done.returncode, done.stdout.split()) == (0, ["prestart", "main", "poststop"])


def test_EXE_23_TRAP_22_a_failing_pre_start_keeps_the_app_from_starting(kit: Kit) -> None:
    handlers = [
        {"name": "pre-start", "exec": ["/bin/sh", "-c", "exit 5"]},
        {"name": "post-stop", "exec": ["/bin/echo", "post"]},
    ]
    image = kit.store.add(exec=["/bin/echo", "main"], eventHandlers=handlers)
    uuid = kit.prepare(AppRequest(image=image, name="main"))  # type: ignore[arg-type]
    done = kit.run(uuid)
    assert (done.returncode, done.stdout) == (254, "")
    assert 'the pre-start handler of app "main" ended with 5: the app is not started' in done.stderr


def test_EXE_23_TRAP_22_handlers_run_as_the_app(kit: Kit) -> None:
    handlers = [{"name": "pre-start", "exec": ["/bin/sh", "-c", "id -u; pwd"]}]
    image = kit.store.add(
        files={"/srv/web/": ""},
        exec=["/bin/true"],
        user="web",
        workingDirectory="/srv/web",
        eventHandlers=handlers,
    )
    assert kit.run(kit.prepare(AppRequest(image=image))).stdout.split() == ["1000", "/srv/web"]  # type: ignore[arg-type]


def test_EXE_26_stopping_a_pod_runs_post_stop_after_the_app(kit: Kit) -> None:
    handlers = [{"name": "post-stop", "exec": ["/bin/echo", "post"]}]
    image = kit.store.add(eventHandlers=handlers)
    script = "trap 'echo term; exit 0' TERM; echo up; while :; do sleep 0.05; done"
    process = kit.start(kit.prepare(kit.shell(script, image=image)))
    assert process.stdout
    assert process.stdout.readline() == "up\n"
    process.terminate()
    assert process.communicate(timeout=60)[0].split() == ["term", "post"]


def test_EXE_33_an_image_for_another_machine_is_refused(kit: Kit) -> None:
    image = kit.store.add(labels={"os": "linux", "arch": "armv7b"})
    with pytest.raises(UsageError, match="is for linux/armv7b, this host is"):
        kit.prepare(AppRequest(image=image))  # type: ignore[arg-type]
    kit.prepare(AppRequest(image=kit.store.add(labels={})))  # type: ignore[arg-type]


def test_EXE_34_what_the_validator_looks_at(kit: Kit) -> None:
    environment = [{"name": "IN_ACE_VALIDATOR", "value": "correct"}]
    image = kit.store.add(
        "coreos.com/ace-validator-main",
        files={"/opt/acvalidator/": ""},
        workingDirectory="/opt/acvalidator",
        environment=environment,
        mountPoints=[{"name": "database", "path": "/db", "readOnly": False}],
    )
    script = 'pwd; echo "$PATH $IN_ACE_VALIDATOR $AC_APP_NAME"; grep -o " /db rw" /proc/self/mountinfo'
    app = kit.shell(script, image=image)
    done = kit.run(kit.prepare(app, volumes=[Volume("database", "empty")]))
    assert done.stdout.splitlines() == [
        "/opt/acvalidator",
        f"{SPEC_PATH} correct ace-validator-main",
        " /db rw",
    ]


def test_socket_activation_that_is_asked_for_is_said_to_be_missing(kit: Kit) -> None:
    port = {"name": "www", "protocol": "tcp", "port": 80, "socketActivated": True}
    kit.prepare(kit.shell("true", name="main", image=kit.store.add(ports=[port])))
    assert 'port "www" of app "main" asks for socket activation' in "".join(kit.warnings)


def test_EXE_36_two_apps_at_once_share_a_volume(kit: Kit) -> None:
    def wait(mine: str, other: str) -> str:
        look = f"for i in $(seq 100); do test -e /db/{other} && exit 0; sleep 0.05; done; exit 1"
        return f"touch /db/{mine}; {look}"

    mount = [MountRequest("database", "/db")]
    uuid = kit.prepare(
        kit.shell(wait("main", "sidekick"), name="main", mounts=mount),
        kit.shell(wait("sidekick", "main"), name="sidekick", mounts=mount),
        volumes=[Volume("database", "empty")],
    )
    assert kit.run(uuid).returncode == 0


def test_POD_01_POD_02_POD_03_POD_04_apps_share_namespaces(kit: Kit) -> None:
    script = "for n in pid net ipc uts mnt; do readlink /proc/self/ns/$n; done; sleep 0.3"
    uuid = kit.prepare(kit.shell(script, name="a"), kit.shell(f"sleep 0.15; {script}", name="b"))
    lines = kit.run(uuid).stdout.split()
    first, second = lines[:5], lines[5:]
    assert first[:4] == second[:4]
    assert first[4] != second[4]  # each app its own mounts
    own = [os.readlink(f"/proc/self/ns/{kind}") for kind in ("pid", "net", "ipc", "uts", "mnt")]
    assert not set(own) & set(lines)


def test_POD_03_posix_shared_memory_is_shared(kit: Kit) -> None:
    uuid = kit.prepare(
        kit.shell("echo x > /dev/shm/seen; sleep 0.5", name="a"),
        kit.shell(
            "for i in $(seq 50); do test -e /dev/shm/seen && exit 0; sleep 0.02; done; exit 1", name="b"
        ),
    )
    assert kit.run(uuid).returncode == 0


def test_POD_11_12_35_names_of_apps(kit: Kit) -> None:
    image = kit.store.add("example.com/some/app.name_1")
    with pytest.raises(UsageError, match="multiple apps with name"):
        prepare(
            kit.ctx, PodRequest(apps=[AppRequest(image=image), AppRequest(image=image)], networks=["none"])
        )  # type: ignore[arg-type]
    uuid = kit.prepare(AppRequest(image=image), AppRequest(image=image, name="second"))  # type: ignore[arg-type]
    names = [app.name for app in get(kit.paths, uuid).apps]
    assert names == ["app-name-1", "second"]
    assert b'"second"' in manifest_bytes(kit.paths, uuid)


def test_TRAP_21_a_file_without_header_is_an_error(kit: Kit) -> None:
    with pytest.raises(GantryError, match="neither a program nor a script"):
        process_of(kit, files={"/opt/text": "echo hi\n"}, exec=["/opt/text"])


def test_issue_2506_a_missing_interpreter_is_named(kit: Kit) -> None:
    with pytest.raises(GantryError, match='Unable to open "/usr/bin/perl", the interpreter of "/opt/x"'):
        process_of(kit, files={"/opt/x": "#!/usr/bin/perl -w\n"}, exec=["/opt/x"])
    with pytest.raises(
        GantryError, match=r'Unable to open "/lib64/ld-linux-x86-64\.so\.2", the interpreter of'
    ):
        process_of(kit, files={"/opt/ls": Path("/bin/ls").read_bytes()}, exec=["/opt/ls"])


def test_TRAP_21_links_are_resolved_inside(kit: Kit) -> None:
    files = {
        "/opt/out": "-> ../../../../../../bin/busybox",
        "/opt/abs": "-> /bin/busybox",
        "/opt/host": "-> /usr/bin/python3",
    }
    assert process_of(kit, files=files, exec=["/opt/out"])["args"] == ["/opt/out"]
    assert process_of(kit, files=files, exec=["/opt/abs"])["args"] == ["/opt/abs"]
    with pytest.raises(GantryError, match="No such file"):
        process_of(kit, files=files, exec=["/opt/host"])


def test_an_app_inherits_no_ignored_signals_and_no_descriptors(kit: Kit) -> None:
    done = kit.run_shell("grep -E '^Sig(Ign|Blk)' /proc/self/status; ls /proc/self/fd | wc -l")
    lines = done.stdout.split()
    assert (lines[0], int(lines[1], 16), lines[2]) == ("SigBlk:", 0, "SigIgn:")
    ignored = int(lines[3], 16)
    assert not ignored & (1 << signal.SIGPIPE - 1 | 1 << signal.SIGXFSZ - 1)  # Python ignores these two
    assert int(lines[4]) <= 4
