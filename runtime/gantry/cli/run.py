"""``run``, ``prepare``, ``run-prepared`` and ``pod-stopped``.

``run`` prepares in this process and then *becomes* the launcher (exec): the pod's supervisor must not keep
what preparing needed in memory, and systemd must see one process all along.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from gantry import pods
from gantry.appc import document
from gantry.appc.errors import AppcError
from gantry.appc.imageref import ImageRef
from gantry.appc.manifest import PodManifest
from gantry.appc.parts import Volume
from gantry.cli.context import Context
from gantry.cli.grammar import AppWords
from gantry.cli.images import obtain_all, pull_policy
from gantry.cli.values import MAX_ID_DIGITS, Values
from gantry.config import Paths, default_flavor
from gantry.errors import GantryError, HostError, NotFoundError, UsageError
from gantry.images import ImageNotFoundError
from gantry.linux.fs import atomic_write, read_named
from gantry.pods import launch
from gantry.pods.arguments import parse as parse_launch
from gantry.pods.etc import is_address
from gantry.pods.request import (
    HOST,
    NONE,
    AppRequest,
    Creation,
    Lookup,
    MountRequest,
    PodContext,
    PodRequest,
    PortForward,
)
from gantry.pods.state import find as find_state
from gantry.releases.requests import isolators
from gantry.releases.unit import path_flags
from gantry.stage1.choosing import BUILT_IN, installed

if TYPE_CHECKING:
    from gantry.appc.pod_manifest import RuntimeApp

# Names of rkt's own stage1 images, as they stand in people's scripts.
_RKT_NAMES = {
    "coreos.com/rkt/stage1-coreos": "oci",
    "coreos.com/rkt/stage1-host": "oci",
    "coreos.com/rkt/stage1-src": "oci",
    "coreos.com/rkt/stage1-fly": "fly",
}


def run(context: Context) -> int:
    """Prepare a pod and become it."""
    uuid = _prepare(context)
    context.output.debug(f"pod {uuid} is prepared")
    return _become_launcher(context, ["run-prepared", "--once", uuid])


def prepare(context: Context) -> int:
    """Prepare a pod; prints its UUID."""
    uuid = _prepare(context)
    if context.output.form:
        context.output.json({"uuid": uuid})
    else:
        context.output.line(uuid)
    return 0


def run_prepared(context: Context) -> int:
    """Become a prepared pod."""
    leave = ["--leave"] if context.values.flag("leave") else []
    return _become_launcher(context, ["run-prepared", *leave, context.pod_reference()])


def pod_stopped(context: Context) -> int:
    """Record how a pod that systemd ran has ended."""
    return launch.main([*path_flags(context.paths), "pod-stopped", context.arguments[0]])


def remove_unstarted(words: list[str]) -> None:
    """Remove the pod of ``run``, when it was given back because it could not be started.

    Args:
        words: The command line of the launcher, which failed.
    """
    with contextlib.suppress(GantryError, OSError):  # the launcher has told why; gc has the rest
        _, uuid, _, data, run_dir = parse_launch(words)
        if find_state(data, uuid) == "prepared":
            pods.remove(Paths(data=data, run=run_dir), uuid)


def _become_launcher(context: Context, words: list[str]) -> int:
    argv = [*path_flags(context.paths), *words]
    program = os.path.abspath(sys.argv[0])
    sys.stdout.flush()
    sys.stderr.flush()
    if os.path.isfile(program) and os.access(program, os.X_OK):
        os.execv(program, [program, *argv])  # noqa: S606 - no shell, and the program is ourselves
    once = "--once" in argv
    argv = [w for w in argv if w != "--once"]
    status = launch.main(argv)
    if once and status == launch.TOOL_FAILURE:
        remove_unstarted(argv)
    return status


def _prepare(context: Context) -> str:
    request = _request(context)
    if context.values.flag("mds-register") and not os.path.exists(f"{context.paths.run}/metadata-svc.sock"):
        raise HostError("the metadata service is not there", hint="start gantry-metadata.socket")
    saved = context.values.text("uuid-file-save")
    if saved and not os.path.isdir(os.path.dirname(os.path.abspath(saved))):
        raise NotFoundError(f"the directory of {saved} does not exist", hint="make it first")
    # Told only now: nothing of the command line can be wrong any more.
    warn = context.output.notice if not _quiet(context) else context.output.debug
    uuid = pods.prepare(PodContext(context.paths, context.store(), warn=warn), request)
    if saved:
        try:
            atomic_write(saved, uuid.encode(), 0o644)
        except OSError:
            pods.remove(context.paths, uuid)  # nobody would know of it
            raise
    return uuid


def _quiet(context: Context) -> bool:
    return "quiet" in context.values and context.values.flag("quiet")


def _request(context: Context) -> PodRequest:
    values, words = context.values, context.invocation.apps
    file = values.text("pod-manifest")
    if file:
        return _from_manifest(context, file)
    if not words:
        raise UsageError(
            "must provide at least one image or specify the pod manifest", hint="such as example.com/app:1.0"
        )
    if values.flag("interactive") and len(words) != 1:
        raise UsageError("interactive option only supports one image", hint="a terminal cannot be shared")
    policy = pull_policy(values)
    flavor = _flavor(context)
    networks = _networks(values, flavor)
    ports = [parse_port(p) for p in values.items_of("port")]
    if ports and networks[0] in {"none", "host"}:
        raise UsageError(
            f"--port flag does not work with '{networks[0]}' networking", hint="leave --net or --port out"
        )
    lookup = _lookup(values)
    environment = _common_environment(context)
    inherited = dict(os.environ) if values.flag("inherit-env") else {}
    everywhere = [_mount(m) for m in context.invocation.before.items_of("mount")]
    volumes, create = _volumes(values.items_of("volume"))
    known = {v.name for v in volumes}
    for mount in (*everywhere, *(_mount(m) for w in words for m in w.values.items_of("mount"))):
        if mount.volume not in known:
            raise UsageError(
                f'dangling mount point "{mount.path}": volume "{mount.volume}" not found',
                hint=f"give it with --volume={mount.volume},kind=host,source=PATH or kind=empty",
            )
    context.warn_insecure()
    common = _Common(environment, inherited, everywhere)
    apps = [_app(w, common) for w in words]
    # Everything above is free; from here on the network may be asked.
    wanted = [(w.image, w.values.text("signature") or None) for w in words]
    images = obtain_all(context, wanted, policy=policy)
    return PodRequest(
        apps=[app(image=image) for app, image in zip(apps, images, strict=True)],
        volumes=volumes,
        create=create,
        ports=ports,
        networks=networks,
        hostname=values.text("hostname") or None,
        lookup=lookup,
        interactive=values.flag("interactive"),
        exit_policy=values.text("exit-policy"),
        strict=values.flag("strict"),
        flavor=flavor,
        pod_name=_pod_name(values),
    )


def _volumes(texts: list[str]) -> tuple[list[Volume], dict[str, Creation]]:
    """``--volume``: the specification's fields, and ``create`` with ``mode``, ``uid``, ``gid`` of its own."""
    volumes: list[Volume] = []
    create: dict[str, Creation] = {}
    for text in texts:
        parts = text.split(",")
        kind = [part.removeprefix("create=") for part in parts if part.startswith("create=")]
        if not kind:
            volumes.append(Volume.from_text(text))
            continue
        own = ("create=", "mode=", "uid=", "gid=")
        said = dict(part.partition("=")[::2] for part in parts if part.startswith(own[1:]))
        volume = Volume.from_text(",".join(part for part in parts if not part.startswith(own)))
        if kind not in (["directory"], ["file"]) or volume.kind != "host":
            raise UsageError(
                f'"{text}" does not say what to make', hint="create=directory or create=file, for kind=host"
            )
        # The specification's own reader knows what a mode and an owner are.
        fields = "".join(f",{name}={value}" for name, value in said.items())
        like = Volume.from_text(f"{volume.name},kind=empty{fields}")
        create[volume.name] = Creation(kind[0], like.mode, like.uid, like.gid)
        volumes.append(volume)
    return volumes, create


