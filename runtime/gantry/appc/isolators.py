"""Isolators: the limits and restrictions of an app or a pod, typed where they are known (ISO-01 ... ISO-58).

An unknown isolator never refuses a manifest: it is kept as it is, and :meth:`IsolatorList.unknown` names it
so that running it can be reported as ignored (ISO-03, ISO-04, TRAP-17). A *known* isolator with a malformed
value does refuse (ISO-06). What is well-formed but can have no meaning where it stands (a scope or wildcard
out of place, TRAP-31) parses with a note and is listed by :meth:`IsolatorList.problems`, which a launcher
must ask.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeVar, cast, overload

from gantry.appc.document import describe
from gantry.appc.errors import AppcError
from gantry.appc.names import ac_identifier
from gantry.appc.quantity import Quantity, QuantityError
from gantry.appc.reading import Obj, Reading

if TYPE_CHECKING:
    import builtins
    from collections.abc import Callable, Iterator, Sequence

Scope = Literal["app", "pod"]
T = TypeVar("T", bound="Isolator")

SECCOMP_REMOVE = "os/linux/seccomp-remove-set"
SECCOMP_RETAIN = "os/linux/seccomp-retain-set"
CAPS_REMOVE = "os/linux/capabilities-remove-set"
CAPS_RETAIN = "os/linux/capabilities-retain-set"
NO_NEW_PRIVILEGES = "os/linux/no-new-privileges"
SELINUX = "os/linux/selinux-context"
APPARMOR = "os/linux/apparmor-profile"
OOM_SCORE = "os/linux/oom-score-adj"
CPU_SHARES = "os/linux/cpu-shares"
SYSCTL = "os/unix/sysctl"
CPU = "resource/cpu"
MEMORY = "resource/memory"
BLOCK_BANDWIDTH = "resource/block-bandwidth"
BLOCK_IOPS = "resource/block-iops"
NETWORK_BANDWIDTH = "resource/network-bandwidth"

DEFAULT_CAPABILITIES = frozenset(
    {
        "CAP_AUDIT_WRITE",
        "CAP_CHOWN",
        "CAP_DAC_OVERRIDE",
        "CAP_FSETID",
        "CAP_FOWNER",
        "CAP_KILL",
        "CAP_MKNOD",
        "CAP_NET_RAW",
        "CAP_NET_BIND_SERVICE",
        "CAP_SETUID",
        "CAP_SETGID",
        "CAP_SETPCAP",
        "CAP_SETFCAP",
        "CAP_SYS_CHROOT",
    }
)
"""The bounding set of an app without a capability isolator (ISO-30)."""

_ONCE = {SECCOMP_REMOVE, SECCOMP_RETAIN, SELINUX, APPARMOR, SYSCTL, OOM_SCORE, CPU_SHARES}
_APP_ONLY = {SECCOMP_REMOVE, SECCOMP_RETAIN, CAPS_REMOVE, CAPS_RETAIN, NO_NEW_PRIVILEGES}
_POD_ONLY = {SYSCTL}
_RIVALS = ({SECCOMP_REMOVE, SECCOMP_RETAIN}, {CAPS_REMOVE, CAPS_RETAIN})
_WILDCARDS = {SECCOMP_REMOVE: "@appc.io/empty", SECCOMP_RETAIN: "@appc.io/all"}


class IsolatorError(AppcError):
    """Isolators contradict each other or cannot be applied."""

    code = "isolator"


@dataclass(frozen=True, slots=True)
class Isolator:
    """One isolator.

    Attributes:
        name: Its name.
        data: The whole JSON object it came from, unknown keys included.
    """

    name: str
    data: dict[str, object] = field(compare=False, repr=False)

    @property
    def value(self) -> object:
        """The JSON value as it was read."""
        return self.data.get("value")


class Unknown(Isolator):
    """An isolator that Gantry does not know; kept as it is (ISO-03)."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Seccomp(Isolator):
    """Which system calls are blocked (ISO-09 ... ISO-22).

    Attributes:
        retain: Whether ``set`` lists what stays allowed (else: what is blocked).
        set: System calls and scoped wildcards (``@scope/name``).
        errno: Error that blocked calls return; ``None``: they end the app by SIGSYS.
    """

    retain: bool
    set: tuple[str, ...]
    errno: str | None

    @property
    def syscalls(self) -> tuple[str, ...]:
        """The entries that are system calls."""
        return tuple(entry for entry in self.set if not entry.startswith("@"))

    @property
    def wildcards(self) -> tuple[str, ...]:
        """The entries that are wildcards."""
        return tuple(entry for entry in self.set if entry.startswith("@"))

    @property
    def masked(self) -> bool:
        """Whether a wildcard makes every other entry meaningless (ISO-14, ISO-18)."""
        return _WILDCARDS[self.name] in self.set


