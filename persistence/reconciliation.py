"""What the books say for a comparison with the chain, and what comparisons found; the last one decides on withdrawals.

Pending are trades that no settlement took yet, parts, mints, burns and withdrawals that are not on the chain, and, the
other way round, deposits that are there and not final.
"""

import json
from collections.abc import Sequence
from typing import Final

import msgspec

from engine.audit import SYSTEM
from engine.settlement.reconciliation import NOTHING, Amounts, Books, Compared, Difference
from engine.settlement.states import Status
from engine.submission import SETTLE
from engine.units import TimeUs
from persistence.audit_log import append
from persistence.postgres import OUTAGES, AnyConnection, Pool

FOREIGN: Final = 2**62  # of a currency that others make, any amount may be outside
COMPARISONS_KEPT_MAX: Final = 10_000  # a week of one a minute; what they found is in the audit log, too
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
    SELECT coalesce(-sum(balance) FILTER (WHERE asset <> $1), 0)::bigint AS energy_wh,
        coalesce(-sum(balance) FILTER (WHERE asset = $1), 0)::bigint AS currency_micro
    FROM accounts
    WHERE kind IN ('generation', 'retired', 'issuance')
"""
SETTLED = """
    /* reconciliation.settled */
    SELECT c.market_id, coalesce(s.number, 0)
    FROM cursors c
    LEFT JOIN settlement_cursors s USING (market_id)
"""
# What engine/settlement/netting.py makes of each trade that no settlement has taken, market by market: a plan for all
# of them reads every trade there ever was.
UNSETTLED = """
    /* reconciliation.unsettled */
    SELECT account, sum(gain_wh)::bigint AS energy_wh, sum(gain_micro)::bigint AS currency_micro
    FROM trades
    CROSS JOIN LATERAL (
        VALUES ('user:' || buyer_id, energy_wh, -buyer_value_micro - buyer_fee_micro),
            ('user:' || seller_id, -energy_wh, seller_value_micro - seller_fee_micro),
            ('grid', 0, buyer_value_micro - seller_value_micro),
            ('fees', 0, buyer_fee_micro + seller_fee_micro)
    ) AS d (account, gain_wh, gain_micro)
    WHERE market_id = $1
        AND number > $2
    GROUP BY account
"""
UNSETTLED_REBATES = """
    /* reconciliation.unsettled_rebates */
    SELECT account, 0::bigint AS energy_wh, sum(gain_micro)::bigint AS currency_micro
    FROM maker_rewards
    CROSS JOIN LATERAL (VALUES ('user:' || user_id, rebate_micro), ('fees', -rebate_micro)) AS d (account, gain_micro)
    WHERE settlement IS NULL
        AND rebate_micro > 0
    GROUP BY account
"""
OPEN_PARTS = """
    /* reconciliation.open_parts */
    SELECT p.status, o.payload -> 'deltas' AS deltas
    FROM settlement_parts p
    JOIN outbox o ON o.kind = $1 AND o.key = p.key
    WHERE p.status IN (1, 2, 5)
"""
# Of people, what the ledger has and the chain has not.
ON_THE_WAY = """
    /* reconciliation.on_the_way */
    WITH open AS (
        SELECT number, state FROM chain_submissions WHERE state NOT IN ('finalized', 'parked')
        UNION ALL
        SELECT number, state FROM chain_submissions WHERE state = 'parked'
    ), effects AS (
        SELECT kind, state IN ('signed', 'sent') AS is_sent,
            coalesce(payload ->> 'owner_id', payload ->> 'user_id') AS owner,
            coalesce(payload ->> 'asset', 'energy:') LIKE 'energy:%' AS is_energy,
            coalesce(payload ->> 'amount_wh', payload ->> 'amount')::bigint
                * CASE WHEN kind IN ('energy_generated', 'deposit_issued') THEN 1 ELSE -1 END AS amount
        FROM open
        JOIN outbox USING (number)
        WHERE state <> 'confirmed'
            AND kind IN ('energy_generated', 'deposit_issued', 'energy_retired', 'energy_revoked', 'withdrawal')
    )
    SELECT 'user:' || owner AS account,
        coalesce(sum(amount) FILTER (WHERE is_energy), 0)::bigint AS energy_wh,
        coalesce(sum(amount) FILTER (WHERE NOT is_energy), 0)::bigint AS currency_micro,
        coalesce(sum(amount) FILTER (WHERE is_energy AND kind <> 'withdrawal'), 0)::bigint AS supply_wh,
        bool_or(is_sent) AS is_sent,
        coalesce(sum(amount) FILTER (WHERE NOT is_energy AND kind <> 'withdrawal'), 0)::bigint AS supply_micro,
        bool_or(is_sent AND kind <> 'withdrawal') AS supply_moves
    FROM effects
    GROUP BY owner
