"""Series for analytics and reports: what one participant measured and traded, what a zone's meters did together.

A series is cut at given instants (width_bucket), so that steps of any length, months too, and changes of a rate need no
calendar in SQL. Energy of hours and days comes from energy_rollups, finer steps from the windows themselves.
"""
# ruff: noqa: S608 - the SQL is joined from constants of this file, values are parameters

from collections.abc import Sequence
from typing import Final

from engine.analytics.performance import EpochPosition, PlacedOrders
from engine.analytics.recommendations import LEVEL_MICRO, AskLevel, Sale
from engine.analytics.series import EnergyPart, Flow, TradePart
from engine.units import SECOND_US
from persistence.postgres import Pool

WINDOW_SECONDS: Final = 900
HOUR_SECONDS: Final = 3_600
DAY_SECONDS: Final = 86_400
_HOUR_US: Final = HOUR_SECONDS * SECOND_US
ASKS_MAX: Final = 20_000  # newest orders of a market that are looked at
SALES_MAX: Final = 20_000
OWNERS_MAX: Final = 100_000

ENERGY_PARTS = f"""
    /* analytics.energy_parts */
    SELECT ($2::bigint[])[width_bucket(start_us, $2::bigint[])] AS cut_us, sum(import_wh)::bigint,
        sum(export_wh)::bigint, sum(import_estimated_wh)::bigint, sum(export_estimated_wh)::bigint,
        sum(credited_wh)::bigint, sum(retired_wh)::bigint
    FROM energy_rollups
    WHERE owner_id = $1
        AND seconds = {HOUR_SECONDS}
        AND start_us >= $3
        AND start_us < $4
    GROUP BY cut_us
    ORDER BY cut_us
"""
TRADE_PARTS = """
    /* analytics.trade_parts */
    SELECT ($2::bigint[])[width_bucket(epoch_start_us, $2::bigint[])] AS cut_us, sum(bought_wh)::bigint,
        sum(sold_wh)::bigint, sum(paid_micro)::bigint, sum(received_micro)::bigint, sum(fees_micro)::bigint,
        sum(trades)::bigint
    FROM positions
    WHERE participant_id = $1
        AND epoch_start_us >= $3
        AND epoch_start_us < $4
    GROUP BY cut_us
    ORDER BY cut_us
"""
_CHANGES: Final = """
    SELECT {columns}
    FROM energy_windows
    WHERE {whose} = $1
        AND start_us >= $2
        AND start_us < $3
    UNION ALL
    SELECT {columns}
    FROM energy_adjustments
    WHERE {whose} = $1
        AND start_us >= $2
        AND start_us < $3
"""
OWN_WINDOWS = f"""
    /* analytics.own_windows */
    SELECT start_us, sum(import_wh)::bigint, sum(export_wh)::bigint
    FROM ({_CHANGES.format(columns="start_us, import_wh, export_wh", whose="owner_id")}) w
    GROUP BY start_us
    ORDER BY start_us
"""
BY_HOUR = f"""
    /* analytics.by_hour */
    SELECT (start_us / {_HOUR_US} % 24)::integer AS hour, sum(import_wh)::bigint, sum(export_wh)::bigint
    FROM energy_rollups
    WHERE owner_id = $1
        AND seconds = {HOUR_SECONDS}
        AND start_us >= $2
        AND start_us < $3
    GROUP BY hour
"""
# By owner first, because no single owner's part may be guessed from a sum: the largest part is told to who judges that.
_TOGETHER: Final = """
    SELECT start_us, sum(import_wh)::bigint, sum(export_wh)::bigint, sum(meters)::bigint, count(*),
        max(import_wh + export_wh)::bigint
"""
_OF_OWNER: Final = """
    SELECT start_us, owner_id, count(DISTINCT meter) AS meters, sum(import_wh) AS import_wh, sum(export_wh) AS export_wh
"""
# The newest closed window of each meter, if it is not older than $2: meters close their windows one after another.
ZONE_NOW = f"""
    /* analytics.zone_now */
    {_TOGETHER.replace("SELECT start_us", "SELECT max(start_us)")}
    FROM (
        {_OF_OWNER.replace("SELECT start_us", "SELECT max(start_us) AS start_us")}
        FROM (
            SELECT DISTINCT ON (meter) meter, start_us, owner_id, import_wh, export_wh
            FROM energy_windows
            WHERE zone = $1
                AND start_us >= $2
                AND covered_us > 0
            ORDER BY meter, start_us DESC
        ) w
        GROUP BY owner_id
    ) o
    HAVING count(*) > 0
"""
ZONE_WINDOWS = f"""
    /* analytics.zone_windows */
    {_TOGETHER}
    FROM (
        {_OF_OWNER}
        FROM ({_CHANGES.format(columns="start_us, meter, owner_id, import_wh, export_wh", whose="zone")}) w
        GROUP BY start_us, owner_id
    ) o
    GROUP BY start_us
    ORDER BY start_us
"""
ZONE_STEPS = f"""
    /* analytics.zone_steps */
    {_TOGETHER}
    FROM (
        {_OF_OWNER}
        FROM energy_rollups
        WHERE zone = $1
            AND seconds = $4
            AND start_us >= $2
            AND start_us < $3
        GROUP BY start_us, owner_id
    ) o
    GROUP BY start_us
    ORDER BY start_us
"""
ZONE_OWNERS = f"""
    /* analytics.zone_owners */
    SELECT owner_id, sum(import_wh)::bigint, sum(export_wh)::bigint
    FROM energy_rollups
    WHERE zone = $1
        AND seconds = {DAY_SECONDS}
        AND start_us >= $2
        AND start_us < $3
    GROUP BY owner_id
    LIMIT {OWNERS_MAX}
"""
POSITIONS = """
    /* analytics.positions */
    SELECT p.bought_wh, p.sold_wh, p.paid_micro, p.received_micro, p.fees_micro, p.trades, e.volume_wh, e.value_micro
    FROM positions p
    JOIN epochs e ON e.market_id = p.market_id AND e.start_us = p.epoch_start_us
    WHERE p.participant_id = $1
        AND p.epoch_start_us >= $2
        AND p.epoch_start_us < $3
"""
# Statuses 1 and 2 are open: those may still fill.
PLACED = """
    /* analytics.placed */
    SELECT count(*), count(*) FILTER (WHERE filled_wh = quantity_wh), coalesce(sum(quantity_wh), 0)::bigint,
        coalesce(sum(filled_wh), 0)::bigint
    FROM orders
    WHERE participant_id = $1
        AND created_us >= $2
        AND created_us < $3
        AND status > 2
"""
SALES = f"""
    /* analytics.sales */
    SELECT (time_us / {_HOUR_US} % 24)::integer AS hour, seller_price_micro, sum(energy_wh)::bigint
    FROM (
        SELECT time_us, seller_price_micro, energy_wh
        FROM trades
        WHERE seller_id = $1
            AND time_us >= $2
            AND time_us < $3
        ORDER BY time_us DESC
        LIMIT {SALES_MAX}
    ) t
    GROUP BY hour, seller_price_micro
"""
ASKS = f"""
    /* analytics.asks */
    SELECT (o.created_us / {_HOUR_US} % 24)::integer AS hour, o.price_micro / {LEVEL_MICRO} * {LEVEL_MICRO} AS level,
        count(*), sum(o.quantity_wh)::bigint, sum(o.filled_wh)::bigint
    FROM unnest($1::integer[]) AS m (market_id)
    CROSS JOIN LATERAL (
        SELECT *
        FROM orders
        WHERE market_id = m.market_id
        ORDER BY order_id DESC
        LIMIT {ASKS_MAX}
    ) o
    WHERE o.side = 1
        AND o.kind = 1
        AND o.status > 2
        AND o.created_us >= $2
        AND o.created_us < $3
    GROUP BY hour, level
"""


