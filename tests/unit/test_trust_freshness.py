"""The newest signature of a name: what is older, what is the same, what cannot be known."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
from pathlib import Path

import pytest

from gantry.trust import DowngradeError, TrustError
from gantry.trust.errors import FreshnessError
from gantry.trust.freshness import Accepted, Freshness, Series, series_of

LABELS = {"version": "2", "os": "linux", "arch": "amd64"}
OLD = Accepted("2025-01-01T00:00:00Z", "sha512-" + "1" * 128, "a" * 40)
NEW = Accepted("2026-01-01T00:00:00Z", "sha512-" + "2" * 128, "b" * 40)


@pytest.fixture
def fresh(tmp_path: Path) -> Freshness:
    return Freshness(str(tmp_path / "data"))


def members(version: str | None = "2", *, latest: bool = False, **labels: str) -> list[Series]:
    stated = {**LABELS, "version": version or "", **labels}
    return series_of("example.com/app", stated, stated, latest=latest)


def test_an_older_signature_is_refused_and_a_newer_one_is_not(fresh: Freshness) -> None:
    fresh.check(members(), NEW)
    fresh.accept(members(), NEW)
    with pytest.raises(DowngradeError) as caught:
        fresh.check(members(), OLD)
    assert "example.com/app:2 was signed at 2025-01-01T00:00:00Z" in str(caught.value)
    assert "accepted what was signed at 2026-01-01T00:00:00Z" in str(caught.value)
    assert "--allow-downgrade" in str(caught.value.hint)
    fresh.check(members(), NEW._replace(signed_at="2026-01-01T00:00:01Z", image_id="sha512-3"))
    fresh.check(members(), NEW._replace(image_id="sha512-3"))  # in the same second


def test_the_same_image_signed_earlier_is_the_same_image(fresh: Freshness) -> None:
    fresh.accept(members(), NEW)
    fresh.check(members(), NEW._replace(signed_at=OLD.signed_at))
    fresh.accept(members(), NEW._replace(signed_at=OLD.signed_at))
    assert fresh.accepted(members()[0]) == NEW


def test_who_names_a_version_means_it(fresh: Freshness) -> None:
    fresh.accept(members("2", latest=True), NEW)
    fresh.check(members("1"), OLD)
    fresh.accept(members("1"), OLD)
    with pytest.raises(DowngradeError, match=r"example\.com/app, the latest, was signed"):
        fresh.check(members("1", latest=True), OLD)
    with pytest.raises(DowngradeError):
        fresh.check(members("2"), OLD)


@pytest.mark.parametrize("other", [{"os": "freebsd"}, {"arch": "aarch64"}, {"version": "3"}])
def test_other_systems_and_versions_are_others(fresh: Freshness, other: dict[str, str]) -> None:
    fresh.accept(members(), NEW)
    fresh.check(members(**{"version": "2", **other}), OLD)
    fresh.check(series_of("example.com/other", LABELS, LABELS, latest=False), OLD)


def test_going_back_on_purpose_moves_the_record(fresh: Freshness) -> None:
    fresh.accept(members(), NEW)
    with pytest.raises(DowngradeError):
        fresh.accept(members(), OLD)
    assert fresh.accepted(members()[0]) == NEW
    fresh.accept(members(), OLD, back=True)
    assert fresh.accepted(members()[0]) == OLD
    fresh.check(members(), OLD)


def test_looking_creates_nothing(fresh: Freshness, tmp_path: Path) -> None:
    fresh.check(members(latest=True), NEW)
    assert fresh.accepted(members()[0]) is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"null", b'{"signed_at": "x"}', b"\xff"])
def test_a_record_that_cannot_be_read_refuses(fresh: Freshness, tmp_path: Path, content: bytes) -> None:
    fresh.accept(members(), OLD)
    [record] = (tmp_path / "data/trust/accepted").iterdir()
    record.write_bytes(content)
    for action in (fresh.check, fresh.accept):
        with pytest.raises(FreshnessError, match="cannot be read") as caught:
            action(members(), NEW)
        assert isinstance(caught.value, TrustError)
        assert str(caught.value).isprintable()
        assert "remove the file" in str(caught.value.hint)
    fresh.check(members("9"), OLD)
    record.unlink()
    fresh.check(members(), OLD)


def test_a_record_of_another_version_refuses(fresh: Freshness, tmp_path: Path) -> None:
    fresh.accept(members(), OLD)
    (tmp_path / "data/trust/format").write_text("2\n")
    with pytest.raises(FreshnessError, match="this version of gantry reads"):
        fresh.check(members(), NEW)


def note(data: str, second: int) -> None:
    with contextlib.suppress(DowngradeError):
        new = Accepted(f"2026-01-01T00:00:{second:02}Z", f"sha512-{second}", "a" * 40)
        Freshness(data).accept(members(), new)


def test_of_many_at_once_the_newest_stays(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    data = str(tmp_path / "data")
    workers = [context.Process(target=note, args=(data, second)) for second in (5, 30, 2, 59, 7, 58, 1, 40)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)
        assert worker.exitcode == 0
    [record] = (tmp_path / "data/trust/accepted").iterdir()
    assert json.loads(record.read_text())["signed_at"] == "2026-01-01T00:00:59Z"
