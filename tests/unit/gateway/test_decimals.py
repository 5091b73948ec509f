"""Decimal strings and integers: what goes in comes out, and what does not fit is refused."""

import re
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.units import ENERGY_WH_MAX, FUND_MAX, PRICE_MICRO_MAX
from gateway import decimals
from gateway.errors import Problem


@given(st.integers(1, PRICE_MICRO_MAX))
def test_every_price_survives_the_round_trip(price_micro: int) -> None:
    assert decimals.parse_price(decimals.format_price(price_micro), "price") == price_micro


@given(st.integers(1, ENERGY_WH_MAX))
def test_every_quantity_survives_the_round_trip(energy_wh: int) -> None:
    assert decimals.parse_energy(decimals.format_energy(energy_wh), "quantity") == energy_wh


@given(st.integers(1, FUND_MAX))
def test_every_amount_survives_the_round_trip(amount: int) -> None:
    assert decimals.parse_money(decimals.format_money(amount), "amount") == amount
    assert decimals.parse_energy_amount(decimals.format_energy(amount), "amount") == amount


@given(st.text("0123456789.-e ", max_size=9) | st.text(max_size=9))
def test_any_text_is_either_an_exact_value_or_refused_by_its_field(text: str) -> None:
    plain = re.fullmatch(r"([0-9]+)(?:\.([0-9]{1,6}))?", text, re.ASCII)
    value = int(plain[1]) * 1_000_000 + int((plain[2] or "").ljust(6, "0")) if plain else 0
    if 0 < value <= PRICE_MICRO_MAX:
        assert decimals.parse_price(text, "price") == value
    else:
        with pytest.raises(Problem) as refusal:
            decimals.parse_price(text, "price")
        assert list(refusal.value.fields or ()) == ["price"]


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (decimals.parse_price, text)
        for text in (
            "",
            ".",
            "1.",
            ".5",
            "+1",
            "-1",
            " 1",
            "1 ",
            "1e3",
            "0x1",
            "1_000",
            "1,5",
            "NaN",
            "Infinity",
            "\u0661",
            "0",
        )
    ]
    + [(decimals.parse_price, "100000.000001"), (decimals.parse_price, "1.0000001"), (decimals.parse_energy, "1.0001")]
    + [(decimals.parse_energy, "1000000.001"), (decimals.parse_money, "1000000000.000001")],
)
def test_what_is_no_plain_decimal_in_range_is_refused(parse: Callable[[str, str], int], text: str) -> None:
    with pytest.raises(Problem, match="VALIDATION_FAILED"):
        parse(text, "value")


def test_prices_show_three_decimals_energy_three_money_two() -> None:
    assert decimals.format_price(3_500_000) == "3.500"
    assert decimals.format_price(3_500_001) == "3.500001"
    assert decimals.format_energy(12_250) == "12.250"
    assert decimals.format_money(1_000_000) == "1.00"
    assert decimals.format_money(-1_234_500) == "-1.2345"
    assert decimals.format_energy(-5) == "-0.005"


@given(st.integers(-(10**15), 10**15), st.integers(0, 9))
def test_every_value_of_an_oracle_survives_the_round_trip(value: int, decimals: int) -> None:
    assert decimals_of(value, decimals) == value


def decimals_of(value: int, places: int) -> int:
    return decimals.parse_scaled(decimals.format_scaled(value, places), "value", places, 10**15)


@pytest.mark.parametrize("text", ["", "-", "+1", "--1", "1e3", "1.", ".5", " 1", "0x1", "1.001", "10000000000000.01"])
def test_what_is_no_value_of_two_decimals_is_refused(text: str) -> None:
    with pytest.raises(Problem, match="VALIDATION_FAILED"):
        decimals.parse_scaled(text, "value", 2, 10**15)


def test_values_of_an_oracle_show_all_their_decimals() -> None:
    assert decimals.format_scaled(-5, 3) == "-0.005"
    assert decimals.format_scaled(4_500_000, 6) == "4.500000"
    assert decimals.format_scaled(7, 0) == "7"
    assert decimals.parse_scaled("-0.005", "value", 3, 10) == -5
