"""Where images are published: a directory, a server that takes PUT, a host that is reached by ssh.

What is common to all: a reader of any file sees the old one or the new one, whole.
"""

from __future__ import annotations

import abc
import contextlib
import io
import os
import re
import shlex
import shutil
import stat
import subprocess
import tempfile
from typing import IO, TYPE_CHECKING
from urllib.parse import urlsplit

from gantry.errors import HostError, UsageError
from gantry.http import Client, HttpError, StatusError, public_url
from gantry.http.urls import parse as parse_url
from gantry.images.push_index import PushError
from gantry.linux.fs import fsync_directory, make_directory
from gantry.linux.locks import locked

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gantry.http import HttpOptions

LOCK = ".gantry-push.lock"
_PATIENCE = 600  # seconds that another push may take
_MAX_RECORD = 16 * 1024 * 1024
#: Query, fragment, what a template would take for a placeholder, and what no URL has literally.
_NO_PATH = re.compile(r"[^!$-;=@-Z\[\]_a-z~]")
_TEMPORARY = re.compile(r"\..*\.gantry-push-[0-9a-f]{8}")
_TAKES_NO_PUT = "the server has to take PUT and DELETE there; docs/distribution.md shows how nginx does"


class ChangedError(Exception):
    """Somebody else published meanwhile: read again, and decide again."""


class Place(abc.ABC):
    """A static tree. Paths are relative to its root, with ``/``.

    Attributes:
        shown: What messages call it.
    """

    shown: str

    @contextlib.contextmanager
    def exclusively(self) -> Iterator[None]:
        """Keep other pushes out, as far as this kind of place can.

        Raises:
            BusyError: Another one takes too long.
            PushError: The place cannot be reached, or must not be written.
        """
        yield

    @abc.abstractmethod
    def read(self, path: str) -> bytes | None:
        """A small file's content; ``None`` if there is none."""

    @abc.abstractmethod
    def size(self, path: str) -> int | None:
        """How many bytes a file has; ``None`` if there is none, -1 if the place does not say."""

    @abc.abstractmethod
    def put(self, path: str, source: IO[bytes]) -> None:
        """Write a file, from the beginning of *source*; directories are made."""

    @abc.abstractmethod
    def remove(self, path: str) -> bool:
        """Remove a file; ``False`` if this place does not let us. One that is gone already is removed."""

    def replace(self, path: str, data: bytes) -> None:
        """Write a file that is still as :meth:`read` said.

        Raises:
            ChangedError: It is not.
        """
        self.put(path, io.BytesIO(data))


def place_of(text: str, options: HttpOptions) -> contextlib.AbstractContextManager[Place]:
    """The place that a user means.

    Args:
        text: A directory, ``https://HOST/PATH``, ``ssh://[USER@]HOST[:PORT]/PATH`` or ``[USER@]HOST:PATH``.
        options: For HTTP.

    Raises:
        UsageError: It is none of these.
        HostError: rsync or ssh is missing.
    """
    if text.startswith(("https://", "http://")):
        return _http(text, options)
    if text.startswith("ssh://"):
        try:
            parts = urlsplit(text)
            host, port = parts.hostname, parts.port
        except ValueError:
            host, port = None, None
        if not host or not parts.path.strip("/") or parts.query or parts.fragment or parts.password:
            raise UsageError(
                f'"{public_url(text)}" is no place to push to', hint="ssh://[USER@]HOST[:PORT]/PATH"
            )
        return _ssh(f"{parts.username}@{host}" if parts.username else host, port, parts.path)
    host, colon, path = text.partition(":")
    if "://" in text or not text:
        raise UsageError(
            f'"{public_url(text)}" is no place to push to', hint="a directory, https, ssh or HOST:PATH"
        )
    if colon and "/" not in host:
        if not path:
            raise UsageError(f'"{text}" names no directory on {host}', hint="HOST:PATH")
        return _ssh(host, None, path)
    return contextlib.nullcontext(Directory(text))


def checked_base(url: str, what: str, *, public: bool = False) -> None:
    """Refuse what cannot be the root of published files.

    Args:
        url: It.
        what: What it is, for the message.
        public: Whether it is written on pages: https, which hosts follow, and no password.

    Raises:
        UsageError: *url* is no http or https URL with a host and no more than a path.
    """
    try:
        target = parse_url(url)
        usable = not _NO_PATH.search(url) and (not public or target.authorization is None)
        usable = usable and (not public or target.scheme == "https")
    except HttpError:
        usable = False
    if not usable:
        raise UsageError(f'"{public_url(url)}" is no {what}', hint="https://HOST/PATH, without a query")


