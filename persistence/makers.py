"""The market maker programme: who has promised what, how long each quoted, what each got for it, once per epoch.

A reward is one transaction: its row, whose primary key is the rule that it is made once, and the transfer from the
market's fees. The chain hears of it with a settlement (settlements.py). Changes of obligations are in the audit log.
"""

from typing import Final

from msgspec.structs import asdict, replace

from engine.analytics.presence import Obligation, presence_bps, rebate_micro
from engine.audit import SYSTEM, Origin
from engine.messages import ParticipantId
from engine.records import MakerRecord, RewardRecord
from engine.units import TimeUs
from persistence.accounts import MAIN, AccountKey, AccountNumbers
from persistence.audit_log import append
from persistence.postgres import AnyConnection, Pool

KIND: Final = "rebate"  # of transfers
AT_ONCE_MAX: Final = 100

OBLIGATIONS = """
    /* makers.obligations */
    SELECT user_id, spread_bps_max, size_wh_min
    FROM market_makers
    WHERE market_id = $1
    ORDER BY user_id
"""
_COLUMNS = "market_id, user_id, spread_bps_max, size_wh_min, presence_bps_min, rebate_bps, since_us"
OF_MARKET = f"/* makers.of_market */ SELECT {_COLUMNS} FROM market_makers WHERE market_id = $1 ORDER BY user_id"  # noqa: S608
LOCKED = f"""
    /* makers.locked */
    SELECT {_COLUMNS}
    FROM market_makers
    WHERE market_id = $1
        AND user_id = $2
    FOR UPDATE
"""  # noqa: S608 - a constant of this file
USER = "/* makers.user */ SELECT 1 FROM users WHERE user_id = $1 FOR KEY SHARE"
PUT = """
    /* makers.put */
    INSERT INTO market_makers (market_id, user_id, spread_bps_max, size_wh_min, presence_bps_min, rebate_bps, since_us)
    VALUES ($1, $2, $3, $4, $5, $6, $7)
    ON CONFLICT (market_id, user_id) DO UPDATE
        SET spread_bps_max = EXCLUDED.spread_bps_max,
            size_wh_min = EXCLUDED.size_wh_min,
            presence_bps_min = EXCLUDED.presence_bps_min,
            rebate_bps = EXCLUDED.rebate_bps
"""
REMOVE = "/* makers.remove */ DELETE FROM market_makers WHERE market_id = $1 AND user_id = $2"
# The next epoch of each maker that is over in the tables and has no reward: the first is the one after he began.
DUE = """
    /* makers.due */
    SELECT d.market_id, d.user_id, d.presence_bps_min, d.rebate_bps, d.epoch_us, d.next_us
    FROM (
        SELECT m.*, e.epoch_us, c.epoch_start_us AS present_us,
            coalesce(
                (SELECT max(epoch_start_us) + e.epoch_us FROM maker_rewards r
                    WHERE (r.market_id, r.user_id) = (m.market_id, m.user_id) AND r.epoch_start_us >= m.since_us),
                (m.since_us / e.epoch_us + 1) * e.epoch_us
            ) AS next_us
        FROM market_makers m
        JOIN markets USING (market_id)
        JOIN cursors c USING (market_id)
        CROSS JOIN LATERAL (SELECT epoch_seconds * 1000000::bigint AS epoch_us) e
    ) d
    WHERE d.next_us < d.present_us
    ORDER BY d.next_us, d.market_id, d.user_id
    LIMIT $1
"""
QUOTED = """
    /* makers.quoted */
    SELECT quoted_us
    FROM maker_presence
    WHERE market_id = $1
        AND epoch_start_us = $2
        AND user_id = $3
"""
# What traded with the maker's resting orders: at their own prices, with the fees of both sides.
TRADED = """
    /* makers.traded */
    SELECT coalesce(sum(price_micro * energy_wh / 1000), 0)::bigint,
        coalesce(sum(buyer_fee_micro + seller_fee_micro), 0)::bigint
    FROM (
        SELECT price_micro, energy_wh, buyer_fee_micro, seller_fee_micro
        FROM trades
        WHERE buyer_id = $3 AND market_id = $1 AND taker_side = 1 AND time_us >= $2 AND time_us < $4
        UNION ALL
        SELECT price_micro, energy_wh, buyer_fee_micro, seller_fee_micro
        FROM trades
        WHERE seller_id = $3 AND market_id = $1 AND taker_side = 0 AND time_us >= $2 AND time_us < $4
    ) AS made
"""
ADD_REWARD = """
    /* makers.add_reward */
    INSERT INTO maker_rewards (market_id, epoch_start_us, user_id, presence_bps, presence_bps_min, value_micro,
        rebate_micro, epoch_end_us)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
    ON CONFLICT DO NOTHING
    RETURNING user_id
"""
ADD_TRANSFER = """
    /* makers.add_transfer */
    INSERT INTO transfers (kind, reference, time_us)
    VALUES ($1, $2, $3)
    RETURNING transfer_id
"""
ADD_ENTRIES = """
    /* makers.add_entries */
    INSERT INTO entries (transfer_id, account_id, participant_id, amount)
    SELECT $1, *
    FROM unnest($2::bigint[], $3::bigint[], $4::bigint[])
"""
REWARDS = """
    /* makers.rewards */
    SELECT market_id, epoch_start_us, user_id, presence_bps, presence_bps_min, value_micro, rebate_micro
    FROM maker_rewards
    WHERE ($1::bigint IS NULL OR user_id = $1)
        AND ($2::integer IS NULL OR market_id = $2)
        AND epoch_start_us >= $3
        AND epoch_start_us < $4
        AND (epoch_start_us, market_id, user_id) < ($5, $6, $7)
    ORDER BY epoch_start_us DESC, market_id DESC, user_id DESC
    LIMIT $8
"""


