"""Windows are posted beside readings, on a session of their own, and nobody else posts them.

Seen to fail for: adjustments that do not wait for their window, readings that wait for windows, an earlier owner whose
session of windows is not ended.
"""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest
import pytest_asyncio

from engine.metering.messages import ACCEPTED
from engine.metering.windows import WINDOW_US, Closing
from engine.units import SECOND_US
from persistence.postgres import Connection
from persistence.readings import FenceLost, PostgresReadings
from tests.support.metering import NOW_US, Metering, metering
from tests.support.patience import HUNG_SECONDS

LAST = NOW_US - WINDOW_US


@pytest_asyncio.fixture
async def meters(database: str, pool: "asyncpg.Pool[asyncpg.Record]") -> AsyncIterator[Metering]:
    async with metering(database, pool) as made:
        yield made


async def test_readings_are_answered_while_windows_are_posted_and_adjustments_wait(meters: Metering) -> None:
    owner = await meters.person("ann")
    device, other = await meters.device(owner), await meters.device(owner)
    await meters.pool.execute("UPDATE meters SET status = 'verified', verified_us = 1")
    await meters.start()
    await meters.judged([device.interval(1, LAST, 100, duration_s=60)])
    meters.readings[0].may_post.clear()
    meters.now_us += 2 * WINDOW_US
    await meters.readings[0].posts.wait()

    async with asyncio.timeout(HUNG_SECONDS):
        await meters.judged([other.interval(1, LAST, 50)])
    late = device.interval(2, LAST + 60 * SECOND_US, 7, duration_s=60)
    answer = asyncio.create_task(meters.judged([late]))
    await meters.has_judged(late)

    done, _ = await asyncio.wait([answer], timeout=0.2)
    assert not done
    assert await meters.pool.fetchval("SELECT count(*) FROM readings") == 2
    assert await meters.pool.fetchval("SELECT count(*) FROM energy_windows") == 0
    meters.readings[0].may_post.set()
    assert (await answer).codes == [ACCEPTED]
    await meters.pass_time(3_600)
    assert await meters.pool.fetchval("SELECT sum(export_wh)::bigint FROM energy_windows") == 150
    assert await meters.pool.fetchval("SELECT sum(export_wh)::bigint FROM energy_adjustments") == 7


async def test_an_owner_of_both_locks_leaves_none_to_the_one_before(meters: Metering) -> None:
    """Whoever has opened last may write readings and windows, the others neither."""
    device = await meters.device(await meters.person("ann"))
    await meters.start()
    await meters.judged([device.interval(1, LAST, 100)])
    await meters.kill()
    owners = [PostgresReadings(meters.dsn, meters.pool) for _ in range(3)]
    sessions: list[Connection] = []
    for one in (*owners, owners[0]):
        await one.open(0, 1, lambda number: None)
        assert one._sessions is not None
        sessions += one._sessions

    *ended, readings, windows = sessions
    assert [await session.fetchval("SELECT 1") for session in (readings, windows)] == [1, 1]
    for session in ended:
        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
            await session.fetchval("SELECT 1")
    closing = Closing(device.record.number, LAST // WINDOW_US * WINDOW_US, 0, 1, WINDOW_US)
    for one in owners[1:]:
        for work in (one.write([], [], [], [], {closing.meter}, NOW_US), one.post([closing], (), NOW_US)):
            with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError, FenceLost)):
                await work
    await owners[0].write([], [], [], [], {closing.meter}, NOW_US)
    await owners[0].post([closing], (), NOW_US)
    for one in owners:
        await one.close()