@dataclass(frozen=True, slots=True)
class Capabilities(Isolator):
    """Which capabilities an app's bounding set has (ISO-30 ... ISO-34).

    Attributes:
        retain: Whether ``set`` is the bounding set (else: is taken from the defaults).
        set: Names as written; not validated when parsed.
    """

    retain: bool
    set: frozenset[str]

    def bounding_set(self) -> frozenset[str]:
        """The resulting bounding set."""
        return self.set if self.retain else DEFAULT_CAPABILITIES - self.set


@dataclass(frozen=True, slots=True)
class NoNewPrivileges(Isolator):
    """Whether ``no_new_privs`` is set (ISO-35)."""

    enabled: bool


@dataclass(frozen=True, slots=True)
class SELinuxContext(Isolator):
    """An SELinux context (ISO-24)."""

    user: str
    role: str
    type: str
    level: str

    def __str__(self) -> str:
        return f"{self.user}:{self.role}:{self.type}:{self.level}"


@dataclass(frozen=True, slots=True)
class AppArmorProfile(Isolator):
    """The name of an AppArmor profile that is already loaded (ISO-27)."""

    profile: str


@dataclass(frozen=True, slots=True)
class OOMScoreAdj(Isolator):
    """``oom_score_adj``, -1000 ... 1000 (ISO-36)."""

    score: int


@dataclass(frozen=True, slots=True)
class CPUShares(Isolator):
    """Relative CPU weight, 2 ... 262144, kernel default 1024 (ISO-37)."""

    shares: int


@dataclass(frozen=True, slots=True)
class Sysctl(Isolator):
    """Kernel parameters of a pod (ISO-55)."""

    values: dict[str, str]


@dataclass(frozen=True, slots=True)
class Resource(Isolator):
    """An amount of a resource (ISO-38 ... ISO-54).

    Attributes:
        limit: The maximum, or ``None`` for none.
        request: The guaranteed minimum; equals ``limit`` when it was not given (ISO-39).
        default: Whether it is meant for all devices; only block and network isolators have it.
    """

    limit: Quantity | None
    request: Quantity | None
    default: bool


class IsolatorList:
    """The isolators of one app or pod, in order. Immutable.

    Args:
        items: The isolators.
        scope: Whose they are.
    """

    __slots__ = ("_items", "scope")

    def __init__(self, items: Sequence[Isolator] = (), scope: Scope = "app") -> None:
        self._items = tuple(items)
        self.scope = scope

    def __iter__(self) -> Iterator[Isolator]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> Isolator:
        return self._items[index]

    def __eq__(self, other: object) -> bool:
        return self._items == other._items if isinstance(other, IsolatorList) else NotImplemented

    def __hash__(self) -> int:
        return hash(tuple(item.name for item in self._items))

    def __repr__(self) -> str:
        return f"IsolatorList({[item.name for item in self._items]})"

    @overload
    def get(self, name: str) -> Isolator | None: ...
    @overload
    def get(self, name: str, kind: type[T]) -> T | None: ...
    def get(self, name: str, kind: type[Isolator] = Isolator) -> Isolator | None:
        """The last isolator called *name* (ISO-07), or ``None``; *kind* only narrows the type."""
        for item in reversed(self._items):
            if item.name == name and isinstance(item, kind):
                return item
        return None

    def seccomp(self) -> Seccomp | None:
        """The seccomp isolator, if there is one."""
        return self.get(SECCOMP_RETAIN, Seccomp) or self.get(SECCOMP_REMOVE, Seccomp)

    def bounding_set(self) -> frozenset[str]:
        """The capabilities of the bounding set; the defaults without an isolator (ISO-30)."""
        found = self.get(CAPS_RETAIN, Capabilities) or self.get(CAPS_REMOVE, Capabilities)
        return DEFAULT_CAPABILITIES if found is None else found.bounding_set()

    def no_new_privileges(self) -> bool:
        """Whether no_new_privs is asked for (ISO-35)."""
        found = self.get(NO_NEW_PRIVILEGES, NoNewPrivileges)
        return found is not None and found.enabled

    def resource(self, name: str) -> Resource | None:
        """The last resource isolator called *name*."""
        return self.get(name, Resource)

    def unknown(self) -> list[str]:
        """Names of isolators that Gantry does not know, to be reported as ignored."""
        return [item.name for item in self._items if isinstance(item, Unknown)]

    def problems(self) -> list[str]:
        """What cannot be applied as it stands, one line each; empty if all is well (ISO-08, TRAP-31)."""
        return [problem for item in self._items for problem in _problems(item, self.scope)]

    def override(self, new: Isolator) -> IsolatorList:
        """Replace every isolator that *new* supersedes and append it (ISO-58)."""
        gone = {new.name}.union(*(pair for pair in _RIVALS if new.name in pair))
        return IsolatorList([item for item in self._items if item.name not in gone] + [new], self.scope)


