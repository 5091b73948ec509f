"""Journals' oldest rows in files: `<folder>/<market_id>/<first>-<last>.journal.zst`, and a journal that reads both.

A file is one zstd frame of a msgpack Archived, written beside its name, made durable, renamed; it never changes. Its
digest and the ends of its hash chain are in the table journal_archives. Source: docs/decisions/0047.
"""
# ruff: noqa: S608 - the SQL is joined from constants of this file, values are parameters

import asyncio
import hashlib
import os
import sys
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from engine.journal import GENESIS_HASH, JournalBroken, JournalRow, Stretch, follow
from engine.records import Closed
from engine.units import TimeUs
from persistence.journal import PostgresJournal
from persistence.postgres import Pool

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

ROWS_AT_ONCE: Final = 500
ENTRIES_BYTES_MAX: Final = 16 * 2**20  # of the rows of one file, before compression; one row may go beyond
FILE_BYTES_MAX: Final = 128 * 2**20  # of a file that is read, after decompression
LEVEL: Final = 9

# The newest row stays: a journal that has begun is never empty.
CLOSED = """
    /* archive.closed */
    SELECT m.market_id,
        m.symbol,
        a.last_sequence AS archived_sequence,
        least(coalesce(s.sequence, 0), coalesce(c.sequence, 0), newest.first_sequence - 1) AS last_sequence,
        oldest.committed_us AS oldest_us
    FROM markets m
    CROSS JOIN LATERAL (
        SELECT coalesce(max(last_sequence), 0) AS last_sequence FROM journal_archives WHERE market_id = m.market_id
    ) AS a
    CROSS JOIN LATERAL (
        SELECT min(sequence) AS sequence FROM snapshots WHERE market_id = m.market_id AND sequence > 0
    ) AS s
    CROSS JOIN LATERAL (
        SELECT committed_us FROM journal WHERE market_id = m.market_id AND first_sequence > a.last_sequence
        ORDER BY first_sequence LIMIT 1
    ) AS oldest
    CROSS JOIN LATERAL (
        SELECT first_sequence FROM journal WHERE market_id = m.market_id ORDER BY first_sequence DESC LIMIT 1
    ) AS newest
    LEFT JOIN cursors c ON c.market_id = m.market_id
    ORDER BY m.market_id
"""
_STRETCH = "market_id, first_sequence, last_sequence, journal_rows, previous_hash, hash, file_bytes, sha256"
# Recorded, and its first row is still in the table.
RECORDED = f"""
    /* archive.recorded */
    SELECT {_STRETCH}
    FROM journal_archives a
    WHERE market_id = $1
        AND EXISTS (
            SELECT FROM journal j
            WHERE j.market_id = $1
                AND j.first_sequence BETWEEN a.first_sequence AND a.last_sequence
        )
    ORDER BY first_sequence
"""
AT = f"""
    /* archive.at */
    SELECT {_STRETCH}
    FROM journal_archives
    WHERE market_id = $1
        AND first_sequence <= $2
    ORDER BY first_sequence DESC
    LIMIT 1
"""
LAST_HASH = "/* archive.last_hash */ SELECT hash FROM journal_archives WHERE market_id = $1 AND last_sequence = $2"
RECORD = f"/* archive.record */ INSERT INTO journal_archives ({_STRETCH}) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)"
ROWS = """
    /* archive.rows */
    SELECT market_id, first_sequence, last_sequence, engine_version, entries, events_hash, state_hash, previous_hash,
        hash, committed_us
    FROM journal
    WHERE market_id = $1
        AND first_sequence > $2
        AND last_sequence <= $3
    ORDER BY first_sequence
    LIMIT $4
"""
HASHES = """
    /* archive.hashes */
    SELECT first_sequence, hash
    FROM journal
    WHERE market_id = $1
        AND first_sequence BETWEEN $2 AND $3
    ORDER BY first_sequence
"""
REMOVE = "/* archive.remove */ DELETE FROM journal WHERE market_id = $1 AND first_sequence BETWEEN $2 AND $3"


class Archived(Struct, frozen=True, array_like=True):
    """A file's content: rows in order, and when each was committed (microseconds UTC)."""

    format: int
    rows: list[tuple[JournalRow, int]]


FORMAT: Final = 1
_decode = msgspec.msgpack.Decoder(Archived).decode


