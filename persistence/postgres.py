"""How we connect: one pool per process for queries, with bounds on how long anything may take.

The order path does not use the pool: each market's journal has a connection of its own (journal.py).
"""

from typing import TYPE_CHECKING, Final, TypeAlias

import asyncpg

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"
Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
PooledConnection: TypeAlias = "PoolConnectionProxy[asyncpg.Record]"
AnyConnection: TypeAlias = "Connection | PooledConnection"

STATEMENT_SECONDS: Final = 30
LOCK_SECONDS: Final = 10
IDLE_TRANSACTION_SECONDS: Final = 60
ACQUIRE_SECONDS: Final = 10
CLAIM_KEY: Final = 0x5761747472756E21  # "Wattrun!"; migrations lock another
CLAIM = "/* postgres.claim */ SELECT pg_try_advisory_lock($1)"


async def open_pool(dsn: str, size_max: int = 10, name: str = "wattbook") -> Pool:
    """A pool of at most `size_max` connections; one is opened at once, so that a wrong address fails here."""
    return await asyncpg.create_pool(
        dsn,
        min_size=1,
        max_size=size_max,
        command_timeout=STATEMENT_SECONDS,
        timeout=ACQUIRE_SECONDS,
        server_settings=server_settings(name),
        reset=_leave_as_it_is,
    )


class DatabaseInUse(Exception):
    """Another exchange runs on this database: two would take each other's markets in turns."""


async def claim(dsn: str) -> Connection:
    """Make this exchange the database's only one for as long as the connection lives. Raises DatabaseInUse."""
    connection = await asyncpg.connect(dsn, timeout=ACQUIRE_SECONDS, server_settings=server_settings("claim"))
    if not await connection.fetchval(CLAIM, CLAIM_KEY):
        await connection.close()
        raise DatabaseInUse
    return connection


def server_settings(name: str) -> dict[str, str]:
    """What every session of ours says to the server; `name` shows in pg_stat_activity."""
    return {
        "application_name": name,
        "timezone": "UTC",
        "jit": "off",
        "statement_timeout": f"{STATEMENT_SECONDS}s",
        "lock_timeout": f"{LOCK_SECONDS}s",
        "idle_in_transaction_session_timeout": f"{IDLE_TRANSACTION_SECONDS}s",
    }


async def _leave_as_it_is(connection: Connection) -> None:
    """Nothing of ours changes a session, so the round trip that would undo it is spared.

    An open transaction is rolled back by the pool all the same.
    """
