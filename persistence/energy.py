"""What was measured, closed and credited, as people ask for it: readings as known at an instant, windows, series, sums.

Nothing is overwritten, so each question can be asked as of an earlier instant: what arrived later is left out.
"""

from typing import Final

from engine.metering.records import EnergyStep, EnergySums, ShownReading, StoredWindow
from engine.units import FOREVER_US, SECOND_US
from persistence.postgres import Pool

ROLLED_SECONDS: Final = (3_600, 86_400)

# A correction has the interval of what it corrects, so it is found by the same key.
READINGS = """
    /* energy.readings */
    SELECT r.device, r.counter, r.start_us, r.end_us, r.import_wh, r.export_wh, r.import_register_wh,
        r.export_register_wh, r.corrects, r.flags, r.received_us,
        (
            SELECT min(c.counter)
            FROM readings c
            WHERE c.meter = r.meter
                AND c.start_us = r.start_us
                AND c.device = r.device
                AND c.corrects = r.counter
                AND c.received_us <= $4
        ) AS corrected_by
    FROM readings r
    WHERE r.meter = $1
        AND r.start_us >= $2
        AND r.start_us < $3
        AND r.received_us <= $4
        AND (r.start_us, r.device, r.counter) > ($5, $6, $7)
    ORDER BY r.start_us, r.device, r.counter
    LIMIT $8
"""
# Windows with their adjustments, as known at an instant; estimates count as long as nothing was measured.
_WINDOWS: Final = """
    SELECT w.start_us,
        w.import_wh + coalesce(a.import_wh, 0) AS import_wh,
        w.export_wh + coalesce(a.export_wh, 0) AS export_wh,
        CASE WHEN a.changes IS NULL THEN w.import_estimated_wh ELSE 0 END AS import_estimated_wh,
        CASE WHEN a.changes IS NULL THEN w.export_estimated_wh ELSE 0 END AS export_estimated_wh
    FROM energy_windows w
    LEFT JOIN LATERAL (
        SELECT sum(import_wh)::bigint AS import_wh, sum(export_wh)::bigint AS export_wh, min(1) AS changes
        FROM energy_adjustments
        WHERE meter = w.meter
            AND start_us = w.start_us
            AND made_us <= $4
    ) a ON true
    WHERE w.meter = $1
        AND w.start_us >= $2
        AND w.start_us < $3
        AND w.closed_us <= $4
    UNION ALL
    SELECT a.start_us, sum(a.import_wh)::bigint, sum(a.export_wh)::bigint, 0, 0
    FROM energy_adjustments a
    WHERE a.meter = $1
        AND a.start_us >= $2
        AND a.start_us < $3
        AND a.made_us <= $4
        AND NOT EXISTS (
            SELECT 1 FROM energy_windows w WHERE w.meter = a.meter AND w.start_us = a.start_us AND w.closed_us <= $4
        )
    GROUP BY a.start_us
"""
SERIES = f"""
    /* energy.series */
    SELECT start_us / ($5 * 1000000::bigint) * ($5 * 1000000::bigint) AS step_us, sum(import_wh)::bigint,
        sum(export_wh)::bigint, sum(import_estimated_wh)::bigint, sum(export_estimated_wh)::bigint
    FROM ({_WINDOWS}) w
    GROUP BY step_us
    ORDER BY step_us
    LIMIT $6
"""  # noqa: S608 - a constant of this file
# The same as it is known now, of whole hours or days.
ROLLED_SERIES = """
    /* energy.rolled_series */
    SELECT start_us, sum(import_wh)::bigint, sum(export_wh)::bigint, sum(import_estimated_wh)::bigint,
        sum(export_estimated_wh)::bigint
    FROM energy_rollups
    WHERE meter = $1
        AND seconds = $4
        AND start_us >= $2
        AND start_us < $3
    GROUP BY start_us
    ORDER BY start_us
    LIMIT $5
"""
# Estimates of a window count until its first adjustment was made; credits of adjustments from their posting on.
WINDOWS = """
    /* energy.windows */
    SELECT uuid_send(m.meter_id), w.start_us, w.zone,
        w.import_wh + coalesce(a.import_wh, 0), w.export_wh + coalesce(a.export_wh, 0),
        CASE WHEN a.changes IS NULL THEN w.import_estimated_wh ELSE 0 END,
        CASE WHEN a.changes IS NULL THEN w.export_estimated_wh ELSE 0 END,
        w.covered_us, w.credited_wh + coalesce(a.credited_wh, 0), w.retired_wh + coalesce(a.retired_wh, 0),
        a.changes IS NOT NULL, w.meter
    FROM energy_windows w
    JOIN meters m ON m.number = w.meter
    LEFT JOIN LATERAL (
        SELECT sum(import_wh)::bigint AS import_wh, sum(export_wh)::bigint AS export_wh,
            sum(credited_wh) FILTER (WHERE posted_us <= $7)::bigint AS credited_wh,
            sum(retired_wh) FILTER (WHERE posted_us <= $7)::bigint AS retired_wh, min(1) AS changes
        FROM energy_adjustments
        WHERE meter = w.meter
            AND start_us = w.start_us
            AND made_us <= $7
    ) a ON true
    WHERE w.owner_id = $1
        AND w.start_us >= $2
        AND w.start_us < $3
        AND w.closed_us <= $7
        AND (w.start_us, w.meter) < ($4, $5)
    ORDER BY w.start_us DESC, w.meter DESC
    LIMIT $6
"""
SUMS = """
    /* energy.sums */
    SELECT w.export_wh + a.export_wh, w.import_wh + a.import_wh, w.import_estimated_wh + a.import_estimated_wh,
        w.export_estimated_wh + a.export_estimated_wh,
        w.credited_wh + a.credited_wh, w.retired_wh + a.retired_wh, s.sold_wh, b.bought_wh
    FROM (
        SELECT coalesce(sum(export_wh), 0)::bigint AS export_wh, coalesce(sum(import_wh), 0)::bigint AS import_wh,
            coalesce(sum(import_estimated_wh), 0)::bigint AS import_estimated_wh,
            coalesce(sum(export_estimated_wh), 0)::bigint AS export_estimated_wh,
            coalesce(sum(credited_wh), 0)::bigint AS credited_wh, coalesce(sum(retired_wh), 0)::bigint AS retired_wh
        FROM energy_windows
        WHERE owner_id = $1 AND start_us >= $2 AND start_us < $3 AND closed_us <= $4
    ) w
    CROSS JOIN (
        SELECT coalesce(sum(export_wh), 0)::bigint AS export_wh, coalesce(sum(import_wh), 0)::bigint AS import_wh,
            coalesce(sum(import_estimated_wh), 0)::bigint AS import_estimated_wh,
            coalesce(sum(export_estimated_wh), 0)::bigint AS export_estimated_wh,
            coalesce(sum(credited_wh), 0)::bigint AS credited_wh, coalesce(sum(retired_wh), 0)::bigint AS retired_wh
        FROM energy_adjustments
        WHERE owner_id = $1 AND start_us >= $2 AND start_us < $3 AND posted_us <= $4
    ) a
    CROSS JOIN (
        SELECT coalesce(sum(energy_wh), 0)::bigint AS sold_wh
        FROM trades
        WHERE seller_id = $1 AND time_us >= $2 AND time_us < $3 AND time_us <= $4
    ) s
    CROSS JOIN (
        SELECT coalesce(sum(energy_wh), 0)::bigint AS bought_wh
        FROM trades
        WHERE buyer_id = $1 AND time_us >= $2 AND time_us < $3 AND time_us <= $4
    ) b
"""


