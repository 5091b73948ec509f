"""One exchange per database.

Seen to fail for: a claim that believes itself held after its session has ended; a session that steps back without its
group.
"""

import asyncio
import os
from pathlib import Path

import asyncpg
import psutil
import pytest

from persistence import migrate
from persistence.postgres import Claim, open_pool
from tests.support.patience import HUNG_SECONDS

GROUPS = Path("/proc/self/autogroup")


async def test_a_database_that_is_claimed_cannot_be_claimed_again_until_it_is_let_go(database: str) -> None:
    first, second = Claim(database), Claim(database)
    assert await first.take()
    assert not await second.take()
    assert (await first.is_held(), await second.is_held()) == (True, False)

    await first.release()

    assert await second.take()
    await second.release()


async def test_a_claimed_database_can_still_be_migrated_and_looked_at(database: str) -> None:
    held = Claim(database)
    assert await held.take()

    async with asyncio.timeout(HUNG_SECONDS):
        assert await migrate.up(database) == []
        assert all(one.applied_us for one in await migrate.status(database))

    await held.release()


async def test_a_claim_whose_session_ended_is_not_held_and_can_be_taken_again(database: str) -> None:
    held = Claim(database)
    assert await held.take()
    other = await asyncpg.connect(database)

    ended = await other.fetch(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
        " WHERE application_name = 'claim' AND datname = current_database()"
    )

    assert [row[0] for row in ended] == [True]
    assert not await held.is_held()
    assert await held.take()
    assert await held.is_held()
    await held.release()
    await other.close()


async def test_commits_wait_for_the_disk_unless_told_otherwise(database: str) -> None:
    people, tables = await open_pool(database, 1), await open_pool(database, 1, waits=False)

    assert await people.fetchval("SHOW synchronous_commit") == "on"
    assert await tables.fetchval("SHOW synchronous_commit") == "off"

    await people.close()
    await tables.close()


async def test_sessions_that_step_back_do_so_on_this_machine(database: str) -> None:
    tables, people = await open_pool(database, 1, nice=5), await open_pool(database, 1)

    pids = [await pool.fetchval("SELECT pg_backend_pid()") for pool in (tables, people)]

    ours = os.getpriority(os.PRIO_PROCESS, 0)
    assert [psutil.Process(pid).nice() for pid in pids] == [max(5, ours), ours]
    if GROUPS.exists():  # each session of the server is a group, and only groups are weighed against one another
        assert [Path(f"/proc/{pid}/autogroup").read_text().split()[-1] for pid in pids] == ["5", "0"]
    await tables.close()
    await people.close()


@pytest.mark.parametrize(
    "error", [asyncpg.InternalClientError("cannot switch to state 11"), asyncpg.InterfaceError("connection is closed")]
)
async def test_a_session_that_ends_between_two_steps_of_the_driver_is_a_lost_claim(
    database: str, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    held = Claim(database)
    assert await held.take()

    async def ends(*_: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(asyncpg.Connection, "fetchval", ends)
        assert not await held.is_held()
    assert await held.take()
    await held.release()
