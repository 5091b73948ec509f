"""How we connect: one pool per process for queries, with bounds on how long anything may take.

The order path does not use the pool: each market's journal has a connection of its own (journal.py).
"""

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import asyncpg

from persistence.priority import step_back

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"
Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
PooledConnection: TypeAlias = "PoolConnectionProxy[asyncpg.Record]"
AnyConnection: TypeAlias = "Connection | PooledConnection"
Queried: TypeAlias = Callable[[Any], None]  # told an asyncpg LoggedQuery

STATEMENT_SECONDS: Final = 30
LOCK_SECONDS: Final = 10
IDLE_TRANSACTION_SECONDS: Final = 60
ACQUIRE_SECONDS: Final = 10
CLOSE_SECONDS: Final = 2
# The server is away, ends, starts, recovers, or has no room: nothing is wrong with what was asked.
OUTAGES: Final = (
    OSError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.PostgresSystemError,  # its disk fails
    asyncpg.InternalClientError,  # what the driver also says when its connection is ended between two of its steps
)
_LOST: Final = (*OUTAGES, TimeoutError, asyncpg.PostgresError)  # of a session whose only question is whether it lives
# For `settings` of a pool. A table that is too young for statistics looks small, and the planner would read all of it.
ALWAYS_BY_KEY: Final = dict.fromkeys(
    ("enable_bitmapscan", "enable_hashjoin", "enable_mergejoin", "enable_seqscan"), "off"
)
# Also in the order of a key, a page at a time. Not for joins: to save itself a sort of ten rows, the planner would read
# a whole table by a key that has their order.
ALWAYS_IN_ORDER_OF_KEY: Final = {**ALWAYS_BY_KEY, "enable_sort": "off"}
CLAIM_KEY: Final = 0x5761747472756E21  # "Wattrun!"; migrations lock another
CLAIM = "/* postgres.claim */ SELECT pg_try_advisory_lock($1)"


async def open_pool(
    dsn: str,
    size_max: int = 10,
    name: str = "wattbook",
    *,
    waits: bool = True,
    nice: int = 0,
    queried: Queried | None = None,
    settings: Mapping[str, str] | None = None,
) -> Pool:
    """A pool of at most `size_max` connections; one is opened at once, so that a wrong address fails here.

    Without `waits` a commit does not wait for the disk: fit for what is made again from the journal if a crash takes
    its last moments, and for what counts only once a later commit has waited, which takes all before it along.
    `nice`: how far its sessions step back on the processors; only for a server on this machine. `queried` hears of
    every statement as it ends. `settings`: of the server, for its sessions.
    """

    async def begin(session: Connection) -> None:
        if queried is not None:
            session.add_query_logger(queried)
        if nice:
            with contextlib.suppress(ProcessLookupError, PermissionError):  # somebody else's server: it stays as it is
                await asyncio.to_thread(step_back, session.get_server_pid(), nice)

    return await asyncpg.create_pool(
        dsn,
        min_size=1,
        max_size=size_max,
        command_timeout=STATEMENT_SECONDS,
        timeout=ACQUIRE_SECONDS,
        server_settings={
            **server_settings(name),
            **({} if waits else {"synchronous_commit": "off"}),
            **(settings or {}),
        },
        reset=_leave_as_it_is,
        init=begin,
    )


class Claim:
    """The right to be the database's only exchange: two would take each other's markets in turns.

    It lasts as long as the session that took it, so a restart of the server ends it.
    """

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._session: Connection | None = None

    def __repr__(self) -> str:  # the address may hold a password
        return f"Claim(held={self._session is not None})"

    async def take(self) -> bool:
        """False: another exchange has it, or a session of ours that the server has not yet noticed to be gone."""
        await self.release()
        session = await asyncpg.connect(
            self._dsn,
            timeout=ACQUIRE_SECONDS,
            command_timeout=ACQUIRE_SECONDS,
            server_settings=server_settings("claim"),
        )
        if not await session.fetchval(CLAIM, CLAIM_KEY):
            await session.close(timeout=CLOSE_SECONDS)
            return False
        self._session = session
        return True

    async def is_held(self) -> bool:
        """Does the session still live? A server that does not answer in time counts as lost."""
        if self._session is None or self._session.is_closed():
            return False
        try:
            await self._session.fetchval("/* postgres.claim_held */ SELECT 1")
        except _LOST:
            self._session.terminate()
            return False
        return True

    async def release(self) -> None:
        """Let another exchange have the database."""
        session, self._session = self._session, None
        if session is not None:
            with contextlib.suppress(*_LOST):
                await session.close(timeout=CLOSE_SECONDS)  # what cannot be said any more, the server sees by itself


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
