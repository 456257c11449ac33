"""Turn isolators into what the kernel enforces, and say of each one what became of it (ISO-04).

Nothing is silent: an isolator is *applied*, *altered* (with what it became) or *ignored* (with the reason).
What would be dangerous to guess (an unknown capability, system call, AppArmor profile) is refused.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gantry.appc import isolators as appc
from gantry.appc.isolators import IsolatorError, IsolatorList
from gantry.stage1.seccomp import compile_filter

if TYPE_CHECKING:
    from gantry.appc.isolators import Isolator, Resource
    from gantry.linux.cgroups import Layout

_NAMES = """
CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE
NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT
SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE
AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ
PERFMON BPF CHECKPOINT_RESTORE
"""
CAPABILITIES = tuple(f"CAP_{name}" for name in _NAMES.split())
MIN_MEMORY = 4096
_PERIOD = 100_000  # microseconds
_MIN_QUOTA = 1000
_IPC_SYSCTLS = frozenset(
    f"kernel.{name}"
    for name in ("msgmax", "msgmnb", "msgmni", "sem", "shmall", "shmmax", "shmmni", "shm_rmid_forced")
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one isolator.

    Attributes:
        scope: ``pod`` or the app's name.
        name: The isolator.
        status: ``applied``, ``altered`` or ``ignored``.
        detail: What it became, or why not; may be empty.
    """

    scope: str
    name: str
    status: str
    detail: str = ""

    def as_dict(self) -> dict[str, str]:
        """For JSON."""
        return {"scope": self.scope, "name": self.name, "status": self.status, "detail": self.detail}


@dataclass(slots=True)
class Compiled:
    """The isolators of one app, compiled.

    Attributes:
        capabilities: The bounding set.
        seccomp: OCI filter, or ``None``.
        no_new_privileges: Whether the process and its children can never gain any.
        resources: ``linux.resources`` of the OCI configuration, without devices.
        oom_score_adj: Or ``None``.
        selinux_label: Or ``None``.
        apparmor_profile: Or ``None``.
        verdicts: What became of each.
    """

    capabilities: list[str]
    seccomp: dict[str, Any] | None
    no_new_privileges: bool
    resources: dict[str, Any] = field(default_factory=dict)
    oom_score_adj: int | None = None
    selinux_label: str | None = None
    apparmor_profile: str | None = None
    verdicts: list[Verdict] = field(default_factory=list)


@dataclass(slots=True)
class CompiledPod:
    """The isolators of the pod, compiled.

    Attributes:
        limits: ``memory`` (bytes) and ``cpu_milli``, for the group above all apps (ISO-02).
        sysctl: Settings of the pod's namespaces.
        selinux_label: For apps without their own.
        apparmor_profile: Likewise.
        verdicts: What became of each.
    """

    limits: dict[str, int] = field(default_factory=dict)
    sysctl: dict[str, str] = field(default_factory=dict)
    selinux_label: str | None = None
    apparmor_profile: str | None = None
    verdicts: list[Verdict] = field(default_factory=list)


class HostFeatures:
    """What this host can enforce; tests make their own.

    Args:
        layout: Control groups.
    """

    def __init__(self, layout: Layout) -> None:
        self.controllers = layout.available()
        self.swap = _has_swap_accounting(layout)
        self.selinux = os.path.isdir("/sys/fs/selinux")
        self.apparmor = _apparmor_profiles()


def _has_swap_accounting(layout: Layout) -> bool:
    if not layout.pure:
        point = layout.controllers.get("memory")
        return bool(point) and os.path.exists(f"{point}/memory.memsw.limit_in_bytes")
    assert layout.unified
    try:
        below = [entry.path for entry in os.scandir(layout.unified) if entry.is_dir()]
    except OSError:
        return False
    return any(os.path.exists(f"{path}/memory.swap.max") for path in below)


def _apparmor_profiles() -> frozenset[str] | None:
    """Names of the loaded profiles; ``None`` on a host without AppArmor."""
    try:
        with open("/sys/kernel/security/apparmor/profiles", encoding="utf-8") as file:
            return frozenset(line.rpartition(" (")[0] for line in file)
    except OSError:
        return None


