"""A lane carries whole lots up to its capacity, within an epoch."""

from engine.book.lanes import Lane, lanes_of
from engine.book.side import BookSide
from engine.market import MarketSpec
from engine.messages import Side
from tests.support.builders import linked, market, path


def lanes(spec: MarketSpec) -> dict[tuple[str, str], Lane]:
    return lanes_of(spec, {(side, zone): BookSide(side) for side in Side for zone in spec.zones})


def test_a_lane_joins_the_asks_of_one_zone_with_the_bids_of_another() -> None:
    spec = linked(10)
    sides = {(side, zone): BookSide(side) for side in Side for zone in spec.zones}

    lane = lanes_of(spec, sides)["A", "B"]

    assert lane.asks is sides[Side.SELL, "A"]
    assert lane.bids is sides[Side.BUY, "B"]


def test_what_is_left_is_in_whole_lots() -> None:
    lane = lanes(linked(25, lot_wh=10, quantity_wh_min=10))["A", "B"]

    assert lane.left_wh == 20
    lane.set_used(10)
    assert lane.left_wh == 10
    lane.set_used(20)
    assert lane.left_wh == 0


def test_a_capacity_that_was_lowered_below_its_use_leaves_nothing() -> None:
    lane = lanes(linked(10))["A", "B"]

    lane.set_used(11)

    assert lane.left_wh == 0


def test_within_a_zone_nothing_is_limited() -> None:
    lane = lanes(market(paths=(path("A", "A", capacity_wh=5),)))["A", "A"]

    lane.set_used(5)

    assert not lane.limited
    assert lane.left_wh > 10**15


def test_an_unlimited_link_counts_what_passes() -> None:
    lane = lanes(linked(-1))["A", "B"]

    lane.set_used(5)

    assert (lane.is_link, lane.limited, lane.used_wh) == (True, False, 5)
    assert lane.left_wh > 10**15
