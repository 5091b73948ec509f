"""Writes what a stretch of journal means into the tables that people query, exactly once.

The cursor moves in the same transaction: a batch that was written before, or out of turn, changes nothing. Set-based
statements, one per table. Accounts come last and in the order of their numbers, so they are locked shortly.
"""

from collections.abc import Iterable, Sequence

import msgspec

from engine.analytics.presence import Obligation
from engine.projection import ProjectionBatch, TradeRow
from engine.units import value_micro
from engine.views import OrderView
from persistence.accounts import MARKET, AccountKey, AccountNumbers, account_key
from persistence.makers import obligations
from persistence.postgres import Pool, PooledConnection

START_CURSOR = """
    /* projections.start_cursor */
    INSERT INTO cursors (market_id, sequence, time_us, phase, reference_price_micro, last_price_micro, epoch_start_us)
    VALUES ($1, 0, 0, 0, 0, 0, 0)
    ON CONFLICT DO NOTHING
"""
MOVE_CURSOR = """
    /* projections.move_cursor */
    UPDATE cursors
    SET sequence = $3,
        time_us = $4,
        phase = $5,
        reference_price_micro = $6,
        last_price_micro = $7,
        epoch_start_us = $8
    WHERE market_id = $1
        AND sequence = $2
    RETURNING sequence
"""
CURSOR = "/* projections.cursor */ SELECT sequence FROM cursors WHERE market_id = $1"
CHANGE_ORDERS = """
    /* projections.change_orders */
    UPDATE orders AS o
    SET price_micro = c.price_micro,
        quantity_wh = c.quantity_wh,
        filled_wh = c.filled_wh,
        remaining_wh = c.remaining_wh,
        value_micro = c.value_micro,
        status = c.status,
        end_reason = c.end_reason,
        updated_us = c.updated_us,
        sequence = c.sequence,
        stop_price_micro = c.stop_price_micro,
        is_waiting = c.is_waiting
    FROM unnest($2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], $8::smallint[],
        $9::smallint[], $10::bigint[], $11::bigint[], $12::bigint[], $13::boolean[]) AS c (order_id, price_micro,
        quantity_wh, filled_wh, remaining_wh, value_micro, status, end_reason, updated_us, sequence, stop_price_micro,
        is_waiting)
    WHERE o.market_id = $1
        AND o.order_id = c.order_id
"""
ORDER_COLUMNS = ("market_id", *OrderView.__struct_fields__)
TRADE_COLUMNS = ("market_id", *TradeRow.__struct_fields__)
ADD_POSITIONS = """
    /* projections.add_positions */
    INSERT INTO positions AS p (market_id, participant_id, epoch_start_us, bought_wh, sold_wh, paid_micro,
        received_micro, fees_micro, trades, charges_micro)
    SELECT $1, c.*
    FROM unnest($2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[],
        $9::bigint[], $10::bigint[]) AS c
    ON CONFLICT (participant_id, epoch_start_us, market_id) DO UPDATE
        SET bought_wh = p.bought_wh + EXCLUDED.bought_wh,
            sold_wh = p.sold_wh + EXCLUDED.sold_wh,
            paid_micro = p.paid_micro + EXCLUDED.paid_micro,
            received_micro = p.received_micro + EXCLUDED.received_micro,
            fees_micro = p.fees_micro + EXCLUDED.fees_micro,
            trades = p.trades + EXCLUDED.trades,
            charges_micro = p.charges_micro + EXCLUDED.charges_micro
"""
ADD_PRESENCE = """
    /* projections.add_presence */
    INSERT INTO maker_presence AS p (market_id, user_id, epoch_start_us, quoted_us)
    SELECT $1, c.*
    FROM unnest($2::bigint[], $3::bigint[], $4::bigint[]) AS c
    ON CONFLICT (market_id, epoch_start_us, user_id) DO UPDATE
        SET quoted_us = p.quoted_us + EXCLUDED.quoted_us
"""
MERGE_CANDLES = """
    /* projections.merge_candles */
    INSERT INTO candles AS k (market_id, seconds, start_us, open_micro, high_micro, low_micro, close_micro,
        volume_wh, value_micro, trades)
    SELECT $1, c.*
    FROM unnest($2::integer[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[],
        $9::bigint[], $10::bigint[]) AS c
    ON CONFLICT (market_id, seconds, start_us) DO UPDATE
        SET high_micro = greatest(k.high_micro, EXCLUDED.high_micro),
            low_micro = least(k.low_micro, EXCLUDED.low_micro),
            close_micro = EXCLUDED.close_micro,
            volume_wh = k.volume_wh + EXCLUDED.volume_wh,
            value_micro = k.value_micro + EXCLUDED.value_micro,
            trades = k.trades + EXCLUDED.trades
"""
ADD_EPOCHS = """
    /* projections.add_epochs */
    INSERT INTO epochs AS e (market_id, start_us, volume_wh, value_micro, trades)
    SELECT $1, c.*
    FROM unnest($2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[]) AS c
    ON CONFLICT (market_id, start_us) DO UPDATE
        SET volume_wh = e.volume_wh + EXCLUDED.volume_wh,
            value_micro = e.value_micro + EXCLUDED.value_micro,
            trades = e.trades + EXCLUDED.trades
"""
# One round trip, because who draws funds waits for its locks; migrations/0031_ledger_book.sql says what it does.
BOOK = "/* projections.book */ SELECT ledger_book($1, $2, $3, $4, $5, $6, $7, $8, $9)"


