"""Submissions in real tables: those who change many of them at once never wait for each other in a circle.

Seen to fail for: rows locked as the table happens to hold them, by `renew`, `record` and `adopt` one by one; signed
bytes that do not wait for the disk, and everything else that does, or stay for ever; a lane called due too early.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import asyncpg
import pytest
from msgspec.structs import replace

from engine.submission import Change, Effect, State
from persistence import outbox
from persistence.postgres import open_pool
from persistence.submissions import PostgresSubmissions

OWNER, LATER, OTHERS = "one", 10**15, "another"
NOTE_COMMITS = """
    CREATE TABLE commits (state text, setting text);
    CREATE FUNCTION note_commit() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO commits VALUES (NEW.state, current_setting('synchronous_commit'));
        RETURN NEW;
    END $$;
    CREATE TRIGGER note_commit AFTER UPDATE ON chain_submissions FOR EACH ROW EXECUTE FUNCTION note_commit();
"""


async def record(submissions: PostgresSubmissions, effects: list[Effect]) -> None:
    changes = [
        Change(effect, replace(effect.submission, state=State.SIGNED, signature=f"s{effect.number}"), b"raw")
        for effect in reversed(effects)
    ]
    await submissions.record(OWNER, changes, LATER)


async def renew(submissions: PostgresSubmissions, _: list[Effect]) -> None:
    await submissions.renew(OWNER, LATER)


async def adopt(submissions: PostgresSubmissions, _: list[Effect]) -> None:
    await submissions.adopt(OTHERS, LATER, everything=True)


@pytest.mark.parametrize("change", [record, renew, adopt])
async def test_rows_are_locked_in_the_order_of_their_numbers(
    pool: asyncpg.Pool, change: Callable[[PostgresSubmissions, list[Effect]], Coroutine[Any, Any, None]]
) -> None:
    submissions = PostgresSubmissions(pool)
    async with pool.acquire() as connection:
        orders = [outbox.Order("user_registered", f"user:{n}", {"user_id": n}) for n in range(1, 5)]
        numbers = await outbox.add(connection, orders, 1)
    for number in (numbers[0], numbers[2]):  # a row that is written again comes behind the others in its table
        await pool.execute("UPDATE chain_submissions SET due_us = 1 WHERE number = $1", number)
    effects = await submissions.claim(OWNER, "register", 4, 4, LATER)
    assert len(effects) == 4
    await pool.execute("UPDATE chain_submissions SET waits = 0 WHERE number = $1", numbers[0])

    async with pool.acquire() as holder:
        async with holder.transaction():
            await holder.execute("SELECT FROM chain_submissions WHERE number = $1 FOR UPDATE", numbers[0])
            waiting = asyncio.create_task(change(submissions, effects))
            while not await pool.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            # raises LockNotAvailable where the one who waits for the first has taken another already
            await holder.execute("SELECT FROM chain_submissions WHERE number > $1 FOR UPDATE NOWAIT", numbers[0])
        await waiting


async def test_signed_bytes_alone_wait_for_the_disk(database: str, pool: asyncpg.Pool) -> None:
    await pool.execute(NOTE_COMMITS)
    tables = await open_pool(database, 1, waits=False)
    submissions = PostgresSubmissions(tables)
    async with pool.acquire() as connection:
        await outbox.add(connection, [outbox.Order("user_registered", "user:1", {"user_id": 1})], 1)

    (built,) = await submissions.claim(OWNER, "register", 4, 4, LATER)
    signed = replace(built.submission, state=State.SIGNED, signature="s")
    await submissions.record(OWNER, [Change(built, signed, b"raw")], LATER)
    sent = replace(signed, state=State.SENT)
    await submissions.record(OWNER, [Change(replace(built, submission=signed), sent)], LATER)

    commits = [tuple(row) for row in await pool.fetch("SELECT * FROM commits")]
    assert commits == [("built", "off"), ("signed", "on"), ("sent", "off")]
    await tables.close()


async def test_a_lane_is_due_while_something_in_it_waits_for_its_turn(pool: asyncpg.Pool) -> None:
    submissions = PostgresSubmissions(pool)
    async with pool.acquire() as connection:
        await outbox.add(connection, [outbox.Order("user_registered", "user:1", {"user_id": 1})], 1)
    await pool.execute("UPDATE chain_submissions SET due_us = 100")

    assert await submissions.due(["mint", "register"], 99) == []
    assert await submissions.due(["mint", "register"], 100) == ["register"]
    await submissions.claim(OWNER, "register", 4, 4, 100)
    assert await submissions.due(["mint", "register"], LATER) == []


@pytest.mark.parametrize("end", [State.FINALIZED, State.PARKED, State.EXPIRED])
async def test_signed_bytes_are_kept_as_long_as_somebody_may_send_them(pool: asyncpg.Pool, end: State) -> None:
    submissions = PostgresSubmissions(pool)
    async with pool.acquire() as connection:
        await outbox.add(connection, [outbox.Order("user_registered", "user:1", {"user_id": 1})], 1)

    (built,) = await submissions.claim(OWNER, "register", 4, 4, LATER)
    signed = replace(built.submission, state=State.SIGNED, signature="s")
    await submissions.record(OWNER, [Change(built, signed, b"raw")], LATER)
    confirmed = replace(signed, state=State.CONFIRMED)
    await submissions.record(OWNER, [Change(replace(built, submission=signed), confirmed)], LATER)
    (adopted,) = await submissions.adopt(OTHERS, LATER, everything=True)
    await submissions.record(OTHERS, [Change(adopted, replace(confirmed, state=end))], LATER)

    assert adopted.raw == b"raw"  # a fork may drop it, and then it is sent again
    assert await pool.fetchval("SELECT raw FROM chain_submissions") is None
