"""Snapshots of market states, compressed. A snapshot is only ever a shortcut: the journal can make it again.

zlib level 1 here and not TOAST compression there: it runs outside the event loop and sends less.
"""

import asyncio
import zlib
from collections.abc import AsyncIterator
from typing import Final

from engine.journal import Snapshot
from persistence.postgres import Pool

COMPRESSION: Final = 1
STATE_BYTES_MAX: Final = 2**30

SAVE = """
    /* snapshots.save */
    INSERT INTO snapshots (market_id, sequence, engine_version, state_hash, journal_hash, state, state_bytes)
    VALUES ($1, $2, $3, $4, $5, $6, $7)
    ON CONFLICT (market_id, sequence) DO UPDATE
        SET engine_version = EXCLUDED.engine_version,
            state_hash = EXCLUDED.state_hash,
            journal_hash = EXCLUDED.journal_hash,
            state = EXCLUDED.state,
            state_bytes = EXCLUDED.state_bytes,
            taken_us = EXCLUDED.taken_us
"""
NEWEST_BELOW = """
    /* snapshots.newest_below */
    SELECT market_id, sequence, engine_version, state_hash, journal_hash, state, state_bytes
    FROM snapshots
    WHERE market_id = $1
        AND sequence < $2
    ORDER BY sequence DESC
    LIMIT 1
"""
PRUNE = """
    /* snapshots.prune */
    DELETE FROM snapshots
    WHERE market_id = $1
        AND sequence > 0
        AND sequence < (
            SELECT min(sequence)
            FROM (
                SELECT sequence
                FROM snapshots
                WHERE market_id = $1
                ORDER BY sequence DESC
                LIMIT $2
            ) AS kept
        )
    RETURNING sequence
"""


class PostgresSnapshots:
    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def save(self, snapshot: Snapshot) -> None:
        """Keep the snapshot; one of the same sequence is replaced."""
        assert len(snapshot.state) <= STATE_BYTES_MAX, "a value in Postgres ends at 1 GiB"
        state = await asyncio.to_thread(zlib.compress, snapshot.state, COMPRESSION)
        await self._pool.execute(
            SAVE,
            snapshot.market_id,
            snapshot.sequence,
            snapshot.engine_version,
            snapshot.state_hash,
            snapshot.journal_hash,
            state,
            len(snapshot.state),
        )

    async def newest_first(self, market_id: int, at_most: int | None = None) -> AsyncIterator[Snapshot]:
        """The market's snapshots up to a sequence, one in memory at a time.

        A state that cannot be read back comes out empty, so that the caller's check of its hash passes it over.
        """
        below = 2**63 - 1 if at_most is None else at_most + 1
        while (row := await self._pool.fetchrow(NEWEST_BELOW, market_id, below)) is not None:
            below = row["sequence"]
            yield Snapshot(
                market_id=row["market_id"],
                sequence=row["sequence"],
                engine_version=row["engine_version"],
                state_hash=row["state_hash"],
                journal_hash=row["journal_hash"],
                state=await asyncio.to_thread(_unpack, row["state"], row["state_bytes"]),
            )

    async def prune(self, market_id: int, keep: int) -> int:
        """Remove all but the newest `keep` (at least 1) and the one at sequence 0, where a full replay begins."""
        return len(await self._pool.fetch(PRUNE, market_id, max(keep, 1)))


def _unpack(packed: bytes, size: int) -> bytes:
    try:
        return zlib.decompressobj().decompress(packed, max(size, 1))
    except zlib.error:
        return b""