"""
# In a vault already, and not in the ledger.
UNSURE_DEPOSITS = """
    /* reconciliation.unsure_deposits */
    SELECT 'user:' || a.user_id AS account,
        coalesce(sum((fields ->> 'amount')::bigint) FILTER (WHERE fields ->> 'asset' = '0'), 0)::bigint AS energy_wh,
        coalesce(sum((fields ->> 'amount')::bigint) FILTER (WHERE fields ->> 'asset' = '1'), 0)::bigint
            AS currency_micro
    FROM chain_events e
    JOIN chain_accounts a ON a.vault = e.fields ->> 'vault'
    WHERE e.state = 'confirmed'
        AND e.name = 'Deposited'
    GROUP BY a.user_id
"""
OUTSIDE = """
    /* reconciliation.outside */
    SELECT coalesce(sum(amount) FILTER (WHERE asset <> $1), 0)::bigint AS energy_wh,
        coalesce(sum(amount) FILTER (WHERE asset = $1), 0)::bigint AS currency_micro
    FROM (
        SELECT asset, amount FROM withdrawals WHERE done_us IS NOT NULL
        UNION ALL
        SELECT asset, -amount FROM deposits WHERE reference LIKE 'chain:%'
    ) AS o
"""
HOLDINGS = "/* reconciliation.holdings */ SELECT 'user:' || user_id, energy, currency FROM chain_accounts"
OPEN_SETTLEMENTS = "/* reconciliation.open_settlements */ SELECT settlement_id FROM settlements WHERE status <> 4"
# Never compared, something settled for good since, or too long ago.
IS_DUE = """
    /* reconciliation.is_due */
    SELECT coalesce(
        (
            SELECT at_us <= $1::bigint - CASE WHEN differences = '[]' THEN $2::bigint ELSE $3::bigint END
                OR EXISTS (SELECT 1 FROM settlements WHERE status = 4 AND changed_us > at_us)
            FROM reconciliations
            ORDER BY number DESC
            LIMIT 1
        ),
        true)
"""
ADD = """
    /* reconciliation.add */
    INSERT INTO reconciliations (settlement, at_us, differences)
    SELECT number, $1, $2::jsonb
    FROM settlement_head
    RETURNING number
