# Copyright (c) The Gantry authors
# SPDX-License-Identifier: Apache-2.0
"""PRIVATE to the collection: releases of the runtime on a host.

::

    /opt/gantry/releases/VERSION-HASH/   one release, complete and never changed after its rename
    /opt/gantry/releases/.switches       when each release became the current one, in this boot
    /opt/gantry/current -> releases/VERSION-HASH

- A release is unpacked, checked, compiled and tried under a hidden name; only then renamed and switched to.
- Running pods are never touched. A release stays as long as a process that was started from it lives: the
  command line of such a process names ``current`` and not the release, so its start time is compared with
  the times of the switches.
- Whatever fails before the switch leaves the host as it was.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import platform
import re
import shutil
import tarfile
import time

from ansible_collections.appc.gantry.plugins.module_utils._host import (
    Plan,
    StepError,
    directory,
    file,
    link,
)

__all__ = ["MACHINES", "ROOT", "Releases", "find_python", "layout", "missing_packages"]

# The launcher and the units name these, so they are no options of any module.
ROOT = "/opt/gantry"
DATA = "/var/lib/gantry"
CONFIG = "/etc/gantry"
RUN = "/run/gantry"
PYTHONS = ("3.11", "3.12", "3.13")
MACHINES = ("x86_64", "aarch64")
RELEASE = re.compile(r"^[0-9][0-9A-Za-z.+-]*$")


def find_python(module, wanted=None):
    """The interpreter for the runtime as (absolute path, ``X.Y``), or ``(None, found)`` when none will do.

    Tried in order: *wanted*; the system's ``python3``; versions by name. A link is resolved so that the
    launcher names one version and not whatever ``python3`` means after the next upgrade of the system.
    """
    found = []
    names = [wanted] if wanted else ["/usr/bin/python3", *("/usr/bin/python%s" % v for v in reversed(PYTHONS))]
    for name in names:
        if not os.access(name, os.X_OK):
            continue
        path = os.path.realpath(name)
        version = _version_of(module, path)
        if version in PYTHONS:
            return path, version
        if version:
            found.append(version)
    return None, ", ".join(found) or "none"


def _version_of(module, path):
    """``X.Y`` of the interpreter at *path*; starting it is avoided where its name tells."""
    match = re.search(r"/python(\d+\.\d+)$", path)
    if match:
        return match.group(1)
    code, output, _errors = module.run_command([path, "-I", "-S", "-c", "import sys; print('%d.%d' % sys.version_info[:2])"])
    return output.strip() if code == 0 else ""


def missing_packages(module, wanted):
    """Which of the Debian packages *wanted* are not installed; ``a | b`` is content with either."""
    names = sorted({name.strip() for entry in wanted for name in entry.split("|")})
    if not names:
        return []
    query = module.get_bin_path("dpkg-query")
    if query is None:
        return [entry.split("|")[0].strip() for entry in wanted]
    _code, output, _errors = module.run_command([query, "-W", "-f", "${Package} ${db:Status-Status}\n", *names])
    installed = {line.split(" ")[0] for line in output.splitlines() if line.endswith(" installed")}
    return [entry.split("|")[0].strip() for entry in wanted if not any(name.strip() in installed for name in entry.split("|"))]


def layout(plan):
    """Add to *plan* the directories of a host."""
    # Others may pass through, not list: the services run as users of their own.
    plan.add(directory(DATA, 0o751))
    plan.add(directory(CONFIG, 0o755))
    plan.add(directory(os.path.join(CONFIG, "trustedkeys"), 0o755))
    plan.add(directory(RUN, 0o755))
    plan.add(file("/etc/tmpfiles.d/gantry.conf", "d %s 0755 root root -\n" % RUN))


class Releases:
    """The releases below one root.

    Args:
        module: The module that runs.
        root: ``/opt/gantry`` or, in tests, another directory.
    """

    def __init__(self, module, root=ROOT):
        self.module = module
        self.root = root
        self.directory = os.path.join(root, "releases")
        self.current_link = os.path.join(root, "current")
        self.switches = os.path.join(self.directory, ".switches")

    def installed(self):
        """Names of the complete releases, oldest first."""
        try:
            names = [n for n in os.listdir(self.directory) if RELEASE.match(n)]
        except FileNotFoundError:
            return []
        whole = [n for n in names if os.path.isfile(os.path.join(self.directory, n, "MANIFEST.json"))]
        return sorted(whole, key=lambda n: (os.stat(os.path.join(self.directory, n)).st_mtime_ns, n))

    def current(self):
        """Name of the release that ``current`` points to, or ``None``; a link into nothing counts as none."""
        try:
            name = os.path.basename(os.readlink(self.current_link))
        except OSError:
            return None
        return name if os.path.isfile(os.path.join(self.directory, name, "MANIFEST.json")) else None

    def manifest(self, name):
        """The manifest of the release *name*."""
        with open(os.path.join(self.directory, name, "MANIFEST.json"), encoding="utf-8") as handle:
            return json.load(handle)

    def switch_plan(self, name, command_link):
        """Steps that make *name* the current release and put the command on the path."""
        plan = Plan()
        step = link(self.current_link, os.path.join("releases", name))
        act = step.act

        def switch():
            self._note_switch(name)
            act()

        step.act = switch
        plan.add(step)
        plan.add(link(command_link, os.path.join(self.current_link, "bin", "gantry")))
        return plan

    def install(self, name, archive, sha256):
        """Unpack, check, compile and try the release *name*; on any failure nothing of it is left.

        Raises:
            StepError: The archive is not the one that was built, is not for this host, or does not run.
        """
        if not RELEASE.match(name):
            raise StepError("%s is no name of a release" % name)
        try:
            with open(archive, "rb") as handle:
                packed = handle.read()
        except OSError as error:
            raise StepError("the runtime archive cannot be read: %s" % error) from error
        found = hashlib.sha256(packed).hexdigest()
        if found != sha256:
            raise StepError("the runtime archive %s is damaged: its sha256 is %s, not %s" % (archive, found, sha256))
        os.makedirs(self.directory, mode=0o755, exist_ok=True)
        self._sweep()
        temporary = os.path.join(self.directory, ".%s.tmp" % name)
        try:
            manifest = self._unpack(packed, temporary)
            self._check(manifest, name)
            if not manifest.get("compiled"):
                self._compile(manifest["interpreter"], temporary)
            self._try(temporary, manifest["version"])
            os.sync()
            os.rename(temporary, os.path.join(self.directory, name))
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        return manifest

    def _sweep(self):
        """Remove what interrupted installations left; nobody else writes here while a play runs."""
        for entry in os.listdir(self.directory):
            if entry.startswith(".") and entry.endswith(".tmp"):
                shutil.rmtree(os.path.join(self.directory, entry), ignore_errors=True)

    def _unpack(self, packed, target):
        """Write the archive's files below *target* and compare each with the manifest.

        Only plain files with plain names are accepted; what the manifest does not name does not exist.
        """
        files = {}
        try:
            with tarfile.open(fileobj=io.BytesIO(gzip.decompress(packed))) as archive:
                for member in archive:
                    parts = member.name.split("/")
                    if not member.isreg() or member.name.startswith("/") or ".." in parts or "" in parts:
                        raise StepError("the runtime archive holds %r, which is not a plain file" % member.name)
                    files[member.name] = archive.extractfile(member).read()
            manifest = json.loads(files.pop("MANIFEST.json"))
            listing = manifest["files"]
        except (tarfile.TarError, KeyError, ValueError, OSError, EOFError) as error:
            raise StepError("the runtime archive is malformed: %s" % error) from error
        if set(listing) != set(files):
            raise StepError("the runtime archive and its manifest name different files")
        for name, data in files.items():
            if hashlib.sha256(data).hexdigest() != listing[name]["sha256"]:
                raise StepError("%s in the runtime archive is not the file that its manifest names" % name)
        made = set()
        for name in sorted(files):
            path = os.path.join(target, name)
            parent = os.path.dirname(path)
            if parent not in made:
                os.makedirs(parent, mode=0o755, exist_ok=True)
                made.add(parent)
            with open(path, "wb") as handle:
                handle.write(files[name])
            os.chmod(path, 0o755 if listing[name]["mode"] == "0755" else 0o644)
        with open(os.path.join(target, "MANIFEST.json"), "w", encoding="utf-8") as handle:
            json.dump(manifest, handle, indent=1, sort_keys=True)
        for parent, _children, _names in os.walk(target):
            os.chmod(parent, 0o755)
        return manifest

    def _check(self, manifest, name):
        """The archive is the release that was asked for, and for this host."""
        if manifest.get("release") != name:
            raise StepError("the runtime archive holds release %s, not %s" % (manifest.get("release"), name))
        machine = platform.machine()
        if manifest.get("arch") != machine:
            raise StepError("the runtime archive is for %s, and this host is %s" % (manifest.get("arch"), machine))
        interpreter = manifest["interpreter"]
        version = _version_of(self.module, os.path.realpath(interpreter)) if os.access(interpreter, os.X_OK) else "absent"
        if version != manifest["python"]:
            raise StepError("the runtime archive is for Python %s, and %s is %s" % (manifest["python"], interpreter, version))

    def _compile(self, interpreter, temporary):
        """Byte code by the host's own interpreter, never checked against its source again; names as they will be."""
        command = [interpreter, "-I", "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash"]
        command += ["-s", temporary, "-p", self.current_link]
        command += ["-j", "0"] if (os.cpu_count() or 1) > 1 else []
        code, output, errors = self.module.run_command([*command, os.path.join(temporary, "lib")])
        if code != 0:
            raise StepError("the runtime could not be compiled: %s" % _last(output, errors))

    def _try(self, temporary, version):
        """The new release answers before anybody depends on it."""
        code, output, errors = self.module.run_command([os.path.join(temporary, "bin", "gantry"), "version"])
        if code != 0 or version not in output:
            raise StepError("the new runtime does not run here: %s" % _last(output, errors))

    def _note_switch(self, name):
        """Remember when *name* became current, for :meth:`living`; entries of other boots are dropped."""
        entries = [e for e in self._history() if e["boot"] == _boot_id()]
        if not entries and self.current() is not None:
            entries.append({"boot": _boot_id(), "at": 0.0, "release": self.current()})
        entries.append({"boot": _boot_id(), "at": time.clock_gettime(time.CLOCK_BOOTTIME), "release": name})
        temporary = "%s.%d" % (self.switches, os.getpid())
        with open(temporary, "w", encoding="utf-8") as handle:
            json.dump(entries, handle)
        os.rename(temporary, self.switches)

    def switched_at(self):
        """When the current release became that, in seconds of the boot clock; ``None`` when in an earlier boot."""
        entries = [e for e in self._history() if e["boot"] == _boot_id()]
        return entries[-1]["at"] if entries else None

    def _history(self):
        """What :meth:`_note_switch` wrote; unreadable means nothing is known."""
        try:
            with open(self.switches, encoding="utf-8") as handle:
                return [e for e in json.load(handle) if {"boot", "at", "release"} <= set(e)]
        except (OSError, ValueError, TypeError):
            return []

    def living(self):
        """Names of the releases that some living process was started from."""
        names = set()
        entries = [e for e in self._history() if e["boot"] == _boot_id()]
        needle = os.fsencode(os.path.join(self.root, "current") + "/")
        explicit = re.compile(re.escape(os.fsencode(self.directory) + b"/") + rb"([^/\0]+)/")
        for pid in os.listdir("/proc"):
            if not pid.isdigit():
                continue
            try:
                with open("/proc/%s/cmdline" % pid, "rb") as handle:
                    command = handle.read()
                with open("/proc/%s/stat" % pid, "rb") as handle:
                    fields = handle.read().rpartition(b") ")[2].split()
            except OSError:
                continue
            names.update(os.fsdecode(m) for m in explicit.findall(command))
            if needle in command:
                started = int(fields[19]) / os.sysconf("SC_CLK_TCK")
                names.update(_current_at(entries, started))
        return names

    def prune(self, keep):
        """Remove all but the *keep* newest releases; the current one and those in use always stay.

        Returns:
            The names that were removed.
        """
        installed = self.installed()
        kept = {self.current(), *(installed[-keep:] if keep > 0 else [])}
        candidates = [n for n in installed if n not in kept]
        if candidates:
            living = self.living()
            candidates = [n for n in candidates if n not in living]
        for name in candidates:
            hidden = os.path.join(self.directory, ".%s.tmp" % name)
            os.rename(os.path.join(self.directory, name), hidden)
            shutil.rmtree(hidden, ignore_errors=True)
        return candidates


def _current_at(entries, started):
    """The releases that may have been current when a process started.

    Args:
        entries: The switches of this boot, oldest first.
        started: Seconds of the boot clock, cut off to clock ticks by the kernel.
    """
    tick = 1.0 / os.sysconf("SC_CLK_TCK")
    names = set()
    for index, entry in enumerate(entries):
        until = entries[index + 1]["at"] if index + 1 < len(entries) else float("inf")
        if entry["at"] <= started + tick and until >= started:
            names.add(entry["release"])
    return names


def _boot_id():
    """The kernel's name for this boot."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as handle:
            return handle.read().strip()
    except OSError:
        return "unknown"


def _last(output, errors):
    """The last line that a failed command said."""
    return (errors.strip() or output.strip() or "no output").splitlines()[-1]
