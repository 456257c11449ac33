"""The demonstration itself: its steps in order, each ending in facts that were checked."""

from __future__ import annotations

import contextlib
import json
import shlex
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from demo import keys as demo_keys
from demo import leftovers, refusals
from demo.hosts import Asker, PodView, ProofError
from demo.play import Player, Recap
from demo.show import Stage
from gantry.errors import GantryError
from testhosts import cache, fleet
from testhosts.spec import Host, parse

IMAGE = "example.com/hello"
VERSION = "1.0"
POD = "hello"
SERVER = "images"
PLAYBOOK = "appc.gantry.demo"
CA_ON_HOST = "/etc/gantry/ca.pem"

SPEC: dict[str, Any] = {
    "hosts": [
        {
            "name": SERVER,
            "suite": "bookworm",
            "groups": ["gantry_image_servers"],
            "aliases": [IMAGE.split("/", maxsplit=1)[0]],
        },
        {"name": "app1", "suite": "bookworm", "groups": ["gantry_app_hosts"]},
        {"name": "app2", "suite": "trixie", "groups": ["gantry_app_hosts"]},
    ]
}


@dataclass
class Demo:
    """One run of the demonstration.

    Attributes:
        stage: The screen.
        place: Its directory; everything it makes is in there (and removed with it).
        stopping: True once the user has asked to stop.
    """

    stage: Stage
    place: Path
    stopping: Callable[[], bool]
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def state(self) -> Path:
        """The state directory of its fleet."""
        return self.place / "fleet"

    def run(self) -> None:
        """All steps.

        Raises:
            GantryError: A step failed, or a proof did not hold.
        """
        stage = self.stage
        stage.step("Build the collection and install it from its artifact, as a user would")
        collections = self._collection()

        stage.step("Boot three fresh Debian hosts on a network of their own")
        with stage.live("booting; the first time, Debian's packages are fetched, which takes a minute"):
            self.fleet = fleet.create(parse(SPEC), self.state, Boot(stage).say)
        self.ask = Asker(self.fleet)
        self.apps = [host for host in self.fleet.hosts if "gantry_app_hosts" in host.groups]
        stage.table(
            ["host", "Debian", "address", "will be"],
            [
                [h.name, h.suite, h.address, "image server" if h.name == SERVER else "app host"]
                for h in self.fleet.hosts
            ],
        )
        self.keys = demo_keys.make(self.place / "keys", IMAGE.split("/", maxsplit=1)[0])
        stage.good("made an authority and a certificate for https, and an OpenPGP key that signs the image")

        stage.step(f"Converge all of them with one playbook ({PLAYBOOK})")
        self.player = Player(stage, self.place, self.fleet.inventory, collections, self.stopping)
        variables_file(self.place).write_text(json.dumps(variables(self.keys), indent=1) + "\n")
        with stage.live("ansible-playbook"):
            first = self.player.playbook(PLAYBOOK, variables=variables(self.keys))
        self._recap(first)
        self.facts["first_run_seconds"] = round(first.seconds, 1)

        stage.step("Prove it from outside")
        before = {host.name: self._prove(host) for host in self.apps}

        stage.step("Run the same playbook again: nothing changes")
        self._again(before)

        stage.step("Offer three images that must not run")
        self._refuse(before)

    def last_words(self) -> None:
        """What the app hosts have logged, for whoever has to find out why it failed; best effort."""
        for host in getattr(self, "apps", []):
            script = "journalctl --quiet --no-pager --boot --unit='gantry-*' --output=cat | tail -n 12"
            with contextlib.suppress(GantryError):
                for line in self.ask.shell(host.name, script, status=None)[1].splitlines():
                    self.stage.note(f"{host.name}: {line}")

    def _collection(self) -> Path:
        builder = cache.REPOSITORY / "scripts/build_collection.py"
        output = cache.run(
            [sys.executable, str(builder), "--out", str(self.place / "build")],
            env=leftovers.mark(self.place),
            what="building the collection",
        )
        artifact = output.split()[0]
        self.stage.good(f"built {Path(artifact).name} ({Path(artifact).stat().st_size // 1024} KiB)")
        collections = self.place / "collections"
        galaxy = Path(sys.executable).with_name("ansible-galaxy")
        cache.run(
            [str(galaxy), "collection", "install", "--offline", artifact, "-p", str(collections)],
            env={
                "ANSIBLE_HOME": str(self.place / "ansible"),
                "ANSIBLE_COLLECTIONS_PATH": str(collections),
                **leftovers.mark(self.place),
            },
            what="installing the collection",
        )
        self.stage.good(f"ansible-galaxy collection install {Path(artifact).name}")
        return collections

    def _recap(self, recap: Recap) -> None:
        rows = [
            [host, str(counts["ok"]), str(counts["changed"]), str(counts["failures"] + counts["unreachable"])]
            for host, counts in recap.hosts.items()
        ]
        self.stage.table(["host", "ok", "changed", "failed"], rows)
        self.stage.note(f"{recap.seconds:.1f} s")

    def _prove(self, host: Host) -> PodView:
        view = self.ask.pod(host, POD)
        told = view.status
        if told.get("uuid") != view.uuid:
            raise ProofError(f"{host.name}: the page names pod {told.get('uuid')}, the host runs {view.uuid}")
        for key in ("verified", "forgery_refused"):
            if told.get(key) is not True:
                raise ProofError(f"{host.name}: the page says {key} = {told.get(key)}")
        self._signed(host, view.uuid, str(told["message"]), str(told["signature"]))
        self.stage.good(f"http://{host.address}:8080/ answers: pod {view.uuid}")
        self.stage.note(f"it asked its metadata service for that UUID, had '{told['message']}' signed,")
        self.stage.note(
            f"and the signature {str(told['signature'])[:24]}… verified; a changed message was refused,"
        )
        self.stage.note("by the pod's own word, and once more by the signer of its host")
        return view

    def _signed(self, host: Host, uuid: str, message: str, signature: str) -> None:
        """The pod's word is not enough: the signer of its host has to say the same of the same signature."""
        if not self.ask.verifies(host.name, uuid, message, signature):
            raise ProofError(f"{host.name}: the signer does not know the signature that the pod shows")
        for who, text in ((uuid, f"{message}!"), (str(uuid4()), message)):
            if self.ask.verifies(host.name, who, text, signature):
                raise ProofError(f"{host.name}: the signature counts for '{text}' of pod {who}, too")

    def _again(self, before: dict[str, PodView]) -> None:
        stage = self.stage
        with stage.live("ansible-playbook"):
            second = self.player.playbook(PLAYBOOK, variables=variables(self.keys), quiet=True)
        self._recap(second)
        if second.changed:
            changed = [host for host, counts in second.hosts.items() if counts["changed"]]
            raise ProofError(f"the second run changed something on {', '.join(changed)}")
        stage.good(f"changed=0 on every host, in {second.seconds:.1f} s")
        self.facts["second_run_seconds"] = round(second.seconds, 1)

        self.ask.run(SERVER, "systemctl", "stop", "nginx")
        with stage.live("ansible-playbook, the image server down"):
            third = self.player.playbook(
                PLAYBOOK, variables=variables(self.keys), limit="gantry_app_hosts", quiet=True
            )
        if third.changed:
            raise ProofError("with the image server down the app hosts were changed")
        stage.good(
            f"once more with the image server stopped: changed=0 in {third.seconds:.1f} s; nobody missed it"
        )
        self.ask.run(SERVER, "systemctl", "start", "nginx")
        for host in self.apps:
            self._untouched(host, before[host.name])
        stage.good("the pods are the same ones: same UUID, same process, same start")

    def _untouched(self, host: Host, before: PodView) -> None:
        now = self.ask.pod(host, POD)
        if now.process != before.process:
            raise ProofError(f"{host.name}: pod, pid and start {before.process} have become {now.process}")

    def _refuse(self, before: dict[str, PodView]) -> None:
        stage, ask = self.stage, self.ask
        one, two = self.apps
        path = refusals.image_path(ask, SERVER, IMAGE)
        stores = {host.name: ask.store(host.name) for host in self.apps}
        for case in refusals.cases(ask, SERVER, self.keys.stranger_key, self.place):
            stage.line(f"   {case.title}:")
            with refusals.spoiled(ask, SERVER, path, case):
                self._command_refuses(one, case)
                self._module_refuses(two, case)
            for host in self.apps:
                if ask.store(host.name) != stores[host.name]:
                    raise ProofError(f"{host.name}: the refused image has left something in the store")
        for host in self.apps:
            self._untouched(host, before[host.name])
        stage.good("nothing was stored; the running pods were not touched")
        for host in self.apps:
            self._audited(host)

    def _command_refuses(self, host: Host, case: refusals.Case) -> None:
        words = ["gantry", f"--ca-file={CA_ON_HOST}", "fetch", "--pull-policy=update", f"{IMAGE}:{VERSION}"]
        status, _output, errors = self.ask.run(host.name, *words, status=None)
        lines = errors.strip().splitlines()
        if status != 254 or len(lines) != 1:
            raise ProofError(
                f"{host.name}: {case.title}: ended with {status} and {len(lines)} lines: {errors!r}"
            )
        self.stage.refused(f"{host.name}$ gantry fetch  → exit {status}: {lines[0]}")

    def _module_refuses(self, host: Host, case: refusals.Case) -> None:
        arguments = f"name={IMAGE}:{VERSION} pull=update ca_file={CA_ON_HOST}"
        recap = self.player.module(host.name, "appc.gantry.image", arguments)
        result = recap.results.get(host.name, {})
        message = str(result.get("msg", ""))
        if not recap.failures or "\n" in message or result.get("code") != case.code:
            raise ProofError(f"{host.name}: {case.title}: the module said {json.dumps(result)[:500]}")
        self.stage.refused(f"{host.name}  module image → failed: {message}")

    def _audited(self, host: Host) -> None:
        entries = self.ask.json(host.name, "gantry", "audit", "list", "--event=image.refuse", "--format=json")
        found = [str(entry.get("code")) for entry in entries]
        wanted = ["bad-signature", "unknown-key", "unsigned"]
        if sorted(found) != wanted:
            raise ProofError(f"{host.name}: the audit record holds refusals {found}, not {wanted}")
        self.ask.run(host.name, "gantry", "audit", "verify")
        self.stage.good(
            f"{host.name}: all three are in the audit record ({', '.join(found)}), and it is whole"
        )


