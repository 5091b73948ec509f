"""The journal of a market in Postgres: append behind a fence, read in order, partitions ahead of need.

An owner calls `open` first: from its return on no append of an earlier owner can succeed, and one whose outcome was
unknown has been decided, because an append holds the owner row that `open` changes. Readers need no `open`.
Followers may read while the owner appends: each object has a connection of its own to append, and another to read,
unless it is given a pool, as where many markets live in one process.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import asyncpg
from asyncpg.prepared_stmt import PreparedStatement

from engine.journal import Fenced, JournalRow
from persistence.postgres import ALWAYS_IN_ORDER_OF_KEY, AnyConnection, Connection, Pool, server_settings

PARTITION_SEQUENCES: Final = 10_000_000
APPEND_SECONDS: Final = 10.0
READ_SECONDS: Final = 30.0
PARTITIONS_AT_ONCE_MAX: Final = 1_000

TAKE_OWNERSHIP = """
    /* journal.take_ownership */
    INSERT INTO market_owners AS o (market_id, generation)
    VALUES ($1, 1)
    ON CONFLICT (market_id) DO UPDATE
        SET generation = o.generation + 1,
            owned_us = EXCLUDED.owned_us
    RETURNING generation
"""
# Only from our own number: an owner that slept through its succession must not take the market back.
TAKE_OWNERSHIP_AGAIN = """
    /* journal.take_ownership_again */
    UPDATE market_owners
    SET generation = generation + 1,
        owned_us = DEFAULT
    WHERE market_id = $1
        AND generation = $2
    RETURNING generation
"""
# FOR SHARE: the next owner's TAKE_OWNERSHIP waits for this row to be decided, then every later append sees its number.
APPEND = """
    /* journal.append */
    INSERT INTO journal (market_id, first_sequence, last_sequence, engine_version,
        entries, events_hash, state_hash, previous_hash, hash)
    SELECT $1, $3, $4, $5, $6, $7, $8, $9, $10
    FROM (
        SELECT 1
        FROM market_owners
        WHERE market_id = $1
            AND generation = $2
        FOR SHARE
    ) AS mine
"""
ROW = """
    SELECT market_id, first_sequence, last_sequence, engine_version,
        entries, events_hash, state_hash, previous_hash, hash
    FROM journal
"""
ROWS = f"""
    /* journal.rows */
    {ROW}
    WHERE market_id = $1
        AND first_sequence > $2
    ORDER BY first_sequence
    LIMIT $3
"""
LAST = f"""
    /* journal.last */
    {ROW}
    WHERE market_id = $1
    ORDER BY first_sequence DESC
    LIMIT 1
"""
ROW_AT = f"""
    /* journal.row_at */
    {ROW}
    WHERE market_id = $1
        AND first_sequence <= $2
    ORDER BY first_sequence DESC
    LIMIT 1
"""
PARTITIONS = """
    /* journal.partitions */
    SELECT child.relname AS name,
        substring(pg_get_expr(child.relpartbound, child.oid) FROM $$TO \\('(\\d+)'\\)$$)::bigint AS upper,
        i.inhdetachpending AS is_leaving
    FROM pg_inherits i
    JOIN pg_class child ON child.oid = i.inhrelid
    WHERE i.inhparent = to_regclass($1)
    ORDER BY upper
