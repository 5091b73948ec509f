"""One exchange per database."""

import pytest

from persistence.postgres import DatabaseInUse, claim


async def test_a_database_that_is_claimed_cannot_be_claimed_again_until_it_is_let_go(database: str) -> None:
    first = await claim(database)

    with pytest.raises(DatabaseInUse):
        await claim(database)

    await first.close()
    await (await claim(database)).close()
