"""Orders that are placed again in each period. An order's client_order_id is made of rule and period, so that the
market itself lets a period have one, however many ask.

Who makes or ends a rule is in the audit log (audit_log.py); what it placed is in the market's journal.
"""
# ruff: noqa: S608 - the SQL is joined from constants of this file, values are parameters

from typing import Final

import asyncpg
import msgspec

from engine.audit import SYSTEM, Origin
from engine.messages import ParticipantId, Side
from engine.records import DueOrder, NewRecurring, RecurringRecord, TooManyRecurring
from engine.units import TimeUs
from persistence.audit_log import append
from persistence.postgres import Pool

OF_ONE_MAX: Final = 50  # active ones of one participant
OUTCOME_LENGTH_MAX: Final = 300

_COLUMNS = """recurring_id, user_id, market_id, side, price_micro, quantity_wh, every_seconds, first_us, ends_us,
    count_max, placed, outcome, active, created_us"""
LOCK_USER = "/* recurring.lock_user */ SELECT 1 FROM users WHERE user_id = $1 FOR NO KEY UPDATE"
COUNT = "/* recurring.count */ SELECT count(*) FROM recurring_orders WHERE user_id = $1 AND active"
ADD = f"""
    /* recurring.add */
    INSERT INTO recurring_orders (user_id, market_id, side, price_micro, quantity_wh, every_seconds, first_us, ends_us,
        count_max, created_us)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
    RETURNING {_COLUMNS}
"""
PAGE = f"""
    /* recurring.page */
    SELECT {_COLUMNS}
    FROM recurring_orders
    WHERE user_id = $1
        AND recurring_id < $2
    ORDER BY recurring_id DESC
    LIMIT $3
"""
ONE = f"/* recurring.one */ SELECT {_COLUMNS} FROM recurring_orders WHERE recurring_id = $1 AND user_id = $2"
STOP = f"""
    /* recurring.stop */
    UPDATE recurring_orders
    SET active = false
    WHERE recurring_id = $1
        AND user_id = $2
        AND active
    RETURNING {_COLUMNS}
"""
# A period that nobody was there for is left out: an order that comes too late is another order.
DUE = """
    /* recurring.due */
    SELECT r.recurring_id, r.user_id, r.market_id, r.side, r.price_micro, r.quantity_wh, u.zone,
        ($1 - r.first_us) / (r.every_seconds * 1000000::bigint) AS period,
        r.first_us + (($1 - r.first_us) / (r.every_seconds * 1000000::bigint) + 1) * r.every_seconds * 1000000::bigint
    FROM recurring_orders r
    JOIN users u USING (user_id)
    WHERE r.active
        AND u.status = 'active'
        AND r.first_us <= $1
        AND r.ends_us > $1
        AND ($1 - r.first_us) / (r.every_seconds * 1000000::bigint) > r.placed_period
        AND r.recurring_id > $2
    ORDER BY r.recurring_id
    LIMIT $3
"""
DONE = """
    /* recurring.done */
    UPDATE recurring_orders
    SET placed_period = $2,
        placed = placed + $3,
        outcome = $4,
        active = active AND (count_max = 0 OR placed + $3 < count_max)
    WHERE recurring_id = $1
        AND placed_period < $2
"""
END_OLD = "/* recurring.end_old */ UPDATE recurring_orders SET active = false WHERE active AND ends_us <= $1"


class PostgresRecurring:
    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def add(self, new: NewRecurring, now_us: TimeUs, origin: Origin = SYSTEM) -> RecurringRecord:
        """Raises TooManyRecurring."""
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute(LOCK_USER, new.user_id)
            if await connection.fetchval(COUNT, new.user_id) >= OF_ONE_MAX:
                raise TooManyRecurring
            row = await connection.fetchrow(
                ADD,
                new.user_id,
                new.market_id,
                new.side,
                new.price_micro,
                new.quantity_wh,
                new.every_seconds,
                new.first_us,
                new.ends_us,
                new.count_max,
                now_us,
            )
            assert row is not None, "an insert returns its row"
            made = _record(row)
            subject = f"recurring_order:{made.recurring_id}"
            await append(connection, origin, "recurring_order.made", subject, None, {"market_id": new.market_id})
        return made

    async def page(self, user_id: ParticipantId, before_id: int, limit: int) -> list[RecurringRecord]:
        """The user's own, newest first."""
        return [_record(row) for row in await self._pool.fetch(PAGE, user_id, before_id, limit)]

    async def one(self, recurring_id: int, user_id: ParticipantId) -> RecurringRecord | None:
        row = await self._pool.fetchrow(ONE, recurring_id, user_id)
        return _record(row) if row is not None else None

    async def stop(self, recurring_id: int, user_id: ParticipantId, origin: Origin = SYSTEM) -> RecurringRecord | None:
        """No further orders; those that are open stay. None when the user has no such rule."""
        async with self._pool.acquire() as connection, connection.transaction():
            row = await connection.fetchrow(STOP, recurring_id, user_id)
            if row is not None:
                await append(connection, origin, "recurring_order.stopped", f"recurring_order:{recurring_id}")
                return _record(row)
        return await self.one(recurring_id, user_id)

    async def due(self, now_us: TimeUs, after_id: int, limit: int) -> list[DueOrder]:
        """Rules whose present period has no order yet, by id."""
        return [
            DueOrder(row[0], row[1], row[2], Side(row[3]), *row[4:])
            for row in await self._pool.fetch(DUE, now_us, after_id, limit)
        ]

    async def done(self, recurring_id: int, period: int, outcome: str) -> None:
        """The period has its order, or, with why, was refused one; what is noted already stays."""
        await self._pool.execute(DONE, recurring_id, period, 0 if outcome else 1, outcome[:OUTCOME_LENGTH_MAX])

    async def end_old(self, now_us: TimeUs) -> None:
        """Rules whose time is over are not looked at any more."""
        await self._pool.execute(END_OLD, now_us)


def _record(row: asyncpg.Record) -> RecurringRecord:
    return msgspec.convert(dict(row), RecurringRecord)
