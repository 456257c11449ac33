"""What the demonstration takes for a proof: a pod that has become another one, or lies, is found out."""

from __future__ import annotations

from typing import Any
from unittest.mock import Mock

import pytest

from demo.hosts import Asker, PodView, ProofError
from demo.script import Demo
from testhosts.spec import parse

HOST = parse({"hosts": [{"name": "app1"}]}).hosts[0]
TOLD = {"uuid": "u", "verified": True, "forgery_refused": True, "message": "m", "signature": "s"}


class Told(Asker):
    """Hosts that answer what they are told to."""

    def __init__(self, *, pid: int = 7, ticks: str = "100\n", verifies: tuple[bool, ...] = ()) -> None:
        self.pid, self.ticks, self.answers = pid, ticks, list(verifies)

    def json(self, name: str, *words: str) -> Any:
        return {"uuid": "u", "pid": self.pid, "state": "running"}

    def shell(self, name: str, script: str, *, status: int | None = 0) -> tuple[int, str, str]:
        return 0, self.ticks, ""

    def status_page(self, host: Any) -> dict[str, Any]:
        return dict(TOLD)

    def verifies(self, name: str, uuid: str, content: str, signature: str) -> bool:
        return self.answers.pop(0)


def demo(ask: Asker) -> Demo:
    made = Demo(Mock(), Mock(), lambda: False)
    made.ask = ask
    return made


def test_a_pod_without_a_process_proves_nothing() -> None:
    """Two pods that do not run have the same pid: none."""
    with pytest.raises(ProofError, match="has no process"):
        Told(pid=0).pod(HOST, "hello")
    with pytest.raises(ProofError, match="is not there"):
        Told(ticks="\n").pod(HOST, "hello")


@pytest.mark.parametrize("now", [Told(ticks="101\n"), Told(pid=8)])
def test_a_restarted_pod_is_not_the_same_though_its_uuid_is(now: Told) -> None:
    before = PodView("u", 7, "100", {})
    demo(Told())._untouched(HOST, before)
    with pytest.raises(ProofError, match="have become"):
        demo(now)._untouched(HOST, before)


@pytest.mark.parametrize(
    "answers",
    [(False,), (True, True), (True, False, True)],
    ids=["not signed", "changed message", "other pod"],
)
def test_the_pods_own_word_for_its_signature_is_not_enough(answers: tuple[bool, ...]) -> None:
    demo(Told(verifies=(True, False, False)))._prove(HOST)
    with pytest.raises(ProofError, match="sign"):
        demo(Told(verifies=answers))._prove(HOST)
