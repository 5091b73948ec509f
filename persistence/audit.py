"""What the audit reads: projections and ledger, in statements that change nothing."""

from typing import Final

import msgspec

from engine.records import MarketBalance, TradeTotals, TrialLine
from engine.views import OrderView
from persistence.ledger import PostgresLedger
from persistence.postgres import Pool
from persistence.projections import PostgresProjections

OPEN_ORDERS_MAX: Final = 1_000_000

OPEN_ORDERS = """
    /* audit.open_orders */
    SELECT order_id, participant_id, client_order_id, side, kind, price_micro, quantity_wh, filled_wh, remaining_wh,
        value_micro, status, end_reason, time_in_force, expires_us, post_only, zone, created_us, updated_us, sequence,
        stop_price_micro, is_waiting
    FROM orders
    WHERE market_id = $1
        AND status IN (1, 2)
    ORDER BY order_id
    LIMIT $2
"""
COUNT_ORDERS = """
    /* audit.count_orders */
    SELECT count(*)
    FROM orders
    WHERE market_id = $1
"""
TRADE_TOTALS = """
    /* audit.trade_totals */
    SELECT count(*),
        coalesce(sum(energy_wh), 0)::bigint,
        coalesce(sum(buyer_value_micro), 0)::bigint,
        coalesce(sum(seller_value_micro), 0)::bigint,
        coalesce(sum(buyer_fee_micro + seller_fee_micro), 0)::bigint
    FROM trades
    WHERE market_id = $1
"""
MARKET_BALANCES = """
    /* audit.market_balances */
    SELECT participant_id, asset, balance, reserved
    FROM accounts
    WHERE kind = 'market'
        AND market_id = $1
        AND balance <> 0
    ORDER BY participant_id, asset
"""
DRAWN_AFTER = """
    /* audit.drawn_after */
    SELECT participant_id, asset, amount
    FROM draws
    WHERE market_id = $1
        AND number > $2
"""
UNBALANCED_TRANSFERS = """
    /* audit.unbalanced_transfers */
    SELECT count(*)
    FROM (
        SELECT transfer_id, asset
        FROM entries
        JOIN accounts USING (account_id)
        GROUP BY transfer_id, asset
        HAVING sum(amount) <> 0
    ) AS unbalanced
"""
ACCOUNTS_OFF = """
    /* audit.accounts_off */
    SELECT count(*)
    FROM accounts a
    LEFT JOIN (SELECT account_id, sum(amount) AS amount FROM entries GROUP BY account_id) e USING (account_id)
    WHERE a.balance <> coalesce(e.amount, 0)
"""


class PostgresAudit:
    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._projections = PostgresProjections(pool)
        self._ledger = PostgresLedger(pool)

    async def cursor(self, market_id: int) -> int:
        return await self._projections.cursor(market_id)

    async def open_orders(self, market_id: int) -> list[OrderView]:
        rows = await self._pool.fetch(OPEN_ORDERS, market_id, OPEN_ORDERS_MAX)
        return [msgspec.convert(tuple(row), OrderView) for row in rows]  # in the order of OrderView's fields

    async def count_orders(self, market_id: int) -> int:
        return int(await self._pool.fetchval(COUNT_ORDERS, market_id))

    async def trade_totals(self, market_id: int) -> TradeTotals:
        row = await self._pool.fetchrow(TRADE_TOTALS, market_id)
        assert row is not None
        return TradeTotals(*row)

    async def market_balances(self, market_id: int) -> list[MarketBalance]:
        return [MarketBalance(*row) for row in await self._pool.fetch(MARKET_BALANCES, market_id)]

    async def drawn_after(self, market_id: int, number: int) -> list[tuple[int, str, int]]:
        """Funds that the ledger has moved into the market after this number: (participant, asset, amount)."""
        return [(row[0], row[1], row[2]) for row in await self._pool.fetch(DRAWN_AFTER, market_id, number)]

    async def unbalanced_transfers(self) -> int:
        return int(await self._pool.fetchval(UNBALANCED_TRANSFERS))

    async def accounts_off_their_entries(self) -> int:
        return int(await self._pool.fetchval(ACCOUNTS_OFF))

    async def trial_balance(self) -> list[TrialLine]:
        return await self._ledger.trial_balance()
