"""Reads of the projections: what people ask about their orders, fills and positions, and about past trades.

Lists are newest first and go on behind a key (`before`), never behind an offset. `cursor` says up to where it is true.
"""
# ruff: noqa: S608 - the SQL is joined from constants of this file, values are parameters

from collections.abc import Iterable, Sequence
from typing import Final

import asyncpg
import msgspec

from engine.messages import Side
from engine.records import CandleRecord, EpochRecord, PositionRecord, StatsRecord, StoredFill, StoredOrder
from engine.units import FOREVER_US
from engine.views import FillView, Liquidity, OrderStatus, OrderView, TradeView
from persistence.postgres import Pool

NEWEST: Final = (FOREVER_US, 2**31 - 1, FOREVER_US)  # (instant, market_id, number), later than anything
STATS_CANDLE_SECONDS: Final = 60
OPEN: Final = frozenset({OrderStatus.OPEN, OrderStatus.PARTIALLY_FILLED})

_ORDER = """market_id, order_id, participant_id, client_order_id, side, kind, price_micro, quantity_wh, filled_wh,
        remaining_wh, value_micro, status, end_reason, time_in_force, expires_us, post_only, zone, created_us,
        updated_us, sequence, stop_price_micro, is_waiting"""
_PAGE_OF_ORDERS = """
    WHERE participant_id = $1
        AND ($2::integer IS NULL OR market_id = $2)
        AND created_us >= $3
        AND created_us < $4
        AND (created_us, market_id, order_id) < ($5, $6, $7)
        AND (cardinality($8::smallint[]) = 0 OR status = ANY($8))
"""

CURSORS = "/* history.cursors */ SELECT market_id, sequence FROM cursors WHERE market_id = ANY($1::integer[])"
ORDERS = f"""
    /* history.orders */
    SELECT {_ORDER}
    FROM orders
    {_PAGE_OF_ORDERS}
    ORDER BY created_us DESC, market_id DESC, order_id DESC
    LIMIT $9
"""
OPEN_ORDERS = f"""
    /* history.open_orders */
    SELECT {_ORDER}
    FROM orders
    {_PAGE_OF_ORDERS}
        AND status IN (1, 2)
    ORDER BY created_us DESC, market_id DESC, order_id DESC
    LIMIT $9
"""
ORDER = f"""
    /* history.order */
    SELECT {_ORDER}
    FROM orders
    WHERE market_id = $1
        AND order_id = $2
        AND participant_id = $3
"""
ORDER_BY_CLIENT_ID = f"""
    /* history.order_by_client_id */
    SELECT {_ORDER}
    FROM orders
    WHERE participant_id = $1
        AND client_order_id = $2
        AND client_order_id <> ''
        AND market_id = $3
    ORDER BY order_id DESC
    LIMIT 1
"""
_BUYER_FILL = """SELECT market_id, number,
            CASE taker_side WHEN 0 THEN taker_order_id ELSE maker_order_id END AS order_id, 0 AS side,
            buyer_price_micro AS price_micro, energy_wh, buyer_value_micro AS value_micro,
            buyer_fee_micro AS fee_micro, CASE taker_side WHEN 0 THEN 1 ELSE 0 END AS liquidity, time_us
        FROM trades"""
_SELLER_FILL = """SELECT market_id, number,
            CASE taker_side WHEN 1 THEN taker_order_id ELSE maker_order_id END AS order_id, 1 AS side,
            seller_price_micro AS price_micro, energy_wh, seller_value_micro AS value_micro,
            seller_fee_micro AS fee_micro, CASE taker_side WHEN 1 THEN 1 ELSE 0 END AS liquidity, time_us
        FROM trades"""
_PAGE_OF_FILLS = """($2::integer IS NULL OR market_id = $2)
            AND (time_us, market_id, number) < ($3, $4, $5)
        ORDER BY time_us DESC, market_id DESC, number DESC
        LIMIT $6"""
