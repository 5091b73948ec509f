"""The market's shell: durable before it answers, exact about funds, and never guessing after a fault.

Seen to fail for: answering before the append, keeping the book after a failed append, not reading outstanding draws at
start, ignoring a repeated client_order_id, letting another kind of command overtake a parked one of the same
participant, telling the news of a commit before it, not applying during an append, not failing the second draft,
swallowing an engine's bug during an append. Not for: offering funds for return while orders are open, which the engine
refuses by itself.
"""

import asyncio
from typing import Any, NoReturn

import pytest

from actors.market import DIGESTED_AT_ONCE
from engine.journal import NOT_HASHED, JournalRow
from engine.market import Phase
from engine.messages import (
    AmendOrder,
    CancelAll,
    CancelOrder,
    Command,
    Defund,
    Fund,
    RejectCode,
    SetPhase,
    Side,
    Tick,
    TimeInForce,
)
from engine.records import AccountBalance, Draw, Want
from engine.units import MICRO, SECOND_US
from engine.views import (
    Applied,
    BookView,
    Failed,
    Fault,
    Feed,
    GetBook,
    GetOrder,
    ListOpenOrders,
    OrderAnswer,
    Orders,
    OrderStatus,
    Refusal,
)
from persistence.journal import PostgresJournal
from persistence.ledger import PostgresLedger
from tests.support.exchange import CURRENCY, ZONE, Exchange, eventually, order


class FaultyJournal(PostgresJournal):
    """A real journal whose appends fail on demand, before or after they became durable."""

    def __init__(self, dsn: str) -> None:
        super().__init__(dsn)
        self.fail_before = self.fail_after = 0
        self.hold: asyncio.Event | None = None
        self.appended: list[JournalRow] = []

    async def append(self, row: JournalRow) -> None:
        if self.hold is not None:
            await self.hold.wait()
        if self.fail_before:
            self.fail_before -= 1
            raise ConnectionError("planted: before the append")
        await super().append(row)
        self.appended.append(row)
        if self.fail_after:
            self.fail_after -= 1
            raise ConnectionError("planted: after the append")


async def balance(exchange: Exchange, participant_id: int, asset: str = CURRENCY) -> AccountBalance:
    found = {one.asset: one for one in await exchange.ledger.balances(participant_id)}
    return found.get(asset, AccountBalance(asset, 0, 0, 0))


async def test_an_answered_order_is_in_the_journal(exchange: Exchange) -> None:
    await exchange.open_market("M")
    exchange.start_market("M")
    buyer = await exchange.trader("buyer")

    answer = await exchange.placed("M", order(buyer, Side.BUY, "3.500"))

    rows = await PostgresJournal(exchange.dsn).rows(1, 0)
    assert answer.order.status is OrderStatus.OPEN
    assert rows[-1].last_sequence >= answer.order.sequence


async def test_no_answer_leaves_before_the_append_has_returned(exchange: Exchange) -> None:
    await exchange.open_market("M")
    journal = FaultyJournal(exchange.dsn)
    exchange.start_market("M", journal)
    buyer = await exchange.trader("buyer")
    await exchange.sequence("M")
    journal.hold = asyncio.Event()

    waiting = asyncio.create_task(exchange.submit("M", order(buyer, Side.BUY, "3.500")))
    await asyncio.sleep(0.2)
    assert not waiting.done()

    journal.hold.set()
    assert isinstance(await waiting, OrderAnswer)