class PostgresAnalytics:
    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def energy_parts(self, owner_id: int, cuts_us: Sequence[int]) -> list[EnergyPart]:
        """What his meters measured from the first cut to the last, by whole hours; empty parts are left out."""
        rows = await self._pool.fetch(ENERGY_PARTS, owner_id, list(cuts_us), cuts_us[0], cuts_us[-1])
        return [EnergyPart(*row) for row in rows]

    async def trade_parts(self, participant_id: int, cuts_us: Sequence[int]) -> list[TradePart]:
        rows = await self._pool.fetch(TRADE_PARTS, participant_id, list(cuts_us), cuts_us[0], cuts_us[-1])
        return [TradePart(*row) for row in rows]

    async def own_windows(self, owner_id: int, from_us: int, to_us: int) -> list[Flow]:
        """All meters of an owner together, by windows of 900 s, oldest first."""
        return [Flow(*row) for row in await self._pool.fetch(OWN_WINDOWS, owner_id, from_us, to_us)]

    async def by_hour(self, owner_id: int, from_us: int, to_us: int) -> dict[int, tuple[int, int]]:
        """(import, export) by the hour of the day."""
        return {row[0]: (row[1], row[2]) for row in await self._pool.fetch(BY_HOUR, owner_id, from_us, to_us)}

    async def zone_now(self, zone: str, since_us: int) -> Flow | None:
        """The newest window of each meter, summed; None: no meter has closed one since."""
        row = await self._pool.fetchrow(ZONE_NOW, zone, since_us)
        return Flow(*row) if row is not None else None

    async def zone_flow(self, zone: str, from_us: int, to_us: int, seconds: int) -> list[Flow]:
        """By steps of 900, 3,600 or 86,400 s, oldest first; empty ones are left out."""
        if seconds == WINDOW_SECONDS:
            rows = await self._pool.fetch(ZONE_WINDOWS, zone, from_us, to_us)
        else:
            rows = await self._pool.fetch(ZONE_STEPS, zone, from_us, to_us, seconds)
        return [Flow(*row) for row in rows]

    async def zone_owners(self, zone: str, from_us: int, to_us: int) -> dict[int, tuple[int, int]]:
        """(import, export) of whole days by owner."""
        return {row[0]: (row[1], row[2]) for row in await self._pool.fetch(ZONE_OWNERS, zone, from_us, to_us)}

    async def positions(self, participant_id: int, from_us: int, to_us: int) -> list[EpochPosition]:
        return [EpochPosition(*row) for row in await self._pool.fetch(POSITIONS, participant_id, from_us, to_us)]

    async def placed(self, participant_id: int, from_us: int, to_us: int) -> PlacedOrders:
        row = await self._pool.fetchrow(PLACED, participant_id, from_us, to_us)
        assert row is not None, "a count of nothing is zero"
        return PlacedOrders(*row)

    async def sales(self, seller_id: int, from_us: int, to_us: int) -> list[Sale]:
        return [Sale(*row) for row in await self._pool.fetch(SALES, seller_id, from_us, to_us)]

    async def asks(self, market_ids: Sequence[int], from_us: int, to_us: int) -> list[AskLevel]:
        """Asks of everybody that have ended, among the newest orders of these markets."""
        return [AskLevel(*row) for row in await self._pool.fetch(ASKS, list(market_ids), from_us, to_us)]
