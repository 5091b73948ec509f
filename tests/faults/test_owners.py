"""Two owners of one market under load: exactly one of them writes on, and nothing comes of it but a pause.

Seen to fail for: a market that answers although its append was fenced. A journal that does not look at the owner's
generation is not found here: the key of its rows fences too.
"""

import asyncio
from pathlib import Path
from time import monotonic

from actors.clock import clock_us
from actors.dataplane import Secret
from actors.links import Links, Place
from actors.market import Market, MarketOptions
from engine.messages import CancelAll
from engine.views import Applied
from persistence.catalogue import PostgresCatalogue
from persistence.embedded import EmbeddedPostgres
from persistence.journal import PostgresJournal
from persistence.ledger import PostgresLedger
from persistence.postgres import open_pool
from persistence.snapshots import PostgresSnapshots
from tests.support.exchange import CatalogueRules
from tests.support.installation import Installation
from tests.support.patience import HUNG_SECONDS, eventually
from tests.support.traders import judged

SYMBOL = "CAMPUS"
NOBODY = 999_999


async def test_of_two_owners_exactly_one_writes_on(installation: Installation, tmp_path: Path) -> None:
    dsn = EmbeddedPostgres(installation.data_dir).address
    pool = await open_pool(dsn, 4, "rival")
    catalogue = PostgresCatalogue(pool)
    spec = next(spec for spec in await catalogue.markets() if spec.symbol == SYMBOL)
    secret = Secret((installation.data_dir / "keys" / "cluster-secret").read_bytes())
    rival = Market(
        spec.market_id,
        SYMBOL,
        PostgresJournal(dsn),
        PostgresSnapshots(pool),
        PostgresLedger(pool),
        CatalogueRules(pool),
        secret,
        clock_us,
        MarketOptions(idle_return_seconds=0.5),
    )

    async def only_the_rival(*, waits: bool = False) -> list[Place]:
        return [Place(spec, rival.address)]

    links = Links(only_the_rival, secret)
    async with judged(installation, tmp_path) as load:
        first = await asyncio.to_thread(installation.market_process, SYMBOL)
        life, linking = asyncio.create_task(rival.run()), asyncio.create_task(links.run())
        await eventually(lambda: rival.status()["state"], lambda state: state in ("serving", "fenced"))
        told, deadline = 0, monotonic() + HUNG_SECONDS
        while rival.status()["state"] != "fenced":  # it serves until the market's next process has taken over
            answer = await links.submit(spec.market_id, CancelAll(NOBODY))
            told = max(told, answer.sequence if isinstance(answer, Applied) else 0)
            assert monotonic() < deadline, "two write"
            await asyncio.sleep(0.01)
        await asyncio.wait_for(life, HUNG_SECONDS)
        linking.cancel()
        await asyncio.wait([linking])
        await load.recovered()
        rows = await pool.fetch("SELECT generation FROM market_owners WHERE market_id = $1", spec.market_id)
        await load.recovered()

        assert await pool.fetch("SELECT generation FROM market_owners WHERE market_id = $1", spec.market_id) == rows
        last = await pool.fetchval("SELECT max(last_sequence) FROM journal WHERE market_id = $1", spec.market_id)
        print(f"the rival was fenced; it had answered up to {told}, the journal is at {last}")
        assert last > told, "whoever was told something is in the past of the one who writes"
        assert (await asyncio.to_thread(installation.market_process, SYMBOL)).pid != first.pid
    await pool.close()