async def test_what_arrives_during_an_append_is_applied_at_once_and_told_only_after_its_own(exchange: Exchange) -> None:
    await exchange.open_market("M")
    journal = FaultyJournal(exchange.dsn)
    market = exchange.start_market("M", journal)
    buyer = await exchange.trader("buyer")
    first = await exchange.placed("M", order(buyer, Side.BUY, "3.000", "10.000"))
    await exchange.placed("M", CancelOrder(buyer, first.order.order_id))  # funds that the next two need no draw for
    heard: list[Feed] = []
    exchange.links.watch(
        1, frozenset((buyer,)), True, lambda news: heard.append(news) if isinstance(news, Feed) else None
    )
    sequence = await exchange.sequence("M")
    rows = len(journal.appended)
    journal.hold = asyncio.Event()

    one = asyncio.create_task(exchange.submit("M", order(buyer, Side.BUY, "3.000")))
    await eventually(lambda: market.status()["sequence"], lambda applied: applied == sequence + 1)
    two = asyncio.create_task(exchange.submit("M", order(buyer, Side.BUY, "3.100")))
    await eventually(lambda: market.status()["sequence"], lambda applied: applied == sequence + 2)
    query = asyncio.create_task(exchange.links.ask(1, ListOpenOrders(buyer)))
    await asyncio.sleep(0.05)
    assert not any(task.done() for task in (one, two, query))
    assert not heard

    held, journal.hold = journal.hold, asyncio.Event()
    held.set()
    assert isinstance(await one, OrderAnswer)
    await eventually(lambda: len(heard))
    await asyncio.sleep(0.05)
    assert [(feed.sequence, len(feed.changes)) for feed in heard] == [(sequence + 1, 1)]
    assert not any(task.done() for task in (two, query))

    journal.hold.set()
    journal.hold = None
    assert isinstance(await two, OrderAnswer)
    open_orders = await query
    assert isinstance(open_orders, Orders)
    assert len(open_orders.items) == 2
    assert [(row.first_sequence, row.last_sequence) for row in journal.appended[rows:]] == [
        (sequence + 1, sequence + 1),
        (sequence + 2, sequence + 2),
    ]


async def test_a_failed_append_is_unknown_to_those_of_the_next_one_too(exchange: Exchange) -> None:
    await exchange.open_market("M")
    journal = FaultyJournal(exchange.dsn)
    market = exchange.start_market("M", journal)
    buyer = await exchange.trader("buyer")
    first = await exchange.placed("M", order(buyer, Side.BUY, "3.000", "10.000"))
    await exchange.placed("M", CancelOrder(buyer, first.order.order_id))
    sequence = await exchange.sequence("M")
    journal.hold, journal.fail_after = asyncio.Event(), 1

    one = asyncio.create_task(exchange.submit("M", order(buyer, Side.BUY, "3.000", client_order_id="one")))
    await eventually(lambda: market.status()["sequence"], lambda applied: applied == sequence + 1)
    two = asyncio.create_task(exchange.submit("M", order(buyer, Side.BUY, "3.100", client_order_id="two")))
    await eventually(lambda: market.status()["sequence"], lambda applied: applied == sequence + 2)
    journal.hold.set()
    journal.hold = None

    answers = await asyncio.wait_for(asyncio.gather(one, two), 5)  # the link itself gives up after ten seconds
    assert [isinstance(a, Failed) and a.fault for a in answers] == [Fault.OUTCOME_UNKNOWN, Fault.OUTCOME_UNKNOWN]
    repeats = [
        await exchange.placed("M", order(buyer, Side.BUY, price, client_order_id=name))
        for price, name in (("3.000", "one"), ("3.100", "two"))
    ]
    assert [answer.repeated for answer in repeats] == [True, False]