"""
FORGET = "/* reconciliation.forget */ DELETE FROM reconciliations WHERE number <= $1"
LAST = "/* reconciliation.last */ SELECT at_us, differences::text FROM reconciliations ORDER BY number DESC LIMIT 1"


class PostgresReconciliation:
    """currency_is_ours: nobody but the exchange makes its tokens, so what is outside has been withdrawn."""

    def __init__(self, pool: Pool, currency: str, *, currency_is_ours: bool = True) -> None:
        self._pool, self._currency, self._is_ours = pool, currency, currency_is_ours

    @property
    def outages(self) -> tuple[type[Exception], ...]:
        return (*OUTAGES, TimeoutError)

    async def is_due(self, now_us: TimeUs, every_us: int, again_us: int) -> bool:
        """After every settlement, every so often, and sooner while books and chain differ."""
        return bool(await self._pool.fetchval(IS_DUE, now_us, every_us, again_us))

    async def holdings(self) -> dict[str, tuple[str, str]]:
        """By account, the addresses of its energy and its currency."""
        return {row[0]: (row[1], row[2]) for row in await self._pool.fetch(HOLDINGS)}

    async def open_settlements(self) -> list[bytes]:
        return [row[0] for row in await self._pool.fetch(OPEN_SETTLEMENTS)]

    async def books(self) -> Books:
        """Everything as of one instant."""
        async with (
            self._pool.acquire() as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            ledger = {row[0]: Amounts(row[1], row[2]) for row in await connection.fetch(LEDGER, self._currency)}
            live = await connection.fetchrow(LIVE, self._currency)
            pending: dict[str, Amounts] = {}
            unsettled = await connection.fetch(UNSETTLED_REBATES)
            for market_id, number in await connection.fetch(SETTLED):
                unsettled += await connection.fetch(UNSETTLED, market_id, number)
            for account, energy_wh, currency_micro in unsettled:
                pending[account] = pending.get(account, NOTHING) + Amounts(energy_wh, currency_micro)
            parts = await connection.fetch(OPEN_PARTS, SETTLE)
            moving = await connection.fetch(ON_THE_WAY)
            unsure = await connection.fetch(UNSURE_DEPOSITS)
            outside = await connection.fetchrow(OUTSIDE, self._currency)
        assert live is not None, "an aggregate has a row"
        assert outside is not None, "an aggregate has a row"
        under_way: set[str] = set()
        for status, deltas in parts:
            for one in json.loads(deltas):
                account, change = one["account"], Amounts(one["energy_wh"], one["currency_micro"])
                pending[account] = pending.get(account, NOTHING) + change
                if status == Status.SUBMITTED:  # a parked one can land no more
                    under_way.add(account)
        for row in moving:
            account, change = row["account"], Amounts(row["energy_wh"], row["currency_micro"])
            pending[account] = pending.get(account, NOTHING) + change
            if row["is_sent"]:
                under_way.add(account)
        for row in unsure:
            account, change = row["account"], Amounts(row["energy_wh"], row["currency_micro"])
            pending[account] = pending.get(account, NOTHING) - change
        return Books(
            ledger=ledger,
            pending=pending,
            energy_live_wh=live["energy_wh"],
            energy_pending_wh=sum(row["supply_wh"] for row in moving),
            currency_live_micro=live["currency_micro"] if self._is_ours else None,
            currency_pending_micro=sum(row["supply_micro"] for row in moving),
            outside=Amounts(outside["energy_wh"], outside["currency_micro"] if self._is_ours else FOREIGN),
            under_way=frozenset(under_way),
            supply_moves=any(row["supply_moves"] for row in moving),
        )

    async def keep(self, differences: Sequence[Difference], now_us: TimeUs) -> bool:
        """What a comparison found; whether books and chain agree differently than before, which is worth an alarm."""
        shown = msgspec.to_builtins(differences[:DIFFERENCES_KEPT_MAX])
        async with self._pool.acquire() as connection, connection.transaction():
            was = await last(connection)
            turned = bool(differences) is not bool(was is not None and was.differences)
            number = await connection.fetchval(ADD, now_us, msgspec.json.encode(shown).decode())
            await connection.execute(FORGET, number - COMPARISONS_KEPT_MAX)
            if turned:
                action = "books.differ" if differences else "books.agree"
                await append(connection, SYSTEM, action, "chain", None, {"differences": shown})
        return turned

    async def is_suspended(self) -> bool:
        """Do withdrawals wait, because the last comparison found a difference?"""
        return await is_suspended(self._pool)


async def last(connection: "AnyConnection | Pool") -> Compared | None:
    """What the last comparison found; None before the first."""
    row = await connection.fetchrow(LAST)
    return Compared(row[0], msgspec.json.decode(row[1], type=tuple[Difference, ...])) if row is not None else None


async def is_suspended(connection: "AnyConnection | Pool") -> bool:
    """Do withdrawals wait, because the last comparison found a difference that stops them?"""
    found = await last(connection)
    return found is not None and found.stops
