"""Clocks that are set while people trade: nothing is refused, a market's time never goes back, and nothing is lost.

Seen to fail for: a market that takes the clock's word when it goes back.
"""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tests.support.installation import Installation, Person
from tests.support.patience import eventually
from tests.support.traders import judged

AHEAD = timedelta(seconds=60)


async def test_clocks_that_are_set_ahead_and_back_stop_nobody(installation: Installation, tmp_path: Path) -> None:
    person = await asyncio.to_thread(installation.person().register, THB="100")
    async with judged(installation, tmp_path) as load:
        installation.clock.write_text(f"{AHEAD.seconds}")
        ahead = await eventually(lambda: placed_at(person), lambda at: at - datetime.now(UTC) > AHEAD / 2)
        await load.recovered()
        assert installation.ready()
        installation.clock.unlink()
        await load.recovered()
        behind = await placed_at(person)
        print(f"{ahead - datetime.now(UTC)} ahead, and after the clocks went back {behind - ahead} later")
        assert behind >= ahead
        assert not load.faults, f"somebody noticed: {load.outcomes}"


async def placed_at(person: Person) -> datetime:
    """What the market's clock shows, by an order that is taken back."""
    order = await asyncio.to_thread(person.place, "buy", "0.500", "1.000")
    await asyncio.to_thread(person.call, "DELETE", f"/orders/{order['order_id']}")
    return datetime.fromisoformat(order["created_at"])