FILLS = f"""
    /* history.fills */
    SELECT *
    FROM (
        ({_BUYER_FILL}
        WHERE buyer_id = $1
            AND {_PAGE_OF_FILLS})
        UNION ALL
        ({_SELLER_FILL}
        WHERE seller_id = $1
            AND {_PAGE_OF_FILLS})
    ) AS sides
    ORDER BY time_us DESC, market_id DESC, number DESC, side
    LIMIT $6
"""
_ASKED = "unnest($2::integer[], $3::bigint[]) AS asked (of_market, of_order)"
FILLS_OF_ORDERS = f"""
    /* history.fills_of_orders */
    SELECT market_id, number, order_id, side, price_micro, energy_wh, value_micro, fee_micro, liquidity, time_us
    FROM (
        {_BUYER_FILL}
            JOIN {_ASKED} ON market_id = of_market AND taker_order_id = of_order
        WHERE taker_side = 0 AND buyer_id = $1
        UNION ALL
        {_BUYER_FILL}
            JOIN {_ASKED} ON market_id = of_market AND maker_order_id = of_order
        WHERE taker_side = 1 AND buyer_id = $1
        UNION ALL
        {_SELLER_FILL}
            JOIN {_ASKED} ON market_id = of_market AND taker_order_id = of_order
        WHERE taker_side = 1 AND seller_id = $1
        UNION ALL
        {_SELLER_FILL}
            JOIN {_ASKED} ON market_id = of_market AND maker_order_id = of_order
        WHERE taker_side = 0 AND seller_id = $1
    ) AS sides
    ORDER BY market_id, number
    LIMIT $4
"""
TRADES = """
    /* history.trades */
    SELECT number, sequence, price_micro, energy_wh, taker_side, buyer_zone, seller_zone, time_us
    FROM trades
    WHERE market_id = $1
        AND number < $2
    ORDER BY number DESC
    LIMIT $3
"""
CANDLES = """
    /* history.candles */
    SELECT start_us, open_micro, high_micro, low_micro, close_micro, volume_wh, value_micro, trades
    FROM candles
    WHERE market_id = $1
        AND seconds = $2
        AND start_us >= $3
        AND start_us < $4
    ORDER BY start_us
    LIMIT $5
"""
STATS = """
    /* history.stats */
    SELECT
        coalesce((array_agg(open_micro ORDER BY start_us))[1], 0),
        coalesce(max(high_micro), 0),
        coalesce(min(low_micro), 0),
        coalesce((array_agg(close_micro ORDER BY start_us DESC))[1], 0),
        coalesce(sum(volume_wh), 0)::bigint,
        coalesce(sum(value_micro), 0)::bigint,
        coalesce(sum(trades), 0)::bigint
    FROM candles
    WHERE market_id = $1
        AND seconds = $2
        AND start_us >= $3
"""
POSITIONS = """
    /* history.positions */
    SELECT market_id, epoch_start_us, bought_wh, sold_wh, paid_micro, received_micro, fees_micro, trades, charges_micro
    FROM positions
    WHERE participant_id = $1
        AND ($2::integer IS NULL OR market_id = $2)
        AND epoch_start_us >= $3
        AND epoch_start_us < $4
        AND (epoch_start_us, market_id) < ($5, $6)
    ORDER BY epoch_start_us DESC, market_id DESC
    LIMIT $7
"""
EPOCHS = """
    /* history.epochs */
    SELECT start_us, volume_wh, value_micro, trades
    FROM epochs
    WHERE market_id = $1
        AND start_us < $2
    ORDER BY start_us DESC
    LIMIT $3
"""
EPOCH = """
    /* history.epoch */
    SELECT start_us, volume_wh, value_micro, trades
    FROM epochs
    WHERE market_id = $1
        AND start_us = $2
"""