def _flavor(context: Context) -> str:
    """``--stage1-name``, else what the host's settings say, else ``oci``; without rkt's version."""
    values = context.values
    name = values.text("stage1-name").partition(":")[0]
    if "stage1-name" in values.given and not name:
        raise UsageError("--stage1-name is empty", hint="oci is the default")
    if not name:
        told = default_flavor(context.paths)
        name = told.value if told is not None else "oci"
    flavor = _RKT_NAMES.get(name, name)
    if flavor not in BUILT_IN:
        installed(context.paths, flavor)  # told before anything is fetched
    return flavor


def _networks(values: Values, flavor: str) -> list[str]:
    return values.items_of("net") or ["host" if flavor == "fly" else "default"]


def _pod_name(values: Values) -> str | None:
    if "pod-name" in values.given and not values.text("pod-name"):
        raise UsageError("--pod-name is empty", hint="leave it out, or give a name")
    return values.text("pod-name") or None


# What a manifest says itself, or what would not reach it (RKT-INVENTORY 4.1.1).
_NOT_WITH_MANIFEST = ("volume", "mount", "port", "inherit-env", "set-env", "set-env-file")


def _from_manifest(context: Context, file: str) -> PodRequest:
    """``--pod-manifest``: every image by its ID, or by name where the manifest has none.

    Raises:
        UsageError: Flags or images contradict it.
        GantryError: It is none, or an image cannot be had.
    """
    values = context.values
    policy = pull_policy(values)
    given = values.given | context.invocation.before.given
    conflicting = given & {*_NOT_WITH_MANIFEST, "store-only", "no-store"}
    if context.invocation.apps or conflicting or policy != "new":
        named = f"--{min(conflicting)}" if conflicting else "what the manifest does not say"
        raise UsageError("conflicting flags set with --pod-manifest (see --help)", hint=f"leave {named} out")
    raw = read_named(file, hint="--pod-manifest names a pod manifest")
    try:
        manifest = PodManifest.parse(raw)
    except AppcError as error:
        error.message = f"{file}: {error.message}"
        raise
    flavor = _flavor(context)
    networks = _networks(values, flavor)
    lookup = _lookup(values)
    whole, _ = document.load(manifest.dump())
    context.warn_insecure()
    images = obtain_all(context, [(_called(context, app), None) for app in manifest.apps], policy=policy)
    for app, entry, image in zip(manifest.apps, cast("list[Any]", whole["apps"]), images, strict=True):
        if app.image.id is not None and not image.id.startswith(app.image.id):
            raise UsageError(
                f'app "{app.name}" of the pod manifest wants {app.image.id.short()}, but {image} is '
                f"{image.id.short()}",
                hint="fetch that image, or correct the manifest",
            )
        entry["image"]["id"] = str(image.id)
    return PodRequest(
        networks=networks,
        hostname=values.text("hostname") or None,
        lookup=lookup,
        interactive=values.flag("interactive"),
        exit_policy=values.text("exit-policy"),
        strict=values.flag("strict"),
        flavor=flavor,
        pod_name=_pod_name(values),
        manifest=document.dump(whole),
    )


