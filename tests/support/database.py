"""Pytest fixtures: one private Postgres and Valkey per test run, one fresh migrated database per test.

A fresh database is a copy of a migrated template: some 30 ms. Import the fixtures into a conftest.py to use them.
"""

import asyncio
import itertools
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import quote

import asyncpg
import pytest
import pytest_asyncio
import redis

from persistence import migrate
from persistence.embedded import USER, EmbeddedPostgres, EmbeddedValkey
from persistence.postgres import open_pool

_numbers = itertools.count(1)


def dsn_of(server_dsn: str, database: str) -> str:
    """The DSN of another database of the same server."""
    return server_dsn.replace(f"@/{USER}?", f"@/{quote(database)}?")


@pytest.fixture(scope="session")
def server_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="wb-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o711)  # the servers run as another user when root runs the tests
        yield Path(folder)


@pytest.fixture(scope="session")
def postgres_dsn(server_folder: Path) -> Iterator[str]:
    """DSN of a server's own, empty database."""
    with EmbeddedPostgres(server_folder) as server:
        yield server.address


@pytest.fixture(scope="session")
def valkey_server(server_folder: Path) -> Iterator[str]:
    with EmbeddedValkey(server_folder) as server:
        yield server.address


@pytest.fixture
def redis_url(valkey_server: str) -> str:
    """URL of an empty Valkey."""
    with redis.Redis.from_url(valkey_server) as client:
        client.flushall()
    return valkey_server


@pytest.fixture(scope="session")
def migrated_template(postgres_dsn: str) -> str:
    asyncio.run(_create(postgres_dsn, "template_wattbook", "template0"))
    asyncio.run(migrate.up(dsn_of(postgres_dsn, "template_wattbook")))
    return "template_wattbook"


@pytest_asyncio.fixture
async def database(postgres_dsn: str, migrated_template: str) -> AsyncIterator[str]:
    """DSN of a fresh database with every migration applied."""
    name = f"test_{next(_numbers)}"
    await _create(postgres_dsn, name, migrated_template)
    yield dsn_of(postgres_dsn, name)
    await _drop(postgres_dsn, name)


@pytest_asyncio.fixture
async def empty_database(postgres_dsn: str) -> AsyncIterator[str]:
    """DSN of a fresh database without any table."""
    name = f"test_{next(_numbers)}"
    await _create(postgres_dsn, name, "template0")
    yield dsn_of(postgres_dsn, name)
    await _drop(postgres_dsn, name)


@pytest_asyncio.fixture
async def pool(database: str) -> AsyncIterator[asyncpg.Pool]:
    """A pool on the fresh database."""
    opened = await open_pool(database)
    yield opened
    await opened.close()


async def _create(server_dsn: str, name: str, template: str) -> None:
    connection = await asyncpg.connect(server_dsn)
    await connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
    await connection.close()


async def _drop(server_dsn: str, name: str) -> None:
    connection = await asyncpg.connect(server_dsn)
    await connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
    await connection.close()
