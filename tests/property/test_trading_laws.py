"""Laws of who trades, when and at what price, each stated without the book's own machinery.

Seen to fail for: < for <= when crossing, the newest order of a level first, the dearest zone first, equal ask-
equivalents by price, link use uncounted (always, while unlimited, or once the path is gone), own orders that trade, a
taker at its own limit, less quantity losing its place, post-only orders that take (on arrival, amended), IOC and
market orders that rest, fill-or-kill that ignores capacity, overfilled makers, expired orders that stay, an end told
twice, the last price as reference.
"""

from collections import Counter
from fractions import Fraction

from hypothesis import given

from engine.book.order_book import OrderBook
from engine.market import Phase
from engine.messages import (
    EndReason,
    Entry,
    EpochOpened,
    Event,
    HaltEnded,
    OrderAccepted,
    OrderEnded,
    OrderKind,
    PhaseChanged,
    PlaceOrder,
    SelfTrade,
    Side,
    SpecChanged,
    TimeInForce,
    Traded,
)
from tests.property.histories import History, Told, histories, link_storms, volatile_storms
from tests.property.mirror import Heard, Mirror
from tests.support.naive_book import ask_equivalent, landed


@given(histories)
def test_nothing_that_could_trade_rests(history: History) -> None:
    """While the market is open, the best ask lands above the best bid wherever the link still carries something."""

    def check(book: OrderBook, entry: Entry, events: list[Event]) -> None:
        if book.phase is not Phase.OPEN:
            return
        for lane in book.lanes.values():
            resting = [o for o in book.orders.values() if o.level is not None]
            asks = [o.price_micro for o in resting if not o.is_buy and o.zone == lane.path.zone_from]
            bids = [o.price_micro for o in resting if o.is_buy and o.zone == lane.path.zone_to]
            if asks and bids and lane.left_wh:
                assert landed(min(asks), lane.path, book.spec.tick_micro) > max(bids), entry

    Told(*history, check)


@given(histories)
def test_a_taker_gets_the_best_price_then_the_oldest_order(history: History) -> None:
    told = Told(*history)
    mirror = Mirror(told.spec)
    used: Counter[tuple[str, str]] = Counter()
    for entry, event in told.told():
        if isinstance(event, EpochOpened):
            used.clear()
        if isinstance(event, Traded):
            if event.taker_order_id == entry.sequence:
                chosen = mirror.open[event.maker_order_id]
                for other in _makers_for(mirror, event, used):
                    assert _rank(mirror, event, chosen) <= _rank(mirror, event, other), (entry, event, other)
            used[event.seller_zone, event.buyer_zone] += event.energy_wh
        mirror.hear(entry, event)


def _makers_for(mirror: Mirror, trade: Traded, used: Counter[tuple[str, str]]) -> list[Heard]:
    """All orders that the taker could trade with instead."""
    taker = mirror.open[trade.taker_order_id]
    makers = []
    for order_id, maker in mirror.open.items():
        if order_id == trade.taker_order_id or maker.placed.side is taker.placed.side:
            continue
        buyer, seller = (taker, maker) if taker.placed.side is Side.BUY else (maker, taker)
        for path in mirror.spec.paths:
            pair = (path.zone_from, path.zone_to)
            if pair != (seller.placed.zone, buyer.placed.zone):
                continue
            limited = path.zone_from != path.zone_to and path.capacity_wh >= 0
            if limited and path.capacity_wh - used[pair] < mirror.spec.lot_wh:
                continue
            if landed(seller.price, path, mirror.spec.tick_micro) <= buyer.price:
                makers.append(maker)
    return makers


def _rank(mirror: Mirror, trade: Traded, maker: Heard) -> tuple[int, int]:
    """Smaller is better for the taker: first the price on this path, then the age."""
    zones = (maker.placed.zone, mirror.open[trade.taker_order_id].placed.zone)
    if maker.placed.side is Side.SELL:
        (path,) = (p for p in mirror.spec.paths if (p.zone_from, p.zone_to) == zones)
        return landed(maker.price, path, mirror.spec.tick_micro), maker.priority
    (path,) = (p for p in mirror.spec.paths if (p.zone_to, p.zone_from) == zones)
    return -ask_equivalent(maker.price, path, mirror.spec.tick_micro), maker.priority


