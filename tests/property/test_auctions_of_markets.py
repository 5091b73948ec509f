"""Markets whose epochs end with an auction: what holds whatever people do, and whenever the clearing comes.

Seen to fail for: a command that clears another epoch than it names, a snapshot without the steps that are done, one
with what was worked out ahead, orders left apart after the clearing, an end deferred past its order's release.
"""

from collections import Counter
from unittest import mock

import pytest
from hypothesis import given

from engine.auction.certificate import problems
from engine.auction.epoch import outcome_of
from engine.book import call as calls
from engine.book.order_book import OrderBook
from engine.book.state import decode, encode
from engine.market import Phase
from engine.messages import (
    CURRENCY,
    AuctionTraded,
    ClearEpoch,
    Defunded,
    Entry,
    EpochCleared,
    EpochClosed,
    Event,
    Funded,
    OrderEnded,
    Side,
    Traded,
)
from tests.property.histories import History, Told, auction_storms
from tests.support.naive_auction import best_welfare, charge, naive_clear


@pytest.fixture(autouse=True, params=[1, 500], ids=["one_by_one", "all_at_once"])
def steps(request: pytest.FixtureRequest) -> object:
    with mock.patch.object(calls, "TRADES_AT_ONCE", request.param):
        yield


def held(book: OrderBook) -> Counter[str]:
    total = Counter[str]()
    for account in book.accounts.values():
        for asset in account.assets():
            total["energy" if asset else CURRENCY] += account.free(asset) + account.reserved(asset)
    return total


@given(auction_storms)
def test_no_money_and_no_energy_comes_or_goes_and_each_order_is_backed(history: History) -> None:
    funded = Counter[str]()

    def look(book: OrderBook, entry: Entry, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, (Funded, Defunded)):
                sign = 1 if isinstance(event, Funded) else -1
                funded["energy" if event.asset else CURRENCY] += sign * event.amount
        have = held(book)
        assert have[CURRENCY] + book.fees_micro + sum(book.grid_micro.values()) == funded[CURRENCY], entry
        assert have["energy"] == funded["energy"], entry
        for account in book.accounts.values():
            buys = [order for order in account.orders.values() if order.is_buy]
            assert account.cash_reserved == sum(order.reserved_micro for order in buys)
            sold = Counter[str]()
            for order in account.orders.values():
                if not order.is_buy:
                    sold[order.zone] += order.remaining_wh
            assert account.energy_reserved == dict(sold)

    Told(*history, look)


@given(auction_storms)
def test_a_book_that_was_put_away_at_any_moment_goes_on_as_if_it_had_not_been(history: History) -> None:
    kept: list[OrderBook] = []

    def look(book: OrderBook, entry: Entry, events: list[Event]) -> None:
        if kept:
            twin = kept.pop()
            assert twin.apply(entry) == events
            assert encode(twin) == encode(book)
        if book.call is not None and book.sequence % 2:
            book.foresee(book.call.clear()) if book.call.outcome is None else None
        kept.append(decode(encode(book)))

    Told(*history, look)


@given(auction_storms)
def test_every_clearing_is_that_of_the_orders_at_the_epochs_end(history: History) -> None:
    at_close: list[dict[int, tuple[int, int]]] = []
    traded = Counter[int]()
    last_epoch = 0

    def look(book: OrderBook, entry: Entry, events: list[Event]) -> None:
        nonlocal last_epoch
        for event in events:
            match event:
                case EpochClosed():
                    assert event.start_us > last_epoch  # one after the other, each once
                    last_epoch = event.start_us
                    if event.orders:
                        assert book.call is not None
                        at_close.append(
                            {o.order_id: (o.remaining_wh, o.price_micro) for o in book.call.orders.values()}
                        )
                        traded.clear()
                case AuctionTraded():
                    assert event.epoch_start_us == last_epoch
                    traded[event.maker_order_id] += event.energy_wh
                    traded[event.taker_order_id] += event.energy_wh
                case EpochCleared() if event.orders:
                    assert book.certificate is not None
                    _check_clearing(book, event, at_close.pop(), traded)
                case EpochCleared():
                    assert event == EpochCleared(event.start_us)

    Told(*history, look)


