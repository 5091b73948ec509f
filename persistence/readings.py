"""Readings as an aggregator keeps them: one writer per slot of meters, and what it needs to begin anew.

The fence is a lock of each session that writes, one for readings and one for windows, so that they need not wait for
each other. Whoever opens a shard ends the sessions of an earlier owner of its slots, and PostgreSQL gives the locks
free only when those sessions, and what they were writing, are over. So what is read after `open` is final, and no two
processes write readings, or windows, of one meter.
"""
# ruff: noqa: S608 - the SQL is joined from constants of this file, values are parameters

import asyncio
from collections.abc import Callable, Collection, Sequence
from typing import Any, Final

import asyncpg

from engine.audit import SYSTEM
from engine.metering.readings import SLOTS, Stored
from engine.metering.records import Ask, PostedWindow, Refused
from engine.metering.runs import Run
from engine.metering.validation import DAY_US, PEAK_DAYS, Meter
from engine.metering.windows import WINDOW_US, Adjustment, Closing, Windows, split
from persistence.audit_log import append
from persistence.energy_posting import EnergyPosting
from persistence.postgres import ACQUIRE_SECONDS, Connection, Pool, server_settings
from persistence.reading_rows import COLUMNS, copied

READINGS_CLASS: Final = 0x4D657472  # "Metr"
WINDOWS_CLASS: Final = 0x57696E64  # "Wind"
OPEN_SECONDS: Final = 20.0
TRY_SECONDS: Final = 0.02  # until a session that was ended is gone
WRITE_SECONDS: Final = 10.0
DETAIL_MAX: Final = 200
AHEAD_US: Final = 40 * DAY_US  # partitions are there for
BEHIND_US: Final = 40 * DAY_US

_COLUMNS: Final = ", ".join(f"r.{name}" for name in Stored.__struct_fields__)

