"""The fence, the order, and the partitions of the journal.

Seen to fail for: no generation in APPEND, no FOR SHARE in APPEND, partitions dropped by their upper bound alone,
row_ending_at without its last comparison, a partition that is half detached being detached from the start.
"""

import asyncio
import pickle

import asyncpg
import pytest

from engine.journal import Fenced
from persistence import journal as sql
from persistence import postgres
from persistence.journal import PostgresJournal
from tests.support.patience import HUNG_SECONDS
from tests.support.rows import MARKET_ID, journal_row


async def opened(dsn: str, partition_sequences: int = 1_000) -> PostgresJournal:
    journal = PostgresJournal(dsn, partition_sequences)
    await journal.ensure_partitions(MARKET_ID, 1_000)
    await journal.open(MARKET_ID)
    return journal


async def test_rows_come_back_as_they_were_and_in_order(database: str) -> None:
    journal = await opened(database)
    written = [journal_row(n, n + 9, entries=bytes([n % 251]) * 20_000) for n in range(1, 1_500, 10)]
    await journal.ensure_partitions(MARKET_ID, 2_000)

    for row in written:
        await journal.append(row)

    first = await journal.rows(MARKET_ID, 0, limit=100)
    rest = await journal.rows(MARKET_ID, first[-1].last_sequence, limit=100)
    assert first + rest == written
    assert await journal.last(MARKET_ID) == written[-1]
    assert await journal.row_ending_at(MARKET_ID, 20) == written[1]
    assert await journal.row_ending_at(MARKET_ID, 15) is None
    assert await journal.row_ending_at(MARKET_ID + 1, 20) is None
    await journal.close()


async def test_journals_of_one_process_read_through_a_pool(database: str) -> None:
    async with await postgres.open_pool(database, 2, "readers", settings=postgres.ALWAYS_IN_ORDER_OF_KEY) as readers:
        journals = [PostgresJournal(database, 1_000, readers) for _ in range(3)]
        await journals[0].ensure_partitions(MARKET_ID, 1_000)
        await journals[0].open(MARKET_ID)
        await journals[0].append(journal_row(1, 10))

        found = await asyncio.gather(*(journal.rows(MARKET_ID, 0) for journal in journals))

        assert [len(rows) for rows in found] == [1, 1, 1]
        count = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'journal %'"
        assert await readers.fetchval(count) == 1, "one appends, and nobody has a session of his own to read"
        assert await readers.fetchval("SHOW enable_seqscan") == "off"
        for journal in journals:
            await journal.close()
        assert len(await journals[1].rows(MARKET_ID, 0)) == 1, "the pool is not theirs to close"


async def test_empty_journal_has_no_last_row(database: str) -> None:
    journal = await opened(database)

    assert await journal.last(MARKET_ID) is None
    assert await journal.rows(MARKET_ID, 0) == []
    await journal.close()


async def test_an_owner_that_was_idle_for_longer_than_a_statement_may_take_still_appends(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "STATEMENT_SECONDS", 1)
    journal = await opened(database)

    await asyncio.sleep(1.5)
    await journal.append(journal_row(1, 1))

    assert (await journal.last(MARKET_ID)) is not None
    await journal.close()


async def test_each_opening_gets_a_new_generation(database: str) -> None:
    first, second = await opened(database), PostgresJournal(database)

    assert await first.open(MARKET_ID) == 2
    assert await second.open(MARKET_ID) == 3
    await first.close()
    await second.close()


async def test_replaced_owner_cannot_take_the_market_back(database: str) -> None:
    old, new = await opened(database), await opened(database)

    with pytest.raises(Fenced):
        await old.open(MARKET_ID)

    await new.append(journal_row(1))
    await old.close()
    await new.close()


async def test_replaced_owner_cannot_append_even_a_sequence_that_is_free(database: str) -> None:
    old = await opened(database)
    await old.append(journal_row(1))
    new = PostgresJournal(database)
    await new.open(MARKET_ID)

    with pytest.raises(Fenced):
        await old.append(journal_row(2))

    assert [row.first_sequence for row in await new.rows(MARKET_ID, 0)] == [1]
    await new.append(journal_row(2))
    await old.close()
    await new.close()


async def test_sequence_that_is_taken_fences(database: str) -> None:
    journal = await opened(database)
    await journal.append(journal_row(1))

    with pytest.raises(Fenced):
        await journal.append(journal_row(1))
    await journal.close()


async def test_opening_waits_for_an_append_whose_outcome_is_open(database: str) -> None:
    """After `open` returns nothing of an earlier owner can still arrive, and what did arrive is there to read."""
    await (await opened(database)).close()
    connection = await asyncpg.connect(database)
    transaction = connection.transaction()
    await transaction.start()
    row = journal_row(1)
    values = [getattr(row, name) for name in row.__struct_fields__]
    await connection.execute(sql.APPEND, values[0], 1, *values[1:])
    new = PostgresJournal(database)

    opening = asyncio.create_task(new.open(MARKET_ID))
    await asyncio.sleep(0.2)
    waited = not opening.done()
    await transaction.commit()
    await opening

    assert waited
    assert await new.last(MARKET_ID) == row
    await connection.close()
    await new.close()


