"""Stop orders through the market's shell: in the book before anybody's next command, in the tables as in the book, and
once whatever dies between the trade and the order that it triggers.

Seen to fail for: a shell that fires none, one that forgets those of the process before, a table that does not hear of
the trigger.
"""

from actors.audit import audit
from actors.clock import clock_us
from actors.recovery import recover
from engine.journal import seal
from engine.messages import CancelOrder, Entry, FireStop, OrderKind, PlaceOrder, Side
from engine.units import MICRO
from engine.views import GetOrder, OrderAnswer, OrderStatus
from persistence.audit import PostgresAudit
from persistence.history import PostgresHistory
from persistence.journal import PostgresJournal
from tests.support.exchange import CURRENCY, ZONE, Exchange, order
from tests.support.patience import eventually


def stop(who: int, side: Side, stop_price: int, limit: int = 0) -> PlaceOrder:
    kind = OrderKind.STOP_LIMIT if limit else OrderKind.STOP
    return PlaceOrder(who, side, limit * MICRO, 1_000, ZONE, kind=kind, stop_price_micro=stop_price * MICRO)


async def known(exchange: Exchange, who: int, order_id: int) -> OrderAnswer:
    answer = await exchange.links.ask(1, GetOrder(who, order_id))
    assert isinstance(answer, OrderAnswer), answer
    return answer


async def test_a_triggered_stop_enters_before_anybodys_next_command(exchange: Exchange) -> None:
    await exchange.open_market("M")
    exchange.start_market("M")
    ann, bob = await exchange.trader("ann"), await exchange.trader("bob")
    waiting = await exchange.placed("M", stop(ann, Side.SELL, 3))
    await exchange.placed("M", order(bob, Side.BUY, "3.000", "1.000"))
    await exchange.placed("M", order(bob, Side.BUY, "2.500", "1.000"))

    first, late = await exchange.links.submit_many(
        1, [order(ann, Side.SELL, "3.000", "1.000"), order(ann, Side.SELL, "2.500", "1.000")]
    )

    assert isinstance(first, OrderAnswer)
    assert isinstance(late, OrderAnswer)
    assert late.order.status is OrderStatus.OPEN  # the stop order was there before
    answer = await known(exchange, ann, waiting.order.order_id)
    assert (answer.order.status, answer.order.is_waiting) == (OrderStatus.FILLED, False)


async def test_the_tables_have_what_the_book_has(exchange: Exchange) -> None:
    await exchange.open_market("M")
    exchange.start_market("M")
    exchange.follow("M")
    ann, bob = await exchange.trader("ann"), await exchange.trader("bob")
    numbers = [
        (await exchange.placed("M", stop(ann, Side.SELL, price, limit))).order.order_id
        for price, limit in ((3, 5), (2, 2))
    ]
    await exchange.placed("M", order(bob, Side.BUY, "3.000", "1.000"))
    await exchange.followed("M")
    history = PostgresHistory(exchange.pool)
    before = [await history.order(1, number, ann) for number in numbers]

    await exchange.placed("M", order(ann, Side.SELL, "3.000", "1.000"))

    await exchange.followed("M")
    after = [await history.order(1, number, ann) for number in numbers]
    assert [(one.view.stop_price_micro, one.view.is_waiting) for one in before if one] == [
        (3 * MICRO, True),
        (2 * MICRO, True),
    ]
    assert [one.view.is_waiting for one in after if one] == [False, True]
    assert [one.view for one in after if one] == [(await known(exchange, ann, number)).order for number in numbers]
    journal = PostgresJournal(exchange.dsn)
    report = await audit(
        await exchange.catalogue.markets(), journal, exchange.snapshots, PostgresAudit(exchange.pool), CURRENCY, []
    )
    await journal.close()
    assert report.violations == []


async def test_what_was_triggered_enters_once_though_the_process_died_before(exchange: Exchange) -> None:
    """Its last row ends with the trade; whoever comes after it finds an order that nobody has fired."""
    await exchange.open_market("M")
    exchange.start_market("M")
    ann, bob = await exchange.trader("ann"), await exchange.trader("bob")
    waiting = await exchange.placed("M", stop(ann, Side.SELL, 3))
    await exchange.placed("M", order(bob, Side.BUY, "3.000", "2.000"))
    spare = await exchange.placed("M", order(ann, Side.SELL, "9.000", "1.000"))
    await exchange.submit("M", CancelOrder(ann, spare.order.order_id))
    await exchange.kill("M")
    journal = PostgresJournal(exchange.dsn)
    await journal.open(1)
    replica = await recover(1, journal, exchange.snapshots)
    book = replica.book
    entry = Entry(book.sequence + 1, clock_us(), order(ann, Side.SELL, "3.000", "1.000"))
    row = seal(1, [entry], [book.apply(entry)], replica.journal_hash)
    assert list(book.stops.triggered) == [waiting.order.order_id]
    await journal.append(row)
    await journal.close()

    for _ in range(2):
        exchange.start_market("M")
        answer = await eventually(
            lambda: known(exchange, ann, waiting.order.order_id), lambda a: not a.order.remaining_wh
        )
        assert answer.order.status is OrderStatus.FILLED
        await exchange.kill("M")

    rows = PostgresJournal(exchange.dsn)
    replica = await recover(1, rows, exchange.snapshots)
    fired: list[Entry] = []
    await recover(1, rows, exchange.snapshots, visit=lambda entry, _: fired.append(entry))
    await rows.close()
    assert sum(isinstance(entry.command, FireStop) for entry in fired) == 1
    assert replica.book.trades == 2
