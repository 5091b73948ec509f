"""Recurring orders with a real market and real tables: one order per period, whatever asks how often and what dies.

Seen to fail for: a client_order_id without its period, a note that goes back to an earlier period, a refusal that is
not noted, a rule that its own note resurrects, one that goes on after its count, a suspended user's that goes on.
"""

import asyncio

from actors.clock import clock_us
from actors.recurring import RecurringOrders, order_of
from engine.messages import Side
from engine.records import NewRecurring, RecurringRecord
from engine.units import FOREVER_US, MICRO, SECOND_US
from engine.views import OrderStatus
from persistence.history import PostgresHistory
from persistence.people import PostgresPeople
from persistence.recurring import PostgresRecurring
from tests.support.exchange import Exchange

EVERY = 900


class Rule:
    """A rule of a buyer with money, made now; instants count from its first period."""

    def __init__(self, exchange: Exchange, kept: RecurringRecord) -> None:
        self.exchange, self.kept, self.store = exchange, kept, PostgresRecurring(exchange.pool)
        self.duty = RecurringOrders(self.store, exchange.links)

    async def at(self, seconds: int) -> int:
        return await self.duty.place_due(self.kept.first_us + seconds * SECOND_US)

    async def now(self) -> RecurringRecord:
        found = await self.store.one(self.kept.recurring_id, self.kept.user_id)
        assert found is not None
        return found

    async def client_ids(self) -> list[str]:
        await self.exchange.followed("M")
        statuses = tuple(OrderStatus)
        orders = await PostgresHistory(self.exchange.pool).orders(
            self.kept.user_id, None, statuses, 0, FOREVER_US, None, 100
        )
        return sorted(order.view.client_order_id for order in orders)


async def rule(exchange: Exchange, **changes: int) -> Rule:
    await exchange.open_market("M")
    exchange.start_market("M")
    exchange.follow("M")
    buyer = await exchange.trader("buyer")
    values = {"every_seconds": EVERY, "first_us": clock_us(), "ends_us": FOREVER_US, "count_max": 0, **changes}
    new = NewRecurring(buyer, 1, Side.BUY, 3 * MICRO, 1_000, **values)
    await exchange.known("M")
    return Rule(exchange, await PostgresRecurring(exchange.pool).add(new, clock_us()))


async def test_each_period_has_one_order_however_many_ask(exchange: Exchange) -> None:
    made = await rule(exchange)
    second = RecurringOrders(PostgresRecurring(exchange.pool), exchange.links)

    await asyncio.gather(made.at(0), second.place_due(made.kept.first_us), made.at(1))
    assert await made.at(899) == 0
    await made.at(900)
    await made.at(3 * 900 + 5)  # for the one in between nobody was there

    number = made.kept.recurring_id
    assert await made.client_ids() == [f"recurring:{number}:{period}" for period in (0, 1, 3)]
    assert (await made.now()).placed == 3
    assert await made.at(-1) == 0


async def test_an_order_whose_note_was_lost_is_the_same_order_when_asked_again(exchange: Exchange) -> None:
    made = await rule(exchange)
    (due,) = await made.store.due(made.kept.first_us, 0, 10)
    await exchange.placed("M", order_of(due))  # and the process dies before it notes it

    assert await made.at(5) == 1

    assert len(await made.client_ids()) == 1
    assert (await made.now()).placed == 1


async def test_a_rule_ends_with_its_count_or_its_time(exchange: Exchange) -> None:
    made = await rule(exchange, count_max=2)
    for period in range(4):
        await made.at(period * EVERY)
    assert ((await made.now()).placed, (await made.now()).active) == (2, False)

    other = await made.store.add(
        NewRecurring(made.kept.user_id, 1, Side.BUY, MICRO, 1, EVERY, made.kept.first_us, made.kept.first_us + 1, 0), 1
    )
    await made.at(1)
    ended = await made.store.one(other.recurring_id, made.kept.user_id)
    assert ended is not None
    assert (ended.active, ended.placed) == (False, 0)


async def test_a_refusal_is_told_and_the_next_period_is_tried_again(exchange: Exchange) -> None:
    made = await rule(exchange)
    await exchange.pool.execute("UPDATE recurring_orders SET price_micro = 999999000")

    await made.at(0)

    noted = await made.now()
    assert noted.outcome.startswith("PRICE_OUTSIDE_CORRIDOR")
    assert (noted.placed, noted.active) == (0, True)
    await exchange.pool.execute("UPDATE recurring_orders SET price_micro = 3000000")
    await made.at(900)
    assert ((await made.now()).placed, (await made.now()).outcome) == (1, "")


async def test_a_stopped_rule_and_one_of_a_suspended_user_place_nothing(exchange: Exchange) -> None:
    made = await rule(exchange)
    people = PostgresPeople(exchange.pool)
    await people.update(made.kept.user_id, status="suspended", now_us=1)
    assert await made.at(0) == 0
    await people.update(made.kept.user_id, status="active", now_us=1)
    (due,) = await made.store.due(made.kept.first_us, 0, 10)
    await made.store.stop(made.kept.recurring_id, made.kept.user_id)

    await made.store.done(due.recurring_id, due.period, "")  # of an order that was under way
    await made.at(900)

    assert not (await made.now()).active
    assert await made.client_ids() == []
