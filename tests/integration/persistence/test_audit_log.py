"""The audit log: it only grows, in one chain, in the transaction of the change, and the chain shows who got around it.

Seen to fail for: a hash that leaves out a field or its length, an append that does not wait for the one before,
triggers that guard the parent table alone, a verification that does not look at the end, a lost row when a partition
cannot be made.
"""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest
import pytest_asyncio
from msgspec.structs import replace

from commands.audit import verified_log
from engine.audit import HASH_FIRST, SYSTEM, AuditRow, Chain, Origin, row_hash
from persistence.audit_log import DETAIL_BYTES_MAX, PostgresAuditLog, append

ANN = Origin("user:1001", "session:s1", "10.0.0.7", "request-1")
ODD = ["", "-", "1:a,", "ü€😀", "a'b\"c\\", "\u0000", "{}", "null"]
PARTITIONS = "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'audit_log'::regclass ORDER BY 1"


@pytest.fixture
def log(pool: asyncpg.Pool) -> PostgresAuditLog:
    return PostgresAuditLog(pool)


@pytest_asyncio.fixture
async def above_the_rules(database: str) -> AsyncIterator[asyncpg.Connection]:
    """A session whose changes no trigger sees, as somebody's who owns the server."""
    session = await asyncpg.connect(database)
    await session.execute("SET session_replication_role = replica")
    yield session
    await session.close()


async def broken(database: str) -> str:
    return (await verified_log(database, lambda number: None))[1]


async def five(log: PostgresAuditLog) -> None:
    for number in range(5):
        await log.append(ANN, "user.changed", f"user:{number}", {"role": "student"}, {"role": "faculty"})


async def test_a_row_says_who_changed_what_from_where(log: PostgresAuditLog) -> None:
    await log.append(ANN, "user.changed", "user:1002", {"role": "student"}, {"role": "faculty"})

    (row,) = await log.find(2**62, 10)

    assert (row.number, row.actor, row.via, row.address, row.request_id) == (1, *_fields(ANN))
    assert (row.action, row.subject) == ("user.changed", "user:1002")
    assert (row.before, row.after) == ('{"role":"student"}', '{"role":"faculty"}')


async def test_the_database_and_we_compute_the_same_hash_for_whatever_is_written(
    log: PostgresAuditLog, database: str
) -> None:
    for text in ODD:
        named = text.replace("\u0000", "?")  # a column of text holds none, JSON does
        await log.append(Origin("system", named, named, named), "user.changed", named, None, {"name": text})
        await log.append(SYSTEM, "user.changed", "user:1", {"name": text}, None)

    rows = await log.after(0, 100)

    assert [row.hash for row in rows] == [row_hash(row) for row in rows]
    assert len({row.hash for row in rows}) == 2 * len(ODD)
    assert await broken(database) == ""


async def test_a_change_that_is_rolled_back_leaves_no_row_and_no_gap(pool: asyncpg.Pool, database: str) -> None:
    log = PostgresAuditLog(pool)
    with pytest.raises(LookupError):  # noqa: PT012 - the transaction belongs to it
        async with pool.acquire() as connection, connection.transaction():
            await append(connection, ANN, "user.changed", "user:1")
            raise LookupError
    await five(log)

    assert [row.number for row in await log.after(0, 10)] == [1, 2, 3, 4, 5]
    assert await broken(database) == ""


async def test_many_at_once_make_one_chain(log: PostgresAuditLog, database: str) -> None:
    await asyncio.gather(*(log.append(ANN, "user.changed", f"user:{number}") for number in range(40)))

    chain, said = await verified_log(database, lambda number: None)

    assert (chain.number, said) == (40, "")


async def test_nobody_changes_or_removes_a_row(log: PostgresAuditLog, pool: asyncpg.Pool) -> None:
    await five(log)
    tables = ["audit_log", *(row[0] for row in await pool.fetch(PARTITIONS))]
    assert len(tables) >= 3
    holding = [table for table in tables if await pool.fetchval(f"SELECT count(*) FROM {table}")]

    for table in tables:
        with pytest.raises(asyncpg.RestrictViolationError, match="only grows"):
            await pool.execute(f"TRUNCATE {table}")
    for table in holding:
        for change in (f"UPDATE {table} SET actor = 'nobody'", f"DELETE FROM {table}"):
            with pytest.raises(asyncpg.RestrictViolationError, match="only grows"):
                await pool.execute(change)
    for change in ("DELETE FROM audit_head", "TRUNCATE audit_head"):
        with pytest.raises(asyncpg.RestrictViolationError):
            await pool.execute(change)
    assert len(holding) == 2  # the parent, and the partition of this month


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("UPDATE audit_log SET actor = 'user:9' WHERE number = 3", "row 3: its contents are not those"),
        ("UPDATE audit_log SET at_us = at_us + 1 WHERE number = 3", "row 3: its contents are not those"),
        ("UPDATE audit_log SET after = NULL WHERE number = 3", "row 3: its contents are not those"),
        ("UPDATE audit_log SET hash = sha256('x') WHERE number = 3", "row 3: its contents are not those"),
        ("UPDATE audit_log SET previous_hash = sha256('x') WHERE number = 3", "row 3: does not continue"),
        ("DELETE FROM audit_log WHERE number = 3", "row 3: is missing"),
        ("DELETE FROM audit_log WHERE number = 1", "row 1: is missing"),
        ("DELETE FROM audit_log WHERE number > 3", "row 4: is missing, and 2 rows with it"),
        ("DELETE FROM audit_log", "row 1: is missing, and 5 rows with it"),
        (
            "INSERT INTO audit_log SELECT number, at_us + 1, actor, via, address, request_id, action, subject, before,"
            " after, previous_hash, hash FROM audit_log WHERE number = 2",
            "row 2: |row 3: is there twice",
        ),
        ("UPDATE audit_head SET number = 4", "row 4: is not what the database says"),
        ("UPDATE audit_head SET hash = sha256('x')", "row 5: is not what the database says"),
    ],
)
async def test_the_chain_names_the_first_broken_row(
    log: PostgresAuditLog, database: str, above_the_rules: asyncpg.Connection, change: str, said: str
) -> None:
    await five(log)
    assert await broken(database) == ""

    await above_the_rules.execute(change)

    found = await broken(database)
    assert any(found.startswith(one) for one in said.split("|")), found


