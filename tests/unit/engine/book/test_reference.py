"""The band's reference: spec before the first trade, then the volume-weighted average of the last hour with trades."""

from engine.book.reference import MINUTE_US, ReferencePrice
from tests.support.builders import START_US, market


def test_before_the_first_trade_it_is_the_specs() -> None:
    assert ReferencePrice(market(reference_price_micro=4_000_000)).price_micro == 4_000_000


def test_a_spec_that_names_none_gives_the_corridors_middle_on_the_tick() -> None:
    assert ReferencePrice(market(price_micro_min=1_000, price_micro_max=4_000)).price_micro == 2_000


def test_it_is_weighted_by_volume_and_rounded_down_to_the_tick() -> None:
    reference = ReferencePrice(market())

    reference.add(4_000_000, 1, 4_000, START_US)
    reference.add(5_000_000, 3, 15_000, START_US)
    assert reference.price_micro == 4_750_000
    reference.add(4_000_000, 3, 12_000, START_US)  # 31 / 7 = 4.428571...
    assert reference.price_micro == 4_428_000
    assert reference.last_price_micro == 4_000_000


def test_trades_fall_out_after_sixty_minutes() -> None:
    reference = ReferencePrice(market())
    reference.add(4_000_000, 1, 4_000, START_US)
    reference.add(6_000_000, 1, 6_000, START_US + 59 * MINUTE_US)
    assert reference.price_micro == 5_000_000

    reference.add(6_000_000, 1, 6_000, START_US + 60 * MINUTE_US)

    assert reference.price_micro == 6_000_000
    assert len(reference.minutes) == 2


def test_a_quiet_night_keeps_yesterdays_price() -> None:
    reference = ReferencePrice(market())
    reference.add(4_000_000, 1, 4_000, START_US)

    reference.set_spec(market(reference_price_micro=9_000_000))

    assert reference.price_micro == 4_000_000


def test_new_rules_before_the_first_trade_give_a_new_price() -> None:
    reference = ReferencePrice(market(reference_price_micro=4_000_000))

    reference.set_spec(market(reference_price_micro=9_000_000))

    assert reference.price_micro == 9_000_000
