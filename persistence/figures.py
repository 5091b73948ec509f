"""What the database says of itself, for metrics: one cheap query, asked a few times a minute."""

from msgspec import Struct

from persistence.postgres import Pool

LOOK = """
    /* figures.look */
    SELECT coalesce((SELECT max(transfer_id) FROM transfers), 0) AS transfers,
           pg_database_size(current_database()) AS size_bytes,
           count(*) FILTER (WHERE state = 'active') AS active,
           count(*) FILTER (WHERE state LIKE 'idle in transaction%') AS in_transaction,
           count(*) FILTER (WHERE state = 'idle') AS idle,
           coalesce(extract(epoch FROM max(now() - xact_start)), 0)::float8 AS oldest_seconds,
           current_setting('max_connections')::int AS connections_max
    FROM pg_stat_activity
    WHERE datname = current_database() AND backend_type = 'client backend'
"""


class DatabaseFigures(Struct, frozen=True):
    """transfers: number of the ledger's newest; oldest_seconds: of a transaction that is open now."""

    transfers: int
    size_bytes: int
    active: int
    in_transaction: int
    idle: int
    oldest_seconds: float
    connections_max: int


class PostgresFigures:
    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def look(self) -> DatabaseFigures:
        row = await self._pool.fetchrow(LOOK)
        assert row is not None, "an aggregate has one row"
        return DatabaseFigures(**dict(row))