def variables(keys: demo_keys.Keys) -> dict[str, Any]:
    """What the demo playbook is given: keys, and caches on this machine."""
    return {
        "gantry_image_tls_certificate_file": str(keys.tls_certificate),
        "gantry_image_tls_key_file": str(keys.tls_key),
        "gantry_image_signing_key_file": str(keys.signing_key),
        "gantry_image_public_key_file": str(keys.public_key),
        "gantry_ca_certificate_file": str(keys.ca),
        "gantry_demo_fingerprint": keys.fingerprint,
        "gantry_runtime_build_directory": str(cache.directory() / "runtime"),
        "gantry_image_cache_directory": str(cache.directory() / "images"),
        # The hosts' network ends at its bridge; this machine has the index.
        "gantry_image_packages_from": "control",
    }


class Boot:
    """What the fleet tells while it is made: base roots are announced, and done when the next line comes."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.pending = ""

    def say(self, line: str) -> None:
        """A line of the fleet's."""
        if self.pending:
            self.stage.good(self.pending)
            self.pending = ""
        if line.startswith("base roots"):
            self.pending = line
            self.stage.note(f"{line}: from the cache, or made now, which takes a minute or two")
        else:
            self.stage.good(line)


def variables_file(place: Path) -> Path:
    """Where the demo playbook's variables are, for whoever wants to run it again."""
    return place / "vars.yml"


