"""A release whose engine cannot replay what the one before has written comes in while people trade.

Markets change at a boundary, with a snapshot at the end of what the old engine wrote; then the follower, which must
have come that far, and two gateways, one after the other. Nobody is refused anything by a market's move. The judge is a
release that replays both versions, as the last one before the change of a format would.

Found by it: a follower that read rows of both engines at once wrote none of them, and nobody could replay the rest.
"""

import asyncio
import itertools
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from engine.messages import ENGINE_VERSION, VERSIONS_REPLAYED
from persistence.embedded import EmbeddedPostgres
from tests.faults.test_moves import commanded
from tests.support import faults
from tests.support.installation import Installation
from tests.support.patience import eventually
from tests.support.release import NEXT_VERSION, put_engine, release
from tests.support.traders import SYMBOLS, judged

ROWS = """
    SELECT symbol, engine_version, first_sequence, last_sequence
    FROM journal
    JOIN markets USING (market_id)
    ORDER BY symbol, first_sequence
"""
FOLLOWED = "SELECT symbol, sequence FROM cursors JOIN markets USING (market_id)"
SNAPSHOTS = "SELECT symbol, sequence, engine_version FROM snapshots JOIN markets USING (market_id)"


async def test_another_engine_takes_over_at_a_boundary_while_people_trade(tmp_path: Path, long: bool) -> None:
    if not long:
        pytest.skip("an exchange of its own for minutes: make faults")
    installation = Installation(WATTBOOK_GATEWAYS="2")
    program = release(installation.data_dir / "program")
    judge = release(installation.data_dir / "judge")
    put_engine(judge, NEXT_VERSION, VERSIONS_REPLAYED | {NEXT_VERSION})
    installation.environment["PYTHONPATH"] = str(program)
    try:
        await asyncio.to_thread(installation.start)
        async with judged(installation, tmp_path) as load:
            put_engine(program, NEXT_VERSION, frozenset({NEXT_VERSION}))
            said = await asyncio.to_thread(installation.command, "wattbook", "market", "move", SYMBOLS[0])
            assert said.returncode == 1, said.stdout
            assert f"written by engine version {ENGINE_VERSION}" in " ".join(said.stdout.split())
            for symbol in SYMBOLS:
                print(await commanded(installation, "market", "move", symbol, "--by-snapshot"))
                await load.recovered()
            assert not load.faults, f"a planned move was noticed: {load.outcomes}"

            boundaries = {symbol: ends[ENGINE_VERSION] for symbol, ends in (await written(installation)).items()}
            await eventually(lambda: followed(installation), lambda reached: reached == boundaries)
            await faults.kill_actor(installation, "PersistenceActor")
            gateways = {process.pid for process in await asyncio.to_thread(installation.actors, "GatewayActor")}
            print(await commanded(installation, "gateway", "restart"))
            await load.recovered()
            assert load.faults == load.outcomes["broken"], f"beyond what a sender repeats: {load.outcomes}"
            fresh = {process.pid for process in await asyncio.to_thread(installation.actors, "GatewayActor")}
            assert len(gateways) == len(fresh) == 2
            assert not gateways & fresh

            await faults.kill_market(installation)  # which comes back from the boundary, with the new engine alone
            await load.recovered()
            installation.environment["PYTHONPATH"] = str(judge)
        await asyncio.to_thread(installation.until_ready)
        kept = await ask(installation, SNAPSHOTS)
        for symbol, boundary in boundaries.items():
            assert (symbol, boundary, ENGINE_VERSION) in kept, "the snapshot at the boundary"
        reached = await eventually(
            lambda: followed(installation), lambda one: all(one[symbol] > boundaries[symbol] for symbol in SYMBOLS)
        )
        print(f"followed to {reached}, over boundaries at {boundaries}")
    finally:
        await asyncio.to_thread(installation.remove)


async def written(installation: Installation) -> dict[str, dict[int, int]]:
    """Of each market the last sequence that each engine version has written; the versions only ever go up."""
    found: dict[str, dict[int, int]] = {}
    for symbol, rows in itertools.groupby(await ask(installation, ROWS), lambda row: str(row[0])):
        versions, found[symbol] = [], {}
        for _, version, _, last in rows:
            versions.append(version)
            found[symbol][version] = last
        assert versions == sorted(versions)
        assert set(versions) == {ENGINE_VERSION, NEXT_VERSION}
    return found


async def followed(installation: Installation) -> dict[str, int]:
    """How far the tables of each market are."""
    return dict(await ask(installation, FOLLOWED))


async def ask(installation: Installation, query: str) -> list[tuple[Any, ...]]:
    connection = await asyncpg.connect(EmbeddedPostgres(installation.data_dir).address)
    try:
        return [tuple(row) for row in await connection.fetch(query)]
    finally:
        await connection.close()
