"""A pool whose connection dies at a chosen step of a transaction, as when the process or the server is killed there."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import asyncpg

_NEVER: Final = 10**6
STATEMENTS: Final = frozenset({"execute", "fetch", "fetchval", "fetchrow", "copy_records_to_table"})


class Died(Exception):
    """The caller does not know what happened."""


class DyingPool:
    """at: the connection is cut before this statement, counted from 1; beyond the last one, before the commit.

    answer_lost: everything is done, and the caller never hears of it.
    """

    def __init__(self, pool: Any, at: int, *, answer_lost: bool = False) -> None:
        self._pool, self._at, self._answer_lost = pool, at, answer_lost

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator["DyingConnection"]:
        async with self._pool.acquire() as connection:
            yield DyingConnection(connection, _NEVER if self._answer_lost else self._at)
        if self._answer_lost:
            raise Died


class DyingConnection:
    def __init__(self, connection: Any, at: int) -> None:
        self._connection, self._left = connection, at

    def __getattr__(self, name: str) -> Any:
        if name in STATEMENTS:
            self._left -= 1
            if self._left == 0:
                self._connection.terminate()
                raise Died
        return getattr(self._connection, name)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        try:
            async with self._connection.transaction():
                yield
                if 0 < self._left < _NEVER // 2:
                    self._connection.terminate()
                    raise Died
        except asyncpg.InterfaceError as error:  # the transaction cannot even be rolled back by us
            raise Died from error
