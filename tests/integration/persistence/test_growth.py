"""What is asked again and again, for ever, does not read what is long done: its cost must not grow with the past.

Seen to fail for: unsettled trades found by one statement for all markets, submissions counted by what they are not,
the submitter's statements without ALWAYS_BY_KEY.
"""

from random import Random

import asyncpg

from engine.settlement.netting import Rule
from engine.submission import Change, Signed, step
from persistence import outbox
from persistence.postgres import ALWAYS_BY_KEY, Pool, open_pool
from persistence.reconciliation import PostgresReconciliation
from persistence.settlements import PostgresSettlements
from persistence.submissions import PostgresSubmissions
from tests.integration.persistence.test_settlements import World, funded
from tests.support.rows import THB

RULE = Rule(every_us=1, trades_max=1_000, part_accounts=3)
PAST = 6_000  # trades at most: enough for an index to be cheaper
READ = """
    SELECT relname, seq_tup_read FROM pg_stat_user_tables WHERE relname IN ('trades', 'chain_submissions')
"""


async def test_a_comparison_and_a_count_read_nothing_of_what_is_done(
    pool: "asyncpg.Pool[asyncpg.Record]", database: str
) -> None:
    await funded(pool)
    world, settlements = World(pool, Random(3)), PostgresSettlements(pool)
    await world.trade(PAST)
    while await settlements.settle_due(world.now_us, RULE):
        pass
    registered = [outbox.Order("user_registered", f"user:{n}", {"user_id": n}) for n in range(PAST)]
    async with pool.acquire() as connection:
        await outbox.add(connection, registered, 1)
    await pool.execute("UPDATE chain_submissions SET state = 'finalized'")
    await pool.execute("UPDATE settlement_parts SET status = 4")
    await world.trade(20)
    await pool.execute("ANALYZE trades, chain_submissions")
    assert len(world.executed) > PAST // 2

    one = await open_pool(database, 1)
    try:
        before = await read(one)
        await PostgresReconciliation(one, THB).books()
        assert await PostgresSubmissions(one).depths() == {}
        assert await read(one) == before
    finally:
        await one.close()


async def test_a_queue_that_is_too_young_for_statistics_is_read_by_key(
    pool: "asyncpg.Pool[asyncpg.Record]", database: str
) -> None:
    registered = [outbox.Order("user_registered", f"user:{n}", {"user_id": n}) for n in range(PAST)]
    async with pool.acquire() as connection:
        await outbox.add(connection, registered, 1)

    one = await open_pool(database, 1, settings=ALWAYS_BY_KEY)
    try:
        before = await read(one)
        submissions = PostgresSubmissions(one)
        assert await submissions.due(["register"], 2) == ["register"]
        effects = await submissions.claim("a", "register", 256, 1_024, 2)
        signed = [Change(each, step(each.submission, Signed(f"s{each.number}", 9)), b"raw", 3, 0) for each in effects]
        await submissions.record("a", signed, 3)
        assert len(effects) == 256
        assert await read(one) == before
    finally:
        await one.close()


async def read(pool: Pool) -> dict[str, int]:
    """By table, rows that were read by looking at each one; counts of this pool's only session are told first."""
    await pool.execute("SELECT pg_stat_force_next_flush()")
    return {row["relname"]: row["seq_tup_read"] for row in await pool.fetch(READ)}
