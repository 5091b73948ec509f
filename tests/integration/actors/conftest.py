"""One exchange in this process per test."""

from collections.abc import AsyncIterator

import asyncpg
import pytest_asyncio

from tests.support.exchange import Exchange, running


@pytest_asyncio.fixture
async def exchange(database: str, pool: "asyncpg.Pool[asyncpg.Record]") -> AsyncIterator[Exchange]:
    async with running(database, pool) as started:
        yield started
