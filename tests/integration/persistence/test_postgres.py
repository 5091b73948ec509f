"""One exchange per database."""

import asyncio

import pytest

from persistence import migrate
from persistence.postgres import DatabaseInUse, claim


async def test_a_database_that_is_claimed_cannot_be_claimed_again_until_it_is_let_go(database: str) -> None:
    first = await claim(database)

    with pytest.raises(DatabaseInUse):
        await claim(database)

    await first.close()
    await (await claim(database)).close()


async def test_a_claimed_database_can_still_be_migrated_and_looked_at(database: str) -> None:
    held = await claim(database)

    async with asyncio.timeout(10):
        assert await migrate.up(database) == []
        assert all(one.applied_us for one in await migrate.status(database))

    await held.close()
