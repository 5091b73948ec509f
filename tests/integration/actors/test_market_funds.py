"""The market's funds: drawn from the ledger as far as they are missing, in order, and given back when they are free.

Seen to fail for: not reading outstanding draws at start, letting another kind of command overtake a parked one of the
same participant. Not for: offering funds for return while orders are open, which the engine refuses by itself.
"""

import asyncio

from engine.journal import JournalRow
from engine.messages import (
    CancelAll,
    CancelOrder,
    Command,
    Defund,
    Fund,
    RejectCode,
    Side,
)
from engine.records import AccountBalance, Draw, Want
from engine.units import MICRO
from engine.views import (
    Applied,
    Failed,
    OrderAnswer,
    OrderStatus,
    Refusal,
)
from persistence.journal import PostgresJournal
from persistence.ledger import PostgresLedger
from tests.support.exchange import CURRENCY, ZONE, Exchange, order
from tests.support.patience import eventually


async def test_a_draw_moves_exactly_what_is_missing(exchange: Exchange) -> None:
    await exchange.open_market("M", taker_fee_bps=10)
    exchange.start_market("M")
    exchange.follow("M")
    buyer = await exchange.trader("buyer", cash=10 * MICRO)

    await exchange.placed("M", order(buyer, Side.BUY, "3.500", "2.000"))
    await exchange.followed("M")

    assert await exchange.balance(buyer) == AccountBalance(CURRENCY, 2_993_000, 7_007_000, 7_007_000)


async def test_who_draws_again_and_again_is_given_more_at_once_and_gets_the_rest_back(exchange: Exchange) -> None:
    await exchange.open_market("M")
    exchange.start_market("M", idle_return_seconds=0.3)
    exchange.follow("M")
    buyer = await exchange.trader("buyer", cash=500 * MICRO)

    for _ in range(100):
        await exchange.placed("M", order(buyer, Side.BUY, "1.000"))

    draws = await exchange.ledger.draws_after(1, 0)
    assert [draw.amount for draw in draws] == [MICRO, MICRO, 64 * MICRO, 128 * MICRO]
    await exchange.submit("M", CancelAll(buyer))
    home = AccountBalance(CURRENCY, 500 * MICRO, 0, 0)
    await eventually(lambda: exchange.balance(buyer), lambda now: now == home)


async def test_an_order_beyond_the_main_account_is_refused_and_moves_nothing(exchange: Exchange) -> None:
    await exchange.open_market("M")
    exchange.start_market("M")
    buyer = await exchange.trader("buyer", cash=3 * MICRO, energy=0)

    no_money = await exchange.submit("M", order(buyer, Side.BUY, "3.500"))
    no_energy = await exchange.submit("M", order(buyer, Side.SELL, "3.500"))

    assert isinstance(no_money, Refusal)
    assert no_money.code is RejectCode.INSUFFICIENT_FUNDS
    assert isinstance(no_energy, Refusal)
    assert no_energy.code is RejectCode.INSUFFICIENT_ENERGY
    assert await exchange.balance(buyer) == AccountBalance(CURRENCY, 3 * MICRO, 0, 0)


async def test_parallel_orders_in_two_markets_never_spend_the_same_money_twice(exchange: Exchange) -> None:
    for symbol in ("M", "N"):
        await exchange.open_market(symbol)
        exchange.start_market(symbol)
    buyer = await exchange.trader("buyer", cash=35 * MICRO)
    await exchange.sequence("N")

    answers = await asyncio.gather(
        *(exchange.submit("MN"[number % 2], order(buyer, Side.BUY, "3.500")) for number in range(40))
    )

    accepted = [answer for answer in answers if isinstance(answer, OrderAnswer)]
    refused = [answer for answer in answers if isinstance(answer, Refusal)]
    assert len(accepted) == 10
    assert {one.code for one in refused} == {RejectCode.INSUFFICIENT_FUNDS}