"""


class PostgresJournal:
    """Holds an address only until it is used, so it travels to where its actor runs."""

    def __init__(self, dsn: str, partition_sequences: int = PARTITION_SEQUENCES, readers: "Pool | None" = None) -> None:
        """`readers`: a pool whose sessions have the settings ALWAYS_IN_ORDER_OF_KEY."""
        self._dsn, self._readers = dsn, readers
        self._partition_sequences = partition_sequences
        self._generation = 0
        self._appending: Connection | None = None
        self._append: PreparedStatement[asyncpg.Record] | None = None
        self._reading: Connection | None = None
        self._reading_turn: asyncio.Lock | None = None

    def __repr__(self) -> str:  # the address may hold a password
        return f"PostgresJournal(generation={self._generation})"

    async def open(self, market_id: int) -> int:
        """Become the market's only owner, on a new connection; returns the generation of this ownership.

        When it returns, the journal's last row is final: whatever an earlier owner sent is in it or never will be.
        The first time this takes the market from whoever has it. Again, it is for an owner who does not know the
        outcome of an append, and raises Fenced when the market has gone to another meanwhile.
        """
        await self._close_appending()
        self._appending = await self._connect(f"journal market {market_id}", APPEND_SECONDS)
        # Before the next statement: a lone prepare leaves the server's statement_timeout running on an idle connection.
        append = await self._appending.prepare(APPEND)
        if self._generation:
            taken: int | None = await self._appending.fetchval(TAKE_OWNERSHIP_AGAIN, market_id, self._generation)
        else:
            taken = await self._appending.fetchval(TAKE_OWNERSHIP, market_id)
        if taken is None:
            raise Fenced(f"market {market_id}: generation {self._generation} is no longer the owner")
        self._generation, self._append = taken, append
        return taken

    async def append(self, row: JournalRow) -> None:
        """Make the row durable. Raises Fenced when we are not the owner, and nothing was written.

        Any other exception means that the outcome is not known: `open` again, then replay.
        """
        assert self._append is not None, "open() comes before append()"
        try:
            await self._append.fetch(
                row.market_id,
                self._generation,
                row.first_sequence,
                row.last_sequence,
                row.engine_version,
                row.entries,
                row.events_hash,
                row.state_hash,
                row.previous_hash,
                row.hash,
            )
        except asyncpg.UniqueViolationError as error:
            raise Fenced(
                f"market {row.market_id}: sequence {row.first_sequence} was written by another owner"
            ) from error
        if self._append.get_statusmsg() != "INSERT 0 1":
            raise Fenced(f"market {row.market_id}: generation {self._generation} is no longer the owner")

    async def rows(self, market_id: int, after_sequence: int, limit: int = 500) -> list[JournalRow]:
        """Up to `limit` rows that start after this sequence, in order."""
        return await self._read(ROWS, market_id, after_sequence, limit)

    async def last(self, market_id: int) -> JournalRow | None:
        found = await self._read(LAST, market_id)
        return found[0] if found else None

    async def row_ending_at(self, market_id: int, sequence: int) -> JournalRow | None:
        """The row whose last entry has exactly this sequence."""
        found = await self._read(ROW_AT, market_id, sequence)
        return found[0] if found and found[0].last_sequence == sequence else None

    async def ensure_partitions(self, market_id: int, up_to_sequence: int) -> None:
        """Have a partition for every sequence up to this one. Appends go on meanwhile: a new table is attached."""
        async with self._reader() as connection, connection.transaction():
            await ensure_partitions(connection, market_id, up_to_sequence, self._partition_sequences)

    async def drop_partitions(self, market_id: int, below_sequence: int) -> list[str]:
        """Drop the partitions in which every sequence is below this one; the names of those that went.

        The caller knows that a snapshot at or after this sequence is good and that the rows are archived.
        """
        parent, dropped = f"journal_m{market_id}", []
        async with self._reader() as connection:
            for name, upper, is_leaving in await connection.fetch(PARTITIONS, parent):
                if upper > below_sequence:
                    break
                last = await connection.fetchval(f"SELECT max(last_sequence) FROM {name}")  # noqa: S608 - our name
                if last is not None and last >= below_sequence:
                    break  # its last row reaches over the edge
                how = "FINALIZE" if is_leaving else "CONCURRENTLY"  # is_leaving: the last attempt was cut short
                await connection.execute(f"ALTER TABLE {parent} DETACH PARTITION {name} {how}")
                await connection.execute(f"DROP TABLE {name}")
                dropped.append(name)
        return dropped

    async def close(self) -> None:
        """Give the connections back. The ownership stays recorded until the next `open`, here or elsewhere."""
        await self._close_appending()
        if self._reading is not None:
            connection, self._reading = self._reading, None
            await connection.close(timeout=5)

    async def _read(self, sql: str, *values: int) -> list[JournalRow]:
        async with self._reader() as connection:
            return [JournalRow(*row) for row in await connection.fetch(sql, *values)]

    @asynccontextmanager
    async def _reader(self) -> AsyncIterator[AnyConnection]:
        """One read at a time on each connection."""
        if self._readers is not None:
            async with self._readers.acquire() as lent:  # those before us are bounded by the time of their commands
                yield lent
            return
        if self._reading_turn is None:
            self._reading_turn = asyncio.Lock()
        async with self._reading_turn:
            if self._reading is None or self._reading.is_closed():
                self._reading = await self._connect("journal reader", READ_SECONDS)
            yield self._reading

    async def _connect(self, name: str, seconds: float) -> Connection:
        settings = {**server_settings(name), "synchronous_commit": "on", **ALWAYS_IN_ORDER_OF_KEY}
        return await asyncpg.connect(self._dsn, timeout=10, command_timeout=seconds, server_settings=settings)

    async def _close_appending(self) -> None:
        if self._appending is None:
            return
        connection, self._appending, self._append = self._appending, None, None
        connection.terminate()  # at once: a statement that still runs is decided by the next `open`


async def ensure_partitions(
    connection: AnyConnection, market_id: int, up_to_sequence: int, size: int = PARTITION_SEQUENCES
) -> None:
    """The same inside of a transaction of the caller's, such as the one that makes the market."""
    parent = f"journal_m{market_id}"
    await connection.execute("SELECT pg_advisory_xact_lock(hashtext('journal partitions'), $1)", market_id)
    if await connection.fetchval("SELECT to_regclass($1) IS NULL", parent):
        await connection.execute(
            f"CREATE TABLE {parent} (LIKE journal INCLUDING ALL) PARTITION BY RANGE (first_sequence);"
            f"ALTER TABLE journal ATTACH PARTITION {parent} FOR VALUES IN ({market_id})"
        )
    start: int = max((row[1] for row in await connection.fetch(PARTITIONS, parent)), default=0)
    assert (up_to_sequence - start) // size < PARTITIONS_AT_ONCE_MAX, "that many sequences ahead?"
    while start <= up_to_sequence:
        child, end = f"{parent}_s{start}", start + size
        await connection.execute(
            f"CREATE TABLE {child} (LIKE {parent} INCLUDING ALL);"
            f"ALTER TABLE {parent} ATTACH PARTITION {child} FOR VALUES FROM ({start}) TO ({end})"
        )
        start = end
