"""Limits and blocks of participants. What a market was given of them stands in its journal; here is what should hold.

Each change writes its row of the audit log (audit_log.py), and holds the user's row until then: of two at once, the
later one replaces the whole of the earlier.
"""

from collections.abc import Mapping
from typing import Final

from msgspec.structs import asdict, astuple

from engine.audit import SYSTEM, Origin
from engine.market import RiskLimits
from engine.messages import ParticipantId
from engine.records import OwnLimits, ParticipantRisk, RiskRecord
from engine.units import TimeUs
from persistence.audit_log import append
from persistence.postgres import AnyConnection, Pool

RATES_MAX: Final = 100_000  # participants with limits of their own in some market whose rates a gateway knows

LOCK_USER = "/* risk.lock_user */ SELECT user_id FROM users WHERE user_id = $1 FOR NO KEY UPDATE"
OF_USER = """
    /* risk.of_user */
    SELECT market_id, quantity_wh_max, orders_max, value_micro_max, position_wh_max, messages_per_second
    FROM risk_limits
    WHERE user_id = $1
    ORDER BY market_id
"""
BLOCK_OF = "/* risk.block_of */ SELECT since_us, reason FROM blocks WHERE user_id = $1"
DROP = "/* risk.drop */ DELETE FROM risk_limits WHERE user_id = $1"
ADD = """
    /* risk.add */
    INSERT INTO risk_limits (user_id, market_id, quantity_wh_max, orders_max, value_micro_max, position_wh_max,
        messages_per_second)
    VALUES ($1, $2, $3, $4, $5, $6, $7)
"""
BLOCK = """
    /* risk.block */
    INSERT INTO blocks (user_id, reason, since_us)
    VALUES ($1, $2, $3)
    ON CONFLICT (user_id) DO NOTHING
    RETURNING user_id
"""
RELEASE = "/* risk.release */ DELETE FROM blocks WHERE user_id = $1 RETURNING reason, since_us"
# The participants of a market in one statement, and so as of one instant.
OF_MARKET = """
    /* risk.of_market */
    SELECT user_id, r.market_id IS NOT NULL, coalesce(r.quantity_wh_max, 0), coalesce(r.orders_max, 0),
        coalesce(r.value_micro_max, 0), coalesce(r.position_wh_max, 0), b.since_us IS NOT NULL
    FROM (SELECT * FROM risk_limits WHERE market_id = $1) AS r
    FULL JOIN blocks AS b USING (user_id)
    ORDER BY user_id
"""
RATES = f"""
    /* risk.rates */
    SELECT market_id, user_id, messages_per_second
    FROM risk_limits
    ORDER BY market_id, user_id
    LIMIT {RATES_MAX}
"""  # noqa: S608 - a constant of this file


class PostgresRisk:
    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def of_user(self, user_id: ParticipantId) -> RiskRecord:
        """What is set for a user; nothing, also for one who does not exist."""
        async with self._pool.acquire() as connection, connection.transaction(isolation="repeatable_read"):
            return await _record(connection, user_id)

    async def put(
        self, user_id: ParticipantId, limits: Mapping[int, OwnLimits], origin: Origin = SYSTEM
    ) -> RiskRecord | None:
        """Own limits by market instead of all that there were; None for a user who does not exist."""
        async with self._pool.acquire() as connection, connection.transaction():
            if await connection.fetchval(LOCK_USER, user_id) is None:
                return None
            before = await _record(connection, user_id)
            if before.limits == limits:
                return before
            await connection.execute(DROP, user_id)
            rows = [(user_id, m, *astuple(own.limits), own.messages_per_second) for m, own in limits.items()]
            await connection.executemany(ADD, rows)
            after = await _record(connection, user_id)
            shown = _shown(before), _shown(after)
            await append(connection, origin, "risk.limits_changed", f"user:{user_id}", *shown)
            return after

    async def block(
        self, user_id: ParticipantId, reason: str, now_us: TimeUs, origin: Origin = SYSTEM
    ) -> RiskRecord | None:
        """From now on the user places nothing; who is blocked stays so since then. None: there is no such user."""
        async with self._pool.acquire() as connection, connection.transaction():
            if await connection.fetchval(LOCK_USER, user_id) is None:
                return None
            if await connection.fetchval(BLOCK, user_id, reason, now_us) is not None:
                await append(connection, origin, "risk.blocked", f"user:{user_id}", None, {"reason": reason})
            return await _record(connection, user_id)

    async def release(self, user_id: ParticipantId, origin: Origin = SYSTEM) -> RiskRecord | None:
        """The user may place again. None: there is no such user."""
        async with self._pool.acquire() as connection, connection.transaction():
            if await connection.fetchval(LOCK_USER, user_id) is None:
                return None
            row = await connection.fetchrow(RELEASE, user_id)
            if row is not None:
                await append(connection, origin, "risk.released", f"user:{user_id}", dict(row), None)
            return await _record(connection, user_id)

    async def of_market(self, market_id: int) -> dict[ParticipantId, ParticipantRisk]:
        """Everybody who has limits of his own there, or is blocked."""
        rows = await self._pool.fetch(OF_MARKET, market_id)
        return {
            user_id: ParticipantRisk(RiskLimits(*limits) if has_limits else None, is_blocked)
            for user_id, has_limits, *limits, is_blocked in rows
        }

    async def rates(self) -> dict[tuple[int, ParticipantId], int]:
        """Messages per second by (market, participant), 0 for no limit, of those who have limits of their own."""
        return {(row[0], row[1]): row[2] for row in await self._pool.fetch(RATES)}


async def _record(connection: AnyConnection, user_id: ParticipantId) -> RiskRecord:
    limits = {
        market_id: OwnLimits(RiskLimits(*values), rate)
        for market_id, *values, rate in await connection.fetch(OF_USER, user_id)
    }
    block = await connection.fetchrow(BLOCK_OF, user_id)
    return RiskRecord(user_id, limits, *block) if block is not None else RiskRecord(user_id, limits)


def _shown(risk: RiskRecord) -> dict[str, object]:
    """Own limits in the audit log."""
    return {f"market:{market_id}": asdict(own) | asdict(own.limits) for market_id, own in risk.limits.items()}