def compile_app(
    isolators: IsolatorList, app: str, pod: CompiledPod, host: HostFeatures, *, native: bool = False
) -> Compiled:
    """Compile the isolators of the app called *app*; *native* as in :func:`compile_filter`.

    Raises:
        IsolatorError: One of them has no meaning here and guessing would be dangerous.
    """
    _refuse_problems(isolators, app)
    bounding = _capabilities(isolators)
    result = Compiled(
        capabilities=bounding,
        seccomp=compile_filter(isolators.seccomp(), bounding, native=native),
        no_new_privileges=isolators.no_new_privileges(),
        selinux_label=pod.selinux_label,
        apparmor_profile=pod.apparmor_profile,
    )
    effective = {id(isolators.get(item.name)) for item in isolators}
    for item in isolators:
        if id(item) not in effective:
            result.verdicts.append(Verdict(app, item.name, "ignored", "repeated: the last one counts"))
            continue
        result.verdicts.append(Verdict(app, item.name, *_apply(item, result, host, app)))
    return result


def _apply(item: Isolator, result: Compiled, host: HostFeatures, app: str) -> tuple[str, str]:
    if isinstance(item, (appc.Seccomp, appc.Capabilities, appc.NoNewPrivileges)):
        return "applied", ""
    if isinstance(item, appc.OOMScoreAdj):
        result.oom_score_adj = item.score
        return "applied", ""
    if isinstance(item, appc.CPUShares):
        if "cpu" not in host.controllers:
            return "ignored", "this host has no cpu controller"
        result.resources.setdefault("cpu", {})["shares"] = item.shares
        return "applied", ""
    if isinstance(item, appc.SELinuxContext):
        if not host.selinux:
            return "ignored", "this host has no SELinux"
        result.selinux_label = str(item)
        return "applied", ""
    if isinstance(item, appc.AppArmorProfile):
        return _apparmor(item, result, host, app)
    if isinstance(item, appc.Resource):
        if item.name == appc.MEMORY:
            return _memory(item, result, host)
        if item.name == appc.CPU:
            return _cpu(item, result, host)
        return "ignored", "not enforced by this version"
    return "ignored", "not known"


def _apparmor(
    item: appc.AppArmorProfile, result: Compiled | CompiledPod, host: HostFeatures, scope: str
) -> tuple[str, str]:
    if host.apparmor is None:
        return "ignored", "this host has no AppArmor"
    if item.profile not in host.apparmor:
        raise IsolatorError(
            f'{scope}: the AppArmor profile "{item.profile}" is not loaded on this host',
            hint="load it with apparmor_parser",
            rule="ISO-29",
        )
    result.apparmor_profile = item.profile
    return "applied", ""


def _memory(item: Resource, result: Compiled, host: HostFeatures) -> tuple[str, str]:
    if "memory" not in host.controllers:
        return "ignored", "this host has no memory controller"
    memory = result.resources.setdefault("memory", {})
    notes: list[str] = []
    if item.limit is not None:
        memory["limit"] = _checked_memory(item.limit.value)
        if host.swap:
            memory["swap"] = memory["limit"]
        else:
            notes.append("swap is not limited: this host does not account it")
    if item.request is not None and item.request != item.limit:
        memory["reservation"] = item.request.value
    if not memory:
        return "ignored", "it has neither limit nor request"
    return ("altered", notes[0]) if notes else ("applied", "")


def _checked_memory(amount: int) -> int:
    if amount < MIN_MEMORY:
        raise IsolatorError(
            f"memory limit of {amount} bytes too low. Try a reasonable value, such as --memory=16M",
            rule="ISO-51",
        )
    return amount


