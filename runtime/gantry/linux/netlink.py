"""Just enough of rtnetlink to wire a pod: links, veth pairs, addresses, routes.

On the launch path, hence not pyroute2 (its import alone costs more than a whole pod) and not ``ip`` (two
programs to start). A netlink socket belongs to the network namespace it was *made* in, so one process wires
both ends of a veth pair: see :meth:`Netlink.of_namespace`. IPv4 only.
"""

from __future__ import annotations

import os
import socket
import struct

from gantry.linux import syscalls
from gantry.linux.namespaces import OWN_NET

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

_RTM_NEWLINK, _RTM_DELLINK, _RTM_NEWADDR, _RTM_NEWROUTE = 16, 17, 20, 24
_NLM_F_REQUEST, _NLM_F_ACK, _NLM_F_EXCL, _NLM_F_CREATE = 0x1, 0x4, 0x200, 0x400
_NLMSG_ERROR = 2
_IFLA_IFNAME, _IFLA_LINKINFO, _IFLA_IFALIAS, _IFLA_NET_NS_FD = 3, 18, 20, 28
_IFLA_INFO_KIND, _IFLA_INFO_DATA, _VETH_INFO_PEER = 1, 2, 1
_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS = 1, 2, 8
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PREFSRC = 1, 4, 5, 7
_IFF_UP = 1
_RT_SCOPE_UNIVERSE, _RT_SCOPE_LINK = 0, 253
_IFA_F_NOPREFIXROUTE = 0x200
_NESTED = 0x8000


def _attr(kind: int, value: bytes) -> bytes:
    length = 4 + len(value)
    return struct.pack("=HH", length, kind) + value + b"\0" * (-length % 4)


def _text(kind: int, value: str) -> bytes:
    return _attr(kind, value.encode("ascii") + b"\0")


def _ifinfo(index: int = 0, flags: int = 0, change: int = 0) -> bytes:
    return struct.pack("=BxHiII", socket.AF_UNSPEC, 0, index, flags, change)


class Netlink:
    """An rtnetlink socket of one network namespace. Use as a context manager."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
        self._sequence = 0

    @classmethod
    def of_namespace(cls, fd: int) -> Netlink:
        """A socket of the network namespace behind *fd*. The calling process has one thread.

        Raises:
            OSError: The kernel refused to join it.
        """
        own = os.open(OWN_NET, os.O_RDONLY | os.O_CLOEXEC)
        try:
            syscalls.setns(fd, syscalls.CLONE_NEWNET)
            try:
                return cls()
            finally:
                syscalls.setns(own, syscalls.CLONE_NEWNET)
        finally:
            os.close(own)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def close(self) -> None:
        """Give the socket back."""
        self._socket.close()

    def _ask(self, kind: int, flags: int, body: bytes, what: str) -> None:
        self._sequence += 1
        header = struct.pack(
            "=IHHII", 16 + len(body), kind, _NLM_F_REQUEST | _NLM_F_ACK | flags, self._sequence, 0
        )
        self._socket.sendall(header + body)
        while True:
            answer = self._socket.recv(65536)
            while len(answer) >= 16:
                length, answer_kind, _, sequence, _ = struct.unpack_from("=IHHII", answer)
                if answer_kind == _NLMSG_ERROR and sequence == self._sequence:
                    (error,) = struct.unpack_from("=i", answer, 16)
                    if error:
                        raise OSError(-error, f"{what}: {os.strerror(-error)}")
                    return
                answer = answer[(length + 3) & ~3 :]

    def index(self, name: str) -> int:
        """The number of interface *name* in this socket's namespace.

        Raises:
            OSError: There is none.
        """
        import fcntl  # noqa: PLC0415 - only here, and the launch path has it loaded

        # SIOCGIFINDEX asks in the namespace of the socket, wherever the caller is by now.
        answer = fcntl.ioctl(self._socket.fileno(), 0x8933, struct.pack("16sI20x", name.encode("ascii"), 0))
        return int(struct.unpack("16sI20x", answer)[1])

    def up(self, index: int, *, alias: str = "") -> None:
        """Set an interface up, and label it with *alias* if given.

        Raises:
            OSError: The kernel refused.
        """
        label = _attr(_IFLA_IFALIAS, os.fsencode(alias)) if alias else b""
        self._ask(_RTM_NEWLINK, 0, _ifinfo(index, _IFF_UP, _IFF_UP) + label, "setting an interface up")

    def add_veth(self, name: str, peer: str, peer_namespace: int) -> None:
        """Make a veth pair: *name* here, *peer* in the namespace behind *peer_namespace* (a descriptor).

        Raises:
            OSError: The kernel refused; ``EEXIST`` when *name* is taken.
        """
        other = (
            _ifinfo() + _text(_IFLA_IFNAME, peer) + _attr(_IFLA_NET_NS_FD, struct.pack("=I", peer_namespace))
        )
        info = _text(_IFLA_INFO_KIND, "veth") + _attr(
            _IFLA_INFO_DATA | _NESTED, _attr(_VETH_INFO_PEER | _NESTED, other)
        )
        body = _ifinfo() + _text(_IFLA_IFNAME, name) + _attr(_IFLA_LINKINFO | _NESTED, info)
        self._ask(_RTM_NEWLINK, _NLM_F_CREATE | _NLM_F_EXCL, body, f"making interface {name}")

    def delete(self, name: str) -> bool:
        """Remove interface *name*; false when there is none.

        Raises:
            OSError: The kernel refused.
        """
        try:
            self._ask(_RTM_DELLINK, 0, _ifinfo() + _text(_IFLA_IFNAME, name), f"removing interface {name}")
        except OSError as error:
            if error.errno == 19:  # ENODEV
                return False
            raise
        return True

    def add_address(self, index: int, address: str, prefix: int, *, route: bool = True) -> None:
        """Give an interface *address*/*prefix*; without the route to its network unless *route*.

        Raises:
            OSError: The kernel refused.
        """
        raw = socket.inet_aton(address)
        flags = 0 if route else _IFA_F_NOPREFIXROUTE
        body = struct.pack("=BBBBI", socket.AF_INET, prefix, 0, _RT_SCOPE_UNIVERSE, index)
        body += (
            _attr(_IFA_LOCAL, raw) + _attr(_IFA_ADDRESS, raw) + _attr(_IFA_FLAGS, struct.pack("=I", flags))
        )
        self._ask(_RTM_NEWADDR, _NLM_F_CREATE | _NLM_F_EXCL, body, f"adding address {address}/{prefix}")

    def add_route(
        self,
        index: int,
        destination: str,
        prefix: int,
        *,
        gateway: str | None = None,
        source: str | None = None,
    ) -> None:
        """Route *destination*/*prefix* through an interface, by way of *gateway* if given.

        Raises:
            OSError: The kernel refused.
        """
        scope = _RT_SCOPE_UNIVERSE if gateway else _RT_SCOPE_LINK
        # table main, protocol static, type unicast
        body = struct.pack("=BBBBBBBBI", socket.AF_INET, prefix, 0, 0, 254, 4, scope, 1, 0)
        body += _attr(_RTA_OIF, struct.pack("=I", index))
        if prefix:
            body += _attr(_RTA_DST, socket.inet_aton(destination))
        if gateway:
            body += _attr(_RTA_GATEWAY, socket.inet_aton(gateway))
        if source:
            body += _attr(_RTA_PREFSRC, socket.inet_aton(source))
        what = f"routing {destination}/{prefix}"
        self._ask(_RTM_NEWROUTE, _NLM_F_CREATE | _NLM_F_EXCL, body, what)
