"""Stand-ins for the rooms beneath named pods and for systemd, in memory and on a temporary directory.

They keep the promises of the real ones that the engine relies on: systemd runs what the unit on disk said at
the last daemon-reload; an image is in the store or must come from the network; a pod is prepared or gone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gantry.apply.document import TrustEntry
from gantry.apply.host import KeyChange
from gantry.apply.plan import KeyFact
from gantry.errors import BusyError, GantryError
from gantry.releases.spec import PodSpec
from gantry.systemd import SystemdError


class FakeNetworkError(GantryError):
    """The network was asked for something that is not there."""

    code = "unreachable"


class Killed(BaseException):
    """The process was killed here."""


def image_id(text: str) -> str:
    return "sha512-" + (text.encode().hex() + "0" * 128)[:128]


class FakeRooms:
    """Images and pods."""

    def __init__(self) -> None:
        self.store: dict[str, str] = {}
        self.unverified: dict[str, str] = {}
        self.network: dict[str, str] = {}
        self.network_calls: list[str] = []
        self.pods: dict[str, str] = {}
        self.contents: dict[str, dict[str, str]] = {}
        self.pins: dict[str, set[str]] = {}
        self.removed_images: list[str] = []
        self.kept: dict[str, dict[str, str | None]] = {}
        self.prepared = 0
        self.fail_prepare = ""
        self.hook: Callable[[str], None] = lambda _step: None

    def find(self, image: str) -> str | None:
        return self.store.get(image)

    def verification(self, image_id: str) -> dict[str, Any] | None:
        return {"key": f"key of {image_id}"}

    def stored(self, image: str) -> str | None:
        return self.store.get(image) or self.unverified.get(image)

    def resolve(self, image: str, pull: str) -> str:
        if pull != "update" and image in self.store:
            return self.store[image]
        if pull == "never":
            raise FakeNetworkError(f'no image "{image}" in the store')
        self.network_calls.append(image)
        if image not in self.network:
            raise FakeNetworkError(f'discovery failed for "{image}"')
        self.store[image] = self.network[image]
        return self.store[image]

    def remove(self, image: str) -> None:
        self.check_removal(image, "nobody", ())
        self.removed_images.append(image)
        (self.store if image in self.store else self.unverified).pop(image)

    def check_removal(self, image: str, owner: str, pods: Iterable[str]) -> None:
        found = self.stored(image)
        holders = [name for name, ids in self.pins.items() if found in ids and name not in pods]
        holders += [name for name, kept in self.kept.items() if found in kept.values() and name != owner]
        if holders:
            raise BusyError(f"the image {image} stays for {holders[0]}")

    def keep(self, owner: str, images: Mapping[str, str | None]) -> None:
        self.kept[owner] = dict(images)

    def prepare(self, spec: PodSpec, images: Mapping[str, str]) -> str:
        self.hook("prepare")
        if self.fail_prepare:
            raise GantryError(self.fail_prepare)
        self.prepared += 1
        uuid = f"{self.prepared:08x}-0000-4000-8000-000000000000"
        self.pods[uuid] = spec.name
        self.contents[uuid] = dict(images)
        self.hook("prepared")
        return uuid

    def pod_there(self, uuid: str) -> bool:
        return uuid in self.pods

    def pods_of(self, name: str) -> list[str]:
        return [u for u, n in self.pods.items() if n == name]

    def remove_pod(self, uuid: str) -> None:
        self.hook("remove_pod")
        self.pods.pop(uuid, None)

    def pin(self, name: str, images: Iterable[str]) -> None:
        self.hook("pin")
        ids = set(images)
        if ids:
            self.pins[name] = ids
        else:
            self.pins.pop(name, None)


class FakeSystemd:
    """A service manager that knows units by what daemon-reload read from their directory."""

    def __init__(self, unit_dir: Path, rooms: FakeRooms) -> None:
        self.unit_dir = unit_dir
        self.rooms = rooms
        self.loaded: dict[str, str] = {}
        self.active: dict[str, str] = {}
        self.running: dict[str, str] = {}
        self.broken_images: set[str] = set()
        self.dies_after_start: set[str] = set()
        self.calls: list[str] = []
        self.booted = True
        self.must_kill = False
        self.hook: Callable[[str], None] = lambda _step: None

    def available(self) -> bool:
        return self.booted

    def daemon_reload(self) -> None:
        self._call("daemon-reload")
        self.loaded = {p.name: p.read_text() for p in self.unit_dir.glob("*.service")}

    def start(self, unit: str) -> None:
        self._call(f"start {unit}")
        text = self.loaded.get(unit)
        if text is None:
            raise SystemdError(f"systemctl start {unit}: Unit {unit} not found.")
        if self.active.get(unit) == "active":
            return
        found = re.search(r"ExecStart=.* run-prepared (?:--leave )?(\S+)", text)
        assert found
        uuid = found[1]
        images = set(self.rooms.contents.get(uuid, {}).values())
        if uuid not in self.rooms.pods or images & self.broken_images:
            self.active[unit] = "failed"
            raise SystemdError(f"systemctl start {unit}: Job for {unit} failed.")
        self.active[unit] = "activating" if images & self.dies_after_start else "active"
        self.running[unit] = uuid

    def stop(self, unit: str) -> None:
        self._call(f"stop {unit}")
        self.active[unit] = "failed" if self.must_kill else "inactive"
        self.running.pop(unit, None)

    def reset_failed(self, unit: str) -> None:
        self._call(f"reset-failed {unit}")
        if self.active.get(unit) == "failed":
            self.active[unit] = "inactive"

    def show_many(self, units: Sequence[str], properties: Iterable[str]) -> dict[str, dict[str, str]]:
        self._call(f"show {' '.join(units)}")
        return {u: self._show(u) for u in units}

    def _show(self, unit: str) -> dict[str, str]:
        active = self.active.get(unit, "inactive")
        sub = {"active": "running", "activating": "auto-restart", "failed": "failed"}.get(active, "dead")
        return {
            "ActiveState": active,
            "SubState": sub,
            "Result": "exit-code" if active in {"failed", "activating"} else "success",
            "NRestarts": "1" if active == "activating" else "0",
            "ExecMainStatus": "1" if active in {"failed", "activating"} else "0",
        }

    def last_log_line(self, unit: str, since: float) -> str:
        return "cannot open /etc/app.conf" if self.active.get(unit) in {"failed", "activating"} else ""

    def crash(self) -> None:
        """The app of every pod ends."""
        self.running.clear()
        self.active = dict.fromkeys(self.active, "failed")

    def _call(self, what: str) -> None:
        self.hook(what.split(maxsplit=1)[0])
        self.calls.append(what)


class FakeKeys:
    """Trusted keys; a key's text stands for its fingerprint and version: ``FPR VERSION``."""

    def __init__(self) -> None:
        self.trusted: dict[str, str] = {}
        self.examined = 0
        self.remembered: dict[str, str] = {}

    def fact(self, entry: TrustEntry) -> KeyFact:
        there = self.trusted.get(entry.label)
        if entry.key is None and there is None and entry.state == "present":
            raise GantryError(f"the key {entry.fingerprint} is not on this host")
        before = {"key": there} if there else None
        if entry.key is None or entry.state == "absent":
            return KeyFact(there is not None, before=before, after=before)
        if self.remembered.get(entry.label) == entry.key == there:
            return KeyFact(True, before=before, after=before)
        self.examined += 1
        return KeyFact(there is not None, there != entry.key, before, {"key": entry.key})

    def fact_of_label(self, label: str) -> KeyFact:
        there = self.trusted.get(label)
        return KeyFact(there is not None, before={"key": there} if there else None)

    def add(self, entry: TrustEntry) -> KeyChange:
        assert entry.key
        before = self.trusted.get(entry.label)
        self.trusted[entry.label] = entry.key
        action = "none" if before == entry.key else "merge" if before else "add"
        return KeyChange(
            action != "none", action, "", {"key": before} if before else None, {"key": entry.key}
        )

    def remove(self, label: str) -> bool:
        return self.trusted.pop(label, None) is not None

    def remember(self, entries: Iterable[TrustEntry]) -> None:
        self.remembered.update({e.label: e.key for e in entries if e.key and e.label in self.trusted})
