"""What the books say for a comparison with the chain, and what comparisons found; the last one decides on withdrawals.

Pending here are trades that no settlement took yet, and parts that are not on the chain. What else the ledger has and
the chain has not, as mints under way, whoever compares adds from where he keeps it.
"""

import json
from collections.abc import Sequence
from typing import Final

import msgspec

from engine.audit import SYSTEM
from engine.settlement.reconciliation import NOTHING, Amounts, Books, Difference
from engine.settlement.states import Status
from engine.submission import SETTLE
from engine.units import TimeUs
from persistence.audit_log import append
from persistence.postgres import Pool

DIFFERENCES_KEPT_MAX: Final = 100  # of one comparison; when everything differs, the first ones tell enough

LEDGER = """
    /* reconciliation.ledger */
    SELECT CASE WHEN participant_id > 0 THEN 'user:' || participant_id WHEN kind = 'fees' THEN 'fees' ELSE 'grid' END
            AS account,
        coalesce(sum(balance) FILTER (WHERE asset <> $1), 0)::bigint AS energy_wh,
        coalesce(sum(balance) FILTER (WHERE asset = $1), 0)::bigint AS currency_micro
    FROM accounts
    WHERE participant_id > 0
        OR kind = 'fees'
        OR kind = 'grid'
        OR kind LIKE 'grid:%'
    GROUP BY 1
"""
LIVE = """
    /* reconciliation.live */
    SELECT coalesce(-sum(balance), 0)::bigint
    FROM accounts
    WHERE kind IN ('generation', 'retired')
"""
# What engine/settlement/netting.py makes of each trade that no settlement has taken.
UNSETTLED = """
    /* reconciliation.unsettled */
    SELECT account, sum(gain_wh)::bigint AS energy_wh, sum(gain_micro)::bigint AS currency_micro
    FROM cursors c
    LEFT JOIN settlement_cursors s USING (market_id)
    JOIN trades t ON t.market_id = c.market_id AND t.number > coalesce(s.number, 0)
    CROSS JOIN LATERAL (
        VALUES ('user:' || buyer_id, energy_wh, -buyer_value_micro - buyer_fee_micro),
            ('user:' || seller_id, -energy_wh, seller_value_micro - seller_fee_micro),
            ('grid', 0, buyer_value_micro - seller_value_micro),
            ('fees', 0, buyer_fee_micro + seller_fee_micro)
    ) AS d (account, gain_wh, gain_micro)
    GROUP BY account
"""
OPEN_PARTS = """
    /* reconciliation.open_parts */
    SELECT p.status, o.payload -> 'deltas' AS deltas
    FROM settlement_parts p
    JOIN outbox o ON o.kind = $1 AND o.key = p.key
    WHERE p.status IN (1, 2, 5)
"""
ADD = """
    /* reconciliation.add */
    INSERT INTO reconciliations (settlement, at_us, differences)
    SELECT number, $1, $2::jsonb
    FROM settlement_head
"""
LAST = "/* reconciliation.last */ SELECT differences FROM reconciliations ORDER BY number DESC LIMIT 1"


class PostgresReconciliation:
    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def books(self, currency: str) -> Books:
        """Everything as of one instant."""
        async with (
            self._pool.acquire() as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            ledger = {row[0]: Amounts(row[1], row[2]) for row in await connection.fetch(LEDGER, currency)}
            live_wh = await connection.fetchval(LIVE)
            pending = {row[0]: Amounts(row[1], row[2]) for row in await connection.fetch(UNSETTLED)}
            parts = await connection.fetch(OPEN_PARTS, SETTLE)
        under_way: set[str] = set()
        for status, deltas in parts:
            for one in json.loads(deltas):
                account, change = one["account"], Amounts(one["energy_wh"], one["currency_micro"])
                pending[account] = pending.get(account, NOTHING) + change
                if status != Status.BATCHED:  # a parked one may have been sent, too
                    under_way.add(account)
        return Books(ledger=ledger, pending=pending, energy_live_wh=live_wh, under_way=frozenset(under_way))

    async def keep(self, differences: Sequence[Difference], now_us: TimeUs) -> bool:
        """What a comparison found; whether books and chain agree differently than before, which is worth an alarm."""
        shown = msgspec.to_builtins(differences[:DIFFERENCES_KEPT_MAX])
        async with self._pool.acquire() as connection, connection.transaction():
            was = await connection.fetchval(LAST)
            turned = (was is None or was == "[]") is bool(differences)
            await connection.execute(ADD, now_us, msgspec.json.encode(shown).decode())
            if turned:
                action = "books.differ" if differences else "books.agree"
                await append(connection, SYSTEM, action, "chain", None, {"differences": shown})
        return turned

    async def is_suspended(self) -> bool:
        """Do withdrawals wait, because the last comparison found a difference?"""
        return await self._pool.fetchval(LAST) not in (None, "[]")