def _called(context: Context, app: RuntimeApp) -> str:
    """What to ask for: the ID, where the store has it or nothing else is said."""
    image = app.image
    if image.id is not None:
        with contextlib.suppress(ImageNotFoundError):
            return str(context.store().find(str(image.id)).id)
        if image.name is None:
            return str(image.id)
    if image.name is None:
        raise UsageError(
            f'app "{app.name}" of the pod manifest names no image', hint="give its image an id or a name"
        )
    return str(ImageRef(image.name, image.labels))


def _lookup(values: Values) -> Lookup:
    """RKT-INVENTORY 8.6.

    Raises:
        UsageError: The flags contradict each other, or a value is malformed.
    """
    servers = tuple(values.items_of("dns"))
    search, options = tuple(values.items_of("dns-search")), tuple(values.items_of("dns-opt"))
    domain = values.text("dns-domain") or None
    if len(servers) > 1 and {HOST, NONE} & set(servers):
        word = HOST if HOST in servers else NONE
        raise UsageError(
            f"no other --dns options allowed when --dns={word} is passed", hint="leave the others out"
        )
    if servers == (HOST,) and (search or options or domain):
        raise UsageError(
            "Cannot call --dns-opt, --dns-search, or --dns-domain with --dns=host",
            hint="name the servers instead of the host's file",
        )
    for server in servers:
        if server not in (HOST, NONE) and not is_address(server):
            raise UsageError(f"Invalid IP passed to --dns: {server}", hint="such as 10.0.0.2, host or none")
    entries: list[tuple[str, str]] = []
    items = values.items_of("hosts-entry")
    for item in items:
        address, equals, name = item.partition("=")
        if item == HOST:
            continue
        if not equals or not name:
            raise UsageError(
                f"Did not understand --hosts-entry {item}", hint="--hosts-entry=IP=NAME, or host"
            )
        if not is_address(address):
            raise UsageError(f"Invalid IP passed to --hosts-entry: {address}", hint="such as 10.0.0.2=db")
        entries.append((address, name))
    if entries and HOST in items:
        raise UsageError(
            "no other --hosts-entry allowed when --hosts-entry=host is passed", hint="leave one of them out"
        )
    return Lookup(
        servers=servers,
        search=search,
        options=options,
        domain=domain,
        hosts=tuple(entries),
        hosts_of_host=HOST in items,
    )


class _Common(NamedTuple):
    """What holds for every app of the command line."""

    environment: dict[str, str]
    inherited: dict[str, str]
    mounts: list[MountRequest]


