"""What leaves the book agrees with the book: levels by feed and by query, orders, answers.

Seen to fail for: a level's total not lowered by a cancel, a fill that touches no level, a zone's view at makers'
prices, answers without the maker's fills, other people's orders shown, a page that skips an order.
"""

from collections import Counter, defaultdict

from hypothesis import given
from hypothesis import strategies as st

from engine.book.answers import (
    DEPTH_MAX,
    answer,
    book_view,
    changed_orders,
    level_changes,
    order_view,
    reply,
    trade_views,
    updates,
)
from engine.book.order_book import OrderBook
from engine.book.side import Order
from engine.market import MarketSpec
from engine.messages import (
    AmendOrder,
    CancelOrder,
    Entry,
    Event,
    OrderRepeated,
    PlaceOrder,
    Refused,
    RejectCode,
    Side,
    Traded,
)
from engine.views import (
    BookView,
    GetBook,
    GetOrder,
    Level,
    ListOpenOrders,
    OrderAnswer,
    Orders,
    OrderStatus,
    OrderView,
    Refusal,
)
from tests.property.histories import PARTICIPANTS, History, Told, histories
from tests.support.naive_book import ask_equivalent, landed


@given(histories)
def test_level_changes_keep_a_replica_of_the_levels(history: History) -> None:
    replica: dict[Side, dict[int, Level]] = {Side.BUY: {}, Side.SELL: {}}

    def check(book: OrderBook, entry: Entry, events: list[Event]) -> None:
        for change in level_changes(book):
            if change.quantity_wh:
                replica[change.side][change.price_micro] = Level(change.price_micro, change.quantity_wh, change.orders)
            else:
                replica[change.side].pop(change.price_micro, None)
        view = book_view(book, DEPTH_MAX, "")
        assert view.sequence == entry.sequence
        assert list(view.bids) == [level for _, level in sorted(replica[Side.BUY].items(), reverse=True)], entry
        assert list(view.asks) == [level for _, level in sorted(replica[Side.SELL].items())], entry
        assert level_changes(book) == ()

    Told(*history, check)


@given(histories, st.sampled_from(("", "A", "B")), st.integers(1, 3))
def test_a_book_view_adds_up_the_open_orders(history: History, zone: str, depth: int) -> None:
    book = Told(*history).book
    sums: dict[Side, defaultdict[int, list[int]]] = {side: defaultdict(lambda: [0, 0]) for side in Side}
    for order in book.orders.values():
        price = _seen_from(zone, order, book.spec) if zone else order.price_micro
        if price > 0:
            sums[order.placed.side][price][0] += order.remaining_wh
            sums[order.placed.side][price][1] += 1

    view = reply(book, GetBook(depth, zone))

    bids = [Level(price, *total) for price, total in sorted(sums[Side.BUY].items(), reverse=True)]
    asks = [Level(price, *total) for price, total in sorted(sums[Side.SELL].items())]
    assert view == BookView(book.sequence, tuple(bids[:depth]), tuple(asks[:depth]))


def _seen_from(zone: str, order: Order, spec: MarketSpec) -> int:
    """What the order's price means to somebody in this zone; 0 if no path leads there."""
    for path in spec.paths:
        if order.placed.side is Side.SELL and (path.zone_from, path.zone_to) == (order.zone, zone):
            return landed(order.price_micro, path, spec.tick_micro)
        if order.placed.side is Side.BUY and (path.zone_from, path.zone_to) == (zone, order.zone):
            return ask_equivalent(order.price_micro, path, spec.tick_micro)
    return 0


@given(histories)
def test_answers_and_updates_show_the_orders_as_they_are(history: History) -> None:
    def check(book: OrderBook, entry: Entry, events: list[Event]) -> None:
        told = answer(book, entry.command, events)
        refused = [event for event in events if isinstance(event, Refused)]
        assert isinstance(told, Refusal) == bool(refused)
        if isinstance(entry.command, PlaceOrder | AmendOrder | CancelOrder) and not refused:
            assert isinstance(told, OrderAnswer)
            assert told.repeated == any(isinstance(event, OrderRepeated) for event in events)
            own = GetOrder(entry.command.participant_id, told.order.order_id)
            assert reply(book, own) == OrderAnswer(told.order)
            assert reply(book, GetOrder(99, told.order.order_id)) == Refusal(RejectCode.NOT_FOUND, "no such order")
            assert told.order.filled_wh + told.order.remaining_wh == told.order.quantity_wh
        heard = {update.order.order_id: update for update in updates(book, events, frozenset(PARTICIPANTS))}
        assert list(heard) == changed_orders(events)
        sold: Counter[int] = Counter()
        for event in events:
            if isinstance(event, Traded):
                sold[event.maker_order_id] += event.energy_wh
                sold[event.taker_order_id] += event.energy_wh
        assert {i: sum(fill.quantity_wh for fill in u.fills) for i, u in heard.items() if u.fills} == sold
        assert [view.number for view in trade_views(book, events)] == [
            e.number for e in events if isinstance(e, Traded)
        ]

    Told(*history, check)


@given(histories, st.integers(1, 4))
def test_open_orders_can_be_listed_page_by_page(history: History, limit: int) -> None:
    book = Told(*history).book
    for participant_id in PARTICIPANTS:
        listed: list[OrderView] = []
        after = 0
        while True:
            page = reply(book, ListOpenOrders(participant_id, limit, after))
            assert isinstance(page, Orders)
            assert len(page.items) <= limit
            if not page.items:
                break
            listed += page.items
            after = page.items[-1].order_id
        assert listed == [order_view(o) for o in book.orders.values() if o.placed.participant_id == participant_id]
        assert all(view.status in (OrderStatus.OPEN, OrderStatus.PARTIALLY_FILLED) for view in listed)
