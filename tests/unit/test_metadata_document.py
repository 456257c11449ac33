"""The document that `prepare` writes, and the registry of those that are served."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import socket
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.services import FakePod, app

from gantry.metadata import control, document, recover
from gantry.metadata.client import RegistrationError
from gantry.metadata.document import DocumentError
from gantry.metadata.registry import Pod, Registry

ONE = "6733c088-a507-4694-aabf-178dcf58aaaa"
TWO = "0b7a8d8c-1f9b-4d0f-9c55-3f4ad3c2bbbb"


def parse(changes: dict[str, Any]) -> document.PodDocument:
    return document.parse(json.dumps(FakePod(ONE, apps={"web": app()}).document() | changes).encode())


def test_all_of_it() -> None:
    parsed = parse({"uuid": ONE.upper(), "token_sha256": "Ab" * 32})
    assert parsed.uuid == ONE
    assert parsed.token_sha256 == b"\xab" * 32
    assert parsed.apps["web"].image_manifest == b"{}"


def test_the_image_manifest_as_base64() -> None:
    data = b'{"a":\xff}\n'
    web = {"image_id": "sha512-0", "image_manifest_b64": base64.b64encode(data).decode(), "annotations": []}
    assert parse({"apps": {"web": web}}).apps["web"].image_manifest == data


def test_the_raw_manifest_is_served_as_it_is() -> None:
    raw = '{ "annotations": [ ] , "ü": 1e2 }'
    assert parse({"manifest": {"annotations": []}, "manifest_raw": raw}).manifest == raw.encode()


def test_a_manifest_without_annotations_gets_an_empty_list() -> None:
    parsed = parse({"manifest": {"a": 1}, "manifest_raw": '{"a":1}'})
    assert json.loads(parsed.manifest) == {"a": 1, "annotations": []}


WEB = {"image_id": "x", "image_manifest": "{}"}


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"uuid": None}, "uuid"),
        ({"uuid": "x"}, "uuid"),
        ({"uuid": "00000000-0000-0000-0000-000000000000"}, "uuid"),
        ({"token_sha256": "ab"}, "token_sha256"),
        ({"token_sha256": "zz" * 32}, "token_sha256"),
        ({"token_sha256": None}, "token_sha256"),
        ({"manifest": []}, "manifest"),
        ({"manifest": None}, "manifest"),
        ({"manifest": {"annotations": {}}}, "manifest.annotations"),
        ({"manifest": {"annotations": [{"name": "a"}]}}, "manifest.annotations.value"),
        ({"apps": None}, "apps"),
        ({"apps": {"web": 1}}, "apps.web"),
        ({"apps": {"web": WEB | {"image_id": 1}}}, "apps.web.image_id"),
        ({"apps": {"web": WEB | {"image_manifest": None}}}, "apps.web.image_manifest"),
        ({"apps": {"web": WEB | {"image_manifest_b64": "*"}}}, "apps.web.image_manifest_b64"),
        ({"apps": {"web": WEB | {"annotations": [1]}}}, "apps.web.annotations"),
    ],
)
def test_what_does_not_fit_is_told_by_its_place(changes: dict[str, Any], what: str) -> None:
    with pytest.raises(DocumentError) as caught:
        parse(changes)
    assert what in caught.value.message


@pytest.mark.parametrize("data", [b"", b"[]", b"1", b"{", b"\xff", b"[" * 100_000])
def test_what_is_no_document(data: bytes) -> None:
    with pytest.raises(DocumentError):
        document.parse(data)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@given(field=st.sampled_from(["uuid", "token_sha256", "manifest", "apps"]), value=json_values)
def test_any_json_is_a_document_or_an_error(field: str, value: object) -> None:
    with contextlib.suppress(DocumentError):
        parse({field: value})


# --- Registry ---------------------------------------------------------------------------------


def test_a_pod_in_the_hosts_network_is_found_by_its_token() -> None:
    registry = Registry()
    one, two = FakePod(ONE), FakePod(TWO)
    registry.add(Pod(document.parse(one.document_bytes())))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        registry.add(Pod(document.parse(two.document_bytes()), listener))
        found = registry.host_pod(one.token.encode())
        assert found
        assert found.document.uuid == ONE
        assert registry.host_pod(two.token.encode()) is None, "it has a socket of its own"
        assert registry.host_pod(b"") is None
        registry.remove(ONE)
        assert not found.alive
        assert registry.host_pod(one.token.encode()) is None


def test_a_new_token_makes_the_old_one_invalid() -> None:
    registry = Registry()
    old, new = FakePod(ONE), FakePod(ONE)
    registry.add(Pod(document.parse(old.document_bytes())))
    registry.add(Pod(document.parse(new.document_bytes())))
    assert registry.host_pod(old.token.encode()) is None
    assert registry.host_pod(new.token.encode())
    assert len(registry) == 1


def test_removing_another_instance_does_nothing() -> None:
    registry = Registry()
    first = Pod(document.parse(FakePod(ONE).document_bytes()))
    second = Pod(document.parse(FakePod(ONE).document_bytes()))
    registry.add(first)
    registry.add(second)
    assert registry.remove(ONE, only=first) is None
    assert second.alive


def test_the_same_pod_told_twice_is_the_same() -> None:
    pod = FakePod(ONE)
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_server(("127.0.0.1", 0)) as other:
        parsed = document.parse(pod.document_bytes())
        same = Pod(document.parse(pod.document_bytes()), listener.dup())
        elsewhere = Pod(parsed, other.dup())
        try:
            assert Pod(parsed, listener).is_same(same)
            assert not Pod(parsed, listener).is_same(elsewhere)
            assert not Pod(parsed).is_same(same)
            assert Pod(parsed).is_same(Pod(parsed))
            assert not Pod(parsed).is_same(Pod(document.parse(FakePod(ONE).document_bytes())))
        finally:
            same.close()
            elsewhere.close()


# --- What launchers hand over -----------------------------------------------------------------


def directory_fd() -> int:
    return os.open("/", os.O_RDONLY)


def pipe_fd() -> int:
    read, write = os.pipe()
    os.close(write)
    return read


@pytest.mark.parametrize("make", [directory_fd, pipe_fd])
def test_a_document_is_a_regular_file(make: Callable[[], int]) -> None:
    fd = make()
    try:
        with pytest.raises(RegistrationError, match="not a regular file"):
            control.read_document(fd)
    finally:
        os.close(fd)


def test_an_endless_document_is_refused(tmp_path: Any) -> None:
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(document.MAX_SIZE + 1)
    fd = os.open(path, os.O_RDONLY)
    try:
        with pytest.raises(RegistrationError, match="larger than"):
            control.read_document(fd)
    finally:
        os.close(fd)


def connected() -> int:
    one, two = socket.socketpair()
    two.close()
    return one.detach()


def unbound() -> int:
    return socket.socket(socket.AF_INET, socket.SOCK_STREAM).detach()


def datagram() -> int:
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM).detach()


def unix_listener() -> int:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.bind("")
    sock.listen()
    return sock.detach()


@pytest.mark.parametrize("make", [directory_fd, pipe_fd, connected, unbound, datagram, unix_listener])
def test_a_socket_is_a_listening_tcp_socket(make: Callable[[], int]) -> None:
    fd = make()
    with pytest.raises(RegistrationError, match="is not a"):
        control.checked_listener(fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


@pytest.mark.parametrize(
    "data",
    [
        b"", b"[]", b"{}", b"1", b'{"pause_pid":1}', b'{"boot_id":"x"}', b'{"pause_pid":"1","boot_id":"x"}',
        b'{"pause_pid":0,"boot_id":"x"}', b'{"pause_pid":-5,"boot_id":"x"}',
        b'{"pause_pid":true,"boot_id":"x"}',
        b'{"pause_pid":1,"boot_id":1}', b'{"pause_pid":1,"boot_id":"x","listen_fd":-2}',
        b'{"pause_pid":1,"boot_id":"x","listen_fd":1.5}', b'{"pause_pid":1,"boot_id":"x","pause_start":"9"}',
        b'{"pause_pid":2147483648,"boot_id":"x"}', b"[" * 100_000,
    ],
)  # fmt: skip
def test_sandbox_files_that_do_not_fit(data: bytes) -> None:
    with pytest.raises(RegistrationError):
        recover.parse_sandbox(data)


def test_sandbox_files() -> None:
    full = b'{"pause_pid":7,"pause_start":99,"listen_fd":3,"boot_id":"b","other":1}'
    assert recover.parse_sandbox(full) == (7, 99, 3, "b")
    assert recover.parse_sandbox(b'{"pause_pid":7,"boot_id":"b"}') == (7, None, None, "b")
    assert recover.parse_sandbox(b'{"pause_pid":7,"boot_id":"b","listen_fd":-1}').listen_fd is None