def _app(words: AppWords, common: _Common) -> Callable[..., AppRequest]:
    """The app, but for its image."""
    values = words.values
    own = [_mount(m) for m in values.items_of("mount")]
    paths = {os.path.normpath(m.path) for m in own}
    limits = isolators(
        memory=values.text("memory") or None,
        cpu=values.text("cpu") or None,
        cpu_shares=values.number("cpu-shares"),
        caps_retain=values.items_of("caps-retain") + values.items_of("cap-retain"),
        caps_remove=values.items_of("caps-remove") + values.items_of("cap-remove"),
        oom_score_adj=values.number("oom-score-adj"),
        seccomp=values.text("seccomp") or None,
    )
    gids = values.items_of("supplementary-gids")
    if not all(g.isascii() and g.isdigit() and len(g) <= MAX_ID_DIGITS for g in gids):
        raise UsageError("--supplementary-gids must be integers", hint="such as 1000,1001")
    mine = _pairs(values.items_of("environment"), "environment")
    annotations = {
        flag: _pairs(values.items_of(flag), flag) for flag in ("annotation", "user-annotation", "user-label")
    }
    return partial(
        AppRequest,
        name=values.text("name") or None,
        exec=[values.text("exec")] if values.text("exec") else None,
        args=words.arguments,
        user=values.text("user") or None,
        group=values.text("group") or None,
        supplementary_gids=[int(g) for g in gids] if gids else None,
        working_directory=values.text("working-dir") or None,
        environment={**common.environment, **mine},
        inherited_environment=common.inherited,
        mounts=[*own, *(m for m in common.mounts if os.path.normpath(m.path) not in paths)],
        isolators=limits,
        read_only_rootfs=values.flag("readonly-rootfs"),
        annotations=annotations["annotation"],
        user_annotations=annotations["user-annotation"],
        user_labels=annotations["user-label"],
    )


def _pairs(texts: Iterable[str], flag: str) -> dict[str, str]:
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise UsageError(f"invalid format of --{flag} flag", hint=f"write --{flag}=NAME=VALUE")
        found[name] = value
    return found


def _common_environment(context: Context) -> dict[str, str]:
    """Variables for every app: the files' below those of the command line."""
    found: dict[str, str] = {}
    for path in context.values.items_of("set-env-file"):
        found.update(_environment_file(path, found))
    given: dict[str, str] = {}
    for text in context.values.items_of("set-env"):
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise UsageError(
                f'the variable "{name}" must be specified as key=value', hint="--set-env=KEY=VALUE"
            )
        if name in given:
            raise UsageError(f'key "{name}" already set', hint="give one --set-env for it")
        given[name] = value
    return {**found, **given}


def _environment_file(path: str, known: dict[str, str]) -> dict[str, str]:
    content = read_named(path, hint="--set-env-file names a file of NAME=VALUE lines")
    found: dict[str, str] = {}
    for line in content.decode("utf-8", "surrogateescape").replace("\r\n", "\n").split("\n"):
        if not line or line.startswith(("#", ";")):
            continue
        name, equals, value = line.partition("=")
        if not equals or not name:
            raise UsageError(
                f'environment variable must be specified as name=value (file "{path}")',
                hint="comments begin with # or ;",
            )
        if name in known or name in found:
            raise UsageError(
                f'environment variable "{name}" already set (file "{path}")', hint="set it once in all files"
            )
        found[name] = value
    return found


def _mount(text: str) -> MountRequest:
    """``volume=NAME,target=PATH``; values are taken as they are."""
    fields: dict[str, str] = {}
    for part in text.split(","):
        key, _, value = part.partition("=")
        if key not in {"volume", "target"}:
            raise UsageError(f'unknown mount parameter "{key}"', hint="write volume=NAME,target=PATH")
        fields[key] = value
    if not fields.get("volume") or not fields.get("target", "").startswith("/"):
        raise UsageError(f'"{text}" is no mount', hint="write volume=NAME,target=/ABSOLUTE/PATH")
    return MountRequest(fields["volume"], fields["target"])


def parse_port(text: str) -> PortForward:
    """``NAME:[HOSTIP:]HOSTPORT``.

    Raises:
        UsageError: It is not of this form.
    """
    name, colon, rest = text.partition(":")
    address, _, port = rest.rpartition(":")
    address = address.removeprefix("[").removesuffix("]")
    if not colon or not name:
        raise UsageError(f'"{text}" is not in name:[ip:]port format', hint="such as http:8080")
    if not (port.isascii() and port.isdigit() and len(port) <= MAX_ID_DIGITS and 0 < int(port) < 65536):
        raise UsageError(f'"{text}": "{port}" is not a valid port number', hint="1 to 65535")
    if address and not is_address(address):
        raise UsageError(f'"{text}": "{address}" is not a valid IP', hint="such as http:127.0.0.1:8080")
    return PortForward(host_port=int(port), name=name, host_ip=address or None)
