"""From a spec to what the pods room is asked for. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gantry.appc import isolators as kinds
from gantry.appc.isolators import Isolator
from gantry.appc.parts import Volume as AppcVolume
from gantry.appc.quantity import Quantity
from gantry.errors import UsageError
from gantry.images.store import Image
from gantry.pods.request import AppRequest, Creation, Lookup, MountRequest, PodRequest, PortForward
from gantry.releases.spec import App, PodSpec, Volume
from gantry.stage1.isolators import MIN_MEMORY


def pod_request(spec: PodSpec, images: Mapping[str, Image]) -> PodRequest:
    """What to prepare for *spec*.

    Args:
        spec: The pod.
        images: The image of every app, by what the spec calls it.

    Raises:
        GantryError: A value cannot be used.
    """
    return PodRequest(
        apps=[_app(app, images[app.image]) for app in spec.apps],
        volumes=[_volume(v) for v in spec.volumes],
        create={
            v.name: Creation(v.create, int(v.mode, 8), v.uid, v.gid)
            for v in spec.volumes
            if v.create is not None
        },
        ports=[
            PortForward(
                host_port=p.host_port,
                name=p.name,
                pod_port=p.pod_port,
                protocol=p.protocol,
                host_ip=p.host_ip,
            )
            for p in spec.ports
        ],
        networks=spec.net,
        hostname=spec.hostname,
        lookup=Lookup(
            servers=tuple(spec.dns),
            search=tuple(spec.dns_search),
            options=tuple(spec.dns_options),
            domain=spec.dns_domain,
            hosts=tuple((address, name) for name, address in spec.etc_hosts.items()),
        ),
        pod_name=spec.name,
        annotations=spec.annotations,
        user_labels=spec.user_labels,
        restartable=True,
        flavor=spec.flavor,
        strict=spec.strict,
        exit_policy=spec.exit_policy,
        stop_timeout=spec.stop_timeout,
    )


def _app(app: App, image: Image) -> AppRequest:
    return AppRequest(
        image=image,
        name=app.name,
        exec=app.exec,
        args=app.args,
        user=app.user,
        group=app.group,
        supplementary_gids=app.supplementary_gids or None,
        working_directory=app.working_directory,
        environment=app.environment,
        mounts=[MountRequest(m.volume, m.path, m.read_only) for m in app.mounts],
        isolators=isolators(
            memory=app.memory,
            cpu=app.cpu,
            cpu_shares=app.cpu_shares,
            caps_retain=app.caps_retain,
            caps_remove=app.caps_remove,
            oom_score_adj=app.oom_score_adj,
        ),
        read_only_rootfs=app.read_only_rootfs,
        annotations=app.annotations,
        user_annotations=app.user_annotations,
        user_labels=app.user_labels,
    )


def _volume(volume: Volume) -> AppcVolume:
    if volume.kind == "host":
        return AppcVolume(
            volume.name,
            "host",
            source=volume.source,
            read_only=volume.read_only or None,
            recursive=volume.recursive,
        )
    return AppcVolume(
        volume.name,
        "empty",
        read_only=volume.read_only or None,
        mode=int(volume.mode, 8),
        uid=volume.uid,
        gid=volume.gid,
    )


def isolators(
    *,
    memory: str | None = None,
    cpu: str | None = None,
    cpu_shares: int | None = None,
    caps_retain: Sequence[str] | None = None,
    caps_remove: Sequence[str] | None = None,
    oom_score_adj: int | None = None,
    seccomp: str | None = None,
) -> list[Isolator]:
    """The isolators that flags and documents speak of.

    Args:
        memory: Limit, as a quantity.
        cpu: Limit in cores, as a quantity.
        cpu_shares: Relative weight.
        caps_retain: Keep only these capabilities.
        caps_remove: Take these away.
        oom_score_adj: -1000 to 1000.
        seccomp: ``mode=retain|remove[,errno=NAME],CALL,…``.

    Raises:
        GantryError: A value cannot be used.
    """
    if caps_retain and caps_remove:
        raise UsageError(
            "cannot use both --caps-retain and --caps-remove on the same image",
            hint="--caps-retain alone says all that remains",
        )
    found: list[Isolator] = []
    if memory is not None:
        amount = Quantity.parse(memory).value
        if amount < MIN_MEMORY:
            raise UsageError(
                f"memory limit of {amount} bytes too low. Try a reasonable value, such as --memory=16M"
            )
        if amount >= 2**63 - 1:  # a quantity stops there
            raise UsageError(f"memory limit of {amount} bytes too high", hint="leave it out for no limit")
        found.append(kinds.make(kinds.MEMORY, {"limit": memory}))
    if cpu:
        found.append(kinds.make(kinds.CPU, {"limit": cpu}))
    if cpu_shares is not None:
        found.append(kinds.make(kinds.CPU_SHARES, cpu_shares))
    if caps_retain:
        found.append(kinds.make(kinds.CAPS_RETAIN, {"set": list(caps_retain)}))
    if caps_remove:
        found.append(kinds.make(kinds.CAPS_REMOVE, {"set": list(caps_remove)}))
    if oom_score_adj is not None:
        found.append(kinds.make(kinds.OOM_SCORE, oom_score_adj))
    if seccomp:
        found.append(_seccomp(seccomp))
    return found


def _seccomp(text: str) -> Isolator:
    mode, errno, calls = "", "", list[str]()
    for part in filter(None, text.split(",")):
        key, equals, value = part.partition("=")
        if not equals:
            calls.append(part)
        elif key == "mode":
            mode = value
        elif key == "errno":
            errno = value
        else:
            raise UsageError("invalid seccomp command-line override", hint=f'unknown setting "{key}"')
    names = {"retain": kinds.SECCOMP_RETAIN, "remove": kinds.SECCOMP_REMOVE}
    if mode not in names:
        raise UsageError("invalid seccomp mode command-line override", hint="mode=retain or mode=remove")
    return kinds.make(names[mode], {"set": calls, **({"errno": errno} if errno else {})})
