"""What the audit of meters reads, all of it in one snapshot; its statements change nothing."""
# ruff: noqa: S608 - the SQL is joined from constants of this file, values are parameters

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

import asyncpg

from engine.metering.books import AcknowledgedReading, Booked, Measured, MeterBooks
from engine.metering.validation import AGE_US_MAX
from persistence.postgres import Pool, PooledConnection

ROWS_AT_ONCE: Final = 5_000
STATEMENT_MS: Final = 600_000
NO_METER: Final = 2**63

# Readings before the oldest month that is kept were dropped, and one that is kept may reach into them.
KEPT_FROM = """
    /* metering_audit.kept_from */
    SELECT coalesce(
        min(extract(epoch FROM to_date(right(child.relname, 7), 'YYYY_MM')::timestamp AT TIME ZONE 'UTC')::bigint), 0
    ) * 1000000
    FROM pg_inherits i
    JOIN pg_class child ON child.oid = i.inhrelid
    WHERE i.inhparent = 'readings'::regclass
        AND child.relname ~ '_[0-9]{4}_[0-9]{2}$'
"""
MEASURED = """
    /* metering_audit.measured */
    SELECT r.meter, r.start_us, r.end_us, r.import_wh, r.export_wh
    FROM readings r
    WHERE NOT EXISTS (
        SELECT 1 FROM readings c WHERE c.meter = r.meter AND c.device = r.device AND c.corrects = r.counter
    )
    ORDER BY r.meter
"""
BOOKED = """
    /* metering_audit.booked */
    SELECT meter, start_us, sum(import_wh)::bigint, sum(export_wh)::bigint, bool_or(closed)
    FROM (
        SELECT meter, start_us, import_wh, export_wh, covered_us > 0 AS closed FROM energy_windows
        UNION ALL
        SELECT meter, start_us, import_wh, export_wh, false FROM energy_adjustments
    ) b
    GROUP BY meter, start_us
    ORDER BY meter
"""
MISSING = """
    /* metering_audit.missing */
    SELECT k.place - 1
    FROM unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[])
        WITH ORDINALITY AS k (meter_id, counter, start_us, end_us, import_wh, export_wh, corrects, place)
    WHERE 1 <> (
        SELECT count(*)
        FROM meters m
        JOIN readings r ON r.meter = m.number AND r.start_us = k.start_us AND r.counter = k.counter
        WHERE m.meter_id = k.meter_id
            AND (r.end_us, r.import_wh, r.export_wh) = (k.end_us, k.import_wh, k.export_wh)
            AND r.corrects IS NOT DISTINCT FROM k.corrects
    )
    ORDER BY k.place
"""
DOUBLED = """
    /* metering_audit.doubled */
    SELECT format('meter %s, device %s: counter %s is there %s times', meter, device, counter, count(*))
    FROM readings
    GROUP BY meter, device, counter
    HAVING count(*) > 1
    LIMIT $1
"""
_POSTED: Final = """
    SELECT w.meter || ':' || w.start_us / 1000000 AS cause, w.owner_id, w.zone, w.export_wh, w.credited_wh,
        w.retired_wh, coalesce(m.verified_us <= w.closed_us, false) AS verified
    FROM energy_windows w
    JOIN meters m ON m.number = w.meter
    UNION ALL
    SELECT a.meter || ':' || a.start_us / 1000000 || ':' || a.device || ':' || a.counter, a.owner_id, a.zone,
        a.export_wh, a.credited_wh, a.retired_wh, coalesce(m.verified_us <= a.posted_us, false)
    FROM energy_adjustments a
    JOIN meters m ON m.number = a.meter
    WHERE a.posted_us IS NOT NULL
"""
# Credited is what verified meters exported, and what was taken back and not there any more is still owed.
HOLDERS_OFF = f"""
    /* metering_audit.holders_off */
    SELECT format(
        'participant %s in %s: credited %s Wh, exported %s, owes %s', owner_id, zone, credited, exported, owed
    )
    FROM (
        SELECT owner_id, zone, coalesce(sum(credited_wh), 0) AS credited,
            coalesce(sum(export_wh) FILTER (WHERE verified), 0) AS exported
        FROM ({_POSTED}) p
        GROUP BY owner_id, zone
    ) s
    FULL JOIN (SELECT owner_id, zone, debt_wh AS owed FROM energy_debts) d USING (owner_id, zone)
    WHERE coalesce(credited, 0) <> coalesce(exported, 0) + coalesce(owed, 0)
    LIMIT $1
"""
_MOVES: Final = f"""
    posted AS ({_POSTED}),
    moves AS (
        SELECT 'energy_generated' AS kind, cause, owner_id, zone, credited_wh AS amount FROM posted
        WHERE credited_wh > 0
        UNION ALL
        SELECT 'energy_revoked', cause, owner_id, zone, -credited_wh FROM posted WHERE credited_wh < 0
        UNION ALL
        SELECT 'energy_retired', cause, owner_id, zone, retired_wh FROM posted WHERE retired_wh > 0
    )
"""
TRANSFERS_OFF = f"""
    /* metering_audit.transfers_off */
    WITH {_MOVES}, booked AS (
        SELECT t.reference, a.participant_id AS owner_id, a.asset,
            CASE t.kind WHEN 'energy_generated' THEN e.amount ELSE -e.amount END AS amount
        FROM transfers t
        JOIN entries e USING (transfer_id)
        JOIN accounts a USING (account_id)
        WHERE t.kind IN ('energy_generated', 'energy_revoked', 'energy_retired')
            AND a.kind = 'main'
    )
    SELECT format('%s: %s Wh by its window, %s in the ledger', coalesce(b.reference, m.kind || ':' || m.cause),
        coalesce(m.amount, 0), coalesce(b.amount, 0))
    FROM moves m
    FULL JOIN booked b ON b.reference = m.kind || ':' || m.cause
        AND (b.owner_id, b.asset, b.amount) = (m.owner_id, 'energy:' || m.zone, m.amount)
    WHERE m.cause IS NULL
        OR b.reference IS NULL
    LIMIT $1
"""
OUTBOX_OFF = f"""
    /* metering_audit.outbox_off */
    WITH {_MOVES}
    SELECT format('%s %s: %s Wh by its window, %s for the chain', coalesce(o.kind, m.kind), coalesce(o.key, m.cause),
        coalesce(m.amount, 0), coalesce(o.payload ->> 'amount_wh', '0'))
    FROM moves m
    FULL JOIN (
        SELECT kind, key, payload FROM outbox WHERE kind IN ('energy_generated', 'energy_revoked', 'energy_retired')
    ) o ON o.kind = m.kind
        AND o.key = m.cause
        AND (o.payload ->> 'amount_wh')::bigint = m.amount
    WHERE m.cause IS NULL
        OR o.key IS NULL
    LIMIT $1
"""