async def test_a_bug_of_the_engine_during_an_append_spares_what_was_written(exchange: Exchange) -> None:
    await exchange.open_market("M")
    journal = FaultyJournal(exchange.dsn)
    market = exchange.start_market("M", journal)
    buyer = await exchange.trader("buyer")
    first = await exchange.placed("M", order(buyer, Side.BUY, "3.000", "10.000"))
    await exchange.placed("M", CancelOrder(buyer, first.order.order_id))
    sequence = await exchange.sequence("M")
    journal.hold = asyncio.Event()

    one = asyncio.create_task(exchange.submit("M", order(buyer, Side.BUY, "3.000", client_order_id="one")))
    await eventually(lambda: market.status()["sequence"], lambda applied: applied == sequence + 1)
    book = market._book
    assert book is not None
    book.apply = raising  # type: ignore[method-assign, assignment]
    two = asyncio.create_task(exchange.submit("M", order(buyer, Side.BUY, "3.100", client_order_id="two")))
    await eventually(lambda: market._bug)
    journal.hold.set()
    journal.hold = None

    answer, failed = await asyncio.wait_for(asyncio.gather(one, two), 5)
    assert isinstance(answer, OrderAnswer)
    assert isinstance(failed, Failed)
    assert failed.fault is Fault.OUTCOME_UNKNOWN
    assert (await exchange.placed("M", order(buyer, Side.BUY, "3.000", client_order_id="one"))).repeated
    assert not (await exchange.placed("M", order(buyer, Side.BUY, "3.100", client_order_id="two"))).repeated


def raising(_: object) -> NoReturn:
    raise ArithmeticError("planted in the engine")


async def test_orders_trade_and_both_sides_hear_their_own_price(exchange: Exchange) -> None:
    await exchange.open_market("M", taker_fee_bps=10)
    exchange.start_market("M")
    seller, buyer = await exchange.trader("seller"), await exchange.trader("buyer")

    ask = await exchange.placed("M", order(seller, Side.SELL, "3.000", "2.000"))
    bid = await exchange.placed("M", order(buyer, Side.BUY, "3.500"))

    assert bid.order.status is OrderStatus.FILLED
    assert [(fill.price_micro, fill.quantity_wh, fill.fee_micro) for fill in bid.fills] == [(3_000_000, 1_000, 3_000)]
    shown = await exchange.links.ask(1, GetOrder(seller, ask.order.order_id))
    assert isinstance(shown, OrderAnswer)
    assert shown.order.filled_wh == 1_000


async def test_a_draw_moves_exactly_what_is_missing(exchange: Exchange) -> None:
    await exchange.open_market("M", taker_fee_bps=10)
    exchange.start_market("M")
    exchange.follow("M")
    buyer = await exchange.trader("buyer", cash=10 * MICRO)

    await exchange.placed("M", order(buyer, Side.BUY, "3.500", "2.000"))
    await exchange.followed("M")

    assert await balance(exchange, buyer) == AccountBalance(CURRENCY, 2_993_000, 7_007_000, 7_007_000)


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
    await eventually(lambda: balance(exchange, buyer), lambda now: now == home)


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
    assert await balance(exchange, buyer) == AccountBalance(CURRENCY, 3 * MICRO, 0, 0)


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
    await eventually(lambda: balance(exchange, buyer), lambda now: now == home)


async def test_funds_that_back_an_open_order_stay(exchange: Exchange) -> None:
    await exchange.open_market("M")
    exchange.start_market("M", idle_return_seconds=0.1)
    exchange.follow("M")
    buyer = await exchange.trader("buyer", cash=10 * MICRO)

    await exchange.placed("M", order(buyer, Side.BUY, "3.500"))
    await asyncio.sleep(0.5)
    await exchange.followed("M")

    assert await balance(exchange, buyer) == AccountBalance(CURRENCY, 6_500_000, 3_500_000, 3_500_000)