def make(name: str, value: object) -> Isolator:
    """One isolator from its name and JSON value, as the command line makes them.

    Raises:
        ManifestError: A known isolator's value is malformed.
    """
    return _read(Obj({"name": name, "value": value}, "$", Reading(strict=True)))


def read_list(owner: Obj, key: str, scope: Scope) -> IsolatorList:
    """Read the member *key* of *owner* (ISO-06, ISO-07, ISO-22, ISO-33).

    Raises:
        ManifestError: A known isolator is malformed, repeated where it cannot be, or contradicts another.
    """
    items: list[Isolator] = []
    names: builtins.set[str] = set()
    for entry in owner.objects(key, "TYP-18"):
        item = _read(entry)
        if item.name in names and item.name in _ONCE:
            entry.fail(f'the isolator "{item.name}" can occur only once in a list', key="name", rule="ISO-07")
        names.add(item.name)
        for pair in _RIVALS:
            if pair <= names and item.name in pair:
                entry.fail(
                    f"{' and '.join(sorted(pair))} cannot be used together", key="name", rule="ISO-22,ISO-33"
                )
        if isinstance(item, Unknown):
            entry.reading.note(entry.at("name"), f'the isolator "{item.name}" is not known', "ISO-03")
        for problem in _problems(item, scope):
            entry.reading.note(entry.path, problem, "ISO-08,TRAP-31")
        items.append(item)
    return IsolatorList(items, scope)


def _problems(item: Isolator, scope: Scope) -> Iterator[str]:
    if scope == "pod" and item.name in _APP_ONLY:
        yield f"{item.name} belongs to an app, not to a pod"
    if scope == "app" and item.name in _POD_ONLY:
        yield f"{item.name} belongs to a pod, not to an app"
    if isinstance(item, Seccomp):
        for entry in item.wildcards:
            scope_name, slash, name = entry.removeprefix("@").partition("/")
            if not (scope_name and slash and name):
                yield f'{item.name}: "{entry}" is not a wildcard of the form @scope/name'
            elif scope_name == "appc.io" and entry != _WILDCARDS[item.name]:
                yield f'{item.name}: "{entry}" has no meaning here'


def _read(entry: Obj) -> Isolator:
    strict = entry.reading.strict
    name = entry.checked(
        "name", "TYP-18", lambda text: ac_identifier(text, what="isolator name", strict=strict)
    )
    if "value" not in entry.data:
        entry.get("value")  # takes another spelling, if there is one
    if "value" not in entry.data:
        entry.fail('"value" is required and missing', rule="TYP-18,ISO-06")
    reader = _READERS.get(name)
    return Unknown(name, entry.data) if reader is None else reader(name, entry)


def _value_object(entry: Obj, rule: str) -> Obj:
    node = entry.child("value", rule)
    if node is None:
        entry.fail("the value is null, not an object", key="value", rule=rule)
    return node


def _string_set(node: Obj, rule: str) -> tuple[str, ...]:
    entries = node.strings("set", rule)
    if not entries:
        node.fail('"set" is missing or empty', key="set", rule=rule)
    return entries


def _seccomp(name: str, entry: Obj) -> Isolator:
    node = _value_object(entry, "ISO-09")
    entries = _string_set(node, "ISO-09")
    if "" in entries:
        node.fail("a system call's name is empty", key="set", rule="ISO-09")
    errno = node.optional_string("errno", "ISO-20")
    if errno and not (
        errno[0] == "E" and len(errno) > 1 and errno.isascii() and errno.isalnum() and errno == errno.upper()
    ):
        node.fail(f'"{errno}" is not an error name', key="errno", rule="ISO-20", hint="such as EPERM")
    return Seccomp(name, entry.data, name == SECCOMP_RETAIN, entries, errno or None)


