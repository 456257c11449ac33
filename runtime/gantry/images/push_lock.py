"""A lock on a web server that takes PUT, by the one step of WebDAV that is atomic: MKCOL.

Who makes the directory ``.gantry-push.d`` has the lock and removes it at the end. Meanwhile a file in it
changes every few seconds: when it has not for long, whoever made it was killed, and the next push removes
it. A server that knows no MKCOL has no such lock; there, only conditions on requests keep pushes apart.
"""

from __future__ import annotations

import contextlib
import io
import secrets
import threading
import time
from typing import TYPE_CHECKING

from gantry.errors import BusyError
from gantry.http import HttpError, StatusError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gantry.http import Client

DIRECTORY = ".gantry-push.d"
_HOLDER = f"{DIRECTORY}/holder"
_BEAT = 10.0  # seconds between two changes of the holder
_STALE = 60.0  # seconds without a change after which it was killed
_LOOK = 1.0  # seconds between two looks at somebody else's
_MADE, _THERE, _NONE = "made", "there", "none"
_MOST = 4096  # a holder has 40 bytes; an error page that a server sends in its place may have more
_ABSENT = frozenset({404, 410})


@contextlib.contextmanager
def held(client: Client, url: str, shown: str, patience: float) -> Iterator[bool]:
    """Hold the lock below *url*, where the server has such a thing.

    Args:
        client: Makes the requests; also in another thread, meanwhile.
        url: The root of what is published.
        shown: What messages call it.
        patience: Seconds that another push may take.

    Yields:
        Whether there is a lock.

    Raises:
        BusyError: Another push takes longer.
        HttpError: The server cannot be reached.
    """
    lock = _Lock(client, url)
    if not lock.take(shown, patience):
        yield False
        return
    done = threading.Event()
    beating = threading.Thread(target=lock.beat, args=(done,), name="push-lock", daemon=True)
    beating.start()
    try:
        yield True
    finally:
        done.set()
        beating.join()
        lock.let_go()


class _Lock:
    def __init__(self, client: Client, url: str) -> None:
        self._client = client
        self._url = url
        self._name = secrets.token_hex(16)

    def take(self, shown: str, patience: float) -> bool:
        """Make the directory, waiting for those who have; ``False``: the server knows nothing of that."""
        deadline = time.monotonic() + patience
        seen, since = b"", time.monotonic()
        while True:
            state = self._make()
            if state != _THERE:
                return state == _MADE and self._mark(0)
            now = time.monotonic()
            content = self._content()
            if content != seen:
                seen, since = content, now
            elif now - since > _STALE and self._content() == seen:
                self.let_go()  # of whoever was killed
                continue
            if now > deadline:
                raise BusyError(
                    f"another push to {shown} takes longer than {patience:.0f} s",
                    hint=f"if there is none, remove {DIRECTORY} on the server",
                )
            time.sleep(_LOOK)

    def _make(self) -> str:
        # 405 says that it is there, or that the server knows no MKCOL; looking tells which.
        for _ in range(2):
            try:
                status = self._client.send("MKCOL", f"{self._url}/{DIRECTORY}/", accept={405})
            except StatusError:
                return _NONE  # also 409: there is nothing yet that could be locked
            if status != 405:
                return _MADE
            if self._is_there():
                return _THERE
        return _NONE  # twice: it was not given back in between

    def _is_there(self) -> bool:
        statuses = {200, 401, 403, 404, 405, 410}
        for path in (_HOLDER, f"{DIRECTORY}/"):
            answer = self._client.get(f"{self._url}/{path}", max_bytes=_MOST, truncate=True, accept=statuses)
            if answer.status == 200 or (path != _HOLDER and answer.status not in _ABSENT):
                return True
        return False

    def _content(self) -> bytes:
        try:
            answer = self._client.get(
                f"{self._url}/{_HOLDER}", max_bytes=_MOST, truncate=True, accept={200, 403, 404, 410}
            )
        except HttpError:
            return b""
        return answer.body if answer.status == 200 else b""

    def _mark(self, number: int) -> bool:
        data = f"{self._name} {number}\n".encode()
        with contextlib.suppress(HttpError):  # somebody may take it for a dead one's: a matter of minutes
            self._client.send("PUT", f"{self._url}/{_HOLDER}", body=io.BytesIO(data), size=len(data))
        return True

    def beat(self, done: threading.Event) -> None:
        """Change the holder until *done*."""
        number = 0
        while not done.wait(_BEAT):
            number += 1
            self._mark(number)

    def let_go(self) -> None:
        """Remove the directory; if that fails, the next push does so in a minute."""
        with contextlib.suppress(HttpError):
            self._client.send("DELETE", f"{self._url}/{DIRECTORY}/", accept={404, 410})
