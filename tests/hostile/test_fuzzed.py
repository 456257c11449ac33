"""Replay what fuzzing found, and mutate a little on the spot."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.hostile.attacks import ATTACKS
from tests.hostile.attacks import LIMITS as TABLE
from tests.hostile.fuzz_archive import CORPUS, LIMITS, check, mutated, repaired

from gantry.images.compression import decompress

ACCEPTED = [
    b"".join(decompress([attack.make()], TABLE))
    for name, attack in ATTACKS.items()
    if attack.words is None and attack.make()[:2] == b"\x1f\x8b" and len(attack.make()) < 3000
]


@pytest.mark.parametrize("path", sorted(CORPUS.glob("*")), ids=lambda path: path.name)
def test_what_fuzzing_found_stays_mended(path: Path) -> None:
    check(path.read_bytes())


def test_the_table_keeps_the_rules() -> None:
    """So the harness accepts what is right, and would not pass everything over."""
    accepted = [name for name, attack in ATTACKS.items() if check(attack.make())]
    # Manifests are another reader's affair, and the table has tighter bounds for attributes.
    wrongly = {name for name in accepted if ATTACKS[name].words is not None}
    assert {name for name in wrongly if not name.startswith(("manifest_", "xattr"))} == set()
    assert len(accepted) > 40


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(ACCEPTED), st.integers(0, 1 << 62), st.integers(1, 5))
def test_archives_that_were_changed_where_it_matters(data: bytes, seed: int, times: int) -> None:
    dice = random.Random(seed)
    for _ in range(times):
        data = mutated(data, dice)
    check(repaired(data)[: LIMITS.unpacked])
