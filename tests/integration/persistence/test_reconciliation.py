"""Books from real tables against a chain that did what it was told: they agree at every step, and one unit is found.

Seen to fail for: unsettled trades left out, open parts left out, an asset taken for the other, a flag that stays.
"""

import json
from random import Random

import asyncpg
import msgspec
import pytest

from engine.settlement.netting import Rule
from engine.settlement.reconciliation import NOTHING, Amounts, Difference, OnChain, compare
from engine.settlement.states import News
from persistence.audit_log import PostgresAuditLog
from persistence.reconciliation import PostgresReconciliation
from persistence.settlements import PostgresSettlements, report
from tests.integration.persistence.test_settlements import World, funded
from tests.support.rows import THB

RULE = Rule(every_us=1, trades_max=30, part_accounts=3)


class Chain:
    """Vaults that begin with what people have, and change by what is told."""

    def __init__(self, vaults: dict[str, Amounts]) -> None:
        self.vaults = dict(vaults)
        self.supply = sum(vaults.values(), NOTHING)
        self.pool = NOTHING

    def apply(self, deltas: list[dict[str, int | str]]) -> None:
        for one in deltas:
            change = Amounts(int(one["energy_wh"]), int(one["currency_micro"]))
            self.vaults[str(one["account"])] = self.vaults.get(str(one["account"]), NOTHING) + change
            self.pool = self.pool - change

    def seen(self) -> OnChain:
        return OnChain(vaults=self.vaults, pools=self.pool, held=self.pool, supply=self.supply)


@pytest.mark.parametrize("seed", range(3))
async def test_books_and_chain_agree_while_settlements_come_and_go(
    pool: "asyncpg.Pool[asyncpg.Record]", seed: int
) -> None:
    await funded(pool)
    await pool.execute("UPDATE chain_submissions SET state = 'finalized'")  # what they have, they have there too
    random, books = Random(seed), PostgresReconciliation(pool, THB)
    world, settlements = World(pool, random), PostgresSettlements(pool)
    chain = Chain(dict((await books.books()).ledger))
    told: set[str] = set()
    for _ in range(6):
        await world.trade(20)
        if random.random() < 0.7:
            await settlements.settle_due(world.now_us, RULE)
        rows = await pool.fetch("SELECT key, payload FROM outbox WHERE kind = 'settle' ORDER BY number")
        for row in [row for row in rows if row["key"] not in told][: random.randint(0, 4)]:
            async with pool.acquire() as connection, connection.transaction():
                await report(connection, row["key"], News.CONFIRMED, "x", 1)
            chain.apply(json.loads(row["payload"])["deltas"])
            told.add(row["key"])

        assert compare(await books.books(), chain.seen()) == []

    assert told
    thief = random.choice(sorted(chain.vaults))
    chain.vaults[thief] = chain.vaults[thief] + Amounts(0, -1)
    [found] = compare(await books.books(), chain.seen())
    assert (found.what, found.asset, found.expected - found.found) == (thief, "currency", 1)


async def test_who_is_in_a_part_that_was_sent_is_under_way(pool: "asyncpg.Pool[asyncpg.Record]") -> None:
    await funded(pool)
    world = World(pool, Random(1))
    await world.trade(20)
    await PostgresSettlements(pool).settle_due(world.now_us, RULE)
    [first, *_] = await world.orders()

    async with pool.acquire() as connection, connection.transaction():
        await report(connection, f"{first['settlement']}:0", News.SUBMITTED, "x", 1)

    books = await PostgresReconciliation(pool, THB).books()
    assert set(books.under_way) == {one["account"] for one in first["deltas"]}


async def test_a_difference_stops_withdrawals_until_there_is_none(pool: "asyncpg.Pool[asyncpg.Record]") -> None:
    reconciliation = PostgresReconciliation(pool, THB)
    difference = Difference("fees", "currency", 8, 7)

    states = [await reconciliation.is_suspended()]
    turned = []
    for found in ([], [difference], [difference] * 200, []):
        turned.append(await reconciliation.keep(found, 5))
        states.append(await reconciliation.is_suspended())

    assert states == [False, False, True, True, False]
    assert turned == [False, True, False, True]
    log = await PostgresAuditLog(pool).after(0, 10)
    assert [row.action for row in log] == ["books.differ", "books.agree"]
    assert json.loads(log[0].after or "") == {"differences": [msgspec.to_builtins(difference)]}
    assert len(json.loads(await pool.fetchval("SELECT differences FROM reconciliations WHERE number = 3"))) == 100
