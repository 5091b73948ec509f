"""The dynamic band's halt: what it stops, what becomes of the order that would have traded, when and where it ends.

Seen to fail for: a band that moves while one order trades, a market order that rests, an instant late, a reference
that jumps to the price itself, a halt that an admin's halt does not replace, one that a snapshot forgets.
"""

from engine.book.state import decode, encode
from engine.market import MarketSpec, Phase
from engine.messages import (
    EndReason,
    Entry,
    HaltEnded,
    OrderKind,
    PhaseChanged,
    RejectCode,
    SetPhase,
    SetSpec,
    Tick,
    TimeInForce,
    VolatilityHalted,
)
from engine.units import SECOND_US
from tests.support.builders import ALICE, BOB, CAROL, Desk, ends, funded_desk, linked, market, refusal, trades

P = 1_000_000
SPEC = market(band_bps=2_000, halt_seconds=60, reference_price_micro=4 * P)  # 3.200 to 4.800
MARKET = {"kind": OrderKind.MARKET, "time_in_force": TimeInForce.IOC}


def stretched(**changes: object) -> Desk:
    """BOB offers at 4.500 and, from when the reference was higher, at 5.100; a trade has brought it back to 4.000."""
    desk = funded_desk(market(band_bps=0))
    desk.sell(BOB, 4_500_000, 10)
    desk.sell(BOB, 5_100_000, 10)
    desk.sell(CAROL, 4 * P, 1_000)
    desk.buy(ALICE, 4 * P, 1_000)
    assert desk.book.reference.price_micro == 4 * P
    rules: MarketSpec = market(**{"band_bps": 2_000, "halt_seconds": 60, **changes})
    desk.do(SetSpec(rules))
    return desk


def test_a_trade_that_would_leave_the_band_is_not_made_and_halts_the_market() -> None:
    desk = stretched()

    told = desk.buy(ALICE, 0, 20, **MARKET)

    assert [trade.price_micro for trade in trades(told)] == [4_500_000]
    until_us = desk.time_us + 60 * SECOND_US
    assert VolatilityHalted(5_100_000, until_us) in told
    assert PhaseChanged(Phase.HALTED) in told
    assert ends(told)[-1] == (desk.last_id, EndReason.HALTED, 10)
    assert (desk.book.phase, desk.book.halt_until_us) == (Phase.HALTED, until_us)
    assert refusal(desk.buy(ALICE, 4 * P, 1)) is RejectCode.MARKET_NOT_OPEN
    assert desk.book.orders  # and can be cancelled
    assert ends(desk.cancel(BOB, next(iter(desk.book.orders))))


def test_the_halt_ends_at_its_instant_and_the_reference_has_moved_one_band() -> None:
    desk = stretched()
    desk.buy(ALICE, 0, 20, **MARKET)
    edge = 4_800_000  # of the band as it was when the order came

    desk.wait(60 - 0.000_001)
    assert desk.tick() == []
    desk.wait(0.000_001)

    assert desk.tick() == [HaltEnded(edge), PhaseChanged(Phase.OPEN)]
    assert desk.book.reference.price_micro == edge
    assert trades(desk.buy(ALICE, 0, 10, **MARKET))[0].price_micro == 5_100_000
    assert desk.book.reference.price_micro == 5_100_000  # of the trades since then alone


def test_a_price_many_bands_away_takes_as_many_halts() -> None:
    desk = funded_desk(SPEC)
    desk.do(SetSpec(market(band_bps=0)))
    desk.sell(BOB, 10 * P, 10)
    desk.do(SetSpec(SPEC))
    halts = 0
    while not trades(desk.buy(ALICE, 0, 1, **MARKET)):
        halts += 1
        desk.wait(60)
        desk.tick()

    assert halts == 5  # 4.800, 5.760, 6.912, 8.294, 9.952: above 10.000 with the band