END_EARLIER_OWNERS = """
    /* readings.end_earlier_owners */
    SELECT pg_terminate_backend(pid)
    FROM pg_locks
    WHERE locktype = 'advisory'
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
        AND classid = $1
        AND objid = ANY($2::oid[])
        AND objsubid = 2
        AND granted
        AND pid <> $3
"""
TRY_SLOTS = (
    "/* readings.try_slots */ SELECT bool_and(pg_try_advisory_lock($1, slot)) FROM unnest($2::integer[]) AS s (slot)"
)
TAKE_SLOTS = "/* readings.take_slots */ SELECT pg_advisory_lock($1, slot) FROM unnest($2::integer[]) AS s (slot)"
# What a restart needs of each meter: its last word, its watermark, its register, its last closed window, its peaks.
STATES = """
    /* readings.states */
    SELECT m.number, m.rated_power_w, m.register_wh_max, m.device, c.counter, c.received_us, e.end_us,
        w.start_us AS closed_start_us, w.import_wh, w.export_wh, w.covered_us, p.days, p.peaks
    FROM meters m
    LEFT JOIN LATERAL (
        SELECT counter, received_us FROM readings WHERE meter = m.number AND device = m.device
        ORDER BY counter DESC LIMIT 1
    ) c ON true
    LEFT JOIN LATERAL (
        SELECT end_us FROM readings WHERE meter = m.number ORDER BY start_us DESC, end_us DESC LIMIT 1
    ) e ON true
    LEFT JOIN LATERAL (
        SELECT start_us, import_wh, export_wh, covered_us FROM energy_windows WHERE meter = m.number
        ORDER BY start_us DESC LIMIT 1
    ) w ON true
    LEFT JOIN LATERAL (
        SELECT array_agg(day) AS days, array_agg(peak) AS peaks
        FROM (
            SELECT start_us / 86400000000 AS day, max(power_w_max) AS peak FROM energy_rollups
            WHERE meter = m.number AND seconds = 86400 AND start_us >= $2
            GROUP BY day
        ) d
    ) p ON true
    WHERE m.number = ANY($1::bigint[])
"""
REGISTERS = f"""
    /* readings.registers */
    SELECT {_COLUMNS}
    FROM meters m
    CROSS JOIN LATERAL (
        SELECT * FROM readings WHERE meter = m.number AND device = m.device AND import_register_wh IS NOT NULL
        ORDER BY counter DESC LIMIT 1
    ) r
    WHERE m.number = ANY($1::bigint[])
"""
# In force, and reaching into windows that are not closed. Seven days back: no interval is longer.
OPEN_READINGS = f"""
    /* readings.open_readings */
    SELECT {_COLUMNS}
    FROM unnest($1::bigint[], $2::bigint[]) AS o (meter, closed_us)
    JOIN readings r ON r.meter = o.meter AND r.start_us > o.closed_us - 604800000000 AND r.end_us > o.closed_us
    WHERE NOT EXISTS (
        SELECT 1 FROM readings c WHERE c.meter = r.meter AND c.device = r.device AND c.corrects = r.counter
    )
"""
BY_COUNTER = f"""
    /* readings.by_counter */
    SELECT {_COLUMNS}
    FROM unnest($1::bigint[], $2::integer[], $3::bigint[]) AS k (meter, device, counter)
    JOIN readings r USING (meter, device, counter)
"""
BY_CORRECTED = f"""
    /* readings.by_corrected */
    SELECT {_COLUMNS}
    FROM unnest($1::bigint[], $2::integer[], $3::bigint[]) AS k (meter, device, corrects)
    JOIN readings r USING (meter, device, corrects)
"""
BY_TIME = f"""
    /* readings.by_time */
    SELECT {_COLUMNS}
    FROM unnest($1::bigint[], $2::bigint[], $3::bigint[]) AS k (meter, start_us, end_us)
    JOIN readings r ON r.meter = k.meter AND r.start_us < k.end_us AND r.start_us > k.start_us - 604800000000
    WHERE r.end_us > k.start_us
"""
VERIFY = """
    /* readings.verify */
    UPDATE meters
    SET status = 'verified',
        verified_us = $2
    WHERE number = ANY($1::bigint[])
        AND status = 'registered'
"""
# Its owner trades where his meter is.
MOVE_OWNERS = """
    /* readings.move_owners */
    UPDATE users u
    SET zone = a.zone
    FROM users before
    JOIN (
        SELECT DISTINCT ON (owner_id) owner_id, zone
        FROM (
            SELECT DISTINCT ON (meter) owner_id, zone
            FROM meter_assignments
            WHERE meter = ANY($1::bigint[])
                AND valid_from_us <= $2
            ORDER BY meter, valid_from_us DESC
        ) now
        ORDER BY owner_id, zone
    ) a ON a.owner_id = before.user_id
    WHERE u.user_id = before.user_id
        AND u.zone <> a.zone
    RETURNING u.user_id, before.zone AS zone_before, u.zone
"""
UNPOSTED = """
    /* readings.unposted */
    SELECT DISTINCT meter
    FROM energy_adjustments
    JOIN meters ON number = meter
    WHERE posted_us IS NULL
        AND get_byte(uuid_send(meter_id), 0) % 64 = ANY($1::integer[])
"""
OWN_METERS = """
    /* readings.own_meters */
    SELECT uuid_send(meter_id)
    FROM meters
    WHERE get_byte(uuid_send(meter_id), 0) % 64 = ANY($1::integer[])
"""
MAKE_PARTITIONS = "/* readings.make_partitions */ SELECT metering_make_partitions($1, $2)"
DROP_PARTITIONS = "/* readings.drop_partitions */ SELECT metering_drop_partitions($1, $2)"

_ADJUSTMENT: Final = ("meter", "start_us", "device", "counter", "import_wh", "export_wh", "made_us")
_VERDICT: Final = ("at_us", "meter", "counter", "code", "detail")


class FenceLost(Exception):
    """The writing session is gone, and with it the right to write."""