class PostgresMeteringAudit:
    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    @asynccontextmanager
    async def view(self) -> "AsyncIterator[MeteringSnapshot]":
        """The tables at one instant, until the block ends."""
        async with (
            self._pool.acquire() as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            await connection.execute(f"SET LOCAL statement_timeout = {STATEMENT_MS}")
            yield MeteringSnapshot(connection)


class MeteringSnapshot:
    def __init__(self, connection: PooledConnection) -> None:
        self._connection = connection

    async def books(self) -> AsyncIterator[MeterBooks]:
        """Every meter that has a reading or a window, in the order of their numbers."""
        from_us = await self._connection.fetchval(KEPT_FROM)
        from_us += AGE_US_MAX if from_us else 0  # no interval is longer
        measured, booked = _Rows(self._connection, MEASURED), _Rows(self._connection, BOOKED)
        while (meter := min(await measured.next_meter(), await booked.next_meter())) < NO_METER:
            yield MeterBooks(
                meter,
                from_us,
                [Measured(*list(row)[1:]) async for row in measured.of(meter)],
                {row[1]: Booked(*list(row)[2:]) async for row in booked.of(meter)},
            )

    async def missing(self, acknowledged: Sequence[AcknowledgedReading]) -> list[int]:
        """The places of those that are not there exactly once, with these contents."""
        rows = [
            (one.meter_id.hex(), one.counter, one.start_us, one.end_us, one.import_wh, one.export_wh, one.corrects)
            for one in acknowledged
        ]
        return [row[0] for row in await self._connection.fetch(MISSING, *map(list, zip(*rows, strict=True)))]

    async def doubled(self, limit: int) -> list[str]:
        return await self._lines(DOUBLED, limit)

    async def holders_off(self, limit: int) -> list[str]:
        return await self._lines(HOLDERS_OFF, limit)

    async def transfers_off(self, limit: int) -> list[str]:
        return await self._lines(TRANSFERS_OFF, limit)

    async def outbox_off(self, limit: int) -> list[str]:
        return await self._lines(OUTBOX_OFF, limit)

    async def _lines(self, sql: str, limit: int) -> list[str]:
        return [row[0] for row in await self._connection.fetch(sql, limit)]


class _Rows:
    """The rows of a statement in the order of its first column, one meter after the other; few in memory at once."""

    def __init__(self, connection: PooledConnection, sql: str) -> None:
        self._rows = connection.cursor(sql, prefetch=ROWS_AT_ONCE).__aiter__()
        self._next: asyncpg.Record | None = None
        self._begun = False

    async def next_meter(self) -> int:
        """NO_METER after the last one."""
        if not self._begun:
            self._begun = True
            await self._step()
        return self._next[0] if self._next is not None else NO_METER

    async def of(self, meter: int) -> AsyncIterator[asyncpg.Record]:
        while self._next is not None and self._next[0] == meter:
            yield self._next
            await self._step()

    async def _step(self) -> None:
        self._next = await anext(self._rows, None)