async def test_commands_of_one_participant_keep_their_order_behind_a_draw(exchange: Exchange) -> None:
    await exchange.open_market("M")
    exchange.start_market("M")
    buyer = await exchange.trader("buyer")
    await exchange.sequence("M")

    answers = await exchange.links.submit_many(
        1, [*(order(buyer, Side.BUY, "3.500", client_order_id=f"c{n}") for n in range(5)), CancelAll(buyer)]
    )

    sequences = [answer.order.sequence for answer in answers[:5] if isinstance(answer, OrderAnswer)]
    assert sequences == sorted(sequences)
    assert answers[5] == Applied(answers[5].sequence, 5) if isinstance(answers[5], Applied) else False


async def test_free_funds_go_home_when_the_last_order_is_gone(exchange: Exchange) -> None:
    await exchange.open_market("M")
    exchange.start_market("M", idle_return_seconds=0.2)
    exchange.follow("M")
    buyer = await exchange.trader("buyer", cash=10 * MICRO)

    placed = await exchange.placed("M", order(buyer, Side.BUY, "3.500"))
    await exchange.submit("M", CancelOrder(buyer, placed.order.order_id))

    home = AccountBalance(CURRENCY, 10 * MICRO, 0, 0)
    await eventually(lambda: exchange.balance(buyer), lambda now: now == home)


async def test_funds_that_back_an_open_order_stay(exchange: Exchange) -> None:
    await exchange.open_market("M")
    exchange.start_market("M", idle_return_seconds=0.1)
    exchange.follow("M")
    buyer = await exchange.trader("buyer", cash=10 * MICRO)

    await exchange.placed("M", order(buyer, Side.BUY, "3.500"))
    await asyncio.sleep(0.5)
    await exchange.followed("M")

    assert await exchange.balance(buyer) == AccountBalance(CURRENCY, 6_500_000, 3_500_000, 3_500_000)


async def test_a_draw_whose_fund_was_never_journaled_is_taken_up_at_the_next_start(exchange: Exchange) -> None:
    await exchange.open_market("M")
    exchange.start_market("M")
    buyer = await exchange.trader("buyer", cash=10 * MICRO)
    await exchange.sequence("M")
    await exchange.kill("M")
    assert await exchange.ledger.draw(1, 1, [Want(buyer, CURRENCY, 4 * MICRO)]) == [4 * MICRO]

    exchange.start_market("M")
    exchange.follow("M")
    await exchange.placed("M", order(buyer, Side.BUY, "4.000"))
    await exchange.followed("M")

    assert await exchange.balance(buyer) == AccountBalance(CURRENCY, 6 * MICRO, 4 * MICRO, 4 * MICRO)


class ForgetfulLedger(PostgresLedger):
    """A real ledger whose draw is made and then reported as lost."""

    lose = 1

    async def draw(self, market_id: int, number_first: int, wants: list[Want]) -> list[int]:
        granted = await super().draw(market_id, number_first, wants)
        if self.lose:
            self.lose -= 1
            raise ConnectionError("planted: after the draw")
        return granted


async def test_a_draw_of_unknown_outcome_is_not_made_twice(exchange: Exchange) -> None:
    await exchange.open_market("M")
    exchange.start_market("M", draws=ForgetfulLedger(exchange.pool))
    exchange.follow("M")
    buyer = await exchange.trader("buyer", cash=10 * MICRO)

    answer = await exchange.placed("M", order(buyer, Side.BUY, "3.500"))
    await exchange.followed("M")

    assert answer.order.status is OrderStatus.OPEN
    assert await exchange.ledger.draws_after(1, 0) == [Draw(1, buyer, CURRENCY, 3_500_000)]
    assert await exchange.balance(buyer) == AccountBalance(CURRENCY, 6_500_000, 3_500_000, 3_500_000)