@pytest.mark.parametrize("when", ["fail_before", "fail_after"])
async def test_an_unknown_commit_is_said_and_repeating_executes_once(exchange: Exchange, when: str) -> None:
    await exchange.open_market("M")
    journal = FaultyJournal(exchange.dsn)
    exchange.start_market("M", journal)
    exchange.follow("M")
    buyer = await exchange.trader("buyer", cash=35 * MICRO)
    await exchange.placed("M", order(buyer, Side.BUY, "3.000", "2.000", client_order_id="before"))
    setattr(journal, when, 1)

    lost = order(buyer, Side.BUY, "3.500", client_order_id="lost")
    first = await exchange.submit("M", lost)
    second = await exchange.placed("M", lost)
    third = await exchange.placed("M", lost)

    assert isinstance(first, Failed)
    assert first.fault is Fault.OUTCOME_UNKNOWN
    assert second.repeated is (when == "fail_after")
    assert third.repeated
    assert third.order.order_id == second.order.order_id
    open_orders = await exchange.links.ask(1, ListOpenOrders(buyer))
    assert isinstance(open_orders, Orders)
    assert [one.client_order_id for one in open_orders.items] == ["before", "lost"]
    await exchange.followed("M")
    assert await balance(exchange, buyer) == AccountBalance(CURRENCY, 25_500_000, 9_500_000, 9_500_000)


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

    assert await balance(exchange, buyer) == AccountBalance(CURRENCY, 6 * MICRO, 4 * MICRO, 4 * MICRO)


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
    assert await balance(exchange, buyer) == AccountBalance(CURRENCY, 6_500_000, 3_500_000, 3_500_000)


async def test_a_second_owner_fences_the_first_which_says_so_and_writes_no_more(exchange: Exchange) -> None:
    await exchange.open_market("M")
    first = exchange.start_market("M")
    buyer = await exchange.trader("buyer")
    await exchange.placed("M", order(buyer, Side.BUY, "3.500"))
    rival = PostgresJournal(exchange.dsn)
    await rival.open(1)

    answer = await exchange.submit("M", CancelAll(buyer))

    assert isinstance(answer, Failed)
    await eventually(lambda: first.status()["state"], lambda state: state == "fenced")
    assert "owner" in first.status()["detail"]
    await rival.close()


async def test_a_killed_market_comes_back_with_everything(exchange: Exchange) -> None:
    await exchange.open_market("M")
    exchange.start_market("M")
    buyer, seller = await exchange.trader("buyer"), await exchange.trader("seller")
    for number in range(20):
        await exchange.placed("M", order(buyer, Side.BUY, f"3.{number:03d}"))
    await exchange.placed("M", order(seller, Side.SELL, "3.015", "3.000"))
    before = await exchange.links.ask(1, GetBook(100))
    await exchange.kill("M")

    exchange.start_market("M")

    after = await exchange.links.ask(1, GetBook(100))
    assert isinstance(before, BookView)
    assert after == before


async def test_a_full_market_refuses_by_name_and_does_nothing(exchange: Exchange) -> None:
    await exchange.open_market("M")
    journal = FaultyJournal(exchange.dsn)
    exchange.start_market("M", journal, waiting_max=5)
    buyer = await exchange.trader("buyer")
    await exchange.placed("M", order(buyer, Side.BUY, "1.000"))
    journal.hold = asyncio.Event()

    under_way = [asyncio.create_task(exchange.submit("M", CancelAll(buyer)))]
    await asyncio.sleep(0.1)
    under_way += [asyncio.create_task(exchange.submit("M", CancelAll(buyer))) for _ in range(9)]
    await asyncio.sleep(0.1)
    journal.hold.set()
    answers = await asyncio.gather(*under_way)

    overloaded = [a for a in answers if isinstance(a, Failed) and a.fault is Fault.OVERLOADED]
    assert len(overloaded) == 4
    assert sum(isinstance(a, Applied) for a in answers) == 6


async def test_a_drained_market_finishes_what_waits_and_takes_no_more(exchange: Exchange) -> None:
    await exchange.open_market("M")
    market = exchange.start_market("M")
    buyer = await exchange.trader("buyer")
    await exchange.sequence("M")

    waiting = asyncio.create_task(exchange.submit("M", order(buyer, Side.BUY, "3.500")))
    await asyncio.sleep(0.01)
    await market.drain()

    assert isinstance(await waiting, OrderAnswer)
    assert market.status()["state"] == "stopped"


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


