"""Landed prices by hand, and every rule that a market's spec can break."""

from typing import Any

import pytest

from engine.market import MarketSpec, ask_equivalent, landed
from tests.support.builders import market, path, two_zones

SAME, ADJACENT, DISTANT = (500_000, 100), (1_000_000, 300), (1_700_000, 500)  # domain.md's defaults; distant: d = 2


@pytest.mark.parametrize(
    ("ask", "costs", "expected"),
    [
        (3_500_000, SAME, 4_035_000),  # 3.500 + 0.50 + 0.035
        (3_500_000, ADJACENT, 4_605_000),  # 3.500 + 1.00 + 0.105
        (3_500_000, DISTANT, 5_375_000),  # 3.500 + 1.70 + 0.175
        (3_333_000, SAME, 3_867_000),  # 3.333 + 0.50 + 0.03333, rounded up to 0.034
        (3_333_000, (0, 0), 3_333_000),
    ],
)
def test_a_landed_price_is_ask_wheeling_and_loss_up_to_the_tick(
    ask: int, costs: tuple[int, int], expected: int
) -> None:
    assert landed(ask, *costs, 1_000) == expected


@pytest.mark.parametrize(
    ("bid", "costs", "expected"),
    [
        (4_035_000, SAME, 3_500_000),
        (4_034_000, SAME, 3_499_000),  # lands at 3.499 + 0.50 + 0.035
        (3_867_000, SAME, 3_333_000),
        (500_000, SAME, 0),
        (400_000, SAME, -100_000),
    ],
)
def test_an_ask_equivalent_is_the_largest_ask_that_the_bid_can_pay(
    bid: int, costs: tuple[int, int], expected: int
) -> None:
    assert ask_equivalent(bid, *costs, 1_000) == expected


def test_with_losses_neighbouring_bids_leave_the_seller_the_same() -> None:
    assert ask_equivalent(5_000, 0, 2_500, 1_000) == ask_equivalent(6_000, 0, 2_500, 1_000) == 4_000


@pytest.mark.parametrize("spec", [market(), two_zones(), market(maker_fee_bps=-20, taker_fee_bps=20)])
def test_a_valid_spec_has_no_problems(spec: MarketSpec) -> None:
    assert spec.problems() == []


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"symbol": ""}, "symbol: is empty"),
        ({"zones": (), "paths": ()}, "zones: a market needs at least one"),
        ({"zones": ("A", "A")}, "zones: each may appear once"),
        ({"zones": ("A", ""), "paths": (path(), path("", ""))}, "zones: each needs a name"),
        ({"tick_micro": 0}, "tick: must be a multiple of 0.001"),
        ({"tick_micro": 1_500}, "tick: must be a multiple of 0.001"),
        ({"lot_wh": 0}, "lot: must be at least 1 Wh"),
        ({"quantity_wh_min": 0}, "min_quantity: must be above 0"),
        ({"quantity_wh_min": 10**9 + 1}, "min_quantity: must be above 0"),
        ({"price_micro_min": 0}, "price_min: must be above 0"),
        ({"price_micro_min": 2_000, "price_micro_max": 1_000}, "price_min: must be above 0, at most price_max"),
        ({"price_micro_max": 100_000_001_000}, "price_max: must be at most 100000"),
        ({"band_bps": -1}, "band_bps: must be 0 to 9999"),
        ({"band_bps": 10_000}, "band_bps: must be 0 to 9999"),
        ({"taker_fee_bps": 10_000}, "taker_fee_bps: must be 0 to 9999"),
        ({"auction_fee_bps": -1}, "auction_fee_bps: must be 0 to 9999"),
        ({"maker_fee_bps": -21, "taker_fee_bps": 20}, "maker_fee_bps: a rebate may not exceed the taker fee"),
        ({"epoch_seconds": 0}, "epoch_seconds: must be 1 to 86400"),
        ({"order_life_seconds_max": 0}, "max_order_life_seconds: must be 1 to"),
        ({"closed_orders_kept": -1}, "closed_orders_kept: must be 0 to"),
        ({"lot_wh": 2, "quantity_wh_min": 3}, "min_quantity: must be a multiple of lot"),
        ({"price_micro_min": 500_500}, "price_min: must be a multiple of tick"),
        ({"price_micro_max": 20_000_500}, "price_max: must be a multiple of tick"),
        ({"reference_price_micro": 600_500}, "reference_price: must be a multiple of tick"),
        ({"reference_price_micro": 21_000_000}, "reference_price: must lie in the corridor"),
        ({"paths": (path(), path())}, "costs: each pair of zones may appear once"),
        ({"paths": (path(), path("A", "B"))}, "costs A to B: a zone that this market does not have"),
        ({"paths": (path("A", "A", -1_000),)}, "costs A to A: wheeling must be 0 or more"),
        ({"paths": (path("A", "A", 1_500),)}, "costs A to A: wheeling must be 0 or more and a multiple of tick"),
        ({"paths": (path("A", "A", 0, 10_000),)}, "costs A to A: loss_bps must be 0 to 9999"),
        ({"paths": (path("A", "A", 0, -1),)}, "costs A to A: loss_bps must be 0 to 9999"),
        ({"paths": (path("A", "A", 0, 0, -2),)}, "costs A to A: energy_per_epoch must be 0 or more"),
        ({"paths": ()}, "costs A to A: every zone needs the cost of trading within itself"),
    ],
)
def test_a_broken_rule_is_named(changes: dict[str, Any], problem: str) -> None:
    (found,) = market(**changes).problems()

    assert found.startswith(problem)


def test_an_epoch_is_known_in_microseconds() -> None:
    assert market(epoch_seconds=900).epoch_us == 900_000_000