async def test_funds_cannot_be_made_over_the_wire(exchange: Exchange) -> None:
    await exchange.open_market("M")
    exchange.start_market("M")
    buyer = await exchange.trader("buyer")
    await exchange.sequence("M")

    answer = await exchange.submit("M", Fund(1, buyer, "", 10**9))

    assert isinstance(answer, Failed)
    assert await exchange.ledger.draws_after(1, 0) == []
    refused = await exchange.submit("M", order(buyer, Side.BUY, "3.500", "1000.000"))
    assert isinstance(refused, Refusal)


class SlowJournal(PostgresJournal):
    """A real journal that takes longer than the ledger does."""

    async def append(self, row: JournalRow) -> None:
        await asyncio.sleep(0.01)
        await super().append(row)


async def test_orders_sent_at_once_keep_their_order_and_get_their_funds_in_small_batches(exchange: Exchange) -> None:
    await exchange.open_market("M")
    # the ledger answers while some of what it let go on before is still left behind
    exchange.start_market("M", SlowJournal(exchange.dsn), batch_max=3)
    people = [await exchange.trader(f"trader {n}", cash=10_000 * MICRO) for n in range(4)]
    await exchange.sequence("M")

    answers = await asyncio.gather(
        *(
            exchange.links.submit_many(1, [order(person, Side.BUY, f"3.{n:03d}") for n in range(30)])
            for person in people
        )
    )

    for mine in answers:
        placed = [answer.order.order_id for answer in mine if isinstance(answer, OrderAnswer)]
        assert len(placed) == 30, [answer for answer in mine if not isinstance(answer, OrderAnswer)]
        assert placed == sorted(placed)


async def test_who_orders_again_and_again_draws_less_and_less_often(exchange: Exchange) -> None:
    await exchange.open_market("M")
    exchange.start_market("M")
    exchange.follow("M")
    buyer = await exchange.trader("buyer", cash=10_000 * MICRO)

    for n in range(300):
        await exchange.placed("M", order(buyer, Side.BUY, "3.000"))
        if n == 1:
            await exchange.followed("M")
            exact = await exchange.balance(buyer)
            assert exact.in_markets == exact.reserved

    draws = await exchange.ledger.draws_after(1, 0)
    assert 2 < len(draws) <= 6
    assert sum(draw.amount for draw in draws) >= 300 * 3 * MICRO


async def test_one_draw_covers_what_was_sent_at_once(exchange: Exchange) -> None:
    await exchange.open_market("M")
    exchange.start_market("M")
    exchange.follow("M")
    trader = await exchange.trader("trader", cash=1_000 * MICRO)
    await exchange.sequence("M")
    pair: list[Command] = [order(trader, Side.BUY, "3.000"), order(trader, Side.SELL, "9.000")]

    answers = await exchange.links.submit_many(1, pair * 20)

    assert [answer for answer in answers if not isinstance(answer, OrderAnswer)] == []
    assert len(await exchange.ledger.draws_after(1, 0)) <= 4  # money, energy, and one more of each at a batch's end
    await exchange.followed("M")
    money = await exchange.balance(trader)
    assert (money.in_markets, money.reserved) == (60 * MICRO, 60 * MICRO)


async def test_defund_on_request_gives_free_funds_back_at_once(exchange: Exchange) -> None:
    await exchange.open_market("M")
    exchange.start_market("M")
    exchange.follow("M")
    buyer = await exchange.trader("buyer", cash=10 * MICRO)
    first = await exchange.placed("M", order(buyer, Side.BUY, "3.500"))
    await exchange.placed("M", order(buyer, Side.BUY, "1.000"))
    await exchange.submit("M", CancelOrder(buyer, first.order.order_id))

    answer = await exchange.submit("M", Defund(buyer))
    await exchange.followed("M")

    assert isinstance(answer, Applied)
    assert await exchange.balance(buyer) == AccountBalance(CURRENCY, 9 * MICRO, MICRO, MICRO)
    assert await exchange.balance(buyer, f"energy:{ZONE}") == AccountBalance(f"energy:{ZONE}", 100_000, 0, 0)
