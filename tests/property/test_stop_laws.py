"""Laws of stop orders: triggered by a trade at their price or beyond, then and only then, once; unseen before.

Seen to fail for: > for >= at the stop price, a trigger by what the taker pays, a stop that rests before its trigger.
Not for a moved stop that waits at its old price, which unit tests see.
"""

from hypothesis import given

from engine.book.answers import book_view
from engine.book.order_book import OrderBook
from engine.messages import (
    Entry,
    Event,
    OrderAccepted,
    OrderEnded,
    OrderKind,
    PlaceOrder,
    Side,
    StopMoved,
    StopTriggered,
    Traded,
)
from tests.property.histories import History, Told, stop_storms


@given(stop_storms)
def test_whatever_a_trade_reaches_is_triggered_then_and_once_and_nothing_else(history: History) -> None:
    told = Told(*history)
    waiting: dict[int, tuple[Side, int]] = {}
    stops: set[int] = set()  # that were not triggered yet
    due: list[int] = []
    for entry, event in told.told():
        if not isinstance(event, StopTriggered):
            assert not due, (entry, due)
        match event:
            case OrderAccepted(order_id=order_id):
                placed = entry.command
                assert isinstance(placed, PlaceOrder)
                if placed.kind in (OrderKind.STOP, OrderKind.STOP_LIMIT):
                    waiting[order_id] = (placed.side, placed.stop_price_micro)
                    stops.add(order_id)
            case StopMoved(order_id=order_id):
                waiting[order_id] = (waiting[order_id][0], event.stop_price_micro)
            case Traded(price_micro=price):
                assert not {event.maker_order_id, event.taker_order_id} & stops, entry
                reached = {
                    n for n, (side, stop) in waiting.items() if (price <= stop if side is Side.SELL else price >= stop)
                }
                due = [n for n in waiting if n in reached]
            case StopTriggered(order_id=order_id):
                assert order_id in due, (entry, event)
                due.remove(order_id)
                del waiting[order_id]
                stops.remove(order_id)
            case OrderEnded(order_id=order_id):
                waiting.pop(order_id, None)
                stops.discard(order_id)


@given(stop_storms)
def test_the_book_shows_nothing_of_stops_that_wait(history: History) -> None:
    def check(book: OrderBook, entry: Entry, events: list[Event]) -> None:
        view = book_view(book, 1_000, "")
        resting = [o for o in book.orders.values() if not o.is_waiting and o.order_id not in book.stops.triggered]
        assert sum(level.orders for level in (*view.bids, *view.asks)) == len(resting), entry

    Told(*history, check)