async def test_a_row_that_was_written_anew_with_its_hash_breaks_the_next(
    log: PostgresAuditLog, database: str, above_the_rules: asyncpg.Connection
) -> None:
    await five(log)
    row = (await log.after(2, 1))[0]
    forged = row_hash(replace(row, actor="user:9"))

    await above_the_rules.execute("UPDATE audit_log SET actor = 'user:9', hash = $1 WHERE number = 3", forged)

    assert (await broken(database)).startswith("row 4: does not continue")


async def test_rows_lie_in_the_partition_of_their_month_and_the_next_is_made_ahead(
    log: PostgresAuditLog, pool: asyncpg.Pool
) -> None:
    await five(log)
    at_us = (await log.after(0, 1))[0].at_us

    assert await pool.fetchval("SELECT tableoid::regclass::text FROM audit_log WHERE number = 1") == (
        await pool.fetchval("SELECT audit_partition($1)", at_us)
    )
    ahead = await pool.fetchval("SELECT to_regclass(audit_partition($1))", at_us + 7 * 86_400_000_000)
    assert ahead is not None
    december_us = 1_796_083_200_000_000  # 2026-12-01
    for instant, month in ((december_us + 31 * 86_400_000_000, "2027_01"), (december_us - 1, "2026_11")):
        await pool.fetchval("SELECT audit_make_partition($1)", instant)
        assert f"audit_log_{month}" in [row[0] for row in await pool.fetch(PARTITIONS)]
    assert await pool.fetchval("SELECT audit_make_partition($1)", december_us - 1) is False


async def test_a_row_lands_even_when_its_partition_cannot_be_made(
    log: PostgresAuditLog, pool: asyncpg.Pool, database: str
) -> None:
    reader = await asyncpg.connect(database)
    async with reader.transaction():
        await reader.fetch("SELECT count(*) FROM audit_log")  # as a backup does: no partition is made meanwhile
        await five(log)
    await reader.close()
    await five(log)

    assert await pool.fetchval("SELECT count(*) FROM audit_log_other") == 10
    assert await broken(database) == ""
    assert len(await log.find(2**62, 100)) == 10


async def test_filters_hold_together_and_pages_follow(log: PostgresAuditLog) -> None:
    await five(log)
    await log.append(SYSTEM, "user.registered", "user:1")
    rows = await log.find(2**62, 100)
    at_us = [row.at_us for row in rows]

    async def numbers(before: int = 2**62, limit: int = 100, **filters: str | int) -> list[int]:
        return [row.number for row in await log.find(before, limit, **filters)]  # type: ignore[arg-type]

    assert [row.number for row in rows] == [6, 5, 4, 3, 2, 1]
    assert await numbers(actor="system") == [6]
    assert await numbers(subject="user:1") == [6, 2]
    assert await numbers(subject="user:1", action="user.changed", actor="user:1001") == [2]
    assert await numbers(before=5, limit=2) == [4, 3]
    assert await numbers(from_us=at_us[2], to_us=at_us[0]) == [5, 4]
    assert await numbers(actor="nobody") == []


@pytest.mark.parametrize("name", ["actor", "action", "subject"])
async def test_a_filter_uses_its_index(pool: asyncpg.Pool, name: str) -> None:
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute("SET LOCAL enable_seqscan = off")
        plan = await connection.fetch(
            f"EXPLAIN SELECT * FROM audit_log WHERE number < 100 AND {name} = 'x' ORDER BY number DESC LIMIT 10"
        )

    assert f"{name}_number_idx" in "\n".join(row[0] for row in plan)


async def test_of_long_details_the_hash_is_kept(log: PostgresAuditLog, database: str) -> None:
    await log.append(ANN, "zones.put", "zones", None, {"x": "y" * DETAIL_BYTES_MAX})

    (row,) = await log.after(0, 1)

    assert row.after is not None
    assert '"sha256":"' in row.after
    assert len(row.after) < 200
    assert await broken(database) == ""


def test_an_older_row_after_a_newer_one_breaks_the_chain() -> None:
    chain = Chain()
    chain.at_us = 10
    row = _row(number=1, at_us=9)

    assert chain.take(row) == "row 1: is older than the row before it"


def _row(number: int, at_us: int) -> AuditRow:
    draft = AuditRow(number, at_us, "system", "", "", "", "user.changed", "user:1", None, None, HASH_FIRST, b"")
    return replace(draft, hash=row_hash(draft))


def _fields(origin: Origin) -> tuple[str, str, str, str]:
    return origin.actor, origin.via, origin.address, origin.request_id
