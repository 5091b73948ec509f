"""Settlements in real tables: each trade once, whatever dies, and to the unit what the ledger booked.

Seen to fail for: a head that nobody holds, cursors moved outside of the transaction, parts without their orders, late
news that undo, a proof for somebody else.
"""

import asyncio
import json
from random import Random
from typing import Any

import asyncpg
import pytest

from engine.projection import TradeRow
from engine.records import Want
from engine.settlement.netting import Rule
from engine.settlement.proofs import verify
from engine.settlement.states import News, Status
from engine.settlement.trades import SettledSide, SettledTrade, leaves_of
from persistence.ledger import PostgresLedger
from persistence.projections import PostgresProjections
from persistence.settlements import WAITING, PostgresSettlements, report
from tests.support.dying import Died, DyingPool
from tests.support.rows import THB, batch, trade_row, trade_transfer
from tests.support.settlement import naive_deltas, naive_root

PEOPLE = range(1001, 1007)
RULE = Rule(every_us=100_000, trades_max=40, part_accounts=3)
NEVER = Rule(every_us=2**60, trades_max=1_000, part_accounts=6)
AT_ONCE = Rule(every_us=1, trades_max=1_000, part_accounts=6)


async def funded(pool: "asyncpg.Pool[asyncpg.Record]") -> None:
    ledger = PostgresLedger(pool)
    for person in PEOPLE:
        for zone in ("Z1", "Z2"):
            await ledger.deposit(person, f"energy:{zone}", 10**9, f"{zone}{person}", 1)
        await ledger.deposit(person, THB, 10**12, f"m{person}", 1)
    for market_id in (1, 2):
        wants = [Want(p, asset, 10**8) for p in PEOPLE for asset in (THB, "energy:Z1", "energy:Z2")]
        await ledger.draw(market_id, 1, wants)


def random_trade(random: Random, number: int, time_us: int) -> TradeRow:
    buyer, seller = random.sample(PEOPLE, 2)
    value, fee = random.randrange(10_000), random.randrange(50)
    return trade_row(
        number,
        buyer,
        seller,
        time_us=time_us,
        energy_wh=random.randrange(1, 2_000),
        buyer_value_micro=value + random.randrange(500),
        seller_value_micro=value,
        buyer_fee_micro=fee,
        seller_fee_micro=random.randrange(-fee, 50),
        buyer_zone=random.choice(("Z1", "Z2")),
        seller_zone=random.choice(("Z1", "Z2")),
    )


def settled(market_id: int, row: TradeRow) -> SettledTrade:
    return SettledTrade(
        market_id,
        row.number,
        row.sequence,
        row.time_us,
        row.energy_wh,
        SettledSide(row.buyer_id, row.buyer_zone, row.buyer_value_micro, row.buyer_fee_micro),
        SettledSide(row.seller_id, row.seller_zone, row.seller_value_micro, row.seller_fee_micro),
    )


