"""How long somebody quoted: the border of spread and size, the split by epochs, orders that come and go.

Seen to fail for: a spread of the bid instead of the middle, sizes added up over orders, an epoch that gets the time of
the one before, time that is counted twice, stops that wait taken for quotes.
"""

from engine.analytics.presence import Obligation, Presence, PresenceChange, presence_bps, rebate_micro
from engine.messages import OrderKind, Side
from engine.units import SECOND_US
from tests.support.builders import ALICE, BOB, START_US, Desk, funded_desk, market, order

P = 1_000_000
EPOCH_US = 900 * SECOND_US


class Watched:
    """ALICE is to quote 1 kWh on each side, 10 % apart."""

    def __init__(self) -> None:
        self.desk: Desk = funded_desk(market())
        self.presence = Presence(self.desk.book)
        self.oblige()

    def oblige(self) -> None:
        self.presence.oblige([Obligation(ALICE, 1_000, 1_000)])

    def seen(self) -> None:
        self.presence.add(self.desk.steps[-1])

    def bid(self, price: int, wh: int = 1_000, who: int = ALICE) -> int:
        self.desk.buy(who, price, wh)
        self.seen()
        return self.desk.last_id

    def ask(self, price: int, wh: int = 1_000) -> int:
        self.desk.sell(ALICE, price, wh)
        self.seen()
        return self.desk.last_id

    def cancel(self, number: int) -> None:
        self.desk.cancel(ALICE, number)
        self.seen()

    def pass_seconds(self, seconds: int) -> None:
        self.desk.wait(seconds)
        self.desk.tick()
        self.seen()

    def taken(self) -> list[tuple[int, int]]:
        """(epoch from the first one, seconds) since the last time."""
        return [((c.epoch_start_us - START_US) // EPOCH_US, c.quoted_us // SECOND_US) for c in self.presence.take()]


def test_time_counts_from_the_second_quote_to_the_end_of_either() -> None:
    one = Watched()
    bid = one.bid(3_800_000)
    one.pass_seconds(10)
    one.ask(4_200_000)  # 0.4 of 4.0: exactly 10 %
    one.pass_seconds(20)
    one.cancel(bid)
    one.pass_seconds(40)

    assert one.taken() == [(0, 20)]
    assert one.taken() == []


def test_what_is_too_wide_too_small_or_anothers_is_no_quote() -> None:
    for bid, ask in (((3_799_000, 1_000), (4_200_000, 1_000)), ((3_900_000, 999), (4_000_000, 1_000))):
        one = Watched()
        one.bid(*bid)
        one.ask(*ask)
        one.pass_seconds(10)
        assert one.taken() == []
    one = Watched()
    for _ in range(2):
        one.bid(3_900_000, 500)  # together enough, and none of them alone
    one.bid(3_900_000, who=BOB)
    one.ask(4_000_000)
    one.pass_seconds(10)
    assert one.taken() == []


def test_a_stop_that_waits_is_no_quote() -> None:
    one = Watched()
    one.ask(4_000_000)
    one.desk.do(order(Side.BUY, ALICE, 3_900_000, 1_000, kind=OrderKind.STOP_LIMIT, stop_price_micro=5 * P))
    one.seen()
    one.pass_seconds(10)

    assert one.taken() == []


def test_a_fill_that_leaves_too_little_ends_the_quote() -> None:
    one = Watched()
    one.bid(3_900_000)
    one.ask(4_000_000, 1_500)
    one.pass_seconds(5)
    one.desk.buy(BOB, 4_000_000, 501)
    one.seen()
    one.pass_seconds(50)

    assert one.taken() == [(0, 5)]


def test_each_epoch_gets_its_own_time_and_nothing_is_counted_twice() -> None:
    one = Watched()
    one.pass_seconds(800)
    one.bid(3_900_000)
    one.ask(4_000_000)
    one.pass_seconds(50)
    assert one.taken() == [(0, 50)]
    one.oblige()  # as the follower does from time to time
    one.desk.wait(1_000)
    one.desk.tick()
    one.seen()

    assert one.taken() == [(0, 50), (1, 900), (2, 50)]


def test_shares_and_rebates_are_rounded_down_and_bounded() -> None:
    assert presence_bps(EPOCH_US, EPOCH_US) == 10_000
    assert presence_bps(EPOCH_US - 1, EPOCH_US) == 9_999
    assert rebate_micro(10_999, 500, 100) == 109
    assert rebate_micro(10_999, 50, 100) == 50
    assert rebate_micro(10_999, -3, 100) == 0
    assert PresenceChange(ALICE, 0).quoted_us == 0
