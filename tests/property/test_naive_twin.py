"""The order book does what its naive twin does: every event, every balance, after every entry.

It found: post-only orders that took when an epoch opened, fill-or-kill stopped by an own order behind a full link,
links that forgot what had passed, NOT_FOUND before MARKET_NOT_OPEN.

Seen to fail for: < for <= when crossing on either side, time priority reversed among zones and within a level, equal
ask-equivalents by price, orders not let through by the next epoch, by new rules or after a halt, link use not reset,
a market or IOC order that rests, an amended order that keeps its place, a client_order_id that is free once the order
has ended, fill-or-kill that ignores capacity or own orders, expiry an instant late.
"""

from hypothesis import given, settings

from engine.book.order_book import OrderBook
from engine.messages import Entry, Event, Refused
from tests.property.histories import ASSETS, EXAMPLES, PARTICIPANTS, History, Told, histories, link_storms
from tests.support.naive_book import NaiveBook


def without_wording(events: list[Event]) -> list[Event]:
    return [Refused(event.code, "") if isinstance(event, Refused) else event for event in events]


@settings(max_examples=4 * EXAMPLES)  # the law that finds most
@given(histories | link_storms)
def test_the_book_does_what_its_naive_twin_does(history: History) -> None:
    spec, steps = history
    twin = NaiveBook(spec)

    def compare(book: OrderBook, entry: Entry, events: list[Event]) -> None:
        assert without_wording(events) == twin.apply(entry), entry
        for participant in PARTICIPANTS:
            account = book.accounts.get(participant)
            for asset in ASSETS:
                free, reserved = (account.free(asset), account.reserved(asset)) if account else (0, 0)
                assert (free, reserved) == (twin.free(participant, asset), twin.reserved(participant, asset)), entry
                assert free >= 0
                assert reserved >= 0
        assert book.fees_micro == twin.fees
        assert {zone: sum_ for zone, sum_ in book.grid_micro.items() if sum_} == {
            z: s for z, s in twin.grid.items() if s
        }
        assert book.reference.price_micro == twin.reference
        assert list(book.orders) == [order.order_id for order in twin.open]

    Told(spec, steps, compare)