class World:
    """Two markets whose trades come in, and everything that was ever executed in them."""

    def __init__(self, pool: "asyncpg.Pool[asyncpg.Record]", random: Random) -> None:
        self.pool, self.random = pool, random
        self.executed: list[SettledTrade] = []
        self.now_us = 1_000_000
        self._written = {1: 0, 2: 0}

    async def trade(self, count: int) -> None:
        for market_id in (1, 2):
            first, rows = self._written[market_id], list[TradeRow]()
            for number in range(first + 1, first + 1 + self.random.randint(0, count)):
                self.now_us += self.random.randrange(20_000)
                rows.append(random_trade(self.random, number, self.now_us))
            last = first + len(rows)
            if rows:
                transfers = [trade_transfer(row, market_id) for row in rows]
                await PostgresProjections(self.pool).write(
                    batch(first, last, market_id, trades=rows, transfers=transfers)
                )
            self.executed += [settled(market_id, row) for row in rows]
            self._written[market_id] = last

    async def orders(self) -> list[dict[str, Any]]:
        """Payloads of the outbox, in the order in which they were written."""
        rows = await self.pool.fetch("SELECT payload FROM outbox WHERE kind = 'settle' ORDER BY number")
        return [json.loads(row["payload"]) for row in rows]

    async def check(self) -> None:
        """Every trade has one settlement, and the orders to the chain come to what all trades come to."""
        rows = await self.pool.fetch("SELECT * FROM settlement_trades ORDER BY settlement, place")
        assert sorted((row["market_id"], row["number"]) for row in rows) == sorted(
            (one.market_id, one.number) for one in self.executed
        )
        sums: dict[str, list[int]] = {}
        for order in await self.orders():
            for delta in order["deltas"]:
                total = sums.setdefault(delta["account"], [0, 0])
                total[0] += delta["energy_wh"]
                total[1] += delta["currency_micro"]
        expected = {one.account: [one.energy_wh, one.currency_micro] for one in naive_deltas(self.executed)}
        assert {account: total for account, total in sums.items() if any(total)} == expected
        by_key = {(one.market_id, one.number): one for one in self.executed}
        settlements = await self.pool.fetch("SELECT * FROM settlements ORDER BY number")
        assert [row["number"] for row in settlements] == list(range(1, len(settlements) + 1))
        for row in settlements:
            trades = [by_key[t["market_id"], t["number"]] for t in rows if t["settlement"] == row["number"]]
            assert naive_root(leaves_of(trades, row["salt"])) == row["root"]
            parts = [one for one in await self.orders() if one["settlement"] == row["settlement_id"].hex()]
            assert [one["part"] for one in parts] == list(range(parts[0]["parts"]))
            assert {(one["root"], one["count"]) for one in parts} == {(row["root"].hex(), len(trades))}
        parts_without_orders = await self.pool.fetchval(
            "SELECT count(*) FROM settlement_parts p FULL JOIN (SELECT key FROM outbox WHERE kind = 'settle') o"
            " USING (key) WHERE p.part IS NULL OR o.key IS NULL"
        )
        assert parts_without_orders == 0


@pytest.fixture
async def world(pool: "asyncpg.Pool[asyncpg.Record]") -> World:
    await funded(pool)
    return World(pool, Random(1))


@pytest.mark.parametrize("seed", range(6))
async def test_whatever_dies_each_trade_is_settled_once(pool: "asyncpg.Pool[asyncpg.Record]", seed: int) -> None:
    await funded(pool)
    random = Random(seed)
    world, deaths = World(pool, random), 0
    for _ in range(14):
        await world.trade(9)
        dying = DyingPool(pool, random.randint(1, 10), answer_lost=random.random() < 0.2)
        some = [PostgresSettlements(pool), PostgresSettlements(dying)]  # type: ignore[arg-type]
        for settling in random.choice([some, some[1:], some[1:]]):
            try:
                await settling.settle_due(world.now_us, RULE)
            except Died:
                deaths += 1
    while await PostgresSettlements(pool).settle_due(world.now_us + RULE.every_us, RULE):
        continue

    await world.check()
    assert deaths > 3


async def test_settling_at_the_same_time_settles_once(world: World) -> None:
    await world.trade(60)
    settlements = PostgresSettlements(world.pool)

    done = await asyncio.gather(*(settlements.settle_due(world.now_us + 1, AT_ONCE) for _ in range(6)))

    assert sorted(done)[:5] == [0] * 5
    await world.check()


async def test_what_is_netted_is_what_the_ledger_booked(world: World) -> None:
    await world.trade(60)

    await PostgresSettlements(world.pool).settle_due(world.now_us + 1, AT_ONCE)

    booked = await world.pool.fetch(
        """
        SELECT CASE WHEN e.participant_id > 0 THEN 'user:' || e.participant_id
                WHEN a.kind = 'fees' THEN 'fees' ELSE 'grid' END AS account,
            sum(e.amount) FILTER (WHERE asset LIKE 'energy:%') AS energy,
            sum(e.amount) FILTER (WHERE asset NOT LIKE 'energy:%') AS currency
        FROM entries e JOIN accounts a USING (account_id) JOIN transfers t USING (transfer_id)
        WHERE t.kind = 'trade'
        GROUP BY 1
        """
    )
    told: dict[str, tuple[int, int]] = {}
    for order in await world.orders():
        for one in order["deltas"]:
            energy, currency = told.get(one["account"], (0, 0))
            told[one["account"]] = energy + one["energy_wh"], currency + one["currency_micro"]
    assert told == {row["account"]: (row["energy"] or 0, row["currency"] or 0) for row in booked}


