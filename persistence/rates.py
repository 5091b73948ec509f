"""Rates by which energy is valued, each from an instant on. What is put is written to the audit log (audit_log.py)."""

from collections.abc import Sequence
from typing import Final

from engine.analytics.rates import Rate
from engine.audit import SYSTEM, Origin
from persistence.audit_log import append
from persistence.postgres import Pool

RATES_MAX: Final = 10_000  # in one period

# Those of the period, and of each name the one that holds when it begins.
RATES = f"""
    /* rates.rates */
    SELECT name, valid_from_us, value
    FROM (
        SELECT DISTINCT ON (name) name, valid_from_us, value
        FROM rates
        WHERE valid_from_us <= $1
        ORDER BY name, valid_from_us DESC
    ) before
    UNION ALL
    (
        SELECT name, valid_from_us, value
        FROM rates
        WHERE valid_from_us > $1
            AND valid_from_us < $2
        ORDER BY valid_from_us DESC, name
        LIMIT {RATES_MAX}
    )
"""  # noqa: S608 - a constant of this file
PAGE = """
    /* rates.page */
    SELECT name, valid_from_us, value
    FROM rates
    WHERE ($1::text IS NULL OR name = $1)
        AND (valid_from_us, name) < ($2, $3)
    ORDER BY valid_from_us DESC, name DESC
    LIMIT $4
"""
PRESENT = """
    /* rates.present */
    SELECT r.name, r.valid_from_us, r.value
    FROM unnest($1::text[], $2::bigint[]) AS k (name, valid_from_us)
    JOIN rates r USING (name, valid_from_us)
"""
PUT = """
    /* rates.put */
    INSERT INTO rates (name, valid_from_us, value)
    SELECT * FROM unnest($1::text[], $2::bigint[], $3::bigint[])
    ON CONFLICT (name, valid_from_us) DO UPDATE SET value = EXCLUDED.value
"""
PUT_FIRST = """
    /* rates.put_first */
    INSERT INTO rates (name, valid_from_us, value)
    SELECT name, 0, value
    FROM unnest($1::text[], $2::bigint[]) AS f (name, value)
    WHERE NOT EXISTS (SELECT 1 FROM rates r WHERE r.name = f.name)
"""


class PostgresRates:
    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def rates(self, from_us: int, to_us: int) -> list[Rate]:
        """All that hold at some time of the period; of very many changes the newest."""
        return [Rate(*row) for row in await self._pool.fetch(RATES, from_us, to_us)]

    async def page(self, name: str | None, before: tuple[int, str], limit: int) -> list[Rate]:
        """Newest first; `before` is the (valid_from_us, name) of the last one that was seen."""
        return [Rate(*row) for row in await self._pool.fetch(PAGE, name, *before, limit)]

    async def put(self, rates: Sequence[Rate], origin: Origin = SYSTEM) -> None:
        """Add these, or put right those that begin at the same instants."""
        keys = [rate.name for rate in rates], [rate.valid_from_us for rate in rates]
        async with self._pool.acquire() as connection, connection.transaction():
            before = [Rate(*row) for row in await connection.fetch(PRESENT, *keys)]
            await connection.execute(PUT, *keys, [rate.value for rate in rates])
            if set(before) != set(rates):
                await append(connection, origin, "rates.changed", "rates", _shown(before), _shown(rates))

    async def put_first(self, values: dict[str, int]) -> None:
        """From the beginning of time, for names that have no value yet."""
        await self._pool.execute(PUT_FIRST, list(values), list(values.values()))


def _shown(rates: Sequence[Rate]) -> dict[str, object]:
    return {f"{rate.name}@{rate.valid_from_us}": rate.value for rate in rates}