def _cpu(item: Resource, result: Compiled, host: HostFeatures) -> tuple[str, str]:
    if "cpu" not in host.controllers:
        return "ignored", "this host has no cpu controller"
    cpu = result.resources.setdefault("cpu", {})
    altered = ""
    if item.limit is not None:
        quota = item.limit.milli * _PERIOD // 1000
        if quota < _MIN_QUOTA:
            quota, altered = _MIN_QUOTA, "limit raised to 10m, the kernel's least"
        cpu |= {"quota": quota, "period": _PERIOD}
    if item.request is not None and item.request != item.limit and "shares" not in cpu:
        cpu["shares"] = min(262144, max(2, item.request.milli * 1024 // 1000))
    if not cpu:
        return "ignored", "it has neither limit nor request"
    return ("altered", altered) if altered else ("applied", "")


def _capabilities(isolators: IsolatorList) -> list[str]:
    named = isolators.get(appc.CAPS_RETAIN, appc.Capabilities) or isolators.get(
        appc.CAPS_REMOVE, appc.Capabilities
    )
    unknown = sorted(set(named.set) - set(CAPABILITIES)) if named else []
    if unknown and named:
        raise IsolatorError(
            f'{named.name}: there is no capability "{unknown[0]}"',
            hint="such as CAP_NET_ADMIN; see man 7 capabilities",
            rule="ISO-34",
        )
    bounding = isolators.bounding_set()
    return [name for name in CAPABILITIES if name in bounding]


def compile_pod(isolators: IsolatorList, host: HostFeatures, *, host_network: bool) -> CompiledPod:
    """Compile the isolators of the pod.

    Raises:
        IsolatorError: One of them cannot be applied and must not be ignored.
    """
    _refuse_problems(isolators, "pod")
    result = CompiledPod()
    effective = {id(isolators.get(item.name)) for item in isolators}
    for item in isolators:
        status, detail = "ignored", "not known"
        if id(item) not in effective:
            detail = "repeated: the last one counts"
        elif isinstance(item, appc.Sysctl):
            _check_sysctl(item.values, host_network=host_network)
            result.sysctl = dict(item.values)
            status, detail = "applied", ""
        elif isinstance(item, appc.AppArmorProfile):
            status, detail = _apparmor(item, result, host, "pod")
        elif isinstance(item, appc.SELinuxContext):
            if host.selinux:
                result.selinux_label = str(item)
                status, detail = "applied", ""
            else:
                detail = "this host has no SELinux"
        elif isinstance(item, appc.Resource):
            status, detail = _limit_pod(item, result, host)
        result.verdicts.append(Verdict("pod", item.name, status, detail))
    return result


def _limit_pod(item: Resource, result: CompiledPod, host: HostFeatures) -> tuple[str, str]:
    key = {appc.MEMORY: "memory", appc.CPU: "cpu"}.get(item.name)
    if key is None:
        return "ignored", "not enforced by this version"
    if key not in host.controllers:
        return "ignored", f"this host has no {key} controller"
    if item.limit is None:
        return "ignored", "it has no limit"
    if key == "memory":
        result.limits["memory"] = _checked_memory(item.limit.value)
        return "applied", ""
    result.limits["cpu_milli"] = max(10, item.limit.milli)
    return "applied", ""


def _check_sysctl(values: dict[str, str], *, host_network: bool) -> None:
    """ISO-56, ISO-57: only what belongs to the pod's own namespaces; else the whole pod is refused."""
    for name in values:
        parts = name.split(".")
        well_formed = all(part and part not in {".", ".."} and "/" not in part for part in parts)
        network = parts[0] == "net" and len(parts) > 2 and not host_network
        if not (well_formed and (network or name in _IPC_SYSCTLS or name.startswith("fs.mqueue."))):
            raise IsolatorError(
                f'os/unix/sysctl: "{name}" is not a setting of the pod\'s own namespaces',
                hint="net.* (without --net=host), kernel.msg*, kernel.sem, kernel.shm*, fs.mqueue.*",
                rule="ISO-57",
            )


def _refuse_problems(isolators: IsolatorList, scope: str) -> None:
    problems = isolators.problems()
    if problems:
        raise IsolatorError(f"{scope}: {problems[0]}", rule="ISO-08,TRAP-31")
