"""Write what a launch needs into the pod's directory; everything here looks into the trees of the images.

Each app becomes OCI configurations (its main process, its event handlers) with the same root, volumes and
limits, and an entry in ``plan.json``.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import secrets
import stat
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gantry.appc.arch import host_labels
from gantry.errors import HostError
from gantry.linux.fs import syncfs
from gantry.pods import etc, sources, state, users, volumes
from gantry.pods.rootview import LookupFailedError, RootView
from gantry.stage1.isolators import compile_app
from gantry.stage1.spec import CONSOLE, Process, Root, render

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gantry.pods.compile import Checked
    from gantry.pods.manifest import AppInPod
    from gantry.pods.request import PodRequest
    from gantry.stage1.isolators import Compiled, Verdict

SPEC_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
CONTAINER = "gantry"
#: Made in an app's root when the image has nothing there (RKT-INVENTORY 17.3).
_DIRECTORIES = (
    ("/dev", 0o755),
    ("/etc", 0o755),
    ("/proc", 0o755),
    ("/sys", 0o755),
    ("/tmp", 0o1777),  # noqa: S108
    ("/run", 0o755),
)
_PUBLIC = ("uuid", "pod_name", "restartable", "network", "flavor", "isolators", "warnings")


@dataclass(slots=True)
class Site:
    """Where a pod is being assembled.

    Attributes:
        uuid: The pod.
        path: Its directory now.
        running: Its directory once it runs.
        roots: Rendered trees, by image ID.
        trees: Their IDs.
        warn: Told what deserves a warning.
        signers: Who signed the images, by their IDs: what the store knows of the verification.
        mark: The placeholder in the configurations.
        sources: Paths of the host that volumes show, each with what it is.
        files: What of ``/etc`` each app gets: ``APP/NAME`` to content, ``None`` for a copy of the host's.
        verdicts: What became of the isolators.
    """

    uuid: str
    path: str
    running: str
    roots: Mapping[str, str]
    trees: list[str]
    warn: Callable[[str], None]
    signers: Mapping[str, dict[str, Any] | None] = field(default_factory=dict)
    mark: str = field(default_factory=lambda: f"gantry-{secrets.token_hex(16)}")
    sources: dict[str, str] = field(default_factory=dict)
    files: dict[str, str | None] = field(default_factory=dict)
    verdicts: list[Verdict] = field(default_factory=list)

    def bound(self, source: str, status: os.stat_result) -> str:
        """Where the launcher will have bound *source*, a path of the host's."""
        self.sources.setdefault(source, sources.kind(status))
        return f"{self.running}/sources/{list(self.sources).index(source)}"


