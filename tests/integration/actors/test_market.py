"""The market's shell: durable before it answers, and never guessing after a fault. Funds: test_market_funds.py.

Seen to fail for: answering before the append, keeping the book after a failed append, ignoring a repeated
client_order_id, telling the news of a commit before it, not applying during an append, not failing the second draft,
swallowing an engine's bug during an append.
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
    RejectCode,
    SetPhase,
    Side,
    Tick,
    TimeInForce,
)
from engine.records import AccountBalance
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
from tests.support.exchange import CURRENCY, Exchange, order
from tests.support.patience import HUNG_SECONDS, eventually


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

    answers = await asyncio.wait_for(asyncio.gather(one, two), HUNG_SECONDS)
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

    answer, failed = await asyncio.wait_for(asyncio.gather(one, two), HUNG_SECONDS)
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
    assert await exchange.balance(buyer) == AccountBalance(CURRENCY, 25_500_000, 9_500_000, 9_500_000)


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