@given(histories)
def test_nobody_trades_outside_the_limit_and_the_makers_price_holds(history: History) -> None:
    told = Told(*history)
    mirror = Mirror(told.spec)
    for entry, event in told.told():
        if isinstance(event, Traded):
            maker, taker = mirror.open[event.maker_order_id], mirror.open[event.taker_order_id]
            buyer, seller = (taker, maker) if event.taker_side is Side.BUY else (maker, taker)
            assert event.buyer_price_micro <= buyer.price
            assert event.seller_price_micro >= seller.price
            assert event.price_micro == maker.price
            assert event.price_micro == (
                event.seller_price_micro if event.taker_side is Side.BUY else event.buyer_price_micro
            )
            (path,) = (
                p for p in mirror.spec.paths if (p.zone_from, p.zone_to) == (event.seller_zone, event.buyer_zone)
            )
            tick = mirror.spec.tick_micro
            assert landed(event.seller_price_micro, path, tick) <= event.buyer_price_micro
            assert landed(event.seller_price_micro + tick, path, tick) > event.buyer_price_micro
            assert maker.placed.participant_id != taker.placed.participant_id
            assert min(event.energy_wh, maker.remaining, taker.remaining) == event.energy_wh > 0
        mirror.hear(entry, event)


@given(histories)
def test_an_ended_order_never_trades_changes_or_ends_again(history: History) -> None:
    told = Told(*history)
    mirror = Mirror(told.spec)
    for entry, event in told.told():
        match event:
            case Traded():
                assert {event.maker_order_id, event.taker_order_id} <= mirror.open.keys()
            case OrderEnded():
                assert event.order_id in mirror.open
                assert event.remaining_wh == mirror.open[event.order_id].remaining
                assert (event.reason is EndReason.FILLED) <= (event.remaining_wh == 0)
            case OrderAccepted():
                assert event.order_id not in mirror.open
                assert event.order_id not in mirror.ended
        mirror.hear(entry, event)
        assert all(order.remaining >= 0 for order in mirror.open.values())
    assert set(told.book.orders) == set(mirror.open)
    if told.book.phase is Phase.CLOSED:
        assert not mirror.open


@given(histories)
def test_nothing_trades_at_or_after_its_expiry(history: History) -> None:
    told = Told(*history)
    mirror = Mirror(told.spec)
    for entry, event in told.told():
        if isinstance(event, Traded):
            assert mirror.open[event.maker_order_id].expires_us > entry.time_us
            assert mirror.open[event.taker_order_id].expires_us > entry.time_us
        if isinstance(event, OrderEnded) and event.reason is EndReason.EXPIRED:
            assert mirror.open[event.order_id].expires_us <= entry.time_us
        mirror.hear(entry, event)


@given(histories | link_storms)
def test_links_never_carry_more_than_their_capacity_in_an_epoch(history: History) -> None:
    told = Told(*history)
    mirror = Mirror(told.spec)
    used: Counter[tuple[int, str, str]] = Counter()
    for entry, event in told.told():
        if isinstance(event, Traded) and event.seller_zone != event.buyer_zone:
            epoch = entry.time_us // mirror.spec.epoch_us
            used[epoch, event.seller_zone, event.buyer_zone] += event.energy_wh
            capacity_wh = {(p.zone_from, p.zone_to): p.capacity_wh for p in mirror.spec.paths}[
                event.seller_zone, event.buyer_zone
            ]
            assert capacity_wh < 0 or used[epoch, event.seller_zone, event.buyer_zone] <= capacity_wh, entry
        mirror.hear(entry, event)