def assemble(site: Site, request: PodRequest, checked: Checked) -> None:
    """Write everything and make it durable.

    Raises:
        GantryError: What was asked for does not fit what the images contain.
    """
    token = secrets.token_hex(16)
    digest = hashlib.sha256(token.encode()).hexdigest()
    os.mkdir(f"{site.path}/closed")
    os.chmod(f"{site.path}/closed", 0)
    os.mkdir(f"{site.path}/sources", 0o700)
    _make_empty_volumes(site, checked)
    site.verdicts += checked.pod.verdicts
    apps = [_app(site, app, checked, interactive=request.interactive) for app in checked.apps]
    if request.strict:
        _refuse_unenforced(site.verdicts)
    _write_files(site)
    plan: dict[str, Any] = {
        "format": state.FORMAT,
        "uuid": site.uuid,
        "pod_name": request.pod_name,
        "restartable": request.restartable,
        "hostname": checked.hostname,
        "flavor": checked.flavor.name,
        "runtime": checked.flavor.runtime,
        "pause": checked.pause,
        "placeholder": site.mark,
        "token": token,
        "token_sha256": digest,
        "network": {
            "mode": checked.network,
            "ports": checked.ports,
            "configured": checked.configured,
        },
        "sysctl": checked.pod.sysctl,
        "limits": checked.pod.limits,
        "sources": [[path, kind] for path, kind in site.sources.items()],
        "stop_timeout": request.stop_timeout,
        "interactive": request.interactive,
        "exit_policy": request.exit_policy,
        "console": f"{json.dumps(CONSOLE, separators=(',', ':'))},",
        "host_files": sorted(name for name, content in site.files.items() if content is None),
        "apps": apps,
        "trees": site.trees,
        "isolators": [verdict.as_dict() for verdict in site.verdicts],
        "warnings": checked.warnings,
    }
    state.write_json(f"{site.path}/plan.json", plan, 0o600)
    shown = [
        {
            **{key: app[key] for key in ("name", "image_name", "image_id", "mounts")},
            "verification": site.signers.get(app["image_id"]),
        }
        for app in apps
    ]
    state.write_json(f"{site.path}/info.json", {**{key: plan[key] for key in _PUBLIC}, "apps": shown})
    state.write_json(f"{site.path}/metadata.json", _metadata(checked, site.uuid, digest), 0o600)
    _write(f"{site.path}/pod", checked.manifest.dump(), 0o640)
    fd = os.open(site.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        syncfs(fd)
    finally:
        os.close(fd)


def _refuse_unenforced(verdicts: list[Verdict]) -> None:
    """ISO-05."""
    for verdict in verdicts:
        if verdict.status != "applied":
            whose = "the pod" if verdict.scope == "pod" else f'app "{verdict.scope}"'
            raise HostError(
                f"{whose}: isolator {verdict.name} is {verdict.status}: {verdict.detail}",
                hint="leave strict out to run it all the same",
            )


def _make_empty_volumes(site: Site, checked: Checked) -> None:
    os.mkdir(f"{site.path}/sharedVolumes", 0o755)
    made: set[str] = set()
    for app in checked.apps:
        view = RootView(site.roots[app.image_id])
        for mount in app.mounts:
            path = f"{site.path}/sharedVolumes/{mount.key}"
            if mount.volume.kind == "empty" and mount.key not in made:
                made.add(mount.key)
                volumes.make_empty(mount.volume, path)
                if mount.implicit:
                    volumes.seed(view, mount.path, path)


def _app(site: Site, app: AppInPod, checked: Checked, *, interactive: bool) -> dict[str, Any]:
    """Assemble one app; its entry in the plan."""
    native = app.image.label("arch") == host_labels(os.uname().machine)["arch"]
    isolators = compile_app(app.app.isolators, app.name, checked.pod, checked.host, native=native)
    verdicts = checked.flavor.judged(isolators.verdicts)
    site.verdicts += verdicts
    for verdict in verdicts:
        if verdict.status == "ignored":
            site.warn(f'app "{app.name}": isolator {verdict.name} is ignored: {verdict.detail}')
    view = RootView(site.roots[app.image_id])
    mounted = volumes.place(
        app.name,
        app.mounts,
        view,
        now=f"{site.path}/sharedVolumes",
        later=f"{site.running}/sharedVolumes",
        bound=site.bound,
        warn=site.warn,
    )
    chosen = etc.choose(view, checked.network, checked.hostname or "", checked.lookup)
    site.files |= {f"{app.name}/{name}": content for name, content in chosen.items()}
    root = Root(
        path=f"{site.running}/apps/{app.name}/rootfs",
        shared_memory=f"{site.running}/shm",
        closed=f"{site.running}/closed",
        read_only=app.read_only,
        binds=[*etc.binds(view, list(chosen), f"{site.running}/files/{app.name}"), *mounted.binds],
    )
    handlers = _configure(
        site, app, view, root, isolators, host_network=checked.network == "host", interactive=interactive
    )
    mkdirs, symlinks = _missing(view)
    return {
        "name": app.name,
        "image_name": app.image_name,
        "image_id": app.image_id,
        "lower": view.rootfs,
        "mkdirs": mkdirs,
        "symlinks": symlinks,
        "unlink": mounted.unlink,
        "handlers": handlers,
        "mounts": [
            {
                "name": mount.volume.name,
                "container_path": mount.path,
                "host_path": mount.volume.source or f"{site.running}/sharedVolumes/{mount.key}",
                "read_only": mount.read_only,
            }
            for mount in app.mounts
        ],
    }


def _configure(
    site: Site,
    app: AppInPod,
    view: RootView,
    root: Root,
    isolators: Compiled,
    *,
    host_network: bool,
    interactive: bool,
) -> list[str]:
    """Write the app's OCI configurations; returns the names of its handlers (EXE-10 ... EXE-16, TRAP-22)."""
    identity = users.resolve(view, app.app.user, app.app.group, group_may_be_user=app.from_docker)
    environment = environment_of(app, identity)
    directory = f"{site.path}/apps/{app.name}"
    os.makedirs(f"{directory}/rootfs", 0o755)
    _write(f"{directory}/image-manifest", app.image.raw, 0o640)
    commands = [("config", app.app.exec)]
    commands += [(handler.name, handler.exec) for handler in app.app.event_handlers if handler.exec]
    try:
        working_directory = view.directory(app.app.working_directory)
        for name, words in commands:
            program = view.executable(
                words[0], search=environment["PATH"], working_directory=working_directory
            )
            process = Process(
                args=[program, *words[1:]],
                environment=list(environment.items()),
                working_directory=working_directory,
                uid=identity.uid,
                gid=identity.gid,
                supplementary_gids=app.app.supplementary_gids,
            )
            text = render(
                process,
                root,
                isolators,
                mark=site.mark,
                host_network=host_network,
                interactive=interactive and name == "config",
            )
            _write(f"{directory}/{name}.json", text.encode("ascii"), 0o600)
    except LookupFailedError as error:
        raise LookupFailedError(f'app "{app.name}": {error.message}', hint=error.hint) from error
    return [name for name, _ in commands[1:]]


def environment_of(app: AppInPod, identity: users.Identity) -> dict[str, str]:
    """EXE-03 ... EXE-09: what image and pod say, then what they lack, then what is the executor's alone."""
    environment = dict(app.app.environment)
    for name, value in (
        ("PATH", SPEC_PATH),
        ("SHELL", "/bin/sh"),
        ("USER", identity.name),
        ("LOGNAME", identity.name),
        ("HOME", identity.home),
    ):
        environment.setdefault(name, value)
    environment.pop("AC_METADATA_URL", None)  # the launcher's to set
    return {**environment, "AC_APP_NAME": app.name, "container": CONTAINER}


def _missing(view: RootView) -> tuple[list[list[Any]], list[list[str]]]:
    """Directories and links that the image lacks and that programs expect."""
    mkdirs: list[list[Any]] = [
        [path, mode] for path, mode in _DIRECTORIES if not os.path.lexists(view.rootfs + path)
    ]
    symlinks: list[list[str]] = []
    with contextlib.suppress(FileNotFoundError):
        directory = f"{view.rootfs}/etc"
        if stat.S_ISDIR(os.lstat(directory).st_mode) and not os.path.lexists(f"{directory}/mtab"):
            symlinks.append(["/etc/mtab", "../proc/self/mounts"])
    return mkdirs, symlinks


def _write_files(site: Site) -> None:
    for name, content in site.files.items():
        target = f"{site.path}/files/{name}"
        os.makedirs(os.path.dirname(target), 0o755, exist_ok=True)
        if content is not None:
            _write(target, content.encode(), 0o644)


def _metadata(checked: Checked, uuid: str, digest: str) -> dict[str, Any]:
    """The document for the metadata service (MDS-07 ... MDS-12, MDS-23)."""
    return {
        "uuid": uuid,
        "token_sha256": digest,
        "manifest": checked.manifest.data,
        "manifest_raw": checked.manifest.dump().decode(),
        "apps": {
            app.name: {
                "image_id": app.image_id,
                "image_manifest_b64": base64.b64encode(app.image.raw).decode(),
                "annotations": [{"name": name, "value": value} for name, value in app.annotations.items()],
            }
            for app in checked.apps
        },
    }


def _write(path: str, content: bytes, mode: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with open(fd, "wb") as file:
        os.fchmod(fd, mode)
        file.write(content)