class PostgresHistory:
    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def cursor(self, market_ids: Iterable[int]) -> dict[int, int]:
        """Up to which sequence each market is written here; 0 for one without a trace."""
        wanted = list(market_ids)
        found = {row[0]: row[1] for row in await self._pool.fetch(CURSORS, wanted)}
        return {market_id: found.get(market_id, 0) for market_id in wanted}

    async def orders(
        self,
        participant_id: int,
        market_id: int | None = None,
        statuses: tuple[int, ...] = (),
        from_us: int = 0,
        to_us: int = FOREVER_US,
        before: tuple[int, int, int] | None = None,
        limit: int = 100,
    ) -> list[StoredOrder]:
        """Created from from_us and before to_us; no statuses: all. before: (created_us, market_id, order_id)."""
        sql = OPEN_ORDERS if statuses and OPEN.issuperset(statuses) else ORDERS
        rows = await self._pool.fetch(
            sql, participant_id, market_id, from_us, to_us, *(before or NEWEST), list(statuses), limit
        )
        return [_order(row) for row in rows]

    async def order(self, market_id: int, order_id: int, participant_id: int) -> StoredOrder | None:
        """None also when it is somebody else's."""
        row = await self._pool.fetchrow(ORDER, market_id, order_id, participant_id)
        return _order(row) if row is not None else None

    async def order_by_client_id(self, market_id: int, participant_id: int, client_order_id: str) -> StoredOrder | None:
        """The newest order of the participant with this id of his."""
        row = await self._pool.fetchrow(ORDER_BY_CLIENT_ID, participant_id, client_order_id, market_id)
        return _order(row) if row is not None else None

    async def fills(
        self,
        participant_id: int,
        market_id: int | None = None,
        before: tuple[int, int, int] | None = None,
        limit: int = 100,
    ) -> list[StoredFill]:
        """The participant's side of his trades, newest first. before: (time_us, market_id, number) of the last seen."""
        rows = await self._pool.fetch(FILLS, participant_id, market_id, *(before or NEWEST), limit)
        return [_fill(row) for row in rows]

    async def fills_of_orders(
        self, participant_id: int, orders: Sequence[tuple[int, int]], limit: int = 10_000
    ) -> list[StoredFill]:
        """The fills of these orders of the participant, oldest first. orders: (market_id, order_id)."""
        if not orders:
            return []
        market_ids, order_ids = zip(*orders, strict=True)
        rows = await self._pool.fetch(FILLS_OF_ORDERS, participant_id, market_ids, order_ids, limit)
        return [_fill(row) for row in rows]

    async def trades(self, market_id: int, before_number: int = FOREVER_US, limit: int = 100) -> list[TradeView]:
        return [
            TradeView(number, sequence, price, energy, Side(side), buyer_zone, seller_zone, time_us)
            for number, sequence, price, energy, side, buyer_zone, seller_zone, time_us in await self._pool.fetch(
                TRADES, market_id, before_number, limit
            )
        ]

    async def candles(self, market_id: int, seconds: int, from_us: int, to_us: int, limit: int) -> list[CandleRecord]:
        """Candles that start from from_us and before to_us, oldest first; those without a trade are absent."""
        rows = await self._pool.fetch(CANDLES, market_id, seconds, from_us, to_us, limit)
        return [CandleRecord(*row) for row in rows]

    async def stats(self, market_id: int, since_us: int) -> StatsRecord:
        """From one-minute candles, so `since_us` counts from the start of its minute."""
        minute_us = STATS_CANDLE_SECONDS * 1_000_000
        row = await self._pool.fetchrow(STATS, market_id, STATS_CANDLE_SECONDS, since_us // minute_us * minute_us)
        assert row is not None, "an aggregate has a row"
        return StatsRecord(*row)

    async def positions(
        self,
        participant_id: int,
        market_id: int | None = None,
        from_us: int = 0,
        to_us: int = FOREVER_US,
        before: tuple[int, int] | None = None,
        limit: int = 100,
    ) -> list[PositionRecord]:
        """Epochs that start from from_us and before to_us. before: (epoch_start_us, market_id)."""
        key = before or NEWEST[:2]
        rows = await self._pool.fetch(POSITIONS, participant_id, market_id, from_us, to_us, *key, limit)
        return [PositionRecord(*row) for row in rows]

    async def epochs(self, market_id: int, before_start_us: int = FOREVER_US, limit: int = 100) -> list[EpochRecord]:
        """Epochs in which something traded."""
        return [EpochRecord(*row) for row in await self._pool.fetch(EPOCHS, market_id, before_start_us, limit)]

    async def epoch(self, market_id: int, start_us: int) -> EpochRecord | None:
        row = await self._pool.fetchrow(EPOCH, market_id, start_us)
        return EpochRecord(*row) if row is not None else None


def _order(row: asyncpg.Record) -> StoredOrder:
    market_id, *values = row  # in the order of OrderView's fields
    return StoredOrder(market_id, msgspec.convert(values, OrderView))


def _fill(row: asyncpg.Record) -> StoredFill:
    return StoredFill(
        row["market_id"],
        FillView(
            trade_number=row["number"],
            order_id=row["order_id"],
            side=Side(row["side"]),
            price_micro=row["price_micro"],
            quantity_wh=row["energy_wh"],
            value_micro=row["value_micro"],
            fee_micro=row["fee_micro"],
            liquidity=Liquidity(row["liquidity"]),
            at_us=row["time_us"],
        ),
    )
