"""Markets that share a process: it is killed, and they are moved into it and out of it, while people trade in all.

The judge is the traders' own log against a replay of every journal.
"""

import asyncio
import time
from pathlib import Path
from time import monotonic
from typing import Final

from tests.faults.test_moves import commanded
from tests.support import faults
from tests.support.installation import Installation
from tests.support.patience import HUNG_SECONDS
from tests.support.traders import judged

SHARED: Final = tuple(f"SHARED{number}" for number in range(20))
EACH: Final = 3  # orders that a market acknowledges before it counts as back


async def test_twenty_markets_share_a_process(installation: Installation, tmp_path: Path) -> None:
    await asyncio.to_thread(make, installation)
    async with judged(installation, tmp_path, SHARED, EACH) as load:
        (host,) = await asyncio.to_thread(installation.actors, "MarketHostActor")
        await faults.kill(host)
        seconds = await load.recovered(EACH)
        (fresh,) = await asyncio.to_thread(installation.actors, "MarketHostActor")
        assert fresh.pid != host.pid
        print(f"the process killed: all 20 acknowledged again, the last after {seconds:.2f} s")
        assert load.faults, "nobody noticed"

        before = load.faults
        print(await commanded(installation, "market", "move", SHARED[0], "--alone"))
        alone = await asyncio.to_thread(installation.market_process, SHARED[0])
        await load.recovered(EACH)
        print(await commanded(installation, "market", "move", SHARED[0], "--shared"))
        await load.recovered(EACH)
        assert not alone.is_running()
        print(await commanded(installation, "market", "renew", "markets-1"))
        await load.recovered(EACH)
        (last,) = await asyncio.to_thread(installation.actors, "MarketHostActor")
        assert last.pid != fresh.pid
        assert load.faults == before, f"a planned move was noticed: {load.outcomes}"


def make(installation: Installation) -> None:
    """In one process, and nothing else of theirs."""
    if not installation.running:  # the test before has looked at the logs of a whole life, so that is over
        installation.start()
    admin = installation.admin()
    for symbol in SHARED:
        made = {"symbol": symbol, "zones": ["Z1"], "reference_price": "3.000", "band_bps": 5_000}
        admin.call("POST", "/markets", {**made, "shared_process": True})
    deadline = monotonic() + HUNG_SECONDS
    while not all(admin.ask("GET", f"/markets/{symbol}/book").is_success for symbol in SHARED):
        assert monotonic() < deadline, admin.ask("GET", "/admin/status").text
        time.sleep(0.2)
    assert len(installation.actors("MarketHostActor")) == 1
    actors = {one["name"]: one for one in admin.call("GET", "/admin/status")["actors"]}
    assert {actors[f"market-{symbol}"]["figures"]["host"] for symbol in SHARED} == {"markets-1"}