class PostgresEnergy:
    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def readings(
        self, meter: int, from_us: int, to_us: int, known_us: int, after: tuple[int, int, int], limit: int
    ) -> list[ShownReading]:
        """Accepted readings, as known then, in the order of (start, device, counter), which `after` is one of."""
        rows = await self._pool.fetch(READINGS, meter, from_us, to_us, known_us, *after, limit)
        return [ShownReading(*row) for row in rows]

    async def series(
        self, meter: int, from_us: int, to_us: int, known_us: int, seconds: int, limit: int
    ) -> list[EnergyStep]:
        """Closed windows, summed over steps of so many seconds from 1970 on, oldest first; empty ones are left out.

        Whole hours and days, as they are known now, are read from the rollups; everything else is summed anew.
        """
        step_us = seconds * SECOND_US
        if known_us >= FOREVER_US and seconds in ROLLED_SECONDS and not (from_us % step_us or to_us % step_us):
            rows = await self._pool.fetch(ROLLED_SERIES, meter, from_us, to_us, seconds, limit)
            return [EnergyStep(*row) for row in rows]
        rows = await self._pool.fetch(SERIES, meter, from_us, to_us, known_us, seconds, limit)
        return [EnergyStep(*row) for row in rows]

    async def windows(
        self, owner_id: int, from_us: int, to_us: int, before: tuple[int, int], limit: int, known_us: int = FOREVER_US
    ) -> list[tuple[StoredWindow, int]]:
        """Windows that were this owner's, newest first, each with its meter's number; `before` is one of their keys."""
        rows = await self._pool.fetch(WINDOWS, owner_id, from_us, to_us, *before, limit, known_us)
        return [(StoredWindow(*list(row)[:-1]), row["meter"]) for row in rows]

    async def sums(self, owner_id: int, from_us: int, to_us: int, known_us: int = FOREVER_US) -> EnergySums:
        """Of everything that was this owner's then, in all zones together, as far as it was posted and traded."""
        row = await self._pool.fetchrow(SUMS, owner_id, from_us, to_us, known_us)
        assert row is not None, "sums of nothing are zero"
        return EnergySums(*row)