class PostgresMakers:
    def __init__(self, pool: Pool, currency: str) -> None:
        self._pool, self._currency = pool, currency
        self._accounts = AccountNumbers(pool)

    async def of_market(self, market_id: int) -> list[MakerRecord]:
        return [MakerRecord(*row) for row in await self._pool.fetch(OF_MARKET, market_id)]

    async def put(self, maker: MakerRecord, origin: Origin = SYSTEM) -> MakerRecord | None:
        """Oblige somebody, or change what he is obliged to; since_us stays. None: there is no such user."""
        async with self._pool.acquire() as connection, connection.transaction():
            if await connection.fetchval(USER, maker.user_id) is None:
                return None
            row = await connection.fetchrow(LOCKED, maker.market_id, maker.user_id)
            before = MakerRecord(*row) if row is not None else None
            await connection.execute(PUT, *asdict(maker).values())
            shown = asdict(before) if before is not None else None
            kept = replace(maker, since_us=before.since_us) if before is not None else maker
            if kept != before:
                await append(connection, origin, "market_maker.put", f"user:{maker.user_id}", shown, asdict(kept))
        return kept

    async def remove(self, market_id: int, user_id: ParticipantId, origin: Origin = SYSTEM) -> bool:
        """False: he was none. What he has earned and was not rewarded for yet is not rewarded."""
        async with self._pool.acquire() as connection, connection.transaction():
            row = await connection.fetchrow(LOCKED, market_id, user_id)
            if row is None:
                return False
            await connection.execute(REMOVE, market_id, user_id)
            await append(connection, origin, "market_maker.removed", f"user:{user_id}", dict(row), None)
        return True

    async def rewards(
        self,
        user_id: ParticipantId | None,
        market_id: int | None,
        from_us: TimeUs,
        to_us: TimeUs,
        before: tuple[int, int, int],
        limit: int,
    ) -> list[RewardRecord]:
        """Newest epoch first; `before` is the (epoch_start_us, market_id, user_id) of the last one that was seen."""
        rows = await self._pool.fetch(REWARDS, user_id, market_id, from_us, to_us, *before, limit)
        return [RewardRecord(*row) for row in rows]

    async def reward_due(self, now_us: TimeUs) -> int:
        """Reward each maker for the next epoch that is over; how many rewards there were."""
        due = await self._pool.fetch(DUE, AT_ONCE_MAX)
        for market_id, user_id, presence_min, rebate_bps, epoch_us, start_us in due:
            fees, main = AccountKey(0, "fees", market_id, self._currency), AccountKey(user_id, MAIN, 0, self._currency)
            ids = await self._accounts.of((fees, main))
            async with self._pool.acquire() as connection, connection.transaction():
                quoted_us = await connection.fetchval(QUOTED, market_id, start_us, user_id) or 0
                present = presence_bps(quoted_us, epoch_us)
                traded = await connection.fetchrow(TRADED, market_id, start_us, user_id, start_us + epoch_us)
                assert traded is not None, "an aggregate has a row"
                value, fee = traded
                rebate = rebate_micro(value, fee, rebate_bps) if present >= presence_min else 0
                row = (market_id, start_us, user_id, present, presence_min, value, rebate)
                if await connection.fetchval(ADD_REWARD, *row, start_us + epoch_us) is not None and rebate:
                    reward = RewardRecord(*row)
                    await _pay(connection, reward, (ids[fees], ids[main]), now_us)
        return len(due)


async def obligations(pool: Pool, market_id: int) -> list[Obligation]:
    """What a market's makers have promised: what the follower measures."""
    return [Obligation(*row) for row in await pool.fetch(OBLIGATIONS, market_id)]


async def _pay(connection: AnyConnection, reward: RewardRecord, accounts: tuple[int, int], now_us: TimeUs) -> None:
    """From the market's fees to the maker's main account."""
    key = f"{reward.market_id}:{reward.epoch_start_us}:{reward.user_id}"
    transfer_id = await connection.fetchval(ADD_TRANSFER, KIND, f"{KIND}:{key}", now_us)
    amounts = [-reward.rebate_micro, reward.rebate_micro]
    await connection.execute(ADD_ENTRIES, transfer_id, list(accounts), [0, reward.user_id], amounts)