class Directory(Place):
    """A directory of this host. Pushes wait for each other."""

    def __init__(self, root: str) -> None:
        self.shown = root
        self._root = os.path.abspath(root)

    @contextlib.contextmanager
    def exclusively(self) -> Iterator[None]:
        """Hold its lock; see :meth:`Place.exclusively`."""
        with self._told("write to"):
            self._make(self._root)
            lock = os.path.join(self._root, LOCK)
            with locked(lock, timeout=_PATIENCE, what=f"{self.shown} (another push)"):
                yield

    def read(self, path: str) -> bytes | None:
        """A small file's content."""
        with self._told("read"):
            try:
                fd = os.open(self._path(path), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            except (FileNotFoundError, NotADirectoryError):
                return None
            with open(fd, "rb") as file:
                if not stat.S_ISREG(os.fstat(fd).st_mode):
                    raise PushError(
                        f"{self.shown}/{path} is no regular file", hint="remove it and push again"
                    )
                return file.read(_MAX_RECORD)

    def size(self, path: str) -> int | None:
        """How many bytes a file has."""
        try:
            found = os.stat(self._path(path))
        except (FileNotFoundError, NotADirectoryError):
            return None
        return found.st_size if stat.S_ISREG(found.st_mode) else None

    def put(self, path: str, source: IO[bytes]) -> None:
        """Write a file."""
        target = self._path(path)
        directory, name = os.path.split(target)
        with self._told("write to"):
            self._make(directory)
            self._sweep(directory)
            temporary = os.path.join(directory, f".{name}.gantry-push-{os.urandom(4).hex()}")
            source.seek(0)
            try:
                with open(temporary, "xb") as out:
                    shutil.copyfileobj(source, out, 1024 * 1024)
                    out.flush()
                    os.fchmod(out.fileno(), 0o644)
                    os.fsync(out.fileno())
                os.rename(temporary, target)
            except BaseException:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(temporary)
                raise
            fsync_directory(directory)

    def remove(self, path: str) -> bool:
        """Remove a file."""
        try:
            os.unlink(self._path(path))
        except FileNotFoundError:
            return True
        except OSError:
            return False
        return True

    def _make(self, directory: str) -> None:
        """Make a directory and those above it, which the web server has to read whatever the umask is."""
        if not os.path.isdir(directory):
            self._make(os.path.dirname(directory))
            make_directory(directory, 0o755)

    def _sweep(self, directory: str) -> None:
        """Remove what a killed push left; the lock says that no other is under way."""
        for entry in os.listdir(directory):
            if _TEMPORARY.fullmatch(entry):
                os.unlink(os.path.join(directory, entry))

    def _path(self, path: str) -> str:
        return os.path.join(self._root, *path.split("/"))

    @contextlib.contextmanager
    def _told(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise PushError(f"cannot {what} {self.shown}: {error.strerror}") from error


class HttpPlace(Place):
    """A server that takes PUT. Conditions are sent, and where it knows MKCOL a lock is held."""

    def __init__(self, url: str, client: Client) -> None:
        self._url = url.rstrip("/")
        self.shown = public_url(self._url)
        self._client = client
        self._tags: dict[str, str | None] = {}

    @contextlib.contextmanager
    def exclusively(self) -> Iterator[None]:
        """Hold a lock there, if the server can; see :meth:`Place.exclusively`."""
        from gantry.images.push_lock import held  # noqa: PLC0415 - only for servers

        with held(self._client, self._url, self.shown, _PATIENCE):
            yield

    def read(self, path: str) -> bytes | None:
        """A small file's content."""
        answer = self._client.get(self._at(path), max_bytes=_MAX_RECORD, accept={200, 404, 410})
        self._tags[path] = None
        if answer.status != 200:
            return None
        self._tags[path] = answer.headers.get("etag", "")
        return answer.body

    def size(self, path: str) -> int | None:
        """How many bytes a file has."""
        try:
            with self._client.stream(self._at(path)) as answer:
                return -1 if answer.total is None else answer.total
        except StatusError as error:
            if error.status in (404, 410):
                return None
            raise

    def put(self, path: str, source: IO[bytes]) -> None:
        """Write a file."""
        self._send(path, source, {})

    def replace(self, path: str, data: bytes) -> None:
        """Write a file on condition; see :meth:`Place.replace`."""
        tag = self._tags[path]
        if tag is None:
            condition = {"If-None-Match": "*"}
        else:
            condition = {"If-Match": tag} if tag and not tag.startswith("W/") else {}
        self._send(path, io.BytesIO(data), condition)

    def _send(self, path: str, source: IO[bytes], condition: dict[str, str]) -> None:
        size = source.seek(0, os.SEEK_END)
        accept = {412} if condition else set[int]()
        try:
            status = self._client.send(
                "PUT", self._at(path), body=source, size=size, headers=condition, accept=accept
            )
        except StatusError as error:
            if error.status in (404, 405, 409, 501):
                raise PushError(error.message, hint=_TAKES_NO_PUT) from error
            raise
        if status == 412:
            raise ChangedError

    def remove(self, path: str) -> bool:
        """Remove a file."""
        try:
            return self._client.send("DELETE", self._at(path), accept={404, 410}) > 0
        except HttpError:
            return False

    def _at(self, path: str) -> str:
        return f"{self._url}/{path}"


@contextlib.contextmanager
def _http(url: str, options: HttpOptions) -> Iterator[Place]:
    checked_base(url, "place to push to")
    with Client(options) as client:
        yield HttpPlace(url, client)


class SshPlace(Place):
    """A directory of another host: files go by rsync, and a lock is held there meanwhile."""

    def __init__(self, host: str, port: int | None, path: str, work: str) -> None:
        self._host, self._root = host, path.rstrip("/") or "/"
        self.shown = f"{host}:{path}"
        # Every command goes through the connection that holds the lock.
        control = ["-o", f"ControlPath={work}/ssh"]
        self._ssh = ["ssh", "-o", "BatchMode=yes", *control, *(["-p", str(port)] if port else [])]
        self._work = work

    @contextlib.contextmanager
    def exclusively(self) -> Iterator[None]:
        """Hold its lock; see :meth:`Place.exclusively`."""
        lock = shlex.quote(os.path.join(self._root, LOCK))
        script = (
            f"mkdir -p {shlex.quote(self._root)} && exec flock -w {_PATIENCE} {lock} sh -c 'echo locked; cat'"
        )
        holder = subprocess.Popen(
            [*self._ssh, "-o", "ControlMaster=yes", self._host, script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert holder.stdin is not None
        assert holder.stdout is not None
        assert holder.stderr is not None
        try:
            if holder.stdout.readline() != b"locked\n":
                holder.stdin.close()
                self._refuse("cannot be locked", holder.stderr.read())
            yield
            if holder.poll() is not None:
                self._refuse("let go of its lock meanwhile: push again", holder.stderr.read())
        finally:
            with contextlib.suppress(OSError):
                holder.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                holder.wait(10)
            if holder.poll() is None:
                holder.kill()
                holder.wait()
            holder.stdout.close()
            holder.stderr.close()

    def read(self, path: str) -> bytes | None:
        """A small file's content."""
        at = self._at(path)
        done = self._run(f"test -e {at} || exit 44; exec cat {at}", accept=(0, 44))
        return done.stdout if done.returncode == 0 else None

    def size(self, path: str) -> int | None:
        """How many bytes a file has."""
        at = self._at(path)
        done = self._run(f"test -f {at} || exit 44; exec wc -c < {at}", accept=(0, 44))
        return int(done.stdout) if done.returncode == 0 else None

    def put(self, path: str, source: IO[bytes]) -> None:
        """Write a file."""
        directory = os.path.dirname(path)
        if directory:
            self._run(f"mkdir -p {self._at(directory)}")
        name = getattr(source, "name", None)
        if not isinstance(name, str):
            name = os.path.join(self._work, "file")
            with open(name, "wb") as out:
                source.seek(0)
                shutil.copyfileobj(source, out)
        # rsync writes beside the target and renames.
        command = ["rsync", "--protect-args", "--chmod=F644", "--fsync", "-e", shlex.join(self._ssh), "--"]
        target = f"{self._host}:{os.path.join(self._root, path)}"
        done = subprocess.run([*command, os.path.abspath(name), target], capture_output=True, check=False)
        if done.returncode:
            self._refuse(f"does not take {path}", done.stderr)

    def remove(self, path: str) -> bool:
        """Remove a file."""
        return self._run(f"rm -f -- {self._at(path)}", accept=None).returncode == 0

    def _at(self, path: str) -> str:
        return shlex.quote(os.path.join(self._root, path))

    def _run(
        self, script: str, *, accept: tuple[int, ...] | None = (0,)
    ) -> subprocess.CompletedProcess[bytes]:
        done = subprocess.run(
            [*self._ssh, self._host, script], stdin=subprocess.DEVNULL, capture_output=True, check=False
        )
        if accept is not None and done.returncode not in accept:
            self._refuse("cannot be used", done.stderr)
        return done

    def _refuse(self, what: str, said: bytes) -> None:
        lines = said.decode(errors="replace").strip().splitlines()
        raise PushError(
            f"{self.shown} {what}: {lines[-1] if lines else 'no reason was given'}",
            hint=f"does 'ssh {self._host}' work without a question, and has that host flock and rsync?",
        )


@contextlib.contextmanager
def _ssh(host: str, port: int | None, path: str) -> Iterator[Place]:
    if host.startswith("-") or not host.isprintable() or " " in host:
        raise UsageError(f'"{host}" is no host', hint="ssh://[USER@]HOST[:PORT]/PATH")
    for program in ("ssh", "rsync"):
        if shutil.which(program) is None:
            raise HostError(
                f"{program} is not installed, and a push to {host} needs it", hint=f"install {program}"
            )
    with tempfile.TemporaryDirectory(prefix="gantry-push-") as work:
        yield SshPlace(host, port, path, work)
