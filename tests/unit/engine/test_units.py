"""The divisions of the exchange round as their names say."""

from engine.units import (
    ENERGY_WH_MAX,
    PRICE_MICRO_MAX,
    ceil_div,
    ceil_to_tick,
    epoch_start_us,
    floor_to_tick,
    value_micro,
)
from tests.support.builders import START_US


def test_three_watt_hours_at_five_thousand_micro_are_worth_fifteen_micro() -> None:
    assert value_micro(5_000, 3) == 15


def test_the_largest_order_is_worth_less_than_64_bits_hold() -> None:
    assert value_micro(PRICE_MICRO_MAX, ENERGY_WH_MAX) == 10**17 < 2**63


def test_ceil_div_rounds_towards_plus_infinity() -> None:
    assert [ceil_div(n, 4) for n in (-5, -4, 0, 1, 4, 5)] == [-1, -1, 0, 1, 1, 2]


def test_ceil_to_tick_keeps_what_lies_on_the_tick() -> None:
    assert [ceil_to_tick(n, 10, 1_000) for n in (0, 1, 10_000, 10_001)] == [0, 1_000, 1_000, 2_000]


def test_floor_to_tick_never_goes_up() -> None:
    assert [floor_to_tick(p, 1_000) for p in (-1, 0, 999, 1_000, 1_999)] == [-1_000, 0, 0, 1_000, 1_000]


def test_epochs_are_counted_from_1970() -> None:
    quarter_us = 900 * 1_000_000

    assert epoch_start_us(START_US, quarter_us) == START_US
    assert epoch_start_us(START_US + quarter_us - 1, quarter_us) == START_US
    assert epoch_start_us(START_US + quarter_us, quarter_us) == START_US + quarter_us