async def test_nothing_is_settled_before_its_time(world: World) -> None:
    await world.trade(20)

    assert await PostgresSettlements(world.pool).settle_due(world.now_us, NEVER) == 0
    assert await world.orders() == []


async def test_a_trade_goes_from_executed_to_finalized_and_its_proof_holds(world: World) -> None:
    await world.trade(30)
    settlements, one = PostgresSettlements(world.pool), world.executed[5]
    buyer, seller = one.buyer.participant_id, one.seller.participant_id
    before = await settlements.of_trade(one.market_id, one.number, buyer)
    await settlements.settle_due(world.now_us + 1, AT_ONCE)

    assert before is not None
    assert (before.status, before.proof) == (Status.EXECUTED, None)
    for user_id, side in ((buyer, one.buyer), (seller, one.seller)):
        found = await settlements.of_trade(one.market_id, one.number, user_id)
        assert found is not None
        assert found.status is Status.BATCHED
        assert found.settlement is not None
        assert found.proof is not None
        verify(found.proof, found.settlement.root)
        assert (found.proof.participant_id, found.proof.value_micro) == (user_id, side.value_micro)
    stranger = next(person for person in PEOPLE if person not in (buyer, seller))
    assert await settlements.of_trade(one.market_id, one.number, stranger) is None
    assert await settlements.of_trade(one.market_id, 10**6, buyer) is None
    for news, status in (
        (News.SUBMITTED, Status.SUBMITTED),
        (News.CONFIRMED, Status.CONFIRMED),
        (News.FINALIZED, Status.FINALIZED),
    ):
        for order in await world.orders():
            async with world.pool.acquire() as connection, connection.transaction():
                await report(connection, f"{order['settlement']}:{order['part']}", news, f"sig-{news}", 5)
        found = await settlements.of_trade(one.market_id, one.number, buyer)
        assert found is not None
        assert found.status is status


async def test_a_settlement_is_as_far_as_its_slowest_part_and_late_news_undo_nothing(world: World) -> None:
    await world.trade(60)
    settlements = PostgresSettlements(world.pool)
    await settlements.settle_due(world.now_us, RULE)
    keys = [f"{order['settlement']}:{order['part']}" for order in await world.orders()]
    assert len(keys) > 2

    async def tell(key: str, news: News, signature: str = "s") -> Status | None:
        async with world.pool.acquire() as connection, connection.transaction():
            return await report(connection, key, news, signature, 9)

    assert await tell(keys[0], News.FINALIZED, "first") is Status.SUBMITTED
    assert await tell(keys[0], News.SUBMITTED, "late") is Status.SUBMITTED
    assert [await tell(key, News.CONFIRMED) for key in keys[1:]][-1] is Status.CONFIRMED
    assert await tell(keys[1], News.QUEUED, "") is Status.SUBMITTED  # dropped by a fork
    assert await tell(keys[1], News.PARKED) is Status.PARKED
    [one] = await settlements.newest()
    assert one.status is Status.PARKED
    assert (one.parts[0].status, one.parts[0].signature) == (Status.FINALIZED, "first")
    assert [await tell(key, News.FINALIZED) for key in keys][-1] is Status.FINALIZED
    assert await tell("nothing:0", News.CONFIRMED) is None
    by_id = await settlements.by_id(one.settlement_id)
    assert by_id is not None
    assert (by_id.status, by_id.changed_us) == (Status.FINALIZED, 9)
    assert await settlements.by_id(bytes(16)) is None


async def test_waiting_trades_are_found_by_the_key_of_their_table(world: World) -> None:
    await world.trade(60)
    await world.pool.execute("ANALYZE trades")

    async with world.pool.acquire() as connection:
        await connection.execute("SET enable_seqscan = off")
        plan = "\n".join(row[0] for row in await connection.fetch("EXPLAIN " + WAITING.replace("$1", "10")))

    assert "trades_pkey" in plan