async def test_a_tick_with_nothing_due_leaves_no_trace(exchange: Exchange) -> None:
    await exchange.open_market("M")
    journal = FaultyJournal(exchange.dsn)
    exchange.start_market("M", journal)
    await exchange.submit("M", Tick())
    rows = len(journal.appended)

    for _ in range(3):
        assert isinstance(await exchange.submit("M", Tick()), Applied)

    assert len(journal.appended) == rows


async def test_a_tick_ends_what_has_expired_and_the_first_row_of_an_epoch_carries_the_state_hash(
    exchange: Exchange,
) -> None:
    await exchange.open_market("M")
    journal, now = FaultyJournal(exchange.dsn), [1_800_000_000 * SECOND_US]
    exchange.start_market("M", journal, clock=lambda: now[0])
    buyer = await exchange.trader("buyer")
    expires = now[0] + 10 * SECOND_US
    placed = await exchange.placed("M", order(buyer, Side.BUY, "3.500", expires_us=expires))

    now[0] = expires
    await exchange.submit("M", Tick())

    shown = await exchange.links.ask(1, GetOrder(buyer, placed.order.order_id))
    assert isinstance(shown, OrderAnswer)
    assert shown.order.status is OrderStatus.EXPIRED
    assert journal.appended[-1].state_hash == NOT_HASHED

    now[0] += exchange.specs["M"].epoch_us
    await exchange.submit("M", Tick())

    assert len(journal.appended[-1].state_hash) == 32


async def test_a_market_digests_what_has_ended_while_nobody_wants_anything(exchange: Exchange) -> None:
    await exchange.open_market("M")
    market = exchange.start_market("M")
    seller = await exchange.trader("seller")
    await exchange.sequence("M")
    orders = [order(seller, Side.SELL, "3.000", time_in_force=TimeInForce.IOC) for _ in range(3 * DIGESTED_AT_ONCE)]

    await exchange.links.submit_many(1, orders)

    book = market._book
    assert book is not None
    await eventually(lambda: len(book.closed) == len(orders) and not book.undigested)


async def test_watchers_hear_every_sequence_once_and_only_their_own_orders(exchange: Exchange) -> None:
    await exchange.open_market("M")
    exchange.start_market("M")
    buyer, seller = await exchange.trader("buyer"), await exchange.trader("seller")
    await exchange.sequence("M")
    heard: list[Any] = []
    exchange.links.watch(1, frozenset({buyer}), True, heard.append)
    await eventually(lambda: bool(heard))

    await exchange.placed("M", order(seller, Side.SELL, "3.000", "2.000"))
    bid = await exchange.placed("M", order(buyer, Side.BUY, "3.500"))
    await exchange.submit("M", AmendOrder(seller, 3, 3_100_000, 0))
    sequence = await exchange.sequence("M")
    await eventually(lambda: heard[-1], lambda last: isinstance(last, Feed) and last.sequence == sequence)

    start, feeds = heard[0], [feed for feed in heard[1:] if isinstance(feed, Feed)]
    assert isinstance(start, BookView)
    told = [feed.sequence for feed in feeds]
    assert told == sorted(set(told))
    levels = {(change.side, change.price_micro): change.quantity_wh for feed in feeds for change in feed.changes}
    book = await exchange.links.ask(1, GetBook())
    assert isinstance(book, BookView)
    assert {key: wh for key, wh in levels.items() if wh} == {
        (side, level.price_micro): level.quantity_wh
        for side, shown in ((Side.BUY, book.bids), (Side.SELL, book.asks))
        for level in shown
    }
    assert [update.order.participant_id for feed in feeds for update in feed.updates] == [buyer]
    assert [trade.number for feed in feeds for trade in feed.trades] == [1]
    assert bid.fills[0].trade_number == 1


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
            exact = await balance(exchange, buyer)
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
    money = await balance(exchange, trader)
    assert (money.in_markets, money.reserved) == (60 * MICRO, 60 * MICRO)


