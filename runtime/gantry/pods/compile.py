"""Prepare a pod: all the thinking, so that the launch only has to act.

Order: everything that can be refused from the request alone; then the directory (embryo, prepare; locked);
    then the trees of the images; then what can only be decided by looking into them; then plan, manifest
    and OCI configurations are written and synced, and the pod is *prepared*. If anything fails nothing is
    left.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from gantry import audit
from gantry.appc.arch import fits_host, host_labels
from gantry.appc.manifest import PodManifest
from gantry.appc.uuid import new_uuid
from gantry.errors import HostError, UsageError
from gantry.images import render
from gantry.linux import cgroups
from gantry.linux.fs import atomic_write, fsync_directory, remove_tree
from gantry.linux.programs import find
from gantry.network import configured
from gantry.network import plan as network_plan
from gantry.pods import etc, state, volumes
from gantry.pods.assemble import Site, assemble
from gantry.pods.manifest import build, reify
from gantry.pods.names import claim, reserved
from gantry.pods.request import EXIT_POLICIES
from gantry.stage1.choosing import choose as choose_flavor
from gantry.stage1.isolators import HostFeatures, compile_pod

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gantry.appc.manifest import ImageManifest
    from gantry.pods.manifest import AppInPod
    from gantry.pods.request import JsonObject, Lookup, PodContext, PodRequest
    from gantry.stage1.choosing import Choice
    from gantry.stage1.isolators import CompiledPod

_HOSTNAME = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9-]{1,63}(?<!-))*")
_PAUSE_PLACES = ("/usr/libexec/podman/catatonit", "/usr/libexec/catatonit/catatonit")


class Checked(NamedTuple):
    """A request that could not be refused without looking into images."""

    manifest: PodManifest
    apps: list[AppInPod]
    network: str
    configured: list[dict[str, Any]]
    ports: list[dict[str, Any]]
    hostname: str | None
    lookup: Lookup
    pod: CompiledPod
    host: HostFeatures
    flavor: Choice
    pause: str
    warnings: list[str]
    note: Callable[[str], None]


def prepare(ctx: PodContext, request: PodRequest) -> str:
    """Make a prepared pod.

    Implements POD-05, POD-07, POD-11, POD-22 ... POD-32, POD-35, EXE-01 ... EXE-23, VOL-01 ... VOL-32.

    Returns:
        Its UUID.

    Raises:
        GantryError: The request was refused, with the reason; nothing is left behind.
    """
    if os.geteuid() != 0:
        raise UsageError("cannot run as unprivileged user", hint="use sudo")
    uuid = new_uuid()
    made: list[Callable[[], None]] = []
    try:
        return _prepare(ctx, request, uuid, made)
    except BaseException:
        for undo in reversed(made):
            with contextlib.suppress(OSError):  # somebody has put something there
                undo()
        raise


def _prepare(ctx: PodContext, request: PodRequest, uuid: str, made: list[Callable[[], None]]) -> str:
    data = ctx.paths.data
    checked = _check(ctx, request, uuid, made)
    ensure_directories(data)
    path, lock = _begin(data, uuid)
    trees: list[str] = []
    try:
        _claim(data, uuid, request)
        roots: dict[str, str] = {}
        for app in checked.apps:
            if app.image_id not in roots:
                tree = render(ctx.store, app.image_id, ref=uuid)
                trees.append(tree.id)
                roots[app.image_id] = tree.rootfs
                for note in tree.notes:
                    checked.note(note)
        signers = {image_id: ctx.store.find(image_id).verification for image_id in roots}
        site = Site(uuid, path, state.directory(data, "run", uuid), roots, trees, checked.note, signers)
        assemble(site, request, checked)
        audit.record(
            data,
            "pod.prepare",
            by=ctx.by,
            uuid=uuid,
            name=request.pod_name,
            apps=[
                {"name": app.name, "image": app.image_name, "image_id": app.image_id} for app in checked.apps
            ],
            network=checked.network,
            ports=checked.ports or None,
            warnings=checked.warnings or None,
        )
        state.move(data, uuid, "prepare", "prepared")
        fsync_directory(f"{data}/pods/prepared")
    except BaseException:
        for tree_id in trees:
            ctx.store.drop_ref(tree_id, uuid)
        remove_tree(path)
        raise
    finally:
        os.close(lock)
    return uuid


def ensure_directories(data: str) -> None:
    """Make the state directories with the modes of RKT-INVENTORY section 12, and check the format.

    Raises:
        HostError: The layout is of another version, or cannot be made.
    """
    state.check_format(data)
    try:
        for path in (data, f"{data}/pods", *(f"{data}/pods/{name}" for name in state.STATES)):
            if not os.path.isdir(path):
                os.makedirs(path, exist_ok=True)
                # Others pass through the first: what the services own lies below it.
                os.chmod(path, 0o751 if path == data else 0o750)
        marker = f"{data}/pods/format"
        if not os.path.exists(marker):
            atomic_write(marker, f"{state.FORMAT}\n".encode())
    except OSError as error:
        raise HostError(
            f"cannot make {data}/pods: {error.strerror}", hint="is the file system writable?"
        ) from error


def _begin(data: str, uuid: str) -> tuple[str, int]:
    embryo = state.directory(data, "embryo", uuid)
    os.mkdir(embryo, 0o750)
    os.close(os.open(f"{embryo}/lock", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    Path(embryo, "pod-created").touch()
    lock = state.hold(embryo)
    assert lock is not None
    return state.move(data, uuid, "embryo", "prepare"), lock


def _claim(data: str, uuid: str, request: PodRequest) -> None:
    """Have the pod's name, if it has one of its own: a named pod's is its releases' alone."""
    if request.pod_name is None:
        return
    path = state.directory(data, "prepare", uuid)
    if request.restartable:
        claim(path, request.pod_name)
        return
    with reserved(data, request.pod_name, uuid):
        claim(path, request.pod_name)