class FileArchive:
    """What actors/archiving.py asks for. Files are written and read in a thread."""

    def __init__(self, dsn: str, pool: Pool, folder: Path) -> None:
        self._dsn, self._pool, self._folder = dsn, pool, folder

    async def closed(self) -> list[Closed]:
        """Every market that has rows in the table."""
        return [Closed(*row) for row in await self._pool.fetch(CLOSED)]

    async def recorded(self, market_id: int) -> list[Stretch]:
        """Files that are recorded, and whose rows are still in the table."""
        return [Stretch(*row) for row in await self._pool.fetch(RECORDED, market_id)]

    async def write(self, closed: Closed, before_us: TimeUs) -> Stretch | None:
        """A durable file of the market's next closed rows from before this time; None when there is none."""
        rows: list[tuple[JournalRow, int]] = []
        last, size = closed.archived_sequence, 0
        while size < ENTRIES_BYTES_MAX:
            page = await self._pool.fetch(ROWS, closed.market_id, last, closed.last_sequence, ROWS_AT_ONCE)
            for *fields, committed_us in page:
                if committed_us >= before_us or size >= ENTRIES_BYTES_MAX:
                    page = []
                    break
                rows.append((JournalRow(*fields), committed_us))
                last, size = rows[-1][0].last_sequence, size + len(rows[-1][0].entries)
            if len(page) < ROWS_AT_ONCE:
                break
        if not rows:
            return None
        previous = await self._pool.fetchval(LAST_HASH, closed.market_id, closed.archived_sequence) or GENESIS_HASH
        return await asyncio.to_thread(_write, self._folder, rows, previous)

    async def record(self, stretch: Stretch) -> None:
        await self._pool.execute(RECORD, *msgspec.structs.astuple(stretch))

    async def verify(self, stretch: Stretch) -> None:
        """The file holds an unbroken chain, and row for row what is in the table. Raises JournalBroken."""
        found = await asyncio.to_thread(_proven, self._folder, stretch)
        rows = await self._pool.fetch(HASHES, stretch.market_id, stretch.first_sequence, stretch.last_sequence)
        if [(row[0], row[1]) for row in rows] != [(row.first_sequence, row.hash) for row in found]:
            raise JournalBroken(f"{_path(self._folder, stretch)} does not hold the rows of the table")

    async def remove(self, stretch: Stretch) -> None:
        """Delete its rows, and the partitions that end below."""
        await self._pool.execute(REMOVE, stretch.market_id, stretch.first_sequence, stretch.last_sequence)
        journal = PostgresJournal(self._dsn)
        try:
            await journal.drop_partitions(stretch.market_id, stretch.last_sequence + 1)
        finally:
            await journal.close()


class ArchivedJournal(PostgresJournal):
    """A journal whose oldest rows may be in files: to who reads it, it is one. Keeps the file that it read last."""

    def __init__(self, dsn: str, folder: Path, readers: "Pool | None" = None) -> None:
        super().__init__(dsn, readers=readers)
        self._folder = folder
        self._kept: tuple[Stretch, list[JournalRow]] | None = None

    async def rows(self, market_id: int, after_sequence: int, limit: int = 500) -> list[JournalRow]:
        """Up to `limit` rows that start after this sequence, in order. Raises JournalBroken when a file is not whole.

        Fewer than `limit` when a file ends; none only at the end of the journal.
        """
        if self._kept is None or not _has(self._kept[0], market_id, after_sequence + 1):
            self._kept = None
            rows = await super().rows(market_id, after_sequence, limit)
            if not rows or rows[0].first_sequence == after_sequence + 1:
                return rows
            stretch = await self._at(market_id, after_sequence + 1)
            if stretch is None:
                return rows  # the caller sees that some are missing
            self._kept = stretch, await asyncio.to_thread(_rows, self._folder, stretch)
        return [row for row in self._kept[1] if row.first_sequence > after_sequence][:limit]

    async def _at(self, market_id: int, sequence: int) -> Stretch | None:
        async with self._reader() as connection:
            row = await connection.fetchrow(AT, market_id, sequence)
        stretch = Stretch(*row) if row is not None else None
        return stretch if stretch is not None and _has(stretch, market_id, sequence) else None


def _has(stretch: Stretch, market_id: int, sequence: int) -> bool:
    return stretch.market_id == market_id and stretch.first_sequence <= sequence <= stretch.last_sequence


def _path(folder: Path, stretch: Stretch) -> Path:
    name = f"{stretch.first_sequence:012d}-{stretch.last_sequence:012d}.journal.zst"
    return folder / str(stretch.market_id) / name


def _write(folder: Path, rows: list[tuple[JournalRow, int]], previous_hash: bytes) -> Stretch:
    packed = zstd.compress(msgspec.msgpack.encode(Archived(FORMAT, rows)), LEVEL)
    first, last = rows[0][0], rows[-1][0]
    stretch = Stretch(
        market_id=first.market_id,
        first_sequence=first.first_sequence,
        last_sequence=last.last_sequence,
        journal_rows=len(rows),
        previous_hash=previous_hash,
        hash=last.hash,
        file_bytes=len(packed),
        sha256=hashlib.sha256(packed).digest(),
    )
    path = _path(folder, stretch)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".unfinished")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(packed)
        file.flush()
        os.fsync(file.fileno())
    draft.rename(path)
    for each in (path.parent, folder):
        descriptor = os.open(each, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    return stretch


def _rows(folder: Path, stretch: Stretch) -> list[JournalRow]:
    """The file's rows, if it is the one that was recorded. Raises JournalBroken."""
    path = _path(folder, stretch)
    try:
        packed = path.read_bytes()
    except OSError as error:
        raise JournalBroken(f"{path}: rows of the journal are in this file: {error.strerror}") from error
    if hashlib.sha256(packed).digest() != stretch.sha256:
        raise JournalBroken(f"{path} is not what was written")
    unpacked = zstd.ZstdDecompressor()
    content = _decode(unpacked.decompress(packed, FILE_BYTES_MAX))
    if content.format != FORMAT or not unpacked.eof:
        raise JournalBroken(f"{path} has a form that this version does not read")
    return [row for row, _ in content.rows]


def _proven(folder: Path, stretch: Stretch) -> list[JournalRow]:
    """The same, after following the hash chain from one end to the other. Raises JournalBroken."""
    rows = _rows(folder, stretch)
    sequence, hash_ = stretch.first_sequence - 1, stretch.previous_hash
    for row in rows:
        follow(row, sequence, hash_)
        sequence, hash_ = row.last_sequence, row.hash
    if (sequence, hash_, len(rows)) != (stretch.last_sequence, stretch.hash, stretch.journal_rows):
        raise JournalBroken(f"{_path(folder, stretch)} does not end where it should")
    return rows
