"""The units of signer and metadata service: settings that were learnt, and that nobody should tidy away."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from tests.support.services import ROOT

UNITS = ROOT / "runtime" / "gantry" / "data" / "units"
SERVICES = ["gantry-metadata.service", "gantry-signer.service"]
SOCKETS = ["gantry-metadata.socket", "gantry-signer.socket"]


def settings(name: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in (UNITS / name).read_text().splitlines():
        if line and line[0] not in "#[":
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


@pytest.mark.parametrize("name", SERVICES)
def test_services_come_back_and_are_closed(name: str) -> None:
    unit = settings(name)
    assert unit["Restart"] == ["always"]
    assert unit["StartLimitIntervalSec"] == ["0"], (
        "a service that gives up leaves pods without an answer for good"
    )
    assert unit["NoNewPrivileges"] == ["yes"]
    assert unit["PrivateNetwork"] == ["yes"]
    assert unit["RestrictAddressFamilies"] == ["AF_UNIX"]
    assert unit["ProtectSystem"] == ["strict"]
    assert unit["LimitCORE"] == ["0"]
    assert int(unit["LimitNOFILE"][0]) <= 20000, "above the limit of some hosts it would silently be lowered"
    assert "PrivateUsers" not in unit, "callers could not be told apart"


def test_the_metadata_service_can_take_sockets_over() -> None:
    unit = settings("gantry-metadata.service")
    assert set(unit["CapabilityBoundingSet"][0].split()) == {"CAP_SYS_PTRACE", "CAP_SETUID", "CAP_SETGID"}
    assert "pidfd_getfd" in unit["SystemCallFilter"][0].split(), (
        "it is in none of the groups that are allowed"
    )
    assert "User" not in unit, "it starts as root and drops that itself"


def test_the_metadata_service_sees_the_hosts_boot_id() -> None:
    """Both mount a new /proc; on a host that is a container it shows another boot ID: no pod is found."""
    unit = settings("gantry-metadata.service")
    assert not {"ProtectKernelTunables", "ProtectControlGroups", "ProcSubset"} & unit.keys()
    assert unit["ReadOnlyPaths"] == ["/proc/sys /sys"]


def test_the_signer_has_nothing() -> None:
    unit = settings("gantry-signer.service")
    assert unit["CapabilityBoundingSet"] == [""]
    assert unit["User"] == ["gantry-signer"]
    assert unit["StateDirectoryMode"] == ["0700"]


def test_who_reaches_the_sockets() -> None:
    signer, metadata = settings("gantry-signer.socket"), settings("gantry-metadata.socket")
    owner = ("SocketUser", "SocketGroup", "SocketMode")
    assert [signer[key][0] for key in owner] == ["root", "gantry-metadata", "0660"]
    assert [metadata[key][0] for key in owner] == ["root", "root", "0600"]
    assert signer["ListenStream"] == ["/run/gantry/signer.sock"]
    assert metadata["ListenSequentialPacket"] == ["/run/gantry/metadata-svc.sock"]
    assert metadata["ListenStream"] == ["127.0.0.1:18112"]


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze")
def test_systemd_understands_them(tmp_path: Path) -> None:
    for name in SERVICES + SOCKETS:
        text = (UNITS / name).read_text().replace("/opt/gantry/current/bin/gantry", "/bin/true")
        (tmp_path / name).write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", *(str(tmp_path / name) for name in SERVICES + SOCKETS)],
        capture_output=True, check=False, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