@given(histories | link_storms)
def test_fill_or_kill_trades_all_or_nothing(history: History) -> None:
    for entry, events in _placed(Told(*history)):
        if entry.command.time_in_force is TimeInForce.FOK:
            filled = sum(e.energy_wh for e in events if isinstance(e, Traded) and e.taker_order_id == entry.sequence)
            assert filled in (0, entry.command.quantity_wh), entry
            (reason,) = (e.reason for e in events if isinstance(e, OrderEnded) and e.order_id == entry.sequence)
            if not filled:
                assert reason in (EndReason.FOK_UNFILLABLE, EndReason.POST_ONLY_WOULD_TRADE)
                assert [e for e in events if isinstance(e, OrderEnded)][-1].order_id == entry.sequence
            if entry.command.self_trade is not SelfTrade.CANCEL_OLDEST:
                assert not any(isinstance(e, OrderEnded) and e.reason is EndReason.SELF_TRADE for e in events)


@given(histories)
def test_a_post_only_order_never_takes(history: History) -> None:
    told = Told(*history)
    mirror = Mirror(told.spec)
    for entry, event in told.told():
        if isinstance(event, Traded):
            assert not mirror.open[event.taker_order_id].placed.post_only, entry
        mirror.hear(entry, event)


@given(histories)
def test_market_ioc_and_fok_orders_never_rest(history: History) -> None:
    def check(book: OrderBook, entry: Entry, events: list[Event]) -> None:
        for order in book.orders.values():
            if order.level is None:  # a stop order that waits
                assert order.placed.kind in (OrderKind.STOP, OrderKind.STOP_LIMIT)
                continue
            assert order.placed.kind in (OrderKind.LIMIT, OrderKind.STOP_LIMIT)
            assert order.placed.time_in_force in (TimeInForce.GTC, TimeInForce.GTD)

    Told(*history, check)


@given(histories)
def test_the_reference_price_is_that_of_the_last_hour_with_trades(history: History) -> None:
    told = Told(*history)
    trades: list[tuple[int, Traded]] = []
    for entry, event in told.told():
        if isinstance(event, HaltEnded):  # and after a volatility halt it begins anew
            trades = []
        elif isinstance(event, Traded):
            trades.append((entry.time_us // 60_000_000, event))
    hour = [trade for minute, trade in trades if minute > trades[-1][0] - 60]

    if hour:
        average = Fraction(sum(t.price_micro * t.energy_wh for t in hour), sum(t.energy_wh for t in hour))
        assert 0 <= average - told.book.reference.price_micro < max(told.spec.tick_micro, told.book.spec.tick_micro)
        assert told.book.reference.last_price_micro == trades[-1][1].price_micro


@given(volatile_storms)
def test_no_order_trades_outside_the_band_it_came_into_and_nothing_trades_while_halted(history: History) -> None:
    phase, reference = Phase.OPEN, 0

    def check(book: OrderBook, entry: Entry, events: list[Event]) -> None:
        nonlocal phase, reference
        spec = book.spec
        moved = False  # since the entry before, by somebody else
        for event in events:
            if isinstance(event, PhaseChanged):
                phase = event.phase
            moved |= isinstance(event, HaltEnded | SpecChanged)
            if isinstance(event, Traded):
                assert phase is Phase.OPEN, entry
                moved |= event.taker_order_id != entry.sequence
                if spec.halt_seconds and spec.band_bps and not moved:
                    assert abs(event.price_micro - reference) <= Fraction(reference * spec.band_bps, 10_000), entry
        reference = book.reference.price_micro

    Told(*history, check)


def _placed(told: Told) -> list[tuple["_Placing", list[Event]]]:
    """The entries that placed an order, with what followed its acceptance."""
    found = []
    for entry, events in zip(told.entries, told.events, strict=True):
        for index, event in enumerate(events):
            if isinstance(event, OrderAccepted) and isinstance(entry.command, PlaceOrder):
                found.append((_Placing(entry.sequence, entry.command), events[index:]))
    return found


class _Placing:
    def __init__(self, sequence: int, command: PlaceOrder) -> None:
        self.sequence, self.command = sequence, command