def _capabilities(name: str, entry: Obj) -> Isolator:
    entries = _string_set(_value_object(entry, "ISO-34"), "ISO-34")
    return Capabilities(name, entry.data, name == CAPS_RETAIN, frozenset(entries))


def _no_new_privileges(name: str, entry: Obj) -> Isolator:
    enabled = entry.boolean("value", "ISO-35")
    if enabled is None:
        entry.fail("the value is null, not true or false", key="value", rule="ISO-35")
    return NoNewPrivileges(name, entry.data, enabled)


def _selinux(name: str, entry: Obj) -> Isolator:
    node = _value_object(entry, "ISO-24")
    parts = {key: node.string(key, "ISO-24") for key in ("user", "role", "type", "level")}
    for key, text in parts.items():
        if not text:
            node.fail(f'"{key}" is empty', key=key, rule="ISO-24")
        if ":" in text and key != "level":
            node.fail(f'"{key}" has a colon', key=key, rule="ISO-24")
    return SELinuxContext(name, entry.data, **parts)


def _apparmor(name: str, entry: Obj) -> Isolator:
    node = _value_object(entry, "ISO-27")
    profile = node.string("profile", "ISO-27")
    if not profile:
        node.fail('"profile" is empty', key="profile", rule="ISO-27")
    return AppArmorProfile(name, entry.data, profile)


def _bounded(
    kind: Callable[[str, dict[str, object], int], Isolator], low: int, high: int, rule: str
) -> Callable[[str, Obj], Isolator]:
    def read(name: str, entry: Obj) -> Isolator:
        number = entry.integer("value", rule, low=low, high=high)
        if number is None:
            entry.fail("the value is null, not an integer", key="value", rule=rule)
        return kind(name, entry.data, number)

    return read


def _sysctl(name: str, entry: Obj) -> Isolator:
    _value_object(entry, "ISO-55")
    return Sysctl(name, entry.data, entry.string_map("value", "ISO-55"))


def _quantity(node: Obj, key: str, rule: str) -> Quantity | None:
    value = node.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        node.fail(f'"{key}" is {describe(value)}, not a quantity', key=key, rule=rule)
    try:
        amount = Quantity.parse(cast("str | float", value))
    except QuantityError as exc:
        node.fail(exc.message, key=key, rule=exc.rule, hint=exc.hint)
    if amount.is_negative:
        node.fail(f'"{key}" is negative', key=key, rule="TRAP-29")
    return amount


def _resource(name: str, entry: Obj) -> Isolator:
    per_device = name in (BLOCK_BANDWIDTH, BLOCK_IOPS, NETWORK_BANDWIDTH)
    rule = {BLOCK_BANDWIDTH: "ISO-48", BLOCK_IOPS: "ISO-49", CPU: "ISO-50", MEMORY: "ISO-51"}.get(
        name, "ISO-52"
    )
    node = _value_object(entry, rule)
    default = node.boolean("default", rule) or False
    if default != per_device:
        node.fail(
            '"default" has to be true' if per_device else '"default" cannot be true', key="default", rule=rule
        )
    limit = _quantity(node, "limit", rule)
    request = _quantity(node, "request", rule)
    if per_device and request is not None:
        node.fail('"request" is not possible here', key="request", rule=rule)
    return Resource(name, entry.data, limit, request if request is not None or per_device else limit, default)


_READERS: dict[str, Callable[[str, Obj], Isolator]] = {
    SECCOMP_REMOVE: _seccomp,
    SECCOMP_RETAIN: _seccomp,
    CAPS_REMOVE: _capabilities,
    CAPS_RETAIN: _capabilities,
    NO_NEW_PRIVILEGES: _no_new_privileges,
    SELINUX: _selinux,
    APPARMOR: _apparmor,
    OOM_SCORE: _bounded(OOMScoreAdj, -1000, 1000, "ISO-36"),
    CPU_SHARES: _bounded(CPUShares, 2, 262144, "ISO-37"),
    SYSCTL: _sysctl,
    CPU: _resource,
    MEMORY: _resource,
    BLOCK_BANDWIDTH: _resource,
    BLOCK_IOPS: _resource,
    NETWORK_BANDWIDTH: _resource,
}
