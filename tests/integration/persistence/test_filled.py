"""Migrations are undone and done again on a database that an exchange has worked with, not on an empty one.

What an undo takes away is said in its file; what it must never do is to stop half way because there are rows.
"""

import asyncpg
import pytest

from engine.messages import Side
from persistence import migrate
from tests.support.exchange import order, running

TRADES = 5
UNDONE_MAX = 12  # the newest: nobody goes back further than a release or two


@pytest.mark.parametrize("together", [True, False], ids=["at once", "one by one"])
async def test_the_newest_migrations_are_undone_and_done_again_with_rows_in_every_table(
    database: str, pool: "asyncpg.Pool[asyncpg.Record]", *, together: bool
) -> None:
    async with running(database, pool) as exchange:
        await exchange.open_market("M")
        exchange.start_market("M")
        exchange.follow("M")
        seller, buyer = await exchange.trader("seller"), await exchange.trader("buyer")
        for _ in range(TRADES):
            await exchange.placed("M", order(seller, Side.SELL, "3.000"))
            await exchange.placed("M", order(buyer, Side.BUY, "3.000"))
        await exchange.followed("M")
    before = await counted(pool)
    assert before["trades"] == TRADES

    undone: list[str] = []
    for count in [UNDONE_MAX] if together else [1] * UNDONE_MAX:
        undone += await migrate.down(database, count)
    assert len(undone) == UNDONE_MAX
    done = await migrate.up(database)

    assert sorted(done) == sorted(undone)
    after = await counted(pool)
    kept = {"journal", "trades", "orders", "ledger_transfers", "users"} & set(before)
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}


async def counted(pool: "asyncpg.Pool[asyncpg.Record]") -> dict[str, int]:
    """Rows of each table."""
    names = await pool.fetch(
        "SELECT relname FROM pg_class WHERE relkind IN ('r', 'p') AND NOT relispartition "
        "AND relnamespace = 'public'::regnamespace"
    )
    return {name: await pool.fetchval(f"SELECT count(*) FROM {name}") for (name,) in names}