def commands(place: Path, ssh_config: Path) -> list[str]:
    """Complete commands for the hosts that were kept, from the directory that this was called in."""
    here, bin_directory = Path.cwd(), Path(sys.executable).parent
    config, ansible, playbook, variables_path, ssh = (
        shlex.quote(str(path.relative_to(here) if path.is_relative_to(here) else path))
        for path in (
            place / "ansible.cfg",
            bin_directory / "ansible",
            bin_directory / "ansible-playbook",
            variables_file(place),
            ssh_config,
        )
    )
    return [
        f"ssh -F {ssh} app1 gantry list",
        f"ssh -F {ssh} app1 curl -s http://10.77.0.12:8080/status.json",
        f"ANSIBLE_CONFIG={config} {ansible} gantry_app_hosts -m appc.gantry.pod_info",
        f"ANSIBLE_CONFIG={config} {playbook} {PLAYBOOK} -e @{variables_path}",
    ]


def again(place: Path, verb: str) -> str:
    """How to have the demonstration in *place* do *verb*: ``make`` knows only its usual place."""
    if place == cache.REPOSITORY / "build/demo":
        return f"make demo-{verb}"
    return f"PYTHONPATH=molecule:runtime .venv/bin/python -m demo --{verb} --place {shlex.quote(str(place))}"


def summary(demo: Demo, *, kept: bool) -> None:
    """Tell a newcomer what they saw and what to try next."""
    stage = demo.stage
    stage.line()
    for text in (
        "What you saw: a collection built and installed from its artifact; an image built from Debian",
        "packages, signed, and found by its name over https; two fresh hosts that fetched it, verified",
        f"it and run it under systemd; a second run of {demo.facts['second_run_seconds']} s that changed",
        "nothing; three images refused, each with its reason, each on record.",
    ):
        stage.line(text)
    stage.line()
    if kept:
        stage.line("The hosts are up. Try:")
        for command in commands(demo.place, demo.fleet.ssh_config):
            stage.line(f"  {command}")
        stage.line(f"Inventory: {demo.fleet.inventory}")
        stage.line(f"Remove them with: {again(demo.place, 'down')}")
    else:
        stage.line("Try next:")
        stage.line("  make demo KEEP=1     keep the hosts up, and look around on them")
        stage.line("  make test            the tests, on this machine and on such hosts")
        stage.line("  less README.md       your first pod in five minutes, on your own hosts")
    stage.line()
    stage.line(f"What the next run uses again stays: .venv and {cache.directory()}.")
    stage.line("Remove them whenever you like.")


def remove(place: Path) -> list[str]:
    """Remove everything that a demonstration made in *place*, running hosts included; say what that was."""
    removed = []
    if ended := leftovers.end(place):
        removed.append(f"{ended} {'process' if ended == 1 else 'processes'} of a run that was killed")
    hosts = [host.name for host in found.hosts] if (found := kept(place)) else []
    if fleet.destroy(place / "fleet"):
        removed.append(f"the hosts {', '.join(hosts)}" if hosts else "hosts that were half made")
    if place.exists():
        shutil.rmtree(place)
        removed.append(f"the directory {place}")
    return removed


def kept(place: Path) -> fleet.Fleet | None:
    """The hosts that an earlier run has left in *place*."""
    try:
        return fleet.load(place / "fleet")
    except GantryError:
        return None