def test_a_limit_order_that_halts_the_market_rests_and_trades_when_it_opens() -> None:
    """The ask is from a time when the band was lower."""
    desk = funded_desk(market(band_bps=0, reference_price_micro=4 * P))
    desk.sell(BOB, 3 * P, 10)
    desk.do(SetSpec(market(band_bps=2_000, halt_seconds=60, reference_price_micro=4 * P)))

    told = desk.buy(ALICE, 4 * P, 10)
    order_id = desk.last_id

    assert VolatilityHalted(3 * P, desk.book.halt_until_us) in told
    assert not trades(told)
    assert order_id in desk.book.orders
    desk.wait(60)
    (trade,) = trades(desk.tick())
    assert (trade.taker_order_id, trade.price_micro) == (order_id, 3 * P)


def test_fill_or_kill_counts_only_what_the_band_permits_and_halts_nothing() -> None:
    desk = stretched()

    told = desk.buy(ALICE, 0, 20, kind=OrderKind.MARKET, time_in_force=TimeInForce.FOK)

    assert ends(told) == [(desk.last_id, EndReason.FOK_UNFILLABLE, 20)]
    assert desk.book.phase is Phase.OPEN


def test_the_band_stands_still_while_one_order_trades() -> None:
    """Each fill moves the reference; were the band to follow, one large order could walk as far as it likes."""
    desk = funded_desk(market(band_bps=0, reference_price_micro=4 * P))
    for price in (4_700_000, 5_500_000):
        desk.sell(BOB, price, 10_000)
    desk.do(SetSpec(SPEC))

    told = desk.buy(ALICE, 0, 20_000, **MARKET)

    assert [trade.price_micro for trade in trades(told)] == [4_700_000]
    assert desk.book.reference.price_micro == 4_700_000  # whose band 5.500 would be in
    assert desk.book.phase is Phase.HALTED


def test_without_halt_seconds_and_without_a_band_nothing_halts() -> None:
    for changes in ({"halt_seconds": 0}, {"band_bps": 0}):
        desk = stretched(**changes)

        assert len(trades(desk.buy(ALICE, 0, 20, **MARKET))) == 2


def test_an_admins_phase_takes_the_place_of_the_halt() -> None:
    for phase in (Phase.HALTED, Phase.OPEN):
        desk = stretched()
        desk.buy(ALICE, 0, 20, **MARKET)

        told = desk.do(SetPhase(phase))

        assert isinstance(told[0], HaltEnded)
        assert told[1] == PhaseChanged(phase)
        desk.wait(3_600)
        desk.tick()
        assert desk.book.phase is phase


def test_a_halt_outlives_a_snapshot() -> None:
    desk = stretched()
    desk.buy(ALICE, 0, 20, **MARKET)

    book = decode(encode(desk.book))

    assert encode(book) == encode(desk.book)
    desk.wait(60)
    entry = Entry(book.sequence + 1, desk.time_us, Tick())
    assert book.apply(entry) == desk.tick()
    assert book.phase is Phase.OPEN
    assert encode(book) == encode(desk.book)


def test_who_arrives_again_after_somebody_halted_the_market_waits_on() -> None:
    """Two bids that a full link kept apart from an ask outside the band: the first to arrive halts, neither trades."""
    desk = funded_desk(linked(0, band_bps=0, reference_price_micro=4 * P))
    desk.sell(BOB, 2 * P, 10, zone="A")
    first, second = (desk.buy(who, 4 * P, 5, zone="B")[0].order_id for who in (ALICE, CAROL))  # type: ignore[union-attr]
    told = desk.do(SetSpec(linked(100, band_bps=2_000, halt_seconds=60, reference_price_micro=4 * P)))

    assert not trades(told)
    assert sum(isinstance(event, VolatilityHalted) for event in told) == 1
    assert desk.book.phase is Phase.HALTED
    assert {first, second} <= desk.book.blocked.keys()
    desk.wait(60)
    while not trades(told):
        told = desk.tick()
        desk.wait(60)
    assert [(trade.taker_order_id, trade.energy_wh) for trade in trades(told)] == [(first, 5), (second, 5)]