# What can be refused without looking into images


def _check(ctx: PodContext, request: PodRequest, uuid: str, made: list[Callable[[], None]]) -> Checked:
    warnings: list[str] = []

    def warn(text: str) -> None:
        warnings.append(text)
        ctx.warn(text)

    wanted = configured.resolve(request.networks, ctx.paths)
    network = wanted.mode
    data, images = _manifest(ctx, request)
    if not data.get("apps"):
        raise UsageError("pod must contain at least one application", hint="name an image")
    _refuse_foreign(images)
    manifest, apps = reify(data, images, warn=warn)
    if request.exit_policy not in EXIT_POLICIES:
        raise UsageError(
            f'"{request.exit_policy}" is no exit policy', hint=f"one of {', '.join(EXIT_POLICIES)}"
        )
    if request.interactive and len(apps) != 1:
        raise UsageError(
            "interactive option only supports pods with one app", hint="a terminal cannot be shared"
        )
    declared = [(app.name, port) for app in apps for port in app.app.ports]
    for name, port in declared:
        if port.socket_activated:
            warn(
                f'port "{port.name}" of app "{name}" asks for socket activation, which is not built: '
                "the app has to open it itself"
            )
    ports = network_plan.ports(
        manifest.ports, declared, "default" if _maps_ports(wanted.configured) else network
    )
    layout = cgroups.layout()
    flavor = choose_flavor(ctx.paths, request.flavor, layout)
    host = HostFeatures(layout)
    pod = compile_pod(manifest.isolators, host, host_network=network == "host")
    pod.verdicts = flavor.judged(pod.verdicts)
    if flavor.name == "fly":
        _check_fly(request, len(apps), network)
        pod.limits, pod.sysctl = {}, {}
    for volume in manifest.volumes:
        if volume.kind == "host" and any(
            mount.volume.name == volume.name for app in apps for mount in app.mounts
        ):
            creation = request.create.get(volume.name)
            undo = volumes.create_source(volume, creation) if creation else None
            if undo is not None:
                made.append(undo)
                warn(f'volume "{volume.name}": {volume.source} was missing and has been made')
            volumes.check_source(volume)
    for note in manifest.notes:
        warn(f"pod manifest: {note.path}: {note.message}")
    if request.stop_timeout < 0:
        raise UsageError("stop_timeout is negative")
    return Checked(
        manifest,
        apps,
        network,
        wanted.configured,
        ports,
        _hostname(request, network, uuid),
        etc.checked(_lookup(request.lookup, wanted.dns)),
        pod,
        host,
        flavor=flavor,
        pause=pause_program(),
        warnings=warnings,
        note=warn,
    )