class CursorMoved(Exception):
    """The market's projections are not where this batch begins: another writer was here, or the batch was written."""


class PostgresProjections:
    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._accounts = AccountNumbers(pool)

    async def cursor(self, market_id: int) -> int:
        """The sequence up to which the market's journal has been written; 0 at its start."""
        return await self._pool.fetchval(CURSOR, market_id) or 0

    async def obligations(self, market_id: int) -> list[Obligation]:
        """What the market's makers have promised now."""
        return await obligations(self._pool, market_id)

    async def write(self, batch: ProjectionBatch) -> None:
        """Write all of the batch or nothing. Raises CursorMoved when it does not begin where the last one ended."""
        market_id = batch.market_id
        ids = await self._accounts.of(_account_keys(batch))
        async with self._pool.acquire() as connection, connection.transaction():
            if batch.sequence_from == 0:
                await connection.execute(START_CURSOR, market_id)
            moved = await connection.fetchval(
                MOVE_CURSOR,
                market_id,
                batch.sequence_from,
                batch.sequence_to,
                batch.time_us,
                batch.phase,
                batch.reference_price_micro,
                batch.last_price_micro,
                batch.epoch_start_us,
            )
            if moved is None:
                raise CursorMoved(f"market {market_id}: its projections do not end at {batch.sequence_from}")
            if batch.orders:
                await _change_orders(connection, market_id, batch.orders)
            await _copy(connection, "orders", ORDER_COLUMNS, market_id, batch.accepted)
            await _merge(connection, ADD_POSITIONS, market_id, batch.positions)
            await _merge(connection, MERGE_CANDLES, market_id, batch.candles)
            await _merge(connection, ADD_PRESENCE, market_id, batch.presence)
            if batch.trades:
                await connection.execute(ADD_EPOCHS, market_id, *_columns(_epochs(batch.trades)))
                await _copy(connection, "trades", TRADE_COLUMNS, market_id, batch.trades)
            await _post(connection, batch, ids)


async def _copy(
    connection: PooledConnection, table: str, columns: Sequence[str], market_id: int, rows: Sequence[msgspec.Struct]
) -> None:
    """Rows whose keys are new, because their market has just made them."""
    if rows:
        records = [(market_id, *msgspec.structs.astuple(row)) for row in rows]
        await connection.copy_records_to_table(table, columns=columns, records=records)


async def _change_orders(connection: PooledConnection, market_id: int, orders: Sequence[OrderView]) -> None:
    rows = (
        (
            order.order_id,
            order.price_micro,
            order.quantity_wh,
            order.filled_wh,
            order.remaining_wh,
            order.value_micro,
            order.status,
            order.end_reason,
            order.updated_us,
            order.sequence,
            order.stop_price_micro,
            order.is_waiting,
        )
        for order in orders
    )
    changed = await connection.execute(CHANGE_ORDERS, market_id, *_columns(rows))
    if changed != f"UPDATE {len(orders)}":
        raise RuntimeError(f"market {market_id}: {len(orders)} orders were to change, but: {changed}")


async def _merge(connection: PooledConnection, sql: str, market_id: int, rows: Sequence[msgspec.Struct]) -> None:
    if rows:
        await connection.execute(sql, market_id, *_columns(map(msgspec.structs.astuple, rows)))


def _columns(rows: Iterable[tuple[object, ...]], count: int = 0) -> list[tuple[object, ...]]:
    """Of no rows so many empty columns."""
    return list(zip(*rows, strict=True)) or [()] * count


def _epochs(trades: list[TradeRow]) -> list[tuple[int, int, int, int]]:
    """(start_us, volume_wh, value_micro, trades), in order."""
    sums: dict[int, list[int]] = {}
    for trade in trades:
        epoch = sums.setdefault(trade.epoch_start_us, [0, 0, 0])
        epoch[0] += trade.energy_wh
        epoch[1] += value_micro(trade.price_micro, trade.energy_wh)
        epoch[2] += 1
    return [(start_us, volume, value, count) for start_us, (volume, value, count) in sorted(sums.items())]


def _account_keys(batch: ProjectionBatch) -> set[AccountKey]:
    market_id = batch.market_id
    keys = {
        account_key(kind, participant_id, market_id, asset)
        for transfer in batch.transfers
        for kind, participant_id, asset, _ in map(msgspec.structs.astuple, transfer.entries)
    }
    keys.update(AccountKey(each.participant_id, MARKET, market_id, each.asset) for each in batch.reserved)
    return keys


async def _post(connection: PooledConnection, batch: ProjectionBatch, ids: dict[AccountKey, int]) -> None:
    """Transfers that are not there yet, and what is reserved of balances then."""
    market_id = batch.market_id
    entries = [
        (transfer.reference, ids[account_key(kind, participant_id, market_id, asset)], participant_id, amount)
        for transfer in batch.transfers
        for kind, participant_id, asset, amount in map(msgspec.structs.astuple, transfer.entries)
        if amount
    ]
    transfers = [(each.kind, each.reference, each.time_us) for each in batch.transfers]
    reserved = [
        (ids[AccountKey(each.participant_id, MARKET, market_id, each.asset)], each.amount) for each in batch.reserved
    ]
    if transfers or reserved:
        columns = _columns(transfers, 3) + _columns(entries, 4) + _columns(reserved, 2)
        await connection.execute(BOOK, *columns)
