"""What the database says of itself, from a real one."""

import asyncpg

from persistence.figures import PostgresFigures
from persistence.ledger import PostgresLedger
from tests.support.rows import THB


async def test_transfers_sessions_and_size_are_counted(pool: asyncpg.Pool) -> None:
    figures = PostgresFigures(pool)
    before = await figures.look()
    await PostgresLedger(pool).deposit(1001, THB, 500, "d1", 7)

    async with pool.acquire() as connection, connection.transaction():
        await connection.fetchval("SELECT 1")
        after = await figures.look()

    assert after.transfers > before.transfers
    assert after.active >= 1  # the one that asks
    assert after.in_transaction >= 1
    assert after.oldest_seconds >= 0.0
    assert after.size_bytes > 1_000_000
    assert after.connections_max > 10
