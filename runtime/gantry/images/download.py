"""One file over HTTP into ``incoming/``, continued where an earlier attempt ended.

Rules (case 1):

- bytes are appended only to what a 206 with exactly the right start offset continues, under a validator
  (a strong ETag, else Last-Modified) that still holds; anything else begins at byte 0 again;
- beginning again costs the whole transfer, so it is done a bounded number of times;
- what a killed process left is continued by the next one, with the same rules;
- free space is looked at before the first byte is written and before every further piece, since a server need
  not say how much it is going to send: a reserve stays free;
- a file without a byte in it does not stay.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from typing import TYPE_CHECKING, Any, Self

from gantry.http import ConnectError, StalledError, StatusError, TruncatedError, public_url
from gantry.images.errors import FetchError, LimitError, explained, no_space
from gantry.images.records import key, read_json, to_json
from gantry.images.space import Room
from gantry.linux.fs import atomic_write, write_all

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from gantry.http import Client, StreamResponse
    from gantry.images.limits import Limits

_READ = 256 * 1024
_MAX_RESTARTS = 2
_MAX_IDLE_TRIES = 4
#: A connection that brings less counts as one that brings nothing: some servers never come to an end.
_PROGRESS = 64 * 1024
_FIRST_PAUSE = 0.1


class RestartedError(Exception):
    """The bytes handed out so far are void; iterate again, from byte 0."""


class StoppedError(FetchError):
    """Something else failed that this download was for; what has arrived stays."""


class NotModified(Exception):  # noqa: N818 - an answer, not an error
    """The server says that the image in the store is the current one."""


class Download:
    """The download of one URL; the caller holds the URL's lock. A context manager that closes the file.

    Args:
        client: The HTTP client.
        url: What to download.
        directory: ``incoming/``.
        limits: The bounds.
        say: Gets lines for the user.
        progress: Gets the bytes so far and, if known, the whole length.
    """

    def __init__(
        self,
        client: Client,
        url: str,
        directory: str,
        limits: Limits,
        *,
        say: Callable[[str], None],
        progress: Callable[[int, int | None], None],
    ) -> None:
        self._client = client
        self._url = url
        self._shown = public_url(url)
        self._limits = limits
        self._say = say
        self._progress = progress
        self._restarts = 0
        self._keep = True
        self._room: Room | None = None
        base = os.path.join(directory, key(url))
        self.path = base + ".part"
        self._meta_path = base + ".json"
        self._fd = -1
        self._meta: dict[str, Any] = {}
        self.bound: int | None = None
        self.etag: str | None = None
        #: Header fields of the last answer.
        self.headers: Mapping[str, str] = {}
        #: Whether bytes of an earlier process are part of what was handed out.
        self.reused = False
        self._complete = False

    def __enter__(self) -> Self:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        with explained("begin the download"):
            self._fd = os.open(self.path, flags, 0o600)
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if not os.fstat(self._fd).st_size:
                self.discard()  # no need to remember an answer that held nothing
        finally:
            os.close(self._fd)

    def keep_nothing(self) -> None:
        """Write no more: what comes is handed out only, and a connection that breaks is not replaced."""
        self._keep = False

    def discard(self) -> None:
        """Leave nothing of it."""
        for path in (self.path, self._meta_path):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)

    def forget(self) -> None:
        """Begin at byte 0 next time."""
        os.ftruncate(self._fd, 0)
        self._keep = True
        self._complete = False
        self.finished()

    def finished(self) -> None:
        """The file has been taken away; forget what is known about it."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._meta_path)

    def chunks(self, *, unless_etag: str | None = None) -> Iterator[bytes]:
        """Every byte of the file, in order, each on the disk before it is handed out.

        Args:
            unless_etag: The ETag of what the store has; if it is still current nothing is transferred.

        Raises:
            NotModified: It is.
            RestartedError: Begin to iterate anew: the server did not continue.
            LimitError: The file is larger than allowed.
            NoSpaceError: The disk is, or would be, full.
            HttpError: The server cannot be reached, refuses, or breaks off again and again.
        """
        if self._complete:
            yield from self._replay(os.fstat(self._fd).st_size)
            return
        have = self._resumable()
        yield from self._replay(have)
        idle = 0
        while True:
            before = have
            try:
                with self._request(have, None if have else unless_etag) as response:
                    self.headers = response.headers
                    if response.status == 304 and have:
                        self._complete = self._keep
                        return  # an earlier process had got everything
                    if response.status == 304:
                        raise NotModified
                    if response.offset != have or (have and self._is_another(response)):
                        self._restart(have)
                    self._begin(response, have)
                    for chunk in response.iter_bytes(_READ):
                        have += len(chunk)
                        self._check_size(have)
                        if self._keep:
                            self._write(chunk)
                        self._progress(have, response.total)
                        yield chunk
                self._complete = self._keep
                return
            except (TruncatedError, StalledError, ConnectError) as error:
                if not self._keep:
                    raise
                idle = 0 if have - before >= _PROGRESS else idle + 1
                if idle >= _MAX_IDLE_TRIES or (isinstance(error, ConnectError) and not have):
                    raise
                self._say(f"{error.message}; continuing at byte {have}")
                if not self._validators():
                    self._restart(have)
                time.sleep(_FIRST_PAUSE * 2**idle if idle else 0)

    def gather(self, *, unless_etag: str | None = None) -> None:
        """Have every byte on the disk, so that :meth:`chunks` asks nobody any more.

        Raises:
            As :meth:`chunks`, but for RestartedError.
        """
        while not self._complete:
            with contextlib.suppress(RestartedError):
                for _ in self.chunks(unless_etag=unless_etag):
                    pass

    # -- what is on the disk ------------------------------------------------------------------------

    def _resumable(self) -> int:
        """How many bytes of an earlier attempt can be used; the file is cut to that."""
        size = os.fstat(self._fd).st_size
        self._meta = read_json(self._meta_path) or {}
        texts = [self._meta.get(name) for name in ("etag", "last_modified")]
        if not all(isinstance(text, str | None) and (text or "").isprintable() for text in texts):
            self._meta = {}  # it is not what we wrote
        if not self._validators():
            size, self._meta = 0, {}
        if size == 0:
            os.ftruncate(self._fd, 0)
        self.reused = size > 0
        return size

    def _validators(self) -> bool:
        return bool(self._strong_etag() or self._meta.get("last_modified"))

    def _strong_etag(self) -> str | None:
        etag = self._meta.get("etag")
        return str(etag) if etag and not str(etag).startswith("W/") else None

    def _replay(self, size: int) -> Iterator[bytes]:
        os.lseek(self._fd, 0, os.SEEK_SET)
        left = size
        while left > 0:
            chunk = os.read(self._fd, min(_READ, left))
            if not chunk:
                raise FetchError(f"{self.path} was cut while it was read")
            left -= len(chunk)
            yield chunk

    def _restart(self, have: int) -> None:
        if have == 0:
            return
        self._restarts += 1
        if self._restarts > _MAX_RESTARTS:
            raise FetchError(
                f"{self._shown}: the server broke off {self._restarts} times and does not continue downloads",
                hint="use a server that answers Range requests",
            )
        self._say(f"the server did not continue the download at byte {have}; beginning again")
        os.ftruncate(self._fd, 0)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._meta_path)
        raise RestartedError

    # -- the exchange -------------------------------------------------------------------------------

    def _request(self, have: int, unless_etag: str | None) -> StreamResponse:
        if not have:
            return self._client.stream(self._url, etag=unless_etag)
        etag = self._strong_etag()
        if etag and self._meta.get("total") == have:
            return self._client.stream(self._url, etag=etag)
        headers = {} if etag else {"If-Range": str(self._meta["last_modified"])}
        try:
            return self._client.stream(self._url, offset=have, etag=etag, headers=headers)
        except StatusError as error:
            if error.status not in (412, 416):
                raise
            self._restart(have)
            raise

    def _is_another(self, response: StreamResponse) -> bool:
        """Whether a server that sends the rest sends it of another file: some ignore what it depends on."""
        said = {"last_modified": response.headers.get("last-modified"), "total": response.total}
        return any(
            value is not None and self._meta.get(name) is not None and value != self._meta[name]
            for name, value in said.items()
        )

    def _begin(self, response: StreamResponse, have: int) -> None:
        total = response.total
        if total is not None:
            self._check_size(total)
        if self._room is None:
            self._room = Room(os.path.dirname(self.path), f"download {self._shown}", self._limits)
        self._room.need(total - have if total is not None else 0)
        self.etag = response.etag
        self._meta = {
            "url": self._shown,
            "etag": response.etag,
            "last_modified": response.headers.get("last-modified"),
            "total": total,
        }
        with explained("note the download"):
            os.lseek(self._fd, have, os.SEEK_SET)
            os.ftruncate(self._fd, have)
            atomic_write(self._meta_path, to_json(self._meta), 0o600, durable=False)

    def _check_size(self, size: int) -> None:
        if size > self._limits.download:
            raise LimitError(f"{self._shown}: more than {self._limits.download} bytes (bound: download)")
        if self.bound is not None and size > self.bound:
            raise LimitError(f"{self._shown}: more than the {self.bound} bytes that were announced for it")

    def _write(self, chunk: bytes) -> None:
        assert self._room is not None
        self._room.need(len(chunk))
        try:
            write_all(self._fd, chunk)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise no_space(f"download {self._shown}") from error
            raise