class PostgresReadings:
    """Holds an address and a pool; `open` makes the sessions that may write."""

    def __init__(self, dsn: str, pool: Pool) -> None:
        self._dsn, self._pool = dsn, pool
        self._sessions: tuple[Connection, Connection] | None = None
        self._slots: list[int] = []
        self._posting = EnergyPosting(pool)

    def __repr__(self) -> str:  # the address may hold a password
        return f"PostgresReadings(open={self._sessions is not None})"

    async def open(self, shard: int, shards: int, changed: Callable[[int], None]) -> None:
        """Become the only writer of this shard's slots; earlier owners are ended, and what they wrote is final.

        `changed` is told the numbers of meters that anybody has changed from then on.
        """
        await self.close()
        self._slots = [slot for slot in range(SLOTS) if slot % shards == shard]
        readings = await self._connect(f"meters {shard} of {shards}")
        windows: Connection | None = None
        try:
            windows = await self._connect(f"windows {shard} of {shards}")
            await readings.add_listener("meters", lambda *heard: changed(int(heard[3])))
            async with asyncio.timeout(OPEN_SECONDS):
                await readings.execute(END_EARLIER_OWNERS, READINGS_CLASS, self._slots, readings.get_server_pid())
                await readings.execute(TAKE_SLOTS, READINGS_CLASS, self._slots, timeout=OPEN_SECONDS)
                # Only the owner of readings may end that of windows: who was ended himself meanwhile, fails here.
                while not await windows.fetchval(TRY_SLOTS, WINDOWS_CLASS, self._slots):
                    await readings.execute(END_EARLIER_OWNERS, WINDOWS_CLASS, self._slots, windows.get_server_pid())
                    await asyncio.sleep(TRY_SECONDS)
        except BaseException:
            readings.terminate()
            if windows is not None:
                windows.terminate()
            raise
        self._sessions = (readings, windows)

    async def _connect(self, name: str) -> Connection:
        return await asyncpg.connect(
            self._dsn,
            timeout=ACQUIRE_SECONDS,
            command_timeout=WRITE_SECONDS,
            server_settings={**server_settings(name), "lock_timeout": f"{OPEN_SECONDS:.0f}s"},
        )

    async def close(self) -> None:
        sessions, self._sessions = self._sessions, None
        for session in sessions or ():
            session.terminate()

    def _open_sessions(self) -> tuple[Connection, Connection]:
        """That of readings, that of windows. Raises FenceLost."""
        if self._sessions is None or any(session.is_closed() for session in self._sessions):
            raise FenceLost("a writing session has ended")
        return self._sessions

    async def own_meters(self) -> list[bytes]:
        """The ids of all meters of this shard."""
        return [row[0] for row in await self._pool.fetch(OWN_METERS, self._slots)]

    async def unposted(self) -> list[int]:
        """Meters of this shard with adjustments that are not posted yet."""
        return [row[0] for row in await self._pool.fetch(UNPOSTED, self._slots)]

    async def states(self, numbers: Collection[int], now_us: int) -> list[Meter]:
        """What the tables say that an aggregator would know of these meters: with their open windows."""
        since_us = now_us - (PEAK_DAYS + 1) * DAY_US
        meters = {row["number"]: _state(row) for row in await self._pool.fetch(STATES, list(numbers), since_us)}
        for row in await self._pool.fetch(REGISTERS, list(numbers)):
            meters[row["meter"]].register = Stored(*row)
        closed = [meter.windows.closed_us for meter in meters.values()]
        for row in await self._pool.fetch(OPEN_READINGS, list(meters), closed):
            reading = Stored(*row)
            for portion in split(reading.start_us, reading.end_us, reading.import_wh, reading.export_wh):
                meters[reading.meter].windows.add(portion)  # what is closed took its part as an adjustment
        return list(meters.values())

    async def past(self, asks: Sequence[Ask]) -> list[Stored]:
        """The rows on which verdicts about these depend, some of them more than once."""
        if not asks:
            return []
        counters = [(one.meter, one.device, one.counter) for one in asks]
        corrected = [(one.meter, one.device, one.corrects) for one in asks if one.corrects is not None]
        times = [(one.meter, one.start_us, one.end_us) for one in asks if one.end_us > one.start_us]
        rows = await self._fetch(BY_COUNTER, [*counters, *corrected])
        rows += await self._fetch(BY_CORRECTED, corrected)
        rows += await self._fetch(BY_TIME, times)
        return [Stored(*row) for row in rows]

    async def _fetch(self, sql: str, keys: list[Any]) -> list[asyncpg.Record]:
        return await self._pool.fetch(sql, *map(list, zip(*keys, strict=True))) if keys else []

    async def write(
        self,
        runs: Sequence[Run],
        others: Sequence[tuple[Stored, bytes | None]],
        adjustments: Sequence[Adjustment],
        refused: Sequence[Refused],
        verified: Collection[int],
        now_us: int,
    ) -> None:
        """Everything of one batch, in one commit. After any error its outcome is unknown: open again and ask.

        `others`: what no run has, each with its signature if it has one of its own.
        """
        session, _ = self._open_sessions()
        if not (adjustments or refused or verified):
            await _copy(session, runs, others)
            return
        async with session.transaction():
            await _copy(session, runs, others)
            if adjustments:
                late = [
                    (one.meter, one.start_us, one.device, one.counter, one.import_wh, one.export_wh, now_us)
                    for one in adjustments
                ]
                await session.copy_records_to_table("energy_adjustments", records=late, columns=_ADJUSTMENT)
            if refused:
                verdicts = [
                    (now_us, one.meter, one.counter, one.code.value, one.detail[:DETAIL_MAX]) for one in refused
                ]
                await session.copy_records_to_table("reading_verdicts", records=verdicts, columns=_VERDICT)
            if verified:
                await session.execute(VERIFY, sorted(verified), now_us)
                for user_id, before, zone in await session.fetch(MOVE_OWNERS, sorted(verified), now_us):
                    await append(session, SYSTEM, "user.changed", f"user:{user_id}", {"zone": before}, {"zone": zone})

    async def post(
        self, closings: Sequence[Closing], adjusted: Collection[int], now_us: int
    ) -> tuple[list[PostedWindow], bool]:
        """Close these windows and post adjustments of these meters: energy_posting.py."""
        return await self._posting.post(self._open_sessions()[1], closings, adjusted, now_us)

    async def keep_partitions(self, now_us: int, keep_readings_us: int, keep_verdicts_us: int) -> None:
        """Make the months that come, and drop those that nobody wants any more."""
        await self._pool.execute(MAKE_PARTITIONS, now_us - BEHIND_US, now_us + AHEAD_US)
        await self._pool.execute(DROP_PARTITIONS, "readings", now_us - keep_readings_us)
        await self._pool.execute(DROP_PARTITIONS, "reading_verdicts", now_us - keep_verdicts_us)


async def _copy(session: Connection, runs: Sequence[Run], others: Sequence[tuple[Stored, bytes | None]]) -> None:
    if runs or others:
        await session.copy_to_table("readings", source=copied(runs, others), columns=COLUMNS, format="binary")


def _state(row: asyncpg.Record) -> Meter:
    windows = Windows(row["number"])
    if row["closed_start_us"] is not None:
        windows.closed_us = row["closed_start_us"] + WINDOW_US
        windows.last = Closing(
            row["number"], row["closed_start_us"], row["import_wh"], row["export_wh"], row["covered_us"]
        )
    return Meter(
        number=row["number"],
        rated_power_w=row["rated_power_w"],
        register_wh_max=row["register_wh_max"],
        windows=windows,
        device=row["device"],
        counter=row["counter"] if row["counter"] is not None else -1,
        end_us=row["end_us"] or 0,
        heard_us=row["received_us"] or 0,
        peaks=dict(zip(row["days"] or (), row["peaks"] or (), strict=True)),
    )
