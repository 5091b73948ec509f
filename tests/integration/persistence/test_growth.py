"""What is asked again and again, for ever, does not read what is long done: its cost must not grow with the past.

Seen to fail for: unsettled trades found by one statement for all markets, submissions counted by what they are not,
the submitter's statements without ALWAYS_BY_KEY, or with sorts off as well; an owner who is taken for rare; a queue
that is sorted for each claim.
"""

from random import Random

import asyncpg
import pytest

from engine.settlement.netting import Rule
from engine.submission import Change, Effect, Signed, step
from persistence import outbox
from persistence.postgres import ALWAYS_BY_KEY, Pool, open_pool
from persistence.reconciliation import PostgresReconciliation
from persistence.settlements import PostgresSettlements
from persistence.submissions import PostgresSubmissions
from tests.integration.persistence.test_settlements import World, funded
from tests.support.rows import THB

RULE = Rule(every_us=1, trades_max=1_000, part_accounts=3)
PAST = 6_000  # trades at most: enough for an index to be cheaper
PART, TURNS = 128, 4
READ_FOR_EACH_MAX = 20  # claimed, counted, changed, renewed, those of the turns before again; the queue is 47 for each
READ_IN_ALL = """
    SELECT sum(seq_tup_read)::bigint
        + (SELECT sum(idx_tup_read)::bigint FROM pg_stat_user_indexes WHERE relname IN ('outbox', 'chain_submissions'))
    FROM pg_stat_user_tables
    WHERE relname IN ('outbox', 'chain_submissions')
"""
TELL = "SELECT pg_stat_force_next_flush()"  # what this session has counted
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


@pytest.mark.parametrize("is_known", [False, True], ids=["too young for statistics", "counted"])
async def test_who_carries_a_part_of_a_long_queue_reads_that_part(
    pool: "asyncpg.Pool[asyncpg.Record]", database: str, is_known: bool
) -> None:
    registered = [outbox.Order("user_registered", f"user:{n}", {"user_id": n}) for n in range(PAST)]
    async with pool.acquire() as connection:
        await outbox.add(connection, registered, 1)
        if is_known:
            await connection.execute("ANALYZE outbox, chain_submissions")
        await connection.execute(TELL)

    one = await open_pool(database, 1, settings=ALWAYS_BY_KEY)
    try:
        submissions = PostgresSubmissions(one)
        before = await read_in_all(one)
        for turn in range(TURNS):
            assert await submissions.due(["mint", "register", "settle"], 2) == ["register"]
            effects = await submissions.claim("a", "register", PART, 1_024, 2)
            assert [effect.payload["user_id"] for effect in effects] == [*range(turn * PART, turn * PART + PART)]
            await submissions.record("a", [_signed(each) for each in effects], 3)
            await submissions.renew("a", 4)
            await submissions.adopt("a", 4, everything=False)
        assert await read_in_all(one) - before < TURNS * PART * READ_FOR_EACH_MAX
    finally:
        await one.close()


def _signed(effect: Effect) -> Change:
    return Change(effect, step(effect.submission, Signed(f"s{effect.number}", 9)), b"raw", 3, 0)


async def read_in_all(pool: Pool) -> int:
    """Rows of the queue that were read, one by one or by an index."""
    await pool.execute(TELL)
    return int(await pool.fetchval(READ_IN_ALL))


async def read(pool: Pool) -> dict[str, int]:
    """By table, rows that were read by looking at each one; counts of this pool's only session are told first."""
    await pool.execute(TELL)
    return {row["relname"]: row["seq_tup_read"] for row in await pool.fetch(READ)}
