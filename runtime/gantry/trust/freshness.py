"""A name never moves back to an older signature than the one this host accepted.

A signature says who signed, never whether this is still what its publisher offers: a server that was broken
into, or a mirror that stands still, can serve an old image, vulnerable and well signed, for ever. So what
was accepted is written down, by name, and an older signature for the same is refused.

What is "the same":

- a name with a version, for an operating system and an architecture;
- the *latest* of a name, where nobody asked for a version. Who asks for version 1 after version 2 means it,
  and what they get moves nothing of the latest.

For what platform is a matter of who asks, not of the image's labels: an old image that is made for another
one, or says nothing of it, would not be compared. Asked for by name, it is the platform asked for, or else
this host's; a file or a URL is for the platform that its labels say, or else this host's.

An image that is asked for by its ID is what it is; it is neither compared nor written down. The time is what
the signer wrote: it is as true as the key is good.

::

    DATA/trust/format             "1"
    DATA/trust/lock               flock, held while a record is written
    DATA/trust/accepted/HASH.json what was accepted; HASH is the SHA-256 of what it is about

A record outlives the image. One that cannot be read refuses the name until somebody removes it.
"""

from __future__ import annotations

import hashlib
import json
import os
from typing import TYPE_CHECKING, Any, NamedTuple

from gantry.appc.arch import host_labels
from gantry.appc.errors import AppcError
from gantry.errors import HostError
from gantry.linux.fs import atomic_write, make_directory
from gantry.linux.locks import locked
from gantry.trust.errors import DowngradeError, FreshnessError

if TYPE_CHECKING:
    from collections.abc import Mapping

_FORMAT = b"1\n"


class Series(NamedTuple):
    """What of which there is an older and a newer.

    Attributes:
        name: The image name.
        version: Its version label; ``None``: the latest of the name. Empty: it has none.
        os: The platform's operating system.
        arch: Its architecture.
    """

    name: str
    version: str | None
    os: str
    arch: str

    def __str__(self) -> str:
        return f"{self.name}:{self.version}" if self.version else self.name


def series_of(
    name: str, labels: Mapping[str, str], platform: Mapping[str, str], *, latest: bool
) -> list[Series]:
    """What an image is a member of.

    Args:
        name: Its name.
        labels: Its labels.
        platform: What was asked for, or what the image says where nobody asked: labels os and arch, if any.
        latest: Whether it was asked for without a version.
    """
    system, machine = (platform.get(label) or _host().get(label, "") for label in ("os", "arch"))
    here = Series(name, labels.get("version", ""), system, machine)
    return [here._replace(version=None), here] if latest else [here]


def _host() -> dict[str, str]:
    try:
        return host_labels(os.uname().machine)
    except AppcError:
        return {}


class Accepted(NamedTuple):
    """The newest signature that was accepted.

    Attributes:
        signed_at: When it was made, RFC 3339 in UTC.
        image_id: Of the image.
        key: Fingerprint of the signer's certificate.
    """

    signed_at: str
    image_id: str
    key: str


class Freshness:
    """What one installation accepted.

    Args:
        data: The data directory.
    """

    def __init__(self, data: str) -> None:
        self._root = os.path.join(data, "trust")

    def check(self, series: list[Series], new: Accepted) -> None:
        """Refuse what is older than what was accepted; nothing is written.

        Raises:
            DowngradeError: It is.
            FreshnessError: A record cannot be read.
        """
        for each in series:
            known = self.accepted(each)
            if known is not None and known.image_id != new.image_id and new.signed_at < known.signed_at:
                latest = ", the latest," if each.version is None else ""
                other = ", or name the version" if each.version is None else ""
                raise DowngradeError(
                    f"{each}{latest} was signed at {new.signed_at}, and this host accepted what was signed "
                    f"at {known.signed_at} ({known.image_id[:39]}): this is an older one",
                    hint=f"if that is meant: --allow-downgrade{other}",
                )

    def accept(self, series: list[Series], new: Accepted, *, back: bool = False) -> None:
        """Write down what is accepted, before it is taken in; with *back*, also where it is older.

        Raises:
            DowngradeError: It is older, and *back* was not given; nothing was written.
            FreshnessError: A record cannot be read; nothing was written.
            HostError: It cannot be written.
        """
        if not self._todo(series, new, back=back):
            return
        try:
            self._make()
            with locked(os.path.join(self._root, "lock"), what="the record of accepted signatures"):
                for each in self._todo(series, new, back=back):
                    text = json.dumps({**each._asdict(), **new._asdict()}, indent=1).encode() + b"\n"
                    atomic_write(self._file(each), text, 0o640)
        except OSError as error:
            raise HostError(f"cannot write down what was accepted: {error.strerror}") from error

    def _todo(self, series: list[Series], new: Accepted, *, back: bool) -> list[Series]:
        """Of which series the record has to move; refuses what :meth:`check` refuses."""
        if not back:
            self.check(series, new)
        return [each for each in series if self._moves(each, new, back=back)]

    def accepted(self, series: Series) -> Accepted | None:
        """What was accepted last.

        Raises:
            FreshnessError: That cannot be read.
        """
        path = self._file(series)
        try:
            if not os.path.exists(path):
                return None
            self._check_format()
            with open(path, "rb") as file:
                known: Any = json.load(file)
            return Accepted(*(str(known[field]) for field in Accepted._fields))
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise FreshnessError(
                f"{path}, where it stands which signature of {series} was accepted, cannot be read: {error}",
                hint="remove the file: the next image that is fetched counts as the first",
            ) from error

    def _moves(self, series: Series, new: Accepted, *, back: bool) -> bool:
        known = self.accepted(series)
        return known is None or new.signed_at > known.signed_at or (back and new != known)

    def _file(self, series: Series) -> str:
        about = hashlib.sha256(json.dumps(series).encode()).hexdigest()
        return os.path.join(self._root, "accepted", f"{about}.json")

    def _check_format(self) -> None:
        path = os.path.join(self._root, "format")
        with open(path, "rb") as file:
            found = file.read(100)
        if found != _FORMAT:
            raise ValueError(f"{path} says {found!r}, this version of gantry reads {_FORMAT!r}")

    def _make(self) -> None:
        if not os.path.isdir(os.path.join(self._root, "accepted")):
            os.makedirs(os.path.dirname(self._root), exist_ok=True)
            make_directory(self._root, 0o750)
            if not os.path.exists(os.path.join(self._root, "format")):
                atomic_write(os.path.join(self._root, "format"), _FORMAT, 0o640)
            make_directory(os.path.join(self._root, "accepted"), 0o750)
