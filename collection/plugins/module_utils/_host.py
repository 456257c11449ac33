# Copyright (c) The Gantry authors
# SPDX-License-Identifier: Apache-2.0
"""PRIVATE to the collection: the wanted state of parts of a host, as steps that know what they would do.

Every module call costs a connection, a Python start and an import of Ansible's libraries: seconds on a slow
host. What belongs together is therefore one module call made of many steps, instead of many tasks.

A step compares once, when it is made. ``before`` and ``after`` are what ``--diff`` shows; they are equal when
nothing is to be done, and ``act`` is then never called. Check mode is the same plan without ``act``.
"""

from __future__ import annotations

import grp
import os
import pwd
import stat
import tempfile

__all__ = [
    "Plan",
    "Step",
    "StepError",
    "directory",
    "file",
    "link",
    "read_text",
    "user",
    "write_file",
]


class StepError(Exception):
    """A step cannot be planned or carried out; the text is one line for the user."""


class Step:
    """One thing that should be so.

    Args:
        name: What it is about, for the diff and the list of actions: ``directory /var/lib/gantry``.
        before: What is there now; an empty string for nothing.
        after: What should be there.
        act: Called without arguments to get from one to the other.
    """

    def __init__(self, name, before, after, act):
        self.name = name
        self.before = before
        self.after = after
        self.act = act

    @property
    def needed(self):
        """Whether there is anything to do."""
        return self.before != self.after


class Plan:
    """Steps in the order in which they have to be taken."""

    def __init__(self):
        self.steps = []

    def add(self, step):
        """Append *step*."""
        self.steps.append(step)

    @property
    def changed(self):
        """Whether any step is needed."""
        return any(step.needed for step in self.steps)

    def actions(self):
        """The names of the steps that are needed."""
        return [step.name for step in self.steps if step.needed]

    def diff(self):
        """Before and after of the needed steps, as Ansible prints them."""
        needed = [step for step in self.steps if step.needed]
        return {
            "before": "".join("%s: %s\n" % (step.name, step.before or "absent") for step in needed),
            "after": "".join("%s: %s\n" % (step.name, step.after or "absent") for step in needed),
        }

    def run(self):
        """Take the needed steps.

        Raises:
            StepError: One failed; the text names it.
        """
        for step in self.steps:
            if step.needed:
                try:
                    step.act()
                except OSError as error:
                    raise StepError("%s: %s" % (step.name, error)) from error


def _ids(owner, group_name):
    """The numbers of *owner* and *group_name*."""
    try:
        return pwd.getpwnam(owner).pw_uid, grp.getgrnam(group_name).gr_gid
    except KeyError as error:
        raise StepError("no such user or group: %s" % error.args[0]) from error


def _look(path):
    """Owner, group and mode of *path* in words, or an empty string when it is not there."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return ""
    try:
        owner = pwd.getpwuid(status.st_uid).pw_name
    except KeyError:
        owner = str(status.st_uid)
    try:
        group_name = grp.getgrgid(status.st_gid).gr_name
    except KeyError:
        group_name = str(status.st_gid)
    kind = "directory" if stat.S_ISDIR(status.st_mode) else "link" if stat.S_ISLNK(status.st_mode) else "file"
    return "%s %s:%s %04o" % (kind, owner, group_name, stat.S_IMODE(status.st_mode))


def read_text(path):
    """What the file at *path* says, or ``None`` when there is no such file."""
    try:
        with open(path, encoding="utf-8", errors="replace") as handle:
            return handle.read()
    except (FileNotFoundError, NotADirectoryError):
        return None


def write_file(path, data, mode, owner_id=0, group_id=0):
    """Put *data* (bytes) at *path* by rename; never with wider modes than *mode*, not even for a moment."""
    handle, temporary = tempfile.mkstemp(dir=os.path.dirname(path), prefix=".gantry-")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.chown(temporary, owner_id, group_id)
        os.chmod(temporary, mode)
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def user(module, name):
    """The system user *name* exists, with a group of its own, no home and no shell."""
    try:
        pwd.getpwnam(name)
        before = "present"
    except KeyError:
        before = ""

    def act():
        command = ["useradd", "--system", "--user-group", "--no-create-home"]
        _run(module, [*command, "--home-dir", "/nonexistent", "--shell", "/usr/sbin/nologin", name])

    return Step("user %s" % name, before, "present", act)


def group(module, name):
    """The system group *name* exists; who is in it is for others to say."""
    try:
        grp.getgrnam(name)
        before = "present"
    except KeyError:
        before = ""

    def act():
        _run(module, ["groupadd", "--system", name])

    return Step("group %s" % name, before, "present", act)


def directory(path, mode, owner="root", group_name="root"):
    """The directory *path* with these modes and owners; parents are made as root's, 0755."""
    after = "directory %s:%s %04o" % (owner, group_name, mode)

    def act():
        owner_id, group_id = _ids(owner, group_name)
        os.makedirs(path, mode=0o755, exist_ok=True)
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            os.fchown(handle, owner_id, group_id)
            os.fchmod(handle, mode)
        finally:
            os.close(handle)

    return Step("directory %s" % path, _look(path), after, act)


def file(path, content, mode=0o644, owner="root", group_name="root"):
    """The file *path* with this text, mode and owners; ``content=None`` means that it must not exist."""
    old = read_text(path)
    if content is None:
        return Step("file %s" % path, "" if old is None else "present", "", lambda: os.unlink(path))
    look = "file %s:%s %04o" % (owner, group_name, mode)
    before = "" if old is None else _look(path) if old == content else "other content, %s" % _look(path)

    def act():
        owner_id, group_id = _ids(owner, group_name)
        os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
        write_file(path, content.encode("utf-8"), mode, owner_id, group_id)

    return Step("file %s" % path, before, look, act)


def link(path, target):
    """The symbolic link *path* says *target*; changed by rename, so that it is never absent.

    Raises:
        StepError: Something that is no link is in the way.
    """
    try:
        before = "-> %s" % os.readlink(path)
    except FileNotFoundError:
        before = ""
    except OSError as error:
        raise StepError("%s is in the way: it is not a symbolic link" % path) from error

    def act():
        os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
        temporary = "%s.new.%d" % (path, os.getpid())
        os.symlink(target, temporary)
        try:
            os.rename(temporary, path)
        except OSError:
            os.unlink(temporary)
            raise

    return Step("link %s" % path, before, "-> %s" % target, act)


def _run(module, command):
    """Run *command*; its last line of output is the reason when it fails.

    Raises:
        StepError: It failed.
    """
    code, output, errors = module.run_command(command)
    if code != 0:
        reason = (errors.strip() or output.strip() or "no output").splitlines()[-1]
        raise StepError("%s failed: %s" % (os.path.basename(command[0]), reason))
    return output