async def test_what_is_due_is_an_entry_of_its_own_before_the_command(exchange: Exchange) -> None:
    now_us = 1_800_000_000 * SECOND_US
    await exchange.open_market("M")
    exchange.start_market("M", clock=lambda: now_us)
    buyer = await exchange.trader("buyer")
    first = await exchange.placed("M", order(buyer, Side.BUY, "3.000"))
    sequence = await exchange.sequence("M")

    now_us += 900 * SECOND_US
    second = await exchange.placed("M", order(buyer, Side.BUY, "3.000"))

    assert first.order.order_id < sequence + 1
    assert second.order.order_id == sequence + 3  # the tick, the funds, the order


async def test_who_wants_to_know_no_more_than_the_sequence_hears_it_now_and_then(exchange: Exchange) -> None:
    await exchange.open_market("M")
    exchange.start_market("M")
    buyer = await exchange.trader("buyer")
    await exchange.sequence("M")
    heard: list[Any] = []
    exchange.links.watch(1, frozenset(), False, heard.append)
    await eventually(lambda: bool(heard))

    for _ in range(50):
        await exchange.placed("M", order(buyer, Side.BUY, "3.000", "0.100"))
    sequence = await exchange.sequence("M")

    last = await eventually(lambda: heard[-1], lambda last: isinstance(last, Feed) and last.sequence == sequence)
    assert (last.changes, last.trades, last.updates) == ((), (), ())
    assert len(heard) < 40


async def test_watchers_look_at_the_book_anew_after_a_replay(exchange: Exchange) -> None:
    await exchange.open_market("M")
    journal = FaultyJournal(exchange.dsn)
    exchange.start_market("M", journal)
    seller = await exchange.trader("seller")
    await exchange.sequence("M")
    heard: list[Any] = []
    exchange.links.watch(1, frozenset(), True, heard.append)
    await eventually(lambda: bool(heard))

    journal.fail_after = 1  # the order is in the journal, and nobody was told
    await exchange.submit("M", order(seller, Side.SELL, "3.000", "2.000"))

    view = await eventually(lambda: heard[-1], lambda last: isinstance(last, BookView) and bool(last.asks))
    assert [level.quantity_wh for level in view.asks] == [2_000]
    assert None in heard


async def test_the_phase_survives_and_a_halted_market_refuses_orders_but_not_cancels(exchange: Exchange) -> None:
    await exchange.open_market("M")
    exchange.start_market("M")
    buyer = await exchange.trader("buyer")
    placed = await exchange.placed("M", order(buyer, Side.BUY, "3.500"))
    await exchange.submit("M", SetPhase(Phase.HALTED))
    await exchange.kill("M")
    exchange.start_market("M")

    refused = await exchange.submit("M", order(buyer, Side.BUY, "3.500"))
    cancelled = await exchange.submit("M", CancelOrder(buyer, placed.order.order_id))

    assert isinstance(refused, Refusal)
    assert refused.code is RejectCode.MARKET_NOT_OPEN
    assert isinstance(cancelled, OrderAnswer)


async def test_changed_rules_reach_the_market_without_anybody_telling_it(exchange: Exchange) -> None:
    from msgspec import structs

    spec = await exchange.open_market("M")
    exchange.start_market("M", rules_every_seconds=0.05)
    await exchange.sequence("M")

    await exchange.catalogue.update_market(structs.replace(spec, taker_fee_bps=25))

    seller, buyer = await exchange.trader("seller"), await exchange.trader("buyer")
    await asyncio.sleep(0.3)
    await exchange.placed("M", order(seller, Side.SELL, "3.000"))
    bid = await exchange.placed("M", order(buyer, Side.BUY, "3.000"))
    assert bid.fills[0].fee_micro == 7_500


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
    assert await balance(exchange, buyer) == AccountBalance(CURRENCY, 9 * MICRO, MICRO, MICRO)
    assert await balance(exchange, buyer, f"energy:{ZONE}") == AccountBalance(f"energy:{ZONE}", 100_000, 0, 0)
