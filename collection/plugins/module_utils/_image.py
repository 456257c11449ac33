# Copyright (c) The Gantry authors
# SPDX-License-Identifier: Apache-2.0
"""PRIVATE to the collection: root file systems from Debian packages, the same every time.

- The packages come as one bundle (a tar of .deb files with an index); what is in it decides what is built, not what
  an index on the network says today.
- Directories and files of our own get the time of the newest file of the packages, so that two builds are equal.
- ``/bin``, ``/sbin``, ``/lib`` and ``/lib64`` become links into ``/usr`` as on every Debian system. Packages before
  Debian 13 put files there, and unpacking replaces a link by a directory, so this is done last.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import posixpath
import shutil
import stat
import tarfile

from ansible_collections.appc.gantry.plugins.module_utils._host import StepError

__all__ = ["Rootfs", "bundle_request", "closure", "digest_of", "write_bundle"]

MERGED = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
INDEX = "index.json"


def closure(module, packages, without):
    """*packages* and what they depend on; *without* and what only those need stays out.

    Of alternatives the first is taken; of a virtual package the first provider.

    Raises:
        StepError: apt knows no such package.
    """
    wanted, queue = set(), [name for name in packages if name not in without]
    while queue:
        level = sorted(set(queue) - wanted)
        if not level:
            break
        wanted.update(level)
        flags = ["--no-%s" % kind for kind in ("recommends", "suggests", "conflicts", "breaks", "replaces", "enhances")]
        code, output, errors = module.run_command(["apt-cache", "depends", *flags, *level], environ_update={"LC_ALL": "C"})
        if code != 0:
            raise StepError("apt: %s" % (errors.strip() or output.strip() or "no output").splitlines()[-1])
        queue = [name for name in _dependencies(output) if name not in without and name not in wanted]
    return sorted(wanted)


def _dependencies(output):
    """Package names in what ``apt-cache depends`` prints."""
    lines = output.splitlines()
    found, alternative = [], False
    for index, line in enumerate(lines):
        kind, colon, name = line.strip().partition(": ")
        if not colon or kind.lstrip("|") not in ("Depends", "PreDepends"):
            continue
        if not alternative:
            if name.startswith("<"):
                following = lines[index + 1] if index + 1 < len(lines) else ""
                name = following.strip() if following.startswith("    ") else ""
            if name:
                found.append(name.partition(":")[0])
        alternative = kind.startswith("|")
    return found


def write_bundle(path, request, files):
    """Write .deb *files* (name -> path) and what was asked for into a tar archive that depends on nothing else."""
    index = {"request": request, "files": {name: _sha256(source) for name, source in sorted(files.items())}}
    temporary = "%s.%d" % (path, os.getpid())
    try:
        with tarfile.open(temporary, "w", format=tarfile.GNU_FORMAT) as archive:
            text = (json.dumps(index, indent=1, sort_keys=True) + "\n").encode("utf-8")
            archive.addfile(_member(INDEX, len(text)), io.BytesIO(text))
            for name, source in sorted(files.items()):
                with open(source, "rb") as handle:
                    archive.addfile(_member(name, os.stat(source).st_size), handle)
        os.rename(temporary, path)
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)
    return index


def _member(name, size):
    """A tar header that says nothing but name and size."""
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    return info


def read_index(path):
    """The index of the bundle at *path*, or ``None`` when there is no whole bundle."""
    try:
        with tarfile.open(path) as archive:
            first = archive.next()
            if first is None or first.name != INDEX:
                return None
            return json.loads(archive.extractfile(first).read())
    except (OSError, tarfile.TarError, ValueError):
        return None


def bundle_request(path):
    """What the bundle at *path* was made for, or ``None``."""
    index = read_index(path)
    return index.get("request") if isinstance(index, dict) else None


def digest_of(path):
    """SHA-256 of a file, or an empty string when it is not there."""
    try:
        return _sha256(path)
    except OSError:
        return ""


def _sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        for block in iter(lambda: handle.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


class Rootfs:
    """A root file system being put together below *root*, which must be empty and ours.

    Args:
        module: The module that runs.
        root: An existing directory.
    """

    def __init__(self, module, root):
        self.module = module
        self.root = root
        self.ours = set()

    def unpack(self, bundle, scratch):
        """Unpack every package of *bundle* into the root.

        Raises:
            StepError: A package is damaged.
        """
        index = read_index(bundle)
        if index is None:
            raise StepError("%s is no bundle of packages" % bundle)
        with tarfile.open(bundle) as archive:
            for name, digest in sorted(index["files"].items()):
                package = os.path.join(scratch, os.path.basename(name))
                with open(package, "wb") as target:
                    shutil.copyfileobj(archive.extractfile(name), target)
                if _sha256(package) != digest:
                    raise StepError("%s in %s is damaged" % (name, bundle))
                code, output, errors = self.module.run_command(["dpkg-deb", "-x", package, self.root])
                if code != 0:
                    raise StepError("dpkg-deb cannot unpack %s: %s" % (name, (errors or output).strip()))
                os.unlink(package)

    def merge_usr(self):
        """Move what lies in ``/bin`` and so on below ``/usr`` and put links in their place."""
        for name in MERGED:
            old, new = os.path.join(self.root, name), os.path.join(self.root, "usr", name)
            if os.path.isdir(old) and not os.path.islink(old):
                _move_into(old, new)
                os.rmdir(old)
            if os.path.isdir(new) and not os.path.lexists(old):
                os.symlink("usr/" + name, old)

    def _place(self, path):
        """*path* of the image as a path of the host; its directory is created inside the root.

        Raises:
            StepError: The path leads out, or through something that is no directory.
        """
        clean = posixpath.normpath("/" + path.lstrip("/"))
        real = os.path.realpath(self.root + posixpath.dirname(clean))
        if real != self.root and not real.startswith(self.root + "/"):
            # An absolute link inside the image means the image's own root, which realpath cannot know.
            raise StepError("%s leads out of the image through a link" % path)
        missing = []
        while not os.path.isdir(real):
            missing.append(real)
            real = os.path.dirname(real)
        for directory in reversed(missing):
            os.mkdir(directory)
            os.chmod(directory, 0o755)
            real = directory
        if not missing:
            real = os.path.realpath(self.root + posixpath.dirname(clean))
        return os.path.join(real, posixpath.basename(clean))

    def remove(self, paths):
        """Remove *paths* with everything below them; what is not there is no mistake."""
        for path in paths:
            place = self.root + posixpath.normpath("/" + path.lstrip("/"))
            parent = os.path.realpath(os.path.dirname(place))
            if not (parent + "/").startswith(self.root + "/"):
                continue
            if os.path.isdir(place) and not os.path.islink(place):
                shutil.rmtree(place)
            elif os.path.lexists(place):
                os.unlink(place)

    def add_directory(self, path, mode, owner, group):
        """A directory of the image."""
        place = self._place(path)
        if not os.path.isdir(place):
            os.mkdir(place)
        os.chown(place, owner, group)
        os.chmod(place, mode)

    def add_file(self, path, data, mode, owner, group):
        """A file of the image, over one of the packages."""
        place = self._place(path)
        if os.path.lexists(place):
            os.unlink(place)
        with open(place, "wb") as handle:
            handle.write(data)
        os.chown(place, owner, group)
        os.chmod(place, mode)
        self.ours.add(place)

    def add_link(self, path, target):
        """A symbolic link of the image."""
        place = self._place(path)
        if os.path.lexists(place):
            os.unlink(place)
        os.symlink(target, place)
        self.ours.add(place)

    def settle_times(self):
        """Give directories and our own files the time of the packages' newest file."""
        newest, mine = 0, []
        for parent, directories, files in os.walk(self.root):
            mine.append(parent)
            for name in directories + files:
                place = os.path.join(parent, name)
                status = os.lstat(place)
                if place in self.ours or (stat.S_ISLNK(status.st_mode) and name in MERGED and parent == self.root):
                    mine.append(place)
                elif not stat.S_ISDIR(status.st_mode):
                    newest = max(newest, int(status.st_mtime))
        for place in mine:
            os.utime(place, (newest, newest), follow_symlinks=False)


def _move_into(source, target):
    """Move the entries of the directory *source* into *target*, directories being joined."""
    os.makedirs(target, exist_ok=True)
    for name in sorted(os.listdir(source)):
        old, new = os.path.join(source, name), os.path.join(target, name)
        if os.path.isdir(old) and not os.path.islink(old) and os.path.isdir(new):
            _move_into(old, new)
            os.rmdir(old)
        else:
            os.rename(old, new)