async def test_owners_at_the_same_time_write_each_sequence_once(database: str) -> None:
    """However often the market changes hands, its rows have no gap and no double."""
    await (await opened(database)).close()

    async def own(turns: int) -> None:
        for _ in range(turns):
            journal = PostgresJournal(database)
            await journal.open(MARKET_ID)
            last = await journal.last(MARKET_ID)
            sequence = last.last_sequence if last else 0
            try:
                for _ in range(5):
                    sequence += 1
                    await journal.append(journal_row(sequence))
                    await asyncio.sleep(0)
            except Fenced:
                continue
            finally:
                await journal.close()

    await asyncio.gather(*(own(10) for _ in range(4)))  # whoever opens last is fenced by nobody: five rows at least
    await own(1)  # and five more, alone

    reader = PostgresJournal(database)
    sequences = [row.first_sequence for row in await reader.rows(MARKET_ID, 0)]
    await reader.close()
    assert sequences == list(range(1, len(sequences) + 1))
    assert len(sequences) >= 10


async def test_travels_before_it_is_opened(database: str) -> None:
    journal = pickle.loads(pickle.dumps(PostgresJournal(database)))

    await journal.ensure_partitions(MARKET_ID, 1)
    assert await journal.open(MARKET_ID) == 1
    await journal.close()


async def test_lost_connection_is_not_a_fence(database: str) -> None:
    journal = await opened(database)
    connection = await asyncpg.connect(database)
    await connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'journal market%'"
    )

    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)) as caught:
        await journal.append(journal_row(1))

    assert not isinstance(caught.value, Fenced)
    assert await journal.open(MARKET_ID) == 2
    await journal.append(journal_row(1))
    await connection.close()
    await journal.close()


async def test_partitions_are_made_while_appends_are_under_way(database: str) -> None:
    journal, other = await opened(database), PostgresJournal(database, 1_000)
    connection = await asyncpg.connect(database)
    transaction = connection.transaction()
    await transaction.start()
    row = journal_row(1)
    values = [getattr(row, name) for name in row.__struct_fields__]
    await connection.execute(sql.APPEND, values[0], 1, *values[1:])

    await asyncio.wait_for(other.ensure_partitions(MARKET_ID, 5_000), HUNG_SECONDS)
    await asyncio.wait_for(other.ensure_partitions(MARKET_ID + 1, 1), HUNG_SECONDS)

    await transaction.rollback()
    await journal.append(journal_row(4_500))
    await connection.close()
    await journal.close()
    await other.close()


async def test_partition_is_dropped_only_when_all_of_it_is_below(database: str) -> None:
    journal = await opened(database, partition_sequences=10)
    await journal.ensure_partitions(MARKET_ID, 40)
    for first, last in ((1, 8), (9, 12), (13, 19), (20, 25)):
        await journal.append(journal_row(first, last))

    reaching_over = await journal.drop_partitions(MARKET_ID, 10)
    dropped = await journal.drop_partitions(MARKET_ID, 20)

    assert reaching_over == []
    assert dropped == ["journal_m1_s0", "journal_m1_s10"]
    assert [row.first_sequence for row in await journal.rows(MARKET_ID, 0)] == [20]
    await journal.append(journal_row(26))
    await journal.close()


async def test_a_drop_that_was_cut_short_is_finished_by_the_next(database: str) -> None:
    journal = await opened(database, partition_sequences=10)
    reader, dropper = await asyncpg.connect(database), await asyncpg.connect(database)
    reading = reader.transaction()
    await reading.start()
    await reader.fetch("SELECT * FROM journal")
    await dropper.execute("SET lock_timeout = '50ms'")

    with pytest.raises(asyncpg.LockNotAvailableError):
        await dropper.execute("ALTER TABLE journal_m1 DETACH PARTITION journal_m1_s0 CONCURRENTLY")
    await reading.rollback()
    dropped = await journal.drop_partitions(MARKET_ID, 20)

    assert dropped == ["journal_m1_s0", "journal_m1_s10"]
    for session in (reader, dropper):
        await session.close()
    await journal.close()


async def test_pages_come_straight_from_the_key(database: str) -> None:
    """Without statistics, as in a young partition, and in the plan that a prepared statement settles on."""
    journal = PostgresJournal(database)
    await journal.ensure_partitions(MARKET_ID, 25_000_000)
    await journal.rows(MARKET_ID, 0)
    assert journal._reading is not None
    await journal._reading.execute(
        "INSERT INTO journal SELECT 1, n, n, 1, repeat('x', 500)::bytea, h, '', h, h"
        " FROM generate_series(1, 3000) AS n, decode(repeat('00', 32), 'hex') AS h"
    )

    for query, values in ((sql.ROWS, "1, 100, 500"), (sql.LAST, "1"), (sql.ROW_AT, "1, 5")):
        await journal._reading.execute("DEALLOCATE ALL")
        await journal._reading.execute(f"PREPARE q AS {query}")
        plan = "\n".join(row[0] for row in await journal._reading.fetch(f"EXPLAIN EXECUTE q({values})"))
        assert "journal_m1_s0_pkey" in plan, plan
        assert "Sort" not in plan, plan
    await journal.close()