def _check_clearing(
    book: OrderBook, cleared: EpochCleared, orders: dict[int, tuple[int, int]], traded: Counter[int]
) -> None:
    published = book.certificate
    assert published is not None
    assert list(problems(published)) == []
    assert {o.order_id: (o.quantity_wh, o.price_micro) for o in published.orders} == orders
    assert published.orders_hash == cleared.orders_hash
    fills = (published.zone or published.network).fills  # type: ignore[union-attr]
    assert {fill.order_id: fill.energy_wh for fill in fills} == dict(traded)
    assert 0 <= cleared.welfare_micro <= cleared.welfare_max_micro
    if published.zone is not None:
        naive = naive_clear(published.orders, published.rules)
        if naive is None:
            assert cleared.volume_wh == 0
        elif published.zone.self_trade is None:
            assert [(one.seller_price_micro, one.sold_wh) for one in cleared.zones] == [(naive.price, naive.volume)]
            assert traded == Counter(naive.fills)


@given(auction_storms)
def test_no_clearing_leaves_more_welfare_than_rounding_to_be_had(history: History) -> None:
    """HiGHS, an independent opinion in floats, finds the best flow of the same orders with the same charges."""

    def look(book: OrderBook, entry: Entry, events: list[Event]) -> None:
        for cleared in (event for event in events if isinstance(event, EpochCleared) and event.volume_wh):
            published = book.certificate
            assert published is not None
            rules, zones = published.rules, [zone.zone for zone in cleared.zones]
            sellers = {zone: prices[1] for zone, prices in outcome_of(published, 0).prices.items()}
            fixed = {(c.zone_from, c.zone_to): c.charge_micro for c in getattr(published.network, "fixed_charges", ())}
            charges = {
                path: fixed.get((path.zone_from, path.zone_to), charge(path, sellers[path.zone_from], rules))
                for path in rules.paths
            }
            best, volume = best_welfare(published.orders, zones, rules, charges)
            lost = best - 1_000 * cleared.welfare_max_micro
            assert -1e-3 <= lost <= rules.tick_micro * volume * (len(zones) == 1) + 1e-3, (cleared, best)

    Told(*history, look)


@given(auction_storms)
def test_trades_keep_to_limits_fees_to_rates_and_open_markets_are_not_crossed(history: History) -> None:
    def look(book: OrderBook, entry: Entry, events: list[Event]) -> None:
        known = book.orders | book.closed
        for event in events:
            if isinstance(event, Traded):
                assert isinstance(event, AuctionTraded) == isinstance(entry.command, ClearEpoch) or (
                    book.phase is Phase.OPEN  # what a clearing leaves trades again
                )
            if not isinstance(event, AuctionTraded):
                continue
            maker, taker = known.get(event.maker_order_id), known.get(event.taker_order_id)
            if maker is None or taker is None:
                continue
            assert maker.priority < taker.priority
            assert maker.account is not taker.account
            buyer, seller = (taker, maker) if event.taker_side is Side.BUY else (maker, taker)
            assert event.buyer_price_micro <= buyer.price_micro
            assert event.seller_price_micro >= seller.price_micro
            for order, fee, value in (
                (buyer, event.buyer_fee_micro, event.buyer_value_micro),
                (seller, event.seller_fee_micro, event.seller_value_micro),
            ):
                assert abs(fee * 10_000 - order.fees.auction_bps * value) < 10_000
        if book.phase is Phase.OPEN:
            for order in book.orders.values():
                best = book._best_at(order, order.price_micro)
                assert best is None or best[1].account is order.account, (order.order_id, entry)

    Told(*history, look)


@given(auction_storms)
def test_an_order_ends_once_and_trades_at_most_its_quantity(history: History) -> None:
    ended = Counter[int]()

    def look(book: OrderBook, entry: Entry, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, OrderEnded):
                ended[event.order_id] += 1
                assert ended[event.order_id] == 1
            elif isinstance(event, Traded):
                assert not ended[event.maker_order_id]
                assert not ended[event.taker_order_id]

    Told(*history, look)
