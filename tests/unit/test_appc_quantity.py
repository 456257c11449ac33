"""Quantities (ISO-40 ... ISO-47, TRAP-28, TRAP-29)."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gantry.appc.document import RealNumber
from gantry.appc.quantity import Quantity, QuantityError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1k", 10**3),
        ("1K", 10**3),
        ("1M", 10**6),
        ("1G", 10**9),
        ("1T", 10**12),
        ("1P", 10**15),
        ("1E", 10**18),
    ],
)
def test_ISO_41_decimal_suffixes(text: str, value: int) -> None:
    assert Quantity.parse(text).value == value


def test_ISO_41_k_is_written() -> None:
    assert str(Quantity.parse("5K")) == "5k"
    assert str(Quantity.parse("5Ki")) == "5Ki"


def test_ISO_42_three_spellings_of_one_value() -> None:
    assert len({Quantity.parse(text) for text in ("128974848", "125952Ki", "123Mi")}) == 1
    assert [Quantity.parse(f"1{s}i").value for s in "KMGTPE"] == [2**shift for shift in range(10, 61, 10)]


@pytest.mark.parametrize(
    ("text", "milli"), [("0.3", 300), ("300m", 300), ("1500m", 1500), ("1u", 1), ("1n", 1)]
)
def test_ISO_43_small_values(text: str, milli: int) -> None:
    assert Quantity.parse(text).milli == milli


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1E", 10**18),
        ("1E3", 1000),
        ("1e3", 1000),
        ("5E-3", 1),
        ("2e+6", 2_000_000),
        ("1Ei", 2**60),
        ("1E0", 1),
    ],
)
def test_ISO_44_TRAP_29_exa_and_exponent(text: str, value: int) -> None:
    assert Quantity.parse(text).value == value


@pytest.mark.parametrize("text", [".001", "1.", "1.G", "+1", "-1", "0", "00012", "0.5Gi"])
def test_ISO_45_accepted(text: str) -> None:
    Quantity.parse(text)


@pytest.mark.parametrize(
    "text",
    ["", "1.1.M", "0.1mi", "1i", ".5i", "aoeu", "1+1.0M", ".", "+", "-", "1 k", "1e", "1e+", "1KK", "k", "e3",
     "\u0661", "0x10", "1_000", "1k\n\0", "NaN", "1e99999", "9" * 65],
)  # fmt: skip
def test_ISO_45_refused(text: str) -> None:
    with pytest.raises(QuantityError):
        Quantity.parse(text)


def test_ISO_46_blanks_and_numbers() -> None:
    assert Quantity.parse(" 5k \n") == Quantity.parse(5000) == Quantity.parse(RealNumber("5e3"))
    assert Quantity.parse(RealNumber("0.1")).nano == 10**8
    with pytest.raises(QuantityError):
        Quantity.parse(True)
    with pytest.raises(QuantityError):
        Quantity.parse(0.1)


def test_ISO_47_rounds_up_and_caps() -> None:
    assert Quantity.parse("1e-12").nano == 1
    assert Quantity.parse("0.0000000011").nano == 2
    assert Quantity.parse("9Ei").value == 2**63 - 1
    assert Quantity.parse("8Ei").value == 2**63 - 1
    assert Quantity.parse("7Ei").value == 7 * 2**60
    assert Quantity.parse("-0.5").value == 0
    assert Quantity.parse("-1.5").milli == -1500


def test_TRAP_28_cpu_is_held_in_milli() -> None:
    assert (Quantity.parse("250m").milli, Quantity.parse("250m").value) == (250, 1)


@given(
    st.integers(0, 10**12),
    st.integers(0, 10**6),
    st.sampled_from(["", "k", "M", "G", "m", "u", "n", "Ki", "Mi", "e3", "E-3"]),
)
def test_ISO_40_exact_against_fractions(whole: int, fraction: int, suffix: str) -> None:
    text = f"{whole}.{fraction:06d}"
    factor = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "e3": 10**3, "Ki": 2**10, "Mi": 2**20}.get(suffix)
    factor = (
        Fraction(factor)
        if factor
        else Fraction(1, {"m": 10**3, "u": 10**6, "n": 10**9, "E-3": 10**3}[suffix])
    )
    exact = Fraction(text) * factor * 10**9
    expected = -(-exact.numerator // exact.denominator)
    if suffix in ("Ki", "Mi"):
        expected = min(expected, (2**63 - 1) * 10**9)
    parsed = Quantity.parse(text + suffix)
    assert parsed.nano == expected
    assert Quantity.parse(str(Quantity(parsed.nano))) == parsed or len(str(Quantity(parsed.nano))) > 64


@given(st.text(max_size=20))
def test_any_text_parses_or_is_refused(text: str) -> None:
    try:
        parsed = Quantity.parse(text)
    except QuantityError:
        return
    assert Quantity.parse(str(parsed)) == parsed
