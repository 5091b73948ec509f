"""What continuous trading came to beside the best that its orders allowed: worked out by hand, then at random.

Seen to fail for: an order of the epoch before with all that it ever was, one that was cancelled left out, stops that
wait counted as offers, an epoch that was watched from its middle.
"""

import random

import pytest

from engine.analytics.welfare import Offers, Welfare
from engine.market import Mechanism
from engine.messages import OrderKind, Side
from engine.units import SECOND_US
from tests.support.builders import ALICE, BOB, CAROL, KWH, START_US, A, Desk, funded_desk, market, path

EPOCH_US = 900 * SECOND_US


class Watched:
    def __init__(self, people: int = 3, **rules: object) -> None:
        self.desk: Desk = funded_desk(market(**rules), *range(1, people + 1))
        self.offers = Offers(self.desk.book)
        self.next_epoch()  # the one that it begins in is not watched from its beginning

    def buy(self, who: int, price: int, wh: int) -> int:
        self.desk.buy(who, price, wh)
        return self.seen()

    def sell(self, who: int, price: int, wh: int) -> int:
        self.desk.sell(who, price, wh)
        return self.seen()

    def seen(self) -> int:
        self.offers.add(self.desk.steps[-1])
        return self.desk.last_id

    def next_epoch(self) -> Welfare | None:
        self.desk.wait(900)
        self.desk.tick()
        self.seen()
        return self.offers.last


def micros(welfare: Welfare | None) -> tuple[int, int]:
    assert welfare is not None
    return welfare.reached_micro, welfare.best_micro


def test_who_came_too_late_is_what_was_missed() -> None:
    one = Watched()
    one.sell(ALICE, 3_000_000, 2 * KWH)
    one.buy(BOB, 3_500_000, 2 * KWH)  # worth 0.5 for each of 2 kWh
    one.buy(CAROL, 5_000_000, 2 * KWH)  # would have been worth 2.0 for each of them
    welfare = one.next_epoch()

    assert micros(welfare) == (1_000_000, 4_000_000)
    assert welfare is not None
    assert welfare.start_us == START_US + EPOCH_US


def test_an_order_that_was_taken_back_might_have_traded() -> None:
    one = Watched()
    bid = one.buy(BOB, 5_000_000, 1 * KWH)
    one.desk.cancel(BOB, bid)
    one.seen()
    one.sell(ALICE, 3_000_000, 1 * KWH)

    assert micros(one.next_epoch()) == (0, 2_000_000)


def test_an_epoch_has_what_is_left_of_an_order_when_it_begins() -> None:
    one = Watched()
    one.sell(ALICE, 3_000_000, 3 * KWH)
    one.buy(BOB, 4_000_000, 2 * KWH)
    assert micros(one.next_epoch()) == (2_000_000, 2_000_000)

    one.buy(CAROL, 4_000_000, 5 * KWH)  # gets the last one

    assert micros(one.next_epoch()) == (1_000_000, 1_000_000)


def test_a_stop_that_waits_is_no_offer() -> None:
    one = Watched()
    one.sell(ALICE, 3_000_000, 1 * KWH)
    one.desk.buy(BOB, 6_000_000, 1 * KWH, kind=OrderKind.STOP_LIMIT, stop_price_micro=5_000_000)
    one.seen()

    assert micros(one.next_epoch()) == (0, 0)


def test_the_grids_charges_are_nobodys_gain() -> None:
    one = Watched(paths=(path(A, A, 500_000, 0),))
    one.sell(ALICE, 3_000_000, 1 * KWH)
    one.buy(BOB, 4_000_000, 1 * KWH)

    assert micros(one.next_epoch()) == (500_000, 500_000)


def test_what_is_not_known_is_not_said() -> None:
    desk = funded_desk(market())
    offers = Offers(desk.book)
    desk.sell(ALICE, 3_000_000, 1 * KWH)
    offers.add(desk.steps[-1])
    desk.wait(900)
    desk.tick()
    offers.add(desk.steps[-1])
    assert offers.last is None  # it began while nobody watched

    empty = Watched()
    assert empty.next_epoch() is None
    auctions = Watched(mechanism=Mechanism.CALL_AUCTION)
    auctions.sell(ALICE, 3_000_000, 1 * KWH)
    assert auctions.next_epoch() is None


def test_the_best_of_too_many_orders_is_not_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.analytics.welfare.ORDERS_MAX", 2)
    one = Watched()
    for _ in range(2):
        one.sell(ALICE, 3_000_000, 1 * KWH)
    assert one.next_epoch() is not None
    one.sell(ALICE, 3_000_000, 1 * KWH)
    assert one.next_epoch() is None  # two were there, and one came
    one.desk.cancel(ALICE, one.desk.last_id)
    assert one.next_epoch() is None  # three were there when it began


def best_of(prices: dict[Side, list[int]]) -> int:
    """Half kilowatt-hours, the dearest bid with the cheapest ask, as long as that is worth something."""
    bids, asks = sorted(prices[Side.BUY], reverse=True), sorted(prices[Side.SELL])
    return sum((bid - ask) // 2 for bid, ask in zip(bids, asks, strict=False) if bid > ask)


@pytest.mark.parametrize("seed", range(30))
def test_trades_are_never_worth_more_than_the_best(seed: int) -> None:
    """Without charges that follow prices, the auction's result is the most that any pairing can be worth."""
    chance, one = random.Random(seed), Watched(60)
    wanted: dict[Side, list[int]] = {Side.BUY: [], Side.SELL: []}
    for number in range(60):
        side = chance.choice((Side.BUY, Side.SELL))
        price, energy_wh = chance.randrange(20, 60) * 100_000, chance.randrange(1, 9) * 500
        wanted[side] += [price] * (energy_wh // 500)
        (one.buy if side is Side.BUY else one.sell)(number + 1, price, energy_wh)
    welfare = one.next_epoch()

    assert welfare is not None
    assert 0 < welfare.reached_micro <= welfare.best_micro
    assert welfare.best_micro == best_of(wanted)