def _maps_ports(networks: list[dict[str, Any]]) -> bool:
    """Whether one of the configured networks can forward ports of the host."""
    return any(
        (plugin["conf"].get("capabilities") or {}).get("portMappings")
        for network in networks
        for plugin in network["plugins"]
    )


def _lookup(said: Lookup, dns: configured.Dns | None) -> Lookup:
    """What was said goes over what the network says."""
    if dns is None or said.servers:
        return said
    return replace(
        said,
        servers=dns.servers,
        search=said.search or dns.search,
        options=said.options or dns.options,
        domain=said.domain or dns.domain,
    )


def _check_fly(request: PodRequest, apps: int, network: str) -> None:
    """What cannot be had without isolation is refused by its name."""
    if apps != 1:
        raise UsageError("the flavor fly runs one app in a pod", hint="prepare a pod for each")
    if network != "host":
        raise UsageError(
            f'the flavor fly has the host\'s network, and not "{network}"', hint="ask for the network host"
        )
    if request.hostname is not None:
        raise UsageError("the flavor fly has the host's own name", hint="leave the host name out")


def _manifest(ctx: PodContext, request: PodRequest) -> tuple[JsonObject, dict[str, ImageManifest]]:
    images: dict[str, ImageManifest] = {}
    if request.manifest is None:
        for app in request.apps:
            images[str(app.image.id)] = ctx.store.manifest(str(app.image.id))
        return build(request, images), images
    given = PodManifest.parse(request.manifest)
    data = json.loads(given.dump())
    for runtime, entry in zip(given.apps, data["apps"], strict=True):
        if runtime.image.id is None:
            raise UsageError(
                f'app "{runtime.name}" of the pod manifest names no image ID',
                hint="fetch the image and add its id",
            )
        image = ctx.store.find(str(runtime.image.id))
        entry["image"]["id"] = str(image.id)
        images[str(image.id)] = ctx.store.manifest(str(image.id))
    return data, images


def _refuse_foreign(images: Mapping[str, ImageManifest]) -> None:
    """EXE-33."""
    own = host_labels(os.uname().machine)
    for image in images.values():
        if not fits_host(image.labels, own):
            raise UsageError(
                f'image "{image.name}" is for {image.label("os")}/{image.label("arch")}, '
                f"this host is {own['os']}/{own['arch']}",
                hint="fetch the image for this host",
            )


def _hostname(request: PodRequest, network: str, uuid: str) -> str | None:
    if request.hostname is None:
        return None if network == "host" else f"gantry-{uuid}"
    if len(request.hostname) > 64 or not _HOSTNAME.fullmatch(request.hostname):
        raise UsageError(
            f'"{request.hostname}" is not a host name', hint="letters, digits, hyphens, at most 64"
        )
    return request.hostname


def pause_program() -> str:
    """The program that is a pod's process 1.

    Raises:
        HostError: It is not installed.
    """
    path = find("catatonit", *_PAUSE_PLACES)
    if path is None:
        raise HostError(
            "catatonit is not installed: pods need it as their first process", hint="install catatonit"
        )
    return path
